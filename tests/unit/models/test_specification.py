"""Model files: mistakes with their lines, and the schema that editors use."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from concord.contracts.schemas import write_schemas
from concord.errors import ConfigError, UsageError
from concord_models.churn import cohort
from concord_models.churn.blocks import BLOCKS, block_of, feature, names_of
from concord_models.churn.blocks import columns as feature_columns
from concord_models.churn.definitions import DEFINITIONS, Name
from concord_models.commands import schemas
from concord_models.score import read
from concord_models.specification import ModelSpec, load_models, named
from concord_models.training_rows import columns

ROOT = Path(__file__).resolve().parents[3]


def test_all_mistakes_of_a_model_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    text = text.replace("days_since_mailed,", "race,").replace("[2, 5]", "[5, 2]")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_models(tmp_path, {})
    told = "\n".join(raised.value.problems)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if "race, form_received" in line)
    assert f"other.yaml:{line}: features.checkin[1]: 'race' is not known" in told
    for words in ("the file is called other.yaml", "no such agreement", "least 5 is above most 2"):
        assert words in told


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="no model 'x'; conf/models has snap_churn"):
        named(load_models(ROOT / "conf"), "x")


def test_race_ethnicity_and_gender_are_no_features() -> None:
    spec = load_models(ROOT / "conf")["snap_churn"]
    assert not {"race", "ethnicity", "gender"} & set(spec.features)


@pytest.mark.parametrize("kind, title", [("model", "ModelSpec"), ("outcomes", "OutcomeStudy")])
def test_the_schemas_are_those_of_the_types(kind: str, title: str, tmp_path: Path) -> None:
    write_schemas(tmp_path, schemas())
    made = json.loads((tmp_path / f"{kind}.schema.json").read_text())
    assert made == json.loads((ROOT / f"conf/schemas/{kind}.schema.json").read_text())
    assert made["title"] == title


def of(tmp_path: Path, features: str) -> ModelSpec:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    before, _, rest = text.partition("\nfeatures:")
    after = rest[rest.index("\naudit:") :]
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models/snap_churn.yaml").write_text(f"{before}\nfeatures: {features}\n{after}")
    return load_models(tmp_path)["snap_churn"]


def test_features_are_named_by_block_name_and_window(tmp_path: Path) -> None:
    short = of(
        tmp_path, "{contacts: [contacts, asked_45, days_since_asked], wages: [wages_change]}"
    )
    assert short.features == (
        "contacts_30", "contacts_90", "contacts_180", "asked_45", "days_since_asked",
        "wages_change",
    )  # fmt: skip
    wide = of(
        tmp_path, "{claims: {windows: [7, 14]}, card: {names: [spent, spent_90], windows: [5]}}"
    )
    assert wide.features == (
        "ui_claims_7", "ui_claims_14", "ui_benefits_7", "ui_benefits_14", "days_since_claim",
        "spent_5", "spent_90",
    )  # fmt: skip
    assert of(tmp_path, "{office: all}").features == names_of("office")
    assert feature("spent_5").words == "dollars spent by card within 5 days"
    assert feature("spent_5_missing").words == "not known: dollars spent by card within 5 days"
    assert len(short.identity) == len(wide.identity) and short.identity != wide.identity
    assert ModelSpec.model_validate(wide.model_dump(mode="json")) == wide


@pytest.mark.parametrize(
    "features, told",
    [
        ("{contakts: all}", "features.contakts: there is no such block; use checkin, office"),
        ("{case: {windows: [30]}}", "features.case.windows: nothing in this block has a window"),
        (
            "{contacts: [spent_30]}",
            r"features.contacts\[0\]: 'spent_30' is not known; use contacts",
        ),
        ("{contacts: [asked_0]}", "'asked_0' is not known"),
        ("{contacts: ['asked_{days}']}", "is not known"),
        ("{contacts: {names: [asked, asked_90]}}", r"names\[1\]: 'asked_90' stands twice"),
        ("{}", "at least 1"),
    ],
)
def test_a_mistake_in_the_blocks_says_where(features: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        of(tmp_path, features)


def test_every_feature_has_one_block_and_its_words() -> None:
    names = [name for block in BLOCKS for name in names_of(block)]
    assert len(set(names)) == len(names)
    for name in names:
        assert name in names_of(block_of(name) or "") and "{" not in feature(name).words


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


def test_the_last_day_to_train_on_is_earlier_by_the_window_of_a_return() -> None:
    days = [date(2024, month, 28) for month in range(1, 9)]
    edges = cohort.boundaries(days, test_months=2, validation_months=2, lead_days=14)
    assert edges is not None and edges.validation_from == date(2024, 5, 28)
    # The file of the due month comes on the third of the next; the one that tells of the thirtieth
    # day after it a month later.
    closed, returned = (
        [date(2024 + (month + late) // 13, (month + late - 1) % 12 + 1, 3) for month in range(1, 9)]
        for late in (1, 2)
    )
    last = {}
    for name, known in (("y_proc", closed), ("y_churn", returned)):
        rows = pd.DataFrame({"due_on": days, "label_known_on": known})
        slices = cohort.split(rows, edges)
        last[name] = [rows["due_on"][slices == part].max() for part in cohort.SLICES[:2]]
    # The split less lead and window: 28 May less 14 and 30 days is 14 April.
    assert last["y_proc"] == [date(2024, 4, 28), date(2024, 6, 28)]
    assert last["y_churn"] == [date(2024, 3, 28), date(2024, 5, 28)]


def test_as_ofs_of_one_check_in_share_its_slice() -> None:
    days = [date(2024, month, 28) for month in range(1, 9) for _ in range(4)]
    edges = cohort.boundaries(days, test_months=2, validation_months=2, lead_days=45)
    assert edges is not None and edges.lead_days == 45
    rows = pd.DataFrame({"due_on": days, "label_known_on": [d + timedelta(days=6) for d in days]})
    found = cohort.split(rows, edges)
    assert found.groupby(rows["due_on"]).nunique().eq(1).all()
    # A model in use at the first as-of day, 45 days before 28 May, knew March's labels.
    assert rows["due_on"][found == cohort.TRAIN].max() == date(2024, 3, 28)


def test_lead_days_are_one_number_or_several(tmp_path: Path) -> None:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "snap_churn.yaml"
    assert load_models(ROOT / "conf")["snap_churn"].cohort.leads == (14,)
    path.write_text(text.replace("lead_days: 14", "lead_days: [7, 45, 14, 30]"))
    assert load_models(tmp_path)["snap_churn"].cohort.leads == (45, 30, 14, 7)
    for wrong, told in (("[7, 7]", "stands twice"), ("[]", "at least 1"), ("[0, 7]", "greater")):
        path.write_text(text.replace("lead_days: 14", f"lead_days: {wrong}"))
        with pytest.raises(ConfigError, match=told):
            load_models(tmp_path)


def test_a_label_of_return_names_its_definition(tmp_path: Path) -> None:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "snap_churn.yaml"
    path.write_text(text.replace("name: y_proc", "name: y_churn\n  definition: ma_30d"))
    spec = load_models(tmp_path)["snap_churn"]
    assert spec.label.definition == "ma_30d"
    own = feature_columns(spec.features).keys()
    assert columns(spec).keys() == {*own, "dta_snap.issuances"}
    assert columns(load_models(ROOT / "conf")["snap_churn"]).keys() == own
    assert set(DEFINITIONS) == set(get_args(Name))
    for wrong in ("name: y_churn", "name: y_proc\n  definition: ma_30d"):
        path.write_text(text.replace("name: y_proc", wrong))
        with pytest.raises(ConfigError, match="needs one of fns_4m, ma_30d, ca_90d, sf_1m; y_proc"):
            load_models(tmp_path)


def test_a_score_reads_the_groups_that_lists_reach_equally_and_no_others(tmp_path: Path) -> None:
    text = (ROOT / "conf/models/snap_churn.yaml").read_text()
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "snap_churn.yaml"
    line = "equal_recall_of: [language, age_band]"
    assert line in text
    spec = load_models(ROOT / "conf")["snap_churn"]
    assert read(spec) == feature_columns(spec.features, audit=True)
    path.write_text(text.replace(line, "equal_recall_of: []"))
    assert read(load_models(tmp_path)["snap_churn"]) == feature_columns(spec.features)
    path.write_text(text.replace(line, "equal_recall_of: [language, town]"))
    with pytest.raises(ConfigError, match=r"equal_recall_of\[1\]: 'town' is not in audit"):
        load_models(tmp_path)


def test_too_few_months_make_no_slices() -> None:
    days = [date(2024, 1, 28), date(2024, 2, 28)]
    assert cohort.boundaries(days, test_months=1, validation_months=1, lead_days=14) is None
