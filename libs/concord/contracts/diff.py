"""What changed between two versions of a contract, and whom it breaks.

A change breaks readers when a query over the curated table of the old version can fail or mean
something else over the new one. Versions follow the semantics of readers: major for those,
minor for what else changes data or checks, patch for words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from concord.contracts.model import (
    Contract,
    Derived,
    Field,
    Reference,
    RowRule,
    Subject,
    Table,
    TableRule,
)
from concord.settings import Typed

Bump = Literal["patch", "minor", "major"]
BUMPS: tuple[Bump, ...] = ("patch", "minor", "major")
LEVELS = ("public", "internal", "confidential", "restricted")


@dataclass(frozen=True)
class Change:
    """One difference: `place` is `table.column` or the like; `breaks` is about readers."""

    kind: str
    place: str
    words: str
    breaks: bool
    bump: Bump


def diff(old: Contract, new: Contract) -> list[Change]:
    """Every difference between two contracts of a feed, but file and version themselves."""
    changes = list(_attributes("contract", old.feed, old, new, skip={"tables", "file", "version"}))
    before, after = {t.name: t for t in old.tables}, {t.name: t for t in new.tables}
    for name in [*before, *(n for n in after if n not in before)]:
        if name not in after:
            changes.append(_change("table_removed", name, "the table is gone", "major"))
        elif name not in before:
            changes.append(_change("table_added", name, "a new table", "minor"))
        else:
            changes += _table(before[name], after[name])
    return changes


def demanded(changes: Iterable[Change]) -> Bump | None:
    """The version bump that the changes demand together; None when there are none."""
    return max((change.bump for change in changes), key=BUMPS.index, default=None)


def next_version(version: str, bump: Bump | None) -> str:
    """`1.4.2` and minor give `1.5.0`."""
    major, minor, patch = (int(part) for part in version.split("."))
    match bump:
        case "major":
            return f"{major + 1}.0.0"
        case "minor":
            return f"{major}.{minor + 1}.0"
        case "patch":
            return f"{major}.{minor}.{patch + 1}"
    return version


def version_is_enough(old: Contract, new: Contract) -> bool:
    """Whether the new contract's version is at least what its changes demand."""
    wanted = next_version(old.version, demanded(diff(old, new)))
    return _numbers(new.version) >= _numbers(wanted)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _change(kind: str, place: str, words: str, bump: Bump) -> Change:
    return Change(kind, place, words, bump == "major", bump)


# --- what a changed attribute means --------------------------------------------------------------

# Attributes not named here demand a minor version.
MAJOR = {
    "contract": {"feed", "calendar"},
    "table": {"policy"},
    "column": {"type"},
    "subject": {"kind", "key"},
    "derived": {"type"},
}
PATCH = {"description", "title", "message", "owner"}


def _attributes(
    what: str, place: str, old: Typed, new: Typed, skip: Iterable[str] = ()
) -> Iterator[Change]:
    """One change per differing attribute, those of `skip` apart."""
    for name in type(old).model_fields:
        left, right = getattr(old, name), getattr(new, name)
        if name in skip or left == right:
            continue
        bump: Bump = "patch" if name in PATCH else "minor"
        if name in MAJOR.get(what, ()):
            bump = "major"
        words = f"{name.replace('_', ' ')} was {_text(left)}, is {_text(right)}"
        yield _change(f"{what}_{name}", place, words, bump)


def _text(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, Typed):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, tuple):
        value = ", ".join(map(str, value)) or "none"
    if isinstance(value, str):
        return repr(value) if len(value) < 60 else repr(value[:57] + "...")
    return str(value)


# --- tables and columns --------------------------------------------------------------------------


def _table(old: Table, new: Table) -> Iterator[Change]:
    name = old.name
    listed = {"fields", "subjects", "row_rules", "table_rules", "references", "derived"}
    yield from _attributes("table", name, old, new, skip=listed)
    if old.key != new.key:
        words = f"primary key was {_text(old.key)}, is {_text(new.key)}"
        yield _change("key_changed", name, words, "major")
    yield from _columns(old, new)
    yield from _subjects(old, new)
    yield from _derived(old, new)
    yield from _rules(name, "row_rule", old.row_rules, new.row_rules, lambda rule: rule.name)
    yield from _rules(name, "table_rule", old.table_rules, new.table_rules, lambda rule: rule.name)
    yield from _rules(
        name,
        "relationship",
        old.references,
        new.references,
        lambda item: f"{','.join(item.columns)} to {item.to_table}.{','.join(item.to_columns)}",
    )
    for what in ("fields", "subjects", "derived", "row_rules", "table_rules", "references"):
        names = [_name(item) for item in getattr(old, what)]
        again = [_name(item) for item in getattr(new, what)]
        if names != again and sorted(names) == sorted(again):
            words = f"the order of {what.replace('_', ' ')} changed"
            yield _change(f"{what}_reordered", name, words, "patch")


def _name(item: Any) -> str:
    return str(item.role if isinstance(item, Subject) else getattr(item, "name", item))


def _curated(table: Table, column: Field) -> bool:
    keys = {name for subject in table.subjects for name in subject.key}
    return column.identifier_role != "direct" and column.name not in keys


def _columns(old: Table, new: Table) -> Iterator[Change]:
    before, after = {f.name: f for f in old.fields}, {f.name: f for f in new.fields}
    gone = [f for f in old.fields if f.name not in after]
    fresh = [f for f in new.fields if f.name not in before]
    for column in gone:
        place = f"{old.name}.{column.name}"
        twin = next((f for f in fresh if _same_but_name(column, f)), None)
        if twin:
            fresh.remove(twin)
            words = f"the column is now called {twin.name!r}"
            yield _change("column_renamed", place, words, "major")
        else:
            yield _change("column_removed", place, "the column is gone", "major")
    for column in fresh:
        place = f"{old.name}.{column.name}"
        words = "a new column" + (", required in every row" if column.required else "")
        yield _change("column_added", place, words, "minor")
    for name, column in before.items():
        if name in after:
            yield from _column(old, new, column, after[name])


