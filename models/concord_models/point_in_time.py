"""Facts as they were known: counts, sums and newest values as of many days, in one pass.

A fact happened on a day, is known from a day on and, where a later report takes its place, until a
day. As of a day it counts in a window of so many days if it was known then and happened at most so
many days before. Hence it counts on one interval of as-of days: from the later of happened and
known, until before the earlier of its end and the day on which it leaves the window. When it
happened places it in the window; when it was known decides.

Rows and facts of a key come together by one shuffle. There the rows are sorted once and a fact's
interval becomes two places among them. Counts and sums are running totals of what begins less what
ends; newest, least and greatest values come from a table of maxima over spans of 2^n rows, filled
from the longest spans down. Both are linear in rows and facts, but for the sort: no fact is joined
to each as-of day that sees it. Running totals by the day of the event alone, the usual way, leak:
a file that comes late adds to days that were long past.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StringType, StructField, StructType

from concord.studies.tables import KNOWN_ON

AS_OF, HAPPENED, UNTIL, KIND = "as_of", "happened_on", "known_until", "kind"
How = Literal[
    "count", "above", "sum", "mean", "spread", "min", "max", "slope", "change", "last", "first",
    "since", "text",
]  # fmt: skip
# Values are summed in hundredths, as integers: the same in whatever order and partition they come,
# and not touched by what other keys add to a running total.
HUNDREDTHS = 100
SLOPE_DAYS = 30
# Rows worked on at a time: what is at hand fits a processor's cache.
CHUNK = 32_768
_DAYS, _NEVER = 20, 2**20 - 1
_SOURCE, _OWN, _ROW = "_source", "_own", -1

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """One table as facts: the key, HAPPENED, KNOWN_ON and, where rows are taken back, UNTIL (day
    from which the row is known no more); KIND and `texts` as strings, `values` as numbers.

    `identity`: of rows that are equal in these columns the one of the greatest `order` (a day;
    among equals, that was known last) takes the place of the others from the day it is known.
    `together`: rows of one identity and order stand side by side, as the people of one month's
    household. `least`: the row of the least `order` instead. `total`: facts of a key that happened
    on one day are one, the sum of their first value, as it is known in turn.

    Facts without a day are left out. Values count to the hundredth.
    """

    rows: DataFrame
    values: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    order: str = ""
    together: bool = False
    least: bool = False
    total: bool = False


@dataclass(frozen=True)
class Measure:
    """A column to compute from the facts `of` a name.

    `count` facts, or those whose `value` is `above` 0; `sum`, `mean`, `spread` (population's
    standard deviation), `min`, `max` of `value`; `slope` of `value` by day, in units per 30 days
    (least squares); `change`: the count, or sum of `value`, less that of the window before; `last`
    and `first` `value`, or `text`, of the facts by the day they happened; days `since` the last.
    `kinds`: only facts of these; `days`: only those that happened at most so many days before, 0
    for all.

    Facts of one day are in the order in which they were known, then of their values. NULL values
    are left out of all but `last` and `text`. Without a fact a count and a sum are 0, all else
    NULL.
    """

    name: str
    of: str
    how: How
    value: str = ""
    kinds: tuple[str, ...] = ()
    days: int = 0


def as_known(
    rows: DataFrame, key: str, facts: Mapping[str, Facts], measures: Sequence[Measure]
) -> DataFrame:
    """`rows` (key, AS_OF, whatever else) with each measure as a double (`text`: a string)."""
    sources = tuple(name for name in facts if any(m.of == name for m in measures))
    # Of rows that are several sources, each with an order of its own, one copy goes to the workers.
    sent: list[Facts] = []
    part: dict[str, int] = {}
    for name in sources:
        own = replace(facts[name], least=False)
        if own not in sent:
            sent.append(own)
        part[name] = sent.index(own)
    kinds = [
        tuple(sorted({k for m in measures if part.get(m.of) == number for k in m.kinds}))
        for number in range(len(sent))
    ]
    held = F.struct(*rows.columns).alias(_OWN)
    wire = rows.select(F.col(key), F.lit(_ROW).alias(_SOURCE), held, *_nothing())
    blank = F.lit(None).cast(wire.schema[_OWN].dataType).alias(_OWN)
    for number, each in enumerate(sent):
        told = _wire(each, kinds[number])
        wire = wire.union(told.select(F.col(key), F.lit(number).alias(_SOURCE), blank, *_WIRE))
    kept = rows.columns
    shape = [
        Source(
            facts[n].values,
            facts[n].texts,
            kinds[part[n]],
            tuple(m for m in measures if m.of == n),
            bool(facts[n].identity),
            facts[n].together,
            facts[n].total,
            facts[n].least,
            part[n],
        )
        for n in sources
    ]

    def of(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from measured(batches, key, kept, shape)

    added = [
        StructField(m.name, StringType() if m.how == "text" else DoubleType())
        for each in shape
        for m in each.measures
    ]
    schema = StructType([*rows.schema, *added])
    return wire.repartition(F.col(key)).mapInArrow(of, schema)


def spans(rows: DataFrame, keys: Sequence[str]) -> DataFrame:
    """`keys`, KNOWN_ON, UNTIL: the spans of days on which at least one row of the keys is known."""
    known = F.col(KNOWN_ON)
    until = F.coalesce(UNTIL, F.lit("9999-12-31").cast("date"))
    valid = rows.select(*keys, KNOWN_ON, until.alias(UNTIL)).where(known < F.col(UNTIL))
    by = Window.partitionBy(*keys).orderBy(KNOWN_ON, UNTIL)
    reached = F.max(UNTIL).over(by.rowsBetween(Window.unboundedPreceding, -1))
    begins = F.coalesce(known > reached, F.lit(True)).cast("int")
    number = F.sum("_begins").over(by.rowsBetween(Window.unboundedPreceding, 0))
    return (
        valid.withColumn("_begins", begins)
        .withColumn("_span", number)
        .groupBy(*keys, "_span")
        .agg(F.min(KNOWN_ON).alias(KNOWN_ON), F.max(UNTIL).alias(UNTIL))
        .drop("_span")
    )


def within(facts: DataFrame, spans: DataFrame, on: str) -> DataFrame:
    """Facts known while one of the `spans` with the same `on` lasts, once for each such span, with
    the spans' other columns."""
    end = F.lit(None).cast("date")
    own = facts.withColumn("_until", F.col(UNTIL) if UNTIL in facts.columns else end)
    own = own.withColumnRenamed(KNOWN_ON, "_known").drop(UNTIL)
    joined = spans.join(own, on, "inner")
    return (
        joined.withColumn(KNOWN_ON, F.greatest(KNOWN_ON, "_known"))
        .withColumn(UNTIL, F.least(UNTIL, "_until"))
        .where(F.col(UNTIL).isNull() | (F.col(KNOWN_ON) < F.col(UNTIL)))
        .drop("_known", "_until")
    )


