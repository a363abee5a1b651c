"""A plain model of an index over time, written from docs/person-index.md and from no code.

It keeps who is who on every day as whole pictures, makes events by comparing two pictures, and
picks heirs by looking for the best pair again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

Pair = frozenset[str]
Change = tuple[str, str, str | None, frozenset[str]]


class Contradictory(Exception):
    """A decision that does not fit with those in force."""


def same(records: Iterable[str], musts: Iterable[Pair]) -> dict[str, frozenset[str]]:
    """Each record -> all that chains of must-links say are the same person, itself included."""
    found = {record: {record} for record in [*records, *(r for pair in musts for r in pair)]}
    for one, other in (sorted(pair) for pair in musts):
        both = found[one] | found[other]
        for record in both:
            found[record] = both
    return {record: frozenset(others) for record, others in found.items()}


@dataclass
class Index:
    """`persons`: day -> record -> person. `births`: person -> number of its run."""

    persons: dict[date, dict[str, str]] = field(default_factory=dict)
    births: dict[str, int] = field(default_factory=dict)
    verdicts: dict[Pair, str] = field(default_factory=dict)
    runs: int = 0

    @property
    def now(self) -> dict[str, str]:
        return self.persons[max(self.persons)] if self.persons else {}

    def on(self, day: date) -> dict[str, str]:
        days = [known for known in self.persons if known <= day]
        return self.persons[max(days)] if days else {}

    def pairs(self, verdict: str) -> list[Pair]:
        return [pair for pair, said in self.verdicts.items() if said == verdict]

    def decide(self, left: str, right: str, verdict: str) -> None:
        """Raises Contradictory, and then nothing has changed."""
        tried = {**self.verdicts, frozenset((left, right)): verdict}
        group = same((), [pair for pair, said in tried.items() if said == "must_link"])
        for one, other in (sorted(p) for p, said in tried.items() if said == "cannot_link"):
            if other in group.get(one, ()):
                raise Contradictory
        self.verdicts = tried

    def honours(self, groups: Iterable[Sequence[str]]) -> bool:
        """Whether no must-link is torn and no cannot-link broken, by whatever chain."""
        place = {record: number for number, group in enumerate(groups) for record in group}
        joined = same(place, self.pairs("must_link"))
        for others in joined.values():
            if len({place[record] for record in others if record in place}) > 1:
                return False
        for one, other in (sorted(pair) for pair in self.pairs("cannot_link")):
            left = {place[r] for r in joined.get(one, {one}) if r in place}
            right = {place[r] for r in joined.get(other, {other}) if r in place}
            if left & right:
                return False
        return True

    def run(self, clusters: Sequence[Sequence[str]], on: date) -> set[Change]:
        """The changes that the run makes; a new person is called by run and first record."""
        before = self.now
        heirs = self._heirs([set(cluster) for cluster in clusters], before)
        after: dict[str, str] = {}
        fresh: set[str] = set()
        for number, cluster in enumerate(clusters):
            person = heirs.get(number)
            if person is None:
                person = f"P{self.runs + 1}-{min(cluster)}"
                fresh.add(person)
            after.update(dict.fromkeys(cluster, person))
        changes = self._changes(before, after, fresh)
        if changes:
            self.runs += 1
            self.births.update(dict.fromkeys(fresh, self.runs))
            self.persons[on] = after
        return changes

    def _heirs(self, clusters: Sequence[set[str]], before: Mapping[str, str]) -> dict[int, str]:
        holds: dict[str, set[str]] = {}
        for record, person in before.items():
            holds.setdefault(person, set()).add(record)
        heirs: dict[int, str] = {}
        # Among free clusters and free persons the best pair, again and again until none is left.
        while True:
            pairs = []
            for person in set(holds) - set(heirs.values()):
                for number, cluster in enumerate(clusters):
                    shared = cluster & holds[person]
                    if shared and number not in heirs:
                        unconfirmed = not any(p <= shared for p in self.pairs("must_link"))
                        age = self.births[person]
                        pairs.append((unconfirmed, -len(shared), age, person, min(cluster), number))
            if not pairs:
                return heirs
            *_, person, _, number = min(pairs)
            heirs[number] = person

    def _changes(
        self, before: Mapping[str, str], after: Mapping[str, str], fresh: set[str]
    ) -> set[Change]:
        changes: set[Change] = set()
        for person in {*before.values(), *after.values()}:
            had = {r for r, p in before.items() if p == person}
            has = {r for r, p in after.items() if p == person}
            newcomers = frozenset(has - before.keys())
            if person in fresh:
                changes.add(("minted", person, None, newcomers))
            elif newcomers:
                changes.add(("joined", person, None, newcomers))
            if gone := frozenset(had - after.keys()):
                changes.add(("left", person, None, gone))
            went = {r: after[r] for r in had - has if r in after}
            parts = {to: frozenset(r for r in went if went[r] == to) for to in went.values()}
            most = sorted(parts, key=lambda to: (-len(parts[to]), to))
            if had and not has and not parts:
                changes.add(("retired", person, None, frozenset()))
            for to, records in parts.items():
                if not has and to == most[0]:
                    changes.add(("merged_into", person, to, records))
                else:
                    changes.add(("split_from", to, person, records))
        return changes
