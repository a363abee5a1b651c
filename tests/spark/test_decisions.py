"""Steward decisions on a real lake, from the command line to the table and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord.lake.registry import RUNS
from concord.lake.run import actor
from concord.lake.session import interpret
from concord.lake.writes import Append, Stamp
from concord.linkage import decisions, review_commands, tables
from concord.linkage.decisions import Decision
from tests.feeds import LABELS
from tests.spark.desk import Desk

pytestmark = pytest.mark.spark

A, B, C, D, LEFT, UNKNOWN = (digit * 32 for digit in "abcdef")
MAY, JUNE = date(2025, 5, 1), date(2025, 6, 1)


class DecisionsDesk(Desk):
    """A steward's: an index of five records, one of which left, and the command line."""

    def __init__(self, spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str]):
        super().__init__(spark, folder, capsys)
        rows = [
            (record, f"person-{record[:1]}", MAY, JUNE if record == LEFT else None, "r", "minted")
            for record in (A, B, C, D, LEFT)
        ]
        frame = spark.createDataFrame(rows, tables.CROSSWALK.schema)
        stamp = Stamp("r", "index", "0")
        self.lake.write(
            frame, tables.CROSSWALK, Append(), stamp=stamp, transaction=None, labels=LABELS,
            few=True,
        )  # fmt: skip

    def decide(self, left: str, right: str, verdict: str, *more: str) -> int:
        given = ["--left", left, "--right", right, "--verdict", verdict, "--reason", "I know them"]
        return self.review("decide", *given, *more)

    def file(self, name: str, *lines: str) -> str:
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    @property
    def every(self) -> list[Decision]:
        return review_commands.read(self.lake)

    @property
    def in_force(self) -> list[tuple[str, str, str]]:
        return [(*d.pair, d.verdict) for d in decisions.in_force(self.every)]

    @property
    def version(self) -> int | None:
        return self.lake.version(tables.STEWARD_DECISIONS)

    def ledger(self) -> Sequence[Any]:
        return self.lake.read(RUNS).where("state = 'ended'").orderBy("started_at").collect()


@pytest.fixture
def desk(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    # The commands' session is that of all tests, which outlives them.
    monkeypatch.setattr(review_commands, "start", lambda settings, application: spark)
    monkeypatch.setattr(review_commands, "stop", lambda session: None)
    interpret(spark, True)
    yield DecisionsDesk(spark, tmp_path, capsys)
    interpret(spark, False)


def test_a_decision_is_kept_with_its_steward_and_one_that_contradicts_is_refused(
    desk: DecisionsDesk,
) -> None:
    assert desk.decide(B, A, "must-link", "--dry-run") == 0
    assert desk.version is None and not desk.lake.exists(RUNS)
    assert desk.decide(B, A, "must-link") == 0
    (kept,) = desk.every
    assert (kept.pair, kept.verdict, kept.actor) == ((A, B), "must_link", actor())
    assert kept.reason == "I know them"
    labels = desk.lake.properties(tables.STEWARD_DECISIONS.name)
    assert labels["concord.classification"] == "confidential"
    assert labels["concord.agreements"].startswith("MOU-")
    (row,) = desk.ledger()
    assert (row["job"], row["run_id"], row["arguments"]) == ("review decide", kept.run_id, "{}")

    version = desk.version
    assert desk.decide(A, B, "must-link") == 0
    assert "nothing to do" in desk.out and desk.version == version

    assert desk.decide(B, C, "must-link") == 0
    assert desk.decide(A, C, "cannot-link") == 2
    assert f"{A} - {B} - {C}" in desk.err and f"decision {kept.decision_id}" in desk.err
    assert desk.decide(UNKNOWN, LEFT, "must-link") == 2
    assert f"the index has no record {UNKNOWN}" in desk.err
    assert f"the index has no record {LEFT}" in desk.err
    assert desk.in_force == [(A, B, "must_link"), (B, C, "must_link")]

    assert desk.decide(A, B, "withdraw") == 0
    assert desk.decide(A, C, "cannot-link") == 0
    assert desk.in_force == [(A, C, "cannot_link"), (B, C, "must_link")]
    assert len(desk.every) == 4
    assert desk.review("decisions") == 0
    assert desk.out.count("I know them") == 2 and "cannot_link" in desk.out
    assert {row["exit_code"] for row in desk.ledger()} == {0, 2}
    assert "I know them" not in str(desk.ledger())


def test_a_file_is_taken_whole_or_not_at_all_and_twice_is_once(desk: Desk) -> None:
    header = "left_record_id,right_record_id,verdict,reason,decided_by"
    bad = desk.file(
        "bad.csv",
        header,
        f"{A},{B},must-link,same mother,",
        f"{A},Olivia Nakamura,must-link,same mother,",
        f"{D},{UNKNOWN},must-link,same mother,",
    )
    assert desk.review("import", bad) == 2
    assert desk.err.splitlines() == [
        "error: 2 mistakes, nothing is written:",
        "  line 3: right_record_id is not a record id, 32 hex digits",
        f"  line 4: the index has no record {UNKNOWN}; look in index/crosswalk",
    ]
    assert desk.version is None

    good = desk.file(
        "good.csv",
        header,
        f"{A},{B},must-link,same mother,ann",
        f'{C},{B},cannot_link,"twins, ""both""",',
    )
    assert desk.review("import", good) == 0
    assert [d.reason for d in decisions.in_force(desk.every)] == [
        "same mother (decided by ann)",
        'twins, "both"',
    ]
    version = desk.version
    assert desk.review("import", good) == 0
    assert desk.version == version and "2 as it is already" in desk.out

    out = str(desk.folder / "out.json")
    assert desk.review("export", out) == 0
    assert desk.review("export", out) == 2, "nothing is overwritten"
    assert desk.review("import", out) == 0
    assert desk.version == version
    rows = json.loads((desk.folder / "out.json").read_text())
    assert rows[1] == {
        "left_record_id": B,
        "right_record_id": C,
        "verdict": "cannot_link",
        "reason": 'twins, "both"',
        "decided_by": actor(),
    }
    contradicting = desk.file("more.json", json.dumps([{**rows[0], "right_record_id": C}]))
    assert desk.review("import", contradicting) == 2
    assert f"row 1: a cannot_link of {B} and {C} contradicts" in desk.err


def test_who_decides_while_another_does_waits_or_is_told_who(desk: Desk) -> None:
    with desk.lake.locks.hold([tables.STEWARD_DECISIONS.name]):
        assert desk.decide(A, B, "must-link") == 13
    assert "index/steward_decisions is held by job t" in desk.err
    assert desk.decide(A, B, "must-link") == 0
