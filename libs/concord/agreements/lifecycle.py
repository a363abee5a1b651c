"""The life of an agreement as one state machine. Pure: events in, states out, no clock.

    draft → in_review ⇄ returned → approved → partially_signed → signed ⇄ suspended
    signed, by the day: → active → expiring → expired; active with a newer version under way is
    `amending`, and the old version governs until every party signed the new one (`superseded`)
    signed or suspended → terminated; expired, terminated → destruction_due → destruction_certified

States that follow from the day alone (active, expiring, expired, amending, superseded) are
computed and never stored, so no missed job can keep an agreement alive. Whoever changes terms
requests a review anew: signatures cover a digest, and none of them covers the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal, get_args

from concord.agreements.signing import Signature
from concord.errors import UsageError

State = Literal[
    "draft", "in_review", "returned", "approved", "partially_signed", "signed", "active",
    "amending", "expiring", "expired", "suspended", "superseded", "terminated", "withdrawn",
    "destruction_due", "destruction_certified",
]  # fmt: skip
Kind = Literal[
    "requested", "returned", "approved", "withdrawn", "signed", "suspended", "resumed",
    "terminated", "destruction_ordered", "destruction_certified", "hold_placed", "hold_lifted",
    "disputed", "settled",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
# States in which data may be read.
IN_FORCE: frozenset[State] = frozenset({"active", "amending", "expiring"})
EXPIRY_WARNING_DAYS = 60
# States that end an agreement whole, whatever its other versions are.
GONE: frozenset[State] = frozenset({"terminated", "destruction_due", "destruction_certified"})

# What may happen in which stored state, and the state it leads to; None leaves it as it is.
TRANSITIONS: Mapping[Kind, tuple[frozenset[State], State | None]] = {
    "requested": (
        # New terms of the same version: whoever approved or signed did so for other terms.
        frozenset({"draft", "in_review", "returned", "approved", "partially_signed"}),
        "in_review",
    ),
    "returned": (frozenset({"in_review", "approved"}), "returned"),
    "approved": (frozenset({"in_review"}), "approved"),
    "withdrawn": (
        frozenset({"draft", "in_review", "returned", "approved", "partially_signed"}),
        "withdrawn",
    ),
    # To `partially_signed`, or `signed` when it was the last one.
    "signed": (frozenset({"approved", "partially_signed"}), None),
    # A memorandum binds those who signed before all have.
    "suspended": (frozenset({"partially_signed", "signed"}), "suspended"),
    # Back to `signed`, or `partially_signed`, by who signed.
    "resumed": (frozenset({"suspended"}), None),
    "terminated": (frozenset({"partially_signed", "signed", "suspended"}), "terminated"),
    "destruction_ordered": (frozenset({"signed", "suspended", "terminated"}), "destruction_due"),
    "destruction_certified": (frozenset({"destruction_due"}), "destruction_certified"),
    "hold_placed": (frozenset(get_args(State)) - {"destruction_certified"}, None),
    "hold_lifted": (frozenset(get_args(State)), None),
    "disputed": (frozenset(get_args(State)), None),
    "settled": (frozenset(get_args(State)), None),
}


@dataclass(frozen=True)
class Event:
    """Something that happened to one version of an agreement.

    `digest` is that of the terms it happened to, `terms` their canonical JSON, copied in at
    `requested`. A signature has `party`, `signer`, `signature`, and the `digest` that it covers.
    """

    agreement: str
    version: int
    kind: Kind
    actor: str
    at: datetime
    digest: str
    reason: str = ""
    party: str = ""
    signer: str = ""
    signature: str = ""
    terms: str = ""


@dataclass(frozen=True)
class Version:
    """One version of an agreement as its events left it. `state` is the stored one."""

    agreement: str
    version: int
    state: State = "draft"
    since: datetime | None = None
    digest: str = ""
    terms: str = ""
    signatures: tuple[Signature, ...] = ()
    legal_hold: bool = False
    disputed: bool = False

    def signed_by(self) -> frozenset[str]:
        return frozenset(signature.party for signature in self.signatures)


@dataclass(frozen=True)
class Days:
    """First and last day of a version's term, both inclusive."""

    effective: date
    expires: date


