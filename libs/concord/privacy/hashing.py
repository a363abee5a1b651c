"""Keyed hashes as Spark columns: the key is fetched on the worker, inside the function."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

# 128 bits of HMAC-SHA-256, as hex digits.
HASH_HEX = 32


class Key(Protocol):
    """Where a key is found: something that can travel to a worker and does not hold the key."""

    def fetch(self) -> bytes: ...


def keyed_hash(key: Key, prefix: str = "", *, tag: str = "") -> Callable[[Column], Column]:
    """A column function: text → HMAC-SHA-256 (RFC 2104) of `prefix` and text; NULL stays NULL.

    `tag`, then 32 hex digits, the first 128 bits. `prefix` keeps hashes of different kinds apart.
    """
    start = prefix.encode()

    def hash_batch(values: pa.Array) -> pa.Array:
        begun = hmac.new(key.fetch(), start, "sha256")
        encoded = values.dictionary_encode() if not pa.types.is_dictionary(values.type) else values
        hashed = [_ended(begun, text, tag) for text in encoded.dictionary.to_pylist()]
        return pa.array(hashed, pa.string()).take(encoded.indices)

    return F.arrow_udf(hash_batch, returnType=StringType())  # type: ignore[attr-defined]  # no stub


def _ended(begun: hmac.HMAC, text: str | None, tag: str) -> str | None:
    if text is None:
        return None
    # A copy costs less than to begin again with the key.
    one = begun.copy()
    one.update(text.encode())
    return tag + one.hexdigest()[:HASH_HEX]


def digest(secret: bytes, message: bytes) -> str:
    """The same hash of one message, in plain Python."""
    return hmac.digest(secret, message, "sha256").hex()[:HASH_HEX]
