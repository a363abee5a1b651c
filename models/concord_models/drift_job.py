"""The `drift` job: how far rows, scores and outcomes under an agreement are from training.

Decided, with the model's own agreement → the study's tables at recorded versions → what became of
each score (`interventions_<model>`) → measures against the reference that training kept → one run
in MLflow and `drift_<model>`, replaced for that day. From the same inputs nothing is measured
twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from concord import tracking
from concord.agreements import access_log
from concord.agreements.decision import Decision, Request
from concord.agreements.dula import Dula
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import UsageError
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.registry import Table
from concord.lake.run import Run
from concord.tracking import Registered, Store
from concord_models import drift as drifts
from concord_models import studies, training_rows
from concord_models.churn import outreach
from concord_models.churn.cohort import AS_OF, DUE, KEY, LABEL
from concord_models.churn.definitions import RULES
from concord_models.churn.features import features
from concord_models.churn.outreach import CONTACTED
from concord_models.drift import Bins, Graded, Measure, Reference, judged
from concord_models.evaluation import LEAST_CELL
from concord_models.score import expiry, falling_due, request, scorer_files, usable
from concord_models.score_tables import (
    HELD_OUT,
    drift_table,
    interventions_table,
    last_day,
    replace_day,
    scores_table,
    written_for,
)
from concord_models.scorer import PROBABILITIES
from concord_models.specification import ModelSpec
from concord_models.studies import Held
from concord_models.timing import timed

GROUPS = 1000  # of probability: outcomes are added up by the thousandth


@dataclass(frozen=True)
class Outcome:
    """What became of it. `alarms` and `warnings` name measures as `psi of earned_income`."""

    status: str
    message: str
    version: str = ""
    table: str = ""
    alarms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    mlflow_run: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


def drift(
    run: Run,
    spec: ModelSpec,
    contracts: Mapping[str, Contract],
    register: Register,
    *,
    agreement: str,
) -> Outcome:
    """Measures the newest scores, and the outcomes of earlier ones, as known on the as-of date.

    Raises RefusedError (14) when an agreement does not allow it or the model has expired,
    UsageError when there is no model, no study, no score, or no reference with the model,
    LockedError and InfrastructureError as they come.
    """
    seconds: dict[str, float] = {}
    dula = register.dula(agreement, run.clock().date())
    if dula is None:
        raise register.unknown(agreement)
    store = tracking.opened(run.settings)
    champion = store.champion(spec.registered_name)
    trained = champion.tags[tracking.AGREEMENTS] if champion else spec.agreement
    more = training_rows.label_columns(spec), {"dta_snap.contacts": outreach.COLUMNS}
    wanted = request(run, dula, spec, *more)
    decision = access_log.ask(run, register, wanted, model=trained)
    reach("drift.decided")
    champion = usable(run, store, spec, champion)
    held = studies.held(run, dula, contracts, wanted.columns)
    source = scores_table(dula, spec)
    version = run.lake.version(source)
    scores = run.lake.read(source, version=version).where(F.col(AS_OF) <= F.lit(run.as_of))
    newest = scores.agg(F.max(F.struct(AS_OF, "model_version"))).collect()[0][0]
    if newest is None:
        raise UsageError(
            f"there are no scores of {spec.name} under {dula.id} up to {run.as_of}; run concord "
            f"score --agreement {dula.id} --model {spec.name} first"
        )
    model = _version(store, spec, trained, newest["model_version"])
    if run.dry_run:
        message = f"the scores as of {newest[AS_OF]} may be measured"
        return Outcome("would measure", message, model.version)
    expires = min(expiry(model), decision.expires or dula.term.expires)
    inputs = runs.digest(
        model.name, model.version, model.tags.get(tracking.INPUTS), held.by_name, version,
        run.as_of, expires, decision.policy_digest, spec.drift.model_dump(),
        tracking.code_digest(Path(__file__).parent),
    )  # fmt: skip
    job = _Drift(
        run, spec, dula, decision, wanted, held, store, model, trained, expires, inputs,
        scores, newest[AS_OF],
    )  # fmt: skip
    target, log = drift_table(dula, spec), interventions_table(dula, spec)
    with run.lake.locks.hold([target.name, log.name]):
        before = written_for(run, target)
        if before and before[1].get("inputs") == inputs:
            told = run.lake.read(target, version=before[0]).where(F.col(AS_OF) == run.as_of)
            return _outcome("nothing to do", job, [_measure(row) for row in told.collect()], target)
        with timed(seconds, "interventions"):
            became = job.interventions(log)
        reach(f"drift.wrote.{log.name}")
        with timed(seconds, "measure"):
            measures = job.measures(became)
        with timed(seconds, "log"):
            logged = _log(job, measures)
        reach("drift.logged")
        with timed(seconds, "write"):
            job.write(measures, target)
        reach(f"drift.wrote.{target.name}")
    run.tally.read.update({**held.by_name, source.name: version or 0})
    run.tally.rows_out += len(measures)
    return _outcome("measured", job, measures, target, logged, seconds)


def _version(store: Store, spec: ModelSpec, trained: str, number: int) -> Registered:
    """The registered version that made the newest scores."""
    for each in store.under(trained):
        if (each.name, each.version) == (spec.registered_name, str(number)):
            return each
    raise UsageError(
        f"version {number} of {spec.registered_name}, which made the newest scores, is archived; "
        "run concord score again first"
    )


@dataclass(frozen=True)
class _Drift:
    """One as-of day under one agreement; `scored_on` is the newest day of `scores`."""

    run: Run
    spec: ModelSpec
    dula: Dula
    decision: Decision
    request: Request
    held: Held
    store: Store
    model: Registered
    trained: str
    expires: date
    inputs: str
    scores: DataFrame
    scored_on: date

    @property
    def frames(self) -> dict[str, DataFrame]:
        return self.held.frames(self.run, self.request.columns)

    def interventions(self, table: Table) -> DataFrame:
        """What became of each score of the last months, as known on the run's day.

        Written unless a run of a later day did: the log does not go back.
        """
        begin = _months_before(self.run.as_of, self.spec.drift.months)
        own = self.scores.where(F.col(AS_OF) >= F.lit(begin))
        frames = self.frames
        rows = outreach.contacted(own, frames["dta_snap.contacts"], self.run.as_of)
        known = training_rows.labels(self.spec, frames, self.run.as_of)
        name = PROBABILITIES[self.spec.label.name]
        found = rows.withColumnRenamed(name, "probability").join(known, [*KEY], "left")
        found = found.select(*table.column_names)
        read = access_log.Read(self.request, self.decision, self.run.run_id, self.held.rows)
        access_log.record_reads(self.run, [read])
        last = last_day(self.run, table)
        if last is not None and last > self.run.as_of:
            return found
        written = self._replace(found, table, since=begin)
        stored = self.run.lake.read(table, version=written.version)
        return stored.where(F.col(AS_OF) >= F.lit(begin))

    def write(self, measures: list[Measure], table: Table) -> None:
        fixed = {AS_OF: self.run.as_of, "scored_on": self.scored_on,
                 "model_version": int(self.model.version)}  # fmt: skip
        rows = []
        for each in measures:
            told = {**asdict(each), **fixed}
            told["measure"] = told.pop("name")
            rows.append(tuple(told[name] for name in table.column_names))
        self._replace(self.run.lake.spark.createDataFrame(rows, table.schema), table)

    def _replace(self, rows: DataFrame, table: Table, since: date | None = None) -> Any:
        written = replace_day(
            self.run, rows, table, self.dula,
            trained=self.trained, inputs=self.inputs, expires=self.expires, since=since,
        )  # fmt: skip
        self.run.tally.note([written])
        return written

    def measures(self, became: DataFrame) -> list[Measure]:
        """All measures; those of fewer than eleven rows are left out."""
        with scorer_files(self.store, self.model) as files:
            kept = drifts.load(files)
        if kept is None:
            raise UsageError(
                f"{self.model.name} version {self.model.version} was trained without a reference; "
                "run concord train, then concord score"
            )
        return [
            *self._distributions(kept),
            *_outcomes(_added_up(became), self.spec, kept, int(self.model.version)),
            *self._changes(),
        ]

    def _distributions(self, kept: Reference) -> Iterator[Measure]:
        """PSI of each feature and of the scores of the newest day."""
        frames, on = self.frames, F.col(AS_OF) == F.lit(self.scored_on)
        rows = falling_due(frames["dta_snap.checkins"], self.spec, self.scored_on)
        scored = self.scores.where(on)
        # The features are made anew: what was known on that day has not changed since.
        found = features(rows, frames, tuple(kept.features))
        own = found.join(scored.select(*KEY), [*KEY], "left_semi")
        names = {name: name for name in kept.features}
        limits, among = self.spec.drift, len(names) + 1
        p = PROBABILITIES[self.spec.label.name]
        for measured, bins in (
            (counts(own, kept.features), kept.features),
            (counts(scored.select(p), {p: kept.scores}), {p: kept.scores}),
        ):
            for name, seen in measured.items():
                total = int(seen.sum())
                if total < LEAST_CELL:
                    continue
                value, chance = drifts.psi(bins[name], seen, among=among)
                of = name if name in names else "scores"
                made = Measure("psi", of, value, total, chance=chance)
                yield judged(made, value, limits.psi_alarm, limits.psi_warning)

    def _changes(self) -> Iterator[Measure]:
        """What changed between training and now that no distribution has to show: warnings."""
        tags = self.model.tags
        changed = partial(Measure, value=None, rows=0, state="warning")
        begin = date.fromisoformat(tags[tracking.AS_OF])
        for rule in RULES:
            if begin < rule.effective_from <= self.run.as_of:
                yield changed("rule", f"{rule.certification_type} from {rule.effective_from}")
        then = json.loads(tags.get(drifts.CONTRACTS, "{}"))
        for feed, version in json.loads(drifts.contract_versions(self.held)).items():
            if then.get(feed, version) != version:
                yield changed("contract", f"{feed} {then[feed]} to {version}")
        first = self.scores.groupBy("model_version").agg(F.min(AS_OF).alias("first"))
        versions = sorted((row["first"], row["model_version"]) for row in first.collect())
        for (_, old), (day, new) in zip(versions, versions[1:], strict=False):
            if day >= _months_before(self.run.as_of, self.spec.drift.months):
                yield changed("model version", f"{old} to {new} on {day}")


def counts(rows: DataFrame, bins: Mapping[str, Bins]) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of each bin, by column: counted on the workers in one pass."""

    def of(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        total = {name: each.count(np.empty(0)) for name, each in bins.items()}
        for batch in batches:
            for name, each in bins.items():
                total[name] = total[name] + each.count(batch[name].to_numpy(dtype=np.float64))
        for name, found in total.items():
            yield pd.DataFrame({"name": name, "bin": range(len(found)), "rows": found})

    parts = rows.select(*bins).mapInPandas(of, "name string, bin int, rows bigint")
    summed = parts.groupBy("name", "bin").agg(F.sum("rows").alias("rows")).collect()
    result = {name: each.count(np.empty(0)) for name, each in bins.items()}
    for row in summed:
        result[row["name"]][row["bin"]] = row["rows"]
    return result


def _added_up(became: DataFrame) -> pd.DataFrame:
    """Scores and outcomes by month of due days, version, hold-out and thousandth of probability:
    of each check-in the newest score counts.

    `ones` and `known` are of check-ins that no outreach reached, as training counts them;
    `all_ones` and `all_known` of all.
    """
    newest = Window.partitionBy(*KEY).orderBy(F.desc(AS_OF))
    rows = became.withColumn("_n", F.row_number().over(newest)).where("_n = 1")
    alone = F.col(CONTACTED).isNull() & F.col(LABEL).isNotNull()
    return (
        rows.groupBy(
            F.trunc(DUE, "month").alias("month"),
            "model_version",
            HELD_OUT,
            F.round(F.col("probability") * GROUPS).alias("group"),
        )
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.sum("probability").alias("p"),
            F.count_if(alone).alias("known"),
            F.coalesce(F.sum(F.when(alone, F.col("probability"))), F.lit(0.0)).alias("known_p"),
            F.coalesce(F.sum(F.when(alone, F.col(LABEL))), F.lit(0)).alias("ones"),
            F.count(LABEL).alias("all_known"),
            F.coalesce(F.sum(LABEL), F.lit(0)).alias("all_ones"),
        )
        .toPandas()
        .sort_values(["month", "model_version", HELD_OUT, "group"])
    )


