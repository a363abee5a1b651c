"""The `study` job: what each agreement allows its recipient to hold, made anew when it changed.

For each agreement: decided (and logged) → locked → what no longer is agreed removed → tables
written, each a full replacement at recorded versions of its sources → the read logged. A table
whose newest commit says it was made from the same inputs is left alone, so a rerun after a kill
writes what is missing and a second run finds nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.labels import study_labels
from concord.agreements.mou import Mou
from concord.contracts.model import Contract
from concord.errors import ConfigError, InfrastructureError, RefusedError, UsageError
from concord.lake import run as runs
from concord.lake import session
from concord.lake.points import reach
from concord.lake.run import Run
from concord.lake.storage import join
from concord.lake.tables import Lake, Overwrite, Transaction, Written, described, is_table
from concord.privacy.wrapping import AgreementKey, agreement_key, key_check
from concord.studies import frames, sources, tables
from concord.studies.sources import CROSSWALK, Crosswalk, FeedSources
from concord.studies.tables import StudyTable

# HMAC of a fixed text under each agreement's key: another lake's key is refused before it is used.
KEY_CHECKS = "vault/_study_key_check"


@dataclass(frozen=True)
class Made:
    """One table as this run wrote it. `unlinked` counts records that the index knows no person
    for: each is kept, as a person of its own."""

    table: str
    version: int
    rows: int
    unlinked: int


@dataclass(frozen=True)
class Outcome:
    """What became of one agreement's study."""

    agreement: str
    status: str
    message: str
    exit_code: int = 0
    made: tuple[Made, ...] = ()
    removed: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.made)


@dataclass(frozen=True)
class Study:
    """One agreement's study being made."""

    run: Run
    lake: Lake
    dula: Dula
    mou: Mou
    request: Request
    decision: Decision
    tables: tuple[StudyTable, ...]
    feeds: Mapping[str, FeedSources]
    index: Crosswalk | None
    inputs: Mapping[str, str] = field(default_factory=dict)

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


def study(
    run: Run,
    contracts: Mapping[str, Contract],
    mous: Mapping[str, Mou],
    dulas: Mapping[str, Dula],
    *,
    agreements: Sequence[str] = (),
    purpose: str | None = None,
    columns: Sequence[str] = (),
) -> list[Outcome]:
    """Makes the studies of all agreements or of those named.

    `purpose` replaces the agreement's own in the request, `columns` (`<feed>.<table>.<column>`)
    adds to what is asked for: both to learn that, and by which clause, it is refused. A refused
    agreement is an Outcome with exit code 14, so that others go on. Raises UsageError for an
    unknown agreement or a missing person index, LockedError, ConfigError (keys) and
    InfrastructureError as they come.
    """
    wanted = [_named(dulas, name) for name in agreements] or [dulas[name] for name in sorted(dulas)]
    requests = [
        (_request(run, dula, purpose or dula.purpose.code, columns), dula, mous[dula.mou])
        for dula in wanted
    ]
    decisions = access_log.ask_all(run, requests)
    reach("study.decided")
    allowed = [
        (request, dula, mou, decision)
        for (request, dula, mou), decision in zip(requests, decisions, strict=True)
        if decision.allowed
    ]
    outcomes = [
        _refused(run, request, decision)
        for (request, _, _), decision in zip(requests, decisions, strict=True)
        if not decision.allowed
    ]
    if not allowed:
        return outcomes
    try:
        used = {dataset.feed for _, dula, _, _ in allowed for dataset in dula.datasets}
        feeds = sources.feed_sources(
            run.lake, [contracts[feed] for feed in sorted(used)], run.as_of
        )
        index = sources.crosswalk(run.lake, run.as_of)
        with run.reporter.stage("study", len(allowed)) as progress:
            for request, dula, mou, decision in allowed:
                made = tuple(tables.of_agreement(dula, contracts))
                began = Study(run, run.lake, dula, mou, request, decision, made, feeds, index)
                outcomes.append(_make(began))
                progress.step(dula.id)
    except (PySparkException, Py4JError) as error:
        # What Spark says of a failed task can quote rows.
        raise InfrastructureError(
            f"study: Spark failed: {described(error)}. If it speaks of space or permissions, mend "
            f"{run.settings.lake} or Spark's local folders; then run this again"
        ) from None
    return sorted(outcomes, key=lambda outcome: outcome.agreement)


