"""Quality without labels: link without the SSN, then look at the SSN. Pure.

As the Census Bureau checks its Person Identification Validation System: records that have an SSN
are searched for as if they had none, and the SSN tells right from wrong (Wagner and Layne, "The
Person Identification Validation System (PVS)", CARRA Working Paper 2014-01; Layne, Wagner and
Rothhaas, CARRA Working Paper 2014-02).

Blocking is held out with the weights: a pair that only a rule on the SSN makes has not been found.
A pair belongs to the first rule that makes it, so this can be told only where the `blind` rules,
which do not read the SSN, come before the others. Where they do not, every pair counts as found:
recall is that of the weights alone, and precision is flattered by pairs that have one SSN because
their SSN made them.

What it cannot see: pairs of records without SSN, who are other people (children, newcomers); wrong
SSNs, which make a right link look wrong; pairs that no rule makes. A pattern's `differ` does not
tell nine digits from the last four, so two records that have nothing but different last four count
as different, while those with the same last four are left out: precision is a little understated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from concord.linkage.arrays import distinct
from concord.linkage.intervals import Share
from concord.linkage.model import Model
from concord.linkage.patterns import Floats, Integers, probability
from concord.linkage.values import Part

Flags = npt.NDArray[np.bool_]

SSN = "ssn"
EXACT, NEAR, DIFFER = "exact", "near", "differ"
# Of the probability: fine at both ends, where nearly all pairs are.
BINS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Judged:
    """Pairs, or kinds of pairs, with the SSN held out; an entry each.

    chance: the probability that the two are one person, without the SSN.
    found: a rule that does not read the SSN makes it.
    linked: it is found, and weighs as much as the threshold without the SSN.
    told: both say an SSN (or its last four, and they differ).
    same: the SSNs are exactly or nearly the same.
    true: the SSNs are the same, and the model does not rule the pair out.
    reach: what both say without the SSN could weigh as much as the threshold if all of it agreed,
        on values as rare as those that do agree, and a rule that does not read the SSN could make
        the pair.
    """

    chance: Floats
    found: Flags
    linked: Flags
    told: Flags
    same: Flags
    true: Flags
    reach: Flags

    @property
    def shares(self) -> dict[str, tuple[Flags, Flags]]:
        """Measure -> of which pairs it is the share, and which are the part."""
        return {
            "holdout_precision": (self.told & self.linked, self.same),
            "holdout_recall": (self.true, self.linked),
            "holdout_reach": (self.true, self.reach),
            "holdout_recall_in_reach": (self.true & self.reach, self.linked),
        }


def can_hold_out(model: Model) -> bool:
    """Whether the model has a comparison of SSNs with the levels that this reads."""
    return SSN in model.comparisons and {EXACT, NEAR, DIFFER} <= set(model.comparisons[SSN].levels)


def judged(model: Model, pairs: pa.Table, *, threshold: float) -> Judged:
    """The pairs as they are without the SSN; what never links is looked at anew.

    `pairs`: pattern, rule (its name). `threshold` in bits of match weight.
    """
    weights, column = model.weights, list(model.comparisons).index(SSN)
    patterns, place = distinct(pairs["pattern"].to_numpy())
    levels, digits = weights.space.decode(patterns), model.comparisons[SSN].digits
    ssn = levels[:, column].copy()
    exact, near, differ = (np.isin(ssn, list(digits[name])) for name in (EXACT, NEAR, DIFFER))
    levels[:, column] = 0
    weight = weights.of(weights.space.encode(levels))
    reach = (_most(model, levels) >= threshold) & _could_be_made(model, levels > 0)
    found = np.ones(pairs.num_rows, dtype=bool)
    if blind_first(model):
        by = pc.is_in(pairs["rule"], value_set=pa.array(blind(model), pa.string()))
        found = by.to_numpy().astype(bool)
    return Judged(
        probability(weight, model.prior_bits)[place],
        found,
        linked=found & (weight >= threshold)[place],
        told=(exact | near | differ)[place],
        same=(exact | near)[place],
        true=(exact & ~weights.refuses(patterns))[place],
        reach=reach[place],
    )


def _most(model: Model, levels: Integers) -> Floats:
    """The heaviest that pairs can be: of values that agree their own rarity, of others the rarest.

    `levels`: a row per pair, a column per comparison: the digits of its pattern.
    """
    most = model.weights.most(levels > 0)
    for place, comparison in enumerate(model.comparisons.values()):
        bits = np.array(model.weights.bits[place])
        for name, level in comparison.levels.items():
            if level.classes > 1:
                agree = np.isin(levels[:, place], comparison.digits[name])
                most[agree] += bits[levels[agree, place]] - bits.max()
    return most


def shares(of: Judged, pairs: Integers) -> dict[str, Share]:
    """Measures over all pairs. `pairs`: how many have each pattern."""
    return {
        name: Share(int(pairs[whole & part].sum()), int(pairs[whole].sum()))
        for name, (whole, part) in of.shares.items()
    }


def expected(of: Judged, pairs: Integers) -> dict[str, float]:
    """Precision and recall of what is found, by the model's own probabilities without the SSN.

    Over pairs of which both say an SSN. Nothing where no pair is linked or none expected.
    """
    chance = np.where(of.told & of.found, of.chance * pairs, 0.0)
    linked, right = float(pairs[of.told & of.linked].sum()), float(chance[of.linked].sum())
    result = {}
    if linked:
        result["holdout_expected_precision"] = right / linked
    if chance.sum():
        result["holdout_expected_recall_of_found"] = right / float(chance.sum())
    return result


@dataclass(frozen=True)
class Bin:
    """Pairs whose probability lies from `low` to `high`: the mean one, and how many have one
    SSN."""

    low: float
    high: float
    expected: float
    observed: Share

    @property
    def name(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def calibration(of: Judged, pairs: Integers) -> list[Bin]:
    """Probability without the SSN against the share with one SSN, of pairs that are found; bins
    without pairs are left out."""
    bins = []
    for low, high in pairwise(BINS):
        inside = of.told & of.found & (of.chance >= low)
        inside &= (of.chance < high) | (high == BINS[-1])
        if whole := int(pairs[inside].sum()):
            mean = float((pairs[inside] * of.chance[inside]).sum()) / whole
            bins.append(Bin(low, high, mean, Share(int(pairs[inside & of.same].sum()), whole)))
    return bins


def blind(model: Model) -> list[str]:
    """The blocking rules that read nothing that the comparison of SSNs reads."""
    seen = dict(zip(model.comparisons, _columns(model), strict=True))[SSN]
    return [
        rule.name
        for rule in model.rules
        if not seen & {Part.of(part).column for part in (*rule.on, *rule.refine)}
    ]


def _columns(model: Model) -> list[set[str]]:
    """What each comparison reads."""
    return [
        {Part.of(part).column for level in compared.levels for part in level.when.reads}
        for compared in model.compiled
    ]


def _could_be_made(model: Model, says: Flags) -> Flags:
    """Whether both records say what one of the `blind` rules asks.

    `says`: a row per pattern, a column per comparison. Of a column that no comparison reads it is
    not known, and taken to be there.
    """
    read, names = _columns(model), set(blind(model))
    found = np.zeros(len(says), dtype=bool)
    for rule in model.rules:
        if rule.name in names:
            asked = [[Part.of(part).column in of for of in read] for part in rule.on]
            told = [says[:, which].any(axis=1) for which in np.array(asked) if which.any()]
            found |= np.logical_and.reduce(told, axis=0) if told else True
    return found


def blind_first(model: Model) -> bool:
    """Whether all `blind` rules come before all others, so that a pair belongs to another rule only
    if no blind one makes it."""
    names = blind(model)
    return bool(names) and [rule.name for rule in model.rules][: len(names)] == names


def blocking_recall(of: Judged, pairs: Integers) -> Share:
    """Of pairs with one SSN, the share that a rule makes which does not read it.

    Counted of pairs of variants: a pair of records is made if one of its pairs of variants is, so
    that of records it is rather more.
    """
    return Share(int(pairs[of.true & of.found].sum()), int(pairs[of.true].sum()))
