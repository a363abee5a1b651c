"""A table's present state, from its Delta log alone: no query, so the whole lake in a moment. And
the rows of a small table, read and written with no query either: what a job notes of itself is a
row or two, and a small delivery some thousands, for which Spark and Delta would make several jobs.

The protocol's replay (https://github.com/delta-io/delta/blob/master/PROTOCOL.md): the newest
checkpoint, then each commit after it. Concord's tables keep to classic checkpoints without deletion
vectors (docs/decisions/0003), which is all that is understood here.
"""

from __future__ import annotations

import io
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from concord.errors import InfrastructureError
from concord.lake.storage import Storage, join

LOG = "_delta_log"
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
# Properties that ask nothing of a writer; a table with others is made by Delta.
PLAIN = frozenset(
    {
        "delta.dataSkippingStatsColumns",
        "delta.logRetentionDuration",
        "delta.deletedFileRetentionDuration",
        CHANGE_FEED,
        "comment",
    }
)
# More than these is Spark's to write, who takes two seconds for up to 100,000 rows, of which the
# driver takes 0.3 to 0.7 (`make bench BENCH=few`, docs/benchmarks.md). Bytes in memory.
FEW = 100_000
MOST_BYTES = 64_000_000
# More than these is Spark's to read. Bytes and number of a table's files; rows, which Spark's
# optimiser goes through on one thread, and again for each place where a query has them (its rule
# ConvertToLocalRelation).
MOST_STORED, MOST_FILES, MOST_ROWS = 1_000_000, 50, 10_000
# Of more Spark asks in a job whether they are there
# (spark.sql.sources.parallelPartitionDiscovery.threshold).
MOST_NAMED = 32
# What is in a folder's name as it is, and in the log that is a URI; partitions of one commit.
SPELT, MOST_SHARES = re.compile(r"[\w.-]+", re.ASCII), 24
# The values of the partition columns, and the rows without those.
Share = tuple[Mapping[str, str], pa.Table]


@dataclass(frozen=True)
class File:
    """A file of a table, by the name that the log has for it."""

    name: str
    rows: int | None
    bytes: int
    partition: Mapping[str, str | None]


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
    parts = []
    for file in held.files if held else ():
        content = storage.read(place(path, file))
        # Spark writes times as Parquet's INT96, of which Arrow would make nanoseconds.
        part = pq.read_table(io.BytesIO(content), coerce_int96_timestamp_unit="us")

        def column(field: pa.Field, file: File = file, part: pa.Table = part) -> Any:
            if field.name in part.column_names:
                return part[field.name].cast(field.type)
            value = pa.scalar(file.partition.get(field.name), field.type)
            return pa.repeat(value, part.num_rows)

        parts.append(pa.table([column(field) for field in schema], schema=schema))
    return pa.concat_tables(parts) if parts else schema.empty_table()


@dataclass(frozen=True)
class Commit:
    """A commit of rows: `note` is its userMetadata, no two alike; `engine` who made it;
    `transaction` its txnAppId and txnVersion. `replaces`: all rows that there were."""

    note: str
    engine: str
    transaction: tuple[str, int] | None = None
    replaces: bool = False


def make(
    storage: Storage, path: str, rows: pa.Table, schema: str, properties: Mapping[str, str],
    commit: Commit, partitions: Sequence[str] = (),
) -> bool:  # fmt: skip
    """Makes a table with its first rows, `schema` as Spark writes it as JSON; `comment` among the
    properties is its description. False, and nothing done, where that is for Delta: for a table
    with a feature, or where something stands already."""
    asks = {name for name in properties if name.startswith("delta.")} - PLAIN
    if any(properties[name] not in {"none", "false", "classic"} for name in asks):
        return False
    if rows.nbytes > MOST_BYTES or storage.list(path):
        return False
    shares = _shares(rows, partitions)
    if shares is None:
        return False
    metadata: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "description": properties.get("comment"),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema,
        "partitionColumns": [*partitions],
        "configuration": {k: v for k, v in properties.items() if k != "comment"},
        "createdTime": int(time.time() * 1000),
    }
    protocol: dict[str, Any] = {"minReaderVersion": PLAIN_READER, "minWriterVersion": PLAIN_WRITER}
    if properties.get(CHANGE_FEED) == "true":
        protocol["minWriterVersion"] = WITH_FEATURES
        protocol["writerFeatures"] = sorted(PLAIN_FEATURES)
    first: list[dict[str, Any]] = [{"protocol": protocol}, {"metaData": metadata}]
    return _commit(storage, path, 0, "CREATE TABLE AS SELECT", shares, commit, first)


