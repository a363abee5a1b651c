"""The meet of agreements: its laws, on generated triples; conflicts; never more than an input."""

from __future__ import annotations

import random
from datetime import date
from itertools import combinations
from typing import Any

import pytest

from concord.agreements.decision import Request, decide
from concord.agreements.dula import USES, Dula
from concord.agreements.meet import FORMS, Meet, meet, under
from concord.agreements.register import Register
from concord.errors import RefusedError
from tests.agreed import document, dula, mou, outreach, register
from tests.unit.agreements.test_cedar import PEOPLE, a_day, a_dula, an_mou, some

TRIPLES = 10_000
MINIMUMS = {"cells-11": 11, "cells-20": 20, "cells-5": 5}
ACTS = ("re-identification", "contact", "onward-sharing", "sale")
PARTIES = ("lab", "dta", "dua")
TABLES = ("help.forms", "help.members", "work.wages", "work.firms")


def agreements(draw: random.Random, count: int) -> list[Dula]:
    """Some agreements with terms of every kind that a meet speaks of."""
    return [varied(draw, a_dula(draw, number + 1)) for number in range(count)]


def varied(draw: random.Random, base: Dula) -> Dula:
    values: dict[str, Any] = base.model_dump(mode="json")
    values["recipients"]["parties"] = [
        {"key": key, "kind": "state", "custodian": "Director"}
        for key in some(draw, PARTIES, least=1)
    ]
    forbidden = {"research", "fraud-detection"} - {values["purpose"]["code"]}
    values["purpose"]["prohibited"] = some(draw, sorted(forbidden))
    acts = some(draw, ACTS)
    values["prohibitions"] = {"clause": "13", "acts": acts} if acts else None
    values["legal_basis"]["notices"] = some(draw, ["one", "two"])
    values["people"]["training"] = some(draw, ["privacy", "ethics"])
    values["identifiability"] = draw.choice(FORMS)
    values["disclosure"] = {
        "clause": "7", "profile": draw.choice(list(MINIMUMS)), "reviewers": draw.randint(0, 3),
        "publication_approval": draw.random() < 0.5,
    }  # fmt: skip
    values["end"]["destroy_within_days"] = draw.randint(0, 90)
    return Dula.model_validate(values)


def said(of: Meet) -> dict[str, Any]:
    """Everything that a meet says."""
    names = (
        "ids", "digest", "purposes", "recipients", "uses", "individual_action", "linkages",
        "effective", "expires", "identifiability", "profiles", "reviewers",
        "publication_approval", "prohibitions", "prohibited_purposes", "notices", "training",
        "destroy_within_days", "certificate_within_days", "destruction_scope",
    )  # fmt: skip
    found = {name: getattr(of, name) for name in names}
    found["columns"] = dict(of.columns)
    found["threshold"] = of.threshold(MINIMUMS)
    found["admits"] = [
        of.admits(who, frozenset(roles))
        for who in (*PEOPLE, "cy")
        for roles in ((), ("office",), ("lab",), ("office", "lab"))
    ]
    return found


def no_wider(narrow: Meet, wide: Meet) -> None:
    """What the narrow one allows, the wide one does; what the wide one demands, the narrow does."""
    for name in ("purposes", "recipients", "uses"):
        assert getattr(narrow, name) <= getattr(wide, name), name
    for name in ("prohibitions", "prohibited_purposes", "notices", "training", "profiles"):
        assert getattr(narrow, name) >= getattr(wide, name), name
    for table, columns in wide.columns.items():
        assert narrow.columns[table] <= columns
    concerned = {frozenset(pair) for pair in combinations(wide.columns, 2)}
    assert narrow.linkages & concerned <= wide.linkages
    assert narrow.effective >= wide.effective and narrow.expires <= wide.expires
    assert narrow.threshold(MINIMUMS) >= wide.threshold(MINIMUMS)
    assert narrow.destroy_within_days <= wide.destroy_within_days
    assert narrow.reviewers >= wide.reviewers
    assert FORMS.index(narrow.identifiability) >= FORMS.index(wide.identifiability)
    assert wide.individual_action or not narrow.individual_action
    assert narrow.publication_approval or not wide.publication_approval


