"""Facts of records by Spark, and measures as rows of index/quality."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord.linkage import report, tables
from concord.linkage.groups import facts
from concord.linkage.inputs import Codes, standard
from concord.linkage.intervals import Share
from concord.linkage.model import load_person_index
from concord.linkage.report import ALL, Measure
from concord.linkage.standardise import STANDARD
from tests.conftest import ROOT

pytestmark = pytest.mark.spark

A, B, C = (letter * 32 for letter in "abc")
ROWS: list[dict[str, Any]] = [
    {
        "record_id": A,
        "feed": "snap",
        "variant": 0,
        "given": "ANN",
        "zip": "02139",
        "sex": "F",
    },
    {
        "record_id": A,
        "feed": "snap",
        "variant": 1,
        "given": "ANN",
        "zip": "01002",
        "ssn": "1",
    },
    {"record_id": B, "feed": "wages", "variant": 0, "birth": date(1990, 1, 2), "zip": "02"},
    {"record_id": C, "feed": "wages", "variant": 0},
]


def test_a_record_is_one_row_of_what_its_variants_say(spark: SparkSession) -> None:
    whole = [{**dict.fromkeys(tables.RECORDS.column_names), "role": "client", **r} for r in ROWS]
    frame = spark.createDataFrame(whole, tables.RECORDS.schema)
    found = facts(frame.repartition(3)).to_pylist()
    bits = list(STANDARD)
    for row in found:
        mine = [r for r in ROWS if r["record_id"] == row["record_id"]]
        oracle = {name for r in mine for name in bits if r.get(name) is not None}
        assert {name for i, name in enumerate(bits) if row["says"] >> i & 1} == oracle
    assert [(row["sex"], row["birth"], row["zip"]) for row in found] == [
        ("F", None, "02139"),
        (None, date(1990, 1, 2), "02"),
        (None, None, None),
    ]
    assert [row["feed"] for row in found] == ["snap", "wages", "wages"]


def test_race_and_language_are_told_in_standard_codes(spark: SparkSession) -> None:
    codes = [
        Codes("race", "pupils", "student", {"04": "unknown", "05": "white"}, None),
        Codes("language", "pupils", "student", {"eng": "eng"}, "other"),
        Codes("race", "staff", "teacher", {"05": "black"}, None),
    ]
    columns = ["record_id", "kind", "source_table", "role", "race", "ethnicity", "language"]
    rows = [
        ("a", "person", "pupils", "student", "05", "x", "eng"),
        ("b", "person", "pupils", "student", "04", None, "kea"),
        ("c", "person", "staff", "teacher", "05", None, "eng"),
        ("d", "person", "pupils", "student", None, None, None),
        ("d", "person", "pupils", "student", "99", None, None),
        ("e", "entity", "pupils", "student", "05", None, None),
    ]
    frame = spark.createDataFrame(rows, ", ".join(f"{name} string" for name in columns))
    found = standard(frame, codes).orderBy("record_id").collect()
    assert [tuple(row) for row in found] == [
        ("a", "white", None, "eng"),
        ("b", None, None, "other"),
        ("c", "black", None, None),
        ("d", None, None, None),
    ]


def test_measures_are_rows_of_quality(spark: SparkSession) -> None:
    model = load_person_index(ROOT / "conf" / "person_index.yaml")
    found = [
        Measure.share("holdout_recall", ALL, Share(3, 4)),
        Measure.share("holdout_recall", "sex=M", Share(3, 4), shown=False),
    ]
    rows = report.rows("r", date(2025, 5, 1), model, found)
    frame = spark.createDataFrame(rows, tables.QUALITY.schema)
    one, other = frame.orderBy("group").collect()
    assert (one["value"], one["of"]) == (0.75, 4)
    assert one["lower"] < 0.75 < one["upper"]
    assert (other["value"], other["lower"], other["of"]) == (None, None, None)
