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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame

from concord import tracking
from concord.agreements import access_log
from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import UsageError
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.run import Run
from concord.tracking import Store
from concord_models import evaluation, fitting, plots, studies
from concord_models.backtest import LOGISTIC, Backtest, backtest, trial_name
from concord_models.card import card
from concord_models.churn import cohort, definitions
from concord_models.churn.features import AUDIT, AUDIT_COLUMNS, COLUMNS, audit, features
from concord_models.fitting import Slice, Trial
from concord_models.scorer import Scorer, matrix
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


@dataclass(frozen=True)
class Slices:
    """The rows on the driver, whole and by slice, and the training rows on Spark."""

    rows: pd.DataFrame
    train_frame: DataFrame
    parts: Mapping[str, Slice]
    groups: Mapping[str, list[str]]
    boundaries: cohort.Boundaries

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(part.label) for name, part in self.parts.items()}

    @property
    def first_days(self) -> dict[str, str]:
        """The day on which the first check-in of each slice falls due."""
        first = self.rows.groupby(cohort.SPLIT)[cohort.DUE].min()
        return {name: str(first[name]) for name in self.parts}


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
    asked = request(run, spec, dula)
    decision = access_log.ask(run, register, asked)
    reach("train.decided")
    if run.dry_run:
        held = studies.held(run, dula, contracts, columns(spec))
        message = f"{held.rows} rows of {len(held.tables)} tables may be trained on"
        return Outcome(spec.registered_name, "would train", message)
    with (
        run.lake.locks.hold([f"models/{spec.registered_name}"]),
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        # MLflow's import and the making of its store take seconds; Spark looks at the study.
        opening = pool.submit(tracking.opened, run.settings)
        held = studies.held(run, dula, contracts, columns(spec))
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
            slices = _slices(run, spec, held)
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


def label_columns(spec: ModelSpec) -> Mapping[str, frozenset[str]]:
    """Columns by table that the label is told from."""
    own = {"dta_snap.checkins": cohort.COLUMNS}
    return _joined(own, definitions.COLUMNS) if spec.label.definition else own


def columns(spec: ModelSpec) -> dict[str, frozenset[str]]:
    """Columns by table that training reads: of features, of the audit, of the label."""
    return _joined(COLUMNS, AUDIT_COLUMNS if spec.audit else {}, label_columns(spec))


def _joined(*several: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    names = dict.fromkeys(name for each in several for name in each)
    return {n: frozenset().union(*(each.get(n, ()) for each in several)) for n in names}


def request(run: Run, spec: ModelSpec, dula: Dula) -> Request:
    """What a training asks of its agreement."""
    return Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="train",
        columns=columns(spec),
        as_of=run.as_of,
        linkages=frozenset({frozenset(columns(spec))}),
    )


# --- rows ----------------------------------------------------------------------------------------


def _slices(run: Run, spec: ModelSpec, held: Held) -> Slices:
    """Features and labels of every row, once on Spark, then sliced by time."""
    frames = held.frames(run, columns(spec))
    known = labels(spec, frames, run.as_of)
    parts_of = [_rows(spec, frames, days) for days in spec.cohort.leads]
    whole = reduce(DataFrame.unionByName, parts_of).join(known, [*cohort.KEY], "inner")
    # Collected once, sorted: what follows sees the rows in one order, whatever Spark did, and its
    # queries do not carry the whole plan. Some 400 bytes a row: a million rows fit a driver.
    order = [*cohort.KEY, cohort.AS_OF]
    local = whole.toPandas().sort_values(order, kind="stable", ignore_index=True)
    edges = slice_edges(spec, sorted(set(local[cohort.DUE])), run.as_of)
    local[cohort.SPLIT] = cohort.split(local, edges)
    parts = {name: _part(local, name, spec) for name in cohort.SLICES}
    for name, part in parts.items():
        if not 0 < part.label.sum() < len(part.label):
            raise UsageError(
                f"{spec.name}: the {name} slice has {len(part.label)} check-ins of which "
                f"{int(part.label.sum())} closed; a model needs both kinds"
            )
    test = local[local[cohort.SPLIT] == cohort.TEST]
    groups_of = {name: test[f"_audit_{name}"].astype(str).tolist() for name in spec.audit}
    own = local[local[cohort.SPLIT] == cohort.TRAIN][[*cohort.KEY, *spec.features, cohort.LABEL]]
    train_frame = run.lake.spark.createDataFrame(pa.Table.from_pandas(own, preserve_index=False))
    return Slices(local, train_frame, parts, groups_of, edges)


def slice_edges(spec: ModelSpec, due_days: Sequence[date], as_of: date) -> cohort.Boundaries:
    """Where train, validation and test meet. Raises UsageError when there are too few months."""
    months = spec.splits
    edges = cohort.boundaries(
        due_days,
        test_months=months.test_months,
        validation_months=months.validation_months,
        lead_days=max(spec.cohort.leads),
    )
    least = months.test_months + months.validation_months + months.least_train_months
    counted = len({day.replace(day=1) for day in due_days})
    if edges is None or counted < least:
        raise UsageError(
            f"{spec.name}: check-ins with a mature label at {as_of} fall in {counted} months, "
            f"{least} are needed; wait for more deliveries, name a later --as-of, or shorten "
            "splits in the model's file"
        )
    return edges


def labels(spec: ModelSpec, frames: Mapping[str, DataFrame], as_of: date) -> DataFrame:
    """study_case_id, due_on, label, label_known_on: the labels that are mature at `as_of`.

    `frames` has the tables of label_columns.
    """
    closed = cohort.labels(
        frames["dta_snap.checkins"],
        closure_reasons=spec.label.closure_reasons,
        mature_after_days=spec.label.mature_after_days,
        as_of=as_of,
    )
    if spec.label.definition is None:
        return closed
    definition = definitions.DEFINITIONS[spec.label.definition]
    churn = definitions.events(definition, definitions.exits(frames, as_of=as_of))
    return cohort.churn_labels(closed, churn, frames["dta_snap.cases"], definition, as_of=as_of)


def _rows(spec: ModelSpec, frames: Mapping[str, DataFrame], days: int) -> DataFrame:
    """Features, and groups to audit by, as of so many days before the check-ins fall due."""
    rows = cohort.open_checkins(frames["dta_snap.checkins"], cohort.lead(days))
    found = features(rows, frames)
    if not spec.audit:
        return found
    groups = audit(rows.select(*cohort.KEY, cohort.AS_OF), frames["dta_snap.persons"])
    named = groups.drop(cohort.AS_OF).withColumnsRenamed({n: f"_audit_{n}" for n in AUDIT})
    return found.join(named, [*cohort.KEY], "left")


def _part(local: pd.DataFrame, name: str, spec: ModelSpec) -> Slice:
    own = local[local[cohort.SPLIT] == name]
    rows = matrix({column: own[column] for column in spec.features}, spec.features)
    names = (own[name].astype(str) for name in ("office", cohort.DUE, cohort.AS_OF))
    lists = tuple(zip(*names, strict=True))
    return Slice(rows, own[cohort.LABEL].to_numpy(dtype=np.int64), lists)


# --- fit, measure, log ---------------------------------------------------------------------------


def _fit_and_log(
    run: Run,
    spec: ModelSpec,
    dula: Dula,
    decision: Decision,
    held: Held,
    inputs: str,
    store: Store,
    slices: Slices,
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
                "logistic": fitting.logistic(slices.train_frame, spec),
                "xgboost": fitting.boosted(slices.train_frame, spec, best),
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
    candidates: Mapping[str, Scorer], slices: Slices, spec: ModelSpec, winner: str | None
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
    slices: Slices,
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
    slices: Slices,
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
