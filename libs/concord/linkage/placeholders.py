"""Values that stand for `unknown` and are on no list: found by who shares them.

A default birth date or an agency's own phone makes blocks of strangers and is evidence of nothing.
Values are in standard form; found ones become NULL as listed ones do (`without`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting
from pyspark.sql import DataFrame

from concord.linkage import spread
from concord.linkage.blobs import CUT, blobs_of, cut_by, read, together
from concord.linkage.standardise import LAST4, SEPARATOR, each
from concord.linkage.values import Integers, Part, Values, hashes_of_rows
from concord.settings import Typed

# Birth dates are judged by so many days before them, and as many after, but for the commonest.
WINDOW, TRIMMED = 30, 3
# By chance no more than one date in so many lakes is found.
CHANCE = 1e-6
EPOCH = date(1970, 1, 1)


class Search(Typed):
    """From when on a value is a placeholder; one that is left out is not looked for."""

    ssn_persons: int | None = Setting(
        default=None, gt=1, description="different names and birth dates under one SSN"
    )
    phone_families: int | None = Setting(
        default=None, gt=1, description="different family names under one phone"
    )
    email_families: int | None = Setting(
        default=None, gt=1, description="different family names under one address of email"
    )
    birth_times: float | None = Setting(
        default=None,
        gt=1,
        description="different names of one birth date, as a multiple of those of the days around",
    )
    birth_names: int = Setting(default=30, gt=1, description="and at least so many names")

    @property
    def looked_for(self) -> dict[str, int]:
        """Column -> how many others a value needs to be looked at."""
        return {
            column: least
            for column, least in (
                ("ssn", self.ssn_persons),
                ("phone", self.phone_families),
                ("emails", self.email_families),
                # A date is judged by those around it.
                ("birth", self.birth_times and 1),
            )
            if least
        }


# What must differ for two records to be of two persons, by the column of the value.
OTHERS = {
    "ssn": ("given_root", "family", "birth"),
    "phone": ("family",),
    "emails": ("family",),
    "birth": ("given_root", "family"),
}
# What else is NULL with a column's value.
CLEARED = {"birth": ("birth", "birth_year")}


def search(forms: DataFrame, by: Search, partitions: int) -> pa.Table:
    """`records.forms` -> the placeholders in them: rows of vault/linkage_placeholders, on the
    driver, by column and value."""
    columns, least = tuple(by.looked_for), np.array([*by.looked_for.values()])
    nothing = none().append_column("records", pa.array([], pa.int64()))
    if not columns:
        return nothing

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            rows = read(blob)
            for number, column in enumerate(columns):
                row, values = _values(rows, column)
                names = [rows[name].cast(pa.string()) for name in OTHERS[column]]
                other = hashes_of_rows(names, rows.num_rows)[row]
                value = values.hashes[values.codes]
                kept = _distinct(value, other)
                of = np.full(len(kept), number, dtype=np.int8)
                pairs = {"column": of, "value": value[kept], "other": other[kept]}
                yield from cut_by(pa.table(pairs), value[kept], partitions)

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for pairs in together(batches):
            keys = [pairs[name].to_numpy() for name in ("column", "value", "other")]
            kept = _distinct(*keys)
            of, value = (key[kept] for key in keys[:2])
            first = _distinct(of, value)  # of each value: they are in order
            others = np.diff(np.append(first, len(of)))
            enough = others >= least[of[first]]
            first = first[enough]
            yield pa.record_batch(
                {
                    "column": pa.array(of[first].astype(np.int32)),
                    "value": pa.array(value[first].view(np.int64)),
                    "others": pa.array(others[enough]),
                }
            )

    sent = spread.meeting(forms.mapInArrow(send, CUT), partitions)
    counts = sent.mapInArrow(count, "column int, value bigint, others bigint").toArrow()
    if not counts.num_rows:
        return nothing
    told = _told(forms, columns, counts)
    kept = found(told.select(none().column_names), by)
    exact = kept.join(told.select(["column", "value", "records"]), ["column", "value"])
    return exact.sort_by([("column", "ascending"), ("value", "ascending")])


def _told(forms: DataFrame, columns: Sequence[str], counts: pa.Table) -> pa.Table:
    """Columns, and hashes of values by `others` -> column, value, others, records: how many have
    it."""
    column, value, others = (counts[name].to_numpy() for name in counts.column_names)
    order = np.argsort(value.view(np.uint64))
    column, value, others = column[order], value[order].view(np.uint64), others[order]

    def tell(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for blob in blobs_of(batches):
            rows = read(blob)
            ids = rows["record_id"].combine_chunks().dictionary_encode().indices.to_numpy()
            for number, name in enumerate(columns):
                mine = column == number
                row, values = _values(rows, name)
                place = np.searchsorted(value[mine], values.hashes)
                place = np.minimum(place, max(int(mine.sum()) - 1, 0))
                wanted = (value[mine][place] == values.hashes) if mine.any() else place < 0
                some = wanted[values.codes]
                codes, record = values.codes[some].astype(np.int64), ids[row[some]]
                once = codes[_distinct(codes, record)]
                records = np.bincount(once, minlength=len(values.distinct))
                had = np.flatnonzero(records)
                yield pa.record_batch(
                    {
                        "column": pa.array([name] * len(had), pa.string()),
                        "value": values.distinct.take(pa.array(had)),
                        "others": pa.array(others[mine][place[had]], pa.int64()),
                        "records": pa.array(records[had], pa.int64()),
                    }
                )

    told = forms.mapInArrow(tell, "column string, value string, others bigint, records bigint")
    whole = told.toArrow().group_by(["column", "value", "others"], use_threads=False)
    summed: pa.Table = whole.aggregate([("records", "sum")])
    return summed.rename_columns(["column", "value", "others", "records"])


def _values(rows: pa.Table, column: str) -> tuple[Integers, Values]:
    """What rows say of a column: a row's number and its value, several times for a list."""
    values = Values.of(rows[column].cast(pa.string()))
    counts, whole = values.parted(Part.of(f"each({column})"))
    return np.repeat(np.arange(rows.num_rows), counts), whole


