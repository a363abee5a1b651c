"""The `index` job: records recognised as persons, and persons kept over time.

A run writes, in this order: the placeholders that it found, the standardised records, counts per
pattern and candidate pairs (in the vault), links, events, the crosswalk, quality. The first five
are made anew by every run. The events decide: once they are written, the crosswalk follows them, by
this run or, if it is killed in between, by the next one, whatever that one is about. Before that, a
run that is repeated finds the same persons and mints the same ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from concord.errors import InfrastructureError, QualityError, UsageError
from concord.lake.registry import DELIVERIES, RUNS
from concord.lake.run import Run
from concord.lake.tables import Lake, ReplaceWhere, described, isin
from concord.linkage import (
    blobs,
    decisions,
    engine,
    estimate,
    groups,
    history,
    identity,
    inputs,
    link_weights,
    pairs,
    placeholders,
    quality_page,
    report,
    review,
    tables,
)
from concord.linkage.clusters import Clusters, clusters
from concord.linkage.decisions import Decision
from concord.linkage.estimate import Fit
from concord.linkage.history import Present
from concord.linkage.index import Index
from concord.linkage.inputs import Input
from concord.linkage.model import PersonIndex
from concord.linkage.report import Compared, Measure
from concord.linkage.standardise import ORIGIN, STANDARD, Standards, standardise
from concord.privacy.keys import mint_key

STANDARDISED = ", ".join(
    f"{column.name} {column.type}"
    for column in tables.RECORDS.columns
    if column.name in {*ORIGIN, "variant", *STANDARD}
)


@dataclass(frozen=True)
class Outcome:
    """What a run found. `events`: kind -> how many. `done` is False when nothing was to do.

    `moved`: feed -> how many of its records change from one person to another. `examples`: some of
    the events, in words, of a dry run.
    """

    done: bool
    records: int = 0
    persons: int = 0
    links: int = 0
    refused_pairs: int = 0
    events: tuple[tuple[str, int], ...] = ()
    moved: tuple[tuple[str, int], ...] = ()
    examples: tuple[str, ...] = ()

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
    rescore: bool = False,
    accept_churn: bool = False,
) -> Outcome:
    """Recognises persons in all records that the ledger says are loaded.

    Nothing to do when a finished run of the same input versions and configuration made the index
    as it stands. `rescore`: the last run's records and pairs, weighed by the model as it is now. A
    dry run does it all and writes nothing.

    Raises RefusedError (14) before anything is read if a feed may not be matched, LockedError
    (13), UsageError (2) for an `as_of` before the last change's, QualityError (12) for rules that
    make too many pairs, for a measure beyond the model's limits, and for more churn than it allows
    unless that is accepted: the crosswalk stays as it was. InfrastructureError (20).
    """
    wanted = inputs.matched(contracts, model.leave_out)
    permitted = inputs.permission(wanted, mous, run.clock().date())
    try:
        read = input_versions(run.lake, contracts, model)
        run.tally.read.update(_last_run(run.lake) if rescore else _versions(read))
        run.tally.read.update(decided(run.lake))
        if not read or not rescore and _stands(run, config_digest):
            return Outcome(done=False)
        here = Index(run, model, permitted, read)
        if run.dry_run:
            return _index(here, rescore=rescore, accept_churn=True)
        with run.lake.locks.hold([table.name for table in tables.TABLES]):
            return _index(here, rescore=rescore, accept_churn=accept_churn)
    except (PySparkException, Py4JError) as error:
        # What Spark says of a failed task can quote rows.
        raise InfrastructureError(
            f"index: Spark failed: {described(error)}. If it speaks of space or permissions, mend "
            f"{run.settings.lake} or Spark's local folders; then run this again"
        ) from None


def _versions(read: Iterable[Input]) -> dict[str, int]:
    return {one.table.name: one.version for one in read}


def _last_run(lake: Lake) -> dict[str, int]:
    """What the last run left to be weighed anew, by the tables' names."""
    left = {
        each.name: lake.newest(each) for each in (tables.RECORDS, tables.PATTERNS, tables.PAIRS)
    }
    return {name: newest.version for name, newest in left.items() if newest}


