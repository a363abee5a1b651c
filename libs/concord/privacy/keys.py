"""The hub's own keys: the vault's, from which record ids are made, and the one that mints.

A key never enters a query plan (a literal would stand in `explain()` and in Spark's event log): it
is fetched by name inside the function that uses it, on the worker.
"""

from __future__ import annotations

import hmac

from concord.errors import ConfigError
from concord.privacy.hashing import Key
from concord.privacy.key_files import KeySource, new_key_file
from concord.privacy.wrapping import hub_key
from concord.settings import Keys


def vault_key(keys: Keys, *, create: bool = False) -> Key:
    """The vault's key, from which record ids are made.

    With `create`, a missing key is made: a new lake's first ingest. A lake that has records must
    never get a new key, for every record id would change. Raises ConfigError saying what to set.
    """
    return _found(keys, "vault", keys.variable, create=create)


def mint_key(keys: Keys, *, create: bool = False) -> Key:
    """The key with which person ids are minted.

    Ids are stored and never computed again: a lost key loses nothing, and `create` may make a new
    one at any time.
    """
    return _found(keys, "mint", keys.mint_variable, create=create)


def fingerprint(key: Key) -> str:
    """Tells whether two keys are the same and nothing else of them: an HMAC of a fixed text."""
    return hmac.digest(key.fetch(), b"concord vault key", "sha256").hex()[:32]


def _found(keys: Keys, name: str, variable: str, *, create: bool) -> Key:
    if keys.provider == "environment":
        source = KeySource("environment", variable)
    elif keys.provider == "file":
        if keys.path is None:
            raise ConfigError(["keys.path: say where the lake's keys are kept (file provider)"])
        path = keys.path.resolve() / f"{name}.key"
        if create and not path.exists():
            new_key_file(path)
        source = KeySource("file", str(path))
    else:
        return hub_key(keys, name, create=create)
    source.fetch()
    return source
