"""Reads the DULA files of `conf/agreements` and checks them against MOUs, agencies and contracts.

All mistakes of all files are reported at once, each with its file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from concord.agreements.agencies import Agencies, load_agencies
from concord.agreements.dula import AgreedColumn, Dataset, Dula, Linkage, RowFilter, Value
from concord.agreements.labels import (
    CLASSIFICATION,
    IDENTIFIER_ROLE,
    column_labels,
    stays,
    subject_keys,
)
from concord.agreements.mou import Contribution, Mou, Regime
from concord.agreements.presets import Facts, demanded, missing_regimes
from concord.contracts.model import Contract, Table
from concord.disclosure.profiles import load_profiles
from concord.errors import ConfigError
from concord.settings import gather, read_document, validate
from concord.yaml12 import Location

Mistakes = Iterator[tuple[Location, str]]
Contracts = Mapping[str, Contract]
# What a draft says where people still have to.
TO_BE_SAID = "TO BE SAID"


def load_dula(
    path: Path,
    *,
    agencies: Agencies,
    mous: Mapping[str, Mou] | None = None,
    contracts: Contracts | None = None,
    minimums: Mapping[str, int] | None = None,
) -> Dula:
    """Read a DULA file and check it against agencies and, when given, MOUs and contracts, and
    against the laws that it names.

    `minimums` gives the smallest count that each disclosure profile shows. Raises ConfigError with
    every mistake and its line.
    """
    document = read_document(path)
    dula = validate(document, Dula)
    found = [
        document.problem(location, message)
        for location, message in mistakes(path.stem, dula, agencies, mous, contracts, minimums)
    ]
    if found:
        raise ConfigError(found)
    return dula


def load_dulas(
    conf: Path, mous: Mapping[str, Mou] | None = None, contracts: Contracts | None = None
) -> dict[str, Dula]:
    """All DULA files of `conf/agreements`, by id. Raises one ConfigError with all mistakes."""
    dulas, errors = {}, []
    try:
        minimums = {name: each.minimum for name, each in load_profiles(conf).items()}
    except ConfigError:
        minimums = {}  # told by whoever needs the profiles
    agencies = load_agencies(conf / "agencies.yaml")
    paths = {path.stem: path for path in sorted((conf / "agreements").glob("DULA-*.yaml"))}
    for path in paths.values():
        try:
            dula = load_dula(
                path, agencies=agencies, mous=mous, contracts=contracts, minimums=minimums
            )
            dulas[dula.id] = dula
        except ConfigError as error:
            errors.append(error)
    for dula in dulas.values():
        for number, other in enumerate(dula.uses.models_usable_under):
            if other not in paths:
                place = read_document(paths[dula.id])
                location = ("uses", "models_usable_under", number)
                message = f"there is no agreement {other!r} in conf/agreements; drop it"
                errors.append(ConfigError([place.problem(location, message)]))
    gather(errors)
    return dulas


def mistakes(
    stem: str,
    dula: Dula,
    agencies: Agencies,
    mous: Mapping[str, Mou] | None,
    contracts: Contracts | None,
    minimums: Mapping[str, int] | None = None,
) -> Mistakes:
    """Everything that is wrong with an agreement's terms, each with its place."""
    if dula.id != stem:
        yield ("id",), f"must equal the file's name, {stem!r}; rename one of them"
    if dula.term.expires < dula.term.effective:
        yield ("term", "expires"), "is before effective"
    yield from _unsaid((), dula.model_dump())
    yield from _clauses(dula)
    yield from _uses(dula)
    yield from _tables(dula)
    yield from _people(dula)
    yield from demanded(dula, Facts(contracts, minimums or {}))
    if minimums and dula.disclosure.profile not in minimums:
        known = ", ".join(sorted(minimums))
        yield ("disclosure", "profile"), f"no such profile in conf/disclosure.yaml, only {known}"
    mou = (mous or {}).get(dula.mou)
    if mous is not None and mou is None:
        known = ", ".join(mous) or "none"
        yield ("mou",), f"there is no {dula.mou!r} in conf/agreements, only {known}"
    if mou is not None:
        yield from _parties(dula, mou, agencies)
        yield from missing_regimes(dula, _regimes(mou))
        if dula.term.effective < mou.effective or dula.term.expires > mou.expires:
            message = f"{mou.id} is in force from {mou.effective} to {mou.expires}; stay within"
            yield ("term",), message
    if contracts is None:
        return
    yield from _matching_only(dula, contracts)
    for index, dataset in enumerate(dula.datasets):
        place: Location = ("datasets", index)
        contract = contracts.get(dataset.feed)
        source = _table(contract, dataset.source)
        if contract is None or source is None:
            message = f"there is no table {dataset.table!r} in conf/feeds"
            yield (*place, "table"), f"{message}; use one of {_known(contract, contracts)}"
            continue
        yield from _dataset(place, dula, dataset, contract, source)
        if mou is not None:
            yield from _against_mou(place, dula, dataset, mou)
    if mou is not None:
        for index, linkage in enumerate(dula.linkages):
            yield from _may_be_matched(("linkages", index), linkage, mou)


