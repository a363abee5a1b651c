"""`concord index --plan`: what the blocking rules would do, before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as Grid

from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import UsageError
from concord.lake.run import real_clock
from concord.lake.tables import Lake
from concord.linkage import engine, inputs, tables
from concord.linkage.engine import Planned
from concord.linkage.job import input_versions, searched
from concord.linkage.person_index import PersonIndex

# Wide enough for a table when the output goes to a file or a pipe.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160, highlight=False)

# By core and second, for a guess of how long a run will take: five million rows of the linkage
# benchmark took two cores 19 s to be encoded and counted, and 28 s until their 16.1 million pairs
# were made and compared (2026-11-28).
PAIRS_A_SECOND, ROWS_A_SECOND = 290_000, 130_000


@dataclass(frozen=True)
class Plan:
    """Rows to compare, cores, and what each rule would do."""

    rows: int
    cores: int
    rules: tuple[Planned, ...]

    def seconds(self, rule: Planned) -> float:
        """How long the rule's new pairs would take, more or less."""
        return rule.new / PAIRS_A_SECOND / self.cores


def planned(
    lake: Lake,
    contracts: Mapping[str, Contract],
    register: Register,
    model: PersonIndex,
) -> Plan:
    """What the blocking rules would do with the records that there are now. Writes nothing.

    Raises RefusedError (14) if a feed may not be matched, QualityError (12) for rules that make
    more pairs than a run may.
    """
    wanted = inputs.matched(contracts, model.leave_out)
    inputs.permission(wanted, register, real_clock().date())
    read = input_versions(lake, contracts, model)
    if not read:
        raise UsageError("--plan needs records: run concord ingest first")
    cores = lake.spark.sparkContext.defaultParallelism
    with searched([*inputs.identifiers(lake, read).items()], model, cores) as (found, _):
        rows = found.rows(tables.RECORDS)
        return Plan(rows.count(), cores, tuple(engine.planned(rows, model, id="record_id")))


def show_plan(plan: Plan) -> None:
    """Prints it as a table."""
    grid = Grid("rule", "keys", "pairs", "new pairs", "refused", "largest blocks", "seconds")
    for column in grid.columns[1:]:
        column.justify = "right"
    for rule in plan.rules:
        counts = (f"{n:,}" for n in (rule.keys, rule.pairs, rule.new, rule.refused))
        largest = " ".join(f"{n:,}" for n in rule.largest)
        grid.add_row(rule.rule, *counts, largest, f"{plan.seconds(rule):.1f}")
    console.print(grid)
    whole = plan.rows / ROWS_A_SECOND / plan.cores + sum(map(plan.seconds, plan.rules))
    console.print(
        f"{plan.rows:,} rows, {sum(rule.new for rule in plan.rules):,} pairs to compare; some "
        f"{whole:,.0f} seconds on {plan.cores} cores besides reading and writing. Blocks are in "
        "rows; new pairs are those that no rule above makes."
    )
