"""A table's present state and its commits, from its Delta log alone: no query, so the whole lake in
a moment. And the rows of a small table, read with no query either (`lake/driver.py` writes them).

The protocol's replay (https://github.com/delta-io/delta/blob/master/PROTOCOL.md): the newest
checkpoint, then each commit after it. Concord's tables keep to classic checkpoints without deletion
vectors (docs/decisions/0003), which is all that is understood here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from concord.errors import InfrastructureError
from concord.lake.storage import Storage, join

LOG = "_delta_log"
COMMIT_FILE = re.compile(r"\d{20}\.json")
# Of any kind that Delta knows, to tell a table; those of a kind that is understood here are FILE.
STATE_FILE = re.compile(r"\d{20}\.(json|checkpoint.*\.parquet)")
# Delta writes a commit's origin (commitInfo) as the first line of its log file.
COMMIT_INFO_BYTES = 1 << 16
FILE = re.compile(r"(\d{20})\.(json|checkpoint(?:\.\d{10}\.\d{10})?\.parquet)")
# Delta's default for delta.checkpointInterval, and the versions up to which who reads, and who only
# adds rows or replaces all, has nothing to heed but the files (the protocol's "Requirements for
# Readers" and "for Writers").
CHECKPOINT_EVERY = 10
PLAIN_READER, PLAIN_WRITER = 1, 2
# Or with features, of which those ask no more: who reads a change feed takes the rows of the files
# that a commit adds or removes, where that has no file of changes ("Reader Requirements for Change
# Data Files").
WITH_FEATURES, PLAIN_FEATURES = 7, frozenset({"appendOnly", "changeDataFeed", "invariants"})
CHANGE_FEED = "delta.enableChangeDataFeed"
# More than these is Spark's to read. Bytes and number of a table's files; rows, which Spark's
# optimiser goes through on one thread, and again for each place where a query has them (its rule
# ConvertToLocalRelation).
MOST_STORED, MOST_FILES, MOST_ROWS = 1_000_000, 50, 10_000
# Of more Spark asks in a job whether they are there
# (spark.sql.sources.parallelPartitionDiscovery.threshold).
MOST_NAMED = 32


@dataclass(frozen=True)
class File:
    """A file of a table, by the name that the log has for it. `told`: what a commit that adds it
    is to tell of its columns, as `statistics.bounds`."""

    name: str
    rows: int | None
    bytes: int
    partition: Mapping[str, str | None]
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """What a table's log says of one of its versions. `rows` is how many a write wrote."""

    version: int
    operation: str | None
    note: str | None
    rows: int | None = None

    @property
    def writes(self) -> bool:
        """Whether it is a write of rows under a transaction id; upkeep and labels are not."""
        return "application" in decoded(self.note)


@dataclass(frozen=True)
class State:
    """A table at its newest version. `rows` is None where the log does not count a file's."""

    version: int
    rows: int | None
    description: str
    properties: Mapping[str, str]
    columns: tuple[Mapping[str, Any], ...]  # as Spark writes a schema as JSON
    files: tuple[File, ...]
    partitions: tuple[str, ...]  # columns
    transactions: Mapping[str, int]  # the newest version by txnAppId
    reader: int  # the protocol's minReaderVersion
    plain: bool  # whether a commit of rows has nothing to heed but the files

    def label(self, name: str, otherwise: str = "") -> str:
        return self.properties.get(name, otherwise)


def commits(storage: Storage, path: str) -> Iterator[Commit]:
    """A table's commits, newest first.

    Read from the log itself: to ask Spark for the history costs a job.
    """
    held = storage.list(join(path, LOG))
    for entry in reversed([entry for entry in held if COMMIT_FILE.fullmatch(entry.name)]):
        line, _, _ = storage.read(entry.path, COMMIT_INFO_BYTES).partition(b"\n")
        info = decoded(line.decode()).get("commitInfo", {})
        rows = (info.get("operationMetrics") or {}).get("numOutputRows")
        yield Commit(
            int(entry.name[:20]),
            info.get("operation"),
            info.get("userMetadata"),
            int(rows) if rows is not None else None,
        )


def is_table(storage: Storage, path: str) -> bool:
    """Whether a Delta table stands there: its log has a commit or a checkpoint."""
    return any(STATE_FILE.fullmatch(entry.name) for entry in storage.list(join(path, LOG)))