def _clauses(dula: Dula) -> Mistakes:
    seen: set[str] = set()
    for place, clause in dula.clauses():
        if clause in seen:
            yield (*place, "clause"), f"clause {clause!r} is given twice; number it anew"
        seen.add(clause)


def _unsaid(place: Location, value: Any) -> Mistakes:
    """Where a draft still waits for somebody's words."""
    if isinstance(value, str) and TO_BE_SAID in value:
        yield place, "a draft's place for your words; say it"
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _unsaid((*place, str(name)), each)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _unsaid((*place, number), each)


def _regimes(mou: Mou) -> dict[str, tuple[Regime, ...]]:
    """The laws that each feed's data stands under."""
    found: dict[str, tuple[Regime, ...]] = {}
    for term in mou.contributions:
        found[term.feed] = (*found.get(term.feed, ()), *term.regimes)
    return found


def _people(dula: Dula) -> Mistakes:
    if not (dula.people.users or dula.people.roles):
        yield ("people",), "nobody may work with the data; list users or roles"
    keys = {party.key for party in dula.recipients.parties}
    for index, agent in enumerate(dula.recipients.agents):
        if agent.works_for not in keys:
            place = ("recipients", "agents", index, "works_for")
            known = ", ".join(sorted(keys))
            yield place, f"{agent.works_for!r} is no recipient; use one of {known}"
    if dula.purpose.code in dula.purpose.prohibited:
        yield ("purpose", "prohibited"), f"{dula.purpose.code} is the purpose itself"
    if dula.supersedes == dula.id:
        yield ("supersedes",), "is the agreement itself; raise its version instead"
    review = dula.term.next_review
    if review is not None and not dula.term.effective <= review <= dula.term.expires:
        yield ("term", "next_review"), "is not within the term"


def _matching_only(dula: Dula, contracts: Contracts) -> Mistakes:
    """What is used to recognise people and never released: fields that there are, none agreed."""
    for index, only in enumerate(dula.matching_only):
        place: Location = ("matching_only", index)
        feed, _, name = only.table.partition(".")
        source = _table(contracts.get(feed), name)
        if source is None:
            known = _known(contracts.get(feed), contracts)
            yield (*place, "table"), f"there is no table {only.table!r}; use one of {known}"
            continue
        agreed = [d for d in dula.datasets if d.table == only.table]
        fields = {field.name for field in source.fields}
        for number, element in enumerate(only.elements):
            where = (*place, "elements", number)
            if element not in fields:
                yield where, f"{only.table} has no field {element!r}"
            for dataset in agreed:
                if element in dataset.column_names:
                    yield where, f"is for matching only, but clause {dataset.clause} releases it"


def _uses(dula: Dula) -> Mistakes:
    uses, place = dula.uses, ("uses", "allowed")
    if "score" in uses.allowed:
        if dula.purpose.code != "service-coordination":
            yield place, f"scores need the purpose service-coordination, not {dula.purpose.code}"
        if not uses.individual_action:
            yield place, "scores are decisions about people: individual_action must be true"
    if "study" not in uses.allowed:
        yield place, "every other use reads the study; add study"
    if uses.returned_under_own_ids and "score" not in uses.allowed:
        yield ("uses", "returned_under_own_ids"), "there are no scores to return; drop it"


