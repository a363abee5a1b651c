"""What a write to the lake leaves behind: rows, log, history, and nothing of it twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deltalake
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.errors import ConcordError, InfrastructureError
from concord.lake import log as delta_log
from concord.lake.locks import Locks
from concord.lake.registry import READER_SAFE, Column, Table
from concord.lake.scd2 import OPERATION
from concord.lake.tables import MAKING, Lake
from concord.lake.writes import (
    Append,
    Changes,
    How,
    Merge,
    Overwrite,
    ReplaceWhere,
    Stamp,
    Transaction,
    Written,
    isin,
)
from concord.lake.zones import Zones
from tests.feeds import LABELS

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("quick")]

STAMP = Stamp(run_id="run-7", job="ingest", code_version="1.2.3", agreements=("MOU-2018-0001",))
NAME = "Quillfeather"

CLIENTS = Table(
    name="curated/clients",
    columns=(
        Column("client", "string", "the agency's number"),
        Column("name", "string", classification="restricted", identifier_role="direct"),
        Column("amount", "int"),
        Column("_period", "string"),
        Column("_sequence", "bigint"),
    ),
    key=("client",),
    owner="tests",
    description="Clients of a small agency.",
    statistics=("_period", "_sequence"),
)

Row = tuple[str, str, int | None, str, int]


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return lake_at(spark, tmp_path)


def lake_at(spark: SparkSession, root: Path) -> Lake:
    """A lake as a new job sees it, with nothing looked at yet."""
    locks = Locks.of(spark, str(root), 60, job="ingest", run_id="run-7", actor="tester")
    return Lake(spark, str(root), locks=locks, lock_wait=5, zones=Zones("ingest"))


def frame(lake: Lake, rows: Sequence[Row], table: Table = CLIENTS) -> DataFrame:
    return lake.spark.createDataFrame(list(rows), table.schema)


def client(number: int, period: str = "2025-05", sequence: int = 1, amount: int = 0) -> Row:
    return (f"c{number}", f"Person {number}", amount, period, sequence)


def write(
    lake: Lake,
    rows: Sequence[Row] | DataFrame,
    how: How,
    sequence: int | None = None,
    table: Table = CLIENTS,
    labels: Mapping[str, str] | None = None,
    stamp: Stamp = STAMP,
    few: bool = False,
) -> Written:
    return lake.write(
        rows if isinstance(rows, DataFrame) else frame(lake, rows, table),
        table,
        how,
        stamp=stamp,
        transaction=None if sequence is None else Transaction("ingest/clients", sequence),
        labels={**LABELS, **(labels or {})},
        few=few,
    )


def held(lake: Lake, table: Table = CLIENTS) -> list[tuple]:
    """A table's rows as Concord reads a small one, which must be as it reads one that is not, and
    as Delta does."""
    found = sorted(tuple(row) for row in lake.read(table).collect())
    if lake.exists(table):
        delta = lake.spark.read.format("delta").load(lake.path(table))
        for other in (by_files(lake, table), delta):
            assert sorted(tuple(row) for row in other.collect()) == found
    return found


def by_files(lake: Lake, table: Table = CLIENTS, version: int | None = None) -> DataFrame:
    """A table's rows as Concord reads one of some size."""
    with patch.object(delta_log, "MOST_STORED", -1):
        return lake.read(table, version=version)


def log(lake: Lake, table: Table = CLIENTS) -> list[dict[str, Any]]:
    """Every action of the table's Delta log, in order."""
    folder = Path(lake.path(table)) / "_delta_log"
    return [json.loads(line) for path in sorted(folder.glob("*.json")) for line in path.open()]


def notes(lake: Lake, table: Table = CLIENTS) -> list[str | None]:
    """Each commit's userMetadata, in order of versions."""
    return [a["commitInfo"].get("userMetadata") for a in log(lake, table) if "commitInfo" in a]


def properties(lake: Lake, table: Table = CLIENTS) -> dict[str, str]:
    """The table's latest properties, as they stand in its log."""
    found = [a["metaData"]["configuration"] for a in log(lake, table) if "metaData" in a]
    return found[-1]


