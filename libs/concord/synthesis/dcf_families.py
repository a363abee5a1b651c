"""`dcf_families`: families with an open case, by month; few columns, as the agreement has it."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.identity import AgencyErrors, mark_duplicates, observe, with_duplicates
from concord.synthesis.people import CHILD, HEAD, SPOUSE, YEAR
from concord.synthesis.periods import NEVER
from concord.synthesis.streams import chance

# By assumption, those of EEC without numbers and addresses, which the department does not send.
ERRORS = AgencyErrors(
    typo=0.03, nickname=0.05, stale_name=0.30, cut_double=0.30, day_month=0.006, january=0.004,
    duplicate=0.02,
)  # fmt: skip
# Log odds of a case, by need: about 3 % of children have one in a month, by assumption.
BASE, BY_NEED = -3.2, 0.9
PLACED = 0.5  # of families with a case: children live away from home for a time, by assumption


def tables(block: Block) -> FeedPart:
    """One row per person and month in which the family's case is open."""
    rng = block.rng("dcf_families")
    people, timeline = block.people, block.timeline
    homes = int(people.household.max()) + 1
    home = people.household
    minor = (people.position == CHILD) & (people.birth > timeline.start - 18 * YEAR)
    need = np.zeros(homes)
    need[home] = people.need
    opens = chance(rng, 1 / (1 + np.exp(-(BASE + BY_NEED * need))), homes)
    opened = timeline.start - 400 + rng.integers(0, timeline.end - timeline.start + 400, homes)
    has_child = minor & (people.birth <= opened[home])
    opens &= np.bincount(home, has_child, homes) > 0
    closed = opened + (45 + rng.exponential(300, homes)).astype(np.int64)
    away = np.where(chance(rng, PLACED, homes), opened + rng.integers(5, 120, homes), NEVER)
    back = away + (20 + rng.exponential(250, homes)).astype(np.int64)

    caregiver = np.isin(people.position, [HEAD, SPOUSE])
    members = np.flatnonzero(opens[home] & (minor | caregiver))
    who = with_duplicates(members, ERRORS, people, rng)
    count = len(members)
    of = home[who]
    identity = mark_duplicates(observe(people, who, ERRORS, rng, opened[of]), count)
    ids = agency_numbers(people.seed, "dcf", people.pid[who], 9, "1")
    ids[count:] = agency_numbers(people.seed, "dcf", people.pid[who[count:]], 9, "2")
    cases = agency_numbers(people.seed, "dcf case", people.block * 100_000 + of, 9)

    firsts = np.array([timeline.month(m).first for m in range(timeline.months)])
    lasts = np.array([timeline.month(m).last for m in range(timeline.months)])
    here = (opened[of] <= lasts[:, None]) & (closed[of] > firsts[:, None])
    here &= (people.birth[who] <= lasts[:, None]) & (people.death[who] > firsts[:, None])
    month, row = np.nonzero(here)
    when = lasts[month]
    child = minor[who[row]]
    placed = child & (away[of[row]] <= when) & (back[of[row]] > when)
    rows = Rows(
        month,
        {
            "person_id": ids[row],
            "month": firsts[month],
            "case_id": cases[row],
            "last_name": identity.family_on(row, when),
            "first_name": identity.given[row],
            "birth_date": identity.birth[row],
            "sex": identity.sex[row],
            "case_role": np.where(child, "C", "A").astype(object),
            "placed": placed,
        },
    )
    none = np.zeros(0, dtype=np.int64)
    listed = np.unique(cases[row]) if len(row) else none.astype(object)
    return FeedPart(
        {"members": rows},
        [
            Known.listed("member", ids, identity, row),
            Known("case", listed, np.full(len(listed), -1), np.zeros(len(listed), dtype=np.int64)),
        ],
    )
