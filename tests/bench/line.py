"""The whole line: the demo in a process of its own, stage by stage, and features by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame

from concord.deployment import load_deployment
from concord.errors import ConcordError
from concord.lake.run import running
from concord.lake.session import start
from concord.reporting import Reporter
from concord_models import studies, training_rows
from concord_models.churn import cohort
from concord_models.churn.features import features
from concord_models.specification import load_models
from tests.bench.report import Features, Line

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "conf" / "settings" / "local.yaml"
AGREEMENT, MODEL = "DULA-2026-0001", "snap_churn"
# The last round of the demo: all it brought is known by then.
AS_OF = date(2025, 7, 31)


def line(folder: Path, people: int) -> Line:
    """`make demo` for so many people, from a folder that is empty; then its features once more.

    Raises ConcordError when the demo does not end with 0.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "concord.demo", "--people", str(people), "--folder", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - began
    if done.returncode:
        raise ConcordError(f"the demo ended with {done.returncode}:\n{done.stdout[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Line(people, whole, told["seconds"], told["index"]["records"], _features(folder))


def _features(folder: Path) -> Features:
    """Every check-in's features as training makes them, on the demo's study: cold, then warm."""
    deployment = load_deployment(SETTINGS, lake=str(folder / "lake"))
    spark = start(deployment.settings, application="concord bench")
    try:
        with running(
            deployment.settings,
            "train",
            arguments={},
            as_of=AS_OF,
            run_id="bench-features",
            config_digest="bench",
            dry_run=True,
            reporter=Reporter(quiet=True),
            spark=spark,
        ) as run:
            # Measured without asking, which opens the study to the job.
            run.lake.zones.open_study(AGREEMENT)
            spec = load_models(deployment.settings.conf)[MODEL]
            wanted = training_rows.columns(spec)
            held = studies.held(run, deployment.dulas[AGREEMENT], deployment.contracts, wanted)

            def made() -> DataFrame:
                frames = held.frames(run, wanted)
                reports = frames["dta_snap.checkins"]
                rows = cohort.open_checkins(reports, *map(cohort.lead, spec.cohort.leads))
                return features(rows, frames, spec.features, audit=spec.audit)

            seconds = []
            for _ in range(2):
                began = time.perf_counter()
                rows = made().toArrow().num_rows
                seconds.append(time.perf_counter() - began)
    finally:
        spark.stop()
    return Features(rows, len(spec.features), *seconds)
