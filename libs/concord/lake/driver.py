"""Few rows written by the driver, with no query: what a job notes of itself is a row or two and a
small delivery some thousands, for which Spark and Delta would make several jobs (decision 0010).

Files first, then the commit, by the protocol
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md) and by Delta's own LogStore, which lets
one writer have a version. Whatever asks more of a writer is refused and left to Delta.
"""

from __future__ import annotations

import io
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from concord.lake.log import (
    CHANGE_FEED,
    CHECKPOINT_EVERY,
    LOG,
    PLAIN_FEATURES,
    PLAIN_READER,
    PLAIN_WRITER,
    WITH_FEATURES,
    File,
    State,
    part,
    place,
    state,
)
from concord.lake.statistics import COLUMNS, bounds, named
from concord.lake.storage import Storage, join

# More than these is Spark's to write. Up to here it takes 2 s to append, and 2.5 to 7.4 to merge,
# what the driver appends in 0.3 to 0.9 and merges in 0.2 to 1.3 s (`make bench BENCH=few`). Bytes
# in memory.
FEW = 100_000
MOST_BYTES = 64_000_000
# And of a table of which some rows change: rows and bytes of its files, which are looked through.
MOST_HELD, MOST_HELD_BYTES = 300_000, 64_000_000
# Properties that ask nothing of a writer; a table with others is made by Delta.
PLAIN = frozenset(
    {
        COLUMNS,
        "delta.logRetentionDuration",
        "delta.deletedFileRetentionDuration",
        CHANGE_FEED,
        "comment",
    }
)
# What is in a folder's name as it is, and in the log that is a URI; partitions of one commit.
SPELT, MOST_SHARES = re.compile(r"[\w.-]+", re.ASCII), 24
# The protocol's names: of the folder for changes, and of the column that says which.
CHANGES, CHANGE_TYPE = "_change_data/", "_change_type"
# The values of the partition columns, and the rows without those.
Share = tuple[Mapping[str, str], pa.Table]


@dataclass(frozen=True)
class Commit:
    """A commit of rows: `note` is its userMetadata, no two alike; `engine` who made it;
    `transaction` its txnAppId and txnVersion. `replaces`: all rows that there were."""

    note: str
    engine: str
    transaction: tuple[str, int] | None = None
    replaces: bool = False


@dataclass(frozen=True)
class Merging:
    """How rows meet those of a table: by `key`, null being a value. A row takes the place of the
    one that it meets if the columns `newer`, taken in order, are greater in it, or if there are
    none; and is added if it meets none. Rows with `delete` in the column `operation` only take the
    place."""

    key: tuple[str, ...]
    newer: tuple[str, ...] = ()
    operation: str | None = None


class Replacing(Protocol):
    """Which rows are replaced: those for which `holds` says so by their `columns`; `condition` says
    it in SQL."""

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def condition(self) -> str: ...

    def holds(self, rows: pa.Table) -> pa.Array: ...


@dataclass(frozen=True)
class _Files:
    """What a commit does to a table's files; `stored`: those that it adds and that stand there
    already."""

    operation: str
    added: Sequence[Share] = ()
    stored: Sequence[File] = ()
    removed: Sequence[File] = ()
    changes: Sequence[Share] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, int] = field(default_factory=dict)
    blind: bool = True


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
    files = _Files("CREATE TABLE AS SELECT", shares, blind=not commit.replaces)
    return _commit(storage, path, 0, commit, files, named(properties), first)


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
    if held is None or not _may(held, removes=commit.replaces) or rows.nbytes > MOST_BYTES:
        return False
    if _recorded(held, commit):
        return True
    shares = _shares(rows, held.partitions)
    if shares is None:
        return False
    return _next(storage, path, held, commit, _written(held, commit, added=shares), checkpoint)


def write_stored(
    storage: Storage, path: str, store: Callable[[], Sequence[File]], commit: Commit,
    checkpoint: Callable[[], None],
) -> bool:  # fmt: skip
    """As `write`, of rows that `store` makes files of in the table's folder; it is not asked to
    where nothing is to be done. Of a table with partitions: False."""
    held = state(storage, path)
    if held is None or not _may(held, removes=commit.replaces) or held.partitions:
        return False
    if _recorded(held, commit):
        return True
    files = _written(held, commit, stored=store())
    return _next(storage, path, held, commit, files, checkpoint)


