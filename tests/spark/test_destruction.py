"""The end of a study: what is destroyed, what proves it, what survives, what stops it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from concord.agreements import events
from concord.agreements.canonical import digest
from concord.agreements.lifecycle import Event, Kind
from concord.agreements.register import Register
from concord.errors import AuditError, ConfigError, RefusedError
from concord.lake.run import Run, Tally
from concord.privacy.wrapping import agreement_key
from concord.reporting import Reporter
from concord.studies import destruction, ending
from concord.studies.destruction import destroy, planned
from tests import agreed
from tests.agreed import sign_lake
from tests.canary import words
from tests.spark.test_study import ONE, TWO, Desk, begin, deliver_all, index

pytestmark = pytest.mark.spark
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Killed(Exception):
    pass


@dataclass
class End:
    """A lake with two studies, of which one comes to its end."""

    desk: Desk

    @property
    def root(self) -> Path:
        return Path(self.desk.lake.root)

    @property
    def register(self) -> Register:
        mou = agreed.mou()
        return events.register(
            self.desk.lake, self.desk.office.settings, {mou.id: mou}, self.desk.dulas
        )

    def run(self, now: datetime = NOW) -> Run:
        return Run(
            job="expire", run_id="expire-1", as_of=now.date(), dry_run=False, actor="tester",
            settings=self.desk.office.settings, lake=self.desk.lake,
            reporter=Reporter(quiet=True), clock=lambda: now, tally=Tally(),
        )  # fmt: skip

    def happened(self, kind: Kind) -> None:
        dula, run = self.desk.dulas[ONE], self.run()
        event = Event(ONE, dula.version, kind, "tester", NOW, digest(dula), reason="a test")
        events.append(self.desk.lake, self.register, [event], stamp=run.stamp)

    def destroy(self) -> dict[str, object]:
        return destroy(self.run(), self.register, ONE, self.desk.office.contracts)


@pytest.fixture(scope="module")
def end(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> End:
    desk = begin(spark, tmp_path_factory.mktemp("end"))
    deliver_all(desk)
    index(desk)
    desk.study()
    settings = desk.office.settings
    root = Path(settings.lake)
    sign_lake(root, settings.signers_file, agreed.mou(), *desk.dulas.values())
    return End(desk)


def test_a_study_is_destroyed_proved_and_certified_through_kills(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = end.desk.contents(ONE)
    pseudonyms = {
        value
        for table in held
        for row in end.desk.rows(ONE, table)
        for name, value in row.items()
        if (name.startswith("study_") or name == "form_id") and value
    }
    assert len(pseudonyms) > 4
    other = end.desk.contents(TWO)

    # While it holds, and under legal hold, nothing goes.
    with pytest.raises(RefusedError, match=f"{ONE} clause 8: it is active") as refused:
        end.destroy()
    assert refused.value.exit_code == 14
    end.happened("terminated")
    end.happened("hold_placed")
    with pytest.raises(RefusedError, match="legal hold"):
        end.destroy()
    end.happened("hold_lifted")
    assert end.desk.contents(ONE) == held
    plan = planned(end.run(), end.register, ONE)
    assert set(plan.tables) == {f"studies/{ONE}/{table}" for table in held}
    assert plan.keys == (1,) and plan.due == date(2026, 7, 1) and plan.files >= 6
    said = ending.tell(end.desk.lake, end.register, date(2026, 7, 2))
    told = {each.agreement: each for each in said}
    assert told[ONE].overdue and "by 2026-07-01" in told[ONE].message and TWO not in told

    # Killed again and again, it goes on where it was.
    for point in (
        f"destroy.removed.studies/{ONE}/help_members", "destroy.archived", "destroy.searched",
        "destroy.erased",
    ):  # fmt: skip
        monkeypatch.setattr(destruction, "reach", killer(point))
        with pytest.raises(Killed):
            end.destroy()
    monkeypatch.setattr(destruction, "reach", lambda point: None)

    made = end.destroy()
    assert made["attempts"] == 5
    proof = made["proof"]
    assert isinstance(proof, dict) and proof["search"]["found"] == 0
    assert proof["search"]["files opened"] > 20
    assert proof["search"]["pseudonyms searched for"] > len(pseudonyms)
    assert "as they were" in proof["other_tables"]
    destroyed = made["destroyed"]
    assert isinstance(destroyed, dict)
    assert destroyed["tables"] == json.loads(json.dumps(plan.tables)), "as it was at the first try"

    # Judged by other means than the job's own.
    assert not (end.root / "studies" / ONE).exists()
    for name, found in words(end.root):
        assert not pseudonyms & found, name
    with pytest.raises(ConfigError, match="is missing"):
        agreement_key(end.desk.office.settings.keys, ONE)
    assert end.desk.contents(TWO) == other
    place = end.root / "ops" / "_certificates" / f"{ONE}.v1"
    assert json.loads(place.with_suffix(".v1.json").read_text())["agreement"] == ONE
    page = place.with_suffix(".v1.html").read_text()
    assert "interrupted and resumed: 5 attempts" in page and "Director" in page
    assert [event.kind for event in end.register.events(ONE)][-2:] == [
        "destruction_ordered", "destruction_certified",
    ]  # fmt: skip
    with pytest.raises(RefusedError, match="certified already"):
        end.destroy()
    assert not ending.tell(end.desk.lake, end.register, date(2026, 7, 2))


def killer(point: str) -> Callable[[str], None]:
    def reach(reached: str) -> None:
        if reached == point:
            raise Killed(point)

    return reach


def test_what_is_left_is_found_before_anything_is_certified(
    spark: SparkSession, tmp_path: Path
) -> None:
    end = End(begin(spark, tmp_path))
    deliver_all(end.desk)
    index(end.desk)
    end.desk.study(ONE)
    settings = end.desk.office.settings
    sign_lake(Path(settings.lake), settings.signers_file, agreed.mou(), *end.desk.dulas.values())
    end.happened("terminated")
    (row, *_) = end.desk.rows(ONE, "help_members")
    leak = end.root / "products" / "leaked.csv.gz"
    leak.parent.mkdir(parents=True)
    leak.write_bytes(gzip.compress(f"key\n{row['study_person_id']}\n".encode()))
    with pytest.raises(AuditError, match=r"1 files still hold pseudonyms: .*leaked\.csv\.gz"):
        end.destroy()
    assert agreement_key(settings.keys, ONE), "the key is there to search again"
    leak.unlink()
    assert end.destroy()["attempts"] == 2
