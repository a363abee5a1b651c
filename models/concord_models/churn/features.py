"""Features of a check-in as of a day before it falls due, in blocks. Pure functions over a study.

A row is (study_case_id, due_on, as_of, ...). Each table becomes facts, whose `_known_on` decides
what a row sees (concord_models.point_in_time); when something happened only places it in a window.
All rows, as of however many days, are one query. A block that no name asks for is not computed, and
`columns` does not ask for what it would read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from concord.products.populations import PROCEDURAL
from concord.studies.tables import KNOWN_ON
from concord_models.churn.blocks import (
    CARD,
    CASES,
    CHECKINS,
    CLAIMS,
    CONTACTS,
    OFFICE,
    PERSON,
    PERSONS,
    SIX_MONTHS,
    TWENTY_MONTHS,
    WAGES,
    audited,
    block_of,
    parted,
)
from concord_models.churn.cohort import AS_OF, CASE, DUE, KEY
from concord_models.churn.definitions import AGENCY
from concord_models.churn.outreach import OUTREACH
from concord_models.point_in_time import (
    HAPPENED,
    KIND,
    UNTIL,
    Facts,
    How,
    Measure,
    as_known,
    spans,
    within,
)


def sampled(tables: Mapping[str, DataFrame], every: int) -> dict[str, DataFrame]:
    """A study's tables with one in so many cases, drawn by their pseudonyms, and their people."""
    drawn = F.pmod(F.xxhash64(CASE), F.lit(every)) == 0
    own = {name: table.where(drawn) for name, table in tables.items() if CASE in table.columns}
    if len(own) == len(tables):
        return own
    people = F.broadcast(own[PERSONS].select(PERSON).distinct())
    others = {n: t.join(people, PERSON, "left_semi") for n, t in tables.items() if n not in own}
    return {**own, **others}


# --- features ------------------------------------------------------------------------------------


def features(
    rows: DataFrame,
    tables: Mapping[str, DataFrame],
    names: Sequence[str],
    *,
    audit: Sequence[str] = (),
) -> DataFrame:
    """`rows` (cohort.open_checkins) with the named features as doubles, NULL where unknown, the
    case's office, and for each group to audit by a text `_audit_<name>` (`audited`).

    `tables` are the study's, by `<feed>.<table>`, with at least `columns(names)`.
    """
    wanted = {name: parted(name) for name in names}
    blocks = {block for name in names if (block := block_of(name))}
    recipe = _Recipe()
    _of_case(recipe, tables, blocks)
    if "history" in blocks:
        _of_history(recipe, tables[CHECKINS])
    if blocks & {"household", "claims", "wages"} or audit:
        _of_people(recipe, tables, blocks, audit)
    if "contacts" in blocks:
        _of_contacts(recipe, tables[CONTACTS])
    if "card" in blocks:
        _of_card(recipe, tables[CARD])
    _of_checkin(recipe)
    made = {name: recipe.made[own](days) for name, (own, days) in wanted.items()
            if block_of(name) != "office"}  # fmt: skip
    groups = {audited(name): recipe.made[audited(name)](0) for name in audit}
    measures = {m.name: m for each in [*made.values(), *groups.values()] for m in each.measures}
    measures["_office"] = Measure("_office", "months", "text", OFFICE, days=SIX_MONTHS)
    found = as_known(rows, CASE, recipe.facts, list(measures.values()))
    told = found.select(
        *KEY,
        AS_OF,
        F.col("_office").alias(OFFICE),
        *(each.value.cast("double").alias(name) for name, each in made.items()),
        *(F.coalesce(each.value, F.lit("unknown")).alias(n) for n, each in groups.items()),
    )
    if "office" in blocks:
        days = rows.select(AS_OF).distinct()
        told = _with_office(told, days, tables, {n: w for n, w in wanted.items() if n not in made})
    return told.select(*KEY, AS_OF, OFFICE, *names, *groups)


@dataclass(frozen=True)
class _Made:
    """A feature: the measures that it needs, and its value made of them."""

    measures: tuple[Measure, ...]
    value: Column


