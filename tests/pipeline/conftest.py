"""The demonstration, run once as a user runs it; the pipeline tests share what it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from concord.lake.session import INTERPRETED, JAVA_OPTIONS
from concord.settings import load_settings
from tests.conftest import ROOT

PEOPLE = 2000
# What the demo reads from the place it is run in.
PLACES = ("conf", "infra", "jobs", "libs", "notebooks", ".venv", "pyproject.toml")
EVENTS, LOGS = "events", "logs"
# All as a user has it but for compilers that only longer runs repay, and tasks that have no rows;
# two partitions are left where a query shuffles, so that what belongs together has to meet.
LOCAL = load_settings(ROOT / "conf" / "settings" / "local.yaml").spark.confs
SMALL = {
    **INTERPRETED,
    "spark.sql.shuffle.partitions": "2",
    JAVA_OPTIONS: f"{LOCAL[JAVA_OPTIONS]} -XX:TieredStopAtLevel=1",
}


@dataclass(frozen=True)
class Demo:
    """A folder in which `make demo` has run, and what it printed."""

    home: Path
    output: str

    @property
    def lake(self) -> Path:
        return self.home / "data" / "demo" / "lake"

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return summary

    def run(
        self, *command: str, timeout: int = 1500, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the demo's folder, as a user would at the top of the project."""
        environment = {**os.environ, "COLUMNS": "160", **variables}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return subprocess.run(  # noqa: S603 (the project's own commands)
            command,
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def run_demo(home: Path) -> Demo:
    """The demo with what a careful operator keeps: event logs, and the logs of its output."""
    for kept in (EVENTS, LOGS):
        (home / kept).mkdir(exist_ok=True)
    confs = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": (home / EVENTS).as_uri()}
    confs |= SMALL
    done = Demo(home, "").run(
        sys.executable, "-m", "concord.demo", "--people", str(PEOPLE),
        CONCORD_SPARK__CONFS=json.dumps(confs),
    )  # fmt: skip
    number = len(list((home / LOGS).iterdir()))
    (home / LOGS / f"{number}.out").write_text(done.stdout)
    (home / LOGS / f"{number}.err").write_text(done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    return Demo(home, done.stdout)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A small Commonwealth, ingested."""
    home = tmp_path_factory.mktemp("home")
    for place in PLACES:
        (home / place).symlink_to(ROOT / place)
    return run_demo(home)
