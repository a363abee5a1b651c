"""One file of `conf/models` as a typed value: under which agreement, on whom, from what, how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field as Setting

from concord.agreements.dula import Dula
from concord.errors import UsageError
from concord.lake.run import digest
from concord.settings import Location, Typed, load_folder
from concord_models.churn.definitions import Name
from concord_models.churn.features import AUDIT, FEATURES
from concord_models.temporal import Temporal

Range = tuple[float, float]
Lead = Annotated[int, Setting(ge=1, le=60)]
Metric = Literal["log_loss", "brier", "auc", "average_precision"]
TestMetric = Literal[Metric, "precision_at_k", "recall_at_k"]


class Cohort(Typed):
    """Who is a row. Days count from the day a check-in falls due, or from a score's as-of date.

    With several `lead_days` a check-in is a row of training as of each.
    """

    unit: Literal["snap_checkin"]
    lead_days: Lead | Annotated[tuple[Lead, ...], Setting(min_length=1)]
    score_due_from_days: int = Setting(ge=0)
    score_due_until_days: int = Setting(ge=0)

    @property
    def leads(self) -> tuple[int, ...]:
        """Days before the due day, the most first."""
        several = (self.lead_days,) if isinstance(self.lead_days, int) else self.lead_days
        return tuple(sorted(several, reverse=True))


class Label(Typed):
    """What is predicted: closure for one of the reasons at the check-in (`y_proc`), or such a
    closure with a return within the window of a definition of churn (`y_churn`).

    `after_outreach` says whether a check-in teaches that the agency called about after the row's
    as-of day: how it ended is no longer what would have come without the call.
    """

    name: Literal["y_proc", "y_churn"]
    definition: Name | None = None
    closure_reasons: tuple[str, ...] = Setting(min_length=1)
    mature_after_days: int = Setting(default=0, ge=0)
    after_outreach: Literal["keep", "exclude"] = "exclude"


class Splits(Typed):
    """Months of due days, newest last: train, validation, test."""

    test_months: int = Setting(ge=1)
    validation_months: int = Setting(ge=1)
    least_train_months: int = Setting(default=4, ge=1)


class Space(Typed):
    """The search space of gradient-boosted trees: least and most of each parameter."""

    max_depth: tuple[int, int]
    learning_rate: Range
    min_child_weight: Range
    subsample: Range
    colsample_bytree: Range
    reg_lambda: Range


class Search(Typed):
    """Trials of the search: the first ones random in the space, the others where the best ones lead
    (TPE). Repeated with one seed and one parallelism, it is the same search."""

    trials: int = Setting(ge=1)
    random_first: int = Setting(default=20, ge=1)
    parallelism: int = Setting(ge=1)
    sample_rows: int = Setting(ge=100)
    rounds: int = Setting(ge=1)
    early_stopping: int = Setting(ge=1)
    space: Space


class Logistic(Typed):
    """Spark's `regParam` and `elasticNetParam`."""

    penalty: float = Setting(ge=0)
    elastic_net: float = Setting(default=0, ge=0, le=1)


class Metrics(Typed):
    select_by: Metric
    calls_per_office: int = Setting(ge=1)
    calibration_bins: int = Setting(ge=2)


class Selection(Typed):
    """Which candidate is used: by one rule, or by the rule of the least mean regret over time
    (concord_models.selection says what `near`, `weight`, `penalty` and `recency` are)."""

    rule: Literal[
        "least_regret", "random", "best_current_value", "best_average_value",
        "lowest_metric_variance", "most_frequent_best_dist", "best_average_two_metrics",
        "best_avg_var_penalized", "best_avg_recency_weight",
    ] = "least_regret"  # fmt: skip
    metric: TestMetric = "average_precision"
    second: TestMetric = "recall_at_k"
    candidates: int = Setting(default=3, ge=1, description="best trials, beside the logistic one")
    near: float = Setting(default=0.02, ge=0)
    weight: float = Setting(default=0.5, ge=0, le=1)
    penalty: float = Setting(default=0.5, ge=0)
    recency: float = Setting(default=5, ge=1)


class Promotion(Typed):
    """What a model has to show on the test slice before it may be used. A limit is crossed when the
    whole 95 % interval of the figure is beyond it: a small slice proves neither."""

    slope: Range = Setting(default=(0.8, 1.25), description="of the calibration")
    auc: Range = Setting(
        default=(0.55, 0.95), description="less finds nobody, more is a leak until proven otherwise"
    )
    parity: float = Setting(
        default=0.8, gt=0, le=1, description="a group's recall against all others of its kind"
    )
    regret: float = Setting(
        default=0.0, ge=0, description="mean regret that it may have above the champion's"
    )


