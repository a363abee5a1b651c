"""Rows to the bytes of a file, in whatever format, encoding and layout the contract states.

All by Arrow's string functions over whole columns: no loop over rows, except for the small share
of deliberately spoiled values.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from concord.contracts.columns import DECIMAL
from concord.contracts.model import (
    Csv,
    Excel,
    Field,
    FixedWidth,
    JsonLines,
    Parquet,
    RecordLayout,
    Table,
    Xml,
)
from concord.synthesis.blocks import Rows
from concord.synthesis.streams import Rng

PYTHON_CODECS = {
    "utf-8": "utf-8", "windows-1252": "cp1252", "iso-8859-1": "latin-1", "us-ascii": "ascii",
}  # fmt: skip
# Deliberately bad rows: a share of the rows of each table that no other table refers to.
SPOILED_SHARE = 0.0025
FIRST_DAY, LAST_DAY = -40_000, 40_000  # days the date lookup covers: 1860 to 2079


@dataclass(frozen=True)
class Spoiled:
    """Truth about one bad row: its primary key, the column spoiled and how."""

    key: str
    column: str
    error: str


def text_columns(table: Table, rows: Rows) -> dict[str, pa.Array]:
    """Every field as the text that stands in the file; null where missing."""
    return {field.name: _text(field, rows.columns[field.name], table) for field in table.fields}


def _text(field: Field, values: Any, table: Table) -> pa.Array:
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    plain = np.ma.getdata(values) if mask is not None else values
    if plain.dtype == object:
        return pa.array(plain, pa.string())
    if field.type == "date":
        form = field.date_formats[0] if field.date_formats else "yyyy-MM-dd"
        index = pa.array(plain - FIRST_DAY, mask=mask)
        return _days_as(form).take(index)
    if field.type == "boolean" or plain.dtype == bool:
        words = {value: word for word, value in reversed(field.booleans.items())}
        pair = pa.array([words.get(False, "false"), words.get(True, "true")])
        return pair.take(pa.array(plain.astype(np.int8), mask=mask))
    if field.type.startswith("decimal") and not field.implied_decimals:
        whole = pa.array(plain // 100, mask=mask).cast(pa.string())
        return pc.binary_join_element_wise(
            whole, _cents().take(pa.array(plain % 100, mask=mask)), "."
        )
    return pa.array(plain, mask=mask).cast(pa.string())


@cache
def _days_as(form: str) -> pa.Array:
    """The text of every day of the lookup, in a Spark date pattern."""
    pattern = form.replace("yyyy", "%Y").replace("MM", "%m").replace("dd", "%d")
    epoch = dt.date(1970, 1, 1)
    span = range(FIRST_DAY, LAST_DAY)
    return pa.array([(epoch + dt.timedelta(days=d)).strftime(pattern) for d in span])


@cache
def _cents() -> pa.Array:
    return pa.array([f"{i:02d}" for i in range(100)])


def impossible_date(form: str) -> str:
    """31 February in the field's own format."""
    return form.replace("yyyy", "2024").replace("MM", "02").replace("dd", "31")


def spoil(table: Table, columns: dict[str, pa.Array], rng: Rng) -> list[Spoiled]:
    """Break a small share of the rows (in place): impossible dates, missing or unknown values.

    Keys, subjects' keys and control totals stay whole, so that each bad row can be found again
    and the manifest's totals stay true.
    """
    safe = {*table.key, *table.control_totals, *(c for s in table.subjects for c in s.key)}
    fields = [f for f in table.fields if f.name not in safe]
    targets = [(f, "impossible_date") for f in fields if f.type == "date"]
    targets += [(f, "missing_required") for f in fields if f.required and f.type == "string"]
    targets += [(f, "unknown_code") for f in fields if f.allowed]
    size = len(next(iter(columns.values()))) if columns else 0
    if not targets or not size:
        return []
    bad = np.flatnonzero(rng.random(size) < SPOILED_SHARE)
    which = rng.integers(0, len(targets), len(bad))
    found = []
    changed: dict[str, dict[int, str | None]] = {}
    for row, target in zip(bad.tolist(), which.tolist(), strict=True):
        field, error = targets[target]
        if error == "impossible_date":
            if not columns[field.name][row].is_valid:
                continue
            form = field.date_formats[0] if field.date_formats else "yyyy-MM-dd"
            value: str | None = impossible_date(form)
        else:
            value = None if error == "missing_required" else "?"
        changed.setdefault(field.name, {})[row] = value
        key = "|".join(str(columns[name][row].as_py()) for name in table.key)
        found.append(Spoiled(key, field.name, error))
    for name, cells in changed.items():
        values = columns[name].to_numpy(zero_copy_only=False).copy()
        for row, value in cells.items():
            values[row] = value
        columns[name] = pa.array(values, pa.string())
    return found


