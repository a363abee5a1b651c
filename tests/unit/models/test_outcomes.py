"""Overlap weights, small cells and reports, on people made with a known effect of training."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.errors import ConfigError, UsageError
from concord_models.outcomes import estimation, report
from concord_models.outcomes.estimation import Estimate, Sample
from concord_models.outcomes.findings import (
    ALL,
    EARNINGS,
    EMPLOYED,
    NOBODY_YET,
    Findings,
    findings,
    too_small,
)
from concord_models.outcomes.panel import COVARIATES, RETURNED, RETURNED_TAFDC
from concord_models.outcomes.specification import (
    OutcomeStudy,
    load_studies,
    named,
)

ROOT = Path(__file__).resolve().parents[3]
EFFECTS = {"APPRENTICESHIP": 1600.0, "ESOL": 300.0, "OCCUPATIONAL_SKILLS": 900.0}
STAYS_OFF = -0.15
NAMES = tuple(f"x{i}" for i in range(4))


def spec() -> OutcomeStudy:
    return load_studies(ROOT / "conf")["learn_to_earn"]


def world(seed: int, people: int = 1500) -> pd.DataFrame:
    """A panel by the study's columns. Entry is likelier after low earnings in the year before, and
    earnings last; each programme adds its EFFECTS to every later quarter. Everyone is a row in
    one or two quarters, as people in comparison are."""
    draw = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), 1 + (draw.random(people) < 0.4))
    n = len(person)
    level = draw.normal(6000, 2500, people)[person]
    frame: dict[str, object] = {
        "study_person_id": [f"p{i}" for i in person],
        "index_quarter": 8090 + np.arange(n) % 3,
    }
    before = np.maximum(level[:, None] + draw.normal(0, 1200, (n, 4)), 0)
    chance = 1 / (1 + np.exp(1.1 + (before.mean(axis=1) - 6000) / 1800 + draw.normal(0, 0.3, n)))
    treated = draw.random(n) < chance
    # A person enters once, in the last of the rows.
    again = np.append(person[1:] == person[:-1], False)
    treated &= ~again
    names = np.array(sorted(EFFECTS))[draw.integers(0, 3, n)]
    effect = np.array([EFFECTS[name] for name in names])
    for k in range(1, 5):
        frame[f"earnings_{k}"] = frame[f"earnings_before_{k}"] = before[:, k - 1]
        frame[f"worked_{k}"] = (before[:, k - 1] > 0).astype(float)
    for k in range(9):
        earned = 0.8 * before.mean(axis=1) + 900 + draw.normal(0, 1500, n) + effect * treated
        frame[f"earnings_after_{k}"] = np.maximum(earned - 1200, 0.0)
    frame |= {
        name: draw.integers(0, 2, n).astype(float) for name in COVARIATES if name not in frame
    }
    frame |= {
        "treated": treated,
        "programme": np.where(treated, names, None),
        "returned": (draw.random(n) < 0.4).astype(float),
        "returned_tafdc": _comes_back(draw, before.mean(axis=1), treated),
        "age": draw.integers(18, 60, n).astype(float),
    }
    return pd.DataFrame(frame)


def _comes_back(draw: np.random.Generator, level: np.ndarray, treated: np.ndarray) -> np.ndarray:
    """Half of the people were on it; the less they earned, the likelier they return, and entry
    takes STAYS_OFF from the chance."""
    chance = np.clip(0.85 - level / 15_000, 0.25, 0.85) + STAYS_OFF * treated
    again = (draw.random(len(level)) < chance).astype(float)
    return np.where(draw.random(len(level)) < 0.5, again, np.nan)


def confounded(draw: np.random.Generator, people: int, effect: float) -> tuple[Sample, np.ndarray]:
    """Linear outcome, logistic entry, both driven by the same covariates; two rows for some."""
    person = np.sort(np.append(np.arange(people), draw.integers(0, people, people // 3)))
    own = draw.normal(size=(people, len(NAMES)))
    x = own[person] + 0.3 * draw.normal(size=(len(person), len(NAMES)))
    treated = draw.random(len(x)) < 1 / (1 + np.exp(0.8 - x @ np.array([-0.9, 0.5, 0.0, 0.2])))
    shared = draw.normal(size=people)[person]  # what a person's rows have in common
    y = x @ np.array([2.0, 1.0, 0.5, 0.0]) + effect * treated + shared
    return Sample(person, treated, x, NAMES), y + draw.normal(size=len(y))


def test_weighting_recovers_the_effect_that_the_naive_comparison_misses() -> None:
    panel = world(seed=3)
    found = findings(panel, spec())
    truth = {ALL: None, **EFFECTS}
    for group, effect in truth.items():
        line = found.line(group, EARNINGS, 4)
        assert line.adjusted and line.raw and line.raw_change
        if effect is None:  # the mean over those who entered, about
            effect = np.mean([EFFECTS[name] for name in panel["programme"].dropna()])
        assert line.adjusted.covers(effect), (group, line.adjusted)
        assert not line.raw.covers(effect), (group, line.raw)
        assert not line.raw_change.covers(effect) or group == "ESOL"


def test_the_return_of_who_was_there_is_told_adjusted() -> None:
    """Those who enter earned less, and return less than others for all that, which a plain
    comparison understates."""
    panel = world(seed=2, people=9000)
    line = findings(panel, spec()).line(ALL, RETURNED_TAFDC, spec().outcomes.return_within)
    assert line.adjusted and line.raw
    assert line.adjusted.covers(STAYS_OFF), line.adjusted
    assert not line.raw.covers(STAYS_OFF), line.raw
    assert line.treated < panel["treated"].sum() * 0.6, "of those who were on it"


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(11)
    hits, naive, runs = 0, 0, 300
    for _ in range(runs):
        sample, outcome = confounded(draw, 500, effect=1.5)
        hits += estimation.ato(estimation.weighted(sample), outcome).covers(1.5)
        naive += estimation.raw(sample, outcome).covers(1.5)
    # 95 % of 300 give 285; four standard errors of a share are 15.
    assert 270 <= hits <= 299, hits
    assert naive < runs * 0.05


def test_the_interval_counts_a_person_once_who_has_many_rows() -> None:
    sample, outcome = confounded(np.random.default_rng(5), 400, effect=0.0)
    once = estimation.ato(estimation.weighted(sample), outcome)
    tenfold = np.repeat(np.arange(len(outcome)), 10)
    many = Sample(
        sample.person[tenfold], sample.treated[tenfold], sample.covariates[tenfold], NAMES
    )
    again = estimation.ato(estimation.weighted(many), outcome[tenfold])
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert again.difference == pytest.approx(once.difference, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(60, 400), st.floats(-1.5, 1.5))
def test_overlap_weights_make_the_means_of_all_covariates_equal(
    seed: int, people: int, strength: float
) -> None:
    """Li, Morgan and Zaslavsky 2018, theorem 3; whatever the data, with columns that follow from
    others, that do not vary, and that are large."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(people, 3))
    x = np.column_stack([x, x[:, 0] + x[:, 1], np.ones(people), 1e5 * draw.random(people) ** 3])
    treated = draw.random(people) < 1 / (1 + np.exp(-strength * x[:, 0]))
    treated[:2] = True, False
    sample = Sample(np.arange(people), treated, x, tuple("abcdef"))
    try:
        fitted = estimation.weighted(sample)
    except UsageError:  # told apart wholly
        return
    w = fitted.weights
    assert w[treated].sum() == pytest.approx(1) and w[~treated].sum() == pytest.approx(1)
    assert max(abs(row.after) for row in estimation.balance(fitted)) < 1e-5


