"""Reading contracts: what a good one means, and what each mistake is told as."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concord.contracts import model
from concord.contracts.odcs import load_contract, load_contracts
from concord.errors import ConfigError
from tests.unit.contracts.claims import CLAIMS, Load, changed, line_of

# Each example writes a file anew, so the shared fixture does no harm.
SLOW: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


def test_a_good_contract_is_read_into_types(load: Load) -> None:
    contract = load(CLAIMS)
    assert (contract.feed, contract.agency, contract.calendar) == ("claims", "dua", "week")
    assert (contract.retention_years, contract.quarantine_limit) == (7, 0.02)
    assert contract.description == "Weekly claims.\n\nCounting."
    claims, employers = contract.tables
    assert claims.key == ("claim_id",)
    assert claims.control_totals == ("amount",)
    assert isinstance(claims.format, model.Csv)
    assert claims.format.delimiter == "|"
    assert isinstance(employers.format, model.FixedWidth)
    assert employers.format.trailer == model.RecordLayout(prefix="T", rows=(2, 6))
    assert employers.field("workers").position == (9, 6)


def test_columns_carry_their_checks_as_values_of_their_type(load: Load) -> None:
    claims = load(CLAIMS).table("claims")
    assert claims.field("claim_id").source == "claimId"
    assert claims.field("claim_id").required  # a key column always is
    assert claims.field("amount").minimum == Decimal(0)
    assert claims.field("filed_on").minimum == date(1990, 1, 1)
    assert claims.field("filed_on").date_formats == ("yyyy-MM-dd", "MM/dd/yyyy")
    assert claims.field("active").booleans == {"Y": True, "N": False}
    assert claims.field("race_code").allowed == ("1", "2")
    harmonise = claims.field("race_code").harmonise
    assert harmonise is not None
    assert harmonise.map == {"1": "white", "2": "black"}


def test_rules_subjects_and_relationships_are_read(load: Load) -> None:
    claims, employers = load(CLAIMS).tables
    assert [s.record_id for s in claims.subjects] == ["claimant_record_id", "case_record_id"]
    assert [s.identifiers is None for s in claims.subjects] == [False, True]
    assert claims.row_rules[0].condition == "amount <= 1033"
    count, nulls = claims.table_rules
    assert (count.metric, count.minimum, count.maximum) == ("rowCount", 1, None)
    assert (nulls.column, nulls.percent, nulls.severity) == ("employer_id", True, "warning")
    assert nulls.maximum is not None
    assert 4.999 < nulls.maximum < 5
    assert employers.table_rules[0].metric == "sql"  # unique
    assert "count(DISTINCT workers)" in str(employers.table_rules[0].query)
    reference = claims.references[0]
    assert (reference.columns, reference.to_table) == (("employer_id",), "employers")


# Each: what to replace, by what, where the line is, and words of the message.
MISTAKES = {
    "unknown key": ("status: active", "statuss: active", "statuss", "unknown key"),
    "missing key": ("version: 1.0.0\n", "", "apiVersion", "'version' is missing"),
    "version": ("version: 1.0.0", "version: '1.0'", "version: '1.0'", "major.minor.patch"),
    "feed is not the file": ("id: claims", "id: claim", "id: claim", "file's name"),
    "agency": ("value: dua", "value: dta", "value: dta", "use one of dua"),
    "calendar": ("value: week", "value: weekly", "value: weekly", "use one of day"),
    "limit": ("value: 0.02", "value: 2", "value: 2", "share from 0 to 1"),
    "retention unit": ("unit: y", "unit: d", "value: 7", "must be in years"),
    "policy": ("value: upsert", "value: merge", "value: merge", "full_refresh"),
    "custom property": ("controlTotals", "controlTotal", "controlTotal", "did you mean"),
    "format kind": ("kind: csv", "kind: cvs", "kind: cvs", "cvs"),
    "format key": ('delimiter: "|"', 'delimeter: "|"', "delimeter", "unknown key 'delimeter'"),
    "delimiter": ('delimiter: "|"', 'delimiter: "||"', "delimiter", "one character"),
    "encoding": ("windows-1252", "cp1252", "cp1252", "windows-1252"),
    "no key": ("        primaryKey: true\n", "", "name: claims\n", "needs a primary key"),
    "subject key": ("key: [ssn]", "key: [sn]", "key: [sn]", "no column 'sn'"),
    "identifier column": ("phones: [phone]", "phones: [fone]", "phones: [fone]", "no column"),
    "identifier name": ("phones: [phone]", "fax: phone", "claimant", "unknown identifier 'fax'"),
    "one record of a thing": ("role: claimant",
                              "role: claimant\n            kind: entity\n"
                              "            one_record_per_person: true",
                              "role: claimant", "is said of persons"),
    "direct unmapped": ("              given_name: first_name\n", "",
                        "name: first_name", "nowhere to go"),
    "mapped but not vault": ("value: quasi}\n          - property: harm",
                             "value: none}\n          - property: harm",
                             "race: race_code", "must be direct or quasi"),
    "birth date as text": ("given_name: first_name",
                           "given_name: first_name\n              birth_date: first_name",
                           "birth_date: first_name", "must be a date"),
    "never written": ("role: claimant", "role: claimant\n            kind: robot",
                      "kind: robot", "'person' or 'entity'"),
    "derived name taken": ("name: filed_year", "name: filed_on", "name: filed_on", "is taken"),
    "derived record id": ("name: filed_year", "name: case_record_id",
                          "name: case_record_id", "is taken"),
    "derived direct": ("identifierRole: quasi", "identifierRole: direct",
                       "identifierRole: direct", "cannot be direct"),
    "derived type": ("type: int\n", "type: integer\n", "type: integer", "unknown Spark type"),
    "control total": ("value: [amount]", "value: [sum]", "value: [sum]", "no column 'sum'"),
    "control total text": ("value: [amount]", "value: [phone]", "value: [phone]", "not a number"),
    "relationship table": ("to: employers.employer_id", "to: employer.employer_id",
                           "to: employer.", "no table 'employer'"),
    "relationship column": ("to: employers.employer_id", "to: employers.id",
                            "to: employers.id", "no column 'id'"),
    "relationship type": ("to: employers.employer_id", "to: employers.workers",
                          "from: claims", "the same type"),
    "rule bound": ("{metric: rowCount, mustBeGreaterThan: 0}", "{metric: rowCount}",
                   "metric: rowCount", "exactly one bound"),
    "rule engine": ("engine: concord", "engine: soda", "engine: soda", "use concord"),
    "rule column": ("columns: [amount]", "columns: [amont]", "columns: [amont]", "'amount'"),
    "rule severity": ("severity: warning", "severity: info", "severity: info", "use one of error"),
    "metric": ("metric: nullValues", "metric: nulls", "metric: nulls", "use one of nullValues"),
    "classification": ("classification: internal", "classification: secret",
                       "classification: secret", "use one of public"),
    "no role": ("        customProperties: [{property: identifierRole, value: none}]\n", "",
                "name: claim_id", "'identifierRole' is missing"),
    "role": ("value: sensitive", "value: secret", "value: secret", "use one of direct"),
    "type": ("physicalType: decimal(10,2)", "physicalType: decimal",
             "physicalType: decimal", "decimal(p,s)"),
    "logical type": ("logicalType: boolean", "logicalType: string",
                     "logicalType: string\n        physicalType: boolean", "use boolean"),
    "minimum": ("minimum: 1990-01-01", "minimum: 1990-13-01", "minimum: 1990", "type date"),
    "bounds crossed": ("minimum: 0", "minimum: 6000", "minimum: 6000", "above maximum"),
    "pattern": ("'\\A\\d{9}\\z'", "'(\\d{9}'", "pattern:", "not a regular expression"),
    "week year": ("format: yyyy", "format: YYYY", "format: YYYY", "write yyyy"),
    "day of year": ("MM/dd/yyyy", "MM/DD/yyyy", "MM/DD/yyyy", "write dd"),
    "date letter": ("MM/dd/yyyy", "MM/tt/yyyy", "MM/tt/yyyy", "unknown letter"),
    "booleans": ('{"Y": true', '{"Y": yess', "booleans", "boolean"),
    "enum text": ('{value: "1", label', "{value: 1, label", "value: 1, label", "put it in quotes"),
    "list": ("to: race,", "to: rase,", "to: rase", "no code list 'rase'"),
    "code": ('"2": black', '"2": blak', '"2": blak', "is no code of 'race'"),
    "code not mapped": ('"1": white, "2": black', '"1": white', '"1": white', "maps no '2'"),
    "overlap": ("value: [9, 6]", "value: [8, 6]", "name: workers", "overlaps"),
    "too long": ("value: [9, 6]", "value: [16, 6]", "name: workers", "beyond the record length"),
    "no position": ("          - {property: position, value: [9, 6]}\n", "",
                    "name: workers", "'position' is missing"),
    "duplicate column": ("name: phone", "name: first_name\n        physicalName: x",
                         "name: first_name\n        physicalName: x", "is taken"),
    "bad name": ("name: workers", "name: Workers", "name: Workers", "lower case"),
    "broken YAML": ("version: 1.0.0", "version: [1.0.0", "kind", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line(mistake: str, load: Load) -> None:
    old, new, at, words = MISTAKES[mistake]
    text = changed(old, new)
    with pytest.raises(ConfigError) as caught:
        load(text)
    told = "\n".join(caught.value.problems)
    assert words in told
    assert len(caught.value.problems) <= 3, told  # one mistake does not bring a flood of others
    if mistake != "broken YAML":
        assert any(
            f"claims.yaml:{line_of(at, text)}: " in p and words in p for p in caught.value.problems
        ), told


# Mistakes whose pieces stand apart, so that any of them fit into one file.
APART = [
    "agency", "calendar", "limit", "policy", "derived name taken", "control total",
    "relationship column", "rule column", "classification", "role", "minimum", "list",
    "overlap", "week year",
]  # fmt: skip


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chosen=st.sets(st.sampled_from(APART), min_size=1, max_size=6))
def test_all_mistakes_are_told_at_once(chosen: set[str], load: Load) -> None:
    text = CLAIMS
    for name in chosen:
        text = changed(*MISTAKES[name][:2], text)
    with pytest.raises(ConfigError) as caught:
        load(text)
    for name in chosen:
        _, _, at, words = MISTAKES[name]
        place = f"claims.yaml:{line_of(at, text)}: "
        assert any(place in p and words in p for p in caught.value.problems), name


def test_all_mistakes_of_all_files_are_told_at_once(conf: Path) -> None:
    for feed in ("claims", "other"):
        text = changed("value: week", "value: weekly").replace("id: claims", f"id: {feed}")
        (conf / "feeds" / f"{feed}.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_contracts(conf / "feeds")
    assert [p.split(":")[0].rsplit("/")[-1] for p in caught.value.problems] == [
        "claims.yaml",
        "other.yaml",
    ]


def test_contracts_are_keyed_by_feed(conf: Path) -> None:
    for feed in ("claims", "other"):
        text = CLAIMS.replace("id: claims", f"id: {feed}")
        (conf / "feeds" / f"{feed}.yaml").write_text(text)
    assert list(load_contracts(conf / "feeds")) == ["claims", "other"]


def test_a_person_no_table_writes_is_refused(load: Load) -> None:
    lines = CLAIMS.replace("role: case\n            kind: entity", "role: case")
    with pytest.raises(ConfigError, match="no table writes subject 'case'"):
        load(lines)


def test_a_subject_means_the_same_in_every_table(load: Load) -> None:
    own = (
        "\n      - property: subjects\n        value: [{role: case, kind: entity, key: [workers]}]"
    )
    text = changed("{property: loadPolicy, value: full_refresh}",
                   "{property: loadPolicy, value: full_refresh}" + own)  # fmt: skip
    with pytest.raises(ConfigError, match="subject 'case' differs from that of table 'claims'"):
        load(text)


def test_tables_that_share_the_vault_share_a_load_policy(load: Load) -> None:
    own = (
        "\n      - property: subjects\n"
        "        value: [{role: firm, kind: entity, key: [workers], identifiers: {}}]"
    )
    text = changed("{property: loadPolicy, value: full_refresh}",
                   "{property: loadPolicy, value: full_refresh}" + own)  # fmt: skip
    with pytest.raises(ConfigError, match="under the load policy 'full_refresh', not 'upsert'"):
        load(text)


def test_snapshot_tables_keep_their_own_columns(load: Load) -> None:
    text = changed("value: upsert", "value: snapshot")
    load(text)
    with pytest.raises(ConfigError, match="'valid_from' is taken"):
        load(changed("name: filed_year", "name: valid_from", text))


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "schema: 3\nid: claims\n"])
def test_what_is_no_contract_at_all_is_a_configuration_error(text: str, load: Load) -> None:
    with pytest.raises(ConfigError):
        load(text)


def test_a_missing_file_is_a_configuration_error(conf: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_contract(conf / "feeds" / "nothing.yaml")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_torn_file_is_never_a_bug(data: st.DataObject, load: Load) -> None:
    """Whatever single line is lost, the contract loads or a ConfigError says why."""
    lines = CLAIMS.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    try:
        load("".join(lines[:at] + lines[at + 1 :]))
    except ConfigError as error:
        assert all("claims.yaml:" in problem for problem in error.problems)
