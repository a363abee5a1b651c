"""Which households the agency called about a check-in: pure functions over a study's contacts."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.studies.tables import KNOWN_ON
from concord_models.churn.cohort import AS_OF, CASE, DUE, KEY

# The contract's code of a call that the agency makes from a list; texts go to everybody.
OUTREACH = "call_out"
CONTACTED = "contacted"
# What is read of `dta_snap.contacts`.
COLUMNS = frozenset({"contact_on", "contact_kind"})


def contacted(rows: DataFrame, contacts: DataFrame, as_of: date) -> DataFrame:
    """`rows` (study_case_id, due_on, as_of, ...) with `contacted`: the first day of outreach after
    the row's as-of day and up to the due day, NULL where none is known at `as_of`.

    Outreach on the as-of day itself may have come before the score, and counts as known to it.
    """
    calls = contacts.where(
        (F.col("contact_kind") == OUTREACH) & (F.col(KNOWN_ON) <= F.lit(as_of))
    ).select(CASE, "contact_on")
    first = (
        rows.select(*KEY, AS_OF)
        .join(calls, CASE)
        .where((F.col("contact_on") > F.col(AS_OF)) & (F.col("contact_on") <= F.col(DUE)))
        .groupBy(*KEY, AS_OF)
        .agg(F.min("contact_on").alias(CONTACTED))
    )
    return rows.join(first, [*KEY, AS_OF], "left")
