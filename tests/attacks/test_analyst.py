"""An analyst's notebook tries to read more than the agreement allows, in many ways.

Each is refused through Concord's interface, and the log has it. What is left, opening the lake's
files with other tools, needs storage permissions: docs/agreements.md says so, and the last test
shows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from deltalake import write_deltalake
from pyspark.sql import DataFrame, SparkSession

import concord
from concord import reading
from concord.agreements import access_log, chain, events
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.canonical import digest
from concord.agreements.decision import Request
from concord.agreements.dula import Dula
from concord.agreements.events import AGREEMENT_EVENTS
from concord.agreements.lifecycle import Event, Kind
from concord.agreements.register import Register
from concord.agreements.signing import load_signers
from concord.deployment import Deployment
from concord.errors import AuditError, RefusedError, UsageError
from concord.lake import run as runs
from concord.lake.run import Run, Tally
from concord.linkage.person_index import PersonIndex
from concord.privacy import pseudonyms
from concord.reporting import Reporter
from concord.studies.returning import own_ids
from concord.studies.tables import of_agreement
from tests import agreed
from tests.agreed import sign_lake
from tests.spark.test_study import ONE, TWO, begin, deliver_all, index

pytestmark = pytest.mark.spark
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Notebook:
    """What an analyst has: Concord's library, and a lake with a study of two agreements."""

    deployment: Deployment
    lake: Any
    now: datetime = NOW

    @property
    def register(self) -> Register:
        return self.deployment.register(self.lake)

    def read(self, agreement: str, table: str, **more: Any) -> DataFrame:
        register = more.pop("register", None) or self.register
        return reading.under(
            self.lake, self.deployment, register, agreement, table, clock=lambda: self.now, **more
        )

    def run(self, **changes: Any) -> Run:
        run = Run(
            job="notebook", run_id="notebook", as_of=date(2026, 5, 1), dry_run=False,
            actor=runs.actor(), settings=self.deployment.settings, lake=self.lake,
            reporter=Reporter(quiet=True), clock=lambda: self.now, tally=Tally(),
        )  # fmt: skip
        return replace(run, **changes)

    def ask(self, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "agreement": ONE, "purpose": "program-evaluation", "use": "study",
            "columns": {"help.forms": frozenset({"office"})}, "as_of": date(2026, 5, 1),
        }  # fmt: skip
        model = changes.pop("model", None)
        return access_log.ask(
            self.run(), self.register, Request(**{**values, **changes}), model=model
        )

    def log(self) -> list[dict[str, Any]]:
        return chain.read(self.lake, ACCESS_LOG)

    def happened(self, kind: Kind, terms: Dula, **more: Any) -> None:
        event = Event(
            terms.id, terms.version, kind, "officer", self.now, digest(terms), "why", **more
        )
        events.append(self.lake, self.register, [event], stamp=self.run().stamp)

    def with_terms(self, values: dict[str, Any]) -> Notebook:
        """The analyst's own conf folder, over the same lake."""
        changed = agreed.dula(values)
        dulas = {**self.deployment.dulas, changed.id: changed}
        return Notebook(replace(self.deployment, dulas=dulas), self.lake, self.now)


