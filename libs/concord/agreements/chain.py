"""Tables that are only ever appended to and chained by hashes: the access log, agreements' events.

Each row's hash covers its content and the hash of the row before it, so that a row that is
changed, taken out or put in breaks the chain. What the chain cannot tell is that its end was cut
off: keep the last hash that `concord audit verify` printed elsewhere, and give it to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from concord.agreements.canonical import digest_of
from concord.errors import AuditError
from concord.lake.registry import Column, Table
from concord.lake.tables import Lake
from concord.lake.writes import Stamp

GENESIS = "0" * 64
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The last columns of every chained table.
LINKS = (
    Column("previous_hash", "string", "of the row before; zeros for the first"),
    Column("hash", "string", "SHA-256 of the row's other columns as canonical JSON"),
)


@dataclass(frozen=True)
class Verified:
    """What a chain that holds looks like: its rows, and the hash of its last one."""

    rows: int
    tip: str


def append(lake: Lake, table: Table, rows: Sequence[Mapping[str, Any]], *, stamp: Stamp) -> None:
    """Adds rows at the chain's end. Waits its turn for the table's lock.

    Raises AuditError when the chain has no single end: nothing is added to a log that was
    tampered with; InfrastructureError when it cannot be read.
    """
    if not rows:
        return
    with lake.locks.hold([table.name], wait_seconds=lake.lock_wait):
        add(lake, table, rows, stamp=stamp)


def add(lake: Lake, table: Table, rows: Sequence[Mapping[str, Any]], *, stamp: Stamp) -> None:
    """`append` for a caller who holds the table's lock."""
    previous = _tip(lake, table)
    chained = []
    for row in rows:
        whole = {**row, "previous_hash": previous}
        previous = row_hash(table, whole)
        chained.append({**whole, "hash": previous})
    lake.add(chained, table, stamp=stamp)


def read(lake: Lake, table: Table) -> list[dict[str, Any]]:
    """All rows, in the chain's order, verified. Raises AuditError naming the first place that does
    not hold."""
    held = lake.rows(table)
    following: dict[str, list[dict[str, Any]]] = {}
    for content in held:
        following.setdefault(content["previous_hash"], []).append(content)
    tip, ordered = GENESIS, list[dict[str, Any]]()
    known = {GENESIS}
    while tip in following:
        candidates = following[tip]
        if len(candidates) > 1:
            raise _broken(table, len(ordered) + 1, "stands twice: a row was put in")
        (content,) = candidates
        if row_hash(table, content) != content["hash"] or content["hash"] in known:
            message = "has another content than its hash: it was changed"
            raise _broken(table, len(ordered) + 1, message)
        tip = content["hash"]
        ordered.append(content)
        known.add(tip)
    if len(ordered) != len(held):
        message = f"is missing; {len(held) - len(ordered)} rows hang on nothing"
        raise _broken(table, len(ordered) + 1, message)
    return ordered


def verify(lake: Lake, table: Table, *, expect: str | None = None) -> Verified:
    """Recomputes every hash from the first row on.

    `expect` is a last hash noted earlier, which must still stand in the chain. Raises AuditError
    naming the first place that does not hold.
    """
    rows = read(lake, table)
    expected(table, rows, expect)
    return Verified(len(rows), rows[-1]["hash"] if rows else GENESIS)


def expected(table: Table, rows: Sequence[Mapping[str, Any]], tip: str | None) -> None:
    """Raises AuditError unless a hash that was noted before still stands in the chain."""
    if tip is not None and tip not in {GENESIS, *(row["hash"] for row in rows)}:
        raise AuditError(
            f"{table.name}: no row has the hash {tip} that was noted before; the log was cut off "
            "or replaced. Compare it with its backup"
        )


def row_hash(table: Table, row: Mapping[str, Any]) -> str:
    """SHA-256, 64 hex digits, of a row's columns except `hash` as canonical JSON (RFC 8785).

    Times count as whole microseconds since 1970 UTC, days as ISO 8601.
    """
    return digest_of({name: _said(row[name]) for name in table.column_names if name != "hash"})


def _said(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    return value.isoformat() if isinstance(value, date) else value


def _tip(lake: Lake, table: Table) -> str:
    """The hash that no row follows."""
    log = lake.rows(table, "hash", "previous_hash")
    followed = {row["previous_hash"] for row in log}
    ends = [row["hash"] for row in log if row["hash"] not in followed]
    if len(ends) == 1:
        return str(ends[0])
    if not log:
        return GENESIS
    raise _broken(table, None, "has no single end")


def _broken(table: Table, number: int | None, what: str) -> AuditError:
    place = f"row {number} of the chain" if number else "the chain"
    return AuditError(
        f"{table.name}: {place} {what}. Nothing more is written to it: keep the table as "
        "evidence, tell the privacy officer, restore it from its backup"
    )
