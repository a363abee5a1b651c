"""Drafts a contract from a sample file: a start to review, not a contract to trust.

Every guess carries a `# review:` comment. No value of the sample enters the draft, but frequent
codes of columns that identify nobody. The draft loads as it stands, so `concord contract check`
can be run after every edit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from concord.contracts.columns import LOGICAL_TYPES, base_type
from concord.contracts.guesses import (
    PEOPLE,
    Guess,
    column_names,
    guess_column,
    plain_name,
    unused_name,
)
from concord.contracts.model import MULTI_VALUED
from concord.contracts.place import NAME
from concord.contracts.samples import Column, Sample, read_sample
from concord.errors import UsageError

# Words that agencies write for "nothing"; found in a sample they become nullValues.
NULL_WORDS = frozenset({"NULL", "null", "N/A", "n/a", "NA", "#N/A", "."})
NUMBER = r"(^|_)(id|number|no|num|key|nbr)$"
# Identifiers that are one person's own, unlike names, dates of birth and addresses.
PERSONAL_NUMBERS = frozenset({"ssn", "state_student_id"})
KEY_COLUMNS = 12  # that are tried together as a key; files begin with their keys


@dataclass(frozen=True)
class Draft:
    """The YAML text of a contract; `warning` says what keeps it from being complete."""

    text: str
    warning: str | None = None


@dataclass(frozen=True)
class Person:
    """A subject of the draft."""

    role: str
    key: tuple[str, ...]
    identifiers: dict[str, str | list[str]]
    review: str


def draft(
    sample: Path,
    feed: str,
    *,
    table: str | None = None,
    agency: str | None = None,
    calendar: str = "month",
    sheet: str | None = None,
) -> Draft:
    """A contract for files like `sample`.

    `table` defaults to the feed's name after its first word, `agency` to that word
    (`dta_snap`: table snap of dta). People of a sample whose rows nothing tells apart stand in
    comments, as the vault keeps them by row. Raises UsageError when the sample cannot be read.
    """
    if not NAME.match(feed):
        raise UsageError(f"feed {feed!r} must be lower case letters, digits and underscores")
    read = read_sample(sample, sheet)
    nulls = sorted({v for c in read.columns for v in c.values if v in NULL_WORDS})
    columns = [_without(c, nulls) for c in read.columns]
    names = column_names(column.source for column in columns)
    guesses = [guess_column(n, c) for n, c in zip(names, columns, strict=True)]
    key = _candidate_key(guesses, columns)
    people = _people(guesses, key if len(key) == 1 or _has_number(key) else ())
    why = _why_no_key(columns) if people and not key else None
    first, _, rest = feed.partition("_")
    text = _render(
        sample=read,
        feed=feed,
        table=table or plain_name(rest) or feed,
        agency=agency or first,
        calendar=calendar,
        nulls=nulls,
        guesses=guesses,
        key=key,
        people=people,
        why_no_key=why,
    )
    if why is None:
        return Draft(text)
    roles = ", ".join(person.role for person in people)
    return Draft(
        text,
        f"no primary key found: {why}. So the draft does not write {roles} to the vault; the "
        "comment above its `subjects` says how to add them",
    )


def _without(column: Column, nulls: Iterable[str]) -> Column:
    empty = set(nulls)
    return replace(column, values=tuple(None if v in empty else v for v in column.values))


# --- guessing the table --------------------------------------------------------------------------


def _candidate_key(guesses: list[Guess], columns: list[Column]) -> tuple[str, ...]:
    """The fewest columns, three at most, that are never empty and never repeat together.

    The agency's own numbers are tried before other columns, what describes a person (names,
    birth dates, addresses) only when nothing else does, as it is corrected now and then.
    """
    values: dict[str, tuple[str | None, ...]] = {}
    numbers, personal, others, describing = [], [], [], []
    for guess, column in zip(guesses, columns, strict=True):
        free_text = guess.role == "sensitive"
        inexact = guess.type.startswith(("decimal", "double", "boolean"))
        if not guess.required or free_text or inexact:
            continue
        values[guess.name] = column.values
        if guess.identifier in PERSONAL_NUMBERS:
            personal.append(guess.name)
        elif guess.identifier:
            describing.append(guess.name)
        elif _has_number([guess.name]):
            numbers.append(guess.name)
        else:
            others.append(guess.name)

    def tell_rows_apart(names: Iterable[str]) -> bool:
        seen = set(zip(*(values[name] for name in names), strict=True))
        return len(seen) == len(columns[0].values) > 1

    if not tell_rows_apart(values):
        return ()
    for pool, sizes in (
        ([*numbers, *others], (1,)),
        ([*numbers, *personal, *others], (1, 2, 3)),
        ([*numbers, *personal, *others, *describing], (1, 2, 3)),
    ):
        for size in sizes:
            for names in combinations(pool if size == 1 else pool[:KEY_COLUMNS], size):
                if tell_rows_apart(names):
                    return names
    return ()


def _has_number(names: Iterable[str]) -> bool:
    return any(re.search(NUMBER, name) for name in names)


def _why_no_key(columns: list[Column]) -> str:
    rows = len(columns[0].values)
    if rows == 1:
        return "the sample has one row, and it takes two to see what tells rows apart"
    repeated = rows - len(set(zip(*(column.values for column in columns), strict=True)))
    if repeated:
        return f"rows of the sample that repeat another in every column: {repeated} of {rows}"
    return "no one, two or three columns without empty values tell the sample's rows apart"


def _people(guesses: list[Guess], key: tuple[str, ...]) -> list[Person]:
    """Subjects by the word before an identifier's name: `child_first_name`, `parent_ssn`."""
    told = [g for g in guesses if g.identifier or g.role == "direct"]
    groups: dict[str, list[Guess]] = {}
    for guess in told:
        found = re.match(rf"({PEOPLE})_", guess.name)
        groups.setdefault(found[1] if found else "", []).append(guess)
    if "" in groups:  # columns without such a word belong to the only other role, or to `person`
        others = [role for role in groups if role]
        role = others[0] if len(others) == 1 else "person"
        groups.setdefault(role, [])
        groups[role] = groups[role] + groups.pop("")
    people: list[Person] = []
    # The curated table has a column `<role>_record_id` beside those of the file.
    record_ids = [g.name for g in guesses if g.name.endswith("_record_id")]
    taken = {name.removesuffix("_record_id") for name in record_ids}
    for role, members in groups.items():
        if all(guess.role != "direct" for guess in members):
            continue  # a town or a language alone is no person
        while members:
            person, members = _person(unused_name(role, taken), members, key)
            taken.add(person.role)
            people.append(person)
    return people


