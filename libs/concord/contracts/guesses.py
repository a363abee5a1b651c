"""Guesses from a sample's values what a column is: type, dates, codes, whom it identifies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from concord.contracts.samples import Column, known_names

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
# Area, group and serial that the Social Security Administration can issue (POMS RM 10201.035).
SSN = r"(?!000|666|9)\d{3}(?!00)\d\d(?!0000)\d{4}"
# The same by the shape of nearly all values, where a name says nothing.
SHAPED = (
    ("ssn", "a social security number", r"(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}"),
    ("ssn", "a social security number", SSN),
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


def guess_column(name: str, column: Column) -> Guess:
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
        kind, formats, booleans = "date", _formats(values, DATES), {}
        if not formats:
            formats = ("yyyy-MM-dd",)
            reviews.append("not of one format: rows that dateFormats does not fit are quarantined")
    if len(formats) > 1 or formats in (("MM/dd/yyyy",), ("dd/MM/yyyy",), ("M/d/yyyy",)):
        reviews.append("month first or day first?")
    codes: tuple[str, ...] = ()
    unnamed = re.fullmatch(r"(column|field)_\d+", name)
    if role == "none" and (kind == "string" or unnamed):
        codes = () if unnamed else _codes(values)
        if unnamed and _ssn_inside(values):
            role = "direct"
            reviews.append("may hold an SSN among others: cut it by the agency's record layout")
        elif unnamed:
            role = "sensitive"
            reviews.append("has no name and may hold anything: a name or an SSN is direct")
        elif codes:
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


def _ssn_inside(values: list[str]) -> bool:
    """Whether at one place nearly all values hold what an SSN looks like.

    Fields of fixed width that touch are one field to who does not know the layout.
    """
    ssn = re.compile(SSN)
    for start in range(max((len(value) for value in values), default=0) - 8):
        parts = [value[start : start + 9] for value in values]
        # Amounts and days repeat, and mostly begin with zeros.
        if len(set(parts)) > 0.3 * len(parts) and _share(parts, ssn.fullmatch) > 0.8:
            return True
    return False


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


def _share(values: Iterable[str], fits: Callable[[str], Any]) -> float:
    told = [bool(fits(value)) for value in values]
    return sum(told) / len(told) if told else 0.0


# --- names of columns ----------------------------------------------------------------------------


def plain_name(text: str) -> str:
    """`childFirstName`, `Child First Name` and `child-first-name` as `child_first_name`."""
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    text = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return f"c_{text}" if text[:1].isdigit() else text


def column_names(sources: Iterable[str]) -> list[str]:
    names: list[str] = []
    for source in sources:
        names.append(unused_name(plain_name(source) or "column", names))
    return names


def unused_name(name: str, taken: Collection[str]) -> str:
    """The name, or the first of `name_2`, `name_3` and so on that is not taken."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
