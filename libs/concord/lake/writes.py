"""What a write of the lake asks and says: how its rows go in, under which transaction, where they
come from; and what it did."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from concord.lake import sql


@dataclass(frozen=True)
class Append:
    """Add the rows."""


@dataclass(frozen=True)
class ReplaceWhere:
    """Replace, in one commit, all rows that have one of the `values` in each of the columns, and in
    those of `since` that value or a later one, by rows of which that is true too."""

    values: Mapping[str, Sequence[str | int | date]]
    since: Mapping[str, date] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.values, *self.since)

    @property
    def condition(self) -> str:
        """The same in SQL."""
        parts = [isin(column, values) for column, values in self.values.items()]
        parts += [f"{column} >= {sql.literal(least)}" for column, least in self.since.items()]
        return " AND ".join(parts)

    def holds(self, rows: pa.Table) -> pa.Array:
        """For each row whether that is true of it."""
        held = pa.array([True] * rows.num_rows, pa.bool_())
        for column, values in self.values.items():
            known = pa.array(values, rows[column].type)
            held = pc.and_(held, pc.is_in(rows[column].combine_chunks(), value_set=known))
        for column, least in self.since.items():
            later = pc.greater_equal(rows[column].combine_chunks(), pa.scalar(least))
            held = pc.and_(held, pc.fill_null(later, False))
        return held


@dataclass(frozen=True)
class Overwrite:
    """Replace the whole table."""


@dataclass(frozen=True)
class Merge:
    """Update and insert by the table's key; `newer` columns, taken in order, must not go back."""

    newer: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changes:
    """Merge rows with `_operation` (`put` or `delete`) by the table's key (SCD2, withdrawals)."""


How = Append | ReplaceWhere | Overwrite | Merge | Changes


@dataclass(frozen=True)
class Transaction:
    """A write's identity: `application` names who writes what, `version` only ever grows."""

    application: str
    version: int


@dataclass(frozen=True)
class Stamp:
    """What every commit says of its origin, as Delta's userMetadata.

    `inputs` is a digest of what the rows were made from, where a job replaces a whole table and
    asks, before it does, whether the table already is what it would write.
    """

    run_id: str
    job: str
    code_version: str
    agreements: tuple[str, ...] = ()
    inputs: str = ""

    @property
    def engine(self) -> str:
        """Who makes the commits that Spark does not make."""
        return f"Concord/{self.code_version}"

    def encode(self, transaction: Transaction | None) -> str:
        content: dict[str, Any] = {
            "run_id": self.run_id,
            "job": self.job,
            "code_version": self.code_version,
            "agreements": list(self.agreements),
            # Tells this write from the same one in an earlier try of the same run.
            "attempt": secrets.token_hex(4),
        }
        if self.inputs:
            content["inputs"] = self.inputs
        if transaction:
            content["application"] = transaction.application
            content["version"] = transaction.version
        return json.dumps(content, sort_keys=True)


@dataclass(frozen=True)
class Written:
    """What a write did: the table's version that holds it, and whether this call applied it."""

    table: str
    version: int
    applied: bool


@dataclass(frozen=True)
class Applied:
    """A write that a table's log tells of: table version, transaction, run."""

    version: int
    transaction: Transaction
    run_id: str


def isin(column: str, values: Sequence[str | int | date]) -> str:
    """A SQL condition: `column` is one of `values`."""
    return f"{column} in ({sql.listed(values)})"
