"""Reads a table of a contract, and checks what its parts say of one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from pydantic import BaseModel

from concord.contracts import model
from concord.contracts.columns import LOGICAL_TYPES, base_type, check_type, read_field
from concord.contracts.formats import check_format
from concord.contracts.place import NAME, Place, check_name, choice, suggestion, typed
from concord.contracts.relationships import read_references
from concord.contracts.rules import read_rules
from concord.contracts.subjects import check_direct_columns, check_subject_columns

# Columns that Concord itself adds to curated tables.
RESERVED = frozenset({"valid_from", "valid_to", "is_current"})
TABLE_PROPERTIES = frozenset({"format", "loadPolicy", "controlTotals", "subjects", "derived"})


def read_table(place: Place, code_lists: model.CodeLists | None) -> model.Table | None:
    before = len(place.found)
    name = place.get("name", "")
    if not NAME.match(name):
        place.say("must be lower case letters, digits and underscores", "name")
    custom = place.custom(TABLE_PROPERTIES)
    form = None
    if "format" in custom:
        form = typed(model.Format, custom["format"])
    else:
        place.say("'format' is missing; add the customProperty, such as {kind: csv}")
    policy = choice(place, custom, "loadPolicy", get_args(model.LoadPolicy))
    subjects = _each(custom.get("subjects"), model.Subject)
    totals = typed(tuple[str, ...], custom["controlTotals"]) if "controlTotals" in custom else ()
    if not place.get("properties"):
        place.say("'properties' is missing; list at least one column")
    fields = [read_field(item, code_lists) for item in place.items("properties")]
    known = {f.name: f for f in fields if f}
    columns = {item.get("name") for item in place.items("properties")}
    derived = _derived(custom.get("derived"))
    row_rules, table_rules = read_rules(place, columns)
    _check_taken(place, fields, subjects, derived, policy)
    _check_sources(place, fields)
    _check_key(place, fields, policy)
    for subject, at in subjects:
        check_subject_columns(at, subject, known, columns)
    if "subjects" not in custom or len(subjects) == len(custom["subjects"].data):
        check_direct_columns(place, fields, [subject for subject, _ in subjects])
    for column in totals or ():
        if column not in columns:
            custom["controlTotals"].say(f"no column {column!r}{suggestion(column, columns)}")
        elif column in known and LOGICAL_TYPES[base_type(known[column].type)] not in (
            "integer",
            "number",
        ):
            custom["controlTotals"].say(f"{column!r} is not a number; a sum needs one")
    if form is not None:
        check_format(place, custom["format"], form, fields)
    references = read_references(place, name)
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
    read = [(typed(kind, place.at(i)), place.at(i)) for i in range(len(place.data))]
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
        item = typed(model.Derived, at, data)
        if item is None:
            continue
        check_name(at, item.name, "name")
        check_type(at, item.type, "type")
        if item.identifier_role == "direct":
            at.say(
                "a derived column stays in the curated table, so it cannot be direct",
                "identifierRole",
            )
        result.append((item, at))
    return result


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
        check_name(at, subject.role, "role")
        if not subject.key:
            at.say("name at least one column", "key")
        if subject.record_id in taken:
            at.say(f"the name {subject.record_id!r} is taken ({taken[subject.record_id]})", "role")
        taken[subject.record_id] = f"subject {subject.role!r}"
    for item, column in zip(properties, fields, strict=True):
        if column and column.harmonise:
            name = column.harmonise.column
            check_name(item, name)
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