def _stands(run: Run, config_digest: str) -> bool:
    """Whether the index is as a finished run of the same inputs and configuration left it."""
    newest = run.lake.newest(tables.RECORDS)
    if newest is None:
        return False
    found = run.lake.newest(tables.PLACEHOLDERS)
    left = {tables.RECORDS.name: newest.version}
    left |= {tables.PLACEHOLDERS.name: found.version} if found else {}
    ended = run.lake.read(RUNS).where("job = 'index' AND state = 'ended' AND exit_code = 0")
    for row in ended.where(F.col("run_id") == newest.run_id).collect():
        written = {w["table"]: w["version"] for w in row["written_versions"] or ()}
        read = {r["table"]: r["version"] for r in row["read_versions"] or ()}
        # Else a run that was killed has written them again since.
        if left.items() <= written.items():
            return read == run.tally.read and row["config_digest"] == config_digest
    return False


def _index(here: Index, *, rescore: bool, accept_churn: bool) -> Outcome:
    run, lake = here.run, here.lake
    with run.reporter.stage("index", 5) as progress:
        present = history.catch_up(here)
        taken = decisions.in_force(_decisions(here))
        records, told = _kept(lake) if rescore else _records(here)
        progress.step("records standardised")
        compared = pairs.rescored(here) if rescore else pairs.compared(here, records)
        progress.step("pairs compared and weighed")
        origin = groups.facts(records).orderBy("record_id").toArrow()
        grouped = _clusters(here, origin, compared.pairs, taken)
        events = _events(here, origin, grouped, present, taken)
        moved = identity.churn(events)
        if not accept_churn:
            _check_churn(here.model, moved, present)
        before = len(pc.unique(present.open["person_id"]))
        counted: Mapping[str, int] = Counter(events["kind"].to_pylist())
        found = [*_measures(here, origin, compared, grouped), *report.placeholders(told)]
        _check_limits(here.model, [*found, *report.changes(counted, before=before)])
        progress.step("persons decided on")
        if not run.dry_run:
            after = history.record(here, present, events)
            progress.step("crosswalk written")
            queue = _waiting(here, records, compared, origin, after, taken)
            here.remake(queue, tables.REVIEW_QUEUE)
            weights = link_weights.link_weights(origin, grouped.of, as_of=run.as_of)
            here.remake(lake.spark.createDataFrame(weights).coalesce(1), tables.LINK_WEIGHTS)
            counted = history.told(here)
            rows = [*found, *report.changes(counted, before=before)]
            measured = report.rows(run.run_id, run.as_of, here.model, rows)
            frame = lake.spark.createDataFrame(measured, tables.QUALITY.schema).coalesce(1)
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
        events=tuple(sorted(counted.items())),
        moved=_by_feed(moved, origin),
        examples=tuple(identity.in_words(events)) if run.dry_run else (),
    )


def _measures(
    here: Index, origin: pa.Table, compared: Compared, grouped: Clusters
) -> list[Measure]:
    model = here.model
    return [
        *report.measures(model, origin, compared, grouped),
        *report.hold_out(model, origin, compared, as_of=here.run.as_of),
        *report.unlinkable(model, origin),
    ]


def _check_limits(model: PersonIndex, found: Sequence[Measure]) -> None:
    told = report.breaches(found, model.limits)
    if told:
        raise QualityError(
            f"{'; '.join(told)}. The crosswalk stays as it was; see limits in "
            "conf/person_index.yaml and `concord index --report`"
        )


def _check_churn(model: PersonIndex, moved: pa.Array, present: Present) -> None:
    there = present.open.num_rows
    if there and len(moved) > model.churn_limit * there:
        raise QualityError(
            f"{len(moved):,} of {there:,} records would change from one person to another, more "
            f"than churn_limit {model.churn_limit:g} of conf/person_index.yaml; the crosswalk "
            "stays as it was. Look at `concord index --dry-run`; `--accept-churn` lets it through"
        )


