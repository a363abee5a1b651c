"""conf/person_index.yaml: what it must say, and what follows from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from concord.errors import ConfigError
from concord.linkage.estimate import fit
from concord.linkage.model import PersonIndex, load_person_index
from concord.linkage.patterns import LEVELS, pattern, probability
from tests.conftest import ROOT

FILE = ROOT / "conf" / "person_index.yaml"


@pytest.fixture(scope="module")
def model() -> PersonIndex:
    return load_person_index(FILE)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version: 1", "version: 0", "version: Input should be greater than 0"),
        ("nicknames: true", "nicknames: true\nfamiliar: 1", "unknown key 'familiar'"),
        ("leave_out: []", "leave_out: [dss]", "leave_out[0]: no contract 'dss'"),
        ("  - {name: zip_birth, on: [zip, birth]}", "  - {name: ssn, on: [zip]}", "given twice"),
        ("on: [zip, birth]", "on: [zap, birth]", "blocking[3].on[0]"),
        ("    same: {m: 0.75, u: 0.375}", "    same: {m: 0.85, u: 0.375}", "add up to 1.1000"),
        ("    same: {m: 0.75, u: 0.375}\n", "", "suffix: says nothing of same"),
        ("    same: {m: 0.75, u: 0.375}", "    some: {m: 0.75, u: 0.375}", "no level 'some'"),
        ("given: [differ], ssn", "given: [other], ssn", "never[1].when.given: given has no level"),
        ('birth_days: ["01-01"]', 'birth_days: ["1 Jan"]', "is no MM-DD"),
        ("F: F, FEMALE", "F: W, FEMALE", "must be F or M"),
        ("link_weight: 22.7", "link_weight: 40", "must lie between"),
    ],
)
def test_a_mistake_is_told_with_its_line(old: str, new: str, words: str, tmp_path: Path) -> None:
    text = FILE.read_text()
    assert text.count(old) >= 1, old
    broken = tmp_path / "person_index.yaml"
    broken.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"person_index.yaml:\d+") as error:
        load_person_index(broken, {"tiny": None})  # type: ignore[dict-item]
    assert words in str(error.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "person_index.yaml"
    text = FILE.read_text().replace("link_weight: 22.7", "link_weight: 40")
    broken.write_text(text.replace("F: F, FEMALE", "F: W, FEMALE"))
    with pytest.raises(ConfigError) as error:
        load_person_index(broken)
    assert len(error.value.problems) == 2


def test_a_weight_is_the_sum_of_its_levels_bits(model: PersonIndex) -> None:
    found = model.weights.of(np.array([pattern(given="exact", birth="exact", sex="differ"), 0]))
    bits = [model.comparisons["given"]["exact"], model.comparisons["birth"]["exact"]]
    wanted = sum(math.log2(level.m / level.u) for level in bits)
    sex = model.comparisons["sex"]["differ"]
    assert found[0] == pytest.approx(wanted + math.log2(sex.m / sex.u))
    assert found[1] == -math.inf, "two records that say nothing never link"


def test_probability_is_even_where_the_weight_meets_the_prior_odds() -> None:
    assert probability(np.array([10.0]), -10.0)[0] == pytest.approx(0.5)
    assert probability(np.array([11.0]), -10.0)[0] == pytest.approx(2 / 3)


SURELY = {"family": "exact", "contact": "household", "sex": "same"}


@pytest.mark.parametrize(
    ("who", "levels"),
    [
        ("a child known by a parent's SSN", {"ssn": "exact", "given": "differ", "birth": "differ"}),
        (
            "a child with a parent's SSN, and the parent's wages",
            {"ssn": "exact", "given": "differ"},
        ),
        ("twins", {"ssn": "differ", "given": "differ", "birth": "exact"}),
        ("twins of whom one SSN is known", {"given": "differ", "birth": "exact"}),
        ("father and son of one name", {"given": "exact", "birth": "differ", "suffix": "differ"}),
        ("a couple", {"given": "differ", "birth": "differ", "ssn": "differ"}),
        ("two of a household of whom little is known", {}),
    ],
)
def test_families_do_not_link(who: str, levels: dict[str, str], model: PersonIndex) -> None:
    assert model.weights.of(np.array([pattern(**SURELY, **levels)]))[0] < model.link_weight, who


@pytest.mark.parametrize(
    ("who", "levels"),
    [
        ("a woman who married", {"ssn": "exact", "given": "exact", "family": "differ"}),
        ("a wage record with an initial", {"ssn": "exact", "given": "initial", "family": "exact"}),
        ("a mistyped SSN", {"ssn": "near", "given": "exact", "family": "exact"}),
        ("no SSN", {"given": "exact", "family": "exact", "birth": "exact"}),
        (
            "day and month swapped",
            {"given": "exact", "family": "exact", "birth": "near", "contact": "household"},
        ),
        ("a new given name", {"ssn": "exact", "given": "differ", "birth": "exact"}),
    ],
)
def test_one_person_links(who: str, levels: dict[str, str], model: PersonIndex) -> None:
    given = {"sex": "same", **levels}
    assert model.weights.of(np.array([pattern(**given)]))[0] >= model.cluster_weight, who


def test_em_finds_the_shares_that_made_the_pairs(model: PersonIndex) -> None:
    # Pairs drawn from a model of two classes; what never links is left out of the first.
    rng = np.random.default_rng(3)
    wanted = {
        "given": [0.8, 0.05, 0.05, 0.1, 0.0],
        "family": [0.7, 0.1, 0.05, 0.15],
        "contact": [0.6, 0.2, 0.1, 0.1],
        "middle": [0.9, 0.1],
    }
    apart = {name: [level.u for level in model.comparisons[name].values()] for name in wanted}  # type: ignore[index]

    def draw(shares: dict[str, list[float]], count: int, **fixed: str) -> list[int]:
        columns = {
            name: rng.choice(len(share), count, p=np.array(share) / sum(share))
            for name, share in shares.items()
        }
        return [
            pattern(**{name: LEVELS[name][columns[name][i]] for name in shares}, **fixed)
            for i in range(count)
        ]

    one = draw(wanted, 20_000, ssn="exact", birth="exact")
    two = draw(apart, 5_000, ssn="exact", birth="differ")
    # Children known by a parent's SSN agree on all else that families share.
    child = pattern(
        ssn="exact",
        given="differ",
        family="exact",
        birth="differ",
        contact="household",
        middle="same",
    )
    counted: dict[int, int] = {child: 20_000}
    for value in [*one, *two]:
        counted[value] = counted.get(value, 0) + 1
    drawn = np.array(draw(apart, 50_000), dtype=np.int64)
    found = fit(counted, drawn, model)
    for name in ("family", "contact", "middle"):
        for level, share in zip(LEVELS[name], wanted[name], strict=True):
            assert found[name][level].m == pytest.approx(share, abs=0.02), (name, level)
    assert found["family"]["differ"].u == pytest.approx(apart["family"][3], abs=0.01)
