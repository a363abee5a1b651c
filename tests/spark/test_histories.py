"""Random histories with kills and reruns, against the model; and every kill point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from concord.ingest.delivery import Outcome
from concord.lake import points
from tests import feeds
from tests.conftest import test_settings
from tests.feeds import File, client, deliver
from tests.spark.conftest import Office
from tests.spark.oracle import Contents, Model

POLICIES = ("full_refresh", "upsert", "append_only", "snapshot")
PERIODS = ("2025-03", "2025-04", "2025-05")
# In the order in which a delivery reaches them.
KILL_POINTS = (
    "ingest.hashed",
    "ingest.archived",
    "ingest.staged",
    "ingest.loading",
    "ingest.wrote.curated/tiny_clients",
    "ingest.wrote.vault/identifiers_tiny",
    "ingest.wrote.vault/quarantine_tiny",
    "ingest.published",
    "ingest.recorded",
)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    def die() -> None:
        raise Killed

    monkeypatch.setattr(points, "die", die)
    yield monkeypatch


def killed_at(office: Office, point: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs the job with a kill point set; whether it was reached."""
    monkeypatch.setenv("CONCORD_KILL_AT", point)
    try:
        office.ingest()
    except Killed:
        return True
    finally:
        monkeypatch.delenv("CONCORD_KILL_AT")
    return False


def found(office: Office, feed: str, policy: str) -> set[tuple[str, ...]]:
    """The curated rows with the client's key in place of the record id, by way of the vault."""
    columns = ["valid_from", "valid_to"] if policy == "snapshot" else ["_period"]
    keys = office.rows(f"vault/identifiers_{feed}").select("record_id", "source_key").distinct()
    rows = office.rows(f"curated/{feed}_clients")
    joined = rows.join(keys, rows["client_record_id"] == keys["record_id"], "left")
    collected = joined.select("source_key", "town", *columns).collect()
    assert len(collected) == len(set(collected)), "a row stands there twice"
    return {tuple(str(value) for value in row) for row in collected}


@dataclass(frozen=True)
class Event:
    """What arrives next for every feed, and where a first try to ingest it dies."""

    kind: str
    contents: Contents
    kill: tuple[str, str] | None


def _contents() -> st.SearchStrategy[Contents]:
    towns = st.sampled_from(("Lynn", "Lowell"))
    rows = st.dictionaries(st.sampled_from([f"C{n:04d}" for n in range(1, 5)]), towns)
    # any periods: the next one, one that comes late, one that was sent before
    return st.dictionaries(st.sampled_from(PERIODS), rows, min_size=1, max_size=2)


EVENTS = st.builds(
    Event,
    kind=st.sampled_from(("new", "new", "new", "late", "copy", "withdraw", "broken")),
    contents=_contents(),
    kill=st.none()
    | st.tuples(
        st.sampled_from(POLICIES),
        st.sampled_from(
            ("ingest.loading", "ingest.wrote.curated/{feed}_clients", "ingest.published")
        ),
    ),
)


def send(office: Office, feed: str, sequence: int, contents: Contents, folder: str) -> None:
    files = [
        File(period, [client(int(c[1:]), town=town) for c, town in rows.items()])
        for period, rows in contents.items()
    ]
    deliver(office.landing, sequence, *files, feed=feed, folder=folder)