def _same_but_name(old: Field, new: Field) -> bool:
    """Same source column, or same everything: then only the name is another."""
    if old.type != new.type:
        return False
    if old.source == new.source:
        return True
    bare = {"name": "", "source": ""}
    described = bool(old.description)
    return described and old.model_copy(update=bare) == new.model_copy(update=bare)


def _column(old_table: Table, new_table: Table, old: Field, new: Field) -> Iterator[Change]:
    place = f"{old_table.name}.{old.name}"
    was, stays = _curated(old_table, old), _curated(new_table, new)
    apart = {
        "identifier_role",
        "classification",
        "required",
        "allowed",
        "harmonise",
        "key_position",
    }
    yield from _attributes("column", place, old, new, skip=apart)
    if old.identifier_role != new.identifier_role:
        words = f"identifier role was {old.identifier_role}, is {new.identifier_role}"
        raised = new.identifier_role == "direct"
        if old.identifier_role == "direct":
            words += "; what was in the vault only becomes readable: have it approved"
        yield _change("column_role", place, words, "major" if raised else "minor")
    if was and not stays:
        words = "leaves the curated table for the vault"
        yield _change("column_to_vault", place, words, "major")
    if stays and not was:
        yield _change("column_to_curated", place, "enters the curated table", "minor")
    if old.classification != new.classification:
        up = LEVELS.index(new.classification) > LEVELS.index(old.classification)
        words = f"classification was {old.classification}, is {new.classification}"
        yield _change(f"classification_{'raised' if up else 'lowered'}", place, words, "minor")
    if old.required and not new.required:
        yield _change("column_optional", place, "may now be empty", "major")
    if new.required and not old.required:
        yield _change("column_required", place, "must now be given in every row", "minor")
    yield from _allowed(place, old, new)
    if old.harmonise != new.harmonise:
        yield from _harmonise(place, old, new)


def _allowed(place: str, old: Field, new: Field) -> Iterator[Change]:
    if old.allowed and not new.allowed:
        yield _change("enum_dropped", place, "any value is allowed now", "minor")
    elif new.allowed and not old.allowed:
        yield _change("enum_given", place, f"only {_text(new.allowed)} allowed now", "minor")
    else:
        for value in old.allowed:
            if value not in new.allowed:
                yield _change("enum_value_removed", place, f"{value!r} no longer allowed", "major")
        for value in new.allowed:
            if value not in old.allowed:
                yield _change("enum_value_added", place, f"{value!r} newly allowed", "minor")
        if old.allowed != new.allowed and set(old.allowed) == set(new.allowed):
            yield _change("enum_reordered", place, "the order of the values changed", "patch")


def _harmonise(place: str, old: Field, new: Field) -> Iterator[Change]:
    left, right = old.harmonise, new.harmonise
    if left is None and right is not None:
        yield _change("harmonise_added", place, f"adds the column {right.column!r}", "minor")
    elif left is not None and right is None:
        yield _change("harmonise_removed", place, f"drops the column {left.column!r}", "major")
    elif left is not None and right is not None:
        if (left.to, left.column) != (right.to, right.column):
            words = f"was {left.to} as {left.column!r}, is {right.to} as {right.column!r}"
            yield _change("harmonise_changed", place, words, "major")
        if (left.map, left.otherwise) != (right.map, right.otherwise):
            codes = sorted({*left.map, *right.map})
            moved = [code for code in codes if left.map.get(code) != right.map.get(code)]
            words = f"the standard code changes for {_text(tuple(moved) or ('all others',))}"
            yield _change("harmonise_map", place, words, "minor")


def _subjects(old: Table, new: Table) -> Iterator[Change]:
    before, after = {s.role: s for s in old.subjects}, {s.role: s for s in new.subjects}
    for role, subject in before.items():
        place = f"{old.name}.{role}"
        if role not in after:
            words = f"the column {subject.record_id!r} is gone"
            yield _change("subject_removed", place, words, "major")
        else:
            yield from _attributes("subject", place, subject, after[role])
    for role in after.keys() - before.keys():
        words = f"adds the column {after[role].record_id!r}"
        yield _change("subject_added", f"{old.name}.{role}", words, "minor")


def _derived(old: Table, new: Table) -> Iterator[Change]:
    before, after = {d.name: d for d in old.derived}, {d.name: d for d in new.derived}
    for name, item in before.items():
        place = f"{old.name}.{name}"
        if name not in after:
            yield _change("derived_removed", place, "the column is gone", "major")
        else:
            yield from _attributes("derived", place, item, after[name])
    for name in sorted(after.keys() - before.keys()):
        yield _change("derived_added", f"{old.name}.{name}", "a new column", "minor")


Rule = RowRule | TableRule | Reference | Derived


def _rules(
    table: str,
    what: str,
    old: Iterable[Any],
    new: Iterable[Any],
    name: Callable[[Any], str],
) -> Iterator[Change]:
    before, after = {name(rule): rule for rule in old}, {name(rule): rule for rule in new}
    for key, rule in before.items():
        if key not in after:
            yield _change(f"{what}_removed", f"{table}.{key}", "no longer checked", "minor")
        else:
            yield from _attributes(what, f"{table}.{key}", rule, after[key])
    for key in after:
        if key not in before:
            yield _change(f"{what}_added", f"{table}.{key}", "checked from now on", "minor")
