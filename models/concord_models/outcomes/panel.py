"""The panel of an outcome study: one row per person and index quarter. Pure DataFrame functions.

A row is a person of working age who receives assistance in the last month before a quarter and has
not entered a programme before that quarter. Who enters (for the first time) in it is treated; who
does not is a comparison row, and may be one of several quarters. Quarters are numbers, year x 4 +
(quarter - 1); months year x 12 + (month - 1).

Everything is as known on one day (`_known_on`), the run's. What has not been reported by then is
NULL, never 0; and a comparison row's outcomes end where that person enters a programme.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.studies.tables import KNOWN_ON

PERSON, INDEX, TREATED, PROGRAMME = "study_person_id", "index_quarter", "treated", "programme"
RETURNED, RETURNED_TAFDC = "returned", "returned_tafdc"
# A year before entry: what earlier evaluations of training adjust for and compare with.
BEFORE = 4
EPISODES, WAGES = "masshire_training.episodes", "dua_wages.wages"
PERSONS, TAFDC = "dta_snap.persons", "dta_tafdc.members"

# Columns of each curated table that are read: what the agreement is asked for.
COLUMNS: Mapping[str, frozenset[str]] = {
    EPISODES: frozenset({"programme", "entry_on"}),
    WAGES: frozenset({"quarter", "wages"}),
    PERSONS: frozenset(
        {"month", "relationship", "disabled", "birth_year", "gender", "language_standard"}
    ),
    TAFDC: frozenset({"month"}),
}
# Covariates in words. All speak of the time before the index quarter.
COVARIATES: Mapping[str, str] = {
    **{f"earnings_{k}": f"earnings in quarter -{k}" for k in range(1, BEFORE + 1)},
    **{f"worked_{k}": f"wages in quarter -{k}" for k in range(1, BEFORE + 1)},
    "log_earnings_1": "log of earnings in quarter -1",
    "log_earnings_1_squared": "log of earnings in quarter -1, squared",
    "lost_work_1": "wages in quarter -2, none in -1",
    "lost_work_2": "wages in quarter -3, none in -2",
    "age": "age",
    "age_squared": "age, squared",
    "female": "female",
    "language_not_english": "language is not English",
    "disabled": "has a disability",
    "head": "head of the case",
    "assistance_share": "share of the year before on assistance",
    "tafdc_share": "share of the year before on cash assistance",
}


@dataclass(frozen=True)
class Extent:
    """Which rows and outcomes: ages in years, quarters of outcomes, of the return to assistance,
    and the share of comparison people (by a hash, so the same each time)."""

    least_age: int
    most_age: int
    after: int
    return_within: int
    comparison_share: float = 1.0


def panel(tables: Mapping[str, DataFrame], extent: Extent, as_of: date) -> DataFrame:
    """The rows, from the study's tables by `<feed>.<table>`.

    Columns: study_person_id, index_quarter, treated, programme (of the entry; NULL where none);
    COVARIATES; `earnings_before_<k>` and `earnings_after_<k>` in dollars, `returned` and
    `returned_tafdc` (1 or 0).
    """
    known = {name: rows.where(F.col(KNOWN_ON) <= F.lit(as_of)) for name, rows in tables.items()}
    entries = first_entries(known[EPISODES])
    whole = (
        base_rows(known[PERSONS], entries, extent)
        .join(earnings_of(known[WAGES]), PERSON, "left")
        .join(months_of(known[PERSONS], "_on"), PERSON, "left")
        .join(months_of(known[TAFDC], "_cash"), PERSON, "left")
        .crossJoin(F.broadcast(_reported(known[WAGES], quarter_of_name("quarter"), "_quarters")))
        .crossJoin(F.broadcast(_reported(known[PERSONS], month_of("month"), "_months")))
        .crossJoin(F.broadcast(_reported(known[TAFDC], month_of("month"), "_cash_months")))
        .crossJoin(F.broadcast(entries.agg(F.max("_entry").alias("_entries_until"))))
    )
    before = {f"earnings_before_{k}": _earned(-k) for k in range(1, BEFORE + 1)}
    after = {f"earnings_after_{k}": _open(_earned(k), k) for k in range(extent.after + 1)}
    within = extent.return_within
    # Nobody comes back who was not there.
    left = F.array_contains("_cash", (F.col(INDEX) * 3 - 1).cast("int"))
    cash = F.when(left, _returned("_cash", "_cash_months", within))
    returned = {
        RETURNED: _open(_returned("_on", "_months", within), within),
        RETURNED_TAFDC: _open(cash, within),
    }
    found = whole.withColumns({**before, **after, **returned})
    # A year before that is not wholly reported tells neither what was earned nor what to adjust.
    found = found.where(
        reduce(lambda a, b: a & b, [F.col(name).isNotNull() for name in before])
    ).withColumns(_covariates())
    kept = [PERSON, INDEX, TREATED, PROGRAMME, *COVARIATES, *before, *after, *returned]
    return found.select(*kept)


def quarter_of_name(column: str) -> Column:
    """The number of a quarter that is named such as 2024Q3."""
    return (
        F.substring(column, 1, 4).cast("int") * 4 + F.substring(column, 6, 1).cast("int") - 1
    ).cast("int")


def quarter_of(day: str) -> Column:
    return (F.year(day) * 4 + F.quarter(day) - 1).cast("int")


def month_of(day: str) -> Column:
    return (F.year(day) * 12 + F.month(day) - 1).cast("int")


def first_entries(episodes: DataFrame) -> DataFrame:
    """study_person_id, `_entry` (the quarter of the first entry), programme. Of two entries on one
    day the first by name counts."""
    first = F.min(F.struct("entry_on", PROGRAMME)).alias("first")
    return episodes.groupBy(PERSON).agg(first).select(
        PERSON, quarter_of("first.entry_on").alias("_entry"), f"first.{PROGRAMME}"
    )  # fmt: skip


def base_rows(persons: DataFrame, entries: DataFrame, extent: Extent) -> DataFrame:
    """Who is a row in which quarter, with what the month before says of the person.

    Only quarters in which someone of the panel enters: others have nobody to compare with.
    """
    last_month = F.month("month") % 3 == 0
    # Members of two cases in one month: one row, the head's first.
    facts = F.struct(
        (F.col("relationship") != "self").alias("not_head"),
        "birth_year", "gender", "language_standard", "disabled",
    )  # fmt: skip
    month = persons.where(last_month).groupBy(PERSON, "month").agg(F.min(facts).alias("f"))
    rows = month.select(
        PERSON, (quarter_of("month") + 1).alias(INDEX), F.col("f.not_head").alias("not_head"),
        "f.birth_year", "f.gender", "f.language_standard", "f.disabled",
    )  # fmt: skip
    age = F.floor(F.col(INDEX) / 4).cast("int") - F.col("birth_year")
    rows = (
        rows.withColumn("age", age.cast("double"))
        .where(F.col("age").between(extent.least_age, extent.most_age))
        .join(entries, PERSON, "left")
        .where(F.col("_entry").isNull() | (F.col("_entry") >= F.col(INDEX)))
        .withColumn(TREATED, F.coalesce(F.col("_entry") == F.col(INDEX), F.lit(False)))
    )
    if extent.comparison_share < 1:
        bucket = F.pmod(F.xxhash64(PERSON), F.lit(1_000_000)) / 1_000_000
        rows = rows.where(F.col(TREATED) | (bucket < extent.comparison_share))
    rows = rows.withColumn(PROGRAMME, F.when(F.col(TREATED), F.col(PROGRAMME)))
    entered = rows.where(TREATED).select(INDEX).distinct()
    return rows.join(F.broadcast(entered), INDEX, "left_semi")


def earnings_of(wages: DataFrame) -> DataFrame:
    """study_person_id, `_earned`: dollars by quarter, all employers together."""
    quarters = wages.groupBy(PERSON, quarter_of_name("quarter").alias("q")).agg(
        F.sum(F.col("wages").cast("double")).alias("dollars")
    )
    pairs = F.map_from_entries(F.collect_list(F.struct("q", "dollars")))
    return quarters.groupBy(PERSON).agg(pairs.alias("_earned"))


def months_of(members: DataFrame, name: str) -> DataFrame:
    """study_person_id, `name`: the months in which the person is listed."""
    return members.groupBy(PERSON).agg(F.collect_set(month_of("month")).alias(name))


def _reported(rows: DataFrame, period: Column, name: str) -> DataFrame:
    """One row: the periods that a file has come of."""
    return rows.agg(F.collect_set(period).alias(name))


def _earned(k: int) -> Column:
    """Dollars in quarter +k; 0 without a wage record, NULL where the quarter is not reported."""
    quarter = (F.col(INDEX) + k).cast("int")
    dollars = F.coalesce(F.try_element_at("_earned", quarter), F.lit(0.0))
    return F.when(F.array_contains("_quarters", quarter), dollars)


def _open(outcome: Column, k: int) -> Column:
    """An outcome of quarter +k, NULL for a comparison row whose person has entered by then, or may
    have: entries of that quarter are not reported."""
    quarter = F.col(INDEX) + k
    free = (F.col("_entries_until") >= quarter) & (
        F.col("_entry").isNull() | (F.col("_entry") > quarter)
    )
    return F.when(F.col(TREATED) | free, outcome)


def _returned(on: str, months: str, within: int) -> Column:
    """1 if a month `on` assistance follows a month off it, in quarters +1 to +within, else 0; NULL
    until all those `months` are reported."""
    first = ((F.col(INDEX) + 1) * 3).cast("int")
    last = ((F.col(INDEX) + within + 1) * 3 - 1).cast("int")
    reported = F.forall(F.sequence(first - 1, last), lambda month: F.array_contains(months, month))
    again = F.exists(
        F.sequence(first, last),
        lambda month: F.array_contains(on, month) & ~F.array_contains(on, (month - 1).cast("int")),
    )
    return F.when(reported, again.cast("double"))


def _covariates() -> dict[str, Column]:
    def earned(k: int) -> Column:
        return F.col(f"earnings_before_{k}")

    def flag(condition: Column) -> Column:
        return F.coalesce(condition, F.lit(False)).cast("double")

    logged = F.log(F.greatest(earned(1), F.lit(1.0)))
    year = F.sequence((F.col(INDEX) * 3 - 12).cast("int"), (F.col(INDEX) * 3 - 1).cast("int"))

    def share(on: str, months: str) -> Column:
        # NULL, and so 0, of who was never listed and of months that no file has come of.
        listed, reported = (F.size(F.array_intersect(each, year)) for each in (on, months))
        return F.coalesce(F.try_divide(listed, reported), F.lit(0.0))

    return {
        **{f"earnings_{k}": earned(k) for k in range(1, BEFORE + 1)},
        **{f"worked_{k}": flag(earned(k) > 0) for k in range(1, BEFORE + 1)},
        "log_earnings_1": logged,
        "log_earnings_1_squared": logged * logged,
        "lost_work_1": flag((earned(1) == 0) & (earned(2) > 0)),
        "lost_work_2": flag((earned(2) == 0) & (earned(3) > 0)),
        "age_squared": F.col("age") * F.col("age"),
        "female": flag(F.col("gender") == "female"),
        "language_not_english": flag(F.col("language_standard") != "eng"),
        "disabled": flag(F.col("disabled")),
        "head": flag(~F.col("not_head")),
        "assistance_share": share("_on", "_months"),
        "tafdc_share": share("_cash", "_cash_months"),
    }


def coverage(tables: Mapping[str, DataFrame], as_of: date) -> dict[str, str]:
    """What was reported by the day: first and last quarter of wages, month of SNAP and of TAFDC,
    and the last quarter with an entry. Empty texts where nothing was."""
    found = {}
    month = F.date_format("month", "yyyy-MM")
    for table, column, text in (
        (WAGES, "quarter", F.col("quarter")),
        (PERSONS, "month", month),
        (TAFDC, "tafdc_month", month),
        (EPISODES, "entry_on", F.concat(F.year("entry_on"), F.lit("Q"), F.quarter("entry_on"))),
    ):
        known = tables[table].where(F.col(KNOWN_ON) <= F.lit(as_of))
        first, last = known.agg(F.min(text), F.max(text)).collect()[0]
        found[f"{column}_from"], found[f"{column}_until"] = first or "", last or ""
    return found
