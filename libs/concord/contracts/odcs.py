"""Reads Open Data Contract Standard (ODCS) v3 files into the typed contracts of `model`.

Two passes over each file: the official JSON Schema of ODCS 3.2 (`odcs_schema`), then the reading
of values into types with the checks that a schema cannot express (`tables` and what it imports).
All mistakes of all files are reported at once, each with its file, line, place and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import TypeAdapter, ValidationError

from concord.contracts import model
from concord.contracts.odcs_schema import plain_values, schema_problems
from concord.contracts.place import NAME, Place, choice, in_order
from concord.contracts.relationships import check_references
from concord.contracts.subjects import check_subjects
from concord.contracts.tables import read_table
from concord.errors import ConfigError
from concord.settings import Document, Problem, gather, problems_of, read_document

CONTRACT_PROPERTIES = frozenset({"agency", "calendar", "quarantineLimit"})


def load_contract(
    path: Path,
    *,
    code_lists: model.CodeLists | None = None,
    agencies: Collection[str] | None = None,
) -> model.Contract:
    """Read and check one contract file.

    Without `code_lists` and `agencies`, they are looked for in `code_lists.yaml` and
    `agencies.yaml` of the folder above the file's; where there is no agencies.yaml the agency
    is not checked. Raises ConfigError with every mistake of the file.
    """
    conf = path.parent.parent
    if code_lists is None:
        code_lists = read_code_lists(conf / "code_lists.yaml")
    if agencies is None:
        agencies = _agency_keys(conf / "agencies.yaml")
    return _contract(read_document(path), code_lists, agencies)


def load_contracts(feeds_dir: Path) -> dict[str, model.Contract]:
    """All contracts of a folder, by feed. Raises one ConfigError with all mistakes of all files."""
    if not feeds_dir.is_dir():
        raise ConfigError([Problem(str(feeds_dir), 1, "", "no such folder of contracts")])
    code_lists = read_code_lists(feeds_dir.parent / "code_lists.yaml")
    agencies = _agency_keys(feeds_dir.parent / "agencies.yaml")
    contracts, errors = {}, []
    for path in sorted(feeds_dir.glob("*.yaml")):
        try:
            contract = load_contract(path, code_lists=code_lists, agencies=agencies)
            contracts[contract.feed] = contract
        except ConfigError as error:
            errors.append(error)
    gather(errors)
    return contracts


def read_code_lists(path: Path) -> dict[str, dict[str, str]] | None:
    """The standard code lists, list name to code to meaning; None when there is no such file."""
    if not path.exists():
        return None
    document = read_document(path)
    try:
        return TypeAdapter(dict[str, dict[str, str]]).validate_python(document.data)
    except ValidationError as error:
        raise ConfigError(problems_of(document, error)) from None


def _agency_keys(path: Path) -> frozenset[str] | None:
    """The agencies' keys alone; `concord.agreements.agencies` checks the file itself."""
    if not path.exists():
        return None
    data = read_document(path).data
    agencies = data.get("agencies") if isinstance(data, Mapping) else None
    return frozenset(agencies) if isinstance(agencies, Mapping) else None


# --- one file ------------------------------------------------------------------------------------


def _contract(
    document: Document, code_lists: model.CodeLists | None, agencies: Collection[str] | None
) -> model.Contract:
    if not isinstance(document.data, Mapping):
        raise ConfigError([Problem(document.file, 1, "", "not a data contract: the file is empty")])
    plain = plain_values(document.data)
    found = schema_problems(document, plain)
    if found:
        # Typed reading relies on the shape the schema guarantees; it would only echo its errors.
        broken = {p.line for p in found}
        found += [p for p in _safely_read(document, plain, code_lists) if p.line not in broken]
        raise ConfigError(in_order(found))
    place = Place(document, plain)
    contract = _read(place, code_lists, agencies)
    if place.found or contract is None:
        raise ConfigError(in_order(place.found))
    return contract


def _safely_read(
    document: Document, plain: Any, code_lists: model.CodeLists | None
) -> list[Problem]:
    """What typed reading finds in a file whose shape is wrong, as far as it gets."""
    place = Place(document, plain)
    # Where the shape is too wrong to go on, the schema's problems say so already.
    with suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):
        _read(place, code_lists, None)
    return place.found


def _read(
    place: Place, code_lists: model.CodeLists | None, agencies: Collection[str] | None
) -> model.Contract | None:
    feed = place.get("id", "")
    stem = Path(place.document.file).stem
    if not NAME.match(feed):
        place.say("must be lower case letters, digits and underscores, such as dua_wages", "id")
    if feed != stem:
        place.say(f"must equal the file's name, {stem!r}; rename one of them", "id")
    if not re.fullmatch(r"\d+\.\d+\.\d+", place.get("version", "")):
        place.say("must be major.minor.patch, such as 1.0.0", "version")
    custom = place.custom(CONTRACT_PROPERTIES)
    agency = choice(place, custom, "agency", sorted(agencies) if agencies is not None else None)
    calendar = choice(place, custom, "calendar", get_args(model.Calendar))
    limit = custom["quarantineLimit"].data if "quarantineLimit" in custom else None
    if limit is None:
        place.say("'quarantineLimit' is missing; add the customProperty, such as 0.02")
    elif isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit <= 1:
        custom["quarantineLimit"].say("must be a share from 0 to 1, such as 0.02")
    owner = (
        (place.get("team") or {}).get("name") if isinstance(place.get("team"), Mapping) else None
    )
    if not owner:
        place.say("'team.name' is missing; name the owner of the data")
    if not place.get("schema"):
        place.say("'schema' is missing; list at least one table")
    retention = _retention(place)
    names = [table.get("name") for table in place.items("schema")]
    tables = [read_table(table, code_lists) for table in place.items("schema")]
    for index, name in enumerate(names):
        if name in names[:index]:
            place.say(f"table {name!r} is given twice; rename one", "schema", index, "name")
    check_references(place)
    check_subjects(place, [table for table in tables if table])
    if place.found:
        return None
    return model.Contract(
        feed=feed,
        version=place.data["version"],
        title=place.get("name") or feed,
        description=_description(place),
        agency=cast(str, agency),
        owner=cast(str, owner),
        calendar=cast(model.Calendar, calendar),
        quarantine_limit=cast(float, limit),
        retention_years=cast(int, retention),
        latency_days=_latency(place),
        tables=tuple(table for table in tables if table),
        file=place.document.file,
    )


def _description(place: Place) -> str:
    parts = place.get("description") or {}
    said = [
        str(parts[key]).strip() for key in ("purpose", "usage", "limitations") if parts.get(key)
    ]
    return "\n\n".join(said)


def _latency(place: Place) -> int | None:
    for item in place.items("slaProperties"):
        if item.data["property"] == "latency":
            value = item.data["value"]
            if item.get("unit") not in ("d", "day", "days"):
                item.say("must be in days: unit: d", "unit")
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                item.say("must be a whole number of days, 0 or more", "value")
                return None
            return value
    return None


def _retention(place: Place) -> int | None:
    for item in place.items("slaProperties"):
        if item.data["property"] == "retention":
            value = item.data["value"]
            if item.get("unit") not in ("y", "yr", "year", "years"):
                item.say("must be in years: unit: y", "unit")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                item.say("must be a whole number of years, 1 or more", "value")
                return None
            return value
    place.say(
        "'retention' is missing; add slaProperties: [{property: retention, value: 7, unit: y}]"
    )
    return None
