"""Records that lie in Parquet files on this machine's disk: read by whoever works on them.

Spark turns columns into rows and back into columns on their way to a Python worker, which takes
longer than all that the worker does with them; and what a worker tells the driver goes through Java
twice. Where a DataFrame is no more than such files, of plain Parquet or of a version of a Delta
table, and Spark runs on this machine alone, its workers read them with Arrow, and so does the
driver what it wants to know. Anything else goes through Spark.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from functools import partial, reduce
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.java_gateway import is_instance_of
from pyspark.sql import DataFrame
from pyspark.sql.types import StringType

from concord.errors import InfrastructureError
from concord.lake import log
from concord.lake.storage import Storage
from concord.linkage.blobs import gathered, written
from concord.linkage.blobs import read as opened_table

# Rows that a worker reads at a time, of a row group that may have more.
SLICE = 500_000
# Rows for which a task of its own pays: of a table in many partitions most files have few.
TASK = 50_000
# How many pieces the driver reads side by side. Arrow and numpy let other threads work.
AT_ONCE = os.cpu_count() or 1
LOCAL = re.compile(r"file:(?://)?(/.*)")
SCHEDULED = (
    "path string, group int, begin bigint, rows bigint, partition map<string, string>, of int"
)
FS_RELATION = "org.apache.spark.sql.execution.datasources.HadoopFsRelation"
FORMATS = ("ParquetFileFormat", "DeltaParquetFileFormat")


@dataclass(frozen=True)
class Piece:
    """Some rows of one row group of one file; `partition`: columns that are not in the file, of
    which all its rows have one value; `of`: of which of several records."""

    path: str
    group: int
    begin: int
    rows: int
    partition: Mapping[str, str | None]
    of: int = 0


def pieces(
    records: DataFrame, columns: Sequence[str], *, lists: bool = False
) -> list[Piece] | None:
    """The pieces that make up `columns` of all records; None where they are not in such files, or
    are of other kinds than texts, dates and whole numbers (and `lists` of texts)."""
    kinds = {each.name: each.dataType for each in records.schema.fields}
    paths = _paths(records)
    if paths is None:
        return None
    found = []
    for path, values in sorted(paths.items()):
        with _opened(path):
            file = pq.ParquetFile(path)
        names = {*file.schema_arrow.names}
        said = {name: values[name] for name in columns if name not in names and name in values}
        fields = [file.schema_arrow.field(name) for name in columns if name in names]
        if len(fields) + len(said) < len(columns) or not all(_plain(f, lists) for f in fields):
            return None
        if any(kinds[name] != StringType() for name in said):
            return None
        for group in range(file.num_row_groups):
            whole = file.metadata.row_group(group).num_rows
            found += [
                Piece(path, group, begin, min(SLICE, whole - begin), said)
                for begin in range(0, whole, SLICE)
            ]
    return found


def read(piece: Piece, plain: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Columns of a piece; texts, but for those that are to be `plain`, as encoded in the file.

    Raises InfrastructureError (exit 20) for a file that is damaged or gone.
    """
    wanted = tuple(dict.fromkeys((*plain, *columns)))
    held = [name for name in wanted if name not in piece.partition]
    with _opened(piece.path):
        texts = [
            field.name
            for field in pq.read_schema(piece.path)
            if field.name in columns and field.name not in plain and pa.types.is_string(field.type)
        ]
        file = pq.ParquetFile(piece.path, read_dictionary=texts, memory_map=True)
        table = file.read_row_group(piece.group, columns=held).slice(piece.begin, piece.rows)
    for name, value in piece.partition.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), piece.rows))
    return table.select(wanted)


