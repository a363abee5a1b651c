"""The history that `change` keeps up is the one that a rebuild from all snapshots gives."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord.lake.scd2 import OPERATION, Stamp, change

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("quick")]

Key = tuple[str, int]
State = tuple[str | None, int | None]
Snapshot = Mapping[Key, State]

KEY = ("person", "part")
ATTRIBUTES = ("town", "amount")
COLUMNS = (*KEY, *ATTRIBUTES, "_delivery_id", "_sequence", "valid_from", "valid_to", "is_current")
HISTORY_TYPE = (
    "person string, part int, town string, amount int, _delivery_id string, _sequence bigint, "
    "valid_from date, valid_to date, is_current boolean"
)
OBSERVED_TYPE = "person string, part int, town string, amount int, _date date"


def rebuilt(snapshots: Mapping[date, Snapshot], timeline: Mapping[date, Stamp]) -> set[tuple]:
    """The whole history from scratch, one key and one day at a time: the oracle."""
    days = sorted(snapshots)
    versions = set()
    for key in {key for snapshot in snapshots.values() for key in snapshot}:
        first: date | None = None
        for place, day in enumerate(days):
            state = snapshots[day].get(key, "absent")
            following = days[place + 1] if place + 1 < len(days) else None
            then = snapshots[following].get(key, "absent") if following else "unknown"
            if state != "absent":
                first = first or day
                if then != state:
                    versions.add(
                        (*key, *state, *timeline[first], first, following, following is None)
                    )
            if then != state:
                first = None
    return versions


@dataclass
class Dimension:
    """A table of type 2 and the snapshots it rests on, both taken through the same events."""

    spark: SparkSession
    snapshots: dict[date, Snapshot] = field(default_factory=dict)
    timeline: dict[date, Stamp] = field(default_factory=dict)
    rows: dict[tuple[Key, date], tuple] = field(default_factory=dict)
    sequence: int = 0

    def apply(self, arrived: Mapping[date, Snapshot], withdrawn: Sequence[date] = ()) -> list[Any]:
        """One delivery: snapshots that arrive or are replaced, and ones that are taken back."""
        self.sequence += 1
        for day in withdrawn:
            del self.snapshots[day], self.timeline[day]
        for day, snapshot in arrived.items():
            self.snapshots[day] = snapshot
            self.timeline[day] = (f"delivery-{self.sequence}", self.sequence)
        observed = [
            (*key, *state, day)
            for day, snapshot in arrived.items()
            for key, state in snapshot.items()
        ]
        operations = change(
            self.spark.createDataFrame(list(self.rows.values()), HISTORY_TYPE),
            self.spark.createDataFrame(observed, OBSERVED_TYPE),
            key=KEY,
            timeline=self.timeline,
            assigned=[*arrived, *withdrawn],
        )
        assert operations.columns == [*COLUMNS, OPERATION]
        found = operations.collect()
        # MERGE refuses two source rows for one target row, so neither may `change` return them.
        places = [((row["person"], row["part"]), row["valid_from"]) for row in found]
        assert len(set(places)) == len(places)
        for place, row in zip(places, found, strict=True):
            if row[OPERATION] == "delete":
                del self.rows[place]
            else:
                self.rows[place] = tuple(row)[:-1]
        return found

    def check(self) -> None:
        assert set(self.rows.values()) == rebuilt(self.snapshots, self.timeline)


DAYS = [date(2025, month, 1) for month in range(1, 7)]


def drawn(dice: random.Random, keys: Sequence[Key]) -> Snapshot:
    """A snapshot with few states, so that neighbours are often equal; NULL is one of them."""
    states: list[State] = [("Lynn", 1), ("Lynn", None), (None, 1), (None, None)]
    weights = [6, 1, 1, 2]
    return {key: dice.choices(states, weights)[0] for key in keys if dice.random() < 0.75}


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_snapshots_gives_the_history_of_a_rebuild(
    spark: SparkSession, seed: int
) -> None:
    """300 keys at once are 300 histories: `change` has one timeline, and keys do not meet."""
    dice = random.Random(seed)
    keys = [(f"p{number}", part) for number in range(150) for part in (1, 2)]
    dimension = Dimension(spark)
    # A backfill of three days, then a day before, between or after them.
    early = dice.sample(DAYS, 3)
    dimension.apply({day: drawn(dice, keys) for day in early})
    dimension.check()
    late = dice.choice([day for day in DAYS if day not in early])
    dimension.apply({late: drawn(dice, keys)})
    dimension.check()
    replaced = dice.choice(sorted(dimension.snapshots))
    dimension.apply({replaced: drawn(dice, keys)})
    dimension.check()
    dimension.apply({}, withdrawn=[dice.choice(sorted(dimension.snapshots))])
    dimension.check()
    # A second backfill: some of its days are new, some replaced.
    dimension.apply({day: drawn(dice, keys) for day in dice.sample(DAYS, 3)})
    dimension.check()


def test_a_second_equal_snapshot_changes_nothing(spark: SparkSession) -> None:
    dimension = Dimension(spark)
    everyone: Snapshot = {("p1", 1): ("Lynn", 1), ("p2", 1): (None, None)}
    dimension.apply({DAYS[0]: everyone})

    assert dimension.apply({DAYS[2]: everyone}) == []
    # Late, and between the two: still nothing to say.
    assert dimension.apply({DAYS[1]: everyone}) == []
    dimension.check()


def test_only_keys_that_changed_are_written(spark: SparkSession) -> None:
    dimension = Dimension(spark)
    dimension.apply({DAYS[0]: {("p1", 1): ("Lynn", 1), ("p2", 1): ("Lynn", 1)}})

    found = dimension.apply({DAYS[1]: {("p1", 1): ("Lynn", 1), ("p2", 1): ("Salem", 1)}})

    assert {row["person"] for row in found} == {"p2"}
    dimension.check()


def test_withdrawing_the_only_snapshot_leaves_no_history(spark: SparkSession) -> None:
    dimension = Dimension(spark)
    dimension.apply({DAYS[0]: {("p1", 1): ("Lynn", 1)}})

    dimension.apply({}, withdrawn=[DAYS[0]])

    assert dimension.rows == {}