@pytest.mark.parametrize(
    ("how", "few"),
    [
        (Append(), False),
        (Merge(newer=("_sequence",)), False),
        (Append(), True),
        (Overwrite(), True),
    ],
    ids=["append", "merge", "append few", "overwrite with few"],
)
def test_a_repeated_transaction_is_skipped_and_says_which_version_holds_it(
    lake: Lake, how: How, few: bool
) -> None:
    first = write(lake, [client(1)], how, sequence=1, few=few)
    # The same transaction with rows that differ: were it applied, it would show.
    rerun = replace(STAMP, run_id="run-8")
    again = write(lake, [client(3, sequence=9)], how, sequence=1, stamp=rerun, few=few)

    assert (first.applied, again.applied) == (True, False)
    assert first.version == again.version == lake.version(CLIENTS)
    assert held(lake) == [client(1)]


def test_a_transaction_repeated_by_the_same_run_is_skipped_and_says_so(lake: Lake) -> None:
    """A rerun of a killed job has the same run id."""
    first = write(lake, [client(1)], Append(), sequence=1)
    again = write(lake, [client(2)], Append(), sequence=1)

    assert held(lake) == [client(1)]
    assert (again.version, again.applied) == (first.version, False)


def test_a_transaction_repeated_after_others_finds_the_version_that_holds_it(lake: Lake) -> None:
    first = write(lake, [client(1)], Append(), sequence=1)
    lake.write(
        frame(lake, [client(2)]),
        CLIENTS,
        Append(),
        stamp=STAMP,
        transaction=Transaction("ingest/others", 1),
        labels=LABELS,
    )
    again = write(lake, [client(3)], Append(), sequence=1)

    assert (again.applied, again.version) == (False, first.version)
    assert held(lake) == [client(1), client(2)]


@pytest.mark.parametrize("few", [False, True])
def test_a_transaction_that_goes_backwards_is_an_error_and_writes_nothing(
    lake: Lake, few: bool
) -> None:
    write(lake, [client(1)], Append(), sequence=5)

    with pytest.raises(ConcordError, match="backwards") as wrong:
        write(lake, [client(2)], Append(), sequence=3, few=few)

    assert not isinstance(wrong.value, InfrastructureError)
    assert held(lake) == [client(1)]


def test_every_commit_of_rows_says_where_it_came_from_and_a_merge_leaves_nothing_behind(
    lake: Lake,
) -> None:
    """A merge's settings, left behind, would give the next write its transaction: rows lost."""
    write(lake, [client(1)], Merge(), sequence=1)
    write(lake, [client(2)], Append())
    write(lake, [client(3)], Merge())

    assert held(lake) == [client(1), client(2), client(3)]
    for note, sequence in zip(notes(lake), (1, None, None), strict=True):
        said = json.loads(note or "{}")
        assert (said["run_id"], said["job"], said["code_version"]) == ("run-7", "ingest", "1.2.3")
        assert said["agreements"] == ["MOU-2018-0001"]
        assert said.get("version") == sequence


def test_replacing_some_rows_leaves_the_others(lake: Lake) -> None:
    write(lake, [client(1), client(2), client(3, period="2025-06")], Append())

    write(lake, [client(4, amount=7)], ReplaceWhere({"_period": ("2025-05",)}))

    assert held(lake) == [client(3, period="2025-06"), client(4, amount=7)]


@pytest.mark.parametrize("before", [[client(1)], []], ids=["some", "none"])
def test_replacing_refuses_rows_outside_the_condition(lake: Lake, before: list[Row]) -> None:
    if before:
        write(lake, before, Append())

    with pytest.raises(InfrastructureError):
        write(lake, [client(2, period="2025-06")], ReplaceWhere({"_period": ("2025-05",)}))

    assert held(lake) == before


@pytest.mark.parametrize("few", [False, True])
def test_overwriting_leaves_only_the_new_rows_and_the_old_version_can_be_read(
    lake: Lake, few: bool
) -> None:
    first = write(lake, [client(1), client(2)], Append(), few=few)

    write(lake, [client(3)], Overwrite(), few=few)

    assert held(lake) == [client(3)]
    by_spark = lake.spark.read.format("delta").option("versionAsOf", first.version)
    for earlier in (
        lake.read(CLIENTS, version=first.version),
        by_files(lake, version=first.version),
        by_spark.load(lake.path(CLIENTS)),
    ):
        assert sorted(tuple(row) for row in earlier.collect()) == [client(1), client(2)]


