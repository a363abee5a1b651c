"""Churn: what a feature may know, and training and scoring over a study made by hand."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from concord.agreements.canonical import digest
from concord.agreements.register import Register
from concord.cli import Deployment, load_deployment
from concord.errors import RefusedError, UsageError
from concord.ingest import tables as ingested
from concord.lake.locks import Locks
from concord.lake.run import Run, Tally
from concord.lake.tables import Lake, Overwrite, Transaction
from concord.lake.zones import Zones
from concord.privacy import hashing
from concord.privacy.records import SEPARATOR
from concord.reporting import Reporter
from concord.settings import Keys
from concord.studies.keys import study_key
from concord.studies.tables import StudyTable, of_agreement
from concord_models import leaks, planning, studies, training_rows
from concord_models import return_scores as returning
from concord_models import score as scoring
from concord_models import train as training
from concord_models.churn import cohort, features
from concord_models.specification import ModelSpec, load_models
from tests.agreed import register
from tests.conftest import ROOT
from tests.feeds import LABELS

pytestmark = pytest.mark.spark

TRAINED, APPLIED = "DULA-2026-0001", "DULA-2026-0002"
MONTHS = [date(2024, month, 1) for month in range(1, 10)]
CASES = 60
TABLES = sorted({table for block in features.BLOCKS.values() for table in block.columns})
NAMES = [name for block in features.BLOCKS for name in features.names_of(block)]


def last_day(month: date) -> date:
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def known(month: date) -> date:
    """A month's file comes on the third day after it."""
    return last_day(month) + timedelta(days=3)


Rows = dict[str, list[dict[str, Any]]]


def world(case_name: Sequence[str], seed: int = 5) -> Rows:
    """Rows of each study table: a check-in of every case every month; low earners fail more."""
    draw = random.Random(seed)
    found: Rows = {table: [] for table in (*TABLES, "dta_snap.issuances")}
    for number, case in enumerate(case_name):
        low = number % 3 == 0
        person = f"person-{number}"
        opened = date(2023, 1, 1)
        for month in MONTHS:
            origin = {"_known_on": known(month), "_received_on": known(month)}
            due = last_day(month)
            fails = draw.random() < (0.7 if low else 0.15)
            common = {"study_case_id": case, "kind": "recertification", "due_on": due,
                      "form_mailed_on": due - timedelta(days=45)}  # fmt: skip
            before = (month - timedelta(days=1)).replace(day=1)
            earlier = {"_known_on": known(before), "_received_on": known(before)}
            found["dta_snap.checkins"] += [
                {**common, **earlier, "report_month": before},
                {**common, **origin, "report_month": month,
                 "decision": "closed_not_completed" if fails else "approved",
                 "closure_reason": "checkin_not_completed" if fails else None},
            ]  # fmt: skip
            found["dta_snap.cases"].append(
                {**origin, "study_case_id": case, "month": month, "office": f"00{number % 2}",
                 "zip": "01108", "household_size": 1, "children_under_18": 0,
                 "children_under_6": 0, "elder_or_disabled": False, "language_standard": "eng",
                 "certification_type": "12_month", "certification_start": month,
                 "channel": "online", "text_consent": True,
                 "earned_income": Decimal(100 if low else 900), "unearned_income": Decimal(0),
                 "shelter_cost": Decimal(500 + draw.randrange(500)), "benefit_amount": Decimal(194),
                 "opened_on": opened, "status": "C" if fails else "A",
                 "closed_on": due if fails else None,
                 "closure_reason": "checkin_not_completed" if fails else None}
            )  # fmt: skip
            # Of those who fail every other is back on the fourth; the rest's closure is withdrawn.
            opened = due + timedelta(days=4) if fails and number % 2 else opened
            found["dta_snap.issuances"].append(
                {**origin, "study_case_id": case, "month": month, "benefit_month": month,
                 "issued_on": month, "issuance_type": "regular", "amount": Decimal(194)}
            )  # fmt: skip
            found["dta_snap.persons"].append(
                {**origin, "study_person_id": person, "study_case_id": case, "month": month,
                 "relationship": "self", "birth_year": 1970 + number % 30, "race": "white",
                 "ethnicity": "hispanic" if number % 2 else "not_hispanic", "gender": "female",
                 "language_standard": "eng", "disabled": False}
            )  # fmt: skip
            day = month + timedelta(days=draw.randrange(27))
            found["dta_snap.contacts"].append(
                {**origin, "study_case_id": case, "contact_on": day, "contact_kind": "call_in"}
            )
            found["dta_snap.ebt_events"].append(
                {**origin, "study_case_id": case, "event_on": day, "event_kind": "purchase"}
            )
            found["dua_claims.claims"].append(
                {**origin, "study_person_id": person, "filed_on": day, "week_ending": day}
            )
        for quarter in (1, 2):
            late = date(2024, 3 * quarter, 28) + timedelta(days=60)
            found["dua_wages.wages"].append(
                {"_known_on": late, "_received_on": late, "study_person_id": person,
                 "quarter": f"2024Q{quarter}", "wages": Decimal(1000 * quarter)}
            )  # fmt: skip
    return found


