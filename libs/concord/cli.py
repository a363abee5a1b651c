"""The `concord` command: parses arguments, calls the library, reports, sets the exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
import typer.exceptions
from pyspark.sql import SparkSession

from concord import tracking
from concord.agreements import life_commands  # noqa: F401 (adds its commands to the next)
from concord.agreements.commands import app as agreement_app
from concord.agreements.commands import infra_app
from concord.contracts.commands import app as contract_app
from concord.deployment import Deployment, load_deployment
from concord.errors import ConcordError, QualityError, UsageError
from concord.ingest import integrity
from concord.ingest.delivery import Outcome
from concord.ingest.job import ingest as ingest_deliveries
from concord.jobs import Options, job
from concord.lake import catalog as lake_catalog
from concord.lake import run as runs
from concord.lake.maintain import maintain as maintain_tables
from concord.lake.registry import DELIVERIES
from concord.lake.run import Run
from concord.lake.session import shared, start, stop
from concord.lake.storage import Storage
from concord.lake.tables import Lake
from concord.linkage import model_file, tracked
from concord.linkage.estimate import as_yaml
from concord.linkage.job import (
    How,
    decided,
    estimated,
    estimated_from,
    input_versions,
    measured,
    quality_report,
)
from concord.linkage.job import index as build_index
from concord.linkage.person_index import FILE as PERSON_INDEX
from concord.linkage.plan import planned, show_plan
from concord.linkage.review_commands import PAGES, remove_pages
from concord.linkage.review_commands import app as review_app
from concord.linkage.tracked import Made, data_digest
from concord.looking import app as looking_app
from concord.options import (
    DEFAULT_SETTINGS,
    AsOfOption,
    DryRunOption,
    JsonLogsOption,
    LakeOption,
    LandingOption,
    RunIdOption,
    SettingsOption,
)
from concord.oversight import audit_app, labels_app
from concord.products import job as publishing
from concord.reporting import Reporter
from concord.studies import destruction, ending, rotation
from concord.studies import job as studies
from concord.studies import tables as study_tables
from concord.studies.sources import CROSSWALK

app = typer.Typer(
    name="concord",
    help="Concord: agency files to governed Delta tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(contract_app, name="contract")
app.add_typer(agreement_app, name="agreement")
app.add_typer(review_app, name="review")
app.add_typer(audit_app, name="audit")
app.add_typer(infra_app, name="infra")
app.add_typer(labels_app, name="labels")
app.add_typer(looking_app)


@app.command()
def ingest(
    settings: SettingsOption = DEFAULT_SETTINGS,
    feed: Annotated[list[str] | None, typer.Option(help="Only this feed; may be repeated.")] = None,
    delivery: Annotated[
        str | None, typer.Option(help="Only this folder, even without a manifest; needs --feed.")
    ] = None,
    reprocess: Annotated[
        str | None, typer.Option(help="Replay a feed's quarantine against its corrected contract.")
    ] = None,
    lake: LakeOption = None,
    landing: LandingOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Load what agencies delivered into curated tables, the vault and quarantine."""
    if delivery and len(feed or []) != 1:
        raise UsageError("--delivery needs exactly one --feed: the contract to read it by")
    if reprocess and (feed or delivery):
        raise UsageError("--reprocess names its feed itself; leave out --feed and --delivery")
    deployment = load_deployment(settings, lake=lake, landing=landing)
    with job(
        "ingest",
        deployment,
        Options(as_of, run_id, dry_run, json_logs),
        arguments={"feed": feed, "delivery": delivery, "reprocess": reprocess},
        inputs=lambda spark: _landing_signatures(Storage(spark), deployment),
    ) as current:
        outcomes = ingest_deliveries(
            current.run,
            deployment.contracts,
            deployment.register(current.run.lake),
            feeds=feed or (),
            delivery=delivery,
            reprocess=reprocess,
        )
        current.reporter.say(f"ingest: {_sentence(outcomes)}")
        tally = current.run.tally
        current.ended(
            _sentence(outcomes),
            max((outcome.exit_code for outcome in outcomes), default=0),
            deliveries={
                status: sum(1 for o in outcomes if o.status == status)
                for status in sorted({o.status for o in outcomes})
            },
            rows_in=tally.rows_in,
            rows_out=tally.rows_out,
            rows_quarantined=tally.rows_quarantined,
        )


