"""`concord train`, `score`, `return`, `outcomes`, `model`, `reproduce`: the command line finds them
by an entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pyspark.sql import SparkSession

from concord.agreements.dula import Dula
from concord.agreements.register import Register
from concord.contracts.schemas import schema_of, write_schemas
from concord.deployment import Deployment, load_deployment
from concord.errors import DRIFT_ALARM, ConfigError
from concord.jobs import Job, Options, job
from concord.lake import catalog
from concord.lake import run as runs
from concord.options import (
    DEFAULT_SETTINGS,
    AsOfOption,
    DryRunOption,
    JsonLogsOption,
    LakeOption,
    RunIdOption,
    SettingsOption,
)
from concord.settings import gather, load_settings
from concord.studies.tables import of_agreement
from concord_models.outcomes import specification as outcome_studies
from concord_models.outcomes.specification import OutcomeStudy
from concord_models.specification import ModelSpec, load_models, named

ModelOption = Annotated[str, typer.Option(help="The model, as conf/models names it.")]


@dataclass(frozen=True)
class Models:
    """A deployment with its models and outcome studies."""

    deployment: Deployment
    models: dict[str, ModelSpec]
    studies: dict[str, OutcomeStudy]

    @property
    def digest(self) -> str:
        told = {**self.models, **self.studies}
        return runs.digest(
            self.deployment.digest, {n: spec.model_dump(mode="json") for n, spec in told.items()}
        )


def load(path: Path, **overrides: Any) -> Models:
    """conf/ with conf/models and conf/outcomes. Raises ConfigError with every mistake of every
    file."""
    try:
        deployment = load_deployment(path, **overrides)
    except ConfigError as error:
        gather([error, *_mistakes(load_settings(path, overrides).conf, None)])
        raise
    conf = deployment.settings.conf
    gather(_mistakes(conf, deployment.dulas))
    return Models(
        deployment,
        load_models(conf, deployment.dulas),
        outcome_studies.load_studies(conf, deployment.dulas),
    )


def _mistakes(conf: Path, dulas: Mapping[str, Dula] | None) -> list[ConfigError]:
    """What is wrong with the files of models and outcome studies, whatever else is."""
    found = []
    for read in (load_models, outcome_studies.load_studies):
        try:
            read(conf, dulas)
        except ConfigError as error:
            found.append(error)
    return found


@contextmanager
def _job(
    name: str,
    loaded: Models,
    options: Options,
    arguments: Mapping[str, Any],
    inputs: Callable[[SparkSession], Any] | None = None,
) -> Iterator[tuple[Job, Register]]:
    """A job of this deployment and the agreements as its lake has them; without `inputs` it is a
    run of its own each time."""
    with job(
        name, loaded.deployment, options, arguments=arguments,
        inputs=inputs or (lambda spark: runs.real_clock().isoformat()), digest=loaded.digest,
    ) as current:  # fmt: skip
        yield current, loaded.deployment.register(current.run.lake)


model_app = typer.Typer(help="Models: their files, what would be trained, which version is used.")


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command()(train)
    app.command()(score)
    app.command(name="return")(return_scores)
    app.command()(drift)
    app.command()(outcomes)
    app.command()(reproduce)
    app.add_typer(model_app, name="model")


@model_app.command()
def check(settings: SettingsOption = DEFAULT_SETTINGS) -> None:
    """Check every file of conf/models: all mistakes at once, with file and line."""
    for name, spec in load(settings).models.items():
        print(f"{name}: version {spec.version}, identity {spec.identity}, under {spec.agreement}")


@model_app.command()
def schema(settings: SettingsOption = DEFAULT_SETTINGS) -> None:
    """Write the JSON Schemas by which editors complete and check files of models and outcomes."""
    for path in write_schemas(load_settings(settings).conf / "schemas", schemas()):
        print(path)


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema by kind of file."""
    return {"model": schema_of(ModelSpec), "outcomes": schema_of(OutcomeStudy)}


