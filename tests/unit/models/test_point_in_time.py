"""Facts as they were known, against plain Python: late files, corrections, windows, ties."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from concord_models import point_in_time
from concord_models.point_in_time import Measure, Source, covered_maxima

KINDS = ("a", "b", "c")
WINDOWS = (0, 3, 10)
HOWS = ("sum", "mean", "spread", "min", "max", "slope", "last", "first", "count", "change")
MEASURES = [
    Measure(f"{how}_{''.join(kinds)}_{days}", "f", how, "value", kinds, days)  # type: ignore[arg-type]
    for how in HOWS
    for kinds in ((), ("a",), ("a", "c"))
    for days in WINDOWS
    if how != "change" or days
] + [
    Measure(f"{how}_{days}", "f", how, "", ("b",), days)  # type: ignore[arg-type]
    for how in ("count", "since")
    for days in WINDOWS
] + [Measure("change", "f", "change", "", (), 4), Measure("text", "f", "text", "word")]  # fmt: skip


@dataclass(frozen=True)
class Fact:
    key: str
    happened: int
    known: int
    until: int | None
    kind: str
    value: float | None
    word: str | None
    identity: int = 0
    order: int | None = 0


Row = tuple[str, int]
day = st.integers(1000, 1012)
facts_of = st.builds(
    Fact,
    st.sampled_from("xyz"),
    day,
    day,
    st.none() | day,
    st.sampled_from([*KINDS, "other"]),
    st.none() | st.integers(-500, 500).map(lambda n: n / 4),
    st.none() | st.sampled_from(["one", "two"]),
    st.integers(0, 1),
    st.none() | st.integers(1000, 1001),
)
rows_of = st.lists(st.tuples(st.sampled_from("wxyz"), st.integers(998, 1026)), max_size=12)


def oracle(m: Measure, row: Row, facts: list[Fact]) -> Any:
    """One measure of one row, by looking at each fact."""
    key, as_of = row

    def seen(days: int, least: int = 0) -> list[Fact]:
        return [
            f
            for f in facts
            if f.key == key
            and f.known <= as_of
            and (f.until is None or as_of < f.until)
            and as_of - f.happened >= least
            and (not days or as_of - f.happened <= days)
            and (not m.kinds or f.kind in m.kinds)
        ]

    def order(fact: Fact) -> tuple[Any, ...]:
        number = (*KINDS, "other").index(fact.kind) if fact.kind else 0
        # Kinds that no measure names are of no order among themselves; NULLs come last.
        value = math.inf if fact.value is None else fact.value
        return fact.happened, fact.known, (number + 1) % 4, value

    own = sorted(seen(m.days), key=order)
    valued = [f for f in own if not m.value or f.value is not None]
    values = [f.value for f in valued if f.value is not None]
    if m.how == "count":
        return len(valued)
    if m.how == "sum":
        return sum(values)
    if m.how == "change":
        before = [f for f in seen(2 * m.days + 1, m.days + 1) if not m.value or f.value is not None]
        if m.value:
            return sum(values) - sum(f.value or 0 for f in before)
        return len(valued) - len(before)
    if m.how == "since":
        return as_of - own[-1].happened if own else None
    if m.how in ("last", "text"):
        return (own[-1].value if m.how == "last" else own[-1].word) if own else None
    if not values:
        return None
    if m.how == "first":
        return values[0]
    if m.how == "mean":
        return sum(values) / len(values)
    if m.how == "spread":
        return float(np.std(values))
    if m.how == "slope":
        days = [f.happened for f in valued]
        if len(set(days)) < 2:
            return None
        return float(np.polyfit(np.array(days) - 1000, values, 1)[0] * 30)
    return min(values) if m.how == "min" else max(values)


def wire(rows: list[Row], facts: list[Fact]) -> pa.RecordBatch:
    """Rows and facts as they come to a worker."""
    numbers = {kind: number for number, kind in enumerate(sorted(KINDS), 1)}
    table = [
        {"key": key, "_source": -1, "_own": {"key": key, "number": n, "as_of": as_of}}
        for n, (key, as_of) in enumerate(rows)
    ] + [
        {"key": f.key, "_source": 0, "_happened": f.happened, "_known": f.known,
         "_until": f.until, "_identity": f.identity, "_order": f.order,
         "_kind": numbers.get(f.kind, 0), "_values": [f.value], "_texts": [f.word]}
        for f in facts
        if f.until is None or f.known < f.until
    ]  # fmt: skip
    schema = pa.schema(
        {"key": pa.string(), "_source": pa.int32(),
         "_own": pa.struct({"key": pa.string(), "number": pa.int32(), "as_of": pa.date32()}),
         **dict.fromkeys(("_happened", "_known", "_until", "_order", "_kind"), pa.int32()),
         "_identity": pa.int64(),
         "_values": pa.list_(pa.float64()), "_texts": pa.list_(pa.string())}
    )  # fmt: skip
    return pa.RecordBatch.from_pylist(table, schema=schema)


def measured(
    rows: list[Row], facts: list[Fact], measures: list[Measure] = MEASURES, **changes: bool
) -> list[dict[str, Any]]:
    source = Source(("value",), ("word",), tuple(sorted(KINDS)), tuple(measures), **changes)
    batches = point_in_time.measured(
        [wire(rows, facts)], "key", ["key", "number", "as_of"], [source]
    )
    found = [row for batch in batches for row in batch.to_pylist()]
    return sorted(found, key=lambda row: row["number"])


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float | int):
        return found is not None and math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return found == expected


@given(rows_of, st.lists(facts_of, max_size=25))
def test_every_measure_is_what_plain_python_finds(rows: list[Row], facts: list[Fact]) -> None:
    found = measured(rows, facts)
    assert [row["key"] for row in found] == [key for key, _ in rows]
    for row, got in zip(rows, found, strict=True):
        for m in MEASURES:
            if m.how in ("first", "last", "text") and tied(row, facts):
                continue
            assert same(got[m.name], oracle(m, row, facts)), (m, row, got[m.name])


def tied(row: Row, facts: list[Fact]) -> bool:
    """Facts that only differ in what no order looks at."""
    places = [(f.happened, f.known, f.kind, f.value) for f in facts if f.key == row[0]]
    return len(set(places)) < len(places)


FEW = [m for m in MEASURES if not m.kinds and m.how in ("count", "sum", "last", "since", "max")]


@given(rows_of, st.lists(facts_of, max_size=25), st.booleans())
def test_the_newest_that_is_known_takes_the_place_of_the_others(
    rows: list[Row], facts: list[Fact], together: bool
) -> None:
    found = measured(rows, facts, FEW, versioned=True, together=together)
    for row, got in zip(rows, found, strict=True):
        known = [f for f in facts if f.known <= row[1] and f.key == row[0]]
        known = [f for f in known if f.until is None or f.known < f.until]
        newest: dict[int, list[Fact]] = {}
        for f in sorted(known, key=version):
            others = newest.get(f.identity, [])
            beside = together and bool(others) and others[0].order == f.order
            newest[f.identity] = [*others, f] if beside else [f]
        own = [f for each in newest.values() for f in each]
        if len({version(f) for f in known}) < len(known):
            continue  # two that nothing tells apart
        for m in FEW:
            if m.how == "last" and tied(row, own):
                continue
            assert same(got[m.name], oracle(m, row, own)), (m, row, got[m.name])


def test_people_of_one_month_end_together_when_a_newer_month_is_known() -> None:
    def told(order: int, known: int) -> Fact:
        return Fact("x", order, known, None, "a", 1.0, None, 0, order)

    # The second person of month 1000 is told of late, month 1001 is known from day 1006 on.
    facts = [told(1000, 1002), told(1000, 1004), told(1001, 1006)]
    count = [Measure("count", "f", "count")]
    days = [("x", day) for day in (1001, 1002, 1004, 1005, 1006)]
    found = measured(days, facts, count, versioned=True, together=True)
    assert [row["count"] for row in found] == [0, 1, 2, 2, 1]
    alone = measured(days, facts, count, versioned=True)
    assert [row["count"] for row in alone] == [0, 1, 1, 1, 1]


def version(fact: Fact) -> tuple[Any, ...]:
    number = ((*KINDS, "other").index(fact.kind) + 1) % 4
    value = math.inf if fact.value is None else fact.value
    return fact.identity, -math.inf if fact.order is None else fact.order, fact.known, number, value


@given(rows_of, st.lists(facts_of, max_size=25))
def test_a_total_is_the_sum_of_what_is_known_of_a_day(rows: list[Row], facts: list[Fact]) -> None:
    found = measured(rows, facts, FEW, total=True)
    for row, got in zip(rows, found, strict=True):
        known = [f for f in facts if f.key == row[0] and f.known <= row[1]]
        known = [f for f in known if f.until is None or row[1] < f.until]
        days = {f.happened for f in known}
        sums = [
            Fact(row[0], d, 0, None, "", sum(f.value or 0 for f in known if f.happened == d), None)
            for d in days
        ]
        for m in FEW:
            assert same(got[m.name], oracle(replace(m, kinds=()), row, sums)), (m, row, got[m.name])


@given(rows_of, st.lists(facts_of, max_size=25), st.integers(998, 1026), st.randoms())
def test_what_is_known_later_changes_nothing(
    rows: list[Row], facts: list[Fact], cut: int, draw: Any
) -> None:
    """To the last bit: what others' facts add to a running total is taken off whole."""
    rows = [row for row in rows if row[1] <= cut]
    changed = [
        Fact(f.key, draw.randint(1000, 1030), f.known, f.until, draw.choice(KINDS),
             draw.uniform(-1e6, 1e6), "late")
        if f.known > cut
        else f
        for f in facts
    ]  # fmt: skip
    kept = [f for f in changed if f.known <= cut or draw.random() < 0.7]
    assert measured(rows, facts) == measured(rows, kept)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=30))
def test_each_place_has_the_greatest_of_the_intervals_that_cover_it(
    intervals: list[tuple[int, int]],
) -> None:
    begins = np.array([begin for begin, _ in intervals], dtype=np.int64)
    ends = np.array([begin + length for begin, length in intervals], dtype=np.int64)
    found = covered_maxima(begins, ends, np.arange(len(begins)), 90)
    for place in range(90):
        over = [n for n in range(len(begins)) if begins[n] <= place < ends[n]]
        assert found[place] == max(over, default=-1)


def test_a_partition_is_worked_on_in_chunks_of_whole_keys(monkeypatch: Any) -> None:
    draw = np.random.default_rng(3)
    keys = [str(n) for n in range(60)]
    rows = [(str(draw.choice(keys)), int(draw.integers(1000, 1040))) for _ in range(400)]
    facts = [
        Fact(str(draw.choice(keys)), int(draw.integers(1000, 1030)), int(draw.integers(1000, 1030)),
             None, str(draw.choice(KINDS)), float(draw.integers(0, 10**9)), None)
        for _ in range(900)
    ]  # fmt: skip
    whole = measured(rows, facts)
    monkeypatch.setattr(point_in_time, "CHUNK", 7)
    assert measured(rows, facts) == whole
