"""Records that lie in Parquet files on this machine's disk: read by the workers themselves.

Spark turns columns into rows and back into columns on their way to a Python worker, which takes
longer than all that the worker does with them. Where a DataFrame is no more than such files, of
plain Parquet or of a version of a Delta table, and Spark runs on this machine alone, its workers
read them with Arrow. Anything else goes through Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from concord.linkage.blobs import gathered, written
from concord.linkage.blobs import read as opened_table

# Rows that a worker reads at a time, of a row group that may have more.
SLICE = 500_000
FORMATS = ("ParquetFileFormat", "DeltaParquetFileFormat")


@dataclass(frozen=True)
class Piece:
    """Some rows of one row group of one file."""

    path: str
    group: int
    begin: int
    rows: int


def pieces(
    records: DataFrame, columns: Sequence[str], *, lists: bool = False
) -> list[Piece] | None:
    """The pieces that make up `columns` of all records; None where they are not in such files, or
    are of other kinds than texts, dates and whole numbers (and `lists` of texts)."""
    paths = _paths(records)
    if paths is None:
        return None
    found = []
    for path in paths:
        file = pq.ParquetFile(path)
        names = {*file.schema_arrow.names}
        fields = [file.schema_arrow.field(name) for name in columns if name in names]
        if len(fields) < len(columns) or not all(_plain(field, lists) for field in fields):
            return None
        for group in range(file.num_row_groups):
            whole = file.metadata.row_group(group).num_rows
            found += [
                Piece(path, group, begin, min(SLICE, whole - begin))
                for begin in range(0, whole, SLICE)
            ]
    return found


def read(piece: Piece, plain: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Columns of a piece; texts, but for those that are to be `plain`, as encoded in the file."""
    texts = [
        field.name
        for field in pq.read_schema(piece.path)
        if field.name in columns and field.name not in plain and pa.types.is_string(field.type)
    ]
    file = pq.ParquetFile(piece.path, read_dictionary=texts, memory_map=True)
    table = file.read_row_group(piece.group, columns=list(dict.fromkeys((*plain, *columns))))
    return table.slice(piece.begin, piece.rows)


def scheduled(records: DataFrame, found: Sequence[Piece]) -> DataFrame:
    """A row for each piece, each a task of its own: path, group, begin, rows."""
    rows = [(piece.path, piece.group, piece.begin, piece.rows) for piece in found]
    spark = records.sparkSession
    frame = spark.createDataFrame(rows, "path string, group int, begin bigint, rows bigint")
    return frame.repartition(max(len(rows), 1))


def of_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Piece]:
    """The pieces of rows as `scheduled` makes them."""
    for batch in batches:
        for row in batch.to_pylist():
            yield Piece(**row)


def mapped(
    records: DataFrame,
    columns: Sequence[str],
    work: Callable[[pa.Table], Iterable[pa.RecordBatch]],
    schema: str,
    *,
    plain: Sequence[str] = (),
) -> DataFrame:
    """What `work` makes of some columns of the records, some rows at a time: rows of `schema`.

    It gets texts encoded or not, but for the columns that are `plain`; rows in any order.
    """
    columns = tuple(dict.fromkeys((*plain, *columns)))
    found = pieces(records, columns, lists=True)
    if found is None:

        def gather(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for table in gathered(batches, SLICE):
                yield from work(table)

        return records.select(*columns).mapInArrow(gather, schema)

    def read_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for piece in of_rows(batches):
            yield from work(read(piece, plain, columns))

    return scheduled(records, found).mapInArrow(read_all, schema)


def collected(
    records: DataFrame,
    columns: Sequence[str],
    work: Callable[[pa.Table], pa.Table],
    *,
    plain: Sequence[str] = (),
) -> pa.Table:
    """What `work` makes of some columns of the records, as `mapped`, on the driver."""

    def told(table: pa.Table) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"blob": pa.array([written(work(table))], pa.binary())})

    sent = mapped(records, columns, told, "blob binary", plain=plain)
    parts = [opened_table(blob.as_buffer()) for blob in sent.toArrow()["blob"]]
    if parts:
        return pa.concat_tables(parts)
    names = tuple(dict.fromkeys((*plain, *columns)))
    return work(records.select(*names).limit(0).toArrow())


def _plain(field: pa.Field, lists: bool) -> bool:
    kind = field.type
    if lists and pa.types.is_list(kind):
        return bool(pa.types.is_string(kind.value_type))
    return bool(pa.types.is_string(kind) or pa.types.is_date32(kind) or pa.types.is_integer(kind))


def _paths(records: DataFrame) -> list[str] | None:
    """The files of a frame that is a scan and nothing else, on the disk of the only machine."""
    frame: Any = records
    if not frame.sparkSession.sparkContext._jsc.sc().isLocal():
        return None
    plan = frame._jdf.queryExecution().optimizedPlan()
    if plan.getClass().getSimpleName() != "LogicalRelation":
        return None
    relation = plan.relation()
    if relation.getClass().getSimpleName() != "HadoopFsRelation":
        return None
    form = relation.fileFormat()
    if form.getClass().getSimpleName() not in FORMATS or not relation.partitionSchema().isEmpty():
        return None
    paths = []
    for uri in relation.location().inputFiles():
        parts = urlsplit(uri)
        if parts.scheme != "file":
            return None
        paths.append(unquote(parts.path))
    return sorted(paths)
