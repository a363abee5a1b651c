"""`make bench BENCH=agreements`: what it costs to be asked: decisions, labels, the enforced read.

One study's table of many rows, made by Spark alone; read bare and by `concord.reading`, in turns.
Decisions are timed on the deployment's own agreements, the largest first asked for whole.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any, cast

import typer
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.markdown import Markdown

from concord import labelling, reading
from concord.agreements.decision import Request, decide
from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.agreements.register import Register
from concord.deployment import Deployment, load_deployment
from concord.lake.locks import Locks
from concord.lake.session import start
from concord.lake.tables import Lake
from concord.lake.writes import Overwrite, Stamp
from concord.lake.zones import Zones
from concord.studies.tables import StudyTable, of_agreement
from tests.agreed import register, sign_lake
from tests.bench.engine_side import java_of, settings_of
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import between_markers, check_markers, machine_facts, table

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- agreements:start -->", "<!-- agreements:end -->"
AGREEMENT, TABLE = "DULA-2026-0001", "dta_snap.cases"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROWS, REPETITIONS, DECISIONS = 5_000_000, 7, 2_000

console = Console(highlight=False)


def agreements(
    rows: Annotated[int, typer.Option(help="Rows of the study's table.")] = ROWS,
    repetitions: Annotated[int, typer.Option(help="Pairs of reads, after one more.")] = REPETITIONS,
    memory: Memory = "4g",
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure decisions, the check of labels, and the enforced read beside a bare one."""
    check_markers(docs, START, END)
    facts = machine_facts("", memory)
    deployment = load_deployment(ROOT / "conf" / "settings" / "local.yaml")
    signed = register(*deployment.mous.values(), *deployment.dulas.values())
    cold, warm = _decisions(deployment, signed)
    folder = (out / "agreements").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        figures = _reads(folder, deployment, rows, repetitions, memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    made = _markdown(cold, warm, figures, rows, facts)
    docs.write_text(between_markers(docs.read_text(), made, START, END))
    console.print(Markdown(made))
    console.print(f"written: {docs}")


def _decisions(deployment: Deployment, signed: Register) -> tuple[float, float]:
    """Seconds of the first decision, signatures verified, and of a later one (median)."""
    dula = deployment.dulas[AGREEMENT]
    request = Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="study",
        columns={each.table: frozenset(each.column_names) for each in dula.datasets},
        as_of=date(2026, 5, 31),
        linkages=frozenset(frozenset(each.tables) for each in dula.linkages),
        actor="someone",
        roles=frozenset(dula.people.roles),
    )
    spent = []
    for _ in range(DECISIONS):
        began = time.perf_counter()
        decision = decide(request, signed, NOW.date())
        spent.append(time.perf_counter() - began)
    decision.or_refuse()
    return spent[0], median(spent[1:])


def _reads(
    folder: Path, deployment: Deployment, rows: int, repetitions: int, memory: str
) -> dict[str, Any]:
    settings = settings_of(folder, memory)
    given = settings.model_copy(
        update={"signers": folder / "signers.yaml", "roles": deployment.settings.roles,
                "conf": deployment.settings.conf}
    )  # fmt: skip
    deployment = replace(deployment, settings=given)
    spark = start(given, application="concord bench")
    try:
        root = str(folder / "lake")
        locks = Locks.of(spark, root, 60, job="bench", run_id="bench", actor="bench")
        lake = Lake(spark, root, locks=locks, lock_wait=5, zones=Zones("agreement"))
        signed = [*deployment.mous.values(), *deployment.dulas.values()]
        sign_lake(Path(root), given.signers_file, *signed)
        study = next(
            each
            for each in of_agreement(deployment.dulas[AGREEMENT], deployment.contracts)
            if each.dataset.table == TABLE
        )
        _write(lake, study, rows)
        known = deployment.register(lake)
        columns = [column.name for column in study.dataset.columns[:6]]
        bare: list[float] = []
        enforced: list[float] = []
        asked: list[float] = []
        # What is read under an agreement has pseudonyms and origin besides: the bare read has too.
        given = reading.under(
            lake, deployment, known, AGREEMENT, TABLE, columns=columns, clock=lambda: NOW
        ).columns
        for number in range(repetitions + 1):
            began = time.perf_counter()
            _scan(lake.read(study.table).select(*given))
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            frame = reading.under(
                lake, deployment, known, AGREEMENT, TABLE, columns=columns, clock=lambda: NOW
            )
            middle = time.perf_counter()
            _scan(frame)
            asked.append(middle - began)
            enforced.append(time.perf_counter() - middle)
            if number == 0:
                bare, enforced, asked = [], [], []
        began = time.perf_counter()
        checked = labelling.verify(lake, deployment, known, NOW.date())
        return {
            "columns": len(given),
            "java": java_of(spark),
            "bare": median(bare),
            "enforced": median(enforced),
            "ratio": median(e / b for e, b in zip(enforced, bare, strict=True)),
            "asking": median(asked),
            "labels": (time.perf_counter() - began) / max(checked.tables, 1),
        }
    finally:
        spark.stop()


def _scan(frame: DataFrame) -> None:
    """Reads every value of every column."""
    values = [F.xxhash64(name) for name in frame.columns]
    frame.select(F.bit_xor(F.xxhash64(*values))).collect()


def _write(lake: Lake, study: StudyTable, rows: int) -> None:
    number = F.col("id")
    made = lake.spark.range(rows).select(
        *(
            F.date_add(F.lit(date(2025, 1, 1)), (number % 365).cast("int")).alias(column.name)
            if column.type == "date"
            else F.sha2(number.cast("string"), 256).substr(1, 32).alias(column.name)
            if column.name.startswith("study_")
            else (number % 1000).cast(column.type).alias(column.name)
            for column in study.table.columns
        )
    )
    labels = study_labels(
        meet([study.dula]), owner="dta", classifications=["restricted"],
        expires=study.dula.term.expires,
    )  # fmt: skip
    with lake.locks.hold([study.table.name]):
        lake.write(made, study.table, Overwrite(), stamp=Stamp("bench", "study", "0"),
                   transaction=None, labels=labels)  # fmt: skip


def _markdown(
    cold: float, warm: float, figures: dict[str, Any], rows: int, facts: dict[str, str]
) -> str:
    told = ", ".join(f"{n} {v}" for n, v in {**facts, "Java": figures["java"]}.items())
    lines = [f"Measured on {datetime.now(UTC).date()}: {told}.", ""]
    cells = [
        ["first decision of a process, signatures verified", f"{cold * 1e3:.1f} ms", ""],
        ["later decision, the whole of the largest agreement", f"{warm * 1e3:.2f} ms", "1 ms"],
        [
            f"bare read of {rows:,} rows, {figures['columns']} columns",
            f"{figures['bare']:.2f} s",
            "",
        ],
        ["the same by concord.read, beside it", f"{figures['ratio']:.3f} times", "1.05 times"],
        ["asking before it: decision and read into the log", f"{figures['asking']:.2f} s", ""],
        [
            "check of labels of one table, the declarations read before",
            f"{figures['labels'] * 1e3:.0f} ms",
            "",
        ],
    ]
    heading = ["", "measured", "aim"]
    return "\n".join([*lines, cast(str, table(heading, cells))])