def test_a_table_of_some_size_is_read_by_its_files_and_one_with_more_to_heed_by_delta(
    lake: Lake,
) -> None:
    write(lake, [client(1), client(2)], Append())

    def scans(table: DataFrame) -> str:
        scan = table._jdf.queryExecution().optimizedPlan().collectLeaves().apply(0)
        return scan.relation().location().getClass().getSimpleName()

    plain, table = by_files(lake), f"delta.`{lake.path(CLIENTS)}`"
    assert scans(plain) == "InMemoryFileIndex"
    assert plain.schema == lake.spark.read.format("delta").load(lake.path(CLIENTS)).schema
    lake.spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.enableDeletionVectors' = true)")
    lake.spark.sql(f"DELETE FROM {table} WHERE client = 'c1'")
    assert scans(by_files(lake)) != "InMemoryFileIndex"
    assert held(lake) == [client(2)]


def test_a_version_that_is_not_there_is_no_other_version(lake: Lake) -> None:
    write(lake, [client(1)], Append())
    with pytest.raises(AnalysisException):
        lake.read(CLIENTS, version=9).collect()
    with pytest.raises(AnalysisException):
        by_files(lake, version=9).collect()


def test_few_rows_at_a_time_make_a_log_with_checkpoints_that_all_read(lake: Lake) -> None:
    """Delta makes the checkpoints; what the driver commits between adds up with them."""
    for number in range(12):
        write(lake, [client(number)], Append(), sequence=number + 1, few=True)
    write(lake, [client(12)], Merge(), sequence=13)
    write(lake, [client(13)], Append(), sequence=14, few=True)

    assert held(lake) == sorted(client(number) for number in range(14))
    assert deltalake.DeltaTable(lake.path(CLIENTS)).to_pyarrow_table().num_rows == 14
    names = {path.name for path in (Path(lake.path(CLIENTS)) / "_delta_log").iterdir()}
    assert f"{10:020d}.checkpoint.parquet" in names
    assert engines(lake) == [*["Concord"] * 12, "Apache-Spark", "Concord"]
    history = lake.spark.sql(f"DESCRIBE HISTORY delta.`{lake.path(CLIENTS)}`").collect()
    assert [row["version"] for row in history] == list(range(13, -1, -1))
    assert write(lake, [client(99)], Append(), sequence=11, few=True).applied is False


def engines(lake: Lake, table: Table = CLIENTS) -> list[str]:
    """Who made each commit."""
    found = [a["commitInfo"]["engineInfo"] for a in log(lake, table) if "commitInfo" in a]
    return [engine.split("/")[0] for engine in found]


def test_few_rows_find_their_partitions_and_a_value_that_no_folder_is_called_goes_by_spark(
    lake: Lake,
) -> None:
    parted = replace(CLIENTS, name="curated/parted", partition_by=("_period",))
    rows = [client(1, "2025-04"), client(2, "2025-05"), client(3, "2025-05")]

    first = write(lake, rows, Append(), sequence=1, table=parted, few=True)
    write(lake, [client(4, "2025-06")], Append(), sequence=2, table=parted, few=True)
    odd = ("c5", "Person 5", 0, "May: 2025", 1)
    write(lake, [odd, (*client(6)[:3], None, 1)], Append(), sequence=3, table=parted, few=True)
    instead = ReplaceWhere({"_period": ("2025-05",)})
    write(lake, [client(7, "2025-05")], instead, sequence=4, table=parted, few=True)

    assert first.version == 0 and engines(lake, parted) == [
        "Concord", "Concord", "Apache-Spark", "Concord",
    ]  # fmt: skip
    found = {tuple(row) for row in lake.read(parted).collect()}
    kept = {client(1, "2025-04"), client(4, "2025-06"), client(7, "2025-05"), odd}
    assert found == {*kept, (*client(6)[:3], None, 1)}
    delta = lake.spark.read.format("delta").load(lake.path(parted))
    assert {tuple(row) for row in delta.select(*CLIENTS.column_names).collect()} == found
    by_arrow = deltalake.DeltaTable(lake.path(parted)).to_pyarrow_table()
    assert sorted(by_arrow["client"].to_pylist()) == sorted(row[0] for row in found)
    assert delta.where("_period = '2025-04'").inputFiles()[0].split("/")[-2] == "_period=2025-04"