def _outcomes(
    found: pd.DataFrame, spec: ModelSpec, kept: Reference, version: int
) -> Iterator[Measure]:
    """Score and label rates by month, calibration, and how held-out check-ins ended."""
    limits = spec.drift
    months = found.groupby("month")[["rows", "p", "known", "ones"]].sum()
    for month, each in months.iterrows():
        if each["rows"] >= LEAST_CELL:
            rate = float(each["p"] / each["rows"])
            yield Measure("score_rate", f"{month:%Y-%m}", rate, int(each["rows"]))
        if each["known"] < LEAST_CELL:
            continue
        rows, rate = int(each["known"]), float(each["ones"] / each["known"])
        among = len(months)
        chance = drifts.rate_chance(kept.label_rate, rows, kept.rows, among=among)
        made = Measure("label_rate", f"{month:%Y-%m}", rate, rows, kept.label_rate, chance=chance)
        yield judged(made, abs(rate - kept.label_rate), limits.label_rate)
    own = found[(found["model_version"] == version) & (found["known"] > 0)]
    own = own.groupby("group")[["known", "known_p", "ones"]].sum().sort_index()
    if own["known"].sum() >= LEAST_CELL:
        known = own["known"].to_numpy(dtype=np.float64)
        p = own["known_p"].to_numpy(dtype=np.float64) / known
        graded = Graded(p, known, own["ones"].to_numpy(dtype=np.float64))
        error, chance = drifts.calibration_error(graded, spec.metrics.calibration_bins)
        made = Measure("ece", f"version {version}", error, graded.total, chance=chance)
        yield judged(made, error, limits.ece)
        slope = graded.slope
        if not math.isnan(slope):
            yield Measure("slope", f"version {version}", slope, graded.total, 1.0)
    for held_out, each in found.groupby(HELD_OUT)[["all_known", "all_ones"]].sum().iterrows():
        if each["all_known"] >= LEAST_CELL:
            of = "held out" if held_out else "handed back"
            rows = int(each["all_known"])
            yield Measure("label_rate", of, float(each["all_ones"] / rows), rows)


