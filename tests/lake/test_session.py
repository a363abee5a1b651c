"""What a session's queries cost, switched to and fro."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

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


def test_what_a_column_is_made_with_is_looked_up_once(spark: SparkSession) -> None:
    sent: list[str] = []
    client = spark.sparkContext._gateway._gateway_client
    send = client.send_command
    F.when(F.col("a") == F.lit(1), F.trim("b"))

    def heard(command: str, *rest: Any, **named: Any) -> Any:
        sent.append(command)
        return send(command, *rest, **named)

    with patch.object(client, "send_command", heard):
        F.when(F.col("a") == F.lit(1), F.trim("b"))
    # Two columns by name, a literal, the comparison, the text, the choice: a call each.
    assert [command[0] for command in sent if command[0] != "m"] == ["c"] * 6