@dataclass(frozen=True)
class _Recipe:
    """Facts by name, and each feature as a function of its window."""

    facts: dict[str, Facts] = field(default_factory=dict)
    made: dict[str, Callable[[int], _Made]] = field(default_factory=dict)

    def measured(
        self, name: str, of: str, how: How, value: str = "", kinds: tuple[str, ...] = (),
        days: int = 0,
    ) -> None:  # fmt: skip
        """A feature that is one measure: within its own window, if it has one, else within
        `days`."""

        def one(own: int) -> _Made:
            m = Measure(name.format(days=own), of, how, value, kinds, own or days)
            return _Made((m,), F.col(m.name))

        self.made[name] = one

    def derived(self, name: str, value: Callable[..., Column], *measures: Measure) -> None:
        """A feature made of measures: `value` gets their columns, in order. A measure of -1 days
        gets the feature's window."""

        def several(own: int) -> _Made:
            found = tuple(
                Measure(f"{m.name}_{own}", m.of, m.how, m.value, m.kinds, own) if m.days < 0 else m
                for m in measures
            )
            return _Made(found, value(*(F.col(m.name) for m in found)))

        self.made[name] = several


def _of_checkin(recipe: _Recipe) -> None:
    """What the newest report of the check-in itself says: it stands in the rows."""
    found = {
        "is_recertification": F.col("kind") == "recertification",
        "days_since_mailed": F.date_diff(AS_OF, "form_mailed_on"),
        "form_received": F.col("form_received_on").isNotNull(),
        "proofs_received": F.col("proofs_received_on").isNotNull(),
        "interview_held": F.col("interview_on").isNotNull(),
        "days_until_due": F.date_diff(DUE, AS_OF),
    }
    for name, value in found.items():
        recipe.derived(name, lambda own=value: own)


def _of_history(recipe: _Recipe, reports: DataFrame) -> None:
    """Earlier check-ins of the case: how many, how they ended, how soon the form came."""
    reason = F.coalesce("closure_reason", F.lit(""))
    told = reports.select(
        CASE,
        DUE,
        "report_month",
        # An earlier check-in is over on the day after it fell due.
        F.date_add(DUE, 1).alias(HAPPENED),
        KNOWN_ON,
        reason.alias(KIND),
        (reason == PROCEDURAL).cast("int").alias("procedural"),
        F.date_diff("form_received_on", "form_mailed_on").alias("responded"),
        F.col("reinstated_on").isNotNull().cast("int").alias("returned"),
    )
    values = ("procedural", "responded", "returned")
    recipe.facts["checkins"] = Facts(told, values, identity=(DUE,), order="report_month")
    recipe.measured("earlier_checkins", "checkins", "count")
    recipe.measured("earlier_procedural", "checkins", "count", kinds=(PROCEDURAL,))
    recipe.measured("share_procedural", "checkins", "mean", "procedural")
    recipe.measured("last_procedural", "checkins", "last", "procedural")
    recipe.measured("last_days_to_respond", "checkins", "last", "responded")
    recipe.measured("mean_days_to_respond", "checkins", "mean", "responded")
    recipe.measured("earlier_agency_delays", "checkins", "count", kinds=(AGENCY,))
    recipe.measured("earlier_returns", "checkins", "sum", "returned")
    recipe.measured("days_since_procedural", "checkins", "since", kinds=(PROCEDURAL,))
    recipe.measured("procedural_{days}", "checkins", "count", kinds=(PROCEDURAL,))


