"""The `concord` command: parses arguments, calls the library, reports, sets the exit code."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.exceptions
from rich.console import Console
from rich.table import Table as Grid

from concord.agreements import access_log
from concord.agreements.commands import app as agreement_app
from concord.agreements.dula import Dula
from concord.agreements.loading import load_dulas
from concord.agreements.mou import Mou, digest, load_mous
from concord.contracts.commands import app as contract_app
from concord.contracts.model import Contract
from concord.contracts.odcs import load_contracts
from concord.errors import ConcordError, ConfigError, UsageError
from concord.ingest import integrity, tables
from concord.ingest.job import Outcome
from concord.ingest.job import ingest as ingest_deliveries
from concord.lake import catalog as lake_catalog
from concord.lake import run as runs
from concord.lake.locks import Locks
from concord.lake.maintain import maintain as maintain_tables
from concord.lake.registry import DELIVERIES, Registry
from concord.lake.run import Run, real_clock, running
from concord.lake.session import start
from concord.lake.storage import Storage
from concord.lake.tables import Lake
from concord.reporting import Reporter
from concord.settings import Settings, gather, load_settings
from concord.studies import job as studies
from concord.studies import tables as study_tables
from concord.studies.sources import CROSSWALK

# Spark confs whose values are not shown.
SECRET = re.compile(r"(?i)secret|password|passphrase|token|key")
DEFAULT_SETTINGS = Path("conf/settings/local.yaml")

app = typer.Typer(
    name="concord",
    help="Concord: agency files to governed Delta tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(contract_app, name="contract")
app.add_typer(agreement_app, name="agreement")
audit_app = typer.Typer(no_args_is_help=True, help="The access log: verify.")
app.add_typer(audit_app, name="audit")

SettingsOption = Annotated[
    Path, typer.Option("--settings", help="Settings file.", envvar="CONCORD_SETTINGS")
]
LakeOption = Annotated[str | None, typer.Option(help="Lake root, in place of the settings'.")]
LandingOption = Annotated[str | None, typer.Option(help="Landing root, in place of the settings'.")]
AsOfOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Business date: what was known then. Default: today."),
]
RunIdOption = Annotated[
    str | None, typer.Option(help="Default: a digest of the job, its inputs and their versions.")
]
DryRunOption = Annotated[bool, typer.Option(help="Every check, no write.")]
JsonLogsOption = Annotated[bool, typer.Option(help="One JSON object a line on stderr.")]


@dataclass(frozen=True)
class Deployment:
    """Everything under conf/, read once and validated whole."""

    settings: Settings
    contracts: dict[str, Contract]
    mous: dict[str, Mou]
    dulas: dict[str, Dula] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes with any contract or agreement."""
        contracts = {name: c.model_dump(mode="json") for name, c in self.contracts.items()}
        agreements = {
            name: digest(each) for name, each in (*self.mous.items(), *self.dulas.items())
        }
        return runs.digest(contracts, agreements)

    @property
    def registry(self) -> Registry:
        """Every table that the deployment declares, those of installed packages too (entry points
        `concord.tables`: functions of the folder conf and the DULAs)."""
        others = [entry.load() for entry in entry_points(group="concord.tables")]
        return Registry(
            [
                *tables.registry(self.contracts.values()),
                access_log.ACCESS_LOG,
                *study_tables.registry(self.dulas.values(), self.contracts),
                *(table for declare in others for table in declare(self.settings.conf, self.dulas)),
            ]
        )


def load_deployment(path: Path, **overrides: Any) -> Deployment:
    """Raises ConfigError with every mistake of every file."""
    settings = load_settings(path, overrides)
    errors = []
    contracts: dict[str, Contract] = {}
    mous: dict[str, Mou] = {}
    try:
        contracts = load_contracts(settings.conf / "feeds")
    except ConfigError as error:
        errors.append(error)
    try:
        # Against contracts that failed to load, every clause would look wrong.
        mous = load_mous(settings.conf, contracts if not errors else None)
    except ConfigError as error:
        errors.append(error)
    dulas: dict[str, Dula] = {}
    try:
        whole = not errors
        dulas = load_dulas(settings.conf, mous if whole else None, contracts if whole else None)
    except ConfigError as error:
        # agencies.yaml is read with the MOUs too: its mistakes are told once.
        told = {problem for other in errors for problem in other.problems}
        errors.append(ConfigError(p for p in error.problems if p not in told))
    gather(errors)
    return Deployment(settings, contracts, mous, dulas)


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
    reporter = Reporter(json_logs=json_logs)
    spark = start(deployment.settings, application="concord ingest")
    try:
        day = _business_date(as_of)
        arguments = {"feed": feed, "delivery": delivery, "reprocess": reprocess}
        inputs = _landing_signatures(Storage(spark), deployment)
        run = run_id or runs.digest("ingest", arguments, day, deployment.digest, inputs)
        with running(
            deployment.settings,
            "ingest",
            arguments=arguments,
            as_of=day,
            run_id=run,
            config_digest=deployment.digest,
            dry_run=dry_run,
            reporter=reporter,
            spark=spark,
        ) as current:
            outcomes = ingest_deliveries(
                current,
                deployment.contracts,
                deployment.mous,
                feeds=feed or (),
                delivery=delivery,
                reprocess=reprocess,
            )
            code = max((outcome.exit_code for outcome in outcomes), default=0)
            current.tally.message = _sentence(outcomes)
            current.tally.exit_code = code
        _report_ingest(reporter, current, outcomes, code)
    finally:
        spark.stop()
    if code:
        raise typer.Exit(code)


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
    reporter = Reporter(json_logs=json_logs)
    spark = start(deployment.settings, application="concord study")
    try:
        day = _business_date(as_of)
        arguments = {"agreement": agreement, "purpose": purpose, "column": column}
        inputs = lake_catalog.versions(
            spark, deployment.settings.lake, [DELIVERIES.name, CROSSWALK]
        )
        with running(
            deployment.settings,
            "study",
            arguments=arguments,
            as_of=day,
            run_id=run_id or runs.digest("study", arguments, day, deployment.digest, inputs),
            config_digest=deployment.digest,
            dry_run=dry_run,
            reporter=reporter,
            spark=spark,
        ) as current:
            outcomes = studies.study(
                current,
                deployment.contracts,
                deployment.mous,
                deployment.dulas,
                agreements=agreement or (),
                purpose=purpose,
                columns=column or (),
            )
            code = max((outcome.exit_code for outcome in outcomes), default=0)
            current.tally.message = studies.sentence(outcomes)
            current.tally.exit_code = code
        reporter.summary(
            {
                "job": "study",
                "run_id": current.run_id,
                "as_of": day.isoformat(),
                "exit_code": code,
                "agreements": studies.summary(outcomes),
                "message": current.tally.message,
            }
        )
    finally:
        spark.stop()
    if code:
        raise typer.Exit(code)


