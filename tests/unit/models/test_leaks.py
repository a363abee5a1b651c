"""Leaks that labels show: one feature alone, and labels that were shuffled."""

from __future__ import annotations

import numpy as np
import pytest

from concord.errors import UsageError
from concord_models import leaks
from concord_models.leaks import Leak

NAMES = ("honest", "planted", "there_or_not", "noise")


def rows(count: int = 2000, seed: int = 2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A feature that tells something, one that is the label, one that is known of closures only."""
    draw = np.random.default_rng(seed)
    label = (draw.random(count) < 0.2).astype(np.int64)
    honest = label + draw.normal(0, 1.5, count)
    planted = -2.0 * label + draw.normal(0, 0.3, count)
    there = np.where(label == 1, draw.normal(0, 1, count), np.nan)
    days = [f"2024-{month:02}-14" for month in draw.integers(1, 13, count)]
    return np.column_stack([honest, planted, there, draw.normal(0, 1, count)]), label, days


def test_a_planted_leak_is_named_and_honest_features_are_not() -> None:
    table, label, _ = rows()
    found = leaks.alone(table, label, NAMES, 0.95)
    assert [leak.feature for leak in found] == ["planted", "there_or_not"]
    assert all(leak.how == "tells the label alone" and leak.value > 0.95 for leak in found)
    assert leaks.told(found)[0].keys() == {"feature", "how", "value"}
    with pytest.raises(UsageError, match=r"m: features leak: planted tells the label alone \(1.0"):
        leaks.refuse("m", found)
    leaks.refuse("m", [])


def test_labels_are_permuted_within_a_day() -> None:
    _, label, days = rows()
    mixed = leaks.permuted(label, days, np.random.default_rng(1))
    assert (mixed != label).any()
    for day in set(days):
        own = np.array([each == day for each in days])
        assert mixed[own].sum() == label[own].sum()


def test_shuffled_labels_are_found_by_chance_alone() -> None:
    train, held = rows(), rows(seed=9)
    assert leaks.shuffled(train, held, seed=7) == []


def test_a_model_that_finds_shuffled_labels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in both slices, as when a check-in is in training and in validation: what was
    permuted is the same too."""
    table, label, days = rows(600)
    monkeypatch.setattr(leaks, "permuted", lambda label, days, draw: _turned(label))
    found = leaks.shuffled((table, label, days), (table, label, days), seed=7)
    assert [leak.feature for leak in found] == [leaks.MODEL] and found[0].value > 0.6
    assert isinstance(found[0], Leak)


def _turned(label: np.ndarray) -> np.ndarray:
    return np.random.default_rng(4).permutation(label)
