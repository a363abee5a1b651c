"""Facts of records by Spark, and measures as rows of index/quality."""

from __future__ import annotations

import random
from datetime import date
from itertools import product
from typing import Any

import pytest
from pyspark.sql import SparkSession

from concord.errors import ConcordError
from concord.linkage import placeholders, report, tables
from concord.linkage.groups import facts
from concord.linkage.inputs import Codes, standard
from concord.linkage.intervals import Share
from concord.linkage.job import searched
from concord.linkage.person_index import load_person_index
from concord.linkage.placeholders import Search
from concord.linkage.records import forms
from concord.linkage.report import ALL, Measure
from concord.linkage.standardise import SOURCES, STANDARD, Standards
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
    found = standard([(frame, codes), (frame.limit(0), ())]).sort_by("record_id").to_pylist()
    assert [tuple(row.values()) for row in found] == [
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


def test_placeholders_are_found_in_rows_and_leave_them(spark: SparkSession) -> None:
    model = load_person_index(ROOT / "conf" / "person_index.yaml")
    base = {**dict.fromkeys(("record_id", "kind", "role", *SOURCES)), "kind": "person"}
    names = ["".join(two) for two in product("BCDFGH", repeat=2)]
    rows = [
        {**base, "record_id": f"r{n}", "given_name": name, "family_name": f"{name}son", **values}
        for n, name in enumerate(names)
        for values in (
            {
                "ssn": "212-34-5678",
                "emails": ["desk@agency.org", f"{name}@x.org"],
                "ssn_last4": "1111",
                "birth_date": date(1980, 5, 6),
            },
            # Two rows of one record, which differ in nothing else.
            {"emails": [f"{name}@x.org"], "ssn_last4": "1111", "birth_date": date(1980, 5, 6)},
        )
    ]
    own = {"record_id": "own", "given_name": "Ann", "family_name": "Lee", "ssn": "212345679"}
    rows.append({**base, **own, "birth_date": date(1980, 5, 7)})
    kinds = {"birth_date": "date", "phones": "array<string>", "emails": "array<string>"}
    schema = ", ".join(f"{name} {kinds.get(name, 'string')}" for name in base)
    feeds = [("snap", spark.createDataFrame(rows, schema))]
    with searched(feeds, model, 2) as (found, told):
        records = found.rows(tables.RECORDS)
        whole = {row["record_id"]: row for row in records.collect()}
        assert records.count() == len(whole) == len(names) + 1
    assert told.to_pylist() == [
        {"column": "birth", "value": "1980-05-06", "others": 36, "records": 36},
        {"column": "emails", "value": "desk@agency.org", "others": 36, "records": 36},
        {"column": "ssn", "value": "212345678", "others": 36, "records": 36},
    ]
    assert {whole[f"r{n}"]["emails"] for n in (0, 1)} == {"bb@x.org", "bc@x.org"}
    first, known = whole["r0"], whole["own"]
    assert (first["ssn"], first["ssn_last4"], first["birth"], first["birth_year"]) == (
        None,
        "1111",
        None,
        None,
    )
    assert (known["ssn"], known["birth"]) == ("212345679", date(1980, 5, 7))
    assert told.column_names == tables.PLACEHOLDERS.column_names


def test_a_search_counts_as_plain_python_does(spark: SparkSession) -> None:
    chance = random.Random(20251101)
    kinds = {"birth_date": "date", "phones": "array<string>", "emails": "array<string>"}
    names = ("record_id", "kind", "role", *SOURCES)
    schema = ", ".join(f"{name} {kinds.get(name, 'string')}" for name in names)
    rows: list[dict[str, Any]] = [
        {
            **dict.fromkeys(names),
            "record_id": f"r{chance.randrange(60)}",
            "kind": "person",
            "given_name": chance.choice(["ANN", "BEN", None]),
            "family_name": chance.choice(["LEE", "RAY", "ORR", None]),
            "birth_date": chance.choice([date(1980, 5, 6), date(1981, 5, 6), None]),
            "ssn": chance.choice(["212345678", "212345679", "212345670", None]),
            "phones": chance.choices([f"617555010{n}" for n in range(9)], k=chance.randrange(3)),
            "emails": chance.choices([f"{n}@x.org" for n in range(9)], k=chance.randrange(3)),
        }
        for _ in range(150)
    ]
    others: dict[tuple[str, str], set[Any]] = {}
    records: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        said = {"ssn": [row["ssn"]], "phone": row["phones"], "emails": row["emails"]}
        name, born = (row["given_name"], row["family_name"]), row["birth_date"]
        for column, values in said.items():
            for value in {*values} - {None}:
                other = (name, born) if column == "ssn" else name[1]
                others.setdefault((column, value), set()).add(other)
                records.setdefault((column, value), set()).add(row["record_id"])
    least = {"ssn": 15, "phone": 4, "emails": 4}
    search = Search(ssn_persons=15, phone_families=4, email_families=4)
    feeds = [
        (feed, spark.createDataFrame(rows[begin::2], schema))
        for begin, feed in enumerate(("snap", "wic"))
    ]
    told = placeholders.search(forms(feeds, Standards(), 3), search, 3)
    wanted = [
        {"column": column, "value": value, "others": len(some), "records": len(records[key])}
        for key, some in sorted(others.items())
        for column, value in [key]
        if len(some) >= least[column]
    ]
    assert told.to_pylist() == wanted
    assert 0 < len(wanted) < len(others)


def test_two_records_whose_ids_have_one_number_are_refused(spark: SparkSession) -> None:
    whole = [
        {**dict.fromkeys(tables.RECORDS.column_names), "record_id": one, "feed": "f", "role": "r"}
        for one in (A, A[:16] + B[16:])
    ]
    frame = spark.createDataFrame(whole, tables.RECORDS.schema)
    with pytest.raises(ConcordError, match="two record ids begin with the same 16 digits"):
        facts(frame.repartition(2, "record_id"))
