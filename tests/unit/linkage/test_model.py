"""conf/person_index.yaml: what it must say, and what follows from it."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from concord.errors import ConfigError, QualityError
from concord.linkage.compare import patterns
from concord.linkage.estimate import HALF, chance, fit, out_of_order
from concord.linkage.keys import Sizes, keys_of
from concord.linkage.model import Interaction, Model
from concord.linkage.patterns import probability
from concord.linkage.person_index import PersonIndex, load_person_index
from concord.linkage.values import Common, PairedRows, Records
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
        ("on: [zip, birth]", "on: [zap(zip), birth]", "blocking[2].on[0]: no transform 'zap'"),
        ("on: [zip, birth]", "on: [zap, birth]", "reads zap; standardised records have"),
        ("on: [zip, birth]", "on: [first(zip), birth]", "first needs a number"),
        ("refine: [first_word(family)]", "refine: [each_word(family)]", "only `on` of a"),
        ("{test: same, column: phone}", "{test: same, column: each(phone)}", "only `on` of a"),
        ("same: {test: same, m: 0.75", "same: {test: same, m: 0.85", "add up to 1.1000"),
        ("same: {test: same, m: 0.75, u: 0.375}", "same: {test: same}", "no m or no u of same"),
        ("same: {test: same, m: 0.75", "same: {test: some, m: 0.75", "no test 'some'"),
        (
            "same: {test: same, m: 0.75",
            "same: {test: same, at_most: 1, m: 0.75",
            "takes no at_most",
        ),
        ("{test: jaro_winkler, at_least: 0.88}", "{test: jaro_winkler}", "needs at_least"),
        ("      near: {test: near_date,", "      missing: {test: near_date,", "rename the level"),
        ("  sex:\n    column: sex\n", "  sex:\n", "of which column?"),
        ("- {ssn: [exact]}", "- {ssm: [exact]}", "training[0].ssm: no comparison 'ssm'"),
        ("given: [differ], middle", "given: [other], middle", "never[2].when.given: given has no"),
        (
            "never:",
            "interactions: [{of: [given, fam]}]\nnever:",
            "interactions[0].of.fam: no comparison 'fam'",
        ),
        (
            "never:",
            "interactions: [{of: [given, sex], bits: {exact: {other: 1}}}]\nnever:",
            "sex has no level 'other'",
        ),
        (
            "never:",
            "interactions: [{of: [given, sex], bits: {missing: {same: 1}}}]\nnever:",
            "missing is no evidence",
        ),
        (
            "never:",
            "interactions: [{of: [given, sex]}, {of: [birth, sex]}]\nnever:",
            "interactions[1].of: a comparison can be in one interaction",
        ),
        ('birth_days: ["01-01"]', 'birth_days: ["1 Jan"]', "is no MM-DD"),
        ("F: F, FEMALE", "F: W, FEMALE", "must be F or M"),
        ("keep_weight: 10", "keep_weight: 40", "must not be less than keep_weight"),
        ("\ncluster_weight: 22.7", "\ncluster_weight: 50", "within 20 bits of even odds"),
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
    text = FILE.read_text().replace("keep_weight: 10", "keep_weight: 40")
    broken.write_text(text.replace("F: F, FEMALE", "F: W, FEMALE"))
    with pytest.raises(ConfigError) as error:
        load_person_index(broken)
    assert len(error.value.problems) == 2


def test_a_weight_is_the_sum_of_its_levels_bits(model: PersonIndex) -> None:
    some = model.pattern(given="exact", birth="exact", sex="differ")
    found = model.weights.of(np.array([some, 0]))
    levels = [("given", "exact"), ("birth", "exact"), ("sex", "differ")]
    known = [model.comparisons[name].levels[level] for name, level in levels]
    assert found[0] == pytest.approx(
        sum(math.log2(of.each("m")[0] / of.each("u")[0]) for of in known)
    )
    assert found[1] == -math.inf, "two records that say nothing never link"
    assert model.words(some)["given"] == "exact"
    assert model.words(some)["contact"] == "missing"


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
        ("sisters of one initial", {"given": "differ", "middle": "same", "birth": "differ"}),
        ("a newborn without a name on its mother's SSN, and her wages", {"ssn": "exact"}),
        ("two of a household of whom little is known", {}),
    ],
)
def test_families_do_not_link(who: str, levels: dict[str, str], model: PersonIndex) -> None:
    assert model.weights.of(np.array([model.pattern(**SURELY, **levels)]))[0] < model.link_weight, (
        who
    )


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
        ("a wage record without a given name", {"ssn": "exact", "middle": "same"}),
        ("no ZIP code", {"given": "exact", "family": "exact", "contact": "street"}),
    ],
)
def test_one_person_links(who: str, levels: dict[str, str], model: PersonIndex) -> None:
    given = {"sex": "same", **levels}
    assert model.weights.of(np.array([model.pattern(**given)]))[0] >= model.cluster_weight, who


def test_em_finds_the_shares_that_made_the_pairs(model: PersonIndex) -> None:
    # Pairs drawn from a model of two classes; what never links is left out of the first.
    rng = np.random.default_rng(3)
    wanted = {
        "given": [0.8, 0.05, 0.05, 0.1, 0.0],
        "family": [0.7, 0.05, 0.05, 0.05, 0.15],
        "contact": [0.6, 0.1, 0.1, 0.05, 0.05, 0.1],
        "middle": [0.9, 0.1],
    }
    levels = {name: list(model.comparisons[name].levels) for name in wanted}
    apart = {
        name: [of.each("u")[0] for of in model.comparisons[name].levels.values()] for name in wanted
    }

    def draw(shares: dict[str, list[float]], count: int, **fixed: str) -> list[int]:
        columns = {
            name: rng.choice(len(share), count, p=np.array(share) / sum(share))
            for name, share in shares.items()
        }
        drawn, which = np.unique(np.array([*columns.values()]), axis=1, return_inverse=True)
        each = [
            model.pattern(**{n: levels[n][at] for n, at in zip(shares, one, strict=True)}, **fixed)
            for one in drawn.T
        ]
        return np.array(each)[which].tolist()

    one = draw(wanted, 20_000, ssn="exact", birth="exact")
    two = draw(apart, 5_000, ssn="exact", birth="differ")
    # Children known by a parent's SSN agree on all else that families share.
    family = {"family": "exact", "contact": "household", "middle": "same"}
    child = model.pattern(ssn="exact", given="differ", birth="differ", **family)
    counted: dict[int, int] = {child: 20_000}
    for value in [*one, *two]:
        counted[value] = counted.get(value, 0) + 1
    drawn = np.array(draw(apart, 50_000), dtype=np.int64)
    u = chance(model, drawn, {}, records=1)
    done = fit(model, counted, u)
    found = done.model.comparisons
    for name in ("family", "contact", "middle"):
        for level, share in zip(levels[name], wanted[name], strict=True):
            m = sum(found[name].levels[level].each("m"))
            assert m == pytest.approx(share, abs=0.02), (name, level)
    assert found["family"].levels["differ"].u == pytest.approx(apart["family"][4], abs=0.01)
    assert found["ssn"].levels["exact"].u == model.comparisons["ssn"].levels["exact"].u, "fixed"
    assert fit(model, counted, u).model == done.model, "bit for bit"


def test_pairs_that_teach_nothing_are_refused(model: PersonIndex) -> None:
    u = chance(model, np.zeros(10, dtype=np.int64), {}, records=1)
    with pytest.raises(QualityError, match="no training set of 100 pairs or more teaches m of ssn"):
        fit(model, {model.pattern(given="exact"): 5}, u)


def test_levels_out_of_order_are_told(model: PersonIndex) -> None:
    wrong = model.with_levels({"sex": {"same": (0.1, 0.5), "differ": (0.9, 0.5)}})
    told = "sex: differ weighs 0.8 bits, more than same with -2.3; put it first, or join the two"
    assert told in out_of_order(wrong)
    assert told not in out_of_order(model)


def test_the_heaviest_that_a_pair_can_be_knows_what_depends_on_each_other(
    model: PersonIndex,
) -> None:
    bits = {"exact": {"household": -30.0}, "part": {"household": 40.0}}
    together = Interaction(of=("family", "contact"), bits=bits)
    both = model.model_copy(update={"interactions": (together,)})
    for said in ({"family", "contact"}, {"family", "given"}, {"given", "contact", "family"}):
        levels = [
            [model.pattern(**dict(zip(said, each, strict=True)))]
            for each in product(*(model.comparisons[name].levels for name in said))
        ]
        heaviest = both.weights.summed(np.array(levels).ravel()).max()
        says = np.array([[name in said for name in model.comparisons]])
        assert both.weights.most(says)[0] == pytest.approx(heaviest), said
    assert both.asks == model.asks, "pairs need not be compared again"
    assert both.model_version != model.model_version


TINY = Model.model_validate(
    {
        "blocking": [{"name": "born", "on": ["born"]}],
        "comparisons": {
            "name": {
                "column": "name",
                "levels": {"exact": {"test": "same", "frequencies": [0.1, 0.4]}, "differ": {}},
            },
            "town": {"column": "town", "levels": {"same": {"test": "same"}, "differ": {}}},
        },
    }
)


def test_agreement_on_a_rare_name_says_more() -> None:
    # Of 100 records 50 are called SMITH, 20 LEE, 30 each by a name of their own.
    sizes = Sizes(np.array([1, 20, 50]), np.array([30, 1, 1]))
    space = TINY.weights.space
    assert space.widths == (5, 3)
    drawn = space.encode(np.array([[4, 2]] * 70 + [[3, 2]] * 25 + [[2, 1]] * 5))
    u = chance(TINY, drawn, {"name": sizes}, records=100)
    possible = 100 * 99
    wanted = [HALF / possible, (20 * 19 + HALF) / possible, (50 * 49 + HALF) / possible]
    assert u["name"][1:4].tolist() == pytest.approx(wanted)
    assert u["name"][1:].sum() == pytest.approx(1)
    table = pa.table(
        {"name": ["SMITH"] * 2 + ["LEE"] * 2 + ["ORR"] * 2 + [None], "town": ["A"] * 7}
    )
    keys = keys_of(Records(table), ("name",))[0]
    order = np.argsort(keys[[0, 2]])
    common = Common(keys[[0, 2]][order], np.array([2, 1], dtype=np.int8)[order])
    found = patterns(
        TINY.compiled, PairedRows(Records(table, {"name": common}), np.array([0, 2, 4, 0, 0]),
        np.array([1, 3, 5, 2, 6])),
    )  # fmt: skip
    assert space.decode(found)[:, 0].tolist() == [3, 2, 1, 4, 0]
    assert [TINY.words(int(one))["name"] for one in found] == ["exact"] * 3 + ["differ", "missing"]
