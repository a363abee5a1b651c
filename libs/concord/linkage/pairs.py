"""A run's pairs of records: made, weighed and written; or those of the last run weighed anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from concord.errors import UsageError
from concord.lake.workers import Made
from concord.linkage import engine, extend, files, spread, tables
from concord.linkage.arrays import Directory, distinct
from concord.linkage.blobs import CUT, cut_by, read, together
from concord.linkage.blobs import written as written_blob
from concord.linkage.blocking import blobs_in, counts_of
from concord.linkage.engine import Blocked
from concord.linkage.extend import Apart
from concord.linkage.index import Index
from concord.linkage.keys import Refused
from concord.linkage.patterns import probability
from concord.linkage.person_index import PersonIndex
from concord.linkage.records import numbers, plain
from concord.linkage.report import Compared
from concord.linkage.spread import Rows
from concord.linkage.values import Hashes, mixed

SIDES = ("left_record_id", "right_record_id")
ENDS = ("left", "right")
# Pairs of records as they travel; the rule by its number.
PACKED = (*SIDES, "pattern", "rule")
# A pair as the places of its two records in one number; the rule by its number.
PLACED = pa.schema({"code": pa.int64(), "pattern": pa.int64(), "rule": pa.int8()})


def compared(here: Index, records: DataFrame, origin: pa.Table) -> Compared:
    """Makes and weighs all pairs, and writes them unless the run is dry; the rest is still to be
    written. `origin`: as groups.facts of the records."""
    spark, model = here.lake.spark, here.model
    encoded = engine.encode(records, model, id="record_id")
    held = [encoded.blobs]
    try:
        blocked = engine.block(spark, encoded, model)
        how = engine.matching(model, blocked, conflict=model.link_weight)
        made = spread.kept(engine.candidates(spark, encoded, model, how))
        held.append(made)
        # The first query finds them all.
        counts = counts_of(made)
        pairs = found(made, model, encoded.shares(spark))
        return written(here, counts, pairs, Apart(blocked.refused, blocked.common), origin)
    finally:
        for rows in held:
            spread.release(rows)


def found(made: Rows, model: PersonIndex, shares: int) -> Made | pa.Table:
    """blocking.FOUND -> rows of vault/linkage_pairs: pairs of records, each once, with the pattern
    and rule of its heaviest rows."""
    weights, names = model.weights, _rules(model)

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for rule, blob in zip(batch["rule"].to_pylist(), batch["pairs"], strict=True):
                rows = read(blob.as_buffer())
                rules = pa.array(np.full(rows.num_rows, rule, dtype=np.int32))
                named = [*(rows[end] for end in ENDS), rows["pattern"], rules]
                yield from cut_by(pa.table(named, names=PACKED), _codes(rows, ENDS), shares)

    def choose(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for rows in together(batches):
            codes = np.sort(_codes(rows, SIDES))
            if not np.any(codes[1:] == codes[:-1]):
                yield named(rows)
                continue
            one, other = (numbers(rows[side]) for side in SIDES)
            pattern, rule = rows["pattern"].to_numpy(), rows["rule"].to_numpy()
            order = np.lexsort((pattern, rule, -weights.of(pattern), other, one))
            first = np.ones(len(order), dtype=bool)
            one, other = one[order], other[order]
            first[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
            yield named(rows.take(pa.array(order[first])))

    def named(rows: pa.Table) -> pa.Table:
        return rows.set_column(3, "rule", names.take(rows["rule"].combine_chunks()))

    if isinstance(made, pa.Table):
        sent = spread.mapped(blobs_in(made, "pairs"), send, CUT)
        each = [
            tables.PAIRS.arrow_schema.empty_table(),
            *choose(iter(spread.here(sent).to_batches())),
        ]
        return pa.concat_tables([rows.select(tables.PAIRS.column_names) for rows in each])
    sent = made.where("pairs IS NOT NULL").select("rule", "pairs").mapInArrow(send, CUT)
    return Made(spread.meeting(sent, shares), choose)


def _codes(rows: pa.Table, sides: tuple[str, str]) -> Hashes:
    """A number for each pair, of both records' numbers."""
    one, other = (numbers(rows[side]) for side in sides)
    return mixed(mixed(one) ^ other)


