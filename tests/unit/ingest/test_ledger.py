"""A feed's present, made from its log of states, and what that means for the next delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concord.contracts.model import Contract
from concord.ingest.ledger import (
    AlreadyLoaded,
    AlreadyRejected,
    Decision,
    Load,
    Reject,
    Withdraw,
    decide,
    fold,
)
from concord.ingest.manifest import Manifest, ManifestFile
from tests import feeds

AT = datetime(2025, 5, 3, tzinfo=UTC)
Content = tuple[str, str]
MAY: Content = ("clients", "2025-05")
JUNE: Content = ("clients", "2025-06")


def contract(policy: str = "full_refresh") -> Contract:
    return feeds.contract(feeds.people_table(policy))


def manifest(sequence: int, *contents: Content, withdraws: int | None = None) -> Manifest:
    files = [
        ManifestFile(name=f"{n}.csv", table=t, period=p, sha256="0" * 64, bytes=1, rows=1)
        for n, (t, p) in enumerate(contents)
    ]
    return Manifest(
        feed="tiny",
        sequence=sequence,
        kind="delivery" if withdraws is None else "withdrawal",
        withdraws=withdraws,
        created_at=AT,
        files=tuple(files),
    )


def row(
    event: int,
    delivery: str,
    status: str,
    *contents: Content,
    sequence: int | None = None,
    agency_sequence: int | None = None,
    kind: str = "delivery",
    **changes: Any,
) -> dict[str, Any]:
    """One row of ops/deliveries, as Spark gives it."""
    return {
        "delivery_id": delivery,
        "event": event,
        "feed": "tiny",
        "status": status,
        "kind": kind,
        "sequence": sequence,
        "agency_sequence": event if agency_sequence is None else agency_sequence,
        "folder": f"tiny/{delivery}",
        "signature": f"signature of {delivery}",
        "created_at": AT,
        "files": [{"table": table, "period": period} for table, period in contents],
        "reasons": None,
        "versions": [{"table": "curated/tiny_clients", "version": event}],
        "contract_version": "1.0.0",
        "run_id": "run-1",
        **changes,
    }


def loaded(event: int, delivery: str, *contents: Content, number: int | None = None) -> dict:
    return row(event, delivery, "loaded", *contents, sequence=event, agency_sequence=number)


def decided(
    rows: Sequence[Mapping[str, Any]],
    delivery: str,
    asked: Manifest,
    policy: str = "full_refresh",
) -> Decision:
    return decide(fold(rows), delivery, asked, contract(policy))


def test_a_feed_without_history_takes_a_first_delivery() -> None:
    state = fold([])
    assert (state.last_sequence, state.events, state.unfinished) == (0, 0, None)
    assert decided([], "a", manifest(1, MAY)) == Load({})


def test_the_same_content_again_is_a_duplicate() -> None:
    decision = decided([loaded(1, "a", MAY)], "a", manifest(1, MAY))
    assert isinstance(decision, AlreadyLoaded)
    assert decision.known.folder == "tiny/a"


def test_the_same_content_again_after_its_withdrawal_is_refused_and_told_what_to_do() -> None:
    rows = [loaded(1, "a", MAY), row(2, "a", "withdrawn", MAY, sequence=2, agency_sequence=1)]
    decision = decided(rows, "a", manifest(1, MAY))
    assert isinstance(decision, Reject)
    assert "higher sequence" in decision.reasons[0]


def test_the_same_content_that_was_rejected_stays_rejected() -> None:
    rows = [row(1, "a", "rejected", MAY, reasons=["no such column"])]
    decision = decided(rows, "a", manifest(1, MAY))
    assert isinstance(decision, AlreadyRejected)
    assert decision.known.reasons == ("no such column",)


def test_a_rejected_delivery_leaves_its_sequence_to_a_corrected_one() -> None:
    rows = [row(1, "a", "rejected", MAY, agency_sequence=7)]
    assert decided(rows, "b", manifest(7, MAY)) == Load({})


def test_other_content_under_a_used_sequence_is_refused_and_told_the_first_folder() -> None:
    decision = decided([loaded(1, "a", MAY, number=7)], "b", manifest(7, JUNE))
    assert isinstance(decision, Reject)
    assert "sequence 7" in decision.reasons[0]
    assert "tiny/a" in decision.reasons[0]


def test_a_sequence_stays_used_after_its_delivery_was_withdrawn() -> None:
    rows = [
        loaded(1, "a", MAY, number=7),
        row(2, "a", "withdrawn", MAY, sequence=2, agency_sequence=7),
    ]
    assert isinstance(decided(rows, "b", manifest(7, MAY)), Reject)


def test_withdrawing_a_delivery_does_not_bring_back_the_one_it_superseded() -> None:
    rows = [
        loaded(1, "a", MAY, number=1),
        loaded(2, "b", MAY, number=2),
        row(3, "b", "withdrawn", MAY, sequence=3, agency_sequence=2),
    ]
    assert fold(rows).in_force == {}
    assert decided(rows, "c", manifest(3, MAY)) == Load({})


def test_a_withdrawn_delivery_that_was_refused_again_keeps_its_sequence() -> None:
    rows = [
        loaded(1, "a", MAY, number=7),
        row(2, "a", "withdrawn", MAY, sequence=2, agency_sequence=7),
        row(3, "a", "rejected", MAY, agency_sequence=7),
    ]
    assert isinstance(decided(rows, "b", manifest(7, MAY)), Reject)


def test_a_later_delivery_of_a_period_supersedes_the_earlier_by_name() -> None:
    rows = [loaded(1, "a", MAY, number=3), loaded(2, "b", JUNE, number=4)]
    decision = decided(rows, "c", manifest(5, MAY, JUNE))
    assert isinstance(decision, Load)
    names = {content: known.delivery_id for content, known in decision.superseded.items()}
    assert names == {MAY: "a", JUNE: "b"}


def test_an_earlier_delivery_that_comes_after_a_later_one_is_out_of_date() -> None:
    decision = decided([loaded(1, "a", MAY, number=9)], "b", manifest(8, MAY))
    assert isinstance(decision, Reject)
    assert "sequence 9" in decision.reasons[0]
    assert "out of date" in decision.reasons[0]


def test_an_earlier_delivery_of_a_period_that_nothing_holds_may_come_late() -> None:
    assert decided([loaded(1, "a", MAY, number=9)], "b", manifest(8, JUNE)) == Load({})


def test_each_period_that_refuses_a_delivery_gives_its_reason() -> None:
    rows = [loaded(1, "a", MAY, JUNE, number=9)]
    decision = decided(rows, "b", manifest(8, MAY, JUNE))
    assert isinstance(decision, Reject)
    assert [reason.split(" rests")[0] for reason in decision.reasons] == [
        "clients 2025-05",
        "clients 2025-06",
    ]


def test_an_append_only_period_is_never_loaded_twice() -> None:
    decision = decided([loaded(1, "a", MAY)], "b", manifest(2, MAY), "append_only")
    assert isinstance(decision, Reject)
    assert "append_only" in decision.reasons[0]
    assert decided([loaded(1, "a", MAY)], "b", manifest(2, JUNE), "append_only") == Load({})


def test_an_append_only_period_is_free_again_after_its_withdrawal() -> None:
    rows = [loaded(1, "a", MAY), row(2, "a", "withdrawn", MAY, sequence=2, agency_sequence=1)]
    assert decided(rows, "b", manifest(3, MAY), "append_only") == Load({})


def test_a_loaded_delivery_can_be_withdrawn() -> None:
    decision = decided([loaded(1, "a", MAY, number=7)], "w", manifest(8, withdraws=7))
    assert isinstance(decision, Withdraw)
    assert decision.known.delivery_id == "a"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "never loaded"),
        ([row(1, "a", "rejected", MAY, agency_sequence=7)], "never loaded"),
        ([loaded(1, "b", MAY, number=6)], "never loaded"),
        (
            [
                loaded(1, "a", MAY, number=7),
                row(2, "a", "withdrawn", MAY, sequence=2, agency_sequence=7),
            ],
            "withdrawn before",
        ),
        (
            [row(1, "w", "loaded", sequence=1, agency_sequence=7, kind="withdrawal")],
            "never loaded",
        ),
    ],
)
def test_only_a_delivery_that_is_loaded_can_be_withdrawn(rows: list, words: str) -> None:
    decision = decided(rows, "x", manifest(8, withdraws=7))
    assert isinstance(decision, Reject)
    assert "sequence 7" in decision.reasons[0]
    assert words in decision.reasons[0]


def test_an_interrupted_delivery_is_unfinished_until_it_is_loaded() -> None:
    begun = row(1, "a", "loading", MAY, sequence=1, agency_sequence=1)
    state = fold([begun])
    assert state.unfinished is not None
    assert (state.unfinished.delivery_id, state.in_force) == ("a", {})
    assert isinstance(decide(state, "a", manifest(1, MAY), contract()), Load)

    finished = fold([begun, {**begun, "event": 2, "status": "loaded"}])
    assert finished.unfinished is None
    assert finished.in_force == {MAY: "a"}


def test_a_delivery_processed_again_gets_back_no_period_that_a_later_one_holds() -> None:
    rows = [
        loaded(1, "a", MAY, JUNE, number=1),
        loaded(2, "b", MAY, number=2),
        loaded(3, "a", MAY, JUNE, number=1),
    ]
    assert fold(rows).in_force == {MAY: "b", JUNE: "a"}


def test_a_duplicate_changes_nothing_but_makes_its_folder_known() -> None:
    first = loaded(1, "a", MAY)
    again = row(2, "a", "duplicate", MAY, agency_sequence=1, folder="tiny/copy", signature="s")
    state = fold([first, again])
    assert state.deliveries == fold([first]).deliveries
    assert state.signatures == {("tiny/a", "signature of a"), ("tiny/copy", "s")}
    assert state.events == 2


def test_a_snapshot_table_s_timeline_names_its_deliveries_in_force() -> None:
    rows = [loaded(1, "a", MAY, JUNE), loaded(2, "b", JUNE, ("other", "2025-07"))]
    assert fold(rows).timeline("clients") == {
        date(2025, 5, 1): ("a", 1),
        date(2025, 6, 1): ("b", 2),
    }


# --- the log as a whole --------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What comes in: a delivery of some periods, a copy of an earlier one, or a withdrawal."""

    kind: str
    contents: tuple[Content, ...]
    number: int
    target: int


