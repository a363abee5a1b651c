"""`make bench BENCH=features`: facts as they were known, in one pass and by a join for each day.

Generated histories of cases: contacts, card events and months, some of them late, some corrected.
As of 24 days each, 150 measures. `joined` is how it is usually done: each row is joined to what of
each table was known on its as-of day, and that is aggregated. Both in one session, compared.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from rich.console import Console
from rich.markdown import Markdown

from concord.errors import QualityError
from concord.lake.session import start
from concord.studies.tables import KNOWN_ON
from concord_models.point_in_time import AS_OF, HAPPENED, KIND, Facts, How, Measure, as_known
from tests.bench.engine_side import java_of, settings_of
from tests.bench.options import DOCS, OUT, Docs, Memory, Out
from tests.bench.report import between_markers, check_markers, machine_facts, table

START, END = "<!-- features:start -->", "<!-- features:end -->"
CASES, BESIDE, DAYS, MEASURES, AIM = 100_000, 10_000, 24, 150, 600
KEY = "case_id"
FIRST = date(2022, 1, 1)
WINDOWS = (30, 90, 180, 365)
KINDS = {"contacts": ("call", "login", "text", "visit", "mail"), "card": ("buy", "look", "no")}
VALUES = tuple(f"value_{n}" for n in range(6))
# Contacts, card events and months of a case.
EVENTS = {"contacts": 24, "card": 60, "months": 30}

console = Console(highlight=False)


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of the cores by Java and Python: on a machine that others use too
    the second says more."""

    seconds: float
    cores: float


@dataclass(frozen=True)
class Timed:
    """Cases and their facts; what the one pass took and, where it ran, the joins."""

    cases: int
    facts: int
    one_pass: Spent
    joins: Spent | None = None

    @property
    def rows(self) -> int:
        return self.cases * DAYS


