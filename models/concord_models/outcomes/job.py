"""The `outcomes` job: from an agreement's study to a report with its evidence.

Decided (and logged) → the study's tables at recorded versions → the panel → estimates → one run in
MLflow with the report, the figures and the balance. A report that was made from the same inputs is
left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import concord_models
from concord import tracking
from concord.agreements import access_log
from concord.agreements.decision import Decision, Request
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.lake import run as runs
from concord.lake.points import reach
from concord.lake.run import Run
from concord.tracking import Store
from concord_models import studies
from concord_models.outcomes import panel as panels
from concord_models.outcomes import report
from concord_models.outcomes.findings import ALL, EARNINGS, Findings, findings
from concord_models.outcomes.panel import COLUMNS, INDEX, PERSON
from concord_models.outcomes.report import Context
from concord_models.outcomes.specification import OutcomeStudy
from concord_models.studies import Held

CODE = Path(concord_models.__file__).parent


@dataclass(frozen=True)
class Outcome:
    """What became of a study. `mlflow_run` has the report; `rows` are the panel's."""

    study: str
    status: str
    message: str
    mlflow_run: str = ""
    rows: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


def outcomes(
    run: Run, spec: OutcomeStudy, contracts: Mapping[str, Contract], register: Register
) -> Outcome:
    """Makes the report of `spec`, unless it was made from the same inputs before.

    Raises RefusedError (14), UsageError (no study of the agreement, too few people), LockedError
    and InfrastructureError as they come.
    """
    dula = register.dula(spec.agreement, run.clock().date())
    if dula is None:
        raise register.unknown(spec.agreement)
    request = Request(
        agreement=dula.id,
        purpose=dula.purpose.code,
        use="train",  # a propensity is fitted to people's rows, whatever is told of it
        columns=COLUMNS,
        as_of=run.as_of,
        linkages=frozenset({frozenset(COLUMNS)}),
    )
    decision = access_log.ask(run, register, request)
    reach("outcomes.decided")
    if run.dry_run:
        held = studies.held(run, dula, contracts, COLUMNS)
        message = f"{held.rows} rows of {len(held.tables)} tables may be studied"
        return Outcome(spec.experiment, "would study", message)
    with (
        run.lake.locks.hold([f"outcomes/{spec.experiment}"]),
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        # MLflow's import and the making of its store take seconds; Spark looks at the study.
        opening = pool.submit(tracking.opened, run.settings)
        held = studies.held(run, dula, contracts, COLUMNS)
        inputs = inputs_digest(run.as_of, spec, held, decision)
        store = opening.result()
        experiment = store.experiment(spec.experiment, spec.title)
        before = store.finished(experiment, inputs)
        if before:
            return Outcome(spec.experiment, "nothing to do", "nothing to do", before)
        began = time.perf_counter()
        frames = held.frames(run, COLUMNS)
        # Sorted: what follows sees the rows in one order, whatever Spark did. Some 300 bytes a row.
        local = panels.panel(frames, spec.extent, run.as_of).toPandas()
        local = local.sort_values([INDEX, PERSON], kind="stable", ignore_index=True)
        coverage = panels.coverage(frames, run.as_of)
        access_log.record_reads(run, [access_log.Read(request, decision, run.run_id, held.rows)])
        seconds = {"panel": round(time.perf_counter() - began, 1)}
        reach("outcomes.panel")
        began = time.perf_counter()
        found = findings(local, spec)
        seconds["estimates"] = round(time.perf_counter() - began, 1)
        expires = decision.expires or dula.term.expires
        context = Context(spec, run.as_of, expires, coverage, held.by_name)
        store.end_interrupted(experiment, inputs)
        tags = {
            **tracking.origin(CODE),
            tracking.INPUTS: inputs,
            tracking.RUN_ID: run.run_id,
            tracking.AS_OF: run.as_of.isoformat(),
            tracking.AGREEMENTS: dula.id,
            tracking.PURPOSES: dula.purpose.code,
            tracking.EXPIRES: expires.isoformat(),
            tracking.POLICY_DIGEST: decision.policy_digest,
            tracking.SOURCE: "concord outcomes",
            tracking.DATA_VERSIONS: json.dumps(held.by_name, sort_keys=True),
        }
        began = time.perf_counter()
        made = _log(run, store, experiment, tags, held, found, context)
        seconds["log"] = round(time.perf_counter() - began, 1)
        reach("outcomes.logged")
    run.tally.read.update(held.by_name)
    run.tally.rows_in += len(local)
    return Outcome(spec.experiment, "reported", _message(found, spec), made, len(local), seconds)


def inputs_digest(as_of: date, spec: OutcomeStudy, held: Held, decision: Decision) -> str:
    """Of all that a report follows from: the same digest, the same report."""
    return runs.digest(
        spec.model_dump(mode="json"),
        as_of,
        held.by_name,
        decision.policy_digest,
        decision.expires,
        tracking.code_digest(CODE),
    )


def _log(
    run: Run,
    store: Store,
    experiment: str,
    tags: Mapping[str, str],
    held: Held,
    found: Findings,
    context: Context,
) -> str:
    """One MLflow run: inputs, parameters, a few measures, report, figures. Returns its id."""
    mlflow, spec = store.mlflow, context.study
    with mlflow.start_run(experiment_id=experiment, run_name=spec.name, tags=dict(tags)) as active:
        studies.log_inputs(run, held, store, "outcomes")
        mlflow.log_params({"study": spec.name, "version": spec.version})
        measures = {"balance.largest_after": max(abs(row.after) for row in found.balance)}
        for line in found.lines:
            if line.group == ALL and line.adjusted and line.raw:
                name = f"{line.outcome}.{line.quarter}"
                measures[f"{name}.adjusted"] = line.adjusted.difference
                measures[f"{name}.raw"] = line.raw.difference
        mlflow.log_metrics({name: round(value, 4) for name, value in measures.items()})
        for name, content in report.text(found, context).items():
            mlflow.log_text(content, name)
        mlflow.log_figure(report.event_study_plot(found), "event_study.png")
        mlflow.log_figure(report.balance_plot(found), "balance.png")
        mlflow.log_dict(spec.model_dump(mode="json"), "study.json")
    return str(active.info.run_id)


def _message(found: Findings, spec: OutcomeStudy) -> str:
    told = [
        line
        for line in found.lines
        if line.group == ALL and line.outcome == EARNINGS and line.adjusted and line.quarter
    ]
    if not told:
        return f"{spec.experiment}: no quarter after entry is told of yet"
    last = told[-1]
    if last.adjusted is None or last.raw is None:
        raise AssertionError("told lines have figures")
    it = last.adjusted
    return (
        f"{spec.experiment}: earnings in quarter +{last.quarter} differ by {it.difference:+,.0f} "
        f"dollars ({it.low:+,.0f} to {it.high:+,.0f}) after adjustment, "
        f"{last.raw.difference:+,.0f} without"
    )