steps = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["new", "new", "copy", "withdrawal", "crash"]),
        contents=st.lists(
            st.sampled_from([MAY, JUNE, ("other", "2025-05")]), min_size=1, unique=True
        ).map(tuple),
        number=st.integers(1, 12),
        target=st.integers(1, 12),
    ),
    max_size=14,
)

TWO_TABLES = feeds.contract(feeds.people_table(), feeds.people_table(name="other"))


def played(script: Sequence[Step]) -> list[dict[str, Any]]:
    """The log that a careful job writes: it decides by the log so far, and records what it did."""
    log: list[dict[str, Any]] = []
    sent: list[tuple[str, Manifest]] = []

    def record(delivery: str, status: str, asked: Manifest, **changes: Any) -> None:
        contents = asked.contents
        log.append(
            row(len(log) + 1, delivery, status, *contents, agency_sequence=asked.sequence)
            | {"kind": asked.kind, **changes}
        )

    for place, step in enumerate(script):
        if step.kind == "copy" and sent:
            delivery, asked = sent[step.target % len(sent)]
        else:
            withdraws = step.target if step.kind == "withdrawal" else None
            contents = () if withdraws else step.contents
            delivery, asked = f"d{place}", manifest(step.number, *contents, withdraws=withdraws)
            sent.append((delivery, asked))
        state = fold(log)
        following = state.last_sequence + 1
        match decide(state, delivery, asked, TWO_TABLES):
            case AlreadyLoaded() | AlreadyRejected():
                record(delivery, "duplicate", asked)
            case Reject(reasons):
                record(delivery, "rejected", asked, reasons=list(reasons))
            case Load():
                record(delivery, "loading", asked, sequence=following)
                record(delivery, "loaded", asked, sequence=following)
            case Withdraw(known):
                taken = next(m for d, m in sent if d == known.delivery_id)
                record(known.delivery_id, "withdrawn", taken, sequence=following)
                record(delivery, "loaded", asked, sequence=following)
    return log


