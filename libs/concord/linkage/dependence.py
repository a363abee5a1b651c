"""Comparisons that depend on each other given who it is: how much, and what it weighs. Pure numpy.

Fellegi and Sunter's weights add up only where comparisons are independent, within pairs of one
person and within pairs of two. Two comparisons are looked at as in a log-linear model with their
interaction (Thibaudeau, "The Discrimination Power of Dependency Structures in Record Linkage",
Survey Methodology 19(1), 1993; Winkler, "Improved Decision Rules in the Fellegi-Sunter Model of
Record Linkage", 1993): how often two levels are seen together, against what chance makes of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concord.linkage.patterns import Floats, Integers
from concord.linkage.values import Flags

# Added to what is seen and to what is expected, so that a pair or two that chance hardly makes say
# little (DuMouchel, "Bayesian Data Mining in Large Frequency Tables", The American Statistician
# 53(3), 1999, shrinks ratios so).
SHRINK = 0.5


@dataclass(frozen=True)
class Crossed:
    """Pairs by the levels of two comparisons of which both say something; a row and a column for
    each level, strongest first."""

    observed: Floats

    @property
    def expected(self) -> Floats:
        """As many, if neither level told anything of the other."""
        total = max(float(self.observed.sum()), 1.0)
        margins = self.observed.sum(axis=1)[:, None] * self.observed.sum(axis=0)[None, :]
        return np.asarray(margins / total)

    @property
    def ratio(self) -> Floats:
        """How many times as often as by chance two levels are seen together, shrunk towards 1. By
        level, missing first: with that nothing depends on anything."""
        found = np.ones((self.observed.shape[0] + 1, self.observed.shape[1] + 1))
        found[1:, 1:] = (self.observed + SHRINK) / (self.expected + SHRINK)
        return found

    @property
    def v(self) -> float:
        """Cramér's V: 0 where the two are independent, 1 where one tells the other."""
        levels = min(int((self.observed.sum(axis=axis) > 0).sum()) for axis in (0, 1))
        if levels < 2:
            return 0.0
        expected = self.expected
        square = (self.observed - expected) ** 2 / np.where(expected > 0, expected, 1.0)
        return float(np.sqrt(square.sum() / self.observed.sum() / (levels - 1)))


@dataclass(frozen=True)
class Crossing:
    """Two comparisons, as columns of level numbers. `levels`: of each what level a number of its
    digit belongs to, 0 for missing (several numbers are one level where it has classes)."""

    columns: tuple[int, int]
    levels: tuple[Integers, Integers]

    def places(self, digits: Integers) -> tuple[Integers, Integers]:
        """Rows of level numbers -> which cell of a table by level each is in."""
        first, second = (
            levels[digits[:, column]]
            for levels, column in zip(self.levels, self.columns, strict=True)
        )
        return first, second

    def counted(self, digits: Integers, n: Floats) -> Crossed:
        table = np.zeros([int(levels.max()) + 1 for levels in self.levels])
        np.add.at(table, self.places(digits), n)
        return Crossed(table[1:, 1:])


@dataclass(frozen=True)
class Dependence:
    """How two comparisons depend on each other, `of` by name.

    `one`, `two`: Cramér's V among pairs of one person, and among random pairs. `bits`: what a
    pattern weighs more than the sum of the two levels, by level, strongest first. `seen`: in how
    many pairs of either kind the two levels are together or are to be expected.
    """

    of: tuple[str, str]
    one: float
    two: float
    bits: Floats
    seen: Flags

    @property
    def largest(self) -> tuple[int, int] | None:
        """The two levels, counted from 0, of which the sum of bits is most wrong."""
        if not self.seen.any():
            return None
        row, column = np.unravel_index(np.argmax(np.abs(self.bits) * self.seen), self.bits.shape)
        return int(row), int(column)


def dependence(of: tuple[str, str], one: Crossed, two: Crossed, *, fewest: float) -> Dependence:
    """`one`: pairs of one person, `two`: of two. Levels of which neither kind shows `fewest` pairs
    together, nor should, are not `seen`."""
    bits = np.log2(one.ratio / two.ratio)[1:, 1:]
    most = [np.maximum(each.observed, each.expected) for each in (one, two)]
    return Dependence(of, one.v, two.v, bits, np.asarray(np.maximum(*most) >= fewest))
