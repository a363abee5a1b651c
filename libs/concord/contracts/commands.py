"""`concord contract`: check, show, compare, document and draft contracts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from concord.contracts import dictionary
from concord.contracts.diff import demanded, diff, next_version, version_is_enough
from concord.contracts.draft import draft
from concord.contracts.model import Calendar, Contract
from concord.contracts.odcs import load_contract, load_contracts, read_code_lists
from concord.contracts.schemas import write_schemas
from concord.errors import ConfigError, UsageError

app = typer.Typer(no_args_is_help=True, help="Contracts of feeds: check, show, diff, docs, new.")
# Wide enough for a table when the output goes to a file or a pipe.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)

Conf = Annotated[Path, typer.Option(help="The folder of configuration files.")]


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Contract files; all of the folder without one.")
    ] = None,
    conf: Conf = Path("conf"),
    expressions: Annotated[
        bool, typer.Option(help="Also let Spark analyse conditions and derived columns.")
    ] = False,
) -> None:
    """Check contracts; every mistake of every file is reported, and the exit code is 10."""
    contracts = _load(files, conf)
    if expressions:
        _check_expressions(contracts)
    for contract in contracts:
        tables = ", ".join(table.name for table in contract.tables)
        _say(f"{contract.feed} {contract.version}: good ({tables})")


@app.command()
def show(
    feed: Annotated[str, typer.Argument(help="The feed, or the path of a contract file.")],
    conf: Conf = Path("conf"),
) -> None:
    """Show a contract: each column, its type, its role and where it goes."""
    contract = _contract(feed, conf)
    _say(f"{contract.feed} {contract.version}: {contract.title}")
    _say(f"agency {contract.agency}, owner {contract.owner}, by {contract.calendar}")
    _say(f"kept {contract.retention_years} years, at most {contract.quarantine_limit:.2%} bad rows")
    for table in contract.tables:
        title = f"{table.name}: {table.format.kind}, {table.policy}"
        grid = Grid(title=title, title_justify="left", pad_edge=False)
        for header in ("column", "type", "key", "role", "classification", "rules", "goes to"):
            grid.add_column(header, overflow="fold")
        for field in table.fields:
            cells = (
                field.name,
                field.type,
                str(field.key_position or ""),
                field.identifier_role,
                field.classification,
                "; ".join(dictionary.demands(field)),
                dictionary.destination(table, field),
            )
            grid.add_row(*(Text(cell.replace("`", "")) for cell in cells))
        console.print(grid)


@app.command("diff")
def compare(
    old: Annotated[str, typer.Argument(help="The old contract file.")],
    new: Annotated[str, typer.Argument(help="The new contract file, or the feed's name.")],
    conf: Conf = Path("conf"),
) -> None:
    """Tell what changed between two versions, what breaks readers, and the version it demands.

    Raises ConfigError (exit 10) when the new version's number is below that.
    """
    before, after = _contract(old, conf), _contract(new, conf)
    changes = diff(before, after)
    for change in sorted(changes, key=lambda c: (not c.breaks, c.place, c.kind)):
        mark = "breaks readers" if change.breaks else change.bump
        _say(f"{mark:14}  {change.place}: {change.words}")
    wanted = next_version(before.version, demanded(changes))
    if not changes:
        _say("no difference")
    elif version_is_enough(before, after):
        _say(f"version {before.version} to {after.version}: enough, {wanted} is demanded")
    else:
        raise ConfigError(
            [f"{after.file}: version {after.version} is too low for these changes; set {wanted}"]
        )


@app.command()
def docs(
    conf: Conf = Path("conf"),
    out: Annotated[Path, typer.Option(help="The folder of pages.")] = Path("docs/data-dictionary"),
) -> None:
    """Write the data dictionary, and the JSON Schemas that editors check `conf` with."""
    contracts = load_contracts(conf / "feeds")
    code_lists = read_code_lists(conf / "code_lists.yaml") or {}
    changed = dictionary.write(contracts, code_lists, out) + write_schemas(conf / "schemas")
    for path in changed:
        _say(f"wrote {path}" if path.exists() else f"removed {path}")
    _say(f"{len(contracts)} contracts, {len(changed)} files changed")


@app.command()
def new(
    sample: Annotated[Path, typer.Argument(help="A file as the agency delivers it.")],
    feed: Annotated[str, typer.Argument(help="The feed's name, such as dta_snap.")],
    conf: Conf = Path("conf"),
    table: Annotated[str | None, typer.Option(help="The table's name.")] = None,
    agency: Annotated[str | None, typer.Option(help="A key of agencies.yaml.")] = None,
    calendar: Annotated[str, typer.Option(help="day, week, month, quarter or year.")] = "month",
    sheet: Annotated[str | None, typer.Option(help="The sheet of a workbook.")] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the feed's contract.")] = False,
) -> None:
    """Draft a contract from a sample file, as conf/feeds/FEED.yaml, with guesses to review."""
    if calendar not in get_args(Calendar):
        raise UsageError(f"calendar {calendar!r}: use one of {', '.join(get_args(Calendar))}")
    path = conf / "feeds" / f"{feed}.yaml"
    if path.exists() and not force:
        raise UsageError(f"{path} exists; choose another feed or give --force")
    drafted = draft(sample, feed, table=table, agency=agency, calendar=calendar, sheet=sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drafted.text, encoding="utf-8")
    reviews = drafted.text.count("# review:")
    _say(f"wrote {path}: go through its {reviews} `review` comments")
    if drafted.warning:
        print(f"warning: {drafted.warning}", file=sys.stderr)
    load_contract(path)
    _say(f"then: concord contract check {path}")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False)


def _contract(name: str, conf: Path) -> Contract:
    """By feed name in `conf`, or by path of a file."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _load([path], conf)[0]
    path = conf / "feeds" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (conf / "feeds").glob("*.yaml"))) or "none"
        raise UsageError(f"no contract of feed {name!r} in {conf / 'feeds'}; there are: {known}")
    return load_contract(path)


def _load(files: list[Path] | None, conf: Path) -> list[Contract]:
    if not files:
        return list(load_contracts(conf / "feeds").values())
    code_lists = read_code_lists(conf / "code_lists.yaml")
    contracts, problems = [], []
    for path in files:
        try:
            contracts.append(load_contract(path, code_lists=code_lists))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return contracts


def _check_expressions(contracts: list[Contract]) -> None:
    from pyspark.sql import SparkSession

    from concord.contracts.expressions import check_expressions

    spark = SparkSession.builder.master("local[1]").appName("contract check").getOrCreate()
    problems: list[str] = []
    for contract in contracts:
        try:
            check_expressions(spark, contract)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
