"""The index's memory: events as they are written, and the crosswalk that follows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from concord.errors import UsageError
from concord.lake import scd2
from concord.lake.points import reach
from concord.lake.workers import Made
from concord.lake.writes import Append, Changes, Overwrite
from concord.linkage import files, identity, tables
from concord.linkage.arrays import in_order
from concord.linkage.identity import EVENTS
from concord.linkage.index import Index
from concord.linkage.keys import among_sorted
from concord.linkage.records import numbers, of_numbers
from concord.linkage.values import Hashes


@dataclass(frozen=True)
class Present:
    """What is known before a run decides.

    `open`: number (as records.numbers), record_id and person_id of the crosswalk's open rows.
    `minted`: person_id, sequence: every person id there ever was and the sequence number of the run
    that minted it. `sequence`: of the last run with events.
    """

    open: pa.Table
    minted: pa.Table
    sequence: int = 0


PERSONS = ("record_id", "person_id")


def catch_up(here: Index) -> Present:
    """Reads the present, and first finishes the crosswalk of a run that was killed (a dry run
    only reckons with it).

    Raises UsageError if persons changed on a day after the run's `as_of`.
    """
    lake = here.lake
    told = ("kind", "person_id", "sequence", "as_of")
    known = files.collected(lake.read(tables.EVENTS), told, lambda rows: rows, plain=told)
    last_day = pc.max(known["as_of"]).as_py()
    if last_day is not None and here.run.as_of < last_day:
        raise UsageError(
            f"--as-of {here.run.as_of}: persons were last decided on as of {last_day}, and the "
            "crosswalk goes forward only; give that day or a later one"
        )
    minted = known.filter(pc.equal(known["kind"], "minted")).select(["person_id", "sequence"])
    open_rows = _open(here)
    present = Present(open_rows, minted, here.last(tables.EVENTS))
    for sequence in range(here.last(tables.CROSSWALK) + 1, present.sequence + 1):
        events, day, run_id = _read(here, sequence)
        begun = _follow(here, events, sequence, on=day, run_id=run_id)
        moved = in_order(numbers(identity.moves(events)["record_id"]))
        others = pa.array(~among_sorted(present.open["number"].to_numpy(), moved))
        whole = pa.concat_tables([present.open.filter(others), _numbered(begun)])
        present = replace(present, open=whole)
    return present


def _open(here: Index) -> pa.Table:
    def still(rows: pa.Table) -> pa.Table:
        return _numbered(rows.filter(pc.is_null(rows["valid_to"])))

    names = (*PERSONS, "valid_to")
    return files.collected(here.lake.read(tables.CROSSWALK), names, still, plain=names)


def _numbered(rows: pa.Table) -> pa.Table:
    which = pa.array(numbers(rows["record_id"]))
    return rows.select(PERSONS).append_column("number", which)


def _rows_of(here: Index, some: Hashes) -> pa.Table:
    """The crosswalk's open rows of some records, by their sorted numbers."""

    def mine(rows: pa.Table) -> pa.Table:
        return of_numbers(rows.filter(pc.is_null(rows["valid_to"])), some)

    names = tables.CROSSWALK.column_names
    return files.collected(here.lake.read(tables.CROSSWALK), names, mine, plain=names)


def record(here: Index, present: Present, events: pa.Table) -> None:
    """Writes a run's events (as identity.EVENTS) and lets the crosswalk follow. Nothing is written
    if there are none."""
    if not events.num_rows:
        return
    run, sequence = here.run, present.sequence + 1
    same = {"sequence": sequence, "as_of": run.as_of, "run_id": run.run_id}
    same |= {"model_version": here.model.model_version, "actor": run.actor}
    rows = events.append_column("event_id", identity.event_ids(sequence, events))
    for name, value in same.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(value), rows.num_rows))
    reach("index.decided")
    here.write(rows, tables.EVENTS, Append(), sequence)
    _follow(here, events, sequence, on=run.as_of, run_id=run.run_id)


def told(here: Index) -> Mapping[str, int]:
    """How many events of each kind the run has written, in whichever of its attempts."""
    run_id = here.run.run_id

    def mine(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.equal(rows["run_id"], run_id)).select(["kind"])

    events = here.lake.read(tables.EVENTS)
    kinds = files.collected(events, (), mine, plain=("run_id", "kind"))["kind"]
    return Counter(kinds.to_pylist())


def _read(here: Index, sequence: int) -> tuple[pa.Table, date, str]:
    rows = here.lake.read(tables.EVENTS).where(F.col("sequence") == sequence).toArrow()
    events = rows.select(EVENTS.names).cast(EVENTS)
    return events, rows["as_of"][0].as_py(), rows["run_id"][0].as_py()


def _follow(here: Index, events: pa.Table, sequence: int, *, on: date, run_id: str) -> pa.Table:
    """Brings the crosswalk after the events of one run; the rows that begin with them."""
    moved = in_order(numbers(identity.moves(events)["record_id"]))
    put, gone = identity.changed_rows(_rows_of(here, moved), events, on=on, run_id=run_id)
    rows = pa.concat_tables(
        [
            each.append_column(scd2.OPERATION, pa.repeat(pa.scalar(what), each.num_rows))
            for each, what in ((put, "put"), (gone.select(put.column_names), "delete"))
        ]
    )
    if not here.run.dry_run:
        _write(here, rows, sequence)
    return put.filter(pc.is_null(put["valid_to"]))


def _write(here: Index, changes: pa.Table, sequence: int) -> None:
    """Changes of the crosswalk's rows, by key, to be put or deleted.

    Of a large one nearly every file has a row that changes: all are written anew, by the workers.
    """
    if here.few(tables.CROSSWALK):
        here.write(changes, tables.CROSSWALK, Changes(), sequence)
        return
    names = tables.CROSSWALK.column_names
    sent, tables_of = files.tables_of(here.lake.read(tables.CROSSWALK), names, plain=("record_id",))
    ids, keys = pc.unique(changes["record_id"]), _keys(changes)

    def still(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for rows in tables_of(batches):
            concerned = pc.is_in(rows["record_id"], value_set=ids)
            some = rows.filter(concerned)
            kept = some.filter(pc.invert(pc.is_in(_keys(some), value_set=keys)))
            # As one, or a file would have twice as many row groups after each run.
            yield pa.concat_tables([rows.filter(pc.invert(concerned)), kept])

    put = changes.filter(pc.equal(changes[scd2.OPERATION], "put")).select(names)
    here.write(Made(sent, still, put), tables.CROSSWALK, Overwrite(), sequence)


def _keys(rows: pa.Table) -> pa.Array:
    """The crosswalk's key of each row as one text."""
    parts = (rows["record_id"], rows["valid_from"].cast(pa.string()))
    return pc.binary_join_element_wise(*parts, " ").combine_chunks()
