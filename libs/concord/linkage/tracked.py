"""The person index in MLflow: its model file, what it was made from and how good it is.

Experiment `person-index`, a run for each fit and for each run of the index that asks. What is kept
there names no person and no record: a model file, versions of tables, counts and shares, of which
index/quality has hidden the small ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from concord import tracking
from concord.lake.run import digest
from concord.linkage.estimate import Fit
from concord.linkage.person_index import PersonIndex
from concord.linkage.report import ALL
from concord.settings import Settings

EXPERIMENT = "person-index"
DATA_DIGEST = "concord.data_digest"
MODEL_VERSION = "concord.model_version"
PARAMETERS = ("version", "people", "keep_weight", "link_weight", "cluster_weight", "absent_weight")


@dataclass(frozen=True)
class Made:
    """What one run of MLflow is about. `kind`: fit or index; `text`: of the model file; `read`:
    versions of the tables it was made from, by name."""

    kind: str
    model: PersonIndex
    text: str
    read: Mapping[str, int]
    as_of: date
    run_id: str

    @property
    def data_digest(self) -> str:
        return data_digest(self.read)


def data_digest(read: Mapping[str, int]) -> str:
    """Names the data, by the tables' versions."""
    return digest(sorted(read.items()))


def track(
    settings: Settings,
    made: Made,
    *,
    measures: Iterable[Mapping[str, Any]] = (),
    fit: Fit | None = None,
) -> str:
    """Logs it; the id of MLflow's run. `measures`: rows of index/quality.

    Raises ConfigError (10) where there is no place for the store, InfrastructureError (20) where
    it does not open.
    """
    store = tracking.opened(settings)
    rows = [{key: _plain(value) for key, value in row.items()} for row in measures]
    tags = {
        **tracking.origin(Path(__file__).parent),
        tracking.RUN_ID: made.run_id,
        tracking.AS_OF: made.as_of.isoformat(),
        tracking.DATA_VERSIONS: json.dumps(dict(made.read), sort_keys=True),
        tracking.CONFIG_DIGEST: digest(made.text),
        DATA_DIGEST: made.data_digest,
        MODEL_VERSION: made.model.model_version,
    }
    name = f"{made.kind} as of {made.as_of}"
    experiment = store.experiment(EXPERIMENT, "Who is who across agencies")
    with store.mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as active:
        store.mlflow.log_params({key: getattr(made.model, key) for key in PARAMETERS})
        told = {
            row["measure"]: float(row["value"])
            for row in rows
            if row["group"] == ALL and row["value"] is not None
        }
        if fit is not None:
            store.mlflow.log_dict({"trainings": [asdict(t) for t in fit.trainings]}, "fit.json")
            store.mlflow.log_text("\n".join(fit.warnings), "warnings.txt")
            told |= {f"share/{each.on}": each.share for each in fit.trainings}
        store.mlflow.log_metrics(told)
        store.mlflow.log_text(made.text, "person_index.yaml")
        if rows:
            store.mlflow.log_dict({"measures": rows}, "measures.json")
        return str(active.info.run_id)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value
