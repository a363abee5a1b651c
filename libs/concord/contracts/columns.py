"""Reads a property of a contract into a `Field`: type, role, bounds, dates, codes."""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, cast, get_args

from concord.contracts import model
from concord.contracts.place import Place, check_name, choice, one_of, suggestion, typed

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
# Pattern letters that Spark's date parser accepts, apart from those with a usual mistake.
DATE_LETTERS = frozenset("GyuMLdEaHhKkmsSVzOXxqQD")
COLUMN_PROPERTIES = frozenset(
    {"identifierRole", "dateFormats", "booleans", "position", "impliedDecimals", "harmonise"}
)


def base_type(kind: str) -> str:
    return "decimal" if DECIMAL.match(kind) else kind


def check_type(place: Place, kind: str, *steps: str) -> bool:
    """Whether `kind` is a Spark type that a contract may use."""
    precise = DECIMAL.match(kind)
    if precise and int(precise[2]) <= int(precise[1]) <= 38 and int(precise[1]) > 0:
        return True
    if kind in LOGICAL_TYPES and kind != "decimal":
        return True
    known = ", ".join("decimal(p,s)" if t == "decimal" else t for t in LOGICAL_TYPES)
    place.say(f"unknown Spark type {kind!r}; use one of {known}", *steps)
    return False


def read_field(place: Place, code_lists: model.CodeLists | None) -> model.Field | None:
    before = len(place.found)
    name = place.get("name", "")
    check_name(place, name, "name")
    custom = place.custom(COLUMN_PROPERTIES)
    role = choice(place, custom, "identifierRole", get_args(model.IdentifierRole))
    levels = get_args(model.Classification)
    classification = place.get("classification")
    if classification is None:
        place.say(f"'classification' is missing; {one_of(levels)}")
    elif classification not in levels:
        place.say(f"unknown classification {classification!r}; {one_of(levels)}", "classification")
    kind = place.get("physicalType")
    if kind is None:
        place.say("'physicalType' is missing; give the Spark type")
    elif not check_type(place, kind, "physicalType"):
        kind = None
    if place.get("logicalType") is None:
        place.say("'logicalType' is missing; add it")
    elif kind and place.data["logicalType"] != LOGICAL_TYPES[base_type(kind)]:
        wanted = LOGICAL_TYPES[base_type(kind)]
        place.say(f"does not fit physicalType {kind}; use {wanted}", "logicalType")
    if place.get("partitioned"):
        place.say("Concord lays tables out itself; remove it", "partitioned")
    options = _options(place, kind) if kind else {}
    formats: tuple[str, ...] = ()
    if "dateFormats" in custom:
        formats = typed(tuple[str, ...], custom["dateFormats"]) or ()
        for index, text in enumerate(formats):
            _check_date_format(custom["dateFormats"].at(index), text)
    if first := options.get("format"):
        _check_date_format(place.at("logicalTypeOptions", "format"), first)
        formats = (first, *(text for text in formats if text != first))
    if formats and kind not in (None, "date", "timestamp"):
        place.say(f"has date formats but is of type {kind}; remove them or make it a date")
    booleans = typed(dict[str, bool], custom["booleans"]) if "booleans" in custom else {}
    if booleans and kind not in (None, "boolean"):
        custom["booleans"].say(f"is for boolean columns; this one is {kind}")
    position = typed(tuple[int, int], custom["position"]) if "position" in custom else None
    decimals = typed(int, custom["impliedDecimals"]) if "impliedDecimals" in custom else 0
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
        if key not in usable.get(LOGICAL_TYPES[base_type(kind)], set()):
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
        match base_type(kind):
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
    place: Place | None, allowed: tuple[str, ...], code_lists: model.CodeLists | None
) -> model.Harmonise | None:
    if place is None:
        return None
    item: model.Harmonise | None = typed(model.Harmonise, place)
    if item is None:
        return None
    if code_lists is None:
        place.say("there is no code_lists.yaml beside the folder of contracts; add it")
        return item
    if item.to not in code_lists:
        place.say(f"no code list {item.to!r}{suggestion(item.to, code_lists)}", "to")
        return item
    codes = code_lists[item.to]
    for source, code in item.map.items():
        if code not in codes:
            place.say(f"{code!r} is no code of {item.to!r}; {one_of(codes)}", "map", source)
        if allowed and source not in allowed:
            place.say(
                f"{source!r} is not in the column's enum; add it there or drop it here",
                "map",
                source,
            )
    if item.otherwise is not None and item.otherwise not in codes:
        place.say(f"{item.otherwise!r} is no code of {item.to!r}; {one_of(codes)}", "otherwise")
    for value in allowed if item.otherwise is None else ():
        if value not in item.map:
            place.say(f"maps no {value!r} of the column's enum; add it or give otherwise", "map")
    return item
