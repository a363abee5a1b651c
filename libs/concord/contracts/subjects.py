"""Checks whom a table's rows speak about, and that identifying columns go to the vault."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from concord.contracts import model
from concord.contracts.place import Place, check_columns


def check_subject_columns(
    place: Place,
    subject: model.Subject,
    fields: Mapping[str, model.Field],
    columns: Collection[str],
) -> None:
    """Its columns exist, and those it maps may go to the vault; `fields` are the readable ones."""
    check_columns(place, subject.key, columns, "key")
    for identifier, mapped in (subject.identifiers or {}).items():
        used = (mapped,) if isinstance(mapped, str) else mapped
        check_columns(place, used, columns, "identifiers", identifier)
        for column in used:
            if column in fields and fields[column].identifier_role in ("sensitive", "none"):
                place.say(
                    f"{column!r} goes to the vault as {identifier!r}, so its identifierRole "
                    "must be direct or quasi",
                    "identifiers",
                    identifier,
                )
            if identifier == "birth_date" and column in fields and fields[column].type != "date":
                place.say(
                    f"{column!r} is a {fields[column].type}; a birth date must be a date: give it "
                    "logicalType date and, in dateFormats, the forms that the agency writes",
                    "identifiers",
                    identifier,
                )


def check_direct_columns(
    place: Place,
    fields: list[model.Field | None],
    subjects: list[model.Subject],
) -> None:
    mapped: set[str] = set()
    for subject in subjects:
        mapped |= set(subject.key)
        for columns in (subject.identifiers or {}).values():
            mapped |= {columns} if isinstance(columns, str) else set(columns)
    for item, column in zip(place.items("properties"), fields, strict=True):
        if column and column.identifier_role == "direct" and column.name not in mapped:
            item.say(
                "is direct but no subject maps it, so it has nowhere to go; add it to a "
                "subject's key or identifiers"
            )


def check_subjects(place: Place, tables: list[model.Table]) -> None:
    """A role means the same in every table, and every person is written to the vault somewhere."""
    seen: dict[str, tuple[str, tuple[str, ...], str]] = {}
    written: set[str] = set()
    complete = len(tables) == len(place.get("schema") or ())
    sites = {table.get("name"): table for table in place.items("schema")}
    for table in tables:
        for subject in table.subjects:
            known = {f.name: f.type for f in table.fields}
            here = (subject.kind, tuple(known[column] for column in subject.key))
            kind, types, first = seen.setdefault(subject.role, (*here, table.name))
            if (kind, types) != here:
                sites[table.name].say(
                    f"subject {subject.role!r} differs from that of table {first!r} in kind or in "
                    "the number or types of its key columns; its record ids would not agree"
                )
            if subject.identifiers is not None:
                written.add(subject.role)
    describing = [t for t in tables if any(s.identifiers is not None for s in t.subjects)]
    for table in describing:
        if table.policy != describing[0].policy:
            sites[table.name].say(
                f"writes to the feed's vault table as {describing[0].name!r} does, but under the "
                f"load policy {table.policy!r}, not {describing[0].policy!r}; use one policy for "
                "both, or make two feeds of them"
            )
        if not table.key:
            sites[table.name].say(
                "writes subjects to the vault, which keeps them by row; mark its primary key"
            )
    for role, (kind, _, first) in seen.items():
        if complete and kind == "person" and role not in written:
            sites[first].say(
                f"no table writes subject {role!r} to the vault; give it identifiers in one table"
            )
