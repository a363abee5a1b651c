"""The demonstration: a synthetic Commonwealth delivers; Concord ingests, recognises people across
agencies, and shows what came of it.

A backfill of fifteen months, then three monthly rounds, among them a resent month and a delivery
whose control total is off by a cent; then each agreement's study and the products. Run again, it
finds nothing to do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table as Grid

from concord import tracking
from concord.agreements import access_log
from concord.agreements.dula import Dula
from concord.agreements.mou import Mou
from concord.agreements.rehearsal import Times, rehearse
from concord.deployment import Deployment, load_deployment
from concord.ingest import tables
from concord.ingest.delivery import Outcome
from concord.ingest.job import ingest
from concord.ingest.ledger import fold
from concord.lake import catalog
from concord.lake import run as runs
from concord.lake.registry import DELIVERIES
from concord.lake.run import running
from concord.lake.session import start
from concord.linkage import inputs
from concord.linkage import job as index_job
from concord.linkage.index import Index
from concord.linkage.quality import b_cubed, pairwise
from concord.linkage.review_commands import ON_PAGE, report_queue
from concord.linkage.tables import CROSSWALK
from concord.privacy.keys import vault_key
from concord.products import job as product_job
from concord.reporting import Reporter
from concord.studies import destruction
from concord.studies import job as study_job
from concord.synthesis import synthesize
from concord.synthesis.truth import records

MONTHS, BACKFILL, SEED = 18, 15, 7
FAULTS = ("resent_month", "dua_claims:cent_off_control_total")
# Month ends by which the backfill and then each round has arrived.
ROUNDS = (date(2025, 4, 30), date(2025, 5, 31), date(2025, 6, 30), date(2025, 7, 31))

# Signed in 2023 for two and a half years.
ENDED = "DULA-2023-0001"

# Seconds on two cores, 240 together: who makes a stage dearer makes another cheaper. On a slower
# machine all are above in one proportion.
BUDGET = {
    "synthesize": 7, "start Spark": 3, "sign": 2, "ingest, all": 100, "index, all": 32, "study": 32,
    "train": 34, "model promote": 1, "score": 7, "return": 2, "publish": 4, "end": 8, "show": 3,
    "judge": 2, "pages": 3,
}  # fmt: skip

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
    with _timed(seconds, "sign"):
        _sign(deployment, spark, reporter)
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
            with _timed(seconds, f"index {title}"):
                # On an old lake only the last: persons go forward, whatever changed in conf/.
                told = "nothing to do"
                if done or as_of == ROUNDS[-1] or not _indexed(deployment):
                    told = _index(deployment, as_of, spark, reporter).message
                console.print(f"  index: {told}")
        as_of = ROUNDS[-1]
        console.print(f"\n[bold]studies and products[/], as of {as_of}")
        with ThreadPoolExecutor(1) as beside, _timed(seconds, "study"):
            added = beside.submit(_added, deployment)
            _study(deployment, as_of, spark, reporter)
        for stage in added.result():
            stage(deployment, spark, reporter, as_of, _permitted(deployment), seconds)
        with _timed(seconds, "publish"):
            _publish(deployment, as_of, spark, reporter)
        with _timed(seconds, "end"):
            _end(deployment, spark, reporter)
        with _timed(seconds, "show"):
            _show(spark, deployment)
        with _timed(seconds, "judge"):
            judged = _judge(spark, deployment, folder)
        with _timed(seconds, "pages"):
            _pages(spark, deployment, folder, reporter)
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
                "index": judged,
                "seconds": seconds,
            }
        )
    )


def _with_keys(deployment: Deployment, folder: Path) -> Deployment:
    keys = deployment.settings.keys.model_copy(update={"provider": "file", "path": folder / "keys"})
    signers = folder / "keys" / "signers.yaml"
    settings = deployment.settings.model_copy(update={"keys": keys, "signers": signers})
    return replace(deployment, settings=settings)


def _sign(deployment: Deployment, spark: SparkSession, reporter: Reporter) -> None:
    """The agreements' lives up to their signatures, as if each had been asked for in time."""

    def when(terms: Mou | Dula) -> Times:
        first = terms.effective if isinstance(terms, Mou) else terms.term.effective
        begins = datetime(first.year, first.month, first.day, 15, tzinfo=UTC)
        return Times(
            begins - timedelta(days=75), begins - timedelta(days=45), begins - timedelta(days=40),
            between=timedelta(days=2),
        )  # fmt: skip

    with _stage(deployment, "agreement rehearse", ROUNDS[0], spark, reporter) as run:
        register = deployment.register(run.lake)
        signed = rehearse(run.lake, run.settings, register, when, stamp=run.stamp)
        run.tally.message = f"{len(signed)} agreements signed"
    console.print(f"  agreements: {run.tally.message}")


