"""Components, the guard against giants, and measures against the truth."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage.clusters import Clusters, clusters
from concord.linkage.quality import b_cubed, pairwise

Edge = tuple[int, int, float]


def group(records: int, edges: list[Edge], *, limit: int = 100, threshold: float = 10) -> Clusters:
    left = np.array([e[0] for e in edges], dtype=np.int64)
    right = np.array([e[1] for e in edges], dtype=np.int64)
    weight = np.array([e[2] for e in edges], dtype=float)
    return clusters(records, left, right, weight, threshold=threshold, limit=limit)


def slowly(records: int, edges: list[Edge], threshold: float) -> list[int]:
    of = list(range(records))
    for one, other, weight in edges:
        if weight >= threshold:
            old, new = sorted((of[one], of[other]), reverse=True)
            of = [new if value == old else value for value in of]
    first = sorted(set(of), key=of.index)
    return [first.index(value) for value in of]


edges = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 40).map(float)).filter(
        lambda e: e[0] != e[1]
    ),
    max_size=15,
)


@given(edges)
def test_clusters_are_connected_components(found: list[Edge]) -> None:
    assert group(10, found).of.tolist() == slowly(10, found, 10)


@given(edges, st.integers(2, 6))
def test_a_part_is_within_the_limit_unless_its_links_are_the_heaviest(
    found: list[Edge], limit: int
) -> None:
    free, guarded = group(10, found), group(10, found, limit=limit)
    too_large = 0
    for number, size in enumerate(np.bincount(guarded.of).tolist()):
        members = set(np.flatnonzero(guarded.of == number).tolist())
        assert len({int(free.of[m]) for m in members}) == 1, "the guard only parts"
        too_large += size > limit
    assert too_large == guarded.whole
    for number, size in enumerate(np.bincount(free.of).tolist()):
        if size <= limit:
            members = np.flatnonzero(free.of == number)
            assert len(set(guarded.of[members].tolist())) == 1, "what is small is left alone"


def test_a_giant_breaks_at_its_weakest_links() -> None:
    strong = [(a, b, 40.0) for trio in ((0, 1, 2), (3, 4, 5)) for a, b in combinations(trio, 2)]
    found = group(6, [*strong, (2, 3, 12.0)], limit=3)
    assert found.of.tolist() == [0, 0, 0, 1, 1, 1]
    assert (found.parted, found.whole) == (1, 0)


def test_a_giant_of_equal_links_stays_and_is_told() -> None:
    found = group(4, [(0, 1, 20.0), (1, 2, 20.0), (2, 3, 20.0)], limit=3)
    assert found.of.tolist() == [0, 0, 0, 0]
    assert (found.parted, found.whole) == (0, 1)


labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(labels)
def test_precision_and_recall_count_pairs(rows: list[tuple[int, int]]) -> None:
    found, truth = [f for f, _ in rows], [t for _, t in rows]
    pairs = list(combinations(range(len(rows)), 2))
    said = {p for p in pairs if found[p[0]] == found[p[1]]}
    true = {p for p in pairs if truth[p[0]] == truth[p[1]]}
    got = pairwise(found, truth)
    assert got.precision == pytest.approx(len(said & true) / len(said) if said else 1.0)
    assert got.recall == pytest.approx(len(said & true) / len(true) if true else 1.0)


@given(labels)
def test_b_cubed_averages_over_records(rows: list[tuple[int, int]]) -> None:
    precisions, recalls = [], []
    for f, t in rows:
        both = sum(1 for g, s in rows if g == f and s == t)
        precisions.append(both / sum(1 for g, _ in rows if g == f))
        recalls.append(both / sum(1 for _, s in rows if s == t))
    got = b_cubed([f for f, _ in rows], [t for _, t in rows])
    assert got.precision == pytest.approx(sum(precisions) / len(rows))
    assert got.recall == pytest.approx(sum(recalls) / len(rows))
