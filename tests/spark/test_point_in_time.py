"""One pass on Spark against plain Python: random histories with late and corrected rows."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from concord_models.point_in_time import Facts, Measure, as_known, spans, within

pytestmark = pytest.mark.spark

FIRST = date(2024, 1, 1)
MEASURES = (
    Measure("seen_20", "facts", "count", kinds=("a",), days=20),
    Measure("paid_20", "facts", "sum", "paid", days=20),
    Measure("newest", "facts", "last", "paid"),
    Measure("word", "facts", "text", "word"),
    Measure("since", "facts", "since", kinds=("b",)),
    Measure("total", "days", "last", "paid"),
    Measure("first_paid_20", "first", "sum", "paid", days=20),
)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def histories(seed: int) -> tuple[list[Any], list[Any]]:
    """Rows (key, number, as_of) and facts (key, id, happened_on, _known_on, kind, paid, word): an
    id that comes again is a correction."""
    draw = random.Random(seed)
    keys = [f"k{n}" for n in range(40)]
    rows = [(draw.choice(keys), n, day(draw.randrange(90))) for n in range(300)]
    facts = []
    for number in range(500):
        happened = draw.randrange(80)
        known = happened + draw.choice([0, 1, 5, 40])
        key, kind = draw.choice(keys), draw.choice("abc")
        for version in range(draw.choice([1, 1, 2, 3])):
            paid = draw.choice([None, draw.randrange(10_000) / 100])
            facts.append(
                (
                    key,
                    number,
                    day(happened),
                    day(known + 7 * version),
                    kind,
                    paid,
                    draw.choice("xyz"),
                )
            )
    return rows, facts


def oracle(row: Any, facts: list[Any]) -> dict[str, Any]:
    key, _, as_of = row
    newest: dict[int, Any] = {}
    first: dict[int, Any] = {}
    for fact in sorted((f for f in facts if f[0] == key and f[3] <= as_of), key=lambda f: f[3]):
        newest[fact[1]] = fact
        first.setdefault(fact[1], fact)
    own = [f for f in newest.values() if f[2] <= as_of]
    lately = [f for f in own if (as_of - f[2]).days <= 20]
    last = max(own, key=lambda f: (f[2], f[3]), default=None)
    of_b = [f[2] for f in own if f[4] == "b"]
    days = {f[2] for f in own}
    told_first = [f for f in first.values() if 0 <= (as_of - f[2]).days <= 20]
    return {
        "first_paid_20": round(sum(f[5] or 0 for f in told_first), 2),
        "seen_20": sum(f[4] == "a" for f in lately),
        "paid_20": round(sum(f[5] or 0 for f in lately), 2),
        "newest": last and last[5],
        "word": last and last[6],
        "since": (as_of - max(of_b)).days if of_b else None,
        "total": round(sum(f[5] or 0 for f in own if f[2] == max(days)), 2) if days else None,
    }


def test_all_as_of_days_in_one_pass(spark: SparkSession) -> None:
    rows, facts = histories(4)
    frame = spark.createDataFrame(rows, "key string, number int, as_of date")
    told = spark.createDataFrame(
        facts, "key string, id int, happened_on date, _known_on date, kind string, paid double,"
        " word string",
    )  # fmt: skip
    one = Facts(told, ("paid",), ("word",), identity=("id",), order="_known_on")
    found = as_known(
        frame, "key",
        {"facts": one, "days": Facts(_ended(told, facts), ("paid",), total=True),
         "first": replace(one, least=True)},
        MEASURES,
    )  # fmt: skip
    assert found.columns == ["key", "number", "as_of", *(m.name for m in MEASURES)]
    got = {row["number"]: row for row in found.collect()}
    assert len(got) == len(rows)
    ties = 0
    for row in rows:
        expected, own = oracle(row, facts), got[row[1]]
        newest = [f for f in facts if f[0] == row[0] and f[2] <= row[2] and f[3] <= row[2]]
        last = max((f[2] for f in newest), default=None)
        tied = len({f[1] for f in newest if f[2] == last}) > 1
        ties += tied
        for name, value in expected.items():
            if tied and name in ("newest", "word"):
                continue
            found_value = round(own[name], 2) if isinstance(own[name], float) else own[name]
            assert found_value == value, (name, row)
    assert ties < len(rows) / 4


def _ended(told: DataFrame, facts: list[Any]) -> DataFrame:
    ends = []
    for fact in facts:
        later = [f[3] for f in facts if f[1] == fact[1] and f[3] > fact[3]]
        ends.append((fact[1], fact[3], min(later, default=None)))
    until = told.sparkSession.createDataFrame(ends, "id int, _known_on date, known_until date")
    return told.join(until, ["id", "_known_on"])


def test_what_is_known_while_a_span_lasts(spark: SparkSession) -> None:
    months = [("c", "p", day(0), day(10)), ("c", "p", day(10), day(20)), ("c", "p", day(30), None)]
    schema = "case string, person string, _known_on date, known_until date"
    living = spans(spark.createDataFrame(months, schema), ["case", "person"])
    ends = {(r["_known_on"], r["known_until"]) for r in living.collect()}
    assert ends == {(day(0), day(20)), (day(30), date(9999, 12, 31))}, "months side by side are one"
    facts = [("p", 1, day(5), None), ("p", 2, day(25), None), ("p", 3, day(1), day(4)),
             ("p", 4, day(21), day(29)), ("other", 5, day(5), None)]  # fmt: skip
    told = spark.createDataFrame(facts, "person string, id int, _known_on date, known_until date")
    found = within(told, living, "person").select("case", "id", "_known_on", "known_until")
    assert {tuple(row) for row in found.collect()} == {
        ("c", 1, day(5), day(20)),
        ("c", 1, day(30), date(9999, 12, 31)),
        ("c", 2, day(30), date(9999, 12, 31)),
        ("c", 3, day(1), day(4)),
    }


def test_facts_without_a_day_are_left_out(spark: SparkSession) -> None:
    schema = "key string, happened_on date, _known_on date"
    told = spark.createDataFrame([("k", None, day(0)), ("k", day(0), None)], schema)
    rows = spark.createDataFrame([("k", day(5)), (None, day(5))], "key string, as_of date")
    count = Measure("count", "facts", "count")
    found = as_known(rows, "key", {"facts": Facts(told)}, [count])
    assert found.agg(F.sum("count")).collect()[0][0] == 0 and found.count() == 2
