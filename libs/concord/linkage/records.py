"""Rows of the vault's identifiers -> rows of vault/linkage_records, by the workers."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from concord.linkage import inputs, tables
from concord.linkage.standardise import Standards, standardise

STANDARDISED = ", ".join(f"{column.name} {column.type}" for column in tables.RECORDS.columns)


def standardised(rows: DataFrame, standards: Standards, partitions: int) -> DataFrame:
    """Rows as `inputs.read` gives them -> ORIGIN, `variant`, `said` and STANDARD."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        arrived = list(batches)
        if arrived:
            each = pa.Table.from_batches(arrived)
            yield from _with_said(standardise(each, standards), each).to_batches()

    # A record's rows must be together; mapInArrow itself asks for no distribution.
    return rows.repartition(partitions, "record_id").mapInArrow(work, STANDARDISED)


def _with_said(rows: pa.Table, sources: pa.Table) -> pa.Table:
    """Adds what `inputs.said` says of each record, after `variant`."""
    each = sources.group_by(["record_id", inputs.SAID], use_threads=False).aggregate([])
    whole = each.group_by("record_id", use_threads=False).aggregate([(inputs.SAID, "sum")])
    at = pc.index_in(rows["record_id"], value_set=whole["record_id"].combine_chunks())
    place = rows.column_names.index("variant") + 1
    return rows.add_column(place, inputs.SAID, whole[f"{inputs.SAID}_sum"].take(at))
