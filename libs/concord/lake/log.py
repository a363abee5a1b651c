"""A table's present state, from its Delta log alone: no query, so the whole lake in a moment. And
the rows of a small table, read and added to with no query either: what a job notes of itself is a
row or two, for which Spark would make three jobs.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from concord.lake.storage import Storage, join

LOG = "_delta_log"
FILE = re.compile(r"(\d{20})\.(json|checkpoint(?:\.\d{10}\.\d{10})?\.parquet)")
# Delta's default for delta.checkpointInterval, and the writer version up to which a commit that
# only adds rows has nothing to heed (the protocol's "Requirements for Writers").
CHECKPOINT_EVERY = 10
PLAIN_WRITER = 2


@dataclass(frozen=True)
class State:
    """A table at its newest version. `rows` is None where the log does not count a file's."""

    version: int
    rows: int | None
    description: str
    properties: Mapping[str, str]
    columns: tuple[Mapping[str, Any], ...]  # as Spark writes a schema as JSON
    files: tuple[str, ...]  # as the log names them
    partitioned: bool
    writer: int  # the protocol's minWriterVersion

    def label(self, name: str, otherwise: str = "") -> str:
        return self.properties.get(name, otherwise)


def state(storage: Storage, path: str) -> State | None:
    """What the log at `path` adds up to; None where no table stands."""
    names = [entry.name for entry in storage.list(join(path, LOG)) if FILE.fullmatch(entry.name)]
    versions = {name: int(name[:20]) for name in names}
    if not versions:
        return None
    checkpoints = [name for name in names if name.endswith(".parquet")]
    start = max((versions[name] for name in checkpoints), default=-1)
    last: dict[str, dict[str, Any]] = {"metaData": {}, "protocol": {}}
    files: dict[str, int | None] = {}
    order = [name for name in checkpoints if versions[name] == start]
    order += sorted(name for name in names if name.endswith(".json") and versions[name] > start)
    for name in order:
        content = storage.read(join(path, LOG, name))
        for kind, action in _actions(name, content):
            if kind in last:
                last[kind] = action
            elif kind == "remove":
                files.pop(action["path"], None)
            else:
                files[action["path"]] = json.loads(action.get("stats") or "{}").get("numRecords")
    counts, metadata = list(files.values()), last["metaData"]
    schema = json.loads(metadata.get("schemaString") or '{"fields": []}')
    return State(
        max(versions.values()),
        None if None in counts else sum(count or 0 for count in counts),
        metadata.get("description") or "",
        dict(metadata.get("configuration") or {}),
        tuple(schema["fields"]),
        tuple(files),
        bool(metadata.get("partitionColumns")),
        last["protocol"].get("minWriterVersion", 0),
    )


def _actions(name: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The actions of one file of the log that say what the table is and holds."""
    wanted = ("protocol", "metaData", "add", "remove")
    if name.endswith(".json"):
        for line in content.splitlines():
            action = json.loads(line)
            yield from ((kind, action[kind]) for kind in wanted if kind in action)
        return
    lasting = ["protocol", "metaData", "add"]
    for row in pq.read_table(io.BytesIO(content), columns=lasting).to_pylist(
        maps_as_pydicts="strict"
    ):
        yield from ((kind, row[kind]) for kind in lasting if row[kind])


def rows(storage: Storage, path: str, schema: pa.Schema) -> pa.Table:
    """The rows of a small table without partitions, in the schema's columns."""
    held = state(storage, path)
    parts = []
    for name in held.files if held else ():
        place = name if ":" in name else join(path, unquote(name))
        # Spark writes times as Parquet's INT96, of which Arrow would make nanoseconds.
        part = pq.read_table(io.BytesIO(storage.read(place)), coerce_int96_timestamp_unit="us")
        there = {
            field.name: part[field.name].cast(field.type)
            if field.name in part.column_names
            else pa.nulls(part.num_rows, field.type)
            for field in schema
        }
        parts.append(pa.table(there, schema=schema))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def add(storage: Storage, path: str, new: pa.Table, note: str, engine: str) -> bool:
    """Adds rows in one commit, with `note` as its userMetadata; False, and nothing done, where that
    is for Delta's own writer: when a checkpoint is due, and for a table that asks more of a writer.

    The commit is made by the LogStore that Delta's are made by, and by nobody else's leave: of two
    writers of one version one fails.
    """
    held = state(storage, path)
    if held is None or held.partitioned or held.writer > PLAIN_WRITER:
        return False
    version, now = held.version + 1, int(time.time() * 1000)
    if version % CHECKPOINT_EVERY == 0:
        return False
    content = io.BytesIO()
    pq.write_table(new, content, compression="snappy", store_schema=False)
    name, size = f"part-00000-{uuid.uuid4()}-c000.snappy.parquet", content.tell()
    storage.write(join(path, name), content.getvalue())
    told = {"numFiles": "1", "numOutputRows": str(new.num_rows), "numOutputBytes": str(size)}
    info = {
        "timestamp": now,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": "[]"},
        "isolationLevel": "Serializable",
        "isBlindAppend": True,
        "operationMetrics": told,
        "userMetadata": note,
        "engineInfo": engine,
    }
    added = {
        "path": name,
        "partitionValues": {},
        "size": size,
        "modificationTime": now,
        "dataChange": True,
        "stats": json.dumps({"numRecords": new.num_rows}),
    }
    lines = [json.dumps({"commitInfo": info}), json.dumps({"add": added})]
    if storage.commit(join(path, LOG, f"{version:020d}.json"), lines):
        return True
    storage.delete(join(path, name))
    return False


def arrow(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; what a row does not name is NULL."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
