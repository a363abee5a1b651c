"""What `conf/person_index.yaml` says: how records are blocked, compared, weighed and clustered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field as Setting

from concord.contracts.model import Contract
from concord.errors import ConfigError
from concord.lake.run import digest
from concord.linkage.compare import Near
from concord.linkage.patterns import LEVELS, MISSING, Comparison, Weights, number
from concord.linkage.standardise import Standards, family_name, given_name, street_of
from concord.settings import Document, Location, Typed, read_document, validate

FILE = "person_index.yaml"
SUM_TOLERANCE = 0.002

Part = Literal[
    "ssn",
    "ssn_first5",
    "ssn_last4",
    "given",
    "given_root",
    "given_initial",
    "family",
    "family_first",
    "birth",
    "birth_year",
    "zip",
    "zip3",
    "phone",
    "street",
]


class Level(Typed):
    """How often one level is seen: `m` among pairs of one person, `u` among pairs of two."""

    m: float = Setting(gt=0, lt=1)
    u: float = Setting(gt=0, lt=1)

    @property
    def bits(self) -> float:
        return math.log2(self.m / self.u)


class BlockingRule(Typed):
    """Records that have all of `on` in common are compared; one that lacks a part has no key.

    A key whose pairs exceed the budget is parted by `refine` too; if there are still too many,
    or there is no `refine`, the key is refused, and counted.
    """

    name: str
    on: tuple[Part, ...] = Setting(min_length=1)
    refine: tuple[Part, ...] = ()


class Never(Typed):
    """A pattern that meets all of `when` (comparison -> levels) never links, whatever it weighs."""

    why: str
    when: dict[Comparison, tuple[str, ...]] = Setting(min_length=1)


class Placeholders(Typed):
    """Values that stand for `unknown`: they are no evidence and make no blocking key."""

    given_names: tuple[str, ...] = ()
    family_names: tuple[str, ...] = ()
    birth_dates: tuple[date, ...] = ()
    birth_days: tuple[str, ...] = Setting(
        default=(), description="MM-DD: the year may be right, month and day are not"
    )
    ssns: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    zips: tuple[str, ...] = ()
    streets: tuple[str, ...] = ()


class NearNames(Typed):
    """Jaro-Winkler similarity (0 to 1) from which names are near."""

    given: float = Setting(default=0.88, gt=0, le=1)
    family: float = Setting(default=0.88, gt=0, le=1)


class PersonIndex(Typed):
    """The whole file. Weights are in bits: log2(m/u), summed over comparisons."""

    version: int = Setting(gt=0)
    people: int = Setting(
        gt=1, description="people whom a record may speak about; the prior odds are 1 to this"
    )
    leave_out: tuple[str, ...] = Setting(default=(), description="feeds that are not matched")
    nicknames: bool = True
    near: NearNames = NearNames()
    sex_codes: dict[str, str] = {}
    placeholders: Placeholders = Placeholders()
    blocking: tuple[BlockingRule, ...] = Setting(min_length=1)
    pair_budget: int = Setting(gt=0, description="pairs that one blocking key may make")
    comparisons: dict[Comparison, dict[str, Level]] = Setting(min_length=1)
    never: tuple[Never, ...] = ()
    keep_weight: float = Setting(description="lighter pairs are counted and not kept")
    link_weight: float = Setting(description="pairs from here on are in index/links")
    cluster_weight: float = Setting(description="links from here on make persons")
    component_limit: int = Setting(
        gt=1, description="records above which a component is parted at heavier links"
    )

    @property
    def prior_bits(self) -> float:
        return -math.log2(self.people - 1)

    @property
    def model_version(self) -> str:
        """Names the model in tables: the file's version and a digest of what it says."""
        return f"{self.version}-{digest(self.model_dump(mode='json'))[:8]}"

    @property
    def weights(self) -> Weights:
        """Comparisons that the file leaves out weigh nothing."""
        bits = []
        for name, levels in LEVELS.items():
            given = self.comparisons.get(name, {})
            bits.append((0.0, *(given[level].bits if given else 0.0 for level in levels)))
        never = tuple(
            tuple(
                frozenset(number(name, level) for level in condition.when.get(name, ()))
                for name in LEVELS
            )
            for condition in self.never
        )
        return Weights(tuple(bits), never)

    @property
    def standards(self) -> Standards:
        """The placeholders in standard form."""
        bare, of = Standards(), self.placeholders
        return Standards(
            given=frozenset(given_name(name, bare) or "" for name in of.given_names),
            family=frozenset(family_name(name, bare) or "" for name in of.family_names),
            birth_dates=frozenset(day.isoformat() for day in of.birth_dates),
            birth_days=frozenset(of.birth_days),
            ssns=frozenset(of.ssns),
            phones=frozenset(of.phones),
            zips=frozenset(of.zips),
            streets=frozenset(street_of(line, bare) or "" for line in of.streets),
            sex=tuple((code.upper(), sex) for code, sex in self.sex_codes.items()),
            nicknames=self.nicknames,
        )

    @property
    def nearness(self) -> Near:
        return Near(self.near.given, self.near.family, self.nicknames)