@audit_app.command()
def verify(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    expect: Annotated[
        str | None, typer.Option(help="A last hash noted earlier that must still be there.")
    ] = None,
) -> None:
    """Check that no row of the access log was changed, taken out or put in (else exit 16)."""
    deployment = load_deployment(settings, lake=lake)
    spark = start(deployment.settings, application="concord audit")
    try:
        root = deployment.settings.lake
        locks = Locks.of(spark, root, 60, job="audit", run_id="audit", actor=runs.actor())
        found = access_log.verify(Lake(spark, root, locks=locks, lock_wait=0), expect=expect)
    finally:
        spark.stop()
    message = f"{found.rows} rows, all as they were written; note the last hash elsewhere"
    Reporter().summary(
        {"job": "audit verify", "exit_code": 0, "rows": found.rows, "tip": found.tip}
        | {"message": message}
    )


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
    """Compact the lake's tables and remove files that are past their retention."""
    deployment = load_deployment(settings, lake=lake)
    day = _business_date(as_of)
    reporter = Reporter(json_logs=json_logs)
    with running(
        deployment.settings,
        "maintain",
        arguments={},
        as_of=day,
        run_id=run_id or runs.digest("maintain", day, deployment.digest),
        config_digest=deployment.digest,
        dry_run=False,
        reporter=reporter,
    ) as current:
        done = maintain_tables(current.lake, deployment.registry)
        for upkeep in done:
            files = f"{upkeep.files_before} files, now {upkeep.files_after}"
            reporter.say(f"{upkeep.table}: {files}")
    reporter.summary(
        {"job": "maintain", "run_id": current.run_id, "exit_code": 0, "tables": len(done)}
    )


@app.command()
def catalog(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """List every table: zone, rows, version, agreement, expiry, classification."""
    deployment = load_deployment(settings, lake=lake)
    spark = start(deployment.settings, application="concord catalog")
    try:
        registry = deployment.registry
        entries = lake_catalog.entries(spark, deployment.settings.lake, registry)
        if deployment.settings.catalog and not as_json:
            lake_catalog.register(
                spark, deployment.settings.lake, registry, deployment.settings.catalog
            )
    finally:
        spark.stop()
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], default=str))
        return
    grid = Grid(title=f"Tables of {deployment.settings.lake}")
    for heading in ("table", "rows", "version", "agreement", "expires", "classification"):
        grid.add_column(heading, justify="right" if heading in {"rows", "version"} else "left")
    for entry in entries:
        grid.add_row(
            entry.table,
            f"{entry.rows:,}",
            str(entry.version),
            entry.agreements,
            entry.expires,
            entry.classification,
        )
    Console().print(grid)


@app.command(name="settings")
def show_settings(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    landing: LandingOption = None,
) -> None:
    """Print the effective settings as JSON, secrets masked, and check every file of conf/."""
    deployment = load_deployment(settings, lake=lake, landing=landing)
    values = deployment.settings.model_dump(mode="json")
    confs = values["spark"]["confs"]
    values["spark"]["confs"] = {
        name: "******" if SECRET.search(name) else value for name, value in confs.items()
    }
    print(json.dumps(values, indent=2))


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


def _business_date(as_of: datetime | None) -> date:
    return as_of.date() if as_of else real_clock().date()


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


def _report_ingest(reporter: Reporter, run: Run, outcomes: Sequence[Outcome], code: int) -> None:
    reporter.say(f"ingest: {_sentence(outcomes)}")
    reporter.summary(
        {
            "job": "ingest",
            "run_id": run.run_id,
            "as_of": run.as_of.isoformat(),
            "exit_code": code,
            "deliveries": {
                status: sum(1 for o in outcomes if o.status == status)
                for status in sorted({o.status for o in outcomes})
            },
            "rows_in": run.tally.rows_in,
            "rows_out": run.tally.rows_out,
            "rows_quarantined": run.tally.rows_quarantined,
            "message": _sentence(outcomes),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
