"""`hrd_employees`: the workforce of the executive branch at each quarter's end, and who moved.

Employees are people whom the wage records have at one of the Commonwealth's employer accounts. The
events of a quarter explain the headcount: start + hires - separations = end. Women are promoted
less often by PROMOTION_GAP.
"""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import MISSING, Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes
from concord.synthesis.identity import AgencyErrors, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import pick
from concord.synthesis.people import FEMALE, YEAR
from concord.synthesis.streams import chance, choose

ERRORS = AgencyErrors(
    ssn_adult=1.0, ssn_child=1.0, ssn_digit=0.0005, typo=0.003, nickname=0.01, stale_name=0.05,
    cut_double=0.05, day_month=0.0005, january=0.0005, stale_address=0.05, race_missing=0.03,
    duplicate=0.001,
)  # fmt: skip
# Employers of the wage records that are the Commonwealth: 1.3 % of jobs. Their industry is that of
# hospitals (622110), the only one there that a department of state would report.
ACCOUNTS = (1, 10, 19)
# Other branches of government have accounts in common with it. Of the executive branch 54.3 % are
# women, 3.5 % veterans and 3.9 % say that they have a disability (Human Resources Division,
# quarter ended 30 September 2024); 991 of 45,515 work part-time.
EXECUTIVE = np.array([0.97, 0.82])  # of women, of men
VETERAN, SAYS_DISABLED, PART_TIME = 0.035, 0.45, 0.022
PROMOTION, PROMOTION_GAP, RAISE = 0.025, 0.80, 1.06  # a quarter; women's share of it; of salary
TRANSFER = 0.008  # a quarter, by assumption
RACE = {"white": "W", "black": "B", "asian": "A", "native": "N", "multiple": "T", "other": "O"}
ETHNICITY = {"hispanic": "Y", "not_hispanic": "N"}
# Departments and their secretariats, larger ones first; shares by assumption.
DEPARTMENTS = ("DOC", "DCF", "DDS", "DMH", "DPH", "DOT", "DTA", "POL", "DOR", "DCR", "DUA", "EOTSS")
SECRETARIATS = ("eops", "eohhs", "eohhs", "eohhs", "eohhs", "massdot", "eohhs", "eops", "eoaf",
                "eea", "eolwd", "eotss")  # fmt: skip
SIZES = np.array([0.15, 0.13, 0.16, 0.09, 0.09, 0.11, 0.05, 0.08, 0.05, 0.04, 0.03, 0.02])
HIRE, PROMOTED, TRANSFERRED, SEPARATION = "hire", "promotion", "transfer", "separation"


