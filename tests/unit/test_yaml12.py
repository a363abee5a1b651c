"""The YAML of conf/: values as YAML 1.2 and a parser of its own see them, and the line of each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from yaml import YAMLError

from concord.yaml12 import Location, line_of, parsed
from tests.conftest import ROOT

FILES = sorted((ROOT / "conf").glob("**/*.yaml"))


def places(value: Any, at: Location = ()) -> Iterator[Location]:
    yield at
    if isinstance(value, dict | list):
        for step, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*at, step))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_what_a_parser_in_python_makes_of_it(path: Path) -> None:
    value, root = parsed(path.read_text("utf-8"))
    other = YAML(typ="rt").load(path)
    assert value == other
    for place in places(value):
        inside, line = other, 0  # of ruamel's, which counts lines from 0
        for step in place:
            of = inside.lc
            line = (of.key(step) if hasattr(inside, "keys") else of.item(step))[0]
            inside = inside[step]
        assert line_of(root, place) == line + 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("false", False), ("010", 10), ("1:30", "1:30"), ("0x1F", 31),
        ("1e3", 1000.0), ("1_000", "1_000"), ("", None), ("~", None), ("'7'", "7"), ("-.5", -0.5),
        ("2024-02-29", date(2024, 2, 29)), ("2023-02-29", "2023-02-29"),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    found, _ = parsed(f"key: {text}\n")
    assert found == {"key": value} and type(found["key"]) is type(value)


def test_merged_mappings() -> None:
    text = "base: &base {a: 1, b: 2}\nown:\n  <<: *base\n  b: 3\n"
    assert parsed(text)[0]["own"] == {"a": 1, "b": 3}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "a: {b: 1, b: 1}\n"])
def test_a_key_stands_once(text: str) -> None:
    with pytest.raises(YAMLError, match="stands twice"):
        parsed(text)


def test_no_code_runs() -> None:
    with pytest.raises(YAMLError, match="could not determine a constructor"):
        parsed("a: !!python/object/apply:os.system [true]\n")
