"""Why a household lost SNAP at a check-in: late to engage, a changed life, unaware, the agency.

Evidence comes from a study's tables, by check-in; a hard rule tests the behaviours in a stated
order, and a mixture model assigns them softly. Neither sees what a synthetic case was made to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.products.populations import PROCEDURAL
from concord.studies.tables import KNOWN_ON
from concord_models.churn.cohort import CASE, DUE
from concord_models.churn.definitions import AGENCY, MONTH, PERSON, RECERTIFICATION

Floats = NDArray[np.float64]
UNDETERMINED = "U_undetermined"
# In the order in which they are tested.
BEHAVIOURS = ("A_agency", "H1_late_engager", "H3_life_change", "H2_unaware")
CLASSES = (*BEHAVIOURS, UNDETERMINED)

LATE_DAYS = 10  # H1: the first engagement is at most so many days before the end
AFTER_DAYS = 14  # H2: it is so many days after the first missed issuance or a declined card
GAP_DAYS = 30  # H3: back later than this
EARNINGS_DROP = -0.30  # a material change
# Contacts by which a household engages with its check-in, and what they are about.
ENGAGING = ("call_in", "portal_login", "office_visit")
ABOUT = ("checkin", "checkin_status", "missing_benefits")
# 200 % of the federal poverty guideline of 2024 (89 FR 2961), dollars a month: the first person and
# each further one. Massachusetts' limit of gross income.
LIMIT_FIRST, LIMIT_MORE = 2 * 15_060 / 12, 2 * 5_380 / 12

# Columns that evidence reads besides definitions.COLUMNS.
COLUMNS: Mapping[str, frozenset[str]] = {
    "dta_snap.checkins": frozenset(
        {
            "form_mailed_on",
            "form_received_on",
            "interview_on",
            "proofs_received_on",
            "decision",
            "decision_on",
            "closure_reason",
        }
    ),
    "dta_snap.cases": frozenset({"earned_income", "household_size", "zip"}),
    "dta_snap.persons": frozenset({"disabled"}),
    "dta_snap.contacts": frozenset({"contact_on", "contact_kind", "topic"}),
    "dta_snap.ebt_events": frozenset({"event_on", "event_kind"}),
    "dua_claims.claims": frozenset({"filed_on"}),
    "dua_wages.wages": frozenset({"quarter", "wages"}),
}


def evidence(tables: Mapping[str, DataFrame], exits: DataFrame, *, as_of: date) -> DataFrame:
    """One row per check-in that ended in a closure for want of paperwork or of a decision.

    `tables` are the study's, by `<feed>.<table>`; `exits` is definitions.exits of them as of the
    same day. Only check-ins of months served whose following month is reported: what happens in it
    is evidence.

    study_case_id, due_on
    procedural             closed because the check-in was not completed
    complete               form, proofs and, at a recertification, interview came by the due day
    decided_late           the decision came after it
    reversed               the closure was, with a payment for the time
    engaged                days from the first engagement after the mailing to the due day; negative
                           after it, NULL when there is none
    declined               days from the due day to the first declined card after it, or NULL
    gap                    days from the closure to the return, or NULL
    earnings_down, claimed, resized, disabled, moved     material changes around the due day
    mail_back              a letter came back in the ninety days before
    over_limit             wages of the quarter after the end above the limit for the household, and
                           not those of the quarter before
    purchases              card purchases in the 75 days before the due day
    """
    known = {name: frame.where(F.col(KNOWN_ON) <= F.lit(as_of)) for name, frame in tables.items()}
    rows = _closed(known["dta_snap.checkins"], exits)
    keys = rows.select(CASE, DUE, "form_mailed_on")
    people = _people(keys, known["dta_snap.persons"])
    parts = [
        _contacts(keys, known["dta_snap.contacts"]),
        _cards(keys, known["dta_snap.ebt_events"]),
        _changes(keys, known["dta_snap.cases"]),
        _disability(people),
        _claims(people, known["dua_claims.claims"]),
        _wages(people, known["dua_wages.wages"]),
    ]
    for part in parts:
        rows = rows.join(part, [CASE, DUE], "left")
    first = F.least("_submitted", "_asked")
    limit = LIMIT_FIRST + LIMIT_MORE * (F.col("_size") - 1)
    no = F.lit(False)
    return rows.select(
        CASE,
        DUE,
        "procedural",
        "complete",
        "decided_late",
        "reversed",
        F.date_diff(DUE, first).alias("engaged"),
        "declined",
        "gap",
        *[
            F.coalesce(name, no).alias(name)
            for name in ("earnings_down", "claimed", "resized", "disabled", "moved", "mail_back")
        ],
        F.coalesce((F.col("_after") / 3 > limit) & ~(F.col("_before") / 3 > limit), no).alias(
            "over_limit"
        ),
        F.coalesce("purchases", F.lit(0)).alias("purchases"),
    )


def _closed(reports: DataFrame, exits: DataFrame) -> DataFrame:
    facts = ("kind", *sorted(COLUMNS["dta_snap.checkins"]))
    newest = reports.groupBy(CASE, DUE).agg(
        F.max_by(F.struct(*facts), "report_month").alias("it"),
        F.max("report_month").alias("_told"),
    )
    closed = newest.select(CASE, DUE, "it.*", "_told").where(
        F.col("closure_reason").isin(PROCEDURAL, AGENCY) & (F.col("_told") > F.trunc(DUE, "month"))
    )
    ended = exits.select(
        CASE,
        F.col(MONTH).alias("_month"),
        "late",
        F.date_diff("returned_on", "closed_on").alias("gap"),
    )
    joined = closed.withColumn("_month", F.trunc(DUE, "month")).join(ended, [CASE, "_month"])
    due = F.col(DUE)

    def by_due(day: str) -> Column:
        return F.coalesce(F.col(day) <= due, F.lit(False))

    interviewed = (F.col("kind") != RECERTIFICATION) | by_due("interview_on")
    return joined.select(
        CASE,
        DUE,
        "form_mailed_on",
        "gap",
        (F.col("closure_reason") == PROCEDURAL).alias("procedural"),
        (by_due("form_received_on") & by_due("proofs_received_on") & interviewed).alias("complete"),
        F.coalesce(F.col("decision_on") > due, F.lit(False)).alias("decided_late"),
        (
            F.coalesce("late", F.lit(False))
            | F.coalesce(F.col("decision") == "approved_late", F.lit(False))
        ).alias("reversed"),
        F.least("form_received_on", "interview_on", "proofs_received_on").alias("_submitted"),
    )


def _contacts(keys: DataFrame, contacts: DataFrame) -> DataFrame:
    day, kind = F.col("contact_on"), F.col("contact_kind")
    asks = kind.isin(*ENGAGING) & F.col("topic").isin(*ABOUT)
    since = asks & (day >= F.col("form_mailed_on")) & (day <= F.date_add(DUE, 60))
    back = (kind == "returned_mail") & F.date_diff(DUE, day).between(0, 90)
    return (
        keys.join(contacts, CASE)
        .groupBy(CASE, DUE)
        .agg(F.min(F.when(since, day)).alias("_asked"), F.max(back).alias("mail_back"))
    )


def _cards(keys: DataFrame, events: DataFrame) -> DataFrame:
    day, kind = F.col("event_on"), F.col("event_kind")
    after = F.date_diff(day, DUE)
    declined = (kind == "declined") & after.between(1, 60)
    bought = (kind == "purchase") & after.between(-75, 0)
    return (
        keys.join(events, CASE)
        .groupBy(CASE, DUE)
        .agg(
            F.min(F.when(declined, after)).alias("declined"),
            F.count_if(bought).alias("purchases"),
        )
    )


def _changes(keys: DataFrame, cases: DataFrame) -> DataFrame:
    """Earnings, size and place in the months around the due day against those before."""
    apart = F.round(F.months_between(MONTH, F.trunc(DUE, "month")))
    around, before = apart.between(-2, 1), apart.between(-8, -3)
    earned = F.col("earned_income").cast("double")
    grouped = (
        keys.join(cases, CASE)
        .where(apart.between(-8, 1))
        .groupBy(CASE, DUE)
        .agg(
            F.min(F.when(around, earned)).alias("least"),
            F.avg(F.when(before, earned)).alias("mean"),
            F.count_distinct(F.when(apart >= -3, F.col("household_size"))).alias("sizes"),
            F.count_distinct(F.when(apart >= -3, F.col("zip"))).alias("places"),
            F.max_by("household_size", MONTH).alias("_size"),
        )
    )
    down = (F.col("mean") > 0) & (F.col("least") / F.col("mean") - 1 <= EARNINGS_DROP)
    return grouped.select(
        CASE,
        DUE,
        down.alias("earnings_down"),
        (F.col("sizes") > 1).alias("resized"),
        (F.col("places") > 1).alias("moved"),
        "_size",
    )


def _people(keys: DataFrame, persons: DataFrame) -> DataFrame:
    """Who was in the household in the months around the due day."""
    apart = F.round(F.months_between(MONTH, F.trunc(DUE, "month")))
    return (
        keys.join(persons, CASE)
        .where(apart.between(-3, 1))
        .select(CASE, DUE, PERSON, MONTH, F.col("disabled").alias("_disabled"))
    )


def _disability(people: DataFrame) -> DataFrame:
    each = people.groupBy(CASE, DUE, PERSON).agg(F.count_distinct("_disabled").alias("states"))
    return each.groupBy(CASE, DUE).agg((F.max("states") > 1).alias("disabled"))


def _claims(people: DataFrame, claims: DataFrame) -> DataFrame:
    """Whether somebody filed for unemployment from ninety days before the end to thirty after."""
    filed = F.date_diff("filed_on", DUE).between(-90, GAP_DAYS)
    own = people.select(CASE, DUE, PERSON).distinct().join(claims, PERSON).where(filed)
    return own.select(CASE, DUE).distinct().withColumn("claimed", F.lit(True))


def _wages(people: DataFrame, wages: DataFrame) -> DataFrame:
    """Dollars that the household's people earned in the quarter of the day after the end, and in
    the one before it; 0 where no wages are reported."""
    day = F.date_add(DUE, 1)
    after, before = (
        F.concat(F.year(of), F.lit("Q"), F.quarter(of)) for of in (day, F.add_months(day, -3))
    )
    own = people.select(CASE, DUE, PERSON).distinct().join(wages, PERSON)
    paid, quarter = F.col("wages").cast("double"), F.col("quarter")
    return own.groupBy(CASE, DUE).agg(
        F.sum(F.when(quarter == after, paid).otherwise(0)).alias("_after"),
        F.sum(F.when(quarter == before, paid).otherwise(0)).alias("_before"),
    )


# --- assignment ----------------------------------------------------------------------------------


def rule(found: pd.DataFrame) -> NDArray[np.str_]:
    """The first of BEHAVIOURS whose test a row of `evidence` passes, else UNDETERMINED."""
    engaged, gap = found["engaged"], found["gap"]
    before = engaged >= 0
    material = _material(found)
    late_gap = gap.isna() | (gap > GAP_DAYS)
    # The benefit could have come from the first day after the end.
    soon = (-engaged).between(1, 1 + AFTER_DAYS) | (-engaged - found["declined"]).between(
        0, AFTER_DAYS
    )
    tests = (
        (found["complete"] & found["decided_late"]) | found["reversed"],
        before & (engaged <= LATE_DAYS) & found["procedural"],
        ~before & late_gap & (material | found["over_limit"]),
        ~before & soon & ~material,
    )
    return np.select([np.asarray(test, dtype=bool) for test in tests], BEHAVIOURS, UNDETERMINED)


def _material(found: pd.DataFrame) -> pd.Series:
    """Earnings down by thirty per cent or an unemployment claim, another size, a disability, or
    another address, which mail that comes back tells of too."""
    names = ("earnings_down", "claimed", "resized", "disabled", "moved", "mail_back")
    return found[list(names)].any(axis=1)


def indicators(found: pd.DataFrame) -> Floats:
    """What the mixture sees of each row of `evidence`: zeros and ones, a column an observation.

    Not the gap: the return follows from a behaviour, and with it the classes become who came back
    when.
    """
    engaged = found["engaged"]
    columns = (
        found["complete"],
        found["decided_late"],
        found["reversed"],
        engaged > LATE_DAYS,
        engaged.between(0, LATE_DAYS),
        (-engaged).between(1, 1 + AFTER_DAYS),
        found["declined"] <= 1 + AFTER_DAYS,
        found["earnings_down"] | found["claimed"] | found["over_limit"],
        found["resized"] | found["disabled"] | found["moved"],
        found["mail_back"],
        found["purchases"] <= 6,
    )
    return np.column_stack([np.asarray(column, dtype=float) for column in columns])


@dataclass(frozen=True)
class Mixture:
    """A latent class model: each behaviour's share, and how likely each indicator is under it.

    Indicators are independent given the behaviour (Lazarsfeld and Henry 1968).
    """

    shares: Floats
    chances: Floats

    def probabilities(self, seen: Floats) -> Floats:
        """(rows, BEHAVIOURS), each row adding up to 1."""
        log = seen @ np.log(self.chances).T + (1 - seen) @ np.log(1 - self.chances).T
        log += np.log(self.shares)
        log -= log.max(axis=1, keepdims=True)
        likely = np.exp(log)
        return likely / likely.sum(axis=1, keepdims=True)


def mixture(seen: Floats, start: Sequence[str], *, rounds: int = 50) -> Mixture:
    """Fitted by expectation-maximisation (Dempster, Laird and Rubin 1977), begun at the hard rule's
    classes `start`, which name the components; rows that it leaves undetermined begin as none.

    Half a row of either answer is added to each indicator of each behaviour.
    """
    weights = np.array([[float(name == own) for name in BEHAVIOURS] for own in start])
    made = _maximise(seen, weights)
    for _ in range(rounds):
        made = _maximise(seen, made.probabilities(seen))
    return made


def _maximise(seen: Floats, weights: Floats) -> Mixture:
    total = weights.sum(axis=0) + 1
    chances = (weights.T @ seen + 0.5) / total[:, None]
    return Mixture(total / total.sum(), chances)


def agreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of rows that are the same in both, of those determined in both."""
    one, two = np.asarray(first), np.asarray(second)
    told = (one != UNDETERMINED) & (two != UNDETERMINED)
    return float((one[told] == two[told]).mean()) if told.any() else float("nan")


def confusion(truth: Sequence[str], assigned: Sequence[str]) -> pd.DataFrame:
    """Counts: what is true in the rows, what was assigned in the columns."""
    table = pd.crosstab(np.asarray(truth), np.asarray(assigned))
    return table.reindex(index=list(BEHAVIOURS), columns=list(CLASSES), fill_value=0)
