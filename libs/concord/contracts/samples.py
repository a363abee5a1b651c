"""Reads a sample file of unknown shape into columns of text, for drafting a contract.

Finds out compression, encoding, delimiter, sheet, row element and the like. What is found here
is a guess from one sample; reading real deliveries is `concord.ingest`'s.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os.path
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from concord.errors import UsageError

BYTES = 16_000_000  # of the sample that are looked at
ROWS = 20_000
DELIMITERS = (",", "|", "\t", ";", "~")


@dataclass(frozen=True)
class Column:
    """One column: its name in the file, its values as text (None for empty), and what is known.

    `type` is set when the file itself declares one (Parquet); `position` in fixed-width files.
    """

    source: str
    values: tuple[str | None, ...]
    type: str | None = None
    position: tuple[int, int] | None = None


@dataclass(frozen=True)
class Sample:
    """A sample file: its format as a contract's `format`, its columns, remarks for the reader."""

    format: dict[str, Any]
    columns: tuple[Column, ...]
    remarks: tuple[str, ...] = field(default=())


def read_sample(path: Path, sheet: str | None = None) -> Sample:
    """Recognise the file by its content, never by its name. Raises UsageError if it cannot be."""
    if not path.is_file():
        raise UsageError(f"{path}: no such sample file")
    with path.open("rb") as stream:
        data = stream.read(BYTES)
    remarks: list[str] = []
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as stream:
                data = stream.read(BYTES)
        except (OSError, EOFError):
            raise UsageError(f"{path}: the gzip archive is damaged; get the sample anew") from None
        remarks.append("the sample is compressed with gzip")
    if not data.strip():
        raise UsageError(f"{path}: the sample is empty; give one with rows")
    if data[:4] == b"PAR1":
        sample = _parquet(path)
    elif data[:4] == b"PK\x03\x04":
        sample = _excel(path, sheet)
    else:
        text, encoding = _decode(data)
        start = text.lstrip()[:1]
        if start == "<":
            sample = _xml(path, text)
        elif start == "{":
            sample = _json_lines(path, text)
        else:
            sample = _delimited(text, encoding) or _fixed_width(path, text, encoding)
    if not sample.columns or not sample.columns[0].values:
        raise UsageError(f"{path}: the sample has no rows; give one with rows")
    sources = [column.source for column in sample.columns]
    again = [str(i + 1) for i, source in enumerate(sources) if source in sources[:i]]
    if again:
        raise UsageError(
            f"{path}: columns {', '.join(again)} repeat the name of another; columns are found "
            "by name, so have the agency name each differently"
        )
    return Sample(sample.format, sample.columns, (*remarks, *sample.remarks))


def _decode(data: bytes) -> tuple[str, str]:
    """The text up to the last whole line read, and its encoding."""
    if len(data) == BYTES:
        data = data[: data.rfind(b"\n") + 1]
    for encoding, codec in (("utf-8", "utf-8-sig"), ("windows-1252", "cp1252")):
        try:
            return data.decode(codec), encoding
        except UnicodeDecodeError:
            continue
    return data.decode("iso-8859-1"), "iso-8859-1"


def _columns(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> tuple[Column, ...]:
    names = list(header)
    table = [list(row) for row in rows]
    return tuple(
        Column(name, tuple(_text(row[i] if i < len(row) else None) for row in table))
        for i, name in enumerate(names)
    )


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        midnight = (value.hour, value.minute, value.second) == (0, 0, 0)
        return (
            value.date().isoformat() if midnight else value.isoformat(sep=" ", timespec="seconds")
        )
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value).strip() or None


# --- text ----------------------------------------------------------------------------------------


