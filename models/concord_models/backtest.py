"""How each candidate would have done at every split of the past, and which to use from now on.

A candidate is a way to make a model: the parameters of one trial of the search, those of the model
in use, or a logistic regression. At each split it is fitted on what was known then and measured on
what came after, as tasks of Spark on single machines. Which of them is used is
`concord_models.selection`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError, UsageError
from concord_models import evaluation, selection
from concord_models.churn import cohort
from concord_models.evaluation import Floats, Ints
from concord_models.imputation import learnt
from concord_models.scorer import matrix
from concord_models.search import Trial, whole
from concord_models.selection import Regret
from concord_models.specification import ModelSpec, Selection
from concord_models.temporal import Split, Temporal, splits

LOGISTIC, TREES = "logistic", "xgboost"
# The recipe of the model in use, fitted anew at every split.
IN_USE = "the model in use"


@dataclass(frozen=True)
class Recipe:
    """A way to make a model: parameters and number of trees, or (None) logistic regression."""

    name: str
    parameters: Mapping[str, float] | None = None
    trees: int = 0


@dataclass(frozen=True)
class Backtest:
    """`measures` by candidate, one mapping of measures for each split, the oldest first."""

    splits: tuple[Split, ...]
    rows: tuple[tuple[int, int], ...]
    measures: Mapping[str, tuple[Mapping[str, float], ...]]
    regrets: tuple[Regret, ...]
    chosen: Regret

    def regret(self, name: str, metric: str) -> float:
        """Mean distance of a candidate from the best one of each split, in units of the metric."""
        sign = 1 if metric in evaluation.GREATER_IS_BETTER else -1
        values = {
            n: np.array([sign * e[metric] for e in each]) for n, each in self.measures.items()
        }
        return float(np.mean(np.max(list(values.values()), axis=0) - values[name]))

    @property
    def told(self) -> dict[str, Any]:
        """As JSON values: splits, measures and regrets; no row of data."""
        return {
            "splits": [
                {
                    "at": str(split.at),
                    "train": [str(split.train_from), str(split.train_until)],
                    "test": [str(split.at), str(split.test_until)],
                    "rows": {"train": train, "test": test},
                }
                for split, (train, test) in zip(self.splits, self.rows, strict=True)
            ],
            "measures": {name: list(each) for name, each in self.measures.items()},
            "rules": [
                {"rule": r.rule, "pick": r.pick, "regrets": list(r.regrets),
                 "mean": r.mean if r.regrets else None}
                for r in self.regrets
            ],
            "chosen": {"rule": self.chosen.rule, "candidate": self.chosen.pick},
        }  # fmt: skip


def recipes(trials: Sequence[Trial], wanted: Selection, in_use: Recipe | None) -> list[Recipe]:
    """The candidates: logistic regression, the best trials, and the recipe of the model in use."""
    best = sorted(trials, key=lambda trial: (trial.loss, trial.number))[: wanted.candidates]
    found = [Recipe(f"trial {each.number}", each.parameters, each.trees) for each in best]
    return [Recipe(LOGISTIC), *found, *([replace(in_use, name=IN_USE)] if in_use else [])]


def usable(
    design: Temporal, rows: pd.DataFrame
) -> list[tuple[Split, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Splits with both labels in training and test, and the rows of each.

    `rows` has as_of, label and label_known_on. Raises UsageError when no split fits.
    """
    as_of = rows[cohort.AS_OF].to_numpy(dtype="datetime64[D]")
    known = rows[cohort.LABEL_KNOWN].to_numpy(dtype="datetime64[D]")
    label = rows[cohort.LABEL].to_numpy()
    found = []
    for split in splits(design, as_of.min().item(), known.max().item()):
        train, test = split.train(as_of, known), split.test(as_of)
        if all(0 < label[part].sum() < part.sum() for part in (train, test)):
            found.append((split, train, test))
    return found


