"""A run's pairs of records: made, weighed and written; or those of the last run weighed anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.errors import UsageError
from concord.linkage import blocking, engine, extend, files, tables
from concord.linkage.engine import Blocked
from concord.linkage.extend import Apart
from concord.linkage.index import Index
from concord.linkage.keys import Refused
from concord.linkage.patterns import Integers
from concord.linkage.person_index import PersonIndex
from concord.linkage.records import numbers, plain
from concord.linkage.report import Compared

SIDES = ("left_record_id", "right_record_id")
ENDS = ("left", "right")


def compared(here: Index, records: DataFrame, origin: pa.Table) -> Compared:
    """Makes and weighs all pairs, and writes keys, patterns, pairs and links unless the run is
    dry. `origin`: as groups.facts of the records."""
    spark, model = here.lake.spark, here.model
    encoded = engine.encode(records, model, id="record_id")
    held = [encoded.blobs]
    try:
        blocked = engine.block(spark, encoded, model)
        how = engine.matching(model, blocked, conflict=model.link_weight)
        made = engine.candidates(spark, encoded, model, how)
        held.append(made.persist(StorageLevel.MEMORY_AND_DISK))
        # The first query finds them all.
        counts = engine.tallied(made)
        pairs = found(made, encoded.id_type, model, counts)
        apart = Apart(blocked.refused, blocked.common)
        return written(here, counts, pairs, apart, origin)
    finally:
        for frame in held:
            frame.unpersist()


def found(made: DataFrame, id_type: str, model: PersonIndex, counts: pa.Table) -> DataFrame:
    """blocking.FOUND -> left_record_id, right_record_id, pattern, rule (its name), weight.

    `counts`: as engine.tallied; of all patterns that there are.
    """
    weighed = engine.weighed(blocking.pairs_of(made, id_type), model, counts)
    names = F.array(*[F.lit(rule.name) for rule in model.rules])
    return (
        weighed.drop("probability")
        .withColumnsRenamed({"left": "left_record_id", "right": "right_record_id"})
        .withColumn("rule", names[F.col("rule")])
    )


def written(
    here: Index, counts: pa.Table, pairs: DataFrame, apart: Apart, origin: pa.Table
) -> Compared:
    """Writes keys, patterns, pairs and links, unless the run is dry, and brings the pairs to the
    driver. `counts`: as engine.tallied, of all pairs; `pairs`: as `found`, all that are kept."""
    model = here.model
    told = _counts(counts, model)
    if here.run.dry_run:
        return Compared(told, on_driver(pairs, origin, model), apart.refused)
    spark, keys = here.lake.spark, extend.rows_of(apart, model)
    writes = (
        (spark.createDataFrame(keys, tables.KEYS.schema).coalesce(1), tables.KEYS),
        (spark.createDataFrame(told).coalesce(1), tables.PATTERNS),
        (pairs.select(*tables.PAIRS.column_names), tables.PAIRS),
    )
    with ThreadPoolExecutor(max_workers=len(writes)) as pool:
        done = [pool.submit(here.aside().remake, *write) for write in writes]
        last = [future.result() for future in done][-1]
        kept = here.lake.read(tables.PAIRS, version=last.version)
        links = weighed(kept, model, counts["pattern"].to_numpy())
        linking = pool.submit(here.aside().remake, _links(links, model), tables.LINKS)
        found = on_driver(kept, origin, model)
        linking.result()
    return Compared(told, found, apart.refused)


def weighed(pairs: DataFrame, model: PersonIndex, patterns: Integers) -> DataFrame:
    """Rows of vault/linkage_pairs, whose patterns are all among `patterns` -> with `weight`."""
    scores = engine.scores(model, np.unique(patterns)).drop_columns(["probability"])
    return pairs.join(F.broadcast(pairs.sparkSession.createDataFrame(scores)), "pattern")


def rescored(here: Index, origin: pa.Table) -> Compared:
    """The last run's pairs by the weights of the model as it is now; writes links unless dry.

    Of a pair's variants the pattern stays that the last run found the heaviest. Raises UsageError
    (exit 2) where stored patterns do not tell what the model asks.
    """
    lake, model = here.lake, here.model
    told: pa.Table = lake.read(tables.PATTERNS).orderBy("rule", "pattern").toArrow()
    if not told.num_rows:
        raise UsageError("--rescore needs pairs: run concord index first")
    # An index of before there were such digests tells none.
    asked = pc.unique(told["asked"]).to_pylist() if "asked" in told.column_names else []
    if asked != [model.asks]:
        raise UsageError(
            "--rescore: the last run's pairs were made by other blocking rules, comparisons or "
            "placeholders than conf/person_index.yaml has now; run concord index"
        )
    weight = model.weights.of(told["pattern"].to_numpy())
    lost = (weight >= model.keep_weight) & ~told["kept"].to_numpy(zero_copy_only=False)
    if lost.any():
        count = int(told["pairs"].to_numpy()[lost].sum())
        raise UsageError(
            f"--rescore: {count:,} pairs that weigh keep_weight or more by the new weights were "
            "not kept by the last run; run concord index"
        )
    pairs = lake.read(tables.PAIRS)
    if not here.run.dry_run:
        links = weighed(pairs, model, told["pattern"].to_numpy())
        here.remake(_links(links, model), tables.LINKS)
    return Compared(told, on_driver(pairs, origin, model), Refused())


def _counts(counts: pa.Table, model: PersonIndex) -> pa.Table:
    """Rows of vault/linkage_patterns."""
    how = engine.matching(model, Blocked((), Refused()), conflict=model.link_weight)
    kept = how.worth(counts["pattern"].to_numpy())
    names = pa.array([rule.name for rule in model.rules], pa.string())
    return pa.table(
        {
            "rule": names.take(counts["rule"].combine_chunks()),
            "pattern": counts["pattern"],
            "pairs": counts["pairs"],
            "kept": pa.array(kept),
            "asked": pa.repeat(pa.scalar(model.asks), counts.num_rows),
        }
    )


def _links(pairs: DataFrame, model: PersonIndex) -> DataFrame:
    chance = F.expr(f"1 / (1 + pow(2D, -(weight + {model.prior_bits}D)))")
    return (
        pairs.where(F.col("weight") >= model.link_weight)
        .withColumn("probability", chance)
        .withColumn("model_version", F.lit(model.model_version))
        .select(*tables.LINKS.column_names)
    )


def on_driver(pairs: DataFrame, origin: pa.Table, model: PersonIndex) -> pa.Table:
    """Rows of vault/linkage_pairs -> left, right (places in `origin`), pattern, rule (its name) and
    weight (bits), in the order of the places.

    `origin`: as groups.facts; has all records.
    """
    names = pa.array([rule.name for rule in model.rules], pa.string())

    def work(table: pa.Table) -> pa.Table:
        ends = {side: numbers(table[name]) for side, name in zip(ENDS, SIDES, strict=True)}
        rule = pc.index_in(plain(table["rule"]), value_set=names).cast(pa.int8())
        return pa.table({**ends, "pattern": table["pattern"], "rule": rule})

    told = files.collected(pairs, ("pattern", "rule"), work, plain=SIDES)
    known = numbers(origin["record_id"])
    left, right = (np.searchsorted(known, told[end].to_numpy()) for end in ENDS)
    order = np.argsort(left * len(known) + right, kind="stable")
    patterns, place = np.unique(told["pattern"].to_numpy()[order], return_inverse=True)
    return pa.table(
        {
            "left": left[order],
            "right": right[order],
            "pattern": patterns[place],
            "rule": names.take(told["rule"].combine_chunks().take(pa.array(order))),
            "weight": model.weights.of(patterns)[place],
        }
    )
