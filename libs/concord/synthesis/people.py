"""The people of one household block: who they are, with whom they live, and what happens to them.

A block holds BLOCK_PEOPLE people at the first month (the last block the rest) and the babies born
later. Blocks are the unit of generation, so any split of blocks over processes gives the same
people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concord.synthesis.names import (
    API,
    BLACK,
    HISPANIC,
    MULTIPLE,
    NATIVE,
    WHITE,
    vocabulary,
)
from concord.synthesis.periods import NEVER, Timeline
from concord.synthesis.places import places
from concord.synthesis.streams import Rng, chance, choose, stream

BLOCK_PEOPLE = 10_000
# Person ids of block b lie in (b * BLOCK_IDS, (b + 1) * BLOCK_IDS]; the rest is room for births.
BLOCK_IDS = 20_000

FEMALE, MALE = 0, 1
HEAD, SPOUSE, CHILD, ELDER, OTHER = range(5)
(
    SINGLE,
    SINGLE_ELDER,
    COUPLE,
    COUPLE_ELDER,
    FAMILY,
    SINGLE_PARENT,
    THREE_GENERATIONS,
    SHARED,
) = range(8)
# Shares of households by kind; mean size near the state's 2.5 (ACS).
KIND_SHARES = np.array([0.185, 0.14, 0.17, 0.135, 0.18, 0.07, 0.03, 0.09])
CHILD_COUNT = np.array([0.42, 0.37, 0.15, 0.06])  # one to four children
LANGUAGES = ("eng", "spa", "por", "hat", "cmn", "yue", "vie", "khm", "rus", "ara", "other")
# P(language | group): rows in the order of names.GROUPS (ACS, language spoken at home, rounded).
LANGUAGE_SHARES = np.array(
    [
        [0.930, 0.004, 0.032, 0.000, 0.000, 0.000, 0.000, 0.000, 0.012, 0.008, 0.014],
        [0.740, 0.010, 0.070, 0.110, 0.000, 0.000, 0.000, 0.000, 0.000, 0.010, 0.060],
        [0.380, 0.000, 0.000, 0.000, 0.190, 0.080, 0.130, 0.070, 0.000, 0.000, 0.150],
        [0.900, 0.050, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.050],
        [0.820, 0.050, 0.070, 0.030, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.030],
        [0.430, 0.550, 0.010, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.010],
    ]
)
TWIN_SHARE = 0.03  # of births
TWINS_WITH_SIMILAR_NAMES = 1 / 3
JUNIOR_SHARE = 0.016  # of men
YEAR = 365.25


@dataclass
class People:
    """Arrays over the people of one block; days count from 1970-01-01, -1 means no one / nothing.

    `mother`, `father`, `spouse`, `twin` index into the same arrays. `group` follows names.GROUPS.
    `last_before` and `last` are surname codes before and from day `renamed_on`; `second` is a
    second surname, -1 without; `joined` is 1 where a hyphen joins the two. `address` has shape
    (people, 3): before `moved[:, 0]`, until `moved[:, 1]`, after; it indexes the `address_*`
    arrays. `need` is standard normal, higher is poorer. `difficulty` multiplies error rates,
    0.5 to 4.
    """

    block: int
    seed: int
    pid: np.ndarray
    household: np.ndarray
    household_kind: np.ndarray
    position: np.ndarray
    sex: np.ndarray
    birth: np.ndarray
    death: np.ndarray
    group: np.ndarray
    other_race: np.ndarray
    language: np.ndarray
    foreign_born: np.ndarray
    first: np.ndarray
    middle: np.ndarray
    last: np.ndarray
    last_before: np.ndarray
    renamed_on: np.ndarray
    second: np.ndarray
    joined: np.ndarray
    accents: np.ndarray
    suffix: np.ndarray
    mother: np.ndarray
    father: np.ndarray
    spouse: np.ndarray
    twin: np.ndarray
    address: np.ndarray
    moved: np.ndarray
    homeless: np.ndarray
    phone: np.ndarray
    ssn: np.ndarray
    need: np.ndarray
    disabled: np.ndarray
    difficulty: np.ndarray
    address_number: np.ndarray
    address_street: np.ndarray
    address_kind: np.ndarray
    address_unit: np.ndarray
    address_zip: np.ndarray

    def __len__(self) -> int:
        return len(self.pid)

    def age(self, when: int) -> np.ndarray:
        """Completed years on day `when` (negative before birth)."""
        return np.floor((when - self.birth) / YEAR).astype(np.int64)

    def alive(self, when: int) -> np.ndarray:
        return (self.birth <= when) & (self.death > when)

    def address_on(self, who: np.ndarray, when: np.ndarray | int) -> np.ndarray:
        """Address index of people `who` on day `when`."""
        moved = self.moved[who]
        step = (moved[:, 0] <= when).astype(np.int64) + (moved[:, 1] <= when)
        return self.address[who, step]

    def last_on(self, who: np.ndarray, when: np.ndarray | int) -> np.ndarray:
        return np.where(self.renamed_on[who] <= when, self.last[who], self.last_before[who])


def people(seed: int, block: int, count: int, timeline: Timeline) -> People:
    """The `count` people of block `block` on the first day of `timeline`, and later births."""
    rng = stream(seed, "people", block)
    start, end = timeline.start, timeline.end
    household, kind, place, size = _households(rng, count)
    homes = len(kind)
    n = len(household)

    # Where: a ZIP code by population, a race by the ZIP code's composition.
    atlas = places()
    home_zip = choose(rng, atlas.zip_weight, homes)
    cumulative = atlas.zip_groups.cumsum(axis=1)
    home_group = np.minimum((rng.random(homes)[:, None] > cumulative[home_zip]).sum(axis=1), 5)

    position = _positions(kind[household], place)
    kids = position == CHILD
    sex = (rng.random(n) < 0.49).astype(np.int64)
    head = np.flatnonzero(place == 0)  # the head of household h is head[h]
    partnered = np.isin(kind, [COUPLE, COUPLE_ELDER, FAMILY, THREE_GENERATIONS])
    sex[head[kind == SINGLE_PARENT]] = (rng.random((kind == SINGLE_PARENT).sum()) < 0.2).astype(int)
    spouse = np.full(n, -1)
    has_spouse = partnered & (size > 1)
    wed = head[has_spouse]
    spouse[wed], spouse[wed + 1] = wed + 1, wed
    same_sex = chance(rng, 0.03, len(wed))
    sex[wed + 1] = np.where(same_sex, sex[wed], 1 - sex[wed])

    ages = _ages(rng, kind, household, position, head, wed)
    birth = start - (ages * YEAR).astype(np.int64) - 1
    twin = np.full(n, -1)
    _make_twins(rng, kids, household, birth, twin)

    group = home_group[household].copy()
    mixed = chance(rng, 0.13, n) & ((position == SPOUSE) | (position == OTHER))
    group[mixed] = choose(rng, np.array([0.70, 0.08, 0.08, 0.003, 0.03, 0.13]), int(mixed.sum()))
    family_head = head[household]
    other_parent = spouse[family_head]
    parents_differ = kids & (other_parent >= 0) & (group[other_parent] != group[family_head])
    blended = parents_differ & chance(rng, 0.45, n) & (group[family_head] != HISPANIC)
    group[blended & (group[other_parent] != HISPANIC)] = MULTIPLE
    group[blended & (group[other_parent] == HISPANIC)] = HISPANIC

    mother, father = np.full(n, -1), np.full(n, -1)
    for parent in (family_head, other_parent):
        known = kids & (parent >= 0)
        female = known & (sex[parent] == FEMALE) & (mother < 0)
        mother[female] = parent[female]
        male = known & (sex[parent] == MALE) & (father < 0)
        father[male] = parent[male]

    # Babies born during the timeline to women of 20 to 40 who head or share a family.
    months = (end - start + 1) / 30.44
    yearly = 0.068
    fertile = (sex == FEMALE) & (ages >= 19) & (ages < 41)
    fertile &= (position == HEAD) | (position == SPOUSE)
    mothers = np.flatnonzero(fertile & chance(rng, yearly * months / 12 * 1.6, n))
    two = chance(rng, TWIN_SHARE / (2 - TWIN_SHARE), len(mothers))
    baby_mother = np.concatenate([mothers, mothers[two]])
    babies = len(baby_mother)
    born = start + rng.integers(0, max(end - start, 1), len(mothers))
    baby_birth = np.concatenate([born, born[two]])
    first_of_two = n + np.flatnonzero(two)
    baby_twin = np.full(babies, -1)
    baby_twin[np.flatnonzero(two)] = n + len(mothers) + np.arange(two.sum())
    baby_twin[len(mothers) :] = first_of_two

    def grow(values: np.ndarray, more: np.ndarray | int) -> np.ndarray:
        return np.concatenate([values, np.broadcast_to(more, (babies,)).astype(values.dtype)])

    household = grow(household, household[baby_mother])
    position = grow(position, CHILD)
    sex = np.concatenate([sex, (rng.random(babies) < 0.49).astype(np.int64)])
    birth = grow(birth, baby_birth)
    group = grow(group, group[baby_mother])
    partner = spouse[baby_mother]
    baby_father = np.where((partner >= 0) & (sex[partner] == MALE), partner, -1)
    mother, father = grow(mother, baby_mother), grow(father, baby_father)
    spouse, twin = grow(spouse, -1), grow(twin, baby_twin)
    n = len(household)
    kids = position == CHILD

    # A few identical-sex twins more than chance, as among real twins.
    paired = np.flatnonzero((twin >= 0) & (twin < np.arange(n)))
    same = chance(rng, 0.3, len(paired))
    sex[paired[same]] = sex[twin[paired[same]]]

    poor_group = np.array([0.0, 0.45, 0.05, 0.5, 0.25, 0.65])
    kind_need = np.array([0.35, 0.45, -0.45, -0.25, -0.35, 1.0, 0.1, 0.2])
    home_need = 0.8 * rng.standard_normal(homes) + kind_need[kind] + poor_group[home_group]
    home_need = (home_need - home_need.mean()) / home_need.std()
    homeless_home = chance(rng, np.where(home_need > 1.2, 0.055, 0.0008), homes)

    language = choose_rows(rng, LANGUAGE_SHARES, home_group)[household]
    switched = (position == SPOUSE) & (group != home_group[household])
    language[switched] = choose_rows(rng, LANGUAGE_SHARES, group[switched])
    age = (start - birth) / YEAR
    abroad = np.where(language > 0, 0.62, 0.09) * np.where(age < 18, 0.2, 1.0)
    foreign_born = chance(rng, abroad, n)

    given = _first_names(rng, sex, group, twin)
    family = _surnames(rng, n, group, position, household, head, spouse, sex, mother, father)
    last, last_before, renamed_on, second, joined = family
    _weddings_and_divorces(rng, timeline, age, position, kids, sex, group, spouse, *family)
    suffix = _juniors(rng, sex, kids, father, given, last, second, birth)

    moves = _addresses(rng, homes, homeless_home, home_zip, home_need, timeline)
    address_rows, home_moved, address_zip = moves
    address = address_rows[household]
    moved = home_moved[household]
    divorced = np.flatnonzero((spouse == -2) & (sex == MALE))
    if len(divorced):
        # A divorced husband takes an address of his own, near by.
        extra = address_zip.size + np.arange(len(divorced))
        address_zip = np.concatenate([address_zip, address_zip[address[divorced, 1]]])
        address[divorced, 2] = extra
        moved[divorced, 1] = start + rng.integers(0, max(end - start, 1), len(divorced))
    spouse[spouse == -2] = -1
    rows = len(address_zip)
    flats = chance(rng, 0.38, rows)

    hazard = np.select(
        [age < 1, age < 40, age < 65, age < 80], [0.004, 0.0008, 0.0042, 0.019], 0.085
    )
    death = np.full(n, NEVER, dtype=np.int64)
    dying = np.flatnonzero(chance(rng, hazard * months / 12, n) & (birth < start))
    death[dying] = start + rng.integers(0, max(end - start, 1), len(dying))

    homeless = homeless_home[household]
    by_age = np.select([age < 18, age < 65], [0.04, 0.085], 0.24)
    disabled = chance(rng, np.minimum(by_age * np.exp(0.85 * home_need[household]), 0.85), n)
    need = home_need[household] + 0.25 * disabled
    mobile = moved[:, 1] <= end
    strain = (
        0.40 * rng.standard_normal(n)
        + 0.40 * (language > 0)
        + 0.35 * foreign_born
        + 0.25 * mobile
        + 0.55 * homeless
        + 0.10 * np.isin(group, [BLACK, API, NATIVE, HISPANIC])
    )
    difficulty = np.clip(np.exp(strain - 0.35), 0.5, 4.0)
    pid = block * BLOCK_IDS + 1 + np.arange(n, dtype=np.int64)
    return People(
        block=block,
        seed=seed,
        pid=pid,
        household=household,
        household_kind=kind[household],
        position=position,
        sex=sex,
        birth=birth,
        death=death,
        group=group,
        other_race=np.where(group == HISPANIC, choose(rng, np.array([0.55, 0.45]), n), 0),
        language=language,
        foreign_born=foreign_born,
        first=given,
        middle=rng.integers(0, 26, n),
        last=last,
        last_before=last_before,
        renamed_on=renamed_on,
        second=second,
        joined=joined,
        accents=chance(rng, 0.6, n) & np.isin(group, [HISPANIC, WHITE]),
        suffix=suffix,
        mother=mother,
        father=father,
        spouse=spouse,
        twin=twin,
        address=address,
        moved=moved,
        homeless=homeless,
        phone=_phones(rng, n, homes, household, kids, atlas.zip_area_code[home_zip]),
        ssn=social_security_numbers(seed, pid),
        need=need,
        disabled=disabled,
        difficulty=difficulty,
        address_number=np.minimum((rng.exponential(140, rows) + 1).astype(int), 2999),
        address_street=choose(rng, atlas.street_weights, rows),
        address_kind=choose(rng, np.array([0.55, 0.17, 0.13, 0.04, 0.05, 0.02, 0.02, 0.02]), rows),
        address_unit=np.where(flats, rng.integers(1, 40, rows), 0),
        address_zip=address_zip,
    )


def social_security_numbers(seed: int, pid: np.ndarray) -> np.ndarray:
    """Nine-digit integers of valid form (area 001–665, 667–899), one per person id.

    An affine permutation of all valid numbers, so that no two people share one.
    """
    areas, groups, serials = 898, 99, 9999
    space = areas * groups * serials
    index = (pid * 433_494_437 + (seed % 1009) * 7_368_787) % space
    area = index // (groups * serials) + 1
    area = np.where(area >= 666, area + 1, area)
    middle = index // serials % groups + 1
    return area * 1_000_000 + middle * 10_000 + index % serials + 1


def choose_rows(rng: Rng, shares: np.ndarray, row: np.ndarray) -> np.ndarray:
    """For each entry an index drawn from the shares of its row; shape of `row`."""
    edges = (shares / shares.sum(axis=1, keepdims=True)).cumsum(axis=1)
    drawn = (rng.random(len(row))[:, None] > edges[row]).sum(axis=1)
    return np.minimum(drawn, shares.shape[1] - 1)


def _households(rng: Rng, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(household of each person, kind, place in the household, size), `count` people in all."""
    guess = count // 2 + 20
    kind = choose(rng, KIND_SHARES, guess)
    children = choose(rng, CHILD_COUNT, guess) + 1
    sizes = np.array([1, 1, 2, 2, 2, 1, 3, 2])[kind]
    sizes = sizes + np.where(np.isin(kind, [FAMILY, SINGLE_PARENT, THREE_GENERATIONS]), children, 0)
    sizes = sizes + np.where((kind == SHARED) & chance(rng, 0.4, guess), 1, 0)
    ends = sizes.cumsum()
    homes = int(np.searchsorted(ends, count)) + 1
    sizes, kind = sizes[:homes].copy(), kind[:homes]
    sizes[-1] -= ends[homes - 1] - count
    household = np.repeat(np.arange(homes), sizes)
    place = np.arange(count) - np.repeat(sizes.cumsum() - sizes, sizes)
    return household, kind, place, sizes


