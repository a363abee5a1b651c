"""Whether a delivery is what its manifest says, before Spark reads a row of it.

Everything found wrong is collected; a delivery is rejected with all its reasons at once.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import PurePosixPath

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from concord.contracts.model import (
    Contract,
    Csv,
    Excel,
    FixedWidth,
    Parquet,
    RecordLayout,
    Table,
    Xml,
)
from concord.errors import DeliveryError
from concord.ingest import readers
from concord.ingest.manifest import (
    MANIFEST_NAMES,
    Found,
    Manifest,
    ManifestFile,
    delivery_id,
    is_period,
    parse,
    signature,
)
from concord.ingest.readers import SourceFile
from concord.lake.storage import Storage, join

HEADER_BYTES = 1 << 16
SUFFIX = re.compile(r"\.\w+", re.ASCII)


@dataclass(frozen=True)
class Opened:
    """A delivery whose folder was read: its identity, its manifest, and what is wrong so far."""

    found: Found
    delivery_id: str
    manifest: Manifest | None
    problems: tuple[str, ...] = ()

    @property
    def created_at(self) -> datetime | None:
        return self.manifest.created if self.manifest else None

    @property
    def sequence(self) -> int:
        return self.manifest.sequence if self.manifest else 0


def find(storage: Storage, landing: str, feed: str) -> list[Found]:
    """The folders below `<landing>/<feed>/`, by name."""
    folders = [entry for entry in storage.list(join(landing, feed)) if entry.is_folder]
    return [look(storage, feed, folder.path) for folder in folders]


def look(storage: Storage, feed: str, path: str) -> Found:
    """One folder's listing, nothing opened."""
    entries = storage.list(path)
    names = {entry.name for entry in entries}
    manifest = next((name for name in MANIFEST_NAMES if name in names), None)
    listing = [(e.name, e.bytes, e.modified) for e in entries if not e.is_folder]
    folder, size = path.rstrip("/").rsplit("/", 1)[-1], sum(e.bytes for e in entries)
    return Found(feed, folder, path, signature(listing), manifest, size)


def open_manifest(storage: Storage, found: Found) -> Manifest:
    """The folder's manifest. Raises DeliveryError when there is none or it cannot be read."""
    if found.manifest_name is None:
        raise DeliveryError(
            [f"{found.folder}: there is no manifest.json beside the files; see docs/deliveries.md"]
        )
    return parse(storage.read(join(found.path, found.manifest_name)), found.manifest_name)


def open_delivery(storage: Storage, found: Found, contract: Contract) -> Opened:
    """Reads the manifest and hashes every file it names; the delivery's identity and its faults."""
    try:
        manifest = open_manifest(storage, found)
    except DeliveryError as error:
        identity = hashlib.sha256(f"{found.feed}/{found.signature}".encode()).hexdigest()[:32]
        return Opened(found, identity, None, tuple(error.reasons))
    present = {entry.name: entry for entry in storage.list(found.path) if not entry.is_folder}
    problems = _against_contract(manifest, found, contract)
    actual: dict[str, str] = {}
    for file in manifest.files:
        entry = present.get(file.name)
        if entry is None:
            actual[file.name] = "missing"
            problems.append(f"{file.name}: the manifest names it but it is not in the folder")
            continue
        actual[file.name] = storage.sha256(entry.path)
        if entry.bytes != file.bytes:
            problems.append(f"{file.name}: has {entry.bytes} bytes, the manifest says {file.bytes}")
        if actual[file.name] != file.sha256:
            problems.append(
                f"{file.name}: its SHA-256 is {actual[file.name][:12]}…, the manifest says "
                f"{file.sha256[:12]}…; it changed after the manifest was made: send it again"
            )
        elif file.name.endswith(".gz") and not storage.gzip_is_whole(entry.path):
            problems.append(f"{file.name}: the gzip archive is cut short or damaged; send it again")
    listed = {file.name for file in manifest.files} | set(MANIFEST_NAMES)
    for name in sorted(set(present) - listed):
        problems.append(f"{name}: is in the folder but not in the manifest; list it or remove it")
    return Opened(found, delivery_id(manifest, actual), manifest, tuple(problems))


