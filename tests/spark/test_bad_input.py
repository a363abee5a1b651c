"""What bad input gets: an exit code, a reason that says what to do, and nothing half-published."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from concord.contracts.model import Csv
from concord.ingest import delivery
from concord.ingest.delivery import Outcome
from tests import feeds
from tests.feeds import File, client, deliver
from tests.spark.conftest import Office

GOOD = [client(1), client(2)]
HIDDEN_NAME = "Zebulon Quagmire"
HIDDEN = [client(1, name=HIDDEN_NAME), client(2)]


def one(office: Office, *files: File, **changes: object) -> Outcome:
    office.contracts = {"tiny": feeds.contract()}
    sent = deliver(office.landing, 1, *files, **changes)  # type: ignore[arg-type]
    (outcome,) = office.ingest(delivery=str(sent.folder), feeds=["tiny"])
    return outcome


def damaged(damage: Callable[[Path], None]) -> Callable[[Office], Outcome]:
    def run(office: Office) -> Outcome:
        office.contracts = {"tiny": feeds.contract()}
        sent = deliver(office.landing, 1, File("2025-05", HIDDEN, name="clients.csv"))
        damage(sent.folder)
        (outcome,) = office.ingest(delivery=str(sent.folder), feeds=["tiny"])
        return outcome

    return run


def cut_gzip(office: Office) -> Outcome:
    whole = gzip.compress(File("2025-05", HIDDEN * 200).bytes())
    file = File("2025-05", name="clients.csv.gz", content=whole[: len(whole) // 2])
    return one(office, file)


def text_of(rows: list[dict[str, str]], **changes: object) -> bytes:
    return File("2025-05", rows, **changes).bytes()  # type: ignore[arg-type]


def wrong_header(office: Office) -> Outcome:
    columns = ["client_id", "name", "born", "city", "amount"]
    content = text_of(HIDDEN, columns=columns)
    return one(office, File("2025-05", HIDDEN, content=content, name="clients.csv"))


def extra_column(office: Office) -> Outcome:
    columns = ["client_id", "name", "born", "town", "amount", "colour"]
    content = text_of(HIDDEN, columns=columns)
    return one(office, File("2025-05", HIDDEN, content=content, name="clients.csv"))


def wrong_encoding(office: Office) -> Outcome:
    rows = [client(1, name="José"), client(2)]
    content = text_of(rows).decode().encode("windows-1252")
    return one(office, File("2025-05", rows, content=content, name="clients.csv"))


REJECTED: dict[str, tuple[Callable[[Office], Outcome], str]] = {
    "no manifest": (
        damaged(lambda folder: (folder / "manifest.json").unlink()),
        "there is no manifest.json",
    ),
    "missing file": (
        damaged(lambda folder: (folder / "clients.csv").unlink()),
        "clients.csv: the manifest names it but it is not in the folder",
    ),
    "wrong hash": (
        damaged(
            lambda folder: (folder / "clients.csv").write_bytes(
                (folder / "clients.csv").read_bytes().replace(b"Lowell", b"Boston")
            )
        ),
        "it changed after the manifest was made: send it again",
    ),
    "file not in the manifest": (
        damaged(lambda folder: (folder / "more.csv").write_text("x")),
        "more.csv: is in the folder but not in the manifest",
    ),
    "broken manifest": (
        damaged(lambda folder: (folder / "manifest.json").write_text("{")),
        "manifest.json cannot be read",
    ),
    "truncated gzip": (cut_gzip, "the gzip archive is cut short or damaged"),
    "wrong row count": (
        lambda office: one(office, File("2025-05", HIDDEN, rows_declared=3, name="clients.csv")),
        "clients.csv: holds 2 rows, the manifest declares 3",
    ),
    "control total off by a cent": (
        lambda office: one(
            office, File("2025-05", HIDDEN, totals={"amount": "3.51"}, name="clients.csv")
        ),
        "amount adds up to 3.5, the manifest declares 3.51, a difference of -0.01",
    ),
    "unknown table": (
        lambda office: one(office, File("2025-05", HIDDEN, table="people")),
        "table 'people' is not in the contract",
    ),
    "period of another calendar": (
        lambda office: one(office, File("2025-W14", HIDDEN)),
        "period '2025-W14' is not a month",
    ),
    "missing column": (wrong_header, "column 'town' of the contract is missing"),
    "unknown column": (extra_column, "column 'colour' is not in the contract. To accept it, add"),
    "wrong encoding": (wrong_encoding, "the bytes are not utf-8 text"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_a_delivery_that_fails_integrity_is_rejected_whole(office: Office, what: str) -> None:
    run, reason = REJECTED[what]

    outcome = run(office)

    assert (outcome.status, outcome.exit_code) == ("rejected", 11)
    assert reason in outcome.message
    assert HIDDEN_NAME not in outcome.message
    assert not office.rows("curated/tiny_clients").count()
    assert not office.rows("vault/identifiers_tiny").count()
    (row,) = office.rows("ops/deliveries").where("status != 'loading'").collect()
    assert row["status"] == "rejected"
    assert any(reason in text for text in row["reasons"])


@pytest.mark.parametrize("compiled_from", [delivery.COMPILE_FROM_BYTES, 0])
def test_bad_rows_go_to_quarantine_with_their_number_rule_and_reason(
    office: Office, compiled_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a small delivery, and of one that is taken for large."""
    monkeypatch.setattr(delivery, "COMPILE_FROM_BYTES", compiled_from)
    rows = [
        client(1),
        client(2, born="2025-02-30"),
        client(3, amount="x"),
        client(1, town="Lynn"),
        client(4, client_id=""),
        client(5, amount="-1"),
        client(6),
        client(7),
        client(8),
        client(9),
        client(10),
        client(11),
    ]
    content = text_of(rows) + b"C0099,too,few\n"
    outcome = one(office, File("2025-05", rows, content=content, rows_declared=13))

    assert (outcome.status, outcome.rows, outcome.quarantined) == ("loaded", 13, 6)
    bad = office.rows("vault/quarantine_tiny").orderBy("row_number").collect()
    found = [
        (row["row_number"], violation["rule"], violation["column"])
        for row in bad
        for violation in row["violations"]
    ]
    assert found == [
        (2, "invalidValues", "born"),
        (3, "invalidValues", "amount"),
        (4, "duplicateValues", "client_id"),
        (5, "nullValues", "client_id"),
        (6, "invalidValues", "amount"),
        (13, "malformed", ""),
    ]
    assert bad[1]["raw"] == ",".join(rows[2].values())
    assert "'x' is not a decimal(10,2)" in bad[1]["violations"][0]["message"]
    assert "2025" not in bad[0]["violations"][0]["message"], "born identifies a person"
    assert office.rows("curated/tiny_clients").count() == 7