def backtest(
    spark: SparkSession,
    rows: pd.DataFrame,
    candidates: Sequence[Recipe],
    spec: ModelSpec,
    design: Temporal,
    wanted: Selection,
    *,
    earlier: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
) -> Backtest:
    """Fits the candidates at every split of the design, and selects.

    `earlier` are measures by candidate of the same splits: what they have is not fitted again.

    `rows`: features, label, as_of, due_on, office and label_known_on of every row whose label is
    mature. Raises UsageError when no split fits, InfrastructureError when a fit fails.
    """
    found = usable(design, rows)
    if not found:
        raise UsageError(
            f"{spec.name}: no split of its temporal design has both labels in training and test; "
            "wait for more deliveries, or shorten its spans in the model's file"
        )
    names = [each.name for each in candidates]
    features = matrix({name: rows[name] for name in spec.features}, spec.features)
    label = rows[cohort.LABEL].to_numpy(dtype=np.int64)
    lists = cohort.lists(rows)
    data = spark.sparkContext.broadcast((features, label, [part for _, part, _ in found]))
    tests = [test for *_, test in found]
    held = spark.sparkContext.broadcast(tests)
    made = [(each.parameters, each.trees) for each in candidates]
    # The recipe in use may be another one by now.
    known = {
        name: list(each)
        for name, each in (earlier or {}).items()
        if name in names and name != IN_USE and len(each) == len(found)
    }
    wanting = [number for number, name in enumerate(names) if name not in known]
    tasks = [(split, number) for split in range(len(found)) for number in wanting]
    seed, least, inputs, fills = spec.seed, spec.search.sample_rows, spec.features, spec.fills

    def fitted(task: tuple[int, int]) -> tuple[int, int, bytes]:
        split, number = task
        rows_, label_, train_ = data.value
        chosen = np.flatnonzero(train_[split])
        if len(chosen) > least:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, least, replace=False))
        point, trees = made[number]
        # Learnt anew at each split, from what it trains on.
        filled = learnt(rows_[chosen], inputs, fills)
        train, test = filled(rows_[chosen], inputs), filled(rows_[held.value[split]], inputs)
        if point is None:
            raw = _logistic(train, label_[chosen], test)
        else:
            raw = _trees(train, label_[chosen], test, point, trees, seed)
        return split, number, raw.astype(np.float64).tobytes()

    try:
        scored = (
            spark.sparkContext.parallelize(tasks, len(tasks)).map(fitted).collect() if tasks else []
        )
    except Exception as error:
        # What a failed task says can quote rows.
        raise InfrastructureError(
            f"train: a fit of the backtest failed with {type(error).__name__}; run this again"
        ) from None
    finally:
        data.unpersist()
        held.unpersist()
    measures: dict[str, list[Mapping[str, float]]] = {name: known.get(name, []) for name in names}
    for split, number, content in sorted(scored):
        test = np.flatnonzero(tests[split])
        raw = np.frombuffer(content)
        measures[names[number]].append(
            evaluation.metrics(
                label[test], raw, raw, [lists[i] for i in test],
                k=spec.metrics.calls_per_office, bins=spec.metrics.calibration_bins,
            )
        )  # fmt: skip
    ranked = _regrets(names, measures, wanted, spec.seed)
    return Backtest(
        tuple(split for split, *_ in found),
        tuple((int(train.sum()), int(test.sum())) for _, train, test in found),
        {name: tuple(each) for name, each in measures.items()},
        tuple(ranked),
        next(each for each in ranked if wanted.rule in {each.rule, "least_regret"}),
    )


def _regrets(
    names: Sequence[str],
    measures: Mapping[str, Sequence[Mapping[str, float]]],
    wanted: Selection,
    seed: int,
) -> list[Regret]:
    def values(metric: str) -> Floats:
        sign = 1 if metric in evaluation.GREATER_IS_BETTER else -1
        return sign * np.array([[each[metric] for each in measures[name]] for name in names]).T

    rules = selection.rules(
        seed=seed, near=wanted.near, weight=wanted.weight, penalty=wanted.penalty,
        recency=wanted.recency,
    )  # fmt: skip
    found = selection.regrets(names, values(wanted.metric), values(wanted.second), rules)
    if wanted.rule == "least_regret":
        # To pick by chance is there to be compared with, not to be used.
        return sorted(found, key=lambda each: each.rule == "random")
    return found


def _trees(
    train: Floats, label: Ints, test: Floats, point: Mapping[str, float], trees: int, seed: int
) -> Floats:
    booster = xgboost.train(
        {**whole(point), "objective": "binary:logistic",
         "seed": seed, "nthread": 1, "verbosity": 0},
        xgboost.DMatrix(train.astype(np.float32), label),
        num_boost_round=trees,
    )  # fmt: skip
    return np.asarray(booster.predict(xgboost.DMatrix(test.astype(np.float32))), dtype=np.float64)


def _logistic(train: Floats, label: Ints, test: Floats) -> Floats:
    """scikit-learn's, with the training mean for what is unknown and one scale for all."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made = make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=200)
    )
    return np.asarray(made.fit(train, label).predict_proba(test)[:, 1], dtype=np.float64)
