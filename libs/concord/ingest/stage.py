"""One pass over a delivery's files into a stage, and the audit of that stage.

The stage is Parquet in the vault, one folder per table, overwritten whole on every try; nothing
reads it but the publication of the same delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from concord.contracts.model import Contract, Table
from concord.ingest import readers, rules
from concord.ingest.manifest import Manifest
from concord.ingest.readers import SourceFile
from concord.ingest.rules import Violation
from concord.lake import sql
from concord.lake.storage import join
from concord.privacy.hashing import Key
from concord.privacy.records import record_id, source_key

PLACE = ("_file", "_block", "_index")


@dataclass(frozen=True)
class FileCount:
    """What one file turned out to hold, beside what its manifest declares."""

    name: str
    table: str
    period: str
    sha256: str
    bytes: int
    declared_rows: int
    rows: int
    quarantined: int
    declared_totals: Mapping[str, str]
    totals: Mapping[str, Decimal]
    # Per block of the file, what to add to `_index` for a row's number in the file, from 1.
    offsets: Mapping[int, int]


@dataclass(frozen=True)
class Stage:
    """A staged delivery: typed rows by table, violations found by comparing rows, and counts.

    `late` is None when comparing rows found nothing that keeps one out.
    """

    contract: Contract
    tables: Mapping[str, DataFrame]
    late: DataFrame | None
    files: tuple[FileCount, ...]
    violations: tuple[Violation, ...]
    table_failures: tuple[str, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def rows_of(self, table: str) -> int:
        return sum(file.rows for file in self.files if file.table == table)

    @property
    def quarantined(self) -> int:
        return sum(file.quarantined for file in self.files)

    @property
    def share_quarantined(self) -> float:
        return self.quarantined / self.rows if self.rows else 0.0

    def good(self, table: str) -> DataFrame:
        """The rows that go on: no violation of severity `error`, staged or late."""
        rows = self.tables[table].where("NOT _rejected")
        if self.late is None:
            return rows
        out = self.late.where(
            (F.col("_table") == table) & (F.col("_violation.severity") == "error")
        )
        return rows.join(out.select(*PLACE).distinct(), list(PLACE), "left_anti")

    def bad(self, table: str) -> DataFrame:
        """The other rows, with all their violations in `_violations`."""
        rows = self.tables[table]
        if self.late is None:
            return rows.where("_rejected")
        late = (
            self.late.where(F.col("_table") == table)
            .groupBy(*PLACE)
            .agg(F.sort_array(F.collect_list("_violation")).alias("_late"))
        )
        both = F.concat("_violations", F.coalesce(F.col("_late"), F.array()))
        joined = rows.join(late, list(PLACE), "left").withColumn("_violations", both)
        return joined.where(F.col("_rejected") | rules.has_errors("_late")).drop("_late")


def stage(
    spark: SparkSession,
    contract: Contract,
    manifest: Manifest,
    files: Mapping[str, Sequence[SourceFile]],
    *,
    key: Key | None,
    folder: str,
    parallel: int,
    large: bool,
) -> Stage:
    """Reads, types, checks and keys all rows once, writes them to `folder`, and audits them.

    `parallel` tables at a time. `large`: the delivery is, so that a further query is cheaper than
    what it can spare.
    """
    periods = {file.name: file.period for file in manifest.files}

    def one(name: str) -> DataFrame:
        group, table = files[name], contract.table(name)
        rows = rules.typed(readers.read(spark, table, group), table)
        period = sql.mapped((file.name, periods[file.name]) for file in group)
        rows = rows.select("*", *_ids(contract, table, key), F.expr(f"{period}[_file] AS _period"))
        return _kept(rows, join(folder, name))

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        tables = dict(zip(files, pool.map(one, files), strict=True))
    return _audit(contract, manifest, tables, _late(contract, tables, large), join(folder, "_late"))


def _kept(rows: DataFrame, folder: str) -> DataFrame:
    """Rows made once, to be read several times."""
    rows.write.mode("overwrite").option("compression", "lz4").parquet(folder)
    return rows.sparkSession.read.schema(rows.schema).parquet(folder)


def _ids(contract: Contract, table: Table, key: Key | None) -> list[Column]:
    """The record ids; without a key (a dry run) there are none."""
    if key is None:
        return []
    return [
        record_id(key, feed=contract.feed, role=subject.role)(
            F.expr(source_key(subject.key))
        ).alias(subject.record_id)
        for subject in table.subjects
    ]


def _late(contract: Contract, tables: Mapping[str, DataFrame], large: bool) -> DataFrame | None:
    """Violations that only a comparison of rows can find: duplicate keys, dangling references."""
    found = []
    keyed = {name: rows for name, rows in tables.items() if contract.table(name).key}
    # To find the repeated rows takes sorting all of them; that there is none, counting keys.
    repeated = _repeated(contract, keyed) if large and keyed else keyed.keys()
    for name, rows in tables.items():
        table = contract.table(name)
        if name in repeated:
            found.append(_duplicates(rows, table))
        for reference in table.references:
            if reference.to_table in tables:
                found.append(_dangling(rows, tables[reference.to_table], table, reference))
    return _union(found) if found else None


def _repeated(contract: Contract, tables: Mapping[str, DataFrame]) -> set[str]:
    """The tables in which two good rows of a period have one primary key, by its hash, in one
    query: of two keys with one hash all rows are looked at for nothing."""

    def hashes(name: str, rows: DataFrame) -> DataFrame:
        key = ", ".join(map(sql.name, ("_period", *contract.table(name).key)))
        good = rows.where("NOT _rejected")
        return good.selectExpr(f"{sql.literal(name)} AS _table", f"xxhash64({key}) AS _hash")

    whole = _union([hashes(name, rows) for name, rows in tables.items()])
    twice = whole.groupBy("_table", "_hash").agg(F.expr("count(*) AS _times")).where("_times > 1")
    return {row["_table"] for row in twice.select("_table").distinct().collect()}


def _duplicates(rows: DataFrame, table: Table) -> DataFrame:
    """Every good row of a period whose primary key an earlier row of it already has."""
    place = ", ".join(PLACE)
    good = rows.where("NOT _rejected").selectExpr("_period", *map(sql.name, table.key), *PLACE)
    repeated = (
        good.groupBy("_period", *table.key)
        .agg(F.expr("count(*) AS _times"), F.expr(f"min(struct({place})) AS _first"))
        .where("_times > 1")
    )
    later = good.join(repeated, ["_period", *table.key]).where(f"struct({place}) != _first")
    message = "an earlier row of the delivery has this primary key"
    return _finding(later, table, "duplicateValues", ",".join(table.key), message, "error")


def _dangling(rows: DataFrame, parents: DataFrame, table: Table, reference: Any) -> DataFrame:
    """Good rows that refer to a row which the delivery does not bring for that period."""
    given = [f"{sql.name(column)} IS NOT NULL" for column in reference.columns]
    good = rows.where(" AND ".join(["NOT _rejected", *given]))
    pairs = zip(reference.columns, reference.to_columns, strict=True)
    target = parents.selectExpr(
        "_period", *[f"{sql.name(there)} AS {sql.name(here)}" for here, there in pairs]
    ).distinct()
    orphans = good.join(target, ["_period", *reference.columns], "left_anti")
    message = f"{reference.to_table} has no such row in this delivery"
    columns = ",".join(reference.columns)
    return _finding(orphans, table, "foreignKey", columns, message, reference.severity)


def _finding(
    rows: DataFrame, table: Table, rule: str, column: str, message: str, severity: str
) -> DataFrame:
    return rows.selectExpr(
        f"{sql.literal(table.name)} AS _table",
        *PLACE,
        f"{rules.late_violation(rule, column, message, severity)} AS _violation",
    )


# --- the audit -----------------------------------------------------------------------------------


def _audit(
    contract: Contract,
    manifest: Manifest,
    tables: Mapping[str, DataFrame],
    late: DataFrame | None,
    folder: str,
) -> Stage:
    """Counts everything in one query; what comparisons found is kept in `folder`, if anything."""
    parts = [_counts(contract.table(name), rows) for name, rows in tables.items()]
    parts += [
        _violations(
            rows.where("_broken").selectExpr(
                f"{sql.literal(name)} AS _table", "explode(_violations) AS v"
            )
        )
        for name, rows in tables.items()
    ]
    if late is not None:
        parts.append(_violations(late.selectExpr("_table", "_violation AS v"), late=True))
    found = _union(parts).collect()
    blocks: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        if row["rule"] is None:
            blocks.setdefault((row["_table"], row["_file"]), []).append(row)
    broken = [
        Violation(row["_table"], row["rule"], row["column"], row["severity"], row["rows"])
        for row in found
        if row["rule"] is not None
    ]
    kept, late_errors = None, {}
    if late is not None and any(row["late"] for row in found):
        kept = _kept(late, folder)
        late_errors = _late_errors(kept)
    files = []
    for declared in manifest.files:
        if declared.table not in tables:
            continue
        held = blocks.get((declared.table, declared.name), [])
        late_rows = late_errors.get((declared.table, declared.name), 0)
        files.append(
            FileCount(
                name=declared.name,
                table=declared.table,
                period=declared.period,
                sha256=declared.sha256,
                bytes=declared.bytes,
                declared_rows=declared.rows,
                rows=sum(row["rows"] for row in held),
                quarantined=sum(row["bad"] for row in held) + late_rows,
                declared_totals=declared.control_totals,
                totals=_totals(held),
                offsets=_offsets(held),
            )
        )
    staged = Stage(
        contract,
        tables,
        kept if late_errors else None,
        tuple(files),
        tuple(sorted(broken, key=str)),
        (),
    )
    failures = [
        failure for name in tables for failure in _table_rules(contract.table(name), staged)
    ]
    return replace(staged, table_failures=tuple(failures))


# One row of the audit: what a file's block holds, or how often a rule was broken.
COUNTED = {
    "_table": "string",
    "_file": "string",
    "_block": "bigint",
    "first": "bigint",
    "rows": "bigint",
    "bad": "bigint",
    "totals": "map<string,decimal(38,10)>",
    "rule": "string",
    "column": "string",
    "severity": "string",
    "late": "boolean",
}


def _counts(table: Table, rows: DataFrame) -> DataFrame:
    """Per file and block: first `_index`, rows, bad rows, control totals."""
    totals = ", ".join(
        f"{sql.literal(column)}, cast(sum({sql.name(column)}) AS decimal(38,10))"
        for column in table.control_totals
    )
    counted = rows.groupBy("_file", "_block").agg(
        F.expr("min(_index) AS first"),
        F.expr("count(*) AS rows"),
        F.expr("count_if(_rejected) AS bad"),
        F.expr(f"cast(map({totals}) AS {COUNTED['totals']}) AS totals"),
    )
    had = {c: c for c in ("_file", "_block", "first", "rows", "bad", "totals")}
    return _counted(counted, had | {"_table": sql.literal(table.name)})


def _violations(found: DataFrame, *, late: bool = False) -> DataFrame:
    """How often each rule was broken, from rows of `_table` and a violation `v`."""
    counted = found.groupBy("_table", "v.rule", "v.column", "v.severity").agg(
        F.expr("count(*) AS rows")
    )
    had = {c: c for c in ("_table", "rule", "column", "severity", "rows")}
    return _counted(counted, had | {"late": sql.literal(late)})


def _counted(rows: DataFrame, given: Mapping[str, str]) -> DataFrame:
    """The columns of COUNTED, as `given` in SQL, NULL where they are not."""
    return rows.selectExpr(
        *[f"cast({given.get(c, 'NULL')} AS {kind}) AS {sql.name(c)}" for c, kind in COUNTED.items()]
    )


def _totals(blocks: Sequence[Row]) -> dict[str, Decimal]:
    """A file's control totals, exact to the last digit."""
    totals: dict[str, Decimal] = {}
    for block in blocks:
        for column, total in (block["totals"] or {}).items():
            totals[column] = totals.get(column, Decimal(0)) + (total or Decimal(0))
    return totals


