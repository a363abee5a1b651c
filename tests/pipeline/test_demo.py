"""What a user sees of the demonstration, and what other readers make of its tables."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import duckdb_extension_delta
import polars as pl
import pytest
from deltalake.schema import PrimitiveType
from polars import selectors
from pyspark.sql import SparkSession

from concord.demo import BUDGET
from concord.privacy.wrapping import agreement_key
from concord.settings import Keys
from tests.canary import words, words_of
from tests.conftest import ROOT
from tests.pipeline.conftest import SMALL, Demo, run_demo

pytestmark = pytest.mark.pipeline


OPEN = ("curated", "index", "studies", "products", "ops")


def tables(demo: Demo) -> list[Path]:
    """The tables that leave the vault."""
    logs = [log for zone in OPEN for log in (demo.lake / zone).rglob("_delta_log")]
    return sorted(log.parent for log in logs)


def test_the_demo_loads_every_feed_and_says_what_it_rejected(demo: Demo) -> None:
    assert demo.summary["exit_code"] == 0
    assert demo.summary["deliveries"] == 46
    assert demo.summary["rejected"] >= 1, "and of so few people, a delivery of a dozen rows"
    assert demo.summary["index"]["precision"] >= 0.98
    assert demo.summary["index"]["recall"] >= 0.93
    assert "adds up to" in demo.output, "the faulty delivery's reason"
    assert "replaces sequence 2" in (ledger := json.dumps(reasons(demo))), ledger
    assert "Seconds per stage" in demo.output
    (review,) = (demo.lake / "vault/review_pages").glob("*.html")
    assert review.name in demo.output
    assert "doctype" in (demo.home / "data/demo/quality.html").read_text()[:20]
    assert sum(BUDGET.values()) <= 240
    stages = {stage.partition(" ")[0] for stage in demo.summary["seconds"]}
    assert stages == {name.partition(" ")[0].strip(",") for name in BUDGET}, "each has a budget"
    # Six tables of dta_snap, two of hrd_employees and fourteen other feeds, five of the index,
    # studies of 8, 8, 11, 8, 1 and 1, the scores, a product, four ledgers.
    assert len(tables(demo)) == 22 + 5 + 37 + 1 + 1 + 4, tables(demo)
    runs = pl.read_delta(str(demo.lake / "ops" / "runs"))
    ended = runs.filter(pl.col("state") == "ended", pl.col("job") == "ingest").sort("as_of")
    *before, last = ended["exit_code"].to_list()
    assert set(before) <= {0, 12}
    assert last in {11, 12}, "the faulty delivery comes last"


def test_a_feed_with_nobody_in_it_has_no_vault_table_of_people(demo: Demo) -> None:
    flows = pl.read_delta(str(demo.lake / "curated/dpu_rides_flows"))
    assert flows["year"].unique().sort().to_list() == [2023, 2024]
    assert flows["rides"].sum() > 150_000_000, "of the whole state, whatever the number of people"
    assert not [name for name in flows.columns if name.endswith("record_id")]
    assert not (demo.lake / "vault/identifiers_dpu_rides").exists()
    assert (demo.lake / "vault/quarantine_dpu_rides").exists()


def reasons(demo: Demo) -> list[list[str]]:
    frame = pl.read_delta(str(demo.lake / "ops" / "deliveries"))
    return frame["reasons"].to_list()


def test_a_second_demo_finds_nothing_to_do(demo: Demo) -> None:
    before = {path: deltalake.DeltaTable(str(path)).version() for path in tables(demo)}
    again = run_demo(demo.home)
    assert again.summary["deliveries"] == 0
    # four rounds of ingest and index, six studies, a model, its promotion, its scores, their
    # return, a product, an ending
    assert again.output.count("nothing to do") == 4 + 4 + 6 + 4 + 1 + 1
    after = {path: deltalake.DeltaTable(str(path)).version() for path in tables(demo)}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed == {"runs", "access_log"}, "what was asked is told again, nothing is made"


# Spark takes seconds for what the others read at once: of the studies, which the same jobs write,
# it reads one, and the scores of another.
BY_SPARK = re.compile(r"/(curated|index|products|ops|studies/DULA-2026-0001|scores_[a-z_]+)(?=/|$)")


def test_every_reader_sees_what_spark_sees(demo: Demo, spark: SparkSession) -> None:
    duck = duckdb.connect()
    folder = Path(duckdb_extension_delta.__file__).parent
    duck.load_extension(str(next(folder.rglob("delta.duckdb_extension"))))
    by_spark = set()
    for path in tables(demo):
        table = deltalake.DeltaTable(str(path))
        kinds = {field.name: field.type for field in table.schema().fields}
        simple = [c for c, kind in kinds.items() if isinstance(kind, PrimitiveType)]
        readers = {
            "delta-rs": pl.DataFrame(table.to_pyarrow_table(columns=simple)),
            "Polars": pl.read_delta(str(path), columns=simple),
            "DuckDB": duck.sql(f"FROM delta_scan('{path}')").select(*simple).pl(),
        }
        if found := BY_SPARK.search(str(path)):
            rows = spark.read.format("delta").load(str(path)).select(simple)
            readers["Spark"] = pl.DataFrame(rows.toArrow())
            by_spark.add(found[1])
        wanted = seen(readers["delta-rs"])
        for name, frame in readers.items():
            assert seen(frame) == wanted, f"{path.name} by {name}"
    zones = {"curated", "index", "products", "ops", "studies/DULA-2026-0001"}
    assert zones < by_spark and any(name.startswith("scores_") for name in by_spark)


def seen(frame: pl.DataFrame) -> tuple[int, dict[str, int], int]:
    """Rows, NULLs by column, and a checksum of all rows, in whichever order they come."""
    times = selectors.datetime(time_zone="*").dt.convert_time_zone("UTC")
    nulls = {name: frame[name].null_count() for name in frame.columns}
    return frame.height, nulls, frame.with_columns(times).hash_rows().sum()


# The only places that may speak of people by name or number.
SECRET = ("lake/vault", "landing", "truth", "keys")
# Numbers of rides, some of which are by chance somebody's number.
OF_NOBODY = ("lake/curated/dpu_rides_flows", "lake/studies/DULA-2026-0005")


def test_no_identifier_and_no_key_leaves_the_vault(demo: Demo) -> None:
    """Searched: every file that the demo left, its event logs, output and MLflow store."""
    ssns, keys, names = identifying(demo)
    needles = ssns | keys | names | secrets(demo)
    left_out = tuple(f"data/demo/{place}" for place in (*SECRET, *OF_NOBODY))
    kinds: set[str] = set()
    for file, said in words(demo.home, leave_out=left_out):
        kinds.add(kind_of(file))
        # The file alone: a message with what was found would be a leak itself.
        assert not said & needles, f"{file} holds {len(said & needles)} identifying words"
    assert kinds >= {
        "lake/curated", "lake/index", "lake/studies", "lake/products", "lake/ops",
        "checkpoint", "mlflow store", "mlflow artifact", "event log", "log",
    }, kinds  # fmt: skip
    inside = {word for _, said in words(demo.lake / "vault") for word in said}
    assert ssns & inside and keys & inside and names & inside, "the search finds what is there"
    for file, said in words(demo.lake / "vault"):
        if "_delta_log" in file:
            assert not said & ssns, f"{file}: statistics in clear text"


# Each notebook, and the pictures that it shows.
NOTEBOOKS = {
    "build_and_compare_models": 6,
    "explore_a_study": 2,
    "learn_to_earn": 4,
    "read_an_mlflow_run": 4,
    "why_people_churn": 3,
}


# Those that fit no model, in every run of the suite; all of them, as `make notebooks` does.
QUICK = ("explore_a_study", "read_an_mlflow_run")


@pytest.mark.parametrize("chosen", [QUICK, pytest.param((), marks=pytest.mark.chaos)])
def test_the_notebooks_run_and_tell_of_nobody(
    demo: Demo, chosen: tuple[str, ...], tmp_path: Path
) -> None:
    """In one kernel over the demo's lake."""
    written = (demo.home / "data/demo/mlflow/mlflow.db", *map(str, tables(demo)))
    before = [content(demo, place) for place in written]
    done = demo.run(
        sys.executable, "notebooks/execute.py", str(tmp_path), *chosen,
        CONCORD_SPARK__CONFS=json.dumps(SMALL),
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-1500:]}"
    assert {path.stem for path in tmp_path.iterdir()} == {*(chosen or NOTEBOOKS)}
    ssns, keys, names = identifying(demo)
    needles = ssns | keys | names | secrets(demo) | pseudonyms(demo)
    for name in chosen or NOTEBOOKS:
        notebook = json.loads((tmp_path / f"{name}.ipynb").read_text())
        outputs = [each for cell in notebook["cells"] for each in cell.get("outputs", [])]
        kinds = [each.get("name", each["output_type"]) for each in outputs]
        assert not {"error", "stderr"} & {*kinds}, f"{name}: {kinds}"
        shown = [each for each in outputs if "image/png" in each.get("data", {})]
        assert len(shown) == NOTEBOOKS[name], name
        assert all(len(each["data"]["image/png"]) > 5000 for each in shown), f"{name}: empty"
        texts = [text for each in outputs for text in said(each)]
        assert sum(map(len, texts)) > 500, name
        assert not re.search(
            r"Traceback|Warning|\bWARN\b|\b\d{20,}\b|0x[0-9a-f]{6,}", "".join(texts)
        ), name
        spoken = {word for text in texts for word in words_of(text.encode(), f"{name}.txt")}
        assert not spoken & needles, f"{name} says {len(spoken & needles)} identifying words"
    assert [content(demo, place) for place in written] == before, "a notebook wrote something"


