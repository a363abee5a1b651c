"""The lake tables that follow from a feed's contract: curated, identifiers, quarantine."""

from __future__ import annotations

from collections.abc import Iterable

from concord.contracts.model import IDENTIFIERS, MULTI_VALUED, Contract
from concord.contracts.model import Table as Source
from concord.lake import scd2
from concord.lake.registry import OPS_TABLES, Column, Registry, Table

VIOLATION_TYPE = "struct<rule:string,column:string,message:string,severity:string>"
DAYS_PER_YEAR = 365

# What every row of a feed's tables knows of where it came from.
ORIGIN = (
    Column("_period", "string", "the business period of the file"),
    Column("_delivery_id", "string", "the delivery, see ops/deliveries"),
    Column("_sequence", "bigint", "the feed's count of loaded deliveries"),
)
VALIDITY = (
    Column(scd2.VALID_FROM, "date", "first day of the first snapshot that said so"),
    Column(
        scd2.VALID_TO, "date", "first day of the first snapshot that said otherwise; open: NULL"
    ),
    Column(scd2.IS_CURRENT, "boolean", "the last snapshot says so"),
)
SCD2_ORIGIN = tuple(column for column in ORIGIN if column.name != "_period")


def curated_columns(source: Source) -> tuple[Column, ...]:
    """A curated table's own columns: record ids, facts, harmonised and derived columns."""
    subject_keys = {name for subject in source.subjects for name in subject.key}
    columns = [
        Column(
            subject.record_id,
            "string",
            f"record id of the row's {subject.role}",
            "confidential",
            "quasi" if subject.kind == "person" else "none",
        )
        for subject in source.subjects
    ]
    for field in source.fields:
        if field.identifier_role == "direct" or field.name in subject_keys:
            continue
        columns.append(
            Column(
                field.name,
                field.type,
                field.description,
                field.classification,
                field.identifier_role,
            )
        )
    for field in source.fields:
        if field.harmonise:
            columns.append(
                Column(
                    field.harmonise.column,
                    "string",
                    f"{field.name} in the standard list `{field.harmonise.to}`",
                    field.classification,
                    field.identifier_role,
                )
            )
    columns.extend(
        Column(d.name, d.type, d.description, d.classification, d.identifier_role)
        for d in source.derived
    )
    return tuple(columns)


def curated_key(source: Source) -> tuple[str, ...]:
    """The primary key as curated rows carry it: record ids in place of subjects' source keys."""
    key: list[str] = []
    for name in source.key:
        subject = next((s for s in source.subjects if name in s.key), None)
        column = subject.record_id if subject else name
        if column not in key:
            key.append(column)
    return tuple(key)


def curated(contract: Contract, source: Source) -> Table:
    """The curated table of one table of a feed."""
    own = curated_columns(source)
    snapshot = source.policy == "snapshot"
    origin = SCD2_ORIGIN + VALIDITY if snapshot else ORIGIN
    key = curated_key(source)
    safe = [c.name for c in own if c.identifier_role == "none" and _can_have_statistics(c)]
    return Table(
        name=f"curated/{contract.feed}_{source.name}",
        description=source.description,
        owner=contract.agency,
        columns=own + origin,
        key=(*key, scd2.VALID_FROM) if snapshot else key,
        partition_by=("_period",) if source.policy == "full_refresh" else (),
        statistics=tuple([*(c.name for c in origin if _can_have_statistics(c)), *safe][:16]),
        properties={"delta.enableChangeDataFeed": "true"},
    )


def describes(source: Source) -> bool:
    """Whether the table writes any subject to the vault."""
    return any(subject.identifiers is not None for subject in source.subjects)


def identifiers(contract: Contract) -> Table | None:
    """The feed's vault table: who its records are. None when the feed speaks of no one."""
    sources = [source for source in contract.tables if describes(source)]
    if not sources:
        return None
    snapshot = sources[0].policy == "snapshot"
    direct = [
        Column(
            name,
            "array<string>"
            if name in MULTI_VALUED
            else "date"
            if name == "birth_date"
            else "string",
            classification="restricted",
            identifier_role="direct",
        )
        for name in IDENTIFIERS
    ]
    origin = SCD2_ORIGIN + VALIDITY if snapshot else ORIGIN
    key = ("record_id", "role", "source_table", "source_row")
    return Table(
        name=f"vault/identifiers_{contract.feed}",
        description=f"Direct identifiers of {contract.title}: a row per subject of a source row.",
        owner=contract.agency,
        columns=(
            Column("record_id", "string", "HMAC of feed, role and source key", "restricted"),
            Column("role", "string", "the subject's role in the row", "restricted"),
            Column("kind", "string", "person, or entity for what groups people", "restricted"),
            Column(
                "source_key", "string", "the agency's key of the subject", "restricted", "direct"
            ),
            Column("source_table", "string", "the feed's table", "restricted"),
            Column("source_row", "string", "the row's primary key", "restricted", "direct"),
            *direct,
            *origin,
        ),
        key=(*key, scd2.VALID_FROM) if snapshot else key,
        partition_by=("source_table", "_period") if sources[0].policy == "full_refresh" else (),
        statistics=("role", *(c.name for c in origin if _can_have_statistics(c))),
    )


def quarantine(contract: Contract) -> Table:
    """The feed's rejected rows, raw, with why."""
    return Table(
        name=f"vault/quarantine_{contract.feed}",
        description=(
            f"Rows of {contract.title} that broke the contract. `released_by` names the run that "
            "let a row pass under a corrected contract; its raw text is then gone."
        ),
        owner=contract.agency,
        columns=(
            Column("delivery_id", "string"),
            Column("source_table", "string"),
            Column("period", "string"),
            Column("file", "string"),
            Column("row_number", "bigint", "data rows of the file, from 1"),
            Column("raw", "string", "the row as delivered", "restricted", "direct"),
            Column("violations", f"array<{VIOLATION_TYPE}>", "", "restricted", "direct"),
            Column("contract_version", "string"),
            Column("released_by", "string", "run id; NULL while the row is in quarantine"),
        ),
        key=("delivery_id", "file", "row_number"),
        statistics=("delivery_id", "source_table", "row_number"),
    )


def of_contract(contract: Contract) -> list[Table]:
    """All tables that a feed writes."""
    tables = [curated(contract, source) for source in contract.tables]
    people = identifiers(contract)
    return [*tables, *([people] if people else []), quarantine(contract)]


def registry(contracts: Iterable[Contract]) -> Registry:
    """Every table of a deployment."""
    return Registry([*OPS_TABLES, *(t for contract in contracts for t in of_contract(contract))])


def _can_have_statistics(column: Column) -> bool:
    if column.name == "_delivery_id":
        return True
    return column.type.split("(")[0] in {"int", "bigint", "decimal", "double", "date", "timestamp"}
