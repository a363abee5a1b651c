"""What becomes of deliveries: good ones, and each kind of bad one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from concord.errors import InfrastructureError
from tests import feeds
from tests.feeds import File, client, deliver
from tests.spark.conftest import Office


def test_a_good_delivery_becomes_curated_rows_and_vault_rows(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    deliver(office.landing, 1, File("2025-05", [client(1), client(2)]))

    (outcome,) = office.ingest()

    assert (outcome.status, outcome.exit_code, outcome.rows) == ("loaded", 0, 2)
    curated = office.rows("curated/tiny_clients")
    assert curated.columns == [
        "client_record_id",
        "town",
        "amount",
        "birth_year",
        "_period",
        "_delivery_id",
        "_sequence",
    ]
    assert {row["birth_year"] for row in curated.collect()} == {1911, 1912}
    vault = office.rows("vault/identifiers_tiny").orderBy("source_key").collect()
    assert [row["full_name"] for row in vault] == ["Person Number1", "Person Number2"]
    assert {row["record_id"] for row in vault} == {
        row["client_record_id"] for row in curated.collect()
    }
    assert office.ingest() == []


def test_a_file_s_name_and_its_rows_are_taken_as_they_are(office: Office) -> None:
    """Both come from others and stand in texts of SQL."""
    office.contracts = {"tiny": feeds.contract()}
    name = "it's ${spark.app.name} `x` -- {}.csv"
    broken = client(2, born="${env:HOME}'")
    deliver(office.landing, 1, File("2025-05", [client(1, town="${env:HOME}"), broken], name=name))

    (outcome,) = office.ingest()

    assert (outcome.status, outcome.rows, outcome.quarantined) == ("loaded", 2, 1)
    (row,) = office.rows("vault/quarantine_tiny").collect()
    assert (row["file"], row["row_number"]) == (name, 2)
    assert "${env:HOME}'" in row["raw"]
    assert [row["town"] for row in office.rows("curated/tiny_clients").collect()] == ["${env:HOME}"]


def test_a_file_that_no_store_can_open_is_the_agency_s_mistake(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    deliver(office.landing, 1, File("2025-05", [client(1)], name="clients 06:00.csv"))

    (outcome,) = office.ingest()

    assert (outcome.status, outcome.exit_code) == ("rejected", 11)
    assert "colon" in outcome.message


def test_a_ledger_that_can_not_be_read_is_worth_a_retry_and_no_bug(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract()}
    deliver(office.landing, 1, File("2025-05", [client(1)]))
    office.ingest()
    for file in Path(office.settings.lake, "ops", "deliveries").glob("*.parquet"):
        shutil.move(file, office.landing.parent / file.name)

    with pytest.raises(InfrastructureError, match="ops/deliveries: reading failed"):
        office.ingest()
