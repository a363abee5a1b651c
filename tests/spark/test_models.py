"""Churn: what a feature may know, and training and scoring over a study made by hand."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord import tracking
from concord.agreements import access_log
from concord.agreements.access_log import ACCESS_LOG
from concord.errors import InfrastructureError, RefusedError, UsageError
from concord.lake.run import running
from concord.reporting import Reporter
from concord.studies.tables import StudyTable, of_agreement
from concord_models import leaks, planning, promotion, reproduction, studies, training_rows
from concord_models import return_scores as returning
from concord_models import score as scoring
from concord_models import train as training
from concord_models.churn import blocks, cohort, features
from tests.mlflow_server import gate, serving
from tests.postgresql import postgresql
from tests.spark.churn_world import (
    APPLIED,
    CASES,
    MADE_UP,
    NAMES,
    TABLES,
    TRAINED,
    Hub,
    Rows,
    frames,
    make_hub,
    world,
)

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def hub(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return make_hub(spark, tmp_path_factory.mktemp("hub"))


def computed(spark: SparkSession, tables: Sequence[StudyTable], rows: Rows) -> pd.DataFrame:
    held = frames(spark, tables, rows)
    as_of = cohort.lead(14)
    rows_ = cohort.open_checkins(held["dta_snap.checkins"], as_of)
    # Block by block: one query of all of them is more stages at a time than two cores can hold.
    parts = [
        features.features(rows_, held, blocks.names_of(block))
        .toPandas()
        .sort_values([*cohort.KEY], ignore_index=True)
        for block in blocks.BLOCKS
    ]
    return pd.concat([parts[0], *(part[part.columns[4:]] for part in parts[1:])], axis=1)


def test_what_became_known_after_the_as_of_day_changes_no_feature(hub: Hub) -> None:
    """Every row of a case's later files is changed, and rows about old days that come late are
    put in; and, as a control, the same rows known on the as-of day do change features."""
    tables = of_agreement(hub.deployment.dulas[TRAINED], hub.deployment.contracts)
    cases = [f"case-{n}" for n in range(12)]
    # One check-in a case, in May: its as-of day is 17 May.
    base = world(cases, seed=1)
    due, as_of = date(2024, 5, 31), date(2024, 5, 17)
    before = computed(hub.spark, tables, base)
    before = before[before["due_on"] == due].reset_index(drop=True)
    assert len(before) == len(cases) and before["earlier_checkins"].eq(4).all()

    def told(day: date) -> Rows:
        draw = random.Random(9)
        rows: Rows = {}
        for table, listed in base.items():
            rows[table] = list(listed)
            for row in listed:
                odd = {
                    "earned_income": Decimal(7777), "closure_reason": "checkin_not_completed",
                    "decision": None, "wages": Decimal(9999), "household_size": 5,
                    "event_kind": "declined", "contact_kind": "returned_mail", "birth_year": 1930,
                    "zip": "02110", "office": "099", "form_received_on": date(2024, 5, 2),
                }  # fmt: skip
                changed = {k: v for k, v in odd.items() if k in row or k == "form_received_on"}
                late = day + timedelta(days=draw.randrange(0, 40) if day > as_of else 0)
                extra = {**row, **changed, "_known_on": late}
                if "month" in row:
                    extra["month"] = max(row["month"], date(2024, 4, 1))
                if "report_month" in row and row["due_on"] == due:
                    extra["report_month"] = max(row["report_month"], date(2024, 4, 1))
                rows[table].append(extra)
        return rows

    after = computed(hub.spark, tables, told(as_of + timedelta(days=1)))
    after = after[after["due_on"] == due].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, after)

    control = computed(hub.spark, tables, told(as_of))
    control = control[control["due_on"] == due].reset_index(drop=True)
    moved = {n for n in NAMES if not before[n].equals(control[n])}
    assert moved >= {
        "form_received", "earned_income", "household_size", "moved", "head_age", "declined_90",
        "returned_mail_90", "wages_last_quarter", "ui_claims_120", "earlier_procedural",
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(hub: Hub) -> dict[str, DataFrame]:
    tables = of_agreement(hub.deployment.dulas[TRAINED], hub.deployment.contracts)
    made = frames(hub.spark, tables, world([f"case-{n}" for n in range(12)], seed=1))
    return {name: table.cache() for name, table in made.items()}


def test_no_feature_changes_with_what_is_known_later(study: dict[str, DataFrame]) -> None:
    """All features at once, as of several days; and one that counts events by their day alone."""

    def made(tables: Any) -> DataFrame:
        rows = cohort.open_checkins(tables["dta_snap.checkins"], cohort.lead(14), cohort.lead(7))
        return features.features(rows, tables, NAMES)

    day = date(2024, 6, 20)
    assert leaks.changed(made, study, day, NAMES) == []

    def leaking(tables: Any) -> DataFrame:
        events = tables["dta_snap.ebt_events"].select("study_case_id", "event_on")
        rows = made(tables)
        seen = rows.select(*cohort.KEY, cohort.AS_OF).join(events, "study_case_id")
        seen = seen.where("date_diff(as_of, event_on) between 0 and 300")
        counts = seen.groupBy(*cohort.KEY, cohort.AS_OF).agg(F.count("*").alias("by_its_day"))
        return rows.join(counts, [*cohort.KEY, cohort.AS_OF], "left")

    found = leaks.changed(leaking, study, day, [*NAMES, "by_its_day"])
    assert [leak.feature for leak in found] == ["by_its_day"] and found[0].value > 0.5


def test_training_refuses_a_feature_that_leaks_and_names_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = features.features

    def leaking(rows: DataFrame, tables: Any, names: Any, **more: Any) -> DataFrame:
        reports = tables["dta_snap.checkins"]
        ends = reports.groupBy(*cohort.KEY).agg(F.count("closure_reason").cast("double").alias("_"))
        found = own(rows, tables, names, **more).drop("form_received")
        return found.join(ends, [*cohort.KEY]).withColumnRenamed("_", "form_received")

    monkeypatch.setattr(features, "features", leaking)
    with pytest.raises(UsageError, match=r"features leak: form_received tells the label alone"):
        hub.train()
    loose = hub.spec.leaks.model_copy(update={"feature_auc": 1.0})
    spec = hub.spec.model_copy(update={"leaks": loose})
    run, it = hub.run("train", date(2024, 12, 31)), hub.deployment
    access_log.ask(run, hub.register, training_rows.request(run, spec, it.dulas[TRAINED]))
    held = studies.held(run, it.dulas[TRAINED], it.contracts, training_rows.columns(spec))
    with pytest.raises(UsageError, match=r"form_received changes with what is known later"):
        training_rows.slices(run, spec, held)


def test_a_block_that_is_not_named_is_not_read(study: dict[str, DataFrame]) -> None:
    names = ("days_since_mailed", "contacts_45", "household_size")
    wanted = blocks.columns(names)
    assert wanted.keys() == {"dta_snap.checkins", "dta_snap.cases", "dta_snap.contacts"}
    assert "race" not in blocks.columns(NAMES)["dta_snap.persons"]
    assert "race" in blocks.columns(names, audit=True)["dta_snap.persons"]
    own = {
        name: study[name].select(
            [c for c in study[name].columns if c.startswith(("study_", "_")) or c in columns]
        )
        for name, columns in wanted.items()
    }
    rows = cohort.open_checkins(own["dta_snap.checkins"], cohort.lead(14))
    found = features.features(rows, own, names).toPandas()
    assert list(found.columns) == ["study_case_id", "due_on", "as_of", "office", *names]
    assert found["contacts_45"].max() > 0


def test_every_block_reads_no_more_than_it_declares(study: dict[str, DataFrame]) -> None:
    for block in blocks.BLOCKS:
        names = blocks.names_of(block)
        own = {
            name: study[name].select(
                [c for c in study[name].columns if c.startswith(("study_", "_")) or c in columns]
            )
            for name, columns in blocks.columns(names).items()
        }
        rows = cohort.open_checkins(own["dta_snap.checkins"], cohort.lead(14))
        assert features.features(rows, own, names).columns[4:] == list(names)


def test_a_label_is_open_until_the_file_of_the_due_month_is_known(hub: Hub) -> None:
    table = [
        t
        for t in of_agreement(hub.deployment.dulas[TRAINED], hub.deployment.contracts)
        if t.dataset.table == "dta_snap.checkins"
    ]
    due, june = date(2024, 5, 31), date(2024, 6, 1)
    report = {"study_case_id": "a", "due_on": due, "report_month": date(2024, 4, 1),
              "_known_on": date(2024, 5, 3)}  # fmt: skip
    closed = {**report, "report_month": date(2024, 5, 1), "_known_on": date(2024, 6, 3),
              "closure_reason": "checkin_not_completed"}  # fmt: skip
    other = {**closed, "study_case_id": "b", "closure_reason": "agency_delay"}
    again = {**other, "report_month": june, "_known_on": date(2024, 7, 3),
             "closure_reason": "checkin_not_completed"}  # fmt: skip
    rows = {"dta_snap.checkins": [report, closed, other, again]}
    held = frames(hub.spark, table, rows)["dta_snap.checkins"]

    def labels(as_of: date, days: int = 0) -> list[tuple[Any, ...]]:
        found = cohort.labels(
            held, closure_reasons=["checkin_not_completed"], mature_after_days=days, as_of=as_of
        )
        return sorted(tuple(row) for row in found.collect())

    assert labels(date(2024, 6, 2)) == []
    assert [row[2] for row in labels(date(2024, 6, 3))] == [1, 0]
    assert [row[2] for row in labels(date(2024, 7, 3))] == [1, 1]
    assert labels(date(2024, 6, 20), days=30) == []
    assert labels(date(2024, 7, 1), days=30)[0] == ("a", due, 1, date(2024, 6, 30))


def test_returns_are_learnt_as_of_several_days(hub: Hub) -> None:
    spec = hub.spec.model_copy(
        update={
            "cohort": hub.spec.cohort.model_copy(update={"lead_days": (14, 7)}),
            "label": hub.spec.label.model_copy(update={"name": "y_churn", "definition": "ma_30d"}),
            "splits": hub.spec.splits.model_copy(update={"validation_months": 2}),
        }
    )
    run, it = hub.run("train", date(2024, 12, 31)), hub.deployment
    access_log.ask(run, hub.register, training_rows.request(run, spec, it.dulas[TRAINED]))
    held = studies.held(run, it.dulas[TRAINED], it.contracts, training_rows.columns(spec))
    slices = training_rows.slices(run, spec, held)
    # September's window ends after the last file. A label comes in the second month after the due
    # day: July's was not known two weeks before the end of August, nor May's before June's.
    assert slices.counts == {"train": 4 * 120, "validation": 120, "test": 120}
    assert slices.boundaries == cohort.Boundaries(date(2024, 6, 30), date(2024, 8, 31), 14)
    planned = planning.plan(run, spec, it.contracts, hub.register)
    assert {name: rows for name, (rows, _) in planned.slices.items()} == slices.counts
    test = slices.parts["test"]
    mailed = test.rows[:, spec.features.index("days_since_mailed")]
    assert sorted(set(mailed)) == [31, 38]
    # A list to call from is of one office and week.
    assert {name[1] for name in test.lists} == {"2024-08-12", "2024-08-19"}
    names, rows = list(hub.cases), world(list(hub.cases))["dta_snap.cases"]
    closed = [row["study_case_id"] for row in rows if row["closed_on"] == date(2024, 8, 31)]
    back = [case for case in closed if names.index(case) % 2]
    assert test.label.sum() == 2 * len(back) and 0 < len(back) < len(closed)


def test_scoring_without_a_model_says_to_train(hub: Hub) -> None:
    spec = hub.spec.model_copy(update={"name": "not_trained"})
    with pytest.raises(UsageError, match="run concord train --model not_trained"):
        hub.score(date(2024, 9, 16), spec=spec)


@pytest.mark.chaos
def test_the_jobs_over_a_server_that_goes_away(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real training against MLflow's server over PostgreSQL, which dies between a version and its
    mark, and a scoring whose model does not arrive: code 20 in the ledger, nothing half made."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    day, due = date(2024, 12, 31), date(2024, 9, 16)
    scores = Path(hub.deployment.settings.lake, f"studies/{APPLIED}/scores_snap_churn")
    with postgresql() as database, serving(tmp_path, database) as server, gate(server) as way:
        place = way.address.replace("://", "://me:hunter2@")
        settings = hub.deployment.settings.model_copy(update={"mlflow": place})
        it, number = hub.deployment, iter(range(9))

        def job(name: str, as_of: date, **agreement: str) -> Any:
            work: Any = {"train": training.train, "score": scoring.score}.get(name)
            with running(
                settings, name, arguments={}, as_of=as_of, run_id=f"{name}-{next(number)}",
                config_digest="", dry_run=False, reporter=Reporter(quiet=True), spark=hub.spark,
            ) as run:  # fmt: skip
                if work is None:
                    return promotion.promote(run, hub.spec, hub.register, because=MADE_UP)
                return work(run, hub.spec, it.contracts, hub.register, **agreement)

        way.dies_at = "/model-versions/set-tag"
        with pytest.raises(InfrastructureError, match="answered 503; see that the server runs"):
            job("train", day)
        with pytest.raises(InfrastructureError):
            job("score", due, agreement=APPLIED)  # and not: there is no trained model
        ended = [row for row in hub.rows("ops/runs") if row["state"] == "ended"]
        told = {row["run_id"]: row for row in ended}
        for run_id in ("train-0", "score-1"):
            assert told[run_id]["exit_code"] == 20
            assert "******@127.0.0.1" in told[run_id]["message"]
            assert "hunter2" not in told[run_id]["message"]
        way.reset()
        with pytest.raises(UsageError, match="no trained model"):
            job("score", due, agreement=APPLIED)
        done = job("train", day)
        assert (done.status, done.version) == ("trained", "2")
        assert job("model promote", day).version == "2"
        store = tracking.opened(settings)
        champion = store.champion(hub.spec.registered_name)
        assert champion is not None and champion.version == "2"
        found = store.client.search_model_versions()
        assert {v.version for v in found if v.tags.get(tracking.STATE) == "whole"} == {"2"}
        runs = store.client.search_runs([store.experiment(hub.spec.registered_name, "A title")])
        assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
        kept = {path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
        assert kept >= {"model_card.md", "calibration.png", "measures.json", "MLmodel"}

        way.dies_at = "mlflow-artifacts"
        with pytest.raises(InfrastructureError):
            job("score", due, agreement=APPLIED)
        assert not scores.exists()
        way.reset()
        assert job("score", due, agreement=APPLIED).rows == CASES
        shutil.rmtree(scores)  # the next test's are its own


def test_train_and_score(hub: Hub) -> None:
    planner = hub.run("model plan", date(2024, 12, 31))
    made = planning.plan(planner, hub.spec, hub.deployment.contracts, hub.register)
    lines = "\n".join(made.lines())
    assert f"identity {hub.spec.identity}" in lines and "last as-of day" in lines

    done = hub.train()
    assert done.status == "trained" and done.version == "1"
    assert done.rows == {"train": 60 * 7, "validation": 60, "test": 60}
    assert {name: rows for name, (rows, _) in made.slices.items()} == done.rows, "as was planned"
    assert done.measures["model"]["auc"] > done.measures["base_rate"]["auc"] + 0.1
    assert done.measures["base_rate"]["auc"] == 0.5

    store = tracking.opened(hub.deployment.settings)
    assert store.champion(hub.spec.registered_name) is None, "used only after a promotion"
    assert hub.promote(dry_run=True).status == "would promote"
    promoted = hub.promote()
    assert promoted.status == "promoted" and promoted.version == "1"
    assert {each.name for each in promoted.checks} >= {"no leak", "AUC", "parity"}
    assert hub.promote().status == "nothing to do"
    champion = store.champion(hub.spec.registered_name)
    assert store.aliased(hub.spec.registered_name, tracking.CHALLENGER) is None
    assert champion is not None and champion.name == "DULA-2026-0001.snap_churn"
    tags = champion.tags
    assert tags[tracking.AGREEMENTS] == TRAINED
    assert tags[tracking.EXPIRES] == "2030-12-31"
    assert tags[tracking.PURPOSES] == "program-evaluation"
    run = store.client.get_run(done.run)
    inputs = {each.dataset.name for each in run.inputs.dataset_inputs}
    tables = {f"studies/{TRAINED}/{t.replace('.', '_')}" for t in TABLES}
    assert inputs == {*tables, "test slice"}
    nested = store.client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{done.run}'"
    )
    assert len(nested) == 2
    assert {a.path for a in store.client.list_artifacts(done.run)} >= {
        "calibration.png", "recall_by_group.json", "measures.json", "model.json",
        "backtest.json", "stability.png", "model_card.md", "model_card.html", "promotion.json",
        "roc_curve.png", "precision_recall_curve.png", "lift_curve.png", "shap_summary.png",
    }  # fmt: skip
    past = store.mlflow.artifacts.load_dict(f"runs:/{done.run}/backtest.json")
    assert past["chosen"]["rule"] == run.data.params["selection_rule"]
    assert run.data.params["selected"] in past["measures"] and len(past["splits"]) > 1
    usable = [(each.name, each.train, each.test) for each in made.rows if each.usable]
    assert usable == [
        (each["at"], each["rows"]["train"], each["rows"]["test"]) for each in past["splits"]
    ], "the plan's splits"
    assert run.data.params["winner"] == (
        "logistic" if "logistic" in past["chosen"]["candidate"] else "xgboost"
    )
    served = store.mlflow.pyfunc.load_model(champion.uri)
    row = pd.DataFrame([dict.fromkeys(hub.spec.features, np.nan)])
    assert 0 < served.predict(row)["p_proc"][0] < 1
    told = store.mlflow.models.Model.load(champion.uri).signature
    assert told.inputs.input_names() == list(hub.spec.features)

    # Nothing that MLflow keeps names a case: neither pseudonym nor the agency's own id. The
    # control shows that a search of these files finds what is in them.
    kept = b"".join(
        path.read_bytes()
        for path in (Path(hub.deployment.settings.lake).parent / "mlflow").rglob("*")
        if path.is_file()
    )
    assert b"days since the form was mailed" in kept
    for pseudonym, own in hub.cases.items():
        assert pseudonym.encode() not in kept and own.encode() not in kept

    again = hub.train()
    assert again.status == "nothing to do" and again.version == "1"
    assert store.aliased(hub.spec.registered_name, tracking.CHALLENGER) is None
    same = reproduction.reproduce(
        hub.run("reproduce", date(2025, 3, 1)), hub.deployment.contracts, hub.register,
        training=done.run,
    )  # fmt: skip
    assert same.rows == sum(done.rows.values()) and same.difference <= 1e-9

    day = date(2024, 9, 16)
    first = hub.score(day)
    assert first.status == "scored" and first.rows == CASES
    scores = hub.rows(f"studies/{APPLIED}/scores_snap_churn")
    assert {row["study_case_id"] for row in scores} == set(hub.cases)
    assert {row["due_on"] for row in scores} == {date(2024, 9, 30)}
    for office in ("000", "001"):
        own = sorted(
            (r for r in scores if r["office"] == office), key=lambda r: r["rank_in_office"]
        )
        assert [r["rank_in_office"] for r in own] == list(range(1, 31))
        found = [r["p_proc"] for r in own]
        assert found == sorted(found, reverse=True)
    returned = Path(hub.deployment.settings.lake, f"vault/returned/{APPLIED}/scores_snap_churn")
    assert not returned.exists(), "to give back is the hub's work, not who scores'"
    assert hub.give_back(day, dry_run=True).status == "would return" and not returned.exists()
    assert "no scores as of 2024-09-10" in hub.give_back(date(2024, 9, 10)).message
    done = hub.give_back(day)
    handed = [row for row in scores if not row["held_out"]]
    assert (done.status, done.rows) == ("returned", len(handed))
    back = hub.rows(done.table)
    by_own = {row["case_id"]: row["p_proc"] for row in back}
    assert by_own == {hub.cases[r["study_case_id"]]: r["p_proc"] for r in handed}
    for office in ("000", "001"):
        ranks = sorted(r["rank_in_office"] for r in back if r["office"] == office)
        assert ranks == list(range(1, len(ranks) + 1)), "a list without gaps"
    assert hub.give_back(day).status == "nothing to do"
    with pytest.raises(RefusedError, match=f"{TRAINED} clause 4.*own ids"):
        hub.give_back(day, agreement=TRAINED)
    scorer = hub.run("score", day)
    scorer.lake.zones.open_study(APPLIED)
    with pytest.raises(RefusedError, match="score has the role recipient.*the zone vault"):
        returning.return_scores(
            scorer, hub.spec, hub.deployment.contracts, hub.register, agreement=APPLIED
        )
    assert hub.rows(done.table) == back

    fewer = hub.spec.model_copy(update={"blocks": {"checkin": "all"}})
    with pytest.raises(UsageError, match="needs due_at_office, .*does not name; add them"):
        hub.score(day - timedelta(days=1), spec=fewer)

    assert hub.score(day).status == "nothing to do"
    assert hub.score(day - timedelta(days=2)).rows == CASES
    both = hub.rows(f"studies/{APPLIED}/scores_snap_churn")
    assert len(both) == 2 * CASES
    kept_rows = [row for row in both if row["as_of"] == day]
    assert sorted(map(str, kept_rows)) == sorted(map(str, scores))

    with pytest.raises(RefusedError, match=f"{TRAINED} clause 4: score is no allowed use"):
        hub.score(day, agreement=TRAINED)
    with pytest.raises(RefusedError, match="clause 8: expired"):
        hub.score(day, now=datetime(2031, 1, 1, tzinfo=UTC))
    log = hub.rows(ACCESS_LOG.name)
    refused = [row for row in log if row["decision"] == "refused"]
    assert sorted(row["agreement"] for row in refused) == [TRAINED, TRAINED, APPLIED]
