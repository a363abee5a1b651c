"""Any records in; links and clusters out. What `from concord.linkage import link` gives.

    linked = link(records, Model.from_yaml("model.yaml"), id="id")
    linked.links(0.5)       # left, right, weight, probability, rule
    linked.clusters(0.95)   # id, cluster

Records stay in Spark; the driver holds counts per pattern, and the links that make clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.errors import QualityError, UsageError
from concord.linkage import blocking, estimate
from concord.linkage.blobs import ID, Packed, blobs_of, opened
from concord.linkage.blocking import Matching, Placement, Refused, Sizes
from concord.linkage.clusters import ABSENT, clusters
from concord.linkage.estimate import Fit
from concord.linkage.model import Model
from concord.linkage.patterns import Integers, probability
from concord.linkage.values import Common, Records, hashed

SAMPLE = 300_000  # rows of which random pairs are drawn
# Rows that meet in one partition, more or less: what a worker can hold many times.
ROWS_TOGETHER = 400_000
UNFIT_KEEP = -10.0  # bits by provisional weights: generous, for m is not known yet


@dataclass(frozen=True)
class Encoded:
    """Records as blobs, persisted: read by every step, and released in the end."""

    blobs: DataFrame
    rows: int
    id_type: str
    tops: Mapping[str, float]

    def shares(self, spark: SparkSession) -> int:
        """In how many partitions the records of a placement meet."""
        return max(spark.sparkContext.defaultParallelism, math.ceil(self.rows / ROWS_TOGETHER))


@dataclass(frozen=True)
class Blocked:
    """What is known of the keys before any pair is made.

    `frequent`: part -> how many records have how common values; `common`: its common values.
    """

    sizes: Sequence[Sizes]
    refused: Refused
    frequent: Mapping[str, Sizes] = field(default_factory=dict)
    common: Mapping[str, Common] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Pairs that all keys make, those that several rules make counted for each."""
        return sum(of.pairs for of in self.sizes) - sum(self.refused.pairs.values())


def encode(records: DataFrame, model: Model, *, id: str) -> Encoded:
    """Raises UsageError (exit 2) for columns that the records lack."""
    absent = [name for name in (id, *model.columns) if name not in records.columns]
    if absent:
        raise UsageError(f"the records lack {', '.join(absent)}; the model reads them")
    parts = tuple(dict.fromkeys(part for rule in model.rules for part in rule.on))
    blobs = blocking.encoded(records, id=id, columns=model.columns, parts=parts)
    blobs = blobs.persist(StorageLevel.MEMORY_AND_DISK)
    told = blobs.select("records", "tops").toArrow()
    rows = int(pc.sum(told["records"]).as_py() or 0)
    tops = np.array(told["tops"].to_pylist(), dtype=float).reshape(-1, len(parts)).sum(axis=0)
    shares = dict(zip(parts, (tops / max(rows, 1)).tolist(), strict=True))
    kind = dict(records.dtypes)[id]
    return Encoded(blobs, rows, kind, shares)


def block(spark: SparkSession, encoded: Encoded, model: Model) -> Blocked:
    """Counts keys. Raises QualityError (exit 12) if the rules make more pairs than a run may."""
    limit = blocking.largest_block(model.pair_budget)
    frequent = model.frequent
    kinds = [(rule.on, limit) for rule in model.rules]
    kinds += [((part,), int(bounds[0] * encoded.rows)) for part, bounds in frequent.items()]
    counts = blocking.counted(encoded.blobs, kinds, shares=encoded.shares(spark))
    of_rules, of_parts = counts[: len(model.rules)], counts[len(model.rules) :]
    large = {number: one.large for number, one in enumerate(of_rules) if len(one.large)}
    refused = blocking.refused(encoded.blobs, model.rules, large, limit=limit)
    sizes = [one.sizes for one in of_rules]
    common = {}
    for (part, bounds), one in zip(frequent.items(), of_parts, strict=True):
        which = np.searchsorted(np.array(bounds), one.large_sizes / encoded.rows, side="right")
        common[part] = Common(one.large[which > 0], which[which > 0].astype(np.int8))
    found = Blocked(
        sizes,
        refused,
        {part: one.sizes for part, one in zip(frequent, of_parts, strict=True)},
        common,
    )
    if found.pairs > model.run_budget:
        worst = max(range(len(sizes)), key=lambda r: sizes[r].pairs - refused.pairs.get(r, 0))
        raise QualityError(
            f"the blocking rules would make {found.pairs:,} pairs, more than run_budget "
            f"{model.run_budget:,}; {model.rules[worst].name} makes most of them "
            f"({sizes[worst].pairs - refused.pairs.get(worst, 0):,}): give it another part"
        )
    return found


def place(spark: SparkSession, encoded: Encoded, model: Model) -> list[Placement]:
    return blocking.placements(model.rules, encoded.tops, encoded.shares(spark))


