"""Levels of agreement of two records, against a slow comparison in plain Python."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import OSA, JaroWinkler

from concord.linkage.compare import TESTS, AllOf, AnyOf, Simple, patterns
from concord.linkage.patterns import Space
from concord.linkage.person_index import load_person_index
from concord.linkage.standardise import STANDARD, canonical_names, core, words_of
from concord.linkage.values import PairedRows, Records, hashed
from tests.conftest import ROOT

MODEL = load_person_index(ROOT / "conf" / "person_index.yaml")
COLUMNS = list(STANDARD)


def records(*rows: dict[str, Any]) -> Records:
    """Records as they travel: all columns are texts."""
    return Records(
        pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in COLUMNS})
    )


def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    first, second = np.array([0]), np.array([1])
    found = patterns(MODEL.compiled, PairedRows(records(one, other), first, second))
    again = patterns(MODEL.compiled, PairedRows(records(other, one), first, second))
    assert again == found, "either way"
    said = MODEL.words(int(found[0]))
    return {name: level for name, level in said.items() if level != "missing"}


def born(year: int, month: int, day: int) -> dict[str, Any]:
    known = (month, day) != (1, 1)
    text = date(year, month, day).isoformat()
    return {"birth": text if known else None, "birth_year": text[:4]}


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ({"ssn": "123456789"}, {"ssn": "123456789"}, {"ssn": "exact"}),
        ({"ssn": "123456789"}, {"ssn": "123456780"}, {"ssn": "near"}),
        ({"ssn": "123456789"}, {"ssn": "123456798"}, {"ssn": "near"}),
        ({"ssn": "123456789"}, {"ssn": "123456790"}, {"ssn": "differ"}),
        ({"ssn": "123456789"}, {}, {}),
        (
            {"ssn": "123456789", "ssn_last4": "6789"},
            {"ssn_last4": "6789"},
            {"ssn": "last_four"},
        ),
        ({"ssn": "123456789", "ssn_last4": "6789"}, {"ssn_last4": "6780"}, {"ssn": "differ"}),
        ({"given": "ANN"}, {"given": "ANN"}, {"given": "exact"}),
        ({"given": "BOB"}, {"given": "ROBERT"}, {"given": "nickname"}),
        ({"given": "A"}, {"given": "ANN"}, {"given": "initial"}),
        ({"given": "B"}, {"given": "ANN"}, {"given": "differ"}),
        ({"given": "MARTHA"}, {"given": "MARHTA"}, {"given": "near"}),
        ({"given": "MARY ANN"}, {"given": "MARY"}, {"given": "near"}),
        ({"given": "MARTHA"}, {"given": "OLIVER"}, {"given": "differ"}),
        ({"family": "LEE"}, {"family": "LEE"}, {"family": "exact"}),
        ({"family": "VAN DYKE"}, {"family": "VANDYKE"}, {"family": "form"}),
        ({"family": "GARCIA LOPEZ"}, {"family": "GARCIA"}, {"family": "part"}),
        ({"family": "GARCIA LOPEZ"}, {"family": "LOPEZ GARCIA"}, {"family": "form"}),
        ({"family": "DE LA CRUZ DIAZ"}, {"family": "DIAZ DE LA CRUZ"}, {"family": "form"}),
        ({"family": "DE LA CRUZ"}, {"family": "DE LA ROSA"}, {"family": "differ"}),
        ({"family": "HUTCHINSON"}, {"family": "HUTCHISON"}, {"family": "near"}),
        ({"family": "FORD"}, {"family": "PORD"}, {"family": "near"}),
        ({"given": "MARY"}, {"given": "HARY"}, {"given": "near"}),
        (born(1980, 5, 6), born(1980, 5, 6), {"birth": "exact"}),
        (born(1980, 5, 6), born(1980, 6, 5), {"birth": "near"}),
        (born(1980, 5, 6), born(1981, 5, 6), {"birth": "near"}),
        (born(1980, 5, 6), born(1980, 5, 7), {"birth": "near"}),
        (born(1980, 5, 6), born(1980, 7, 8), {"birth": "differ"}),
        (born(1980, 5, 6), born(1980, 1, 1), {"birth": "year"}),
        (born(1980, 1, 1), born(1980, 1, 1), {"birth": "year"}),
        (born(1980, 1, 1), born(1981, 5, 6), {"birth": "differ"}),
        ({"zip": "02139"}, {"zip": "02139"}, {"contact": "zip"}),
        ({"zip": "02139"}, {"zip": "02140"}, {"contact": "zip3"}),
        ({"zip": "02139"}, {"zip": "01002"}, {"contact": "differ"}),
        ({"zip": "02139"}, {"phone": "6175550123"}, {}),
        (
            {"zip": "02139", "street": "1 MAIN ST"},
            {"zip": "02139", "street": "1 MAIN ST"},
            {"contact": "household"},
        ),
        (
            {"zip": "02139", "street": "1 MAIN ST"},
            {"zip": "01002", "street": "1 MAIN ST"},
            {"contact": "differ"},
        ),
        (
            {"street": "1 MAIN ST"},
            {"zip": "01002", "street": "1 MAIN ST"},
            {"contact": "street"},
        ),
        ({"street": "1 MAIN ST"}, {"street": "2 MAIN ST"}, {"contact": "other_street"}),
        (
            {"zip": "02139", "phone": "6175550123"},
            {"zip": "01002", "phone": "6175550123"},
            {"contact": "household"},
        ),
        (
            {"zip": "02139", "emails": "a@x.org\x1fb@x.org"},
            {"zip": "01002", "emails": "b@x.org"},
            {"contact": "household"},
        ),
        (
            {"sex": "F", "middle": "A"},
            {"sex": "F", "middle": "B"},
            {"sex": "same", "middle": "differ"},
        ),
        ({"suffix": "JR"}, {"suffix": "SR"}, {"suffix": "differ"}),
        ({}, {}, {}),
    ],
)
def test_a_pair_agrees_on(
    one: dict[str, Any], other: dict[str, Any], wanted: dict[str, str]
) -> None:
    assert compared(one, other) == wanted


NAMES = ["ANN", "ANNE", "ANNA", "A", "BOB", "ROBERT", "R", "MARY ANN", "MARY", "ROBIN"]
SURNAMES = ["LEE", "LEA", "GARCIA LOPEZ", "LOPEZ GARCIA", "LOPEZ", "DE LEON", "DE LA O", "LEON"]
SURNAMES += ["DELEON"]
people = st.fixed_dictionaries(
    {
        "given": st.sampled_from([None, *NAMES]),
        "family": st.sampled_from([None, *SURNAMES]),
        "ssn": st.sampled_from([None, "123456789", "123456798", "123456788", "213456788"]),
        "sex": st.sampled_from([None, "F", "M"]),
    }
)


def alike(a: str, b: str) -> bool:
    return JaroWinkler.similarity(a, b) >= (0.8 if OSA.distance(a, b) < 2 else 0.88)


def slowly(one: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """What the levels are said to mean, one pair at a time."""
    found: dict[str, str] = {}
    a, b = one["given"], other["given"]
    if a and b:
        if a == b:
            found["given"] = "exact"
        elif len(a.split()[0]) == 1 or len(b.split()[0]) == 1:
            found["given"] = "initial" if a[0] == b[0] else "differ"
        elif a.split()[0] == b.split()[0]:
            found["given"] = "near"
        elif canonical_names(a) & canonical_names(b):
            found["given"] = "nickname"
        else:
            found["given"] = "near" if alike(a, b) else "differ"
    a, b = one["family"], other["family"]
    if a and b:
        if a == b:
            found["family"] = "exact"
        elif a.replace(" ", "") == b.replace(" ", "") or sorted(a.split()) == sorted(b.split()):
            found["family"] = "form"
        elif words_of(a) & words_of(b):
            found["family"] = "part"
        else:
            found["family"] = "near" if alike(core(a), core(b)) else "differ"
    a, b = one["ssn"], other["ssn"]
    if a and b:
        # Of strings of one length, one edit is a changed digit or two swapped neighbours.
        found["ssn"] = ("exact", "near")[d] if (d := OSA.distance(a, b)) < 2 else "differ"
    if one["sex"] and other["sex"]:
        found["sex"] = "same" if one["sex"] == other["sex"] else "differ"
    return found


@given(st.lists(people, min_size=2, max_size=6))
def test_many_pairs_at_once_agree_as_pairs_one_by_one(rows: list[dict[str, Any]]) -> None:
    left, right = np.triu_indices(len(rows), 1)
    found = patterns(MODEL.compiled, PairedRows(records(*rows), left, right))
    for value, i, j in zip(found.tolist(), left.tolist(), right.tolist(), strict=True):
        told = {name: level for name, level in MODEL.words(value).items() if level != "missing"}
        assert told == slowly(rows[i], rows[j]), (rows[i], rows[j])


# --- every test, against what it says, on any texts -----------------------------------------------

letters = st.text("ABCEÉ -1", max_size=8)
days = st.dates(date(1979, 12, 1), date(1981, 3, 1)).map(date.isoformat)


def met(name: str, a: str, b: str, number: float | None = None) -> bool:
    table = pa.table({"text": pa.array([a, b], pa.string())})
    test = Simple(name, ("text",), number)
    both = [
        bool(
            TESTS[name].judge(PairedRows(Records(table), np.array([i]), np.array([1 - i])), test)[0]
        )
        for i in (0, 1)
    ]
    assert both[0] == both[1], "either way"
    return both[0]


@given(letters, letters, st.sampled_from([0.5, 0.7, 0.8, 0.88, 0.92, 0.97]))
def test_jaro_winkler_is_rapidfuzzs(a: str, b: str, least: float) -> None:
    wanted = a == b or JaroWinkler.similarity(a, b) >= np.float32(least)
    if abs(JaroWinkler.similarity(a, b) - least) > 1e-6:
        assert met("jaro_winkler", a, b, least) == wanted


@given(letters, letters, st.integers(0, 3))
def test_damerau_levenshtein_is_rapidfuzzs(a: str, b: str, most: int) -> None:
    assert met("damerau_levenshtein", a, b, most) == (OSA.distance(a, b) <= most)


@given(days, days, st.integers(0, 400))
def test_dates_are_compared_as_dates(a: str, b: str, most: int) -> None:
    one, other = date.fromisoformat(a), date.fromisoformat(b)
    swap = one.year == other.year and (one.month, one.day) == (other.day, other.month)
    alike = [one.year == other.year, one.month == other.month, one.day == other.day]
    assert met("near_date", a, b) == (sum(alike) >= 2 or swap)
    assert met("day_month_swapped", a, b) == swap
    assert met("days_apart", a, b, most) == (abs((one - other).days) <= most)


@pytest.mark.parametrize("text", ["", "1980-13-01", "1980-02-30", "May 1980", "1980"])
def test_what_is_no_date_is_near_none(text: str) -> None:
    assert not met("near_date", text, text)
    assert not met("days_apart", text, "1980-05-06", 10_000)


def test_an_address_of_email_is_compared_in_one_form() -> None:
    table = pa.table({"email": ["Ann.Lee+x@gmail.com", "annlee@googlemail.com", "ann.lee@x.org"]})
    found = Simple("same", ("email(email)",)).met(
        PairedRows(Records(table), np.array([0, 0]), np.array([1, 2]))
    )
    assert found.tolist() == [True, False]


@pytest.mark.parametrize("kind", [AllOf, AnyOf])
def test_what_was_looked_up_once_stays_as_it_is(kind: type[AllOf] | type[AnyOf]) -> None:
    """For the next condition that asks the same of the same pairs."""
    table = pa.table({"one": ["A", "A", "B", "B"], "two": ["C", "D", "D", "D"]})
    pairs = PairedRows(Records(table), *np.triu_indices(4, 1))
    one, two = Simple("same", ("one",)), Simple("same", ("two",))
    alone = one.met(pairs).tolist()
    assert kind((one, two)).met(pairs).tolist() != alone
    assert one.met(pairs).tolist() == alone
    with pytest.raises(ValueError, match="read-only"):
        one.met(pairs)[0] = False


def test_one_of_two_says_something() -> None:
    both = Records(pa.table({"text": pa.array(["A", "B", None, None])}))
    left, right = np.triu_indices(4, 1)
    found = Simple("one_known", ("text",)).met(PairedRows(both, left, right))
    assert found.tolist() == [False, True, True, True, True, False]


def test_numbers_lists_and_swapped_columns() -> None:
    assert met("numbers_apart", "10.5", "11", 0.5)
    assert not met("numbers_apart", "10.5", "none", 100)
    assert met("overlap", "A\x1fB", "B\x1fC", 1)
    assert not met("overlap", "A\x1fB", "B\x1fC", 2)
    assert met("overlap", "A\x1fB", "B\x1fC", None) and not met("overlap", "A", "B", None)
    assert not met("overlap", "A", "A", 2)
    table = pa.table({"given": ["LI", "WEI", "LI"], "family": ["WEI", "LI", "LEE"]})
    test = Simple("swapped", ("given", "family"))
    found = test.met(PairedRows(Records(table), np.array([0, 0, 1]), np.array([1, 2, 2])))
    assert found.tolist() == [True, False, False]


@given(st.lists(letters, max_size=20))
def test_a_hash_depends_on_the_text_alone(texts: list[str]) -> None:
    together = hashed(pa.array(texts, pa.string()))
    sliced = hashed(pa.array(["x", *texts], pa.string())[1:])
    alone = [int(hashed(pa.array([text]))[0]) for text in texts]
    assert together.tolist() == sliced.tolist() == alone
    assert len(set(alone)) == len(set(texts)), "64 bits are enough to tell few texts apart"


def test_hashes_stay_as_they_are() -> None:
    # Stored patterns and keys of old runs would be lost with them.
    assert hashed(pa.array(["", "A", "02139", "12 N MAIN ST APT 3"])).tolist() == HASHES


HASHES = [
    0x99FCFEB37F7CC14F,
    0x2DA498AE0E629FB2,
    0x692F5A38E14668BC,
    0xDB71B9B47E84BF25,
]


widths = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@given(widths, st.data())
def test_a_pattern_is_its_levels(widths: list[int], data: st.DataObject) -> None:
    levels = [[data.draw(st.integers(0, width - 1)) for width in widths]]
    space = Space(tuple(widths))
    found = space.encode(np.array(levels, dtype=np.int64))
    assert space.decode(found).tolist() == levels
