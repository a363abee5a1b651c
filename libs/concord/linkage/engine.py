"""Any records in; links and clusters out. What `from concord.linkage import link` gives.

    linked = link(records, Model.from_yaml("model.yaml"), id="id")
    linked.links(0.5)       # left, right, weight, probability, rule
    linked.clusters(0.95)   # id, cluster

Records stay in Spark; the driver holds counts per pattern, and the links that make clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord.errors import QualityError, UsageError
from concord.linkage import blocking, estimate, keys, spread
from concord.linkage.arrays import in_order, places
from concord.linkage.blobs import ID, opened
from concord.linkage.blocking import Choice, Matching, Placement
from concord.linkage.clusters import ABSENT, clusters
from concord.linkage.estimate import Fit
from concord.linkage.keys import Counted, Refused, Sizes
from concord.linkage.model import Model
from concord.linkage.patterns import Integers, probability
from concord.linkage.spread import Rows
from concord.linkage.values import Common, Part, Records, hashed

SAMPLE = 100_000  # rows of which random pairs are drawn
# Rows that meet in one partition, more or less: what a worker can hold many times.
ROWS_TOGETHER = 400_000
# Bits of the odds, by provisional weights and as if there were as many people as records: generous,
# for neither is known yet.
UNFIT_KEEP = -15.0
# Clusters are sent to all workers up to so many records, and joined in a shuffle above.
BROADCAST = 20_000_000


@dataclass(frozen=True)
class Encoded:
    """Records as blobs, read by every step, and released in the end."""

    blobs: Rows
    rows: int
    id_type: str
    tops: Mapping[str, float]
    samples: Sequence[pa.Buffer]

    def here(self) -> Encoded:
        """The same few, held by the driver."""
        blobs = spread.here(self.blobs)
        spread.release(self.blobs)
        return replace(self, blobs=blobs)

    def beside(self, other: Encoded) -> Encoded:
        """These records and others."""
        rows = self.rows + other.rows
        tops = {
            part: (top * self.rows + other.tops[part] * other.rows) / max(rows, 1)
            for part, top in self.tops.items()
        }
        blobs = spread.both(*(each.blobs.select(["blob"]) for each in (self, other)))
        return replace(self, blobs=blobs, rows=rows, tops=tops)

    def shares(self, spark: SparkSession) -> int:
        """In how many partitions the records of a placement meet; few all meet in one."""
        if self.rows < spread.HELD:
            return 1
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


def encode(
    records: Rows,
    model: Model,
    *,
    id: str,
    choose: Choice | None = None,
    sampled: bool = False,
    held: bool = False,
) -> Encoded:
    """`choose`: as in blocking.encoded. `sampled`: for `sample`. `held`: they are few, and the
    driver shall hold them. Raises UsageError (exit 2) for columns that the records lack."""
    there = records.columns if isinstance(records, DataFrame) else records.column_names
    absent = [name for name in (id, *model.columns) if name not in there]
    if absent:
        raise UsageError(f"the records lack {', '.join(absent)}; the model reads them")
    parts = tuple(
        part
        for part in dict.fromkeys(part for rule in model.rules for part in rule.on)
        if not Part.of(part).lists
    )
    blobs = blocking.encoded(
        records, id=id, columns=model.columns, parts=parts, choose=choose,
        sampled=blocking.SAMPLED if sampled else 0,
    )  # fmt: skip
    blobs = spread.here(blobs) if held else spread.kept(blobs)
    told = spread.here(blobs.select(["records", "tops", "sample"]))
    rows = int(pc.sum(told["records"]).as_py() or 0)
    tops = np.array(told["tops"].to_pylist(), dtype=float).reshape(told.num_rows, len(parts))
    shares = dict(zip(parts, (tops.sum(axis=0) / max(rows, 1)).tolist(), strict=True))
    kind = dict(records.dtypes)[id] if isinstance(records, DataFrame) else "string"
    samples = [blob.as_buffer() for blob in told["sample"]] if sampled else []
    return Encoded(blobs, rows, kind, shares, samples)


def block(spark: SparkSession, encoded: Encoded, model: Model) -> Blocked:
    """Counts keys. Raises QualityError (exit 12) if the rules make more pairs than a run may."""
    limit = keys.largest_block(model.pair_budget)
    frequent = model.frequent
    kinds = [(rule.on, limit) for rule in model.rules]
    kinds += [((part,), int(bounds[0] * encoded.rows)) for part, bounds in frequent.items()]
    counts = keys.counted(encoded.blobs, kinds, shares=encoded.shares(spark))
    of_rules, of_parts = counts[: len(model.rules)], counts[len(model.rules) :]
    large = {number: one.large for number, one in enumerate(of_rules) if len(one.large)}
    refused = keys.refused(encoded.blobs, model.rules, large, limit=limit)
    sizes = [one.sizes for one in of_rules]
    found = Blocked(
        sizes,
        refused,
        {part: one.sizes for part, one in zip(frequent, of_parts, strict=True)},
        common_values(frequent, of_parts, encoded.rows),
    )
    if found.pairs > model.run_budget:
        worst = max(range(len(sizes)), key=lambda r: sizes[r].pairs - refused.pairs.get(r, 0))
        raise QualityError(
            f"the blocking rules would make {found.pairs:,} pairs, more than run_budget "
            f"{model.run_budget:,}; {model.rules[worst].name} makes most of them "
            f"({sizes[worst].pairs - refused.pairs.get(worst, 0):,}): give it another part"
        )
    return found


def common_values(
    frequent: Mapping[str, Sequence[float]], counts: Sequence[Counted], rows: int
) -> dict[str, Common]:
    """Part -> its common values with their classes. `counts`: of the parts, in their order."""
    common = {}
    for (part, bounds), one in zip(frequent.items(), counts, strict=True):
        which = np.searchsorted(np.array(bounds), one.large_sizes / rows, side="right")
        common[part] = Common(one.large[which > 0], which[which > 0].astype(np.int8))
    return common


def place(spark: SparkSession, encoded: Encoded, model: Model) -> list[Placement]:
    return blocking.placements(model.rules, encoded.tops, encoded.shares(spark))


def sample(encoded: Encoded, common: Mapping[str, Common]) -> Records:
    """At most SAMPLE rows, those with the smallest hashes of their ids, in the order of the hashes:
    of the same records the same ones each time, unless a blob has more of them than it tells."""
    rows = opened(encoded.samples)
    order = np.argsort(hashed(rows[ID].cast(pa.string()).combine_chunks()), kind="stable")
    return Records(rows.take(pa.array(order[:SAMPLE])), common)


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
        made = blocking.counts_of(candidates(spark, encoded, model, how)).to_pylist()
    finally:
        spread.release(encoded.blobs)
    new = {row["rule"]: row["pairs"] for row in made}
    found = []
    for number, (rule, of) in enumerate(zip(model.rules, blocked.sizes, strict=True)):
        several = of.size > 1
        blocks = np.repeat(of.size[several], np.minimum(of.keys[several], LARGEST))
        found.append(
            Planned(
                rule.name,
                int(of.keys[several].sum()),
                of.pairs,
                new.get(number, 0),
                tuple(blocks[::-1][:LARGEST].tolist()),
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
    found: DataFrame  # blocking.FOUND
    counts: pa.Table  # rule, pattern, pairs: all pairs of rows that were compared
    records: DataFrame  # id
    encoded: Encoded
    unique: bool  # whether ids are

    @property
    def counted(self) -> dict[int, int]:
        """Pattern -> pairs of rows that were compared."""
        return counted(self.counts)

    def weighed(self) -> DataFrame:
        """Pairs of records with the pattern and rule of their heaviest rows, `weight` and
        `probability`; patterns that never link weigh minus infinity."""
        pairs = blocking.pairs_of(self.found, self.encoded.id_type)
        return weighed(pairs, self.model, self.counts, unique=self.unique)

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

        Average linkage: two clusters are one while the mean of their pairs' log odds is at least
        that of probability `at`. A component of more than `limit` records is parted first.
        """
        model, spark = self.model, self.records.sparkSession
        pairs = blocking.edges_of(self.found, model.weights, model.prior_bits, ABSENT)
        found = clustered(pairs, threshold=math.log2(at / (1 - at)), limit=limit)
        of = spark.createDataFrame(found)
        if found.num_rows <= BROADCAST:
            of = F.broadcast(of)
        ids = self.records if self.unique else self.records.distinct()
        return ids.join(of, ID, "left").select(ID, F.coalesce("cluster", ID).alias("cluster"))

    def close(self) -> None:
        spread.release(self.encoded.blobs)
        spread.release(self.found)

    def __enter__(self) -> Linked:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def link(records: DataFrame, model: Model, *, id: str = "id", unique: bool = False) -> Linked:
    """Finds, compares and weighs the candidate pairs of `records`.

    `records`: standardised rows with the columns that the model reads; rows with one `id` are
    variants of one record; `unique` promises that there are none, which saves two shuffles. `id`
    is a string or a bigint. A model without m and u is fitted. Raises
    UsageError (exit 2) for columns that are not there, QualityError (12) for rules that make more
    pairs than a run may and for pairs that cannot teach the model.
    """
    spark = records.sparkSession
    encoded = encode(records, model, id=id, sampled=not model.fitted)
    blocked = block(spark, encoded, model)
    how = matching(model, blocked)
    u, drawn = None, None
    if not model.fitted:
        drawn = estimate.random_patterns(model, sample(encoded, blocked.common), ID)
        u = estimate.chance(model, drawn, blocked.frequent, records=encoded.rows)
        weights = estimate.provisional(model, u)
        keep = UNFIT_KEEP + math.log2(max(encoded.rows, 2))
        how = replace(how, weights=weights, keep=keep, conflict=keep)
    # Records of Spark's stay there.
    found = cast(DataFrame, spread.kept(candidates(spark, encoded, model, how)))
    counts = blocking.counts_of(found)
    fit = None
    if u is not None:
        fit = estimate.fit(model, counted(counts), u, records=encoded.rows, drawn=drawn)
        model = fit.model
    ids = records.select(F.col(id).alias(ID))
    return Linked(model, fit, blocked, found, counts, ids, encoded, unique)


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


