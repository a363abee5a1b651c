"""The gate: each check alone stops a promotion, and says why in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from concord import tracking
from concord.tracking import Registered
from concord_models import promotion
from concord_models.promotion import Check
from concord_models.specification import ModelSpec, Promotion, load_models

ROOT = Path(__file__).resolve().parents[3]


def figure(value: float, half: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


GOOD: dict[str, Any] = {
    "auc": figure(0.75),
    "slope": figure(1.0, 0.1),
    "baselines": {"base_rate": 0.5, "closed_last_time": 0.6},
    "parity": [{"kind": "race", "group": "black", "ratio": 0.9, "low": 0.7, "high": 1.1}],
    "regret": {"metric": "auc", "model": 0.01, "in_use": 0.02, "splits": 4},
    "leaks": [],
}


def past(*auc: float, first: int = 1) -> dict[str, Any]:
    return {
        "splits": [{"at": f"2025-{first + n:02d}-01"} for n in range(len(auc))],
        "measures": {"trial 0": [{"auc": each} for each in auc]},
        "chosen": {"candidate": "trial 0"},
    }


def version(number: str, state: str = "whole") -> Registered:
    return Registered("DULA-2026-0001.m", number, f"run{number}", "", {tracking.STATE: state})


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    limits = Promotion(slope=(0.8, 1.25), auc=(0.55, 0.95), parity=0.8, regret=0.0)
    return load_models(ROOT / "conf")["snap_churn"].model_copy(update={"promotion": limits})


def judged(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, *, champion: bool = True,
    kept: dict[tuple[str, str], Any] | None = None, state: str = "whole", **changes: Any,
) -> dict[str, Check]:  # fmt: skip
    found = {("run2", promotion.PROMOTION): {**GOOD, **changes}, **(kept or {})}
    monkeypatch.setattr(promotion, "artifact", lambda store, run, path: found.get((run, path)))
    store: Any = None
    before = version("1") if champion else None
    return {c.name: c for c in promotion.judged(store, spec, version("2", state), before)}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def test_a_good_model_passes_and_the_first_needs_no_rival(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failed(judged(spec, monkeypatch)) == set()
    assert failed(judged(spec, monkeypatch, champion=False, regret=None)) == set()


@pytest.mark.parametrize(
    ("check", "said", "changes"),
    [
        ("AUC", "limits 0.55 to 0.95", {"auc": figure(0.99, 0.005)}),
        ("AUC", "0.520", {"auc": figure(0.52), "baselines": {"base_rate": 0.5}}),
        ("AUC", "nan", {"auc": figure(float("nan"))}),
        ("better than baselines", "best baseline 0.800", {"baselines": {"x": 0.8}}),
        ("calibration slope", "0.600 (0.550 to 0.650)", {"slope": figure(0.6, 0.05)}),
        ("calibration slope", "nan", {"slope": figure(float("nan"))}),
        (
            "parity", "race black is reached 0.50 times as often as others (0.40 to 0.60)",
            {"parity": [{"kind": "race", "group": "black", "ratio": 0.5, "low": 0.4, "high": 0.6}]},
        ),
        ("no leak", "due_at_office", {"leaks": [{"feature": "due_at_office"}]}),
        (
            "not worse over time", "of auc over 4 splits 0.0300, the champion's recipe 0.0200",
            {"regret": {**GOOD["regret"], "model": 0.03}},
        ),
        ("not worse over time", "give its file a temporal design", {"regret": None}),
        ("whole", "registered", {"state": "begun"}),
    ],
)  # fmt: skip
def test_each_check_stops_it(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, check: str, said: str, changes: dict[str, Any]
) -> None:
    checks = judged(spec, monkeypatch, **changes)
    wrong = failed(checks) - ({"better than baselines"} if "nan" in said else set())
    assert wrong == {check}
    text = str(checks[check])
    assert said in text and text.startswith("FAILED")


def test_nobody_passes_over_a_leak_or_parity(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = {name for name, check in judged(spec, monkeypatch).items() if check.final}
    assert final == {"whole", "no leak", "parity"}


def test_an_office_that_calls_as_many_as_a_small_one_does_not_block(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"kind": "office", "group": "016", "ratio": 0.4, "low": 0.3, "high": 0.5}
    assert judged(spec, monkeypatch, parity=[*GOOD["parity"], large])["parity"].passed


def test_a_limit_is_crossed_by_the_whole_interval_alone(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"kind": "race", "group": "black", "ratio": 0.5, "low": 0.2, "high": 1.2}
    assert failed(judged(spec, monkeypatch, parity=[wide], slope=figure(0.6, 0.3))) == set()


def test_with_other_features_common_splits_compare(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    regret = {**GOOD["regret"], "in_use": None}

    def told(own: dict[str, Any], other: dict[str, Any]) -> Check:
        kept = {("run2", "backtest.json"): own, ("run1", "backtest.json"): other}
        return judged(spec, monkeypatch, regret=regret, kept=kept)["not worse over time"]

    better = told(past(0.7, 0.8, 0.9, first=2), past(0.9, 0.6, 0.7))
    assert better.passed and "+0.1000 better than the champion on 2 common splits" in better.said
    assert not told(past(0.5, 0.6), past(0.6, 0.6)).passed
    assert "shares no split" in told(past(0.5, first=6), past(0.5)).said
    assert "shares no split" in told(past(0.5), None).said  # type: ignore[arg-type]
