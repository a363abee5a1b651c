"""Temporal validation: at which days a model would have been trained, and on what each is tested.

The splits are those of Triage's Timechop (University of Chicago, Center for Data Science and Public
Policy, "Temporal validation deep dive"): from the end of the labels walk back by the label's span
and the test's duration to the last split, then by the update frequency while a whole training label
still fits before. At a split a model is trained on rows whose labels had all been seen by then, and
tested on rows from then on. No row of a test was known to its model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated

import numpy as np
from dateutil.relativedelta import relativedelta
from numpy.typing import NDArray
from pydantic import AfterValidator

from concord.errors import UsageError
from concord.settings import Typed

_SPAN = re.compile(r"([1-9]\d*) (day|week|month|year)s?")


def _is_span(text: str) -> str:
    if not _SPAN.fullmatch(text):
        raise ValueError("say how long, such as '14 days', '6 months' or '1 year'")
    return text


# A length of time in calendar units.
Span = Annotated[str, AfterValidator(_is_span)]


def length(span: Span) -> relativedelta:
    """A span as a calendar difference: a month after 31 January is the end of February."""
    match = _SPAN.fullmatch(span)
    if match is None:
        raise ValueError(span)
    return relativedelta(**{f"{match[2]}s": int(match[1])})


class Temporal(Typed):
    """A temporal design. Days on which rows are made lie `train_every` and `test_every` apart; None
    takes every day on which there is a row (check-ins fall due on all days)."""

    label_span: Span
    update_every: Span
    test_for: Span
    history: Span
    train_every: Span | None = None
    test_every: Span | None = None


@dataclass(frozen=True)
class Split:
    """One training and its test. As-of days: training from `train_from` to `train_until`, both
    included; test from `at` to before `test_until`."""

    at: date
    train_from: date
    train_until: date
    test_until: date

    def train_days(self, every: Span) -> list[date]:
        """As-of days of training rows, counted back from the last, the oldest first."""
        days, step, back = list[date](), length(every), 0
        while (day := self.train_until - step * back) >= self.train_from:
            days.append(day)
            back += 1
        return days[::-1]

    def test_days(self, every: Span) -> list[date]:
        """As-of days of test rows; the split's own always."""
        days, step, on = [self.at], length(every), 1
        while (day := self.at + step * on) < self.test_until:
            days.append(day)
            on += 1
        return days

    def train(
        self, as_of: NDArray[np.datetime64], known: NDArray[np.datetime64]
    ) -> NDArray[np.bool_]:
        """Which rows are trained on: of the as-of days, their label known by the split's day."""
        inside = (as_of >= np.datetime64(self.train_from)) & (
            as_of <= np.datetime64(self.train_until)
        )
        return inside & (known <= np.datetime64(self.at))

    def test(self, as_of: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """Which rows are tested on."""
        return (as_of >= np.datetime64(self.at)) & (as_of < np.datetime64(self.test_until))


def splits(design: Temporal, begin: date, end: date) -> list[Split]:
    """The splits, oldest first. `begin` is the first day that there are features and labels of,
    `end` the day after the last label.

    Raises UsageError when no split fits: then more history is needed, or shorter spans.
    """
    span, duration = length(design.label_span), length(design.test_for)
    step, history = length(design.update_every), length(design.history)
    last, earliest = end - span - duration, begin + span
    found, back = list[Split](), 0
    while (at := last - step * back) >= earliest:
        until = at - span
        found.append(Split(at, max(begin, until - history), until, at + duration))
        back += 1
    if not found:
        raise UsageError(
            f"no split fits: labels from {begin} to {end}, a label spans {design.label_span} and a "
            f"test {design.test_for}; wait for more history, or shorten these in the model's file"
        )
    return found[::-1]


def timeline(found: Sequence[Split], width: int = 72) -> list[str]:
    """The splits as a drawing in text, a line each: `=` training, `.` labels seen, `#` test."""
    first, last = found[0].train_from, max(split.test_until for split in found)
    days = max(1, (last - first).days)

    def at(day: date) -> int:
        return round((day - first).days / days * width)

    lines = [f"{'':12}{first}{'':{max(1, width - 20)}}{last}"]
    for split in found:
        marks = [" "] * (width + 1)
        for begin, end, mark in (
            (split.train_from, split.train_until, "="),
            (split.train_until, split.at, "."),
            (split.at, split.test_until, "#"),
        ):
            for place in range(at(begin), max(at(begin) + 1, at(end))):
                marks[place] = mark
        lines.append(f"{split.at}  {''.join(marks).rstrip()}")
    return lines