def decoded(note: str | None) -> dict[str, Any]:
    """What a commit's userMetadata says; nothing where it is not Concord's."""
    try:
        content = json.loads(note or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def state(storage: Storage, path: str, version: int | None = None) -> State | None:
    """What the log at `path` adds up to, up to a version or the newest; None where no table stands.

    Raises InfrastructureError where the log has a gap, or does not reach back to the version: taken
    for no table, a log from which somebody removed a commit would look empty, and hold.
    """
    names = [entry.name for entry in storage.list(join(path, LOG)) if FILE.fullmatch(entry.name)]
    versions = {name: int(name[:20]) for name in names}
    if version is not None:
        versions = {name: number for name, number in versions.items() if number <= version}
        names = [*versions]
    if not versions:
        return None
    checkpoints = [name for name in names if name.endswith(".parquet")]
    start = max((versions[name] for name in checkpoints), default=-1)
    last: dict[str, dict[str, Any]] = {"metaData": {}, "protocol": {}}
    files: dict[str, File] = {}
    order = [name for name in checkpoints if versions[name] == start]
    later = sorted(name for name in names if name.endswith(".json") and versions[name] > start)
    newest = max(versions.values())
    if [versions[name] for name in later] != list(range(start + 1, newest + 1)):
        raise InfrastructureError(
            f"{path}: its log has a gap between versions {start} and {newest}; if nobody knows "
            "why, tell the privacy officer. Restore the table's folder from its backup"
        )
    order += later
    transactions: dict[str, int] = {}
    for part in order:
        for kind, action in _actions(part, storage.read(join(path, LOG, part))):
            if kind in last:
                last[kind] = action
            elif kind == "remove":
                files.pop(action["path"], None)
            elif kind == "txn":
                transactions[action["appId"]] = action["version"]
            else:
                counted = json.loads(action.get("stats") or "{}").get("numRecords")
                name, partition = action["path"], action.get("partitionValues") or {}
                files[name] = File(name, counted, action["size"], partition)
    counts, metadata = [file.rows for file in files.values()], last["metaData"]
    protocol = last["protocol"]
    writer = protocol.get("minWriterVersion", PLAIN_WRITER + 1)
    features = set(protocol.get("writerFeatures") or ())
    schema = json.loads(metadata.get("schemaString") or '{"fields": []}')
    return State(
        newest,
        None if None in counts else sum(count or 0 for count in counts),
        metadata.get("description") or "",
        dict(metadata.get("configuration") or {}),
        tuple(schema["fields"]),
        tuple(files.values()),
        tuple(metadata.get("partitionColumns") or ()),
        transactions,
        protocol.get("minReaderVersion", PLAIN_READER + 1),
        (writer <= PLAIN_WRITER or writer == WITH_FEATURES and features <= PLAIN_FEATURES)
        and all(
            f["nullable"] and "delta.invariants" not in f["metadata"] for f in schema["fields"]
        ),
    )


def _actions(name: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The actions of one file of the log that say what the table is and holds."""
    wanted = ("protocol", "metaData", "txn", "add", "remove")
    if name.endswith(".json"):
        for line in content.splitlines():
            action = json.loads(line)
            yield from ((kind, action[kind]) for kind in wanted if kind in action)
        return
    lasting = ["protocol", "metaData", "txn", "add"]
    for row in pq.read_table(io.BytesIO(content), columns=lasting).to_pylist(
        maps_as_pydicts="strict"
    ):
        yield from ((kind, row[kind]) for kind in lasting if row[kind])


def small(held: State) -> bool:
    """Whether a table is so small that to read it takes no query."""
    stored = sum(file.bytes for file in held.files)
    few = held.rows is not None and held.rows <= MOST_ROWS
    few = few and stored <= MOST_STORED and len(held.files) <= MOST_FILES
    return few and held.reader <= PLAIN_READER


def places(path: str, held: State) -> list[str] | None:
    """Where the files are of a table that is its files and no more; None of another, and of one of
    so many that Delta, which knows what is in them, had better choose."""
    found = [place(path, file) for file in held.files]
    if held.partitions or held.reader > PLAIN_READER or len(found) > MOST_NAMED:
        return None
    # Spark takes some of these for a pattern; a file elsewhere has a URI in place of a name.
    odd = any(set("*?[]{}") & set(each) for each in found) or any(":" in f.name for f in held.files)
    return None if odd else found


def place(path: str, file: File) -> str:
    """Where a file of the table at `path` is: the log names it as a URI does, below the table or,
    of a shallow clone, elsewhere."""
    name = unquote(file.name)
    return name if ":" in file.name else join(path, name)


def rows(storage: Storage, path: str, held: State | None, schema: pa.Schema) -> pa.Table:
    """The rows of a table whose partitions are texts, in the schema's columns."""
    files = held.files if held else ()
    parts = [part(storage.read(place(path, file)), file, schema) for file in files]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def part(content: bytes, file: File, schema: pa.Schema) -> pa.Table:
    """The rows of one file, in the schema's columns; of partitions that are texts."""
    # Spark writes times as Parquet's INT96, of which Arrow would make nanoseconds.
    source = pq.ParquetFile(io.BytesIO(content), coerce_int96_timestamp_unit="us")
    there = {*source.schema_arrow.names}
    found = source.read([field.name for field in schema if field.name in there])

    def column(field: pa.Field) -> Any:
        if field.name in there:
            return found[field.name].cast(field.type)
        value = pa.scalar(file.partition.get(field.name), field.type)
        return pa.repeat(value, source.metadata.num_rows)

    return pa.table([column(field) for field in schema], schema=schema)
