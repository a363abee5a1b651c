"""Reads Open Data Contract Standard (ODCS) v3 files into the typed contracts of `model`.

Two passes over each file: the official JSON Schema of ODCS 3.2 (which refuses unknown keys), then
the reading of values into types with the checks that a schema cannot express. All mistakes of
all files are reported at once, each with its file, line, place and remedy.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from jsonschema import Draft201909Validator
from jsonschema.exceptions import ValidationError as SchemaError
from pydantic import BaseModel, TypeAdapter, ValidationError

from concord.contracts import model
from concord.errors import ConfigError
from concord.settings import (
    Document,
    Location,
    Problem,
    Typed,
    gather,
    problems_of,
    read_document,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CodeLists = Mapping[str, Mapping[str, str]]

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)\Z")
# The Spark types a contract may use, each with the logical type ODCS gives it.
LOGICAL_TYPES = {
    "string": "string",
    "int": "integer",
    "bigint": "integer",
    "double": "number",
    "decimal": "number",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}
SEVERITIES: tuple[str, ...] = get_args(model.Severity)
# Columns that Concord itself adds to curated tables.
RESERVED = frozenset({"valid_from", "valid_to", "is_current"})
# Pattern letters that Spark's date parser accepts, apart from those with a usual mistake.
DATE_LETTERS = frozenset("GyuMLdEaHhKkmsSVzOXxqQD")

CONTRACT_PROPERTIES = frozenset({"agency", "calendar", "quarantineLimit"})
TABLE_PROPERTIES = frozenset({"format", "loadPolicy", "controlTotals", "subjects", "derived"})
COLUMN_PROPERTIES = frozenset(
    {"identifierRole", "dateFormats", "booleans", "position", "impliedDecimals", "harmonise"}
)
OPERATORS = (
    "mustBe",
    "mustBeGreaterThan",
    "mustBeGreaterOrEqualTo",
    "mustBeLessThan",
    "mustBeLessOrEqualTo",
    "mustBeBetween",
)
# Steps of a location that say nothing to the reader of a message.
SILENT_STEPS = frozenset({"schema", "properties", "customProperties", "value"})


def load_contract(
    path: Path, *, code_lists: CodeLists | None = None, agencies: Collection[str] | None = None
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


@lru_cache(maxsize=1)
def odcs_schema() -> dict[str, Any]:
    """The official JSON Schema of ODCS 3.2."""
    text = resources.files("open_data_contract_standard").joinpath("schema.json").read_text("utf-8")
    return cast(dict[str, Any], json.loads(text))


# --- a place in a document -----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One value of a document, with the list that collects what is wrong with it."""

    document: Document
    data: Any
    location: Location = ()
    found: list[Problem] = field(default_factory=list)

    def say(self, message: str, *steps: str | int) -> None:
        """Note a problem with this value, or with the part of it that `steps` lead to."""
        self.found.append(problem(self.document, (*self.location, *steps), message))

    def get(self, key: str, default: Any = None) -> Any:
        return self.data.get(key, default) if isinstance(self.data, Mapping) else default

    def at(self, *steps: str | int) -> Place:
        data = self.data
        for step in steps:
            data = data[step]
        return Place(self.document, data, (*self.location, *steps), self.found)

    def items(self, key: str) -> Iterator[Place]:
        """The places of the list under `key`, none when it is absent."""
        for index in range(len(self.get(key) or ())):
            yield self.at(key, index)

    def custom(self, known: Collection[str]) -> dict[str, Place]:
        """Its customProperties by name; unknown and repeated names are problems."""
        properties: dict[str, Place] = {}
        for item in self.items("customProperties"):
            name = item.data["property"]
            if name not in known:
                item.say(f"unknown custom property {name!r}{_meant(name, known)}", "property")
            elif name in properties:
                item.say(f"custom property {name!r} is given twice; keep one", "property")
            else:
                properties[name] = item.at("value")
        return properties


def problem(document: Document, location: Location, message: str) -> Problem:
    """A problem whose place is told in the file's own names: `claims.first_name.pattern`."""
    return Problem(document.file, document.line(location), _where(document.data, location), message)


def _where(data: Any, location: Location) -> str:
    words = ""
    for step in location:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            data = None
        name: Any = None
        if isinstance(step, int) and isinstance(data, Mapping):
            name = next((data[k] for k in ("name", "property", "role") if k in data), None)
        if step in SILENT_STEPS:
            continue
        if isinstance(step, int) and not isinstance(name, str):
            words += f"[{step}]"
        else:
            word = name if isinstance(step, int) else step
            words += f".{word}" if words else str(word)
    return words


