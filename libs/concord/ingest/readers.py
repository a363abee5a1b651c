"""Files of every format as rows of text.

Each reader gives one row per data row with
`_file` (name in the manifest), `_block` and `_index` (which order the rows of a file),
`_raw` (the row as delivered), `_malformed` (why the row does not fit its format, or NULL) and one
string column per field of the contract. Nothing is typed here: a bad value is text like any other.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from concord.contracts.model import (
    Csv,
    Excel,
    FixedWidth,
    JsonLines,
    Parquet,
    Table,
    Xml,
)
from concord.errors import DeliveryError
from concord.lake import sql

# A byte-order mark, as Spark's text reader leaves it at the start of the first line.
BOM = "\ufeff"
CORRUPT = "_corrupt"
# What every reader gives beside the fields.
PLACED = ("_file", "_block", "_index", "_raw", "_malformed")
UNFIT = "the row has not the header's number of fields"
# These two say that the file, not the row, is wrong: they reject the delivery.
ENCODING = "the bytes are not text of the declared encoding"
DRIFT = "the contract does not know: "
# Where windows-1252 differs from ISO-8859-1: bytes 0x80-0x9f. Five of them mean nothing.
_HIGH = [bytes([code]).decode("windows-1252", "replace") for code in range(0x80, 0xA0)]
CP1252_FROM = "".join(chr(0x80 + i) for i, char in enumerate(_HIGH) if char != "\ufffd")
CP1252_TO = "".join(char for char in _HIGH if char != "\ufffd")
CP1252_UNDEFINED = "".join(chr(0x80 + i) for i, char in enumerate(_HIGH) if char == "\ufffd")


# Names, each with the names below it.
Tree: TypeAlias = "dict[str, Tree]"


@dataclass(frozen=True)
class SourceFile:
    """A delivered file: the name in the manifest and where its archived copy stands.

    `header` is the first line's column names, for formats that have them.
    """

    name: str
    path: str
    header: tuple[str, ...] = ()
    header_line: str = ""


def read(spark: SparkSession, table: Table, files: Sequence[SourceFile]) -> DataFrame:
    """The rows of a table's files."""
    match table.format:
        case Csv(quoted_newlines=True):
            rows = _csv_with_newlines(spark, table, table.format, files)
        case Csv():
            rows = _csv(spark, table, table.format, files)
        case FixedWidth():
            rows = _fixed_width(spark, table, table.format, files)
        case JsonLines():
            rows = _json_lines(spark, table, files)
        case Xml():
            rows = _xml(spark, table, table.format, files)
        case Excel():
            rows = _excel(spark, table, table.format, files)
        case Parquet():
            rows = _parquet(spark, table, files)
    return rows


def standard_columns(table: Table) -> list[str]:
    """The columns that every reader gives, in order."""
    return [*PLACED, *(field.name for field in table.fields)]


# --- delimited text ------------------------------------------------------------------------------


def header_fields(first_line: str, csv_format: Csv) -> tuple[str, ...]:
    """The column names of a header line."""
    reader = csv.reader(
        io.StringIO(first_line),
        delimiter=csv_format.delimiter,
        quotechar=csv_format.quote or None,
        quoting=csv.QUOTE_MINIMAL if csv_format.quote else csv.QUOTE_NONE,
    )
    return tuple(name.strip() for name in next(reader, []))


