"""The data dictionary: one Markdown page per feed and an index, generated from the contracts.

Same contracts, same pages, to the byte: a test compares the committed pages with fresh ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from concord.contracts.model import Contract, Field, Table

CodeLists = Mapping[str, Mapping[str, str]]
NOTE = "Generated from the contracts by `concord contract docs`; edit those instead."


def pages(contracts: Mapping[str, Contract], code_lists: CodeLists) -> dict[str, str]:
    """File name to Markdown: `README.md`, `code-lists.md` and `<feed>.md` for each contract."""
    result = {"README.md": _index(contracts), "code-lists.md": _code_lists(code_lists)}
    for feed in sorted(contracts):
        result[f"{feed}.md"] = page(contracts[feed])
    return result


def write(contracts: Mapping[str, Contract], code_lists: CodeLists, folder: Path) -> list[Path]:
    """Write the pages and remove those of feeds that are gone; returns the files changed."""
    fresh = pages(contracts, code_lists)
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for path in sorted(folder.glob("*.md")):
        if path.name not in fresh and NOTE in path.read_text(encoding="utf-8"):
            path.unlink()
            changed.append(path)
    for name, text in fresh.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def page(contract: Contract) -> str:
    """The page of one feed."""
    facts = [
        ("Feed", f"`{contract.feed}`, contract version {contract.version}"),
        ("Agency", contract.agency),
        ("Owner", contract.owner),
        ("Delivered by", contract.calendar),
        ("Kept", f"{contract.retention_years} years"),
        ("Highest classification", contract.classification),
        ("Rejected above", f"{contract.quarantine_limit:.2%} quarantined rows"),
    ]
    lines = [f"# {contract.title}", "", NOTE, ""]
    if contract.description:
        lines += [contract.description, ""]
    lines += _rows(("", ""), facts)
    for table in contract.tables:
        lines += _table(contract, table)
    return "\n".join(lines).rstrip() + "\n"


def _index(contracts: Mapping[str, Contract]) -> str:
    lines = ["# Data dictionary", "", NOTE, ""]
    rows = []
    for feed in sorted(contracts):
        contract = contracts[feed]
        tables = ", ".join(f"`{table.name}`" for table in contract.tables)
        link = f"[{feed}]({feed}.md)"
        rows.append((link, contract.title, contract.agency, contract.calendar, tables))
    lines += _rows(("feed", "title", "agency", "period", "tables"), rows)
    lines += ["Codes of the standard lists: [code lists](code-lists.md).", ""]
    return "\n".join(lines).rstrip() + "\n"


def _code_lists(code_lists: CodeLists) -> str:
    lines = ["# Standard code lists", "", NOTE, ""]
    for name in sorted(code_lists):
        lines += [f"## {name}", ""]
        lines += _rows(("code", "meaning"), [(f"`{c}`", m) for c, m in code_lists[name].items()])
    return "\n".join(lines).rstrip() + "\n"


def _table(contract: Contract, table: Table) -> list[str]:
    lines = [f"## {table.name}", ""]
    if table.description:
        lines += [table.description, ""]
    encoding = getattr(table.format, "encoding", "")
    how = table.format.kind.replace("_", " ") + (f" in {encoding}" if encoding else "")
    lines += [
        f"Curated as `curated/{contract.feed}_{table.name}`. Delivered as {how}, "
        f"load policy `{table.policy}`.",
        "",
    ]
    header = (
        "column",
        "type",
        "meaning",
        "key",
        "identifier role",
        "classification",
        "codes",
        "rules",
        "goes to",
    )
    lines += _rows(header, [_field(table, field) for field in table.fields])
    if table.subjects:
        lines += ["### Subjects", ""]
        rows = [
            (
                f"`{subject.record_id}`",
                subject.kind,
                _names(subject.key),
                ", ".join(sorted(subject.identifiers)) if subject.identifiers else "none",
                "writes" if subject.identifiers is not None else "refers to",
            )
            for subject in table.subjects
        ]
        lines += _rows(("curated column", "kind", "source key", "identifiers", "vault"), rows)
    added = [
        (
            f"`{field.harmonise.column}`",
            "string",
            f"`{field.name}` in the standard list [{field.harmonise.to}](code-lists.md)",
            field.identifier_role,
            field.classification,
        )
        for field in table.fields
        if field.harmonise
    ]
    added += [
        (
            f"`{item.name}`",
            item.type,
            f"{item.description} (`{item.expression}`)",
            item.identifier_role,
            item.classification,
        )
        for item in table.derived
    ]
    if added:
        lines += ["### Added columns", ""]
        lines += _rows(("column", "type", "meaning", "identifier role", "classification"), added)
    return lines + _rules(table)


def _rules(table: Table) -> list[str]:
    rows = [
        (rule.name, f"`{rule.condition}`", rule.message, rule.severity) for rule in table.row_rules
    ]
    for rule in table.table_rules:
        measure = f"`{rule.query}`" if rule.query else rule.metric
        if rule.column and not rule.query:
            measure += f" of `{rule.column}`"
        unit = " percent" if rule.percent else ""
        low = f"at least {rule.minimum:g}{unit}" if rule.minimum is not None else ""
        high = f"at most {rule.maximum:g}{unit}" if rule.maximum is not None else ""
        bounds = " and ".join(filter(None, [low, high]))
        rows.append((rule.name, measure, bounds, rule.severity))
    for item in table.references:
        target = f"`{item.to_table}` ({_names(item.to_columns)})"
        rows.append(("foreignKey", _names(item.columns), f"stands in {target}", item.severity))
    for column in table.control_totals:
        rows.append(("controlTotal", f"`{column}`", "the sum the manifest declares", "error"))
    if not rows:
        return []
    return ["### Rules", "", *_rows(("rule", "looks at", "demands", "severity"), rows)]


def _field(table: Table, field: Field) -> tuple[str, ...]:
    meaning = field.description
    if field.source != field.name:
        meaning = f"{meaning} (in the file: `{field.source}`)".strip()
    return (
        f"`{field.name}`",
        field.type,
        meaning,
        str(field.key_position or ""),
        field.identifier_role,
        field.classification,
        ", ".join(f"`{value}`" for value in field.allowed),
        "; ".join(demands(field)),
        destination(table, field),
    )


def demands(field: Field) -> list[str]:
    """What a column asks of its values, in words."""
    said = ["required"] if field.required else []
    if field.date_formats:
        said.append("written " + " or ".join(f"`{text}`" for text in field.date_formats))
    if field.pattern:
        said.append(f"matches `{field.pattern}`")
    for name in ("minimum", "maximum", "min_length", "max_length"):
        if getattr(field, name) is not None:
            said.append(f"{name.replace('_', ' ')} {getattr(field, name)}")
    if field.booleans:
        said += [f"`{code}` is {str(value).lower()}" for code, value in field.booleans.items()]
    return said


def destination(table: Table, field: Field) -> str:
    """curated, vault or both; a subject's key becomes its record id."""
    record_ids = [s.record_id for s in table.subjects if field.name in s.key]
    mapped = [
        f"{identifier} of {subject.role}"
        for subject in table.subjects
        for identifier, columns in (subject.identifiers or {}).items()
        if field.name in ((columns,) if isinstance(columns, str) else columns)
    ]
    vault = f"vault ({'; '.join(mapped)})" if mapped else ""
    if record_ids:
        return ", ".join(filter(None, [f"curated as {_names(record_ids)}", vault or "vault"]))
    if field.identifier_role == "direct":
        return vault
    return ", ".join(filter(None, ["curated", vault]))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _rows(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table and the empty line after it."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = [cell.replace("\n", " ").replace("|", r"\|") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