def _person(role: str, members: list[Guess], key: tuple[str, ...]) -> tuple[Person, list[Guess]]:
    """One subject, and the columns that found no place in it (a second name, say)."""
    identifiers: dict[str, str | list[str]] = {}
    left, numbers = [], []
    for guess in members:
        if guess.identifier is None:
            numbers.append(guess.name)
        elif guess.identifier in MULTI_VALUED:
            several = identifiers.setdefault(guess.identifier, [])
            if isinstance(several, list):
                several.append(guess.name)
        elif guess.identifier in identifiers:
            left.append(guess)
        else:
            identifiers[guess.identifier] = guess.name
    if numbers:
        chosen, why = tuple(numbers), "the agency's number of this person?"
    elif isinstance(ssn := identifiers.get("ssn"), str):
        chosen, why = (ssn,), "keyed by SSN, for want of a number of the agency's own"
    elif key:
        chosen, why = key, "keyed by the row's key: is each row another person?"
    else:
        chosen = tuple(v for v in identifiers.values() if isinstance(v, str))
        chosen = chosen or tuple(v for several in identifiers.values() for v in several)
        why = "no key found: is there a number of this person?"
    return Person(role, chosen, identifiers, f"who is this, and {why}"), left


# --- writing it down -----------------------------------------------------------------------------


