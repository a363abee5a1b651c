"""What a run can say of the index without the truth: rows of `index/quality`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from concord.linkage.blocking import Refused
from concord.linkage.clusters import Clusters
from concord.linkage.model import PersonIndex
from concord.linkage.patterns import probability

ALL = "all"
LARGE = 10  # persons of so many records and more are counted together


@dataclass(frozen=True)
class Compared:
    """What comparing found. `counts`: rule, pattern, pairs (all pairs of variants that were
    compared); `pairs`: left_record_id, right_record_id, weight, of all that were kept."""

    counts: pa.Table
    pairs: pa.Table
    refused: Refused


@dataclass(frozen=True)
class Measure:
    """One figure. `group`: what it is of. No intervals yet."""

    name: str
    group: str
    value: float


def measures(
    model: PersonIndex,
    origin: pa.Table,
    compared: Compared,
    grouped: Clusters,
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
        *_between_feeds(model, origin, compared.pairs, grouped),
    ]


def changes(told: Mapping[str, int]) -> list[Measure]:
    """Events of the run by kind."""
    return [Measure("events", kind, float(count)) for kind, count in sorted(told.items())]


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
            "lower": None,
            "upper": None,
            "model_version": model.model_version,
        }
        for measure in found
    ]


def _counts(name: str, column: pa.ChunkedArray) -> list[Measure]:
    counted = [(c["values"], c["counts"]) for c in pc.value_counts(column).to_pylist()]
    whole = Measure(name, ALL, float(len(column)))
    return [whole, *(Measure(name, group, float(n)) for group, n in sorted(counted))]


def _sizes(grouped: Clusters) -> list[Measure]:
    sizes = np.minimum(np.bincount(grouped.of), LARGE)
    counts = np.bincount(sizes, minlength=LARGE + 1).tolist()
    return [
        Measure(
            "persons_by_records", f"{size}+" if size == LARGE else f"{size}", float(counts[size])
        )
        for size in range(1, LARGE + 1)
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
    model: PersonIndex, origin: pa.Table, links: pa.Table, grouped: Clusters
) -> list[Measure]:
    """Links that make persons, by pair of feeds, and what share of them is right by the model.

    The mean of the links' own probabilities: an expected precision, as good as the model is.
    """
    ids, feeds = origin["record_id"].combine_chunks(), origin["feed"].to_pylist()
    left = pc.index_in(links["left_record_id"], value_set=ids).to_numpy()
    right = pc.index_in(links["right_record_id"], value_set=ids).to_numpy()
    used = links["weight"].to_numpy() >= model.cluster_weight
    if len(used):
        used &= grouped.of[left] == grouped.of[right]
    chances = probability(links["weight"].to_numpy(), model.prior_bits)
    groups: dict[str, list[float]] = {ALL: []}
    for place in np.flatnonzero(used).tolist():
        pair = sorted((feeds[left[place]], feeds[right[place]]))
        groups.setdefault(" ".join(pair), []).append(float(chances[place]))
        groups[ALL].append(float(chances[place]))
    found = []
    for group, values in sorted(groups.items()):
        found.append(Measure("links", group, float(len(values))))
        if values:
            found.append(Measure("expected_precision", group, sum(values) / len(values)))
    return found
