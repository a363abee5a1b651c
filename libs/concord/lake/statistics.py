"""What a table's log tells of a file's columns, so that readers may pass over the file: the least
and the greatest value, and how many are null (the Delta protocol's "Per-file Statistics").

Taken from the Parquet file's own footer, of the columns that `delta.dataSkippingStatsColumns`
names. Of all of them or of none: where a log tells of some that the table names, delta-rs takes
the others to be without values, and loses rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq

COLUMNS = "delta.dataSkippingStatsColumns"
# Of a longer text Delta tells the beginning, and as the greatest one what is greater than any with
# that beginning.
SHORT, GREATEST = 32, "\U0010ffff"
# Digits of a decimal that a number of JSON's is sure to keep.
DIGITS = 15
MILLISECOND = timedelta(milliseconds=1)


class _Untold(Exception):
    """A column has values of which no bounds are known, or of a kind whose bounds cannot be told:
    of numbers with a fraction a footer leaves out what is not a number, which Spark takes to be the
    greatest of all."""


def named(properties: Mapping[str, str]) -> list[str]:
    """The columns that a table's properties name."""
    return [name for name in properties.get(COLUMNS, "").split(",") if name]


def bounds(file: pq.FileMetaData, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`minValues`, `maxValues` and `nullCount` of a Parquet file's columns, as JSON values; nothing
    where not all of them can be told. Columns that are not in the file are left out."""
    place = {file.schema.column(number).path: number for number in range(file.num_columns)}
    found: dict[str, dict[str, Any]] = {"minValues": {}, "maxValues": {}, "nullCount": {}}
    try:
        for name in columns:
            if name in place:
                least, greatest, nulls = _of_column(file, place[name])
                found["nullCount"][name] = nulls
                if nulls < file.num_rows:
                    found["minValues"][name] = _told(least, up=False)
                    found["maxValues"][name] = _told(greatest, up=True)
    except (_Untold, OverflowError, ValueError):  # some have days that Python has no date for
        return {}
    return found if found["nullCount"] else {}


def _of_column(file: pq.FileMetaData, number: int) -> tuple[Any, Any, int]:
    """Least, greatest and how many are null; no values where all are."""
    groups = [file.row_group(each) for each in range(file.num_row_groups)]
    told = [(group.num_rows, group.column(number).statistics) for group in groups]
    if any(one is None or not one.has_null_count for _, one in told):
        raise _Untold
    some = [one for rows, one in told if one.null_count < rows]
    if not all(one.has_min_max for one in some):
        raise _Untold
    nulls = sum(one.null_count for _, one in told)
    return (
        min((one.min for one in some), default=None),
        max((one.max for one in some), default=None),
        nulls,
    )


def _told(value: Any, *, up: bool) -> Any:
    """A bound as JSON; `up`: where it has to be changed, to a greater one, else to a lesser."""
    if isinstance(value, str):
        return value if len(value) <= SHORT else value[:SHORT] + (GREATEST if up else "")
    if isinstance(value, datetime):
        return _time(value, up=up)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal) and len(value.as_tuple().digits) <= DIGITS:
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Untold


def _time(value: datetime, *, up: bool) -> str:
    """To the millisecond, as Delta has it."""
    below = timedelta(microseconds=value.microsecond % 1000)
    value += (MILLISECOND if up and below else timedelta()) - below
    utc = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
