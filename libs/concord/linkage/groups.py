"""Whom a measure is of: feeds, sex, age, region and whatever else is known of records. Pure, but
for `facts`, which asks Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from concord.disclosure.attack import Sum
from concord.disclosure.profiles import Profile
from concord.disclosure.suppression import suppress
from concord.errors import ConcordError
from concord.linkage import files
from concord.linkage.arrays import distinct
from concord.linkage.patterns import Integers
from concord.linkage.records import DIGITS, as_text, numbers, plain
from concord.linkage.standardise import ORIGIN, STANDARD
from concord.linkage.values import Values
from concord.towns import sizes_by_zip

# Centers for Medicare & Medicaid Services, cell size suppression policy: no cell of 1 to 10.
CELLS = Profile(minimum=11, source="CMS cell size suppression policy")
# First age of each band, in years. Young adults apart: they move most and are linked least.
AGES = (0, 18, 25, 45, 65)
DIFFER, UNKNOWN = "differ", "unknown"
Cell = tuple[str, str]  # attribute, group
WHOLE: Cell = ("", "")


# Of which a person has one value: where two records of a person have two, they are looked at.
SOLE = ("ssn", "birth", "suffix")
# Ends of what there is of them, and what they are where there is none.
ENDS = {"least": np.iinfo(np.int64).max, "most": np.iinfo(np.int64).min}
# Of several values the largest is told.
LARGEST = ("sex", "birth", "zip")


def facts(records: DataFrame) -> pa.Table:
    """Rows of vault/linkage_records -> on the driver one row a record, in the order of their ids:
    record_id, number (as records.numbers), feed, role, sex, birth, zip, says; and `ssn_least`,
    `ssn_most`, likewise of the other columns of SOLE: the least and the most of its values' hashes
    (the most below the least where there is no value).

    `says`: bit `i` where one of the record's variants has STANDARD's column `i`. Of several values
    the largest counts, so that a repeated run says the same. Raises ConcordError for two records
    whose ids have one number: all that follows names records by it.
    """
    whole = _one_each(files.collected(records, tuple(STANDARD), _facts, plain=ORIGIN))
    if np.any(np.diff(whole["number"].to_numpy()) == 0):
        raise ConcordError(
            f"vault/linkage_records: two record ids begin with the same {DIGITS} digits; records "
            "must be told apart by more of them (DIGITS in concord/linkage/records.py)"
        )
    return whole


def _facts(table: pa.Table) -> pa.Table:
    known = np.zeros(table.num_rows, dtype=np.int64)
    for bit, name in enumerate(STANDARD):
        known |= pc.is_valid(table[name]).to_numpy().astype(np.int64) << bit
    whole = {name: plain(table[name]) for name in (*ORIGIN, *LARGEST)}
    whole["number"] = pa.array(numbers(table["record_id"]))
    whole["says"] = pa.array(known)
    for name in SOLE:
        values = Values.of(as_text(table[name]))
        for end, absent in ENDS.items():
            hashes = np.append(values.hashes.view(np.int64), absent)  # the last one for NULL
            whole[f"{name}_{end}"] = pa.array(hashes[values.codes])
    return _one_each(pa.table(whole))


def torn(origin: pa.Table, person: Integers) -> npt.NDArray[np.bool_]:
    """Which of the records are of persons that have two values of a column of SOLE.

    `origin`: as `facts`; `person`: the number of each record's.
    """
    found = np.zeros(int(person.max(initial=-1)) + 1, dtype=bool)
    for name in SOLE:
        least = np.full(len(found), ENDS["least"])
        most = np.full(len(found), ENDS["most"])
        np.minimum.at(least, person, origin[f"{name}_least"].to_numpy())
        np.maximum.at(most, person, origin[f"{name}_most"].to_numpy())
        found |= least < most
    return found[person]


def _one_each(rows: pa.Table) -> pa.Table:
    """One row a record, in the order of their numbers."""
    if not rows.num_rows:
        return rows
    order = np.argsort(rows["number"].to_numpy(), kind="stable")
    ids = rows["record_id"].combine_chunks().take(pa.array(order))
    other = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[True], other]))
    first = rows.take(pa.array(order[starts]))
    if len(starts) == len(order):
        return first.combine_chunks()
    found = {name: first[name] for name in (*ORIGIN, "number")}
    for name in LARGEST:
        values = rows[name].combine_chunks().dictionary_encode()
        ranked = values.dictionary.take(pc.sort_indices(values.dictionary))
        rank = pc.index_in(rows[name], value_set=ranked).fill_null(-1).to_numpy()
        most = np.maximum.reduceat(rank[order], starts)
        found[name] = ranked.take(pa.array(most, mask=most < 0))
    says = rows["says"].to_numpy()[order]
    found["says"] = pa.array(np.bitwise_or.reduceat(says, starts))
    for name in SOLE:
        for end, least_or_most in (("least", np.minimum), ("most", np.maximum)):
            ends = rows[f"{name}_{end}"].to_numpy()[order]
            found[f"{name}_{end}"] = pa.array(least_or_most.reduceat(ends, starts))
    return pa.table(found)


@dataclass(frozen=True)
class Grouping:
    """An attribute of records: `codes[r]` is the place of record `r`'s value in `names`, or -1."""

    names: tuple[str, ...]
    codes: Integers

    @classmethod
    def of(cls, values: pa.ChunkedArray) -> Grouping:
        names = pc.unique(values).drop_null().cast(pa.string()).sort()
        places = pc.index_in(values.cast(pa.string()), value_set=names).fill_null(-1)
        return cls(tuple(names.to_pylist()), places.to_numpy().astype(np.int64))

    def both(self, left: Integers, right: Integers) -> Grouping:
        """Of pairs of records: the value of both, or of the one that says it; `differ`."""
        one, other = self.codes[left], self.codes[right]
        apart = (one != other) & (one >= 0) & (other >= 0)
        codes = np.where(apart, len(self.names), np.maximum(one, other))
        return Grouping((*self.names, DIFFER), codes)

    def each(self, left: Integers, right: Integers) -> Grouping:
        """Of pairs of records: both values, the smaller first, parted by a space."""
        known = len(self.names)
        one, other = (
            np.where(self.codes[side] < 0, known, self.codes[side]) for side in (left, right)
        )
        # Names are in order, and so their numbers.
        pairs = np.minimum(one, other) * (known + 1) + np.maximum(one, other)
        found, codes = distinct(pairs)
        named = (*self.names, UNKNOWN)
        names = [f"{named[p // (known + 1)]} {named[p % (known + 1)]}" for p in found.tolist()]
        return Grouping(tuple(names), codes)

    def count(self, which: npt.NDArray[np.bool_]) -> dict[str, int]:
        """How many of each value are among `which`; values without any are left out."""
        counts = np.bincount(self.codes[which] + 1, minlength=len(self.names) + 1).tolist()
        return {n: c for n, c in zip((UNKNOWN, *self.names), counts, strict=True) if c}


