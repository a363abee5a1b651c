"""`concord catalog`, `show`, `lineage`, `settings`: what there is, to be looked at."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from concord import showing, tracking
from concord.deployment import load_deployment, opened
from concord.lake import catalog as lake_catalog
from concord.lake.lineage import lineage as trace
from concord.options import DEFAULT_SETTINGS, LakeOption, LandingOption, SettingsOption

# Spark confs whose values are not shown.
SECRET = re.compile(r"(?i)secret|password|passphrase|token|key")

TableArgument = Annotated[str, typer.Argument(help="A table as the catalog names it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]

app = typer.Typer()


@app.command()
def catalog(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every table: zone, rows, version, agreement, expiry, classification."""
    with opened("catalog", settings, lake) as (deployment, there):
        entries = lake_catalog.entries(there)
        kept = deployment.settings
        if kept.catalog and not as_json:
            lake_catalog.register(there.spark, kept.lake, deployment.registry, kept.catalog)
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], default=str))
        return
    showing.catalog(Console(), kept.lake, entries)


@app.command()
def show(
    table: TableArgument,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    rows: Annotated[int, typer.Option(help="Rows to show, of products and ops only.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show a table: its labels and columns; rows only where they are of no person."""
    with opened("show", settings, lake) as (_, there):
        shown = lake_catalog.shown(there, table, rows=rows)
    if as_json:
        print(json.dumps(asdict(shown), default=str))
    else:
        showing.table(Console(), shown)


@app.command()
def lineage(
    table: TableArgument,
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which deliveries, runs and agreements a table came from."""
    with opened("lineage", settings, lake) as (_, there):
        origin = trace(there, table)
    if as_json:
        print(json.dumps(origin.as_dict(), default=str))
    else:
        showing.origin(Console(), origin)


@app.command(name="settings")
def show_settings(
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: LakeOption = None,
    landing: LandingOption = None,
) -> None:
    """Print the effective settings as JSON, secrets masked, and check every file of conf/."""
    deployment = load_deployment(settings, lake=lake, landing=landing)
    values = deployment.settings.model_dump(mode="json")
    if values["mlflow"]:
        values["mlflow"] = tracking.without_credentials(values["mlflow"])
    confs = values["spark"]["confs"]
    values["spark"]["confs"] = {
        name: "******" if SECRET.search(name) else value for name, value in confs.items()
    }
    print(json.dumps(values, indent=2))
