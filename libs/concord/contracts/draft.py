"""Drafts a contract from a sample file: a start to review, not a contract to trust.

Every guess carries a `# review:` comment. No value of the sample enters the draft, but frequent
codes of columns that identify nobody. The draft loads as it stands, so `concord contract check`
can be run after every edit.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from concord.contracts.model import MULTI_VALUED
from concord.contracts.odcs import DECIMAL, LOGICAL_TYPES, NAME
from concord.contracts.samples import Column, Sample, known_names, read_sample
from concord.errors import UsageError

# Words that agencies write for "nothing"; found in a sample they become nullValues.
NULL_WORDS = frozenset({"NULL", "null", "N/A", "n/a", "NA", "#N/A", "."})
BOOLEAN_WORDS = (("Y", "N"), ("true", "false"), ("True", "False"), ("TRUE", "FALSE"),
                 ("T", "F"), ("Yes", "No"), ("YES", "NO"), ("yes", "no"))  # fmt: skip
# Spark's pattern, Python's, and what a value must look like (Python reads more than Spark).
DATES = (
    ("yyyy-MM-dd", "%Y-%m-%d", r"\d{4}-\d\d-\d\d"),
    ("MM/dd/yyyy", "%m/%d/%Y", r"\d\d/\d\d/\d{4}"),
    ("M/d/yyyy", "%m/%d/%Y", r"\d{1,2}/\d{1,2}/\d{4}"),
    ("dd/MM/yyyy", "%d/%m/%Y", r"\d\d/\d\d/\d{4}"),
    ("MM-dd-yyyy", "%m-%d-%Y", r"\d\d-\d\d-\d{4}"),
    ("yyyy/MM/dd", "%Y/%m/%d", r"\d{4}/\d\d/\d\d"),
    ("dd-MMM-yyyy", "%d-%b-%Y", r"\d\d-[A-Za-z]{3}-\d{4}"),
    ("yyyyMMdd", "%Y%m%d", r"(19|20)\d{6}"),
    ("MMddyyyy", "%m%d%Y", r"\d{4}(19|20)\d\d"),
)
TIMESTAMPS = (
    ("yyyy-MM-dd HH:mm:ss", "%Y-%m-%d %H:%M:%S", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"),
    ("yyyy-MM-dd'T'HH:mm:ss", "%Y-%m-%dT%H:%M:%S", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"),
    (
        "yyyy-MM-dd'T'HH:mm:ssX",
        "%Y-%m-%dT%H:%M:%S%z",
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d)",
    ),
    ("MM/dd/yyyy HH:mm", "%m/%d/%Y %H:%M", r"\d\d/\d\d/\d{4} \d\d:\d\d"),
)
PEOPLE = (
    "child|parent|mother|father|guardian|client|claimant|student|employee|worker|member|applicant|"
    "participant|recipient|head|spouse|patient|person|enrollee|infant|trainee"
)
# Standard identifier, identifier role, and the column names that tell it; the first match wins.
NAMED = (
    ("ssn_last4", "direct", r"(ssn|ss|social).*(last|l)_?(4|four)|last_?4"),
    ("ssn", "direct", r"(^|_)(ssn|soc_?sec\w*|social_security\w*)(_|$)"),
    ("birth_date", "direct", r"(^|_)(dob|birth_?dat\w*|birth_?dt|date_of_birth|born)(_|$)|birthda"),
    ("emails", "direct", r"e_?mail"),
    ("phones", "direct", r"phone|(^|_)(tel|mobile|cell)(_|$)"),
    ("former_family_name", "direct", r"(maiden|former|birth)_.*name|maiden"),
    ("given_name", "direct", r"(^|_)(first|given|f)_?na?me?(_|$)|(^|_)fname|(^|_)forename"),
    ("middle_name", "direct", r"(^|_)(middle|mid|m)_?(name|nm|init\w*)|(^|_)mi$"),
    ("family_name", "direct", r"(^|_)(last|family|sur|l)_?na?me?(_|$)|(^|_)lname|surname"),
    ("name_suffix", "direct", r"(^|_)suffix$"),
    ("full_name", "direct", rf"^(full_?name|name|({PEOPLE})_?name|name_full)$"),
    ("state_student_id", "direct", r"(^|_)(sasid|state_student_id)$"),
    ("address_line2", "direct", r"(addr\w*|street|line)_?(line)?_?2$|(^|_)(apt|unit)(_|$)"),
    ("address_line1", "direct", r"addr|street"),
    ("zip", "quasi", r"(^|_)(zip|postal)"),
    ("city", "quasi", r"(^|_)(city|town|municipality)(_|$)"),
    ("state", "quasi", r"(^|_)(state|st)(_cd|_code)?$"),
    ("sex", "quasi", r"(^|_)(sex|gender)"),
    ("race", "quasi", r"(^|_)race"),
    ("ethnicity", "quasi", r"(^|_)(ethnic|hispanic)"),
    ("language", "quasi", r"(^|_)lang"),
)
# The same by the shape of nearly all values, where a name says nothing.
SHAPED = (
    ("ssn", "a social security number", r"(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}"),
    ("ssn", "a social security number", r"(?!000|666|9)\d{3}(?!00)\d\d(?!0000)\d{4}"),
    ("emails", "an email address", r"[^@\s]+@[^@\s]+\.\w+"),
    ("phones", "a phone number", r"(\+?1[-. ]?)?(\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}"),
    (
        "address_line1",
        "a street address",
        r"(?i)\d+\w? .*\b(st|street|ave|avenue|rd|road|dr|drive|ln|lane|blvd|ct|court|way|pl)\b.*",
    ),
)
WORDS = r"[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ'’ .,-]*"
PERSON_ID = rf"^({PEOPLE}|case_?person|individual|indiv)_?(id|number|no|num|key|nbr)$"


@dataclass(frozen=True)
class Guess:
    """What the draft says of one column, and why, for the comments."""

    name: str
    source: str
    type: str
    required: bool
    role: str = "none"
    classification: str = "confidential"
    identifier: str | None = None
    formats: tuple[str, ...] = ()
    booleans: dict[str, bool] = field(default_factory=dict)
    codes: tuple[str, ...] = ()
    position: tuple[int, int] | None = None
    reviews: tuple[str, ...] = ()


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
) -> str:
    """The YAML text of a contract for files like `sample`.

    `table` defaults to the feed's name after its first word, `agency` to that word
    (`dta_snap`: table snap of dta). Raises UsageError when the sample cannot be read.
    """
    if not NAME.match(feed):
        raise UsageError(f"feed {feed!r} must be lower case letters, digits and underscores")
    read = read_sample(sample, sheet)
    nulls = sorted({v for c in read.columns for v in c.values if v in NULL_WORDS})
    columns = [_without(c, nulls) for c in read.columns]
    names = _names(column.source for column in columns)
    guesses = [_guess(n, c) for n, c in zip(names, columns, strict=True)]
    key = _candidate_key(guesses, columns)
    people = _people(guesses, key)
    first, _, rest = feed.partition("_")
    return _render(
        sample=read,
        feed=feed,
        table=table or _name(rest) or feed,
        agency=agency or first,
        calendar=calendar,
        nulls=nulls,
        guesses=guesses,
        key=key,
        people=people,
    )


def _without(column: Column, nulls: Iterable[str]) -> Column:
    empty = set(nulls)
    return replace(column, values=tuple(None if v in empty else v for v in column.values))


# --- guessing one column -------------------------------------------------------------------------


def _name(text: str) -> str:
    """`childFirstName`, `Child First Name` and `child-first-name` as `child_first_name`."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    text = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return f"c_{text}" if text[:1].isdigit() else text


