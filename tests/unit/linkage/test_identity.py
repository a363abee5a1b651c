"""Persons over time, against invariants and a small model under generated histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from concord.linkage.identity import Event, Holding, decide, holdings, moved, replay

START = date(2025, 1, 1)


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

    def run(self, clusters: list[list[str]], on: date) -> list[Event]:
        number = len(self.runs) + 1
        before = {record: row.person_id for record, row in self.present.items()}

        def mint(founder: str) -> str:
            return f"P{number}-{founder}"

        events = decide(before, clusters, minted=self.minted, mint=mint)
        put, delete = holdings(self.present, events, on=on, run_id=f"run-{number}")
        for row in delete:
            del self.rows[row.record_id, row.valid_from]
        for row in put:
            self.rows[row.record_id, row.valid_from] = row
        self.minted |= {e.person_id: number for e in events if e.kind == "minted"}
        self.runs.append(events)
        self.days.append(on)
        return events

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
