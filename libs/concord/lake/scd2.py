"""Slowly changing dimension, type 2: a key's history as versions, from full snapshots.

Pure functions. A snapshot says what every key looked like in one business period, absence
included. A version holds from its `valid_from` until its `valid_to` (exclusive; NULL while it is
the last known). Snapshots may come late, again, or be withdrawn: the history always is what a
rebuild from the snapshots in force would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

VALID_FROM, VALID_TO, IS_CURRENT = "valid_from", "valid_to", "is_current"
OPERATION = "_operation"
# The delivery that a version was first seen in, and the feed's sequence number of it.
STAMPS = ("_delivery_id", "_sequence")
Stamp = tuple[str, int]


def change(
    history: DataFrame,
    observed: DataFrame,
    *,
    key: Sequence[str],
    timeline: Mapping[date, Stamp],
    assigned: Sequence[date],
) -> DataFrame:
    """Rows to merge into `history` so that it says what a rebuild from all snapshots would.

    `history` has the key and attribute columns, the stamps, `valid_from`, `valid_to`,
    `is_current`. `observed` has key, attributes and `_date`, one of `assigned`: the dates whose
    snapshot arrived, was replaced or was withdrawn. `timeline` is every snapshot date in force
    after that with the stamp of its delivery; an assigned date that it lacks was withdrawn.
    A version's stamp is that of the snapshot in which it was first seen.

    Returns `history`'s columns and `_operation` (`put` or `delete`), to be merged by key and
    `valid_from`.
    """
    meta = {*key, *STAMPS, VALID_FROM, VALID_TO, IS_CURRENT}
    attributes = [name for name in history.columns if name not in meta]
    new = observed.select(*key, *attributes, "_date")
    if set(assigned) <= set(timeline):
        touched = _touched(history, new, key, attributes, assigned)
    else:
        # A date that no longer counts can join what stood on both its sides: every key may change.
        touched = history.select(*key).distinct()
    others = [day for day in timeline if day not in set(assigned)]
    kept = _observations(history.join(touched, list(key), "left_semi"), others)
    wanted = kept.select(*key, *attributes, "_date").unionByName(
        new.join(touched, list(key), "left_semi")
    )
    after = _versions(wanted, key, attributes, timeline)
    gone = history.join(touched, list(key), "left_semi").join(
        after, [*key, VALID_FROM], "left_anti"
    )
    columns = history.columns
    return after.select(*columns, F.lit("put").alias(OPERATION)).unionByName(
        gone.select(*columns, F.lit("delete").alias(OPERATION))
    )


def _touched(
    history: DataFrame,
    new: DataFrame,
    key: Sequence[str],
    attributes: Sequence[str],
    assigned: Sequence[date],
) -> DataFrame:
    """Keys for which the history differs from the snapshots, or a version begins at one of them."""
    old = _observations(history, assigned).alias("old")
    same_row = _all([F.col(f"old.{name}") == F.col(f"new.{name}") for name in [*key, "_date"]])
    same_state = _all([F.col(f"old.{a}").eqNullSafe(F.col(f"new.{a}")) for a in attributes])
    present = F.col("old._date").isNotNull() & F.col("new._date").isNotNull()
    unchanged = present & same_state & (F.col(f"old.{VALID_FROM}") != F.col("old._date"))
    return (
        old.join(new.alias("new"), same_row, "full_outer")
        .where(~unchanged)
        .select(
            *[F.coalesce(F.col(f"old.{name}"), F.col(f"new.{name}")).alias(name) for name in key]
        )
        .distinct()
    )


def _observations(history: DataFrame, dates: Sequence[date]) -> DataFrame:
    """One row per version and date that it covers, with the date as `_date`."""
    days = F.array(*[F.lit(day) for day in sorted(dates)]).cast("array<date>")
    covered = F.filter(
        days,
        lambda day: (
            (day >= F.col(VALID_FROM)) & (F.col(VALID_TO).isNull() | (day < F.col(VALID_TO)))
        ),
    )
    return history.withColumn("_date", F.explode(covered))


def _versions(
    observations: DataFrame,
    key: Sequence[str],
    attributes: Sequence[str],
    timeline: Mapping[date, Stamp],
) -> DataFrame:
    """Runs of equal observations on consecutive snapshots, as versions (gaps and islands)."""
    dates = sorted(timeline)
    ends = dict(zip(dates, [*dates[1:], None], strict=True)) if dates else {}
    calendar = observations.sparkSession.createDataFrame(
        [(day, place, ends[day], *timeline[day]) for place, day in enumerate(dates)],
        f"_date date, _place int, _end date, {STAMPS[0]} string, {STAMPS[1]} bigint",
    )
    by_key = Window.partitionBy(*key).orderBy("_date")
    begins = (
        F.lag("_place").over(by_key).isNull()
        | (F.lag("_place").over(by_key) != F.col("_place") - 1)
        | ~F.lag("_state").over(by_key).eqNullSafe(F.col("_state"))
    )
    run = Window.partitionBy(*key, "_run")
    return (
        observations.join(F.broadcast(calendar), "_date")
        .withColumn("_state", F.struct(*attributes) if attributes else F.lit(1))
        .withColumn("_begins", begins.cast("int"))
        .withColumn("_run", F.sum("_begins").over(by_key))
        .withColumn("_last_end", F.max_by("_end", "_date").over(run))
        .where("_begins = 1")
        .withColumn(VALID_FROM, F.col("_date"))
        .withColumn(VALID_TO, F.col("_last_end"))
        .withColumn(IS_CURRENT, F.col(VALID_TO).isNull())
        .select(*key, *attributes, *STAMPS, VALID_FROM, VALID_TO, IS_CURRENT)
    )


def _all(conditions: Sequence[Column]) -> Column:
    result = F.lit(True)
    for condition in conditions:
        result = result & condition
    return result
