"""Concord's decisions beside those of Cedar, on generated agreements and requests."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, cast, get_args

import cedarpy
import pytest

from concord.agreements import cedar
from concord.agreements.decision import Request, decide
from concord.agreements.dula import USES, Dula, Use
from concord.agreements.mou import Contribution, Mou, Purpose
from concord.agreements.register import Register
from tests.agreed import document, dula, life, mou, outreach, owed, register, signers

COLUMNS = {
    "help.forms": ("form_id", "due_on", "office", "amount"),
    "help.members": ("race", "amount"),
    "work.wages": ("amount", "town"),
    "work.firms": ("size",),
}
PURPOSES = ("program-evaluation", "service-coordination", "research")
WORLDS, ASKED = 1000, 10
# Of one name that has to be quoted.
PEOPLE = ("ann", 'bo\u00e9 "x"')


def some(draw: random.Random, values: Any, *, least: int = 0) -> list[Any]:
    listed = list(values)
    return draw.sample(listed, draw.randint(least, len(listed)))


def a_day(draw: random.Random, first: int = 2023, last: int = 2032) -> date:
    return date(first, 1, 1) + timedelta(days=draw.randint(0, 365 * (last - first)))


def a_term(draw: random.Random) -> tuple[date, date]:
    if draw.random() < 0.8:
        return date(2023, 1, 1), date(2032, 12, 31)
    one, other = sorted((a_day(draw), a_day(draw)))
    return one, other


def a_dula(draw: random.Random, number: int) -> Dula:
    """An agreement of which little holds together: what files are checked for does not matter
    here, only that both engines read it alike."""
    datasets = []
    for index, table in enumerate(some(draw, COLUMNS, least=1)):
        first, last = a_term(draw)
        columns = [{"name": n, "why": "w"} for n in some(draw, COLUMNS[table], least=1)]
        datasets.append(
            {
                "clause": f"5.{index}", "table": table, "columns": columns,
                "owner": "dta" if table.startswith("help") else "dua",
                "period_from": first, "period_until": last,
            }
        )  # fmt: skip
    tables = [each["table"] for each in datasets]
    linked = some(draw, tables)
    effective, expires = a_term(draw)
    values = document(
        id=f"DULA-2026-000{number}",
        datasets=datasets,
        linkages=[{"clause": "6", "tables": linked, "why": "w"}] if len(linked) > 1 else [],
        purpose={"clause": "3", "code": draw.choice(PURPOSES), "text": "t"},
        uses={
            "clause": "4",
            "allowed": some(draw, USES, least=1),
            "individual_action": draw.random() < 0.5,
            "returned_under_own_ids": draw.random() < 0.5,
            "models_usable_under": some(draw, ["DULA-2026-0001", "DULA-2026-0002"]),
        },
        people={
            "clause": "10",
            "users": some(draw, PEOPLE, least=1),
            "roles": some(draw, ["office", "lab"]),
        },
        term={"clause": "8", "effective": effective, "expires": expires},
    )
    return dula(values)


def an_mou(draw: random.Random) -> Mou:
    terms = []
    for number, table in enumerate(COLUMNS):
        feed, _, source = table.partition(".")
        first, last = a_term(draw)
        if draw.random() < 0.05:
            continue
        terms.append(
            Contribution(
                clause=f"4.{number}",
                agency="dta" if feed == "help" else "dua",
                feed=feed,
                tables=(source,),
                identifiers=True,
                may_be_matched=draw.random() < 0.7,
                purposes=cast("tuple[Purpose, ...]", tuple(some(draw, PURPOSES, least=2))),
                retention_years=7,
                effective=first if draw.random() < 0.3 else None,
                expires=last if draw.random() < 0.3 else None,
            )
        )
    return mou(contributions=tuple(terms), expires=a_day(draw, 2028, 2034))


def a_world(draw: random.Random) -> Register:
    agreement, one, two = an_mou(draw), a_dula(draw, 1), a_dula(draw, 2)
    if draw.random() < 0.8:
        return Register(
            {agreement.id: agreement}, {one.id: one, two.id: two}, (), {}, signed_by_all=True
        )
    # Somebody has not signed, or has a key that nobody knows.
    events = [
        event
        for each in (agreement, one, two)
        for event in life(each, parties=some(draw, owed(each), least=2))
    ]
    known = signers(some(draw, ["dta", "dua", "lab", "office"], least=3))
    return Register({agreement.id: agreement}, {one.id: one, two.id: two}, events, known)


def a_request(draw: random.Random, known: Register) -> Request:
    """Mostly near to what is agreed, so that both answers occur."""
    target = known.dulas[draw.choice(list(known.dulas))]
    near = draw.random() < 0.9
    columns = {
        dataset.table: frozenset(some(draw, dataset.column_names, least=1))
        for dataset in (some(draw, target.datasets) if near else ())
    }
    if draw.random() < 0.1:
        table = draw.choice(list(COLUMNS))
        columns[table] = frozenset(some(draw, COLUMNS[table]))
    allowed = list(target.uses.allowed)
    return Request(
        agreement=target.id,
        purpose=target.purpose.code if near else draw.choice(PURPOSES),
        use=cast(Use, draw.choice(allowed if near else list(get_args(Use)))),
        columns=columns,
        as_of=a_day(draw, 2025, 2027),
        linkages=frozenset(
            frozenset(draw.sample(list(link.tables), 2)) for link in target.linkages if near
        ),
        own_ids=draw.random() < 0.2,
        until=a_day(draw) if draw.random() < 0.1 else None,
        actor=draw.choice([*PEOPLE, "cy"]),
    )


def answers(known: Register, asked: list[tuple[Request, str | None]], on: date) -> list[bool]:
    """Cedar's."""
    people = {request.actor: request for request, _ in asked}
    entities = [entity for request in people.values() for entity in cedar.entities(request)]
    parts = [cedar.requests(request, on, model=model) for request, model in asked]
    policies = cedar.policies(known, on)
    results = cedarpy.is_authorized_batch([p for part in parts for p in part], policies, entities)
    assert not any(result.diagnostics.errors for result in results)
    allowed = iter(result.allowed for result in results)
    split = [[next(allowed) for _ in part] for part in parts]
    return [all(each) for each in split]


