"""One table of a study: from the curated rows at a recorded version to one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.lake import run as runs
from concord.lake import session
from concord.lake.driver import FEW
from concord.lake.points import reach
from concord.lake.run import Run
from concord.lake.tables import Lake
from concord.lake.writes import Overwrite, Transaction
from concord.privacy.wrapping import WrappedKey, key_check
from concord.studies import frames, sources, tables
from concord.studies.sources import CROSSWALK, Crosswalk, FeedSources
from concord.studies.tables import StudyTable

# Below this many delivered rows a table's queries are interpreted: to compile them costs more. At
# the demo's size (17,000 to 250,000 rows a table) it took a quarter less processor time.
COMPILE_FROM_ROWS = 500_000


@dataclass(frozen=True)
class Made:
    """One table as this run wrote it. `unlinked` counts records that the index knows no person
    for: each is kept, as a person of its own."""

    table: str
    version: int
    rows: int
    unlinked: int


@dataclass(frozen=True)
class Study:
    """One agreement's study being made."""

    run: Run
    request: Request
    decision: Decision
    tables: tuple[StudyTable, ...]
    feeds: Mapping[str, FeedSources]
    index: Crosswalk | None
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return self.run.lake

    @property
    def dula(self) -> Dula:
        """The terms that decided."""
        return self.decision.terms

    @property
    def sources(self) -> dict[str, int]:
        """Version of each table that the study is made from."""
        found = {CROSSWALK: self.index.version} if self.index else {}
        for table in self.tables:
            versions = self.feeds[table.contract.feed].versions
            if table.curated.name in versions:
                found[table.curated.name] = versions[table.curated.name]
        return found

    def delivered(self, table: StudyTable) -> int:
        """How many rows have been delivered of the table's source: a measure of the work."""
        return self.feeds[table.contract.feed].rows.get(table.source.name, 0)

    @property
    def stale(self) -> list[StudyTable]:
        """The tables that are not made from today's inputs."""
        found = []
        for table in self.tables:
            said = self.lake.made_from(table.table) or {}
            if said.get("inputs") != self.inputs[table.table.name]:
                found.append(table)
        return found

    def of(self, table: str) -> StudyTable:
        return next(each for each in self.tables if each.dataset.table == table)


def inputs(study: Study, key: WrappedKey) -> dict[str, str]:
    """By table, a digest of all that its rows follow from."""
    found = {}
    for table in study.tables:
        feed = study.feeds[table.contract.feed]
        people = _people_table(study, table)
        index = study.index if table.people else None
        found[table.table.name] = runs.digest(
            table.holding,
            study.decision.policy_digest,
            study.decision.expires,
            feed.versions.get(table.curated.name),
            feed.arrivals if table.curated.name in feed.versions else (),
            people and study.feeds[people.contract.feed].versions.get(people.curated.name),
            people and people.holding,
            index and (index.version, index.day),
            key_check(key),
        )
    return found


def write(study: Study, table: StudyTable, key: WrappedKey) -> Made:
    """One table, whole, in one commit. Runs in a thread of its own, in a session of its own."""
    spark = session.sibling(study.lake.spark)
    session.interpret(spark, study.delivered(table) < COMPILE_FROM_ROWS)
    lake = study.lake.with_session(spark)
    rows = _agreed(study, table, lake)
    if rows is None:
        # Nothing of it has been delivered yet: the recipient finds an empty table.
        content, counts = lake.spark.createDataFrame([], table.table.schema), None
    else:
        rows, linked = _with_people(study, table, lake, rows)
        counts = Observation()
        measures = [frames.without_person(record, person) for record, person in linked]
        total = sum(measures[1:], measures[0]) if measures else F.lit(0)
        rows = frames.arrived(rows, study.feeds[table.contract.feed].arrivals)
        rows = rows.observe(counts, F.count(F.lit(1)).alias("rows"), total.alias("unlinked"))
        content = frames.pseudonymised(rows, table, key)
        content = frames.in_its_own_order(content, table.table.column_names[0])
    before = lake.version(table.table)
    labels = study_labels(
        meet([study.dula]),
        owner=table.dataset.owner,
        classifications=[column.classification for column in table.table.columns],
        expires=study.decision.expires or study.dula.term.expires,
    )
    written = lake.write(
        content,
        table.table,
        Overwrite(),
        stamp=replace(
            study.run.stamp,
            agreements=(study.dula.id, study.dula.mou),
            inputs=study.inputs[table.table.name],
        ),
        # Table versions only grow, so a version above the present one was never used.
        transaction=Transaction(f"study/{table.table.name}", 0 if before is None else before + 1),
        labels={**labels, tables.SOURCE: table.curated.name, tables.HOLDING: table.holding},
        few=study.delivered(table) < FEW,
    )
    reach(f"study.wrote.{table.table.name}")
    counted = counts.get if counts else {"rows": 0, "unlinked": 0}
    return Made(table.table.name, written.version, counted["rows"], counted["unlinked"])


def _agreed(study: Study, table: StudyTable, lake: Lake) -> DataFrame | None:
    """The curated rows that the agreement covers, at the version of the last whole delivery."""
    feed = study.feeds[table.contract.feed]
    version = feed.versions.get(table.curated.name)
    if version is None:
        return None
    curated = lake.read(table.curated, version=sources.readable(lake, table.curated, version))
    return frames.agreed_rows(curated, table.dataset, {a.period for a in feed.arrivals})


def _with_people(
    study: Study, table: StudyTable, lake: Lake, rows: DataFrame
) -> tuple[DataFrame, list[tuple[str, str]]]:
    """Adds who the rows' people are, and keeps those of agreed people. With the pairs of (record
    id, person) columns."""
    linked = []
    for subject, column in tables.subject_columns(table):
        if subject.kind == "person":
            person = frames.person_of(column)
            rows = frames.identified(rows, _who(study, lake), subject.record_id, person)
            linked.append((subject.record_id, person))
    people = _people_table(study, table)
    if people is not None:
        _, person = linked[0]
        theirs = _agreed(study, people, lake)
        if theirs is None:
            return rows.limit(0), linked
        record = people.people[0].record_id
        known = frames.identified(theirs, _who(study, lake), record, person)
        rows = frames.of_people(rows, known, person)
    return rows, linked


def _who(study: Study, lake: Lake) -> DataFrame:
    index = sources.needed(study.index)
    return sources.read_crosswalk(lake, index.version).where(sources.holds_on(index.day))


def _people_table(study: Study, table: StudyTable) -> StudyTable | None:
    """The table whose people alone the rows may speak of."""
    return study.of(table.dataset.people_of) if table.dataset.people_of else None
