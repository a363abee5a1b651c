"""The vault's identifiers, as agencies wrote them, in one comparable form.

One row per record and distinct set of values (a variant): who moved or married has several.
Upper case, accents folded, punctuation gone; what is a placeholder, by the lists of
`conf/person_index.yaml`, or cannot be, is NULL. Pure: Arrow in, Arrow out. Each distinct text is
worked on once. Workers import this module: it imports little.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from nicknames import NickNamer

from concord.linkage.newborns import beginning, newborn

# What is read of vault/identifiers_<feed>.
SOURCES = (
    "full_name",
    "given_name",
    "middle_name",
    "family_name",
    "name_suffix",
    "former_family_name",
    "birth_date",
    "sex",
    "ssn",
    "ssn_last4",
    "phones",
    "emails",
    "address_line1",
    "address_line2",
    "zip",
)
SEPARATOR = "\x1f"  # between the values of a list in one text
ORIGIN = ("record_id", "feed", "role")
# The comparable form, in the order of vault/linkage_records.
STANDARD: Mapping[str, pa.DataType] = {
    "given": pa.string(),
    "given_root": pa.string(),
    "middle": pa.string(),
    "family": pa.string(),
    "suffix": pa.string(),
    "birth_order": pa.string(),
    "birth": pa.date32(),
    "birth_year": pa.string(),
    "sex": pa.string(),
    "ssn": pa.string(),
    "ssn_last4": pa.string(),
    "phone": pa.string(),
    "emails": pa.string(),
    "street": pa.string(),
    "zip": pa.string(),
}

# The last four digits as a record says them itself, beside a whole SSN.
LAST4 = "said_last4"

SUFFIXES = {
    "JR": "JR", "JUNIOR": "JR", "II": "JR", "2ND": "JR",
    "SR": "SR", "SENIOR": "SR",
    "III": "III", "3RD": "III", "IV": "IV", "4TH": "IV",
}  # fmt: skip
# USPS Publication 28, appendices B and C2: the abbreviations that addresses mostly need.
STREET_WORDS = {
    "STREET": "ST", "AVENUE": "AVE", "AV": "AVE", "ROAD": "RD", "DRIVE": "DR", "LANE": "LN",
    "COURT": "CT", "PLACE": "PL", "BOULEVARD": "BLVD", "CIRCLE": "CIR", "TERRACE": "TER",
    "PARKWAY": "PKWY", "HIGHWAY": "HWY", "SQUARE": "SQ", "TRAIL": "TRL", "NORTH": "N", "SOUTH": "S",
    "EAST": "E", "WEST": "W", "APARTMENT": "APT", "UNIT": "APT", "STE": "APT", "SUITE": "APT",
    "NUMBER": "APT", "NO": "APT",
}  # fmt: skip
# Words of surnames that many surnames have: to share one says nothing.
PARTICLES = frozenset(
    ["DE", "DEL", "LA", "LAS", "LOS", "DA", "DO", "DOS", "DI", "VAN", "VON", "DER", "DEN", "LE"]
    + ["SAINT", "ST", "BIN", "EL", "AL"]
)
# Which letters are not made of a letter and an accent (NFKD leaves them).
LETTERS = str.maketrans(
    {"Ø": "O", "Æ": "AE", "Œ": "OE", "ẞ": "SS", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "TH"}
)


@dataclass(frozen=True)
class Standards:
    """What a deployment says of values: placeholders, in their standard form, and codes of sex."""

    given: frozenset[str] = frozenset()
    family: frozenset[str] = frozenset()
    birth_dates: frozenset[str] = frozenset()
    birth_days: frozenset[str] = frozenset()
    ssns: frozenset[str] = frozenset()
    phones: frozenset[str] = frozenset()
    emails: frozenset[str] = frozenset()
    zips: frozenset[str] = frozenset()
    streets: frozenset[str] = frozenset()
    sex: tuple[tuple[str, str], ...] = ()
    nicknames: bool = True


def standardise(rows: pa.Table, standards: Standards) -> pa.Table:
    """Rows of ORIGIN and SOURCES -> distinct rows of ORIGIN, `variant` and STANDARD."""
    return distinct(forms(rows, standards).drop_columns([LAST4]))


def forms(rows: pa.Table, standards: Standards) -> pa.Table:
    """Rows of ORIGIN and SOURCES -> rows of ORIGIN, STANDARD and LAST4; not distinct."""
    parts = [_one_form(rows, standards, "family_name")]
    renamed = rows.filter(pc.is_valid(rows["former_family_name"]))
    if renamed.num_rows:
        parts.append(_one_form(renamed, standards, "former_family_name"))
    return pa.concat_tables(parts)


def distinct(rows: pa.Table) -> pa.Table:
    """Rows of ORIGIN and values, by record -> each once, with `variant` after ORIGIN.

    `variant` counts a record's rows from 0, in the order of their values; for that, all rows of a
    record must be in `rows`.
    """
    ids = _flat(rows["record_id"]).dictionary_encode().indices.to_numpy()
    # Most records have one row.
    several = pa.array(np.bincount(ids)[ids] > 1) if len(ids) else pa.array([], pa.bool_())
    names = rows.column_names
    many = rows.filter(several).group_by(names, use_threads=False).aggregate([]).select(names)
    many = many.sort_by([(name, "ascending") for name in names])
    single = rows.filter(pc.invert(several))
    variants = [_count_within(many["record_id"]), np.zeros(single.num_rows, dtype=np.int32)]
    whole = pa.concat_tables([many, single])
    whole = whole.add_column(len(ORIGIN), "variant", pa.array(np.concatenate(variants)))
    return whole.sort_by([("record_id", "ascending"), ("variant", "ascending")])


def _one_form(rows: pa.Table, standards: Standards, family_column: str) -> pa.Table:
    rows = _one_phone_each(rows)
    full = rows["full_name"]
    named = _either(rows["given_name"], each(full, lambda text: name_parts(text)[0]))
    family_text = _either(rows[family_column], each(full, lambda text: name_parts(text)[2]))
    middle_text = _either(rows["middle_name"], each(full, lambda text: name_parts(text)[1]))
    unnamed = _newborns(named, middle_text, family_text)
    nameless = pc.is_valid(unnamed)
    given = each(named, lambda text: given_name(text, standards))
    given = pc.if_else(nameless, None, given)
    middle = each(middle_text, lambda text: (tokens(text) or [""])[0][:1] or None)
    middle = pc.if_else(nameless, None, middle)
    family = each(family_text, lambda text: family_name(text, standards))
    suffix = _either(
        each(rows["name_suffix"], suffix_of),
        *(each(names, suffix_behind) for names in (family_text, named, full)),
    )
    birth = rows["birth_date"]
    birth_text = pc.strftime(birth, format="%Y-%m-%d")
    birth_known = each(birth_text, lambda text: None if text in standards.birth_dates else text)
    # A placeholder day within a year that may be right is no day to compare or to block by.
    day_known = pc.and_(
        pc.is_valid(birth_known),
        pc.invert(
            pc.is_in(
                pc.utf8_slice_codeunits(birth_known, 5),
                value_set=pa.array(sorted(standards.birth_days), pa.string()),
            )
        ),
    )
    ssn = each(rows["ssn"], lambda text: ssn_of(text, standards))
    said_last4 = each(rows["ssn_last4"], last_four)
    last4 = _either(each(ssn, lambda text: text[-4:]), said_last4)
    lines = pc.binary_join_element_wise(
        pc.fill_null(rows["address_line1"], ""), pc.fill_null(rows["address_line2"], ""), " "
    )
    sexes = dict(standards.sex)
    sex = each(rows["sex"], lambda text: sexes.get(text.strip().upper()))
    columns = {
        "given": given,
        "given_root": each(given, lambda text: root(text, standards.nicknames)),
        "middle": middle,
        "family": family,
        "suffix": suffix,
        "birth_order": each(unnamed, lambda text: text[1:].strip()),
        "birth": pc.if_else(day_known, birth, pa.scalar(None, pa.date32())),
        "birth_year": pc.utf8_slice_codeunits(birth_known, 0, 4),
        "sex": _either(sex, each(unnamed, lambda text: text[:1].strip())),
        "ssn": ssn,
        "ssn_last4": last4,
        "phone": each(rows["phone"], lambda text: phone_of(text, standards)),
        "emails": each(
            pc.binary_join(_flat(rows["emails"]), SEPARATOR),
            lambda text: SEPARATOR.join(emails_of(text.split(SEPARATOR), standards)),
        ),
        "street": each(lines, lambda text: street_of(text, standards)),
        "zip": each(rows["zip"], lambda text: zip_of(text, standards)),
    }
    return pa.table(
        {
            **{name: _flat(rows[name]) for name in ORIGIN},
            **{name: _flat(columns[name]).cast(kind) for name, kind in STANDARD.items()},
            LAST4: _flat(said_last4),
        }
    )


# --- one text at a time ------------------------------------------------------------------------


JOINING = re.compile("['’‘ʻʼ`´.]")
WORD = re.compile("[A-Z0-9]+")
NO_DIGIT = re.compile(r"\D")


def folded(text: str) -> str:
    """Upper case without accents: letters with marks become plain ones."""
    if text.isascii():
        return text.upper()
    # Upper case again: NFKD makes small letters of raised ones.
    plain = unicodedata.normalize("NFKD", text.upper().translate(LETTERS)).upper()
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def tokens(text: str) -> list[str]:
    """The words of a name: apostrophes and points join, everything else parts."""
    return WORD.findall(JOINING.sub("", folded(text)))


def unsuffixed(words: list[str]) -> list[str]:
    """A name's words without a generational suffix, unless there is nothing else."""
    end = len(words)
    while end > 1 and words[end - 1] in SUFFIXES:
        end -= 1
    return words[:end]


