"""Pairs of changed records, found without making those of all others anew.

Records that neither changed nor are new keep their pairs among themselves: the rules that make such
a pair, and the first of them, depend on the two records and on which keys the budget keeps out. So
what is to be made anew are the pairs of changed records, and those of records under a key that the
budget now uses otherwise. Which values are common stays as the last whole run found it, as its
placeholders do: a name that crosses a bound would make the pairs of all who bear it anew, and a
delivery would move the weights of pairs that it says nothing of.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from concord.errors import QualityError
from concord.linkage import engine, keys, spread
from concord.linkage.blobs import ID
from concord.linkage.blocking import Anew, Matching, counts_of
from concord.linkage.engine import Encoded
from concord.linkage.keys import Refused
from concord.linkage.model import Model
from concord.linkage.spread import Rows
from concord.linkage.values import Common, Flags, Hashes

# Rows of vault/linkage_keys.
ROWS = pa.schema(
    {
        "of": pa.string(),
        "key": pa.int64(),
        "dropped": pa.int64(),
        "refined": pa.list_(pa.int64()),
        "class": pa.int32(),
    }
)


@dataclass(frozen=True)
class Apart:
    """Keys and values that are treated apart: what the budget keeps out, and common values."""

    refused: Refused = Refused()
    common: Mapping[str, Common] = field(default_factory=dict)


@dataclass(frozen=True)
class Extended:
    """What became of the pairs.

    `ids`: records whose pairs were made anew, those that are gone too. `before`, `after`: rule,
    pattern, pairs: their pairs of rows as they were, and as they are. `lost`, `found`:
    blocking.FOUND of those, to be released. `apart`: of all records as they are.
    """

    ids: pa.Array
    before: pa.Table
    after: pa.Table
    lost: Rows
    found: Rows
    apart: Apart


def extended(
    records: DataFrame,
    old: Encoded,
    new: Encoded,
    was: Apart,
    model: Model,
    *,
    ids: pa.Array,
    conflict: float,
) -> Extended:
    """The pairs of the records `ids`, of which `old` has the rows that were and `new` those that
    are; `records`: all rows that were, by `record_id`.

    `was`: as the run before left it, with the same model. `conflict`: as in engine.matching.
    Raises QualityError (exit 12) if the changed keys alone make more pairs than a run may.
    """
    rules, spark = model.rules, records.sparkSession
    changed = _both(keys.keys_had(old.blobs, rules), keys.keys_had(new.blobs, rules))
    most = max(old.rows, new.rows)

    def others(rows: pa.Table) -> Flags:
        gone: Flags = pc.is_in(rows[ID], value_set=ids).to_numpy(zero_copy_only=False)
        return ~gone

    def near_to(some: Mapping[int, Hashes]) -> Encoded:
        """The rows that could make a pair with a changed record; few, and read often."""

        def choose(rows: pa.Table) -> Flags:
            return others(rows) & keys.with_keys(rows, rules, some)

        found = engine.encode(records, model, id="record_id", choose=choose)
        return found.here() if found.rows + most < spread.HELD else found

    near, stable = near_to(changed), None
    try:
        now = _apart(spark, near, new, was, model, changed)
        otherwise, anew = _otherwise(was, now, model), ids
        if otherwise:
            stable = engine.encode(records, model, id="record_id", choose=others)
            more = keys.ids_with(stable.blobs, otherwise)
            anew = pa.concat_arrays([ids, more])
            changed = _both(changed, keys.keys_had(stable.blobs, rules, ids=more))
            spread.release(near.blobs)
            near = near_to(changed)

        def pairs(mine: Encoded, apart: Apart) -> Rows:
            those = near.beside(mine)
            had = keys.keys_had(
                those.blobs if otherwise else mine.blobs, rules, used=apart.refused, ids=anew
            )
            how = Matching(
                rules,
                model.compiled,
                model.weights,
                model.keep_weight,
                conflict,
                apart.common,
                apart.refused,
                Anew(anew, had),
            )
            return spread.kept(engine.candidates(spark, those, model, how))

        with ThreadPoolExecutor(2) as pool:  # each has tasks that are soon done
            lost, found = pool.map(pairs, (old, new), (was, now))
            before, after = pool.map(counts_of, (lost, found))
        return Extended(anew, before, after, lost, found, now)
    finally:
        for each in (near, stable):
            if each is not None:
                spread.release(each.blobs)


def _apart(
    spark: SparkSession,
    near: Encoded,
    new: Encoded,
    was: Apart,
    model: Model,
    changed: Mapping[int, Hashes],
) -> Apart:
    """What is treated apart now. `changed`: the keys, by rule, that changed records had or have:
    of no other did the number of rows change."""
    limit = keys.largest_block(model.pair_budget)
    present = near.beside(new)
    kinds = [(rule.on, limit) for rule in model.rules]
    of_rules = keys.counted(present.blobs, kinds, shares=present.shares(spark), within=changed)
    large = {number: one.large for number, one in enumerate(of_rules) if len(one.large)}
    found = keys.refused(present.blobs, model.rules, large, limit=limit)
    made = sum(one.sizes.pairs for one in of_rules) - sum(found.pairs.values())
    if made > model.run_budget:
        raise QualityError(
            f"the keys of changed records would make {made:,} pairs, more than run_budget "
            f"{model.run_budget:,}; `concord index --plan` shows which rule makes most"
        )
    return Apart(was.refused.replaced(changed, found), was.common)


def _both(one: Mapping[int, Hashes], other: Mapping[int, Hashes]) -> dict[int, Hashes]:
    return {number: np.union1d(keys, other[number]) for number, keys in one.items()}


def _otherwise(was: Apart, now: Apart, model: Model) -> list[tuple[tuple[str, ...], Hashes]]:
    """Parts that make a key, and the keys of which pairs are not what they were."""
    return [
        (model.rules[number].on, some)
        for number, some in sorted(was.refused.differing(now.refused).items())
    ]


def rows_of(apart: Apart, model: Model) -> pa.Table:
    """Rows of vault/linkage_keys: of, key, dropped, refined, class."""
    rows: list[dict[str, object]] = []
    for number, rule in enumerate(model.rules):
        found, dropped, refined, above = apart.refused.of(number)
        under = [refined[above == key].view(np.int64).tolist() for key in found]
        rows += [
            {"of": rule.name, "key": key, "dropped": n, "refined": some}
            for key, n, some in zip(
                found.view(np.int64).tolist(), dropped.tolist(), under, strict=True
            )
        ]
    for part, common in sorted(apart.common.items()):
        rows += [
            {"of": part, "key": key, "class": number}
            for key, number in zip(
                common.hashes.view(np.int64).tolist(), common.classes.tolist(), strict=True
            )
        ]
    return pa.Table.from_pylist(rows, ROWS)


def apart_of(rows: pa.Table, model: Model) -> Apart:
    """What `rows_of` told."""
    refused, common = Refused({}, {}, {}, {}), {}
    told = rows.sort_by("of")
    for number, rule in enumerate(model.rules):
        mine = told.filter(
            pc.and_(pc.equal(told["of"], rule.name), pc.is_null(told["class"]))
        ).combine_chunks()
        if not mine.num_rows:
            continue
        found = mine["key"].to_numpy().view(np.uint64)
        order = np.argsort(found)
        refused.keys[number], refused.dropped[number] = (
            found[order],
            mine["dropped"].to_numpy()[order],
        )
        lists = mine["refined"].combine_chunks()
        refined = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
        above = found[pc.list_parent_indices(lists).to_numpy()]
        order = np.argsort(refined)
        refused.refined[number], refused.above[number] = refined[order], above[order]
    for part in model.frequent:
        mine = told.filter(pc.and_(pc.equal(told["of"], part), pc.is_valid(told["class"])))
        hashes = mine["key"].to_numpy().view(np.uint64)
        order = np.argsort(hashes)
        common[part] = Common(hashes[order], mine["class"].to_numpy().astype(np.int8)[order])
    return Apart(refused, common)
