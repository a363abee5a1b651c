"""Options that commands share: one name, one help, one default."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_SETTINGS = Path("conf/settings/local.yaml")

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
