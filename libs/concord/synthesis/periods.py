"""Months, quarters and weeks of the synthetic timeline, as days since 1970-01-01."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np

MONTHS_AT_MOST = 240  # of a Commonwealth: numbers that hold a month have room for so many
NEVER = 100_000  # a day no timeline reaches (the year 2243)
EPOCH = dt.date(1970, 1, 1)


def day(date: dt.date) -> int:
    return (date - EPOCH).days


def date(day_number: int) -> dt.date:
    return EPOCH + dt.timedelta(days=int(day_number))


def add_months(first: dt.date, months: int) -> dt.date:
    """The first day of the month that lies `months` after the month of `first`."""
    total = first.year * 12 + first.month - 1 + months
    return dt.date(total // 12, total % 12 + 1, 1)


@dataclass(frozen=True)
class Period:
    """One business period of a calendar: its name in manifests, first and last day."""

    name: str
    first: int
    last: int
    index: int


@dataclass(frozen=True)
class Timeline:
    """`months` months from `first_month`, plus a year of quarters before them.

    Month `m` counts from 0; quarter `q` from 0 too, four of them before month 0, so that wages
    and training have a history when the first month begins.
    """

    first_month: dt.date
    months: int

    HISTORY_QUARTERS = 4

    @property
    def start(self) -> int:
        return day(self.first_month)

    @property
    def end(self) -> int:
        """Last day."""
        return self.month(self.months - 1).last

    def month(self, m: int) -> Period:
        first = add_months(self.first_month, m)
        return Period(f"{first:%Y-%m}", day(first), day(add_months(first, 1)) - 1, m)

    def month_edges(self, before: int = 0, after: int = 0) -> np.ndarray:
        """First days of months -before … months+after, one more than the number of months."""
        span = range(-before, self.months + after + 1)
        return np.array([day(add_months(self.first_month, m)) for m in span], dtype=np.int64)

    @property
    def quarters(self) -> tuple[Period, ...]:
        """History quarters and every quarter that ends within the months."""
        first = add_months(self.first_month, -((self.first_month.month - 1) % 3))
        first = add_months(first, -3 * self.HISTORY_QUARTERS)
        found: list[Period] = []
        while True:
            start = add_months(first, 3 * len(found))
            last = day(add_months(start, 3)) - 1
            if last > self.end:
                return tuple(found)
            name = f"{start.year}-Q{(start.month - 1) // 3 + 1}"
            found.append(Period(name, day(start), last, len(found)))

    @property
    def weeks(self) -> tuple[Period, ...]:
        """ISO weeks (Monday to Sunday) whose Sunday lies within the months."""
        monday = self.start - (date(self.start).weekday())
        found: list[Period] = []
        while monday + 6 <= self.end:
            year, week, _ = date(monday).isocalendar()
            found.append(Period(f"{year}-W{week:02d}", monday, monday + 6, len(found)))
            monday += 7
        return tuple(found)

    def months_named(self, *numbers: int) -> tuple[Period, ...]:
        """The months that have one of the numbers, 1 to 12, each a period."""
        found = [m for m in self.month_periods if date(m.first).month in numbers]
        return tuple(Period(m.name, m.first, m.last, i) for i, m in enumerate(found))

    @property
    def month_periods(self) -> tuple[Period, ...]:
        return tuple(self.month(m) for m in range(self.months))
