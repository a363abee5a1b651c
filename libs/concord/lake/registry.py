"""What a table is, declared once: zone, columns, keys, properties, owner.

The ops tables stand here; tables that follow from contracts are made in `concord.ingest.tables`.
Which of them a deployment has is a `Registry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import get_args

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import DataType, StructField, StructType

from concord.lake.statistics import COLUMNS
from concord.settings import Zone

ZONES: tuple[str, ...] = get_args(Zone)

# Delta features that make other readers fail or, worse, return NULLs stay off everywhere,
# whatever a cluster's defaults say (docs/decisions/0003).
READER_SAFE = {
    "delta.columnMapping.mode": "none",
    "delta.enableDeletionVectors": "false",
    "delta.checkpointPolicy": "classic",
    "delta.enableTypeWidening": "false",
    "delta.enableRowTracking": "false",
}


# Labels (table properties) that every table outside ops has before it has a row. What they say is
# for `concord.agreements.labels` to compute.
REQUIRED_LABELS = ("concord.agreements", "concord.agreement_digest", "concord.classification")


@dataclass(frozen=True)
class Column:
    """A column with what readers may know about it. `type` is Spark DDL."""

    name: str
    type: str
    comment: str = ""
    classification: str = "internal"
    identifier_role: str = "none"


@dataclass(frozen=True)
class Table:
    """A table's whole declaration.

    `name` is `<zone>/<rest>` and also its path below the lake root. `statistics` names the columns
    whose minimum and maximum may stand in clear text in Delta's log. `hashes` names columns of
    which hardly a value comes twice and none can be made smaller: files of many rows have them as
    they are, for which readers and writers need a fraction of the time (`lake/workers.py`).
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    owner: str
    description: str
    partition_by: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    retention_days: int = 30

    def __post_init__(self) -> None:
        names = {column.name for column in self.columns}
        for what, columns in (
            ("key", self.key),
            ("partition", self.partition_by),
            ("statistics", self.statistics),
            ("hashes", self.hashes),
        ):
            missing = [column for column in columns if column not in names]
            if missing:
                raise ValueError(f"{self.name}: {what} columns {missing} are not columns")
        if self.zone not in ZONES:
            raise ValueError(f"{self.name}: the name must begin with one of {ZONES}")
        unsafe = [
            column.name
            for column in self.columns
            if column.name in self.statistics and column.identifier_role == "direct"
        ]
        if unsafe:
            raise ValueError(f"{self.name}: identifying columns get no statistics: {unsafe}")
        # Of them Delta counts the nulls alone, which delta-rs takes to be all there is.
        kinds = {column.name: column.type for column in self.columns}
        lost = [name for name in self.statistics if kinds[name] == "boolean"]
        if lost:
            raise ValueError(f"{self.name}: by statistics of booleans readers lose rows: {lost}")

    @property
    def zone(self) -> str:
        return self.name.split("/", 1)[0]

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def schema(self) -> StructType:
        """The Spark schema, each column's comment and labels in its metadata."""
        return StructType(
            [
                StructField(
                    column.name,
                    _data_type(column.type),
                    True,
                    {
                        **({"comment": column.comment} if column.comment else {}),
                        "concord.classification": column.classification,
                        "concord.identifier_role": column.identifier_role,
                    },
                )
                for column in self.columns
            ]
        )

    @property
    def arrow_schema(self) -> pa.Schema:
        """The same columns as Arrow's, times in UTC."""
        return to_arrow_schema(self.schema, timezone="UTC")

    @property
    def delta_properties(self) -> dict[str, str]:
        """Explicit properties, so that a cluster's defaults cannot flip them."""
        return {
            **READER_SAFE,
            COLUMNS: ",".join(self.statistics),
            "delta.logRetentionDuration": f"interval {self.retention_days} days",
            "delta.deletedFileRetentionDuration": f"interval {self.retention_days} days",
            **self.properties,
        }


@lru_cache(maxsize=256)
def _data_type(ddl: str) -> DataType:
    return DataType.fromDDL(ddl)


class Registry:
    """The tables that a deployment has, by name."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables: dict[str, Table] = {}
        for table in tables:
            if table.name in self._tables:
                raise ValueError(f"table {table.name} is declared twice")
            self._tables[table.name] = table

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[Table]:
        return iter(sorted(self._tables.values(), key=lambda table: table.name))

    def __len__(self) -> int:
        return len(self._tables)


VERSIONS_TYPE = "array<struct<table:string,version:bigint>>"

DELIVERIES = Table(
    name="ops/deliveries",
    description=(
        "Every state that each delivery went through, one row per state, only ever appended: "
        "the last row of a delivery is its present state."
    ),
    owner="data office",
    key=("delivery_id", "event"),
    columns=(
        Column("delivery_id", "string", "hash of the manifest's content and the files' hashes"),
        Column("event", "int", "count of the feed's events, from 1"),
        Column("feed", "string"),
        Column(
            "status",
            "string",
            "loading, loaded, duplicate, rejected, withdrawn (by a later withdrawal)",
        ),
        Column("kind", "string", "delivery or withdrawal"),
        Column("sequence", "bigint", "the feed's count of what was loaded; Delta's txnVersion"),
        Column("agency_sequence", "bigint", "the agency's own count, from the manifest"),
        Column("folder", "string", "where it was found, below the landing root"),
        Column("signature", "string", "hash of names, sizes and times of the folder's files"),
        Column("created_at", "timestamp", "when the agency made it, from the manifest"),
        Column("as_of", "date", "the run's business date"),
        Column(
            "files",
            "array<struct<name:string,table:string,period:string,sha256:string,bytes:bigint,"
            "declared_rows:bigint,rows:bigint,quarantined:bigint,"
            "control_totals:map<string,string>>>",
        ),
        Column("reasons", "array<string>", "why it was rejected, or what it superseded"),
        Column(
            "violations", "array<struct<rule:string,column:string,severity:string,rows:bigint>>"
        ),
        Column("contract_version", "string"),
        Column("versions", VERSIONS_TYPE, "table versions this delivery wrote"),
        Column("run_id", "string"),
        Column("recorded_at", "timestamp", "the real clock"),
    ),
    statistics=("delivery_id", "event", "feed", "status"),
    retention_days=365,
)

RUNS = Table(
    name="ops/runs",
    description="One row when a run starts and one when it ends; a run without its end was killed.",
    owner="data office",
    key=("run_id", "started_at", "state"),
    columns=(
        Column("run_id", "string"),
        Column("job", "string"),
        Column("state", "string", "started or ended"),
        Column("arguments", "string", "JSON"),
        Column("actor", "string", "from the operating system or the identity provider"),
        Column("code_version", "string"),
        Column("config_digest", "string"),
        Column("as_of", "date"),
        Column("started_at", "timestamp", "the real clock"),
        Column("ended_at", "timestamp", "the real clock"),
        Column("read_versions", VERSIONS_TYPE),
        Column("written_versions", VERSIONS_TYPE),
        Column("rows_in", "bigint"),
        Column("rows_out", "bigint"),
        Column("rows_quarantined", "bigint"),
        Column("exit_code", "int"),
        Column("message", "string"),
    ),
    statistics=("run_id", "job", "started_at"),
    retention_days=365,
)

OPS_TABLES = (DELIVERIES, RUNS)
