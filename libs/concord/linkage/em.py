"""EM over counts of patterns, u held, judged pairs among them. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from concord.linkage.dependence import Crossing
from concord.linkage.patterns import Floats, Integers
from concord.linkage.values import Flags

ROUNDS, ENOUGH = 500, 1e-9
HALF = 0.5  # added to each level's count, so that what was not seen is rare and not impossible
TINY = 1e-300  # no likelihood is less, so that its logarithm is finite


@dataclass(frozen=True)
class Pairs:
    """Pairs by pattern, an entry each. `n`: those not judged; `one`, `two`: those of one person and
    of two, as often as they count; `judged`: both, as often as there are."""

    levels: Integers
    n: Floats
    one: Floats
    two: Floats
    judged: Floats

    def where(self, some: Flags) -> Pairs:
        return Pairs(*(getattr(self, field.name)[some] for field in fields(self)))

    @property
    def count(self) -> int:
        return int((self.n + self.judged).sum())

    def saying(self, comparison: int) -> int:
        """How many of them are on a level of the comparison (a column), and not missing."""
        return self.where(self.levels[:, comparison] > 0).count


@dataclass(frozen=True)
class Found:
    """What EM ends with.

    `m`: by comparison (column of levels), shares by level number. `together`: of each crossing how
    many times as often as by chance its levels are together among pairs of one person. `belongs`:
    of each entry the pairs of one person. `share`: of all pairs, theirs. `likelihood`:
    log-likelihood (natural) a pair.
    """

    m: Mapping[int, Floats]
    together: tuple[Floats, ...]
    belongs: Floats
    share: float
    rounds: int
    likelihood: float


def em(
    pairs: Pairs,
    start: Mapping[int, Floats],
    u: Mapping[int, Floats],
    crossings: Sequence[tuple[Crossing, Floats]] = (),
) -> Found:
    """m of the comparisons (columns of levels) of `u`.

    `start`: where m begins, without missing. `crossings`: of those that depend on each other, with
    the ratios (`Crossed.ratio`) among pairs of two; their own are sought with m. A comparison may
    be in one of them only.
    """
    m = {c: np.concatenate([[1.0], start[c]]) for c in u}
    levels, total = pairs.levels, (pairs.n + pairs.one + pairs.two).sum()
    places = [crossing.places(levels) for crossing, _ in crossings]
    together = [np.ones_like(ratio) for _, ratio in crossings]
    two_levels = np.ones(len(levels))
    for c, of in u.items():
        two_levels = two_levels * of[levels[:, c]]
    for (_, ratio), place in zip(crossings, places, strict=True):
        two_levels = two_levels * ratio[place]
    share, rounds, likelihood = 0.5, 0, 0.0
    belongs = np.zeros(len(levels))
    while rounds < ROUNDS:
        rounds += 1
        one, two = np.full(len(levels), share), (1 - share) * two_levels
        for c in u:
            one = one * m[c][levels[:, c]]
        for ratio, place in zip(together, places, strict=True):
            one = one * ratio[place]
        either = np.maximum(one + two, TINY)
        belongs = pairs.n * one / either + pairs.one
        before, share = share, float(belongs.sum() / total)
        told = pairs.n * np.log(either) + pairs.one * np.log(np.maximum(one, TINY))
        told += pairs.two * np.log(np.maximum(two, TINY))
        likelihood = float(told.sum() / total)
        for c in u:
            m[c] = shares(np.bincount(levels[:, c], belongs, minlength=len(m[c])))
        together = [crossing.counted(levels, belongs).ratio for crossing, _ in crossings]
        if abs(share - before) < ENOUGH:
            break
    return Found(m, tuple(together), belongs, share, rounds, likelihood)


def shares(counts: Integers | Floats) -> Floats:
    """Of levels other than missing, each one's share; missing gets 1, which weighs nothing."""
    smoothed = np.asarray(counts, dtype=float)[1:] + HALF
    return np.concatenate([[1.0], smoothed / smoothed.sum()])
