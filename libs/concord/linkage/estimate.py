"""How often levels agree: u from random pairs, m by EM from counts per pattern.

Method: Fellegi and Sunter (1969); EM as in Winkler (1988) and Jaro (1989), in two trainings as
Splink does: pairs with one SSN teach the m of all other comparisons, pairs with one given name
and birth date teach that of the SSN. u is held while m is sought. What the model never links is no
pair of one person. The u of the SSN is by reckoning (docs/person-index.md): of random pairs too
few agree by chance to count them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pyspark.sql import functions as F

from concord.errors import UsageError
from concord.lake.tables import Lake
from concord.linkage import tables
from concord.linkage.compare import Records, patterns
from concord.linkage.model import Level, PersonIndex
from concord.linkage.patterns import LEVELS, Comparison, Floats, Integers, decode, number

RANDOM_PAIRS = 4_000_000
SAMPLE = 500_000
ROUNDS, ENOUGH = 500, 1e-9
HALF = 0.5  # added to each level's count, so that what was not seen is rare and not impossible
# What the pairs at hand did not show, such as a wrong sex, agencies still do now and then.
RAREST = 0.002
NAMES = list(LEVELS)
Fitted = dict[str, dict[str, Level]]


def random_patterns(records: Records, *, pairs: int = RANDOM_PAIRS, seed: int = 1) -> Integers:
    """Patterns of pairs drawn at random of which the SSNs, if known, are not equal."""
    rng = np.random.default_rng(seed)
    rows = records.rows.num_rows
    left, right = rng.integers(0, rows, pairs), rng.integers(0, rows, pairs)
    who = records.texts("record_id").codes
    other = who[left] != who[right]
    found = patterns(records, left[other], right[other])
    same_ssn = decode(found)[:, NAMES.index("ssn")] == number("ssn", "exact")
    return found[~same_ssn]


def fit(counted: Mapping[int, int], drawn: Integers, model: PersonIndex) -> Fitted:
    """m and u of every comparison, rounded; `counted`: pattern -> pairs of variants compared."""
    drawn_levels = decode(drawn)
    u = [
        _shares(np.bincount(drawn_levels[:, c], minlength=len(LEVELS[name]) + 1))
        for c, name in enumerate(NAMES)
    ]
    ssn = NAMES.index("ssn")
    u[ssn] = np.array([1.0, *(level.u for level in _ordered(model, "ssn"))])
    of = np.array(list(counted), dtype=np.int64)
    n = np.array(list(counted.values()), dtype=float)
    levels = decode(of)
    n = np.where(np.isneginf(model.weights.of(of)), 0.0, n)
    same_ssn = levels[:, ssn] == number("ssn", "exact")
    named = np.isin(levels[:, NAMES.index("given")], [number("given", "exact")])
    born = levels[:, NAMES.index("birth")] == number("birth", "exact")
    m = _em(levels[same_ssn], n[same_ssn], u, skip={"ssn"})
    taught = _em(levels[named & born], n[named & born], u, skip={"given", "birth"}, known=m)
    m[ssn] = taught[ssn]
    for c in range(len(NAMES)):
        known = np.maximum(m[c][1:], RAREST)
        m[c] = np.concatenate([[1.0], known / known.sum()])
    return {
        name: {
            level: Level(m=float(m[c][k + 1]), u=float(u[c][k + 1]))
            for k, level in enumerate(LEVELS[name])
        }
        for c, name in enumerate(NAMES)
    }


def _em(
    levels: Integers,
    n: Floats,
    u: list[Floats],
    *,
    skip: set[str],
    known: list[Floats] | None = None,
) -> list[Floats]:
    """m by comparison from one block of pairs; `known` ones are held. Missing tells nothing."""
    used = [c for c, name in enumerate(NAMES) if name not in skip]
    m = [
        known[c].copy() if known else np.concatenate([[1.0], _fall(len(LEVELS[name]))])
        for c, name in enumerate(NAMES)
    ]
    if known:
        c = NAMES.index("ssn")
        m[c] = np.concatenate([[1.0], _fall(len(LEVELS["ssn"]))])
    share = 0.5
    for _ in range(ROUNDS):
        one, two = np.full(len(levels), share), np.full(len(levels), 1 - share)
        for c in used:
            one = one * m[c][levels[:, c]]
            two = two * u[c][levels[:, c]]
        belongs = one / np.maximum(one + two, 1e-300)
        before, share = share, float((n * belongs).sum() / max(n.sum(), 1.0))
        for c in used:
            if known and NAMES[c] != "ssn":
                continue
            counts = np.bincount(levels[:, c], n * belongs, minlength=len(m[c]))
            m[c] = _shares(counts)
        if abs(share - before) < ENOUGH:
            break
    return m


def _shares(counts: Integers | Floats) -> Floats:
    """Of levels other than missing, each one's share; missing gets 1, which weighs nothing."""
    smoothed = np.asarray(counts, dtype=float)[1:] + HALF
    return np.concatenate([[1.0], smoothed / smoothed.sum()])


def _fall(levels: int) -> Floats:
    """Where EM starts: the strongest level is the likeliest."""
    start = 0.5 ** np.arange(1, levels + 1)
    return np.asarray(start / start.sum(), dtype=float)


def _ordered(model: PersonIndex, name: Comparison) -> list[Level]:
    of = model.comparisons[name]
    return [of[level] for level in LEVELS[name]]


def as_yaml(fitted: Fitted) -> str:
    """The fitted levels as `comparisons` of conf/person_index.yaml."""
    lines = ["comparisons:"]
    for name, levels in fitted.items():
        lines.append(f"  {name}:")
        for level, of in levels.items():
            lines.append(f"    {level}: {{m: {_digits(of.m)}, u: {_digits(of.u)}}}")
    return "\n".join(lines)


def _digits(share: float) -> str:
    """Short, and exact enough that a comparison's shares add up to 1 and none of them is 1."""
    return f"{min(share, 0.99999999):.8f}" if share > 0.99 else f"{share:.3g}"


def estimated(lake: Lake, model: PersonIndex) -> str:
    """m and u as the last run's records and pairs tell them, as YAML. Reads; writes nothing.

    Random pairs come from at most SAMPLE variants, the same ones each time.
    """
    if not lake.exists(tables.PATTERNS):
        raise UsageError("--estimate needs pairs: run concord index first")
    counts = lake.read(tables.PATTERNS).groupBy("pattern").agg(F.sum("pairs").alias("pairs"))
    counted = {row["pattern"]: row["pairs"] for row in counts.collect()}
    records = lake.read(tables.RECORDS).orderBy(F.xxhash64("record_id", "variant")).limit(SAMPLE)
    rows = records.orderBy("record_id", "variant").toArrow()
    return as_yaml(fit(counted, random_patterns(Records(rows, model.nearness)), model))
