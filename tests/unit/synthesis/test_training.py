"""The effect of training that the Commonwealth plants: the truth tells it, and an evaluation that
adjusts for the year before finds it, while plain comparisons do not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from concord.synthesis.blocks import Block
from concord.synthesis.people import people
from concord.synthesis.periods import Timeline
from concord.synthesis.truth import training_earnings_table
from concord.synthesis.work import PROGRAMMES, work
from concord_models.outcomes import estimation
from concord_models.outcomes.findings import ALL, EARNINGS, Findings, findings, sample
from concord_models.outcomes.panel import COVARIATES
from concord_models.outcomes.specification import OutcomeStudy, load_studies
from tests.unit.synthesis.conftest import Commonwealth

LONG = Timeline(dt.date(2020, 1, 1), 60)
BLOCKS, OTHERS = 4, 0.03
QUARTERS = (2, 4, 8)


@pytest.fixture(scope="module")
def spec() -> OutcomeStudy:
    return load_studies(Path(__file__).parents[3] / "conf")["learn_to_earn"]


@pytest.fixture(scope="module")
def panel() -> pd.DataFrame:
    """Adults of five blocks by quarter, in the columns of an outcome study's panel, with what the
    entrants would have earned untrained. Of those who do not enter, a part."""
    return pd.concat([_rows(number) for number in range(BLOCKS)], ignore_index=True)


def _rows(number: int) -> pd.DataFrame:
    folk = people(7, number, 10_000, LONG)
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
        frame = pd.DataFrame(rows).assign(
            study_person_id=[f"{number}-{i}" for i in who], index_quarter=index, treated=treated,
            programme=np.where(treated, programme[who], None), returned=np.nan, age=age[who],
            age_squared=age[who] ** 2, female=folk.sex[jobs.person[who]] == 0,
            language_not_english=folk.language[jobs.person[who]] > 0,
        )  # fmt: skip
        found.append(frame)
    whole = pd.concat(found, ignore_index=True)
    return _with_covariates(whole)


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


@pytest.fixture(scope="module")
def found(panel: pd.DataFrame, spec: OutcomeStudy) -> Findings:
    return findings(panel, spec)


def truth(panel: pd.DataFrame, spec: OutcomeStudy, group: str, quarter: int) -> float:
    """The true effect on earnings, over entrants as the overlap weights weigh them."""
    own = ~panel["treated"] | (group == ALL) | (panel["programme"] == group)
    rows = panel[own & panel[f"earnings_after_{quarter}"].notna()]
    with threadpool_limits(1):
        fitted = estimation.weighted(sample(rows, spec))
    gain = rows[f"earnings_after_{quarter}"] - rows[f"untrained_after_{quarter}"]
    treated = fitted.sample.treated
    return float(fitted.weights[treated] @ gain.to_numpy()[treated])


def test_the_adjusted_comparison_finds_the_planted_effect_and_the_naive_ones_do_not(
    panel: pd.DataFrame, spec: OutcomeStudy, found: Findings
) -> None:
    for quarter in QUARTERS:
        line, true = found.line(ALL, EARNINGS, quarter), truth(panel, spec, ALL, quarter)
        assert line.adjusted and line.raw and line.raw_change
        assert line.adjusted.covers(true), (quarter, true, line.adjusted)
        assert not line.raw.covers(true), (quarter, true, line.raw)
        # In training people earn less, at first; later training is worth something.
        assert true < -500 if quarter == 2 else true > 500
    change = found.line(ALL, EARNINGS, 8).raw_change
    assert change and not change.covers(truth(panel, spec, ALL, 8))


def test_effects_are_found_by_programme(
    panel: pd.DataFrame, spec: OutcomeStudy, found: Findings
) -> None:
    """Of five programmes and three quarters, 95 % intervals miss one or two at most."""
    missed, true = [], {}
    for programme in (p.code for p in PROGRAMMES):
        for quarter in QUARTERS:
            line = found.line(programme, EARNINGS, quarter)
            true[programme, quarter] = truth(panel, spec, programme, quarter)
            assert line.adjusted
            if not line.adjusted.covers(true[programme, quarter]):
                missed.append((programme, quarter))
    assert len(missed) <= 2, missed
    largest = max((p.code for p in PROGRAMMES), key=lambda code: true[code, 8])
    assert largest == "APPRENTICESHIP"
    told = {p.code: found.line(p.code, EARNINGS, 8).adjusted for p in PROGRAMMES}
    assert max(told, key=lambda code: told[code].difference if told[code] else 0) == largest


def test_covariates_are_equal_after_weighting(found: Findings) -> None:
    assert max(abs(row.before) for row in found.balance) > 0.4
    assert max(abs(row.after) for row in found.balance) < 1e-4


def test_the_truth_tells_what_was_earned_and_what_would_have_been(
    commonwealth: Commonwealth, blocks: list[Block]
) -> None:
    table = pa.concat_tables([training_earnings_table(block) for block in blocks[:1]])
    rows = table.to_pandas().set_index(["person_id", "quarter"])
    assert rows.index.is_unique
    gains = rows["earnings"] - rows["untrained_earnings"]
    assert (gains < 0).any() and (gains > 0).any()
    training = commonwealth.truth("training").to_pandas()
    entered = set(training["person_id"])
    written = commonwealth.truth("training_earnings").to_pandas()
    assert set(written["person_id"]) == entered
    first = training.groupby("person_id")["entry_on"].min()
    begins = written.groupby("person_id")["quarter"].min()
    expected = [f"{day.year}Q{(day.month - 1) // 3 + 1}" for day in first]
    assert begins.loc[first.index].tolist() == expected
