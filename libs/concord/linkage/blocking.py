"""Candidate pairs: records that share a blocking key, compared where they meet.

Nothing pair-sized is shuffled. Every record travels to the partitions of its keys; there the pairs
of each key are made, compared and scored, and what is hopeless is counted and dropped. A pair
belongs to the first rule that makes it, so it is counted once, though records meet by several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.linkage.compare import Near, Records, patterns
from concord.linkage.patterns import Integers, Weights

Flags = npt.NDArray[np.bool_]
# Pairs that are compared at a time, to bound memory.
CHUNK = 1_000_000
MET = "_met"  # where a record meets others: number of a share of the keys
FOUND = (
    "left_record_id string, right_record_id string, pattern bigint, rule int, weight double, "
    "pairs bigint"
)


@dataclass(frozen=True)
class Rule:
    """A blocking rule: parts that two records must have in common, and parts to refine it by."""

    name: str
    on: tuple[str, ...]
    refine: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """What the pair budget kept out.

    `keys[r]`: keys of rule `r` with more pairs than the budget allows, used refined or not at
    all; `refined[r]`: refined keys that have too many still. `pairs` counts, by rule, the pairs
    that were not made for it. All sorted.
    """

    keys: Mapping[int, Integers] = field(default_factory=dict)
    refined: Mapping[int, Integers] = field(default_factory=dict)
    pairs: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Matching:
    """How pairs are made and judged: all that a worker needs to know."""

    rules: int
    shares: int
    refused: Refused
    near: Near
    weights: Weights
    keep_weight: float


def part(name: str) -> Column:
    """A part of a key from a standardised record; NULL where the record cannot have it."""
    match name:
        case "ssn_first5":
            return F.substring("ssn", 1, 5)
        case "given_initial":
            return F.substring("given", 1, 1)
        case "family_first":
            return F.substring_index("family", " ", 1)
        case "birth":
            # A placeholder day is no day to block by.
            return F.when(F.col("birth_day_known"), F.col("birth")).cast("string")
        case "birth_year":
            return F.year("birth").cast("string")
        case "zip3":
            return F.substring("zip", 1, 3)
        case _:
            return F.col(name)


def with_keys(records: DataFrame, rules: Sequence[Rule]) -> DataFrame:
    """Adds `keys` and `refined_keys`, arrays with a 64-bit key or NULL for each rule."""
    return records.select(
        "*",
        F.array(*[_key(rule.name, rule.on) for rule in rules]).alias("keys"),
        F.array(
            *[
                _key(rule.name, (*rule.on, *rule.refine))
                if rule.refine
                else F.lit(None).cast("bigint")
                for rule in rules
            ]
        ).alias("refined_keys"),
    )


def _key(rule: str, names: Sequence[str]) -> Column:
    parts = [part(name) for name in names]
    missing = parts[0].isNull()
    for one in parts[1:]:
        missing = missing | one.isNull()
    return F.when(~missing, F.xxhash64(F.lit(rule), *parts))


def refused(keyed: DataFrame, budget: int) -> Refused:
    """Counts keys and finds those that would make more pairs than the budget.

    One Spark job, and a second when there are such keys. Sizes are of variants.
    """
    limit = largest_block(budget)
    each = keyed.select(
        F.posexplode(F.arrays_zip("keys", "refined_keys")).alias("rule", "k")
    ).select("rule", F.col("k.keys").alias("key"), F.col("k.refined_keys").alias("refined"))
    sizes = each.where("key IS NOT NULL").groupBy("rule", "key").agg(F.count("*").alias("n"))
    large = sizes.where(F.col("n") > limit).collect()
    if not large:
        return Refused()
    keys: dict[int, set[int]] = {}
    pairs: dict[int, int] = {}
    for row in large:
        keys.setdefault(row["rule"], set()).add(row["key"])
    # Parted by joining, not by listing keys in the plan: they encode identifiers.
    parted = (
        each.join(sizes.where(F.col("n") > limit).drop("n"), ["rule", "key"])
        .groupBy("rule", "key", "refined")
        .agg(F.count("*").alias("n"))
        .collect()
    )
    refined: dict[int, set[int]] = {}
    for row in parted:
        rule, n = row["rule"], row["n"]
        if row["refined"] is not None and n <= limit:
            continue
        pairs[rule] = pairs.get(rule, 0) + n * (n - 1) // 2
        if row["refined"] is not None:
            refined.setdefault(rule, set()).add(row["refined"])
    return Refused(
        {rule: np.array(sorted(found), dtype=np.int64) for rule, found in keys.items()},
        {rule: np.array(sorted(found), dtype=np.int64) for rule, found in refined.items()},
        pairs,
    )


def largest_block(budget: int) -> int:
    """The most records that make at most `budget` pairs among them."""
    return int((1 + (1 + 8 * budget) ** 0.5) // 2)


def candidates(keyed: DataFrame, matching: Matching) -> DataFrame:
    """Standardised records with keys -> what was found, as FOUND.

    Rows with record ids are the pairs worth keeping (left id < right id), the heaviest of each
    pair's variants within a partition; `pairs` is 1. Rows without count, by rule and pattern, all
    pairs of variants that were compared.
    """
    shares = matching.shares
    met = F.array_distinct(
        F.transform(
            F.filter("keys", lambda key: key.isNotNull()),
            lambda key: F.pmod(key, F.lit(shares)).cast("int"),
        )
    )
    travelling = keyed.select("*", F.explode(met).alias(MET)).drop("feed", "role")

    def find(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        arrived = list(batches)
        if not arrived:
            return
        table = pa.Table.from_batches(arrived)
        places = table[MET].to_numpy()
        for place in np.unique(places).tolist():
            mine = table.filter(pa.array(places == place))
            yield from find_pairs(mine, place, matching).to_batches()

    # mapInArrow asks for no distribution: what must meet is brought together right before it.
    return travelling.repartition(shares, MET).mapInArrow(find, FOUND)


def find_pairs(rows: pa.Table, share: int, matching: Matching) -> pa.Table:
    """The pairs of the keys of one share, among all records that have such keys. Pure."""
    keys, known = effective_keys(rows, matching)
    placed = _matrix(rows["keys"], matching.rules)[0]
    records = Records(rows, matching.near)
    ids = rows["record_id"].combine_chunks().dictionary_encode()
    who = ids.indices.to_numpy().astype(np.int64)
    kept: list[tuple[Integers, Integers, Integers, Integers, npt.NDArray[np.float64]]] = []
    counted: list[tuple[int, Integers, Integers]] = []
    for rule in range(matching.rules):
        here = np.flatnonzero(known[:, rule] & (placed[:, rule] % matching.shares == share))
        for left, right in blocks(here, keys[here, rule]):
            mine = (who[left] != who[right]) & ~_made_before(keys, known, rule, left, right)
            left, right = left[mine], right[mine]
            if not len(left):
                continue
            found = patterns(records, left, right)
            distinct, place, n = np.unique(found, return_inverse=True, return_counts=True)
            counted.append((rule, distinct, n.astype(np.int64)))
            weight = matching.weights.of(distinct)[place]
            worth = weight >= matching.keep_weight
            rules = np.full(int(worth.sum()), rule, dtype=np.int64)
            kept.append((who[left[worth]], who[right[worth]], found[worth], rules, weight[worth]))
    return _found(ids.dictionary, kept, counted)


def effective_keys(rows: pa.Table, matching: Matching) -> tuple[Integers, Flags]:
    """Keys after the budget, records x rules, and whether there is one.

    The same wherever a record travels, so that all agree on which rule makes a pair first.
    """
    keys, known = _matrix(rows["keys"], matching.rules)
    refined, refinable = _matrix(rows["refined_keys"], matching.rules)
    for rule, too_large in matching.refused.keys.items():
        hit = known[:, rule] & np.isin(keys[:, rule], too_large)
        still = matching.refused.refined.get(rule, np.zeros(0, dtype=np.int64))
        lost = ~refinable[:, rule] | np.isin(refined[:, rule], still)
        keys[hit, rule] = refined[hit, rule]
        known[hit & lost, rule] = False
    return keys, known


def blocks(rows: Integers, keys: Integers) -> Iterator[tuple[Integers, Integers]]:
    """All pairs of rows with equal keys, in chunks."""
    order = np.argsort(keys, kind="stable")
    rows, keys = rows[order], keys[order]
    lefts: list[Integers] = []
    rights: list[Integers] = []
    waiting, distance = 0, 1
    while distance < len(rows):
        at = np.flatnonzero(keys[:-distance] == keys[distance:])
        if not len(at):
            break
        lefts.append(rows[at])
        rights.append(rows[at + distance])
        waiting += len(at)
        distance += 1
        if waiting >= CHUNK:
            yield np.concatenate(lefts), np.concatenate(rights)
            lefts, rights, waiting = [], [], 0
    if waiting:
        yield np.concatenate(lefts), np.concatenate(rights)


def _made_before(keys: Integers, known: Flags, rule: int, left: Integers, right: Integers) -> Flags:
    before = np.zeros(len(left), dtype=bool)
    for earlier in range(rule):
        both = known[left, earlier] & known[right, earlier]
        before |= both & (keys[left, earlier] == keys[right, earlier])
    return before


def _matrix(column: pa.ChunkedArray, rules: int) -> tuple[Integers, Flags]:
    flat = column.combine_chunks().flatten()
    known = np.asarray(flat.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    values = flat.fill_null(0).to_numpy().astype(np.int64)
    return values.reshape(-1, rules).copy(), known.reshape(-1, rules).copy()


def _found(
    ids: pa.Array,
    kept: Sequence[tuple[Integers, Integers, Integers, Integers, npt.NDArray[np.float64]]],
    counted: Sequence[tuple[int, Integers, Integers]],
) -> pa.Table:
    nothing = np.zeros(0, dtype=np.int64)
    one = np.concatenate([k[0] for k in kept]) if kept else nothing
    other = np.concatenate([k[1] for k in kept]) if kept else nothing
    pattern = np.concatenate([k[2] for k in kept]) if kept else nothing
    rule = np.concatenate([k[3] for k in kept]) if kept else nothing
    weight = np.concatenate([k[4] for k in kept]) if kept else nothing.astype(float)
    # Ids as ranks: to order a pair by its record ids.
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.argsort(np.array(ids.to_pylist(), dtype=object))] = np.arange(len(ids))
    swap = rank[one] > rank[other] if len(one) else np.zeros(0, dtype=bool)
    one, other = np.where(swap, other, one), np.where(swap, one, other)
    order = np.lexsort((pattern, rule, -weight, other, one))
    one, other = one[order], other[order]
    best = order[_first_of_run(one, other)]
    one, other = one[_first_of_run(one, other)], other[_first_of_run(one, other)]
    pairs = pa.table(
        {
            "left_record_id": ids.take(pa.array(one)),
            "right_record_id": ids.take(pa.array(other)),
            "pattern": pattern[best],
            "rule": rule[best].astype(np.int32),
            "weight": weight[best],
            "pairs": np.ones(len(best), dtype=np.int64),
        }
    )
    counts = pa.table(
        {
            "left_record_id": pa.nulls(sum(len(c[1]) for c in counted), pa.string()),
            "right_record_id": pa.nulls(sum(len(c[1]) for c in counted), pa.string()),
            "pattern": np.concatenate([c[1] for c in counted]) if counted else nothing,
            "rule": np.concatenate(
                [np.full(len(c[1]), c[0], dtype=np.int32) for c in counted]
                or [nothing.astype(np.int32)]
            ),
            "weight": pa.nulls(sum(len(c[1]) for c in counted), pa.float64()),
            "pairs": np.concatenate([c[2] for c in counted]) if counted else nothing,
        }
    )
    return pa.concat_tables([pairs, counts])


def _first_of_run(one: Integers, other: Integers) -> Flags:
    if not len(one):
        return np.zeros(0, dtype=bool)
    changed = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    return np.concatenate([[True], changed])


def best(found: DataFrame) -> DataFrame:
    """Of a pair's variants that different partitions found, the heaviest.

    Columns: left_record_id, right_record_id, pattern, rule (its number), weight.
    """
    heavier = F.struct(F.col("weight"), -F.col("rule"), -F.col("pattern"))
    heaviest = F.max_by(F.struct("pattern", "rule", "weight"), heavier)
    return (
        found.where("left_record_id IS NOT NULL")
        .groupBy("left_record_id", "right_record_id")
        .agg(heaviest.alias("best"))
        .select("left_record_id", "right_record_id", "best.pattern", "best.rule", "best.weight")
    )
