"""`make bench BENCH=linkage`: the linkage engine beside Splink, on the same records and rules.

Both run in processes of their own, one after the other. Splink stands in an environment of its own
in build/bench/splink, made when it is first wanted; nothing of the project depends on it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import py4j
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import typer
from rich.console import Console
from rich.markdown import Markdown

from concord.errors import ConcordError, QualityError, UsageError
from concord.linkage import pairwise
from tests.bench.engine_side import STEPS, WRITE, Job, Run
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.persons import write_persons, write_skewed
from tests.bench.report import between_markers, check_markers, machine_facts, table

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "bench" / "linkage.yaml"
START, END = "<!-- linkage:start -->", "<!-- linkage:end -->"
RECORDS, FULL, REPETITIONS, MEMORY = "1000000", 5_000_000, 3, "6g"
HISTORIES, HISTORY_TEST = 500, ROOT / "tests" / "unit" / "linkage" / "test_identity.py"
# How many records get one name and birth date in the skewed run; a fifth of them at most.
SKEW = 200_000
# Pairs of each block that teach Splink: with more, F1 at 1,000,000 records stayed 0.9919 and the
# training took twice as long.
EM_PAIRS = 100_000
SPLINK = ("splink==5.0.0", "duckdb==2.0.1")
SAMPLED_EVERY = 0.5  # seconds between looks at memory

console = Console(highlight=False)


@dataclass(frozen=True)
class Splink:
    """One run of Splink in a process of its own; `pairs` are those of its blocking rules."""

    version: str
    seconds: float
    steps: dict[str, float]
    pairs: int


@dataclass(frozen=True)
class Size:
    """Both engines on one number of records: the runs of one session, Splink's runs, what came out.

    `skewed`: the run on records of which `skew_of` have one name and birth date, in the same
    session. Bytes are the most that a process and its children had at once, shared pages counted
    once.
    """

    records: int
    runs: tuple[Run, ...]
    skewed: Run | None
    f1: float
    peak: int
    java: str = ""
    splink: tuple[Splink, ...] = ()
    splink_f1: float | None = None
    splink_peak: int | None = None
    splink_spark: Splink | None = None

    @property
    def cold(self) -> float:
        return self.runs[0].seconds

    @property
    def warm(self) -> float:
        """The later runs of the session; the first where there is no other."""
        return median(run.seconds for run in self.runs[1:] or self.runs)

    @property
    def other(self) -> float | None:
        """Splink's seconds."""
        return median(run.seconds for run in self.splink) if self.splink else None

    @property
    def ratios(self) -> dict[str, float]:
        """Seconds of the engine for one of Splink's."""
        if self.other is None:
            return {}
        seconds = {"cold with Spark's start": self.runs[0].session + self.cold, "cold": self.cold}
        seconds |= {"warm": self.warm} if len(self.runs) > 1 else {}
        found = {name: spent / self.other for name, spent in seconds.items()}
        if self.splink_spark:
            found["cold, of Splink on Spark"] = self.cold / self.splink_spark.seconds
        return found

    @property
    def skew(self) -> float | None:
        """Seconds of the skewed run for one of the warm runs."""
        return self.skewed.seconds / self.warm if self.skewed else None


@dataclass(frozen=True)
class Linkage:
    """All of one benchmark. `absent`: why there is no Splink, where there is none."""

    measured_on: str
    command: str
    machine: dict[str, str]
    sizes: tuple[Size, ...] = ()
    absent: str | None = None


