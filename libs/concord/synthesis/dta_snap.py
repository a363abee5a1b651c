"""`dta_snap`: SNAP cases, persons, issuances, check-ins, contacts and EBT card events by month."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import (
    MISSING,
    Block,
    FeedPart,
    Known,
    Rows,
    agency_numbers,
    empty_text,
)
from concord.synthesis.identity import DTA, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import pick
from concord.synthesis.people import BLOCK_PEOPLE, CHILD, HEAD, SPOUSE
from concord.synthesis.periods import MONTHS_AT_MOST, NEVER
from concord.synthesis.places import places
from concord.synthesis.snap import (
    AGENCY,
    AGENCY_DELAY,
    APPROVED,
    CERTIFICATION_MONTHS,
    CLOSURES,
    INELIGIBLE,
    INTERIM,
    LATE_ENGAGER,
    LIFE_CHANGE,
    PROCEDURAL,
    RECERTIFICATION,
    STANDARD_INTERIM,
    UNAWARE,
    WARM_UP,
)
from concord.synthesis.streams import chance, choose

# Monthly maximum by household size, in cents, and per further person (FNS, fiscal year 2017).
MAXIMUM = np.array([0, 194, 357, 511, 649, 771, 925, 1022, 1169]) * 100
PER_PERSON = 14_600
MINIMUM = 1_600
POVERTY = np.array([0, 1005, 1354, 1702, 2050, 2399, 2747, 3095, 3444]) * 100  # monthly, 2017
LANGUAGE_CODES = {
    "eng": "EN", "spa": "SP", "por": "PT", "hat": "HC", "cmn": "CM", "yue": "CC", "vie": "VT",
    "khm": "KH", "rus": "RU", "ara": "AR", "other": "OT",
}  # fmt: skip
RACE_CODES = {
    "white": "WH", "black": "BL", "asian": "AS", "native": "AI", "multiple": "MR", "other": "OT",
}  # fmt: skip
ETHNICITY_CODES = {"hispanic": "H", "not_hispanic": "N"}
CERTIFICATIONS = np.array(["12_month_interim", "12_month", "36_month_elder_disabled"], dtype=object)
KINDS = np.array(["interim_report", "recertification"], dtype=object)
DECISIONS = np.array(
    ["approved", "closed_not_completed", "closed_ineligible", "approved_late"], dtype=object
)
CHANNELS = ("online", "paper", "phone", "office")
CALLED = 0.03  # of check-ins: an outreach call before they fall due
CLOSED_ON_FILE = 3  # months that a closed case stays in the files


def tables(block: Block) -> FeedPart:
    """The six tables of all months of one block."""
    rng = block.rng("dta_snap")
    people, timeline, snap = block.people, block.timeline, block.snap
    cases, spells = snap.cases, snap.spells
    n, months = len(cases.home), timeline.months
    edges = timeline.month_edges(after=1)
    first, last = edges[:months], edges[1 : months + 1] - 1
    home_id = people.block * BLOCK_PEOPLE + cases.home
    case_id = agency_numbers(people.seed, "dta case", home_id, 9)

    # State by case and month: on (any day of the month), and the spell it belongs to.
    spell_of = np.full((n, months), -1)
    order = np.argsort(spells.opened, kind="stable")
    for m in range(months):
        here = order[(spells.opened[order] <= last[m]) & (spells.closed[order] >= first[m])]
        spell_of[spells.case[here], m] = here  # the last to open wins
    on = spell_of >= 0
    filed = on.copy()
    for back in range(1, CLOSED_ON_FILE + 1):
        filed[:, back:] |= on[:, :-back]
    # The last spell known in each month, for cases closed before it.
    known = spell_of.copy()
    for m in range(1, months):
        known[:, m] = np.where(known[:, m] >= 0, known[:, m], known[:, m - 1])

    money = _money(block, rng, on)
    size, amount, earned, unearned, shelter = money
    channel = pick(rng, CHANNELS, (0.38, 0.34, 0.2, 0.08), n)
    consent = chance(rng, 0.6, n)

    cases_rows = _cases(block, filed, known, money, case_id, first, last, channel, consent)
    persons_rows, known_persons = _persons(block, rng, filed, on, case_id, first, last)
    issuances = _issuances(block, rng, spell_of, amount, home_id, case_id, first, last)
    contacts, events = _signals(block, rng, on, case_id, amount, first, last)
    parts = {
        "cases": cases_rows,
        "persons": persons_rows,
        "issuances": issuances,
        "checkins": _checkin_rows(block, case_id, channel, last),
        "contacts": contacts,
        "ebt_events": events,
    }
    entity = Known("case", case_id, np.full(n, -1), np.zeros(n, dtype=np.int64))
    return FeedPart(parts, [*known_persons, entity])


def codes(values: np.ndarray, to: dict[str, str]) -> np.ndarray:
    """Each value's agency code, None for None."""
    out = empty_text(len(values))
    for value, code in to.items():
        out[values == value] = code
    return out


