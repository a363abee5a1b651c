"""Agreements as Cedar policies (https://docs.cedarpolicy.com), for engines that speak Cedar.

Each agreement gives permits for itself (who, for what, until when), for its tables with the bounds
that the MOU sets them, for its linkages, and for models made under it; what no permit covers is
denied. A request to Concord is a list of Cedar requests, allowed when all of them are. Days are
whole numbers, 20260131. The tests compare the export with Concord's own decisions on thousands of
generated agreements and requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from concord.agreements.decision import Request
from concord.agreements.dula import USES, Dataset, Dula
from concord.agreements.mou import Contribution, Mou
from concord.agreements.register import Register

_ASKED = {
    "agreement": {"type": "String"},
    "purpose": {"type": "String"},
    "today": {"type": "Long"},
    "until": {"type": "Long"},
    "as_of": {"type": "Long"},
    "own_ids": {"type": "Boolean"},
    "columns": {"type": "Set", "element": {"type": "String"}},
    "tables": {"type": "Set", "element": {"type": "String"}},
    "across_feeds": {"type": "Boolean"},
}


def _action(*resources: str) -> dict[str, Any]:
    context = {"type": "Record", "attributes": _ASKED}
    applies = {"principalTypes": ["User"], "resourceTypes": [*resources], "context": context}
    return {"appliesTo": applies}


# In Cedar's JSON schema format.
SCHEMA: dict[str, Any] = {
    "": {
        "entityTypes": {
            "User": {"memberOfTypes": ["Role"]},
            "Role": {},
            "Table": {},
            "Agreement": {},
        },
        "actions": {
            **{use: _action("Table", "Agreement") for use in USES},
            "link": _action("Agreement"),
            "apply_model": _action("Agreement"),
        },
    }
}


def policies(register: Register, day: date) -> str:
    """All agreements in force on a day, as one policy set."""
    found = (
        policy
        for dula in register.in_force(day).values()
        for policy in _of_dula(dula, register, day)
    )
    return "\n".join(found)


def requests(request: Request, today: date, *, model: str | None = None) -> list[dict[str, Any]]:
    """What a request to Concord is in Cedar: allowed when each of these is."""
    context = {
        "agreement": request.agreement,
        "purpose": request.purpose,
        "today": _number(today),
        "until": _number(request.until or today),
        "as_of": _number(request.as_of),
        "own_ids": request.own_ids,
        "columns": [],
        "tables": [],
        "across_feeds": False,
    }
    principal = f'User::"{_quoted(request.actor)}"'
    own = f'Agreement::"{request.agreement}"'

    def one(action: str, resource: str, **more: Any) -> dict[str, Any]:
        return {
            "principal": principal,
            "action": f'Action::"{action}"',
            "resource": resource,
            "context": {**context, **more},
        }

    asked = [one(request.use, own)]
    for table, columns in sorted(request.columns.items()):
        asked.append(one(request.use, f'Table::"{table}"', columns=sorted(columns)))
    for tables in sorted(request.linkages, key=sorted):
        feeds = {table.partition(".")[0] for table in tables}
        asked.append(one("link", own, tables=sorted(tables), across_feeds=len(feeds) > 1))
    if model is not None and model != request.agreement:
        asked.append(one("apply_model", f'Agreement::"{model}"'))
    return asked


def entities(request: Request) -> list[dict[str, Any]]:
    """The person with the roles that the settings give."""
    parents = [{"type": "Role", "id": role} for role in sorted(request.roles)]
    return [{"uid": {"type": "User", "id": request.actor}, "attrs": {}, "parents": parents}]


# --- policies ------------------------------------------------------------------------------------


def _of_dula(dula: Dula, register: Register, day: date) -> Iterator[str]:
    for use in dula.uses.allowed:
        if use == "score" and not (
            dula.uses.individual_action and dula.purpose.code == "service-coordination"
        ):
            continue
        yield from _permits(dula, f'action == Action::"{use}"', register, day)
    for linkage in dula.linkages:
        conditions = [f"{_set(linkage.tables)}.containsAll(context.tables)"]
        conditions += list(_unmatched(dula, linkage.tables, register, day))
        yield _permit(
            dula, linkage.clause, 'action == Action::"link"', _agreement(dula), conditions
        )
    if dula.uses.models_usable_under:
        usable = f"{_set(dula.uses.models_usable_under)}.contains(context.agreement)"
        action = 'action == Action::"apply_model"'
        yield _permit(dula, dula.uses.clause, action, _agreement(dula), [usable, _in_term(dula)])


def _permits(dula: Dula, action: str, register: Register, day: date) -> Iterator[str]:
    """For one use: the agreement itself, and each of its tables."""
    whole = [
        _people(dula),
        f"context.agreement == {_text(dula.id)}",
        f"context.purpose == {_text(dula.purpose.code)}",
        _in_term(dula),
        f"context.until <= {_number(dula.term.expires)}",
    ]
    if not dula.uses.returned_under_own_ids:
        whole.append("!context.own_ids")
    yield _permit(dula, dula.uses.clause, action, _agreement(dula), whole)
    for dataset in dula.datasets:
        held = register.held(dula.mou, dataset.owner, day)
        if held is None or held.problem:
            continue
        conditions = [
            f"context.agreement == {_text(dula.id)}",
            f"{_set(dataset.column_names)}.containsAll(context.columns)",
            f"context.as_of >= {_number(dataset.period_from)}",
            f"context.as_of <= {_number(dataset.period_until)}",
            _contributed(dula, dataset, held.mou),
        ]
        resource = f'resource == Table::"{dataset.table}"'
        yield _permit(dula, dataset.clause, action, resource, conditions)


def _contributed(dula: Dula, dataset: Dataset, mou: Mou) -> str:
    """On which days the MOU lets the table be held for the agreement's purpose."""
    days = [
        _within(mou, term)
        for term in _terms(mou, dataset.table)
        if dula.purpose.code in term.purposes
    ]
    return f"({' || '.join(days)})" if days else "false"