def _meant(word: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; remove it or correct its spelling"


def _one_of(words: Iterable[str]) -> str:
    return "use one of " + ", ".join(words)


# --- the standard's own schema -------------------------------------------------------------------


@lru_cache(maxsize=1)
def _validator() -> Draft201909Validator:
    return Draft201909Validator(odcs_schema())


def _plain(data: Any) -> Any:
    """Plain dicts and lists, dates as ISO text as the JSON Schema wants them."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(value) for value in data]
    if isinstance(data, (date, datetime)):
        return data.isoformat()
    return data


def _schema_problems(document: Document, plain: Any) -> list[Problem]:
    found: dict[tuple[Location, str], Problem] = {}
    for error in _validator().iter_errors(plain):
        for location, message in _explain(error, plain):
            found[location, message] = problem(document, location, message)
    return list(found.values())


def _explain(error: SchemaError, plain: Any) -> Iterator[tuple[Location, str]]:
    """An error of the JSON Schema in the words of someone who edits the file."""
    location: Location = tuple(error.absolute_path)
    if error.validator in ("additionalProperties", "unevaluatedProperties"):
        # The validator calls every key of an object unevaluated when one of them has an error
        # of its own: so known keys are collected from the schema instead of trusting it.
        known = _known_keys(cast(dict[str, Any], error.schema))
        for key in sorted(set(cast(dict[str, Any], error.instance)) - known, key=str):
            yield (*location, key), f"unknown key {key!r}{_meant(key, known)}"
    elif "logicalTypeOptions" in location and not _logical_type(plain, location):
        return  # every branch of the schema applies until logicalType is there; that is reported
    elif error.validator == "required":
        for key in cast(list[str], error.validator_value):
            if key not in cast(dict[str, Any], error.instance):
                yield location, f"{key!r} is missing; add it"
    elif error.validator == "oneOf" and "mustBe" in str(error.schema):
        yield location, f"give exactly one bound: {', '.join(OPERATORS)}"
    elif error.validator in ("oneOf", "anyOf") and error.context:
        deepest = max(error.context, key=lambda inner: len(inner.absolute_path))
        yield from _explain(deepest, plain)
    elif error.validator == "enum":
        allowed = ", ".join(str(value) for value in cast(list[Any], error.validator_value))
        yield location, f"unknown value; use one of {allowed}"
    elif error.validator == "type":
        wanted = error.validator_value
        names = wanted if isinstance(wanted, str) else " or ".join(cast(list[str], wanted))
        hint = "; put it in quotes" if names == "string" else ""
        yield location, f"must be of type {names}{hint}"
    else:
        yield location, error.message[:300]


def _logical_type(plain: Any, location: Location) -> bool:
    for step in location[: location.index("logicalTypeOptions")]:
        plain = plain[step]
    return "logicalType" in plain


def _known_keys(schema: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    keys = set(schema.get("properties", ()))
    if "$ref" in schema and schema["$ref"] not in seen:
        target: Any = odcs_schema()
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        seen |= {schema["$ref"]}
        keys |= _known_keys(target, seen)
    for word in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(word, ()):
            keys |= _known_keys(part, seen)
    if "then" in schema:
        keys |= _known_keys(schema["then"], seen)
    return keys


# --- contract ------------------------------------------------------------------------------------


def _contract(
    document: Document, code_lists: CodeLists | None, agencies: Collection[str] | None
) -> model.Contract:
    if not isinstance(document.data, Mapping):
        raise ConfigError([Problem(document.file, 1, "", "not a data contract: the file is empty")])
    plain = _plain(document.data)
    found = _schema_problems(document, plain)
    if found:
        # Typed reading relies on the shape the schema guarantees; it would only echo its errors.
        broken = {p.line for p in found}
        found += [p for p in _safely_read(document, plain, code_lists) if p.line not in broken]
        raise ConfigError(_in_order(found))
    place = Place(document, plain)
    contract = _read(place, code_lists, agencies)
    if place.found or contract is None:
        raise ConfigError(_in_order(place.found))
    return contract


def _safely_read(document: Document, plain: Any, code_lists: CodeLists | None) -> list[Problem]:
    """What typed reading finds in a file whose shape is wrong, as far as it gets."""
    place = Place(document, plain)
    # Where the shape is too wrong to go on, the schema's problems say so already.
    with suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):
        _read(place, code_lists, None)
    return place.found


def _in_order(found: Iterable[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(found), key=lambda p: (p.file, p.line, p.where, p.message))


def _read(
    place: Place, code_lists: CodeLists | None, agencies: Collection[str] | None
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
    agency = _choice(place, custom, "agency", sorted(agencies) if agencies is not None else None)
    calendar = _choice(place, custom, "calendar", get_args(model.Calendar))
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
    tables = [_table(table, code_lists) for table in place.items("schema")]
    for index, name in enumerate(names):
        if name in names[:index]:
            place.say(f"table {name!r} is given twice; rename one", "schema", index, "name")
    _check_references(place, [table for table in tables if table])
    _check_subjects(place, [table for table in tables if table])
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
        tables=tuple(table for table in tables if table),
        file=place.document.file,
    )


def _description(place: Place) -> str:
    parts = place.get("description") or {}
    said = [
        str(parts[key]).strip() for key in ("purpose", "usage", "limitations") if parts.get(key)
    ]
    return "\n\n".join(said)


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


def _choice(
    place: Place, custom: Mapping[str, Place], name: str, allowed: Collection[str] | None
) -> str | None:
    """The customProperty `name`, one of `allowed` (None allows any text)."""
    if name not in custom:
        choices = f" ({_one_of(allowed)})" if allowed else ""
        place.say(f"{name!r} is missing; add the customProperty{choices}")
        return None
    value = custom[name].data
    if not isinstance(value, str) or (allowed is not None and value not in allowed):
        custom[name].say(f"unknown {name} {value!r}; {_one_of(allowed or ())}")
        return None
    return value


def _typed(kind: Any, place: Place, data: Any = None) -> Any:
    """The place's value (or `data` in its stead) as `kind`; None, with problems, if unfit."""
    try:
        return TypeAdapter(kind).validate_python(place.data if data is None else data)
    except ValidationError as error:
        for item in problems_of(place.document, error, place.location):
            hint = "; put it in quotes" if item.message.endswith("valid string") else ""
            place.found.append(
                Problem(
                    item.file,
                    item.line,
                    _where(place.document.data, place.location),
                    item.message + hint,
                )
            )
        return None


# --- tables --------------------------------------------------------------------------------------


def _table(place: Place, code_lists: CodeLists | None) -> model.Table | None:
    before = len(place.found)
    name = place.get("name", "")
    if not NAME.match(name):
        place.say("must be lower case letters, digits and underscores", "name")
    custom = place.custom(TABLE_PROPERTIES)
    form = None
    if "format" in custom:
        form = _typed(model.Format, custom["format"])
    else:
        place.say("'format' is missing; add the customProperty, such as {kind: csv}")
    policy = _choice(place, custom, "loadPolicy", get_args(model.LoadPolicy))
    subjects = _each(custom.get("subjects"), model.Subject)
    totals = _typed(tuple[str, ...], custom["controlTotals"]) if "controlTotals" in custom else ()
    if not place.get("properties"):
        place.say("'properties' is missing; list at least one column")
    fields = [_field(item, code_lists) for item in place.items("properties")]
    known = {f.name: f for f in fields if f}
    columns = {item.get("name") for item in place.items("properties")}
    derived = _derived(custom.get("derived"))
    row_rules, table_rules = _rules(place, columns)
    _check_taken(place, fields, subjects, derived, policy)
    _check_sources(place, fields)
    _check_key(place, fields, policy)
    for subject, at in subjects:
        _check_columns(at, subject.key, columns, "key")
        for identifier, mapped in (subject.identifiers or {}).items():
            used = (mapped,) if isinstance(mapped, str) else mapped
            _check_columns(at, used, columns, "identifiers", identifier)
            for column in used:
                if column in known and known[column].identifier_role in ("sensitive", "none"):
                    at.say(
                        f"{column!r} goes to the vault as {identifier!r}, so its identifierRole "
                        "must be direct or quasi",
                        "identifiers",
                        identifier,
                    )
    if "subjects" not in custom or len(subjects) == len(custom["subjects"].data):
        _check_direct(place, fields, [subject for subject, _ in subjects])
    for column in totals or ():
        if column not in columns:
            custom["controlTotals"].say(f"no column {column!r}{_meant(column, columns)}")
        elif column in known and LOGICAL_TYPES[_base(known[column].type)] not in (
            "integer",
            "number",
        ):
            custom["controlTotals"].say(f"{column!r} is not a number; a sum needs one")
    if form is not None:
        _check_format(place, custom["format"], form, fields)
    references = _references(place, name)
    if len(place.found) > before:
        return None
    return model.Table(
        name=name,
        description=place.get("description") or "",
        format=cast(model.Format, form),
        policy=cast(model.LoadPolicy, policy),
        fields=_numbered([f for f in fields if f]),
        subjects=tuple(subject for subject, _ in subjects),
        row_rules=tuple(row_rules),
        table_rules=tuple(table_rules),
        references=tuple(reference for reference, _ in references),
        derived=tuple(item for item, _ in derived),
        control_totals=totals or (),
    )


def _each(place: Place | None, kind: type[BaseModel]) -> list[tuple[Any, Place]]:
    if place is None:
        return []
    if not isinstance(place.data, list):
        place.say("must be a list")
        return []
    read = [(_typed(kind, place.at(i)), place.at(i)) for i in range(len(place.data))]
    return [(value, at) for value, at in read if value is not None]


def _derived(place: Place | None) -> list[tuple[model.Derived, Place]]:
    if place is None:
        return []
    if not isinstance(place.data, list):
        place.say("must be a list")
        return []
    result = []
    for index in range(len(place.data)):
        at = place.at(index)
        if not isinstance(at.data, Mapping):
            at.say("must have name, type, expression, description, identifierRole, classification")
            continue
        data = {"identifier_role" if k == "identifierRole" else k: v for k, v in at.data.items()}
        item = _typed(model.Derived, at, data)
        if item is None:
            continue
        _check_name(at, item.name, "name")
        _check_type(at, item.type, "type")
        if item.identifier_role == "direct":
            at.say(
                "a derived column stays in the curated table, so it cannot be direct",
                "identifierRole",
            )
        result.append((item, at))
    return result


def _check_name(place: Place, name: str, *steps: str) -> None:
    if not NAME.match(name):
        place.say(f"{name!r} must be lower case letters, digits and underscores", *steps)


def _check_columns(
    place: Place, used: Iterable[str], columns: Collection[str], *steps: str | int
) -> None:
    for column in used:
        if column not in columns:
            place.say(f"no column {column!r}{_meant(column, columns)}", *steps)


def _check_taken(
    place: Place,
    fields: list[model.Field | None],
    subjects: list[tuple[model.Subject, Place]],
    derived: list[tuple[model.Derived, Place]],
    policy: str | None,
) -> None:
    """Every column name of the curated table is used once."""
    taken = {name: "Concord adds it to the table" for name in RESERVED if policy == "snapshot"}
    properties = list(place.items("properties"))
    for item in properties:
        name = item.get("name", "")
        if name in taken:
            item.say(f"the name {name!r} is taken ({taken[name]}); choose another", "name")
        taken[name] = "a column of the file"
    for subject, at in subjects:
        _check_name(at, subject.role, "role")
        if not subject.key:
            at.say("name at least one column", "key")
        if subject.record_id in taken:
            at.say(f"the name {subject.record_id!r} is taken ({taken[subject.record_id]})", "role")
        taken[subject.record_id] = f"subject {subject.role!r}"
    for item, column in zip(properties, fields, strict=True):
        if column and column.harmonise:
            name = column.harmonise.column
            _check_name(item, name)
            if name in taken:
                item.say(f"harmonise: the name {name!r} is taken ({taken[name]}); choose another")
            taken[name] = f"{column.name!r} harmonised"
    for extra, at in derived:
        if extra.name in taken:
            at.say(
                f"the name {extra.name!r} is taken ({taken[extra.name]}); choose another", "name"
            )
        taken[extra.name] = "a derived column"


def _check_sources(place: Place, fields: list[model.Field | None]) -> None:
    seen: set[str] = set()
    for item, column in zip(place.items("properties"), fields, strict=True):
        if column and column.source in seen:
            item.say(f"two columns read {column.source!r} of the file; give each its physicalName")
        seen |= {column.source} if column else set()


def _check_key(place: Place, fields: list[model.Field | None], policy: str | None) -> None:
    keyed = [item for item in place.items("properties") if item.get("primaryKey")]
    if policy in ("upsert", "snapshot") and not keyed:
        place.say(f"load policy {policy!r} needs a primary key; mark columns with primaryKey: true")
    positions = [item.get("primaryKeyPosition", -1) for item in keyed]
    if any(p != -1 for p in positions) and sorted(positions) != list(range(1, len(keyed) + 1)):
        keyed[0].say(f"primaryKeyPosition must number the key's columns from 1 to {len(keyed)}")
    for item in place.items("properties"):
        if "primaryKeyPosition" in item.data and not item.get("primaryKey"):
            item.say("has a primaryKeyPosition without primaryKey: true", "primaryKeyPosition")


def _numbered(fields: list[model.Field]) -> tuple[model.Field, ...]:
    """Keys without positions are numbered in the order of the file."""
    keyed = [f.name for f in fields if f.key_position == -1]
    return tuple(
        f.model_copy(update={"key_position": keyed.index(f.name) + 1}) if f.name in keyed else f
        for f in fields
    )


def _check_direct(
    place: Place,
    fields: list[model.Field | None],
    subjects: list[model.Subject],
) -> None:
    mapped: set[str] = set()
    for subject in subjects:
        mapped |= set(subject.key)
        for columns in (subject.identifiers or {}).values():
            mapped |= {columns} if isinstance(columns, str) else set(columns)
    for item, column in zip(place.items("properties"), fields, strict=True):
        if column and column.identifier_role == "direct" and column.name not in mapped:
            item.say(
                "is direct but no subject maps it, so it has nowhere to go; add it to a "
                "subject's key or identifiers"
            )


def _check_format(place: Place, at: Place, form: Any, fields: list[model.Field | None]) -> None:
    if isinstance(form, model.Csv):
        for name in ("delimiter", "quote", "escape"):
            if len(getattr(form, name)) != 1:
                at.say(f"{name} must be one character", *([name] if name in at.data else []))
    if not isinstance(form, model.FixedWidth):
        for item in place.items("properties"):
            names = {c.get("property") for c in item.items("customProperties")}
            for name in sorted(names & {"position", "impliedDecimals"}):
                item.say(f"{name} is for fixed-width files only; remove it")
        return
    spans: list[tuple[int, int, str, Place]] = []
    for item, column in zip(place.items("properties"), fields, strict=True):
        if column is None:
            continue
        if column.position is None:
            item.say("'position' is missing; add the customProperty [start, length], from 1")
            continue
        start, length = column.position
        end = start + length - 1
        if start < 1 or length < 1:
            item.say("position must be [start, length], both 1 or more")
        elif end > form.record_length:
            item.say(f"ends at {end}, beyond the record length {form.record_length}")
        else:
            spans.append((start, end, column.name, item))
    spans.sort(key=lambda span: span[:3])
    for i, (start, _, _, item) in enumerate(spans):
        for _, earlier_end, earlier, _ in spans[:i]:
            if earlier_end >= start:
                item.say(f"position overlaps that of {earlier!r}, which ends at {earlier_end}")
                break
    columns = {column.name for column in fields if column}
    for part in ("header", "trailer"):
        layout: model.RecordLayout | None = getattr(form, part)
        if layout is None:
            continue
        _check_columns(at, layout.totals, columns | {""}, part, "totals")
        places = {"rows": layout.rows, **layout.totals}
        for name, span in places.items():
            if span and (min(span) < 1 or sum(span) - 1 > form.record_length):
                at.say(
                    f"{name}: [start, length] must lie within the record of length "
                    f"{form.record_length}",
                    part,
                )


# --- columns -------------------------------------------------------------------------------------


def _is_number(kind: str) -> bool:
    return LOGICAL_TYPES[_base(kind)] in ("integer", "number")


def _base(kind: str) -> str:
    return "decimal" if DECIMAL.match(kind) else kind


def _check_type(place: Place, kind: str, *steps: str) -> bool:
    """Whether `kind` is a Spark type that a contract may use."""
    precise = DECIMAL.match(kind)
    if precise and int(precise[2]) <= int(precise[1]) <= 38 and int(precise[1]) > 0:
        return True
    if kind in LOGICAL_TYPES and kind != "decimal":
        return True
    known = ", ".join("decimal(p,s)" if t == "decimal" else t for t in LOGICAL_TYPES)
    place.say(f"unknown Spark type {kind!r}; use one of {known}", *steps)
    return False


def _field(place: Place, code_lists: CodeLists | None) -> model.Field | None:
    before = len(place.found)
    name = place.get("name", "")
    _check_name(place, name, "name")
    custom = place.custom(COLUMN_PROPERTIES)
    role = _choice(place, custom, "identifierRole", get_args(model.IdentifierRole))
    levels = get_args(model.Classification)
    classification = place.get("classification")
    if classification is None:
        place.say(f"'classification' is missing; {_one_of(levels)}")
    elif classification not in levels:
        place.say(f"unknown classification {classification!r}; {_one_of(levels)}", "classification")
    kind = place.get("physicalType")
    if kind is None:
        place.say("'physicalType' is missing; give the Spark type")
    elif not _check_type(place, kind, "physicalType"):
        kind = None
    if place.get("logicalType") is None:
        place.say("'logicalType' is missing; add it")
    elif kind and place.data["logicalType"] != LOGICAL_TYPES[_base(kind)]:
        wanted = LOGICAL_TYPES[_base(kind)]
        place.say(f"does not fit physicalType {kind}; use {wanted}", "logicalType")
    if place.get("partitioned"):
        place.say("Concord lays tables out itself; remove it", "partitioned")
    options = _options(place, kind) if kind else {}
    formats: tuple[str, ...] = ()
    if "dateFormats" in custom:
        formats = _typed(tuple[str, ...], custom["dateFormats"]) or ()
        for index, text in enumerate(formats):
            _check_date_format(custom["dateFormats"].at(index), text)
    if first := options.get("format"):
        _check_date_format(place.at("logicalTypeOptions", "format"), first)
        formats = (first, *(text for text in formats if text != first))
    if formats and kind not in (None, "date", "timestamp"):
        place.say(f"has date formats but is of type {kind}; remove them or make it a date")
    booleans = _typed(dict[str, bool], custom["booleans"]) if "booleans" in custom else {}
    if booleans and kind not in (None, "boolean"):
        custom["booleans"].say(f"is for boolean columns; this one is {kind}")
    position = _typed(tuple[int, int], custom["position"]) if "position" in custom else None
    decimals = _typed(int, custom["impliedDecimals"]) if "impliedDecimals" in custom else 0
    allowed = _allowed(place, kind)
    harmonise = _harmonise(custom.get("harmonise"), allowed, code_lists)
    if harmonise and role == "direct":
        custom["harmonise"].say("a direct column leaves nothing in the curated table; drop it")
    if len(place.found) > before:
        return None
    position_in_key = place.get("primaryKeyPosition", -1) if place.get("primaryKey") else None
    return model.Field(
        name=name,
        source=place.get("physicalName") or name,
        type=cast(str, kind).replace(" ", ""),
        description=place.get("description") or "",
        required=bool(place.get("required") or place.get("primaryKey")),
        key_position=position_in_key,
        identifier_role=cast(model.IdentifierRole, role),
        classification=cast(model.Classification, classification),
        date_formats=formats,
        pattern=options.get("pattern"),
        minimum=options.get("minimum"),
        maximum=options.get("maximum"),
        min_length=options.get("minLength"),
        max_length=options.get("maxLength"),
        allowed=allowed,
        booleans=booleans or {},
        implied_decimals=decimals or 0,
        position=position,
        harmonise=harmonise,
    )


def _options(place: Place, kind: str) -> dict[str, Any]:
    """logicalTypeOptions that Concord enforces, bounds as values of the column's type."""
    options = dict(place.get("logicalTypeOptions") or {})
    usable = {"integer": {"minimum", "maximum"}, "number": {"minimum", "maximum"}}
    usable |= {
        "date": {"format", "minimum", "maximum"},
        "string": {"minLength", "maxLength", "pattern"},
    }
    usable["timestamp"] = usable["date"]
    for key in options:
        if key not in usable.get(LOGICAL_TYPES[_base(kind)], set()):
            place.say(
                f"logicalTypeOptions.{key} is not enforced for {kind}; remove it or write a rule",
                "logicalTypeOptions",
                key,
            )
    for key in ("minimum", "maximum"):
        if key in options:
            options[key] = _bound(place, key, options[key], kind)
    low, high = options.get("minimum"), options.get("maximum")
    if low is not None and high is not None and low > high:
        place.say("minimum is above maximum", "logicalTypeOptions", "minimum")
    if (options.get("minLength") or 0) > options.get("maxLength", math.inf):
        place.say("minLength is above maxLength", "logicalTypeOptions", "minLength")
    if "pattern" in options:
        _check_pattern(place, options["pattern"])
    return options


def _bound(place: Place, key: str, value: Any, kind: str) -> Any:
    try:
        match _base(kind):
            case "int" | "bigint":
                if int(value) != value:
                    raise ValueError
                return int(value)
            case "decimal":
                return Decimal(str(value))
            case "double":
                return float(value)
            case "date":
                return date.fromisoformat(str(value))
            case "timestamp":
                return datetime.fromisoformat(str(value))
    except (ValueError, TypeError, InvalidOperation):
        place.say(f"{value!r} is not a value of type {kind}", "logicalTypeOptions", key)
    return None


def _check_pattern(place: Place, pattern: str) -> None:
    """Patterns run in Java; Python's parser stands in once Java's own escapes are translated."""
    text = pattern.replace(r"\z", r"\Z")
    text = re.sub(r"\\[pP]\{\w+\}", r"\\w", text)
    try:
        re.compile(text)
    except re.error as error:
        place.say(f"not a regular expression: {error}", "logicalTypeOptions", "pattern")


def _check_date_format(place: Place, text: str) -> None:
    letters = set(re.sub(r"'[^']*'", "", text)) & set(map(chr, [*range(65, 91), *range(97, 123)]))
    if "Y" in letters:
        place.say(f"date format {text!r}: YYYY is the week's year; write yyyy")
    elif "D" in letters and "M" in letters:
        place.say(f"date format {text!r}: DD is the day of the year; write dd")
    elif unknown := sorted(letters - DATE_LETTERS):
        place.say(f"date format {text!r}: unknown letter {unknown[0]!r}; quote text as 'text'")
    elif not letters:
        place.say(f"date format {text!r} has no date in it; write such as yyyy-MM-dd")


def _allowed(place: Place, kind: str | None) -> tuple[str, ...]:
    values = []
    for item in place.items("enum"):
        value = item.data["value"]
        if kind == "string" and not isinstance(value, str):
            item.say(f"{value!r} is not text; put it in quotes", "value")
        values.append(str(value))
    return tuple(values)


def _harmonise(
    place: Place | None, allowed: tuple[str, ...], code_lists: CodeLists | None
) -> model.Harmonise | None:
    if place is None:
        return None
    item: model.Harmonise | None = _typed(model.Harmonise, place)
    if item is None:
        return None
    if code_lists is None:
        place.say("there is no code_lists.yaml beside the folder of contracts; add it")
        return item
    if item.to not in code_lists:
        place.say(f"no code list {item.to!r}{_meant(item.to, code_lists)}", "to")
        return item
    codes = code_lists[item.to]
    for source, code in item.map.items():
        if code not in codes:
            place.say(f"{code!r} is no code of {item.to!r}; {_one_of(codes)}", "map", source)
        if allowed and source not in allowed:
            place.say(
                f"{source!r} is not in the column's enum; add it there or drop it here",
                "map",
                source,
            )
    if item.otherwise is not None and item.otherwise not in codes:
        place.say(f"{item.otherwise!r} is no code of {item.to!r}; {_one_of(codes)}", "otherwise")
    for value in allowed if item.otherwise is None else ():
        if value not in item.map:
            place.say(f"maps no {value!r} of the column's enum; add it or give otherwise", "map")
    return item


# --- rules ---------------------------------------------------------------------------------------


class _Condition(Typed):
    """The `implementation` of a custom rule."""

    condition: str
    columns: tuple[str, ...] = ()
    message: str


def _rules(
    place: Place, columns: Collection[str]
) -> tuple[list[model.RowRule], list[model.TableRule]]:
    rows: list[model.RowRule] = []
    tables: list[model.TableRule] = []
    names: set[str] = set()
    sites: list[tuple[Place, str | None]] = [(item, None) for item in place.items("quality")]
    for column in place.items("properties"):
        sites += [(item, column.get("name")) for item in column.items("quality")]
        if column.get("unique"):
            tables.append(_unique(f"unique_{column.get('name')}", [column.data["name"]], "error"))
    for item, of in sites:
        kind = item.get("type", "library")
        if kind == "text":
            continue
        severity = item.get("severity", "error")
        if severity not in get_args(model.Severity):
            item.say(
                f"unknown severity {severity!r}; {_one_of(get_args(model.Severity))}", "severity"
            )
            severity = "error"
        rule = (
            _row_rule(item, of, severity)
            if kind == "custom"
            else _table_rule(item, of, kind, severity, columns)
        )
        if rule is None:
            continue
        if rule.name in names:
            item.say(f"two rules are named {rule.name!r}; give each its own name")
        names.add(rule.name)
        if isinstance(rule, model.RowRule):
            _check_columns(item, rule.columns, columns, "implementation", "columns")
            rows.append(rule)
        else:
            tables.append(rule)
    return rows, tables


def _row_rule(item: Place, of: str | None, severity: Any) -> model.RowRule | None:
    if item.get("engine") != "concord":
        item.say(f"unknown engine {item.get('engine')!r}; use concord", "engine")
        return None
    if not item.get("name"):
        item.say("'name' is missing; add it")
        return None
    condition = _typed(_Condition, item.at("implementation"))
    if condition is None:
        return None
    columns = condition.columns or ((of,) if of else ())
    if not columns:
        item.say("name the columns that the condition looks at", "implementation")
    return model.RowRule(
        name=item.data["name"],
        condition=condition.condition,
        columns=columns,
        message=condition.message,
        severity=severity,
    )


def _table_rule(
    item: Place, of: str | None, kind: str, severity: Any, columns: Collection[str]
) -> model.TableRule | None:
    metric = "sql" if kind == "sql" else item.get("metric")
    percent = item.get("unit") == "percent"
    low, high = _bounds(item, whole=metric != "sql" and not percent)
    name = item.get("name") or "_".join(filter(None, [metric, of]))
    shared: dict[str, Any] = {"name": name, "minimum": low, "maximum": high, "severity": severity}
    if metric == "rowCount":
        return model.TableRule(metric="rowCount", **shared)
    if metric == "sql":
        query = item.get("query", "").replace("${column}", of or "${column}")
        if "${table}" not in query:
            item.say("write ${table} where the delivery's table stands", "query")
        return model.TableRule(metric="sql", query=query, column=of, percent=percent, **shared)
    given = (item.get("arguments") or {}).get("properties")
    used = [of] if of else given if isinstance(given, list) else []
    if not used:
        item.say(f"{metric} is of a column: move it under the column's quality")
        return None
    _check_columns(item, used, columns, "arguments")
    if metric == "nullValues":
        return model.TableRule(metric="nullValues", column=used[0], percent=percent, **shared)
    if metric == "duplicateValues":
        rule = _unique(name, used, severity, percent)
        return rule.model_copy(update={"minimum": low, "maximum": high})
    item.say(
        f"{metric} is not measured here; for values write enum or pattern on the column, "
        "for missing ones nullValues"
    )
    return None


def _unique(name: str, columns: list[str], severity: Any, percent: bool = False) -> model.TableRule:
    key = ", ".join(columns)
    null = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    count = f"count_if({null}) - count(DISTINCT {key})"
    share = f"100.0 * ({count}) / greatest(count(*), 1)"
    return model.TableRule(
        name=name,
        metric="sql",
        query=f"SELECT {share if percent else count} FROM ${{table}}",  # noqa: S608 names, checked
        maximum=0,
        severity=severity,
    )


def _bounds(item: Place, whole: bool) -> tuple[float | None, float | None]:
    """Inclusive (minimum, maximum) of a rule's operator; strict ones step to the next number."""

    def step(value: float, to: float) -> float:
        return (
            value + math.copysign(1, to)
            if whole and value == int(value)
            else math.nextafter(value, to)
        )

    for operator in OPERATORS:
        value = item.get(operator)
        if value is None:
            continue
        if any(
            not isinstance(v, (int, float)) for v in (value if isinstance(value, list) else [value])
        ):
            item.say("must be a number", operator)
            return None, None
        match operator:
            case "mustBe":
                return value, value
            case "mustBeGreaterThan":
                return step(value, math.inf), None
            case "mustBeGreaterOrEqualTo":
                return value, None
            case "mustBeLessThan":
                return None, step(value, -math.inf)
            case "mustBeLessOrEqualTo":
                return None, value
            case "mustBeBetween":
                return value[0], value[1]
    item.say(f"give exactly one bound: {', '.join(OPERATORS)}")
    return None, None


# --- relations between tables --------------------------------------------------------------------


def _references(place: Place, table: str) -> list[tuple[model.Reference, Place]]:
    found = []
    for item in place.items("relationships"):
        found.append(_reference(item, table, item.get("from")))
    for column in place.items("properties"):
        for item in column.items("relationships"):
            found.append(_reference(item, table, f"{table}.{column.get('name')}"))
    return [(reference, at) for reference, at in found if reference is not None]


def _reference(
    item: Place, table: str, start: str | list[str]
) -> tuple[model.Reference | None, Place]:
    ends = []
    for side, value in (("from", start), ("to", item.get("to"))):
        paths = [value] if isinstance(value, str) else list(value)
        pairs = [path.split(".") for path in paths]
        if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) != 1:
            item.say("write table.column, all of one table", side)
            return None, item
        ends.append((pairs[0][0], tuple(pair[1] for pair in pairs)))
    (from_table, columns), (to_table, to_columns) = ends
    if from_table != table:
        item.say(f"must start with this table: {table}.column", "from")
        return None, item
    severity = item.custom({"severity"}).get("severity")
    level: Any = severity.data if severity else "error"
    if level not in SEVERITIES:
        item.say(f"unknown severity {level!r}; {_one_of(SEVERITIES)}")
        return None, item
    return (
        model.Reference(columns=columns, to_table=to_table, to_columns=to_columns, severity=level),
        item,
    )