@contextmanager
def _opened(path: str) -> Iterator[None]:
    """Says of a file that can not be read which one it is."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InfrastructureError(
            f"{path} can not be read ({type(error).__name__}): restore it, or load what it holds "
            "anew; a table of the index is made anew by `concord index --whole`"
        ) from None


def scheduled(records: DataFrame, found: Sequence[Piece]) -> DataFrame:
    """A row for each piece, for tasks of TASK rows or more, the largest pieces apart."""
    rows = [astuple(piece) for piece in sorted(found, key=lambda piece: -piece.rows)]
    spark = records.sparkSession
    frame = spark.createDataFrame(rows, SCHEDULED)
    enough = sum(piece.rows for piece in found) // TASK
    tasks = max(enough, spark.sparkContext.defaultParallelism)
    return frame.coalesce(1).repartition(max(1, min(len(rows), tasks)))


def of_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Piece]:
    """The pieces of rows as `scheduled` makes them."""
    for batch in batches:
        for row in batch.to_pylist():
            yield Piece(**{**row, "partition": dict(row["partition"])})


def tables_of(
    records: DataFrame, columns: Sequence[str], *, plain: Sequence[str] = ()
) -> tuple[DataFrame, Callable[[Iterator[pa.RecordBatch]], Iterator[pa.Table]]]:
    """What to send to the workers, and what makes tables of it there: some columns of the records,
    some rows at a time, in any order; texts encoded or not, but for columns that are `plain`."""
    columns = tuple(dict.fromkeys((*plain, *columns)))
    found = pieces(records, columns, lists=True)
    if found is None:
        return records.select(*columns), lambda batches: gathered(batches, SLICE)

    def read_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for piece in of_rows(batches):
            yield read(piece, plain, columns)

    return scheduled(records, found), read_all


def mapped_each(
    records: Sequence[tuple[DataFrame, Callable[[pa.Table], Iterable[pa.RecordBatch]]]],
    columns: Sequence[str],
    schema: str,
    *,
    plain: Sequence[str] = (),
) -> DataFrame:
    """What is made of some columns of each of the records, as `tables_of` gives them, by a `work`
    of its own: rows of `schema`. All that lies in files is scheduled together."""
    columns = tuple(dict.fromkeys((*plain, *columns)))
    works = [work for _, work in records]
    found = [pieces(each, columns, lists=True) for each, _ in records]
    stored = [replace(piece, of=n) for n, some in enumerate(found) for piece in some or ()]

    def of_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for piece in of_rows(batches):
            yield from works[piece.of](read(piece, plain, columns))

    def of_frame(
        work: Callable[[pa.Table], Iterable[pa.RecordBatch]],
    ) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        def made(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for table in gathered(batches, SLICE):
                yield from work(table)

        return made

    sent = [
        each.select(*columns).mapInArrow(of_frame(work), schema)
        for (each, work), some in zip(records, found, strict=True)
        if some is None
    ]
    if stored or not sent:
        sent.append(scheduled(records[0][0], stored).mapInArrow(of_files, schema))
    return reduce(DataFrame.unionByName, sent)


def collected(
    records: DataFrame,
    columns: Sequence[str],
    work: Callable[[pa.Table], pa.Table],
    *,
    plain: Sequence[str] = (),
) -> pa.Table:
    """What `work` makes of some columns of the records, as `tables_of` gives them, in one table."""
    parts = collected_each([(records, work)], columns, plain=plain)
    if parts:
        return pa.concat_tables(parts)
    names = tuple(dict.fromkeys((*plain, *columns)))
    return work(records.select(*names).limit(0).toArrow())


def collected_each(
    records: Iterable[tuple[DataFrame, Callable[[pa.Table], pa.Table]]],
    columns: Sequence[str],
    *,
    plain: Sequence[str] = (),
) -> list[pa.Table]:
    """As `collected`, of several records, each with a `work` of its own: what was made of their
    rows, some at a time; nothing of no rows. By the driver, side by side, where all are in files of
    this machine; else in one query."""
    given = list(records)
    names = tuple(dict.fromkeys((*plain, *columns)))
    found = [_readers(each, plain, names) for each, _ in given]
    if all(readers is not None for readers in found):
        wanted = [
            (reader, work)
            for readers, (_, work) in zip(found, given, strict=True)
            for reader in readers or ()
        ]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            made = pool.map(lambda each: _worked(*each), wanted)
            return [table for table in made if table is not None]

    def telling(
        work: Callable[[pa.Table], pa.Table],
    ) -> Callable[[pa.Table], Iterator[pa.RecordBatch]]:
        def told(table: pa.Table) -> Iterator[pa.RecordBatch]:
            yield pa.record_batch({"blob": pa.array([written(work(table))], pa.binary())})

        return told

    sent = [(each, telling(work)) for each, work in given]
    blobs = mapped_each(sent, columns, "blob binary", plain=plain).toArrow()["blob"]
    return [opened_table(blob.as_buffer()) for blob in blobs]


def _readers(
    records: DataFrame, plain: Sequence[str], names: Sequence[str]
) -> list[Callable[[], pa.Table]] | None:
    """What reads columns of records that are in files or on the driver, some rows each."""
    found = pieces(records, names, lists=True)
    if found is not None:
        return [partial(read, piece, plain, names) for piece in found]
    if _plan(records).getClass().getSimpleName() == "LocalRelation":
        return [records.select(*names).toArrow]
    return None


def _worked(
    reader: Callable[[], pa.Table], work: Callable[[pa.Table], pa.Table]
) -> pa.Table | None:
    rows = reader()
    return work(rows) if rows.num_rows else None


def _plain(field: pa.Field, lists: bool) -> bool:
    kind = field.type
    if lists and pa.types.is_list(kind):
        return bool(pa.types.is_string(kind.value_type))
    return bool(pa.types.is_string(kind) or pa.types.is_date32(kind) or pa.types.is_integer(kind))


def _paths(records: DataFrame) -> dict[str, Mapping[str, str | None]] | None:
    """The files of a frame that is a scan and nothing else, on the disk of the only machine, and
    the values of partitions that the log of a Delta table has for each."""
    frame: Any = records
    if not frame.sparkSession.sparkContext._jsc.sc().isLocal():
        return None
    plan = _plan(frame)
    if plan.getClass().getSimpleName() != "LogicalRelation":
        return None
    relation = plan.relation()
    gateway: Any = frame.sparkSession.sparkContext._gateway
    if not is_instance_of(gateway, relation, FS_RELATION):  # Delta's is one of no name
        return None
    if relation.fileFormat().getClass().getSimpleName() not in FORMATS:
        return None
    location = relation.location()
    if location.getClass().getSimpleName() == "TahoeLogFileIndex":
        places = _of_log(frame, location)
    else:
        places = {unquote(uri): {} for uri in location.inputFiles()}
    if places is None:
        return None
    local = {place: LOCAL.fullmatch(place) for place in places}
    if not all(local.values()):
        return None
    return {each[1]: places[place] for place, each in local.items() if each}


def _plan(frame: Any) -> Any:
    # Not the optimised plan: of a table with partitions Delta would make jobs for it.
    return frame._jdf.queryExecution().withCachedData()


def _of_log(frame: Any, location: Any) -> dict[str, Mapping[str, str | None]] | None:
    """The files of a version of a Delta table and their partitions, by its log; None of a table
    that is more than its files (deletion vectors, columns of other names)."""
    path, version = str(location.path()), location.snapshotAtAnalysis().version()
    held = None
    with suppress(InfrastructureError):  # a log of another kind than Concord's
        held = log.state(Storage(frame.sparkSession), path, version)
    if held is None or held.version != version or held.reader > log.PLAIN_READER:
        return None
    if not location.partitionFilters().isEmpty():
        return None
    return {log.place(path, file): file.partition for file in held.files}
