"""A delivery's manifest (docs/deliveries.md) and the business periods it speaks of."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from concord.contracts.model import Calendar
from concord.errors import DeliveryError
from concord.settings import Typed, dotted

MANIFEST_NAMES = ("manifest.json", "manifest.csv")

PERIODS: dict[Calendar, re.Pattern[str]] = {
    "day": re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])\Z"),
    "week": re.compile(r"[0-9]{4}-W(0[1-9]|[1-4][0-9]|5[0-3])\Z"),
    "month": re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])\Z"),
    "quarter": re.compile(r"[0-9]{4}-Q[1-4]\Z"),
    "year": re.compile(r"[0-9]{4}\Z"),
}


class ManifestFile(Typed):
    """One data file as the agency declares it. Control totals are exact decimals as text."""

    name: str
    table: str
    period: str
    sha256: str
    bytes: int
    rows: int
    control_totals: dict[str, str] = {}

    @field_validator("name")
    @classmethod
    def _beside_the_manifest(cls, name: str) -> str:
        if "/" in name or "\\" in name or name.startswith(".") or not name:
            raise ValueError("a file stands beside its manifest: a plain name without a path")
        if ":" in name:
            # Hadoop takes what stands before it for the scheme of an address, and opens nothing.
            raise ValueError("no store keeps a file with a colon in its name: name it without")
        return name

    @field_validator("sha256")
    @classmethod
    def _hex(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise ValueError("not a SHA-256: 64 hex digits")
        return value.lower()

    @field_validator("control_totals")
    @classmethod
    def _decimals(cls, totals: dict[str, str]) -> dict[str, str]:
        for column, total in totals.items():
            try:
                Decimal(total)
            except InvalidOperation:
                raise ValueError(f"control total of {column} is not a decimal number") from None
        return totals


class Manifest(Typed):
    """What the agency says it delivers."""

    feed: str
    sequence: int
    kind: Literal["delivery", "withdrawal"] = "delivery"
    withdraws: int | None = None
    created_at: datetime
    files: tuple[ManifestFile, ...] = ()

    @model_validator(mode="after")
    def _kinds(self) -> Manifest:
        if self.kind == "withdrawal" and (self.withdraws is None or self.files):
            raise ValueError("a withdrawal names the sequence it `withdraws` and brings no files")
        if self.kind == "delivery" and not self.files:
            raise ValueError("a delivery brings at least one file")
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError("a file is listed twice")
        return self

    @property
    def created(self) -> datetime:
        """`created_at` in UTC; a time without zone is taken as UTC."""
        at = self.created_at
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)

    @property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """The (table, period) pairs that the delivery speaks for, sorted."""
        return tuple(sorted({(file.table, file.period) for file in self.files}))


def parse(content: bytes, name: str) -> Manifest:
    """A manifest file's content. Raises DeliveryError naming every mistake."""
    try:
        text = content.decode("utf-8-sig")
        data: Any = json.loads(text) if name.endswith(".json") else _from_csv(text)
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise DeliveryError(
            f"{name}: {dotted(tuple(item['loc'])) or 'manifest'}: "
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors(include_url=False, include_input=False)
        ) from None
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        what = type(error).__name__
        raise DeliveryError([f"{name} cannot be read ({what}); see docs/deliveries.md"]) from None


def _from_csv(text: str) -> dict[str, Any]:
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or any(None in row for row in rows):
        raise ValueError("no line, or a line with more cells than the header")
    first = rows[0]
    for name in ("feed", "sequence", "kind", "created_at", "withdraws"):
        if any(row.get(name) != first.get(name) for row in rows):
            raise ValueError(f"the lines disagree on {name}")
    files = [
        {
            "name": row["name"],
            "table": row["table"],
            "period": row["period"],
            "sha256": row["sha256"],
            "bytes": int(row["bytes"]),
            "rows": int(row["rows"]),
            "control_totals": dict(
                pair.split("=", 1) for pair in (row.get("control_totals") or "").split(";") if pair
            ),
        }
        for row in rows
        if row["name"]
    ]
    return {
        "feed": first["feed"],
        "sequence": int(first["sequence"]),
        "kind": first.get("kind") or "delivery",
        "withdraws": int(first["withdraws"]) if first.get("withdraws") else None,
        "created_at": first["created_at"],
        "files": files,
    }


def delivery_id(manifest: Manifest, actual: Mapping[str, str]) -> str:
    """Identity by content: 128 bits over the manifest and each file's real hash, hex."""
    content = json.dumps(
        {"manifest": manifest.model_dump(mode="json"), "files": dict(sorted(actual.items()))},
        sort_keys=True,
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def is_period(text: str, calendar: Calendar) -> bool:
    """Whether `text` names a real period of the calendar."""
    if not PERIODS[calendar].match(text):
        return False
    try:
        first_day(text)
    except ValueError:
        return False
    return True


def first_day(period: str) -> date:
    """The first day of a period of any calendar."""
    if "-W" in period:
        year, week = period.split("-W")
        return date.fromisocalendar(int(year), int(week), 1)
    if "-Q" in period:
        year, quarter = period.split("-Q")
        return date(int(year), int(quarter) * 3 - 2, 1)
    parts = [int(part) for part in period.split("-")]
    return date(parts[0], parts[1] if len(parts) > 1 else 1, parts[2] if len(parts) > 2 else 1)


def last_day(period: str) -> date:
    """The last day of a period of any calendar."""
    first = first_day(period)
    if "-W" in period:
        return first + timedelta(days=6)
    months = 3 if "-Q" in period else 12 if len(period) == 4 else 1
    if period.count("-") == 2:
        return first
    total = first.year * 12 + first.month - 1 + months
    return date(total // 12, total % 12 + 1, 1) - timedelta(days=1)


@dataclass(frozen=True)
class Found:
    """A delivery as it lies in the landing area, not yet opened.

    `signature` changes when a file is added, removed, resized or touched, so that folders known
    from the ledger are passed over without being read.
    """

    feed: str
    folder: str
    path: str
    signature: str
    manifest_name: str | None
    bytes: int = 0


def signature(entries: Sequence[tuple[str, int, int]]) -> str:
    """Hash of (name, bytes, modified) of a folder's files, hex."""
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()[:32]
