"""`eec_childcare`: subsidised child care placements on the last day of each month."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes
from concord.synthesis.identity import EEC, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import pick
from concord.synthesis.people import CHILD
from concord.synthesis.streams import chance

PROVIDERS = 7_000
RACE = {"white": "1", "black": "2", "asian": "3", "native": "4", "multiple": "6", "other": "7"}
ETHNICITY = {"hispanic": "1", "not_hispanic": "2"}


def tables(block: Block) -> FeedPart:
    """One row per child in care and month; a row speaks of the child and of a parent."""
    rng = block.rng("eec_childcare")
    people, timeline = block.people, block.timeline
    seed, months = people.seed, timeline.months
    age_end = (timeline.end - people.birth) / 365.25
    parent_of = np.where(people.mother >= 0, people.mother, people.father)
    able = (people.position == CHILD) & (parent_of >= 0) & (age_end > 0.4) & (age_end < 10)
    able &= block.low_income()
    children = np.flatnonzero(able & chance(rng, 0.40, len(people)))
    who = with_duplicates(children, EEC, people, rng)
    count = len(children)

    # A placement begins after three months of age and ends with leaving or the tenth birthday.
    start = np.maximum(people.birth[who] + 95, timeline.start - rng.integers(0, 900, len(who)))
    start = start + np.where(chance(rng, 0.5, len(who)), rng.integers(0, 540, len(who)), 0)
    end = start + (rng.exponential(620, len(who)) + 60).astype(np.int64)
    end = np.minimum(end, people.birth[who] + 3_650)
    # A second registration follows the first, at another provider.
    first_of = np.searchsorted(children, who[count:])
    start[count:] = end[first_of] + rng.integers(5, 40, len(who) - count)
    end[count:] = start[count:] + 400
    identity = mark_duplicates(observe(people, who, EEC, rng, start), count)
    parents = np.unique(parent_of[who])
    grown = observe(people, parents, EEC, rng, timeline.start)
    parent_row = np.searchsorted(parents, parent_of[who])

    child_ids = agency_numbers(seed, "eec child", people.pid[who], 8, "C")
    child_ids[count:] = agency_numbers(seed, "eec child", people.pid[who[count:]], 8, "D")
    parent_ids = agency_numbers(seed, "eec parent", people.pid[parents], 8, "P")
    provider = rng.integers(0, PROVIDERS, len(who))
    change = np.where(
        chance(rng, 0.15, len(who)), rng.integers(1, max(months, 2), len(who)), months
    )
    other_provider = rng.integers(0, PROVIDERS, len(who))
    copay = rng.integers(0, 12, len(who)) * 1_000
    renewal = rng.integers(0, 12, len(who))
    subsidy = pick(
        rng, ("income_eligible", "dta_referred", "dcf_referred"), (0.62, 0.27, 0.11), len(who)
    )
    hours = pick(rng, ("full_day", "part_day", "before_after_school"), (0.62, 0.2, 0.18), len(who))

    lasts = np.array([timeline.month(m).last for m in range(months)])
    month, row = np.nonzero((start <= lasts[:, None]) & (end > lasts[:, None]))
    when = lasts[month]
    where = identity.address_on(row, when)
    carer = parent_row[row]
    rows = Rows(
        month,
        {
            "child_id": child_ids[row],
            "child_last_name": identity.family_on(row, when),
            "child_first_name": identity.given_on(row, when),
            "child_birth_date": identity.birth[row],
            "child_sex": codes(identity.sex, {"F": "2", "M": "1"})[row],
            "child_race": codes(identity.race, RACE)[row],
            "child_ethnicity": codes(identity.ethnicity, ETHNICITY)[row],
            "child_ssn": identity.ssn[row],
            "parent_id": parent_ids[carer],
            "parent_last_name": grown.family_on(carer, when),
            "parent_first_name": grown.given[carer],
            "parent_birth_date": grown.birth[carer],
            "parent_ssn": grown.ssn[carer],
            "parent_language": identity.language[row],
            "phone": grown.phone[carer],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "provider_id": ("V" + (100_000 + np.where(month >= change[row], other_provider[row],
                            provider[row])).astype(str).astype(object)),
            "subsidy_type": subsidy[row],
            "care_hours": hours[row],
            # The parent fee is set anew once a year.
            "parent_fee": copay[row] + 500 * ((month + renewal[row]) // 12),
            "placed_on": start[row],
        },
    )  # fmt: skip
    used, used_parents = np.zeros(len(who), dtype=bool), np.zeros(len(parents), dtype=bool)
    used[row], used_parents[carer] = True, True
    return FeedPart(
        {"placements": rows},
        [
            Known("child", child_ids[used], who[used], identity.errors[used]),
            Known(
                "parent",
                parent_ids[used_parents],
                parents[used_parents],
                grown.errors[used_parents],
            ),
        ],
    )
