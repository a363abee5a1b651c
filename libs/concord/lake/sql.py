"""Texts of Spark SQL.

Where a query has many columns it is written as text: a Column of PySpark is several calls to Java
for each function in it, and a text is one for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date


def literal(value: str | int | bool | date | None) -> str:
    """A value as SQL has it.

    A dollar sign is spelt by its number: unless a session forbids it, Spark puts settings and
    environment variables in the place of `${...}`, in literals too, and values come from others.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return f"DATE'{value}'"
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024")
    return f"'{escaped}'"


def name(column: str) -> str:
    """A column's name, whatever is in it (in a session of Concord's, which substitutes nothing)."""
    return f"`{column.replace('`', '``')}`"


def listed(values: Iterable[str | int | date]) -> str:
    """Values as literals, with commas."""
    return ", ".join(map(literal, values))


def mapped(pairs: Iterable[tuple[str, str | int | bool]]) -> str:
    """A map from texts."""
    return f"map({', '.join(f'{literal(key)}, {literal(value)}' for key, value in pairs)})"