@given(steps, st.randoms())
def test_the_order_in_which_the_log_is_read_does_not_matter(script: list, dice: Any) -> None:
    log = played(script)
    shuffled = list(log)
    dice.shuffle(shuffled)
    assert fold(shuffled) == fold(log)


@given(steps)
def test_one_more_row_changes_only_what_it_speaks_of(script: list) -> None:
    """So a prefix with the rest after it gives what the whole log gives."""
    log = played(script)
    for place, entry in enumerate(log):
        before, after = fold(log[:place]), fold(log[: place + 1])
        delivery = entry["delivery_id"]
        touched = {(file["table"], file["period"]) for file in entry["files"]}
        assert _without(before.deliveries, {delivery}) == _without(after.deliveries, {delivery})
        assert _without(before.in_force, touched) == _without(after.in_force, touched)
        if entry["status"] in {"loading", "rejected", "duplicate"}:
            assert before.in_force == after.in_force
        assert before.signatures <= after.signatures
        assert before.last_sequence <= after.last_sequence
        assert after.events == entry["event"]


def _without(whole: Mapping[Any, Any], keys: set) -> dict[Any, Any]:
    return {key: value for key, value in whole.items() if key not in keys}


@given(steps)
def test_each_period_in_force_rests_on_a_loaded_delivery_that_brought_it(script: list) -> None:
    state = fold(played(script))
    for content, holder in state.in_force.items():
        assert state.deliveries[holder].status == "loaded"
        assert content in state.deliveries[holder].contents


