# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Build and compare models
#
# From a model's file to a fitted model with its measures, and to what stands in the registry.
# Nothing is registered here: `concord train` does that, with all of its evidence.

# %%
import os
from datetime import date
from pathlib import Path

import pandas as pd

from concord import tracking
from concord.reading import visit
from concord_models import evaluation, evidence, fitting, planning, plots, promotion, training_rows
from concord_models.backtest import LOGISTIC, TREES, Recipe, backtest
from concord_models.churn import cohort
from concord_models.evaluation import LEAST_CELL
from concord_models.specification import load_models

# %matplotlib inline
pd.set_option("display.max_colwidth", None)
if Path.cwd().name == "notebooks":
    os.chdir("..")  # settings name their files from the top of the project

MODEL = "snap_churn"
AS_OF: date | None = None  # what was known on this day; None: today

# %% [markdown]
# ## The model's file
#
# One file of `conf/models` says who is a row, what is predicted, from what, and how models are
# compared.

# %%
here = visit(as_of=AS_OF)
run, contracts, register = here.run, here.deployment.contracts, here.register
spec = load_models(run.settings.conf, here.deployment.dulas)[MODEL]

pd.Series(
    {
        "title": spec.title,
        "agreement": spec.agreement,
        "predicts": spec.label.name,
        "days before the due day": spec.cohort.lead_days,
        "audited by": ", ".join(spec.audit),
        "calls per office and week": spec.metrics.calls_per_office,
        "candidates judged by": f"{spec.selection.metric}, {spec.selection.rule}",
    },
    name=spec.registered_name,
).to_frame()

# %% [markdown]
# ## The plan
#
# What a training would do on the study as it is: rows by slice, and at which days of the past
# each candidate would have been trained and tested.

# %%
plan = planning.plan(run, spec, contracts, register)
told = pd.DataFrame(plan.slices, index=["check-ins", "closed"]).T
told.where(told >= LEAST_CELL).style.format("{:,.0f}", na_rep="fewer than 11")

# %%
plots.timeline_plot(plan.splits, "Trained on what was known, tested on what came after")

# %% [markdown]
# ## Rows
#
# Features of every check-in whose label is mature, from what was known by its as-of day, cut into
# slices by time. They stay in memory.

# %%
slices = training_rows.looked_at(run, spec, contracts, register)
train, validation, test = (slices.parts[name] for name in cohort.SLICES)

pd.DataFrame(
    {
        "first due": slices.first_days,
        "check-ins": slices.counts,
        "closed": {
            name: f"{part.label.mean():.1%}"
            if part.label.sum() >= LEAST_CELL
            else "too few to tell"
            for name, part in slices.parts.items()
        },
        "values not known": {
            name: f"{pd.isna(part.rows).mean():.1%}" for name, part in slices.parts.items()
        },
    }
)

# %% [markdown]
# ## Two quick fits
#
# A logistic regression and a few trees on the training slice, with parameters by hand. The search
# for better ones is `concord train`'s.

# %%
by_hand = {
    "max_depth": 3, "learning_rate": 0.1, "min_child_weight": 5.0,
    "subsample": 0.8, "colsample_bytree": 0.7, "reg_lambda": 3.0,
}  # fmt: skip
candidates = {
    LOGISTIC: fitting.logistic(slices.train_frame, spec, slices.imputation),
    TREES: fitting.boosted(slices.train_frame, spec, by_hand, 60, slices.imputation),
}
chosen = evidence.choose(candidates, slices, spec, None)
print(f"better on the validation slice, and calibrated there: {chosen.winner}")

# %% [markdown]
# Measures on the test slice, which nothing was fitted on, beside three baselines. `model` is the
# winner after calibration.

# %%
shown = ["auc", "average_precision", "brier", "ece", "precision_at_k", "recall_at_k"]
pd.DataFrame(chosen.test).T[shown].style.format("{:.3f}", na_rep="")

