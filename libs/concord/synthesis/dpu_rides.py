"""`dpu_rides`: rides of transportation network companies in a year, between municipalities.

No people are in it, so it is that of the whole state whatever the number of people: the first block
brings it, and the municipalities, their populations and distances are the real ones.
"""

from __future__ import annotations

import numpy as np
import zipcodes

from concord.synthesis.blocks import Block, FeedPart, Rows
from concord.synthesis.periods import Period, Timeline, date
from concord.synthesis.places import places
from concord.synthesis.streams import stream
from concord.towns import municipalities

# Statewide: Department of Public Utilities, Rideshare in Massachusetts. The years after 2023 grow
# by an assumption of our own, those before it stand in no timeline.
RIDES_2023, GROWTH = 78.7e6, 1.06
FEWEST = 50  # rides of a pair that is reported
ASSESSMENT_CENTS = 20  # a ride: St. 2016, c. 187, s. 8
# Fitted to what the department published: half of the rides begin in Boston (54 % in 2017, 50 % in
# 2019), a ride is 4.5 miles and 15.4 minutes long (2017).
AWAY = 3.0  # miles from Boston over which rides per resident fall to a third
ELSEWHERE = 0.05  # of Boston's rides per resident in a town of 50,000 that lies far from it
REACH = 2.0  # miles of a ride over which destinations become a third as likely
DETOUR = 1.25  # miles driven for one as the crow flies
WAITING, PER_MILE = 4.6, 2.4  # minutes


def years(timeline: Timeline) -> tuple[Period, ...]:
    """The years of which the timeline, with its history, has all quarters."""
    found: list[Period] = []
    quarters = timeline.quarters
    for first, last in zip(quarters, quarters[3:], strict=False):
        if date(first.first).month == 1:
            found.append(Period(f"{date(first.first).year}", first.first, last.last, len(found)))
    return tuple(found)


def distances() -> np.ndarray:
    """Miles between municipalities as the crow flies; within one, by its size."""
    atlas, towns = places(), municipalities()
    at = {z["zip_code"]: (float(z["lat"]), float(z["long"])) for z in zipcodes.list_all()}
    known = np.array([code in at for code in atlas.zip_code])
    spots = np.array([at[code] for code in atlas.zip_code[known]])
    of = atlas.zip_town[known]
    count = np.bincount(of, minlength=len(towns))[:, None]
    sums = np.column_stack([np.bincount(of, spots[:, i], len(towns)) for i in (0, 1)])
    middle = sums / np.maximum(count, 1)
    miles = (middle[:, None] - middle[None]) * np.array([69.0, 51.1])  # a degree at 42° north
    apart = np.sqrt((miles**2).sum(axis=2))
    size = np.array([int(town["population"]) for town in towns])
    within = np.clip(0.8 * (size / 10_000) ** 0.3, 0.8, 2.8)
    # Towns that share a ZIP code lie apart all the same.
    return np.maximum(apart, np.maximum(within[:, None], within[None]))


def tables(block: Block) -> FeedPart:
    """One row per year and pair of municipalities."""
    periods = years(block.timeline)
    towns = municipalities()
    names = np.array([town["municipality"] for town in towns], dtype=object)
    fips = np.array([town["fips"] for town in towns], dtype=object)
    none = np.zeros(0, dtype=np.int64)
    found: list[tuple[np.ndarray, ...]] = [(none, none, none, none, none * 1.0)]
    for period in periods if block.people.block == 0 else ():
        rides, miles = flows(int(period.name), block.people.seed)
        origin, destination = np.nonzero(rides >= FEWEST)
        index = np.full(len(origin), period.index)
        pair = origin, destination
        found.append((index, origin, destination, rides[pair], miles[pair]))
    index, origin, destination, count, driven = (
        np.concatenate(column) for column in zip(*found, strict=True)
    )
    year = np.array([int(p.name) for p in periods], dtype=np.int64)
    rows = Rows(
        index,
        {
            "year": year[index],
            "origin_fips": fips[origin],
            "destination_fips": fips[destination],
            "origin": names[origin],
            "destination": names[destination],
            "rides": count,
            "minutes": np.round(WAITING + PER_MILE * driven, 1),
            "miles": np.round(driven, 1),
            "assessment": count * ASSESSMENT_CENTS,
        },
    )
    return FeedPart({"flows": rows})


def flows(year: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rides, miles of one) by origin and destination: a gravity model.

    Rides begin where people live, more of each near Boston, and end where others live, less often
    the farther they are.
    """
    rng = stream(seed, f"dpu_rides {year}", 0)
    towns, apart = municipalities(), distances()
    residents = np.array([int(town["population"]) for town in towns])
    boston = [town["municipality"] for town in towns].index("Boston")
    # From Boston's edge, not its middle.
    beyond = np.maximum(apart[boston] - apart[boston, boston], 0)
    near = np.exp(-beyond / AWAY) + ELSEWHERE * np.sqrt(residents / 50_000)
    weight = residents * near
    to = weight[None] * np.exp(-apart / REACH)
    expected = weight[:, None] * to / to.sum(axis=1, keepdims=True)
    expected *= rng.lognormal(0.0, 0.25, expected.shape)
    expected *= RIDES_2023 * GROWTH ** (year - 2023) / expected.sum()
    return rng.poisson(expected), apart * DETOUR * rng.lognormal(0.0, 0.05, apart.shape)