class Drift(Typed):
    """Limits of `concord drift`. A measure is beyond one only if chance does not explain it.

    `psi_warning` and `psi_alarm`: Siddiqi 2006, Credit Risk Scorecards, chapter 9 (below 0.10 no
    change, above 0.25 a large one). `ece` and `label_rate` are absolute and ours.
    """

    psi_warning: float = Setting(default=0.10, gt=0)
    psi_alarm: float = Setting(default=0.25, gt=0)
    ece: float = Setting(default=0.05, gt=0, description="expected calibration error")
    label_rate: float = Setting(default=0.05, gt=0, description="change since training")
    months: int = Setting(default=6, ge=1, description="months of due days that are looked back on")


class ModelSpec(Typed):
    """One model. The version rises with every change that should be noticed."""

    name: str = Setting(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Setting(gt=0)
    title: str
    agreement: str = Setting(pattern=r"^DULA-\d{4}-\d{4}$")
    cohort: Cohort
    label: Label
    features: tuple[str, ...] = Setting(min_length=1)
    audit: tuple[str, ...] = ()
    splits: Splits
    temporal: Temporal | None = Setting(
        default=None, description="how candidates are tested over time; None: on one slice alone"
    )
    selection: Selection = Selection()
    search: Search
    logistic: Logistic
    workers: int = Setting(default=1, ge=1)
    seed: int
    metrics: Metrics
    promotion: Promotion = Promotion()
    reasons_for: int = Setting(
        default=1000, ge=1, description="first check-ins of an office and due day that get reasons"
    )
    holdout: float = Setting(
        default=0.05, ge=0, lt=1, description="share of check-ins whose score is not handed back"
    )
    drift: Drift = Drift()

    @property
    def identity(self) -> str:
        """A digest of all that the file says: another identity is another experiment."""
        return digest(self.model_dump(mode="json"))

    @property
    def registered_name(self) -> str:
        """The model's name in the registry: one agreement, one model."""
        return f"{self.agreement}.{self.name}"


def load_models(conf: Path, dulas: Mapping[str, Dula] | None = None) -> dict[str, ModelSpec]:
    """All files of `conf/models`, by name. Raises one ConfigError with all mistakes of all."""
    return load_folder(conf / "models", ModelSpec, lambda stem, spec: _mistakes(stem, spec, dulas))


def named(models: Mapping[str, ModelSpec], name: str) -> ModelSpec:
    if name not in models:
        known = ", ".join(sorted(models)) or "none"
        raise UsageError(f"there is no model {name!r}; conf/models has {known}")
    return models[name]


def _mistakes(
    stem: str, spec: ModelSpec, dulas: Mapping[str, Dula] | None
) -> Iterator[tuple[Location, str]]:
    if spec.name != stem:
        yield ("name",), f"the file is called {stem}.yaml; use that name"
    if dulas is not None and spec.agreement not in dulas:
        yield ("agreement",), f"no such agreement; conf/agreements has {', '.join(dulas) or 'none'}"
    lists = (("features", spec.features, FEATURES), ("audit", spec.audit, AUDIT))
    for kind, chosen, known in lists:
        for index, name in enumerate(chosen):
            if name not in known:
                yield (kind, index), f"{name!r} is not known; use {', '.join(known)}"
            elif name in chosen[:index]:
                yield (kind, index), f"{name!r} stands twice; remove one"
    for name, (least, most) in spec.search.space:
        if least > most:
            yield ("search", "space", name), f"least {least} is above most {most}; swap them"
        if least <= 0:
            yield ("search", "space", name), "has to be above 0"
    if (spec.label.name == "y_churn") != (spec.label.definition is not None):
        names = ", ".join(get_args(Name))
        yield ("label", "definition"), f"y_churn needs one of {names}; y_proc has none"
    if spec.drift.psi_warning > spec.drift.psi_alarm:
        yield ("drift", "psi_warning"), "is above psi_alarm; swap them"
    cohort = spec.cohort
    if len(set(cohort.leads)) < len(cohort.leads):
        yield ("cohort", "lead_days"), "a number of days stands twice; remove one"
    if cohort.score_due_from_days > cohort.score_due_until_days:
        yield ("cohort", "score_due_from_days"), "is above score_due_until_days; swap them"
