"""A linkage model as one declares it: how records are blocked, compared and weighed.

`Model` is what `concord.linkage.link` takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field as Setting

from concord.errors import ConfigError
from concord.lake.run import digest
from concord.linkage import compare
from concord.linkage.compare import TESTS, AllOf, AnyOf, Simple
from concord.linkage.keys import Rule
from concord.linkage.patterns import MISSING, Integers, Together, Weights
from concord.linkage.patterns import Condition as Numbers
from concord.linkage.values import Part
from concord.settings import Document, Typed, read_document, validate
from concord.yaml12 import Location

SUM_TOLERANCE = 0.002
# Patterns are 64-bit integers.
MOST_PATTERNS = 2**62

Mistake = tuple[Location, str]
Names = tuple[str, str]
SHARES: tuple[Literal["m"], Literal["u"]] = ("m", "u")
Shares = float | tuple[float, ...]
M = TypeVar("M", bound="Model")


class Condition(Typed):
    """When two records are on a level: one test, or several of which all or any must be met.

    `test` is one of concord.linkage.compare.TESTS; `column` a column or a transform of one, as
    `first(zip, 3)`, and where it is left out the comparison's; `columns` those of a test of
    several. Without anything: both records have a value.
    """

    test: str | None = None
    column: str | None = None
    columns: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    all_of: tuple[Condition, ...] = ()
    any_of: tuple[Condition, ...] = ()

    def compiled(self, column: str | None) -> compare.Condition:
        """`column`: the comparison's."""
        if self.all_of:
            return AllOf(tuple(each.compiled(column) for each in self.all_of))
        if self.any_of:
            return AnyOf(tuple(each.compiled(column) for each in self.any_of))
        number = self.at_least if self.at_least is not None else self.at_most
        return Simple(self.test or "known", self.columns or (self.column or column or "",), number)


class Level(Condition):
    """One level of a comparison, and how often it is seen: `m` among pairs of one person, `u`
    among pairs of two. Without m and u they are estimated.

    `frequencies` (term frequencies): shares of records, ascending. The level then counts as
    several, by how large a share of the records has the value: less than the first, less than the
    second, ..., and m and u are lists, the rarest first. To agree on a rare name says more.
    """

    m: float | tuple[float, ...] | None = None
    u: float | tuple[float, ...] | None = None
    frequencies: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        return len(self.frequencies) + 1

    @property
    def known(self) -> bool:
        """Whether m and u are."""
        return self.m is not None and self.u is not None

    @property
    def bits(self) -> tuple[float, ...]:
        """Match weights by class; 0 where m or u is not known yet."""
        if self.m is None or self.u is None:
            return (0.0,) * self.classes
        return tuple(math.log2(m / u) for m, u in zip(self.each("m"), self.each("u"), strict=True))

    def each(self, which: Literal["m", "u"]) -> tuple[float, ...]:
        """m or u by class; empty where it is not known."""
        said = getattr(self, which)
        return said if isinstance(said, tuple) else () if said is None else (said,)


class Comparison(Typed):
    """Levels by name, strongest first; a pair is on the first whose condition it meets."""

    column: str | None = None
    levels: dict[str, Level] = Setting(min_length=2)
    fixed_u: bool = Setting(
        default=False,
        description="its u are reckoned and stay when a model is fitted: of random pairs too few "
        "agree by chance on an SSN to count them",
    )

    def compiled(self, name: str) -> compare.Comparison:
        return compare.Comparison(
            name,
            tuple(
                compare.Level(
                    level,
                    of.compiled(self.column),
                    of.column or self.column if of.frequencies else None,
                    of.classes,
                )
                for level, of in self.levels.items()
            ),
        )

    @property
    def digits(self) -> dict[str, range]:
        """The numbers that each level, `missing` included, has in a pattern's digit."""
        found, next_one = {MISSING: range(1)}, 1
        for level, of in self.levels.items():
            found[level] = range(next_one, next_one + of.classes)
            next_one += of.classes
        return found

    @property
    def ranks(self) -> Integers:
        """Of each number of the digit the place of its level, 0 for missing."""
        return np.repeat(np.arange(len(self.digits)), [len(at) for at in self.digits.values()])


