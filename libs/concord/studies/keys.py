"""Which key a study is made with: the version that the lake names, proved to be the same key."""

from __future__ import annotations

from concord.errors import ConfigError, UsageError
from concord.lake.storage import join
from concord.lake.tables import Lake
from concord.privacy.wrapping import WrappedKey, agreement_key, key_check
from concord.settings import Keys

# Of each agreement, the version of its key and an HMAC of a fixed text under it: another lake's
# key is refused before it is used.
KEY_CHECKS = "vault/_study_key_check"


def study_key(lake: Lake, keys: Keys, agreement: str, *, create: bool = False) -> WrappedKey:
    """The key of the agreement's study; with `create`, made for its first one.

    Raises UsageError when there is no study, ConfigError for a key that is not the one that the
    study was made with, and as `WrappedKey.fetch` does.
    """
    said = _said(lake, agreement)
    if said is None:
        if not create:
            raise UsageError(f"{agreement} has no study yet: run concord study first")
        key = agreement_key(keys, agreement, create=True)
        lake.storage.put_if_absent(_place(lake, agreement), _line(key))
        said = _said(lake, agreement) or _line(key).decode()
    version, check = said.split()
    key = agreement_key(keys, agreement, version=int(version))
    if check != key_check(key):
        raise ConfigError(
            [
                f"keys: the key of {agreement} is not the one that its study was made with. "
                "Restore the right one, or name the lake that this one belongs to"
            ]
        )
    return key


def has_key(lake: Lake, agreement: str) -> bool:
    """Whether a study was ever made under the agreement."""
    return _said(lake, agreement) is not None


def turn_to(lake: Lake, key: WrappedKey) -> None:
    """From now on the agreement's study is made with this version of its key."""
    lake.storage.write(_place(lake, key.name), _line(key))


def _said(lake: Lake, agreement: str) -> str | None:
    place = _place(lake, agreement)
    return lake.storage.read(place).decode() if lake.storage.exists(place) else None


def _place(lake: Lake, agreement: str) -> str:
    return lake.path(join(KEY_CHECKS, agreement))


def _line(key: WrappedKey) -> bytes:
    return f"{key.version} {key_check(key)}".encode()
