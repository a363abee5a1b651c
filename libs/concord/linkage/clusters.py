"""From weighted pairs to clusters: average linkage inside loose components. Pure numpy.

The records of a cluster speak about one person by the mean of all their pairs: one strong false
pair does not join two families, and one missing pair does not part a person. All components are
worked on at once, by arrays. Workers import this module: it imports little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from concord.linkage.patterns import Floats, Integers

Flags = npt.NDArray[np.bool_]
Pairs = tuple[Integers, Integers]  # record numbers; which of the two comes first says nothing

NONE: Pairs = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
STEP = 2.0  # bits by which the weight is raised inside a component that is too large
# Bits of a pair that was not compared, or not kept: mild, for blocking misses pairs of one person,
# but one pair out of four does not join two and two records, be it as strong as can be.
ABSENT = -7.0
CLIP = 20.0  # bits: no pair says more for a link, so none outweighs all others of its cluster
MORE_AGAINST = 1.0  # bits below -CLIP: against, a pair may say so much more than any for it
# Weights are whole units, this many to a bit: sums are exact whatever the order of the pairs.
UNITS = 2.0**20
LAST = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class Clusters:
    """`of[r]`: number of record `r`'s cluster, counted by each cluster's first record.

    `parted`: components above the limit that were parted; `whole`: parts above it that no weight
    parts, for all their links are of the heaviest, or must be. Average linkage may part them yet.
    `again[r]`: whether record `r`'s component was looked at; None: all were.
    """

    of: Integers
    parted: int
    whole: int
    again: Flags | None = None

    @property
    def number(self) -> int:
        """How many clusters there are."""
        return int(self.of.max(initial=-1)) + 1


@dataclass(frozen=True)
class _Edges:
    """Pairs of nodes, `one` < `other`, each pair once.

    `excess`: by how many units all the pairs of records between the two nodes together weigh more
    than if they were absent. `apart`: the two must not be of one cluster.
    """

    one: Integers
    other: Integers
    excess: Floats
    apart: Flags

    def where(self, wanted: Flags) -> _Edges:
        return _Edges(self.one[wanted], self.other[wanted], self.excess[wanted], self.apart[wanted])

    def between(self, name: Integers) -> _Edges:
        """Edges between what `name` calls the nodes, without those inside one."""
        outer = self.where(name[self.one] != name[self.other])
        one, other, order, starts = _runs(name[outer.one], name[outer.other], len(name))
        excess = np.add.reduceat(outer.excess[order], starts)
        return _Edges(one, other, excess, np.logical_or.reduceat(outer.apart[order], starts))

    def barring(self, left: Integers, right: Integers) -> _Edges:
        """These edges, and apart ones between pairs that are not of one cluster."""
        return _Edges(
            np.concatenate([self.one, left]),
            np.concatenate([self.other, right]),
            np.concatenate([self.excess, np.zeros(len(left))]),
            np.concatenate([self.apart, np.ones(len(left), dtype=bool)]),
        )

    def means(self, size: Integers) -> Floats:
        """Units by which the mean weight exceeds an absent one; minus infinity if apart."""
        return np.where(self.apart, -np.inf, self.excess / (size[self.one] * size[self.other]))

    def parted(self, sole: _Sole) -> _Edges:
        """The same, nodes that hold a source in common apart."""
        return replace(self, apart=self.apart | sole.shared(self.one, self.other))


@dataclass(frozen=True)
class _Sole:
    """Which nodes hold records of which sources that have a person once.

    `codes`: `node * width + source`, sorted.
    """

    codes: Integers
    width: int

    def where(self, wanted: Flags) -> _Sole:
        return replace(self, codes=self.codes[wanted[self.codes // self.width]])

    def named(self, name: Integers) -> _Sole:
        """What nodes hold by the names that they have now."""
        node, source = np.divmod(self.codes, self.width)
        return replace(self, codes=np.sort(name[node] * self.width + source))

    def shared(self, one: Integers, other: Integers) -> Flags:
        """Pairs of nodes that hold one source."""
        if not len(self.codes):
            return np.zeros(len(one), dtype=bool)
        begin, end = (np.searchsorted(self.codes, (one + n) * self.width) for n in (0, 1))
        count = end - begin
        pair = np.repeat(np.arange(len(one)), count)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        source = self.codes[begin[pair] + nth] % self.width
        sought = other[pair] * self.width + source
        here = np.searchsorted(self.codes, sought)
        both = self.codes[np.minimum(here, len(self.codes) - 1)] == sought
        return np.bincount(pair[both], minlength=len(one)) > 0


def clusters(
    records: int,
    left: Integers,
    right: Integers,
    weight: Floats,
    *,
    threshold: float,
    limit: int,
    loose: float | None = None,
    absent: float = ABSENT,
    clip: float = CLIP,
    must: Pairs = NONE,
    cannot: Pairs = NONE,
    alone: Integers | None = None,
    known: Integers | None = None,
    touched: Flags | None = None,
) -> Clusters:
    """Average linkage (UPGMA; Sokal and Michener 1958) inside components of loose links.

    `left`, `right`, `weight`: pairs of record numbers, and log2 of the odds that a pair is one
    person, so 0 is even odds; minus infinity where the model rules it out. Of a pair given twice
    the heavier counts. Links of at least `loose` bits and must-links make components. Inside one
    of more than `limit` records `loose` is raised, step by step, until all its parts are within
    the limit or only the heaviest links are left. Inside a part the two clusters of the highest
    mean weight, over all pairs between them, are merged while that is at least `threshold`. A
    weight is clipped to `clip` bits, one against it to MORE_AGAINST below -clip; a pair that is not
    given weighs `absent`.

    `loose` is the threshold, or higher: two clusters whose mean reaches the threshold have a link
    that does, so a lower one would find larger components, but no other clusters.

    `must`: pairs of one cluster. `cannot`: pairs never of one cluster. `alone[r]`: number of a
    source that has a person at most once, or -1; two records of such a source are not of one
    cluster unless they must.

    `known[r]`: number of the cluster that record `r` was of, by the same arguments; `touched[r]`:
    whether since then `r` came, changed, or lost or won a pair or a constraint, all who had a pair
    with a record that is gone among them. Components without such a record are as they were.

    Raises ValueError if must and cannot contradict each other, if a weight is no number or plus
    infinity, unless -clip <= absent < threshold <= clip.
    """
    check(threshold=threshold, absent=absent, clip=clip, must=must, cannot=cannot)
    if not np.all(weight < np.inf):
        raise ValueError("a weight is no number, or plus infinity")
    floor = threshold if loose is None else max(loose, threshold)
    # A node is what must-links join; nodes are in the order of their first records.
    node = _by_first(_components(records, *must)) if len(must[0]) else np.arange(records)
    left, right, units = _once(left, right, np.rint(weight * UNITS), records)
    size = np.bincount(node)
    component, part, parted, whole = _parts(
        size, node[left], node[right], units, _units(floor), limit
    )
    held = np.zeros(records, dtype=bool)
    if known is not None and touched is not None:
        held = (np.bincount(component[node], touched) == 0)[component[node]]
    of = part[node]
    done = _complete(of, left, right, units >= _units(threshold), cannot, alone)[of]
    # The rest is numbered anew, part by part, so that what is worked on together lies together;
    # inside a part it stays in order.
    rest = np.flatnonzero(~(done | held))
    rest = rest[np.argsort(of[rest], kind="stable")]
    place, at = _places(rest, records), _by_first(node[rest])
    inside = np.flatnonzero((of[left] == of[right]) & ~(done | held)[left])
    inside = inside[node[left[inside]] != node[right[inside]]]
    one, other, order, _ = _runs(place[left[inside]], place[right[inside]], len(rest))
    against = _units(-clip - MORE_AGAINST)
    excess = np.clip(units[inside[order]], against, _units(clip)) - _units(absent)
    edges = _Edges(at[one], at[other], excess, np.zeros(len(one), dtype=bool))
    if len(must[0]) or len(cannot[0]):
        barred = (of[cannot[0]] == of[cannot[1]]) & ~held[cannot[0]]
        edges = edges.barring(*(at[place[side[barred]]] for side in cannot))
        edges = edges.between(np.arange(len(rest)))
    sole = _Sole(NONE[0], 1) if alone is None else _sole(at, alone[rest])
    least = _units(threshold) - _units(absent)
    merged = _linked(at, of[rest], edges, sole, least)
    label = node.copy()
    label[rest] = records + merged[at]
    label[done] = 2 * records + of[done]
    if known is not None:
        label[held] = 3 * records + known[held]
    return Clusters(_by_first(label), parted, whole, None if known is None else ~held)


def check(*, threshold: float, absent: float, clip: float, must: Pairs, cannot: Pairs) -> None:
    """Raises ValueError for what `clusters` refuses, but for weights."""
    if not -clip <= absent < threshold <= clip:
        raise ValueError(f"not {-clip} <= absent {absent} < threshold {threshold} <= {clip} bits")
    if wrong := contradictions(must, cannot):
        raise ValueError(f"records that must and cannot be of one cluster: {wrong}")


def contradictions(must: Pairs, cannot: Pairs) -> list[tuple[int, int]]:
    """The pairs of `cannot` that `must` joins, if need be over other records. Any numbers do."""
    known, place = np.unique(np.concatenate([*must, *cannot]), return_inverse=True)
    left, right, one, other = np.split(place, np.cumsum([len(a) for a in (*must, *cannot)])[:-1])
    of = _components(len(known), left, right)
    wrong = of[one] == of[other]
    return list(zip(cannot[0][wrong].tolist(), cannot[1][wrong].tolist(), strict=True))


def _once(
    left: Integers, right: Integers, units: Floats, records: int
) -> tuple[Integers, Integers, Floats]:
    """Each pair once, with the heaviest of its weights."""
    ordered = np.sort(np.minimum(left, right) * records + np.maximum(left, right))
    if not np.any(ordered[1:] == ordered[:-1]):
        return left, right, units
    one, other, order, starts = _runs(left, right, records)
    return one, other, np.maximum.reduceat(units[order], starts)


def _complete(
    of: Integers,
    left: Integers,
    right: Integers,
    good: Flags,
    cannot: Pairs,
    alone: Integers | None,
) -> Flags:
    """Which parts are one cluster for certain: all pairs of their records, which nothing joins or
    keeps apart besides, are good enough. The mean between any two of its clusters is a mean of such
    pairs, so it is good enough too. Who is alone is such a part.

    `of`: each record's part. `left`, `right`: pairs, each once; `good`: which of them are.
    """
    inside = good & (of[left] == of[right])
    size = np.bincount(of)
    pairs = np.bincount(of[left[inside]], minlength=len(size))
    complete = pairs == size * (size - 1) // 2
    complete[of[cannot[0]]] = False
    if alone is not None:
        rivals = inside & (alone[left] == alone[right]) & (alone[left] >= 0)
        complete[of[left[rivals]]] = False
    return complete


def _parts(
    size: Integers, one: Integers, other: Integers, units: Floats, floor: float, limit: int
) -> tuple[Integers, Integers, int, int]:
    """Components over edges of at least `floor`, those above the limit broken.

    Returns each node's component and part, how many components were parted, and how many parts are
    above the limit still. `size`: how many records a node is.
    """
    strong = (units >= floor) & (one != other)
    one, other, units = one[strong], other[strong], units[strong]
    part = _components(len(size), one, other)
    giant = np.bincount(part, weights=size) > limit
    members = np.flatnonzero(giant[part])
    if not len(members):
        return part, part, 0, 0
    inside, place = giant[part[one]], _places(members, len(size))
    one, other = place[one[inside]], place[other[inside]]
    broken = _broken(size[members], one, other, units[inside], floor, limit)
    of, _ = np.unique(np.stack([part[members], broken]), axis=1)
    whole = np.bincount(broken, weights=size[members]) > limit
    component, part = part, part.copy()
    part[members] = len(giant) + broken
    return component, part, int((np.bincount(of) > 1).sum()), int(whole.sum())


def _broken(
    size: Integers, one: Integers, other: Integers, units: Floats, level: float, limit: int
) -> Integers:
    """Each node's part when `level` is raised, step by step, in all components that are too large.

    What only the heaviest edges hold together stays as it is.
    """
    while True:
        part = _components(len(size), one, other)
        total = np.bincount(part, weights=size)
        heaviest = np.full(len(total), -np.inf)
        np.maximum.at(heaviest, part[one], units)
        large = (total > limit) & (heaviest > level)
        if not large.any():
            return part
        level += _units(STEP)
        least = np.where(large, np.minimum(level, heaviest), -np.inf)
        kept = units >= least[part[one]]
        one, other, units = one[kept], other[kept], units[kept]


def _linked(at: Integers, of: Integers, edges: _Edges, sole: _Sole, least: float) -> Integers:
    """The first node of each node's cluster. `at`, `of`: each record's node and part, ascending.

    `least`: units by which the mean between clusters that merge exceeds an absent weight.
    """
    size = np.bincount(at)
    part = np.zeros(len(size), dtype=np.int64)
    part[at] = np.cumsum(np.diff(of, prepend=-1) > 0) - 1
    nodes = np.bincount(part)
    begin = np.cumsum(nodes) - nodes
    rank = np.arange(len(size)) - begin[part]
    return _merged(rank, size, edges.parted(sole), sole, least)


def _merged(rank: Integers, size: Integers, edges: _Edges, sole: _Sole, least: float) -> Integers:
    """The first node of each node's cluster by average linkage. `rank`: numbers within a part.

    In every round all pairs merge of which each is the other's best. That comes to the same as one
    merge at a time, the best first (Murtagh 1983, on reducible methods): the mean between a
    cluster and the union of two is at most the higher of their means, so no merge makes a pair
    that would go before a pair of mutual best. For the same reason a node that nothing is good
    enough for now is done. Of pairs of equal means the one with the lower lot goes first; by mere
    order a chain of equal links would take a round for every link.
    """
    root, size = np.arange(len(rank)), size.copy()
    best = np.full(len(rank), -np.inf)
    lowest = np.full(len(rank), LAST)
    while len(edges.one):
        means = edges.means(size)
        ends = (edges.one, edges.other)
        for end in ends:
            np.maximum.at(best, end, means)
        hopeful = best >= least
        alive = hopeful[edges.one] & hopeful[edges.other]
        edges, means, sole = edges.where(alive), means[alive], sole.where(hopeful)
        lots = _lots(rank[edges.one], rank[edges.other])
        mutual = np.ones(len(lots), dtype=bool)
        for end in (edges.one, edges.other):
            top = means == best[end]
            np.minimum.at(lowest, end[top], lots[top])
        for end in (edges.one, edges.other):
            mutual &= (means == best[end]) & (lots == lowest[end])
        winner, loser = edges.one[mutual], edges.other[mutual]
        root[loser] = winner
        size[winner] += size[loser]
        for end in ends:
            best[end], lowest[end] = -np.inf, LAST
        sole = sole.named(root)
        edges = edges.between(root).parted(sole)
    while np.any(root != root[root]):
        root = root[root]
    return root


def _lots(one: Integers, other: Integers) -> npt.NDArray[np.uint64]:
    """A number for each pair, no two alike, in no order: the finish of splitmix64 (Steele 2014)."""
    mixed = one.astype(np.uint64) << np.uint64(32) | other.astype(np.uint64)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)


def _sole(at: Integers, alone: Integers) -> _Sole:
    """`at[r]`, `alone[r]`: record `r`'s node and source, or -1."""
    held = alone >= 0
    sources, source = np.unique(alone[held], return_inverse=True)
    width = max(len(sources), 1)
    return _Sole(np.sort(at[held] * width + source), width)


