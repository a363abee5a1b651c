"""Two standardised records, comparison by comparison: on which level do they agree?

Pairs are given as row numbers of one table. Texts are compared once per distinct pair of values,
with rapidfuzz. Pure; workers import this module: it imports little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rapidfuzz.distance import JaroWinkler
from rapidfuzz.process import cpdist

from concord.linkage.patterns import LEVELS, Comparison, Integers, encode, number
from concord.linkage.standardise import canonical_names

Flags = npt.NDArray[np.bool_]

# Words of surnames that many surnames have: to share one says nothing.
PARTICLES = frozenset(
    ["DE", "DEL", "LA", "LAS", "LOS", "DA", "DO", "DOS", "DI", "VAN", "VON", "DER", "DEN", "LE"]
    + ["SAINT", "ST", "BIN", "EL", "AL"]
)


@dataclass(frozen=True)
class Near:
    """Jaro-Winkler similarities, 0 to 1, from which two names are near."""

    given: float = 0.88
    family: float = 0.88
    nicknames: bool = True


@dataclass(frozen=True)
class Texts:
    """A column as codes into its distinct values; -1 is NULL."""

    codes: Integers
    values: Sequence[str]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Texts:
        encoded = column.combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(codes, encoded.dictionary.to_pylist())


class Records:
    """Standardised records, columns encoded when first asked for."""

    def __init__(self, rows: pa.Table, near: Near) -> None:
        self.rows, self.near = rows, near
        self._texts: dict[str, Texts] = {}

    def texts(self, name: str) -> Texts:
        if name not in self._texts:
            self._texts[name] = Texts.of(self.rows[name])
        return self._texts[name]

    @cached_property
    def births(self) -> tuple[Integers, Integers, Integers, Flags]:
        """Year (0: unknown), month, day, and whether month and day are known."""
        days = self.rows["birth"].combine_chunks().cast(pa.int32())
        known = np.asarray(days.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
        dates = days.fill_null(0).to_numpy().astype("datetime64[D]")
        months = dates.astype("datetime64[M]")
        years = dates.astype("datetime64[Y]")
        certain = self.rows["birth_day_known"].combine_chunks().fill_null(False)
        return (
            np.where(known, years.astype(np.int64) + 1970, 0),
            months.astype(np.int64) % 12 + 1,
            (dates - months).astype(np.int64) + 1,
            np.asarray(certain.to_numpy(zero_copy_only=False), dtype=bool),
        )


def patterns(records: Records, left: Integers, right: Integers) -> Integers:
    """The agreement pattern of each pair (row `left[k]` with row `right[k]`)."""
    levels = np.stack([COMPARE[name](records, left, right) for name in LEVELS], axis=1)
    return encode(levels)


def _ssn(records: Records, left: Integers, right: Integers) -> Integers:
    """near: one digit differs, or two neighbours are swapped. last_four: all that both say."""
    return _graded(records, "ssn", left, right, near_ssn) + _last_four(records, left, right)


def _last_four(records: Records, left: Integers, right: Integers) -> Integers:
    """Where one of the two has only the last four digits."""
    whole, last = records.texts("ssn").codes, records.texts("ssn_last4").codes
    partly = (whole[left] < 0) | (whole[right] < 0)
    comparable = partly & (last[left] >= 0) & (last[right] >= 0)
    same = np.where(last[left] == last[right], number("ssn", "last_four"), number("ssn", "differ"))
    return np.where(comparable, same, 0)


def _given(records: Records, left: Integers, right: Integers) -> Integers:
    """nickname: both can be short for one name. initial: one is the other's first letter."""
    near = records.near

    def grade(a: Sequence[str], b: Sequence[str]) -> Integers:
        similar = cpdist(a, b, scorer=JaroWinkler.similarity, dtype=np.float32)
        found = np.where(similar >= near.given, number("given", "near"), number("given", "differ"))
        for place, (one, other) in enumerate(zip(a, b, strict=True)):
            first, second = one.split(" ", 1)[0], other.split(" ", 1)[0]
            if len(first) == 1 or len(second) == 1:
                same = first[0] == second[0]
                found[place] = number("given", "initial" if same else "differ")
            elif first == second:
                found[place] = min(found[place], number("given", "near"))
            elif near.nicknames and canonical_names(one) & canonical_names(other):
                found[place] = number("given", "nickname")
        return found.astype(np.int64)

    return _graded(records, "given", left, right, grade)


def _family(records: Records, left: Integers, right: Integers) -> Integers:
    """part: a word of one, three letters or more, is a word of the other."""
    near = records.near

    def grade(a: Sequence[str], b: Sequence[str]) -> Integers:
        # Without their particles: all that begin with DE LA would be near.
        cores = [[core(name) for name in names] for names in (a, b)]
        similar = cpdist(*cores, scorer=JaroWinkler.similarity, dtype=np.float32)
        found = np.where(
            similar >= near.family, number("family", "near"), number("family", "differ")
        )
        for place, (one, other) in enumerate(zip(a, b, strict=True)):
            if one.replace(" ", "") == other.replace(" ", ""):
                found[place] = number("family", "exact")
            elif (" " in one or " " in other) and words_of(one) & words_of(other):
                found[place] = number("family", "part")
        return found.astype(np.int64)

    return _graded(records, "family", left, right, grade)


