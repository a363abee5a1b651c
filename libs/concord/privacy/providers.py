"""Key providers: who keeps the keys that wrap the keys.

A provider holds one key-encrypting key for each name (an agreement, or one of the hub's own keys)
and never gives it out: five methods, all by name. Disabled, nothing wrapped by it opens until it
is enabled again; destroyed, nothing ever opens, whoever kept a copy of the wrapper.

| provider | the key-encrypting key | disabled | destroyed |
| --- | --- | --- | --- |
| file | a file of the owner's alone | its file renamed | written over and removed |
| environment | one variable for all names | cannot be | cannot be: the wrapper is |
| vault | HashiCorp Vault, transit engine | versions up to today's barred | deleted |
| aws-kms | AWS KMS, a key for each name | DisableKey | ScheduleKeyDeletion, 7 days |

Wrapping is AES-256-GCM with associated data (NIST SP 800-38D) in each of them: what was wrapped
under other associated data does not open. Only the libraries of the provider that is set are
imported: hvac for Vault, boto3 for KMS (the extra `aws`).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from concord.errors import ConfigError, InfrastructureError, RefusedError
from concord.privacy.key_files import KeySource, erase_file, new_key_file
from concord.settings import Keys, KmsKeys, VaultKeys

NONCE_BYTES = 12
# AWS takes no less (API reference, ScheduleKeyDeletion).
KMS_PENDING_DAYS = 7


class DoesNotOpen(Exception):
    """Wrapped under another name, other associated data or another key, or changed."""


class CannotDisable(Exception):
    """One key wraps the keys of all: none can be disabled alone."""


class KeyProvider(Protocol):
    """All raise ConfigError (10) where the provider is set wrongly or may not be used, and
    InfrastructureError (20) where it does not answer."""

    def wrap(self, name: str, key: bytes, associated: bytes) -> str:
        """`key` wrapped, as ASCII text. Makes the key-encrypting key where there is none."""

    def unwrap(self, name: str, wrapped: str, associated: bytes) -> bytes:
        """What was wrapped. Raises DoesNotOpen, and RefusedError (14) while it is disabled."""

    def disable(self, name: str) -> None:
        """Until it is enabled, nothing is unwrapped. Twice is once; of no key, nothing. Raises
        CannotDisable where the provider has one key for all."""

    def enable(self, name: str) -> None:
        """Undoes `disable`."""

    def destroy(self, name: str) -> str:
        """The end of all that was wrapped; a sentence for the certificate. Twice is once."""


def provider_of(keys: Keys) -> KeyProvider:
    """The provider that the settings name. Raises ConfigError where they say too little."""
    return _provider(keys)


@lru_cache(maxsize=8)
def _provider(keys: Keys) -> KeyProvider:
    match keys.provider:
        case "file":
            if keys.path is None:
                raise ConfigError(["keys.path: say where the lake's keys are kept (file provider)"])
            return FileProvider(keys.path.resolve() / "wrapping")
        case "environment":
            return EnvironmentProvider(keys.wrapping_variable)
        case "vault":
            if keys.vault is None:
                raise ConfigError(["keys.vault: say where Vault is (address)"])
            return VaultProvider(keys.vault)
        case "aws-kms":
            if keys.kms is None:
                raise ConfigError(["keys.kms: say in which region the keys are"])
            return KmsProvider(keys.kms)


class FileProvider:
    """For development: a folder with a file for each key-encrypting key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wrap(self, name: str, key: bytes, associated: bytes) -> str:
        if not self._place(name).exists() and not self._off(name).exists():
            new_key_file(self._place(name))
        return _sealed(self._key(name), key, associated)

    def unwrap(self, name: str, wrapped: str, associated: bytes) -> bytes:
        return _opened(self._key(name), wrapped, associated)

    def disable(self, name: str) -> None:
        if self._place(name).exists():
            self._place(name).rename(self._off(name))

    def enable(self, name: str) -> None:
        if self._off(name).exists():
            self._off(name).rename(self._place(name))

    def destroy(self, name: str) -> str:
        for place in (self._place(name), self._off(name)):
            if place.exists():
                erase_file(place)
        return "the file of its key-encrypting key was written over and removed"

    def _key(self, name: str) -> bytes:
        if self._off(name).exists():
            raise _disabled(name)
        if not self._place(name).exists():
            raise ConfigError(
                [f"wrapping key {self._place(name)} is missing; restore it from its backup"]
            )
        return KeySource("file", str(self._place(name))).fetch()

    def _place(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def _off(self, name: str) -> Path:
        return self.folder / f"{name}.key.disabled"


class EnvironmentProvider:
    """One key-encrypting key for all names, from a variable of the driver's and the workers'."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def wrap(self, name: str, key: bytes, associated: bytes) -> str:
        return _sealed(self._key, key, associated)

    def unwrap(self, name: str, wrapped: str, associated: bytes) -> bytes:
        return _opened(self._key, wrapped, associated)

    def disable(self, name: str) -> None:
        raise CannotDisable

    def enable(self, name: str) -> None:
        """Nothing was disabled."""

    def destroy(self, name: str) -> str:
        return (
            "the key-encrypting key wraps other agreements' keys too and stays: a copy of the "
            "wrapper, in a backup perhaps, has to be destroyed as well"
        )

    @property
    def _key(self) -> bytes:
        return KeySource("environment", self.variable).fetch()


class VaultProvider:
    """HashiCorp Vault's transit engine: AES-256-GCM keys that cannot be exported.

    Logs in with `VAULT_TOKEN`, with the token in the file `VAULT_TOKEN_FILE` (the sink of a Vault
    agent), or with `VAULT_ROLE_ID` and `VAULT_SECRET_ID` (AppRole); `VAULT_CACERT` names the CA.
    Transit keeps versions of a key: to disable it, a version is added and what was wrapped by
    earlier ones barred (`min_decryption_version`).
    https://developer.hashicorp.com/vault/api-docs/secret/transit
    """

    def __init__(self, settings: VaultKeys) -> None:
        self.settings = settings

    def wrap(self, name: str, key: bytes, associated: bytes) -> str:
        with self._asked(name) as transit:
            # Of a key that is there, this changes nothing.
            transit.create_key(**self._at(name), key_type="aes256-gcm96")
            made = transit.encrypt_data(
                **self._at(name), plaintext=_text(key), associated_data=_text(associated)
            )
        return str(made["data"]["ciphertext"])

    def unwrap(self, name: str, wrapped: str, associated: bytes) -> bytes:
        from hvac.exceptions import InvalidRequest

        with self._asked(name) as transit:
            try:
                made = transit.decrypt_data(
                    **self._at(name), ciphertext=wrapped, associated_data=_text(associated)
                )
            except InvalidRequest as error:
                # What Vault says quotes neither key nor text.
                if "disallowed by policy" in str(error):
                    raise _disabled(name) from None
                raise DoesNotOpen from None
        return base64.b64decode(made["data"]["plaintext"])

    def disable(self, name: str) -> None:
        with self._asked(name) as transit:
            state = self._state(transit, name)
            if state and state["min_decryption_version"] == 1:
                transit.rotate_key(**self._at(name))
                self._bar(transit, name, state["latest_version"] + 1)

    def enable(self, name: str) -> None:
        with self._asked(name) as transit:
            if self._state(transit, name):
                self._bar(transit, name, 1)

    def destroy(self, name: str) -> str:
        with self._asked(name) as transit:
            if self._state(transit, name):
                transit.update_key_configuration(**self._at(name), deletion_allowed=True)
                transit.delete_key(**self._at(name))
        return "its key-encrypting key was deleted from Vault"

    def _bar(self, transit: Any, name: str, version: int) -> None:
        transit.update_key_configuration(**self._at(name), min_decryption_version=version)

    def _state(self, transit: Any, name: str) -> dict[str, Any] | None:
        from hvac.exceptions import InvalidPath

        try:
            return dict(transit.read_key(**self._at(name))["data"])
        except InvalidPath:
            return None

    def _at(self, name: str) -> dict[str, str]:
        return {
            "name": f"{self.settings.prefix}{name.lower()}",
            "mount_point": self.settings.mount,
        }

    @contextmanager
    def _asked(self, name: str) -> Iterator[Any]:
        import hvac
        import requests
        from hvac import exceptions

        where, address = f"Vault at {self.settings.address}", self.settings.address
        try:
            client = hvac.Client(
                url=address,
                namespace=self.settings.namespace,
                token=_token(),
                verify=os.environ.get("VAULT_CACERT", True),
                timeout=self.settings.timeout_seconds,
            )
            if not client.token:
                role, secret = (os.environ.get(f"VAULT_{each}_ID") for each in ("ROLE", "SECRET"))
                if not role or not secret:
                    raise ConfigError(
                        [
                            f"{where}: nothing to log in with; set VAULT_TOKEN, VAULT_TOKEN_FILE, "
                            "or VAULT_ROLE_ID and VAULT_SECRET_ID"
                        ]
                    )
                client.auth.approle.login(role_id=role, secret_id=secret)
            yield client.secrets.transit
        except (exceptions.Forbidden, exceptions.Unauthorized):
            raise ConfigError(
                [
                    f"{where}: may not use key {self._at(name)['name']} of "
                    f"{self.settings.mount}/; renew the token, or mend its policy (docs/keys.md)"
                ]
            ) from None
        except exceptions.InvalidPath:
            raise ConfigError(
                [f"{where}: no transit engine at {self.settings.mount}/ (keys.vault.mount)"]
            ) from None
        except (exceptions.VaultError, requests.RequestException) as error:
            raise InfrastructureError(
                f"{where} did not do what was asked ({type(error).__name__}); is it up and "
                "unsealed? Then run this again"
            ) from None


def _token() -> str | None:
    place = os.environ.get("VAULT_TOKEN_FILE")
    if place and Path(place).exists():
        return Path(place).read_text().strip()
    return os.environ.get("VAULT_TOKEN")


class KmsProvider:
    """AWS KMS: a symmetric key for each name behind an alias, with the credentials of boto3's
    chain. The associated data are the encryption context, so AWS's own log has them.
    https://docs.aws.amazon.com/kms/latest/APIReference
    """

    def __init__(self, settings: KmsKeys) -> None:
        self.settings = settings

    def wrap(self, name: str, key: bytes, associated: bytes) -> str:
        with self._asked(name) as kms:
            if self._state(kms, name) is None:
                made = kms.create_key(Description=f"Concord: wraps the key of {name}")
                kms.create_alias(
                    AliasName=self._alias(name), TargetKeyId=made["KeyMetadata"]["KeyId"]
                )
            sealed = kms.encrypt(
                KeyId=self._alias(name), Plaintext=key, EncryptionContext=_context(associated)
            )
        return _text(sealed["CiphertextBlob"])

    def unwrap(self, name: str, wrapped: str, associated: bytes) -> bytes:
        with self._asked(name) as kms:
            try:
                opened = kms.decrypt(
                    KeyId=self._alias(name),
                    CiphertextBlob=base64.b64decode(wrapped),
                    EncryptionContext=_context(associated),
                )
            except (kms.exceptions.InvalidCiphertextException, ValueError):
                raise DoesNotOpen from None
            except kms.exceptions.IncorrectKeyException:
                raise DoesNotOpen from None
            except kms.exceptions.DisabledException:
                raise _disabled(name) from None
        return bytes(opened["Plaintext"])

    def disable(self, name: str) -> None:
        with self._asked(name) as kms:
            found = self._state(kms, name)
            if found and found["KeyState"] == "Enabled":
                kms.disable_key(KeyId=found["KeyId"])

    def enable(self, name: str) -> None:
        with self._asked(name) as kms:
            found = self._state(kms, name)
            if found and found["KeyState"] == "Disabled":
                kms.enable_key(KeyId=found["KeyId"])

    def destroy(self, name: str) -> str:
        with self._asked(name) as kms:
            found = self._state(kms, name)
            if found and found["KeyState"] != "PendingDeletion":
                kms.schedule_key_deletion(
                    KeyId=found["KeyId"], PendingWindowInDays=KMS_PENDING_DAYS
                )
        return (
            "its key-encrypting key opens nothing any more; AWS KMS deletes it for good after "
            f"{KMS_PENDING_DAYS} days, until when an administrator could cancel that"
        )

    def _alias(self, name: str) -> str:
        return f"alias/{self.settings.prefix}{name.lower()}"

    def _state(self, kms: Any, name: str) -> dict[str, Any] | None:
        try:
            return dict(kms.describe_key(KeyId=self._alias(name))["KeyMetadata"])
        except kms.exceptions.NotFoundException:
            return None

    @contextmanager
    def _asked(self, name: str) -> Iterator[Any]:
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise ConfigError(
                ["keys.provider aws-kms needs boto3: install concord with its extra aws"]
            ) from None
        where = f"AWS KMS in {self.settings.region}"
        try:
            yield boto3.client(
                "kms", region_name=self.settings.region, endpoint_url=self.settings.endpoint
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"KMSInvalidStateException", "NotFoundException"}:
                raise ConfigError(
                    [f"{where}: {self._alias(name)} is gone, or about to be deleted"]
                ) from None
            if code in {"AccessDeniedException", "UnrecognizedClientException"}:
                raise ConfigError(
                    [f"{where}: may not use {self._alias(name)}; mend its policy (docs/keys.md)"]
                ) from None
            raise InfrastructureError(f"{where} answered {code}; run this again") from None
        except BotoCoreError as error:
            raise InfrastructureError(
                f"{where} did not answer ({type(error).__name__}); check network and credentials, "
                "then run this again"
            ) from None


# --- the parts they share ------------------------------------------------------------------------


def _sealed(wrapping: bytes, key: bytes, associated: bytes) -> str:
    nonce = os.urandom(NONCE_BYTES)
    return _text(nonce + AESGCM(wrapping).encrypt(nonce, key, associated))


def _opened(wrapping: bytes, wrapped: str, associated: bytes) -> bytes:
    try:
        content = base64.b64decode(wrapped, validate=True)
        return AESGCM(wrapping).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], associated)
    except (ValueError, InvalidTag):
        raise DoesNotOpen from None


def _disabled(name: str) -> RefusedError:
    return RefusedError(
        f"the key of {name} is disabled, as it is while an agreement is suspended; when it is "
        f"resumed (concord agreement suspend {name} --resume), run this again"
    )


def _context(associated: bytes) -> dict[str, str]:
    return {"concord": associated.decode()}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
