"""Signing for a laptop: every party gets a key made here, and signs. Never for real agreements.

A development deployment keeps its registry of signers in its keys' folder, where no review looks
at it; where the registry stands in conf/, as it does for real parties, a rehearsal is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from ruamel.yaml import YAML

from concord.agreements import events
from concord.agreements.canonical import canonical, digest
from concord.agreements.dula import Dula
from concord.agreements.lifecycle import Event
from concord.agreements.mou import Mou
from concord.agreements.register import Register, dula_owed, mou_owed
from concord.agreements.signing import load_signers, new_key, public_text, read_key, sign
from concord.errors import UsageError
from concord.lake.run import actor
from concord.lake.tables import Lake
from concord.lake.writes import Stamp
from concord.settings import Settings


@dataclass(frozen=True)
class Times:
    """When an agreement was requested, approved, first signed; then party by party."""

    requested: datetime
    approved: datetime
    signed: datetime
    between: timedelta = timedelta(0)

    @classmethod
    def at(cls, at: datetime) -> Times:
        return cls(at, at, at)


When = Callable[[Mou | Dula], Times]
WAITING = frozenset({"draft", "in_review", "returned", "approved", "partially_signed"})


def rehearse(
    lake: Lake, settings: Settings, register: Register, when: When, *, stamp: Stamp
) -> list[str]:
    """Walks every agreement of conf that waits to be signed through review and all signatures.

    `when` gives the time of an agreement's events. Returns the agreements that were signed. Raises
    UsageError where the registry of signers is a real one.
    """
    folder = _folder(settings)
    all_terms: list[Mou | Dula] = [*register.mous.values(), *register.dulas.values()]
    waiting = [each for each in all_terms if _waits(register, each)]
    if not waiting:
        return []
    owing = {each.id: mou_owed(each) if isinstance(each, Mou) else dula_owed(each)
             for each in waiting}  # fmt: skip
    _enrol(settings.signers_file, folder, {p for owed in owing.values() for p in owed})
    known = Register(
        register.mous, register.dulas, register.all_events, load_signers(settings.signers_file)
    )
    made = [
        event for each in waiting for event in life(each, owing[each.id], known, when(each), folder)
    ]
    events.append(lake, known, made, stamp=stamp)
    return [each.id for each in waiting]


def life(
    terms: Mou | Dula, owed: dict[str, str], register: Register, times: Times, folder: Path
) -> Iterable[Event]:
    """The events that lead from a draft to signed terms."""
    version = register.versions(terms.id).get(terms.version)
    base = (terms.id, terms.version)
    who, whole = actor(), digest(terms)
    same = version is not None and version.digest == whole
    signed = version.signed_by() if version and same else set()
    if version is None or not same or version.state in {"draft", "returned"}:
        text = canonical(terms).decode()
        yield Event(*base, "requested", who, times.requested, whole, terms=text)
        carried = {
            each.party
            for other in register.versions(terms.id).values()
            for each in other.signatures
            if owed.get(each.party) == each.digest
        }
        signed = carried
    if version is None or not same or version.state in {"draft", "returned", "in_review"}:
        yield Event(*base, "approved", who, times.approved, whole)
    for number, (party, owes) in enumerate(owed.items()):
        if party not in signed:
            at = times.signed + number * times.between
            key = read_key(folder / f"{party}.pem")
            made = sign(key, terms.id, party=party, signer=party, digest=owes, on=at.date())
            yield Event(
                *base, "signed", who, at, owes, party=party, signer=party, signature=made.value
            )


def _waits(register: Register, terms: Mou | Dula) -> bool:
    version = register.versions(terms.id).get(terms.version)
    return version is None or version.state in WAITING


def _folder(settings: Settings) -> Path:
    keys = settings.keys.path
    if keys is None or keys.resolve() not in settings.signers_file.resolve().parents:
        raise UsageError(
            "rehearse makes keys for all parties and signs for them, for development only: the "
            f"settings' registry of signers ({settings.signers_file}) is not in the folder of "
            "keys, so it is a real one"
        )
    return keys / "signers"


def _enrol(registry: Path, folder: Path, parties: Iterable[str]) -> None:
    """Keys for parties that have none, and their public halves in the registry."""
    yaml = YAML()
    held = {
        name: signer.model_dump(mode="json", exclude_none=True)
        for name, signer in load_signers(registry).items()
    }
    for party in sorted(parties):
        path = folder / f"{party}.pem"
        key = read_key(path) if path.exists() else new_key(path)
        held.setdefault(
            party,
            {
                "party": party,
                "office": "rehearsal",
                "public_key": public_text(key),
                "valid_from": date(2000, 1, 1).isoformat(),
            },
        )
    registry.parent.mkdir(parents=True, exist_ok=True)
    with registry.open("w", encoding="utf-8") as stream:
        yaml.dump(held, stream)
