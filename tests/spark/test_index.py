"""The index job over real tables: persons kept over time, kills and reruns, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord.agreements.mou import Mou
from concord.errors import QualityError, RefusedError, UsageError
from concord.lake import driver, log, points
from concord.lake.session import interpret
from concord.linkage import index as index_of_few
from concord.linkage import tables
from concord.linkage.job import Outcome, estimated_from, measured, quality_report
from concord.linkage.limits import Bound, Limits
from concord.linkage.person_index import load_person_index
from concord.linkage.plan import planned, show_plan
from tests.agreed import register
from tests.archive import FEEDS, Archive
from tests.conftest import ROOT, test_settings
from tests.feeds import mou

pytestmark = pytest.mark.spark

KILL_POINTS = (
    "index.wrote.vault/linkage_placeholders",
    "index.wrote.vault/linkage_records",
    "index.wrote.vault/linkage_keys",
    "index.wrote.vault/linkage_patterns",
    "index.wrote.vault/linkage_pairs",
    "index.wrote.index/links",
    "index.decided",
    "index.wrote.index/events",
    "index.wrote.index/crosswalk",
    "index.wrote.vault/review_queue",
    "index.wrote.index/link_weights",
    "index.wrote.index/quality",
)
MAY, JUNE, JULY, AUGUST = (date(2025, month, 28) for month in (5, 6, 7, 8))


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    def die() -> None:
        raise Killed

    monkeypatch.setattr(points, "die", die)
    yield monkeypatch


def killed(archive: Archive, as_of: date, point: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs the job with a kill point set; whether it was reached."""
    monkeypatch.setenv("CONCORD_KILL_AT", point)
    try:
        archive.index(as_of)
    except Killed:
        return True
    finally:
        monkeypatch.delenv("CONCORD_KILL_AT")
    return False


@pytest.fixture(scope="module", autouse=True)
def _interpreted(spark: SparkSession) -> Iterator[None]:
    """A handful of rows: to compile the queries would cost more than to run them."""
    interpret(spark, True)
    yield
    interpret(spark, False)


@pytest.fixture
def archive(spark: SparkSession, tmp_path: Path) -> Archive:
    return Archive(
        spark, test_settings(tmp_path), load_person_index(ROOT / "conf/person_index.yaml")
    )


def person(number: int, **changes: Any) -> dict[str, Any]:
    given = ("Olivia", "Margaret", "Thomas", "Winston", "Beatrice", "Hector")[number % 6]
    family = ("Nakamura", "Oyelaran", "Fitzgerald", "Kowalczyk", "Abernathy")[number % 5]
    return {
        "id": f"p{number}",
        "given_name": given,
        "family_name": family,
        "birth_date": date(1950 + number, 3, 4 + number),
        "ssn": f"21{number:02d}5678{number % 10}",
        "zip": "02139",
        **changes,
    }


def wage(number: int, employer: str = "e1", **changes: Any) -> dict[str, Any]:
    """The same person as a wage record shows them: no birth date, an employer in the key."""
    who = person(number, id=f"{employer}-{number}", birth_date=None, zip=None)
    return {**who, **changes}