# --- told ----------------------------------------------------------------------------------------


def _log(job: _Drift, measures: list[Measure]) -> str:
    """One finished run, unless a killed try left it. Its id."""
    run, store, spec = job.run, job.store, job.spec
    title = f"{spec.title}: drift of its scores"
    experiment = store.experiment(f"{spec.registered_name}.drift", title)
    before = store.finished(experiment, job.inputs)
    if before:
        return before
    store.end_interrupted(experiment, job.inputs)
    mlflow = store.mlflow
    tags = {
        **tracking.origin(Path(__file__).parent),
        tracking.INPUTS: job.inputs,
        tracking.RUN_ID: run.run_id,
        tracking.AGREEMENTS: ",".join(dict.fromkeys((job.dula.id, job.trained))),
        tracking.PURPOSES: job.dula.purpose.code,
        tracking.EXPIRES: job.expires.isoformat(),
        tracking.POLICY_DIGEST: job.decision.policy_digest,
        tracking.DATA_VERSIONS: json.dumps(job.held.by_name, sort_keys=True),
        tracking.AS_OF: run.as_of.isoformat(),
        tracking.SOURCE: "concord drift",
    }
    name = f"drift of {spec.name} under {job.dula.id} as of {run.as_of}"
    with mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as active:
        mlflow.log_params({"model_version": job.model.version, "scored_on": job.scored_on})
        mlflow.log_metrics(
            {
                f"{each.name}.{each.of}".replace(" ", "_"): each.value
                for each in measures
                if each.value is not None
            }
        )
        mlflow.log_table(pd.DataFrame([asdict(each) for each in measures]), "drift.json")
        mlflow.log_figure(plot(measures, spec), "drift.png")
    return str(active.info.run_id)


