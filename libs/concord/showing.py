"""Tables, their columns and their origin on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from rich.tree import Tree

from concord.lake.catalog import Entry, Shown
from concord.lake.lineage import Origin

DELIVERIES_SHOWN = 6


def catalog(console: Console, root: str, entries: Iterable[Entry]) -> None:
    """One line a table: rows, version, agreement, expiry, classification."""
    grid = Grid(title=f"Tables of {root}")
    for heading in ("table", "rows", "version", "agreement", "expires", "classification"):
        right = heading in {"rows", "version"}
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    for entry in entries:
        grid.add_row(
            entry.table,
            f"{entry.rows:,}",
            str(entry.version),
            entry.agreements,
            entry.expires,
            entry.classification,
        )
    console.print(grid)


def table(console: Console, shown: Shown) -> None:
    """Labels, columns and, where there are any, rows."""
    console.print(f"[bold]{shown.table}[/], version {shown.version}, {shown.rows:,} rows")
    console.print(escape(shown.description))
    for name, value in sorted(shown.labels.items()):
        console.print(f"  {name.removeprefix('concord.')}: {escape(value)}", soft_wrap=True)
    grid = Grid("column", "type", "classification", "identifier role", "what it is")
    for column in shown.columns:
        grid.add_row(*[escape(value) for value in column.values()])
    console.print(grid)
    if shown.sample:
        rows = Grid(*shown.sample[0])
        for row in shown.sample:
            rows.add_row(*["" if value is None else escape(str(value)) for value in row.values()])
        console.print(rows)


def origin(console: Console, told: Origin) -> None:
    """The tree of runs, agreements and deliveries above a table."""
    tree = Tree(_line(told))
    _branch(tree, told)
    console.print(tree)


def _branch(tree: Tree, told: Origin) -> None:
    for delivery in told.deliveries[-DELIVERIES_SHOWN:]:
        tree.add(
            f"delivery {escape(delivery.feed)} {escape(delivery.folder)}, "
            f"contract {delivery.contract_version}"
        )
    more = len(told.deliveries) - DELIVERIES_SHOWN
    if more > 0:
        tree.add(f"and {more} earlier deliveries (--json lists all)")
    for source in told.sources:
        _branch(tree.add(_line(source)), source)


def _line(told: Origin) -> str:
    by = f"{told.job} run {told.run_id[:12]}" if told.run_id else "an unknown run"
    when = f" as of {told.as_of}" if told.as_of else ""
    under = f" under {', '.join(told.agreements)}" if told.agreements else ""
    return f"[bold]{escape(told.table)}[/] version {told.version}: {by}{when}{under}"
