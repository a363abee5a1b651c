"""Two records, comparison by comparison: on which level do they agree?

A comparison is a list of levels, each with a condition; a pair is on the first whose condition it
meets, and on level 0, `missing`, if it meets none. Conditions are made of TESTS, which are small
functions over many pairs at once: pairs are row numbers of one table, values are looked at once per
distinct pair of values and only where a cheap bound lets them agree. Pure; workers import this
module: it imports little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import OSA, JaroWinkler
from rapidfuzz.process import cpdist

from concord.linkage.patterns import Space
from concord.linkage.standardise import SEPARATOR, canonical_names, words_of
from concord.linkage.values import Codes, Flags, Integers, Records, Values

# How far a bound may be from what it bounds and still count as equal to it: 32-bit floats.
SLACK = 1e-4


@dataclass(frozen=True)
class Simple:
    """A condition of one of TESTS on parts of both records; `number` is what the test takes, if it
    takes one."""

    name: str
    parts: tuple[str, ...]
    number: float | None = None

    def met(self, records: Records, left: Integers, right: Integers) -> Flags:
        return TESTS[self.name].judge(records, self, left, right)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.parts


@dataclass(frozen=True)
class AllOf:
    """Met where every one of its conditions is."""

    of: tuple[Condition, ...]

    def met(self, records: Records, left: Integers, right: Integers) -> Flags:
        found = self.of[0].met(records, left, right)
        for condition in self.of[1:]:
            rest = np.flatnonzero(found)
            found[rest] = condition.met(records, left[rest], right[rest])
        return found

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(part for condition in self.of for part in condition.reads)


@dataclass(frozen=True)
class AnyOf:
    """Met where one of its conditions is."""

    of: tuple[Condition, ...]

    def met(self, records: Records, left: Integers, right: Integers) -> Flags:
        found = self.of[0].met(records, left, right)
        for condition in self.of[1:]:
            rest = np.flatnonzero(~found)
            found[rest] = condition.met(records, left[rest], right[rest])
        return found

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(part for condition in self.of for part in condition.reads)


Condition = Simple | AllOf | AnyOf


@dataclass(frozen=True)
class Level:
    """A level and its condition.

    `classes` above 1: the level is as many in the pattern, by how common the left record's value
    of `part` is (term frequencies), the rarest first.
    """

    name: str
    when: Condition
    part: str | None = None
    classes: int = 1


@dataclass(frozen=True)
class Comparison:
    """Levels besides `missing`, strongest first."""

    name: str
    levels: tuple[Level, ...]

    @property
    def width(self) -> int:
        """How many numbers a pattern's digit can have: 0 for missing, and each level's classes."""
        return 1 + sum(level.classes for level in self.levels)

    def of(self, records: Records, left: Integers, right: Integers) -> npt.NDArray[np.int8]:
        """The number of each pair's level, `missing` 0."""
        found = np.zeros(len(left), dtype=np.int8)
        waiting: Integers | None = None
        number = 1
        for level in self.levels:
            one = left if waiting is None else left[waiting]
            other = right if waiting is None else right[waiting]
            met = level.when.met(records, one, other)
            hit = np.flatnonzero(met) if waiting is None else waiting[met]
            if level.part and level.classes > 1:
                values = records.values(level.part)
                found[hit] = number + records.classes(level.part)[values.codes[left[hit]]]
            else:
                found[hit] = number
            waiting = np.flatnonzero(~met) if waiting is None else waiting[~met]
            number += level.classes
        return found


def space(comparisons: Sequence[Comparison]) -> Space:
    """The patterns that the comparisons can give."""
    return Space(tuple(comparison.width for comparison in comparisons))


def patterns(
    comparisons: Sequence[Comparison], records: Records, left: Integers, right: Integers
) -> Integers:
    """The agreement pattern of each pair (row `left[k]` with row `right[k]`)."""
    found = np.zeros(len(left), dtype=np.int64)
    for comparison, place in zip(comparisons, space(comparisons).places.tolist(), strict=True):
        found += comparison.of(records, left, right).astype(np.int64) * place
    return found


# --- tests ----------------------------------------------------------------------------------------


def _codes(records: Records, test: Simple, left: Integers, right: Integers) -> tuple[Codes, Codes]:
    codes = records.values(test.parts[0]).codes
    return codes[left], codes[right]


