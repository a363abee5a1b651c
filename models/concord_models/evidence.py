"""What a training shows for its model: measures, pictures, the card, and what a promotion asks for.

Everything is figures over slices; no row of data is logged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from concord.tracking import Store
from concord_models import evaluation, fitting, plots
from concord_models.backtest import IN_USE, LOGISTIC, TREES, Backtest, Recipe
from concord_models.churn import cohort
from concord_models.equal_recall import equal_recall
from concord_models.evaluation import Floats
from concord_models.fitting import Slice
from concord_models.scorer import Scorer
from concord_models.search import Searched
from concord_models.specification import ModelSpec
from concord_models.training_rows import Slices
from concord_models.trial_runs import BACKTEST

Measures = dict[str, dict[str, dict[str, float]]]
# The chosen model, calibrated, among baselines and candidates.
MODEL = "model"
PROMOTION = "promotion.json"
# Of contributions in a picture: enough for their means, whatever the slice's size.
EXPLAINED = 20_000


@dataclass(frozen=True)
class Chosen:
    """The candidate that becomes the model: before and after calibration, everything's measures by
    model and slice, and recall by group on the test slice."""

    winner: str
    raw: Scorer
    scorer: Scorer
    measures: Measures
    groups: list[dict[str, Any]]

    @property
    def test(self) -> dict[str, dict[str, float]]:
        """The test slice's measures by model or baseline."""
        return {name: by_slice[cohort.TEST] for name, by_slice in self.measures.items()}


def choose(
    candidates: Mapping[str, Scorer], slices: Slices, spec: ModelSpec, winner: str | None
) -> Chosen:
    """The winner (None: the best on the validation slice), calibrated there: the newest slice whose
    labels were known when the test began."""
    parts = slices.parts

    k = spec.metrics.calls_per_office

    def measured(
        part: Slice, probability: Floats, score: Floats, order: Floats | None = None
    ) -> dict[str, float]:
        return evaluation.metrics(
            part.label, probability, score, part.lists,
            k=k, bins=spec.metrics.calibration_bins, order=order,
        )  # fmt: skip

    found: Measures = {}
    for name, baseline in fitting.baselines(parts[cohort.TRAIN], spec.features).items():
        found[name] = {
            key: measured(part, baseline(part), baseline(part)) for key, part in parts.items()
        }
    for name, each in candidates.items():
        found[name] = {
            key: measured(part, each.raw(part.rows), each.raw(part.rows))
            for key, part in parts.items()
        }
    select_by = spec.metrics.select_by
    sign = -1 if select_by in evaluation.GREATER_IS_BETTER else 1
    winner = winner or min(
        candidates, key=lambda name: sign * found[name][cohort.VALIDATION][select_by]
    )
    raw = candidates[winner]
    held = parts[cohort.VALIDATION]
    scores = {key: raw.raw(part.rows) for key, part in parts.items()}
    scorer = replace(
        raw,
        calibration=fitting.calibration(held.label, scores[cohort.VALIDATION], spec.seed),
        equal_recall=equal_recall(
            held.label, scores[cohort.VALIDATION], held.lists,
            slices.groups[cohort.VALIDATION], spec.equal_recall_of, k,
        ),
    )  # fmt: skip
    order = {
        key: scorer.equal_recall.order(score, slices.groups[key]) for key, score in scores.items()
    }
    found[MODEL] = {
        # By the uncalibrated score, as the lists are: calibration only adds ties.
        key: measured(part, scorer.probability(part.rows), scores[key], order[key])
        for key, part in parts.items()
    }
    test = parts[cohort.TEST]
    chosen = evaluation.called(order[cohort.TEST], test.lists, k)
    groups = evaluation.recall_by_group(test.label, chosen, slices.groups[cohort.TEST])
    return Chosen(winner, raw, scorer, found, groups)


def promotion_evidence(
    spec: ModelSpec, slices: Slices, chosen: Chosen, past: Backtest | None
) -> dict[str, Any]:
    """What `concord model promote` judges by: figures of the test slice with their intervals,
    parity, regret over time of the chosen recipe and of the one in use, leaks."""
    test = slices.parts[cohort.TEST]
    raw, probability = chosen.raw.raw(test.rows), chosen.scorer.probability(test.rows)
    slope, intercept = evaluation.calibration_slope(test.label, probability)
    before, _ = evaluation.calibration_slope(test.label, raw)
    regret = None
    if past is not None:
        metric = spec.selection.metric
        in_use = past.regret(IN_USE, metric) if IN_USE in past.measures else None
        own = past.regret(past.chosen.pick, metric)
        regret = {"metric": metric, "model": own, "in_use": in_use, "splits": len(past.splits)}
    return {
        "auc": evaluation.auc_interval(test.label, raw).told,
        "slope": slope.told,
        "slope_before": before.told,
        "intercept": intercept.told,
        "rows": len(test.label),
        "baselines": {
            name: values["auc"] for name, values in chosen.test.items()
            if name not in {MODEL, LOGISTIC, TREES}
        },
        "parity": evaluation.parity(chosen.groups),
        "regret": regret,
        "leaks": [asdict(each) for each in slices.leaks],
    }  # fmt: skip


