"""A recipient's job whose code tries what lies before its study: vault, index, curated, landing.

Each way through the lake that a job is given is refused, logged and leaves every file as it was;
for the hub's jobs the same ways are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from pyspark.sql import SparkSession

from concord.agreements import access_log, chain
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.decision import Request
from concord.cli import exit_code_of
from concord.deployment import Deployment
from concord.errors import RefusedError
from concord.jobs import Options, job
from concord.lake.registry import RUNS, Column, Table
from concord.lake.run import Run, actor, lake_of
from concord.lake.tables import Lake
from concord.lake.writes import Append, Stamp
from concord.linkage.person_index import PersonIndex
from tests import agreed
from tests.conftest import test_settings
from tests.feeds import LABELS

pytestmark = pytest.mark.spark

ONE, TWO = "DULA-2026-0001", "DULA-2026-0002"
Code = Callable[[Run], Any]


@dataclass
class Place:
    """A lake with the studies of two agreements, and jobs with code of their own over it."""

    deployment: Deployment
    spark: SparkSession

    @property
    def lake(self) -> Lake:
        return lake_of(self.deployment.settings, "audit", self.spark)

    def run(self, name: str, code: Code) -> int:
        """The exit code of a job of that name as the command line runs it."""
        app = typer.Typer()

        @app.command()
        def command() -> None:
            with job(name, self.deployment, Options(), inputs=lambda _: name) as current:
                code(current.run)

        return exit_code_of(app, [])

    def log(self) -> list[dict[str, Any]]:
        return chain.read(self.lake, ACCESS_LOG)

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file but those in which each job tells of itself."""
        settings = self.deployment.settings
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for root in (settings.lake, settings.landing)
            for path in Path(root).rglob("*")
            if path.is_file() and not path.is_relative_to(Path(settings.lake) / "ops")
        }


def of(name: str) -> Table:
    """A table of one column and one row."""
    return Table(name, (Column("n", "int"),), key=("n",), owner="tests", description="For tests.")


IDENTIFIERS, CURATED, CROSSWALK = of("vault/identifiers_help"), of("curated/forms"), of("index/x")
SCRATCH, OWN, OTHER = of("vault/scratch"), of(f"studies/{ONE}/forms"), of(f"studies/{TWO}/forms")


