"""What pairs teach of m, judged pairs among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from concord.linkage.estimate import Fit, Labels, fit
from concord.linkage.model import Model
from concord.linkage.patterns import Floats, Integers

SAME, DIFFER = 1, 2


def comparison(column: str) -> dict[str, object]:
    return {"column": column, "levels": {"same": {"test": "same"}, "differ": {}}}


# What a family shares, and what tells its members apart.
FAMILIES = Model.model_validate(
    {
        "people": 1_000_000,
        "blocking": [{"name": "number", "on": ["number"]}],
        "comparisons": {name: comparison(name) for name in ("number", "given", "family", "home")},
        "training": [{"number": ["same"]}, {"given": ["same"]}],
    }
)
RARE = {"number": 1e-6, "given": 0.01, "family": 0.001, "home": 0.001}


def shares(u: Mapping[str, float]) -> dict[str, Floats]:
    return {name: np.array([1.0, chance, 1 - chance]) for name, chance in u.items()}


def drawn(rng: np.random.Generator, count: int, same: Mapping[str, float]) -> Integers:
    """Level numbers of pairs that agree independently, in such shares."""
    columns = [
        np.where(rng.random(count) < same[name], SAME, DIFFER) for name in FAMILIES.comparisons
    ]
    return np.column_stack(columns).astype(np.int64)


def counted(levels: Integers) -> Counter[int]:
    return Counter(FAMILIES.weights.space.encode(levels).tolist())


def m_of(found: Fit, name: str) -> float:
    return found.model.comparisons[name].levels["same"].each("m")[0]


ONE = {"number": 1.0, "given": 0.97, "family": 0.9, "home": 0.8}
# Children known by a parent's number.
CHILD = {"number": 1.0, "given": 0.01, "family": 0.95, "home": 0.95}


def test_judged_pairs_mend_an_m_that_families_have_spoiled() -> None:
    rng = np.random.default_rng(1)
    one, child = drawn(rng, 6_000, ONE), drawn(rng, 4_000, CHILD)
    every = counted(np.concatenate([one, child]))
    alone = fit(FAMILIES, every, shares(RARE))
    assert m_of(alone, "given") < 0.65, "EM takes children for the parent"
    # A steward judges every twentieth pair, whatever it agrees on.
    one_person, two = counted(one[::20]), counted(child[::20])
    found = fit(FAMILIES, every, shares(RARE), labels=Labels(one_person, two, weight=500))
    for name in ("given", "family", "home"):
        assert m_of(found, name) == pytest.approx(ONE[name], abs=0.03), name
    assert found.trainings[0].labelled == 500
    assert found.trainings[0].pairs == 10_000, "a judged pair is one of those compared"
    slight = fit(FAMILIES, every, shares(RARE), labels=Labels(one_person, two))
    assert m_of(alone, "given") < m_of(slight, "given") < m_of(found, "given")


def test_pairs_that_were_chosen_by_what_they_agree_on_bias_nothing() -> None:
    rng = np.random.default_rng(2)
    one = drawn(rng, 20_000, ONE)
    two = drawn(rng, 20_000, {**RARE, "number": 1.0, "family": 0.3})
    u = shares({**RARE, "family": 0.3})
    every = counted(np.concatenate([one, two]))
    # Stewards look at what is in doubt: pairs of another given name.
    doubt = Labels(counted(one[one[:, 1] == DIFFER]), counted(two[two[:, 1] == DIFFER]))
    found = fit(FAMILIES, every, u, labels=doubt)
    for name in ("given", "family", "home"):
        assert m_of(found, name) == pytest.approx(ONE[name], abs=0.02), name


def test_a_judged_pair_that_never_links_teaches_nothing() -> None:
    child = {"why": "a child", "when": {"given": ["differ"], "number": ["same"]}}
    never = Model.model_validate({**FAMILIES.model_dump(mode="json"), "never": [child]})
    every = counted(drawn(np.random.default_rng(3), 5_000, ONE))
    one = FAMILIES.pattern(number="same", given="differ", family="same", home="same")
    with_it = fit(never, every, shares(RARE), labels=Labels({one: 5}, {}, weight=1_000))
    assert with_it.model == fit(never, every, shares(RARE)).model
