"""`dhe_enrollment`: students of public colleges and universities by term, with credits and awards.

Early college raises the chance to go on to a public college by EARLY_COLLEGE_EFFECT, and more of
those take it who would else go less often, so that a plain comparison understates it.
"""

from __future__ import annotations

import datetime as dt

import numpy as np

from concord.synthesis.blocks import MISSING, Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dese_enrollment import in_grade, public_families
from concord.synthesis.dta_snap import codes
from concord.synthesis.identity import AgencyErrors, mark_duplicates, observe, with_duplicates
from concord.synthesis.names import BLACK, HISPANIC
from concord.synthesis.people import CHILD, YEAR
from concord.synthesis.periods import Period, Timeline, date, day
from concord.synthesis.streams import chance, choose

TERMS = (1, 6, 9)  # months: spring, summer, fall
ERRORS = AgencyErrors(
    ssn_adult=0.75, ssn_child=0.75, ssn_digit=0.006, ssn_swap=0.002, ssn_relative=0.002,
    typo=0.01, nickname=0.04, stale_name=0.25, cut_double=0.15, day_month=0.003, january=0.001,
    stale_address=0.30, race_missing=0.08, duplicate=0.01,
)  # fmt: skip
RACE = {"white": "6", "black": "2", "asian": "4", "native": "3", "multiple": "8", "other": "9"}
HISPANIC_CODE = "5"
# Shares of those who go to a public college. 73.5 % of a class go to any (Education-to-Career,
# class of 2010); that a little over half of these stay in the public system is an assumption.
GOING = 0.40
# Published: 20 points over matched peers; Hispanic 41 % of participants against 25 % of pupils,
# Black 18 % against 10 %, 58 % of low income (Education-to-Career, early college). 85 to 88 % of
# credits are passed.
EARLY_COLLEGE_EFFECT = 0.20
EARLY_COLLEGE, EARLY_PASS = 0.08, 0.87
ADULT_LEARNERS = 0.03  # of those aged 25 to 49, by assumption

COMMUNITY, STATE, UNIVERSITY = range(3)
SECTORS = np.array(["CC", "SU", "UM"], dtype=object)
CAMPUSES = np.array([15, 9, 5])  # of each kind
SHARES = np.array([0.45, 0.25, 0.30])  # of first-time students
# Log odds of being there in the next main term, which gives 60, 80 and 88 % from fall to fall.
STAYING = np.array([1.25, 2.15, 2.7])
AWARDS = np.array([None, "C", "A", "B"], dtype=object)
MAIN_TERMS = np.array([0, 2, 5, 8])  # that an award takes
FIELDS = np.array(["11", "13", "24", "42", "43", "51", "52"], dtype=object)


def terms(timeline: Timeline) -> tuple[Period, ...]:
    """The first months of the terms, each a period."""
    return timeline.months_named(*TERMS)


