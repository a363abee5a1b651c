"""An agreement's life by the command line, and what an officer finds: labels, the log, its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord import deployment, jobs
from concord.agreements import chain, life_commands
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.events import AGREEMENT_EVENTS
from concord.agreements.signing import new_key, public_text
from concord.cli import app, exit_code_of
from concord.errors import RefusedError
from concord.lake.locks import Locks
from concord.lake.session import interpret
from concord.lake.tables import Lake
from concord.lake.zones import Zones
from concord.privacy.wrapping import agreement_key
from concord.settings import Keys
from tests.cluster.conftest import person, write_conf
from tests.cluster.test_studies import DULA
from tests.feeds import File, deliver

pytestmark = pytest.mark.spark
ONE = "DULA-2026-0001"


class Town:
    """A deployment in miniature, and `concord` on its command line."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.conf = write_conf(home / "conf")
        text = DULA.format(id=ONE, expires="2098-12-31")
        (self.conf / "agreements" / f"{ONE}.yaml").write_text(text)
        self.settings = home / "settings.yaml"
        self.configure(signers=str(home / "keys" / "signers.yaml"))

    def configure(self, **more: Any) -> None:
        values = {
            "lake": str(self.home / "lake"), "landing": str(self.home / "landing"),
            "conf": str(self.conf), "keys": {"path": str(self.home / "keys")},
            "roles": {"office": {"users": ["*"]}}, "parallel_feeds": 1, **more,
        }  # fmt: skip
        self.settings.write_text(json.dumps(values))

    def lake(self, spark: SparkSession) -> Lake:
        root = str(self.home / "lake")
        locks = Locks.of(spark, root, 60, job="t", run_id="t", actor="t")
        return Lake(spark, root, locks=locks, lock_wait=5, zones=Zones("agreement"))

    def run(self, *arguments: str) -> int:
        return exit_code_of(app, [*arguments, "--settings", str(self.settings)])


@pytest.fixture(scope="module", autouse=True)
def one_session(spark: SparkSession) -> Iterator[None]:
    """The commands use the tests' session, and leave it running."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (life_commands, deployment, jobs):
            patch.setattr(module, "start", lambda settings, application: spark)
            patch.setattr(module, "stop", lambda session: None)
        interpret(spark, True)
        yield
        interpret(spark, False)


@pytest.fixture(scope="module")
def signed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town whose agreements are signed and whose first delivery is loaded."""
    town = Town(tmp_path_factory.mktemp("town"))
    assert town.run("agreement", "rehearse") == 0
    people = [person(number) for number in range(20)]
    deliver(town.home / "landing", 1, File("2025-01", people))
    assert town.run("ingest", "--feed", "tiny") == 0
    yield town


