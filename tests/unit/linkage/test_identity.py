"""Persons over time, against invariants and an oracle under generated histories.

INDEX_HISTORIES says how many histories are generated; a benchmark takes more than a test.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.linkage import tables
from concord.linkage.decisions import (
    Decision,
    Maker,
    Proposal,
    Verdict,
    constraints,
    in_force,
    judge,
)
from concord.linkage.identity import (
    Event,
    aligned,
    as_events,
    as_table,
    changed_rows,
    decide,
    decide_arrays,
    event_ids,
    followed,
    mint_ids,
    moved,
    moves,
    replay,
)
from concord.privacy.keys import mint_key
from concord.privacy.records import person_id
from concord.settings import Keys
from tests.unit.linkage import oracle

START = date(2025, 1, 1)
HISTORIES = int(os.environ.get("INDEX_HISTORIES", "50"))


@dataclass(frozen=True)
class Holding:
    """One row of the crosswalk: a record's person from a day on, until another, exclusive."""

    record_id: str
    person_id: str
    valid_from: date
    valid_to: date | None
    run_id: str
    how: str


def holdings(
    present: Mapping[str, Holding], events: Iterable[Event], *, on: date, run_id: str
) -> tuple[list[Holding], list[Holding]]:
    """What events of day `on` do to the open rows of the crosswalk: rows to put, rows to delete.

    An open row ends on that day. One that began on the same day never held: it is replaced, or
    deleted when nothing follows it.
    """
    put: list[Holding] = []
    delete: list[Holding] = []
    for record, (person, how) in sorted(moved(events).items()):
        row = present.get(record)
        begun_today = row is not None and row.valid_from == on
        if row is not None and not begun_today:
            put.append(Holding(record, row.person_id, row.valid_from, on, row.run_id, row.how))
        if person is not None:
            put.append(Holding(record, person, on, None, run_id, how))
        elif row is not None and begun_today:
            delete.append(row)
    return put, delete


@dataclass
class Past:
    """An index as runs leave it: what `job` keeps in tables."""

    runs: list[list[Event]] = field(default_factory=list)
    days: list[date] = field(default_factory=list)
    minted: dict[str, int] = field(default_factory=dict)
    rows: dict[tuple[str, date], Holding] = field(default_factory=dict)

    @property
    def present(self) -> dict[str, Holding]:
        return {row.record_id: row for row in self.rows.values() if row.valid_to is None}

    def run(
        self, clusters: list[list[str]], on: date, decisions: Sequence[Decision] = ()
    ) -> list[Event]:
        number = len(self.runs) + 1
        before = {record: row.person_id for record, row in self.present.items()}

        def mint(founder: str) -> str:
            return f"P{number}-{founder}"

        events = decide(before, clusters, minted=self.minted, mint=mint, decisions=decisions)
        assert as_events(self.by_columns(clusters, decisions)) == events
        put, delete = holdings(self.present, events, on=on, run_id=f"run-{number}")
        assert self.changed_rows(events, on, f"run-{number}") == (
            {row.record_id: row for row in put if row.valid_to is None},
            {row.record_id: row for row in put if row.valid_to is not None},
            delete,
        )
        for row in delete:
            del self.rows[row.record_id, row.valid_from]
        for row in put:
            self.rows[row.record_id, row.valid_from] = row
        assert self.followed(clusters, before, events) == {
            record: row.person_id for record, row in self.present.items()
        }
        self.minted |= {e.person_id: number for e in events if e.kind == "minted"}
        self.runs.append(events)
        self.days.append(on)
        return events

    def followed(
        self, clusters: list[list[str]], before: Mapping[str, str], events: Sequence[Event]
    ) -> dict[str, str]:
        """What `followed` says of the clusters' records."""
        records = [record for cluster in clusters for record in cluster]
        had = pa.array([before.get(record) for record in records], pa.string()).dictionary_encode()
        said = {r: p for r, p, _ in zip(*moves(as_table(events)).to_pydict().values(), strict=True)}
        there = [n for n, record in enumerate(records) if record in said]
        new = pa.array([said[records[n]] for n in there], pa.string())
        after = followed(had, np.array(there, dtype=np.int64), new)
        return dict(zip(records, after.to_pylist(), strict=True))

    def changed_rows(
        self, events: Sequence[Event], on: date, run_id: str
    ) -> tuple[dict[str, Holding], dict[str, Holding], list[Holding]]:
        """What `changed_rows` says: rows that begin, rows that end, rows that never held."""
        names = [f.name for f in tables.CROSSWALK.columns]
        kinds = {"valid_from": pa.date32(), "valid_to": pa.date32()}
        open_rows = list(self.present.values())
        present = pa.table(
            {
                name: pa.array([getattr(r, name) for r in open_rows], kinds.get(name, pa.string()))
                for name in names
            }
        )
        put, gone = changed_rows(present, as_table(events), on=on, run_id=run_id)
        rows = [Holding(**row) for row in put.to_pylist()]
        delete = sorted((Holding(**row) for row in gone.to_pylist()), key=lambda r: r.record_id)
        return (
            {row.record_id: row for row in rows if row.valid_to is None},
            {row.record_id: row for row in rows if row.valid_to is not None},
            delete,
        )

    def by_columns(
        self, clusters: Iterable[Sequence[str]], decisions: Sequence[Decision]
    ) -> pa.Table:
        """The same by `decide_arrays`: records in any order, clusters of any number."""
        number = len(self.runs) + 1
        place = {record: 7 - 3 * n for n, cluster in enumerate(clusters) for record in cluster}
        held = {record: row.person_id for record, row in self.present.items()}
        # Any numbers, as long as they are in the order in which records are given.
        numbers = {record: 5 * n for n, record in enumerate([*place, *(held.keys() - place)])}
        present = pa.table(
            {
                "number": pa.array([numbers[record] for record in held], pa.uint64()),
                "record_id": pa.array(held, pa.string()),
                "person_id": pa.array(held.values(), pa.string()),
            }
        )
        return decide_arrays(
            pa.array(place, pa.string()),
            np.array(list(place.values()), dtype=np.int64),
            *aligned(np.array([numbers[r] for r in place], dtype=np.uint64), present),
            minted=pa.table(
                {
                    "person_id": pa.array(self.minted, pa.string()),
                    "sequence": pa.array(self.minted.values(), pa.int64()),
                }
            ),
            mint=lambda founders: [f"P{number}-{founder}" for founder in founders],
            decisions=decisions,
        )

    def crosswalk(self, on: date) -> dict[str, str]:
        return {
            row.record_id: row.person_id
            for row in self.rows.values()
            if row.valid_from <= on and (row.valid_to is None or on < row.valid_to)
        }


