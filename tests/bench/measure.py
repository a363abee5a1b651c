"""What is timed: synthesis, a bare Spark copy, Concord's ingest and its steps. All in seconds."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pyspark.sql import SparkSession

from concord.errors import ConcordError
from concord.ingest import acceptance, delivery, integrity, job, publish
from concord.ingest import stage as staging
from concord.lake.run import running
from concord.lake.tables import Lake
from concord.reporting import Reporter
from concord.settings import Keys, Settings, SparkSettings
from concord.synthesis import synthesize
from tests.agreed import register
from tests.bench.feed import BARE_SCHEMA, FEED, Made, contract, deliver, make_file
from tests.bench.report import Pair, Profile, Scale, Step, Synthesis
from tests.feeds import mou

ROOT = Path(__file__).resolve().parents[2]
AS_OF = date(2025, 12, 31)


def settings_of(folder: Path, memory: str) -> Settings:
    """A deployment of its own in `folder`, with as many partitions as one machine needs.

    Code generation and adaptive execution stay as Spark ships them, as on a cluster.
    """
    partitions = str(4 * len(os.sched_getaffinity(0)))
    own: dict[str, Any] = {
        "lake": str(folder / "lake"),
        "landing": str(folder / "landing"),
        "keys": Keys(path=folder / "keys"),
        "spark": SparkSettings(
            master="local[*]",
            jars=str(ROOT / "infra" / "jars"),
            confs={
                "spark.driver.memory": memory,
                "spark.local.dir": str(folder / "spark"),
                "spark.sql.warehouse.dir": str(folder / "warehouse"),
                # Two hundred shuffle and fifty log partitions are sized for a cluster.
                "spark.sql.shuffle.partitions": partitions,
                "spark.databricks.delta.snapshotPartitions": "1",
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
            },
        ),
    }
    # Whatever CONCORD_* says in the environment: a benchmark never writes into a real lake.
    return Settings(**own).model_copy(update=own)


def synthesis(folder: Path, people: int) -> Synthesis:
    """One synthetic Commonwealth of `people` people, eighteen months, without faults."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    made = synthesize(folder, people=people, contracts=ROOT / "conf" / "feeds")
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    return Synthesis(people, made.rows, made.bytes, seconds)


@dataclass
class Bench:
    """One session, one lake; every delivery is the next month of one feed."""

    spark: SparkSession
    settings: Settings
    folder: Path
    deliveries: int = 0
    files: dict[int, Made] = field(default_factory=dict)

    def file(self, rows: int) -> Made:
        """The generated file of so many rows, made once."""
        if rows not in self.files:
            self.files[rows] = make_file(self.folder / "files" / f"{rows}.csv", rows)
        return self.files[rows]

    def bare(self, rows: int) -> float:
        """Spark alone: the CSV, with header and schema, to a new Delta table."""
        made, target = self.file(rows), self.folder / "bare"
        began = time.perf_counter()
        frame = self.spark.read.csv(str(made.path), header=True, schema=BARE_SCHEMA)
        frame.write.format("delta").save(str(target))
        seconds = time.perf_counter() - began
        shutil.rmtree(target)
        return seconds

    def ingest(self, rows: int) -> tuple[float, dict[str, float]]:
        """Concord's whole run over one delivery, its ledgers included; seconds and those of steps.

        Raises ConcordError when the delivery is not loaded to its last row.
        """
        self.deliveries += 1
        deliver(Path(self.settings.landing), self.file(rows), self.deliveries)
        with steps() as seconds_of:
            began = time.perf_counter()
            with running(
                self.settings,
                "ingest",
                arguments={},
                as_of=AS_OF,
                run_id=f"bench-{self.deliveries}",
                config_digest="bench",
                dry_run=False,
                reporter=Reporter(quiet=True),
                spark=self.spark,
            ) as run:
                outcomes = job.ingest(run, {FEED: contract()}, register(*mou(FEED).values()))
            seconds = time.perf_counter() - began
        loaded = sum(o.rows - o.quarantined for o in outcomes if o.status == "loaded")
        if loaded != rows:
            told = "; ".join(f"{o.status}: {o.message}" for o in outcomes) or "no delivery found"
            raise ConcordError(f"{loaded} of {rows} rows were loaded, nothing to measure: {told}")
        return seconds, seconds_of

    def warm_ups(self, sizes: Sequence[int]) -> list[int]:
        """The smallest size that is interpreted and the smallest that is compiled, as there are.

        The first delivery of either kind pays for loading classes that later ones find loaded.
        """
        smallest: dict[bool, int] = {}
        for rows in sorted(sizes):
            smallest.setdefault(self.file(rows).bytes < delivery.COMPILE_FROM_BYTES, rows)
        return list(smallest.values())

    def pair(self, rows: int) -> Pair:
        """A bare copy and then an ingest of one file."""
        bare = self.bare(rows)
        return Pair(bare, self.ingest(rows)[0])

    def scale(
        self, sizes: Sequence[int], tell: Callable[[Scale], None]
    ) -> tuple[list[Scale], Profile]:
        """One bare copy and one ingest at each size, and the steps of the last ingest."""
        found: list[Scale] = []
        profile = Profile(0, 0.0, 0.0, ())
        for rows in sizes:
            bare = self.bare(rows)
            seconds, seconds_of = self.ingest(rows)
            found.append(Scale(rows, self.file(rows).bytes, bare, seconds))
            tell(found[-1])
            named = tuple(Step(name, spent) for name, spent in seconds_of.items())
            profile = Profile(rows, bare, seconds, named)
        return found, profile


# --- steps ---------------------------------------------------------------------------------------


@contextmanager
def steps() -> Iterator[dict[str, float]]:
    """Seconds by step of what is ingested meanwhile; a step's own, without the steps inside it.

    Spark is lazy: a step holds the seconds of the queries that it makes run.
    """
    seconds: dict[str, float] = {}
    open_steps = threading.local()

    def timed(name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inside: list[float] = getattr(open_steps, "inside", [])
            open_steps.inside = [*inside, 0.0]
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - began
                *outer, children = open_steps.inside
                step = name(*args, **kwargs)
                seconds[step] = seconds.get(step, 0.0) + spent - children
                if outer:
                    outer[-1] += spent
                open_steps.inside = outer

        return call

    def always(name: str) -> Callable[..., str]:
        return lambda *_, **__: name

    wrapped: list[tuple[Any, str, Callable[..., str]]] = [
        (integrity, "open_delivery", always("hash")),
        (integrity, "archive", always("archive (copy, hash again)")),
        (integrity, "shape", always("compare shape")),
        (delivery, "stage", always("stage (read, type, check, key, write)")),
        (staging, "_late", always("find duplicate keys")),
        (staging, "_audit", always("audit")),
        (acceptance, "balance", always("audit")),
        (publish.Publication, "write", lambda _, __, table, *___, **____: f"publish {table.name}"),
        (Lake, "append", always("ledgers")),
    ]
    with ExitStack() as stack:
        for owner, attribute, name in wrapped:
            function = timed(name, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, function))
        yield seconds