@contextmanager
def _stage(
    deployment: Deployment,
    job: str,
    as_of: date,
    spark: SparkSession,
    reporter: Reporter,
) -> Iterator[runs.Run]:
    digest = deployment.index_digest if job == "index" else deployment.digest
    with (
        running(
            deployment.settings,
            job,
            arguments={},
            as_of=as_of,
            run_id=runs.digest(f"demo {job}", as_of, digest),
            config_digest=digest,
            dry_run=False,
            reporter=reporter,
            spark=spark,
            clock=_permitted(deployment),
        ) as run,
        access_log.kept_to_zones(run),
    ):
        yield run


def _round(
    deployment: Deployment, as_of: date, spark: SparkSession, reporter: Reporter
) -> tuple[list[Outcome], int]:
    with _stage(deployment, "ingest", as_of, spark, reporter) as run:
        outcomes = ingest(run, deployment.contracts, deployment.register(run.lake))
        run.tally.exit_code = max((o.exit_code for o in outcomes), default=0)
        return outcomes, run.tally.rows_in


def _indexed(deployment: Deployment) -> bool:
    return (Path(deployment.settings.lake) / CROSSWALK.name).exists()


def _index(
    deployment: Deployment, as_of: date, spark: SparkSession, reporter: Reporter
) -> index_job.Outcome:
    with _stage(deployment, "index", as_of, spark, reporter) as run:
        outcome = index_job.index(
            run,
            deployment.contracts,
            deployment.register(run.lake),
            deployment.person_index,
            config_digest=deployment.index_digest,
        )
        run.tally.message = outcome.message
        return outcome


def _study(deployment: Deployment, as_of: date, spark: SparkSession, reporter: Reporter) -> None:
    with _stage(deployment, "study", as_of, spark, reporter) as run:
        made = study_job.study(run, deployment.contracts, deployment.register(run.lake))
        for outcome in made:
            console.print(f"  {outcome.agreement}: {outcome.message}")
        run.tally.message = study_job.sentence(made)
        run.tally.exit_code = max(outcome.exit_code for outcome in made)


def _added(deployment: Deployment) -> list[Callable[..., None]]:
    """What packages that the library does not know add: the models' training and scores. Their
    imports, MLflow's and its store take seconds of one core, which a study leaves idle at times."""
    tracking.opened(deployment.settings)
    points = sorted(entry_points(group="concord.demo"), key=lambda point: point.name)
    return [point.load() for point in points]


def _publish(deployment: Deployment, as_of: date, spark: SparkSession, reporter: Reporter) -> None:
    with _stage(deployment, "publish", as_of, spark, reporter) as run:
        made = product_job.publish(
            run,
            deployment.products,
            deployment.profiles,
            deployment.contracts,
            deployment.register(run.lake),
        )
        for outcome in made:
            console.print(f"  {outcome.product}: {outcome.message}")
        run.tally.message = product_job.sentence(made)
        run.tally.exit_code = max(outcome.exit_code for outcome in made)


def _end(deployment: Deployment, spark: SparkSession, reporter: Reporter) -> None:
    """An agreement's last days: a study while it held, and now its destruction, proved."""
    day = datetime(2025, 6, 2, 15, tzinfo=UTC)
    clock = _permitted(deployment)
    console.print(f"\n[bold]the end of {ENDED}[/]")
    with _stage(deployment, "expire", ROUNDS[-1], spark, reporter) as run:
        register = deployment.register(run.lake)
        standing = register.standing(ENDED, clock().date())
        if standing is None or standing.state != "expired":
            console.print("  nothing to do")
            return
        before = replace(run, clock=lambda: day, as_of=ROUNDS[0], reporter=Reporter(quiet=True))
        study_job.study(before, deployment.contracts, register, agreements=[ENDED])
        made = destruction.destroy(run, register, ENDED, deployment.contracts)
        proof = made["proof"]["search"]
        console.print(
            f"  {len(made['destroyed']['tables'])} table destroyed; {proof['files opened']} files "
            f"opened, none of {proof['pseudonyms searched for']} pseudonyms found; certificate in "
            f"{destruction.CERTIFICATES}",
            soft_wrap=True,
        )
        run.tally.message = f"{ENDED} destroyed and certified"


