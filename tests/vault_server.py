"""A double of HashiCorp Vault: the part of its transit engine and AppRole that Concord speaks.

Status codes and messages are those that a Vault 1.14 core gave to the same requests; the tests of
the provider run against a real one too where `TEST_VAULT_ADDR` has its address (and `VAULT_TOKEN`
a token that may mount an engine).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


@dataclass
class TransitKey:
    secrets: list[bytes] = field(default_factory=lambda: [AESGCM.generate_key(256)])
    least: int = 1
    deletable: bool = False


class Refused(Exception):
    def __init__(self, status: int, *errors: str) -> None:
        self.status, self.errors = status, errors


@dataclass
class Double:
    """The server's state, for tests to look at and to break."""

    address: str = ""
    token: str = field(default_factory=secrets.token_hex)
    role_id: str = field(default_factory=secrets.token_hex)
    secret_id: str = field(default_factory=secrets.token_hex)
    sealed: bool = False
    keys: dict[str, TransitKey] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> Any:
        self.asked.append(f"{method} {path}")
        if self.sealed:
            raise Refused(503, "Vault is sealed")
        if path == "auth/approle/login":
            if (body.get("role_id"), body.get("secret_id")) != (self.role_id, self.secret_id):
                raise Refused(400, "invalid role or secret ID")
            return {"auth": {"client_token": self.token}}
        if token != self.token:
            raise Refused(403, "permission denied")
        mount, *rest = path.split("/")
        if mount != "transit":
            raise Refused(404, f"no handler for route {path!r}. route entry not found.")
        return self._transit(method, rest, body)

    def _transit(self, method: str, rest: list[str], body: dict[str, Any]) -> Any:
        match method, rest:
            case "POST", ["keys", name]:
                self.keys.setdefault(name, TransitKey())
            case "GET", ["keys", name]:
                key = self._key(name, 404)
                return {"data": {"latest_version": len(key.secrets), "name": name,
                                 "min_decryption_version": key.least}}  # fmt: skip
            case "DELETE", ["keys", name]:
                if not self._key(name, 400).deletable:
                    raise Refused(
                        400, f"error deleting policy {name}: deletion is not allowed for this key"
                    )
                del self.keys[name]
            case "POST", ["keys", name, "rotate"]:
                self._key(name, 400).secrets.append(AESGCM.generate_key(256))
            case "POST", ["keys", name, "config"]:
                key = self._key(name, 400)
                key.least = body.get("min_decryption_version", key.least)
                key.deletable = body.get("deletion_allowed", key.deletable)
            case "POST", ["encrypt", name]:
                key = self._key(name, 400)
                nonce = secrets.token_bytes(12)
                sealed = nonce + AESGCM(key.secrets[-1]).encrypt(nonce, *_parts(body, "plaintext"))
                text = base64.b64encode(sealed).decode()
                return {"data": {"ciphertext": f"vault:v{len(key.secrets)}:{text}"}}
            case "POST", ["decrypt", name]:
                key = self._key(name, 400)
                version, _, text = body["ciphertext"].removeprefix("vault:v").partition(":")
                if int(version) < key.least:
                    raise Refused(
                        400, "ciphertext or signature version is disallowed by policy (too old)"
                    )
                sealed = base64.b64decode(text)
                associated = base64.b64decode(body["associated_data"])
                try:
                    secret = key.secrets[int(version) - 1]
                    opened = AESGCM(secret).decrypt(sealed[:12], sealed[12:], associated)
                except InvalidTag:
                    raise Refused(400, "cipher: message authentication failed") from None
                except IndexError:
                    raise Refused(400, "invalid ciphertext: version is too new") from None
                return {"data": {"plaintext": base64.b64encode(opened).decode()}}
            case _:
                raise Refused(405, "unsupported operation")
        return None

    def _key(self, name: str, status: int) -> TransitKey:
        if name not in self.keys:
            raise Refused(status, *([] if status == 404 else ["encryption key not found"]))
        return self.keys[name]


def _parts(body: dict[str, Any], what: str) -> tuple[bytes, bytes]:
    return base64.b64decode(body[what]), base64.b64decode(body["associated_data"])


@contextmanager
def vault_double() -> Iterator[Double]:
    """The double on a free port of this machine."""
    double = Double()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "{}")
            path = self.path.removeprefix("/v1/")
            try:
                said = double.answer(
                    self.command, path, self.headers.get("X-Vault-Token", ""), body
                )
                status = 204 if said is None else 200
            except Refused as refused:
                said, status = {"errors": list(refused.errors)}, refused.status
            content = b"" if said is None else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815, BaseHTTPRequestHandler's names

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()


def real() -> str | None:
    """The address of a real Vault to test against, if there is one."""
    return os.environ.get("TEST_VAULT_ADDR")