# --- between Spark and numpy ---------------------------------------------------------------------

_WIRE = ("_happened", "_known", "_until", "_identity", "_order", "_kind", "_values", "_texts")


def _nothing() -> list[Column]:
    types = ("int", "int", "int", "bigint", "int", "int", "array<double>", "array<string>")
    return [
        F.lit(None).cast(kind).alias(name) for name, kind in zip(_WIRE, types, strict=True)
    ]  # fmt: skip


def _wire(facts: Facts, kinds: Sequence[str]) -> DataFrame:
    names = facts.rows.columns
    until = F.unix_date(UNTIL) if UNTIL in names else F.lit(None).cast("int")
    listed = F.array(*(F.lit(kind) for kind in kinds))
    kind = F.coalesce(F.array_position(listed, F.col(KIND)), F.lit(0)) if kinds else F.lit(0)
    identity = F.xxhash64(*facts.identity) if facts.identity else F.lit(None).cast("bigint")
    order = F.unix_date(facts.order) if facts.order else F.lit(0)
    told = facts.rows.where(F.col(HAPPENED).isNotNull() & F.col(KNOWN_ON).isNotNull())
    if UNTIL in names:
        told = told.where(F.col(UNTIL).isNull() | (F.col(KNOWN_ON) < F.col(UNTIL)))
    return told.select(
        "*",
        F.unix_date(HAPPENED).alias("_happened"),
        F.unix_date(KNOWN_ON).alias("_known"),
        until.alias("_until"),
        identity.alias("_identity"),
        order.alias("_order"),
        kind.cast("int").alias("_kind"),
        F.array(*(F.col(v).cast("double") for v in facts.values))
        .cast("array<double>")
        .alias("_values"),
        F.array(*(F.col(t).cast("string") for t in facts.texts))
        .cast("array<string>")
        .alias("_texts"),
    )


