"""Blocking keys: what records must have in common, counted before any pair is made.

Keys with more pairs than the budget allows are refined by further parts, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from concord.linkage import spread
from concord.linkage.arrays import in_order
from concord.linkage.blobs import ID, blobs_of, opened, read, written
from concord.linkage.spread import Rows
from concord.linkage.values import (
    Flags,
    Hashes,
    Integers,
    PairedRows,
    Part,
    Records,
    count_within,
    mixed,
)


@dataclass(frozen=True)
class Rule:
    """A blocking rule: parts that two records must have in common, and parts to refine it by.

    Parts are columns or transforms of columns, as `values.Part.of` reads them. By a list in `on` a
    record has a key for each of its values. `voids`: what so many share, refined or not, that the
    budget keeps it out stands for `unknown`: who has such a key has none by another rule that reads
    one of its columns.
    """

    name: str
    on: tuple[str, ...]
    refine: tuple[str, ...] = ()
    voids: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.on, *self.refine)

    @property
    def columns(self) -> set[str]:
        """What `on` reads."""
        return {Part.of(part).column for part in self.on}


@dataclass(frozen=True)
class Sizes:
    """How many keys of a rule have how many rows: `keys[i]` keys have `size[i]` rows, sorted."""

    size: Integers
    keys: Integers

    @property
    def pairs(self) -> int:
        return int((self.keys * (self.size * (self.size - 1) // 2)).sum())


# Beginnings of hashes: for each hash so many powers of two of them, and no more than so many bits.
SPARSE, MOST_BITS = 4, 24
NO_HASHES: Hashes = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True)
class Refused:
    """What the pair budget kept out, by number of the rule.

    `keys[r]`: keys of rule `r` with more pairs than the budget allows, used refined or not at all;
    sorted. `dropped[r][i]`: pairs that were not made of `keys[r][i]`: all of them, or of a refined
    key those that the refinement parts. `refined[r]`: refined keys that have too many still,
    sorted; `above[r][i]`: the key that `refined[r][i]` refines.
    """

    keys: dict[int, Hashes] = field(default_factory=dict)
    dropped: dict[int, Integers] = field(default_factory=dict)
    refined: dict[int, Hashes] = field(default_factory=dict)
    above: dict[int, Hashes] = field(default_factory=dict)

    @property
    def pairs(self) -> dict[int, int]:
        """Pairs that were not made, by rule."""
        return {number: int(dropped.sum()) for number, dropped in self.dropped.items()}

    def of(self, number: int) -> tuple[Hashes, Integers, Hashes, Hashes]:
        """`keys`, `dropped`, `refined` and `above` of a rule; empty where it has no such key."""
        none = NO_HASHES.astype(np.int64)
        return (
            self.keys.get(number, NO_HASHES),
            self.dropped.get(number, none),
            self.refined.get(number, NO_HASHES),
            self.above.get(number, NO_HASHES),
        )

    def replaced(self, among: Mapping[int, Hashes], new: Refused) -> Refused:
        """What is said of the keys `among` (by rule, sorted) as `new` says it, the rest as here."""
        made = Refused({}, {}, {}, {})
        for number in sorted({*self.keys, *new.keys}):
            some = among.get(number, NO_HASHES)
            keys, dropped, refined, above = self.of(number)
            old, under = ~among_sorted(keys, some), ~among_sorted(above, some)
            parts = zip((keys[old], dropped[old], refined[under], above[under]), new.of(number),
                        strict=True)  # fmt: skip
            keys, dropped, refined, above = (np.concatenate(part) for part in parts)
            if len(keys):
                by_key, by_refined = np.argsort(keys), np.argsort(refined)
                made.keys[number], made.dropped[number] = keys[by_key], dropped[by_key]
                made.refined[number], made.above[number] = refined[by_refined], above[by_refined]
        return made

    def differing(self, other: Refused) -> dict[int, Hashes]:
        """The keys, by rule, that one of the two uses otherwise than the other; sorted."""
        found = {}
        for number in {*self.keys, *other.keys}:
            keys, _, refined, above = self.of(number)
            other_keys, _, other_refined, other_above = other.of(number)
            mine = {*zip(above.tolist(), refined.tolist(), strict=True)}
            theirs = {*zip(other_above.tolist(), other_refined.tolist(), strict=True)}
            parted = np.array([key for key, _ in mine ^ theirs], dtype=np.uint64)
            found[number] = np.union1d(np.setxor1d(keys, other_keys), parted)
        return {number: keys for number, keys in found.items() if len(keys)}


def keys_of(records: Records, parts: Sequence[str]) -> tuple[Hashes, Flags]:
    """Each record's key, a hash of the parts' values, and whether it has all of them.

    Of parts that are lists: of records that are exploded by them.
    """
    found, known = np.zeros(records.size, dtype=np.uint64), np.ones(records.size, dtype=bool)
    for part in parts:
        values = records.values(part)
        known &= values.codes >= 0
        if len(values.distinct):
            with np.errstate(over="ignore"):
                found = mixed(found + values.hashes[values.codes])
    return found, known


@dataclass(frozen=True)
class Effective:
    """Rows' keys by one rule: `keys[k]` is row `rows[k]`'s, if `known[k]`; of `size` rows.

    A row has one, in its place, unless the rule reads lists. `parts`: what it is made of, `plain`:
    and of nothing else, whoever has all of them having it: no list, nothing that the budget keeps
    out or refines.
    """

    rows: Integers
    keys: Hashes
    known: Flags
    size: int
    lists: bool
    parts: tuple[str, ...] = ()
    plain: bool = False

    def shared(self, pairs: PairedRows, below: Hashes | None = None) -> Flags:
        """Which pairs of rows have a key in common: one less than their `below`."""
        if self.plain and below is None:
            return np.logical_and.reduce([pairs.same(part) for part in self.parts])
        left, right = pairs.left, pairs.right
        if not self.lists:
            same = (self.keys[left] == self.keys[right]) & self.known[left] & self.known[right]
            return same if below is None else same & (self.keys[left] < below)
        keys, begins, marks = self._by_row
        counts, others = (begins[side + 1] - begins[side] for side in (left, right))
        found = np.zeros(len(left), dtype=bool)
        # Most rows have one, even of a list.
        one = np.flatnonzero((counts == 1) & (others == 1))
        mine = keys[begins[left[one]]]
        found[one] = mine == keys[begins[right[one]]]
        if below is not None:
            found[one] &= mine < below[one]
        some = np.flatnonzero((counts > 0) & (others > 0) & (counts + others > 2))
        pair = np.repeat(some, counts[some])
        mine = keys[np.repeat(begins[left[some]], counts[some]) + count_within(counts[some])]
        hit = among_sorted(_marked(right[pair], mine), marks)
        if below is not None:
            hit &= mine < below[pair]
        found[pair[hit]] = True
        return found

    @cached_property
    def _by_row(self) -> tuple[Hashes, Integers, Hashes]:
        """All keys, where each row's begin, and a sorted hash of each row with each of its keys."""
        rows, keys = self.rows[self.known], self.keys[self.known]
        begins = np.searchsorted(rows, np.arange(self.size + 1))
        return keys, begins, np.sort(_marked(rows, keys))