def days(values: np.ndarray, known_by: np.ndarray | int = NEVER - 1) -> np.ma.MaskedArray:
    """Dates as days, masked where they never come or are later than `known_by`."""
    return np.ma.masked_where((values >= NEVER) | (values > known_by), values)


def _money(block: Block, rng: np.random.Generator, on: np.ndarray) -> tuple[np.ndarray, ...]:
    """Cents by case and month: household size, benefit, earned and unearned income, shelter."""
    people, timeline, snap = block.people, block.timeline, block.snap
    n, months = on.shape
    size = np.zeros((n, months), dtype=np.int64)
    earned = np.zeros((n, months), dtype=np.int64)
    quarters = timeline.quarters
    for m in range(months):
        period = timeline.month(m)
        alive = people.alive(period.last)[snap.members]
        size[:, m] = np.bincount(snap.member_case[alive], minlength=n)
        q = next(
            (p.index for p in quarters if p.first <= period.first <= p.last), len(quarters) - 1
        )
        monthly = block.work.monthly_cents(q)[snap.members]
        monthly = np.where(alive, monthly, 0)
        earned[:, m] = np.bincount(snap.member_case, weights=monthly, minlength=n).astype(np.int64)
    size = np.maximum(size, 1)
    capped = np.minimum(size, 8)
    limit = POVERTY[capped] * 2
    # What a household reports stays under the limit of 200 % of poverty.
    told = rng.uniform(0.08, 0.55, (n, 1))
    reported = np.minimum(earned, (limit * told).astype(np.int64))
    pension = np.where(snap.cases.elder_disabled, rng.normal(720, 360, n), 0)
    support = np.where(chance(rng, 0.35, n), rng.normal(310, 150, n), 0)
    unearned = (np.maximum(pension + support, 0) * 100).astype(np.int64)[:, None] + 0 * size
    shelter = (np.maximum(rng.normal(930, 420, n), 0) * 100).astype(np.int64)[:, None] + 0 * size
    net = 0.8 * reported + unearned - 16_000
    net = np.maximum(net - np.clip(shelter - net / 2, 0, 65_000), 0)
    top = MAXIMUM[capped] + np.maximum(size - 8, 0) * PER_PERSON
    amount = np.clip(top - 0.3 * net, MINIMUM, None).astype(np.int64) // 100 * 100
    return size, amount, reported, unearned, shelter