def _names(sources: Iterable[str]) -> list[str]:
    names: list[str] = []
    for source in sources:
        base = name = _name(source) or "column"
        number = 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


def _share(values: Iterable[str], fits: Callable[[str], Any]) -> float:
    told = [bool(fits(value)) for value in values]
    return sum(told) / len(told) if told else 0.0


def _guess(name: str, column: Column) -> Guess:
    values = [value for value in column.values if value is not None]
    required = len(values) == len(column.values)
    reviews = ["no empty value in the sample"] if required else []
    identifier, role, why = _identifier(name, values)
    kind, formats, booleans = _type(column, values, identifier or "")
    if why:
        reviews.insert(0, why)
    if not values:
        reviews.append("always empty in the sample")
    if kind in ("date", "timestamp") and identifier is None and _looks_like_births(values, formats):
        identifier, role = "birth_date", "direct"
        reviews.insert(0, "dates over many decades: a date of birth?")
    if identifier == "birth_date" and kind != "date":
        reviews.append("a birth date whose dates are not of one format")
    if len(formats) > 1 or formats in (("MM/dd/yyyy",), ("dd/MM/yyyy",), ("M/d/yyyy",)):
        reviews.append("month first or day first?")
    codes: tuple[str, ...] = ()
    if role == "none" and kind == "string":
        unnamed = re.fullmatch(r"(column|field)_\d+", name)  # may be anything, names of people too
        codes = () if unnamed else _codes(values)
        if codes:
            reviews.append("all codes there are?")
        elif values and sum(map(len, values)) / len(values) > 30:
            role = "sensitive"
            reviews.append("free text can name people; does the hub need it?")
    classification = "restricted" if role in ("direct", "sensitive") else "confidential"
    return Guess(
        name=name,
        source=column.source,
        type=kind,
        required=required,
        role=role,
        classification=classification,
        identifier=identifier,
        formats=formats,
        booleans=booleans,
        codes=codes,
        position=column.position,
        reviews=tuple(reviews),
    )


