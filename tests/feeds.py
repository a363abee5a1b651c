"""Tiny feeds for tests: contracts in a few lines, deliveries written like an agency would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from concord.agreements.mou import Contribution, Mou
from concord.contracts.model import Contract, Csv, Derived, Field, Subject, Table

PUBLIC: dict[str, Any] = {"identifier_role": "none", "classification": "internal"}
DIRECT: dict[str, Any] = {"identifier_role": "direct", "classification": "restricted"}


def people_table(policy: str = "full_refresh", **changes: Any) -> Table:
    """Clients of a small agency: a person with a name and a birth date, and an amount."""
    values: dict[str, Any] = {
        "name": "clients",
        "description": "One row per client.",
        "format": Csv(kind="csv"),
        "policy": policy,
        "fields": (
            Field(
                name="client_id",
                source="client_id",
                type="string",
                required=True,
                key_position=1,
                identifier_role="direct",
                classification="restricted",
            ),
            Field(name="name", source="name", type="string", **DIRECT),
            Field(name="born", source="born", type="date", **DIRECT),
            Field(name="town", source="town", type="string", **PUBLIC),
            Field(name="amount", source="amount", type="decimal(10,2)", minimum=0, **PUBLIC),
        ),
        "subjects": (
            Subject(
                role="client",
                key=("client_id",),
                identifiers={"full_name": "name", "birth_date": "born"},
            ),
        ),
        "derived": (
            Derived(
                name="birth_year",
                type="int",
                expression="year(born)",
                description="Year of birth.",
                identifier_role="quasi",
                classification="confidential",
            ),
        ),
        "control_totals": ("amount",),
    }
    return Table.model_validate({**values, **changes})


def contract(*tables: Table, feed: str = "tiny", **changes: Any) -> Contract:
    """A monthly feed of agency `dta`."""
    values: dict[str, Any] = {
        "feed": feed,
        "version": "1.0.0",
        "title": "A tiny feed",
        "description": "For tests.",
        "agency": "dta",
        "owner": "tests",
        "calendar": "month",
        "quarantine_limit": 0.5,
        "retention_years": 7,
        "tables": tables or (people_table(),),
        "file": f"{feed}.yaml",
    }
    return Contract.model_validate({**values, **changes})


# What every table outside ops has to say before it is written.
LABELS = {
    "concord.agreements": "MOU-2018-0001",
    "concord.agreement_digest": "0" * 64,
    "concord.classification": "restricted",
}


def mou(*feeds: str) -> dict[str, Mou]:
    """An agreement under which the hub may hold the feeds."""
    agreement = Mou(
        id="MOU-2018-0001",
        version=1,
        title="For tests",
        hub="eotss-data-office",
        effective="2018-01-01",
        expires="2099-12-31",
        signatories=("dta",),
        contributions=tuple(
            Contribution(
                clause=f"{n}",
                agency="dta",
                feed=feed,
                tables="all",
                identifiers=True,
                may_be_matched=True,
                purposes=("program-evaluation",),
                retention_years=7,
            )
            for n, feed in enumerate(feeds or ("tiny",), 1)
        ),
    )
    return {agreement.id: agreement}


Row = Mapping[str, str]


@dataclass
class File:
    """One CSV file of a delivery: rows as dicts, or `text` as it is."""

    period: str
    rows: Sequence[Row] = ()
    table: str = "clients"
    name: str = ""
    content: bytes | None = None
    rows_declared: int | None = None
    totals: Mapping[str, str] | None = None
    columns: Sequence[str] = ("client_id", "name", "born", "town", "amount")

    def bytes(self) -> bytes:
        if self.content is not None:
            return self.content
        lines = [",".join(self.columns)]
        lines += [",".join(row.get(column, "") for column in self.columns) for row in self.rows]
        return ("\n".join(lines) + "\n").encode()


def client(number: int, **changes: str) -> dict[str, str]:
    """A good row."""
    return {
        "client_id": f"C{number:04d}",
        "name": f"Person Number{number}",
        "born": f"19{number % 90 + 10}-03-04",
        "town": "Lowell",
        "amount": f"{number}.25",
        **changes,
    }


@dataclass
class Sent:
    """A delivery that lies in the landing area."""

    folder: Path
    manifest: dict[str, Any] = field(default_factory=dict)


def deliver(
    landing: Path,
    sequence: int,
    *files: File,
    feed: str = "tiny",
    folder: str = "",
    created_at: str = "2025-06-01T06:00:00Z",
    withdraws: int | None = None,
    **changes: Any,
) -> Sent:
    """Writes files and manifest below `<landing>/<feed>/`."""
    place = landing / feed / (folder or f"seq{sequence:03d}")
    place.mkdir(parents=True)
    listed = []
    for number, file in enumerate(files):
        name = file.name or f"{file.table}-{file.period}-{number}.csv"
        content = file.bytes()
        (place / name).write_bytes(content)
        totals = file.totals
        if totals is None:
            amounts = [Decimal(row["amount"]) for row in file.rows if _is_number(row.get("amount"))]
            totals = {"amount": str(sum(amounts, Decimal(0)))}
        listed.append(
            {
                "name": name,
                "table": file.table,
                "period": file.period,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "rows": len(file.rows) if file.rows_declared is None else file.rows_declared,
                "control_totals": dict(totals),
            }
        )
    manifest: dict[str, Any] = {
        "feed": feed,
        "sequence": sequence,
        "kind": "delivery" if withdraws is None else "withdrawal",
        "created_at": created_at,
        "files": listed,
        **({"withdraws": withdraws} if withdraws is not None else {}),
        **changes,
    }
    (place / "manifest.json").write_text(json.dumps(manifest))
    return Sent(place, manifest)


def _is_number(text: str | None) -> bool:
    try:
        Decimal(text or "")
    except ArithmeticError:
        return False
    return True
