"""The written deliveries: the same for a seed, true to their manifests and contracts."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from decimal import Decimal
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from python_calamine import CalamineWorkbook

from concord.contracts.model import Contract
from concord.contracts.odcs import load_contracts
from concord.errors import UsageError
from concord.synthesis import synthesize
from concord.synthesis.feeds import FEEDS

from .conftest import CONTRACTS, PEOPLE, Commonwealth, one_after_the_other


@pytest.fixture(scope="module")
def contracts() -> dict[str, Contract]:
    return load_contracts(CONTRACTS)


def tree(out: Path) -> dict[str, str]:
    """Hash of every file but the summary, which has seconds in it."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "commonwealth.json"
    }


def records(path: Path, contract: Contract, table: str) -> list[dict[str, str]]:
    """Rows of a file by physical name, read by other code than wrote them."""
    form = contract.table(table).format
    if form.kind == "parquet":
        rows = pq.read_table(path).to_pylist()
        return [{name: str(value) for name, value in row.items()} for row in rows]
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if form.kind == "csv":
        codec = "cp1252" if form.encoding == "windows-1252" else "utf-8"
        return list(csv.DictReader(io.StringIO(data.decode(codec)), delimiter=form.delimiter))
    if form.kind == "json_lines":
        return [json.loads(line) for line in data.decode().splitlines()]
    if form.kind == "fixed_width":
        lines = data.decode("ascii").splitlines()
        assert {len(line) for line in lines} == {form.record_length}
        fields = contract.table(table).fields
        return [
            {
                f.source: line[f.position[0] - 1 : sum(f.position) - 1].strip()
                for f in fields
                if f.position
            }
            for line in lines[1:-1]
        ]
    if form.kind == "xml":
        rows = re.findall(rf"<{form.row_tag}>(.*?)</{form.row_tag}>", data.decode(), re.S)
        return [dict(re.findall(r"<(\w+)>([^<]*)</", row)) for row in rows]
    sheet = CalamineWorkbook.from_path(str(path)).get_sheet_by_name(form.sheet).to_python()
    return [dict(zip(map(str, sheet[0]), map(str, row), strict=True)) for row in sheet[1:]]


def test_a_seed_gives_the_same_bytes_whatever_the_partitions(
    commonwealth: Commonwealth, tmp_path: Path
) -> None:
    synthesize(
        tmp_path, people=PEOPLE, contracts=CONTRACTS, partitions=2, executor=one_after_the_other
    )
    assert tree(tmp_path) == tree(commonwealth.out)


def test_a_feed_more_or_less_changes_no_other(tmp_path: Path) -> None:
    every, some = tmp_path / "every", tmp_path / "some"
    synthesize(every, people=2_000, contracts=CONTRACTS)
    chosen = [feed.name for feed in FEEDS[::2]]
    synthesize(some, people=2_000, feeds=chosen, contracts=CONTRACTS)
    landing = {p: h for p, h in tree(every).items() if p.startswith("landing/")}
    same = {p: h for p, h in tree(some).items() if p.startswith("landing/")}
    assert {p.split("/")[1] for p in same} == set(chosen)
    assert same == {p: h for p, h in landing.items() if p.split("/")[1] in chosen}


def test_another_seed_gives_other_people(commonwealth: Commonwealth, tmp_path: Path) -> None:
    synthesize(tmp_path, people=2_000, seed=8, feeds=["eec_childcare"], contracts=CONTRACTS)
    first = next(tmp_path.glob("landing/*/*/*.psv")).read_text().splitlines()[1]
    assert first not in next(commonwealth.out.glob("landing/eec*/*/*.psv")).read_text()


def test_the_same_request_again_does_nothing_and_another_is_refused(tmp_path: Path) -> None:
    made = synthesize(tmp_path, people=300, feeds=["dph_wic"], contracts=CONTRACTS)
    before = tree(tmp_path)
    assert synthesize(tmp_path, people=300, feeds=["dph_wic"], contracts=CONTRACTS) == made
    assert tree(tmp_path) == before
    with pytest.raises(UsageError, match="another folder"):
        synthesize(tmp_path, people=301, feeds=["dph_wic"], contracts=CONTRACTS)


def test_an_agency_that_has_nobody_delivers_empty_files(tmp_path: Path) -> None:
    made = synthesize(tmp_path, people=20, months=2, backfill=1, contracts=CONTRACTS)
    assert made.feeds == len(list(CONTRACTS.glob("*.yaml")))
    rides = [m for path in tmp_path.glob("landing/dpu_rides/*/manifest.json")
             for m in json.loads(path.read_text())["files"]]  # fmt: skip
    assert made.rows - sum(file["rows"] for file in rides) < 300, "rides are not of these people"


@pytest.mark.parametrize("wrong", [{"faults": ["no_such"]}, {"feeds": ["no_feed"]}, {"months": 0}])
def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        synthesize(tmp_path, contracts=CONTRACTS, **wrong)  # type: ignore[arg-type]


