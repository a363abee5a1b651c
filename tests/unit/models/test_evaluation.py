"""Measures, calibration and scorers against small models in plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord_models import evaluation, scorer
from concord_models.churn import cohort
from concord_models.fitting import Slice, baselines, calibration
from concord_models.scorer import Calibration, Linear, Scorer

rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.sampled_from("ab")), min_size=2, max_size=8
)


def arrays(found: list[tuple[int, int, str]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    label, score, lists = zip(*found, strict=True)
    return np.array(label), np.array(score) / 5 + 0.1, list(lists)


@given(rows)
def test_auc_is_the_share_of_pairs_in_order(found: list[tuple[int, int, str]]) -> None:
    label, score, lists = arrays(found)
    got = evaluation.metrics(label, score, score, lists, k=2, bins=3)
    pairs = list(itertools.product(score[label == 1], score[label == 0]))
    if not pairs:
        assert math.isnan(got["auc"])
        return
    assert got["auc"] == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    assert got["brier"] == pytest.approx(np.mean((score - label) ** 2))
    loss = -np.mean(label * np.log(score) + (1 - label) * np.log(1 - score))
    assert got["log_loss"] == pytest.approx(loss)


@given(rows, st.integers(1, 4))
def test_precision_at_k_is_over_every_order_of_the_tied(
    found: list[tuple[int, int, str]], k: int
) -> None:
    label, score, lists = arrays(found)
    precision, recall = evaluation.at_k(label, score, lists, k)
    per_list, calls = [], 0
    for name in set(lists):
        own = [i for i, other in enumerate(lists) if other == name]
        take = min(k, len(own))
        calls += take
        # Every set of `take` rows that some order by score allows.
        allowed = [
            sum(int(label[i]) for i in chosen)
            for chosen in itertools.combinations(own, take)
            if all(score[i] >= score[j] for i in chosen for j in own if j not in chosen)
        ]
        per_list.append(allowed)
    assert precision.worst == pytest.approx(sum(min(a) for a in per_list) / calls)
    assert precision.best == pytest.approx(sum(max(a) for a in per_list) / calls)
    assert precision.expected == pytest.approx(sum(np.mean(a) for a in per_list) / calls)
    if label.sum():
        assert recall.best == pytest.approx(sum(max(a) for a in per_list) / label.sum())


def test_calibration_error_is_the_distance_of_bins() -> None:
    label = np.array([0, 1, 1, 1])
    probability = np.array([0.2, 0.2, 0.8, 0.8])
    assert evaluation.expected_calibration_error(label, probability, 2) == pytest.approx(0.25)


def test_of_few_rows_a_line_is_learnt_and_of_many_any_shape() -> None:
    """Log-odds that are a line of the true ones; and probabilities of a shape that is none."""

    def made(rows: int, shape: Callable[[np.ndarray], np.ndarray], seed: int) -> Calibration:
        draw = np.random.default_rng(seed)
        probability = draw.uniform(0.02, 0.98, rows)
        label = (draw.random(rows) < shape(probability)).astype(int)
        return calibration(label, probability, 1)

    def flatter(p: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(0.4 * np.log(p / (1 - p)) - 1)))

    def steps(p: np.ndarray) -> np.ndarray:
        return np.where(p < 0.5, 0.1, 0.4)

    few = [made(300, flatter, seed) for seed in range(5)]
    assert {each.how for each in few} == {"sigmoid"}
    grid = np.array([0.1, 0.5, 0.9])
    assert made(20_000, flatter, 1)(grid) == pytest.approx(flatter(grid), abs=0.03)
    assert made(20_000, steps, 1).how == "isotonic"
    assert made(20_000, lambda p: p, 1)(grid) == pytest.approx(grid, abs=0.02)
    assert calibration(np.array([0, 0, 1]), grid, 1).how == "none", "too few to judge by"


def test_calibration_is_monotone_and_never_certain() -> None:
    random = np.random.default_rng(3)
    probability = random.random(200)
    label = (random.random(200) < probability**2).astype(int)
    made = calibration(label, probability, 1)
    after = made(np.linspace(0, 1, 50))
    assert (np.diff(after) >= 0).all() and after.min() > 0 and after.max() < 1
    bins = 5
    before = evaluation.expected_calibration_error(label, probability, bins)
    assert evaluation.expected_calibration_error(label, made(probability), bins) < before / 2


def test_a_share_lies_in_its_interval_to_the_last_digit() -> None:
    """A plot of the interval refuses a length below 0, be it of the size of a rounding error."""
    for of in range(1, 400):
        for hits in (0, 1, of - 1, of):
            low, high = evaluation.wilson(hits, of)
            assert 0 <= low <= hits / of <= high <= 1, (hits, of)


def test_small_groups_are_told_without_figures() -> None:
    label = np.array([1] * 12 + [1] * 3 + [0] * 5)
    groups = {"race": ["x"] * 12 + ["y"] * 3 + ["x"] * 5}
    found = evaluation.recall_by_group(label, np.arange(20) < 6, groups)
    assert found[0]["group"] == "x" and found[0]["recall"] == pytest.approx(0.5)
    assert found[0]["low"] < 0.5 < found[0]["high"]
    assert found[1] == {"kind": "race", "group": "1 with fewer than 11 closures"}


def test_baselines_know_the_last_outcome_and_the_best_feature() -> None:
    values = np.array([[0, 5], [0, 1], [1, 4], [1, 2], [np.nan, 3], [np.nan, 0]], dtype=float)
    train = Slice(values, np.array([0, 0, 1, 0, 1, 1]), ())
    found = baselines(train, ["last_procedural", "noise"])
    assert found["base_rate"](train).tolist() == [0.5] * 6
    assert found["closed_last_time"](train).tolist() == [0, 0, 0.5, 0.5, 1, 1]
    (best,) = [name for name in found if name.startswith("best_feature")]
    assert best == "best_feature (last_procedural)"


def linear() -> Scorer:
    return Scorer(
        "logistic",
        ("flag", "share"),
        Calibration((0.0, 1.0), (0.1, 0.9)),
        {"flag": "a flag", "share": "a share"},
        {"flag": "flag", "share": "share"},
        linear=Linear(-1.0, (2.0, -3.0), (0.5, 0.2)),
    )


def test_a_scorer_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    made = linear()
    made.save(tmp_path)
    again = scorer.load(tmp_path)
    values = np.array([[1, 0.1], [0, np.nan]])
    assert again == made
    expected = 1 / (1 + np.exp(-np.array([-1 + 2 - 0.3, -1 + 0 - 0.6])))
    assert made.raw(values) == pytest.approx(expected)
    assert again.probability(values) == pytest.approx(0.1 + 0.8 * expected)


def test_reasons_are_what_raises_the_risk_in_plain_words() -> None:
    found = linear().reasons(np.array([[1, 0.1], [0, 0.9], [0, np.nan]]))
    assert found == [["a flag: yes", "a share: 10%"], [], []]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=6, max_size=40).filter(
        lambda found: 2 <= sum(label for label, _ in found) <= len(found) - 2
    )
)
def test_the_interval_of_an_auc_is_delongs(found: list[tuple[int, int]]) -> None:
    """Against the definition: each row's share of pairs in order, and the variance of those."""
    label, score = (np.array(column) for column in zip(*found, strict=True))
    got = evaluation.auc_interval(label, score.astype(float))
    ones, zeros = score[label == 1], score[label == 0]
    pairs = [[(a > b) + (a == b) / 2 for b in zeros] for a in ones]
    by_one, by_zero = np.mean(pairs, axis=1), np.mean(pairs, axis=0)
    spread = math.sqrt(by_one.var(ddof=1) / len(ones) + by_zero.var(ddof=1) / len(zeros))
    auc = float(np.mean(pairs))
    assert got.value == pytest.approx(auc)
    assert got.low == pytest.approx(max(0, auc - 1.959964 * spread))
    assert got.high == pytest.approx(min(1, auc + 1.959964 * spread))