def _delimited(text: str, encoding: str) -> Sample | None:
    """As CSV with the delimiter that splits most rows into the header's number of fields."""
    best: tuple[float, int, str, list[list[str]]] | None = None
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            rows = [row for row, _ in zip(reader, range(ROWS + 1), strict=False) if row]
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 0
        if width < 2 or len(rows) < 2:
            continue
        even = sum(len(row) == width for row in rows) / len(rows)
        if even > 0.8 and (best is None or (even, width) > best[:2]):
            best = (even, width, delimiter, rows)
    if best is None:
        return None
    even, _, delimiter, rows = best
    form: dict[str, Any] = {"kind": "csv", "encoding": encoding}
    if delimiter != ",":
        form["delimiter"] = delimiter
    if any("\n" in value for row in rows for value in row):
        form["quoted_newlines"] = True
    remarks = [] if even == 1 else [f"{1 - even:.1%} of the sample's rows are torn"]
    if not _is_header(rows[0]):
        remarks.append("the first line may hold data, not names: deliveries need a header line")
        header = [f"column_{i + 1}" for i in range(len(rows[0]))]  # never a value as a name
        return Sample(form, _columns(header, rows), tuple(remarks))
    return Sample(form, _columns(rows[0], rows[1:]), tuple(remarks))


def _is_header(names: list[str]) -> bool:
    """Whether the first line holds column names: they must not be values of the first person."""
    full = [name.strip() for name in names if name.strip()]
    if any("@" in name or re.search(r"\d{4}-\d\d-\d\d|\d/\d\d/\d|\d{7}", name) for name in full):
        return False
    mostly_digits = sum(sum(c.isdigit() for c in name) > len(name) / 2 for name in full)
    people = sum(name.upper() in known_names() for name in full)
    return mostly_digits < max(2, len(full) / 3) and people < max(2, len(full) / 4)


@lru_cache(maxsize=1)
def known_names() -> frozenset[str]:
    """The commonest given and family names of the 1990 census, in capitals (package `names`)."""
    found: set[str] = set()
    for part, count in (("all.last", 3000), ("male.first", 400), ("female.first", 600)):
        text = resources.files("names").joinpath(f"dist.{part}").read_text("utf-8")
        found |= {line.split()[0] for line in text.splitlines()[:count]}
    return frozenset(found)


def _fixed_width(path: Path, text: str, encoding: str) -> Sample:
    """Lines of equal length, cut where every line has a blank."""
    lines = [line for line in text.splitlines() if line.strip()][:ROWS]
    lengths = Counter(len(line) for line in lines)
    length, often = lengths.most_common(1)[0]
    if len(lines) < 3 or often < 0.9 * len(lines) or length < 2:
        raise UsageError(
            f"{path}: neither delimited nor fixed width: no delimiter of "
            f"{' '.join(repr(d) for d in DELIMITERS)} fits and lines differ in length; "
            "write the contract by hand from docs/contracts.md"
        )
    detail = [line for line in lines[1:-1] if len(line) == length]
    prefix = _record_type(lines[0], lines[-1], os.path.commonprefix(detail))
    blank = [i < len(prefix) or all(line[i] == " " for line in detail) for i in range(length)]
    spans, start = [], None
    for i in range(length + 1):
        inside = i < length and not blank[i]
        if inside and start is None:
            start = i
        elif not inside and start is not None:
            spans.append((start, i))
            start = None
    columns = tuple(
        Column(f"field_{n}", tuple(_text(line[a:b]) for line in detail), None, (a + 1, b - a))
        for n, (a, b) in enumerate(spans, 1)
    )
    form = {"kind": "fixed_width", "encoding": encoding, "record_length": length}
    if prefix:
        form["detail_prefix"] = prefix
    return Sample(
        form,
        columns,
        (
            "fields were cut where every line of the sample has a blank: fields that touch are "
            "one here; set names and positions by the agency's record layout",
            "the first and last lines were taken for header and trailer; declare them in format",
        ),
    )


def _record_type(first: str, last: str, shared: str) -> str:
    """The letters of a record type, such as D for detail; none where nothing tells them from data.

    `shared` is what all lines between begin with. A header and a trailer have a type of the same
    length and another one; where they have not, letters in common are a coincidence of names.
    """
    others = [found[0] for line in (first, last) if (found := re.match(r"[A-Z]+", line))]
    if len(others) < 2:
        return ""
    length = min(3, *map(len, others))
    kind = shared[:length]
    different = kind not in {other[:length] for other in others}
    return kind if kind.isalpha() and kind.isupper() and different else ""


