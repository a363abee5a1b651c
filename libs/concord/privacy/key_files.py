"""Keys that lie in a file or an environment variable: 32 bytes, in base64."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from concord.errors import ConfigError

KEY_BYTES = 32


@dataclass(frozen=True)
class KeySource:
    """How to fetch a key on any machine of the job: a description, never the key."""

    provider: str
    place: str

    def fetch(self) -> bytes:
        """The key, 32 bytes. Raises ConfigError saying what to set, never what it found."""
        return _fetch(self.provider, self.place)


def new_key_file(path: Path) -> None:
    """A file with a new random key. Raises FileExistsError when it is there."""
    make_key_file(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)))


def make_key_file(path: Path, content: bytes) -> None:
    """A new file that only its owner may read. Raises FileExistsError when it is there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def erase_file(path: Path) -> None:
    """Removes a file, its bytes written over first."""
    with path.open("r+b") as stream:
        stream.write(secrets.token_bytes(path.stat().st_size))
        stream.flush()
        os.fsync(stream.fileno())
    path.unlink()
    _fetch.cache_clear()


@lru_cache(maxsize=64)
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
