"""The search that must find nothing finds a planted word in every kind of file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.canary import words

NAME, NUMBER = "Quillfeather", "900-55-1234"
SAID = f"{NAME} {NUMBER}"


def parquet(*, nested: bool = False) -> bytes:
    sink = io.BytesIO()
    value = {"who": {"names": [SAID]}} if nested else SAID
    pq.write_table(pa.table({"column": [value] * 3}), sink, compression="zstd")
    return sink.getvalue()


def only_in_the_footer() -> bytes:
    """Statistics of a column that its reader does not show: what a byte search would miss too."""
    sink = io.BytesIO()
    table = pa.table({"n": [1]}).replace_schema_metadata({"said": SAID})
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def zipped(content: bytes, name: str = "inside") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def tarred(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        member = tarfile.TarInfo("inside")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def database(tmp_path: Path) -> bytes:
    place = tmp_path / "made.db"
    connection = sqlite3.connect(place)
    connection.execute("CREATE TABLE tags (value TEXT)")
    connection.execute("INSERT INTO tags VALUES (?)", (SAID,))
    connection.commit()
    connection.close()
    return place.read_bytes()


def arrow_file() -> bytes:
    sink = io.BytesIO()
    table = pa.table({"column": [SAID]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


PLAIN = SAID.encode()
KINDS: dict[str, Callable[[Path], bytes]] = {
    "text": lambda _: PLAIN,
    "Delta log": lambda _: json.dumps({"add": {"stats": json.dumps({"min": SAID})}}).encode(),
    "Parquet": lambda _: parquet(),
    "nested Parquet": lambda _: parquet(nested=True),
    "Parquet footer": lambda _: only_in_the_footer(),
    "gzip": lambda _: gzip.compress(PLAIN),
    "bzip2": lambda _: bz2.compress(PLAIN),
    "xz": lambda _: lzma.compress(PLAIN),
    "zstd": lambda _: zstd(PLAIN),
    "zip": lambda _: zipped(PLAIN),
    "tar": lambda _: tarred(PLAIN),
    "database": database,
    "Arrow": lambda _: arrow_file(),
    "pickle": lambda _: pickle.dumps({"who": SAID}),
    "UTF-16": lambda _: SAID.encode("utf-16"),
    "Parquet in a zip in a gzip": lambda _: gzip.compress(zipped(parquet())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_word_is_found(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "searched"
    folder.mkdir()
    (folder / "file").write_bytes(KINDS[kind](tmp_path))
    ((name, found),) = words(folder)
    assert name == "file"
    assert {NAME.lower(), NUMBER, NUMBER.replace("-", "")} <= found


def test_what_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    for place in ("vault", "vaulted"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "file").write_text(SAID)
    assert [name for name, _ in words(tmp_path, leave_out=("vault",))] == ["vaulted/file"]