def _tables(dula: Dula) -> Mistakes:
    """Datasets and linkages among themselves."""
    for index, dataset in enumerate(dula.datasets):
        place: Location = ("datasets", index)
        if dataset.table in [other.table for other in dula.datasets[:index]]:
            yield (*place, "table"), f"{dataset.table!r} is listed twice; join the two"
        if dataset.owner not in dula.owners.agencies:
            yield (*place, "owner"), f"{dataset.owner!r} is not among the owners; add it there"
        if dataset.period_until < dataset.period_from:
            yield (*place, "period_until"), "is before period_from"
        if dataset.people_of is not None:
            linked = dula.linkage(dataset.table)
            if linked is None or dataset.people_of not in linked.tables:
                message = f"needs a linkage of {dataset.table} and {dataset.people_of}"
                yield (*place, "people_of"), message
            elif (other := dula.dataset(dataset.people_of)) and other.people_of:
                yield (*place, "people_of"), f"{other.table} is itself limited to others' people"
    for key in dula.owners.agencies:
        if key not in [dataset.owner for dataset in dula.datasets]:
            yield ("owners", "agencies"), f"{key!r} owns none of the datasets; drop it"
    placed: set[str] = set()
    for index, linkage in enumerate(dula.linkages):
        for number, table in enumerate(linkage.tables):
            where: Location = ("linkages", index, "tables", number)
            if table not in dula.tables:
                yield where, f"{table!r} is none of the datasets"
            if table in placed:
                # One table has one pseudonym for its people, which matches in all or in none.
                yield where, f"{table!r} is already in a linkage; join the two or drop one"
            placed.add(table)


def _parties(dula: Dula, mou: Mou, agencies: Agencies) -> Mistakes:
    for index, key in enumerate(dula.owners.agencies):
        if key not in mou.signatories:
            yield ("owners", "agencies", index), f"{key!r} has not signed {mou.id}"
    for index, party in enumerate(dula.recipients.parties):
        where = ("recipients", "parties", index, "key")
        if party.kind == "state" and party.key not in agencies.agencies:
            yield where, f"no agency {party.key!r} in agencies.yaml; add it there"
        elif party.kind == "state" and party.key not in mou.signatories:
            yield where, f"{party.key!r} has not signed {mou.id}"


def _dataset(
    place: Location, dula: Dula, dataset: Dataset, contract: Contract, source: Table
) -> Mistakes:
    """A dataset against the contract of its feed."""
    if contract.agency != dataset.owner:
        message = f"the contract of {contract.feed!r} names agency {contract.agency!r}"
        yield (*place, "owner"), f"{message}; make them agree"
    types = column_types(source)
    seen: set[str] = set()
    for number, column in enumerate(dataset.columns):
        where = (*place, "columns", number)
        if column.name in seen:
            yield (*where, "name"), f"{column.name!r} is listed twice; drop one"
        seen.add(column.name)
        if column.name not in types:
            yield (*where, "name"), _no_such_column(source, column.name)
            continue
        yield from _as_contracted(where, column, source)
        if column.pseudonym != (column.name in row_numbers(source)):
            message = (
                "is no number that an agency gives; only these are pseudonyms"
                if column.pseudonym
                else "is an agency's number, by which two studies could be joined: say true"
            )
            yield (*where, "pseudonym"), f"{column.name!r} {message}"
    for number, condition in enumerate(dataset.rows):
        yield from _row_filter((*place, "rows", number), condition, types, source)
    if dataset.people_of is not None and not people(source):
        yield (*place, "people_of"), f"{dataset.table} speaks of no people"


def _as_contracted(where: Location, column: AgreedColumn, source: Table) -> Mistakes:
    """What was signed about a column against what the contract says of it today."""
    said = column_labels(source)[column.name]
    for name, signed, today in (
        ("classification", column.classification, said[CLASSIFICATION]),
        ("identifier_role", column.identifier_role, said[IDENTIFIER_ROLE]),
    ):
        if signed is not None and signed != today:
            yield (*where, name), f"the contract says {today!r} of {column.name!r}; make them agree"


def _against_mou(place: Location, dula: Dula, dataset: Dataset, mou: Mou) -> Mistakes:
    terms = _terms(mou, dataset)
    if not terms:
        yield (
            (*place, "table"),
            f"{mou.id} has no contribution clause for {dataset.table}: {dataset.owner} has not "
            "contributed it",
        )
        return
    allowing = [term for term in terms if dula.purpose.code in term.purposes]
    if not allowing:
        clauses = ", ".join(term.clause for term in terms)
        message = f"{mou.id} clause {clauses} does not contribute {dataset.feed} for"
        yield (*place, "table"), f"{message} {dula.purpose.code}"
    elif (last := max(mou.ends(term) for term in allowing)) < dula.term.expires:
        message = f"{mou.id} lets {dataset.table} be held until {last} only"
        yield ("term", "expires"), f"{message}; end on or before that day"


