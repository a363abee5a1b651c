"""The feed that ingestion is measured with: ten columns, ten rules, a file of any size."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from concord.contracts.model import Contract, Csv, Field, RowRule, Subject, Table

FEED, TABLE, SEED = "bench", "clients", 7
BATCH = 1_000_000

PUBLIC: dict[str, Any] = {"identifier_role": "none", "classification": "internal"}
DIRECT: dict[str, Any] = {"identifier_role": "direct", "classification": "restricted"}

GIVEN = ("Ana", "Brian", "Chloe", "David", "Elena", "Fatima", "George", "Hanh", "Isaac", "Julia")
FAMILY = ("Smith", "Silva", "Nguyen", "Murphy", "Rivera", "Cohen", "Pierre", "Chen", "Sullivan")
CITIES = ("Boston", "Worcester", "Springfield", "Cambridge", "Lowell", "Brockton", "Quincy")
PROGRAMS = ("SNAP", "TAFDC", "EAEDC", "WIC")
# Days since 1970-01-01. Nobody starts before being born, as the row rule asks.
BORN = (date(1930, 1, 1).toordinal(), date(2005, 1, 1).toordinal())
STARTED = (date(2010, 1, 1).toordinal(), date(2025, 1, 1).toordinal())
EPOCH = date(1970, 1, 1).toordinal()

COLUMNS = {
    "client_id": "string",
    "given_name": "string",
    "family_name": "string",
    "birth_date": "date",
    "ssn": "string",
    "city": "string",
    "zip": "string",
    "program": "string",
    "started_on": "date",
    "amount": "decimal(10,2)",
}
BARE_SCHEMA = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())


def contract() -> Contract:
    """A monthly feed with one person a row, replaced whole for each month.

    Its ten rules: the key required and unique, a pattern, a list of codes, two dates and an amount
    that can be read, the amount's two bounds, and one condition over two columns.
    """
    clients = Table(
        name=TABLE,
        description="One row per client.",
        format=Csv(kind="csv"),
        policy="full_refresh",
        fields=(
            _field("client_id", required=True, key_position=1, **DIRECT),
            _field("given_name", **DIRECT),
            _field("family_name", **DIRECT),
            _field("birth_date", **DIRECT),
            _field("ssn", pattern=r"\d{3}-\d{2}-\d{4}", **DIRECT),
            _field("city", **DIRECT),
            _field("zip", **DIRECT),
            _field("program", allowed=PROGRAMS, **PUBLIC),
            _field("started_on", **PUBLIC),
            _field("amount", minimum=0, maximum=100_000, **PUBLIC),
        ),
        subjects=(
            Subject(
                role="client",
                key=("client_id",),
                identifiers={
                    name: name
                    for name in ("given_name", "family_name", "birth_date", "ssn", "city", "zip")
                },
            ),
        ),
        row_rules=(
            RowRule(
                name="startedAfterBirth",
                condition="started_on >= birth_date",
                columns=("started_on", "birth_date"),
                message="starts before birth",
            ),
        ),
        control_totals=("amount",),
    )
    return Contract(
        feed=FEED,
        version="1.0.0",
        title="The benchmark's feed",
        description="Clients of an office that exists to be measured.",
        agency="dta",
        owner="benchmarks",
        calendar="month",
        quarantine_limit=0.01,
        retention_years=7,
        tables=(clients,),
        file="bench.yaml",
    )


def _field(name: str, **rules: Any) -> Field:
    return Field(name=name, source=name, type=COLUMNS[name], **rules)


# --- the file ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A generated CSV file and what its manifest declares of it."""

    path: Path
    rows: int
    bytes: int
    sha256: str
    amount: Decimal


def make_file(path: Path, rows: int) -> Made:
    """Writes `rows` good rows with a header line; the same bytes for the same number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    options = pacsv.WriteOptions(include_header=False, quoting_style="none")
    cents = 0
    with path.open("wb") as sink:
        sink.write((",".join(COLUMNS) + "\n").encode())
        sink.flush()
        with pacsv.CSVWriter(sink, schema, write_options=options) as writer:
            for first in range(0, rows, BATCH):
                batch, subtotal = _batch(rng, first, min(BATCH, rows - first))
                writer.write_table(batch)
                cents += subtotal
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Made(path, rows, path.stat().st_size, digest, Decimal(cents).scaleb(-2))


def _batch(rng: np.random.Generator, first: int, rows: int) -> tuple[pa.Table, int]:
    """Rows `first` to `first + rows` as text, and the sum of their amounts in cents."""
    cents = rng.integers(0, 250_000, rows)
    ssn = rng.integers(0, 10**9, rows)
    columns = {
        "client_id": pc.binary_join_element_wise(
            "C", _digits(np.arange(first, first + rows), 9), ""
        ),
        "given_name": _one_of(rng, GIVEN, rows),
        "family_name": _one_of(rng, FAMILY, rows),
        "birth_date": _days(rng, BORN, rows),
        "ssn": pc.binary_join_element_wise(
            _digits(ssn // 1_000_000, 3),
            _digits(ssn // 10_000 % 100, 2),
            _digits(ssn % 10_000, 4),
            "-",
        ),
        "city": _one_of(rng, CITIES, rows),
        "zip": _digits(rng.integers(1001, 2792, rows), 5),
        "program": _one_of(rng, PROGRAMS, rows),
        "started_on": _days(rng, STARTED, rows),
        "amount": pc.binary_join_element_wise(
            _digits(cents // 100, 1), _digits(cents % 100, 2), "."
        ),
    }
    return pa.table(columns), int(cents.sum())


def _digits(numbers: np.ndarray[Any, Any], width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")


def _one_of(rng: np.random.Generator, words: tuple[str, ...], rows: int) -> pa.Array:
    return pa.array(words).take(pa.array(rng.integers(0, len(words), rows)))


def _days(rng: np.random.Generator, between: tuple[int, int], rows: int) -> pa.Array:
    days = rng.integers(*between, rows) - EPOCH
    return pa.array(days.astype("int32"), pa.date32()).cast(pa.string())


# --- the delivery --------------------------------------------------------------------------------


def deliver(landing: Path, made: Made, number: int) -> None:
    """Puts the file into the landing area as delivery `number` (from 1), each its own month.

    The file is linked, not copied: what an agency does to send it is not measured.
    """
    months = number - 1
    folder = landing / FEED / f"delivery{number:04d}"
    folder.mkdir(parents=True)
    (folder / "clients.csv").hardlink_to(made.path)
    manifest = {
        "feed": FEED,
        "sequence": number,
        "created_at": "2025-06-01T06:00:00Z",
        "files": [
            {
                "name": "clients.csv",
                "table": TABLE,
                "period": f"{2015 + months // 12}-{months % 12 + 1:02d}",
                "sha256": made.sha256,
                "bytes": made.bytes,
                "rows": made.rows,
                "control_totals": {"amount": str(made.amount)},
            }
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