def test_rows_that_are_many_are_not_the_optimiser_s_to_go_through(lake: Lake) -> None:
    write(lake, [client(1), client(2)], Append(), sequence=1)

    def plan() -> str:
        frame: Any = lake.read(CLIENTS)
        assert frame.count() == 2
        return str(frame._jdf.queryExecution().analyzed().getClass().getSimpleName())

    assert plan() == "LocalRelation"
    with patch.object(delta_log, "MOST_ROWS", 1):
        assert plan() == "LogicalRelation"


def test_rows_are_held_for_a_write_and_what_they_fail_with_is_not_quoted(lake: Lake) -> None:
    rows = lake.spark.range(3).select(F.col("id"))
    with lake.held(rows, CLIENTS) as (made, number):
        assert number == made.count() == 3 and made.is_cached
    assert not made.is_cached
    failing = rows.select(F.raise_error(F.lit(NAME)).alias("name"))
    with pytest.raises(InfrastructureError, match="curated/clients") as failed:
        with lake.held(failing, CLIENTS):
            pass
    assert NAME not in str(failed.value)


def test_few_rows_are_in_the_change_feed_as_delta_s_own_are(lake: Lake) -> None:
    fed = replace(
        CLIENTS, name="curated/fed", partition_by=("_period",),
        properties={"delta.enableChangeDataFeed": "true"},
    )  # fmt: skip
    write(lake, [client(1), client(2)], Append(), sequence=1, table=fed, few=True)
    write(lake, [client(3)], Append(), sequence=2, table=fed, few=True)
    write(lake, [client(1, amount=5)], Merge(), sequence=3, table=fed, few=True)
    write(lake, [client(4)], Overwrite(), sequence=4, table=fed, few=True)

    assert engines(lake, fed) == ["Concord"] * 4
    feed = lake.spark.read.format("delta").options(readChangeFeed=True, startingVersion=0)
    told = feed.load(lake.path(fed)).select("_commit_version", "_change_type", "client").collect()
    assert sorted(tuple(row) for row in told) == [
        (0, "insert", "c1"),
        (0, "insert", "c2"),
        (1, "insert", "c3"),
        (2, "update_postimage", "c1"),
        (2, "update_preimage", "c1"),
        *[(3, "delete", f"c{number}") for number in (1, 2, 3)],
        (3, "insert", "c4"),
    ]


@pytest.mark.parametrize(
    "how", [Merge(newer=("_sequence",)), ReplaceWhere({"_period": ("2025-05",)})]
)
def test_a_table_s_first_few_rows_take_no_query_whatever_is_done_with_the_next(
    lake: Lake, how: How
) -> None:
    write(lake, [client(1), client(2)], how, sequence=1, few=True)
    write(lake, [client(2, sequence=2, amount=5), client(3)], how, sequence=2, few=True)

    assert engines(lake) == ["Concord"] * 2
    merged = [client(1)] if isinstance(how, Merge) else []
    assert held(lake) == [*merged, client(2, sequence=2, amount=5), client(3)]


def test_who_comes_second_to_a_version_commits_the_next_one(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lake, [client(1)], Append(), few=True)
    commit, met = lake.storage.commit, []

    def late(path: str, lines: Sequence[str]) -> bool:
        if not met:
            met.append(path)
            write(lake_at(lake.spark, Path(lake.root)), [client(2)], Append(), few=True)
        return commit(path, lines)

    monkeypatch.setattr(lake.storage, "commit", late)
    write(lake, [client(3)], Append(), few=True)

    assert met
    assert held(lake) == [client(1), client(2), client(3)]
    files = {file.name for file in Path(lake.path(CLIENTS)).glob("*.parquet")}
    committed = {a["add"]["path"] for a in log(lake) if "add" in a}
    assert files == committed, "what was not committed is not left"


