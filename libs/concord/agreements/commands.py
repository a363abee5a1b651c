"""`concord agreement`: everything that needs the files of conf/ alone, and no Spark.

New drafts and versions, a readable page, what changed, whether the terms would allow a request.
What moves an agreement through its life is in `concord.agreements.life_commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table as Grid

from concord.agreements import drafting, page, storage_rules, words
from concord.agreements.agencies import load_agencies
from concord.agreements.canonical import digest
from concord.agreements.decision import Request, decide
from concord.agreements.dula import USES, Dula, Use
from concord.agreements.loading import TO_BE_SAID, load_dulas, mistakes
from concord.agreements.mou import Mou, Purpose, load_mous
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.contracts.odcs import load_contracts
from concord.disclosure.profiles import load_profiles
from concord.errors import ConfigError, UsageError
from concord.lake.run import actor, roles
from concord.options import DEFAULT_SETTINGS, SettingsOption
from concord.settings import Settings, load_settings, read_document, validate

app = typer.Typer(
    no_args_is_help=True,
    help="Agreements: new, check, show, diff, amend, renew; request, review, sign; list, calendar.",
)
infra_app = typer.Typer(no_args_is_help=True, help="What the infrastructure needs: policies.")
# Wide enough for a table when the output goes to a file or a pipe.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160, highlight=False)

AgreementArgument = Annotated[str, typer.Argument(help="The agreement, such as DULA-2026-0001.")]
DayOption = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A day, in place of today.")
]


@dataclass(frozen=True)
class Known:
    """What conf/ says of agreements."""

    settings: Settings
    contracts: dict[str, Contract]
    mous: dict[str, Mou]
    dulas: dict[str, Dula]

    def terms(self, name: str) -> Dula | Mou:
        """Raises UsageError for an agreement that conf/agreements does not have."""
        both: dict[str, Dula | Mou] = {**self.mous, **self.dulas}
        if name not in both:
            known = ", ".join(both) or "none"
            raise UsageError(f"there is no agreement {name!r}; conf/agreements has {known}")
        return both[name]

    def dula(self, name: str) -> Dula:
        found = self.terms(name)
        if not isinstance(found, Dula):
            raise UsageError(f"{name} is a memorandum; requests are made under DULAs")
        return found

    def file(self, name: str) -> Path:
        return self.settings.conf / "agreements" / f"{name}.yaml"


def load(settings: Path, lake: str | None = None) -> Known:
    """Raises ConfigError with every mistake of every file."""
    given = load_settings(settings, {"lake": lake})
    contracts = load_contracts(given.conf / "feeds")
    mous = load_mous(given.conf, contracts)
    return Known(given, contracts, mous, load_dulas(given.conf, mous, contracts))


@app.command()
def show(
    agreement: AgreementArgument,
    form: Annotated[str, typer.Option("--as", help="text, markdown or html.")] = "text",
    settings: SettingsOption = DEFAULT_SETTINGS,
) -> None:
    """Show an agreement clause by clause, to compare with the signed document."""
    known = load(settings)
    terms = known.terms(agreement)
    match form:
        case "markdown":
            print(page.markdown(terms, known.contracts))
        case "html":
            print(page.html(terms, known.contracts))
        case "text":
            _show(terms, known)
        case _:
            raise UsageError(f"--as {form}: use text, markdown or html")


def _show(terms: Dula | Mou, known: Known) -> None:
    console.print(f"{terms.reference}: {terms.title}", markup=False)
    console.print(f"SHA-256 of the terms: {digest(terms)}", markup=False)
    for section in words.sections(terms, known.contracts):
        grid = Grid(title=section.title, title_justify="left", pad_edge=False, show_header=False)
        grid.add_column("what", overflow="fold", min_width=24)
        grid.add_column("terms", overflow="fold")
        for name, text in section.statements:
            grid.add_row(name, text)
        console.print(grid)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The file of the older version.")],
    new: Annotated[Path, typer.Argument(help="The file of the newer version.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
) -> None:
    """Tell in words what a newer version of an agreement says otherwise."""
    given = load_settings(settings)
    contracts = load_contracts(given.conf / "feeds")
    one, other = (_read(path) for path in (old, new))
    found = words.changes(one, other, contracts)
    for line in found:
        console.print(f"- {line}", markup=False)
    if not found:
        console.print("the terms say the same")


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
    on: DayOption = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
) -> None:
    """Tell whether the terms would allow a request, signed by all, and by which clauses not (14).

    Whether they are signed, `concord agreement list` tells. Nothing is read, nothing logged.
    """
    known = load(settings)
    dula = known.dula(agreement)
    today = on.date() if on else datetime.now(UTC).date()
    who = actor()
    request = Request(
        actor=who,
        roles=roles(known.settings, who),
        agreement=dula.id,
        purpose=purpose or dula.purpose.code,
        use=_use(use),
        columns=_columns(dula, column or []),
        as_of=as_of.date() if as_of else today,
        linkages=frozenset(frozenset(tables.split(",")) for tables in link or []),
    )
    if model:
        known.dula(model)
    signed = Register(known.mous, known.dulas, (), {}, signed_by_all=True)
    decision = decide(request, signed, today, model=model).or_refuse()
    console.print(f"allowed until {decision.expires}", markup=False)
    for duty in decision.duties:
        console.print(f"  duty: {duty}", markup=False)


@app.command()
def new(
    agreement: Annotated[str, typer.Argument(help="Its number, such as DULA-2027-0001.")],
    title: Annotated[str, typer.Option(prompt=True, help="What it is about, in a line.")],
    purpose: Annotated[str, typer.Option(prompt=f"purpose ({', '.join(get_args(Purpose))})")],
    recipient: Annotated[str, typer.Option(prompt=True, help="Key of who receives the data.")],
    kind: Annotated[str, typer.Option(help="state, local, researcher or vendor.")] = "state",
    column: Annotated[
        list[str] | None,
        typer.Option(help="<feed>.<table>.<column> that is wanted; may be repeated."),
    ] = None,
    effective: DayOption = None,
    expires: DayOption = None,
    settings: SettingsOption = DEFAULT_SETTINGS,
) -> None:
    """Draft an agreement from a purpose and a list of columns, filled in by the laws it answers to.

    Prints which laws' presets apply, and what is left for people to say.
    """
    given = load_settings(settings)
    contracts = load_contracts(given.conf / "feeds")
    mous = load_mous(given.conf, contracts)
    path = given.conf / "agreements" / f"{agreement}.yaml"
    if path.exists():
        raise UsageError(f"{path} is there already; concord agreement amend raises its version")
    listed = column or _asked_for()
    first = effective.date() if effective else datetime.now(UTC).date()
    wish = drafting.Wish(
        id=agreement,
        title=title,
        purpose=purpose,
        recipient=recipient,
        kind=kind,
        columns=_tables(listed),
        effective=first,
        expires=expires.date() if expires else first.replace(year=first.year + 1),
    )
    profile = next(iter(load_profiles(given.conf)), TO_BE_SAID)
    made = drafting.draft(wish, contracts, mous, profile)
    path.write_text(made.text, encoding="utf-8")
    console.print(f"drafted {path}", markup=False)
    for preset in made.presets:
        console.print(f"  applies: {preset.title} ({preset.citation})", markup=False)
    try:
        document = read_document(path)
        terms = validate(document, Dula)
        agencies = load_agencies(given.conf / "agencies.yaml")
        minimums = {name: each.minimum for name, each in load_profiles(given.conf).items()}
        left = [
            str(document.problem(place, message))
            for place, message in mistakes(path.stem, terms, agencies, mous, contracts, minimums)
        ]
    except ConfigError as error:
        left = list(error.problems)
    for problem in left:
        console.print(f"  left to do: {problem}", markup=False, soft_wrap=True)


@infra_app.command()
def policies(
    store: Annotated[
        str, typer.Option(help=f"One of {', '.join(storage_rules.STORES)}.")
    ] = "posix",
    settings: SettingsOption = DEFAULT_SETTINGS,
    lake: Annotated[str | None, typer.Option(help="Lake root.")] = None,
) -> None:
    """Write out the access rules of the lake's folders, by role, for the store that keeps it."""
    known = load(settings, lake)
    given = known.settings
    print(storage_rules.written(store, given.lake, given.job_roles, known.dulas.values()))


