"""`housing_assistance`: shelter stays and rental assistance, a row per household member.

Entries are as people arrive: many without a number or with its last four digits, and the address of
those in shelter is the shelter's, or none.
"""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import MISSING, Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes, days
from concord.synthesis.identity import AgencyErrors, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import pick
from concord.synthesis.people import CHILD, HEAD, SPOUSE
from concord.synthesis.streams import chance

ERRORS = AgencyErrors(
    ssn_adult=0.70, ssn_child=0.70, ssn_last4=0.08, ssn_digit=0.02, ssn_swap=0.01,
    ssn_relative=0.005, typo=0.06, nickname=0.10, stale_name=0.30, cut_double=0.40,
    day_month=0.01, january=0.03, race_missing=0.06, duplicate=0.06,
)  # fmt: skip
RACE = {"white": "5", "black": "3", "asian": "2", "native": "1", "multiple": "10", "other": "11"}
ETHNICITY = {"hispanic": "1", "not_hispanic": "0"}
# Chances of assistance by household, so that three records in five are of people in shelter.
SHELTERED, ASSISTED = 0.95, 0.022  # of homeless households; of others in need
PROJECTS = ("emergency_shelter", "transitional", "rental_assistance", "prevention")


def tables(block: Block) -> FeedPart:
    """One row per person and stay, in the quarter of entry and again in that of exit."""
    rng = block.rng("housing_assistance")
    people, timeline = block.people, block.timeline
    quarters = timeline.quarters
    firsts, lasts = (np.array([getattr(q, at) for q in quarters]) for at in ("first", "last"))
    homes = int(people.household.max()) + 1
    home = people.household
    homeless, needy = np.zeros(homes, dtype=bool), np.zeros(homes, dtype=bool)
    homeless[home] = people.homeless
    needy[home] = block.low_income() & (people.need > 0.8)
    helped = chance(rng, np.where(homeless, SHELTERED, np.where(needy, ASSISTED, 0.0)), homes)
    again = chance(rng, 0.2, homes)  # a second stay
    shelter = pick(rng, PROJECTS[:2], (0.8, 0.2), homes)
    rent = pick(rng, PROJECTS[2:], (0.45, 0.55), homes)
    project = np.where(homeless, shelter, rent)
    entered = firsts[0] + rng.integers(0, timeline.end - firsts[0], homes)
    length = (20 + rng.exponential(np.where(homeless, 200, 280), homes)).astype(np.int64)
    second = entered + length + rng.integers(20, 200, homes)

    members = np.flatnonzero(helped[home])
    who = with_duplicates(members, ERRORS, people, rng)
    count = len(members)
    identity = mark_duplicates(observe(people, who, ERRORS, rng, entered[home[who]]), count)
    ids = agency_numbers(people.seed, "housing", people.pid[who], 8, "1")
    ids[count:] = agency_numbers(people.seed, "housing", people.pid[who[count:]], 8, "2")
    # Stays of each record; who is registered twice has the second stay under the second number.
    twice = np.isin(members, who[count:])
    more = np.flatnonzero(again[home[members]] & ~twice)
    record = np.concatenate([np.arange(count), more, count + np.arange(len(who) - count)])
    later = np.arange(len(record)) >= count
    at = home[who[record]]
    entry = np.where(later, second[at], entered[at])
    out = entry + np.where(later, length[at] // 2 + 10, length[at])
    born = people.birth[who[record]]
    entry = np.maximum(entry, born)  # a child born during the stay comes into it
    stands = (entry <= timeline.end) & (entry < out) & (people.death[who[record]] > entry)
    record, at, entry, out, later = (x[stands] for x in (record, at, entry, out, later))

    enters, leaves = np.searchsorted(lasts, entry), np.searchsorted(lasts, out)
    stay = np.arange(len(record))
    report = np.concatenate([np.column_stack([enters, stay]), np.column_stack([leaves, stay])])
    report = np.unique(report[report[:, 0] < len(quarters)], axis=0)
    period, index = report[:, 0], report[:, 1]
    row, when = record[index], lasts[period]
    gone = out[index] <= when
    person = who[row]
    where = identity.address_on(row, when)
    relation = np.select(
        [people.position[person] == p for p in (HEAD, SPOUSE, CHILD)],
        ["head", "spouse", "child"], "other",
    ).astype(object)  # fmt: skip
    to = pick(rng, ("rental", "family", "shelter", "unknown"), (0.45, 0.2, 0.15, 0.2), homes)
    monthly = rng.integers(6_000, 16_000, homes) // 100 * 1_000
    paid = np.where(np.isin(project, PROJECTS[2:]), monthly, 0)[at[index]]
    paid = np.where((relation == "head") & gone, paid * np.maximum(length[at[index]] // 30, 1), 0)
    stays = people.pid[who[record]] * 2 + later
    rows = Rows(
        period,
        {
            "stay_id": agency_numbers(people.seed, "housing stay", stays, 10)[index],
            "household_id": agency_numbers(
                people.seed, "housing household", people.block * 100_000 + at, 9, "H"
            )[index],
            "client_id": ids[row],
            "relationship": relation,
            "ssn": identity.ssn[row],
            "ssn_last4": identity.ssn_last4[row],
            "last_name": identity.family_on(row, when),
            "first_name": identity.given[row],
            "birth_date": identity.birth[row],
            "gender_code": codes(identity.sex, {"F": "Female", "M": "Male"})[row],
            "race_code": codes(identity.race, RACE)[row],
            "ethnicity_code": codes(identity.ethnicity, ETHNICITY)[row],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "project": project[at[index]],
            "entered_on": entry[index],
            "exited_on": days(out[index], when),
            "destination": np.where(gone, to[at[index]], MISSING),
            "assistance": paid,
        },
    )
    listed = np.unique(rows.columns["household_id"].astype(str)).astype(object)
    return FeedPart(
        {"stays": rows},
        [
            Known.listed("client", ids, identity, row),
            Known("household", listed, np.full(len(listed), -1),
                  np.zeros(len(listed), dtype=np.int64)),
        ],
    )  # fmt: skip