SHOWN = 15


def plot(measures: list[Measure], spec: ModelSpec) -> Any:
    """A figure: the features that moved most with the limits, and rates by month."""
    from matplotlib.figure import Figure

    moved = sorted(
        (each for each in measures if each.name == "psi"), key=lambda each: -(each.value or 0)
    )[:SHOWN]
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"ok": "#4477aa", "warning": "#ccbb44", "alarm": "#ee6677"}
    left.barh(
        [each.of for each in moved], [each.value or 0 for each in moved],
        color=[colours[each.state] for each in moved],
    )  # fmt: skip
    left.plot([each.chance or 0 for each in moved], range(len(moved)), "k|", label="chance")
    for limit in (spec.drift.psi_warning, spec.drift.psi_alarm):
        left.axvline(limit, linestyle=":", color="grey")
    left.invert_yaxis()
    left.set(title="Rows against training", xlabel="population stability index")
    left.legend()
    by_month = [each for each in measures if each.of[:1].isdigit()]
    for name, label in (("score_rate", "mean score"), ("label_rate", "outcome, not called")):
        told = [each for each in by_month if each.name == name]
        if told:
            values: list[Any] = [each.value for each in told]
            right.plot([each.of for each in told], values, marker="o", label=label)
    reference = next((each.reference for each in by_month if each.reference is not None), None)
    if reference is not None:
        right.axhline(reference, linestyle=":", color="grey", label="training")
    right.set(title="By month in which check-ins fall due", ylabel="share")
    right.set_ylim(bottom=0)
    right.legend()
    return figure


