"""The review queue on a real lake: listed, shown and made a page, from the command line."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from concord.agreements import access_log, chain
from concord.lake.registry import RUNS, Table
from concord.lake.run import actor, real_clock
from concord.lake.session import interpret
from concord.lake.writes import Overwrite, Stamp, Transaction
from concord.linkage import job, review_commands, tables
from concord.linkage.estimate import Labels
from concord.linkage.person_index import load_person_index
from concord.linkage.review import SHOWN, Review, queue
from concord.linkage.review_commands import remove_pages
from tests.conftest import ROOT
from tests.feeds import LABELS
from tests.spark.desk import Desk

pytestmark = pytest.mark.spark

MODEL = load_person_index(ROOT / "conf/person_index.yaml")
DAY = date(2025, 5, 1)
A, B, C, D = (digit * 32 for digit in "abcd")
SECRETS = ("OYELARAN", "MARGARET", "212345678", "1950-03-04", "617555")
VALUES = {"given": "MARGARET", "family": "OYELARAN", "birth": date(1950, 3, 4), "ssn": "212345678"}


class QueueDesk(Desk):
    """A steward's: four records, of which two would link and never do, and two are in doubt."""

    def __init__(self, spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str]):
        super().__init__(spark, folder, capsys)
        self.records = [
            self._record(A, "dta_snap", **VALUES, phone="6175550101"),
            self._record(B, "dua_wages", ssn="212345678", given="BEATRICE", family="OYELARAN"),
            self._record(C, "dta_snap", given="MARGARET", birth=date(1950, 3, 4)),
            self._record(D, "dua_wages", given="MARGARET", birth=date(1950, 3, 4)),
        ]
        never = MODEL.pattern(ssn="exact", given="differ", family="exact")
        doubt = MODEL.pattern(given="exact", birth="exact")
        self.pairs = [(A, B, never, "ssn"), (C, D, doubt, "given_birth")]
        self.write(tables.RECORDS, self.records, run_id="index-1")
        self.write(tables.PAIRS, self.pairs, run_id="index-1")
        persons = [
            (record, f"person-{record[:1]}", DAY, None, "r", "minted") for record in (A, B, C, D)
        ]
        self.write(tables.CROSSWALK, persons, run_id="index-1")
        self.queue(run_id="index-1")

    def _record(self, record: str, feed: str, **said: Any) -> tuple[Any, ...]:
        row = {"record_id": record, "feed": feed, "role": "client", "variant": 0, **said}
        return tuple(row.get(name) for name in tables.RECORDS.column_names)

    def write(self, table: Table, rows: Sequence[Any] | pa.Table, *, run_id: str) -> None:
        spark = self.lake.spark
        newest = self.lake.newest(table)
        number = newest.transaction.version + 1 if newest else 1
        frame = spark.createDataFrame(rows, table.schema)
        stamp = Stamp(run_id, "index", "0")
        counted = Transaction(f"index/{table.name}", number)
        self.lake.write(
            frame, table, Overwrite(), stamp=stamp, transaction=counted, labels=LABELS, few=True
        )

    def queue(self, *, run_id: str) -> None:
        records = self.lake.read(tables.RECORDS).toArrow().sort_by("record_id")
        given = self.lake.read(tables.PAIRS).toArrow()
        ids = pa.compute.unique(records["record_id"])
        pairs = given.select(["pattern", "rule"])
        for end in ("left", "right"):
            place = pa.compute.index_in(given[f"{end}_record_id"], value_set=ids)
            pairs = pairs.append_column(end, place)
        clusters = records.select(["record_id", "feed"]).append_column(
            "person_id", pa.array([f"person-{r[:1]}" for r in records["record_id"].to_pylist()])
        )
        found = queue(pairs, clusters, records, model=MODEL, review=Review(), decided=(),
                      run_id=run_id, as_of=DAY)  # fmt: skip
        self.write(tables.REVIEW_QUEUE, [tuple(row.values()) for row in found.to_pylist()],
                   run_id=run_id)  # fmt: skip

    @property
    def items(self) -> dict[str, str]:
        """Kind -> item id."""
        rows = self.lake.read(tables.REVIEW_QUEUE).collect()
        return {row["kind"]: row["item_id"] for row in rows}

    def reads(self) -> list[Any]:
        log = self.lake.read(access_log.ACCESS_LOG)
        return log.where("decision = 'read'").orderBy("decided_at").collect()


