"""An agency and an office in miniature: deliveries go in, tables come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from concord.contracts.model import Contract
from concord.ingest import tables
from concord.ingest.delivery import Outcome
from concord.ingest.job import ingest
from concord.lake.locks import Locks
from concord.lake.registry import OPS_TABLES
from concord.lake.run import Run, Tally, real_clock
from concord.lake.tables import Lake
from concord.lake.zones import Zones
from concord.reporting import Reporter
from concord.settings import Settings
from tests.agreed import register
from tests.conftest import test_settings
from tests.feeds import mou


@dataclass
class Office:
    """A lake of its own, and the ingest job over it."""

    spark: SparkSession
    settings: Settings
    contracts: dict[str, Contract]

    @property
    def landing(self) -> Path:
        return Path(self.settings.landing)

    @property
    def lake(self) -> Lake:
        locks = Locks.of(
            self.spark, self.settings.lake, 60, job="test", run_id="test", actor="test"
        )
        return Lake(self.spark, self.settings.lake, locks=locks, lock_wait=5, zones=Zones("ingest"))

    def ingest(
        self,
        *,
        feeds: Sequence[str] = (),
        as_of: date = date(2025, 12, 31),
        delivery: str | None = None,
        reprocess: str | None = None,
        run_id: str = "run-1",
        dry_run: bool = False,
    ) -> list[Outcome]:
        # Without `running`: the run ledger is tested with the demo, and its rows cost seconds here.
        run = Run(
            job="ingest",
            run_id=run_id,
            as_of=as_of,
            dry_run=dry_run,
            actor="tester",
            settings=self.settings,
            lake=self.lake,
            reporter=Reporter(quiet=True),
            clock=real_clock,
            tally=Tally(),
        )
        return ingest(
            run,
            self.contracts,
            register(*mou(*self.contracts).values()),
            feeds=feeds,
            delivery=delivery,
            reprocess=reprocess,
        )

    def rows(self, name: str) -> DataFrame:
        known = {t.name: t for t in (*OPS_TABLES, *self._tables().values())}
        return self.lake.read(known[name])

    def _tables(self) -> Mapping[str, tables.Table]:
        return {t.name: t for c in self.contracts.values() for t in tables.of_contract(c)}


@pytest.fixture
def office(spark: SparkSession, tmp_path: Path) -> Office:
    """An office without contracts yet; the test sets `office.contracts`."""
    return Office(spark, test_settings(tmp_path), {})
