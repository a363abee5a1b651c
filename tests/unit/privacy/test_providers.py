"""What every key provider holds to, and what each of them answers when it is set wrongly."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from concord.errors import ConfigError, InfrastructureError, RefusedError
from concord.privacy.keys import fingerprint, mint_key, vault_key
from concord.privacy.providers import CannotDisable, DoesNotOpen, KeyProvider, provider_of
from concord.privacy.wrapping import agreement_key, destroy, disable, enable, key_check, versions
from concord.settings import Keys, KmsKeys, VaultKeys
from tests.vault_server import Double, real, vault_double

ONE, TWO = "DULA-2026-0001", "DULA-2026-0002"
SECRET = bytes(range(32))
KINDS = ("file", "environment", "vault", "aws-kms", *(["real vault"] if real() else []))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with vault_double() as double:
        monkeypatch.setenv("VAULT_TOKEN", double.token)
        yield double


Make = Callable[[str], Keys]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Make:
    """Settings of a provider that works."""

    def made(kind: str) -> Keys:
        path = tmp_path / "keys"
        match kind:
            case "environment":
                # Keys are remembered by the variable's name.
                name = f"CONCORD_WRAPPING_{uuid.uuid4().hex}"
                monkeypatch.setenv(name, base64.b64encode(b"w" * 32).decode())
                return Keys(provider="environment", path=path, wrapping_variable=name)
            case "vault":
                double: Double = request.getfixturevalue("double")
                return Keys(provider="vault", path=path, vault=VaultKeys(address=double.address))
            case "real vault":
                import hvac

                client = hvac.Client(url=real())
                if "transit/" not in client.sys.list_mounted_secrets_engines()["data"]:
                    client.sys.enable_secrets_engine("transit")
                settings = VaultKeys(address=real() or "", prefix=f"t-{uuid.uuid4().hex[:8]}-")
                return Keys(provider="vault", path=path, vault=settings)
            case "aws-kms":
                from moto import mock_aws
                from moto.kms.models import KmsBackend

                for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                    monkeypatch.setenv(name, "testing")
                mocked = mock_aws()
                mocked.start()
                request.addfinalizer(mocked.stop)
                monkeypatch.setattr(KmsBackend, "decrypt", as_documented(KmsBackend.decrypt))
                return Keys(provider="aws-kms", path=path, kms=KmsKeys(region="us-east-1"))
            case _:
                return Keys(path=path)

    return made


def as_documented(decrypt: Callable[..., Any]) -> Callable[..., Any]:
    """moto's Decrypt, which looks at no key's state, with the errors that AWS documents
    (API reference, Decrypt; developer guide, "Key states of AWS KMS keys")."""
    from moto.core.exceptions import JsonRESTError

    def checked(backend: Any, *, ciphertext_blob: bytes, key_id: str, **more: Any) -> Any:
        key = backend.keys[backend.any_id_to_key_id(key_id)]
        if key.key_state == "Disabled":
            raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")
        if key.key_state == "PendingDeletion":
            raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        opened = decrypt(backend, ciphertext_blob=ciphertext_blob, **more)
        if opened[1] != key.arn:
            raise JsonRESTError("IncorrectKeyException", "The key ID does not match.")
        return opened

    return checked


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrapped_opens_under_its_own_name_and_data_alone(make: Make, kind: str) -> None:
    provider: KeyProvider = provider_of(make(kind))
    wrapped = provider.wrap(ONE, SECRET, b"one")
    again = provider.wrap(ONE, SECRET, b"one")
    provider.wrap(TWO, SECRET, b"two")
    assert wrapped != again and wrapped.isascii()
    assert base64.b64encode(SECRET).decode() not in wrapped
    assert provider.unwrap(ONE, wrapped, b"one") == SECRET
    others: list[tuple[str, str, bytes]] = [(ONE, wrapped, b"two"), (ONE, wrapped[:-8], b"one")]
    if kind != "environment":
        others.append((TWO, wrapped, b"one"))
    for name, text, associated in others:
        with pytest.raises(DoesNotOpen):
            provider.unwrap(name, text, associated)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "environment"])
def test_disabled_nothing_opens_and_enabled_all_does(make: Make, kind: str) -> None:
    provider = provider_of(make(kind))
    for name in (ONE, "DULA-2026-0099"):
        provider.disable(name)  # of no key, nothing
        provider.enable(name)
    before = provider.wrap(ONE, SECRET, b"one")
    other = provider.wrap(TWO, SECRET, b"two")
    for _ in range(2):
        for _ in range(2):
            provider.disable(ONE)
            with pytest.raises(RefusedError, match=f"key of {ONE} is disabled") as refused:
                provider.unwrap(ONE, before, b"one")
            assert refused.value.exit_code == 14
            assert provider.unwrap(TWO, other, b"two") == SECRET
        provider.enable(ONE)
        provider.enable(ONE)
        assert provider.unwrap(ONE, before, b"one") == SECRET
    after = provider.wrap(ONE, SECRET, b"one")
    assert provider.unwrap(ONE, after, b"one") == SECRET


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "environment"])
@pytest.mark.parametrize("first", ["enabled", "disabled"])
def test_destroyed_nothing_ever_opens_though_the_wrapper_was_kept(
    make: Make, kind: str, first: str
) -> None:
    provider = provider_of(make(kind))
    wrapped, other = provider.wrap(ONE, SECRET, b"one"), provider.wrap(TWO, SECRET, b"two")
    if first == "disabled":
        provider.disable(ONE)
    for _ in range(2):
        assert "key-encrypting key" in provider.destroy(ONE)
        with pytest.raises((DoesNotOpen, ConfigError)):
            provider.unwrap(ONE, wrapped, b"one")
    provider.enable(ONE)
    with pytest.raises((DoesNotOpen, ConfigError)):
        provider.unwrap(ONE, wrapped, b"one")
    assert provider.unwrap(TWO, other, b"two") == SECRET


@pytest.mark.parametrize("kind", KINDS)
def test_an_agreement_s_key_lives_and_ends_with_any_provider(make: Make, kind: str) -> None:
    keys = make(kind)
    one, two = (agreement_key(keys, name, create=True) for name in (ONE, TWO))
    assert one.fetch() != two.fetch() and len(one.fetch()) == 32
    second = agreement_key(keys, ONE, version=2, create=True)
    assert versions(keys, ONE) == [1, 2] and key_check(second) != key_check(one)
    if disable(keys, ONE):
        with pytest.raises(RefusedError):
            agreement_key(keys, ONE)
        enable(keys, ONE)
    else:
        assert kind == "environment"
    assert agreement_key(keys, ONE).fetch() == one.fetch()
    copy = Path(one.place).read_bytes()
    destroy(keys, ONE)
    assert versions(keys, ONE) == [] and agreement_key(keys, TWO).fetch() == two.fetch()
    # A copy from a backup, put back.
    Path(one.place).write_bytes(copy)
    Path(one.place).chmod(0o600)
    if kind == "environment":
        assert agreement_key(keys, ONE).fetch() == one.fetch(), "as docs/keys.md says"
    else:
        with pytest.raises(ConfigError):
            agreement_key(keys, ONE)


@pytest.mark.parametrize("kind", ["vault", "aws-kms"])
def test_the_hub_s_own_keys_are_wrapped_where_a_platform_keeps_keys(make: Make, kind: str) -> None:
    keys = make(kind)
    with pytest.raises(ConfigError, match="is missing"):
        vault_key(keys)
    vault, mint = vault_key(keys, create=True), mint_key(keys, create=True)
    assert fingerprint(vault) != fingerprint(mint)
    assert vault_key(keys).fetch() == vault.fetch()
    assert keys.path
    names = sorted(path.name for path in keys.path.rglob("*") if path.is_file())
    assert names == ["mint.v1.json", "vault.v1.json"], "no key lies here in clear"


def test_the_environment_cannot_disable(make: Make) -> None:
    with pytest.raises(CannotDisable):
        provider_of(make("environment")).disable(ONE)


# --- what bad settings and bad days get -----------------------------------------------------------


def test_vault_by_token_file_and_by_approle(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provider_of(Keys(provider="vault", vault=VaultKeys(address=double.address)))
    monkeypatch.delenv("VAULT_TOKEN")
    with pytest.raises(ConfigError, match="nothing to log in with; set VAULT_TOKEN"):
        provider.wrap(ONE, SECRET, b"one")
    sink = tmp_path / "token"
    sink.write_text(f"{double.token}\n")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(sink))
    wrapped = provider.wrap(ONE, SECRET, b"one")
    monkeypatch.delenv("VAULT_TOKEN_FILE")
    monkeypatch.setenv("VAULT_ROLE_ID", double.role_id)
    monkeypatch.setenv("VAULT_SECRET_ID", double.secret_id)
    assert provider.unwrap(ONE, wrapped, b"one") == SECRET
    assert "POST auth/approle/login" in double.asked


def test_what_vault_refuses_is_told_with_a_remedy_and_without_a_token(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provider_of(Keys(provider="vault", vault=VaultKeys(address=double.address)))
    wrapped = provider.wrap(ONE, SECRET, b"one")
    monkeypatch.setenv("VAULT_TOKEN", "another-token")
    with pytest.raises(ConfigError, match="may not use key concord-dula-2026-0001") as refused:
        provider.unwrap(ONE, wrapped, b"one")
    assert "another-token" not in str(refused.value) and refused.value.exit_code == 10
    monkeypatch.setenv("VAULT_TOKEN", double.token)
    double.sealed = True
    with pytest.raises(InfrastructureError, match="is it up and unsealed") as down:
        provider.unwrap(ONE, wrapped, b"one")
    assert down.value.exit_code == 20
    double.sealed = False
    elsewhere = VaultKeys(address=double.address, mount="keys")
    with pytest.raises(ConfigError, match=r"no transit engine at keys/ \(keys.vault.mount\)"):
        provider_of(Keys(provider="vault", vault=elsewhere)).wrap(ONE, SECRET, b"one")
    nowhere = VaultKeys(address="http://127.0.0.1:9", timeout_seconds=1)
    with pytest.raises(InfrastructureError, match="did not do what was asked"):
        provider_of(Keys(provider="vault", vault=nowhere)).wrap(ONE, SECRET, b"one")


def test_a_provider_without_its_settings_is_a_configuration_error() -> None:
    for provider, what in (("file", "path"), ("vault", "vault"), ("aws-kms", "kms")):
        with pytest.raises(ConfigError, match=f"keys.{what}: say"):
            provider_of(Keys(provider=provider))


def test_kms_says_what_it_may_not(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError, EndpointConnectionError

    keys = make("aws-kms")
    provider = provider_of(keys)
    wrapped = provider.wrap(ONE, SECRET, b"one")

    def failing(error: Exception) -> Callable[..., object]:
        def call(*_: object, **__: object) -> object:
            raise error

        return call

    where = "botocore.client.BaseClient._make_api_call"
    for code, expected, words in (
        ("AccessDeniedException", ConfigError, "mend its policy"),
        ("ThrottlingException", InfrastructureError, "answered ThrottlingException"),
    ):
        error = ClientError({"Error": {"Code": code, "Message": "no"}}, "Decrypt")
        monkeypatch.setattr(where, failing(error))
        with pytest.raises(expected, match=words):
            provider.unwrap(ONE, wrapped, b"one")
    monkeypatch.setattr(where, failing(EndpointConnectionError(endpoint_url="http://x")))
    with pytest.raises(InfrastructureError, match="did not answer"):
        provider.unwrap(ONE, wrapped, b"one")