@pytest.fixture
def desk(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[QueueDesk]:
    # The commands' session is that of all tests, which outlives them.
    monkeypatch.setattr(review_commands, "start", lambda settings, application: spark)
    monkeypatch.setattr(review_commands, "stop", lambda session: None)
    interpret(spark, True)
    yield QueueDesk(spark, tmp_path, capsys)
    interpret(spark, False)


def test_the_queue_is_listed_and_shown_without_any_value_until_one_asks(desk: Desk) -> None:
    assert {*desk.items} == {"ruled_out", "near_link"}
    assert desk.review("list") == 0
    assert all(item in desk.out for item in desk.items.values())
    assert "dta_snap + dua_wages" in desk.out and "Same SSN" in desk.out
    assert desk.review("list", "--kind", "ruled_out") == 0
    assert desk.items["ruled_out"] in desk.out and desk.items["near_link"] not in desk.out
    assert desk.review("list", "--limit", "1") == 0 and "1 of 2 items" in desk.out
    assert desk.review("list", "--kind", "odd") == 2

    item = desk.items["ruled_out"]
    assert desk.review("show", item[:8]) == 0
    assert not [secret for secret in SECRETS if secret in desk.out]
    assert re.search(r"family\W+said\W+said\W+same", desk.out)
    assert re.search(r"given\W+said\W+said\W+differ", desk.out)
    assert re.search(r"phone\W+said\W+-\W+missing", desk.out)
    assert "never linked" in desk.out and "before any comparison" in desk.out
    assert desk.review("show", "") == 2 and "2 items of the queue begin with" in desk.err
    assert desk.review("show", "zzz") == 2
    assert not desk.lake.exists(access_log.ACCESS_LOG) and not desk.lake.exists(RUNS)

    assert desk.review("show", item, "--reveal") == 0
    assert all(secret in desk.out for secret in SECRETS)
    (read,) = desk.reads()
    assert (read["actor"], read["row_count"]) == (actor(), 2)
    assert read["agreement"].startswith("MOU-") and read["purpose"] == review_commands.PURPOSE
    assert read["columns"] == [f"vault/linkage_records.{name}" for name in SHOWN]
    (run,) = desk.lake.read(RUNS).where("state = 'ended'").collect()
    assert (run["job"], run["run_id"]) == ("review show", read["run_id"])
    assert item not in str(run.asDict())
    assert chain.verify(desk.lake, access_log.ACCESS_LOG).rows == 1


def test_the_page_lies_in_the_vault_for_its_owner_alone_and_is_noted(desk: Desk) -> None:
    assert desk.review("report") == 0
    page = desk.folder / "lake/vault/review_pages/index-1.html"
    assert page.stat().st_mode & 0o777 == 0o600
    assert str(page) in desk.out and "2 items in" in desk.out
    assert not [secret for secret in SECRETS if secret in desk.out + desk.err]
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text()
    )
    data = json.loads(text)
    assert [item["kind"] for item in data["items"]] == ["ruled_out", "near_link"]
    assert {*data["records"]} == {A, B, C, D}
    assert data["records"][A]["values"]["ssn"] == ["212345678"]
    assert data["persons"][D] == "person-d"
    assert [edge[:2] for edge in data["edges"]] == [[A, B], [C, D]]
    (read,) = desk.reads()
    assert read["row_count"] == 4

    # What is decided is gone from then on; the page of the same run is made anew.
    pair = ["--left", C, "--right", D, "--verdict", "must-link", "--reason", "one letter"]
    assert desk.review("decide", *pair) == 0
    assert desk.review("list") == 0 and desk.items["near_link"] not in desk.out
    assert desk.review("report", "--limit", "1") == 0
    assert C not in page.read_text() and A in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600


def test_old_pages_are_removed_with_the_tables_old_files(desk: QueueDesk) -> None:
    assert remove_pages(desk.lake, real_clock()) == 0, "there is no folder yet"
    assert desk.review("report") == 0
    folder = desk.folder / "lake/vault/review_pages"
    (folder / "index-0.html").write_text("old")
    days = tables.REVIEW_QUEUE.retention_days
    then = time.time() - (days + 1) * 86_400
    os.utime(folder / "index-0.html", (then, then))
    assert remove_pages(desk.lake, real_clock()) == 1
    assert [file.name for file in folder.iterdir() if file.suffix == ".html"] == ["index-1.html"]
    assert remove_pages(desk.lake, real_clock() + timedelta(days=days + 1)) == 1


def test_a_queue_of_other_records_or_another_model_is_not_shown(
    desk: QueueDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write(tables.RECORDS, desk.records, run_id="index-2")
    for command in (["list"], ["show", "0"], ["report"]):
        assert desk.review(*command) == 2
        assert "run concord index" in desk.err
    desk.queue(run_id="index-2")
    assert desk.review("list") == 0
    changed = MODEL.model_copy(update={"version": MODEL.version + 1})
    monkeypatch.setattr(review_commands, "load_person_index", lambda *_: changed)
    assert desk.review("list") == 2
    desk.write(tables.REVIEW_QUEUE, [], run_id="index-2")
    assert desk.review("report") == 0 and "nothing to review" in desk.out
    assert not (desk.folder / "lake/vault/review_pages").exists()


def test_decisions_teach_with_the_patterns_of_their_pairs(desk: QueueDesk) -> None:
    assert job.labels(desk.lake, weight=3.0) == Labels({}, {}, 3.0)
    for pair, verdict in [((C, D), "must-link"), ((A, B), "cannot-link"), ((A, C), "cannot-link")]:
        given = ["--left", pair[0], "--right", pair[1], "--verdict", verdict]
        assert desk.review("decide", *given, "--reason", "I know them") == 0
    (_, _, never, _), (_, _, doubt, _) = desk.pairs
    assert job.labels(desk.lake, weight=3.0) == Labels({doubt: 1}, {never: 1}, 3.0)
    assert job.labels(desk.lake, weight=0.0) == Labels({}, {}, 0.0)
