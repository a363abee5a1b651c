"""The search: the same whenever it is repeated, goes on where it was cut short, survives a loss."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError
from concord_models import search as searching
from concord_models.fitting import Slice
from concord_models.search import Trial, search
from concord_models.specification import ModelSpec, load_models

pytestmark = pytest.mark.spark
ROOT = Path(__file__).resolve().parents[2]
TRIALS, RANDOM = 7, 3


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    found = load_models(ROOT / "conf")["snap_churn"]
    few = {"trials": TRIALS, "random_first": RANDOM, "rounds": 30, "parallelism": 2}
    two = {"household": ("adults", "head_age")}
    search = found.search.model_copy(update=few)
    return found.model_copy(update={"search": search, "blocks": two, "imputation": {}})


def part(seed: int, rows: int = 400) -> Slice:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(rows, 2))
    label = (draw.random(rows) < 1 / (1 + np.exp(-2 * values[:, 0] * values[:, 1]))).astype(int)
    return Slice(values, label, tuple(("office", "week") for _ in range(rows)))


@pytest.fixture(scope="module")
def whole(spark: SparkSession, spec: ModelSpec) -> tuple[Trial, ...]:
    told: list[Trial] = []
    found = search(spark, part(1), part(2), spec, ended=told.append)
    assert sorted(told, key=lambda trial: trial.number) == list(found.trials)
    assert [each.number for each in found.trials] == list(range(TRIALS)) and not found.lost
    assert found.best.loss == min(each.loss for each in found.trials)
    return found.trials


def test_points_are_within_the_space(whole: tuple[Trial, ...], spec: ModelSpec) -> None:
    for trial in whole:
        for name, (least, most) in spec.search.space:
            assert least <= trial.parameters[name] <= most
        assert trial.parameters["max_depth"] == int(trial.parameters["max_depth"])
    assert len({tuple(trial.parameters.values()) for trial in whole}) == TRIALS


def test_a_search_that_was_cut_short_goes_on_as_if_it_had_not_been(
    spark: SparkSession, spec: ModelSpec, whole: tuple[Trial, ...]
) -> None:
    """Trial 2 was under way when it ended, while 3 had come to its end; TPE draws the last ones."""
    earlier = [whole[0], whole[1], whole[3]]
    told: list[int] = []
    found = search(
        spark, part(1), part(2), spec, earlier=earlier, ended=lambda t: told.append(t.number)
    )
    assert found.trials == whole
    assert sorted(told) == [2, 4, 5, 6], "what had ended is not run again"


def test_the_later_trials_follow_what_the_first_found(
    spark: SparkSession, spec: ModelSpec, whole: tuple[Trial, ...]
) -> None:
    """With the losses of the first turned round TPE goes elsewhere."""
    other = [Trial(t.number, t.parameters, t.trees, -t.loss) for t in whole[:5]]
    found = search(spark, part(1), part(2), spec, earlier=other)
    assert found.trials[5:] != whole[5:]


def test_a_trial_whose_worker_dies_is_lost_and_the_search_goes_on(
    spark: SparkSession, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch,
    whole: tuple[Trial, ...], tmp_path: Path,
) -> None:  # fmt: skip
    fits, first = searching._objective, str(tmp_path / "died")

    def dying(data: object, given: ModelSpec) -> object:
        fit = fits(data, given)

        def objective(parameters: dict[str, float]) -> dict[str, object]:
            try:
                Path(first).touch(exist_ok=False)
            except FileExistsError:
                return fit(parameters)
            os.kill(os.getpid(), signal.SIGKILL)
            return {}

        return objective

    monkeypatch.setattr(searching, "_objective", dying)
    found = search(spark, part(1), part(2), spec)
    assert len(found.lost) == 1 and len(found.trials) == TRIALS - 1
    assert {t.number for t in found.trials} == set(range(TRIALS)) - set(found.lost)
    random = {t.number: t for t in whole[:RANDOM]}
    assert all(t == random[t.number] for t in found.trials if t.number < RANDOM)


def test_trials_share_their_workers(
    spark: SparkSession, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def who(data: object, given: ModelSpec) -> object:
        def objective(parameters: dict[str, float]) -> dict[str, object]:
            return {"loss": float(os.getpid()), "trees": 1, "status": "ok"}

        return objective

    monkeypatch.setattr(searching, "_objective", who)
    found = search(spark, part(1), part(2), spec)
    workers = {trial.loss for trial in found.trials}
    assert len(workers) <= spec.search.parallelism < TRIALS == len(found.trials)


def test_when_all_are_lost_it_says_so(
    spark: SparkSession, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(data: object, given: ModelSpec) -> object:
        def objective(parameters: dict[str, float]) -> dict[str, object]:
            raise ValueError("the row of a person")

        return objective

    monkeypatch.setattr(searching, "_objective", failing)
    with pytest.raises(InfrastructureError, match="every trial of the search was lost") as told:
        search(spark, part(1), part(2), spec)
    assert "person" not in str(told.value)


def test_what_keeps_the_records_may_end_the_search(spark: SparkSession, spec: ModelSpec) -> None:
    def away(trial: Trial) -> None:
        raise InfrastructureError("MLflow is away")

    with pytest.raises(InfrastructureError, match="MLflow is away"):
        search(spark, part(1), part(2), spec, ended=away)
