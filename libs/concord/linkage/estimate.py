"""How often levels agree: u from random pairs, m by EM from counts per pattern. Pure numpy.

Method: Fellegi and Sunter (1969); EM as in Winkler (1988) and Jaro (1989), in several trainings as
Splink does: pairs that agree on some comparisons teach the m of the others. u is held while m is
sought. What the model never links is no pair of one person. Pairs of which a steward has said what
they are take part as such (Larsen and Rubin 2001; Enamorado, Fifield and Imai 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from concord.errors import QualityError
from concord.linkage.compare import patterns
from concord.linkage.dependence import Crossed, Crossing, Dependence, dependence
from concord.linkage.em import HALF, ROUNDS, Pairs, em, shares
from concord.linkage.keys import Sizes
from concord.linkage.model import SHARES, Model, Names, Shares
from concord.linkage.patterns import MISSING, Floats, Integers, Weights, meets, probability
from concord.linkage.values import PairedRows, Part, Records

RANDOM_PAIRS = 1_000_000
# Fewer pairs teach nothing.
FEWEST = 100
# Bits by which two levels may miss their sum, and Cramer's V, before one is told. Less V is seen
# where nothing depends: pairs that differ in much are not taken for one person.
MUCH, CLEAR = 2.0, 0.1
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
class Fit:
    """A fitted model, how it came about, and what looks wrong about it. `dependences`: of each two
    comparisons that one training set leaves free."""

    model: Model
    trainings: tuple[Training, ...]
    warnings: tuple[str, ...]
    dependences: tuple[Dependence, ...] = ()


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
        patterns(model.compiled, PairedRows(records, left[other][some], right[other][some]))
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
        found[name] = shares(np.bincount(levels[:, column], minlength=width))
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
    drawn: Integers | None = None,
) -> Fit:
    """m by EM, u held, and what declared interactions weigh. `counted`: pattern -> pairs of rows
    that were compared.

    `records`: how many there are, for the prior odds where the model says no `people`. `labels`:
    teach like other pairs where they are of a training set and the model may link them. `drawn`:
    patterns of random pairs, which tell how comparisons depend on each other among pairs of two.
    Raises QualityError (exit 12) where the pairs cannot teach a comparison.
    """
    of = np.array(list(counted), dtype=np.int64)
    n = np.array(list(counted.values()), dtype=float)
    pairs = _pairs(model, of, n, labels or Labels({}, {}))
    two = _between(model, np.zeros(0, dtype=np.int64) if drawn is None else drawn, u, records)
    taught = _taught(model, pairs, u, two)
    depend = tuple(taught.depend.values())
    fitted = model.with_levels(_levels(model, taught.m, u)).with_interactions(
        {each.of: each.bits.tolist() for each in depend}
    )
    if fitted.people is None and records is not None:
        people = _people(fitted, of, n, records)
        fitted = fitted.model_copy(update={"people": people})
    warnings = [*out_of_order(fitted), *not_independent(fitted, depend)]
    return Fit(fitted, tuple(taught.trainings), tuple(warnings), depend)


@dataclass(frozen=True)
class _Taught:
    """What training sets have taught: m by comparison, dependences by two of them."""

    m: dict[str, Floats]
    depend: dict[Names, Dependence]
    trainings: list[Training]


def _taught(
    model: Model, pairs: Pairs, u: Mapping[str, Floats], two: Mapping[Names, Crossed]
) -> _Taught:
    """One EM for each training set. Of what several leave free the first one counts of which FEWEST
    pairs say something; else, as nothing can be learned of it, the first one."""
    names, sets = list(model.comparisons), trainings(model)
    taught, silent = _Taught({}, {}, []), dict[str, Floats]()
    for title, when in sets:
        free = [name for name in names if name not in when]
        some = pairs.where(meets(pairs.levels, [model.numbers(when)]))
        if some.count < FEWEST:
            continue
        inside = [of for of in two if {*of} <= {*free}]
        declared = [each.of for each in model.interactions if each.of in inside]
        found = em(
            some,
            {names.index(name): _fall(model.comparisons[name].digits) for name in free},
            {names.index(name): u[name] for name in free},
            [(_crossing(model, of), two[of].ratio) for of in declared],
        )
        if not np.isfinite(found.likelihood):
            raise QualityError(f"EM over the pairs of {title} diverges; see the levels' tests")
        heard = {name: some.saying(names.index(name)) >= FEWEST for name in free}
        new = tuple(name for name in free if heard[name] and name not in taught.m)
        taught.m.update((name, found.m[names.index(name)]) for name in new)
        silent |= {name: found.m[names.index(name)] for name in free if name not in silent}
        for of in inside:
            if of not in taught.depend:
                one = _crossing(model, of).counted(some.levels, found.belongs)
                taught.depend[of] = dependence(of, one, two[of], fewest=FEWEST)
        told = (found.rounds, found.share, found.likelihood, int(some.judged.sum()))
        taught.trainings.append(Training(title, new, some.count, *told))
    taught.m.update((name, m) for name, m in silent.items() if name not in taught.m)
    if absent := [name for name in names if name not in taught.m]:
        raise QualityError(
            f"no training set of {FEWEST} pairs or more teaches m of {', '.join(absent)}; there "
            f"are the sets {', '.join(t for t, _ in sets) or 'none'}. Add one to `training` that "
            "leaves them free, or say m and u in the model"
        )
    return taught


def _levels(
    model: Model, m: Mapping[str, Floats], u: Mapping[str, Floats]
) -> dict[str, dict[str, tuple[Shares, Shares]]]:
    """Comparison -> level -> m, u. No m is less than RAREST before they are made to add up to 1."""
    found = {}
    for name, comparison in model.comparisons.items():
        known = np.maximum(m[name][1:], RAREST)
        known = known / known.sum()
        found[name] = {
            level: (_said(known, at), _said(u[name][1:], at))
            for level, at in comparison.digits.items()
            if level != MISSING
        }
    return found


def _crossing(model: Model, of: Names) -> Crossing:
    names = list(model.comparisons)
    first, second = of
    return Crossing(
        (names.index(first), names.index(second)),
        (model.comparisons[first].ranks, model.comparisons[second].ranks),
    )


def _between(
    model: Model, drawn: Integers, u: Mapping[str, Floats], records: int | None
) -> dict[Names, Crossed]:
    """Random pairs of two persons by the levels of each two comparisons, those that are declared as
    they are.

    A few of the random pairs are of one person. They agree on nearly all, and a few are enough to
    make rare levels look as if they went together: each counts by its chance to be of two.
    """
    distinct, found = np.unique(drawn, return_counts=True)
    weights = model.weights if model.fitted else provisional(model, u)
    prior = -np.log2(max(model.people or records or len(drawn), 2))
    n = found * (1 - probability(weights.of(distinct), prior))
    digits = model.weights.space.decode(distinct)
    declared = {frozenset(each.of): each.of for each in model.interactions}
    every = [declared.get(frozenset(of), of) for of in combinations(model.comparisons, 2)]
    return {of: _crossing(model, of).counted(digits, n) for of in every}


def not_independent(model: Model, found: Iterable[Dependence]) -> list[str]:
    """Comparisons of which two levels weigh much more or less together than their sum, in words;
    none of those for which the model has an interaction."""
    declared = {frozenset(each.of) for each in model.interactions}
    told = []
    for each in found:
        at = each.largest
        if at is None or frozenset(each.of) in declared:
            continue
        if abs(each.bits[at]) < MUCH or max(each.one, each.two) < CLEAR:
            continue
        levels = [list(model.comparisons[c].levels)[i] for c, i in zip(each.of, at, strict=True)]
        told.append(
            f"{' and '.join(each.of)} depend on each other (Cramer's V {each.one:.2f} of one "
            f"person, {each.two:.2f} of two): {' and '.join(levels)} weigh {each.bits[at]:+.1f} "
            f"bits besides their sum; join the two, or declare interactions: [{{of: "
            f"[{', '.join(each.of)}]}}]"
        )
    return told


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


def _pairs(model: Model, of: Integers, n: Floats, labels: Labels) -> Pairs:
    """What may teach m: the pairs that the model may link. Those judged are among those counted."""
    one, two = (
        np.array([said.get(pattern, 0) for pattern in of.tolist()], dtype=float)
        for said in (labels.one, labels.two)
    )
    levels = model.weights.space.decode(of)
    weight = labels.weight
    every = Pairs(levels, np.maximum(n - one - two, 0.0), weight * one, weight * two, one + two)
    return every.where(~meets(levels, model.weights.never) & (n > 0))


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
    if model.interactions:
        lines.append("interactions:")
    for each in model.interactions:
        lines += [f"  - of: [{', '.join(each.of)}]", "    bits:"]
        for level, row in each.bits.items():
            said = ", ".join(f"{other}: {bits:.2f}" for other, bits in row.items())
            lines.append(f"      {level}: {{{said}}}")
    return "\n".join(lines)


def rounded(shares: Sequence[float]) -> list[str]:
    """Short, and exact enough that a comparison's shares add up to 1 and none of them is 1."""
    return [f"{min(one, 0.99999999):.8f}" if one > 0.99 else f"{one:.3g}" for one in shares]


def _digits(shares: Sequence[float]) -> str:
    said = rounded(shares)
    return said[0] if len(said) == 1 else f"[{', '.join(said)}]"