def features(
    cases: Annotated[int, typer.Option(help="Cases for the one pass; half as many too.")] = CASES,
    beside: Annotated[int, typer.Option(help="Cases for both ways; 0: no joins.")] = BESIDE,
    memory: Memory = "6g",
    out: Out = OUT,
    docs: Docs = DOCS,
) -> None:
    """Measure features as known: one pass over each table beside a join for each as-of day."""
    check_markers(docs, START, END)
    facts = machine_facts("", memory)
    folder = (out / "features").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    settings = settings_of(folder, memory)
    spark = start(settings, application="concord bench")
    found = []
    try:
        java = java_of(spark)
        measured(spark, folder, 500, joins=bool(beside))
        if beside:
            found.append(_tell(measured(spark, folder, beside, joins=True)))
        for size in (cases // 2, cases):
            found.append(_tell(measured(spark, folder, size, joins=False)))
    finally:
        spark.stop()
        shutil.rmtree(folder, ignore_errors=True)
    command = "make bench BENCH=features"
    if (cases, beside) != (CASES, BESIDE):
        command = f'make bench BENCH="features --cases {cases} --beside {beside}"'
    made = markdown(found, {**facts, "Java": java}, command)
    docs.write_text(between_markers(docs.read_text(), made, START, END))
    console.print(Markdown(made))
    console.print(f"written: {docs}")


def _tell(timed: Timed) -> Timed:
    joins = "" if timed.joins is None else f", joins {timed.joins.seconds:.1f} s"
    console.print(f"{timed.cases:,} cases: one pass {timed.one_pass.seconds:.1f} s{joins}")
    return timed


def measured(spark: SparkSession, folder: Path, cases: int, *, joins: bool) -> Timed:
    """One size. Raises QualityError when the two ways do not find the same."""
    place = folder / str(cases)
    # Some 150,000 rows and their facts a task, two tasks a core at least.
    spark.conf.set("spark.sql.shuffle.partitions", str(max(4, cases // 6_000)))
    for name, frame in histories(spark, cases).items():
        frame.write.parquet(str(place / name))
    tables = {name: spark.read.parquet(str(place / name)) for name in ("rows", *EVENTS)}
    rows, facts = tables["rows"], {n: sourced(n, tables[n]) for n in EVENTS}
    measures = asked()
    first, second = str(place / "one_pass"), str(place / "joins")
    one = _spent(lambda: as_known(rows, KEY, facts, measures).write.parquet(first))
    spent = None
    if joins:
        spent = _spent(lambda: joined(rows, facts, measures).write.parquet(second))
        differ = different(spark.read.parquet(first), spark.read.parquet(second), measures)
        if differ:
            raise QualityError(f"the two ways differ in {', '.join(differ)}")
    count = sum(tables[name].count() for name in EVENTS)
    shutil.rmtree(place)
    return Timed(cases, count, one, spent)


def _spent(work: Callable[[], Any]) -> Spent:
    began, cores = time.perf_counter(), _cores()
    work()
    return Spent(time.perf_counter() - began, _cores() - cores)


def _cores() -> float:
    """Core seconds of this process and all that it started, those that have ended included."""
    stats: dict[int, tuple[int, int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = place.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        # Fields 4 and 14 to 17 of proc(5): the parent; user and system ticks, own and children's.
        stats[int(place.parent.name)] = int(told[1]), sum(map(int, told[11:15]))
    own, more = set[int](), {os.getpid()}
    while more:
        own |= more
        more = {pid for pid, (parent, _) in stats.items() if parent in own} - own
    return sum(stats[pid][1] for pid in own if pid in stats) / os.sysconf("SC_CLK_TCK")


# --- what is asked of what -----------------------------------------------------------------------


def histories(spark: SparkSession, cases: int) -> dict[str, DataFrame]:
    """rows (case, as-of day), and tables of facts. A tenth is known three months late; of months a
    tenth is told of once more, corrected."""
    case = F.format_string("case-%016d", F.col("id")).alias(KEY)

    def drawn(seed: int, most: int) -> Column:
        """Of each fact another number, the same in every run."""
        return F.pmod(F.xxhash64(F.lit(seed), "id", "number"), F.lit(most)).cast("int")

    def each(count: int) -> DataFrame:
        numbers = F.explode(F.sequence(F.lit(0), F.lit(count - 1))).alias("number")
        return spark.range(cases).select("id", case, numbers)

    month = F.add_months(F.lit(FIRST), F.col("number"))
    as_of = F.date_add(F.add_months(F.lit(FIRST), F.col("number") + 6), 13)
    found = {"rows": each(DAYS).select(KEY, as_of.alias(AS_OF))}
    late = F.when(drawn(1, 10) == 0, 90).otherwise(drawn(2, 20))
    for name, kinds in KINDS.items():
        happened = F.date_add(F.lit(FIRST), drawn(3, 900))
        kind = F.element_at(F.array(*map(F.lit, kinds)), drawn(4, len(kinds)) + 1)
        amount = (drawn(5, 30_000) / 100).cast("decimal(10,2)")
        found[name] = each(EVENTS[name]).select(
            KEY, happened.alias(HAPPENED), F.date_add(happened, late).alias(KNOWN_ON),
            kind.alias(KIND), amount.alias("amount"),
        )  # fmt: skip
    told = each(EVENTS["months"]).withColumn("version", F.explode(F.array(F.lit(0), F.lit(1))))
    told = told.where((F.col("version") == 0) | (drawn(6, 10) == 0))
    values = [
        F.when(drawn(7 + n, 20) > 0, (drawn(20 + n, 90_000) + 1_000 * F.col("version")) / 100)
        .cast("decimal(10,2)")
        .alias(value)
        for n, value in enumerate(VALUES)
    ]  # fmt: skip
    known = F.date_add(month, 33 + late + 40 * F.col("version"))
    found["months"] = told.select(KEY, month.alias(HAPPENED), known.alias(KNOWN_ON), *values)
    return found


def sourced(name: str, frame: DataFrame) -> Facts:
    if name == "months":
        return Facts(frame, VALUES, identity=(HAPPENED,))
    return Facts(frame, ("amount",))


def asked() -> list[Measure]:
    """150 measures: counts by kind and window, amounts, trends, newest values, volatility."""
    found = []
    for of, kinds in KINDS.items():
        for kind in ((), *((k,) for k in kinds)):
            own = "_".join((of, *kind))
            found += [Measure(f"{own}_count_{w}", of, "count", "", kind, w) for w in WINDOWS]
            found.append(Measure(f"{own}_since", of, "since", "", kind))
        found += [Measure(f"{of}_change_{w}", of, "change", "", (), w) for w in WINDOWS]
    amounts: tuple[How, ...] = ("sum", "mean", "min", "max")
    found += [
        Measure(f"{h}_{w}", "card", h, "amount", ("buy",), w) for h in amounts for w in WINDOWS
    ]
    hows: tuple[How, ...] = ("last", "mean", "spread", "min", "max", "slope", "first")
    for name in [(h, v, w) for h in hows for v in VALUES for w in (214, 400)]:
        found.append(Measure("_".join(map(str, name)), "months", name[0], name[1], (), name[2]))
    return found[:MEASURES]


# --- the usual way -------------------------------------------------------------------------------


def joined(rows: DataFrame, facts: Mapping[str, Facts], measures: Sequence[Measure]) -> DataFrame:
    """Each row joined to what was known of each table on its as-of day, and aggregated."""
    whole = rows
    for name, source in facts.items():
        known = rows.join(source.rows, KEY).where(
            (F.col(KNOWN_ON) <= F.col(AS_OF)) & (F.col(HAPPENED) <= F.col(AS_OF))
        )
        if source.identity:
            newest = Window.partitionBy(KEY, AS_OF, *source.identity).orderBy(F.desc(KNOWN_ON))
            known = known.withColumn("_nth", F.row_number().over(newest)).where("_nth = 1")
        own = [_aggregate(m).alias(m.name) for m in measures if m.of == name]
        whole = whole.join(known.groupBy(KEY, AS_OF).agg(*own), [KEY, AS_OF], "left")
    return whole.fillna(0, subset=[m.name for m in measures if m.how in ("count", "sum", "change")])


def _aggregate(m: Measure) -> Column:
    ago = F.date_diff(AS_OF, HAPPENED)
    kind = F.col(KIND).isin(*m.kinds) if m.kinds else F.lit(True)
    seen = kind & (ago <= m.days) if m.days else kind
    value = F.col(m.value).cast("double") if m.value else F.lit(1.0)
    own = F.when(seen, value)
    found = {
        "count": lambda: F.count(own),
        "sum": lambda: F.coalesce(F.sum(own), F.lit(0.0)),
        "mean": lambda: F.avg(own),
        "min": lambda: F.min(own),
        "max": lambda: F.max(own),
        "spread": lambda: F.stddev_pop(own),
        "slope": lambda: F.regr_slope(own, F.unix_date(HAPPENED)) * 30,
        "last": lambda: F.max_by(value, F.when(seen, F.col(HAPPENED))),
        "first": lambda: F.min_by(value, F.when(own.isNotNull(), F.col(HAPPENED))),
        "since": lambda: F.min(F.when(seen, ago)),
        "change": lambda: 2 * F.count(own) - F.count(F.when(kind & (ago <= 2 * m.days + 1), value)),
    }[m.how]()
    return found.cast("double")


def different(one: DataFrame, other: DataFrame, measures: Sequence[Measure]) -> list[str]:
    """Names of measures that are not the same, to nine figures, in every row of both."""
    renamed = other.withColumnsRenamed({m.name: f"_{m.name}" for m in measures})
    both = one.join(renamed, [KEY, AS_OF], "full")
    told = both.agg(
        *(
            F.count_if(
                ~F.col(m.name).eqNullSafe(F.col(f"_{m.name}"))
                & F.coalesce(
                    F.abs(F.col(m.name) - F.col(f"_{m.name}"))
                    > 1e-9 * F.greatest(F.lit(1.0), F.abs(F.col(m.name))),
                    F.lit(True),
                )
            ).alias(m.name)
            for m in measures
        ),
        F.count(F.lit(1)).alias("_rows"),
    ).collect()[0]
    rows = [] if told["_rows"] == one.count() == other.count() else ["rows"]
    return rows + [m.name for m in measures if told[m.name]]


def markdown(found: Sequence[Timed], facts: Mapping[str, str], command: str) -> str:
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    heading = ("cases", "rows", "facts", "one pass, seconds", "of the cores", "joins, seconds",
               "of the cores", "joins by one pass, cores")  # fmt: skip
    lines = []
    for t in found:
        joins = ("", "", "")
        if t.joins is not None:
            ratio = t.joins.cores / t.one_pass.cores
            joins = (f"{t.joins.seconds:.1f}", f"{t.joins.cores:.1f}", f"{ratio:.1f}")
        one = f"{t.one_pass.seconds:.1f}", f"{t.one_pass.cores:.1f}"
        lines.append((f"{t.cases:,}", f"{t.rows:,}", f"{t.facts:,}", *one, *joins))
    half, whole = found[-2], found[-1]
    verdict = "within" if whole.one_pass.seconds <= AIM else "above"
    said = (
        f"{DAYS} as-of days a case, {MEASURES} measures, of equal results where both ran. "
        f"{whole.cases:,} cases are {verdict} the aim of {AIM // 60} minutes; twice the rows take "
        f"{whole.one_pass.cores / half.one_pass.cores:.2f} times the seconds of the cores. Others "
        "work on a machine whose load is above its cores: there the clock tells of them."
    )
    return "\n\n".join(
        [
            f"Measured on {datetime.now(UTC).date()} with `{command}`: {told}.",
            said,
            table(heading, lines, numbers=True),
        ]
    )
