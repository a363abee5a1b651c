"""The access log: a row per decision whatever it is, chained; tampering is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Thread

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.agreements import access_log, chain
from concord.agreements.access_log import ACCESS_LOG, ask, ask_all, record_reads
from concord.agreements.chain import Verified
from concord.agreements.decision import Request
from concord.errors import AuditError, InfrastructureError, RefusedError
from concord.lake.locks import Locks
from concord.lake.run import Run, Tally
from concord.lake.tables import Lake
from concord.lake.zones import Zones
from concord.reporting import Reporter
from tests.agreed import dula, mou, register
from tests.conftest import test_settings

pytestmark = pytest.mark.spark
NOW = datetime(2026, 6, 1, 12, 30, 15, 123456, tzinfo=UTC)
DULA = dula()
SIGNED = register(mou(), DULA)


def verify(lake: Lake, *, expect: str | None = None) -> Verified:
    return chain.verify(lake, ACCESS_LOG, expect=expect)


def a_run(spark: SparkSession, folder: Path, *, dry_run: bool = False, run_id: str = "r1") -> Run:
    settings = test_settings(folder)
    locks = Locks.of(spark, settings.lake, 60, job="test", run_id=run_id, actor="test")
    return Run(
        job="study",
        run_id=run_id,
        as_of=date(2026, 5, 31),
        dry_run=dry_run,
        actor="someone",
        settings=settings,
        lake=Lake(spark, settings.lake, locks=locks, lock_wait=30, zones=Zones("study")),
        reporter=Reporter(quiet=True),
        clock=lambda: NOW,
        tally=Tally(),
    )


def request(purpose: str = "program-evaluation") -> Request:
    return Request(
        agreement=DULA.id,
        purpose=purpose,
        use="study",
        columns={"help.forms": frozenset({"office", "due_on"})},
        as_of=date(2026, 5, 31),
    )


@pytest.fixture
def log(spark: SparkSession, tmp_path: Path) -> Run:
    """A log of four rows: allowed, refused, and two reads."""
    run = a_run(spark, tmp_path)
    allowed, refused = ask_all(run, SIGNED, [request(), request("research")])
    assert allowed.allowed and not refused.allowed
    reads = [access_log.Read(request(), allowed, run_id, 7) for run_id in ("r0", "r1")]
    record_reads(run, reads)
    return run


def test_every_decision_is_logged_and_the_chain_holds(log: Run) -> None:
    rows = log.lake.read(ACCESS_LOG).collect()
    assert [field.name for field in log.lake.read(ACCESS_LOG).schema] == [
        *("decided_at", "actor", "agreement", "purpose", "tables", "columns", "row_count"),
        *("decision", "reasons", "policy_digest", "run_id", "previous_hash", "hash"),
    ]
    by = {row["decision"]: row for row in rows}
    assert by["allowed"]["columns"] == ["help.forms.due_on", "help.forms.office"]
    assert by["allowed"]["row_count"] is None and by["read"]["row_count"] == 7
    assert by["refused"]["purpose"] == "research"
    assert "clause 3" in by["refused"]["reasons"][0]
    found = verify(log.lake)
    assert found.rows == 4
    assert found.tip in {row["hash"] for row in rows} - {row["previous_hash"] for row in rows}
    # The first row's hash, made by the rule in the documentation and nothing of Concord's.
    first = next(row for row in rows if row["previous_hash"] == "0" * 64).asDict()
    micros = log.lake.read(ACCESS_LOG).select(F.unix_micros("decided_at")).first()
    assert micros and micros[0] == int(NOW.timestamp()) * 1_000_000 + NOW.microsecond
    content = {**first, "decided_at": micros[0]}
    del content["hash"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == first["hash"]


def test_a_refusal_is_raised_after_it_was_logged_in_a_dry_run_too(
    spark: SparkSession, tmp_path: Path
) -> None:
    run = a_run(spark, tmp_path, dry_run=True)
    with pytest.raises(RefusedError, match="DULA-2026-0001 clause 3"):
        ask(run, SIGNED, request("research"))
    assert ask(run, SIGNED, request()).allowed
    decisions = [row["decision"] for row in run.lake.read(ACCESS_LOG).collect()]
    assert sorted(decisions) == ["allowed", "refused"]


def replaced(log: Run, rows: DataFrame) -> None:
    """As someone with the right to write files would do it."""
    kept = rows.toArrow()
    again = log.lake.spark.createDataFrame(kept, ACCESS_LOG.schema)  # type: ignore[type-var]
    again.write.format("delta").mode("overwrite").save(log.lake.path(ACCESS_LOG))


def test_tampering_is_found_and_nothing_is_added_to_a_broken_chain(log: Run) -> None:
    lake = log.lake
    whole = lake.read(ACCESS_LOG).toArrow()
    good = lake.spark.createDataFrame(whole, ACCESS_LOG.schema)  # type: ignore[type-var]
    noted = verify(lake).tip
    refused = F.col("decision") == "refused"
    changed = good.withColumn("actor", F.when(refused, "nobody").otherwise(F.col("actor")))
    replaced(log, changed)
    with pytest.raises(AuditError, match="row 2 of the chain has another content"):
        verify(lake)
    replaced(log, good.where(~refused))
    with pytest.raises(AuditError, match="row 2 of the chain is missing; 2 rows"):
        verify(lake)
    with pytest.raises(AuditError, match="no single end") as caught:
        ask(log, SIGNED, request())
    assert caught.value.exit_code == 16
    copied = good.where(refused).withColumn("hash", F.lit("f" * 64))
    replaced(log, good.unionByName(copied))
    with pytest.raises(AuditError, match="row 2 of the chain stands twice"):
        verify(lake)
    replaced(log, good.where(F.col("hash") != noted))
    assert verify(lake).rows == 3, "a chain cannot tell that its end was cut off"
    with pytest.raises(AuditError, match="cut off or replaced"):
        verify(lake, expect=noted)
    replaced(log, good)
    assert verify(lake, expect=noted).rows == 4


@pytest.mark.parametrize("version", [0, 1])
def test_a_log_of_which_a_commit_is_gone_is_no_empty_log(log: Run, version: int) -> None:
    """Read as no rows at all it would verify, and the next row would begin a chain anew."""
    ask_all(log, SIGNED, [request()])
    assert verify(log.lake).rows == 5
    place = Path(log.lake.root, ACCESS_LOG.name, "_delta_log")
    (place / f"{version:020d}.json").unlink()
    left = sorted(path.name for path in place.glob("*.json"))
    assert len(left) == 2
    with pytest.raises(InfrastructureError, match="its log has a gap"):
        verify(log.lake)
    with pytest.raises(InfrastructureError, match="its log has a gap"):
        ask_all(log, SIGNED, [request()])
    assert sorted(path.name for path in place.glob("*.json")) == left, "nothing was added"


def test_appends_wait_their_turn(spark: SparkSession, tmp_path: Path) -> None:
    failures: list[Exception] = []

    def one(run: Run) -> None:
        try:
            ask(run, SIGNED, request())
        except Exception as error:
            failures.append(error)

    runs: Sequence[Run] = [
        a_run(spark.newSession(), tmp_path, run_id=f"r{number}") for number in range(3)
    ]
    threads = [Thread(target=one, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert verify(runs[0].lake).rows == 3
