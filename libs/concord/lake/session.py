"""The one place where a Spark session is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    # SQL says what it says: no setting and no environment variable takes the place of a `${...}`.
    "spark.sql.variable.substitute": "false",
    # Feeds run side by side in one application: none waits for the biggest.
    "spark.scheduler.mode": "FAIR",
    # Else each method of a column and of a frame tells Java from which line it was called, in four
    # calls: to build a column took twice as long.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.dataFrameQueryContext.enabled": "false",
    # What the UI and the event log must not show of the environment and the confs.
    "spark.redaction.regex": "(?i)secret|password|passphrase|token|access[.]?key|vault_key",
}


JAVA_OPTIONS = "spark.driver.extraJavaOptions"
# Beside the jars: the classes of a session, ready to be mapped instead of read and verified.
CLASSES = "classes.jsa"

# Queries run as they are instead of being compiled to Java first, and in one task: each is sent the
# whole plan.
INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # Interpreted, to look up what was evaluated already costs more than to evaluate it again.
    "spark.sql.subexpressionElimination.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.leafNodeDefaultParallelism": "1",
    "spark.sql.files.minPartitionNum": "1",
}


# The Java classes whose static methods PySpark calls for each column.
OF_COLUMNS = ("functions", "org.apache.spark.sql.functions", "PythonUtils", "PythonSQLUtils")


def start(settings: Settings, *, application: str) -> SparkSession:
    """The session for one job, from settings. Raises InfrastructureError if Spark won't start."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(application)
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    for key, value in confs_of(settings).items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise InfrastructureError(f"Spark did not start: {type(error).__name__}: {error}") from None
    # Spark's error logs quote exceptions of tasks, and these can quote rows: what a person needs
    # of a failure is in Concord's own message.
    spark.sparkContext.setLogLevel("OFF")
    _write_no_crc_files(spark)
    _look_up_once(spark)
    return spark


_shared = 0


@contextmanager
def shared() -> Iterator[None]:
    """Jobs inside use one session: it outlives each of them and ends with the last `shared`."""
    global _shared
    _shared += 1
    try:
        yield
    finally:
        _shared -= 1
        active = SparkSession.getActiveSession()
        if active is not None:
            stop(active)


def stop(spark: SparkSession) -> None:
    """Ends the session, unless jobs share it."""
    if not _shared:
        spark.stop()


def interpret(spark: SparkSession, on: bool) -> None:
    """Whether the session's queries are interpreted: to compile a small one costs more than it.

    Off is as the application's own confs have it. To unset a conf would bring back Spark's default
    instead, for `spark.sql.shuffle.partitions` 200 tasks.
    """
    if on:
        for name, value in INTERPRETED.items():
            spark.conf.set(name, value)
        return
    own = spark.sparkContext.getConf()  # some hundred calls: asked for where it is needed
    for name in INTERPRETED:
        before = own.get(name)
        if before is None:
            spark.conf.unset(name)
        else:
            spark.conf.set(name, before)


def sibling(spark: SparkSession) -> SparkSession:
    """Another session of the application that runs queries as this one does.

    A session's settings carry a commit's notes: who writes side by side needs one each.
    """
    other = spark.newSession()
    if spark.conf.get("spark.sql.codegen.wholeStage") == "false":
        interpret(other, True)
    return other


def _write_no_crc_files(spark: SparkSession) -> None:
    """Turns off Hadoop's `.crc` file beside every file on a local disk.

    Without its native library Hadoop starts a `chmod` process for each file that it makes (a demo
    started some 3,700), and no reader of the lake looks at the `.crc` files.
    """
    context: Any = spark.sparkContext
    hadoop = context._jvm.org.apache.hadoop.fs
    hadoop.FileSystem.getLocal(context._jsc.hadoopConfiguration()).setWriteChecksum(False)


class _Looked:
    """A Java class of which each static method is looked up once."""

    def __init__(self, java_class: Any) -> None:
        self._java_class = java_class

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._java_class, name)
        setattr(self, name, member)
        return member


def _look_up_once(spark: SparkSession) -> None:
    """Has Py4J keep what it looks up for each column: a class, for which it goes through all jars,
    and one of its 800 methods. With the confs above a column takes a fifth of the time."""
    jvm: Any = spark._jvm
    for name in OF_COLUMNS:
        if not isinstance(found := getattr(jvm, name), _Looked):
            setattr(jvm, name, _Looked(found))


def confs_of(settings: Settings) -> dict[str, str]:
    """All confs of the session, what follows from the jars' folder included."""
    confs = {**BASE_CONFS, **settings.spark.confs}
    where = settings.spark.jars
    if where is None or not Path(where).is_dir():
        return {**confs, "spark.jars": where} if where else confs
    folder = Path(where).resolve()
    jars = [str(jar) for jar in sorted(folder.glob("*.jar"))]
    if not (settings.spark.master or "").startswith("local["):
        return {**confs, "spark.jars": ",".join(jars)}
    # One process: on its class path, where its loader takes classes from an archive (made by
    # `make setup`; without it, or with another Java, it only starts slower).
    archive = f"-XX:SharedArchiveFile={folder / CLASSES} -Xlog:cds=off -Xlog:cds+dynamic=off"
    options = confs.get(JAVA_OPTIONS, "")
    if (folder / CLASSES).exists() and "ArchiveClassesAtExit" not in options:
        confs[JAVA_OPTIONS] = f"{options} {archive}".strip()
    return {**confs, "spark.driver.extraClassPath": ":".join(jars)}
