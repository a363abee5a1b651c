"""How good an index is, where the truth is known: pairwise and B-cubed. Pure numpy.

Both are over the records that the index and the truth have in common, of all feeds and roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concord.linkage.patterns import Integers


@dataclass(frozen=True)
class Agreement:
    """Precision and recall, 0 to 1; 1 where there is nothing to be wrong about."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def pairwise(found: Sequence[object], truth: Sequence[object]) -> Agreement:
    """Over all pairs of different records, within a feed and across feeds.

    precision: of pairs with one person id, the share that is one person; recall: of pairs that are
    one person, the share with one person id. `found[i]` and `truth[i]` are record i's.
    """
    cells, by_found, by_truth = _table(found, truth)
    both = _pairs(cells[:, 2])
    return Agreement(_share(both, _pairs(by_found)), _share(both, _pairs(by_truth)))


def b_cubed(found: Sequence[object], truth: Sequence[object]) -> Agreement:
    """B-cubed (Bagga and Baldwin 1998): precision and recall of each record's person, averaged.

    Unlike `pairwise` it does not count a person with many records more than others' records.
    """
    cells, by_found, by_truth = _table(found, truth)
    records = cells[:, 2].sum()
    if not records:
        return Agreement(1.0, 1.0)
    square = cells[:, 2].astype(float) ** 2
    return Agreement(
        float((square / by_found[cells[:, 0]]).sum() / records),
        float((square / by_truth[cells[:, 1]]).sum() / records),
    )


def _table(found: Sequence[object], truth: Sequence[object]) -> tuple[Integers, Integers, Integers]:
    """Non-empty cells (found, truth, records) of the two partitions, and their margins."""
    one, other = _codes(found), _codes(truth)
    width = int(other.max(initial=0)) + 1
    cells, counts = np.unique(one * width + other, return_counts=True)
    table = np.stack([cells // width, cells % width, counts], axis=1)
    return table, np.bincount(one), np.bincount(other)


def _codes(values: Sequence[object]) -> Integers:
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def _pairs(sizes: Integers) -> float:
    return float((sizes * (sizes - 1) / 2).sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