def _unmatched(dula: Dula, tables: Iterable[str], register: Register, day: date) -> Iterator[str]:
    """People of another feed's table are not matched where its contribution does not let them."""
    for table in tables:
        dataset = dula.dataset(table)
        held = register.held(dula.mou, dataset.owner, day) if dataset else None
        if held is None or held.problem:
            continue
        for term in _terms(held.mou, table):
            if not term.may_be_matched:
                yield (
                    f"!(context.across_feeds && context.tables.contains({_text(table)}) && "
                    f"{_within(held.mou, term)})"
                )


def _terms(mou: Mou, table: str) -> list[Contribution]:
    feed, _, source = table.partition(".")
    return [term for term in mou.contributions if term.feed == feed and term.covers(source)]


def _permit(dula: Dula, clause: str, action: str, resource: str, conditions: Iterable[str]) -> str:
    marks = f'@agreement("{dula.id}") @version("{dula.version}") @clause({_text(clause)})'
    when = " &&\n  ".join(conditions)
    return f"{marks}\npermit(principal, {action}, {resource}) when {{\n  {when}\n}};"


def _agreement(dula: Dula) -> str:
    return f'resource == Agreement::"{dula.id}"'


def _people(dula: Dula) -> str:
    listed = [f"principal == User::{_text(user)}" for user in dula.people.users]
    listed += [f"principal in Role::{_text(role)}" for role in dula.people.roles]
    return f"({' || '.join(listed)})" if listed else "false"


def _in_term(dula: Dula) -> str:
    first, last = _number(dula.term.effective), _number(dula.term.expires)
    return f"context.today >= {first} && context.today <= {last}"


def _within(mou: Mou, term: Contribution) -> str:
    first, last = _number(mou.begins(term)), _number(mou.ends(term))
    return f"(context.today >= {first} && context.today <= {last})"


def _number(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _set(values: Iterable[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"


def _text(value: str) -> str:
    return f'"{_quoted(value)}"'


def _quoted(value: str) -> str:
    """Cedar's strings escape as JSON's do, but for characters beyond ASCII, which stay."""
    return json.dumps(value, ensure_ascii=False)[1:-1]
