"""`python -m tests.experiments`: the models' experiments in full on a synthetic Commonwealth.

Makes the Commonwealth and its lake by the demonstration's own stages, once, in data/experiments.
Then, timed: every model of conf/models is trained with a long search, judged, and fitted once more
from its records; and the effect of training is looked for where it is known. Ends with 1 when a
figure is not what it has to be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pyspark.sql import SparkSession
from rich.console import Console

from concord import tracking
from concord.agreements import access_log
from concord.demo import ROUNDS
from concord.deployment import Deployment, load_deployment
from concord.errors import QualityError
from concord.lake import run as runs
from concord.lake.run import Run, running
from concord.lake.session import start
from concord.reporting import Reporter
from concord_models.backtest import LOGISTIC, TREES
from concord_models.evidence import MODEL, PROMOTION
from concord_models.outcomes.findings import ALL, EARNINGS, findings
from concord_models.outcomes.panel import RETURNED_TAFDC
from concord_models.outcomes.specification import load_studies
from concord_models.outcomes.synthetic import BLOCK, training_panel, true_return, truth
from concord_models.promotion import artifact, promote
from concord_models.reproduction import TOLERANCE, reproduce
from concord_models.specification import ModelSpec, load_models
from concord_models.timing import timed
from concord_models.train import Outcome, train

ROOT = Path(__file__).resolve().parents[2]
AS_OF = ROUNDS[-1]
# What a model of closures two weeks ahead has to show: less than published models of neighbouring
# questions is of no use, more on made-up data is a leak.
AUC, SLOPE = (0.70, 0.82), (0.9, 1.1)
QUARTERS = (2, 4, 8)

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Check:
    """One thing that has to hold, and what was seen."""

    name: str
    holds: bool
    seen: str


@dataclass(frozen=True)
class Line:
    """The jobs of one lake."""

    deployment: Deployment
    spark: SparkSession
    reporter: Reporter

    @contextmanager
    def run(self, job: str) -> Iterator[Run]:
        digest = runs.digest(self.deployment.digest, datetime.now(UTC).isoformat())
        with (
            running(
                self.deployment.settings, job, arguments={}, as_of=AS_OF,
                run_id=runs.digest(job, digest), config_digest=self.deployment.digest,
                dry_run=False, reporter=self.reporter, spark=self.spark,
            ) as run,
            access_log.kept_to_zones(run),
        ):  # fmt: skip
            yield run

    def train(self, spec: ModelSpec) -> Outcome:
        with self.run("train") as run:
            register = self.deployment.register(run.lake)
            return train(run, spec, self.deployment.contracts, register)


def main(
    people: Annotated[int, typer.Option(help="Size of the population.")] = 200_000,
    trials: Annotated[int, typer.Option(help="Trials of each search.")] = 24,
    minutes: Annotated[float, typer.Option(help="What the experiments may take.")] = 40,
    folder: Annotated[Path, typer.Option(help="Where all is made.")] = Path("data/experiments"),
) -> None:
    """Run the models' experiments in full, and check what they have to show."""
    os.chdir(ROOT)
    # Whatever the environment says: this never writes into a real lake.
    for name in [name for name in os.environ if name.startswith("CONCORD_")]:
        del os.environ[name]
    seconds: dict[str, float] = {}
    made: dict[str, float] = {}
    with timed(made, "lake"):
        _lake(people, folder)
    console.print(f"a Commonwealth of {people:,} people in {folder}: {made['lake']:.0f} s")
    keys = {
        "CONCORD_KEYS__PATH": f"{folder}/keys",
        "CONCORD_SIGNERS": f"{folder}/keys/signers.yaml",
    }
    os.environ.update(keys)
    deployment = load_deployment(
        Path("conf/settings/local.yaml"), lake=f"{folder}/lake", landing=f"{folder}/landing"
    )
    spark = start(deployment.settings, application="concord models")
    checks: list[Check] = []

    def take(found: Iterator[Check]) -> None:
        for check in found:
            mark = "[green]good[/]" if check.holds else "[red]BAD [/]"
            console.print(f"  {mark} {check.name}: {check.seen}")
            checks.append(check)

    try:
        line = Line(deployment, spark, Reporter(quiet=True))
        for spec in load_models(deployment.settings.conf, deployment.dulas).values():
            search = spec.search.model_copy(update={"trials": trials})
            spec = spec.model_copy(update={"search": search})
            with timed(seconds, spec.name):
                take(_experiment(line, spec))
            console.print(f"{spec.name}: {seconds[spec.name]:.0f} s")
        with timed(seconds, "leads"):
            take(_leads(line))
    finally:
        spark.stop()
    with timed(seconds, "outcomes"):
        take(_outcomes(deployment, people))
    whole = sum(seconds.values()) / 60
    take(iter([Check("in time", whole <= minutes, f"{whole:.1f} minutes of {minutes:g}")]))
    bad = sum(not check.holds for check in checks)
    rounded = {name: round(value, 1) for name, value in {**made, **seconds}.items()}
    print(json.dumps({"job": "models", "exit_code": int(bad > 0), "seconds": rounded}))
    raise typer.Exit(int(bad > 0))


