"""Agreement patterns and their match weights, after Fellegi and Sunter (1969). Pure numpy.

A pattern says, for each comparison, on which level two records agree; it is one integer, so that
pairs are counted, scored and stored by it. Level 0 of every comparison is `missing`: one of the
records does not say, which is no evidence. Workers import this module: it imports little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from concord.linkage.arrays import distinct

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MISSING = "missing"


@dataclass(frozen=True)
class Space:
    """The patterns there can be: for each comparison how many numbers its digit can have.

    The last comparison is the lowest digit. Stored patterns depend on the order of comparisons
    and of their levels.
    """

    widths: tuple[int, ...]

    @cached_property
    def places(self) -> Integers:
        """What one level of each comparison counts."""
        widths = np.array(self.widths[::-1], dtype=np.int64)
        return np.concatenate([[1], np.cumprod(widths)[:-1]])[::-1].astype(np.int64)

    def encode(self, levels: Integers) -> Integers:
        """Level numbers, a row per pair and a column per comparison -> patterns."""
        return np.asarray(levels @ self.places, dtype=np.int64)

    def decode(self, patterns: Integers) -> Integers:
        """The level numbers of patterns: the inverse of `encode`."""
        widths = np.array(self.widths, dtype=np.int64)
        return np.asarray(patterns[:, None] // self.places[None, :] % widths[None, :])


Condition = tuple[frozenset[int], ...]


@dataclass(frozen=True)
class Together:
    """What two levels weigh besides their sum: `bits[i][j]` where the comparison (column) `first`
    is on level number `i` and `second` on `j`, 0 where one is missing."""

    first: int
    second: int
    bits: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Weights:
    """Match weights by comparison and level, in bits, and what never links.

    `bits[c][l]` is log2(m/u) of level `l` (0: missing, which weighs nothing) of comparison `c`.
    `never` are conditions: for each comparison the level numbers that meet it, none for any; a
    pattern that meets all of one condition weighs minus infinity. `together`: what is added for
    comparisons that depend on each other; a comparison is in one of these at most.
    """

    bits: tuple[tuple[float, ...], ...]
    never: tuple[Condition, ...] = ()
    together: tuple[Together, ...] = ()

    @property
    def space(self) -> Space:
        return Space(tuple(len(bits) for bits in self.bits))

    def summed(self, patterns: Integers) -> Floats:
        """The sum of each pattern's levels and of what they add together, whatever never links."""
        few, place = distinct(patterns)
        levels = self.space.decode(few)
        total = np.zeros(len(few))
        for column, bits in enumerate(self.bits):
            total += np.array(bits)[levels[:, column]]
        for each in self.together:
            total += np.array(each.bits)[levels[:, each.first], levels[:, each.second]]
        return total[place]

    def most(self, says: npt.NDArray[np.bool_]) -> Floats:
        """The heaviest that a pair can be of which both say something in these comparisons (a row
        per pair, a column per comparison), whatever never links."""
        total = np.asarray(says @ np.array([max(bits) for bits in self.bits]))
        for each in self.together:
            first, second = np.array(self.bits[each.first]), np.array(self.bits[each.second])
            both = (first[:, None] + second[None, :] + np.array(each.bits))[1:, 1:].max()
            said = says[:, each.first] & says[:, each.second]
            total += np.where(said, both - max(0.0, first.max()) - max(0.0, second.max()), 0.0)
        return total

    def of(self, patterns: Integers) -> Floats:
        """The match weight of each pattern: the sum of what it says, or minus infinity."""
        total = self.summed(patterns)
        total[self.refuses(patterns)] = -np.inf
        return total

    def every(self) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """`summed` and `refuses` of all patterns there can be, in their order; without looking at
        each."""
        widths = self.space.widths
        total = np.zeros(1)
        for bits in self.bits:
            total = np.add.outer(total, np.array(bits)).ravel()
        for each in self.together:
            added = np.array(each.bits)
            added = added if each.first < each.second else added.T
            shape = [w if c in {each.first, each.second} else 1 for c, w in enumerate(widths)]
            total = (total.reshape(widths) + added.reshape(shape)).ravel()
        refused = np.zeros(widths, dtype=bool)
        for condition in self.never:
            levels = (sorted(some) or range(w) for some, w in zip(condition, widths, strict=True))
            refused[np.ix_(*(np.array(one, dtype=np.int64) for one in levels))] = True
        return total, refused.ravel()

    def refuses(self, patterns: Integers) -> npt.NDArray[np.bool_]:
        """Whether a pattern is one that never links."""
        return meets(self.space.decode(patterns), self.never)


def meets(levels: Integers, conditions: Sequence[Condition]) -> npt.NDArray[np.bool_]:
    """Rows of level numbers that meet one of the conditions."""
    found = np.zeros(len(levels), dtype=bool)
    for condition in conditions:
        met = np.ones(len(levels), dtype=bool)
        for column, allowed in enumerate(condition):
            if allowed:
                met &= np.isin(levels[:, column], list(allowed))
        found |= met
    return found


def probability(weights: Floats, prior_bits: float) -> Floats:
    """The chance that a pair of a match weight is one person, by Bayes' rule.

    `prior_bits` is log2 of the odds that two records drawn at random speak about one person.
    """
    return np.asarray(1.0 / (1.0 + np.exp2(-(weights + prior_bits))))
