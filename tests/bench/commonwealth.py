"""`make bench BENCH=commonwealth`: a synthetic Commonwealth of a million people, all feeds loaded
and indexed, and the index held against the truth: in all, and group by group.

The figures that a privacy officer asks about are by group. Who has no SSN is linked less; how much
of a group's gap that explains is told beside it, by indirect standardisation: the recall that the
group's pairs would have if each pair had the recall of all pairs whose records say as much.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.markdown import Markdown

from concord import demo
from concord.deployment import load_deployment
from concord.lake.run import lake_of
from concord.lake.session import start
from concord.lake.tables import Lake
from concord.linkage import groups, tables
from concord.linkage.job import measured
from concord.linkage.limits import Limits
from concord.linkage.patterns import Integers
from concord.linkage.quality import Agreement, b_cubed, pairwise
from concord.linkage.report import ALL, Measure, breaches
from concord.linkage.values import count_within
from concord.privacy.keys import vault_key
from concord.reporting import Reporter
from concord.synthesis import synthesize
from concord.synthesis.truth import records
from concord.towns import sizes_by_zip
from tests.bench.engine_side import java_of
from tests.bench.linkage import watched
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import between_markers, check_markers, machine_facts, table

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "conf" / "settings" / "local.yaml"
START, END = "<!-- commonwealth:start -->", "<!-- commonwealth:end -->"
PEOPLE, MEMORY = 1_000_000, "8g"
# Points of recall that a group may be behind the best.
WITHIN = 0.03
# Of what the index says of itself, what is told beside the truth.
OWN = ("expected_precision", "holdout_precision", "holdout_recall_in_reach", "blocking_recall")
# Groups of fewer true pairs are not told: their recall is chance.
LEAST = 1_000

console = Console(highlight=False)


@dataclass(frozen=True)
class Group:
    """The true pairs of the records of a group's people. `expected`: the recall that they would
    have at the recall of all pairs whose records say as much."""

    attribute: str
    name: str
    pairs: int
    recall: float
    expected: float


@dataclass(frozen=True)
class Judged:
    """One Commonwealth. Seconds: synthesis, ingestion of all deliveries, the index. `told`: what
    the index says of itself without the truth; `breaches`: the limits that it breaks."""

    people: int
    rows: int
    records: int
    seconds: tuple[float, float, float]
    message: str
    told: Mapping[str, float]
    breaches: tuple[str, ...]
    pairs: Agreement
    cubed: Agreement
    groups: tuple[Group, ...]

    def behind(self) -> list[Group]:
        """Groups that are more than WITHIN behind the best of their attribute, and more than what
        their records say explains."""
        best: dict[str, float] = {}
        for group in self.groups:
            best[group.attribute] = max(group.recall, best.get(group.attribute, 0.0))
        return [
            group
            for group in self.groups
            if group.recall < min(best[group.attribute], group.expected) - WITHIN
        ]


def commonwealth(
    people: Annotated[int, typer.Option(help="Size of the population.")] = PEOPLE,
    memory: Memory = MEMORY,
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Load and index a whole synthetic Commonwealth, and hold the index against the truth."""
    check_markers(docs, START, END)
    facts = machine_facts("", memory)
    folder = (out / "work-commonwealth").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        console.print(f"{people:,} people: synthesis, ingestion, index; a million take ten minutes")
        job = json.dumps([str(folder), people, memory])
        command = [sys.executable, "-m", "tests.bench.commonwealth", job]
        (java, told), peak = watched(command, "the Commonwealth")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = _of(told)
    day = datetime.now(UTC).date().isoformat()
    options = [f"--people {people}"] * (people != PEOPLE)
    options += [f"--memory {memory}"] * (memory != MEMORY)
    typed = f'"commonwealth {" ".join(options)}"' if options else "commonwealth"
    said = [
        f"Measured on {day} with `make bench BENCH={typed}`.",
        table(("machine", ""), list({**facts, "Java": java}.items())),
        in_words(found, peak),
    ]
    block = "\n\n".join(said)
    docs.write_text(between_markers(docs.read_text(), block, START, END))
    whole = {"measured_on": day, "machine": facts, "peak": peak, **asdict(found)}
    (out / "commonwealth.json").write_text(json.dumps(whole, indent=2) + "\n")
    console.print(Markdown(block))
    console.print(f"written: {out / 'commonwealth.json'}, {docs}")


