"""A steward's desk: an empty lake, and `concord review` on its command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from concord.agreements.mou import load_mous
from concord.cli import app, exit_code_of
from concord.lake.locks import Locks
from concord.lake.tables import Lake
from concord.lake.zones import Zones
from tests.agreed import sign_lake
from tests.conftest import ROOT


class Desk:
    """`out` and `err`: what the last command printed."""

    out = err = ""

    def __init__(self, spark: SparkSession, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.settings = folder / "settings.yaml"
        self.settings.write_text(
            f"conf: {ROOT / 'conf'}\nlake: {folder / 'lake'}\nlanding: {folder / 'landing'}\n"
            f"locks:\n  wait_seconds: 0\nsigners: {folder / 'signers.yaml'}\n"
        )
        agreements = load_mous(ROOT / "conf").values()
        sign_lake(folder / "lake", folder / "signers.yaml", *agreements)
        root = str(folder / "lake")
        locks = Locks.of(spark, root, 60, job="t", run_id="t", actor="t")
        self.lake = Lake(spark, root, locks=locks, lock_wait=0, zones=Zones("review"))

    def review(self, *arguments: str) -> int:
        """Runs the command; its exit code."""
        code = exit_code_of(app, ["review", *arguments, "--settings", str(self.settings)])
        self.out, self.err = self.capsys.readouterr()
        return code
