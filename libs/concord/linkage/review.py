"""The review queue: which pairs of records a steward should look at, a sample of each kind. Pure.

Which pairs are worth a look `doubts` says, of arrays of all pairs; only what is chosen is put into
words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting

from concord.lake.run import digest
from concord.linkage import doubts
from concord.linkage.arrays import places_of_few
from concord.linkage.decisions import Pair
from concord.linkage.doubts import (
    CONFLICT,
    CONFLICTS,
    KINDS,
    RIVAL,
    RULED_OUT,
    Found,
    Pairs,
    People,
    flat,
    keys,
    numbered,
)
from concord.linkage.explain import explain
from concord.linkage.patterns import Integers, probability
from concord.linkage.standardise import SEPARATOR, STANDARD
from concord.linkage.values import count_within
from concord.settings import Typed

if TYPE_CHECKING:  # the model holds `Review`
    from concord.linkage.person_index import PersonIndex

BANDS = 2  # bands of weight on either side of the threshold, and one beyond them
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
    people = People.of(clusters)
    weighed = Pairs.of(pairs, people, model)
    found = Found.joined(
        [
            doubts.conflicts(people, weighed, records, model),
            doubts.ruled_out(weighed, model),
            doubts.rivals(people, weighed, model, review),
            doubts.in_doubt(people, weighed, model, review),
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
    kind = numbered(rows["kind"], pa.array(KINDS))
    stratum = numbered(rows["stratum"], pc.unique(rows["stratum"]).sort())
    order = np.argsort(stratum, kind="stable")
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = count_within(np.unique(stratum, return_counts=True)[1])
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
                        for text in flat(rows[name].cast(pa.string())).drop_null().to_pylist()
                        for one in each(text)
                    }
                )
            )
            for name in SHOWN
        }

    one, other = said(left), said(right)
    return [Part(name, one[name], other[name]) for name in SHOWN]


# --- choosing -----------------------------------------------------------------------------------


def _first_of_each(keys: Integers) -> Integers:
    """Where each key stands first, in order."""
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def _strata(
    found: Found, people: People, model: PersonIndex, review: Review
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
    found: Found,
    people: People,
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


def _concerned(found: Found, people: People) -> list[list[str]]:
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


def _why(found: Found, people: People, model: PersonIndex) -> list[str]:
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


def _keys_of(pairs: Iterable[Pair], people: People) -> Integers:
    given = list(pairs)
    sides = [
        places_of_few(pa.array([pair[n] for pair in given], pa.string()), people.ids)
        for n in (0, 1)
    ]
    here = (sides[0] >= 0) & (sides[1] >= 0)
    return keys(sides[0][here], sides[1][here], people)