def log(
    store: Store,
    spec: ModelSpec,
    slices: Slices,
    searched: Searched,
    recipe: Recipe,
    chosen: Chosen,
    shown: Mapping[str, Any],
) -> None:
    """Parameters, measures and pictures into the active run; `recipe` is the trees', `shown`
    promotion_evidence."""
    mlflow = store.mlflow
    mlflow.log_params(
        {
            "model": spec.name,
            "winner": chosen.winner,
            "calibration": chosen.scorer.calibration.how,
            "seed": spec.seed,
            "lead_days": spec.cohort.lead_days,
            "trials": len(searched.trials),
            "trials_lost": len(searched.lost),
            "trees": recipe.trees,
            "left_out_after_outreach": slices.left_out,
            **{f"best_{name}": repr(value) for name, value in (recipe.parameters or {}).items()},
            **{f"{name}_rows": count for name, count in slices.counts.items()},
            "validation_from": slices.boundaries.validation_from,
            "test_from": slices.boundaries.test_from,
        }
    )
    # Of the others what they are compared by; all of it is in measures.json.
    measured = {
        f"{model.split(' ')[0]}.{part}.{name}": value
        for model, by_part in chosen.measures.items()
        for part, values in by_part.items()
        for name, value in values.items()
        if model == MODEL or (part == cohort.TEST and name in {"auc", "average_precision"})
    }
    for name in ("auc", "slope", "intercept"):
        measured |= {f"model.test.{name}_{bound}": shown[name][bound] for bound in ("low", "high")}
    measured |= {f"model.test.{name}": shown[name]["value"] for name in ("slope", "intercept")}
    mlflow.log_metrics({name: value for name, value in measured.items() if not math.isnan(value)})
    mlflow.log_dict(chosen.measures, "measures.json")
    mlflow.log_dict(dict(shown), PROMOTION)
    mlflow.log_dict(spec.model_dump(mode="json"), "model.json")
    k, bins = spec.metrics.calls_per_office, spec.metrics.calibration_bins
    test = slices.parts[cohort.TEST]
    raw, probability = chosen.raw.raw(test.rows), chosen.scorer.probability(test.rows)
    figure = plots.calibration_plot(test.label, raw, probability, bins, "Calibration, test slice")
    mlflow.log_figure(figure, "calibration.png")
    if chosen.groups:
        told = {"calls_per_office": k, "groups": chosen.groups, "parity": shown["parity"]}
        mlflow.log_dict(told, "recall_by_group.json")
        picture = plots.recall_plot(chosen.groups, k, "Recall by group, test slice")
        mlflow.log_figure(picture, "recall_by_group.png")
    some = np.random.default_rng(spec.seed).permutation(len(test.label))[:EXPLAINED]
    parts = chosen.raw.contributions(test.rows[np.sort(some)])[:, :-1]
    words = [f"{name}: {chosen.raw.words[name]}" for name in chosen.raw.inputs]
    values = chosen.raw.imputation(test.rows[np.sort(some)], spec.features)
    mlflow.log_figure(plots.shap_plot(parts, values, words), "shap_summary.png")


def evaluate(
    store: Store, spec: ModelSpec, slices: Slices, chosen: Chosen, model_id: str | None
) -> None:
    """`mlflow.models.evaluate` on the test slice: its measures stand with the logged model itself,
    its pictures are the ROC, precision-recall and lift curves.

    Of the calibrated probabilities, whose ties cost a little AUC. MLflow sees labels and
    probabilities in memory; what it keeps is their digest and the figures.
    """
    from mlflow.models import make_metric
    from sklearn import metrics as sklearn

    test = slices.parts[cohort.TEST]
    raw, probability = chosen.raw.raw(test.rows), chosen.scorer.probability(test.rows)
    bins = spec.metrics.calibration_bins
    measures = {
        "auc": sklearn.roc_auc_score,
        "average_precision": sklearn.average_precision_score,
        "brier": sklearn.brier_score_loss,
        "ece": lambda label, p: evaluation.expected_calibration_error(label, p, bins),
    }

    def metric(name: str, of: Any) -> Any:
        def found(predictions: Any, targets: Any, metrics: Any = None) -> float:
            # MLflow tries a metric on the first row alone, of which some have no value.
            alone = len(targets) == 1
            return math.nan if alone else float(of(np.asarray(targets), np.asarray(predictions)))

        better = name in evaluation.GREATER_IS_BETTER
        return make_metric(  # type: ignore[no-untyped-call]  # MLflow gives it none
            eval_fn=found, greater_is_better=better, name=f"test_{name}"
        )

    def curves(*_: Any) -> dict[str, Any]:
        return plots.curves(test.label, raw, chosen.test[MODEL]["base_rate"])

    store.mlflow.models.evaluate(
        data=store.mlflow.data.from_pandas(
            pd.DataFrame({"probability": probability, "label": test.label.astype(float)}),
            name="test slice", targets="label", predictions="probability",
        ),
        evaluators="default",
        extra_metrics=[metric(name, of) for name, of in measures.items()],
        custom_artifacts=[curves],
        model_id=model_id,
    )  # fmt: skip


def log_backtest(store: Store, spec: ModelSpec, past: Backtest) -> None:
    """What each candidate did at each split, and how the rules would have chosen."""
    mlflow = store.mlflow
    mlflow.log_dict(past.told, BACKTEST)
    mlflow.log_params({"selection_rule": past.chosen.rule, "selected": past.chosen.pick})
    picked = past.measures[past.chosen.pick]
    mlflow.log_metrics({"backtest.splits": float(len(past.splits))})
    for split, each in zip(past.splits, picked, strict=True):
        metric, day = spec.selection.metric, int(split.at.strftime("%Y%m%d"))
        mlflow.log_metric(f"backtest.{metric}", each[metric], day)
    mlflow.log_figure(plots.stability_plot(past, spec.selection.metric), "stability.png")
