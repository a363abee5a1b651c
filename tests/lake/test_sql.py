"""Texts of SQL mean the values that they were made of, whatever stands in those."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from concord.lake import sql

pytestmark = pytest.mark.spark

# What Java takes as text: no half of a character.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TRICKY = st.lists(
    st.sampled_from(["'", '"', "\\", "$", "{", "}", "u0024", "n", "%", "`", "--", "\n"])
)


@given(st.lists(TEXTS | TRICKY.map("".join), min_size=1, max_size=30))
@example(["${env:HOME}", "${spark.app.name}", "\\u0024{env:HOME}", "\\$", "\\", "'", "\x1f", "\\%"])
def test_a_literal_is_the_text_that_it_was_made_of(spark: SparkSession, texts: list[str]) -> None:
    # Even where a session substitutes, as the linkage engine's users may have it.
    other = spark.newSession()
    other.conf.set("spark.sql.variable.substitute", "true")
    [row] = other.range(1).selectExpr(f"array({sql.listed(texts)}) AS made").collect()
    assert row["made"] == texts
    kept = dict(zip(texts, map(str, range(len(texts))), strict=True))
    [row] = other.range(1).selectExpr(f"{sql.mapped(kept.items())} AS made").collect()
    assert row["made"] == kept


@given(TEXTS.filter(lambda text: text.strip() != ""))
@example("a`b")
@example("${env:HOME}")
def test_a_name_is_the_column_s_whatever_is_in_it(spark: SparkSession, column: str) -> None:
    rows = spark.range(1).withColumnRenamed("id", column)
    assert rows.selectExpr(f"{sql.name(column)} + 1 AS more").collect()[0]["more"] == 1


def test_what_is_no_text_is_typed(spark: SparkSession) -> None:
    values = sql.listed([date(2025, 1, 31), date(1, 1, 1)])
    [row] = spark.range(1).selectExpr(
        f"array({values}) AS days", f"{sql.literal(None)} AS no", f"{sql.literal(True)} AS yes",
        f"{sql.literal(-7)} AS number",
    ).collect()  # fmt: skip
    assert row.asDict() == {
        "days": [date(2025, 1, 31), date(1, 1, 1)], "no": None, "yes": True, "number": -7,
    }  # fmt: skip
