"""A simulation: outreach that works, and what a model learns from the labels that it leaves.

Three rounds of check-ins: a model of the first orders the calls of the second; of the second two
models learn, one from all labels, one without those of whom a call reached; the third judges them.
What would have come without calls is known here, and is what a score should tell.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from concord_models import drift
from concord_models.drift import Graded

ROWS, CALLS, EFFECT, HOLDOUT = 40_000, 0.25, 0.6, 0.05


def truth(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(x @ np.array([1.0, 0.7, -0.5]) - 1.6)))


def fitted(x: np.ndarray, label: np.ndarray) -> LogisticRegression:
    # Squares, so that a bend where the calls begin could be learnt.
    return LogisticRegression(C=np.inf, max_iter=500).fit(bent(x), label)


def bent(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, x**2, np.maximum(x[:, :1] + 0.7 * x[:, 1:2] - 0.8, 0)])


@pytest.mark.parametrize("holdout", [0.0, HOLDOUT])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_the_called_teach_too_low_a_risk(seed: int, holdout: float) -> None:
    draw = np.random.default_rng(seed)
    first, second, third = draw.normal(size=(3, ROWS, 3))
    model = fitted(first, draw.random(ROWS) < truth(first))
    score = model.predict_proba(bent(second))[:, 1]
    held_out = draw.random(ROWS) < holdout
    first_calls = (score >= np.quantile(score, 1 - CALLS)) & ~held_out
    # Of those called every fifth is not reached; a call that reaches halves the risk, and more.
    reached = first_calls & (draw.random(ROWS) < 0.8)
    label = draw.random(ROWS) < truth(second) * np.where(reached, 1 - EFFECT, 1)

    risk = truth(third)
    high = risk >= np.quantile(risk, 1 - CALLS)
    keep = fitted(second, label).predict_proba(bent(third))[:, 1]
    exclude = fitted(second[~reached], label[~reached]).predict_proba(bent(third))[:, 1]
    assert keep[high].mean() < risk[high].mean() - 0.10
    assert exclude[high].mean() == pytest.approx(risk[high].mean(), abs=0.03)
    outcome = draw.random(ROWS) < risk
    of_keep, of_exclude = graded(keep, outcome), graded(exclude, outcome)
    assert drift.calibration_error(of_keep, 10)[0] > 0.05
    assert drift.calibration_error(of_exclude, 10)[0] < 0.02
    assert of_exclude.slope == pytest.approx(1, abs=0.1)


def test_a_hold_out_shows_what_outreach_does() -> None:
    """Those held out are a random tenth: beside the others of their list they tell the effect."""
    draw = np.random.default_rng(9)
    x = draw.normal(size=(ROWS, 3))
    listed = truth(x) >= np.quantile(truth(x), 1 - CALLS)
    held_out = draw.random(ROWS) < 0.1
    label = draw.random(ROWS) < truth(x) * np.where(listed & ~held_out, 1 - EFFECT, 1)
    told = 1 - label[listed & ~held_out].mean() / label[listed & held_out].mean()
    assert told == pytest.approx(EFFECT, abs=0.05)


def graded(probability: np.ndarray, label: np.ndarray) -> Graded:
    order = np.argsort(probability, kind="stable")
    return Graded(probability[order], np.ones(len(order)), label[order].astype(float))
