"""Placeholders that are on no list: planted ones are found, and nothing in a clean world."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.linkage import report
from concord.linkage.person_index import load_person_index
from concord.linkage.placeholders import OTHERS, Search, found, without
from concord.linkage.standardise import (
    Standards,
    distinct,
    email_of,
    forms,
    phone_of,
    ssn_of,
    standardise,
)
from tests.conftest import ROOT
from tests.unit.linkage.test_standardise import STANDARDS, table

SEARCH = load_person_index(ROOT / "conf" / "person_index.yaml").placeholders.search
FIRST = date(1950, 1, 1)
Count = tuple[str, str, int]


def counted(rows: list[Count]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    kinds = {"column": pa.string(), "value": pa.string(), "others": pa.int64()}
    return pa.table({n: pa.array(c, k) for (n, k), c in zip(kinds.items(), columns, strict=True)})


def values(rows: list[Count], search: Search = SEARCH) -> list[str]:
    return [str(value) for value in found(counted(rows), search)["value"].to_pylist()]


def added(standards: Standards, told: pa.Table) -> Standards:
    """The standards with what was found beside what is listed."""
    of = {column: set[str]() for column in OTHERS}
    for row in told.to_pylist():
        of[row["column"]].add(row["value"])
    return replace(
        standards,
        ssns=standards.ssns | of["ssn"],
        phones=standards.phones | of["phone"],
        emails=standards.emails | of["emails"],
        birth_dates=standards.birth_dates | of["birth"],
    )


def births(daily: float, seed: int = 1, days: int = 20_000) -> dict[str, int]:
    """People born on each day, as many on average, none on most days if they are few."""
    drawn = np.random.default_rng(seed).poisson(daily, days).tolist()
    return {(FIRST + timedelta(days=n)).isoformat(): many for n, many in enumerate(drawn) if many}


def of(counts: dict[str, int]) -> list[Count]:
    return [("birth", day, n) for day, n in counts.items()]


@pytest.mark.parametrize("daily", [0.02, 0.3, 3, 40, 260])
def test_a_clean_world_has_no_placeholder(daily: float) -> None:
    assert values(of(births(daily))) == []
    # Nor where all are born in one year, or none is before a day.
    assert values(of(births(daily, days=365))) == []
    few = [("ssn", "212345678", 8), ("phone", "6175550123", 9)]
    assert values(few) == []


@pytest.mark.parametrize("daily", [0.02, 0.3, 3, 40])
def test_default_dates_are_found(daily: float) -> None:
    whole = births(daily)
    # On 3 % of the records, on two days side by side and on the last one.
    many = round(0.03 * sum(whole.values())) + 30
    planted = ["1980-05-05", "1980-05-06", "2004-10-03"]
    for day in planted:
        whole[day] = whole.get(day, 0) + many
    whole["1980-05-05"] += 40 * many  # and does not hide the one beside it
    assert values(of(whole)) == planted


def test_a_few_namesakes_of_a_day_are_let_be() -> None:
    assert values(of({**births(0.02), "1980-05-06": 29})) == []
    assert values(of({**births(0.02), "1980-05-06": 30})) == ["1980-05-06"]


def test_more_than_chance_allows_is_asked_for_too() -> None:
    whole = {**births(9), "1980-05-06": 31}
    often = SEARCH.model_copy(update={"birth_times": 2.0})
    assert 31 > 2 * 9 and values(of(whole), often) == []
    assert values(of({**whole, "1980-05-06": 45}), often) == ["1980-05-06"]


def test_numbers_that_too_many_have_are_found() -> None:
    rows = [("ssn", "212345678", 20), ("ssn", "212345679", 19)]
    rows += [("phone", "6175550123", 15), ("phone", "6175550124", 14)]
    rows += [("emails", "desk@agency.org", 15), ("emails", "ann@x.org", 14)]
    told = found(counted(rows), SEARCH)
    assert told.to_pylist() == [
        {"column": "emails", "value": "desk@agency.org", "others": 15},
        {"column": "phone", "value": "6175550123", "others": 15},
        {"column": "ssn", "value": "212345678", "others": 20},
    ]
    standards = added(Standards(ssns=frozenset({"212345670"})), told)
    assert ssn_of("212-34-5678", standards) is None is ssn_of("212345670", standards)
    assert ssn_of("212345679", standards) == "212345679"
    assert email_of("Desk@agency.org", standards) is None
    assert phone_of("1 617 555 0123", standards) is None


SSNS, LAST4S = [None, "212-34-5678", "212345679", "78051120"], [None, "1111", "5678"]
DAYS = [None, date(1980, 5, 6), date(1980, 1, 1), date(1900, 1, 1), date(1981, 5, 6)]
PHONES = ["617 555 0123", "6175550124", "16175550123"]
EMAILS = ["Desk@agency.org", "ann@x.org", "none@none.com"]
ROWS = st.fixed_dictionaries(
    {
        "record_id": st.sampled_from(["r1", "r2", "r3"]),
        "family_name": st.sampled_from(["Lee", "Ray"]),
        "former_family_name": st.sampled_from([None, "Lee"]),
        "ssn": st.sampled_from(SSNS),
        "ssn_last4": st.sampled_from(LAST4S),
        "birth_date": st.sampled_from(DAYS),
        "phones": st.one_of(st.none(), st.lists(st.sampled_from(PHONES), max_size=3)),
        "emails": st.one_of(st.none(), st.lists(st.sampled_from(EMAILS), max_size=3)),
    }
)
VALUES = [
    ("ssn", "212345678"),
    ("ssn", "212345679"),
    ("phone", "6175550123"),
    ("emails", "desk@agency.org"),
    ("emails", "ann@x.org"),
    ("birth", "1980-05-06"),
]


@settings(max_examples=150)
@given(st.lists(ROWS, max_size=6), st.sets(st.sampled_from(VALUES)))
def test_what_is_found_is_as_if_it_had_been_listed(
    rows: list[dict[str, object]], bad: set[tuple[str, str]]
) -> None:
    told = counted([(column, value, 20) for column, value in sorted(bad)])
    sources = table(*rows)
    whole = distinct(without(forms(sources, STANDARDS), told))
    assert whole.equals(standardise(sources, added(STANDARDS, told)))


def test_what_is_not_asked_for_is_not_looked_for() -> None:
    rows = [("ssn", "212345678", 900), ("phone", "6175550123", 900), ("birth", "1980-05-06", 900)]
    assert values(rows, Search()) == []
    assert values(rows, Search(phone_families=2)) == ["6175550123"]


@given(st.randoms(use_true_random=False), st.integers(0, 200))
def test_the_order_of_rows_does_not_matter(chance: random.Random, many: int) -> None:
    rows = of({**births(2, days=90), "1950-02-03": many})
    rows += [("ssn", f"21234567{n}", 17 + n) for n in range(6)]
    told = found(counted(rows), SEARCH)
    chance.shuffle(rows)
    assert found(counted(rows), SEARCH).equals(told)


def test_measures_count_values_and_records_and_tell_none() -> None:
    told = found(counted([("ssn", "212345678", 20), ("ssn", "212345679", 30)]), SEARCH)
    measures = report.placeholders(told.append_column("records", pa.array([25, 40])))
    assert {(m.name, m.group): m.value for m in measures} == {
        ("placeholders_found", "ssn"): 2.0,
        ("placeholder_records", "ssn"): 65.0,
        ("placeholders_found", "phone"): 0.0,
        ("placeholder_records", "phone"): 0.0,
        ("placeholders_found", "emails"): 0.0,
        ("placeholder_records", "emails"): 0.0,
        ("placeholders_found", "birth"): 0.0,
        ("placeholder_records", "birth"): 0.0,
    }