def body(table: Table, columns: dict[str, pa.Array]) -> bytes:
    """The data rows, without anything that stands once in a file."""
    ordered = [columns[field.name] for field in table.fields]
    form = table.format
    if isinstance(form, Csv):
        lines = _delimited(ordered, form)
    elif isinstance(form, FixedWidth):
        lines = _fixed(table, columns, form)
    elif isinstance(form, JsonLines):
        lines = _json(table, columns)
    elif isinstance(form, Xml):
        lines = _xml(table, columns, form)
    elif isinstance(form, Excel):
        lines = _excel_rows(table, columns)
    elif isinstance(form, Parquet):
        return _arrow(table, columns)
    return _joined(lines, getattr(form, "encoding", "utf-8"))


def _joined(lines: pa.Array, encoding: str) -> bytes:
    """Lines as bytes, a newline after each: the array's own data buffer."""
    if not len(lines):
        return b""
    ended = pc.binary_join_element_wise(lines, pa.scalar("\n"), "")
    offsets = np.frombuffer(ended.buffers()[1], dtype=np.int32)[ended.offset :]
    data = ended.buffers()[2].to_pybytes()[offsets[0] : offsets[len(ended)]]
    if encoding in ("utf-8", "us-ascii"):
        return data
    return data.decode("utf-8").encode(PYTHON_CODECS[encoding], "replace")


def _delimited(columns: list[pa.Array], form: Csv) -> pa.Array:
    missing = form.null_values[0] if form.null_values else ""
    special = "[" + "".join("\\" + c for c in {form.delimiter, form.quote}) + "\r\n]"
    ready = []
    for column in columns:
        distinct = column.dictionary_encode()
        words = distinct.dictionary
        needs = pc.match_substring_regex(words, special)
        if pc.any(needs).as_py():
            doubled = pc.replace_substring(words, form.quote, form.escape + form.quote)
            quoted = pc.binary_join_element_wise(form.quote, doubled, form.quote, "")
            words = pc.if_else(needs, quoted, words)
            column = words.take(distinct.indices)
        ready.append(column)
    return pc.binary_join_element_wise(
        *ready, form.delimiter, null_handling="replace", null_replacement=missing
    )


def _fixed(table: Table, columns: dict[str, pa.Array], form: FixedWidth) -> pa.Array:
    """Numbers right-aligned with zeros, text left-aligned, gaps and missing values blank."""
    size = len(next(iter(columns.values())))
    fields = sorted((f for f in table.fields if f.position), key=lambda f: f.position or (0, 0))
    parts: list[Any] = [
        pa.array([form.detail_prefix]).take(pa.array(np.zeros(size, dtype=np.int8)))
    ]
    at = len(form.detail_prefix) + 1
    for field in fields:
        start, width = field.position or (0, 0)
        if start > at:
            parts.append(pa.scalar(" " * (start - at)))
        column = columns[field.name].fill_null("")
        number = field.type.startswith(("decimal", "int", "bigint"))
        pad, fill = (pc.ascii_lpad, "0") if number else (pc.ascii_rpad, " ")
        padded = pad(column, width, fill)
        parts.append(pc.utf8_slice_codeunits(padded, 0, width))
        at = start + width
    if at <= form.record_length:
        parts.append(pa.scalar(" " * (form.record_length - at + 1)))
    return pc.binary_join_element_wise(*parts, "")


def _escaped(column: pa.Array, pairs: tuple[tuple[str, str], ...]) -> pa.Array:
    distinct = column.dictionary_encode()
    words = distinct.dictionary
    for what, by in pairs:
        words = pc.replace_substring(words, what, by)
    return words.take(distinct.indices)


JSON_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"))
XML_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def _json(table: Table, columns: dict[str, pa.Array]) -> pa.Array:
    """One object a line; numbers and booleans bare, missing values left out as null."""
    parts: list[Any] = []
    for i, field in enumerate(table.fields):
        column = columns[field.name]
        bare = not (field.type in ("string", "date", "timestamp") or field.booleans)
        if bare:
            value = column.fill_null("null")
        else:
            quoted = pc.binary_join_element_wise('"', _escaped(column, JSON_ESCAPES), '"', "")
            value = quoted.fill_null("null")
        parts += [pa.scalar(("{" if i == 0 else ", ") + f'"{field.source}": '), value]
    return pc.binary_join_element_wise(*parts, pa.scalar("}"), "")


def _xml(table: Table, columns: dict[str, pa.Array], form: Xml) -> pa.Array:
    """One element a row; dotted physical names nest, missing values have no element."""
    parts: list[Any] = [pa.scalar(f"  <{form.row_tag}>")]
    open_tags: list[str] = []
    for field in table.fields:
        *path, leaf = field.source.split(".")
        shared = 0
        while shared < min(len(path), len(open_tags)) and path[shared] == open_tags[shared]:
            shared += 1
        move = "".join(f"</{tag}>" for tag in reversed(open_tags[shared:]))
        move += "".join(f"<{tag}>" for tag in path[shared:])
        open_tags = path
        if move:
            parts.append(pa.scalar(move))
        value = pc.binary_join_element_wise(
            f"<{leaf}>", _escaped(columns[field.name], XML_ESCAPES), f"</{leaf}>", ""
        )
        parts.append(value.fill_null(""))
    close = "".join(f"</{tag}>" for tag in reversed(open_tags))
    return pc.binary_join_element_wise(*parts, pa.scalar(f"{close}</{form.row_tag}>"), "")


