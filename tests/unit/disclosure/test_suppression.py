"""Suppression against attackers: by subtraction, by linear programming, by trying every table."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.disclosure.attack import Interval, Sum, intervals
from concord.disclosure.profiles import Profile, load_profiles
from concord.disclosure.suppression import suppress
from concord.errors import ConfigError, DisclosureError

Cell = tuple[str, str]
ELEVEN = Profile(minimum=11, source="test")
ROOT = Path(__file__).resolve().parents[3]


def table(rows: list[list[int]]) -> tuple[dict[Cell, int], list[Sum[Cell]]]:
    """A table with totals of rows, columns and all, named by row and column."""
    height, width = len(rows), len(rows[0])
    counts = {(str(i), str(j)): rows[i][j] for i in range(height) for j in range(width)}
    names = [str(i) for i in range(height)], [str(j) for j in range(width)]
    for i in names[0]:
        counts[i, "all"] = sum(counts[i, j] for j in names[1])
    for j in (*names[1], "all"):
        counts["all", j] = sum(counts[i, j] for i in names[0])
    sums = [Sum((i, "all"), tuple((i, j) for j in names[1])) for i in (*names[0], "all")]
    sums += [Sum(("all", j), tuple((i, j) for i in names[0])) for j in (*names[1], "all")]
    return counts, sums


def recovered(counts: dict[Cell, int], sums: list[Sum[Cell]], hidden: set[Cell]) -> dict[Cell, int]:
    """What repeated subtraction gives away: any sum of which all but one cell is known."""
    known = {cell: count for cell, count in counts.items() if cell not in hidden}
    found: dict[Cell, int] = {}
    changed = True
    while changed:
        changed = False
        for each in sums:
            unknown = [cell for cell in each.cells if cell not in known]
            if len(unknown) != 1:
                continue
            (cell,) = unknown
            parts = sum(known[part] for part in each.parts if part != cell)
            value = parts if cell == each.total else known[each.total] - parts
            known[cell] = found[cell] = value
            changed = True
    return found


TABLES = st.integers(2, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 40), min_size=width, max_size=width), min_size=2, max_size=4
    )
)


@given(rows=TABLES)
@settings(max_examples=60)
def test_no_small_count_is_shown_or_can_be_told_to_be_small(rows: list[list[int]]) -> None:
    counts, sums = table(rows)
    result = suppress(counts, sums, ELEVEN)
    assert {c for c, n in counts.items() if 1 <= n <= 10} == result.primary
    assert not result.primary & recovered(counts, sums, set(result.hidden)).keys()
    for cell, interval in result.inferred.items():
        assert interval.low <= counts[cell] <= interval.high
        assert interval.high >= 11


@given(rows=st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=2), min_size=2, max_size=2))
@settings(max_examples=30)
def test_the_attack_finds_the_interval_that_trying_every_table_finds(rows: list[list[int]]) -> None:
    counts, sums = table(rows)
    hidden = {("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")}
    found = intervals(counts, sums, hidden, hidden)
    possible = [
        dict(zip(sorted(hidden), values, strict=True))
        for values in itertools.product(range(13), repeat=4)
    ]
    visible = {cell: count for cell, count in counts.items() if cell not in hidden}
    fitting = [
        p
        for p in possible
        if all(
            (visible | p)[each.total] == sum((visible | p)[part] for part in each.parts)
            for each in sums
        )
    ]
    for cell in hidden:
        values = [p[cell] for p in fitting]
        assert found[cell] == Interval(min(values), max(values))


def test_a_derived_count_must_not_follow_from_its_total_and_its_part() -> None:
    counts = {"due": 50, "closed": 45, "kept": 5}
    result = suppress(counts, [Sum("due", ("closed", "kept"))], ELEVEN, derived=["kept"])
    assert result.primary == {"kept"}
    assert result.secondary  # `due` or `closed` must go: 50 - 45 tells
    harmless = suppress(
        {"due": 50, "closed": 30, "kept": 20},
        [Sum("due", ("closed", "kept"))],
        ELEVEN,
        derived=["kept"],
    )
    assert not harmless.hidden


def test_two_small_parts_of_a_shown_total_are_not_enough() -> None:
    # 3 + 4 = 7: that both are small follows from the total less the large part
    counts = {"all": 107, "a": 3, "b": 4, "c": 100}
    result = suppress(counts, [Sum("all", ("a", "b", "c"))], ELEVEN)
    assert result.secondary


def test_zeros_are_shown() -> None:
    counts, sums = table([[0, 20], [30, 40]])
    assert not suppress(counts, sums, ELEVEN).hidden


def test_a_lone_small_count_takes_its_total_with_it() -> None:
    result = suppress({"all": 3, "a": 3, "b": 0}, [Sum("all", ("a", "b"))], ELEVEN)
    assert result.hidden == {"all", "a"}


def test_counts_that_break_their_sums_are_refused() -> None:
    with pytest.raises(DisclosureError, match="1 totals are not sums"):
        suppress({"all": 60, "a": 20, "b": 30}, [Sum("all", ("a", "b"))], ELEVEN)


def test_the_projects_profiles_load_and_mistakes_are_told(tmp_path: Path) -> None:
    assert load_profiles(ROOT / "conf")["cells-11"].minimum == 11
    (tmp_path / "disclosure.yaml").write_text("cells-0:\n  minimum: 0\n")
    with pytest.raises(ConfigError) as told:
        load_profiles(tmp_path)
    assert "disclosure.yaml" in str(told.value)
    assert "minimum" in str(told.value)
    assert "source" in str(told.value)
