"""Adjusted comparisons by overlap weights: numpy arrays in, estimates with intervals out.

The estimand is the average treatment effect in the overlap population (ATO) of Li, Morgan and
Zaslavsky (2018), Balancing Covariates via Propensity Score Weighting, JASA 113:390: a treated row
weighs 1 - e(x), a comparison row e(x), where e is the propensity. With e by a logistic regression
at its maximum likelihood, the weighted means of all its covariates are equal (their theorem 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from concord.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

# No figure is told of fewer people than this.
LEAST_CELL = 11
Z95 = 1.959964
TOLERANCE = 1e-9
STEPS = 60


@dataclass(frozen=True)
class Sample:
    """Rows to compare, of people who may have several. `covariates` is (rows, names)."""

    person: Ints
    treated: Flags
    covariates: Floats
    names: tuple[str, ...]

    def where(self, rows: Flags) -> Sample:
        return Sample(self.person[rows], self.treated[rows], self.covariates[rows], self.names)

    @property
    def people(self) -> tuple[int, int]:
        """Distinct people among the treated and among the comparison rows."""
        return (
            len(np.unique(self.person[self.treated])),
            len(np.unique(self.person[~self.treated])),
        )


@dataclass(frozen=True)
class Weighted:
    """A sample with its propensity: the design (ones, then what was kept of the covariates, each
    with mean 0 and spread 1), e(x), and the overlap weights, which add up to 1 in each arm."""

    sample: Sample
    design: Floats
    propensity: Floats
    weights: Floats

    @property
    def effective(self) -> tuple[float, float]:
        """Kish's effective number of rows by arm: (sum of w)^2 / sum of w^2."""
        treated = self.sample.treated
        return tuple(  # type: ignore[return-value]
            float(1 / np.square(self.weights[arm]).sum()) for arm in (treated, ~treated)
        )


@dataclass(frozen=True)
class Estimate:
    """A difference of means, treated less comparison, with its 95 % interval and people by arm."""

    difference: float
    low: float
    high: float
    treated_mean: float
    comparison_mean: float
    treated: int
    comparison: int

    def covers(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Balance:
    """Standardised mean differences of one covariate before and after weighting: the difference
    of means by the pooled unweighted standard deviation (Austin 2009, Stat Med 28:3083)."""

    name: str
    before: float
    after: float


def weighted(sample: Sample) -> Weighted:
    """Propensities and overlap weights of a sample.

    Covariates that do not vary, or follow from others, are left out of the regression: their
    weighted means are equal anyway. Raises UsageError when an arm is empty, a covariate is not
    finite, or the covariates tell the arms apart wholly (no overlap).
    """
    treated = sample.treated
    if not 0 < treated.sum() < len(treated):
        raise UsageError("a comparison needs treated people and others; one of the two is empty")
    if not np.isfinite(sample.covariates).all():
        bad = sample.names[int(np.argmin(np.isfinite(sample.covariates).all(axis=0)))]
        raise UsageError(f"covariate {bad} is missing for some rows; fill it or leave it out")
    design = _design(sample.covariates)
    propensity = _logistic(design, treated)
    weights = np.where(treated, 1 - propensity, propensity)
    for arm in (treated, ~treated):
        weights[arm] /= weights[arm].sum()
    return Weighted(sample, design, propensity, weights)


def _design(covariates: Floats) -> Floats:
    """Ones and the covariates, standardised, less those that are linear in earlier ones."""
    rows = len(covariates)
    spread = covariates.std(axis=0)
    varies = spread > 1e-12 * np.maximum(1.0, np.abs(covariates).max(axis=0, initial=0.0))
    columns = (covariates[:, varies] - covariates[:, varies].mean(axis=0)) / spread[varies]
    _, triangle = np.linalg.qr(np.column_stack([np.ones(rows), columns]))
    new = np.abs(np.diag(triangle)) > 1e-8 * math.sqrt(rows)
    return np.column_stack([np.ones(rows), columns[:, new[1:]]])


def _logistic(design: Floats, treated: Flags) -> Floats:
    """Fitted probabilities at the maximum of the likelihood, by Newton's method with halved steps.

    Without a penalty: a penalised fit would lose the exact balance.
    """
    label = treated.astype(np.float64)
    share = label.mean()
    beta = np.zeros(design.shape[1])
    beta[0] = math.log(share / (1 - share))

    def likelihood(at: Floats) -> float:
        score = design @ at
        return float((label * score - np.logaddexp(0.0, score)).sum())

    best = likelihood(beta)
    for _ in range(STEPS):
        e = _expit(design @ beta)
        gradient = design.T @ (label - e)
        if np.abs(gradient).max() <= TOLERANCE * len(label):
            break
        information = (design * (e * (1 - e))[:, None]).T @ design
        step = np.linalg.lstsq(information, gradient, rcond=None)[0]
        size = 1.0
        while likelihood(beta + size * step) < best - 1e-10 and size > 1e-6:
            size /= 2
        beta = beta + size * step
        best = likelihood(beta)
    e = _expit(design @ beta)
    # Where a plane parts the arms, the likelihood has no maximum and its sum goes to 0.
    if best > -1e-4 * len(label) or np.abs(design.T @ (label - e)).max() > 1e-6 * len(label):
        raise UsageError(
            "the covariates tell the treated from the others wholly, so nobody is comparable; "
            "use fewer covariates or more people"
        )
    return e


def _expit(score: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(score, -500, 500)))


