"""Reads `relationships`: columns whose values stand in another table of the feed."""

from __future__ import annotations

from typing import Any, get_args

from concord.contracts import model
from concord.contracts.place import Place, check_columns, one_of, suggestion

SEVERITIES: tuple[str, ...] = get_args(model.Severity)


def read_references(place: Place, table: str) -> list[tuple[model.Reference, Place]]:
    found = []
    for item in place.items("relationships"):
        found.append(_reference(item, table, item.get("from")))
    for column in place.items("properties"):
        for item in column.items("relationships"):
            found.append(_reference(item, table, f"{table}.{column.get('name')}"))
    return [(reference, at) for reference, at in found if reference is not None]


def _reference(
    item: Place, table: str, start: str | list[str]
) -> tuple[model.Reference | None, Place]:
    ends = []
    for side, value in (("from", start), ("to", item.get("to"))):
        paths = [value] if isinstance(value, str) else list(value)
        pairs = [path.split(".") for path in paths]
        if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) != 1:
            item.say("write table.column, all of one table", side)
            return None, item
        ends.append((pairs[0][0], tuple(pair[1] for pair in pairs)))
    (from_table, columns), (to_table, to_columns) = ends
    if from_table != table:
        item.say(f"must start with this table: {table}.column", "from")
        return None, item
    severity = item.custom({"severity"}).get("severity")
    level: Any = severity.data if severity else "error"
    if level not in SEVERITIES:
        item.say(f"unknown severity {level!r}; {one_of(SEVERITIES)}")
        return None, item
    return (
        model.Reference(columns=columns, to_table=to_table, to_columns=to_columns, severity=level),
        item,
    )


def check_references(place: Place) -> None:
    """Both ends of every relationship exist and agree in type."""
    columns = {
        table.get("name"): {c.get("name"): c.get("physicalType") for c in table.items("properties")}
        for table in place.items("schema")
    }
    for table in place.items("schema"):
        quiet = Place(table.document, table.data, table.location)  # its problems are noted already
        for reference, at in read_references(quiet, table.get("name")):
            here = columns[table.get("name")]
            item = Place(at.document, at.data, at.location, place.found)
            check_columns(item, reference.columns, here, "from")
            if reference.to_table not in columns:
                item.say(
                    f"no table {reference.to_table!r}{suggestion(reference.to_table, columns)}",
                    "to",
                )
                continue
            there = columns[reference.to_table]
            check_columns(item, reference.to_columns, there, "to")
            for left, right in zip(reference.columns, reference.to_columns, strict=False):
                if here.get(left) and there.get(right) and here[left] != there[right]:
                    item.say(
                        f"{left!r} is {here[left]} and {right!r} is {there[right]}; "
                        "give both the same type"
                    )
