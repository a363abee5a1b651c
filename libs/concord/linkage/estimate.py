"""How often levels agree: u from random pairs, m by EM from counts per pattern. Pure numpy.

Method: Fellegi and Sunter (1969); EM as in Winkler (1988) and Jaro (1989), in several trainings as
Splink does: pairs that agree on some comparisons teach the m of the others. u is held while m is
sought. What the model never links is no pair of one person. Pairs of which a steward has said what
they are take part as such (Larsen and Rubin 2001; Enamorado, Fifield and Imai 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from concord.errors import QualityError
from concord.linkage.compare import patterns
from concord.linkage.keys import Sizes
from concord.linkage.model import SHARES, Model
from concord.linkage.patterns import MISSING, Floats, Integers, Weights, meets, probability
from concord.linkage.values import Flags, Part, Records

RANDOM_PAIRS = 1_000_000
ROUNDS, ENOUGH = 500, 1e-9
# Fewer pairs teach nothing.
FEWEST = 100
HALF = 0.5  # added to each level's count, so that what was not seen is rare and not impossible
TINY = 1e-300  # no likelihood is less, so that its logarithm is finite
# What the pairs at hand did not show, such as a wrong sex, agencies still do now and then.
RAREST = 0.002


@dataclass(frozen=True)
class Training:
    """One EM: which comparisons it taught from how many pairs, in how many rounds, and the share
    of them that it takes for pairs of one person. `likelihood`: log-likelihood (natural) a pair.
    `labelled`: how many of the pairs somebody has judged."""

    on: str
    taught: tuple[str, ...]
    pairs: int
    rounds: int
    share: float
    likelihood: float
    labelled: int = 0


@dataclass(frozen=True)
class Labels:
    """Pairs that somebody has judged, among those that were compared: pattern -> pairs.

    `one`: those of one person; `two`: of two. Each counts as `weight` pairs. With a weight of 1 it
    biases nothing if the judged pairs were chosen by what they agree on. A heavier weight trusts
    them more than the other pairs, and then what was looked at matters (Enamorado, Fifield, Imai,
    "Using a Probabilistic Model to Assist Merging of Large-Scale Administrative Records", American
    Political Science Review 113(2), 2019).
    """

    one: Mapping[int, int]
    two: Mapping[int, int]
    weight: float = 1.0


@dataclass(frozen=True)
class _Pairs:
    """Pairs by pattern, an entry each. `n`: those not judged; `one`, `two`: those of one person and
    of two, as often as they count; `judged`: both, as often as there are."""

    levels: Integers
    n: Floats
    one: Floats
    two: Floats
    judged: Floats

    def where(self, some: Flags) -> _Pairs:
        return _Pairs(*(getattr(self, field.name)[some] for field in fields(self)))

    @property
    def count(self) -> int:
        return int((self.n + self.judged).sum())


@dataclass(frozen=True)
class Fit:
    """A fitted model, how it came about, and what looks wrong about it."""

    model: Model
    trainings: tuple[Training, ...]
    warnings: tuple[str, ...]


def random_patterns(
    model: Model, records: Records, id: str, *, pairs: int = RANDOM_PAIRS, seed: int = 1
) -> Integers:
    """Patterns of pairs of rows drawn at random, of different records."""
    rng = np.random.default_rng(seed)
    rows = records.rows.num_rows
    if rows < 2:
        return np.zeros(0, dtype=np.int64)
    # Two of few records are one person too often to be called random: each pair once at most.
    pairs = min(pairs, rows * (rows - 1) // 2)
    left, right = rng.integers(0, rows, pairs), rng.integers(0, rows, pairs)
    who = records.rows[id].combine_chunks().dictionary_encode()
    codes = who.indices.to_numpy(zero_copy_only=False)
    other = codes[left] != codes[right]
    found = [
        patterns(model.compiled, records, left[other][some], right[other][some])
        for some in np.array_split(np.arange(int(other.sum())), max(1, pairs // 1_000_000))
    ]
    return np.concatenate(found)


def chance(
    model: Model, drawn: Integers, frequent: Mapping[str, Sizes], *, records: int
) -> dict[str, Floats]:
    """u of each comparison's levels (missing: 1), by the digits of patterns.

    From patterns of random pairs; of a first level that is agreement on a value whose frequency
    matters, exactly from how many records have it (`frequent`: part -> sizes, of `records` rows).
    A comparison with `fixed_u` keeps what the model says.
    """
    levels = model.weights.space.decode(drawn)
    found = {}
    for column, (name, comparison) in enumerate(model.comparisons.items()):
        said = [share for level in comparison.levels.values() for share in level.each("u")]
        width = model.weights.space.widths[column]
        if comparison.fixed_u and len(said) == width - 1:
            found[name] = np.array([1.0, *said])
            continue
        found[name] = _shares(np.bincount(levels[:, column], minlength=width))
        first = next(iter(comparison.levels.values()))
        part = first.column or comparison.column or ""
        if first.test == "same" and first.frequencies and part in frequent:
            exact = _collisions(frequent[part], first.frequencies, records)
            rest = found[name][1 + len(exact) :]
            scale = (1 - exact.sum()) / max(rest.sum(), 1e-300)
            found[name] = np.concatenate([[1.0], exact, rest * scale])
    return found


def _collisions(sizes: Sizes, bounds: Sequence[float], records: int) -> Floats:
    """The chance that two rows that have a value have the same one, by its class."""
    having = float((sizes.size * sizes.keys).sum())
    which = np.searchsorted(np.array(bounds), sizes.size / records, side="right")
    pairs = sizes.keys * sizes.size * (sizes.size - 1.0)
    total = np.bincount(which, pairs, minlength=len(bounds) + 1)
    return np.asarray((total + HALF) / max(having * (having - 1), 1.0))


def provisional(model: Model, u: Mapping[str, Floats]) -> Weights:
    """Weights to tell hopeless pairs by, before m is known: a stronger level is likelier."""
    bits = []
    for name, comparison in model.comparisons.items():
        m = _fall(comparison.digits)
        bits.append((0.0, *np.log2(m / u[name][1:]).tolist()))
    return Weights(tuple(bits), model.weights.never)


def trainings(model: Model) -> list[tuple[str, dict[str, tuple[str, ...]]]]:
    """The model's training sets, or one for each blocking rule of which all parts are compared.

    A rule's set are the pairs on the first level of the comparisons of its columns, which it makes
    all of.
    """
    if model.training:
        return [(" and ".join(when), dict(when)) for when in model.training]
    found = []
    for rule in model.blocking:
        by_column = {
            comparison.column or of.column: (name, level)
            for name, comparison in model.comparisons.items()
            for level, of in list(comparison.levels.items())[:1]
            if of.test == "same"
        }
        parts = [Part.of(part) for part in rule.on]
        if all(part.transform is None and part.column in by_column for part in parts):
            when: dict[str, tuple[str, ...]] = {
                by_column[p.column][0]: (by_column[p.column][1],) for p in parts
            }
            if len(when) < len(model.comparisons):
                found.append((rule.name, when))
    return found


def fit(
    model: Model,
    counted: Mapping[int, int],
    u: Mapping[str, Floats],
    *,
    records: int | None = None,
    labels: Labels | None = None,
) -> Fit:
    """m by EM, u held. `counted`: pattern -> pairs of rows that were compared.

    `records`: how many there are, for the prior odds where the model says no `people`. `labels`:
    teach like other pairs where they are of a training set and the model may link them. Raises
    QualityError (exit 12) where the pairs cannot teach a comparison.
    """
    of = np.array(list(counted), dtype=np.int64)
    n = np.array(list(counted.values()), dtype=float)
    pairs = _pairs(model, of, n, labels or Labels({}, {}))
    names = list(model.comparisons)
    m: dict[str, Floats] = {}
    done = []
    sets = trainings(model)
    for title, when in sets:
        free = [name for name in names if name not in when]
        some = pairs.where(meets(pairs.levels, [model.numbers(when)]))
        if some.count < FEWEST:
            continue
        start = {names.index(name): _fall(model.comparisons[name].digits) for name in free}
        found, share, rounds, likelihood = _em(
            some, start, {names.index(name): u[name] for name in free}
        )
        if not np.isfinite(likelihood):
            raise QualityError(f"EM over the pairs of {title} diverges; see the levels' tests")
        new = [name for name in free if name not in m]
        m |= {name: found[names.index(name)] for name in new}
        judged = int(some.judged.sum())
        done.append(Training(title, tuple(new), some.count, rounds, share, likelihood, judged))
    absent = [name for name in names if name not in m]
    if absent:
        raise QualityError(
            f"no training set of {FEWEST} pairs or more teaches m of {', '.join(absent)}; there "
            f"are the sets {', '.join(t for t, _ in sets) or 'none'}. Add one to `training` that "
            "leaves them free, or say m and u in the model"
        )
    found_levels = {}
    for name in names:
        known = np.maximum(m[name][1:], RAREST)
        known = known / known.sum()
        found_levels[name] = {
            level: (_said(known, at), _said(u[name][1:], at))
            for level, at in model.comparisons[name].digits.items()
            if level != MISSING
        }
    fitted = model.with_levels(found_levels)
    if fitted.people is None and records is not None:
        people = _people(fitted, of, n, records)
        fitted = fitted.model_copy(update={"people": people})
    return Fit(fitted, tuple(done), tuple(out_of_order(fitted)))


def out_of_order(model: Model) -> list[str]:
    """Levels that weigh more than a stronger one, in words."""
    found = []
    for name, comparison in model.comparisons.items():
        said = list(comparison.levels.items())
        for (stronger, one), (weaker, other) in zip(said, said[1:], strict=False):
            if max(other.bits) > max(one.bits):
                found.append(
                    f"{name}: {weaker} weighs {max(other.bits):.1f} bits, more than {stronger} "
                    f"with {max(one.bits):.1f}; put it first, or join the two"
                )
    return found


def _pairs(model: Model, of: Integers, n: Floats, labels: Labels) -> _Pairs:
    """What may teach m: the pairs that the model may link. Those judged are among those counted."""
    one, two = (
        np.array([said.get(pattern, 0) for pattern in of.tolist()], dtype=float)
        for said in (labels.one, labels.two)
    )
    levels = model.weights.space.decode(of)
    weight = labels.weight
    every = _Pairs(levels, np.maximum(n - one - two, 0.0), weight * one, weight * two, one + two)
    return every.where(~meets(levels, model.weights.never) & (n > 0))


def _em(
    pairs: _Pairs, start: Mapping[int, Floats], u: Mapping[int, Floats]
) -> tuple[dict[int, Floats], float, int, float]:
    """m of the comparisons (columns of levels) of `u`, the share of pairs of one person among all,
    rounds, and log-likelihood a pair."""
    m = {c: np.concatenate([[1.0], start[c]]) for c in u}
    levels, total = pairs.levels, (pairs.n + pairs.one + pairs.two).sum()
    two_levels = np.ones(len(levels))
    for c, of in u.items():
        two_levels = two_levels * of[levels[:, c]]
    share, rounds, likelihood = 0.5, 0, 0.0
    while rounds < ROUNDS:
        rounds += 1
        one, two = np.full(len(levels), share), (1 - share) * two_levels
        for c in u:
            one = one * m[c][levels[:, c]]
        either = np.maximum(one + two, TINY)
        belongs = pairs.n * one / either + pairs.one
        before, share = share, float(belongs.sum() / total)
        told = pairs.n * np.log(either) + pairs.one * np.log(np.maximum(one, TINY))
        told += pairs.two * np.log(np.maximum(two, TINY))
        likelihood = float(told.sum() / total)
        for c in u:
            m[c] = _shares(np.bincount(levels[:, c], belongs, minlength=len(m[c])))
        if abs(share - before) < ENOUGH:
            break
    return m, share, rounds, likelihood


def _people(model: Model, of: Integers, n: Floats, records: int) -> int:
    """People such that the model expects as many pairs of one person as the prior odds say.

    Of `records` drawn records each pair is one person at 1 to `people`; all such pairs are taken
    to be among the candidates.
    """
    weights = model.weights.of(of)
    possible = records * (records - 1) / 2
    people = float(max(records, 2))
    for _ in range(ROUNDS):
        before = people
        matches = float((n * probability(weights, -np.log2(people))).sum())
        people = float(np.clip(possible / max(matches, 1.0), 2, possible + 2))
        if abs(people - before) < 0.5:
            break
    return round(people)


def _shares(counts: Integers | Floats) -> Floats:
    """Of levels other than missing, each one's share; missing gets 1, which weighs nothing."""
    smoothed = np.asarray(counts, dtype=float)[1:] + HALF
    return np.concatenate([[1.0], smoothed / smoothed.sum()])