def kinds(events: list[Event]) -> list[tuple[str, str, str | None, tuple[str, ...]]]:
    return [(e.kind, e.person_id, e.other_person_id, e.record_ids) for e in events]


def begun(*clusters: list[str]) -> Past:
    past = Past()
    past.run(list(clusters), START)
    return past


NEXT = START + timedelta(days=30)


def test_new_records_are_minted_a_person_by_their_first_record() -> None:
    past = Past()
    events = past.run([["b", "a"], ["c"]], START)
    assert kinds(events) == [("minted", "P1-a", None, ("a", "b")), ("minted", "P1-c", None, ("c",))]


def test_a_record_that_joins_takes_the_persons_id() -> None:
    past = begun(["b"])
    assert kinds(past.run([["a", "b"]], NEXT)) == [("joined", "P1-b", None, ("a",))]


def test_of_two_persons_that_merge_the_larger_keeps_its_id() -> None:
    past = begun(["a"], ["b", "c"])
    assert kinds(past.run([["a", "b", "c"]], NEXT)) == [("merged_into", "P1-a", "P1-b", ("a",))]


def test_of_two_of_one_size_the_older_keeps_its_id() -> None:
    past = begun(["b"])
    past.run([["b"], ["a"]], START)
    assert kinds(past.run([["a", "b"]], NEXT)) == [("merged_into", "P2-a", "P1-b", ("a",))]


def test_a_split_keeps_the_id_on_the_larger_side() -> None:
    past = begun(["a", "b", "c"])
    assert kinds(past.run([["a"], ["b", "c"]], NEXT)) == [
        ("minted", "P2-a", None, ()),
        ("split_from", "P2-a", "P1-a", ("a",)),
    ]


def test_records_that_change_person_are_split_from_the_one_that_stays() -> None:
    past = begun(["a", "b", "c"], ["d", "e"])
    assert kinds(past.run([["a", "b"], ["c", "d", "e"]], NEXT)) == [
        ("split_from", "P1-d", "P1-a", ("c",))
    ]