def test_manifests_tell_the_truth(
    commonwealth: Commonwealth, contracts: dict[str, Contract]
) -> None:
    seen = 0
    for folder, manifest in commonwealth.deliveries():
        contract = contracts[manifest["feed"]]
        names = {path.name for path in folder.iterdir()} - {"manifest.json"}
        assert names == {entry["name"] for entry in manifest["files"]}
        for entry in manifest["files"]:
            data = (folder / entry["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == entry["sha256"]
            assert len(data) == entry["bytes"]
            table = contract.table(entry["table"])
            rows = records(folder / entry["name"], contract, entry["table"])
            assert len(rows) == entry["rows"]
            assert set(entry.get("control_totals", {})) == set(table.control_totals)
            for column, total in entry.get("control_totals", {}).items():
                field = table.field(column)
                summed = sum((Decimal(str(row[field.source] or 0)) for row in rows), Decimal(0))
                assert summed / 10**field.implied_decimals == Decimal(total)
            seen += 1
    assert seen > 200


# One man in fifty has a suffix, and of so small a population few study.
RARE = {"dhe_enrollment": {"SUFFIX"}}


def test_every_column_of_every_contract_is_filled(
    commonwealth: Commonwealth, contracts: dict[str, Contract]
) -> None:
    for feed, contract in contracts.items():
        for table in contract.tables:
            filled: set[str] = set()
            for path, _ in commonwealth.files(feed, table.name):
                for row in records(path, contract, table.name):
                    filled |= {k for k, v in row.items() if v not in ("", None)}
            leaf = {f.source.rpartition(".")[2] for f in table.fields}
            assert leaf - RARE.get(feed, set()) <= filled, f"{feed}.{table.name}"


def test_primary_keys_are_unique_within_a_file(
    commonwealth: Commonwealth, contracts: dict[str, Contract]
) -> None:
    for feed, contract in contracts.items():
        for table in contract.tables:
            columns = [table.field(c).source.rpartition(".")[2] for c in table.key]
            for path, _ in commonwealth.files(feed, table.name):
                keys = [tuple(r[c] for c in columns) for r in records(path, contract, table.name)]
                # A relative's SSN at the same employer may repeat a key; nothing else does.
                slack = 2 if feed == "dua_wages" else 0
                assert len(keys) - len(set(keys)) <= slack, path.name


def test_backfill_first_then_monthly_rounds_in_order(commonwealth: Commonwealth) -> None:
    by_feed: dict[str, list[dict[str, object]]] = {}
    for _, manifest in commonwealth.deliveries():
        by_feed.setdefault(manifest["feed"], []).append(manifest)
    assert len(by_feed) == len(FEEDS)
    for manifests in by_feed.values():
        manifests.sort(key=lambda m: m["sequence"])  # type: ignore[arg-type, return-value]
        assert [m["sequence"] for m in manifests] == list(range(1, len(manifests) + 1))
        created = [str(m["created_at"]) for m in manifests]
        assert created == sorted(created)
        assert created[0] <= "2025-04-03T06:00:00Z"
        assert all(later > "2025-04-03T06:00:00Z" for later in created[1:])
    snap = by_feed["dta_snap"]
    assert [len({f["period"] for f in m["files"]}) for m in snap] == [15, 1, 1, 1]  # type: ignore[attr-defined]
    weeks = by_feed["dua_claims"][1:]
    assert all(4 <= len(m["files"]) <= 5 for m in weeks)  # type: ignore[arg-type]


def test_wages_come_one_to_two_quarters_late(commonwealth: Commonwealth) -> None:
    last = max(
        (m for _, m in commonwealth.deliveries() if m["feed"] == "dua_wages"),
        key=lambda m: m["sequence"],
    )
    assert [f["period"] for f in last["files"]] == ["2024-Q4"]
    assert last["created_at"].startswith("2025-05-14")


def test_every_source_key_has_a_person_in_the_truth(
    commonwealth: Commonwealth, contracts: dict[str, Contract]
) -> None:
    truth = commonwealth.truth("records")
    for feed, contract in contracts.items():
        for table in contract.tables:
            for subject in table.subjects:
                if subject.identifiers is None:
                    continue
                mask = pc.and_(pc.equal(truth["feed"], feed), pc.equal(truth["role"], subject.role))
                known = truth.filter(mask)
                if subject.kind == "person":
                    assert known["person_id"].null_count == 0
                keys = set(known["source_key"].to_pylist())
                columns = [table.field(c).source.rpartition(".")[2] for c in subject.key]
                for path, _ in commonwealth.files(feed, table.name):
                    for row in records(path, contract, table.name):
                        assert "|".join(row[c] for c in columns) in keys, (feed, subject.role)


def test_bad_rows_are_few_and_listed(
    commonwealth: Commonwealth, contracts: dict[str, Contract]
) -> None:
    bad = commonwealth.truth("bad_rows")
    assert set(bad["error"].to_pylist()) == {
        "impossible_date", "missing_required", "unknown_code",
    }  # fmt: skip
    for feed, contract in contracts.items():
        share = pc.sum(pc.equal(bad["feed"], feed)).as_py() / sum(
            entry["rows"] for t in contract.tables for _, entry in commonwealth.files(feed, t.name)
        )
        assert share < contract.quarantine_limit / 4
    rows = [
        r
        for path, _ in commonwealth.files("dta_snap", "persons")
        for r in records(path, contracts["dta_snap"], "persons")
    ]
    impossible = sum(any("02/31/2024" in str(v) for v in r.values()) for r in rows)
    listed = bad.filter(
        pc.and_(pc.equal(bad["table"], "persons"), pc.equal(bad["error"], "impossible_date"))
    )
    assert impossible == len(listed) > 0
