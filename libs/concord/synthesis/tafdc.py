"""Cash assistance to families (TAFDC) of one block: who receives it in which month, and who would
had nobody been trained.

Hazards by month follow what the parents earn in the quarter, and nothing else that training moves;
so training keeps families off assistance by what it does to earnings. All rates are assumptions,
chosen so that some six in a thousand people are families on TAFDC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concord.synthesis.people import (
    CHILD,
    FAMILY,
    HEAD,
    SINGLE_PARENT,
    SPOUSE,
    YEAR,
    People,
)
from concord.synthesis.periods import Timeline, add_months, date, day
from concord.synthesis.streams import stream
from concord.synthesis.work import Work

GROWN = 18  # years at which a child counts no more
LIMIT = 180_000  # cents that a family's parents may earn in a month
# Chances in a month. The first entry at no need, times e^need; a return of who left and leaving, at
# no earnings, and what earnings at the limit make of them.
ENTERS = 0.004
RETURNS, RETURNS_AT_LIMIT = 0.09, 0.01
LEAVES, LEAVES_AT_LIMIT, LEAVES_ABOVE = 0.015, 0.12, 0.35
BEGAN = 0.13  # of families below the limit, before the first month, at no need


@dataclass(frozen=True)
class Cash:
    """Families by month from the first of the timeline's quarters. `home` is the household's number
    within the block; `received` and `untrained` are (family, month), the latter had nobody been
    trained. `edges` are the first days of the months, one more than there are; `members` and
    `member_family` pair people with families, by their places."""

    home: np.ndarray
    received: np.ndarray
    untrained: np.ndarray
    edges: np.ndarray
    members: np.ndarray
    member_family: np.ndarray


def tafdc(people: People, work: Work, timeline: Timeline) -> Cash:
    """The families of one block with a child, month by month."""
    rng = stream(people.seed, "tafdc", people.block)
    first = date(timeline.quarters[0].first)
    history = 3 * timeline.HISTORY_QUARTERS + (timeline.first_month.month - 1) % 3
    months = history + timeline.months
    edges = np.array([day(add_months(first, m)) for m in range(months + 1)], dtype=np.int64)

    home = np.flatnonzero(np.isin(people.household_kind, [FAMILY, SINGLE_PARENT]))
    home = np.unique(people.household[home])
    family = np.full(int(people.household.max()) + 1, -1)
    family[home] = np.arange(len(home))
    parent = np.isin(people.position, [HEAD, SPOUSE])
    minor = (people.position == CHILD) & (people.birth > edges[0] - GROWN * YEAR)
    members = np.flatnonzero((family[people.household] >= 0) & (parent | minor))
    member_family = family[people.household[members]]
    is_child = people.position[members] == CHILD
    need = np.zeros(len(home))
    head = np.flatnonzero((people.position == HEAD) & (family[people.household] >= 0))
    need[family[people.household[head]]] = people.need[head]

    with_child = np.empty((len(home), months), dtype=bool)
    for m in range(months):
        born, died = people.birth[members], people.death[members]
        here = is_child & (born < edges[m + 1]) & (died > edges[m])
        here &= born > edges[m] - GROWN * YEAR
        with_child[:, m] = np.bincount(member_family[here], minlength=len(home)) > 0

    starts, moves = rng.random(len(home)), rng.random((len(home), months))

    def run(earnings: np.ndarray) -> np.ndarray:
        """Receipt under one history of earnings. The chances drawn are the same for each."""
        adults = np.flatnonzero(parent[work.person] & (family[people.household[work.person]] >= 0))
        of = family[people.household[work.person[adults]]]
        earned = np.zeros((len(home), earnings.shape[1]))
        np.add.at(earned, of, earnings[adults] / 3)
        near = np.minimum(earned / LIMIT, 1.0)
        returns = RETURNS * (RETURNS_AT_LIMIT / RETURNS) ** near
        leaves = LEAVES * (LEAVES_AT_LIMIT / LEAVES) ** near
        leaves[near == 1] = LEAVES_ABOVE
        received = np.zeros((len(home), months), dtype=bool)
        on = (near[:, 0] < 1) & (starts < np.minimum(BEGAN * np.exp(need), 0.9))
        on &= with_child[:, 0]
        ever = on.copy()
        for m in range(months):
            quarter = min(m // 3, near.shape[1] - 1)  # the last months have no whole quarter
            enters = np.where(ever, returns[:, quarter], np.minimum(ENTERS * np.exp(need), 0.2))
            draw, fits = moves[:, m], near[:, quarter] < 1
            on = np.where(on, draw >= leaves[:, quarter], fits & (draw < enters))
            on &= with_child[:, m]
            ever |= on
            received[:, m] = on
        return received

    return Cash(home, run(work.earnings), run(work.untrained), edges, members, member_family)