def _identifier(name: str, values: list[str]) -> tuple[str | None, str, str]:
    """(standard identifier, identifier role, why) by the column's name, then its values."""
    if re.search(PERSON_ID, name):
        return None, "direct", "the agency's own number of a person?"
    for identifier, role, pattern in NAMED:
        if re.search(pattern, name):
            return identifier, role, f"{identifier}, by its name"
    for identifier, what, pattern in SHAPED:
        if values and _share(values, re.compile(pattern).fullmatch) > 0.8:
            return identifier, "direct", f"the values look like {what}"
    known = known_names()
    words = {value.upper() for value in values}
    if len(words) >= 3 and _share(words, lambda w: known & set(re.split(r"[ ,.-]+", w))) > 0.6:
        kind = "full_name" if _share(words, lambda w: " " in w or "," in w) > 0.5 else "family_name"
        return kind, "direct", "the values look like names of people"
    distinct = len(set(values)) / len(values) if values else 0.0
    wordy = values and _share(values, re.compile(WORDS).fullmatch) > 0.95
    if wordy and distinct > 0.3 and len(set(values)) > 5 and max(map(len, values)) <= 60:
        several = _share(values, lambda v: " " in v or "," in v) > 0.5
        kind = "full_name" if several else "family_name"
        return kind, "direct", "many different words: names of people?"
    return None, "none", ""


def _type(
    column: Column, values: list[str], identifier: str
) -> tuple[str, tuple[str, ...], dict[str, bool]]:
    """(Spark type, date formats, codes of booleans)."""
    if column.type:
        return column.type, (), {}
    if identifier not in ("", "birth_date") or not values:
        return "string", (), {}
    distinct = set(values)
    for yes, no in BOOLEAN_WORDS:
        if distinct <= {yes, no} and len(values) > 1:
            return "boolean", (), {yes: True, no: False}
    for kind, known in (("date", DATES), ("timestamp", TIMESTAMPS)):
        formats = _formats(values, known)
        if formats:
            return kind, formats, {}
    if _share(values, re.compile(r"-?(0|[1-9]\d*)").fullmatch) == 1:
        widest = max(len(value.lstrip("-")) for value in values)
        if widest <= 18:
            return ("int" if widest <= 9 else "bigint"), (), {}
    if _share(values, re.compile(r"-?(0|[1-9]\d*)(\.\d+)?").fullmatch) == 1:
        whole = max(len(value.lstrip("-").split(".")[0]) for value in values)
        scale = max(len(value.partition(".")[2]) for value in values)
        if whole + scale <= 30:
            return f"decimal({max(whole + 4, 8) + scale},{scale})", (), {}
    return "string", (), {}


