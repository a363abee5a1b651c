"""Baselines, logistic regression and gradient-boosted trees, and calibration.

Spark fits the logistic regression and the trees on all training rows; the parameters of the trees
are `concord_models.search`'s to find.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from concord.errors import InfrastructureError
from concord_models.churn.blocks import feature
from concord_models.evaluation import calibration_slope
from concord_models.imputation import Imputation, learnt
from concord_models.scorer import Calibration, Linear, Scorer
from concord_models.specification import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FOLDS = 5


@dataclass(frozen=True)
class Slice:
    """Rows of one slice on the driver: features (NaN where unknown), labels, and each row's list
    (office and week)."""

    rows: Floats
    label: Ints
    lists: tuple[tuple[str, ...], ...]


# --- baselines -----------------------------------------------------------------------------------


def baselines(train: Slice, features: Sequence[str]) -> dict[str, Callable[[Slice], Floats]]:
    """What a model has to beat, by name: each a function from a slice to probabilities.

    The training slice's base rate; whether the last check-in failed; the one feature that ranks
    best on the training slice.
    """
    rate = float(train.label.mean())
    found: dict[str, Callable[[Slice], Floats]] = {
        "base_rate": lambda part: np.full(len(part.label), rate)
    }
    if "last_procedural" in features:
        found["closed_last_time"] = _by_value(train, features.index("last_procedural"), rate)
    ranked = [(_rank_strength(train.rows[:, i], train.label), i) for i in range(len(features))]
    strength, best = max(ranked, key=lambda item: (abs(item[0] - 0.5), -item[1]))
    found[f"best_feature ({features[best]})"] = _by_rank(train, best, rising=strength >= 0.5)
    return found


def _by_value(train: Slice, column: int, rate: float) -> Callable[[Slice], Floats]:
    """The training share of each value; of an unknown value the base rate of such rows."""

    def key(values: Floats) -> Floats:
        return np.where(np.isnan(values), -1.0, values)

    own = key(train.rows[:, column])
    shares = {value: float(train.label[own == value].mean()) for value in np.unique(own)}
    return lambda part: np.array([shares.get(v, rate) for v in key(part.rows[:, column])])


def _by_rank(train: Slice, column: int, *, rising: bool) -> Callable[[Slice], Floats]:
    """The share of training rows at or below a value: a rank, not a probability."""
    values = np.nan_to_num(train.rows[:, column], nan=float(np.nanmean(train.rows[:, column])))
    ordered = np.sort(values)
    fill = float(values.mean())

    def rank(part: Slice) -> Floats:
        own = np.nan_to_num(part.rows[:, column], nan=fill)
        share = np.searchsorted(ordered, own, "right") / len(ordered)
        return share if rising else 1 - share

    return rank


def _rank_strength(values: Floats, label: Ints) -> float:
    """AUC of one feature; unknown values count as their mean."""
    from sklearn.metrics import roc_auc_score

    known = ~np.isnan(values)
    if not known.any() or not 0 < label.sum() < len(label):
        return 0.5
    return float(roc_auc_score(label, np.where(known, values, values[known].mean())))


# --- values that are not known -------------------------------------------------------------------


def imputed(spec: ModelSpec, train: Slice, *others: Slice) -> list[Slice]:
    """Slices with unknown values as the model's file says: learnt from the first, put in all."""
    made = learnt(train.rows, spec.features, spec.fills)
    return [replace(each, rows=made(each.rows, spec.features)) for each in (train, *others)]


# --- logistic regression -------------------------------------------------------------------------


def logistic(train: DataFrame, spec: ModelSpec, imputation: Imputation) -> Scorer:
    """Spark's logistic regression on all training rows; what `imputation` left unknown counts as
    the training mean.

    `train` has the imputation's inputs as doubles and the column `label`.
    """
    names = list(imputation.inputs(spec.features))
    averages = train.agg(*[F.avg(name).alias(name) for name in names]).collect()[0]
    means: dict[str, Any] = {
        name: float(averages[name]) if averages[name] is not None else 0.0 for name in names
    }
    filled = train.fillna(means, subset=names)
    rows = VectorAssembler(inputCols=names, outputCol="features").transform(filled)
    fitted = LogisticRegression(
        regParam=spec.logistic.penalty, elasticNetParam=spec.logistic.elastic_net, maxIter=50
    ).fit(rows.select("features", F.col("label").cast("double").alias("label")))
    weights = tuple(float(weight) for weight in fitted.coefficients.toArray())
    linear = Linear(float(fitted.intercept), weights, tuple(means[name] for name in names))
    told = _described(names)
    return Scorer(
        "logistic", spec.features, Calibration(), *told, linear=linear, imputation=imputation
    )


