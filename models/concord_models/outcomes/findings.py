"""From a panel's rows to what may be told: balance, estimates by outcome and programme, the event
study. No figure here is of fewer people than the study's least number, and counts are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from concord.errors import UsageError
from concord_models.outcomes import estimation
from concord_models.outcomes.estimation import Balance, Estimate, Flags, Floats, Sample
from concord_models.outcomes.panel import (
    BEFORE,
    COVARIATES,
    INDEX,
    PERSON,
    PROGRAMME,
    RETURNED,
    RETURNED_TAFDC,
    TREATED,
)
from concord_models.outcomes.specification import OutcomeStudy

ALL = "all programmes"
EARNINGS, EMPLOYED = "earnings", "employed"
QUARTERS = "quarter of entry"
# Counts are told to the nearest ten: no two of them differ by a group that is too small.
ROUND = 10
# People of the smaller arm for each covariate, below which a logistic regression is unsteady
# (Peduzzi et al. 1996, J Clin Epidemiol 49:1373).
PER_COVARIATE = 10
NOBODY_YET = "no quarter so late is reported yet"


@dataclass(frozen=True)
class Line:
    """One outcome of one group. `quarter` counts from the quarter of entry. Without figures, `why`
    says what is missing. Dollars or shares; people are rounded. `thin`: there are fewer than
    PER_COVARIATE people for each covariate, so that the interval is likely too narrow."""

    group: str
    outcome: str
    quarter: int
    adjusted: Estimate | None = None
    raw: Estimate | None = None
    raw_change: Estimate | None = None
    treated: int = 0
    comparison: int = 0
    effective_treated: int = 0
    effective_comparison: int = 0
    thin: bool = False
    why: str = ""


@dataclass(frozen=True)
class Findings:
    """All that a report tells of a panel. `event_study` are the lines of all programmes' earnings
    from quarter -4 on."""

    lines: tuple[Line, ...]
    event_study: tuple[Line, ...]
    balance: tuple[Balance, ...]
    not_shown: tuple[str, ...]
    treated: int
    comparison: int
    effective_treated: int
    effective_comparison: int

    def line(self, group: str, outcome: str, quarter: int) -> Line:
        """Raises KeyError where there is none."""
        for line in self.lines:
            if (line.group, line.outcome, line.quarter) == (group, outcome, quarter):
                return line
        raise KeyError((group, outcome, quarter))

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = _rounded(asdict(self))
        return told


def findings(panel: pd.DataFrame, spec: OutcomeStudy) -> Findings:
    """Raises UsageError when the panel has too few people, or nobody is comparable.

    On one thread: for matrices this narrow more of them cost time, and make sums differ.
    """
    with threadpool_limits(1):
        return _findings(panel, spec)


def _findings(panel: pd.DataFrame, spec: OutcomeStudy) -> Findings:
    whole = sample(panel, spec)
    least = spec.least_people
    if min(whole.people) < least:
        raise UsageError(
            f"{spec.name}: fewer than {least} people entered a programme, or fewer than {least} "
            "can be compared with them; wait for more deliveries or name a later --as-of"
        )
    fitted = estimation.weighted(whole)
    shown, hidden = _shown(estimation.balance(fitted), whole, spec)
    groups = sorted({name for name in panel[PROGRAMME] if isinstance(name, str)})
    lines = [
        line
        for outcome, quarter, values in outcomes(panel, spec)
        for line in _by_group(panel, whole, spec, groups, outcome, quarter, values)
    ]
    before = [
        _told(fitted, panel, ALL, EARNINGS, -k, panel[f"earnings_before_{k}"].to_numpy(float))
        for k in range(BEFORE, 0, -1)
    ]
    after = [line for line in lines if line.group == ALL and line.outcome == EARNINGS]
    effective = fitted.effective
    return Findings(
        tuple(lines),
        (*before, *after),
        tuple(shown),
        tuple(hidden),
        rounded(whole.people[0]),
        rounded(whole.people[1]),
        rounded(effective[0]),
        rounded(effective[1]),
    )


def sample(panel: pd.DataFrame, spec: OutcomeStudy) -> Sample:
    """The panel as arrays: the study's covariates and a flag for each quarter but the first."""
    person, _ = pd.factorize(panel[PERSON])
    quarters = sorted(set(panel[INDEX]))[1:]
    flags = [(panel[INDEX] == quarter).to_numpy(dtype=np.float64) for quarter in quarters]
    columns = [panel[name].to_numpy(dtype=np.float64) for name in spec.covariates]
    return Sample(
        person.astype(np.int64),
        panel[TREATED].to_numpy(dtype=np.bool_),
        np.column_stack([*columns, *flags]) if len(panel) else np.zeros((0, len(columns))),
        (*spec.covariates, *(f"{QUARTERS} {_name(quarter)}" for quarter in quarters)),
    )


def outcomes(panel: pd.DataFrame, spec: OutcomeStudy) -> Iterator[tuple[str, int, Floats]]:
    """(outcome, quarter, values with NaN where open)."""
    for k in range(spec.outcomes.earnings_quarters + 1):
        yield EARNINGS, k, panel[f"earnings_after_{k}"].to_numpy(dtype=np.float64)
    for k in spec.outcomes.employed_in:
        earned = panel[f"earnings_after_{k}"].to_numpy(dtype=np.float64)
        yield EMPLOYED, k, np.where(np.isnan(earned), np.nan, (earned > 0).astype(np.float64))
    for name in (RETURNED, RETURNED_TAFDC):
        yield name, spec.outcomes.return_within, panel[name].to_numpy(dtype=np.float64)


