"""The benchmark's tables: right figures, in the right place; the rest of the document stays."""

import csv
import json
import time
from decimal import Decimal
from pathlib import Path

import pytest

from concord.ingest import job
from concord.ingest import stage as staging
from concord.ingest.rules import declared_rules
from tests.bench.feed import COLUMNS, contract, deliver, make_file
from tests.bench.measure import steps
from tests.bench.report import (
    END,
    NOT_MEASURED,
    START,
    Features,
    Line,
    Pair,
    Profile,
    Results,
    Scale,
    Step,
    Synthesis,
    between_markers,
    machine_facts,
    markdown,
    write_docs,
    write_json,
)

RESULTS = Results(
    "2025-06-01",
    "make bench",
    {"cores": "2"},
    rules=10,
    columns=10,
    synthesis=Synthesis(60_000, 3_000_000, 250_000_000, 60.0),
    ratio_rows=1_000_000,
    pairs=(Pair(10.0, 25.0), Pair(10.0, 15.0), Pair(8.0, 16.0)),
    scale=(Scale(10_000, 900_000, 0.5, 2.0), Scale(1_000_000, 90_000_000, 10.0, 20.0)),
    profile=Profile(1_000_000, 10.0, 20.0, (Step("hash", 1.5), Step("stage", 12.0))),
    line=Line(
        60_000,
        240.4,
        {"ingest backfill": 70.0, "ingest round 1": 30.5, "index backfill": 25.0, "train": 40.0},
        70_000,
        Features(9_000, 48, 12.0, 6.0),
    ),
)


def test_every_table_has_its_figures() -> None:
    text = markdown(RESULTS)
    for line in (
        "Measured on 2025-06-01 with `make bench`.",
        "| cores | 2 |",
        "| 60,000 | 3,000,000 | 250 | 60.0 | 50,000 |",
        "| 1 | 10.00 | 25.00 | 2.50 |",
        "| 10,000 | 0.9 | 2.00 | 5,000 | 0.50 | 4.00 |",
        "| 1,000,000 | 90.0 | 20.00 | 50,000 | 10.00 | 2.00 |",
        "| hash | 1.50 | 0.15 |",
        "| rest (planning, locks, clean-up) | 6.50 | 0.65 |",
        "| **all** | 20.00 | 2.00 |",
        "| train | 40.0 |",
        "| **ingest, all** | 100.5 |",
        "| **index, all** | 25.0 |",
    ):
        assert line in text.splitlines()
    assert "48 of each of 9,000 check-ins: 12.0 seconds in a new session, 6.0 again" in text
    assert "median **2.00** (least 1.50, greatest 2.50), within the aim of 2.0" in text


def test_a_ratio_above_the_aim_is_called_so() -> None:
    above = Results("2025-06-01", "x", {}, 10, 10, pairs=(Pair(1.0, 2.1),))
    assert "above the aim of 2.0" in markdown(above)


def test_what_was_not_measured_is_said() -> None:
    assert markdown(Results("2025-06-01", "x", {}, 10, 10)).count(NOT_MEASURED) == 5


def test_text_around_the_markers_stays(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"# Before\n\n{START}\nold figures\n{END}\n\nAfter.\n")
    write_docs(RESULTS, document)
    once = document.read_text()
    assert once.startswith(f"# Before\n\n{START}\nMeasured on")
    assert once.endswith(f"\n{END}\n\nAfter.\n")
    assert "old figures" not in once
    write_docs(RESULTS, document)
    assert document.read_text() == once


@pytest.mark.parametrize("text", ["no markers", f"{START} only", f"{END} {START}", START * 2 + END])
def test_a_document_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bench:start"):
        between_markers(text, "figures")


def test_the_json_has_the_ratio(tmp_path: Path) -> None:
    write_json(RESULTS, tmp_path / "new" / "ingest.json")
    whole = json.loads((tmp_path / "new" / "ingest.json").read_text())
    assert whole["ratio"] == {"min": 1.5, "median": 2.0, "max": 2.5, "aim": 2.0}
    assert whole["profile"]["steps"][0] == {"name": "hash", "seconds": 1.5}


def test_the_projects_document_can_take_figures() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
    assert "figures" in between_markers(text, "figures")


def test_machine_facts_name_no_machine() -> None:
    facts = machine_facts("17", "8g")
    assert {"CPU", "cores", "memory", "Java", "Python", "Spark", "Delta Lake"} <= set(facts)
    assert not any("/home" in fact or str(Path.cwd()) in fact for fact in facts.values())


def test_the_feed_is_what_the_document_says() -> None:
    assert len(contract().tables[0].fields) == 10
    assert declared_rules(contract()) == 10


def test_a_delivery_declares_its_file(tmp_path: Path) -> None:
    made = make_file(tmp_path / "files" / "1000.csv", 1000)
    deliver(tmp_path / "landing", made, 14)
    (folder,) = (tmp_path / "landing" / "bench").iterdir()
    with (folder / "clients.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    (listed,) = json.loads((folder / "manifest.json").read_text())["files"]
    assert list(rows[0]) == list(COLUMNS)
    assert listed["rows"] == len(rows) == len({row["client_id"] for row in rows}) == 1000
    assert Decimal(listed["control_totals"]["amount"]) == sum(Decimal(r["amount"]) for r in rows)
    assert listed["period"] == "2016-02"
    assert make_file(tmp_path / "again.csv", 1000).sha256 == made.sha256


def test_a_step_is_told_without_the_steps_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def outer() -> None:
        time.sleep(0.02)
        staging._late()  # type: ignore[call-arg]

    monkeypatch.setattr(staging, "_late", lambda: time.sleep(0.2))
    monkeypatch.setattr(job, "stage", outer)
    with steps() as seconds:
        job.stage()  # type: ignore[call-arg]
        staging._late()  # type: ignore[call-arg]
    assert job.stage is outer
    assert seconds.keys() == {"stage (read, type, check, key, write)", "find duplicate keys"}
    assert seconds["find duplicate keys"] >= 0.4
    assert 0.02 <= seconds["stage (read, type, check, key, write)"] < 0.2
