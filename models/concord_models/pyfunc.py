"""The registered model as MLflow serves it: features in, calibrated probability out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from concord_models import scorer

SCORER_ARTIFACT = "scorer"
PROBABILITY = "p_proc"


class ScorerModel(PythonModel):
    """Loads the scorer's files and applies it."""

    def load_context(self, context: PythonModelContext) -> None:
        self._scorer = scorer.load(Path(context.artifacts[SCORER_ARTIFACT]))

    # Without annotations: MLflow takes one of `model_input` for a schema of its own and warns.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """One probability a row; columns are features by name, NaN where unknown."""
        frame = pd.DataFrame(model_input)
        rows = scorer.matrix(
            {name: frame[name] for name in self._scorer.features}, self._scorer.features
        )
        return pd.DataFrame({PROBABILITY: self._scorer.probability(rows)})