def play(office: Office, history: Sequence[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    """One history, the same for a feed of each policy, checked after every event."""
    office.contracts = {
        policy: feeds.contract(feeds.people_table(policy), feed=policy) for policy in POLICIES
    }
    models = {policy: Model(policy) for policy in POLICIES}
    sent: list[tuple[int, Contents]] = []
    for place, event in enumerate(history, 1):
        kind = event.kind if sent or event.kind == "broken" else "new"
        # The agency made a late one before the last two, and its number says so.
        sequence = 2 * place - 3 if kind == "late" else 2 * place
        expected: dict[str, str] = {}
        folder = f"event{place:03d}"
        for policy, model in models.items():
            match kind:
                case "new" | "late":
                    expected[policy] = model.deliver(sequence, event.contents)
                    send(office, policy, sequence, event.contents, folder)
                case "copy":
                    expected[policy] = "copy"
                    send(office, policy, *sent[-1], folder=folder)
                case "withdraw":
                    target = sent[-1][0]
                    expected[policy] = model.withdraw(target)
                    deliver(office.landing, sequence, feed=policy, folder=folder, withdraws=target)
                case "broken":
                    expected[policy] = "rejected"
                    file = File("2025-05", [client(1)], totals={"amount": "1.24"})
                    deliver(office.landing, sequence, file, feed=policy, folder=folder)
        if kind in {"new", "late"}:
            sent.append((sequence, event.contents))
        where = f"event {place} ({kind})"
        if event.kill:
            feed, point = event.kill
            died = killed_at(office, point.format(feed=feed), monkeypatch)
            if kind in {"new", "late"} and expected[feed] == "loaded":
                assert died, f"{where}: {feed} never came to {point}"
        office.ingest()
        for policy, model in models.items():
            assert found(office, policy, policy) == model.rows(), f"{where}, {policy}"
            assert (
                last_status(office, policy, folder)
                in {
                    "loaded": {"loaded"},
                    "rejected": {"rejected"},
                    "copy": {"duplicate", "rejected"},
                }[expected[policy]]
            ), f"{where}, {policy}"


def last_status(office: Office, feed: str, folder: str) -> str:
    rows = office.rows("ops/deliveries").where(f"feed = '{feed}' AND folder = '{folder}'")
    return str(rows.where("status != 'withdrawn'").orderBy("event").collect()[-1]["status"])


def new_office(spark: SparkSession, folder: Path) -> Office:
    return Office(spark, test_settings(folder), {})


# One history of the suite, the same each time; `make chaos` draws others, and shrinks what fails.
SUITE = (
    Event(
        "new", {"2025-04": {"C0001": "Lynn", "C0002": "Lowell"}, "2025-05": {"C0001": "Lynn"}}, None
    ),
    Event("new", {"2025-03": {"C0001": "Lowell", "C0003": "Lynn"}}, ("snapshot", "ingest.loading")),
    Event("withdraw", {}, ("upsert", "ingest.wrote.curated/{feed}_clients")),
)


def test_a_history_of_each_policy_gives_what_the_model_says(
    office: Office, dying: pytest.MonkeyPatch
) -> None:
    play(office, SUITE, dying)


@pytest.mark.chaos
@settings(max_examples=20, suppress_health_check=list(HealthCheck), print_blob=True)
@given(history=st.lists(EVENTS, min_size=3, max_size=8))
def test_random_histories_give_what_the_model_says(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    dying: pytest.MonkeyPatch,
    history: list[Event],
) -> None:
    play(new_office(spark, tmp_path_factory.mktemp("history")), history, dying)


def state(office: Office) -> dict[str, list[tuple[object, ...]]]:
    """Every table but the ledgers, which tell of the kills."""
    return {
        name: sorted((tuple(row) for row in office.rows(name).collect()), key=str)
        for name in ("curated/tiny_clients", "vault/identifiers_tiny", "vault/quarantine_tiny")
    }


def test_killed_at_every_point_and_run_again_the_tables_are_the_same(
    office: Office, dying: pytest.MonkeyPatch
) -> None:
    office.contracts = {"tiny": feeds.contract()}
    rows = [client(1), client(2), client(3, born="soon")]
    first = deliver(office.landing, 1, File("2025-05", rows, name="clients.csv"))

    for point in KILL_POINTS:
        assert killed_at(office, point, dying), f"{point} is never reached"
        unfinished = office.rows("ops/deliveries").where("status = 'loaded'").count()
        assert unfinished == (point == "ingest.recorded")

    assert office.ingest() == []
    disturbed = state(office)
    outcomes: list[Outcome] = []
    fresh = Office(
        office.spark,
        office.settings.model_copy(update={"lake": office.settings.lake + "-undisturbed"}),
        office.contracts,
    )
    outcomes = fresh.ingest()
    assert [outcome.status for outcome in outcomes] == ["loaded"]
    assert state(fresh) == disturbed
    assert first.folder.exists()
