"""A run that builds on the one before: only what deliveries changed is compared anew.

The result is that of a run that makes everything anew with the same model. Where the tables are not
as one finished run with this configuration left them (a run was killed, weighed anew, or had
another model), or where more changed than `increment_limit`, everything is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame

from concord.errors import InfrastructureError
from concord.lake.registry import RUNS, Table
from concord.lake.tables import Lake
from concord.linkage import engine, extend, files, groups, inputs, pairs, tables
from concord.linkage.blobs import read
from concord.linkage.index import Index
from concord.linkage.records import forms, numbers, of_numbers, replaced, said, standardised
from concord.linkage.report import Compared
from concord.linkage.values import Hashes

# Of these all must be of one run: what an increment reads, and what a run writes last.
WHOLE = (
    tables.PLACEHOLDERS,
    tables.RECORDS,
    tables.KEYS,
    tables.PATTERNS,
    tables.PAIRS,
    tables.LINKS,
    tables.QUALITY,
)


@dataclass(frozen=True)
class Finished:
    """What the ledger says of a run that ended well: versions by the tables' names, and a digest of
    its configuration."""

    read: Mapping[str, int]
    written: Mapping[str, int]
    digest: str


@dataclass(frozen=True)
class Base:
    """The run that an increment builds on: the versions of its tables, and what it read."""

    versions: Mapping[str, int]
    read: Mapping[str, int]

    def rows(self, lake: Lake, table: Table) -> DataFrame:
        return lake.read(table, version=self.versions[table.name])


@dataclass(frozen=True)
class Delivered:
    """What changed since the base. `ids`: records that are new, changed or gone; `fresh`: their
    rows of vault/linkage_records as they are now, persisted, of those that are there;
    `placeholders`: those that the base found, by which these rows are made too."""

    ids: pa.Array
    fresh: DataFrame
    placeholders: pa.Table


@dataclass(frozen=True)
class Extension:
    """All records and pairs as they are now.

    `origin`: as groups.facts; `placeholders`: rows of vault/linkage_placeholders. `touched`: ids of
    records of which a pair is not what it was, gone ones too; None: any may be. `changed`: how many
    records had their pairs made anew; None: all.
    """

    records: DataFrame
    origin: pa.Table
    compared: Compared
    placeholders: pa.Table
    touched: pa.Array | None = None
    changed: int | None = None


def base(lake: Lake, digest: str) -> Base | None:
    """The last run, if its tables stand as it left them and `digest` was its configuration's."""
    newest = [lake.newest(table) for table in WHOLE]
    if any(each is None for each in newest) or len({each.run_id for each in newest if each}) > 1:
        return None
    left = {table.name: each.version for table, each in zip(WHOLE, newest, strict=True) if each}
    run_id = next(each.run_id for each in newest if each)
    for run in finished(lake, run_id):
        if run.digest == digest and left.items() <= run.written.items():
            # Upkeep since then left the same rows, and perhaps not those versions.
            return Base({table.name: lake.version(table) or 0 for table in WHOLE}, run.read)
    return None


def finished(lake: Lake, run_id: str) -> list[Finished]:
    """The index runs of that id that ended well."""
    return [
        Finished(
            {each["table"]: each["version"] for each in row["read_versions"] or ()},
            {each["table"]: each["version"] for each in row["written_versions"] or ()},
            row["config_digest"],
        )
        for row in lake.rows(RUNS)
        if (row["job"], row["state"], row["exit_code"]) == ("index", "ended", 0)
        and row["run_id"] == run_id
    ]


def delivered(here: Index, since: Base, limit: float) -> Delivered | None:
    """What changed; None if it is more than the share `limit` of the records that there were."""
    lake = here.lake
    fresh = [one for one in here.found if since.read.get(one.table.name) != one.version]
    still = pa.array([one.feed for one in here.found if one not in fresh], pa.string())
    before = since.rows(lake, tables.RECORDS)

    def told(table: pa.Table) -> pa.Table:
        other = pc.invert(pc.is_in(table["feed"].cast(pa.string()), value_set=still))
        some = table.filter(pc.and_(other, pc.equal(table["variant"], 0)))
        return pa.table({"which": numbers(some["record_id"]), "said": some["said"]})

    was = files.collected(before, ("feed", "variant", "said"), told, plain=("record_id",))
    which, digests = was["which"].to_numpy(), was["said"].to_numpy().view(np.uint64)
    now = said([rows for _, rows in inputs.identifiers(lake, fresh)])
    changed = _differing((which, digests), now)
    if len(changed) > limit * before.count():
        return None

    def mine(table: pa.Table) -> pa.Table:
        return of_numbers(table, changed)

    ids = files.collected(before, (), mine, plain=("record_id",))["record_id"]
    made, found = before.limit(0), since.rows(lake, tables.PLACEHOLDERS).toArrow()
    if fresh:
        feeds, standards = inputs.identifiers(lake, fresh), here.model.standards
        rows = standardised(forms(feeds, standards, here.shares, some=changed), found)
        made = rows.rows(tables.RECORDS)
        made = made.persist(StorageLevel.MEMORY_AND_DISK)
        now_there = made.select("record_id").toArrow()["record_id"]
        ids = pa.chunked_array([*ids.chunks, *now_there.chunks], pa.string())
    return Delivered(pc.unique(ids), made, found)


