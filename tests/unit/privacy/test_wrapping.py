"""The agreements' own keys: random, wrapped, bound to their agreement, gone when destroyed."""

from __future__ import annotations

import base64
import json
import pickle
import stat
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.errors import ConfigError
from concord.privacy.hashing import digest
from concord.privacy.key_files import _fetch
from concord.privacy.wrapping import _unwrap, agreement_key, destroy, key_check
from concord.settings import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(path=tmp_path / "keys")


def wrapper(keys: Keys, agreement: str) -> Path:
    assert keys.path
    return keys.path / "agreements" / f"{agreement}.v1.json"


def test_each_agreement_has_a_random_key_of_its_own_that_stays(keys: Keys, tmp_path: Path) -> None:
    one = agreement_key(keys, "DULA-2026-0001", create=True)
    two = agreement_key(keys, "DULA-2026-0002", create=True)
    elsewhere = agreement_key(Keys(path=tmp_path / "other"), "DULA-2026-0001", create=True)
    assert len({one.fetch(), two.fetch(), elsewhere.fetch()}) == 3
    assert agreement_key(keys, "DULA-2026-0001").fetch() == one.fetch()
    assert agreement_key(keys, "DULA-2026-0001", create=True).fetch() == one.fetch()
    assert key_check(one) != key_check(two)


def test_the_key_lies_nowhere_in_clear_and_only_its_owner_may_read(keys: Keys) -> None:
    key = agreement_key(keys, "DULA-2026-0001", create=True)
    secret = key.fetch()
    forms = (secret, secret.hex().encode(), base64.b64encode(secret))
    assert keys.path
    files = [path for path in keys.path.rglob("*") if path.is_file()]
    assert len(files) == 2, "the wrapper, and what wraps it"
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(form in path.read_bytes() for form in forms)
    travelling = pickle.dumps(key)
    assert not any(form in travelling for form in forms), "what a worker is sent"
    assert "wrapped" not in repr(key)


def test_a_destroyed_wrapper_is_the_end_of_the_key(keys: Keys) -> None:
    before = agreement_key(keys, "DULA-2026-0001", create=True).fetch()
    destroy(keys, "DULA-2026-0001")
    with pytest.raises(ConfigError, match="is missing; restore it"):
        agreement_key(keys, "DULA-2026-0001")
    assert agreement_key(keys, "DULA-2026-0001", create=True).fetch() != before, "never derived"


def test_a_wrapper_in_another_s_place_does_not_open(keys: Keys) -> None:
    for agreement in ("DULA-2026-0001", "DULA-2026-0002"):
        agreement_key(keys, agreement, create=True)
    wrapper(keys, "DULA-2026-0002").write_bytes(wrapper(keys, "DULA-2026-0001").read_bytes())
    with pytest.raises(ConfigError, match="does not open"):
        agreement_key(keys, "DULA-2026-0002")
    assert keys.path
    later = keys.path / "agreements" / "DULA-2026-0001.v2.json"
    later.write_bytes(wrapper(keys, "DULA-2026-0001").read_bytes())
    later.chmod(0o600)
    with pytest.raises(ConfigError, match="does not open"):
        agreement_key(keys, "DULA-2026-0001", version=2)


def test_another_wrapping_key_opens_nothing(keys: Keys) -> None:
    agreement_key(keys, "DULA-2026-0001", create=True)
    assert keys.path
    place = keys.path / "wrapping" / "DULA-2026-0001.key"
    kept = place.read_bytes()
    place.unlink()
    # A process that has not opened the key before.
    _unwrap.cache_clear()
    with pytest.raises(ConfigError, match="is missing; restore it"):
        agreement_key(keys, "DULA-2026-0001")
    place.write_bytes(base64.b64encode(b"another key of thirty-two bytes."))
    place.chmod(0o600)
    _fetch.cache_clear()
    with pytest.raises(ConfigError, match="does not open"):
        agreement_key(keys, "DULA-2026-0001")
    place.write_bytes(kept)
    _fetch.cache_clear()
    assert agreement_key(keys, "DULA-2026-0001").fetch()


def test_what_is_no_wrapper_or_open_to_others_is_refused(keys: Keys) -> None:
    agreement_key(keys, "DULA-2026-0001", create=True)
    place = wrapper(keys, "DULA-2026-0001")
    good = place.read_text()
    for bad in ("", "{}", good.replace('"wrapped": "', '"wrapped": "AAAA')):
        place.write_text(bad)
        with pytest.raises(ConfigError, match="no wrapped key|does not open"):
            agreement_key(keys, "DULA-2026-0001")
    place.write_text(good)
    place.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        agreement_key(keys, "DULA-2026-0001")
    with pytest.raises(ConfigError, match="keys.path"):
        agreement_key(Keys(), "DULA-2026-0001")
    assert json.loads(good)["name"] == "DULA-2026-0001"


@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(max_size=40))
def test_the_hash_is_hmac_sha_256_cut_to_128_bits(secret: bytes, message: bytes) -> None:
    from cryptography.hazmat.primitives import hashes, hmac

    other = hmac.HMAC(secret, hashes.SHA256())
    other.update(message)
    assert digest(secret, message) == other.finalize()[:16].hex()
    assert len(pa.array([digest(secret, message)])[0].as_py()) == 32
