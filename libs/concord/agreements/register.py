"""The register: every version of every agreement, with what became of it. Pure.

Terms come from `conf/agreements`; what was requested, signed, suspended, ended comes from the
events in `ops/agreement_events`, which hold a copy of the terms that they are about. So an older
version governs until the newer one is signed, and what was allowed on a past day can be told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from concord.agreements import lifecycle
from concord.agreements.canonical import digest, digest_of
from concord.agreements.dula import Dula
from concord.agreements.lifecycle import GONE, IN_FORCE, Days, Event, Spell, State, Version
from concord.agreements.mou import Contribution, Mou
from concord.agreements.signing import Signer, verdict
from concord.errors import ConcordError, UsageError


@dataclass(frozen=True)
class Standing:
    """How one agreement stands on a day.

    `terms` are those that govern; where none do, those that were asked about last. `problem` says
    why nothing may be done under it, and is empty when it is in force. `notice` is for people: a
    newer version under way, a dispute, a legal hold.
    """

    agreement: str
    version: int
    state: State
    terms: Dula
    problem: str = ""
    notice: str = ""

    @property
    def in_force(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class Held:
    """The terms under which the hub holds an agency's data on a day, or why it may not."""

    mou: Mou
    problem: str = ""


class Register:
    """All agreements of a deployment: conf's terms and the events, read once, asked often."""

    def __init__(
        self,
        mous: Mapping[str, Mou],
        dulas: Mapping[str, Dula],
        events: Iterable[Event],
        signers: Mapping[str, Signer],
        *,
        signed_by_all: bool = False,
    ) -> None:
        """With `signed_by_all` conf's terms count as signed by everybody: what they would allow."""
        self._signed_by_all = signed_by_all
        self.mous = mous
        self.dulas = dulas
        self.signers = signers
        self._events: dict[str, list[Event]] = {}
        for event in events:
            self._events.setdefault(event.agreement, []).append(event)
        self._folded: dict[tuple[str, date | None], dict[int, Version]] = {}
        self._standings: dict[tuple[str, date], Standing | None] = {}
        self._held: dict[tuple[str, str, date], Held] = {}
        self._policies: dict[tuple[str, int, date | None], str] = {}

    # --- DULAs -----------------------------------------------------------------------------------

    def standing(self, agreement: str, day: date) -> Standing | None:
        """The DULA on a day; None when neither conf nor the events know it."""
        key = (agreement, day)
        if key not in self._standings:
            self._standings[key] = self._standing(agreement, day)
        return self._standings[key]

    def unknown(self, agreement: str) -> UsageError:
        """What to raise of an agreement that nobody knows."""
        known = ", ".join(sorted(self.dulas)) or "none"
        return UsageError(f"there is no agreement {agreement!r}; conf/agreements has {known}")

    def dula(self, agreement: str, day: date) -> Dula | None:
        """The terms that govern on a day; where none do, those that were asked about last."""
        standing = self.standing(agreement, day)
        return standing.terms if standing else None

    def in_force(self, day: date) -> dict[str, Dula]:
        """The governing terms of all DULAs that are in force on a day, by id."""
        found = {}
        for agreement in self.known:
            standing = self.standing(agreement, day)
            if standing and standing.in_force:
                found[agreement] = standing.terms
        return found

    @property
    def known(self) -> list[str]:
        """Every DULA that conf or the events know."""
        return sorted({*self.dulas, *self._known_dulas()})

    def present(self, agreement: str) -> Version | None:
        """The version that something happens to when an agreement is suspended, ended, held: the
        newest that was ever signed. None while none was."""
        signed = [
            version
            for version in self.versions(agreement).values()
            if version.state in {"partially_signed", "signed", "suspended", *GONE}
        ]
        return max(signed, key=lambda version: version.version, default=None)

    def ended(self, agreement: str, day: date) -> tuple[Dula, date] | None:
        """The terms of an agreement that has ended, and the day on which it did; None while any of
        its versions is in force, suspended, or signed for a day to come."""
        versions = self.versions(agreement, day)
        states = {number: self.state(version, day) for number, version in versions.items()}
        if any(state in IN_FORCE or state in {"suspended", "signed"} for state in states.values()):
            return None
        over = [n for n, state in states.items() if state in GONE or state == "expired"]
        if not over or "destruction_certified" in states.values():
            return None
        terms = self._terms(versions[max(over)])
        stopped = [
            event.at.date()
            for event in self.events(agreement)
            if event.kind == "terminated" and event.at.date() <= day
        ]
        return terms, min([*stopped, terms.term.expires])

    def all_terms(self, agreement: str) -> list[Dula]:
        """The terms of every version that was ever requested, the newest first."""
        versions = sorted(self.versions(agreement).values(), key=lambda v: -v.version)
        return [self._terms(version) for version in versions if version.terms]

    def _known_dulas(self) -> list[str]:
        return [agreement for agreement in self._events if agreement.startswith("DULA-")]

    def _standing(self, agreement: str, day: date) -> Standing | None:
        if self._signed_by_all:
            return self._assumed(agreement, day)
        versions = self.versions(agreement, day)
        newest_first = sorted(versions.values(), key=lambda version: -version.version)
        states = {version.version: self.state(version, day) for version in newest_first}
        stopped = [v for v in newest_first if v.state in GONE or v.state == "suspended"]
        if stopped:
            # Of one version, and of the agreement: another version does not bring it back.
            version, terms = stopped[0], self._terms(stopped[0])
            return Standing(
                agreement, version.version, version.state, terms,
                _problem(version, version.state, "", terms), _notice(version, states),
            )  # fmt: skip
        for version in newest_first:
            if states[version.version] in IN_FORCE and not self._unproved(version):
                terms = self._terms(version)
                return Standing(
                    agreement,
                    version.version,
                    states[version.version],
                    terms,
                    problem=self._altered(version, terms),
                    notice=_notice(version, states),
                )
        conf = self.dulas.get(agreement)
        if conf is not None and conf.version not in versions:
            draft = Version(agreement, conf.version)
            return Standing(agreement, conf.version, "draft", conf, _problem(draft, "draft", ""))
        if not newest_first:
            return None
        asked = versions[conf.version] if conf else newest_first[0]
        terms = self._terms(asked)
        unproved = self._unproved(asked)
        missing = ", ".join(party for party in terms.parties if party not in asked.signed_by())
        problem = unproved or _problem(asked, states[asked.version], missing, terms)
        return Standing(
            agreement, asked.version, states[asked.version], terms, problem,
            _notice(asked, states),
        )  # fmt: skip

    def _assumed(self, agreement: str, day: date) -> Standing | None:
        conf = self.dulas.get(agreement)
        if conf is None:
            return None
        term = Days(conf.term.effective, conf.term.expires)
        version = Version(agreement, conf.version, "signed")
        state = lifecycle.on_day(version, term, day, newer=())
        problem = "" if state in IN_FORCE else _problem(version, state, "", conf)
        return Standing(agreement, conf.version, state, conf, problem)

    def _altered(self, version: Version, terms: Dula) -> str:
        """Whether conf's file says something else than what was signed under its number."""
        conf = self.dulas.get(version.agreement)
        if conf is None or conf.version != version.version or digest(conf) == version.digest:
            return ""
        return (
            f"the terms in conf/agreements are not those that were signed as version "
            f"{version.version} (digest {version.digest[:16]}): put them back, or raise the "
            "version and have it signed"
        )

    def _unproved(self, version: Version) -> str:
        """What is wrong with the signatures that are there; empty when all hold."""
        for signature in version.signatures:
            found = verdict(version.agreement, signature, self.signers)
            if found == "unverifiable":
                return (
                    f"the signature of {signature.party} cannot be verified: the registry of "
                    f"signers has no key {signature.signer!r} that could sign for it on "
                    f"{signature.on}; restore the key there, or have a new version signed"
                )
            if found == "invalid":
                return (
                    f"the signature of {signature.party} is not one of key {signature.signer!r} "
                    "over these terms; tell the privacy officer"
                )
        return ""

    def policy_digest(self, dula: Dula, day: date) -> str:
        """32 hex digits that name the terms: 16 of the DULA's digest, 16 of what its owners signed
        of the MOU."""
        key = (dula.id, dula.version, day)
        if key not in self._policies:
            held = [(self.held(dula.mou, owner, day), owner) for owner in dula.owners.agencies]
            parts = [digest(each.mou.part(owner)) for each, owner in held if each]
            self._policies[key] = f"{digest(dula)[:16]}{digest_of(parts)[:16]}"
        return self._policies[key]

    def held_digest(self, mou: Mou) -> str:
        """32 hex digits that name an MOU's terms."""
        key = (mou.id, mou.version, None)
        if key not in self._policies:
            self._policies[key] = digest(mou)[:32]
        return self._policies[key]

    # --- MOUs ------------------------------------------------------------------------------------

    def held(self, mou: str, agency: str, day: date) -> Held | None:
        """The newest version of an MOU that binds the hub and the agency on a day.

        Each agency signs the memorandum with its own contributions, the hub all of it, so what one
        agency adds voids nobody else's signature. None when conf knows no such MOU.
        """
        key = (mou, agency, day)
        if key not in self._held and (conf := self.mous.get(mou)) is not None:
            self._held[key] = Held(conf) if self._signed_by_all else self._bound(conf, agency, day)
        return self._held.get(key)

    def holding(self, feed: str, day: date) -> Held | None:
        """The MOU under which the hub holds a feed on a day; None when no MOU speaks of it."""
        for mou in self.mous.values():
            for term in mou.contributions:
                if term.feed == feed:
                    held = self.held(mou.id, term.agency, day)
                    theirs = (
                        {each.agency for each in held.mou.contributions if each.feed == feed}
                        if held
                        else set()
                    )
                    if held and not held.problem and theirs - {term.agency}:
                        message = f"clause for {feed} was signed by another agency than conf names"
                        return Held(held.mou, message)
                    return held
        return None

    def contributions(self, day: date) -> list[tuple[Held, Contribution]]:
        """Every contribution in conf, with how its MOU stands."""
        return [
            (held, term)
            for mou in self.mous.values()
            for term in mou.contributions
            if (held := self.held(mou.id, term.agency, day)) is not None
        ]

    def _bound(self, conf: Mou, agency: str, day: date) -> Held:
        versions = self.versions(conf.id, day)
        why = ""
        for version in sorted(versions.values(), key=lambda version: -version.version):
            if version.state in GONE or version.state == "suspended":
                return Held(conf, f"version {version.version} is {version.state}")
            if version.state not in {"partially_signed", "signed"}:
                continue
            if day < _days(version).effective:
                why = why or f"version {version.version} begins on {_days(version).effective}"
                continue
            signed = {each.party: each for each in version.signatures}
            terms = self._mou_terms(version)
            missing = [party for party in (terms.hub, agency) if party not in signed]
            if missing:
                why = why or f"version {version.version} is not signed by {', '.join(missing)}"
                continue
            unproved = [
                party
                for party in (terms.hub, agency)
                if verdict(version.agreement, signed[party], self.signers) != "valid"
            ]
            if unproved:
                why = why or (
                    f"the signature of {', '.join(unproved)} on version {version.version} cannot "
                    "be verified by the registry of signers"
                )
                continue
            if version.version == conf.version and version.digest != digest(conf):
                return Held(
                    terms,
                    f"the terms in conf/agreements are not those that were signed as version "
                    f"{version.version}: put them back, or raise the version and have it signed",
                )
            return Held(terms)
        return Held(
            conf,
            (why or f"version {conf.version} is not signed by {conf.hub}, {agency}")
            + "; have them sign (concord agreement sign)",
        )

    # --- both ------------------------------------------------------------------------------------

    def versions(self, agreement: str, day: date | None = None) -> dict[int, Version]:
        """Each version as the events up to the end of a day (UTC; None: all) left it.

        Raises ConcordError when the events cannot have happened.
        """
        key = (agreement, day)
        if key in self._folded:
            return self._folded[key]
        found: dict[int, Version] = {}
        for event in self._events.get(agreement, []):
            if day is not None and event.at.date() > day:
                continue
            before = found.get(event.version, Version(agreement, event.version))
            terms = event.terms or before.terms
            kept = lifecycle.carried(found, event.version)
            try:
                after = lifecycle.after(before, event, owed(agreement, terms), kept)
            except ConcordError as error:
                raise ConcordError(f"ops/agreement_events cannot be: {error}") from None
            found[event.version] = after
        self._folded[key] = found
        return found

    def state(self, version: Version, day: date) -> State:
        """A version's state on a day."""
        newer = [
            (other.state, _days(other).effective)
            for other in self.versions(version.agreement, day).values()
            if other.version > version.version and other.terms
        ]
        if not version.terms:
            return version.state
        return lifecycle.on_day(version, _days(version), day, newer=newer)

    def spells(self, agreement: str, until: date) -> dict[int, list[Spell]]:
        """The stretches of days that each version spent in each state, by version."""
        found = {}
        events = self._events.get(agreement, [])
        for number, version in self.versions(agreement).items():
            own = [event.at.date() for event in events if event.version == number]
            others = [event.at.date() for event in events if event.version != number]
            days = {*own, *(day for day in others if day >= own[0])}
            if version.terms:
                term = _days(version)
                warned = lifecycle.expiry_warning(term.expires)
                days |= {term.effective, warned, term.expires + timedelta(days=1)}
                for other in self.versions(agreement).values():
                    if other.terms:
                        days.add(_days(other).effective)
            listed = sorted(day for day in days if own[0] <= day <= until)
            states = [
                (day, self.state(self.versions(agreement, day)[number], day)) for day in listed
            ]
            found[number] = lifecycle.spells(states, until)
        return found

    def events(self, agreement: str) -> Sequence[Event]:
        return self._events.get(agreement, [])

    @property
    def all_events(self) -> list[Event]:
        return [event for events in self._events.values() for event in events]

    def _terms(self, version: Version) -> Dula:
        conf = self.dulas.get(version.agreement)
        if conf is not None and digest(conf) == version.digest:
            return conf
        return _dula(version.terms)

    def _mou_terms(self, version: Version) -> Mou:
        conf = self.mous.get(version.agreement)
        if conf is not None and digest(conf) == version.digest:
            return conf
        return _mou(version.terms)