def test_a_person_whose_records_go_to_two_merges_into_the_one_that_gets_most() -> None:
    past = begun(["a", "b", "c"], ["d", "e", "f", "g"], ["h", "i"])
    assert kinds(past.run([["a", "b", "d", "e", "f", "g"], ["c", "h", "i"]], NEXT)) == [
        ("merged_into", "P1-a", "P1-d", ("a", "b")),
        ("split_from", "P1-h", "P1-a", ("c",)),
    ]


def test_a_person_without_records_is_retired_and_its_id_never_comes_back() -> None:
    past = begun(["a"])
    events = past.run([], NEXT)
    assert kinds(events) == [("left", "P1-a", None, ("a",)), ("retired", "P1-a", None, ())]
    assert kinds(past.run([["a"]], NEXT)) == [("minted", "P3-a", None, ("a",))]


def test_a_row_that_began_and_ended_on_one_day_never_held() -> None:
    past = begun(["a"], ["b"])
    past.run([["a", "b"]], START)
    assert {r.record_id: r.person_id for r in past.rows.values()} == {"a": "P1-a", "b": "P1-a"}
    past.run([], START)
    assert not past.rows


RECORDS = "abcdefgh"
# A history: for each run the days since the last one and, for each record, its cluster or none.
histories = st.lists(
    st.tuples(st.integers(0, 2), st.tuples(*[st.integers(0, 4) for _ in RECORDS])), max_size=6
)


@given(histories)
def test_whatever_happens_the_invariants_hold(
    history: list[tuple[int, tuple[int, ...]]],
) -> None:
    past, on = Past(), START
    for days, cluster_of in history:
        on += timedelta(days=days)
        members: dict[int, list[str]] = {}
        for record, cluster in zip(RECORDS, cluster_of, strict=True):
            if cluster:
                members.setdefault(cluster, []).append(record)
        clusters = list(members.values())
        before = {record: row.person_id for record, row in past.present.items()}
        ever = set(past.minted)
        events = past.run(clusters, on)

        after = {record: row.person_id for record, row in past.present.items()}
        wanted = {record: number for number, c in members.items() for record in c}
        assert after.keys() == wanted.keys(), "each active record in exactly one person"
        persons: dict[str, set[int]] = {}
        for record, person in after.items():
            persons.setdefault(person, set()).add(wanted[record])
        assert len(persons) == len(members), "one person a cluster, one cluster a person"
        assert all(len(numbers) == 1 for numbers in persons.values())

        fresh = [e.person_id for e in events if e.kind == "minted"]
        assert len(set(fresh)) == len(fresh) and not ever & set(fresh), "no id is minted twice"
        ended = {e.person_id for e in events if e.kind in {"merged_into", "retired"}}
        gone = set(before.values()) - set(after.values())
        assert ended == gone, "every end is an event, and what ended is gone"
        assert set(after.values()) <= set(before.values()) | set(fresh), "no id comes back"
        records = [record for e in events for record in e.record_ids]
        assert len(records) == len(set(records)), "one event a run for a record"

        # The id that most records of a cluster had goes to it, unless another has more of it.
        for person in set(before.values()):
            held = {r for r, p in before.items() if p == person}
            keeps = {r for r, p in after.items() if p == person} & held
            if keeps:
                for number, cluster in members.items():
                    rival = len(held & set(cluster))
                    heir = {after[r] for r in cluster}.pop()
                    theirs = sum(1 for r in cluster if before.get(r) == heir)
                    assert rival <= max(len(keeps), theirs), (person, number)

        assert past.run(clusters, on) == [], "a rerun emits nothing"
        past.runs.pop()
        past.days.pop()
        assert replay(past.runs) == after, "replay is the crosswalk"

    for day in sorted(set(past.days)):
        until = [run for run, at in zip(past.runs, past.days, strict=True) if at <= day]
        assert replay(until) == past.crosswalk(day), "of any day"


@given(histories)
def test_the_order_in_which_clusters_are_told_does_not_matter(
    history: list[tuple[int, tuple[int, ...]]],
) -> None:
    forward, backward = Past(), Past()
    for _, cluster_of in history:
        members: dict[int, list[str]] = {}
        for record, cluster in zip(RECORDS, cluster_of, strict=True):
            members.setdefault(cluster, []).append(record)
        clusters = list(members.values())
        one = forward.run(clusters, START)
        other = backward.run([c[::-1] for c in clusters[::-1]], START)
        assert one == other


