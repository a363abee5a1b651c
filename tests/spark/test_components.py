"""Components and clusters on Spark are those of the driver."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from concord.linkage.clusters import Pairs, clusters
from concord.linkage.components import clustered, components

pytestmark = pytest.mark.spark

Pair = tuple[int, int]
FAR = 2**40  # node numbers are no record numbers


def ends(of: list[Pair]) -> Pairs:
    pairs = np.array(of, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def frame(spark: SparkSession, **columns: object) -> DataFrame:
    return spark.createDataFrame(pa.table(columns)).repartition(2)


def joined(links: list[Pair]) -> dict[int, int]:
    """Node -> smallest node of its component, one link at a time."""
    of = {node: node for link in links for node in link}
    for link in links:
        low, high = sorted(of[node] for node in link)
        of = {node: low if name == high else name for node, name in of.items()}
    return of


def test_components_are_named_by_their_smallest_node(spark: SparkSession) -> None:
    chance = random.Random(3)
    path = list(range(60))
    chance.shuffle(path)
    links = [(FAR + a, FAR + b) for a, b in zip(path, path[1:], strict=False)]
    links += [(chance.randrange(200), chance.randrange(200)) for _ in range(110)]
    links += [(1000, 1000 - n) for n in range(30)] + [(3000, 3000), (7, 7)]
    links += [(b, a) for a, b in links[:20]]
    left, right = ends(links)
    found = components(frame(spark, left=left, right=right)).collect()
    assert len({row["node"] for row in found}) == len(found)
    assert {row["node"]: row["component"] for row in found} == joined(links)


def test_components_that_take_too_long_are_told(spark: SparkSession) -> None:
    left, right = ends([(n, n + 1) for n in range(30)])
    with pytest.raises(RuntimeError, match="after 1 rounds"):
        components(frame(spark, left=left, right=right), rounds=1)


def test_clusters_are_those_of_the_driver(spark: SparkSession) -> None:
    chance = random.Random(8)
    records = 240
    links = [
        pair
        for begin in range(0, records, 6)
        for pair in combinations(range(begin, begin + 6), 2)
        if chance.random() < 0.6
    ]
    # A chain of families, above the limit.
    links += [(n, n + 6) for n in range(0, 60, 6)]
    links += [(chance.randrange(records), chance.randrange(records)) for _ in range(25)]
    links = [(a, b) for a, b in links if a != b]
    # Few different weights: many ties, which go the same way in both.
    weight = np.array([chance.choice((-np.inf, -8.0, 3.0, 6.0, 12.0, 30.0)) for _ in links])
    left, right = ends(links)
    must, cannot = ends([(0, 100), (100, 230), (3, 4)]), ends([(1, 2), (0, 5), (60, 61)])
    alone = np.array([chance.choice((-1, -1, 0, 1)) for _ in range(records)])
    known = np.flatnonzero(alone >= 0)
    want = clusters(
        records,
        left,
        right,
        weight,
        threshold=1.0,
        limit=20,
        must=must,
        cannot=cannot,
        alone=alone,
    )
    # Nodes in another order of size than in which they are told, and far apart.
    name = FAR + 1_000_003 * np.arange(records)
    found = clustered(
        frame(spark, left=name[right], right=name[left], weight=weight),
        threshold=1.0,
        limit=20,
        must=(name[must[0]], name[must[1]]),
        cannot=(name[cannot[0]], name[cannot[1]]),
        alone=frame(spark, node=name[known], alone=alone[known]),
    ).collect()
    assert want.parted, "a component is above the limit"
    first = np.unique(want.of, return_index=True)[1]
    of = dict(zip(name.tolist(), name[first][want.of].tolist(), strict=True))
    named = set(name[np.concatenate([left, right, *must])].tolist())
    assert len(found) == len(named)
    assert {row["node"]: row["cluster"] for row in found} == {node: of[node] for node in named}


def test_a_contradiction_is_refused_before_anything_runs(spark: SparkSession) -> None:
    left, right = ends([(1, 2)])
    with pytest.raises(ValueError, match="3"):
        clustered(
            frame(spark, left=left, right=right, weight=np.array([1.0])),
            threshold=1.0,
            limit=20,
            must=ends([(1, 2), (2, 3)]),
            cannot=ends([(3, 1)]),
        )