def test_weights_are_one_less_the_propensity_and_the_propensity() -> None:
    """By hand: two strata, with 1 of 4 and 3 of 4 treated. Both weigh e(1-e) = 3/16, so alike."""
    x = np.repeat([0.0, 1.0], 4)[:, None]
    treated = np.array([1, 0, 0, 0, 1, 1, 1, 0], dtype=bool)
    outcome = np.array([10.0, 1, 2, 3, 30, 20, 10, 4])
    fitted = estimation.weighted(Sample(np.arange(8), treated, x, ("x",)))
    assert fitted.propensity == pytest.approx([0.25] * 4 + [0.75] * 4)
    found = estimation.ato(fitted, outcome)
    # (10 - 2) in one stratum, (20 - 4) in the other.
    assert found.difference == pytest.approx((8 + 16) / 2)
    assert fitted.effective == pytest.approx((1 / (0.25 + 3 / 36), 1 / (0.25 + 3 / 36)))


def test_people_whom_nobody_is_like_are_no_comparison() -> None:
    x = np.linspace(-1, 1, 40)[:, None]
    with pytest.raises(UsageError, match="nobody is comparable"):
        estimation.weighted(Sample(np.arange(40), x[:, 0] > 0, x, ("x",)))
    with pytest.raises(UsageError, match="one of the two is empty"):
        estimation.weighted(Sample(np.arange(40), np.zeros(40, dtype=bool), x, ("x",)))
    with pytest.raises(UsageError, match="covariate x is missing"):
        estimation.weighted(Sample(np.arange(40), x[:, 0] > 0, np.full((40, 1), np.nan), ("x",)))


