"""`ops/agreement_events`: what happened to each agreement, appended to and chained by hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concord.agreements import chain, lifecycle
from concord.agreements.lifecycle import Event, Version
from concord.agreements.register import Register, owed
from concord.agreements.signing import Signature, load_signers, verdict
from concord.errors import UsageError
from concord.lake.registry import Column, Table
from concord.lake.tables import Lake
from concord.lake.writes import Stamp
from concord.settings import Settings

AGREEMENT_EVENTS = Table(
    name="ops/agreement_events",
    description=(
        "Every event of every agreement's life: requested, approved, signed, suspended, ended; "
        "with a copy of the terms that were requested; chained by hashes from the first row on."
    ),
    owner="data office",
    key=("hash",),
    columns=(
        Column("agreement", "string"),
        Column("version", "int"),
        Column("event", "string"),
        Column("from_state", "string"),
        Column("to_state", "string"),
        Column("actor", "string", "from the operating system or the identity provider"),
        Column("at", "timestamp", "the real clock"),
        Column("digest", "string", "of the terms; of what was signed"),
        Column("reason", "string"),
        Column("party", "string", "who signed"),
        Column("signer", "string", "with which key of the registry"),
        Column("signature", "string", "Ed25519, base64"),
        Column("terms", "string", "canonical JSON of the terms, where they were requested"),
        *chain.LINKS,
    ),
    statistics=("agreement", "at"),
    retention_days=3650,
)


def read(lake: Lake) -> list[Event]:
    """All events, in order. Raises AuditError where the chain does not hold: an agreement whose
    history was tampered with allows nothing."""
    return [
        Event(
            agreement=row["agreement"],
            version=row["version"],
            kind=row["event"],
            actor=row["actor"],
            at=row["at"],
            digest=row["digest"],
            reason=row["reason"],
            party=row["party"],
            signer=row["signer"],
            signature=row["signature"],
            terms=row["terms"],
        )
        for row in chain.read(lake, AGREEMENT_EVENTS)
    ]


def append(lake: Lake, register: Register, events: Sequence[Event], *, stamp: Stamp) -> None:
    """Adds events that can happen, in order, in one commit: judged by what the lake says under the
    table's lock, whatever the register knew.

    Raises UsageError when one cannot, or when a signature does not hold: then none is added.
    """
    with lake.locks.hold([AGREEMENT_EVENTS.name], wait_seconds=lake.lock_wait):
        now = Register(register.mous, register.dulas, read(lake), register.signers)
        chain.add(lake, AGREEMENT_EVENTS, _rows(now, events), stamp=stamp)


def _rows(now: Register, events: Sequence[Event]) -> list[dict[str, Any]]:
    agreements = {event.agreement for event in events}
    present = {agreement: dict(now.versions(agreement)) for agreement in agreements}
    last = {
        agreement: max((event.at for event in now.events(agreement)), default=None)
        for agreement in agreements
    }
    rows = []
    for event in events:
        versions, before_at = present[event.agreement], last[event.agreement]
        if before_at is not None and event.at < before_at:
            raise UsageError(
                f"{event.agreement}: its last event is of {before_at.isoformat()}, after the clock "
                f"of this machine ({event.at.isoformat()}); set the clock, then do this again"
            )
        before = versions.get(event.version, Version(event.agreement, event.version))
        terms = event.terms or before.terms
        kept = lifecycle.carried(versions, event.version)
        lifecycle.in_company(versions, event)
        after = lifecycle.after(before, event, owed(event.agreement, terms), kept)
        if event.kind == "signed":
            _prove(event, now)
        versions[event.version], last[event.agreement] = after, event.at
        rows.append(_row(event, before, after))
    return rows


def register(lake: Lake, settings: Settings, mous: Any, dulas: Any) -> Register:
    """The register as the lake's events and conf's terms give it."""
    return Register(mous, dulas, read(lake), load_signers(settings.signers_file))


def _prove(event: Event, known: Register) -> None:
    signature = Signature(event.party, event.signer, event.digest, event.signature, event.at.date())
    found = verdict(event.agreement, signature, known.signers)
    if found == "unverifiable":
        raise UsageError(
            f"{event.agreement}: the registry of signers has no key {event.signer!r} that may sign "
            f"for {event.party} on {event.at.date()}; add its public key there, after a review"
        )
    if found == "invalid":
        raise UsageError(
            f"{event.agreement}: the signature is not one of key {event.signer!r} over the present "
            "terms; sign with the key whose public half the registry has"
        )


def _row(event: Event, before: Version, after: Version) -> dict[str, Any]:
    return {
        "agreement": event.agreement,
        "version": event.version,
        "event": event.kind,
        "from_state": before.state,
        "to_state": after.state,
        "actor": event.actor,
        "at": event.at,
        "digest": event.digest,
        "reason": event.reason,
        "party": event.party,
        "signer": event.signer,
        "signature": event.signature,
        "terms": event.terms,
    }
