"""Measures of drift against small models in plain Python, and what a reference does not tell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from concord_models import drift, evaluation
from concord_models.drift import Bins, Graded, Measure, judged

VALUES = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0, 31.0]), st.floats(-1e5, 1e5), st.just(math.nan)),
    min_size=11,
    max_size=400,
)


@given(VALUES)
def test_no_bin_tells_of_fewer_than_eleven_rows_and_none_is_lost(values: list[float]) -> None:
    bins = Bins.of(np.array(values))
    assert sum(bins.rows) == len(values)
    assert all(rows == 0 or rows >= 11 for rows in bins.rows)
    assert bins.edges and list(bins.edges) == sorted(set(bins.edges))
    inner = bins.rows[: len(bins.edges) + 1]
    assert len(inner) <= 3 or all(inner), "few rows join a neighbour"
    # Each value in the bin that a walk along the edges comes to.
    seen = [0] * len(bins.rows)
    for value in values:
        if math.isnan(value):
            place = len(bins.edges) + 1 if bins.unknown else 0
        else:
            place = next((i for i, e in enumerate(bins.edges) if value <= e), len(bins.edges))
        seen[place] += 1
    assert bins.count(np.array(values)).tolist() == seen
    for told, rows in zip(bins.rows, seen, strict=True):
        assert told == rows or (told == 0 and rows < 11) or told == max(bins.rows)


@given(st.lists(st.floats(1000, 99999), min_size=60, max_size=300, unique=True))
def test_an_edge_is_no_row_s_own_value(values: list[float]) -> None:
    exact = [round(value) + 0.123 for value in values]
    assert not {*Bins.of(np.array(exact)).edges} & {*exact}


@given(
    st.lists(st.integers(11, 500), min_size=2, max_size=10),
    st.lists(st.integers(1, 500), min_size=10, max_size=10),
)
def test_psi_is_the_sum_over_bins(then: list[int], now: list[int]) -> None:
    now = now[: len(then)]
    bins = Bins(tuple(float(i) for i in range(len(then) - 1)), tuple(then))
    told = 0.0
    for a, b in zip(now, then, strict=True):
        share, expected = a / sum(now), b / sum(then)
        told += (share - expected) * math.log(share / expected)
    assert drift.psi(bins, np.array(now))[0] == pytest.approx(told)


def test_without_drift_chance_is_exceeded_once_in_a_hundred_times() -> None:
    draw = np.random.default_rng(3)
    beyond = 0
    for _ in range(1000):
        bins = Bins.of(draw.normal(size=420))
        value, chance = drift.psi(bins, bins.count(draw.normal(size=200)))
        beyond += value > chance
    assert 1 <= beyond <= 30


def test_a_shift_and_a_value_that_training_hardly_knew_show() -> None:
    draw = np.random.default_rng(3)
    bins = Bins.of(draw.normal(size=2000))
    value, chance = drift.psi(bins, bins.count(draw.normal(0.8, size=2000)))
    assert value > 0.25 > chance
    # Constant in training, and a flag that three rows had.
    for before, after in ((np.full(500, 31.0), 30.0), (np.full(500, 31.0), 32.0),
                          (np.repeat([0.0, 1.0], [497, 3]), 1.0),
                          (np.zeros(500), math.nan)):  # fmt: skip
        rare = Bins.of(before)
        moved = np.where(np.arange(500) < 250, before[0], after)
        if math.isnan(after):
            # An unknown value has no bin of its own where training had none: it joins the first.
            assert not rare.unknown and len(rare.rows) == 3
        value, chance = drift.psi(rare, rare.count(moved))
        assert value > max(0.25, chance), after
        assert drift.psi(rare, rare.count(before))[0] == pytest.approx(0, abs=0.01)


def graded(probability: np.ndarray, label: np.ndarray) -> Graded:
    """One group for each row, in order."""
    order = np.argsort(probability, kind="stable")
    return Graded(probability[order], np.ones(len(order)), label[order].astype(float))


def test_grouped_calibration_is_that_of_the_rows() -> None:
    draw = np.random.default_rng(5)
    p = draw.uniform(0.02, 0.6, 1000)
    label = (draw.random(1000) < p).astype(np.int64)
    error, chance = drift.calibration_error(graded(p, label), 10)
    assert error == pytest.approx(evaluation.expected_calibration_error(label, p, 10))
    assert error < chance
    x = np.log(p / (1 - p))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(x, label).coef_[0][0]
    assert graded(p, label).slope == pytest.approx(fitted, abs=1e-4)
    step = np.round(p, 2)
    groups = np.unique(step)
    added = Graded(
        groups,
        np.array([(step == group).sum() for group in groups], dtype=float),
        np.array([label[step == group].sum() for group in groups], dtype=float),
    )
    assert added.slope == pytest.approx(graded(step, label).slope, abs=1e-6)
    far = 1 / (1 + np.exp(-2 * x[:, 0]))
    error, chance = drift.calibration_error(graded(far, label), 10)
    assert error > chance
    assert graded(far, label).slope == pytest.approx(fitted / 2, abs=1e-4)
    assert math.isnan(graded(p, np.zeros(1000, dtype=np.int64)).slope)


def test_a_calibrated_model_exceeds_its_chance_once_in_a_hundred_times() -> None:
    draw = np.random.default_rng(6)
    beyond = 0
    for _ in range(600):
        p = draw.beta(1, 6, 400)
        error, chance = drift.calibration_error(graded(p, draw.random(400) < p), 10)
        beyond += error > chance
    assert beyond <= 18


def test_a_measure_is_beyond_a_limit_only_if_chance_does_not_explain_it() -> None:
    made = Measure("psi", "a", 0.3, 60, chance=0.4)
    assert judged(made, 0.3, 0.25, 0.1).state == "ok"
    made = Measure("psi", "a", 0.3, 6000, chance=0.01)
    assert judged(made, 0.3, 0.25, 0.1).state == "alarm"
    assert judged(made, 0.2, 0.25, 0.1).state == "warning"
    assert judged(made, 0.05, 0.25, 0.1).state == "ok"


def test_what_the_reference_does_not_tell_counts_as_no_drift() -> None:
    """Of sixty rows up to ten may have been in the second bin; nine of a hundred are no news."""
    bins = Bins((0.5,), (60, 0))
    assert drift.psi(bins, np.array([910, 90]))[0] == pytest.approx(0)
    assert drift.psi(bins, np.array([500, 500]))[0] > 0.25


def test_a_reference_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    rows = draw.normal(size=(300, 2))
    rows[:40, 1] = math.nan
    label, p = (draw.random(300) < 0.2).astype(np.int64), draw.random(100)
    made = drift.reference(rows, ("a", "b"), label, p)
    made.save(tmp_path)
    assert drift.load(tmp_path) == made
    assert made.features["b"].unknown and made.features["b"].rows[-1] == 40
    assert made.label_rate == label.mean() and sum(made.scores.rows) == 100
    (tmp_path / drift.REFERENCE).unlink()
    assert drift.load(tmp_path) is None, "a model of before"