def test_balance_is_below_a_tenth_after_and_not_before() -> None:
    found = findings(world(seed=4), spec())
    assert max(abs(row.before) for row in found.balance) > 0.3
    assert max(abs(row.after) for row in found.balance) < report.BALANCED
    assert max(abs(row.after) for row in found.balance) < 1e-6
    assert found.effective_treated < found.treated


def test_few_people_for_each_covariate_are_marked() -> None:
    panel = world(seed=4)
    found = findings(panel, spec())
    assert not found.line(ALL, EARNINGS, 4).thin and found.line("ESOL", EARNINGS, 4).thin
    context = report.Context(spec(), date(2026, 1, 1), date(2029, 12, 31), {}, {})
    assert report.page(found, context).count(" †<") == sum(line.thin for line in found.lines)


def test_the_quarters_before_are_equal_after_weighting_and_far_apart_before() -> None:
    found = findings(world(seed=4), spec())
    assert [line.quarter for line in found.event_study] == list(range(-4, 9))
    for line in found.event_study[:4]:
        assert line.adjusted and line.raw
        assert abs(line.adjusted.difference) < 0.01
        assert line.raw.difference < -500


def test_open_outcomes_are_told_as_open_and_never_as_nothing() -> None:
    panel = world(seed=3)
    for k in (7, 8):
        panel[f"earnings_after_{k}"] = np.nan
    panel[RETURNED] = np.nan
    # Of the youngest entrants, quarter +6 is open.
    panel.loc[panel["index_quarter"] == 8092, "earnings_after_6"] = np.nan
    found = findings(panel, spec())
    for outcome, quarter in ((EARNINGS, 7), (EARNINGS, 8), (RETURNED, 8)):
        line = found.line(ALL, outcome, quarter)
        assert line.adjusted is None and line.why == NOBODY_YET
    whole, part = found.line(ALL, EARNINGS, 4), found.line(ALL, EARNINGS, 6)
    assert part.treated < whole.treated and part.adjusted
    assert part.adjusted.treated_mean > 0.8 * (whole.adjusted or part.adjusted).treated_mean


def test_nothing_is_told_of_fewer_than_eleven() -> None:
    panel = world(seed=3)
    few = panel.index[panel["programme"] == "ESOL"]
    panel.loc[few[10:], ["treated", "programme"]] = [False, None]
    # Employed in +2 are all entrants of apprenticeships but five.
    prentices = panel["programme"] == "APPRENTICESHIP"
    panel.loc[prentices, "earnings_after_2"] = 5000.0
    panel.loc[panel.index[prentices][:5], "earnings_after_2"] = 0.0
    found = findings(panel, spec())
    told = {line.group for line in found.lines if line.outcome == EARNINGS and line.adjusted}
    # ESOL has ten; and another is hidden with it, or ESOL would follow from the total.
    smaller = min(("APPRENTICESHIP", "OCCUPATIONAL_SKILLS"),
                  key=lambda name: (panel["programme"] == name).sum())  # fmt: skip
    assert told == {ALL, *EFFECTS} - {"ESOL", smaller}
    panel = world(seed=3)
    prentices = panel["programme"] == "APPRENTICESHIP"
    panel.loc[prentices, "earnings_after_2"] = 5000.0
    panel.loc[panel.index[prentices][:5], "earnings_after_2"] = 0.0
    line = findings(panel, spec()).line("APPRENTICESHIP", EMPLOYED, 2)
    assert line.adjusted is None and line.why == "fewer than 11 people in a cell"
    with pytest.raises(UsageError, match="fewer than 11 people entered"):
        findings(panel[~panel["treated"] | (panel.index < 20)], spec())


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), min_size=1))
def test_hidden_groups_do_not_follow_from_the_total(people: dict[str, int]) -> None:
    hidden = too_small(people, 11)
    assert all(count >= 11 for name, count in people.items() if name not in hidden)
    together = sum(people[name] for name in hidden)
    shown = [name for name in people if name not in hidden]
    assert together == 0 or together >= 11 or not shown