def _check_references(place: Place, tables: list[model.Table]) -> None:
    """Both ends of every relationship exist and agree in type."""
    columns = {
        table.get("name"): {c.get("name"): c.get("physicalType") for c in table.items("properties")}
        for table in place.items("schema")
    }
    for table in place.items("schema"):
        quiet = Place(table.document, table.data, table.location)  # its problems are noted already
        for reference, at in _references(quiet, table.get("name")):
            here = columns[table.get("name")]
            item = Place(at.document, at.data, at.location, place.found)
            _check_columns(item, reference.columns, here, "from")
            if reference.to_table not in columns:
                item.say(
                    f"no table {reference.to_table!r}{_meant(reference.to_table, columns)}", "to"
                )
                continue
            there = columns[reference.to_table]
            _check_columns(item, reference.to_columns, there, "to")
            for left, right in zip(reference.columns, reference.to_columns, strict=False):
                if here.get(left) and there.get(right) and here[left] != there[right]:
                    item.say(
                        f"{left!r} is {here[left]} and {right!r} is {there[right]}; "
                        "give both the same type"
                    )


def _check_subjects(place: Place, tables: list[model.Table]) -> None:
    """A role means the same in every table, and every person is written to the vault somewhere."""
    seen: dict[str, tuple[str, tuple[str, ...], str]] = {}
    written: set[str] = set()
    complete = len(tables) == len(place.get("schema") or ())
    sites = {table.get("name"): table for table in place.items("schema")}
    for table in tables:
        for subject in table.subjects:
            known = {f.name: f.type for f in table.fields}
            here = (subject.kind, tuple(known[column] for column in subject.key))
            kind, types, first = seen.setdefault(subject.role, (*here, table.name))
            if (kind, types) != here:
                sites[table.name].say(
                    f"subject {subject.role!r} differs from that of table {first!r} in kind or in "
                    "the number or types of its key columns; its record ids would not agree"
                )
            if subject.identifiers is not None:
                written.add(subject.role)
    describing = [t for t in tables if any(s.identifiers is not None for s in t.subjects)]
    for table in describing:
        if table.policy != describing[0].policy:
            sites[table.name].say(
                f"writes to the feed's vault table as {describing[0].name!r} does, but under the "
                f"load policy {table.policy!r}, not {describing[0].policy!r}; use one policy for "
                "both, or make two feeds of them"
            )
        if not table.key:
            sites[table.name].say(
                "writes subjects to the vault, which keeps them by row; mark its primary key"
            )
    for role, (kind, _, first) in seen.items():
        if complete and kind == "person" and role not in written:
            sites[first].say(
                f"no table writes subject {role!r} to the vault; give it identifiers in one table"
            )


