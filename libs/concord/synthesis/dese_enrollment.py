"""`dese_enrollment`: public school pupils, three collections a year (October, March, June)."""

from __future__ import annotations

import datetime as dt

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows, agency_numbers
from concord.synthesis.dta_snap import codes
from concord.synthesis.identity import DESE, mark_duplicates, observe, with_duplicates
from concord.synthesis.people import CHILD, YEAR, People
from concord.synthesis.periods import Period, Timeline, date, day
from concord.synthesis.places import places
from concord.synthesis.streams import Rng, chance

COLLECTIONS = (3, 6, 10)  # months
PUBLIC_SHARE = 0.88
# One code for race and Hispanic origin together, unlike the other agencies' two questions.
RACE = {
    "white": "05",
    "black": "02",
    "asian": "03",
    "native": "01",
    "multiple": "06",
    "other": "09",
}
HISPANIC_CODE = "04"


def collections(timeline: Timeline) -> tuple[Period, ...]:
    """The months of collection, each a period."""
    return timeline.months_named(*COLLECTIONS)


def public_families(block: Block, rng: Rng) -> np.ndarray:
    """Whether each person's household sends its children to public schools.

    `rng` is the feed's stream, fresh: other feeds ask again and get the same answer.
    """
    household = block.people.household
    return chance(rng, PUBLIC_SHARE, int(household.max()) + 1)[household]


def in_grade(people: People, year: int) -> np.ndarray:
    """Each person's grade in the school year that begins in `year`; kindergarten is 0."""
    september = day(dt.date(year, 9, 1))
    return np.floor((september - people.birth) / YEAR).astype(np.int64) - 5


def tables(block: Block) -> FeedPart:
    """One row per pupil and collection. Attendance counts from September."""
    rng = block.rng("dese_enrollment")
    people, timeline = block.people, block.timeline
    periods = collections(timeline)
    public = public_families(block, rng)
    of_age = (people.birth > timeline.start - 18.7 * 365.25) & (
        people.birth < timeline.end - 4.8 * 365.25
    )
    pupils = np.flatnonzero(public & of_age & (people.position == CHILD))
    who = with_duplicates(pupils, DESE, people, rng)
    count = len(pupils)
    identity = mark_duplicates(observe(people, who, DESE, rng, timeline.start), count)
    ids = agency_numbers(people.seed, "dese", people.pid[who], 9, "1")
    ids[count:] = agency_numbers(people.seed, "dese", people.pid[who[count:]], 9, "2")
    poor = block.low_income()[who]
    # What drives attendance and reading: need, disability, language, and a child of its own.
    ability = (
        rng.standard_normal(len(who)) - 0.35 * people.need[who] - 0.5 * people.disabled[who]
        - 0.25 * (people.language[who] > 0)
    )  # fmt: skip
    absence = np.clip(
        0.055 + 0.028 * people.need[who] + 0.05 * rng.standard_normal(len(who)), 0.0, 0.6
    )
    school_of = rng.integers(0, 9, len(who))
    parts = []
    for period in periods:
        month = date(period.first).month
        year = date(period.first).year - (month < 9)
        grade = in_grade(people, year)[who]
        here = np.flatnonzero((grade >= 0) & (grade <= 12) & (people.death[who] > period.first))
        # A pupil who changed schools is listed twice under two numbers for one collection.
        second = (here >= count) & chance(rng, 0.5, len(here))
        here = here[(here < count) | second]
        parts.append((np.full(len(here), period.index), here, grade[here]))
    none = np.zeros(0, dtype=np.int64)
    index, row, grade = (
        np.concatenate(column) for column in zip(*(parts or [(none, none, none)]), strict=True)
    )
    last = np.array([p.last for p in periods], dtype=np.int64)[index]
    first = np.array([p.first for p in periods], dtype=np.int64)[index]
    which = np.array([date(p.first).month for p in periods], dtype=np.int64)[index]
    where = identity.address_on(row, last)
    enrolled = np.select([which == 10, which == 3], [22, 112], 180)
    missed = rng.binomial(enrolled, absence[row]) if len(row) else none
    race = codes(identity.race, RACE)
    race[identity.ethnicity == "hispanic"] = HISPANIC_CODE
    early = grade <= 3
    literacy = np.clip(300 + 18 * grade + 22 * ability[row] + rng.normal(0, 9, len(row)), 180, 480)
    reading = np.clip(500 + 20 * ability[row] + rng.normal(0, 8, len(row)), 440, 560)
    levels = np.array(["K", *(f"{g:02d}" for g in range(1, 13))], dtype=object)
    town = where["town"]
    atlas = places()
    rows = Rows(
        index,
        {
            "state_student_id": ids[row],
            "collection": first,
            "last_name": identity.family_on(row, last),
            "first_name": identity.given[row],
            "middle_name": identity.middle[row],
            "birth_date": identity.birth[row],
            "gender_code": identity.sex[row],
            "race_ethnicity": race[row],
            "first_language": identity.language[row],
            "city": where["city"],
            "zip": where["zip"],
            "district": np.char.mod("%04d", town + 1).astype(object),
            "school": np.char.mod("%06d", town * 10 + school_of[row] + 10).astype(object),
            "district_name": atlas.town_name[town],
            "grade": levels[np.clip(grade, 0, 12)],
            "low_income": poor[row],
            "english_learner": (people.language[who] > 0)[row] & (ability[row] < 0.2),
            "disability": people.disabled[who][row],
            "days_enrolled": enrolled,
            "days_absent": missed,
            "literacy_score": np.ma.masked_where(~early, literacy.astype(np.int64)),
            "grade3_reading": np.ma.masked_where(
                ~((grade == 3) & (which == 6)), reading.astype(np.int64)
            ),
        },
    )
    used = np.zeros(len(who), dtype=bool)
    used[row] = True
    return FeedPart(
        {"enrollments": rows}, [Known("student", ids[used], who[used], identity.errors[used])]
    )
