"""Candidate pairs against all pairs, made and judged one by one in plain Python."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.linkage import blocking
from concord.linkage.blobs import Packed, opened
from concord.linkage.blocking import Matching, Placement, find_pairs, placements
from concord.linkage.keys import Refused, Rule, keys_of, largest_block
from concord.linkage.model import Model
from concord.linkage.person_index import load_person_index
from concord.linkage.standardise import SEPARATOR
from concord.linkage.values import Hashes, Part, Records
from tests.conftest import ROOT

COLUMNS = ("a", "b", "c", "name", "some")
RULES = (
    Rule("ab", ("a", "b")),
    Rule("first", ("first(b, 1)",), ("c",)),
    Rule("each", ("each(some)",), ("a",)),
    Rule("c", ("c",)),
    Rule("each_a", ("each(some)", "a")),
)
MODEL = Model.model_validate(
    {
        "blocking": [{"name": r.name, "on": r.on, "refine": r.refine} for r in RULES],
        "comparisons": {
            "name": {
                "column": "name",
                "levels": {
                    "same": {"test": "same", "m": 0.9, "u": 0.1},
                    "differ": {"m": 0.1, "u": 0.9},
                },
            }
        },
    }
)
PLACED = (
    Placement(("a",), (0, 4)),
    Placement(("first(b, 1)",), (1,)),
    Placement(("each(some)",), (2,)),
    Placement(("c",), (3,)),
)

value = st.sampled_from([None, "x", "xy", "y"])
people = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from("abcde"),
            "a": value,
            "b": value,
            "c": value,
            "name": st.sampled_from(["ANN", "OLIVER", None]),
            "some": st.lists(st.sampled_from("uvwx"), max_size=4).map(SEPARATOR.join) | st.none(),
        }
    ),
    max_size=8,
)
Row = dict[str, Any]


def table(rows: list[Row]) -> pa.Table:
    return pa.table({n: pa.array([r[n] for r in rows], pa.string()) for n in ("id", *COLUMNS)})


def of(rows: list[Row], parts: tuple[str, ...]) -> Hashes:
    return keys_of(Records(table(rows)).exploded(parts), parts)[0]


def plain(row: Row, parts: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Keys in plain Python: none when a part is missing, one for each value of a list."""
    values: list[list[str]] = []
    for part in map(Part.of, parts):
        text = row[part.column]
        if part.transform == "each":
            values.append([one for one in (text or "").split(SEPARATOR) if one])
        else:
            values.append([] if text is None else [text[:1] if part.transform else text])
    return set(product(*values))


