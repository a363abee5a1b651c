"""Features of a check-in as of a day before it falls due. Pure functions DataFrame -> DataFrame.

Every function takes `rows` (study_case_id, due_on, as_of, ...) and one table of the study, looks at
the table's rows whose `_known_on` is not after the row's as-of day, and gives columns by
(study_case_id, due_on). When something happened does not matter before it was known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from concord.studies.tables import KNOWN_ON
from concord_models.churn import cohort
from concord_models.churn.cohort import AS_OF, CASE, DUE, KEY
from concord_models.churn.outreach import OUTREACH

PERSON = "study_person_id"
OFFICE = "office"

# Columns of each curated table that features and audit read: what the agreement is asked for.
COLUMNS: Mapping[str, frozenset[str]] = {
    "dta_snap.checkins": cohort.COLUMNS,
    "dta_snap.cases": frozenset(
        {
            "month",
            "office",
            "zip",
            "household_size",
            "children_under_18",
            "children_under_6",
            "elder_or_disabled",
            "language_standard",
            "certification_type",
            "certification_start",
            "channel",
            "text_consent",
            "earned_income",
            "unearned_income",
            "shelter_cost",
            "benefit_amount",
            "opened_on",
        }
    ),
    "dta_snap.persons": frozenset({"month", "relationship", "birth_year", "language_standard"}),
    "dta_snap.contacts": frozenset({"contact_on", "contact_kind"}),
    "dta_snap.ebt_events": frozenset({"event_on", "event_kind"}),
    "dua_wages.wages": frozenset({"quarter", "wages"}),
    "dua_claims.claims": frozenset({"filed_on", "week_ending"}),
}
# Read besides, to audit a model that is trained; a score needs none of it.
AUDIT_COLUMNS: Mapping[str, frozenset[str]] = {
    "dta_snap.persons": frozenset({"gender", "race", "ethnicity", "disabled"})
}
AUDIT = ("race", "ethnicity", "gender", "language", "age_band", "disabled")


@dataclass(frozen=True)
class Feature:
    """A feature in words that a caseworker reads as a reason. `kind` says how to show a value."""

    words: str
    kind: str = "number"


FEATURES: Mapping[str, Feature] = {
    "is_recertification": Feature("the check-in is a recertification", "flag"),
    "days_since_mailed": Feature("days since the form was mailed"),
    "form_received": Feature("the form has come", "flag"),
    "proofs_received": Feature("the proofs have come", "flag"),
    "interview_held": Feature("the interview was held", "flag"),
    "due_at_office": Feature("check-ins due at the office that day"),
    "earlier_checkins": Feature("earlier check-ins on file"),
    "earlier_procedural": Feature("earlier closures for want of paperwork"),
    "share_procedural": Feature("share of earlier check-ins closed for want of paperwork", "share"),
    "last_procedural": Feature("closed for want of paperwork the last time", "flag"),
    "last_days_to_respond": Feature("days from mailing to the form the last time"),
    "earlier_agency_delays": Feature("earlier delays by the agency"),
    "tenure_days": Feature("days on SNAP without a break"),
    "certified_days": Feature("days since the certification began"),
    "is_elder_disabled_certification": Feature("certified for 36 months", "flag"),
    "is_interim_certification": Feature("certified for 12 months with an interim report", "flag"),
    "household_size": Feature("people in the household"),
    "children_under_18": Feature("children under 18"),
    "children_under_6": Feature("children under 6"),
    "elder_or_disabled": Feature("an elder or disabled household", "flag"),
    "language_not_english": Feature("the household's language is not English", "flag"),
    "by_paper": Feature("reaches the agency on paper", "flag"),
    "by_phone": Feature("reaches the agency by phone", "flag"),
    "by_office": Feature("reaches the agency at the office", "flag"),
    "text_consent": Feature("can be reminded by text", "flag"),
    "earned_income": Feature("monthly earnings in dollars"),
    "unearned_income": Feature("monthly income beside work in dollars"),
    "shelter_cost": Feature("monthly cost of shelter in dollars"),
    "benefit_amount": Feature("monthly benefit in dollars"),
    "earnings_volatility": Feature("spread of earnings over six months, by their mean", "share"),
    "earnings_change": Feature("earnings against their mean over six months", "share"),
    "household_size_change": Feature("change of the household's size over six months"),
    "moved": Feature("moved within six months", "flag"),
    "head_age": Feature("age of the head of household"),
    "head_language_differs": Feature("the head's language is not the case's", "flag"),
    "adults": Feature("adults in the household"),
    "contacts_90": Feature("contacts within 90 days"),
    "asked_90": Feature("times the household called, came or logged in within 90 days"),
    "reminders_60": Feature("texts sent within 60 days"),
    "returned_mail_90": Feature("letters that came back within 90 days"),
    "purchases_60": Feature("card purchases within 60 days"),
    "days_since_card_use": Feature("days since the card was last used"),
    "declined_90": Feature("declined cards within 90 days"),
    "ui_claims_120": Feature("weeks of unemployment claimed within 120 days"),
    "wages_last_quarter": Feature("wages of the last known quarter in dollars"),
    "wages_change": Feature("wages of the last known quarter against the one before", "share"),
    "quarters_worked": Feature("quarters with wages of the last four known"),
}


def features(rows: DataFrame, tables: Mapping[str, DataFrame]) -> DataFrame:
    """`rows` (cohort.open_checkins) with all of FEATURES as doubles, NULL where unknown, and the
    case's office. `tables` are the study's, by `<feed>.<table>`."""
    keys = rows.select(*KEY, AS_OF)
    members = newest_members(keys, tables["dta_snap.persons"])
    parts = [
        of_history(keys, tables["dta_snap.checkins"]),
        of_case(keys, tables["dta_snap.cases"]),
        of_household(members),
        of_contacts(keys, tables["dta_snap.contacts"]),
        of_card(keys, tables["dta_snap.ebt_events"]),
        of_claims(members, tables["dua_claims.claims"]),
        of_wages(members, tables["dua_wages.wages"]),
    ]
    joined = reduce(lambda whole, part: whole.join(part, [*KEY], "left"), parts, of_checkin(rows))
    languages = F.when(
        F.col("_head_language").isNotNull() & F.col("_language").isNotNull(),
        F.col("_head_language") != F.col("_language"),
    )
    load = F.count(F.lit(1)).over(Window.partitionBy(OFFICE, DUE))
    joined = joined.withColumn("head_language_differs", languages).withColumn("due_at_office", load)
    counted = [name for name, feature in FEATURES.items() if name in COUNTED]
    joined = joined.fillna(0, subset=counted)
    chosen = [F.col(name).cast("double").alias(name) for name in FEATURES]
    return joined.select(*KEY, AS_OF, OFFICE, *chosen)


# Where nothing is on file the count is 0, not unknown.
COUNTED = frozenset(
    {
        "earlier_checkins",
        "earlier_procedural",
        "earlier_agency_delays",
        "contacts_90",
        "asked_90",
        "reminders_60",
        "returned_mail_90",
        "purchases_60",
        "declined_90",
        "ui_claims_120",
        "quarters_worked",
    }
)


def known(keys: DataFrame, table: DataFrame, on: str = CASE) -> DataFrame:
    """The table's rows that each row may know: of its case or person, known by its as-of day.

    A due day or case that the table has too gets the prefix `_its_`.
    """
    clashing = [name for name in (*KEY, AS_OF) if name in table.columns and name != on]
    own = table.select(
        *[F.col(c).alias(f"_its_{c}") if c in clashing else F.col(c) for c in table.columns]
    )
    return keys.join(own, on, "inner").where(F.col(KNOWN_ON) <= F.col(AS_OF))


def of_checkin(rows: DataFrame) -> DataFrame:
    """What the newest report of the check-in itself says."""
    return rows.select(
        *KEY,
        AS_OF,
        (F.col("kind") == "recertification").alias("is_recertification"),
        F.date_diff(AS_OF, "form_mailed_on").alias("days_since_mailed"),
        F.col("form_received_on").isNotNull().alias("form_received"),
        F.col("proofs_received_on").isNotNull().alias("proofs_received"),
        F.col("interview_on").isNotNull().alias("interview_held"),
    )


def of_history(keys: DataFrame, reports: DataFrame) -> DataFrame:
    """Earlier check-ins of the case: how many, how they ended, how soon the form came."""
    earlier = known(keys, reports).where(F.col(f"_its_{DUE}") < F.col(AS_OF))
    facts = F.struct("report_month", "closure_reason", "form_mailed_on", "form_received_on")
    each = earlier.groupBy(*KEY, f"_its_{DUE}").agg(F.max(facts).alias("report"))
    reason = F.coalesce(F.col("report.closure_reason"), F.lit(""))
    procedural = (reason == "checkin_not_completed").cast("int")
    responded = F.date_diff("report.form_received_on", "report.form_mailed_on")
    return each.groupBy(*KEY).agg(
        F.count(F.lit(1)).alias("earlier_checkins"),
        F.sum(procedural).alias("earlier_procedural"),
        F.avg(procedural).alias("share_procedural"),
        F.max_by(procedural, f"_its_{DUE}").alias("last_procedural"),
        F.max_by(responded, f"_its_{DUE}").alias("last_days_to_respond"),
        F.sum((reason == "agency_delay").cast("int")).alias("earlier_agency_delays"),
    )


def of_case(keys: DataFrame, cases: DataFrame) -> DataFrame:
    """The case's newest known month, and what changed in the six known months up to it."""
    rows = known(keys, cases).where(F.col("month") >= F.add_months(F.col(AS_OF), -7))
    amounts = ("earned_income", "unearned_income", "shelter_cost", "benefit_amount")
    facts = (
        OFFICE,
        "zip",
        "household_size",
        "children_under_18",
        "children_under_6",
        "elder_or_disabled",
        "language_standard",
        "certification_type",
        "certification_start",
        "channel",
        "text_consent",
        *amounts,
        "opened_on",
    )
    grouped = rows.groupBy(*KEY, AS_OF).agg(
        F.max_by(F.struct(*facts), "month").alias("now"),
        F.avg("earned_income").cast("double").alias("mean"),
        F.stddev_pop(F.col("earned_income").cast("double")).alias("spread"),
        F.min_by("household_size", "month").alias("size_before"),
        F.count_distinct("zip").alias("places"),
    )
    now = F.col("now.earned_income").cast("double")
    mean = F.col("mean")
    return grouped.select(
        *KEY,
        F.col(f"now.{OFFICE}").alias(OFFICE),
        F.date_diff(AS_OF, "now.opened_on").alias("tenure_days"),
        F.date_diff(AS_OF, "now.certification_start").alias("certified_days"),
        (F.col("now.certification_type") == "36_month_elder_disabled").alias(
            "is_elder_disabled_certification"
        ),
        (F.col("now.certification_type") == "12_month_interim").alias("is_interim_certification"),
        *[
            F.col(f"now.{name}").alias(name)
            for name in ("household_size", "children_under_18", "children_under_6")
        ],
        *[F.col(f"now.{name}").alias(name) for name in ("elder_or_disabled", "text_consent")],
        *[F.col(f"now.{name}").cast("double").alias(name) for name in amounts],
        F.col("now.language_standard").alias("_language"),
        (F.col("now.language_standard") != "eng").alias("language_not_english"),
        *[(F.col("now.channel") == way).alias(f"by_{way}") for way in ("paper", "phone", "office")],
        F.when(mean > 0, F.col("spread") / mean).otherwise(0).alias("earnings_volatility"),
        F.when(mean > 0, now / mean - 1).otherwise(0).alias("earnings_change"),
        (F.col("now.household_size") - F.col("size_before")).alias("household_size_change"),
        (F.col("places") > 1).alias("moved"),
    )


