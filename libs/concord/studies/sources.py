"""What a study reads and at which version: the curated tables as the ledger knows them.

A study is made of what complete deliveries wrote, never of a delivery that is being published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.contracts.model import Contract
from concord.errors import ConcordError, UsageError
from concord.ingest.manifest import last_day
from concord.lake.log import commits
from concord.lake.registry import DELIVERIES, Table
from concord.lake.tables import Lake
from concord.linkage import tables as linkage

# Commits that leave a table's rows as they were.
UPKEEP = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES"})

CROSSWALK = linkage.CROSSWALK.name


@dataclass(frozen=True)
class Arrival:
    """When a period's rows of one delivery came, and from when on they count as known."""

    delivery_id: str
    period: str
    received_on: date
    known_on: date


@dataclass(frozen=True)
class FeedSources:
    """A feed as of a business date: its tables' versions, its deliveries' days, and how many rows
    the deliveries of each of its tables had."""

    versions: Mapping[str, int]
    arrivals: tuple[Arrival, ...]
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Crosswalk:
    """The person index at one version. `day` is the last day on which anything in it changed, or
    the business date if that is earlier: what holds on it holds at the business date."""

    version: int
    day: date


def feed_sources(lake: Lake, contracts: Iterable[Contract], as_of: date) -> dict[str, FeedSources]:
    """Each feed's sources from `ops/deliveries`: deliveries loaded by runs of up to `as_of`."""
    feeds = {contract.feed: contract for contract in contracts}
    rows = [
        row
        for row in lake.rows(DELIVERIES)
        if row["feed"] in feeds and row["status"] == "loaded" and row["as_of"] <= as_of
    ]
    return {
        feed: _feed([row for row in rows if row["feed"] == feed], contract)
        for feed, contract in feeds.items()
    }


def _feed(rows: list[Any], contract: Contract) -> FeedSources:
    ordered = sorted(rows, key=lambda row: row["event"])
    versions: dict[str, int] = {}
    for row in ordered:
        versions |= {item["table"]: item["version"] for item in row["versions"] or ()}
    deliveries = [row for row in ordered if row["kind"] == "delivery"]
    numbered = [(row["sequence"], row["delivery_id"]) for row in deliveries]
    _, beginning = min(numbered, default=(0, ""))
    found: dict[tuple[str, str], Arrival] = {}
    rows_of: dict[str, int] = {}
    for row in deliveries:
        received = row["created_at"].date()
        for file in row["files"]:
            table, period = file["table"], file["period"]
            rows_of[table] = rows_of.get(table, 0) + (file["rows"] or 0)
            known = received
            if row["delivery_id"] == beginning and contract.latency_days is not None:
                # The history a feed begins with comes at once. Taken as known on the day it came,
                # it would be of no use to any model; so it counts from when it would have come.
                due = last_day(period) + timedelta(days=contract.latency_days)
                known = min(received, due)
            arrival = Arrival(row["delivery_id"], period, received, known)
            found[row["delivery_id"], period] = arrival
    return FeedSources(versions, tuple(found[key] for key in sorted(found)), rows_of)


def readable(lake: Lake, table: Table, version: int) -> int:
    """The newest version with the same rows as `version`: after upkeep the old one's files go."""
    newest = None
    for commit in commits(lake.storage, lake.path(table)):
        if commit.version <= version:
            break
        if commit.operation not in UPKEEP:
            newest = None
        elif newest is None:
            newest = commit.version
    return newest or version


def crosswalk(lake: Lake, as_of: date) -> Crosswalk | None:
    """The person index as it is now; None when there is none yet.

    It is written in one commit, so its newest version is whole. Raises ConcordError when a record
    is two people at `as_of`.
    """
    newest = next(commits(lake.storage, lake.path(CROSSWALK)), None)
    if newest is None:
        return None
    version = newest.version
    rows = read_crosswalk(lake, version)
    last = F.max(F.greatest("valid_from", "valid_to")).alias("changed")
    valid = holds_on(as_of)
    counted = rows.agg(
        last,
        F.count(F.when(valid, True)).alias("rows"),
        F.count_distinct(F.when(valid, F.col("record_id"))).alias("records"),
    ).collect()[0]
    if counted["rows"] != counted["records"]:
        raise ConcordError(
            f"{CROSSWALK} version {version}: {counted['rows'] - counted['records']} rows too "
            f"many on {as_of}, so that a record would be two people; run concord index"
        )
    return Crosswalk(version, min(as_of, counted["changed"] or as_of))


def read_crosswalk(lake: Lake, version: int) -> DataFrame:
    return lake.frame(CROSSWALK, version=version)


def holds_on(day: date) -> Column:
    """A condition: the crosswalk's row is valid on the day."""
    until = F.col("valid_to")
    return (F.col("valid_from") <= F.lit(day)) & (until.isNull() | (until > F.lit(day)))


def needed(index: Crosswalk | None) -> Crosswalk:
    if index is None:
        raise UsageError(
            "there is no person index yet, and the agreement lists people: run concord index first"
        )
    return index