def test_every_output_states_assumptions_and_what_wage_records_know() -> None:
    found = findings(world(seed=3), spec())
    context = report.Context(
        spec(), date(2026, 1, 1), date(2029, 12, 31),
        {"quarter_from": "2022Q1", "quarter_until": "2025Q2"}, {"studies/x/y": 3},
    )  # fmt: skip
    texts = report.text(found, context)
    assert set(texts) == {"report.html", "report.json", "balance.json"}
    for text in texts.values():
        assert "No unmeasured confounding" in text and "state" in text
        words = re.sub(r"base64,[^\"]*", "", text)  # a figure's letters are no words
        assert all(name not in words for name in ("p17", "study_person_id"))
    told = json.loads(texts["report.json"])
    assert told["wage_record_coverage"] == list(report.COVERAGE)
    assert {line["group"] for line in told["lines"]} == {ALL, *EFFECTS}
    # Counts are to ten, also those within the estimates.
    assert all(line["treated"] % 10 == 0 for line in told["lines"])
    assert "treated" not in told["lines"][0]["adjusted"]
    for figure in (report.event_study_plot(found), report.balance_plot(found)):
        words = " ".join(figure.get_supxlabel().split())
        assert words == report.IN_SHORT
    assert "http" not in texts["report.html"]  # needs nothing else


def test_a_page_is_made_where_only_the_first_quarters_are_known() -> None:
    panel = world(seed=3)
    for k in range(1, 9):
        panel[f"earnings_after_{k}"] = np.nan
    panel[RETURNED] = panel[RETURNED_TAFDC] = np.nan
    found = findings(panel, spec())
    context = report.Context(spec(), date(2026, 1, 1), date(2029, 12, 31), {}, {})
    assert NOBODY_YET in report.page(found, context)
    assert isinstance(found, Findings)


def test_all_mistakes_of_a_studys_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = (ROOT / "conf/outcomes/learn_to_earn.yaml").read_text()
    text = text.replace("- earnings_3", "- race").replace("[2, 4]", "[2, 9]")
    text = text.replace("least_age: 18", "least_age: 70")
    (tmp_path / "outcomes").mkdir()
    (tmp_path / "outcomes" / "other.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_studies(tmp_path, {})
    told = "\n".join(raised.value.problems)
    line = text.splitlines().index("  - race") + 1
    assert f"other.yaml:{line}: covariates[2]: 'race' is not known" in told
    for words in (
        "the file is called other.yaml", "no such agreement", "is above most_age",
        "use a quarter from 1 to 8", "needs earnings_3",
    ):  # fmt: skip
        assert words in told
    with pytest.raises(UsageError, match="no outcome study 'x'; conf/outcomes has learn_to_earn"):
        named(load_studies(ROOT / "conf"), "x")


def test_fewer_than_eleven_can_not_be_asked_for(tmp_path: Path) -> None:
    text = (ROOT / "conf/outcomes/learn_to_earn.yaml").read_text()
    (tmp_path / "outcomes").mkdir()
    place = tmp_path / "outcomes" / "learn_to_earn.yaml"
    place.write_text(text.replace("least_people: 11", "least_people: 5"))
    with pytest.raises(ConfigError, match="least_people"):
        load_studies(tmp_path)


def test_an_estimate_knows_what_it_covers() -> None:
    found = Estimate(1.0, 0.0, 2.0, 3.0, 2.0, 20, 20)
    assert found.covers(0) and not replace(found, low=0.5).covers(0)
