"""Lists that reach groups equally, where probabilities are right and groups differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from concord_models.equal_recall import LEAST_CLOSURES, equal_recall
from concord_models.evaluation import called
from concord_models.scorer import OTHERS, Calibration, EqualRecall, Linear, Scorer, load

KINDS = ("language", "age")
K = 20


def world(
    seed: int, rows: int = 20_000
) -> tuple[np.ndarray, np.ndarray, list[int], dict[str, list[str]]]:
    """Labels drawn from true probabilities, lists of a hundred, and groups that close at unequal
    rates."""
    draw = np.random.default_rng(seed)
    other = draw.random(rows) < 0.3
    old = draw.random(rows) < 0.25
    odds = draw.normal(-1.3, 0.7, rows) + 0.7 * other - 0.8 * old
    probability = 1 / (1 + np.exp(-odds))
    label = (draw.random(rows) < probability).astype(np.int64)
    values = {
        "language": np.where(other, "spa", "eng").tolist(),
        "age": np.where(old, "60 and over", "18-59").tolist(),
    }
    return label, probability, [i // 100 for i in range(rows)], values


def recalls(
    label: np.ndarray, order: np.ndarray, lists: list[int], group: list[str]
) -> dict[str, float]:
    chosen, own = called(order, lists, K), np.array(group)
    return {name: float(chosen[(own == name) & (label == 1)].mean()) for name in sorted(set(group))}


def test_lists_reach_groups_equally_on_rows_that_were_not_seen_and_find_nearly_as_many() -> None:
    label, raw, lists, values = world(1, 60_000)
    found = equal_recall(label, raw, lists, values, KINDS, K)
    label, raw, lists, values = world(2, 60_000)
    order = found.order(raw, values)
    for kind in KINDS:
        plain = recalls(label, raw, lists, values[kind])
        equal = recalls(label, order, lists, values[kind])
        assert min(plain.values()) / max(plain.values()) < 0.6, plain
        assert min(equal.values()) / max(equal.values()) > 0.9, equal
    ones = label == 1
    lost = called(raw, lists, K)[ones].mean() - called(order, lists, K)[ones].mean()
    assert 0 < lost < 0.04, "it costs a little, and no more"


def test_within_a_group_the_order_is_that_of_the_probabilities() -> None:
    label, raw, lists, values = world(3, rows=5000)
    order = equal_recall(label, raw, lists, values, KINDS, K).order(raw, values)
    groups = np.array([f"{a}{b}" for a, b in zip(*values.values(), strict=True)])
    for name in set(groups.tolist()):
        own = groups == name
        assert np.array_equal(
            np.argsort(raw[own], kind="stable"), np.argsort(order[own], kind="stable")
        )


def test_groups_with_few_closures_are_one_and_so_is_who_comes_later() -> None:
    label, raw, lists, values = world(4, rows=4000)
    rare = set(range(0, 4000, 100))
    values["language"] = ["hat" if i in rare else v for i, v in enumerate(values["language"])]
    found = equal_recall(label, raw, lists, values, ("language",), K)
    assert label[sorted(rare)].sum() < LEAST_CLOSURES
    assert set(found.shifts) == {"eng", "spa", OTHERS}
    one = found.order(np.array([0.3, 0.3]), {"language": ["hat", "never seen"]})
    assert one[0] == one[1]


def test_without_kinds_or_with_one_group_nothing_moves() -> None:
    label, raw, lists, values = world(5, rows=2000)
    assert equal_recall(label, raw, lists, values, (), K) == EqualRecall()
    alone = {"language": ["eng"] * len(label)}
    found = equal_recall(label, raw, lists, alone, ("language",), K)
    assert np.array_equal(found.order(raw, alone), raw)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5))
def test_whatever_the_rows_it_ends_with_finite_shifts(seed: int, rows: int, k: int) -> None:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 2, rows)
    values = {"language": draw.choice(["a", "b", "c"], rows).tolist()}
    found = equal_recall(label, draw.random(rows), [0] * rows, values, ("language",), k)
    assert np.isfinite(list(found.shifts.values())).all()


def test_a_scorer_keeps_its_order(tmp_path: Path) -> None:
    order = EqualRecall(("language",), {"eng": 0.25, OTHERS: -0.5})
    made = Scorer(
        "logistic", ("x",), Calibration(), {"x": "x"}, {"x": "number"},
        linear=Linear(0.0, (1.0,), (0.0,)), equal_recall=order,
    )  # fmt: skip
    made.save(tmp_path)
    assert load(tmp_path) == made
