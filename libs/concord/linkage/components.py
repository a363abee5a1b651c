"""The same clusters on Spark, for pairs that do not fit the driver.

Connected components by alternating large-star and small-star (Kiveris, Lattanzi, Mirrokni, Rastogi
and Vassilvitskii 2014, "Connected Components in MapReduce and Beyond"), then each component whole
to a worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from concord.linkage.clusters import ABSENT, CLIP, NONE, Pairs, check, clusters
from concord.linkage.patterns import Integers

# The paper's bound is the square of the logarithm of the nodes; graphs that are met take ten.
ROUNDS = 50


def components(edges: DataFrame, *, rounds: int = ROUNDS) -> DataFrame:
    """`left` bigint, `right` bigint -> `node` bigint, `component` bigint, its smallest node.

    All nodes that `edges` names, each once; an edge from a node to itself names it. Each round is
    a few Spark jobs. Raises RuntimeError if `rounds` of them do not suffice.
    """
    ends = F.explode(F.array("left", "right")).alias("node")
    nodes = edges.select(ends).distinct()
    stars = _downward(edges).localCheckpoint()
    before = _signature(stars)
    for _ in range(rounds):
        stars = _small_star(_large_star(stars)).localCheckpoint()
        after = _signature(stars)
        if after == before:
            found = stars.select(F.col("left").alias("node"), F.col("right").alias("component"))
            smallest = F.coalesce("component", "node").alias("component")
            return nodes.join(found, "node", "left").select("node", smallest)
        before = after
    raise RuntimeError(f"connected components: not done after {rounds} rounds")


def _downward(edges: DataFrame) -> DataFrame:
    """Edges from the larger node, `left`, to the smaller, each once."""
    return (
        edges.where("left <> right")
        .select(F.greatest("left", "right").alias("left"), F.least("left", "right").alias("right"))
        .distinct()
    )


def _large_star(edges: DataFrame) -> DataFrame:
    """Joins each node's larger neighbours to the smallest of all its neighbours and itself."""
    back = edges.select(F.col("right").alias("left"), F.col("left").alias("right"))
    return (
        edges.unionAll(back)
        .select("left", "right", F.least("left", _lowest()).alias("lowest"))
        .where("right > left")
        .select(F.col("right").alias("left"), F.col("lowest").alias("right"))
        .distinct()
    )


def _small_star(edges: DataFrame) -> DataFrame:
    """Joins each node and its smaller neighbours to the smallest of them."""
    joined = edges.select("left", "right", _lowest().alias("lowest"))
    ends = F.explode(F.array("left", "right")).alias("left")
    return joined.select(ends, F.col("lowest").alias("right")).where("left <> right").distinct()


def _lowest() -> Column:
    return F.min("right").over(Window.partitionBy("left"))


def _signature(edges: DataFrame) -> tuple[int, int]:
    """Of equal sets of edges equal; of others, but for a chance of 2^-64, not."""
    row = edges.agg(F.count("*"), F.bit_xor(F.xxhash64("left", "right"))).collect()[0]
    return row[0], row[1]


def clustered(
    edges: DataFrame,
    *,
    threshold: float,
    limit: int,
    loose: float | None = None,
    absent: float = ABSENT,
    clip: float = CLIP,
    must: Pairs = NONE,
    cannot: Pairs = NONE,
    alone: DataFrame | None = None,
    rounds: int = ROUNDS,
) -> DataFrame:
    """`left` bigint, `right` bigint, `weight` double -> `node` bigint, `cluster` bigint.

    As `concord.linkage.clusters.clusters`, by node instead of record; `cluster` is the smallest
    node of each. All nodes that `edges` or `must` names. `must` and `cannot` go to every worker;
    `alone`: `node` bigint, `alone` bigint, a node once or not at all. Raises ValueError and
    RuntimeError at once, as `clusters` and `components` do; a weight that is no number fails the
    query.
    """
    check(threshold=threshold, absent=absent, clip=clip, must=must, cannot=cannot)
    floor = threshold if loose is None else max(loose, threshold)
    # A weak link joins nothing, but it names its nodes.
    strong = F.when(F.col("weight") >= floor, F.col("left")).otherwise(F.col("right"))
    links = edges.select("left", F.col("left").alias("right")).unionAll(
        edges.select(strong.alias("left"), "right")
    )
    if len(must[0]):
        joined = pa.table({"left": must[0], "right": must[1]})
        links = links.unionAll(edges.sparkSession.createDataFrame(joined))
    of = components(links, rounds=rounds).localCheckpoint()

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        arrived = list(batches)
        if not arrived:
            return
        table = pa.Table.from_batches(arrived)
        pairs = table.filter(pc.is_valid(table["right"]))
        named = table.filter(pc.is_null(table["right"])).sort_by("left")
        # In order, so that numbers stand to each other as the nodes do.
        nodes = named["left"].to_numpy()
        found = clusters(
            len(nodes),
            np.searchsorted(nodes, pairs["left"].to_numpy()),
            np.searchsorted(nodes, pairs["right"].to_numpy()),
            pairs["weight"].to_numpy(),
            threshold=threshold,
            limit=limit,
            loose=loose,
            absent=absent,
            clip=clip,
            must=_here(must, nodes),
            cannot=_here(cannot, nodes),
            alone=pc.fill_null(named["alone"], -1).to_numpy(),
        )
        _, first = np.unique(found.of, return_index=True)
        yield pa.record_batch({"node": nodes, "cluster": nodes[first][found.of]})

    # A component's rows must be together; mapInArrow itself asks for no distribution.
    shares = int(edges.sparkSession.conf.get("spark.sql.shuffle.partitions") or 1)
    rows = _nodes(of, alone).unionAll(_inside(edges, of))
    return rows.repartition(shares, "component").mapInArrow(work, "node bigint, cluster bigint")


def _nodes(of: DataFrame, alone: DataFrame | None) -> DataFrame:
    """Rows that name nodes: without `right`."""
    if alone is None:
        known = of.withColumn("alone", F.lit(-1).cast("bigint"))
    else:
        known = of.join(alone.select("node", "alone"), "node", "left")
    none = F.lit(None)
    return known.select(
        "component",
        F.col("node").alias("left"),
        none.cast("bigint").alias("right"),
        none.cast("double").alias("weight"),
        F.col("alone").cast("bigint").alias("alone"),
    )


def _inside(edges: DataFrame, of: DataFrame) -> DataFrame:
    """Edges inside a component, weak ones too: they weigh in the mean."""
    left = of.select(F.col("node").alias("left"), "component")
    right = of.select(F.col("node").alias("right"), F.col("component").alias("other"))
    return (
        edges.join(left, "left")
        .join(right, "right")
        .where("component = other")
        .select("component", "left", "right", "weight", F.lit(None).cast("bigint").alias("alone"))
    )


def _here(pairs: Pairs, nodes: Integers) -> Pairs:
    """The pairs among `nodes`, which are sorted, by their places."""
    left, right = (np.searchsorted(nodes, side) for side in pairs)
    last = len(nodes) - 1
    here = nodes[np.minimum(left, last)] == pairs[0]
    here &= nodes[np.minimum(right, last)] == pairs[1]
    return left[here], right[here]