def rounded(count: float) -> int:
    return int(ROUND * round(count / ROUND))


# --- one outcome, all groups ---------------------------------------------------------------------


def _by_group(
    panel: pd.DataFrame,
    whole: Sample,
    spec: OutcomeStudy,
    groups: list[str],
    outcome: str,
    quarter: int,
    values: Floats,
) -> list[Line]:
    known = ~np.isnan(values)
    programme = panel[PROGRAMME].to_numpy(dtype=object)
    parts = {ALL: known, **{g: known & (~whole.treated | (programme == g)) for g in groups}}
    people = {name: int((rows & whole.treated).sum()) for name, rows in parts.items()}
    hidden = too_small({g: people[g] for g in groups}, spec.least_people)
    lines = []
    for name, rows in parts.items():
        line = Line(name, outcome, quarter)
        if not known[whole.treated].any():
            lines.append(_without(line, NOBODY_YET))
        elif name in hidden or not _enough(whole, rows, values, outcome, spec.least_people):
            lines.append(_without(line, f"fewer than {spec.least_people} people in a cell"))
        else:
            try:
                fitted = estimation.weighted(whole.where(rows))
            except UsageError as error:
                lines.append(_without(line, str(error)))
                continue
            lines.append(_told(fitted, panel[rows], name, outcome, quarter, values[rows]))
    return lines


def too_small(people: dict[str, int], least: int) -> set[str]:
    """Groups that are not told of: those below `least`, and the smallest of the others while those
    that are hidden, taken together, would follow from the total."""
    hidden = {name for name, count in people.items() if 0 < count < least}
    while hidden and sum(people[name] for name in hidden) < least:
        rest = [name for name in people if name not in hidden and people[name]]
        if not rest:
            break
        hidden.add(min(rest, key=lambda name: (people[name], name)))
    return hidden | {name for name, count in people.items() if not count}


def _enough(sample: Sample, rows: Flags, values: Floats, outcome: str, least: int) -> bool:
    """Whether each arm has enough people; of shares, enough with and enough without."""
    arms = (rows & sample.treated, rows & ~sample.treated)
    cells = (
        list(arms)
        if outcome == EARNINGS
        else [arm & (values == value) for arm in arms for value in (0, 1)]
    )
    return all(len(np.unique(sample.person[cell])) >= least for cell in cells)


def _told(
    fitted: estimation.Weighted,
    rows: pd.DataFrame,
    group: str,
    outcome: str,
    quarter: int,
    values: Floats,
) -> Line:
    adjusted = estimation.ato(fitted, values)
    raw = estimation.raw(fitted.sample, values)
    change = None
    if outcome == EARNINGS:
        before = np.mean([rows[f"earnings_before_{k}"] for k in range(1, BEFORE + 1)], axis=0)
        change = estimation.raw(fitted.sample, values - before)
    people, effective = fitted.sample.people, fitted.effective
    return Line(
        group, outcome, quarter, adjusted, raw, change,
        rounded(people[0]), rounded(people[1]), rounded(effective[0]), rounded(effective[1]),
        min(people) < PER_COVARIATE * (fitted.design.shape[1] - 1),
    )  # fmt: skip


def _without(line: Line, why: str) -> Line:
    return Line(line.group, line.outcome, line.quarter, why=why)


def _shown(
    found: list[Balance], sample: Sample, spec: OutcomeStudy
) -> tuple[list[Balance], list[str]]:
    """What of the balance is shown: flags with enough people on both sides in both arms, and of
    the quarters the one that was furthest apart."""
    shown, hidden = [], []
    for index, row in enumerate(found[: len(spec.covariates)]):
        values = sample.covariates[:, index]
        flag = np.isin(values, (0.0, 1.0)).all()
        cells = [
            arm & (values == v) for arm in (sample.treated, ~sample.treated) for v in (0.0, 1.0)
        ]
        few = flag and any(
            len(np.unique(sample.person[cell])) < spec.least_people for cell in cells
        )
        if few:
            hidden.append(COVARIATES[row.name])
        else:
            shown.append(Balance(COVARIATES[row.name], row.before, row.after))
    quarters = found[len(spec.covariates) :]
    if quarters:
        before = max(quarters, key=lambda row: abs(row.before)).before
        after = max(quarters, key=lambda row: abs(row.after)).after
        shown.append(Balance(f"{QUARTERS} (the furthest apart)", before, after))
    return shown, hidden


def _name(quarter: int) -> str:
    return f"{quarter // 4}Q{quarter % 4 + 1}"


def _rounded(value: Any) -> Any:
    """Cents and more places than four tell nothing; people of an estimate are rounded."""
    if isinstance(value, dict):
        told = {key: _rounded(each) for key, each in value.items()}
        if "difference" in told:
            return {k: v for k, v in told.items() if k not in {"treated", "comparison"}}
        return told
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return round(value, 4) if abs(value) < 10 else round(value)
    return value
