"""A folder of configuration to write contracts into."""

from __future__ import annotations

from pathlib import Path

import pytest

from concord.contracts.model import Contract
from concord.contracts.odcs import load_contract
from tests.unit.contracts.claims import AGENCIES, CODE_LISTS, Load


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A folder of configuration with code lists and agencies, and no contracts yet."""
    (tmp_path / "feeds").mkdir()
    (tmp_path / "code_lists.yaml").write_text(CODE_LISTS)
    (tmp_path / "agencies.yaml").write_text(AGENCIES)
    return tmp_path


@pytest.fixture
def load(conf: Path) -> Load:
    """Writes a text as the contract `claims` and loads it."""

    def write_and_load(text: str) -> Contract:
        path = conf / "feeds" / "claims.yaml"
        path.write_text(text)
        return load_contract(path)

    return write_and_load
