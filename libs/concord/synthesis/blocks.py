"""One household block with everything that happens to its people, and what a feed makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from concord.synthesis.identity import Identity
from concord.synthesis.people import People, people
from concord.synthesis.periods import Timeline
from concord.synthesis.snap import Snap, snap
from concord.synthesis.streams import Rng, stream
from concord.synthesis.work import Work, work


@dataclass(frozen=True)
class Block:
    """The people of one block, their work and their SNAP cases."""

    people: People
    timeline: Timeline
    work: Work
    snap: Snap

    def rng(self, purpose: str) -> Rng:
        return stream(self.people.seed, purpose, self.people.block)

    def low_income(self) -> np.ndarray:
        """Whether each person's household is of low income (any SNAP in the timeline, or need)."""
        return self.snap.ever[self.people.household] | (self.people.need > 1.1)


def make_block(seed: int, number: int, count: int, timeline: Timeline) -> Block:
    """Block `number` with `count` people. Depends on nothing but its arguments."""
    folk = people(seed, number, count, timeline)
    jobs = work(folk, timeline)
    return Block(folk, timeline, jobs, snap(folk, jobs, timeline))


@dataclass
class Rows:
    """Rows of one table: equally long columns by property name, and each row's period.

    A column is an object array of text (None is missing), integers (days for a date, cents for a
    decimal), booleans, or floats. `period` indexes the feed's periods.
    """

    period: np.ndarray
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.period)


@dataclass
class FeedPart:
    """What one feed has of one block: rows by table, and the truth about its source keys.

    `truth` is what else it planted: by truth table, columns that become a Parquet file as they are.
    """

    tables: dict[str, Rows]
    subjects: list[Known] = field(default_factory=list)
    truth: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """Truth: which person each source key of a role is, and the errors planted on the record.

    `source_key` joins the values of the subject's key columns with "|". `person` indexes people
    (-1 for what is no person).
    """

    role: str
    source_key: np.ndarray
    person: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(cls, role: str, source_key: np.ndarray, identity: Identity) -> Known:
        return cls(role, source_key, identity.who, identity.errors)

    @classmethod
    def listed(
        cls, role: str, source_key: np.ndarray, identity: Identity, row: np.ndarray
    ) -> Known:
        """Of records (`source_key` and `identity` by record) those that a row lists."""
        used = np.unique(row)
        return cls(role, source_key[used], identity.who[used], identity.errors[used])


def agency_numbers(
    seed: int, agency: str, ids: np.ndarray, digits: int = 9, prefix: str = ""
) -> np.ndarray:
    """The agency's own numbers: a one-to-one scramble of `ids`, as text of `digits` digits."""
    space = 10**digits
    factor = 387_420_489 if digits >= 9 else 7_654_321  # odd and not a multiple of 5: a permutation
    shift = (seed * 7919 + sum(map(ord, agency)) * 104_729) % space
    numbers = (ids * factor + shift) % space
    text = np.char.zfill(numbers.astype(str), digits) if len(ids) else np.zeros(0, dtype="U1")
    return (prefix + text.astype(object)) if prefix else text.astype(object)


# A missing text, for numpy.where and numpy.select.
MISSING = np.array(None, dtype=object)


def empty_text(n: int) -> np.ndarray:
    return np.full(n, None, dtype=object)