class BlockingRule(Typed):
    """Records that have all of `on` in common are compared; one that lacks a part has no key.

    A key whose pairs exceed the budget is parted by `refine` too; if there are still too many,
    or there is no `refine`, the key is refused, and counted. `voids`: what so many share stands for
    `unknown`; who has a refused key has none by another rule that reads one of its columns.
    """

    name: str
    on: tuple[str, ...] = Setting(min_length=1)
    refine: tuple[str, ...] = ()
    voids: bool = False


class Interaction(Typed):
    """Two comparisons that depend on each other given who it is. `bits`: what a pattern weighs
    besides the sum of its two levels (a level of the first -> a level of the second -> bits);
    nothing for levels that are not there. Without bits they are estimated."""

    of: tuple[str, str]
    bits: dict[str, dict[str, float]] = {}

    def table(self, comparisons: Mapping[str, Comparison]) -> tuple[tuple[float, ...], ...]:
        """The bits by level numbers."""
        first, second = (comparisons[name].digits for name in self.of)
        return tuple(
            tuple(
                self.bits.get(one, {}).get(other, 0.0)
                for other, numbers in second.items()
                for _ in numbers
            )
            for one, numbers in first.items()
            for _ in numbers
        )


class Never(Typed):
    """A pattern that meets all of `when` (comparison -> levels) never links, whatever it weighs."""

    why: str
    when: dict[str, tuple[str, ...]] = Setting(min_length=1)


