"""What the catalogue tells of tables, read from their logs, is what Spark finds in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from concord.errors import UsageError
from concord.lake import catalog
from concord.lake.locks import Locks
from concord.lake.log import state
from concord.lake.storage import Storage
from concord.lake.tables import Lake
from concord.lake.zones import Zones


def lake_at(spark: SparkSession, root: str) -> Lake:
    locks = Locks.of(spark, root, 60, job="catalog", run_id="t", actor="t")
    return Lake(spark, root, locks=locks, lock_wait=0, zones=Zones("catalog"))


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path, quick: None) -> str:
    """A table with appends, a delete, an overwrite and checkpoints between; one of a study."""
    path = f"{tmp_path}/curated/many"
    rows = spark.range(10).withColumnRenamed("id", "number")
    for n in range(5):
        rows.where(f"number > {n}").write.format("delta").mode("append").save(path)
        if n == 0:
            spark.sql(
                f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES "
                "('delta.checkpointInterval' = '3', 'concord.agreements' = 'MOU-2018-0001')"
            )
    spark.sql(f"DELETE FROM delta.`{path}` WHERE number = 7")
    rows.limit(3).write.format("delta").mode("append").save(path)
    rows.limit(4).write.format("delta").save(f"{tmp_path}/studies/DULA-2026-0001/few")
    (tmp_path / "vault/_work/folder").mkdir(parents=True)
    return str(tmp_path)


def test_rows_versions_and_labels_are_those_of_the_tables(spark: SparkSession, lake: str) -> None:
    many, few = catalog.entries(lake_at(spark, lake))
    assert list(Path(many.path, "_delta_log").glob("*.checkpoint.parquet"))
    assert (many.table, few.table) == ("curated/many", "studies/DULA-2026-0001/few")
    for entry in (many, few):
        assert entry.rows == spark.read.format("delta").load(entry.path).count()
    assert many.version == 7
    assert many.agreements == "MOU-2018-0001"
    assert few.agreements == ""


def test_columns_are_shown_but_rows_of_people_never(spark: SparkSession, lake: str) -> None:
    shown = catalog.shown(lake_at(spark, lake), "curated/many", rows=5)
    assert [column["name"] for column in shown.columns] == ["number"]
    assert shown.columns[0]["type"] == "long"
    assert shown.sample == ()
    spark.range(2).write.format("delta").save(f"{lake}/products/of_nobody")
    assert len(catalog.shown(lake_at(spark, lake), "products/of_nobody", rows=1).sample) == 1


def test_a_table_that_is_not_there_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no table 'curated/none'"):
        catalog.shown(lake_at(spark, str(tmp_path)), "curated/none", rows=1)
    assert state(Storage(spark), str(tmp_path)) is None
