"""The data dictionary and the schemas for editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft201909Validator, Draft202012Validator

from concord.contracts import dictionary, schemas
from concord.contracts.odcs import load_contracts, read_code_lists
from concord.settings import read_document
from tests.unit.contracts.claims import CLAIMS, Load, changed

ROOT = Path(__file__).resolve().parents[3]


def test_a_page_says_what_each_column_is_and_where_it_goes(load: Load) -> None:
    page = dictionary.page(load(CLAIMS))
    rows = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("| `")}
    assert rows["| `ssn`"].endswith("curated as `claimant_record_id`, vault (ssn of claimant) |")
    assert rows["| `first_name`"].endswith("| vault (given_name of claimant) |")
    assert rows["| `amount`"].endswith("| minimum 0; maximum 5000 | curated |")
    assert "in the file: `claimId`" in rows["| `claim_id`"]
    assert "`1`, `2`" in rows["| `race_code`"]
    assert rows["| `race_code`"].endswith("| curated, vault (race of claimant) |")
    assert "`race_code` in the standard list [race](code-lists.md)" in rows["| `race`"]
    assert "| benefitWithinMaximum | `amount <= 1033` |" in page


def test_a_bar_in_a_rule_does_not_break_the_table(load: Load) -> None:
    page = dictionary.page(load(changed("amount <= 1033", "amount <= 1033 || true")))
    assert r"`amount <= 1033 \|\| true`" in page


def test_pages_are_written_once_and_old_ones_removed(load: Load, tmp_path: Path) -> None:
    contract = load(CLAIMS)
    folder = tmp_path / "pages"
    lists = {"race": {"white": "White"}}
    first = dictionary.write({"claims": contract, "gone": contract}, lists, folder)
    (folder / "own.md").write_text("written by a person")
    second = dictionary.write({"claims": contract}, lists, folder)
    assert {path.name for path in first} == {
        "README.md", "claims.md", "code-lists.md", "gone.md",
    }  # fmt: skip
    assert {path.name for path in second} == {"README.md", "gone.md"}
    assert (folder / "own.md").exists()
    assert not (folder / "gone.md").exists()
    assert dictionary.write({"claims": contract}, lists, folder) == []


def test_the_committed_pages_are_those_of_the_contracts() -> None:
    contracts = load_contracts(ROOT / "conf" / "feeds")
    lists = read_code_lists(ROOT / "conf" / "code_lists.yaml") or {}
    folder = ROOT / "docs" / "data-dictionary"
    for name, text in dictionary.pages(contracts, lists).items():
        committed = (folder / name).read_text(encoding="utf-8")
        assert committed == text, f"{name} is old: run `concord contract docs`"


def test_the_committed_schemas_are_those_of_the_types() -> None:
    for kind, schema in schemas.schemas().items():
        path = ROOT / "conf" / "schemas" / f"{kind}.schema.json"
        committed = json.loads(path.read_text(encoding="utf-8"))
        assert committed == json.loads(json.dumps(schema)), "run `concord contract docs`"


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("contract", "feeds/*.yaml"),
        ("agencies", "agencies.yaml"),
        ("mou", "agreements/MOU-*.yaml"),
        ("dula", "agreements/DULA-*.yaml"),
        ("code_lists", "code_lists.yaml"),
        ("settings", "settings/*.yaml"),
    ],
)
def test_every_configuration_file_names_its_schema_and_meets_it(kind: str, pattern: str) -> None:
    schema = schemas.schemas()[kind]
    draft = Draft201909Validator if kind == "contract" else Draft202012Validator
    paths = sorted((ROOT / "conf").glob(pattern))
    assert paths
    for path in paths:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema="), path
        target = path.parent / first.split("=", 1)[1]
        assert target.resolve() == (ROOT / "conf" / "schemas" / f"{kind}.schema.json")
        plain = json.loads(json.dumps(read_document(path).data, default=str))
        assert [error.message for error in draft(schema).iter_errors(plain)] == []


def test_the_contract_schema_knows_our_own_properties(load: Load, conf: Path) -> None:
    schema = Draft201909Validator(schemas.schemas()["contract"])

    def errors(text: str) -> int:
        (conf / "feeds" / "claims.yaml").write_text(text)
        data = read_document(conf / "feeds" / "claims.yaml").data
        return len(list(schema.iter_errors(json.loads(json.dumps(data, default=str)))))

    assert errors(CLAIMS) == 0
    for old, new in (
        ("value: upsert", "value: merge"),
        ("value: sensitive", "value: secret"),
        ("phones: [phone]", "fax: phone"),
        ("value: [9, 6]", "value: [9]"),
        ("kind: csv", "kind: cvs"),
        ("to: race,", "too: race,"),
        ("property: controlTotals", "property: controlTotal"),
    ):
        assert errors(changed(old, new)) > 0, new