def _positions(kind: np.ndarray, place: np.ndarray) -> np.ndarray:
    position = np.full(len(kind), OTHER)
    position[place == 0] = HEAD
    paired = np.isin(kind, [COUPLE, COUPLE_ELDER, FAMILY, THREE_GENERATIONS])
    position[paired & (place == 1)] = SPOUSE
    position[(kind == THREE_GENERATIONS) & (place == 2)] = ELDER
    position[(kind == FAMILY) & (place > 1)] = CHILD
    position[(kind == THREE_GENERATIONS) & (place > 2)] = CHILD
    position[(kind == SINGLE_PARENT) & (place > 0)] = CHILD
    return position


def _ages(
    rng: Rng,
    kind: np.ndarray,
    household: np.ndarray,
    position: np.ndarray,
    head: np.ndarray,
    wed: np.ndarray,
) -> np.ndarray:
    """Ages in years, with fractions."""
    low = np.array([21, 65, 22, 65, 27, 21, 32, 20])[kind]
    high = np.array([65, 96, 65, 94, 58, 52, 58, 45])[kind]
    ages = rng.uniform(low[household], high[household])
    ages[position == ELDER] = np.clip(ages[head[household]][position == ELDER] + 28, 62, 96)
    ages[wed + 1] = np.maximum(ages[wed] + rng.normal(0, 3.0, len(wed)), 20)
    kids = position == CHILD
    youngest_parent = ages[head].copy()
    youngest_parent[household[wed]] = np.minimum(ages[wed], ages[wed + 1])
    oldest_child = np.clip(youngest_parent[household] - 18.5, 0.2, 22.99)
    ages[kids] = rng.uniform(0, oldest_child[kids])
    # Children live at home up to 22; siblings are ten months apart (twins come later).
    for _ in range(4):
        close = np.flatnonzero(kids[1:] & kids[:-1] & (household[1:] == household[:-1]))
        gap = np.abs(ages[close + 1] - ages[close]) < 0.85
        again = close[gap] + 1
        ages[again] = rng.uniform(0, oldest_child[again])
    return ages