# %% [markdown]
# A figure without its interval says little of a slice this size. The AUC's interval is DeLong's;
# a calibration slope of 1 is right, below 1 probabilities lie too far apart.

# %%
raw, probability = chosen.raw.raw(test.rows), chosen.scorer.probability(test.rows)
intervals = {
    **{
        f"AUC, {name}": evaluation.auc_interval(test.label, each.raw(test.rows))
        for name, each in candidates.items()
    },
    "calibration slope, before": evaluation.calibration_slope(test.label, raw)[0],
    "calibration slope, after": evaluation.calibration_slope(test.label, probability)[0],
}
pd.DataFrame({name: each.told for name, each in intervals.items()}).T.style.format("{:.2f}")

# %%
curves = plots.curves(test.label, raw, test.label.mean())
curves["roc_curve"]

# %%
curves["lift_curve"]

# %%
plots.calibration_plot(
    test.label, raw, probability, spec.metrics.calibration_bins, "Calibration, test slice"
)

# %% [markdown]
# What it goes by: mean contributions to the log-odds. A contribution is no cause.

# %%
model = chosen.raw
contributions = model.contributions(test.rows)[:, :-1]
words = [model.words[name] for name in model.inputs]
plots.shap_plot(contributions, model.imputation(test.rows, model.features), words, most=12)

# %% [markdown]
# Whom a list of calls would reach, by group. Groups with fewer than eleven closures have no
# figure.

# %%
groups = [each for each in chosen.groups if "recall" in each]
ratios = pd.DataFrame(
    evaluation.parity(chosen.groups), columns=["kind", "group", "ratio", "low", "high"]
)
print(f"{len(chosen.groups) - len(groups)} kinds have groups that are too small to be told")
ratios.style.format(dict.fromkeys(("ratio", "low", "high"), "{:.2f}")).hide()

# %% [markdown]
# ## Over time
#
# One split can flatter anybody. So each candidate is fitted at every split of the past and tested
# on the months after it.

# %%
assert spec.temporal
tried = [
    Recipe(LOGISTIC),
    Recipe("60 small trees", by_hand, 60),
    Recipe("200 deep trees", {**by_hand, "max_depth": 6, "min_child_weight": 1.0}, 200),
]
past = backtest(run.lake.spark, slices.rows, tried, spec, spec.temporal, spec.selection)
plots.stability_plot(past, spec.selection.metric)

# %% [markdown]
# Regret is how far a candidate stays behind the best one of each split, on average. Below, how
# each rule of choosing would have done on the tests that came after its pick.

# %%
metric = spec.selection.metric
pd.Series(
    {each.name: past.regret(each.name, metric) for each in tried}, name="mean regret"
).to_frame().style.format("{:.4f}")

# %%
pd.DataFrame(
    {"rule": each.rule, "would pick now": each.pick, "mean regret": each.mean}
    for each in past.regrets
).style.format({"mean regret": "{:.4f}"}, na_rep="one split: not tested").hide()

# %% [markdown]
# ## In the registry
#
# The version that scores are made with, or the one that waits, and the checks that stand before
# its use. They judge the evidence of its training by the limits of today's file.

# %%
store = tracking.opened(run.settings)
waiting = store.aliased(spec.registered_name, tracking.CHALLENGER)
in_use = store.champion(spec.registered_name)
judged = waiting or in_use
assert judged, "no version is registered: run concord train"
alias = "challenger" if waiting else "champion"
before = in_use if waiting else None

print(f"{judged.name} version {judged.version}, the {alias}")
checks = list(promotion.judged(store, spec, judged, before))
pd.DataFrame(
    {"check": each.name, "passed": "yes" if each.passed else "NO", "saw": each.said}
    for each in checks
).style.hide().set_properties(subset=["saw"], **{"text-align": "left"})

# %% [markdown]
# Champion and challenger side by side. Where their test slices differ, only the regret compares
# them on the same rows.

# %%
pd.DataFrame(promotion.compare(store, spec, [])).set_index("version").T
