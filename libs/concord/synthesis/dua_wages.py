"""`dua_wages`: employers' quarterly wage reports. One row per employer, person and quarter."""

from __future__ import annotations

import numpy as np

from concord.synthesis.blocks import Block, FeedPart, Known, Rows
from concord.synthesis.identity import DUA, observe

INDUSTRIES = (
    "722511",
    "622110",
    "611110",
    "445110",
    "541511",
    "561720",
    "623110",
    "236220",
    "484110",
)


def tables(block: Block) -> FeedPart:
    """Wage records of all quarters; the name is as the employer wrote it when the job began."""
    rng = block.rng("dua_wages")
    panel = block.work
    adult, quarter = np.nonzero(panel.earnings > 0)
    cents = panel.earnings[adult, quarter]
    second = panel.second[adult, quarter]
    part = np.where(second >= 0, cents * panel.second_share[adult], 0).astype(np.int64)
    twice = second >= 0
    adult = np.concatenate([adult, adult[twice]])
    employer = np.concatenate([panel.employer[adult[: len(quarter)], quarter], second[twice]])
    cents = np.concatenate([cents - part, part[twice]])
    quarter = np.concatenate([quarter, quarter[twice]])

    # One identity per job: a person at an employer.
    job, job_of = np.unique(adult * 100_000 + employer, return_inverse=True)
    people = block.people
    identity = observe(people, panel.person[job // 100_000], DUA, rng, block.timeline.start)
    # A wage record's number is never missing.
    identity.ssn[identity.ssn == None] = "000000000"  # noqa: E711  # elementwise
    account = (10_000_000 + (job % 100_000) * 37).astype(str).astype(object)
    first = np.array([p.first for p in block.timeline.quarters])
    order = np.lexsort((employer, job_of, quarter))
    quarter, job_of, cents = quarter[order], job_of[order], cents[order]
    when = first[quarter]
    names = np.array([p.name.replace("-", "") for p in block.timeline.quarters], dtype=object)
    hours = np.clip(cents / 100 / rng.uniform(17, 45, len(cents)), 8, 620).astype(np.int64)
    rows = Rows(
        quarter,
        {
            "employer_account": account[job_of],
            "ssn": identity.ssn[job_of],
            "last_name": capitals(identity.family_on(job_of, when), 14),
            "first_name": capitals(identity.given[job_of], 10),
            "middle_initial": identity.middle[job_of],
            "quarter": names[quarter],
            "wages": cents,
            "hours": hours,
            "industry": np.array(INDUSTRIES, dtype=object)[job[job_of] % 100_000 % len(INDUSTRIES)],
        },
    )
    key = account + "|" + identity.ssn
    return FeedPart({"wages": rows}, [Known.of("worker", key, identity)])


def capitals(names: np.ndarray, length: int) -> np.ndarray:
    """Plain capitals without accents, cut to `length`: what a fixed-width file can hold."""
    distinct, place = np.unique(names.astype(str), return_inverse=True)
    plain = np.array([to_ascii(name)[:length].strip() for name in distinct], dtype=object)
    return plain[place]


ACCENTS = str.maketrans("ÁÉÍÓÚÑÇÃÕÂÊÔÜ", "AEIOUNCAOAEOU")


def to_ascii(name: str) -> str:
    return name.upper().translate(ACCENTS)
