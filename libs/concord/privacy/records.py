"""Record ids, keyed hashes of source keys, stable across deliveries; and person ids to mint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyspark.sql import Column

from concord.lake import sql
from concord.privacy.hashing import Key, digest, keyed_hash

# Separates the parts of a message so that ("ab", "c") and ("a", "bc") differ.
SEPARATOR = "\x1f"


def record_id(key: Key, *, feed: str, role: str) -> Callable[[Column], Column]:
    """A column function: source key text → record id, 32 hex digits; NULL stays NULL.

    HMAC-SHA-256 (RFC 2104) over feed, role and source key, cut to 128 bits. Keyed, because a
    plain hash of a key made from an SSN can be enumerated.
    """
    return keyed_hash(key, f"{feed}{SEPARATOR}{role}{SEPARATOR}")


def record_ids(key: Key, *, feed: str, role: str, source_keys: Sequence[str]) -> list[str]:
    """The record ids of source keys, outside any query: what `record_id` computes on a worker."""
    secret, prefix = key.fetch(), f"{feed}{SEPARATOR}{role}{SEPARATOR}".encode()
    return [digest(secret, prefix + source.encode()) for source in source_keys]


def person_id(key: Key, *, run_id: str, record_id: str, attempt: int = 0) -> str:
    """A person id to mint: HMAC of run and founding record, 128 bits, hex.

    A run that is repeated mints the same. `attempt` is for an id that was minted before, which
    happens when a run id is given twice: an id is never used again.
    """
    parts = [run_id, record_id, *([str(attempt)] if attempt else [])]
    message = SEPARATOR.join(["person", *parts]).encode()
    return digest(key.fetch(), message)


def person_ids(key: Key, *, run_id: str, record_ids: Sequence[str]) -> list[str]:
    """As `person_id`, of many founding records at once."""
    secret, prefix = key.fetch(), SEPARATOR.join(["person", run_id, ""]).encode()
    return [digest(secret, prefix + record.encode()) for record in record_ids]


def source_key(columns: Sequence[str]) -> str:
    """SQL: the text of a source key from its columns; NULL when one of them is."""
    texts = [f"cast({sql.name(column)} AS string)" for column in columns]
    given = " AND ".join(f"{text} IS NOT NULL" for text in texts)
    whole = f"concat_ws({sql.literal(SEPARATOR)}, {', '.join(texts)})"
    return f"CASE WHEN {given} THEN {whole} END"
