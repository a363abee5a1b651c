"""Deliveries again, late and withdrawn: what each load policy makes of them."""

from __future__ import annotations

import pytest

from tests import feeds
from tests.feeds import File, client, deliver
from tests.spark.conftest import Office


def towns(office: Office) -> list[tuple[str, str]]:
    rows = office.rows("curated/tiny_clients").select("amount", "town").collect()
    return sorted((str(row["amount"]), row["town"]) for row in rows)


def test_the_same_delivery_again_does_nothing_and_names_the_version(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    deliver(office.landing, 1, File("2025-05", [client(1)], name="a.csv"))
    office.ingest()
    deliver(office.landing, 1, File("2025-05", [client(1)], name="a.csv"), folder="copy")
    before = office.rows("curated/tiny_clients").collect()

    (outcome,) = office.ingest()

    assert (outcome.status, outcome.exit_code) == ("duplicate", 0)
    assert "already loaded as version 0 of curated/tiny_clients" in outcome.message
    assert office.rows("curated/tiny_clients").collect() == before
    assert office.ingest() == [], "a known duplicate is passed over"


def test_a_resent_period_replaces_it_and_names_what_it_superseded(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    first = [client(1), client(2)]
    deliver(office.landing, 1, File("2025-04", first), File("2025-05", first))
    deliver(office.landing, 2, File("2025-05", [client(1, town="Lynn")]))

    _, outcome = office.ingest()

    assert "clients 2025-05: replaces sequence 1 (version 0 of curated/tiny_clients)" in (
        outcome.message
    )
    assert towns(office) == [("1.25", "Lowell"), ("1.25", "Lynn"), ("2.25", "Lowell")]
    assert office.rows("vault/identifiers_tiny").count() == 3


def test_rows_that_never_change_are_not_loaded_twice(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract(feeds.people_table("append_only"))}
    deliver(office.landing, 1, File("2025-05", [client(1)]))
    deliver(office.landing, 2, File("2025-05", [client(1, town="Lynn")]))

    _, outcome = office.ingest()

    assert (outcome.status, outcome.exit_code) == ("rejected", 11)
    assert "its rows never change (append_only); withdraw that delivery first" in outcome.message
    assert towns(office) == [("1.25", "Lowell")]


def test_a_late_update_never_overwrites_a_newer_one(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract(feeds.people_table("upsert"))}
    deliver(office.landing, 1, File("2025-05", [client(1, town="May")]))
    office.ingest()
    deliver(office.landing, 2, File("2025-04", [client(1, town="April"), client(2, town="April")]))
    office.ingest()

    assert towns(office) == [("1.25", "May"), ("2.25", "April")]


def test_a_snapshot_keeps_history_and_a_late_one_finds_its_place(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract(feeds.people_table("snapshot"))}
    deliver(office.landing, 1, File("2025-03", [client(1, town="A"), client(2)]))
    deliver(office.landing, 2, File("2025-05", [client(1, town="C")]))
    deliver(office.landing, 3, File("2025-04", [client(1, town="B"), client(2)]))
    office.ingest()

    rows = office.rows("curated/tiny_clients").orderBy("amount", "valid_from").collect()
    assert [
        (r["town"], str(r["valid_from"]), str(r["valid_to"]), r["is_current"]) for r in rows
    ] == [
        ("A", "2025-03-01", "2025-04-01", False),
        ("B", "2025-04-01", "2025-05-01", False),
        ("C", "2025-05-01", "None", True),
        ("Lowell", "2025-03-01", "2025-05-01", False),
    ]
    vault = office.rows("vault/identifiers_tiny").where("is_current").collect()
    assert [row["source_key"] for row in vault] == ["C0001"]


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ("full_refresh", [("1.25", "old")]),
        ("append_only", [("1.25", "old")]),
        ("upsert", [("1.25", "old")]),
        ("snapshot", [("1.25", "old")]),
    ],
)
def test_a_withdrawn_delivery_leaves_what_was_before_it(
    office: Office, policy: str, left: list[tuple[str, str]]
) -> None:
    office.contracts = {"tiny": feeds.contract(feeds.people_table(policy))}
    deliver(office.landing, 1, File("2025-04", [client(1, town="old")]))
    deliver(office.landing, 2, File("2025-05", [client(1, town="new"), client(2, town="new")]))
    deliver(office.landing, 3, withdraws=2)

    *_, outcome = office.ingest()

    assert (outcome.status, outcome.exit_code) == ("loaded", 0)
    assert towns(office) == left
    states = {
        row["agency_sequence"]: row["status"]
        for row in office.rows("ops/deliveries").orderBy("event").collect()
    }
    assert states == {1: "loaded", 2: "withdrawn", 3: "loaded"}
    keys = {row["source_key"] for row in office.rows("vault/identifiers_tiny").collect()}
    assert keys == {"C0001"}


def test_a_corrected_contract_lets_quarantined_rows_pass_with_a_trace(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    deliver(
        office.landing, 1, File("2025-05", [client(1), client(2, amount="-5"), client(3, born="?")])
    )
    office.ingest()
    assert office.ingest(reprocess="tiny") == [], "the contract is still the same"

    lenient = feeds.people_table()
    fields = [f.model_copy(update={"minimum": None}) for f in lenient.fields]
    corrected = feeds.contract(
        lenient.model_copy(update={"fields": tuple(fields)}), version="1.1.0"
    )
    office.contracts = {"tiny": corrected}
    (outcome,) = office.ingest(reprocess="tiny", run_id="run-2")

    assert (outcome.status, outcome.quarantined) == ("loaded", 1)
    assert towns(office) == [("-5.00", "Lowell"), ("1.25", "Lowell")]
    rows = office.rows("vault/quarantine_tiny").orderBy("row_number").collect()
    assert [(r["row_number"], r["raw"] is None, r["released_by"]) for r in rows] == [
        (2, True, "run-2"),
        (3, False, None),
    ]
    assert office.ingest(reprocess="tiny") == []


def test_what_comes_after_the_business_date_waits(office: Office) -> None:
    from datetime import date

    office.contracts = {"tiny": feeds.contract()}
    deliver(office.landing, 1, File("2025-05", [client(1)]), created_at="2025-06-03T00:00:00Z")

    assert office.ingest(as_of=date(2025, 6, 2)) == []
    (outcome,) = office.ingest(as_of=date(2025, 6, 3))
    assert outcome.status == "loaded"


def test_a_dry_run_checks_and_writes_nothing(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    deliver(office.landing, 1, File("2025-05", [client(1)]))

    (outcome,) = office.ingest(dry_run=True)

    assert (outcome.status, outcome.message) == ("would load", "1 rows, 0 in quarantine")
    # But for the decision, which is logged whatever comes of it.
    written = [file.path for file in office.lake.storage.walk(office.lake.root)]
    assert written and all("/ops/access_log/" in path for path in written)
