"""From curated rows to a study's rows: agreed rows, agreed columns, pseudonyms. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.agreements.dula import Dataset, RowFilter
from concord.ingest.manifest import first_day, last_day
from concord.lake import scd2
from concord.privacy import pseudonyms
from concord.privacy.pseudonyms import StudyKey
from concord.studies.sources import Arrival
from concord.studies.tables import KNOWN_ON, PERIOD, RECEIVED_ON, StudyTable, subject_columns

PERSON = "_person_id"


def agreed_rows(curated: DataFrame, dataset: Dataset, periods: Iterable[str]) -> DataFrame:
    """The curated rows that the agreement covers, people apart.

    `periods` are all that the feed has brought. Of a table with validity, versions that held on
    any of the agreed days.
    """
    if scd2.VALID_FROM in curated.columns:
        until = F.col(scd2.VALID_TO)
        inside = (F.col(scd2.VALID_FROM) <= F.lit(dataset.period_until)) & (
            until.isNull() | (until > F.lit(dataset.period_from))
        )
    else:
        inside = F.col(PERIOD).isin(*sorted(covered(dataset, periods)))
    met = reduce(lambda all_met, each: all_met & condition(each), dataset.rows, inside)
    return curated.where(met)


def covered(dataset: Dataset, periods: Iterable[str]) -> set[str]:
    """The business periods that lie wholly within the agreed days."""
    return {
        period
        for period in periods
        if dataset.period_from <= first_day(period) and last_day(period) <= dataset.period_until
    }


def condition(each: RowFilter) -> Column:
    """A row filter as a Spark condition; a missing value does not meet it."""
    column = F.col(each.column)
    values = [F.lit(value) for value in each.values]
    match each.operator:
        case "one_of":
            met = column.isin(*values)
        case "not_one_of":
            met = ~column.isin(*values)
        case "at_least":
            met = column >= values[0]
        case "at_most":
            met = column <= values[0]
        case "is_given":
            met = column.isNotNull()
    return F.coalesce(met, F.lit(False))


def identified(rows: DataFrame, crosswalk: DataFrame, record_id: str, person: str) -> DataFrame:
    """Adds the person of a record as `person`; NULL where the index knows none."""
    known = crosswalk.select(F.col("record_id").alias(record_id), F.col("person_id").alias(person))
    return rows.join(known, record_id, "left")


def of_people(rows: DataFrame, people: DataFrame, person: str) -> DataFrame:
    """Rows of the given people (one column, `person`), of nobody else."""
    return rows.join(people.select(person).distinct(), person, "left_semi")


def arrived(rows: DataFrame, arrivals: Sequence[Arrival]) -> DataFrame:
    """Adds when a row was received and from when on it counts as known."""
    if scd2.VALID_FROM in rows.columns:
        # A version of an SCD2 row speaks of the snapshot on whose day it begins.
        when, kind = scd2.VALID_FROM, pa.date32()
        spoken: list[Any] = [first_day(arrival.period) for arrival in arrivals]
    else:
        when, kind, spoken = PERIOD, pa.string(), [arrival.period for arrival in arrivals]
    listed = pa.table(
        {
            "_delivery_id": pa.array([a.delivery_id for a in arrivals], pa.string()),
            when: pa.array(spoken, kind),
            RECEIVED_ON: pa.array([a.received_on for a in arrivals], pa.date32()),
            KNOWN_ON: pa.array([a.known_on for a in arrivals], pa.date32()),
        }
    )
    # As Arrow it becomes a local relation, which needs no job of its own.
    days = F.broadcast(rows.sparkSession.createDataFrame(listed))
    return rows.join(days, ["_delivery_id", when], "left")


def pseudonymised(rows: DataFrame, study: StudyTable, key: StudyKey) -> DataFrame:
    """The table's rows: exactly its declared columns.

    `rows` hold `<person column>` beside each person's record id, as `identified` adds them.
    """
    chosen: list[Column] = []
    for subject, column in subject_columns(study):
        record = F.col(subject.record_id)
        if subject.kind == "person":
            made = pseudonyms.person(key, domain=study.domain)(F.col(person_of(column)), record)
        else:
            made = pseudonyms.entity(key, subject.role, domain=study.domain)(record)
        chosen.append(made.alias(column))
    for agreed in study.dataset.columns:
        value = F.col(agreed.name)
        if agreed.pseudonym:
            value = pseudonyms.row_number(key, study.dataset.table, agreed.name)(value)
        chosen.append(value.alias(agreed.name))
    named = {column for _, column in subject_columns(study)} | set(study.dataset.column_names)
    chosen += [F.col(name) for name in study.table.column_names if name not in named]
    return rows.select(*chosen)


@dataclass(frozen=True)
class SpokenOf:
    """Rows of whom or what a study's table speaks of in one of its columns, and how its pseudonym
    is made from them under a key."""

    what: str
    rows: DataFrame
    pseudonym: Callable[[StudyKey], Column]


def spoken_of(curated: DataFrame, known: DataFrame, study: StudyTable) -> Iterator[SpokenOf]:
    """All that could stand in the pseudonyms' columns of a study's table, whoever the index says,
    or said, a record to be. `known` has every `record_id` and `person_id` that ever held."""
    domain, table = study.domain, study.dataset.table
    record, person = F.col("record_id"), F.col("person_id")
    for subject, _ in subject_columns(study):
        records = curated.select(F.col(subject.record_id).alias("record_id")).distinct()
        if subject.kind == "person":

            def of_person(key: StudyKey) -> Column:
                return pseudonyms.person(key, domain=domain)(person, record)

            yield SpokenOf("person", records.join(known, "record_id", "left"), of_person)
            # Once, it may have had no person.
            alone = records.withColumn("person_id", F.lit(None).cast("string"))
            yield SpokenOf("person", alone, of_person)
        else:
            role = subject.role

            def of_entity(key: StudyKey, role: str = role) -> Column:
                return pseudonyms.entity(key, role, domain=domain)(record)

            yield SpokenOf(role, records, of_entity)
    for agreed in study.dataset.columns:
        if agreed.pseudonym:
            name = agreed.name

            def of_number(key: StudyKey, name: str = name) -> Column:
                return pseudonyms.row_number(key, table, name)(F.col(name))

            yield SpokenOf(f"{table}.{name}", curated.select(name), of_number)


def in_its_own_order(rows: DataFrame, column: str) -> DataFrame:
    """Rows of each file sorted by pseudonym: in the order of their source, two studies could be
    laid side by side and joined row by row."""
    return rows.sortWithinPartitions(column)


def person_of(column: str) -> str:
    """The working column that holds the person id behind a pseudonym's column."""
    return f"{PERSON}_{column}"


def without_person(record_id: str, person: str) -> Column:
    """Counts rows whose record the index knows no person for."""
    return F.count(F.when(F.col(record_id).isNotNull() & F.col(person).isNull(), True))