def test_a_store_that_took_a_commit_and_says_it_was_there_loses_and_doubles_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an object store whose first answer was lost: the second try finds the first's file."""
    write(lake, [client(1)], Append(), few=True)
    commit = lake.storage.commit

    def unsure(path: str, lines: Sequence[str]) -> bool:
        commit(path, lines)
        return False

    monkeypatch.setattr(lake.storage, "commit", unsure)
    write(lake, [client(2)], Append(), few=True)

    assert held(lake) == [client(1), client(2)]
    history = lake.spark.sql(f"DESCRIBE HISTORY delta.`{lake.path(CLIENTS)}`").collect()
    assert len(history) == 2


def test_a_value_in_a_condition_is_a_value_whatever_it_holds(spark: SparkSession) -> None:
    odd = ["it's", 'say "x"', "back\\slash", "a') OR ('1'='1", "%", "plain"]
    rows = spark.createDataFrame([(text,) for text in [*odd, "another"]], "text string")
    assert [row[0] for row in rows.where(isin("text", odd)).collect()] == odd


def test_a_merge_never_goes_back_in_period_and_sequence(lake: Lake) -> None:
    how = Merge(newer=("_period", "_sequence"))
    write(lake, [client(n, period="2025-05", sequence=5) for n in range(1, 7)], how, sequence=1)

    incoming = [
        client(1, "2025-04", 9, amount=1),  # an earlier period, sent later
        client(2, "2025-05", 4, amount=1),  # the same period, an earlier delivery
        client(3, "2025-05", 5, amount=1),  # neither newer
        client(4, "2025-05", 6, amount=1),  # the same period, a later delivery
        client(5, "2025-06", 1, amount=1),  # a later period
        client(7, "2025-01", 1, amount=1),  # new here
    ]
    write(lake, incoming, how, sequence=2)

    assert {row[0] for row in held(lake) if row[2] == 1} == {"c4", "c5", "c7"}
    assert len(held(lake)) == 7


def test_changes_put_and_delete_by_key(lake: Lake) -> None:
    write(lake, [client(1), client(2), client(3)], Append())
    changes = [
        (client(1), "delete"),
        (client(2, amount=5), "put"),
        (client(4), "put"),
        (client(5), "delete"),  # was never there
    ]
    rows = lake.spark.createDataFrame(
        [(*row, operation) for row, operation in changes],
        CLIENTS.schema.add(OPERATION, "string"),
    )

    written = write(lake, rows, Changes(), sequence=1)

    assert written.applied
    assert held(lake) == [client(2, amount=5), client(3), client(4)]


def test_changes_to_a_table_that_is_only_made_yet_put_and_forget_what_they_delete(
    lake: Lake,
) -> None:
    rows = lake.spark.createDataFrame(
        [(*client(1), "put"), (*client(2), "delete")], CLIENTS.schema.add(OPERATION, "string")
    )
    written = write(lake, rows, Changes(), sequence=1)

    assert (written.applied, held(lake)) == (True, [client(1)])


def without_a_log(lake: Lake) -> list[Path]:
    """A table's files as a kill before its first commit leaves them."""
    write(lake_at(lake.spark, Path(lake.root)), [client(1)], Append())
    shutil.rmtree(Path(lake.path(CLIENTS)) / "_delta_log")
    return sorted(Path(lake.path(CLIENTS)).iterdir())


def test_what_a_kill_left_of_a_table_s_making_is_not_in_the_table(lake: Lake) -> None:
    left = without_a_log(lake)
    assert left
    lake.storage.write(f"{lake.root}/{MAKING}/{CLIENTS.name}", b"")

    write(lake, [client(2)], Append(), sequence=1)

    assert held(lake) == [client(2)]
    assert not any(file.exists() for file in left)
    assert not list((Path(lake.root) / MAKING).rglob("clients"))


def test_files_whose_log_was_lost_are_not_taken_for_what_a_kill_left(lake: Lake) -> None:
    left = without_a_log(lake)

    for _ in range(2):
        with pytest.raises(InfrastructureError, match="writing failed"):
            write(lake, [client(2)], Append(), sequence=1)

    assert all(file.exists() for file in left)


