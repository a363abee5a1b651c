"""The `index` job: records recognised as persons, and persons kept over time.

A run writes the placeholders that it found, the standardised records and candidate pairs (in the
vault); then, side by side and while it makes persons, keys, counts per pattern and links; and when
all these stand: events, the crosswalk, the review queue, link weights, quality. The events decide:
once they are written, the crosswalk follows them, by this run or, if it is killed in between, by
the next one, whatever that one is about. Before that, a run that is repeated finds the same persons
and mints the same ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import InfrastructureError, QualityError, UsageError
from concord.lake.registry import DELIVERIES
from concord.lake.run import Run
from concord.lake.tables import Lake, described
from concord.lake.workers import Made
from concord.lake.writes import Append, ReplaceWhere
from concord.linkage import (
    blobs,
    decisions,
    engine,
    estimate,
    files,
    groups,
    history,
    identity,
    increments,
    inputs,
    link_weights,
    pairs,
    placeholders,
    quality_page,
    report,
    review,
    spread,
    tables,
)
from concord.linkage.arrays import places
from concord.linkage.clusters import Clusters, clusters
from concord.linkage.decisions import Decision
from concord.linkage.estimate import Fit, Labels
from concord.linkage.history import Present
from concord.linkage.increments import Extension
from concord.linkage.index import Index
from concord.linkage.inputs import Input
from concord.linkage.person_index import PersonIndex
from concord.linkage.records import forms, numbers, plain, standardised
from concord.linkage.report import Compared, Measure
from concord.linkage.standardise import STANDARD
from concord.privacy.keys import mint_key

# How many things are done beside what keeps one core busy: the driver's arrays, a table of Spark's.
ASIDE = 2


@dataclass(frozen=True)
class How:
    """What a run is asked for besides. `rescore`: the last run's records and pairs, weighed by the
    model as it is now; `whole`: all made anew; `accept_churn`: whatever the model's churn_limit."""

    rescore: bool = False
    whole: bool = False
    accept_churn: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run found. `events`: kind -> how many. `done` is False when nothing was to do.

    `changed`: how many records had their pairs made anew, None if all. `moved`: feed -> how many of
    its records change from one person to another. `examples`: some of the events, in words, of a
    dry run.
    """

    done: bool
    records: int = 0
    persons: int = 0
    links: int = 0
    refused_pairs: int = 0
    changed: int | None = None
    events: tuple[tuple[str, int], ...] = ()
    moved: tuple[tuple[str, int], ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        if not self.done:
            return "nothing to do"
        changes = ", ".join(f"{count:,} {kind}" for kind, count in self.events)
        anew = "" if self.changed is None else f" ({self.changed:,} compared anew)"
        told = f"{self.records:,} records{anew}, {self.persons:,} persons"
        return f"{told}; {changes or 'no person changed'}"


def input_versions(
    lake: Lake, contracts: Mapping[str, Contract], model: PersonIndex
) -> tuple[Input, ...]:
    """What a run would read now, by the ledger of deliveries."""
    loaded = [row for row in lake.rows(DELIVERIES) if row["status"] == "loaded"]
    return tuple(inputs.inputs(inputs.matched(contracts, model.leave_out), loaded))


def decided(lake: Lake) -> dict[str, int]:
    """The version of the stewards' decisions that a run would read, by the table's name."""
    newest = lake.newest(tables.STEWARD_DECISIONS)
    return {tables.STEWARD_DECISIONS.name: newest.version} if newest else {}


def index(
    run: Run,
    contracts: Mapping[str, Contract],
    register: Register,
    model: PersonIndex,
    *,
    config_digest: str,
    how: How = How(),
) -> Outcome:
    """Recognises persons in all records that the ledger says are loaded.

    Nothing to do when a finished run of the same input versions and configuration made the index
    as it stands. What that run made of records that did not change is kept, as long as the
    configuration did not change and no more records did than `increment_limit` says; with the same
    result as if all were made anew. A dry run does it all and writes nothing.

    Raises RefusedError (14) before anything is read if a feed may not be matched, LockedError
    (13), UsageError (2) for an `as_of` before the last change's, QualityError (12) for rules that
    make too many pairs, for a measure beyond the model's limits, and for more churn than it allows
    unless that is accepted: the crosswalk stays as it was. InfrastructureError (20).
    """
    wanted = inputs.matched(contracts, model.leave_out)
    access_log.ask_to_hold(run, register, inputs.holdings(wanted))
    permitted = inputs.permission(wanted, register, run.clock().date())
    try:
        read = input_versions(run.lake, contracts, model)
        run.tally.read.update(_last_run(run.lake) if how.rescore else _versions(read))
        run.tally.read.update(decided(run.lake))
        plain = not how.rescore and not how.whole
        if not read or plain and _stands(run, config_digest):
            return Outcome(done=False)
        here = Index(run, model, permitted, read)
        if run.dry_run:
            return _index(here, replace(how, accept_churn=True), config_digest)
        with run.lake.locks.hold([table.name for table in tables.TABLES]):
            return _index(here, how, config_digest)
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
    for ended in increments.finished(run.lake, newest.run_id):
        # Else a run that was killed has written the records again since.
        if ended.written.get(tables.RECORDS.name) == newest.version:
            return ended.read == run.tally.read and ended.digest == config_digest
    return False


def _index(here: Index, how: How, digest: str) -> Outcome:
    run = here.run
    with run.reporter.stage("index", 4) as progress, ThreadPoolExecutor(ASIDE) as aside:
        # Wanted late, and made beside what keeps one core busy, as all that is set aside.
        told = aside.submit(inputs.demographics, here.found, here.feeds)
        present = history.catch_up(here)
        decided = _decisions(here)
        taken = decisions.in_force(decided)
        extension = _compared(here, how, digest)
        origin, compared = extension.origin, extension.compared
        writing = [aside.submit(here.aside().remake, *each) for each in compared.writes]
        progress.step("pairs compared and weighed")
        again = _again(origin, extension, decided)
        ids = origin["record_id"].combine_chunks()
        known = origin["number"].to_numpy()
        before, gone = identity.aligned(known, present.open)
        grouped = _clusters(here, origin, compared.pairs, taken, before, again)
        events = _events(here, ids, grouped, before, gone, present, taken)
        moved = identity.churn(events)
        for each in writing:  # What could not be written is told before what must not be.
            each.result()
        if not how.accept_churn:
            _check_churn(here.model, moved, present)
        measured = aside.submit(lambda: _measures(here, origin, compared, grouped, told.result()))
        persons = _persons_before(here, len(before.dictionary))
        counted: Mapping[str, int] = Counter(events["kind"].to_pylist())
        if not run.dry_run:
            weights = aside.submit(link_weights.link_weights, origin, grouped.of, as_of=run.as_of)
            said = identity.moves(events)
            at = places(known, numbers(said["record_id"]))
            after = said["person_id"].filter(pa.array(at >= 0)).combine_chunks()
            persons_now = identity.followed(before, at[at >= 0], after)
            queue = _waiting(here, extension, persons_now, taken)
        found = [*measured.result(), *report.placeholders(extension.placeholders)]
        _check_limits(here.model, [*found, *report.changes(counted, before=persons)])
        progress.step("persons decided on")
        if not run.dry_run:
            history.record(here, present, events)
            progress.step("crosswalk written")
            here.remake(queue, tables.REVIEW_QUEUE)
            here.remake(weights.result(), tables.LINK_WEIGHTS)
            counted = history.told(here)
            found += report.changes(counted, before=persons)
            _tell(here, found)
            progress.step("quality told")
    run.tally.rows_in, run.tally.rows_out = origin.num_rows, grouped.number
    linked = int((compared.pairs["weight"].to_numpy() >= here.model.link_weight).sum())
    return Outcome(
        done=True,
        records=origin.num_rows,
        persons=grouped.number,
        links=linked,
        refused_pairs=sum(compared.refused.pairs.values()),
        changed=extension.changed,
        events=tuple(sorted(counted.items())),
        moved=_by_feed(moved, origin),
        examples=tuple(identity.in_words(events)) if run.dry_run else (),
    )


def _compared(here: Index, how: How, digest: str) -> Extension:
    """All records and their pairs: the last run's weighed anew, or with what changed since, or all
    made anew."""
    lake, limit = here.lake, here.model.increment_limit
    if how.rescore:
        records, told = lake.read(tables.RECORDS), lake.read(tables.PLACEHOLDERS).toArrow()
        origin = groups.facts(records)
        return Extension(records, origin, pairs.rescored(here, origin), told)
    since = None if how.whole else increments.base(lake, digest)
    change = increments.delivered(here, since, limit) if since else None
    if since and change:
        return increments.extended(here, since, change)
    records, origin, told = _records(here)
    return Extension(records, origin, pairs.compared(here, records, origin), told)


def _again(
    origin: pa.Table, extension: Extension, decided: Iterable[Decision]
) -> np.ndarray | None:
    """Which records' clusters must be found again; None: all."""
    if extension.touched is None:
        return None
    ruled = {record for decision in decided for record in decision.pair}
    some = pa.concat_arrays([extension.touched, pa.array(sorted(ruled), pa.string())])
    at = places(origin["number"].to_numpy(), numbers(some))
    found = np.zeros(origin.num_rows, dtype=bool)
    found[at[at >= 0]] = True
    return found


