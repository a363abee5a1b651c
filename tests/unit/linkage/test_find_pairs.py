"""Candidate pairs against all pairs, compared one by one in plain Python."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage.blocking import Matching, Refused, find_pairs, largest_block
from concord.linkage.compare import Near
from concord.linkage.patterns import Weights, pattern
from concord.linkage.standardise import STANDARD

# Given names agree or differ; only agreement is kept.
WEIGHTS = Weights(((0.0,) * 5, (0.0, 5.0, 5.0, 5.0, 5.0, -5.0), *[(0.0,) * 9] * 6))
Keys = tuple[int | None, ...]
RULES = 3


def found(
    rows: list[dict[str, Any]], refused: Refused, shares: int
) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[tuple[int, int], int]]:
    """Pairs kept -> (rule, pattern), and pairs counted by (rule, pattern), of all shares."""
    columns: dict[str, Any] = {
        name: pa.array([row.get(name) for row in rows], kind) for name, kind in STANDARD.items()
    }
    columns["record_id"] = pa.array([row["record_id"] for row in rows], pa.string())
    for name in ("keys", "refined_keys"):
        columns[name] = pa.array([row[name] for row in rows], pa.list_(pa.int64()))
    table = pa.table(columns)
    matching = Matching(RULES, shares, refused, Near(), WEIGHTS, 0.0)
    pairs: dict[tuple[str, str], tuple[int, int]] = {}
    counts: dict[tuple[int, int], int] = {}
    for share in range(shares):
        for row in find_pairs(table, share, matching).to_pylist():
            if row["left_record_id"] is None:
                key = (row["rule"], row["pattern"])
                counts[key] = counts.get(key, 0) + row["pairs"]
            else:
                pair = (row["left_record_id"], row["right_record_id"])
                best = (row["rule"], row["pattern"])
                pairs[pair] = min(best, pairs.get(pair, best))
    return pairs, counts


keys = st.tuples(*[st.sampled_from([None, -7, 0, 1, 5]) for _ in range(RULES)])
more = st.sampled_from([None, 1, 2])  # what a key is refined by
people = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(["ANN", "OLIVER", None]), keys, more),
    max_size=8,
)
Person = tuple[str, str | None, Keys, int | None]


def refined(key: int | None, extra: int | None) -> int | None:
    """As in real records: of a key and something else, and never equal to a plain one."""
    return None if key is None or extra is None else 1000 + 10 * key + extra


@given(people, st.integers(1, 4), st.sets(st.sampled_from([-7, 0, 5])), st.booleans())
def test_pairs_are_those_of_the_first_rule_that_both_have(
    rows: list[Person], shares: int, large: set[int], still_too_large: bool
) -> None:
    still = {1001} if still_too_large else set()  # key 0 with 1

    def effective(row: Person, rule: int) -> int | None:
        key = row[2][rule]
        if rule != 1 or key not in large:
            return key
        narrow = refined(key, row[3])
        return None if narrow in still else narrow

    wanted = set()
    counted: dict[tuple[int, int], int] = {}
    for one, other in combinations(rows, 2):
        both = [(effective(one, rule), effective(other, rule)) for rule in range(RULES)]
        rules = [rule for rule, (a, b) in enumerate(both) if a is not None and a == b]
        if one[0] == other[0] or not rules:
            continue
        same = "exact" if one[1] == other[1] else "differ"
        seen = pattern() if None in (one[1], other[1]) else pattern(given=same)
        counted[rules[0], seen] = counted.get((rules[0], seen), 0) + 1
        if seen != pattern(given="differ"):
            wanted.add((min(one[0], other[0]), max(one[0], other[0])))

    whole = [
        {
            "record_id": record,
            "given": name,
            "keys": list(plain),
            "refined_keys": [
                refined(key, extra) if rule == 1 else None for rule, key in enumerate(plain)
            ],
        }
        for record, name, plain, extra in rows
    ]
    refused = Refused(
        {1: np.array(sorted(large), dtype=np.int64)}, {1: np.array(sorted(still), dtype=np.int64)}
    )
    pairs, counts = found(whole, refused, shares)
    assert counts == counted
    assert set(pairs) == wanted


def test_the_largest_block_is_within_the_budget() -> None:
    for budget in (1, 2, 3, 6, 5000):
        n = largest_block(budget)
        assert n * (n - 1) // 2 <= budget < (n + 1) * n // 2