def after(
    version: Version, event: Event, owed: Mapping[str, str], carried: Iterable[Signature] = ()
) -> Version:
    """The version after an event.

    `owed` gives by party the digest of what it has to sign; `carried` are signatures of earlier
    versions, of which those that cover just that still count.

    Raises UsageError, saying what is possible instead, when the event cannot happen now.
    """
    allowed, leads_to = TRANSITIONS[event.kind]
    if version.state not in allowed:
        possible = sorted(kind for kind in KINDS if version.state in TRANSITIONS[kind][0])
        raise UsageError(
            f"{event.agreement} version {event.version} is {version.state}: it cannot be "
            f"{event.kind} now; possible: {', '.join(possible) or 'nothing'}"
        )
    if event.kind not in {"requested", "signed"} and event.digest != version.digest:
        raise UsageError(
            f"{event.agreement} version {event.version}: the file's terms are not those under "
            "review; request a review of the new terms"
        )
    match event.kind:
        case "requested":
            same = event.digest == version.digest
            if same and version.state not in {"draft", "returned"}:
                raise UsageError(
                    f"{event.agreement} version {event.version}: these terms are "
                    f"{version.state} already"
                )
            kept = tuple(each for each in carried if owed.get(each.party) == each.digest)
            return replace(
                version, state="in_review", since=event.at, digest=event.digest,
                terms=event.terms, signatures=kept,
            )  # fmt: skip
        case "signed":
            return _signed(version, event, owed)
        case "resumed":
            whole = version.signed_by() >= set(owed)
            back: State = "signed" if whole else "partially_signed"
            return replace(version, state=back, since=event.at)
        case "hold_placed" | "hold_lifted":
            return replace(version, legal_hold=event.kind == "hold_placed")
        case "disputed" | "settled":
            return replace(version, disputed=event.kind == "disputed")
        case "destruction_ordered" | "destruction_certified" if version.legal_hold:
            raise UsageError(
                f"{event.agreement} version {event.version} is under legal hold: nothing of it is "
                "destroyed; have the hold lifted"
            )
        case _:
            return replace(version, state=leads_to or version.state, since=event.at)


def in_company(versions: Mapping[int, Version], event: Event) -> None:
    """Raises UsageError when another version of the agreement stands against an event: an ended
    agreement gets no new terms, and nothing of one under legal hold is destroyed."""
    place = f"{event.agreement} version {event.version}"
    gone = [each for each in versions.values() if each.state in GONE]
    if gone and event.kind in {"requested", "approved", "signed"}:
        raise UsageError(
            f"{place}: version {gone[0].version} is {gone[0].state}, and the agreement with it; "
            "draft one of another number"
        )
    held = [each for each in versions.values() if each.legal_hold]
    if held and event.kind.startswith("destruction"):
        raise UsageError(
            f"{place}: version {held[0].version} is under legal hold: nothing of the agreement is "
            "destroyed; have the hold lifted"
        )


def carried(versions: Mapping[int, Version], number: int) -> tuple[Signature, ...]:
    """The signatures of the version before, which still count where they cover what a party has to
    sign now: none where the agreement was suspended or ended."""
    if any(each.state in GONE or each.state == "suspended" for each in versions.values()):
        return ()
    before = [
        each
        for each in versions.values()
        if each.version < number and each.state in {"partially_signed", "signed"}
    ]
    return max(before, key=lambda each: each.version).signatures if before else ()


def _signed(version: Version, event: Event, owed: Mapping[str, str]) -> Version:
    place = f"{event.agreement} version {event.version}"
    if event.party not in owed:
        raise UsageError(f"{place}: {event.party} is no party; {', '.join(sorted(owed))} are")
    if event.digest != owed[event.party]:
        raise UsageError(
            f"{place}: what {event.party} signed is not what is under review; sign the terms anew"
        )
    if event.party in version.signed_by():
        raise UsageError(f"{place}: {event.party} has signed already")
    signature = Signature(event.party, event.signer, event.digest, event.signature, event.at.date())
    signatures = (*version.signatures, signature)
    whole = {each.party for each in signatures} >= set(owed)
    state: State = "signed" if whole else "partially_signed"
    return replace(version, signatures=signatures, state=state, since=event.at)


def on_day(
    version: Version, term: Days, day: date, *, newer: Iterable[tuple[State, date]]
) -> State:
    """The state on a day. `newer` are later versions: stored state and first day of their term."""
    if version.state != "signed":
        return version.state
    later = list(newer)
    if any(state not in _BEFORE_SIGNED and effective <= day for state, effective in later):
        return "superseded"
    if day < term.effective:
        return "signed"
    if day > term.expires:
        return "expired"
    if any(state in _UNDER_WAY for state, _ in later):
        return "amending"
    left = (term.expires - day).days
    return "expiring" if left <= EXPIRY_WARNING_DAYS else "active"


_UNDER_WAY = frozenset({"in_review", "returned", "approved", "partially_signed", "signed"})
_BEFORE_SIGNED = frozenset(
    {"draft", "in_review", "returned", "approved", "partially_signed", "withdrawn"}
)


@dataclass(frozen=True)
class Spell:
    """A stretch of days that a version spent in a state; `until` is exclusive."""

    state: State
    begins: date
    until: date

    @property
    def days(self) -> int:
        return (self.until - self.begins).days


def spells(changes: Iterable[tuple[date, State]], until: date) -> list[Spell]:
    """Stretches from the days on which the state changed, in order."""
    found: list[Spell] = []
    listed = list(changes)
    for number, (begins, state) in enumerate(listed):
        ends = listed[number + 1][0] if number + 1 < len(listed) else until
        if found and found[-1].state == state:
            found[-1] = replace(found[-1], until=ends)
        else:
            found.append(Spell(state, begins, ends))
    return [spell for spell in found if spell.days > 0 or spell is found[-1]]


def expiry_warning(expires: date) -> date:
    """The first day on which an agreement counts as expiring."""
    return expires - timedelta(days=EXPIRY_WARNING_DAYS)
