"""Few rows merged and replaced by the driver: what a list would hold, told as Delta tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deltalake
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError
from concord.lake import driver
from concord.lake.locks import Locks
from concord.lake.registry import Column, Table
from concord.lake.scd2 import OPERATION
from concord.lake.tables import Lake
from concord.lake.writes import Append, Changes, How, Merge, ReplaceWhere, Stamp, Transaction
from concord.lake.zones import Zones
from tests.feeds import LABELS

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("quick")]

STAMP = Stamp(run_id="run-7", job="ingest", code_version="1.2.3", agreements=("MOU-2018-0001",))
VISITS = Table(
    name="curated/visits",
    columns=(
        Column("client", "string", "the agency's number"),
        Column("part", "int", "of the visit, if it has several"),
        Column("amount", "int"),
        Column("_period", "string"),
        Column("_sequence", "bigint"),
    ),
    key=("client", "part"),
    owner="tests",
    description="Visits to a small agency.",
    partition_by=("_period",),
    properties={"delta.enableChangeDataFeed": "true"},
    statistics=("_sequence",),
)
NEWER = Merge(newer=("_period", "_sequence"))

Row = tuple[str, int | None, int | None, str, int]
Batch = tuple[How, list[tuple[Any, ...]]]
Change = tuple[int, str, Row]

ROWS = st.tuples(
    st.sampled_from("abcd"),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, 5, 6]),
    st.sampled_from(["2025-04", "2025-05"]),
    st.integers(1, 3),
)
MANY = st.lists(ROWS, max_size=6, unique_by=lambda row: row[:2])
CHANGES = st.lists(
    st.tuples(ROWS, st.sampled_from(["put", "delete"])), max_size=6, unique_by=lambda c: c[0][:2]
).map(lambda changes: [(*row, operation) for row, operation in changes])
REPLACING = [
    ReplaceWhere({"_period": ("2025-05",)}),
    ReplaceWhere({"_period": ("2025-04", "2025-06"), "client": ("a", "b")}),
    ReplaceWhere({"amount": (5,)}),
]


def held(how: ReplaceWhere, row: Row) -> bool:
    named = dict(zip(VISITS.column_names, row, strict=True))
    return all(named[column] in values for column, values in how.values.items())


BATCHES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([NEWER, Merge()]), MANY),
        st.tuples(st.just(Changes()), CHANGES),
        st.tuples(st.sampled_from(REPLACING), MANY).map(
            lambda b: (b[0], [row for row in b[1] if held(b[0], row)])
        ),
    ),
    min_size=1,
    max_size=5,
)


def lake_at(spark: SparkSession, root: Path) -> Lake:
    locks = Locks.of(spark, str(root), 60, job="ingest", run_id="run-7", actor="tester")
    return Lake(spark, str(root), locks=locks, lock_wait=5, zones=Zones("ingest"))


def merged(table: list[Row], version: int, how: How, rows: Sequence[tuple]) -> list[Change]:
    """Does the same to a table that is a list, and tells what that changed: the oracle."""
    changes: list[Change] = []
    if isinstance(how, ReplaceWhere):
        changes = [(version, "delete", row) for row in table if held(how, row)]
        table[:] = [*(row for row in table if not held(how, row)), *rows]
        return [*changes, *((version, "insert", row) for row in rows)]
    for given_row in rows:
        row, operation = given_row[:5], (given_row[5] if isinstance(how, Changes) else "put")
        mine = [old for old in table if old[:2] == row[:2]]
        if not mine and operation == "put":
            table.append(row)
            changes.append((version, "insert", row))
        for old in mine:
            if operation == "delete":
                table.remove(old)
                changes.append((version, "delete", old))
            elif how != NEWER or row[3:] > old[3:]:
                table.remove(old)
                table.append(row)
                changes.append((version, "update_preimage", old))
                changes.append((version, "update_postimage", row))
    return changes


def content(rows: Sequence[tuple], how: How) -> pa.Table:
    schema = VISITS.arrow_schema
    if isinstance(how, Changes):
        schema = schema.append(pa.field(OPERATION, pa.string()))
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def merge(lake: Lake, how: How, rows: Sequence[tuple], number: int, table: Table = VISITS) -> int:
    return lake.write(
        content(rows, how), table, how, stamp=STAMP, labels=LABELS,
        transaction=Transaction("ingest/visits", number),
    ).version  # fmt: skip


def order(row: Sequence[Any]) -> str:
    return repr(row)


def feed(lake: Lake, table: Table = VISITS) -> list[Change]:
    reader = lake.spark.read.format("delta").options(readChangeFeed=True, startingVersion=0)
    found = reader.load(lake.path(table)).select(
        "_commit_version", "_change_type", *table.column_names
    )
    return sorted(((row[0], row[1], tuple(row[2:])) for row in found.collect()), key=order)


def infos(lake: Lake, table: Table = VISITS) -> list[Mapping[str, Any]]:
    folder = Path(lake.path(table)) / "_delta_log"
    lines = [line for path in sorted(folder.glob("*.json")) for line in path.open()]
    return [a["commitInfo"] for a in map(json.loads, lines) if "commitInfo" in a]


@settings(max_examples=8)
@given(batches=BATCHES)
def test_few_rows_are_merged_and_replaced_as_in_a_list_and_each_change_is_told(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, batches: list[Batch]
) -> None:
    lake = lake_at(spark, tmp_path_factory.mktemp("lake"))
    lake.create(VISITS, LABELS, stamp=STAMP)
    table: list[Row] = []
    changes: list[Change] = []
    for number, (how, rows) in enumerate(batches, 1):
        assert merge(lake, how, rows, number) == number
        changes += merged(table, number, how, rows)

    rows = sorted(table, key=order)
    assert {info["engineInfo"] for info in infos(lake)} == {STAMP.engine}
    delta = spark.read.format("delta").load(lake.path(VISITS)).select(VISITS.column_names)
    assert sorted((tuple(row) for row in delta.collect()), key=order) == rows
    other = deltalake.DeltaTable(lake.path(VISITS)).to_pyarrow_table().select(VISITS.column_names)
    assert sorted((tuple(row.values()) for row in other.to_pylist()), key=order) == rows
    assert sorted((tuple(row.values()) for row in lake.rows(VISITS)), key=order) == rows
    assert feed(lake) == sorted(changes, key=order)


def test_spark_and_the_driver_tell_changes_alike(spark: SparkSession, tmp_path: Path) -> None:
    first: Sequence[Row] = [
        ("a", 0, 5, "2025-04", 1), ("a", None, 5, "2025-04", 1), ("b", 0, 5, "2025-05", 1),
        ("c", 0, 5, "2025-05", 1),
    ]  # fmt: skip
    then: Sequence[Row] = [
        ("a", 0, 6, "2025-05", 1), ("a", None, 6, "2025-04", 2), ("b", 0, 6, "2025-05", 1),
        ("d", 0, 6, "2025-05", 1),
    ]  # fmt: skip
    last = [(*then[0], "delete"), (*then[3][:2], 7, "2025-04", 4, "put"), (*first[3], "delete")]
    lakes = {name: lake_at(spark, tmp_path / name) for name in ("driver", "Spark")}
    for name, lake in lakes.items():
        most = {"driver": driver.MOST_HELD, "Spark": -1}[name]
        with patch.object(driver, "MOST_HELD", most):
            lake.create(VISITS, LABELS, stamp=STAMP)
            merge(lake, NEWER, first, 1)
            merge(lake, NEWER, then, 2)
            merge(lake, Changes(), last, 3)
            merge(lake, REPLACING[0], [("e", 0, 6, "2025-05", 1)], 4)
            merge(lake, ReplaceWhere({"amount": (6, 7)}), [("f", 0, 7, "2025-06", 1)], 5)

    by = [info["engineInfo"].split("/")[0] for info in infos(lakes["Spark"])]
    assert by == ["Concord", *["Apache-Spark"] * 5]
    assert {info["engineInfo"] for info in infos(lakes["driver"])} == {STAMP.engine}
    assert feed(lakes["driver"]) == feed(lakes["Spark"])
    other = deltalake.DeltaTable(lakes["driver"].path(VISITS)).load_cdf(starting_version=0)
    names = ["_commit_version", "_change_type", *VISITS.column_names]
    told = [tuple(row[name] for name in names) for row in pa.table(other.read_all()).to_pylist()]
    assert sorted(((v, c, tuple(row)) for v, c, *row in told), key=order) == feed(lakes["driver"])
    counted = [
        [
            {name: info["operationMetrics"].get(f"numTargetRows{name}") for name in
             ("Inserted", "Updated", "Deleted")}
            for info in infos(lake)[2:4]
        ]
        for lake in lakes.values()
    ]  # fmt: skip
    assert counted[0] == counted[1]


def test_what_is_replaced_is_the_same_in_arrow_and_in_sql(spark: SparkSession) -> None:
    days = [None, *(date(2025, 5, day) for day in (1, 2, 3))]
    texts = [None, "it's", "back\\slash", "b"]
    rows = pa.Table.from_pylist([{"d": day, "t": text} for day in days for text in texts])
    for how in (
        ReplaceWhere({"t": ("it's", "back\\slash")}, {"d": date(2025, 5, 2)}),
        ReplaceWhere({"d": (date(2025, 5, 1), date(2025, 5, 3))}),
        ReplaceWhere({}, {"d": date(2025, 5, 3)}),
    ):
        by_sql = spark.createDataFrame(rows).where(how.condition).collect()
        found = rows.filter(how.holds(rows)).to_pylist()
        assert 0 < len(found) < rows.num_rows
        assert sorted(map(repr, found)) == sorted(repr(row.asDict()) for row in by_sql)


def test_a_merge_that_is_repeated_does_nothing(spark: SparkSession, tmp_path: Path) -> None:
    lake = lake_at(spark, tmp_path)
    merge(lake, NEWER, [("a", 0, 5, "2025-04", 1)], 1)
    second = merge(lake, NEWER, [("a", 0, 6, "2025-05", 1)], 2)
    # With rows that differ: were it applied, it would show.
    assert merge(lake_at(spark, tmp_path), NEWER, [("b", 0, 6, "2025-05", 1)], 2) == second
    assert [row["client"] for row in lake.rows(VISITS)] == ["a"]


def test_only_files_with_a_row_that_changes_are_written_anew(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = lake_at(spark, tmp_path)
    merge(lake, NEWER, [("a", 0, 5, "2025-04", 1), ("b", 0, 5, "2025-05", 1)], 1)
    files = {*Path(lake.path(VISITS)).glob("_period=*/*.parquet")}
    merge(lake, NEWER, [("a", 0, 6, "2025-04", 2), ("b", 0, 6, "2025-05", 1)], 2)
    now = {
        Path(name.removeprefix("file://"))
        for name in deltalake.DeltaTable(lake.path(VISITS)).file_uris()
    }
    assert [place.parent.name for place in files & now] == ["_period=2025-05"] and len(now) == 2


@pytest.mark.parametrize(
    "why", ["more rows", "a key twice", "append only", "beyond", "somebody was first"]
)
def test_what_is_not_the_driver_s_is_left_to_delta(
    spark: SparkSession, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_at(spark, tmp_path)
    table, row = VISITS, ("a", 0, 5, "2025-04", 1)
    if why == "append only":
        table = replace(VISITS, properties={"delta.appendOnly": "true"})
    merge(lake, NEWER, [row, ("b", 0, 5, "2025-04", 1)], 1, table)
    rows = [("a", 0, 6, "2025-04", 2)]
    if why == "more rows":
        monkeypatch.setattr(driver, "MOST_HELD", 1)
    elif why == "a key twice":
        rows.append(("a", 0, 7, "2025-04", 3))
    elif why == "somebody was first":
        commit, met = lake.storage.commit, []

        def late(path: str, lines: Sequence[str]) -> bool:
            if not met:
                met.append(path)
                other = lake_at(spark, tmp_path)
                other.write(
                    content([("c", 0, 5, "2025-04", 1)], Append()), table, Append(), stamp=STAMP,
                    labels=LABELS, transaction=None,
                )  # fmt: skip
            return commit(path, lines)

        monkeypatch.setattr(lake.storage, "commit", late)

    if why == "beyond":
        with pytest.raises(InfrastructureError, match="curated/visits"):
            merge(lake, ReplaceWhere({"client": ("b",)}), rows, 2, table)
    if why in ("a key twice", "append only"):
        with pytest.raises(InfrastructureError, match="curated/visits"):
            merge(lake, NEWER, rows, 2, table)
    if why in ("a key twice", "append only", "beyond"):
        assert len(infos(lake)) == 1
        return
    merge(lake, NEWER, rows, 2, table)
    assert infos(lake)[-1]["engineInfo"].startswith("Apache-Spark")
    held = {row["client"]: row["amount"] for row in lake.rows(VISITS)}
    others = {"c": 5} if why == "somebody was first" else {}
    assert held == {"a": 6, "b": 5, **others}