def _measures(
    here: Index,
    origin: pa.Table,
    compared: Compared,
    grouped: Clusters,
    demographics: pa.Table | None,
) -> list[Measure]:
    model, as_of = here.model, here.run.as_of
    return [
        *report.measures(model, origin, compared, grouped),
        *report.hold_out(model, origin, compared, as_of=as_of, more=demographics),
        *report.unlinkable(model, origin),
    ]


def _tell(here: Index, found: Sequence[Measure]) -> None:
    """Writes the run's measures, in place of what an earlier try of it told."""
    run, kept = here.run, here.lake.rows(tables.QUALITY, "run_id")
    again = any(row["run_id"] == run.run_id for row in kept)
    told = report.rows(run.run_id, run.as_of, here.model, found)
    rows = pa.Table.from_pylist(told, tables.QUALITY.arrow_schema)
    mine = ReplaceWhere({"run_id": (run.run_id,)})
    here.remake(rows, tables.QUALITY, mine if again else Append())


def _check_limits(model: PersonIndex, found: Sequence[Measure]) -> None:
    told = report.breaches(found, model.limits)
    if told:
        raise QualityError(
            f"{'; '.join(told)}. The crosswalk stays as it was; see limits in "
            "conf/person_index.yaml and `concord index --report`"
        )