def _written(
    held: State, commit: Commit, added: Sequence[Share] = (), stored: Sequence[File] = ()
) -> _Files:
    mode = {"mode": "Overwrite" if commit.replaces else "Append"}
    removed = held.files if commit.replaces else ()
    blind = not commit.replaces
    return _Files("WRITE", added, stored, removed=removed, parameters=mode, blind=blind)


def mergeable(held: State | None, schema: pa.Schema) -> bool:
    """Whether a table is one that `merge` merges into, and in which `replace` replaces."""
    if held is None or held.rows is None or held.reader > PLAIN_READER:
        return False
    texts = all(schema.field(name).type == pa.string() for name in held.partitions)
    few = held.rows <= MOST_HELD and sum(file.bytes for file in held.files) <= MOST_HELD_BYTES
    return few and texts and _may(held, removes=True)


def merge(
    storage: Storage, path: str, rows: pa.Table, schema: pa.Schema, how: Merging,
    commit: Commit, checkpoint: Callable[[], None],
) -> bool:  # fmt: skip
    """Merges rows into those of a table with columns `schema`, in one commit, as Delta does: a file
    with a row that changes is written anew, and a table with a change feed has each change as it
    was and is.

    False, and nothing done, where that is for Delta: as `write`, for a table that is not
    `mergeable`, and for rows with a key twice.
    """
    held = state(storage, path)
    if held is None or not mergeable(held, schema) or rows.nbytes > MOST_BYTES:
        return False
    if _recorded(held, commit):
        return True
    keys = _Keys(rows.select(list(how.key)))
    if not keys.unique:
        return False
    gone = pa.array([False] * rows.num_rows, pa.bool_())
    if how.operation:
        gone = pc.equal(rows[how.operation], "delete").combine_chunks()
    fresh = rows.select(schema.names).cast(schema)
    taken: list[pa.Array] = []  # of `rows`, by position, in the order of what they change
    met: list[pa.Array] = []

    def changing(old: pa.Table) -> pa.Array:
        at = keys.find(old.select(list(how.key)))
        met.append(at.drop_null())
        changes = pc.and_(at.is_valid(), _newer(fresh, old, at, how.newer))
        taken.append(at.filter(changes))
        return changes

    looked = dict.fromkeys((*how.key, *how.newer))
    found = _looked_through(storage, path, held.files, schema, looked, changing)
    none = pa.array([], pa.int64())
    every = pa.array(range(rows.num_rows), pa.int64())
    added = pc.and_not(pc.invert(pc.is_in(every, pa.concat_arrays([none, *met]))), gone)
    place_of = pa.concat_arrays([none, *taken])
    deleted = gone.take(place_of)
    updated = pc.invert(deleted)
    changes = {
        "insert": fresh.filter(added),
        "update_preimage": found.before.filter(updated),
        "update_postimage": fresh.take(place_of).filter(updated),
        "delete": found.before.filter(deleted),
    }
    metrics = {
        "numTargetRowsInserted": changes["insert"].num_rows,
        "numTargetRowsUpdated": changes["update_postimage"].num_rows,
        "numTargetRowsDeleted": changes["delete"].num_rows,
        "numTargetRowsCopied": found.kept.num_rows,
        "numSourceRows": rows.num_rows,
    }
    by = {"predicate": json.dumps([f"t.{name} <=> s.{name}" for name in how.key])}
    files = _rewritten(held, found, changes, "MERGE", by, metrics)
    return files is not None and _next(storage, path, held, commit, files, checkpoint)


def replace(
    storage: Storage, path: str, rows: pa.Table, schema: pa.Schema, how: Replacing,
    commit: Commit, checkpoint: Callable[[], None],
) -> bool:  # fmt: skip
    """Replaces the rows of a table for which a condition holds by rows for which it holds too.

    False, and nothing done, where that is for Delta: as `merge`, and for rows for which it does
    not, of which Delta says what it says.
    """
    held = state(storage, path)
    if held is None or not mergeable(held, schema) or rows.nbytes > MOST_BYTES:
        return False
    if _recorded(held, commit):
        return True
    fresh = rows.select(schema.names).cast(schema)
    if not pc.all(how.holds(fresh), min_count=0).as_py():
        return False
    some = held.files
    if set(how.columns) <= set(held.partitions):
        named = pa.schema([schema.field(name) for name in how.columns])
        shares = pa.Table.from_pylist([dict(file.partition) for file in some], named)
        some = tuple(f for f, its in zip(some, how.holds(shares).to_pylist(), strict=True) if its)
    found = _looked_through(storage, path, some, schema, how.columns, how.holds)
    changes = {"insert": fresh, "delete": found.before}
    by = {"mode": "Overwrite", "predicate": json.dumps([how.condition])}
    files = _rewritten(held, found, changes, "WRITE", by, {})
    return files is not None and _next(storage, path, held, commit, files, checkpoint)


