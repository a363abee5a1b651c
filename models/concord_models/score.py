"""The `score` job: the champion applied under another agreement.

Decided, with the model's own agreement → the study's tables at recorded versions → check-ins that
fall due soon, features as of the day → scores, replaced for that day in one commit. Scores order
outreach; nothing adverse rests on them. To give them back to the agency is `return`'s.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
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
from concord.errors import RefusedError, UsageError
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.registry import Table
from concord.lake.run import Run
from concord.lake.tables import Written
from concord.tracking import Registered
from concord_models import scorer as scorers
from concord_models import studies
from concord_models.churn import cohort
from concord_models.churn.cohort import AS_OF, CASE, DUE
from concord_models.churn.features import OFFICE, columns, features
from concord_models.score_tables import replace_day, returned_table, scores_table, written_for
from concord_models.scorer import Scorer
from concord_models.specification import ModelSpec, load_models
from concord_models.studies import Held

SCORED = (
    f"{CASE} string, {DUE} date, {AS_OF} date, {OFFICE} string, raw double, p_proc double, "
    "reasons array<string>"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a scoring; `table` is the one that holds it."""

    status: str
    message: str
    version: str = ""
    rows: int = 0
    table: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


def tables(conf: Path, dulas: Mapping[str, Dula]) -> list[Table]:
    """The tables that a deployment's models may fill, for its registry (entry point
    `concord.tables`). Raises ConfigError for a model file that is wrong."""
    found = []
    for spec in load_models(conf).values():
        for dula in dulas.values():
            if "score" in dula.uses.allowed and spec.label.name == "y_proc":
                found.append(scores_table(dula, spec))
                if dula.uses.returned_under_own_ids:
                    found.append(returned_table(dula, spec))
    return found


def score(
    run: Run,
    spec: ModelSpec,
    contracts: Mapping[str, Contract],
    register: Register,
    *,
    agreement: str,
) -> Outcome:
    """Scores what falls due within the model file's days after the run's as-of date.

    Raises RefusedError (14) when an agreement does not allow it or the model has expired,
    UsageError when there is no model or no study, or the model predicts another label than
    y_proc, LockedError and InfrastructureError as they come.
    """
    seconds: dict[str, float] = {}
    dula = register.dula(agreement, run.clock().date())
    if dula is None:
        raise register.unknown(agreement)
    if spec.label.name != "y_proc":
        raise UsageError(
            f"{spec.name} predicts {spec.label.name}; the tables of scores hold y_proc alone: "
            "name a model of it"
        )
    request = _request(run, dula, spec)
    champion = tracking.opened(run.settings).champion(spec.registered_name)
    # The agreement that the model itself was trained under, whatever its file says today.
    trained = champion.tags[tracking.AGREEMENTS] if champion else spec.agreement
    decision = access_log.ask(run, register, request, model=trained)
    reach("score.decided")
    champion = _usable(run, spec, champion)
    held = studies.held(run, dula, contracts, columns(spec.features))
    expires = min(_expiry(champion), decision.expires or dula.term.expires)
    inputs = runs.digest(
        champion.name,
        champion.version,
        champion.tags.get(tracking.INPUTS),
        held.by_name,
        run.as_of,
        expires,
        decision.policy_digest,
        spec.cohort.model_dump(),
        tracking.code_digest(Path(__file__).parent),
    )
    if run.dry_run:
        message = f"{champion.name} version {champion.version} may be applied until {expires}"
        return Outcome("would score", message, champion.version)
    table = scores_table(dula, spec)
    job = _Scoring(run, spec, dula, decision, request, held, champion, expires, inputs)
    with run.lake.locks.hold([table.name]):
        with _timed(seconds, "score"):
            written = job.scores(table)
        reach(f"score.wrote.{table.name}")
    run.tally.read.update(held.by_name)
    if not written.applied:
        return Outcome("nothing to do", "nothing to do", champion.version, 0, table.name, seconds)
    run.tally.note([written])
    rows = job.rows(table, written.version)
    run.tally.rows_out += rows
    if not rows:
        within = spec.cohort.score_due_from_days, spec.cohort.score_due_until_days
        begin, end = (run.as_of + timedelta(days=days) for days in within)
        message = f"no open check-in that was known on {run.as_of} falls due {begin} to {end}"
        return Outcome("scored", message, champion.version, 0, table.name, seconds)
    message = (
        f"{rows} check-ins scored by {champion.name} version {champion.version} as of {run.as_of}"
    )
    return Outcome("scored", message, champion.version, rows, table.name, seconds)


def _request(run: Run, dula: Dula, spec: ModelSpec) -> Request:
    wanted = columns(spec.features)
    return Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="score",
        columns=wanted,
        as_of=run.as_of,
        linkages=frozenset({frozenset(wanted)}),
    )