def _may_be_matched(place: Location, linkage: Linkage, mou: Mou) -> Mistakes:
    feeds = {table.partition(".")[0] for table in linkage.tables}
    for term in mou.contributions:
        if len(feeds) > 1 and term.feed in feeds and not term.may_be_matched:
            message = f"{mou.id} clause {term.clause} does not let people of {term.feed} be matched"
            yield (*place, "tables"), message


def _terms(mou: Mou, dataset: Dataset) -> list[Contribution]:
    return [
        term
        for term in mou.contributions
        if term.feed == dataset.feed
        and term.agency == dataset.owner
        and term.covers(dataset.source)
    ]


# --- columns -------------------------------------------------------------------------------------


def column_types(source: Table) -> dict[str, str]:
    """Spark type of each column of the curated table that an agreement can list, by name."""
    keys = subject_keys(source)
    types = {field.name: field.type for field in source.fields if stays(field, keys)}
    types |= {f.harmonise.column: "string" for f in source.fields if f.harmonise}
    types |= {derived.name: derived.type for derived in source.derived}
    return {name: kind for name, kind in types.items() if name in column_labels(source)}


def row_numbers(source: Table) -> frozenset[str]:
    """Columns in which an agency numbers its rows, claims, forms: restricted text of role none."""
    keys = subject_keys(source)
    return frozenset(
        field.name
        for field in source.fields
        if stays(field, keys)
        and field.type == "string"
        and field.identifier_role == "none"
        and field.classification == "restricted"
    )


def people(source: Table) -> list[str]:
    """Record id columns of the people that a row speaks of."""
    return [subject.record_id for subject in source.subjects if subject.kind == "person"]


def _no_such_column(source: Table, name: str) -> str:
    own = {field.name: field for field in source.fields}
    if name in [subject.record_id for subject in source.subjects]:
        return f"{name!r} is replaced by a pseudonym by itself; do not list it"
    if name in subject_keys(source):
        return f"{name!r} is the key of a subject: its pseudonym is there by itself; do not list it"
    if name in own and own[name].identifier_role == "direct":
        return f"{name!r} is a direct identifier and stays in the vault; no agreement can list it"
    return f"no column {name!r} in the curated table; use one of {', '.join(column_types(source))}"


def _row_filter(
    place: Location, condition: RowFilter, types: Mapping[str, str], source: Table
) -> Mistakes:
    if condition.column not in types:
        yield (*place, "column"), _no_such_column(source, condition.column)
        return
    wanted = {"at_least": (1, 1), "at_most": (1, 1), "is_given": (0, 0)}
    least, most = wanted.get(condition.operator, (1, 10_000))
    if not least <= len(condition.values) <= most:
        count = "no value" if most == 0 else "one value" if most == 1 else "at least one value"
        yield (*place, "values"), f"{condition.operator} takes {count}"
    kind = types[condition.column]
    for number, value in enumerate(condition.values):
        if not _fits(value, kind):
            message = f"is no value of {condition.column}, whose type is {kind}"
            yield (*place, "values", number), message


def _fits(value: Value, kind: str) -> bool:
    match kind.split("(")[0]:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "date":
            return isinstance(value, date)
        case "int" | "bigint" | "smallint":
            return isinstance(value, int) and not isinstance(value, bool)
        case "decimal" | "double" | "float":
            return not isinstance(value, bool) and _is_number(value)
    return False


def _is_number(value: Value) -> bool:
    try:
        return Decimal(str(value)).is_finite()
    except InvalidOperation:
        return False


def _table(contract: Contract | None, name: str) -> Table | None:
    tables = contract.tables if contract else ()
    return next((table for table in tables if table.name == name), None)


def _known(contract: Contract | None, contracts: Contracts) -> str:
    chosen = [contract] if contract else list(contracts.values())
    return ", ".join(f"{c.feed}.{table.name}" for c in chosen for table in c.tables)