def _make_twins(
    rng: Rng, kids: np.ndarray, household: np.ndarray, birth: np.ndarray, twin: np.ndarray
) -> None:
    """Give TWIN_SHARE of the children a sibling born the same day (in place)."""
    second = np.flatnonzero(kids[1:] & kids[:-1] & (household[1:] == household[:-1])) + 1
    if not len(second):
        return
    share = TWIN_SHARE * kids.sum() / (2 * len(second))
    for child in second[chance(rng, share, len(second))]:
        if twin[child - 1] < 0:
            twin[child], twin[child - 1] = child - 1, child
            birth[child] = birth[child - 1]


def _first_names(rng: Rng, sex: np.ndarray, group: np.ndarray, twin: np.ndarray) -> np.ndarray:
    words = vocabulary()
    given = words.draw_first(rng, sex, group)
    later = np.flatnonzero((twin >= 0) & (twin < np.arange(len(twin))))
    alike = later[chance(rng, TWINS_WITH_SIMILAR_NAMES, len(later))]
    alike = alike[sex[alike] == sex[twin[alike]]]
    given[alike] = words.similar[given[twin[alike]]]
    return given


def _surnames(
    rng: Rng,
    n: int,
    group: np.ndarray,
    position: np.ndarray,
    household: np.ndarray,
    head: np.ndarray,
    spouse: np.ndarray,
    sex: np.ndarray,
    mother: np.ndarray,
    father: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(surname, surname before, day of change, second surname or -1, how the two are joined)."""
    own = vocabulary().draw_last(rng, group)
    last, before = own.copy(), own.copy()
    renamed = np.full(n, -NEVER)
    second = np.full(n, -1)
    joined = np.zeros(n, dtype=np.int64)
    # Double surnames by custom (father's then mother's) and hyphenated ones by marriage.
    custom = (group == HISPANIC) & chance(rng, 0.34, n)
    second[custom] = vocabulary().draw_last(rng, group[custom])
    wives = np.flatnonzero((spouse >= 0) & (sex == FEMALE) & (sex[spouse] == MALE))
    how = rng.random(len(wives))
    takes = wives[how < 0.66]
    last[takes] = own[spouse[takes]]
    second[takes] = np.where(custom[spouse[takes]], second[spouse[takes]], -1)
    hyphen = wives[(how >= 0.66) & (how < 0.73)]
    second[hyphen], joined[hyphen] = own[spouse[hyphen]], 1
    changed = np.concatenate([takes, hyphen])
    renamed[changed] = 0  # set to a real day below, by the caller's timeline
    # Children: the father's surname, or the mother's, or both.
    child = np.flatnonzero((position == CHILD) & ((mother >= 0) | (father >= 0)))
    by_mother = (father[child] < 0) | chance(rng, 0.08, len(child))
    parent = np.where(by_mother & (mother[child] >= 0), mother[child], father[child])
    parent = np.where(parent < 0, np.maximum(mother[child], father[child]), parent)
    last[child] = last[parent]
    second[child], joined[child] = second[parent], joined[parent]
    both = (
        (father[child] >= 0) & (mother[child] >= 0) & (last[mother[child]] != last[father[child]])
    )
    both &= chance(rng, 0.25, len(child))
    kid = child[both]
    second[kid], joined[kid] = last[mother[kid]], 1
    single = (father[child] < 0) & (mother[child] >= 0) & chance(rng, 0.45, len(child))
    kid = child[single]  # an absent father's surname: parent and child differ
    last[kid] = vocabulary().draw_last(rng, group[kid])
    second[kid] = -1
    siblings = (household[child][1:] == household[child][:-1]) & single[1:] & single[:-1]
    for i in np.flatnonzero(siblings):
        last[child[i + 1]] = last[child[i]]
    elder = np.flatnonzero(position == ELDER)
    last[elder] = last[head[household[elder]]]
    unmarried = ~np.isin(np.arange(n), changed)
    before[unmarried] = last[unmarried]
    return last, before, renamed, second, joined


def _weddings_and_divorces(
    rng: Rng,
    timeline: Timeline,
    age: np.ndarray,
    position: np.ndarray,
    kids: np.ndarray,
    sex: np.ndarray,
    group: np.ndarray,
    spouse: np.ndarray,
    last: np.ndarray,
    before: np.ndarray,
    renamed: np.ndarray,
    second: np.ndarray,
    joined: np.ndarray,
) -> None:
    """Days of past surname changes; marriages and divorces within the timeline (in place)."""
    n = len(age)
    start, end = timeline.start, timeline.end
    years = (end - start + 1) / YEAR
    past = np.flatnonzero(renamed == 0)
    married_for = rng.exponential(1.0, len(past)) * np.maximum(age[past] - 22, 1) * 0.6 * YEAR
    renamed[past] = start - np.maximum(married_for, 1).astype(np.int64)
    single = (spouse < 0) & ~kids & (age > 20) & (age < 46) & (sex == FEMALE)
    brides = np.flatnonzero(single & chance(rng, 0.035 * years, n))
    takes = brides[chance(rng, 0.7, len(brides))]
    last[takes] = vocabulary().draw_last(rng, group[takes])
    second[takes] = -1
    renamed[takes] = start + rng.integers(0, max(end - start, 1), len(takes))
    wives = np.flatnonzero((spouse >= 0) & (sex == FEMALE) & (age < 60))
    leaving = wives[chance(rng, 0.014 * years, len(wives))]
    reverts = leaving[(renamed[leaving] > -NEVER) & chance(rng, 0.35, len(leaving))]
    maiden = before[reverts].copy()
    before[reverts] = last[reverts]
    last[reverts], second[reverts], joined[reverts] = maiden, -1, 0
    renamed[reverts] = start + rng.integers(0, max(end - start, 1), len(reverts))
    spouse[spouse[leaving]] = -2
    spouse[leaving] = -2


def _juniors(
    rng: Rng,
    sex: np.ndarray,
    kids: np.ndarray,
    father: np.ndarray,
    given: np.ndarray,
    last: np.ndarray,
    second: np.ndarray,
    birth: np.ndarray,
) -> np.ndarray:
    """Suffix codes 0 none, 1 Jr, 2 Sr. A son takes his father's whole name (in place)."""
    n = len(sex)
    suffix = np.zeros(n, dtype=np.int64)
    sons = np.flatnonzero(kids & (sex == MALE) & (father >= 0))
    wanted = JUNIOR_SHARE * (sex == MALE).sum() / 2
    sons = sons[chance(rng, min(wanted / max(len(sons), 1), 1.0), len(sons))]
    _, once = np.unique(father[sons], return_index=True)
    sons = sons[once]
    given[sons], last[sons], second[sons] = (
        given[father[sons]],
        last[father[sons]],
        second[father[sons]],
    )
    suffix[sons] = 1
    suffix[father[sons]] = 2
    return suffix


def _addresses(
    rng: Rng,
    homes: int,
    homeless: np.ndarray,
    home_zip: np.ndarray,
    need: np.ndarray,
    timeline: Timeline,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(address rows (homes, 3), move days (homes, 2), ZIP index per address row)."""
    start, end = timeline.start, timeline.end
    atlas = places()
    rows = np.arange(3 * homes).reshape(3, homes).T.copy()
    near = chance(rng, 0.65, homes)
    previous = np.where(near, home_zip, choose(rng, atlas.zip_weight, homes))
    near = chance(rng, 0.65, homes)
    following = np.where(near, home_zip, choose(rng, atlas.zip_weight, homes))
    yearly = np.clip(0.10 + 0.05 * need, 0.04, 0.3) + 0.5 * homeless
    moved = np.full((homes, 2), NEVER, dtype=np.int64)
    moved[:, 0] = start - (rng.exponential(1 / np.minimum(yearly, 0.9)) * YEAR).astype(np.int64) - 1
    moving = chance(rng, np.minimum(yearly * (end - start) / YEAR, 0.9), homes)
    moved[moving, 1] = start + rng.integers(0, max(end - start, 1), int(moving.sum()))
    return rows, moved, np.concatenate([previous, home_zip, following])


def _phones(
    rng: Rng,
    n: int,
    homes: int,
    household: np.ndarray,
    kids: np.ndarray,
    area: np.ndarray,
) -> np.ndarray:
    """Ten-digit integers: children have their household's, adults mostly one of their own."""
    area_number = area.astype(np.int64)

    def numbers(size: int, code: np.ndarray) -> np.ndarray:
        return (
            code * 10_000_000
            + rng.integers(200, 1000, size) * 10_000
            + rng.integers(0, 10_000, size)
        )

    shared = numbers(homes, area_number)
    own = numbers(n, area_number[household])
    return np.where(kids | chance(rng, 0.25, n), shared[household], own)