def _outcome(
    status: str,
    job: _Drift,
    measures: list[Measure],
    table: Table,
    logged: str = "",
    seconds: Mapping[str, float] | None = None,
) -> Outcome:
    states = {
        state: tuple(f"{each.name} of {each.of}" for each in measures if each.state == state)
        for state in ("alarm", "warning")
    }
    counted = ", ".join(f"{len(names)} {state}s" for state, names in states.items())
    message = (
        f"{job.model.name} version {job.model.version}, scores as of {job.scored_on}: "
        f"{len(measures)} measures, {counted}"
    )
    if states["alarm"]:
        message += f" ({', '.join(states['alarm'])})"
    if status == "nothing to do":
        message = f"nothing to do: {message}"
    return Outcome(
        status, message, job.model.version, table.name, states["alarm"], states["warning"],
        logged, seconds or {},
    )  # fmt: skip


def _measure(row: Any) -> Measure:
    told = row.asDict()
    names = ("of", "value", "rows", "reference", "bound", "chance", "state")
    return Measure(told["measure"], **{name: told[name] for name in names})


def _months_before(day: date, months: int) -> date:
    """The first day of the month so many months before a day's."""
    count = day.year * 12 + day.month - 1 - months
    return date(count // 12, count % 12 + 1, 1)
