"""What is in the lake, table by table, read from the tables themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from concord.errors import UsageError
from concord.lake.log import State, commits, is_table, state
from concord.lake.registry import ZONES, Table
from concord.lake.storage import Storage, join
from concord.lake.tables import Lake

# A study's tables stand in its own folder: studies/<agreement>/<table>.
DEPTH = 2
# What goes back to an agency: vault/returned/<agreement>/<table>.
RETURNED, DEEPER = "vault/returned", 3


@dataclass(frozen=True)
class Entry:
    """One table as the catalogue lists it. Empty text where a table has no such label."""

    table: str
    zone: str
    rows: int
    version: int
    agreements: str
    purposes: str
    recipients: str
    expires: str
    classification: str
    owner: str
    path: str


def entries(lake: Lake) -> list[Entry]:
    """Every table that stands in the lake, declared or not, by name."""
    found = []
    for name in names(lake.storage, lake.root):
        path = lake.path(name)
        held = state(lake.storage, path)
        if held is None:
            continue
        found.append(
            Entry(
                table=name,
                zone=name.split("/", 1)[0],
                rows=_rows(lake.spark, path, held),
                version=held.version,
                agreements=held.label("concord.agreements"),
                purposes=held.label("concord.purposes"),
                recipients=held.label("concord.recipients"),
                expires=held.label("concord.expires"),
                classification=held.label("concord.classification", "internal"),
                owner=held.label("concord.owner", "data office"),
                path=path,
            )
        )
    return found


def _rows(spark: SparkSession, path: str, held: State) -> int:
    return held.rows if held.rows is not None else spark.read.format("delta").load(path).count()


def names(storage: Storage, root: str) -> list[str]:
    """The tables in the lake's zones: `<zone>/<table>` and, one folder deeper, a study's."""
    found = []
    for zone in ZONES:
        folders = [zone]
        while folders:
            folder = folders.pop()
            for entry in storage.list(join(root, folder)):
                name = join(folder, entry.name)
                if not entry.is_folder or entry.name.startswith("_"):
                    continue
                if is_table(storage, join(root, name)):
                    found.append(name)
                elif name.count("/") < (DEEPER if name.startswith(RETURNED) else DEPTH):
                    folders.append(name)
    return sorted(found)


@dataclass(frozen=True)
class Shown:
    """A table opened: what its columns are, how it is labelled, and rows if they are of nobody."""

    table: str
    version: int
    rows: int
    description: str
    labels: Mapping[str, str]
    columns: tuple[Mapping[str, str], ...]
    sample: tuple[Mapping[str, Any], ...]


def shown(lake: Lake, name: str, *, rows: int) -> Shown:
    """The table `name`. Raises UsageError if it is not there."""
    path = lake.path(name)
    held = state(lake.storage, path)
    if held is None:
        raise UsageError(f"there is no table {name!r} in {lake.root}; see concord catalog")
    columns = tuple(
        {
            "name": column["name"],
            "type": column["type"] if isinstance(column["type"], str) else column["type"]["type"],
            "classification": column["metadata"].get("concord.classification", ""),
            "identifier_role": column["metadata"].get("concord.identifier_role", ""),
            "comment": column["metadata"].get("comment", ""),
        }
        for column in held.columns
    )
    sample: list[Mapping[str, Any]] = []
    if name.split("/", 1)[0] in {"products", "ops"} and rows:
        frame = lake.spark.read.format("delta").load(path)
        sample = [row.asDict(recursive=True) for row in frame.limit(rows).collect()]
    return Shown(
        name,
        held.version,
        _rows(lake.spark, path, held),
        held.description,
        {key: value for key, value in held.properties.items() if key.startswith("concord.")},
        columns,
        tuple(sample),
    )


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
