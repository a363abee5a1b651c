"""The demonstration: a synthetic Commonwealth delivers, Concord ingests, and shows what came of it.

A backfill of fifteen months, then three monthly rounds, among them a resent month and a delivery
whose control total is off by a cent; then each agreement's study. Run again, it finds nothing to
do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table as Grid

from concord.cli import Deployment, load_deployment
from concord.ingest import tables
from concord.ingest.job import Outcome, ingest
from concord.ingest.ledger import fold
from concord.lake import catalog
from concord.lake import run as runs
from concord.lake.locks import Locks
from concord.lake.registry import DELIVERIES
from concord.lake.run import running
from concord.lake.session import start
from concord.lake.storage import Storage, join
from concord.lake.tables import Lake, is_table
from concord.reporting import Reporter
from concord.studies.job import sentence, study
from concord.studies.sources import CROSSWALK
from concord.synthesis import synthesize

MONTHS, BACKFILL, SEED = 18, 15, 7
FAULTS = ("resent_month", "dua_claims:cent_off_control_total")
# Month ends by which the backfill and then each round has arrived.
ROUNDS = (date(2025, 4, 30), date(2025, 5, 31), date(2025, 6, 30), date(2025, 7, 31))

console = Console(highlight=False)


def demo(
    people: Annotated[int, typer.Option(help="Size of the population.")] = 60_000,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps all it makes.")] = Path(
        "data/demo"
    ),
    settings: Annotated[Path, typer.Option(help="Settings file.")] = Path(
        "conf/settings/local.yaml"
    ),
) -> None:
    """Make a synthetic Commonwealth, ingest its deliveries round by round, show the result."""
    seconds: dict[str, float] = {}
    deployment = load_deployment(
        settings, lake=str(folder / "lake"), landing=str(folder / "landing")
    )
    deployment = _with_keys(deployment, folder)
    console.print(f"[bold]A synthetic Commonwealth[/] of {people:,} people, in {folder}")
    with _timed(seconds, "synthesize"):
        made = synthesize(
            folder, people=people, months=MONTHS, backfill=BACKFILL, seed=SEED, faults=FAULTS
        )
    console.print(
        f"  {made.feeds} feeds, {made.deliveries} deliveries, {made.rows:,} rows, "
        f"{made.bytes / 1e6:.0f} MB"
    )
    with _timed(seconds, "start Spark"):
        spark = start(deployment.settings, application="concord demo")
    reporter = Reporter()
    outcomes: list[Outcome] = []
    rows_in = 0
    try:
        for number, as_of in enumerate(ROUNDS):
            title = "backfill" if number == 0 else f"round {number}"
            console.print(f"\n[bold]ingest, {title}[/], as of {as_of}")
            with _timed(seconds, f"ingest {title}"):
                done, rows = _round(deployment, as_of, spark, reporter)
            outcomes += done
            rows_in += rows
            if not done:
                console.print("  nothing to do")
        console.print(f"\n[bold]study[/], as of {ROUNDS[-1]}")
        with _timed(seconds, "study"):
            _study(deployment, spark, reporter)
        # What packages that the library does not know add: the models' training and scores.
        for stage in sorted(entry_points(group="concord.demo"), key=lambda stage: stage.name):
            if is_table(Storage(spark), join(deployment.settings.lake, CROSSWALK)):
                clock = partial(_permitted_now, deployment)
                stage.load()(deployment, spark, reporter, ROUNDS[-1], clock, seconds)
        with _timed(seconds, "show"):
            _show(spark, deployment)
    finally:
        spark.stop()
    _show_seconds(seconds)
    _show_next(folder)
    print(
        json.dumps(
            {
                "job": "demo",
                "exit_code": 0,
                "deliveries": len(outcomes),
                "rejected": sum(1 for o in outcomes if o.status == "rejected"),
                "rows_in": rows_in,
                "seconds": seconds,
            }
        )
    )


def _with_keys(deployment: Deployment, folder: Path) -> Deployment:
    keys = deployment.settings.keys.model_copy(update={"provider": "file", "path": folder / "keys"})
    settings = deployment.settings.model_copy(update={"keys": keys})
    return replace(deployment, settings=settings)


def _round(
    deployment: Deployment, as_of: date, spark: SparkSession, reporter: Reporter
) -> tuple[list[Outcome], int]:
    with running(
        deployment.settings,
        "ingest",
        arguments={},
        as_of=as_of,
        run_id=runs.digest("demo", as_of, deployment.digest),
        config_digest=deployment.digest,
        dry_run=False,
        reporter=reporter,
        spark=spark,
    ) as run:
        outcomes = ingest(run, deployment.contracts, deployment.mous)
        run.tally.exit_code = max((o.exit_code for o in outcomes), default=0)
        return outcomes, run.tally.rows_in


def _study(deployment: Deployment, spark: SparkSession, reporter: Reporter) -> None:
    """The studies of all agreements; what makes them says what it did."""
    # The index is another job's; without it there is nobody to recognise.
    if not is_table(Storage(spark), join(deployment.settings.lake, CROSSWALK)):
        console.print("  no person index yet")
        return
    with running(
        deployment.settings,
        "study",
        arguments={},
        as_of=ROUNDS[-1],
        run_id=runs.digest("demo study", deployment.digest),
        config_digest=deployment.digest,
        dry_run=False,
        reporter=reporter,
        spark=spark,
        clock=partial(_permitted_now, deployment),
    ) as run:
        outcomes = study(run, deployment.contracts, deployment.mous, deployment.dulas)
        run.tally.exit_code = max((o.exit_code for o in outcomes), default=0)
        run.tally.message = sentence(outcomes)


def _permitted_now(deployment: Deployment) -> datetime:
    return _permitted(deployment, runs.real_clock())


def _permitted(deployment: Deployment, now: datetime) -> datetime:
    """Now, or where the agreements are not in force now, a day on which they all are: a
    demonstration works on any day."""
    terms = [dula.term for dula in deployment.dulas.values()]
    first = max((term.effective for term in terms), default=now.date())
    last = min((term.expires for term in terms), default=now.date())
    return datetime.combine(min(max(now.date(), first), last), now.timetz())


def _show(spark: SparkSession, deployment: Deployment) -> None:
    contracts = deployment.contracts.values()
    root = deployment.settings.lake
    locks = Locks.of(spark, root, 60, job="demo", run_id="demo", actor=runs.actor())
    lake = Lake(spark, root, locks=locks, lock_wait=0)

    grid = _grid("What is in the lake", "table", "rows", "version", "agreement", "classification")
    for entry in catalog.entries(spark, root, deployment.registry):
        grid.add_row(
            entry.table,
            f"{entry.rows:,}",
            str(entry.version),
            entry.agreements,
            entry.classification,
        )
    console.print(grid)

    ledger = lake.read(DELIVERIES).collect()
    grid = _grid("What was rejected, and why", "feed", "delivery", "reason")
    for contract in contracts:
        state = fold(row for row in ledger if row["feed"] == contract.feed)
        for known in state.deliveries.values():
            if known.status == "rejected":
                grid.add_row(contract.feed, known.folder, "\n".join(known.reasons))
    console.print(grid)

    grid = _grid("What is in quarantine, and why", "feed", "table", "column", "rule", "rows")
    frames = [
        lake.read(tables.quarantine(contract)).select(
            F.lit(contract.feed).alias("feed"),
            F.col("source_table").alias("table"),
            F.explode("violations").alias("v"),
        )
        for contract in contracts
    ]
    whole = frames[0]
    for frame in frames[1:]:
        whole = whole.unionByName(frame)
    counted = whole.groupBy("feed", "table", "v.column", "v.rule").count()
    for row in counted.orderBy("feed", "table", F.desc("count")).collect():
        grid.add_row(row["feed"], row["table"], row["column"], row["rule"], f"{row['count']:,}")
    console.print(grid)


def _grid(title: str, *headings: str) -> Grid:
    grid = Grid(title=title, title_justify="left", title_style="bold")
    for heading in headings:
        right = heading in {"rows", "version", "seconds"}
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    return grid


def _show_seconds(seconds: dict[str, float]) -> None:
    grid = _grid("Seconds per stage", "stage", "seconds")
    for name, value in seconds.items():
        grid.add_row(name, f"{value:.1f}")
    grid.add_row("ingest, all", f"{sum(v for k, v in seconds.items() if 'ingest' in k):.1f}")
    console.print(grid)


def _show_next(folder: Path) -> None:
    console.print("\n[bold]To look at next[/]")
    for command in next_commands(folder):
        console.print(f"  {command}", soft_wrap=True)


def next_commands(folder: Path) -> Sequence[str]:
    """Three commands that work once the demo has run."""
    lake = folder / "lake"
    return (
        f".venv/bin/concord catalog --lake {lake}",
        ".venv/bin/concord contract show dta_snap",
        '.venv/bin/python -c "import polars as pl; '
        f"print(pl.read_delta('{lake}/curated/dta_snap_checkins'))\"",
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 1)


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the demo; its exit code."""
    from concord.cli import exit_code_of

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(demo)
    return exit_code_of(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
