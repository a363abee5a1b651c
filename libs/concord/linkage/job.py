"""The `index` job: records recognised as persons, and persons kept over time.

A run writes, in this order: the standardised records, counts per pattern and candidate pairs (in
the vault), links, events, the crosswalk, quality. The first four are made anew by every run. The
events decide: once they are written, the crosswalk follows them, by this run or, if it is killed
in between, by the next one, whatever that one is about. Before that, a run that is repeated finds
the same persons and mints the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements.mou import Mou
from concord.contracts.model import Contract
from concord.errors import InfrastructureError, UsageError
from concord.lake.registry import DELIVERIES, RUNS
from concord.lake.run import Run
from concord.lake.tables import Lake, ReplaceWhere, described, isin
from concord.linkage import (
    blobs,
    decisions,
    engine,
    estimate,
    history,
    identity,
    inputs,
    report,
    tables,
)
from concord.linkage.clusters import Clusters, clusters
from concord.linkage.decisions import Decision
from concord.linkage.estimate import Fit
from concord.linkage.history import Present
from concord.linkage.index import Index
from concord.linkage.inputs import Input
from concord.linkage.model import PersonIndex
from concord.linkage.report import Compared
from concord.linkage.standardise import ORIGIN, STANDARD, Standards, standardise
from concord.privacy.keys import mint_key

STANDARDISED = ", ".join(
    f"{column.name} {column.type}"
    for column in tables.RECORDS.columns
    if column.name in {*ORIGIN, "variant", *STANDARD}
)


@dataclass(frozen=True)
class Outcome:
    """What a run found. `events`: kind -> how many. `done` is False when nothing was to do."""

    done: bool
    records: int = 0
    persons: int = 0
    links: int = 0
    refused_pairs: int = 0
    events: tuple[tuple[str, int], ...] = ()

    @property
    def message(self) -> str:
        if not self.done:
            return "nothing to do"
        changes = ", ".join(f"{count:,} {kind}" for kind, count in self.events)
        told = f"{self.records:,} records, {self.persons:,} persons"
        return f"{told}; {changes or 'no person changed'}"


def input_versions(
    lake: Lake, contracts: Mapping[str, Contract], model: PersonIndex
) -> tuple[Input, ...]:
    """What a run would read now, by the ledger of deliveries."""
    loaded = lake.read(DELIVERIES).where("status = 'loaded'").select("status", "versions")
    return tuple(inputs.inputs(inputs.matched(contracts, model.leave_out), loaded.collect()))


def decided(lake: Lake) -> dict[str, int]:
    """The version of the stewards' decisions that a run would read, by the table's name."""
    newest = lake.newest(tables.STEWARD_DECISIONS)
    return {tables.STEWARD_DECISIONS.name: newest.version} if newest else {}


def index(
    run: Run,
    contracts: Mapping[str, Contract],
    mous: Mapping[str, Mou],
    model: PersonIndex,
    *,
    config_digest: str,
) -> Outcome:
    """Recognises persons in all records that the ledger says are loaded.

    Nothing to do when a finished run of the same input versions and configuration made the index
    as it stands. Raises RefusedError (14) before anything is read if a feed may not be matched,
    LockedError (13), UsageError (2) for an `as_of` before the last change's, InfrastructureError
    (20).
    """
    wanted = inputs.matched(contracts, model.leave_out)
    permitted = inputs.permission(wanted, mous, run.clock().date())
    try:
        read = input_versions(run.lake, contracts, model)
        run.tally.read.update({one.table.name: one.version for one in read})
        run.tally.read.update(decided(run.lake))
        if not read or _stands(run, config_digest):
            return Outcome(done=False)
        here = Index(run, model, permitted, read)
        if run.dry_run:
            people = inputs.read(run.lake, read).select("record_id").distinct()
            return Outcome(done=True, records=people.count())
        with run.lake.locks.hold([table.name for table in tables.TABLES]):
            return _index(here)
    except (PySparkException, Py4JError) as error:
        # What Spark says of a failed task can quote rows.
        raise InfrastructureError(
            f"index: Spark failed: {described(error)}. If it speaks of space or permissions, mend "
            f"{run.settings.lake} or Spark's local folders; then run this again"
        ) from None


def _stands(run: Run, config_digest: str) -> bool:
    """Whether the index is as a finished run of the same inputs and configuration left it."""
    newest = run.lake.newest(tables.RECORDS)
    if newest is None:
        return False
    ended = run.lake.read(RUNS).where("job = 'index' AND state = 'ended' AND exit_code = 0")
    for row in ended.where(F.col("run_id") == newest.run_id).collect():
        written = {w["table"]: w["version"] for w in row["written_versions"] or ()}
        read = {r["table"]: r["version"] for r in row["read_versions"] or ()}
        # Else a run that was killed has written the records again since.
        if written.get(tables.RECORDS.name) == newest.version:
            return read == run.tally.read and row["config_digest"] == config_digest
    return False


def _index(here: Index) -> Outcome:
    run, lake = here.run, here.lake
    with run.reporter.stage("index", 5) as progress:
        present = history.catch_up(here)
        taken = decisions.in_force(_decisions(here))
        written = here.remake(_records(here), tables.RECORDS)
        records = lake.read(tables.RECORDS, version=written.version)
        progress.step("records standardised")
        compared = _compared(here, records)
        progress.step("pairs compared and weighed")
        origin = records.select(*ORIGIN).distinct().orderBy("record_id").toArrow()
        grouped = _clusters(here, origin, compared.pairs, taken)
        events = _events(here, origin, grouped, present, taken)
        progress.step("persons decided on")
        history.record(here, present, events)
        progress.step("crosswalk written")
        measures = report.measures(here.model, origin, compared, grouped)
        told = history.told(here)
        rows = report.rows(run.run_id, run.as_of, here.model, [*measures, *report.changes(told)])
        frame = lake.spark.createDataFrame(rows, tables.QUALITY.schema).coalesce(1)
        here.remake(frame, tables.QUALITY, ReplaceWhere(isin("run_id", (run.run_id,))))
        progress.step("quality told")
    run.tally.rows_in, run.tally.rows_out = origin.num_rows, grouped.number
    linked = int((compared.pairs["weight"].to_numpy() >= here.model.link_weight).sum())
    return Outcome(
        done=True,
        records=origin.num_rows,
        persons=grouped.number,
        links=linked,
        refused_pairs=sum(compared.refused.pairs.values()),
        events=tuple(sorted(told.items())),
    )


def _decisions(here: Index) -> list[Decision]:
    """What stewards ever decided, as of the version that the run noted."""
    version = here.run.tally.read.get(tables.STEWARD_DECISIONS.name)
    if version is None:
        return []
    rows = here.lake.read(tables.STEWARD_DECISIONS, version=version).toArrow()
    return decisions.of_rows(rows)


def _records(here: Index) -> DataFrame:
    """The feeds' records in comparable form."""
    rows = inputs.read(here.lake, here.found)
    return standardised(rows, here.model.standards, _shares(here))


