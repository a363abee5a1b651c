"""How good probabilities are: discrimination, calibration, what calls find, by slice and group.

Plain numpy over labels (0 or 1) and probabilities or scores; no Spark, no table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# A group with fewer closures than this is not told of by itself.
LEAST_CELL = 11
EPSILON = 1e-6
GREATER_IS_BETTER = frozenset({"auc", "average_precision", "precision_at_k", "recall_at_k"})


@dataclass(frozen=True)
class Found:
    """What the first k of each list find: the worst, expected and best over ties."""

    worst: float
    expected: float
    best: float


def metrics(
    label: Ints, probability: Floats, score: Floats, lists: Sequence[object], *, k: int, bins: int
) -> dict[str, float]:
    """AUC, average precision, Brier score, log loss, ECE, precision and recall of the first k.

    `score` orders within a list (`lists` names each row's, such as office and due day); precision
    and recall are over all lists together. A slice without both labels has no AUC: NaN.
    """
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    both = 0 < label.sum() < len(label)
    precision, recall = at_k(label, score, lists, k)
    return {
        "auc": float(roc_auc_score(label, score)) if both else math.nan,
        "average_precision": float(average_precision_score(label, score)) if both else math.nan,
        "brier": float(brier_score_loss(label, clipped)),
        "log_loss": float(log_loss(label, clipped, labels=[0, 1])),
        "ece": expected_calibration_error(label, probability, bins),
        "precision_at_k": precision.expected,
        "precision_at_k_worst": precision.worst,
        "precision_at_k_best": precision.best,
        "recall_at_k": recall.expected,
        "recall_at_k_worst": recall.worst,
        "recall_at_k_best": recall.best,
        "base_rate": float(label.mean()),
        "rows": float(len(label)),
    }


def at_k(label: Ints, score: Floats, lists: Sequence[object], k: int) -> tuple[Found, Found]:
    """Precision and recall when the first k of each list are called.

    Rows with equal scores at the cut are in no order: the worst and best choice among them, and
    the mean of a random one.
    """
    called, positives = 0, int(label.sum())
    worst = expected = best = 0.0
    members: dict[object, list[int]] = {}
    for index, name in enumerate(lists):
        members.setdefault(name, []).append(index)
    for indexes in members.values():
        own_label, own_score = label[indexes], score[indexes]
        take = min(k, len(indexes))
        cut = np.sort(own_score)[::-1][take - 1]
        sure = int(own_label[own_score > cut].sum())
        tied = own_label[own_score == cut]
        left = take - int((own_score > cut).sum())
        hits = int(tied.sum())
        worst += sure + max(0, left - (len(tied) - hits))
        expected += sure + left * hits / len(tied)
        best += sure + min(left, hits)
        called += take

    def share(of: int) -> Found:
        return Found(*(value / of if of else math.nan for value in (worst, expected, best)))

    return share(called), share(positives)


def bins_of(label: Ints, probability: Floats, bins: int) -> list[tuple[float, float, int]]:
    """(mean probability, share of ones, rows) of about equally many rows each, by probability."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(float(probability[p].mean()), float(label[p].mean()), len(p)) for p in parts]


def expected_calibration_error(label: Ints, probability: Floats, bins: int) -> float:
    """Mean distance of probability and share of ones over bins of equally many rows, weighted
    (Naeini et al. 2015, with equal-mass bins)."""
    parts = bins_of(label, probability, bins)
    return sum(abs(p - share) * rows for p, share, rows in parts) / len(label)


def called(score: Floats, lists: Sequence[object], k: int) -> NDArray[np.bool_]:
    """Whether a row is among the first k of its list; ties go by position."""
    chosen = np.zeros(len(score), dtype=bool)
    members: dict[object, list[int]] = {}
    for index, name in enumerate(lists):
        members.setdefault(name, []).append(index)
    for indexes in members.values():
        order = np.argsort(-score[indexes], kind="stable")[:k]
        chosen[np.asarray(indexes)[order]] = True
    return chosen


def recall_by_group(
    label: Ints, chosen: NDArray[np.bool_], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """By group: closures, how many of them were called, with Wilson's 95 % interval (1927).

    Groups with fewer than eleven closures are told together as `fewer than 11 closures`, without
    figures.
    """
    rows: list[dict[str, Any]] = []
    for kind, values in groups.items():
        names = np.asarray(values, dtype=object)
        small = 0
        for name in sorted(set(values)):
            ones = (names == name) & (label == 1)
            closures = int(ones.sum())
            if closures < LEAST_CELL:
                small += 1
                continue
            hits = int((ones & chosen).sum())
            low, high = wilson(hits, closures)
            found = {"recall": hits / closures, "low": low, "high": high}
            rows.append({"kind": kind, "group": name, "closures": closures, **found})
        if small:
            rows.append({"kind": kind, "group": f"{small} with fewer than {LEAST_CELL} closures"})
    return rows


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, centre - half), min(1.0, centre + half)
