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

from pyspark.sql import Column, DataFrame, SparkSession
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

# A byte-order mark, as Spark's text reader leaves it at the start of the first line.
BOM = "\ufeff"
CORRUPT = "_corrupt"
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
    return ["_file", "_block", "_index", "_raw", "_malformed", *(f.name for f in table.fields)]


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
        is_header = (F.col("_block") == 0) & F.col("_raw").isin(heads)
        names = [f"c{i}" for i in range(len(header))]
        schema = ", ".join(f"{name} string" for name in [*names, CORRUPT])
        parsed = F.from_csv("_raw", schema, _options(csv_format))
        rows = (
            lines.where(~is_header & (F.col("_raw") != ""))
            .withColumn("_row", parsed)
            .withColumn("_malformed", _or_malformed(F.col(f"_row.{CORRUPT}").isNotNull(), UNFIT))
        )
        place = {column: f"_row.c{i}" for i, column in enumerate(header)}
        parts.append(_named(rows, table, place))
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
        whole = F.to_csv(F.struct(*names), {"sep": csv_format.delimiter})
        rows = (
            _with_place(rows, group)
            .withColumn("_raw", F.coalesce(F.col(CORRUPT), whole))
            .withColumn("_malformed", F.when(F.col(CORRUPT).isNotNull(), F.lit(UNFIT)))
        )
        if csv_format.encoding == "windows-1252":
            for name in [*names, "_raw"]:
                rows = rows.withColumn(name, F.translate(name, CP1252_FROM, CP1252_TO))
        place = {column: f"c{i}" for i, column in enumerate(header)}
        parts.append(_named(rows, table, place))
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
    lines = text_lines(spark, files, fixed.encoding).where(F.col("_raw") != "")
    for layout in (fixed.header, fixed.trailer):
        if layout:
            lines = lines.where(~F.col("_raw").startswith(layout.prefix))
    fits = F.length("_raw") == fixed.record_length
    known = F.col("_raw").startswith(fixed.detail_prefix) if fixed.detail_prefix else F.lit(True)
    rows = lines.withColumn(
        "_malformed",
        _or_malformed(
            ~(fits & known),
            f"not a detail record of {fixed.record_length} characters"
            + (f" that begins with {fixed.detail_prefix!r}" if fixed.detail_prefix else ""),
        ),
    )
    for field in table.fields:
        if field.position is not None:
            start, length = field.position
            rows = rows.withColumn(f"_{field.name}", F.trim(F.substring("_raw", start, length)))
    return rows.select(
        "_file",
        "_block",
        "_index",
        "_raw",
        "_malformed",
        *[F.col(f"_{field.name}").alias(field.name) for field in table.fields],
    )


def _json_lines(spark: SparkSession, table: Table, files: Sequence[SourceFile]) -> DataFrame:
    lines = text_lines(spark, files, "utf-8").where(F.trim("_raw") != "")
    schema = _nested_schema([field.source for field in table.fields], corrupt=CORRUPT)
    options = {
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": CORRUPT,
        "primitivesAsString": "true",
    }
    tops = sorted({field.source.split(".")[0] for field in table.fields})
    known = F.array(*[F.lit(name) for name in tops])
    extra = F.array_except(F.json_object_keys("_raw"), known)
    drift = F.when(F.size(extra) > 0, F.concat(F.lit(DRIFT), F.array_join(extra, ", ")))
    rows = lines.withColumn("_row", F.from_json("_raw", schema, options)).withColumn(
        "_malformed",
        F.coalesce(_or_malformed(F.col(f"_row.{CORRUPT}").isNotNull(), "not a JSON object"), drift),
    )
    return _named(rows, table, {f.source: f"_row.{_ticks(f.source)}" for f in table.fields})


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
    rows = (
        _with_place(rows, files)
        .withColumn("_raw", F.coalesce(F.col(CORRUPT), F.to_json(F.struct(*tops))))
        .withColumn("_malformed", F.when(F.col(CORRUPT).isNotNull(), F.lit("not well-formed XML")))
    )
    return _named(rows, table, {f.source: _ticks(f.source) for f in table.fields})