def test_a_calibration_slope_is_found_with_its_interval() -> None:
    """Probabilities twice as far apart as they should be: a slope of a half, in 95 of 100 worlds
    within its interval."""
    within = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        odds = draw.normal(-1, 1, 1500)
        label = (draw.random(1500) < 1 / (1 + np.exp(-odds))).astype(int)
        slope, intercept = evaluation.calibration_slope(label, 1 / (1 + np.exp(-2 * odds)))
        within += slope.low <= 0.5 <= slope.high
        assert slope.low < slope.value < slope.high and abs(intercept.value) < 0.6
    assert 88 <= within <= 100


def test_a_slope_that_has_no_answer_is_nan() -> None:
    for label, probability in (
        ([0, 0, 0], [0.1, 0.2, 0.3]), ([0, 1, 0], [0.2, 0.2, 0.2]),
    ):  # fmt: skip
        slope, _ = evaluation.calibration_slope(np.array(label), np.array(probability))
        assert math.isnan(slope.value)


def test_parity_compares_a_group_with_all_others_of_its_kind() -> None:
    groups = [
        {"kind": "language", "group": "eng", "closures": 200, "hits": 120},
        {"kind": "language", "group": "spa", "closures": 100, "hits": 30},
        {"kind": "language", "group": "2 with fewer than 11 closures"},
        {"kind": "office", "group": "Lynn", "closures": 300, "hits": 150},
    ]
    english, spanish = evaluation.parity(groups)
    assert (spanish["group"], english["group"]) == ("spa", "eng"), "one office has no others"
    assert spanish["ratio"] == pytest.approx((30.5 / 100.5) / (120.5 / 200.5))
    assert spanish["low"] < spanish["ratio"] < spanish["high"] < 0.8
    assert english["ratio"] == pytest.approx(1 / spanish["ratio"])


def test_a_list_is_of_one_office_and_week() -> None:
    days = ["2025-03-31", "2025-04-06", "2025-04-07"]
    rows = pd.DataFrame({"office": ["Lynn", "Lynn", "Lynn"], "as_of": days})
    monday, sunday, next_monday = cohort.lists(rows)
    assert monday == sunday == ("Lynn", "2025-03-31") and next_monday == ("Lynn", "2025-04-07")