def given_name(text: str, standards: Standards) -> str | None:
    """Words of a given name without a suffix; NULL for a placeholder such as BABY GIRL."""
    name = " ".join(unsuffixed(tokens(text)))
    return None if not name or name in standards.given else name


def family_name(text: str, standards: Standards) -> str | None:
    """Words of a family name without a generational suffix; NULL for a placeholder."""
    name = " ".join(unsuffixed(tokens(text)))
    return None if not name or name in standards.family else name


def suffix_of(text: str) -> str | None:
    """The generational suffix that a name ends with: JR, SR, III or IV (II is JR)."""
    words = tokens(text)
    return SUFFIXES.get(words[-1]) if words else None


def suffix_behind(name: str) -> str | None:
    """The suffix behind another word: SENIOR alone is a surname, JUNIOR a given name."""
    return suffix_of(" ".join(tokens(name)[1:]))


def name_parts(text: str) -> tuple[str | None, str | None, str | None]:
    """(given, middle, family) of a whole name, written `Given Middle Family` or `Family, Given`.

    All words that a newborn is called by are its given name.
    """
    before, comma, after = text.partition(",")
    given = unsuffixed(tokens(after))
    if comma and given and given[0] not in SUFFIXES:
        if newborn(given):
            return " ".join(given), None, before
        return given[0], " ".join(given[1:]) or None, before
    words = unsuffixed(tokens(text))
    if child := newborn(words):
        return " ".join(words[: child.words]), None, " ".join(words[child.words :]) or None
    if len(words) < 2:
        return (words[0] if words else None), None, None
    last = start = len(words) - 1
    while start > 1 and words[start - 1] in PARTICLES:
        start -= 1
    if start == last - 1 and words[start] == "VAN":
        start = last  # alone it is a middle name too, a common one among Vietnamese
    return words[0], " ".join(words[1:start]) or None, " ".join(words[start:])