def load_person_index(path: Path, contracts: Mapping[str, Contract] | None = None) -> PersonIndex:
    """Read and check the file. Raises ConfigError (exit 10) with every mistake and its line."""
    document = read_document(path)
    model = validate(document, PersonIndex)
    found = [document.problem(where, what) for where, what in _mistakes(document, model, contracts)]
    if found:
        raise ConfigError(found)
    return model


def _mistakes(
    document: Document, model: PersonIndex, contracts: Mapping[str, Contract] | None
) -> Iterator[tuple[Location, str]]:
    for place, feed in enumerate(model.leave_out):
        if contracts is not None and feed not in contracts:
            yield ("leave_out", place), f"no contract {feed!r} in conf/feeds; remove it"
    names: set[str] = set()
    for place, rule in enumerate(model.blocking):
        if rule.name in names:
            yield ("blocking", place, "name"), f"rule {rule.name!r} is given twice; rename one"
        names.add(rule.name)
    for name, levels in model.comparisons.items():
        yield from _level_mistakes(name, levels)
    for place, condition in enumerate(model.never):
        for name, allowed in condition.when.items():
            for level in allowed:
                if level != MISSING and level not in LEVELS[name]:
                    known = ", ".join((*LEVELS[name], MISSING))
                    where: Location = ("never", place, "when", name)
                    yield where, f"{name} has no level {level!r}; use one of {known}"
    for place, day in enumerate(model.placeholders.birth_days):
        try:
            date.fromisoformat(f"2000-{day}")
        except ValueError:
            yield ("placeholders", "birth_days", place), f"{day!r} is no MM-DD"
    for code, sex in model.sex_codes.items():
        if sex not in {"F", "M"}:
            yield ("sex_codes", code), "must be F or M; leave out codes that mean neither"
    if not model.keep_weight <= model.link_weight <= model.cluster_weight:
        yield ("link_weight",), "must lie between keep_weight and cluster_weight"


def _level_mistakes(
    name: Comparison, levels: Mapping[str, Level]
) -> Iterator[tuple[Location, str]]:
    place: Location = ("comparisons", name)
    for level in levels:
        if level not in LEVELS[name]:
            yield (*place, level), f"{name} has no level {level!r}; {', '.join(LEVELS[name])}"
    absent = [level for level in LEVELS[name] if level not in levels]
    if absent:
        yield place, f"says nothing of {', '.join(absent)}; add m and u"
        return
    for which in ("m", "u"):
        total = sum(getattr(level, which) for level in levels.values())
        if abs(total - 1) > SUM_TOLERANCE:
            yield place, f"its {which} add up to {total:.4f}, not 1; one of them is wrong"
