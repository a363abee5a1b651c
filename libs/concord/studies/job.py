"""The `study` job: what each agreement allows its recipient to hold, made anew when it changed.

For each agreement: decided (and logged) → locked → what no longer is agreed removed → tables
written, each a full replacement at recorded versions of its sources → the read logged. A table
whose newest commit says it was made from the same inputs is left alone, so a rerun after a kill
writes what is missing and a second run finds nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from concord.agreements import access_log
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.lifecycle import State
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import ConfigError, InfrastructureError, RefusedError, UsageError
from concord.lake.log import is_table
from concord.lake.points import reach
from concord.lake.run import Run
from concord.lake.storage import join
from concord.lake.tables import Lake, described
from concord.lake.writes import Written
from concord.privacy.wrapping import WrappedKey
from concord.studies import sources, tables
from concord.studies.keys import study_key
from concord.studies.making import Made, Study, inputs, write
from concord.studies.sources import Crosswalk
from concord.studies.tables import StudyTable

# States in which an agreement has no study that anybody would miss.
NO_STUDY: frozenset[State] = frozenset(
    {
        "draft", "in_review", "returned", "approved", "partially_signed", "withdrawn",
        "superseded", "destruction_certified",
    }
)  # fmt: skip
# States in which whatever an agreement holds is to be destroyed.
ENDED: frozenset[State] = frozenset({"expired", "terminated", "destruction_due"})


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


def study(
    run: Run,
    contracts: Mapping[str, Contract],
    register: Register,
    *,
    agreements: Sequence[str] = (),
    purpose: str | None = None,
    columns: Sequence[str] = (),
) -> list[Outcome]:
    """Makes the studies of all agreements that have begun, or of those named.

    `purpose` replaces the agreement's own in the request, `columns` (`<feed>.<table>.<column>`)
    adds to what is asked for: both to learn that, and by which clause, it is refused. A refused
    agreement is an Outcome with exit code 14, so that others go on. Raises UsageError for an
    unknown agreement or a missing person index, LockedError, ConfigError (keys) and
    InfrastructureError as they come.
    """
    wanted = _wanted(run, register, agreements)
    requests = [study_request(run, dula, purpose=purpose, columns=columns) for dula in wanted]
    decisions = access_log.ask_all(run, register, requests)
    reach("study.decided")
    both = list(zip(requests, decisions, strict=True))
    allowed = [(request, decision) for request, decision in both if decision.allowed]
    outcomes = [_refused(run, request, d) for request, d in both if not d.allowed]
    if not allowed:
        return outcomes
    try:
        used = {dataset.feed for _, decision in allowed for dataset in decision.terms.datasets}
        feeds = sources.feed_sources(run.lake, [contracts[f] for f in sorted(used)], run.as_of)
        index = sources.crosswalk(run.lake, run.as_of)
        studies = [
            Study(run, request, decision, _tables(decision.terms, contracts, index), feeds, index)
            for request, decision in allowed
        ]
        outcomes += [_would(each) for each in studies] if run.dry_run else _make(run, studies)
    except (PySparkException, Py4JError) as error:
        # What Spark says of a failed task can quote rows.
        raise InfrastructureError(
            f"study: Spark failed: {described(error)}. If it speaks of space or permissions, mend "
            f"{run.settings.lake} or Spark's local folders; then run this again"
        ) from None
    return sorted(outcomes, key=lambda outcome: outcome.agreement)


def _tables(
    dula: Dula, contracts: Mapping[str, Contract], index: Crosswalk | None
) -> tuple[StudyTable, ...]:
    found = tuple(tables.of_agreement(dula, contracts))
    if any(table.people for table in found):
        sources.needed(index)
    return found


def _wanted(run: Run, register: Register, agreements: Sequence[str]) -> list[Dula]:
    """The terms of the agreements named; else of all that are in force, and of those that have
    ended and still hold data: these are refused until it is destroyed."""
    today, found = run.clock().date(), []
    for name in agreements or sorted(register.dulas):
        standing = register.standing(name, today)
        if standing is None:
            raise register.unknown(name)
        ended = standing.state in ENDED and not run.lake.storage.list(
            run.lake.path(tables.folder(standing.terms))
        )
        if agreements or not (ended or standing.state in NO_STUDY):
            found.append(standing.terms)
        else:
            run.reporter.say(f"{name}: no study: {standing.problem}", agreement=name)
    return found


def study_request(
    run: Run, dula: Dula, *, purpose: str | None = None, columns: Sequence[str] = ()
) -> Request:
    """All that the agreement lists, for its own purpose; or another, and `columns` besides."""
    asked = {dataset.table: set(dataset.column_names) for dataset in dula.datasets}
    for column in columns:
        table, _, name = column.rpartition(".")
        if not table.count("."):
            raise UsageError(f"--column {column}: name it <feed>.<table>.<column>")
        asked.setdefault(table, set()).add(name)
    return Request(
        agreement=dula.id,
        purpose=purpose or dula.purpose.code,
        use="study",
        columns={table: frozenset(names) for table, names in asked.items()},
        as_of=run.as_of,
        linkages=frozenset(frozenset(linkage.tables) for linkage in dula.linkages),
    )


def _refused(run: Run, request: Request, decision: Decision) -> Outcome:
    message = "; ".join(str(reason) for reason in decision.reasons)
    run.reporter.error(f"{request.agreement}: refused: {message}", agreement=request.agreement)
    return Outcome(request.agreement, "refused", message, RefusedError.exit_code)


# --- making them ---------------------------------------------------------------------------------


def _make(run: Run, studies: Sequence[Study]) -> list[Outcome]:
    """All studies side by side, `parallel_tables` tables at a time, under all their locks."""
    began = time.monotonic()
    unlisted = {study.dula.id: _unlisted(study) for study in studies}
    names = {table.table.name for study in studies for table in study.tables}
    with run.lake.locks.hold(sorted(names.union(*unlisted.values()))):
        opened = [(study, _key_or_problem(study)) for study in studies]
        for study, key in opened:
            if not isinstance(key, WrappedKey):
                run.reporter.error(f"{study.dula.id}: {key}", agreement=study.dula.id)
        failed = [(study, key) for study, key in opened if not isinstance(key, WrappedKey)]
        ready = [(study, key) for study, key in opened if isinstance(key, WrappedKey)]
        ready = [(replace(study, inputs=inputs(study, key)), key) for study, key in ready]
        stale = {study.dula.id: study.stale for study, _ in ready}
        for study, _ in ready:
            _remove(study, unlisted[study.dula.id], stale[study.dula.id])
        work = [(study, table, key) for study, key in ready for table in stale[study.dula.id]]
        # The longest first: started last, it would run on alone.
        work.sort(key=lambda item: -item[0].delivered(item[1]))
        with (
            run.reporter.stage("study", len(work)) as progress,
            ThreadPoolExecutor(max_workers=run.settings.parallel_tables) as pool,
        ):

            def one(item: tuple[Study, StudyTable, WrappedKey]) -> Made:
                made = write(*item)
                progress.step(made.table)
                return made

            made = list(pool.map(one, work))
        reach("study.published")
        wrote = {table.table for table in made}
        _record_reads(run, [study for study, _ in ready], wrote)
        reach("study.recorded")
    run.tally.rows_out += sum(table.rows for table in made)
    run.tally.note([Written(table.table, table.version, True) for table in made])
    for study in studies:
        run.tally.read.update(study.sources)
    seconds = round(time.monotonic() - began, 2)
    return [
        _outcome(
            study,
            [each for each in made if each.table.startswith(tables.folder(study.dula) + "/")],
            tuple(unlisted[study.dula.id]),
            seconds,
        )
        for study, _ in ready
    ] + [Outcome(study.dula.id, "failed", str(error), error.exit_code) for study, error in failed]


def _key_or_problem(study: Study) -> WrappedKey | ConfigError | RefusedError:
    """A key that is lost or disabled stops its own agreement's study, nobody else's."""
    try:
        return study_key(study.lake, study.run.settings.keys, study.dula.id, create=True)
    except (ConfigError, RefusedError) as error:
        return error


def _unlisted(study: Study) -> list[str]:
    """The study's tables that the agreement no longer lists. Other jobs' tables in the study's
    folder (scores) do not say that they come from a curated table."""
    folder, wanted = tables.folder(study.dula), {table.table.name for table in study.tables}
    entries = study.lake.storage.list(study.lake.path(folder))
    names = {join(folder, entry.name) for entry in entries if entry.is_folder} - wanted
    said = {name: _properties(study.lake, name) for name in sorted(names)}
    return [name for name, properties in said.items() if _is_study(properties)]


def _would(study: Study) -> Outcome:
    """What a dry run can tell without a key: none is made or read."""
    message = f"{len(study.tables)} tables may be held until {study.decision.expires}"
    study.run.reporter.say(f"{study.dula.id}: allowed: {message}")
    return Outcome(study.dula.id, "would make", message)


def _remove(study: Study, unlisted: Sequence[str], stale: Sequence[StudyTable]) -> None:
    """Deletes, with their old versions, tables that the agreement no longer lists and tables of
    which it now lists something else."""
    changed = []
    for table in stale:
        if not study.lake.storage.exists(study.lake.path(table.table)):
            continue
        properties = _properties(study.lake, table.table.name)
        if _is_study(properties) and (properties or {}).get(tables.HOLDING) != table.holding:
            changed.append(table.table.name)
    for name in [*unlisted, *changed]:
        study.lake.remove(name)
        reach(f"study.removed.{name}")


def _is_study(properties: Mapping[str, str] | None) -> bool:
    """What is left of a table that was being removed (None) counts too."""
    return properties is None or tables.SOURCE in properties


def _properties(lake: Lake, name: str) -> Mapping[str, str] | None:
    """A table's properties; None for what is left of a table that was being removed or made."""
    if not is_table(lake.storage, lake.path(name)):
        return None
    return lake.properties(name)


