"""Rows that Python workers make as tables in Arrow, or many that the driver holds as one, stored as
files by whoever has them.

Spark turns such columns into rows, and those into columns again, to write them: that takes longer
than all that the workers did. Where the lake lies on this machine's disk and Spark runs here alone,
they write the files of a commit, and the driver makes it (`lake/driver.py`). Anywhere else the rows
go through Spark.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame

from concord.lake.log import File
from concord.lake.registry import Table
from concord.lake.statistics import bounds

# Of rows that the driver holds: in one file, and how many files are written side by side.
IN_A_FILE, AT_ONCE = 500_000, 2
# Rows of a row group: who reads some of them reads all (`linkage/files.py`). Bytes of a dictionary.
GROUP, DICTIONARY = 500_000, 1 << 26


@dataclass(frozen=True)
class Made:
    """What `make` makes of a frame's batches, some rows at a time: at least the columns of the
    table that they are for, texts encoded or not. And `more`."""

    frame: DataFrame
    make: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.Table]]
    more: Made | pa.Table | None = None

    def rows(self, table: Table) -> DataFrame:
        """The same as rows of Spark's."""
        schema = table.arrow_schema

        def told(made: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
            for some in made:
                yield from some.select(schema.names).cast(schema).to_batches()

        mine = self.told(told, ", ".join(f"{each.name} {each.type}" for each in table.columns))
        held = self.held
        if held is None or not held.num_rows:
            return mine
        more = held.select(schema.names).cast(schema)
        return mine.unionByName(self.frame.sparkSession.createDataFrame(more))

    @property
    def held(self) -> pa.Table | None:
        """The rows among them that the driver holds."""
        return self.more.held if isinstance(self.more, Made) else self.more

    def told(
        self, tell: Callable[[Iterator[pa.Table]], Iterator[pa.RecordBatch]], schema: str
    ) -> DataFrame:
        """What a worker tells of what it makes, as rows of `schema`; nothing of what the driver
        holds."""
        make = self.make
        mine = self.frame.mapInArrow(lambda batches: tell(make(batches)), schema)
        more = self.more
        return mine.unionByName(more.told(tell, schema)) if isinstance(more, Made) else mine

    def stored(self, folder: Path, table: Table) -> list[File]:
        """The rows as files in a local folder, one for each task that has any."""
        place, schema, hashes = str(folder), table.arrow_schema, table.hashes

        def store(made: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
            context: Any = TaskContext.get()
            name = f"part-{context.partitionId():05d}-{uuid.uuid4()}-c000.snappy.parquet"
            if _stored(f"{place}/{name}", made, schema, hashes):
                yield pa.record_batch({"name": pa.array([name])})

        names = sorted(self.told(store, "name string").toArrow()["name"].to_pylist())
        files = [_file(folder, name, table) for name in names]
        return files + (stored(self.held, folder, table) if self.held is not None else [])


def stored(rows: pa.Table, folder: Path, table: Table) -> list[File]:
    """Rows that the driver holds as files in a local folder."""
    schema = table.arrow_schema

    def store(begin: int) -> File:
        name = f"part-{begin // IN_A_FILE:05d}-{uuid.uuid4()}-c000.snappy.parquet"
        some = rows.slice(begin, IN_A_FILE)
        _stored(f"{folder}/{name}", iter([some]), schema, table.hashes)
        return _file(folder, name, table)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [*pool.map(store, range(0, rows.num_rows, IN_A_FILE))]


def _file(folder: Path, name: str, table: Table) -> File:
    held = pq.read_metadata(folder / name)
    told = bounds(held, table.statistics)
    return File(name, held.num_rows, (folder / name).stat().st_size, {}, told)


def _stored(path: str, made: Iterator[pa.Table], schema: pa.Schema, hashes: Sequence[str]) -> bool:
    """Writes a file of rows that come some at a time, if there are any; whether there were.
    `hashes`: as in Table."""
    leaves = {_leaf(field): field.name in hashes for field in schema}
    others = [leaf for leaf, is_hash in leaves.items() if not is_hash]
    how = {
        "compression": {leaf: "none" if is_hash else "snappy" for leaf, is_hash in leaves.items()},
        "use_dictionary": others,
        # Whole columns by their dictionaries: a reader that wants them so need not make them.
        "dictionary_pagesize_limit": DICTIONARY,
        "write_statistics": others,
    }
    writer = None
    try:
        for rows in made:
            if rows.num_rows:
                writer = writer or pq.ParquetWriter(path, schema, store_schema=False, **how)
                writer.write_table(rows.select(schema.names).cast(schema), row_group_size=GROUP)
        if writer:
            writer.close()
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return writer is not None


def _leaf(field: pa.Field) -> str:
    """What Parquet calls the column of a field's values."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)
