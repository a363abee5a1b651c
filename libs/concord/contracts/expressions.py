"""Lets Spark analyse the conditions, derived columns and queries of a contract."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concord.contracts import model
from concord.contracts.place import in_order
from concord.errors import ConfigError
from concord.settings import Document, Problem, read_document
from concord.yaml12 import Location

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def check_expressions(spark: SparkSession, contract: model.Contract) -> None:
    """Let Spark analyse every condition, derived expression and query over the typed columns.

    Nothing is read or run. Raises ConfigError with every one that does not parse, names an
    unknown column, or is no condition where one must be.
    """
    document = read_document(Path(contract.file))
    found: list[Problem] = []
    # PySpark logs what it raises, with a Java stack; the problems below say it in a line.
    logger = logging.getLogger("SQLQueryContextLogger")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        for index, table in enumerate(contract.tables):
            for name, message in _expression_problems(spark, table):
                line = _line_of(document, index, name)
                found.append(Problem(document.file, line, f"{table.name}.{name}", message))
    finally:
        logger.setLevel(level)
    if found:
        raise ConfigError(in_order(found))


def _expression_problems(spark: SparkSession, table: model.Table) -> Iterator[tuple[str, str]]:
    from pyspark.errors import PySparkException

    empty = spark.createDataFrame([], ", ".join(f"`{f.name}` {f.type}" for f in table.fields))
    for name, text, condition in [
        *((rule.name, rule.condition, True) for rule in table.row_rules),
        *((item.name, item.expression, False) for item in table.derived),
    ]:
        try:
            actual = empty.selectExpr(f"({text}) AS value").schema["value"].dataType.simpleString()
        except PySparkException as error:
            yield name, f"not a Spark expression: {str(error).strip().splitlines()[0]}"
        else:
            if condition and actual != "boolean":
                yield name, f"is {actual}, not a condition; compare it with something"
    for rule in table.table_rules:
        if rule.query is None:
            continue
        try:
            columns = spark.sql(rule.query.replace("${table}", "{rows}"), rows=empty).columns
        except PySparkException as error:
            yield rule.name, f"not a Spark query: {str(error).strip().splitlines()[0]}"
        else:
            if len(columns) != 1:
                yield rule.name, f"gives {len(columns)} columns; a rule's query gives one number"


def _line_of(document: Document, table: int, name: str) -> int:
    """The line of the rule or derived column called `name`."""

    def search(node: Any, location: Location) -> Location | None:
        if isinstance(node, Mapping):
            if node.get("name") == name and {"expression", "implementation", "query"} & set(node):
                return location
            steps: Iterable[Any] = node.items()
        elif isinstance(node, list):
            steps = enumerate(node)
        else:
            return None
        for step, value in steps:
            if result := search(value, (*location, step)):
                return result
        return None

    start: Location = ("schema", table)
    return document.line(search(document.data["schema"][table], start) or start)
