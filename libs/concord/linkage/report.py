"""What a run can say of the index without the truth: rows of `index/quality`. Pure.

    found = measures(model, origin, compared, grouped)
    found += hold_out(model, origin, compared, as_of=day, more=races_and_languages)
    found += unlinkable(model, origin)
    found += placeholders(told)
    found += changes({"minted": 12, "merged_into": 3}, before=46_000)

`origin` is `groups.facts` of vault/linkage_records, ordered by record_id.

Groups of fewer pairs than a disclosure profile allows have a NULL value, and so have others from
which theirs would follow (`groups.hidden`). That holds of how many pairs a group has; that few of
many pairs are wrong is told. index/quality is for those who keep the index and is no release.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from concord.disclosure.profiles import Profile
from concord.linkage import groups, holdout
from concord.linkage.arrays import distinct
from concord.linkage.clusters import Clusters
from concord.linkage.compare import patterns
from concord.linkage.groups import CELLS, WHOLE, Grouping
from concord.linkage.holdout import Flags, Judged
from concord.linkage.intervals import Share
from concord.linkage.keys import Refused
from concord.linkage.limits import Bound, Limits
from concord.linkage.model import Model
from concord.linkage.patterns import Floats, Integers, probability
from concord.linkage.person_index import PersonIndex
from concord.linkage.placeholders import OTHERS
from concord.linkage.standardise import STANDARD
from concord.linkage.values import PairedRows, Records

if TYPE_CHECKING:  # what is written is none of this module's
    from concord.lake.registry import Table
    from concord.lake.workers import Made
    from concord.linkage.spread import Rows

ALL = "all"
LARGE = 10  # persons of so many records and more are counted together
FEEDS = "feeds"
# Events by which records lose the id that they had.
MOVES = ("merged_into", "split_from", "retired")


@dataclass(frozen=True)
class Compared:
    """What comparing found.

    `counts`: rule, pattern, pairs (all pairs of variants that were compared); `pairs`:
    left, right (places in `origin`, groups.facts of all records), pattern, rule (its name), weight
    (bits), of all that were kept; `writes`: what of it is still to be written, and where to.
    """

    counts: pa.Table
    pairs: pa.Table
    refused: Refused
    writes: Sequence[tuple[Rows | Made, Table]] = ()


@dataclass(frozen=True)
class Measure:
    """One figure. `group`: what it is of. `value`: None where it would say something of too few.
    `lower`, `upper`: of its 95 % interval; `of`: what a share is a share of; None for others."""

    name: str
    group: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    of: int | None = None

    @classmethod
    def share(cls, name: str, group: str, share: Share, *, shown: bool = True) -> Measure:
        if not shown:
            return cls(name, group, None)
        return cls(name, group, share.value, *share.interval, share.whole)


def measures(
    model: PersonIndex,
    origin: pa.Table,
    compared: Compared,
    grouped: Clusters,
    *,
    profile: Profile = CELLS,
) -> list[Measure]:
    """Figures of one run.

    `origin`: record_id, feed, role; `grouped.of`: in its order.
    """
    return [
        *_counts("records", origin["feed"]),
        Measure("persons", ALL, float(grouped.number)),
        *_sizes(grouped),
        Measure("components_parted", ALL, float(grouped.parted)),
        Measure("components_too_large", ALL, float(grouped.whole)),
        *_blocking(model, compared.counts, compared.refused),
        *_between_feeds(model, origin, compared.pairs, grouped, profile),
    ]


def hold_out(
    model: PersonIndex,
    origin: pa.Table,
    compared: Compared,
    *,
    as_of: date,
    more: pa.Table | None = None,
    profile: Profile = CELLS,
) -> list[Measure]:
    """Precision and recall without the SSN, judged by it (`concord.linkage.holdout`); nothing for a
    model that does not compare SSNs. What blocking does, and calibration, only where the blocking
    rules without the SSN come first.

    Of `all`: from counts of all pairs of variants that were compared. Of groups: from the pairs of
    records that were kept, each with the pattern of its heaviest variants, so that their whole is
    not quite that of `all`. `more`: as in `groups.attributes`.
    """
    if not holdout.can_hold_out(model):
        return []
    counts: Integers = compared.counts["pairs"].to_numpy()
    of = holdout.judged(model, compared.counts, threshold=model.cluster_weight)
    shares = holdout.shares(of, counts)
    found = []
    if holdout.blind_first(model):
        shares["blocking_recall"] = holdout.blocking_recall(of, counts)
        found += _expected(of, counts, profile)
    found += [
        Measure.share(name, ALL, share, shown=share.whole >= profile.minimum)
        for name, share in shares.items()
        if share.whole
    ]
    values = groups.attributes(origin, as_of, more)
    return found + _by_group(model, origin, compared.pairs, values, profile)


def unlinkable(model: PersonIndex, origin: pa.Table) -> list[Measure]:
    """The share of records that say so little that even a record just like them would not be
    linked to them, in all and by feed."""
    short = reach(model, origin["says"].to_numpy()) < model.cluster_weight
    feeds = Grouping.of(origin["feed"])
    wholes, parts = feeds.count(np.ones(len(short), dtype=bool)), feeds.count(short)
    shares = {ALL: Share(int(short.sum()), len(short))}
    shares |= {feed: Share(parts.get(feed, 0), n) for feed, n in wholes.items()}
    # Every record is counted, none is drawn: no interval.
    return [
        Measure("unlinkable", group, share.value, of=share.whole)
        for group, share in shares.items()
        if share.whole
    ]


def reach(model: Model, says: Integers) -> Floats:
    """The weight of each record against one just like it, in bits; minus infinity for what never
    links.

    `says`: bits as in `groups.facts`. Where a model counts rare values apart, they are taken to be
    of the rarest: the most that it can be.
    """
    masks, place = distinct(says)
    rows = {}
    for bit, name in enumerate(STANDARD):
        has = (masks >> bit & 1).tolist()
        # Comparing reads dates as texts; to the other columns any text will do.
        rows[name] = pa.array(["2000-06-15" if one else None for one in has], pa.string())
    itself = np.arange(len(masks))
    found = patterns(model.compiled, PairedRows(Records(pa.table(rows)), itself, itself))
    return model.weights.of(found)[place.reshape(-1)]


def placeholders(told: pa.Table) -> list[Measure]:
    """Of rows of vault/linkage_placeholders: how many values were found in each column, and how
    many records have one."""
    found = []
    for column in OTHERS:
        mine = told.filter(pc.equal(told["column"], column))
        records = float(pc.sum(mine["records"]).as_py() or 0)
        found.append(Measure("placeholders_found", column, float(mine.num_rows)))
        found.append(Measure("placeholder_records", column, records))
    return found


def changes(told: Mapping[str, int], *, before: int | None = None) -> list[Measure]:
    """Events of the run by kind; with the number of persons before it, their churn: events by which
    records lose an id, per person there was. 0 in a first run."""
    found = [Measure("events", kind, float(count)) for kind, count in sorted(told.items())]
    if before is not None:
        lost = sum(told.get(kind, 0) for kind in MOVES)
        found.append(Measure("id_churn", ALL, lost / before if before else 0.0, of=before))
    return found


def breaches(measures: Iterable[Measure], limits: Limits) -> list[str]:
    """Which limits do not hold, a sentence each. The figure itself counts, not its interval."""
    found = {measure.name: measure for measure in measures if measure.group == ALL}
    return [
        told
        for name, bound in limits.bounds.items()
        for told in _broken(name, bound, found.get(name))
    ]


def _broken(name: str, bound: Bound, measure: Measure | None) -> Iterator[str]:
    if measure is None or measure.value is None:
        if bound.required:
            yield f"{name} could not be measured, and its limit requires that it is"
        return
    value, within = measure.value, ""
    if measure.lower is not None and measure.upper is not None:
        within = f" (95 % interval {measure.lower:.6g} to {measure.upper:.6g})"
    if bound.at_least is not None and value < bound.at_least:
        yield f"{name} is {value:.6g}{within}, less than its limit of {bound.at_least:g}"
    if bound.at_most is not None and value > bound.at_most:
        yield f"{name} is {value:.6g}{within}, more than its limit of {bound.at_most:g}"


def rows(
    run_id: str, as_of: date, model: PersonIndex, found: Iterable[Measure]
) -> list[dict[str, Any]]:
    """Measures as rows of index/quality."""
    return [
        {
            "run_id": run_id,
            "as_of": as_of,
            "measure": measure.name,
            "group": measure.group,
            "value": measure.value,
            "lower": measure.lower,
            "upper": measure.upper,
            "of": measure.of,
            "model_version": model.model_version,
        }
        for measure in found
    ]


def _counts(name: str, column: pa.ChunkedArray) -> list[Measure]:
    counted = [(c["values"], c["counts"]) for c in pc.value_counts(column).to_pylist()]
    whole = Measure(name, ALL, float(len(column)))
    return [whole, *(Measure(name, group, float(n)) for group, n in sorted(counted))]


def _sizes(grouped: Clusters) -> list[Measure]:
    records = np.bincount(grouped.of)
    counts = np.bincount(np.minimum(records, LARGE), minlength=LARGE + 1).tolist()
    largest = Measure("largest_person", ALL, float(records.max(initial=0)))
    return [
        largest,
        *(
            Measure(
                "persons_by_records",
                f"{size}+" if size == LARGE else f"{size}",
                float(counts[size]),
            )
            for size in range(1, LARGE + 1)
        ),
    ]


def _blocking(model: PersonIndex, compared: pa.Table, refused: Refused) -> list[Measure]:
    """Pairs of variants that each rule compared, and what the pair budget kept out."""
    by_rule = {rule.name: 0.0 for rule in model.blocking}
    for row in compared.group_by("rule").aggregate([("pairs", "sum")]).to_pylist():
        by_rule[row["rule"]] = float(row["pairs_sum"])
    found = [Measure("pairs_compared", ALL, sum(by_rule.values()))]
    found += [Measure("pairs_compared", rule, n) for rule, n in by_rule.items()]
    found.append(Measure("pairs_refused", ALL, float(sum(refused.pairs.values()))))
    for number, rule in enumerate(model.blocking):
        if number in refused.keys:
            found.append(Measure("keys_refined", rule.name, float(len(refused.keys[number]))))
            found.append(Measure("pairs_refused", rule.name, float(refused.pairs.get(number, 0))))
    return found


def _between_feeds(
    model: PersonIndex,
    origin: pa.Table,
    links: pa.Table,
    grouped: Clusters,
    profile: Profile,
) -> list[Measure]:
    """Links that make persons, by pair of feeds, and what share of them is right by the model.

    The mean of the links' own probabilities: an expected precision, as good as the model is.
    """
    left, right = links["left"].to_numpy(), links["right"].to_numpy()
    weights = links["weight"].to_numpy()
    used = (weights >= model.cluster_weight) & (grouped.of[left] == grouped.of[right])
    left, right = left[used], right[used]
    chances = probability(weights[used], model.prior_bits)
    found = [Measure("links", ALL, float(len(left)))]
    if len(left):
        found.append(Measure("expected_precision", ALL, float(chances.mean())))
    feeds = Grouping.of(origin["feed"]).each(left, right)
    counts = np.bincount(feeds.codes, minlength=len(feeds.names)).tolist()
    sums = np.bincount(feeds.codes, chances, minlength=len(feeds.names)).tolist()
    by_feeds = dict(zip(feeds.names, counts, strict=True))
    away = groups.hidden({FEEDS: by_feeds}, len(left), profile)
    for (group, n), total in zip(by_feeds.items(), sums, strict=True):
        shown = (FEEDS, group) not in away
        found.append(Measure("links", group, float(n) if shown else None))
        found.append(Measure("expected_precision", group, total / n if shown else None))
    return found


def _expected(of: Judged, counts: Integers, profile: Profile) -> list[Measure]:
    """What the model expects of itself, and by bin of its probability what came of it."""
    found = []
    if counts[of.told & of.linked].sum() >= profile.minimum:
        found += [Measure(name, ALL, value) for name, value in holdout.expected(of, counts).items()]
    for each in holdout.calibration(of, counts):
        shown = each.observed.whole >= profile.minimum
        found.append(Measure.share("calibration", each.name, each.observed, shown=shown))
        expected = each.expected if shown else None
        found.append(Measure("calibration_expected", each.name, expected))
    return found


def _by_group(
    model: PersonIndex,
    origin: pa.Table,
    pairs: pa.Table,
    values: Mapping[str, pa.ChunkedArray],
    profile: Profile,
) -> list[Measure]:
    """The hold-out by pair of feeds and by attribute: `feed feed`, `attribute=value`."""
    of = holdout.judged(model, pairs, threshold=model.cluster_weight)
    some = of.true | (of.told & of.linked)
    left, right = (pairs[end].to_numpy()[some] for end in ("left", "right"))
    by = {FEEDS: Grouping.of(origin["feed"]).each(left, right)}
    by |= {name: Grouping.of(column).both(left, right) for name, column in values.items()}
    found = []
    for name, (whole, part) in of.shares.items():
        found += _shares(name, by, whole[some], (whole & part)[some], profile)
    return found


def _shares(
    name: str, by: Mapping[str, Grouping], whole: Flags, part: Flags, profile: Profile
) -> list[Measure]:
    wholes = {attribute: of.count(whole) for attribute, of in by.items()}
    away = groups.hidden(wholes, int(whole.sum()), profile)
    found = []
    for attribute, counts in wholes.items():
        parts = by[attribute].count(part)
        for group, n in sorted(counts.items()):
            shown = not away & {(attribute, group), WHOLE}
            title = group if attribute == FEEDS else f"{attribute}={group}"
            share = Share(parts.get(group, 0), n)
            found.append(Measure.share(name, title, share, shown=shown))
    return found
