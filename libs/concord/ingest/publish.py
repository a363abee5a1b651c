"""From an audited stage to the tables: curated facts, identifiers, quarantine.

One Delta commit per table, each under the delivery's sequence number, so that a rerun after a
crash skips what is done and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from concord.contracts.model import IDENTIFIERS, MULTI_VALUED, Contract
from concord.contracts.model import Table as Source
from concord.ingest import rules, tables
from concord.ingest.ledger import FeedState
from concord.ingest.manifest import first_day
from concord.ingest.stage import Stage
from concord.lake import scd2, session, sql
from concord.lake.driver import FEW
from concord.lake.points import reach
from concord.lake.registry import Table
from concord.lake.storage import join
from concord.lake.tables import Lake
from concord.lake.writes import (
    Append,
    Changes,
    How,
    Merge,
    ReplaceWhere,
    Stamp,
    Transaction,
    Written,
    isin,
)
from concord.privacy.records import source_key

# Below this, rows in quarantine go by way of the driver: each holds a whole row of a file.
FEW_QUARANTINED = 10_000

Labels = Callable[[Table], Mapping[str, str]]
Content = tuple[str, str]


@dataclass(frozen=True)
class Publication:
    """What one delivery writes, and as what."""

    lake: Lake
    contract: Contract
    delivery_id: str
    sequence: int
    stamp: Stamp
    labels: Labels
    state: FeedState
    work: str
    again: bool = False

    def write(
        self, rows: DataFrame, table: Table, how: How, *, part: str = "", few: bool = False
    ) -> Written:
        """One commit; `part` names the source table where several share the target."""
        application = f"ingest/{table.name}/{part}" if part else f"ingest/{table.name}"
        written = self.lake.write(
            rows,
            table,
            how,
            stamp=self.stamp,
            transaction=Transaction(application, self.sequence),
            labels=self.labels(table),
            few=few,
        )
        reach(f"ingest.wrote.{table.name}")
        return written

    def targets(self, source: Source) -> list[Target]:
        """Where the rows of a source table go."""
        found = [Target(tables.curated(self.contract, source), source, vault=False)]
        people = tables.identifiers(self.contract)
        if people and tables.describes(source):
            found.append(Target(people, source, vault=True))
        return found


@dataclass(frozen=True)
class Target:
    """A table that rows of a source table go to. The vault's is shared by the feed's tables."""

    table: Table
    source: Source
    vault: bool

    @property
    def part(self) -> str:
        return self.source.name if self.vault else ""

    @property
    def key(self) -> list[str]:
        return [name for name in self.table.key if name != scd2.VALID_FROM]

    def project(self, rows: DataFrame) -> DataFrame:
        return identified(self.source, rows) if self.vault else rows

    def present(self, lake: Lake) -> DataFrame:
        """What the target holds of the source table."""
        rows = lake.read(self.table)
        return rows.where(isin("source_table", [self.source.name])) if self.vault else rows

    def where(self, column: str, values: Sequence[str]) -> ReplaceWhere:
        own = {"source_table": (self.source.name,)} if self.vault else {}
        return ReplaceWhere({column: values, **own})


def publish(
    to: Publication, staged: Stage, contents: frozenset[Content], *, parallel: int
) -> list[Written]:
    """Writes the good rows of the given (table, period) pairs, and the others to quarantine.

    `parallel` tables at a time; what goes to one table goes there one after the other.
    """
    steps: dict[str, list[Callable[[Publication], Written | None]]] = {}
    for source in to.contract.tables:
        periods = sorted(period for name, period in contents if name == source.name)
        if not periods or source.name not in staged.tables:
            continue
        rows = staged.good(source.name).where(isin("_period", periods))
        if source.policy == "upsert" and len(periods) > 1:
            rows = _newest(rows, source.key)
        rows = originated(rules.with_derived(rows, source), to.delivery_id, to.sequence)
        few = staged.rows_of(source.name) < FEW
        for target in to.targets(source):
            own = target.project(rows)
            load = partial(_load, target=target, rows=own, periods=periods, few=few)
            steps.setdefault(target.table.name, []).append(load)
    steps[tables.quarantine(to.contract).name] = [partial(quarantine, staged=staged)]

    def one(group: Sequence[Callable[[Publication], Written | None]]) -> list[Written]:
        own = replace(to, lake=to.lake.with_session(session.sibling(to.lake.spark)))
        return [written for step in group if (written := step(own))]

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return [written for done in pool.map(one, steps.values()) for written in done]


def quarantine(to: Publication, staged: Stage, *, rejected: bool = False) -> Written | None:
    """Writes the other rows to the feed's quarantine table; None when there are none.

    A rejected delivery takes no sequence number: its evidence is a transaction of its own.
    """
    table = tables.quarantine(to.contract)
    part = f"{to.delivery_id}/{to.contract.version}" if rejected else ""
    parts = [
        _quarantined(to, staged, name)
        for name in staged.tables
        if any(file.quarantined for file in staged.files if file.table == name)
    ]
    few = staged.quarantined < FEW_QUARANTINED
    if to.again:
        parts.append(_released(to, staged, table))
        where = ReplaceWhere({"delivery_id": (to.delivery_id,)})
        return to.write(_union(parts), table, where, part=part, few=few)
    return to.write(_union(parts), table, Append(), part=part, few=few) if parts else None


def withdraw(
    to: Publication,
    target: str,
    contents: frozenset[Content],
    survivors: Callable[[Source], DataFrame | None],
) -> list[Written]:
    """Takes a delivery's rows back, as if its periods had never been sent.

    `survivors` gives, for an upsert table, the rows of the deliveries that stay (derived columns
    and origin included), from which keys that rested on the withdrawn one are filled again.
    """
    written = []
    for source in to.contract.tables:
        periods = sorted(period for name, period in contents if name == source.name)
        if not periods:
            continue
        others = survivors(source) if source.policy == "upsert" else None
        for written_to in to.targets(source):
            written.append(_take_back(to, written_to, target, periods, others))
    table = tables.quarantine(to.contract)
    if to.lake.exists(table):
        empty = to.lake.read(table).limit(0)
        written.append(to.write(empty, table, ReplaceWhere({"delivery_id": (target,)}), few=True))
    return written


def originated(rows: DataFrame, delivery_id: str, sequence: int) -> DataFrame:
    """Adds the columns that say which delivery a row came with."""
    return rows.selectExpr(
        "*", f"{sql.literal(delivery_id)} AS _delivery_id", f"{sequence}L AS _sequence"
    )


def identified(source: Source, rows: DataFrame) -> DataFrame:
    """One row per described subject of each row: who it is, in the vault's columns."""
    parts = []
    for subject in source.subjects:
        if subject.identifiers is None:
            continue
        parts.append(
            rows.where(f"{sql.name(subject.record_id)} IS NOT NULL").selectExpr(
                f"{sql.name(subject.record_id)} AS record_id",
                f"{sql.literal(subject.role)} AS role",
                f"{sql.literal(subject.kind)} AS kind",
                f"{source_key(subject.key)} AS source_key",
                f"{sql.literal(source.name)} AS source_table",
                f"{source_key(source.key)} AS source_row",
                *[_identifier(name, subject.identifiers.get(name)) for name in IDENTIFIERS],
                "_period",
                "_delivery_id",
                "_sequence",
            )
        )
    return _union(parts)


