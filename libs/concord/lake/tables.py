"""Reading and writing the lake's tables: every byte of table data goes through here.

A write is idempotent: it carries a transaction id (`txnAppId`, `txnVersion`), Delta skips a
version at or below the last one it recorded for that id, and the table's history, read back, tells
whether this write was applied now, had been applied before, or was skipped with other data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StringType, StructType

from concord.errors import ConcordError, InfrastructureError
from concord.lake import driver, log, scd2, sql, workers
from concord.lake.locks import Locks
from concord.lake.registry import REQUIRED_LABELS, Table
from concord.lake.storage import Storage, join
from concord.lake.workers import Made
from concord.lake.writes import (
    Append,
    Applied,
    Changes,
    How,
    Merge,
    Overwrite,
    ReplaceWhere,
    Stamp,
    Transaction,
    Written,
)
from concord.lake.zones import Zones

HISTORY_LOOKBACK = 1000
LOG = log.LOG
# A file for each table that is being made, of which a kill can leave files without a log.
MAKING = "ops/_making"


class Lake:
    """One lake as one job uses it.

    Whatever names or opens a table or a file raises RefusedError (14) outside the job's `zones`.
    """

    def __init__(
        self, spark: SparkSession, root: str, *, locks: Locks, lock_wait: float, zones: Zones
    ) -> None:
        self.spark = spark
        self.root = root
        self.storage = Storage(spark, self._check)
        self.locks = locks
        self.lock_wait = lock_wait
        self.zones = zones
        self._up_to_date: dict[str, Mapping[str, str]] = {}

    def with_session(self, spark: SparkSession) -> Lake:
        """The same lake over another session of the same application (one per thread)."""
        lake = Lake(spark, self.root, locks=self.locks, lock_wait=self.lock_wait, zones=self.zones)
        # To look at a table costs two queries, and a delivery's writers have a session each.
        lake._up_to_date = self._up_to_date
        return lake

    def path(self, table: Table | str, *, write: bool = False) -> str:
        """Where a table or folder stands. `write` says that the caller is about to change it."""
        name = table if isinstance(table, str) else table.name
        self.zones.check(name, write=write)
        return join(self.root, name)

    def _check(self, path: str, write: bool) -> None:
        """`path` as the store spells it: a root without a scheme comes back with one."""
        place, root = path, self.root
        if "://" not in root or root.startswith("file:"):
            place, root = (re.sub(r"^[\w.+-]+:(//[^/]*)?", "", each) for each in (place, root))
        below = place.removeprefix(root.rstrip("/") + "/")
        self.zones.check(None if below == place else below, write=write)

    def exists(self, table: Table) -> bool:
        return log.is_table(self.storage, self.path(table))

    def read(self, table: Table, *, version: int | None = None, stored: bool = False) -> DataFrame:
        """The table's rows, at a version or the latest; an empty frame if it was never written.
        `stored`: as its files, however few rows there are."""
        if not self.exists(table):
            return self.spark.createDataFrame([], table.schema)
        return self.frame(table.name, version=version, stored=stored)

    def frame(self, name: str, *, version: int | None = None, stored: bool = False) -> DataFrame:
        """The rows of a table that is there."""
        path, held = self.path(name), None
        # Spark judges a version that is not to be had.
        with suppress(InfrastructureError):
            held = log.state(self.storage, path, version)
        if held and version in {None, held.version}:
            # Of a version that is new to it Delta makes three jobs before Spark reads a row.
            schema = StructType.fromJson({"type": "struct", "fields": list(held.columns)})
            texts = all(schema[column].dataType == StringType() for column in held.partitions)
            if texts and log.small(held) and not stored:
                types = to_arrow_schema(schema, timezone="UTC")
                # What cannot be read here Spark shall judge.
                with suppress(pa.ArrowException, InfrastructureError):
                    rows = log.rows(self.storage, path, held, types)
                    return self.spark.createDataFrame(rows, schema)
            if places := log.places(path, held):
                return self.spark.read.schema(schema).parquet(*places)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(path)

    def rows(self, table: Table, *columns: str) -> list[dict[str, Any]]:
        """The rows of a table that jobs keep of themselves, read without a query; or some columns
        of them; no rows where it was never written. Times are in UTC."""
        schema = table.arrow_schema
        some = pa.schema([schema.field(name) for name in columns or table.column_names])
        try:
            path = self.path(table)
            held = log.state(self.storage, path)
            if held is not None and held.reader > log.PLAIN_READER:
                raise InfrastructureError("a feature of its log that Concord never sets")
            found = log.rows(self.storage, path, held, some)
        except (InfrastructureError, ValueError, LookupError, pa.ArrowException) as error:
            why = error if isinstance(error, InfrastructureError) else type(error).__name__
            raise InfrastructureError(
                f"{table.name}: reading failed with {why}. Check that its files are whole and may "
                "be read, then run this again"
            ) from None
        return found.to_pylist(maps_as_pydicts="strict")

    def version(self, table: Table) -> int | None:
        """The table's latest version, None when it was never written."""
        return next(
            (commit.version for commit in log.commits(self.storage, self.path(table))), None
        )

    def properties(self, name: str) -> dict[str, str]:
        """A table's properties, its labels among them; it must be there."""
        return dict(self._state(name).properties)

    def _state(self, name: str) -> log.State:
        held = log.state(self.storage, self.path(name))
        if held is None:
            raise InfrastructureError(f"{name}: there is no table at {self.path(name)}")
        return held

    def create(self, table: Table, labels: Mapping[str, str], *, stamp: Stamp) -> None:
        """Make the table if absent; bring columns, properties and labels up to what is declared.

        Looked at once per job: the caller holds the table's lock.
        """
        note = stamp.encode(None)
        self.path(table, write=True)
        wanted = {**table.delta_properties, **labels}
        if self._up_to_date.get(table.name) == wanted:
            return
        if self.exists(table):
            with self._noted(note):
                self._bring_up(table, wanted)
            self._up_to_date[table.name] = wanted
            return
        nothing = table.arrow_schema.empty_table()
        commit = driver.Commit(note, stamp.engine)
        if not self._by_driver(nothing, table, wanted, commit, Append()):
            with self._noted(note):
                self._make(self.spark.createDataFrame([], table.schema), table, wanted, None)

    def _is_new(self, table: Table) -> bool:
        return table.name not in self._up_to_date and not self.exists(table)

    def _make(
        self,
        rows: DataFrame,
        table: Table,
        properties: Mapping[str, str],
        transaction: Transaction | None,
    ) -> None:
        """Makes the table with its first rows, in one commit: an empty one to be written to next
        would cost as much again, and Delta a query about its state."""
        with self._making(table, properties):
            as_declared = [
                F.col(f"`{field.name}`")
                .cast(field.dataType)
                .alias(field.name, metadata=field.metadata)
                for field in table.schema
            ]
            chosen = _of_session(rows.select(*as_declared), self.spark)
            writer = chosen.writeTo(f"delta.`{self.path(table)}`").using("delta")
            for name, value in {**properties, "comment": table.description}.items():
                writer = writer.tableProperty(name, value)
            for name, value in _options(transaction).items():
                writer = writer.option(name, value)
            if table.partition_by:
                writer = writer.partitionedBy(*[F.col(name) for name in table.partition_by])
            writer.create()

    @contextmanager
    def _making(self, table: Table, properties: Mapping[str, str]) -> Iterator[None]:
        path, making = self.path(table), join(self.root, MAKING, table.name)
        if self.storage.exists(making):
            # What was cut short leaves files without a log.
            self.storage.delete(path)
        # Or a log without a commit. Delta stumbles over either, and over files that lost their log.
        self.storage.delete(join(path, LOG))
        if not self.storage.list(path):
            self.storage.write(making, b"")
        yield
        self.storage.delete(making)
        self._up_to_date[table.name] = properties

    def _by_driver(
        self,
        rows: pa.Table,
        table: Table,
        properties: Mapping[str, str] | None,
        commit: driver.Commit,
        how: How,
    ) -> bool:
        """Writes rows that the driver holds, without a query; with `properties` it makes the table.
        False where it takes Delta's own writer."""
        path = self.path(table)
        if properties is None:
            checkpoint = partial(self._checkpoint, path)
            if isinstance(how, Append | Overwrite):
                return driver.write(self.storage, path, rows, commit, checkpoint)
            schema = table.arrow_schema
            if isinstance(how, ReplaceWhere):
                return driver.replace(self.storage, path, rows, schema, how, commit, checkpoint)
            merging = (
                driver.Merging(table.key, newer=how.newer)
                if isinstance(how, Merge)
                else driver.Merging(table.key, operation=scd2.OPERATION)
            )
            return driver.merge(self.storage, path, rows, schema, merging, commit, checkpoint)
        with self._making(table, properties):
            named = {**properties, "comment": table.description}
            schema, by = table.schema.json(), table.partition_by
            made = driver.make(self.storage, path, rows, schema, named, commit, by)
        if not made:
            del self._up_to_date[table.name]
        return made

    def _by_workers(
        self, rows: Made | pa.Table, table: Table, commit: driver.Commit, how: How
    ) -> bool:
        """Writes rows as files of those who have them. False where it takes Spark."""
        path, context = self.path(table), self.spark.sparkContext
        folder, checkpoint = self.storage.local_path(path), partial(self._checkpoint, path)
        if folder is None or not isinstance(how, Append | Overwrite):
            return False
        if not context._jsc.sc().isLocal():
            return False

        def store() -> list[log.File]:
            of = rows.stored if isinstance(rows, Made) else partial(workers.stored, rows)
            stored: list[log.File] = self._made(lambda: of(folder, table), table)
            return stored

        return driver.write_stored(self.storage, path, store, commit, checkpoint)

    def _checkpoint(self, path: str) -> None:
        """Has Delta sum up the table's log so far. Without it the log is only longer to read, and
        the next tenth version has one."""
        jvm: Any = self.spark._jvm
        delta = getattr(jvm, "org.apache.spark.sql.delta.DeltaLog")  # noqa: B009 (no Python name)
        with suppress(Py4JError):
            delta.forTable(self.spark._jsparkSession, path).checkpoint()

    def _bring_up(self, table: Table, wanted: Mapping[str, str]) -> None:
        place = f"delta.`{self.path(table)}`"
        held = self._state(table.name)
        present, have = held.properties, {column["name"] for column in held.columns}
        if not have >= set(table.column_names):
            # An empty append brings the new columns with their comments and labels; ADD COLUMNS
            # would lose the labels.
            nothing = self.spark.createDataFrame([], table.schema)
            added = nothing.write.format("delta").mode("append").option("mergeSchema", "true")
            added.save(self.path(table))
        changed = {name: value for name, value in wanted.items() if present.get(name) != value}
        if changed:
            pairs = ", ".join(f"'{name}' = {sql.literal(value)}" for name, value in changed.items())
            self.spark.sql(f"ALTER TABLE {place} SET TBLPROPERTIES ({pairs})")

    def write(
        self,
        rows: DataFrame | pa.Table | Made,
        table: Table,
        how: How,
        *,
        stamp: Stamp,
        transaction: Transaction | None,
        labels: Mapping[str, str],
        few: bool = False,
    ) -> Written:
        """Write rows to a table whose lock the caller holds.

        Rows that the driver holds, or `few` that it then fetches, are written by it if they are all
        that a commit adds or all that it leaves: for few rows Spark's and Delta's jobs take
        seconds. Many that workers made or the driver holds are written by them if they can be
        (`lake/workers.py`).

        The rows' columns must be the table's (with `_operation` besides for Changes). Raises
        ConcordError when Delta skipped the transaction although it was never applied here, and
        InfrastructureError when the store fails; neither repeats a row's values. A table outside
        ops is not written without labels, and they stand before the first row does.
        """
        self.path(table, write=True)
        lacking = [name for name in REQUIRED_LABELS if not labels.get(name)]
        if lacking and table.zone != "ops":
            raise ConcordError(
                f"{table.name}: it cannot be written without the labels {', '.join(lacking)}: they "
                "say under which agreement it is shared"
            )
        note = stamp.encode(transaction)
        columns = [*table.column_names]
        columns += [scd2.OPERATION] if isinstance(how, Changes) else []
        content, new = None, self._is_new(table)
        made = None if few or not isinstance(rows, Made) else rows
        if few or isinstance(rows, pa.Table):
            held = rows.rows(table) if isinstance(rows, Made) else rows
            content = self._content(held, table, how, columns, new=new)
            if content is not None and isinstance(how, Append | Overwrite):
                made = content if content.nbytes > driver.MOST_BYTES else None
        # Who replaces a table counts its rows by `observe`, which a table's making does not serve.
        new &= made is None and (content is not None or not isinstance(how, Overwrite))
        if not new:
            self.create(table, labels, stamp=stamp)
        wanted = {**table.delta_properties, **labels}
        commit = driver.Commit(
            note, stamp.engine, _numbered(transaction), isinstance(how, Overwrite)
        )
        try:
            done = made is not None and self._by_workers(made, table, commit, how)
            if not done and content is not None:
                done = self._by_driver(content, table, wanted if new else None, commit, how)
            if not done:
                rows = rows.rows(table) if isinstance(rows, Made) else rows
                if content is not None or isinstance(rows, pa.Table):
                    rows = self.spark.createDataFrame(rows if content is None else content)
                    rows = rows.coalesce(1)
                if new:
                    first = rows if content is not None else _first(rows.select(*columns), how)
                    with self._noted(note):
                        self._make(first, table, wanted, transaction)
                elif isinstance(how, Merge | Changes):
                    self._merge(rows.select(*columns), table, how, note, transaction)
                else:
                    self._save(rows.select(*columns), table, how, note, transaction)
        except ConcordError:
            raise
        except Exception as error:
            # A writer's message can quote rows (a violated constraint does): it is not repeated.
            raise InfrastructureError(
                f"{table.name}: writing failed with {described(error)}; the table is as it was. "
                "Check space and permissions of the lake root, then run this again"
            ) from None
        latest = next(log.commits(self.storage, self.path(table)), None)
        if latest and latest.note == note:
            return Written(table.name, latest.version, applied=True)
        before = self.applied(table, transaction) if transaction else None
        if before is None:
            raise ConcordError(
                f"{table.name}: Delta skipped transaction {transaction}, which is at or below one "
                "that it has recorded; the feed's sequence went backwards"
            )
        return Written(table.name, before, applied=False)

    def _content(
        self, rows: DataFrame | pa.Table, table: Table, how: How, columns: Sequence[str], *,
        new: bool,
    ) -> pa.Table | None:  # fmt: skip
        """What the driver is to write, of a new table all that it leaves; None where Spark is."""
        if isinstance(how, Append | Overwrite):
            return self._fetched(rows, table)
        if new:
            if isinstance(rows, pa.Table) and isinstance(how, ReplaceWhere):
                return None
            return self._fetched(_first(rows.select([*columns]), how), table)
        return self._fetched(rows, table, how) if self.mergeable(table) else None

    def mergeable(self, table: Table) -> bool:
        """Whether few rows are merged into the table, or replace some of it, without a query."""
        held = log.state(self.storage, self.path(table))
        return held is None or driver.mergeable(held, table.arrow_schema)

    def _fetched(
        self, rows: DataFrame | pa.Table, table: Table, how: How | None = None
    ) -> pa.Table:
        schema = table.arrow_schema
        if isinstance(how, Changes):
            schema = schema.append(pa.field(scd2.OPERATION, pa.string()))

        def fetch() -> pa.Table:
            some = rows.select(schema.names)
            held = some if isinstance(some, pa.Table) else some.toArrow()
            return held.cast(schema)

        return self._made(fetch, table)

    def _made(self, make: Callable[[], Any], table: Table) -> Any:
        """What comes of a table's rows; an error that quotes none where they can't be made."""
        try:
            return make()
        except Exception as error:
            raise InfrastructureError(
                f"{table.name}: its rows could not be made, with {described(error)}; the table is "
                "as it was"
            ) from None

    @contextmanager
    def held(self, rows: DataFrame, table: Table) -> Iterator[tuple[DataFrame, int]]:
        """The rows for a write, made once, and their number: Delta plans what it is to write twice,
        and what models read takes long to plan. Raises InfrastructureError."""
        kept = rows.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            yield kept, self._made(kept.count, table)
        finally:
            kept.unpersist()

    def append(self, rows: Sequence[Mapping[str, Any]], table: Table, *, stamp: Stamp) -> None:
        """Append to an ops table. Waits its turn instead of refusing.

        Its rows carry their own keys: nothing is lost by not reading the history back.
        """
        self.path(table, write=True)
        with self.locks.hold([table.name], wait_seconds=self.lock_wait):
            self.add(rows, table, stamp=stamp)

    def add(self, rows: Sequence[Mapping[str, Any]], table: Table, *, stamp: Stamp) -> None:
        """`append` for a caller who holds the table's lock. By a query only where it must be."""
        note, new = stamp.encode(None), self._is_new(table)
        if not new:
            self.create(table, {}, stamp=stamp)
        try:
            content = pa.Table.from_pylist([dict(row) for row in rows], table.arrow_schema)
            made = table.delta_properties if new else None
            commit = driver.Commit(note, stamp.engine)
            if self._by_driver(content, table, made, commit, Append()):
                return
            frame = self.spark.createDataFrame(content).coalesce(1)
            with self._noted(note):
                if new:
                    self._make(frame, table, table.delta_properties, None)
                else:
                    self._save(frame, table, Append(), note, None)
        except Exception as error:
            why = error if isinstance(error, InfrastructureError) else described(error)
            raise InfrastructureError(
                f"{table.name}: writing failed with {why}; check space and permissions of the "
                "lake root, then run this again"
            ) from None

    @contextmanager
    def _noted(self, note: str) -> Iterator[None]:
        """Commits made without a writer's option (CREATE, ALTER) carry the note too."""
        name = "spark.databricks.delta.commitInfo.userMetadata"
        self.spark.conf.set(name, note)
        try:
            yield
        finally:
            self.spark.conf.unset(name)

    def applied(self, table: Table, transaction: Transaction) -> int | None:
        """The table version in which the transaction was applied, None when it was not."""
        for commit in islice(log.commits(self.storage, self.path(table)), HISTORY_LOOKBACK):
            said = log.decoded(commit.note)
            # An application's versions only grow: its newest commit decides.
            if said.get("application") == transaction.application:
                if said["version"] == transaction.version:
                    return commit.version
                if said["version"] < transaction.version:
                    return None
        return None

    def made_from(self, table: Table) -> dict[str, Any] | None:
        """What the table's newest commit of a job's own says of itself: run_id, inputs, rows, ...

        None when the table was never written. Upkeep between says nothing and is passed over.
        """
        for commit in islice(log.commits(self.storage, self.path(table)), HISTORY_LOOKBACK):
            said = log.decoded(commit.note)
            if said.get("application"):
                return {**said, "rows": commit.rows}
        return None

    def remove(self, name: str) -> None:
        """Deletes a table, all its versions and its log. The caller holds its lock.

        The log goes last: until then what is left can still say what it was.
        """
        self.path(name, write=True)
        self._up_to_date.pop(name, None)
        for entry in self.storage.list(self.path(name)):
            if entry.name != LOG:
                self.storage.delete(entry.path)
        self.storage.delete(self.path(name))

    def newest(self, table: Table) -> Applied | None:
        """The table's newest write that carried a transaction id; None when there is none."""
        for commit in islice(log.commits(self.storage, self.path(table)), HISTORY_LOOKBACK):
            said = log.decoded(commit.note)
            if "application" in said:
                transaction = Transaction(said["application"], said["version"])
                return Applied(commit.version, transaction, said["run_id"])
        return None

    def _save(
        self,
        rows: DataFrame,
        table: Table,
        how: Append | ReplaceWhere | Overwrite,
        note: str,
        transaction: Transaction | None,
    ) -> None:
        options = {"userMetadata": note, **_options(transaction)}
        writer = (
            rows.write.format("delta")
            .options(**options)
            .mode("append" if isinstance(how, Append) else "overwrite")
        )
        if isinstance(how, ReplaceWhere):
            writer = writer.option("replaceWhere", how.condition)
        writer.save(self.path(table))

    def _merge(
        self,
        rows: DataFrame,
        table: Table,
        how: Merge | Changes,
        note: str,
        transaction: Transaction | None,
    ) -> None:
        conf = self.spark.conf
        settings = {"spark.databricks.delta.commitInfo.userMetadata": note}
        for name, value in _options(transaction).items():
            settings[f"spark.databricks.delta.write.{name}"] = value
        keys = [*table.key]
        on = " AND ".join(f"t.`{name}` <=> s.`{name}`" for name in keys)
        values: dict[str, Any] = {f"`{n}`": F.col(f"s.`{n}`") for n in table.column_names}
        merge = (
            DeltaTable.forPath(self.spark, self.path(table)).alias("t").merge(rows.alias("s"), on)
        )
        if isinstance(how, Changes):
            deleting = f"s.{scd2.OPERATION} = 'delete'"
            merge = merge.whenMatchedDelete(deleting).whenMatchedUpdate(set=values)
            merge = merge.whenNotMatchedInsert(f"NOT {deleting}", values)
        else:
            newer = " OR ".join(_later(how.newer, depth) for depth in range(len(how.newer)))
            merge = merge.whenMatchedUpdate(newer or None, values)
            merge = merge.whenNotMatchedInsert(values=values)
        try:
            for name, value in settings.items():
                conf.set(name, value)
            merge.execute()
        finally:
            for name in settings:
                conf.unset(name)


