"""The one place where a Spark session is made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from concord.errors import InfrastructureError
from concord.settings import Settings

# What Delta and Concord rely on; a deployment's own confs are laid over these.
BASE_CONFS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.scheduler.mode": "FAIR",
    # Error messages quote the query; a row's values must not be among what a failed cast prints.
    "spark.sql.debug.maxToStringFields": "50",
    # VACUUM is only ever called through `maintain`, which keeps the tables' retention itself.
    "spark.databricks.delta.vacuum.logging.enabled": "true",
}


def start(settings: Settings, *, application: str) -> SparkSession:
    """The session for one job, made from settings. Raises InfrastructureError when Spark won't start."""
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
    return spark


def _jars(folder: str | None) -> str | None:
    """Comma-separated jars of a local folder, as `spark.jars` takes them; anything else as given."""
    if folder is None or not Path(folder).is_dir():
        return folder
    return ",".join(str(jar.resolve()) for jar in sorted(Path(folder).glob("*.jar")))