class Model(Typed):
    """Weights are in bits: log2(m/u), summed over comparisons.

    `beside`: fields that do not change which records are one person, nor the model's version.
    """

    beside: ClassVar[frozenset[str]] = frozenset()
    version: int = Setting(default=1, gt=0)
    people: int | None = Setting(
        default=None,
        gt=1,
        description="people whom a record may speak about; the prior odds are 1 to this. Without "
        "it they are estimated",
    )
    blocking: tuple[BlockingRule, ...] = Setting(min_length=1)
    pair_budget: int = Setting(
        default=100_000, gt=0, description="pairs that one blocking key may make"
    )
    run_budget: int = Setting(
        default=20_000_000_000,
        gt=0,
        description="pairs that all keys together may make; a run that would make more is refused "
        "before it makes any",
    )
    comparisons: dict[str, Comparison] = Setting(min_length=1)
    interactions: tuple[Interaction, ...] = Setting(
        default=(),
        description="comparisons that depend on each other, each in one at most; of all others it "
        "is taken that they do not",
    )
    never: tuple[Never, ...] = ()
    training: tuple[dict[str, tuple[str, ...]], ...] = Setting(
        default=(),
        description="sets of pairs (comparison -> levels) that teach m of the other comparisons; "
        "without any, those that agree on what a blocking rule asks",
    )
    keep_weight: float = Setting(default=0.0, description="lighter pairs are counted and not kept")

    @classmethod
    def from_yaml(cls, path: Path | str) -> Self:
        """Read and check a file. Raises ConfigError (exit 10) with every mistake and its line."""
        return loaded(Path(path), cls)

    @property
    def fitted(self) -> bool:
        """Whether all of m and u are known."""
        return all(level.known for c in self.comparisons.values() for level in c.levels.values())

    @property
    def prior_bits(self) -> float:
        """log2 of the odds that two records drawn at random speak about one person."""
        return -math.log2(self.people - 1) if self.people else 0.0

    @property
    def model_version(self) -> str:
        """Names the model in tables: the file's version and a digest of what it says."""
        said = self.model_dump(mode="json", exclude={*self.beside})
        return f"{self.version}-{digest(said)[:8]}"

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(Rule(rule.name, rule.on, rule.refine, rule.voids) for rule in self.blocking)

    @property
    def compiled(self) -> tuple[compare.Comparison, ...]:
        return tuple(comparison.compiled(name) for name, comparison in self.comparisons.items())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that blocking and comparing read."""
        parts = [part for rule in self.rules for part in rule.parts]
        parts += [p for c in self.compiled for level in c.levels for p in level.when.reads]
        return tuple(dict.fromkeys(Part.of(part).column for part in parts))

    @property
    def weights(self) -> Weights:
        """A level whose m or u is not known weighs nothing."""
        bits = tuple(
            (0.0, *(bits for level in comparison.levels.values() for bits in level.bits))
            for comparison in self.comparisons.values()
        )
        names = list(self.comparisons)
        together = tuple(
            Together(names.index(first), names.index(second), each.table(self.comparisons))
            for each in self.interactions
            for first, second in [each.of]
            if each.bits
        )
        never = tuple(self.numbers(never.when) for never in self.never)
        return Weights(bits, never, together)

    @property
    def frequent(self) -> dict[str, tuple[float, ...]]:
        """Parts of which values are told apart by how common they are -> bounds of the classes."""
        found = {}
        for comparison in self.comparisons.values():
            for level in comparison.levels.values():
                if level.frequencies:
                    found[level.column or comparison.column or ""] = level.frequencies
        return found

    def numbers(self, when: Mapping[str, tuple[str, ...]]) -> Numbers:
        """Comparison -> levels, as the numbers that meet it; an empty set for any."""
        return tuple(
            frozenset(n for level in when.get(name, ()) for n in comparison.digits[level])
            for name, comparison in self.comparisons.items()
        )

    def pattern(self, **levels: str) -> int:
        """The pattern with the given level names (the rarest class), missing where none is."""
        places = self.weights.space.places.tolist()
        return sum(
            comparison.digits[levels.get(name, MISSING)].start * place
            for (name, comparison), place in zip(self.comparisons.items(), places, strict=True)
        )

    def words(self, pattern: int) -> dict[str, str]:
        """A pattern in words: comparison -> level."""
        space, said = self.weights.space, {}
        for (name, comparison), place, width in zip(
            self.comparisons.items(), space.places.tolist(), space.widths, strict=True
        ):
            digit = pattern // place % width
            said[name] = next(level for level, of in comparison.digits.items() if digit in of)
        return said

    def with_levels(self, found: Mapping[str, Mapping[str, tuple[Shares, Shares]]]) -> Self:
        """The same model with m and u of the given levels (comparison -> level -> m, u)."""
        comparisons = {
            name: comparison.model_copy(
                update={
                    "levels": {
                        level: of.model_copy(
                            update=dict(zip("mu", found[name][level], strict=True))
                        )
                        if level in found.get(name, {})
                        else of
                        for level, of in comparison.levels.items()
                    }
                }
            )
            for name, comparison in self.comparisons.items()
        }
        return self.model_copy(update={"comparisons": comparisons})

    def with_interactions(self, found: Mapping[Names, Sequence[Sequence[float]]]) -> Self:
        """The same model with the bits of those of its interactions that are in `found`; rows and
        columns are levels, strongest first."""
        interactions = []
        for each in self.interactions:
            if each.of in found:
                first, second = (self.comparisons[name].levels for name in each.of)
                bits = {
                    level: dict(zip(second, row, strict=True))
                    for level, row in zip(first, found[each.of], strict=True)
                }
                each = each.model_copy(update={"bits": bits})
            interactions.append(each)
        return self.model_copy(update={"interactions": tuple(interactions)})


def loaded(path: Path, kind: type[M]) -> M:
    """Read and check a file. Raises ConfigError (exit 10) with every mistake and its line."""
    document = read_document(path)
    model = validate(document, kind)
    refuse(document, model_mistakes(model))
    return model


def refuse(document: Document, mistakes: Iterable[Mistake]) -> None:
    """Raises ConfigError (exit 10) with all mistakes and their lines, if there are any."""
    found = [document.problem(where, what) for where, what in mistakes]
    if found:
        raise ConfigError(found)


def model_mistakes(model: Model) -> Iterator[Mistake]:
    """What types do not say: where it is, what is wrong and what to do."""
    names: set[str] = set()
    for place, rule in enumerate(model.blocking):
        if rule.name in names:
            yield ("blocking", place, "name"), f"rule {rule.name!r} is given twice; rename one"
        names.add(rule.name)
        for key in ("on", "refine"):
            for number, part in enumerate(getattr(rule, key)):
                yield from _part_mistakes(("blocking", place, key, number), part, lists=key == "on")
    for name, comparison in model.comparisons.items():
        where: Location = ("comparisons", name)
        if comparison.column is not None:
            yield from _part_mistakes((*where, "column"), comparison.column)
        for level, of in comparison.levels.items():
            if level == MISSING:
                yield (*where, "levels", level), "is there without saying; rename the level"
            yield from _condition_mistakes((*where, "levels", level), of, comparison.column)
        yield from _level_mistakes(where, comparison)
    if (
        math.prod(
            c.digits[MISSING].stop + sum(of.classes for of in c.levels.values())
            for c in model.comparisons.values()
        )
        > MOST_PATTERNS
    ):
        yield ("comparisons",), "make more patterns than 64 bits can count; leave some out"
    yield from _interaction_mistakes(model)
    for place, condition in enumerate(model.never):
        yield from _when_mistakes(model, ("never", place, "when"), condition.when)
    for place, training in enumerate(model.training):
        yield from _when_mistakes(model, ("training", place), training)


def _part_mistakes(where: Location, part: str, *, lists: bool = False) -> Iterator[Mistake]:
    """`lists`: whether it may be of several values."""
    try:
        if Part.of(part).lists and not lists:
            yield where, f"{part} is of several values, which only `on` of a blocking rule may be"
    except ValueError as error:
        yield where, str(error)


def _condition_mistakes(where: Location, of: Condition, column: str | None) -> Iterator[Mistake]:
    said = [key for key in ("test", "all_of", "any_of") if getattr(of, key)]
    if len(said) > 1:
        yield where, f"says {' and '.join(said)}; keep one of them"
        return
    for key in ("all_of", "any_of"):
        for place, inner in enumerate(getattr(of, key)):
            yield from _condition_mistakes((*where, key, place), inner, column)
    if said and said != ["test"]:
        return
    if of.test is not None and of.test not in TESTS:
        yield (*where, "test"), f"no test {of.test!r}; there are {', '.join(TESTS)}"
        return
    kind = TESTS[of.test or "known"]
    parts = of.columns or tuple(part for part in [of.column or column] if part)
    if not parts:
        yield where, "of which column? Add column here or to the comparison"
    if kind.columns and parts and len(parts) != kind.columns:
        yield where, f"{of.test} reads {kind.columns} columns, not {len(parts)}"
    for part in parts:
        yield from _part_mistakes(where, part)
    for key in ("at_least", "at_most"):
        given, taken = getattr(of, key) is not None, kind.number == key
        if given != taken and not (taken and kind.optional):
            told = f"{of.test} needs {key}" if not given else f"{of.test} takes no {key}"
            yield where, told


def _level_mistakes(where: Location, comparison: Comparison) -> Iterator[Mistake]:
    for level, of in comparison.levels.items():
        place = (*where, "levels", level)
        if list(of.frequencies) != sorted(set(of.frequencies)):
            yield place, "frequencies must ascend"
        for which in SHARES:
            said = of.each(which)
            if said and len(said) != of.classes:
                yield place, f"{which} has {len(said)} shares; there are {of.classes} classes"
            if any(not 0 < share < 1 for share in said):
                yield place, f"{which} must lie between 0 and 1"
    known = [level for level, of in comparison.levels.items() if of.known]
    if known and len(known) < len(comparison.levels):
        absent = [level for level in comparison.levels if level not in known]
        yield where, f"says no m or no u of {', '.join(absent)}; add them, or leave out all"
        return
    for which in SHARES if known else ():
        total = sum(sum(level.each(which)) for level in comparison.levels.values())
        if abs(total - 1) > SUM_TOLERANCE:
            yield where, f"its {which} add up to {total:.4f}, not 1; one of them is wrong"


def _when_mistakes(
    model: Model, where: Location, when: Mapping[str, tuple[str, ...]]
) -> Iterator[Mistake]:
    for name, allowed in when.items():
        if name not in model.comparisons:
            known = ", ".join(model.comparisons)
            yield (*where, name), f"no comparison {name!r}; there are {known}"
            continue
        levels = model.comparisons[name].levels
        for level in allowed:
            if level != MISSING and level not in levels:
                known = ", ".join((*levels, MISSING))
                yield (*where, name), f"{name} has no level {level!r}; use one of {known}"


def _interaction_mistakes(model: Model) -> Iterator[Mistake]:
    taken: set[str] = set()
    for place, each in enumerate(model.interactions):
        where: Location = ("interactions", place)
        levels = {other for row in each.bits.values() for other in row}
        first, second = each.of
        said = {first: tuple(each.bits), second: tuple(sorted(levels))}
        if first == second or taken & {*each.of}:
            yield (*where, "of"), "a comparison can be in one interaction, with another one"
        taken |= {*each.of}
        if any(MISSING in allowed for allowed in said.values()):
            yield (*where, "bits"), f"{MISSING} is no evidence: leave it out"
        yield from _when_mistakes(model, (*where, "of"), said)
