"""Persons over time: what a new clustering does to the person ids that there are. Pure.

Ids are opaque, minted once and kept: a cluster inherits the id that holds the largest share of its
records, by one-to-one assignment. Every change is an event, and the events of all runs, replayed,
give the crosswalk of any date. `decide` is the definition, in plain Python; `decide_arrays` gives
the same events and looks only at clusters that are not a present person as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from concord.linkage.arrays import distinct, places, places_of_few
from concord.linkage.decisions import Decision
from concord.linkage.patterns import Integers
from concord.privacy.hashing import HASH_HEX, Key
from concord.privacy.records import SEPARATOR, person_id, person_ids

Kind = Literal["minted", "joined", "left", "merged_into", "split_from", "retired"]
# The order in which a run's events are told.
KINDS: tuple[Kind, ...] = ("minted", "joined", "merged_into", "split_from", "left", "retired")
NEW = "new records make a person"
# Events as a table: a row each, as of the class Event.
EVENTS = pa.schema(
    {
        "kind": pa.string(),
        "person_id": pa.string(),
        "other_person_id": pa.string(),
        "record_ids": pa.list_(pa.string()),
        "reason": pa.string(),
    }
)


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


def decide(
    before: Mapping[str, str],
    clusters: Iterable[Sequence[str]],
    *,
    minted: Mapping[str, int],
    mint: Callable[[str], str],
    decisions: Iterable[Decision] = (),
) -> list[Event]:
    """The events that take the present persons to the new clusters.

    `before`: record id -> person id of now. `clusters`: record ids, each in one cluster. `minted`:
    person id -> number of the run that minted it, for every person of `before`. `mint`: a founding
    record id -> a person id that never was. `decisions`: those in force, which the clusters honour.

    Which id a cluster inherits: of all pairs of a cluster and a person that share records, taken in
    order, each gives the person's id to the cluster if neither is given yet. First those that
    a steward confirmed: both records of a must-link are in the cluster and were the person's; then
    those that share most records; then the oldest person's; then by letter.
    """
    given = list(decisions)
    whole = [sorted(cluster) for cluster in clusters]
    whole.sort()
    changed, held = _changed(before, whole)
    heirs = _assign(before, [whole[i] for i in changed], minted, given)
    events: list[Event] = []
    inside: set[str] = set()
    moves: dict[tuple[str, str], list[str]] = {}
    after: dict[str, str] = {}
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
                    NEW if fresh else "records part from another person",
                )
            )
        elif fresh:
            events.append(Event("joined", person, None, fresh, "new records link to the person"))
        inside.add(person)
        after.update(dict.fromkeys(cluster, person))
        for record in cluster:
            if (old := before.get(record)) is not None and old != person:
                moves.setdefault((old, person), []).append(record)
    events += _moves(moves, alive=inside | held, why=_caused(before, after, given))
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
    before: Mapping[str, str],
    clusters: Sequence[Sequence[str]],
    minted: Mapping[str, int],
    decisions: Iterable[Decision],
) -> dict[int, str]:
    """Cluster number -> the id that it inherits, one to one."""
    place = {record: number for number, cluster in enumerate(clusters) for record in cluster}
    confirmed = set()
    for decision in decisions:
        left, right = decision.pair
        together = place.get(left, -1) == place.get(right, -2)
        if decision.verdict == "must_link" and together and before.get(left) == before.get(right):
            confirmed.add((place[left], before.get(left)))
    shares: dict[tuple[int, str], int] = {}
    for number, cluster in enumerate(clusters):
        for record in cluster:
            if (person := before.get(record)) is not None:
                shares[number, person] = shares.get((number, person), 0) + 1
    order = sorted(
        shares,
        key=lambda pair: (
            pair not in confirmed,
            -shares[pair],
            minted[pair[1]],
            pair[1],
            clusters[pair[0]][0],
        ),
    )
    heirs: dict[int, str] = {}
    taken: set[str] = set()
    for number, person in order:
        if number not in heirs and person not in taken:
            heirs[number] = person
            taken.add(person)
    return heirs


def _caused(
    before: Mapping[str, str], after: Mapping[str, str], decisions: Iterable[Decision]
) -> dict[tuple[str, str], str]:
    """(old person, new person) -> in words, the decisions that moved records from one to the other.

    Those that hold for the persons of now and did not for those before. `after`: of the records of
    changed clusters alone, which are all that can be moved.
    """
    causes: dict[tuple[str, str], list[str]] = {}
    for decision in sorted(decisions, key=lambda d: d.decision_id):
        left, right = decision.pair
        if left in before and right in before and left in after and right in after:
            asked = decision.verdict == "must_link"
            was = before[left] == before[right]
            if was != asked and (after[left] == after[right]) == asked:
                named = f"{decision.decision_id} ({decision.actor})"
                # A set: both records can make the same move.
                for move in {(before[record], after[record]) for record in (left, right)}:
                    causes.setdefault(move, []).append(named)
    return {move: f", by a steward's decision {', '.join(ids)}" for move, ids in causes.items()}


def _moves(
    moves: Mapping[tuple[str, str], Sequence[str]],
    *,
    alive: set[str],
    why: Mapping[tuple[str, str], str],
) -> list[Event]:
    """Records that change person. An id that no cluster inherited goes where most of it goes."""
    goes_to: dict[str, str] = {}
    for old, new in sorted(moves, key=lambda pair: (pair[0], -len(moves[pair]), pair[1])):
        if old not in alive:
            goes_to.setdefault(old, new)
    events = []
    for (old, new), records in moves.items():
        whole = tuple(sorted(records))
        because = why.get((old, new), "")
        if goes_to.get(old) == new:
            reason = f"records of both link{because}"
            events.append(Event("merged_into", old, new, whole, reason))
        else:
            reason = f"records no longer link to the other person{because}"
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


def aligned(
    numbers: npt.NDArray[np.uint64], present: pa.Table
) -> tuple[pa.DictionaryArray, pa.Table]:
    """What `decide_arrays` takes of `present` (number, record_id, person_id; the open crosswalk).

    The person of each record by its number, null where it has none; and the rows of other records.
    `numbers`: sorted.
    """
    at = places(numbers, present["number"].to_numpy())
    there = at >= 0
    persons = _flat(present["person_id"]).dictionary_encode()
    codes = np.full(len(numbers), -1, dtype=np.int32)
    codes[at[there]] = persons.indices.to_numpy()[there]
    gone = present.select(["record_id", "person_id"]).filter(pa.array(~there))
    return _persons(codes, persons.dictionary), gone


def followed(before: pa.DictionaryArray, at: Integers, after: pa.Array) -> pa.DictionaryArray:
    """The person of each record, of those who had `before`, once those at `at` have `after`."""
    if not len(at):
        return before
    known = len(before.dictionary)
    new = after.dictionary_encode()
    codes = before.indices.fill_null(-1).to_numpy().copy()
    old = pc.index_in(new.dictionary, value_set=before.dictionary).fill_null(-1).to_numpy()
    more = np.flatnonzero(old < 0)
    place = old.copy()
    place[more] = known + np.arange(len(more))
    codes[at] = np.append(place, -1)[new.indices.fill_null(-1).to_numpy()]
    named = pa.concat_arrays([before.dictionary, new.dictionary.take(pa.array(more))])
    return _persons(codes, named)


def _persons(codes: npt.NDArray[np.int32], ids: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), ids)


def decide_arrays(
    record_ids: pa.Array,
    cluster: Integers,
    before: pa.DictionaryArray,
    gone: pa.Table,
    *,
    minted: pa.Table,
    mint: Callable[[Sequence[str]], Sequence[str]],
    decisions: Iterable[Decision] = (),
) -> pa.Table:
    """What `decide` gives, in its order, as a table of EVENTS.

    A row each: `record_ids`, distinct; `cluster`, any number; `before`, the person of now or null.
    `gone`: record_id, person_id of records that are no longer there. `minted`: person_id, sequence
    of all persons, or of those named. `mint`: founding records -> ids that never were.

    Clusters that are a present person as it was and those of new records alone are told apart by
    columns; `decide` sees the others, with all of their persons' records, gone ones too.
    """
    _, code = distinct(cluster)
    person = before.indices.fill_null(-1).to_numpy().astype(np.int64)
    sizes = _sizes(person, before.dictionary, gone["person_id"])
    count = np.bincount(code)
    first = np.empty(len(count), dtype=np.int64)
    first[code] = person
    mixed = np.bincount(code[person != first[code]], minlength=len(count)) > 0
    held = ~mixed & (first >= 0) & (count == sizes[first])
    fresh = ~mixed & (first < 0)
    new = _members(record_ids, code, fresh)
    rest = _members(record_ids, code, ~held & ~fresh)
    ids = dict(zip(founders := _firsts(new) + _firsts(rest), mint(founders), strict=True))

    inside = pa.array(~(held | fresh)[code])
    keys = pa.concat_arrays([record_ids.filter(inside), *gone["record_id"].chunks])
    mine = before.filter(inside).cast(pa.string())
    values = pa.concat_arrays([mine, *gone["person_id"].chunks])
    of = zip(keys.to_pylist(), values.to_pylist(), strict=True)
    births = minted.filter(pc.is_in(minted["person_id"], value_set=values))
    changes = decide(
        {record: old for record, old in of if old is not None},
        rest.to_pylist(),
        minted=dict(
            zip(births["person_id"].to_pylist(), births["sequence"].to_pylist(), strict=True)
        ),
        mint=ids.__getitem__,
        decisions=decisions,
    )
    made = pa.table(
        {
            "kind": pa.repeat("minted", len(new)),
            "person_id": pa.array([ids[founder] for founder in _firsts(new)], pa.string()),
            "other_person_id": pa.nulls(len(new), pa.string()),
            "record_ids": new,
            "reason": pa.repeat(NEW, len(new)),
        },
        EVENTS,
    )
    return _in_order(pa.concat_tables([made, as_table(changes)]))


def _sizes(person: Integers, ids: pa.Array, gone: pa.ChunkedArray) -> Integers:
    """How many records each person has, those that are gone too. `person`: of the others each one's
    place in `ids`, or -1."""
    left = places_of_few(_flat(gone), ids) if len(gone) else np.zeros(0, dtype=np.int64)
    of = np.concatenate([person, left])
    # One more, so that there is a size to look up where there are no persons.
    return np.bincount(of[of >= 0], minlength=len(ids) + 1)


def _members(record_ids: pa.Array, code: Integers, chosen: npt.NDArray[np.bool_]) -> pa.ListArray:
    """The record ids of each chosen cluster, sorted."""
    rows = np.flatnonzero(chosen[code])
    picked = record_ids.take(pa.array(rows))
    by_id = pc.sort_indices(picked).to_numpy()
    order = by_id[np.argsort(code[rows][by_id], kind="stable")]
    ends = np.cumsum(np.bincount(code[rows], minlength=len(chosen))[chosen])
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), picked.take(pa.array(order)))


def _firsts(lists: pa.ListArray) -> list[str]:
    return pc.list_element(lists, 0).to_pylist() if len(lists) else []


def _in_order(events: pa.Table) -> pa.Table:
    """Events in the order of `decide`."""
    ranked = events.append_column("rank", pc.index_in(events["kind"], value_set=pa.array(KINDS)))
    keys = [(name, "ascending") for name in ("rank", "person_id", "other_person_id")]
    order = pc.sort_indices(ranked, sort_keys=keys)
    return events.take(order).combine_chunks()


def as_table(events: Sequence[Event]) -> pa.Table:
    """Events as a table of EVENTS."""
    return pa.table(
        {name: [getattr(event, name) for event in events] for name in EVENTS.names}, EVENTS
    )


def as_events(table: pa.Table) -> list[Event]:
    """The events of a table of EVENTS."""
    rows = table.select(EVENTS.names).to_pylist()
    return [Event(**{**row, "record_ids": tuple(row["record_ids"])}) for row in rows]


def mint_ids(founders: Sequence[str], *, key: Key, run_id: str, taken: pa.Array) -> list[str]:
    """A person id for each founding record, none of them among `taken`: all that were ever minted.

    A run that is repeated mints the same; the same run id given to another run does not.
    """
    ids = person_ids(key, run_id=run_id, record_ids=founders)
    attempt = 0
    while again := np.flatnonzero(pc.is_in(pa.array(ids, pa.string()), value_set=taken)).tolist():
        attempt += 1
        for place in again:
            ids[place] = person_id(key, run_id=run_id, record_id=founders[place], attempt=attempt)
    return ids


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


def moves(events: pa.Table) -> pa.Table:
    """`moved`, by columns: record_id, person_id (null: none from then on), how."""
    at = pc.list_parent_indices(events["record_ids"].combine_chunks())
    each = events.select(["kind", "person_id", "other_person_id"]).combine_chunks().take(at)
    kind = each["kind"]
    person = pc.if_else(pc.equal(kind, "merged_into"), each["other_person_id"], each["person_id"])
    gone = pc.equal(kind, "left")
    return pa.table(
        {
            "record_id": pc.list_flatten(events["record_ids"].combine_chunks()),
            "person_id": pc.if_else(gone, pa.scalar(None, pa.string()), person),
            "how": kind,
        }
    )


def churn(events: pa.Table) -> pa.Array:
    """Records that change from one person to another."""
    kinds = pa.array(["merged_into", "split_from"])
    said = events.filter(pc.is_in(events["kind"], value_set=kinds))["record_ids"]
    return pc.list_flatten(_flat(said))


def in_words(events: pa.Table, *, each: int = 3) -> list[str]:
    """Some events of each kind that changes a person that there was, in words."""
    told = []
    for kind in ("merged_into", "split_from", "left", "retired", "joined"):
        some = as_events(events.filter(pc.equal(events["kind"], kind)).slice(0, each))
        for event in some:
            other = f" {event.other_person_id}" if event.other_person_id else ""
            count = len(event.record_ids)
            told.append(
                f"{event.person_id} {kind}{other}: {count} record{'s' * (count != 1)} "
                f"({', '.join(event.record_ids[:each])}{', ...' * (count > each)}); {event.reason}"
            )
    return told


def changed_rows(
    present: pa.Table, events: pa.Table, *, on: date, run_id: str
) -> tuple[pa.Table, pa.Table]:
    """What events of day `on` do to the open rows of the crosswalk: rows to put, rows to delete.

    `present`: the open rows of the records concerned, or more of them; columns of the crosswalk.
    An open row ends on that day. One that began on the same day never held: it is replaced, or
    deleted when nothing follows it.
    """
    said = moves(events)
    day = pa.scalar(on, pa.date32())
    at = places_of_few(_flat(said["record_id"]), _flat(present["record_id"]))
    had = present.take(pa.array(at[at >= 0]))
    follows = pc.is_valid(said["person_id"].filter(pa.array(at >= 0)))
    begun_today = pc.equal(had["valid_from"], day)
    ended = had.filter(pc.invert(begun_today))
    ended = ended.set_column(
        ended.column_names.index("valid_to"), "valid_to", pa.repeat(day, ended.num_rows)
    )
    kept = said.filter(pc.is_valid(said["person_id"]))
    begun = pa.table(
        {
            "record_id": kept["record_id"],
            "person_id": kept["person_id"],
            "valid_from": pa.repeat(day, kept.num_rows),
            "valid_to": pa.nulls(kept.num_rows, pa.date32()),
            "run_id": pa.repeat(pa.scalar(run_id, pa.string()), kept.num_rows),
            "how": kept["how"],
        }
    )
    put = pa.concat_tables([ended.select(begun.column_names), begun])
    return put, had.filter(pc.and_(begun_today, pc.invert(follows)))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


def event_ids(sequence: int, events: pa.Table) -> pa.Array:
    """Names events of the index's `sequence`-th change: 128 bits each, hex, of all that changes."""
    records = pc.binary_join(_flat(events["record_ids"]), SEPARATOR)
    other = pc.fill_null(_flat(events["other_person_id"]), "")
    parts = (_flat(events["kind"]), _flat(events["person_id"]), other, records)
    said = pc.binary_join_element_wise(str(sequence), *parts, SEPARATOR)
    digests = (hashlib.sha256(text.encode()).hexdigest()[:HASH_HEX] for text in said.to_pylist())
    return pa.array(digests, pa.string())