def test_the_laws_hold_on_ten_thousand_triples() -> None:
    draw = random.Random(7)
    pool = agreements(draw, 9) * 12
    pool = [varied(draw, each) for each in pool]
    counted = 0
    for _ in range(TRIPLES):
        a, b, c = (meet([each]) for each in draw.choices(pool, k=3))
        assert (a | b) | c == a | (b | c) == (c | a) | b, "associative, commutative"
        assert a | a == a and (a | b) | b == a | b, "idempotent"
        whole = a | b | c
        for each in (a, b, c, a | b):
            no_wider(whole, each)
        counted += bool(whole.purposes and whole.recipients)
        if whole.conflicts:
            continue
        # Without a conflict between any two, three share what every two do of purpose and days.
        assert whole.purposes and whole.effective <= whole.expires
    assert counted > TRIPLES / 50, "some triples leave something in common"


def test_a_meet_says_the_same_in_whatever_order_it_was_made() -> None:
    draw = random.Random(8)
    for _ in range(200):
        a, b, c = (meet([each]) for each in agreements(draw, 3))
        assert said(a | b | c) == said(c | b | a) == said(b | (a | c | a))


def test_what_one_agreement_refuses_is_never_allowed_by_them_together() -> None:
    draw = random.Random(9)
    allowed = 0
    for _ in range(500):
        one, two = agreements(draw, 2)
        agreement = an_mou(draw)
        known = Register(
            {agreement.id: agreement}, {one.id: one, two.id: two}, (), {}, signed_by_all=True
        )
        together, day = meet([one, two]), a_day(draw, 2025, 2027)
        for each in (one, two):
            request = Request(
                agreement=each.id,
                purpose=next(iter(together.purposes), "research"),
                use=draw.choice(sorted(together.uses) or list(USES)),
                columns={t: together.columns[t] for t in each.tables if t in together.columns},
                as_of=a_day(draw, 2025, 2027),
                actor="ann",
                roles=frozenset({"office"}),
            )
            decision = decide(request, known, day)
            if decision.allowed:
                allowed += 1
                continue
            # What refuses is a clause that the meet does not widen: days, purpose, use, people, or
            # the memorandum's terms; never a column.
            assert not any("is not agreed" in reason.message for reason in decision.reasons)
    assert allowed > 20


def test_conflicts_name_both_clauses_before_any_job_runs() -> None:
    one, two = dula(), dula(outreach())
    known = register(mou(), one, two)
    found = meet([one, two]).conflicts
    assert [conflict.what for conflict in found] == [
        "no purpose in common", "no recipient in common",
    ]  # fmt: skip
    assert "DULA-2026-0001 clause 3: program-evaluation" in str(found[0])
    assert "DULA-2026-0002 clause 3: service-coordination" in str(found[0])
    with pytest.raises(RefusedError, match="no purpose in common") as caught:
        under(known, [one.id, two.id], date(2026, 6, 1))
    assert caught.value.exit_code == 14
    with pytest.raises(RefusedError, match="nobody knows it"):
        under(known, ["DULA-2020-0001", one.id], date(2026, 6, 1))
    prohibiting = document(id="DULA-2026-0003")
    prohibiting["purpose"] = {
        "clause": "3", "code": "research", "text": "t", "prohibited": ["program-evaluation"],
    }  # fmt: skip
    said_so = [conflict.what for conflict in meet([one, dula(prohibiting)]).conflicts]
    assert "a purpose that the other prohibits" in said_so
    late = document(
        id="DULA-2026-0004",
        term={"clause": "8", "effective": "2031-01-01", "expires": "2032-01-01"},
    )
    assert "no day in common" in [c.what for c in meet([one, dula(late)]).conflicts]


def test_a_meet_of_one_is_the_agreement() -> None:
    alone = meet([dula()])
    assert alone.ids == ("DULA-2026-0001",) and not alone.conflicts
    assert alone.purposes == {"program-evaluation"} and alone.recipients == {"lab"}
    assert alone.may_link("help.forms", "work.wages") and not alone.may_link("help.forms", "x.y")
    with pytest.raises(ValueError, match="one agreement at least"):
        meet([])
