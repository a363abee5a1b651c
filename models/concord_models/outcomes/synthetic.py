"""Entrants and others of the synthetic Commonwealth by quarter, with what the entrants would have
earned untrained, and whether they would have come back to cash assistance: what an outcome study is
judged by. A known truth, and nobody's data."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from concord.synthesis.people import people
from concord.synthesis.periods import Timeline
from concord.synthesis.tafdc import tafdc
from concord.synthesis.work import PROGRAMMES, work
from concord_models.outcomes import estimation
from concord_models.outcomes.findings import ALL, sample
from concord_models.outcomes.panel import BEFORE, COVARIATES, RETURNED_TAFDC
from concord_models.outcomes.specification import OutcomeStudy

LONG = Timeline(dt.date(2020, 1, 1), 60)
BLOCK, OTHERS = 10_000, 0.03
UNTRAINED_RETURNED = "untrained_returned_tafdc"
WITHIN = 8  # quarters in which a return counts


def training_panel(blocks: int) -> pd.DataFrame:
    """Adults of so many blocks of 10,000 people by quarter, in the columns of a study's panel. Of
    those who do not enter, a part."""
    return pd.concat([_rows(number) for number in range(blocks)], ignore_index=True)


def truth(panel: pd.DataFrame, spec: OutcomeStudy, group: str, quarter: int) -> float:
    """The true effect on earnings, over entrants as the overlap weights weigh them."""
    names = (f"earnings_after_{quarter}", f"untrained_after_{quarter}")
    own = ~panel["treated"] | (group == ALL) | (panel["programme"] == group)
    return _gain(panel[own], spec, *names)


def true_return(panel: pd.DataFrame, spec: OutcomeStudy) -> float:
    """The true effect on the share that returns to TAFDC, over all entrants who were on it."""
    return _gain(panel, spec, RETURNED_TAFDC, UNTRAINED_RETURNED)


def _gain(panel: pd.DataFrame, spec: OutcomeStudy, outcome: str, untrained: str) -> float:
    rows = panel[panel[outcome].notna()]
    with threadpool_limits(1):
        fitted = estimation.weighted(sample(rows, spec))
    gain = rows[outcome] - rows[untrained]
    treated = fitted.sample.treated
    return float(fitted.weights[treated] @ gain.to_numpy()[treated])


def _rows(number: int) -> pd.DataFrame:
    folk = people(7, number, BLOCK, LONG)
    jobs = work(folk, LONG)
    earned, untrained = jobs.earnings / 100, jobs.untrained / 100
    draw = np.random.default_rng(number)
    count = earned.shape[1]
    once, episode = np.unique(jobs.training.person, return_index=True)
    entry = np.full(len(earned), 10_000)
    programme = np.full(len(earned), None, dtype=object)
    edges = np.array([q.first for q in LONG.quarters])
    entry[jobs.row[once]] = np.searchsorted(edges, jobs.training.entry[episode], "right") - 1
    codes = np.array([p.code for p in PROGRAMMES], dtype=object)
    programme[jobs.row[once]] = codes[jobs.training.programme[episode]]
    age = folk.age(LONG.start)[jobs.person].astype(int)
    nobody = np.array(None, dtype=object)
    cash, families = tafdc(folk, jobs, LONG), np.full(len(folk), -1)
    families[cash.members] = cash.member_family
    family = families[jobs.person]
    found = []
    for index in range(4, count - 1):
        own = (entry == index) | ((entry > index) & (draw.random(len(earned)) < OTHERS))
        own &= (age >= 18) & (age < 62)
        who = np.flatnonzero(own)
        treated = entry[who] == index
        rows = {f"earnings_before_{k}": earned[who, index - k] for k in range(1, 5)}
        for k in range(9):
            at = min(index + k, count - 1)
            open_ = (index + k >= count) | (~treated & (entry[who] <= index + k))
            rows[f"earnings_after_{k}"] = np.where(open_, np.nan, earned[who, at])
            rows[f"untrained_after_{k}"] = np.where(open_, np.nan, untrained[who, at])
        known = (index + WITHIN < count) & (treated | (entry[who] > index + WITHIN))
        own_family, before = family[who], slice(3 * (index - BEFORE), 3 * index)
        on = (own_family >= 0) & cash.received[own_family, 3 * index - 1]
        worlds = {RETURNED_TAFDC: cash.received, UNTRAINED_RETURNED: cash.untrained}
        for name, received in worlds.items():
            again = _returned(received[own_family], index)
            rows[name] = np.where(known & on, again, np.nan)
        share = cash.received[own_family, before].mean(axis=1)
        rows["tafdc_share"] = np.where(own_family >= 0, share, 0.0)
        frame = pd.DataFrame(rows).assign(
            study_person_id=[f"{number}-{i}" for i in who], index_quarter=index, treated=treated,
            programme=np.where(treated, programme[who], nobody), returned=np.nan, age=age[who],
            age_squared=age[who] ** 2, female=folk.sex[jobs.person[who]] == 0,
            language_not_english=folk.language[jobs.person[who]] > 0,
        )  # fmt: skip
        found.append(frame)
    whole = pd.concat(found, ignore_index=True)
    return _with_covariates(whole)


def _returned(received: np.ndarray, index: int) -> np.ndarray:
    """Whether a month of receipt in quarters +1 to +WITHIN follows a month without; `received` is
    (person, month)."""
    span = received[:, 3 * (index + 1) - 1 : 3 * (index + WITHIN + 1)]
    return (span[:, 1:] & ~span[:, :-1]).any(axis=1)


def _with_covariates(whole: pd.DataFrame) -> pd.DataFrame:
    before = [whole[f"earnings_before_{k}"] for k in range(1, 5)]
    logged = np.log(np.maximum(before[0], 1))
    made = whole.assign(
        **{f"earnings_{k}": before[k - 1] for k in range(1, 5)},
        **{f"worked_{k}": (before[k - 1] > 0).astype(float) for k in range(1, 5)},
        log_earnings_1=logged,
        log_earnings_1_squared=logged**2,
        lost_work_1=(before[0] == 0) & (before[1] > 0),
        lost_work_2=(before[1] == 0) & (before[2] > 0),
    )
    # Not made here, and so without any weight: they do not vary.
    return made.assign(**{name: 0.0 for name in COVARIATES if name not in made})
