"""Persons over time: what a new clustering does to the person ids that there are. Pure Python.

Ids are opaque, minted once and kept: a cluster inherits the id that holds the largest share of its
records, by one-to-one assignment. Every change is an event, and the events of all runs, replayed,
give the crosswalk of any date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from concord.lake.run import digest

Kind = Literal["minted", "joined", "left", "merged_into", "split_from", "retired"]
# The order in which a run's events are told.
KINDS: tuple[Kind, ...] = ("minted", "joined", "merged_into", "split_from", "left", "retired")


@dataclass(frozen=True)
class Event:
    """One change of one person.

    minted: the person comes to be, with records that no person had (none, if it is split off).
    joined, left: records come to it that no person had, or are no longer in the index.
    merged_into: it ends; `record_ids` go to `other_person_id`. split_from: `record_ids` come to it
    from `other_person_id`. retired: it ends without records.
    """

    kind: Kind
    person_id: str
    other_person_id: str | None
    record_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Holding:
    """One row of the crosswalk: a record's person from a day on, until another, exclusive."""

    record_id: str
    person_id: str
    valid_from: date
    valid_to: date | None
    run_id: str
    how: str


def decide(
    before: Mapping[str, str],
    clusters: Iterable[Sequence[str]],
    *,
    minted: Mapping[str, int],
    mint: Callable[[str], str],
) -> list[Event]:
    """The events that take the present persons to the new clusters.

    `before`: record id -> person id of now. `clusters`: record ids, each in one cluster. `minted`:
    person id -> number of the run that minted it, for every person of `before`. `mint`: a founding
    record id -> a person id that never was. Which id a cluster inherits: the one that most of its
    records have; of equals the oldest, then the smaller by letter. An id goes to one cluster, the
    one with most of its records.
    """
    whole = [sorted(cluster) for cluster in clusters]
    whole.sort()
    changed, held = _changed(before, whole)
    heirs = _assign(before, [whole[i] for i in changed], minted)
    events: list[Event] = []
    inside: set[str] = set()
    moves: dict[tuple[str, str], list[str]] = {}
    for place, number in enumerate(changed):
        cluster = whole[number]
        fresh = tuple(record for record in cluster if record not in before)
        inherited = heirs.get(place)
        person = inherited or mint(cluster[0])
        if inherited is None:
            events.append(
                Event(
                    "minted",
                    person,
                    None,
                    fresh,
                    "new records make a person" if fresh else "records part from another person",
                )
            )
        elif fresh:
            events.append(Event("joined", person, None, fresh, "new records link to the person"))
        inside.add(person)
        for record in cluster:
            if (old := before.get(record)) is not None and old != person:
                moves.setdefault((old, person), []).append(record)
    events += _moves(moves, alive=inside | held)
    events += _departures(before, whole, alive=inside | held, moved={old for old, _ in moves})
    return sorted(events, key=lambda e: (KINDS.index(e.kind), e.person_id, e.other_person_id or ""))


def _changed(
    before: Mapping[str, str], clusters: Sequence[Sequence[str]]
) -> tuple[list[int], set[str]]:
    """Numbers of the clusters that are not exactly one present person, and the persons that are."""
    sizes: dict[str, int] = {}
    for person in before.values():
        sizes[person] = sizes.get(person, 0) + 1
    changed, held = [], set()
    for number, cluster in enumerate(clusters):
        first = before.get(cluster[0])
        same = first is not None and all(before.get(record) == first for record in cluster)
        if first is not None and same and sizes[first] == len(cluster):
            held.add(first)
        else:
            changed.append(number)
    return changed, held


def _assign(
    before: Mapping[str, str], clusters: Sequence[Sequence[str]], minted: Mapping[str, int]
) -> dict[int, str]:
    """Cluster number -> the id that it inherits, one to one."""
    shares: dict[tuple[int, str], int] = {}
    for number, cluster in enumerate(clusters):
        for record in cluster:
            if (person := before.get(record)) is not None:
                shares[number, person] = shares.get((number, person), 0) + 1
    order = sorted(
        shares, key=lambda pair: (-shares[pair], minted[pair[1]], pair[1], clusters[pair[0]][0])
    )
    heirs: dict[int, str] = {}
    taken: set[str] = set()
    for number, person in order:
        if number not in heirs and person not in taken:
            heirs[number] = person
            taken.add(person)
    return heirs


def _moves(moves: Mapping[tuple[str, str], Sequence[str]], alive: set[str]) -> list[Event]:
    """Records that change person. An id that no cluster inherited goes where most of it goes."""
    goes_to: dict[str, str] = {}
    for old, new in sorted(moves, key=lambda pair: (pair[0], -len(moves[pair]), pair[1])):
        if old not in alive:
            goes_to.setdefault(old, new)
    events = []
    for (old, new), records in moves.items():
        whole = tuple(sorted(records))
        if goes_to.get(old) == new:
            reason = "records of both link"
            events.append(Event("merged_into", old, new, whole, reason))
        else:
            reason = "records no longer link to the other person"
            events.append(Event("split_from", new, old, whole, reason))
    return events


def _departures(
    before: Mapping[str, str],
    clusters: Iterable[Sequence[str]],
    *,
    alive: set[str],
    moved: set[str],
) -> list[Event]:
    """Records that are no longer in the index, and persons that end with them."""
    present = {record for cluster in clusters for record in cluster}
    gone: dict[str, list[str]] = {}
    for record, person in before.items():
        if record not in present:
            gone.setdefault(person, []).append(record)
    events = []
    for person, records in gone.items():
        reason = "no delivery in force has the records"
        events.append(Event("left", person, None, tuple(sorted(records)), reason))
        if person not in alive and person not in moved:
            events.append(Event("retired", person, None, (), "it has no records"))
    return events


def moved(events: Iterable[Event]) -> dict[str, tuple[str | None, Kind]]:
    """What a run's events say of each record: its person from then on (None: none), and how."""
    said: dict[str, tuple[str | None, Kind]] = {}
    for event in events:
        person = {"left": None, "merged_into": event.other_person_id}.get(
            event.kind, event.person_id
        )
        for record in event.record_ids:
            said[record] = (person, event.kind)
    return said


def replay(runs: Iterable[Iterable[Event]]) -> dict[str, str]:
    """Record id -> person id after all the runs' events, in order: the crosswalk of that day."""
    state: dict[str, str] = {}
    for events in runs:
        for record, (person, _) in moved(events).items():
            if person is None:
                state.pop(record, None)
            else:
                state[record] = person
    return state


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


def event_id(sequence: int, event: Event) -> str:
    """Names an event of the index's `sequence`-th change: 128 bits, hex."""
    return digest(sequence, event.kind, event.person_id, event.other_person_id, event.record_ids)
