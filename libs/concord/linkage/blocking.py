"""Candidate pairs: records that share a blocking key, compared where they meet.

Nothing pair-sized is shuffled. Records travel as blobs to the partitions of their keys; there the
pairs of each key are made, compared and scored, and what is hopeless is counted and dropped. Rules
with a part in common share a placement, so a record travels once for them all. A pair of rows
belongs to the first rule that makes it, and there to the least of the keys that both have, so it
is made once, though records meet by several. Which
keys records have, and which are too large, is in `keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from concord.linkage import files, spread
from concord.linkage.arrays import grouped, in_order
from concord.linkage.blobs import (
    CUT,
    ID,
    Packed,
    arrived,
    blobs_of,
    gathered,
    opened,
    read,
    written,
)
from concord.linkage.compare import Comparison, patterns, space
from concord.linkage.keys import Effective, Refused, Rule, among_sorted, effective_keys, keys_of
from concord.linkage.patterns import Floats, Integers, Weights
from concord.linkage.spread import Rows
from concord.linkage.standardise import SEPARATOR
from concord.linkage.values import Common, Flags, Hashes, PairedRows, Part, Records, hashed

# Pairs that are made and compared at a time, to bound memory.
CHUNK = 1_000_000
# Rows that are encoded together: the more, the fewer dictionaries; the fewer, the less memory.
TOGETHER = 1_000_000
# Patterns up to here are counted in an array of all that there can be.
DENSE = 1 << 23
# A part whose commonest value has more records than a partition should hold is none to place by.
# Up to there one partition may have twice its share, or more if two such values meet in it; to send
# all records once more takes longer than to wait for it.
UNEVEN = 1.0

ENCODED = "records bigint, tops array<bigint>, sample binary, blob binary"
# Rows of each blob that are told for random pairs.
SAMPLED = 50_000
FOUND = "rule int, counts binary, pairs binary"


@dataclass(frozen=True)
class Placement:
    """Rules that records travel for together: by a hash of parts that all of them have."""

    parts: tuple[str, ...]
    rules: tuple[int, ...]


@dataclass(frozen=True)
class Anew:
    """Which pairs are wanted: those with one of these records, by `ids` (distinct).

    `keys`: number of a rule -> the keys, as they are used, that these records' rows have; sorted.
    """

    ids: pa.Array
    keys: Mapping[int, Hashes]

    def concerns(self, rule: int, keys: Hashes) -> Flags:
        """Which keys of a rule are shared with one of the records."""
        return among_sorted(keys, self.keys[rule])


@dataclass(frozen=True)
class Matching:
    """How pairs are made and judged: all that a worker needs to know.

    Pairs whose levels add up to `keep` bits are kept; those that never link, from `conflict` on.
    Without comparisons pairs are made and counted, not compared. `anew`: None: all pairs.
    """

    rules: tuple[Rule, ...]
    comparisons: tuple[Comparison, ...]
    weights: Weights
    keep: float
    conflict: float
    common: Mapping[str, Common] = field(default_factory=dict)
    refused: Refused = Refused()
    anew: Anew | None = None

    @cached_property
    def table(self) -> tuple[Floats, Flags] | None:
        """Of each pattern that there can be the sum of its levels, and whether it is kept."""
        size = int(np.prod(np.array(space(self.comparisons).widths, dtype=float)))
        if size > DENSE:
            return None
        return self._worth(*self.weights.every())

    def worth(self, found: Integers) -> Flags:
        """Which patterns' pairs are kept."""
        if self.table is not None:
            return self.table[1][found]
        return self._worth(self.weights.summed(found), self.weights.refuses(found))[1]

    def _worth(self, total: Floats, refused: Flags) -> tuple[Floats, Flags]:
        return total, np.asarray(total >= np.where(refused, self.conflict, self.keep))


# --- encoding -------------------------------------------------------------------------------------


Choice: TypeAlias = Callable[[pa.Table], Flags]


