"""`concord.read(agreement, table)`: a study's table in a notebook, as far as its agreement allows.

Asks for a decision, writes it and the read to the access log, and gives a Spark DataFrame of
exactly the columns that were asked for and allowed, under pseudonyms. An analyst cannot forget the
agreement, because there is no other argument to read by. Whoever may open the lake's files with
other tools is stopped by storage permissions alone (docs/agreements.md).

`visit` gives what a job gets, to call the functions that jobs call, and writes nothing else either.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from concord.agreements import access_log
from concord.agreements.canonical import digest
from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.labels import AGREEMENT_DIGEST
from concord.agreements.register import Register
from concord.deployment import Deployment, load_deployment
from concord.errors import RefusedError, UsageError
from concord.lake import run as runs
from concord.lake.catalog import Shown, shown
from concord.lake.log import state
from concord.lake.run import Clock, Run, Tally, real_clock
from concord.lake.session import start
from concord.lake.tables import Lake
from concord.reporting import Reporter
from concord.settings import Settings
from concord.studies.tables import StudyTable, of_agreement, subject_columns

DEFAULT_SETTINGS = Path("conf/settings/local.yaml")


def read(
    agreement: str,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    purpose: str | None = None,
    linked_with: Sequence[str] = (),
    settings: Path | None = None,
    lake: str | None = None,
) -> DataFrame:
    """The rows of `table` (`<feed>.<table>`) that the study of `agreement` holds.

    `columns` are those that are wanted of the agreed ones (None: all); the pseudonyms, the period
    and the days on which a row became known are always there. `purpose` is what it is wanted for
    (None: the agreement's own), `linked_with` the tables that it is to be joined with. `settings`
    is the file (None: what CONCORD_SETTINGS names, else conf/settings/local.yaml).

    Raises RefusedError naming each clause that does not allow it, UsageError when the study does
    not hold the table yet. Both decisions and reads are logged.
    """
    deployment = _deployment(settings, lake)
    there = _lake(deployment)
    return under(
        there,
        deployment,
        deployment.register(there),
        agreement,
        table,
        columns=columns,
        purpose=purpose,
        linked_with=linked_with,
    )


@dataclass(frozen=True)
class Visit:
    """What a job works with, for who only looks: a run as of a day that has no rows in ops/runs and
    may open what a recipient's jobs may. Decisions and reads are logged all the same."""

    run: Run
    deployment: Deployment
    register: Register

    def study(self, agreement: str) -> dict[str, Shown]:
        """Every table that the study of `agreement` holds, without rows, by `<feed>.<table>`.

        Asks for all that was agreed. Raises RefusedError, and UsageError where a table is missing.
        """
        today = self.run.clock().date()
        dula = self.register.dula(agreement, today)
        if dula is None:
            raise self.register.unknown(agreement)
        request = Request(
            agreement=agreement,
            purpose=dula.purpose.code,
            use="study",
            columns={each.table: frozenset(each.column_names) for each in dula.datasets},
            as_of=min(today, *(each.period_until for each in dula.datasets)),
        )
        access_log.ask(self.run, self.register, request)
        return {
            study.dataset.table: shown(self.run.lake, study.table.name, rows=0)
            for study in of_agreement(dula, self.deployment.contracts)
        }


def visit(
    *, as_of: date | None = None, settings: Path | None = None, lake: str | None = None
) -> Visit:
    """A visit to the lake of `settings` (as in `read`), as of a day (None: today)."""
    deployment = _deployment(settings, lake)
    there = _lake(deployment)
    run = _run(there, deployment.settings, "", "", real_clock)
    if as_of is not None:
        run = replace(run, as_of=as_of)
    return Visit(run, deployment, deployment.register(there))


def under(
    lake: Lake,
    deployment: Deployment,
    register: Register,
    agreement: str,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    purpose: str | None = None,
    linked_with: Sequence[str] = (),
    clock: Clock = real_clock,
) -> DataFrame:
    """`read` over a lake and a register that are at hand."""
    today = clock().date()
    dula = register.dula(agreement, today)
    if dula is None:
        raise register.unknown(agreement)
    dataset = dula.dataset(table)
    wanted = frozenset(columns if columns is not None else dataset.column_names if dataset else ())
    run = _run(lake, deployment.settings, agreement, table, clock)
    request = Request(
        agreement=agreement,
        purpose=purpose or dula.purpose.code,
        use="study",
        columns={table: wanted},
        as_of=min(today, dataset.period_until) if dataset else today,
        linkages=frozenset({frozenset({table, *linked_with})} if linked_with else ()),
    )
    with access_log.kept_to_zones(run):
        return _read(run, deployment, dula, request, access_log.ask(run, register, request))


def _read(
    run: Run, deployment: Deployment, dula: Dula, request: Request, decision: Decision
) -> DataFrame:
    lake, (table,) = run.lake, request.tables
    (study,) = [s for s in of_agreement(dula, deployment.contracts) if s.dataset.table == table]
    held = state(lake.storage, lake.path(study.table))
    if held is None:
        raise UsageError(f"{study.table.name} is not there yet: run concord study first")
    if held.label(AGREEMENT_DIGEST) != digest(dula):
        raise RefusedError(
            f"{dula.id} clause {study.dataset.clause}: {study.table.name} was made under other "
            "terms than those in force; run concord study before anybody reads it"
        )
    read_rows = access_log.Read(request, decision, run.run_id, held.rows or 0)
    access_log.record_reads(run, [read_rows])
    rows = lake.read(study.table, version=held.version)
    return rows.select(*_columns(study, decision.columns[table]))


def _columns(study: StudyTable, allowed: Sequence[str]) -> list[str]:
    """Pseudonyms, what is allowed of the agreed columns, and the origin; in the table's order."""
    agreed = set(study.dataset.column_names)
    pseudonyms = {column for _, column in subject_columns(study)}
    return [
        name
        for name in study.table.column_names
        if name in pseudonyms or name not in agreed or name in allowed
    ]


def _run(lake: Lake, settings: Settings, agreement: str, table: str, clock: Clock) -> Run:
    """Who reads, for the log. Not a job: it has no rows in ops/runs."""
    now = clock()
    who = runs.actor()
    return Run(
        job="read",
        run_id=runs.digest("read", agreement, table, who, now.isoformat()),
        as_of=now.date(),
        dry_run=False,
        actor=who,
        settings=settings,
        lake=lake,
        reporter=Reporter(quiet=True),
        clock=clock,
        tally=Tally(),
    )


def _lake(deployment: Deployment) -> Lake:
    """As a recipient's job opens it, in the session that there is."""
    settings = deployment.settings
    spark = SparkSession.getActiveSession() or start(settings, application="concord read")
    return runs.lake_of(settings, "read", spark)


def _deployment(settings: Path | None, lake: str | None) -> Deployment:
    return _loaded(settings or Path(os.environ.get("CONCORD_SETTINGS", DEFAULT_SETTINGS)), lake)


@lru_cache(maxsize=4)
def _loaded(settings: Path, lake: str | None) -> Deployment:
    return load_deployment(settings, lake=lake)