def _cases(
    block: Block,
    filed: np.ndarray,
    known: np.ndarray,
    money: tuple[np.ndarray, ...],
    case_id: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    channel: np.ndarray,
    consent: np.ndarray,
) -> Rows:
    people, snap = block.people, block.snap
    cases, spells = snap.cases, snap.spells
    size, amount, earned, unearned, shelter = money
    month, case = np.nonzero(filed.T & (known.T >= 0))
    spell = known[case, month]
    closed = spells.closed[spell]
    active = closed > last[month]
    head = cases.head[case]
    zips = people.address_zip[people.address_on(head, last[month] - 20)]
    atlas = places()
    town = atlas.zip_town[zips]
    certification = cases.certification[case]
    start = snap.certified[case, month + WARM_UP]
    fallback = month - 5
    start = np.where(start < -500, fallback, start)
    length = CERTIFICATION_MONTHS[certification]
    edges = block.timeline.month_edges(before=WARM_UP + 40, after=40)
    origin = WARM_UP + 40
    certified_from = edges[start + origin]
    certified_to = edges[start + length + origin] - 1
    interim_due = edges[start + 6 + origin] - 1
    has_interim = (certification == STANDARD_INTERIM) & (interim_due >= first[month])
    next_due = np.where(has_interim, interim_due, certified_to)
    minors, small = _children(block, last)
    reason = np.array(CLOSURES, dtype=object)[np.maximum(spells.reason[spell], 0)]
    return Rows(
        month,
        {
            "case_id": case_id[case],
            "month": first[month],
            "status": np.where(active, "A", "C").astype(object),
            "office": np.char.mod("%03d", atlas.town_office[town]).astype(object),
            "municipality": atlas.town_name[town],
            "zip": atlas.zip_code[zips],
            "household_size": size[case, month],
            "children_under_18": minors[case, month],
            "children_under_6": small[case, month],
            "elder_or_disabled": cases.elder_disabled[case],
            "language": codes(
                np.array(list(LANGUAGE_CODES), dtype=object)[people.language[head]], LANGUAGE_CODES
            ),
            "certification_type": CERTIFICATIONS[certification],
            "certification_start": certified_from,
            "certification_end": certified_to,
            "next_checkin_kind": KINDS[np.where(has_interim, INTERIM, RECERTIFICATION)],
            "next_checkin_due": np.ma.masked_where(~active, next_due),
            "channel": channel[case],
            "text_consent": consent[case],
            "earned_income": earned[case, month],
            "unearned_income": unearned[case, month],
            "shelter_cost": shelter[case, month],
            "benefit_amount": np.where(active | (closed >= first[month]), amount[case, month], 0),
            "opened_on": spells.opened[spell],
            "closed_on": np.ma.masked_where(active, closed),
            "closure_reason": np.where(active, MISSING, reason),
        },
    )