def write(
    storage: Storage, path: str, rows: pa.Table, commit: Commit, checkpoint: Callable[[], None]
) -> bool:
    """Adds rows to a table, or replaces its rows, in one commit, and has every tenth version
    followed by a `checkpoint`, which is Delta's to make. A transaction that is at or below the one
    recorded is skipped, as Delta does.

    False, and nothing done, where the commit is for Delta's own writer: for many rows, and for a
    table that asks more of a writer; or when somebody else was first.
    """
    held = state(storage, path)
    if held is None or not held.plain or rows.nbytes > MOST_BYTES:
        return False
    if commit.replaces and held.properties.get("delta.appendOnly") == "true":
        return False
    if commit.transaction:
        application, number = commit.transaction
        if held.transactions.get(application, number - 1) >= number:
            return True
    version = held.version + 1
    shares = _shares(rows, held.partitions)
    if shares is None:
        return False
    now = int(time.time() * 1000)
    gone = [
        {
            "remove": {
                "path": file.name,
                "deletionTimestamp": now,
                "dataChange": True,
                # Of a table with a change feed, who reads it asks for these.
                "extendedFileMetadata": True,
                "partitionValues": file.partition,
                "size": file.bytes,
            }
        }
        for file in (held.files if commit.replaces else ())
    ]
    done = _commit(storage, path, version, "WRITE", shares, commit, gone)
    if done and version % CHECKPOINT_EVERY == 0:
        checkpoint()
    return done


def _shares(rows: pa.Table, partitions: Sequence[str]) -> list[Share] | None:
    """The rows by partition, none of no rows; None where a value would have to be spelt otherwise
    in a folder's name, and for more partitions than a few."""
    if not rows.num_rows:
        return []
    if not partitions:
        return [({}, rows)]
    kinds = {*rows.select(list(partitions)).schema.types}
    values = rows.select(list(partitions)).group_by(list(partitions)).aggregate([])
    found = values.to_pylist()
    texts = kinds <= {pa.string()} and all(
        value is not None and SPELT.fullmatch(value) for each in found for value in each.values()
    )
    if not texts or len(found) > MOST_SHARES:
        return None
    shares: list[Share] = []
    for each in sorted(found, key=lambda one: [*one.values()]):
        named = [pc.equal(rows[name], value) for name, value in each.items()]
        own = rows.filter(reduce(pc.and_, named))
        shares.append(({**each}, own.drop_columns(list(partitions))))
    return shares


def _commit(
    storage: Storage, path: str, version: int, operation: str, shares: Sequence[Share],
    commit: Commit, actions: Sequence[Mapping[str, Any]],
) -> bool:  # fmt: skip
    """The rows' files, and then the commit, made by the LogStore that Delta's are made by: of two
    writers of one version one fails. False when somebody else was first."""
    now, files = int(time.time() * 1000), []
    for partition, rows in shares:
        content = io.BytesIO()
        pq.write_table(rows, content, compression="snappy", store_schema=False)
        folder = "".join(f"{name}={value}/" for name, value in partition.items())
        name = f"{folder}part-00000-{uuid.uuid4()}-c000.snappy.parquet"
        storage.write(join(path, name), content.getvalue())
        files.append(File(name, rows.num_rows, content.tell(), partition))
    told = {
        "timestamp": now,
        "operation": operation,
        "operationParameters": {"mode": "Overwrite" if commit.replaces else "Append"},
        "isolationLevel": "Serializable",
        "isBlindAppend": not commit.replaces,
        "operationMetrics": {
            "numFiles": str(len(files)),
            "numOutputRows": str(sum(file.rows or 0 for file in files)),
            "numOutputBytes": str(sum(file.bytes for file in files)),
        },
        "userMetadata": commit.note,
        "engineInfo": commit.engine,
    }
    added = [
        {
            "path": file.name,
            "partitionValues": file.partition,
            "size": file.bytes,
            "modificationTime": now,
            "dataChange": True,
            "stats": json.dumps({"numRecords": file.rows}),
        }
        for file in files
    ]
    whole = [{"commitInfo": told}, *actions]
    if commit.transaction:
        application, number = commit.transaction
        whole.append({"txn": {"appId": application, "version": number, "lastUpdated": now}})
    whole += [{"add": each} for each in added]
    place = join(path, LOG, f"{version:020d}.json")
    if storage.commit(place, [json.dumps(action) for action in whole]):
        return True
    # A store that answered late may have taken the first try, and refuse the second.
    if json.dumps(commit.note).encode() in storage.read(place):
        return True
    for file in files:
        storage.delete(join(path, file.name))
    return False
