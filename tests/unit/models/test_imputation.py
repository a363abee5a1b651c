"""What stands in for unknown values, and that it is learnt from training rows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concord.errors import ConfigError
from concord_models import fitting
from concord_models.fitting import Slice
from concord_models.imputation import Fill, Imputation, learnt
from concord_models.scorer import Calibration, Linear, Scorer, load
from concord_models.specification import ModelSpec, load_models

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("a", "b", "c", "d", "e")
ROWS = np.array(
    [
        [1, 2, 3, 4, np.nan],
        [3, np.nan, 30, 4, np.nan],
        [np.nan, 4, 4, np.nan, np.nan],
        [8, 1, 4, 4, np.nan],
    ]
)
FILLS = {
    "a": Fill(how="mean", flag=True),
    "b": Fill(how="zero"),
    "c": Fill(how="median"),
    "d": Fill(how="constant", value=-1, flag=True),
    "e": Fill(how="mean"),
}


def spec(tmp_path: Path, imputation: str) -> ModelSpec:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    before, _, rest = text.partition("\nimputation:")
    after = rest[rest.index("\naudit:") :]
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models" / "snap_churn.yaml").write_text(f"{before}\n{imputation}\n{after}")
    return load_models(tmp_path)["snap_churn"]


def test_each_way_to_fill() -> None:
    made = learnt(ROWS, NAMES, FILLS)
    assert made.inputs(NAMES) == (*NAMES, "a_missing", "d_missing")
    found = made(np.full((1, 5), np.nan), NAMES)
    assert found.tolist() == [[4, 0, 4, -1, 0, 1, 1]]
    assert made(ROWS, NAMES)[0].tolist() == [1, 2, 3, 4, 0, 0, 0], "what is known stays"
    left = learnt(ROWS, NAMES, {"a": Fill(how="missing", flag=True)})(ROWS, NAMES)
    assert np.isnan(left[2, 0]) and left[:, 5].tolist() == [0, 0, 1, 0]


def test_it_is_learnt_from_the_training_slice_alone(tmp_path: Path) -> None:
    own = spec(tmp_path, "imputation: {earned_income: {how: mean, flag: true}}")
    place = own.features.index("earned_income")

    def part(value: float) -> Slice:
        rows = np.full((4, len(own.features)), value)
        rows[0, place] = np.nan
        return Slice(rows, np.array([0, 1, 0, 1]), (("office", "due", "as of"),) * 4)

    for other in (part(1e6), part(-5.0)):
        train, validation = fitting.imputed(own, part(10.0), other)
        assert train.rows[0, place] == validation.rows[0, place] == 10.0
        assert validation.rows[:, -1].tolist() == [1, 0, 0, 0]
        assert validation.rows[1, place] == other.rows[1, place]


def test_a_scorer_carries_what_was_learnt(tmp_path: Path) -> None:
    made = learnt(ROWS, NAMES, FILLS)
    weights = (1.0, 0.5, 0.25, 1.0, 1.0, 3.0, -2.0)
    inputs = made.inputs(NAMES)
    scorer = Scorer(
        "logistic", NAMES, Calibration(), {n: f"word {n}" for n in inputs},
        dict.fromkeys(inputs, "number"), linear=Linear(0.1, weights, (0.0,) * 7), imputation=made,
    )  # fmt: skip
    scorer.save(tmp_path)
    kept = load(tmp_path)
    assert kept == scorer
    filled = made(ROWS, NAMES)
    expected = 1 / (1 + np.exp(-(0.1 + filled @ np.array(weights))))
    np.testing.assert_allclose(kept.raw(ROWS), expected, rtol=1e-12)
    assert kept.reasons(ROWS)[2][:2] == ["word a: not known", "word a_missing: 1"]


def test_a_scorer_without_it_takes_rows_as_they_are(tmp_path: Path) -> None:
    assert Imputation()(ROWS, NAMES) is not ROWS
    np.testing.assert_array_equal(Imputation()(ROWS, NAMES), ROWS)
    assert Imputation().inputs(NAMES) == NAMES


def test_a_feature_comes_before_its_block(tmp_path: Path) -> None:
    own = spec(tmp_path, "imputation: {wages: zero, wages_change: {how: constant, value: 2}}")
    assert own.fills["wages_last_quarter"].how == "zero"
    assert own.fills["wages_change"] == Fill(how="constant", value=2)
    assert "earned_income" not in own.fills
    for wrong, told in (
        ("imputation: {wagez: zero}", "is no block and no feature of this model"),
        ("imputation: {wages: {how: constant}}", "a constant needs `value: <number>`"),
    ):
        with pytest.raises(ConfigError, match=told):
            spec(tmp_path, wrong)
