"""`dua_claims`: weekly unemployment claims. A claim decided anew comes again in a later week."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes
from concord.synthesis.identity import CLAIMS, observe
from concord.synthesis.names import pick
from concord.synthesis.streams import chance

CLAIMING_SHARE = 0.42  # of job losses
MAXIMUM_CENTS = 103_300  # weekly maximum, October 2023 to September 2024
REDECIDED_SHARE = 0.03
RACE = {
    "white": "W", "black": "B", "asian": "A", "native": "I", "multiple": "M", "other": "O",
}  # fmt: skip


def tables(block: Block) -> FeedPart:
    """One row per claimed week and decision."""
    rng = block.rng("dua_claims")
    people, panel, weeks = block.people, block.work, block.timeline.weeks
    adult, quarter = np.nonzero(panel.lost)
    before = panel.earnings[adult, np.maximum(quarter - 1, 0)]
    claims = (quarter > 0) & (before > 200_000) & chance(rng, CLAIMING_SHARE, len(adult))
    adult, quarter, before = adult[claims], quarter[claims], before[claims]
    first = np.array([p.first for p in block.timeline.quarters])[quarter]
    filed = first + rng.integers(0, 88, len(adult))
    length = 2 + np.minimum(rng.gamma(1.8, 6.5, len(adult)).astype(np.int64), 28)
    reason = pick(rng, ("layoff", "discharge", "quit", "reduced_hours"), (0.72, 0.12, 0.08, 0.08),
                  len(adult))  # fmt: skip
    weekly = np.clip(before // 13 // 2, 5_000, MAXIMUM_CENTS)

    # Weeks of each spell; the person's record is one whatever the number of spells.
    spell = np.repeat(np.arange(len(adult)), length)
    nth = np.arange(len(spell)) - np.repeat(length.cumsum() - length, length)
    monday = weeks[0].first if weeks else 0
    week = (filed[spell] - monday) // 7 + nth
    inside = (week >= 0) & (week < len(weeks))
    spell, nth, week = spell[inside], nth[inside], week[inside]
    claimant, record = np.unique(adult[spell], return_inverse=True)
    identity = observe(people, panel.person[claimant], CLAIMS, rng, block.timeline.start)
    row_id = people.block * 1_000_000 + np.arange(len(spell))
    status = pick(rng, ("paid", "pending", "denied"), (0.88, 0.06, 0.06), len(spell))
    worked = chance(rng, 0.12, len(spell))
    earned = np.where(worked, weekly[spell] * rng.uniform(0.1, 0.6, len(spell)), 0).astype(np.int64)
    paid = np.where(status == "paid", np.maximum(weekly[spell] - earned // 2, 0), 0)

    # Claims decided anew, two to five weeks later.
    again = np.flatnonzero((status != "paid") | chance(rng, REDECIDED_SHARE, len(spell)))
    later = week[again] + rng.integers(2, 6, len(again))
    again, later = again[later < len(weeks)], later[later < len(weeks)]
    turned = np.where(status[again] == "paid", "denied", "paid").astype(object)
    index = np.concatenate([np.arange(len(spell)), again])
    period = np.concatenate([week, later])
    status = np.concatenate([status, turned])
    paid = np.concatenate([paid, np.where(turned == "paid", weekly[spell[again]], 0)])
    order = np.lexsort((index, period))
    index, period, status, paid = index[order], period[order], status[order], paid[order]

    who, of = record[index], spell[index]
    ends = np.array([w.last for w in weeks], dtype=np.int64)
    where = identity.address_on(who, ends[period] if len(ends) else 0)
    number = agency_numbers(
        people.seed, "dua claim", people.block * 100_000 + np.arange(len(adult)), 9
    )
    rows = Rows(
        period,
        {
            "claim_id": agency_numbers(people.seed, "dua week", row_id, 10, "W")[index],
            "claim_number": number[of],
            "ssn": identity.ssn[who],
            "first_name": identity.given[who],
            "last_name": identity.family_on(who, ends[period] if len(ends) else 0),
            "birth_date": identity.birth[who],
            "gender_code": identity.sex[who],
            "race_code": codes(identity.race, RACE)[who],
            "hispanic": codes(identity.ethnicity, {"hispanic": "Y", "not_hispanic": "N"})[who],
            "language": identity.language[who],
            "phone": identity.phone[who],
            "address": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "filed_on": filed[of],
            "week_ending": ends[week][index] + 0 if len(ends) else period,
            "separation_reason": reason[of],
            "status": status,
            "benefit_amount": paid,
            "earnings": earned[index],
        },
    )
    return FeedPart({"claims": rows}, [Known.of("claimant", identity.ssn, identity)])
