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
from concord.linkage.values import Codes, Flags, Integers, PairedRows, Values

# How far a bound may be from what it bounds and still count as equal to it: 32-bit floats.
SLACK = 1e-4


@dataclass(frozen=True)
class Simple:
    """A condition of one of TESTS on parts of both records; `number` is what the test takes, if it
    takes one."""

    name: str
    parts: tuple[str, ...]
    number: float | None = None

    def met(self, pairs: PairedRows) -> Flags:
        return TESTS[self.name].judge(pairs, self)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.parts


@dataclass(frozen=True)
class AllOf:
    """Met where every one of its conditions is."""

    of: tuple[Condition, ...]

    def met(self, pairs: PairedRows) -> Flags:
        found = self.of[0].met(pairs).copy()
        for condition in self.of[1:]:
            rest = np.flatnonzero(found)
            found[rest] = condition.met(pairs.some(rest))
        return found

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(part for condition in self.of for part in condition.reads)


@dataclass(frozen=True)
class AnyOf:
    """Met where one of its conditions is."""

    of: tuple[Condition, ...]

    def met(self, pairs: PairedRows) -> Flags:
        found = self.of[0].met(pairs).copy()
        for condition in self.of[1:]:
            rest = np.flatnonzero(~found)
            found[rest] = condition.met(pairs.some(rest))
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

    def of(self, pairs: PairedRows) -> npt.NDArray[np.int8]:
        """The number of each pair's level, `missing` 0."""
        found = np.zeros(len(pairs), dtype=np.int8)
        waiting, rest, number = np.arange(len(pairs)), pairs, 1
        for level in self.levels:
            met = level.when.met(rest)
            hit = np.flatnonzero(met)
            if level.part and level.classes > 1:
                one, _ = rest.codes(level.part)
                found[waiting[hit]] = number + pairs.records.classes(level.part)[one[hit]]
            else:
                found[waiting[hit]] = number
            still = np.flatnonzero(~met)
            waiting, rest = waiting[still], rest.some(still)
            number += level.classes
        return found


def space(comparisons: Sequence[Comparison]) -> Space:
    """The patterns that the comparisons can give."""
    return Space(tuple(comparison.width for comparison in comparisons))


def patterns(comparisons: Sequence[Comparison], pairs: PairedRows) -> Integers:
    """The agreement pattern of each pair."""
    found = np.zeros(len(pairs), dtype=np.int64)
    for comparison, place in zip(comparisons, space(comparisons).places.tolist(), strict=True):
        found += comparison.of(pairs).astype(np.int64) * place
    return found


# --- tests ----------------------------------------------------------------------------------------


def same(pairs: PairedRows, test: Simple) -> Flags:
    """Both say the same."""
    return pairs.same(test.parts[0])


def known(pairs: PairedRows, test: Simple) -> Flags:
    """Both say something, in every one of the columns."""
    found = np.ones(len(pairs), dtype=bool)
    for part in test.parts:
        one, other = pairs.codes(part)
        found &= (one >= 0) & (other >= 0)
    return found


def missing(pairs: PairedRows, test: Simple) -> Flags:
    """At least one of the two says nothing."""
    return ~known(pairs, test)


def one_known(pairs: PairedRows, test: Simple) -> Flags:
    """One says something and the other nothing."""
    one, other = pairs.codes(test.parts[0])
    return (one < 0) != (other < 0)


def jaro_winkler(pairs: PairedRows, test: Simple) -> Flags:
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

    return _judged(pairs, test.parts[0], possible, judge)


def damerau_levenshtein(pairs: PairedRows, test: Simple) -> Flags:
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

    return _judged(pairs, test.parts[0], possible, judge)


def initial(pairs: PairedRows, test: Simple) -> Flags:
    """One is a single letter, with which the other begins."""
    values = pairs.values(test.parts[0])
    one, other = pairs.codes(test.parts[0])
    first = values.beginnings >> np.uint32(24)
    # A single letter: the value ends, or a space follows.
    second = (values.beginnings >> np.uint32(16)) & np.uint32(0xFF)
    single = (second == 0) | (second == ord(" "))
    found = (one >= 0) & (other >= 0)
    rest = np.flatnonzero(found)
    one, other = one[rest], other[rest]
    found[rest] = (single[one] | single[other]) & (first[one] == first[other])
    return found


def nickname(pairs: PairedRows, test: Simple) -> Flags:
    """Both can be short for one name (package `nicknames`), and begin with different words."""
    found = _sharing(pairs, test.parts[0], canonical_names)
    rows = np.flatnonzero(found)
    one, other = pairs.some(rows).codes(f"first_word({test.parts[0]})")
    found[rows] = one != other
    return found