def _options(transaction: Transaction | None) -> dict[str, str]:
    """A writer's options for a write under a transaction id."""
    if transaction is None:
        return {}
    return {"txnAppId": transaction.application, "txnVersion": str(transaction.version)}


def _numbered(transaction: Transaction | None) -> tuple[str, int] | None:
    return (transaction.application, transaction.version) if transaction else None


def _of_session(rows: DataFrame, spark: SparkSession) -> DataFrame:
    """The rows as another session's, whose settings carry the note of the commit that makes them a
    table."""
    jvm: Any = spark._jvm
    dataset = getattr(jvm, "org.apache.spark.sql.classic.Dataset")  # noqa: B009 (no Python name)
    return DataFrame(dataset.ofRows(spark._jsparkSession, rows._jdf.logicalPlan()), spark)


def _first(rows: Any, how: How) -> Any:
    """What a write of a frame, or of a table in Arrow, leaves in an empty table."""
    if isinstance(how, Changes) and isinstance(rows, pa.Table):
        return rows.filter(pc.not_equal(rows[scd2.OPERATION], "delete"))
    if isinstance(how, Changes):
        return rows.where(F.col(scd2.OPERATION) != "delete").drop(scd2.OPERATION)
    if isinstance(how, ReplaceWhere):
        outside = F.raise_error(F.lit("a row outside the condition")).cast("boolean")
        return rows.where(F.when(F.expr(how.condition), F.lit(True)).otherwise(outside))
    return rows


def _later(columns: Sequence[str], depth: int) -> str:
    """One arm of a lexicographic comparison: equal before `depth`, greater at it."""
    equal = [f"s.`{name}` = t.`{name}`" for name in columns[:depth]]
    return "(" + " AND ".join([*equal, f"s.`{columns[depth]}` > t.`{columns[depth]}`"]) + ")"


def described(error: Exception) -> str:
    """What failed, in words that cannot hold a row's values.

    Names of exceptions and Spark's own error condition; the message only of what the file system
    says, which speaks of paths, space and permissions.
    """
    getter = getattr(error, "getCondition", None) or getattr(error, "getErrorClass", None)
    named = getter() if callable(getter) else None
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    words = [f"{type(error).__name__}" + (f" [{named}]" if named else "")]
    while java is not None and hasattr(java, "getCause"):
        kind = str(java.getClass().getName())
        if kind.startswith(("java.io.", "java.nio.file.", "org.apache.hadoop.fs.")):
            words.append(f"{kind.rsplit('.', 1)[-1]}: {java.getMessage()}")
        java = java.getCause()
    return ", ".join(dict.fromkeys(words))
