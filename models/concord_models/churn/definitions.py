"""What counts as churn: four definitions as data, the exits and returns they read, four rates.

Pure functions over a study's `dta_snap` tables. Months are their first days. An exit's month m is
the last month served: issued for m, not for m+1; `service_gap = r - m - 1` counts the months
without a benefit before the return month r. What is not known yet is NULL, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from concord.products.populations import PROCEDURAL
from concord.studies.tables import KNOWN_ON

CASE, PERSON, MONTH = "study_case_id", "study_person_id", "month"
ISSUANCES, CASES = "dta_snap.issuances", "dta_snap.cases"
PERSONS, CHECKINS = "dta_snap.persons", "dta_snap.checkins"
INTERIM, RECERTIFICATION = "interim_report", "recertification"
AGENCY = "agency_delay"
# Who died or was disqualified (7 CFR 273.16) left, and did not churn. An agency without a code for
# the second, as the contract has none today, can not tell it.
NOT_CHURN = ("deceased", "disqualified")
# 7 CFR 273.14(c): a recertification is filed in time by the 15th of the certification's last month.
TIMELY_DAY = 15
# 7 CFR 273.14(e): within so many days after the end a household need not apply anew.
LATE_DAYS = 30

# Columns of each table that the functions here read: what an agreement is asked for.
COLUMNS: Mapping[str, frozenset[str]] = {
    ISSUANCES: frozenset({"month", "benefit_month", "issuance_type"}),
    CASES: frozenset(
        {
            "month",
            "status",
            "benefit_amount",
            "certification_type",
            "certification_start",
            "opened_on",
            "closed_on",
            "closure_reason",
        }
    ),
    PERSONS: frozenset({"month"}),
    CHECKINS: frozenset({"report_month", "kind", "due_on"}),
}

Exit = Literal["a month off", "administrative", "check-in month", "not recertified"]
Unit = Literal["months off", "days", "calendar months"]
Name = Literal["fns_4m", "ma_30d", "ca_90d", "sf_1m"]


@dataclass(frozen=True)
class Definition:
    """Which exits count, and within what window a return makes them churn.

    `a month off`: at least one month without a benefit. `administrative`: closed at a check-in
    because it was not completed, or the agency was late. `check-in month`: closed for any reason in
    a month in which a check-in falls due. `not recertified`: closed because a recertification was
    not completed. The window counts months off, days after the closure, or calendar months after
    the closure's.
    """

    name: str
    exit: Exit
    window: int
    unit: Unit
    source: str


DEFINITIONS: Mapping[str, Definition] = {
    definition.name: definition
    for definition in (
        Definition(
            "fns_4m",
            "a month off",
            4,
            "months off",
            "Food and Nutrition Service: Mills et al. 2014, Understanding the Rates, Causes, and "
            "Costs of Churning in SNAP",
        ),
        Definition(
            "ma_30d",
            "administrative",
            30,
            "days",
            "Massachusetts: Kenney et al. 2022, JAMA Network Open 5(9):e2230150, of "
            "recertifications; here of interim reports too, as the product snap_churn counts",
        ),
        Definition(
            "ca_90d",
            "check-in month",
            90,
            "days",
            "California Policy Lab 2021: left in a month with paperwork due, enrolled again within "
            "90 days",
        ),
        Definition(
            "sf_1m",
            "not recertified",
            1,
            "calendar months",
            "San Francisco: failed to recertify, reapplied with success within the next month",
        ),
    )
}


@dataclass(frozen=True)
class CertificationRule:
    """How long certifications that begin from a day on last, and the month of them in which an
    interim report falls due. Of one type the rule that took effect last holds."""

    certification_type: str
    effective_from: date
    months: int
    interim_month: int | None
    source: str


# Massachusetts Law Reform Institute, SNAP Advocacy Guide of 2020, chart of certification types;
# masslegalservices.org/EDSAP for the day on which households were moved to 36 months. Simplified
# reporting is older than the day that stands here, which is the guide's of 2014. The six months
# that certifications were prolonged by in March 2020 are not here: the feed begins after them.
RULES: tuple[CertificationRule, ...] = (
    CertificationRule("12_month_interim", date(2014, 1, 1), 12, 6, "simplified reporting"),
    CertificationRule("12_month", date(2014, 1, 1), 12, None, "simplified reporting"),
    CertificationRule("36_month_elder_disabled", date(2018, 12, 17), 36, None, "EDSAP"),
)


# --- months and spells ---------------------------------------------------------------------------


def service_months(issuances: DataFrame, cases: DataFrame) -> DataFrame:
    """study_case_id, month, opened_on, retroactive: the months for which a case was served.

    Served is who was issued a benefit for the month, of whatever amount, or was open with a benefit
    of 0: such a month is not an exit. A supplement is for a month that has its own payment.
    `retroactive` says that all payments for the month came late, for a closure that was reversed.
    `opened_on` is the begin of the spell that the agency's file tells of for that month.
    """
    paid = issuances.where(F.col("issuance_type") != "supplemental").select(
        CASE,
        F.col("benefit_month").alias(MONTH),
        (F.col("issuance_type") == "retroactive").alias("retroactive"),
    )
    newest = _newest(cases)
    zero = _zero_months(newest).withColumn("retroactive", F.lit(False))
    months = (
        paid.unionByName(zero).groupBy(CASE, MONTH).agg(F.min("retroactive").alias("retroactive"))
    )
    return months.join(newest.select(CASE, MONTH, "opened_on"), [CASE, MONTH], "left")


def paid_months(issuances: DataFrame, cases: DataFrame) -> DataFrame:
    """As service_months, of the months *in* which money came, or none was due: a retroactive
    payment closes no gap here."""
    paid = issuances.where(F.col("issuance_type") != "supplemental").select(CASE, MONTH)
    months = paid.unionByName(_zero_months(_newest(cases))).distinct()
    return months.select(
        "*", F.lit(False).alias("retroactive"), F.lit(None).cast("date").alias("opened_on")
    )


def spells(months: DataFrame) -> DataFrame:
    """study_case_id, first_month, last_month: months without a break between them."""
    order = Window.partitionBy(CASE).orderBy(MONTH)
    begins = F.add_months(F.lag(MONTH).over(order), 1) != F.col(MONTH)
    number = F.sum(F.coalesce(begins, F.lit(True)).cast("int")).over(order)
    return (
        months.withColumn("_spell", number)
        .groupBy(CASE, "_spell")
        .agg(F.min(MONTH).alias("first_month"), F.max(MONTH).alias("last_month"))
        .drop("_spell")
    )


def due_by_rule(cases: DataFrame, rules: Sequence[CertificationRule] = RULES) -> DataFrame:
    """study_case_id, month, kind: months in which a check-in falls due by the rules that were in
    force when the certification began."""
    start, number = F.col("certification_start"), _months_apart(MONTH, "certification_start") + 1
    kind: Column = F.lit(None).cast("string")
    for rule in sorted(rules, key=lambda rule: rule.effective_from):
        holds = (F.col("certification_type") == rule.certification_type) & (
            start >= F.lit(rule.effective_from)
        )
        own = F.when(number == rule.months, RECERTIFICATION)
        if rule.interim_month is not None:
            own = own.when(number == rule.interim_month, INTERIM)
        kind = F.when(holds, own).otherwise(kind)
    return _newest(cases).select(CASE, MONTH, kind.alias("kind")).where(F.col("kind").isNotNull())


# --- exits and returns ---------------------------------------------------------------------------


def exits(
    tables: Mapping[str, DataFrame], *, as_of: date, rules: Sequence[CertificationRule] = RULES
) -> DataFrame:
    """One row per case and month after which service, or payment, did not simply go on.

    `tables` are the study's issuances, cases, persons and check-ins by `<feed>.<table>`; of each
    what was known on `as_of` counts. Only months before the last one reported can be told of.

    study_case_id, month   the last month served
    closed_on, reason      the closure that the agency told of in it, or early in the next; without
                           one the month's last day and NULL
    kind                   of the check-in due in the month, as reported, else by `rules`, or NULL
    returned_on            day of the return, NULL while there is none
    service_gap, paid_gap  whole months without a benefit, without a payment; NULL while open
    late                   the next month was paid for later: late, not off
    left                   whether it is an exit: not late, and nobody carried the household on
    through                the last month reported

    A household is its people of the month: it is on in a later month when its own case is, or when
    at least half of its people are, on another. So a case that is split or gets a new number has
    not left. No publication says what share decides; half is ours.
    """
    known = {name: frame.where(F.col(KNOWN_ON) <= F.lit(as_of)) for name, frame in tables.items()}
    issuances, cases = known[ISSUANCES], known[CASES]
    served, paid = service_months(issuances, cases), paid_months(issuances, cases)
    members = known[PERSONS].select(CASE, MONTH, PERSON).distinct()
    closed = _closures(cases)
    through = cases.agg(F.max(MONTH).alias("through"))

    stopped = spells(served).select(CASE, F.col("last_month").alias(MONTH))
    unpaid = spells(paid).select(CASE, F.col("last_month").alias(MONTH))
    keys = stopped.unionByName(unpaid).unionByName(closed.select(CASE, MONTH)).distinct()
    ends = (
        keys.join(served.select(CASE, MONTH), [CASE, MONTH], "left_semi")
        .join(F.broadcast(through))
        .where(F.col(MONTH) < F.col("through"))
    )
    back = _next_on(ends, members, served)
    money = _next_on(ends, members, paid).select(CASE, MONTH, F.col("then").alias("paid"))
    early = closed.select(
        CASE,
        F.add_months(MONTH, -1).alias(MONTH),
        F.col("closed_on").alias("_early_on"),
        F.col("reason").alias("_early_reason"),
    )
    reported = (
        known[CHECKINS]
        .groupBy(CASE, F.trunc("due_on", "month").alias(MONTH))
        .agg(F.max_by("kind", "report_month").alias("_reported"))
    )
    joined = (
        ends.join(back, [CASE, MONTH], "left")
        .join(money, [CASE, MONTH], "left")
        .join(closed, [CASE, MONTH], "left")
        .join(early, [CASE, MONTH], "left")
        .join(reported, [CASE, MONTH], "left")
        .join(due_by_rule(cases, rules), [CASE, MONTH], "left")
    )
    goes_on = F.coalesce(_months_apart("then", MONTH) == 1, F.lit(False))
    # A closure of the next month ended this spell only if that month was not served.
    early_counts = F.col("closed_on").isNull() & ~goes_on
    joined = joined.select(
        CASE,
        MONTH,
        F.coalesce("closed_on", F.when(early_counts, F.col("_early_on")), F.last_day(MONTH)).alias(
            "closed_on"
        ),
        F.coalesce("reason", F.when(early_counts, F.col("_early_reason"))).alias("reason"),
        F.coalesce("_reported", "kind").alias("kind"),
        "then",
        F.coalesce("own", F.lit(False)).alias("own"),
        "opened_on",
        (_months_apart("then", MONTH) - 1).alias("service_gap"),
        (_months_apart("paid", MONTH) - 1).alias("paid_gap"),
        (goes_on & F.coalesce("retroactive", F.lit(False))).alias("late"),
        goes_on.alias("_goes_on"),
        F.col("closed_on").isNotNull().alias("_told"),
        "through",
    )
    days = F.date_diff("opened_on", "closed_on")
    # On another case from the day after the closure: the household was moved, not closed.
    reopened = F.coalesce(days > F.when(F.col("own"), 0).otherwise(1), F.lit(False))
    left = ~F.col("late") & (~F.col("_goes_on") | (F.col("_told") & reopened))
    returned = F.when(left & F.col("then").isNotNull(), F.when(days > 0, F.col("opened_on")))
    returned = F.coalesce(returned, F.when(left, F.col("then")))
    return joined.select(
        CASE, MONTH, "closed_on", "reason", "kind", returned.alias("returned_on"),
        "service_gap", "paid_gap", "late", left.alias("left"), "through",
    )  # fmt: skip


def events(definition: Definition, found: DataFrame) -> DataFrame:
    """The exits that `definition` counts, with `churned`: NULL while the window is open.

    `found` is of `exits`. An early return in an open window is NULL too: else only those who come
    back would be told of. Who died or was disqualified is no leaver here.
    """
    kind, reason = F.col("kind"), F.coalesce("reason", F.lit(""))
    counts = {
        "a month off": F.coalesce(F.col("service_gap") > 0, F.lit(True)),
        "administrative": kind.isNotNull() & reason.isin(PROCEDURAL, AGENCY),
        "check-in month": kind.isNotNull(),
        "not recertified": (kind == RECERTIFICATION) & (reason == PROCEDURAL),
    }[definition.exit]
    within = {
        "months off": F.col("service_gap") <= definition.window,
        "days": F.date_diff("returned_on", "closed_on") <= definition.window,
        "calendar months": _months_apart("returned_on", "closed_on") <= definition.window,
    }[definition.unit]
    settled = F.col("through") >= settles(definition, F.col("closed_on"), F.col(MONTH))
    return found.where(F.col("left") & counts & ~reason.isin(*NOT_CHURN)).withColumn(
        "churned", F.when(settled, F.coalesce(within, F.lit(False)))
    )


def settles(definition: Definition, day: Column, month: Column | None = None) -> Column:
    """The month whose report closes the window of an exit on `day`, the last month served being
    `month` (without it, the day's)."""
    own = F.trunc(day, "month")
    if definition.unit == "days":
        return F.trunc(F.date_add(day, definition.window), "month")
    if definition.unit == "months off":
        return F.add_months(own if month is None else month, definition.window + 1)
    return F.add_months(own, definition.window)


# --- rates ---------------------------------------------------------------------------------------


def per_case_year(churn: DataFrame, served: DataFrame) -> DataFrame:
    """year, cases, churned, rate: of the cases served in a calendar year, those with an exit in it
    that was churn, once however often (Food and Nutrition Service's rate).

    A case-year without churn and with an open window is left out of both.
    """
    own = churn.groupBy(CASE, F.year(MONTH).alias("year")).agg(
        F.max(F.col("churned").cast("int")).alias("churned"),
        F.max(F.col("churned").isNull().cast("int")).alias("open"),
    )
    years = served.select(CASE, F.year(MONTH).alias("year")).distinct()
    told = years.join(own, [CASE, "year"], "left").where(
        (F.col("churned") == 1) | (F.coalesce("open", F.lit(0)) == 0)
    )
    return _rate(told, "year", "cases")


def per_checkin(
    definition: Definition, churn: DataFrame, checkins: DataFrame, *, through: date
) -> DataFrame:
    """month (due), checkins, churned, rate: of the check-ins whose window is closed by the report
    of the month `through`, those that ended in churn."""
    due = checkins.select(CASE, "due_on").distinct()
    due = due.where(settles(definition, F.col("due_on")) <= F.lit(through))
    due = due.select(CASE, F.trunc("due_on", "month").alias(MONTH))
    ended = churn.select(CASE, MONTH, "churned", F.col("churned").isNull().alias("_open"))
    told = due.join(ended, [CASE, MONTH], "left").where(~F.coalesce("_open", F.lit(False)))
    return _rate(told, MONTH, "checkins")


def per_leaver(churn: DataFrame) -> DataFrame:
    """month (the last one served), leavers, churned, rate: of those who left, who came back."""
    return _rate(churn.where(F.col("churned").isNotNull()), MONTH, "leavers")


def processing(checkins: DataFrame, *, as_of: date) -> DataFrame:
    """month (due), kind, timely, untimely, late, not_renewed: check-ins by how they were processed.

    The four columns of California's form CF 18: submitted by the 15th of the month due; by its end;
    within thirty days after it; else, or when no benefit came of it within those days, not renewed.
    Only months whose following month was reported by `as_of`: returns show there. Form CF 18 has an
    earlier day for interim reports (SAR 7); the 15th is the federal day of recertifications.
    """
    known = checkins.where(F.col(KNOWN_ON) <= F.lit(as_of))
    facts = F.struct("kind", "form_received_on", "decision", "reinstated_on")
    newest = known.groupBy(CASE, "due_on").agg(F.max_by(facts, "report_month").alias("it"))
    last = known.agg(F.max("report_month").alias("through"))
    month = F.trunc("due_on", "month")
    settled = newest.join(F.broadcast(last)).where(month < F.col("through"))
    late_until = F.date_add("due_on", LATE_DAYS)
    form, again = F.col("it.form_received_on"), F.col("it.reinstated_on")
    renewed = F.coalesce(F.col("it.decision").isin("approved", "approved_late"), F.lit(False))
    renewed |= F.coalesce(again <= late_until, F.lit(False))
    outcome = (
        F.when(~renewed | form.isNull() | (form > late_until), "not_renewed")
        .when(form > F.col("due_on"), "late")
        .when(form > F.date_add(month, TIMELY_DAY - 1), "untimely")
        .otherwise("timely")
    )
    told = settled.select(month.alias(MONTH), F.col("it.kind").alias("kind"), outcome.alias("_"))
    names = ("timely", "untimely", "late", "not_renewed")
    return told.groupBy(MONTH, "kind").agg(*[F.count_if(F.col("_") == n).alias(n) for n in names])


def _rate(told: DataFrame, by: str, of: str) -> DataFrame:
    """by, the count of rows named `of`, churned, rate (0 to 1)."""
    churned = F.sum(F.coalesce(F.col("churned").cast("int"), F.lit(0)))
    counted = told.groupBy(by).agg(F.count(F.lit(1)).alias(of), churned.alias("churned"))
    return counted.withColumn("rate", F.col("churned") / F.col(of))


# --- parts ---------------------------------------------------------------------------------------


def _newest(cases: DataFrame) -> DataFrame:
    """One row a case and month: what the file that is known last says."""
    facts = [name for name in sorted(COLUMNS[CASES]) if name != MONTH]
    newest = cases.groupBy(CASE, MONTH).agg(F.max_by(F.struct(*facts), KNOWN_ON).alias("it"))
    return newest.select(CASE, MONTH, "it.*")


def _zero_months(newest: DataFrame) -> DataFrame:
    """Months of cases that are open with a benefit of 0."""
    return newest.where((F.col("status") == "A") & (F.col("benefit_amount") == 0)).select(
        CASE, MONTH
    )


def _closures(cases: DataFrame) -> DataFrame:
    """study_case_id, month (of the closure), closed_on, reason: the last closure of each month."""
    told = _newest(cases).where(F.col("closed_on").isNotNull())
    last = F.max(F.struct("closed_on", MONTH, "closure_reason")).alias("it")
    return (
        told.groupBy(CASE, F.trunc("closed_on", "month").alias("_month"))
        .agg(last)
        .select(
            CASE,
            F.col("_month").alias(MONTH),
            "it.closed_on",
            F.col("it.closure_reason").alias("reason"),
        )
    )


def _next_on(ends: DataFrame, members: DataFrame, months: DataFrame) -> DataFrame:
    """Of each case and month of `ends`: `then`, the first later month of `months` in which the
    household is on; whether by its `own` case; that month's opened_on and retroactive."""
    keys = ends.select(CASE, MONTH)
    later = months.withColumnRenamed(MONTH, "then")
    own = (
        keys.join(later, CASE)
        .where(F.col("then") > F.col(MONTH))
        .select(CASE, MONTH, "then", F.lit(True).alias("own"), "opened_on", "retroactive")
    )
    people = keys.join(members, [CASE, MONTH])
    size = people.groupBy(CASE, MONTH).agg(F.count(F.lit(1)).alias("_size"))
    carried = members.join(months, [CASE, MONTH]).select(
        PERSON,
        F.col(CASE).alias("_by"),
        F.col(MONTH).alias("then"),
        "opened_on",
        "retroactive",
    )
    by_others = (
        people.join(carried, PERSON)
        .where((F.col("then") > F.col(MONTH)) & (F.col("_by") != F.col(CASE)))
        .groupBy(CASE, MONTH, "then")
        .agg(
            F.count_distinct(PERSON).alias("_people"),
            F.min("opened_on").alias("opened_on"),
            F.min("retroactive").alias("retroactive"),
        )
        .join(size, [CASE, MONTH])
        .where(2 * F.col("_people") >= F.col("_size"))
        .select(CASE, MONTH, "then", F.lit(False).alias("own"), "opened_on", "retroactive")
    )
    # The earliest month; of two ways in it the household's own case.
    order = F.struct("then", (~F.col("own")).alias("_other"))
    facts = F.struct("then", "own", "opened_on", "retroactive")
    first = own.unionByName(by_others).groupBy(CASE, MONTH)
    return first.agg(F.min_by(facts, order).alias("it")).select(CASE, MONTH, "it.*")


def _months_apart(later: str, earlier: str) -> Column:
    """Whole calendar months from one day's month to another's."""
    first, second = F.trunc(earlier, "month"), F.trunc(later, "month")
    return F.round(F.months_between(second, first)).cast("int")