def in_words(found: Judged, peak: int) -> str:
    synthesis, ingestion, index = found.seconds
    rows = [
        (of, f"{by.precision:.4f}", f"{by.recall:.4f}")
        for of, by in (("pairs of records", found.pairs), ("B-cubed", found.cubed))
    ]
    by_group = [
        (of.attribute, of.name, f"{of.pairs:,}", f"{of.recall:.4f}", f"{of.expected:.4f}")
        for of in found.groups
    ]
    behind = ", ".join(f"{of.attribute} {of.name}" for of in found.behind()) or "none"
    broken = "; ".join(found.breaches) or "none"
    own = ", ".join(f"{name} {value:.4f}" for name, value in found.told.items())
    return "\n\n".join(
        [
            f"{found.people:,} people, {found.rows:,} rows of {len(demo.ROUNDS)} rounds of "
            f"deliveries: synthesis {synthesis:.0f} s, ingestion {ingestion:.0f} s, index "
            f"{index:.0f} s ({found.message}); {peak / 2**30:.1f} GiB at most.",
            table((f"{found.records:,} records", "precision", "recall"), rows),
            table(
                ("of the people", "", "true pairs", "recall", "expected of what they say"),
                by_group,
            ),
            f"What it says of itself, without the truth: {own}. Limits of `conf/person_index.yaml` "
            f"that it breaks: {broken}.",
            f"Groups of fewer than {LEAST:,} pairs are left out. More than {100 * WITHIN:g} points "
            f"behind both the best of their kind and what is expected: {behind}.",
        ]
    )


# --- in a process of its own ----------------------------------------------------------------------


def main(job: str) -> int:
    given, people, memory = json.loads(job)
    folder = Path(given)
    deployment = load_deployment(
        SETTINGS, lake=str(folder / "lake"), landing=str(folder / "landing")
    )
    deployment = demo._with_keys(deployment, folder)
    spark_settings = deployment.settings.spark
    confs = {**spark_settings.confs, "spark.driver.memory": memory}
    settings = deployment.settings.model_copy(
        update={"spark": spark_settings.model_copy(update={"confs": confs})}
    )
    # Its limits would keep from the crosswalk what is to be held against the truth; they are told.
    limits, model = deployment.person_index.limits, deployment.person_index
    model = model.model_copy(update={"limits": Limits()})
    deployment = replace(deployment, settings=settings, person_index=model)
    began = time.perf_counter()
    made = synthesize(
        folder, people=people, months=demo.MONTHS, backfill=demo.BACKFILL, seed=demo.SEED, faults=()
    )
    seconds = [time.perf_counter() - began]
    spark, reporter = start(settings, application="concord bench commonwealth"), Reporter()
    try:
        demo._sign(deployment, spark, reporter)
        as_of = demo.ROUNDS[-1]
        began = time.perf_counter()
        demo._round(deployment, as_of, spark, reporter)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        message = demo._index(deployment, as_of, spark, reporter).message
        seconds.append(time.perf_counter() - began)
        facts = groups.facts(
            spark.read.format("delta").load(f"{settings.lake}/{tables.RECORDS.name}")
        )
        told = of_all(lake_of(settings, "demo", spark))
        java = java_of(spark)
    finally:
        spark.stop()
    held = pl.read_delta(f"{settings.lake}/{tables.CROSSWALK.name}")
    persons = dict(
        held.filter(pl.col("valid_to").is_null()).select("record_id", "person_id").rows()
    )
    truth = records(folder / "truth", vault_key(settings.keys))
    says = dict(zip(facts["record_id"].to_pylist(), facts["says"].to_pylist(), strict=True))
    known = [record for record in persons if record in truth]
    found, real = [persons[record] for record in known], [truth[record] for record in known]
    by_group = of_groups(
        np.unique(found, return_inverse=True)[1],
        np.array(real, dtype=np.int64),
        np.array([says[record] for record in known], dtype=np.int64),
        attributes(folder / "truth", as_of),
    )
    judged = Judged(
        people, made.rows, len(known), (seconds[0], seconds[1], seconds[2]), message,
        {measure.name: measure.value for measure in told if measure.name in OWN},
        tuple(breaches(told, limits)), pairwise(found, real), b_cubed(found, real), tuple(by_group),
    )  # fmt: skip
    print(json.dumps([java, asdict(judged)]))
    return 0


