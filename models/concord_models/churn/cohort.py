"""Which check-ins are rows, and their labels. Pure functions over a study's `dta_snap.checkins`.

The agency reports a check-in in several months' files. What a row may know of it is what the files
known by its as-of day said; its label is what the newest file known to the run says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from concord.studies.tables import KNOWN_ON
from concord_models.churn import definitions
from concord_models.churn.definitions import Definition

CASE, DUE, AS_OF = "study_case_id", "due_on", "as_of"
KEY = (CASE, DUE)
LABEL, LABEL_KNOWN = "label", "label_known_on"
SPLIT = "split"
TRAIN, VALIDATION, TEST = SLICES = ("train", "validation", "test")

# Columns of the curated table that cohort and label read.
COLUMNS = frozenset(
    {
        "report_month",
        "kind",
        "due_on",
        "form_mailed_on",
        "form_received_on",
        "interview_on",
        "proofs_received_on",
        "decision",
        "decision_on",
        "closure_reason",
    }
)


@dataclass(frozen=True)
class Boundaries:
    """Days on which the first check-ins of the slices fall due, and the longest lead in days."""

    validation_from: date
    test_from: date
    lead_days: int


def open_checkins(reports: DataFrame, *as_of: Column) -> DataFrame:
    """One row per check-in and as-of day, where it is known on the day and undecided then.

    Each of `as_of` is a column over a report: the day the row's knowledge ends. Of a check-in that
    is reported more than once, the newest report known by then counts. Columns: study_case_id,
    due_on, as_of and the report's facts.
    """
    days = F.explode(F.array(*as_of)) if len(as_of) > 1 else as_of[0]
    known = reports.withColumn(AS_OF, days).where(F.col(KNOWN_ON) <= F.col(AS_OF))
    facts = (
        "report_month",
        "kind",
        "form_mailed_on",
        "form_received_on",
        "interview_on",
        "proofs_received_on",
        "decision",
    )
    newest = known.groupBy(CASE, DUE, AS_OF).agg(F.max(F.struct(*facts)).alias("report"))
    return newest.select(CASE, DUE, AS_OF, "report.*").where(F.col("decision").isNull())


def lead(days: int) -> Column:
    """The as-of day of training: so many days before the check-in falls due."""
    return F.date_sub(F.col(DUE), days)


def labels(
    reports: DataFrame, *, closure_reasons: Sequence[str], mature_after_days: int, as_of: date
) -> DataFrame:
    """study_case_id, due_on, label (1 closed for one of the reasons, else 0), label_known_on.

    Only labels that are mature at `as_of`: a file about the month in which the check-in fell due,
    or a later one, is known, and `mature_after_days` have passed since the due day. An open one has
    no row, never a 0.
    """
    told = reports.where(
        (F.col("report_month") >= F.trunc(DUE, "month")) & (F.col(KNOWN_ON) <= F.lit(as_of))
    )
    newest = told.groupBy(CASE, DUE).agg(
        F.max_by("closure_reason", "report_month").alias("reason"),
        F.greatest(F.min(KNOWN_ON), F.date_add(F.col(DUE), mature_after_days)).alias(LABEL_KNOWN),
    )
    closed = F.coalesce(F.col("reason").isin(*closure_reasons), F.lit(False))
    return newest.where(F.col(LABEL_KNOWN) <= F.lit(as_of)).select(
        CASE, DUE, closed.cast("int").alias(LABEL), LABEL_KNOWN
    )


def churn_labels(
    closed: DataFrame, churn: DataFrame, cases: DataFrame, definition: Definition, *, as_of: date
) -> DataFrame:
    """`closed` (as labels gives it) with label 1 for who was closed and returned in the window.

    `churn` is definitions.events under `definition`, `cases` the study's. A label, of whatever
    value, is mature once the file is known that tells of the window's last day: until then there
    is no row. A closure that the definition does not count, such as one of a household that goes on
    under another number, is 0.
    """
    newest_first = Window.orderBy(F.desc("month"))
    told = cases.groupBy("month").agg(F.min(KNOWN_ON).alias("_told"))
    told = told.select(
        F.col("month").alias("_settled"), F.min("_told").over(newest_first).alias("_told")
    )
    rows = closed.select(
        "*",
        F.trunc(DUE, "month").alias("month"),
        definitions.settles(definition, F.col(DUE)).alias("_settled"),
    ).join(F.broadcast(told), "_settled")
    ended = churn.select(CASE, "month", "churned", F.col("churned").isNull().alias("_open"))
    joined = rows.join(ended, [CASE, "month"], "left")
    returned = F.coalesce("churned", F.lit(False)).cast("int") * F.col(LABEL)
    known = F.greatest(LABEL_KNOWN, "_told")
    # A closure that came after the due day has a window that ends later.
    mature = (known <= F.lit(as_of)) & ~(F.coalesce("_open", F.lit(False)) & (F.col(LABEL) == 1))
    return joined.where(mature).select(CASE, DUE, returned.alias(LABEL), known.alias(LABEL_KNOWN))


def boundaries(
    due_days: Sequence[date], *, test_months: int, validation_months: int, lead_days: int
) -> Boundaries | None:
    """Slices by the months of the due days that have labels; None when there are too few months.

    A slice begins with the first day of its months on which a check-in falls due.
    """
    months = sorted({day.replace(day=1) for day in due_days})
    if len(months) <= test_months + validation_months:
        return None
    first = months[-test_months - validation_months], months[-test_months]
    begins = [min(day for day in due_days if day >= month) for month in first]
    return Boundaries(begins[0], begins[1], lead_days)


def split(rows: pd.DataFrame, edges: Boundaries) -> pd.Series:
    """Each row's slice: train, validation, test, or an empty text for none.

    `rows` has due_on and label_known_on as dates. A label counts in a slice only if it was known
    by the next slice's first as-of day: a model in use then could have learned from it. Rows of one
    check-in as of several days are in one slice.
    """
    due, known = rows[DUE], rows[LABEL_KNOWN]
    lead_time = timedelta(days=edges.lead_days)
    found = pd.Series("", index=rows.index, dtype=object)
    learnt = known <= edges.validation_from - lead_time
    found[(due < edges.validation_from) & learnt] = TRAIN
    learnt = known <= edges.test_from - lead_time
    found[(due >= edges.validation_from) & (due < edges.test_from) & learnt] = VALIDATION
    found[due >= edges.test_from] = TEST
    return found


def lists(rows: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Each row's list to call from: its office and the week of its as-of day, by its Monday."""
    days = pd.to_datetime(rows[AS_OF])
    weeks = (days - pd.to_timedelta(days.dt.weekday, unit="D")).dt.strftime("%Y-%m-%d")
    return tuple(zip(rows["office"].astype(str), weeks, strict=True))