def _persons_before(here: Index, now: int) -> int:
    """How many persons there were before the run, whatever an earlier attempt of it has written."""
    newest = here.lake.newest(tables.EVENTS)
    if newest is None or newest.run_id != here.run.run_id:
        return now
    told = history.told(here)
    return now - told.get("minted", 0) + told.get("merged_into", 0) + told.get("retired", 0)


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
    place = places(origin["number"].to_numpy(), numbers(moved))
    feeds = origin["feed"].combine_chunks().take(pa.array(place[place >= 0]))
    return tuple(sorted(Counter(feeds.to_pylist()).items()))


def _decisions(here: Index) -> list[Decision]:
    """What stewards ever decided, as of the version that the run noted."""
    version = here.run.tally.read.get(tables.STEWARD_DECISIONS.name)
    if version is None:
        return []
    rows = here.lake.read(tables.STEWARD_DECISIONS, version=version).toArrow()
    return decisions.of_rows(rows)


def _records(here: Index) -> tuple[DataFrame, pa.Table, pa.Table]:
    """The feeds' records in comparable form, as written; of a dry run, as they would be. Their
    facts, and the placeholders that were found in them."""
    with searched([*here.feeds.items()], here.model, here.shares) as (found, told):
        if not here.run.dry_run:
            here.remake(told, tables.PLACEHOLDERS)
        return *increments.standing(here, found), told


@contextmanager
def searched(
    feeds: Sequence[tuple[str, DataFrame]], model: PersonIndex, partitions: int
) -> Iterator[tuple[Made, pa.Table]]:
    """Feeds' identifiers -> rows of vault/linkage_records in which placeholders were looked for and
    found ones are NULL, made anew each time they are read; and what was found."""
    made = forms(feeds, model.standards, partitions).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        told = placeholders.search(made, model.placeholders.search, partitions)
        yield standardised(made, told), told
    finally:
        made.unpersist()


def _clusters(
    here: Index,
    origin: pa.Table,
    pairs: pa.Table,
    taken: Sequence[Decision],
    before: pa.DictionaryArray,
    again: np.ndarray | None,
) -> Clusters:
    """`before`: the persons of now; `again`: as `_again` says."""
    ids = origin["record_id"].combine_chunks()
    known = None
    if again is not None:
        known = before.indices.fill_null(-1).to_numpy().astype("int64")
    bound = decisions.constraints(ids, taken)
    prior = here.model.prior_bits
    return clusters(
        len(ids),
        pairs["left"].to_numpy(),
        pairs["right"].to_numpy(),
        pairs["weight"].to_numpy() + prior,
        threshold=here.model.cluster_weight + prior,
        absent=here.model.absent_weight + prior,
        limit=here.model.component_limit,
        must=bound.must,
        cannot=bound.cannot,
        known=known,
        touched=again,
        alone=inputs.sources(here.found, origin),
    )


def _events(
    here: Index,
    ids: pa.Array,
    grouped: Clusters,
    before: pa.DictionaryArray,
    gone: pa.Table,
    present: Present,
    taken: Sequence[Decision],
) -> pa.Table:
    """What changes of persons. Of components that were not looked at nothing does: they have whole
    persons, and a person that lost a record has a component that was."""
    of = grouped.of
    if grouped.again is not None:
        some = pa.array(grouped.again)
        ids, before, of = ids.filter(some), before.filter(some), of[grouped.again]
    mint = partial(
        identity.mint_ids,
        key=mint_key(here.run.settings.keys, create=True),
        run_id=here.run.run_id,
        taken=present.minted["person_id"].combine_chunks(),
    )
    return identity.decide_arrays(
        ids, of, before, gone, minted=present.minted, mint=mint, decisions=taken
    )


