"""MOUs and agencies: reading and checking them, what they permit, the labels they make."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.agreements import labels as names
from concord.agreements.agencies import load_agencies
from concord.agreements.canonical import digest
from concord.agreements.decision import Holding, may_hold
from concord.agreements.labels import column_labels, labels
from concord.agreements.mou import (
    Contribution,
    Mou,
    contribution,
    load_mou,
    load_mous,
)
from concord.contracts.model import Contract, Derived, Field, Harmonise, JsonLines, Subject, Table
from concord.errors import ConfigError, RefusedError
from tests.agreed import register

ROOT = Path(__file__).resolve().parents[3]

AGENCIES = """\
hub: office
secretariats: {labor: Labor, tech: Technology}
agencies:
  dua: {name: Unemployment, secretariat: labor, mou_since: 2018-11-01, coordinator: Director}
  dta: {name: Assistance, secretariat: labor, coordinator: Director}
  office: {name: Office, secretariat: tech, mou_since: 2018-11-01, coordinator: Council}
"""
MOU = """\
id: MOU-2018-0001
version: 1
title: Statewide memorandum
hub: office
effective: 2018-11-01
expires: 2030-10-31
signatories: [dua, office]
contributions:
  - clause: "4.1"
    agency: dua
    feed: dua_claims
    tables: [claims]
    identifiers: true
    may_be_matched: true
    purposes: [research, program-evaluation]
    retention_years: 7
    effective: 2020-01-01
    expires: 2025-12-31
