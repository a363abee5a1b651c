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
# # Why people churn
#
# A household that loses SNAP and is soon back has churned. How soon, and what counts as losing,
# is not agreed on. Here four published definitions stand side by side, then what the households
# did before the loss, and where it happens. Words and sources:
# [docs/models.md](../docs/models.md).

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from pyspark.sql import functions as F

import concord
from concord.reading import visit
from concord.studies.tables import KNOWN_ON
from concord_models.churn import definitions, typology
from concord_models.churn.definitions import DEFINITIONS
from concord_models.evaluation import LEAST_CELL, wilson

# %matplotlib inline
pd.set_option("display.max_colwidth", None)
if Path.cwd().name == "notebooks":
    os.chdir("..")  # settings name their files from the top of the project

AGREEMENT = "DULA-2026-0001"

# %% [markdown]
# ## What is read
#
# The definitions and the behaviours name the columns that they need. The tables are read to be
# joined, so the agreement is asked for that too (`linked_with`).

# %%
needed = {
    name: definitions.COLUMNS.get(name, frozenset()) | typology.COLUMNS.get(name, frozenset())
    for name in [*definitions.COLUMNS, *typology.COLUMNS]
}
needed[definitions.CASES] |= {"office"}
needed[definitions.CHECKINS] |= {"reinstated_on"}

tables = {
    name: concord.read(AGREEMENT, name, columns=sorted(columns), linked_with=list(needed))
    for name, columns in needed.items()
}
pd.Series({name: len(columns) for name, columns in needed.items()}, name="columns").to_frame()

# %% [markdown]
# ## Four definitions
#
# Which exits count, and within what window a return makes them churn.

# %%
pd.DataFrame(
    {"exit": each.exit, "back within": f"{each.window} {each.unit}", "source": each.source}
    for each in DEFINITIONS.values()
).set_index(pd.Index(DEFINITIONS, name="definition")).style

# %% [markdown]
# Exits are found once; each definition then picks its own. An exit whose window is still open is
# neither churn nor not: it is left out. Counts are rounded to ten: the sets overlap, and a
# difference of two of them could be a handful of people.

# %%
as_of = tables[definitions.CHECKINS].agg(F.max(KNOWN_ON)).collect()[0][0]
exits = definitions.exits(tables, as_of=as_of).cache()
through = exits.agg(F.max("through")).collect()[0][0]
churn = {name: definitions.events(each, exits) for name, each in DEFINITIONS.items()}
leavers = {name: definitions.per_leaver(each).toPandas() for name, each in churn.items()}

print(f"As known on {as_of}; the last month reported is {through:%Y-%m}.")


# %%
def shares(part: pd.Series, whole: pd.Series) -> pd.Series:
    """Shares in per cent, none where the part or the rest is of fewer than eleven."""
    told = (part >= LEAST_CELL) & (whole - part >= LEAST_CELL)
    return (100 * part / whole).where(told)


sums = pd.DataFrame({name: rows[["leavers", "churned"]].sum() for name, rows in leavers.items()}).T
told = pd.DataFrame(
    {
        "exits that count, about": sums["leavers"].where(sums["leavers"] >= LEAST_CELL).round(-1),
        "back in the window, %": shares(sums["churned"], sums["leavers"]),
    }
)
told.style.format("{:,.0f}", na_rep="fewer than 11").set_caption("Per leaver, all settled months")

# %% [markdown]
# ## The same months, four lines
#
# Of those who left in a quarter, the share that came back. The lines differ because they count
# other exits and other windows, not because one of them is wrong.

# %%
by_quarter = {}
for name, rows in leavers.items():
    quarter = pd.PeriodIndex(pd.to_datetime(rows["month"]), freq="Q").astype(str)
    counted = rows.groupby(quarter)[["leavers", "churned"]].sum()
    by_quarter[name] = shares(counted["churned"], counted["leavers"])
lines = pd.DataFrame(by_quarter).sort_index()

figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
for name, each in DEFINITIONS.items():
    label = f"{name}: {each.exit}, {each.window} {each.unit}"
    axes.plot(lines.index, lines[name], marker="o", label=label)
axes.set(title="Of those who left, who came back", xlabel="quarter left", ylabel="per cent")
axes.set_ylim(0, 100)
axes.grid(alpha=0.3)
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
plt.show()

# %% [markdown]
# ## Four rates of one definition
#
# Per case served in a year, per check-in, per leaver, and how check-ins were processed. The same
# churn is a small number per case and a large one per leaver. Say which when you quote one.

# %%
own = DEFINITIONS["ma_30d"]
reports = tables[definitions.CHECKINS]
served = definitions.service_months(tables[definitions.ISSUANCES], tables[definitions.CASES])
rates = {
    "per case and year": ("cases", definitions.per_case_year(churn["ma_30d"], served)),
    "per check-in": (
        "checkins",
        definitions.per_checkin(own, churn["ma_30d"], reports, through=through),
    ),
    "per leaver": ("leavers", definitions.per_leaver(churn["ma_30d"])),
}
counted = pd.DataFrame(
    {name: rows.agg(F.sum(of), F.sum("churned")).first() for name, (of, rows) in rates.items()},
    index=["of", "churned"],
).T.astype(int)
told = pd.DataFrame(
    {"of about": counted["of"].round(-1), "churned, %": shares(counted["churned"], counted["of"])}
)
told.style.format("{:,.0f}", na_rep="fewer than 11").set_caption("ma_30d, all settled months")

