"""The `publish` job over a study made by hand: what is counted, hidden, refused, repeated."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import deltalake
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from concord.agreements import chain
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.cli import Deployment, load_deployment
from concord.errors import UsageError
from concord.lake import points
from concord.lake.run import Run, Tally, lake_of
from concord.lake.tables import Lake
from concord.lake.writes import Overwrite, Transaction
from concord.products import job as publishing
from concord.products.populations import PROCEDURAL
from concord.products.release import ALL, MONTHLY, QUARTERLY, STATE, quarter
from concord.reporting import Reporter
from concord.settings import Settings
from concord.studies import tables as study_tables
from tests.agreed import register
from tests.conftest import ROOT, test_settings

AS_OF = date(2025, 7, 31)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
MONTHS = [date(2025, month, 1) for month in range(1, 7)]
REGION = {"000": "Boston", "004": "Northeast", "021": "Central", "999": "unknown"}
TYPE = {"12_month": "12 months", "12_month_interim": "12 months"}
TYPE["36_month_elder_disabled"] = "36 months"


def next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


@dataclass
class Registrar:
    """A lake with the study of one agreement, and the job over it."""

    spark: SparkSession
    settings: Settings
    deployment: Deployment
    checkins: list[dict[str, Any]] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lake(self) -> Lake:
        return lake_of(self.settings, "study", self.spark)

    def publish(
        self, *, run_id: str = "run-1", now: datetime = NOW, as_of: date = AS_OF, **more: Any
    ) -> publishing.Outcome:
        run = Run(
            job="publish",
            run_id=run_id,
            as_of=as_of,
            dry_run=False,
            actor="tester",
            settings=self.settings,
            lake=lake_of(self.settings, "publish", self.spark),
            reporter=Reporter(quiet=True),
            clock=lambda: now,
            tally=Tally(),
        )
        d = self.deployment
        (outcome,) = publishing.publish(
            run,
            d.products,
            d.profiles,
            d.contracts,
            register(*d.mous.values(), *d.dulas.values()),
            **more,
        )
        return outcome

    def write_study(self, *, sequence: int = 1, terms: str = "DULA-2026-0001") -> None:
        dula = self.deployment.dulas["DULA-2026-0001"]
        labels = study_labels(
            meet([self.deployment.dulas[terms]]),
            owner="dta",
            classifications=["confidential"],
            expires=dula.term.expires,
        )
        for table in study_tables.of_agreement(dula, self.deployment.contracts):
            rows = {"checkins": self.checkins, "cases": self.cases}.get(table.source.name)
            if rows is None:
                continue
            whole = [tuple(row.get(n) for n in table.table.column_names) for row in rows]
            frame = self.spark.createDataFrame(whole, table.table.schema)
            run = Run(
                job="study",
                run_id="study",
                as_of=AS_OF,
                dry_run=False,
                actor="t",
                settings=self.settings,
                lake=self.lake,
                reporter=Reporter(quiet=True),
                clock=lambda: NOW,
                tally=Tally(),
            )
            with self.lake.locks.hold([table.table.name]):
                self.lake.write(
                    frame,
                    table.table,
                    Overwrite(),
                    stamp=run.stamp,
                    transaction=Transaction(f"study/{table.table.name}", sequence),
                    labels=labels,
                    few=True,
                )

    def rows(self) -> list[dict[str, Any]]:
        table = publishing.table(self.deployment.products["snap_churn"])
        return [row.asDict() for row in self.lake.read(table).collect()]


def people(registrar: Registrar, chance: random.Random) -> Counter[tuple[Any, ...]]:
    """Fills the study with households; the counts that a release must come from."""
    truth: Counter[tuple[Any, ...]] = Counter()
    number = 0
    for due in MONTHS:
        for _ in range(chance.randint(150, 200)):
            number += 1
            case = f"case{number}"
            office = chance.choice(("000", "000", "004", "021", "999"))
            kind = chance.choices(list(TYPE), (1, 40, 4))[0]
            reported = due.replace(day=28)
            row = {
                "study_case_id": case,
                "checkin_id": f"checkin{number}",
                "report_month": due,
                "due_on": reported,
                "_period": f"{due:%Y-%m}",
                "_known_on": next_month(due),
            }
            # The first report knows no outcome yet; the second one does.
            registrar.checkins.append(row)
            later = {
                **row,
                "report_month": next_month(due),
                "_known_on": next_month(next_month(due)),
            }
            outcome = chance.choices(("kept", "gone", "back"), (7, 2, 1))[0]
            if outcome != "kept":
                later |= {"closed_on": reported, "closure_reason": PROCEDURAL}
            if outcome == "back":
                later["reinstated_on"] = reported + timedelta(days=chance.choice((5, 30, 31)))
            if next_month(due) <= MONTHS[-1]:
                registrar.checkins.append(later)
            registrar.cases.append(
                {
                    "study_case_id": case,
                    "month": due,
                    "office": office,
                    "certification_type": kind,
                    "_known_on": next_month(due),
                }
            )
            if quarter(due) != date(2025, 1, 1):
                continue  # June's outcomes are not known: its quarter is not settled
            churned = outcome == "back" and (later["reinstated_on"] - reported).days <= 30
            for cut, period, region in (
                (MONTHLY, f"{due:%Y-%m}", STATE),
                (QUARTERLY, "2025-Q1", STATE),
                (QUARTERLY, "2025-Q1", REGION[office]),
            ):
                for certification in (ALL, TYPE[kind]):
                    key = (cut, period, region, certification)
                    truth[(*key, "checkins")] += 1
                    truth[(*key, "closed")] += outcome != "kept"
                    truth[(*key, "churned")] += churned
    return truth


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return load_deployment(ROOT / "conf/settings/local.yaml", conf=ROOT / "conf")


@pytest.fixture
def registrar(spark: SparkSession, tmp_path: Path, deployment: Deployment) -> Registrar:
    settings = test_settings(tmp_path, roles=deployment.settings.roles)
    return Registrar(spark, settings, deployment)


def test_a_release_counts_right_hides_what_is_small_and_opens_everywhere(
    registrar: Registrar,
) -> None:
    truth = people(registrar, random.Random(1))
    registrar.write_study()
    outcome = registrar.publish()
    assert (outcome.status, outcome.exit_code) == ("released", 0)
    rows = registrar.rows()
    assert {
        tuple(r[n] for n in ("cut", "period", "region", "certification_type")) for r in rows
    } == {key[:4] for key in truth}
    for row in rows:
        key = tuple(row[n] for n in ("cut", "period", "region", "certification_type"))
        for measure in ("checkins", "closed", "churned"):
            count = truth[(*key, measure)]
            if row[f"{measure}_suppressed"]:
                assert row[measure] is None
            else:
                assert row[measure] == count
                assert not 1 <= count <= 10
        kept = truth[(*key, "checkins")] - truth[(*key, "closed")]
        if row["checkins"] is not None and row["closed"] is not None:
            assert not 1 <= kept <= 10
            assert row["closed_share"] == pytest.approx(row["closed"] / row["checkins"], abs=1e-4)
        else:
            assert row["closed_share"] is None
    assert any(row["closed_suppressed"] for row in rows)
    table = deltalake.DeltaTable(registrar.lake.path("products/snap_churn"))
    assert len(table.to_pyarrow_table()) == len(rows)
    labels = table.metadata().configuration
    assert labels["concord.agreements"] == "DULA-2026-0001"
    assert labels["concord.disclosure_profile"] == "cells-11"
    assert "none below 11 can be told" in labels["concord.certificate"]


def test_again_there_is_nothing_to_do_until_the_study_changes(registrar: Registrar) -> None:
    people(registrar, random.Random(2))
    registrar.write_study()
    first = registrar.publish()
    assert registrar.publish(run_id="run-2").status == "nothing to do"
    # a later business date knows nothing more of the same study
    assert registrar.publish(run_id="run-3", as_of=date(2025, 9, 1)).status == "nothing to do"
    registrar.write_study(sequence=2)
    assert registrar.publish(run_id="run-4").version == (first.version or 0) + 1
    logged = registrar.lake.read(ACCESS_LOG).groupBy("decision").count().collect()
    assert {row["decision"]: row["count"] for row in logged} == {"allowed": 4, "read": 2}
    assert chain.verify(registrar.lake, ACCESS_LOG).rows == 6


@pytest.mark.parametrize(
    ("request_", "clause"),
    [
        ({"agreement": "DULA-2026-0002"}, "publish is no allowed use"),
        ({"purpose": "fraud-detection"}, "the purpose is program-evaluation"),
        ({"now": datetime(2031, 1, 1, tzinfo=UTC)}, "expired on 2030-12-31"),
    ],
)
def test_what_the_agreement_does_not_allow_is_refused_and_logged(
    registrar: Registrar, request_: dict[str, Any], clause: str
) -> None:
    outcome = registrar.publish(**request_)
    assert outcome.exit_code == 14
    assert clause in outcome.message
    logged = registrar.lake.read(ACCESS_LOG).collect()
    assert [row["decision"] for row in logged] == ["refused"]
    assert not registrar.lake.storage.exists(registrar.lake.path("products/snap_churn"))


def test_without_a_study_under_the_present_terms_it_says_what_to_run(registrar: Registrar) -> None:
    with pytest.raises(UsageError, match="has not been made yet: run concord study"):
        registrar.publish()
    people(registrar, random.Random(3))
    registrar.write_study(terms="DULA-2026-0002")
    with pytest.raises(UsageError, match="follows other terms: run concord study"):
        registrar.publish(run_id="run-2")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Registrar, str], bool]]:
    def die() -> None:
        raise Killed

    monkeypatch.setattr(points, "die", die)

    def run(registrar: Registrar, point: str) -> bool:
        monkeypatch.setenv("CONCORD_KILL_AT", point)
        try:
            registrar.publish()
        except Killed:
            return True
        finally:
            monkeypatch.delenv("CONCORD_KILL_AT")
        return False

    yield run


def test_killed_anywhere_and_run_again_there_is_one_release_and_one_read(
    registrar: Registrar, killed: Callable[[Registrar, str], bool]
) -> None:
    people(registrar, random.Random(4))
    registrar.write_study()
    for point in (
        "publish.decided",
        "publish.protected",
        "publish.wrote.products/snap_churn",
        "publish.published",
        "publish.recorded",
    ):
        assert killed(registrar, point), f"{point} is never reached"
    assert registrar.publish().status == "nothing to do"
    table = publishing.table(registrar.deployment.products["snap_churn"])
    assert registrar.lake.version(table) == 0  # made with its rows
    reads = registrar.lake.read(ACCESS_LOG).where(F.col("decision") == "read").count()
    assert reads == 1