def _marked(rows: Integers, keys: Hashes) -> Hashes:
    return mixed(keys ^ mixed(rows.astype(np.uint64)))


def effective_keys(
    records: Records, rules: Sequence[Rule], number: int, refused: Refused
) -> Effective:
    """Keys by a rule after the budget. The same wherever a record travels, so that all agree on
    which rule makes a pair first, and by which of its keys."""
    found, _ = _within_budget(records, rules[number], number, refused)
    plain = not found.lists and number not in refused.keys
    for other, rule in enumerate(rules):
        voids = rule.voids and other != number and other in refused.keys
        if voids and rule.columns & rules[number].columns:
            _, out = _within_budget(records, rule, other, refused)
            found.known[out[found.rows]] = False
            plain = False
    return replace(found, parts=rules[number].on, plain=plain)


def _within_budget(
    records: Records, rule: Rule, number: int, refused: Refused
) -> tuple[Effective, Flags]:
    """A rule's keys, and the rows that have one which the budget keeps out, refined or not."""
    plain, records = records, records.exploded(rule.on)
    keys, known = keys_of(records, rule.on)
    out = np.zeros(plain.size, dtype=bool)
    large = refused.keys.get(number)
    if large is not None and len(large):
        hit = known & among_sorted(keys, large)
        known[hit] = False
        if rule.refine and hit.any():
            narrow, have = keys_of(records, rule.parts)
            still = refused.refined.get(number, np.zeros(0, dtype=np.uint64))
            used = hit & have & ~among_sorted(narrow, still)
            keys[used], known[used] = narrow[used], True
        out[records.origin[hit & ~known]] = True
    return Effective(records.origin, keys, known, plain.size, records is not plain), out