@given(
    people,
    st.sets(st.sampled_from(["x", "y"])),
    st.sets(st.sampled_from("uv")),
    st.booleans(),
    st.integers(1, 3),
    st.booleans(),
)
def test_pairs_are_those_of_the_first_rule_that_both_have(
    rows: list[Row],
    large: set[str],
    large_lists: set[str],
    still_too_large: bool,
    shares: int,
    compared: bool,
) -> None:
    over = {"first": large, "each": large_lists}
    still = {"first": ("x", "x"), "each": ("u", "x")} if still_too_large else {}

    def effective(row: Row, rule: Rule) -> set[tuple[str, ...]]:
        found = plain(row, rule.on)
        hit = {key for key in found if key[0] in over.get(rule.name, ())}
        narrow = {key for key in plain(row, rule.parts) if key[:1] in hit}
        return found - hit | narrow - {still.get(rule.name)}

    wanted, counted = set(), Counter[tuple[int, int | None]]()
    same, differ = MODEL.pattern(name="same"), MODEL.pattern(name="differ")
    for one, other in combinations(rows, 2):
        both = [(effective(one, rule), effective(other, rule)) for rule in RULES]
        rules = [n for n, (a, b) in enumerate(both) if a & b]
        if one["id"] == other["id"] or not rules:
            continue
        known = one["name"] and other["name"]
        seen = (same if one["name"] == other["name"] else differ) if known else 0
        counted[rules[0], seen if compared else None] += 1
        if seen != differ:
            wanted.add((*sorted((one["id"], other["id"])), seen, rules[0]))

    # Keys over the budget, as counting would have found them.
    none = {**dict.fromkeys(COLUMNS), "id": "z"}
    over_first = [{**none, "b": value} for value in sorted(large)]
    over_each = [{**none, "some": value} for value in sorted(large_lists)]
    refused = Refused(
        keys={1: np.sort(of(over_first, RULES[1].on)), 2: np.sort(of(over_each, RULES[2].on))},
        refined={
            1: of([{**none, "b": "x", "c": "x"}], RULES[1].parts),
            2: of([{**none, "some": "u", "a": "x"}], RULES[2].parts),
        }
        if still
        else {},
    )
    matching = Matching(
        RULES, MODEL.compiled if compared else (), MODEL.weights, 0.0, 0.0, refused=refused
    )
    pairs, counts = set(), Counter[tuple[int, int | None]]()
    # As in Spark: blobs of some rows each, sent to where their keys meet.
    blobs = [Packed.of(table(some)).blob() for some in (rows[:3], rows[3:]) if some]
    arrived: dict[int, list[Any]] = {}
    for blob in blobs:
        for batch in blocking._sent(opened([blob]), matching, PLACED, shares):
            arrived.setdefault(batch["target"][0].as_py(), []).append(batch["blob"][0].as_buffer())
    for target, some in arrived.items():
        here = (target % shares, shares)
        told = find_pairs(opened(some), matching, PLACED[target // shares], here)
        for rule, counted_here, found in told:
            for row in counted_here.to_pylist() if counted_here is not None else []:
                counts[rule, row["pattern"]] += row["pairs"]
            for row in found.to_pylist() if found is not None else []:
                pairs.add((row["left"], row["right"], row["pattern"], rule))
    assert {key: n for key, n in counts.items() if n} == counted
    assert pairs == (wanted if compared else set())


@pytest.mark.parametrize(
    ("one", "other", "met"),
    [
        ("GARCIA LOPEZ", "LOPEZ GARCIA", True),
        ("GARCIA LOPEZ", "LOPEZ", True),
        ("DE LA CRUZ", "CRUZ", True),
        ("DE LA CRUZ", "DE LA ROSA", False),
    ],
)
def test_two_surnames_meet_by_either_word(one: str, other: str, met: bool) -> None:
    model = load_person_index(ROOT / "conf" / "person_index.yaml")
    rows = {name: pa.nulls(2, pa.string()) for name in ("id", *model.columns)}
    rows |= {"id": ["a", "b"], "family": [one, other], "birth": ["1980-05-06"] * 2}
    matching = Matching(model.rules, (), model.weights, 0.0, 0.0)
    every = Placement(("birth",), tuple(range(len(model.rules))))
    made = {
        model.rules[rule].name
        for rule, counts, _ in find_pairs(pa.table(rows), matching, every, (0, 1))
        if counts and counts["pairs"][0].as_py()
    }
    assert made == ({"family_birth"} if met else set())


def test_the_largest_block_is_within_the_budget() -> None:
    for budget in (1, 2, 3, 6, 5000):
        n = largest_block(budget)
        assert n * (n - 1) // 2 <= budget < (n + 1) * n // 2


def test_pairs_come_in_chunks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "CHUNK", 10)
    rows = np.arange(50)
    keys = np.repeat(np.array([1, 2], dtype=np.uint64), [40, 10])
    sizes, pairs = [], set()
    for left, right in blocking.blocks(rows, keys):
        sizes.append(len(left))
        pairs |= set(zip(left.tolist(), right.tolist(), strict=True))
    assert len(pairs) == sum(sizes) == 40 * 39 // 2 + 10 * 9 // 2
    assert max(sizes) <= 20


def test_rules_with_a_part_in_common_travel_together() -> None:
    rules = [Rule("1", ("ssn",)), Rule("2", ("born", "given")), Rule("3", ("born", "family"))]
    alone = {"ssn": 0.0001, "born": 0.0001, "given": 0.01, "family": 0.01}
    assert placements(rules, alone, 8) == [
        Placement(("born",), (1, 2)),
        Placement(("ssn",), (0,)),
    ]
    # Who agrees on a name agrees on its beginning.
    letters = [Rule("4", ("first(given, 2)", "year(born)")), Rule("5", ("given", "zip"))]
    assert placements(letters, {"first(given, 2)": 0.05}, 4) == [
        Placement(("first(given, 2)",), (0, 1))
    ]
    # By each value of a list for one rule alone, and where there is another part by that.
    lists = [Rule("6", ("each(phones)",)), Rule("7", ("each(phones)", "born")), rules[1]]
    assert placements(lists, alone, 8) == [
        Placement(("born",), (1, 2)),
        Placement(("each(phones)",), (0,)),
    ]
    # A third of the records with one birth date would go to one partition.
    assert placements(rules, {**alone, "born": 0.3}, 8) == [
        Placement(("ssn",), (0,)),
        Placement(("born", "given"), (1,)),
        Placement(("born", "family"), (2,)),
    ]


def test_a_blob_of_no_rows_is_opened() -> None:
    some = Packed.of(table([{**dict.fromkeys(COLUMNS), "id": "a", "b": "x"}]))
    none = some.blob(np.zeros(0, dtype=np.int64))
    assert opened([none]).num_rows == 0
    assert opened([none, some.blob()]).num_rows == 1
    matching = Matching(RULES, (), MODEL.weights, 0.0, 0.0)
    assert not list(blocking._sent(opened([none]), matching, PLACED, 2))
