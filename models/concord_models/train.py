"""The `train` job: from an agreement's study to a registered model with the evidence beside it.

Decided (and logged) → the study's tables at recorded versions → features of every check-in whose
label is mature → train, validation and test by time → baselines, logistic regression, trees →
calibrated on validation, measured on test → logged and registered, and last the alias. A model
that was made from the same inputs is left alone.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from concord import tracking
from concord.agreements import access_log
from concord.agreements.decision import Decision
from concord.agreements.dula import Dula
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.run import Run
from concord.tracking import Store
from concord_models import evaluation, fitting, plots, studies, training_rows
from concord_models.backtest import LOGISTIC, Backtest, backtest, trial_name
from concord_models.card import card
from concord_models.churn import cohort
from concord_models.fitting import Slice, Trial
from concord_models.scorer import Scorer
from concord_models.specification import ModelSpec
from concord_models.studies import Held


@dataclass(frozen=True)
class Outcome:
    """What became of a training. `measures` are the test slice's, by model or baseline."""

    model: str
    status: str
    message: str
    version: str = ""
    run: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def train(
    run: Run,
    spec: ModelSpec,
    contracts: Mapping[str, Contract],
    register: Register,
) -> Outcome:
    """Trains and registers `spec`, unless it was trained from the same inputs before.

    Raises RefusedError (14), UsageError (no study, too few months), LockedError and
    InfrastructureError as they come.
    """
    seconds: dict[str, float] = {}
    dula = register.dula(spec.agreement, run.clock().date())
    if dula is None:
        raise register.unknown(spec.agreement)
    asked = training_rows.request(run, spec, dula)
    decision = access_log.ask(run, register, asked)
    reach("train.decided")
    if run.dry_run:
        held = studies.held(run, dula, contracts, training_rows.columns(spec))
        message = f"{held.rows} rows of {len(held.tables)} tables may be trained on"
        return Outcome(spec.registered_name, "would train", message)
    with (
        run.lake.locks.hold([f"models/{spec.registered_name}"]),
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        # MLflow's import and the making of its store take seconds; Spark looks at the study.
        opening = pool.submit(tracking.opened, run.settings)
        held = studies.held(run, dula, contracts, training_rows.columns(spec))
        inputs = inputs_digest(run.as_of, spec, held, decision)
        with _timed(seconds, "MLflow"):
            store = opening.result()
        before = store.made_from(spec.registered_name, inputs)
        if before:
            store.client.set_registered_model_alias(
                spec.registered_name, tracking.CHAMPION, before.version
            )
            return Outcome(
                spec.registered_name, "nothing to do", "nothing to do", before.version,
                before.run_id, seconds=seconds,
            )  # fmt: skip
        with _timed(seconds, "features"):
            slices = training_rows.slices(run, spec, held)
        access_log.record_reads(run, [access_log.Read(asked, decision, run.run_id, held.rows)])
        reach("train.features")
        outcome = _fit_and_log(run, spec, dula, decision, held, inputs, store, slices, seconds)
    run.tally.read.update(held.by_name)
    run.tally.rows_in += sum(slices.counts.values())
    return outcome


def inputs_digest(as_of: date, spec: ModelSpec, held: Held, decision: Decision) -> str:
    """Of all that a model follows from: the same digest, the same model."""
    return runs.digest(
        spec.model_dump(mode="json"),
        as_of,
        held.by_name,
        decision.policy_digest,
        decision.expires,
        tracking.code_digest(Path(__file__).parent),
    )


# --- fit, measure, log ---------------------------------------------------------------------------


def _fit_and_log(
    run: Run,
    spec: ModelSpec,
    dula: Dula,
    decision: Decision,
    held: Held,
    inputs: str,
    store: Store,
    slices: training_rows.Slices,
    seconds: dict[str, float],
) -> Outcome:
    experiment = store.experiment(spec.registered_name)
    store.end_interrupted(experiment, inputs)
    mlflow = store.mlflow
    tags = {
        **tracking.origin(Path(__file__).parent),
        tracking.INPUTS: inputs,
        tracking.RUN_ID: run.run_id,
        tracking.AGREEMENTS: dula.id,
        tracking.PURPOSES: dula.purpose.code,
        tracking.EXPIRES: str(decision.expires or dula.term.expires),
        tracking.POLICY_DIGEST: decision.policy_digest,
        tracking.DATA_VERSIONS: json.dumps(held.by_name, sort_keys=True),
        tracking.CONFIG_DIGEST: spec.identity,
        tracking.AS_OF: run.as_of.isoformat(),
    }
    name = f"{spec.name} as of {run.as_of}"
    with mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as active:
        with _timed(seconds, "log"):
            studies.log_inputs(run, held, store, "training")
        parts = slices.parts
        with _timed(seconds, "search"):
            trials = fitting.search(
                run.lake.spark, parts[cohort.TRAIN], parts[cohort.VALIDATION], spec
            )
        best = min(trials, key=lambda trial: (trial.loss, trial.number))
        with _timed(seconds, "log"):
            _log_trials(store, experiment, active.info.run_id, trials, tags)
        past = None
        if spec.temporal is not None:
            with _timed(seconds, "backtest"):
                past = backtest(
                    run.lake.spark, slices.rows, trials, spec, spec.temporal, spec.selection
                )
            best = next((t for t in trials if trial_name(t) == past.chosen.pick), best)
            with _timed(seconds, "log"):
                _log_backtest(store, spec, past)
        reach("train.searched")
        with _timed(seconds, "fit"):
            candidates = {
                "logistic": fitting.logistic(slices.train_frame, spec, slices.imputation),
                "xgboost": fitting.boosted(slices.train_frame, spec, best, slices.imputation),
            }
        reach("train.fitted")
        family = None
        if past is not None:
            family = LOGISTIC if past.chosen.pick == LOGISTIC else "xgboost"
        winner, scorer, measures, before = _choose(candidates, slices, spec, family)
        with _timed(seconds, "log"):
            groups = _log_evidence(store, spec, slices, scorer, winner, best, measures, before)
            made = card(
                spec, dula, winner=winner, tags=_told(tags), rows=slices.counts,
                days=slices.first_days, groups=groups, past=past,
                measures={name: by_slice[cohort.TEST] for name, by_slice in measures.items()},
            )  # fmt: skip
            mlflow.log_text(made.markdown(), "model_card.md")
            mlflow.log_text(made.page(), "model_card.html")
            version = _register(store, spec, dula, scorer, slices, tags, active.info.run_id)
        reach("train.registered")
        store.client.set_registered_model_alias(spec.registered_name, tracking.CHAMPION, version)
        reach("train.champion")
    test = {name: values[cohort.TEST] for name, values in measures.items()}
    chosen = test["champion"]
    message = (
        f"{spec.registered_name} version {version}: {winner}, test AUC {chosen['auc']:.3f}, "
        f"average precision {chosen['average_precision']:.3f} "
        f"(base rate {chosen['base_rate']:.3f})"
    )
    return Outcome(
        spec.registered_name, "trained", message, version, active.info.run_id, slices.counts, test,
        seconds,
    )  # fmt: skip


Measures = dict[str, dict[str, dict[str, float]]]


def _choose(
    candidates: Mapping[str, Scorer],
    slices: training_rows.Slices,
    spec: ModelSpec,
    winner: str | None,
) -> tuple[str, Scorer, Measures, Scorer]:
    """The winner (None: the best on the validation slice), calibrated there, and everything's
    measures by slice.

    Returns the winner's name, the calibrated scorer, measures by model and slice, and the scorer
    before calibration.
    """
    metrics, parts = spec.metrics, slices.parts

    def measured(part: Slice, probability: Any, score: Any) -> dict[str, float]:
        return evaluation.metrics(
            part.label, probability, score, part.lists,
            k=metrics.calls_per_office, bins=metrics.calibration_bins,
        )  # fmt: skip

    found: Measures = {}
    for name, baseline in fitting.baselines(parts[cohort.TRAIN], spec.features).items():
        found[name] = {
            key: measured(part, baseline(part), baseline(part)) for key, part in parts.items()
        }
    for name, scorer in candidates.items():
        found[name] = {
            key: measured(part, scorer.raw(part.rows), scorer.raw(part.rows))
            for key, part in parts.items()
        }
    better = -1 if metrics.select_by in {"auc", "average_precision"} else 1
    winner = winner or min(
        candidates, key=lambda name: better * found[name][cohort.VALIDATION][metrics.select_by]
    )
    raw = candidates[winner]
    validation = parts[cohort.VALIDATION]
    scorer = replace(
        raw, calibration=fitting.calibration(validation.label, raw.raw(validation.rows))
    )
    found["champion"] = {
        # Ordered by the uncalibrated score, as the lists are: calibration only adds ties.
        key: measured(part, scorer.probability(part.rows), raw.raw(part.rows))
        for key, part in parts.items()
    }
    return winner, scorer, found, raw


def _log_trials(
    store: Store, experiment: str, parent: str, trials: list[Trial], tags: Mapping[str, str]
) -> None:
    """A nested run for each trial, written by the driver."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    for trial in trials:
        own = {"mlflow.parentRunId": parent, tracking.INPUTS: tags[tracking.INPUTS]}
        made = store.client.create_run(experiment, tags=own, run_name=f"trial {trial.number}")
        store.client.log_batch(
            made.info.run_id,
            metrics=[
                Metric("validation_log_loss", trial.loss, now, 0),
                Metric("trees", trial.trees, now, 0),
            ],
            params=[Param(name, f"{value:g}") for name, value in trial.parameters.items()],
            tags=[RunTag("concord.trial", str(trial.number))],
        )
        store.client.set_terminated(made.info.run_id)


def _log_evidence(
    store: Store,
    spec: ModelSpec,
    slices: training_rows.Slices,
    scorer: Scorer,
    winner: str,
    best: Trial,
    measures: Measures,
    before: Scorer,
) -> list[dict[str, Any]]:
    """Logs parameters, measures and pictures. Returns recall by group, of the test slice."""
    mlflow = store.mlflow
    mlflow.log_params(
        {
            "model": spec.name,
            "winner": winner,
            "seed": spec.seed,
            "lead_days": spec.cohort.lead_days,
            "trees": best.trees,
            **{f"best_{name}": f"{value:g}" for name, value in best.parameters.items()},
            **{f"{name}_rows": count for name, count in slices.counts.items()},
            "validation_from": slices.boundaries.validation_from,
            "test_from": slices.boundaries.test_from,
        }
    )
    mlflow.log_metrics(
        {
            f"{model.split(' ')[0]}.{part}.{name}": value
            for model, by_part in measures.items()
            for part, values in by_part.items()
            for name, value in values.items()
            if not math.isnan(value)
        }
    )
    mlflow.log_dict(measures, "measures.json")
    test = slices.parts[cohort.TEST]
    k, bins = spec.metrics.calls_per_office, spec.metrics.calibration_bins
    raw, probability = before.raw(test.rows), scorer.probability(test.rows)
    figure = plots.calibration_plot(test.label, raw, probability, bins, "Calibration, test slice")
    mlflow.log_figure(figure, "calibration.png")
    rows: list[dict[str, Any]] = []
    if slices.groups:
        chosen = evaluation.called(raw, test.lists, k)
        rows = evaluation.recall_by_group(test.label, chosen, slices.groups)
        mlflow.log_dict({"calls_per_office": k, "groups": rows}, "recall_by_group.json")
        picture = plots.recall_plot(rows, k, "Recall by group, test slice")
        mlflow.log_figure(picture, "recall_by_group.png")
    mlflow.log_dict(spec.model_dump(mode="json"), "model.json")
    return rows


def _told(tags: Mapping[str, str]) -> dict[str, str]:
    """The run's tags in a card's words."""
    names = {
        tracking.AS_OF: "as of", tracking.EXPIRES: "expires", tracking.INPUTS: "inputs",
        tracking.DATA_VERSIONS: "tables and versions",
    }  # fmt: skip
    return {name: tags[tag] for tag, name in names.items()}


def _log_backtest(store: Store, spec: ModelSpec, past: Backtest) -> None:
    """What each candidate did at each split, and how the rules would have chosen."""
    mlflow = store.mlflow
    mlflow.log_dict(past.told, "backtest.json")
    mlflow.log_params({"selection_rule": past.chosen.rule, "selected": past.chosen.pick})
    picked = past.measures[past.chosen.pick]
    mlflow.log_metrics({"backtest.splits": float(len(past.splits))})
    for step, each in enumerate(picked):
        mlflow.log_metric(f"backtest.{spec.selection.metric}", each[spec.selection.metric], step)
    mlflow.log_figure(plots.stability_plot(past, spec.selection.metric), "stability.png")


def _register(
    store: Store,
    spec: ModelSpec,
    dula: Dula,
    scorer: Scorer,
    slices: training_rows.Slices,
    tags: Mapping[str, str],
    run_id: str,
) -> str:
    """Logs the model, registers a version, and marks it whole as the last step."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from concord_models.pyfunc import PROBABILITIES, SCORER_ARTIFACT, ScorerModel

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.double, n, required=False) for n in spec.features]),
        outputs=Schema([ColSpec(DataType.double, PROBABILITIES[spec.label.name])]),
    )
    # No household's row: each feature's median over the training slice.
    train_rows = slices.parts[cohort.TRAIN].rows
    # A feature that no row of the slice knows has no median.
    medians = [
        float(np.median(c[~np.isnan(c)])) if (~np.isnan(c)).any() else 0.0 for c in train_rows.T
    ]
    example = pd.DataFrame([dict(zip(spec.features, medians, strict=True))])
    with tempfile.TemporaryDirectory() as folder:
        scorer.save(Path(folder) / SCORER_ARTIFACT)
        logged = store.mlflow.pyfunc.log_model(
            name=spec.name,
            python_model=ScorerModel(spec.label.name),
            artifacts={SCORER_ARTIFACT: str(Path(folder) / SCORER_ARTIFACT)},
            signature=signature,
            input_example=example,
            # Named, for MLflow would load the model in a process of its own to find them out.
            pip_requirements=["concord", "numpy", "pandas", "xgboost-cpu"],
        )
    client = store.client
    if not any(m.name == spec.registered_name for m in client.search_registered_models()):
        client.create_registered_model(
            spec.registered_name, {tracking.AGREEMENTS: dula.id}, spec.title
        )
    made = client.create_model_version(
        spec.registered_name, logged.model_uri, run_id, tags=dict(tags), model_id=logged.model_id
    )
    client.set_model_version_tag(spec.registered_name, made.version, tracking.STATE, "whole")
    return str(made.version)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(seconds.get(stage, 0) + time.perf_counter() - began, 1)
