"""What the pair budget keeps out, changed key by key, against a plain model."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage.increments import _differing
from concord.linkage.keys import NO_HASHES, Refused, among_sorted

# (rule, key) -> pairs dropped, refined keys that have too many still.
State = Mapping[tuple[int, int], tuple[int, frozenset[int]]]
KEYS = st.tuples(st.integers(0, 2), st.integers(0, 6))
# Refined keys are hashes: no two keys share one.
STATES = st.dictionaries(
    KEYS, st.tuples(st.integers(1, 9), st.frozensets(st.integers(1, 3), max_size=2))
)


def refused(state: State) -> Refused:
    made = Refused({}, {}, {}, {})
    for number in sorted({rule for rule, _ in state}):
        mine = sorted((key, *told) for (rule, key), told in state.items() if rule == number)
        under = sorted((key * 10 + one, key) for key, _, some in mine for one in some)
        made.keys[number] = np.array([key for key, _, _ in mine], dtype=np.uint64)
        made.dropped[number] = np.array([dropped for _, dropped, _ in mine], dtype=np.int64)
        made.refined[number] = np.array([one for one, _ in under], dtype=np.uint64)
        made.above[number] = np.array([key for _, key in under], dtype=np.uint64)
    return made


def told(one: Refused) -> list[list[list[int]]]:
    return [[each.tolist() for each in one.of(number)] for number in range(3)]


@given(STATES, STATES, st.sets(KEYS))
def test_some_keys_are_told_anew(old: State, new: State, among: set[tuple[int, int]]) -> None:
    new = {key: state for key, state in new.items() if key in among}
    some = {
        number: np.array(sorted(key for rule, key in among if rule == number), dtype=np.uint64)
        for number in range(3)
    }
    wanted = {key: state for key, state in old.items() if key not in among} | new
    assert told(refused(old).replaced(some, refused(new))) == told(refused(wanted))


@given(STATES, STATES)
def test_keys_that_are_used_otherwise_are_told(one: State, other: State) -> None:
    found = refused(one).differing(refused(other))
    # How many pairs they drop changes no pair.
    used = [{key: under for key, (_, under) in state.items()} for state in (one, other)]
    wanted = {key for key, _ in used[0].items() ^ used[1].items()}
    assert {(rule, int(key)) for rule, keys in found.items() for key in keys} == wanted
    assert all(len(keys) for keys in found.values()) and not len(NO_HASHES)


# Hashes; some alike at the beginning.
HASHES = st.integers(0, (1 << 64) - 1) | st.integers(0, 9)


@given(st.lists(HASHES, max_size=40), st.sets(HASHES, max_size=10))
def test_keys_are_among_others_or_not(keys: list[int], some: set[int]) -> None:
    sought, held = (np.array(each, dtype=np.uint64) for each in (keys, sorted(some)))
    assert among_sorted(sought, held).tolist() == [key in some for key in keys]
    assert among_sorted(held, held).all()


RECORDS = st.dictionaries(HASHES, st.integers(0, 2), max_size=20)


@given(RECORDS, RECORDS, st.randoms())
def test_records_that_came_went_or_say_another_thing_differ(
    was: dict[int, int], now: dict[int, int], random: Random
) -> None:
    before, after = [*was], sorted(now)
    random.shuffle(before)
    sides = [
        (np.array(of, dtype=np.uint64), np.array([says[one] for one in of], dtype=np.uint64))
        for of, says in ((before, was), (after, now))
    ]
    found = _differing(*sides)
    assert found.tolist() == sorted({one for one, _ in was.items() ^ now.items()})
