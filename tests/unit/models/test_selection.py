"""Selection over time: each rule by a hand-made example, and what regret means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from concord_models.selection import regrets, rules

NAMES = ("steady", "rising", "fading")
# Tests, oldest first; greater is better.
VALUES = np.array(
    [
        [0.70, 0.60, 0.80],
        [0.71, 0.66, 0.74],
        [0.70, 0.72, 0.69],
        [0.71, 0.77, 0.62],
    ]
)
OTHER = VALUES[:, ::-1].copy()
RULES = rules(seed=7, near=0.05, weight=0.5, penalty=0.5, recency=10)


def pick(rule: str, values: np.ndarray = VALUES) -> str:
    return NAMES[RULES[rule](values, OTHER[: len(values)])]


def test_each_rule_picks_what_it_says() -> None:
    assert pick("best_current_value") == "rising"
    assert pick("best_current_value", VALUES[:1]) == "fading"
    # Means 0.705, 0.6875, 0.7125.
    assert pick("best_average_value") == "fading"
    assert pick("lowest_metric_variance") == "steady"
    # Within 0.05 of the best: steady twice (0.71, 0.70), rising twice, fading three times.
    assert pick("most_frequent_best_dist") == "fading"
    # 0.705 - 0, 0.6875 - 0.5 * (0.0741 - 0.0058), 0.7125 - 0.5 * (0.0768 - 0.0058).
    assert pick("best_avg_var_penalized") == "steady"
    # Weights 1, 4, 7, 10: 0.7064, 0.7264, 0.6732.
    assert pick("best_avg_recency_weight") == "rising"
    # Each with the other's mirror: 0.70875, 0.6875, 0.70875; a tie goes to the first.
    assert pick("best_average_two_metrics") == "steady"
    assert pick("random") == pick("random") in NAMES


def test_the_first_split_has_no_spread_and_every_rule_picks() -> None:
    assert {pick(rule, VALUES[:1]) for rule in RULES} <= set(NAMES)
    assert pick("lowest_metric_variance", VALUES[:1]) == "steady", "nothing to tell them apart"


def test_regret_is_what_the_next_test_would_have_given_more() -> None:
    found = {each.rule: each for each in regrets(NAMES, VALUES, OTHER, RULES)}
    # Picks after tests 1, 2, 3: fading, fading, rising; the next tests' best: 0.74, 0.72, 0.77.
    current = found["best_current_value"]
    assert current.regrets == pytest.approx((0.0, 0.03, 0.0)) and current.pick == "rising"
    assert current.mean == pytest.approx(0.01)
    ordered = [each.mean for each in regrets(NAMES, VALUES, OTHER, RULES)]
    assert ordered == sorted(ordered)


def test_with_one_split_no_rule_has_been_tested() -> None:
    found = regrets(NAMES, VALUES[:1], OTHER[:1], RULES)
    assert [each.rule for each in found] == list(RULES)
    assert all(each.regrets == () and np.isnan(each.mean) for each in found)
    with pytest.raises(ValueError, match="for 2 candidates"):
        regrets(NAMES[:2], VALUES, OTHER, RULES)


@given(arrays(float, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.floats(0, 1)))
def test_a_rule_never_looks_at_the_test_that_judges_it(values: np.ndarray) -> None:
    names = [str(number) for number in range(values.shape[1])]
    found = {each.rule: each for each in regrets(names, values, values, RULES)}
    changed = values.copy()
    changed[-1] = changed[-1][::-1]
    again = {each.rule: each for each in regrets(names, changed, changed, RULES)}
    for rule, each in found.items():
        assert all(regret >= 0 for regret in each.regrets)
        # Another last test changes the last regret alone.
        assert each.regrets[:-1] == again[rule].regrets[:-1]
        if values.shape[1] == 1:
            assert set(each.regrets) == {0.0}
