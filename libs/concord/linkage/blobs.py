"""How records travel: many rows as one opaque blob of codes and small dictionaries.

A shuffle then moves bytes of columns instead of rows (three to five times less work: measured
with `make bench BENCH=linkage`). A blob is a batch in Arrow's stream format whose columns are
dictionary-encoded texts, and the records' ids. Pure; workers import this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from concord.linkage.values import Codes, Hashes, Integers, Values

ID = "id"


@dataclass(frozen=True)
class Packed:
    """Records as columns of codes: what a blob holds."""

    ids: pa.Array
    columns: tuple[tuple[str, Values], ...]

    @classmethod
    def of(cls, rows: pa.Table) -> Packed:
        """From a table of ID and texts, encoded or not."""
        whole = rows.combine_chunks()
        ids = _flat(whole[ID])
        named = [name for name in whole.column_names if name != ID]
        return cls(ids, tuple((name, Values.of(whole[name])) for name in named))

    def blob(self, rows: Integers | None = None) -> bytes:
        """The records, or some of them, with only the values that they have."""
        ids = self.ids if rows is None else self.ids.take(pa.array(rows))
        arrays = [ids]
        for _, values in self.columns:
            codes = values.codes if rows is None else values.codes[rows]
            arrays.append(_encoded(codes, values.distinct, narrow=rows is not None))
        batch = pa.record_batch(arrays, names=[ID, *(name for name, _ in self.columns)])
        return written(pa.Table.from_batches([batch]))


def written(table: pa.Table) -> bytes:
    """A table as a blob."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def read(blob: pa.Buffer | bytes) -> pa.Table:
    """The table that a blob holds."""
    return pa.ipc.open_stream(blob).read_all()


def opened(blobs: Sequence[pa.Buffer | bytes]) -> pa.Table:
    """The records of blobs together, each column with one dictionary."""
    tables = [_widened(read(blob)) for blob in blobs]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _widened(table: pa.Table) -> pa.Table:
    """Codes as 32-bit integers: blobs have what is enough for each."""
    for place, kind in enumerate(table.schema.types):
        if pa.types.is_dictionary(kind) and kind.index_type != pa.int32():
            column = table.column(place)
            wide = [
                pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary)
                for chunk in column.chunks
            ]
            whole = pa.chunked_array(wide, pa.dictionary(pa.int32(), kind.value_type))
            table = table.set_column(place, table.column_names[place], whole)
    return table


def blobs_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Buffer]:
    """The blobs of batches that have a column of them."""
    for batch in batches:
        for blob in batch["blob"]:
            yield blob.as_buffer()


CUT = "target int, blob binary"


def cut_by(rows: pa.Table, hashes: Hashes, targets: int) -> Iterator[pa.RecordBatch]:
    """Rows of CUT: the rows as blobs, by a hash of each."""
    target = (hashes % np.uint64(targets)).astype(np.int64)
    order = np.argsort(target, kind="stable")
    whole, begin = rows.take(pa.array(order)), 0
    for number, count in enumerate(np.bincount(target, minlength=targets).tolist()):
        if count:
            blob = written(whole.slice(begin, count))
            yield pa.record_batch(
                {"target": pa.array([number], pa.int32()), "blob": pa.array([blob], pa.binary())}
            )
        begin += count


def arrived(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, list[pa.Buffer]]]:
    """Of rows of CUT each target with its blobs, in order; they are let go as they are taken."""
    waiting: dict[int, list[pa.Buffer]] = {}
    for batch in batches:
        for target, blob in zip(batch["target"].to_pylist(), batch["blob"], strict=True):
            waiting.setdefault(target, []).append(blob.as_buffer())
    for target in sorted(waiting):
        yield target, waiting.pop(target)


def together(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of each target, of rows of CUT."""
    for _, blobs in arrived(batches):
        yield pa.concat_tables([read(blob) for blob in blobs])


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Batches put together to at least `rows` rows each, but for the last one."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.Table.from_batches(waiting)
            waiting, count = [], 0
    if count:
        yield pa.Table.from_batches(waiting)


def _encoded(codes: Codes, distinct: pa.Array, *, narrow: bool) -> pa.DictionaryArray:
    missing = codes < 0
    if narrow:
        used = np.zeros(len(distinct) + 1, dtype=bool)
        used[codes] = True  # -1: the entry at the end
        kept = np.flatnonzero(used[:-1])
        place = np.cumsum(used, dtype=np.int32) - 1
        codes, distinct = place[codes], distinct.take(pa.array(kept))
    if len(distinct) < 2**15:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int16), mask=missing), distinct
        )
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=missing), distinct)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    if not column.num_chunks:
        return pa.array([], column.type)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
