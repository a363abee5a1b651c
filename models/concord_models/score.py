"""The `score` job: the champion applied under another agreement.

Decided, with the model's own agreement → the study's tables at recorded versions → check-ins that
fall due soon, features as of the day → scores, replaced for that day in one commit. Scores order
outreach; nothing adverse rests on them. To give them back to the agency is `return`'s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
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
from concord.lake.writes import Written
from concord.tracking import Registered, Store
from concord_models import scorer as scorers
from concord_models import studies, training_rows
from concord_models.churn import cohort
from concord_models.churn.blocks import OFFICE, audited, columns
from concord_models.churn.cohort import AS_OF, CASE, DUE
from concord_models.churn.features import features
from concord_models.score_tables import (
    HELD_OUT,
    drift_table,
    interventions_table,
    replace_day,
    returned_table,
    scores_table,
    written_for,
)
from concord_models.scorer import PROBABILITIES, Scorer
from concord_models.specification import ModelSpec, load_models
from concord_models.studies import Held
from concord_models.timing import timed

SCORED = (
    f"{CASE} string, {DUE} date, {AS_OF} date, {OFFICE} string, probability double, "
    "rank_in_office int, reasons array<string>"
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
            if "score" in dula.uses.allowed:
                found += [of(dula, spec) for of in (scores_table, interventions_table, drift_table)]
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

    Raises RefusedError (14) when an agreement does not allow it or the model has expired (its
    versions are archived then), UsageError when there is no model or no study, LockedError and
    InfrastructureError as they come.
    """
    seconds: dict[str, float] = {}
    dula = register.dula(agreement, run.clock().date())
    if dula is None:
        raise register.unknown(agreement)
    wanted = request(run, dula, spec)
    store = tracking.opened(run.settings)
    champion = store.champion(spec.registered_name)
    # The agreement that the model itself was trained under, whatever its file says today.
    trained = champion.tags[tracking.AGREEMENTS] if champion else spec.agreement
    if not run.dry_run:
        _archive_expired(run, store, spec, trained)
    decision = access_log.ask(run, register, wanted, model=trained)
    reach("score.decided")
    champion = usable(run, store, spec, champion)
    held = studies.held(run, dula, contracts, read(spec))
    expires = min(expiry(champion), decision.expires or dula.term.expires)
    inputs = runs.digest(
        champion.name,
        champion.version,
        champion.tags.get(tracking.INPUTS),
        held.by_name,
        run.as_of,
        expires,
        decision.policy_digest,
        spec.cohort.model_dump(),
        spec.label.name,
        spec.holdout,
        spec.reasons_for,
        tracking.code_digest(Path(__file__).parent),
    )
    if run.dry_run:
        message = f"{champion.name} version {champion.version} may be applied until {expires}"
        return Outcome("would score", message, champion.version)
    table = scores_table(dula, spec)
    job = _Scoring(run, spec, dula, decision, wanted, held, champion, expires, inputs)
    with run.lake.locks.hold([table.name]):
        with timed(seconds, "score"):
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


def read(spec: ModelSpec) -> dict[str, frozenset[str]]:
    """Columns by table that a score reads: of features, and of groups that lists reach equally."""
    return columns(spec.features, audit=bool(spec.equal_recall_of))


def request(run: Run, dula: Dula, spec: ModelSpec, *more: Mapping[str, frozenset[str]]) -> Request:
    """What applying a model under an agreement asks for: its features' columns, linked, and `more`
    columns that nothing is linked by."""
    own = read(spec)
    return Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="score",
        columns=training_rows.joined(own, *more),
        as_of=run.as_of,
        linkages=frozenset({frozenset(own)}),
    )


def _archive_expired(run: Run, store: Store, spec: ModelSpec, trained: str) -> None:
    """Marks the model's versions whose agreements have ended: none is applied again, even if the
    next run's clock or tags say otherwise."""
    for version in store.under(trained):
        if version.name == spec.registered_name and run.clock().date() > expiry(version):
            store.archive(version, f"expired on {expiry(version)}")


def usable(run: Run, store: Store, spec: ModelSpec, found: Registered | None) -> Registered:
    """The model to apply. Raises UsageError without one, RefusedError when it has expired."""
    found = found or _newest_archived(store, spec)
    if found is None:
        raise UsageError(
            f"there is no trained model {spec.registered_name} with the alias "
            f"{tracking.CHAMPION}; run concord train --model {spec.name} first"
        )
    if tracking.ARCHIVED in found.tags:
        raise RefusedError(
            f"{found.name} version {found.version} is archived: {found.tags[tracking.ARCHIVED]}; "
            "have its agreements renewed, then run concord train"
        )
    if run.clock().date() > expiry(found):
        raise RefusedError(
            f"{found.name} version {found.version} expired on {expiry(found)} with the agreements "
            "it was trained under; have them renewed, then run concord train"
        )
    return found


def _newest_archived(store: Store, spec: ModelSpec) -> Registered | None:
    versions = store.client.search_model_versions(f"name = '{spec.registered_name}'")
    ended = [each for each in versions if tracking.ARCHIVED in each.tags]
    last = max(ended, key=lambda each: int(each.version), default=None)
    if last is None:
        return None
    return Registered(last.name, str(last.version), last.run_id, last.source, dict(last.tags))


