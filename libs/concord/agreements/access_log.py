"""`ops/access_log`: one row per decision and per read, only ever appended, chained by hashes.

Each row's hash covers its content and the hash of the row before it, so that a row that is
changed, taken out or put in breaks the chain. No foreign keys: what was asked and decided is
copied in. What the chain cannot tell is that its end was cut off: keep the last hash that
`concord audit verify` printed elsewhere, and give it to the next one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from concord.agreements.decision import Decision, Request, decide
from concord.agreements.dula import Dula
from concord.agreements.mou import Mou
from concord.errors import AuditError, InfrastructureError
from concord.lake.registry import Column, Table
from concord.lake.run import Run
from concord.lake.tables import Append, Lake, Stamp, described

GENESIS = "0" * 64
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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
        Column("tables", "array<string>", "as asked for, <feed>.<table>"),
        Column("columns", "array<string>", "as asked for, <feed>.<table>.<column>"),
        Column("row_count", "bigint", "rows that a read gave; NULL for a decision"),
        Column("decision", "string", "allowed, refused, or read"),
        Column("reasons", "array<string>", "why it was refused, each with its clause"),
        Column("policy_digest", "string", "of the terms that decided"),
        Column("run_id", "string"),
        Column("previous_hash", "string", "of the row before; zeros for the first"),
        Column("hash", "string", "SHA-256 of the row's other columns as canonical JSON"),
    ),
    statistics=("decided_at",),
    retention_days=365,
)
CHAINED = [name for name in ACCESS_LOG.column_names if name != "hash"]


@dataclass(frozen=True)
class Verified:
    """What a chain that holds looks like: its rows, and the hash of its last one."""

    rows: int
    tip: str


@dataclass(frozen=True)
class Read:
    """So many rows that a run read under a decision."""

    request: Request
    decision: Decision
    run_id: str
    rows: int


def ask(run: Run, request: Request, dula: Dula, mou: Mou, *, model: Dula | None = None) -> Decision:
    """Decides, logs it whatever it is, and raises RefusedError (exit 14) if it is a refusal.

    Judged by the run's clock. A dry run's decision is logged too.
    """
    (decision,) = ask_all(run, [(request, dula, mou)], model=model)
    return decision.or_refuse()


def ask_all(
    run: Run,
    requests: Sequence[tuple[Request, Dula, Mou]],
    *,
    model: Dula | None = None,
) -> list[Decision]:
    """Decides all requests and logs them in one commit. Refusals are returned, not raised."""
    now = run.clock()
    decisions = [
        decide(request, dula, mou, now.date(), model=model) for request, dula, mou in requests
    ]
    rows = [
        _row(request, decision, run.run_id, now, "allowed" if decision.allowed else "refused")
        for (request, _, _), decision in zip(requests, decisions, strict=True)
    ]
    append(run.lake, rows, stamp=run.stamp)
    return decisions


def record_reads(run: Run, reads: Iterable[Read]) -> None:
    """Logs what was read under decisions that allowed it, in one commit."""
    now = run.clock()
    rows = [
        _row(read.request, read.decision, read.run_id, now, "read", read.rows) for read in reads
    ]
    append(run.lake, rows, stamp=run.stamp)


def append(lake: Lake, rows: Sequence[Mapping[str, Any]], *, stamp: Stamp) -> None:
    """Adds rows at the chain's end. Waits its turn for the table's lock.

    Raises AuditError when the chain has no single end: nothing is added to a log that was
    tampered with; InfrastructureError when it cannot be read.
    """
    if not rows:
        return
    with lake.locks.hold([ACCESS_LOG.name], wait_seconds=lake.lock_wait):
        try:
            previous = _tip(lake)
        except (PySparkException, Py4JError) as error:
            raise InfrastructureError(
                f"{ACCESS_LOG.name}: reading failed with {described(error)}; nothing was decided. "
                "Check that its files are whole and may be read, then run this again"
            ) from None
        chained = []
        for row in rows:
            whole = {**row, "previous_hash": previous}
            previous = row_hash(whole)
            chained.append({**whole, "hash": previous})
        frame = lake.spark.createDataFrame(chained, ACCESS_LOG.schema).coalesce(1)
        lake.write(frame, ACCESS_LOG, Append(), stamp=stamp, transaction=None, labels={})


def verify(lake: Lake, *, expect: str | None = None) -> Verified:
    """Recomputes every hash from the first row on.

    `expect` is a last hash noted earlier, which must still stand in the chain. Raises AuditError
    naming the first place that does not hold.
    """
    columns = [
        F.unix_micros(name).alias(name) if name == "decided_at" else F.col(name)
        for name in ACCESS_LOG.column_names
    ]
    rows = lake.read(ACCESS_LOG).select(*columns).collect()
    following: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        content = row.asDict()
        content["decided_at"] = EPOCH + timedelta(microseconds=content["decided_at"])
        following.setdefault(content["previous_hash"], []).append(content)
    tip, seen = GENESIS, 0
    known = {GENESIS}
    while tip in following:
        candidates = following[tip]
        if len(candidates) > 1:
            raise _broken(seen + 1, "stands twice: a row was put in")
        (content,) = candidates
        if row_hash(content) != content["hash"] or content["hash"] in known:
            raise _broken(seen + 1, "has another content than its hash: it was changed")
        tip, seen = content["hash"], seen + 1
        known.add(tip)
    if seen != len(rows):
        raise _broken(seen + 1, f"is missing; {len(rows) - seen} rows hang on nothing")
    if expect is not None and expect not in known:
        raise AuditError(
            f"{ACCESS_LOG.name}: no row has the hash {expect} that was noted before; the log was "
            "cut off or replaced. Compare it with its backup"
        )
    return Verified(seen, tip)


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256, 64 hex digits, of a row's columns except `hash` as canonical JSON (RFC 8785).

    `decided_at` counts as whole microseconds since 1970 UTC.
    """
    content = {name: row[name] for name in CHAINED}
    content["decided_at"] = (content["decided_at"] - EPOCH) // timedelta(microseconds=1)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


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


def _tip(lake: Lake) -> str:
    """The hash that no row follows."""
    log = lake.read(ACCESS_LOG).select("hash", "previous_hash")
    ends = (
        log.alias("row")
        .join(log.alias("next"), F.col("row.hash") == F.col("next.previous_hash"), "left_anti")
        .select("hash")
        .limit(2)
        .collect()
    )
    if len(ends) == 1:
        return str(ends[0]["hash"])
    if not ends and not lake.exists(ACCESS_LOG):
        return GENESIS
    if not ends and log.isEmpty():
        return GENESIS
    raise _broken(None, "has no single end")


def _broken(number: int | None, what: str) -> AuditError:
    place = f"row {number} of the chain" if number else "the chain"
    return AuditError(
        f"{ACCESS_LOG.name}: {place} {what}. Nothing more is written to it: keep the table as "
        "evidence, tell the privacy officer, restore it from its backup"
    )
