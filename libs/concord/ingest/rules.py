"""From text to typed columns, and every way in which a row breaks its contract.

Row rules are one array column of violations, made in the same `select` as the typed columns.
Messages quote a value only from a column without identifier role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.contracts.model import Contract, Derived, Field, Harmonise, Table
from concord.ingest.tables import VIOLATION_TYPE
from concord.lake import sql

TEXT = "_text_"
# Whether a row rule holds, by its number.
HELD = "_held_"
KEPT = ("_file", "_block", "_index", "_raw")
# Wide enough for any amount in a file; what does not fit the contract's type is a violation.
WIDE_DECIMAL = "decimal(38,10)"


@dataclass(frozen=True)
class Violation:
    """How often a rule was broken in one delivery."""

    table: str
    rule: str
    column: str
    severity: str
    rows: int


def typed(rows: DataFrame, table: Table) -> DataFrame:
    """Text rows of a reader as typed columns, with `_violations`.

    Gives `_file`, `_block`, `_index`, `_raw`, the contract's fields by their types (NULL where a
    value cannot be read), `_violations`, `_broken` (there is one) and `_rejected` (one keeps the
    row out of the tables).
    """
    nulls = ["", *(token for token in table.format.null_values if token)]
    texts = rows.selectExpr(
        *KEPT,
        "_malformed",
        *[f"{_text(field.name, nulls)} AS {_given(field)}" for field in table.fields],
    )
    values = texts.selectExpr(
        "*", *[f"{_typed(field)} AS {sql.name(field.name)}" for field in table.fields]
    )
    if table.row_rules:
        # Each in a text of its own: what is wrong in one is not the others'.
        held = [F.expr(r.condition).alias(f"{HELD}{n}") for n, r in enumerate(table.row_rules)]
        values = values.select("*", *held)
    checks = [check for field in table.fields for check in _field_checks(field)]
    for number, rule in enumerate(table.row_rules):
        columns, message = ",".join(rule.columns), sql.literal(rule.message)
        violation = _violation(rule.name, columns, message, rule.severity)
        checks.append(Check(f"NOT {HELD}{number}", violation, rule.severity))
    # Whether, before what: nearly all rows are good and need no list made.
    malformed = "_malformed IS NOT NULL"
    judged = values.selectExpr(
        "*",
        f"{_any([malformed, *[c.broken for c in checks]])} AS _broken",
        f"{_any([malformed, *[c.broken for c in checks if c.severity == 'error']])} AS _rejected",
    )
    each = ", ".join(f"CASE WHEN {check.broken} THEN {check.violation} END" for check in checks)
    listed = f"array_compact(array({each}))" if checks else "array()"
    unfit = _violation("malformed", "", "_malformed", "error")
    return judged.selectExpr(
        *KEPT,
        f"cast(CASE WHEN {malformed} THEN array({unfit}) WHEN _broken "
        f"THEN {listed} ELSE array() END AS array<{VIOLATION_TYPE}>) "
        "AS _violations",
        "_broken",
        "_rejected",
        *[sql.name(field.name) for field in table.fields],
    )


def _any(conditions: Sequence[str]) -> str:
    """Whether one of the conditions holds; one that is NULL does not."""
    return f"coalesce({' OR '.join(f'({condition})' for condition in conditions)}, false)"


def with_derived(rows: DataFrame, table: Table) -> DataFrame:
    """Adds the harmonised and the derived columns."""
    harmonised = [
        f"{_harmonised(field.name, field.harmonise)} AS {sql.name(field.harmonise.column)}"
        for field in table.fields
        if field.harmonise
    ]
    rows = rows.selectExpr("*", *harmonised) if harmonised else rows
    derived = [_derived(column).alias(column.name) for column in table.derived]
    return rows.select("*", *derived) if derived else rows


def has_errors(violations: str) -> Column:
    """Whether one of a column's violations keeps a row out of the tables."""
    return F.expr(f"exists({violations}, v -> v.severity = 'error')")


def late_violation(rule: str, column: str, message: str, severity: str) -> str:
    """A violation found after staging, by comparing rows."""
    violation = _violation(rule, column, sql.literal(message), severity)
    return f"cast({violation} AS {VIOLATION_TYPE})"


def declared_rules(contract: Contract) -> int:
    """How many rules the contract's rows are held to."""
    count = 0
    for table in contract.tables:
        count += len(table.row_rules) + len(table.references) + (1 if table.key else 0)
        count += sum(len(_field_checks_names(field)) for field in table.fields)
    return count


def _given(field: Field) -> str:
    """The column that has a field's text."""
    return sql.name(TEXT + field.name)


