"""Which counts of a release are hidden: the small ones, and others that would give them away.

Primary suppression hides every count from 1 to the profile's minimum less one. Secondary
(complementary) suppression hides more, so that each of these could as well be at the minimum.
For one small count after the other a linear programme looks for the cheapest way to raise it to
the minimum while all sums hold; what has to move for that is hidden (the linear relaxation of
Fischetti and Salazar, Management Science 47(7), 2001, one cell at a time). An attack on the result
(`concord.disclosure.attack`) then proves it. An exact method would hide somewhat less.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import numpy as np

from concord.disclosure.attack import Cell, Interval, Sum, intervals
from concord.disclosure.profiles import Profile
from concord.errors import DisclosureError

if TYPE_CHECKING:  # where it is called it is imported: half a second of every command's start
    from scipy.sparse import csr_array

MOVED = 1e-6


@dataclass(frozen=True)
class Suppression(Generic[Cell]):
    """What is hidden, and what an attacker can still infer of the primary cells."""

    primary: frozenset[Cell]
    secondary: frozenset[Cell]
    inferred: Mapping[Cell, Interval]

    @property
    def hidden(self) -> frozenset[Cell]:
        return self.primary | self.secondary

    @property
    def narrowest(self) -> float | None:
        """The width of the narrowest interval; None when nothing is hidden."""
        widths = [each.high - each.low for each in self.inferred.values()]
        return min(widths, default=None)


def suppress(
    counts: Mapping[Cell, int],
    sums: Sequence[Sum[Cell]],
    profile: Profile,
    *,
    derived: Collection[Cell] = (),
    cost: Callable[[Cell], float] = lambda _: 1.0,
) -> Suppression[Cell]:
    """Hides what the profile asks for and what protects it.

    `counts` holds every count that is shown or follows from shown ones; `derived` names those that
    are not shown themselves (a total less a part), but must not follow either when they are small.
    `cost` says what is lost, for each one that it moves, when a count is hidden. Zeros are only
    hidden by the profile. Raises DisclosureError (exit 15) when counts break their sums, or when
    the attack finds a small count all the same.
    """
    wrong = sum(counts[each.total] != sum(counts[part] for part in each.parts) for each in sums)
    if wrong:
        raise DisclosureError(f"{wrong} totals are not sums of their parts; nothing is released")
    primary = [cell for cell, count in counts.items() if 1 <= count < profile.minimum]
    hidden = {*primary, *derived}
    cells = list(counts)
    place = {cell: index for index, cell in enumerate(cells)}
    matrix = _matrix(place, sums)
    size = np.array([counts[cell] for cell in cells], dtype=float)
    price = np.array([0.0 if cell in hidden else cost(cell) for cell in cells])
    # The smallest first: they need the most room, and what gives it serves the others.
    for cell in sorted(primary, key=lambda each: counts[each]):
        for index in _moved(matrix, size, price, place[cell], profile.minimum - counts[cell]):
            hidden.add(cells[index])
            price[index] = 0.0
    harmless = frozenset(derived) - frozenset(primary)
    inferred = intervals(counts, sums, hidden, frozenset(primary))
    told = sum(each.high < profile.minimum for each in inferred.values())
    if told:
        raise DisclosureError(f"{told} small counts can be inferred; nothing is released")
    return Suppression(frozenset(primary), frozenset(hidden) - {*primary} - harmless, inferred)


def _matrix(place: Mapping[Cell, int], sums: Sequence[Sum[Cell]]) -> csr_array:
    """One row a sum: 1 for its total, -1 for each part."""
    from scipy.sparse import csr_array

    rows, columns, values = [], [], []
    for row, each in enumerate(sums):
        for cell, sign in ((each.total, 1.0), *((part, -1.0) for part in each.parts)):
            rows.append(row)
            columns.append(place[cell])
            values.append(sign)
    return csr_array((values, (rows, columns)), shape=(len(sums), len(place)))


def _moved(
    matrix: csr_array, size: np.ndarray, price: np.ndarray, index: int, by: float
) -> list[int]:
    """The counts that move when one is raised by `by` in the cheapest way that keeps all sums.

    A count moves up without limit and down to zero; one that is zero stays.
    """
    from scipy.optimize import linprog
    from scipy.sparse import hstack

    up = np.where(size > 0, np.inf, 0.0)
    down = size.copy()
    bounds = np.stack([np.zeros(2 * len(size)), np.concatenate([up, down])], axis=1)
    bounds[index] = (by, by)
    bounds[len(size) + index] = (0.0, 0.0)
    answer = linprog(
        np.concatenate([price, price]) + 1e-9,
        A_eq=hstack([matrix, -matrix]),
        b_eq=np.zeros(matrix.shape[0]),
        bounds=bounds,
        method="highs",
    )
    # It can always be raised: any multiple of all counts keeps all sums.
    move = answer.x[: len(size)] + answer.x[len(size) :]
    return [int(each) for each in np.flatnonzero(move > MOVED)]
