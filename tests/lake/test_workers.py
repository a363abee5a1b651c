"""Rows that workers make and store: what Spark would have written, told as Delta tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError
from concord.lake import driver, session, workers
from concord.lake.registry import Column, Table
from concord.lake.tables import Lake
from concord.lake.workers import Made
from concord.lake.writes import Append, How, Overwrite, Transaction, Written
from tests.feeds import LABELS
from tests.lake.test_driver import STAMP, lake_at

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("quick")]

PEOPLE = Table(
    name="index/people",
    columns=(
        Column("person", "string"),
        Column("town", "string"),
        Column("born", "date"),
        Column("weight", "double"),
        Column("times", "bigint"),
        Column("marks", "array<string>"),
    ),
    key=("person",),
    hashes=("person", "marks"),
    owner="tests",
    description="What workers make.",
)


def made(spark: SparkSession, tasks: list[list[int]], *, wrong: int | None = None) -> Made:
    """A person for each number, the numbers of each task made there; `wrong`: fails at it."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for batch in batches:
            for numbers in batch["numbers"].to_pylist():
                for number in numbers:
                    if number == wrong:
                        raise ValueError(f"Quillfeather {number}")
                    towns = pa.array(["Ware" if number % 2 else None]).dictionary_encode()
                    yield pa.table(
                        {
                            "times": pa.array([number], pa.int64()),
                            "more": [True],
                            "person": [f"p{number}"],
                            "town": towns,
                            "born": pa.array([number * 1000], pa.int32()).cast(pa.date32()),
                            "weight": [number / 3],
                            "marks": [[f"m{number}", f"m{number + 1}"]],
                        }
                    )

    rows = [(place, some) for place, some in enumerate(tasks)]
    frame = spark.createDataFrame(rows, "place int, numbers array<int>")
    return Made(frame.repartitionById(max(len(tasks), 1), "place"), make)


def write(lake: Lake, rows: Made | pa.Table, how: How, number: int) -> Written:
    return lake.write(
        rows, PEOPLE, how, stamp=STAMP, transaction=Transaction("people", number), labels=LABELS
    )


def persons(lake: Lake) -> list[str]:
    told = deltalake.DeltaTable(lake.path(PEOPLE)).to_pyarrow_table()
    assert told.schema.equals(PEOPLE.arrow_schema)
    by_spark = lake.spark.read.format("delta").load(lake.path(PEOPLE)).toArrow()
    assert by_spark.sort_by("person") == told.cast(by_spark.schema).sort_by("person")
    return sorted(told["person"].to_pylist())


def files(lake: Lake) -> set[str]:
    return {path.name for path in Path(lake.path(PEOPLE)).glob("*.parquet")}