def _of_case(recipe: _Recipe, tables: Mapping[str, DataFrame], blocks: set[str]) -> None:
    """The case's newest known month, and what changed in the six months up to it."""
    base: list[str | Column] = [CASE, F.col("month").alias(HAPPENED), KNOWN_ON, OFFICE]
    texts: tuple[str, ...] = (OFFICE,)
    if blocks & {"case", "household"}:
        base.append("language_standard")
        texts = (OFFICE, "language_standard")
    if "case" not in blocks:
        months = Facts(tables[CASES].select(*base), texts=texts, identity=(HAPPENED,))
        recipe.facts["months"] = months
        return
    certification, way = F.col("certification_type"), F.col("channel")
    amounts = ("earned_income", "unearned_income", "shelter_cost", "benefit_amount")
    values = {
        "opened": F.unix_date("opened_on"),
        "certified": F.unix_date("certification_start"),
        "is_elder_disabled_certification": certification == "36_month_elder_disabled",
        "is_interim_certification": certification == "12_month_interim",
        "household_size": F.col("household_size"),
        "children_under_18": F.col("children_under_18"),
        "children_under_6": F.col("children_under_6"),
        "elder_or_disabled": F.col("elder_or_disabled"),
        "language_not_english": F.col("language_standard") != "eng",
        "by_paper": way == "paper",
        "by_phone": way == "phone",
        "by_office": way == "office",
        "text_consent": F.col("text_consent"),
        **{name: F.col(name) for name in amounts},
        # A place is a number only to tell it from another.
        "place": F.conv(F.substring(F.md5("zip"), 1, 8), 16, 10),
    }
    told = tables[CASES].select(*base, *(v.cast("double").alias(n) for n, v in values.items()))
    recipe.facts["months"] = Facts(told, tuple(values), texts, identity=(HAPPENED,))
    for name in values:
        recipe.measured(name, "months", "last", name, days=SIX_MONTHS)

    def of(how: How, value: str) -> Measure:
        return Measure(f"_{how}_{value}", "months", how, value, days=SIX_MONTHS)

    as_of = F.unix_date(AS_OF)
    recipe.derived("tenure_days", lambda day: as_of - day, of("last", "opened"))
    recipe.derived("certified_days", lambda day: as_of - day, of("last", "certified"))
    earned, mean = of("last", "earned_income"), of("mean", "earned_income")
    recipe.derived("earnings_volatility", _by_mean, of("spread", "earned_income"), mean)
    recipe.derived("earnings_change", _against, earned, mean)
    recipe.measured("earnings_trend", "months", "slope", "earned_income", days=SIX_MONTHS)
    benefit = of("last", "benefit_amount"), of("mean", "benefit_amount")
    recipe.derived("benefit_change", _against, *benefit)
    recipe.derived(
        "shelter_share",
        lambda shelter, earned, other: F.when(
            F.coalesce(earned, F.lit(0)) + F.coalesce(other, F.lit(0)) > 0,
            shelter / (F.coalesce(earned, F.lit(0)) + F.coalesce(other, F.lit(0))),
        ),
        of("last", "shelter_cost"), earned, of("last", "unearned_income"),
    )  # fmt: skip
    size = of("last", "household_size"), of("first", "household_size")
    recipe.derived("household_size_change", lambda now, before: now - before, *size)
    recipe.derived("moved", lambda a, b: a != b, of("min", "place"), of("max", "place"))


def _by_mean(spread: Column, mean: Column) -> Column:
    return F.when(mean > 0, spread / mean).when(mean.isNotNull(), 0)


def _against(now: Column, mean: Column) -> Column:
    return F.when(mean > 0, now / mean - 1).when(mean.isNotNull(), 0)


def _of_people(
    recipe: _Recipe, tables: Mapping[str, DataFrame], blocks: set[str], audit: Sequence[str]
) -> None:
    """Who is in the household in the newest known month; their unemployment and their wages."""
    persons = tables[PERSONS].where(F.col(PERSON).isNotNull())
    if "household" in blocks or audit:
        _of_members(recipe, persons, audit)
        _of_groups(recipe, audit)
    if "household" in blocks:
        _of_household(recipe, persons)
    if blocks & {"claims", "wages"}:
        living = _living(persons)
        if "claims" in blocks:
            _of_claims(recipe, living, tables[CLAIMS])
        if "wages" in blocks:
            _of_wages(recipe, living, tables[WAGES])


def _living(persons: DataFrame) -> DataFrame:
    """study_case_id, study_person_id, KNOWN_ON, UNTIL: the days on which the household's newest
    known month has the person. Few rows to join a person's facts to, for households last."""
    newer = Window.partitionBy(CASE).orderBy(F.unix_date("month").desc())
    ended = F.min(KNOWN_ON).over(newer.rangeBetween(Window.unboundedPreceding, -1))
    members = persons.select(CASE, PERSON, KNOWN_ON, F.least(ended, _old()).alias(UNTIL))
    return spans(members, [CASE, PERSON])


def _old() -> Column:
    """The day from which a month's row tells nothing of who is in the household now."""
    return F.date_add("month", SIX_MONTHS + 1)


def _of_members(recipe: _Recipe, persons: DataFrame, audit: Sequence[str]) -> None:
    """The people of a month's household, with what the head's features and groups are made of."""
    disabled = F.when(F.col("disabled"), "disabled").when(~F.col("disabled"), "not disabled")
    groups = {"race": F.col("race"), "ethnicity": F.col("ethnicity"), "gender": F.col("gender"),
              "disabled": disabled}  # fmt: skip
    texts = {"language": F.col("language_standard")}
    texts |= {name: value for name, value in groups.items() if name in audit}
    told = persons.select(
        CASE, "month", F.col("month").alias(HAPPENED), KNOWN_ON, _old().alias(UNTIL), "birth_year",
        F.col("relationship").alias(KIND), *(value.alias(name) for name, value in texts.items()),
    )  # fmt: skip
    recipe.facts["members"] = Facts(
        told, ("birth_year",), tuple(texts), identity=(CASE,), order="month", together=True
    )