def _components(records: int, left: Integers, right: Integers) -> Integers:
    from scipy.sparse import coo_matrix  # half a second of every command's start
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), (records, records))
    _, of = connected_components(links, directed=False)
    return np.asarray(of, dtype=np.int64)


def _runs(left: Integers, right: Integers, width: int) -> tuple[Integers, ...]:
    """The distinct pairs, lower number first, and the order of all pairs and where each begins."""
    code = np.minimum(left, right) * width + np.maximum(left, right)
    order = np.arange(len(code))
    # Pairs mostly come in order, and to sort them would take longer than all the rest.
    if np.any(code[1:] < code[:-1]):
        order = np.argsort(code, kind="stable")
        code = code[order]
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    return *np.divmod(code[starts], width), order, starts


def _places(chosen: Integers, width: int) -> Integers:
    """The place of each number among the chosen ones, or -1."""
    place = np.full(width, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    return place


def _units(bits: float) -> float:
    return float(np.rint(bits * UNITS))


def _by_first(of: Integers) -> Integers:
    """Cluster numbers by each cluster's first record, whatever order they were found in."""
    first = np.zeros(int(of.max(initial=-1)) + 1, dtype=np.int64)
    first[of[::-1]] = np.arange(len(of))[::-1]  # of several values the last one stays
    root = first[of]
    return (np.cumsum(root == np.arange(len(of))) - 1)[root]
