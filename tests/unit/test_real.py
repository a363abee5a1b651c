"""What `make real` stands on, without making it: its lock, its configuration, its checks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from concord.cli import load_deployment
from tests.real.checks import Loaded, checks_of

ROOT = Path(__file__).resolve().parents[2]
LOADED = Loaded(
    "agency_feed",
    "loaded",
    3,
    (),
    pl.DataFrame({"client_record_id": ["a", "b"], "day": ["1990-01-02", "2020-05-05"]}),
    pl.DataFrame(
        {
            "record_id": ["a", "b"],
            "role": ["client", "client"],
            "source_table": ["t", "t"],
            "source_row": ["1", "2"],
            "source_key": ["1", "2"],
            "birth_date": ["1990-01-01", "1991-01-01"],
        }
    ),
    1,
    pl.DataFrame({"role": ["client"] * 2, "source_key": ["1", "2"], "simulant_id": ["x", "y"]}),
    {"client": "client_record_id"},
    {"client": ("birth_date",)},
)


def test_the_lock_of_pseudopeople_has_hashes_and_names_no_host() -> None:
    text = (ROOT / "infra/real/requirements.txt").read_text()
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\S)", text.strip()))
    assert "://" not in text


def test_its_contracts_and_its_agreement_fit_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    deployment = load_deployment(ROOT / "infra/real/conf/settings/real.yaml")
    assert sorted(deployment.contracts) == ["fns_wic", "irs_w2", "ssa_numident", "usc_census"]


def test_its_checks_hold_for_what_is_right() -> None:
    assert [check.seen for check in checks_of(LOADED, 3) if not check.holds] == []


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (replace(LOADED, quarantined=0), "loaded + quarantined"),
        (replace(LOADED, vault=LOADED.vault.head(1)), "one vault record"),
        (
            replace(
                LOADED,
                curated=LOADED.curated.with_columns(day=pl.Series(["1990-01-01", "1991-01-01"])),
            ),
            "no curated column",
        ),
        (replace(LOADED, truth=LOADED.truth.head(1)), "the truth"),
    ],
)
def test_each_check_fails_for_what_it_speaks_of(broken: Loaded, name: str) -> None:
    failed = [check.name for check in checks_of(broken, 3) if not check.holds]
    assert len(failed) == 1
    assert name in failed[0]