def _named(dulas: Mapping[str, Dula], name: str) -> Dula:
    if name not in dulas:
        known = ", ".join(sorted(dulas)) or "none"
        raise UsageError(f"there is no agreement {name!r}; conf/agreements has {known}")
    return dulas[name]


def _request(run: Run, dula: Dula, purpose: str, columns: Sequence[str]) -> Request:
    """All that the agreement lists, and `columns` besides."""
    asked = {dataset.table: set(dataset.column_names) for dataset in dula.datasets}
    for column in columns:
        table, _, name = column.rpartition(".")
        if not table.count("."):
            raise UsageError(f"--column {column}: name it <feed>.<table>.<column>")
        asked.setdefault(table, set()).add(name)
    return Request(
        actor=run.actor,
        agreement=dula.id,
        purpose=purpose,
        use="study",
        columns={table: frozenset(names) for table, names in asked.items()},
        as_of=run.as_of,
        linkages=frozenset(frozenset(linkage.tables) for linkage in dula.linkages),
    )


def _refused(run: Run, request: Request, decision: Decision) -> Outcome:
    message = "; ".join(str(reason) for reason in decision.reasons)
    run.reporter.error(f"{request.agreement}: refused: {message}", agreement=request.agreement)
    return Outcome(request.agreement, "refused", message, RefusedError.exit_code)


# --- one study -----------------------------------------------------------------------------------


def _make(study: Study) -> Outcome:
    began = time.monotonic()
    run, lake, dula = study.run, study.lake, study.dula
    if any(table.people for table in study.tables):
        sources.needed(study.index)
    if run.dry_run:
        return _would(study)
    folder = tables.folder(dula)
    names = {table.table.name for table in study.tables}
    present = {join(folder, e.name) for e in lake.storage.list(lake.path(folder)) if e.is_folder}
    with lake.locks.hold(sorted(names | present)):
        key = _key(study)
        study = replace(study, inputs=_inputs(study, key))
        stale = study.stale
        removed = _remove(study, sorted(present), stale)
        with ThreadPoolExecutor(max_workers=run.settings.parallel_tables) as pool:
            made = tuple(pool.map(lambda table: _write(study, table, key), stale))
        reach("study.published")
        _record_reads(study)
        reach("study.recorded")
    run.tally.rows_out += sum(table.rows for table in made)
    run.tally.note([Written(table.table, table.version, True) for table in made])
    for table in study.tables:
        feed = study.feeds[table.contract.feed]
        if table.curated.name in feed.versions:
            run.tally.read[table.curated.name] = feed.versions[table.curated.name]
    if study.index is not None:
        run.tally.read[CROSSWALK] = study.index.version
    return _outcome(study, made, removed, began)


def _would(study: Study) -> Outcome:
    """What a dry run can tell without a key: none is made or read."""
    message = f"{len(study.tables)} tables may be held until {study.decision.expires}"
    study.run.reporter.say(f"{study.dula.id}: allowed: {message}")
    return Outcome(study.dula.id, "would make", message)


def _key(study: Study) -> AgreementKey:
    """The agreement's key, made for its first study, proved to be the one its study has."""
    storage = study.lake.storage
    place = study.lake.path(join(KEY_CHECKS, study.dula.id))
    new = not storage.exists(place)
    key = agreement_key(study.run.settings.keys, study.dula.id, create=new)
    if new:
        storage.put_if_absent(place, key_check(key).encode())
    if storage.read(place).decode().strip() != key_check(key):
        raise ConfigError(
            [
                f"keys: the key of {study.dula.id} is not the one that its study was made with. "
                "Restore the right one, or name the lake that this one belongs to"
            ]
        )
    return key


def _inputs(study: Study, key: AgreementKey) -> dict[str, str]:
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


