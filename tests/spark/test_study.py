"""The study job: exactly what is agreed, under pseudonyms of the study alone, made once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import duckdb_extension_delta
import polars as pl
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from concord.agreements import chain
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import digest
from concord.agreements.decision import Request, decide
from concord.agreements.dula import Dula
from concord.errors import LockedError, RefusedError, UsageError
from concord.lake import log, points, session
from concord.lake.run import Run, Tally
from concord.lake.tables import Lake
from concord.lake.writes import Append, Stamp, Transaction
from concord.privacy.hashing import digest as hashed
from concord.privacy.wrapping import WrappedKey, agreement_key, destroy
from concord.reporting import Reporter
from concord.studies import frames, making, sources, tables
from concord.studies.job import Outcome, study
from concord.studies.returning import own_ids
from concord.studies.sources import CROSSWALK
from tests import agreed
from tests.conftest import test_settings
from tests.feeds import LABELS, File, deliver
from tests.spark.conftest import Office

pytestmark = pytest.mark.spark
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ONE, TWO = "DULA-2026-0001", "DULA-2026-0002"
FORMS = ("form_id", "case_id", "due_on", "office", "amount")
MEMBERS = ("client_id", "case_id", "name", "race", "amount")
WAGES = ("worker_id", "name", "town", "amount")


def form(number: int, case: int, office: str = "Lynn", due: str = "2025-03-31") -> dict[str, str]:
    values = {"form_id": f"FORM{number:05d}", "case_id": f"CASE{case:05d}", "due_on": due}
    return {**values, "office": office, "amount": "1.00"}


def member(number: int, case: int) -> dict[str, str]:
    values = {"client_id": f"CLIENT{number:05d}", "case_id": f"CASE{case:05d}"}
    return {**values, "name": f"Quill {number}", "race": "white", "amount": "0.00"}


def wage(number: int, town: str = "Lowell") -> dict[str, str]:
    name = {"worker_id": f"WORKER{number:05d}", "name": f"Quill {number}"}
    return {**name, "town": town, "amount": f"{number}.50"}


# Client n and worker n are one person, for n up to 4; worker 9 is nobody's client, and client 5 is
# a record that the index does not know.
PERSON = {number: f"{number:032x}" for number in range(1, 10)}


@dataclass
class Desk:
    """The data office: its lake, its agreements, and the study job over them."""

    office: Office
    dulas: dict[str, Dula]

    @property
    def lake(self) -> Lake:
        return self.office.lake

    @property
    def spark(self) -> SparkSession:
        return self.office.spark

    def study(
        self,
        *agreements: str,
        as_of: date = date(2025, 12, 31),
        run_id: str = "study-1",
        now: datetime = NOW,
        dry_run: bool = False,
        **asked: Any,
    ) -> list[Outcome]:
        run = Run(
            job="study",
            run_id=run_id,
            as_of=as_of,
            dry_run=dry_run,
            actor="tester",
            settings=self.office.settings,
            lake=self.lake,
            reporter=Reporter(quiet=True),
            clock=lambda: now,
            tally=Tally(),
        )
        register = agreed.register(agreed.mou(), *self.dulas.values())
        return study(run, self.office.contracts, register, agreements=agreements, **asked)

    def rows(self, agreement: str, table: str) -> list[dict[str, Any]]:
        frame = self.spark.read.format("delta").load(self.path(agreement, table))
        return [row.asDict() for row in frame.collect()]

    def path(self, agreement: str, table: str) -> str:
        return self.lake.path(f"studies/{agreement}/{table}")

    def secret(self, agreement: str) -> bytes:
        return agreement_key(self.office.settings.keys, agreement).fetch()

    def record_ids(self, feed: str) -> dict[str, str]:
        """Record id by source key, from the vault."""
        rows = self.office.rows(f"vault/identifiers_{feed}")
        return {row["source_key"]: row["record_id"] for row in rows.collect()}

    def log(self) -> list[tuple[str, str, int | None]]:
        rows = self.lake.read(ACCESS_LOG).collect()
        return sorted(
            ((row["agreement"], row["decision"], row["row_count"]) for row in rows), key=str
        )

    def tables(self, *agreements: str) -> list[tables.StudyTable]:
        dulas = [self.dulas[name] for name in agreements or self.dulas]
        return [t for d in dulas for t in tables.of_agreement(d, self.office.contracts)]

    def contents(self, agreement: str) -> Mapping[str, list[str]]:
        names = ("help_forms", "help_members", "work_wages")
        return {name: sorted(map(repr, self.rows(agreement, name))) for name in names}


def index(desk: Desk, changes: Sequence[tuple[str, str, date, date | None]] = ()) -> None:
    """Writes a crosswalk as the person index would: clients and workers 1 to 4, and worker 9."""
    clients, workers = desk.record_ids("help"), desk.record_ids("work")
    since = date(2025, 1, 1)
    known = [(clients[f"CLIENT{n:05d}"], PERSON[n], since, None) for n in range(1, 5)]
    known += [(workers[f"WORKER{n:05d}"], PERSON[n], since, None) for n in (1, 2, 3, 4, 9)]
    changed = {record for record, *_ in changes}
    rows = [row for row in known if row[0] not in changed] + list(changes)
    frame = desk.spark.createDataFrame(
        [(*row, "index-1", "minted") for row in rows],
        "record_id string, person_id string, valid_from date, valid_to date, run_id string, "
        "how string",
    )
    frame.write.format("delta").mode("overwrite").save(desk.lake.path(CROSSWALK))


def begin(spark: SparkSession, folder: Path, amended: Mapping[str, Any] | None = None) -> Desk:
    office = Office(spark, test_settings(folder), agreed.contracts())
    documents = [agreed.document(**(amended or {})), agreed.outreach()]
    return Desk(office, {values["id"]: agreed.dula(values) for values in documents})


def deliver_all(desk: Desk) -> None:
    landing = desk.office.landing
    closed = form(4, 3, office="closed")
    forms = [form(1, 1), form(2, 2), form(3, 2), closed]
    early = File("2023-12", [form(9, 1)], table="forms", columns=FORMS)
    march = [
        File("2025-03", forms, table="forms", columns=FORMS),
        File("2025-03", [member(n, n % 3 + 1) for n in range(1, 6)], "members", columns=MEMBERS),
    ]
    april = [File("2025-04", [form(1, 1)], table="forms", columns=FORMS)]
    work = [File("2025-03", [wage(n) for n in (1, 2, 3, 4, 9)], "wages", columns=WAGES)]
    deliver(landing, 1, early, *march, feed="help", created_at="2025-04-20T06:00:00Z")
    deliver(landing, 2, *april, feed="help", created_at="2025-05-09T06:00:00Z")
    deliver(landing, 1, *work, feed="work", created_at="2025-05-20T06:00:00Z")
    outcomes = desk.office.ingest(as_of=date(2025, 5, 31))
    assert {outcome.status for outcome in outcomes} == {"loaded"}


@pytest.fixture(scope="module")
def delivered(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with all deliveries and a person index, without studies."""
    folder = tmp_path_factory.mktemp("delivered")
    session.interpret(spark, True)
    made = begin(spark, folder)
    deliver_all(made)
    index(made)
    return folder