def frames(spark: SparkSession, tables: Sequence[StudyTable], rows: Rows) -> dict[str, DataFrame]:
    """The rows with the study tables' schemas; what is not told is NULL."""
    return {
        table.dataset.table: spark.createDataFrame(
            [
                tuple(row.get(name) for name in table.table.column_names)
                for row in rows[table.dataset.table]
            ],
            table.table.schema,
        )
        for table in tables
        if table.dataset.table in rows
    }


@dataclass(frozen=True)
class Hub:
    """A lake that holds both agreements' studies, and the jobs over it."""

    spark: SparkSession
    deployment: Deployment
    spec: ModelSpec
    cases: dict[str, str]

    def run(self, job: str, as_of: date, *, now: datetime | None = None, **changes: Any) -> Run:
        settings = self.deployment.settings
        locks = Locks.of(self.spark, settings.lake, 60, job=job, run_id="r", actor="tester")
        run = Run(
            job=job, run_id="r", as_of=as_of, dry_run=False, actor="tester", settings=settings,
            lake=Lake(self.spark, settings.lake, locks=locks, lock_wait=5, zones=Zones(job)),
            reporter=Reporter(quiet=True), clock=lambda: now or datetime.now(UTC), tally=Tally(),
        )  # fmt: skip
        return replace(run, **changes)

    @property
    def register(self) -> Register:
        return register(*self.deployment.mous.values(), *self.deployment.dulas.values())

    def train(self, as_of: date = date(2024, 12, 31)) -> training.Outcome:
        it = self.deployment
        run = self.run("train", as_of)
        return training.train(run, self.spec, it.contracts, self.register)

    def score(
        self, as_of: date, agreement: str = APPLIED, spec: ModelSpec | None = None, **changes: Any
    ) -> scoring.Outcome:
        it, run = self.deployment, self.run("score", as_of, **changes)
        chosen = spec or self.spec
        return scoring.score(run, chosen, it.contracts, self.register, agreement=agreement)

    def give_back(self, as_of: date, agreement: str = APPLIED, **changes: Any) -> returning.Outcome:
        it, run = self.deployment, self.run("return", as_of, **changes)
        return returning.return_scores(
            run, self.spec, it.contracts, self.register, agreement=agreement
        )

    def rows(self, name: str) -> list[dict[str, Any]]:
        read = self.spark.read.format("delta").load(f"{self.deployment.settings.lake}/{name}")
        return [row.asDict() for row in read.collect()]


