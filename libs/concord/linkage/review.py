"""The review queue: which pairs of records a steward should look at, a sample of each kind. Pure.

All pairs of a run are looked at as arrays, so that it holds for millions; only what is chosen is
put into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting

from concord.lake.run import digest
from concord.linkage import compare
from concord.linkage.arrays import distinct, places_of_few
from concord.linkage.compare import Simple
from concord.linkage.decisions import Pair
from concord.linkage.explain import explain
from concord.linkage.patterns import Floats, Integers, probability
from concord.linkage.standardise import SEPARATOR, STANDARD
from concord.linkage.values import Flags, PairedRows, Records, Values, hashed, mixed
from concord.settings import Typed

if TYPE_CHECKING:  # the model holds `Review`
    from concord.linkage.person_index import PersonIndex

# What a steward is asked; a pair is of the first kind that it fits.
KINDS = ("conflict", "ruled_out", "rival", "weak_link", "near_link")
CONFLICT, RULED_OUT, RIVAL, WEAK, NEAR = range(len(KINDS))
# What two members of one person must not have: bits of a mask, the gravest the highest.
CONFLICTS = {8: "two SSNs", 4: "two birth dates", 2: "two suffixes", 1: "two records of one source"}
BANDS = 2  # bands of weight on either side of the threshold, and one beyond them
# Pairs of rows that are looked at together for conflicts.
AT_ONCE = 2_000_000
SHOWN = tuple(name for name in STANDARD if name != "given_root")


class Review(Typed):
    """How much stewards are asked."""

    band: float = Setting(
        default=6.0, gt=0, description="bits on either side of cluster_weight that are in doubt"
    )
    margin: float = Setting(
        default=3.0, ge=0, description="bits by which a record's best person must be ahead"
    )
    per_stratum: int = Setting(
        default=10, gt=0, description="pairs of a kind, two feeds and a band of weight"
    )


@dataclass(frozen=True)
class Part:
    """What two records say of one column; each has a value for each of its variants."""

    column: str
    left: tuple[str, ...]
    right: tuple[str, ...]

    @property
    def agreement(self) -> str:
        """`same` where they share a value, `differ` where they do not, `missing` where one has
        none."""
        if not self.left or not self.right:
            return "missing"
        return "same" if {*self.left} & {*self.right} else "differ"


def queue(
    pairs: pa.Table,
    clusters: pa.Table,
    records: pa.Table,
    *,
    model: PersonIndex,
    review: Review,
    decided: Iterable[Pair],
    run_id: str,
    as_of: date,
) -> pa.Table:
    """The rows of `vault/review_queue`.

    `pairs`: left, right (places among all record ids, sorted; the larger), pattern, rule (its
    name), each pair once. `clusters`: record_id, feed, person_id of all records, and, where the
    index knows it, `alone`: number of a source that has a person once, NULL or -1 for others.
    `records`: vault/linkage_records. `decided`: pairs of which a decision is in force.

    Of each stratum (kind, two feeds, band of weight) those undecided pairs are taken whose ids have
    the smallest hashes: a random sample, and the same one in every run. `stratum_size` counts the
    decided ones too, so decisions of a stratum tell a rate of it.
    """
    people = _People.of(clusters)
    weighed = _Pairs.of(pairs, people, model)
    found = _Found.joined(
        [
            _conflicts(people, weighed, records, model),
            _ruled_out(weighed, model),
            _rivals(people, weighed, model, review),
            _in_doubt(people, weighed, model, review),
        ]
    )
    found = found.take(_first_of_each(found.keys(people)))
    stratum, labels = _strata(found, people, model, review)
    sizes = np.bincount(stratum, minlength=len(labels))
    waiting = np.flatnonzero(~np.isin(found.keys(people), _keys_of(decided, people)))
    chosen = waiting[_sampled(stratum[waiting], found.order(people)[waiting], review.per_stratum)]
    return _table(
        found.take(chosen),
        people,
        model,
        stratum=[labels[one] for one in stratum[chosen].tolist()],
        sizes=sizes[stratum[chosen]],
        run=(run_id, as_of),
    )


def in_turn(queue: pa.Table) -> pa.Table:
    """A queue in the order to work through it: one item of each stratum, the gravest kind first,
    then another of each. However early a steward stops, each stratum has had its share."""
    # By its id, which is as good as random.
    rows = queue.sort_by("item_id")
    kind = _numbers(rows["kind"], pa.array(KINDS))
    stratum = _numbers(rows["stratum"], pc.unique(rows["stratum"]).sort())
    order = np.argsort(stratum, kind="stable")
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = _repeated(*np.unique(stratum, return_counts=True))[1]
    return rows.take(pa.array(np.lexsort((stratum, kind, turn))))


def each(text: str) -> list[str]:
    """The values of a list, or the one value."""
    return text.split(SEPARATOR)


def side_by_side(records: pa.Table, left: str, right: str) -> list[Part]:
    """What two records say, column by column. `records`: rows of vault/linkage_records."""

    def said(record: str) -> dict[str, tuple[str, ...]]:
        rows = records.filter(pc.equal(records["record_id"], record))
        return {
            name: tuple(
                sorted(
                    {
                        one
                        for text in _text(rows[name]).drop_null().to_pylist()
                        for one in each(text)
                    }
                )
            )
            for name in SHOWN
        }

    one, other = said(left), said(right)
    return [Part(name, one[name], other[name]) for name in SHOWN]


# --- what there is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _People:
    """Records by number, in the order of their ids: feed, person and `alone` of each."""

    ids: pa.Array
    feeds: list[str]
    feed: Integers
    persons: pa.Array
    person: Integers
    alone: Integers

    @classmethod
    def of(cls, clusters: pa.Table) -> _People:
        ids = _flat(clusters["record_id"])
        in_order = pc.all(pc.less(ids[:-1], ids[1:])).as_py()
        rows = clusters if in_order in {True, None} else clusters.sort_by("record_id")
        feeds = pc.unique(rows["feed"]).sort()
        persons = Values.of(rows["person_id"])
        alone = np.full(rows.num_rows, -1, dtype=np.int64)
        if "alone" in rows.column_names:
            alone = pc.fill_null(rows["alone"], -1).to_numpy().astype(np.int64)
        return cls(
            _flat(rows["record_id"]),
            feeds.to_pylist(),
            _numbers(rows["feed"], feeds),
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
class _Pairs:
    """Candidate pairs. `weight`: whatever never links; `refused`: those that never do."""

    left: Integers
    right: Integers
    pattern: Integers
    rule: pa.Array
    weight: Floats
    refused: Flags

    @classmethod
    def of(cls, pairs: pa.Table, people: _People, model: PersonIndex) -> _Pairs:
        patterns = pairs["pattern"].to_numpy().astype(np.int64)
        # Few patterns, many pairs.
        few, place = distinct(patterns)
        return cls(
            pairs["left"].to_numpy().astype(np.int64),
            pairs["right"].to_numpy().astype(np.int64),
            patterns,
            _flat(pairs["rule"]),
            model.weights.summed(few)[place],
            model.weights.refuses(few)[place],
        )


@dataclass(frozen=True)
class _Found:
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
        pairs: _Pairs,
        which: Integers,
        *,
        detail: Floats | None = None,
        third: Integers | None = None,
    ) -> _Found:
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
    def joined(cls, several: list[_Found]) -> _Found:
        def column(name: str) -> npt.NDArray[np.int64]:
            return np.concatenate([getattr(each, name) for each in several])

        rules = pa.concat_arrays([each.rule for each in several])
        arrays = {name: column(name) for name in cls.__dataclass_fields__ if name != "rule"}
        return cls(**arrays, rule=rules)  # type: ignore[arg-type]  # two of them are floats

    def take(self, which: Integers) -> _Found:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rule = fields.pop("rule").take(pa.array(which))
        return _Found(**{name: array[which] for name, array in fields.items()}, rule=rule)

    def keys(self, people: _People) -> Integers:
        """One number for each pair."""
        return _keys(self.left, self.right, people)

    def order(self, people: _People) -> npt.NDArray[np.uint64]:
        """The pairs' hashes, by their ids alone."""
        hashes = hashed(people.ids)
        return mixed(hashes[self.left] ^ mixed(hashes[self.right]))


