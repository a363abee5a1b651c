"""The one text of an agreement's terms, and its digest: what a signature covers."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785

from concord.settings import Typed


def canonical(terms: Typed) -> bytes:
    """The terms as canonical JSON (RFC 8785), UTF-8.

    Values left at their defaults are no part of it, so that a later version of Concord that knows
    more kinds of terms gives the same text for an old agreement.
    """
    return rfc8785.dumps(terms.model_dump(mode="json", exclude_defaults=True))


def digest(terms: Typed) -> str:
    """SHA-256, 64 hex digits, of the canonical text."""
    return hashlib.sha256(canonical(terms)).hexdigest()


def digest_of(content: Any) -> str:
    """SHA-256, 64 hex digits, of JSON values (text, whole numbers, booleans, lists, maps) as
    canonical JSON."""
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()