@model_app.command("plan")
def plan_model(
    model: ModelOption = "snap_churn",
    draw: Annotated[
        Path | None, typer.Option(help="Draw the timeline too: a file .png or .svg.")
    ] = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    json_logs: JsonLogsOption = False,
) -> None:
    """Show the splits, the rows of each, and what would be trained; trains nothing."""
    from concord_models import planning

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    with _job("model plan", loaded, Options(as_of, None, False, json_logs), {"model": model}) as (
        current,
        register,
    ):
        made = planning.plan(current.run, spec, loaded.deployment.contracts, register)
        for line in made.lines():
            print(line)
        if draw is not None:
            planning.draw(made, draw)
        current.ended(f"{len(made.splits)} splits", model=spec.name, identity=spec.identity)


@model_app.command("promote")
def promote_model(
    model: ModelOption = "snap_churn",
    because: Annotated[
        str | None,
        typer.Option(help="Put it to use although a check fails, and why; written to the version."),
    ] = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Put the newest trained version into use, if every check of its evidence passes."""
    from concord_models.promotion import promote

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    with _job(
        "model promote",
        loaded,
        Options(None, run_id, dry_run, json_logs),
        {"model": model, "because": because},
    ) as (current, register):
        done = promote(current.run, spec, register, because=because)
        for check in done.checks:
            current.reporter.say(f"model promote: {check}")
        current.reporter.say(f"model promote: {done.message}")
        current.ended(
            done.message,
            model=spec.registered_name,
            version=done.version,
            status=done.status,
            checks={each.name: each.said for each in done.checks},
        )


@model_app.command("compare")
def compare_models(
    versions: Annotated[
        list[str] | None, typer.Argument(help="Versions; none: champion and challenger.")
    ] = None,
    model: ModelOption = "snap_churn",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Show versions of a model beside each other: what each was made from, and its test slice."""
    from rich.console import Console
    from rich.table import Table

    from concord import tracking
    from concord_models.promotion import compare

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    found = compare(tracking.opened(loaded.deployment.settings), spec, versions or [])
    grid = Table(title=spec.registered_name, title_justify="left")
    grid.add_column("")
    for each in found:
        grid.add_column(f"version {each['version']}", justify="right")
    for name in list(found[0])[1:]:
        grid.add_row(name, *(each[name] for each in found))
    console = Console(highlight=False)
    console.print(grid)
    if len({each["tested from"] for each in found}) > 1:
        console.print("Their test slices differ: only the regret compares them on the same rows.")


def reproduce(
    training: Annotated[str, typer.Argument(metavar="RUN", help="The training's MLflow run.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    run_id: RunIdOption = None,
    json_logs: JsonLogsOption = False,
) -> None:
    """Fit a training's final model again from what was recorded, and compare to 1e-9."""
    from concord_models.reproduction import reproduce as again

    loaded = load(settings, lake=lake)
    with _job("reproduce", loaded, Options(None, run_id, False, json_logs), {"run": training}) as (
        current,
        register,
    ):
        done = again(current.run, loaded.deployment.contracts, register, training=training)
        current.reporter.say(f"reproduce: {done.message}")
        current.ended(done.message, rows=done.rows, difference=done.difference)


def train(
    model: ModelOption = "snap_churn",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Train a model on its agreement's study, and register it with its evidence."""
    from concord_models.train import train as fit

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    with _job(
        "train",
        loaded,
        Options(as_of, run_id, dry_run, json_logs),
        {"model": model},
        lambda spark: _versions(spark, loaded, spec.agreement),
    ) as (current, register):
        done = fit(current.run, spec, loaded.deployment.contracts, register)
        current.reporter.say(f"train: {done.message}")
        current.ended(
            done.message,
            model=done.model,
            version=done.version,
            mlflow_run=done.run,
            status=done.status,
            rows=dict(done.rows),
            test=_rounded(done.measures),
            seconds=dict(done.seconds),
        )


def score(
    agreement: Annotated[str, typer.Option(help="The DULA to score under.")],
    model: ModelOption = "snap_churn",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Score check-ins that fall due soon, under the study's pseudonyms."""
    from concord_models.score import score as apply

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    with _job(
        "score",
        loaded,
        Options(as_of, run_id, dry_run, json_logs),
        {"model": model, "agreement": agreement},
        lambda spark: _versions(spark, loaded, agreement),
    ) as (current, register):
        done = apply(current.run, spec, loaded.deployment.contracts, register, agreement=agreement)
        current.reporter.say(f"score: {done.message}")
        current.ended(
            done.message,
            agreement=agreement,
            model=spec.registered_name,
            version=done.version,
            status=done.status,
            rows=done.rows,
            table=done.table,
            seconds=dict(done.seconds),
        )


def return_scores(
    agreement: Annotated[str, typer.Option(help="The DULA whose scores go back to the agency.")],
    model: ModelOption = "snap_churn",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Return the scores of a day to the agency, under its own case ids."""
    from concord_models.return_scores import return_scores as give_back

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    with _job(
        "return",
        loaded,
        Options(as_of, run_id, dry_run, json_logs),
        {"model": model, "agreement": agreement},
        lambda spark: _scored(spark, loaded, spec, agreement),
    ) as (current, register):
        done = give_back(
            current.run, spec, loaded.deployment.contracts, register, agreement=agreement
        )
        current.reporter.say(f"return: {done.message}")
        current.ended(
            done.message, agreement=agreement, status=done.status, rows=done.rows, table=done.table
        )


def _scored(spark: Any, loaded: Models, spec: ModelSpec, agreement: str) -> dict[str, int]:
    from concord_models.score_tables import scores_table

    dula = loaded.deployment.dulas.get(agreement)
    if dula is None:
        return {}
    name = scores_table(dula, spec).name
    return catalog.versions(spark, loaded.deployment.settings.lake, [name])


def drift(
    agreement: Annotated[str, typer.Option(help="The DULA whose scores are looked at.")],
    model: ModelOption = "snap_churn",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Measure how far rows, scores and outcomes are from training; exit 17 beyond a limit."""
    from concord_models.drift_job import drift as measure

    loaded = load(settings, lake=lake)
    spec = named(loaded.models, model)
    with _job(
        "drift",
        loaded,
        Options(as_of, run_id, dry_run, json_logs),
        {"model": model, "agreement": agreement},
        lambda spark: [
            _versions(spark, loaded, agreement),
            _scored(spark, loaded, spec, agreement),
        ],
    ) as (current, register):
        done = measure(
            current.run, spec, loaded.deployment.contracts, register, agreement=agreement
        )
        current.reporter.say(f"drift: {done.message}")
        current.ended(
            done.message,
            DRIFT_ALARM if done.alarms else 0,
            agreement=agreement,
            model=spec.registered_name,
            version=done.version,
            mlflow_run=done.mlflow_run,
            status=done.status,
            alarms=list(done.alarms),
            warnings=list(done.warnings),
            table=done.table,
            seconds=dict(done.seconds),
        )


def outcomes(
    study: Annotated[
        str, typer.Option(help="The outcome study, as conf/outcomes names it.")
    ] = "learn_to_earn",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Compare those who entered a programme with like people who did not, and report it."""
    from concord_models.outcomes.job import outcomes as compare

    loaded = load(settings, lake=lake)
    spec = outcome_studies.named(loaded.studies, study)
    with _job(
        "outcomes",
        loaded,
        Options(as_of, run_id, dry_run, json_logs),
        {"study": study},
        lambda spark: _versions(spark, loaded, spec.agreement),
    ) as (current, register):
        done = compare(current.run, spec, loaded.deployment.contracts, register)
        current.reporter.say(f"outcomes: {done.message}")
        current.ended(
            done.message,
            study=done.study,
            mlflow_run=done.mlflow_run,
            status=done.status,
            rows=done.rows,
            seconds=dict(done.seconds),
        )


def _versions(spark: Any, loaded: Models, agreement: str) -> dict[str, int]:
    dula = loaded.deployment.dulas.get(agreement)
    if dula is None:
        return {}
    names = [table.table.name for table in of_agreement(dula, loaded.deployment.contracts)]
    return catalog.versions(spark, loaded.deployment.settings.lake, names)


def _rounded(measures: Any) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(value, 4) for key, value in values.items() if value == value}
        for name, values in measures.items()
    }
