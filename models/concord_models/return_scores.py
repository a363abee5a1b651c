"""The `return` job: a day's scores given back to the agency, under its own case ids.

Decided, with the model's own agreement → the day's scores of the study, without those held out →
joined with the pseudonyms of the agency's ids, made again from the vault → `vault/returned`,
replaced for that day in one commit. The data office's work: whoever scores never opens the vault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from concord.agreements import access_log
from concord.agreements.decision import Request
from concord.agreements.labels import EXPIRES
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.run import Run
from concord.studies.keys import study_key
from concord.studies.returning import OWN_ID, own_ids
from concord_models.churn.blocks import OFFICE
from concord_models.churn.cohort import AS_OF, CASE, DUE
from concord_models.score_tables import (
    HELD_OUT,
    replace_day,
    returned_table,
    scores_table,
    written_for,
)
from concord_models.specification import ModelSpec

CASES = "dta_snap.cases"
ROLE = "case"


@dataclass(frozen=True)
class Outcome:
    """What became of a return; `table` is the one that the agency is given."""

    status: str
    message: str
    rows: int = 0
    table: str = ""


def return_scores(
    run: Run,
    spec: ModelSpec,
    contracts: Mapping[str, Contract],
    register: Register,
    *,
    agreement: str,
) -> Outcome:
    """Returns the scores of the run's as-of day, unless the same were returned before.

    Raises RefusedError (14) when an agreement does not allow it, UsageError when there is no such
    agreement, LockedError and InfrastructureError as they come.
    """
    dula = register.dula(agreement, run.clock().date())
    if dula is None:
        raise register.unknown(agreement)
    source, target = scores_table(dula, spec), returned_table(dula, spec)
    scored = written_for(run, source)
    trained = scored[1]["agreements"][-1] if scored else spec.agreement
    request = Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="score",
        columns={CASES: frozenset()},
        as_of=run.as_of,
        own_ids=True,
    )
    decision = access_log.ask(run, register, request, model=trained)
    reach("return.decided")
    if scored is None:
        again = f"concord score --agreement {dula.id} --model {spec.name} --as-of {run.as_of}"
        message = f"nothing to do: there are no scores as of {run.as_of}; {again} makes them"
        return Outcome("nothing to do", message, table=target.name)
    if run.dry_run:
        return Outcome("would return", f"may go back until {decision.expires}", table=target.name)
    lake = run.lake
    with lake.locks.hold([source.name, target.name]):
        # What the day holds now that nobody writes to it.
        version, said = written_for(run, source) or scored
        # As the scores expire, with the model or the agreement.
        ends = date.fromisoformat(lake.properties(source.name)[EXPIRES])
        expires = min(ends, decision.expires or ends)
        inputs = runs.digest(said["inputs"], decision.policy_digest, expires)
        before = written_for(run, target)
        if before and before[1].get("inputs") == inputs:
            return Outcome("nothing to do", "nothing to do", table=target.name)
        contract = contracts[CASES.partition(".")[0]]
        key = study_key(run.lake, run.settings.keys, dula.id)
        theirs = own_ids(lake, dula, decision, contract, table=CASES, role=ROLE, key=key)
        day = lake.read(source, version=version).where(F.col(AS_OF) == F.lit(run.as_of))
        scores = callable_rows(day)
        rows = scores.count()
        # Before the write: a run that is killed in between has read all the same.
        access_log.record_reads(run, [access_log.Read(request, decision, run.run_id, rows)])
        written = replace_day(
            run,
            scores.join(theirs, CASE, "inner").withColumnRenamed(OWN_ID, "case_id"),
            target,
            dula,
            trained=trained,
            inputs=inputs,
            expires=expires,
        )
        reach(f"return.wrote.{target.name}")
    run.tally.read[source.name] = version
    run.tally.note([written])
    run.tally.rows_in += rows
    run.tally.rows_out += rows
    message = f"{rows} scores as of {run.as_of} returned under the agency's own case ids"
    return Outcome("returned", message, rows, target.name)


def callable_rows(scores: DataFrame) -> DataFrame:
    """Scores without those held out, ranked anew: a list without gaps."""
    order = Window.partitionBy(OFFICE, DUE, AS_OF).orderBy("rank_in_office")
    return scores.where(~F.col(HELD_OUT)).withColumn("rank_in_office", F.row_number().over(order))
