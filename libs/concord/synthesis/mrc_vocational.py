"""`mrc_vocational`: cases of vocational rehabilitation, by the quarters in which something changed.

What the commission does changes no one's wages: those who would find a job anyway are served more
often, so that clients do better than others who have a disability and no job, while the true
effect is none.
"""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import MISSING, Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes, days
from concord.synthesis.identity import AgencyErrors, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import pick
from concord.synthesis.periods import NEVER
from concord.synthesis.streams import chance

# By assumption, those of MassHire: the commission is not in the table that other agencies follow.
ERRORS = AgencyErrors(
    ssn_adult=0.90, ssn_child=0.90, ssn_digit=0.006, ssn_swap=0.003, ssn_relative=0.002,
    typo=0.02, nickname=0.06, stale_name=0.25, cut_double=0.25, day_month=0.004, january=0.003,
    stale_address=0.15, race_missing=0.10, duplicate=0.01,
)  # fmt: skip
RACE = {"white": "W", "black": "B", "asian": "A", "native": "I", "multiple": "M", "other": "O"}
ETHNICITY = {"hispanic": "H", "not_hispanic": "N"}
# Shares of adults with a disability who apply, by whether they work then; by assumption.
APPLY_IDLE, APPLY_WORKING = 0.12, 0.04
WITH_LATER_WAGES = 3.0  # times as often among those who will have wages within WAIT quarters
WAIT = 5
SERVED_DAYS = 90  # in a job before a case closes with it: 34 CFR 361.56
CATEGORIES = ("physical", "sensory", "cognitive", "psychiatric", "other")
TRAININGS = ("none", "job_readiness", "occupational", "on_the_job", "college")


def tables(block: Block) -> FeedPart:
    """One row per case and quarter in which it was opened, planned, placed or closed."""
    rng = block.rng("mrc_vocational")
    people, work, quarters = block.people, block.work, block.timeline.quarters
    firsts, lasts = (np.array([getattr(q, at) for q in quarters]) for at in ("first", "last"))
    n, count = work.earnings.shape
    employed = work.earnings > 0
    age = people.age(block.timeline.start)[work.person]
    # Each has one quarter in which to apply, with two more to come.
    asks = rng.integers(0, max(count - 2, 1), n)
    ahead = np.arange(count)[None]
    soon = employed & (ahead > asks[:, None]) & (ahead <= asks[:, None] + WAIT)
    finds = soon.any(axis=1)
    idle = ~employed[np.arange(n), asks]
    applies = np.where(idle, APPLY_IDLE, APPLY_WORKING) * np.where(finds, WITH_LATER_WAGES, 1.0)
    able = people.disabled[work.person] & (age >= 18) & (age < 63)
    able &= people.death[work.person] > lasts[asks]
    adult = np.flatnonzero(able & chance(rng, np.where(able, applies, 0.0), n))
    size = len(adult)

    person, quarter = work.person[adult], asks[adult]
    applied = firsts[quarter] + rng.integers(0, 85, size)
    planned = applied + rng.integers(30, 120, size)
    # A job that the wage records have: from the first quarter with wages after the application.
    job = soon[adult].argmax(axis=1)
    got = finds[adult] & ~chance(rng, 0.08, size)
    placed = np.where(got, firsts[job] + rng.integers(0, 60, size), NEVER)
    planned = np.minimum(planned, placed)
    next_quarter = np.minimum(job + 1, count - 1)
    kept = got & employed[adult, next_quarter]
    gives_up = applied + rng.integers(200, 720, size)
    closed = np.where(kept, placed + SERVED_DAYS + rng.integers(0, 60, size), gives_up)
    closed = np.maximum(closed, np.where(got, placed + 30, planned + 30))
    why = np.where(kept, "employed", pick(rng, ("not_employed", "withdrew"), (0.6, 0.4), size))
    weekly = work.earnings[adult, np.where(kept, next_quarter, job)] // 13
    hours = np.clip(weekly // 2_100, 6, 40)

    # The quarters whose end finds something new.
    changed = [np.searchsorted(lasts, when) for when in (applied, planned, placed, closed)]
    case = np.tile(np.arange(size), len(changed))
    reported = np.column_stack([case, np.concatenate(changed)])
    reported = np.unique(reported[reported[:, 1] < count], axis=0)
    index, period = reported[:, 0], reported[:, 1]

    who = with_duplicates(person, ERRORS, people, rng)
    identity = mark_duplicates(observe(people, who, ERRORS, rng, block.timeline.start), size)
    ids = agency_numbers(people.seed, "mrc", people.pid[who], 8, "R")
    ids[size:] = agency_numbers(people.seed, "mrc", people.pid[who[size:]], 8, "S")
    # Those registered twice have their case under the second number from its closing quarter on.
    second = np.full(size, -1)
    second[np.searchsorted(person, who[size:])] = size + np.arange(len(who) - size)
    late = (second[index] >= 0) & (lasts[period] >= closed[index])
    record = np.where(late, second[index], index)
    when = lasts[period]
    where = identity.address_on(record, when)
    has_job = placed[index] <= when
    has_plan = planned[index] <= when
    training = pick(rng, TRAININGS, (0.34, 0.26, 0.18, 0.12, 0.10), size)
    category = pick(rng, CATEGORIES, (0.24, 0.13, 0.30, 0.28, 0.05), size)
    referred = pick(
        rng, ("self", "school", "health", "career_center"), (0.4, 0.2, 0.25, 0.15), size
    )
    rows = Rows(
        period,
        {
            "case_number": agency_numbers(people.seed, "mrc case", people.pid[person], 9)[index],
            "client_id": ids[record],
            "ssn": identity.ssn[record],
            "last_name": identity.family_on(record, when),
            "first_name": identity.given[record],
            "birth_date": identity.birth[record],
            "gender_code": identity.sex[record],
            "race_code": codes(identity.race, RACE)[record],
            "ethnicity_code": codes(identity.ethnicity, ETHNICITY)[record],
            "phone": identity.phone[record],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "referred_by": referred[index],
            "disability": category[index],
            "applied_on": applied[index],
            "planned_on": days(planned[index], when),
            "training": np.where(has_plan, training[index], MISSING),
            "placed_on": days(placed[index], when),
            "hourly_wage": np.ma.masked_where(~has_job, (weekly // hours)[index]),
            "weekly_hours": np.ma.masked_where(~has_job, hours[index]),
            "closed_on": days(closed[index], when),
            "closure": np.where(closed[index] <= when, why[index], MISSING),
        },
    )
    truth = {
        "person_id": people.pid[person],
        "applied_on": applied.astype("datetime64[D]"),
        "later_wages": finds[adult],
        "true_effect": np.zeros(size),
    }
    return FeedPart(
        {"cases": rows}, [Known.listed("client", ids, identity, record)], {"vocational": truth}
    )
