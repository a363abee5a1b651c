"""Pairs of records that are worth a look: contradictions within a person, pairs that are ruled out,
rivals, and pairs in doubt. Pure.

All pairs of a run are looked at as arrays, so that it holds for millions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from concord.linkage import compare
from concord.linkage.arrays import distinct, places_of_few
from concord.linkage.compare import Simple
from concord.linkage.patterns import Floats, Integers
from concord.linkage.standardise import STANDARD
from concord.linkage.values import (
    Flags,
    PairedRows,
    Records,
    Values,
    count_within,
    hashed,
    mixed,
)

if TYPE_CHECKING:  # the model holds `Review`
    from concord.linkage.person_index import PersonIndex
    from concord.linkage.review import Review

# What a steward is asked; a pair is of the first kind that it fits.
KINDS = ("conflict", "ruled_out", "rival", "weak_link", "near_link")
CONFLICT, RULED_OUT, RIVAL, WEAK, NEAR = range(len(KINDS))
# What two members of one person must not have: bits of a mask, the gravest the highest.
CONFLICTS = {8: "two SSNs", 4: "two birth dates", 2: "two suffixes", 1: "two records of one source"}
# Pairs of rows that are looked at together for conflicts.
AT_ONCE = 2_000_000


# --- what there is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class People:
    """Records by number, in the order of their ids: feed, person and `alone` of each."""

    ids: pa.Array
    feeds: list[str]
    feed: Integers
    persons: pa.Array
    person: Integers
    alone: Integers

    @classmethod
    def of(cls, clusters: pa.Table) -> People:
        ids = flat(clusters["record_id"])
        in_order = pc.all(pc.less(ids[:-1], ids[1:])).as_py()
        rows = clusters if in_order in {True, None} else clusters.sort_by("record_id")
        feeds = pc.unique(rows["feed"]).sort()
        persons = Values.of(rows["person_id"])
        alone = np.full(rows.num_rows, -1, dtype=np.int64)
        if "alone" in rows.column_names:
            alone = pc.fill_null(rows["alone"], -1).to_numpy().astype(np.int64)
        return cls(
            flat(rows["record_id"]),
            feeds.to_pylist(),
            numbered(rows["feed"], feeds),
            persons.distinct,
            persons.codes.astype(np.int64),
            alone,
        )

    def together(self, left: Integers, right: Integers) -> Flags:
        return np.asarray(self.person[left] == self.person[right])

    def members(self, persons: Iterable[int]) -> dict[int, list[str]]:
        """The records of each person, by id."""
        order = np.argsort(self.person, kind="stable")
        starts = np.searchsorted(self.person[order], np.arange(len(self.persons) + 1))
        return {
            one: self.ids.take(pa.array(order[starts[one] : starts[one + 1]])).to_pylist()
            for one in persons
        }


@dataclass(frozen=True)
class Pairs:
    """Candidate pairs. `weight`: whatever never links; `refused`: those that never do."""

    left: Integers
    right: Integers
    pattern: Integers
    rule: pa.Array
    weight: Floats
    refused: Flags

    @classmethod
    def of(cls, pairs: pa.Table, people: People, model: PersonIndex) -> Pairs:
        patterns = pairs["pattern"].to_numpy().astype(np.int64)
        # Few patterns, many pairs.
        few, place = distinct(patterns)
        return cls(
            pairs["left"].to_numpy().astype(np.int64),
            pairs["right"].to_numpy().astype(np.int64),
            patterns,
            flat(pairs["rule"]),
            model.weights.summed(few)[place],
            model.weights.refuses(few)[place],
        )


@dataclass(frozen=True)
class Found:
    """Pairs for the queue. `rule`: place in the candidate pairs, -1 for a pair that is none.

    `detail`: of a conflict its mask, of a rival how many bits lie between the two; `third`: the
    record that competes, -1 where none does.
    """

    kind: Integers
    left: Integers
    right: Integers
    pattern: Integers
    weight: Floats
    rule: pa.Array
    detail: Floats
    third: Integers

    @classmethod
    def some(
        cls,
        kind: int | Integers,
        pairs: Pairs,
        which: Integers,
        *,
        detail: Floats | None = None,
        third: Integers | None = None,
    ) -> Found:
        return cls(
            np.broadcast_to(np.asarray(kind, dtype=np.int64), which.shape),
            pairs.left[which],
            pairs.right[which],
            pairs.pattern[which],
            pairs.weight[which],
            pairs.rule.take(pa.array(which)),
            np.zeros(len(which)) if detail is None else detail,
            np.full(len(which), -1, dtype=np.int64) if third is None else third,
        )

    @classmethod
    def joined(cls, several: list[Found]) -> Found:
        def column(name: str) -> npt.NDArray[np.int64]:
            return np.concatenate([getattr(each, name) for each in several])

        rules = pa.concat_arrays([each.rule for each in several])
        arrays = {name: column(name) for name in cls.__dataclass_fields__ if name != "rule"}
        return cls(**arrays, rule=rules)  # type: ignore[arg-type]  # two of them are floats

    def take(self, which: Integers) -> Found:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rule = fields.pop("rule").take(pa.array(which))
        return Found(**{name: array[which] for name, array in fields.items()}, rule=rule)

    def keys(self, people: People) -> Integers:
        """One number for each pair."""
        return keys(self.left, self.right, people)

    def order(self, people: People) -> npt.NDArray[np.uint64]:
        """The pairs' hashes, by their ids alone."""
        left, right = (hashed(people.ids.take(pa.array(side))) for side in (self.left, self.right))
        return mixed(left ^ mixed(right))