def core(family: str) -> str:
    """A surname without its particles, unless it has nothing else."""
    return " ".join(word for word in family.split(" ") if word not in PARTICLES) or family


def words_of(family: str) -> set[str]:
    """The words of a surname that tell something."""
    return {word for word in family.split(" ") if len(word) >= 3 and word not in PARTICLES}


@lru_cache(maxsize=1)
def _nicknames() -> NickNamer:
    return NickNamer()


@lru_cache(maxsize=100_000)
def canonical_names(name: str) -> frozenset[str]:
    """A given name's first word and the names that it is short for (package `nicknames`)."""
    first = name.split(" ", 1)[0]
    return frozenset({first, *(known.upper() for known in _nicknames().canonicals_of(first))})


def root(name: str, nicknames: bool) -> str | None:
    """One name that a name and its nicknames mostly share, to block by; not a comparison."""
    first = name.split(" ", 1)[0]
    if len(first) < 2:
        return None
    if not nicknames:
        return first
    # The longest of the names that it may be short for, then the first by letter.
    return min(canonical_names(first), key=lambda known: (-len(known), known))


def digits_of(text: str) -> str:
    return text if text.isascii() and text.isdigit() else NO_DIGIT.sub("", text)


def ssn_of(text: str, standards: Standards) -> str | None:
    """Nine digits that can be an SSN or an ITIN, which stands in for one; else NULL.

    Never issued: area 000 and 666, group 00, serial 0000 (Social Security Administration, POMS
    RM 10201.035). Area 900-999 with group 50-65, 70-88, 90-92 or 94-99 is an ITIN (Internal
    Revenue Manual 3.21.263).
    """
    digits = digits_of(text)
    if len(digits) != 9 or digits in standards.ssns or len(set(digits)) == 1:
        return None
    area, group, serial = digits[:3], int(digits[3:5]), digits[5:]
    if area in {"000", "666"} or group == 0 or serial == "0000":
        return None
    itin = 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99
    return None if area[0] == "9" and not itin else digits


