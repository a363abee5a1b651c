"""The linkage engine over the benchmark's records, in a process of its own, as an office runs it.

`python -m tests.bench.engine_side JOB`: JOB is a JSON file (`Job`); prints one line of JSON, Java's
version and a list of `Run`. Concord's own session with the settings of one machine, but Java's
optimising compiler as Java ships it: `local.yaml` holds it back, which suits small queries and not
this.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pyspark.sql import SparkSession

from concord.lake.session import start
from concord.linkage import Model, blocking, engine, estimate, link
from concord.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "conf" / "settings" / "local.yaml"
CONFS = {
    # In place of those of local.yaml; the collector is said and not left to Java's guess.
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
    # What clusters are made of comes to the driver: some 40 bytes a link.
    "spark.driver.maxResultSize": "4g",
}
# Function of `link` and `clusters` -> the step that it is. What none accounts for is `write`.
STEPS: tuple[tuple[Any, str, str], ...] = (
    (engine, "encode", "encode"),
    (engine, "block", "count keys"),
    (engine, "sample", "u of random pairs"),
    (estimate, "random_patterns", "u of random pairs"),
    (estimate, "chance", "u of random pairs"),
    (blocking, "counts_of", "make and compare pairs"),
    (estimate, "fit", "m by EM"),
    (blocking, "edges_of", "fetch links"),
    (engine, "clustered", "cluster"),
)
WRITE = "write"


@dataclass(frozen=True)
class Job:
    """`files`: what is linked, in turn, in one session. The last run of each stays at its `out`.
    `confs`: laid over those of one machine."""

    model: str
    files: tuple[tuple[str, str], ...]  # file, out
    folder: str
    memory: str
    master: str = "local[*]"
    confs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One linkage in seconds, `session` those to start Spark before it (0: it ran). `pairs`: those
    that were compared; `dropped`: those that the pair budget kept out, counted for each rule."""

    file: str
    session: float
    seconds: float
    steps: dict[str, float]
    pairs: int
    dropped: int


def main(path: str) -> int:
    told = json.loads(Path(path).read_text())
    job = Job(**{**told, "files": tuple((file, out) for file, out in told["files"])})
    began = time.perf_counter()
    settings = settings_of(Path(job.folder), job.memory, job.master, job.confs)
    spark = start(settings, application="concord bench linkage")
    session = time.perf_counter() - began
    try:
        java = java_of(spark)
        model, runs = Model.from_yaml(job.model), []
        for file, out in job.files:
            runs.append(linked(spark, model, file, out, session))
            session = 0.0
    finally:
        spark.stop()
    print(json.dumps({"java": java, "runs": [asdict(run) for run in runs]}))
    return 0


def java_of(spark: SparkSession) -> str:
    """The version of the Java that runs a session."""
    # pyspark's types allow for a context that was stopped.
    return str(spark.sparkContext._jvm.System.getProperty("java.version"))  # type: ignore[union-attr]


def settings_of(
    folder: Path, memory: str, master: str = "local[*]", confs: Mapping[str, str] | None = None
) -> Settings:
    """Those of one machine, with CONFS and `confs`, and all that Spark writes by itself in
    `folder`."""
    settings = load_settings(SETTINGS)
    own = {
        "spark.driver.memory": memory,
        "spark.local.dir": str(folder / "spark"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    spark = settings.spark.model_copy(
        update={
            "master": master,
            "jars": str(ROOT / "infra" / "jars"),
            "confs": {**settings.spark.confs, **CONFS, **own, **(confs or {})},
        }
    )
    return settings.model_copy(update={"spark": spark})


def linked(spark: SparkSession, model: Model, file: str, out: str, session: float) -> Run:
    """From a Parquet file to one of ids and clusters."""
    with steps() as seconds_of:
        began = time.perf_counter()
        with link(spark.read.parquet(file), model, id="unique_id", unique=True) as found:
            found.clusters().write.mode("overwrite").parquet(out)
            seconds = time.perf_counter() - began
            pairs = sum(found.counted.values())
            dropped = sum(found.blocked.refused.pairs.values())
    seconds_of[WRITE] = seconds - sum(seconds_of.values())
    return Run(file, session, seconds, seconds_of, pairs, dropped)


@contextmanager
def steps() -> Iterator[dict[str, float]]:
    """Seconds by step of what is linked meanwhile. None of STEPS runs inside another."""
    seconds: dict[str, float] = {}

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

        return call

    with ExitStack() as stack:
        for owner, attribute, name in STEPS:
            stack.enter_context(
                patch.object(owner, attribute, timed(getattr(owner, attribute), name))
            )
        yield seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