def _record_reads(run: Run, studies: Sequence[Study], wrote: Collection[str]) -> None:
    """Logs what this run read, and what an earlier one did that was killed before it logged it."""
    logged = run.lake.rows(ACCESS_LOG, "agreement", "run_id", "decision")
    known = {(row["agreement"], row["run_id"]) for row in logged if row["decision"] == "read"}
    reads: dict[tuple[str, str], int] = {}
    for study in studies:
        if any(table.table.name in wrote for table in study.tables):
            known.discard((study.dula.id, run.run_id))
        for table in study.tables:
            commit = run.lake.made_from(table.table)
            if commit and commit.get("inputs"):
                by = (study.dula.id, commit["run_id"])
                reads[by] = reads.get(by, 0) + (commit["rows"] or 0)
    asked = {study.dula.id: study for study in studies}
    access_log.record_reads(
        run,
        [
            access_log.Read(asked[agreement].request, asked[agreement].decision, run_id, rows)
            for (agreement, run_id), rows in sorted(reads.items())
            if (agreement, run_id) not in known
        ],
    )


def _outcome(
    study: Study, made: Sequence[Made], removed: tuple[str, ...], seconds: float
) -> Outcome:
    rows, unlinked = sum(m.rows for m in made), sum(m.unlinked for m in made)
    message = "nothing to do"
    if made or removed:
        message = f"{len(made)} tables, {rows} rows"
        if unlinked:
            message += f", {unlinked} of records without a person, kept each as one of its own"
        if removed:
            message += f"; removed {', '.join(removed)}"
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