def test_a_draft_is_reviewed_signed_and_obeyed(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    town = Town(tmp_path)
    registry = tmp_path / "keys" / "signers.yaml"

    def say(*arguments: str, code: int = 0) -> str:
        ended = town.run("agreement", *arguments)
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return out + err

    registry.parent.mkdir()
    keys = {name: new_key(tmp_path / f"{name}.pem") for name in ("dta", "other")}
    signer = {"party": "dta", "office": "Commissioner", "valid_from": "2026-01-01"}
    registry.write_text(json.dumps({"dta": {**signer, "public_key": public_text(keys["dta"])}}))
    assert "it cannot be approved now" in say("review", ONE, "--approve", code=2)
    assert "is in review" in say("request", ONE)
    assert "are in_review already" in say("request", ONE, code=2)
    assert "returned" in say("review", ONE, "--return", "name the officer")
    say("request", ONE)
    assert "approved" in say("review", ONE, "--approve")
    by = ("--key", str(tmp_path / "other.pem"))
    assert "not one of key 'dta'" in say("sign", ONE, "--party", "dta", *by, code=2)
    assert "has no key 'x'" in say("sign", ONE, "--party", "dta", "--signer", "x", *by, code=2)
    assert "dua is no party" in say("sign", ONE, "--party", "dua", *by, code=2)
    assert "is signed by dta" in say(
        "sign", ONE, "--party", "dta", "--key", str(tmp_path / "dta.pem")
    )
    assert "active" in say("list")
    keys_at = Keys(path=tmp_path / "keys")
    agreement_key(keys_at, ONE, create=True)
    assert "suspended" in say("suspend", ONE, "--reason", "a breach")
    with pytest.raises(RefusedError, match="is disabled"):
        agreement_key(keys_at, ONE)
    assert "is suspended since" in say("list")
    assert "resumed" in say("suspend", ONE, "--reason", "mended", "--resume")
    assert agreement_key(keys_at, ONE)
    assert "it cannot be resumed now" in say("suspend", ONE, "--reason", "x", "--resume", code=2)
    # The memorandum is signed by nobody: the hub holds nothing, and the study may not be made.
    assert town.run("study") == 14
    told = capsys.readouterr()
    assert "MOU-2018-0001 clause signatures" in told.out + told.err
    assert town.run("ingest", "--feed", "tiny") == 14
    rows = [row.asDict() for row in town.lake(spark).read(ACCESS_LOG).collect()]
    assert {(row["agreement"], row["decision"]) for row in rows} == {
        (ONE, "refused"), ("MOU-2018-0001", "refused"),
    }  # fmt: skip
    kinds = [row["event"] for row in chain.read(town.lake(spark), AGREEMENT_EVENTS)]
    assert kinds == [
        "requested", "returned", "requested", "approved", "signed", "suspended", "resumed",
    ]  # fmt: skip
    told_days = say("days", "--json").splitlines()
    days = json.loads(next(line for line in told_days if line.startswith('{"spells"')))
    assert [spell["state"] for spell in days["spells"]] == ["active"]
    assert days["agencies"]["dta"] == {"agreements": 1, "days": 0.0}


def test_a_rehearsal_signs_what_waits_and_never_with_a_real_registry(
    signed: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert signed.run("agreement", "rehearse") == 0
    assert "nothing waits" in capsys.readouterr().out
    signed.configure(signers=None)
    assert signed.run("agreement", "rehearse") == 2
    assert "so it is a real one" in capsys.readouterr().err
    signed.configure(signers=str(signed.home / "keys" / "signers.yaml"))


def test_labels_changed_by_hand_are_found_and_named(
    spark: SparkSession, signed: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert signed.run("labels", "verify") == 0, capsys.readouterr().out
    place = signed.home / "lake" / "curated" / "tiny_clients"
    for label, value in (
        ("concord.recipients", "everybody"),
        ("concord.agreement_digest", "0" * 64),
        ("concord.expires", "2199-12-31"),
    ):
        before = spark.sql(f"SHOW TBLPROPERTIES delta.`{place}` ('{label}')").collect()[0]["value"]
        spark.sql(f"ALTER TABLE delta.`{place}` SET TBLPROPERTIES ('{label}' = '{value}')")
        capsys.readouterr()
        assert signed.run("labels", "verify") == 16
        out = capsys.readouterr().out
        assert f"curated/tiny_clients: {label} says '{value}'" in out
        assert out.count("it should be") == 1
        spark.sql(f"ALTER TABLE delta.`{place}` SET TBLPROPERTIES ('{label}' = '{before}')")
    assert signed.run("labels", "verify") == 0


def test_an_anchor_finds_an_end_that_was_cut_off(
    spark: SparkSession, signed: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert signed.run("audit", "anchor") == 0
    assert signed.run("audit", "verify") == 0
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["anchors"] == 1 and said["events"] > 0 and said["rows"] > 0
    lake = signed.lake(spark)
    whole = lake.read(ACCESS_LOG).toArrow()
    last = chain.read(lake, ACCESS_LOG)[-1]["hash"]
    frame = spark.createDataFrame(whole, ACCESS_LOG.schema)  # type: ignore[type-var]
    path = lake.path(ACCESS_LOG)
    frame.where(f"hash != '{last}'").write.format("delta").mode("overwrite").save(path)
    assert signed.run("audit", "verify") == 16
    assert "cut off or replaced" in capsys.readouterr().err
    frame.write.format("delta").mode("overwrite").save(path)
    assert signed.run("audit", "verify") == 0


def test_the_log_tells_owners_and_officers_who_used_what(
    signed: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    assert signed.run("audit", "used", "dta") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.strip().splitlines()]
    assert {(row["agreement"], row["purpose"]) for row in rows} == {("MOU-2018-0001", "holding")}
    assert signed.run("audit", "used", "nobody") == 0
    assert not capsys.readouterr().out.strip()
    assert signed.run("audit", "reads") == 2
    capsys.readouterr()
    assert signed.run("audit", "notice") == 0
    notice = capsys.readouterr().out
    assert "M.G.L. c. 30, s. 63" in notice and f"({ONE}), until 2098-12-31" in notice


def test_the_events_stand_at_the_real_clock(spark: SparkSession, signed: Town) -> None:
    (first, *_) = chain.read(signed.lake(spark), AGREEMENT_EVENTS)
    assert abs((datetime.now(UTC) - first["at"]).total_seconds()) < 3600
