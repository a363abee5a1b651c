"""Columns of records as codes into their distinct values, and what is derived of a value once.

Everything that compares or blocks works on codes: a value is transformed, hashed or measured once
however many records have it. Pure; workers import this module: it imports little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from concord.linkage.standardise import SEPARATOR, Standards, core, email_of, root

Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

PART = re.compile(r"(?P<transform>[a-z_]+)\((?P<column>\w+)(?:, ?(?P<number>\d+))?\)|(?P<bare>\w+)")


@dataclass(frozen=True)
class Part:
    """A column, or a transform of one: `birth`, `year(birth)`, `first(family, 2)`."""

    column: str
    transform: str | None = None
    number: int | None = None

    @property
    def lists(self) -> bool:
        """Whether a row has several values of it: `each(emails)`."""
        return self.transform in LISTS

    @classmethod
    def of(cls, text: str) -> Part:
        """Raises ValueError where `text` is none, with what to write."""
        found = PART.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no column and no transform(column) or transform(column, n)"
            )
        if found["bare"]:
            return cls(found["bare"])
        name, number = found["transform"], found["number"]
        if name not in {*TRANSFORMS, *LISTS}:
            known = ", ".join((*TRANSFORMS, *LISTS))
            raise ValueError(f"no transform {name!r}; there are {known}")
        counts = name in COUNTING
        if counts and not (number and int(number)) or not counts and number:
            raise ValueError(
                f"{name} {'needs a number of letters' if counts else 'takes no number'}"
            )
        return cls(found["column"], name, int(number) if number else None)


def _each(work: Callable[[str], str | None]) -> Callable[[pa.Array, int | None], pa.Array]:
    def done(values: pa.Array, _: int | None) -> pa.Array:
        return pa.array([work(text) or None for text in values.to_pylist()], pa.string())

    return done


# Distinct texts -> what is made of each, NULL where nothing can be.
TRANSFORMS: Mapping[str, Callable[[pa.Array, int | None], pa.Array]] = {
    "first": lambda values, n: pc.utf8_slice_codeunits(values, 0, n),
    "last": lambda values, n: pc.utf8_slice_codeunits(values, -(n or 1)),
    "first_word": _each(lambda text: text.split(" ", 1)[0]),
    "sorted_words": _each(lambda text: " ".join(sorted(text.split(" ")))),
    "joined": lambda values, _: pc.replace_substring(values, " ", ""),
    "year": lambda values, _: pc.utf8_slice_codeunits(values, 0, 4),
    "month": lambda values, _: pc.utf8_slice_codeunits(values, 5, 7),
    "day": lambda values, _: pc.utf8_slice_codeunits(values, 8, 10),
    "core": _each(core),
    "email": _each(lambda text: email_of(text, Standards())),
    "nickname_root": _each(lambda text: root(text, nicknames=True)),
}
COUNTING = ("first", "last")
# Transforms that make a list of a text: blocking rules alone read them (`Records.exploded`).
LISTS: Mapping[str, Callable[[str], Iterable[str]]] = {
    "each": lambda text: text.split(SEPARATOR),
    "each_word": lambda text: core(text).split(" "),
}


@dataclass(frozen=True)
class Values:
    """A column: for each record the code of its value, -1 for NULL, and the values by code."""

    codes: Codes
    distinct: pa.Array

    @classmethod
    def of(cls, column: pa.ChunkedArray | pa.Array) -> Values:
        """From texts, dictionary-encoded or not."""
        flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(flat, pa.ChunkedArray):  # no chunks at all
            flat = pa.array([], pa.string())
        encoded = flat if isinstance(flat, pa.DictionaryArray) else flat.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return cls(codes.astype(np.int32, copy=False), encoded.dictionary)

    def taken(self, rows: Integers) -> Values:
        """Those of some rows."""
        return Values(self.codes[rows], self.distinct)

    def parted(self, part: Part) -> tuple[Integers, Values]:
        """The values of the lists that a part of LISTS makes: how many each row has (each value
        once, no empty ones), and all of them, row by row."""
        work = LISTS[part.transform or ""]
        made = [[one for one in dict.fromkeys(work(text)) if one] for text in self.texts]
        sizes = np.array([*map(len, made), 0], dtype=np.int64)  # the last one for NULL
        counts = sizes[self.codes]
        whole = Values.of(pa.array([one for some in made for one in some], pa.string()))
        begins = (np.cumsum(sizes) - sizes)[self.codes]
        return counts, whole.taken(np.repeat(begins, counts) + count_within(counts))

    def transformed(self, part: Part) -> Values:
        made = TRANSFORMS[part.transform or ""](self.distinct, part.number).dictionary_encode()
        to = made.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        return Values(recoded(to, self.codes), made.dictionary)

    @cached_property
    def texts(self) -> Sequence[str]:
        return self.distinct.to_pylist()

    @cached_property
    def hashes(self) -> Hashes:
        """A 64-bit hash of each distinct value; the same in every process."""
        return hashed(self.distinct)

    @cached_property
    def lengths(self) -> Codes:
        return np.asarray(pc.utf8_length(self.distinct).to_numpy(zero_copy_only=False), np.int32)

    @cached_property
    def letters(self) -> npt.NDArray[np.uint64]:
        """A bit for each letter or digit that a value has; others share one."""
        data, starts, lengths = _bytes(self.distinct)
        found = np.zeros(len(starts), dtype=np.uint64)
        some = np.flatnonzero(lengths)
        if len(some):
            found[some] = np.bitwise_or.reduceat(BIT[data], starts[some])
        return found

    @cached_property
    def beginnings(self) -> npt.NDArray[np.uint32]:
        """The first four bytes of each value, zeros where it is shorter."""
        data, starts, lengths = _bytes(self.distinct)
        made = np.zeros(len(starts), dtype=np.uint32)
        for place in range(4):
            has = lengths > place
            made[has] |= data[starts[has] + place].astype(np.uint32) << np.uint32(24 - 8 * place)
        return made

    @cached_property
    def dates(self) -> tuple[Codes, Codes, Codes, Codes]:
        """Of values written YYYY-MM-DD: days since 1970, year, month, day; year 0 where no date."""
        data, starts, lengths = _bytes(self.distinct)
        found = np.zeros((4, len(starts)), dtype=np.int32)
        rows = np.flatnonzero(lengths == len(DATE))
        letters = data[starts[rows, None] + np.arange(len(DATE))]
        digit = np.array([sign == "0" for sign in DATE])
        written = np.all(letters[:, ~digit] == ord("-"), axis=1)
        # What is below "0" is far above 9, as whole numbers without a sign.
        written &= np.all(letters[:, digit] - np.uint8(ord("0")) <= 9, axis=1)
        rows, tens = rows[written], letters[written].astype(np.int64) - ord("0")
        year, month, day = (
            tens[:, begin:end] @ 10 ** np.arange(end - begin - 1, -1, -1)
            for begin, end in ((0, 4), (5, 7), (8, 10))
        )
        months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
        first, next_first = ((months + n).astype("datetime64[D]").astype(np.int64) for n in (0, 1))
        there = (year > 0) & (month >= 1) & (month <= 12) & (day >= 1)
        there &= day <= next_first - first
        whole = np.stack([first + day - 1, year, month, day])
        found[:, rows[there]] = whole[:, there]
        return found[0], found[1], found[2], found[3]

    def marks(self, words_of: Callable[[str], Iterable[str]]) -> Hashes:
        """A bit for each of a value's words, by hash: values without a common bit share none."""
        words = [list(words_of(text)) for text in self.texts]
        bits = np.zeros(len(words), dtype=np.uint64)
        flat = pa.array([word for some in words for word in some], pa.string())
        if len(flat):
            owner = np.repeat(np.arange(len(words)), [len(some) for some in words])
            np.bitwise_or.at(bits, owner, np.uint64(1) << (hashed(flat) % np.uint64(64)))
        return bits

    def some(self, codes: Integers) -> Sequence[str]:
        """The texts of codes that are not NULL."""
        found: Sequence[str] = self.distinct.take(pa.array(codes)).to_pylist()
        return found


