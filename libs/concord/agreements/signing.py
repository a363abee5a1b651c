"""Signatures of agreements: Ed25519 (RFC 8032) over what a party agrees to, and the registry of
the keys that may sign.

The registry is a file under version control, reviewed like the rest of conf/: who may sign for
which party, with which public key, from when until when. Private keys are the signers' own and
never come near a lake. A signature whose key the registry does not know is *unverifiable*, which
is a state of its own and never a pass.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field as Setting
from pydantic import RootModel, field_validator

from concord.errors import ConfigError, UsageError
from concord.privacy.key_files import make_key_file
from concord.settings import Typed, load

KEY_BYTES = 32
Verdict = Literal["valid", "invalid", "unverifiable"]


class Signer(Typed):
    """One key that may sign for one party. An office, not a person. Days are inclusive."""

    party: str
    office: str
    public_key: str = Setting(description="Ed25519, 32 bytes in base64")
    valid_from: date
    revoked_on: date | None = Setting(default=None, description="from this day on it signs nothing")

    @field_validator("public_key")
    @classmethod
    def _is_a_key(cls, text: str) -> str:
        try:
            whole = len(base64.b64decode(text, validate=True)) == KEY_BYTES
        except binascii.Error:
            whole = False
        if not whole:
            raise ValueError(f"must be {KEY_BYTES} bytes in base64")
        return text

    def may_sign(self, party: str, on: date) -> bool:
        ended = self.revoked_on is not None and on >= self.revoked_on
        return party == self.party and on >= self.valid_from and not ended


class Signers(RootModel[dict[str, Signer]]):
    """Signers by key name."""


@dataclass(frozen=True)
class Signature:
    """`value` is base64; `digest` that of what was signed; `on` the day of signing."""

    party: str
    signer: str
    digest: str
    value: str
    on: date


def load_signers(path: Path) -> dict[str, Signer]:
    """The registry; nobody can sign where the file is missing. Raises ConfigError."""
    return dict(load(path, Signers).root) if path.exists() else {}


def message(agreement: str, party: str, digest: str, on: date) -> bytes:
    """What is signed: the agreement, for whom, the digest and the day, so that a signature can be
    moved to no other of them."""
    parts = {"agreement": agreement, "digest": digest, "on": on.isoformat(), "party": party}
    return b"concord agreement\n" + json.dumps(parts, sort_keys=True).encode()


def sign(
    key: Ed25519PrivateKey, agreement: str, *, party: str, signer: str, digest: str, on: date
) -> Signature:
    signed = key.sign(message(agreement, party, digest, on))
    return Signature(party, signer, digest, base64.b64encode(signed).decode(), on)


def verdict(agreement: str, signature: Signature, signers: Mapping[str, Signer]) -> Verdict:
    """`unverifiable` when the registry has no such key for the party on that day, `invalid` when
    the signature is not of this key over this digest."""
    signer = signers.get(signature.signer)
    if signer is None or not signer.may_sign(signature.party, signature.on):
        return "unverifiable"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signer.public_key))
    signed = message(agreement, signature.party, signature.digest, signature.on)
    try:
        key.verify(base64.b64decode(signature.value, validate=True), signed)
    except (InvalidSignature, binascii.Error):
        return "invalid"
    return "valid"


# --- signers' own keys ---------------------------------------------------------------------------


def new_key(path: Path) -> Ed25519PrivateKey:
    """A new private key in a file that only its owner may read (PKCS#8, PEM).

    Raises UsageError when the file is there: a key is never replaced.
    """
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        make_key_file(path, content)
    except FileExistsError:
        raise UsageError(f"{path} is there already; a signer's key is never replaced") from None
    return key


def read_key(path: Path) -> Ed25519PrivateKey:
    """Raises ConfigError saying what is wrong with the file, never what is in it."""
    if not path.exists():
        raise ConfigError([f"signer's key {path} is missing"])
    if path.stat().st_mode & 0o077:
        raise ConfigError([f"signer's key {path} can be read by others; chmod 600 it"])
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError([f"{path} is no Ed25519 private key in PEM without a password"])
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half as the registry has it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