def decode_bytes(content: bytes, encoding: str) -> str:
    """Text of a file's first bytes; the last character may be cut."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)(
        "strict"
    )
    return decoder.decode(content)


def _csv(
    spark: SparkSession, table: Table, csv_format: Csv, files: Sequence[SourceFile]
) -> DataFrame:
    parts = []
    for header, group in _by_header(files).items():
        lines = text_lines(spark, group, csv_format.encoding)
        heads = sorted({file.header_line for file in group})
        names = [f"c{i}" for i in range(len(header))]
        schema = ", ".join(f"{name} string" for name in [*names, CORRUPT])
        options = sql.mapped(_options(csv_format).items())
        rows = lines.where(
            f"NOT (_block = 0 AND _raw IN ({sql.listed(heads)})) AND _raw != ''"
        ).selectExpr("*", f"from_csv(_raw, {sql.literal(schema)}, {options}) AS _row")
        place = {column: f"_row.c{i}" for i, column in enumerate(header)}
        unfit = _or_malformed(f"_row.{CORRUPT} IS NOT NULL", UNFIT)
        parts.append(_named(rows, table, place, unfit))
    return _union(parts)


def _csv_with_newlines(
    spark: SparkSession, table: Table, csv_format: Csv, files: Sequence[SourceFile]
) -> DataFrame:
    parts = []
    for header, group in _by_header(files).items():
        names = [f"c{i}" for i in range(len(header))]
        schema = StructType([StructField(name, StringType()) for name in [*names, CORRUPT]])
        options = {
            **_options(csv_format),
            "multiLine": "true",
            "header": "true",
            "enforceSchema": "true",  # the header was checked against the contract before
            "encoding": "ISO-8859-1"
            if csv_format.encoding == "windows-1252"
            else csv_format.encoding,
        }
        rows = spark.read.schema(schema).options(**options).csv([file.path for file in group])
        separated = f"map('sep', {sql.literal(csv_format.delimiter)})"
        whole = f"coalesce({CORRUPT}, to_csv(struct({', '.join(names)}), {separated}))"
        unfit = f"CASE WHEN {CORRUPT} IS NOT NULL THEN {sql.literal(UNFIT)} END"
        moved = "{}"
        if csv_format.encoding == "windows-1252":
            moved = f"translate({{}}, {sql.literal(CP1252_FROM)}, {sql.literal(CP1252_TO)})"
        rows = rows.selectExpr("*", *_place(group), f"{moved.format(whole)} AS _raw")
        place = {column: moved.format(f"c{i}") for i, column in enumerate(header)}
        parts.append(_named(rows, table, place, unfit))
    return _union(parts)


def _options(csv_format: Csv) -> dict[str, str]:
    return {
        "sep": csv_format.delimiter,
        "quote": csv_format.quote,
        "escape": csv_format.escape,
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": CORRUPT,
        "ignoreLeadingWhiteSpace": "false",
        "ignoreTrailingWhiteSpace": "false",
        "maxColumns": "20480",
        "maxCharsPerColumn": "-1",
    }


def _by_header(files: Sequence[SourceFile]) -> dict[tuple[str, ...], list[SourceFile]]:
    groups: dict[tuple[str, ...], list[SourceFile]] = {}
    for file in files:
        groups.setdefault(file.header, []).append(file)
    return groups


# --- fixed width, JSON lines ---------------------------------------------------------------------


def _fixed_width(
    spark: SparkSession, table: Table, fixed: FixedWidth, files: Sequence[SourceFile]
) -> DataFrame:
    lines = text_lines(spark, files, fixed.encoding).where("_raw != ''")
    for layout in (fixed.header, fixed.trailer):
        if layout:
            lines = lines.where(f"NOT startswith(_raw, {sql.literal(layout.prefix)})")
    fits = f"length(_raw) = {fixed.record_length}"
    kind = f"not a detail record of {fixed.record_length} characters"
    if fixed.detail_prefix:
        fits += f" AND startswith(_raw, {sql.literal(fixed.detail_prefix)})"
        kind += f" that begins with {fixed.detail_prefix!r}"
    return lines.selectExpr(
        "_file", "_block", "_index", "_raw",
        f"{_or_malformed(f'NOT ({fits})', kind)} AS _malformed",
        *[
            f"trim(substring(_raw, {start}, {length})) AS {sql.name(field.name)}"
            for field in table.fields
            if field.position is not None
            for start, length in [field.position]
        ],
    )  # fmt: skip


def _json_lines(spark: SparkSession, table: Table, files: Sequence[SourceFile]) -> DataFrame:
    lines = text_lines(spark, files, "utf-8").where("trim(_raw) != ''")
    schema = _nested_schema([field.source for field in table.fields], corrupt=CORRUPT)
    options = {
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": CORRUPT,
        "primitivesAsString": "true",
    }
    tops = sorted({field.source.split(".")[0] for field in table.fields})
    extra = f"array_except(json_object_keys(_raw), array({sql.listed(tops)}))"
    drift = (
        f"CASE WHEN size({extra}) > 0 "
        f"THEN concat({sql.literal(DRIFT)}, array_join({extra}, ', ')) END"
    )
    unfit = _or_malformed(f"_row.{CORRUPT} IS NOT NULL", "not a JSON object")
    rows = lines.select("*", F.from_json("_raw", schema, options).alias("_row"))
    place = {field.source: f"_row.{_ticks(field.source)}" for field in table.fields}
    return _named(rows, table, place, f"coalesce({unfit}, {drift})")


# --- XML, Excel, Parquet -------------------------------------------------------------------------


def _xml(spark: SparkSession, table: Table, xml: Xml, files: Sequence[SourceFile]) -> DataFrame:
    schema = _nested_schema([field.source for field in table.fields], corrupt=CORRUPT)
    rows = (
        spark.read.format("xml")
        .schema(schema)
        .options(rowTag=xml.row_tag, mode="PERMISSIVE", columnNameOfCorruptRecord=CORRUPT)
        .load([file.path for file in files])
    )
    tops = list(dict.fromkeys(field.source.split(".")[0] for field in table.fields))
    whole = f"to_json(struct({', '.join(map(sql.name, tops))}))"
    rows = rows.selectExpr("*", *_place(files), f"coalesce({CORRUPT}, {whole}) AS _raw")
    unfit = f"CASE WHEN {CORRUPT} IS NOT NULL THEN 'not well-formed XML' END"
    return _named(rows, table, {f.source: _ticks(f.source) for f in table.fields}, unfit)


def xml_elements(spark: SparkSession, xml: Xml, files: Sequence[SourceFile]) -> tuple[str, ...]:
    """Dotted names of all leaf elements that rows of the files have."""
    # Their names are asked for: to guess the type of each value takes twice as long.
    reader = spark.read.format("xml").options(rowTag=xml.row_tag, inferSchema="false")
    return tuple(_leaves(reader.load([file.path for file in files]).schema))


def _excel(
    spark: SparkSession, table: Table, excel: Excel, files: Sequence[SourceFile]
) -> DataFrame:
    fields = [field.name for field in table.fields]
    schema = StructType([StructField(name, StringType()) for name in ("_file", "_raw", *fields)])
    records = []
    for file in files:
        rows = workbook_rows(spark, excel, file)
        header = [str(cell).strip() for cell in rows[0]]
        place = {name: index for index, name in enumerate(header)}
        for row in rows[1:]:
            cells = [_cell(value) for value in row]
            if not any(cells):
                continue
            values = [cells[place[f.source]] if f.source in place else None for f in table.fields]
            records.append((file.name, "\t".join(cell or "" for cell in cells), *values))
    frame = spark.createDataFrame(records, schema)
    return frame.selectExpr(
        "_file",
        "0L AS _block",
        "monotonically_increasing_id() AS _index",
        "_raw",
        "cast(NULL AS string) AS _malformed",
        *map(sql.name, fields),
    )


def workbook_rows(spark: SparkSession, excel: Excel, file: SourceFile) -> list[list[object]]:
    """The sheet's rows from its header on. Raises DeliveryError for merged cells, more sheets."""
    from python_calamine import CalamineError, CalamineWorkbook

    from concord.lake.storage import Storage

    content = Storage(spark).read(file.path)
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheets = book.sheet_names
        if excel.sheet not in sheets:
            raise DeliveryError([f"{file.name}: has no sheet {excel.sheet!r}; it has {sheets}"])
        others = [
            name for name in sheets if name != excel.sheet and book.get_sheet_by_name(name).height
        ]
        if others:
            raise DeliveryError(
                [f"{file.name}: has further sheets with data, {others}; deliver one sheet a table"]
            )
        sheet = book.get_sheet_by_name(excel.sheet)
        if sheet.merged_cell_ranges:
            raise DeliveryError([f"{file.name}: has merged cells; deliver one value a cell"])
        rows = sheet.to_python(skip_empty_area=False)
    except CalamineError:
        raise DeliveryError([f"{file.name}: is not a readable Excel workbook"]) from None
    return [list(row) for row in rows[excel.header_row - 1 :]]


