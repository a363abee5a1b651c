"""What a pattern says in words and as a waterfall."""

from __future__ import annotations

import numpy as np
import pytest

from concord.linkage.explain import explain
from concord.linkage.model import Model
from concord.linkage.person_index import load_person_index
from tests.conftest import ROOT

INDEX = load_person_index(ROOT / "conf/person_index.yaml")
OWN = Model.model_validate(
    {
        "people": 1025,
        "blocking": [{"name": "all", "on": ["family"]}],
        "comparisons": {
            "family": {
                "column": "family",
                "levels": {
                    "exact": {
                        "test": "same",
                        "frequencies": [0.001, 0.01],
                        "m": [0.2, 0.3, 0.3],
                        "u": [0.0001, 0.001, 0.01],
                    },
                    "differ": {"m": 0.2, "u": 0.9889},
                },
            },
            "hair_colour": {
                "column": "hair",
                "levels": {
                    "much_alike": {"test": "same", "m": 0.75, "u": 0.1875},
                    "differ": {"m": 0.25, "u": 0.8125},
                },
            },
        },
    }
)


def test_the_steps_and_the_prior_add_up_to_the_odds() -> None:
    pattern = INDEX.pattern(ssn="exact", given="nickname", birth="near", family="differ")
    told = explain(INDEX, pattern)
    assert told.weight == pytest.approx(_weight(pattern))
    assert told.prior == INDEX.prior_bits
    assert told.total == pytest.approx(told.prior + sum(step.bits for step in told.steps))
    assert told.probability == pytest.approx(1 / (1 + 2**-told.total))
    assert [step.comparison for step in told.steps] == list(INDEX.comparisons)
    assert [step.bits for step in told.steps if step.silent] == [0.0] * 5
    assert told.why == ()


def _weight(pattern: int) -> float:
    levels = INDEX.words(pattern)
    return sum(
        INDEX.comparisons[name].levels[level].bits[0]
        for name, level in levels.items()
        if level != "missing"
    )


def test_words_tell_what_agrees_heaviest_first_and_what_is_not_said() -> None:
    words = explain(INDEX, INDEX.pattern(ssn="exact", given="nickname", birth="differ")).words
    ssn, given, birth = (
        INDEX.comparisons[name].levels[level].bits[0]
        for name, level in (("ssn", "exact"), ("given", "nickname"), ("birth", "differ"))
    )
    assert words == (
        f"Same SSN (+{ssn:.1f}). Birth dates differ ({birth:.1f}). "
        f"Given names are nicknames of one name (+{given:.1f}). Not said by both: family name, "
        "phone, email, address or ZIP code, sex, middle initial, suffix, order among twins."
    )


def test_what_never_links_says_why_and_has_no_chance_whatever_it_weighs() -> None:
    told = explain(INDEX, INDEX.pattern(ssn="exact", given="differ", birth="differ"))
    (never,) = (never for never in INDEX.never if "SSN alone" in never.why)
    assert told.why == (never.why,)
    assert told.probability == 0.0
    assert told.words.endswith(f"{never.why}: never linked.")


def test_a_level_that_tells_rare_values_apart_names_the_class() -> None:
    base = OWN.pattern(family="exact", hair_colour="much_alike")
    place = OWN.weights.space.places.tolist()[0]
    steps = [explain(OWN, base + number * place).steps[0] for number in range(3)]
    assert [step.rarity for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [step.bits for step in steps] == list(OWN.comparisons["family"].levels["exact"].bits)
    assert [step.says.split(", ")[1] for step in steps] == [
        "a rare one",
        "class 2 of 3 from rare to common",
        "a common one",
    ]


def test_names_that_nobody_foresaw_are_read_as_they_stand() -> None:
    told = explain(OWN, OWN.pattern(hair_colour="much_alike"))
    assert told.words == "Hair colour: much alike (+2.0). Not said by both: family name."
    assert "Hair colour differ" in explain(OWN, OWN.pattern(hair_colour="differ")).words


def test_every_level_of_the_committed_index_has_words_of_its_own() -> None:
    for name, comparison in INDEX.comparisons.items():
        says = {
            level: next(
                step.says
                for step in explain(INDEX, INDEX.pattern(**{name: level})).steps
                if step.comparison == name
            )
            for level in comparison.levels
        }
        assert len({*says.values()}) == len(says)
        assert not [text for text in says.values() if ": " in text]


def test_what_two_comparisons_add_together_is_a_step_of_its_own() -> None:
    one = {"of": ["family", "hair_colour"], "bits": {"exact": {"much_alike": -1.5}}}
    both = Model.model_validate({**OWN.model_dump(mode="json"), "interactions": [one]})
    pattern = both.pattern(family="exact", hair_colour="much_alike")
    told = explain(both, pattern)
    assert told.weight == pytest.approx(explain(OWN, pattern).weight - 1.5)
    assert told.weight == pytest.approx(both.weights.of(np.array([pattern]))[0])
    assert told.steps[-1].bits == -1.5
    assert "Family name and hair colour depend on each other (-1.5)." in told.words
    # Of a rare name and of a common one, and not where one does not say.
    place = both.weights.space.places.tolist()[0]
    extra = [
        explain(both, each).weight - explain(OWN, each).weight
        for each in (pattern + 2 * place, both.pattern(family="exact"))
    ]
    assert extra == pytest.approx([-1.5, 0.0])
    assert len(explain(both, both.pattern(family="exact")).steps) == 2