def said(output: dict[str, Any]) -> list[str]:
    """What an output says to a reader: what was printed, and the best form of what is not."""
    data = {kind: text for kind, text in output.get("data", {}).items() if "image" not in kind}
    if len(data) > 1:
        data.pop("text/plain", None)
    return ["".join(text) for text in [output.get("text", ""), *data.values()]]


def content(demo: Demo, place: Path | str) -> object:
    """A table's version, or the rows of MLflow's runs and versions; the access log grows."""
    if str(place).endswith(".db"):
        with sqlite3.connect(place) as db:
            counted = ("runs", "model_versions", "registered_model_aliases", "metrics", "params")
            return [db.execute(f"SELECT count(*) FROM {name}").fetchone() for name in counted]
    table = Path(place)
    return None if table.name == "access_log" else deltalake.DeltaTable(str(table)).version()


def pseudonyms(demo: Demo) -> set[str]:
    """Those of people and cases in the studies that the notebooks read."""
    found: set[str] = set()
    for log in (demo.lake / "studies").glob("DULA-2026-000[13]/*/_delta_log"):
        rows = pl.read_delta(str(log.parent))
        for column in ("study_person_id", "study_case_id"):
            if column in rows.columns:
                found |= set(rows[column].drop_nulls().to_list())
    assert len(found) > 500, "something to search for"
    return found | {word.partition("-")[2] for word in found}


