"""Keys that exist only wrapped: each agreement's own, and the hub's where a platform keeps keys.

A key that was derived could be made again, so destroying it would prove nothing. A random one
that exists only wrapped is gone when its wrapper is gone, or when the key that wraps it is. The
name and the key's version are the associated data, so that a wrapper put in another's place does
not open.
"""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from concord.errors import ConfigError
from concord.privacy.key_files import KEY_BYTES, erase_file, make_key_file
from concord.privacy.providers import CannotDisable, DoesNotOpen, provider_of
from concord.settings import Keys

FIRST_VERSION = 1


@dataclass(frozen=True)
class WrappedKey:
    """A key as it travels to a worker: wrapped, with where to have it opened.

    `name` is the agreement, or the hub's own name of the key; `place` the wrapper's file, for
    messages alone.
    """

    name: str
    version: int
    wrapped: str
    keys: Keys
    place: str

    def fetch(self) -> bytes:
        """The key, 32 bytes, in the memory of the process that asks, which asks once.

        Raises ConfigError when what wraps it is missing, is another one, or when the wrapper was
        made for another name or version; RefusedError while the key is disabled;
        InfrastructureError when the provider does not answer.
        """
        return _unwrap(self)

    def __repr__(self) -> str:
        return f"WrappedKey({self.name}, version {self.version}, {self.place})"


def agreement_key(
    keys: Keys, agreement: str, *, version: int = FIRST_VERSION, create: bool = False
) -> WrappedKey:
    """The agreement's key. With `create`, a missing one is made: a new agreement's first study.

    An agreement whose study was made must never get another key under the same version, for every
    pseudonym would change. Raises as `fetch` does, saying what to restore.
    """
    return _key(keys, "agreements", agreement, version, create=create)


def hub_key(keys: Keys, name: str, *, create: bool = False) -> WrappedKey:
    """One of the hub's own keys, where the provider is a platform's."""
    return _key(keys, "hub", name, FIRST_VERSION, create=create)


def versions(keys: Keys, agreement: str) -> list[int]:
    """The versions of the agreement's key that there are."""
    return sorted(_wrappers(keys, agreement))


def disable(keys: Keys, agreement: str) -> bool:
    """Until it is enabled, no process opens the agreement's key that has not opened it before.
    False when the provider cannot (environment): then the agreement's state alone refuses."""
    _unwrap.cache_clear()
    try:
        provider_of(keys).disable(agreement)
    except CannotDisable:
        return False
    return True


def enable(keys: Keys, agreement: str) -> None:
    """Undoes `disable`."""
    provider_of(keys).enable(agreement)


def erase(keys: Keys, agreement: str, version: int) -> None:
    """Removes one version's wrapper: what a rotation left behind."""
    place = _wrappers(keys, agreement).get(version)
    if place is not None:
        erase_file(place)
    _unwrap.cache_clear()


def destroy(keys: Keys, agreement: str) -> str:
    """Destroys what wraps the agreement's keys and removes the wrappers, their bytes written over:
    its pseudonyms can never be made again nor taken back. Returns what the provider says of it. A
    process that has the key in its memory keeps it until it ends."""
    said = provider_of(keys).destroy(agreement)
    for version in versions(keys, agreement):
        erase(keys, agreement, version)
    return said


def key_check(key: WrappedKey) -> str:
    """Tells whether two keys are the same and nothing else of them: an HMAC of a fixed text."""
    return hmac.digest(key.fetch(), b"concord agreement key", "sha256").hex()[:32]


def _key(keys: Keys, kind: str, name: str, version: int, *, create: bool) -> WrappedKey:
    place = _folder(keys) / kind / f"{name}.v{version}.json"
    if create and not place.exists():
        sealed = provider_of(keys).wrap(
            name, secrets.token_bytes(KEY_BYTES), _associated(name, version)
        )
        content = {"name": name, "version": version, "wrapped": sealed}
        make_key_file(place, json.dumps(content, indent=2).encode())
    found = WrappedKey(name, version, _read(place), keys, str(place))
    found.fetch()
    return found


def _folder(keys: Keys) -> Path:
    if keys.path is None:
        raise ConfigError(["keys.path: say in which folder the wrapped keys are kept"])
    return keys.path.resolve()


def _wrappers(keys: Keys, agreement: str) -> dict[int, Path]:
    """The file of each version."""
    if keys.path is None:
        return {}
    places = (_folder(keys) / "agreements").glob(f"{agreement}.v*.json")
    return {int(place.stem.rpartition(".v")[2]): place for place in places}


def _read(place: Path) -> str:
    if not place.exists():
        raise ConfigError(
            [
                f"wrapped key {place} is missing; restore it from its backup. If it was destroyed "
                "on purpose, the agreement has ended: its study cannot be made again"
            ]
        )
    if place.stat().st_mode & 0o077:
        raise ConfigError([f"wrapped key {place} can be read by others; chmod 600 it"])
    try:
        wrapped = json.loads(place.read_text())["wrapped"]
    except (ValueError, KeyError, TypeError):
        wrapped = None
    if not isinstance(wrapped, str):
        raise ConfigError([f"{place} is no wrapped key; restore it from its backup"])
    return wrapped


@lru_cache(maxsize=64)
def _unwrap(key: WrappedKey) -> bytes:
    try:
        return provider_of(key.keys).unwrap(
            key.name, key.wrapped, _associated(key.name, key.version)
        )
    except DoesNotOpen:
        raise ConfigError(
            [
                f"{key.place} does not open: it was wrapped for another name or version, or by "
                "another wrapping key. Restore the wrapper and wrapping key that belong together"
            ]
        ) from None


def _associated(name: str, version: int) -> bytes:
    return json.dumps([name, version], separators=(",", ":")).encode()
