"""`make bench BENCH=scaling`: the engine on a standalone cluster of workers with one core each.

A master and two workers run on this machine, on the loopback interface, each worker and all that it
starts bound to a core of its own: else the Java and the Python process of one would have a core
each. An application may have one core of them, or both; each is a process of its own and links the
same records twice, and the second, warm run counts.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pyspark
import typer
from rich.console import Console
from rich.markdown import Markdown

from concord.errors import ConcordError
from tests.bench.engine_side import STEPS, WRITE, Job, Run
from tests.bench.linkage import MODEL, sizes_of, watched
from tests.bench.options import DOCS, OUT, Docs, Out
from tests.bench.persons import write_persons
from tests.bench.report import between_markers, check_markers, machine_facts, table

START, END = "<!-- scaling:start -->", "<!-- scaling:end -->"
RECORDS, WORKERS, DRIVER, EXECUTOR = "1000000", 2, "3g", "3g"
CANDIDATES = "make and compare pairs"
REACHED = 60.0  # seconds that a daemon may take to listen

console = Console(highlight=False)


@dataclass(frozen=True)
class Scaled:
    """Warm runs over one number of records, by the number of workers."""

    records: int
    runs: dict[int, Run]

    @property
    def speedups(self) -> dict[str, float]:
        """Step, and all of it -> seconds with one worker for one second with all."""
        one, most = self.runs[1], self.runs[max(self.runs)]
        found = {
            name: seconds / most.steps[name]
            for name, seconds in one.steps.items()
            if most.steps.get(name)
        }
        return {**found, "all": one.seconds / most.seconds}


def scaling(
    records: Annotated[str, typer.Option(help="Numbers of records, by commas.")] = RECORDS,
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure the engine with one worker and with two, of one core each."""
    check_markers(docs, START, END)
    facts = machine_facts("", DRIVER)
    folder = (out / "work-scaling").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = []
    try:
        with cluster(folder) as master:
            for size in sizes_of(records):
                people = folder / f"{size}.parquet"
                write_persons(people, size)
                runs = {}
                for workers in range(1, WORKERS + 1):
                    console.print(f"{size:,} records, {workers} worker{'s' * (workers > 1)}")
                    home = folder / f"{workers}"
                    facts["Java"], runs[workers] = linked(people, home, master, workers)
                found.append(Scaled(size, runs))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    command = f'"scaling --records {records}"' if records != RECORDS else "scaling"
    day = datetime.now(UTC).date()
    parts = [f"Measured on {day} with `make bench BENCH={command}`."]
    parts.append(table(("machine", ""), list(facts.items())))
    parts += [f"### Workers, over {one.records:,} records\n\n{table_of(one)}" for one in found]
    docs.write_text(between_markers(docs.read_text(), "\n\n".join(parts) + "\n", START, END))
    whole = {"measured_on": str(day), "machine": facts, "sizes": [asdict(one) for one in found]}
    (out / "scaling.json").write_text(json.dumps(whole, indent=2) + "\n")
    console.print(Markdown("\n\n".join(map(table_of, found))))
    console.print(f"written: {out / 'scaling.json'}, {docs}")


def table_of(size: Scaled) -> str:
    names = list(dict.fromkeys([*(name for *_, name in STEPS), WRITE]))
    heading = ["step", *(f"{n} worker{'s' * (n > 1)}" for n in size.runs), "times as fast"]
    speedups = size.speedups
    rows = [
        [
            name,
            *(f"{run.steps.get(name, 0):.2f}" for run in size.runs.values()),
            f"{speedups[name]:.2f}" if name in speedups else "",
        ]
        for name in names
    ]
    seconds = [f"{run.seconds:.2f}" for run in size.runs.values()]
    rows.append(["**all**", *seconds, f"{speedups['all']:.2f}"])
    told = f"With {max(size.runs)} workers the pairs are made **{speedups[CANDIDATES]:.2f}** times "
    return f"{told}as fast as with one.\n\n{table(heading, rows, numbers=True)}"


def linked(people: Path, folder: Path, master: str, workers: int) -> tuple[str, Run]:
    """Java's version, and the warm run of an application that may have so many of the workers."""
    folder.mkdir()
    files = ((str(people), str(folder / "clusters")),) * 2
    job = folder / "job.json"
    confs = {"spark.cores.max": str(workers), "spark.executor.memory": EXECUTOR}
    confs |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    job.write_text(json.dumps(asdict(Job(str(MODEL), files, str(folder), DRIVER, master, confs))))
    told, _ = watched([sys.executable, "-m", "tests.bench.engine_side", str(job)], "the engine")
    return told["java"], Run(**told["runs"][-1])


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A standalone master with its workers; its address. Raises ConcordError if it does not come
    up."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < WORKERS:
        raise ConcordError(f"{WORKERS} workers need a core each; there are {len(cores)}")
    port = _free_port()
    address = f"spark://127.0.0.1:{port}"
    daemons = [_daemon(folder, "master.Master", "--port", str(port), "--webui-port", "0")]
    try:
        _wait_for(port)
        for number in range(WORKERS):
            home = folder / f"worker-{number}"
            options = ("--cores", "1", "--memory", EXECUTOR, "--webui-port", "0")
            daemons.append(_daemon(home, "worker.Worker", *options, address))
            os.sched_setaffinity(daemons[-1].pid, {cores[number]})
        yield address
    finally:
        for each in daemons:
            each.terminate()
        for each in daemons:
            each.wait(timeout=60)


def _daemon(home: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    home.mkdir(parents=True, exist_ok=True)
    spark = Path(pyspark.__file__).parent
    kind = f"org.apache.spark.deploy.{name}"
    command = [str(spark / "bin" / "spark-class"), kind, "--host", "127.0.0.1", *options]
    environment = {**os.environ, "SPARK_HOME": str(spark), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment |= {"SPARK_WORKER_DIR": str(home), "SPARK_LOCAL_DIRS": str(home)}
    with (home / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + REACHED
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise ConcordError(f"no Spark master listens on port {port} after {REACHED:.0f} s")
