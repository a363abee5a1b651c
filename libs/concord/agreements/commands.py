"""`concord agreement`: list and show agreements, and ask what they would allow. Needs no Spark.

`check` answers as the jobs' decisions would, and logs nothing: it reads no data either.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from concord.agreements.decision import Request, decide
from concord.agreements.dula import USES, Dataset, Dula, RowFilter, Use
from concord.agreements.loading import load_dulas
from concord.agreements.mou import Mou, digest, load_mous
from concord.contracts.odcs import load_contracts
from concord.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Agreements: list, show, check.")
# Wide enough for a table when the output goes to a file or a pipe.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160, highlight=False)

Conf = Annotated[Path, typer.Option(help="The folder of configuration files.")]
AgreementArgument = Annotated[str, typer.Argument(help="The agreement, such as DULA-2026-0001.")]


@app.command(name="list")
def list_agreements(conf: Conf = Path("conf")) -> None:
    """List all agreements: who shares what with whom, for what, until when."""
    mous, dulas = _load(conf)
    grid = Grid(title="Agreements", title_justify="left", pad_edge=False)
    for heading in ("agreement", "version", "owners", "recipients", "purpose", "uses", "expires"):
        grid.add_column(heading, overflow="fold")
    for mou in mous.values():
        owners = sorted({term.agency for term in mou.contributions})
        uses = "hold and match"
        grid.add_row(
            mou.id, str(mou.version), ", ".join(owners), mou.hub, "", uses, str(mou.expires)
        )
    for dula in dulas.values():
        grid.add_row(
            dula.id,
            str(dula.version),
            ", ".join(dula.owners.agencies),
            ", ".join(party.key for party in dula.recipients.parties),
            dula.purpose.code,
            ", ".join(dula.uses.allowed),
            str(dula.term.expires),
        )
    console.print(grid)


@app.command()
def show(agreement: AgreementArgument, conf: Conf = Path("conf")) -> None:
    """Show a DULA: parties, purpose, uses, every column with why it is needed."""
    _, dulas = _load(conf)
    dula = _named(dulas, agreement)
    for line in _head(dula):
        console.print(line, markup=False)
    for dataset in dula.datasets:
        title = f"clause {dataset.clause}: {dataset.table}, owner {dataset.owner}"
        grid = Grid(title=title, title_justify="left", pad_edge=False)
        grid.add_column("column", overflow="fold")
        grid.add_column("why", overflow="fold")
        for column in dataset.columns:
            grid.add_row(column.name + (" (pseudonym)" if column.pseudonym else ""), column.why)
        console.print(grid)
        console.print(f"  rows: {_rows(dataset)}", markup=False)


@app.command()
def check(
    agreement: AgreementArgument,
    use: Annotated[str, typer.Option(help=f"One of {', '.join(USES)}.")] = "study",
    purpose: Annotated[
        str | None, typer.Option(help="Default: the agreement's own purpose.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="<feed>.<table>.<column>; may be repeated. Default: all agreed."),
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option(help="<feed>.<table>,<feed>.<table>,... to be linked; may be repeated."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The agreement that a model to be applied was trained under.")
    ] = None,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Business date. Default: today.")
    ] = None,
    conf: Conf = Path("conf"),
) -> None:
    """Tell whether a request would be allowed today, and by which clauses not (exit 14)."""
    mous, dulas = _load(conf)
    dula = _named(dulas, agreement)
    today = datetime.now(UTC).date()
    request = Request(
        actor="",
        agreement=dula.id,
        purpose=purpose or dula.purpose.code,
        use=_use(use),
        columns=_columns(dula, column or []),
        as_of=as_of.date() if as_of else today,
        linkages=frozenset(frozenset(tables.split(",")) for tables in link or []),
    )
    under = _named(dulas, model) if model else None
    decision = decide(request, dula, mous[dula.mou], today, model=under).or_refuse()
    console.print(f"allowed until {decision.expires}", markup=False)
    for duty in decision.duties:
        console.print(f"  duty: {duty}", markup=False)


def _load(conf: Path) -> tuple[dict[str, Mou], dict[str, Dula]]:
    contracts = load_contracts(conf / "feeds")
    mous = load_mous(conf, contracts)
    return mous, load_dulas(conf, mous, contracts)


def _named(dulas: dict[str, Dula], name: str) -> Dula:
    if name not in dulas:
        raise UsageError(
            f"there is no agreement {name!r}; conf/agreements has {', '.join(dulas) or 'none'}"
        )
    return dulas[name]


def _use(text: str) -> Use:
    for use in USES:
        if use == text:
            return use
    raise UsageError(f"--use {text}: use one of {', '.join(USES)}")


def _columns(dula: Dula, named: Sequence[str]) -> dict[str, frozenset[str]]:
    if not named:
        return {dataset.table: frozenset(dataset.column_names) for dataset in dula.datasets}
    asked: dict[str, set[str]] = {}
    for column in named:
        table, _, name = column.rpartition(".")
        if table.count(".") != 1:
            raise UsageError(f"--column {column}: name it <feed>.<table>.<column>")
        asked.setdefault(table, set()).add(name)
    return {table: frozenset(names) for table, names in asked.items()}


def _head(dula: Dula) -> list[str]:
    parties = "; ".join(
        f"{party.key} ({party.kind}; {party.custodian})" for party in dula.recipients.parties
    )
    links = "; ".join(
        f"clause {link.clause}: {', '.join(link.tables)} ({link.why})" for link in dula.linkages
    )
    uses = ", ".join(dula.uses.allowed)
    return [
        f"{dula.reference}: {dula.title}",
        f"under {dula.mou}, digest {digest(dula)}",
        f"clause {dula.owners.clause}, owners: {', '.join(dula.owners.agencies)}",
        f"clause {dula.recipients.clause}, recipients: {parties}",
        f"clause {dula.purpose.clause}, purpose: {dula.purpose.code}: {dula.purpose.text}",
        f"clause {dula.uses.clause}, uses: {uses}"
        + ("; decisions about individual people" if dula.uses.individual_action else "")
        + ("; returned under the agency's own ids" if dula.uses.returned_under_own_ids else ""),
        f"linkages: {links or 'none'}",
        f"clause {dula.disclosure.clause}, disclosure profile: {dula.disclosure.profile}",
        f"clause {dula.term.clause}: {dula.term.effective} to {dula.term.expires}",
    ]


def _rows(dataset: Dataset) -> str:
    parts = [f"periods within {dataset.period_from} to {dataset.period_until}"]
    parts += [_condition(each) for each in dataset.rows]
    if dataset.people_of:
        parts.append(f"only people of {dataset.people_of}")
    return "; ".join(parts)


def _condition(each: RowFilter) -> str:
    values = ", ".join(v.isoformat() if isinstance(v, date) else str(v) for v in each.values)
    return f"{each.column} {each.operator} {values}".rstrip() + f" ({each.why})"