def test_a_merge_into_a_table_copied_with_its_rows_meets_them(lake: Lake, tmp_path: Path) -> None:
    """A restored copy begins, as a new table does, with version 0; but it has rows."""
    write(lake, [client(1), client(2)], Append())
    copy = lake_at(lake.spark, tmp_path / "restored")
    lake.spark.sql(
        f"CREATE TABLE delta.`{copy.path(CLIENTS)}` SHALLOW CLONE delta.`{lake.path(CLIENTS)}`"
    )
    write(copy, [client(2, sequence=2, amount=7)], Merge(newer=("_sequence",)))

    assert held(copy) == [client(1), client(2, sequence=2, amount=7)]


def test_the_commits_that_make_and_alter_a_table_say_their_run_too(
    lake: Lake, tmp_path: Path
) -> None:
    write(lake, [client(1)], Append())
    write(lake_at(lake.spark, tmp_path), [client(2)], Append(), labels={"concord.owner": "new"})

    assert [json.loads(note or "{}").get("run_id") for note in notes(lake)] == ["run-7"] * 3


@pytest.fixture
def hostile_defaults(spark: SparkSession) -> Iterator[None]:
    """A cluster whose defaults turn on what other readers fail on."""
    defaults = {
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "true",
        "spark.databricks.delta.properties.defaults.columnMapping.mode": "name",
        "spark.databricks.delta.properties.defaults.checkpointPolicy": "v2",
        "spark.databricks.delta.properties.defaults.enableTypeWidening": "true",
    }
    for name, value in defaults.items():
        spark.conf.set(name, value)
    yield
    for name in defaults:
        spark.conf.unset(name)


def test_a_table_s_properties_are_the_declared_ones_whatever_the_session_s_defaults(
    lake: Lake, hostile_defaults: None
) -> None:
    table = replace(CLIENTS, properties={"delta.appendOnly": "false"}, retention_days=45)

    write(lake, [client(1)], Append(), table=table, labels={"concord.purposes": "it's research"})

    found = properties(lake)
    expected = {
        **READER_SAFE,
        "delta.dataSkippingStatsColumns": "_period,_sequence",
        "delta.logRetentionDuration": "interval 45 days",
        "delta.deletedFileRetentionDuration": "interval 45 days",
        "delta.appendOnly": "false",
        "concord.purposes": "it's research",
    }
    assert {name: found.get(name) for name in expected} == expected
    protocol = [action["protocol"] for action in log(lake) if "protocol" in action][-1]
    assert protocol["minReaderVersion"] == 1
    assert not protocol.get("readerFeatures")


def test_the_log_holds_no_value_of_a_column_without_statistics(lake: Lake) -> None:
    secret = ("c-secret", NAME, 40, "2025-05", 1)
    write(lake, [secret, client(1)], Append(), sequence=1)
    write(lake, [("c-secret", NAME, 41, "2025-05", 2)], Merge(("_sequence",)), sequence=2)
    few = replace(CLIENTS, name="curated/few")
    write(lake, [secret], Append(), table=few, few=True)
    no_statistics = replace(CLIENTS, name="curated/plain", statistics=())
    write(lake, [secret], Append(), table=no_statistics)

    named_ones = {"_period", "_sequence"}
    for table, allowed in ((CLIENTS, named_ones), (no_statistics, set()), (few, named_ones)):
        stats = [json.loads(a["add"]["stats"]) for a in log(lake, table) if "add" in a]
        assert stats
        for found in stats:
            named = {*found.get("minValues", {}), *found.get("maxValues", {})}
            assert named == allowed
        for path in (Path(lake.path(table)) / "_delta_log").rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert NAME.encode() not in content, path.name
                assert b"c-secret" not in content, path.name


def test_a_table_that_was_never_written_reads_as_an_empty_one(lake: Lake) -> None:
    rows = lake.read(CLIENTS)

    assert rows.columns == CLIENTS.column_names
    assert rows.collect() == []
    assert lake.version(CLIENTS) is None
    assert not lake.exists(CLIENTS)
    assert lake.applied(CLIENTS, Transaction("ingest/clients", 1)) is None


