"""An archive of the classes that a local session loads, which Java maps instead of reading them.

`archive_classes.py FILE`, run by setup.py with the environment's Python. A small ingestion shows
Java (its "AppCDS", application class-data sharing) which classes these are. A local session uses
the file if it stands beside the jars (`concord.lake.session`).
"""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyspark import SparkContext

from concord.agreements.register import Register
from concord.cli import load_deployment
from concord.ingest.job import ingest
from concord.lake.run import running
from concord.lake.session import JAVA_OPTIONS, start
from concord.reporting import Reporter
from concord.synthesis import synthesize

FEEDS = ("dta_snap", "masshire_training")
DUMP_SECONDS = 120


def main(file: Path) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder)
        synthesize(place, people=2_000, months=2, backfill=1, seed=1, faults=())
        deployment = load_deployment(
            Path("conf/settings/local.yaml"), lake=f"{place}/lake", landing=f"{place}/landing"
        )
        settings = deployment.settings
        keys = settings.keys.model_copy(update={"provider": "file", "path": place / "keys"})
        confs = settings.spark.confs
        dump = f"-XX:ArchiveClassesAtExit={file} -Xlog:disable -Xlog:all=error:stderr"
        confs = {**confs, JAVA_OPTIONS: f"{confs.get(JAVA_OPTIONS, '')} {dump}"}
        spark_settings = settings.spark.model_copy(update={"confs": confs})
        settings = settings.model_copy(update={"keys": keys, "spark": spark_settings})
        spark = start(settings, application="concord setup")
        java = java_process(spark.sparkContext)
        with running(
            settings,
            "ingest",
            arguments={},
            as_of=date(2100, 1, 1),
            run_id="setup",
            config_digest=deployment.digest,
            dry_run=False,
            reporter=Reporter(),
            spark=spark,
        ) as run:
            # An empty lake's agreements are signed by nobody: what they would allow.
            assumed = Register(deployment.mous, {}, (), {}, signed_by_all=True)
            ingest(run, deployment.contracts, assumed, feeds=FEEDS)
        spark.stop()
        # It ends with its standard input, and writes the archive then.
        java.communicate(timeout=DUMP_SECONDS)


def java_process(context: SparkContext) -> subprocess.Popen[bytes]:
    gateway: Any = context._gateway
    return gateway.proc


if __name__ == "__main__":
    main(Path(sys.argv[1]))