def _excel_rows(table: Table, columns: dict[str, pa.Array]) -> pa.Array:
    """Rows of a worksheet; all cells are text but amounts and counts."""
    parts: list[Any] = [pa.scalar("<row>")]
    for field in table.fields:
        column = columns[field.name]
        if field.type.startswith(("decimal", "int", "bigint", "double")):
            cell = pc.binary_join_element_wise("<c><v>", column, "</v></c>", "")
        else:
            inside = _escaped(column, XML_ESCAPES)
            cell = pc.binary_join_element_wise(
                '<c t="inlineStr"><is><t>', inside, "</t></is></c>", ""
            )
        parts.append(cell.fill_null("<c/>"))
    return pc.binary_join_element_wise(*parts, pa.scalar("</row>"), "")


# Spark's types, those with parameters apart, as Parquet files have them.
ARROW_TYPES = {
    "string": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(),
    "boolean": pa.bool_(), "date": pa.date32(),
}  # fmt: skip


def _arrow(table: Table, columns: dict[str, pa.Array]) -> bytes:
    """An Arrow stream of typed columns; several, one behind the other, become a Parquet file."""
    typed = {}
    for field in table.fields:
        precise = DECIMAL.match(field.type)
        kind = (
            pa.decimal128(int(precise[1]), int(precise[2])) if precise else ARROW_TYPES[field.type]
        )
        typed[field.source] = columns[field.name].cast(kind)
    rows = pa.table(typed)
    out = io.BytesIO()
    with pa.ipc.new_stream(out, rows.schema) as stream:
        stream.write_table(rows)
    return out.getvalue()


# --- what stands once in a file ------------------------------------------------------------------


def head(table: Table, period: str) -> bytes:
    form = table.format
    if isinstance(form, Csv):
        names = form.delimiter.join(field.source for field in table.fields)
        return f"{names}\n".encode(PYTHON_CODECS[form.encoding])
    if isinstance(form, FixedWidth) and form.header:
        return _record(form, form.header, f"{table.name.upper()} {period}", 0, {})
    if isinstance(form, Xml):
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{table.name} period="{period}">\n'.encode()
        )
    if isinstance(form, Excel):
        cells = "".join(
            f'<c t="inlineStr"><is><t>{escape(f.source)}</t></is></c>' for f in table.fields
        )
        return f"<row>{cells}</row>\n".encode()
    return b""


def tail(table: Table, rows: int, totals: dict[str, int]) -> bytes:
    """`totals` in cents by column."""
    form = table.format
    if isinstance(form, FixedWidth) and form.trailer:
        return _record(form, form.trailer, "", rows, totals)
    if isinstance(form, Xml):
        return f"</{table.name}>\n".encode()
    return b""


def _record(
    form: FixedWidth, layout: RecordLayout, words: str, rows: int, totals: dict[str, int]
) -> bytes:
    line = list(f"{layout.prefix}{words}".ljust(form.record_length)[: form.record_length])
    spans: list[tuple[tuple[int, int], int]] = [(layout.rows, rows)] if layout.rows else []
    spans += [(span, totals[column]) for column, span in layout.totals.items()]
    for (start, width), value in spans:
        line[start - 1 : start - 1 + width] = f"{value:0{width}d}"
    return "".join(line).encode("ascii") + b"\n"


def gzipped(data: bytes) -> bytes:
    """Gzip bytes that depend on the content only (no name, no time)."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=6, mtime=0) as stream:
        stream.write(data)
    return out.getvalue()


def parquet(streams: bytes) -> bytes:
    """A Parquet file of the rows of Arrow streams."""
    source, parts = pa.BufferReader(streams), []
    while source.tell() < len(streams):
        with pa.ipc.open_stream(source) as stream:
            parts.append(stream.read_all())
    out = io.BytesIO()
    # In one chunk: how blocks were divided does not show in the file.
    pq.write_table(pa.concat_tables(parts).combine_chunks(), out)
    return out.getvalue()


def workbook(sheet: str, rows: bytes) -> bytes:
    """An Excel workbook of one sheet whose bytes depend on the content only."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    start = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="rId1" Type="{relation}/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relation}"><sheets>'
        f'<sheet name="{escape(sheet)}" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="rId1" Type="{relation}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
    }
    data = {name: (start + text).encode() for name, text in parts.items()}
    data["xl/worksheets/sheet1.xml"] = (
        f'{start}<worksheet xmlns="{main}"><sheetData>\n'.encode()
        + rows
        + b"</sheetData></worksheet>\n"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in data.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()