def standardised(rows: DataFrame, standards: Standards, partitions: int) -> DataFrame:
    """Rows of the vault's identifiers -> ORIGIN, `variant` and STANDARD."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        arrived = list(batches)
        if arrived:
            yield from standardise(pa.Table.from_batches(arrived), standards).to_batches()

    # A record's rows must be together; mapInArrow itself asks for no distribution.
    return rows.repartition(partitions, "record_id").mapInArrow(work, STANDARDISED)


def _shares(here: Index) -> int:
    return int(here.lake.spark.conf.get("spark.sql.shuffle.partitions") or 1)


def _compared(here: Index, records: DataFrame) -> Compared:
    """Makes and weighs the pairs, and writes patterns, pairs and links."""
    spark, model = here.lake.spark, here.model
    encoded = engine.encode(records, model, id="record_id")
    held = [encoded.blobs]
    try:
        blocked = engine.block(spark, encoded, model)
        matching = engine.matching(model, blocked, conflict=model.link_weight)
        found = engine.candidates(spark, encoded, model, matching)
        held.append(found.persist(StorageLevel.MEMORY_AND_DISK))
        # The first query finds them all.
        counts = _named(engine.tallied(found), model)
        pairs = engine.weighed(engine.of_rows(found), model, counts)
        # Weighed once, for two tables and what follows.
        held.append(pairs.persist(StorageLevel.MEMORY_AND_DISK))
        weighed = _pairs(pairs, model).select("left_record_id", "right_record_id", "weight")
        ordered = weighed.orderBy("left_record_id", "right_record_id").toArrow()
        writes = (
            (spark.createDataFrame(counts).coalesce(1), tables.PATTERNS),
            (_pairs(pairs, model).select(*tables.PAIRS.column_names), tables.PAIRS),
            (_links(pairs, model), tables.LINKS),
        )
        with ThreadPoolExecutor(max_workers=len(writes)) as pool:
            done = [pool.submit(here.aside().remake, *write) for write in writes]
            for future in done:
                future.result()
        return Compared(counts, ordered, blocked.refused)
    finally:
        for frame in held:
            frame.unpersist()


def _named(counts: pa.Table, model: PersonIndex) -> pa.Table:
    """Counts with the rules' names instead of their numbers."""
    names = pa.array([rule.name for rule in model.rules], pa.string())
    rules = names.take(counts["rule"].combine_chunks())
    return pa.table({"rule": rules, "pattern": counts["pattern"], "pairs": counts["pairs"]})


