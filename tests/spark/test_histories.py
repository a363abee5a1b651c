"""Random histories with kills and reruns, against the model; and every kill point."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from concord.ingest.job import Outcome
from concord.lake import points
from tests import feeds
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


def contents_of(chance: random.Random) -> Contents:
    chosen = chance.sample(PERIODS, chance.choice((1, 1, 2)))
    return {
        period: {
            f"C{number:04d}": chance.choice(("Lynn", "Lowell"))
            for number in range(1, 5)
            if chance.random() < 0.7
        }
        for period in sorted(chosen)
    }


def send(office: Office, feed: str, sequence: int, contents: Contents, folder: str) -> None:
    files = [
        File(period, [client(int(c[1:]), town=town) for c, town in rows.items()])
        for period, rows in contents.items()
    ]
    deliver(office.landing, sequence, *files, feed=feed, folder=folder)


def play(office: Office, seed: int, events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One random history, the same for a feed of each policy, checked after every event."""
    chance = random.Random(seed)  # noqa: S311 (a test's dice, not a key)
    office.contracts = {
        policy: feeds.contract(feeds.people_table(policy), feed=policy) for policy in POLICIES
    }
    models = {policy: Model(policy) for policy in POLICIES}
    sent: list[tuple[int, Contents]] = []
    for sequence in range(1, events + 1):
        kind = chance.choice(("new", "new", "new", "copy", "withdraw", "broken"))
        expected: dict[str, str] = {}
        for policy, model in models.items():
            folder = f"event{sequence:03d}"
            if kind == "copy" and sent:
                expected[policy] = "copy"
                send(office, policy, *sent[-1], folder=folder)
            elif kind == "withdraw" and sent:
                target = sent[-1][0]
                expected[policy] = model.withdraw(target)
                deliver(office.landing, sequence, feed=policy, folder=folder, withdraws=target)
            elif kind == "broken":
                expected[policy] = "rejected"
                file = File("2025-05", [client(1)], totals={"amount": "1.24"})
                deliver(office.landing, sequence, file, feed=policy, folder=folder)
        if not expected:
            contents = contents_of(chance)
            sent.append((sequence, contents))
            for policy, model in models.items():
                expected[policy] = model.deliver(sequence, contents)
                send(office, policy, sequence, contents, folder=f"event{sequence:03d}")
        if chance.random() < 0.5:
            policy = chance.choice(POLICIES)
            point = chance.choice(
                ("ingest.loading", f"ingest.wrote.curated/{policy}_clients", "ingest.published")
            )
            killed_at(office, point, monkeypatch)
        office.ingest()
        for policy, model in models.items():
            where = f"seed {seed}, event {sequence} ({kind}), {policy}"
            assert found(office, policy, policy) == model.rows(), where
            assert (
                last_status(office, policy, f"event{sequence:03d}")
                in {
                    "loaded": {"loaded"},
                    "rejected": {"rejected"},
                    "copy": {"duplicate", "rejected"},
                }[expected[policy]]
            ), where


def last_status(office: Office, feed: str, folder: str) -> str:
    rows = office.rows("ops/deliveries").where(f"feed = '{feed}' AND folder = '{folder}'")
    return str(rows.where("status != 'withdrawn'").orderBy("event").collect()[-1]["status"])


def test_a_random_history_gives_what_the_model_says(
    office: Office, dying: pytest.MonkeyPatch
) -> None:
    play(office, seed=1, events=3, monkeypatch=dying)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(100, 120))
def test_long_random_histories_give_what_the_model_says(
    office: Office, dying: pytest.MonkeyPatch, seed: int
) -> None:
    play(office, seed=seed, events=8, monkeypatch=dying)


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