def xml_elements(spark: SparkSession, xml: Xml, files: Sequence[SourceFile]) -> tuple[str, ...]:
    """Dotted names of all leaf elements that rows of the files have."""
    reader = spark.read.format("xml").option("rowTag", xml.row_tag)
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
    return frame.select(
        "_file",
        F.lit(0).cast("bigint").alias("_block"),
        F.monotonically_increasing_id().alias("_index"),
        "_raw",
        F.lit(None).cast("string").alias("_malformed"),
        *fields,
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
    rows = _with_place(rows, files)
    rows = rows.withColumn("_raw", F.to_json(F.struct(*[F.col(_ticks(c)) for c in columns])))
    rows = rows.withColumn("_malformed", F.lit(None).cast("string"))
    have = {column: f"`{column}`" for column in columns}
    return _named(rows, table, have)


def parquet_columns(spark: SparkSession, file: SourceFile) -> tuple[str, ...]:
    """The file's column names."""
    return tuple(spark.read.parquet(file.path).columns)


# --- what the readers share ----------------------------------------------------------------------


def text_lines(spark: SparkSession, files: Sequence[SourceFile], encoding: str) -> DataFrame:
    """Lines of text files, decoded: `_file`, `_block`, `_index`, `_raw`, `_malformed`."""
    lines = spark.read.text([file.path for file in files])
    return _with_place(lines, files).select(
        "_file",
        "_block",
        "_index",
        decoded("value", encoding).alias("_raw"),
        F.when(undecodable("value", encoding), F.lit(ENCODING)).alias("_malformed"),
    )


def _or_malformed(condition: Column, message: str) -> Column:
    """Why a row is malformed: what the line already is, else `message` if the condition holds."""
    return F.coalesce(F.col("_malformed"), F.when(condition, F.lit(message)))


def decoded(column: str, encoding: str) -> Column:
    """Text of a column that holds a line's raw bytes.

    Spark decodes only a few charsets; windows-1252 is ISO-8859-1 with 27 characters moved.
    """
    raw = F.col(column).cast("binary")
    if encoding == "windows-1252":
        return F.translate(F.decode(raw, "ISO-8859-1"), CP1252_FROM, CP1252_TO)
    if encoding == "iso-8859-1":
        return F.decode(raw, "ISO-8859-1")
    return F.regexp_replace(column, f"^{BOM}", "")


def undecodable(column: str, encoding: str) -> Column:
    """Whether a line's raw bytes are not text of the declared encoding.

    Text of a one-byte encoding is never wrong by its bytes alone, but bytes beyond ASCII that are
    valid UTF-8 practically never are windows-1252 by intention.
    """
    ascii_only = F.octet_length(column) == F.length(column)
    valid = F.is_valid_utf8(column)
    if encoding == "utf-8":
        return ~valid
    if encoding == "us-ascii":
        return ~(valid & ascii_only)
    one_byte = F.decode(F.col(column).cast("binary"), "ISO-8859-1")
    undefined = F.length(one_byte) != F.length(F.translate(one_byte, CP1252_UNDEFINED, ""))
    looks_utf8 = valid & ~ascii_only
    return looks_utf8 | undefined if encoding == "windows-1252" else looks_utf8


def has_undecodable(spark: SparkSession, files: Sequence[SourceFile], encoding: str) -> list[str]:
    """Names of the files with such a line; for formats whose readers do not see raw lines."""
    lines = _with_place(spark.read.text([file.path for file in files]), files)
    bad = lines.where(undecodable("value", encoding)).select("_file").distinct().collect()
    return sorted(row["_file"] for row in bad)


def _with_place(rows: DataFrame, files: Sequence[SourceFile]) -> DataFrame:
    """Adds `_file`, and `_block` and `_index`, which order a file's rows without a shuffle.

    A row's number is counted from them later, where one is needed (`FileCount.offsets`).
    """
    names = F.create_map(
        *[F.lit(x) for file in files for x in (file.path.rsplit("/", 1)[-1], file.name)]
    )
    return rows.select(
        "*",
        names[F.col("_metadata.file_name")].alias("_file"),
        F.col("_metadata.file_block_start").alias("_block"),
        F.monotonically_increasing_id().alias("_index"),
    )


def _named(rows: DataFrame, table: Table, place: Mapping[str, str]) -> DataFrame:
    """The standard columns, each field taken from where its source column stands, or NULL."""
    fields = [
        (
            F.col(place[field.source]).cast("string")
            if field.source in place
            else F.lit(None).cast("string")
        ).alias(field.name)
        for field in table.fields
    ]
    return rows.select("_file", "_block", "_index", "_raw", "_malformed", *fields)


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
    return ".".join(f"`{step}`" for step in path.split("."))


def implied(text: str, decimals: int) -> Decimal | None:
    """A number written without its decimal point, as fixed-width files do; None when it is none."""
    try:
        return Decimal(text).scaleb(-decimals)
    except InvalidOperation:
        return None
