"""Clusters against one merge at a time in plain Python, and measures against the truth."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations, product
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.contracts.odcs import load_contracts
from concord.ingest import tables as ingest_tables
from concord.lake.registry import Table
from concord.linkage import inputs, job
from concord.linkage.clusters import (
    ABSENT,
    CLIP,
    MORE_AGAINST,
    STEP,
    Clusters,
    Pairs,
    clusters,
    contradictions,
)
from concord.linkage.index import Index
from concord.linkage.person_index import load_person_index
from concord.linkage.quality import b_cubed, pairwise
from tests.conftest import ROOT

Edge = tuple[int, int, float]
Pair = tuple[int, int]
RECORDS = 10


@dataclass(frozen=True)
class Case:
    """What there is to be clustered, of RECORDS records."""

    edges: Sequence[Edge]
    must: Sequence[Pair] = ()
    cannot: Sequence[Pair] = ()
    alone: Sequence[int] = field(default=(-1,) * RECORDS)
    threshold: float = 1.0
    limit: int = 100

    def found(self, **more: object) -> Clusters:
        return group(
            RECORDS,
            self.edges,
            threshold=self.threshold,
            limit=self.limit,
            must=pairs(self.must),
            cannot=pairs(self.cannot),
            alone=np.array(self.alone),
            **more,
        )


def group(
    records: int,
    edges: Sequence[Edge],
    *,
    limit: int = 100,
    threshold: float = 1,
    **more: object,
) -> Clusters:
    left, right = pairs([e[:2] for e in edges])
    weight = np.array([e[2] for e in edges], dtype=float)
    return clusters(records, left, right, weight, threshold=threshold, limit=limit, **more)


def pairs(of: Sequence[Pair]) -> Pairs:
    ends = np.array(of, dtype=np.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def family(*records: int, weight: float = 15.0) -> list[Edge]:
    return [(a, b, weight) for a, b in combinations(records, 2)]


def numbered(sets: Iterable[Collection[int]]) -> list[int]:
    of = {record: min(members) for members in sets for record in members}
    first = sorted(set(of.values()))
    return [first.index(of[record]) for record in sorted(of)]


def joined(records: Iterable[int], links: Iterable[Pair]) -> list[set[int]]:
    """Connected components, one link at a time."""
    of = {record: {record} for record in records}
    for one, other in links:
        if of[one] is not of[other]:
            of[one] |= of[other]
            of.update(dict.fromkeys(of[other], of[one]))
    return [members for record, members in of.items() if record == min(members)]


def slowly(case: Case) -> tuple[list[int], int, int]:
    """Cluster numbers, components parted and whole, by the definition."""
    weight: dict[Pair, float] = {}
    for one, other, bits in case.edges:
        pair = (min(one, other), max(one, other))
        weight[pair] = max(bits, weight.get(pair, -math.inf))
    links = [pair for pair, bits in weight.items() if bits >= case.threshold]
    found: list[set[int]] = []
    parted = whole = 0
    for component in joined(range(RECORDS), [*links, *case.must]):
        parts = broken(component, weight, case, case.threshold)
        parted += len(parts) > 1
        whole += sum(len(part) > case.limit for part in parts)
        for part in parts:
            found += merged(part, weight, case)
    return numbered(found), parted, whole


def broken(
    part: set[int], weight: Mapping[Pair, float], case: Case, level: float
) -> list[set[int]]:
    must = [pair for pair in case.must if part.issuperset(pair)]
    inside = {p: w for p, w in weight.items() if part.issuperset(p) and w >= level}
    parts = joined(part, must)
    between = {p: w for p, w in inside.items() if not any(s.issuperset(p) for s in parts)}
    heaviest = max(between.values(), default=-math.inf)
    if len(part) <= case.limit or heaviest <= level:
        return [part]
    level = min(level + STEP, heaviest)
    parts = joined(part, [*must, *(p for p, w in inside.items() if w >= level)])
    return [small for large in parts for small in broken(large, weight, case, level)]


def merged(part: set[int], weight: Mapping[Pair, float], case: Case) -> list[set[int]]:
    """Average linkage inside a part, the best pair of clusters first, in exact arithmetic."""
    found = joined(part, [pair for pair in case.must if part.issuperset(pair)])
    while True:
        means = {}
        for one, other in combinations(range(len(found)), 2):
            between = [(min(p), max(p)) for p in product(found[one], found[other])]
            if any(apart(pair, case) for pair in between):
                continue
            bits = [min(CLIP, weight.get(pair, ABSENT)) for pair in between]
            clipped = [Fraction(max(-CLIP - MORE_AGAINST, each)) for each in bits]
            means[one, other] = sum(clipped) / len(clipped)
        best = max(means, key=means.__getitem__, default=None)
        if best is None or means[best] < case.threshold:
            return found
        found[best[0]] |= found.pop(best[1])


def apart(pair: Pair, case: Case) -> bool:
    one, other = (case.alone[record] for record in pair)
    return one == other != -1 or pair in case.cannot or pair[::-1] in case.cannot


@st.composite
def cases(draw: st.DrawFn, *, ties: bool = False, limits: bool = False) -> Case:
    """`ties`: few different weights. Otherwise no two are alike, but for what never links."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from((0.2, 0.4, 0.7, 1.0)))
    edges = []
    for one, other in combinations(range(RECORDS), 2):
        if chance.random() < share:
            bits = chance.choice((-math.inf, -30, -5, 1, 5, 15, 30)) if ties else 0
            if not ties:
                bits = chance.uniform(-25, 19) if chance.random() < 0.95 else -math.inf
                bits = round(bits * 2**20) / 2**20 if math.isfinite(bits) else bits
            edges.append((one, other, float(bits)))
    few = st.lists(st.sampled_from(list(combinations(range(RECORDS), 2))), max_size=2)
    must = draw(few)
    cannot = [p for p in draw(few) if p not in contradictions(pairs(must), pairs([p]))]
    alone = tuple(chance.choice((-1, -1, 0, 1, 7)) for _ in range(RECORDS))
    return Case(
        edges,
        must,
        cannot,
        alone if draw(st.booleans()) else (-1,) * RECORDS,
        draw(st.sampled_from((-3.0, 0.0, 1.0, 5.0))),
        draw(st.integers(2, 6)) if limits else 100,
    )


