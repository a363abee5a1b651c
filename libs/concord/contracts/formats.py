"""Checks a table's `format` against its columns: positions, lengths, header and trailer."""

from __future__ import annotations

from typing import Any

from concord.contracts import model
from concord.contracts.place import Place, check_columns


def check_format(place: Place, at: Place, form: Any, fields: list[model.Field | None]) -> None:
    if isinstance(form, model.Csv):
        for name in ("delimiter", "quote", "escape"):
            if len(getattr(form, name)) != 1:
                at.say(f"{name} must be one character", *([name] if name in at.data else []))
    if not isinstance(form, model.FixedWidth):
        for item in place.items("properties"):
            names = {c.get("property") for c in item.items("customProperties")}
            for name in sorted(names & {"position", "impliedDecimals"}):
                item.say(f"{name} is for fixed-width files only; remove it")
        return
    spans: list[tuple[int, int, str, Place]] = []
    for item, column in zip(place.items("properties"), fields, strict=True):
        if column is None:
            continue
        if column.position is None:
            item.say("'position' is missing; add the customProperty [start, length], from 1")
            continue
        start, length = column.position
        end = start + length - 1
        if start < 1 or length < 1:
            item.say("position must be [start, length], both 1 or more")
        elif end > form.record_length:
            item.say(f"ends at {end}, beyond the record length {form.record_length}")
        else:
            spans.append((start, end, column.name, item))
    spans.sort(key=lambda span: span[:3])
    for i, (start, _, _, item) in enumerate(spans):
        for _, earlier_end, earlier, _ in spans[:i]:
            if earlier_end >= start:
                item.say(f"position overlaps that of {earlier!r}, which ends at {earlier_end}")
                break
    columns = {column.name for column in fields if column}
    for part in ("header", "trailer"):
        layout: model.RecordLayout | None = getattr(form, part)
        if layout is None:
            continue
        check_columns(at, layout.totals, columns | {""}, part, "totals")
        places = {"rows": layout.rows, **layout.totals}
        for name, span in places.items():
            if span and (min(span) < 1 or sum(span) - 1 > form.record_length):
                at.say(
                    f"{name}: [start, length] must lie within the record of length "
                    f"{form.record_length}",
                    part,
                )