@pytest.fixture(scope="module")
def notebook(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    desk = begin(spark, tmp_path_factory.mktemp("attacks"))
    deliver_all(desk)
    index(desk)
    desk.study()
    settings, mou = desk.office.settings, agreed.mou()
    sign_lake(Path(settings.lake), settings.signers_file, mou, *desk.dulas.values())
    deployment = Deployment(
        settings, desk.office.contracts, {mou.id: mou}, cast(PersonIndex, None), desk.dulas
    )
    yield Notebook(deployment, runs.lake_of(settings, "read", spark))


def test_what_is_agreed_is_read_and_logged(notebook: Notebook) -> None:
    rows = notebook.read(ONE, "help.forms", columns=["office"])
    assert rows.columns == ["study_case_id", "office", "_period", "_received_on", "_known_on"]
    assert rows.count() == 4
    *_, decided, read = notebook.log()
    assert (decided["decision"], read["decision"]) == ("allowed", "read")
    assert (read["row_count"], read["actor"]) == (4, runs.actor())
    assert read["columns"] == ["help.forms.office"]
    assert concord.read is reading.read


def test_a_visit_lists_one_study_without_rows_and_opens_no_other(
    notebook: Notebook, spark: SparkSession
) -> None:
    lake = runs.lake_of(notebook.deployment.settings, "read", spark)
    visit = reading.Visit(notebook.run(lake=lake), notebook.deployment, notebook.register)
    held = visit.study(ONE)
    assert held["help.forms"].rows == 4 and "office" in {
        c["name"] for c in held["help.forms"].columns
    }
    assert not any(each.sample for each in held.values())
    assert notebook.log()[-1]["decision"] == "allowed"
    (other, *_) = of_agreement(notebook.deployment.dulas[TWO], notebook.deployment.contracts)
    with pytest.raises(RefusedError, match="no agreement allowed that here"):
        lake.read(other.table)
    lake.zones.refusals.clear()
    ended = replace(visit, run=replace(visit.run, clock=lambda: later(notebook).now))
    with pytest.raises(RefusedError, match="expired|ended"):
        ended.study(ONE)
    with pytest.raises(UsageError, match="there is no agreement"):
        visit.study("DULA-1999-0001")


Attack = Callable[[Notebook], Any]


def later(notebook: Notebook) -> Notebook:
    return replace(notebook, now=datetime(2031, 1, 1, tzinfo=UTC))


def stolen_role(notebook: Notebook) -> Any:
    """A request that says who asks: the run's own actor and roles go in its place."""
    values = agreed.document(people={"clause": "10", "users": ["governor"]}, version=2)
    forged = Request(
        agreement=ONE, purpose="program-evaluation", use="study", as_of=date(2026, 5, 1),
        columns={"help.forms": frozenset({"office"})}, actor="governor",
        roles=frozenset({"office"}),
    )  # fmt: skip
    terms = agreed.dula(values)
    known = agreed.register(agreed.mou(), terms)
    return access_log.ask(notebook.run(), known, forged)


def edited(notebook: Notebook, **changes: Any) -> Any:
    """Conf's file with a column more, under the number that was signed."""
    values = agreed.document(**changes)
    values["datasets"][0]["columns"].append({"name": "amount", "why": "curious"})
    return notebook.with_terms(values).read(ONE, "help.forms", columns=["amount"])


def own_signature(notebook: Notebook) -> Any:
    """A new version that the analyst signs with keys that no registry knows."""
    values = agreed.document(version=2)
    values["datasets"][0]["columns"].append({"name": "amount", "why": "curious"})
    terms = agreed.dula(values)
    made = agreed.life(terms, NOW)
    known = notebook.register
    held = load_signers(notebook.deployment.settings.signers_file)
    without = {name: each for name, each in held.items() if name != "dta"}
    forged = Register(known.mous, {ONE: terms}, [*known.all_events, *made], without)
    return notebook.read(ONE, "help.forms", columns=["amount"], register=forged)


REFUSED: dict[str, tuple[Attack, str]] = {
    "another purpose": (lambda n: n.read(ONE, "help.forms", purpose="research"), "clause 3"),
    "a column that is not agreed": (
        lambda n: n.read(ONE, "help.forms", columns=["amount"]), "clause 5.1"),
    "a direct identifier": (lambda n: n.read(ONE, "help.members", columns=["name"]), "clause 5.2"),
    "the agency's own case id": (
        lambda n: n.read(ONE, "help.forms", columns=["case_id"]), "clause 5.1"),
    "a record id": (
        lambda n: n.read(ONE, "help.forms", columns=["case_record_id"]), "clause 5.1"),
    "a table that is not agreed": (lambda n: n.read(ONE, "work.firms"), "clause datasets"),
    "a way out of the study's folder": (
        lambda n: n.read(ONE, "../../vault/identifiers_help"), "clause datasets"),
    "SQL in a column's name": (
        lambda n: n.read(ONE, "help.forms", columns=["office, (select 1) as x"]), "clause 5.1"),
    "everything": (lambda n: n.read(ONE, "help.members", columns=["*"]), "clause 5.2"),
    "a linkage that is not agreed": (
        lambda n: n.read(ONE, "help.forms", linked_with=["work.firms"]), "clause linkages"),
    "after the end": (lambda n: later(n).read(ONE, "help.forms"), "clause 8"),
    "after the end, as of before": (
        lambda n: later(n).ask(as_of=date(2026, 1, 1)), "clause 8"),
    "data from before the agreed days": (lambda n: n.ask(as_of=date(2020, 1, 1)), "clause 5.1"),
    "scores under an evaluation": (lambda n: n.ask(use="score"), "clause 4"),
    "the agency's ids back": (lambda n: n.ask(own_ids=True), "clause 4"),
    "a model where it may not be applied": (
        lambda n: n.ask(agreement=TWO, purpose="service-coordination", use="score", model=ONE),
        f"{ONE} clause 4"),
    "somebody else's name": (stolen_role, "clause 10"),
    "a file edited after it was signed": (edited, "not those that were signed"),
    "a signature by a key that nobody registered": (own_signature, "clause signatures"),
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED)
def test_it_is_refused_and_logged(notebook: Notebook, attack: str) -> None:
    how, words = REFUSED[attack]
    before = len(notebook.log())
    with pytest.raises(RefusedError, match=words) as caught:
        how(notebook)
    assert caught.value.exit_code == 14
    log = notebook.log()
    assert len(log) == before + 1 and log[-1]["decision"] == "refused"
    assert log[-1]["actor"] == runs.actor()
    assert words.split()[-1] in " ".join(log[-1]["reasons"])


def test_a_new_version_that_nobody_signed_changes_nothing(notebook: Notebook) -> None:
    """The old terms govern: what the new file adds is refused."""
    with pytest.raises(RefusedError, match="column amount of help.forms is not agreed"):
        edited(notebook, version=2)


def test_an_agreement_of_one_s_own_is_a_draft(notebook: Notebook) -> None:
    mine = notebook.with_terms(agreed.document(id="DULA-2026-0099"))
    with pytest.raises(RefusedError, match="is a draft"):
        mine.read("DULA-2026-0099", "help.forms")
    with pytest.raises(UsageError, match="there is no agreement"):
        notebook.read("DULA-2026-0098", "help.forms")


def test_variables_of_the_environment_make_nobody_somebody_else(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "LOGNAME", "USERNAME", "HADOOP_USER_NAME", "SPARK_USER"):
        monkeypatch.setenv(name, "governor")
    notebook.read(ONE, "help.forms", columns=["office"])
    assert notebook.log()[-1]["actor"] == runs.actor() != "governor"


def test_two_studies_cannot_be_joined_by_pseudonym(notebook: Notebook) -> None:
    one = notebook.read(ONE, "help.members", columns=[])
    two = notebook.read(TWO, "help.members", columns=[])
    key = "study_person_id"
    assert one.join(two.select(key), key).count() == 0 < one.count() == two.count()


def test_a_pseudonym_cannot_be_made_without_the_key(notebook: Notebook) -> None:
    dula = notebook.deployment.dulas[ONE]
    contract = notebook.deployment.contracts["help"]
    decision = notebook.ask()
    with pytest.raises(RefusedError, match="clause 4: nothing may go back"):
        own_ids(
            notebook.lake, dula, decision, contract, table="help.forms", role="case",
            key=cast(Any, None),
        )  # fmt: skip
    held = {row["study_case_id"] for row in notebook.read(ONE, "help.forms", columns=[]).collect()}
    assert pseudonyms.prefix("") == "", "no secret stands in the code"
    assert all(len(value) == len("1-") + 32 for value in held)


def test_a_suspended_agreement_stops_at_once(notebook: Notebook) -> None:
    terms = notebook.deployment.dulas[TWO]
    notebook.happened("suspended", terms)
    with pytest.raises(RefusedError, match="is suspended since"):
        notebook.read(TWO, "help.forms")
    again = replace(notebook, now=NOW + timedelta(days=1))
    again.happened("resumed", terms)
    assert again.read(TWO, "help.forms").count() == 4


def test_events_written_past_concord_stop_everything(notebook: Notebook) -> None:
    """An analyst with the right to write files in ops adds a signature of their own making."""
    place = notebook.lake.path(AGREEMENT_EVENTS)
    whole = notebook.lake.read(AGREEMENT_EVENTS).toArrow()
    row = {**whole.slice(0, 1).to_pylist()[0], "event": "approved", "actor": "dta"}
    write_deltalake(place, type(whole).from_pylist([row], whole.schema), mode="append")
    with pytest.raises(AuditError, match="was put in|another content|hang on nothing") as caught:
        notebook.read(ONE, "help.forms")
    assert caught.value.exit_code == 16
    restored = notebook.lake.spark.createDataFrame(whole, AGREEMENT_EVENTS.schema)
    restored.write.format("delta").mode("overwrite").save(place)
    assert notebook.read(ONE, "help.forms").count() == 4


def test_a_study_made_under_other_terms_is_not_read(notebook: Notebook) -> None:
    (table,) = [
        t for t in of_agreement(notebook.deployment.dulas[ONE], notebook.deployment.contracts)
        if t.dataset.table == "work.wages"
    ]  # fmt: skip
    place = f"{notebook.lake.root}/{table.table.name}"
    spark = notebook.lake.spark
    label = "concord.agreement_digest"
    before = spark.sql(f"SHOW TBLPROPERTIES delta.`{place}` ('{label}')").collect()[0]["value"]
    spark.sql(f"ALTER TABLE delta.`{place}` SET TBLPROPERTIES ('{label}' = '{'0' * 64}')")
    with pytest.raises(RefusedError, match="made under other terms"):
        notebook.read(ONE, "work.wages")
    spark.sql(f"ALTER TABLE delta.`{place}` SET TBLPROPERTIES ('{label}' = '{before}')")


def test_only_storage_permissions_stop_other_tools(notebook: Notebook) -> None:
    """What the documentation says plainly: the files are as open as their folder is."""
    place = Path(notebook.lake.root) / "studies" / ONE / "help_forms"
    assert os.access(place, os.R_OK)
    rows = notebook.lake.spark.read.format("delta").load(str(place))
    assert "form_id" in rows.columns, "unlike concord.read, all columns of the study"
    text = (Path(__file__).parents[2] / "docs" / "agreements.md").read_text()
    assert "stopped by storage" in text
