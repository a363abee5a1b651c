"""One file of `conf/models` as a typed value: under which agreement, on whom, from what, how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict
from pydantic import Field as Setting

from concord.agreements.dula import Dula
from concord.errors import UsageError
from concord.lake.run import digest
from concord.settings import Typed, load_folder
from concord.yaml12 import Location
from concord_models.churn.blocks import AUDIT, BLOCKS, block_of, names_of
from concord_models.churn.definitions import Name
from concord_models.imputation import Fill, How
from concord_models.temporal import Temporal

Range = tuple[float, float]
Lead = Annotated[int, Setting(ge=1, le=60)]
Metric = Literal["log_loss", "brier", "auc", "average_precision"]
TestMetric = Literal[Metric, "precision_at_k", "recall_at_k"]


Window = Annotated[int, Setting(ge=1, le=1826)]


class Chosen(Typed):
    """Features of a block: `all`, or names, with days or without. A name without days, and `all`,
    stand for one feature for each of the `windows` (none: the block's own)."""

    names: Literal["all"] | Annotated[tuple[str, ...], Setting(min_length=1)] = "all"
    windows: tuple[Window, ...] = ()

    def of(self, block: str) -> tuple[str, ...]:
        """The features by their whole names; unknown ones as they stand."""
        every = names_of(block, self.windows)
        if self.names == "all":
            return every
        found: list[str] = []
        for name in self.names:
            stem = [each for each in BLOCKS[block].features if each == f"{name}_{{days}}"]
            windows = self.windows or BLOCKS[block].windows
            found += [each.format(days=days) for each in stem for days in windows] or [name]
        return tuple(found)


Some = Literal["all"] | Annotated[tuple[str, ...], Setting(min_length=1)] | Chosen


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


class Leaks(Typed):
    """When training refuses (concord_models.leaks): a feature ranks closures better than
    `feature_auc` by itself, or, in a sample of so many `cases`, changes with what is known later.
    """

    feature_auc: float = Setting(default=0.95, gt=0.5, le=1)
    cases: int = Setting(default=100, ge=0, description="0: not looked at")


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
    parity_of: tuple[str, ...] = Setting(
        default=AUDIT, description="kinds of groups that it is asked of"
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

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    name: str = Setting(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Setting(gt=0)
    title: str
    agreement: str = Setting(pattern=r"^DULA-\d{4}-\d{4}$")
    cohort: Cohort
    label: Label
    blocks: Mapping[str, Some] = Setting(
        min_length=1, alias="features", description="by block: all, names, or names and windows"
    )
    imputation: Mapping[str, How | Fill] = Setting(
        default_factory=dict, description="by block or feature: what stands in for unknown values"
    )
    audit: tuple[str, ...] = ()
    leaks: Leaks = Leaks()
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
    equal_recall_of: tuple[str, ...] = Setting(
        default=(), description="kinds of groups whose closures lists reach equally"
    )
    promotion: Promotion = Promotion()
    reasons_for: int = Setting(
        default=1000, ge=1, description="first check-ins of an office and due day that get reasons"
    )
    holdout: float = Setting(
        default=0.05, ge=0, lt=1, description="share of check-ins whose score is not handed back"
    )
    drift: Drift = Drift()

    @property
    def features(self) -> tuple[str, ...]:
        """All features, by their whole names, in the file's order."""
        known = [(name, some) for name, some in self.blocks.items() if name in BLOCKS]
        return tuple(name for block, some in known for name in chosen(some).of(block))

    @property
    def fills(self) -> dict[str, Fill]:
        """By feature; what the file says of a feature comes before what it says of its block."""
        told = {key: Fill(how=f) if isinstance(f, str) else f for key, f in self.imputation.items()}
        both = {name: told.get(name, told.get(block_of(name) or "")) for name in self.features}
        return {name: fill for name, fill in both.items() if fill is not None}

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
    for index, name in enumerate(spec.equal_recall_of):
        if name not in spec.audit:
            yield ("equal_recall_of", index), f"{name!r} is not in audit; name it there too"
    for index, name in enumerate(spec.audit):
        if name not in AUDIT:
            yield ("audit", index), f"{name!r} is not known; use {', '.join(AUDIT)}"
        elif name in spec.audit[:index]:
            yield ("audit", index), f"{name!r} stands twice; remove one"
    for block, some in spec.blocks.items():
        yield from _block_mistakes(block, some)
    for key in spec.imputation:
        if key not in spec.blocks and key not in spec.features:
            yield ("imputation", key), "is no block and no feature of this model; remove it"
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


def chosen(some: Some) -> Chosen:
    """A block's entry in its long form."""
    return some if isinstance(some, Chosen) else Chosen(names=some)


def _block_mistakes(block: str, some: Some) -> Iterator[tuple[Location, str]]:
    here: Location = ("features", block)
    if block not in BLOCKS:
        yield here, f"there is no such block; use {', '.join(BLOCKS)}"
        return
    own = chosen(some)
    if own.windows and not BLOCKS[block].windows:
        yield (*here, "windows"), "nothing in this block has a window; remove them"
    if own.names == "all":
        return
    place = (*here, "names") if isinstance(some, Chosen) else here
    known = [name.replace("_{days}", "") for name in BLOCKS[block].features]
    seen: set[str] = set()
    for index, name in enumerate(own.names):
        found = Chosen(names=(name,), windows=own.windows).of(block)
        if any(block_of(each) != block for each in found):
            yield (*place, index), f"{name!r} is not known; use {', '.join(known)}"
        elif seen & set(found):
            yield (*place, index), f"{name!r} stands twice; remove one"
        seen |= set(found)
