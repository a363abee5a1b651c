"""The agreements' own keys: random, each kept only wrapped by the key-encrypting key.

A key that was derived could be made again, so destroying it would prove nothing. A random one
that exists only wrapped is gone when its wrapper is gone, or when the wrapping key is. Wrapped
with AES-256-GCM (NIST SP 800-38D); agreement and key version are the associated data, so that a
wrapper put in another's place does not open.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from concord.errors import ConfigError
from concord.privacy.keys import KEY_BYTES, KeySource, make_key_file
from concord.settings import Keys

NONCE_BYTES = 12
FIRST_VERSION = 1


@dataclass(frozen=True)
class AgreementKey:
    """One agreement's key as it travels to a worker: wrapped, with where the wrapping key is.

    `place` is the wrapper's file, for messages alone.
    """

    agreement: str
    version: int
    wrapped: bytes
    wrapping: KeySource
    place: str

    def fetch(self) -> bytes:
        """The key, 32 bytes, in the memory of the process that asks.

        Raises ConfigError when the wrapping key is missing, is another one, or when the wrapper
        was made for another agreement or version.
        """
        return _unwrap(self)

    def __repr__(self) -> str:
        return f"AgreementKey({self.agreement}, version {self.version}, {self.place})"


def agreement_key(
    keys: Keys, agreement: str, *, version: int = FIRST_VERSION, create: bool = False
) -> AgreementKey:
    """The agreement's key. With `create`, missing files are made: a new agreement's first study.

    An agreement whose study was made must never get a new key, for every pseudonym would change.
    Raises ConfigError saying what to restore.
    """
    if keys.path is None:
        raise ConfigError(["keys.path: say in which folder the agreements' wrapped keys are kept"])
    folder = keys.path.resolve()
    wrapping = _wrapping_key(keys, folder, create=create)
    place = folder / "agreements" / f"{agreement}.v{version}.json"
    if create and not place.exists():
        key = secrets.token_bytes(KEY_BYTES)
        make_key_file(place, _wrapped(key, wrapping.fetch(), agreement, version))
    found = AgreementKey(agreement, version, _read(place), wrapping, str(place))
    found.fetch()
    return found


def versions(keys: Keys, agreement: str) -> list[int]:
    """The versions of the agreement's key that there are."""
    return sorted(_wrappers(keys, agreement))


def _wrappers(keys: Keys, agreement: str) -> dict[int, Path]:
    """The file of each version."""
    if keys.path is None:
        return {}
    places = (keys.path.resolve() / "agreements").glob(f"{agreement}.v*.json")
    return {int(place.stem.rpartition(".v")[2]): place for place in places}


def destroy(keys: Keys, agreement: str) -> None:
    """Removes the wrappers of all versions, their bytes written over first: the agreement's
    pseudonyms can never be made again nor taken back. A process that has the key in its memory
    keeps it until it ends."""
    for place in _wrappers(keys, agreement).values():
        with place.open("r+b") as stream:
            stream.write(secrets.token_bytes(place.stat().st_size))
            stream.flush()
            os.fsync(stream.fileno())
        place.unlink()
    _unwrap.cache_clear()


def key_check(key: AgreementKey) -> str:
    """Tells whether two keys are the same and nothing else of them: an HMAC of a fixed text."""
    return hmac.digest(key.fetch(), b"concord agreement key", "sha256").hex()[:32]


def _wrapping_key(keys: Keys, folder: Path, *, create: bool) -> KeySource:
    if keys.provider == "environment":
        return KeySource("environment", keys.wrapping_variable)
    path = folder / "wrapping.key"
    # Made only while nothing is wrapped yet: a second one would open no wrapper of the first.
    if create and not path.exists() and not any(folder.glob("agreements/*.json")):
        make_key_file(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)))
    if not path.exists():
        raise ConfigError([f"wrapping key {path} is missing; restore it from its backup"])
    return KeySource("file", str(path))


def _wrapped(key: bytes, wrapping: bytes, agreement: str, version: int) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(wrapping).encrypt(nonce, key, _associated(agreement, version))
    content = {"agreement": agreement, "version": version, "nonce": nonce.hex()}
    return json.dumps({**content, "wrapped": sealed.hex()}, indent=2).encode()


def _read(place: Path) -> bytes:
    if not place.exists():
        raise ConfigError(
            [
                f"wrapped key {place} is missing; restore it from its backup. If it was destroyed "
                "on purpose, the agreement has ended: its study cannot be made again"
            ]
        )
    if place.stat().st_mode & 0o077:
        raise ConfigError([f"wrapped key {place} can be read by others; chmod 600 it"])
    return place.read_bytes()


@lru_cache(maxsize=64)
def _unwrap(key: AgreementKey) -> bytes:
    try:
        content = json.loads(key.wrapped)
        nonce, sealed = bytes.fromhex(content["nonce"]), bytes.fromhex(content["wrapped"])
        secret = AESGCM(key.wrapping.fetch()).decrypt(
            nonce, sealed, _associated(key.agreement, key.version)
        )
    except (ValueError, KeyError, TypeError):
        raise ConfigError([f"{key.place} is no wrapped key; restore it from its backup"]) from None
    except InvalidTag:
        raise ConfigError(
            [
                f"{key.place} does not open: it was wrapped for another agreement or version, or "
                "by another wrapping key. Restore the wrapper and wrapping key that belong together"
            ]
        ) from None
    return secret


def _associated(agreement: str, version: int) -> bytes:
    return json.dumps([agreement, version], separators=(",", ":")).encode()
