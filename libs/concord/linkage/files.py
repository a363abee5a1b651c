"""Records that lie in Parquet files on this machine's disk: read by the workers themselves.

Spark turns columns into rows and back into columns on their way to a Python worker, which takes
longer than all that the worker does with them. Where a DataFrame is no more than such files, of
plain Parquet or of a version of a Delta table, and Spark runs on this machine alone, its workers
read them with Arrow. Anything else goes through Spark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

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


def pieces(records: DataFrame, columns: Sequence[str]) -> list[Piece] | None:
    """The pieces that make up `columns` of all records; None where they are not in such files."""
    paths = _paths(records)
    if paths is None:
        return None
    found = []
    for path in paths:
        file = pq.ParquetFile(path)
        names = {*file.schema_arrow.names}
        if not all(name in names and _plain(file.schema_arrow.field(name)) for name in columns):
            return None
        for group in range(file.num_row_groups):
            whole = file.metadata.row_group(group).num_rows
            found += [
                Piece(path, group, begin, min(SLICE, whole - begin))
                for begin in range(0, whole, SLICE)
            ]
    return found


def read(piece: Piece, id: str, columns: Sequence[str]) -> pa.Table:
    """The id and the columns of a piece; texts, but for the id, as they are encoded in the file."""
    texts = [
        field.name
        for field in pq.read_schema(piece.path)
        if field.name in columns and field.name != id and pa.types.is_string(field.type)
    ]
    file = pq.ParquetFile(piece.path, read_dictionary=texts, memory_map=True)
    table = file.read_row_group(piece.group, columns=list(dict.fromkeys((id, *columns))))
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


def _plain(field: pa.Field) -> bool:
    kind = field.type
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