def _remove(study: Study, present: Sequence[str], stale: Sequence[StudyTable]) -> tuple[str, ...]:
    """Deletes, with their old versions, tables that the agreement no longer lists and tables of
    which it now lists something else."""
    wanted = {table.table.name: table for table in study.tables}
    again = {table.table.name for table in stale}
    removed = []
    for name in present:
        if name in wanted and name not in again:
            continue
        properties = _properties(study.lake, name)
        listed = wanted[name].holding if name in wanted else None
        if properties is None or (
            tables.SOURCE in properties and properties.get(tables.HOLDING) != listed
        ):
            study.lake.remove(name)
            reach(f"study.removed.{name}")
            if name not in wanted:
                removed.append(name)
    return tuple(removed)


def _properties(lake: Lake, name: str) -> Mapping[str, str] | None:
    """A table's properties; None for what is left of a table that was being removed or made."""
    if not is_table(lake.storage, lake.path(name)):
        return None
    shown = lake.spark.sql(f"SHOW TBLPROPERTIES delta.`{lake.path(name)}`").collect()
    return {row["key"]: row["value"] for row in shown}


def _write(study: Study, table: StudyTable, key: AgreementKey) -> Made:
    """One table, whole, in one commit. Runs in a thread of its own, in a session of its own."""
    lake = study.lake.with_session(session.sibling(study.lake.spark))
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
        study.dula,
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
            agreements=(study.dula.id, study.mou.id),
            inputs=study.inputs[table.table.name],
        ),
        # Table versions only grow, so a version above the present one was never used.
        transaction=Transaction(f"study/{table.table.name}", 0 if before is None else before + 1),
        labels={**labels, tables.SOURCE: table.curated.name, tables.HOLDING: table.holding},
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


def _record_reads(study: Study) -> None:
    """Logs the read of every run that wrote a table of the study and did not come to log it."""
    said: dict[str, int] = {}
    for table in study.tables:
        commit = study.lake.made_from(table.table)
        if commit and commit.get("inputs"):
            rows = commit.get("rows")
            said[commit["run_id"]] = said.get(commit["run_id"], 0) + int(rows or 0)
    logged = study.lake.read(ACCESS_LOG).where(
        (F.col("agreement") == study.dula.id) & (F.col("decision") == "read")
    )
    known = {row["run_id"] for row in logged.select("run_id").distinct().collect()}
    for run_id in sorted(set(said) - known):
        run = replace(study.run, run_id=run_id)
        access_log.record_reads(run, [(study.request, study.decision, said[run_id])])


def _outcome(study: Study, made: Sequence[Made], removed: tuple[str, ...], began: float) -> Outcome:
    rows, unlinked = sum(m.rows for m in made), sum(m.unlinked for m in made)
    message = "nothing to do"
    if made or removed:
        message = f"{len(made)} tables, {rows} rows"
        if unlinked:
            message += f", {unlinked} of records without a person, kept each as one of its own"
        if removed:
            message += f"; removed {', '.join(removed)}"
    seconds = round(time.monotonic() - began, 2)
    study.run.reporter.say(
        f"{study.dula.id}: {message}", agreement=study.dula.id, rows=rows, seconds=seconds
    )
    status = "made" if made or removed else "nothing to do"
    return Outcome(study.dula.id, status, message, 0, tuple(made), removed, seconds)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes as the job's last line tells them."""
    return {
        outcome.agreement: {
            "status": outcome.status,
            "rows": outcome.rows,
            "unlinked": sum(table.unlinked for table in outcome.made),
            "tables": {table.table.rsplit("/", 1)[1]: table.rows for table in outcome.made},
            "removed": list(outcome.removed),
            "seconds": outcome.seconds,
        }
        for outcome in outcomes
    }


def sentence(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in a line, for the ledger: `nothing to do` when that is all of them."""
    said = {outcome.message for outcome in outcomes}
    if said <= {"nothing to do"}:
        return "nothing to do"
    return "; ".join(f"{outcome.agreement} {outcome.status}" for outcome in outcomes)