def attributes(
    origin: pa.Table, as_of: date, more: pa.Table | None = None
) -> dict[str, pa.ChunkedArray]:
    """Attribute -> values, NULL where unknown, in the order of `origin`.

    `origin`: as `facts`. `more`: record_id, one row each, and any columns; each is an attribute.
    """
    found = {
        "sex": origin["sex"],
        "age": pa.chunked_array([age_bands(origin["birth"], as_of)]),
        "zip3": pc.utf8_slice_codeunits(origin["zip"], 0, 3),
        "municipality": municipality_sizes(origin["zip"]),
    }
    if more is not None:
        place = pc.index_in(origin["record_id"], value_set=more["record_id"].combine_chunks())
        found |= {name: more[name].take(place) for name in more.column_names if name != "record_id"}
    return found


def municipality_sizes(zips: pa.ChunkedArray) -> pa.ChunkedArray:
    """How many people the municipality has whose ZIP code it is, such as `10000-49999`; NULL for
    other codes, of post boxes and other states among them."""
    known = sizes_by_zip()
    place = pc.index_in(zips, value_set=pa.array(list(known), pa.string()))
    return pa.chunked_array([pa.array(list(known.values())).take(place.combine_chunks())])


def age_bands(births: pa.ChunkedArray, as_of: date) -> pa.Array:
    """Bands of age in full years as of a day, such as `18-24`; NULL without birth date and for
    births after it."""
    born = pc.add(pc.multiply(pc.month(births), 100), pc.day(births))
    to_come = pc.greater(born, as_of.month * 100 + as_of.day).cast(pa.int64())
    years = pc.subtract(pc.subtract(as_of.year, pc.year(births)), to_come).fill_null(-1)
    names = [f"{low}-{high - 1}" for low, high in pairwise(AGES)] + [f"{AGES[-1]}+"]
    place = np.searchsorted(np.array(AGES), years.to_numpy(), side="right") - 1
    return pa.array(np.array([*names, None], dtype=object)[place], pa.string())


def hidden(
    counts: Mapping[str, Mapping[str, int]], whole: int, profile: Profile = CELLS
) -> frozenset[Cell]:
    """Which cells must not be shown: small ones, and others that would give them away.

    `counts`: attribute -> group -> pairs; the groups of each attribute add up to `whole`, which is
    shown too: WHOLE is among the hidden only if it is small itself. A share and its interval tell
    of how many pairs it is, and a lone small group would follow from the others and the whole:
    hence complementary suppression, and not of the small ones alone.
    """
    if whole < profile.minimum:
        return frozenset({WHOLE, *((name, group) for name, of in counts.items() for group in of)})
    cells = {(name, group): n for name, of in counts.items() for group, n in of.items()}
    sums = [Sum(WHOLE, tuple((name, group) for group in of)) for name, of in counts.items() if of]
    away = suppress({**cells, WHOLE: whole}, sums, profile, cost=_cost).hidden
    return frozenset(away) - {WHOLE}


def _cost(cell: Cell) -> float:
    """To hide the whole would hide too little: it is shown all the same."""
    return 1e6 if cell == WHOLE else 1.0
