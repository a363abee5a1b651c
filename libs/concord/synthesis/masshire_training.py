"""`masshire_training`: training episodes by quarter; one comes again when it ends."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes, days
from concord.synthesis.identity import MASSHIRE, mark_duplicates, observe, with_duplicates
from concord.synthesis.work import PROGRAMMES

RACE = {
    "white": "White", "black": "Black or African American", "asian": "Asian",
    "native": "American Indian", "multiple": "Multiracial", "other": "Other",
}  # fmt: skip
CAREER_CENTERS = 29


def tables(block: Block) -> FeedPart:
    """Episodes in the quarter of entry and, as known then, in the quarter of exit."""
    rng = block.rng("masshire_training")
    people, training, quarters = block.people, block.work.training, block.timeline.quarters
    seed = people.seed
    firsts = np.array([q.first for q in quarters])
    lasts = np.array([q.last for q in quarters])
    entered = np.searchsorted(firsts, training.entry, "right") - 1
    left = np.searchsorted(firsts, training.exit, "right") - 1
    both = np.flatnonzero(
        (left > entered) & (training.exit <= block.timeline.end) & (left < len(firsts))
    )
    index = np.concatenate([np.arange(len(training.person)), both])
    period = np.concatenate([entered, left[both]])
    order = np.lexsort((index, period))
    index, period = index[order], period[order]

    once = np.unique(training.person)
    who = with_duplicates(once, MASSHIRE, people, rng)
    identity = mark_duplicates(observe(people, who, MASSHIRE, rng, block.timeline.start), len(once))
    ids = agency_numbers(seed, "masshire", people.pid[who], 8, "M")
    ids[len(once) :] = agency_numbers(seed, "masshire", people.pid[who[len(once) :]], 8, "N")
    record = np.searchsorted(once, training.person)
    # Of those registered twice, later episodes go by the second number.
    for i, person in enumerate(who[len(once) :]):
        own = np.flatnonzero(training.person == person)
        record[own[-1:]] = len(once) + i
    who_row = record[index]
    when = lasts[period]
    where = identity.address_on(who_row, when)
    episode = people.block * 100_000 + np.arange(len(training.person))
    ended = training.exit[index] <= when
    exits = days(training.exit[index], when)
    codes_of = np.array([p.code for p in PROGRAMMES], dtype=object)
    town = where["town"]
    rows = Rows(
        period,
        {
            "enrollment_id": agency_numbers(seed, "masshire episode", episode, 9, "E")[index],
            "participant_id": ids[who_row],
            "ssn": identity.ssn[who_row],
            "last_name": identity.family_on(who_row, when),
            "first_name": identity.given[who_row],
            "birth_date": identity.birth[who_row],
            "gender_code": codes(identity.sex, {"F": "Female", "M": "Male"})[who_row],
            "race_code": codes(identity.race, RACE)[who_row],
            "hispanic": codes(identity.ethnicity, {"hispanic": "Yes", "not_hispanic": "No"})[
                who_row
            ],
            "phone": identity.phone[who_row],
            "city": where["city"],
            "zip": where["zip"],
            "career_center": (town % CAREER_CENTERS + 1).astype(str).astype(object),
            "programme": codes_of[training.programme[index]],
            "entry_on": training.entry[index],
            "exit_on": exits,
            "completed": np.ma.masked_where(~ended, training.completed[index]),
            "credential": np.ma.masked_where(~ended, training.credential[index]),
        },
    )
    used = np.zeros(len(who), dtype=bool)
    used[record] = True
    return FeedPart(
        {"episodes": rows}, [Known("participant", ids[used], who[used], identity.errors[used])]
    )