# --- gradient-boosted trees ----------------------------------------------------------------------


def boosted(
    train: DataFrame,
    spec: ModelSpec,
    parameters: Mapping[str, float],
    trees: int,
    imputation: Imputation,
) -> Scorer:
    """Trees of the found parameters, fitted by xgboost.spark on all training rows (with the
    imputation's inputs).

    Rows are put in an order of their own first: with one worker the same rows give the same trees.
    Raises InfrastructureError when the fit fails.
    """
    from xgboost.spark import SparkXGBClassifier

    names = list(imputation.inputs(spec.features))
    keys = [name for name in ("study_case_id", "due_on", "as_of") if name in train.columns]
    rows = train.repartition(spec.workers, *keys[:1]).sortWithinPartitions(*keys)
    rows = rows.fillna(math.nan, subset=names).select(*names, F.col("label").cast("double"))
    given: dict[str, Any] = {**parameters, "max_depth": int(parameters["max_depth"])}
    classifier = SparkXGBClassifier(
        features_col=names,
        label_col="label",
        num_workers=spec.workers,
        n_estimators=trees,
        random_state=spec.seed,
        missing=math.nan,
        verbosity=0,
        verbose=False,
        **given,
    )
    try:
        with quiet():
            booster = classifier.fit(rows).get_booster()
    except Exception as error:
        raise InfrastructureError(
            f"train: xgboost.spark failed with {type(error).__name__}; run this again"
        ) from None
    booster.feature_names = names
    text = bytes(booster.save_raw("json")).decode()
    told = _described(names)
    return Scorer(
        "xgboost", spec.features, Calibration(), *told, booster=text, imputation=imputation
    )


def calibration(label: Ints, probability: Floats, seed: int) -> Calibration:
    """Of none, Platt's sigmoid (1999) and isotonic regression (Zadrozny and Elkan 2002) the one
    whose probabilities have the least log loss on rows that it was not fitted to (five folds),
    fitted to all. Isotonic regression of a few hundred rows puts whole stretches at 0
    (Niculescu-Mizil and Caruana 2005); of many it follows any shape.
    """
    ways = {"none": _identity, "sigmoid": _sigmoid, "isotonic": _isotonic}
    if min(label.sum(), len(label) - label.sum()) < FOLDS:
        return Calibration()
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(label, label))

    def loss(way: Callable[[Ints, Floats], Calibration]) -> float:
        held = np.empty(len(label))
        for own, other in folds:
            held[other] = way(label[own], probability[own])(probability[other])
        return float(log_loss(label, held, labels=[0, 1]))

    # Ties go to the simpler one.
    best = min(ways, key=lambda name: (loss(ways[name]), list(ways).index(name)))
    return ways[best](label, probability)


def _identity(label: Ints, probability: Floats) -> Calibration:
    return Calibration()


def _sigmoid(label: Ints, probability: Floats) -> Calibration:
    """A line on the log-odds, as points that are closer than any figure that is told."""
    slope, intercept = calibration_slope(label, probability)
    if math.isnan(slope.value) or slope.value <= 0:
        return Calibration()
    odds = np.linspace(-14, 14, 1401)
    at, to = (1 / (1 + np.exp(-o)) for o in (odds, slope.value * odds + intercept.value))
    return Calibration(tuple(map(float, at)), tuple(map(float, to)), "sigmoid")


def _isotonic(label: Ints, probability: Floats) -> Calibration:
    """Held off 0 and 1 by one row's weight: a slice without a closure does not prove that there
    will be none."""
    margin = 1 / (len(label) + 2)
    fitted = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    fitted.fit(probability, label)
    at, to = fitted.X_thresholds_, fitted.y_thresholds_
    return Calibration(tuple(map(float, at)), tuple(map(float, to)), "isotonic")


def _described(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    told = {name: feature(name) for name in names}
    return {n: each.words for n, each in told.items()}, {n: each.kind for n, each in told.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """hyperopt and xgboost talk on the terminal about each of their steps."""
    names = ("hyperopt", "hyperopt-spark", "XGBoost-PySpark", "py4j")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