def linkage(
    records: Annotated[str, typer.Option(help="Numbers of records, by commas.")] = RECORDS,
    full: Annotated[bool, typer.Option("--full", help=f"Also {FULL:,} records.")] = False,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Runs of each engine: the first one is cold.")
    ] = REPETITIONS,
    skew: Annotated[bool, typer.Option(help="Also a run on skewed records.")] = True,
    splink: Annotated[bool, typer.Option(help="Also Splink, which needs a network once.")] = True,
    on_spark: Annotated[
        bool,
        typer.Option("--on-spark", help="Also Splink on Spark, once, over the fewest records."),
    ] = False,
    histories: Annotated[
        int, typer.Option(help="Generated histories of the index to check first; 0: none.")
    ] = HISTORIES,
    memory: Memory = MEMORY,
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure the linkage engine, and Splink beside it, on invented people."""
    check_markers(docs, START, END)
    sizes = sorted({*sizes_of(records), *([FULL] if full else [])})
    if histories:
        console.print(f"{histories:,} histories of the index", end=": ")
        console.print(f"as the oracle says, {checked_histories(histories):.0f} s")
    asked = {"full": full, "no-skew": not skew, "no-splink": not splink, "on-spark": on_spark}
    results = Linkage(
        datetime.now(UTC).date().isoformat(),
        command_of(records, repetitions=repetitions, flags=asked),
        machine_facts("", memory),
    )
    python, absent = environment(out.resolve() / "splink") if splink else (None, "not asked for")
    if absent:
        console.print(f"without Splink: {absent}")
    folder = (out / "work-linkage").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        found = []
        for each in sizes:
            size = measured(folder, each, repetitions, memory, python, skew=skew)
            if on_spark and python and each == sizes[0]:
                size = replace(size, splink_spark=splink_on_spark(folder, each, python))
            found.append(size)
            console.print(Markdown(table_of(found[-1])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine = {**results.machine, "Java": found[-1].java}
    results = replace(results, machine=machine, sizes=tuple(found), absent=absent)
    write_json(results, out / "linkage.json")
    docs.write_text(between_markers(docs.read_text(), markdown(results), START, END))
    console.print(Markdown(markdown(results)))
    console.print(f"written: {out / 'linkage.json'}, {docs}")


def checked_histories(count: int, test: Path = HISTORY_TEST) -> float:
    """Seconds in which persons over so many generated histories were what the oracle says (`test`).

    Raises QualityError (exit 12) with what the test says where they were not.
    """
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "history", str(test)],
        env={**os.environ, "INDEX_HISTORIES": str(count)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise QualityError(f"the index's histories: {done.stdout[-2000:]}")
    return time.perf_counter() - begin


def skew_of(records: int) -> int:
    return min(SKEW, records // 5)


# --- measuring -----------------------------------------------------------------------------------


def measured(
    folder: Path, records: int, repetitions: int, memory: str, python: Path | None, *, skew: bool
) -> Size:
    """Both engines on so many records."""
    console.print(f"{records:,} records are made")
    plain, skewed = folder / f"{records}.parquet", folder / f"{records}-skewed.parquet"
    write_persons(plain, records)
    truth = pq.read_table(plain, columns=["unique_id", "person"])
    files = [(str(plain), str(folder / "clusters"))] * repetitions
    if skew:
        write_skewed(plain, skewed, skew_of(records) / records)
        files.append((str(skewed), str(folder / "clusters-skewed")))
    console.print(f"linked {repetitions} times in one session")
    job = folder / "job.json"
    job.write_text(
        json.dumps(asdict(Job(str(MODEL), tuple(files), str(folder / "engine"), memory)))
    )
    told, peak = watched([sys.executable, "-m", "tests.bench.engine_side", str(job)], "the engine")
    runs = [Run(**run) for run in told["runs"]]
    size = Size(
        records,
        tuple(runs[:repetitions]),
        runs[repetitions] if skew else None,
        f1(folder / "clusters", ("id", "cluster"), truth),
        peak,
        told["java"],
    )
    if python is None:
        return size
    console.print(f"linked {repetitions} times by Splink")
    others, peaks, target = [], [], folder / "splink.parquet"
    script = str(ROOT / "tests" / "bench" / "splink_side.py")
    for _ in range(repetitions):
        command = [str(python), script, str(plain), str(target), str(cores()), str(EM_PAIRS)]
        told, most = watched(command, "Splink")
        others.append(Splink(**told))
        peaks.append(most)
    return replace(
        size,
        splink=tuple(others),
        splink_f1=f1(target, ("unique_id", "cluster_id"), truth),
        splink_peak=max(peaks),
    )


def splink_on_spark(folder: Path, records: int, python: Path) -> Splink:
    """Splink over the same file, in the Spark that Concord runs on."""
    console.print("linked once by Splink on Spark")
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    for one in (pyspark.__file__, py4j.__file__):
        home = Path(str(one)).parent
        if not (packages / home.name).exists():
            (packages / home.name).symlink_to(home)
    script = str(ROOT / "tests" / "bench" / "splink_side.py")
    source, target = str(folder / f"{records}.parquet"), str(folder / "splink-spark.parquet")
    command = [str(python), script, source, target, str(cores()), str(EM_PAIRS), "spark"]
    told, _ = watched(command, "Splink on Spark", {"PYTHONPATH": str(packages)})
    return Splink(**told)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def watched(
    command: Sequence[str], what: str, environment: Mapping[str, str] | None = None
) -> tuple[Any, int]:
    """What a process tells as JSON on its last line, and the most memory it had with its children.

    Raises ConcordError where it fails.
    """
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak, ended = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(SAMPLED_EVERY):
            peak = max(peak, sum(memory_of(one) for one in family(process.pid)))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    said, complaint = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise ConcordError(f"{what} ended with {process.returncode}:\n{complaint[-2000:]}")
    return json.loads(said.splitlines()[-1]), peak


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as /proc has them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything; the parent is the second field after it.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def memory_of(pid: int) -> int:
    """Bytes that a process holds, of shared pages its share; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def f1(found: Path, names: tuple[str, str], truth: pa.Table) -> float:
    """Pairwise F1 of ids and clusters against `unique_id`, `person`. Raises ConcordError where
    records are lost."""
    id_column, cluster = names
    clusters = pq.read_table(found, columns=[id_column, cluster]).sort_by(id_column)
    known = truth.sort_by("unique_id")
    if clusters[id_column].to_pylist() != known["unique_id"].to_pylist():
        raise ConcordError(f"{found.name} has not the records that were given")
    return pairwise(clusters[cluster].to_pylist(), known["person"].to_pylist()).f1


