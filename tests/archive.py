"""A lake whose feeds were loaded, and the index job over it: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from concord.agreements.mou import Mou
from concord.contracts.model import IDENTIFIERS, MULTI_VALUED, Contract, Csv, Field, Subject, Table
from concord.ingest import tables as ingest_tables
from concord.lake.locks import Locks
from concord.lake.registry import DELIVERIES
from concord.lake.registry import Table as LakeTable
from concord.lake.run import running
from concord.lake.tables import Lake
from concord.lake.writes import Overwrite, Stamp, Transaction
from concord.lake.zones import Zones
from concord.linkage import tables
from concord.linkage.identity import Event, replay
from concord.linkage.job import How, Outcome, index
from concord.linkage.person_index import PersonIndex
from concord.privacy.keys import vault_key
from concord.privacy.records import record_ids
from concord.reporting import Reporter
from concord.settings import Settings
from tests.agreed import register
from tests.feeds import DIRECT, LABELS, contract, mou

FEEDS = ("snap", "wages")
Person = Mapping[str, Any]


def people_feed(feed: str) -> Contract:
    columns = {"given_name": "first", "family_name": "last", "birth_date": "born", "ssn": "ssn"}
    columns |= {"zip": "zip"}
    table = Table(
        name="people",
        description="One row per person.",
        format=Csv(kind="csv"),
        policy="upsert",
        fields=(
            Field(name="id", source="id", type="string", key_position=1, **DIRECT),
            *(
                Field(name=c, source=c, type="date" if c == "born" else "string", **DIRECT)
                for c in columns.values()
            ),
        ),
        subjects=(Subject(role="client", key=("id",), identifiers=dict(columns)),),
    )
    return contract(table, feed=feed)


@dataclass
class Archive:
    """A lake whose feeds were loaded, without the labour of loading them."""

    spark: SparkSession
    settings: Settings
    model: PersonIndex
    mous: Mapping[str, Mou] = field(default_factory=lambda: mou(*FEEDS))
    loaded: int = 0

    def __post_init__(self) -> None:
        self.contracts = {feed: people_feed(feed) for feed in FEEDS}
        self.key = vault_key(self.settings.keys, create=True)

    @property
    def lake(self) -> Lake:
        locks = Locks.of(self.spark, self.settings.lake, 60, job="t", run_id="t", actor="t")
        return Lake(self.spark, self.settings.lake, locks=locks, lock_wait=5, zones=Zones("index"))

    def load(self, feed: str, people: Sequence[Person], *, complete: bool = True) -> None:
        """Replaces a feed's identifiers; not `complete`: the delivery is still being published."""
        table = self.identifiers(feed)
        rows = [{**dict.fromkeys(table.column_names), **self._row(feed, p)} for p in people]
        self.put(feed, self.spark.createDataFrame(rows, table.schema).coalesce(1), complete)

    def put(self, feed: str, rows: DataFrame, complete: bool = True) -> None:
        """Replaces a feed's identifiers by rows of its table."""
        self.loaded += 1
        table, stamp = self.identifiers(feed), Stamp("load", "ingest", "0")
        written = self.lake.write(
            rows,
            table,
            Overwrite(),
            stamp=stamp,
            transaction=Transaction(f"ingest/{table.name}/people", self.loaded),
            labels=LABELS,
            few=True,
        )
        row = dict.fromkeys(DELIVERIES.column_names)
        row |= {"delivery_id": f"d{self.loaded}", "event": self.loaded, "feed": feed}
        row |= {"status": "loaded" if complete else "loading"}
        row["versions"] = [{"table": table.name, "version": written.version}]
        self.lake.append([row], DELIVERIES, stamp=stamp)

    def identifiers(self, feed: str) -> LakeTable:
        table = ingest_tables.identifiers(self.contracts[feed])
        assert table is not None
        return table

    def record(self, feed: str, person: str) -> str:
        return record_ids(self.key, feed=feed, role="client", source_keys=[person])[0]

    def _row(self, feed: str, person: Person) -> dict[str, Any]:
        known = {name: value for name, value in person.items() if name in IDENTIFIERS}
        known |= {name: [known[name]] for name in MULTI_VALUED if name in known}
        base = {"record_id": self.record(feed, person["id"]), "role": "client", "kind": "person"}
        return {**base, "source_key": person["id"], "source_table": "people", **known}

    def index(self, as_of: date, *, run_id: str = "", **changes: Any) -> Outcome:
        digest = changes.pop("config_digest", "conf")
        asked = ("rescore", "whole", "accept_churn")
        how = How(**{name: changes.pop(name) for name in asked if name in changes})
        with running(
            self.settings,
            "index",
            arguments={},
            as_of=as_of,
            run_id=run_id or f"index-{as_of}-{self.loaded}",
            config_digest=digest,
            dry_run=changes.pop("dry_run", False),
            reporter=Reporter(quiet=True),
            spark=self.spark,
        ) as run:
            model = self.model.model_copy(update=changes)
            return index(
                run,
                self.contracts,
                register(*self.mous.values()),
                model,
                config_digest=digest,
                how=how,
            )

    def persons(self, *, on: date | None = None) -> dict[str, str]:
        """Record id -> person id of a day, or of now."""
        rows = self.lake.read(tables.CROSSWALK)
        day = f"DATE '{on}'" if on else "DATE '9999-12-31'"
        held = rows.where(f"valid_from <= {day} AND (valid_to IS NULL OR {day} < valid_to)")
        return {row["record_id"]: row["person_id"] for row in held.collect()}

    def replayed(self, *, on: date) -> dict[str, str]:
        runs: dict[int, list[Event]] = {}
        for row in self.lake.read(tables.EVENTS).where(f"as_of <= DATE '{on}'").collect():
            event = Event(row["kind"], row["person_id"], row["other_person_id"],
                          tuple(row["record_ids"]), row["reason"])  # fmt: skip
            runs.setdefault(row["sequence"], []).append(event)
        return replay(runs[sequence] for sequence in sorted(runs))

    def versions(self) -> dict[str, int | None]:
        return {table.name: self.lake.version(table) for table in tables.TABLES}

    def state(self) -> dict[str, list[str]]:
        """Every table of the index, whole, as text."""
        return {
            table.name: sorted(str(tuple(row)) for row in self.lake.read(table).collect())
            for table in tables.TABLES
        }
