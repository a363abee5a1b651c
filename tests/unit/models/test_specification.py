"""Model files: mistakes with their lines, and the schema that editors use."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from concord.errors import ConfigError, UsageError
from concord_models.churn import cohort
from concord_models.specification import ModelSpec, load_models, named, write_schema

ROOT = Path(__file__).resolve().parents[3]


def test_all_mistakes_of_a_model_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    text = text.replace("- days_since_mailed", "- race").replace("[2, 5]", "[5, 2]")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_models(tmp_path, {})
    told = "\n".join(raised.value.problems)
    line = text.splitlines().index("  - race") + 1
    assert f"other.yaml:{line}: features[1]: 'race' is not known" in told
    for words in ("the file is called other.yaml", "no such agreement", "least 5 is above most 2"):
        assert words in told


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="no model 'x'; conf/models has snap_churn"):
        named(load_models(ROOT / "conf"), "x")


def test_race_ethnicity_and_gender_are_no_features() -> None:
    spec = load_models(ROOT / "conf")["snap_churn"]
    assert not {"race", "ethnicity", "gender"} & set(spec.features)


def test_the_schema_is_that_of_the_type(tmp_path: Path) -> None:
    write_schema(tmp_path)
    made = json.loads((tmp_path / "model.schema.json").read_text())
    assert made == json.loads((ROOT / "conf/schemas/model.schema.json").read_text())
    assert made["title"] == ModelSpec.__name__


def test_a_label_counts_in_a_slice_only_if_the_next_slice_could_know_it() -> None:
    days = [date(2024, month, 28) for month in range(1, 9)]
    edges = cohort.boundaries(days, test_months=2, validation_months=2, lead_days=14)
    assert edges == cohort.Boundaries(date(2024, 5, 28), date(2024, 7, 28), 14)
    known = [date(2024, month + 1, 3) for month in range(1, 9)]
    known[3] = date(2024, 5, 15)  # April's came a day after the first as-of day of validation
    known[5] = date(2024, 7, 14)  # June's came on the first as-of day of the test slice
    rows = pd.DataFrame({"due_on": days, "label_known_on": known})
    found = cohort.split(rows, edges).tolist()
    train, validation, test = cohort.SLICES
    assert found == [train, train, train, "", validation, validation, test, test]


def test_too_few_months_make_no_slices() -> None:
    days = [date(2024, 1, 28), date(2024, 2, 28)]
    assert cohort.boundaries(days, test_months=1, validation_months=1, lead_days=14) is None