def expiry(model: Registered) -> date:
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
        check_named(scorer, self.spec, self.champion)
        frames = self.held.frames(self.run, read(self.spec))
        rows = falling_due(frames["dta_snap.checkins"], self.spec, self.run.as_of)
        named = scores_of(
            features(rows, frames, scorer.features, audit=scorer.equal_recall.kinds), scorer,
            self.spec, self.champion, self.held.by_name, self.expires,
        )  # fmt: skip
        # Before the write: a run that is killed in between has read all the same.
        told = access_log.Read(self.request, self.decision, self.run.run_id, self.held.rows)
        access_log.record_reads(self.run, [told])
        trained = self.champion.tags[tracking.AGREEMENTS]
        return replace_day(
            self.run, named, table, self.dula,
            trained=trained, inputs=self.inputs, expires=self.expires,
        )  # fmt: skip

    def rows(self, table: Table, version: int) -> int:
        day = F.col(AS_OF) == F.lit(self.run.as_of)
        return self.run.lake.read(table, version=version).where(day).count()

    def _scorer(self) -> Scorer:
        with scorer_files(tracking.opened(self.run.settings), self.champion) as files:
            return scorers.load(files)


def check_named(scorer: Scorer, spec: ModelSpec, champion: Registered) -> None:
    """Raises UsageError when the champion reads what the model's file does not name: agreements are
    asked for what the file names."""
    version, file = f"{champion.name} version {champion.version}", f"conf/models/{spec.name}.yaml"
    again = "add them, or run concord train"
    if unnamed := [name for name in scorer.features if name not in spec.features]:
        raise UsageError(
            f"{version} needs {', '.join(unnamed)}, which {file} does not name; {again}"
        )
    kinds = scorer.equal_recall.kinds
    if unnamed := [kind for kind in kinds if kind not in spec.equal_recall_of]:
        raise UsageError(
            f"lists of {version} reach groups of {', '.join(unnamed)} equally, which "
            f"equal_recall_of in {file} does not name; {again}"
        )


@contextmanager
def scorer_files(store: Store, model: Registered) -> Iterator[Path]:
    """A registered version's scorer folder, as long as the `with` block lasts."""
    from concord_models.pyfunc import SCORER_ARTIFACT

    with tempfile.TemporaryDirectory() as place:
        got = store.mlflow.artifacts.download_artifacts(artifact_uri=model.uri, dst_path=place)
        yield next(Path(got).rglob(SCORER_ARTIFACT))


def falling_due(reports: DataFrame, spec: ModelSpec, as_of: date) -> DataFrame:
    """Open check-ins that fall due within the model file's days after a day."""
    within, day = spec.cohort, F.lit(as_of)
    return cohort.open_checkins(reports, day).where(
        F.date_diff(F.col(DUE), day).between(
            within.score_due_from_days, within.score_due_until_days
        )
    )


def scores_of(
    rows: DataFrame,
    scorer: Scorer,
    spec: ModelSpec,
    model: Registered,
    versions: Mapping[str, int],
    expires: date,
) -> DataFrame:
    """Rows of features as rows of the table of scores."""
    own = PROBABILITIES[spec.label.name]
    return applied(rows, scorer, spec.reasons_for).select(
        "*",
        *[
            (F.col("probability") if name == own else F.lit(None).cast("double")).alias(name)
            for name in PROBABILITIES.values()
        ],
        held_out(spec).alias(HELD_OUT),
        F.lit(model.name).alias("model_name"),
        F.lit(int(model.version)).alias("model_version"),
        _versions(versions).alias("feature_versions"),
        F.col(AS_OF).cast("timestamp").alias("scored_at"),
        F.lit(expires).alias("expires_on"),
    )


def applied(rows: DataFrame, scorer: Scorer, reasons_for: int) -> DataFrame:
    """Rows of features with raw and calibrated probability, the order of calls within an office and
    due day, and reasons of the first so many of each such list; on the workers.

    Ordered by the uncalibrated score, shifted where the model's lists are to reach groups equally:
    calibration only adds ties. One Python worker holds a list
    whole, some 400 bytes a row. Reasons cost two hundred times what a probability does.
    """

    kinds = scorer.equal_recall.kinds

    def of(listed: pd.DataFrame) -> pd.DataFrame:
        own = scorers.matrix({name: listed[name] for name in scorer.features}, scorer.features)
        raw = scorer.raw(own)
        groups = {kind: listed[audited(kind)].astype(str).tolist() for kind in kinds}
        order = np.lexsort(
            (listed[CASE].to_numpy(dtype=str), -scorer.equal_recall.order(raw, groups))
        )
        ranks = np.empty(len(listed), dtype=np.int32)
        ranks[order] = np.arange(1, len(listed) + 1)
        first = order[:reasons_for]
        reasons = pd.Series([None] * len(listed), dtype=object)
        reasons.iloc[first] = scorer.reasons(own[first])
        kept = listed[[CASE, DUE, AS_OF, OFFICE]].reset_index(drop=True)
        return kept.assign(
            probability=scorer.calibration(raw), rank_in_office=ranks, reasons=reasons
        )

    return rows.groupBy(OFFICE, DUE).applyInPandas(of, SCORED)


def held_out(spec: ModelSpec) -> Column:
    """Whether a check-in is held out: by a hash of the model's name and the check-in, so on every
    day the same, in every run; with a greater share those of the smaller one stay held out.

    The agency cannot tell beforehand: it does not know the pseudonym.
    """
    drawn = F.sha2(F.concat_ws("/", F.lit(spec.name), CASE, F.col(DUE).cast("string")), 256)
    return F.conv(F.substring(drawn, 1, 8), 16, 10).cast("double") < spec.holdout * 2**32


def _versions(by_name: Mapping[str, int]) -> Column:
    pairs = [
        F.struct(F.lit(name).alias("table"), F.lit(version).cast("bigint").alias("version"))
        for name, version in sorted(by_name.items())
    ]
    return F.array(*pairs)