def newest_members(keys: DataFrame, persons: DataFrame) -> DataFrame:
    """Who is in the household in the newest known month: one row per check-in and person."""
    recent = known(keys, persons).where(F.col("month") >= F.add_months(F.col(AS_OF), -7))
    newest = F.max("month").over(Window.partitionBy(*KEY))
    return recent.withColumn("_newest", newest).where(F.col("month") == F.col("_newest"))


def of_household(members: DataFrame) -> DataFrame:
    """The head's age and language, and how many are grown up. Ages in the as-of day's year."""
    age = F.year(AS_OF) - F.col("birth_year")
    return members.groupBy(*KEY).agg(
        F.max(F.when(_is_head(), age)).alias("head_age"),
        F.min(F.when(_is_head(), F.col("language_standard"))).alias("_head_language"),
        F.sum((age >= 18).cast("int")).alias("adults"),
    )


def of_contacts(keys: DataFrame, contacts: DataFrame) -> DataFrame:
    rows = known(keys, contacts)
    kind = F.col("contact_kind")
    asked = kind.isin("call_in", "portal_login", "office_visit")
    return rows.groupBy(*KEY).agg(
        # An outreach call may follow from a score: it is no feature of the next.
        _times(_within("contact_on", 90) & (kind != OUTREACH)).alias("contacts_90"),
        _times(_within("contact_on", 90) & asked).alias("asked_90"),
        _times(_within("contact_on", 60) & (kind == "text_out")).alias("reminders_60"),
        _times(_within("contact_on", 90) & (kind == "returned_mail")).alias("returned_mail_90"),
    )


