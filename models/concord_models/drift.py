"""How far rows, scores and outcomes are from training: plain numpy over counts; no table, no job.

Training keeps a reference beside the scorer: of each feature the edges and rows of at most ten bins
and the same of the scores. No bin tells of fewer than eleven rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from concord_models.churn import cohort
from concord_models.evaluation import LEAST_CELL, calibration_slope
from concord_models.scorer import Scorer
from concord_models.studies import Held
from concord_models.training_rows import Slices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
REFERENCE = "reference.json"
# Tag of a run and model version: contract version by feed, at training.
CONTRACTS = "concord.contracts"
BINS = 10
# Chance exceeds a measure's `chance` once in so many runs.
ONCE_IN = 100


@dataclass(frozen=True)
class Bins:
    """Rows by bin. A value belongs to the first bin whose edge it does not exceed, one above all
    edges to the last; an unknown value to a bin of its own behind it if `unknown`, else to the
    first. 0 rows stands for fewer than eleven; the largest bin has those besides its own.
    """

    edges: tuple[float, ...]
    rows: tuple[int, ...]
    unknown: bool = False

    @classmethod
    def of(cls, values: Floats) -> Bins:
        """About equally many rows a bin; edges are rounded, so that none is a row's own value."""
        known = values[~np.isnan(values)]
        apart = len(values) - len(known) >= LEAST_CELL
        edges = _edges(known)
        while True:
            rows = cls(edges, (), apart).count(values)
            inner = rows[: len(edges) + 1]
            # Few rows join the smaller neighbour, but a lone edge stays: what is rare in training
            # and common later has to show.
            if len(inner) <= 3 or inner.min() >= LEAST_CELL:
                break
            small = int(inner.argmin())
            beside = [i for i in (small - 1, small + 1) if 0 <= i < len(inner)]
            joined = min(beside, key=lambda i: inner[i])
            edges = tuple(np.delete(edges, min(small, joined)))
        few = rows < LEAST_CELL
        told = np.where(few, 0, rows)
        told[told.argmax()] += rows[few].sum()
        return cls(edges, tuple(int(each) for each in told), apart)

    def count(self, values: Floats) -> Ints:
        """Rows of each bin."""
        place = np.searchsorted(np.asarray(self.edges), values, side="left")
        own = len(self.edges) + 1 if self.unknown else 0
        place = np.where(np.isnan(values), own, place)
        return np.bincount(place, minlength=len(self.edges) + 1 + self.unknown).astype(np.int64)