ABSENT = np.uint64(0x5A5A5A5A5A5A5A5A)


def hashes_of_rows(columns: Iterable[pa.ChunkedArray | pa.Array], rows: int) -> Hashes:
    """A 64-bit hash of what each row says in columns of texts; the same in every process."""
    found = np.zeros(rows, dtype=np.uint64)
    for column in columns:
        values = Values.of(column)
        each = np.append(values.hashes, ABSENT)[values.codes]  # -1, of NULL: the last
        found = mixed(found ^ each)
    return found


DATE = "0000-00-00"
# Letters, digits, and everything else as one.
BIT = np.full(256, 1 << 62, dtype=np.uint64)
for _place, _sign in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"):
    BIT[ord(_sign)] = BIT[ord(_sign.lower())] = np.uint64(1 << _place)


class Records:
    """Rows of a table; columns and their transforms are encoded when first asked for."""

    def __init__(self, rows: pa.Table, common: Mapping[str, Common] | None = None) -> None:
        self.rows, self.common = rows, dict(common or {})
        self._values: dict[str, Values] = {}
        self._marks: dict[tuple[str, object], Hashes] = {}
        self._classes: dict[str, npt.NDArray[np.int8]] = {}
        self._exploded: dict[tuple[str, ...], Records] = {}

    @property
    def size(self) -> int:
        return self.rows.num_rows

    @cached_property
    def origin(self) -> Integers:
        """Each row's number in the table."""
        return np.arange(self.size)

    def exploded(self, parts: Sequence[str]) -> Records:
        """The rows, each once for every choice of one value of each list among the parts; a row
        without values is left out. The records themselves if no part is a list."""
        lists = tuple(sorted({part for part in parts if Part.of(part).lists}))
        if lists and lists not in self._exploded:
            self._exploded[lists] = Exploded(self, lists)
        return self._exploded[lists] if lists else self

    def values(self, part: str) -> Values:
        """Of a part written as in `Part.of`."""
        if part not in self._values:
            parsed = Part.of(part)
            if parsed.transform is None:
                self._values[part] = Values.of(self.rows[parsed.column])
            else:
                self._values[part] = self.values(parsed.column).transformed(parsed)
        return self._values[part]

    def marks(self, part: str, words_of: Callable[[str], Iterable[str]]) -> Hashes:
        """`Values.marks`, made once."""
        place = (part, words_of)
        if place not in self._marks:
            self._marks[place] = self.values(part).marks(words_of)
        return self._marks[place]

    def classes(self, part: str) -> npt.NDArray[np.int8]:
        """How common each distinct value is, as the model counts it: 0 for the rarest class."""
        if part not in self._classes:
            values = self.values(part)
            none = np.zeros(len(values.distinct), dtype=np.int8)
            self._classes[part] = self.common[part].of(values) if part in self.common else none
        return self._classes[part]


