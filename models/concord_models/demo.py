"""The models' part of the demonstration: train on one agreement's study, score under another's,
return the scores to the agency."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table as Grid

from concord.agreements import access_log
from concord.agreements.register import Register
from concord.deployment import Deployment
from concord.errors import QualityError
from concord.lake import run as runs
from concord.lake.run import Clock, Run, running
from concord.reporting import Reporter
from concord_models.promotion import Outcome as Promoted
from concord_models.promotion import promote
from concord_models.return_scores import return_scores
from concord_models.score import score
from concord_models.specification import ModelSpec, load_models
from concord_models.train import Outcome, train

MODEL, APPLIED = "snap_churn", "DULA-2026-0002"
# Two weeks before the last day on which a check-in falls due that the agency's files tell of.
SCORED = date(2025, 6, 16)
SHOWN = ("auc", "average_precision", "brier", "recall_at_k")

console = Console(highlight=False)


def show(
    deployment: Deployment,
    spark: SparkSession,
    reporter: Reporter,
    as_of: date,
    clock: Clock,
    seconds: dict[str, float],
) -> None:
    """Trains as of `as_of`, promotes, scores, returns the scores, and shows the test slice's
    measures beside the baselines'."""
    models = load_models(deployment.settings.conf, deployment.dulas)
    spec, contracts = models[MODEL], deployment.contracts
    console.print(f"\n[bold]train {spec.registered_name}[/], as of {as_of}")
    done = _stage(
        deployment, spark, reporter, "train", as_of, clock, seconds,
        lambda run: train(run, spec, contracts, deployment.register(run.lake)),
    )  # fmt: skip
    if done.measures:
        console.print(_grid(done))
    else:
        console.print(f"  {done.message}")
    promoted = _stage(
        deployment, spark, reporter, "model promote", as_of, clock, seconds,
        lambda run: _promoted(run, spec, deployment.register(run.lake)),
    )  # fmt: skip
    for check in promoted.checks:
        console.print(f"  {check}")
    console.print(f"  {promoted.message}")
    console.print(f"\n[bold]score under {APPLIED}[/], as of {SCORED}")
    scored = _stage(
        deployment, spark, reporter, "score", SCORED, clock, seconds,
        lambda run: score(
            run, spec, contracts, deployment.register(run.lake), agreement=APPLIED
        ),
    )  # fmt: skip
    console.print(f"  {scored.message}")
    returned = _stage(
        deployment, spark, reporter, "return", SCORED, clock, seconds,
        lambda run: return_scores(
            run, spec, contracts, deployment.register(run.lake), agreement=APPLIED
        ),
    )  # fmt: skip
    console.print(f"  {returned.message}")


def _promoted(run: Run, spec: ModelSpec, register: Register) -> Promoted:
    """Of few people the figures are what chance makes of them: shown, and passed over."""
    try:
        return promote(run, spec, register)
    except QualityError as error:
        console.print(f"  {error}")
        return promote(run, spec, register, because="a demonstration on made-up people")


def _stage(
    deployment: Deployment,
    spark: SparkSession,
    reporter: Reporter,
    job: str,
    as_of: date,
    clock: Clock,
    seconds: dict[str, float],
    work: Callable[[Run], Any],
) -> Any:
    began = time.perf_counter()
    with (
        running(
            deployment.settings,
            job,
            arguments={},
            as_of=as_of,
            run_id=runs.digest(f"demo {job}", as_of, deployment.digest),
            config_digest=deployment.digest,
            dry_run=False,
            reporter=reporter,
            spark=spark,
            clock=clock,
        ) as run,
        access_log.kept_to_zones(run),
    ):
        done = work(run)
        run.tally.message = done.message
    seconds[job] = round(time.perf_counter() - began, 1)
    return done


def _grid(done: Outcome) -> Grid:
    rows = done.rows
    title = f"Test slice: {rows['test']:,} check-ins; trained on {rows['train']:,}"
    grid = Grid(title=title, title_justify="left", title_style="bold")
    for heading in ("model", *(name.replace("_", " ") for name in SHOWN)):
        grid.add_column(heading, justify="left" if heading == "model" else "right")
    for name, values in done.measures.items():
        grid.add_row(name, *(f"{values[measure]:.3f}" for measure in SHOWN))
    return grid