def _usable(run: Run, spec: ModelSpec, found: Registered | None) -> Registered:
    """The model to apply. Raises UsageError without one, RefusedError when it has expired."""
    if found is None:
        raise UsageError(
            f"there is no trained model {spec.registered_name} with the alias "
            f"{tracking.CHAMPION}; run concord train --model {spec.name} first"
        )
    if run.clock().date() > _expiry(found):
        raise RefusedError(
            f"{found.name} version {found.version} expired on {_expiry(found)} with the agreements "
            "it was trained under; have them renewed, then run concord train"
        )
    return found


def _expiry(model: Registered) -> date:
    return date.fromisoformat(model.tags[tracking.EXPIRES])


@dataclass(frozen=True)
class _Scoring:
    """One as-of day under one agreement."""

    run: Run
    spec: ModelSpec
    dula: Dula
    decision: Decision
    request: Request
    held: Held
    champion: Registered
    expires: date
    inputs: str

    def scores(self, table: Table) -> Written:
        """The day's scores, replaced in one commit unless they were made from the same inputs."""
        before = written_for(self.run, table)
        if before and before[1].get("inputs") == self.inputs:
            return Written(table.name, before[0], applied=False)
        scorer = self._scorer()
        unnamed = [name for name in scorer.features if name not in self.spec.features]
        if unnamed:
            raise UsageError(
                f"{self.champion.name} version {self.champion.version} needs {', '.join(unnamed)}, "
                f"which conf/models/{self.spec.name}.yaml does not name; add them, or run concord "
                "train"
            )
        frames = self.held.frames(self.run, columns(self.spec.features))
        within = self.spec.cohort
        day = F.lit(self.run.as_of)
        rows = cohort.open_checkins(frames["dta_snap.checkins"], day).where(
            F.date_diff(F.col(DUE), day).between(
                within.score_due_from_days, within.score_due_until_days
            )
        )
        scored = applied(features(rows, frames, scorer.features), scorer)
        named = ranked(scored).select(
            "*",
            F.lit(self.champion.name).alias("model_name"),
            F.lit(int(self.champion.version)).alias("model_version"),
            _versions(self.held).alias("feature_versions"),
            F.col(AS_OF).cast("timestamp").alias("scored_at"),
            F.lit(self.expires).alias("expires_on"),
        )
        # Before the write: a run that is killed in between has read all the same.
        read = access_log.Read(self.request, self.decision, self.run.run_id, self.held.rows)
        access_log.record_reads(self.run, [read])
        trained = self.champion.tags[tracking.AGREEMENTS]
        return replace_day(
            self.run, named, table, self.dula,
            trained=trained, inputs=self.inputs, expires=self.expires,
        )  # fmt: skip

    def rows(self, table: Table, version: int) -> int:
        day = F.col(AS_OF) == F.lit(self.run.as_of)
        return self.run.lake.read(table, version=version).where(day).count()

    def _scorer(self) -> Scorer:
        from concord_models.pyfunc import SCORER_ARTIFACT

        store = tracking.opened(self.run.settings)
        with tempfile.TemporaryDirectory() as place:
            got = store.mlflow.artifacts.download_artifacts(
                artifact_uri=self.champion.uri, dst_path=place
            )
            return scorers.load(next(Path(got).rglob(SCORER_ARTIFACT)))


def applied(rows: DataFrame, scorer: Scorer) -> DataFrame:
    """Rows of features with raw and calibrated probability and reasons, on the workers."""

    def of(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            own = scorers.matrix({name: batch[name] for name in scorer.features}, scorer.features)
            parts = scorer.contributions(own)
            raw = 1 / (1 + np.exp(-parts.sum(axis=1)))
            reasons = pd.Series(scorer.reasons(own, parts), index=batch.index, dtype=object)
            kept = batch[[CASE, DUE, AS_OF, OFFICE]]
            yield kept.assign(raw=raw, p_proc=scorer.calibration(raw), reasons=reasons)

    return rows.mapInPandas(of, SCORED)


def ranked(scored: DataFrame) -> DataFrame:
    """Adds the order of calls within an office and due day, by the uncalibrated score: calibration
    only adds ties."""
    order = Window.partitionBy(OFFICE, DUE).orderBy(F.desc("raw"), CASE)
    return scored.withColumn("rank_in_office", F.row_number().over(order)).drop("raw")


def _versions(held: Held) -> Any:
    pairs = [
        F.struct(F.lit(name).alias("table"), F.lit(version).cast("bigint").alias("version"))
        for name, version in sorted(held.by_name.items())
    ]
    return F.array(*pairs)


class _timed:
    """Adds the seconds of a `with` block to a stage."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._began
        self._seconds[self._stage] = round(self._seconds.get(self._stage, 0) + spent, 1)
