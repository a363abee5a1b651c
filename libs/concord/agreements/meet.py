"""The meet of agreements: what holds of data that was made of data under several of them.

A linked table is under all agreements of its inputs, so a meet is the set of them, and everything
it allows is what all of them allow. Sets make it commutative, associative and idempotent; that it
never allows what one of them refuses follows from each property, and is tested. About a table that
an agreement does not list it says nothing: each speaks for the data that is shared under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from typing import TypeVar

from concord.agreements.canonical import digest, digest_of
from concord.agreements.decision import Reason, refused
from concord.agreements.dula import Dula, Identifiability, Prohibition, Use
from concord.agreements.mou import Purpose
from concord.agreements.register import Register

Said = TypeVar("Said")
# From what says most of a person to what says least.
FORMS: tuple[Identifiability, ...] = ("identified", "pseudonymous", "limited", "aggregate")


@dataclass(frozen=True)
class Conflict:
    """Two agreements that leave nothing in common: what of, and the clause of each."""

    what: str
    one: Reason
    other: Reason

    def __str__(self) -> str:
        return f"{self.what}: {self.one}; {self.other}"


@dataclass(frozen=True)
class Meet:
    """Some agreements together. `|` of two meets is the meet of all their agreements."""

    agreements: frozenset[Dula]

    def __post_init__(self) -> None:
        if not self.agreements:
            raise ValueError("a meet is of one agreement at least")

    def __or__(self, other: Meet) -> Meet:
        return Meet(self.agreements | other.agreements)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted({dula.id for dula in self.agreements}))

    @property
    def digest(self) -> str:
        """Of one agreement its own digest; of several, of all of theirs."""
        digests = sorted(digest(dula) for dula in self.agreements)
        return digests[0] if len(digests) == 1 else digest_of(digests)

    # --- what is allowed: what all allow ---------------------------------------------------------

    @property
    def purposes(self) -> frozenset[Purpose]:
        """The purpose that all share, and none prohibits."""
        forbidden = {each for dula in self.agreements for each in dula.purpose.prohibited}
        return self._all(lambda dula: frozenset({dula.purpose.code})) - forbidden

    @property
    def recipients(self) -> frozenset[str]:
        return self._all(lambda dula: frozenset(party.key for party in dula.recipients.parties))

    @property
    def uses(self) -> frozenset[Use]:
        return self._all(lambda dula: frozenset(dula.uses.allowed))

    def admits(self, actor: str, roles: frozenset[str]) -> bool:
        """Whether all list the person, by name or by a role."""
        return all(
            actor in dula.people.users or roles & {*dula.people.roles} for dula in self.agreements
        )

    @property
    def individual_action(self) -> bool:
        return all(dula.uses.individual_action for dula in self.agreements)

    @property
    def columns(self) -> Mapping[str, frozenset[str]]:
        """By table, the columns that all agreements that list the table allow."""
        found: dict[str, frozenset[str]] = {}
        for dula in self.agreements:
            for dataset in dula.datasets:
                names = frozenset(dataset.column_names)
                found[dataset.table] = found.get(dataset.table, names) & names
        return found

    def may_link(self, one: str, other: str) -> bool:
        """Whether all agreements that list either table let the two be linked, and one does."""
        concerned = [d for d in self.agreements if {one, other} & {*d.tables}]
        return bool(concerned) and all(
            any({one, other} <= {*linkage.tables} for linkage in dula.linkages)
            for dula in concerned
        )

    @property
    def linkages(self) -> frozenset[frozenset[str]]:
        """Pairs of tables that may be linked."""
        tables = sorted({table for dula in self.agreements for table in dula.tables})
        return frozenset(
            frozenset(pair) for pair in combinations(tables, 2) if self.may_link(*pair)
        )

    # --- what binds: the strictest of all --------------------------------------------------------

    @property
    def effective(self) -> date:
        return max(dula.term.effective for dula in self.agreements)

    @property
    def expires(self) -> date:
        return min(dula.term.expires for dula in self.agreements)

    @property
    def identifiability(self) -> Identifiability:
        return max((dula.identifiability for dula in self.agreements), key=FORMS.index)

    @property
    def profiles(self) -> frozenset[str]:
        """A release has to meet every one of these disclosure profiles."""
        return frozenset(dula.disclosure.profile for dula in self.agreements)

    def threshold(self, minimums: Mapping[str, int]) -> int:
        """The smallest count that may be shown. `minimums` gives each profile's."""
        return max(minimums[profile] for profile in self.profiles)

    @property
    def reviewers(self) -> int:
        return max(dula.disclosure.reviewers for dula in self.agreements)

    @property
    def publication_approval(self) -> bool:
        return any(dula.disclosure.publication_approval for dula in self.agreements)

    @property
    def prohibitions(self) -> frozenset[Prohibition]:
        return self._any(lambda d: d.prohibitions.acts if d.prohibitions else ())

    @property
    def prohibited_purposes(self) -> frozenset[Purpose]:
        return self._any(lambda dula: dula.purpose.prohibited)

    @property
    def notices(self) -> frozenset[str]:
        return self._any(lambda dula: dula.legal_basis.notices)

    @property
    def training(self) -> frozenset[str]:
        return self._any(lambda dula: dula.people.training)

    @property
    def destroy_within_days(self) -> int:
        return min(dula.end.destroy_within_days for dula in self.agreements)

    @property
    def certificate_within_days(self) -> int:
        return min(dula.end.certificate_within_days for dula in self.agreements)

    @property
    def destruction_scope(self) -> frozenset[str]:
        return self._any(lambda dula: dula.end.scope)

    # --- conflicts -------------------------------------------------------------------------------

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Why nothing may be done under all of them: told before any job runs."""
        found = []
        ordered = sorted(self.agreements, key=lambda dula: (dula.id, dula.version))
        for one, other in combinations(ordered, 2):
            pair = Meet(frozenset({one, other}))
            if one.purpose.code != other.purpose.code:
                said = [Reason(d.id, d.purpose.clause, d.purpose.code) for d in (one, other)]
                found.append(Conflict("no purpose in common", *said))
            for first, second in ((one, other), (other, one)):
                if first.purpose.code in second.purpose.prohibited:
                    found.append(
                        Conflict(
                            "a purpose that the other prohibits",
                            Reason(first.id, first.purpose.clause, first.purpose.code),
                            Reason(
                                second.id,
                                second.purpose.clause,
                                f"never for {first.purpose.code}",
                            ),
                        )
                    )
            if not pair.recipients:
                parties = [
                    Reason(
                        d.id, d.recipients.clause, ", ".join(p.key for p in d.recipients.parties)
                    )
                    for d in (one, other)
                ]
                found.append(Conflict("no recipient in common", *parties))
            if not pair.uses:
                uses = [
                    Reason(d.id, d.uses.clause, ", ".join(d.uses.allowed)) for d in (one, other)
                ]
                found.append(Conflict("no use in common", *uses))
            if pair.effective > pair.expires:
                days = [
                    Reason(d.id, d.term.clause, f"{d.term.effective} to {d.term.expires}")
                    for d in (one, other)
                ]
                found.append(Conflict("no day in common", *days))
        return tuple(found)

    def _all(self, of: Callable[[Dula], frozenset[Said]]) -> frozenset[Said]:
        first, *rest = [of(dula) for dula in self.agreements]
        return first.intersection(*rest)

    def _any(self, of: Callable[[Dula], Iterable[Said]]) -> frozenset[Said]:
        return frozenset(each for dula in self.agreements for each in of(dula))


def meet(agreements: Iterable[Dula]) -> Meet:
    return Meet(frozenset(agreements))


def under(register: Register, agreements: Iterable[str], day: date) -> Meet:
    """The meet of agreements named on inputs (their labels), by the terms that govern on a day.

    Raises RefusedError (14) where nobody knows one, or where they leave nothing in common.
    """
    found = []
    for name in sorted(set(agreements)):
        standing = register.standing(name, day)
        if standing is None:
            refused([Reason(name, "id", "an input says that it is under it, but nobody knows it")])
            continue
        found.append(standing.terms)
    made = meet(found)
    refused([Reason(c.one.agreement, c.one.clause, str(c)) for c in made.conflicts])
    return made