def of_card(keys: DataFrame, events: DataFrame) -> DataFrame:
    rows = known(keys, events).where(_within("event_on", 180))
    kind = F.col("event_kind")
    used = F.when(kind == "purchase", F.col("event_on"))
    return (
        rows.groupBy(*KEY, AS_OF)
        .agg(
            _times(_within("event_on", 60) & (kind == "purchase")).alias("purchases_60"),
            F.date_diff(F.col(AS_OF), F.max(used)).alias("days_since_card_use"),
            _times(_within("event_on", 90) & (kind == "declined")).alias("declined_90"),
        )
        .drop(AS_OF)
    )


def of_claims(members: DataFrame, claims: DataFrame) -> DataFrame:
    """Weeks of unemployment that people of the household claimed lately."""
    rows = known(members.select(*KEY, AS_OF, PERSON), claims, PERSON)
    lately = _within("week_ending", 120) & (F.col("filed_on") <= F.col(AS_OF))
    return rows.groupBy(*KEY).agg(_times(lately).alias("ui_claims_120"))


def of_wages(members: DataFrame, wages: DataFrame) -> DataFrame:
    """Wages of the household's people in the newest quarters known: they come months late."""
    rows = known(members.select(*KEY, AS_OF, PERSON), wages, PERSON)
    quarters = rows.groupBy(*KEY, "quarter").agg(F.sum(F.col("wages").cast("double")).alias("paid"))
    newest = quarters.groupBy(*KEY).agg(
        F.slice(F.sort_array(F.collect_list(F.struct("quarter", "paid")), asc=False), 1, 4).alias(
            "last"
        )
    )
    paid, before = F.try_element_at("last.paid", F.lit(1)), F.try_element_at("last.paid", F.lit(2))
    return newest.select(
        *KEY,
        paid.alias("wages_last_quarter"),
        F.when(before > 0, paid / before - 1).alias("wages_change"),
        F.size(F.filter("last", lambda quarter: quarter["paid"] > 0)).alias("quarters_worked"),
    )


