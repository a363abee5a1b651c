"""Values that stand for `unknown` and are on no list: found by who shares them.

A default birth date or an agency's own phone makes blocks of strangers and is evidence of nothing.
Values are in standard form; found ones become NULL as listed ones do (`added`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.linkage.standardise import SEPARATOR, Standards
from concord.linkage.values import Integers
from concord.settings import Typed

# Birth dates are judged by so many days before them, and as many after, but for the commonest.
WINDOW, TRIMMED = 30, 3
# By chance no more than one date in so many lakes is found.
CHANCE = 1e-6
EPOCH = date(1970, 1, 1)


class Search(Typed):
    """From when on a value is a placeholder; one that is left out is not looked for."""

    ssn_persons: int | None = Setting(
        default=None, gt=1, description="different names and birth dates under one SSN"
    )
    phone_families: int | None = Setting(
        default=None, gt=1, description="different family names under one phone"
    )
    email_families: int | None = Setting(
        default=None, gt=1, description="different family names under one address of email"
    )
    birth_times: float | None = Setting(
        default=None,
        gt=1,
        description="different names of one birth date, as a multiple of those of the days around",
    )
    birth_names: int = Setting(default=30, gt=1, description="and at least so many names")

    @property
    def looked_for(self) -> dict[str, int]:
        """Column -> how many others a value needs to be looked at."""
        return {
            column: least
            for column, least in (
                ("ssn", self.ssn_persons),
                ("phone", self.phone_families),
                ("emails", self.email_families),
                # A date is judged by those around it.
                ("birth", self.birth_times and 1),
            )
            if least
        }


# What must differ for two records to be of two persons, by the column of the value.
OTHERS = {
    "ssn": ("given_root", "family", "birth"),
    "phone": ("family",),
    "emails": ("family",),
    "birth": ("given_root", "family"),
}


def search(records: DataFrame, by: Search) -> pa.Table:
    """Standardised rows -> the placeholders in them: rows of vault/linkage_placeholders, on the
    driver, by column and value."""
    least = by.looked_for
    none = _none().append_column("records", pa.array([], pa.int64()))
    if not least:
        return none
    values = records.select("record_id", F.explode(F.concat(*map(_values, least))).alias("one"))
    values = values.select("record_id", "one.*")
    told = values.groupBy("column", "value").agg(F.count_distinct("other").alias("others"))
    enough = [f"(column = '{column}' AND others >= {n})" for column, n in least.items()]
    counts: pa.Table = told.where(" OR ".join(enough)).toArrow()
    kept = found(counts, by)
    if not kept.num_rows:
        return none
    # Exactly, of the few: a record has several rows.
    few = F.broadcast(records.sparkSession.createDataFrame(kept))
    exact = values.join(few, ["column", "value"]).groupBy("column", "value", "others")
    whole: pa.Table = exact.agg(F.count_distinct("record_id").alias("records")).toArrow()
    return whole.sort_by([("column", "ascending"), ("value", "ascending")])


def _values(column: str) -> Column:
    """What a row says of a column: an array of column, value, other; empty where it is NULL."""
    texts = F.split(F.coalesce(F.col(column).cast("string"), F.lit("")), SEPARATOR)
    other = F.xxhash64(*OTHERS[column]).alias("other")
    every = F.transform(
        texts, lambda text: F.struct(F.lit(column).alias("column"), text.alias("value"), other)
    )
    return F.filter(every, lambda one: one["value"] != "")


def _none() -> pa.Table:
    kinds = {"column": pa.string(), "value": pa.string(), "others": pa.int64()}
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})


def found(counts: pa.Table, by: Search) -> pa.Table:
    """Rows of `counts` (column, value, others) that are placeholders, by column and value. Pure.

    `others`: how many different names, names and birth dates, or family names have the value. Of
    birth dates all must be there: each is judged by the days around it.
    """
    kept = [_none()]
    for column, least in by.looked_for.items():
        mine = counts.filter(pc.equal(counts["column"], column))
        if column == "birth":
            days = [(date.fromisoformat(text) - EPOCH).days for text in mine["value"].to_pylist()]
            common = crowded(
                np.array(days, dtype=np.int64),
                mine["others"].to_numpy().astype(np.int64),
                times=by.birth_times or math.inf,
                least=by.birth_names,
            )
            mine = mine.filter(pa.array(common, pa.bool_()))
        else:
            mine = mine.filter(pc.greater_equal(mine["others"], least))
        kept.append(mine.cast(kept[0].schema))
    return pa.concat_tables(kept).sort_by([("column", "ascending"), ("value", "ascending")])


def crowded(days: Integers, names: Integers, *, times: float, least: int) -> list[bool]:
    """Of each date (days since 1970) whether more names have it than a day of birth can have.

    As many are expected as have a day of the month before or of the month after, whichever is more,
    without its TRIMMED commonest days, which may be placeholders too. More than `times` as many,
    and so many that a Poisson variable is as large with a chance of less than CHANCE over all
    dates: by Chernoff's bound (Mitzenmacher and Upfal 2005, theorem 5.4).
    """
    count = dict(zip(days.tolist(), names.tolist(), strict=True))

    def usual(around: range) -> float:
        sizes = sorted(count.get(day, 0) for day in around)[:-TRIMMED]
        return sum(sizes) / len(sizes)

    def judged(day: int, n: int) -> bool:
        if n < least:
            return False
        sides = range(day - WINDOW, day), range(day + 1, day + 1 + WINDOW)
        # Where nobody was born in two months, less than one in both.
        rate = max(*map(usual, sides), 1 / (2 * WINDOW))
        if n <= times * rate:
            return False
        return n - rate - n * math.log(n / rate) < math.log(CHANCE / len(count))

    return [judged(day, n) for day, n in zip(days.tolist(), names.tolist(), strict=True)]


def added(standards: Standards, told: pa.Table) -> Standards:
    """The standards with what was found beside what is listed."""

    def of(column: str) -> frozenset[str]:
        return frozenset(told.filter(pc.equal(told["column"], column))["value"].to_pylist())

    return replace(
        standards,
        ssns=standards.ssns | of("ssn"),
        phones=standards.phones | of("phone"),
        emails=standards.emails | of("emails"),
        birth_dates=standards.birth_dates | of("birth"),
    )