def environment(folder: Path) -> tuple[Path | None, str | None]:
    """A Python that has Splink, made if it is not there; or why there is none."""
    python, made = folder / "bin" / "python", folder / "made"
    wanted = " ".join(SPLINK)
    if made.exists() and made.read_text() == wanted:
        return python, None
    console.print(f"installing {wanted} into {folder.name}: a minute, and 300 MB")
    venv = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
    if subprocess.run(venv, check=False).returncode:
        return None, f"no environment could be made in {folder.name}"
    # uv is the quicker one, pip knows the settings of a site's mirror.
    ways = (
        [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-config"]
        + ["--python", str(python), *SPLINK],
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *SPLINK],
    )
    for way in ways:
        try:
            done = subprocess.run(way, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            made.write_text(wanted)
            return python, None
    return None, f"{wanted} could not be installed; it needs a package index"


# --- telling -------------------------------------------------------------------------------------


def sizes_of(text: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1000:
        raise UsageError(f"--records {text}: numbers from 1000 on by commas, such as {RECORDS}")
    return sizes


def command_of(records: str, *, repetitions: int, flags: Mapping[str, bool]) -> str:
    """The command that gives these figures again."""
    said = [
        "linkage",
        *([f"--records {records}"] if records != RECORDS else []),
        *([f"--repetitions {repetitions}"] if repetitions != REPETITIONS else []),
        *(f"--{name}" for name, given in flags.items() if given),
    ]
    one = len(said) == 1
    return "make bench BENCH=linkage" if one else f'make bench BENCH="{" ".join(said)}"'


def write_json(results: Linkage, path: Path) -> None:
    whole = asdict(results)
    for told, size in zip(whole["sizes"], results.sizes, strict=True):
        told |= {"cold": size.cold, "warm": size.warm, "splink_seconds": size.other}
        told |= {"ratios": size.ratios, "skew_ratio": size.skew}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=2) + "\n")


def markdown(results: Linkage) -> str:
    """The measured part of docs/benchmarks.md that is about linkage."""
    parts = [
        f"Measured on {results.measured_on} with `{results.command}`.",
        table(("machine", ""), list(results.machine.items())),
    ]
    if results.absent:
        parts.append(f"Without Splink: {results.absent}.")
    for size in results.sizes:
        parts += [f"### Linkage of {size.records:,} records", summary(size), table_of(size)]
    return "\n\n".join(parts) + "\n"


def summary(size: Size) -> str:
    """A size's figures in words."""
    first = size.runs[0]
    warm = f", warm {size.warm:.1f}" if len(size.runs) > 1 else ""
    said = [
        f"{first.pairs:,} pairs compared; cold {size.cold:.1f} seconds (Spark's start before it "
        f"{first.session:.1f}){warm}; pairwise F1 {size.f1:.4f}; "
        f"{size.peak / 2**30:.1f} GiB at most."
    ]
    if size.other is not None and size.splink_f1 is not None and size.splink_peak is not None:
        ratios = ", ".join(f"{name} **{ratio:.2f}**" for name, ratio in size.ratios.items())
        said.append(
            f"Splink {size.splink[0].version}: {size.splink[0].pairs:,} pairs, "
            f"{size.other:.1f} seconds, F1 {size.splink_f1:.4f}, "
            f"{size.splink_peak / 2**30:.1f} GiB at most. Seconds of the engine for one of "
            f"Splink's: {ratios}."
        )
    if size.splink_spark is not None:
        said.append(f"Splink on Spark, its start apart: {size.splink_spark.seconds:.0f} seconds.")
    if size.skewed is not None and size.skew is not None:
        said.append(
            f"With one name and birth date on some {skew_of(size.records):,} records: "
            f"{size.skewed.seconds:.1f} seconds, **{size.skew:.2f}** times the warm runs; "
            f"{size.skewed.pairs:,} pairs compared, {size.skewed.dropped:,} kept out by the pair "
            "budget."
        )
    return " ".join(said)


def table_of(size: Size) -> str:
    """Seconds by step: every run of the engine, then Splink's own steps."""
    names = list(dict.fromkeys([*(name for *_, name in STEPS), WRITE]))
    runs = [*size.runs, *([size.skewed] if size.skewed else [])]
    heading = ["step", *(["cold"] + [f"warm {n}" for n in range(1, len(size.runs))])]
    heading += ["skewed"] if size.skewed else []
    rows = [[name, *(f"{run.steps.get(name, 0):.2f}" for run in runs)] for name in names]
    rows.append(["**all**", *(f"{run.seconds:.2f}" for run in runs)])
    told = [table(heading, rows, numbers=True)]
    if size.splink:
        heading = ["Splink's step", *(f"run {n}" for n in range(1, len(size.splink) + 1))]
        rows = [
            [step, *(f"{run.steps[step]:.2f}" for run in size.splink)]
            for step in size.splink[0].steps
        ]
        rows.append(["**all**", *(f"{run.seconds:.2f}" for run in size.splink)])
        told.append(table(heading, rows, numbers=True))
    return "\n\n".join(told)
