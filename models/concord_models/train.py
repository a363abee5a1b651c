"""The `train` job: from an agreement's study to a registered model with the evidence beside it.

Decided (and logged) → the study's tables at recorded versions → features of every check-in whose
label is mature → train, validation and test by time → baselines, logistic regression, trees →
calibrated on validation, measured on test → logged and registered, and last the alias. A model
that was made from the same inputs is left alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from concord_models import drift, evidence, fitting, studies, training_rows, trial_runs
from concord_models.backtest import IN_USE, LOGISTIC, TREES, Recipe, backtest, recipes
from concord_models.card import card
from concord_models.churn import cohort
from concord_models.scorer import Scorer
from concord_models.search import Trial, search, whole
from concord_models.specification import ModelSpec
from concord_models.studies import Held
from concord_models.timing import timed


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
        with timed(seconds, "MLflow"):
            store = opening.result()
        before = store.made_from(spec.registered_name, inputs)
        if before:
            store.finish(before)
            _challenge(store, spec, before.version)
            return Outcome(
                spec.registered_name, "nothing to do", "nothing to do", before.version,
                before.run_id, seconds=seconds,
            )  # fmt: skip
        with timed(seconds, "features"):
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
    experiment = store.experiment(spec.registered_name, spec.title)
    store.end_interrupted(experiment, inputs)
    mlflow, spark, parts = store.mlflow, run.lake.spark, slices.parts
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
        drift.CONTRACTS: drift.contract_versions(held),
        tracking.SOURCE: "concord train",
    }
    name = f"{spec.name} as of {run.as_of}"
    with (
        ThreadPoolExecutor(max_workers=1) as pool,
        mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as active,
    ):
        run_id = active.info.run_id
        with timed(seconds, "log"):
            studies.log_inputs(run, held, store, "training")
            earlier = trial_runs.recorded(store, experiment, run_id, inputs)

        def ended(trial: Trial) -> None:
            trial_runs.record(store, experiment, run_id, inputs, trial)
            reach(f"train.trial.{trial.number}")

        # It waits for no search, and leaves a core idle that trials use.
        logistic = pool.submit(fitting.logistic, slices.train_frame, spec, slices.imputation)
        with timed(seconds, "search"):
            searched = search(
                spark, parts[cohort.TRAIN], parts[cohort.VALIDATION], spec,
                earlier=earlier, ended=ended,
            )  # fmt: skip
        for number in searched.lost:
            trial_runs.lost(store, experiment, run_id, inputs, number)
        past, family, recipe = None, None, Recipe("", searched.best.parameters, searched.best.trees)
        if spec.temporal is not None:
            with timed(seconds, "backtest"):
                tried = recipes(searched.trials, spec.selection, _in_use(store, spec))
                past = backtest(
                    spark, slices.rows, tried, spec, spec.temporal, spec.selection,
                    earlier=trial_runs.backtested(store, experiment, inputs),
                )  # fmt: skip
            with timed(seconds, "log"):
                evidence.log_backtest(store, spec, past)
            picked = next(each for each in tried if each.name == past.chosen.pick)
            family = LOGISTIC if picked.parameters is None else TREES
            recipe = recipe if picked.parameters is None else picked
        reach("train.searched")
        with timed(seconds, "fit"):
            candidates = {
                LOGISTIC: logistic.result(),
                TREES: fitting.boosted(
                    slices.train_frame,
                    spec,
                    recipe.parameters or {},
                    recipe.trees,
                    slices.imputation,
                ),
            }
        reach("train.fitted")
        with timed(seconds, "measure"):
            chosen = evidence.choose(candidates, slices, spec, family)
            shown = evidence.promotion_evidence(spec, slices, chosen, past)
        with timed(seconds, "log"):
            evidence.log(store, spec, slices, searched, recipe, chosen, shown)
            made = card(
                spec, dula, winner=chosen.winner, tags=_told(tags), rows=slices.counts,
                left_out=slices.left_out,
                days=slices.first_days, groups=chosen.groups, past=past, measures=chosen.test,
                shown=shown,
            )  # fmt: skip
            mlflow.log_text(made.markdown(), "model_card.md")
            mlflow.log_text(made.page(), "model_card.html")
            mlflow.set_tag(tracking.DESCRIPTION, made.summary())
            logged = _log_model(store, spec, chosen.scorer, slices)
            evidence.evaluate(store, spec, slices, chosen, logged.model_id)
            name = spec.registered_name
            version = store.register(name, logged, run_id, tags, spec.title, made.summary())
        reach("train.registered")
        _challenge(store, spec, version)
        reach("train.challenger")
    values = chosen.test[evidence.MODEL]
    message = (
        f"{spec.registered_name} version {version}: {chosen.winner}, test AUC {values['auc']:.3f}, "
        f"average precision {values['average_precision']:.3f} "
        f"(base rate {values['base_rate']:.3f})"
    )
    return Outcome(
        spec.registered_name, "trained", message, version, run_id, slices.counts, chosen.test,
        seconds,
    )  # fmt: skip


def _challenge(store: Store, spec: ModelSpec, version: str) -> None:
    """The version waits for its promotion, unless it is in use."""
    champion = store.champion(spec.registered_name)
    if champion is None or champion.version != version:
        name = spec.registered_name
        store.client.set_registered_model_alias(name, tracking.CHALLENGER, version)


def _in_use(store: Store, spec: ModelSpec) -> Recipe | None:
    """The recipe of the champion, if these features can make it."""
    champion = store.champion(spec.registered_name)
    if champion is None:
        return None
    said = store.client.get_run(champion.run_id).data.params
    before = ModelSpec.model_validate(
        store.mlflow.artifacts.load_dict(f"runs:/{champion.run_id}/model.json")
    )
    if before.features != spec.features or before.label != spec.label:
        return None
    if said["winner"] == LOGISTIC:
        return Recipe(IN_USE)
    found = {n.removeprefix("best_"): float(v) for n, v in said.items() if n.startswith("best_")}
    return Recipe(IN_USE, whole(found), int(said["trees"]))


def _told(tags: Mapping[str, str]) -> dict[str, str]:
    """The run's tags in a card's words."""
    names = {
        tracking.AS_OF: "as of", tracking.EXPIRES: "expires", tracking.INPUTS: "inputs",
    }  # fmt: skip
    versions = json.loads(tags[tracking.DATA_VERSIONS])
    tables = ", ".join(f"{table} at version {version}" for table, version in versions.items())
    return {**{name: tags[tag] for tag, name in names.items()}, "tables": tables}


def _log_model(store: Store, spec: ModelSpec, scorer: Scorer, slices: training_rows.Slices) -> Any:
    """The model with its signature and an example of an input, in the active run."""
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
        drift.reference_of(slices, scorer).save(Path(folder) / SCORER_ARTIFACT)
        return store.mlflow.pyfunc.log_model(
            name=spec.name,
            python_model=ScorerModel(spec.label.name),
            artifacts={SCORER_ARTIFACT: str(Path(folder) / SCORER_ARTIFACT)},
            signature=signature,
            input_example=example,
            # Named, for MLflow would load the model in a process of its own to find them out.
            pip_requirements=["concord", "numpy", "pandas", "xgboost-cpu"],
        )
