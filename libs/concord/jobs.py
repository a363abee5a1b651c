"""A job as the command line runs it: a session, a run with its ledger rows, a summary, a code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import typer
from pyspark.sql import SparkSession

from concord.agreements import access_log
from concord.deployment import Deployment
from concord.lake import run as runs
from concord.lake.run import Run, real_clock, running
from concord.lake.session import start, stop
from concord.reporting import Reporter


@dataclass(frozen=True)
class Options:
    """What every job takes: business date (None: today), run id (None: a digest of the job, its
    arguments, configuration and inputs), and how it runs."""

    as_of: datetime | None = None
    run_id: str | None = None
    dry_run: bool = False
    json_logs: bool = False

    @property
    def day(self) -> date:
        return self.as_of.date() if self.as_of else real_clock().date()


@dataclass(frozen=True)
class Job:
    """One job under way. What it puts into `told` is said in its summary line."""

    run: Run
    reporter: Reporter
    told: dict[str, Any] = field(default_factory=dict)

    def ended(self, message: str, exit_code: int = 0, **told: Any) -> None:
        """How it went: for the ledger, the summary line and the process."""
        self.run.tally.message, self.run.tally.exit_code = message, exit_code
        self.told.update(told)


@contextmanager
def job(
    name: str,
    deployment: Deployment,
    options: Options,
    *,
    inputs: Callable[[SparkSession], Any],
    arguments: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> Iterator[Job]:
    """A job from its session to its summary line.

    `inputs` gives what the default run id depends on besides the arguments and the configuration,
    of which `digest` is the part that matters (None: all of it). Raises typer.Exit where the job
    ended with an exit code but without an error.
    """
    given, digest = dict(arguments or {}), digest or deployment.digest
    reporter = Reporter(json_logs=options.json_logs)
    spark = start(deployment.settings, application=f"concord {name}")
    try:
        run_id = options.run_id or runs.digest(name, given, options.day, digest, inputs(spark))
        with (
            running(
                deployment.settings,
                name,
                arguments=given,
                as_of=options.day,
                run_id=run_id,
                config_digest=digest,
                dry_run=options.dry_run,
                reporter=reporter,
                spark=spark,
            ) as run,
            access_log.kept_to_zones(run),
        ):
            current = Job(run, reporter)
            yield current
        told = {
            "job": name,
            "run_id": run_id,
            "as_of": options.day.isoformat(),
            "exit_code": run.tally.exit_code,
            "message": run.tally.message,
        }
        reporter.summary({**told, **current.told})
    finally:
        stop(spark)
    if run.tally.exit_code:
        raise typer.Exit(run.tally.exit_code)