def _against_contract(manifest: Manifest, found: Found, contract: Contract) -> list[str]:
    problems = []
    if manifest.feed != found.feed:
        problems.append(
            f"the manifest is of feed {manifest.feed!r} but the folder lies under {found.feed!r}"
        )
    tables = {table.name: table for table in contract.tables}
    for file in manifest.files:
        if file.table not in tables:
            problems.append(
                f"{file.name}: table {file.table!r} is not in the contract; it has "
                f"{', '.join(sorted(tables))}"
            )
            continue
        if not is_period(file.period, contract.calendar):
            problems.append(
                f"{file.name}: period {file.period!r} is not a {contract.calendar} "
                "(see docs/deliveries.md)"
            )
        missing = set(tables[file.table].control_totals) - set(file.control_totals)
        if missing:
            problems.append(
                f"{file.name}: the manifest gives no control total of {', '.join(sorted(missing))}"
            )
    return problems


def archived_name(index: int, name: str) -> str:
    """The file's name in the archive: a number, and the suffixes that are words. Of all that an
    agency can type, Spark would take a bracket for a pattern and find no file."""
    suffixes = [each for each in PurePosixPath(name).suffixes[-2:] if SUFFIX.fullmatch(each)]
    return f"{index:05d}{''.join(suffixes)}"


def archive(storage: Storage, folder: str, opened: Opened) -> None:
    """Keeps the original bytes. What is loaded later is the archive, proved equal by hash."""
    if opened.manifest is None or opened.found.manifest_name is None:
        return
    for index, file in enumerate(opened.manifest.files):
        target = join(folder, archived_name(index, file.name))
        storage.copy(join(opened.found.path, file.name), target)
        if storage.sha256(target) != file.sha256:
            raise DeliveryError([f"{file.name}: it changed while it was being read; send it again"])
    storage.copy(
        join(opened.found.path, opened.found.manifest_name),
        join(folder, opened.found.manifest_name),
    )


def archived_manifest(storage: Storage, folder: str) -> Manifest:
    """The manifest of an archived delivery."""
    name = next(n for n in MANIFEST_NAMES if storage.exists(join(folder, n)))
    return parse(storage.read(join(folder, name)), name)


