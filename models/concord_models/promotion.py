"""`concord model promote` and `compare`: may the challenger be used, and how versions differ.

A training leaves its version as the challenger with the evidence beside it. Only a promotion makes
it the champion, whose scores people act on: every check has to pass, and each says what it saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from concord import tracking
from concord.agreements import access_log
from concord.agreements.register import Register
from concord.errors import QualityError, RefusedError, UsageError
from concord.lake.points import reach
from concord.lake.run import Run
from concord.tracking import Registered, Store
from concord_models import evaluation, training_rows
from concord_models.evidence import MODEL, PROMOTION
from concord_models.specification import ModelSpec
from concord_models.trial_runs import BACKTEST

PROMOTED_AT, PROMOTED_BY = "concord.promoted_at", "concord.promoted_by"
BECAUSE = "concord.promoted_because"


@dataclass(frozen=True)
class Check:
    """One condition of a promotion and what it saw. Nobody can pass over a `final` one."""

    name: str
    passed: bool
    said: str
    final: bool = False

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.said}"


@dataclass(frozen=True)
class Outcome:
    """What became of a promotion."""

    status: str
    message: str
    version: str
    checks: tuple[Check, ...] = ()


def promote(
    run: Run, spec: ModelSpec, register: Register, *, because: str | None = None
) -> Outcome:
    """Makes the challenger the champion if every check passes; with a reason, `because`, which is
    written to the version, also if one fails that is not final.

    Raises UsageError without a challenger, RefusedError (14) when an agreement does not allow it,
    QualityError (12) with every check that failed; then nothing has changed.
    """
    store = tracking.opened(run.settings)
    name = spec.registered_name
    with run.lake.locks.hold([f"models/{name}"]):
        challenger = store.aliased(name, tracking.CHALLENGER)
        champion = store.champion(name)
        if challenger is None and champion is not None:
            return Outcome("nothing to do", "nothing to do", champion.version)
        if challenger is None:
            raise UsageError(
                f"{name} has no version that waits for a promotion; run concord train "
                f"--model {spec.name} first"
            )
        _allowed(run, register, store, challenger)
        checks = tuple(judged(store, spec, challenger, champion))
        failed = [str(c) for c in checks if not c.passed and (c.final or not because)]
        if failed:
            raise QualityError(
                f"{name} version {challenger.version} is not promoted; "
                + "; ".join(failed)
                + ". The limits stand under promotion in the model's file"
            )
        if run.dry_run:
            message = f"{name} version {challenger.version} would be promoted"
            return Outcome("would promote", message, challenger.version, checks)
        _move(run, store, challenger, because)
    before = f", in place of {champion.version}" if champion else ""
    message = f"{name} version {challenger.version} is the champion{before}"
    return Outcome("promoted", message, challenger.version, checks)


def _allowed(run: Run, register: Register, store: Store, version: Registered) -> None:
    """That the agreement it was trained under still allows it, and that it has not expired."""
    spec = specification(store, version.run_id)
    dula = register.dula(version.tags[tracking.AGREEMENTS], run.clock().date())
    if dula is None:
        raise register.unknown(version.tags[tracking.AGREEMENTS])
    access_log.ask(run, register, training_rows.request(run, spec, dula))
    expires = date.fromisoformat(version.tags[tracking.EXPIRES])
    why = version.tags.get(tracking.ARCHIVED)
    if why or expires < run.clock().date():
        raise RefusedError(
            f"{version.name} version {version.version} "
            + (f"was archived ({why})" if why else f"expired on {expires} with its agreements")
            + "; train it anew"
        )


def _move(run: Run, store: Store, version: Registered, because: str | None) -> None:
    client = store.client
    if because:
        client.set_model_version_tag(version.name, version.version, BECAUSE, because)
    client.set_model_version_tag(
        version.name, version.version, PROMOTED_AT, run.clock().isoformat(timespec="seconds")
    )
    client.set_model_version_tag(version.name, version.version, PROMOTED_BY, run.actor)
    reach("promote.tagged")
    client.set_registered_model_alias(version.name, tracking.CHAMPION, version.version)
    reach("promote.champion")
    client.delete_registered_model_alias(version.name, tracking.CHALLENGER)


def judged(
    store: Store, spec: ModelSpec, challenger: Registered, champion: Registered | None
) -> Iterator[Check]:
    """Every check, with the model file's limits of today, over the evidence of the training."""
    shown = artifact(store, challenger.run_id, PROMOTION)
    limits = spec.promotion
    yield Check(
        "whole",
        challenger.tags.get(tracking.STATE) == "whole",
        "all of it was registered",
        final=True,
    )
    leaks = shown["leaks"]
    yield Check(
        "no leak",
        not leaks,
        "; ".join(map(str, leaks)) if leaks else "the leak tests found none",
        final=True,
    )
    yield _within("AUC", shown["auc"], limits.auc)
    best, auc = max(shown["baselines"].values()), shown["auc"]["value"]
    yield Check("better than baselines", auc > best, f"AUC {auc:.3f}, the best baseline {best:.3f}")
    yield _within("calibration slope", shown["slope"], limits.slope)
    judged_by = [each for each in shown["parity"] if each["kind"] in limits.parity_of]
    behind = [each for each in judged_by if each["high"] < limits.parity]
    least = min((each["ratio"] for each in judged_by), default=math.nan)
    yield Check(
        "parity",
        not behind,
        ", ".join(
            f"{each['kind']} {each['group']} is reached {each['ratio']:.2f} times as often "
            f"as others ({each['low']:.2f} to {each['high']:.2f})"
            for each in behind
        )
        or f"the least ratio is {least:.2f}; none is proven below {limits.parity}",
        final=True,
    )
    yield _better(store, spec, shown, challenger, champion)


