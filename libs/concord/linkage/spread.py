"""Rows spread over workers, or few that the driver holds: what is done with them is the same.

A function over batches runs where its rows are: to hand tasks to workers takes Spark longer than
the driver takes for few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame

# Rows up to which the driver does all that workers do with records. A guess.
HELD = 20_000
Rows: TypeAlias = DataFrame | pa.Table
Batches: TypeAlias = Iterator[pa.RecordBatch]
KINDS = {
    "int": pa.int32(),
    "bigint": pa.int64(),
    "binary": pa.binary(),
    "array<bigint>": pa.list_(pa.int64()),
}


def mapped(rows: Rows, work: Callable[[Batches], Batches], schema: str) -> Rows:
    """What `work` makes of batches of rows, where they are: rows of `schema`."""
    if isinstance(rows, DataFrame):
        return rows.mapInArrow(work, schema)
    kinds = pa.schema([(name, KINDS[kind]) for name, kind in map(str.split, schema.split(", "))])
    return pa.Table.from_batches([*work(iter(rows.to_batches()))], kinds)


def meeting(sent: Rows, partitions: int, by: str = "target") -> Rows:
    """Rows brought together, each in the partition that its column `by` says. To be mapped right
    after it: mapInArrow asks for no distribution. For one partition nothing travels, and what the
    driver holds is together."""
    if not isinstance(sent, DataFrame):
        return sent
    return sent.repartitionById(partitions, by) if partitions > 1 else sent.coalesce(1)


def here(rows: Rows) -> pa.Table:
    """The rows, on the driver."""
    return rows.toArrow() if isinstance(rows, DataFrame) else rows


def both(one: Rows, other: Rows) -> Rows:
    """The rows of one and of the other; on the driver if all are."""
    if isinstance(one, DataFrame):
        spark = one.sparkSession
        return one.union(other if isinstance(other, DataFrame) else spark.createDataFrame(other))
    return both(other, one) if isinstance(other, DataFrame) else pa.concat_tables([one, other])


def kept(rows: Rows) -> Rows:
    """Rows that are read several times, to be released."""
    return rows.persist(StorageLevel.MEMORY_AND_DISK) if isinstance(rows, DataFrame) else rows


def release(rows: Rows) -> None:
    if isinstance(rows, DataFrame):
        rows.unpersist()
