"""The `index` job: records recognised as persons, and persons kept over time.

A run writes, in this order: the standardised records, counts per pattern and candidate pairs (in
the vault), links, events, the crosswalk, quality. The first four are made anew by every run. The
events decide: once they are written, the crosswalk follows them, by this run or, if it is killed
in between, by the next one, whatever that one is about. Before that, a run that is repeated finds
the same persons and mints the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements.mou import Mou
from concord.contracts.model import Contract
from concord.errors import InfrastructureError
from concord.lake.registry import DELIVERIES, RUNS
from concord.lake.run import Run
from concord.lake.tables import Lake, ReplaceWhere, described, isin
from concord.linkage import blocking, history, identity, inputs, report, tables
from concord.linkage.blocking import Matching, Refused
from concord.linkage.clusters import Clusters, clusters
from concord.linkage.history import Present
from concord.linkage.identity import Event
from concord.linkage.index import Index
from concord.linkage.inputs import Input
from concord.linkage.model import PersonIndex
from concord.linkage.standardise import ORIGIN, STANDARD, Standards, standardise
from concord.privacy.keys import KeySource, mint_key
from concord.privacy.records import person_id

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
        written = here.remake(_records(here), tables.RECORDS)
        keyed = lake.read(tables.RECORDS, version=written.version)
        progress.step("records standardised")
        refused = blocking.refused(keyed, here.model.pair_budget)
        compared, links = _links(here, keyed, refused)
        progress.step("pairs compared and weighed")
        origin = keyed.select(*ORIGIN).distinct().orderBy("record_id").toArrow()
        grouped = _clusters(here, origin, links)
        events = _events(here, origin, grouped, present)
        progress.step("persons decided on")
        history.record(here, present, events)
        progress.step("crosswalk written")
        measures = report.measures(here.model, origin, compared, links, refused, grouped)
        told = history.told(here)
        rows = report.rows(run.run_id, run.as_of, here.model, [*measures, *report.changes(told)])
        frame = lake.spark.createDataFrame(rows, tables.QUALITY.schema).coalesce(1)
        here.remake(frame, tables.QUALITY, ReplaceWhere(isin("run_id", (run.run_id,))))
        progress.step("quality told")
    run.tally.rows_in, run.tally.rows_out = origin.num_rows, grouped.number
    return Outcome(
        done=True,
        records=origin.num_rows,
        persons=grouped.number,
        links=links.num_rows,
        refused_pairs=sum(refused.pairs.values()),
        events=tuple(sorted(told.items())),
    )


def _records(here: Index) -> DataFrame:
    """The feeds' records in comparable form, with blocking keys."""
    arranged = standardised(inputs.read(here.lake, here.found), here.model.standards, _shares(here))
    return blocking.with_keys(arranged, here.rules)


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


def _links(here: Index, keyed: DataFrame, refused: Refused) -> tuple[pa.Table, pa.Table]:
    """Writes pairs and links. Returns counts (rule, pattern, pairs), and links as written."""
    model = here.model
    matching = Matching(
        rules=len(here.rules),
        shares=_shares(here),
        refused=refused,
        near=model.nearness,
        weights=model.weights,
        keep_weight=model.keep_weight,
    )
    # Found once, for three tables and what follows.
    found = blocking.candidates(keyed, matching).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        names = F.array(*[F.lit(rule.name) for rule in here.rules])
        counts = (
            found.where("left_record_id IS NULL")
            .groupBy("rule", "pattern")
            .agg(F.sum("pairs").alias("pairs"))
            .withColumn("rule", names[F.col("rule")])
            .orderBy("rule", "pattern")
        )
        pairs = blocking.best(found).withColumn("rule", names[F.col("rule")])
        links = pairs.where(F.col("weight") >= model.link_weight).select(
            "left_record_id",
            "right_record_id",
            "weight",
            F.expr(f"1 / (1 + pow(2D, -(weight + {model.prior_bits}D)))").alias("probability"),
            "rule",
            F.lit(model.model_version).alias("model_version"),
        )
        writes = (
            (counts.coalesce(1), tables.PATTERNS),
            (pairs, tables.PAIRS),
            (links, tables.LINKS),
        )
        # The first query finds them all.
        compared = counts.toArrow()
        with ThreadPoolExecutor(max_workers=len(writes)) as pool:
            done = [pool.submit(here.aside().remake, *write) for write in writes]
            weighed = links.orderBy("left_record_id", "right_record_id").toArrow()
            for future in done:
                future.result()
        return compared, weighed
    finally:
        found.unpersist()


def _clusters(here: Index, origin: pa.Table, links: pa.Table) -> Clusters:
    ids = origin["record_id"].combine_chunks()
    left, right = (
        pc.index_in(links[side], value_set=ids).to_numpy().astype("int64")
        for side in ("left_record_id", "right_record_id")
    )
    return clusters(
        len(ids),
        left,
        right,
        links["weight"].to_numpy(),
        threshold=here.model.cluster_weight,
        limit=here.model.component_limit,
    )


def _events(here: Index, origin: pa.Table, grouped: Clusters, present: Present) -> list[Event]:
    members: dict[int, list[str]] = {}
    for record, cluster in zip(origin["record_id"].to_pylist(), grouped.of.tolist(), strict=True):
        members.setdefault(cluster, []).append(record)
    key = mint_key(here.run.settings.keys, create=True)
    return identity.decide(
        {record: row.person_id for record, row in present.open.items()},
        members.values(),
        minted=present.minted,
        mint=minting(key, here.run.run_id, set(present.minted)),
    )


def minting(key: KeySource, run_id: str, taken: set[str]) -> Callable[[str], str]:
    """A function from a founding record to a person id that no run has minted."""

    def mint(founder: str) -> str:
        attempt = 0
        while (
            person := person_id(key, run_id=run_id, record_id=founder, attempt=attempt)
        ) in taken:
            attempt += 1
        taken.add(person)
        return person

    return mint
