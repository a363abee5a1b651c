"""The model card: what stands in it, in both forms, and that it opens safely."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from concord.agreements.loading import load_dulas
from concord_models.card import SHOWN, Card, card
from concord_models.evaluation import LEAST_CELL
from concord_models.specification import load_models

ROOT = Path(__file__).resolve().parents[3]
MEASURES = {
    "base_rate": {**dict.fromkeys(SHOWN, 0.2), "auc": 0.5},
    "model": {**dict.fromkeys(SHOWN, 0.3), "auc": 0.7654, "ece": float("nan")},
}
GROUPS = [
    {"kind": "language", "group": "eng & <more>", "closures": 40, "recall": 0.5, "low": 0.35,
     "high": 0.65},
    {"kind": "language", "group": f"2 with fewer than {LEAST_CELL} closures"},
]  # fmt: skip
NOTHING = dict.fromkeys(("value", "low", "high"), float("nan"))
SHOWN_BESIDE = {
    "auc": {"value": 0.7654, "low": 0.7, "high": 0.83}, "slope": NOTHING, "slope_before": NOTHING,
    "intercept": NOTHING,
    "parity": [
        {"kind": "language", "group": "eng & <more>", "ratio": 0.9, "low": 0.7, "high": 1.1}
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Card:
    spec = load_models(ROOT / "conf")["snap_churn"]
    dula = load_dulas(ROOT / "conf")[spec.agreement]
    return card(
        spec, dula, winner="xgboost", tags={"expires": "2030-12-31", "as of": "2026-06-30"},
        rows={"train": 12345, "test": 678}, left_out=1234,
        days={"train": "2024-01-05", "test": "2025-04-01"},
        measures=MEASURES, groups=GROUPS, past=None, shown=SHOWN_BESIDE,
    )  # fmt: skip


def test_it_says_what_the_model_is_for_and_how_well_it_does(made: Card) -> None:
    text = made.markdown()
    for words in (
        "DULA-2026-0001", "program-evaluation", "expires: 2030-12-31",
        "| train | 2024-01-05 | 12,345 |", "| model | 0.765 | 0.300 |",
        "| language | eng & <more> | 40 | 0.500 | 0.350 | 0.650 | 0.900 (0.700 to 1.100) |",
        "AUC: 0.765 (0.700 to 0.830)",
        "In no slice: 1,234 rows of check-ins that",
        "no ground for a decision against anybody", "days_since_mailed: days since",
    ):  # fmt: skip
        assert words in text, words
    assert "nan" not in text and "Over time" not in text, "nothing that was not measured"
    header, *_ = (line for line in text.splitlines() if line.startswith("| model |"))
    rows = [line for line in text.splitlines() if line.startswith(("| model |", "| base_rate"))]
    assert {line.count("|") for line in (header, *rows)} == {len(SHOWN) + 2}


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_escapes_what_it_shows(made: Card) -> None:
    page = made.page()
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert "eng &amp; &lt;more&gt;" in page and "<more>" not in page
    assert "http" not in page.replace("http-equiv", ""), "it fetches nothing"
    assert "<td>0.765</td>" in page