def _load(
    to: Publication, target: Target, rows: DataFrame, periods: Sequence[str], few: bool
) -> Written:
    match target.source.policy:
        case "full_refresh" if to.state.holds(target.source.name, periods):
            how: How = target.where("_period", periods)
        case "full_refresh":
            # There is nothing to replace, and to look for it takes Delta four times as long.
            how = Append()
        case "append_only" if to.again:
            how = target.where("_delivery_id", (to.delivery_id,))
        case "append_only":
            how = Append()
        case "upsert":
            how = Merge(newer=("_period", "_sequence"))
        case "snapshot":
            own = {first_day(period): (to.delivery_id, to.sequence) for period in periods}
            timeline = {**to.state.timeline(target.source.name), **own}
            return _snapshot(to, target, rows, timeline, periods, few)
    return to.write(rows, target.table, how, part=target.part, few=few)


def _take_back(
    to: Publication,
    target: Target,
    delivery: str,
    periods: Sequence[str],
    others: DataFrame | None,
) -> Written:
    empty = target.present(to.lake).limit(0)
    match target.source.policy:
        case "full_refresh":
            how: How = target.where("_period", periods)
            return to.write(empty, target.table, how, part=target.part, few=True)
        case "append_only":
            how = target.where("_delivery_id", (delivery,))
            return to.write(empty, target.table, how, part=target.part, few=True)
        case "snapshot":
            gone = {first_day(period) for period in periods}
            known = to.state.timeline(target.source.name)
            timeline = {day: stamp for day, stamp in known.items() if day not in gone}
            nobody = empty.withColumn("_period", F.lit(None).cast("string"))
            return _snapshot(to, target, nobody, timeline, periods)
        case "upsert":
            resting = target.present(to.lake).where(F.col("_delivery_id") == delivery)
            back = resting.limit(0)
            if others is not None:
                mine = target.project(others).join(
                    resting.select(*target.key), target.key, "left_semi"
                )
                back = _newest(mine, target.key).select(*target.table.column_names)
            gone_rows = resting.join(back.select(*target.key), target.key, "left_anti")
            changes = back.withColumn(scd2.OPERATION, F.lit("put")).unionByName(
                gone_rows.withColumn(scd2.OPERATION, F.lit("delete"))
            )
            return to.write(changes, target.table, Changes(), part=target.part)