@given(cases())
def test_clusters_are_of_average_linkage(case: Case) -> None:
    found = case.found()
    assert (found.of.tolist(), found.parted, found.whole) == slowly(case)


@given(cases(limits=True))
def test_what_is_above_the_limit_is_parted_by_weight_first(case: Case) -> None:
    found = case.found()
    assert (found.of.tolist(), found.parted, found.whole) == slowly(case)


@given(cases(limits=True), cases(), st.sets(st.integers(0, RECORDS - 1), max_size=3))
def test_what_was_not_touched_is_as_it_was(case: Case, other: Case, changed: set[int]) -> None:
    def concerned(edges: Sequence[Edge]) -> list[Edge]:
        return [edge for edge in edges if changed & {*edge[:2]}]

    lost, won = concerned(case.edges), concerned(other.edges)
    now = replace(case, edges=[*(edge for edge in case.edges if edge not in lost), *won])
    touched = np.zeros(RECORDS, dtype=bool)
    touched[[*changed, *(end for edge in (*lost, *won) for end in edge[:2])]] = True
    before, after = case.found(), now.found()
    again = now.found(known=before.of + 100, touched=touched)
    assert (again.of.tolist(), again.parted, again.whole) == (
        after.of.tolist(),
        after.parted,
        after.whole,
    )


def test_components_without_a_touched_record_are_not_looked_at() -> None:
    edges = [*family(0, 1), *family(2, 3)]
    known, touched = np.array([5, 6, 7, 8]), np.array([True, False, False, False])
    assert group(4, edges, known=known, touched=touched).of.tolist() == [0, 0, 1, 2]