def core(family: str) -> str:
    """A surname without its particles, unless it has nothing else."""
    return " ".join(word for word in family.split(" ") if word not in PARTICLES) or family


def words_of(family: str) -> set[str]:
    """The words of a surname that tell something."""
    return {word for word in family.split(" ") if len(word) >= 3 and word not in PARTICLES}


def _birth(records: Records, left: Integers, right: Integers) -> Integers:
    """near: two of year, month, day agree, or day and month are swapped.

    year: only the years can be compared, for one of the dates is a placeholder within its year.
    """
    year, month, day, certain = records.births
    years = year[left] == year[right]
    months = month[left] == month[right]
    days = day[left] == day[right]
    swapped = years & (month[left] == day[right]) & (day[left] == month[right])
    both = certain[left] & certain[right]
    agreeing = years.astype(int) + months + days
    found = np.where(
        agreeing == 3,
        number("birth", "exact"),
        np.where((agreeing == 2) | swapped, number("birth", "near"), number("birth", "differ")),
    )
    vague = np.where(years, number("birth", "year"), number("birth", "differ"))
    found = np.where(both, found, vague)
    return np.where((year[left] > 0) & (year[right] > 0), found, 0)


def _contact(records: Records, left: Integers, right: Integers) -> Integers:
    """household: the same phone, or the same street and ZIP. Else how far the ZIP codes agree.

    One comparison, because phone, address and ZIP code are those of one household: counted
    thrice, they would link brothers and sisters.
    """
    zips, streets, phones = (records.texts(name) for name in ("zip", "street", "phone"))
    areas = np.array([hash_area(text) for text in zips.values] or [0], dtype=np.int64)
    known = _both(zips, left, right)
    same_zip = known & (zips.codes[left] == zips.codes[right])
    same_area = known & (areas[zips.codes[left]] == areas[zips.codes[right]])
    phone = _both(phones, left, right) & (phones.codes[left] == phones.codes[right])
    street = _both(streets, left, right) & (streets.codes[left] == streets.codes[right]) & same_zip
    found = np.where(known, number("contact", "differ"), 0)
    found = np.where(same_area, number("contact", "zip3"), found)
    found = np.where(same_zip, number("contact", "zip"), found)
    return np.where(phone | street, number("contact", "household"), found)


def hash_area(zip_code: str) -> int:
    """The first three digits of a ZIP code: its sectional center."""
    return int(zip_code[:3])


def _same(name: Comparison) -> Callable[[Records, Integers, Integers], Integers]:
    def compare(records: Records, left: Integers, right: Integers) -> Integers:
        texts = records.texts(name)
        same = np.where(
            texts.codes[left] == texts.codes[right], number(name, "same"), number(name, "differ")
        )
        return np.where(_both(texts, left, right), same, 0)

    return compare


COMPARE: dict[str, Callable[[Records, Integers, Integers], Integers]] = {
    "ssn": _ssn,
    "given": _given,
    "family": _family,
    "birth": _birth,
    "contact": _contact,
    "sex": _same("sex"),
    "middle": _same("middle"),
    "suffix": _same("suffix"),
}


def near_ssn(a: Sequence[str], b: Sequence[str]) -> Integers:
    """Levels of SSNs that are not equal."""
    one = np.array(a, dtype="S9").view(np.uint8).reshape(-1, 9)
    other = np.array(b, dtype="S9").view(np.uint8).reshape(-1, 9)
    unequal = one != other
    count = unequal.sum(axis=1)
    first = unequal.argmax(axis=1)
    second = np.minimum(first + 1, 8)
    rows = np.arange(len(one))
    crossed = (one[rows, first] == other[rows, second]) & (one[rows, second] == other[rows, first])
    close = (count == 1) | ((count == 2) & unequal[rows, second] & crossed)
    return np.where(close, number("ssn", "near"), number("ssn", "differ"))


def _both(texts: Texts, left: Integers, right: Integers) -> Flags:
    return (texts.codes[left] >= 0) & (texts.codes[right] >= 0)


def _graded(
    records: Records,
    name: Comparison,
    left: Integers,
    right: Integers,
    grade: Callable[[Sequence[str], Sequence[str]], Integers],
) -> Integers:
    """exact where values are equal; else what `grade` says of each distinct pair of values."""
    texts = records.texts(name)
    one, other = texts.codes[left], texts.codes[right]
    found = np.zeros(len(left), dtype=np.int64)
    both = (one >= 0) & (other >= 0)
    found[both & (one == other)] = number(name, "exact")
    unequal = np.flatnonzero(both & (one != other))
    if len(unequal):
        low = np.minimum(one[unequal], other[unequal])
        high = np.maximum(one[unequal], other[unequal])
        distinct, place = np.unique(low * len(texts.values) + high, return_inverse=True)
        a = [texts.values[code] for code in (distinct // len(texts.values)).tolist()]
        b = [texts.values[code] for code in (distinct % len(texts.values)).tolist()]
        found[unequal] = grade(a, b)[place]
    return found
