"""Plants one delivery fault into a written delivery folder, by work on files alone.

A fault changes what it names and nothing else: when a file's content is meant to be wrong, the
manifest is corrected to fit (hash, bytes, rows, totals), so that only that fault is to be found.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from concord.errors import UsageError
from concord.synthesis.formats import gzipped

Manifest = dict[str, Any]
BAD_ROW_SHARE = 0.004
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d\d/\d\d/\d{4}")
SHEET = "xl/worksheets/sheet1.xml"


def plant(delivery_folder: Path, fault: str, *, seed: int = 0) -> str:
    """Plant `fault`, a name of FAULTS, into a delivery; returns what was done, in words.

    Deterministic by `seed`. Raises UsageError when there is no such fault or the delivery's
    files do not lend themselves to it.
    """
    if fault not in FAULTS:
        raise UsageError(f"unknown fault {fault!r}; use one of {', '.join(FAULTS)}")
    planter = _PLANTERS[fault]
    return planter(delivery_folder, np.random.default_rng([seed, len(fault)]))


# --- the delivery as a whole ---------------------------------------------------------------------


def _resent_month(folder: Path, rng: np.random.Generator) -> str:
    """The same periods come again ten days later with a few rows fewer."""
    manifest = _manifest(folder)
    created = _created(manifest) + dt.timedelta(days=10)
    entry = _largest(folder, manifest, without_totals=True)
    path = _twin_folder(folder, manifest, created)
    again = _manifest(path)
    found = next(e for e in again["files"] if e["name"] == entry["name"])
    head, rows, tail = _rows(path / found["name"])
    gone = max(1, len(rows) // 200)
    dropped = set(rng.choice(len(rows), gone, replace=False).tolist())
    _write(path, again, found, head, [r for i, r in enumerate(rows) if i not in dropped], tail)
    _renumber(folder.parent)
    return f"{path.name}: {found['period']} comes again, {gone} rows of {found['name']} taken out"


def _same_file_twice(folder: Path, rng: np.random.Generator) -> str:
    """A byte for byte copy of the delivery, in a folder of another name."""
    copy = folder.with_name(folder.name + "-copy")
    shutil.copytree(folder, copy)
    return f"{copy.name}: a copy of {folder.name}"


def _late_file(folder: Path, rng: np.random.Generator) -> str:
    """The delivery comes forty days later, after newer periods."""
    manifest = _manifest(folder)
    created = _created(manifest) + dt.timedelta(days=40)
    manifest["created_at"] = f"{created:%Y-%m-%dT%H:%M:%SZ}"
    _save(folder, manifest)
    _renumber(folder.parent)
    return f"{folder.name}: comes 40 days later, on {created:%Y-%m-%d}"


def _withdrawn(folder: Path, rng: np.random.Generator) -> str:
    """A later manifest takes the delivery back."""
    manifest = _manifest(folder)
    created = _created(manifest) + dt.timedelta(days=5)
    path = folder.with_name(f"{created:%Y-%m-%d}-withdrawal-of-{manifest['sequence']:02d}")
    path.mkdir()
    later = max(_manifest(f)["sequence"] for f in folder.parent.iterdir() if _has_manifest(f)) + 1
    notice = {
        "feed": manifest["feed"],
        "sequence": later,
        "kind": "withdrawal",
        "withdraws": manifest["sequence"],
        "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        "files": [],
    }
    _save(path, notice)
    _renumber(folder.parent)
    return f"{path.name}: takes back {folder.name}"


def _no_manifest(folder: Path, rng: np.random.Generator) -> str:
    (folder / "manifest.json").unlink()
    return f"{folder.name}: the manifest is missing"


# --- manifest against files ----------------------------------------------------------------------


def _missing_file(folder: Path, rng: np.random.Generator) -> str:
    entry = _manifest(folder)["files"][-1]
    (folder / entry["name"]).unlink()
    return f"{entry['name']}: listed, but not there"


def _wrong_hash(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = manifest["files"][0]
    digit = "0" if entry["sha256"][0] != "0" else "1"
    entry["sha256"] = digit + entry["sha256"][1:]
    _save(folder, manifest)
    return f"{entry['name']}: another SHA-256 in the manifest"


def _wrong_row_count(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = manifest["files"][0]
    entry["rows"] += 1
    _save(folder, manifest)
    return f"{entry['name']}: one row more declared than it has"


def _cent_off(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = next((e for e in manifest["files"] if e.get("control_totals")), None)
    if entry is None:
        raise UsageError(f"{folder.name}: no file has control totals")
    column, total = next(iter(entry["control_totals"].items()))
    step = Decimal("0.01") if "." in total else Decimal(1)
    entry["control_totals"][column] = str(Decimal(total) + step)
    _save(folder, manifest)
    return f"{entry['name']}: the total of {column} is {step} too high in the manifest"


# --- the content of one file ---------------------------------------------------------------------


def _truncated_gzip(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = next((e for e in manifest["files"] if e["name"].endswith(".gz")), None)
    if entry is None:
        entry = _largest(folder, manifest)
        if not entry["name"].endswith((".csv", ".psv")):
            raise UsageError(f"{folder.name}: no file that could come as gzip")
        path = folder / entry["name"]
        data = gzipped(path.read_bytes())
        path.unlink()
        entry["name"] += ".gz"
    else:
        data = (folder / entry["name"]).read_bytes()
    _put(folder, manifest, entry, data[: len(data) * 2 // 3])
    return f"{entry['name']}: the gzip archive is cut off after two thirds"


def _wrong_header(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = manifest["files"][0]
    kind = _kind(entry["name"])
    renamed = {"name": ""}

    def change(text: str) -> str:
        if kind == "dat":
            renamed["name"] = "header record"
            return "X" + text[1:]
        if kind in ("csv", "psv"):
            line, _, rest = text.partition("\n")
            mark = "," if kind == "csv" else "|"
            names = line.split(mark)
            renamed["name"] = names[1]
            return mark.join([names[0], names[1] + "_NEW", *names[2:]]) + "\n" + rest
        if kind == "jsonl":
            name = list(json.loads(text.partition("\n")[0]))[1]
            renamed["name"] = name
            return text.replace(f'"{name}":', f'"{name}New":')
        if kind == "xlsx":
            name = re.findall(r"<t>([^<]*)</t>", text)[1]
            renamed["name"] = name
            return text.replace(f"<t>{name}</t>", f"<t>{name} (new)</t>", 1)
        name = re.findall(r"<(\w+)>[^<]", text)[0]
        renamed["name"] = name
        return text.replace(f"<{name}>", f"<{name}New>").replace(f"</{name}>", f"</{name}New>")

    _edit(folder, manifest, entry, change)
    return f"{entry['name']}: {renamed['name']} is called otherwise"


def _wrong_encoding(folder: Path, rng: np.random.Generator) -> str:
    """Windows-1252 where UTF-8 has letters beyond ASCII; a raw byte in ASCII; UTF-16 else."""
    manifest = _manifest(folder)
    entry = _largest(folder, manifest)
    kind = _kind(entry["name"])
    if kind == "xlsx":
        raise UsageError(f"{entry['name']}: a workbook has no text encoding")
    data = _content(folder / entry["name"])
    if kind == "dat":
        line = data.index(b"\n") + 1
        data = data[: line + 22] + b"\xe9" + data[line + 23 :]
        told = "a byte beyond ASCII"
    else:
        try:
            text = data.decode("utf-8")
            told = "windows-1252" if not text.isascii() else "UTF-16"
        except UnicodeDecodeError:
            text, told = data.decode("cp1252"), "UTF-16"
        data = text.encode("cp1252" if told == "windows-1252" else "utf-16", "replace")
    packed = gzipped(data) if entry["name"].endswith(".gz") else data
    _put(folder, manifest, entry, packed)
    return f"{entry['name']}: {told} instead of the contract's encoding"


def _extra_columns(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = _largest(folder, manifest)
    head, rows, tail = _rows(folder / entry["name"])
    chosen = _some(rows, rng)
    for i in chosen:
        rows[i] = _with_more(rows[i], _kind(entry["name"]))
    _write(folder, manifest, entry, head, rows, tail)
    return f"{entry['name']}: {len(chosen)} rows have a field more than the header"


def _schema_drift(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = _largest(folder, manifest)
    head, rows, tail = _rows(folder / entry["name"])
    kind = _kind(entry["name"])
    rows = [_with_more(row, kind) for row in rows]
    if kind in ("csv", "psv"):
        head = _with_more(head.rstrip("\n"), kind, "source_system") + "\n"
    elif kind == "xlsx":
        head = _with_more(head.rstrip("\n"), kind, "Source System") + "\n"
    _write(folder, manifest, entry, head, rows, tail)
    return f"{entry['name']}: a new column source_system"


def _impossible_dates(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    for entry in sorted(manifest["files"], key=lambda e: "control_totals" in e):
        head, rows, tail = _rows(folder / entry["name"])
        dated = [i for i, row in enumerate(rows) if len(DATE.findall(row)) > 1]
        if not dated:
            continue
        chosen = [dated[i] for i in _some(dated, rng)]
        for i in chosen:
            # The last date of a row: the first may be part of a key.
            last = list(DATE.finditer(rows[i]))[-1]
            form = "02/31/2024" if "/" in last.group() else "2024-02-31"
            rows[i] = rows[i][: last.start()] + form + rows[i][last.end() :]
        _write(folder, manifest, entry, head, rows, tail)
        return f"{entry['name']}: 31 February in {len(chosen)} rows"
    raise UsageError(f"{folder.name}: no file with dates")


def _duplicate_keys(folder: Path, rng: np.random.Generator) -> str:
    manifest = _manifest(folder)
    entry = _largest(folder, manifest, without_totals=True)
    if entry.get("control_totals"):
        raise UsageError(f"{folder.name}: every file has control totals, which would not hold")
    head, rows, tail = _rows(folder / entry["name"])
    chosen = _some(rows, rng)
    _write(folder, manifest, entry, head, rows + [rows[i] for i in chosen], tail)
    return f"{entry['name']}: {len(chosen)} rows stand twice"


_PLANTERS: dict[str, Callable[[Path, np.random.Generator], str]] = {
    "resent_month": _resent_month,
    "same_file_twice": _same_file_twice,
    "late_file": _late_file,
    "withdrawn": _withdrawn,
    "no_manifest": _no_manifest,
    "missing_file": _missing_file,
    "wrong_hash": _wrong_hash,
    "wrong_row_count": _wrong_row_count,
    "cent_off_control_total": _cent_off,
    "truncated_gzip": _truncated_gzip,
    "wrong_header": _wrong_header,
    "wrong_encoding": _wrong_encoding,
    "extra_columns": _extra_columns,
    "schema_drift": _schema_drift,
    "impossible_dates": _impossible_dates,
    "duplicate_keys": _duplicate_keys,
}
FAULTS: tuple[str, ...] = tuple(_PLANTERS)


# --- manifests and files -------------------------------------------------------------------------


def _manifest(folder: Path) -> Manifest:
    manifest: Manifest = json.loads((folder / "manifest.json").read_text())
    return manifest


def _has_manifest(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def _save(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _created(manifest: Manifest) -> dt.datetime:
    return dt.datetime.fromisoformat(manifest["created_at"].replace("Z", "+00:00"))


def _twin_folder(folder: Path, manifest: Manifest, created: dt.datetime) -> Path:
    path = folder.with_name(f"{created:%Y-%m-%d}-resent")
    shutil.copytree(folder, path)
    sequence = (
        max(_manifest(f)["sequence"] for f in folder.parent.iterdir() if _has_manifest(f)) + 1
    )
    made = {**manifest, "sequence": sequence, "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}"}
    _save(path, made)
    return path


def _renumber(feed_folder: Path) -> None:
    """Sequences follow the order of creation again; withdrawals keep meaning the same delivery."""
    found = [(f, _manifest(f)) for f in sorted(feed_folder.iterdir()) if _has_manifest(f)]
    found.sort(key=lambda pair: (pair[1]["created_at"], pair[1]["sequence"]))
    new: dict[int, int] = {}
    for _, manifest in found:
        new.setdefault(manifest["sequence"], len(new) + 1)
    for folder, manifest in found:
        changed = {**manifest, "sequence": new[manifest["sequence"]]}
        if "withdraws" in manifest:
            changed["withdraws"] = new[manifest["withdraws"]]
        if changed != manifest:
            _save(folder, changed)


def _largest(folder: Path, manifest: Manifest, without_totals: bool = False) -> dict[str, Any]:
    """The entry of the file with the most bytes, among those without totals if wanted and any."""
    entries = manifest["files"]
    if without_totals:
        entries = [e for e in entries if not e.get("control_totals")] or entries
    largest: dict[str, Any] = max(entries, key=lambda e: e["bytes"])
    return largest


def _kind(name: str) -> str:
    return name.removesuffix(".gz").rpartition(".")[2]


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        return gzip.decompress(data)
    if path.suffix == ".parquet":
        raise UsageError(
            f"{path.name}: Parquet holds no text to edit; take a fault of the manifest"
        )
    if path.suffix == ".xlsx":
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            return book.read(SHEET)
    return data


def _edit(
    folder: Path, manifest: Manifest, entry: dict[str, Any], change: Callable[[str], str]
) -> None:
    """Rewrite a file's text (a workbook's sheet) and correct its hash and size in the manifest."""
    path = folder / entry["name"]
    content = _content(path)
    try:
        encoding = "utf-8"
        text = content.decode(encoding)
    except UnicodeDecodeError:
        encoding = "cp1252"
        text = content.decode(encoding)
    data = change(text).encode(encoding)
    if path.name.endswith(".gz"):
        data = gzipped(data)
    elif path.suffix == ".xlsx":
        data = _with_sheet(path.read_bytes(), data)
    _put(folder, manifest, entry, data)


def _with_sheet(book: bytes, sheet: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info, sheet if info.filename == SHEET else old.read(info))
    return out.getvalue()


def _put(folder: Path, manifest: Manifest, entry: dict[str, Any], data: bytes) -> None:
    (folder / entry["name"]).write_bytes(data)
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    entry["bytes"] = len(data)
    _save(folder, manifest)


# --- rows as text --------------------------------------------------------------------------------


def _rows(path: Path) -> tuple[str, list[str], str]:
    """(what precedes the rows, the rows, what follows) of a file of any format."""
    data = _content(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
    kind = _kind(path.name)
    lines = text.split("\n")[:-1]
    if kind in ("csv", "psv"):
        records = _records(lines)
        return records[0] + "\n", records[1:], ""
    if kind == "dat":
        return lines[0] + "\n", lines[1:-1], lines[-1] + "\n"
    if kind == "xml":
        return "\n".join(lines[:2]) + "\n", lines[2:-1], lines[-1] + "\n"
    if kind == "xlsx":
        return "\n".join(lines[:3]) + "\n", lines[3:-1], lines[-1] + "\n"
    return "", lines, ""


def _records(lines: list[str]) -> list[str]:
    """Lines joined where a quoted field runs over several."""
    records: list[str] = []
    open_quotes = False
    for line in lines:
        if open_quotes:
            records[-1] += "\n" + line
        else:
            records.append(line)
        open_quotes ^= line.count('"') % 2 == 1
    return records


def _write(
    folder: Path, manifest: Manifest, entry: dict[str, Any], head: str, rows: list[str], tail: str
) -> None:
    entry["rows"] = len(rows)
    text = head + "".join(row + "\n" for row in rows) + tail
    _edit(folder, manifest, entry, lambda _: text)


def _some(rows: list[Any], rng: np.random.Generator) -> list[int]:
    count = max(1, int(len(rows) * BAD_ROW_SHARE))
    return sorted(rng.choice(len(rows), min(count, len(rows)), replace=False).tolist())


def _with_more(row: str, kind: str, value: str = "LEGACY") -> str:
    """The row with one field more than the contract knows."""
    if kind in ("csv", "psv"):
        return row + ("," if kind == "csv" else "|") + value
    if kind == "jsonl":
        return row[:-1] + f', "sourceSystem": "{value}"}}'
    if kind == "xml":
        start, _, end = row.rpartition("</")
        return f"{start}<sourceSystem>{value}</sourceSystem></{end}"
    if kind == "xlsx":
        return row.replace("</row>", f'<c t="inlineStr"><is><t>{value}</t></is></c></row>')
    return row + value
