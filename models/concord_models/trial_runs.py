"""What a training keeps in MLflow as it goes on, read back by one that goes on where another was
cut short: a nested run for each trial of the search, written by the driver as the trial ends, and
the backtest once it is whole."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from concord import tracking
from concord.tracking import Store
from concord_models.search import Trial

TRIAL = "concord.trial"
PARENT = "mlflow.parentRunId"
LOSS, TREES = "validation_log_loss", "trees"
BACKTEST = "backtest.json"


def record(store: Store, experiment: str, parent: str, inputs: str, trial: Trial) -> None:
    """Writes a trial below the run `parent`, ended: what is cut short within stays RUNNING and is
    not read back."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    client = store.client
    tags = {PARENT: parent, tracking.INPUTS: inputs}
    made = client.create_run(experiment, tags=tags, run_name=_named(trial))
    client.log_batch(
        made.info.run_id,
        metrics=[Metric(LOSS, trial.loss, now, 0), Metric(TREES, trial.trees, now, 0)],
        # All digits: the search goes on from exactly these.
        params=[Param(name, repr(value)) for name, value in trial.parameters.items()],
        tags=[RunTag(TRIAL, str(trial.number))],
    )
    client.set_terminated(made.info.run_id)


def _named(trial: Trial) -> str:
    told = trial.parameters
    return f"trial {trial.number}: depth {told['max_depth']}, rate {told['learning_rate']:.3g}"


def lost(store: Store, experiment: str, parent: str, inputs: str, number: int) -> None:
    """Writes that a trial came to nothing."""
    tags = {PARENT: parent, tracking.INPUTS: inputs, TRIAL: str(number)}
    made = store.client.create_run(experiment, tags=tags, run_name=f"trial {number}")
    store.client.set_terminated(made.info.run_id, "FAILED")


def recorded(store: Store, experiment: str, parent: str, inputs: str) -> list[Trial]:
    """Trials that ended in earlier runs from the same inputs, moved below `parent`."""
    said = f"tags.`{tracking.INPUTS}` = '{inputs}' and attributes.status = 'FINISHED'"
    found: dict[int, Trial] = {}
    for run in store.client.search_runs([experiment], said, max_results=10_000):
        if TRIAL not in run.data.tags:
            continue
        number = int(run.data.tags[TRIAL])
        parameters = {
            name: int(value) if name == "max_depth" else float(value)
            for name, value in run.data.params.items()
        }
        found[number] = Trial(
            number, parameters, int(run.data.metrics[TREES]), run.data.metrics[LOSS]
        )
        store.client.set_tag(run.info.run_id, PARENT, parent)
    return sorted(found.values(), key=lambda trial: trial.number)


def backtested(
    store: Store, experiment: str, inputs: str
) -> Mapping[str, Sequence[Mapping[str, float]]]:
    """Measures by candidate of the newest backtest that was made from the same inputs, or none."""
    said = (
        f"tags.`{tracking.INPUTS}` = '{inputs}' and tags.`{tracking.RUN_ID}` != '' "
        "and attributes.status = 'KILLED'"
    )
    for run in store.client.search_runs(
        [experiment], said, order_by=["attributes.start_time DESC"]
    ):
        if BACKTEST in {each.path for each in store.client.list_artifacts(run.info.run_id)}:
            found = store.mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/{BACKTEST}")
            measures: Mapping[str, Sequence[Mapping[str, float]]] = found["measures"]
            return measures
    return {}
