"""From links to clusters: connected components, with a guard against giants. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from concord.linkage.patterns import Floats, Integers

STEP = 2.0  # bits by which the weight is raised inside a component that is too large


@dataclass(frozen=True)
class Clusters:
    """`of[r]`: number of record `r`'s cluster, counted by each cluster's first record.

    `parted`: components above the limit that were parted; `whole`: those above it that no weight
    parts, for all their links are of the heaviest.
    """

    of: Integers
    parted: int
    whole: int

    @property
    def number(self) -> int:
        """How many clusters there are."""
        return int(self.of.max(initial=-1)) + 1


def clusters(
    records: int, left: Integers, right: Integers, weight: Floats, *, threshold: float, limit: int
) -> Clusters:
    """Connected components over links of at least `threshold`.

    Inside a component of more than `limit` records the weight is raised, step by step, until all
    its parts are within the limit or only the heaviest links are left.
    """
    strong = weight >= threshold
    left, right, weight = left[strong], right[strong], weight[strong]
    of = _components(records, left, right)
    parted = whole = 0
    for giant in np.flatnonzero(np.bincount(of, minlength=1) > limit).tolist():
        before = int(of.max())
        whole += _break(giant, of, left, right, weight, threshold, limit)
        parted += int(of.max()) > before
    return Clusters(_by_first(of), parted, whole)


def _break(
    giant: int,
    of: Integers,
    left: Integers,
    right: Integers,
    weight: Floats,
    threshold: float,
    limit: int,
) -> int:
    """Parts one component, changing `of`. Returns how many of its parts stayed too large."""
    waiting = [(giant, threshold + STEP)]
    unbroken = 0
    while waiting:
        cluster, level = waiting.pop()
        members = np.flatnonzero(of == cluster)
        inside = of[left] == cluster
        heaviest = float(weight[inside].max())
        strong = inside & (weight >= min(level, heaviest))
        place = np.full(len(of), -1, dtype=np.int64)
        place[members] = np.arange(len(members))
        parts = _components(len(members), place[left[strong]], place[right[strong]])
        fresh = int(of.max()) + 1
        of[members] = np.where(parts == 0, cluster, fresh + parts - 1)
        for number in np.flatnonzero(np.bincount(parts) > limit).tolist():
            named = cluster if number == 0 else fresh + number - 1
            if level >= heaviest:
                unbroken += 1
            else:
                waiting.append((named, level + STEP))
    return unbroken


def _components(records: int, left: Integers, right: Integers) -> Integers:
    links = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), (records, records))
    _, of = connected_components(links, directed=False)
    return np.asarray(of, dtype=np.int64)


def _by_first(of: Integers) -> Integers:
    """Cluster numbers by each cluster's first record, whatever order they were found in."""
    _, first, place = np.unique(of, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place].astype(np.int64)
