"""Outcome studies: the panel against plain Python over the same rows, and the job over a study."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from concord import tracking
from concord.agreements import access_log
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import digest
from concord.agreements.decision import Request
from concord.agreements.register import Register
from concord.deployment import Deployment, load_deployment
from concord.errors import RefusedError, UsageError
from concord.lake.locks import Locks
from concord.lake.run import Run, Tally
from concord.lake.tables import Lake
from concord.lake.writes import Overwrite, Transaction
from concord.lake.zones import Zones
from concord.reporting import Reporter
from concord.settings import Keys
from concord.studies.tables import StudyTable, of_agreement
from concord_models.outcomes import panel as panels
from concord_models.outcomes.job import Outcome, outcomes
from concord_models.outcomes.panel import EPISODES, PERSONS, TAFDC, WAGES, Extent
from concord_models.outcomes.specification import OutcomeStudy, load_studies
from tests.agreed import register
from tests.conftest import ROOT
from tests.feeds import LABELS

pytestmark = pytest.mark.spark

AGREEMENT = "DULA-2026-0003"
EXTENT = Extent(least_age=18, most_age=61, after=8, return_within=8)
Rows = dict[str, list[dict[str, Any]]]
MONTHS = [date(2023 + m // 12, m % 12 + 1, 1) for m in range(36)]
QUARTERS = [(year, quarter) for year in (2022, 2023, 2024, 2025) for quarter in (1, 2, 3, 4)]
EFFECT = 2500


def world(people: int, seed: int = 1) -> Rows:
    """Rows of the four tables. Entry is likelier after low earnings and raises later ones by
    EFFECT; some people are not always on assistance, and some of every kind of row come late."""
    draw = random.Random(seed)
    found: Rows = {EPISODES: [], WAGES: [], PERSONS: [], TAFDC: []}
    for number in range(people):
        person, level = f"person-{number}", draw.gauss(5000, 2000)
        entry = None
        chance = 0.6 if level < 4500 else 0.1
        if draw.random() < chance:
            entry = draw.choice([q for q in QUARTERS if (2023, 2) <= q <= (2025, 2)])
            programme = draw.choice(["ESOL", "APPRENTICESHIP"])
            for again in range(draw.choice([1, 1, 2])):
                day = date(entry[0] + again, 3 * entry[1] - 2 + draw.randrange(3), 11)
                found[EPISODES].append(
                    {"study_person_id": person, "programme": programme, "entry_on": day,
                     "_known_on": day + timedelta(days=70)}
                )  # fmt: skip
        gone = draw.random()
        for year, quarter in QUARTERS:
            earned = max(0, 2 * int((draw.gauss(level, 900) - 1500) / 2))
            if entry and (year, quarter) > entry:
                earned += EFFECT
            if earned and draw.random() < 0.93:
                employers = draw.choice([1, 1, 2])
                for _ in range(employers):
                    found[WAGES].append(
                        {"study_person_id": person, "quarter": f"{year}Q{quarter}",
                         "wages": Decimal(earned) / employers,
                         "_known_on": date(year, 3 * quarter, 28) + timedelta(days=134)}
                    )  # fmt: skip
        cash = random.Random(f"{seed} {number}")
        left = cash.choice([*MONTHS[6::6], None, None, None])
        for month in MONTHS:
            # Some leave cash assistance for good, some for a month now and then.
            if number % 3 == 0 and (month < left if left else cash.random() < 0.8):
                found[TAFDC].append(
                    {"study_person_id": person, "month": month,
                     "_known_on": month + timedelta(days=cash.choice([33, 33, 200]))}
                )  # fmt: skip
            if (gone < 0.4 and draw.random() < 0.2) or (number % 7 == 0 and month.month in (5, 6)):
                continue
            found[PERSONS].append(
                {"study_person_id": person, "month": month,
                 "relationship": "self" if number % 3 else "spouse",
                 "disabled": number % 5 == 0, "birth_year": 1945 + number % 70,
                 "gender": "female" if number % 2 else "male",
                 "language_standard": "eng" if number % 4 else None,
                 "_known_on": month + timedelta(days=33)}
            )  # fmt: skip
    return found


def expected(rows: Rows, as_of: date) -> dict[tuple[str, int], dict[str, Any]]:
    """The panel's rows by (person, quarter), by loops over what was known."""
    known = {t: [row for row in own if row["_known_on"] <= as_of] for t, own in rows.items()}

    def number(text: str) -> int:
        return int(text[:4]) * 4 + int(text[5]) - 1

    entry: dict[str, tuple[date, str]] = {}
    for row in known[EPISODES]:
        own = (row["entry_on"], row["programme"])
        entry[row["study_person_id"]] = min(own, entry.get(row["study_person_id"], own))
    entered = {p: d.year * 4 + (d.month - 1) // 3 for p, (d, _) in entry.items()}
    told_entries = max(entered.values(), default=0)
    earned: dict[tuple[str, int], float] = {}
    for row in known[WAGES]:
        key = (row["study_person_id"], number(row["quarter"]))
        earned[key] = earned.get(key, 0.0) + float(row["wages"])
    wage_quarters = {number(row["quarter"]) for row in known[WAGES]}
    on = {(r["study_person_id"], r["month"].year * 12 + r["month"].month - 1)
          for r in known[PERSONS]}  # fmt: skip
    months = {m for _, m in on}
    cash = {(r["study_person_id"], r["month"].year * 12 + r["month"].month - 1)
            for r in known[TAFDC]}  # fmt: skip
    cash_months = {m for _, m in cash}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in known[PERSONS]:
        person, month = row["study_person_id"], row["month"]
        if month.month % 3:
            continue
        index = month.year * 4 + month.month // 3  # the quarter after
        first = entered.get(person)
        if not 18 <= index // 4 - row["birth_year"] <= 61:
            continue
        if first is not None and first < index:
            continue
        treated = first == index
        one: dict[str, Any] = {"treated": treated,
                               "programme": entry[person][1] if treated else None}  # fmt: skip
        for k in range(-4, 9):
            name = f"earnings_before_{-k}" if k < 0 else f"earnings_after_{k}"
            value = earned.get((person, index + k), 0.0) if index + k in wage_quarters else None
            out = k >= 0 and not treated and (
                told_entries < index + k or (first is not None and first <= index + k)
            )  # fmt: skip
            one[name] = None if out else value
        if any(one[f"earnings_before_{k}"] is None for k in range(1, 5)):
            continue
        span = range(3 * index + 3, 3 * index + 27)
        one["returned"] = one["returned_tafdc"] = None
        open_ = not treated and (told_entries < index + 8 or (first or 9**9) <= index + 8)
        if all(m in months for m in [span[0] - 1, *span]) and not open_:
            one["returned"] = float(
                any((person, m) in on and (person, m - 1) not in on for m in span)
            )
        was_on = (person, 3 * index - 1) in cash
        if was_on and all(m in cash_months for m in [span[0] - 1, *span]) and not open_:
            one["returned_tafdc"] = float(
                any((person, m) in cash and (person, m - 1) not in cash for m in span)
            )
        year = [m for m in range(3 * index - 12, 3 * index) if m in cash_months]
        listed = sum((person, m) in cash for m in year)
        one["tafdc_share"] = listed / len(year) if year else 0.0
        found[person, index] = one
    quarters = {index for (_, index), one in found.items() if one["treated"]}
    return {key: one for key, one in found.items() if key[1] in quarters}


def frames(spark: SparkSession, tables: list[StudyTable], rows: Rows) -> dict[str, DataFrame]:
    """The rows with the study tables' schemas; what is not told is NULL."""
    return {
        table.dataset.table: spark.createDataFrame(
            [
                tuple(row.get(name) for name in table.table.column_names)
                for row in rows.get(table.dataset.table, [])
            ],
            table.table.schema,
        )
        for table in tables
    }


@dataclass(frozen=True)
class Hub:
    """A lake that holds the agreement's study, and the job over it."""

    spark: SparkSession
    deployment: Deployment
    spec: OutcomeStudy

    @property
    def tables(self) -> list[StudyTable]:
        dula = self.deployment.dulas[AGREEMENT]
        return [t for t in of_agreement(dula, self.deployment.contracts)
                if t.dataset.table in panels.COLUMNS]  # fmt: skip

    @property
    def register(self) -> Register:
        return register(*self.deployment.mous.values(), *self.deployment.dulas.values())

    def run(self, as_of: date, *, job: str = "outcomes", **changes: Any) -> Run:
        settings = self.deployment.settings
        locks = Locks.of(self.spark, settings.lake, 60, job=job, run_id="r", actor="tester")
        lake = Lake(self.spark, settings.lake, locks=locks, lock_wait=5, zones=Zones(job))
        run = Run(
            job=job, run_id="r", as_of=as_of, dry_run=False, actor="tester",
            settings=settings, lake=lake,
            reporter=Reporter(quiet=True), clock=lambda: datetime.now(UTC), tally=Tally(),
        )  # fmt: skip
        return replace(run, **changes)

    def outcomes(self, as_of: date = date(2026, 6, 1), **changes: Any) -> Outcome:
        return outcomes(
            self.run(as_of, **changes), self.spec, self.deployment.contracts, self.register
        )


@pytest.fixture(scope="module")
def hub(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    root = tmp_path_factory.mktemp("outcomes")
    os.chdir(ROOT)
    deployment = load_deployment(Path("conf/settings/local.yaml"), lake=str(root / "lake"))
    settings = deployment.settings.model_copy(update={"keys": Keys(path=root / "keys")})
    deployment = replace(deployment, settings=settings)
    spec = load_studies(settings.conf, deployment.dulas)["learn_to_earn"]
    made = Hub(spark, deployment, spec)
    dula = deployment.dulas[AGREEMENT]
    run = made.run(date(2026, 6, 1), job="study")
    held = frames(spark, made.tables, world(700))
    for table in made.tables:
        with run.lake.locks.hold([table.table.name]):
            run.lake.write(
                held[table.dataset.table], table.table, Overwrite(),
                stamp=replace(run.stamp, inputs="x"),
                transaction=Transaction(f"study/{table.table.name}", 0),
                labels={**LABELS, "concord.agreement_digest": digest(dula)}, few=True,
            )  # fmt: skip
    request = Request(dula.id, dula.purpose.code, "study", panels.COLUMNS, run.as_of)
    decision = access_log.ask(run, made.register, request)
    access_log.record_reads(run, [access_log.Read(request, decision, run.run_id, 1)])
    return made


def computed(hub: Hub, rows: Rows, as_of: date) -> dict[tuple[str, int], dict[str, Any]]:
    found = panels.panel(frames(hub.spark, hub.tables, rows), EXTENT, as_of).collect()
    listed = {(row["study_person_id"], row["index_quarter"]): row.asDict() for row in found}
    assert len(listed) == len(found)  # one row a person and quarter
    return listed


@pytest.mark.parametrize("as_of", [date(2026, 6, 1), date(2025, 2, 20)])
def test_the_panel_is_what_loops_over_the_known_rows_give(hub: Hub, as_of: date) -> None:
    rows = world(120, seed=as_of.year)
    found, oracle = computed(hub, rows, as_of), expected(rows, as_of)
    assert found.keys() == oracle.keys() and len(oracle) > 100
    for key, one in oracle.items():
        assert {name: found[key][name] for name in one} == one, key
    kinds = [(one["treated"], one["returned"]) for one in oracle.values()]
    came_back = {one["returned_tafdc"] for one in oracle.values()}
    assert came_back == ({None, 0.0, 1.0} if as_of.year == 2026 else {None})
    assert {treated for treated, _ in kinds} == {True, False}
    if as_of.year == 2026:
        assert {returned for _, returned in kinds} == {None, 0.0, 1.0}
    else:  # two years of assistance are not over
        assert {returned for _, returned in kinds} == {None}


def test_what_was_not_known_on_the_day_changes_nothing(hub: Hub) -> None:
    rows, as_of = world(60), date(2025, 2, 20)
    before = computed(hub, rows, as_of)
    later = as_of + timedelta(days=1)
    told = {
        t: [*own, *({**row, "_known_on": later, **({"wages": Decimal(77777)} if t == WAGES else {})}
                    for row in own)]
        for t, own in rows.items()
    }  # fmt: skip
    assert computed(hub, told, as_of) == before
    control = computed(hub, told, later)
    assert control.keys() >= before.keys() and control != before


def test_a_quarter_without_a_file_is_open_and_one_with_is_nothing_earned(hub: Hub) -> None:
    """One entrant in 2024Q1 who never works again; the last file is of 2024Q3."""
    base = {"relationship": "self", "birth_year": 1990, "_known_on": date(2024, 1, 3)}
    months = [date(2023, 12, 1), date(2024, 6, 1)]
    someone = [
        {"study_person_id": "other", "quarter": f"{y}Q{q}", "wages": Decimal(1),
         "_known_on": date(2025, 1, 1)}
        for y, q in QUARTERS[4:11]
    ]  # fmt: skip
    rows: Rows = {
        EPISODES: [{"study_person_id": "a", "programme": "ESOL", "entry_on": date(2024, 2, 2),
                    "_known_on": date(2024, 4, 20)}],
        WAGES: someone,
        PERSONS: [{**base, "study_person_id": p, "month": m} for p in "ab" for m in months],
    }  # fmt: skip
    found = computed(hub, rows, date(2025, 1, 1))
    entrant = found["a", 2024 * 4]
    assert [entrant[f"earnings_after_{k}"] for k in range(5)] == [0.0, 0.0, 0.0, None, None]
    assert entrant["returned"] is None
    # The other's quarter +1 is open: no entry of so late a quarter has been told of.
    other = found["b", 2024 * 4]
    assert [other[f"earnings_after_{k}"] for k in range(3)] == [0.0, None, None]
    assert entrant["worked_1"] == 0.0 and entrant["age"] == 34.0
    assert entrant["assistance_share"] == 1.0  # of the one month that is reported


def test_a_share_of_the_comparison_people_keeps_every_entrant(hub: Hub) -> None:
    rows = world(120, seed=3)
    held = frames(hub.spark, hub.tables, rows)
    day = date(2026, 6, 1)
    whole = panels.panel(held, EXTENT, day).toPandas()
    part = panels.panel(held, replace(EXTENT, comparison_share=0.3), day).toPandas()
    assert whole["treated"].sum() == part["treated"].sum()
    kept = part[~part["treated"]]["study_person_id"].nunique()
    assert 0.15 < kept / whole[~whole["treated"]]["study_person_id"].nunique() < 0.45


def test_the_job_reports_once_with_its_evidence_and_without_a_row(hub: Hub, tmp_path: Path) -> None:
    done = hub.outcomes()
    assert done.status == "reported" and done.rows > 1000
    store = tracking.opened(hub.deployment.settings)
    run = store.client.get_run(done.mlflow_run)
    assert run.info.status == "FINISHED"
    assert run.data.tags[tracking.AGREEMENTS] == AGREEMENT
    assert run.data.tags[tracking.EXPIRES] == "2029-12-31"
    inputs = {each.dataset.name for each in run.inputs.dataset_inputs}
    assert inputs == {f"studies/{AGREEMENT}/{t.replace('.', '_')}" for t in panels.COLUMNS}
    sources = [json.loads(each.dataset.source) for each in run.inputs.dataset_inputs]
    assert all(each["delta_table_version"] == 0 and each["path"] for each in sources)
    listed = {a.path for a in store.client.list_artifacts(done.mlflow_run)}
    assert listed == {
        "report.html", "report.json", "balance.json", "event_study.png", "balance.png",
        "study.json",
    }  # fmt: skip
    held = {
        path.name: path.read_bytes()
        for path in Path(store.client.download_artifacts(done.mlflow_run, "", str(tmp_path)))
        .rglob("*")
        if path.is_file()
    }  # fmt: skip
    assert not any(b"person-" in content for content in held.values())
    told = json.loads(held["report.json"])
    found = {(line["group"], line["outcome"], line["quarter"]): line for line in told["lines"]}
    line = found["all programmes", "earnings", 4]
    assert line["adjusted"]["low"] <= EFFECT <= line["adjusted"]["high"]
    assert not line["raw"]["low"] <= EFFECT <= line["raw"]["high"]
    assert told["reported"]["quarter_until"] == "2025Q4"
    assert max(abs(row["after"]) for row in told["balance"]) < 0.1

    again = hub.outcomes()
    assert (again.status, again.mlflow_run) == ("nothing to do", done.mlflow_run)
    log = hub.run(date(2026, 6, 1)).lake.read(ACCESS_LOG)
    decided = {row["decision"] for row in log.where("agreement = 'DULA-2026-0003'").collect()}
    assert decided == {"allowed", "read"}


def test_a_run_that_was_killed_is_ended_by_the_next_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = date(2026, 5, 20)
    seen: list[str] = []
    monkeypatch.setattr("concord_models.outcomes.job.reach", seen.append)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("concord_models.outcomes.report.text", killed)
    with pytest.raises(KeyboardInterrupt):
        hub.outcomes(day)
    monkeypatch.undo()
    client = tracking.opened(hub.deployment.settings).client
    experiment = client.get_experiment_by_name(hub.spec.experiment).experiment_id
    (left,) = client.search_runs([experiment], "attributes.status = 'FAILED'")
    client.update_run(left.info.run_id, "RUNNING")  # a lost machine has no time to say so
    assert seen == ["outcomes.decided", "outcomes.panel"]
    done = hub.outcomes(day)
    assert done.status == "reported"
    assert client.get_run(left.info.run_id).info.status == "KILLED"
    assert hub.outcomes(day).mlflow_run == done.mlflow_run


def test_a_dry_run_is_decided_and_logged_and_makes_nothing(hub: Hub) -> None:
    done = hub.outcomes(date(2026, 5, 1), dry_run=True)
    assert done.status == "would study" and not done.mlflow_run


def test_a_day_without_enough_entrants_says_what_to_do(hub: Hub) -> None:
    with pytest.raises(UsageError, match="wait for more deliveries or name a later --as-of"):
        hub.outcomes(date(2022, 3, 1))


def test_an_agreement_that_does_not_allow_it_is_refused(hub: Hub) -> None:
    document = hub.deployment.dulas[AGREEMENT]
    uses = document.uses.model_copy(update={"allowed": ("study",)})
    less: Mapping[str, Any] = {AGREEMENT: document.model_copy(update={"uses": uses})}
    known = register(*hub.deployment.mous.values(), *less.values())
    with pytest.raises(RefusedError, match="train"):
        outcomes(hub.run(date(2026, 6, 1)), hub.spec, hub.deployment.contracts, known)
