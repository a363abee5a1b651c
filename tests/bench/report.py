"""Results of a benchmark as data, as JSON and as the measured part of docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from concord.errors import UsageError

AIM = 2.0
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


@dataclass(frozen=True)
class Synthesis:
    people: int
    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Pair:
    """A bare Spark copy and, right after it, Concord's ingest of the same file, in seconds."""

    bare: float
    concord: float

    @property
    def ratio(self) -> float:
        return self.concord / self.bare


@dataclass(frozen=True)
class Scale:
    """One file size: rows, bytes of CSV, seconds of a bare copy and of Concord's ingest."""

    rows: int
    bytes: int
    bare: float
    seconds: float


@dataclass(frozen=True)
class Step:
    name: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Where one ingest's seconds went. What no step accounts for is planning, locks, clean-up."""

    rows: int
    bare: float
    seconds: float
    steps: tuple[Step, ...]

    @property
    def rest(self) -> float:
        return self.seconds - sum(step.seconds for step in self.steps)


@dataclass(frozen=True)
class Features:
    """Check-ins, features of each, and the seconds to make them in a new session and again."""

    rows: int
    columns: int
    first: float
    again: float


@dataclass(frozen=True)
class Line:
    """The demo as a process: seconds of all of it and, in order, of its stages."""

    people: int
    seconds: float
    stages: dict[str, float]
    records: int
    features: Features


@dataclass(frozen=True)
class Results:
    """All of one benchmark; a part that was not asked for is None or empty."""

    measured_on: str
    command: str
    machine: dict[str, str]
    rules: int
    columns: int
    synthesis: Synthesis | None = None
    ratio_rows: int = 0
    pairs: tuple[Pair, ...] = ()
    scale: tuple[Scale, ...] = ()
    profile: Profile | None = None
    line: Line | None = None


def ratios(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Least, median and greatest ratio of the pairs."""
    found = [pair.ratio for pair in pairs]
    return min(found), median(found), max(found)


def machine_facts(java: str, memory: str) -> dict[str, str]:
    """What the figures depend on and a reader may know: no host name, no path."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{total / 2**30:.0f} GiB, of which the driver may take {memory}",
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "Java": java,
        "Python": platform.python_version(),
        "Spark": version("pyspark"),
        "Delta Lake": version("delta-spark"),
    }


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


# --- writing -------------------------------------------------------------------------------------


def write_json(results: Results, path: Path) -> None:
    """The figures as measured, ratios included; a benchmark's next reader is a program."""
    whole = asdict(results)
    if results.pairs:
        least, middle, most = ratios(results.pairs)
        whole["ratio"] = {"min": least, "median": middle, "max": most, "aim": AIM}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=2) + "\n")


def write_docs(results: Results, path: Path) -> None:
    """Puts the figures between the markers of a Markdown file; what is around them stays.

    Raises ValueError when the file has not exactly one pair of markers.
    """
    text = path.read_text() if path.exists() else f"# Benchmarks\n\n{START}\n{END}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(between_markers(text, markdown(results)))


def check_markers(docs: Path, start: str, end: str) -> None:
    """Raises UsageError (exit 2), before anything is measured, if the figures would have no place
    in the document."""
    if not docs.is_file():
        raise UsageError(f"--docs {docs}: no such file; give a Markdown file with {start}")
    try:
        between_markers(docs.read_text(), "", start, end)
    except ValueError as error:
        raise UsageError(f"--docs {docs}: {error}") from None


def between_markers(text: str, block: str, start: str = START, end: str = END) -> str:
    """`text` with `block` in place of what stood between its markers."""
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the file needs one {start} and, after it, one {end}")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{block.strip()}\n{end}{after}"


def markdown(results: Results) -> str:
    """The measured part of docs/benchmarks.md."""
    parts = [
        f"Measured on {results.measured_on} with `{results.command}`.",
        table(("machine", ""), [(name, fact) for name, fact in results.machine.items()]),
        "### Synthesis",
        _synthesis(results.synthesis),
        "### Ingest against a bare Spark copy",
        _ratio(results),
        "### Ingest by size",
        _scale(results.scale),
        "### Where an ingest's time goes",
        _profile(results.profile),
        "### The whole line",
        _line(results.line),
    ]
    return "\n\n".join(parts) + "\n"


