"""`dph_wic`: monthly participants of the nutrition programme for women, infants and children."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes
from concord.synthesis.identity import DPH, mark_duplicates, observe, with_duplicates
from concord.synthesis.people import CHILD
from concord.synthesis.streams import chance

TAKE_UP = 0.55
RACE = {"white": "W", "black": "B", "asian": "A", "native": "N", "multiple": "M", "other": "O"}
FOOD_CENTS = {"infant": 7_200, "child": 4_900, "pregnant": 7_900, "postpartum": 7_700}


def tables(block: Block) -> FeedPart:
    """Children under five and mothers around a birth, in households of low income, by month."""
    rng = block.rng("dph_wic")
    people, timeline = block.people, block.timeline
    seed = people.seed
    needy = block.low_income() | (people.need > 0.9)
    joins = chance(rng, TAKE_UP, int(people.household.max()) + 1)[people.household]
    young = (people.position == CHILD) & (people.birth > timeline.start - 5 * 365) & needy & joins
    kids = np.flatnonzero(young & (people.birth <= timeline.end))
    recent = kids[people.birth[kids] > timeline.start - 330]
    recent = recent[people.mother[recent] >= 0]
    mothers, last = np.unique(people.mother[recent], return_index=True)
    who = with_duplicates(np.concatenate([kids, mothers]), DPH, people, rng)
    count = len(kids) + len(mothers)
    birth = people.birth[who].copy()
    mother = ~np.isin(who, kids)
    place = np.searchsorted(mothers, who[mother])
    birth[mother] = people.birth[recent[last[place]]]
    # Mothers from five months before the birth to a year after it, children until five.
    start = np.where(mother, birth - 150, birth + rng.integers(5, 60, len(who)))
    end = np.where(mother, birth + 360, birth + rng.integers(400, 1_826, len(who)))
    half = (start + end) // 2
    start[count:] = half[count:]  # those registered twice: from half-way by the second number
    end[:count][np.isin(who[:count], who[count:])] = half[:count][np.isin(who[:count], who[count:])]
    registered = np.maximum(start, timeline.start)
    identity = mark_duplicates(observe(people, who, DPH, rng, registered), count)
    ids = agency_numbers(seed, "dph wic", people.pid[who], 9, "1")
    ids[count:] = agency_numbers(seed, "dph wic", people.pid[who[count:]], 9, "2")

    edges = timeline.month_edges()
    lasts = edges[1:] - 1
    month, row = np.nonzero((start <= lasts[:, None]) & (end > edges[:-1, None]))
    when = lasts[month]
    alive = (people.death[who[row]] > edges[month]) & (
        mother[row] | (people.birth[who[row]] <= when)
    )
    month, row, when = month[alive], row[alive], when[alive]
    where = identity.address_on(row, when)
    days_old = when - birth[row]
    category = np.where(
        mother[row],
        np.where(days_old < 0, "pregnant", "postpartum"),
        np.where(days_old < 365, "infant", "child"),
    ).astype(object)
    value = np.zeros(len(row), dtype=np.int64)
    for name, cents in FOOD_CENTS.items():
        value[category == name] = cents
    value = (value * rng.uniform(0.6, 1.0, len(row))).astype(np.int64)
    snap_now = block.snap.ever[people.household[who]]
    rows = Rows(
        month,
        {
            "participant_id": ids[row],
            "month": edges[month],
            "last_name": identity.family_on(row, when),
            "first_name": identity.given_on(row, when),
            "birth_date": identity.birth[row],
            "sex": identity.sex[row],
            "race_code": codes(identity.race, RACE)[row],
            "ethnicity_code": codes(identity.ethnicity, {"hispanic": "H", "not_hispanic": "N"})[
                row
            ],
            "language": identity.language[row],
            "ssn": identity.ssn[row],
            "phone": identity.phone[row],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "category": category,
            "clinic": (where["town"] % 120 + 1).astype(str).astype(object),
            "certified_on": np.maximum(start[row], start[row] + (when - start[row]) // 365 * 365),
            "on_snap": snap_now[row],
            "benefit_value": value,
        },
    )
    used = np.zeros(len(who), dtype=bool)
    used[row] = True
    return FeedPart(
        {"participants": rows}, [Known("participant", ids[used], who[used], identity.errors[used])]
    )
