"""The index's memory: events as they are written, and the crosswalk that follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from concord.errors import UsageError
from concord.lake import scd2
from concord.lake.points import reach
from concord.lake.registry import Table
from concord.lake.tables import Append, Changes
from concord.linkage import identity, tables
from concord.linkage.identity import Event, Holding
from concord.linkage.index import Index


@dataclass(frozen=True)
class Present:
    """What is known before a run decides.

    `open`: record id -> its open row of the crosswalk. `minted`: every person id there ever was ->
    the sequence number of the run that minted it. `sequence`: of the last run with events.
    """

    open: Mapping[str, Holding] = field(default_factory=dict)
    minted: Mapping[str, int] = field(default_factory=dict)
    sequence: int = 0


def catch_up(here: Index) -> Present:
    """Reads the present, and first finishes the crosswalk of a run that was killed.

    Raises UsageError if persons changed on a day after the run's `as_of`.
    """
    lake = here.lake
    known = lake.read(tables.EVENTS).select("kind", "person_id", "sequence", "as_of").toArrow()
    last_day = max(known["as_of"].to_pylist(), default=None)
    if last_day is not None and here.run.as_of < last_day:
        raise UsageError(
            f"--as-of {here.run.as_of}: persons were last decided on as of {last_day}, and the "
            "crosswalk goes forward only; give that day or a later one"
        )
    is_minted = pc.equal(known["kind"], "minted")
    mints = known.filter(is_minted)
    minted = dict(zip(mints["person_id"].to_pylist(), mints["sequence"].to_pylist(), strict=True))
    rows = lake.read(tables.CROSSWALK).where("valid_to IS NULL").toArrow().to_pylist()
    names = [f.name for f in tables.CROSSWALK.columns]
    open_rows = {row["record_id"]: Holding(**{n: row[n] for n in names}) for row in rows}
    present = Present(open_rows, minted, here.last(tables.EVENTS))
    for sequence in range(here.last(tables.CROSSWALK) + 1, present.sequence + 1):
        events, day, run_id = _read(here, sequence)
        present = _follow(here, present, events, sequence, on=day, run_id=run_id)
    return present


def record(here: Index, present: Present, events: Sequence[Event]) -> Present:
    """Writes a run's events and lets the crosswalk follow. Nothing is written if there are none."""
    if not events:
        return present
    run, sequence = here.run, present.sequence + 1
    columns: dict[str, Sequence[object]] = {
        "event_id": [identity.event_id(sequence, event) for event in events],
        "kind": [event.kind for event in events],
        "person_id": [event.person_id for event in events],
        "other_person_id": [event.other_person_id for event in events],
        "record_ids": [list(event.record_ids) for event in events],
        "reason": [event.reason for event in events],
    }
    frame = (
        here.lake.spark.createDataFrame(_arrow(tables.EVENTS, columns))
        .withColumn("sequence", F.lit(sequence).cast("bigint"))
        .withColumn("as_of", F.lit(run.as_of))
        .withColumn("run_id", F.lit(run.run_id))
        .withColumn("model_version", F.lit(here.model.model_version))
        .withColumn("actor", F.lit(run.actor))
    )
    reach("index.decided")
    here.write(frame.coalesce(1), tables.EVENTS, Append(), sequence)
    fresh = {event.person_id: sequence for event in events if event.kind == "minted"}
    after = Present(present.open, {**present.minted, **fresh}, sequence)
    return _follow(here, after, events, sequence, on=run.as_of, run_id=run.run_id)


def told(here: Index) -> dict[str, int]:
    """How many events of each kind the run has written, in whichever of its attempts."""
    mine = here.lake.read(tables.EVENTS).where(F.col("run_id") == here.run.run_id)
    return {row["kind"]: row["count"] for row in mine.groupBy("kind").count().collect()}


def _read(here: Index, sequence: int) -> tuple[list[Event], date, str]:
    rows = here.lake.read(tables.EVENTS).where(F.col("sequence") == sequence).collect()
    events = [
        Event(
            row["kind"],
            row["person_id"],
            row["other_person_id"],
            tuple(row["record_ids"]),
            row["reason"],
        )
        for row in rows
    ]
    return events, rows[0]["as_of"], rows[0]["run_id"]


def _follow(
    here: Index,
    present: Present,
    events: Sequence[Event],
    sequence: int,
    *,
    on: date,
    run_id: str,
) -> Present:
    """Brings the crosswalk after the events of one run."""
    put, delete = identity.holdings(present.open, events, on=on, run_id=run_id)
    rows = [*put, *delete]
    columns = {name: [getattr(row, name) for row in rows] for name in tables.CROSSWALK.column_names}
    operations = ["put"] * len(put) + ["delete"] * len(delete)
    arrow = _arrow(tables.CROSSWALK, columns).append_column(
        scd2.OPERATION, pa.array(operations, pa.string())
    )
    frame = here.lake.spark.createDataFrame(arrow)
    here.write(frame.coalesce(1), tables.CROSSWALK, Changes(), sequence)
    gone = {record for record, (person, _) in identity.moved(events).items() if person is None}
    still = {record: row for record, row in present.open.items() if record not in gone}
    still.update({row.record_id: row for row in put if row.valid_to is None})
    return Present(still, present.minted, present.sequence)


def _arrow(table: Table, columns: Mapping[str, Sequence[object]]) -> pa.Table:
    """Columns as Arrow, typed as the table declares them."""
    kinds = {"string": pa.string(), "date": pa.date32(), "array<string>": pa.list_(pa.string())}
    types = {column.name: kinds.get(column.type) for column in table.columns}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
