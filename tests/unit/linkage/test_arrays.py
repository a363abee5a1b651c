"""Numbers told apart, looked up and brought together: as plain Python does it."""

from __future__ import annotations

from itertools import groupby
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage import arrays
from concord.linkage.arrays import distinct, grouped, in_order, places, places_of_few

# Small ones, for which there is an array of all that there can be; and others.
NUMBERS = st.lists(st.integers(0, 40) | st.integers(-3, 1 << 62), max_size=30)
SMALL = st.lists(st.integers(0, 40), max_size=30)


@given(NUMBERS | SMALL)
def test_numbers_are_told_apart_and_put_in_order(numbers: list[int]) -> None:
    column = np.array(numbers, dtype=np.int64)
    found, place = distinct(column)
    assert found.tolist() == sorted(set(numbers))
    assert found[place].tolist() == numbers
    assert in_order(column).tolist() == sorted(set(numbers))


@pytest.mark.parametrize("kind", [np.int32, np.uint64])
def test_what_is_put_in_order_keeps_its_type(kind: Any) -> None:
    assert in_order(np.array([3, 1, 3], dtype=kind)).dtype == kind


@given(NUMBERS | SMALL, NUMBERS | SMALL)
def test_a_number_is_found_where_it_stands_or_nowhere(known: list[int], sought: list[int]) -> None:
    there = sorted(set(known))
    found = places(np.array(there, dtype=np.int64), np.array(sought, dtype=np.int64))
    assert found.tolist() == [there.index(each) if each in there else -1 for each in sought]


# Hashes; some alike at the beginning, which hashes are not.
HASHES = st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 40), max_size=30)


@pytest.mark.parametrize("together", [64, 1])
@given(HASHES, HASHES)
def test_a_hash_is_found_where_it_stands_or_nowhere(
    together: int, known: list[int], sought: list[int]
) -> None:
    there = sorted(set(known))
    with patch.object(arrays, "TOGETHER", together):
        held = np.array(there, dtype=np.uint64)
        found = places(held, np.array([*sought, *known], dtype=np.uint64))
    expected = [there.index(each) if each in there else -1 for each in [*sought, *known]]
    assert found.tolist() == expected


@given(st.lists(st.sampled_from([1 << 40, 3, -(1 << 50)]), max_size=40), st.integers(0, 40))
def test_few_distinct_numbers_among_many_are_told_apart(few: list[int], others: int) -> None:
    column = np.array(few * 40 + [others << 30], dtype=np.int64)
    found, place = distinct(column)
    assert found.tolist() == sorted(set(column.tolist()))
    assert found[place].tolist() == column.tolist()


@given(
    st.lists(st.text("ab", max_size=2), unique=True),
    st.lists(st.text("ab", max_size=2) | st.none()),
)
def test_a_text_is_found_where_it_stands_or_nowhere(
    known: list[str], few: list[str | None]
) -> None:
    found = places_of_few(pa.array(few, pa.string()), pa.array(known, pa.string()))
    assert found.tolist() == [known.index(each) if each in known else -1 for each in few]


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0, 1, 2, 3, 8, 9, 1 << 60, (1 << 60) + 1])),
        max_size=30,
    )
)
def test_equal_keys_stand_together_and_their_rows_ascend(
    some_keys: list[tuple[bool, int]],
) -> None:
    """Keys that differ in their lowest bits alone too, which are cut off for the sort."""
    keys = np.array([key for _, key in some_keys], dtype=np.uint64)
    rows = np.flatnonzero([some for some, _ in some_keys])
    order, found = grouped(rows, keys[rows])
    of: dict[int, list[int]] = {}
    for row, key in zip(order.tolist(), found.tolist(), strict=True):
        assert int(keys[row]) == key
        of.setdefault(key, []).append(row)
    assert [key for key, _ in groupby(found.tolist())] == list(of), "each key is one run"
    assert all(some == sorted(some) for some in of.values())
    assert sorted(order.tolist()) == rows.tolist()


def test_an_array_of_all_numbers_is_made_for_none_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrays, "COUNTED", 100)
    large = np.array([7, 101, 7], dtype=np.int64)
    monkeypatch.setattr(arrays, "_seen", lambda *_: pytest.fail("101 is too large"))
    assert distinct(large)[0].tolist() == in_order(large).tolist() == [7, 101]