def of_all(lake: Lake) -> list[Measure]:
    """What the last run says of itself, of all records."""
    columns = ("measure", "group", "value", "lower", "upper", "of")
    return [
        Measure(*(row[column] for column in columns))
        for row in measured(lake)
        if row["group"] == ALL
    ]


def _of(told: Mapping[str, Any]) -> Judged:
    return Judged(
        **{
            **told,
            "seconds": tuple(told["seconds"]),
            "breaches": tuple(told["breaches"]),
            "pairs": Agreement(**told["pairs"]),
            "cubed": Agreement(**told["cubed"]),
            "groups": tuple(Group(**group) for group in told["groups"]),
        }
    )


def attributes(truth: Path, as_of: date) -> pl.DataFrame:
    """person_id and what groups are made of, of all people."""
    people = pl.read_parquet(truth / "people" / "*.parquet")
    ages = groups.age_bands(people["birth_date"].to_arrow(), as_of)
    return pl.DataFrame(
        {
            "person_id": people["person_id"],
            "race and ethnicity": people["group"],
            "sex": people["sex"],
            "age": pl.Series(ages.to_pylist(), dtype=pl.String),
            "language": people["language"],
            "municipality": people["zip"].replace_strict(sizes_by_zip(), default=None),
            "homeless": people["homeless"].cast(pl.String),
        }
    )


def of_groups(found: Integers, real: Integers, says: Integers, people: pl.DataFrame) -> list[Group]:
    """`found`, `real`, `says`: of each record its person by the index and in truth, and which
    columns it has, as bits. `people`: person_id and attributes."""
    left, right = pairs_within(real)
    met = found[left] == found[right]
    # What both say, and what one of them does.
    _, kind = np.unique(
        np.stack([says[left] & says[right], says[left] | says[right]], axis=1),
        axis=0,
        return_inverse=True,
    )
    kind = kind.reshape(-1)
    expected = (np.bincount(kind, met) / np.bincount(kind))[kind]
    of = pl.DataFrame({"person_id": real[left], "met": met, "expected": expected})
    of = of.join(people.with_columns(pl.col("person_id").cast(pl.Int64)), on="person_id")
    told = []
    for attribute in people.columns[1:]:
        by = of.group_by(attribute).agg(pl.len(), pl.col("met").mean(), pl.col("expected").mean())
        told += [
            Group(attribute, str(name), pairs, recall, expect)
            for name, pairs, recall, expect in by.sort(attribute).rows()
            if pairs >= LEAST and name is not None
        ]
    return told


def pairs_within(of: Integers) -> tuple[Integers, Integers]:
    """All pairs of places that have one value."""
    order = np.argsort(of, kind="stable")
    starts = np.flatnonzero(np.diff(of[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(of)))
    ends = np.repeat(starts + sizes, sizes)
    later = ends - np.arange(len(of)) - 1
    left = np.repeat(np.arange(len(of)), later)
    return order[left], order[left + 1 + count_within(later)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