@pytest.fixture(scope="module")
def place(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    settings = test_settings(tmp_path_factory.mktemp("zones"))
    contracts, mou = agreed.contracts(), agreed.mou()
    made = Place(Deployment(settings, contracts, {mou.id: mou}, cast(PersonIndex, None)), spark)
    for table in (IDENTIFIERS, CURATED, CROSSWALK, SCRATCH, OWN, OTHER):
        append(made.lake, table)
    delivered = Path(settings.landing) / "help" / "delivery" / "forms.csv"
    delivered.parent.mkdir(parents=True)
    delivered.write_text("form")
    with pytest.MonkeyPatch.context() as patch:
        # The session is the tests' own.
        patch.setattr("concord.jobs.stop", lambda _: None)
        yield made


def append(lake: Lake, table: Table) -> None:
    rows = lake.spark.createDataFrame([(1,)], table.schema)
    stamp = Stamp(run_id="x", job="x", code_version="0")
    lake.write(rows, table, Append(), stamp=stamp, transaction=None, labels=LABELS)


def ask(run: Run, agreement: str = ONE) -> None:
    """What an honest recipient's job does first: the study of `agreement` is open to it then."""
    register = agreed.register(agreed.mou(), agreed.dula(), agreed.dula(agreed.outreach()))
    request = Request(
        agreement=agreement, purpose="program-evaluation", use="study",
        columns={"help.forms": frozenset({"office"})}, as_of=date(2026, 5, 1),
    )  # fmt: skip
    access_log.ask(replace(run, clock=lambda: datetime(2026, 6, 1, tzinfo=UTC)), register, request)


def landing(run: Run) -> str:
    return f"{run.settings.landing}/help/delivery/forms.csv"


TRIES: dict[str, tuple[Code, str]] = {
    "the vault": (lambda r: r.lake.read(IDENTIFIERS).collect(), "read the zone vault"),
    "the index": (lambda r: r.lake.read(CROSSWALK).collect(), "read the zone index"),
    "curated": (lambda r: r.lake.read(CURATED).collect(), "read the zone curated"),
    "curated, an old version": (
        lambda r: r.lake.read(CURATED, version=0), "read the zone curated"),
    "in a thread's own session": (
        lambda r: r.lake.with_session(r.lake.spark).read(CROSSWALK), "read the zone index"),
    "whether there is one": (lambda r: r.lake.exists(CROSSWALK), "read the zone index"),
    "its versions": (lambda r: r.lake.version(CROSSWALK), "read the zone index"),
    "who wrote it": (lambda r: r.lake.made_from(CURATED), "read the zone curated"),
    "its properties": (lambda r: r.lake.properties(CURATED.name), "read the zone curated"),
    "its path": (lambda r: r.lake.path(IDENTIFIERS.name), "read the zone vault"),
    "its path by way of the study": (
        lambda r: r.lake.path(f"studies/{ONE}/../../{IDENTIFIERS.name}"), "read the zone studies"),
    "its files": (
        lambda r: r.lake.storage.list(f"{r.lake.root}/{IDENTIFIERS.name}"), "read the zone vault"),
    "its files by URI": (
        lambda r: r.lake.storage.list(f"file://{r.lake.root}/index"), "read the zone index"),
    "the landing area": (
        lambda r: r.lake.storage.read(landing(r)), "read what lies outside the lake"),
    "a copy out of the landing area": (
        lambda r: r.lake.storage.copy(landing(r), f"{r.lake.root}/products/copy"),
        "read what lies outside the lake"),
    "a file into the landing area": (
        lambda r: r.lake.storage.write(f"{r.settings.landing}/x", b"x"),
        "write what lies outside the lake"),
    "rows into the vault": (lambda r: append(r.lake, SCRATCH), "write the zone vault"),
    "rows into the index, as into a ledger": (
        lambda r: r.lake.append([{"n": 2}], CROSSWALK,
                                stamp=r.stamp),
        "write the zone index"),
    "a new table": (
        lambda r: r.lake.create(of("curated/mine"), LABELS, stamp=r.stamp),
        "write the zone curated"),
    "a table less": (lambda r: r.lake.remove(SCRATCH.name), "write the zone vault"),
    "a file less": (
        lambda r: r.lake.storage.delete(f"{r.lake.root}/curated"), "write the zone curated"),
    "another agreement's study": (
        lambda r: r.lake.read(OTHER).collect(), f"open the study of {TWO} in the zone studies"),
    "rows into another agreement's study": (
        lambda r: append(r.lake, OTHER), f"open the study of {TWO} in the zone studies"),
    "another agreement's study less": (
        lambda r: r.lake.remove(OTHER.name), f"open the study of {TWO} in the zone studies"),
    "all studies": (lambda r: r.lake.storage.list(f"{r.lake.root}/studies"), "open all studies"),
}  # fmt: skip


def test_a_recipient_s_job_is_refused_each_once_logged_and_nothing_changes(place: Place) -> None:
    """Its code catches every refusal and goes on: the job ends with 14 all the same."""
    before, files = len(place.log()), place.files()

    def code(run: Run) -> None:
        ask(run)
        for told, (attempt, why) in TRIES.items():
            with pytest.raises(RefusedError, match=f"role recipient, which may not {why}"):
                attempt(run)
                pytest.fail(f"{told} was open")

    assert place.run("score", code) == 14
    assert place.files() == files
    allowed, *refused = place.log()[before:]
    assert allowed["decision"] == "allowed"
    assert len(refused) == len(TRIES)
    for row, (told, (_, why)) in zip(refused, TRIES.items(), strict=True):
        assert row["decision"] == "refused" and row["actor"] == actor(), told
        assert why in row["reasons"][0] and "job_roles.recipient" in row["reasons"][0], told
        assert row["run_id"] == allowed["run_id"], told
    studies = {row["tables"][0]: row["agreement"] for row in refused if row["agreement"]}
    assert studies == {OTHER.name: TWO}


def test_a_try_that_the_code_does_not_catch_ends_the_job_with_one_row(place: Place) -> None:
    before = len(place.log())
    assert place.run("train", lambda run: run.lake.read(CROSSWALK).count()) == 14
    (row,) = place.log()[before:]
    assert row["tables"] == [CROSSWALK.name] and row["agreement"] is None
    ended = place.lake.read(RUNS).where(f"run_id = '{row['run_id']}' AND state = 'ended'")
    (last,) = ended.collect()
    assert last["exit_code"] == 14 and "the zone index" in last["message"]


def test_a_study_is_closed_until_its_agreement_allowed_something(place: Place) -> None:
    assert place.run("publish", lambda run: run.lake.read(OWN).count()) == 14

    def asked(run: Run) -> None:
        ask(run)
        assert run.lake.read(OWN).count()

    assert place.run("publish", asked) == 0


def test_the_hub_s_jobs_may_do_all_of_it(place: Place) -> None:
    """The control: each try reaches what it tries, so that it is the role that refuses."""
    before = len(place.log())

    def code(run: Run) -> None:
        for told, (attempt, _) in TRIES.items():
            if told != "its path by way of the study":
                attempt(run)

    assert place.run("maintain", code) == 0
    assert len(place.log()) == before
    assert not place.lake.exists(SCRATCH) and not place.lake.exists(CURATED)