@pytest.fixture(scope="module")
def desk(spark: SparkSession, delivered: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Both studies made. Tests of it change nothing but the access log."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(delivered, folder, dirs_exist_ok=True)
    made = begin(spark, folder)
    outcomes = made.study()
    assert [outcome.status for outcome in outcomes] == ["made", "made"]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0]
    assert sum(table.unlinked for table in outcomes[0].made) == 1, "client 5 is counted"
    return made


def test_a_study_holds_exactly_the_agreed_columns_and_rows(desk: Desk) -> None:
    forms = desk.rows(ONE, "help_forms")
    assert list(forms[0]) == [
        *("study_case_id", "form_id", "due_on", "office", "_period", "_received_on", "_known_on")
    ]
    # Neither the closed office (clause 5.1) nor the period before the agreed days.
    assert sorted(row["_period"] for row in forms) == ["2025-03"] * 3 + ["2025-04"]
    assert {row["office"] for row in forms} == {"Lynn"}
    members = desk.rows(ONE, "help_members")
    assert list(members[0])[:3] == ["study_person_id", "study_case_id", "race"]
    assert len(members) == 5, "a record without a person is kept"
    wages = desk.rows(ONE, "work_wages")
    assert list(wages[0])[:3] == ["study_person_id", "amount", "town"]
    assert sorted(str(row["amount"]) for row in wages) == ["1.50", "2.50", "3.50", "4.50"], (
        "people of help.members alone"
    )


