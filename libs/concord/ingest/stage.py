"""One pass over a delivery's files into a stage, and the audit of that stage.

The stage is Parquet in the vault, one folder per table, overwritten whole on every try; nothing
reads it but the publication of the same delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.contracts.model import Contract, Table
from concord.ingest import readers, rules
from concord.ingest.manifest import Manifest
from concord.ingest.readers import SourceFile
from concord.ingest.rules import Violation
from concord.ingest.tables import VIOLATION_TYPE
from concord.lake.storage import join
from concord.privacy.keys import KeySource
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


@dataclass(frozen=True)
class Stage:
    """A staged delivery: typed rows by table, violations found by comparing rows, and counts."""

    contract: Contract
    tables: Mapping[str, DataFrame]
    late: DataFrame
    has_late_errors: bool
    files: tuple[FileCount, ...]
    violations: tuple[Violation, ...]
    table_failures: tuple[str, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def quarantined(self) -> int:
        return sum(file.quarantined for file in self.files)

    @property
    def share_quarantined(self) -> float:
        return self.quarantined / self.rows if self.rows else 0.0

    def good(self, table: str) -> DataFrame:
        """The rows that go on: no violation of severity `error`, staged or late."""
        rows = self.tables[table].where(~rules.has_errors())
        if not self.has_late_errors:
            return rows
        out = self.late.where(
            (F.col("_table") == table) & (F.col("_violation.severity") == "error")
        )
        return rows.join(out.select(*PLACE).distinct(), list(PLACE), "left_anti")

    def bad(self, table: str) -> DataFrame:
        """The other rows, with all their violations in `_violations`."""
        rows = self.tables[table]
        if not self.has_late_errors:
            return rows.where(rules.has_errors())
        late = (
            self.late.where(F.col("_table") == table)
            .groupBy(*PLACE)
            .agg(F.sort_array(F.collect_list("_violation")).alias("_late"))
        )
        both = F.concat("_violations", F.coalesce(F.col("_late"), F.array()))
        joined = rows.join(late, list(PLACE), "left").withColumn("_violations", both)
        return joined.where(rules.has_errors()).drop("_late")


def stage(
    spark: SparkSession,
    contract: Contract,
    manifest: Manifest,
    files: Mapping[str, Sequence[SourceFile]],
    *,
    key: KeySource | None,
    folder: str,
) -> Stage:
    """Reads, types, checks and keys all rows once, writes them to `folder`, and audits them."""
    periods = {file.name: file.period for file in manifest.files}
    tables = {}
    for name, group in files.items():
        table = contract.table(name)
        rows = rules.typed(readers.read(spark, table, group), table)
        rows = _keyed(rows, contract, table, key)
        period = F.create_map(*[F.lit(x) for f in group for x in (f.name, periods[f.name])])
        rows = rows.withColumn("_period", period[F.col("_file")])
        rows.write.mode("overwrite").option("compression", "lz4").parquet(join(folder, name))
        tables[name] = spark.read.schema(rows.schema).parquet(join(folder, name))
    late = _late(spark, contract, tables, join(folder, "_late"))
    return _audit(contract, manifest, tables, late)


def _keyed(rows: DataFrame, contract: Contract, table: Table, key: KeySource | None) -> DataFrame:
    """Adds the record ids; without a key (a dry run) there are none."""
    if key is None:
        return rows
    ids = [
        record_id(key, feed=contract.feed, role=subject.role)(
            source_key([F.col(name) for name in subject.key])
        ).alias(subject.record_id)
        for subject in table.subjects
    ]
    return rows.select("*", *ids) if ids else rows


def _late(
    spark: SparkSession, contract: Contract, tables: Mapping[str, DataFrame], folder: str
) -> DataFrame:
    """Violations that only a comparison of rows can find: duplicate keys, dangling references."""
    found = []
    for name, rows in tables.items():
        table = contract.table(name)
        if table.key:
            found.append(_duplicates(rows, table))
        for reference in table.references:
            if reference.to_table in tables:
                found.append(_dangling(rows, tables[reference.to_table], table, reference))
    if not found:
        return spark.createDataFrame(
            [],
            "_table string, _file string, _block bigint, _index bigint, _violation "
            + VIOLATION_TYPE,
        )
    whole = found[0]
    for part in found[1:]:
        whole = whole.unionByName(part)
    whole.write.mode("overwrite").parquet(folder)
    return spark.read.schema(whole.schema).parquet(folder)


def _duplicates(rows: DataFrame, table: Table) -> DataFrame:
    """Every good row of a period whose primary key an earlier row of it already has."""
    key = ["_period", *table.key]
    good = rows.where(~rules.has_errors()).select(*key, *PLACE)
    repeated = (
        good.groupBy(*key)
        .agg(F.count("*").alias("_times"), F.min(F.struct(*PLACE)).alias("_first"))
        .where("_times > 1")
    )
    later = good.join(repeated, key).where(F.struct(*PLACE) != F.col("_first"))
    message = "an earlier row of the delivery has this primary key"
    return _finding(later, table, "duplicateValues", ",".join(table.key), message, "error")


def _dangling(rows: DataFrame, parents: DataFrame, table: Table, reference: Any) -> DataFrame:
    """Good rows that refer to a row which the delivery does not bring for that period."""
    good = rows.where(~rules.has_errors())
    for column in reference.columns:
        good = good.where(F.col(column).isNotNull())
    target = parents.select(
        "_period",
        *[F.col(b).alias(a) for a, b in zip(reference.columns, reference.to_columns, strict=True)],
    ).distinct()
    orphans = good.join(target, ["_period", *reference.columns], "left_anti")
    message = f"{reference.to_table} has no such row in this delivery"
    columns = ",".join(reference.columns)
    return _finding(orphans, table, "foreignKey", columns, message, reference.severity)


def _finding(
    rows: DataFrame, table: Table, rule: str, column: str, message: str, severity: str
) -> DataFrame:
    return rows.select(
        F.lit(table.name).alias("_table"),
        *PLACE,
        rules.late_violation(rule, column, message, severity).alias("_violation"),
    )


# --- the audit -----------------------------------------------------------------------------------


def _audit(
    contract: Contract, manifest: Manifest, tables: Mapping[str, DataFrame], late: DataFrame
) -> Stage:
    counts = {(row["_table"], row["_file"]): row for row in _counts(contract, tables).collect()}
    broken = [
        Violation(row["_table"], row["rule"], row["column"], row["severity"], row["rows"])
        for row in _violations(tables, late).collect()
    ]
    late_errors = {
        (row["_table"], row["_file"]): row["rows"]
        for row in late.where(F.col("_violation.severity") == "error")
        .groupBy("_table", "_file")
        .agg(F.count_distinct("_block", "_index").alias("rows"))
        .collect()
    }
    files = []
    for declared in manifest.files:
        if declared.table not in tables:
            continue
        row = counts.get((declared.table, declared.name))
        late_rows = late_errors.get((declared.table, declared.name), 0)
        files.append(
            FileCount(
                name=declared.name,
                table=declared.table,
                period=declared.period,
                sha256=declared.sha256,
                bytes=declared.bytes,
                declared_rows=declared.rows,
                rows=row["rows"] if row else 0,
                quarantined=(row["bad"] if row else 0) + late_rows,
                declared_totals=declared.control_totals,
                totals=dict(row["totals"] or {}) if row else {},
            )
        )
    staged = Stage(
        contract, tables, late, bool(late_errors), tuple(files), tuple(sorted(broken, key=str)), ()
    )
    failures = [
        failure for name in tables for failure in _table_rules(contract.table(name), staged)
    ]
    return replace(staged, table_failures=tuple(failures))


def _counts(contract: Contract, tables: Mapping[str, DataFrame]) -> DataFrame:
    parts = []
    for name, rows in tables.items():
        totals = F.create_map(
            *[
                x
                for column in contract.table(name).control_totals
                for x in (F.lit(column), F.sum(F.col(column)).cast("decimal(38,10)"))
            ]
        ).cast("map<string,decimal(38,10)>")
        parts.append(
            rows.groupBy("_file").agg(
                F.lit(name).alias("_table"),
                F.count("*").alias("rows"),
                F.count_if(rules.has_errors()).alias("bad"),
                totals.alias("totals"),
            )
        )
    return _union(parts)


def _violations(tables: Mapping[str, DataFrame], late: DataFrame) -> DataFrame:
    parts = [
        rows.select(F.lit(name).alias("_table"), F.explode("_violations").alias("v"))
        for name, rows in tables.items()
    ]
    parts.append(late.select("_table", F.col("_violation").alias("v")))
    return (
        _union(parts)
        .groupBy("_table", "v.rule", "v.column", "v.severity")
        .agg(F.count("*").alias("rows"))
    )


def _table_rules(table: Table, staged: Stage) -> list[str]:
    """What a table as a whole breaks of its rules, in words; warnings do not count."""
    failures = []
    total = sum(file.rows for file in staged.files if file.table == table.name)
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