class Exploded(Records):
    """See `Records.exploded`."""

    def __init__(self, records: Records, lists: Sequence[str]) -> None:
        super().__init__(records.rows, records.common)
        self._records, origin = records, records.origin
        for text in lists:
            part = Part.of(text)
            counts, found = records.values(part.column).taken(origin).parted(part)
            again = np.repeat(np.arange(len(origin)), counts)
            self._values = {name: of.taken(again) for name, of in self._values.items()}
            self._values[text], origin = found, origin[again]
        self._origin = origin

    @property
    def size(self) -> int:
        return len(self._origin)

    @cached_property
    def origin(self) -> Integers:
        return self._origin

    def values(self, part: str) -> Values:
        if part not in self._values:
            self._values[part] = self._records.values(part).taken(self._origin)
        return self._values[part]


NOBODY: Integers = np.zeros(0, dtype=np.int64)


class PairedRows:
    """Pairs of rows of a table, row `left[k]` with row `right[k]`.

    What the two say in a part is looked up when first asked for, and once: to fetch it from all
    over a table takes longer than to compare it.
    """

    def __init__(self, records: Records, left: Integers, right: Integers) -> None:
        self.records, self._size = records, len(left)
        self._ends: tuple[Integers, Integers] | None = (left, right)
        self._of: tuple[PairedRows, Integers] | None = None
        self._codes: dict[str, tuple[Codes, Codes]] = {}
        self._same: dict[str, Flags] = {}

    def __len__(self) -> int:
        return self._size

    def some(self, rows: Integers) -> PairedRows:
        """Those in some places."""
        found = PairedRows(self.records, rows, rows)
        found._ends, found._of = None, (self, rows)
        return found

    @property
    def left(self) -> Integers:
        return self._rows[0]

    @property
    def right(self) -> Integers:
        return self._rows[1]

    @property
    def _rows(self) -> tuple[Integers, Integers]:
        if self._ends is None and self._of is not None:
            (one, other), rows = self._of[0]._rows, self._of[1]
            self._ends = one[rows], other[rows]
        return self._ends or (NOBODY, NOBODY)

    def values(self, part: str) -> Values:
        return self.records.values(part)

    def codes(self, part: str) -> tuple[Codes, Codes]:
        """The code of each left and of each right row's value, -1 for NULL."""
        found = self._held(part)
        if found is None:
            codes = self.values(part).codes
            found = self._codes[part] = codes[self.left], codes[self.right]
        return found

    def _held(self, part: str) -> tuple[Codes, Codes] | None:
        """What was looked up already, of these pairs or of those of which they are some."""
        if part not in self._codes and self._of is not None:
            whole, rows = self._of
            if (held := whole._held(part)) is not None:
                self._codes[part] = held[0][rows], held[1][rows]
        return self._codes.get(part)

    def same(self, part: str) -> Flags:
        """Which pairs have one value, and both have one; read-only, as others are told it too."""
        if part not in self._same:
            one, other = self.codes(part)
            self._same[part] = (one == other) & (one >= 0)
            self._same[part].flags.writeable = False
        return self._same[part]