def stored(rows: DataFrame, *, without: pa.Array | None = None) -> Made:
    """Rows of vault/linkage_pairs, those without one of some records."""
    sent, tables_of = files.tables_of(rows, ("pattern", "rule"), plain=SIDES)
    if without is None:
        return Made(sent, tables_of)

    def still(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for table in tables_of(batches):
            gone = pc.or_(*(pc.is_in(table[side], value_set=without) for side in SIDES))
            yield table.filter(pc.invert(gone))

    return Made(sent, still)


def _rules(model: PersonIndex) -> pa.Array:
    """The rules' names, by number."""
    return pa.array([rule.name for rule in model.rules], pa.string())


def written(here: Index, counts: pa.Table, pairs: Made, apart: Apart, origin: pa.Table) -> Compared:
    """Writes pairs, unless the run is dry, and brings them to the driver; keys, patterns and links
    are still to be written. `counts`: as blocking.counts_of, of all pairs; `pairs`: all that are
    kept, as rows of vault/linkage_pairs."""
    model = here.model
    told = _counts(counts, model)
    if here.run.dry_run:
        found = _sent(pairs, origin, model)
        return Compared(told, found, apart.refused)
    # Made once: what follows reads them as they are written.
    stands = here.remake(pairs, tables.PAIRS)
    rows = here.lake.read(tables.PAIRS, version=stands.version)
    writes = (
        (_links(stored(rows), model), tables.LINKS),
        (extend.rows_of(apart, model), tables.KEYS),
        (told, tables.PATTERNS),
    )
    return Compared(told, _stored(rows, origin, model), apart.refused, writes)


def rescored(here: Index, origin: pa.Table) -> Compared:
    """The last run's pairs by the weights of the model as it is now; links are still to be written.

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
    newest = [lake.newest(table) for table in (tables.RECORDS, tables.PATTERNS, tables.PAIRS)]
    if len({each.run_id for each in newest if each}) > 1:
        raise UsageError(
            "--rescore: the last run ended before all that it made was written; run concord index"
        )
    weight = model.weights.of(told["pattern"].to_numpy())
    lost = (weight >= model.keep_weight) & ~told["kept"].to_numpy(zero_copy_only=False)
    if lost.any():
        count = int(told["pairs"].to_numpy()[lost].sum())
        raise UsageError(
            f"--rescore: {count:,} pairs that weigh keep_weight or more by the new weights were "
            "not kept by the last run; run concord index"
        )
    rows = lake.read(tables.PAIRS)
    writes = () if here.run.dry_run else ((_links(stored(rows), model), tables.LINKS),)
    return Compared(told, _stored(rows, origin, model), Refused(), writes)


def _counts(counts: pa.Table, model: PersonIndex) -> pa.Table:
    """Rows of vault/linkage_patterns."""
    how = engine.matching(model, Blocked((), Refused()), conflict=model.link_weight)
    kept = how.worth(counts["pattern"].to_numpy())
    names = _rules(model)
    return pa.table(
        {
            "rule": names.take(counts["rule"].combine_chunks()),
            "pattern": counts["pattern"],
            "pairs": counts["pairs"],
            "kept": pa.array(kept),
            "asked": pa.repeat(pa.scalar(model.asks), counts.num_rows),
        }
    )


def _links(pairs: Made, model: PersonIndex) -> Made:
    """Rows of vault/linkage_pairs, as stored -> of index/links."""
    weights, prior, least, version = (
        model.weights,
        model.prior_bits,
        model.link_weight,
        model.model_version,
    )
    pairs_of = pairs.make

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        for rows in pairs_of(batches):
            weight = weights.of(rows["pattern"].to_numpy())
            some = np.flatnonzero(weight >= least)
            rows, weight = rows.take(pa.array(some)), weight[some]
            links = {
                **{side: rows[side] for side in SIDES},
                "weight": weight,
                "probability": probability(weight, prior),
                "rule": rows["rule"],
                "model_version": pa.repeat(version, len(some)),
            }
            yield pa.table(links)

    return Made(pairs.frame, work)


def _numbered(model: PersonIndex, rows: pa.Table) -> pa.Table:
    """Rows of vault/linkage_pairs by the numbers of records and rules: left, right, pattern,
    rule."""
    ends = {end: numbers(rows[side]) for end, side in zip(ENDS, SIDES, strict=True)}
    rule = pc.index_in(plain(rows["rule"]), value_set=_rules(model)).cast(pa.int8())
    return pa.table({**ends, "pattern": rows["pattern"], "rule": rule})


def _placed(known: Directory, rows: pa.Table) -> pa.Table:
    """`_numbered` rows as PLACED, in order. `known`: the numbers of all records."""
    left, right = (known.places(rows[end].to_numpy()) for end in ENDS)
    code = left * len(known.known) + right
    order = np.argsort(code)
    some = rows.select(["pattern", "rule"]).take(pa.array(order))
    return some.add_column(0, "code", pa.array(code[order]))


def _sent(pairs: Made, origin: pa.Table, model: PersonIndex) -> pa.Table:
    """Pairs, as they are made, as `_in_order`."""

    def tell(made: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for rows in made:
            blob = written_blob(_numbered(model, rows))
            yield pa.record_batch({"blob": pa.array([blob], pa.binary())})

    known = Directory.of(origin["number"].to_numpy())
    parts = [read(blob) for blob in pairs.told(tell, "blob binary").toArrow()["blob"].to_pylist()]
    parts += [] if pairs.held is None else [_numbered(model, pairs.held)]
    return _in_order([_placed(known, part) for part in parts], origin, model)


def _stored(pairs: DataFrame, origin: pa.Table, model: PersonIndex) -> pa.Table:
    """Pairs, as they are stored, as `_in_order`."""
    known = Directory.of(origin["number"].to_numpy())

    def placed(rows: pa.Table) -> pa.Table:
        return _placed(known, _numbered(model, rows))

    parts = files.collected_each([(pairs, placed)], ("pattern", "rule"), plain=SIDES)
    return _in_order(parts, origin, model)


def _in_order(parts: Sequence[pa.Table], origin: pa.Table, model: PersonIndex) -> pa.Table:
    """Parts of PLACED -> left, right (places in `origin`), pattern, rule (its name) and weight
    (bits), in the order of the places.

    `origin`: as groups.facts; has all records.
    """
    names, told = _rules(model), pa.concat_tables([PLACED.empty_table(), *parts])
    code = told["code"].to_numpy()
    order = np.argsort(code, kind="stable")  # of sorted runs
    left, right = np.divmod(code[order], max(origin.num_rows, 1))
    patterns, place = distinct(told["pattern"].to_numpy()[order])
    return pa.table(
        {
            "left": left,
            "right": right,
            "pattern": patterns[place],
            "rule": names.take(told["rule"].combine_chunks().take(pa.array(order))),
            "weight": model.weights.of(patterns)[place],
        }
    )