def _offsets(blocks: Sequence[Row]) -> dict[int, int]:
    offsets, before = {}, 0
    for block in sorted(blocks, key=lambda block: block["_block"]):
        offsets[block["_block"]] = before + 1 - block["first"]
        before += block["rows"]
    return offsets


def _late_errors(late: DataFrame) -> dict[tuple[str, str], int]:
    """Per table and file, how many rows a comparison put in quarantine."""
    counted = (
        late.where(F.col("_violation.severity") == "error")
        .groupBy("_table", "_file")
        .agg(F.count_distinct("_block", "_index").alias("rows"))
    )
    return {(row["_table"], row["_file"]): row["rows"] for row in counted.collect()}


def _table_rules(table: Table, staged: Stage) -> list[str]:
    """What a table as a whole breaks of its rules, in words; warnings do not count."""
    failures = []
    total = staged.rows_of(table.name)
    for rule in table.table_rules:
        if rule.severity != "error":
            continue
        if rule.metric == "rowCount":
            measured = float(total)
        elif rule.metric == "nullValues":
            nulls = staged.tables[table.name].where(F.col(rule.column or "").isNull()).count()
            measured = 100.0 * nulls / total if rule.percent and total else float(nulls)
        else:
            measured = _query(staged.tables[table.name], rule.query or "")
        unit = " %" if rule.percent else ""
        if rule.minimum is not None and measured < rule.minimum:
            failures.append(
                f"{table.name}: rule {rule.name}: {measured:g}{unit} is below "
                f"{rule.minimum:g}{unit}"
            )
        if rule.maximum is not None and measured > rule.maximum:
            failures.append(
                f"{table.name}: rule {rule.name}: {measured:g}{unit} is above "
                f"{rule.maximum:g}{unit}"
            )
    return failures


def _query(rows: DataFrame, query: str) -> float:
    """A rule's own SQL over the staged rows, named `${table}` as ODCS has it; one number."""
    value = rows.sparkSession.sql(query.replace("${table}", "{rows}"), rows=rows).collect()[0][0]
    return float(value if value is not None else 0)


def _union(parts: Sequence[DataFrame]) -> DataFrame:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.unionByName(part)
    return whole
