"""`concord model`: what a model's file says, and what would be trained, before anything is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.lake.run import Run
from concord_models import studies
from concord_models.churn import cohort
from concord_models.churn.outreach import CONTACTED
from concord_models.specification import ModelSpec
from concord_models.temporal import Split, splits, timeline
from concord_models.training_rows import (
    label_columns,
    labels,
    request,
    slice_edges,
    with_outreach,
)


@dataclass(frozen=True)
class Planned:
    """Rows of one training and its test, closed ones among them."""

    name: str
    train: int
    train_closed: int
    test: int
    test_closed: int

    @property
    def usable(self) -> bool:
        return all(
            0 < closed < rows
            for rows, closed in ((self.train, self.train_closed), (self.test, self.test_closed))
        )


@dataclass(frozen=True)
class Plan:
    """What a training would do on the study as it is."""

    spec: ModelSpec
    last_mature: str
    slices: dict[str, tuple[int, int]]
    splits: tuple[Split, ...]
    rows: tuple[Planned, ...]

    def lines(self) -> Iterator[str]:
        spec = self.spec
        yield f"{spec.registered_name}: {spec.title}"
        yield f"identity {spec.identity}; {len(spec.features)} features, {spec.label.name}"
        yield f"last as-of day whose label is mature: {self.last_mature}"
        for name, (rows, closed) in self.slices.items():
            yield f"{name}: {rows} check-ins, {closed} closed"
        yield (
            f"search: {spec.search.trials} trials, at most {spec.search.sample_rows} rows and "
            f"{spec.search.rounds} trees each; then logistic regression and trees on all of them"
        )
        if not self.splits:
            yield "no temporal design: candidates are compared on the validation slice alone"
            return
        usable = sum(each.usable for each in self.rows)
        tried = usable * (1 + min(spec.selection.candidates, spec.search.trials))
        yield (
            f"backtest: {usable} of {len(self.splits)} splits have both labels in training and "
            f"test; {tried} fits; {spec.selection.rule} of {spec.selection.metric}"
        )
        yield from timeline(self.splits)
        for each in self.rows:
            told = "" if each.usable else "  left out: one of the labels is missing"
            yield (
                f"{each.name}  train {each.train} ({each.train_closed} closed), "
                f"test {each.test} ({each.test_closed} closed){told}"
            )


def plan(run: Run, spec: ModelSpec, contracts: dict[str, Contract], register: Register) -> Plan:
    """What `train` would do now: rows and labels of each slice and split, no features.

    Asks for the same decision and logs it, for it counts rows. Raises RefusedError (14), UsageError
    (no study, too few months, no split fits).
    """
    dula = register.dula(spec.agreement, run.clock().date())
    if dula is None:
        raise register.unknown(spec.agreement)
    asked = request(run, spec, dula)
    decision = access_log.ask(run, register, asked)
    wanted = label_columns(spec)
    held = studies.held(run, dula, contracts, wanted)
    frames = held.frames(run, wanted)
    reports = frames["dta_snap.checkins"]
    rows = cohort.open_checkins(reports, *map(cohort.lead, spec.cohort.leads))
    counted = (
        with_outreach(spec, rows.select(*cohort.KEY, cohort.AS_OF), frames, run.as_of)
        .where(F.col(CONTACTED).isNull())
        .join(labels(spec, frames, run.as_of), [*cohort.KEY], "inner")
        .groupBy(cohort.DUE, cohort.AS_OF, cohort.LABEL_KNOWN)
        .agg(F.count(F.lit(1)).alias("rows"), F.sum(cohort.LABEL).alias("closed"))
    )
    days = counted.toPandas()
    access_log.record_reads(run, [access_log.Read(asked, decision, run.run_id, held.rows)])
    edges = slice_edges(spec, sorted(set(days[cohort.DUE])), run.as_of)
    sliced = cohort.split(days, edges)
    found = {
        name: (int(days["rows"][sliced == name].sum()), int(days["closed"][sliced == name].sum()))
        for name in cohort.SLICES
    }
    as_of = days[cohort.AS_OF].to_numpy(dtype="datetime64[D]")
    until = days[cohort.LABEL_KNOWN].to_numpy(dtype="datetime64[D]")
    cut = splits(spec.temporal, as_of.min().item(), until.max().item()) if spec.temporal else []
    planned = [
        Planned(str(s.at), *_counted(days, s.train(as_of, until)), *_counted(days, s.test(as_of)))
        for s in cut
    ]
    return Plan(spec, str(as_of.max()), found, tuple(cut), tuple(planned))


def _counted(days: pd.DataFrame, chosen: np.ndarray[Any, Any]) -> tuple[int, int]:
    return int(days["rows"][chosen].sum()), int(days["closed"][chosen].sum())


def draw(plan: Plan, to: Path) -> None:
    """The timeline as a picture (PNG or SVG, by the file's name)."""
    from concord_models.plots import timeline_plot

    timeline_plot(plan.splits, plan.spec.title).savefig(to, dpi=120)
