"""Temporal designs: Triage's worked example, and what holds of every design."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from concord.errors import UsageError
from concord_models.temporal import Temporal, length, splits, timeline

# The example of Timechop's own comments: labels from 2012 on, of 6 months, to 2017-07-01.
EXAMPLE = Temporal(
    label_span="6 months",
    update_every="1 year",
    test_for="3 months",
    history="2 years",
    train_every="1 day",
    test_every="1 month",
)
BEGIN, END = date(2012, 1, 1), date(2017, 7, 1)


def test_triage_s_worked_example() -> None:
    found = splits(EXAMPLE, BEGIN, END)
    assert [split.at for split in found] == [date(year, 10, 1) for year in range(2012, 2017)]
    last = found[-1]
    days = last.train_days("1 day")
    assert (days[0], days[-1]) == (date(2014, 4, 1), date(2016, 4, 1))
    assert len(days) == (date(2016, 4, 1) - date(2014, 4, 1)).days + 1
    assert last.test_days("1 month") == [date(2016, 10, 1), date(2016, 11, 1), date(2016, 12, 1)]
    # The first has as much history as there is, not two years.
    assert found[0].train_days("1 day")[0] == BEGIN
    assert found[0].train_until == date(2012, 4, 1)


def test_the_ends_of_months_do_not_creep() -> None:
    design = EXAMPLE.model_copy(
        update={"update_every": "1 month", "test_for": "1 month", "label_span": "1 month"}
    )
    found = splits(design, date(2024, 6, 1), date(2025, 3, 31))
    assert [split.at for split in found][-4:] == [
        date(2024, 10, 28), date(2024, 11, 28), date(2024, 12, 28), date(2025, 1, 28),
    ]  # fmt: skip


def test_too_little_history_is_told_with_what_would_do() -> None:
    with pytest.raises(UsageError, match="no split fits: labels from 2017-01-01 to 2017-07-01"):
        splits(EXAMPLE, date(2017, 1, 1), END)
    for bad in ("6", "0 days", "six months", "1 fortnight", "-1 day"):
        with pytest.raises(ValidationError, match="say how long"):
            Temporal.model_validate(EXAMPLE.model_dump() | {"history": bad})


SPANS = st.builds(
    lambda count, unit: f"{count} {unit}",
    st.integers(1, 6),
    st.sampled_from(["days", "weeks", "months"]),
)
DESIGNS = st.builds(Temporal, label_span=SPANS, update_every=SPANS, test_for=SPANS, history=SPANS)


@given(DESIGNS, st.dates(date(2018, 1, 1), date(2019, 1, 1)), st.integers(30, 900), st.data())
def test_no_design_lets_a_model_know_what_it_is_tested_on(
    design: Temporal, begin: date, days: int, data: st.DataObject
) -> None:
    end = begin + timedelta(days=days)
    try:
        found = splits(design, begin, end)
    except UsageError:
        assert begin + length(design.label_span) > end - length(design.label_span) - length(
            design.test_for
        ), "it does not fit at all"
        return
    as_of = np.arange(np.datetime64(begin), np.datetime64(end))
    late = data.draw(st.integers(0, 100))
    known = as_of + np.timedelta64(late, "D")
    assert [split.at for split in found] == sorted({split.at for split in found})
    for split in found:
        assert begin <= split.train_from <= split.train_until < split.at < split.test_until
        train, test = split.train(as_of, known), split.test(as_of)
        assert not (train & test).any() and test.any()
        assert (known[train] <= np.datetime64(split.at)).all()
        # Every label of the test is there by the end, and the model is used from its split on.
        assert as_of[test].max().item() + length(design.label_span) < end + timedelta(days=1)
        assert as_of[test].min() == np.datetime64(split.at)
        assert set(split.test_days("1 week")) <= {day.item() for day in as_of[test]}
        assert set(split.train_days("3 days")) <= {
            day.item() for day in as_of if split.train_from <= day.item() <= split.train_until
        }


def test_the_drawing_shows_training_before_labels_before_test() -> None:
    lines = timeline(splits(EXAMPLE, BEGIN, END), width=66)
    assert "2012-01-01" in lines[0] and "2017-01-01" in lines[0]
    assert len(lines) == 6
    for line in lines[1:]:
        assert line[12:].strip(" ").strip("=").strip("#").strip(".") == ""
        assert line.index("=") < line.index(".") < line.index("#")
    assert lines[-1].endswith("###") and lines[-1].startswith("2016-10-01")