def _edges(known: Floats) -> tuple[float, ...]:
    distinct = np.unique(known)
    if not len(distinct):
        return (0.0,)
    if len(distinct) == 1:
        apart = 0.5 * max(1.0, abs(distinct[0]) * 0.01)
        return (float(distinct[0] - apart), float(distinct[0] + apart))
    if len(distinct) <= BINS:
        return tuple(float(each) for each in (distinct[1:] + distinct[:-1]) / 2)
    number = max(2, min(BINS, len(known) // (2 * LEAST_CELL)))
    cuts = np.quantile(known, np.arange(1, number) / number)
    return tuple(sorted({float(f"{cut:.2g}") for cut in cuts}))


@dataclass(frozen=True)
class Measure:
    """One measure of drift. `of` is a feature, a month, a table or a rule; `reference` the value in
    training; `bound` the limit, `chance` what chance alone exceeds once in a hundred runs."""

    name: str
    of: str
    value: float | None
    rows: int
    reference: float | None = None
    bound: float | None = None
    chance: float | None = None
    state: str = "ok"


def psi(bins: Bins, seen: Ints, *, among: int = 1) -> tuple[float, float]:
    """Population stability index of rows by bin against the reference's, and its chance.

    Siddiqi 2006, Credit Risk Scorecards; without drift it is distributed as chi-squared with
    bins - 1 degrees of freedom, times 1/n + 1/m (Yurdakul 2018, Statistical Properties of
    Population Stability Index). `among`: measures that are looked at together. Of a bin that the
    reference tells nothing of, the share is taken that lies nearest.
    """
    told, now = np.asarray(bins.rows, dtype=np.float64), int(seen.sum())
    then = told.sum()
    share = seen / now
    few = told == 0
    expected = told / then
    nearest = np.where(few, np.minimum(share, (LEAST_CELL - 1) / then), 0.0)
    expected = expected + nearest
    expected[told.argmax()] -= nearest.sum()
    least = 0.5 / max(now, then)
    share, expected = np.maximum(share, least), np.maximum(expected, least)
    value = float(((share - expected) * np.log(share / expected)).sum())
    once = chi2.ppf(1 - 1 / ONCE_IN / among, max(len(told) - 1, 1))
    return value, float(once * (1 / now + 1 / then))


@dataclass(frozen=True)
class Reference:
    """What training keeps: bins of each feature over the training slice, whose share of ones is
    `label_rate`; bins of the scores over the test slice, which no tree has seen."""

    features: Mapping[str, Bins]
    scores: Bins
    rows: int
    label_rate: float

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1)
        (folder / REFERENCE).write_text(text, encoding="utf-8")


def reference(rows: Floats, features: Sequence[str], label: Ints, probability: Floats) -> Reference:
    """The reference of training rows (NaN where unknown), their labels, and calibrated scores of
    rows that were not trained on."""
    return Reference(
        {name: Bins.of(rows[:, i]) for i, name in enumerate(features)},
        Bins.of(probability),
        len(rows),
        float(label.mean()),
    )


def reference_of(slices: Slices, scorer: Scorer) -> Reference:
    """The reference that `train` saves beside the scorer."""
    train, test = slices.parts[cohort.TRAIN], slices.parts[cohort.TEST]
    return reference(train.rows, scorer.features, train.label, scorer.probability(test.rows))


def load(folder: Path) -> Reference | None:
    """The reference that was saved, or None with a model that was trained without one."""
    path = folder / REFERENCE
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    def bins(of: Mapping[str, Any]) -> Bins:
        return Bins(tuple(of["edges"]), tuple(of["rows"]), of["unknown"])

    features = {name: bins(each) for name, each in content["features"].items()}
    return Reference(features, bins(content["scores"]), content["rows"], content["label_rate"])


def contract_versions(held: Held) -> str:
    """Contract version by feed, as JSON: what training puts into its tags."""
    found = {each.contract.feed: each.contract.version for each in held.tables.values()}
    return json.dumps(found, sort_keys=True)


# --- outcomes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graded:
    """Labels by score, added up: mean probability, rows and ones of each group, in the order of
    the probability. Groups of a thousandth of probability lose nothing that a measure shows."""

    probability: Floats
    rows: Floats
    ones: Floats

    @property
    def total(self) -> int:
        return int(self.rows.sum())

    @property
    def slope(self) -> float:
        """Of the calibration; NaN where there is none."""
        return calibration_slope(self.ones, self.probability, self.rows)[0].value


def calibration_error(graded: Graded, bins: int) -> tuple[float, float]:
    """ECE over bins of about equally many rows, and its chance: what a calibrated model exceeds
    once in a hundred times (each bin's error is half-normal)."""
    n = graded.rows.sum()
    place = np.minimum(
        ((np.cumsum(graded.rows) - graded.rows / 2) / n * bins).astype(int), bins - 1
    )
    rows = np.bincount(place, graded.rows, bins)
    used = rows > 0
    mean = np.bincount(place, graded.rows * graded.probability, bins)[used] / rows[used]
    seen = np.bincount(place, graded.ones, bins)[used] / rows[used]
    weight = rows[used] / n
    spread = weight * np.sqrt(mean * (1 - mean) / rows[used])
    half_normal = math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi)
    above = norm.ppf(1 - 1 / ONCE_IN) * half_normal[1] * math.sqrt(float((spread**2).sum()))
    error = float((weight * np.abs(mean - seen)).sum())
    return error, float(half_normal[0] * spread.sum() + above)


def rate_chance(rate: float, rows: int, then: int, *, among: int = 1) -> float:
    """How far two shares of so many rows lie apart by chance, once in a hundred times."""
    spread = math.sqrt(rate * (1 - rate) * (1 / rows + 1 / then))
    return float(norm.ppf(1 - 1 / ONCE_IN / among / 2)) * spread


def judged(measure: Measure, distance: float, alarm: float, warning: float = math.inf) -> Measure:
    """The measure with its state: beyond a limit, and beyond what chance explains."""
    by_chance = distance <= (measure.chance or 0.0)
    state = "alarm" if distance > alarm else "warning" if distance > warning else "ok"
    return Measure(**{**asdict(measure), "bound": alarm, "state": "ok" if by_chance else state})
