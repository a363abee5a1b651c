"""What an agreement allows and refuses, and by which clause."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.agreements.decision import Request, decide
from concord.errors import RefusedError
from tests.agreed import document, dula, mou, outreach, register

TODAY = date(2026, 6, 1)
DULA, OUTREACH, MOU = dula(), dula(outreach()), mou()
SIGNED = register(MOU, DULA, OUTREACH)
ALL = {dataset.table: frozenset(dataset.column_names) for dataset in DULA.datasets}
LINKED = frozenset({frozenset(ALL)})


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "actor": "someone",
        "roles": frozenset({"office"}),
        "agreement": DULA.id,
        "purpose": "program-evaluation",
        "use": "study",
        "columns": ALL,
        "as_of": date(2026, 5, 31),
        "linkages": LINKED,
    }
    return Request(**{**values, **changes})


def asking(table: str, *columns: str) -> dict[str, Any]:
    return {"columns": {table: frozenset(columns)}, "linkages": frozenset()}


def test_what_is_agreed_is_allowed_with_its_columns_rows_and_end() -> None:
    decision = decide(request(), SIGNED, TODAY)
    assert decision.allowed and decision.reasons == ()
    assert decision.columns["help.forms"] == ("form_id", "due_on", "office")
    assert [each.column for each in decision.rows["help.forms"]] == ["office"]
    assert decision.expires == date(2030, 12, 31)
    narrower = decide(request(**asking("help.forms", "office")), SIGNED, TODAY)
    assert dict(narrower.columns) == {"help.forms": ("office",)}
    publishing = decide(request(use="publish"), SIGNED, TODAY)
    assert any("cells-11" in duty and "clause 7" in duty for duty in publishing.duties)


REFUSALS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "another purpose": ({"purpose": "research"}, ["3"], "program-evaluation, not research"),
    "a use that is not listed": ({"use": "score"}, ["4", "3", "4"], "service-coordination only"),
    "a column that is not listed": (asking("help.forms", "amount"), ["5.1"], "amount"),
    "a direct identifier": (asking("help.members", "name"), ["5.2"], "name"),
    "a table that is not listed": (asking("work.firms", "size"), ["datasets"], "work.firms"),
    "a table of nobody": (asking("help"), ["datasets"], "not listed"),
    "a day before the data": ({"as_of": date(2023, 12, 31)}, ["5.1", "5.2", "5.3"], "2023-12-31"),
    "a day after the data": ({"as_of": date(2031, 1, 1)}, ["5.1", "5.2", "5.3"], "2031-01-01"),
    "own ids": ({"own_ids": True}, ["4"], "own ids"),
    "another person": ({"roles": frozenset()}, ["10"], "someone is not among those"),
    "a job beyond the end": ({"until": date(2031, 1, 1)}, ["8"], "before the job would"),
    "a linkage that is not listed": (
        {"linkages": frozenset({frozenset({"help.forms", "work.firms"})})},
        ["linkages"],
        "help.forms, work.firms",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_listed_is_refused_naming_its_clause(case: str) -> None:
    changes, clauses, words = REFUSALS[case]
    decision = decide(request(**changes), SIGNED, TODAY)
    assert not decision.allowed
    assert [reason.clause for reason in decision.reasons] == clauses
    assert words in "; ".join(map(str, decision.reasons))
    assert not decision.columns and not decision.rows
    with pytest.raises(RefusedError) as caught:
        decision.or_refuse()
    assert caught.value.exit_code == 14
    assert all(f"clause {clause}" in str(caught.value) for clause in clauses)


@pytest.mark.parametrize(
    ("today", "allowed"),
    [
        (date(2025, 12, 31), False),
        (date(2026, 1, 1), True),
        (date(2030, 12, 31), True),
        (date(2031, 1, 1), False),
    ],
)
def test_permission_goes_by_the_day_and_not_by_as_of(today: date, allowed: bool) -> None:
    for as_of in (date(2025, 6, 1), date(2026, 6, 1), date(2030, 6, 1)):
        decision = decide(request(as_of=as_of), SIGNED, today)
        assert decision.allowed is allowed
        assert allowed or [reason.clause for reason in decision.reasons] == ["8"]


def test_scores_need_service_coordination_whatever_the_uses_say() -> None:
    scoring = request(
        agreement=OUTREACH.id, purpose="service-coordination", use="score", own_ids=True
    )
    assert decide(scoring, SIGNED, TODAY).allowed
    lenient = document(
        uses={"clause": "4", "allowed": ["study", "score"], "individual_action": True}
    )
    decision = decide(request(use="score"), register(MOU, dula(lenient)), TODAY)
    assert [reason.clause for reason in decision.reasons] == ["3"]


def test_a_model_is_applied_elsewhere_only_where_its_own_agreement_says_so() -> None:
    scoring = request(agreement=OUTREACH.id, purpose="service-coordination", use="score")
    refused = decide(scoring, SIGNED, TODAY, model=DULA.id)
    assert [(r.agreement, r.clause) for r in refused.reasons] == [(DULA.id, "4")]
    uses = {**document()["uses"], "models_usable_under": [OUTREACH.id]}
    amended = dula(document(uses=uses))
    assert decide(scoring, register(MOU, OUTREACH, amended), TODAY, model=DULA.id).allowed
    term = {"clause": "8", "effective": "2026-01-01", "expires": "2026-03-31"}
    ended = dula(document(uses=uses, term=term))
    refused = decide(scoring, register(MOU, OUTREACH, ended), TODAY, model=DULA.id)
    assert [(r.agreement, r.clause) for r in refused.reasons] == [(DULA.id, "8")]


def test_what_the_hub_may_not_hold_no_recipient_may() -> None:
    help_term, work_term = MOU.contributions
    for term, clause, words in (
        (work_term.model_copy(update={"purposes": ("research",)}), "4.2", "not for program-eval"),
        (work_term.model_copy(update={"expires": date(2026, 5, 1)}), "contributions", "ended on"),
        (work_term.model_copy(update={"may_be_matched": False}), "4.2", "may not be matched"),
    ):
        narrower = mou(contributions=(help_term, term))
        decision = decide(request(), register(narrower, DULA), TODAY)
        # A term that has ended is told for the table and for its linkage.
        assert {reason.clause for reason in decision.reasons} == {clause}
        assert words in str(decision.reasons[0])
        assert {reason.agreement for reason in decision.reasons} == {MOU.id}
    earlier = mou(
        contributions=(help_term, work_term.model_copy(update={"expires": date(2027, 1, 1)}))
    )
    assert decide(request(), register(earlier, DULA), TODAY).expires == date(2027, 1, 1)


TABLES = ("help.forms", "help.members", "work.wages", "work.firms")
COLUMNS = ("form_id", "due_on", "office", "amount", "race", "town", "case_record_id", "ssn")
asked = st.dictionaries(st.sampled_from(TABLES), st.frozensets(st.sampled_from(COLUMNS)))
linked = st.frozensets(st.frozensets(st.sampled_from(TABLES), min_size=2), max_size=2)
days = st.dates(date(2023, 6, 1), date(2032, 6, 1))


@given(
    less=asked,
    more=asked,
    less_linked=linked,
    more_linked=linked,
    use=st.sampled_from(("study", "train", "score", "publish")),
    purpose=st.sampled_from(("program-evaluation", "research")),
    as_of=days,
    today=days,
)
def test_who_asks_for_more_is_never_allowed_where_less_was_refused(
    less: dict[str, frozenset[str]],
    more: dict[str, frozenset[str]],
    less_linked: frozenset[frozenset[str]],
    more_linked: frozenset[frozenset[str]],
    use: Any,
    purpose: str,
    as_of: date,
    today: date,
) -> None:
    one = request(columns=less, linkages=less_linked, use=use, purpose=purpose, as_of=as_of)
    columns = {t: less.get(t, frozenset()) | more.get(t, frozenset()) for t in {*less, *more}}
    other = replace(one, columns=columns, linkages=less_linked | more_linked, own_ids=True)
    refused = decide(one, SIGNED, today)
    wider = decide(other, SIGNED, today)
    assert set(refused.reasons) <= set(wider.reasons)
    assert not wider.allowed, "own ids never go back under this agreement"


@given(columns=asked, links=linked, as_of=days, today=days)
def test_the_decision_is_that_of_a_list_of_all_that_is_agreed(
    columns: dict[str, frozenset[str]],
    links: frozenset[frozenset[str]],
    as_of: date,
    today: date,
) -> None:
    agreed = {
        "help.forms": {"form_id", "due_on", "office"},
        "help.members": {"race"},
        "work.wages": {"amount", "town"},
    }
    wanted = (
        date(2026, 1, 1) <= today <= date(2030, 12, 31)
        and all(names <= agreed.get(table, set()) for table, names in columns.items())
        and set(columns) <= set(agreed)
        and (not columns or date(2024, 1, 1) <= as_of <= date(2030, 12, 31))
        and all(tables <= set(agreed) for tables in links)
    )
    asking_for = request(columns=columns, linkages=links, as_of=as_of)
    assert decide(asking_for, SIGNED, today).allowed is wanted


def test_a_decision_takes_less_than_a_millisecond() -> None:
    decide(request(), SIGNED, TODAY)
    began = time.process_time()
    for _ in range(200):
        decide(request(), SIGNED, TODAY)
    assert (time.process_time() - began) / 200 < 0.001
