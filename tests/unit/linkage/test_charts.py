"""Charts: what they show, said of their numbers, and that they stand alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from concord.errors import UsageError
from concord.linkage import charts
from concord.linkage.charts import Chart, Row
from concord.linkage.engine import Planned
from concord.linkage.patterns import probability
from concord.linkage.person_index import load_person_index
from tests.conftest import ROOT

MODEL = load_person_index(ROOT / "conf" / "person_index.yaml")
SVG = "{http://www.w3.org/2000/svg}"
FULL = {"given": "exact", "family": "exact", "birth": "exact", "contact": "household"}
NAMES = {"given": "initial", "family": "exact", "middle": "same"}
COUNTS = pa.table(
    {
        "rule": ["ssn"] * 3,
        "pattern": [
            MODEL.pattern(**FULL),
            MODEL.pattern(**NAMES),
            MODEL.pattern(given="near", family="exact", sex="same"),
        ],
        "pairs": [100, 10, 1000],
    }
)
PLAN = [Planned("ssn", 3, 40, 40, (2,), 0), Planned("zip_birth", 3, 1200, 7, (2,), 0)]
RARE = MODEL.with_levels({"given": {"initial": (0.01, 0.00778), "nickname": (0.1641, 0.00316)}})

EVERY: dict[str, Callable[[], Chart]] = {
    "match_weights": lambda: charts.match_weights(MODEL),
    "m_and_u": lambda: charts.m_and_u(MODEL),
    "waterfall": lambda: charts.waterfall(MODEL, MODEL.pattern(**FULL, sex="differ"), threshold=20),
    "compared": lambda: charts.compared(MODEL, RARE, counts=COUNTS),
    "threshold_curve": lambda: charts.threshold_curve(MODEL, COUNTS, threshold=22.7),
    "unlinkables": lambda: charts.unlinkables(np.array([5.0, 30.0, -np.inf]), threshold=22.7),
    "blocking_counts": lambda: charts.blocking_counts(PLAN),
    "counts": lambda: charts.counts("Sizes", [("1", 50), ("2", 0)], "persons"),
    "intervals": lambda: charts.intervals("Recall", [Row("a & b", 0.9, 0.8, 0.95, 0.5)], "pairs"),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_chart_stands_alone_and_keeps_within_its_frame(name: str, tmp_path: Path) -> None:
    chart = EVERY[name]()
    tree = ElementTree.fromstring(chart.svg)  # noqa: S314  # it is our own
    assert tree.find(f"{SVG}title").text and tree.find(f"{SVG}desc").text
    assert not re.search(r"style=|<script|<style|href=|url\(", chart.svg)
    _, _, width, height = map(float, tree.get("viewBox").split())
    for text in tree.iter(f"{SVG}text"):
        wide = len(text.text) * 6.5
        x, y = float(text.get("x")), float(text.get("y"))
        left = {"start": 0.0, "middle": wide / 2, "end": wide}[text.get("text-anchor") or "start"]
        assert x - left >= 0 and x - left + wide <= width and 0 < y < height, text.text
    for bar in tree.iter(f"{SVG}rect"):
        assert 0 <= float(bar.get("x") or 0) <= width and float(bar.get("width")) >= 0
    for ending in (".svg", ".html"):
        chart.save(tmp_path / f"chart{ending}")
        assert chart.svg in (tmp_path / f"chart{ending}").read_text()


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="saved as"):
        EVERY["counts"]().save(tmp_path / "chart.png")


def test_a_notebook_shows_a_chart() -> None:
    chart = EVERY["counts"]()
    assert chart._repr_svg_() == chart.svg


def test_every_level_has_its_weight() -> None:
    chart = charts.match_weights(MODEL)
    for name, comparison in MODEL.comparisons.items():
        for level, of in comparison.levels.items():
            for at, bits in enumerate(np.log2(np.divide(of.each("m"), of.each("u"))), start=1):
                told = f"{name}: {level}" + (f" {at} of {of.classes}" if of.classes > 1 else "")
                assert f"{told}: {bits:+.1f}" in chart.description
                assert f">{told}</text>" in chart.svg


def test_classes_of_frequency_are_told_apart() -> None:
    given = MODEL.comparisons["given"]
    levels = dict(given.levels)
    levels["exact"] = levels["exact"].model_copy(
        update={"frequencies": (0.01,), "m": (0.4, 0.409), "u": (0.0001, 0.0025)}
    )
    changed = {**MODEL.comparisons, "given": given.model_copy(update={"levels": levels})}
    text = charts.match_weights(MODEL.model_copy(update={"comparisons": changed})).description
    assert "given: exact 1 of 2: +12.0" in text and "given: exact 2 of 2: +7.4" in text


def test_a_waterfall_ends_where_the_weights_do() -> None:
    pattern = MODEL.pattern(**FULL, sex="differ")
    weight = MODEL.weights.of(np.array([pattern]))
    chart = charts.waterfall(MODEL, pattern)
    assert f"Sum {weight[0] + MODEL.prior_bits:+.1f} bits" in chart.description
    chance = float(probability(weight, MODEL.prior_bits)[0])
    assert f"probability {chance:.4g}" in chart.svg
    never = charts.waterfall(MODEL, MODEL.pattern(family="exact", given="differ"))
    assert "never linked" in never.svg


def test_the_curve_is_at_the_threshold_what_the_pairs_say() -> None:
    chart = charts.threshold_curve(MODEL, COUNTS, threshold=22.7)
    weight = MODEL.weights.of(COUNTS["pattern"].to_numpy())
    chance = probability(weight, MODEL.prior_bits) * COUNTS["pairs"].to_numpy()
    some = weight >= 22.7
    precision = chance[some].sum() / COUNTS["pairs"].to_numpy()[some].sum()
    recall = chance[some].sum() / chance.sum()
    assert 0.9 < precision < 0.99
    assert f"expected precision {charts.percent(precision)}" in chart.description
    assert f"expected recall {charts.percent(recall)}" in chart.description


def test_the_share_of_records_that_fall_short() -> None:
    weights = np.array([-np.inf, 10.0, 22.7, 30.0])
    chart = charts.unlinkables(weights, threshold=22.7)
    assert "records that cannot reach it 50.0 %" in chart.description
    assert "cannot reach it 75.0 %" in charts.unlinkables(weights, threshold=25).description
    assert "cannot reach it 100.0 %" in charts.unlinkables(weights, threshold=31).description


def test_two_models_are_compared_by_weights_and_pairs() -> None:
    told = charts.compared(MODEL, RARE, counts=COUNTS).description
    assert "given: initial: 4.0 and 0.4" in told
    # A full match keeps its side; three names alone fall below even odds.
    assert "by both models: 100; only by the first: 10; only by the second: 0" in told
    turned = charts.compared(RARE, MODEL, counts=COUNTS).description
    assert "only by the first: 0; only by the second: 10" in turned


def test_models_of_other_levels_are_not_compared() -> None:
    rest = {name: of for name, of in MODEL.comparisons.items() if name != "suffix"}
    with pytest.raises(UsageError, match="differ in comparisons"):
        charts.compared(MODEL, MODEL.model_copy(update={"comparisons": rest}))


def test_intervals_tell_what_is_hidden_and_expected() -> None:
    rows = [Row("a", 0.9, 0.8, 0.95, 0.97), Row("b", None)]
    told = charts.intervals("Recall", rows, "share of pairs").description
    assert told == "share of pairs. a: 90.0 % (80.0 % to 95.0 %), expected 97.0 %; b: hidden"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.999999, "> 99.99 %"),
        (0.9985, "99.85 %"),
        (0.98765, "98.8 %"),
        (0.00003, "< 0.01 %"),
        (None, "hidden"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert charts.percent(share) == text


def test_names_are_escaped() -> None:
    svg = charts.counts("<b>", [("<i> & co", 1.0)], "units").svg
    assert "<b>" not in svg and "<i>" not in svg and "&lt;i&gt; &amp; co" in svg