def _cell(value: object) -> str | None:
    """A cell as the text a person sees: whole numbers without a decimal point, ISO dates."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def _parquet(spark: SparkSession, table: Table, files: Sequence[SourceFile]) -> DataFrame:
    rows = spark.read.parquet(*[file.path for file in files])
    columns = list(rows.columns)
    rows = rows.selectExpr(
        "*",
        *_place(files),
        f"to_json(struct({', '.join(map(sql.name, columns))})) AS _raw",
    )
    return _named(rows, table, {column: sql.name(column) for column in columns}, "NULL")


def parquet_columns(spark: SparkSession, file: SourceFile) -> tuple[str, ...]:
    """The file's column names."""
    return tuple(spark.read.parquet(file.path).columns)


# --- what the readers share ----------------------------------------------------------------------


def text_lines(spark: SparkSession, files: Sequence[SourceFile], encoding: str) -> DataFrame:
    """Lines of text files, decoded: `_file`, `_block`, `_index`, `_raw`, `_malformed`."""
    lines = spark.read.text([file.path for file in files])
    return lines.selectExpr(
        *_place(files),
        f"{decoded('value', encoding)} AS _raw",
        f"CASE WHEN {undecodable('value', encoding)} THEN {sql.literal(ENCODING)} END "
        "AS _malformed",
    )


