"""Checks a file's shape by the official JSON Schema of ODCS 3.2, which refuses unknown keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from functools import lru_cache
from importlib import resources
from typing import Any, cast

import jsonschema_rs
from jsonschema import Draft201909Validator
from jsonschema.exceptions import ValidationError as SchemaError

from concord.contracts.place import problem, suggestion
from concord.settings import Document, Problem
from concord.yaml12 import Location

OPERATORS = (
    "mustBe",
    "mustBeGreaterThan",
    "mustBeGreaterOrEqualTo",
    "mustBeLessThan",
    "mustBeLessOrEqualTo",
    "mustBeBetween",
)


@lru_cache(maxsize=1)
def odcs_schema() -> dict[str, Any]:
    """The official JSON Schema of ODCS 3.2."""
    text = resources.files("open_data_contract_standard").joinpath("schema.json").read_text("utf-8")
    return cast(dict[str, Any], json.loads(text))


@lru_cache(maxsize=1)
def _validator() -> Draft201909Validator:
    return Draft201909Validator(odcs_schema())


@lru_cache(maxsize=1)
def _compiled() -> jsonschema_rs.Draft201909Validator:
    return jsonschema_rs.Draft201909Validator(odcs_schema())


def plain_values(data: Any) -> Any:
    """Plain dicts and lists, dates as ISO text as the JSON Schema wants them."""
    if isinstance(data, Mapping):
        return {key: plain_values(value) for key, value in data.items()}
    if isinstance(data, list):
        return [plain_values(value) for value in data]
    if isinstance(data, (date, datetime)):
        return data.isoformat()
    return data


def schema_problems(document: Document, plain: Any) -> list[Problem]:
    # Tells within a hundredth of the time that a file is right; jsonschema tells what is wrong.
    if _compiled().is_valid(plain):
        return []
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
            yield (*location, key), f"unknown key {key!r}{suggestion(key, known)}"
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
