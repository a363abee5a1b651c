"""Each planted fault does what its name says, and leaves the rest of the delivery true."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from concord.errors import UsageError
from concord.synthesis import FAULTS, plant, synthesize

from .conftest import CONTRACTS, Commonwealth

CONTENT = ("truncated_gzip", "wrong_header", "wrong_encoding", "extra_columns", "schema_drift",
           "impossible_dates", "duplicate_keys")  # fmt: skip


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


@pytest.fixture
def feed(commonwealth: Commonwealth, tmp_path: Path) -> Path:
    """A copy of the SNAP deliveries that a test may damage."""
    return Path(shutil.copytree(commonwealth.out / "landing" / "dta_snap", tmp_path / "dta_snap"))


@pytest.fixture
def delivery(feed: Path) -> Path:
    return sorted(feed.iterdir())[1]


def mismatches(folder: Path) -> list[str]:
    """What the manifest says wrongly about bytes and hashes."""
    found = []
    for entry in manifest(folder)["files"]:
        data = (folder / entry["name"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"] or len(data) != entry["bytes"]:
            found.append(entry["name"])
    return found


def changed_file(folder: Path, before: dict[str, bytes]) -> tuple[str, bytes]:
    """The one file whose content differs (by name without .gz)."""
    changed = [
        path
        for path in folder.iterdir()
        if path.name != "manifest.json" and before.get(path.name) != path.read_bytes()
    ]
    assert len(changed) == 1
    return changed[0].name, changed[0].read_bytes()


@pytest.mark.parametrize("fault", CONTENT)
def test_a_fault_in_the_content_keeps_the_manifest_true(delivery: Path, fault: str) -> None:
    before = {path.name: path.read_bytes() for path in delivery.iterdir()}
    told = plant(delivery, fault, seed=1)
    name, data = changed_file(delivery, before)
    assert mismatches(delivery) == []
    assert name in told
    entry = next(e for e in manifest(delivery)["files"] if e["name"] == name)
    old = before.get(name.removesuffix(".gz"), b"")
    lines, old_lines = data.split(b"\n"), old.split(b"\n")
    if fault == "truncated_gzip":
        with pytest.raises(EOFError):
            gzip.decompress(data)
    elif fault == "wrong_header":
        assert lines[1:] == old_lines[1:]
        assert lines[0] != old_lines[0]
        assert lines[0].count(b",") == old_lines[0].count(b",")
    elif fault == "wrong_encoding":
        assert data.decode("utf-16").encode("cp1252") == old
    elif fault == "extra_columns":
        assert lines[0] == old_lines[0]
        longer = [a for a, b in zip(lines, old_lines, strict=True) if a != b]
        assert 1 <= len(longer) <= len(lines) / 100
        assert all(line.endswith(b",LEGACY") for line in longer)
    elif fault == "schema_drift":
        assert lines[0] == old_lines[0] + b",source_system"
        assert all(line.endswith(b",LEGACY") for line in lines[1:-1])
    elif fault == "impossible_dates":
        assert data.count(b"02/31/2024") > old.count(b"02/31/2024")
        assert len(lines) == len(old_lines)
    else:
        assert entry["rows"] == len(lines) - 2 > len(old_lines) - 2
        assert set(lines) == set(old_lines)


@pytest.mark.parametrize("fault", ["wrong_header", "schema_drift", "extra_columns"])
@pytest.mark.parametrize(
    "of", ["dua_wages", "dua_claims", "masshire_training", "dph_wic", "dese_enrollment"]
)
def test_content_faults_suit_every_format(
    commonwealth: Commonwealth, tmp_path: Path, of: str, fault: str
) -> None:
    folder = sorted((commonwealth.out / "landing" / of).iterdir())[-1]
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    plant(copy, fault)
    changed_file(copy, before)
    assert mismatches(copy) == []


def test_parquet_takes_faults_of_the_manifest_and_none_of_the_content(
    commonwealth: Commonwealth, tmp_path: Path
) -> None:
    folder = next((commonwealth.out / "landing" / "dpu_rides").iterdir())
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    for fault in ("wrong_header", "wrong_encoding", "schema_drift", "impossible_dates"):
        with pytest.raises(UsageError, match="fault of the manifest"):
            plant(copy, fault)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    plant(copy, "wrong_hash")
    assert len(mismatches(copy)) == 1


def test_a_missing_file_stays_listed(delivery: Path) -> None:
    plant(delivery, "missing_file")
    missing = [
        e["name"] for e in manifest(delivery)["files"] if not (delivery / e["name"]).exists()
    ]
    assert len(missing) == 1


def test_a_wrong_hash_is_one_file_alone(delivery: Path) -> None:
    plant(delivery, "wrong_hash")
    assert len(mismatches(delivery)) == 1


def test_a_wrong_row_count_is_one_too_many(delivery: Path) -> None:
    before = manifest(delivery)
    plant(delivery, "wrong_row_count")
    rows = [e["rows"] for e in manifest(delivery)["files"]]
    assert sum(rows) == sum(e["rows"] for e in before["files"]) + 1


def test_a_total_is_off_by_a_cent(delivery: Path) -> None:
    def total(folder: Path) -> float:
        return sum(float(v) for e in manifest(folder)["files"] for v in
                   e.get("control_totals", {}).values())  # fmt: skip

    before = total(delivery)
    plant(delivery, "cent_off_control_total")
    assert round(total(delivery) - before, 2) == 0.01


def test_without_a_manifest_the_files_remain(delivery: Path) -> None:
    plant(delivery, "no_manifest")
    assert {path.suffix for path in delivery.iterdir()} == {".csv"}


def test_a_copy_is_equal_byte_for_byte(feed: Path, delivery: Path) -> None:
    plant(delivery, "same_file_twice")
    (copy,) = feed.glob("*-copy")
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in delivery.iterdir()
    }


def test_a_resent_month_has_new_content_and_the_next_sequence(feed: Path, delivery: Path) -> None:
    periods = {e["period"] for e in manifest(delivery)["files"]}
    plant(delivery, "resent_month")
    (resent,) = feed.glob("*-resent")
    assert {e["period"] for e in manifest(resent)["files"]} == periods
    assert mismatches(resent) == []
    assert sum(e["rows"] for e in manifest(resent)["files"]) < sum(
        e["rows"] for e in manifest(delivery)["files"]
    )
    in_time = sorted((manifest(f)["created_at"], manifest(f)["sequence"]) for f in feed.iterdir())
    assert [sequence for _, sequence in in_time] == [1, 2, 3, 4, 5]
    assert manifest(resent)["sequence"] == 3


def test_a_late_delivery_comes_after_newer_periods(feed: Path, delivery: Path) -> None:
    plant(delivery, "late_file")
    assert manifest(delivery)["sequence"] == 3
    assert manifest(sorted(feed.iterdir())[2])["sequence"] == 2


def test_a_withdrawal_names_the_delivery(feed: Path, delivery: Path) -> None:
    plant(delivery, "withdrawn")
    (notice,) = feed.glob("*-withdrawal-*")
    assert manifest(notice)["withdraws"] == manifest(delivery)["sequence"]
    assert manifest(notice)["files"] == []
    assert manifest(notice)["kind"] == "withdrawal"


def test_planting_repeats_by_its_seed(feed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(feed, tmp_path / "again"))
    for root in (feed, copy):
        plant(sorted(root.iterdir())[1], "impossible_dates", seed=5)
    assert manifest(sorted(feed.iterdir())[1]) == manifest(sorted(copy.iterdir())[1])


def test_an_unknown_fault_is_refused(delivery: Path) -> None:
    with pytest.raises(UsageError, match="resent_month"):
        plant(delivery, "gremlins")


def test_requested_faults_are_planted_and_listed(tmp_path: Path) -> None:
    synthesize(
        tmp_path, people=2_000, feeds=["dta_snap", "dua_wages"], contracts=CONTRACTS,
        faults=["resent_month", "cent_off_control_total", "dua_wages:wrong_header"],
    )  # fmt: skip
    listed = json.loads((tmp_path / "truth" / "faults.json").read_text())
    assert [f["fault"] for f in listed] == [
        "resent_month", "cent_off_control_total", "wrong_header",
    ]  # fmt: skip
    assert listed[2]["feed"] == "dua_wages"
    assert len(list((tmp_path / "landing" / "dta_snap").iterdir())) == 5
    assert set(FAULTS) >= {f["fault"] for f in listed}
