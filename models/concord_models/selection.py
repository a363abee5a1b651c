"""Which of several models to use from now on: eight rules, judged by their regret over time.

A rule looks at how the candidates did on all tests up to a split and picks one. What matters is how
the pick does on the *next* test, of which the rule knew nothing. Regret is how far it stays behind
the candidate that turned out best there. The rules and the measure are those of Triage's Audition
(University of Chicago, Center for Data Science and Public Policy); ties go to the candidate named
first instead of by chance, so that a selection repeated is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# A rule: values (splits up to now, candidates), greater is better -> index of the candidate.
Pick = Callable[[Floats, Floats], int]


@dataclass(frozen=True)
class Regret:
    """How one rule did: the candidate that it would pick now, and its regret on each later test."""

    rule: str
    pick: str
    regrets: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean regret in units of the metric; NaN where no test came after a pick."""
        return float(np.mean(self.regrets)) if self.regrets else float("nan")


def rules(
    *, seed: int, near: float, weight: float, penalty: float, recency: float
) -> dict[str, Pick]:
    """The eight rules. A rule gets the values of the metric and of a second one.

    `near`: how far from the best still counts as close. `weight`: of the first metric where two are
    combined. `penalty`: per standard deviation above the steadiest candidate's. `recency`: how many
    times the newest test counts as much as the oldest.
    """

    def steadiest(values: Floats) -> Floats:
        return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])

    def recent(shares: Callable[[Floats], Floats]) -> Pick:
        def pick(values: Floats, _: Floats) -> int:
            age = np.linspace(0, 1, len(values)) if len(values) > 1 else np.zeros(1)
            return int(np.argmax(np.average(values, axis=0, weights=shares(age))))

        return pick

    def random(values: Floats, _: Floats) -> int:
        return int(np.random.default_rng([seed, len(values)]).integers(values.shape[1]))

    def penalized(values: Floats, _: Floats) -> int:
        spread = steadiest(values)
        return int(np.argmax(values.mean(axis=0) - penalty * (spread - spread.min())))

    def often_near(values: Floats, _: Floats) -> int:
        close = values.max(axis=1, keepdims=True) - values <= near
        return int(np.argmax(close.mean(axis=0)))

    return {
        "random": random,
        "best_current_value": lambda values, _: int(np.argmax(values[-1])),
        "best_average_value": lambda values, _: int(np.argmax(values.mean(axis=0))),
        "lowest_metric_variance": lambda values, _: int(np.argmin(steadiest(values))),
        "most_frequent_best_dist": often_near,
        "best_average_two_metrics": lambda values, other: int(
            np.argmax((weight * values + (1 - weight) * other).mean(axis=0))
        ),
        "best_avg_var_penalized": penalized,
        "best_avg_recency_weight": recent(lambda age: 1 + (recency - 1) * age),
    }


def regrets(
    candidates: Sequence[str],
    values: Floats,
    other: Floats,
    picks: Mapping[str, Pick],
) -> list[Regret]:
    """Every rule with its pick of today and its regrets, the least mean regret first.

    `values` and `other`: (splits, candidates), oldest split first, of two metrics of which greater
    is better. With one split no rule has been tested: all regrets are empty, in the rules' order.
    Raises ValueError for shapes that do not fit.
    """
    if values.shape != other.shape or values.shape[1:] != (len(candidates),) or not len(values):
        raise ValueError(f"{values.shape} and {other.shape} for {len(candidates)} candidates")
    found = []
    for name, pick in picks.items():
        behind = []
        for split in range(1, len(values)):
            chosen = pick(values[:split], other[:split])
            behind.append(float(values[split].max() - values[split, chosen]))
        found.append(Regret(name, candidates[pick(values, other)], tuple(behind)))
    # A rule that has not been tested keeps its place: NaN is not less than anything.
    return sorted(found, key=lambda each: each.mean if each.regrets else 0.0)