def identifying(demo: Demo) -> tuple[set[str], set[str], set[str]]:
    """SSNs, source keys and uncommon names of the vault, lower case."""
    columns = ("ssn", "source_key", "given_name", "family_name", "address_line1")
    vault = pl.concat(
        pl.read_delta(str(log.parent)).select(columns).cast(pl.String)
        for log in (demo.lake / "vault").glob("identifiers_*/_delta_log")
    )
    ssns = {ssn.replace("-", "") for ssn in vault["ssn"].drop_nulls().to_list()}
    keys = {key.lower() for key in vault["source_key"].drop_nulls().to_list() if len(key) >= 8}
    given = [vault[name].drop_nulls().to_list() for name in ("given_name", "family_name")]
    own = {word for place in SPEAKS for _, said in words(ROOT / place) for word in said}
    own |= {word for name in LIBRARIES for word in library_words(name)}
    # A family may be called Parker or Price; what no program says is a person's.
    names = {n.lower() for part in given for n in part if len(n) >= 6 and n.isalpha()} - own
    assert len(ssns) > 500 and len(keys) > 500 and len(names) > 50, "something to search for"
    return ssns, keys, names


# What speaks English in the demo's files: the project and the libraries that write there.
SPEAKS = ("libs", "models", "jobs", "conf", "docs")
LIBRARIES = ("mlflow", "pyspark", "hyperopt", "xgboost", "nicknames")


