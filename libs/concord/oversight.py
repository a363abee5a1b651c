"""`concord audit`, `concord labels`, `concord agreement dcat`: what an officer looks at.

Nothing is changed by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from concord import labelling
from concord.agreements import audit, chain
from concord.agreements import dcat as dcat_export
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.agencies import load_agencies
from concord.agreements.commands import DayOption
from concord.agreements.commands import app as agreement_app
from concord.deployment import load_deployment, opened
from concord.errors import AuditError, UsageError
from concord.lake import run as runs
from concord.options import DEFAULT_SETTINGS, LakeOption, SettingsOption
from concord.reporting import Reporter

audit_app = typer.Typer(
    no_args_is_help=True,
    help="The access log: verify, anchor; used, reads; disclosures, notice.",
)
labels_app = typer.Typer(no_args_is_help=True, help="Labels of tables: verify.")


@audit_app.command()
def verify(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    expect: Annotated[
        str | None, typer.Option(help="A last hash noted earlier that must still be there.")
    ] = None,
) -> None:
    """Check that no row of the access log or of the agreements' events was changed, taken out or
    put in, and that every anchor still holds (else exit 16)."""
    with opened("audit", settings, lake) as (_, there):
        found = audit.verify(there, expect=expect)
    _audited("audit verify", found)


@audit_app.command()
def anchor(settings: SettingsOption = DEFAULT_SETTINGS, lake: LakeOption = None) -> None:
    """Verify, and write today's anchor: keep a copy of ops/_anchors outside the lake."""
    with opened("audit", settings, lake) as (_, there):
        found = audit.anchor(there, runs.real_clock().date())
    _audited("audit anchor", found)


def _audited(job_name: str, found: audit.Audit) -> None:
    rows, events = (found.rows[table.name] for table in audit.CHAINED)
    message = (
        f"{rows} rows, and {events} events of agreements, all as they were written; "
        f"{found.anchors} anchors hold; note the last hash elsewhere"
    )
    tip = found.tips[ACCESS_LOG.name]
    told = {"rows": rows, "events": events, "anchors": found.anchors, "tip": tip}
    Reporter().summary({"job": job_name, "exit_code": 0, **told, "message": message})


@audit_app.command()
def used(
    agency: Annotated[str, typer.Argument(help="The agency whose data it is.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """Who used my data: every decision and read that spoke of an agency's tables, as JSON lines."""
    with opened("audit", settings, lake) as (deployment, there):
        rows = chain.read(there, ACCESS_LOG)
    _lines(audit.used(rows, deployment.contracts, agency))


@audit_app.command()
def reads(
    actor: Annotated[str | None, typer.Option(help="What this person did.")] = None,
    run: Annotated[str | None, typer.Option(help="What this run did.")] = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
) -> None:
    """What a person, or a run, asked for and read, as JSON lines."""
    if (actor is None) == (run is None):
        raise UsageError("say --actor or --run")
    with opened("audit", settings, lake) as (_, there):
        rows = chain.read(there, ACCESS_LOG)
    _lines(audit.done_by(rows, actor=actor, run_id=run))


@audit_app.command()
def disclosures(settings: SettingsOption = DEFAULT_SETTINGS, lake: LakeOption = None) -> None:
    """The record of disclosures that M.G.L. c. 66A s. 2(f) asks for, as JSON lines."""
    with opened("audit", settings, lake) as (deployment, there):
        rows, register = chain.read(there, ACCESS_LOG), deployment.register(there)
    _lines(audit.disclosures(rows, register))


@audit_app.command()
def notice(settings: SettingsOption = DEFAULT_SETTINGS) -> None:
    """The public notice of personal data systems (M.G.L. c. 30 s. 63), in Markdown."""
    d = load_deployment(settings)
    agencies = load_agencies(d.settings.conf / "agencies.yaml")
    print(audit.public_notice(agencies, d.mous.values(), d.dulas.values(), d.contracts))


def _lines(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row))


@labels_app.command(name="verify")
def verify_labels(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
) -> None:
    """Check that every table's labels are those of its signed agreement (else exit 16)."""
    with opened("labels", settings, lake) as (deployment, there):
        today = runs.real_clock().date()
        checked = labelling.verify(there, deployment, deployment.register(there), today)
    for finding in checked.findings:
        print(json.dumps(asdict(finding)) if as_json else f"  {finding}")
    message = f"{checked.tables} tables, {len(checked.findings)} labels are not as they should be"
    code = AuditError.exit_code if checked.findings else 0
    told = {"tables": checked.tables, "findings": len(checked.findings), "message": message}
    Reporter().summary({"job": "labels verify", "exit_code": code, **told})
    if code:
        raise typer.Exit(code)


@agreement_app.command()
def dcat(
    contact: Annotated[str, typer.Option(help="E-mail address that answers for the catalog.")] = "",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    on: DayOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="The schema, as JSON.")] = False,
) -> None:
    """Write study tables and products of the agreements in force as a DCAT-US 3.0 catalog."""
    if schema:
        print(json.dumps(dcat_export.SCHEMA, indent=2))
        return
    with opened("agreement", settings, lake) as (deployment, there):
        register = deployment.register(there)
    known = dcat_export.Known(
        load_agencies(deployment.settings.conf / "agencies.yaml"),
        deployment.contracts,
        deployment.products.values(),
        {name: each.minimum for name, each in deployment.profiles.items()},
        contact,
    )
    day = on.date() if on else runs.real_clock().date()
    print(json.dumps(dcat_export.catalog(register, day, known), indent=2, ensure_ascii=False))
