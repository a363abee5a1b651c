"""What a session's queries cost, switched to and fro."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from concord.lake.session import INTERPRETED, interpret
from tests.conftest import TEST_CONFS

pytestmark = pytest.mark.spark


def test_interpreting_ends_as_the_application_was_set_up(spark: SparkSession) -> None:
    """Not with Spark's own defaults: 200 tasks a shuffle, in a session shared by many jobs."""
    own = spark.newSession()
    before = {name: own.conf.get(name, None) for name in INTERPRETED}
    assert {name: TEST_CONFS.get(name) for name in INTERPRETED} == before
    interpret(own, True)
    assert {name: own.conf.get(name) for name in INTERPRETED} == INTERPRETED
    interpret(own, False)
    assert {name: own.conf.get(name, None) for name in INTERPRETED} == before