def _formats(values: list[str], known: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """The fewest formats that read at least 98 % of the values (some dates are impossible)."""
    left = sorted(set(values))
    total, found = len(left), []
    for _ in range(3):
        shares = [
            (sum(_is_date(v, python, shape) for v in left), -order, spark, python, shape)
            for order, (spark, python, shape) in enumerate(known)
        ]
        count, _, spark, python, shape = max(shares)
        if not count:
            break
        found.append(spark)
        left = [value for value in left if not _is_date(value, python, shape)]
        if len(left) <= 0.02 * total:
            return tuple(found)
    return ()


def _is_date(value: str, python: str, shape: str) -> bool:
    if not re.fullmatch(shape, value):
        return False
    try:
        datetime.strptime(value, python)
    except ValueError:
        return False
    return True


def _looks_like_births(values: list[str], formats: tuple[str, ...]) -> bool:
    years = [int(found[0]) for v in values if (found := re.search(r"(?:18|19|20)\d\d", v))]
    return bool(formats or years) and len(years) > 20 and max(years) - min(years) > 40


def _codes(values: list[str]) -> tuple[str, ...]:
    """Frequent short codes; nothing when a value is rare, as a rare value may be somebody's."""
    counts = Counter(values)
    if not counts or len(counts) > 20 or max(map(len, counts)) > 20:
        return ()
    if len(values) < 5 * len(counts) or min(counts.values()) < 3:
        return ()
    if any(code.upper() in known_names() for code in counts):
        return ()
    return tuple(sorted(counts))


# --- guessing the table --------------------------------------------------------------------------


def _candidate_key(guesses: list[Guess], columns: list[Column]) -> tuple[str, ...]:
    """The columns that are never empty and never repeat together; ids before others."""
    rows = len(columns[0].values)
    usable = [
        (g.name, c.values)
        for g, c in zip(guesses, columns, strict=True)
        if g.required and not g.type.startswith(("decimal", "double", "boolean"))
    ]
    usable.sort(key=lambda item: not re.search(r"(^|_)(id|number|no|num|key|nbr)$", item[0]))
    hinted = [name for name, _ in usable if re.search(r"(^|_)(id|number|no|num|key|nbr)$", name)]
    for name, values in usable:
        plain = next(g for g in guesses if g.name == name).identifier is None
        if len(set(values)) == rows and rows > 1 and (name in hinted or plain):
            return (name,)
    for (one, left), (two, right) in combinations(usable[:8], 2):
        if one in hinted and len(set(zip(left, right, strict=True))) == rows and rows > 1:
            return one, two
    return ()


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
    for role, members in groups.items():
        if all(guess.role != "direct" for guess in members):
            continue  # a town or a language alone is no person
        while members:
            number = sum(p.role == role or p.role.startswith(f"{role}_") for p in people)
            name = role if not number else f"{role}_{number + 1}"
            person, members = _person(name, members, key)
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
        f"id: {feed}",
        f"name: {feed}  # review: a title for people",
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
        f"  - name: {table}",
        "    description: To be written.  # review: one row per what?",
        "    customProperties:",
        f"      - {{property: format, value: {_yaml(form)}}}",
        f"      - {{property: loadPolicy, value: {'upsert' if key else 'full_refresh'}}}"
        "  # review: full_refresh, upsert, append_only or snapshot",
    ]
    if people:
        lines += ["      - property: subjects", "        value:"]
        for person in people:
            lines += [
                f"          - role: {person.role}  # review: {person.review}",
                f"            key: {_yaml(person.key)}",
                f"            identifiers: {_yaml(person.identifiers)}",
            ]
    lines += ["    quality:", "      - {metric: rowCount, mustBeGreaterThan: 0}", "    properties:"]
    for guess in guesses:
        lines += _property(guess, key)
    return "\n".join(lines) + "\n"


def _property(guess: Guess, key: tuple[str, ...]) -> list[str]:
    review = f"  # review: {'; '.join(guess.reviews)}" if guess.reviews else ""
    lines = [f"      - name: {guess.name}{review}"]
    if guess.source != guess.name:
        lines.append(f"        physicalName: {json.dumps(guess.source, ensure_ascii=False)}")
    base = "decimal" if DECIMAL.match(guess.type) else guess.type
    lines += [
        f"        logicalType: {LOGICAL_TYPES[base]}",
        f"        physicalType: {_yaml(guess.type)}",
    ]
    if guess.name in key:
        lines.append("        primaryKey: true  # review: no row of the sample repeats it")
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