def test_pseudonyms_are_those_of_the_study_s_own_key(desk: Desk) -> None:
    clients = desk.record_ids("help")
    for agreement in (ONE, TWO):
        secret = desk.secret(agreement)
        people = {row["study_person_id"] for row in desk.rows(agreement, "help_members")}
        known = {"1-" + hashed(secret, PERSON[n].encode()) for n in range(1, 5)}
        alone = "1-" + hashed(secret, f"record\x1f{clients['CLIENT00005']}".encode())
        assert people == known | {alone}
        workers = {row["study_person_id"] for row in desk.rows(agreement, "work_wages")}
        assert workers == known, "the same people across agencies"
        cases = {row["study_case_id"] for row in desk.rows(agreement, "help_forms")}
        record = clients["CASE00001"].encode()
        assert "1-" + hashed(secret, b"entity\x1fcase\x1f" + record) in cases
        members = {row["study_case_id"] for row in desk.rows(agreement, "help_members")}
        assert cases < members, "a case is the same in all tables"
    for table in ("help_forms", "help_members", "work_wages"):
        columns = ("study_person_id", "study_case_id", "form_id")
        one, two = (
            {row[c] for row in desk.rows(a, table) for c in columns if c in row} for a in (ONE, TWO)
        )
        assert one and not one & two, f"{table}: two studies cannot be joined"


def test_a_form_keeps_its_number_s_pseudonym_from_month_to_month(desk: Desk) -> None:
    forms = [row["form_id"] for row in desk.rows(ONE, "help_forms")]
    assert len(forms) == 4 and len(set(forms)) == 3


def test_rows_tell_when_they_were_known(desk: Desk) -> None:
    days = {
        (row["_period"], row["_received_on"], row["_known_on"])
        for row in desk.rows(ONE, "help_forms")
    }
    # The first delivery brought history: known when the contract's latency (3 days) would have it.
    assert days == {
        ("2025-03", date(2025, 4, 20), date(2025, 4, 3)),
        ("2025-04", date(2025, 5, 9), date(2025, 5, 9)),
    }
    # 60 days after March would be later than the day it really came.
    assert {row["_known_on"] for row in desk.rows(ONE, "work_wages")} == {date(2025, 5, 20)}


def values_below(folder: Path) -> set[str]:
    """Every value and every word of all Parquet files and Delta logs."""
    found: set[str] = set()
    for file in folder.rglob("*.parquet"):
        for column in pq.read_table(file).columns:
            found |= {str(value) for value in column.to_pylist()}
    for file in folder.rglob("*.json"):
        found |= set(re.findall(r"\w+", file.read_text()))
    return found


def test_no_record_id_nor_agency_id_nor_name_is_left_in_a_study(desk: Desk) -> None:
    root = Path(desk.office.settings.lake)
    records = {**desk.record_ids("help"), **desk.record_ids("work")}
    searched = set(records) | set(records.values()) | set(PERSON.values())
    searched |= {f"FORM{n:05d}" for n in range(1, 10)} | {f"Quill {n}" for n in range(1, 10)}
    assert values_below(root / "vault") & searched, "the search finds what is there"
    assert values_below(root / "curated") & searched
    held = values_below(root / "studies")
    assert "2025-03" in held
    assert not held & searched


