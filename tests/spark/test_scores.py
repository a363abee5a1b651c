"""What becomes of scores: held out, called about, ended; what drift tells; who may not score."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from pyspark.sql import SparkSession

from concord import tracking
from concord.agreements import access_log
from concord.agreements.dula import Recipient
from concord.cli import exit_code_of
from concord.errors import DRIFT_ALARM, RefusedError, UsageError
from concord.lake.writes import Overwrite, Transaction
from concord.studies.tables import of_agreement
from concord_models import commands, drift, drift_job, planning, studies, training_rows
from concord_models import score as scoring
from concord_models import train as training
from concord_models.churn import features
from concord_models.churn.blocks import feature
from concord_models.drift import Bins
from concord_models.scorer import OTHERS, Calibration, EqualRecall, Linear, Scorer
from concord_models.specification import load_models
from tests.bench import scores as bench
from tests.conftest import ROOT
from tests.feeds import LABELS
from tests.spark.churn_world import (
    APPLIED,
    CASES,
    MONTHS,
    TRAINED,
    Hub,
    Rows,
    frames,
    known,
    last_day,
    make_hub,
    world,
)

pytestmark = pytest.mark.spark
SCORES, LOG, DRIFT = (
    f"studies/{APPLIED}/{kind}_snap_churn" for kind in ("scores", "interventions", "drift")
)
# Days before the due day on which the agency calls, by a case's last digit.
CALLS = {1: 5, 2: 14, 3: -1}


def calls(cases: list[str]) -> Rows:
    rows = [
        {"_known_on": known(month), "_received_on": known(month), "study_case_id": case,
         "contact_on": last_day(month) - timedelta(days=CALLS[number % 10]),
         "contact_kind": "call_out"}
        for number, case in enumerate(cases)
        if number % 10 in CALLS
        for month in MONTHS
    ]  # fmt: skip
    return {"dta_snap.contacts": rows}


@pytest.fixture(scope="module")
def hub(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return make_hub(spark, tmp_path_factory.mktemp("hub"), calls)


def drawn(case: str, due: date, share: float) -> bool:
    text = f"snap_churn/{case}/{due}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < share * 2**32


def test_a_hold_out_is_a_hash_of_the_check_in(spark: SparkSession, hub: Hub) -> None:
    due = date(2024, 9, 30)
    rows = spark.range(4000).selectExpr("sha2(cast(id as string), 256) study_case_id",
                                        f"date'{due}' due_on")  # fmt: skip
    found: dict[float, set[str]] = {}
    for share in (0.0, 0.05, 0.2):
        spec = hub.spec.model_copy(update={"holdout": share})
        told = rows.select("study_case_id", scoring.held_out(spec).alias("h")).collect()
        found[share] = {row["study_case_id"] for row in told if row["h"]}
        assert found[share] == {row[0] for row in told if drawn(row[0], due, share)}
        assert abs(len(found[share]) / 4000 - share) < 0.02
    assert not found[0.0] and found[0.05] < found[0.2]


def test_a_list_is_ranked_whole_and_only_its_first_get_reasons(spark: SparkSession) -> None:
    draw = np.random.default_rng(4)
    names = ("earned_income", "moved")
    rows = pd.DataFrame(
        {
            "study_case_id": [f"c{n:03d}" for n in draw.permutation(300)],
            "due_on": [date(2024, 9, 29 + n % 2) for n in range(300)],
            "as_of": date(2024, 9, 16),
            "office": [["000", "001", None][n % 3] for n in range(300)],
            # Ties, and rows of which nothing is known.
            "earned_income": np.where(draw.random(300) < 0.1, np.nan, draw.integers(0, 9, 300)),
            "moved": 1.0,
            "_audit_language": draw.choice(["eng", "spa", "hat"], 300),
        }
    )
    order = EqualRecall(("language",), {"eng": 0.73, "spa": -0.41, OTHERS: 0.05})
    scorer = Scorer(
        "logistic", names, Calibration((0.0, 1.0), (0.2, 0.4)),
        {name: feature(name).words for name in names},
        {name: feature(name).kind for name in names},
        linear=Linear(0.1, (0.3, 1.0), (4.0, 0.5)), equal_recall=order,
    )  # fmt: skip
    raw = scorer.raw(rows[[*names]].to_numpy())
    by_language = {"eng": 0.73, "spa": -0.41, "hat": 0.05}
    schema = ("study_case_id string, due_on date, as_of date, office string, "
              "earned_income double, moved double, _audit_language string")  # fmt: skip
    frame = spark.createDataFrame(rows, schema).repartition(5)
    found = {row["study_case_id"]: row for row in scoring.applied(frame, scorer, 7).collect()}
    lists: dict[Any, list[tuple[float, str, float]]] = {}
    for p, (_, row) in zip(raw, rows.iterrows(), strict=True):
        place = np.log(p / (1 - p)) + by_language[row["_audit_language"]]
        listed = lists.setdefault((row["office"], row["due_on"]), [])
        listed.append((-round(place, 9), row["study_case_id"], p))
    assert len(lists) == 6 and len(found) == 300
    for (office, due), listed in lists.items():
        for rank, (_, case, p) in enumerate(sorted(listed), 1):
            row = found[case]
            assert (row["office"], row["due_on"], row["rank_in_office"]) == (office, due, rank)
            assert row["probability"] == pytest.approx(0.2 + 0.2 * p)
            assert (row["reasons"] is None) == (rank > 7)
    assert any("moved within six months: yes" in (row["reasons"] or []) for row in found.values())


def test_the_study_of_the_bench_has_what_a_score_reads(spark: SparkSession) -> None:
    made = bench._study(spark, 2)
    for table, columns in scoring.read(load_models(ROOT / "conf")["snap_churn"]).items():
        assert columns <= {*made[table].columns}, table


def test_counts_on_the_workers_are_those_of_the_driver(spark: SparkSession) -> None:
    draw = np.random.default_rng(4)
    values = np.where(draw.random(500) < 0.2, np.nan, draw.normal(size=500))
    bins = {"a": Bins.of(values), "b": Bins((0.5,), (400, 100))}
    rows = pd.DataFrame({"a": values, "b": (values > 0).astype(float)})
    batch = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(batch)
    spark.conf.set(batch, "50")
    try:
        found = drift_job.counts(spark.createDataFrame(rows).repartition(3), bins)
    finally:
        spark.conf.set(batch, before)
    for name, each in bins.items():
        assert found[name].tolist() == each.count(rows[name].to_numpy()).tolist()


def test_scores_and_what_becomes_of_them(hub: Hub) -> None:
    # --- who was called after the as-of day teaches nothing
    run, it = hub.run("train", date(2024, 12, 31)), hub.deployment
    access_log.ask(run, hub.register, training_rows.request(run, hub.spec, it.dulas[TRAINED]))
    held = studies.held(run, it.dulas[TRAINED], it.contracts, training_rows.columns(hub.spec))
    keep = hub.spec.model_copy(
        update={"label": hub.spec.label.model_copy(update={"after_outreach": "keep"})}
    )
    kept = training_rows.slices(run, keep, held)
    assert (kept.counts["train"], kept.left_out) == (7 * CASES, 0)
    done = hub.train()
    hub.promote()
    called = CASES // 10
    assert done.rows == {"train": 7 * (CASES - called), "validation": CASES - called,
                         "test": CASES - called}  # fmt: skip
    store = tracking.opened(it.settings)
    params = store.client.get_run(done.run).data.params
    assert params["left_out_after_outreach"] == str(9 * called)
    planned = planning.plan(run, hub.spec, it.contracts, hub.register)
    assert {name: rows for name, (rows, _) in planned.slices.items()} == done.rows

    with pytest.raises(UsageError, match="there are no scores of snap_churn"):
        hub.drift(date(2024, 10, 5))

    # --- scores: a check-in is held out on every day, and not handed back on any
    days = [date(2024, 7, 17), date(2024, 8, 17), date(2024, 9, 14), date(2024, 9, 16)]
    for day in days:
        assert hub.score(day).rows == CASES
    scores = hub.rows(SCORES)
    assert len(scores) == 4 * CASES
    for row in scores:
        assert row["held_out"] == drawn(row["study_case_id"], row["due_on"], 0.05)
        assert row["p_churn"] is None and 0 < row["p_proc"] < 1 and row["reasons"] is not None

    # --- what became of them, against a walk over the study's rows
    measured = hub.drift(date(2024, 10, 5))
    assert measured.status == "measured" and measured.mlflow_run
    names = list(hub.cases)
    closed = {
        (row["study_case_id"], row["due_on"]): row["closure_reason"] is not None
        for row in world(names)["dta_snap.checkins"]
        if row["report_month"] == row["due_on"].replace(day=1)
    }
    log = hub.rows(LOG)
    assert len(log) == 4 * CASES
    by_key = {(r["study_case_id"], r["as_of"]): r for r in scores}
    for row in log:
        case, due = row["study_case_id"], row["due_on"]
        scored = by_key[case, row["as_of"]]
        assert row["label"] == int(closed[case, due]) and row["label_known_on"] <= date(2024, 10, 3)
        before = CALLS.get(names.index(case) % 10)
        day = None if before is None else due - timedelta(days=before)
        reached = day if day is not None and row["as_of"] < day <= due else None
        assert row["contacted"] == reached
        for ours, theirs in (("rank_in_office",) * 2, ("held_out",) * 2, ("probability", "p_proc")):
            assert row[ours] == scored[theirs]
    assert Counter(row["contacted"] is not None for row in log) == {
        True: 5 * called, False: 4 * CASES - 5 * called
    }  # fmt: skip

    # --- the measures of it
    told = {(row["measure"], row["of"]): row for row in hub.rows(DRIFT)}
    assert {of for name, of in told if name == "psi"} == {*hub.spec.features, "scores"}
    newest = {}
    for row in sorted(log, key=lambda row: row["as_of"]):
        newest[row["study_case_id"], row["due_on"]] = row
    for month in ("2024-07", "2024-08", "2024-09"):
        own = [row for row in newest.values() if f"{row['due_on']:%Y-%m}" == month]
        assert told["score_rate", month]["value"] == pytest.approx(
            np.mean([row["probability"] for row in own])
        )
        alone = [row["label"] for row in own if row["contacted"] is None]
        assert told["label_rate", month]["value"] == pytest.approx(np.mean(alone))
        assert told["label_rate", month]["rows"] == len(alone) < CASES
    handed = [row["label"] for row in newest.values() if not row["held_out"]]
    assert told["label_rate", "handed back"]["value"] == pytest.approx(np.mean(handed))
    alone = [row for row in newest.values() if row["contacted"] is None]
    assert told["ece", "version 1"]["rows"] == len(alone)
    assert ("slope", "version 1") in told
    held_rows = len(newest) - len(handed)
    assert (("label_rate", "held out") in told) == (held_rows >= 11)
    champion = store.champion(hub.spec.registered_name)
    assert champion is not None
    with scoring.scorer_files(store, champion) as files:
        reference = drift.load(files)
    assert reference is not None and reference.rows == done.rows["train"]
    tables = of_agreement(it.dulas[APPLIED], it.contracts)
    study = frames(hub.spark, tables, world(names))
    due_rows = scoring.falling_due(study["dta_snap.checkins"], hub.spec, days[-1])
    own = features.features(due_rows, study, hub.spec.features).toPandas()
    for name in hub.spec.features:
        bins = reference.features[name]
        counted = bins.count(own[name].to_numpy(dtype=float))
        value, chance = drift.psi(bins, counted, among=len(hub.spec.features) + 1)
        row = told["psi", name]
        assert (row["value"], row["chance"]) == (pytest.approx(value), pytest.approx(chance))
        state = "alarm" if value > 0.25 else "warning" if value > 0.1 else "ok"
        assert row["state"] == (state if value > chance else "ok"), name
        assert row["rows"] == CASES
    # Of the first months nobody's household was on file yet; what the form tells was.
    assert "psi of adults" in measured.alarms
    for name in ("is_recertification", "days_since_mailed", "form_received"):
        assert told["psi", name]["state"] == "ok"
    assert told["psi", "is_recertification"]["value"] == pytest.approx(0, abs=0.01)

    # --- kept with MLflow, and nothing there names a case
    kept_files = {a.path for a in store.client.list_artifacts(measured.mlflow_run)}
    assert kept_files >= {"drift.json", "drift.png"}
    place = Path(it.settings.lake).parent / "mlflow"
    whole = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert b"label_rate" in whole
    assert not any(p.encode() in whole or own.encode() in whole for p, own in hub.cases.items())

    # --- again: nothing to do, the same answer; the log does not go back
    again = hub.drift(date(2024, 10, 5))
    assert again.status == "nothing to do" and again.alarms == measured.alarms
    earlier = hub.drift(date(2024, 9, 20))
    assert earlier.status == "measured" and len(hub.rows(LOG)) == 4 * CASES
    assert all(row["label"] is not None for row in hub.rows(LOG))

    # --- rows that moved: an alarm, and nothing else of the alarms is new
    moved = world(names)
    for row in moved["dta_snap.checkins"]:
        row["form_mailed_on"] -= timedelta(days=10 if row["due_on"] == date(2024, 9, 30) else 0)
    rewrite(hub, "dta_snap.checkins", moved)
    assert hub.score(date(2024, 9, 17)).rows == CASES
    shifted = hub.drift(date(2024, 10, 6))
    new = set(shifted.alarms) - set(measured.alarms)
    # What is scored by them may be off too: whose rows taught the model hangs on the pseudonyms.
    assert new - {"ece of version 1"} == {"psi of days_since_mailed"}
    assert "psi of days_since_mailed" in shifted.message


def rewrite(hub: Hub, name: str, rows: Rows) -> None:
    """One table of the study that is scored, made anew as `study` does."""
    it = hub.deployment
    run = hub.run("study", date(2024, 12, 31))
    table = next(
        t for t in of_agreement(it.dulas[APPLIED], it.contracts) if t.dataset.table == name
    )
    frame = frames(hub.spark, [table], rows)[name]
    labels = {**LABELS, **hub.run("study", run.as_of).lake.properties(table.table.name)}
    labels = {key: value for key, value in labels.items() if key.startswith("concord.")}
    with run.lake.locks.hold([table.table.name]):
        run.lake.write(
            frame, table.table, Overwrite(), stamp=replace(run.stamp, inputs="y"),
            transaction=Transaction(f"study/{table.table.name}", 1), labels=labels,
        )  # fmt: skip


def test_a_model_of_returns_scores_returns(hub: Hub) -> None:
    spec = hub.spec.model_copy(
        update={
            "name": "snap_back",
            "label": hub.spec.label.model_copy(update={"name": "y_churn", "definition": "ma_30d"}),
            "splits": hub.spec.splits.model_copy(update={"validation_months": 2}),
            "temporal": None,
        }
    )
    hub = replace(hub, spec=spec)
    done = hub.train()
    # No gate: in this world one feature tells all, and no model is better than it.
    client = tracking.opened(hub.deployment.settings).client
    client.set_registered_model_alias(spec.registered_name, tracking.CHAMPION, done.version)
    assert hub.score(date(2024, 9, 16)).rows == CASES
    scores = hub.rows(f"studies/{APPLIED}/scores_snap_back")
    assert all(row["p_proc"] is None and 0 < row["p_churn"] < 1 for row in scores)
    hub.drift(date(2024, 12, 31))
    # September's window ends after the last file: nobody knows yet.
    log = hub.rows(f"studies/{APPLIED}/interventions_snap_back")
    assert len(log) == CASES and all(row["label"] is None for row in log)


def test_an_alarm_is_an_exit_code_of_its_own(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = drift_job.Outcome("measured", "m", "1", "t", ("psi of moved",))
    # The session is the other tests' too.
    monkeypatch.setattr("concord.jobs.stop", lambda spark: None)
    monkeypatch.setattr(drift_job, "drift", lambda *_, **__: told)
    app = typer.Typer()
    commands.register(app)
    arguments = ["drift", "--agreement", APPLIED, "--lake", str(tmp_path / "lake")]
    assert exit_code_of(app, arguments) == DRIFT_ALARM == 17
    monkeypatch.setattr(drift_job, "drift", lambda *_, **__: replace(told, alarms=()))
    assert exit_code_of(app, arguments) == 0


# --- what agreements forbid ----------------------------------------------------------------------


def test_an_agreement_without_the_use_trains_nothing(hub: Hub) -> None:
    spec = hub.spec.model_copy(update={"agreement": APPLIED, "name": "forbidden"})
    run, it = hub.run("train", date(2024, 12, 31)), hub.deployment
    with pytest.raises(RefusedError, match=f"{APPLIED} clause 4: train is no allowed use"):
        training.train(run, spec, it.contracts, hub.register)
    assert tracking.opened(it.settings).champion(spec.registered_name) is None


def test_drift_is_asked_as_a_score_is(hub: Hub) -> None:
    run, it = hub.run("drift", date(2024, 10, 5)), hub.deployment
    with pytest.raises(RefusedError, match=f"{TRAINED} clause 4: score is no allowed use"):
        drift_job.drift(run, hub.spec, it.contracts, hub.register, agreement=TRAINED)


def test_case_ids_go_back_to_the_agency_alone_whose_they_are(hub: Hub) -> None:
    day, it = date(2024, 9, 16), hub.deployment
    hub.train()
    hub.promote()
    hub.score(day)
    dula = it.dulas[APPLIED]
    other = Recipient(**{**dula.recipients.parties[0].model_dump(), "key": "dcf"})
    parties = dula.recipients.model_copy(update={"parties": (other,)})
    stranger = dula.model_copy(update={"recipients": parties})
    lent = replace(it, dulas={**it.dulas, APPLIED: stranger})
    with pytest.raises(RefusedError, match="the ids are those of dta; they do not go back to dcf"):
        replace(hub, deployment=lent).give_back(day)
    assert not Path(it.settings.lake, f"vault/returned/{APPLIED}").exists()


def test_an_expired_model_is_archived_and_stays_refused(hub: Hub) -> None:
    store = tracking.opened(hub.deployment.settings)
    hub.train()
    hub.promote()
    champion = store.champion(hub.spec.registered_name)
    assert champion is not None
    store.client.set_model_version_tag(
        champion.name, champion.version, tracking.EXPIRES, "2026-01-31"
    )
    now = datetime(2026, 2, 1, tzinfo=UTC)
    with pytest.raises(RefusedError, match="version 1 expired on 2026-01-31"):
        hub.score(date(2024, 9, 16), now=now, dry_run=True)
    assert store.champion(hub.spec.registered_name) is not None
    for told in ("expired on 2026-01-31 with the agreements", "is archived: expired on 2026-01-31"):
        with pytest.raises(RefusedError, match=told):
            hub.score(date(2024, 9, 16), now=now)
    assert store.champion(hub.spec.registered_name) is None
    archived = store.client.get_model_version(champion.name, champion.version)
    assert archived.tags[tracking.ARCHIVED] == "expired on 2026-01-31"
    with pytest.raises(RefusedError, match="is archived"):
        hub.drift(date(2024, 10, 5), now=now)
