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

from concord.linkage.compare import Near, Records, core, patterns, words_of
from concord.linkage.patterns import LEVELS, decode, encode, pattern, words
from concord.linkage.standardise import STANDARD, canonical_names

COLUMNS = {"record_id": pa.string(), **STANDARD}


def records(*rows: dict[str, Any]) -> Records:
    whole = {name: [row.get(name) for row in rows] for name in COLUMNS}
    table = pa.table({name: pa.array(values, COLUMNS[name]) for name, values in whole.items()})
    return Records(table, Near())


def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    found = patterns(records(one, other), np.array([0]), np.array([1]))
    assert patterns(records(other, one), np.array([0]), np.array([1])) == found, "either way"
    return {name: level for name, level in words(int(found[0])).items() if level != "missing"}


def born(year: int, month: int, day: int) -> dict[str, Any]:
    known = (month, day) != (1, 1)
    return {"birth": date(year, month, day), "birth_day_known": known}


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
        ({"family": "VAN DYKE"}, {"family": "VANDYKE"}, {"family": "exact"}),
        ({"family": "GARCIA LOPEZ"}, {"family": "GARCIA"}, {"family": "part"}),
        ({"family": "DE LA CRUZ"}, {"family": "DE LA ROSA"}, {"family": "differ"}),
        ({"family": "HUTCHINSON"}, {"family": "HUTCHISON"}, {"family": "near"}),
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
            {"zip": "02139", "phone": "6175550123"},
            {"zip": "01002", "phone": "6175550123"},
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
SURNAMES = ["LEE", "LEA", "GARCIA LOPEZ", "LOPEZ", "DE LEON", "DE LA O", "LEON", "DELEON"]
people = st.fixed_dictionaries(
    {
        "given": st.sampled_from([None, *NAMES]),
        "family": st.sampled_from([None, *SURNAMES]),
        "ssn": st.sampled_from([None, "123456789", "123456798", "123456788", "213456788"]),
        "sex": st.sampled_from([None, "F", "M"]),
    }
)


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
            found["given"] = "near" if JaroWinkler.similarity(a, b) >= 0.88 else "differ"
    a, b = one["family"], other["family"]
    if a and b:
        if a.replace(" ", "") == b.replace(" ", ""):
            found["family"] = "exact"
        elif words_of(a) & words_of(b):
            found["family"] = "part"
        else:
            found["family"] = (
                "near" if JaroWinkler.similarity(core(a), core(b)) >= 0.88 else "differ"
            )
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
    found = patterns(records(*rows), left, right)
    for value, i, j in zip(found.tolist(), left.tolist(), right.tolist(), strict=True):
        told = {name: level for name, level in words(value).items() if level != "missing"}
        assert told == slowly(rows[i], rows[j]), (rows[i], rows[j])


@given(st.tuples(*[st.integers(0, len(levels)) for levels in LEVELS.values()]))
def test_a_pattern_is_its_levels(levels: tuple[int, ...]) -> None:
    whole = np.array([levels], dtype=np.int64)
    value = encode(whole)
    assert decode(value).tolist() == whole.tolist()
    assert pattern(**words(int(value[0]))) == value[0]