def _or_malformed(condition: str, message: str) -> str:
    """Why a row is malformed: what the line already is, else `message` if the condition holds."""
    return f"coalesce(_malformed, CASE WHEN {condition} THEN {sql.literal(message)} END)"


def decoded(column: str, encoding: str) -> str:
    """SQL: the text of a column that holds a line's raw bytes.

    Spark decodes only a few charsets; windows-1252 is ISO-8859-1 with 27 characters moved.
    """
    one_byte = f"decode(cast({column} AS binary), 'ISO-8859-1')"
    if encoding == "windows-1252":
        return f"translate({one_byte}, {sql.literal(CP1252_FROM)}, {sql.literal(CP1252_TO)})"
    if encoding == "iso-8859-1":
        return one_byte
    return f"regexp_replace({column}, {sql.literal(f'^{BOM}')}, '')"


def undecodable(column: str, encoding: str) -> str:
    """SQL: whether a line's raw bytes are not text of the declared encoding.

    Text of a one-byte encoding is never wrong by its bytes alone, but bytes beyond ASCII that are
    valid UTF-8 practically never are windows-1252 by intention.
    """
    ascii_only = f"octet_length({column}) = length({column})"
    valid = f"is_valid_utf8({column})"
    if encoding == "utf-8":
        return f"NOT {valid}"
    if encoding == "us-ascii":
        return f"NOT ({valid} AND {ascii_only})"
    looks_utf8 = f"{valid} AND NOT {ascii_only}"
    if encoding != "windows-1252":
        return looks_utf8
    one_byte = decoded(column, "iso-8859-1")
    defined = f"translate({one_byte}, {sql.literal(CP1252_UNDEFINED)}, '')"
    return f"({looks_utf8}) OR length({one_byte}) != length({defined})"


def has_undecodable(spark: SparkSession, files: Sequence[SourceFile], encoding: str) -> list[str]:
    """Names of the files with such a line; for formats whose readers do not see raw lines."""
    lines = spark.read.text([file.path for file in files]).selectExpr("value", *_place(files))
    bad = lines.where(undecodable("value", encoding)).select("_file").distinct().collect()
    return sorted(row["_file"] for row in bad)


def _place(files: Sequence[SourceFile]) -> list[str]:
    """SQL: `_file`, and `_block` and `_index`, which order a file's rows without a shuffle.

    A row's number is counted from them later, where one is needed (`FileCount.offsets`).
    """
    names = sql.mapped((file.path.rsplit("/", 1)[-1], file.name) for file in files)
    return [
        f"{names}[_metadata.file_name] AS _file",
        "_metadata.file_block_start AS _block",
        "monotonically_increasing_id() AS _index",
    ]


def _named(rows: DataFrame, table: Table, place: Mapping[str, str], malformed: str) -> DataFrame:
    """The standard columns, in SQL each field from where its source column stands, or NULL."""
    fields = [
        f"cast({place.get(field.source, 'NULL')} AS string) AS {sql.name(field.name)}"
        for field in table.fields
    ]
    known = [column for column in PLACED if column != "_malformed"]
    return rows.selectExpr(*known, f"cast({malformed} AS string) AS _malformed", *fields)


def _union(parts: Sequence[DataFrame]) -> DataFrame:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.unionByName(part)
    return whole


def _nested_schema(paths: Sequence[str], *, corrupt: str) -> StructType:
    """A schema of strings with the given dotted paths."""
    tree: Tree = {}
    for path in paths:
        node = tree
        for step in path.split("."):
            node = node.setdefault(step, {})

    def build(node: Tree) -> StructType:
        return StructType(
            [
                StructField(name, build(child) if child else StringType())
                for name, child in node.items()
            ]
        )

    schema = build(tree)
    schema.add(StructField(corrupt, StringType()))
    return schema


def _leaves(schema: StructType, prefix: str = "") -> list[str]:
    names: list[str] = []
    for field in schema.fields:
        if isinstance(field.dataType, StructType):
            names.extend(_leaves(field.dataType, f"{prefix}{field.name}."))
        else:
            names.append(prefix + field.name)
    return names


def _ticks(path: str) -> str:
    return ".".join(map(sql.name, path.split(".")))


def implied(text: str, decimals: int) -> Decimal | None:
    """A number written without its decimal point, as fixed-width files do; None when it is none."""
    try:
        return Decimal(text).scaleb(-decimals)
    except InvalidOperation:
        return None