@dataclass(frozen=True)
class _Found:
    """The files with a row that changes; their other rows, and those, as they were."""

    files: Sequence[File]
    kept: pa.Table
    before: pa.Table


def _looked_through(
    storage: Storage, path: str, held: Sequence[File], schema: pa.Schema, columns: Iterable[str],
    changing: Callable[[pa.Table], pa.Array],
) -> _Found:  # fmt: skip
    """Looks through files for rows that change, as `changing` says of some of their columns."""
    looked = pa.schema([schema.field(name) for name in columns])
    files, kept, before = [], [schema.empty_table()], [schema.empty_table()]
    for file in held:
        content = storage.read(place(path, file))
        changes = changing(part(content, file, looked))
        if pc.any(changes).as_py():
            whole = part(content, file, schema)
            files.append(file)
            kept.append(whole.filter(pc.invert(changes)))
            before.append(whole.filter(changes))
    return _Found(files, pa.concat_tables(kept), pa.concat_tables(before))


def _rewritten(
    held: State, found: _Found, changes: Mapping[str, pa.Table], operation: str,
    parameters: Mapping[str, str], metrics: Mapping[str, int],
) -> _Files | None:  # fmt: skip
    """The commit of changes by their kinds in a change feed; None where a partition is not one for
    the driver."""
    put = [rows for kind, rows in changes.items() if kind in ("insert", "update_postimage")]
    shares = _shares(pa.concat_tables([found.kept, *put]), held.partitions)
    told: list[Share] | None = []
    # Of a commit that only adds, what is added is the change.
    if found.files and held.properties.get(CHANGE_FEED) == "true":
        kinds = [
            rows.append_column(CHANGE_TYPE, pa.repeat(pa.scalar(kind), rows.num_rows))
            for kind, rows in changes.items()
        ]
        told = _shares(pa.concat_tables(kinds), held.partitions)
    if shares is None or told is None:
        return None
    return _Files(
        operation,
        shares,
        removed=found.files,
        changes=told,
        parameters=parameters,
        metrics=metrics,
        blind=False,
    )


class _Keys:
    """Where each key stands among the keys of some rows; null is a value."""

    def __init__(self, rows: pa.Table) -> None:
        self._values: list[pa.Array] = []
        self._codes: list[pa.Array] = []
        code = pa.array([0] * rows.num_rows, pa.int64())
        for column in rows.columns:
            values = pc.unique(column)
            self._values.append(values)
            code = self._with(code, column, values)
            # Numbered anew, the numbers of many columns stay small.
            self._codes.append(codes := pc.unique(code))
            code = pc.index_in(code, value_set=codes).cast(pa.int64())
        self._last, self.unique = code, len(pc.unique(code)) == rows.num_rows

    @staticmethod
    def _with(code: pa.Array, column: pa.ChunkedArray, values: pa.Array) -> pa.Array:
        own = pc.index_in(column.combine_chunks(), value_set=values).cast(pa.int64())
        return pc.add(pc.multiply(code, max(len(values), 1)), own)

    def find(self, rows: pa.Table) -> pa.Array:
        """For each row the position of its key, null where it is none of them."""
        code = pa.array([0] * rows.num_rows, pa.int64())
        for column, values, codes in zip(rows.columns, self._values, self._codes, strict=True):
            code = self._with(code, column, values)
            code = pc.index_in(code, value_set=codes).cast(pa.int64())
        return pc.index_in(code, value_set=self._last).cast(pa.int64())