def _distinct(*keys: npt.NDArray[Any]) -> Integers:
    """The places of the first of equal ones, in the order of the keys."""
    order = np.lexsort(keys[::-1])
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    return order[new]


def none() -> pa.Table:
    """No placeholders."""
    kinds = {"column": pa.string(), "value": pa.string(), "others": pa.int64()}
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})


def found(counts: pa.Table, by: Search) -> pa.Table:
    """Rows of `counts` (column, value, others) that are placeholders, by column and value. Pure.

    `others`: how many different names, names and birth dates, or family names have the value. Of
    birth dates all must be there: each is judged by the days around it.
    """
    kept = [none()]
    for column, least in by.looked_for.items():
        mine = counts.filter(pc.equal(counts["column"], column))
        if column == "birth":
            days = [(date.fromisoformat(text) - EPOCH).days for text in mine["value"].to_pylist()]
            common = crowded(
                np.array(days, dtype=np.int64),
                mine["others"].to_numpy().astype(np.int64),
                times=by.birth_times or math.inf,
                least=by.birth_names,
            )
            mine = mine.filter(pa.array(common, pa.bool_()))
        else:
            mine = mine.filter(pc.greater_equal(mine["others"], least))
        kept.append(mine.cast(kept[0].schema))
    return pa.concat_tables(kept).sort_by([("column", "ascending"), ("value", "ascending")])


def crowded(days: Integers, names: Integers, *, times: float, least: int) -> list[bool]:
    """Of each date (days since 1970) whether more names have it than a day of birth can have.

    As many are expected as have a day of the month before or of the month after, whichever is more,
    without its TRIMMED commonest days, which may be placeholders too. More than `times` as many,
    and so many that a Poisson variable is as large with a chance of less than CHANCE over all
    dates: by Chernoff's bound (Mitzenmacher and Upfal 2005, theorem 5.4).
    """
    count = dict(zip(days.tolist(), names.tolist(), strict=True))

    def usual(around: range) -> float:
        sizes = sorted(count.get(day, 0) for day in around)[:-TRIMMED]
        return sum(sizes) / len(sizes)

    def judged(day: int, n: int) -> bool:
        if n < least:
            return False
        sides = range(day - WINDOW, day), range(day + 1, day + 1 + WINDOW)
        # Where nobody was born in two months, less than one in both.
        rate = max(*map(usual, sides), 1 / (2 * WINDOW))
        if n <= times * rate:
            return False
        return n - rate - n * math.log(n / rate) < math.log(CHANCE / len(count))

    return [judged(day, n) for day, n in zip(days.tolist(), names.tolist(), strict=True)]


def without(rows: pa.Table, told: pa.Table) -> pa.Table:
    """Rows of standardise.forms, without LAST4, as if the standards had listed what was found."""
    columns = {name: rows[name] for name in rows.column_names if name != LAST4}
    for column in OTHERS:
        bad = told.filter(pc.equal(told["column"], column))["value"].combine_chunks()
        if not len(bad):
            continue
        if column == "emails":
            columns[column] = each(columns[column], partial(_other_emails, {*bad.to_pylist()}))
            continue
        is_bad = pc.is_in(rows[column].cast(pa.string()), value_set=bad)
        for name in CLEARED.get(column, (column,)):
            columns[name] = pc.if_else(is_bad, pa.scalar(None, rows[name].type), columns[name])
        if column == "ssn":
            columns["ssn_last4"] = pc.if_else(is_bad, rows[LAST4], columns["ssn_last4"])
    return pa.table(columns)


def _other_emails(bad: Set[str], text: str) -> str:
    return SEPARATOR.join(one for one in text.split(SEPARATOR) if one not in bad)
