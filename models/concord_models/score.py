"""The `score` job: the champion applied under another agreement, and given back to the agency.

Decided, with the model's own agreement → the study's tables at recorded versions → check-ins that
fall due soon, features as of the day → scores, replaced for that day in one commit → the same under
the agency's own case ids, in the vault. Scores order outreach; nothing adverse rests on them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import RefusedError, UsageError
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.registry import VERSIONS_TYPE, Column, Table
from concord.lake.run import Run
from concord.lake.tables import Lake, ReplaceWhere, Transaction, Written, commits
from concord.studies.keys import study_key
from concord.studies.returning import OWN_ID, own_ids
from concord.studies.tables import folder
from concord.tracking import Registered
from concord_models import scorer as scorers
from concord_models import studies
from concord_models.churn import cohort
from concord_models.churn.cohort import AS_OF, CASE, DUE
from concord_models.churn.features import COLUMNS, OFFICE, features
from concord_models.scorer import Scorer
from concord_models.specification import ModelSpec, load_models
from concord_models.studies import Held

CASES = "dta_snap.cases"
ROLE = "case"
SCORED = (
    f"{CASE} string, {DUE} date, {AS_OF} date, {OFFICE} string, raw double, p_proc double, "
    "reasons array<string>"
)
COMMON = (
    Column(DUE, "date", "day on which the check-in falls due", "confidential"),
    Column(AS_OF, "date", "day up to which the score knows anything"),
    Column(OFFICE, "string", "local office"),
    Column("p_proc", "double", "probability of closure for want of paperwork", "confidential"),
    Column("rank_in_office", "int", "1 is the first to call, among the office's due that day"),
    Column("reasons", "array<string>", "what raises the risk most, at most three", "confidential"),
    Column("model_name", "string"),
    Column("model_version", "int"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a scoring; `tables` are those that hold it."""

    status: str
    message: str
    version: str = ""
    rows: int = 0
    tables: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def scores_table(dula: Dula, spec: ModelSpec) -> Table:
    """`studies/<dula>/scores_<model>`: under the study's pseudonyms."""
    return Table(
        name=f"{folder(dula)}/scores_{spec.name}",
        description=f"{spec.title}: scores that order outreach; no adverse action rests on one.",
        owner=dula.owners.agencies[0],
        columns=(
            Column(CASE, "string", "pseudonym of the case, of this study alone", "confidential"),
            *COMMON,
            Column("feature_versions", VERSIONS_TYPE, "the tables that features are made from"),
            Column("scored_at", "timestamp", "begin of the as-of day, UTC"),
            Column("expires_on", "date", "last day on which it may be held or used"),
        ),
        key=(CASE, DUE, AS_OF),
        statistics=(AS_OF,),
    )


def returned_table(dula: Dula, spec: ModelSpec) -> Table:
    """`vault/returned/<dula>/scores_<model>`: under the agency's own case ids, for it alone."""
    return Table(
        name=f"vault/returned/{dula.id}/scores_{spec.name}",
        description=f"{spec.title}: scores as they go back to the agency, by its own case ids.",
        owner=dula.recipients.parties[0].key,
        columns=(
            Column("case_id", "string", "the agency's own", "restricted", "direct"),
            *COMMON,
            Column("expires_on", "date", "last day on which it may be held or used"),
        ),
        key=("case_id", DUE, AS_OF),
        statistics=(AS_OF,),
    )


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
        known = ", ".join(sorted(register.dulas)) or "none"
        raise UsageError(f"there is no agreement {agreement!r}; conf/agreements has {known}")
    if spec.label.name != "y_proc":
        raise UsageError(
            f"{spec.name} predicts {spec.label.name}; the tables of scores hold y_proc alone: "
            "name a model of it"
        )
    request = _request(run, dula)
    champion = tracking.opened(run.settings).champion(spec.registered_name)
    # The agreement that the model itself was trained under, whatever its file says today.
    trained = champion.tags[tracking.AGREEMENTS] if champion else spec.agreement
    decision = access_log.ask(run, register, request, model=trained)
    reach("score.decided")
    champion = _usable(run, spec, champion)
    held = studies.held(run, dula, contracts, COLUMNS)
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
    into = [scores_table(dula, spec)]
    if dula.uses.returned_under_own_ids:
        into.append(returned_table(dula, spec))
    job = _Scoring(run, spec, dula, decision, request, contracts, held, champion, expires, inputs)
    with run.lake.locks.hold([table.name for table in into]):
        with _timed(seconds, "score"):
            first = job.scores(into[0])
        reach(f"score.wrote.{into[0].name}")
        written = [first]
        if len(into) > 1:
            with _timed(seconds, "return"):
                written.append(job.returned(into[0], into[1], first.version))
            reach(f"score.wrote.{into[1].name}")
    run.tally.read.update(held.by_name)
    applied = [w for w in written if w.applied]
    run.tally.note(applied)
    names = tuple(table.name for table in into)
    if not applied:
        return Outcome("nothing to do", "nothing to do", champion.version, 0, names, seconds)
    rows = job.rows(into[0], first.version)
    run.tally.rows_out += rows
    if not rows:
        within = spec.cohort.score_due_from_days, spec.cohort.score_due_until_days
        begin, end = (run.as_of + timedelta(days=days) for days in within)
        message = f"no open check-in that was known on {run.as_of} falls due {begin} to {end}"
        return Outcome("scored", message, champion.version, 0, names, seconds)
    message = (
        f"{rows} check-ins scored by {champion.name} version {champion.version} as of {run.as_of}"
    )
    return Outcome("scored", message, champion.version, rows, names, seconds)