@app.command()
def index(
    settings: SettingsOption = DEFAULT_SETTINGS,
    estimate: Annotated[
        bool,
        typer.Option(
            help="Only print m and u as fitted to the last run's pairs, for conf/person_index.yaml."
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(help="Only count keys and pairs by blocking rule; no pair is compared."),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Only write the measures of all runs as a page (HTML) into this file."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="With --estimate: write conf/person_index.yaml as fitted to this file."),
    ] = None,
    track: Annotated[
        bool, typer.Option(help="Log the model file and measures, of a run or a fit, to MLflow.")
    ] = False,
    rescore: Annotated[
        bool,
        typer.Option(help="Weigh the last run's pairs by conf/person_index.yaml as it is now."),
    ] = False,
    whole: Annotated[
        bool,
        typer.Option(help="Compare all records anew, also those that did not change."),
    ] = False,
    accept_churn: Annotated[
        bool,
        typer.Option(help="Let more records change person than churn_limit allows."),
    ] = False,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Recognise the same person across agencies: person ids, crosswalk, events."""
    if write is not None and not estimate:
        raise UsageError("--write needs --estimate: what is to be written is fitted")
    deployment = load_deployment(settings, lake=lake)
    model = deployment.person_index
    if estimate or plan or report is not None:
        spark = start(deployment.settings, application="concord index")
        try:
            there = runs.lake_of(deployment.settings, "index", spark)
            if plan:
                show_plan(planned(there, deployment.contracts, deployment.register(there), model))
            elif report is not None:
                report.parent.mkdir(parents=True, exist_ok=True)
                report.write_text(quality_report(there, model), encoding="utf-8")
                print(f"wrote {report}")
            else:
                _fit(there, deployment, Options(as_of, run_id), write=write, track=track)
        finally:
            stop(spark)
        return

    asked = [name for name, on in (("rescore", rescore), ("whole", whole)) if on]

    def inputs(spark: SparkSession) -> list[tuple[str, int]]:
        there = runs.lake_of(deployment.settings, "index", spark)
        read = input_versions(there, deployment.contracts, model)
        return [*((one.table.name, one.version) for one in read), *decided(there).items()]

    with job(
        "index",
        deployment,
        Options(as_of, run_id, dry_run, json_logs),
        inputs=inputs,
        arguments=dict.fromkeys(asked, True) or None,
        digest=deployment.index_digest,
    ) as current:
        outcome = build_index(
            current.run,
            deployment.contracts,
            deployment.register(current.run.lake),
            model,
            config_digest=deployment.index_digest,
            how=How(rescore=rescore, whole=whole, accept_churn=accept_churn),
        )
        current.reporter.say(f"index: {outcome.message}")
        for example in outcome.examples:
            current.reporter.say(f"  {example}")
        if track and outcome.done:
            _track(current.run, deployment)
        facts = {**asdict(outcome), "model_version": model.model_version}
        facts |= {name: dict(facts[name]) for name in ("events", "moved")}
        del facts["done"], facts["examples"]
        current.ended(outcome.message, **facts)


def _track(run: Run, deployment: Deployment) -> None:
    """Logs a run of the index to MLflow; not a dry one, which has measured nothing to keep."""
    if not run.dry_run:
        text = (deployment.settings.conf / PERSON_INDEX).read_text(encoding="utf-8")
        read = run.tally.read
        made = Made("index", deployment.person_index, text, read, run.as_of, run.run_id)
        tracked.track(deployment.settings, made, measures=measured(run.lake, run.run_id))


def _fit(
    lake: Lake, deployment: Deployment, options: Options, *, write: Path | None, track: bool
) -> None:
    """Fits the person index's model to the last run, and says, writes and logs what came of it."""
    model, read = deployment.person_index, estimated_from(lake)
    fit = estimated(lake, model)
    print("\n".join([as_yaml(fit.model), *(f"# {told}" for told in fit.warnings)]))
    fitted = model.model_copy(
        update={
            "comparisons": fit.model.comparisons,
            "interactions": fit.model.interactions,
            "fitted_on": options.day,
            "data_digest": data_digest(read),
        }
    )
    text = model_file.written(deployment.settings.conf / PERSON_INDEX, fitted)
    if write is not None:
        write.write_text(text, encoding="utf-8")
        print(f"# wrote {write}")
    if track:
        made = Made("fit", fitted, text, read, options.day, options.run_id or "")
        with tracking.answering(deployment.settings):
            logged = tracked.track(deployment.settings, made, measures=measured(lake), fit=fit)
        print(f"# MLflow run {logged}")


@app.command()
def study(
    settings: SettingsOption = DEFAULT_SETTINGS,
    agreement: Annotated[
        list[str] | None,
        typer.Option(help="Only this DULA; may be repeated. Default: all of conf/agreements."),
    ] = None,
    purpose: Annotated[
        str | None, typer.Option(help="What the data is wanted for. Default: the agreement's own.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="<feed>.<table>.<column> that is wanted besides those agreed."),
    ] = None,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Make what each agreement lets its recipient hold: agreed columns and rows, pseudonyms."""
    deployment = load_deployment(settings, lake=lake)
    with job(
        "study",
        deployment,
        Options(as_of, run_id, dry_run, json_logs),
        arguments={"agreement": agreement, "purpose": purpose, "column": column},
        inputs=lambda spark: lake_catalog.versions(
            spark, deployment.settings.lake, [DELIVERIES.name, CROSSWALK]
        ),
    ) as current:
        outcomes = studies.study(
            current.run,
            deployment.contracts,
            deployment.register(current.run.lake),
            agreements=agreement or (),
            purpose=purpose,
            columns=column or (),
        )
        current.ended(
            studies.sentence(outcomes),
            max((outcome.exit_code for outcome in outcomes), default=0),
            agreements=studies.summary(outcomes),
        )


@app.command()
def publish(
    settings: SettingsOption = DEFAULT_SETTINGS,
    product: Annotated[
        list[str] | None,
        typer.Option(help="Only this product; may be repeated. Default: all of conf/products."),
    ] = None,
    agreement: Annotated[
        str | None, typer.Option(help="Ask under this DULA instead of the product's own.")
    ] = None,
    purpose: Annotated[
        str | None, typer.Option(help="What it is wanted for. Default: the agreement's own.")
    ] = None,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Release aggregate products from their studies, small counts protected."""
    deployment = load_deployment(settings, lake=lake)
    used = [dula for dula in deployment.dulas.values() if "publish" in dula.uses.allowed]
    names = [table.name for table in study_tables.registry(used, deployment.contracts)]
    with job(
        "publish",
        deployment,
        Options(as_of, run_id, dry_run, json_logs),
        arguments={"product": product, "agreement": agreement, "purpose": purpose},
        inputs=lambda spark: lake_catalog.versions(spark, deployment.settings.lake, names),
    ) as current:
        outcomes = publishing.publish(
            current.run,
            deployment.products,
            deployment.profiles,
            deployment.contracts,
            deployment.register(current.run.lake),
            names=product or (),
            agreement=agreement,
            purpose=purpose,
        )
        current.ended(
            publishing.sentence(outcomes),
            max((outcome.exit_code for outcome in outcomes), default=0),
            products=publishing.summary(outcomes),
        )


@app.command()
def expire(
    settings: SettingsOption = DEFAULT_SETTINGS,
    plan: Annotated[
        str | None, typer.Option(help="Only show what the destruction of this DULA would take.")
    ] = None,
    destroy: Annotated[
        list[str] | None,
        typer.Option(help="Destroy what was held under this ended DULA, prove and certify it."),
    ] = None,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Tell which agreements end, and whose data is to be destroyed (12: overdue); destroy it.

    Agreements end by the day whether this runs or not. It writes the day's anchor of the logs.
    """
    deployment = load_deployment(settings, lake=lake)
    with job(
        "expire",
        deployment,
        Options(as_of, run_id, dry_run, json_logs),
        arguments={"plan": plan, "destroy": destroy},
        inputs=lambda spark: runs.real_clock().isoformat(),
    ) as current:
        register = deployment.register(current.run.lake)
        if plan or (dry_run and destroy):
            for name in [plan] if plan else destroy or []:
                for line in destruction.planned(current.run, register, name).lines():
                    print(line)
            return
        told = ending.expire(current.run, register, deployment.contracts, destroy or ())
        overdue = [each.agreement for each in told if each.overdue]
        current.ended(
            f"{len(destroy or ())} destroyed, {len(told)} to be looked at, {len(overdue)} overdue",
            QualityError.exit_code if overdue else 0,
            agreements=[asdict(each) for each in told],
        )


@app.command()
def rotate(
    agreement: Annotated[str, typer.Option(help="The DULA whose study gets a new key.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Give an agreement's study a new key: new pseudonyms, the mapping in the vault alone."""
    deployment = load_deployment(settings, lake=lake)
    with job(
        "rotate",
        deployment,
        Options(as_of, run_id, dry_run, json_logs),
        arguments={"agreement": agreement},
        inputs=lambda spark: runs.real_clock().isoformat(),
    ) as current:
        version = rotation.rotate(
            current.run,
            deployment.contracts,
            deployment.register(current.run.lake),
            deployment.registry,
            agreement=agreement,
        )
        current.ended(f"{agreement} has key version {version}", 0, version=version)


# In this order; `train`, `score` and `return` come with the models' package.
JOBS = ("ingest", "index", "study", "train", "score", "return", "publish")
# A delivery, a threshold, an agreement or a release that is wrong stops itself and nothing else.
GO_ON = frozenset({0, 11, 12, 14, 15})


@app.command("run")
def run_all(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    landing: LandingOption = None,
    as_of: AsOfOption = None,
    dry_run: DryRunOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Do all that is new, in one session: ingest, index, study, train, score, return, publish.

    Ends with the first exit code that is not 0. What a delivery, an agreement or a release does
    wrong (11, 12, 14, 15) lets the jobs after it go on; anything else stops the walk there.
    """
    deployment = load_deployment(settings, lake=lake, landing=landing)
    common = ["--settings", str(settings), *(["--lake", lake] if lake else [])]
    common += ["--as-of", f"{as_of:%Y-%m-%d}"] if as_of else []
    common += ["--dry-run"] if dry_run else []
    common += ["--json-logs"] if json_logs else []
    own = {"ingest": [["--landing", landing] if landing else []]}
    scoring = [dula for dula in deployment.dulas.values() if "score" in dula.uses.allowed]
    own["score"] = [["--agreement", dula.id] for dula in scoring]
    own["return"] = [
        ["--agreement", dula.id] for dula in scoring if dula.uses.returned_under_own_ids
    ]
    known = {command.name for command in app.registered_commands}
    known |= {command.callback.__name__ for command in app.registered_commands if command.callback}
    codes: dict[str, int] = {}
    with shared():
        for name in JOBS:
            for arguments in own.get(name, [[]]) if name in known else []:
                ended = exit_code_of(app, [name, *common, *arguments])
                codes[name] = max(codes.get(name, 0), ended)
            if codes.get(name, 0) not in GO_ON:
                break
    code = next((code for code in codes.values() if code), 0)
    Reporter().summary({"job": "run", "exit_code": code, "jobs": codes})
    if code:
        raise typer.Exit(code)


@app.command()
def synthesize(
    people: Annotated[int, typer.Option(help="Size of the population.")] = 60_000,
    months: Annotated[int, typer.Option(help="Months of deliveries.")] = 18,
    seed: Annotated[int, typer.Option(help="One seed gives one Commonwealth.")] = 7,
    backfill: Annotated[int, typer.Option(help="Months that arrive at once, first.")] = 15,
    fault: Annotated[list[str] | None, typer.Option(help="Plant a delivery fault.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for landing/ and truth/.")] = Path("data"),
    json_logs: JsonLogsOption = False,
) -> None:
    """Write the files that a synthetic Commonwealth's agencies would deliver."""
    from concord.synthesis import synthesize as make

    summary = make(
        out, people=people, months=months, seed=seed, backfill=backfill, faults=fault or ()
    )
    Reporter(json_logs=json_logs).summary({"job": "synthesize", "exit_code": 0, **asdict(summary)})


@app.command()
def maintain(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_of: AsOfOption = None,
    run_id: RunIdOption = None,
    json_logs: JsonLogsOption = False,
) -> None:
    """Compact the lake's tables; remove files and review pages that are past their retention."""
    deployment = load_deployment(settings, lake=lake)
    options = Options(as_of, run_id, json_logs=json_logs)
    with job("maintain", deployment, options, inputs=lambda spark: None) as current:
        done = maintain_tables(current.run.lake, deployment.registry)
        for upkeep in done:
            files = f"{upkeep.files_before} files, now {upkeep.files_after}"
            current.reporter.say(f"{upkeep.table}: {files}")
        pages = remove_pages(current.run.lake, current.run.clock())
        current.reporter.say(f"{PAGES}: {pages} old pages removed")
        current.ended(f"{len(done)} tables", tables=len(done), review_pages_removed=pages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the process's exit code (docs/runbook.md explains each)."""
    add_commands()
    return exit_code_of(app, arguments)


@cache
def add_commands() -> None:
    """Adds the commands that installed packages bring (entry points `concord.commands`)."""
    for entry in sorted(entry_points(group="concord.commands"), key=lambda entry: entry.name):
        entry.load()(app)


def exit_code_of(application: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Run a command line application, errors told on stderr, and give its exit code."""
    try:
        result = application(
            args=list(arguments) if arguments is not None else None, standalone_mode=False
        )
    except ConcordError as error:
        print(f"error: {error}", file=sys.stderr)
        _failed(error.exit_code, type(error).__name__, str(error))
        return error.exit_code
    except typer.exceptions.TyperException as error:
        error.show()  # type: ignore[attr-defined]  # every usage error has it, their base has not
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("CONCORD_DEBUG"):
            raise
        # A bug. Where it happened is told; what it says could hold values, so only its class is.
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"error: a bug in Concord: {type(error).__name__} at {Path(where.filename).name}:"
            f"{where.lineno} in {where.name}. Please report this line; CONCORD_DEBUG=1 shows "
            "the whole trace, which can hold values of rows",
            file=sys.stderr,
        )
        _failed(1, type(error).__name__, "a bug in Concord")
        return 1
    return int(result) if isinstance(result, int) else 0


def _failed(code: int, kind: str, message: str) -> None:
    print(json.dumps({"exit_code": code, "error": kind, "message": message}), flush=True)


def _landing_signatures(storage: Storage, deployment: Deployment) -> list[tuple[str, str, str]]:
    return [
        (feed, found.folder, found.signature)
        for feed in sorted(deployment.contracts)
        for found in integrity.find(storage, deployment.settings.landing, feed)
    ]


def _sentence(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "nothing to do"
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