def _of_head(how: How, value: str) -> Measure:
    return Measure(f"_head_{value}", "members", how, value, ("self",))


def _of_household(recipe: _Recipe, persons: DataFrame) -> None:
    """The head's age and language, how many are grown up, who came and who left."""
    base = [CASE, PERSON, KNOWN_ON, "month", "birth_year"]
    grown = F.make_date(F.col("birth_year") + 18, F.lit(1), F.lit(1))
    adults = persons.select(*base, F.greatest("month", grown).alias(HAPPENED), _old().alias(UNTIL))
    recipe.facts["adults"] = Facts(
        adults, ("birth_year",), identity=(CASE,), order="month", together=True
    )
    seen = persons.select(*base, F.col("month").alias(HAPPENED))
    recipe.facts["seen"] = Facts(seen, identity=(PERSON,), order="month")
    recipe.facts["first_seen"] = Facts(seen, identity=(PERSON,), order="month", least=True)
    recipe.derived("head_age", lambda year: F.year(AS_OF) - year, _of_head("last", "birth_year"))
    recipe.derived(
        "head_language_differs",
        lambda own, case: own != case,
        _of_head("text", "language"),
        Measure("_language", "months", "text", "language_standard", days=SIX_MONTHS),
    )
    people = Measure("_people", "members", "count")
    recipe.derived("adults", lambda n, everyone: F.when(everyone > 0, n),
                   Measure("_adults", "adults", "count", "birth_year"), people)  # fmt: skip
    recipe.derived(
        "members_left_{days}",
        lambda seen, now: F.when(now > 0, F.greatest(seen - now, F.lit(0))),
        Measure("_seen", "seen", "count", days=-1), people,
    )  # fmt: skip
    recipe.measured("members_new_{days}", "first_seen", "count")


def _of_groups(recipe: _Recipe, audit: Sequence[str]) -> None:
    """The head's groups, to audit by."""

    def band(year: Column) -> Column:
        age = F.year(AS_OF) - year
        return (
            F.when(age < 30, "under 30")
            .when(age < 45, "30 to 44")
            .when(age < 60, "45 to 59")
            .when(age >= 60, "60 and over")
        )

    for name in audit:
        if name == "age_band":
            recipe.derived(audited(name), band, _of_head("last", "birth_year"))
        else:
            recipe.derived(audited(name), lambda own: own, _of_head("text", name))


def _of_contacts(recipe: _Recipe, contacts: DataFrame) -> None:
    about = F.coalesce(F.col("topic").startswith("checkin"), F.lit(False)).cast("int")
    # An outreach call may follow from a score: it is no feature of the next.
    own = contacts.where(F.col("contact_kind") != OUTREACH)
    told = own.select(CASE, F.col("contact_on").alias(HAPPENED), KNOWN_ON,
                           F.col("contact_kind").alias(KIND), about.alias("about"))  # fmt: skip
    recipe.facts["contacts"] = Facts(told, ("about",))
    asked = ("call_in", "portal_login", "office_visit")
    recipe.measured("contacts_{days}", "contacts", "count")
    recipe.measured("asked_{days}", "contacts", "count", kinds=asked)
    kinds = {"calls": "call_in", "logins": "portal_login", "visits": "office_visit",
             "reminders": "text_out", "returned_mail": "returned_mail"}  # fmt: skip
    for name, kind in kinds.items():
        recipe.measured(f"{name}_{{days}}", "contacts", "count", kinds=(kind,))
    recipe.measured("checkin_contacts_{days}", "contacts", "sum", "about")
    recipe.measured("contacts_change_{days}", "contacts", "change")
    recipe.measured("days_since_asked", "contacts", "since", kinds=asked)
    recipe.measured("days_since_returned_mail", "contacts", "since", kinds=("returned_mail",))