def test_a_row_keeps_its_number_when_its_file_is_read_in_pieces(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_pieces(spark: SparkSession, on: bool) -> None:
        spark.conf.set("spark.sql.files.maxPartitionBytes", "350")
        spark.conf.set("spark.sql.files.openCostInBytes", "0")

    monkeypatch.setattr("concord.lake.session.interpret", in_pieces)
    bad = {3, 9, 10, 17, 20}
    rows = [client(n, **({"born": "soon"} if n in bad else {})) for n in range(1, 21)]
    one(office, File("2025-05", rows))

    found = office.rows("vault/quarantine_tiny").select("row_number", "raw").collect()
    assert {row["row_number"] for row in found} == bad
    assert all(row["raw"].startswith(f"C{row['row_number']:04d},") for row in found)
    files = office.rows("ops/deliveries").where("status = 'loaded'").collect()[0]["files"]
    assert [(file["rows"], file["quarantined"]) for file in files] == [(20, 5)]


def test_too_many_bad_rows_publish_nothing_and_keep_the_evidence(office: Office) -> None:
    office.contracts = {"tiny": feeds.contract(quarantine_limit=0.1)}
    rows = [client(1), client(2), client(3, born="never")]
    deliver(office.landing, 1, File("2025-05", rows))

    (outcome,) = office.ingest()

    assert (outcome.status, outcome.exit_code) == ("rejected", 12)
    assert "1 of 3 rows break the contract, 33.3%; its quarantineLimit is 10.0%" in outcome.message
    assert not office.rows("curated/tiny_clients").count()
    assert office.rows("vault/quarantine_tiny").count() == 1


def test_windows_1252_text_arrives_as_it_was_meant(office: Office) -> None:
    text = Csv(kind="csv", encoding="windows-1252")
    office.contracts = {"tiny": feeds.contract(feeds.people_table(format=text))}
    rows = [client(1, name="Zoë O’Brien"), client(2, name="Żaneta")]
    content = text_of([rows[0]]).decode().encode("windows-1252")
    deliver(office.landing, 1, File("2025-05", [rows[0]], content=content))
    as_utf8 = text_of([rows[1]])
    deliver(office.landing, 2, File("2025-06", [rows[1]], content=as_utf8))

    loaded, refused = office.ingest()

    assert loaded.status == "loaded"
    (row,) = office.rows("vault/identifiers_tiny").collect()
    assert row["full_name"] == "Zoë O’Brien"
    assert (refused.status, refused.exit_code) == ("rejected", 11)
    assert "the bytes are not windows-1252 text" in refused.message
