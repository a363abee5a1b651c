"""Every job of the line, killed at each of its points in turn and run again, by checksum.

One chain for each job: a try is killed at the first point, the next one at the second, and so on;
the last one comes through. What it leaves must be what one undisturbed run leaves.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.pipeline.conftest import PEOPLE, PLACES, Demo

pytestmark = [pytest.mark.pipeline, pytest.mark.chaos]

LAKE = ("--lake", "data/demo/lake")
BACKFILL, ROUND = "2025-04-30", "2025-07-31"
# In the order of the line: what each leaves is what the next one finds.
JOBS = {
    "ingest": ("ingest", *LAKE, "--landing", "data/demo/landing", "--as-of", ROUND),
    "index": ("index", *LAKE, "--as-of", ROUND),
    "study": ("study", *LAKE, "--as-of", ROUND),
    "train": ("train", *LAKE, "--as-of", ROUND),
    # Of few people the figures are what chance makes of them: some check may fail.
    "promote": ("model", "promote", *LAKE, "--because", "made-up people"),
    "score": ("score", *LAKE, "--agreement", "DULA-2026-0002", "--as-of", "2025-06-16"),
    "return": ("return", *LAKE, "--agreement", "DULA-2026-0002", "--as-of", "2025-06-16"),
    "drift": ("drift", *LAKE, "--agreement", "DULA-2026-0002", "--as-of", ROUND),
    "publish": ("publish", *LAKE, "--as-of", ROUND),
}
# Done; something held back (11, 12); a drift beyond its limit.
ENDED = {0, 11, 12, 17}
# One table at a time: the points come in one order, so that a chain meets each of them.
ALONE = {
    "CONCORD_PARALLEL_FEEDS": "1",
    "CONCORD_PARALLEL_TABLES": "1",
    "CONCORD_KEYS__PATH": "data/demo/keys",
    "CONCORD_SIGNERS": "data/demo/keys/signers.yaml",
}
# Told to a file: what a job prints is its own.
RECORDER = """
import sys
from concord.lake import points
seen = open(sys.argv.pop(1), "a", buffering=1)
points.reach = lambda point: print(point, file=seen)
from concord.cli import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Line(Demo):
    """A lake, and which jobs of the line have come through on it."""

    done: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A lake that knows the backfill; three rounds wait."""
    place = tmp_path_factory.mktemp("chains")
    for name in PLACES:
        (place / name).symlink_to(ROOT / name)
    home = Line(place, "")
    faults = ("--fault", "resent_month", "--fault", "dua_claims:cent_off_control_total")
    made = concord(home, "synthesize", "--people", str(PEOPLE), "--out", "data/demo", *faults)
    assert made == 0
    assert concord(home, "agreement", "rehearse", "--lake", "data/demo/lake") == 0
    first = ("--as-of", BACKFILL)
    assert concord(home, *JOBS["ingest"][:-2], *first) in {0, 12}
    assert concord(home, *JOBS["index"][:-2], *first) == 0
    yield home
    shutil.rmtree(place)


def concord(home: Demo, *arguments: str, at: str = "") -> int:
    done = home.run(
        str(ROOT / ".venv/bin/concord"),
        *arguments,
        **ALONE,
        **({"CONCORD_KILL_AT": at} if at else {}),
    )
    assert done.returncode in {*ENDED, -signal.SIGKILL}, done.stdout[-1500:] + done.stderr[-1500:]
    return done.returncode


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_every_point_in_turn_a_job_leaves_what_one_run_leaves(
    home: Line, job: str
) -> None:
    for earlier in [name for name in JOBS if name not in home.done]:
        if earlier == job:
            break
        concord(home, *JOBS[earlier])
        home.done.append(earlier)
    data, before = home.home / "data", home.home / "before"
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(data, before)
    points = undisturbed(home, job)
    # What was held back is told by the try that recorded it: a later one may have nothing to tell.
    wanted, ends = checksums(home), {0, int(points.pop())}
    # Keys are drawn at random, once: the second time they are those of the first.
    shutil.rmtree(before / "demo" / "keys")
    shutil.copytree(data / "demo" / "keys", before / "demo" / "keys")
    restore(before, data)
    assert checksums(home) != wanted, "there is something to do"

    for point in points:
        ended = concord(home, *JOBS[job], at=point)
        if ended in ends:
            # What the try before left was all there is to do: this point needs a new beginning.
            assert checksums(home) == wanted, f"{job}, before {point}"
            restore(before, data)
            ended = concord(home, *JOBS[job], at=point)
        assert ended == -signal.SIGKILL, f"{job}: {point} is never reached by a rerun"
    assert concord(home, *JOBS[job]) in ends
    found = checksums(home)
    assert {name for name in wanted if found.get(name) != wanted[name]} == set()
    assert found.keys() == wanted.keys()
    home.done.append(job)


def restore(before: Path, data: Path) -> None:
    shutil.rmtree(data)
    shutil.copytree(before, data)


def undisturbed(home: Demo, job: str) -> list[str]:
    """Runs the job; its points in the order in which it reached them, and its exit code."""
    told = home.home / f"{job}.points"
    command = (sys.executable, "-c", RECORDER, str(told), *JOBS[job])
    done = home.run(*command, **ALONE)
    assert done.returncode in ENDED, done.stderr[-1500:]
    points = list(dict.fromkeys(told.read_text().split()))
    assert points, f"{job} reaches no point"
    return [*points, str(done.returncode)]


def checksums(home: Demo) -> dict[str, str]:
    """A digest of every table's rows, in whatever order, and of the models and their evidence.

    The ledgers in ops/ tell of the kills, and are left out.
    """
    found = {}
    lake = home.lake
    for log in sorted(lake.rglob("_delta_log")):
        name = str(log.parent.relative_to(lake))
        if not name.startswith("ops/"):
            rows = pl.read_delta(str(log.parent))
            lines = sorted(json.dumps(row, default=str, sort_keys=True) for row in rows.to_dicts())
            found[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found | models(lake.parent / "mlflow")


def models(store: Path) -> dict[str, str]:
    """Of the versions that are in use or wait for it: their measures, and their scorer files."""
    if not store.exists():
        return {}
    (file,) = store.rglob("*.db")
    found = {}
    with sqlite3.connect(file) as database:
        for alias, run, source in database.execute(
            "SELECT a.alias, v.run_id, v.source FROM registered_model_aliases a "
            "JOIN model_versions v ON v.name = a.name AND v.version = a.version ORDER BY a.alias"
        ).fetchall():
            measures = database.execute(
                "SELECT key, value FROM latest_metrics WHERE run_uuid = ? ORDER BY key", (run,)
            ).fetchall()
            model = str(source).rpartition("/")[2]
            scorers = sorted(path for path in store.rglob("*.json") if model in str(path))
            content = repr(measures) + "".join(path.read_text() for path in scorers)
            found[alias] = hashlib.sha256(content.encode()).hexdigest()
        (alive,) = database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()
    assert alive == 0, "what was cut short is not left running"
    return found
