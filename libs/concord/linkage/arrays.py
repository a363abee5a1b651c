"""Numbers and texts told apart and looked up, by the million. Pure; workers import this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

# Numbers up to here, and not many times as large as there are, are told apart by an array of all
# that there can be, which is no sort.
COUNTED, TIMES = 1 << 24, 16
# Of the first so many it is seen whether there are few distinct ones.
SAMPLE = 10_000
# So many hashes of one beginning are no hashes: a look at each would take long.
TOGETHER = 64


def distinct(numbers: Integers) -> tuple[Integers, Integers]:
    """The distinct numbers, sorted, and the place of each number among them."""
    if not _counted(numbers, len(numbers)):
        if len(np.unique(numbers[:SAMPLE])) * TIMES < min(len(numbers), SAMPLE):
            return _few(numbers)
        found, place = np.unique(numbers, return_inverse=True)
        return found, place.reshape(-1).astype(np.int64)
    seen = _seen(numbers, int(numbers.max()))
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[numbers]


def _few(numbers: Integers) -> tuple[Integers, Integers]:
    """Of few distinct numbers: they are hashed, and then sorted."""
    encoded = pa.array(numbers).dictionary_encode()
    found = encoded.dictionary.to_numpy()
    order = np.argsort(found)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return found[order], rank[encoded.indices.to_numpy()]


def in_order(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The distinct numbers, sorted. Of millions of them several times as fast as np.unique, which
    hashes them first."""
    if _counted(numbers, len(numbers)):
        return np.flatnonzero(_seen(numbers, int(numbers.max()))).astype(numbers.dtype, copy=False)
    ordered = np.sort(numbers)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[new])


def places(known: npt.NDArray[Any], sought: npt.NDArray[Any]) -> Integers:
    """Where each of `sought` is in `known`, which is sorted; -1 where it is not.

    They are looked up in an array of all that there can be; hashes in a `Directory`; or in their
    order, which touches far less memory at a time.
    """
    if known.dtype == sought.dtype == np.uint64:
        return Directory.of(known).places(sought)
    if _counted(known, len(sought)) and np.issubdtype(sought.dtype, np.signedinteger):
        # One more at either end, where all others are looked up.
        place = np.full(int(known[-1]) + 3, -1, dtype=np.int64)
        place[known + 1] = np.arange(len(known))
        return place[np.clip(sought, -1, known[-1] + 1) + 1]
    return _by_order(known, sought)


def _by_order(known: npt.NDArray[Any], sought: npt.NDArray[Any]) -> Integers:
    # What comes in some sorted runs is soon in order.
    order = np.argsort(sought, kind="stable")
    ordered = sought[order]
    place = np.searchsorted(known, ordered)
    if len(known):
        missing = known[np.minimum(place, len(known) - 1)] != ordered
    else:
        missing = np.ones(len(place), dtype=bool)
    place[missing] = -1
    found = np.empty(len(sought), dtype=np.int64)
    found[order] = place
    return found


@dataclass(frozen=True)
class Directory:
    """Sorted 64-bit hashes in which others are looked up: their upper bits say nearly where.

    `starts[b]`: where the hashes begin whose upper bits are `b`; None where too many have the same.
    """

    known: Hashes
    starts: npt.NDArray[np.int32] | None
    shift: np.uint64

    @classmethod
    def of(cls, known: Hashes) -> Directory:
        bits = max(len(known).bit_length(), 1)
        shift = np.uint64(64 - bits)
        sizes = np.bincount((known >> shift).astype(np.int64), minlength=1 << bits)
        if sizes.max() > TOGETHER:
            return cls(known, None, shift)
        return cls(known, (np.cumsum(sizes) - sizes).astype(np.int32), shift)

    def places(self, sought: Hashes) -> Integers:
        """As `places`."""
        if self.starts is None or not len(self.known):
            return _by_order(self.known, sought)
        known, last = self.known, len(self.known) - 1
        place = self.starts[(sought >> self.shift).astype(np.int64)].astype(np.int64)
        place = np.minimum(place, last)
        behind = np.flatnonzero(known[place] < sought)
        while len(behind):
            place[behind] += 1
            behind = behind[place[behind] <= last]
            behind = behind[known[place[behind]] < sought[behind]]
        found = np.minimum(place, last)
        found[known[found] != sought] = -1
        return found


def places_of_few(few: pa.Array, known: pa.Array) -> Integers:
    """Where each of a few texts is in `known`, whose many texts are distinct; -1 where it is not.

    The few are hashed and the many looked up among them: the other way round, as Arrow does it, a
    look for one text costs as much as for all.
    """
    encoded = few.dictionary_encode()
    which = pc.index_in(known, value_set=encoded.dictionary)
    there = np.flatnonzero(which.is_valid().to_numpy(zero_copy_only=False))
    place = np.full(len(encoded.dictionary) + 1, -1, dtype=np.int64)  # the last one for NULL
    place[which.take(pa.array(there)).to_numpy()] = there
    return place[encoded.indices.fill_null(-1).to_numpy()]


def _counted(numbers: npt.NDArray[Any], looked_up: int) -> bool:
    """Whether an array of all whole numbers up to the largest is not too large for so many."""
    if not len(numbers) or not np.issubdtype(numbers.dtype, np.signedinteger):
        return False
    return bool(numbers.min() >= 0 and numbers.max() <= min(COUNTED, TIMES * looked_up))


def _seen(numbers: Integers, most: int) -> npt.NDArray[np.bool_]:
    seen = np.zeros(most + 1, dtype=bool)
    seen[numbers] = True
    return seen


def grouped(
    rows: Integers, keys: npt.NDArray[np.uint64]
) -> tuple[Integers, npt.NDArray[np.uint64]]:
    """Rows, which ascend, and their keys, in an order that brings equal keys together; rows of one
    key still ascend.

    Sorted as one number each, of the key's upper bits and the place: that takes a third of the time
    of a stable sort. Where two keys are the same but for what is cut off, they are sorted in full.
    """
    bits = np.uint64(max(len(rows) - 1, 0).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed = (keys & ~low) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    found, upper = keys[order], packed >> bits
    if np.any((upper[1:] == upper[:-1]) & (found[1:] != found[:-1])):
        order = np.argsort(keys, kind="stable")
        found = keys[order]
    return rows[order], found