def written_by_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a lake whose tables are large: nothing is read or written past Spark."""
    monkeypatch.setattr(index_of_few, "FEW", 0)
    monkeypatch.setattr(index_of_few, "ONE_FILE", 0)
    monkeypatch.setattr(log, "MOST_FILES", -1)
    monkeypatch.setattr(driver, "write_stored", lambda *_: False)


@pytest.mark.parametrize(
    "written_by", ["the driver", pytest.param("Spark", marks=pytest.mark.chaos)]
)
def test_persons_are_recognised_kept_and_followed_over_time(
    archive: Archive, written_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if written_by == "Spark":
        written_by_spark(monkeypatch)
    archive.load("snap", [person(1), person(2), person(3)])
    archive.load("wages", [wage(1), wage(1, "e2", given_name="M"), wage(4)])
    first = archive.index(MAY)
    assert (first.records, first.persons, dict(first.events)) == (6, 4, {"minted": 4})
    may = archive.persons()
    snap = {number: may[archive.record("snap", f"p{number}")] for number in (1, 2, 3)}
    assert may[archive.record("wages", "e1-1")] == snap[1]
    assert may[archive.record("wages", "e2-1")] == snap[1]
    assert len(set(may.values())) == 4

    versions = archive.versions()
    assert archive.index(JUNE, run_id="again") == Outcome(done=False)
    assert archive.versions() == versions, "nothing to do writes nothing"

    # A delivery that is not complete is not seen, by whatever the table holds.
    archive.load("wages", [], complete=False)
    assert archive.index(JUNE) == Outcome(done=False)

    # 2 works for someone now, 3 is withdrawn, 5 is new.
    archive.load("snap", [person(1), person(2), person(5)])
    archive.load("wages", [wage(1), wage(1, "e2", given_name="M"), wage(4), wage(2)])
    second = archive.index(JUNE)
    assert dict(second.events) == {"joined": 1, "left": 1, "minted": 1, "retired": 1}
    june = archive.persons()
    assert june[archive.record("wages", "e1-2")] == june[archive.record("snap", "p2")] == snap[2]
    assert june[archive.record("snap", "p1")] == snap[1]
    assert archive.record("snap", "p3") not in june

    # A model that links nothing parts them all: too much to let pass, unless it is accepted. Each
    # person keeps an id; the first model mends it.
    nothing = {"config_digest": "other", "keep_weight": 1e3, "link_weight": 1e3}
    with pytest.raises(QualityError, match="3 of 7 records would change from one person to"):
        archive.index(JULY, run_id="refused", **nothing)
    assert archive.persons() == june, "the crosswalk stays as it was"
    alone = {"config_digest": "limited", "limits": Limits(largest_person=Bound(at_most=1))}
    with pytest.raises(QualityError, match=r"largest_person .* crosswalk stays as it was"):
        archive.index(JULY, run_id="limited", **alone)
    assert archive.persons() == june
    tried = archive.index(JULY, run_id="dry", dry_run=True, **nothing)
    parted = archive.index(JULY, accept_churn=True, **nothing)
    assert dict(parted.events) == dict(tried.events) == {"minted": 3, "split_from": 3}
    assert sum(dict(parted.moved).values()) == 3
    (split, *_) = [told for told in tried.examples if " split_from " in told]
    assert "records no longer link to the other person" in split and not parted.examples
    july = archive.persons()
    assert len(set(july.values())) == len(july)
    assert set(june.values()) <= set(july.values())
    mended = archive.index(AUGUST, accept_churn=True)
    assert dict(mended.events) == {"merged_into": 3}
    # Of two of one size the older keeps its id: the one that was there at first.
    assert archive.persons() == june

    assert archive.persons(on=MAY) == archive.replayed(on=MAY) == may
    assert archive.persons(on=JUNE) == archive.replayed(on=JUNE) == june
    assert archive.persons(on=JULY) == archive.replayed(on=JULY) == july
    assert archive.replayed(on=AUGUST) == june
    told = archive.lake.read(tables.EVENTS).where("kind = 'minted'").collect()
    assert len({row["person_id"] for row in told}) == len(told) == 8
    labelled(archive)
    found = archive.lake.read(tables.QUALITY).where("measure = 'placeholders_found'").collect()
    assert {row["group"]: row["value"] for row in found} == {
        "ssn": 0,
        "phone": 0,
        "emails": 0,
        "birth": 0,
    }
    page = quality_report(archive.lake, archive.model)
    assert page.lstrip().startswith("<!doctype html>") and archive.model.model_version in page

    with pytest.raises(UsageError, match="goes forward only"):
        archive.index(MAY, run_id="late", config_digest="other")


@pytest.mark.chaos
def test_killed_at_every_point_and_run_again_the_tables_are_the_same(
    archive: Archive, dying: pytest.MonkeyPatch
) -> None:
    people = [person(1), person(2), person(3)]
    wages = [wage(1), wage(1, "e2"), wage(4)]
    settings = archive.settings.model_copy(update={"lake": archive.settings.lake + "-undisturbed"})
    undisturbed = Archive(archive.spark, settings, archive.model)
    for lake in (archive, undisturbed):
        lake.load("snap", people)
        lake.load("wages", wages)
    undisturbed.index(MAY)
    # A try goes past the point at which the one before it ended.
    for point in KILL_POINTS:
        assert killed(archive, MAY, point, dying), f"{point} is never reached"
        if point == "index.wrote.index/events":
            assert archive.persons() == {} != archive.replayed(on=MAY), "the crosswalk is behind"
    archive.index(MAY)
    assert archive.persons() == archive.replayed(on=MAY)
    assert archive.state() == undisturbed.state()


def test_a_run_of_other_inputs_finishes_what_a_killed_one_began(
    archive: Archive, dying: pytest.MonkeyPatch
) -> None:
    written_by_spark(dying)
    archive.load("snap", [person(1)])
    assert killed(archive, MAY, "index.wrote.index/events", dying)
    archive.load("snap", [person(1), person(2)])
    assert dict(archive.index(JUNE).events) == {"minted": 1}
    assert archive.persons(on=MAY) == archive.replayed(on=MAY)
    assert archive.persons() == archive.replayed(on=JUNE)
    assert len(archive.persons()) == 2


def forbidding(feed: str) -> dict[str, Mou]:
    (agreement,) = mou(*FEEDS).values()
    terms = tuple(
        term.model_copy(update={"may_be_matched": term.feed != feed})
        for term in agreement.contributions
    )
    return {agreement.id: agreement.model_copy(update={"contributions": terms})}


def test_a_feed_that_may_not_be_matched_is_refused_or_left_out(archive: Archive) -> None:
    archive.load("snap", [person(1)])
    archive.load("wages", [wage(1)])
    archive.mous = forbidding("wages")
    with pytest.raises(RefusedError, match=r"clause 2: it does not let people of wages.people"):
        archive.index(MAY)
    assert archive.versions() == dict.fromkeys(archive.versions())
    assert archive.index(MAY, leave_out=("wages",)).records == 1
    archive.mous = mou("snap")
    with pytest.raises(RefusedError, match="wages is not contributed"):
        archive.index(MAY)


def test_a_dry_run_writes_nothing(archive: Archive) -> None:
    archive.load("snap", [person(1)])
    assert archive.index(MAY, dry_run=True).records == 1
    assert archive.versions() == dict.fromkeys(archive.versions())


def test_pairs_are_weighed_anew_without_being_compared(archive: Archive) -> None:
    archive.load("snap", [person(1), person(2)])
    with pytest.raises(UsageError, match="--rescore needs pairs: run concord index first"):
        archive.index(MAY, rescore=True)
    with pytest.raises(UsageError, match="--report needs measures"):
        quality_report(archive.lake, archive.model)
    archive.load("wages", [wage(1), wage(2)])
    assert archive.index(MAY).persons == 2

    def all_of(changes: dict[str, Any], **how: Any) -> Outcome:
        return archive.index(JUNE, run_id=str(how), config_digest=str(changes), **how, **changes)

    # Of SSNs that agree it is now less sure.
    ssn = archive.model.comparisons["ssn"].levels
    doubt = {"exact": (0.967, 0.5), "near": (0.0132, 0.001), "last_four": (0.01, 0.001)}
    doubtful = archive.model.with_levels({"ssn": {**doubt, "differ": (0.00983, 0.498)}})
    less = {"comparisons": doubtful.comparisons, "churn_limit": 1.0}
    assert ssn["exact"].bits > doubtful.comparisons["ssn"].levels["exact"].bits
    anew = all_of(less, rescore=True)
    links = archive.lake.read(tables.LINKS).collect()
    told = {row["measure"]: row["value"] for row in measured(archive.lake) if row["group"] == "all"}
    assert told["persons"] == 4
    assert {*estimated_from(archive.lake)} == {
        t.name for t in (tables.RECORDS, tables.PATTERNS, tables.PAIRS)
    }
    whole = all_of(less)
    assert (anew.persons, anew.links) == (whole.persons, whole.links) == (4, 0)
    assert links == archive.lake.read(tables.LINKS).collect()
    assert dict(whole.events) == {}, "a full run finds the same persons"

    # What was not kept cannot be weighed anew; what was not asked neither.
    all_of({"keep_weight": 60.0, "link_weight": 60.0, "churn_limit": 1.0})
    with pytest.raises(UsageError, match="2 pairs that weigh keep_weight or more by the new"):
        all_of({}, rescore=True)
    fewer = {"blocking": archive.model.blocking[:2]}
    with pytest.raises(UsageError, match="made by other blocking rules, comparisons or"):
        all_of(fewer, rescore=True)


def test_a_plan_counts_and_writes_nothing(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="--plan needs records"):
        planned(archive.lake, archive.contracts, register(*archive.mous.values()), archive.model)
    archive.load("snap", [person(1), person(2)])
    archive.load("wages", [wage(1), wage(2), wage(2, "e2")])
    found = planned(
        archive.lake, archive.contracts, register(*archive.mous.values()), archive.model
    )
    assert archive.versions() == dict.fromkeys(archive.versions())
    (ssn,) = (rule for rule in found.rules if rule.rule == "ssn")
    assert (ssn.keys, ssn.pairs, ssn.new, ssn.largest) == (2, 4, 4, (3, 2))
    last = found.rules[-1]
    assert (last.pairs, last.new) == (4, 0), "an earlier rule makes them all"
    show_plan(found)
    assert "5 rows, 4 pairs to compare" in capsys.readouterr().out
    archive.mous = forbidding("wages")
    with pytest.raises(RefusedError, match="clause 2"):
        planned(archive.lake, archive.contracts, register(*archive.mous.values()), archive.model)


def labelled(archive: Archive) -> None:
    """The tables say under which agreement they are."""
    for table in tables.TABLES:
        place = archive.lake.path(table)
        shown = archive.spark.sql(f"SHOW TBLPROPERTIES delta.`{place}`").collect()
        labels = {row["key"]: row["value"] for row in shown}
        assert labels["concord.agreements"] == "MOU-2018-0001"
        assert labels["concord.purposes"] == "program-evaluation"
        secret = table.name.startswith("vault/")
        assert labels["concord.classification"] == ("restricted" if secret else "confidential")
        assert labels["delta.columnMapping.mode"] == "none"