"""


def a_field(name: str, **changes: object) -> Field:
    values: dict[str, object] = {
        "name": name,
        "source": name,
        "type": "string",
        "identifier_role": "none",
        "classification": "internal",
    }
    return Field.model_validate(values | changes)


DIRECT = {"identifier_role": "direct", "classification": "restricted"}
CLAIMS = Table(
    name="claims",
    description="",
    format=JsonLines(kind="json_lines"),
    policy="upsert",
    fields=(
        a_field("claim_id", key_position=1),
        a_field("ssn", **DIRECT),
        a_field("first_name", **DIRECT),
        a_field(
            "race_code",
            identifier_role="quasi",
            classification="confidential",
            harmonise=Harmonise(to="race", column="race", map={}),
        ),
    ),
    subjects=(Subject(role="claimant", key=("ssn",), identifiers={"given_name": "first_name"}),),
    derived=(
        Derived(
            name="year",
            type="int",
            expression="1",
            description="",
            identifier_role="none",
            classification="public",
        ),
    ),
)
CONTRACT = Contract(
    feed="dua_claims",
    version="1.0.0",
    title="",
    description="",
    agency="dua",
    owner="Data services",
    calendar="week",
    quarantine_limit=0.02,
    retention_years=7,
    tables=(CLAIMS, CLAIMS.model_copy(update={"name": "employers"})),
    file="",
)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "agreements").mkdir()
    (tmp_path / "agencies.yaml").write_text(AGENCIES)
    return tmp_path


def load(conf: Path, text: str = MOU, contract: Contract | None = CONTRACT) -> Mou:
    path = conf / "agreements" / "MOU-2018-0001.yaml"
    path.write_text(text)
    return load_mou(path, contracts={contract.feed: contract} if contract else None)


def test_an_mou_is_read(conf: Path) -> None:
    mou = load(conf)
    (term,) = mou.contributions
    assert (mou.begins(term), mou.ends(term)) == (date(2020, 1, 1), date(2025, 12, 31))
    assert term.covers("claims")
    assert not term.covers("employers")
    assert load_mous(conf)["MOU-2018-0001"] == mou


MISTAKES = {
    "unknown key": ("title:", "titel:", 3, "unknown key 'titel'"),
    "not the file's name": ("MOU-2018-0001", "MOU-2018-0002", 1, "the file's name"),
    "other hub": ("hub: office", "hub: dua", 4, "names the hub 'office'"),
    "ends before it starts": ("expires: 2030", "expires: 2010", 6, "before effective"),
    "unknown agency": ("[dua, office]", "[dua, office, xyz]", 7, "no agency 'xyz'"),
    "agency did not sign": ("[dua, office]", "[dua, office, dta]", 7, "no mou_since"),
    "no signatory": ("agency: dua", "agency: dta", 10, "no signatory"),
    "unknown purpose": ("[research,", "[reserch,", 15, "program-evaluation"),
    "unknown feed": ("feed: dua_claims", "feed: dua_wages", 11, "no contract 'dua_wages'"),
    "unknown table": ("tables: [claims]", "tables: [clams]", 12, "no table 'clams'"),
    "kept too long": ("retention_years: 7", "retention_years: 5", 16, "shorten its retention"),
    "identifiers forbidden": ("identifiers: true", "identifiers: false", 13, "direct identifiers"),
    "term ends first": ("expires: 2025", "expires: 2019", 9, "ends before it begins"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_mou_is_told_with_its_line(mistake: str, conf: Path) -> None:
    old, new, line, words = MISTAKES[mistake]
    assert old in MOU
    with pytest.raises(ConfigError) as caught:
        load(conf, MOU.replace(old, new, 1))
    assert any(
        f"MOU-2018-0001.yaml:{line}: " in problem and words in problem
        for problem in caught.value.problems
    ), caught.value.problems


def test_two_clauses_must_not_cover_the_same_table_and_day(conf: Path) -> None:
    clause = MOU[MOU.index("  - clause") :]
    later = clause.replace("4.1", "4.2").replace("2020-01-01", "2026-01-01")
    load(conf, MOU + later.replace("2025-12-31", "2029-12-31"))
    with pytest.raises(ConfigError, match="clause '4.1' already covers"):
        load(conf, MOU + clause.replace("4.1", "4.2").replace("[claims]", "all"))
    with pytest.raises(ConfigError, match="given twice"):
        load(conf, MOU + later.replace("4.2", "4.1").replace("2025-12-31", "2029-12-31"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("hub: office", "hub: bureau", "agencies.yaml:1: hub: no agency 'bureau'"),
        ("secretariat: tech", "secretariat: it", "no secretariat 'it'"),
        ("coordinator: Council", "head: Council", "unknown key 'head'"),
    ],
)
def test_mistakes_in_agencies_are_told(old: str, new: str, words: str, conf: Path) -> None:
    (conf / "agencies.yaml").write_text(AGENCIES.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_agencies(conf / "agencies.yaml")


# --- what an MOU permits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feed", "table", "on", "words"),
    [
        ("dua_claims", "claims", date(2018, 10, 31), "in force from 2018-11-01 to 2030-10-31"),
        ("dua_claims", "claims", date(2030, 11, 1), "have the agreement renewed"),
        ("dua_wages", "wages", date(2024, 1, 1), "no contribution clause for feed 'dua_wages'"),
        ("dua_claims", "employers", date(2024, 1, 1), "clause 4.1 contributes other tables"),
        ("dua_claims", "claims", date(2026, 1, 1), "clause 4.1 .* ended on 2025-12-31"),
        ("dua_claims", "claims", date(2019, 12, 31), "clause 4.1 .* begins on 2020-01-01"),
    ],
)
def test_what_was_not_contributed_is_refused_naming_the_clause(
    feed: str, table: str, on: date, words: str, conf: Path
) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        contribution(load(conf), feed, table, on)
    assert "MOU-2018-0001 version 1" in str(caught.value)
    assert caught.value.exit_code == 14


def test_a_feed_without_any_mou_is_refused(conf: Path) -> None:
    signed = register(load(conf))
    on = date(2021, 1, 1)
    assert may_hold(Holding("dua_claims", ("dua_claims.claims",)), signed, on).reasons == ()
    found = may_hold(Holding("dta_snap", ("dta_snap.cases",)), signed, on)
    assert "dta_snap is not contributed" in str(found.reasons[0])


days = st.dates(date(2019, 1, 1), date(2021, 1, 1))


@given(
    whole=st.tuples(days, days),
    terms=st.lists(st.tuples(st.none() | days, st.none() | days), max_size=3),
    on=days,
)
def test_a_term_is_given_exactly_on_the_days_of_both(
    whole: tuple[date, date], terms: list[tuple[date | None, date | None]], on: date
) -> None:
    contributions = tuple(
        Contribution(
            clause=str(number),
            agency="dua",
            feed="f",
            tables="all",
            identifiers=True,
            may_be_matched=True,
            purposes=("research",),
            retention_years=1,
            effective=begin,
            expires=end,
        )
        for number, (begin, end) in enumerate(terms)
    )
    mou = Mou(
        id="MOU-2018-0001",
        version=1,
        title="",
        hub="office",
        effective=whole[0],
        expires=whole[1],
        signatories=(),
        contributions=contributions,
    )
    allowed = whole[0] <= on <= whole[1] and any(
        (begin is None or begin <= on) and (end is None or on <= end) for begin, end in terms
    )
    try:
        term = contribution(mou, "f", "t", on)
    except RefusedError:
        assert not allowed
    else:
        assert allowed
        assert mou.begins(term) <= on <= mou.ends(term)


# --- labels --------------------------------------------------------------------------------------


def test_labels_describe_the_agreement(conf: Path) -> None:
    mou = load(conf)
    term = contribution(mou, "dua_claims", "claims", date(2024, 1, 1))
    assert labels(CONTRACT, CLAIMS, mou, term) == {
        "concord.agreements": "MOU-2018-0001",
        "concord.agreement_digest": digest(mou.part("dua")),
        "concord.purposes": "program-evaluation,research",
        "concord.recipients": "office",
        "concord.expires": "2025-12-31",
        "concord.classification": "confidential",
        "concord.owner": "dua",
    }
    assert labels(CONTRACT, CLAIMS, mou, term, "vault")[names.CLASSIFICATION] == "restricted"


def test_labels_of_columns_are_those_of_the_curated_table() -> None:
    found = column_labels(CLAIMS)
    assert set(found) == {"claimant_record_id", "claim_id", "race_code", "race", "year"}
    assert found["race"] == {
        names.CLASSIFICATION: "confidential",
        names.IDENTIFIER_ROLE: "quasi",
    }


def test_the_digest_covers_content_and_nothing_else(conf: Path) -> None:
    mou = load(conf)
    assert re.fullmatch(r"[0-9a-f]{64}", digest(mou))
    assert digest(load(conf, "# a comment\n" + MOU.replace("2020-01-01", "'2020-01-01'"))) == (
        digest(mou)
    )
    for old, new in (
        ("version: 1", "version: 2"),
        ("research, ", ""),
        ("2025-12-31", "2025-11-30"),
        ("may_be_matched: true", "may_be_matched: false"),
    ):
        assert digest(load(conf, MOU.replace(old, new))) != digest(mou), old


@given(st.dates(date(2019, 1, 1), date(2029, 1, 1)), st.dates(date(2019, 1, 1), date(2029, 1, 1)))
def test_different_days_have_different_digests(one: date, other: date) -> None:
    base = Mou(
        id="MOU-2018-0001",
        version=1,
        title="",
        hub="office",
        effective=one,
        expires=one + timedelta(1),
        signatories=(),
        contributions=(),
    )
    changed = base.model_copy(update={"effective": other, "expires": other + timedelta(1)})
    assert (digest(base) == digest(changed)) == (one == other)


def test_the_deployment_s_own_files_are_good() -> None:
    agencies = load_agencies(ROOT / "conf" / "agencies.yaml")
    mous = load_mous(ROOT / "conf")
    assert agencies.hub == "eotss-data-office"
    (mou,) = mous.values()
    for term in mou.contributions:
        assert contribution(mou, term.feed, "any", date(2025, 6, 1)) == term