@given(steps)
def test_without_withdrawals_each_period_rests_on_its_highest_sequence(script: list) -> None:
    state = fold(played([step for step in script if step.kind != "withdrawal"]))
    brought: dict[Content, list[int]] = {}
    for known in state.deliveries.values():
        for content in known.contents if known.status == "loaded" else ():
            brought.setdefault(content, []).append(known.agency_sequence)
    assert set(state.in_force) == set(brought)
    for content, holder in state.in_force.items():
        assert state.deliveries[holder].agency_sequence == max(brought[content])


@given(steps)
def test_a_delivery_decided_twice_is_decided_the_same(script: list) -> None:
    """Whatever came, its copy is known: nothing is ever loaded twice."""
    log = played(script)
    state = fold(log)
    for known in state.deliveries.values():
        asked = manifest(known.agency_sequence, *known.contents) if known.contents else None
        if asked:
            decision = decide(state, known.delivery_id, asked, TWO_TABLES)
            expected = {
                "loaded": AlreadyLoaded,
                "rejected": AlreadyRejected,
                "withdrawn": Reject,
            }[known.status]
            assert isinstance(decision, expected)


@given(steps)
def test_no_agency_sequence_is_ever_loaded_twice(script: list) -> None:
    used = [
        known.agency_sequence
        for known in fold(played(script)).deliveries.values()
        if known.status in {"loaded", "withdrawn"}
    ]
    assert len(set(used)) == len(used)