def _snapshot(
    to: Publication,
    target: Target,
    rows: DataFrame,
    timeline: Mapping[date, tuple[str, int]],
    periods: Sequence[str],
    few: bool = False,
) -> Written:
    changes = scd2.change(
        target.present(to.lake),
        rows.withColumn("_date", _date_of(periods)),
        key=target.key,
        timeline=timeline,
        assigned=[first_day(period) for period in periods],
    )
    if few and to.lake.mergeable(target.table):
        return to.write(changes, target.table, Changes(), part=target.part, few=True)
    # Delta reads what it merges twice; the changes are few and cost much to find.
    kept = join(to.work, f"_changes_{'vault' if target.vault else 'curated'}_{target.source.name}")
    changes.write.mode("overwrite").parquet(kept)
    changes = to.lake.spark.read.schema(changes.schema).parquet(kept)
    return to.write(changes, target.table, Changes(), part=target.part)


def _date_of(periods: Sequence[str]) -> Column:
    if not periods:
        return F.lit(None).cast("date")
    pairs = [F.lit(x) for period in periods for x in (period, first_day(period))]
    return F.create_map(*pairs)[F.col("_period")]


def _newest(rows: DataFrame, key: Sequence[str]) -> DataFrame:
    """Of rows with one key, that of the newest period, and of it that of the newest delivery."""
    order = [F.col("_period").desc()]
    if "_sequence" in rows.columns:
        order.append(F.col("_sequence").desc())
    ranked = Window.partitionBy(*key).orderBy(*order)
    return rows.withColumn("_rank", F.row_number().over(ranked)).where("_rank = 1").drop("_rank")


def _identifier(name: str, columns: str | tuple[str, ...] | None) -> str:
    if name in MULTI_VALUED:
        given = (columns,) if isinstance(columns, str) else columns or ()
        texts = ", ".join(f"cast({sql.name(column)} AS string)" for column in given)
        values = f"cast(array_distinct(array_compact(array({texts}))) AS array<string>)"
        return f"CASE WHEN size({values}) > 0 THEN {values} END AS {name}"
    kind = "date" if name == "birth_date" else "string"
    value = sql.name(columns) if isinstance(columns, str) else "NULL"
    return f"cast({value} AS {kind}) AS {name}"


def _quarantined(to: Publication, staged: Stage, name: str) -> DataFrame:
    offsets = [
        (f"{file.name}/{block}", offset)
        for file in staged.files
        if file.table == name and file.quarantined
        for block, offset in file.offsets.items()
    ]
    known = f"cast({sql.mapped(offsets)} AS map<string,bigint>)"
    return staged.bad(name).selectExpr(
        f"{sql.literal(to.delivery_id)} AS delivery_id",
        f"{sql.literal(name)} AS source_table",
        "_period AS period",
        "_file AS file",
        f"_index + {known}[concat_ws('/', _file, cast(_block AS string))] AS row_number",
        "_raw AS raw",
        "_violations AS violations",
        f"{sql.literal(to.contract.version)} AS contract_version",
        "cast(NULL AS string) AS released_by",
    )


def _released(to: Publication, staged: Stage, table: Table) -> DataFrame:
    """Rows that were in quarantine and pass now: kept as a trace, their raw text gone."""
    still = _union([_quarantined(to, staged, name) for name in staged.tables])
    before = to.lake.read(table).where(F.col("delivery_id") == to.delivery_id)
    key = ["file", "row_number"]
    passed = before.join(still.select(*key), key, "left_anti")
    now = F.coalesce(F.col("released_by"), F.lit(to.stamp.run_id))
    return passed.select(
        *[
            F.lit(None).cast("string").alias("raw")
            if name == "raw"
            else now.alias(name)
            if name == "released_by"
            else F.col(name)
            for name in table.column_names
        ]
    )


def _union(parts: Sequence[Any]) -> DataFrame:
    whole: DataFrame = parts[0]
    for part in parts[1:]:
        whole = whole.unionByName(part)
    return whole
