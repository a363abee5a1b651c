"""The feeds of the synthetic Commonwealth: who makes the rows, in which periods, due when.

A further feed is one contract in conf/feeds, one module with a `tables(block)` function and one
line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from concord.synthesis import (
    ct_home_visiting,
    dcf_families,
    dese_enrollment,
    dhe_enrollment,
    dph_early_intervention,
    dph_wic,
    dpu_rides,
    dta_snap,
    dta_tafdc,
    dua_claims,
    dua_wages,
    eec_childcare,
    housing_assistance,
    hrd_employees,
    masshire_training,
    mrc_vocational,
)
from concord.synthesis.blocks import Block, FeedPart
from concord.synthesis.periods import Period, Timeline, add_months, date, day


def months(timeline: Timeline) -> tuple[Period, ...]:
    return timeline.month_periods


def quarters(timeline: Timeline) -> tuple[Period, ...]:
    return timeline.quarters


def weeks(timeline: Timeline) -> tuple[Period, ...]:
    return timeline.weeks


def after(months_later: int, day_of_month: int) -> Callable[[Period], int]:
    """Due on a day of the month that lies `months_later` after the period's last month."""

    def due(period: Period) -> int:
        return day(add_months(date(period.last), months_later)) + day_of_month - 1

    return due


@dataclass(frozen=True)
class Feed:
    """`make` gives the rows of one block, their `period` an index into `periods`."""

    name: str
    make: Callable[[Block], FeedPart]
    periods: Callable[[Timeline], tuple[Period, ...]]
    due: Callable[[Period], int]


FEEDS: tuple[Feed, ...] = (
    Feed("dta_snap", dta_snap.tables, months, after(1, 3)),
    Feed("dua_wages", dua_wages.tables, quarters, after(5, 14)),
    Feed("dua_claims", dua_claims.tables, weeks, after(1, 3)),
    Feed("masshire_training", masshire_training.tables, quarters, after(1, 20)),
    Feed("eec_childcare", eec_childcare.tables, months, after(1, 2)),
    Feed("dph_early_intervention", dph_early_intervention.tables, months, after(1, 2)),
    Feed("dph_wic", dph_wic.tables, months, after(1, 3)),
    Feed("dese_enrollment", dese_enrollment.tables, dese_enrollment.collections, after(1, 2)),
    Feed("dhe_enrollment", dhe_enrollment.tables, dhe_enrollment.terms, after(5, 25)),
    Feed("ct_home_visiting", ct_home_visiting.tables, quarters, after(1, 25)),
    Feed("mrc_vocational", mrc_vocational.tables, quarters, after(1, 20)),
    Feed("dcf_families", dcf_families.tables, months, after(1, 2)),
    Feed("housing_assistance", housing_assistance.tables, quarters, after(1, 15)),
    Feed("hrd_employees", hrd_employees.tables, quarters, after(1, 10)),
    Feed("dta_tafdc", dta_tafdc.tables, months, after(1, 3)),
    Feed("dpu_rides", dpu_rides.tables, dpu_rides.years, after(3, 1)),
)
