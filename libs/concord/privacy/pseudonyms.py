"""Pseudonyms: what stands in a study in place of person ids and record ids.

Each agreement has a key of its own, so no pseudonym of one study says anything about another's.
A pseudonym begins with the version of the key that made it: `1-` and 32 hex digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pyspark.sql import Column
from pyspark.sql import functions as F

from concord.privacy.hashing import keyed_hash
from concord.privacy.records import SEPARATOR


class StudyKey(Protocol):
    """An agreement's key, as it travels to a worker."""

    @property
    def version(self) -> int: ...

    def fetch(self) -> bytes: ...


def person(key: StudyKey, *, domain: str = "") -> Callable[[Column, Column], Column]:
    """A column function: (person id, record id) → the person's pseudonym.

    HMAC-SHA-256 of the person id under the agreement's key, 128 bits, hex. A record that the
    index knows no person for counts as a person of its own: the pseudonym of its record id, which
    no person id can give. NULL when there is no record. Pseudonyms of two domains do not match.
    """
    hashed = keyed_hash(key, prefix(domain), tag=tag(key.version))

    def of(person_id: Column, record_id: Column) -> Column:
        alone = F.concat(F.lit(f"record{SEPARATOR}"), record_id)
        return hashed(F.when(record_id.isNotNull(), F.coalesce(person_id, alone)))

    return of


def entity(key: StudyKey, role: str, *, domain: str = "") -> Callable[[Column], Column]:
    """A column function: record id of a case or household → its pseudonym, NULL stays NULL."""
    start = f"{prefix(domain)}entity{SEPARATOR}{role}{SEPARATOR}"
    return keyed_hash(key, start, tag=tag(key.version))


def row_number(key: StudyKey, table: str, column: str) -> Callable[[Column], Column]:
    """A column function: an agency's number of a row → its pseudonym, NULL stays NULL.

    Left as it is, it would join two studies row by row.
    """
    start = f"number{SEPARATOR}{table}{SEPARATOR}{column}{SEPARATOR}"
    return keyed_hash(key, start, tag=tag(key.version))


def prefix(domain: str) -> str:
    """What is hashed before an id of a linkage domain."""
    return f"domain{SEPARATOR}{domain}{SEPARATOR}" if domain else ""


def tag(version: int) -> str:
    """What stands before the digits of a pseudonym."""
    return f"{version}-"