def shared_word(pairs: PairedRows, test: Simple) -> Flags:
    """A word of one, of three letters or more and no particle, is a word of the other."""
    return _sharing(pairs, test.parts[0], words_of)


def near_date(pairs: PairedRows, test: Simple) -> Flags:
    """Two of year, month and day agree, or day and month are swapped."""
    rows, days = _dates(pairs, test.parts[0])
    (_, year, month, day), (_, other_year, other_month, other_day) = days
    agreeing = (
        (year == other_year).astype(np.int8) + (month == other_month) + (day == other_day)
    ) >= 2
    swapped = (year == other_year) & (month == other_day) & (day == other_month)
    return _where(len(pairs), rows, agreeing | swapped)


def day_month_swapped(pairs: PairedRows, test: Simple) -> Flags:
    """One's month is the other's day and the reverse, in one year."""
    rows, days = _dates(pairs, test.parts[0])
    (_, year, month, day), (_, other_year, other_month, other_day) = days
    return _where(
        len(pairs), rows, (year == other_year) & (month == other_day) & (day == other_month)
    )


def days_apart(pairs: PairedRows, test: Simple) -> Flags:
    """At most `number` days lie between the two dates."""
    rows, ((one, *_), (other, *_)) = _dates(pairs, test.parts[0])
    return _where(len(pairs), rows, np.abs(one - other) <= (test.number or 0))


def numbers_apart(pairs: PairedRows, test: Simple) -> Flags:
    """Two numbers, at most `number` apart."""
    values = pairs.values(test.parts[0])
    as_number = np.array([_number(text) for text in values.texts] or [np.nan])
    one, other = pairs.codes(test.parts[0])
    with np.errstate(invalid="ignore"):
        near = np.abs(as_number[one] - as_number[other]) <= (test.number or 0)
    return (one >= 0) & (other >= 0) & near


def swapped(pairs: PairedRows, test: Simple) -> Flags:
    """What one says in the first column the other says in the second, and the reverse."""
    first, second = (pairs.values(part) for part in test.parts)
    place = {text: code for code, text in enumerate(first.texts)}
    # Values of the second column by their code in the first; -2 for those it does not have.
    to = np.array([place.get(text, -2) for text in second.texts] or [-2], dtype=np.int32)
    crossed = np.where(second.codes >= 0, to[second.codes], np.int32(-2))
    one, other = pairs.codes(test.parts[0])
    return (one == crossed[pairs.right]) & (other == crossed[pairs.left])


def overlap(pairs: PairedRows, test: Simple) -> Flags:
    """Two lists, written with SEPARATOR between values, with `number` or more in common (1)."""
    least = int(test.number or 1)

    def items(text: str) -> frozenset[str]:
        return frozenset(text.split(SEPARATOR))

    return _sharing(pairs, test.parts[0], items, least)


@dataclass(frozen=True)
class Kind:
    """A test: its function, how many columns it reads, and what its number is called, if any;
    `optional`: whether it may be left out."""

    judge: Callable[[PairedRows, Simple], Flags]
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
    pairs: PairedRows,
    part: str,
    possible: Callable[[Values, Codes, Codes], Flags],
    judge: Callable[[Sequence[str], Sequence[str]], Flags],
) -> Flags:
    """`judge` on each distinct pair of values that are known, unequal and possibly near."""
    values, (one, other) = pairs.values(part), pairs.codes(part)
    found = pairs.same(part).copy()
    rows = np.flatnonzero((one != other) & (one >= 0) & (other >= 0))
    one, other = one[rows], other[rows]
    near = np.flatnonzero(possible(values, one, other))
    if len(near):
        a, b, place = _distinct(values, one[near], other[near])
        found[rows[near]] = judge(a, b)[place]
    return found


def _sharing(
    pairs: PairedRows,
    part: str,
    items: Callable[[str], frozenset[str] | set[str]],
    least: int = 1,
) -> Flags:
    """Values with at least `least` items in common; equal values too, if they have any."""
    values, marks = pairs.values(part), pairs.records.marks(part, items)
    one, other = pairs.codes(part)
    rows = np.flatnonzero((one >= 0) & (other >= 0))
    if len(rows):
        rows = rows[(marks[one[rows]] & marks[other[rows]]) != 0]
    found = np.zeros(len(pairs), dtype=bool)
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


def _dates(pairs: PairedRows, part: str) -> tuple[Integers, list[list[Codes]]]:
    """Rows with two dates, and for either side days since 1970, year, month, day."""
    dates, (one, other) = pairs.values(part).dates, pairs.codes(part)
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
