"""The search for the parameters of gradient-boosted trees: hyperopt's TPE (Bergstra et al. 2011),
each trial a task of Spark on one machine.

Trials run side by side, yet a search repeated is the same search, and one that was cut short goes
on as if it had not been. Trial t is drawn with a seed of its own, from the results of the trials up
to t - parallelism alone, and waits for them; which of the others has ended by chance does not
matter.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import xgboost
from pyspark import SparkContext
from pyspark.sql import SparkSession

from concord.errors import InfrastructureError
from concord_models.fitting import Slice, imputed, quiet
from concord_models.specification import ModelSpec, Space

# Seconds between two looks at trials that are out.
PATIENCE = 0.05


@dataclass(frozen=True)
class Trial:
    """One point of the search: parameters, trees at early stopping, the validation's log loss."""

    number: int
    parameters: Mapping[str, float]
    trees: int
    loss: float


@dataclass(frozen=True)
class Searched:
    """Trials that came to an end, in the order they were drawn, and the numbers of those lost: a
    worker that died under one, or a fit that failed."""

    trials: tuple[Trial, ...]
    lost: tuple[int, ...]

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: (trial.loss, trial.number))


def search(
    spark: SparkSession,
    train: Slice,
    validation: Slice,
    spec: ModelSpec,
    *,
    earlier: Sequence[Trial] = (),
    ended: Callable[[Trial], None] = lambda trial: None,
) -> Searched:
    """The trials of `spec.search`. `earlier`: those of a search that was cut short, which are not
    run again. `ended` is called on the driver as each new trial ends, from a thread of its own.

    A trial that is lost is told of and the search goes on. Raises InfrastructureError when none
    comes to an end; what `ended` raises ends the search.
    """
    from hyperopt import fmin

    space = spec.search.space
    train, validation = imputed(spec, train, validation)
    data = spark.sparkContext.broadcast((*_sample(train, spec), validation.rows, validation.label))
    objective = _objective(data, spec)
    told = {trial.number for trial in earlier}
    failure: list[Exception] = []

    def watch(trials: Any, *_: Any) -> tuple[bool, list[Any]]:
        """hyperopt's hook for early stopping, called as trials end."""
        try:
            for trial in _ended(trials, space, told):
                told.add(trial.number)
                ended(trial)
        except Exception as error:
            # In hyperopt's own thread, where it would be lost and the search never end.
            failure.append(error)
        return bool(failure), []

    trials = _trials(spark, spec, earlier)
    try:
        with quiet(), _looking_often():
            fmin(
                objective,
                _hyperopt(space),
                algo=_suggest(spec),
                max_evals=spec.search.trials,
                trials=trials,
                rstate=np.random.default_rng(spec.seed),
                early_stop_fn=watch,
                show_progressbar=False,
                verbose=False,
                return_argmin=False,
            )
    except Exception as error:
        # What a failed task says can quote rows.
        failure.append(
            InfrastructureError(
                f"train: the search failed with {type(error).__name__}; run this again"
            )
        )
    finally:
        data.unpersist()
    if failure:
        raise failure[0] from None
    watch(trials)
    if failure:
        raise failure[0] from None
    found = tuple(_ended(trials, space))
    if not found:
        raise InfrastructureError("train: every trial of the search was lost; run this again")
    lost = {int(doc["tid"]) for doc in trials._dynamic_trials} - {trial.number for trial in found}
    return Searched(found, tuple(sorted(lost)))


@contextmanager
def _looking_often() -> Iterator[None]:
    """hyperopt has no setting for how often it looks at its trials: once a second, and once more to
    send them out. Eight trials of half a second took ten seconds of waiting."""
    loops = [importlib.import_module(f"hyperopt.{name}") for name in ("fmin", "spark")]
    often = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, PATIENCE)))
    try:
        for loop in loops:
            loop.time = often  # type: ignore[attr-defined]  # a module's own import
        yield
    finally:
        for loop in loops:
            loop.time = time  # type: ignore[attr-defined]  # as it was


def whole(parameters: Mapping[str, float]) -> dict[str, float]:
    """Parameters as xgboost wants them: whole numbers where it counts."""
    return {
        name: int(value) if name == "max_depth" else float(value)
        for name, value in sorted(parameters.items())
    }


def _sample(train: Slice, spec: ModelSpec) -> tuple[Any, Any]:
    """At most `sample_rows` of the training rows: a trial fits on one machine."""
    size = len(train.label)
    if size <= spec.search.sample_rows:
        return train.rows, train.label
    drawn = np.random.default_rng(spec.seed).choice(size, spec.search.sample_rows, replace=False)
    chosen = np.sort(drawn)
    return train.rows[chosen], train.label[chosen]


