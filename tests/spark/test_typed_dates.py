"""Days that a small agency typed as it liked, through the ingest job by the feed's own contract."""

from __future__ import annotations

import csv

import pyarrow.parquet as pq
import pytest

from concord.contracts.odcs import load_contract
from concord.synthesis import synthesize
from tests.conftest import ROOT
from tests.spark.conftest import Office

pytestmark = pytest.mark.spark
FEED = "ct_home_visiting"


def test_what_is_no_day_is_null_with_a_warning_or_quarantined_as_the_contract_says(
    office: Office,
) -> None:
    conf, out = ROOT / "conf" / "feeds", office.landing.parent
    synthesize(out, people=40_000, months=6, backfill=6, seed=7, feeds=[FEED], contracts=conf)
    office.contracts = {FEED: load_contract(conf / f"{FEED}.yaml")}
    typed = pq.read_table(out / "truth" / "typed_dates").to_pylist()
    day = {each["text"]: None if each["vague"] else each["day"] for each in typed}
    sent = [
        row
        for path in office.landing.glob("*/*/*.csv")
        for row in csv.DictReader(path.open(newline="", encoding="utf-8"))
    ]
    late = {row["Family No"] for row in sent if day[row["Enrolled"]] is None}
    unread = [row for row in sent if day[row["Last Visit"]] is None]
    assert late and unread, "something to find"
    # Some rows have another value spoiled.
    bad = pq.read_table(out / "truth" / "bad_rows").to_pylist()
    spoiled = {each["key"] for each in bad}

    (outcome,) = office.ingest()

    assert outcome.status == "loaded"
    rows = {row["family_no"]: row for row in office.rows(f"curated/{FEED}_families").collect()}
    assert set(rows) - spoiled == {row["Family No"] for row in sent} - late - spoiled
    enrolled = {row["Family No"]: day[row["Enrolled"]] for row in sent}
    for family, row in rows.items():
        assert row["enrolled_on"] == enrolled[family]
        assert row["last_visit_on"] == day[row["last_visit"]], row["last_visit"]
    quarantined = office.rows(f"vault/quarantine_{FEED}").collect()
    assert len(quarantined) == sum(row["Family No"] in late for row in sent) + len(bad)
    errors = {
        violation["column"]: violation["rule"]
        for row in quarantined
        for violation in row["violations"]
        if violation["severity"] == "error"
    }
    assert errors.pop("enrolled_on") == "invalidValues"
    assert set(errors) == {each["column"] for each in bad}
    (counted,) = [
        violation["rows"]
        for delivery in office.rows("ops/deliveries").where("status = 'loaded'").collect()
        for violation in delivery["violations"]
        if violation["rule"] == "lastVisitReadable"
    ]
    assert counted == len(unread)
