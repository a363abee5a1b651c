"""JSON Schemas of the files under `conf`, so that editors complete and check while one types.

Generated from the types that read those files; the contract's is the standard's own schema with
the values of Concord's customProperties described.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from concord.contracts import model
from concord.contracts.columns import COLUMN_PROPERTIES
from concord.contracts.odcs import CONTRACT_PROPERTIES
from concord.contracts.odcs_schema import odcs_schema
from concord.contracts.tables import TABLE_PROPERTIES

# Kinds of file whose types live in packages above or beside this one: looked up by name when
# the schemas are written, so that contracts do not import them.
ELSEWHERE = {
    "agencies": ("concord.agreements.agencies", "Agencies"),
    "disclosure": ("concord.disclosure.profiles", "Profiles"),
    "dula": ("concord.agreements.dula", "Dula"),
    "mou": ("concord.agreements.mou", "Mou"),
    "person_index": ("concord.linkage.person_index", "PersonIndex"),
    "product": ("concord.products.specification", "Product"),
    "settings": ("concord.settings", "Settings"),
}


def schemas() -> dict[str, dict[str, Any]]:
    """Schema by kind of file: contract, code_lists and those of ELSEWHERE."""
    result = {"contract": _contract_schema(), "code_lists": _code_lists_schema()}
    for kind, (module, name) in ELSEWHERE.items():
        read = getattr(importlib.import_module(module), name, None)
        if isinstance(read, type) and issubclass(read, BaseModel):
            result[kind] = schema_of(read)
    return result


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The schema of a file that is read as the type."""
    schema = kind.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schemas(folder: Path, made: Mapping[str, dict[str, Any]] | None = None) -> list[Path]:
    """Write `<kind>.schema.json` files, of the library's kinds or those given; returns those that
    changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for kind, schema in (schemas() if made is None else made).items():
        path = folder / f"{kind}.schema.json"
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def _code_lists_schema() -> dict[str, Any]:
    schema = TypeAdapter(dict[str, dict[str, str]]).json_schema()
    title = {"title": "Standard code lists", "description": "List to code to meaning."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **title, **schema}


def _contract_schema() -> dict[str, Any]:
    """ODCS 3.2 with typed customProperties for contract, table and column."""
    schema = copy.deepcopy(odcs_schema())
    definitions: dict[str, Any] = schema["$defs"]
    subject = _inline(TypeAdapter(model.Subject), definitions)
    subject["properties"]["identifiers"]["propertyNames"] = {"enum": list(model.IDENTIFIERS)}
    derived = _inline(TypeAdapter(model.Derived), definitions)
    derived = json.loads(json.dumps(derived).replace("identifier_role", "identifierRole"))
    values: dict[str, Any] = {
        "agency": {"type": "string"},
        "calendar": {"enum": list(get_args(model.Calendar))},
        "quarantineLimit": {"type": "number", "minimum": 0, "maximum": 1},
        "format": _inline(TypeAdapter(model.Format), definitions),
        "loadPolicy": {"enum": list(get_args(model.LoadPolicy))},
        "controlTotals": {"type": "array", "items": {"type": "string"}},
        "subjects": {"type": "array", "items": subject},
        "derived": {"type": "array", "items": derived},
        "identifierRole": {"enum": list(get_args(model.IdentifierRole))},
        "dateFormats": {"type": "array", "items": {"type": "string"}},
        "booleans": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "position": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 2,
            "maxItems": 2,
        },
        "impliedDecimals": {"type": "integer", "minimum": 0},
        "harmonise": _inline(TypeAdapter(model.Harmonise), definitions),
    }
    for name, known in (
        ("ConcordContractProperties", CONTRACT_PROPERTIES),
        ("ConcordTableProperties", TABLE_PROPERTIES),
        ("ConcordColumnProperties", COLUMN_PROPERTIES),
    ):
        definitions[name] = _custom({key: values[key] for key in sorted(known)})
    schema["properties"]["customProperties"] = {"$ref": "#/$defs/ConcordContractProperties"}
    for name, kind in (("SchemaObject", "Table"), ("SchemaBaseProperty", "Column")):
        own = {"customProperties": {"$ref": f"#/$defs/Concord{kind}Properties"}}
        definitions[name]["properties"].update(own)
    definitions["SchemaBaseProperty"]["properties"]["classification"] = {
        "enum": list(get_args(model.Classification))
    }
    return schema


def _custom(values: Mapping[str, Any]) -> dict[str, Any]:
    """A list of customProperties of which each has one of the names and a value to fit it."""
    choices = [
        {
            "if": {"properties": {"property": {"const": name}}},
            "then": {"properties": {"value": value}},
        }
        for name, value in values.items()
    ]
    item = {
        "allOf": [{"$ref": "#/$defs/CustomProperty"}, *choices],
        "properties": {"property": {"enum": list(values)}},
    }
    return {"type": "array", "items": item}


def _inline(adapter: TypeAdapter[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The type's schema, with the definitions it refers to moved into `definitions`."""
    schema = adapter.json_schema(ref_template="#/$defs/{model}")
    definitions.update(schema.pop("$defs", {}))
    return schema
