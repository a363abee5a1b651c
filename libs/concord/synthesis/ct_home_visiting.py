"""`ct_home_visiting`: young mothers whom a home visitor sees, with their infant.

A small agency whose visitors type dates as they like: most can be read, some say "spring 2024".
"""

from __future__ import annotations

from collections.abc import Callable

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
from concord.synthesis.identity import AgencyErrors, observe
from concord.synthesis.names import pick
from concord.synthesis.people import CHILD, YEAR
from concord.synthesis.periods import date
from concord.synthesis.streams import Rng, chance

# By assumption, those of DPH without a second registration: the sites know their few families.
ERRORS = AgencyErrors(
    ssn_adult=0.0, ssn_child=0.0, typo=0.04, nickname=0.08, stale_name=0.30, cut_double=0.30,
    day_month=0.008, january=0.006, stale_address=0.15, race_missing=0.15, newborn=0.35,
)  # fmt: skip
OLDEST = 25  # a mother's age at the birth, below
TAKE_UP = 0.5  # by assumption; 0.7 in households of low income
VAGUE = 0.03  # of dates no one can read
RACE = {"white": "White", "black": "Black", "asian": "Asian", "native": "Native American",
        "multiple": "Multiracial", "other": "Other"}  # fmt: skip
SITES = 24
SEASONS = ("winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "fall",
           "fall", "fall", "winter")  # fmt: skip
# How visitors write a day; the contract reads these.
HABITS: tuple[Callable[[int], str], ...] = (
    lambda d: f"{date(d):%m/%d/%Y}",
    lambda d: f"{date(d).month}/{date(d).day}/{date(d).year}",
    lambda d: f"{date(d).month}/{date(d).day}/{date(d):%y}",
    lambda d: f"{date(d):%B} {date(d).day}, {date(d).year}",
    lambda d: f"{date(d).day}-{date(d):%b-%y}",
    lambda d: f"{date(d):%Y-%m-%d}",
)
# And these not.
VAGUE_HABITS: tuple[Callable[[int], str], ...] = (
    lambda d: f"{SEASONS[date(d).month - 1]} {date(d).year}",
    lambda d: f"early {date(d):%B}",
    lambda d: f"week of {date(d).month}/{date(d).day}",
    lambda d: "see file",
)


def typed(days: np.ndarray, habit: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """(days as text in each one's habit, which of them are vague)."""
    vague = chance(rng, VAGUE, len(days))
    style = rng.integers(0, len(VAGUE_HABITS), len(days))
    text = empty_text(len(days))
    for i, (day, own) in enumerate(zip(days.tolist(), habit.tolist(), strict=True)):
        text[i] = VAGUE_HABITS[style[i]](day) if vague[i] else HABITS[own](day)
    return text, vague


def tables(block: Block) -> FeedPart:
    """One row per family and quarter in which it enrolled, was visited last, or left."""
    rng = block.rng("ct_home_visiting")
    people, timeline = block.people, block.timeline
    quarters = timeline.quarters
    firsts, lasts = (np.array([getattr(q, at) for q in quarters]) for at in ("first", "last"))
    mother = people.mother
    young = people.birth - people.birth[mother] < OLDEST * YEAR
    infant = (people.position == CHILD) & (mother >= 0) & young
    infant &= (people.birth > firsts[0] - 300) & (people.birth < timeline.end - 60)
    share = np.where(block.low_income(), 0.7, TAKE_UP)
    found = np.flatnonzero(infant & chance(rng, share, len(people)))
    # Of twins the elder stands for both.
    child = found[np.unique(mother[found], return_index=True)[1]]
    parent, size = mother[child], len(child)
    enrolled = np.maximum(people.birth[child] + rng.integers(0, 90, size), firsts[0])
    left = enrolled + (60 + rng.exponential(330, size)).astype(np.int64)

    here = (enrolled <= lasts[:, None]) & (left > firsts[:, None])
    period, row = np.nonzero(here)
    when = lasts[period]
    grown = observe(people, parent, ERRORS, rng, enrolled)
    infants = observe(people, child, ERRORS, rng, enrolled)
    site = people.address_zip[people.address[parent, 1]] % SITES
    habit = (site * 7 + rng.integers(0, 2, size)) % len(HABITS)
    enrolled_text, enrolled_vague = typed(enrolled, habit, rng)
    # Enrolled once, and typed once; the last visit is typed each quarter.
    seen_from = np.maximum(enrolled[row], firsts[period])
    seen_until = np.minimum(left[row], when)
    visit = seen_until - rng.integers(0, 14, len(row))
    visit = np.clip(visit, seen_from, seen_until)
    visit_text, visit_vague = typed(visit, habit[row], rng)
    visits = np.maximum((seen_until - seen_from) * rng.uniform(0.8, 1.2, len(row)) / 14, 1)
    why = pick(rng, ("goals met", "moved", "not interested", "lost contact"),
               (0.3, 0.2, 0.25, 0.25), size)  # fmt: skip
    where = grown.address_on(row, when)
    families = agency_numbers(people.seed, "ct family", people.pid[child], 8, "F")
    parents = agency_numbers(people.seed, "ct parent", people.pid[parent], 8, "P")
    children = agency_numbers(people.seed, "ct child", people.pid[child], 8, "C")
    race = empty_text(size)
    for value, word in RACE.items():
        race[grown.race == value] = word
    gone = left[row] <= when
    rows = Rows(
        period,
        {
            "family_no": families[row],
            "parent_no": parents[row],
            "parent_last_name": grown.family_on(row, when),
            "parent_first_name": grown.given[row],
            "parent_birth_date": grown.birth[row],
            "parent_race": race[row],
            "parent_hispanic": np.ma.masked_where(
                grown.ethnicity[row] == None,  # noqa: E711 (elementwise)
                grown.ethnicity[row] == "hispanic",
            ),
            "parent_language": grown.language[row],
            "child_no": children[row],
            "child_last_name": infants.family_on(row, when),
            "child_first_name": infants.given_on(row, when),
            "child_birth_date": infants.birth[row],
            "child_sex": infants.sex[row],
            "phone": grown.phone[row],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "site": np.char.mod("Site %d", site + 1).astype(object)[row],
            "enrolled_on": enrolled_text[row],
            "visits": visits.astype(np.int64),
            "last_visit": visit_text,
            "exit_reason": np.where(gone, why[row], MISSING),
        },
    )
    listed = np.unique(row)
    truth = {
        "family_no": np.concatenate([families[listed], families[row]]),
        "column": np.repeat(np.array(["enrolled_on", "last_visit"], dtype=object),
                            [len(listed), len(row)]),
        "day": np.concatenate([enrolled[listed], visit]).astype("datetime64[D]"),
        "text": np.concatenate([enrolled_text[listed], visit_text]),
        "vague": np.concatenate([enrolled_vague[listed], visit_vague]),
    }  # fmt: skip
    return FeedPart(
        {"families": rows},
        [
            Known.listed("parent", parents, grown, row),
            Known.listed("child", children, infants, row),
        ],
        {"typed_dates": truth},
    )