def among_sorted(keys: Hashes, some: Hashes) -> Flags:
    """Which keys are among some others, which are sorted."""
    found = np.zeros(len(keys), dtype=bool)
    if not len(some):
        return found
    # Of hashes hardly one that is not among them begins as one that is.
    shift = np.uint64(64 - min(len(some).bit_length() + SPARSE, MOST_BITS))
    begun = np.zeros(1 << (64 - int(shift)), dtype=bool)
    begun[(some >> shift).astype(np.int64)] = True
    likely = np.flatnonzero(begun[(keys >> shift).astype(np.int64)])
    sought = keys[likely]
    place = np.minimum(np.searchsorted(some, sought), len(some) - 1)
    found[likely] = some[place] == sought
    return found


def largest_block(budget: int) -> int:
    """The most records that make at most `budget` pairs among them."""
    return int((1 + (1 + 8 * budget) ** 0.5) // 2)


@dataclass(frozen=True)
class Counted:
    """What counting says of one kind of key: how many keys are of each size, and the large ones
    (sorted) with their sizes."""

    sizes: Sizes
    large: Hashes
    large_sizes: Integers


def counted(
    blobs: Rows,
    kinds: Sequence[tuple[Sequence[str], int]],
    *,
    shares: int,
    within: Mapping[int, Hashes] | None = None,
) -> list[Counted]:
    """Counts all keys exactly. `kinds`: parts that make a key, and above how many rows it is large;
    `within`: number of a kind -> the keys of it that are counted, sorted; of others all are.

    One Spark job; what travels is eight bytes a key.
    """
    some = dict(within or {})
    parts = tuple(tuple(each) for each, _ in kinds)
    limits = tuple(limit for _, limit in kinds)

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        edges = (np.arange(1, shares, dtype=np.float64) * (2.0**64 / shares)).astype(np.uint64)
        for blob in blobs_of(batches):
            records = Records(opened([blob]))
            for kind, on in enumerate(parts):
                keys, known = keys_of(records.exploded(on), on)
                keys = keys[known]
                if kind in some:
                    keys = keys[among_sorted(keys, some[kind])]
                keys = np.sort(keys)
                split = np.split(keys, np.searchsorted(keys, edges))
                yield pa.record_batch(
                    {
                        "share": pa.array(range(shares), pa.int32()),
                        "kind": pa.array([kind] * shares, pa.int32()),
                        "keys": pa.array([each.tobytes() for each in split], pa.binary()),
                    }
                )

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        arrived: dict[int, list[bytes]] = {}
        for batch in batches:
            for kind, some in zip(
                batch["kind"].to_pylist(), batch["keys"].to_pylist(), strict=True
            ):
                arrived.setdefault(kind, []).append(some)
        for kind, each in sorted(arrived.items()):
            keys = np.sort(np.frombuffer(b"".join(each), dtype=np.uint64))
            if not len(keys):
                continue
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            size = np.diff(np.append(starts, len(keys)))
            histogram = np.bincount(size)
            distinct = np.flatnonzero(histogram)
            large = size > limits[kind]
            yield pa.record_batch(
                {
                    "kind": pa.array([kind], pa.int32()),
                    "size": pa.array([distinct], pa.list_(pa.int64())),
                    "keys": pa.array([histogram[distinct]], pa.list_(pa.int64())),
                    "large": pa.array([keys[starts[large]].tobytes()], pa.binary()),
                    "large_size": pa.array([size[large]], pa.list_(pa.int64())),
                }
            )

    sent = spread.mapped(blobs.select(["blob"]), send, "share int, kind int, keys binary")
    schema = "kind int, size array<bigint>, keys array<bigint>, large binary, "
    schema += "large_size array<bigint>"
    met = spread.meeting(sent, shares, "share")
    told = spread.here(spread.mapped(met, count, schema)).to_pylist()
    return [
        _together([row for row in told if row["kind"] == number]) for number in range(len(kinds))
    ]


def _together(rows: Sequence[Mapping[str, Any]]) -> Counted:
    """What the partitions say of one kind of key."""
    size = np.array([one for row in rows for one in row["size"]], dtype=np.int64)
    keys = np.array([one for row in rows for one in row["keys"]], dtype=np.int64)
    distinct, place = np.unique(size, return_inverse=True)
    whole = np.bincount(place, keys, minlength=len(distinct)).astype(np.int64)
    large = np.frombuffer(b"".join(row["large"] for row in rows), dtype=np.uint64)
    large_size = np.array([one for row in rows for one in row["large_size"]], dtype=np.int64)
    order = np.argsort(large)
    return Counted(Sizes(distinct, whole), large[order], large_size[order])


def refused(
    blobs: Rows, rules: Sequence[Rule], large: Mapping[int, Hashes], *, limit: int
) -> Refused:
    """Parts the keys that are too large by their rules' refinements. One Spark job if there are
    any; what is collected are counts of refined keys, by blob."""
    if not large:
        return Refused()
    rules = tuple(rules)

    def part(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            whole = Records(opened([blob]))
            for number, over in large.items():
                rule = rules[number]
                records = whole.exploded(rule.on)
                keys, known = keys_of(records, rule.on)
                hit = np.flatnonzero(known & among_sorted(keys, over))
                narrow, have = keys_of(records, rule.parts)
                # A key that cannot be refined counts by itself: as a refined key that is NULL.
                have = have[hit] & bool(rule.refine)
                pairs = np.stack([keys[hit], np.where(have, narrow[hit], 0), have], axis=1)
                distinct, n = np.unique(pairs, axis=0, return_counts=True)
                yield pa.record_batch(
                    {
                        "rule": pa.array(np.full(len(n), number), pa.int32()),
                        "key": pa.array(distinct[:, 0].view(np.int64)),
                        "refined": pa.array(
                            distinct[:, 1].view(np.int64), mask=distinct[:, 2] == 0
                        ),
                        "n": pa.array(n.astype(np.int64)),
                    }
                )

    schema = "rule int, key bigint, refined bigint, n bigint"
    told = spread.here(spread.mapped(blobs.select(["blob"]), part, schema))
    parted = told.group_by(["rule", "key", "refined"]).aggregate([("n", "sum")])
    parted = parted.rename_columns(["rule", "key", "refined", "n"])
    dropped: dict[int, Integers] = {}
    refined: dict[int, Hashes] = {}
    above: dict[int, Hashes] = {}
    for number, keys in large.items():
        mine = parted.filter(pc.equal(parted["rule"], number)).combine_chunks()
        n = mine["n"].to_numpy()
        has = np.asarray(mine["refined"].is_valid().to_numpy(), dtype=bool)
        used = has & (n <= limit)
        of = mine["key"].to_numpy().view(np.uint64)
        place = np.searchsorted(keys, of)
        whole = np.bincount(place, n, minlength=len(keys)).astype(np.int64)
        made = np.bincount(place[used], (n * (n - 1) // 2)[used], minlength=len(keys))
        dropped[number] = whole * (whole - 1) // 2 - made.astype(np.int64)
        still = mine["refined"].filter(pa.array(has & ~used)).to_numpy().astype(np.int64)
        order = np.argsort(still.view(np.uint64))
        refined[number], above[number] = still.view(np.uint64)[order], of[has & ~used][order]
    return Refused(dict(large), dropped, refined, above)


def keys_had(
    blobs: Rows,
    rules: Sequence[Rule],
    *,
    used: Refused | None = None,
    ids: pa.Array | None = None,
) -> dict[int, Hashes]:
    """The keys that rows have, by number of the rule, sorted; of rows with `ids` if they are given.

    As the rules say, or, with what the budget keeps out, as they are `used`. One Spark job.
    """
    rules = tuple(rules)

    def tell(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            rows = opened([blob])
            records = Records(rows)
            mine: Flags = np.ones(rows.num_rows, dtype=bool)
            if ids is not None:
                mine = pc.is_in(rows[ID], value_set=ids).to_numpy(zero_copy_only=False)
            if not mine.any():
                continue
            for number in range(len(rules)):
                of = effective_keys(records, rules, number, used or Refused())
                some = in_order(of.keys[of.known & mine[of.rows]])
                yield pa.record_batch(
                    {
                        "rule": pa.array([number], pa.int32()),
                        "keys": pa.array([some.tobytes()], pa.binary()),
                    }
                )

    told = spread.mapped(blobs.select(["blob"]), tell, "rule int, keys binary")
    each = spread.here(told).to_pylist()
    return {
        number: in_order(
            np.frombuffer(
                b"".join(row["keys"] for row in each if row["rule"] == number), dtype=np.uint64
            )
        )
        for number in range(len(rules))
    }


def with_keys(rows: pa.Table, rules: Sequence[Rule], wanted: Mapping[int, Hashes]) -> Flags:
    """Which rows have one of some keys (by number of the rule, sorted), as the rules say and
    whatever the budget makes of them."""
    records = Records(rows)
    mine = np.zeros(rows.num_rows, dtype=bool)
    for number, some in wanted.items():
        mine[_with_one(records, rules[number].on, some)] = True
    return mine


def _with_one(records: Records, on: Sequence[str], some: Hashes) -> Integers:
    """The rows, some of them twice, that have one of some keys."""
    by = records.exploded(on)
    keys, known = keys_of(by, on)
    return by.origin[known & among_sorted(keys, some)]


def ids_with(blobs: Rows, wanted: Sequence[tuple[Sequence[str], Hashes]]) -> pa.Array:
    """The ids of rows with one of some keys. `wanted`: parts that make a key, and keys, sorted.

    One Spark job.
    """
    parts = tuple((tuple(on), some) for on, some in wanted)

    def with_one(rows: pa.Table) -> Flags:
        records = Records(rows)
        mine = np.zeros(rows.num_rows, dtype=bool)
        for on, some in parts:
            mine[_with_one(records, on, some)] = True
        return mine

    return pc.unique(ids_of(blobs, with_one))


def ids_of(blobs: Rows, choose: Callable[[pa.Table], Flags] | None = None) -> pa.ChunkedArray:
    """The ids of rows, of those chosen if they are to be. One Spark job."""

    def tell(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            rows = opened([blob])
            ids = rows[ID] if choose is None else rows[ID].filter(pa.array(choose(rows)))
            yield pa.record_batch({"ids": pa.array([written(pa.table({ID: ids}))], pa.binary())})

    told = spread.here(spread.mapped(blobs.select(["blob"]), tell, "ids binary"))["ids"]
    each = [read(blob.as_buffer())[ID] for blob in told]
    return pa.chunked_array([chunk for ids in each for chunk in ids.chunks], pa.string())
