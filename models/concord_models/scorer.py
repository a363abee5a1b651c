"""A fitted model as a value: rows of features to a probability and reasons. No Spark, no MLflow.

A scorer is two files, `scorer.json` and, for trees, `booster.json`; it opens wherever numpy and
xgboost are, now and in years.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xgboost
from numpy.typing import NDArray

from concord_models.imputation import Imputation

Floats = NDArray[np.float64]
SCORER, BOOSTER = "scorer.json", "booster.json"
TOP_REASONS = 3
OTHERS = "others"
EPSILON = 1e-6
# The probability's column, by label.
PROBABILITIES = {"y_proc": "p_proc", "y_churn": "p_churn"}


@dataclass(frozen=True)
class Calibration:
    """A monotone map of probabilities: linear between points, flat outside; without points, none.
    `how` it was fitted."""

    at: tuple[float, ...] = ()
    to: tuple[float, ...] = ()
    how: str = "none"

    def __call__(self, probability: Floats) -> Floats:
        return np.interp(probability, self.at, self.to) if self.at else probability


@dataclass(frozen=True)
class EqualRecall:
    """`kinds` of groups (such as language) and the `shifts` in log-odds by group, whose name joins
    its values; a group that is not named there is one of the others. Without kinds, no shift."""

    kinds: tuple[str, ...] = ()
    shifts: Mapping[str, float] = field(default_factory=dict)

    def order(self, raw: Floats, values: Mapping[str, Sequence[str]]) -> Floats:
        """What lists are ordered by, greatest first, from probabilities and each kind's values."""
        if not self.shifts:
            return raw
        rest = self.shifts.get(OTHERS, 0.0)
        names = groups(values, self.kinds)
        return log_odds(raw) + np.array([self.shifts.get(name, rest) for name in names])


@dataclass(frozen=True)
class Linear:
    """Logistic regression on a scorer's inputs; a missing value counts as the training mean."""

    intercept: float
    coefficients: tuple[float, ...]
    means: tuple[float, ...]


@dataclass(frozen=True)
class Scorer:
    """One fitted model. `booster` is xgboost's JSON; `linear` a logistic regression; one is set.

    Rows come as features; `imputation` makes the model's inputs of them. `words` says each input in
    plain words and `kinds` how to show its value. `equal_recall` gives the order of lists.
    """

    kind: Literal["xgboost", "logistic"]
    features: tuple[str, ...]
    calibration: Calibration
    words: Mapping[str, str]
    kinds: Mapping[str, str]
    linear: Linear | None = None
    booster: str = ""
    imputation: Imputation = Imputation()
    equal_recall: EqualRecall = EqualRecall()

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.imputation.inputs(self.features)

    def raw(self, rows: Floats) -> Floats:
        """Uncalibrated probabilities of rows of features (NaN where unknown)."""
        if self.linear is None:
            filled = self._matrix(self.imputation(rows, self.features))
            margin = _booster(self.booster).predict(filled, output_margin=True)
            return 1 / (1 + np.exp(-margin.astype(np.float64)))
        return 1 / (1 + np.exp(-self.contributions(rows).sum(axis=1)))

    def _matrix(self, rows: Floats) -> xgboost.DMatrix:
        return xgboost.DMatrix(rows.astype(np.float32), feature_names=list(self.inputs))

    def probability(self, rows: Floats) -> Floats:
        return self.calibration(self.raw(rows))

    def contributions(self, rows: Floats) -> Floats:
        """What each input adds to the log-odds, and the constant in the last column.

        Trees: TreeSHAP as xgboost computes it (Lundberg et al. 2020). Linear: coefficient times
        distance from the training mean.
        """
        rows = self.imputation(rows, self.features)
        if self.linear is None:
            found = _booster(self.booster).predict(self._matrix(rows), pred_contribs=True)
            return found.astype(np.float64)
        means, weights = np.array(self.linear.means), np.array(self.linear.coefficients)
        parts = np.where(np.isnan(rows), 0.0, rows - means) * weights
        constant = self.linear.intercept + float(means @ weights)
        return np.column_stack([parts, np.full(len(rows), constant)])

    def reasons(self, rows: Floats) -> list[list[str]]:
        """For each row the features that raise its risk most, in plain words; at most three."""
        own = self.contributions(rows)[:, :-1]
        # A value that was put in is told of as not known; a flag as it is.
        flags = self.imputation(rows, self.features)[:, len(self.features) :]
        rows = np.column_stack([rows, flags])
        order = np.argsort(-own, axis=1, kind="stable")[:, :TOP_REASONS]
        return [
            [self._reason(i, rows[n, i]) for i in order[n] if own[n, i] > 0]
            for n in range(len(rows))
        ]

    def _reason(self, index: int, value: float) -> str:
        name = self.inputs[index]
        words, kind = self.words[name], self.kinds[name]
        if np.isnan(value):
            return f"{words}: not known"
        if kind == "flag":
            return f"{words}: {'yes' if value else 'no'}"
        if kind == "share":
            return f"{words}: {value:.0%}"
        return f"{words}: {value:,.0f}"

    def save(self, folder: Path) -> None:
        """Writes the files below `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = asdict(self)
        content.pop("booster")
        (folder / SCORER).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if self.booster:
            (folder / BOOSTER).write_text(self.booster, encoding="utf-8")


def load(folder: Path) -> Scorer:
    """The scorer that `save` wrote."""
    content: dict[str, Any] = json.loads((folder / SCORER).read_text(encoding="utf-8"))
    booster = folder / BOOSTER
    linear, told = content.pop("linear"), content["calibration"]
    order = content["equal_recall"]
    return Scorer(
        kind=content["kind"],
        features=tuple(content["features"]),
        calibration=Calibration(tuple(told["at"]), tuple(told["to"]), told["how"]),
        words=content["words"],
        kinds=content["kinds"],
        linear=Linear(linear["intercept"], tuple(linear["coefficients"]), tuple(linear["means"]))
        if linear
        else None,
        booster=booster.read_text(encoding="utf-8") if booster.exists() else "",
        imputation=Imputation.of(content["imputation"]),
        equal_recall=EqualRecall(tuple(order["kinds"]), order["shifts"]),
    )


def matrix(columns: Mapping[str, Any], features: Sequence[str]) -> Floats:
    """Columns by name as rows of features, in the scorer's order; NaN where unknown."""
    return np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in features])


def groups(values: Mapping[str, Sequence[str]], kinds: Sequence[str]) -> list[str]:
    """Each row's group: its values of the kinds, joined."""
    return [" / ".join(map(str, row)) for row in zip(*(values[k] for k in kinds), strict=True)]


def log_odds(probability: Floats) -> Floats:
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float64)


@lru_cache(maxsize=4)
def _booster(text: str) -> xgboost.Booster:
    booster = xgboost.Booster()
    booster.load_model(bytearray(text, "utf-8"))
    booster.set_param({"nthread": 1})
    return booster
