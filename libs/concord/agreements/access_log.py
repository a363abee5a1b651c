"""`ops/access_log`: one row per decision and per read, only ever appended, chained by hashes.

No foreign keys: what was asked and decided is copied in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from concord.agreements import chain
from concord.agreements.decision import (
    Decision,
    Holding,
    HoldingDecision,
    Request,
    decide,
    may_hold,
)
from concord.agreements.register import Register
from concord.errors import RefusedError
from concord.lake.registry import Column, Table
from concord.lake.run import Run
from concord.lake.zones import Refusal

ACCESS_LOG = Table(
    name="ops/access_log",
    description=(
        "Every decision of an agreement, allowed or refused, and every read that came of one; "
        "chained by hashes from the first row on."
    ),
    owner="data office",
    key=("hash",),
    columns=(
        Column("decided_at", "timestamp", "the real clock"),
        Column("actor", "string", "from the operating system or the identity provider"),
        Column("agreement", "string"),
        Column("purpose", "string", "as asked for"),
        Column(
            "tables",
            "array<string>",
            "as asked for, <feed>.<table>; or what a zone was refused for",
        ),
        Column("columns", "array<string>", "as asked for, <feed>.<table>.<column>"),
        Column("row_count", "bigint", "rows that a read gave; NULL for a decision"),
        Column("decision", "string", "allowed, refused, or read"),
        Column("reasons", "array<string>", "why it was refused, each with its clause"),
        Column("policy_digest", "string", "of the terms that decided"),
        Column("run_id", "string"),
        *chain.LINKS,
    ),
    statistics=("decided_at",),
    retention_days=365,
)


@dataclass(frozen=True)
class Read:
    """So many rows that a run read under a decision."""

    request: Request
    decision: Decision
    run_id: str
    rows: int


def ask(run: Run, register: Register, request: Request, *, model: str | None = None) -> Decision:
    """Decides, logs it whatever it is, and raises RefusedError (exit 14) if it is a refusal.

    Judged by the run's clock, for the run's actor. A dry run's decision is logged too. `model` is
    the agreement that a model was trained under, where the request applies one.
    """
    (decision,) = ask_all(run, register, [request], model=model)
    return decision.or_refuse()


def ask_all(
    run: Run, register: Register, requests: Sequence[Request], *, model: str | None = None
) -> list[Decision]:
    """Decides all requests and logs them in one commit. Refusals are returned, not raised."""
    now = run.clock()
    asked = [replace(request, actor=run.actor, roles=run.roles) for request in requests]
    decisions = [decide(request, register, now.date(), model=model) for request in asked]
    rows = [
        _row(request, decision, run.run_id, now, "allowed" if decision.allowed else "refused")
        for request, decision in zip(asked, decisions, strict=True)
    ]
    chain.append(run.lake, ACCESS_LOG, rows, stamp=run.stamp)
    for decision in decisions:
        if decision.allowed:
            run.lake.zones.open_study(decision.terms.id)
    return decisions


def ask_to_hold(run: Run, register: Register, holdings: Sequence[Holding]) -> list[HoldingDecision]:
    """What `ingest` and `index` ask under the MOU's contribution terms, feed by feed.

    Logged in one commit. Refusals are returned, not raised.
    """
    now = run.clock()
    decisions = [may_hold(holding, register, now.date()) for holding in holdings]
    rows = [
        {
            "decided_at": now,
            "actor": run.actor,
            "agreement": decision.agreement,
            "purpose": "matching" if holding.matched else "holding",
            "tables": list(holding.tables),
            "columns": [],
            "row_count": None,
            "decision": "refused" if decision.reasons else "allowed",
            "reasons": [str(reason) for reason in decision.reasons],
            "policy_digest": decision.policy_digest,
            "run_id": run.run_id,
        }
        for holding, decision in zip(holdings, decisions, strict=True)
    ]
    chain.append(run.lake, ACCESS_LOG, rows, stamp=run.stamp)
    return decisions


@contextmanager
def kept_to_zones(run: Run) -> Iterator[None]:
    """Logs at its end what the run's lake refused to its code for want of a zone, one row each.

    Raises RefusedError (14) then, even where the code went on.
    """
    refusals = run.lake.zones.refusals
    try:
        yield
    finally:
        if refusals:
            rows = [_refused(run, each) for each in refusals]
            refusals.clear()
            chain.append(run.lake, ACCESS_LOG, rows, stamp=run.stamp)
            raise RefusedError(rows[0]["reasons"][0])


def record_reads(run: Run, reads: Iterable[Read]) -> None:
    """Logs what was read under decisions that allowed it, in one commit."""
    now = run.clock()
    rows = [
        _row(
            replace(read.request, actor=run.actor),
            read.decision,
            read.run_id,
            now,
            "read",
            read.rows,
        )
        for read in reads
    ]
    chain.append(run.lake, ACCESS_LOG, rows, stamp=run.stamp)


def _refused(run: Run, refusal: Refusal) -> dict[str, Any]:
    return {
        "decided_at": run.clock(),
        "actor": run.actor,
        "agreement": refusal.agreement,
        "purpose": None,
        "tables": [refusal.place],
        "columns": [],
        "row_count": None,
        "decision": "refused",
        "reasons": [refusal.reason],
        "policy_digest": None,
        "run_id": run.run_id,
    }


def _row(
    request: Request,
    decision: Decision,
    run_id: str,
    at: datetime,
    outcome: Literal["allowed", "refused", "read"],
    row_count: int | None = None,
) -> dict[str, Any]:
    return {
        "decided_at": at,
        "actor": request.actor,
        "agreement": request.agreement,
        "purpose": request.purpose,
        "tables": list(request.tables),
        "columns": [
            f"{table}.{name}" for table in request.tables for name in sorted(request.columns[table])
        ],
        "row_count": row_count,
        "decision": outcome,
        "reasons": [str(reason) for reason in decision.reasons],
        "policy_digest": decision.policy_digest,
        "run_id": run_id,
    }