def library_words(name: str) -> set[str]:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    texts = (file.read_text(errors="ignore") for file in folder.rglob("*.py"))
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}


def secrets(demo: Demo) -> set[str]:
    """The keys as text and in hexadecimal: of a text with + and / its longest unbroken part."""
    place = demo.home / "data/demo/keys"
    texts = [path.read_text() for path in place.rglob("*.key")]
    studies = [path.name.partition(".")[0] for path in place.glob("agreements/*.json")]
    own = [agreement_key(Keys(path=place), name).fetch() for name in studies]
    texts += [base64.b64encode(key).decode() for key in own]
    found = {max(re.findall(r"\w+", text.lower()), key=len) for text in texts}
    found |= {base64.b64decode(text).hex() for text in texts}
    # The vault's, the one that mints, and of six studies each its own and what wraps it.
    # Counted apart, so that a failure shows no key.
    count, shortest = len(texts), min(map(len, found))
    assert count == 2 + 6 + 6 and shortest >= 8
    return found


def kind_of(file: str) -> str:
    place = file.removeprefix("data/demo/")
    if "_delta_log" in place and place.endswith(".parquet"):
        return "checkpoint"
    if place.startswith("lake/"):
        return "/".join(place.split("/")[:2])
    if place.startswith("mlflow/"):
        return "mlflow store" if place.endswith(".db") else "mlflow artifact"
    return {"events": "event log", "logs": "log"}.get(place.split("/")[0], place)


def fences() -> list[str]:
    """README's commands that are marked to be run, as they stand."""
    text = (ROOT / "README.md").read_text()
    return re.findall(r"<!-- run -->\n+```(\w+\n.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(fences())))
def test_the_readmes_commands_work(demo: Demo, number: int) -> None:
    language, _, body = fences()[number].partition("\n")
    command = {"sh": ["bash", "-euc", body], "python": [sys.executable, "-c", body]}[language]
    # What the page tells a platform engineer to set before the first run on a cluster.
    cluster = {
        "MASTER": "local[2]",
        "CONCORD_LAKE": str(demo.lake),
        "CONCORD_LANDING": str(demo.lake.parent / "landing"),
        "CONCORD_VAULT_KEY": (demo.lake.parent / "keys" / "vault.key").read_text(),
        "CONCORD_SIGNERS": str(demo.lake.parent / "keys" / "signers.yaml"),
        "PYSPARK_PYTHON": sys.executable,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    variables = cluster if "spark-submit" in body else {}
    for _ in range(6):
        done = demo.run(*command, **variables)
        # On a loaded machine delta-rs or Arrow may abort at the very end of a process, when all is
        # printed: seen thrice.
        if language != "python" or done.returncode != -signal.SIGABRT or not done.stdout:
            break
    assert done.returncode == 0, f"{body}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
    if "spark-submit" in body:
        assert json.loads(done.stdout.strip().splitlines()[-1])["message"] == "nothing to do"


def test_make_mlflow_opens_the_page(demo: Demo) -> None:
    (recipe,) = re.findall(r"^mlflow: .*\n\t@(.*)$", (ROOT / "Makefile").read_text(), re.M)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["sh", "-c", recipe.replace("$(python)", ".venv/bin/python")],
        cwd=demo.home,
        env={**os.environ, "MLFLOW_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert "MLflow" in page(f"http://127.0.0.1:{port}/", seconds=120)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def page(address: str, *, seconds: float) -> str:
    """A page of a server that is starting."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 (a loopback)
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