# --- expressions ---------------------------------------------------------------------------------


def check_expressions(spark: SparkSession, contract: model.Contract) -> None:
    """Let Spark analyse every condition, derived expression and query over the typed columns.

    Nothing is read or run. Raises ConfigError with every one that does not parse, names an
    unknown column, or is no condition where one must be.
    """
    document = read_document(Path(contract.file))
    found: list[Problem] = []
    # PySpark logs what it raises, with a Java stack; the problems below say it in a line.
    logger = logging.getLogger("SQLQueryContextLogger")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        for index, table in enumerate(contract.tables):
            for name, message in _expression_problems(spark, table):
                line = _line_of(document, index, name)
                found.append(Problem(document.file, line, f"{table.name}.{name}", message))
    finally:
        logger.setLevel(level)
    if found:
        raise ConfigError(_in_order(found))


def _expression_problems(spark: SparkSession, table: model.Table) -> Iterator[tuple[str, str]]:
    from pyspark.errors import PySparkException

    empty = spark.createDataFrame([], ", ".join(f"`{f.name}` {f.type}" for f in table.fields))
    for name, text, condition in [
        *((rule.name, rule.condition, True) for rule in table.row_rules),
        *((item.name, item.expression, False) for item in table.derived),
    ]:
        try:
            actual = empty.selectExpr(f"({text}) AS value").schema["value"].dataType.simpleString()
        except PySparkException as error:
            yield name, f"not a Spark expression: {str(error).strip().splitlines()[0]}"
        else:
            if condition and actual != "boolean":
                yield name, f"is {actual}, not a condition; compare it with something"
    for rule in table.table_rules:
        if rule.query is None:
            continue
        try:
            columns = spark.sql(rule.query.replace("${table}", "{rows}"), rows=empty).columns
        except PySparkException as error:
            yield rule.name, f"not a Spark query: {str(error).strip().splitlines()[0]}"
        else:
            if len(columns) != 1:
                yield rule.name, f"gives {len(columns)} columns; a rule's query gives one number"


def _line_of(document: Document, table: int, name: str) -> int:
    """The line of the rule or derived column called `name`."""

    def search(node: Any, location: Location) -> Location | None:
        if isinstance(node, Mapping):
            if node.get("name") == name and {"expression", "implementation", "query"} & set(node):
                return location
            steps: Iterable[Any] = node.items()
        elif isinstance(node, list):
            steps = enumerate(node)
        else:
            return None
        for step, value in steps:
            if result := search(value, (*location, step)):
                return result
        return None

    start: Location = ("schema", table)
    return document.line(search(document.data["schema"][table], start) or start)