def _lake(people: int, folder: Path) -> None:
    """The demonstration on this population; run again it finds nothing to do."""
    command = [sys.executable, "-m", "concord.demo"]
    arguments = ["--people", str(people), "--folder", str(folder)]
    done = subprocess.run([*command, *arguments], stdout=subprocess.DEVNULL, check=False)  # noqa: S603  # its own arguments only
    if done.returncode:
        raise SystemExit(f"the demonstration ended with {done.returncode}; run it to see why")


def _experiment(line: Line, spec: ModelSpec) -> Iterator[Check]:
    """A model from search to its gate, and fitted once more from its records."""
    done = line.train(spec)
    console.print(f"{done.message}; rows {dict(done.rows)}; seconds {dict(done.seconds)}")
    store = tracking.opened(line.deployment.settings)
    shown = artifact(store, done.run, PROMOTION)
    test = artifact(store, done.run, "measures.json")
    trials = int(store.client.get_run(done.run).data.params["trials"])
    yield Check(f"{spec.name}: trials", trials >= spec.search.trials, f"{trials}")
    for name, measures in test.items():
        told = {key: round(value, 3) for key, value in measures["test"].items()}
        console.print(f"  {name}: {told}")
    auc, slope = shown["auc"], shown["slope"]
    if spec.label.name == "y_proc":
        yield Check(f"{spec.name}: AUC in {AUC}", AUC[0] <= auc["value"] <= AUC[1], _told(auc))
        within = SLOPE[0] <= slope["value"] <= SLOPE[1]
        yield Check(f"{spec.name}: slope in {SLOPE} out of time", within, _told(slope))
    else:
        yield Check(f"{spec.name}: AUC", auc["low"] > 0.5, _told(auc))
    best = max(test[LOGISTIC]["test"]["auc"], test[TREES]["test"]["auc"])
    baselines = max(shown["baselines"].values())
    yield Check(
        f"{spec.name}: better than baselines", best > baselines,
        f"{test[MODEL]['test']['auc']:.3f} beside {baselines:.3f}",
    )  # fmt: skip
    try:
        with line.run("model promote") as run:
            judged = promote(run, spec, line.deployment.register(run.lake))
        seen = "; ".join(map(str, judged.checks)) or judged.message
        yield Check(f"{spec.name}: may be used", True, seen)
    except QualityError as error:
        yield Check(f"{spec.name}: may be used", False, str(error))
    with line.run("reproduce") as run:
        register = line.deployment.register(run.lake)
        again = reproduce(run, line.deployment.contracts, register, training=done.run)
    yield Check(f"{spec.name}: reproduced", again.difference <= TOLERANCE, again.message)


def _leads(line: Line) -> Iterator[Check]:
    """The model of closures at each of its leads, each a training of its own: what is known later
    tells more."""
    (spec,) = (
        each for each in load_models(line.deployment.settings.conf).values()
        if each.label.name == "y_proc"
    )  # fmt: skip
    store = tracking.opened(line.deployment.settings)
    found: dict[int, Any] = {}
    for days in (45, 30, 14, 7):
        own = spec.model_copy(
            update={
                "name": f"{spec.name}_{days}",
                "cohort": spec.cohort.model_copy(update={"lead_days": days}),
                "temporal": None,
            }
        )
        found[days] = artifact(store, line.train(own).run, PROMOTION)["auc"]
    seen = ", ".join(f"T-{days} {_told(auc)}" for days, auc in found.items())
    yield Check("later is better", found[45]["value"] < found[7]["value"], seen)


def _outcomes(deployment: Deployment, people: int) -> Iterator[Check]:
    """The effect of training on earnings, whose truth the synthesis knows."""
    (spec,) = load_studies(deployment.settings.conf).values()
    panel = training_panel(people // BLOCK)
    found = findings(panel, spec)
    for quarter in QUARTERS:
        line, true = found.line(ALL, EARNINGS, quarter), truth(panel, spec, ALL, quarter)
        if not line.adjusted or not line.raw:
            raise AssertionError("a quarter that is told has figures")
        seen = (
            f"true {true:+,.0f} dollars, adjusted {line.adjusted.difference:+,.0f} "
            f"({line.adjusted.low:+,.0f} to {line.adjusted.high:+,.0f}), raw "
            f"{line.raw.difference:+,.0f} ({line.raw.low:+,.0f} to {line.raw.high:+,.0f})"
        )
        found_it = line.adjusted.covers(true) and not line.raw.covers(true)
        yield Check(f"training's effect in quarter +{quarter}", found_it, seen)
    line = found.line(ALL, RETURNED_TAFDC, spec.outcomes.return_within)
    if line.adjusted:
        share, low, high = line.adjusted.difference, line.adjusted.low, line.adjusted.high
        true = true_return(panel, spec)
        seen = f"true {true:+.3f}, adjusted {share:+.3f} ({low:+.3f} to {high:+.3f})"
        yield Check("training's effect on the return to cash assistance", low <= true <= high, seen)


def _told(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


if __name__ == "__main__":
    typer.run(main)