def _json_lines(path: Path, text: str) -> Sample:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(
                f"{path}:{number}: not JSON Lines, one object a line: {error.msg}"
            ) from None
        rows.append(row)
        if len(rows) == ROWS:
            break
    names = list(dict.fromkeys(key for row in rows for key in row))
    nested = [n for n in names if any(isinstance(row.get(n), (dict, list)) for row in rows)]
    remarks = [f"{name!r} is nested; it is drafted as text" for name in nested]
    columns = _columns(names, ([row.get(name) for name in names] for row in rows))
    return Sample({"kind": "json_lines"}, columns, tuple(remarks))


def _xml(path: Path, text: str) -> Sample:
    try:
        # A sample that the operator chose, and expat refuses deep entity expansion.
        root = ElementTree.fromstring(text.encode("utf-8"))  # noqa: S314  # the operator's own file
    except (ElementTree.ParseError, ValueError) as error:
        raise UsageError(f"{path}: not well-formed XML: {error}") from None
    tags = Counter(element.tag for element in root.iter() if len(element) and element is not root)
    if not tags:
        raise UsageError(f"{path}: the XML has no repeated element with children to be the rows")
    # The row is the outermost of the most frequent elements.
    most = max(tags.values())
    tag = next(e.tag for e in root.iter() if e is not root and tags.get(e.tag) == most)
    rows = [dict(_leaves(element)) for element in root.iter(tag)][:ROWS]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = _columns(names, ([row.get(name) for name in names] for row in rows))
    return Sample({"kind": "xml", "row_tag": tag}, columns)


def _leaves(element: ElementTree.Element, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for child in element:
        if len(child):
            yield from _leaves(child, f"{prefix}{child.tag}.")
        else:
            yield f"{prefix}{child.tag}", child.text


# --- binary --------------------------------------------------------------------------------------


def _excel(path: Path, sheet: str | None) -> Sample:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        workbook = CalamineWorkbook.from_path(path)
    except CalamineError as error:
        raise UsageError(f"{path}: not a workbook: {error}") from None
    names = workbook.sheet_names
    if sheet is not None and sheet not in names:
        raise UsageError(f"{path}: no sheet {sheet!r}; it has {', '.join(names)}")
    chosen = sheet or names[0]
    rows = workbook.get_sheet_by_name(chosen).to_python(skip_empty_area=False)
    widest = max((sum(cell != "" for cell in row) for row in rows), default=0)
    at = next((i for i, row in enumerate(rows) if sum(c != "" for c in row) == widest), 0)
    header = [str(cell).strip() for cell in rows[at] if cell != ""] if rows else []
    offset = next((i for i, cell in enumerate(rows[at]) if cell != ""), 0) if rows else 0
    body = (row[offset:] for row in rows[at + 1 : at + 1 + ROWS] if any(c != "" for c in row))
    form: dict[str, Any] = {"kind": "excel", "sheet": chosen}
    if at:
        form["header_row"] = at + 1
    others = [name for name in names if name != chosen]
    remarks = [f"the workbook has other sheets: {', '.join(others)}"] if others else []
    return Sample(form, _columns(header, body), tuple(remarks))


def _parquet(path: Path) -> Sample:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        pa.int8(): "int",
        pa.int16(): "int",
        pa.int32(): "int",
        pa.int64(): "bigint",
        pa.float32(): "double",
        pa.float64(): "double",
        pa.bool_(): "boolean",
        pa.date32(): "date",
        pa.string(): "string",
        pa.large_string(): "string",
    }
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=ROWS), None)
    except pa.ArrowException as error:
        raise UsageError(f"{path}: not readable as Parquet: {error}") from None
    if batch is None:
        raise UsageError(f"{path}: the sample has no rows; give one with rows")
    columns = []
    for name in batch.schema.names:
        kind = batch.schema.field(name).type
        declared = types.get(kind)
        if pa.types.is_decimal(kind):
            declared = f"decimal({kind.precision},{kind.scale})"
        elif pa.types.is_timestamp(kind):
            declared = "timestamp"
        values = tuple(_text(value) for value in batch.column(name).to_pylist())
        columns.append(Column(name, values, declared or "string"))
    return Sample({"kind": "parquet"}, tuple(columns))