def audit(keys: DataFrame, persons: DataFrame) -> DataFrame:
    """(study_case_id, due_on) with the head's groups, to audit by; else `unknown`."""
    members = newest_members(keys, persons)
    age = F.year(AS_OF) - F.col("birth_year")
    band = (
        F.when(age < 30, "under 30")
        .when(age < 45, "30 to 44")
        .when(age < 60, "45 to 59")
        .when(age >= 60, "60 and over")
    )
    groups = {
        "race": F.col("race"),
        "ethnicity": F.col("ethnicity"),
        "gender": F.col("gender"),
        "language": F.col("language_standard"),
        "age_band": band,
        "disabled": F.when(F.col("disabled"), "disabled").when(~F.col("disabled"), "not disabled"),
    }
    heads = members.groupBy(*KEY).agg(
        *[F.min(F.when(_is_head(), value)).alias(name) for name, value in groups.items()]
    )
    return keys.join(heads, [*KEY], "left").fillna("unknown", subset=list(AUDIT))


def _is_head() -> Column:
    return F.col("relationship") == "self"


def _within(day: str, days: int) -> Column:
    """Happened up to so many days before the as-of day, not after it."""
    return F.date_diff(AS_OF, F.col(day)).between(0, days)


def _times(condition: Column) -> Column:
    return F.count(F.when(condition, True))