@dataclass
class Shape:
    """The files of one delivery by table, their shape compared with the contract."""

    files: dict[str, list[SourceFile]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    declared: dict[str, dict[str, int]] = field(default_factory=dict)


def shape(spark: SparkSession, folder: str, manifest: Manifest, contract: Contract) -> Shape:
    """Compares header, columns and trailer of every archived file with the contract."""
    storage = Storage(spark)
    result = Shape()
    for index, declared in enumerate(manifest.files):
        table = contract.table(declared.table)
        file = SourceFile(declared.name, join(folder, archived_name(index, declared.name)))
        if isinstance(table.format, Csv):
            file = _csv_header(storage, file, table, table.format, result.problems)
        elif isinstance(table.format, Excel):
            _excel_header(spark, file, table, table.format, result.problems)
        elif isinstance(table.format, Parquet):
            columns = readers.parquet_columns(spark, file)
            result.problems.extend(difference(declared.name, table, columns))
        result.files.setdefault(table.name, []).append(file)
    for name, files in result.files.items():
        table = contract.table(name)
        match table.format:
            case Csv(quoted_newlines=True) | Xml():
                for bad in readers.has_undecodable(spark, files, table.format.encoding):
                    result.problems.append(wrong_encoding(bad, table.format.encoding))
        if isinstance(table.format, Xml) and not result.problems:
            elements = readers.xml_elements(spark, table.format, files)
            known = {field.source for field in table.fields}
            extra = [
                e
                for e in elements
                if e not in known and e != readers.CORRUPT and e != "_corrupt_record"
            ]
            result.problems.extend(unknown_columns(files[0].name, extra))
        if isinstance(table.format, FixedWidth):
            _trailers(spark, files, table.format, manifest, result.problems)
    return result


def wrong_encoding(name: str, encoding: str) -> str:
    other = "windows-1252" if encoding == "utf-8" else "utf-8"
    return (
        f"{name}: the bytes are not {encoding} text. Ask the agency which encoding it uses; if it "
        f"changed for good, set `encoding: {other}` in the table's format in the contract"
    )


def difference(name: str, table: Table, columns: Sequence[str]) -> list[str]:
    """A file's columns against the contract's, column by column, and what would accept them."""
    wanted = [field.source for field in table.fields]
    if not set(wanted) & set(columns):
        # Perhaps a row of data: its values are not to be shown.
        return [
            f"{name}: none of the {len(columns)} names in its first row is a column of the "
            f"contract, which has {', '.join(wanted)}. Is the header missing? The agency sends "
            "the file again with its header"
        ]
    missing = [column for column in wanted if column not in columns]
    repeated = sorted({c for c in columns if list(columns).count(c) > 1})
    problems = [
        f"{name}: column {column!r} of the contract is missing. If the agency stopped sending it, "
        f"remove the property {column!r} from table {table.name} (breaks readers: a "
        "new major version)"
        for column in missing
    ]
    problems += unknown_columns(name, [column for column in columns if column not in wanted])
    problems += [f"{name}: column {column!r} stands there twice" for column in repeated]
    return problems


def unknown_columns(name: str, extra: Sequence[str]) -> list[str]:
    """What a file has that the contract does not, and what would accept it."""
    return [
        f"{name}: column {column!r} is not in the contract. To accept it, add a property with "
        f"`name: {column}`, its types, classification and identifierRole (new minor version)"
        for column in extra
    ]


def _csv_header(
    storage: Storage, file: SourceFile, table: Table, csv_format: Csv, problems: list[str]
) -> SourceFile:
    start = storage.read(file.path, HEADER_BYTES)
    if file.path.endswith(".gz"):
        start = zlib.decompressobj(wbits=31).decompress(start, HEADER_BYTES)
    first = start.splitlines()[0] if start else b""
    try:
        line = readers.decode_bytes(first, csv_format.encoding)
    except UnicodeDecodeError:
        problems.append(wrong_encoding(file.name, csv_format.encoding))
        return file
    header = readers.header_fields(line, csv_format)
    problems.extend(difference(file.name, table, header))
    return SourceFile(file.name, file.path, header, line)


def _excel_header(
    spark: SparkSession, file: SourceFile, table: Table, excel: Excel, problems: list[str]
) -> None:
    try:
        rows = readers.workbook_rows(spark, excel, file)
    except DeliveryError as error:
        problems.extend(error.reasons)
        return
    header = [str(cell).strip() for cell in rows[0]] if rows else []
    problems.extend(difference(file.name, table, [name for name in header if name]))


def _trailers(
    spark: SparkSession,
    files: Sequence[SourceFile],
    fixed: FixedWidth,
    manifest: Manifest,
    problems: list[str],
) -> None:
    """Header and trailer records: present once each, and equal to what the manifest declares."""
    declared = {file.name: file for file in manifest.files}
    prefixes = {
        kind: layout
        for kind, layout in (("header", fixed.header), ("trailer", fixed.trailer))
        if layout
    }
    if not prefixes:
        return
    is_one = F.lit(False)
    for layout in prefixes.values():
        is_one = is_one | F.col("_raw").startswith(layout.prefix)
    found = readers.text_lines(spark, files, fixed.encoding).where(is_one).collect()
    for file in files:
        lines = [row["_raw"] for row in found if row["_file"] == file.name]
        for kind, layout in prefixes.items():
            ours = [line for line in lines if line.startswith(layout.prefix)]
            if len(ours) != 1:
                problems.append(f"{file.name}: has {len(ours)} {kind} records, not one")
                continue
            said = declared[file.name]
            if layout.rows:
                start, length = layout.rows
                rows = ours[0][start - 1 : start - 1 + length].strip()
                if not rows.isdigit() or int(rows) != said.rows:
                    problems.append(
                        f"{file.name}: its {kind} record counts {rows or 'no'} rows, the manifest "
                        f"{said.rows}"
                    )
            problems.extend(_trailer_totals(ours[0], kind, layout, said))


def _trailer_totals(line: str, kind: str, layout: RecordLayout, said: ManifestFile) -> list[str]:
    problems = []
    for column, (start, length) in layout.totals.items():
        text = line[start - 1 : start - 1 + length].strip()
        total = readers.implied(text, layout.implied_decimals)
        wanted = said.control_totals.get(column)
        if wanted is not None and (total is None or total != Decimal(wanted)):
            problems.append(
                f"{said.name}: its {kind} record totals {column} to {total}, the manifest "
                f"to {wanted}"
            )
    return problems
