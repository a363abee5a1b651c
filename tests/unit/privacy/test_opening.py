"""Runs of digits are those of a regular expression, wherever they begin and end."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from concord.privacy.opening import digit_runs

PARTS = st.lists(
    st.one_of(
        st.text("0123456789abcdef", min_size=1, max_size=80).map(str.encode),
        st.sampled_from([b"G", b"\0", b"A-F", b"\xff\xfe", b" " * 9, b""]),
    )
)


@given(PARTS, st.sampled_from([15, 16, 31, 32, 33]))
def test_runs_are_those_that_an_expression_finds(parts: list[bytes], least: int) -> None:
    content = b"".join(parts)
    assert [*digit_runs(content, least)] == re.findall(rb"[0-9a-f]{%d,}" % least, content)