# %%
processed = (
    definitions.processing(reports, as_of=as_of).drop("month").groupBy("kind").sum().toPandas()
)
processed = processed.set_index("kind").rename(columns=lambda name: name[4:-1].replace("_", " "))
processed.where(processed >= LEAST_CELL).T.style.format("{:,.0f}", na_rep="fewer than 11")

# %% [markdown]
# ## What households did before
#
# Of each check-in that ended in a closure, evidence from before the end and the month after. A
# hard rule gives the first behaviour whose test passes; a mixture gives each behaviour a
# probability. What the rule leaves undetermined is told, not hidden.

# %%
evidence = typology.evidence(tables, exits, as_of=as_of).toPandas()
hard = typology.rule(evidence)
seen = typology.indicators(evidence)
soft = typology.mixture(seen, hard.tolist()).probabilities(seen)
likeliest = [typology.BEHAVIOURS[i] for i in soft.argmax(axis=1)]

alike = typology.agreement(hard.tolist(), likeliest)
print(f"{len(evidence):,} closures")
print(f"undetermined by the rule: {(hard == typology.UNDETERMINED).mean():.0%}")
print(f"rule and mixture agree, where the rule decides: {alike:.0%}")

# %%
behaviours = pd.DataFrame(
    {
        "hard rule": pd.Series(hard).value_counts(),
        "mixture": pd.Series(soft.sum(axis=0), index=typology.BEHAVIOURS),
    }
).reindex(typology.CLASSES)
behaviours = behaviours.where(behaviours >= LEAST_CELL)

figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
behaviours[::-1].plot.barh(ax=axes, color=["#4477aa", "#ee6677"], width=0.75)
axes.set(
    title="Closures by behaviour", xlabel="closures (expected ones, by the mixture)", ylabel=""
)
axes.legend(frameon=False)
axes.grid(alpha=0.3, axis="x")
plt.show()

# %% [markdown]
# ### How far to trust it
#
# A study holds no truth, and its pseudonyms lead to none. On a synthetic Commonwealth of 10,000
# people, where the tests know the behaviour that each closure was made from, the rule and, after
# the stroke, the mixture found (docs/models.md, asserted in `tests/spark/test_typology.py`):
#
# | true | agency | late engager | life change | unaware | undetermined |
# | --- | --- | --- | --- | --- | --- |
# | agency delay | 39 / 39 | | | | |
# | late engager | | 100 / 100 | | | |
# | life change | | | 27 / 82 | | 55 / – |
# | unaware | | | 26 / 48 | 60 / 76 | 38 / – |
#
# Agency and late engagers are found without a mistake because synthetic dates follow the
# behaviour. Life change and unaware are hard to tell apart. Expect less of real files.

# %% [markdown]
# ## Where
#
# Closures for want of paperwork by region, as the product `snap_churn` groups the agency's
# offices. Regions with fewer than eleven closures are not shown. Intervals are Wilson's: small
# regions look different by chance alone.

# %%
regions = visit().deployment.products["snap_churn"].regions
region_of = {office: region for region, offices in regions.items() for office in offices}
month = F.trunc("due_on", "month").alias("month")
due = reports.select("study_case_id", "due_on", month).distinct().where(F.col("month") < through)
place = (
    tables[definitions.CASES]
    .groupBy("study_case_id", "month")
    .agg(F.max_by("office", KNOWN_ON).alias("office"))
)
ended = churn["ma_30d"].select("study_case_id", "month", F.lit(1).alias("closed"))
by_office = (
    due.join(place, ["study_case_id", "month"])
    .join(ended, ["study_case_id", "month"], "left")
    .groupBy("office")
    .agg(F.count("*").alias("checkins"), F.sum(F.coalesce("closed", F.lit(0))).alias("closed"))
    .toPandas()
)
by_region = by_office.groupby(by_office["office"].map(region_of))[["checkins", "closed"]].sum()

# %%
told = by_region[(by_region["closed"] >= LEAST_CELL)].copy()
told["rate"] = told["closed"] / told["checkins"]
told[["low", "high"]] = [wilson(int(c), int(n)) for c, n in told[["closed", "checkins"]].to_numpy()]
told = 100 * told.sort_values("rate")[["rate", "low", "high"]]

left_out = f"{len(by_region) - len(told)} of {len(by_region)} regions left out"
figure, axes = plt.subplots(figsize=(8, 1.6 + 0.35 * len(told)), layout="constrained")
spans = [told["rate"] - told["low"], told["high"] - told["rate"]]
axes.errorbar(told["rate"], told.index, xerr=spans, fmt="o", capsize=3)
axes.set_xlim(left=0)
axes.set_title("Check-ins that ended in an administrative closure")
axes.set_xlabel(f"per cent, 95 % intervals; {left_out}")
axes.grid(alpha=0.3, axis="x")
plt.show()
