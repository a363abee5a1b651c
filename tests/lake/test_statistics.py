"""What the log tells of a file's columns: what Delta tells, and readers pass over no row by it."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from concord.lake import driver
from concord.lake.registry import Column, Table
from concord.lake.statistics import bounds
from concord.lake.tables import Lake
from concord.lake.writes import Append, Transaction
from tests.feeds import LABELS
from tests.lake.test_driver import STAMP, lake_at

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("quick")]

KINDS = {
    "town": "string", "day": "date", "at": "timestamp", "count": "bigint", "part": "int",
    "cents": "decimal(10,2)",
}  # fmt: skip
CALLS = Table(
    name="curated/calls",
    columns=(
        *(Column(name, kind) for name, kind in KINDS.items()),
        Column("caller", "string", identifier_role="direct"),
    ),
    key=("caller",),
    owner="tests",
    description="Calls to a small agency.",
    statistics=tuple(KINDS),
)
LONG = "Yarmouth Port, and all that is beside it"
Row = tuple[Any, ...]

TIMES = st.datetimes(datetime(2025, 1, 1), datetime(2025, 1, 2)).map(
    lambda at: at.replace(tzinfo=UTC)
)
ROWS = st.tuples(
    st.sampled_from([None, "", "Ware", "Ayer", LONG, LONG + "!", "Ý"]),
    st.none() | st.dates(date(1890, 1, 1), date(2030, 1, 1)),
    st.none() | TIMES,
    st.none() | st.integers(-(1 << 62), 1 << 62),
    st.none() | st.integers(-3, 3),
    st.sampled_from([None, Decimal("0.07"), Decimal("-99999999.99")]),
)


def rows_of(rows: Sequence[Row]) -> pa.Table:
    named = [
        {**dict(zip(KINDS, row, strict=True)), "caller": f"Quillfeather {number}"}
        for number, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(named, CALLS.arrow_schema)


def write(lake: Lake, rows: pa.Table, number: int, table: Table = CALLS) -> None:
    lake.write(
        rows, table, Append(), stamp=STAMP, labels=LABELS,
        transaction=Transaction("ingest/calls", number),
    )  # fmt: skip


def told(lake: Lake, table: Table = CALLS) -> list[dict[str, Any]]:
    """What the log tells of each file, as it was added."""
    logs = sorted(Path(lake.path(table), "_delta_log").glob("*.json"))
    actions = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [json.loads(action["add"]["stats"]) for action in actions if "add" in action]


FIXED: list[Row] = [
    ("Ware", date(2025, 3, 1), datetime(2025, 1, 1, 8, 0, 0, 1, UTC), 7, 1, Decimal("0.07")),
    (None, date(1999, 12, 31), datetime(2025, 1, 1, 7, 30, tzinfo=UTC), -9, None, None),
    (LONG, None, None, None, None, Decimal("-5.5")),
]


def test_it_is_what_delta_tells_of_the_same_rows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(spark, tmp_path)
    write(lake, rows_of(FIXED), 1)
    write(lake, rows_of(FIXED), 2)
    theirs = replace(CALLS, name="curated/theirs")
    monkeypatch.setattr(driver, "MOST_BYTES", -1)
    monkeypatch.setattr(Lake, "_by_workers", lambda *_: False)
    write(lake, rows_of(FIXED), 1, theirs)
    (expected,) = told(lake, theirs)
    for mine in told(lake):
        assert mine["numRecords"] == expected["numRecords"]
        assert mine["nullCount"] == expected["nullCount"]
        for side in ("minValues", "maxValues"):
            assert {*mine[side]} == {*KINDS}
            for name in {*KINDS} - {"at", "town"} if side == "maxValues" else {*KINDS}:
                assert mine[side][name] == expected[side][name], (side, name)
        assert mine["maxValues"]["town"] > LONG[:32] < expected["maxValues"]["town"]
        # Delta cuts off what is below a millisecond, and reckons with it as it reads.
        assert mine["maxValues"]["at"] == "2025-01-01T08:00:00.001Z"
    assert "Quillfeather" not in json.dumps(told(lake))


def test_spark_finds_every_row_by_it(spark: SparkSession, tmp_path: Path) -> None:
    lake = lake_at(spark, tmp_path)
    for number, row in enumerate(FIXED, 1):
        write(lake, rows_of([row]), number)
    frame = spark.read.format("delta").load(lake.path(CALLS))
    for number, row in enumerate(FIXED):
        for name, value in zip(KINDS, row, strict=True):
            kind, column = KINDS[name], F.col(name)
            wanted = column.isNull() if value is None else column == F.lit(value).cast(kind)
            times = frame.where(wanted).count()
            assert times >= 1, (number, name)
    exactly = F.lit("2025-01-01 08:00:00.000001+00:00").cast("timestamp")
    assert frame.where(F.col("at") >= exactly).count() == 1


OPERATORS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("==", operator.eq), ("<", operator.lt), ("<=", operator.le), (">", operator.gt),
    (">=", operator.ge),
]  # fmt: skip


@settings(max_examples=25)
@given(files=st.lists(st.lists(ROWS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_delta_rs_finds_every_row_by_it(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[Row]],
) -> None:
    lake = lake_at(spark, tmp_path_factory.mktemp("lake"))
    for number, rows in enumerate(files, 1):
        write(lake, rows_of(rows), number)
    found = deltalake.DeltaTable(lake.path(CALLS)).to_pyarrow_dataset()
    every = [row for rows in files for row in rows]
    for place, name in enumerate(KINDS):
        values = {row[place] for row in every}
        assert found.count_rows(filter=pc.field(name).is_null()) == sum(
            row[place] is None for row in every
        )
        for value in values - {None}:
            for said, by in OPERATORS:
                held = by(pc.field(name), pa.scalar(value, CALLS.arrow_schema.field(name).type))
                wanted = sum(row[place] is not None and by(row[place], value) for row in every)
                assert found.count_rows(filter=held) == wanted, (name, said, value)


@pytest.mark.parametrize(
    ("column", "why"), [("caller", "identifying"), ("open", "readers lose rows")]
)
def test_a_table_names_no_column_of_which_bounds_do_harm(column: str, why: str) -> None:
    columns = (*CALLS.columns, Column("open", "boolean"))
    with pytest.raises(ValueError, match=why):
        replace(CALLS, columns=columns, statistics=(column,))


@pytest.mark.parametrize("at", [datetime.max, datetime(9999, 12, 31, 23, 59, 59, 999000)])
def test_the_last_moment_there_is_breaks_no_write(at: datetime) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({"at": pa.array([at], pa.timestamp("us", "UTC"))}), content)
    held = pq.read_metadata(pa.BufferReader(content.getvalue()))
    told = bounds(held, ["at"])
    assert told.get("maxValues", {}) in ({}, {"at": "9999-12-31T23:59:59.999Z"})
    assert bool(told) == (at != datetime.max), "what is after it cannot be told"


def test_a_day_beyond_the_calendar_breaks_no_write() -> None:
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({"day": pa.array([2_932_897], pa.int32()).cast(pa.date32())}), content)
    assert bounds(pq.read_metadata(pa.BufferReader(content.getvalue())), ["day"]) == {}
