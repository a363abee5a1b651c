"""The rows that a model learns from: which columns of a study they need, features and labels of
every check-in whose label is mature, cut into slices by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.decision import Request
from concord.agreements.dula import Dula
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import UsageError
from concord.lake.run import Run
from concord_models import leaks, studies
from concord_models.churn import blocks, cohort, definitions, outreach
from concord_models.churn import features as churn
from concord_models.evaluation import Floats, Ints
from concord_models.fitting import Slice
from concord_models.imputation import Imputation, learnt
from concord_models.leaks import Leak
from concord_models.scorer import matrix
from concord_models.specification import ModelSpec
from concord_models.studies import Held

# Enough to tell an AUC of 0.52 from chance where one row in ten is a closure.
SHUFFLED_ROWS = 20_000


@dataclass(frozen=True)
class Slices:
    """The rows on the driver, whole and by slice, with each row's group by slice and kind, and the
    training rows on Spark, unknown values filled as `imputation` learnt it from them. `leaks`: what
    shuffled labels found."""

    rows: pd.DataFrame
    train_frame: DataFrame
    parts: Mapping[str, Slice]
    groups: Mapping[str, Mapping[str, list[str]]]
    boundaries: cohort.Boundaries
    imputation: Imputation
    # Rows left out because the agency called after their as-of day.
    left_out: int = 0
    leaks: tuple[Leak, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(part.label) for name, part in self.parts.items()}

    @property
    def first_days(self) -> dict[str, str]:
        """The day on which the first check-in of each slice falls due."""
        first = self.rows.groupby(cohort.SPLIT)[cohort.DUE].min()
        return {name: str(first[name]) for name in self.parts}


def label_columns(spec: ModelSpec) -> Mapping[str, frozenset[str]]:
    """Columns by table that the label, and whether it counts, is told from."""
    own = {"dta_snap.checkins": cohort.COLUMNS}
    if spec.label.after_outreach == "exclude":
        own["dta_snap.contacts"] = outreach.COLUMNS
    return joined(own, definitions.COLUMNS) if spec.label.definition else own


def columns(spec: ModelSpec) -> dict[str, frozenset[str]]:
    """Columns by table that training reads: of features, of the audit, of the label."""
    own = blocks.columns(spec.features, audit=bool(spec.audit))
    return joined(own, label_columns(spec))


def joined(*several: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    names = dict.fromkeys(name for each in several for name in each)
    return {n: frozenset().union(*(each.get(n, ()) for each in several)) for n in names}


def request(run: Run, spec: ModelSpec, dula: Dula) -> Request:
    """What a training asks of its agreement."""
    return Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="train",
        columns=columns(spec),
        as_of=run.as_of,
        linkages=frozenset({frozenset(columns(spec))}),
    )


def looked_at(
    run: Run, spec: ModelSpec, contracts: Mapping[str, Contract], register: Register
) -> Slices:
    """`slices` of the study as it is, for who only looks: the same decision as a training's, it and
    the read logged. Raises RefusedError (14) and UsageError as `train` does."""
    dula = register.dula(spec.agreement, run.clock().date())
    if dula is None:
        raise register.unknown(spec.agreement)
    asked = request(run, spec, dula)
    decision = access_log.ask(run, register, asked)
    held = studies.held(run, dula, contracts, columns(spec))
    found = slices(run, spec, held)
    access_log.record_reads(run, [access_log.Read(asked, decision, run.run_id, held.rows)])
    return found


def slices(run: Run, spec: ModelSpec, held: Held) -> Slices:
    """Features and labels of every row, once on Spark, then sliced by time.

    Raises UsageError where there are too few months or labels, and where a feature leaks.
    """
    frames = held.frames(run, columns(spec))
    known = labels(spec, frames, run.as_of)
    # Of all that are open, with or without a label: how many are due at an office is a feature.
    rows = cohort.open_checkins(frames["dta_snap.checkins"], *map(cohort.lead, spec.cohort.leads))
    made = churn.features(rows, frames, spec.features, audit=spec.audit)
    whole = with_outreach(spec, made.join(known, [*cohort.KEY], "inner"), frames, run.as_of)
    # Collected once, sorted: what follows sees the rows in one order, whatever Spark did, and its
    # queries do not carry the whole plan. Some 400 bytes a row: a million rows fit a driver.
    order = [*cohort.KEY, cohort.AS_OF]
    local = whole.toPandas().sort_values(order, kind="stable", ignore_index=True)
    called = local.pop(outreach.CONTACTED).notna()
    local = local[~called].reset_index(drop=True)
    edges = slice_edges(spec, sorted(set(local[cohort.DUE])), run.as_of)
    local[cohort.SPLIT] = cohort.split(local, edges)
    parts = {name: _part(local, name, spec) for name in cohort.SLICES}
    for name, part in parts.items():
        if not len(part.label):
            raise UsageError(
                f"{spec.name}: no label of the {name} slice was known when the next one began; "
                "labels take longer than its months: give it more under splits in the model's file"
            )
        if not 0 < part.label.sum() < len(part.label):
            raise UsageError(
                f"{spec.name}: the {name} slice has {len(part.label)} check-ins of which "
                f"{int(part.label.sum())} closed; a model needs both kinds"
            )
    with ThreadPoolExecutor(max_workers=1) as pool:
        # Long a matter of one core.
        tested = pool.submit(leaking, spec, frames, local, parts[cohort.TRAIN])
        groups_of = {
            part: _groups(local[local[cohort.SPLIT] == part], spec.audit) for part in cohort.SLICES
        }
        rows_of = parts[cohort.TRAIN].rows
        filled = learnt(rows_of, spec.features, spec.fills)
        own = local[local[cohort.SPLIT] == cohort.TRAIN][[*cohort.KEY, cohort.AS_OF, cohort.LABEL]]
        inputs = pd.DataFrame(
            filled(rows_of, spec.features), own.index, list(filled.inputs(spec.features))
        )
        table = pa.Table.from_pandas(own.join(inputs), preserve_index=False)
        frame = run.lake.spark.createDataFrame(table)
        own_rows, next_rows = (_shuffled(parts[n]) for n in (cohort.TRAIN, cohort.VALIDATION))
        by_chance = leaks.shuffled(own_rows, next_rows, spec.seed)
        leaks.refuse(spec.name, tested.result())
    return Slices(
        local, frame, parts, groups_of, edges, filled, int(called.sum()), tuple(by_chance)
    )


def with_outreach(
    spec: ModelSpec, rows: DataFrame, frames: Mapping[str, DataFrame], as_of: date
) -> DataFrame:
    """`rows` with `contacted`: the day of outreach for which a row is left out, or NULL."""
    if spec.label.after_outreach == "keep":
        return rows.withColumn(outreach.CONTACTED, F.lit(None).cast("date"))
    return outreach.contacted(rows, frames["dta_snap.contacts"], as_of)


def leaking(
    spec: ModelSpec, frames: Mapping[str, DataFrame], local: pd.DataFrame, train: Slice
) -> list[Leak]:
    """Features that tell the label alone, and those that change, in a sample of the cases, with
    what is known later than the middle of the as-of days."""
    limits = spec.leaks
    found = leaks.alone(train.rows, train.label, spec.features, limits.feature_auc)
    if not limits.cases:
        return found
    every = max(1, local[cohort.CASE].nunique() // limits.cases)
    days = sorted(local[cohort.AS_OF])
    day = days[len(days) // 2]

    def made(tables: Mapping[str, DataFrame]) -> DataFrame:
        reports = tables["dta_snap.checkins"]
        rows = cohort.open_checkins(reports, *map(cohort.lead, spec.cohort.leads))
        return churn.features(rows.where(F.col(cohort.AS_OF) <= F.lit(day)), tables, spec.features)

    wanted = blocks.columns(spec.features)
    sample = churn.sampled({name: frames[name] for name in wanted}, every)
    return found + leaks.changed(made, sample, day, spec.features)


def slice_edges(spec: ModelSpec, due_days: Sequence[date], as_of: date) -> cohort.Boundaries:
    """Where train, validation and test meet. Raises UsageError when there are too few months."""
    months = spec.splits
    edges = cohort.boundaries(
        due_days,
        test_months=months.test_months,
        validation_months=months.validation_months,
        lead_days=max(spec.cohort.leads),
    )
    least = months.test_months + months.validation_months + months.least_train_months
    counted = len({day.replace(day=1) for day in due_days})
    if edges is None or counted < least:
        raise UsageError(
            f"{spec.name}: check-ins with a mature label at {as_of} fall in {counted} months, "
            f"{least} are needed; wait for more deliveries, name a later --as-of, or shorten "
            "splits in the model's file"
        )
    return edges


def labels(spec: ModelSpec, frames: Mapping[str, DataFrame], as_of: date) -> DataFrame:
    """study_case_id, due_on, label, label_known_on: the labels that are mature at `as_of`.

    `frames` has the tables of label_columns.
    """
    closed = cohort.labels(
        frames["dta_snap.checkins"],
        closure_reasons=spec.label.closure_reasons,
        mature_after_days=spec.label.mature_after_days,
        as_of=as_of,
    )
    if spec.label.definition is None:
        return closed
    definition = definitions.DEFINITIONS[spec.label.definition]
    churn = definitions.events(definition, definitions.exits(frames, as_of=as_of))
    return cohort.churn_labels(closed, churn, frames["dta_snap.cases"], definition, as_of=as_of)


def _groups(rows: pd.DataFrame, kinds: Sequence[str]) -> dict[str, list[str]]:
    found = {name: rows[blocks.audited(name)].astype(str).tolist() for name in kinds}
    return {**found, blocks.OFFICE: rows[blocks.OFFICE].astype(str).tolist()}


def _shuffled(part: Slice) -> tuple[Floats, Ints, list[str]]:
    """Some rows of a slice, for labels to be permuted within as-of days."""
    some = slice(None, None, max(1, len(part.label) // SHUFFLED_ROWS))
    return part.rows[some], part.label[some], [days[-1] for days in part.lists[some]]


def _part(local: pd.DataFrame, name: str, spec: ModelSpec) -> Slice:
    own = local[local[cohort.SPLIT] == name]
    rows = matrix({column: own[column] for column in spec.features}, spec.features)
    return Slice(rows, own[cohort.LABEL].to_numpy(dtype=np.int64), cohort.lists(own))
