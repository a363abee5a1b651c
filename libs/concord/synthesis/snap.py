"""SNAP cases of one block: spells, check-ins and the latent behaviour behind each check-in.

Calibrated to published figures (see docs/synthetic-commonwealth.md): 6.4 % of people are
households on SNAP, 12.6 % of them due in a month, 40.9 % of families with a child under 6 who miss
a recertification are back within 30 days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concord.synthesis.names import HISPANIC
from concord.synthesis.people import (
    CHILD,
    COUPLE,
    COUPLE_ELDER,
    ELDER,
    FAMILY,
    HEAD,
    OTHER,
    SHARED,
    SINGLE,
    SINGLE_ELDER,
    SINGLE_PARENT,
    THREE_GENERATIONS,
    People,
)
from concord.synthesis.periods import NEVER, Timeline
from concord.synthesis.streams import Rng, chance, choose, stream
from concord.synthesis.work import Work

WARM_UP = 30  # months simulated before the timeline, so that it starts in a steady state
CASES_PER_PERSON = 0.0638  # 445,434 households of 6.98 million people

NONE, LATE_ENGAGER, UNAWARE, LIFE_CHANGE, AGENCY_DELAY = range(5)
BEHAVIOURS = ("none", "late_engager", "unaware", "life_change", "agency_delay")
INTERIM, RECERTIFICATION = 0, 1
APPROVED, PROCEDURAL, INELIGIBLE, AGENCY = range(4)
OUTCOMES = ("approved", "closed_procedural", "closed_ineligible", "closed_agency_error")
STANDARD_INTERIM, STANDARD, ELDER_DISABLED = range(3)
CERTIFICATION_MONTHS = np.array([12, 12, 36])
# Log-odds of missing a check-in where nothing was missed before, and what a case's misses add, each
# counting 0.6 of the next; by assumption, that what is known two weeks ahead tells about as much as
# in neighbouring work (AUC 0.65 to 0.80). How the missed ones divide into behaviours.
MISS_BASE, MISSED_BEFORE = -1.8, 1.3
MISSED_SHARES = np.array([0.385, 0.395, 0.22])  # late engager, unaware, life change
AGENCY_SHARE = 0.03
INELIGIBLE_SHARE = 0.05
# P(back within 30 days | closed), by behaviour, and the published differences between families.
BACK_IN_30 = {LATE_ENGAGER: 0.80, UNAWARE: 0.29, LIFE_CHANGE: 0.0}
HISPANIC_GAP, CHILDREN_GAP = 0.039, 0.056
OTHER_EXIT = 0.030  # monthly, outside the check-in months
OTHER_REASONS = ("income_over_limit", "moved_out_of_state", "client_request", "other")


@dataclass(frozen=True)
class Cases:
    """SNAP households, arrays over cases. `home` is the household number within the block."""

    home: np.ndarray
    head: np.ndarray
    kind: np.ndarray
    children: np.ndarray
    children_under_6: np.ndarray
    elder_disabled: np.ndarray
    hispanic: np.ndarray
    certification: np.ndarray
    risk: np.ndarray


@dataclass(frozen=True)
class Spells:
    """Uninterrupted times on SNAP; days, NEVER where still open. `reason` names the closure."""

    case: np.ndarray
    opened: np.ndarray
    closed: np.ndarray
    reason: np.ndarray
    retroactive: np.ndarray


@dataclass(frozen=True)
class Checkins:
    """Interim reports and recertifications, arrays over check-ins; days, NEVER where it is not."""

    case: np.ndarray
    month: np.ndarray
    kind: np.ndarray
    behaviour: np.ndarray
    outcome: np.ndarray
    due: np.ndarray
    mailed: np.ndarray
    form: np.ndarray
    interview: np.ndarray
    proofs: np.ndarray
    decision: np.ndarray
    back: np.ndarray
    certified_from: np.ndarray


@dataclass(frozen=True)
class Snap:
    """Cases with their spells and check-ins; `ever` says by household whether it had a spell.

    `members` and `member_case` pair people with cases. Months count from the timeline's first.
    """

    cases: Cases
    spells: Spells
    checkins: Checkins
    members: np.ndarray
    member_case: np.ndarray
    ever: np.ndarray
    # (case, month from -WARM_UP): first month of the certification in force, -999 without one.
    certified: np.ndarray


def snap(people: People, work: Work, timeline: Timeline) -> Snap:
    """Simulate the cases of one block month by month."""
    rng = stream(people.seed, "snap", people.block)
    cases = _cases(rng, people, work, timeline)
    n = len(cases.home)
    edges = timeline.month_edges(before=WARM_UP, after=14)
    months = WARM_UP + timeline.months
    target = int(round(CASES_PER_PERSON * (people.birth < timeline.start).sum()))

    on = np.zeros(n, dtype=bool)
    on[rng.permutation(n)[:target]] = True
    length = CERTIFICATION_MONTHS[cases.certification]
    certified = np.where(on, -(rng.random(n) * length).astype(np.int64), -999)
    opened = np.where(on, edges[0] - rng.integers(0, 700, n), NEVER)
    retro = np.zeros(n, dtype=bool)
    returns = np.full(n, NEVER, dtype=np.int64)
    renew = np.zeros(n, dtype=bool)  # a return that begins a new certification
    since_closed = np.full(n, 99)
    churned = np.zeros(n)
    spells: list[tuple[np.ndarray, ...]] = []
    checkins: list[tuple[np.ndarray, ...]] = []
    history = np.full((n, months), -999, dtype=np.int64)
    last_day = people.death[cases.head]

    for t in range(months):
        first, after = edges[t], edges[t + 1]
        # Returns and new cases.
        back = ~on & (returns < after)
        on |= back
        opened[back] = returns[back]
        certified[back & renew] = t
        returns[back] = NEVER
        wanted = target - int(on.sum())
        free = np.flatnonzero(~on & (returns == NEVER) & (since_closed > 4) & (last_day > after))
        if wanted > 0 and len(free):
            # Gumbel ranking: without replacement, in proportion to the weights.
            keys = 0.6 * cases.risk[free] - np.log(-np.log(rng.random(len(free))))
            new = free[np.argsort(-keys)[:wanted]]
            on[new] = True
            opened[new] = first + rng.integers(0, after - first, len(new))
            certified[new] = t
            retro[new] = False
        history[on, t] = certified[on]

        # Check-ins that fall due at the end of this month.
        age = t - certified + 1
        recertify = on & (age >= length)
        interim = on & (age == 6) & (cases.certification == STANDARD_INTERIM)
        due = np.flatnonzero(recertify | interim)
        kind = np.where(recertify[due], RECERTIFICATION, INTERIM)
        rows = _checkins(rng, cases, due, kind, churned[due], t, after - 1)
        behaviour, outcome, returned = rows["behaviour"], rows["outcome"], rows["back"]
        checkins.append((due, np.full(len(due), t), kind, *(rows[k] for k in CHECKIN_COLUMNS),
                         certified[due].copy()))  # fmt: skip
        fails = outcome != APPROVED
        closing = due[fails]
        reason = np.select(
            [outcome[fails] == PROCEDURAL, outcome[fails] == AGENCY], [0, 1], 2
        ).astype(np.int64)
        spells.append((closing, opened[closing], np.full(len(closing), after - 1), reason,
                       retro[closing].copy()))  # fmt: skip
        on[closing] = False
        retro[closing] = outcome[fails] == AGENCY
        returns[closing] = returned[fails]
        quick = returned[fails] <= after - 1 + 30
        renew[closing] = (kind[fails] == RECERTIFICATION) | ~quick
        certified[due[(~fails) & (kind == RECERTIFICATION)]] = t + 1
        churned[due] = 0.6 * churned[due] + (fails & (behaviour != NONE))

        # Exits outside the paperwork months.
        other = on.copy()
        other[due] = False
        other &= (chance(rng, OTHER_EXIT, n) & (opened < first)) | (last_day < after)
        leaving = np.flatnonzero(other)
        day_closed = first + rng.integers(0, after - first, len(leaving))
        dead = last_day[leaving] < after
        why = 3 + choose(rng, np.array([0.55, 0.15, 0.15, 0.15]), len(leaving))
        why[dead] = 7
        day_closed = np.maximum(day_closed, opened[leaving])
        spells.append((leaving, opened[leaving], day_closed, why, retro[leaving].copy()))
        on[leaving] = False
        soon = chance(rng, 0.17, len(leaving)) & ~dead
        returns[leaving] = np.where(soon, day_closed + rng.integers(32, 115, len(leaving)), NEVER)
        renew[leaving] = True
        retro[leaving] = False
        since_closed += 1
        since_closed[closing] = 0
        since_closed[leaving] = 0

    still = np.flatnonzero(on)
    spells.append((still, opened[still], np.full(len(still), NEVER), np.full(len(still), -1),
                   retro[still].copy()))  # fmt: skip
    joined = Spells(*(np.concatenate(column) for column in zip(*spells, strict=True)))
    columns = [np.concatenate(column) for column in zip(*checkins, strict=True)]
    columns[1] = columns[1] - WARM_UP
    columns[-1] = columns[-1] - WARM_UP
    members, member_case = _members(people, cases, timeline.start)
    ever = np.zeros(int(people.household.max()) + 1, dtype=bool)
    within = (joined.closed >= timeline.start) & (joined.opened <= timeline.end)
    ever[cases.home[joined.case[within]]] = True
    return Snap(cases, joined, Checkins(*columns), members, member_case, ever, history - WARM_UP)


CHECKIN_COLUMNS = (
    "behaviour", "outcome", "due", "mailed", "form", "interview", "proofs", "decision", "back",
)  # fmt: skip
CLOSURES = (
    "checkin_not_completed",
    "agency_delay",
    "income_over_limit",
    *OTHER_REASONS,
    "deceased",
)


def _cases(rng: Rng, people: People, work: Work, timeline: Timeline) -> Cases:
    """Households that may come to SNAP: those in need, by kind of household."""
    start = timeline.start
    age = people.age(start)
    head = np.flatnonzero(people.position == HEAD)
    homes = int(people.household.max()) + 1
    kind = people.household_kind[head]
    lift = np.zeros(8)
    lift[[SINGLE, SINGLE_ELDER, COUPLE, COUPLE_ELDER]] = [0.40, 0.0, -0.9, -0.8]
    lift[[FAMILY, SINGLE_PARENT, THREE_GENERATIONS, SHARED]] = [0.08, 0.62, -0.1, 0.15]
    score = (
        people.need[head]
        + lift[kind]
        + 0.6 * people.disabled[head]
        + 0.5 * rng.standard_normal(len(head))
    )
    pool = np.sort(np.argsort(-score)[: int(len(head) * 0.30)])
    home = people.household[head[pool]]

    def count(of: np.ndarray) -> np.ndarray:
        return np.bincount(people.household[of], minlength=homes)[home]

    born = people.birth <= start
    minors = count(born & (people.position == CHILD) & (age < 18))
    small = count(born & (people.position == CHILD) & (age < 6))
    leader = head[pool]
    elder = ((age[leader] >= 60) | people.disabled[leader]) & (minors == 0)
    # 36 months for elder or disabled households without earnings, 12 months else.
    interim = chance(rng, 0.97, len(pool))
    certification = np.where(elder & chance(rng, 0.46, len(pool)), ELDER_DISABLED,
                             np.where(interim, STANDARD_INTERIM, STANDARD))  # fmt: skip
    hispanic = people.group[leader] == HISPANIC
    risk = (
        0.55 * np.log(people.difficulty[leader])
        + 0.30 * (small > 1)
        + 0.20 * (people.language[leader] > 0)
        + 0.40 * people.homeless[leader]
        - 0.35 * (age[leader] >= 60)
        + 0.25 * (age[leader] < 30)
        + 0.30 * rng.standard_normal(len(pool))
    )
    return Cases(
        home=home,
        head=leader,
        kind=kind[pool],
        children=minors,
        children_under_6=small,
        elder_disabled=(age[leader] >= 60) | people.disabled[leader],
        hispanic=hispanic,
        certification=certification,
        risk=risk - risk.mean() if len(risk) else risk,
    )


def _checkins(
    rng: Rng,
    cases: Cases,
    due: np.ndarray,
    kind: np.ndarray,
    churned: np.ndarray,
    month: int,
    due_day: int,
) -> dict[str, np.ndarray]:
    """Behaviour, dates and outcome of the check-ins of cases `due`, due on day `due_day`."""
    n = len(due)
    logit = MISS_BASE + cases.risk[due] + MISSED_BEFORE * churned + 0.15 * (kind == RECERTIFICATION)
    missed = chance(rng, 1 / (1 + np.exp(-logit)), n)
    behaviour = np.where(missed, LATE_ENGAGER + choose(rng, MISSED_SHARES, n), NONE)
    delayed = ~missed & chance(rng, AGENCY_SHARE / 0.75, n)
    behaviour[delayed] = AGENCY_DELAY
    over_limit = (behaviour == NONE) & chance(rng, INELIGIBLE_SHARE / 0.72, n)

    never = np.full(n, NEVER, dtype=np.int64)
    mailed = due_day - 45 + rng.integers(-3, 4, n)
    # Those who answer on time: a third of them more than two weeks before the end.
    early = chance(rng, 0.31, n)
    ahead = np.where(early, rng.integers(14, 40, n), rng.integers(1, 14, n))
    form = due_day - ahead
    form = np.where(behaviour == AGENCY_DELAY, due_day - rng.integers(6, 32, n), form)
    interview = form + rng.integers(0, np.maximum(due_day - form, 1))
    proofs = form + rng.integers(0, np.maximum(due_day - form, 1))
    decision = np.minimum(np.maximum(interview, proofs) + rng.integers(0, 6, n), due_day)
    decision = np.where(behaviour == AGENCY_DELAY, due_day + rng.integers(2, 27, n), decision)

    outcome = np.full(n, APPROVED)
    late = behaviour == LATE_ENGAGER
    form = np.where(late, due_day - rng.integers(0, 10, n), form)
    in_time = late & chance(rng, 0.24, n)  # a late engager who just makes it
    interview = np.where(in_time, due_day, interview)
    proofs = np.where(in_time, due_day, proofs)
    decision = np.where(in_time, due_day, decision)
    outcome[missed & ~in_time] = PROCEDURAL
    outcome[over_limit] = INELIGIBLE
    outcome[behaviour == AGENCY_DELAY] = AGENCY

    # Who comes back, and when. Published differences act on the share back within 30 days; only
    # late engagers and the unaware can be, so the difference is laid on these.
    able = (MISSED_SHARES[:2] * [0.76, 1]).sum() / (MISSED_SHARES * [0.76, 1, 1]).sum()
    soon = np.select(
        [late, behaviour == UNAWARE], [BACK_IN_30[LATE_ENGAGER], BACK_IN_30[UNAWARE]], 0
    )
    gap = HISPANIC_GAP * cases.hispanic[due] + CHILDREN_GAP * (cases.children_under_6[due] > 1)
    soon = np.where(soon > 0, soon + gap / able, 0.0)
    drawn = rng.random(n)
    later = np.select(
        [late, behaviour == UNAWARE, behaviour == LIFE_CHANGE], [0.6, 0.48, 0.40], 0.0
    )
    back = never.copy()
    closed = outcome == PROCEDURAL
    quick = closed & (drawn < soon)
    slow = closed & ~quick & chance(rng, later, n)
    back[quick] = due_day + np.where(late, rng.integers(1, 20, n), rng.integers(5, 31, n))[quick]
    longer = np.where(behaviour == LIFE_CHANGE, rng.integers(40, 150, n), rng.integers(31, 120, n))
    back[slow] = due_day + longer[slow]
    agency = outcome == AGENCY
    back[agency] = decision[agency]

    # First engagement of those who were unaware: within two weeks after the missed issuance.
    form = np.where(behaviour == UNAWARE, due_day + rng.integers(3, 15, n), form)
    form = np.where((behaviour == UNAWARE) & (back == NEVER), NEVER, form)
    form = np.where(behaviour == LIFE_CHANGE, np.where(back < NEVER, back - 5, NEVER), form)
    reopened = closed & (back < NEVER)
    form = np.where(reopened, np.minimum(form, back), form)
    interview = np.where(closed, np.where(reopened, back, NEVER), interview)
    proofs = np.where(closed, np.where(reopened, back, NEVER), proofs)
    decision = np.where(closed, np.where(reopened, back, NEVER), decision)
    interview = np.where((kind == INTERIM), NEVER, interview)  # interim reports need none
    return {
        "behaviour": behaviour,
        "outcome": outcome,
        "due": np.full(n, due_day, dtype=np.int64),
        "mailed": mailed,
        "form": form,
        "interview": interview,
        "proofs": proofs,
        "decision": decision,
        "back": back,
    }


def _members(people: People, cases: Cases, start: int) -> tuple[np.ndarray, np.ndarray]:
    """(person, case): parents and children to 21; other adults are cases of their own."""
    homes = int(people.household.max()) + 1
    case_of = np.full(homes, -1)
    case_of[cases.home] = np.arange(len(cases.home))
    case = case_of[people.household]
    own = (people.position == OTHER) | (people.position == ELDER)
    own |= (people.position == CHILD) & (people.birth < start - 22 * 365.25)
    members = np.flatnonzero((case >= 0) & ~own)
    return members, case[members]
