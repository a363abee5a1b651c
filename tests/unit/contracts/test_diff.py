"""What a change of a contract is called, whom it breaks and which version it demands."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.contracts.diff import demanded, diff, next_version, version_is_enough
from concord.contracts.model import Contract
from concord.contracts.odcs import load_contract
from tests.unit.contracts.claims import CLAIMS, Load, changed

# Each: what to replace, by what, the kind of change expected, its place, the bump it demands.
CHANGES = {
    "description": ("One row per weekly claim.", "One row per claim.",
                    "table_description", "claims", "patch"),
    "title": ("name: Weekly claims", "name: Claims", "contract_title", "claims", "patch"),
    "limit": ("value: 0.02", "value: 0.05", "contract_quarantine_limit", "claims", "minor"),
    "retention": ("value: 7", "value: 5", "contract_retention_years", "claims", "minor"),
    "policy": ("value: upsert", "value: snapshot", "table_policy", "claims", "major"),
    "encoding": ("windows-1252", "utf-8", "table_format", "claims", "minor"),
    "retyped": ("decimal(10,2)", "decimal(8,2)", "column_type", "claims.amount", "major"),
    "optional": ("        required: true\n", "", "column_optional", "claims.filed_on", "major"),
    "enum value removed": ('{value: "1", label: White}, {value: "2", label: Black}',
                           '{value: "1", label: White}', "enum_value_removed",
                           "claims.race_code", "major"),
    "rule loosened": ("amount <= 1033", "amount <= 2000", "row_rule_condition",
                      "claims.benefitWithinMaximum", "minor"),
    "rule removed": ("      - {metric: rowCount, mustBeGreaterThan: 0}\n", "",
                     "table_rule_removed", "claims.rowCount", "minor"),
    "role raised": ("value: none}]\n        quality", "value: direct}]\n        quality",
                    "column_to_vault", "claims.employer_id", "major"),
    "subject key": ("key: [case_id]", "key: [claim_id]", "subject_key", "claims.case", "major"),
    "relationship": ("    relationships:\n      - {from: claims.employer_id, "
                     "to: employers.employer_id}\n", "", "relationship_removed",
                     "claims.employer_id to employers.employer_id", "minor"),
    "derived": ("year(filed_on)", "year(filed_on) + 1", "derived_expression",
                "claims.filed_year", "minor"),
    "harmonised": ("column: race,", "column: race_std,", "harmonise_changed",
                   "claims.race_code", "major"),
    "harmonised code": ('"2": black', '"2": unknown', "harmonise_map",
                        "claims.race_code", "minor"),
    "classification": ("classification: internal", "classification: confidential",
                       "classification_raised", "claims.active", "minor"),
    "date format": ("MM/dd/yyyy", "M/d/yyyy", "column_date_formats",
                    "claims.filed_on", "minor"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told_by_kind_place_and_bump(name: str, load: Load) -> None:
    old, new, kind, place, bump = CHANGES[name]
    before = load(CLAIMS)
    text = changed(old, new)
    if name == "enum value removed":
        text = changed('"1": white, "2": black', '"1": white', text)
    if name == "role raised":
        text = changed("phones: [phone]", "phones: [phone]\n              city: employer_id", text)
    changes = diff(before, load(text))
    told = {(change.kind, change.place): change for change in changes}
    assert (kind, place) in told, told
    assert told[kind, place].bump == bump
    assert told[kind, place].breaks == (bump == "major")
    assert demanded(changes) == bump


def test_a_removed_column_and_an_added_one_differ_from_a_rename(load: Load) -> None:
    before = load(CLAIMS)
    column = "      - name: active\n        logicalType: boolean\n        physicalType: boolean\n"
    renamed = changed(
        column, column.replace("name: active", "name: live\n        physicalName: active")
    )
    assert [(c.kind, c.breaks) for c in diff(before, load(renamed))] == [("column_renamed", True)]
    other = changed("name: active", "name: approved")
    assert [(c.kind, c.breaks) for c in diff(before, load(other))] == [
        ("column_removed", True),
        ("column_added", False),
    ]


def test_tables_and_keys(load: Load) -> None:
    before = load(CLAIMS)
    moved = before.model_copy(update={"tables": before.tables[:1]})
    assert [(c.kind, c.place) for c in diff(before, moved)] == [("table_removed", "employers")]
    assert [(c.kind, c.breaks) for c in diff(moved, before)] == [("table_added", False)]
    two = changed("name: case_id\n", "name: case_id\n        primaryKey: true\n")
    kinds = {c.kind for c in diff(before, load(two))}
    assert "key_changed" in kinds


@cache
def _contract() -> Contract:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "claims.yaml"
        path.write_text(CLAIMS)
        return load_contract(path, code_lists={"race": {"white": "", "black": "", "unknown": ""}})


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_difference_goes_unnoticed(data: st.DataObject) -> None:
    """Contracts are equal if and only if the diff is empty, whichever attribute changes."""
    before = _contract()
    table = data.draw(st.sampled_from(before.tables))
    field = data.draw(st.sampled_from(table.fields))
    changes = {
        "description": "another",
        "required": not field.required,
        "pattern": "x+",
        "minimum": 17,
        "max_length": 3,
        "allowed": ("x",),
        "booleans": {"1": True},
        "implied_decimals": 4,
        "position": (3, 1),
        "source": "elsewhere",
        "type": "bigint",
        "identifier_role": "quasi" if field.identifier_role == "none" else "none",
        "classification": "public",
        "date_formats": ("yyyy",),
        "harmonise": None,
        "key_position": 1 if field.key_position is None else None,
    }
    chosen = data.draw(st.sets(st.sampled_from(sorted(changes)), max_size=3))
    other = field.model_copy(update={name: changes[name] for name in chosen})
    fields = tuple(other if f is field else f for f in table.fields)
    changed_table = table.model_copy(update={"fields": fields})
    tables = tuple(changed_table if t is table else t for t in before.tables)
    after = before.model_copy(update={"tables": tables})
    found = diff(before, after)
    assert bool(found) == (before != after)
    assert all(change.place.startswith(table.name) for change in found)


def test_a_contract_does_not_differ_from_itself(load: Load) -> None:
    assert diff(load(CLAIMS), load(CLAIMS)) == []
    assert demanded([]) is None


def test_versions_step_by_the_demanded_bump(load: Load) -> None:
    assert next_version("1.4.2", "major") == "2.0.0"
    assert next_version("1.4.2", "minor") == "1.5.0"
    assert next_version("1.4.2", "patch") == "1.4.3"
    assert next_version("1.4.2", None) == "1.4.2"
    before = load(CLAIMS)
    text = changed("decimal(10,2)", "double")
    assert not version_is_enough(before, load(text))
    assert not version_is_enough(before, load(text.replace("version: 1.0.0", "version: 1.9.9")))
    assert version_is_enough(before, load(text.replace("version: 1.0.0", "version: 2.0.0")))
