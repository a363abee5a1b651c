"""One run of a job: who, when, over what; and its rows in `ops/runs`."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import SparkSession

from concord import __version__, tracking
from concord.errors import ConcordError
from concord.lake.locks import Locks
from concord.lake.registry import RUNS
from concord.lake.session import start, stop
from concord.lake.tables import Lake
from concord.lake.writes import Stamp, Written
from concord.lake.zones import Zones
from concord.reporting import Reporter
from concord.settings import Settings

Clock = Callable[[], datetime]


def real_clock() -> datetime:
    """Now, in UTC. Permission and the ledgers go by it; business time goes by `as_of`."""
    return datetime.now(UTC)


def actor() -> str:
    """The user the operating system runs this process as; never an argument, never a variable."""
    return pwd.getpwuid(os.getuid()).pw_name


def roles(settings: Settings, who: str) -> frozenset[str]:
    """The settings' roles that a user has, by name or by a group of the operating system."""
    try:
        user = pwd.getpwnam(who)
        numbers = os.getgrouplist(who, user.pw_gid)
    except KeyError:
        numbers = []
    groups = set()
    for number in numbers:
        with suppress(KeyError):
            groups.add(grp.getgrgid(number).gr_name)
    return frozenset(
        name
        for name, role in settings.roles.items()
        if {who, "*"} & {*role.users} or groups & {*role.groups}
    )


def digest(*parts: Any) -> str:
    """128 bits over JSON-able parts, hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def lake_of(settings: Settings, job: str, spark: SparkSession, *, run_id: str = "") -> Lake:
    """The settings' lake as a job may open it."""
    given = settings.locks
    locks = Locks.of(
        spark, settings.lake, given.stale_after_seconds, job=job, run_id=run_id, actor=actor()
    )
    zones = Zones(job, settings.job_roles)
    return Lake(spark, settings.lake, locks=locks, lock_wait=given.wait_seconds, zones=zones)


@dataclass
class Tally:
    """What a run did so far, for its last ledger row.

    `exit_code` is what a run ends with that did its work but must tell of something, such as a
    rejected delivery; an exception brings its own.
    """

    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    message: str = ""
    exit_code: int = 0

    def note(self, writes: Sequence[Written]) -> None:
        for write in writes:
            self.written[write.table] = max(write.version, self.written.get(write.table, 0))


@dataclass(frozen=True)
class Run:
    """What every step of a job needs to know."""

    job: str
    run_id: str
    as_of: date
    dry_run: bool
    actor: str
    settings: Settings
    lake: Lake
    reporter: Reporter
    clock: Clock
    tally: Tally

    @property
    def roles(self) -> frozenset[str]:
        """The actor's."""
        return roles(self.settings, self.actor)

    @property
    def stamp(self) -> Stamp:
        return Stamp(run_id=self.run_id, job=self.job, code_version=__version__)


@contextmanager
def running(
    settings: Settings,
    job: str,
    *,
    arguments: Mapping[str, Any],
    as_of: date,
    run_id: str,
    config_digest: str,
    dry_run: bool,
    reporter: Reporter,
    spark: SparkSession | None = None,
    clock: Clock = real_clock,
) -> Iterator[Run]:
    """A run from its first to its last ledger row. A dry run leaves no row.

    Starts a session unless one is given, and stops the one it started.
    """
    session = spark or start(settings, application=f"concord {job}")
    who = actor()
    lake = lake_of(settings, job, session, run_id=run_id)
    run = Run(job, run_id, as_of, dry_run, who, settings, lake, reporter, clock, Tally())
    started = clock()
    base = {
        "run_id": run_id,
        "job": job,
        "arguments": json.dumps(dict(arguments), sort_keys=True, default=str),
        "actor": who,
        "code_version": __version__,
        "config_digest": config_digest,
        "as_of": as_of,
        "started_at": started,
    }
    try:
        if not dry_run:
            _record(run, {**base, "state": "started"})
        exit_code = 1
        try:
            with tracking.answering(settings):
                yield run
            exit_code = run.tally.exit_code
        except ConcordError as error:
            exit_code = error.exit_code
            run.tally.message = str(error)
            raise
        except KeyboardInterrupt:
            exit_code = 130
            raise
        finally:
            if not dry_run:
                _record_end(run, {**base, **_ended(run, clock(), exit_code)}, exit_code)
    finally:
        if spark is None:
            stop(session)


def _ended(run: Run, at: datetime, exit_code: int) -> dict[str, Any]:
    tally = run.tally
    return {
        "state": "ended",
        "ended_at": at,
        "read_versions": versions(tally.read),
        "written_versions": versions(tally.written),
        "rows_in": tally.rows_in,
        "rows_out": tally.rows_out,
        "rows_quarantined": tally.rows_quarantined,
        "exit_code": exit_code,
        "message": tally.message or None,
    }


def versions(of: Mapping[str, int]) -> list[dict[str, Any]]:
    """Table versions as the ledgers hold them."""
    return [{"table": table, "version": version} for table, version in sorted(of.items())]


def _record_end(run: Run, row: Mapping[str, Any], exit_code: int) -> None:
    """The run's last row. If the job itself failed, that matters more than a ledger that fails."""
    try:
        _record(run, row)
    except ConcordError as error:
        if not exit_code:
            raise
        run.reporter.error(f"ops/runs could not be written: {error}")


def _record(run: Run, row: Mapping[str, Any]) -> None:
    run.lake.append([row], RUNS, stamp=run.stamp)
