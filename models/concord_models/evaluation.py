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
    label: Ints,
    probability: Floats,
    score: Floats,
    lists: Sequence[object],
    *,
    k: int,
    bins: int,
    order: Floats | None = None,
) -> dict[str, float]:
    """AUC, average precision, Brier score, log loss, ECE, precision and recall of the first k.

    `order` (else `score`) orders within a list (`lists` names each row's, such as office and due
    day); precision and recall are over all lists together. A slice without both labels has no AUC:
    NaN.
    """
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    both = 0 < label.sum() < len(label)
    precision, recall = at_k(label, score if order is None else order, lists, k)
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


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def told(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def auc_interval(label: Ints, score: Floats) -> Estimate:
    """The AUC with DeLong's interval (DeLong et al. 1988, by the ranks of Sun and Xu 2014).

    Rows count as independent. NaN without both labels.
    """
    from scipy.stats import rankdata

    ones, zeros = score[label == 1], score[label == 0]
    m, n = len(ones), len(zeros)
    if m < 2 or n < 2:
        return Estimate(math.nan, math.nan, math.nan)
    whole = rankdata(np.concatenate([ones, zeros]))
    above = (whole[:m] - rankdata(ones)) / n
    below = 1 - (whole[m:] - rankdata(zeros)) / m
    auc = float(above.mean())
    half = 1.959964 * math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    return Estimate(auc, max(0.0, auc - half), min(1.0, auc + half))


def calibration_slope(
    label: Ints | Floats, probability: Floats, count: Floats | None = None
) -> tuple[Estimate, Estimate]:
    """Slope and intercept of the labels' log-odds on the predicted ones (Cox 1958), with Wald's
    intervals. 1 and 0 are right; a slope below 1 says that probabilities are too far apart.

    With `count`, rows of one probability are added up: `label` are the ones among so many. By
    Newton's method. NaN where it has no answer: one label only, or all probabilities alike.
    """
    nothing = Estimate(math.nan, math.nan, math.nan)
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    count = np.ones(len(label)) if count is None else count
    if not 0 < label.sum() < count.sum() or np.ptp(clipped) == 0:
        return nothing, nothing
    rows = np.column_stack([np.ones(len(label)), np.log(clipped / (1 - clipped))])
    found = np.array([0.0, 1.0])
    for _ in range(50):
        fitted = 1 / (1 + np.exp(-np.clip(rows @ found, -500, 500)))
        information = rows.T @ (rows * (count * fitted * (1 - fitted))[:, None])
        if np.linalg.cond(information) > 1e12:
            return nothing, nothing
        step = np.linalg.solve(information, rows.T @ (label - count * fitted))
        found = found + step
        if np.abs(step).max() < 1e-10:
            break
    spread = 1.959964 * np.sqrt(np.diag(np.linalg.inv(information)))
    intercept, slope = (
        Estimate(float(f), float(f - s), float(f + s)) for f, s in zip(found, spread, strict=True)
    )
    return slope, intercept


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
            rows.append({"kind": kind, "group": name, "closures": closures, "hits": hits, **found})
        if small:
            rows.append({"kind": kind, "group": f"{small} with fewer than {LEAST_CELL} closures"})
    return rows


def parity(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By group of recall_by_group's rows: its recall against that of all others of its kind, the
    ratio with a 95 % interval on the log scale (Katz et al. 1978, half a closure added to each
    count). Kinds with one told group have no ratio.

    A list that is to help reaches a group less where the ratio is below 1.
    """
    rows: list[dict[str, Any]] = []
    for each in groups:
        others = [o for o in groups if o["kind"] == each["kind"] and o is not each and "hits" in o]
        if "hits" not in each or not others:
            continue
        hits, of = each["hits"] + 0.5, each["closures"] + 0.5
        other_hits = sum(o["hits"] for o in others) + 0.5
        other_of = sum(o["closures"] for o in others) + 0.5
        ratio = (hits / of) / (other_hits / other_of)
        half = 1.959964 * math.sqrt(1 / hits - 1 / of + 1 / other_hits - 1 / other_of)
        rows.append(
            {
                "kind": each["kind"],
                "group": each["group"],
                "ratio": ratio,
                "low": ratio * math.exp(-half),
                "high": ratio * math.exp(half),
            }
        )
    return rows


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share, which lies within it to the last digit."""
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
