"""Upkeep of tables: compaction and removal of files that no version within retention needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from delta.tables import DeltaTable

from concord.lake.registry import Table
from concord.lake.tables import Lake

HOURS_PER_DAY = 24


@dataclass(frozen=True)
class Upkeep:
    """What was done to one table."""

    table: str
    files_before: int
    files_after: int


def maintain(lake: Lake, tables: Iterable[Table]) -> list[Upkeep]:
    """OPTIMIZE and VACUUM each table that exists, one after the other, under its lock.

    VACUUM keeps what the table's own retention keeps: time travel within it goes on working.
    Raises LockedError when a job holds a table.
    """
    done = []
    for table in tables:
        if not lake.exists(table):
            continue
        with lake.locks.hold([table.name]):
            delta = DeltaTable.forPath(lake.spark, lake.path(table, write=True))
            before = _files(delta)
            delta.optimize().executeCompaction()
            delta.vacuum(float(table.retention_days * HOURS_PER_DAY))
            done.append(Upkeep(table.name, before, _files(delta)))
    return done


def _files(delta: DeltaTable) -> int:
    return int(delta.detail().select("numFiles").collect()[0]["numFiles"])
