"""What a champion reads beside what the model's file names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from concord.errors import UsageError
from concord.tracking import Registered
from concord_models.score import check_named
from concord_models.scorer import Calibration, EqualRecall, Linear, Scorer
from concord_models.specification import load_models
from tests.conftest import ROOT


def test_a_champion_that_reads_what_the_file_does_not_name_is_not_applied() -> None:
    spec = load_models(ROOT / "conf")["snap_churn"]
    feature = spec.features[0]
    scorer = Scorer(
        "logistic", (feature,), Calibration((0.0, 1.0), (0.2, 0.4)), {feature: "words"},
        {feature: "number"}, linear=Linear(0.1, (0.3,), (4.0,)),
        equal_recall=EqualRecall(("language", "age_band"), {"eng": 0.7}),
    )  # fmt: skip
    champion = Registered("concord.snap_churn", "3", "run", "source", {})
    check_named(scorer, spec, champion)
    with pytest.raises(UsageError) as refused:
        check_named(scorer, spec.model_copy(update={"equal_recall_of": ("age_band",)}), champion)
    assert str(refused.value) == (
        "lists of concord.snap_churn version 3 reach groups of language equally, which "
        "equal_recall_of in conf/models/snap_churn.yaml does not name; add them, or run concord "
        "train"
    )
    other = replace(scorer, features=(feature, "due_at_moon"))
    with pytest.raises(UsageError, match="version 3 needs due_at_moon, which .*snap_churn.yaml"):
        check_named(other, spec, champion)
