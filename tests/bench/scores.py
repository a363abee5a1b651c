"""`make bench BENCH=scores`: what a day's scores cost: features, then apply, rank and write.

Features are timed on a study that Spark alone makes, a few months of every table. What is scored is
a table of features given, as many as asked for, by trees of the size that the model's search may
come to: how they were fitted does not matter to the time.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xgboost
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.markdown import Markdown

from concord.deployment import load_deployment
from concord.lake.locks import Locks
from concord.lake.run import Run, Tally
from concord.lake.session import start
from concord.lake.tables import Lake
from concord.lake.zones import Zones
from concord.reporting import Reporter
from concord.tracking import Registered
from concord_models import score as scoring
from concord_models.churn.blocks import feature
from concord_models.churn.cohort import CASE, DUE
from concord_models.churn.features import features
from concord_models.score_tables import HELD_OUT, replace_day, scores_table
from concord_models.scorer import OTHERS, Calibration, EqualRecall, Scorer
from concord_models.specification import ModelSpec, load_models
from tests.bench.engine_side import java_of, settings_of
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import between_markers, check_markers, machine_facts, table

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- scores:start -->", "<!-- scores:end -->"
AGREEMENT, MODEL = "DULA-2026-0002", "snap_churn"
DAY, DUE_ON = date(2025, 6, 16), date(2025, 6, 30)
ROWS, STUDY, TREES, DEPTH, OFFICES = 1_000_000, 100_000, 200, 5, 22
AIM = 180.0

console = Console(highlight=False)


def scores(
    rows: Annotated[int, typer.Option(help="Check-ins that are scored.")] = ROWS,
    study: Annotated[int, typer.Option(help="Check-ins whose features are made.")] = STUDY,
    trees: Annotated[int, typer.Option(help="Trees of the model.")] = TREES,
    memory: Memory = "6g",
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure features, and apply, rank and write of a day's scores."""
    check_markers(docs, START, END)
    facts = machine_facts("", memory)
    folder = (out / "scores").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        figures = _measured(folder, rows, study, trees, memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    made = _markdown(figures, rows, study, trees, facts)
    docs.write_text(between_markers(docs.read_text(), made, START, END))
    console.print(Markdown(made))
    console.print(f"written: {docs}")


def _measured(folder: Path, rows: int, study: int, trees: int, memory: str) -> dict[str, Any]:
    deployment = load_deployment(ROOT / "conf" / "settings" / "local.yaml")
    spec = load_models(deployment.settings.conf, deployment.dulas)[MODEL]
    dula = deployment.dulas[AGREEMENT]
    settings = settings_of(folder, memory).model_copy(update={"lake": str(folder / "lake")})
    spark = start(settings, application="concord bench")
    try:
        made = folder / "study"
        for name, frame in _study(spark, study).items():
            frame.write.parquet(str(made / name))
        tables = {name: spark.read.parquet(str(made / name)) for name in _study(spark, 1)}
        began = time.perf_counter()
        due = scoring.falling_due(tables["dta_snap.checkins"], spec, DAY)
        made_of = features(due, tables, spec.features, audit=spec.equal_recall_of)
        made_of.write.parquet(str(folder / "made"))
        seconds = {"features": time.perf_counter() - began}
        found = spark.read.parquet(str(folder / "made"))
        if found.count() != study:
            raise RuntimeError("not every check-in of the study has features")
        # More rows of the same features, under other cases.
        copies = -(-rows // study)
        case = F.concat_ws("-", CASE, "copy")
        given = found.withColumn("copy", F.explode(F.sequence(F.lit(1), F.lit(copies))))
        given = given.withColumn(CASE, case).drop("copy").limit(rows)
        given.repartition(8).write.parquet(str(folder / "given"))
        given = spark.read.parquet(str(folder / "given"))
        scorer = _scorer(found, spec, trees)
        root = str(folder / "lake")
        locks = Locks.of(spark, root, 60, job="bench", run_id="bench", actor="bench")
        lake = Lake(spark, root, locks=locks, lock_wait=5, zones=Zones("agreement"))
        run = Run(
            job="score", run_id="bench", as_of=DAY, dry_run=False, actor="bench",
            settings=settings, lake=lake, reporter=Reporter(quiet=True),
            clock=lambda: datetime.now(UTC), tally=Tally(),
        )  # fmt: skip
        began = time.perf_counter()
        scoring.applied(given, scorer, spec.reasons_for).write.format("noop").mode(
            "overwrite"
        ).save()
        seconds["apply"] = time.perf_counter() - began
        target = scores_table(dula, spec)
        began = time.perf_counter()
        model = Registered("bench", "1", "", "", {})
        done = scoring.scores_of(given, scorer, spec, model, {"bench": 0}, dula.term.expires)
        with lake.locks.hold([target.name]):
            replace_day(
                run, done, target, dula, trained="", inputs="bench", expires=dula.term.expires
            )
        seconds["whole"] = time.perf_counter() - began
        read = lake.read(target)
        told = read.agg(
            F.count(F.lit(1)), F.countDistinct(CASE), F.avg(F.col(HELD_OUT).cast("int")),
            F.count("reasons"),
        ).collect()[0]  # fmt: skip
        files = len(list(Path(lake.path(target)).glob("*.parquet")))
        return {"java": java_of(spark), "seconds": seconds, "told": tuple(told), "files": files}
    finally:
        spark.stop()


def _scorer(found: DataFrame, spec: ModelSpec, trees: int) -> Scorer:
    """Trees of full depth on labels drawn at random from a few of the features."""
    sample = found.limit(20_000).toPandas()
    rows = sample[[*spec.features]].to_numpy(dtype=np.float32)
    risk = np.nan_to_num(rows).sum(axis=1)
    draw = np.random.default_rng(1)
    label = draw.random(len(rows)) < 0.1 + 0.3 * (risk > np.median(risk))
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.1, "nthread": 2},
        xgboost.DMatrix(rows, label, feature_names=list(spec.features)),
        num_boost_round=trees,
    )
    words = {name: feature(name).words for name in spec.features}
    kinds = {name: feature(name).kind for name in spec.features}
    points = tuple(float(x) for x in np.linspace(0, 1, 50))
    text = bytes(booster.save_raw("json")).decode()
    return Scorer(
        "xgboost", spec.features, Calibration(points, points), words, kinds, None, text,
        equal_recall=EqualRecall(spec.equal_recall_of, {OTHERS: 0.1}),
    )  # fmt: skip


