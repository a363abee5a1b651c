"""Candidates over time, on Spark: fitted on what was known, measured on what came after."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pyspark.sql import SparkSession

from concord.errors import UsageError
from concord_models import backtest as backtesting
from concord_models import plots
from concord_models.backtest import IN_USE, LOGISTIC, Backtest, Recipe, backtest, recipes
from concord_models.search import Trial
from concord_models.specification import ModelSpec, load_models
from concord_models.temporal import Temporal

pytestmark = pytest.mark.spark
ROOT = Path(__file__).resolve().parents[2]
DESIGN = Temporal(
    label_span="2 months", update_every="2 months", test_for="2 months", history="1 year"
)
POINT = {
    "colsample_bytree": 1.0, "learning_rate": 0.2, "max_depth": 3, "min_child_weight": 1.0,
    "reg_lambda": 1.0, "subsample": 1.0,
}  # fmt: skip
TRIALS = [
    Trial(0, {**POINT, "max_depth": 1}, 3, 0.6),
    Trial(1, POINT, 40, 0.5),
    Trial(2, {**POINT, "learning_rate": 0.01}, 1, 0.9),
]
CANDIDATES = [
    Recipe(LOGISTIC), Recipe("trial 1", POINT, 40),
    Recipe("trial 0", TRIALS[0].parameters, TRIALS[0].trees),
]  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    found = load_models(ROOT / "conf")["snap_churn"]
    chosen = found.selection.model_copy(update={"candidates": 2})
    return found.model_copy(
        update={
            "blocks": {
                "contacts": ("contacts_90",),
                "case": ("household_size",),
                "household": ("adults",),
            },
            "selection": chosen,
        }
    )


def rows(planted: float = 2.5, seed: int = 1) -> pd.DataFrame:
    """Two years of check-ins whose label follows one feature, as trees see it: by a step."""
    draw = np.random.default_rng(seed)
    count = 2400
    due = [date(2024, 1, 1) + timedelta(days=int(day)) for day in draw.integers(0, 730, count)]
    contacts = draw.uniform(0, 10, count)
    strength = planted * ((contacts > 3) & (contacts < 6)) - planted / 2
    return pd.DataFrame(
        {
            "due_on": due,
            "as_of": [day - timedelta(days=14) for day in due],
            "label_known_on": [day + timedelta(days=20) for day in due],
            "office": draw.choice(["Lynn", "Lowell"], count),
            "contacts_90": contacts,
            "household_size": draw.integers(1, 6, count).astype(float),
            "adults": np.where(draw.random(count) < 0.2, np.nan, 1.0),
            "label": (draw.random(count) < 1 / (1 + np.exp(-strength))).astype(int),
        }
    )


@pytest.fixture(scope="module")
def past(spark: SparkSession, spec: ModelSpec) -> Backtest:
    return backtest(spark, rows(), CANDIDATES, spec, DESIGN, spec.selection)


def test_the_candidate_that_is_better_over_time_is_chosen(past: Backtest) -> None:
    assert set(past.measures) == {LOGISTIC, "trial 0", "trial 1"}, "the best two trials"
    assert len(past.splits) == 10, "two years less two months at either end"
    assert past.chosen.pick == "trial 1" and past.chosen.rule != "random"
    by = {name: [each["auc"] for each in values] for name, values in past.measures.items()}
    assert min(by["trial 1"][2:]) > 0.65, "the step is found"
    assert max(by[LOGISTIC]) < 0.62, "no line follows it"
    assert past.regrets[-1].rule == "random", "there to be compared with"
    for (train, test), split in zip(past.rows, past.splits, strict=True):
        assert train > 50 and test > 100 and split.train_until < split.at
    told = past.told
    assert told["chosen"]["candidate"] == "trial 1"
    assert len(told["rules"]) == 8 and len(told["splits"]) == len(past.splits)


def test_repeated_it_is_the_same(past: Backtest, spark: SparkSession, spec: ModelSpec) -> None:
    again = backtest(spark, rows(), CANDIDATES, spec, DESIGN, spec.selection)
    assert again.told == past.told


def test_what_was_measured_before_is_not_fitted_again(
    past: Backtest, spark: SparkSession, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.loads(json.dumps(past.told["measures"]))
    other = {name: values for name, values in kept.items() if name != "trial 1"}
    again = backtest(spark, rows(), CANDIDATES, spec, DESIGN, spec.selection, earlier=other)
    assert again.told == past.told
    monkeypatch.setattr(backtesting, "_trees", None)
    monkeypatch.setattr(backtesting, "_logistic", None)
    again = backtest(spark, rows(), CANDIDATES, spec, DESIGN, spec.selection, earlier=kept)
    assert again.told == past.told


def test_the_recipe_in_use_is_a_candidate(spark: SparkSession, spec: ModelSpec) -> None:
    before = Recipe("whatever it was called", POINT, 40)
    candidates = recipes(TRIALS, spec.selection, before)
    assert [each.name for each in candidates] == [LOGISTIC, "trial 1", "trial 0", IN_USE]
    stale = {IN_USE: [{"auc": 0.0}] * 10}
    past = backtest(spark, rows(), candidates, spec, DESIGN, spec.selection, earlier=stale)
    assert past.measures[IN_USE] == past.measures["trial 1"], "it is the same recipe"
    regret = {name: past.regret(name, "auc") for name in past.measures}
    assert regret[IN_USE] == regret["trial 1"] < regret[LOGISTIC]


def test_with_shuffled_labels_nothing_is_found(spark: SparkSession, spec: ModelSpec) -> None:
    """A candidate that knew its test rows would still tell them apart."""
    shuffled = rows()
    shuffled["label"] = np.random.default_rng(3).permutation(shuffled["label"])
    past = backtest(spark, shuffled, CANDIDATES, spec, DESIGN, spec.selection)
    for name, measures in past.measures.items():
        mean = np.average([each["auc"] for each in measures], weights=[n for _, n in past.rows])
        assert abs(mean - 0.5) < 0.05, name


def test_a_label_that_was_not_known_is_not_learnt_from(
    spark: SparkSession, spec: ModelSpec
) -> None:
    """What is reported late is not in the training of its time, whatever its label says."""
    late = rows()
    # Of the oldest year all labels are turned round, and all are known at the very end only.
    old = pd.to_datetime(late["due_on"]) < "2025-01-01"
    late.loc[old, "label"] = 1 - late.loc[old, "label"]
    late.loc[old, "label_known_on"] = date(2026, 1, 20)
    past = backtest(spark, late, CANDIDATES, spec, DESIGN, spec.selection)
    assert all(split.at > date(2025, 1, 1) for split in past.splits)
    last = past.measures["trial 1"][-1]
    assert last["auc"] > 0.65, "the turned labels did not teach it the opposite"


def test_too_little_of_either_label_is_told(spark: SparkSession, spec: ModelSpec) -> None:
    none = rows()
    none["label"] = 0
    with pytest.raises(UsageError, match="no split of its temporal design has both labels"):
        backtest(spark, none, CANDIDATES, spec, DESIGN, spec.selection)


def test_the_pictures_name_what_was_chosen(past: Backtest) -> None:
    figure: Figure = plots.stability_plot(past, "average_precision")
    legend: Any = figure.axes[0].get_legend()
    assert f"trial 1 (chosen by {past.chosen.rule})" in [t.get_text() for t in legend.get_texts()]
    drawn = plots.timeline_plot(past.splits, "A model")
    assert len(drawn.axes[0].patches) == 3 * len(past.splits)
    fewer = replace(past, splits=past.splits[:1])
    assert len(plots.timeline_plot(fewer.splits, "x").axes[0].patches) == 3
