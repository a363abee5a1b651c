"""Rows of the vault's identifiers -> rows of vault/linkage_records, by the workers; and what tells
which of them changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from concord.lake.workers import Made
from concord.linkage import files, placeholders, spread, standardise, tables
from concord.linkage.blobs import CUT, blobs_of, cut_by, read, together, written
from concord.linkage.keys import among_sorted
from concord.linkage.spread import Rows
from concord.linkage.standardise import SOURCES, Standards
from concord.linkage.values import Hashes, Values, hashes_of_rows
from concord.privacy.records import SEPARATOR

# Of a record id: half of its 128 bits. Two of 100 million records share them with a chance of 3 in
# 10,000; groups.facts, through which every run goes, refuses such two.
DIGITS = 16
LOW, ONES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
NINE, SIX = np.uint64(9), np.uint64(6)


def numbers(ids: pa.Array | pa.ChunkedArray) -> Hashes:
    """Record ids -> the numbers that their first DIGITS hex digits are; in the order of the ids."""
    flat = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if isinstance(flat, pa.ChunkedArray):  # no chunks at all
        return np.zeros(0, dtype=np.uint64)
    if isinstance(flat, pa.DictionaryArray):
        return numbers(flat.dictionary)[flat.indices.to_numpy()]
    if not len(flat):
        return np.zeros(0, dtype=np.uint64)
    texts = pc.utf8_slice_codeunits(flat, 0, DIGITS)
    _, _, data = texts.buffers()
    # Eight digits at a time, the first in the lowest byte: each byte becomes its digit, ...
    words = np.frombuffer(data, dtype="<u8")[: 2 * len(texts)]
    words = (words & LOW) + NINE * (words >> SIX & ONES)
    # ... two digits one byte, two bytes two of them, and so on, the first above the second.
    for bits, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0xFFFFFFFF)):
        first, second = np.uint64(bits), np.uint64(2 * bits)
        words = (words << first | words >> second) & np.uint64(mask)
    return words[::2] << np.uint64(32) | words[1::2]


def of_numbers(rows: pa.Table, some: Hashes) -> pa.Table:
    """The rows whose record's number is one of some, which are sorted."""
    return rows.filter(pa.array(among_sorted(numbers(rows["record_id"]), some)))


def forms(
    feeds: Sequence[tuple[str, DataFrame]],
    standards: Standards,
    partitions: int,
    *,
    some: Hashes | None = None,
) -> Rows:
    """Feeds and rows of their identifiers -> the persons' rows in comparable form, as blobs: as
    standardise.forms, with each record's digest. All rows of a record are in one blob. `some`:
    sorted numbers of the records that are wanted, of few on the driver; None: all."""

    def cut(feed: str) -> Callable[[pa.Table], Iterator[pa.RecordBatch]]:
        def work(table: pa.Table) -> Iterator[pa.RecordBatch]:
            table = table if some is None else of_numbers(table, some)
            table = pa.table({name: plain(table[name]) for name in table.column_names})
            persons = table.filter(pc.equal(table["kind"], "person")).drop_columns(["kind"])
            persons = persons.append_column("feed", pa.repeat(pa.scalar(feed), persons.num_rows))
            target = Values.of(persons["record_id"])
            yield from cut_by(persons, target.hashes[target.codes], partitions)

        return work

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in together(batches):
            made = _with_said(standardise.forms(rows, standards), rows)
            yield pa.record_batch({"blob": pa.array([written(made)], pa.binary())})

    columns = ("record_id", "kind", "role", *SOURCES)
    # Of few, texts are cheaper to read as they are encoded.
    texts = columns if some is None else ("record_id",)
    sent = files.mapped_each([(rows, cut(feed)) for feed, rows in feeds], columns, CUT, plain=texts)
    few = some is not None and len(some) < spread.HELD
    met = spread.here(sent) if few else spread.meeting(sent, partitions)
    return spread.mapped(met, make, "blob binary")


def standardised(made: DataFrame, found: pa.Table) -> Made:
    """`forms` -> rows of vault/linkage_records, of which no value is one of the placeholders
    `found`."""
    return Made(made, partial(_standardised, found))


def _standardised(found: pa.Table, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    for blob in blobs_of(batches):
        yield standardise.distinct(placeholders.without(read(blob), found))


def some_standardised(made: Rows, found: pa.Table) -> Rows:
    """As `standardised`, to be released; on the driver if they are."""
    if isinstance(made, DataFrame):
        return spread.kept(standardised(made, found).rows(tables.RECORDS))
    schema = tables.RECORDS.arrow_schema
    each = [
        rows.select(schema.names).cast(schema) for rows in _standardised(found, made.to_batches())
    ]
    return pa.concat_tables([schema.empty_table(), *each])


def replaced(before: DataFrame, fresh: Rows, changed: pa.Array) -> Made:
    """Rows of vault/linkage_records without those of the records `changed`, and `fresh` ones."""
    names = tables.RECORDS.column_names
    sent, tables_of = files.tables_of(before, names, plain=("record_id",))

    def still(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for rows in tables_of(batches):
            yield rows.filter(pc.invert(pc.is_in(rows["record_id"], value_set=changed)))

    more = Made(*files.tables_of(fresh, names)) if isinstance(fresh, DataFrame) else fresh
    return Made(sent, still, more)


def said(feeds: Sequence[DataFrame]) -> tuple[Hashes, Hashes]:
    """Rows of feeds' identifiers -> the numbers of their persons' records, sorted, and digests of
    all that their rows say."""

    def work(table: pa.Table) -> pa.Table:
        persons = table.filter(pc.equal(plain(table["kind"]), "person"))
        which, each = _distinct(numbers(persons["record_id"]), _digests(persons))
        return pa.table({"which": which, "said": each})

    columns = ("kind", "role", *SOURCES)
    each = files.collected_each([(rows, work) for rows in feeds], columns, plain=("record_id",))
    nobody = pa.schema({"which": pa.uint64(), "said": pa.uint64()}).empty_table()
    told = pa.concat_tables([nobody, *each])
    return _summed(*_distinct(told["which"].to_numpy(), told["said"].to_numpy()))


def _with_said(rows: pa.Table, sources: pa.Table) -> pa.Table:
    """Adds each record's digest."""
    ids = sources["record_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy().astype(np.uint64)
    _, each = _summed(*_distinct(codes, _digests(sources)))
    mine = each[pc.index_in(rows["record_id"], value_set=ids.dictionary).to_numpy()]
    return rows.append_column("said", pa.array(mine.view(np.int64)))


def _digests(rows: pa.Table) -> Hashes:
    """A hash of each row's role and SOURCES."""
    said = (as_text(rows[name]) for name in ("role", *SOURCES))
    return hashes_of_rows(said, rows.num_rows)


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
    order = np.argsort(which)
    if not np.all(np.diff(which[order]) > 0):  # mostly a record has one row
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