def test_what_workers_made_is_added_or_replaces_all_and_is_told_in_the_log(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = lake_at(spark, tmp_path)
    first = write(lake, made(spark, [[1, 2], [], [3]]), Append(), 1)
    assert persons(lake) == ["p1", "p2", "p3"]
    assert write(lake, made(spark, [[4]]), Append(), 2).version == first.version + 1
    assert persons(lake) == ["p1", "p2", "p3", "p4"]
    last = write(lake, made(spark, [[5], [6]]), Overwrite(), 3)
    assert persons(lake) == ["p5", "p6"]
    log = Path(lake.path(PEOPLE), f"_delta_log/{last.version:020d}.json").read_text()
    actions = [json.loads(line) for line in log.splitlines()]
    (told,) = [action["commitInfo"] for action in actions if "commitInfo" in action]
    assert told["operationParameters"] == {"mode": "Overwrite"}
    assert told["operationMetrics"]["numOutputRows"] == "2"
    assert told["engineInfo"] == STAMP.engine, "no commit of Spark's"
    assert sum("remove" in action for action in actions) == 3
    write(lake, made(spark, []), Overwrite(), 4)
    assert persons(lake) == []


def test_hashes_are_stored_as_they_are_and_other_columns_made_smaller(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MOST_BYTES", 1)
    lake = lake_at(spark, tmp_path)
    write(lake, made(spark, [[1, 2]]), Append(), 1)
    write(lake, held([3, 4]), Append(), 2)
    for file in Path(lake.path(PEOPLE)).glob("*.parquet"):
        group = pq.read_metadata(file).row_group(0)
        stored = {
            of.path_in_schema: (of.compression, of.has_dictionary_page, of.is_stats_set)
            for of in map(group.column, range(group.num_columns))
        }
        hashes = {stored.pop("person"), stored.pop("marks.list.element")}
        assert hashes == {("UNCOMPRESSED", False, False)}
        assert {*stored.values()} == {("SNAPPY", True, True)}


def test_a_write_that_was_made_before_leaves_no_file(spark: SparkSession, tmp_path: Path) -> None:
    lake = lake_at(spark, tmp_path)
    once = write(lake, made(spark, [[1]]), Append(), 1)
    there = files(lake)
    again = write(lake, made(spark, [[2]]), Append(), 1)
    assert (again.version, again.applied) == (once.version, False)
    assert files(lake) == there
    assert persons(lake) == ["p1"]


def test_rows_that_can_not_be_made_leave_the_table_and_are_not_repeated(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = lake_at(spark, tmp_path)
    write(lake, made(spark, [[1]]), Append(), 1)
    there = files(lake)
    with pytest.raises(InfrastructureError, match="rows could not be made") as failed:
        write(lake, made(spark, [[2, 3, 4]], wrong=4), Overwrite(), 2)
    assert "Quillfeather" not in str(failed.value)
    assert files(lake) == there, "not the file that was begun"
    assert persons(lake) == ["p1"]


def test_where_workers_can_not_store_them_the_rows_go_through_spark(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = lake_at(spark, tmp_path).with_session(session.sibling(spark))
    split = replace(PEOPLE, name="index/split", partition_by=("person",))
    lake.write(
        made(spark, [[1, 2], [3]]), split, Append(),
        stamp=STAMP, transaction=Transaction("split", 1), labels=LABELS,
    )  # fmt: skip
    told = deltalake.DeltaTable(lake.path(split))
    assert sorted(told.to_pyarrow_table()["times"].to_pylist()) == [1, 2, 3]
    assert told.history(1)[0]["engineInfo"].startswith("Apache-Spark")


def held(numbers: list[int]) -> pa.Table:
    """As `made`, on the driver."""
    return pa.table(
        {
            "person": [f"p{number}" for number in numbers],
            "town": pa.array(["Ware"] * len(numbers)).dictionary_encode(),
            "born": pa.array([number * 1000 for number in numbers], pa.int32()).cast(pa.date32()),
            "weight": [number / 3 for number in numbers],
            "marks": [[f"m{number}"] for number in numbers],
            "times": pa.array(numbers, pa.int64()),
        }
    )


def test_many_rows_that_the_driver_holds_are_stored_without_a_query(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MOST_BYTES", 1)
    monkeypatch.setattr(workers, "IN_A_FILE", 2)
    lake = lake_at(spark, tmp_path)
    write(lake, held([1, 2, 3]), Append(), 1)
    write(lake, held([4]), Append(), 2)
    assert persons(lake) == ["p1", "p2", "p3", "p4"]
    assert len(files(lake)) == 3, "two of the first write"
    more = replace(made(spark, [[5], [6]]), more=held([7, 8, 9]))
    write(lake, more, Overwrite(), 3)
    assert persons(lake) == ["p5", "p6", "p7", "p8", "p9"]
    table = deltalake.DeltaTable(lake.path(PEOPLE))
    assert {each.get("engineInfo") for each in table.history()} == {STAMP.engine}
    one = made(spark, [[1]])
    spread = replace(one, more=replace(one, more=held([2])))
    assert sorted(spread.rows(PEOPLE).toArrow()["person"].to_pylist()) == ["p1", "p1", "p2"]
    write(lake, spread, Overwrite(), 4)
    assert persons(lake) == ["p1", "p1", "p2"]