def _differing(was: tuple[Hashes, Hashes], now: tuple[Hashes, Hashes]) -> Hashes:
    """The numbers of records that only one side has, or that do not say the same."""
    which, digests = (np.concatenate(sides) for sides in zip(was, now, strict=True))
    order = np.argsort(which)
    which, digests = which[order], digests[order]
    # Who has not changed is there twice, with one digest.
    same = (which[1:] == which[:-1]) & (digests[1:] == digests[:-1])
    held = np.zeros(len(which), dtype=bool)
    held[1:] |= same
    held[:-1] |= same
    return np.unique(which[~held])


def extended(here: Index, since: Base, change: Delivered) -> Extension:
    """Compares what changed, and writes records, keys, patterns, pairs and links unless the run is
    dry."""
    lake, model, spark = here.lake, here.model, here.lake.spark
    before = since.rows(lake, tables.RECORDS)
    now = replaced(before, change.fresh, change.ids)
    if here.run.dry_run:
        records = now.rows(tables.RECORDS)
    else:
        here.remake(change.placeholders, tables.PLACEHOLDERS)
        written = here.remake(now, tables.RECORDS)
        records = lake.read(tables.RECORDS, version=written.version)
    origin = groups.facts(records)
    encode = partial(engine.encode, model=model, id="record_id")
    with ThreadPoolExecutor(3) as pool:  # two of them have little to do
        made = [
            pool.submit(encode, before, without=change.ids),
            pool.submit(encode, before, within=change.ids),
            pool.submit(encode, change.fresh),
        ]
        stable, old, new = (each.result() for each in made)
    held = [change.fresh, stable.blobs, old.blobs, new.blobs]
    try:
        was = extend.apart_of(since.rows(lake, tables.KEYS).toArrow(), model)
        found = extend.extended(
            spark, stable, old, new, was, model, ids=change.ids, conflict=model.link_weight
        )
        held += [found.lost, found.found]
        told = _patterns(since.rows(lake, tables.PATTERNS).toArrow(), found, here)
        past = pairs.stored(since.rows(lake, tables.PAIRS), without=found.ids)
        whole = replace(past, more=pairs.found(found.found, model, new.shares(spark)))
        compared = pairs.written(here, told, whole, found.apart, origin)
        kept = found.lost.unionByName(found.found).where("pairs IS NOT NULL").select("pairs")
        touching = [read(blob.as_buffer()) for blob in kept.toArrow()["pairs"]]
        touched = pa.concat_arrays(
            [found.ids, *(chunk for t in touching for s in pairs.ENDS for chunk in t[s].chunks)]
        )
        return Extension(records, origin, compared, change.placeholders, touched, len(found.ids))
    finally:
        for frame in held:
            frame.unpersist()


def _patterns(was: pa.Table, found: extend.Extended, here: Index) -> pa.Table:
    """rule (its number), pattern, pairs of all records as they are now."""
    names = pa.array([rule.name for rule in here.model.rules], pa.string())
    old = pa.table(
        {
            "rule": pc.index_in(was["rule"], value_set=names),
            "pattern": was["pattern"],
            "pairs": was["pairs"],
        }
    )
    less = found.before.set_column(2, "pairs", pc.negate(found.before["pairs"]))
    whole = pa.concat_tables([old, less.cast(old.schema), found.after.cast(old.schema)])
    summed = whole.group_by(["rule", "pattern"], use_threads=False).aggregate([("pairs", "sum")])
    summed = summed.rename_columns(["rule", "pattern", "pairs"])
    if summed.num_rows and pc.min(summed["pairs"]).as_py() < 0:
        raise InfrastructureError(
            f"{tables.PATTERNS.name} does not count the pairs of {tables.RECORDS.name}; run "
            "concord index --whole, which makes both anew"
        )
    there = summed.filter(pc.greater(summed["pairs"], 0))
    return there.sort_by([("rule", "ascending"), ("pattern", "ascending")])
