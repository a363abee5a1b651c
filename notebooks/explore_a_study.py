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
# # Explore a study
#
# A study is what one agreement lets one recipient hold: chosen columns of chosen tables, under
# pseudonyms that mean nothing anywhere else. This notebook shows what a study holds, how to read
# it, what is refused, and what "known on a day" means.
#
# The lake is the one that the settings name ([README](README.md)). No row is shown here, and no
# figure of fewer than eleven check-ins.

# %%
import os
from datetime import date
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from pyspark.sql import functions as F

import concord
from concord.agreements.access_log import ACCESS_LOG
from concord.errors import RefusedError
from concord.reading import visit
from concord.studies.tables import KNOWN_ON
from concord_models.evaluation import LEAST_CELL

# %matplotlib inline
pd.set_option("display.max_colwidth", None)
if Path.cwd().name == "notebooks":
    os.chdir("..")  # settings name their files from the top of the project

AGREEMENT = "DULA-2026-0001"

# %% [markdown]
# ## The agreement
#
# The signed terms say what for, by whom and until when. They are in force, or nothing below
# works.

# %%
here = visit()
today = here.run.clock().date()
dula = here.register.dula(AGREEMENT, today)
standing = here.register.standing(AGREEMENT, today)
assert dula and standing, f"there is no {AGREEMENT} in conf/agreements"

pd.Series(
    {
        "title": dula.title,
        "state": f"{standing.state}, version {standing.version}",
        "purpose": dula.purpose.code,
        "never for": ", ".join(dula.purpose.prohibited),
        "uses": ", ".join(dula.uses.allowed),
        "expires": f"{dula.term.expires}, destroyed within {dula.end.destroy_within_days} days",
        "disclosure": dula.disclosure.profile,
    },
    name=AGREEMENT,
).to_frame()

# %%
print(dula.purpose.text)

# %% [markdown]
# ## The tables
#
# Each table carries its terms as labels, where any Delta reader sees them.

# %%
held = here.study(AGREEMENT)

pd.DataFrame(
    {
        "rows": f"{table.rows:,}",
        "columns": len(table.columns),
        "version": table.version,
        "classification": table.labels["concord.classification"],
        "expires": table.labels["concord.expires"],
    }
    for table in held.values()
).set_index(pd.Index(held, name="table"))

# %% [markdown]
# Every column has its words from the contract, and the agreement says why it is held.

# %%
CHECKINS = "dta_snap.checkins"
agreed = dula.dataset(CHECKINS)
assert agreed
why = {column.name: column.why for column in agreed.columns}
columns = pd.DataFrame(held[CHECKINS].columns).set_index("name")
columns["held to know"] = columns.index.map(why).fillna("")
columns[["type", "classification", "held to know"]]

# %% [markdown]
# ## Reading
#
# `concord.read` asks the agreement, writes the decision and the read to the access log, and gives
# a Spark DataFrame. Ask for the columns that you need: the pseudonyms and the days of origin are
# always there.

# %%
checkins = concord.read(
    AGREEMENT, CHECKINS, columns=["report_month", "kind", "due_on", "decision", "closure_reason"]
)
checkins.columns

# %% [markdown]
# ## What is refused
#
# A column that nobody agreed to and a purpose that the agreement forbids, asked for on purpose.
# The message names every clause that stands against it. It is the same text that the access log
# keeps.

# %%
try:
    concord.read(AGREEMENT, "dta_snap.persons", columns=["ssn"], purpose="fraud-detection")
except RefusedError as refusal:
    print(*str(refusal).split("; "), sep="\n")

# %%
log = pd.DataFrame(here.run.lake.rows(ACCESS_LOG, "decided_at", "agreement", "decision", "tables"))
mine = log[log["agreement"] == AGREEMENT].sort_values("decided_at").tail(3)
pd.DataFrame(
    {
        "decided at": mine["decided_at"].dt.strftime("%Y-%m-%d %H:%M"),
        "decision": mine["decision"],
        "tables": mine["tables"].str.join(", "),
    }
).style.hide()

# %% [markdown]
# ## When something was known
#
# Something happens on a day, and a file tells of it later. `_known_on` is the first day on which
# a row counts as known. Whoever asks what could have been known in spring has to leave out what
# came in summer, or a model looks better than it can ever be.

# %%
spring = date(2025, 4, 1)
known = checkins.where(F.col(KNOWN_ON) <= F.lit(spring)).count()
print(f"{known:,} of {checkins.count():,} reports of check-ins were known on {spring}")

# %% [markdown]
# How long that takes differs by table: a card is seen within weeks, wages within months. So wages
# are never a sign of what is happening now.

# %%
quarter_end = F.expr("last_day(make_date(int(left(quarter, 4)), 3 * int(right(quarter, 1)), 1))")
happened = {
    "dta_snap.contacts": ("contact_on", F.col("contact_on")),
    "dta_snap.ebt_events": ("event_on", F.col("event_on")),
    "dta_snap.issuances": ("issued_on", F.col("issued_on")),
    "dua_claims.claims": ("week_ending", F.col("week_ending")),
    "dua_wages.wages": ("quarter", quarter_end),
}
delays = {}
for table, (column, day) in happened.items():
    days = F.date_diff(KNOWN_ON, day)
    rows = concord.read(AGREEMENT, table, columns=[column])
    delays[table] = rows.agg(F.percentile_approx(days, [0.05, 0.5, 0.95])).collect()[0][0]

# %%
low, middle, high = pd.DataFrame(delays).to_numpy()
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
axes.errorbar(middle, list(delays), xerr=[middle - low, high - middle], fmt="o", capsize=4)
axes.set(title="From what happened to the day it was known", xlabel="days: median, 5 % and 95 %")
axes.set_xlim(left=0)
axes.set_ylim(len(delays) - 0.5, -0.5)
axes.grid(alpha=0.3, axis="x")
plt.show()

# %% [markdown]
# ## A first chart
#
# Check-ins by the month they fall due and their outcome. A check-in is reported several times,
# before it is due and after; the newest report counts. What is not decided yet lies in the months
# that are still to come. Counts below eleven are left out, and the total of a month is not told,
# so that they do not follow from it.

# %%
KEY = ["study_case_id", "due_on"]
reports = F.struct("decision", "closure_reason")
newest = checkins.groupBy(*KEY).agg(F.max_by(reports, "report_month").alias("it"))
outcome = F.coalesce("it.closure_reason", "it.decision", F.lit("not decided yet"))
counted = newest.groupBy(F.trunc("due_on", "month").alias("month"), outcome.alias("outcome"))
by_month = counted.count().toPandas().pivot_table(index="month", columns="outcome", values="count")

shown = by_month.where(by_month >= LEAST_CELL).dropna(axis=1, how="all")
shown.index = pd.to_datetime(shown.index).strftime("%Y-%m")
hidden = int((by_month < LEAST_CELL).to_numpy().sum())

# %%
figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
if len(shown.columns):
    largest = shown.sum().sort_values(ascending=False).index
    shown[largest].plot.bar(stacked=True, ax=axes, width=0.85)
    axes.legend(title=None, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
axes.set(title="SNAP check-ins by month and outcome", xlabel="month due", ylabel="check-ins")
axes.text(0, -0.32, f"{hidden} counts below {LEAST_CELL} left out", transform=axes.transAxes)
axes.grid(alpha=0.3, axis="y")
plt.show()