@given(cases(ties=True, limits=True), st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_and_of_their_ends_does_not_matter(
    case: Case, chance: random.Random
) -> None:
    edges = [(b, a, w) if chance.random() < 0.5 else (a, b, w) for a, b, w in case.edges]
    chance.shuffle(edges)
    again = replace(case, edges=edges, must=[p[::-1] for p in case.must[::-1]])
    assert again.found().of.tolist() == case.found().of.tolist()


@given(cases(limits=True), st.permutations(range(RECORDS)))
def test_without_ties_the_numbers_of_the_records_do_not_matter(case: Case, name: list[int]) -> None:
    again = replace(
        case,
        edges=[(name[a], name[b], w) for a, b, w in case.edges],
        must=[(name[a], name[b]) for a, b in case.must],
        cannot=[(name[a], name[b]) for a, b in case.cannot],
        alone=[case.alone[name.index(record)] for record in range(RECORDS)],
    )
    here, there = case.found().of, again.found().of
    same = [{a for a in range(RECORDS) if here[a] == here[b]} for b in range(RECORDS)]
    for record, members in enumerate(same):
        others = {name.index(a) for a in np.flatnonzero(there == there[name[record]]).tolist()}
        assert others == members


@given(cases(ties=True, limits=True), st.sampled_from((-20.0, -5.0, 0.0, 1.0, 6.0)))
def test_loose_links_are_of_the_threshold_at_least(case: Case, loose: float) -> None:
    case = replace(case, must=(), cannot=(), alone=(-1,) * RECORDS)
    want = case.found() if loose <= case.threshold else None
    found = group(RECORDS, case.edges, threshold=case.threshold, limit=case.limit, loose=loose)
    if want is not None:
        assert found.of.tolist() == want.of.tolist()
        assert (found.parted, found.whole) == (want.parted, want.whole)
    parts = joined(range(RECORDS), [e[:2] for e in case.edges if e[2] >= loose])
    assert all(any({a, b} <= part for part in parts) for a, b in together(found))


def together(found: Clusters) -> list[Pair]:
    every = combinations(range(len(found.of)), 2)
    return [(a, b) for a, b in every if found.of[a] == found.of[b]]


@given(cases(ties=True))
def test_constraints_hold_whatever_the_ties(case: Case) -> None:
    of = case.found().of
    node = {
        record: number for number, s in enumerate(joined(range(RECORDS), case.must)) for record in s
    }
    for one, other in combinations(range(RECORDS), 2):
        if node[one] == node[other]:
            assert of[one] == of[other]
        elif apart((one, other), case):
            assert of[one] != of[other]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_one_strong_false_pair_does_not_join_two_families(size: int) -> None:
    one, other = range(size), range(size, 2 * size)
    edges = [*family(*one, weight=20), *family(*other, weight=20), (0, size, 19.5)]
    assert joined(range(2 * size), [e[:2] for e in edges]) == [{*one, *other}]
    assert group(2 * size, edges, threshold=0).of.tolist() == [0] * size + [1] * size


def test_a_missing_pair_does_not_part_a_person() -> None:
    edges = [e for e in family(0, 1, 2, 3) if e[:2] != (0, 3)]
    assert group(4, edges).of.tolist() == [0, 0, 0, 0]


def test_twins_are_apart_and_each_keeps_what_is_theirs() -> None:
    # Each record of one twin against each of the other is ruled out; a poor record, 6, might be
    # either's and is likelier the first's. As components they are all one.
    edges = [*family(0, 1, 2), *family(3, 4, 5)]
    edges += [(a, b, -math.inf) for a in (0, 1, 2) for b in (3, 4, 5)]
    edges += [(a, 6, 6.0) for a in (0, 1, 2)] + [(a, 6, 4.0) for a in (3, 4, 5)]
    assert group(7, edges).of.tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_what_the_model_rules_out_weighs_and_no_more() -> None:
    edges = [e for e in family(0, 1, 2, 3, 4, weight=20) if e[:2] != (0, 4)]
    assert group(5, [*edges, (0, 4, -math.inf)]).number == 1


def test_no_pair_says_more_than_the_clip() -> None:
    # Unclipped, the mean of 60 and three absent ones would do, and of 18 and -60 it would not.
    assert group(5, [*family(0, 1, 2, 3, weight=20), (3, 4, 60.0)]).number == 2
    assert group(3, [(0, 1, 20.0), (1, 2, 18.0), (0, 2, -60.0)], threshold=-2).number == 1
    # Twins, and a newborn without a name who may be either: what parts them is the stronger.
    assert group(3, [(0, 1, -math.inf), (0, 2, 60.0), (1, 2, 60.0)]).number == 2


def test_a_giant_breaks_at_its_weakest_links() -> None:
    edges = [*family(0, 1, 2, weight=15), *family(3, 4, 5, weight=15)]
    edges += [(a, b, 5.0) for a in (0, 1, 2) for b in (3, 4, 5)]
    assert group(6, edges).number == 1
    found = group(6, edges, limit=3)
    assert found.of.tolist() == [0, 0, 0, 1, 1, 1]
    assert (found.parted, found.whole) == (1, 0)


def test_a_giant_of_equal_links_is_told_and_not_truncated() -> None:
    found = group(5, family(0, 1, 2, 3, 4), limit=3)
    assert found.of.tolist() == [0, 0, 0, 0, 0]
    assert (found.parted, found.whole) == (0, 1)


def test_of_a_pair_that_is_told_twice_the_heavier_counts() -> None:
    twice = [(0, 1, -15.0), (1, 0, 15.0), (1, 2, 15.0), (2, 1, -15.0)]
    assert group(3, twice).of.tolist() == [0, 0, 0]


def test_a_link_between_records_that_must_does_not_part_a_giant() -> None:
    edges = [(0, 1, 40.0), (1, 2, 15.0), (2, 3, 15.0)]
    found = group(4, edges, limit=2, must=pairs([(0, 1)]))
    assert (found.parted, found.whole) == (0, 1)


def test_records_that_must_are_together_beyond_the_limit() -> None:
    found = group(6, [(0, 5, 15.0)], limit=3, must=pairs([(n, n + 1) for n in range(4)]))
    assert found.of.tolist() == [0, 0, 0, 0, 0, 1]
    assert (found.parted, found.whole) == (0, 1)


EVERY = np.arange(49_999)


@pytest.mark.parametrize(
    ("links", "largest"),
    [
        # Of four in a row, or around one, the mean is below even odds.
        pytest.param((EVERY, EVERY + 1), 3, id="chain"),
        pytest.param((0 * EVERY, EVERY + 1), 3, id="star"),
        pytest.param(np.triu_indices(1_500, 1), 1_500, id="clique"),
    ],
)
def test_a_large_giant_of_equal_links_takes_no_time(links: Pairs, largest: int) -> None:
    # Merge by merge it would take minutes, with a matrix 20 GB.
    records = int(links[1].max()) + 1
    weight = np.full(len(links[0]), 15.0)
    found = clusters(records, *links, weight, threshold=1, limit=100)
    assert found.whole == 1
    assert np.bincount(found.of).max() == largest


def test_a_steward_outranks_the_rule_of_one_record_per_person() -> None:
    edges = family(0, 1, 2)
    alone = np.array([4, 4, 4])
    assert group(3, edges, alone=alone).of.tolist() == [0, 1, 2]
    assert group(3, edges, alone=alone, must=pairs([(0, 2)])).of.tolist() == [0, 1, 0]


def test_contradictions_are_refused_by_number() -> None:
    must = pairs([(1, 2), (2, 3)])
    with pytest.raises(ValueError, match=r"\[\(3, 1\)\]"):
        group(6, [], must=must, cannot=pairs([(0, 1), (3, 1), (4, 5)]))


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_is_a_number(weight: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        group(2, [(0, 1, weight)])


@pytest.mark.parametrize("wrong", [{"threshold": 27.0}, {"absent": 1.0}, {"absent": -30.0}])
def test_bounds_that_would_join_everything_or_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="threshold"):
        group(2, [(0, 1, 15.0)], **wrong)


def test_no_records_and_no_pairs() -> None:
    assert group(0, []).number == 0
    assert group(3, []).of.tolist() == [0, 1, 2]


labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(labels)
def test_precision_and_recall_count_pairs(rows: list[tuple[int, int]]) -> None:
    found, truth = [f for f, _ in rows], [t for _, t in rows]
    pairs = list(combinations(range(len(rows)), 2))
    said = {p for p in pairs if found[p[0]] == found[p[1]]}
    true = {p for p in pairs if truth[p[0]] == truth[p[1]]}
    got = pairwise(found, truth)
    assert got.precision == pytest.approx(len(said & true) / len(said) if said else 1.0)
    assert got.recall == pytest.approx(len(said & true) / len(true) if true else 1.0)


@given(labels)
def test_b_cubed_averages_over_records(rows: list[tuple[int, int]]) -> None:
    precisions, recalls = [], []
    for f, t in rows:
        both = sum(1 for g, s in rows if g == f and s == t)
        precisions.append(both / sum(1 for g, _ in rows if g == f))
        recalls.append(both / sum(1 for _, s in rows if s == t))
    got = b_cubed([f for f, _ in rows], [t for _, t in rows])
    assert got.precision == pytest.approx(sum(precisions) / len(rows))
    assert got.recall == pytest.approx(sum(recalls) / len(rows))


def test_a_role_that_has_a_person_once_keeps_its_records_apart() -> None:
    contracts = load_contracts(ROOT / "conf" / "feeds")
    feed = contracts["dph_wic"]
    (table,) = [t for t in feed.tables if t.name == "participants"]
    assert inputs.alone(feed) == ()
    once = tuple(s.model_copy(update={"one_record_per_person": True}) for s in table.subjects)
    changed = feed.model_copy(update={"tables": (table.model_copy(update={"subjects": once}),)})
    assert inputs.alone(changed) == ("participant",)

    table = ingest_tables.identifiers(feed)
    assert table is not None
    found = [
        inputs.Input("dua_wages", table, 1),
        inputs.Input("dph_wic", table, 1, (), inputs.alone(changed)),
        inputs.Input("eec_childcare", table, 1, (), ("child", "parent")),
    ]
    said = [("dph_wic", "participant"), ("dua_wages", "worker"), ("dph_wic", "participant")]
    said += [("eec_childcare", "parent"), ("dph_wic", "parent")]
    origin = pa.table({"feed": [f for f, _ in said], "role": [r for _, r in said]})
    assert inputs.sources(found, origin).tolist() == [0, -1, 0, 2, -1]
    assert inputs.sources([], origin).tolist() == [-1] * 5


def test_the_job_keeps_them_apart() -> None:
    model = load_person_index(ROOT / "conf" / "person_index.yaml")
    rows = [("a", "wic"), ("b", "wic"), ("c", "snap")]
    origin = pa.table(
        {"record_id": [r for r, _ in rows], "feed": [f for _, f in rows], "role": ["client"] * 3}
    )
    found = pa.table({"left": [0, 0, 1], "right": [1, 2, 2], "weight": [60.0] * 3})
    nobody = pa.nulls(3, pa.string())
    sees = [inputs.Input("wic", cast(Table, None), 1, (), roles) for roles in ((), ("client",))]
    numbers = [
        job._clusters(
            cast(Index, SimpleNamespace(model=model, found=(one,))), origin, found, [], nobody, None
        ).number
        for one in sees
    ]
    assert numbers == [1, 2]
