"""What a reader can infer of a hidden cell from everything that a release shows.

A release's counts are bound by sums (a total and its parts). Whoever knows the visible ones and
that no count is negative knows, of each hidden one, an interval: two linear programmes give its
ends (Willenborg and de Waal, Elements of Statistical Disclosure Control, 2001, section 6).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from concord.errors import DisclosureError

Cell = TypeVar("Cell")


@dataclass(frozen=True)
class Sum(Generic[Cell]):
    """A total and the parts that add up to it."""

    total: Cell
    parts: tuple[Cell, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self.total, *self.parts)


@dataclass(frozen=True)
class Interval:
    """The smallest and the largest value that a hidden count can have; `high` may be infinite."""

    low: float
    high: float


def intervals(
    counts: Mapping[Cell, int],
    sums: Sequence[Sum[Cell]],
    hidden: Collection[Cell],
    wanted: Collection[Cell],
    *,
    low: bool = True,
) -> dict[Cell, Interval]:
    """The interval of each `wanted` hidden cell; without `low` its lower end is left at zero.

    Cells that no hidden one connects are solved apart. Raises DisclosureError if the counts break
    their own sums.
    """
    found: dict[Cell, Interval] = {}
    for cells, own in _blocks(sums, hidden):
        asked = [cell for cell in cells if cell in wanted]
        if asked:
            found |= _solve(counts, cells, own, asked, low=low)
    return found


def _blocks(
    sums: Sequence[Sum[Cell]], hidden: Collection[Cell]
) -> list[tuple[list[Cell], list[Sum[Cell]]]]:
    """Hidden cells that sums connect, with these sums."""
    secret = set(hidden)
    parent = {cell: cell for cell in hidden}

    def root(cell: Cell) -> Cell:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    bound = [[cell for cell in each.cells if cell in secret] for each in sums]
    for cells in bound:
        for cell in cells[1:]:
            parent[root(cell)] = root(cells[0])
    members: dict[Cell, list[Cell]] = {}
    for cell in parent:
        members.setdefault(root(cell), []).append(cell)
    own: dict[Cell, list[Sum[Cell]]] = {}
    for each, cells in zip(sums, bound, strict=True):
        if cells:
            own.setdefault(root(cells[0]), []).append(each)
    return [(cells, own.get(top, [])) for top, cells in members.items()]


def _solve(
    counts: Mapping[Cell, int],
    cells: Sequence[Cell],
    sums: Sequence[Sum[Cell]],
    wanted: Sequence[Cell],
    *,
    low: bool,
) -> dict[Cell, Interval]:
    place = {cell: index for index, cell in enumerate(cells)}
    matrix = np.zeros((len(sums), len(cells)))
    known = np.zeros(len(sums))
    for row, each in enumerate(sums):
        for cell, sign in ((each.total, 1.0), *((part, -1.0) for part in each.parts)):
            if cell in place:
                matrix[row, place[cell]] += sign
            else:
                known[row] -= sign * counts[cell]
    found = {}
    for cell in wanted:
        least = _end(matrix, known, place[cell], 1.0) if low else 0.0
        found[cell] = Interval(least, -_end(matrix, known, place[cell], -1.0))
    return found


def _end(matrix: np.ndarray, known: np.ndarray, index: int, sign: float) -> float:
    from scipy.optimize import linprog  # half a second of every command's start

    objective = np.zeros(matrix.shape[1])
    objective[index] = sign
    if not len(known):
        return 0.0 if sign > 0 else -np.inf
    answer = linprog(objective, A_eq=matrix, b_eq=known, bounds=(0, None), method="highs")
    if answer.status == 3:  # unbounded: nothing that is shown limits it
        return -np.inf
    if answer.status != 0:
        raise DisclosureError(f"the counts do not add up to their totals: {answer.message}")
    return round(float(answer.fun), 6)
