"""Agreement patterns and their match weights, after Fellegi and Sunter (1969). Pure numpy.

A pattern says, for each comparison, on which level two records agree; it is one integer, so that
pairs are counted, scored and stored by it. Level 0 of every comparison is `missing`: one of the
records does not say, which is no evidence. Workers import this module: it imports little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MISSING = "missing"
Comparison = Literal["ssn", "given", "family", "birth", "contact", "sex", "middle", "suffix"]
# A comparison's levels besides `missing`, strongest first. What a level means is said where it
# is decided, in concord.linkage.compare. Stored patterns depend on this order.
LEVELS: Mapping[Comparison, tuple[str, ...]] = {
    "ssn": ("exact", "near", "last_four", "differ"),
    "given": ("exact", "nickname", "initial", "near", "differ"),
    "family": ("exact", "part", "near", "differ"),
    "birth": ("exact", "near", "year", "differ"),
    "contact": ("household", "zip", "zip3", "differ"),
    "sex": ("same", "differ"),
    "middle": ("same", "differ"),
    "suffix": ("same", "differ"),
}
RADIX = np.array([len(levels) + 1 for levels in LEVELS.values()], dtype=np.int64)
# The last comparison is the pattern's lowest digit.
PLACE: Integers = np.concatenate([np.cumprod(RADIX[::-1])[::-1][1:], [1]])


def encode(levels: Integers) -> Integers:
    """Level numbers, a row per pair and a column per comparison in LEVELS' order -> patterns."""
    return levels @ PLACE


def decode(patterns: Integers) -> Integers:
    """The level numbers of patterns: the inverse of `encode`."""
    return patterns[:, None] // PLACE[None, :] % RADIX[None, :]


def number(comparison: Comparison, level: str) -> int:
    """A level's number within its comparison."""
    return 0 if level == MISSING else LEVELS[comparison].index(level) + 1


def pattern(**levels: str) -> int:
    """The pattern with the given level names, missing where none is given."""
    numbers = [number(name, levels.get(name, MISSING)) for name in LEVELS]
    return int(np.array(numbers, dtype=np.int64) @ PLACE)


def words(of: int) -> dict[str, str]:
    """A pattern in words: comparison -> level."""
    numbers = decode(np.array([of], dtype=np.int64))[0]
    return {
        name: (MISSING, *levels)[digit]
        for (name, levels), digit in zip(LEVELS.items(), numbers.tolist(), strict=True)
    }


@dataclass(frozen=True)
class Weights:
    """Match weights by comparison and level, in bits, and what never links.

    `bits[c][l]` is log2(m/u) of level `l` (0: missing, which weighs nothing) of comparison `c`.
    `never` are conditions: for each comparison the level numbers that meet it; a pattern that
    meets all of one condition weighs minus infinity.
    """

    bits: tuple[tuple[float, ...], ...]
    never: tuple[tuple[frozenset[int], ...], ...] = ()

    def of(self, patterns: Integers) -> Floats:
        """The match weight of each pattern: the sum over its comparisons."""
        distinct, place = np.unique(patterns, return_inverse=True)
        levels = decode(distinct)
        total = np.zeros(len(distinct))
        for column, bits in enumerate(self.bits):
            total += np.array(bits)[levels[:, column]]
        for condition in self.never:
            met = np.ones(len(distinct), dtype=bool)
            for column, allowed in enumerate(condition):
                if allowed:
                    met &= np.isin(levels[:, column], list(allowed))
            total[met] = -np.inf
        return total[place]


def probability(weights: Floats, prior_bits: float) -> Floats:
    """The chance that a pair of a match weight is one person, by Bayes' rule.

    `prior_bits` is log2 of the odds that two records drawn at random speak about one person.
    """
    return 1.0 / (1.0 + np.exp2(-(weights + prior_bits)))
