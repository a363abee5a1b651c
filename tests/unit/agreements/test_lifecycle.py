"""The life of an agreement: what can happen when, what a signature covers, what may be read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concord.agreements import lifecycle
from concord.agreements.canonical import canonical, digest
from concord.agreements.decision import Request, decide
from concord.agreements.dula import Dula
from concord.agreements.lifecycle import KINDS, Event, Kind, Version
from concord.agreements.register import Register, dula_owed, owed
from concord.agreements.signing import Signature, sign, verdict
from concord.errors import ConcordError, UsageError
from tests.agreed import document, dula, life, mou, register, signers, signing_key

DULA, MOU = dula(), mou()
START = datetime(2026, 2, 1, 12, tzinfo=UTC)
PARTIES = ("dta", "dua", "lab")


def event(kind: Kind, about: Dula = DULA, at: datetime = START, **more: str) -> Event:
    return Event(about.id, about.version, kind, "someone", at, digest(about), **more)


def requested(terms: Dula = DULA, at: datetime = START) -> Event:
    return event("requested", terms, at, terms=canonical(terms).decode())


def signed(party: str, terms: Dula = DULA, at: datetime = START, by: str = "") -> Event:
    key = signing_key(by or party)
    made = sign(key, terms.id, party=party, signer=party, digest=digest(terms), on=at.date())
    return event("signed", terms, at, party=party, signer=party, signature=made.value)


def whole(terms: Dula = DULA, at: datetime = START) -> list[Event]:
    return [
        requested(terms, at),
        event("approved", terms, at),
        *(signed(party, terms, at) for party in PARTIES),
    ]


def of(*events: Event, conf: Dula = DULA, others: tuple[Dula, ...] = ()) -> Register:
    known = {each.id: each for each in (conf, *others)}
    held = signers([*PARTIES, "office"])
    return Register({MOU.id: MOU}, known, [*life(MOU), *events], held)


def asked(on: date, agreement: str = DULA.id) -> Request:
    return Request(
        agreement=agreement,
        purpose="program-evaluation",
        use="study",
        columns={"help.forms": frozenset({"office"})},
        as_of=date(2026, 1, 31),
        actor="someone",
        roles=frozenset({"office"}),
    )


def why(known: Register, on: date = date(2026, 6, 1)) -> str:
    """The reasons of a refusal; empty when it is allowed."""
    return "; ".join(map(str, decide(asked(on), known, on).reasons))


def test_nothing_is_read_before_every_party_has_signed() -> None:
    events = whole()
    words = ["is a draft", "in_review", "not signed by dta, dua, lab", "not signed by dua, lab",
             "not signed by lab", ""]  # fmt: skip
    for number, expected in enumerate(words):
        said = why(of(*events[:number]))
        assert (expected in said) if expected else not said, (number, said)
        assert not said or "DULA-2026-0001 clause signatures" in said


def test_a_past_day_is_judged_by_what_had_happened_by_then() -> None:
    suspended = event("suspended", at=START + timedelta(days=30), reason="a breach")
    resumed = event("resumed", at=START + timedelta(days=60))
    known = of(*whole(), suspended, resumed)
    day = START.date()
    for after, allowed in (
        (-1, False),
        (0, True),
        (29, True),
        (30, False),
        (59, False),
        (60, True),
    ):
        on = day + timedelta(days=after)
        assert decide(asked(on), known, on).allowed is allowed, after
    assert "suspended since 2026-03-03" in why(known, day + timedelta(days=40))


def test_any_change_voids_approval_and_signatures() -> None:
    changed = dula(document(title="Another title"))
    known = of(*whole()[:4], requested(changed), conf=changed)
    assert "in_review" in why(known)
    with pytest.raises(UsageError, match="not what is under review"):
        known = of(requested(), event("approved"))
        lifecycle.after(known.versions(DULA.id)[1], signed("dta", changed), dula_owed(DULA))
    # A file that was changed after it was signed stops every job until it is put back.
    assert "not those that were signed" in why(of(*whole(), conf=changed))


def test_the_old_version_governs_until_the_new_one_is_signed() -> None:
    narrower = document(version=2)
    narrower["datasets"][0]["columns"] = narrower["datasets"][0]["columns"][:2]
    new = dula(narrower)
    later = START + timedelta(days=100)
    hands = [signed(p, new, later + timedelta(days=n)) for n, p in enumerate(PARTIES)]
    events = [*whole(), requested(new, later), event("approved", new, later), *hands]
    known = of(*events, conf=new)
    standing = known.standing(DULA.id, later.date())
    assert standing and (standing.version, standing.state) == (1, "amending")
    assert standing.terms == DULA and "version 2 is partially_signed" in standing.notice
    assert not why(known, later.date())
    ends = (later + timedelta(days=2)).date()
    standing = known.standing(DULA.id, ends)
    assert standing and standing.version == 2 and standing.terms == new
    assert "column office of help.forms is not agreed" in why(known, ends)
    states = {version: [spell.state for spell in spells]
              for version, spells in known.spells(DULA.id, date(2026, 12, 31)).items()}  # fmt: skip
    assert states == {1: ["active", "amending", "superseded"], 2: ["partially_signed", "active"]}


def test_the_end_comes_by_the_day_without_any_job() -> None:
    known = of(*whole())
    last = DULA.term.expires
    for on, state in (
        (date(2026, 2, 1), "active"),
        (last - timedelta(days=61), "active"),
        (last - timedelta(days=60), "expiring"),
        (last, "expiring"),
        (last + timedelta(days=1), "expired"),
    ):
        standing = known.standing(DULA.id, on)
        assert standing and standing.state == state
    assert "clause 8: expired on 2030-12-31; have it renewed" in why(known, date(2031, 1, 1))


def test_days_in_states_add_up() -> None:
    events = [
        requested(at=START),
        event("approved", at=START + timedelta(days=10)),
        *(signed(p, at=START + timedelta(days=20 + n)) for n, p in enumerate(PARTIES)),
    ]
    (spells,) = of(*events).spells(DULA.id, date(2026, 12, 31)).values()
    assert [(s.state, s.days) for s in spells][:3] == [
        ("in_review", 10), ("approved", 10), ("partially_signed", 2),
    ]  # fmt: skip
    assert sum(s.days for s in spells) == (date(2026, 12, 31) - START.date()).days


def test_an_unverifiable_signature_is_no_pass_and_no_accusation() -> None:
    known = of(*whole())
    held = dict(known.signers)
    without = {name: each for name, each in held.items() if name != "dua"}
    assert "signature of dua cannot be verified" in why(
        Register(known.mous, known.dulas, known.all_events, without)
    )
    revoked = {**held, "dua": held["dua"].model_copy(update={"revoked_on": START.date()})}
    assert "cannot be verified" in why(Register(known.mous, known.dulas, known.all_events, revoked))
    later = {**held, "dua": held["dua"].model_copy(update={"revoked_on": date(2026, 5, 1)})}
    assert not why(Register(known.mous, known.dulas, known.all_events, later))
    forged = [*whole()[:4], signed("lab", by="dta")]
    assert "not one of key 'lab'" in why(of(*forged))


@pytest.mark.parametrize("part", ["party", "signer", "digest", "value", "on", "agreement"])
def test_a_signature_can_be_moved_to_nothing_else(part: str) -> None:
    held = signers(PARTIES)
    made = sign(
        signing_key("dta"), DULA.id, party="dta", signer="dta", digest=digest(DULA), on=START.date()
    )
    assert verdict(DULA.id, made, held) == "valid"
    changes: dict[str, Any] = {
        "party": "dua", "signer": "dua", "digest": "0" * 64, "value": made.value[:-8] + "AAAAAAA=",
        "on": date(2026, 2, 2),
    }  # fmt: skip
    moved: Signature = replace(made, **{part: changes[part]}) if part in changes else made
    agreement = "DULA-2026-0009" if part == "agreement" else DULA.id
    assert verdict(agreement, moved, held) != "valid"


def test_a_legal_hold_keeps_everything() -> None:
    held = [*whole(), event("terminated", reason="over"), event("hold_placed", reason="a case")]
    version = of(*held).versions(DULA.id)[1]
    with pytest.raises(UsageError, match="under legal hold"):
        lifecycle.after(version, event("destruction_ordered"), {})
    lifted = lifecycle.after(version, event("hold_lifted"), {})
    due = lifecycle.after(lifted, event("destruction_ordered"), {})
    assert due.state == "destruction_due"
    assert lifecycle.after(due, event("destruction_certified"), {}).state == "destruction_certified"


def test_what_one_agency_adds_to_the_memorandum_voids_nobody_else_s_signature() -> None:
    first, second = MOU.contributions
    narrower = second.model_copy(update={"purposes": ("program-evaluation",)})
    new = mou(version=2, contributions=(first, narrower))
    events = life(MOU)
    base, whole_digest = (new.id, 2), digest(new)
    later = START
    text = canonical(new).decode()
    events += [
        Event(*base, "requested", "t", later, whole_digest, terms=text),
        Event(*base, "approved", "t", later, whole_digest),
    ]
    known = Register({new.id: new}, {}, events, signers(["dta", "dua", "lab", "office"]))
    for agency in ("dta", "dua"):
        held = known.held(new.id, agency, START.date())
        assert held and held.mou == MOU and not held.problem, "the old one governs"
    made = sign(signing_key("office"), new.id, party="office", signer="office",
                digest=whole_digest, on=later.date())  # fmt: skip
    events.append(Event(*base, "signed", "t", later, whole_digest, party="office",
                        signer="office", signature=made.value))  # fmt: skip
    known = Register({new.id: new}, {}, events, known.signers)
    unchanged, changed = (known.held(new.id, agency, START.date()) for agency in ("dta", "dua"))
    assert unchanged and unchanged.mou == new, "its part is as it was signed"
    assert changed and changed.mou == MOU, "it has to sign its new clause first"


# --- a model of the life cycle -------------------------------------------------------------------

FLAGS = {"hold_placed", "hold_lifted", "disputed", "settled"}
happenings = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, "new_terms"]),
        st.sampled_from(PARTIES),
        st.integers(0, 40),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(happenings)
def test_no_sequence_of_events_reaches_a_state_that_reads_what_it_must_not(
    happened: list[tuple[str, str, int]],
) -> None:
    """A plain model beside the machine: data may be read on a day if and only if, by its end, all
    parties signed the present terms after their approval, and nothing ended or suspended it."""
    at, events = START, []
    terms, number = DULA, 0
    approved, suspended, over = "", False, False
    hands: set[str] = set()
    for kind, party, days in happened:
        at += timedelta(days=days)
        if kind == "new_terms":
            number += 1
            terms = dula(document(title=f"Terms {number}"))
            continue
        new = (
            requested(terms, at)
            if kind == "requested"
            else signed(party, terms, at)
            if kind == "signed"
            else event(cast(Kind, kind), terms, at)
        )
        known = of(*events, conf=terms)
        version = known.versions(DULA.id).get(1, Version(DULA.id, 1))
        try:
            # By the terms under review, as they are judged when they are added.
            lifecycle.after(version, new, owed(DULA.id, new.terms or version.terms))
        except UsageError:
            continue
        events.append(new)
        if kind == "requested":
            approved, hands = "", set()
        elif kind == "approved":
            approved = digest(terms)
        elif kind == "returned":
            approved = ""
        elif kind == "signed":
            hands.add(party)
        elif kind in {"suspended", "resumed"}:
            suspended = kind == "suspended"
        elif kind in {"terminated", "withdrawn", "destruction_ordered", "destruction_certified"}:
            over = True
    on = at.date()
    for day in (on, on + timedelta(days=10)):
        may = (
            bool(approved) and approved == digest(terms) and hands == set(PARTIES)
            and not suspended and not over and day <= DULA.term.expires
        )  # fmt: skip
        known = of(*events, conf=terms)
        assert decide(asked(day), known, day).allowed is may, [e.kind for e in events]


def test_events_that_cannot_be_are_found() -> None:
    with pytest.raises(ConcordError, match="cannot be"):
        of(event("approved")).versions(DULA.id)


def test_a_register_of_signed_agreements_allows() -> None:
    assert not why(register(MOU, DULA))


# --- several versions ----------------------------------------------------------------------------


def second(**changes: Any) -> Dula:
    return dula(document(version=2, **changes))


LATER = START + timedelta(days=100)


def test_what_ends_or_suspends_one_version_ends_or_suspends_the_agreement() -> None:
    term = {"clause": "8", "effective": "2027-01-01", "expires": "2032-01-01"}
    new = second(term=term)
    for kind, words in (("terminated", "was terminated"), ("suspended", "is suspended")):
        stopped = event(cast(Kind, kind), DULA, LATER)
        known = of(*whole(), *whole(new, START + timedelta(days=50)), stopped, conf=new)
        for on in (LATER.date(), date(2027, 6, 1)):
            assert words in why(known, on), (kind, on)
    known = of(*whole(), event("terminated", DULA, LATER), conf=new)
    with pytest.raises(UsageError, match="draft one of another number"):
        lifecycle.in_company(known.versions(DULA.id), requested(new, LATER))


def test_a_legal_hold_of_an_older_version_holds_the_agreement() -> None:
    new = second()
    known = of(*whole(), event("hold_placed"), *whole(new, LATER), conf=new)
    with pytest.raises(UsageError, match="version 1 is under legal hold"):
        lifecycle.in_company(known.versions(DULA.id), event("destruction_ordered", new, LATER))


def test_what_has_ended_is_told_whatever_the_file_says_by_then() -> None:
    last, after = DULA.term.expires, DULA.term.expires + timedelta(days=3)
    renewed = second(term={"clause": "8", "effective": "2026-01-01", "expires": "2035-12-31"})
    for known in (
        of(*whole()),
        of(*whole(), conf=renewed),
        of(*whole(), requested(renewed, LATER)),
    ):
        assert known.ended(DULA.id, last) is None
        over = known.ended(DULA.id, after)
        assert over is not None and over == (DULA, last)
    stopped = of(*whole(), event("terminated", DULA, LATER), conf=renewed)
    over = stopped.ended(DULA.id, LATER.date())
    assert over is not None and over[1] == LATER.date()
    # Signed for a day to come, or suspended: it has not ended.
    coming = second(term={"clause": "8", "effective": "2031-06-01", "expires": "2035-12-31"})
    assert of(*whole(), *whole(coming, LATER), conf=coming).ended(DULA.id, after) is None
    assert of(*whole(), event("suspended", DULA, LATER)).ended(DULA.id, after) is None


def mou_life(terms: Any, at: datetime, *parties: str) -> list[Event]:
    return life(terms, at, parties=parties)


def test_a_memorandum_that_not_all_have_signed_can_be_stopped_and_is_not_revived() -> None:
    held = signers(["dta", "dua", "lab", "office"])
    events = mou_life(MOU, START, "office", "dta")
    base = (MOU.id, MOU.version)

    def bound(made: list[Event], conf: Any = MOU, on: date = date(2026, 6, 1)) -> str | None:
        found = Register({conf.id: conf}, {}, made, held).held(MOU.id, "dta", on)
        assert found is not None
        return found.problem

    assert not bound(events) and "not signed by dua" in str(
        Register({MOU.id: MOU}, {}, events, held).held(MOU.id, "dua", date(2026, 6, 1))
    )
    stop = Event(*base, "suspended", "t", LATER, digest(MOU))
    on = LATER.date()
    assert "is suspended" in str(bound([*events, stop], on=on))
    back = Event(*base, "resumed", "t", LATER, digest(MOU))
    assert not bound([*events, stop, back], on=on)
    # The hub alone cannot bring back what was ended, by signatures of before.
    over = Event(*base, "terminated", "t", LATER, digest(MOU))
    new = mou(version=2)
    again = mou_life(new, LATER, "office")
    assert "is terminated" in str(bound([*events, over, *again], new, on))
    # One that begins later leaves the one that holds.
    coming = mou(version=2, effective="2027-01-01")
    made = [*events, *mou_life(coming, LATER, "office", "dta")]
    assert not bound(made, coming, on) and not bound(made, coming, date(2027, 2, 1))
