"""A run that builds on the one before: only what deliveries changed is compared anew.

The result is that of a run that makes everything anew with the same model. Where the tables are not
as one finished run with this configuration left them (a run was killed, weighed anew, or had
another model), or where more changed than `increment_limit`, everything is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from concord.errors import InfrastructureError
from concord.lake.registry import RUNS, Table
from concord.lake.tables import Lake
from concord.lake.workers import Made
from concord.linkage import engine, extend, files, groups, keys, pairs, spread, tables
from concord.linkage.arrays import places
from concord.linkage.blobs import ID, read
from concord.linkage.blocking import blobs_in
from concord.linkage.engine import Encoded
from concord.linkage.index import Index
from concord.linkage.keys import among_sorted
from concord.linkage.records import forms, numbers, replaced, said, some_standardised
from concord.linkage.report import Compared
from concord.linkage.spread import Rows
from concord.linkage.values import Flags, Hashes

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
    """What changed since the base. `ids`: records that are new, changed or gone; `old`: their rows
    as they were; `fresh`: their rows of vault/linkage_records as they are, to be released;
    `placeholders`: those that the base found, by which these rows are made too."""

    ids: pa.Array
    old: Encoded
    fresh: Rows
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
    feeds = [(one.feed, here.feeds[one.feed]) for one in fresh]
    now = said([rows for _, rows in feeds])
    changed = _differing((which, digests), now)
    if len(changed) > limit * before.count():
        return None

    def mine(rows: pa.Table) -> Flags:
        return among_sorted(numbers(rows[ID]), changed)

    found = since.rows(lake, tables.PLACEHOLDERS).toArrow()
    held = len(changed) < spread.HELD
    old = engine.encode(before, here.model, id="record_id", choose=mine, held=held)
    rows: Rows = tables.RECORDS.arrow_schema.empty_table()
    if feeds:
        made = forms(feeds, here.model.standards, here.shares, some=changed)
        rows = some_standardised(made, found)
    now = spread.here(rows.select(["record_id"]))["record_id"]
    whole = pa.chunked_array([*keys.ids_of(old.blobs).chunks, *now.chunks], pa.string())
    return Delivered(pc.unique(whole), old, rows, found)


def _differing(was: tuple[Hashes, Hashes], now: tuple[Hashes, Hashes]) -> Hashes:
    """The numbers of records that only one side has, or that do not say the same; sorted. On either
    side each number is once; those of `now` are sorted."""
    at = places(now[0], was[0])
    there = at >= 0
    same = there.copy()
    same[there] = now[1][at[there]] == was[1][there]
    held = np.zeros(len(now[0]), dtype=bool)
    held[at[same]] = True
    return np.union1d(was[0][~same], now[0][~held])


def extended(here: Index, since: Base, change: Delivered) -> Extension:
    """Compares what changed, and writes records and pairs unless the run is dry; the rest is still
    to be written."""
    lake, model = here.lake, here.model
    before = since.rows(lake, tables.RECORDS)
    new = engine.encode(change.fresh, model, id="record_id")
    held = [change.fresh, change.old.blobs, new.blobs]
    try:
        was = extend.apart_of(since.rows(lake, tables.KEYS).toArrow(), model)
        with ThreadPoolExecutor(1) as pool:  # neither of the two keeps all workers busy
            made = pool.submit(_records, here.aside(), before, change)
            found = extend.extended(
                before, change.old, new, was, model, ids=change.ids, conflict=model.link_weight
            )
            records, origin = made.result()
        held += [found.lost, found.found]
        told = _patterns(since.rows(lake, tables.PATTERNS).toArrow(), found, here)
        past = pairs.stored(since.rows(lake, tables.PAIRS), without=found.ids)
        whole = replace(past, more=pairs.found(found.found, model, new.shares(lake.spark)))
        compared = pairs.written(here, told, whole, found.apart, origin)
        ends = [found.ids]
        for each in (found.lost, found.found):
            for blob in blobs_in(each, "pairs")["pairs"]:
                some = read(blob.as_buffer())
                ends += [chunk for end in pairs.ENDS for chunk in some[end].chunks]
        touched = pa.concat_arrays(ends)
        return Extension(records, origin, compared, change.placeholders, touched, len(found.ids))
    finally:
        for rows in held:
            spread.release(rows)


def _records(here: Index, before: DataFrame, change: Delivered) -> tuple[DataFrame, pa.Table]:
    """All records as they are now, written unless the run is dry; and groups.facts of them."""
    if not here.run.dry_run:
        here.remake(change.placeholders, tables.PLACEHOLDERS)
    return standing(here, replaced(before, change.fresh, change.ids))


def standing(here: Index, made: Made) -> tuple[DataFrame, pa.Table]:
    """Rows of vault/linkage_records as they are written, unless the run is dry; and groups.facts of
    them."""
    if here.run.dry_run:
        records = made.rows(tables.RECORDS)
    else:
        written = here.remake(made, tables.RECORDS)
        records = here.lake.read(tables.RECORDS, version=written.version)
    return records, groups.facts(records)


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