# --- what is worth a look ---------------------------------------------------------------------


def _ruled_out(pairs: _Pairs, model: PersonIndex) -> _Found:
    """Pairs that never link and would."""
    which = np.flatnonzero(pairs.refused & (pairs.weight >= model.link_weight))
    return _Found.some(RULED_OUT, pairs, which)


def _in_doubt(people: _People, pairs: _Pairs, model: PersonIndex, review: Review) -> _Found:
    """Pairs near the threshold, of one person or of two, and those over it that are of two all the
    same: what their persons' other records say, or a source that has a person once, keeps them
    apart."""
    away = pairs.weight - model.cluster_weight
    which = np.flatnonzero(~pairs.refused & (away >= -review.band))
    together = people.together(pairs.left[which], pairs.right[which])
    doubt = ~together | (away[which] < review.band)
    return _Found.some(np.where(together, WEAK, NEAR)[doubt], pairs, which[doubt])


def _rivals(people: _People, pairs: _Pairs, model: PersonIndex, review: Review) -> _Found:
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
    return _Found.some(RIVAL, pairs, pair[asked], detail=gap, third=partner[rival])


def _conflicts(people: _People, pairs: _Pairs, records: pa.Table, model: PersonIndex) -> _Found:
    """Of each person whose records contradict each other the two that do so most."""
    number = places_of_few(_flat(records["record_id"]), people.ids)
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
    return _Found.some(CONFLICT, compared, np.arange(len(left)), detail=mask.astype(np.float64))