NOT_MEASURED = "Not measured in this run."


def _synthesis(made: Synthesis | None) -> str:
    if made is None:
        return NOT_MEASURED
    row = (
        f"{made.people:,}",
        f"{made.rows:,}",
        f"{made.bytes / 1e6:,.0f}",
        f"{made.seconds:.1f}",
        f"{made.rows / made.seconds:,.0f}",
    )
    return table(("people", "rows", "MB", "seconds", "rows per second"), [row], numbers=True)


def _ratio(results: Results) -> str:
    if not results.pairs:
        return NOT_MEASURED
    least, middle, most = ratios(results.pairs)
    verdict = "within" if middle <= AIM else "above"
    said = (
        f"{results.ratio_rows:,} rows of {results.columns} columns, {results.rules} rules. "
        f"Ratio: median **{middle:.2f}** (least {least:.2f}, greatest {most:.2f}), "
        f"{verdict} the aim of {AIM:.1f}."
    )
    rows = [
        (str(number), f"{pair.bare:.2f}", f"{pair.concord:.2f}", f"{pair.ratio:.2f}")
        for number, pair in enumerate(results.pairs, 1)
    ]
    heading = ("pair", "bare Spark, seconds", "Concord, seconds", "ratio")
    return f"{said}\n\n{table(heading, rows, numbers=True)}"


def _scale(scale: Sequence[Scale]) -> str:
    if not scale:
        return NOT_MEASURED
    rows = [
        (
            f"{size.rows:,}",
            f"{size.bytes / 1e6:,.1f}",
            f"{size.seconds:.2f}",
            f"{size.rows / size.seconds:,.0f}",
            f"{size.bare:.2f}",
            f"{size.seconds / size.bare:.2f}",
        )
        for size in scale
    ]
    heading = ("rows", "MB", "seconds", "rows per second", "bare Spark, seconds", "ratio")
    return table(heading, rows, numbers=True)


def _profile(profile: Profile | None) -> str:
    if profile is None:
        return NOT_MEASURED
    steps = [
        *profile.steps,
        Step("rest (planning, locks, clean-up)", profile.rest),
        Step("**all**", profile.seconds),
    ]
    rows = [
        (step.name, f"{step.seconds:.2f}", f"{step.seconds / profile.bare:.2f}") for step in steps
    ]
    said = f"{profile.rows:,} rows; the bare Spark copy of them took {profile.bare:.2f} seconds."
    heading = ("step", "seconds", "times the bare copy")
    return f"{said}\n\n{table(heading, rows, numbers=True)}"


def _line(line: Line | None) -> str:
    if line is None:
        return NOT_MEASURED
    made = line.features
    said = (
        f"`make demo` for {line.people:,} people, in a process of its own: **{line.seconds:.0f}** "
        f"seconds, of which the session, the display and the judgement are a part. The index "
        f"knows {line.records:,} records. Features by themselves, {made.columns} of each of "
        f"{made.rows:,} check-ins: {made.first:.1f} seconds in a new session, {made.again:.1f} "
        "again."
    )
    rows = [(stage, f"{seconds:.1f}") for stage, seconds in line.stages.items()]
    for job in ("ingest", "index"):
        total = sum(value for stage, value in line.stages.items() if stage.startswith(job))
        rows.append((f"**{job}, all**", f"{total:.1f}"))
    return f"{said}\n\n{table(('stage', 'seconds'), rows, numbers=True)}"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A Markdown table; with `numbers`, every column that holds only figures is set right."""
    right = [
        numbers and all(row[place].replace(",", "").replace(".", "").isdigit() for row in rows)
        for place in range(len(heading))
    ]
    lines = [heading, ["---:" if is_right else "---" for is_right in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
