"""Conditions, derived columns and queries are analysed by Spark before any data comes."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from concord.contracts.expressions import check_expressions
from concord.errors import ConfigError
from tests.unit.contracts.claims import Load, changed, line_of

pytestmark = pytest.mark.spark

QUERY = """      - type: sql
        name: fewClosed
        query: SELECT count_if(active) FROM ${table}
        mustBeLessThan: 5
"""


def test_good_expressions_pass(spark: SparkSession, load: Load) -> None:
    check_expressions(spark, load(changed("    quality:\n", "    quality:\n" + QUERY)))


def test_every_bad_expression_is_told_with_its_line(spark: SparkSession, load: Load) -> None:
    text = changed("    quality:\n", "    quality:\n" + QUERY)
    text = changed("amount <= 1033", "amount", text)
    text = changed("year(filed_on)", "year(filed_on", text)
    text = changed("count_if(active)", "count_if(actve)", text)
    with pytest.raises(ConfigError) as caught:
        check_expressions(spark, load(text))
    query, rule, derived = sorted(caught.value.problems, key=lambda p: "filed_year" in p)
    assert f":{line_of('type: sql', text)}: claims.fewClosed: not a Spark query" in query
    assert f":{line_of('type: custom', text)}: claims.benefitWithinMaximum: is decimal" in rule
    assert f":{line_of('name: filed_year', text)}: claims.filed_year: not a Spark" in derived
