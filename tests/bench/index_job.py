"""`make bench BENCH=index`: the whole index job over invented people, whole and by increments.

The job runs in a process of its own, over a lake whose feeds were put there without ingestion: a
first run, a run after a delivery that changed some records, the same records all compared anew, and
a rescore. That the third finds no other person is part of the benchmark.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.markdown import Markdown

from concord.errors import ConcordError
from concord.lake.session import start
from concord.linkage.job import Outcome
from concord.linkage.person_index import load_person_index
from tests.archive import FEEDS, Archive
from tests.bench.engine_side import settings_of
from tests.bench.linkage import sizes_of, watched
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.persons import write_persons
from tests.bench.report import between_markers, check_markers, machine_facts, table

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- index:start -->", "<!-- index:end -->"
RECORDS, SHARE, MEMORY = "1000000", 0.01, "8g"
NEW = 0.002  # of the records, how many come with the second delivery
FIRST, SECOND, THIRD, FOURTH = (date(2025, month, 28) for month in (5, 6, 7, 8))

console = Console(highlight=False)


@dataclass(frozen=True)
class Timed:
    """One run of the job: its seconds and what it says."""

    name: str
    seconds: float
    message: str


@dataclass(frozen=True)
class Size:
    """The runs over one number of records. Bytes are the most that the process and its children had
    at once, shared pages counted once."""

    records: int
    runs: tuple[Timed, ...]
    peak: int

    @property
    def ratio(self) -> float:
        """Seconds of the increment for one of the whole run after it."""
        seconds = {run.name: run.seconds for run in self.runs}
        return seconds["increment"] / seconds["whole"]


def index_job(
    records: Annotated[str, typer.Option(help="Numbers of records, by commas.")] = RECORDS,
    share: Annotated[
        float, typer.Option(min=0, max=0.05, help="Of the records, how many are changed.")
    ] = SHARE,
    memory: Memory = MEMORY,
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure the index job: all records, an increment, and pairs weighed anew."""
    check_markers(docs, START, END)
    facts = machine_facts("", memory)
    folder = (out / "work-index").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    found = []
    try:
        for size in sizes_of(records):
            console.print(f"{size:,} records are made and indexed")
            people = folder / f"{size}.parquet"
            write_persons(people, size)
            job = json.dumps([str(people), str(folder / f"lake-{size}"), share, memory])
            told, peak = watched([sys.executable, "-m", "tests.bench.index_job", job], "the job")
            found.append(Size(size, tuple(Timed(**run) for run in told), peak))
            console.print(Markdown(table_of(found[-1])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options = [f"--records {records}"] * (records != RECORDS)
    options += [f"--share {share}"] * (share != SHARE)
    command = f'"index {" ".join(options)}"' if options else "index"
    day = datetime.now(UTC).date()
    parts = [f"Measured on {day} with `make bench BENCH={command}`."]
    parts.append(table(("machine", ""), list(facts.items())))
    parts += [f"### The index job over {one.records:,} records\n\n{table_of(one)}" for one in found]
    docs.write_text(between_markers(docs.read_text(), "\n\n".join(parts) + "\n", START, END))
    whole = {"measured_on": str(day), "machine": facts, "sizes": [asdict(one) for one in found]}
    (out / "index.json").write_text(json.dumps(whole, indent=2) + "\n")
    console.print(f"written: {out / 'index.json'}, {docs}")


def table_of(size: Size) -> str:
    rows = [[run.name, f"{run.seconds:.1f}", run.message] for run in size.runs]
    return (
        table(("run", "seconds", "what it says"), rows)
        + f"\n\nThe increment takes **{size.ratio:.2f}** of the whole run; "
        f"{size.peak / 2**30:.1f} GiB at most."
    )


# --- in a process of its own ----------------------------------------------------------------------


def main(job: str) -> int:
    people, folder, share, memory = json.loads(job)
    settings = settings_of(Path(folder), memory)
    lake = {"lake": str(Path(folder) / "lake")}
    keys = settings.keys.model_copy(update={"path": Path(folder) / "keys"})
    settings = settings.model_copy(update={**lake, "keys": keys})
    spark = start(settings, application="concord bench index")
    try:
        archive = Archive(spark, settings, load_person_index(ROOT / "conf/person_index.yaml"))
        runs = run_all(archive, spark.read.parquet(people), share)
    finally:
        spark.stop()
    print(json.dumps([asdict(run) for run in runs]))
    return 0


def run_all(archive: Archive, people: DataFrame, share: float) -> list[Timed]:
    runs = []

    def timed(name: str, day: date, **how: Any) -> Outcome:
        began = time.perf_counter()
        outcome = archive.index(day, run_id=name, **how)
        runs.append(Timed(name, time.perf_counter() - began, outcome.message))
        return outcome

    deliver(archive, people, 0.0)
    timed("first", FIRST)
    deliver(archive, people, share)
    if timed("increment", SECOND).changed is None:
        raise ConcordError("the second run compared all records anew")
    if timed("whole", THIRD, whole=True).events:
        raise ConcordError("the increment left other persons than a run over all records finds")
    timed("rescore", FOURTH, rescore=True)
    return runs


def deliver(archive: Archive, people: DataFrame, share: float) -> None:
    """Puts the people's records into the feeds; with a share, new ones come and so many change."""
    drawn = {
        what: F.pmod(F.xxhash64("unique_id", F.lit(what)), F.lit(100_000)) / 100_000
        for what in ("feed", "changes", "new")
    }
    changes = drawn["changes"] < share
    for place, feed in enumerate(FEEDS):
        rows = people.where((drawn["feed"] * len(FEEDS)).cast("int") == place)
        if not share:
            rows = rows.where(drawn["new"] >= NEW)
        family = F.when(changes, F.concat("surname", F.lit("E"))).otherwise(F.col("surname"))
        known = {
            "record_id": F.md5(F.concat(F.lit(feed), F.col("unique_id").cast("string"))),
            "role": F.lit("client"),
            "kind": F.lit("person"),
            "source_key": F.col("unique_id").cast("string"),
            "source_table": F.lit("people"),
            "given_name": F.col("first_name"),
            "family_name": family,
            "birth_date": F.to_date("dob"),
            "ssn": F.col("ssn"),
            "address_line1": F.col("street"),
            "zip": F.col("zip"),
        }
        archive.put(
            feed,
            rows.select(
                *[
                    known.get(column.name, F.lit(None).cast(column.type)).alias(column.name)
                    for column in archive.identifiers(feed).columns
                ]
            ),
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
