"""A value in a contract file: where it stands, and the words for what is wrong with it.

The readers of contracts collect problems here instead of raising, so that all are told at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from concord.settings import Document, Problem, problems_of
from concord.yaml12 import Location

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
# Steps of a location that say nothing to the reader of a message.
SILENT_STEPS = frozenset({"schema", "properties", "customProperties", "value"})


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
                item.say(f"unknown custom property {name!r}{suggestion(name, known)}", "property")
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


def in_order(found: Iterable[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(found), key=lambda p: (p.file, p.line, p.where, p.message))


# --- words for messages --------------------------------------------------------------------------


def suggestion(word: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; remove it or correct its spelling"


def one_of(words: Iterable[str]) -> str:
    return "use one of " + ", ".join(words)


# --- what is asked of many values ----------------------------------------------------------------


def choice(
    place: Place, custom: Mapping[str, Place], name: str, allowed: Collection[str] | None
) -> str | None:
    """The customProperty `name`, one of `allowed` (None allows any text)."""
    if name not in custom:
        choices = f" ({one_of(allowed)})" if allowed else ""
        place.say(f"{name!r} is missing; add the customProperty{choices}")
        return None
    value = custom[name].data
    if not isinstance(value, str) or (allowed is not None and value not in allowed):
        custom[name].say(f"unknown {name} {value!r}; {one_of(allowed or ())}")
        return None
    return value


def typed(kind: Any, place: Place, data: Any = None) -> Any:
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


def check_name(place: Place, name: str, *steps: str) -> None:
    if not NAME.match(name):
        place.say(f"{name!r} must be lower case letters, digits and underscores", *steps)


def check_columns(
    place: Place, used: Iterable[str], columns: Collection[str], *steps: str | int
) -> None:
    for column in used:
        if column not in columns:
            place.say(f"no column {column!r}{suggestion(column, columns)}", *steps)