def _newer(fresh: pa.Table, old: pa.Table, at: pa.Array, names: Sequence[str]) -> pa.Array:
    """For each row of `old` whether the row of `fresh` that it meets is newer; null is not."""
    if not names:
        return pa.array([True] * old.num_rows, pa.bool_())
    newer = pa.array([False] * old.num_rows, pa.bool_())
    equal = pc.invert(newer)
    for name in names:
        theirs, ours = fresh[name].take(at).combine_chunks(), old[name].combine_chunks()
        greater = pc.fill_null(pc.greater(theirs, ours), False)
        newer = pc.or_(newer, pc.and_(equal, greater))
        equal = pc.and_(equal, pc.fill_null(pc.equal(theirs, ours), False))
    return newer


def _may(held: State, *, removes: bool) -> bool:
    """Whether a table asks no more of who adds to it, or removes of it, than to heed the files."""
    return held.plain and not (removes and held.properties.get("delta.appendOnly") == "true")


def _recorded(held: State, commit: Commit) -> bool:
    """Whether the commit's transaction is at or below the one recorded."""
    if commit.transaction is None:
        return False
    application, number = commit.transaction
    return held.transactions.get(application, number - 1) >= number


def _next(
    storage: Storage, path: str, held: State, commit: Commit, files: _Files,
    checkpoint: Callable[[], None],
) -> bool:  # fmt: skip
    done = _commit(storage, path, held.version + 1, commit, files, named(held.properties))
    if done and (held.version + 1) % CHECKPOINT_EVERY == 0:
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
    storage: Storage, path: str, version: int, commit: Commit, files: _Files,
    statistics: Sequence[str], first: Sequence[Mapping[str, Any]] = (),
) -> bool:  # fmt: skip
    """The rows' files, and then the commit, made by the LogStore that Delta's are made by: of two
    writers of one version one fails. `statistics`: the columns of which the log tells bounds. False
    when somebody else was first."""
    now = int(time.time() * 1000)
    made = (_stored(storage, path, share, statistics=statistics) for share in files.added)
    added = [*files.stored, *made]
    changes = [_stored(storage, path, share, folder=CHANGES) for share in files.changes]
    metrics = {
        "numFiles": len(added),
        "numOutputRows": sum(file.rows or 0 for file in added),
        "numOutputBytes": sum(file.bytes for file in added),
        **files.metrics,
    }
    told = {
        "timestamp": now,
        "operation": files.operation,
        "operationParameters": files.parameters,
        "isolationLevel": "Serializable",
        "isBlindAppend": files.blind,
        "operationMetrics": {name: str(number) for name, number in metrics.items()},
        "userMetadata": commit.note,
        "engineInfo": commit.engine,
    }
    whole: list[Mapping[str, Any]] = [{"commitInfo": told}, *first]
    if commit.transaction:
        application, number = commit.transaction
        whole.append({"txn": {"appId": application, "version": number, "lastUpdated": now}})
    # Of a table with a change feed, who reads it asks for the metadata of what was removed.
    gone = {"deletionTimestamp": now, "dataChange": True, "extendedFileMetadata": True}
    whole += [{"remove": {**_named(file), **gone}} for file in files.removed]
    whole += [
        {"add": {**_named(file), "modificationTime": now, "dataChange": True,
                 "stats": json.dumps({"numRecords": file.rows, **file.told})}}
        for file in added
    ]  # fmt: skip
    whole += [{"cdc": {**_named(file), "dataChange": False}} for file in changes]
    entry = join(path, LOG, f"{version:020d}.json")
    if storage.commit(entry, [json.dumps(action) for action in whole]):
        return True
    # A store that answered late may have taken the first try, and refuse the second.
    if json.dumps(commit.note).encode() in storage.read(entry):
        return True
    for file in (*added, *changes):
        storage.delete(join(path, file.name))
    return False


def _stored(
    storage: Storage, path: str, share: Share, *, folder: str = "", statistics: Sequence[str] = ()
) -> File:
    partition, rows = share
    content = io.BytesIO()
    pq.write_table(rows, content, compression="snappy", store_schema=False)
    folder += "".join(f"{name}={value}/" for name, value in partition.items())
    kind = "cdc" if folder.startswith(CHANGES) else "part"
    name = f"{folder}{kind}-00000-{uuid.uuid4()}-c000.snappy.parquet"
    storage.write(join(path, name), content.getvalue())
    told = bounds(pq.read_metadata(content), statistics) if statistics else {}
    return File(name, rows.num_rows, len(content.getbuffer()), partition, told)


def _named(file: File) -> dict[str, Any]:
    return {"path": file.name, "partitionValues": file.partition, "size": file.bytes}
