"""What laws demand of agreements; drafts that are filled by them; terms in words and as a page."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from concord.agreements import drafting, page, words
from concord.agreements.canonical import canonical, digest
from concord.agreements.dula import Dula
from concord.agreements.loading import TO_BE_SAID, mistakes
from concord.agreements.presets import PRESETS, REDISCLOSURE, Facts, demanded, missing_regimes
from concord.errors import UsageError
from tests.agreed import contracts, document, dula, mou
from tests.unit.agreements.test_loading import AGENCIES

FACTS = Facts(contracts(), {"cells-11": 11, "cells-5": 5})
WHOLE: dict[str, Any] = {
    "prohibitions": {
        "clause": "13",
        "acts": ["re-identification", "contact", "onward-sharing", "criminal-use"],
    },
    "term": {
        "clause": "8", "effective": "2026-01-01", "expires": "2030-12-31",
        "next_review": "2026-12-01", "terminable_days": 30,
    },
    "safeguards": {
        "clause": "12", "breach_notice_hours": 24, "contact": "Council", "inspection": True,
    },
    "cost": {"clause": "14", "text": "each its own"},
    "identifiability": "limited",
}  # fmt: skip


def under(regime: str, **changes: Any) -> Dula:
    """An agreement that meets every law, under one of them, with changes."""
    values = document(**deepcopy(WHOLE))
    values["legal_basis"] = {
        "clause": "9",
        "authorities": [
            {"regime": regime, "owner": owner, "citation": "c", "basis": "b"}
            for owner in ("dta", "dua")
        ],
        "notices": [REDISCLOSURE],
    }
    party = {"key": "lab", "kind": "state", "custodian": "Director", "administers": ["snap"]}
    values["recipients"] = {"clause": "2", "parties": [party], "responsible_officer": "Officer"}
    values["purpose"]["prohibited"] = ["fraud-detection"]
    for place, value in changes.items():
        *outer, last = place.split("__")
        at = values
        for step in outer:
            at = at[step]
        at[last] = value
    return dula(values)


def said(terms: Dula) -> list[str]:
    return [f"{'.'.join(map(str, place))}: {message}" for place, message in demanded(terms, FACTS)]


def test_an_agreement_that_meets_all_laws_meets_each() -> None:
    for regime in PRESETS:
        assert not said(under(regime)), regime


FAILS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a study by officials": (
        "ferpa-studies", {"purpose__code": "performance-reporting"}, "purpose.code",
        "34 CFR 99.31(a)(6)"),
    "small cells of pupils": (
        "ferpa-studies", {"disclosure__profile": "cells-5"}, "Concord asks for 10", "99.31(a)(6)"),
    "an evaluation that serves": (
        "ferpa-evaluation", {"purpose__code": "service-coordination"}, "purpose.code", "99.35"),
    "no authorised representative": (
        "ferpa-evaluation", {"recipients__responsible_officer": None}, "responsible_officer",
        "99.35"),
    "identified health records": (
        "hipaa-limited-data-set", {"identifiability": "pseudonymous"}, "must be limited",
        "45 CFR 164.514(e)"),
    "patients may be called": (
        "hipaa-limited-data-set", {"prohibitions__acts": ["re-identification"]},
        "must forbid contact", "164.514(e)"),
    "no yearly review": (
        "cms-chia", {"term__next_review": "2028-01-01"}, "next_review", "CHIA"),
    "wages that cannot be ended": (
        "ui-wages", {"term__terminable_days": None}, "terminable_days", "20 CFR 603.10"),
    "wages without inspection": (
        "ui-wages", {"safeguards__inspection": False}, "may inspect on site", "603.10"),
    "wages without cost": ("ui-wages", {"cost": None}, "who bears the cost", "603.10"),
    "SNAP to anybody": (
        "snap",
        {"recipients__parties": [{"key": "lab", "kind": "state", "custodian": "D"}]},
        "administers no programme", "7 CFR 272.1(c)"),
    "no notice": ("part-2", {"legal_basis__notices": []}, "notice on redisclosure", "CFR part 2"),
    "for prosecutors": (
        "part-2", {"purpose__prohibited": []}, "fraud-detection must be among", "42 CFR part 2"),
    "nobody answers": (
        "fipa", {"recipients__responsible_officer": None}, "answers for the data", "c. 66A"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILS)
def test_what_fails_a_law_is_told_with_its_citation(case: str) -> None:
    regime, changes, words_of, citation = FAILS[case]
    (found,) = said(under(regime, **changes))
    assert words_of in found and citation in found


def test_snap_for_others_is_for_aggregates_only() -> None:
    party = [{"key": "lab", "kind": "researcher", "custodian": "D"}]
    assert not said(under("snap", recipients__parties=party, identifiability="aggregate"))


def test_the_laws_that_data_stands_under_have_to_be_named() -> None:
    found = list(missing_regimes(dula(), {"help": ("snap", "other"), "work": ("ui-wages",)}))
    assert [place[1] for place, _ in found] == [0, 1, 2]
    assert "help stands under snap" in found[0][1] and "work stands under ui-wages" in found[2][1]


# --- drafts --------------------------------------------------------------------------------------


def wish(**changes: Any) -> drafting.Wish:
    values: dict[str, Any] = {
        "id": "DULA-2027-0001", "title": "A question", "purpose": "program-evaluation",
        "recipient": "lab", "kind": "state",
        "columns": {"help.forms": ["form_id", "office"], "work.wages": ["amount"]},
        "effective": date(2027, 1, 1), "expires": date(2027, 12, 31),
    }  # fmt: skip
    return drafting.Wish(**{**values, **changes})


def test_a_draft_is_filled_by_the_laws_and_waits_for_words() -> None:
    agreement = mou()
    first, second = agreement.contributions
    terms = tuple(
        term.model_copy(update={"regimes": regimes})
        for term, regimes in ((first, ("snap", "fipa")), (second, ("ui-wages",)))
    )
    known = {agreement.id: mou(contributions=terms)}
    made = drafting.draft(wish(), contracts(), known, "cells-11")
    assert [preset.regime for preset in made.presets] == ["snap", "fipa", "ui-wages"]
    values = YAML(typ="safe").load(made.text)
    assert values["term"]["terminable_days"] == 30 and values["safeguards"]["inspection"] is True
    assert values["owners"]["agencies"] == ["dta", "dua"]
    forms, wages = values["datasets"]
    assert forms["columns"][0] == {
        "name": "form_id", "why": TO_BE_SAID, "pseudonym": True,
        "classification": "restricted", "identifier_role": "none",
    }  # fmt: skip
    drafted = Dula.model_validate(values)
    left = [
        message for _, message in mistakes("DULA-2027-0001", drafted, AGENCIES, known, contracts())
    ]
    assert left and any("a draft's place for your words" in message for message in left)
    # With the words said, and a recipient that the law allows, nothing is left.
    text = made.text.replace(TO_BE_SAID, "office")
    said_all = YAML(typ="safe").load(text)
    said_all["recipients"]["parties"][0]["administers"] = ["snap"]
    final = Dula.model_validate(said_all)
    assert not list(mistakes("DULA-2027-0001", final, AGENCIES, known, contracts()))
    with pytest.raises(UsageError, match="no MOU has a contribution clause"):
        drafting.draft(wish(columns={"rent.leases": ["a"]}), contracts(), known, "cells-11")


def test_a_new_version_keeps_the_comments(tmp_path: Path) -> None:
    path = tmp_path / "DULA-2026-0001.yaml"
    path.write_text(
        "# Why.\nid: DULA-2026-0001\nversion: 3   # raised by amend\nterm:\n"
        '  clause: "8"\n  expires: 2026-12-31   # the last day\n'
    )
    assert drafting.new_version(path) == 4
    assert drafting.new_version(path, expires=date(2027, 12, 31)) == 5
    text = path.read_text()
    assert "# Why." in text and "version: 5   # raised by amend" in text
    assert "expires: 2027-12-31" in text and 'clause: "8"' in text


# --- in words ------------------------------------------------------------------------------------


class Text(HTMLParser):
    """The words of a page, and the tags it has."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_says_every_term_and_runs_nothing() -> None:
    hostile = document(title="<script>alert(1)</script> & more")
    html = page.html(dula(hostile), contracts())
    seen = Text()
    seen.feed(html)
    assert "script" not in seen.tags and "default-src 'none'" in html
    told = " ".join(" ".join(seen.words).split())
    assert "<script>alert(1)</script> & more" in told
    for each in _texts(json.loads(canonical(dula(hostile)))):
        assert each in told, each
    assert digest(dula(hostile)) in told
    markdown = page.markdown(dula(), contracts())
    assert "## Clause 5.1: Data of help.forms" in markdown
    assert re.search(
        r"\| column form\\_id \| one form, several reports \(restricted, pseudonym\)", markdown
    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def test_what_changed_is_told_in_words() -> None:
    new = document(version=2, title="Another")
    new["datasets"][0]["columns"] = new["datasets"][0]["columns"][1:] + [
        {"name": "amount", "why": "size"}
    ]
    new["term"]["expires"] = "2028-12-31"
    assert words.changes(dula(), dula(new), contracts()) == [
        "Agreement, title: was Evaluation of forms; is Another",
        "Clause 5.1: Data of help.forms, column amount: added: size (internal)",
        "Clause 8: Term, last day: was 2030-12-31; is 2028-12-31",
        "Clause 5.1: Data of help.forms, column form_id: removed: one form, several reports "
        "(restricted, pseudonym)",
    ]
    assert not words.changes(dula(), dula(), contracts())


texts = st.text(min_size=1, max_size=8)


@given(title=texts, why=texts, basis=texts)
def test_the_digest_is_of_canonical_json(title: str, why: str, basis: str) -> None:
    values = document(title=title)
    values["datasets"][0]["columns"][0]["why"] = why
    values["legal_basis"]["authorities"][0]["basis"] = basis
    terms = dula(values)
    text = canonical(terms)
    # RFC 8785 of text, whole numbers and booleans: keys sorted by UTF-16, no spaces, UTF-8.
    plain = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text.decode() == plain
    assert digest(Dula.model_validate(json.loads(text))) == digest(terms)