def test_what_events_say_of_a_record() -> None:
    events = [Event("merged_into", "p", "q", ("a",), ""), Event("left", "q", None, ("b",), "")]
    assert moved(events) == {"a": ("q", "merged_into"), "b": (None, "left")}


def decision(verdict: Verdict, left: str, right: str, *, number: int = 1) -> Decision:
    at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Decision(f"d{number}", left, right, verdict, "sam", "they say so", at, "r")


def test_of_two_persons_the_one_that_a_steward_confirmed_keeps_its_id() -> None:
    past = begun(["a", "b"], ["c", "d", "e"])
    confirmed = [decision("must_link", "a", "b")]
    assert kinds(past.run([["a", "b", "c", "d", "e"]], NEXT, confirmed)) == [
        ("merged_into", "P1-c", "P1-a", ("c", "d", "e"))
    ]


def test_a_confirmed_pair_takes_the_id_with_it_when_the_others_leave() -> None:
    past = begun(["a", "b", "c", "d", "e"])
    confirmed = [decision("must_link", "d", "e")]
    assert kinds(past.run([["a", "b", "c"], ["d", "e"]], NEXT, confirmed)) == [
        ("minted", "P2-a", None, ()),
        ("split_from", "P2-a", "P1-a", ("a", "b", "c")),
    ]


def test_an_event_that_a_decision_caused_names_it_and_the_steward() -> None:
    past = begun(["a"], ["b", "c"], ["d", "e"], ["f"], ["g"])
    taken = [
        decision("must_link", "a", "b", number=1),
        decision("cannot_link", "d", "e", number=2),
    ]
    events = past.run([["a", "b", "c"], ["d"], ["e"], ["f", "g"]], NEXT, taken)
    assert [(e.kind, e.reason) for e in events] == [
        ("minted", "records part from another person"),
        ("merged_into", "records of both link, by a steward's decision d1 (sam)"),
        ("merged_into", "records of both link"),
        ("split_from", "records no longer link to the other person, "
         "by a steward's decision d2 (sam)"),
    ]  # fmt: skip
    # They hold by now: what happens later is not their doing.
    later = past.run([["a", "b"], ["c"], ["d", "f", "g"], ["e", "h"]], NEXT, taken)
    assert {e.kind: e.reason for e in later if e.kind != "minted"} == {
        "joined": "new records link to the person",
        "merged_into": "records of both link",
        "split_from": "records no longer link to the other person",
    }


def test_ids_are_minted_together_and_never_one_that_was_minted(tmp_path: Path) -> None:
    key = mint_key(Keys(path=tmp_path), create=True)

    def minted(*founders: str, taken: Sequence[str] = (), run_id: str = "run") -> list[str]:
        given = pa.array(taken, pa.string())
        return mint_ids(founders, key=key, run_id=run_id, taken=given)

    ids = minted("a", "b")
    assert ids == [person_id(key, run_id="run", record_id=founder) for founder in "ab"]
    assert minted("a", "b") == ids != minted("a", "b", run_id="other")
    # The run id was given before: to a run that minted both, then to one that did so again.
    again = minted("a", "b", taken=ids)
    third = minted("a", "c", taken=[*ids, *again])
    assert len({*ids, *again, *third}) == 6
    assert minted() == []


FEEDS = {"snap": "abcde", "wages": "fghij"}
EVERYONE = "".join(FEEDS.values())
PAIRS = [(left, right) for left in EVERYONE for right in EVERYONE if left < right]
# What can happen between two runs, several at once. A record's group is what links it to others.
arrivals = st.tuples(st.just("arrive"), st.sampled_from(EVERYONE), st.integers(1, 3))
withdrawals = st.tuples(st.just("withdraw"), st.sampled_from(EVERYONE), st.none())
feeds_leaving = st.tuples(st.just("leave"), st.sampled_from([*FEEDS]), st.none())
verdicts = st.sampled_from(["must_link", "must_link", "cannot_link", "cannot_link", "withdrawn"])
stewards = st.tuples(st.just("decide"), st.sampled_from(PAIRS), verdicts)
happenings = st.lists(
    st.one_of(arrivals, arrivals, arrivals, stewards, stewards, withdrawals, feeds_leaving),
    max_size=8,
)
# The index begins with everyone in some group; then, for each run, days since the last.
beginnings = st.tuples(*[st.integers(1, 3) for _ in EVERYONE])
courses = st.lists(st.tuples(st.integers(0, 2), happenings), min_size=1, max_size=8)