@dataclass(frozen=True)
class Source:
    """What the workers are told of one source: its columns' order, what is asked of it and which of
    the parts that were sent it is."""

    values: tuple[str, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    measures: tuple[Measure, ...]
    versioned: bool = False
    together: bool = False
    total: bool = False
    least: bool = False
    part: int = 0


def measured(
    batches: Iterable[pa.RecordBatch], key: str, kept: Sequence[str], sources: Sequence[Source]
) -> Iterator[pa.RecordBatch]:
    """Rows with their measures, of one partition that holds rows and facts of its keys."""
    held = list(batches)
    if not held:
        return
    table = pa.Table.from_batches(held)
    codes = table[key].combine_chunks().dictionary_encode()
    code = codes.indices.fill_null(len(codes.dictionary)).to_numpy().astype(np.int64)
    source = table[_SOURCE].to_numpy()
    own = source == _ROW
    told = table[_OWN].filter(pa.array(own)).combine_chunks()
    rows = pa.table(told.flatten(), names=list(kept))
    place = (code[own] << _DAYS) + _clipped(_numbers(rows[AS_OF].cast(pa.int32())))
    order = np.argsort(place, kind="stable")
    place, rows = place[order], rows.take(pa.array(order))
    facts = [
        _read(table.filter(pa.array(source == each.part)), code[source == each.part], each)
        for each in sources
    ]
    names = [*kept, *(m.name for each in sources for m in each.measures)]
    for begin, end in _chunks(place >> _DAYS):
        found = list(rows.slice(begin, end - begin).combine_chunks().columns)
        for each in facts:
            chunk = _Chunk(place[begin:end], each.of_keys(place[begin], place[end - 1]))
            found += [chunk.column(measure) for measure in each.source.measures]
        yield from pa.table(found, names=names).combine_chunks().to_batches()


def _chunks(codes: Ints) -> Iterator[tuple[int, int]]:
    """Places where to cut rows, sorted by key, so that no key is cut."""
    begin = 0
    while begin < len(codes):
        last = codes[min(begin + CHUNK, len(codes)) - 1]
        end = int(np.searchsorted(codes, last, "right"))
        yield begin, end
        begin = end


def _numbers(column: pa.ChunkedArray) -> Ints:
    return column.to_numpy().astype(np.int64)


def _clipped(days: Ints) -> Ints:
    """Days since 1970 as a place within a key: none is before 1970, and the last one is never."""
    return np.clip(days, 0, _NEVER)


def _read(table: pa.Table, code: Ints, source: Source) -> _Known:
    """A source's facts, sorted by key, day, the day they were known, and values."""
    happened, known = _numbers(table["_happened"]), _numbers(table["_known"])
    until = _numbers(table["_until"].fill_null(_NEVER))
    flat = table["_values"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values = np.rint(flat.astype(np.float64).reshape(len(code), len(source.values)).T * HUNDREDTHS)
    kind = _numbers(table["_kind"])
    width = len(source.texts)
    texts = table["_texts"].combine_chunks().flatten()
    if source.versioned:
        identity, order = _numbers(table["_identity"]), _numbers(table["_order"].fill_null(-_NEVER))
        if source.least:
            order = np.where(table["_order"].is_valid().to_numpy(), -order, order)
        rank = np.lexsort((*values[::-1], kind, known, order, identity, code))
        until = np.minimum(until, _ended(rank, code, identity, order, known, source.together))
    kept = np.flatnonzero(known < until)
    order = kept[np.lexsort((*values[::-1, kept], kind[kept], known[kept], happened[kept],
                             code[kept]))]  # fmt: skip
    found = _Known(
        source, code[order], happened[order], known[order], until[order], kind[order],
        values[:, order], tuple(texts.take(pa.array(order * width + n)) for n in range(width)),
    )  # fmt: skip
    return _totals(found) if source.total else found


def _ended(
    rank: NDArray[np.intp], code: Ints, identity: Ints, order: Ints, known: Ints, together: bool
) -> Ints:
    """The day on which one that comes later in `rank`, of the same key and identity, was known.

    A running minimum from the end; each group's days are set below those of the groups before, so
    that one pass is enough.
    """
    back = rank[::-1]
    if not len(back):
        return known
    begins = np.empty(len(back), dtype=bool)
    begins[0] = True
    begins[1:] = (code[back[1:]] != code[back[:-1]]) | (identity[back[1:]] != identity[back[:-1]])
    below = np.cumsum(begins).astype(np.int64) << (_DAYS + 1)
    least = np.minimum.accumulate(known[back] - below)
    ended = np.full(len(back), _NEVER, dtype=np.int64)
    # Where a group begins, the sum is beyond the last day: that of the group before, set back less.
    ended[1:] = least[:-1] + below[1:]
    if together:
        # All rows of one order end with the first of them, seen from the end.
        same = ~begins & (order[back] == np.roll(order[back], 1))
        ended = ended[np.maximum.accumulate(np.where(same, 0, np.arange(len(back))))]
    found = np.empty(len(back), dtype=np.int64)
    found[back] = ended
    return found


def _totals(facts: _Known) -> _Known:
    """The sums of the facts of one key and day, each until what is known changes."""
    ends = facts.until < _NEVER
    code = np.concatenate([facts.code, facts.code[ends]])
    happened = np.concatenate([facts.happened, facts.happened[ends]])
    day = np.concatenate([facts.known, facts.until[ends]])
    value = np.nan_to_num(facts.values[0]).astype(np.int64)
    value = np.concatenate([value, -value[ends]])
    count = np.concatenate([np.ones(len(facts.code)), -np.ones(int(ends.sum()))]).astype(np.int64)
    order = np.lexsort((day, happened, code))
    code, happened, day = code[order], happened[order], day[order]
    same = (np.diff(code) == 0) & (np.diff(happened) == 0)
    # A sum is told of where the day changes. What a group adds comes to 0 only if all of it ended,
    # so what the groups before it left is taken off.
    last = np.append(~same | (np.diff(day) != 0), True) if len(code) else np.zeros(0, bool)
    begins = np.insert(~same, 0, True) if len(code) else np.zeros(0, bool)
    place = np.flatnonzero(last)
    group = np.cumsum(begins)[place] - 1
    first = np.flatnonzero(begins)

    def running(steps: Ints) -> Ints:
        total = np.cumsum(steps[order])
        before = np.where(first > 0, total[first - 1], 0) if len(first) else total
        return total[place] - before[group]

    value, count = running(value), running(count)
    until = np.full(len(place), _NEVER, dtype=np.int64)
    if len(place):
        until[:-1] = np.where(group[1:] == group[:-1], day[place][1:], _NEVER)
    kept = count > 0
    place = place[kept]
    return replace(
        facts, code=code[place], happened=happened[place], known=day[place], until=until[kept],
        kind=np.zeros(len(place), dtype=np.int64), texts=(),
        values=value[kept].astype(np.float64)[np.newaxis],
    )  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """Facts of one source, by key. `values` in hundredths, NaN for NULL, one line a value."""

    source: Source
    code: Ints
    happened: Ints
    known: Ints
    until: Ints
    kind: Ints
    values: Floats
    texts: tuple[pa.Array, ...]

    def of_keys(self, first: int, last: int) -> _Known:
        """Those of the keys from one place's to another's."""
        begin = int(np.searchsorted(self.code, first >> _DAYS, "left"))
        end = int(np.searchsorted(self.code, last >> _DAYS, "right"))
        part = slice(begin, end)
        return replace(
            self, code=self.code[part], happened=self.happened[part], known=self.known[part],
            until=self.until[part], kind=self.kind[part], values=self.values[:, part],
            texts=tuple(text.slice(begin, end - begin) for text in self.texts),
        )  # fmt: skip


class _Chunk:
    """Some keys' rows (their places, sorted) and facts; what several measures need is kept."""

    def __init__(self, place: Ints, facts: _Known) -> None:
        self.place, self.facts = place, facts
        key = facts.code << _DAYS
        self._key = key
        self._begins = np.searchsorted(
            place, key + _clipped(np.maximum(facts.happened, facts.known)), "left"
        )
        self._ends: dict[int, Ints] = {}
        self._chosen: dict[tuple[tuple[str, ...], int, str], NDArray[np.intp]] = {}
        self._totals: dict[tuple[Any, ...], Ints] = {}
        self._extremes: dict[tuple[Any, ...], Ints] = {}

    def column(self, measure: Measure) -> pa.Array:
        """The measure of each row, NULL where there is none."""
        if measure.how == "text":
            at = self._extreme(measure, "last")
            text = self.facts.texts[self.facts.source.texts.index(measure.value)]
            return text.take(pa.array(at, mask=at < 0))
        return pa.array(self._numbers(measure), from_pandas=True)

    def _numbers(self, m: Measure) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            match m.how:
                case "count" | "above":
                    return self._total(m, m.how).astype(np.float64)
                case "sum":
                    return self._total(m, "sum") / HUNDREDTHS
                case "mean":
                    return self._total(m, "sum") / self._total(m, "count") / HUNDREDTHS
                case "change":
                    what = "sum" if m.value else "count"
                    both = self._total(replace(m, days=2 * m.days + 1), what)
                    scale = HUNDREDTHS if m.value else 1
                    return (2 * self._total(m, what) - both) / scale
                case "spread":
                    n, x, xx = (self._exact(m, what) for what in ("count", "sum", "squares"))
                    spread = np.sqrt(np.maximum(n * xx - x * x, 0)) / n / HUNDREDTHS
                    return spread.astype(np.float64)
                case "slope":
                    n, x, xx, y, xy = (
                        self._exact(m, what) for what in ("count", "days", "days2", "sum", "cross")
                    )
                    slope = (n * xy - x * y) / (n * xx - x * x)
                    found = (slope * SLOPE_DAYS / HUNDREDTHS).astype(np.float64)
                    return np.where(np.isfinite(found), found, np.nan)
                case "since":
                    happened = _at(self.facts.happened.astype(np.float64), self._extreme(m, "last"))
                    return (self.place & _NEVER) - happened
                case _:
                    values = self.facts.values[self._value(m)]
                    return _at(values, self._extreme(m, m.how)) / HUNDREDTHS

    def _value(self, m: Measure) -> int:
        return self.facts.source.values.index(m.value)

    def _end(self, days: int) -> Ints:
        """For each fact the first of the rows that does not see it any more."""
        if days not in self._ends:
            until = self.facts.until
            if days:
                until = np.minimum(until, self.facts.happened + days + 1)
            self._ends[days] = np.searchsorted(self.place, self._key + _clipped(until), "left")
        return self._ends[days]

    def _seen(self, m: Measure, value: str) -> NDArray[np.intp]:
        """The facts that some row sees, of the measure's kinds and with a value, if one is asked
        for."""
        wanted = (m.kinds, m.days, value)
        if wanted not in self._chosen:
            seen = self._begins < self._end(m.days)
            if m.kinds:
                numbers = [self.facts.source.kinds.index(kind) + 1 for kind in m.kinds]
                seen &= np.isin(self.facts.kind, numbers)
            if value:
                seen &= ~np.isnan(self.facts.values[self._value(m)])
            self._chosen[wanted] = np.flatnonzero(seen)
        return self._chosen[wanted]

    def _exact(self, m: Measure, what: str) -> NDArray[np.longdouble]:
        return self._total(m, what).astype(np.longdouble)

    def _total(self, m: Measure, what: str) -> Ints:
        """Running total over rows of what begins less what ends: exact, in whole numbers."""
        wanted = (m.kinds, m.days, m.value, what)
        if wanted not in self._totals:
            chosen = self._seen(m, m.value)
            if what == "above":
                chosen = chosen[self.facts.values[self._value(m)][chosen] > 0]
            begins, ends = self._begins[chosen], self._end(m.days)[chosen]
            steps = np.zeros(len(self.place) + 1, dtype=np.int64)
            if what in ("count", "above"):
                size = len(steps)
                steps += np.bincount(begins, minlength=size) - np.bincount(ends, minlength=size)
            else:
                weight = self._weight(m, what, chosen)
                np.add.at(steps, begins, weight)
                np.subtract.at(steps, ends, weight)
            self._totals[wanted] = np.cumsum(steps[:-1])
        return self._totals[wanted]

    def _weight(self, m: Measure, what: str, chosen: NDArray[np.intp]) -> Ints:
        day = self.facts.happened[chosen]
        if what in ("days", "days2"):
            return day if what == "days" else day * day
        value = self.facts.values[self._value(m)][chosen].astype(np.int64)
        return {"sum": lambda: value, "squares": lambda: value * value,
                "cross": lambda: value * day}[what]()  # fmt: skip

    def _extreme(self, m: Measure, how: str) -> Ints:
        """For each row the number of the fact that is last, first, least or greatest; -1: none."""
        wanted = (m.kinds, m.days, m.value, how)
        if wanted not in self._extremes:
            valued = how in ("min", "max", "first")
            chosen = self._seen(m, m.value if valued else "")
            begins, ends = self._begins[chosen], self._end(m.days)[chosen]
            if how in ("min", "max"):
                values = self.facts.values[self._value(m)][chosen]
                order = np.argsort(values if how == "max" else -values, kind="stable")
            else:
                order = np.arange(len(chosen)) if how == "last" else np.arange(len(chosen))[::-1]
            rank = np.empty(len(chosen), dtype=np.int64)
            rank[order] = np.arange(len(chosen))
            greatest = covered_maxima(begins, ends, rank, len(self.place))
            self._extremes[wanted] = np.append(chosen[order], -1)[greatest]
        return self._extremes[wanted]


def _at(values: Floats, places: Ints) -> Floats:
    """Values at places; NaN at -1."""
    return np.append(values, np.nan)[places]


def covered_maxima(begins: Ints, ends: Ints, rank: Ints, size: int) -> Ints:
    """For each of `size` places the greatest rank of the intervals [begin, end) that cover it, -1
    for none. No interval is empty.

    A sparse table the other way round: an interval is two spans of one power of two, which may
    overlap, since a maximum does not mind; each span then hands its maximum on to its halves.
    """
    level = np.frexp((ends - begins).astype(np.float64))[1] - 1
    above = np.full(size, -1, dtype=np.int64)
    for power in range(int(level.max(initial=0)), -1, -1):
        span = 1 << power
        at = level == power
        np.maximum.at(above, begins[at], rank[at])
        np.maximum.at(above, ends[at] - span, rank[at])
        if power:
            half = span >> 1
            below = above.copy()
            below[half:] = np.maximum(below[half:], above[: size - half])
            above = below
    return above
