"""Pictures that are kept with a run. None shows a row: curves, bins and means alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from concord_models.backtest import Backtest
from concord_models.evaluation import Floats, Ints, bins_of
from concord_models.temporal import Split


def calibration_plot(label: Ints, before: Floats, after: Floats, bins: int, title: str) -> Any:
    """A figure: share of closures by mean probability, of bins of equally many rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    top = 0.0
    for name, values, mark in (("before", before, "o"), ("after", after, "s")):
        parts = bins_of(label, values, bins)
        expected, seen = [p for p, _, _ in parts], [share for _, share, _ in parts]
        top = max(top, *expected, *seen)
        axes.plot(expected, seen, marker=mark, label=f"{name} calibration")
    top = min(1.0, top * 1.1)
    axes.plot([0, top], [0, top], linestyle=":", color="grey", label="as it should be")
    axes.set(xlim=(0, top), ylim=(0, top), title=title)
    axes.set_xlabel("mean probability of a bin")
    axes.set_ylabel("share closed for want of paperwork")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def recall_plot(rows: Sequence[dict[str, Any]], k: int, title: str) -> Any:
    """A figure: of each group's closures the share that the first k calls reach, with intervals."""
    from matplotlib.figure import Figure

    told = [row for row in rows if "recall" in row]
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(told)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['kind']}: {row['group']} ({row['closures']})" for row in told]
    values = [row["recall"] for row in told]
    spans = [
        [row["recall"] - row["low"] for row in told],
        [row["high"] - row["recall"] for row in told],
    ]
    axes.errorbar(values, range(len(told)), xerr=spans, fmt="o", capsize=3)
    axes.set_yticks(range(len(told)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title=title)
    axes.set_xlabel(f"share of closures among the first {k} calls of an office")
    axes.grid(alpha=0.3, axis="x")
    return figure


def curves(label: Ints, score: Floats, rate: float) -> dict[str, Any]:
    """Figures by name: ROC and precision-recall curve, and lift by the share that is called, over
    all lists together. `rate` is the base rate."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    false, true, _ = roc_curve(label, score)
    precision, recall, _ = precision_recall_curve(label, score)
    found = np.cumsum(label[np.argsort(-score, kind="stable")])
    called = np.arange(1, len(label) + 1)
    # Before the first hundredth the share found is of a handful of rows.
    told = called >= len(label) / 100
    lift = found / called / rate
    return {
        "roc_curve": _curve(false, true, [0, 1], "false alarms", "closures found", "ROC"),
        "precision_recall_curve": _curve(
            recall, precision, [rate, rate], "closures found (recall)",
            "of the called, closures (precision)", "Precision and recall",
        ),
        "lift_curve": _curve(
            (called / len(label))[told], lift[told], [1, 1], "share called, by rank",
            "times the base rate", "Lift", top=None,
        ),
    }  # fmt: skip


def _curve(
    x: Floats, y: Floats, chance: Sequence[float], across: str, up: str, title: str,
    top: float | None = 1.0,
) -> Any:  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, label="model")
    axes.plot([0, 1], chance, linestyle=":", color="grey", label="by chance")
    axes.set(xlim=(0, 1), title=f"{title}, test slice")
    axes.set_ylim(0, top)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def shap_plot(parts: Floats, rows: Floats, words: Sequence[str], most: int = 20) -> Any:
    """A figure: mean size of each feature's contribution to the log-odds, the largest first, and
    whether a higher value raises or lowers the risk (sign of the rank correlation).

    `parts`, `rows`: (rows, features), contributions and values.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from scipy.stats import spearmanr

    size = np.abs(parts).mean(axis=0)
    order = [int(i) for i in np.argsort(-size, kind="stable")[:most] if size[i] > 0]
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(order)), layout="constrained")
    axes = figure.subplots()
    colors = {True: "#bb5566", False: "#4477aa"}
    rises = []
    for index in order:
        known = ~np.isnan(rows[:, index])
        alike = (
            not known.any() or np.ptp(rows[known, index]) == 0 or np.ptp(parts[known, index]) == 0
        )
        rises.append(not alike and spearmanr(rows[known, index], parts[known, index])[0] > 0)
    axes.barh(range(len(order)), size[order], color=[colors[each] for each in rises])
    axes.set_yticks(range(len(order)), [words[index] for index in order])
    axes.invert_yaxis()
    axes.set_xlabel("mean size of the contribution to the log-odds (SHAP)")
    axes.set_title("What the model goes by, test slice")
    figure.legend(
        handles=[
            Patch(color=colors[True], label="a higher value raises the risk"),
            Patch(color=colors[False], label="a higher value lowers it"),
        ],
        loc="outside lower right",
        ncols=2,
        frameon=False,
    )
    axes.grid(alpha=0.3, axis="x")
    return figure


def stability_plot(past: Backtest, metric: str) -> Any:
    """A figure: the metric of each candidate at each split, the chosen one drawn strong, and the
    base rate of each test."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    days: Any = [split.at for split in past.splits]
    for name, measures in past.measures.items():
        chosen = name == past.chosen.pick
        values = [each[metric] for each in measures]
        label = f"{name} (chosen by {past.chosen.rule})" if chosen else name
        axes.plot(
            days, values, marker="o", label=label, linewidth=2.5 if chosen else 1,
            alpha=1 if chosen else 0.6,
        )  # fmt: skip
    rates = [each["base_rate"] for each in past.measures[past.chosen.pick]]
    axes.plot(days, rates, linestyle=":", color="grey", label="base rate of the test")
    axes.set_xlabel("trained with what was known on this day, tested on what came after")
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_title("Candidates over time")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.autofmt_xdate()
    return figure


def timeline_plot(splits: Sequence[Split], title: str) -> Any:
    """A figure: when each split's training rows, their last labels and its test lie."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.3 * len(splits)), layout="constrained")
    axes = figure.subplots()
    for row, split in enumerate(splits):
        for begin, end, color, label in (
            (split.train_from, split.train_until, "#4477aa", "training rows"),
            (split.train_until, split.at, "#bbbbbb", "their last labels end"),
            (split.at, split.test_until, "#ee6677", "test rows"),
        ):
            left = float(date2num(begin))  # type: ignore[no-untyped-call]
            width = float(date2num(end)) - left  # type: ignore[no-untyped-call]
            axes.barh(row, width, left=left, color=color, label=label if row == 0 else None)
    axes.set_yticks(range(len(splits)), [str(split.at) for split in splits])
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_ylabel("trained on")
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize="small")
    return figure