def _by_feed(moved: pa.Array, origin: pa.Table) -> tuple[tuple[str, int], ...]:
    """Feed -> how many of the records are its."""
    place = pc.index_in(moved, value_set=origin["record_id"].combine_chunks()).drop_null()
    feeds = origin["feed"].combine_chunks().take(place)
    return tuple(sorted(Counter(feeds.to_pylist()).items()))


def _decisions(here: Index) -> list[Decision]:
    """What stewards ever decided, as of the version that the run noted."""
    version = here.run.tally.read.get(tables.STEWARD_DECISIONS.name)
    if version is None:
        return []
    rows = here.lake.read(tables.STEWARD_DECISIONS, version=version).toArrow()
    return decisions.of_rows(rows)


def _records(here: Index) -> tuple[DataFrame, pa.Table]:
    """The feeds' records in comparable form, as written; of a dry run, as they would be. And the
    placeholders that were found in them."""
    rows, spark = inputs.read(here.lake, here.found), here.lake.spark
    with searched(rows, here.model, _shares(here)) as (found, told):
        if here.run.dry_run:
            return found, told
        here.remake(spark.createDataFrame(told).coalesce(1), tables.PLACEHOLDERS)
        written = here.remake(found, tables.RECORDS)
    return here.lake.read(tables.RECORDS, version=written.version), told


def _kept(lake: Lake) -> tuple[DataFrame, pa.Table]:
    """The last run's records, and the placeholders that it found."""
    return lake.read(tables.RECORDS), lake.read(tables.PLACEHOLDERS).toArrow()


@contextmanager
def searched(
    rows: DataFrame, model: PersonIndex, partitions: int
) -> Iterator[tuple[DataFrame, pa.Table]]:
    """`standardised` rows in which placeholders were looked for and found ones are NULL, persisted
    within the context; and what was found."""
    first = standardised(rows, model.standards, partitions)
    held = [first.persist(StorageLevel.MEMORY_AND_DISK)]
    try:
        told = placeholders.search(first, model.placeholders.search)
        if told.num_rows:
            standards = placeholders.added(model.standards, told)
            held.append(standardised(rows, standards, partitions).persist())
        yield held[-1], told
    finally:
        for frame in held:
            frame.unpersist()


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


def _waiting(
    here: Index,
    records: DataFrame,
    compared: Compared,
    origin: pa.Table,
    after: Present,
    taken: Sequence[Decision],
) -> DataFrame:
    """The review queue of the persons as they are now."""
    spark, run = here.lake.spark, here.run
    ids = after.open["record_id"].combine_chunks()
    place = pc.index_in(ids, value_set=origin["record_id"].combine_chunks())
    people = pa.table(
        {
            "record_id": ids,
            "person_id": after.open["person_id"],
            "feed": origin["feed"].combine_chunks().take(place),
        }
    )
    # What a conflict can be about: the driver sees no others' values.
    persons = records.join(spark.createDataFrame(people.drop_columns(["feed"])), "record_id")
    several = F.greatest(*[F.size(F.collect_set(name)) for name in ("ssn", "birth", "suffix")])
    torn = persons.groupBy("person_id").agg(several.alias("n")).where("n > 1")
    concerned = persons.join(torn, "person_id", "left_semi").select("record_id", *STANDARD)
    found = review.queue(
        compared.pairs,
        people,
        concerned.toArrow(),
        model=here.model,
        review=here.model.review,
        decided=[decision.pair for decision in taken],
        run_id=run.run_id,
        as_of=run.as_of,
    )
    rows = found.select(tables.REVIEW_QUEUE.column_names)
    return spark.createDataFrame(rows.to_pylist(), tables.REVIEW_QUEUE.schema).coalesce(1)


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


def quality_report(lake: Lake, model: PersonIndex) -> str:
    """The page of all runs' measures, as HTML. Raises UsageError (2) where there was no run."""
    rows = lake.read(tables.QUALITY).orderBy("as_of", "run_id", "measure", "group").toArrow()
    if not rows.num_rows:
        raise UsageError("--report needs measures: run concord index first")
    return quality_page.page(rows.to_pylist(), model=model, limits=model.limits)