def encoded(
    records: Rows,
    *,
    id: str,
    columns: Sequence[str],
    parts: Sequence[str],
    choose: Choice | None = None,
    sampled: int = SAMPLED,
) -> Rows:
    """Records -> ENCODED: blobs of their ids and columns, as texts; of lists, as `_joined` writes
    them.

    `tops`: for each of `parts` how many of a blob's records have its commonest value. `sample`: a
    blob of at most `sampled` of its rows, NULL for 0. A row of `records` is a row to compare; rows
    with one id are variants of one record. `choose`: of some rows (ID and columns) those that are
    taken; None: all. Where they are read several times, to be persisted.
    """
    columns, parts = tuple(columns), tuple(parts)

    def encode(table: pa.Table) -> pa.RecordBatch:
        named = {name: _text(table[name]) for name in columns}
        whole = pa.table({ID: table[id if id in table.column_names else ID], **named})
        return _encoded(whole, parts, choose, sampled)

    if isinstance(records, pa.Table):
        return pa.Table.from_batches([encode(records)])
    found = files.pieces(records, (id, *columns))
    if found is not None:

        def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for piece in files.of_rows(batches):
                yield encode(files.read(piece, (id,), columns))

        return files.scheduled(records, found).mapInArrow(read, ENCODED)

    lists = {each.name for each in records.schema.fields if isinstance(each.dataType, ArrayType)}
    texts = records.select(
        F.col(id).alias(ID),
        *[
            (_joined(name) if name in lists else F.col(name).cast("string")).alias(name)
            for name in columns
        ],
    )

    def gather(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in gathered(batches, TOGETHER):
            yield encode(table)

    return texts.mapInArrow(gather, ENCODED)


def _joined(name: str) -> Column:
    """A list as one text: its values, each once and in order, so that equal sets are equal; NULL
    where it has none that says something."""
    said = F.filter(F.col(name).cast("array<string>"), lambda one: one != "")
    whole = F.array_join(F.array_sort(F.array_distinct(said)), SEPARATOR)
    return F.nullif(whole, F.lit(""))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    known = pa.types.is_dictionary(column.type) or pa.types.is_string(column.type)
    return column if known else column.cast(pa.string())


def _encoded(
    table: pa.Table, parts: Sequence[str], choose: Choice | None, sampled: int
) -> pa.RecordBatch:
    """A row of ENCODED from a table of ID and texts."""
    packed = Packed.of(table)
    records = Records(_table(packed))
    rows = None if choose is None else np.flatnonzero(choose(records.rows))
    tops = []
    for part in parts:
        codes = records.values(part).codes
        codes = codes if rows is None else codes[rows]
        tops.append(int(np.bincount(codes[codes >= 0]).max(initial=0)))
    sample = packed.blob(_sample(packed.ids, rows, sampled)) if sampled else None
    return pa.record_batch(
        {
            "records": pa.array([len(packed.ids) if rows is None else len(rows)], pa.int64()),
            "tops": pa.array([tops], pa.list_(pa.int64())),
            "sample": pa.array([sample], pa.binary()),
            "blob": pa.array([packed.blob(rows)], pa.binary()),
        }
    )


def _sample(ids: pa.Array, rows: Integers | None, most: int) -> Integers:
    """Rows with the smallest hashes of their ids: of the same records the same ones each time."""
    rows = np.arange(len(ids)) if rows is None else rows
    order = np.argsort(hashed(ids.take(pa.array(rows)).cast(pa.string())), kind="stable")
    return np.sort(rows[order[:most]])


def _table(packed: Packed) -> pa.Table:
    arrays = {name: pa.DictionaryArray.from_arrays(
        pa.array(values.codes, pa.int32(), mask=values.codes < 0), values.distinct
    ) for name, values in packed.columns}  # fmt: skip
    return pa.table({ID: packed.ids, **arrays})


# --- placements -----------------------------------------------------------------------------------


def placements(
    rules: Sequence[Rule], top_shares: Mapping[str, float], shares: int
) -> list[Placement]:
    """Rules grouped by parts that all of them determine, as few groups as a greedy choice finds.

    Who agrees on a column agrees on every transform of it. `top_shares`: part -> the share of
    records with its commonest value, at most. Records are not placed by parts of which one value
    has more than UNEVEN times the records that a partition should hold. By lists records are placed
    for one rule alone.
    """
    most = UNEVEN / shares if shares > 2 else 1.0
    parts = [
        part
        for part in dict.fromkeys(part for rule in rules for part in rule.on)
        if not Part.of(part).lists
    ]
    determined = [{part for part in parts if _determines(rule, part)} for rule in rules]

    def shared(group: Sequence[int]) -> tuple[str, ...]:
        """The parts that all of them determine, if records may be placed by them."""
        common = set.intersection(*(determined[number] for number in group))
        # What follows from another part adds nothing.
        bare = [p for p in parts if p in common and not any(_follows(p, q) for q in common - {p})]
        top = min((top_shares.get(part, 0.0) for part in bare), default=1.0)
        return tuple(bare) if bare and top <= most else ()

    waiting, found = list(range(len(rules))), []
    while waiting:
        groups = []
        for first in waiting:
            group = [first]
            for other in waiting:
                if other != first and shared([*group, other]):
                    group.append(other)
            groups.append(sorted(group))
        best = max(groups, key=len)
        on = shared(best) if len(best) > 1 else rules[best[0]].on
        found.append(Placement(on, tuple(best)))
        waiting = [number for number in waiting if number not in best]
    return found


def _determines(rule: Rule, part: str) -> bool:
    return part in rule.on or any(_follows(part, other) for other in rule.on)


def _follows(part: str, other: str) -> bool:
    """Whether a part is the same for all that agree on another one: a column's transform."""
    return Part.of(part).transform is not None and Part.of(part).column == other


# --- pairs ----------------------------------------------------------------------------------------


def candidates(
    blobs: Rows, matching: Matching, placed: Sequence[Placement], *, shares: int
) -> Rows:
    """ENCODED -> FOUND: pairs worth keeping, and counts, as blobs.

    `pairs`: a blob of `left`, `right` (ids, left < right) and `pattern`, a row for each pair of
    rows: of records with variants there are several. `counts`: a blob of `pattern` (NULL without
    comparisons) and `pairs`: how many of all pairs that the rule made have it. One of them is NULL.
    """
    placed = tuple(placed)

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            yield from _sent(opened([blob]), matching, placed, shares)

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for target, some in arrived(batches):
            rows = opened(some)
            placement, here = placed[target // shares], (target % shares, shares)
            for rule, counts, pairs in find_pairs(rows, matching, placement, here):
                yield pa.record_batch(
                    {
                        "rule": pa.array([rule], pa.int32()),
                        "counts": _maybe(counts),
                        "pairs": _maybe(pairs),
                    }
                )

    sent = spread.mapped(blobs.select(["blob"]), send, CUT)
    met = spread.meeting(sent, shares * len(placed) if shares > 1 else 1)
    return spread.mapped(met, find, FOUND)


def _maybe(table: pa.Table | None) -> pa.Array:
    return pa.array([None if table is None else written(table)], pa.binary())


def pairs_of(found: DataFrame, id_type: str) -> DataFrame:
    """FOUND -> a row for each pair of rows: left, right, pattern, rule (its number)."""
    return _rows_of(found, "pairs", f"left {id_type}, right {id_type}, pattern bigint, rule int")


def counts_of(found: Rows) -> pa.Table:
    """FOUND -> rule (its number), pattern, pairs: all pairs of rows that were compared; sorted, on
    the driver."""
    none = pa.schema({"rule": pa.int32(), "pattern": pa.int64(), "pairs": pa.int64()})
    each = [none.empty_table()]
    for row in blobs_in(found, "counts").to_pylist():
        counts = read(row["counts"])
        rules = pa.array(np.full(counts.num_rows, row["rule"]), pa.int32())
        each.append(counts.add_column(0, "rule", rules))
    by = pa.concat_tables(each).group_by(["rule", "pattern"], use_threads=False)
    whole = by.aggregate([("pairs", "sum")]).rename_columns(none.names)
    return whole.sort_by([("rule", "ascending"), ("pattern", "ascending")])


def blobs_in(found: Rows, column: str) -> pa.Table:
    """FOUND -> rule and a column of blobs, where there are some, on the driver."""
    if isinstance(found, pa.Table):
        return found.filter(pc.is_valid(found[column])).select(["rule", column])
    return found.where(F.col(column).isNotNull()).select("rule", column).toArrow()


def _rows_of(found: DataFrame, blobs: str, schema: str) -> DataFrame:
    """The rows of a column of blobs, each with its rule."""

    def expand(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for rule, blob in zip(batch["rule"].to_pylist(), batch[blobs], strict=True):
                rows = read(blob.as_buffer())
                rules = pa.array(np.full(rows.num_rows, rule), pa.int32())
                yield from rows.append_column("rule", rules).to_batches()

    return found.where(F.col(blobs).isNotNull()).select("rule", blobs).mapInArrow(expand, schema)


def edges_of(found: DataFrame, weights: Weights, prior_bits: float, least: float) -> pa.Table:
    """FOUND -> left, right, weight (bits of the odds) of all pairs of rows that weigh `least` or
    more, on the driver."""

    def weigh(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for blob in batch["pairs"]:
                pairs = read(blob.as_buffer())
                weight = weights.of(pairs["pattern"].to_numpy()) + prior_bits
                some = np.flatnonzero(weight >= least)
                edges = pairs.select(["left", "right"]).take(pa.array(some))
                edges = edges.append_column("weight", pa.array(weight[some]))
                yield pa.record_batch({"edges": pa.array([written(edges)], pa.binary())})

    kept = found.where("pairs IS NOT NULL").select("pairs")
    told = kept.mapInArrow(weigh, "edges binary").toArrow()["edges"]
    return pa.concat_tables([read(blob.as_buffer()) for blob in told])


def _sent(
    rows: pa.Table, matching: Matching, placed: Sequence[Placement], shares: int
) -> Iterator[pa.RecordBatch]:
    """A blob's records, for each placement those with a key there, by the partition they go to."""
    packed, records = Packed.of(rows), Records(rows)
    for number, placement in enumerate(placed):
        by = records.exploded(placement.parts)
        needed = np.zeros(by.size, dtype=bool)
        for rule in placement.rules:
            of = effective_keys(records, matching.rules, rule, matching.refused)
            known = of.known
            if matching.anew is not None:
                known = known & matching.anew.concerns(rule, of.keys)
            # Who is placed by lists is placed for one rule, by all that makes its keys.
            needed[known if by is not records else of.rows[known]] = True
        where = np.flatnonzero(needed)
        share = _shares(by, placement, shares)[where]
        order = np.argsort(share, kind="stable")
        edges = np.searchsorted(share[order], np.arange(shares + 1))
        for target in range(shares):
            mine = by.origin[where[order[edges[target] : edges[target + 1]]]]
            if by is not records:  # by a list a record is there several times
                mine = in_order(mine)
            if len(mine):
                yield pa.record_batch(
                    {
                        "target": pa.array([number * shares + target], pa.int32()),
                        "blob": pa.array([packed.blob(mine)], pa.binary()),
                    }
                )


def _shares(records: Records, placement: Placement, shares: int) -> Integers:
    """Which share of a placement each row is for."""
    keys = keys_of(records, placement.parts)[0]
    return np.asarray(keys % np.uint64(shares), dtype=np.int64)


Told = tuple[int, pa.Table | None, pa.Table | None]


def find_pairs(
    rows: pa.Table, matching: Matching, placement: Placement, here: tuple[int, int]
) -> Iterator[Told]:
    """The pairs that the placed rules make among rows that met. Pure.

    `here`: where they met: which share of how many. Yields a rule's number with counts (pattern,
    pairs) or pairs (left, right, pattern).
    """
    records = Records(rows, matching.common)
    ids = rows[ID].combine_chunks()
    ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) and ids.num_chunks else ids
    who, several = _whose(ids)
    every = [
        effective_keys(records, matching.rules, number, matching.refused)
        for number in range(max(placement.rules) + 1)
    ]
    by = records.exploded(placement.parts)
    wanted: Flags | None = None
    if matching.anew is not None:
        wanted = pc.is_in(ids, value_set=matching.anew.ids).to_numpy(zero_copy_only=False)
    for rule in sorted(placement.rules):
        of = every[rule]
        counts = Counts(matching)
        some = of.known
        if matching.anew is not None:
            some = some & matching.anew.concerns(rule, of.keys)
        if by is not records:  # Rows are here for some of their keys, and elsewhere for others.
            some = some & (_shares(by, placement, here[1]) == here[0])
        for one, other in blocks(np.flatnonzero(some), of.keys):
            key = of.keys[one] if of.lists else None
            if of.lists:
                one, other = of.rows[one], of.rows[other]
            pairs = PairedRows(records, one, other)
            mine = ~_made_before(every[:rule], pairs)
            if several:
                mine &= who[pairs.left] != who[pairs.right]
            if of.lists:
                mine &= ~of.shared(pairs, below=key)
            if wanted is not None:
                mine &= wanted[pairs.left] | wanted[pairs.right]
            pairs = pairs.some(np.flatnonzero(mine))
            if not matching.comparisons:
                counts.made += len(pairs)
                continue
            found = patterns(matching.comparisons, pairs)
            counts.add(found)
            kept = np.flatnonzero(matching.worth(found))
            if len(kept):
                yield rule, None, _pairs(ids, pairs.some(kept), found[kept])
        yield rule, counts.table(), None


def blocks(rows: Integers, keys: Hashes) -> Iterator[tuple[Integers, Integers]]:
    """All pairs of `rows` with equal keys, in chunks. `keys` is by row number."""
    rows, mine = grouped(rows, keys[rows])
    # Positions whose neighbour at the present distance has the same key.
    at = np.flatnonzero(mine[:-1] == mine[1:])
    lefts: list[Integers] = []
    rights: list[Integers] = []
    waiting, distance = 0, 1
    while len(at):
        for begin in range(0, len(at), CHUNK):
            some = at[begin : begin + CHUNK]
            lefts.append(rows[some])
            rights.append(rows[some + distance])
            waiting += len(some)
            if waiting >= CHUNK:
                yield np.concatenate(lefts), np.concatenate(rights)
                lefts, rights, waiting = [], [], 0
        distance += 1
        at = at[at + distance < len(mine)]
        at = at[mine[at] == mine[at + distance]]
    if waiting:
        yield np.concatenate(lefts), np.concatenate(rights)


def _whose(ids: pa.Array) -> tuple[Integers, bool]:
    """A number for each row's record, and whether a record has several rows."""
    if pa.types.is_integer(ids.type):
        who = ids.to_numpy(zero_copy_only=False)
        return who, len(in_order(who)) < len(who)
    encoded = ids.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False), len(encoded.dictionary) < len(ids)


def _made_before(earlier: Sequence[Effective], pairs: PairedRows) -> Flags:
    before = np.zeros(len(pairs), dtype=bool)
    for of in earlier:
        if of.plain:
            before |= of.shared(pairs)
        else:
            rest = np.flatnonzero(~before)
            before[rest] = of.shared(pairs.some(rest))
    return before


class Counts:
    """How many pairs have each pattern, or how many were made where none is compared."""

    def __init__(self, matching: Matching) -> None:
        table = matching.table if matching.comparisons else None
        self.dense: Integers | None = None if table is None else np.zeros(len(table[0]), np.int64)
        self.compared = bool(matching.comparisons)
        self.some: dict[int, int] = {}
        self.made = 0

    def add(self, found: Integers) -> None:
        if self.dense is not None:
            self.dense += np.bincount(found, minlength=len(self.dense))
        else:
            for pattern, n in zip(*np.unique(found, return_counts=True), strict=True):
                self.some[int(pattern)] = self.some.get(int(pattern), 0) + int(n)

    def table(self) -> pa.Table:
        """pattern, pairs."""
        if not self.compared:
            distinct, n = pa.nulls(1, pa.int64()), pa.array([self.made], pa.int64())
        elif self.dense is not None:
            seen = np.flatnonzero(self.dense)
            distinct, n = pa.array(seen, pa.int64()), pa.array(self.dense[seen], pa.int64())
        else:
            distinct = pa.array(list(self.some), pa.int64())
            n = pa.array(list(self.some.values()), pa.int64())
        return pa.table({"pattern": distinct, "pairs": n})


def _pairs(ids: pa.Array, pairs: PairedRows, found: Integers) -> pa.Table:
    one, other = ids.take(pa.array(pairs.left)), ids.take(pa.array(pairs.right))
    swap = pc.greater(one, other)
    return pa.table(
        {
            "left": pc.if_else(swap, other, one),
            "right": pc.if_else(swap, one, other),
            "pattern": pa.array(found, pa.int64()),
        }
    )