def owed(agreement: str, terms: str) -> dict[str, str]:
    """By party the digest of what it has to sign, from the terms' canonical JSON."""
    if not terms:
        return {}
    if agreement.startswith("MOU-"):
        return mou_owed(_mou(terms))
    return dula_owed(_dula(terms))


def dula_owed(dula: Dula) -> dict[str, str]:
    """Every owner and every recipient signs the whole."""
    whole = digest(dula)
    return dict.fromkeys(dula.parties, whole)


def mou_owed(mou: Mou) -> dict[str, str]:
    """The hub signs the whole, each agency the memorandum with its own contributions."""
    owing = {agency: digest(mou.part(agency)) for agency in mou.signatories}
    return {**owing, mou.hub: digest(mou)}


@lru_cache(maxsize=256)
def _dula(terms: str) -> Dula:
    return Dula.model_validate(json.loads(terms))


@lru_cache(maxsize=64)
def _mou(terms: str) -> Mou:
    return Mou.model_validate(json.loads(terms))


def _days(version: Version) -> Days:
    if version.agreement.startswith("MOU-"):
        mou = _mou(version.terms)
        return Days(mou.effective, mou.expires)
    term = _dula(version.terms).term
    return Days(term.effective, term.expires)


def _problem(version: Version, state: State, missing: str, terms: Dula | None = None) -> str:
    """Why nothing may be done in a state, and what to do about it."""
    number = f"version {version.version}"
    match state:
        case "draft":
            return f"{number} is a draft; request its review (concord agreement request)"
        case "in_review" | "returned":
            return f"{number} is {state}; it has to be approved and signed first"
        case "approved" | "partially_signed":
            return f"{number} is not signed by {missing}; have them sign (concord agreement sign)"
        case "signed":
            return f"{number} is signed but begins on {terms.term.effective if terms else ''}"
        case "expired":
            return f"expired on {terms.term.expires if terms else ''}; have it renewed"
        case "suspended":
            return f"{number} is suspended since {_day(version.since)}; have it resumed"
        case "terminated":
            return f"{number} was terminated on {_day(version.since)}; its data is to be destroyed"
        case _:
            return f"{number} is {state}; nothing may be read under it any more"


def _day(at: datetime | None) -> str:
    return at.astimezone(UTC).date().isoformat() if at else "an unknown day"


def _notice(version: Version, states: Mapping[int, State]) -> str:
    said = [
        f"version {number} is {state}"
        for number, state in sorted(states.items())
        if number > version.version
    ]
    said += ["disputed"] if version.disputed else []
    said += ["under legal hold"] if version.legal_hold else []
    return "; ".join(said)
