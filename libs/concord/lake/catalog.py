"""What is in the lake, table by table, read from the tables themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from concord.lake.registry import Table
from concord.lake.storage import Storage, join
from concord.lake.tables import commits, is_table


@dataclass(frozen=True)
class Entry:
    """One table as the catalogue lists it. Empty text where a table has no such label."""

    table: str
    zone: str
    rows: int
    version: int
    bytes: int
    agreements: str
    expires: str
    classification: str
    owner: str
    path: str


def entries(spark: SparkSession, root: str, tables: Iterable[Table]) -> list[Entry]:
    """Every declared table that has been written, by name."""
    storage = Storage(spark)
    found = []
    for table in tables:
        path = join(root, table.name)
        if not is_table(storage, path):
            continue
        delta = DeltaTable.forPath(spark, path)
        detail = delta.detail().select("properties", "sizeInBytes").collect()[0]
        labels = detail["properties"]
        found.append(
            Entry(
                table=table.name,
                zone=table.zone,
                rows=delta.toDF().count(),
                version=next(commits(storage, path)).version,
                bytes=int(detail["sizeInBytes"]),
                agreements=labels.get("concord.agreements", ""),
                expires=labels.get("concord.expires", ""),
                classification=labels.get("concord.classification", "internal"),
                owner=labels.get("concord.owner", table.owner),
                path=path,
            )
        )
    return found


def versions(spark: SparkSession, root: str, names: Iterable[str]) -> dict[str, int]:
    """Newest version of each named table that exists, from its log alone."""
    storage = Storage(spark)
    newest = {name: next(commits(storage, join(root, name)), None) for name in names}
    return {name: commit.version for name, commit in newest.items() if commit}


def register(spark: SparkSession, root: str, tables: Iterable[Table], catalog: str) -> list[str]:
    """Names the lake's tables in a Spark catalog, `<catalog>.<zone>.<table>`, and returns them.

    The tables stay where they are: the catalog only points at their paths.
    """
    storage = Storage(spark)
    names = []
    for table in tables:
        path = join(root, table.name)
        if not is_table(storage, path):
            continue
        name = table.name.split("/", 1)[1].replace("/", "__")
        spark.sql(f"CREATE SCHEMA IF NOT EXISTS `{catalog}`.`{table.zone}`")
        full = f"`{catalog}`.`{table.zone}`.`{name}`"
        spark.sql(f"CREATE TABLE IF NOT EXISTS {full} USING DELTA LOCATION '{path}'")
        names.append(full.replace("`", ""))
    return names