def _fall(digits: Mapping[str, range]) -> Floats:
    """Where EM starts: a stronger level is twice as likely; its classes are equally so."""
    shares = []
    for rank, at in enumerate(digits.values()):
        if rank:
            shares += [0.5**rank / len(at)] * len(at)
    return np.asarray(shares) / sum(shares)


def _said(shares: Floats, at: range) -> float | tuple[float, ...]:
    """The shares of a level's classes; a number where there is one."""
    some = tuple(float(share) for share in shares[at.start - 1 : at.stop - 1])
    return some if len(some) > 1 else some[0]


def as_yaml(model: Model) -> str:
    """The fitted levels, comparison by comparison, to copy into a file."""
    lines = ["comparisons:"]
    for name, comparison in model.comparisons.items():
        lines.append(f"  {name}:")
        for level, of in comparison.levels.items():
            m, u = (_digits(of.each(which)) for which in SHARES)
            lines.append(f"    {level}: {{m: {m}, u: {u}}}")
    return "\n".join(lines)


def _digits(shares: Sequence[float]) -> str:
    """Short, and exact enough that a comparison's shares add up to 1 and none of them is 1."""
    said = [f"{min(one, 0.99999999):.8f}" if one > 0.99 else f"{one:.3g}" for one in shares]
    return said[0] if len(said) == 1 else f"[{', '.join(said)}]"