# --- what is worth a look ---------------------------------------------------------------------


def ruled_out(pairs: Pairs, model: PersonIndex) -> Found:
    """Pairs that never link and would."""
    which = np.flatnonzero(pairs.refused & (pairs.weight >= model.link_weight))
    return Found.some(RULED_OUT, pairs, which)


def in_doubt(people: People, pairs: Pairs, model: PersonIndex, review: Review) -> Found:
    """Pairs near the threshold, of one person or of two, and those over it that are of two all the
    same: what their persons' other records say, or a source that has a person once, keeps them
    apart."""
    away = pairs.weight - model.cluster_weight
    which = np.flatnonzero(~pairs.refused & (away >= -review.band))
    together = people.together(pairs.left[which], pairs.right[which])
    doubt = ~together | (away[which] < review.band)
    return Found.some(np.where(together, WEAK, NEAR)[doubt], pairs, which[doubt])


def rivals(people: People, pairs: Pairs, model: PersonIndex, review: Review) -> Found:
    """Records whose two best persons in one feed are close: the pair that the index did not make.

    The better of the two partners is that of the heaviest pair; its weight must at least be in
    doubt, else neither is a person of the record.
    """
    least = model.cluster_weight - review.band - review.margin
    likely = ~pairs.refused & (pairs.weight >= least)
    # A record with another person has a pair with one.
    torn = np.zeros(len(people.ids), dtype=bool)
    for side in (pairs.left, pairs.right):
        torn[side[likely & ~people.together(pairs.left, pairs.right)]] = True
    kept = np.flatnonzero(likely & (torn[pairs.left] | torn[pairs.right]))
    source = np.concatenate([pairs.left[kept], pairs.right[kept]])
    partner = np.concatenate([pairs.right[kept], pairs.left[kept]])
    pair = np.concatenate([kept, kept])
    weight = pairs.weight[pair]
    group = source * len(people.feeds) + people.feed[partner]
    order = np.lexsort((partner, -weight, group))
    group, source, partner, pair, weight = (
        array[order] for array in (group, source, partner, pair, weight)
    )
    groups, first, number = np.unique(group, return_index=True, return_inverse=True)
    person = people.person[partner]
    others = np.flatnonzero(person != person[first][number])
    # The first of another person, in each group that has one.
    which, place = np.unique(number[others], return_index=True)
    best, second = first[which], others[place]
    gap = weight[best] - weight[second]
    in_doubt = weight[best] >= model.cluster_weight - review.band
    close = (gap <= review.margin) & in_doubt
    best, second, gap = best[close], second[close], gap[close]
    # Of the two the one that is another person than the record; the better, if both are.
    own = person[best] == people.person[source[best]]
    asked, rival = np.where(own, second, best), np.where(own, best, second)
    return Found.some(RIVAL, pairs, pair[asked], detail=gap, third=partner[rival])


