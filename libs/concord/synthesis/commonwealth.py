"""Writes a whole synthetic Commonwealth: landing folders with manifests, and the truth beside them.

`OUT/landing/<feed>/<folder>/` holds the deliveries, `OUT/truth/` what only tests may read.
Blocks are made in parallel and in any grouping; each file is the concatenation of its blocks in
order, so a seed gives the same bytes whatever the number of partitions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from concord.contracts.model import (
    Contract,
    Csv,
    Excel,
    FixedWidth,
    JsonLines,
    Parquet,
    Table,
    Xml,
)
from concord.contracts.odcs import load_contract
from concord.errors import UsageError
from concord.synthesis import formats, truth
from concord.synthesis.blocks import Block, Rows, make_block
from concord.synthesis.faults import FAULTS, plant
from concord.synthesis.feeds import FEEDS, Feed
from concord.synthesis.people import BLOCK_PEOPLE
from concord.synthesis.periods import MONTHS_AT_MOST, Period, Timeline, add_months, date, day
from concord.synthesis.streams import stream

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
R = TypeVar("R")
# Maps a function over items, in any order of work, results in the order of the items.
Executor = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class Summary:
    """What was made: counts, bytes, and seconds per stage."""

    people: int
    feeds: int
    deliveries: int
    rows: int
    bytes: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """Everything a partition needs to know; small, picklable, the same for all."""

    out: Path
    people: int
    seed: int
    timeline: Timeline
    backfill: int
    feeds: tuple[str, ...]
    contracts: dict[str, Contract]

    @property
    def blocks(self) -> int:
        return -(-self.people // BLOCK_PEOPLE)

    def block(self, number: int) -> Block:
        count = min(BLOCK_PEOPLE, self.people - number * BLOCK_PEOPLE)
        return make_block(self.seed, number, count, self.timeline)

    def chosen(self) -> list[tuple[Feed, Contract]]:
        return [(feed, self.contracts[feed.name]) for feed in FEEDS if feed.name in self.feeds]


@dataclass(frozen=True)
class Part:
    """The rows of one table and period from one partition."""

    feed: str
    table: str
    period: str
    partition: int
    rows: int
    totals: dict[str, int]


def synthesize(
    out: Path,
    *,
    people: int = 60_000,
    months: int = 18,
    seed: int = 7,
    backfill: int = 15,
    faults: Sequence[str] = (),
    partitions: int | None = None,
    first_month: dt.date = dt.date(2024, 1, 1),
    feeds: Sequence[str] | None = None,
    contracts: Path = Path("conf/feeds"),
    executor: Executor | None = None,
) -> Summary:
    """Write the deliveries of `months` months and their truth below `out`.

    The first `backfill` months come as one delivery a feed, then one a month. `faults` are names
    of faults.FAULTS, each for the feed and round that suit it or, as `feed:fault`, for a feed's
    last delivery. `executor` defaults to one process a core; `on_spark(session)` maps the same
    partitions over a cluster that shares `out`. A folder that holds the same Commonwealth
    already is left alone. Raises UsageError when the arguments do not fit or `out` holds another.
    """
    names = tuple(feed.name for feed in FEEDS) if feeds is None else tuple(feeds)
    _check(people, months, backfill, faults, names)
    arguments = {
        "people": people, "months": months, "seed": seed, "backfill": backfill,
        "faults": list(faults), "first_month": str(first_month), "feeds": list(names),
    }  # fmt: skip
    stamp = out / "truth" / "commonwealth.json"
    if stamp.exists():
        found = json.loads(stamp.read_text())
        if found["arguments"] != arguments:
            raise UsageError(f"{out} holds a Commonwealth made otherwise; name another folder")
        return Summary(**found["summary"])
    for folder in ("landing", "truth", ".parts"):
        shutil.rmtree(out / folder, ignore_errors=True)

    first_month = first_month.replace(day=1)
    plan = Plan(
        out.resolve(), people, seed, Timeline(first_month, months), backfill, names,
        {name: load_contract(contracts / f"{name}.yaml") for name in names},
    )  # fmt: skip
    run = executor or on_processes
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    count = partitions or max(min(plan.blocks, 2 * (os.cpu_count() or 1)), plan.blocks // 4)
    groups = [group for group in np.array_split(np.arange(plan.blocks), count) if len(group)]
    tasks = [(plan, i, group.tolist()) for i, group in enumerate(groups)]
    parts = [part for made in run(make_partition, tasks) for part in made]
    seconds["people and rows"] = round(time.perf_counter() - clock, 3)

    clock = time.perf_counter()
    work = list(_files(plan, parts))
    written = run(write_file, work)
    deliveries = _manifests(plan, written)
    shutil.rmtree(plan.out / ".parts", ignore_errors=True)
    seconds["files and manifests"] = round(time.perf_counter() - clock, 3)

    clock = time.perf_counter()
    _plant(plan, faults)
    seconds["faults"] = round(time.perf_counter() - clock, 3)
    summary = Summary(
        people=people,
        feeds=len(names),
        deliveries=deliveries,
        rows=sum(entry["rows"] for _, _, entry in written),
        bytes=sum(entry["bytes"] for _, _, entry in written),
        seconds=seconds,
    )
    stamp.write_text(json.dumps({"arguments": arguments, "summary": asdict(summary)}, indent=1))
    return summary


def on_processes(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """An executor: one process a core."""
    workers = min(os.cpu_count() or 1, len(items))
    if workers <= 1:
        return [function(item) for item in items]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return pool.map(function, items, chunksize=1)


def on_spark(spark: SparkSession) -> Executor:
    """An executor: a few Spark tasks a core. `out` must be a folder that all workers share."""

    def run(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        context = spark.sparkContext
        slices = max(1, min(len(items), 4 * context.defaultParallelism))
        return context.parallelize(list(items), slices).map(function).collect()

    return run


def _check(
    people: int, months: int, backfill: int, faults: Sequence[str], feeds: tuple[str, ...]
) -> None:
    known = [feed.name for feed in FEEDS]
    if people < 1 or months < 1 or not 0 <= backfill <= months:
        raise UsageError("people and months must be positive, backfill between 0 and months")
    if months > MONTHS_AT_MOST:
        raise UsageError(f"at most {MONTHS_AT_MOST} months, not {months}")
    for feed in feeds:
        if feed not in known:
            raise UsageError(f"unknown feed {feed!r}; use some of {', '.join(known)}")
    for fault in faults:
        feed, _, name = fault.rpartition(":")
        if name not in FAULTS or (feed and feed not in feeds):
            raise UsageError(f"unknown fault {fault!r}; use [feed:]fault of {', '.join(FAULTS)}")


# --- rows, by partition --------------------------------------------------------------------------


def make_partition(task: tuple[Plan, int, list[int]]) -> list[Part]:
    """Make the blocks of one partition: encoded rows to `.parts`, truth to `truth`."""
    plan, partition, blocks = task
    counts: dict[tuple[str, str, str], tuple[int, dict[str, int]]] = {}
    folder = plan.out / ".parts" / f"{partition:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = plan.chosen()
    for number in blocks:
        block = plan.block(number)
        known, spoiled = [], []
        planted: dict[str, dict[str, Any]] = {}
        for feed, contract in chosen:
            periods = _delivered(plan, feed)
            made = feed.make(block)
            known.append((feed.name, made.subjects))
            planted |= made.truth
            for table in contract.tables:
                rows = in_period_order(made.tables[table.name])
                columns = formats.text_columns(table, rows)
                referred = {r.to_table for t in contract.tables for r in t.references}
                if table.name not in referred:
                    rng = stream(plan.seed, f"spoil {feed.name} {table.name}", number)
                    bad = formats.spoil(table, columns, rng)
                    spoiled.append((feed.name, table.name, bad))
                for period in periods:
                    lo, hi = np.searchsorted(rows.period, [period.index, period.index + 1])
                    data = formats.body(table, {n: c[lo:hi] for n, c in columns.items()})
                    totals = {
                        c: int(np.ma.filled(rows.columns[c][lo:hi], 0).sum(dtype=np.int64))
                        for c in table.control_totals
                    }
                    key = (feed.name, table.name, period.name)
                    before, sums = counts.get(key, (0, dict.fromkeys(totals, 0)))
                    counts[key] = (before + int(hi - lo), {c: sums[c] + totals[c] for c in totals})
                    with (folder / "-".join(key)).open("ab") as stream_out:
                        stream_out.write(data)
        truth.write_block(plan.out / "truth", block, known, spoiled, planted)
    return [Part(*key, partition, rows, totals) for key, (rows, totals) in counts.items()]


def in_period_order(rows: Rows) -> Rows:
    if np.all(rows.period[1:] >= rows.period[:-1]):
        return rows
    order = np.argsort(rows.period, kind="stable")
    return Rows(rows.period[order], {name: values[order] for name, values in rows.columns.items()})


# --- files and manifests -------------------------------------------------------------------------


@dataclass(frozen=True)
class FileTask:
    """One file to put together from its parts."""

    plan: Plan
    feed: str
    table: Table
    period: str
    folder: str
    name: str
    parts: tuple[Part, ...]


def rounds(plan: Plan, feed: Feed) -> list[tuple[int, list[Period]]]:
    """(day created, periods) of each delivery of a feed: the backfill, then the monthly rounds."""
    found: list[tuple[int, list[Period]]] = []
    periods = feed.periods(plan.timeline)
    since = -(10**9)
    for month in range(plan.backfill, plan.timeline.months + 1):
        until = day(add_months(plan.timeline.first_month, month)) + 2  # the third
        due = [p for p in periods if since < feed.due(p) <= until]
        if due:
            found.append((max(feed.due(p) for p in due), due))
        since = until
    return found


def _delivered(plan: Plan, feed: Feed) -> list[Period]:
    return [period for _, periods in rounds(plan, feed) for period in periods]


def folder_name(created: int, sequence: int) -> str:
    return f"{date(created):%Y-%m-%d}-seq{sequence:02d}"


def file_name(feed: str, table: Table, period: str, several: bool) -> str:
    form = table.format
    stem = f"{table.name}_{period}" if several else f"{feed}_{period}"
    if isinstance(form, Csv):
        ending = {",": ".csv", "|": ".psv"}.get(form.delimiter, ".txt")
        return stem + ending + (".gz" if feed in COMPRESSED else "")
    if isinstance(form, FixedWidth):
        return stem + ".dat"
    if isinstance(form, JsonLines):
        return stem + ".jsonl"
    return stem + {Xml: ".xml", Excel: ".xlsx", Parquet: ".parquet"}[type(form)]


COMPRESSED = frozenset({"dese_enrollment"})  # agencies that send gzip


def _files(plan: Plan, parts: list[Part]) -> Iterator[FileTask]:
    by_file: dict[tuple[str, str, str], list[Part]] = {}
    for part in parts:
        by_file.setdefault((part.feed, part.table, part.period), []).append(part)
    for feed, contract in plan.chosen():
        for i, (created, periods) in enumerate(rounds(plan, feed)):
            folder = folder_name(created, i + 1)
            for period in periods:
                for table in contract.tables:
                    found = by_file[feed.name, table.name, period.name]
                    found.sort(key=lambda part: part.partition)
                    name = file_name(feed.name, table, period.name, len(contract.tables) > 1)
                    yield FileTask(
                        plan, feed.name, table, period.name, folder, name, tuple(found)
                    )  # fmt: skip


def write_file(task: FileTask) -> tuple[str, str, dict[str, Any]]:
    """Put one file together; returns (feed, folder, its entry in the manifest)."""
    table = task.table
    rows = sum(part.rows for part in task.parts)
    totals = {c: sum(part.totals[c] for part in task.parts) for c in table.control_totals}
    pieces = [formats.head(table, task.period)]
    for part in task.parts:
        name = f"{part.feed}-{part.table}-{part.period}"
        pieces.append((task.plan.out / ".parts" / f"{part.partition:05d}" / name).read_bytes())
    pieces.append(formats.tail(table, rows, totals))
    data = b"".join(pieces)
    if task.name.endswith(".gz"):
        data = formats.gzipped(data)
    elif isinstance(table.format, Excel):
        data = formats.workbook(table.format.sheet, data)
    elif isinstance(table.format, Parquet):
        data = formats.parquet(data)
    folder = task.plan.out / "landing" / task.feed / task.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / task.name).write_bytes(data)
    entry: dict[str, Any] = {
        "name": task.name,
        "table": table.name,
        "period": task.period,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "rows": rows,
    }
    if totals:
        entry["control_totals"] = {c: total_text(table, c, totals[c]) for c in totals}
    return task.feed, task.folder, entry


def total_text(table: Table, column: str, total: int) -> str:
    """A sum as the manifest has it: cents as decimal text, counts as they are."""
    if not table.field(column).type.startswith("decimal"):
        return str(total)
    return f"{total // 100}.{total % 100:02d}"


def _manifests(plan: Plan, written: list[tuple[str, str, dict[str, Any]]]) -> int:
    folders: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for feed, folder, entry in written:
        folders.setdefault((feed, folder), []).append(entry)
    for (feed, folder), entries in folders.items():
        made, _, sequence = folder.rpartition("-seq")
        manifest = {
            "feed": feed,
            "sequence": int(sequence),
            "kind": "delivery",
            "created_at": f"{made}T06:00:00Z",
            "files": entries,
        }
        path = plan.out / "landing" / feed / folder / "manifest.json"
        path.write_text(json.dumps(manifest, indent=1) + "\n")
    return len(folders)


# --- faults --------------------------------------------------------------------------------------

# Where a fault goes when the request names no feed: SNAP's rounds after the backfill.
DEFAULT_FEED = "dta_snap"


def _plant(plan: Plan, faults: Sequence[str]) -> None:
    """Plant in order: what is resent, repeated or late in the first round, the rest in the last."""
    noted = []
    for i, fault in enumerate(faults):
        feed, _, name = fault.rpartition(":")
        feed = feed or (DEFAULT_FEED if DEFAULT_FEED in plan.feeds else plan.feeds[0])
        folders = sorted((plan.out / "landing" / feed).iterdir())
        early = name in ("resent_month", "same_file_twice", "late_file")
        target = folders[min(1, len(folders) - 1)] if early else folders[-1]
        noted.append({"fault": name, "feed": feed, "folder": target.name,
                      "description": plant(target, name, seed=plan.seed + i)})  # fmt: skip
    path = plan.out / "truth" / "faults.json"
    path.write_text(json.dumps(noted, indent=1) + "\n")
