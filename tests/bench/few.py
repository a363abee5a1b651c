"""`make bench BENCH=few`: rows of one commit written by the driver and by Spark, in turns.

Tables as ingestion's: texts, numbers and a day, by period, with a change feed. Appended to a table;
and merged into one of as many rows, half of them its own.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated
from unittest.mock import patch

import typer
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.markdown import Markdown

from concord.lake import driver
from concord.lake.locks import Locks
from concord.lake.registry import Column, Table
from concord.lake.session import start
from concord.lake.tables import Lake
from concord.lake.writes import Append, How, Merge, Stamp, Transaction
from concord.lake.zones import Zones
from tests.bench.engine_side import java_of, settings_of
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import between_markers, check_markers, machine_facts, table
from tests.feeds import LABELS

START, END = "<!-- few:start -->", "<!-- few:end -->"
ROWS, REPETITIONS = "1000,10000,100000,300000", 3
TEXTS, NUMBERS = 15, 8

console = Console(highlight=False)


def few(
    rows: Annotated[str, typer.Option(help="Rows of a commit, by commas.")] = ROWS,
    repetitions: Annotated[int, typer.Option(help="Of each, after two more.")] = REPETITIONS,
    memory: Memory = "4g",
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure commits of few rows made by the driver beside those that Spark makes."""
    check_markers(docs, START, END)
    facts = machine_facts("", memory)
    folder = (out / "few").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    spark = start(settings_of(folder, memory), application="concord bench")
    try:
        root = str(folder / "lake")
        locks = Locks.of(spark, root, 60, job="bench", run_id="bench", actor="bench")
        lake = Lake(spark, root, locks=locks, lock_wait=5, zones=Zones("ingest"))
        facts["Java"] = java_of(spark)
        # What the driver would refuse is measured too: that is what the bounds rest on.
        with patch.multiple(driver, MOST_BYTES=1 << 40, MOST_HELD=1 << 40, MOST_HELD_BYTES=1 << 40):
            cells = [
                _line(lake, folder, number, how, repetitions)
                for how in (Append(), Merge(newer=("_sequence",)))
                for number in (int(each) for each in rows.split(","))
            ]
    finally:
        spark.stop()
        shutil.rmtree(folder, ignore_errors=True)
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    heading = ["", "rows", "by the driver, s", "by Spark, s", "Spark's times the driver's"]
    made = f"Measured on {datetime.now(UTC).date()}: {told}.\n\n{table(heading, cells)}"
    docs.write_text(between_markers(docs.read_text(), made, START, END))
    console.print(Markdown(made))
    console.print(f"written: {docs}")


def _line(lake: Lake, folder: Path, rows: int, how: How, repetitions: int) -> list[str]:
    """One line of the table: medians of commits to a table of the driver's and one of Spark's."""
    kind = type(how).__name__.lower()
    place = str(folder / f"{kind}-{rows}")
    _made(lake, rows).write.parquet(place)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number in range(repetitions + 2):
        for by_driver, seconds in spent.items():
            # A merge is into a table of one commit, and so of the same rows each time.
            named = f"curated/{kind}_{rows}_{by_driver}" + (f"_{number}" * (kind == "merge"))
            target = _table(named)
            if kind == "merge":
                _write(lake, lake.spark.read.parquet(place), target, Append(), 1, few=True)
            source = lake.spark.read.parquet(place)
            if kind == "merge":
                newer = (F.col("_sequence") + 1).alias("_sequence")
                other = F.concat("c0", F.when(F.col("n1") % 2 == 0, "x").otherwise("")).alias("c0")
                kept = [F.col(name) for name in target.column_names[1:-1]]
                source = source.select(other, *kept, newer)
            began = time.perf_counter()
            with patch.object(driver, "MOST_HELD", driver.MOST_HELD if by_driver else -1):
                _write(lake, source, target, how, 2 + number, few=by_driver)
            seconds.append(time.perf_counter() - began)
    driven, sparked = (median(spent[each][2:]) for each in (True, False))
    told = "appended" if kind == "append" else "merged"
    return [told, f"{rows:,}", f"{driven:.2f}", f"{sparked:.2f}", f"{sparked / driven:.1f}"]


def _write(lake: Lake, rows: DataFrame, target: Table, how: How, number: int, *, few: bool) -> None:
    with lake.locks.hold([target.name]):
        lake.write(
            rows, target, how, stamp=Stamp("bench", "ingest", "0"), labels=LABELS,
            transaction=Transaction(f"bench/{target.name}", number), few=few,
        )  # fmt: skip


def _table(name: str) -> Table:
    return Table(
        name=name,
        description="Rows of a delivery.",
        owner="bench",
        columns=(
            *(Column(f"c{number}", "string") for number in range(TEXTS)),
            *(Column(f"n{number}", "bigint") for number in range(NUMBERS)),
            Column("day", "date"),
            Column("_period", "string"),
            Column("_sequence", "bigint"),
        ),
        key=("c0",),
        partition_by=("_period",),
        properties={"delta.enableChangeDataFeed": "true"},
        statistics=("day",),
    )


def _made(lake: Lake, rows: int) -> DataFrame:
    number = F.col("id")
    texts = [
        F.concat(F.lit("v"), ((number * (each + 3)) % 1000).cast("string")).alias(f"c{each}")
        for each in range(1, TEXTS)
    ]
    numbers = [((number * (each + 1)) % 977).alias(f"n{each}") for each in range(NUMBERS)]
    return (
        lake.spark.range(rows)
        .select(
            F.concat(F.lit("key"), number.cast("string")).alias("c0"), *texts, *numbers,
            F.date_add(F.lit("2025-01-01").cast("date"), (number % 30).cast("int")).alias("day"),
            F.lit("2025-01").alias("_period"), F.lit(1).cast("bigint").alias("_sequence"),
        )
        .coalesce(2)
    )  # fmt: skip