def _permitted(deployment: Deployment) -> Callable[[], datetime]:
    """A clock: now, or where the products' agreements are not in force now, a day on which they all
    are. A demonstration works on any day."""
    used = {product.agreement for product in deployment.products.values()}
    terms = [deployment.dulas[name].term for name in sorted(used)]
    first = max((term.effective for term in terms), default=date.min)
    last = min((term.expires for term in terms), default=date.max)

    def clock() -> datetime:
        now = runs.real_clock()
        return datetime.combine(min(max(now.date(), first), last), now.timetz())

    return clock


def _judge(spark: SparkSession, deployment: Deployment, folder: Path) -> dict[str, float]:
    """The index against the truth, which the demo knows and no job does."""
    key = vault_key(deployment.settings.keys)
    known = records(folder / "truth", key)
    rows = spark.read.format("delta").load(f"{deployment.settings.lake}/{CROSSWALK.name}")
    held = rows.where("valid_to IS NULL").select("record_id", "person_id").collect()
    both = [
        (row["person_id"], known[row["record_id"]]) for row in held if row["record_id"] in known
    ]
    found, truth = [person for person, _ in both], [person for _, person in both]
    pairs, cubed = pairwise(found, truth), b_cubed(found, truth)
    grid = _grid(
        f"How good the index is: {len(both):,} records against the truth", "", "precision", "recall"
    )
    for name, of in (("pairs of records", pairs), ("B-cubed", cubed)):
        grid.add_row(name, f"{of.precision:.4f}", f"{of.recall:.4f}")
    console.print(grid)
    return {
        "records": len(both),
        "precision": round(pairs.precision, 4),
        "recall": round(pairs.recall, 4),
        "b_cubed_precision": round(cubed.precision, 4),
        "b_cubed_recall": round(cubed.recall, 4),
    }


def _pages(spark: SparkSession, deployment: Deployment, folder: Path, reporter: Reporter) -> None:
    """What a steward works through, and how good the index says it is, as pages to open."""
    on, model = _permitted(deployment)().date(), deployment.person_index
    matched = inputs.matched(deployment.contracts, model.leave_out)
    console.print("\n[bold]Pages of the index[/]")
    with _stage(deployment, "review report", ROUNDS[-1], spark, reporter) as run:
        permitted = inputs.permission(matched, deployment.register(run.lake), on)
        report_queue(Index(run, model, permitted, ()), ON_PAGE)
        console.print(f"  review: {run.tally.message}", soft_wrap=True)
        quality = folder / "quality.html"
        quality.write_text(index_job.quality_report(run.lake, model), encoding="utf-8")
    console.print(f"  quality: {quality}", soft_wrap=True)


def _show(spark: SparkSession, deployment: Deployment) -> None:
    contracts = deployment.contracts.values()
    lake = runs.lake_of(deployment.settings, "demo", spark)

    grid = _grid("What is in the lake", "table", "rows", "version", "agreement", "classification")
    for entry in catalog.entries(lake):
        grid.add_row(
            entry.table,
            f"{entry.rows:,}",
            str(entry.version),
            entry.agreements,
            entry.classification,
        )
    console.print(grid)

    ledger = lake.rows(DELIVERIES)
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
        right = heading in {"rows", "version", "seconds", "budget"}
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    return grid


def _show_seconds(seconds: dict[str, float]) -> None:
    grid = _grid("Seconds per stage, and the budget", "stage", "seconds", "budget")
    told = dict(seconds)
    for job in ("ingest", "index"):
        parts = [value for name, value in seconds.items() if name.startswith(job)]
        told[f"{job}, all"] = sum(parts)
    told["all"] = sum(seconds.values())
    for name, value in told.items():
        budget = sum(BUDGET.values()) if name == "all" else BUDGET.get(name, "")
        grid.add_row(name, f"{value:.1f}", str(budget))
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
        f".venv/bin/concord lineage products/snap_churn --lake {lake}",
        '.venv/bin/python -c "import polars as pl; '
        f"print(pl.read_delta('{lake}/products/snap_churn'))\"",
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
