"""`python -m tests.bench`: measures, shows, and writes build/bench/ingest.json and the document."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from concord.cli import exit_code_of
from concord.errors import UsageError
from concord.ingest.rules import declared_rules
from concord.lake.session import start
from tests.bench.accuracy import accuracy
from tests.bench.agreements import agreements
from tests.bench.commonwealth import commonwealth
from tests.bench.engine_side import java_of
from tests.bench.features import features
from tests.bench.feed import COLUMNS, contract
from tests.bench.few import few
from tests.bench.index_job import index_job
from tests.bench.line import line
from tests.bench.linkage import linkage
from tests.bench.measure import Bench, settings_of, synthesis
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import (
    Pair,
    Results,
    Scale,
    machine_facts,
    markdown,
    write_docs,
    write_json,
)
from tests.bench.scaling import scaling
from tests.bench.scores import scores

PEOPLE, REPETITIONS, RATIO_ROWS, MEMORY = 60_000, 3, 1_000_000, "8g"
SIZES, FULL = "10000,100000,1000000", 10_000_000

console = Console(highlight=False)


def bench(
    context: typer.Context,
    people: Annotated[int, typer.Option(help="People to synthesize; 0: no synthesis.")] = PEOPLE,
    line_people: Annotated[
        int, typer.Option(help="People of the demo that is timed whole; 0: no demo.")
    ] = PEOPLE,
    rows: Annotated[str, typer.Option(help="Sizes to ingest, by commas.")] = SIZES,
    full: Annotated[bool, typer.Option("--full", help=f"Also ingest {FULL:,} rows.")] = False,
    ratio_rows: Annotated[int, typer.Option(help="Rows of the file for the ratio.")] = RATIO_ROWS,
    repetitions: Annotated[
        int, typer.Option(help="Pairs of bare copy and ingest after the warm-up; 0: no ratio.")
    ] = REPETITIONS,
    memory: Memory = MEMORY,
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure synthesis, ingestion and the whole line on this machine; `linkage`: the engine alone;
    `index`: the whole index job; `accuracy`: how right the engine is; `commonwealth`: how right the
    index is of a million invented people, group by group; `scaling`: the engine on one
    worker and on two; `agreements`: what decisions, labels and enforced reads cost;
    `features`: facts as known, in one pass and by joins; `scores`: what a day's scores cost;
    `few`: commits of few rows by the driver and by Spark."""
    if context.invoked_subcommand:
        return
    sizes = sorted({*_sizes(rows), *([FULL] if full else [])})
    given: dict[str, int | str] = {
        "people": people,
        "line-people": line_people,
        "rows": rows,
        "ratio-rows": ratio_rows,
        "repetitions": repetitions,
    }
    command = _command(given | {"memory": memory}, full=full)
    # The load is told as it was before this benchmark made its own.
    facts = machine_facts("", memory)
    folder = (out / "work").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    results = Results(
        datetime.now(UTC).date().isoformat(),
        command,
        facts,
        declared_rules(contract()),
        len(COLUMNS),
        ratio_rows=ratio_rows,
    )
    try:
        if people:
            console.print(f"synthesize {people:,} people")
            results = replace(results, synthesis=synthesis(folder / "synthesis", people))
        if line_people:
            console.print(f"the demo of {line_people:,} people")
            results = replace(results, line=line(folder / "demo", line_people))
        results = _ingestion(results, folder, sizes, repetitions, memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(results, out / "ingest.json")
    write_docs(results, docs)
    console.print(Markdown(markdown(results)))
    console.print(f"written: {out / 'ingest.json'}, {docs}")


def _ingestion(
    results: Results, folder: Path, sizes: list[int], repetitions: int, memory: str
) -> Results:
    settings = settings_of(folder, memory)
    spark = start(settings, application="concord bench")
    try:
        java = java_of(spark)
        measured = Bench(spark, settings, folder)
        wanted = [*measured.warm_ups(sizes), *([results.ratio_rows] if repetitions else [])]
        for rows in dict.fromkeys(wanted):
            _tell_pair("warm-up", rows, measured.pair(rows))
        pairs = []
        for number in range(1, repetitions + 1):
            pairs.append(measured.pair(results.ratio_rows))
            _tell_pair(f"pair {number}", results.ratio_rows, pairs[-1])
        scale, profile = measured.scale(sizes, _tell_scale)
    finally:
        spark.stop()
    return replace(
        results,
        machine={**results.machine, "Java": java},
        pairs=tuple(pairs),
        scale=tuple(scale),
        profile=profile,
    )


def _tell_pair(title: str, rows: int, pair: Pair) -> None:
    console.print(
        f"{title}, {rows:,} rows: bare Spark {pair.bare:.2f} s, Concord {pair.concord:.2f} s, "
        f"ratio {pair.ratio:.2f}"
    )


def _tell_scale(size: Scale) -> None:
    console.print(
        f"ingest {size.rows:,} rows: {size.seconds:.2f} s, {size.rows / size.seconds:,.0f} rows/s"
    )


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise UsageError(f"--rows {text}: give numbers of rows by commas, such as {SIZES}")
    return sizes


def _command(given: dict[str, int | str], *, full: bool) -> str:
    """The command that gives these figures again; folders do not matter to them."""
    usual = {
        "people": PEOPLE,
        "line-people": PEOPLE,
        "rows": SIZES,
        "ratio-rows": RATIO_ROWS,
        "repetitions": REPETITIONS,
        "memory": MEMORY,
    }
    options = [f"--{name} {value}" for name, value in given.items() if value != usual[name]]
    options += ["--full"] if full else []
    return f'make bench BENCH="{" ".join(options)}"' if options else "make bench"


def application() -> typer.Typer:
    """Without a name the benchmark of ingestion and the line, else the one that is named."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(bench)
    app.command()(linkage)
    app.command("index")(index_job)
    app.command()(accuracy)
    app.command()(commonwealth)
    app.command()(scaling)
    app.command()(agreements)
    app.command()(features)
    app.command()(scores)
    app.command()(few)
    return app


def main() -> int:
    """Run the benchmark; its exit code."""
    return exit_code_of(application(), None)


if __name__ == "__main__":
    sys.exit(main())
