"""The benchmark's tables: right figures, in the right place; the rest of the document stays."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from concord.cli import exit_code_of
from concord.errors import QualityError, UsageError
from concord.ingest import delivery
from concord.ingest import stage as staging
from concord.ingest.rules import declared_rules
from concord.linkage.quality import Agreement
from concord.settings import load_settings
from tests.bench import commonwealth, engine_side, linkage, scaling
from tests.bench.__main__ import application
from tests.bench.engine_side import Run
from tests.bench.feed import COLUMNS, contract, deliver, make_file
from tests.bench.linkage import Linkage, Size, Splink
from tests.bench.linkage import markdown as in_words
from tests.bench.linkage import write_json as write_linkage
from tests.bench.measure import steps
from tests.bench.persons import write_persons, write_skewed
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


def test_histories_are_checked_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    test = tmp_path / "test_of.py"
    told = "import os\n\ndef test_a_history():\n    assert os.environ['INDEX_HISTORIES'] == '{}'\n"
    test.write_text(told.format(7))
    assert linkage.checked_histories(7, test) > 0
    test.write_text(told.format(8))
    with pytest.raises(QualityError, match="test_a_history"):
        linkage.checked_histories(7, test)


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
    monkeypatch.setattr(delivery, "stage", outer)
    with steps() as seconds:
        delivery.stage()  # type: ignore[call-arg]
        staging._late()  # type: ignore[call-arg]
    assert delivery.stage is outer
    assert seconds.keys() == {"stage (read, type, check, key, write)", "find duplicate keys"}
    assert seconds["find duplicate keys"] >= 0.4
    assert 0.02 <= seconds["stage (read, type, check, key, write)"] < 0.2


# --- linkage ------------------------------------------------------------------------------------

STEPS_OF_A_RUN = {"encode": 1.0, "make and compare pairs": 6.0, "write": 3.0}
SIZE = Size(
    1_000_000,
    (
        Run("a", 4.0, 20.0, {"encode": 5.0, "write": 15.0}, 1_200_000, 0),
        Run("a", 0.0, 10.0, STEPS_OF_A_RUN, 1_200_000, 0),
        Run("a", 0.0, 12.0, STEPS_OF_A_RUN, 1_200_000, 0),
    ),
    Run("b", 0.0, 16.5, STEPS_OF_A_RUN, 1_300_000, 600_000_000),
    0.99391,
    3 * 2**30,
    splink=(
        Splink("5.0.0", 9.0, {"train": 4.0, "predict": 5.0}, 1_200_000),
        Splink("5.0.0", 8.0, {"train": 3.5, "predict": 4.5}, 1_200_000),
    ),
    splink_f1=0.9919,
    splink_peak=2**30,
)
LINKAGE = Linkage("2025-06-01", "make bench BENCH=linkage", {"cores": "2"}, (SIZE,))


def test_linkage_is_told_by_step_and_as_ratios() -> None:
    text = in_words(LINKAGE)
    lines = text.splitlines()
    assert "| step | cold | warm 1 | warm 2 | skewed |" in lines
    assert "| encode | 5.00 | 1.00 | 1.00 | 1.00 |" in lines
    assert "| count keys | 0.00 | 0.00 | 0.00 | 0.00 |" in lines
    assert "| **all** | 20.00 | 10.00 | 12.00 | 16.50 |" in lines
    assert "| predict | 5.00 | 4.50 |" in lines
    assert "cold with Spark's start **2.82**, cold **2.35**, warm **1.29**" in text
    assert "16.5 seconds, **1.50** times the warm runs" in text
    assert "1,300,000 pairs compared, 600,000,000 kept out by the pair budget" in text
    assert "pairwise F1 0.9939; 3.0 GiB at most" in text


def test_splink_on_spark_is_told_where_it_ran() -> None:
    both = replace(SIZE, splink_spark=replace(SIZE.splink[0], seconds=600.0))
    told = in_words(replace(LINKAGE, sizes=(both,)))
    assert "Splink on Spark, its start apart: 600 seconds." in told
    assert "cold, of Splink on Spark **0.03**" in told
    assert "Splink on Spark" not in in_words(LINKAGE)


def test_linkage_without_splink_or_skew_says_so() -> None:
    alone = replace(SIZE, splink=(), splink_f1=None, splink_peak=None, skewed=None)
    text = in_words(replace(LINKAGE, sizes=(alone,), absent="it could not be installed"))
    assert "Without Splink: it could not be installed." in text
    assert "Splink's" not in text and "pair budget" not in text
    assert alone.ratios == {} and alone.skew is None
    once = in_words(replace(LINKAGE, sizes=(replace(SIZE, runs=SIZE.runs[:1], skewed=None),)))
    assert "cold **2.35**" in once and "warm" not in once


def test_the_json_of_linkage_has_both_ratios(tmp_path: Path) -> None:
    write_linkage(LINKAGE, tmp_path / "new" / "linkage.json")
    (size,) = json.loads((tmp_path / "new" / "linkage.json").read_text())["sizes"]
    assert size["ratios"]["cold"] == pytest.approx(20 / 8.5)
    assert size["ratios"]["warm"] == pytest.approx(11 / 8.5)
    assert size["skew_ratio"] == pytest.approx(1.5)


def test_the_projects_document_can_take_figures_of_linkage() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
    put = between_markers(text, "figures", linkage.START, linkage.END)
    assert f"{linkage.START}\nfigures\n{linkage.END}" in put
    assert between_markers(put, "others").count("\nfigures\n") == 1


@pytest.mark.parametrize("text", ["", "many", "0", "1000,x", "999"])
def test_numbers_of_records_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--records"):
        linkage.sizes_of(text)


@pytest.mark.parametrize(
    "name", ["linkage", "index", "scaling", "accuracy", "commonwealth", "agreements", "few"]
)
def test_figures_without_a_place_are_refused_before_they_are_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "figures.md"
    for text, wrong in ((None, "no such file"), ("a page", "needs one")):
        if text is not None:
            docs.write_text(text)
        assert exit_code_of(application(), [name, "--docs", str(docs)]) == 2
        assert f"--docs {docs}: " in (said := capsys.readouterr().err) and wrong in said


def test_workers_are_compared_step_by_step() -> None:
    one = replace(SIZE.runs[1], steps={"encode": 4.0, "make and compare pairs": 9.0}, seconds=16.0)
    two = replace(SIZE.runs[1], steps={"encode": 4.0, "make and compare pairs": 5.0}, seconds=12.0)
    told = scaling.table_of(scaling.Scaled(1000, {1: one, 2: two}))
    assert "With 2 workers the pairs are made **1.80** times as fast as with one." in told
    assert "| make and compare pairs | 9.00 | 5.00 | 1.80 |" in told
    assert "| **all** | 16.00 | 12.00 | 1.33 |" in told


def test_the_command_of_linkage_names_what_is_not_usual() -> None:
    usual = linkage.command_of("1000000", repetitions=3, flags={"full": False})
    assert usual == "make bench BENCH=linkage"
    flags = {"full": True, "no-skew": True, "no-splink": False}
    told = linkage.command_of("100000", repetitions=1, flags=flags)
    assert told == 'make bench BENCH="linkage --records 100000 --repetitions 1 --full --no-skew"'
    assert linkage.sizes_of("5000,1000,5000") == [1000, 5000]


def test_linkage_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.__main__.machine_facts", None)  # the other benchmark
    assert exit_code_of(application(), ["linkage", "--records", "many"]) == 2
    assert exit_code_of(application(), ["linkage", "--help"]) == 0


def test_splink_that_cannot_be_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0 if "venv" in command else 1)

    monkeypatch.setattr(linkage.subprocess, "run", run)
    python, why = linkage.environment(tmp_path / "splink")
    assert python is None
    assert why is not None and "splink==" in why and "could not be installed" in why


def test_memory_is_that_of_a_process_and_its_children() -> None:
    script = (
        "import time; block = bytearray(b'x' * 60_000_000); print(1, flush=True); time.sleep(9)"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = linkage.family(process.pid)
        assert len(found) == 2
        assert sum(linkage.memory_of(one) for one in found) > 60_000_000
        for one in reversed(found):
            os.kill(one, signal.SIGKILL)
    assert linkage.memory_of(process.pid) == 0


def test_every_step_of_linkage_is_a_function_that_there_is() -> None:
    for owner, attribute, _ in engine_side.STEPS:
        assert callable(getattr(owner, attribute))


def test_linkage_runs_with_the_settings_of_one_machine_but_for_javas(tmp_path: Path) -> None:
    confs = engine_side.settings_of(tmp_path, "6g").spark.confs
    usual = load_settings(engine_side.SETTINGS).spark.confs
    assert "Tier4" in usual["spark.driver.extraJavaOptions"]
    assert "Tier" not in confs["spark.driver.extraJavaOptions"]
    assert confs["spark.driver.memory"] == "6g"
    assert confs["spark.local.dir"].startswith(str(tmp_path))
    same = set(usual) - {"spark.driver.extraJavaOptions", "spark.driver.memory"}
    assert same and all(confs[name] == usual[name] for name in same)


def test_skewed_records_have_one_name_and_birth_date(tmp_path: Path) -> None:
    plain, skewed = tmp_path / "plain.parquet", tmp_path / "skewed.parquet"
    write_persons(plain, 5_000)
    write_skewed(plain, skewed, 0.02)
    one, other = pq.read_table(plain), pq.read_table(skewed)
    same = [row for row in other.to_pylist() if row["dob"] == "1980-01-01"]
    assert 60 <= len(same) <= 140
    assert {(row["first_name"], row["surname"]) for row in same} == {("JOHN", "SMITH")}
    assert one.drop_columns(["first_name", "surname", "dob"]).equals(
        other.drop_columns(["first_name", "surname", "dob"])
    )


def test_a_groups_recall_is_told_beside_what_its_records_explain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commonwealth, "LEAST", 1)
    #                 a person of three records, and three of two; the last two are not found
    real = np.array([1, 1, 1, 2, 2, 3, 3, 4, 4])
    found = np.array([1, 1, 5, 2, 2, 3, 6, 4, 7])
    # The first person's records all have an SSN, as do the second's; of others one at most.
    says = np.array([3, 3, 3, 3, 3, 3, 1, 1, 1])
    people = pl.DataFrame({"person_id": [1, 2, 3, 4], "sex": ["F", "M", "M", "F"]})
    told = commonwealth.of_groups(found, real, says, people)
    both = 2 / 4  # of the four pairs of which both say it
    assert told == [
        commonwealth.Group("sex", "F", 4, 1 / 4, pytest.approx((3 * both + 0) / 4)),
        commonwealth.Group("sex", "M", 2, 1 / 2, pytest.approx((both + 0) / 2)),
    ]
    judged = commonwealth.Judged(
        4,
        9,
        9,
        (1.0, 1.0, 1.0),
        "",
        {"holdout_precision": 0.94321},
        ("x is 1",),
        Agreement(1.0, 0.5),
        Agreement(1.0, 0.5),
        tuple(told),
    )
    assert judged.behind() == [told[0]], "less than the best, and than what they say explains"
    said = commonwealth.in_words(judged, 2**30)
    assert "holdout_precision 0.9432. Limits" in said and "that it breaks: x is 1." in said
    assert "points behind both the best of their kind and what is expected: sex F." in said
