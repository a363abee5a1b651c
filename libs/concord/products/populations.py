"""What products count: check-ins with their outcome, by month, region and certification type.

Spark counts the smallest groups; totals and cuts are added up on the driver, where suppression
needs them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

# What the population needs of which dataset of an agreement: the request that is decided on.
COLUMNS: Mapping[str, frozenset[str]] = {
    "dta_snap.checkins": frozenset(
        {"checkin_id", "report_month", "due_on", "closed_on", "closure_reason", "reinstated_on"}
    ),
    "dta_snap.cases": frozenset({"month", "office", "certification_type"}),
}
CASE, KNOWN_ON = "study_case_id", "_known_on"
# The agency's code for a closure because the check-in was not completed.
PROCEDURAL = "checkin_not_completed"
# ma_30d: back within thirty days of the closure.
RETURN_DAYS = 30
UNKNOWN = "unknown"


def snap_checkins(
    checkins: DataFrame,
    cases: DataFrame,
    *,
    regions: Mapping[str, Sequence[str]],
    certification_types: Mapping[str, Sequence[str]],
    as_of: date,
) -> DataFrame:
    """Counts of the smallest groups, as known on `as_of`.

    Gives `month` (first day), `region`, `certification_type`, `checkins`, `closed`, `churned`
    (bigint). One check-in counts once, as its newest report tells it, in the month it was due. A
    month is counted when it is settled: from the first month that was reported to the last one
    whose following month was reported too, since returns within thirty days show there. Of the
    last quarter only whole quarters count, so that a later release adds to no earlier count. Thirty
    days after 31 January are in March, which a whole quarter has been told of.
    """
    known = checkins.where(F.col(KNOWN_ON) <= F.lit(as_of))
    fields = ["due_on", "closed_on", "closure_reason", "reinstated_on", CASE]
    newest = (
        known.groupBy("checkin_id")
        .agg(F.max_by(F.struct(*fields), "report_month").alias("row"))
        .select("row.*", F.trunc("row.due_on", "month").alias("month"))
    )
    span = known.agg(
        F.min("report_month").alias("first"),
        F.trunc(F.add_months(F.max("report_month"), -1), "month").alias("settled"),
    )
    quarter_end = F.add_months(F.trunc("month", "quarter"), 2)
    settled = newest.join(F.broadcast(span)).where(
        (F.trunc("month", "quarter") >= F.col("first")) & (quarter_end <= F.col("settled"))
    )
    place = (
        cases.where(F.col(KNOWN_ON) <= F.lit(as_of))
        .groupBy(CASE, "month")
        .agg(
            F.max_by(F.struct("office", "certification_type"), KNOWN_ON).alias("case"),
        )
        .select(CASE, "month", "case.*")
    )
    closed = F.col("closure_reason") == PROCEDURAL
    back = F.date_diff("reinstated_on", "closed_on") <= RETURN_DAYS
    return (
        settled.join(place, [CASE, "month"], "left")
        .groupBy(
            "month",
            _grouped("office", regions).alias("region"),
            _grouped("certification_type", certification_types).alias("certification_type"),
        )
        .agg(
            F.count(F.lit(1)).alias("checkins"),
            F.count_if(F.coalesce(closed, F.lit(False))).alias("closed"),
            F.count_if(F.coalesce(closed & back, F.lit(False))).alias("churned"),
        )
    )


def _grouped(column: str, groups: Mapping[str, Sequence[str]]) -> Column:
    """The group that lists the column's code; `unknown` where none does."""
    group: Column = F.lit(UNKNOWN)
    for name, codes in groups.items():
        group = F.when(F.col(column).isin(list(codes)), name).otherwise(group)
    return group
