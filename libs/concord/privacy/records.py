"""Record ids: keyed hashes of source keys, stable across deliveries."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from concord.privacy.keys import KeySource

# Separates the parts of a message so that ("ab", "c") and ("a", "bc") differ.
SEPARATOR = "\x1f"
RECORD_ID_HEX = 32


def record_id(key: KeySource, *, feed: str, role: str) -> Callable[[Column], Column]:
    """A column function: source key text → record id, 32 hex digits; NULL stays NULL.

    HMAC-SHA-256 (RFC 2104) over feed, role and source key, cut to 128 bits. Keyed, because a
    plain hash of a key made from an SSN can be enumerated.
    """
    prefix = f"{feed}{SEPARATOR}{role}{SEPARATOR}".encode()

    def hash_batch(values: pa.Array) -> pa.Array:
        secret = key.fetch()
        encoded = values.dictionary_encode() if not pa.types.is_dictionary(values.type) else values
        hashed = [
            None
            if source is None
            else hmac.digest(secret, prefix + source.encode(), "sha256").hex()[:RECORD_ID_HEX]
            for source in encoded.dictionary.to_pylist()
        ]
        return pa.array(hashed, pa.string()).take(encoded.indices)

    # pyspark 4.2 has arrow_udf but its type stubs do not name it.
    return F.arrow_udf(hash_batch, returnType=StringType())  # type: ignore[attr-defined]


def source_key(columns: list[Column]) -> Column:
    """The text of a source key from its columns; NULL when one of them is."""
    texts = [column.cast("string") for column in columns]
    whole = F.concat_ws(SEPARATOR, *texts)
    missing = texts[0].isNull()
    for text in texts[1:]:
        missing = missing | text.isNull()
    return F.when(~missing, whole)
