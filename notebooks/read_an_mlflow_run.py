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
# # Read an MLflow run
#
# Each training is a run of MLflow, with what it was made from and what it showed. This notebook
# opens the store, reads the newest training from front to back, and applies its model to its own
# example.

# %%
import json
import os
import re
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, Markdown

from concord import tracking
from concord.settings import load_settings
from concord_models.promotion import artifact
from concord_models.specification import load_models
from concord_models.trial_runs import LOSS, PARENT, TREES

# %matplotlib inline
pd.set_option("display.max_colwidth", None)
if Path.cwd().name == "notebooks":
    os.chdir("..")  # settings name their files from the top of the project

MODEL = "snap_churn"

# %% [markdown]
# ## The store
#
# Its address is the setting `mlflow`, or a file beside a local lake. One experiment a model and
# agreement.

# %%
settings = load_settings(Path(os.environ.get("CONCORD_SETTINGS", "conf/settings/local.yaml")))
spec = load_models(settings.conf)[MODEL]
store = tracking.opened(settings)
mlflow, client = store.mlflow, store.client

experiment = client.get_experiment_by_name(spec.registered_name)
assert experiment, "nothing is trained: run concord train"
place = [experiment.experiment_id]
runs = client.search_runs(place, order_by=["attributes.start_time DESC"], max_results=1000)
trainings = [each for each in runs if PARENT not in each.data.tags]

pd.DataFrame(
    {
        "run": each.info.run_name,
        "status": each.info.status,
        "made by": each.data.params.get("winner", ""),
        "trials": each.data.params.get("trials", ""),
        "test AUC": each.data.metrics.get("model.test.auc"),
    }
    for each in trainings
).style.format({"test AUC": "{:.3f}"}, na_rep="").hide()

# %% [markdown]
# ## What it was made from
#
# The study's tables with their Delta versions, the commit, the lock file, the agreement's terms.
# With these the same model can be made again.

# %%
run = next(each for each in trainings if each.info.status == "FINISHED")
# MLflow's own record of an input leaves a version of 0 out; the tag has them all.
versions = json.loads(run.data.tags[tracking.DATA_VERSIONS])
pd.DataFrame(
    {
        "input": each.dataset.name,
        "Delta version": str(versions.get(each.dataset.name, "")),
        "used for": ", ".join(tag.value for tag in each.tags),
    }
    for each in run.inputs.dataset_inputs
).style.hide()

# %%
tags = {name: run.data.tags.get(name, "") for name in (
    tracking.AS_OF, tracking.AGREEMENTS, tracking.PURPOSES, tracking.EXPIRES, tracking.GIT_COMMIT,
    tracking.LOCK_DIGEST, tracking.CODE_DIGEST, tracking.POLICY_DIGEST,
)}  # fmt: skip
digest = re.compile("[0-9a-f]{32,}")
pd.Series({n: v[:12] if digest.fullmatch(v) else v for n, v in tags.items()}, name="tag").to_frame()

# %% [markdown]
# ## The search
#
# Each trial is a run below the training. The first ones are random; the others go where the best
# ones lead. Lower loss is better.

# %%
below = [each for each in runs if each.data.tags.get(PARENT) == run.info.run_id]
trials = pd.DataFrame(
    {
        "trial": each.info.run_name.removeprefix("trial "),
        **{name: float(value) for name, value in each.data.params.items()},
        "trees": each.data.metrics[TREES],
        "loss": each.data.metrics[LOSS],
    }
    for each in below
    if LOSS in each.data.metrics
).sort_values("loss")
trials.style.format("{:.4g}", subset=list(trials.columns[1:])).hide()

# %%
space = spec.search.space.model_dump()
best = trials["loss"].idxmin()
figure, panels = plt.subplots(2, 3, figsize=(10, 5.5), sharey=True, layout="constrained")
for axes, (name, (least, most)) in zip(panels.flat, space.items(), strict=True):
    axes.scatter(trials[name], trials["loss"], color="#4477aa")
    axes.scatter(trials.loc[best, name], trials.loc[best, "loss"], color="#ee6677", s=70)
    if most / least >= 10:
        axes.set_xscale("log")
        axes.set_xticks(np.geomspace(least, most, 3))
        axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.set_xlabel(name)
    axes.grid(alpha=0.3)
figure.supylabel("log loss, validation slice")
figure.suptitle("Parameters of the trials and their loss; the best trial is red")
plt.show()

# %% [markdown]
# ## What it left
#
# Figures, pictures and the files that it was made from; no row of data.

# %%
listed = client.list_artifacts(run.info.run_id)
print(*sorted(each.path for each in listed), sep="\n")


# %%
def picture(name: str, width: int = 620) -> Image:
    """One of the run's pictures."""
    with tempfile.TemporaryDirectory() as place:
        found = client.download_artifacts(run.info.run_id, name, place)
        return Image(data=Path(found).read_bytes(), width=width)


picture("calibration.png")

# %%
picture("shap_summary.png", 760)

# %%
picture("stability.png")

# %% [markdown]
# What a promotion judges by: figures of the test slice with their 95 % intervals.

# %%
shown = artifact(store, run.info.run_id, "promotion.json")
pd.DataFrame(
    {name: shown[name] for name in ("auc", "slope_before", "slope", "intercept")}
).T.style.format("{:.3f}")

# %% [markdown]
# The backtest: how each rule of choosing would have done on tests that came after its pick, and
# which candidate it would choose now.

# %%
past = artifact(store, run.info.run_id, "backtest.json")
print(f"{len(past['splits'])} splits; {past['chosen']['rule']} chose {past['chosen']['candidate']}")
pd.DataFrame(past["rules"])[["rule", "pick", "mean"]].style.format(
    {"mean": "{:.4f}"}, na_rep=""
).hide()

# %% [markdown]
# ## The model card
#
# As it stands in the run: what the model is for, from what and how well.

# %%
card = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/model_card.md")
Markdown(re.sub("^#", "###", card, flags=re.MULTILINE))

# %% [markdown]
# ## The model
#
# The champion is in use; where none is, the challenger waits for its promotion. Loaded by its
# alias, as any MLflow client loads it: features in, calibrated probability out. The example that
# is kept with it is no household's row, but each feature's median.

# %%
alias = tracking.CHAMPION if store.champion(spec.registered_name) else tracking.CHALLENGER
version = store.aliased(spec.registered_name, alias)
assert version, "no version is registered: run concord train"
model = mlflow.pyfunc.load_model(f"models:/{version.name}@{alias}")
example = model.input_example
print(f"version {version.version}, the {alias}, until {version.tags[tracking.EXPIRES]}")
print(f"{example.shape[1]} features")
model.predict(example).round(3)

# %% [markdown]
# ## Once more
#
# A training is repeated from its records and compared with the registered model to 1e-9:

# %%
print(f"concord reproduce {run.info.run_id}")
