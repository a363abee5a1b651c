"""The registered model as MLflow serves it: features in, calibrated probability out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from concord_models import scorer
from concord_models.scorer import PROBABILITIES as PROBABILITIES

SCORER_ARTIFACT = "scorer"


class ScorerModel(PythonModel):
    """Loads the scorer's files and applies it; `label` names what is predicted."""

    def __init__(self, label: str) -> None:
        self.label = label

    def load_context(self, context: PythonModelContext) -> None:
        self._scorer = scorer.load(Path(context.artifacts[SCORER_ARTIFACT]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One probability a row; columns are features by name, NaN where unknown."""
        rows = scorer.matrix(
            {name: model_input[name] for name in self._scorer.features}, self._scorer.features
        )
        return pd.DataFrame({PROBABILITIES[self.label]: self._scorer.probability(rows)})
