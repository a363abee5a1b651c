"""All that a file says, whatever it is packed in: to search it for what must not be there.

A byte search of compressed files finds nothing, and proves nothing: each kind of file is opened
first.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# 1 for the bytes of hexadecimal digits, small as they are written here, 0 for all others.
IS_DIGIT = bytes(byte in b"0123456789abcdef" for byte in range(256))
EIGHT_DIGITS = 0x0101010101010101

# A member of an archive inside an archive inside ... : deeper than this is an error, not a pass.
DEPTH = 6


def texts(content: bytes, name: str, depth: int = 0) -> Iterator[str]:
    """All that a file says, the packed as well as the plain. Raises ValueError where it cannot."""
    if depth > DEPTH:
        raise ValueError(f"{name}: packed more than {DEPTH} times")
    for begins, unpack in PACKED.items():
        if content.startswith(begins):
            for inner, inside in unpack(content):
                yield from texts(inside, f"{name}!{inner}", depth + 1)
            break
    if content.startswith(b"PAR1"):
        yield from _parquet(content)
    elif content.startswith(b"SQLite format 3\0"):
        yield from _sqlite(content)
    elif content.startswith(b"ARROW1"):
        yield from _values(pa.ipc.open_file(pa.BufferReader(content)).read_all())
    # What is left of a binary file is looked at as it stands: names inside pickles and models.
    yield content.decode("utf-8", "ignore")
    if content.count(0) > len(content) // 4:
        yield content.decode("utf-16-le", "ignore")


def digit_runs(content: bytes, least: int) -> Iterator[bytes]:
    """Every run of `least` (15 or more) hexadecimal digits in a file's bytes, as long as it goes.

    By eight bytes at once: a regular expression takes ten times as long, and a lake has many bytes.
    """
    # Wherever a run begins, so many whole eights in a row are its.
    in_a_row = (least - 7) // 8
    digits = content.translate(IS_DIGIT) + bytes(8 - len(content) % 8)
    eights = np.frombuffer(digits, dtype=np.uint64) == EIGHT_DIGITS
    full = eights[: len(eights) - in_a_row + 1].copy()
    for further in range(1, in_a_row):
        full &= eights[further : further + len(full)]
    end = 0
    for place in np.flatnonzero(full).tolist():
        if (at := place * 8) < end:
            continue
        start, end = digits.rfind(0, 0, at) + 1, digits.find(0, at)
        if end - start >= least:
            yield content[start:end]


def _zip(content: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.namelist():
            yield member, archive.read(member)


def _tar(content: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield member.name, stream.read()


def _one(open_up: Callable[[bytes], bytes]) -> Callable[[bytes], Iterator[tuple[str, bytes]]]:
    def unpack(content: bytes) -> Iterator[tuple[str, bytes]]:
        inside = open_up(content)
        if inside[257:262] == b"ustar":
            yield from _tar(inside)
        else:
            yield "content", inside

    return unpack


def _zstd(content: bytes) -> bytes:
    return bytes(pa.CompressedInputStream(pa.BufferReader(content), "zstd").read())


# By the first bytes, not by a file's name.
PACKED: dict[bytes, Callable[[bytes], Iterator[tuple[str, bytes]]]] = {
    b"PK\x03\x04": _zip,
    b"\x1f\x8b": _one(gzip.decompress),
    b"BZh": _one(bz2.decompress),
    b"\xfd7zXZ\x00": _one(lzma.decompress),
    b"\x28\xb5\x2f\xfd": _one(_zstd),
}


def _parquet(content: bytes) -> Iterator[str]:
    """Values, nested ones too, and what the footer keeps: minimum and maximum, key-value pairs."""
    file = pq.ParquetFile(io.BytesIO(content))
    yield from _values(file.read())
    yield str(file.schema_arrow.metadata)
    for group in range(file.metadata.num_row_groups):
        for column in range(file.metadata.num_columns):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                yield f"{statistics.min} {statistics.max}"


def _values(table: pa.Table) -> Iterator[str]:
    for column in table.columns:
        distinct = column.unique() if not pa.types.is_nested(column.type) else column
        yield "\n".join(str(value) for value in distinct.to_pylist())


def _sqlite(content: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(suffix=".db") as copy:
        copy.write(content)
        copy.flush()
        database = sqlite3.connect(copy.name)
        try:
            yield "\n".join(database.iterdump())
        finally:
            database.close()