def tables(block: Block) -> FeedPart:
    """`employees`: one row per employee on the last day of a quarter; `events`: one per move."""
    rng = block.rng("hrd_employees")
    people, work, quarters = block.people, block.work, block.timeline.quarters
    firsts, lasts = (np.array([getattr(q, at) for q in quarters]) for at in ("first", "last"))
    at_state = np.isin(work.employer, ACCOUNTS)
    kept = chance(rng, EXECUTIVE[people.sex[work.person]], len(work.person))
    adult = np.flatnonzero(at_state.any(axis=1) & kept)
    who = with_duplicates(work.person[adult], ERRORS, people, rng)
    count, size = len(adult), len(who)
    row = work.row[who]
    here = at_state[row]  # (record, quarter)
    # A second number is given to someone who is hired anew in the last quarter of the first.
    for i in range(count, size):
        first = int(np.searchsorted(adult, row[i]))
        last = int(np.flatnonzero(here[i])[-1])
        here[i, :last] = False
        here[first, last:] = False
    identity = mark_duplicates(observe(people, who, ERRORS, rng, block.timeline.start), count)
    ids = agency_numbers(people.seed, "hrd", people.pid[who], 8, "1")
    ids[count:] = agency_numbers(people.seed, "hrd", people.pid[who[count:]], 8, "2")

    before = np.column_stack([here[:, :1], here[:, :-1]])  # nothing is known of before the first
    joins, leaves, stays = here & ~before, before & ~here, here & before
    rate = PROMOTION * np.where(people.sex[who] == FEMALE, PROMOTION_GAP, 1.0)
    promoted = stays & (rng.random(here.shape) < rate[:, None])
    promoted[:, 0] = False
    moved = stays & ~promoted & (rng.random(here.shape) < TRANSFER)
    moved[:, 0] = False
    department = np.empty(here.shape, dtype=np.int64)
    department[:, 0] = choose(rng, SIZES, size)
    other = rng.integers(1, len(DEPARTMENTS), here.shape)
    for q in range(1, len(quarters)):
        step = np.where(moved[:, q] | joins[:, q], other[:, q], 0)
        department[:, q] = (department[:, q - 1] + step) % len(DEPARTMENTS)
    # The salary is near what the wage records say, and rises with each promotion.
    earned = np.where(here, work.earnings[row], 0)
    typical = np.where(here.any(axis=1), earned.sum(axis=1) // np.maximum(here.sum(axis=1), 1), 0)
    start = np.clip(4 * typical, 3_600_000, 21_000_000)
    salary = (start[:, None] * RAISE ** promoted.cumsum(axis=1)).astype(np.int64) // 10_000 * 10_000
    # Those there in the first quarter were hired some time before, of age 18 or older.
    since = firsts[0] - rng.exponential(8 * YEAR, size).astype(np.int64) - 1
    since = np.maximum(since, np.minimum(people.birth[who] + int(18 * YEAR), firsts[0] - 1))
    offset = rng.integers(0, 85, here.shape)  # days into the quarter on which something happens
    hired = np.tile(since[:, None], (1, len(quarters)))
    for q in range(1, len(quarters)):
        hired[:, q] = np.where(joins[:, q], firsts[q] + offset[:, q], hired[:, q - 1])

    quarter, record = np.nonzero(here.T)
    when = lasts[quarter]
    where = identity.address_on(record, when)
    half = chance(rng, PART_TIME, size)
    fte = np.where(half, rng.integers(4, 9, size) * 10, 100)
    veteran = chance(rng, VETERAN, size)
    disability = people.disabled[who] & chance(rng, SAYS_DISABLED, size)
    names, offices = np.array(DEPARTMENTS, dtype=object), np.array(SECRETARIATS, dtype=object)
    pay = salary[record, quarter] * fte[record] // 100
    employees = Rows(
        quarter,
        {
            "employee_id": ids[record],
            "quarter_end": when,
            "ssn": identity.ssn[record],
            "last_name": identity.family_on(record, when),
            "first_name": identity.given[record],
            "middle_name": identity.middle[record],
            "birth_date": identity.birth[record],
            "gender_code": identity.sex[record],
            "race_code": codes(identity.race, RACE)[record],
            "ethnicity_code": codes(identity.ethnicity, ETHNICITY)[record],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "veteran": veteran[record],
            "disability": disability[record],
            "department": names[department[record, quarter]],
            "secretariat": offices[department[record, quarter]],
            "grade": np.clip(pay // 900_000, 1, 20),
            "fte": fte[record],
            "annual_salary": pay,
            "hired_on": hired[record, quarter],
        },
    )

    found = []
    kinds = np.array([HIRE, PROMOTED, TRANSFERRED, SEPARATION], dtype=object)
    for number, happened in enumerate((joins, promoted, moved, leaves)):
        at, of = np.nonzero(happened.T)
        found.append((at, of, kinds[np.full(len(at), number)]))
    quarter, record, kind = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((record, quarter))
    quarter, record, kind = quarter[order], record[order], kind[order]
    # Who leaves worked through the last quarter with wages: they go in the first days of the next.
    into = offset[record, quarter]
    day = firsts[quarter] + np.where(kind == SEPARATION, into % 10, into)
    previous = department[record, np.maximum(quarter - 1, 0)]
    age = (day - people.birth[who[record]]) / YEAR
    usual = pick(
        rng, ("resignation", "layoff", "end_of_appointment"), (0.78, 0.08, 0.14), len(kind)
    )
    why = np.where((age >= 60) & chance(rng, 0.8, len(kind)), "retirement", usual)
    why = np.where(people.death[who[record]] <= lasts[quarter], "death", why)
    events = Rows(
        quarter,
        {
            "employee_id": ids[record],
            "happened_on": day,
            "event": kind,
            "from_department": np.where(kind == HIRE, MISSING, names[previous]),
            "to_department": np.where(
                kind == SEPARATION, MISSING, names[department[record, quarter]]
            ),
            "reason": np.where(kind == SEPARATION, why, MISSING),
        },
    )
    truth = {"person_id": people.pid[who], "employee_id": ids, "promotion_rate": rate}
    return FeedPart(
        {"employees": employees, "events": events},
        [Known.listed("employee", ids, identity, np.nonzero(here.any(axis=1))[0])],
        {"promotions": truth},
    )
