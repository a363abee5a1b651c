"""Weights by which linked records stand for all records of their feed. Pure.

Who is linked is not like who is not: young men, movers and people without an SSN are linked less.
An analysis of linked records alone speaks of the others. Weighted by the inverse of their chance of
being linked, linked records resemble all records of their feed in what the chance is made of
(inverse probability weighting: Seaman and White, Statistical Methods in Medical Research 22(3),
2013).

What to mind:
- `Linked` means: some record of another feed has the same person. Who is in no other feed cannot
  be, and is not told from one whose link was missed. The weights make the linked represent all;
  they do not mend missed links.
- They balance feed, sex, age band and which identifiers a record has, and nothing else: if linking
  depends on income within those, the bias stays.
- A wrong link counts as a link.
- Standard errors must take the weights into account (as survey weights), and are a little too small
  as the chances are estimated.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa

from concord.linkage.arrays import distinct
from concord.linkage.groups import Grouping, age_bands
from concord.linkage.patterns import Floats, Integers

# A cell's own share counts against that of the wider cell as if that were of so many records.
STRENGTH = 20.0
# No record stands for more than so many: few heavy records would make estimates erratic.
HEAVIEST = 20.0


def link_weights(origin: pa.Table, of: Integers, *, as_of: date) -> pa.Table:
    """record_id, weight of the records that are linked to another feed's.

    `origin`: as groups.facts; `of`: the number of each record's cluster, in its order. The weight
    is stabilised: the share of the feed's records that are linked over the record's chance, so it
    is 1 on average within a feed, more or less. The chance is the share of the record's cell (feed,
    sex, age band, which identifiers it has), drawn towards that of feed, sex and age band, which is
    drawn towards the feed's (a beta prior of STRENGTH records).
    """
    feed = Grouping.of(origin["feed"]).codes
    sex = Grouping.of(origin["sex"]).codes
    age = Grouping.of(pa.chunked_array([age_bands(origin["birth"], as_of)])).codes
    says = origin["says"].to_numpy().astype(np.int64)
    linked = elsewhere(feed, of)
    wide = _cells(feed, sex, age)
    whole = _share(linked, feed, np.zeros(len(feed)), 0.0)
    chance = _share(linked, wide, whole, STRENGTH)
    chance = _share(linked, _cells(wide, says), chance, STRENGTH)
    weight = np.minimum(whole[linked] / chance[linked], HEAVIEST)
    kept = origin["record_id"].filter(pa.array(linked))
    return pa.table({"record_id": kept, "weight": pa.array(weight, pa.float64())})


def elsewhere(feed: Integers, of: Integers) -> np.ndarray:
    """Whether a record's cluster has a record of another feed."""
    least = np.full(int(of.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    most = np.full(len(least), -1)
    np.minimum.at(least, of, feed)
    np.maximum.at(most, of, feed)
    return np.asarray((least < most)[of])


def _cells(*parts: Integers) -> Integers:
    """The number of each record's combination of values (-1 is one too)."""
    cell = np.zeros(len(parts[0]), dtype=np.int64)
    for part in parts:
        cell = cell * (int(part.max(initial=0)) + 2) + part + 1
        cell = distinct(cell)[1]
    return cell


def _share(linked: np.ndarray, cell: Integers, prior: Floats, strength: float) -> Floats:
    """Each record's cell's share of linked records, drawn towards `prior`."""
    some = np.bincount(cell, linked)[cell]
    return np.asarray((some + strength * prior) / (np.bincount(cell)[cell] + strength))
