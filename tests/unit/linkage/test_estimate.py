"""What pairs teach: m with judged pairs among them, and comparisons that depend on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from concord.linkage import em
from concord.linkage.estimate import Fit, Labels, fit
from concord.linkage.model import Model
from concord.linkage.patterns import Floats, Integers, probability

MISSING, SAME, DIFFER = 0, 1, 2


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


def test_a_comparison_is_taught_by_the_first_set_that_says_something_of_it() -> None:
    # Pairs with one number are of records without an address: those with one given name teach it.
    rng = np.random.default_rng(4)
    number = drawn(rng, 3_000, ONE)
    number[:, 3] = MISSING
    given = drawn(rng, 3_000, {**ONE, "number": 0.02, "given": 1.0})
    two = drawn(rng, 3_000, {**RARE, "given": 1.0})
    found = fit(FAMILIES, counted(np.concatenate([number, given, two])), shares(RARE))
    assert [training.taught for training in found.trainings] == [
        ("given", "family"),
        ("number", "home"),
    ]
    assert m_of(found, "home") == pytest.approx(ONE["home"], abs=0.03)
    # What no set says anything of is no evidence, and no mistake.
    silent = fit(FAMILIES, counted(number), shares(RARE) | {"home": np.array([1.0, 0.5, 0.5])})
    assert m_of(silent, "home") == pytest.approx(0.5, abs=0.01)


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


@dataclass(frozen=True)
class World:
    """Pairs without their number, in which families share a name and a home, and who marries moves.

    `two`: of all those compared; chance makes the same of random pairs, `drawn`.
    """

    one: Integers
    two: Integers
    drawn: Integers

    @property
    def counted(self) -> Counter[int]:
        """As compared: of each pair of one person the number is known, of some it agrees."""
        one, two = self.one.copy(), self.two.copy()
        one[:, 0], two[:, 0] = np.where(np.arange(len(one)) % 10 < 9, SAME, DIFFER), DIFFER
        return counted(np.concatenate([one, two]))

    def error(self, model: Model) -> float:
        """Calibration: the mean distance of the model's probability from the share of pairs of one
        person, over patterns, as each has pairs of one person."""
        space, prior = model.weights.space, np.log2(len(self.one) / len(self.two))
        one, two = (Counter(space.encode(each).tolist()) for each in (self.one, self.two))
        patterns = np.array(list(one))
        said = probability(model.weights.of(patterns), prior)
        so = np.array([one[p] / (one[p] + two[p]) for p in one])
        n = np.array(list(one.values()))
        return float((n * np.abs(said - so)).sum() / n.sum())


def world(seed: int, *, families: float = 0.02, married: float = 0.05) -> World:
    rng = np.random.default_rng(seed)

    def two(count: int) -> Integers:
        kin = {"number": 0.0, "given": 0.05, "family": 0.95, "home": 0.95}
        other = {**kin, "family": 0.001, "home": 0.001}
        some = int(count * families)
        return np.concatenate([drawn(rng, some, kin), drawn(rng, count - some, other)])

    count = 4_000
    one = drawn(rng, count, {"number": 1.0, "given": 0.97, "family": 0.97, "home": 0.9})
    one[: int(count * married), 2:] = DIFFER
    made = World(one, two(200_000), two(500_000))
    for each in (made.one, made.two, made.drawn):
        each[:, 0] = 0
    return made


def depending(model: Model, *of: str) -> Model:
    said = model.model_dump(mode="json") | {"interactions": [{"of": list(of)}]}
    return Model.model_validate(said)


def fitted(model: Model, seen: World) -> Fit:
    space = model.weights.space
    levels = space.decode(space.encode(seen.drawn))
    u = {
        name: em.shares(np.bincount(levels[:, column], minlength=3))
        for column, name in enumerate(model.comparisons)
    }
    u["number"] = np.array([1.0, RARE["number"], 1 - RARE["number"]])
    return fit(model, seen.counted, u, drawn=space.encode(seen.drawn))


def test_what_depends_on_each_other_is_told() -> None:
    found = fitted(FAMILIES, world(4))
    (told,) = (warning for warning in found.warnings if "depend on each other" in warning)
    assert told.startswith("family and home depend on each other")
    by_names = {each.of: each for each in found.dependences}
    assert by_names["family", "home"].two == pytest.approx(0.93, abs=0.03)
    assert by_names["family", "home"].one > 0.4, "who marries moves"
    for of in (("given", "family"), ("given", "home")):
        assert max(by_names[of].one, by_names[of].two) < 0.05, of
    free = fitted(FAMILIES, world(5, families=0.0, married=0.0))
    assert not [warning for warning in free.warnings if "depend" in warning]


def test_random_pairs_of_one_person_do_not_look_like_dependence() -> None:
    free = world(9, families=0.0, married=0.0)
    strong = free.one[:15].copy()
    strong[:, 0] = SAME
    some = World(free.one, free.two, np.concatenate([free.drawn, strong]))
    names = [each for each in fitted(FAMILIES, some).dependences if "number" not in each.of]
    assert max(each.two for each in names) < 0.03
    found = fitted(depending(FAMILIES, "family", "home"), some).model.interactions[0]
    assert abs(found.bits["same"]["same"]) < 1.5


def test_an_interaction_mends_the_probabilities() -> None:
    seen = world(6)
    without = fitted(FAMILIES, seen).model
    found = fitted(depending(FAMILIES, "family", "home"), seen)
    assert not [warning for warning in found.warnings if "depend" in warning]
    (each,) = found.model.interactions
    # Chance makes 50 times as many pairs that agree on both as of each alone it should.
    assert each.bits["same"]["same"] == pytest.approx(-5.4, abs=0.4)
    assert seen.error(without) > 0.05
    assert seen.error(found.model) < 0.01
    other = fitted(depending(FAMILIES, "home", "family"), seen).model.interactions[0]
    assert other.bits["same"]["same"] == each.bits["same"]["same"]
    assert found.model.people == without.people


def test_where_nothing_depends_an_interaction_weighs_nothing() -> None:
    seen = world(7, families=0.0, married=0.0)
    (each,) = fitted(depending(FAMILIES, "given", "home"), seen).model.interactions
    assert max(abs(bits) for row in each.bits.values() for bits in row.values()) < 1.0


def test_families_spoil_no_m_where_what_they_share_is_known_to_go_together() -> None:
    seen = world(8, families=0.1)
    # All are pairs of one number: a household's, which its members are known by.
    pairs = np.concatenate([seen.one, seen.two[::20]])
    pairs[:, 0] = SAME
    random = FAMILIES.weights.space.encode(seen.drawn)
    u = shares({"number": 1e-6, "given": 0.05, "family": 0.096, "home": 0.096})
    alone = fit(FAMILIES, counted(pairs), u, drawn=random)
    both = fit(depending(FAMILIES, "family", "home"), counted(pairs), u, drawn=random)
    share = len(seen.one) / len(pairs)
    assert alone.trainings[0].share > share + 0.02
    assert both.trainings[0].share == pytest.approx(share, abs=0.005)
    assert m_of(alone, "given") < 0.9
    assert m_of(both, "given") == pytest.approx(0.97, abs=0.01)
