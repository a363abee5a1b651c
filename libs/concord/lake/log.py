"""A table's present state, from its Delta log alone: no query, so the whole lake in a moment.

The protocol's replay (https://github.com/delta-io/delta/blob/master/PROTOCOL.md): the newest
checkpoint, then each commit after it. Concord's tables keep to classic checkpoints without deletion
vectors (docs/decisions/0003), which is all that is understood here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from concord.lake.storage import Storage, join

LOG = "_delta_log"
FILE = re.compile(r"(\d{20})\.(json|checkpoint(?:\.\d{10}\.\d{10})?\.parquet)")


@dataclass(frozen=True)
class State:
    """A table at its newest version. `rows` is None where the log does not count a file's."""

    version: int
    rows: int | None
    description: str
    properties: Mapping[str, str]
    columns: tuple[Mapping[str, Any], ...]  # as Spark writes a schema as JSON

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
    metadata: dict[str, Any] = {}
    files: dict[str, int | None] = {}
    order = [name for name in checkpoints if versions[name] == start]
    order += sorted(name for name in names if name.endswith(".json") and versions[name] > start)
    for name in order:
        content = storage.read(join(path, LOG, name))
        for kind, action in _actions(name, content):
            if kind == "metaData":
                metadata = action
            elif kind == "remove":
                files.pop(action["path"], None)
            else:
                files[action["path"]] = json.loads(action.get("stats") or "{}").get("numRecords")
    counts = list(files.values())
    schema = json.loads(metadata.get("schemaString") or '{"fields": []}')
    return State(
        max(versions.values()),
        None if None in counts else sum(count or 0 for count in counts),
        metadata.get("description") or "",
        dict(metadata.get("configuration") or {}),
        tuple(schema["fields"]),
    )


def _actions(name: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The actions of one file of the log that say what the table holds."""
    wanted = ("metaData", "add", "remove")
    if name.endswith(".json"):
        for line in content.splitlines():
            action = json.loads(line)
            yield from ((kind, action[kind]) for kind in wanted if kind in action)
        return
    for row in pq.read_table(io.BytesIO(content), columns=["metaData", "add"]).to_pylist():
        yield from ((kind, row[kind]) for kind in ("metaData", "add") if row[kind])