def _suspicious(people: _People, records: pa.Table, number: Integers, rows: Integers) -> Flags:
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
    whole = np.repeat(what, counts)
    return whole, np.arange(len(whole)) - np.repeat(np.cumsum(counts) - counts, counts)


def _worst(
    people: _People, rows: pa.Table, number: Integers, left: Integers, right: Integers
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
    people: _People,
    pairs: _Pairs,
    rows: pa.Table,
    number: Integers,
    left: Integers,
    right: Integers,
    model: PersonIndex,
) -> _Pairs:
    """Pairs of records as candidate pairs; those that are none are compared here, where rare and
    common values are not told apart.

    `rows`, `number`: rows of records, of each record together, and the number of each one's record.
    """
    keys = _keys(pairs.left, pairs.right, people)
    order = np.argsort(keys)
    wanted = _keys(left, right, people)
    place = np.searchsorted(keys[order], wanted)
    known = place < len(keys)
    known[known] = keys[order][place[known]] == wanted[known]
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
    return _Pairs(left, right, found, rules, weights.summed(found), weights.refuses(found))


# --- choosing -----------------------------------------------------------------------------------


def _first_of_each(keys: Integers) -> Integers:
    """Where each key stands first, in order."""
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def _strata(
    found: _Found, people: _People, model: PersonIndex, review: Review
) -> tuple[Integers, list[str]]:
    """The stratum of each pair, and what strata are called."""
    width = review.band / BANDS
    away = (found.weight - model.cluster_weight) // width
    band = np.clip(away, -BANDS - 1, BANDS).astype(np.int64) + BANDS + 1
    one, two = people.feed[found.left], people.feed[found.right]
    feeds = np.minimum(one, two) * len(people.feeds) + np.maximum(one, two)
    names, count = _bands(width), len(people.feeds) ** 2
    codes, stratum = np.unique(
        (found.kind * count + feeds) * len(names) + band, return_inverse=True
    )
    labels = []
    for code in codes.tolist():
        rest, of_band = divmod(code, len(names))
        kind, both = divmod(rest, count)
        both_feeds = " + ".join(people.feeds[n] for n in divmod(both, len(people.feeds)))
        labels.append(f"{KINDS[kind]}, {both_feeds}, {names[of_band]}")
    return stratum, labels


def _bands(width: float) -> list[str]:
    """What bands of weight are called, in bits from the threshold, the lightest first."""
    edges = [step * width for step in range(-BANDS, BANDS + 1)]
    inner = [f"{a:g} to {b:g}" for a, b in zip(edges, edges[1:], strict=False)]
    return [f"under {edges[0]:g}", *inner, f"over {edges[-1]:g}"]


def _sampled(stratum: Integers, order: npt.NDArray[np.uint64], per_stratum: int) -> Integers:
    """Places of the first `per_stratum` of each stratum, strata together."""
    sorted_ = np.lexsort((order, stratum))
    _, starts, counts = np.unique(stratum[sorted_], return_index=True, return_counts=True)
    rank = np.arange(len(stratum)) - np.repeat(starts, counts)
    return sorted_[rank < per_stratum]