def _objective(data: Any, spec: ModelSpec) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    rounds, patience, seed = spec.search.rounds, spec.search.early_stopping, spec.seed

    def objective(parameters: Mapping[str, Any]) -> dict[str, Any]:
        rows, label, other_rows, other_label = data.value
        fit = xgboost.DMatrix(rows.astype(np.float32), label)
        held = xgboost.DMatrix(other_rows.astype(np.float32), other_label)
        booster = xgboost.train(
            {**whole(parameters), "objective": "binary:logistic", "eval_metric": "logloss",
             "seed": seed, "nthread": 1, "verbosity": 0},
            fit,
            num_boost_round=rounds,
            evals=[(held, "held")],
            early_stopping_rounds=patience,
            verbose_eval=False,
        )  # fmt: skip
        found = {"loss": float(booster.best_score), "trees": int(booster.best_iteration) + 1}
        return {**found, "status": "ok"}

    return objective


def _hyperopt(space: Space) -> dict[str, Any]:
    from hyperopt import hp

    return {
        name: hp.quniform(name, least, most, 1)
        if name == "max_depth"
        else hp.uniform(name, least, most)
        if name in {"subsample", "colsample_bytree"}
        else hp.loguniform(name, math.log(least), math.log(most))
        for name, (least, most) in space
    }


def _suggest(spec: ModelSpec) -> Callable[[list[int], Any, Any, int], list[Any]]:
    from hyperopt import JOB_STATE_NEW, JOB_STATE_RUNNING, tpe, trials_from_docs

    def suggest(numbers: list[int], domain: Any, trials: Any, _: int) -> list[Any]:
        (number,) = numbers
        until = number - spec.search.parallelism
        waited = [doc for doc in trials._dynamic_trials if doc["tid"] <= until]
        while any(doc["state"] in {JOB_STATE_NEW, JOB_STATE_RUNNING} for doc in waited):
            if trials._fmin_cancelled:
                return []
            time.sleep(PATIENCE)
        seen = trials_from_docs(sorted(waited, key=lambda doc: doc["tid"]), validate=False)
        seed = int(np.random.default_rng([spec.seed, number]).integers(2**31 - 1))
        drawn: list[Any] = tpe.suggest(
            numbers, domain, seen, seed, n_startup_jobs=spec.search.random_first, verbose=False
        )
        return drawn

    return suggest


class _InputRead:
    """A Spark context whose tasks read their input, as those of hyperopt don't. Spark ends a worker
    whose task left some unread: each trial would import all anew, some 3 s of CPU time."""

    def __init__(self, context: SparkContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def parallelize(self, rows: Sequence[Any], partitions: int | None = None) -> Any:
        return self._context.parallelize(rows, partitions).mapPartitions(list)


def _trials(spark: SparkSession, spec: ModelSpec, earlier: Sequence[Trial]) -> Any:
    """hyperopt's SparkTrials, beginning with what was found before; what is missing is numbered."""
    from hyperopt import JOB_STATE_DONE, SparkTrials
    from hyperopt.utils import coarse_utcnow

    class Numbered(SparkTrials):  # type: ignore[misc]  # hyperopt has no types
        """A trial that was cut short gets its own number again, and so its own seed."""

        def new_trial_ids(self, n: int) -> list[int]:
            free = (number for number in range(len(self._ids) + n) if number not in self._ids)
            found = [number for number, _ in zip(free, range(n), strict=False)]
            self._ids.update(found)
            return found

    session = SimpleNamespace(sparkContext=_InputRead(spark.sparkContext), conf=spark.conf)
    trials = Numbered(parallelism=spec.search.parallelism, spark_session=session)
    now = coarse_utcnow()
    docs = trials.new_trial_docs(
        [trial.number for trial in earlier],
        [None for _ in earlier],
        [{"status": "ok", "loss": trial.loss, "trees": trial.trees} for trial in earlier],
        [
            {
                "tid": trial.number,
                "cmd": ("domain_attachment", "FMinIter_Domain"),
                "workdir": None,
                "idxs": {name: [trial.number] for name in trial.parameters},
                "vals": {name: [value] for name, value in trial.parameters.items()},
            }
            for trial in earlier
        ],
    )
    for doc in docs:
        doc.update(state=JOB_STATE_DONE, book_time=now, refresh_time=now)
    trials.insert_trial_docs(docs)
    trials.refresh()
    return trials


def _ended(trials: Any, space: Space, known: Collection[int] = ()) -> list[Trial]:
    """The trials that came to an end, but for those `known`."""
    from hyperopt import JOB_STATE_DONE, space_eval

    found = []
    for doc in list(trials._dynamic_trials):
        if doc["state"] == JOB_STATE_DONE and int(doc["tid"]) not in known:
            values = {name: drawn[0] for name, drawn in doc["misc"]["vals"].items()}
            result = doc["result"]
            parameters = whole(space_eval(_hyperopt(space), values))
            found.append(Trial(int(doc["tid"]), parameters, result["trees"], result["loss"]))
    return sorted(found, key=lambda trial: trial.number)