def tables(block: Block) -> FeedPart:
    """One row per student and term."""
    rng = block.rng("dhe_enrollment")
    people, timeline = block.people, block.timeline
    n, periods = len(people), terms(timeline)
    first_year, last_year = date(timeline.start).year, date(timeline.end).year
    # The year in which each finished, or will finish, grade 12 of a public school.
    finished = np.zeros(n, dtype=np.int64)
    for year in range(first_year - 7, last_year + 3):
        finished[in_grade(people, year - 1) == 12] = year
    public = public_families(block, block.rng("dese_enrollment"))
    finished[(people.position == CHILD) & ~public] = 0
    pupil = finished > 0
    prepared = rng.standard_normal(n) - 0.35 * people.need - 0.3 * people.disabled
    lean = np.where(people.group == HISPANIC, 1.64, np.where(people.group == BLACK, 1.8, 0.63))
    lean *= np.where(block.low_income(), 2.4, 0.5)
    early = pupil & (people.position == CHILD) & chance(rng, EARLY_COLLEGE * lean, n)
    going = np.clip(GOING + 0.14 * prepared, 0.02, 0.80) + EARLY_COLLEGE_EFFECT * early
    later = chance(rng, 0.12, n)  # a year off
    age = (timeline.start - people.birth) / YEAR
    adult = ~pupil & (age >= 25) & (age < 50) & chance(rng, ADULT_LEARNERS, n)
    goes = (pupil & chance(rng, going, n)) | adult
    # Main terms are counted: 2 * year in fall, one more in the spring that follows.
    entry = np.where(
        adult,
        rng.integers(2 * first_year - 3, 2 * last_year + 1, n),
        2 * (finished + later),
    )
    sector = choose(rng, SHARES, n)
    sector = np.where(adult | (prepared < -0.9), COMMUNITY, sector)
    award = np.where(sector == COMMUNITY, 1 + (rng.random(n) < 0.85), 3)
    staying = 1 / (1 + np.exp(-(STAYING[sector] + 0.4 * prepared)))
    stays = np.minimum(rng.geometric(1 - staying), MAIN_TERMS[award])
    done = stays == MAIN_TERMS[award]
    gap = np.where(chance(rng, 0.12, n), rng.integers(1, 4, n), 99)  # main terms before a year off

    parts = []
    for period in periods:
        year, month = date(period.first).year, date(period.first).month
        term = 2 * year - (month < 9)
        since = term - entry
        place = np.where(since >= gap + 2, since - 2, since)
        away = (since >= gap) & (since < gap + 2)
        here = goes & (since >= 0) & ~away & (place < stays)
        school_year = year + (month >= 9)  # ends in
        in_school = early & (finished - school_year <= 1) & (finished >= school_year)
        if month == 6:  # few come in summer, between two terms
            here &= (place < stays - 1) & chance(rng, 0.15, n)
            in_school[:] = False
        here &= ~in_school
        here |= in_school
        row = np.flatnonzero(here & (people.death > period.first))
        kind = np.select(
            [in_school, (place == 0) & (month != 6), (place == gap) & (month != 6)],
            ["EC", "FT", "RE"], "CO",
        ).astype(object)  # fmt: skip
        ends = done & (place == stays - 1) & ~in_school & (month != 6)
        parts.append((np.full(len(row), period.index), row, kind[row], ends[row]))
    none = np.zeros(0, dtype=np.int64)
    empty = [(none, none, none.astype(object), none.astype(bool))]
    index, person, kind, ends = (
        np.concatenate(column) for column in zip(*(parts or empty), strict=True)
    )

    students = np.unique(person)
    who = with_duplicates(students, ERRORS, people, rng)
    count = len(students)
    identity = mark_duplicates(observe(people, who, ERRORS, rng, timeline.start), count)
    ids = agency_numbers(people.seed, "dhe", people.pid[who], 8, "H1")
    ids[count:] = agency_numbers(people.seed, "dhe", people.pid[who[count:]], 8, "H2")
    record = np.searchsorted(students, person)
    # Those registered twice go by the second number in their last term, at another campus.
    for i, again in enumerate(who[count:]):
        record[np.flatnonzero(person == again)[-1:]] = count + i
    when = np.array([p.last for p in periods], dtype=np.int64)[index]
    first = np.array([p.first for p in periods], dtype=np.int64)[index]
    summer = np.array([date(p.first).month == 6 for p in periods], dtype=bool)[index]
    in_school = kind == "EC"
    size = len(index)
    sector = np.where(in_school, COMMUNITY, sector[person])
    campus = rng.integers(0, 90, len(who))[record] % CAMPUSES[sector]
    full = chance(rng, 0.85 - 0.5 * (sector == COMMUNITY), size) & ~in_school & ~summer
    courses = np.where(full, rng.integers(4, 6, size), rng.integers(1, 4, size))
    ready = prepared[person]
    passing = np.where(in_school, EARLY_PASS, 1 / (1 + np.exp(-(1.9 + 0.6 * ready))))
    passed = rng.binomial(courses, passing)
    grade = np.clip(290 + 40 * ready + rng.normal(0, 35, size), 70, 400).astype(np.int64)
    race = codes(identity.race, RACE)
    race[identity.ethnicity == "hispanic"] = HISPANIC_CODE
    where = identity.address_on(record, when)
    poor = block.low_income()[person]
    rows = Rows(
        index,
        {
            "student_id": ids[record],
            "term": first,
            "ssn": identity.ssn[record],
            "last_name": identity.family_on(record, when),
            "first_name": identity.given[record],
            "middle_name": identity.middle[record],
            "name_suffix": identity.suffix[record],
            "birth_date": identity.birth[record],
            "gender_code": identity.sex[record],
            "race_ethnicity": race[record],
            "address_line1": where["address_line1"],
            "city": where["city"],
            "zip": where["zip"],
            "institution": np.char.mod("%03d", sector * 100 + campus + 1).astype(object),
            "sector": SECTORS[sector],
            "student_type": kind,
            "award_sought": AWARDS[np.where(in_school, 0, award[person])],
            "field_of_study": np.where(in_school, MISSING, FIELDS[person % len(FIELDS)]),
            "credits_attempted": 3 * courses,
            "credits_earned": 3 * passed,
            "gpa": np.ma.masked_where(passed == 0, grade),
            "pell_grant": chance(rng, np.where(poor, 0.75, 0.12), size) & ~in_school,
            "award_conferred": AWARDS[np.where(ends, award[person], 0)],
        },
    )
    of = np.flatnonzero(pupil)
    truth = {
        "person_id": people.pid[of],
        "finished_on": np.array([day(dt.date(y, 6, 15)) for y in finished[of]]).astype(
            "datetime64[D]"
        ),
        "early_college": early[of],
        "going": going[of],
        "goes": goes[of],
        "staying": staying[of],
    }
    return FeedPart(
        {"enrollments": rows}, [Known.listed("student", ids, identity, record)], {"college": truth}
    )