def sample(encoded: Encoded, common: Mapping[str, Common], *, rows: int = SAMPLE) -> Records:
    """At most some `rows` rows, the same ones each time: those with the smallest hash of an id."""
    most = min(1.0, rows / max(encoded.rows, 1))
    edge = np.uint64(min(int(most * 2.0**64), 2**64 - 1))

    def take(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            table = opened([blob])
            ids = table[ID].combine_chunks()
            if isinstance(ids, pa.ChunkedArray):
                ids = ids.chunk(0)
            mine = hashed(ids.cast(pa.string())) <= edge
            packed = Packed.of(table)
            yield pa.record_batch(
                {"blob": pa.array([packed.blob(np.flatnonzero(mine))], pa.binary())}
            )

    found = encoded.blobs.mapInArrow(take, "blob binary").toArrow()["blob"]
    return Records(opened([blob.as_buffer() for blob in found]), common)


@dataclass(frozen=True)
class Planned:
    """What a blocking rule would do: keys with two rows or more, pairs, those that no earlier rule
    makes (after the pair budget), rows of its largest keys, pairs that the budget keeps out."""

    rule: str
    keys: int
    pairs: int
    new: int
    largest: tuple[int, ...]
    refused: int


LARGEST = 5


def planned(records: DataFrame, model: Model, *, id: str = "id") -> list[Planned]:
    """What `link` would do, rule by rule: pairs are made and counted, none is compared.

    Raises UsageError (exit 2) and QualityError (12) as `link` does.
    """
    spark = records.sparkSession
    encoded = encode(records, model, id=id)
    try:
        blocked = block(spark, encoded, model)
        how = replace(matching(model, blocked), comparisons=())
        made = tallied(candidates(spark, encoded, model, how)).to_pylist()
    finally:
        encoded.blobs.unpersist()
    new = {row["rule"]: row["pairs"] for row in made}
    found = []
    for number, (rule, of) in enumerate(zip(model.rules, blocked.sizes, strict=True)):
        several = of.size > 1
        largest = np.repeat(of.size, np.minimum(of.keys, LARGEST))[::-1][:LARGEST]
        found.append(
            Planned(
                rule.name,
                int(of.keys[several].sum()),
                of.pairs,
                new.get(number, 0),
                tuple(largest.tolist()),
                blocked.refused.pairs.get(number, 0),
            )
        )
    return found


@dataclass(frozen=True)
class Linked:
    """Records that were compared. To be closed, or used in a `with`: it holds storage."""

    model: Model
    fit: Fit | None
    blocked: Blocked
    pairs: DataFrame  # left, right, pattern, rule (its number): pairs of rows, kept
    counts: pa.Table  # rule, pattern, pairs: all pairs of rows that were compared
    records: DataFrame  # id
    held: tuple[DataFrame, ...] = field(default=())

    @property
    def counted(self) -> dict[int, int]:
        """Pattern -> pairs of rows that were compared."""
        return counted(self.counts)

    def weighed(self) -> DataFrame:
        """Pairs of records with the pattern and rule of their heaviest rows, `weight` and
        `probability`; patterns that never link weigh minus infinity."""
        return weighed(self.pairs, self.model, self.counts)

    def links(self, at: float = 0.5) -> DataFrame:
        """Pairs of records that are one person with a probability of at least `at`.

        Columns left, right, pattern, rule, weight (bits), probability.
        """
        names = F.array(*[F.lit(rule.name) for rule in self.model.rules])
        return (
            self.weighed()
            .where(F.col("probability") >= at)
            .withColumn("rule", names[F.col("rule")])
        )

    def clusters(self, at: float = 0.5, *, limit: int = 100) -> DataFrame:
        """Every record's cluster, named by its smallest id. Columns id, cluster.

        Average linkage: two clusters are one while the mean odds of their pairs are at least those
        of probability `at`. A component of more than `limit` records is parted first.
        """
        prior = self.model.prior_bits
        pairs = (
            self.weighed()
            .select("left", "right", (F.col("weight") + F.lit(prior)).alias("weight"))
            .where(F.col("weight") >= ABSENT)
            .toArrow()
        )
        found = clustered(pairs, threshold=math.log2(at / (1 - at)), limit=limit)
        spark = self.records.sparkSession
        ids = self.records.select(ID).distinct()
        of = spark.createDataFrame(found)
        return ids.join(of, ID, "left").select(ID, F.coalesce("cluster", ID).alias("cluster"))

    def close(self) -> None:
        for frame in self.held:
            frame.unpersist()

    def __enter__(self) -> Linked:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def link(records: DataFrame, model: Model, *, id: str = "id") -> Linked:
    """Finds, compares and weighs the candidate pairs of `records`.

    `records`: standardised rows with the columns that the model reads; rows with one `id` are
    variants of one record. `id` is a string or a bigint. A model without m and u is fitted. Raises
    UsageError (exit 2) for columns that are not there, QualityError (12) for rules that make more
    pairs than a run may and for pairs that cannot teach the model.
    """
    spark = records.sparkSession
    encoded = encode(records, model, id=id)
    blocked = block(spark, encoded, model)
    how = matching(model, blocked)
    u = None
    if not model.fitted:
        drawn = estimate.random_patterns(model, sample(encoded, blocked.common), ID)
        u = estimate.chance(model, drawn, blocked.frequent, records=encoded.rows)
        weights = estimate.provisional(model, u)
        how = replace(how, weights=weights, keep=UNFIT_KEEP, conflict=UNFIT_KEEP)
    found = candidates(spark, encoded, model, how).persist(StorageLevel.MEMORY_AND_DISK)
    counts = tallied(found)
    fit = None
    if u is not None:
        fit = estimate.fit(model, counted(counts), u, records=encoded.rows)
        model = fit.model
    pairs = of_rows(found)
    return Linked(
        model,
        fit,
        blocked,
        pairs,
        counts,
        records.select(F.col(id).alias(ID)),
        (encoded.blobs, found),
    )


def matching(model: Model, blocked: Blocked, *, conflict: float | None = None) -> Matching:
    """How a fitted model makes and judges pairs.

    `conflict`: from how many bits on pairs are kept that never link; None: as other pairs.
    """
    keep = model.keep_weight
    return Matching(
        model.rules,
        model.compiled,
        model.weights,
        keep,
        keep if conflict is None else conflict,
        blocked.common,
        blocked.refused,
    )


def of_rows(found: DataFrame) -> DataFrame:
    """The pairs of rows among what `candidates` found."""
    return found.where("left IS NOT NULL").drop("pairs")


def candidates(
    spark: SparkSession, encoded: Encoded, model: Model, matching: Matching
) -> DataFrame:
    return blocking.candidates(
        encoded.blobs,
        matching,
        place(spark, encoded, model),
        shares=encoded.shares(spark),
        id_type=encoded.id_type,
    )


def tallied(found: DataFrame) -> pa.Table:
    """rule, pattern, pairs: all pairs of rows that were compared."""
    return (
        found.where("left IS NULL")
        .groupBy("rule", "pattern")
        .agg(F.sum("pairs").alias("pairs"))
        .orderBy("rule", "pattern")
        .toArrow()
    )


def counted(counts: pa.Table) -> dict[int, int]:
    """Pattern -> pairs, over all rules."""
    whole = counts.group_by("pattern", use_threads=False).aggregate([("pairs", "sum")])
    return dict(zip(whole["pattern"].to_pylist(), whole["pairs_sum"].to_pylist(), strict=True))


def scores(model: Model, patterns: Integers) -> pa.Table:
    """What the model makes of patterns: pattern, weight (bits), probability."""
    weight = model.weights.of(patterns)
    return pa.table(
        {
            "pattern": pa.array(patterns, pa.int64()),
            "weight": pa.array(weight, pa.float64()),
            "probability": pa.array(probability(weight, model.prior_bits), pa.float64()),
        }
    )


def weighed(pairs: DataFrame, model: Model, counts: pa.Table) -> DataFrame:
    """Pairs of rows -> pairs of records, with weight and probability by pattern."""
    of = np.unique(counts["pattern"].to_numpy())
    by_pattern = pairs.sparkSession.createDataFrame(scores(model, of))
    scored = pairs.join(F.broadcast(by_pattern), "pattern")
    heavier = F.struct(F.col("weight"), -F.col("rule"), -F.col("pattern"))
    best = F.max_by(F.struct("pattern", "rule", "weight", "probability"), heavier)
    return (
        scored.groupBy("left", "right")
        .agg(best.alias("best"))
        .select("left", "right", "best.pattern", "best.rule", "best.weight", "best.probability")
    )


def clustered(pairs: pa.Table, *, threshold: float, limit: int) -> pa.Table:
    """Pairs (left, right, weight in bits of the odds) -> id, cluster (its smallest id), of records
    that have pairs."""
    both = pa.chunked_array([*pairs["left"].chunks, *pairs["right"].chunks], pairs["left"].type)
    encoded = both.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    nodes = encoded.dictionary
    order = pc.sort_indices(nodes).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    place = rank[encoded.indices.to_numpy()]
    half = pairs.num_rows
    found = clusters(
        len(nodes),
        place[:half],
        place[half:],
        pairs["weight"].to_numpy(),
        threshold=threshold,
        limit=limit,
    )
    ids = nodes.take(pa.array(order))
    # Clusters are numbered by their first record, and records are in the order of their ids.
    _, first = np.unique(found.of, return_index=True)
    return pa.table({ID: ids, "cluster": ids.take(pa.array(first[found.of]))})
