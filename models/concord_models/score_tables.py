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
from concord.lake.registry import VERSIONS_TYPE, Column, Table
from concord.lake.run import Run
from concord.lake.tables import ReplaceWhere, Transaction, Written, commits, decoded
from concord.studies.tables import folder
from concord_models.churn.cohort import AS_OF, CASE, DUE
from concord_models.churn.features import OFFICE
from concord_models.specification import ModelSpec

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


def replace_day(
    run: Run, rows: DataFrame, table: Table, dula: Dula, *, trained: str, inputs: str, expires: date
) -> Written:
    """Replaces the as-of day's rows in one commit; the caller holds the table's lock.

    `trained` is the agreement of the model, `inputs` the digest of what the rows follow from,
    `expires` the last day on which they may be held.
    """
    before = run.lake.version(table)
    application = f"{run.job}/{table.name}/{run.as_of}"
    return run.lake.write(
        rows.coalesce(1),
        table,
        ReplaceWhere(f"{AS_OF} = DATE'{run.as_of}'"),
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
    )