def _request(run: Run, dula: Dula) -> Request:
    return Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="score",
        columns={table: frozenset(columns) for table, columns in COLUMNS.items()},
        as_of=run.as_of,
        linkages=frozenset({frozenset(COLUMNS)}),
        own_ids=dula.uses.returned_under_own_ids,
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
    contracts: Mapping[str, Contract]
    held: Held
    champion: Registered
    expires: date
    inputs: str

    @property
    def _trained(self) -> str:
        return self.champion.tags[tracking.AGREEMENTS]

    def scores(self, table: Table) -> Written:
        """The day's scores, replaced in one commit unless they were made from the same inputs."""
        before = self._before(table, self.inputs)
        if before is not None:
            return Written(table.name, before, applied=False)
        frames = self.held.frames(self.run, COLUMNS)
        within = self.spec.cohort
        day = F.lit(self.run.as_of)
        rows = cohort.open_checkins(frames["dta_snap.checkins"], day).where(
            F.date_diff(F.col(DUE), day).between(
                within.score_due_from_days, within.score_due_until_days
            )
        )
        scored = applied(features(rows, frames), self._scorer())
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
        return self._write(named, table, self.inputs)

    def returned(self, source: Table, table: Table, version: int) -> Written:
        """The day's scores under the agency's own case ids."""
        before = self._before(table, self.inputs)
        if before is not None:
            return Written(table.name, before, applied=False)
        lake = self.run.lake
        contract = self.contracts[CASES.partition(".")[0]]
        key = study_key(lake, self.run.settings.keys, self.dula.id)
        theirs = own_ids(lake, self.dula, self.decision, contract, table=CASES, role=ROLE, key=key)
        day = F.col(AS_OF) == F.lit(self.run.as_of)
        rows = lake.read(source, version=version).where(day).join(theirs, CASE, "inner")
        return self._write(rows.withColumnRenamed(OWN_ID, "case_id"), table, self.inputs)

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

    def _application(self, table: Table) -> str:
        return f"score/{table.name}/{self.run.as_of}"

    def _before(self, table: Table, inputs: str) -> int | None:
        """The version that holds the day's rows if they were made from the same inputs."""
        lake = self.run.lake
        for commit in commits(lake.storage, lake.path(table)):
            said = json.loads(commit.note or "{}")
            if said.get("application") == self._application(table):
                return commit.version if said.get("inputs") == inputs else None
        return None

    def _write(self, rows: DataFrame, table: Table, inputs: str) -> Written:
        lake: Lake = self.run.lake
        before = lake.version(table)
        return lake.write(
            rows.coalesce(1),
            table,
            ReplaceWhere(f"{AS_OF} = DATE'{self.run.as_of}'"),
            stamp=replace(
                self.run.stamp,
                agreements=tuple(dict.fromkeys((self.dula.id, self._trained))),
                inputs=inputs,
            ),
            transaction=Transaction(self._application(table), 0 if before is None else before + 1),
            labels=study_labels(
                meet([self.dula]),
                owner=table.owner,
                classifications=[column.classification for column in table.columns],
                expires=self.expires,
            ),
        )


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
