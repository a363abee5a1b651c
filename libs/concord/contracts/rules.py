"""Reads the rules under `quality`: conditions over a row, measures of a table."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, get_args

from concord.contracts import model
from concord.contracts.odcs_schema import OPERATORS
from concord.contracts.place import Place, check_columns, one_of, typed
from concord.settings import Typed


class _Condition(Typed):
    """The `implementation` of a custom rule."""

    condition: str
    columns: tuple[str, ...] = ()
    message: str


def read_rules(
    place: Place, columns: Collection[str]
) -> tuple[list[model.RowRule], list[model.TableRule]]:
    rows: list[model.RowRule] = []
    tables: list[model.TableRule] = []
    names: set[str] = set()
    sites: list[tuple[Place, str | None]] = [(item, None) for item in place.items("quality")]
    for column in place.items("properties"):
        sites += [(item, column.get("name")) for item in column.items("quality")]
        if column.get("unique"):
            tables.append(_unique(f"unique_{column.get('name')}", [column.data["name"]], "error"))
    for item, of in sites:
        kind = item.get("type", "library")
        if kind == "text":
            continue
        severity = item.get("severity", "error")
        if severity not in get_args(model.Severity):
            item.say(
                f"unknown severity {severity!r}; {one_of(get_args(model.Severity))}", "severity"
            )
            severity = "error"
        rule = (
            _row_rule(item, of, severity)
            if kind == "custom"
            else _table_rule(item, of, kind, severity, columns)
        )
        if rule is None:
            continue
        if rule.name in names:
            item.say(f"two rules are named {rule.name!r}; give each its own name")
        names.add(rule.name)
        if isinstance(rule, model.RowRule):
            check_columns(item, rule.columns, columns, "implementation", "columns")
            rows.append(rule)
        else:
            tables.append(rule)
    return rows, tables


def _row_rule(item: Place, of: str | None, severity: Any) -> model.RowRule | None:
    if item.get("engine") != "concord":
        item.say(f"unknown engine {item.get('engine')!r}; use concord", "engine")
        return None
    if not item.get("name"):
        item.say("'name' is missing; add it")
        return None
    condition = typed(_Condition, item.at("implementation"))
    if condition is None:
        return None
    columns = condition.columns or ((of,) if of else ())
    if not columns:
        item.say("name the columns that the condition looks at", "implementation")
    return model.RowRule(
        name=item.data["name"],
        condition=condition.condition,
        columns=columns,
        message=condition.message,
        severity=severity,
    )


def _table_rule(
    item: Place, of: str | None, kind: str, severity: Any, columns: Collection[str]
) -> model.TableRule | None:
    metric = "sql" if kind == "sql" else item.get("metric")
    percent = item.get("unit") == "percent"
    low, high = _bounds(item, whole=metric != "sql" and not percent)
    name = item.get("name") or "_".join(filter(None, [metric, of]))
    shared: dict[str, Any] = {"name": name, "minimum": low, "maximum": high, "severity": severity}
    if metric == "rowCount":
        return model.TableRule(metric="rowCount", **shared)
    if metric == "sql":
        query = item.get("query", "").replace("${column}", of or "${column}")
        if "${table}" not in query:
            item.say("write ${table} where the delivery's table stands", "query")
        return model.TableRule(metric="sql", query=query, column=of, percent=percent, **shared)
    given = (item.get("arguments") or {}).get("properties")
    used = [of] if of else given if isinstance(given, list) else []
    if not used:
        item.say(f"{metric} is of a column: move it under the column's quality")
        return None
    check_columns(item, used, columns, "arguments")
    if metric == "nullValues":
        return model.TableRule(metric="nullValues", column=used[0], percent=percent, **shared)
    if metric == "duplicateValues":
        rule = _unique(name, used, severity, percent)
        return rule.model_copy(update={"minimum": low, "maximum": high})
    item.say(
        f"{metric} is not measured here; for values write enum or pattern on the column, "
        "for missing ones nullValues"
    )
    return None


def _unique(name: str, columns: list[str], severity: Any, percent: bool = False) -> model.TableRule:
    key = ", ".join(columns)
    null = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    count = f"count_if({null}) - count(DISTINCT {key})"
    share = f"100.0 * ({count}) / greatest(count(*), 1)"
    return model.TableRule(
        name=name,
        metric="sql",
        query=f"SELECT {share if percent else count} FROM ${{table}}",  # noqa: S608 names, checked
        maximum=0,
        severity=severity,
    )


def _bounds(item: Place, whole: bool) -> tuple[float | None, float | None]:
    """Inclusive (minimum, maximum) of a rule's operator; strict ones step to the next number."""

    def step(value: float, to: float) -> float:
        return (
            value + math.copysign(1, to)
            if whole and value == int(value)
            else math.nextafter(value, to)
        )

    for operator in OPERATORS:
        value = item.get(operator)
        if value is None:
            continue
        if any(
            not isinstance(v, (int, float)) for v in (value if isinstance(value, list) else [value])
        ):
            item.say("must be a number", operator)
            return None, None
        match operator:
            case "mustBe":
                return value, value
            case "mustBeGreaterThan":
                return step(value, math.inf), None
            case "mustBeGreaterOrEqualTo":
                return value, None
            case "mustBeLessThan":
                return None, step(value, -math.inf)
            case "mustBeLessOrEqualTo":
                return None, value
            case "mustBeBetween":
                return value[0], value[1]
    item.say(f"give exactly one bound: {', '.join(OPERATORS)}")
    return None, None
