"""Steward decisions: which are in force, which contradict each other, what clusters must honour.

Pure. A must-link says that two records are one person, a cannot-link that they are two; both hold
through chains: must-links a - x and x - b are one of a and b.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from concord.lake.run import digest
from concord.linkage.patterns import Integers

Verdict = Literal["must_link", "cannot_link", "withdrawn"]
VERDICTS: tuple[Verdict, ...] = ("must_link", "cannot_link", "withdrawn")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Decision:
    """One row of `index/steward_decisions`; `left_record_id` is the smaller of the two."""

    decision_id: str
    left_record_id: str
    right_record_id: str
    verdict: Verdict
    actor: str
    reason: str
    decided_at: datetime
    run_id: str

    @property
    def pair(self) -> Pair:
        return self.left_record_id, self.right_record_id


@dataclass(frozen=True)
class Proposal:
    """What a steward asks for. `place` is where it stands: a line of a file, an option."""

    pair: Pair
    verdict: Verdict
    reason: str
    place: str


@dataclass(frozen=True)
class Maker:
    """Who decides, in which run, at what time. `number` counts the writes of decisions."""

    actor: str
    run_id: str
    at: datetime
    number: int


@dataclass(frozen=True)
class Contradiction:
    """A cannot-link whose records are joined by must-links: `chain` of record ids, end to end."""

    cannot: Decision
    chain: tuple[str, ...]
    musts: tuple[Decision, ...]


@dataclass(frozen=True)
class Constraints:
    """What clusters must honour, as places in the array of record ids: (left, right), left < right.

    `must`: to be in one cluster. `cannot`: not to be in one, whatever else links them.
    """

    must: tuple[Integers, Integers]
    cannot: tuple[Integers, Integers]


def of_rows(rows: pa.Table) -> list[Decision]:
    """The rows of `index/steward_decisions`, as read."""
    names = list(Decision.__dataclass_fields__)
    return [Decision(**row) for row in rows.select(names).to_pylist()]


def in_force(decisions: Iterable[Decision]) -> list[Decision]:
    """Of each pair the newest decision, unless it was withdrawn; by pair."""
    newest = {d.pair: d for d in sorted(decisions, key=lambda d: (d.decided_at, d.decision_id))}
    return [d for _, d in sorted(newest.items()) if d.verdict != "withdrawn"]


def groups(decisions: Iterable[Decision]) -> dict[str, str]:
    """Every record of decisions in force -> the smallest record that must-links join it to."""
    above: dict[str, str] = {}

    def top(record: str) -> str:
        while (up := above.setdefault(record, record)) != record:
            above[record] = above[up]
            record = up
        return record

    for decision in decisions:
        one, other = sorted(map(top, decision.pair))
        if decision.verdict == "must_link":
            above[other] = one
    return {record: top(record) for record in above}


def contradictions(decisions: Iterable[Decision]) -> list[Contradiction]:
    """The cannot-links among decisions in force that must-links contradict."""
    given = list(decisions)
    group = groups(given)
    neighbours: dict[str, dict[str, Decision]] = {}
    for decision in given:
        if decision.verdict == "must_link":
            left, right = decision.pair
            neighbours.setdefault(left, {})[right] = decision
            neighbours.setdefault(right, {})[left] = decision
    found = []
    for decision in given:
        left, right = decision.pair
        if decision.verdict == "cannot_link" and group[left] == group[right]:
            chain = _chain(neighbours, left, right)
            musts = (neighbours[a][b] for a, b in zip(chain, chain[1:], strict=False))
            found.append(Contradiction(decision, chain, tuple(musts)))
    return found


def _chain(
    neighbours: Mapping[str, Mapping[str, Decision]], start: str, end: str
) -> tuple[str, ...]:
    """The shortest chain from a record to one that it is joined to; the first by letter of such."""
    came_from = {start: start}
    waiting = deque([start])
    while end not in came_from:
        here = waiting.popleft()
        for there in sorted(neighbours[here]):
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    chain = [end]
    while chain[-1] != start:
        chain.append(came_from[chain[-1]])
    return tuple(reversed(chain))


def judge(
    proposals: Sequence[Proposal],
    decisions: Sequence[Decision],
    *,
    known: Container[str],
    maker: Maker,
) -> tuple[list[Decision], list[str]]:
    """The new decisions that proposals make, and all mistakes: with one, none is to be written.

    `decisions`: all there are. What is in force already, or already withdrawn, makes no decision.
    `known`: the records that the index has; one that it does not have can only be let go.
    """
    present = {decision.pair: decision.verdict for decision in in_force(decisions)}
    # So that the newest is the newest, whatever the clocks of two machines say.
    after = max((d.decided_at + timedelta(microseconds=1) for d in decisions), default=maker.at)
    at = max(maker.at, after)
    places: dict[Pair, str] = {}
    new: list[Decision] = []
    mistakes: list[str] = []
    for asked in proposals:
        left, right = asked.pair
        if asked.pair in places:
            mistakes.append(
                f"{asked.place}: {places[asked.pair]} decides on {left} and {right} too; keep one"
            )
            continue
        places[asked.pair] = asked.place
        if present.get(asked.pair, "withdrawn") == asked.verdict:
            continue
        mistakes += [
            f"{asked.place}: the index has no record {record}; look in index/crosswalk"
            for record in asked.pair
            if asked.verdict != "withdrawn" and record not in known
        ]
        name = digest(maker.number, *asked.pair)
        new.append(
            Decision(name, left, right, asked.verdict, maker.actor, asked.reason, at, maker.run_id)
        )
    fresh = {decision.decision_id: places[decision.pair] for decision in new}
    found = contradictions(in_force([*decisions, *new]))
    return new, mistakes + [_told(each, fresh) for each in found]


def _told(found: Contradiction, fresh: Mapping[str, str]) -> str:
    """A contradiction in words. `fresh`: ids of the decisions that are only asked for -> place."""

    def named(decision: Decision) -> str:
        pair = f"{decision.verdict} of {' and '.join(decision.pair)}"
        if decision.decision_id in fresh:
            return f"the {pair} asked for here ({fresh[decision.decision_id]})"
        when = decision.decided_at.date()
        return f"decision {decision.decision_id} ({pair}, by {decision.actor} on {when})"

    each = (found.cannot, *found.musts)
    where = ", ".join(fresh[d.decision_id] for d in each if d.decision_id in fresh)
    return (
        f"{where or 'index/steward_decisions'}: a cannot_link of {' and '.join(found.cannot.pair)} "
        f"contradicts the must-links that join them: {' - '.join(found.chain)}. "
        f"Withdraw one of: {'; '.join(named(d) for d in each)}"
    )


def constraints(record_ids: pa.Array, decisions: Iterable[Decision]) -> Constraints:
    """What decisions in force mean for these records (distinct ids).

    Records that are not there drop out, what follows through them stays: with x absent, must-links
    a - x and x - b still join a and b, and a cannot-link of x and c still parts c from both.
    """
    given = list(decisions)
    group = groups(given)
    at = pc.index_in(record_ids, value_set=pa.array(sorted(group), pa.string()))
    rows = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False)).astype(np.int64)
    place = dict(zip(record_ids.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))
    members: dict[str, list[int]] = {}
    for record, number in place.items():
        members.setdefault(group[record], []).append(number)
    must = {pair for rows in members.values() for pair in zip(rows, rows[1:], strict=False)}
    cannot: set[tuple[int, int]] = set()
    for decision in given:
        if decision.verdict == "cannot_link":
            # For a record that is not there another of its group stands.
            ends = [
                place.get(record, next(iter(members.get(group[record], ())), None))
                for record in decision.pair
            ]
            left, right = (-1 if end is None else end for end in ends)
            if left >= 0 and right >= 0:
                cannot.add((min(left, right), max(left, right)))
    return Constraints(_columns(must), _columns(cannot))


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[Integers, Integers]:
    both = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
