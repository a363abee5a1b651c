"""The one place where a Spark session is made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from concord.errors import InfrastructureError
from concord.settings import Settings

# What Delta and Concord rely on; a deployment's own confs are laid over these.
BASE_CONFS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # Feeds run side by side in one application: none waits for the biggest.
    "spark.scheduler.mode": "FAIR",
    # What the UI and the event log must not show of the environment and the confs.
    "spark.redaction.regex": "(?i)secret|password|passphrase|token|access[.]?key|vault_key",
}


# Queries run as they are instead of being compiled to Java first.
INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def start(settings: Settings, *, application: str) -> SparkSession:
    """The session for one job, from settings. Raises InfrastructureError if Spark won't start."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(application)
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    jars = _jars(settings.spark.jars)
    if jars:
        builder = builder.config("spark.jars", jars)
    for key, value in {**BASE_CONFS, **settings.spark.confs}.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise InfrastructureError(f"Spark did not start: {type(error).__name__}: {error}") from None
    # Spark's error logs quote exceptions of tasks, and these can quote rows: what a person needs
    # of a failure is in Concord's own message.
    spark.sparkContext.setLogLevel("OFF")
    _write_no_crc_files(spark)
    return spark


def interpret(spark: SparkSession, on: bool) -> None:
    """Whether the session's queries are interpreted: to compile a small one costs more than it."""
    for name, value in INTERPRETED.items():
        if on:
            spark.conf.set(name, value)
        else:
            spark.conf.unset(name)


def sibling(spark: SparkSession) -> SparkSession:
    """Another session of the application that runs queries as this one does.

    A session's settings carry a commit's notes: who writes side by side needs one each.
    """
    other = spark.newSession()
    interpret(other, spark.conf.get("spark.sql.codegen.wholeStage") == "false")
    return other


def _write_no_crc_files(spark: SparkSession) -> None:
    """Turns off Hadoop's `.crc` file beside every file on a local disk.

    Without its native library Hadoop starts a `chmod` process for each file that it makes (a demo
    started some 3,700), and no reader of the lake looks at the `.crc` files.
    """
    context: Any = spark.sparkContext
    hadoop = context._jvm.org.apache.hadoop.fs
    hadoop.FileSystem.getLocal(context._jsc.hadoopConfiguration()).setWriteChecksum(False)


def _jars(folder: str | None) -> str | None:
    """A local folder's jars with commas, as `spark.jars` takes them; anything else as given."""
    if folder is None or not Path(folder).is_dir():
        return folder
    return ",".join(str(jar.resolve()) for jar in sorted(Path(folder).glob("*.jar")))