def _table(
    found: _Found,
    people: _People,
    model: PersonIndex,
    *,
    stratum: list[str],
    sizes: Integers,
    run: tuple[str, date],
) -> pa.Table:
    ids = [people.ids.take(pa.array(side)).to_pylist() for side in (found.left, found.right)]
    kinds = [KINDS[kind] for kind in found.kind.tolist()]
    refused = model.weights.refuses(found.pattern)
    chance = np.where(refused, 0.0, probability(found.weight, model.prior_bits))
    count = len(kinds)
    columns = {
        "item_id": [item_id(*each) for each in zip(kinds, *ids, strict=True)],
        "kind": kinds,
        "left_record_id": ids[0],
        "right_record_id": ids[1],
        "left_person_id": people.persons.take(pa.array(people.person[found.left])),
        "right_person_id": people.persons.take(pa.array(people.person[found.right])),
        "left_feed": [people.feeds[feed] for feed in people.feed[found.left].tolist()],
        "right_feed": [people.feeds[feed] for feed in people.feed[found.right].tolist()],
        "weight": found.weight,
        "probability": chance,
        "pattern": found.pattern,
        "rule": found.rule,
        "why": _why(found, people, model),
        "stratum": stratum,
        "stratum_size": sizes,
        "record_ids": _concerned(found, people),
        "run_id": [run[0]] * count,
        "as_of": [run[1]] * count,
        "model_version": [model.model_version] * count,
    }
    return pa.table([pa.array(columns[name], kind) for name, kind in SCHEMA.items()], [*SCHEMA])


SCHEMA = {
    **dict.fromkeys(("item_id", "kind", "left_record_id", "right_record_id"), pa.string()),
    **dict.fromkeys(("left_person_id", "right_person_id"), pa.string()),
    **dict.fromkeys(("left_feed", "right_feed"), pa.string()),
    **dict.fromkeys(("weight", "probability"), pa.float64()),
    "pattern": pa.int64(),
    **dict.fromkeys(("rule", "why", "stratum"), pa.string()),
    "stratum_size": pa.int64(),
    "record_ids": pa.list_(pa.string()),
    "run_id": pa.string(),
    "as_of": pa.date32(),
    "model_version": pa.string(),
}


def item_id(kind: str, left: str, right: str) -> str:
    """12 hex digits: short enough to type, and few thousand items do not collide in them."""
    return digest("review", kind, left, right)[:12]


def _concerned(found: _Found, people: _People) -> list[list[str]]:
    """All records of the persons that each pair is about."""
    thirds = np.where(found.third >= 0, people.person[found.third], -1).tolist()
    persons = [
        {left, right, third} - {-1}
        for left, right, third in zip(
            people.person[found.left].tolist(),
            people.person[found.right].tolist(),
            thirds,
            strict=True,
        )
    ]
    members = people.members({one for some in persons for one in some})
    return [sorted(record for one in some for record in members[one]) for some in persons]


def _why(found: _Found, people: _People, model: PersonIndex) -> list[str]:
    together = people.together(found.left, found.right).tolist()
    return [
        _sentence(*each, model)
        for each in zip(
            found.kind.tolist(),
            together,
            found.weight.tolist(),
            found.pattern.tolist(),
            found.detail.tolist(),
            strict=True,
        )
    ]


def _sentence(
    kind: int, together: bool, weight: float, pattern: int, detail: float, model: PersonIndex
) -> str:
    one = "One person by the index" if together else "Two persons by the index"
    if kind == CONFLICT:
        parts = [text for bit, text in CONFLICTS.items() if int(detail) & bit]
        return f"{one}, with {' and '.join(parts)}."
    if kind == RULED_OUT:
        why = "; ".join(explain(model, pattern).why)
        return f"{one}; what agrees weighs {weight:.1f} bits, but: {why}."
    if kind == RIVAL:
        return f"A record that may be either of two persons: {detail:.1f} bits lie between them."
    away = weight - model.cluster_weight
    return f"{one}; the pair is {abs(away):.1f} bits {'over' if away >= 0 else 'under'} the edge."


# --- arrays -------------------------------------------------------------------------------------


def _keys(left: Integers, right: Integers, people: _People) -> Integers:
    return np.minimum(left, right) * len(people.ids) + np.maximum(left, right)


def _keys_of(pairs: Iterable[Pair], people: _People) -> Integers:
    given = list(pairs)
    sides = [
        places_of_few(pa.array([pair[n] for pair in given], pa.string()), people.ids)
        for n in (0, 1)
    ]
    here = (sides[0] >= 0) & (sides[1] >= 0)
    return _keys(sides[0][here], sides[1][here], people)


def _numbers(values: pa.ChunkedArray, known: pa.Array) -> Integers:
    """Where each value stands in `known`, which has them all."""
    return _flat(pc.index_in(values, value_set=known)).to_numpy().astype(np.int64)


def _as_text(rows: pa.Table) -> pa.Table:
    return pa.table({name: _text(rows[name]) for name in STANDARD})


def _text(column: pa.ChunkedArray) -> pa.Array:
    return _flat(column.cast(pa.string()))


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.array([], column.type) if isinstance(flat, pa.ChunkedArray) else flat
