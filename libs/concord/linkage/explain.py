"""Why a pair of records weighs what it weighs: in words, and as the steps of a waterfall. Pure.

All is read off the pair's pattern, so it names no value of either record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from concord.linkage.patterns import MISSING, meets, probability

if TYPE_CHECKING:  # the model holds settings of review, which explains
    from concord.linkage.model import Model

# Comparison -> what it is of: one, several.
NOUNS: Mapping[str, tuple[str, str]] = {
    "ssn": ("SSN", "SSNs"),
    "given": ("given name", "given names"),
    "family": ("family name", "family names"),
    "birth": ("birth date", "birth dates"),
    "contact": ("phone, email, address or ZIP code", "phones, emails, addresses and ZIP codes"),
    "sex": ("sex", "sexes"),
    "middle": ("middle initial", "middle initials"),
    "suffix": ("suffix", "suffixes"),
    "birth_order": ("order among twins", "orders among twins"),
}
# Level -> a sentence about {one} or {many}; of those in SAYINGS that one comparison alone has.
LEVELS: Mapping[str, str] = {
    "exact": "same {one}",
    "same": "same {one}",
    "nickname": "{many} are nicknames of one name",
    "initial": "one {one} is the initial of the other",
    "near": "{many} nearly agree",
    "part": "{many} share a word",
    "swapped": "given and family name are swapped",
    "differ": "{many} differ",
}
SAYINGS: Mapping[tuple[str, str], str] = {
    ("ssn", "near"): "SSNs are one digit or one swap apart",
    ("ssn", "last_four"): "same last four digits of the SSN, which is all that both say",
    ("family", "form"): "family names are of the same words, written as one or in another order",
    ("birth", "near"): "birth dates agree in two of year, month and day, or swap day and month",
    ("birth", "year"): "same birth year, of which one record says no more",
    ("birth_order", "one_says"): "one is called the first or second of twins, the other is not",
    ("contact", "household"): "same phone, email or address",
    ("contact", "street"): "same street, of which one record says no ZIP code",
    ("contact", "zip"): "same ZIP code",
    ("contact", "other_street"): "streets differ, of which one record says no ZIP code",
    ("contact", "zip3"): "ZIP codes of one area",
}


@dataclass(frozen=True)
class Step:
    """What one comparison adds, or two together besides that. `rarity`: of a level that counts rare
    values apart, which class the value is of, from 1 for the rarest, and how many there are; None
    for other levels."""

    comparison: str
    level: str
    bits: float
    says: str
    rarity: tuple[int, int] | None = None

    @property
    def silent(self) -> bool:
        """Whether one of the records does not say, which is no evidence."""
        return self.level == MISSING


@dataclass(frozen=True)
class Explanation:
    """A pattern taken apart. All in bits but `probability`.

    `weight`: the sum of the steps, whatever never links; `total`: with the prior, so the log2 of
    the odds; `why`: of each `never` that the pattern meets. With one, `probability` is 0.
    """

    prior: float
    steps: tuple[Step, ...]
    weight: float
    total: float
    probability: float
    why: tuple[str, ...]

    @property
    def words(self) -> str:
        """In plain English, the heaviest step first."""
        told = sorted((s for s in self.steps if not s.silent), key=lambda s: -abs(s.bits))
        sentences = [f"{_capital(step.says)} ({step.bits:+.1f})." for step in told]
        if silent := [_nouns(step.comparison)[0] for step in self.steps if step.silent]:
            sentences.append(f"Not said by both: {', '.join(silent)}.")
        sentences += [f"{why}: never linked." for why in self.why]
        return " ".join(sentences)


def explain(model: Model, pattern: int) -> Explanation:
    """Takes a pattern of the model apart."""
    weights = model.weights
    levels = weights.space.decode(np.array([pattern], dtype=np.int64))
    names = model.words(pattern)
    steps = []
    for place, (name, comparison) in enumerate(model.comparisons.items()):
        level, digit = names[name], int(levels[0, place])
        numbers = comparison.digits[level]
        rarity = (digit - numbers.start + 1, len(numbers)) if len(numbers) > 1 else None
        bits = weights.bits[place][digit]
        steps.append(Step(name, level, bits, _says(name, level, rarity), rarity))
    every = list(model.comparisons)
    for each in weights.together:
        both = every[each.first], every[each.second]
        bits = each.bits[levels[0, each.first]][levels[0, each.second]]
        if bits:
            says = f"{' and '.join(_nouns(name)[0] for name in both)} depend on each other"
            at = " and ".join(names[name] for name in both)
            steps.append(Step(" and ".join(both), at, bits, says))
    weight = sum(step.bits for step in steps)
    never = (each.why for each in model.never if meets(levels, (model.numbers(each.when),))[0])
    why = tuple(never)
    chance = 0.0 if why else float(probability(np.array([weight]), model.prior_bits)[0])
    return Explanation(
        model.prior_bits, tuple(steps), weight, weight + model.prior_bits, chance, why
    )


def _says(comparison: str, level: str, rarity: tuple[int, int] | None) -> str:
    one, many = _nouns(comparison)
    if level == MISSING:
        return f"{one}: not said by both"
    text = SAYINGS.get((comparison, level)) or LEVELS.get(level) or "{one}: " + _readable(level)
    said = text.format(one=one, many=many)
    return f"{said}, {_rarity(*rarity)}" if rarity else said


def _rarity(number: int, classes: int) -> str:
    if number in (1, classes):
        return "a rare one" if number == 1 else "a common one"
    return f"class {number} of {classes} from rare to common"


def _nouns(comparison: str) -> tuple[str, str]:
    plain = _readable(comparison)
    return NOUNS.get(comparison, (plain, plain))


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