@pytest.fixture(scope="module")
def hub(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    root = tmp_path_factory.mktemp("hub")
    os.chdir(ROOT)
    deployment = load_deployment(Path("conf/settings/local.yaml"), lake=str(root / "lake"))
    keys = Keys(path=root / "keys")
    settings = deployment.settings.model_copy(update={"keys": keys})
    deployment = replace(deployment, settings=settings)
    spec = load_models(settings.conf, deployment.dulas)["snap_churn"]
    few = spec.splits.model_copy(update={"test_months": 1, "validation_months": 1})
    small = spec.search.model_copy(update={"trials": 2, "rounds": 20, "early_stopping": 5})
    spec = spec.model_copy(update={"splits": few, "search": small, "workers": 1})
    made = Hub(spark, deployment, spec, {})
    key = study_key(made.run("study", date(2024, 12, 31)).lake, keys, APPLIED, create=True)
    pseudonyms = made.cases
    for number in range(CASES):
        record = f"record-{number}"
        message = f"entity{SEPARATOR}case{SEPARATOR}{record}".encode()
        pseudonyms["1-" + hashing.digest(key.fetch(), message)] = f"AGENCY{number:04d}"
    run = made.run("study", date(2024, 12, 31))
    for agreement in (TRAINED, APPLIED):
        dula = deployment.dulas[agreement]
        tables = of_agreement(dula, deployment.contracts)
        held = frames(spark, tables, world(list(pseudonyms)))
        for table in tables:
            rows = held.get(table.dataset.table)
            with run.lake.locks.hold([table.table.name]):
                run.lake.write(
                    rows if rows is not None else spark.createDataFrame([], table.table.schema),
                    table.table, Overwrite(), stamp=replace(run.stamp, inputs="x"),
                    transaction=Transaction(f"study/{table.table.name}", 0),
                    labels={**LABELS, "concord.agreement_digest": digest(dula)},
                )  # fmt: skip
        request = training_rows.request(run, spec, dula)
        decision = access_log.ask(run, made.register, replace(request, use="study"))
        access_log.record_reads(run, [access_log.Read(request, decision, run.run_id, 1)])
    contract = deployment.contracts["dta_snap"]
    people = ingested.identifiers(contract)
    assert people is not None
    listed = [
        tuple(
            {"record_id": f"record-{n}", "role": "case", "source_key": f"AGENCY{n:04d}"}.get(c)
            for c in people.column_names
        )
        for n in range(CASES)
    ]
    with run.lake.locks.hold([people.name]):
        run.lake.write(
            spark.createDataFrame(listed, people.schema), people, Overwrite(), stamp=run.stamp,
            transaction=None, labels=LABELS,
        )  # fmt: skip
    return made


def computed(spark: SparkSession, tables: Sequence[StudyTable], rows: Rows) -> pd.DataFrame:
    held = frames(spark, tables, rows)
    as_of = cohort.lead(14)
    found = features.features(cohort.open_checkins(held["dta_snap.checkins"], as_of), held, NAMES)
    return found.toPandas().sort_values([*cohort.KEY], ignore_index=True)


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
    wanted = features.columns(names)
    assert wanted.keys() == {"dta_snap.checkins", "dta_snap.cases", "dta_snap.contacts"}
    assert "race" not in features.columns(NAMES)["dta_snap.persons"]
    assert "race" in features.columns(names, audit=True)["dta_snap.persons"]
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
    for block in features.BLOCKS:
        names = features.names_of(block)
        own = {
            name: study[name].select(
                [c for c in study[name].columns if c.startswith(("study_", "_")) or c in columns]
            )
            for name, columns in features.columns(names).items()
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
    # A list to call from is of one office, due day and as-of day.
    assert {name[1:] for name in test.lists} == {
        ("2024-08-31", "2024-08-17"), ("2024-08-31", "2024-08-24")
    }  # fmt: skip
    names, rows = list(hub.cases), world(list(hub.cases))["dta_snap.cases"]
    closed = [row["study_case_id"] for row in rows if row["closed_on"] == date(2024, 8, 31)]
    back = [case for case in closed if names.index(case) % 2]
    assert test.label.sum() == 2 * len(back) and 0 < len(back) < len(closed)


def test_only_closures_are_scored(hub: Hub) -> None:
    label = hub.spec.label.model_copy(update={"name": "y_churn", "definition": "ma_30d"})
    spec = hub.spec.model_copy(update={"label": label})
    with pytest.raises(UsageError, match="predicts y_churn; the tables of scores hold y_proc"):
        hub.score(date(2024, 9, 16), spec=spec)


def test_scoring_without_a_model_says_to_train(hub: Hub) -> None:
    spec = hub.spec.model_copy(update={"name": "not_trained"})
    with pytest.raises(UsageError, match="run concord train --model not_trained"):
        hub.score(date(2024, 9, 16), spec=spec)


def test_train_and_score(hub: Hub) -> None:
    planner = hub.run("model plan", date(2024, 12, 31))
    made = planning.plan(planner, hub.spec, hub.deployment.contracts, hub.register)
    lines = "\n".join(made.lines())
    assert f"identity {hub.spec.identity}" in lines and "last as-of day" in lines

    done = hub.train()
    assert done.status == "trained" and done.version == "1"
    assert done.rows == {"train": 60 * 7, "validation": 60, "test": 60}
    assert {name: rows for name, (rows, _) in made.slices.items()} == done.rows, "as was planned"
    assert done.measures["champion"]["auc"] > done.measures["base_rate"]["auc"] + 0.1
    assert done.measures["base_rate"]["auc"] == 0.5

    store = tracking.opened(hub.deployment.settings)
    champion = store.champion(hub.spec.registered_name)
    assert champion is not None and champion.name == "DULA-2026-0001.snap_churn"
    tags = champion.tags
    assert tags[tracking.AGREEMENTS] == TRAINED
    assert tags[tracking.EXPIRES] == "2030-12-31"
    assert tags[tracking.PURPOSES] == "program-evaluation"
    run = store.client.get_run(done.run)
    inputs = {each.dataset.name for each in run.inputs.dataset_inputs}
    assert inputs == {f"studies/{TRAINED}/{t.replace('.', '_')}" for t in TABLES}
    nested = store.client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{done.run}'"
    )
    assert len(nested) == 2
    assert {a.path for a in store.client.list_artifacts(done.run)} >= {
        "calibration.png", "recall_by_group.json", "measures.json", "model.json",
        "backtest.json", "stability.png", "model_card.md", "model_card.html",
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
    assert (done.status, done.rows) == ("returned", CASES)
    back = hub.rows(done.table)
    by_own = {row["case_id"]: row["p_proc"] for row in back}
    assert by_own == {hub.cases[r["study_case_id"]]: r["p_proc"] for r in scores}
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
