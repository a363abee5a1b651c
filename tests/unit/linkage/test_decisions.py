"""Decisions in force, contradictions by name, and what clusters must honour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.errors import UsageError
from concord.linkage.decisions import (
    VERDICTS,
    Decision,
    Integers,
    Maker,
    Proposal,
    Verdict,
    constraints,
    contradictions,
    groups,
    in_force,
    judge,
)
from concord.linkage.review_commands import asked, read_file, write_file
from tests.unit.linkage import oracle

START = datetime(2025, 1, 1, 9, tzinfo=UTC)
EVERYONE = "abcdefgh"


def decision(text: str, number: int = 0) -> Decision:
    """`a = b` is a must-link, `a ! b` a cannot-link, `a ? b` takes it back."""
    left, sign, right = text.split()
    verdict: Verdict = {"=": "must_link", "!": "cannot_link", "?": "withdrawn"}[sign]  # type: ignore[assignment]
    at = START + timedelta(days=number)
    return Decision(f"d{number}", left, right, verdict, "sam", "so they say", at, "r")


def decisions(*texts: str) -> list[Decision]:
    return [decision(text, number) for number, text in enumerate(texts)]


def proposal(text: str, place: str = "here") -> Proposal:
    asked = decision(text)
    return Proposal(asked.pair, asked.verdict, asked.reason, place)


def judged(
    asked: Iterable[str],
    there: Sequence[Decision] = (),
    *,
    known: str = EVERYONE,
    at: datetime = START,
) -> tuple[list[Decision], list[str]]:
    proposals = [proposal(text, f"line {n}") for n, text in enumerate(asked, start=2)]
    return judge(proposals, there, known=known, maker=Maker("ann", "run", at, 7))


def said(taken: Iterable[Decision]) -> list[tuple[str, str, str]]:
    return [(*d.pair, d.verdict) for d in taken]


def pairs(columns: tuple[Integers, Integers], records: str) -> set[str]:
    left, right = columns
    return {records[a] + records[b] for a, b in zip(left.tolist(), right.tolist(), strict=True)}


def test_the_newest_decision_of_a_pair_counts_and_a_withdrawal_takes_it_back() -> None:
    there = decisions("a = b", "c = d", "a ! b", "c ? d", "e ! f")
    assert said(in_force(reversed(there))) == [
        ("a", "b", "cannot_link"),
        ("e", "f", "cannot_link"),
    ]
    assert said(in_force([*there, decision("c = d", 9)]))[1] == ("c", "d", "must_link")


def test_must_links_hold_through_chains() -> None:
    there = decisions("b = c", "a = b", "d = e", "e ! f")
    assert groups(there) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "f"}


def test_a_contradiction_names_the_shortest_chain_and_its_decisions() -> None:
    there = decisions("a = c", "c = d", "b = d", "a = e", "b = e", "a ! b", "c ! f")
    (found,) = contradictions(there)
    assert found.chain == ("a", "e", "b")
    assert [d.decision_id for d in (found.cannot, *found.musts)] == ["d5", "d3", "d4"]


def test_a_decision_that_contradicts_says_what_to_withdraw() -> None:
    there = decisions("a = c", "b = c", "d = e")
    new, (mistake,) = judged(["d ! f", "a ! b"], there)
    assert mistake == (
        "line 3: a cannot_link of a and b contradicts the must-links that join them: a - c - b. "
        "Withdraw one of: the cannot_link of a and b asked for here (line 3); "
        "decision d0 (must_link of a and c, by sam on 2025-01-01); "
        "decision d1 (must_link of b and c, by sam on 2025-01-02)"
    )
    _, (mistake,) = judged(["c = d"], decisions("a = c", "d = e", "a ! e"))
    assert mistake.startswith("line 2: a cannot_link of a and e contradicts the must-links")
    assert "a - c - d - e" in mistake and "decision d2 (cannot_link of a and e" in mistake


def test_a_batch_is_judged_as_a_whole() -> None:
    there = decisions("a = b", "b = c")
    assert judged(["a ! c"], there)[1]
    new, mistakes = judged(["a ! c", "b ? c"], there)
    assert not mistakes and said(new) == [("a", "c", "cannot_link"), ("b", "c", "withdrawn")]
    # The same pair, the other way round: no contradiction, but a change of mind.
    assert judged(["a ! b"], there)[1] == []
    _, (mistake,) = judged(["a = d", "d = c", "a ! c"])
    assert mistake.startswith("line 4, line 2, line 3: ")


def test_all_mistakes_are_told() -> None:
    _, mistakes = judged(["a = x", "a ! x", "y ! z", "a ! b"], decisions("a = c", "b = c"))
    assert [mistake.split(";")[0] for mistake in mistakes[:4]] == [
        "line 2: the index has no record x",
        "line 3: line 2 decides on a and x too",
        "line 4: the index has no record y",
        "line 4: the index has no record z",
    ]
    assert mistakes[4].startswith("line 5: a cannot_link of a and b contradicts")
    assert len(mistakes) == 5


def test_what_holds_already_makes_no_decision() -> None:
    there = decisions("a = x", "b ! c", "c = d", "c ? d")
    new, mistakes = judged(["a = x", "b ! c", "c ? d", "e ? f"], there)
    assert (new, mistakes) == ([], [])
    # A record that left can be let go.
    new, mistakes = judged(["a ? x"], there)
    assert said(new) == [("a", "x", "withdrawn")] and not mistakes


def test_a_decision_is_never_older_than_the_last_one() -> None:
    there = decisions("a = b", "c = d")
    (new,), _ = judged(["a ! b"], there, at=START - timedelta(days=5))
    assert said(in_force([*there, new])) == [("a", "b", "cannot_link"), ("c", "d", "must_link")]
    (new,), _ = judged(["a ! b"], there, at=START + timedelta(days=5))
    assert new.decided_at == START + timedelta(days=5)
    assert (new.actor, new.run_id, new.reason) == ("ann", "run", "so they say")


@pytest.mark.parametrize(
    ("there", "records", "must", "cannot"),
    [
        (["a = b", "b ! c"], "abc", {"ab"}, {"bc"}),
        (["a = b", "b ! c"], "cba", {"ba"}, {"cb"}),
        # a record that is not there drops out, what follows through it stays
        (["a = x", "b = x"], "abc", {"ab"}, set()),
        (["a = x", "b = x", "c ! x"], "abc", {"ab"}, {"ac"}),
        (["a = x", "b ! y", "x ! y"], "ab", set(), set()),
        (["a = x", "b = y", "x ! y"], "ab", set(), {"ab"}),
        (["x = y", "a ! x"], "ab", set(), set()),
        ([], "ab", set(), set()),
        (["a = b"], "", set(), set()),
    ],
)
def test_what_clusters_must_honour(
    there: list[str], records: str, must: set[str], cannot: set[str]
) -> None:
    bound = constraints(pa.array(list(records), pa.string()), decisions(*there))
    assert pairs(bound.must, records) == must
    assert pairs(bound.cannot, records) == cannot


askings = st.tuples(st.sampled_from(EVERYONE), st.sampled_from(EVERYONE), st.sampled_from(VERDICTS))


@given(st.lists(askings, max_size=20), st.sets(st.sampled_from(EVERYONE)))
def test_whatever_stewards_ask_what_is_in_force_has_a_meaning(
    course: list[tuple[str, str, Verdict]], present: set[str]
) -> None:
    model, every = oracle.Index(), list[Decision]()
    for one, other, verdict in course:
        if one == other:
            continue
        left, right = sorted((one, other))
        maker = Maker("sam", "r", START, len(every))
        new, mistakes = judge(
            [Proposal((left, right), verdict, "so", "here")], every, known=EVERYONE, maker=maker
        )
        try:
            model.decide(left, right, verdict)
            assert not mistakes
            every += new
        except oracle.Contradictory:
            assert mistakes
    taken = in_force(every)
    assert contradictions(taken) == []
    assert len({d.decision_id for d in every}) == len(every)

    # To join what must be, and nothing else, honours all; to join a forbidden pair does not.
    records = "".join(sorted(present))
    bound = constraints(pa.array(list(records), pa.string()), taken)
    joined = {record: {record} for record in records}
    for left, right in pairs(bound.must, records):
        whole = joined[left] | joined[right]
        joined.update(dict.fromkeys(whole, whole))
    parts = {min(part): sorted(part) for part in joined.values()}
    assert model.honours(parts.values())
    for left, right in pairs(bound.cannot, records):
        assert not model.honours([sorted(joined[left] | joined[right])])
    forbidden = {
        frozenset((min(joined[a]), min(joined[b]))) for a, b in pairs(bound.cannot, records)
    }
    for one in parts:
        for other in parts:
            if one < other and frozenset((one, other)) not in forbidden:
                assert model.honours([parts[one] + parts[other]])


def stated(file: Path) -> list[str]:
    return list(asked(read_file(file)).mistakes)


def test_every_wrong_row_of_a_file_is_told_by_its_line_and_not_by_its_values(
    tmp_path: Path,
) -> None:
    a, b = "a" * 32, "b" * 32
    file = tmp_path / "bad.csv"
    rows = [
        f"{a},{b},must-link,same mother,",
        f"{a},Olivia Nakamura,must-link,same mother,",
        f"{b},{a},cannot-link,,",
        f"{a},{a},maybe,same mother,",
        f"{b},{a},withdraw,same mother,ann,more",
        f"{b}",
    ]
    file.write_text("\n".join(["left_record_id,right_record_id,verdict,reason,decided_by", *rows]))
    assert stated(file) == [
        "line 3: right_record_id is not a record id, 32 hex digits",
        "line 4: the reason is missing",
        "line 5: left and right are one record; name two",
        "line 5: the verdict is none of must-link, cannot-link, withdraw",
        "line 6: there are fields besides left_record_id, right_record_id, verdict, reason, "
        "decided_by: 1",
        "line 7: right_record_id is not a record id, 32 hex digits",
        "line 7: the verdict is none of must-link, cannot-link, withdraw",
        "line 7: the reason is missing",
    ]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_what_is_exported_can_be_imported(tmp_path: Path, ending: str) -> None:
    a, b = "a" * 32, "b" * 32
    reason = 'twins, "both"\nsay so; =1+1'
    taken = [Decision("d", a, b, "cannot_link", "sam", reason, START, "r")]
    file = tmp_path / f"out.{ending}"
    write_file(file, taken)
    assert file.stat().st_mode & 0o077 == 0
    (proposal,) = asked(read_file(file)).proposals
    assert (proposal.pair, proposal.verdict) == ((a, b), "cannot_link")
    assert proposal.reason == f"{reason} (decided by sam)"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "", "must end with .csv or .json"),
        ("a.csv", "left,right\n", "line 1: the columns must be left_record_id, right_record_id"),
        ("a.csv", 'left_record_id,right_record_id,verdict,reason\na,"b', "near line 1: not CSV"),
        ("a.json", "[\n{]", "line 2: not JSON"),
        ("a.json", "{}", "not a list of objects"),
        ("none.csv", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(
    tmp_path: Path, name: str, text: str | None, told: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=told):
        read_file(path)
