"""The effect of training that the Commonwealth plants: the truth tells it, and an evaluation that
adjusts for the year before finds it, while plain comparisons do not. And what it does to the return
to cash assistance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from concord.synthesis import dta_tafdc
from concord.synthesis.blocks import Block
from concord.synthesis.people import CHILD
from concord.synthesis.tafdc import tafdc
from concord.synthesis.truth import training_earnings_table
from concord.synthesis.work import PROGRAMMES
from concord_models.outcomes.findings import ALL, EARNINGS, Findings, findings
from concord_models.outcomes.specification import OutcomeStudy, load_studies
from concord_models.outcomes.synthetic import training_panel, truth
from tests.unit.synthesis.conftest import Commonwealth

BLOCKS = 4
QUARTERS = (2, 4, 8)


@pytest.fixture(scope="module")
def spec() -> OutcomeStudy:
    return load_studies(Path(__file__).parents[3] / "conf")["learn_to_earn"]


@pytest.fixture(scope="module")
def panel() -> pd.DataFrame:
    """Adults of five blocks by quarter, in the columns of an outcome study's panel, with what the
    entrants would have earned untrained. Of those who do not enter, a part."""
    return training_panel(BLOCKS)


@pytest.fixture(scope="module")
def found(panel: pd.DataFrame, spec: OutcomeStudy) -> Findings:
    return findings(panel, spec)


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


# --- cash assistance -----------------------------------------------------------------------------


def test_families_on_cash_assistance_are_as_many_as_planted_and_have_a_child(
    blocks: list[Block],
) -> None:
    people = sum(len(block.people) for block in blocks)
    units = 0
    for block in blocks:
        rows = dta_tafdc.tables(block).tables["members"]
        own = rows.period == 9
        child = rows.columns["relationship"] == "C"
        families = set(rows.columns["unit_id"][own].tolist())
        assert families == set(rows.columns["unit_id"][own & child].tolist())
        units += len(families)
    assert 0.0045 <= units / people <= 0.0070  # six in a thousand


def test_only_training_sets_apart_what_is_and_what_would_have_been(blocks: list[Block]) -> None:
    """The two histories of receipt part in families with a trained parent, after the entry."""
    parted = 0
    for block in blocks[:8]:
        cash = tafdc(block.people, block.work, block.timeline)
        differs = cash.received != cash.untrained
        trained = np.zeros(len(block.people), dtype=bool)
        trained[block.work.training.person] = True
        parent = block.people.position[cash.members] != CHILD
        with_trained = set(cash.member_family[parent & trained[cash.members]].tolist())
        assert set(np.flatnonzero(differs.any(axis=1)).tolist()) <= with_trained
        written = dta_tafdc.tables(block).truth["training_assistance"]
        told = pa.table(written).to_pandas()
        parted += int((told["received"] != told["untrained_received"]).sum())
        # Whoever is told of is told of from the month of the first entry on.
        first = told.groupby("person_id")["month"].min()
        entry = pd.Series(block.work.training.entry, block.people.pid[block.work.training.person])
        entered = pd.to_datetime(entry.groupby(level=0).min(), unit="D").dt.to_period("M")
        months = pd.to_datetime(first).dt.to_period("M")
        assert (months == entered.loc[months.index]).all()
    assert parted > 0


def test_who_earns_stays_off_cash_assistance(blocks: list[Block]) -> None:
    """Of families that left, those without earnings come back more often."""
    back: dict[bool, list[bool]] = {True: [], False: []}
    for block in blocks:
        cash, work = tafdc(block.people, block.work, block.timeline), block.work
        earned = np.zeros((len(cash.home), work.earnings.shape[1]))
        family = np.full(len(block.people), -1)
        family[cash.members] = cash.member_family
        own = family[work.person] >= 0
        np.add.at(earned, family[work.person[own]], work.earnings[own])
        left = cash.received[:, :-7] & ~cash.received[:, 1:-6]
        for unit, month in zip(*np.nonzero(left), strict=True):
            quarter = min((month + 1) // 3, earned.shape[1] - 1)
            again = bool(cash.received[unit, month + 2 : month + 8].any())
            back[bool(earned[unit, quarter] > 0)].append(again)
    idle, working = back[False], back[True]
    assert len(idle) > 100 and len(working) > 100
    assert np.mean(idle) > np.mean(working) + 0.05, (np.mean(idle), np.mean(working))