@pytest.mark.parametrize(
    ("how", "few"), [(Append(), False), (Append(), True), (Merge(), False)],
    ids=["append", "append few", "merge"],
)  # fmt: skip
def test_a_row_that_breaks_a_constraint_is_not_quoted(lake: Lake, how: How, few: bool) -> None:
    lake.create(CLIENTS, LABELS, stamp=STAMP)
    place = f"delta.`{lake.path(CLIENTS)}`"
    lake.spark.sql(f"ALTER TABLE {place} ADD CONSTRAINT named CHECK (name <> '{NAME}')")
    before = lake.version(CLIENTS)

    with pytest.raises(InfrastructureError, match="curated/clients") as failed:
        write(lake, [("c1", NAME, 1, "2025-05", 1)], how, few=few)

    assert NAME not in str(failed.value)
    assert failed.value.exit_code == 20
    assert failed.value.__suppress_context__
    assert lake.version(CLIENTS) == before


def test_a_value_that_does_not_fit_its_column_is_not_quoted(lake: Lake) -> None:
    rows = frame(lake, [client(1)]).withColumn("amount", F.lit(NAME).cast("string"))

    with pytest.raises(InfrastructureError) as failed:
        write(lake, rows.withColumn("amount", F.col("amount").cast("int")), Append())
    assert NAME not in str(failed.value)
    with pytest.raises(InfrastructureError) as failed:
        write(lake, rows, Append())
    assert NAME not in str(failed.value)
    assert held(lake) == []


def test_a_store_that_fails_says_so_in_its_own_words(lake: Lake, tmp_path: Path) -> None:
    write(lake, [client(1)], Append())
    # A folder where the next commit's file belongs: no permission to take away, as root has all.
    (tmp_path / "curated" / "clients" / "_delta_log" / f"{1:020d}.json").mkdir()

    with pytest.raises(InfrastructureError, match="curated/clients: writing failed with"):
        write(lake, [client(2)], Append())


GROWN = replace(
    CLIENTS,
    columns=(*CLIENTS.columns, Column("town", "string", "as of the period", "confidential")),
    statistics=("_period", "_sequence", "town"),
)


def test_a_column_added_to_the_declaration_is_added_to_the_table(
    lake: Lake, tmp_path: Path
) -> None:
    write(lake, [client(1)], Append(), labels={"concord.owner": "before"})

    next_job = lake_at(lake.spark, tmp_path)
    rows = next_job.spark.createDataFrame([(*client(2), "Lynn")], GROWN.schema)
    write(next_job, rows, Append(), table=GROWN, labels={"concord.owner": "after"})

    assert held(next_job, GROWN) == [(*client(1), None), (*client(2), "Lynn")]
    found = properties(next_job)
    assert found["delta.dataSkippingStatsColumns"] == "_period,_sequence,town"
    assert found["concord.owner"] == "after"


def test_nothing_outside_ops_is_written_without_labels(lake: Lake) -> None:
    for lacking in LABELS:
        some = {name: value for name, value in LABELS.items() if name != lacking}
        with pytest.raises(ConcordError, match=f"without the labels {lacking}"):
            lake.write(frame(lake, [client(1)]), CLIENTS, Append(), stamp=STAMP,
                       transaction=None, labels=some)  # fmt: skip
    assert not lake.exists(CLIENTS)


def test_a_column_s_labels_stand_in_the_table(lake: Lake) -> None:
    write(lake, [client(1)], Append())
    assert labels_of(lake, "name") == {
        "concord.classification": "restricted",
        "concord.identifier_role": "direct",
    }


def test_an_added_column_s_labels_stand_in_the_table(lake: Lake, tmp_path: Path) -> None:
    lake.create(CLIENTS, {}, stamp=STAMP)
    lake_at(lake.spark, tmp_path).create(GROWN, {}, stamp=STAMP)
    assert labels_of(lake, "town") == {
        "comment": "as of the period",
        "concord.classification": "confidential",
        "concord.identifier_role": "none",
    }


def labels_of(lake: Lake, column: str) -> dict[str, Any]:
    schema = [json.loads(a["metaData"]["schemaString"]) for a in log(lake) if "metaData" in a][-1]
    return next(f["metadata"] for f in schema["fields"] if f["name"] == column)


def test_a_table_that_is_as_declared_is_not_altered(lake: Lake, tmp_path: Path) -> None:
    write(lake, [client(1)], Append(), labels={"concord.purposes": "it's \\ research"})
    before = lake.version(CLIENTS)
    lake_at(lake.spark, tmp_path).create(
        CLIENTS, {"concord.purposes": "it's \\ research"}, stamp=STAMP
    )
    assert lake.version(CLIENTS) == before
