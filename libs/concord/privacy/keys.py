"""Where keys come from.

A key never enters a query plan (a literal would stand in `explain()` and in Spark's event log): it
is fetched by name inside the function that uses it, on the worker.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from concord.errors import ConfigError
from concord.settings import Keys

KEY_BYTES = 32


@dataclass(frozen=True)
class KeySource:
    """How to fetch a key on any machine of the job: a description, never the key."""

    provider: str
    place: str

    def fetch(self) -> bytes:
        """The key, 32 bytes. Raises ConfigError saying what to set, never what it found."""
        return _fetch(self.provider, self.place)


def vault_key(keys: Keys, *, create: bool = False) -> KeySource:
    """The vault's key, from which record ids are made.

    With `create`, a missing key file is made, readable by its owner alone: a new lake's first
    ingest. A lake that has records must never get a new key, for every record id would change.
    """
    return _source(keys, file="vault.key", variable=keys.variable, create=create)


def mint_key(keys: Keys, *, create: bool = False) -> KeySource:
    """The key with which person ids are minted.

    Ids are stored and never computed again: a lost key loses nothing, and `create` may make a new
    one at any time.
    """
    return _source(keys, file="mint.key", variable=keys.mint_variable, create=create)


def _source(keys: Keys, *, file: str, variable: str, create: bool) -> KeySource:
    if keys.provider == "environment":
        source = KeySource("environment", variable)
    else:
        if keys.path is None:
            raise ConfigError(["keys.path: say where the lake's keys are kept (file provider)"])
        path = keys.path.resolve() / file
        if create and not path.exists():
            make_key_file(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)))
        source = KeySource("file", str(path))
    source.fetch()
    return source


def make_key_file(path: Path, content: bytes) -> None:
    """A new file that only its owner may read. Raises FileExistsError when it is there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def fingerprint(key: KeySource) -> str:
    """Tells whether two keys are the same and nothing else of them: an HMAC of a fixed text."""
    return hmac.digest(key.fetch(), b"concord vault key", "sha256").hex()[:32]


@lru_cache(maxsize=8)
def _fetch(provider: str, place: str) -> bytes:
    if provider == "environment":
        text = os.environ.get(place, "")
        where = f"environment variable {place}"
    else:
        path = Path(place)
        where = f"key file {place}"
        if not path.exists():
            raise ConfigError([f"{where} is missing; restore it from its backup"])
        if path.stat().st_mode & 0o077:
            raise ConfigError([f"{where} can be read by others; chmod 600 it"])
        text = path.read_text()
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError([f"{where} must hold {KEY_BYTES} bytes in base64"])
    return key