def _of_card(recipe: _Recipe, events: DataFrame) -> None:
    told = events.select(CASE, F.col("event_on").alias(HAPPENED), KNOWN_ON,
                         F.col("event_kind").alias(KIND), "amount")  # fmt: skip
    recipe.facts["card"] = Facts(told, ("amount",))
    bought = ("purchase",)
    recipe.measured("purchases_{days}", "card", "count", kinds=bought)
    recipe.measured("spent_{days}", "card", "sum", "amount", bought)
    recipe.measured("declined_{days}", "card", "count", kinds=("declined",))
    recipe.measured("inquiries_{days}", "card", "count", kinds=("balance_inquiry",))
    recipe.measured("purchases_change_{days}", "card", "change", kinds=bought)
    recipe.measured("spent_change_{days}", "card", "change", "amount", bought)
    recipe.measured("days_since_card_use", "card", "since", kinds=bought, days=180)


def _of_claims(recipe: _Recipe, living: DataFrame, claims: DataFrame) -> None:
    """Weeks of unemployment that people of the household claimed."""
    told = claims.select(
        PERSON,
        F.col("week_ending").alias(HAPPENED),
        F.greatest(KNOWN_ON, "filed_on").alias(KNOWN_ON),
        "benefit_amount",
    )
    recipe.facts["claims"] = Facts(within(told, living, PERSON), ("benefit_amount",))
    recipe.measured("ui_claims_{days}", "claims", "count")
    recipe.measured("ui_benefits_{days}", "claims", "sum", "benefit_amount")
    recipe.measured("days_since_claim", "claims", "since")


def _of_wages(recipe: _Recipe, living: DataFrame, wages: DataFrame) -> None:
    """Wages of the household's people, by quarter and as known: they come months late."""
    year, number = F.substring("quarter", 1, 4), F.substring("quarter", 6, 1)
    begin = F.make_date(year.try_cast("int"), number.try_cast("int") * 3 - 2, F.lit(1))
    paid = wages.select(PERSON, begin.alias(HAPPENED), KNOWN_ON, "wages")
    recipe.facts["quarters"] = Facts(within(paid, living, PERSON), ("wages",), total=True)
    last = Measure("_last_wages", "quarters", "last", "wages")
    mean = Measure("_mean_wages", "quarters", "mean", "wages", days=TWENTY_MONTHS)
    spread = Measure("_spread_wages", "quarters", "spread", "wages", days=TWENTY_MONTHS)
    recipe.derived("wages_last_quarter", lambda wages: wages, last)
    recipe.derived("wages_change", _against, last, mean)
    recipe.derived("wages_volatility", _by_mean, spread, mean)
    recipe.measured("quarters_worked", "quarters", "above", "wages", days=TWENTY_MONTHS)


def _with_office(
    rows: DataFrame,
    days: DataFrame,
    tables: Mapping[str, DataFrame],
    wanted: Mapping[str, tuple[str, int]],
) -> DataFrame:
    """Adds how many check-ins of a list fall due together, and how the office's earlier ones ended
    as far as it is known."""
    if "due_at_office" in wanted:
        load = F.count(F.lit(1)).over(Window.partitionBy(OFFICE, DUE, AS_OF))
        rows = rows.withColumn("due_at_office", load.cast("double"))
    measures = [
        Measure(name, "ended", "count", days=days)
        if own.startswith("office_checkins")
        else Measure(name, "ended", "mean", "procedural", days=days)
        for name, (own, days) in wanted.items()
        if days
    ]
    if not measures:
        return rows
    # The office that was told of first: a case's month is corrected late, if at all.
    offices = (
        tables[CASES]
        .groupBy(CASE, "month")
        .agg(F.min_by(OFFICE, KNOWN_ON).alias(OFFICE), F.min(KNOWN_ON).alias("_known"))
    )
    month = F.trunc(DUE, "month")
    procedural = (F.coalesce("closure_reason", F.lit("")) == PROCEDURAL).cast("int")
    ended = tables[CHECKINS].where(F.col("report_month") >= month)
    told = ended.withColumn("month", month).join(offices, [CASE, "month"], "inner")
    own = told.select(CASE, DUE, OFFICE, "report_month", F.col(DUE).alias(HAPPENED),
                      F.greatest(KNOWN_ON, "_known").alias(KNOWN_ON),
                      procedural.alias("procedural"))  # fmt: skip
    facts = Facts(own, ("procedural",), identity=(CASE, DUE), order="report_month")
    # Every office on every day: few rows, and what made `rows` is not made twice to tell which.
    each = tables[CASES].select(OFFICE).distinct().crossJoin(days)
    found = as_known(each, OFFICE, {"ended": facts}, measures)
    return rows.join(F.broadcast(found), [OFFICE, AS_OF], "left")