def conflicts(people: People, pairs: Pairs, records: pa.Table, model: PersonIndex) -> Found:
    """Of each person whose records contradict each other the two that do so most."""
    number = places_of_few(flat(records["record_id"]), people.ids)
    rows = np.flatnonzero(number >= 0)
    rows = rows[_suspicious(people, records, number, rows)]
    rows = rows[np.lexsort((number[rows], people.person[number[rows]]))]
    suspects = _as_text(records.take(pa.array(rows)))
    found = [
        _worst(people, suspects, number[rows], left, right)
        for left, right in _within(people.person[number[rows]])
    ]
    left, right, mask = (
        np.concatenate([each[n] for each in found]) if found else np.zeros(0, dtype=np.int64)
        for n in range(3)
    )
    compared = _compared(people, pairs, suspects, number[rows], left, right, model)
    return Found.some(CONFLICT, compared, np.arange(len(left)), detail=mask.astype(np.float64))


def _suspicious(people: People, records: pa.Table, number: Integers, rows: Integers) -> Flags:
    """Rows of persons that have two SSNs, birth dates or suffixes, or two records of a source
    that has a person once."""
    person = people.person[number[rows]]
    found = np.zeros(len(people.persons), dtype=bool)
    for column in ("ssn", "birth", "suffix"):
        codes = Values.of(_text(records[column])).codes[rows]
        found |= _several(person[codes >= 0], codes[codes >= 0], len(found))
    held = np.flatnonzero(people.alone >= 0)
    # Two records of one source, not one source twice: each record counts once.
    sources = people.person[held] * (people.alone.max(initial=0) + 1) + people.alone[held]
    several, counts = np.unique(sources, return_counts=True)
    found[several[counts > 1] // (people.alone.max(initial=0) + 1)] = True
    return found[person]


def _several(person: Integers, codes: npt.NDArray[np.int32], persons: int) -> Flags:
    """Persons with two distinct codes."""
    width = int(codes.max(initial=0)) + 1
    distinct = np.unique(person * width + codes)
    return np.bincount(distinct // width, minlength=persons) > 1


def _within(person: Integers) -> Iterator[tuple[Integers, Integers]]:
    """All pairs of rows of one person, some persons at a time. `person`: sorted."""
    starts = np.flatnonzero(np.diff(person, prepend=-1))
    sizes = np.diff(np.append(starts, len(person)))
    slices = np.cumsum(sizes * (sizes - 1) // 2) // AT_ONCE
    for one in np.unique(slices):
        mine = np.flatnonzero(slices == one)
        rows = np.arange(starts[mine[0]], starts[mine[-1]] + sizes[mine[-1]])
        ends = np.repeat(starts[mine] + sizes[mine], sizes[mine])
        left, nth = _repeated(rows, ends - rows - 1)
        yield left, left + 1 + nth


def _repeated(what: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """`what`, each as often as `counts` says, and 0, 1, ... within each."""
    return np.repeat(what, counts), count_within(counts)


def _worst(
    people: People, rows: pa.Table, number: Integers, left: Integers, right: Integers
) -> tuple[Integers, Integers, Integers]:
    """Of each person the two records with the gravest conflict, and its mask.

    Records conflict where no value of one agrees with any of the other: who corrected a birth date
    has both. A number or date that is near is a slip, not a conflict.
    """
    other = number[left] != number[right]
    left, right = left[other], right[other]
    records = Records(rows)
    pair, place = np.unique(number[left] * len(people.ids) + number[right], return_inverse=True)
    one, two = pair // len(people.ids), pair % len(people.ids)
    mask = ((people.alone[one] >= 0) & (people.alone[one] == people.alone[two])).astype(np.int64)
    for bit, column, agrees in (
        (8, "ssn", Simple("damerau_levenshtein", ("ssn",), 1)),
        (4, "birth", Simple("near_date", ("birth",))),
        (2, "suffix", Simple("same", ("suffix",))),
    ):
        pairs = PairedRows(records, left, right)
        known = Simple("known", (column,)).met(pairs)
        met = agrees.met(pairs)
        differ = _any(place, known, len(pair)) & ~_any(place, met, len(pair))
        mask += bit * differ
    person = people.person[one]
    order = np.lexsort((two, one, -mask, person))
    _, first = np.unique(person[order], return_index=True)
    worst = order[first]
    worst = worst[mask[worst] > 0]
    return one[worst], two[worst], mask[worst]


def _any(place: Integers, flags: Flags, count: int) -> Flags:
    return np.bincount(place[flags], minlength=count) > 0


def _compared(
    people: People,
    pairs: Pairs,
    rows: pa.Table,
    number: Integers,
    left: Integers,
    right: Integers,
    model: PersonIndex,
) -> Pairs:
    """Pairs of records as candidate pairs; those that are none are compared here, where rare and
    common values are not told apart.

    `rows`, `number`: rows of records, of each record together, and the number of each one's record.
    """
    known_keys = keys(pairs.left, pairs.right, people)
    order = np.argsort(known_keys)
    wanted = keys(left, right, people)
    place = np.searchsorted(known_keys[order], wanted)
    known = place < len(known_keys)
    known[known] = known_keys[order][place[known]] == wanted[known]
    absent = np.flatnonzero(~known)
    begin = np.full(len(people.ids), 0, dtype=np.int64)
    counts = np.bincount(number, minlength=len(people.ids))
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    begin[number[starts]] = starts
    per_left, per_right = counts[left[absent]], counts[right[absent]]
    which, nth = _repeated(absent, per_left * per_right)
    one = begin[left[which]] + nth // counts[right[which]]
    other = begin[right[which]] + nth % counts[right[which]]
    patterns = compare.patterns(model.compiled, PairedRows(Records(rows), one, other))
    # As for any pair, the heaviest rows count.
    best = np.lexsort((-model.weights.summed(patterns), -model.weights.of(patterns), which))
    _, first = np.unique(which[best], return_index=True)
    found = np.zeros(len(left), dtype=np.int64)
    found[known] = pairs.pattern[order[place[known]]]
    found[absent] = patterns[best[first]]
    rule = np.full(len(left), -1, dtype=np.int64)
    rule[known] = order[place[known]]
    rules = pairs.rule.take(pa.array(rule, mask=~known))
    weights = model.weights
    return Pairs(left, right, found, rules, weights.summed(found), weights.refuses(found))


# --- arrays -------------------------------------------------------------------------------------


def keys(left: Integers, right: Integers, people: People) -> Integers:
    """One number for each pair of records."""
    return np.minimum(left, right) * len(people.ids) + np.maximum(left, right)


def numbered(values: pa.ChunkedArray, known: pa.Array) -> Integers:
    """Where each value stands in `known`, which has them all."""
    return flat(pc.index_in(values, value_set=known)).to_numpy().astype(np.int64)


def _as_text(rows: pa.Table) -> pa.Table:
    return pa.table({name: _text(rows[name]) for name in STANDARD})


def _text(column: pa.ChunkedArray) -> pa.Array:
    return flat(column.cast(pa.string()))


def flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """As one array."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.array([], column.type) if isinstance(flat, pa.ChunkedArray) else flat
