"""Quarterly earnings, employers, job losses and training of the adults of one block.

Training has a true effect on later earnings that differs by programme, and people choose it after
a fall in earnings, so a plain before-and-after or with-and-without comparison is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concord.synthesis.people import People
from concord.synthesis.periods import Timeline
from concord.synthesis.streams import chance, choose, stream

EMPLOYERS = 30_000


@dataclass(frozen=True)
class Programme:
    """A training programme and what it truly does.

    `effect` is added to log earnings from the quarter after exit (half of it without completion),
    `employment` to the chance of having a job then.
    """

    code: str
    effect: float
    employment: float
    months: int
    prior: float  # weight of high prior earnings in who takes it


PROGRAMMES = (
    Programme("WIOA_ADULT", 0.10, 0.04, 5, -0.5),
    Programme("WIOA_DISLOCATED", 0.06, 0.05, 4, 0.9),
    Programme("OCCUPATIONAL_SKILLS", 0.18, 0.06, 8, 0.0),
    Programme("APPRENTICESHIP", 0.25, 0.08, 12, 0.4),
    Programme("ESOL", 0.04, 0.02, 6, -0.9),
)


@dataclass(frozen=True)
class Training:
    """Episodes: arrays over episodes; `person` indexes people, days count from 1970-01-01."""

    person: np.ndarray
    programme: np.ndarray
    entry: np.ndarray
    exit: np.ndarray
    completed: np.ndarray
    credential: np.ndarray
    prior_earnings: np.ndarray


@dataclass(frozen=True)
class Work:
    """Panels over (adult, quarter of the timeline). `row` gives a person's adult row or -1.

    `earnings` is in cents, 0 without a job. `employer` and `second` are employer numbers or -1;
    `second_share` is the part of the earnings that the second one pays. `untrained` is what
    `earnings` would be had nobody been trained.
    """

    person: np.ndarray
    row: np.ndarray
    earnings: np.ndarray
    employer: np.ndarray
    second: np.ndarray
    second_share: np.ndarray
    lost: np.ndarray
    training: Training
    untrained: np.ndarray

    def monthly_cents(self, quarter: int) -> np.ndarray:
        """Mean monthly earnings of every person (0 for those who are no adults)."""
        cents = np.append(self.earnings[:, quarter] // 3, 0)
        return cents[self.row]


def work(people: People, timeline: Timeline) -> Work:
    """The earnings history of one block."""
    rng = stream(people.seed, "work", people.block)
    quarters = timeline.quarters
    age = people.age(timeline.start)
    person = np.flatnonzero((age >= 16) & (age < 76))
    n, q = len(person), len(quarters)
    years, need = age[person], people.need[person]
    base = np.select(
        [years < 20, years < 25, years < 60, years < 66], [0.35, 0.72, 0.84, 0.62], 0.22
    )
    base = np.clip(base - 0.09 * need - 0.25 * people.disabled[person], 0.05, 0.97)
    skill = 0.42 * rng.standard_normal(n) - 0.30 * need
    prime = -0.0011 * (np.clip(years, 16, 60) - 46) ** 2
    noise = np.zeros(n)
    log_earnings = np.zeros((n, q))
    employed = np.zeros((n, q), dtype=bool)
    lost = np.zeros((n, q), dtype=bool)
    working = chance(rng, base, n)
    for i in range(q):
        leave = working & chance(rng, np.clip(0.045 + 0.02 * need, 0.01, 0.15), n)
        gone = np.clip(0.045 + 0.02 * need, 0.01, 0.15)
        join = ~working & chance(rng, np.clip(gone * base / (1.02 - base), 0, 0.6), n)
        if i:
            lost[:, i] = leave
            working = (working & ~leave) | join
        noise = 0.7 * noise + 0.16 * rng.standard_normal(n)
        # A quarter in which a job begins or ends is partly paid.
        partial = np.where(join | leave, rng.uniform(-1.2, 0.0, n), 0.0)
        employed[:, i] = working
        log_earnings[:, i] = 9.62 + skill + prime + noise + partial + 0.009 * i
    dead = people.death[person]
    for i, period in enumerate(quarters):
        employed[:, i] &= dead > period.first
        employed[:, i] &= years + (period.first - timeline.start) / 365.25 >= 16
    training = _training(people, timeline, person, years, need, log_earnings, employed, lost)
    untrained = _cents(log_earnings, employed)
    _apply(training, people, timeline, person, log_earnings, employed)

    weights = 1.0 / (np.arange(EMPLOYERS) + 25.0)
    employer = np.zeros((n, q), dtype=np.int64)
    employer[:, 0] = choose(rng, weights, n)
    second = choose(rng, weights, n)
    for i in range(1, q):
        new = (~employed[:, i - 1] & employed[:, i]) | chance(rng, 0.025, n)
        employer[:, i] = np.where(new, choose(rng, weights, n), employer[:, i - 1])
    twice = chance(rng, 0.10, n)[:, None] & chance(rng, 0.75, n * q).reshape(n, q)
    twice &= (second[:, None] != employer) & employed
    row = np.full(len(people), -1)
    row[person] = np.arange(n)
    return Work(
        person=person,
        row=row,
        earnings=_cents(log_earnings, employed),
        employer=np.where(employed, employer, -1),
        second=np.where(twice, second[:, None], -1),
        second_share=rng.uniform(0.08, 0.35, n),
        lost=lost,
        training=training,
        untrained=untrained,
    )


def _cents(log_earnings: np.ndarray, employed: np.ndarray) -> np.ndarray:
    return np.where(employed, np.maximum(np.exp(log_earnings) * 100, 5_000), 0).astype(np.int64)


def _training(
    people: People,
    timeline: Timeline,
    person: np.ndarray,
    years: np.ndarray,
    need: np.ndarray,
    log_earnings: np.ndarray,
    employed: np.ndarray,
    lost: np.ndarray,
) -> Training:
    """Who enters what and when: after low or lost earnings more often (Ashenfelter's dip)."""
    rng = stream(people.seed, "training", people.block)
    quarters = timeline.quarters
    n = len(person)
    found = []
    busy_until = np.full(n, -1)
    for i, period in enumerate(quarters):
        before = max(i - 1, 0)
        prior = np.where(employed[:, before], log_earnings[:, before], 7.2)
        # Of what wage records tell of the time before, and of nothing else that moves earnings: an
        # evaluation that adjusts for it can find the true effect.
        score = -5.45 - 0.30 * (prior - 8.8) + 1.1 * lost[:, before] + 0.9 * lost[:, max(i - 2, 0)]
        able = (years >= 18) & (years < 62) & (busy_until < i)
        enter = np.flatnonzero(able & chance(rng, 1 / (1 + np.exp(-score)), n))
        busy_until[enter] = i + 6
        lean = np.array([p.prior for p in PROGRAMMES])
        language = people.language[person[enter]] > 0
        taste = np.exp(lean[None, :] * (prior[enter, None] - 8.8) * 0.6)
        taste[:, -1] *= np.where(language, 3.0, 0.05)
        edges = (taste / taste.sum(axis=1, keepdims=True)).cumsum(axis=1)
        programme = np.minimum((rng.random(len(enter))[:, None] > edges).sum(axis=1), len(lean) - 1)
        entry = period.first + rng.integers(0, 88, len(enter))
        length = np.array([p.months for p in PROGRAMMES])[programme] * 30.4
        done = chance(rng, np.clip(0.68 - 0.06 * need[enter], 0.3, 0.9), len(enter))
        share = np.where(done, 1.0, rng.uniform(0.15, 0.8, len(enter)))
        leave = entry + (length * share * rng.uniform(0.85, 1.2, len(enter))).astype(np.int64)
        credential = done & chance(rng, 0.72, len(enter))
        found.append(
            (person[enter], programme, entry, leave, done, credential, np.exp(prior[enter]))
        )
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return Training(*columns)


def _apply(
    training: Training,
    people: People,
    timeline: Timeline,
    person: np.ndarray,
    log_earnings: np.ndarray,
    employed: np.ndarray,
) -> None:
    """Add the true effects to the panels (in place); while in training people earn less."""
    rng = stream(people.seed, "training effect", people.block)
    row = np.full(len(people), -1)
    row[person] = np.arange(len(person))
    rows = row[training.person]
    effect = np.array([p.effect for p in PROGRAMMES])[training.programme]
    effect = np.where(training.completed, effect, effect / 2)
    gain = np.array([p.employment for p in PROGRAMMES])[training.programme]
    placed = rng.random(len(rows))
    for i, period in enumerate(timeline.quarters):
        after = training.exit < period.first
        during = (training.entry <= period.last) & ~after
        log_earnings[rows[after], i] += effect[after]
        log_earnings[rows[during], i] -= 0.35
        found = after & ~employed[rows, i] & (placed < gain * 2.5)
        employed[rows[found], i] = True