def last_four(text: str) -> str | None:
    digits = digits_of(text)
    return digits[-4:] if len(digits) >= 4 and digits[-4:] != "0000" else None


def phone_of(text: str, standards: Standards) -> str | None:
    """Ten digits of the North American plan, without the country's 1; else NULL."""
    digits = digits_of(text)
    digits = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    if len(digits) != 10 or digits in standards.phones or len(set(digits)) == 1:
        return None
    return None if digits[0] in "01" else digits


EMAIL = re.compile(r"([^\s@,;]+)@([^\s@,;]+\.[^\s@,;]+)")
GMAIL = {"gmail.com", "googlemail.com"}


def email_of(text: str, standards: Standards) -> str | None:
    """An address of email in lower case, without a tag (`+news`) and, of Gmail, without points.

    RFC 5321 (2.4) lets hosts tell `Ann@` from `ann@`; next to none does. Gmail delivers whatever
    the points to one mailbox.
    """
    found = EMAIL.fullmatch(text.strip().lower())
    if found is None:
        return None
    name, host = found[1].split("+", 1)[0], found[2]
    if host in GMAIL:
        name, host = name.replace(".", ""), "gmail.com"
    address = f"{name}@{host}"
    return None if not name or address in standards.emails else address


def emails_of(texts: Iterable[str], standards: Standards) -> list[str]:
    """Each address once, in order."""
    found = {email_of(text, standards) for text in texts}
    return sorted(address for address in found if address)


def zip_of(text: str, standards: Standards) -> str | None:
    digits = digits_of(text)
    found = digits[:5] if len(digits) in {5, 9} else ""
    return None if not found or found in standards.zips else found


def street_of(text: str, standards: Standards) -> str | None:
    """An address line in the Postal Service's abbreviations, `#` and units as APT."""
    words = tokens(text.replace("#", " APT "))
    line = " ".join(STREET_WORDS.get(word, word) for word in words)
    if "APT APT" in line:
        line = re.sub(r"\bAPT( APT)+\b", "APT", line)
    return None if not line or line in standards.streets else line


def _newborns(given: pa.Array, middle: pa.Array, family: pa.Array) -> pa.Array:
    """What names of newborns say, NULL of others: a letter for the sex and one for the order of
    birth, blanks where they do not say."""

    def read(text: str) -> str | None:
        first, second, last = (tokens(part) for part in text.split(SEPARATOR))
        child = newborn(first, last)
        if child is None:
            return None
        # BABY, and BOY for the middle name.
        child = newborn([*first[: child.words], *second], last) or child
        return f"{child.sex or ' '}{child.order or ' '}"

    begins = each(given, lambda text: "yes" if beginning(tokens(text)) else None)
    names = [pc.fill_null(part, "") for part in (given, middle, family)]
    whole = pc.binary_join_element_wise(*names, SEPARATOR)
    return each(pc.if_else(pc.is_valid(begins), whole, None), read)


# --- Arrow ----------------------------------------------------------------------------------------


def _flat(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def each(array: Any, work: Callable[[str], str | None]) -> pa.Array:
    """`work` on each distinct text; NULL stays NULL, and an empty text becomes it."""
    encoded = _flat(array).dictionary_encode()
    done = [work(text) or None for text in encoded.dictionary.to_pylist()]
    return pa.array(done, pa.string()).take(encoded.indices)


def _either(*arrays: Any) -> pa.Array:
    return pc.coalesce(*[_flat(array) for array in arrays])


def _one_phone_each(rows: pa.Table) -> pa.Table:
    """A row for each phone, column `phone`; one with NULL for whom none is known."""
    phones = _flat(rows["phones"])
    known = pc.list_flatten(phones)
    parents = pc.list_parent_indices(phones)
    without = rows.filter(pc.equal(pc.fill_null(pc.list_value_length(phones), 0), 0))
    with_phone = rows.take(parents).append_column("phone", known)
    none = pa.nulls(without.num_rows, pa.string())
    both = pa.concat_tables([with_phone, without.append_column("phone", none)])
    return both.drop_columns(["phones"]).combine_chunks()


def _count_within(sorted_ids: Any) -> npt.NDArray[np.int32]:
    """0, 1, ... within each run of equal ids."""
    ids = _flat(sorted_ids).dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else ids
    counts = np.diff(np.append(starts, len(ids)))
    return (np.arange(len(ids)) - np.repeat(starts, counts)).astype(np.int32)
