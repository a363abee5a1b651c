"""Positive controls: a made-up token in each kind of file, which a search has to find."""

from __future__ import annotations

import gzip
import io
import json
import secrets
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def controls() -> Iterator[tuple[str, bytes, str]]:
    """Kind, content, and the token that the content holds."""
    for kind, make in _KINDS.items():
        token = secrets.token_hex(16)
        yield kind, make(token), token


def _parquet(compression: str, token: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": [token, "other"]}), sink, compression=compression)
    return sink.getvalue()


def _zip(token: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", f"key\n{token}\n" * 50)
    return sink.getvalue()


def _arrow(token: str) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"key": [token]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _sqlite(token: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "store.db"
        database = sqlite3.connect(place)
        database.execute("CREATE TABLE params (value TEXT)")
        database.execute("INSERT INTO params VALUES (?)", (token,))
        database.commit()
        database.close()
        return place.read_bytes()


_KINDS = {
    "Delta log (JSON)": lambda token: json.dumps({"add": {"stats": token}}).encode(),
    "Parquet, snappy": lambda token: _parquet("snappy", token),
    "Parquet, zstd": lambda token: _parquet("zstd", token),
    "gzip": lambda token: gzip.compress(token.encode() * 3 + b"\n" + token.encode()),
    "zip": _zip,
    "Arrow": _arrow,
    "SQLite": _sqlite,
}
