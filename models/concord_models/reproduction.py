"""`concord reproduce`: a training's final model fitted once more, from what its run recorded.

The tables at their versions, the model's file, the as-of day and the chosen parameters come from
the run; the search is not repeated, for what it found is recorded too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from concord import tracking
from concord.agreements import access_log
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import QualityError, UsageError
from concord.lake.run import Run
from concord.tracking import Store
from concord_models import fitting, scorer, studies, training_rows
from concord_models.backtest import LOGISTIC
from concord_models.churn import cohort
from concord_models.promotion import specification
from concord_models.pyfunc import SCORER_ARTIFACT
from concord_models.scorer import Scorer
from concord_models.search import whole

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What became of it: rows that were predicted again, and the largest difference."""

    message: str
    rows: int
    difference: float


def reproduce(
    run: Run, contracts: Mapping[str, Contract], register: Register, *, training: str
) -> Outcome:
    """Fits the model of the MLflow run `training` again and compares its calibrated probabilities
    with the registered model's, over every row of its slices.

    Raises UsageError when the run is no whole training or a table's version is gone, RefusedError
    (14), QualityError (12) when a probability differs by more than 1e-9.
    """
    store = tracking.opened(run.settings)
    recorded = _recorded(store, training)
    tags, params = recorded.data.tags, recorded.data.params
    spec = specification(store, training)
    then = replace(run, as_of=date.fromisoformat(tags[tracking.AS_OF]))
    dula = register.dula(tags[tracking.AGREEMENTS], run.clock().date())
    if dula is None:
        raise register.unknown(tags[tracking.AGREEMENTS])
    asked = training_rows.request(then, spec, dula)
    decision = access_log.ask(run, register, asked)
    held = studies.held_at(
        run, dula, contracts, training_rows.columns(spec),
        json.loads(tags[tracking.DATA_VERSIONS]),
    )  # fmt: skip
    slices = training_rows.slices(then, spec, held)
    access_log.record_reads(run, [access_log.Read(asked, decision, run.run_id, held.rows)])
    if params["winner"] == LOGISTIC:
        fitted = fitting.logistic(slices.train_frame, spec, slices.imputation)
    else:
        best = {n.removeprefix("best_"): float(v) for n, v in params.items() if "best_" in n}
        fitted = fitting.boosted(
            slices.train_frame, spec, whole(best), int(params["trees"]), slices.imputation
        )
    part = slices.parts[cohort.VALIDATION]
    calibrated = fitting.calibration(part.label, fitted.raw(part.rows), spec.seed)
    again = replace(fitted, calibration=calibrated)
    before = _registered(store, recorded)
    rows = np.concatenate([part.rows for part in slices.parts.values()])
    difference = float(np.abs(again.probability(rows) - before.probability(rows)).max())
    code = tracking.code_digest(Path(__file__).parent)
    changed = "" if code == tags[tracking.CODE_DIGEST] else "; the code is not that of the training"
    if difference > TOLERANCE:
        commit = tags.get(tracking.GIT_COMMIT, "the commit that it was made from")
        raise QualityError(
            f"run {training} is not reproduced: probabilities of {len(rows)} rows differ by up to "
            f"{difference:.2g}{changed}; try it at commit {commit} with its lock file"
        )
    message = (
        f"run {training} is reproduced: probabilities of {len(rows)} rows differ by at most "
        f"{difference:.2g}{changed}"
    )
    return Outcome(message, len(rows), difference)


def _recorded(store: Store, training: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_run(training)
    except MlflowException:
        raise UsageError(f"MLflow's store has no run {training}") from None


def _registered(store: Store, recorded: Any) -> Scorer:
    """The scorer as the training logged it."""
    (logged,) = recorded.outputs.model_outputs
    with tempfile.TemporaryDirectory() as place:
        got = store.mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{logged.model_id}", dst_path=place
        )
        return scorer.load(next(Path(got).rglob(SCORER_ARTIFACT)))