def _study(spark: SparkSession, cases: int) -> dict[str, DataFrame]:
    """A study of so many cases with a check-in each, a year of their months, the usual events."""
    base = spark.range(cases).select(
        F.col("id"), F.sha2(F.col("id").cast("string"), 256).substr(1, 34).alias(CASE)
    )

    def day(text: str) -> Column:
        return F.lit(text).cast("date")

    def drawn(most: int, *also: Column) -> Column:
        return F.pmod(F.xxhash64(CASE, *also), F.lit(most)).cast("int")

    def many(number: int) -> DataFrame:
        return base.withColumn("n", F.explode(F.sequence(F.lit(0), F.lit(number - 1))))

    n = F.col("n")
    month = F.add_months(day("2024-06-01"), n)
    known = F.date_add(F.last_day(month), 3).alias("_known_on")
    month = month.alias("month")
    none = F.lit(None)
    checkins = many(3).select(
        CASE,
        F.add_months(day("2024-06-01"), 12 - 6 * n - 1).alias("report_month"),
        F.when(drawn(2) == 0, "recertification").otherwise("interim_report").alias("kind"),
        F.last_day(F.add_months(day("2025-06-01"), -6 * n)).alias(DUE),
        F.add_months(day("2025-05-16"), -6 * n).alias("form_mailed_on"),
        F.when((n > 0) | (drawn(3) == 0), F.add_months(day("2025-06-05"), -6 * n)).alias(
            "form_received_on"
        ),
        none.cast("date").alias("interview_on"),
        none.cast("date").alias("proofs_received_on"),
        F.when(n > 0, "approved").alias("decision"),
        F.when(n > 0, F.add_months(day("2025-06-10"), -6 * n)).alias("decision_on"),
        F.when((n > 0) & (drawn(5, n) == 0), "checkin_not_completed").alias("closure_reason"),
        F.when((n > 1) & (drawn(3, n) == 0), F.add_months(day("2025-06-20"), -6 * n)).alias(
            "reinstated_on"
        ),
        F.add_months(day("2025-06-03"), -6 * n).alias("_known_on"),
    )
    money = [
        (drawn(most, F.lit(name), n) + 100).cast("decimal(12,2)").alias(name)
        for name, most in (("earned_income", 1500), ("unearned_income", 600),
                           ("shelter_cost", 1200), ("benefit_amount", 700))
    ]  # fmt: skip
    members = many(24).withColumn("who", F.pmod(n, F.lit(2))).withColumn("n", (n / 2).cast("int"))
    person = F.concat_ws("-", CASE, F.col("who").cast("string")).alias("study_person_id")
    event = F.date_add(day("2025-06-15"), -drawn(180, n)).alias("_day")
    told = F.date_add(F.last_day("_day"), 3).alias("_known_on")
    days = {number: many(number).withColumn("_day", event) for number in (6, 25, 2)}
    quarter = F.concat(
        (F.lit(2023) + F.floor((n + 2) / 4)).cast("string"), F.lit("Q"),
        (F.pmod(n + 2, F.lit(4)) + 1).cast("string"),
    )  # fmt: skip
    return {
        "dta_snap.checkins": checkins,
        "dta_snap.cases": many(12).select(
            CASE, month, F.format_string("%03d", drawn(OFFICES)).alias("office"),
            F.lit("01108").alias("zip"), (drawn(4) + 1).alias("household_size"),
            drawn(3).alias("children_under_18"), drawn(2).alias("children_under_6"),
            (drawn(4) == 0).alias("elder_or_disabled"), F.lit("eng").alias("language_standard"),
            F.lit("12_month").alias("certification_type"),
            day("2024-07-01").alias("certification_start"), F.lit("online").alias("channel"),
            (drawn(2) == 0).alias("text_consent"), *money,
            day("2022-01-01").alias("opened_on"), known,
        ),
        "dta_snap.persons": members.select(
            CASE, person, month, F.when(F.col("who") == 0, "self").otherwise("child").alias(
                "relationship"), (drawn(60, F.col("who")) + 1940).alias("birth_year"),
            F.when(drawn(5) == 0, "spa").otherwise("eng").alias("language_standard"),
            F.lit("female").alias("gender"), F.lit("white").alias("race"),
            F.lit("not_hispanic").alias("ethnicity"), F.lit(False).alias("disabled"), known,
        ),
        "dta_snap.contacts": days[6].select(
            CASE, F.col("_day").alias("contact_on"),
            F.when(drawn(3, n) == 0, "call_in").otherwise("text_out").alias("contact_kind"),
            F.when(drawn(4, n) == 0, "checkin_form").otherwise("benefit").alias("topic"), told,
        ),
        "dta_snap.ebt_events": days[25].select(
            CASE, F.col("_day").alias("event_on"),
            F.when(drawn(20, n) == 0, "declined").otherwise("purchase").alias("event_kind"),
            drawn(90, n).cast("decimal(12,2)").alias("amount"), told,
        ),
        "dua_wages.wages": many(8).select(
            F.concat_ws("-", CASE, F.lit("0")).alias("study_person_id"), quarter.alias("quarter"),
            (drawn(9000, n)).cast("decimal(12,2)").alias("wages"),
            day("2025-03-01").alias("_known_on"),
        ),
        "dua_claims.claims": days[2].where(drawn(10) == 0).select(
            F.concat_ws("-", CASE, F.lit("0")).alias("study_person_id"),
            F.col("_day").alias("filed_on"), F.col("_day").alias("week_ending"),
            (drawn(600, n) + 100).cast("decimal(12,2)").alias("benefit_amount"), told,
        ),
    }  # fmt: skip


def _markdown(
    figures: dict[str, Any], rows: int, study: int, trees: int, facts: dict[str, str]
) -> str:
    machine = ", ".join(f"{n} {v}" for n, v in {**facts, "Java": figures["java"]}.items())
    seconds, (held, cases, share, reasons) = figures["seconds"], figures["told"]
    lines = [
        f"Measured on {datetime.now(UTC).date()}: {machine}. {held:,} rows of {cases:,} cases came "
        f"to be, in {figures['files']} files, {share:.1%} of them held out, {reasons:,} with "
        f"reasons; {trees} trees of depth {DEPTH}.",
        "",
    ]
    cells = [
        [f"features of {study:,} check-ins, from the study's tables",
         f"{seconds['features']:.0f} s", ""],
        [f"apply to {rows:,} rows and rank them", f"{seconds['apply']:.0f} s", ""],
        [f"apply, rank and write {rows:,} rows", f"{seconds['whole']:.0f} s", f"{AIM:.0f} s"],
    ]  # fmt: skip
    return "\n".join([*lines, table(["", "measured", "aim"], cells)])
