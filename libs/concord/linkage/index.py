"""One run over the person index, and the one way in which it writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from pyspark.sql import DataFrame

from concord.lake import session
from concord.lake.driver import FEW
from concord.lake.log import state
from concord.lake.points import reach
from concord.lake.registry import Table
from concord.lake.run import Run
from concord.lake.tables import Lake
from concord.lake.workers import Made
from concord.lake.writes import How, Overwrite, Transaction, Written
from concord.linkage import inputs
from concord.linkage.inputs import Input, Permission
from concord.linkage.person_index import PersonIndex
from concord.linkage.spread import Rows
from concord.linkage.tables import RECORDS

# Rows of identifiers of which one worker is enough. A guess, not a measure.
ONE_FILE = 20_000


@dataclass(frozen=True)
class Index:
    """One run over the person index: its model, its permission, what it reads."""

    run: Run
    model: PersonIndex
    permitted: Permission
    found: tuple[Input, ...]

    @property
    def lake(self) -> Lake:
        return self.run.lake

    @property
    def shares(self) -> int:
        """In how many partitions the feeds' rows are brought into comparable form."""
        return int(self.lake.spark.conf.get("spark.sql.shuffle.partitions") or 1)

    @cached_property
    def feeds(self) -> dict[str, DataFrame]:
        """The feeds' identifiers: several steps read them, and to open them takes time."""
        return inputs.identifiers(self.lake, self.found)

    def few(self, table: Table) -> bool:
        """Whether the driver writes the table: of so few records. It writes one file; what the
        records themselves say is read by all workers, unless there is next to nothing to read."""
        known = [one.table for one in self.found] if table.name == RECORDS.name else [RECORDS]
        held = [state(self.lake.storage, self.lake.path(each)) for each in known]
        rows = [FEW if each.rows is None else each.rows for each in held if each]
        return sum(rows) < (ONE_FILE if table.name == RECORDS.name else FEW)

    def write(self, rows: Rows | Made, table: Table, how: How, version: int) -> Written:
        """One commit, under the table's own count of commits."""
        written = self.lake.write(
            rows,
            table,
            how,
            stamp=replace(self.run.stamp, agreements=self.permitted.agreements),
            transaction=Transaction(f"index/{table.name}", version),
            labels=self.permitted.labels(table),
            few=self.few(table),
        )
        self.run.tally.note([written])
        reach(f"index.wrote.{table.name}")
        return written

    def aside(self) -> Index:
        """The same run over another session: who writes side by side needs one each."""
        lake = self.lake.with_session(session.sibling(self.lake.spark))
        return replace(self, run=replace(self.run, lake=lake))

    def remake(self, rows: Rows | Made, table: Table, how: How | None = None) -> Written:
        """Replaces the table's rows, or those that `how` says."""
        return self.write(rows, table, how or Overwrite(), self.last(table) + 1)

    def last(self, table: Table) -> int:
        """The transaction version of the table's newest write, 0 before the first."""
        newest = self.lake.newest(table)
        return newest.transaction.version if newest else 0