def _pairs(pairs: DataFrame, model: PersonIndex) -> DataFrame:
    names = F.array(*[F.lit(rule.name) for rule in model.rules])
    return pairs.withColumnsRenamed(
        {"left": "left_record_id", "right": "right_record_id"}
    ).withColumn("rule", names[F.col("rule")])


def _links(pairs: DataFrame, model: PersonIndex) -> DataFrame:
    return (
        _pairs(pairs, model)
        .where(F.col("weight") >= model.link_weight)
        .withColumn("model_version", F.lit(model.model_version))
        .select(*tables.LINKS.column_names)
    )


def _clusters(
    here: Index, origin: pa.Table, pairs: pa.Table, taken: Sequence[Decision]
) -> Clusters:
    ids = origin["record_id"].combine_chunks()
    left, right = (
        pc.index_in(pairs[side], value_set=ids).to_numpy().astype("int64")
        for side in ("left_record_id", "right_record_id")
    )
    bound = decisions.constraints(ids, taken)
    prior = here.model.prior_bits
    return clusters(
        len(ids),
        left,
        right,
        pairs["weight"].to_numpy() + prior,
        threshold=here.model.cluster_weight + prior,
        absent=here.model.absent_weight + prior,
        limit=here.model.component_limit,
        must=bound.must,
        cannot=bound.cannot,
    )


def _events(
    here: Index,
    origin: pa.Table,
    grouped: Clusters,
    present: Present,
    taken: Sequence[Decision],
) -> pa.Table:
    ids = origin["record_id"].combine_chunks()
    before, gone = identity.aligned(ids, present.open.select(["record_id", "person_id"]))
    mint = partial(
        identity.mint_ids,
        key=mint_key(here.run.settings.keys, create=True),
        run_id=here.run.run_id,
        taken=present.minted["person_id"].combine_chunks(),
    )
    return identity.decide_arrays(
        ids, grouped.of, before, gone, minted=present.minted, mint=mint, decisions=taken
    )


def estimated(lake: Lake, model: PersonIndex) -> Fit:
    """The model with m and u as the last run's records and pairs tell them. Writes nothing.

    Raises UsageError (exit 2) where there was no run, QualityError (12) for pairs that cannot
    teach it.
    """
    if not lake.exists(tables.PATTERNS):
        raise UsageError("--estimate needs pairs: run concord index first")
    counts = lake.read(tables.PATTERNS).groupBy("pattern").agg(F.sum("pairs").alias("pairs"))
    counted = {row["pattern"]: row["pairs"] for row in counts.collect()}
    encoded = engine.encode(lake.read(tables.RECORDS), model, id="record_id")
    try:
        blocked = engine.block(lake.spark, encoded, model)
        sample = engine.sample(encoded, blocked.common)
    finally:
        encoded.blobs.unpersist()
    drawn = estimate.random_patterns(model, sample, blobs.ID)
    u = estimate.chance(model, drawn, blocked.frequent, records=encoded.rows)
    return estimate.fit(model, counted, u)