def test_ten_thousand_decisions_are_those_of_cedar() -> None:
    draw = random.Random(20260601)
    counted = {True: 0, False: 0}
    for _ in range(WORLDS):
        known, on = a_world(draw), a_day(draw, 2024, 2031)
        roles = {who: frozenset(some(draw, ["office", "lab"])) for who in (*PEOPLE, "cy")}
        asked = []
        for _ in range(ASKED):
            request = a_request(draw, known)
            request = replace(request, roles=roles[request.actor])
            asked.append((request, draw.choice([None, None, None, *known.dulas])))
        for (request, model), theirs in zip(asked, answers(known, asked, on), strict=True):
            ours = decide(request, known, on, model=model)
            assert ours.allowed is theirs, (request, model, on, ours.reasons)
            counted[ours.allowed] += 1
    assert sum(counted.values()) == WORLDS * ASKED
    assert min(counted.values()) > WORLDS * ASKED / 20, counted


@pytest.mark.parametrize("terms", [dula(), dula(outreach())])
def test_the_export_meets_its_own_schema(terms: Dula) -> None:
    known = register(mou(), terms)
    policies = cedar.policies(known, date(2026, 6, 1))
    assert policies.count("permit(") > 5
    found = cedarpy.validate_policies(policies, cedar.SCHEMA)
    assert found.validation_passed, found.errors
    broken = policies.replace("context.purpose", "context.porpoise")
    assert not cedarpy.validate_policies(broken, cedar.SCHEMA).validation_passed