def _within(name: str, figure: Mapping[str, float], limits: tuple[float, float]) -> Check:
    """That the interval meets the limits; without a figure it does not."""
    met = figure["low"] <= limits[1] and figure["high"] >= limits[0]
    said = (
        f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f}), "
        f"limits {limits[0]} to {limits[1]}"
    )
    return Check(name, met, said)


def _better(
    store: Store,
    spec: ModelSpec,
    shown: Mapping[str, Any],
    challenger: Registered,
    champion: Registered | None,
) -> Check:
    """By regret over the splits of the past, both recipes fitted on the same rows; where these
    features cannot make the champion's, by the mean metric on the splits that both have."""
    name, regret = "not worse over time", shown["regret"]
    if champion is None:
        return Check(name, True, "there is no champion yet")
    if regret is None:
        return Check(name, False, "it was not tested over time: give its file a temporal design")
    metric, limit = regret["metric"], spec.promotion.regret
    if regret["in_use"] is not None:
        said = (
            f"mean regret of {metric} over {regret['splits']} splits {regret['model']:.4f}, the "
            f"champion's recipe {regret['in_use']:.4f}"
        )
        return Check(name, regret["model"] <= regret["in_use"] + limit, said)
    own, other = (_over_time(store, each.run_id, metric) for each in (challenger, champion))
    common = sorted(own.keys() & other.keys())
    if not common:
        return Check(name, False, "it shares no split of the past with the champion")
    sign = 1 if metric in evaluation.GREATER_IS_BETTER else -1
    lead = sign * float(np.mean([own[day] - other[day] for day in common]))
    said = f"mean {metric} {lead:+.4f} better than the champion on {len(common)} common splits"
    return Check(name, lead >= -limit, said)


def _over_time(store: Store, run_id: str, metric: str) -> dict[str, float]:
    """The metric of the chosen candidate by split."""
    past = artifact(store, run_id, BACKTEST)
    if past is None:
        return {}
    picked = past["measures"][past["chosen"]["candidate"]]
    return {s["at"]: m[metric] for s, m in zip(past["splits"], picked, strict=True)}


def specification(store: Store, run_id: str) -> ModelSpec:
    """The model's file as it was at the training. Raises UsageError for a run that has none."""
    said = artifact(store, run_id, "model.json")
    if said is None:
        raise UsageError(f"run {run_id} is no whole training: it has no model.json")
    return ModelSpec.model_validate(said)


def artifact(store: Store, run_id: str, path: str) -> Any:
    """A JSON artifact of a run, or None."""
    if path not in {each.path for each in store.client.list_artifacts(run_id)}:
        return None
    return store.mlflow.artifacts.load_dict(f"runs:/{run_id}/{path}")


# --- compare -------------------------------------------------------------------------------------

COMPARED = ("auc", "average_precision", "brier", "precision_at_k", "recall_at_k", "base_rate")


def compare(store: Store, spec: ModelSpec, versions: Sequence[str]) -> list[dict[str, str]]:
    """One row of facts and test measures by version; without versions the champion's and the
    challenger's. Raises UsageError for a version that there is not."""
    name = spec.registered_name
    aliases = {
        each.version: alias
        for alias in (tracking.CHAMPION, tracking.CHALLENGER)
        if (each := store.aliased(name, alias))
    }
    known = {str(v.version): v for v in store.client.search_model_versions(f"name = '{name}'")}
    wanted = list(versions) or list(aliases)
    missing = [each for each in wanted if each not in known]
    if missing or not wanted:
        raise UsageError(
            f"{name} has no version {', '.join(missing)}; it has {', '.join(sorted(known))}"
            if missing
            else f"{name} has neither champion nor challenger; run concord train"
        )
    return [_row(store, known[each], aliases.get(each, "")) for each in wanted]


def _row(store: Store, version: Any, alias: str) -> dict[str, str]:
    shown = artifact(store, version.run_id, PROMOTION)
    measures = artifact(store, version.run_id, "measures.json")
    if shown is None or measures is None:
        raise UsageError(f"version {version.version} of {version.name} has no evidence to compare")
    params = store.client.get_run(version.run_id).data.params
    test = measures[MODEL]["test"]
    spread = shown["auc"]
    return {
        "version": f"{version.version} {alias}".strip(),
        "as of": version.tags[tracking.AS_OF],
        "made by": params["winner"],
        "tested from": params["test_from"],
        "rows": f"{shown['rows']:,}",
        **{each.replace("_", " "): f"{test[each]:.3f}" for each in COMPARED},
        "AUC interval": f"{spread['low']:.3f} to {spread['high']:.3f}",
        "slope": f"{shown['slope']['value']:.2f}",
        "least parity": f"{min((e['ratio'] for e in shown['parity']), default=math.nan):.2f}",
        "regret": f"{shown['regret']['model']:.4f}" if shown["regret"] else "",
    }
