"""What the ledger says of a feed, and what that means for the next delivery. Pure Python.

`ops/deliveries` is a log of states; `fold` makes a feed's present from it. `decide` says what to
do with a delivery before anything of it is read into a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from concord.contracts.model import Contract
from concord.ingest.manifest import Manifest, first_day

Content = tuple[str, str]  # (table, period)


@dataclass(frozen=True)
class Known:
    """A delivery that the ledger knows, in its present state."""

    delivery_id: str
    status: str
    kind: str
    sequence: int | None
    agency_sequence: int
    folder: str
    created_at: datetime | None
    contents: frozenset[Content]
    reasons: tuple[str, ...]
    versions: tuple[tuple[str, int], ...]
    contract_version: str
    run_id: str


@dataclass(frozen=True)
class FeedState:
    """A feed's present: its deliveries, which of them each period rests on, what comes next."""

    deliveries: Mapping[str, Known] = field(default_factory=dict)
    in_force: Mapping[Content, str] = field(default_factory=dict)
    signatures: frozenset[tuple[str, str]] = frozenset()
    last_sequence: int = 0
    events: int = 0

    @property
    def unfinished(self) -> Known | None:
        """The delivery whose publication a crash cut short. At most one: others wait for it."""
        return next((d for d in self.deliveries.values() if d.status == "loading"), None)

    def by_agency_sequence(self, number: int) -> Known | None:
        """The loaded delivery that the agency numbered so."""
        matching = [
            d
            for d in self.deliveries.values()
            if d.agency_sequence == number and d.status in {"loaded", "withdrawn"}
        ]
        return matching[-1] if matching else None

    def holds(self, table: str, periods: Iterable[str]) -> bool:
        """Whether a delivery in force brought one of the table's periods."""
        return any((table, period) in self.in_force for period in periods)

    def timeline(self, table: str) -> dict[date, tuple[str, int]]:
        """For a snapshot table: date of each period in force → (delivery_id, sequence)."""
        return {
            first_day(period): (delivery, self.deliveries[delivery].sequence or 0)
            for (name, period), delivery in self.in_force.items()
            if name == table
        }


def fold(rows: Iterable[Any]) -> FeedState:
    """A feed's state from its rows of `ops/deliveries`, in any order."""
    deliveries: dict[str, Known] = {}
    in_force: dict[Content, str] = {}
    signatures = set()
    last_sequence = events = 0
    for row in sorted(rows, key=lambda row: row["event"]):
        events = row["event"]
        signatures.add((row["folder"], row["signature"]))
        last_sequence = max(last_sequence, row["sequence"] or 0)
        if row["status"] == "duplicate":
            continue
        known = Known(
            delivery_id=row["delivery_id"],
            status=row["status"],
            kind=row["kind"],
            sequence=row["sequence"],
            agency_sequence=row["agency_sequence"],
            folder=row["folder"],
            created_at=row["created_at"],
            contents=frozenset((file["table"], file["period"]) for file in row["files"]),
            reasons=tuple(row["reasons"] or ()),
            versions=tuple((v["table"], v["version"]) for v in row["versions"] or ()),
            contract_version=row["contract_version"],
            run_id=row["run_id"],
        )
        before = deliveries.get(known.delivery_id)
        if known.status == "rejected" and before and before.status in {"loaded", "withdrawn"}:
            # The same content came again and was refused: what was loaded or withdrawn stays so.
            continue
        deliveries.pop(known.delivery_id, None)
        deliveries[known.delivery_id] = known
        if known.status == "loaded" and known.kind == "delivery":
            in_force.update(
                {
                    content: known.delivery_id
                    for content in known.contents
                    if _may_take(deliveries, in_force.get(content), known)
                }
            )
        elif known.status == "withdrawn":
            in_force = {c: d for c, d in in_force.items() if d != known.delivery_id}
    return FeedState(deliveries, in_force, frozenset(signatures), last_sequence, events)


def _may_take(deliveries: Mapping[str, Known], holder: str | None, known: Known) -> bool:
    """A delivery that is processed again keeps only the periods no later one has replaced."""
    if holder is None or holder == known.delivery_id:
        return True
    return known.agency_sequence > deliveries[holder].agency_sequence


@dataclass(frozen=True)
class Load:
    """Publish it. `superseded` names, per (table, period), the delivery it replaces."""

    superseded: Mapping[Content, Known] = field(default_factory=dict)


@dataclass(frozen=True)
class AlreadyLoaded:
    """The same content again: nothing to do."""

    known: Known


@dataclass(frozen=True)
class AlreadyRejected:
    """The same content that was rejected before; only a corrected contract can change that."""

    known: Known


@dataclass(frozen=True)
class Withdraw:
    """Take a loaded delivery back."""

    known: Known


@dataclass(frozen=True)
class Reject:
    """Refuse the delivery, with every reason."""

    reasons: tuple[str, ...]


Decision = Load | AlreadyLoaded | AlreadyRejected | Withdraw | Reject


def decide(state: FeedState, delivery: str, manifest: Manifest, contract: Contract) -> Decision:
    """What becomes of a delivery of proved integrity, by the feed's state and load policies."""
    known = state.deliveries.get(delivery)
    if known and known.status == "loaded":
        return AlreadyLoaded(known)
    if known and known.status == "withdrawn":
        return Reject(
            (
                "the agency withdrew this very content; to bring it back, send it again with a "
                "higher sequence",
            )
        )
    if known and known.status == "rejected":
        return AlreadyRejected(known)
    taken = state.by_agency_sequence(manifest.sequence)
    if taken:
        return Reject(
            (
                f"sequence {manifest.sequence} was already used by another delivery, found in "
                f"{taken.folder}; a corrected delivery takes a higher sequence",
            )
        )
    if manifest.kind == "withdrawal":
        return _decide_withdrawal(state, manifest)
    reasons = []
    superseded: dict[Content, Known] = {}
    for table, period in manifest.contents:
        holder = state.in_force.get((table, period))
        if holder is None:
            continue
        present = state.deliveries[holder]
        policy = contract.table(table).policy
        if policy == "append_only":
            reasons.append(
                f"{table} {period} was loaded from sequence {present.agency_sequence} and its rows "
                "never change (append_only); withdraw that delivery first, then send this again "
                "with a higher sequence"
            )
        elif present.agency_sequence > manifest.sequence:
            reasons.append(
                f"{table} {period} rests on the later sequence {present.agency_sequence}; sequence "
                f"{manifest.sequence} is out of date"
            )
        else:
            superseded[(table, period)] = present
    return Reject(tuple(reasons)) if reasons else Load(superseded)


def _decide_withdrawal(state: FeedState, manifest: Manifest) -> Decision:
    target = state.by_agency_sequence(manifest.withdraws or 0)
    if target is None or target.kind == "withdrawal":
        return Reject((f"sequence {manifest.withdraws}, which it withdraws, was never loaded",))
    if target.status == "withdrawn":
        return Reject((f"sequence {manifest.withdraws} was withdrawn before",))
    return Withdraw(target)
