"""Pictures that are kept with a run: calibration before and after, recall by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concord_models.evaluation import Floats, Ints, bins_of


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
