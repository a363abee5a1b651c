"""Record ids as numbers, and numbers told apart."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage import arrays
from concord.linkage.arrays import distinct, in_order, places
from concord.linkage.records import numbers, of_numbers

IDS = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=8)


@given(IDS, st.integers(0, 3))
def test_an_id_is_the_number_that_its_first_digits_are(ids: list[str], begin: int) -> None:
    wanted = [int(one[:16], 16) for one in ids]
    assert numbers(pa.array(ids, pa.string())).tolist() == wanted
    part = pa.chunked_array([ids, ids], pa.string())[begin:]
    assert numbers(part).tolist() == [*wanted, *wanted][begin:]
    assert numbers(pa.array(ids, pa.string()).dictionary_encode()).tolist() == wanted
    rows, some = pa.table({"record_id": pa.array(ids, pa.string())}), sorted(wanted[::2])
    found = of_numbers(rows, np.array(some, dtype=np.uint64))["record_id"].to_pylist()
    assert found == [one for one in ids if int(one[:16], 16) in some]


@given(st.lists(st.integers(-3, 40)), st.sampled_from([5, 1 << 24]))
def test_counting_and_sorting_tell_numbers_apart_alike(some: list[int], most: int) -> None:
    with np.errstate(all="raise"):
        before, arrays.COUNTED = arrays.COUNTED, most
        try:
            found, place = distinct(np.array(some, dtype=np.int64))
        finally:
            arrays.COUNTED = before
    assert found.tolist() == sorted({*some}) == in_order(np.array(some, dtype=np.int64)).tolist()
    assert found[place].tolist() == some


@given(st.sets(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_places_are_those_of_a_list(known: set[int], sought: list[int]) -> None:
    ordered = sorted(known)
    found = places(np.array(ordered, dtype=np.int64), np.array(sought, dtype=np.int64))
    assert found.tolist() == [ordered.index(one) if one in known else -1 for one in sought]
