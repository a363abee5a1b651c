"""Rows of the vault's identifiers -> rows of vault/linkage_records, by the workers; and what tells
which of them changed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.linkage import files, tables
from concord.linkage.standardise import SOURCES, Standards, standardise
from concord.linkage.values import Hashes, Values, mixed
from concord.privacy.records import SEPARATOR

STANDARDISED = ", ".join(f"{column.name} {column.type}" for column in tables.RECORDS.columns)
# Of a record id: half of its 128 bits. Two of 100 million records share them with a chance of 3 in
# 10,000; groups.facts, through which every run goes, refuses such two.
DIGITS = 16
NIBBLES = np.zeros(256, dtype=np.uint64)
for _value, _sign in enumerate("0123456789abcdef"):
    NIBBLES[ord(_sign)] = _value
ABSENT = np.uint64(0x5A5A5A5A5A5A5A5A)


def numbers(ids: pa.Array | pa.ChunkedArray) -> Hashes:
    """Record ids -> the numbers that their first DIGITS hex digits are; in the order of the ids."""
    flat = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if isinstance(flat, pa.ChunkedArray):  # no chunks at all
        return np.zeros(0, dtype=np.uint64)
    if isinstance(flat, pa.DictionaryArray):
        return numbers(flat.dictionary)[flat.indices.to_numpy()]
    texts = pc.utf8_slice_codeunits(flat, 0, DIGITS)
    _, _, data = texts.buffers()
    if data is None:
        return np.zeros(0, dtype=np.uint64)
    whole = np.frombuffer(data, dtype=np.uint8)[: len(texts) * DIGITS].reshape(-1, DIGITS)
    found = np.zeros(len(texts), dtype=np.uint64)
    for place in range(DIGITS):
        found = (found << np.uint64(4)) | NIBBLES[whole[:, place]]
    return found


def prefixes(found: Hashes) -> pa.Array:
    """What `numbers` read, as text."""
    return pa.array([f"{number:0{DIGITS}x}" for number in found.tolist()], pa.string())


def prefix() -> Column:
    """Of a row with a record id, the same text."""
    return F.substring("record_id", 1, DIGITS)


def standardised(rows: DataFrame, standards: Standards, partitions: int) -> DataFrame:
    """Rows as `inputs.read` gives them -> rows of vault/linkage_records."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        arrived = list(batches)
        if arrived:
            each = pa.Table.from_batches(arrived)
            yield from _with_said(standardise(each, standards), each).to_batches()

    # A record's rows must be together; mapInArrow itself asks for no distribution.
    return rows.repartition(partitions, "record_id").mapInArrow(work, STANDARDISED)


def said(rows: DataFrame) -> tuple[Hashes, Hashes]:
    """Rows of a feed's identifiers -> the numbers of its persons' records, sorted, and digests of
    all that their rows say."""

    def work(table: pa.Table) -> pa.Table:
        persons = table.filter(pc.equal(plain(table["kind"]), "person"))
        which, each = _distinct(numbers(persons["record_id"]), _digests(persons))
        return pa.table({"which": which, "said": each})

    told = files.collected(rows, ("kind", "role", *SOURCES), work, plain=("record_id",))
    return _summed(*_distinct(told["which"].to_numpy(), told["said"].to_numpy()))


def _with_said(rows: pa.Table, sources: pa.Table) -> pa.Table:
    """Adds each record's digest, after `variant`."""
    ids = sources["record_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy().astype(np.uint64)
    _, each = _summed(*_distinct(codes, _digests(sources)))
    mine = each[pc.index_in(rows["record_id"], value_set=ids.dictionary).to_numpy()]
    place = rows.column_names.index("variant") + 1
    return rows.add_column(place, "said", pa.array(mine.view(np.int64)))


def _digests(rows: pa.Table) -> Hashes:
    """A 64-bit hash of each row's role and SOURCES; the same in every process."""
    found = np.zeros(rows.num_rows, dtype=np.uint64)
    for name in ("role", *SOURCES):
        values = Values.of(as_text(rows[name]))
        each = np.append(values.hashes, ABSENT)[values.codes]  # -1, of NULL: the last
        found = mixed(found ^ each)
    return found


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as texts, encoded or not; lists joined."""
    if pa.types.is_list(column.type):
        return pc.binary_join(column, SEPARATOR)
    return column if pa.types.is_dictionary(column.type) else column.cast(pa.string())


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts that may be encoded, as it is in itself."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _distinct(which: Hashes, said: Hashes) -> tuple[Hashes, Hashes]:
    """Each row once, sorted."""
    order = np.lexsort((said, which))
    which, said = which[order], said[order]
    new = np.ones(len(which), dtype=bool)
    new[1:] = (which[1:] != which[:-1]) | (said[1:] != said[:-1])
    return which[new], said[new]


def _summed(which: Hashes, said: Hashes) -> tuple[Hashes, Hashes]:
    """Of each record the sum of its distinct rows' digests. `which`: sorted."""
    starts = np.flatnonzero(np.concatenate([[True], which[1:] != which[:-1]])[: len(which)])
    with np.errstate(over="ignore"):
        total = np.add.reduceat(said, starts) if len(starts) else said
    return which[starts], total