def _waiting(
    here: Index, extension: Extension, persons: pa.DictionaryArray, taken: Sequence[Decision]
) -> pa.Table:
    """The review queue of the persons as they are now, each record's."""
    run, origin = here.run, extension.origin
    ids = origin["record_id"].combine_chunks()
    people = pa.table(
        {
            "record_id": ids,
            "person_id": persons,
            "feed": origin["feed"],
            "alone": inputs.sources(here.found, origin),
        }
    )
    # What a conflict can be about: the driver sees no others' values.
    number = persons.indices.to_numpy().astype("int64")
    torn = ids.filter(pa.array(groups.torn(origin, number)))

    def concerned(rows: pa.Table) -> pa.Table:
        some = rows.filter(pc.is_in(rows["record_id"], value_set=torn))
        return pa.table({name: plain(some[name]) for name in some.column_names})

    told = files.collected(extension.records, [*STANDARD], concerned, plain=("record_id",))
    found = review.queue(
        extension.compared.pairs,
        people,
        told,
        model=here.model,
        review=here.model.review,
        decided=[decision.pair for decision in taken],
        run_id=run.run_id,
        as_of=run.as_of,
    )
    return found.select(tables.REVIEW_QUEUE.column_names)


def estimated(lake: Lake, model: PersonIndex) -> Fit:
    """The model with m and u as the last run's records and pairs tell them. Writes nothing.

    Raises UsageError (exit 2) where there was no run, QualityError (12) for pairs that cannot
    teach it.
    """
    if not lake.exists(tables.PATTERNS):
        raise UsageError("--estimate needs pairs: run concord index first")
    counts = lake.read(tables.PATTERNS).groupBy("pattern").agg(F.sum("pairs").alias("pairs"))
    counted = {row["pattern"]: row["pairs"] for row in counts.collect()}
    encoded = engine.encode(lake.read(tables.RECORDS), model, id="record_id", sampled=True)
    try:
        blocked = engine.block(lake.spark, encoded, model)
        sample = engine.sample(encoded, blocked.common)
    finally:
        spread.release(encoded.blobs)
    drawn = estimate.random_patterns(model, sample, blobs.ID)
    u = estimate.chance(model, drawn, blocked.frequent, records=encoded.rows)
    return estimate.fit(
        model, counted, u, labels=labels(lake, weight=model.label_weight), drawn=drawn
    )


def estimated_from(lake: Lake) -> dict[str, int]:
    """The versions of what `estimated` reads, by the tables' names."""
    return {**_last_run(lake), **decided(lake)}


def measured(lake: Lake, run_id: str | None = None) -> list[dict[str, Any]]:
    """A run's measures, rows of index/quality; of the last one that has any by default."""
    if not lake.exists(tables.QUALITY):
        return []
    rows = lake.read(tables.QUALITY)
    if run_id is None:
        newest = lake.newest(tables.QUALITY)
        run_id = newest.run_id if newest else ""
    of_run = rows.where(F.col("run_id") == run_id).orderBy("measure", "group")
    return [row.asDict() for row in of_run.collect()]


def labels(lake: Lake, *, weight: float) -> Labels:
    """What stewards' decisions in force teach: the patterns of the pairs decided on.

    A pair that the last run did not keep has no pattern, and teaches nothing.
    """
    found: dict[str, Counter[int]] = {verdict: Counter() for verdict in decisions.VERDICTS}
    if weight and lake.exists(tables.STEWARD_DECISIONS):
        every = decisions.of_rows(lake.read(tables.STEWARD_DECISIONS).toArrow())
        said = [(*d.pair, d.verdict) for d in decisions.in_force(every)]
        columns = "left_record_id string, right_record_id string, verdict string"
        frame = F.broadcast(lake.spark.createDataFrame(said, columns))
        pairs = lake.read(tables.PAIRS).join(frame, ["left_record_id", "right_record_id"])
        for row in pairs.groupBy("verdict", "pattern").count().collect():
            found[row["verdict"]][row["pattern"]] += row["count"]
    return Labels(found["must_link"], found["cannot_link"], weight)


def quality_report(lake: Lake, model: PersonIndex) -> str:
    """The page of all runs' measures, as HTML. Raises UsageError (2) where there was no run."""
    rows = lake.read(tables.QUALITY).orderBy("as_of", "run_id", "measure", "group").toArrow()
    if not rows.num_rows:
        raise UsageError("--report needs measures: run concord index first")
    return quality_page.page(rows.to_pylist(), model=model, limits=model.limits)
