"""YAML 1.2 of the core schema, and dates, as plain values with the line of each.

By libyaml through PyYAML, which reads YAML 1.1: `no` would be false there, `010` eight and `1:30`
ninety. A parser in Python (ruamel.yaml) took 2.4 of the 4 seconds that every command needed to read
conf/; this one takes 0.1.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

Location = tuple[str | int, ...]


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue  # PyYAML refuses it
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def integer(self, node: ScalarNode) -> int:
        text = node.value
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)

    def timestamp(self, node: ScalarNode) -> Any:
        """A date that does not exist stays a text, so that validation can tell its line."""
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            return node.value


# The tags of https://yaml.org/spec/1.2.2/#1032-tag-resolution, and of dates and merged mappings
# those of 1.1, by the characters that a value of each can begin with.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [*_first, ""] if _tag == "null" else list(_first),
    )
for _tag, _regexp in Resolver.yaml_implicit_resolvers["0"]:
    if _tag.endswith(":timestamp"):
        _Loader.add_implicit_resolver(_tag, _regexp, list("0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.timestamp)


def parsed(text: str) -> tuple[Any, Node | None]:
    """The one document of a text: its value and its nodes. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        return (None if root is None else loader.construct_document(root)), root
    finally:
        loader.dispose()


def line_of(root: Node | None, location: Location) -> int:
    """Line (from 1) of the deepest part of `location` that the document really has."""
    node, line = root, 1
    for step in location:
        if isinstance(node, MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
        elif isinstance(node, SequenceNode) and isinstance(step, int):
            found = [(value, value) for value in node.value[step : step + 1]]
        else:
            break
        if not found:
            break
        place, node = found[0]
        line = place.start_mark.line + 1
    return line
