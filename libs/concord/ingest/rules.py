"""From text to typed columns, and every way in which a row breaks its contract.

Row rules are one array column of violations, made in the same `select` as the typed columns.
Messages quote a value only from a column without identifier role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from concord.contracts.model import Contract, Derived, Field, Table
from concord.ingest.tables import VIOLATION_TYPE

TEXT = "_text_"
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
    nulls = [token for token in table.format.null_values if token]
    texts = rows.select(
        "_file",
        "_block",
        "_index",
        "_raw",
        "_malformed",
        *[_text(field.name, nulls).alias(TEXT + field.name) for field in table.fields],
    )
    values = texts.select("*", *[_typed(field).alias(field.name) for field in table.fields])
    checks = [check for field in table.fields for check in _field_checks(field)]
    checks += [
        Check(
            ~F.expr(rule.condition),
            _violation(rule.name, ",".join(rule.columns), F.lit(rule.message), rule.severity),
            rule.severity,
        )
        for rule in table.row_rules
    ]
    # Whether, before what: nearly all rows are good and need no list made.
    malformed = F.col("_malformed").isNotNull()
    judged = values.select(
        "*",
        _any([malformed, *[check.broken for check in checks]]).alias("_broken"),
        _any([malformed, *[c.broken for c in checks if c.severity == "error"]]).alias("_rejected"),
    )
    listed = F.array_compact(F.array(*[F.when(c.broken, c.violation) for c in checks]))
    violations = F.when(
        malformed, F.array(_violation("malformed", "", F.col("_malformed"), "error"))
    ).when(F.col("_broken"), listed if checks else F.array())
    return judged.select(
        "_file",
        "_block",
        "_index",
        "_raw",
        F.coalesce(violations, F.array()).cast(f"array<{VIOLATION_TYPE}>").alias("_violations"),
        "_broken",
        "_rejected",
        *[field.name for field in table.fields],
    )


def _any(conditions: Sequence[Column]) -> Column:
    """Whether one of the conditions holds; one that is NULL does not."""
    held = conditions[0]
    for condition in conditions[1:]:
        held = held | condition
    return F.coalesce(held, F.lit(False))


def with_derived(rows: DataFrame, table: Table) -> DataFrame:
    """Adds the harmonised and the derived columns."""
    harmonised = [
        _harmonised(field).alias(field.harmonise.column)
        for field in table.fields
        if field.harmonise
    ]
    rows = rows.select("*", *harmonised) if harmonised else rows
    derived = [_derived(column).alias(column.name) for column in table.derived]
    return rows.select("*", *derived) if derived else rows


def has_errors(violations: str) -> Column:
    """Whether one of a column's violations keeps a row out of the tables."""
    return F.exists(violations, lambda violation: violation["severity"] == "error")


def late_violation(rule: str, column: str, message: str, severity: str) -> Column:
    """A violation found after staging, by comparing rows."""
    return _violation(rule, column, F.lit(message), severity).cast(VIOLATION_TYPE)


def declared_rules(contract: Contract) -> int:
    """How many rules the contract's rows are held to."""
    count = 0
    for table in contract.tables:
        count += len(table.row_rules) + len(table.references) + (1 if table.key else 0)
        count += sum(len(_field_checks_names(field)) for field in table.fields)
    return count


def _text(name: str, nulls: list[str]) -> Column:
    trimmed = F.trim(F.col(name))
    empty = trimmed == ""
    return F.when(empty | trimmed.isin(nulls) if nulls else empty, None).otherwise(trimmed)


def _typed(field: Field) -> Column:
    text = F.col(TEXT + field.name)
    kind = field.type.split("(")[0]
    if kind == "string":
        return text
    if kind in {"date", "timestamp"} and field.date_formats:
        if kind == "date":
            return F.coalesce(*[F.try_to_date(text, fmt) for fmt in field.date_formats])
        return F.coalesce(*[F.try_to_timestamp(text, F.lit(fmt)) for fmt in field.date_formats])
    if kind == "boolean" and field.booleans:
        pairs = [F.lit(x) for pair in field.booleans.items() for x in pair]
        return F.try_element_at(F.create_map(*pairs), text)
    if kind == "decimal":
        wide = _wide(field)
        return F.when(wide == wide.try_cast(field.type), wide.try_cast(field.type))
    return text.try_cast(field.type)


def _wide(field: Field) -> Column:
    text = F.col(TEXT + field.name)
    if not field.implied_decimals:
        return text.try_cast(WIDE_DECIMAL)
    return (text.try_cast("decimal(28,0)") / F.lit(10**field.implied_decimals)).try_cast(
        WIDE_DECIMAL
    )


@dataclass(frozen=True)
class Check:
    """A rule of a row: when it is broken, and what is said then."""

    broken: Column
    violation: Column
    severity: str = "error"


def _field_checks(field: Field) -> list[Check]:
    text, value = F.col(TEXT + field.name), F.col(field.name)
    given = text.isNotNull()

    def broken(condition: Column, why: str) -> Check:
        quoted = (
            F.concat(F.lit("'"), F.substring(text, 1, 60), F.lit(f"' {why}"))
            if field.identifier_role == "none"
            else F.lit(f"a value {why}")
        )
        return Check(condition, _violation("invalidValues", field.name, quoted, "error"))

    checks = []
    if field.required:
        missing = _violation("nullValues", field.name, F.lit("is required and missing"), "error")
        checks.append(Check(text.isNull(), missing))
    if field.type != "string":
        shape = f" in the form {' or '.join(field.date_formats)}" if field.date_formats else ""
        checks.append(broken(given & value.isNull(), f"is not a {field.type}{shape}"))
    if field.pattern is not None:
        fits = text.rlike(rf"\A(?:{field.pattern})\z")
        checks.append(broken(given & ~fits, f"does not match {field.pattern}"))
    if field.allowed:
        checks.append(broken(given & ~text.isin(list(field.allowed)), "is not an allowed code"))
    if field.harmonise and field.harmonise.otherwise is None and not field.allowed:
        codes = list(field.harmonise.map)
        checks.append(broken(given & ~text.isin(codes), "is a code without a standard code"))
    if field.minimum is not None:
        low = F.lit(str(field.minimum)).cast(field.type)
        checks.append(broken(value < low, f"is below {field.minimum}"))
    if field.maximum is not None:
        high = F.lit(str(field.maximum)).cast(field.type)
        checks.append(broken(value > high, f"is above {field.maximum}"))
    if field.min_length is not None:
        short = F.length(text) < field.min_length
        checks.append(broken(short, f"is shorter than {field.min_length} characters"))
    if field.max_length is not None:
        long = F.length(text) > field.max_length
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


def _violation(rule: str, column: str, message: Column, severity: str) -> Column:
    return F.struct(
        F.lit(rule).alias("rule"),
        F.lit(column).alias("column"),
        message.alias("message"),
        F.lit(severity).alias("severity"),
    )


def _harmonised(field: Field) -> Column:
    harmonise = field.harmonise
    if harmonise is None:
        raise ValueError(f"{field.name} is not harmonised")
    pairs = [F.lit(x) for pair in harmonise.map.items() for x in pair]
    standard = F.try_element_at(F.create_map(*pairs), F.col(field.name).cast("string"))
    if harmonise.otherwise is None:
        return standard
    return F.coalesce(standard, F.lit(harmonise.otherwise))


def _derived(column: Derived) -> Column:
    return F.expr(column.expression).cast(column.type)