def same(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Both say the same."""
    one, other = _codes(records, test, left, right)
    return (one == other) & (one >= 0)


def known(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Both say something, in every one of the columns."""
    found = np.ones(len(left), dtype=bool)
    for part in test.parts:
        codes = records.values(part).codes
        found &= (codes[left] >= 0) & (codes[right] >= 0)
    return found


def missing(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """At least one of the two says nothing."""
    return ~known(records, test, left, right)


def one_known(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """One says something and the other nothing."""
    one, other = _codes(records, test, left, right)
    return (one < 0) != (other < 0)


def jaro_winkler(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Similarity of at least `number`, 0 to 1 (Winkler 1990: prefix weight 0.1, four letters)."""
    least = float(test.number or 0)

    def possible(values: Values, one: Codes, other: Codes) -> Flags:
        a, b = values.lengths[one], values.lengths[other]
        common = _most_in_common(values, one, other)
        apart = values.beginnings[one] ^ values.beginnings[other]
        begin = np.zeros(len(one), dtype=np.float32)
        for bits in (24, 16, 8, 0):
            begin += apart < np.uint32(1 << bits)
        longest = np.maximum(np.maximum(a, b), 1)
        shortest = np.maximum(np.minimum(a, b), 1)
        jaro = (common / longest + common / shortest + 1) / 3
        return (common > 0) & (jaro + 0.1 * begin * (1 - jaro) >= least - SLACK)

    def judge(a: Sequence[str], b: Sequence[str]) -> Flags:
        found = cpdist(a, b, scorer=JaroWinkler.similarity, dtype=np.float32)
        return np.asarray(found >= np.float32(least), dtype=bool)

    return _judged(records.values(test.parts[0]), left, right, possible, judge)


def damerau_levenshtein(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """At most `number` letters put in, left out, changed, or swapped with their neighbour.

    Optimal string alignment, the restricted distance: no part is edited twice.
    """
    most = int(test.number or 0)

    def possible(values: Values, one: Codes, other: Codes) -> Flags:
        a, b = values.lengths[one], values.lengths[other]
        return np.asarray(np.maximum(a, b) - _most_in_common(values, one, other) <= most)

    def judge(a: Sequence[str], b: Sequence[str]) -> Flags:
        found = cpdist(a, b, scorer=OSA.distance, score_cutoff=most, dtype=np.int32)
        return np.asarray(found <= most, dtype=bool)

    return _judged(records.values(test.parts[0]), left, right, possible, judge)


def initial(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """One is a single letter, with which the other begins."""
    values = records.values(test.parts[0])
    one, other = values.codes[left], values.codes[right]
    first = values.beginnings >> np.uint32(24)
    # A single letter: the value ends, or a space follows.
    second = (values.beginnings >> np.uint32(16)) & np.uint32(0xFF)
    single = (second == 0) | (second == ord(" "))
    found = (one >= 0) & (other >= 0)
    rest = np.flatnonzero(found)
    one, other = one[rest], other[rest]
    found[rest] = (single[one] | single[other]) & (first[one] == first[other])
    return found


def nickname(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Both can be short for one name (package `nicknames`), and begin with different words."""
    found = _sharing(records, test.parts[0], left, right, canonical_names)
    rows = np.flatnonzero(found)
    words = records.values(f"first_word({test.parts[0]})").codes
    found[rows] = words[left[rows]] != words[right[rows]]
    return found


def shared_word(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """A word of one, of three letters or more and no particle, is a word of the other."""
    return _sharing(records, test.parts[0], left, right, words_of)


def near_date(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Two of year, month and day agree, or day and month are swapped."""
    rows, days = _dates(records, test, left, right)
    (_, year, month, day), (_, other_year, other_month, other_day) = days
    agreeing = (
        (year == other_year).astype(np.int8) + (month == other_month) + (day == other_day)
    ) >= 2
    swapped = (year == other_year) & (month == other_day) & (day == other_month)
    return _where(len(left), rows, agreeing | swapped)


def day_month_swapped(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """One's month is the other's day and the reverse, in one year."""
    rows, days = _dates(records, test, left, right)
    (_, year, month, day), (_, other_year, other_month, other_day) = days
    return _where(
        len(left), rows, (year == other_year) & (month == other_day) & (day == other_month)
    )


def days_apart(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """At most `number` days lie between the two dates."""
    rows, ((one, *_), (other, *_)) = _dates(records, test, left, right)
    return _where(len(left), rows, np.abs(one - other) <= (test.number or 0))


def numbers_apart(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Two numbers, at most `number` apart."""
    values = records.values(test.parts[0])
    as_number = np.array([_number(text) for text in values.texts] or [np.nan])
    one, other = values.codes[left], values.codes[right]
    with np.errstate(invalid="ignore"):
        near = np.abs(as_number[one] - as_number[other]) <= (test.number or 0)
    return (one >= 0) & (other >= 0) & near


def swapped(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """What one says in the first column the other says in the second, and the reverse."""
    first, second = (records.values(part) for part in test.parts)
    place = {text: code for code, text in enumerate(first.texts)}
    # Values of the second column by their code in the first; -2 for those it does not have.
    to = np.array([place.get(text, -2) for text in second.texts] or [-2], dtype=np.int32)
    crossed = np.where(second.codes >= 0, to[second.codes], np.int32(-2))
    return (first.codes[left] == crossed[right]) & (first.codes[right] == crossed[left])


def overlap(records: Records, test: Simple, left: Integers, right: Integers) -> Flags:
    """Two lists, written with SEPARATOR between values, with `number` or more in common (1)."""
    least = int(test.number or 1)

    def items(text: str) -> frozenset[str]:
        return frozenset(text.split(SEPARATOR))

    return _sharing(records, test.parts[0], left, right, items, least)


@dataclass(frozen=True)
class Kind:
    """A test: its function, how many columns it reads, and what its number is called, if any;
    `optional`: whether it may be left out."""

    judge: Callable[[Records, Simple, Integers, Integers], Flags]
    columns: int = 1
    number: str | None = None
    optional: bool = False


TESTS: Mapping[str, Kind] = {
    "same": Kind(same),
    "known": Kind(known, columns=0),
    "missing": Kind(missing, columns=0),
    "one_known": Kind(one_known),
    "jaro_winkler": Kind(jaro_winkler, number="at_least"),
    "damerau_levenshtein": Kind(damerau_levenshtein, number="at_most"),
    "initial": Kind(initial),
    "nickname": Kind(nickname),
    "shared_word": Kind(shared_word),
    "near_date": Kind(near_date),
    "day_month_swapped": Kind(day_month_swapped),
    "days_apart": Kind(days_apart, number="at_most"),
    "numbers_apart": Kind(numbers_apart, number="at_most"),
    "swapped": Kind(swapped, columns=2),
    "overlap": Kind(overlap, number="at_least", optional=True),
}


def _most_in_common(values: Values, one: Codes, other: Codes) -> npt.NDArray[np.float32]:
    """No two values have more letters in common than this: each letter that one has and the
    other lacks is one of its letters that cannot be matched."""
    a, b = values.letters[one], values.letters[other]
    first = values.lengths[one] - np.bitwise_count(a & ~b)
    second = values.lengths[other] - np.bitwise_count(b & ~a)
    return np.maximum(np.minimum(first, second), 0).astype(np.float32)


def _judged(
    values: Values,
    left: Integers,
    right: Integers,
    possible: Callable[[Values, Codes, Codes], Flags],
    judge: Callable[[Sequence[str], Sequence[str]], Flags],
) -> Flags:
    """`judge` on each distinct pair of values that are known, unequal and possibly near."""
    one, other = values.codes[left], values.codes[right]
    found = (one == other) & (one >= 0)
    rows = np.flatnonzero((one != other) & (one >= 0) & (other >= 0))
    if len(rows):
        rows = rows[possible(values, one[rows], other[rows])]
    if len(rows):
        a, b, place = _distinct(values, one[rows], other[rows])
        found[rows] = judge(a, b)[place]
    return found


def _sharing(
    records: Records,
    part: str,
    left: Integers,
    right: Integers,
    items: Callable[[str], frozenset[str] | set[str]],
    least: int = 1,
) -> Flags:
    """Values with at least `least` items in common; equal values too, if they have any."""
    values, marks = records.values(part), records.marks(part, items)
    one, other = values.codes[left], values.codes[right]
    rows = np.flatnonzero((one >= 0) & (other >= 0))
    if len(rows):
        rows = rows[(marks[one[rows]] & marks[other[rows]]) != 0]
    found = np.zeros(len(left), dtype=bool)
    if len(rows):
        a, b, place = _distinct(values, one[rows], other[rows])
        shared = [len(items(x) & items(y)) >= least for x, y in zip(a, b, strict=True)]
        found[rows] = np.array(shared, dtype=bool)[place]
    return found


def _distinct(
    values: Values, one: Codes, other: Codes
) -> tuple[Sequence[str], Sequence[str], Integers]:
    """Distinct unordered pairs of values, as texts, and where each row's pair is among them."""
    low, high = np.minimum(one, other).astype(np.int64), np.maximum(one, other)
    pairs, place = np.unique(low * len(values.distinct) + high, return_inverse=True)
    size = len(values.distinct)
    return values.some(pairs // size), values.some(pairs % size), place


def _dates(
    records: Records, test: Simple, left: Integers, right: Integers
) -> tuple[Integers, list[list[Codes]]]:
    """Rows with two dates, and for either side days since 1970, year, month, day."""
    values = records.values(test.parts[0])
    one, other = values.codes[left], values.codes[right]
    dates = values.dates
    rows = np.flatnonzero((one >= 0) & (other >= 0))
    if len(rows):
        rows = rows[(dates[1][one[rows]] > 0) & (dates[1][other[rows]] > 0)]
    return rows, [[each[side[rows]] for each in dates] for side in (one, other)]


def _where(size: int, rows: Integers, met: Flags) -> Flags:
    found = np.zeros(size, dtype=bool)
    found[rows] = met
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