def ato(fitted: Weighted, outcome: Floats) -> Estimate:
    """The ATO on an outcome (one value a row, all finite), its interval from the influence
    function.

    The influence function takes into account that the propensity is estimated (Li, Thomas and Li
    2019, Am J Epidemiol 188:250); it is summed by person, who may have several rows.
    """
    sample, e = fitted.sample, fitted.propensity
    z = sample.treated.astype(np.float64)
    w = fitted.weights
    weighed = w * outcome
    means = float(weighed[sample.treated].sum()), float(weighed[~sample.treated].sum())
    of_treated, of_others = outcome - means[0], outcome - means[1]
    size = float((z * (1 - e)).sum())  # the same for both arms at the maximum likelihood
    direct = (z * (1 - e) * of_treated - (1 - z) * e * of_others) / size
    slope = e * (1 - e)
    # How the difference moves with the coefficients, times how each row moves these.
    moved = -fitted.design.T @ (slope * (z * of_treated + (1 - z) * of_others)) / size
    information = (fitted.design * slope[:, None]).T @ fitted.design
    by_row = np.linalg.lstsq(information, moved, rcond=None)[0]
    influence = direct + (fitted.design @ by_row) * (z - e)
    return _estimate(sample, means, influence)


def raw(sample: Sample, outcome: Floats) -> Estimate:
    """The plain difference of means, without any adjustment; the interval clusters by person."""
    arms = (sample.treated, ~sample.treated)
    means = float(outcome[arms[0]].mean()), float(outcome[arms[1]].mean())
    influence = np.where(
        sample.treated,
        (outcome - means[0]) / max(int(arms[0].sum()), 1),
        -(outcome - means[1]) / max(int(arms[1].sum()), 1),
    )
    return _estimate(sample, means, influence)


def _estimate(sample: Sample, means: tuple[float, float], influence: Floats) -> Estimate:
    _, place = np.unique(sample.person, return_inverse=True)
    by_person = np.bincount(place, weights=influence)
    people = len(by_person)
    half = Z95 * math.sqrt(float(np.square(by_person).sum()) * people / max(people - 1, 1))
    difference = means[0] - means[1]
    return Estimate(difference, difference - half, difference + half, *means, *sample.people)


def balance(fitted: Weighted) -> list[Balance]:
    """Standardised mean differences of all covariates; 0 for one that does not vary."""
    sample, w = fitted.sample, fitted.weights
    arms = (sample.treated, ~sample.treated)
    x = sample.covariates
    spread = np.sqrt(sum(x[arm].var(axis=0) for arm in arms) / 2)
    before = x[arms[0]].mean(axis=0) - x[arms[1]].mean(axis=0)
    after = w[arms[0]] @ x[arms[0]] - w[arms[1]] @ x[arms[1]]
    scale = np.where(spread > 0, spread, np.inf)
    return [
        Balance(name, float(b), float(a))
        for name, b, a in zip(sample.names, before / scale, after / scale, strict=True)
    ]