@app.command()
def amend(agreement: AgreementArgument, settings: SettingsOption = DEFAULT_SETTINGS) -> None:
    """Begin a new version in the agreement's file; the one before governs until it is signed."""
    known = load(settings)
    known.terms(agreement)
    path = known.file(agreement)
    version = drafting.new_version(path)
    console.print(
        f"{path} is version {version} now: change its terms, then concord agreement request "
        f"{agreement}",
        markup=False,
    )


@app.command()
def renew(
    agreement: AgreementArgument,
    until: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The new last day.")],
    settings: SettingsOption = DEFAULT_SETTINGS,
) -> None:
    """Begin a new version with a later last day, to be reviewed and signed like any other."""
    known = load(settings)
    terms = known.terms(agreement)
    ends = terms.term.expires if isinstance(terms, Dula) else terms.expires
    if until.date() <= ends:
        raise UsageError(f"{agreement} holds until {ends} already; name a later day")
    path = known.file(agreement)
    version = drafting.new_version(path, expires=until.date())
    console.print(
        f"{path} is version {version} now, until {until.date()}: concord agreement check, then "
        f"request {agreement}",
        markup=False,
    )


def _read(path: Path) -> Dula | Mou:
    document = read_document(path)
    number = str(document.data.get("id", "")) if isinstance(document.data, dict) else ""
    return validate(document, Mou) if number.startswith("MOU-") else validate(document, Dula)


def _use(text: str) -> Use:
    for use in USES:
        if use == text:
            return use
    raise UsageError(f"--use {text}: use one of {', '.join(USES)}")


def _columns(dula: Dula, named: Sequence[str]) -> dict[str, frozenset[str]]:
    if not named:
        return {dataset.table: frozenset(dataset.column_names) for dataset in dula.datasets}
    return {table: frozenset(names) for table, names in _tables(named).items()}


def _tables(columns: Sequence[str]) -> dict[str, list[str]]:
    """Columns by table, from `<feed>.<table>.<column>`."""
    found: dict[str, list[str]] = {}
    for column in columns:
        table, _, name = column.rpartition(".")
        if table.count(".") != 1:
            raise UsageError(f"--column {column}: name it <feed>.<table>.<column>")
        found.setdefault(table, []).append(name)
    return found


def _asked_for() -> list[str]:
    """Columns, one after the other, until a line is empty."""
    found: list[str] = []
    while answer := typer.prompt("column (<feed>.<table>.<column>; empty: done)", default=""):
        found.append(answer)
    if not found:
        raise UsageError("an agreement needs at least one column: name it with --column")
    return found


def days_of(terms: Dula | Mou) -> tuple[date, date]:
    """First and last day of the terms."""
    if isinstance(terms, Dula):
        return terms.term.effective, terms.term.expires
    return terms.effective, terms.expires