@dataclass(frozen=True)
class Common:
    """Values of a part that many records have: their keys as `keys.keys_of` makes them of the
    part alone, sorted, and the class of each, from 1."""

    hashes: Hashes
    classes: npt.NDArray[np.int8]

    def of(self, values: Values) -> npt.NDArray[np.int8]:
        """The class of each distinct value; 0 for those that are not common."""
        found = np.zeros(len(values.distinct), dtype=np.int8)
        if len(self.hashes):
            keys = mixed(values.hashes)
            place = np.minimum(np.searchsorted(self.hashes, keys), len(self.hashes) - 1)
            same = self.hashes[place] == keys
            found[same] = self.classes[place[same]]
        return found


def count_within(counts: Integers) -> Integers:
    """0, 1, ... for each of `counts`, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def recoded(to: Codes, codes: Codes) -> Codes:
    """`to[codes]`; NULL stays NULL."""
    if not len(to):
        return np.full(len(codes), -1, dtype=np.int32)
    found = to[codes]
    found[codes < 0] = -1
    return found


def hashed(texts: pa.Array) -> Hashes:
    """64-bit hashes of texts, the same in every process; NULLs count as empty.

    Eight bytes at a time, each mixed in by the finaliser of SplitMix64 (Steele, Lea and Flood
    2014). Python's own hash differs between workers.
    """
    data, starts, lengths = _bytes(texts)
    found = mixed(lengths.astype(np.uint64) + np.uint64(SEED))
    padded = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
    words = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
    here = np.flatnonzero(lengths > 0)
    place = 0
    while len(here):
        word = words[starts[here] + place]
        left = lengths[here] - place
        short = left < 8
        keep = np.where(short, np.minimum(left, 7), 0).astype(np.uint64) * np.uint64(8)
        word = np.where(short, word & ((np.uint64(1) << keep) - np.uint64(1)), word)
        found[here] = mixed(found[here] ^ word)
        place += 8
        here = here[lengths[here] > place]
    return found


def mixed(values: Hashes) -> Hashes:
    """SplitMix64's finaliser: each bit of the input moves half of the output's."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


SEED = 0x436F6E636F7264


def _bytes(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Integers, Integers]:
    """A text array's bytes, and where each text starts and how long it is, in bytes."""
    flat = texts.cast(pa.large_string())
    _, offsets, data = flat.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[flat.offset : flat.offset + len(flat) + 1]
    whole = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, np.uint8)
    first = int(ends[0]) if len(ends) else 0
    last = int(ends[-1]) if len(ends) else 0
    starts = (ends[:-1] - first).astype(np.int64) if len(ends) else np.zeros(0, np.int64)
    return whole[first:last], starts, np.diff(ends).astype(np.int64)
