"""Records that workers read from files themselves are those that Spark reads."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.errors import InfrastructureError
from concord.linkage import blocking, files
from concord.linkage.blobs import ID, opened

pytestmark = pytest.mark.spark

ROWS = [
    (f"r{n}", None if n % 7 == 0 else f"name {n % 5}", date(1980, 1, 1 + n % 28), n % 3)
    for n in range(50)
] + [("r50", None, None, None)]
COLUMNS = ("name", "born", "town")


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    schema = "key string, name string, born date, town int, other string"
    return spark.createDataFrame([(*row, "x") for row in ROWS], schema).repartition(2)


def held(records: DataFrame) -> list[tuple[Any, ...]]:
    """What the blobs hold, all values as texts."""
    blobs = blocking.encoded(records, id="key", columns=COLUMNS, parts=("name",)).toArrow()
    table = opened([blob.as_buffer() for blob in blobs["blob"]])
    assert table[ID].type == pa.string(), "ids go back to Spark as they came"
    found = zip(*(table[name].to_pylist() for name in (ID, *COLUMNS)), strict=True)
    assert sum(blobs["records"].to_pylist()) == table.num_rows
    return sorted(found, key=str)


def test_files_are_read_as_spark_reads_them(
    rows: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sorted(
        ((key, name, born and born.isoformat(), None if town is None else str(town))
         for key, name, born, town in ROWS),
        key=str,
    )  # fmt: skip
    monkeypatch.setattr(files, "SLICE", 10)
    spark, plain, delta = rows.sparkSession, str(tmp_path / "a b"), str(tmp_path / "delta")
    rows.write.parquet(plain)
    rows.where("key = 'r0'").write.format("delta").save(delta)
    rows.write.format("delta").mode("overwrite").save(delta)
    parted = str(tmp_path / "in parts")
    rows.write.format("delta").partitionBy("other").save(parted)
    first = spark.read.format("delta").option("versionAsOf", 0).load(delta)
    read_delta = spark.read.format("delta").load
    for frame in (spark.read.parquet(plain), read_delta(delta), read_delta(parted)):
        found = files.pieces(frame, ("key", "other", *COLUMNS))
        assert found is not None and sum(piece.rows for piece in found) == len(ROWS)
        assert max(piece.rows for piece in found) == 10
        assert held(frame) == wanted
    expected = sorted(({"key": row[0], "other": "x"} for row in ROWS), key=str)
    for here in (True, False):  # by the driver, and by the workers
        if not here:
            monkeypatch.setattr(files, "_readers", lambda *_: None)
        whole = files.collected(read_delta(parted), ("other",), lambda table: table, plain=("key",))
        assert sorted(whole.to_pylist(), key=str) == expected
    assert held(first) == [row for row in wanted if row[0] == "r0"]
    assert held(rows) == wanted, "what is in no file goes through Spark"


def test_a_frame_that_is_more_than_its_files_goes_through_spark(
    rows: DataFrame, tmp_path: Path
) -> None:
    spark, plain, parted = rows.sparkSession, str(tmp_path / "plain"), str(tmp_path / "parted")
    rows.withColumn("when", F.current_timestamp()).write.parquet(plain)
    rows.write.partitionBy("town").parquet(parted)
    frame, in_parts = spark.read.parquet(plain), spark.read.parquet(parted)
    assert files.pieces(frame, ("key",)) is not None
    assert files.pieces(in_parts, ("key",)) is not None
    assert files.pieces(in_parts, ("key", "town")) is None, "a folder's name says it"
    cached = spark.read.parquet(plain).cache()
    others = {
        "filtered": frame.where("town = 1"),
        "renamed": frame.withColumn("key", F.upper("key")),
        "cached": cached,
    }
    for why, other in others.items():
        assert files.pieces(other, ("key",)) is None, why
    assert files.pieces(frame, ("key", "when")) is None, "Spark writes times in its own way"
    cached.unpersist()
    deleted = str(tmp_path / "deleted")
    rows.write.format("delta").option("delta.enableDeletionVectors", "true").save(deleted)
    spark.sql(f"DELETE FROM delta.`{deleted}` WHERE town = 1")
    assert list(Path(deleted).glob("deletion_vector*")), "rows are gone without their files"
    less = spark.read.format("delta").load(deleted)
    assert files.pieces(less, ("key",)) is None
    assert sorted(row[0] for row in held(less)) == sorted(row[0] for row in ROWS if row[3] != 1)
    assert len(held(others["filtered"])) == sum(row[3] == 1 for row in ROWS)


def test_a_file_that_can_not_be_read_is_named(rows: DataFrame, tmp_path: Path) -> None:
    spark, place = rows.sparkSession, tmp_path / "plain"
    rows.coalesce(1).write.parquet(str(place))
    frame = spark.read.parquet(str(place))
    (file,) = place.glob("*.parquet")
    (piece,) = files.pieces(frame, ("key",)) or ()
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + b"\0" * 200 + whole[204:])
    with pytest.raises(InfrastructureError, match=f"{file.name} can not be read"):
        files.read(piece, (), ("key", *COLUMNS))
    file.write_bytes(whole[:40])
    with pytest.raises(InfrastructureError, match=f"{file.name} can not be read") as told:
        files.collected(frame, ("key",), lambda table: table)
    assert told.value.exit_code == 20 and "concord index --whole" in str(told.value)
    file.unlink()
    with pytest.raises(InfrastructureError, match=f"{file.name} can not be read"):
        files.collected(frame, ("key",), lambda table: table)