def test_other_readers_see_what_spark_sees(desk: Desk) -> None:
    duck = duckdb.connect()
    folder = Path(duckdb_extension_delta.__file__).parent
    duck.load_extension(str(next(folder.rglob("delta.duckdb_extension"))))
    for table in desk.tables(ONE):
        path = desk.lake.path(table.table)
        expected = desk.contents(ONE)[path.rpartition("/")[2]]
        by_polars = pl.read_delta(path)
        by_duck = duck.execute(f"SELECT * FROM delta_scan('{path}')").pl()
        arrow = deltalake.DeltaTable(path).to_pyarrow_table()
        for frame in (by_polars, by_duck, pl.from_arrow(arrow)):
            assert isinstance(frame, pl.DataFrame)
            assert sorted(map(repr, frame.to_dicts())) == expected, path


def test_rows_do_not_stand_in_their_source_s_order(desk: Desk) -> None:
    for agreement in (ONE, TWO):
        for file in Path(desk.path(agreement, "help_members")).glob("*.parquet"):
            people = pq.read_table(file)["study_person_id"].to_pylist()
            assert people == sorted(people)


def test_labels_say_under_which_agreement_until_when(desk: Desk) -> None:
    place = f"delta.`{desk.path(ONE, 'work_wages')}`"
    shown = {r["key"]: r["value"] for r in desk.spark.sql(f"SHOW TBLPROPERTIES {place}").collect()}
    expected = {
        "concord.agreements": ONE,
        "concord.agreement_digest": digest(desk.dulas[ONE]),
        "concord.purposes": "program-evaluation",
        "concord.recipients": "lab",
        "concord.expires": "2030-12-31",
        "concord.classification": "confidential",
        "concord.owner": "dua",
        "concord.disclosure_profile": "cells-11",
        "concord.source": "curated/work_wages",
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert shown["delta.enableDeletionVectors"] == "false"
    schema = desk.spark.read.format("delta").load(desk.path(ONE, "help_members")).schema
    assert schema["race"].metadata["concord.identifier_role"] == "quasi"
    assert schema["study_person_id"].metadata["concord.classification"] == "confidential"


def test_a_second_run_finds_nothing_to_do(desk: Desk) -> None:
    before = [desk.lake.made_from(table.table) for table in desk.tables()]
    outcomes = desk.study(run_id="study-2", as_of=date(2026, 3, 1))
    assert [outcome.message for outcome in outcomes] == ["nothing to do"] * 2
    assert before == [desk.lake.made_from(table.table) for table in desk.tables()]
    desk.spark.sql(f"OPTIMIZE delta.`{desk.lake.path('curated/help_forms')}`").collect()
    assert {o.message for o in desk.study(ONE)} == {"nothing to do"}, "upkeep alone"


def test_reads_are_logged_with_their_rows_and_the_chain_holds(desk: Desk) -> None:
    log = desk.log()
    assert (ONE, "read", 4 + 5 + 4) in log and (TWO, "read", 13) in log
    assert sum(1 for row in log if row[1] == "read") == 2, "once, whatever was run again"
    assert chain.verify(desk.lake, ACCESS_LOG).rows == len(log)


def test_a_request_outside_the_agreement_is_refused_and_logged(desk: Desk) -> None:
    before = desk.log()
    for asked, clause in (
        ({"purpose": "fraud-detection"}, "clause 3"),
        ({"columns": ["help.members.name"]}, "clause 5.2"),
        ({"columns": ["work.firms.size"]}, "clause datasets"),
        ({"as_of": date(2023, 1, 1)}, "clause 5.1"),
        ({"now": datetime(2031, 1, 1, tzinfo=UTC)}, "clause 8"),
        ({"now": datetime(2025, 12, 31, tzinfo=UTC), "dry_run": True}, "clause 8"),
    ):
        (outcome,) = desk.study(ONE, **asked)
        assert outcome.exit_code == 14 and clause in outcome.message
    assert len(desk.log()) == len(before) + 6
    assert sum(row[1] == "refused" for row in desk.log()) == 6
    with pytest.raises(UsageError, match="there is no agreement 'DULA-2026-0099'"):
        desk.study("DULA-2026-0099")


def test_one_refused_agreement_does_not_stop_another(desk: Desk) -> None:
    outcomes = desk.study(purpose="service-coordination")
    assert [(o.agreement, o.exit_code) for o in outcomes] == [(ONE, 14), (TWO, 0)]


def test_the_key_stands_in_no_plan(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    key = agreement_key(desk.office.settings.keys, ONE)
    table = desk.tables(ONE)[1]
    rows = desk.lake.read(table.curated)
    person = frames.person_of("study_person_id")
    who = desk.spark.read.format("delta").load(desk.lake.path(CROSSWALK))
    rows = frames.identified(rows, who, "client_record_id", person)
    rows = frames.arrived(rows, ())
    frames.pseudonymised(rows, table, key).explain("extended")
    plan = capfd.readouterr().out
    assert "hash_batch" in plan, "the plan is there to be searched"
    assert key.fetch().hex() not in plan and repr(key.fetch())[2:-1] not in plan
    assert key.wrapped not in plan


def test_the_way_back_is_the_owner_s_alone(desk: Desk) -> None:
    contract = desk.office.contracts["help"]

    def back(agreement: str, dula: Dula) -> dict[str, str]:
        asking = Request(
            actor="t",
            roles=frozenset({"office"}),
            agreement=dula.id,
            purpose=dula.purpose.code,
            use="score" if "score" in dula.uses.allowed else "study",
            columns={"help.forms": frozenset()},
            as_of=date(2025, 12, 31),
            own_ids="score" in dula.uses.allowed,
        )
        decision = decide(asking, agreed.register(agreed.mou(), dula), NOW.date())
        key: WrappedKey = agreement_key(desk.office.settings.keys, agreement)
        frame = own_ids(
            desk.lake, dula, decision, contract, table="help.forms", role="case", key=key
        )
        return {row["study_case_id"]: row["own_id"] for row in frame.collect()}

    own = back(TWO, desk.dulas[TWO])
    cases = {own[row["study_case_id"]] for row in desk.rows(TWO, "help_forms")}
    assert cases == {"CASE00001", "CASE00002"}
    with pytest.raises(RefusedError, match="DULA-2026-0001 clause 4"):
        back(ONE, desk.dulas[ONE])
    party = {"key": "lab", "kind": "state", "custodian": "Director"}
    other = agreed.outreach()
    other["recipients"] = {"clause": "2", "parties": [party]}
    with pytest.raises(RefusedError, match="clause 2: the ids are those of dta"):
        back(TWO, agreed.dula(other))


# --- what changes a lake makes its own ------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def own_desk(spark: SparkSession, delivered: Path, tmp_path: Path) -> Desk:
    shutil.copytree(delivered, tmp_path, dirs_exist_ok=True)
    return begin(spark, tmp_path)


KILL_POINTS = (
    "study.decided",
    f"study.wrote.studies/{ONE}/help_members",
    "study.published",
    "study.recorded",
)


@pytest.mark.chaos
def test_killed_at_any_point_a_rerun_gives_the_tables_of_an_undisturbed_run(
    own_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise Killed

    monkeypatch.setattr(points, "die", die)
    own_desk.study(ONE)
    undisturbed = own_desk.contents(ONE)
    for point in KILL_POINTS:
        for table in own_desk.tables(ONE):
            own_desk.lake.remove(table.table.name)
        monkeypatch.setenv("CONCORD_KILL_AT", point)
        with pytest.raises(Killed):
            own_desk.study(ONE, run_id=point)
        monkeypatch.delenv("CONCORD_KILL_AT")
        (outcome,) = own_desk.study(ONE, run_id=point)
        assert own_desk.contents(ONE) == undisturbed, point
        # Where the end of the process is an exception, tables being written are finished.
        assert len(outcome.made) == (3 if point == "study.decided" else 0), point
    log = own_desk.lake.read(ACCESS_LOG).where("decision = 'read'").collect()
    logged = {row["run_id"]: row["row_count"] for row in log}
    assert logged == dict.fromkeys(("study-1", *KILL_POINTS), 13)
    assert len(log) == len(logged), "no read is logged twice"
    chain.verify(own_desk.lake, ACCESS_LOG)
    # A table that something else wrote to is made anew.
    table = own_desk.tables(ONE)[0].table
    own_desk.lake.write(
        own_desk.lake.read(table).limit(1),
        table,
        Append(),
        stamp=Stamp(run_id="x", job="other", code_version="0"),
        transaction=Transaction("other", 1),
        labels=LABELS,
    )
    (outcome,) = own_desk.study(ONE)
    assert [made.table for made in outcome.made] == [table.name]
    assert own_desk.contents(ONE) == undisturbed


def test_what_is_no_longer_agreed_is_gone_with_its_old_versions(
    own_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_desk.study(ONE)
    scores = Path(own_desk.path(ONE, "scores_churn"))
    own_desk.spark.range(3).write.format("delta").save(str(scores))
    values = agreed.document(version=2)
    forms, _, wages = values["datasets"]
    forms["columns"] = [column for column in forms["columns"] if column["name"] != "due_on"]
    # The members are no longer listed, so neither can wages be limited to them.
    del wages["people_of"]
    values["datasets"] = [forms, wages]
    values["linkages"][0]["tables"] = ["help.forms", "work.wages"]
    own_desk.dulas[ONE] = agreed.dula(values)

    def die() -> None:
        raise Killed

    monkeypatch.setattr(points, "die", die)
    monkeypatch.setenv("CONCORD_KILL_AT", f"study.removed.studies/{ONE}/help_forms")
    with pytest.raises(Killed):
        own_desk.study(ONE)
    monkeypatch.delenv("CONCORD_KILL_AT")
    (outcome,) = own_desk.study(ONE)
    assert not Path(own_desk.path(ONE, "help_members")).exists()
    assert "due_on" not in own_desk.rows(ONE, "help_forms")[0]
    assert len(own_desk.rows(ONE, "work_wages")) == 5
    held = Path(own_desk.path(ONE, "help_forms"))
    assert all("due_on" not in pq.read_schema(file).names for file in held.glob("*.parquet"))
    assert scores.exists(), "what another job made stays"
    assert outcome.status == "made"


def test_many_rows_give_the_study_that_few_rows_give(
    own_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few are read and written by the driver, many by Spark: the same rows either way."""
    own_desk.study()
    by_driver = {agreement: own_desk.contents(agreement) for agreement in (ONE, TWO)}
    shutil.rmtree(own_desk.lake.path("studies"))
    monkeypatch.setattr(making, "FEW", 0)
    monkeypatch.setattr(log, "MOST_FILES", -1)
    again = begin(own_desk.spark, Path(own_desk.lake.root).parent)
    assert [outcome.status for outcome in again.study()] == ["made", "made"]
    assert {agreement: again.contents(agreement) for agreement in (ONE, TWO)} == by_driver


def test_new_deliveries_and_a_changed_index_renew_what_rests_on_them(own_desk: Desk) -> None:
    own_desk.study(ONE)
    more = File("2025-05", [form(7, 1)], table="forms", columns=FORMS)
    deliver(own_desk.office.landing, 3, more, feed="help", created_at="2025-06-04T06:00:00Z")
    own_desk.office.ingest(as_of=date(2025, 6, 30))
    (outcome,) = own_desk.study(ONE, as_of=date(2025, 5, 31))
    assert outcome.message == "nothing to do", "as of May, the June delivery is not known"
    # Worker 4 turns out to be worker 9, from February on.
    worker = own_desk.record_ids("work")["WORKER00004"]
    since, split = date(2025, 1, 1), date(2026, 2, 1)
    index(own_desk, [(worker, PERSON[4], since, split), (worker, PERSON[9], split, None)])
    for as_of, person in ((date(2026, 1, 31), 4), (date(2026, 2, 1), 9)):
        found = sources.needed(sources.crosswalk(own_desk.lake, as_of))
        assert found.day == as_of
        rows = sources.read_crosswalk(own_desk.lake, found.version)
        of_worker = rows.where(rows["record_id"] == worker).where(sources.holds_on(as_of))
        assert [row["person_id"] for row in of_worker.collect()] == [PERSON[person]]
    later = sources.crosswalk(own_desk.lake, date(2026, 6, 1))
    assert later and later.day == split, "nothing has changed since"
    (outcome,) = own_desk.study(ONE, as_of=date(2026, 6, 1))
    renewed = {table.table.rpartition("/")[2]: table.rows for table in outcome.made}
    # What is worker 4's went with worker 9, who is nobody's client.
    assert renewed == {"help_forms": 5, "help_members": 5, "work_wages": 3}


def test_a_study_needs_its_key_its_index_and_its_tables_to_itself(own_desk: Desk) -> None:
    own_desk.study(ONE)
    with own_desk.lake.locks.hold([f"studies/{ONE}/help_forms"]), pytest.raises(LockedError):
        own_desk.study(ONE)
    destroy(own_desk.office.settings.keys, ONE)
    # It stops this study, and no other.
    failed, other = own_desk.study()
    assert (failed.agreement, failed.exit_code) == (ONE, 10) and other.status == "made"
    assert "is missing; restore it" in failed.message
    agreement_key(own_desk.office.settings.keys, ONE, create=True)
    (failed,) = own_desk.study(ONE)
    assert "is not the one that its study was made with" in failed.message
    own_desk.lake.storage.write(own_desk.lake.path(f"vault/_study_key_check/{ONE}"), b"3 0123")
    (failed,) = own_desk.study(ONE)
    assert failed.exit_code == 10 and f"{ONE}.v3.json is missing; restore it" in failed.message
    twice = own_desk.record_ids("work")["WORKER00001"]
    since = date(2025, 1, 1)
    index(own_desk, [(twice, PERSON[1], since, None), (twice, PERSON[2], since, None)])
    with pytest.raises(Exception, match="a record would be two people"):
        own_desk.study(TWO)
    own_desk.lake.remove(CROSSWALK)
    with pytest.raises(UsageError, match="run concord index first"):
        own_desk.study(TWO)


def test_tables_that_may_not_be_linked_have_pseudonyms_that_do_not_match(
    own_desk: Desk,
) -> None:
    values = agreed.document()
    values["linkages"][0]["tables"] = ["help.forms", "help.members"]
    del values["datasets"][2]["people_of"]
    own_desk.dulas[ONE] = agreed.dula(values)
    own_desk.study(ONE)
    members = {row["study_person_id"] for row in own_desk.rows(ONE, "help_members")}
    workers = {row["study_person_id"] for row in own_desk.rows(ONE, "work_wages")}
    assert len(members) == 5 and len(workers) == 5 and not members & workers


def test_a_table_that_was_never_delivered_is_there_and_empty(
    spark: SparkSession, tmp_path: Path
) -> None:
    desk = begin(spark, tmp_path)
    empty = desk.spark.createDataFrame(
        [], "record_id string, person_id string, valid_from date, valid_to date"
    )
    empty.write.format("delta").save(desk.lake.path(CROSSWALK))
    (outcome,) = desk.study(ONE)
    assert [made.rows for made in outcome.made] == [0, 0, 0]
    assert desk.rows(ONE, "help_forms") == []


def test_a_study_s_frames_are_reusable_over_snapshots(spark: SparkSession) -> None:
    """Versions with validity: those that held on an agreed day, known from their own snapshot."""
    dataset = (
        agreed.dula()
        .datasets[1]
        .model_copy(
            update={"period_from": date(2025, 2, 1), "period_until": date(2025, 3, 31), "rows": ()}
        )
    )
    rows = spark.createDataFrame(
        [
            ("a", date(2025, 1, 1), date(2025, 2, 1), "d1"),
            ("b", date(2025, 1, 1), date(2025, 2, 2), "d1"),
            ("c", date(2025, 3, 31), None, "d2"),
            ("d", date(2025, 4, 1), None, "d2"),
        ],
        "name string, valid_from date, valid_to date, _delivery_id string",
    )
    kept = frames.agreed_rows(rows, dataset, ())
    assert sorted(row["name"] for row in kept.collect()) == ["b", "c"]
    arrival = frames.Arrival("d1", "2025-01", date(2025, 3, 5), date(2025, 2, 3))
    dated = {row["name"]: row for row in frames.arrived(kept, [arrival]).collect()}
    assert dated["b"]["_known_on"] == date(2025, 2, 3) and dated["c"]["_known_on"] is None