def _yaml(value: Any) -> str:
    """A value as flow YAML, which JSON is a part of; plain words stay without quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
        plain = value.lower() not in ("y", "n", "yes", "no", "true", "false", "on", "off", "null")
        return value if plain else json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(k)}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _render(
    *,
    sample: Sample,
    feed: str,
    table: str,
    agency: str,
    calendar: str,
    nulls: list[str],
    guesses: list[Guess],
    key: tuple[str, ...],
    people: list[Person],
    why_no_key: str | None,
) -> str:
    form = dict(sample.format)
    if nulls:
        form["null_values"] = ["", *nulls]
    remarks = [f"# review: {remark}" for remark in sample.remarks]
    lines = [
        "# yaml-language-server: $schema=../schemas/contract.schema.json",
        "# A draft from a sample file. Go through every `review`, then delete the comment.",
        *remarks,
        "apiVersion: v3.2.0",
        "kind: DataContract",
        f"id: {_yaml(feed)}",
        f"name: {_yaml(feed)}  # review: a title for people",
        "version: 0.1.0",
        "status: draft",
        "description: {purpose: To be written.}  # review: what the agency collects it for",
        "team:",
        f"  name: {_yaml(agency)}  # review: the office that owns the data",
        "slaProperties:",
        "  - {property: retention, value: 7, unit: y}  # review: as the agreement says",
        "customProperties:",
        f"  - {{property: agency, value: {_yaml(agency)}}}  # review: a key of agencies.yaml",
        f"  - {{property: calendar, value: {calendar}}}  # review: the period of a delivery",
        "  - {property: quarantineLimit, value: 0.02}  # review: share of bad rows to accept",
        "schema:",
        f"  - name: {_yaml(table)}",
        "    description: To be written.  # review: one row per what?",
        "    customProperties:",
        f"      - {{property: format, value: {_yaml(form)}}}",
        f"      - {{property: loadPolicy, value: {'upsert' if key else 'full_refresh'}}}"
        "  # review: full_refresh, upsert, append_only or snapshot",
    ]
    if people:
        lines += _subjects(people, guesses, why_no_key)
    lines += ["    quality:", "      - {metric: rowCount, mustBeGreaterThan: 0}", "    properties:"]
    key_review = _key_review(guesses, key)
    for guess in guesses:
        lines += _property(guess, key, key_review)
    return "\n".join(lines) + "\n"


def _subjects(people: list[Person], guesses: list[Guess], why_no_key: str | None) -> list[str]:
    """The property `subjects`; without a primary key, people in comments after a stand-in.

    The stand-in is a subject that is not written to the vault. Its key takes up every direct
    column, so that a delivery loaded before the review does not publish one.
    """
    lines = ["      - property: subjects", "        value:"]
    written = []
    for person in people:
        written += [
            f"- role: {person.role}  # review: {person.review}",
            f"  key: {_yaml(person.key)}",
            f"  identifiers: {_yaml(person.identifiers)}",
        ]
    if why_no_key is None:
        return lines + [f"          {line}" for line in written]
    direct = [guess.name for guess in guesses if guess.role == "direct"]
    return [
        f"      # review: no primary key found: {why_no_key}.",
        "      # The vault keeps people by row and needs one. Ask the agency what tells rows",
        "      # apart, mark it with `primaryKey: true` (rows that repeat it will be quarantined),",
        "      # delete the stand-in and uncomment what follows it. Until then the stand-in keeps",
        "      # direct columns out of the curated table, and nobody goes to the vault.",
        *lines,
        "          - role: stand_in",
        "            kind: entity",
        f"            key: {_yaml(direct)}",
        *(f"          # {line}" for line in written),
    ]


def _key_review(guesses: list[Guess], key: tuple[str, ...]) -> str:
    if len(key) > 1:
        return f"a guess: no row of the sample repeats {', '.join(key)} together"
    if any(guess.name in key and guess.identifier for guess in guesses):
        return "a guess: no row of the sample repeats it; is each row another person?"
    return "no row of the sample repeats it"


def _property(guess: Guess, key: tuple[str, ...], key_review: str) -> list[str]:
    review = f"  # review: {'; '.join(guess.reviews)}" if guess.reviews else ""
    lines = [f"      - name: {_yaml(guess.name)}{review}"]
    if guess.source != guess.name:
        lines.append(f"        physicalName: {json.dumps(guess.source, ensure_ascii=False)}")
    lines += [
        f"        logicalType: {LOGICAL_TYPES[base_type(guess.type)]}",
        f"        physicalType: {_yaml(guess.type)}",
    ]
    if guess.name in key:
        lines.append(f"        primaryKey: true  # review: {key_review}")
        lines.append(f"        primaryKeyPosition: {key.index(guess.name) + 1}")
    if guess.required:
        lines.append("        required: true")
    lines.append(f"        classification: {guess.classification}")
    if guess.codes:
        codes = ", ".join(f"{{value: {json.dumps(c, ensure_ascii=False)}}}" for c in guess.codes)
        lines.append(f"        enum: [{codes}]")
    lines.append("        customProperties:")
    lines.append(f"          - {{property: identifierRole, value: {guess.role}}}")
    custom: list[tuple[str, Any]] = [
        ("dateFormats", list(guess.formats)),
        ("booleans", guess.booleans),
        ("position", guess.position),
    ]
    for name, value in custom:
        if value:
            lines.append(f"          - {{property: {name}, value: {_yaml(value)}}}")
    return lines
