"""The tables of scores, as they are declared, and how a day of one is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from pyspark.sql import DataFrame

from concord.agreements.dula import Dula
from concord.agreements.labels import study_labels
from concord.agreements.meet import meet
from concord.lake.driver import FEW
from concord.lake.log import commits, decoded
from concord.lake.registry import VERSIONS_TYPE, Column, Table
from concord.lake.run import Run
from concord.lake.writes import ReplaceWhere, Transaction, Written
from concord.studies.tables import folder
from concord_models.churn.blocks import OFFICE
from concord_models.churn.cohort import AS_OF, CASE, DUE, LABEL, LABEL_KNOWN
from concord_models.churn.outreach import CONTACTED
from concord_models.specification import ModelSpec

HELD_OUT = "held_out"

COMMON = (
    Column(DUE, "date", "day on which the check-in falls due", "confidential"),
    Column(AS_OF, "date", "day up to which the score knows anything"),
    Column(OFFICE, "string", "local office"),
    Column("p_proc", "double", "probability of closure for want of paperwork", "confidential"),
    Column("p_churn", "double", "probability of such a closure and a return", "confidential"),
    Column("rank_in_office", "int", "1 is the first to call, among the office's due that day"),
    Column(
        "reasons",
        "array<string>",
        "what raises the risk most, at most three; NULL far down a list",
        "confidential",
    ),
    Column("model_name", "string"),
    Column("model_version", "int"),
)


def scores_table(dula: Dula, spec: ModelSpec) -> Table:
    """`studies/<dula>/scores_<model>`: under the study's pseudonyms."""
    return Table(
        name=f"{folder(dula)}/scores_{spec.name}",
        description=f"{spec.title}: scores that order outreach; no adverse action rests on one.",
        owner=dula.owners.agencies[0],
        columns=(
            Column(CASE, "string", "pseudonym of the case, of this study alone", "confidential"),
            *COMMON,
            Column(HELD_OUT, "boolean", "drawn at random; not handed back", "confidential"),
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


def interventions_table(dula: Dula, spec: ModelSpec) -> Table:
    """`studies/<dula>/interventions_<model>`: what became of each score."""
    return Table(
        name=f"{folder(dula)}/interventions_{spec.name}",
        description=f"{spec.title}: whom the agency called after a score, and how it ended.",
        owner=dula.owners.agencies[0],
        columns=(
            Column(CASE, "string", "pseudonym of the case, of this study alone", "confidential"),
            Column(DUE, "date", "day on which the check-in falls due", "confidential"),
            Column(AS_OF, "date", "day up to which the score knows anything"),
            Column("probability", "double", "as scored", "confidential"),
            Column("rank_in_office", "int", "as scored, among all of the office's due that day"),
            Column(HELD_OUT, "boolean", "drawn at random; not handed back", "confidential"),
            Column(CONTACTED, "date", "first outreach after as_of, up to the due day; NULL: none "
                   "known", "confidential"),
            Column(LABEL, "int", "what the model predicts; NULL until mature", "confidential"),
            Column(LABEL_KNOWN, "date", "day on which the label was mature", "confidential"),
            Column("model_version", "int"),
        ),
        key=(CASE, DUE, AS_OF),
        statistics=(AS_OF,),
    )  # fmt: skip


def drift_table(dula: Dula, spec: ModelSpec) -> Table:
    """`studies/<dula>/drift_<model>`: measures of drift by day; no household is told of."""
    return Table(
        name=f"{folder(dula)}/drift_{spec.name}",
        description=f"{spec.title}: how far rows, scores and outcomes are from training.",
        owner=dula.owners.agencies[0],
        columns=(
            Column(AS_OF, "date", "day up to which the measures know anything"),
            Column("measure", "string", "psi, ece, slope, score_rate, label_rate, rule, ..."),
            Column("of", "string", "feature, month of due days, table or rule"),
            Column("value", "double"),
            Column("reference", "double", "the value in training, where there is one"),
            Column("rows", "bigint", "rows that the value is of"),
            Column("bound", "double", "limit of the model's file"),
            Column("chance", "double", "what chance alone exceeds once in a hundred runs"),
            Column("state", "string", "ok, warning, alarm"),
            Column("scored_on", "date", "as-of day of the newest scores"),
            Column("model_version", "int"),
        ),
        key=(AS_OF, "measure", "of"),
        statistics=(AS_OF,),
    )


def written_for(run: Run, table: Table) -> tuple[int, Mapping[str, Any]] | None:
    """The version in which the run's as-of day was last written, and what its commit says of
    itself: inputs, agreements (the table's own, then the one that the model was trained under)."""
    lake = run.lake
    for commit in commits(lake.storage, lake.path(table)):
        said = decoded(commit.note)
        # Every job's application ends with the table and the day.
        if str(said.get("application")).endswith(f"/{table.name}/{run.as_of}"):
            return commit.version, said
    return None


def last_day(run: Run, table: Table) -> date | None:
    """The latest as-of day that the table was written for, or None."""
    lake = run.lake
    found = [
        str(decoded(each.note).get("application"))
        for each in commits(lake.storage, lake.path(table))
    ]
    days = [each.rpartition("/")[2] for each in found if f"/{table.name}/" in each]
    return date.fromisoformat(max(days)) if days else None


def replace_day(
    run: Run,
    rows: DataFrame,
    table: Table,
    dula: Dula,
    *,
    trained: str,
    inputs: str,
    expires: date,
    since: date | None = None,
) -> Written:
    """Replaces the as-of day's rows (all from `since` on) in one commit; the caller holds the
    table's lock.

    `trained` is the agreement of the model, `inputs` the digest of what the rows follow from,
    `expires` the last day on which they may be held.
    """
    days = (
        ReplaceWhere({AS_OF: (run.as_of,)}) if since is None else ReplaceWhere({}, {AS_OF: since})
    )
    before = run.lake.version(table)
    application = f"{run.job}/{table.name}/{run.as_of}"
    # One file a day. By a shuffle: to coalesce would leave the making of the rows to one core.
    with run.lake.held(rows.repartition(1), table) as (made, number):
        return run.lake.write(
            made,
            table,
            days,
            stamp=replace(
                run.stamp, agreements=tuple(dict.fromkeys((dula.id, trained))), inputs=inputs
            ),
            transaction=Transaction(application, 0 if before is None else before + 1),
            labels=study_labels(
                meet([dula]),
                owner=table.owner,
                classifications=[column.classification for column in table.columns],
                expires=expires,
            ),
            few=number < FEW,
        )
