"""The agencies and secretariats of the deployment, from `conf/agencies.yaml`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from concord.errors import ConfigError
from concord.settings import Document, Problem, Typed, read_document, validate


class Agency(Typed):
    """One agency. `mou_since` is the day it signed the statewide MOU, None if it has not."""

    name: str
    secretariat: str
    mou_since: date | None = None
    coordinator: str


class Agencies(Typed):
    """All agencies by key, with the hub: the office that holds and links their data."""

    hub: str
    secretariats: dict[str, str]
    agencies: dict[str, Agency]


def load_agencies(path: Path) -> Agencies:
    """Read and check `agencies.yaml`. Raises ConfigError with every mistake and its line."""
    document = read_document(path)
    agencies = validate(document, Agencies)
    found = list(_problems(document, agencies))
    if found:
        raise ConfigError(found)
    return agencies


def _problems(document: Document, agencies: Agencies) -> list[Problem]:
    found = []
    if agencies.hub not in agencies.agencies:
        found.append(
            document.problem(("hub",), f"no agency {agencies.hub!r}; add it under agencies")
        )
    for key, agency in agencies.agencies.items():
        if agency.secretariat not in agencies.secretariats:
            known = ", ".join(agencies.secretariats)
            message = f"no secretariat {agency.secretariat!r}; use one of {known}"
            found.append(document.problem(("agencies", key, "secretariat"), message))
    return found