def _children(block: Block, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Children under 18 and under 6 by case and month."""
    people, snap = block.people, block.snap
    n = len(snap.cases.home)
    minors = np.zeros((n, len(last)), dtype=np.int64)
    small = np.zeros_like(minors)
    for m, day in enumerate(last):
        age = people.age(day)[snap.members]
        here = people.alive(day)[snap.members] & (people.position[snap.members] == CHILD)
        minors[:, m] = np.bincount(snap.member_case[here & (age < 18)], minlength=n)
        small[:, m] = np.bincount(snap.member_case[here & (age < 6)], minlength=n)
    return minors, small


def _persons(
    block: Block,
    rng: np.random.Generator,
    filed: np.ndarray,
    on: np.ndarray,
    case_id: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> tuple[Rows, list[Known]]:
    people, snap, timeline = block.people, block.snap, block.timeline
    ever = np.any(on, axis=1).astype(bool)[snap.member_case]
    member, case_of = snap.members[ever], snap.member_case[ever]
    who = with_duplicates(member, DTA, people, rng)
    count = len(member)
    identity = mark_duplicates(observe(people, who, DTA, rng, timeline.start), count)
    ids = agency_numbers(people.seed, "dta client", people.pid[who], 9, "1")
    ids[count:] = agency_numbers(people.seed, "dta client", people.pid[who[count:]], 9, "2")
    # A person registered twice goes by the second number from some month on.
    second = np.arange(count)
    place = np.full(len(people), -1)
    place[member] = np.arange(count)
    twice = place[who[count:]]
    second[twice] = count + np.arange(len(twice))
    switch = np.full(count, timeline.months)
    switch[twice] = rng.integers(1, max(timeline.months, 2), len(twice))

    month, row = np.nonzero(on[case_of].T)
    alive = (people.birth[member[row]] <= last[month]) & (people.death[member[row]] > first[month])
    month, row = month[alive], row[alive]
    record = np.where(month >= switch[row], second[row], row)
    when = last[month]
    where = identity.address_on(record, when)
    role = people.position[identity.who[record]]
    relation = np.full(len(record), "other", dtype=object)
    relation[role == HEAD], relation[role == SPOUSE], relation[role == CHILD] = (
        "self",
        "spouse",
        "child",
    )
    rows = Rows(
        month,
        {
            "client_id": ids[record],
            "month": first[month],
            "case_id": case_id[case_of[row]],
            "relationship": relation,
            "last_name": identity.family_on(record, when),
            "first_name": identity.given[record],
            "middle_initial": identity.middle[record],
            "suffix": identity.suffix[record],
            "birth_date": identity.birth[record],
            "sex": identity.sex[record],
            "race_code": codes(identity.race, RACE_CODES)[record],
            "ethnicity_code": codes(identity.ethnicity, ETHNICITY_CODES)[record],
            "language": codes(identity.language, LANGUAGE_CODES)[record],
            "ssn": identity.ssn[record],
            "phone": identity.phone[record],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "disabled": people.disabled[identity.who[record]],
        },
    )
    used = np.zeros(len(who), dtype=bool)
    used[record] = True
    known = Known("client", ids[used], who[used], identity.errors[used])
    return rows, [known]


def _issuances(
    block: Block,
    rng: np.random.Generator,
    spell_of: np.ndarray,
    amount: np.ndarray,
    home_id: np.ndarray,
    case_id: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> Rows:
    """Regular ones on a day fixed by the case number; prorated ones in the month of opening."""
    spells = block.snap.spells
    month, case = np.nonzero(spell_of.T >= 0)
    spell = spell_of[case, month]
    opened = spells.opened[spell]
    opens = opened >= first[month]
    retro = opens & spells.retroactive[spell]
    prorated = opens & ~retro
    share = (last[month] - opened + 1) / (last[month] - first[month] + 1)
    cents = np.where(prorated, amount[case, month] * share, amount[case, month]).astype(np.int64)
    issued = np.where(opens, opened + 1, first[month] + case % 14)
    kind = np.full(len(month), "regular", dtype=object)
    kind[prorated], kind[retro] = "prorated", "retroactive"
    # A supplement is no month of its own.
    more = np.flatnonzero(chance(rng, 0.006, len(month)))
    month = np.concatenate([month, month[more]])
    case = np.concatenate([case, case[more]])
    kind = np.concatenate([kind, np.full(len(more), "supplemental", dtype=object)])
    cents = np.concatenate([np.maximum(cents, 100), rng.integers(10, 90, len(more)) * 100])
    issued = np.concatenate([issued, issued[more] + rng.integers(3, 12, len(more))])
    # A number of its own: one that holds the case's would carry it out of the vault.
    number = payment_numbers(block.people.seed, home_id[case], month, kind)
    return Rows(
        month,
        {
            "issuance_id": number,
            "month": first[month],
            "case_id": case_id[case],
            "benefit_month": first[month],
            "issued_on": np.minimum(issued, last[month]),
            "issuance_type": kind,
            "amount": cents,
        },
    )


def payment_numbers(
    seed: int, home_id: np.ndarray, month: np.ndarray, kind: np.ndarray
) -> np.ndarray:
    """One number for each home, month and kind of payment; homes below ten million."""
    kinds = ("regular", "prorated", "retroactive", "supplemental")
    of_kind = np.select([kind == name for name in kinds], range(len(kinds)))
    payment = (home_id * MONTHS_AT_MOST + month) * len(kinds) + of_kind
    return agency_numbers(seed, "dta issuance", payment, 11)


def _checkin_rows(block: Block, case_id: np.ndarray, channel: np.ndarray, last: np.ndarray) -> Rows:
    """Each check-in as known at the end of the months from two before it falls due, when it is
    scheduled and nothing is mailed yet, to two after it, when thirty days have passed."""
    checkins, timeline = block.snap.checkins, block.timeline
    edges = timeline.month_edges()
    parts = []
    for shift in range(-2, 3):
        month = checkins.month + shift
        parts.append((np.flatnonzero((month >= 0) & (month < timeline.months)), shift))
    index = np.concatenate([p for p, _ in parts])
    month = np.concatenate([checkins.month[p] + shift for p, shift in parts])
    order = np.lexsort((index, month))
    index, month = index[order], month[order]
    by = last[month]
    known = {
        name: days(getattr(checkins, name)[index], by)
        for name in ("mailed", "form", "interview", "proofs", "decision")
    }
    outcome = checkins.outcome[index]
    due = checkins.due[index]
    closes = (outcome != APPROVED) & (due <= by)
    decided = np.where(outcome == PROCEDURAL, due <= by, checkins.decision[index] <= by)
    decided |= (outcome == INELIGIBLE) & (due <= by)
    back = days(checkins.back[index], by)
    case = checkins.case[index]
    serial = agency_numbers(
        block.people.seed,
        "dta checkin",
        (block.people.block * BLOCK_PEOPLE + block.snap.cases.home[case]) * 600
        + checkins.month[index] + 100,
        12,
    )  # fmt: skip
    reason = np.select(
        [outcome == PROCEDURAL, outcome == AGENCY, outcome == INELIGIBLE],
        np.array(["checkin_not_completed", "agency_delay", "income_over_limit"], dtype=object),
        MISSING,
    )
    return Rows(
        month,
        {
            "checkin_id": serial,
            "report_month": edges[month],
            "case_id": case_id[case],
            "kind": KINDS[checkins.kind[index]],
            "due_on": due,
            "form_mailed_on": known["mailed"],
            "form_received_on": known["form"],
            "interview_on": known["interview"],
            "proofs_received_on": known["proofs"],
            "decision_on": known["decision"],
            "channel": np.where(known["form"].mask, MISSING, channel[case])
            if np.ma.is_masked(known["form"])
            else channel[case],
            "decision": np.where(decided, DECISIONS[outcome], MISSING),
            "closed_on": np.ma.masked_where(~closes, due),
            "closure_reason": np.where(closes, reason, MISSING),
            "reinstated_on": back,
        },
    )


def _signals(
    block: Block,
    rng: np.random.Generator,
    on: np.ndarray,
    case_id: np.ndarray,
    amount: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
) -> tuple[Rows, Rows]:
    """Contacts with the agency and card events; the latent behaviour shows in both, faintly."""
    checkins = block.snap.checkins
    n, months = on.shape
    behaviour, due, case = checkins.behaviour, checkins.due, checkins.case
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def contact(of: np.ndarray, when: np.ndarray, kind: str, topic: str) -> None:
        size = len(of)
        found.append((of, when, np.full(size, kind, object), np.full(size, topic, object)))

    # Everyone now and then.
    m, c = np.nonzero(on.T)
    hit = np.flatnonzero(chance(rng, 0.16, len(m)))
    day = first[m[hit]] + rng.integers(0, 28, len(hit))
    ways = ("call_in", "portal_login", "text_out", "office_visit")
    kind = pick(rng, ways, (0.4, 0.35, 0.18, 0.07), len(hit))
    topics = ("benefit_amount", "card", "change_report", "other")
    topic = pick(rng, topics, (0.3, 0.25, 0.2, 0.25), len(hit))
    found.append((c[hit], day, kind, topic))
    # Notices: everyone gets a text or letter at mailing; some letters come back.
    texted = np.flatnonzero(chance(rng, 0.4, len(case)))
    contact(case[texted], due[texted] - 21, "text_out", "checkin_reminder")
    moved = np.select([behaviour == LIFE_CHANGE, behaviour == UNAWARE], [0.16, 0.10], 0.03)
    returned = np.flatnonzero(chance(rng, moved, len(case)))
    contact(case[returned], checkins.mailed[returned] + rng.integers(8, 18, len(returned)),
            "returned_mail", "checkin")  # fmt: skip
    engaged = checkins.form < due + 1
    asks = np.flatnonzero(
        engaged & chance(rng, np.where(behaviour == LATE_ENGAGER, 0.75, 0.3), len(case))
    )
    contact(case[asks], checkins.form[asks], "call_in", "checkin")
    waits = np.flatnonzero((behaviour == AGENCY_DELAY) & chance(rng, 0.6, len(case)))
    contact(case[waits], due[waits] + rng.integers(-3, 8, len(waits)), "call_in", "checkin_status")
    surprised = np.flatnonzero((behaviour == UNAWARE) & (checkins.form < due + 15))
    contact(case[surprised], checkins.form[surprised], "call_in", "missing_benefits")
    contacts = _events(block, found, case_id, first, last, "contact")
    contacts = _with_calls(block, contacts, case_id, first, last)

    # Card events: purchases in months with benefits, fewer where life has changed.
    buys = []
    changed = np.zeros((n, months), dtype=bool)
    for shift in (-2, -1, 0):
        at = np.flatnonzero((behaviour == LIFE_CHANGE) & (checkins.month + shift >= 0)
                            & (checkins.month + shift < months))  # fmt: skip
        changed[case[at], checkins.month[at] + shift] = True
    rate = np.where(changed[c, m], 1.9, 2.6)
    times = np.minimum(rng.poisson(rate), 6)
    who, when = np.repeat(c, times), np.repeat(m, times)
    day = first[when] + np.minimum((rng.random(len(who)) ** 1.3 * 29).astype(np.int64), 27)
    cents = (amount[who, when] / 2.8 * rng.uniform(0.35, 1.4, len(who))).astype(np.int64)
    what = choose(rng, np.array([0.86, 0.10, 0.04]), len(who))
    buys.append((who, day, what, cents))
    # A card is declined when the money does not come: the unaware find out in the shop.
    closed = (behaviour == UNAWARE) & (checkins.outcome == PROCEDURAL)
    stung = np.flatnonzero(closed & chance(rng, 0.7, len(case)))
    buys.append((case[stung], due[stung] + rng.integers(2, 15, len(stung)), np.full(len(stung), 2),
                 np.full(len(stung), 0)))  # fmt: skip
    who, day, what, cents = (np.concatenate(column) for column in zip(*buys, strict=True))
    kinds = np.array(["purchase", "balance_inquiry", "declined"], dtype=object)
    events = _dated(block, who, day, {"event_kind": kinds[what]}, case_id, first, last, "event")
    order = events.columns.pop("_order")
    events.columns["amount"] = np.where(what == 0, cents, 0)[order]
    return contacts, events


def _with_calls(
    block: Block, contacts: Rows, case_id: np.ndarray, first: np.ndarray, last: np.ndarray
) -> Rows:
    """The contacts, and a few outreach calls before check-ins fall due: from a stream and with
    numbers of their own, so that nothing else changes with them. Nobody acts on one here."""
    rng, checkins = block.rng("dta_snap outreach"), block.snap.checkins
    hit = np.flatnonzero(chance(rng, CALLED, len(checkins.case)))
    day = checkins.due[hit] - rng.integers(2, 13, len(hit))
    more = {
        "contact_kind": np.full(len(hit), "call_out", object),
        "topic": np.full(len(hit), "checkin", object),
    }
    calls = _dated(
        block, checkins.case[hit], day, more, case_id, first, last, "contact",
        after=len(contacts),
    )  # fmt: skip
    calls.columns.pop("_order")
    order = np.argsort(
        np.concatenate([contacts.columns["contact_on"], calls.columns["contact_on"]]),
        kind="stable",
    )
    return Rows(
        np.concatenate([contacts.period, calls.period])[order],
        {
            name: np.concatenate([values, calls.columns[name]])[order]
            for name, values in contacts.columns.items()
        },
    )


def _events(
    block: Block,
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    case_id: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    name: str,
) -> Rows:
    case, day, kind, topic = (np.concatenate(column) for column in zip(*found, strict=True))
    rows = _dated(
        block, case, day, {"contact_kind": kind, "topic": topic}, case_id, first, last, name
    )
    rows.columns.pop("_order")
    return rows


def _dated(
    block: Block,
    case: np.ndarray,
    day: np.ndarray,
    more: dict[str, np.ndarray],
    case_id: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    name: str,
    after: int = 0,
) -> Rows:
    """Events within the timeline, sorted by day, with numbers of their own (`after` so many others)
    and their month."""
    inside = np.flatnonzero((day >= first[0]) & (day <= last[-1]))
    order = inside[np.lexsort((case[inside], day[inside]))]
    month = np.searchsorted(first, day[order], "right") - 1
    serial = block.people.block * 10_000_000 + after + np.arange(len(order))
    return Rows(
        month,
        {
            f"{name}_id": agency_numbers(block.people.seed, f"dta {name}", serial, 12),
            "month": first[month],
            "case_id": case_id[case[order]],
            f"{name}_on": day[order],
            **{key: values[order] for key, values in more.items()},
            "_order": order,
        },
    )
