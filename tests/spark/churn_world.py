"""A study made by hand: a check-in of every case every month, and the jobs over both agreements."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from concord.agreements import access_log
from concord.agreements.canonical import digest
from concord.agreements.register import Register
from concord.cli import Deployment, load_deployment
from concord.ingest import tables as ingested
from concord.lake.locks import Locks
from concord.lake.run import Run, Tally
from concord.lake.tables import Lake
from concord.lake.writes import Overwrite, Transaction
from concord.lake.zones import Zones
from concord.privacy import hashing
from concord.privacy.records import SEPARATOR
from concord.reporting import Reporter
from concord.settings import Keys
from concord.studies.keys import study_key
from concord.studies.tables import StudyTable, of_agreement
from concord_models import drift_job, promotion, training_rows
from concord_models import return_scores as returning
from concord_models import score as scoring
from concord_models import train as training
from concord_models.churn import blocks
from concord_models.specification import ModelSpec, load_models
from tests.agreed import register
from tests.conftest import ROOT
from tests.feeds import LABELS

TRAINED, APPLIED = "DULA-2026-0001", "DULA-2026-0002"
MONTHS = [date(2024, month, 1) for month in range(1, 10)]
CASES = 60
# One feature tells all, which no model is better than.
MADE_UP = "a made-up world"
TABLES = sorted({table for block in blocks.BLOCKS.values() for table in block.columns})
NAMES = [name for block in blocks.BLOCKS for name in blocks.names_of(block)]


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

    def promote(self, spec: ModelSpec | None = None, **changes: Any) -> promotion.Outcome:
        run = self.run("model promote", date(2024, 12, 31), **changes)
        return promotion.promote(run, spec or self.spec, self.register, because=MADE_UP)

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

    def drift(self, as_of: date, **changes: Any) -> drift_job.Outcome:
        it, run = self.deployment, self.run("drift", as_of, **changes)
        return drift_job.drift(run, self.spec, it.contracts, self.register, agreement=APPLIED)

    def rows(self, name: str) -> list[dict[str, Any]]:
        read = self.spark.read.format("delta").load(f"{self.deployment.settings.lake}/{name}")
        return [row.asDict() for row in read.collect()]


def make_hub(
    spark: SparkSession, root: Path, calls: Callable[[list[str]], Rows] | None = None
) -> Hub:
    """A lake below `root` with both studies; `calls` makes more rows, of the cases."""
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
        rows = world(list(pseudonyms))
        for name, more in (calls(list(pseudonyms)) if calls else {}).items():
            rows[name] += more
        held = frames(spark, tables, rows)
        for table in tables:
            own = held.get(table.dataset.table)
            with run.lake.locks.hold([table.table.name]):
                run.lake.write(
                    own if own is not None else spark.createDataFrame([], table.table.schema),
                    table.table, Overwrite(), stamp=replace(run.stamp, inputs="x"),
                    transaction=Transaction(f"study/{table.table.name}", 0),
                    labels={**LABELS, "concord.agreement_digest": digest(dula)}, few=True,
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
            transaction=None, labels=LABELS, few=True,
        )  # fmt: skip
    return made
