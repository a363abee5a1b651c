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
# # Learn to Earn
#
# Do people who enter training earn more than they would have? Nobody knows what they would have
# earned. This notebook shows what an adjusted comparison does about that: first what a short lake
# can say, then on made-up people of whom the answer is known.
#
# What is compared, and how: [docs/outcomes.md](../docs/outcomes.md).

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from pyspark.sql import functions as F

import concord
from concord.errors import UsageError
from concord.reading import visit
from concord.studies.tables import KNOWN_ON
from concord_models.outcomes import panel as panels
from concord_models.outcomes import report, synthetic
from concord_models.outcomes.findings import ALL, EARNINGS, findings, rounded
from concord_models.outcomes.specification import load_studies

# %matplotlib inline
pd.set_option("display.max_colwidth", None)
if Path.cwd().name == "notebooks":
    os.chdir("..")  # settings name their files from the top of the project

STUDY = "learn_to_earn"

# %% [markdown]
# ## What it assumes
#
# These come first, because every figure below leans on them.

# %%
Markdown("\n".join(f"- {each}" for each in report.ASSUMPTIONS))

# %% [markdown]
# And what wage records know:

# %%
Markdown("\n".join(f"- {each}" for each in report.COVERAGE))

# %% [markdown]
# ## The lake's study
#
# Its file names the agreement, the people, the outcomes and the covariates. The three tables are
# read to be joined.

# %%
here = visit()
spec = load_studies(here.deployment.settings.conf, here.deployment.dulas)[STUDY]
tables = {
    name: concord.read(
        spec.agreement, name, columns=sorted(columns), linked_with=list(panels.COLUMNS)
    )
    for name, columns in panels.COLUMNS.items()
}
as_of = max(frame.agg(F.max(KNOWN_ON)).collect()[0][0] for frame in tables.values())
reported = panels.coverage(tables, as_of)
pd.Series(reported, name=f"reported by {as_of}").to_frame()

# %% [markdown]
# An entry counts when wages of the whole year before it are reported, and an outcome when its
# quarter is. Eighteen months, as the demonstration has, leave little of either. Counts are
# rounded to ten.

# %%
local = panels.panel(tables, spec.extent, as_of).toPandas()
entered = local[local["treated"]]
quarters = {f"+{k}": rounded(entered[f"earnings_after_{k}"].notna().sum()) for k in range(9)}
print(
    f"people who entered and can be compared: about {rounded(entered[panels.PERSON].nunique()):,}"
)
pd.DataFrame(quarters, index=["entrants whose earnings are known, about"])

# %%
try:
    on_the_lake = findings(local, spec)
    told = [line for line in on_the_lake.lines if line.group == ALL and line.adjusted]
    print(f"{len(told)} outcomes can be told:")
    print(*[f"  {line.outcome}, quarter +{line.quarter}" for line in told], sep="\n")
except UsageError as error:
    print(error)

# %% [markdown]
# ## Where the truth is known
#
# So the rest is on **synthetic people over five years**, nobody's data. The synthesis knows what
# each trainee earned and would have earned untrained. People enter after low earnings and lost
# jobs, so whoever compares them with everybody else finds that training does harm.

# %%
made = synthetic.training_panel(2)
found = findings(made, spec)
print(f"about {found.treated:,} who entered, beside about {found.comparison:,} who had not")

# %% [markdown]
# ### Balance
#
# How far apart the two are before entry. Whatever is far from 0 before weighting is what the raw
# difference mixes in.

# %%
report.balance_plot(found)

# %% [markdown]
# ### Raw, adjusted, true
#
# The adjusted intervals should hold the truth, and the raw ones do not.

# %%
rows = {}
for quarter in (2, 4, 8):
    line = found.line(ALL, EARNINGS, quarter)
    assert line.adjusted and line.raw
    true = synthetic.truth(made, spec, ALL, quarter)
    rows[quarter] = (true, line.raw, line.adjusted)

pd.DataFrame(
    {
        "true effect": true,
        "adjusted": adjusted.difference,
        "from": adjusted.low,
        "to": adjusted.high,
        "holds the truth": "yes" if adjusted.covers(true) else "no",
        "raw difference": raw.difference,
        "raw holds it": "yes" if raw.covers(true) else "no",
    }
    for true, raw, adjusted in rows.values()
).set_index(pd.Index([f"+{quarter}" for quarter in rows], name="quarter")).style.format(
    precision=0, thousands=","
)

# %%
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
places = np.arange(len(rows))
for number, shift, name, color in ((1, -0.12, "raw", "#b3541e"), (2, 0.12, "adjusted", "#0b5c8c")):
    it = pd.DataFrame(vars(each[number]) for each in rows.values())
    spans = [it["difference"] - it["low"], it["high"] - it["difference"]]
    axes.errorbar(
        places + shift, it["difference"], yerr=spans, fmt="o", capsize=4, color=color, label=name
    )
truths = [true for true, *_ in rows.values()]
axes.hlines(truths, places - 0.3, places + 0.3, color="black", label="true effect")
axes.axhline(0, color="grey", linewidth=0.8, linestyle=":")
axes.set_xticks(range(len(rows)), [f"quarter +{quarter}" for quarter in rows])
axes.set(
    title="Effect of training on quarterly earnings, synthetic people", ylabel="dollars a quarter"
)
axes.grid(alpha=0.3, axis="y")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ### Event study
#
# Quarters before entry are weighted on, so there the adjusted line is zero by construction: no
# test. While they train, people earn less.

# %%
report.event_study_plot(found)

# %% [markdown]
# ### By programme

# %%
report.programme_plot(found, 8)

# %% [markdown]
# ## What to take from it
#
# On made-up people the adjustment works because what moves them to enter is measured: the
# synthesis was written so. Nothing in real data tests that. A report with these figures, its
# balance and its assumptions is made by `concord outcomes`.