def _text(name: str, nulls: Sequence[str]) -> str:
    trimmed = f"trim({sql.name(name)})"
    return f"CASE WHEN {trimmed} IN ({sql.listed(nulls)}) THEN NULL ELSE {trimmed} END"


def _typed(field: Field) -> str:
    text = _given(field)
    kind = field.type.split("(")[0]
    if kind == "string":
        return text
    if kind in {"date", "timestamp"} and field.date_formats:
        read = f"try_to_{kind}"
        tried = [f"{read}({text}, {sql.literal(form)})" for form in field.date_formats]
        return f"coalesce({', '.join(tried)})"
    if kind == "boolean" and field.booleans:
        return f"try_element_at({sql.mapped(field.booleans.items())}, {text})"
    if kind == "decimal":
        wide = _wide(field)
        exact = f"try_cast({wide} AS {field.type})"
        return f"CASE WHEN {wide} = {exact} THEN {exact} END"
    return f"try_cast({text} AS {field.type})"


def _wide(field: Field) -> str:
    text = _given(field)
    if field.implied_decimals:
        text = f"try_cast({text} AS decimal(28,0)) / {10**field.implied_decimals}"
    return f"try_cast({text} AS {WIDE_DECIMAL})"


@dataclass(frozen=True)
class Check:
    """A rule of a row: when it is broken, and what is said then."""

    broken: str
    violation: str
    severity: str = "error"


def _field_checks(field: Field) -> list[Check]:
    text, value = _given(field), sql.name(field.name)

    def broken(condition: str, why: str) -> Check:
        quoted = sql.literal(f"a value {why}")
        if field.identifier_role == "none":
            quote, rest = sql.literal("'"), sql.literal(f"' {why}")
            quoted = f"concat({quote}, substring({text}, 1, 60), {rest})"
        return Check(condition, _violation("invalidValues", field.name, quoted, "error"))

    def limit(bound: object) -> str:
        return f"cast({sql.literal(str(bound))} AS {field.type})"

    checks = []
    if field.required:
        missing = _violation("nullValues", field.name, "'is required and missing'", "error")
        checks.append(Check(f"{text} IS NULL", missing))
    if field.type != "string":
        shape = f" in the form {' or '.join(field.date_formats)}" if field.date_formats else ""
        unread = f"{text} IS NOT NULL AND {value} IS NULL"
        checks.append(broken(unread, f"is not a {field.type}{shape}"))
    if field.pattern is not None:
        whole = sql.literal(rf"\A(?:{field.pattern})\z")
        checks.append(broken(f"NOT {text} RLIKE {whole}", f"does not match {field.pattern}"))
    if field.allowed:
        other = f"{text} NOT IN ({sql.listed(field.allowed)})"
        checks.append(broken(other, "is not an allowed code"))
    if field.harmonise and field.harmonise.otherwise is None and not field.allowed:
        other = f"{text} NOT IN ({sql.listed(field.harmonise.map)})"
        checks.append(broken(other, "is a code without a standard code"))
    if field.minimum is not None:
        checks.append(broken(f"{value} < {limit(field.minimum)}", f"is below {field.minimum}"))
    if field.maximum is not None:
        checks.append(broken(f"{value} > {limit(field.maximum)}", f"is above {field.maximum}"))
    if field.min_length is not None:
        short = f"length({text}) < {field.min_length}"
        checks.append(broken(short, f"is shorter than {field.min_length} characters"))
    if field.max_length is not None:
        long = f"length({text}) > {field.max_length}"
        checks.append(broken(long, f"is longer than {field.max_length} characters"))
    return checks


def _field_checks_names(field: Field) -> list[str]:
    named = {
        "required": field.required,
        "type": field.type != "string",
        "pattern": field.pattern is not None,
        "allowed": bool(field.allowed),
        "harmonise": bool(field.harmonise and field.harmonise.otherwise is None),
        "minimum": field.minimum is not None,
        "maximum": field.maximum is not None,
        "min_length": field.min_length is not None,
        "max_length": field.max_length is not None,
    }
    return [name for name, there in named.items() if there]


def _violation(rule: str, column: str, message: str, severity: str) -> str:
    """A violation as SQL; `message` is SQL already."""
    return (
        f"named_struct('rule', {sql.literal(rule)}, 'column', {sql.literal(column)}, "
        f"'message', {message}, 'severity', {sql.literal(severity)})"
    )


def _harmonised(name: str, harmonise: Harmonise) -> str:
    codes = sql.mapped(harmonise.map.items())
    standard = f"try_element_at({codes}, cast({sql.name(name)} AS string))"
    if harmonise.otherwise is None:
        return standard
    return f"coalesce({standard}, {sql.literal(harmonise.otherwise)})"


def _derived(column: Derived) -> Column:
    return F.expr(column.expression).cast(column.type)