def candidates(spark: SparkSession, encoded: Encoded, model: Model, matching: Matching) -> Rows:
    return blocking.candidates(
        encoded.blobs,
        matching,
        place(spark, encoded, model),
        shares=encoded.shares(spark),
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


def weighed(pairs: DataFrame, model: Model, counts: pa.Table, *, unique: bool = False) -> DataFrame:
    """Pairs of rows -> pairs of records, with weight and probability by pattern."""
    of = np.unique(counts["pattern"].to_numpy())
    by_pattern = pairs.sparkSession.createDataFrame(scores(model, of))
    scored = pairs.join(F.broadcast(by_pattern), "pattern")
    if unique:
        return scored.select("left", "right", "pattern", "rule", "weight", "probability")
    heavier = F.struct(F.col("weight"), -F.col("rule"), -F.col("pattern"))
    best = F.max_by(F.struct("pattern", "rule", "weight", "probability"), heavier)
    return (
        scored.groupBy("left", "right")
        .agg(best.alias("best"))
        .select("left", "right", "best.pattern", "best.rule", "best.weight", "best.probability")
    )


def clustered(pairs: pa.Table, *, threshold: float, limit: int) -> pa.Table:
    """Pairs (left, right, weight in bits of the odds) -> id, cluster (its smallest id), of records
    that have pairs of `threshold` bits or more: no others are clustered with any."""
    weight = pairs["weight"].to_numpy()
    one, other, names = _ordered(pairs["left"], pairs["right"])
    strong = weight >= threshold
    nodes = in_order(np.concatenate([one[strong], other[strong]]))
    left, right = places(nodes, one), places(nodes, other)
    both = (left >= 0) & (right >= 0)
    found = clusters(
        len(nodes), left[both], right[both], weight[both], threshold=threshold, limit=limit
    )
    # Clusters are numbered by their first record, and records are in the order of their ids.
    first = np.empty(found.number, dtype=np.int64)
    first[found.of[::-1]] = np.arange(len(nodes))[::-1]  # of several the last one stays
    ids = pa.array(nodes) if names is None else names.take(pa.array(nodes))
    return pa.table({ID: ids, "cluster": ids.take(pa.array(first[found.of]))})


def _ordered(
    left: pa.ChunkedArray, right: pa.ChunkedArray
) -> tuple[Integers, Integers, pa.Array | None]:
    """Numbers in the order of the ids that they stand for, and the ids by number; whole numbers
    stand for themselves."""
    if pa.types.is_integer(left.type):
        return left.to_numpy().astype(np.int64), right.to_numpy().astype(np.int64), None
    ids = pa.chunked_array([*left.chunks, *right.chunks], left.type)
    encoded = ids.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    number = rank[encoded.indices.to_numpy()]
    return number[: len(left)], number[len(left) :], encoded.dictionary.take(order)
