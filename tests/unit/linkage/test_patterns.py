"""Patterns as numbers, and what all of them weigh."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage.patterns import Together, Weights

BITS = st.floats(-40, 40, allow_nan=False)


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    bits = tuple(tuple(draw(BITS) for _ in range(width)) for width in widths)
    some = [
        tuple(frozenset(draw(st.sets(st.integers(0, width - 1)))) for width in widths)
        for _ in range(draw(st.integers(0, 3)))
    ]
    order = draw(st.permutations(range(len(widths))))
    pairs = zip(order[::2], order[1::2], strict=False)
    together = tuple(
        Together(a, b, tuple(tuple(draw(BITS) for _ in range(widths[b])) for _ in range(widths[a])))
        for a, b in pairs
    )
    return Weights(bits, tuple(some), together)


@given(weights())
def test_all_patterns_weigh_what_each_does(of: Weights) -> None:
    widths = of.space.widths
    patterns = np.arange(int(np.prod(widths)))
    total, refused = of.every()
    assert np.array_equal(total, of.summed(patterns)), "to the last bit"
    assert np.array_equal(refused, of.refuses(patterns))
    for pattern, levels in zip(patterns.tolist(), product(*map(range, widths)), strict=True):
        met = any(
            all(not some or level in some for some, level in zip(condition, levels, strict=True))
            for condition in of.never
        )
        assert refused[pattern] == met