def clustered(group: Mapping[str, int], taken: Sequence[Decision]) -> list[list[str]]:
    """Records of one group together, as far as decisions let them: a clustering for tests."""
    records = sorted(group)
    bound = constraints(pa.array(records, pa.string()), taken)
    part = list(range(len(records)))
    for left, right in zip(*(side.tolist() for side in bound.must), strict=True):
        part = [part[left] if number == part[right] else number for number in part]
    apart = {frozenset(pair) for pair in zip(*(s.tolist() for s in bound.cannot), strict=True)}
    clusters: dict[tuple[int, int], list[int]] = {}
    for number in dict.fromkeys(part):
        members = [row for row, of in enumerate(part) if of == number]
        attempt = 0
        while any(
            frozenset((one, other)) in apart
            for one in members
            for other in clusters.get((group[records[number]], attempt), ())
        ):
            attempt += 1
        clusters.setdefault((group[records[number]], attempt), []).extend(members)
    return [[records[row] for row in rows] for rows in clusters.values()]


@settings(max_examples=HISTORIES)
@given(beginnings, courses)
def test_a_history_ends_as_the_oracle_says(
    beginning: tuple[int, ...], course: list[tuple[int, list[tuple[str, str, object]]]]
) -> None:
    past, model, on = Past(), oracle.Index(), START
    group = dict(zip(EVERYONE, beginning, strict=True))
    every: list[Decision] = []
    ever: set[str] = set()
    for days, happened in [(0, []), *course]:
        on += timedelta(days=days)
        for what, whom, how in happened:
            if what == "arrive":
                group[whom] = how
            elif what == "withdraw":
                group.pop(whom, None)
            elif what == "leave":
                group = {record: g for record, g in group.items() if record not in FEEDS[whom]}
            else:
                maker = Maker("sam", "r", datetime(2025, 1, 1, tzinfo=UTC), len(every))
                asked = Proposal(whom, how, "so", "here")
                new, mistakes = judge([asked], every, known=EVERYONE, maker=maker)
                try:
                    model.decide(*whom, how)
                    assert not mistakes
                    every += new
                except oracle.Contradictory:
                    assert mistakes, "a contradiction is refused"
        taken = in_force(every)
        clusters = clustered(group, taken)
        assert model.honours(clusters)
        wanted = model.run(clusters, on)
        events = past.run(clusters, on, taken)
        said = {(e.kind, e.person_id, e.other_person_id, frozenset(e.record_ids)) for e in events}
        assert said == wanted and len(events) == len(wanted)
        if not events:
            past.runs.pop()
            past.days.pop()

        now = past.crosswalk(on)
        assert now == model.now and now.keys() == group.keys()
        persons: dict[str, list[str]] = {}
        for record, who in now.items():
            persons.setdefault(who, []).append(record)
        assert model.honours(persons.values()), "no decision is violated, by whatever chain"
        fresh = {e.person_id for e in events if e.kind == "minted"}
        assert not fresh & ever, "no id is used again"
        ever |= fresh
        assert past.run(clusters, on, taken) == [], "a rerun emits nothing"
        past.runs.pop()
        past.days.pop()
        day = START
        while day <= on:
            until = [run for run, at in zip(past.runs, past.days, strict=True) if at <= day]
            assert replay(until) == past.crosswalk(day) == model.on(day)
            day += timedelta(days=1)


def test_events_are_named_by_all_that_changes() -> None:
    one = Event("merged_into", "P1", "P2", ("a", "b"), "why")
    others = [
        Event("split_from", "P1", "P2", ("a", "b"), "why"),
        Event("merged_into", "P3", "P2", ("a", "b"), "why"),
        Event("merged_into", "P1", None, ("a", "b"), "why"),
        Event("merged_into", "P1", "P2", ("ab",), "why"),
        Event("merged_into", "P1", "P2", (), "why"),
    ]
    told = as_table([one, *others, one])
    names = event_ids(3, told).to_pylist()
    assert names[0] == names[-1] and len({*names}) == len(others) + 1
    assert not {*names} & {*event_ids(4, told).to_pylist()}
    assert all(len(name) == 32 for name in names)
