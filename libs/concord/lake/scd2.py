"""Slowly changing dimension, type 2: a key's history as versions, from full snapshots.

Pure functions. A snapshot says what every key looked like in one business period, absence
included. A version holds from its `valid_from` until its `valid_to` (exclusive; NULL while it is
the last known). Snapshots may come late, again, or be withdrawn: the history always is what a
rebuild from the snapshots in force would give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.lake import sql

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
    names = [sql.name(column) for column in history.columns]
    return after.selectExpr(*names, f"'put' AS {OPERATION}").unionByName(
        gone.selectExpr(*names, f"'delete' AS {OPERATION}")
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
    keys, others = list(map(sql.name, key)), list(map(sql.name, attributes))
    same_row = " AND ".join(f"old.{name} = new.{name}" for name in [*keys, "_date"])
    same_state = [f"old.{name} <=> new.{name}" for name in others]
    present = ["old._date IS NOT NULL", "new._date IS NOT NULL"]
    unchanged = " AND ".join([*present, *same_state, f"old.{VALID_FROM} != old._date"])
    return (
        old.join(new.alias("new"), F.expr(same_row), "full_outer")
        .where(f"NOT ({unchanged})")
        .selectExpr(*[f"coalesce(old.{name}, new.{name}) AS {name}" for name in keys])
        .distinct()
    )


def _observations(history: DataFrame, dates: Sequence[date]) -> DataFrame:
    """One row per version and date that it covers, with the date as `_date`."""
    days = f"cast(array({sql.listed(sorted(dates))}) AS array<date>)"
    covers = f"day >= {VALID_FROM} AND ({VALID_TO} IS NULL OR day < {VALID_TO})"
    return history.selectExpr("*", f"explode(filter({days}, day -> {covers})) AS _date")


def _versions(
    observations: DataFrame,
    key: Sequence[str],
    attributes: Sequence[str],
    timeline: Mapping[date, Stamp],
) -> DataFrame:
    """Runs of equal observations on consecutive snapshots, as versions (gaps and islands)."""
    dates = sorted(timeline)
    columns = {
        "_date": pa.array(dates, pa.date32()),
        "_place": pa.array(range(len(dates)), pa.int32()),
        "_end": pa.array([*dates[1:], None] if dates else [], pa.date32()),
        STAMPS[0]: pa.array([timeline[day][0] for day in dates], pa.string()),
        STAMPS[1]: pa.array([timeline[day][1] for day in dates], pa.int64()),
    }
    # As Arrow it becomes a local relation, which needs no job of its own.
    calendar = observations.sparkSession.createDataFrame(pa.table(columns))
    keys, others = list(map(sql.name, key)), list(map(sql.name, attributes))
    by_key = f"OVER (PARTITION BY {', '.join(keys)} ORDER BY _date)"
    run = f"OVER (PARTITION BY {', '.join(keys)}, _run)"
    before = f"lag(_place) {by_key}"
    begins = f"{before} IS NULL OR {before} != _place - 1 OR NOT (lag(_state) {by_key} <=> _state)"
    return (
        observations.join(F.broadcast(calendar), "_date")
        .selectExpr("*", f"struct({', '.join(others)}) AS _state" if others else "1 AS _state")
        .selectExpr("*", f"cast({begins} AS int) AS _begins")
        .selectExpr("*", f"sum(_begins) {by_key} AS _run")
        .selectExpr("*", f"max_by(_end, _date) {run} AS _last_end")
        .where("_begins = 1")
        .selectExpr(
            *keys, *others, *STAMPS, f"_date AS {VALID_FROM}", f"_last_end AS {VALID_TO}",
            f"_last_end IS NULL AS {IS_CURRENT}",
        )
    )  # fmt: skip
