"""Numbers told apart and looked up, by the million. Pure numpy; workers import this module."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

# Numbers up to here, and not many times as large as there are, are told apart by an array of all
# that there can be, which is no sort.
COUNTED, TIMES = 1 << 24, 16


def distinct(numbers: Integers) -> tuple[Integers, Integers]:
    """The distinct numbers, sorted, and the place of each number among them."""
    most = int(numbers.max(initial=0))
    if numbers.min(initial=0) < 0 or most > min(COUNTED, TIMES * len(numbers)):
        found, place = np.unique(numbers, return_inverse=True)
        return found, place.reshape(-1).astype(np.int64)
    seen = np.zeros(most + 1, dtype=bool)
    seen[numbers] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[numbers]


def in_order(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The distinct numbers, sorted. Of millions of them several times as fast as np.unique, which
    hashes them first."""
    ordered = np.sort(numbers)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[new])


def places(known: npt.NDArray[Any], sought: npt.NDArray[Any]) -> Integers:
    """Where each of `sought` is in `known`, which is sorted; -1 where it is not.

    They are looked up in their order, which touches far less memory at a time.
    """
    order = np.argsort(sought)
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
