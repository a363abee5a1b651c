"""How good the index is, as one HTML page for a browser without a network. Pure.

It is made of rows of index/quality and of the model, and holds nothing of any record. It loads
nothing and runs no script; its content security policy says so.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from concord.linkage import charts
from concord.linkage.charts import Chart, Row, percent
from concord.linkage.limits import Limits
from concord.linkage.model import Model
from concord.linkage.report import ALL, Measure, breaches

# Measure -> what it is called on the page. The first are shares.
SHARES: Mapping[str, str] = {
    "holdout_precision": "Links that are right",
    "holdout_recall_in_reach": "Links that are found, of those that could be",
    "holdout_recall": "Links that are found, of all",
    "holdout_reach": "Pairs that say enough without the SSN",
    "blocking_recall": "Pairs that are compared without the SSN",
    "expected_precision": "Links that are right, as the model expects",
    "unlinkable": "Records that cannot be linked",
    "id_churn": "Ids that changed, per person there was",
}
COUNTS: Mapping[str, str] = {
    "records": "Records",
    "persons": "Persons",
    "largest_person": "Records of the largest person",
    "components_too_large": "Groups too large to part",
    "pairs_refused": "Pairs refused by the pair budget",
}
HEADLINES = (
    "records",
    "persons",
    "holdout_precision",
    "holdout_recall_in_reach",
    "holdout_reach",
    "expected_precision",
    "unlinkable",
    "id_churn",
)
ATTRIBUTES: Mapping[str, str] = {
    "zip3": "ZIP code area",
    "municipality": "people of the municipality",
}
VALUES: Mapping[str, str] = {"differ": "the two differ", "unknown": "not known"}
JUDGED = ("holdout_precision", "holdout_recall_in_reach", "holdout_recall")
EVENTS = ("minted", "joined", "merged_into", "split_from", "left", "retired")
RUNS_SHOWN = 12


@dataclass(frozen=True)
class Table:
    """Of text. The first column heads its row."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Run:
    """One run's measures, and what they were taken with."""

    run_id: str
    as_of: str
    model_version: str
    measures: tuple[Measure, ...]

    def of(self, name: str, group: str = ALL) -> Measure | None:
        return next((m for m in self.measures if (m.name, m.group) == (name, group)), None)

    def groups(self, name: str) -> list[Measure]:
        """All of a measure's but that of the whole."""
        return [m for m in self.measures if m.name == name and m.group != ALL]


def page(rows: Iterable[Mapping[str, Any]], *, model: Model, limits: Limits | None = None) -> str:
    """The page of the last of the runs.

    `rows`: of index/quality, at least one, those of an earlier run before those of a later; `model`
    as it is now. Raises ValueError without rows.
    """
    runs = by_run(rows)
    if not runs:
        raise ValueError("no rows of index/quality: there is nothing to show")
    now, bounds = runs[-1], limits or Limits()
    folder = files("concord.linkage") / "page"
    css, html = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("quality.css", "quality.html.jinja")
    )
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(html)
    return template.render(
        run=now,
        model=model.model_version,
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {_digest(css)}",
        css=Markup(css),  # noqa: S704  # as it stands in the package
        headlines=headlines(now),
        broken=breaches(now.measures, bounds),
        limits=limit_table(now, bounds),
        reach=next((_value(m) for m in [now.of("holdout_reach")] if m), None),
        blind=now.of("blocking_recall") is not None,
        feeds=_feeds(now),
        feed_charts=_figures(_feed_charts(now)),
        attributes=[_attribute(now, name) for name in _attributes(now)],
        calibration=_figures(_calibration_chart(now)),
        calibration_table=_calibration(now),
        sizes=_figures(_size_chart(now)),
        runs=_runs(runs[-RUNS_SHOWN:]),
        churn=_figures(_churn_chart(runs[-RUNS_SHOWN:])),
        model_charts=_figures([charts.match_weights(model), charts.m_and_u(model)]),
        blocking=_figures(_blocking_chart(now)),
        unlinkable=_unlinkable(now),
    )


def _digest(text: str) -> str:
    """As a content security policy names a style sheet."""
    found = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(found).decode()}'"


def by_run(rows: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Runs in the order of their first rows."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["run_id"], []).append(row)
    return [
        Run(run_id, str(of[0]["as_of"]), of[0]["model_version"], tuple(_measure(r) for r in of))
        for run_id, of in found.items()
    ]


def _measure(row: Mapping[str, Any]) -> Measure:
    # Rows of before there was such a column have none.
    ends = (row["lower"], row["upper"], row.get("of"))
    return Measure(row["measure"], row["group"], row["value"], *ends)


def headlines(run: Run) -> list[tuple[str, str, str]]:
    """What it is called, the figure, and how sure it is or what it is of."""
    found = []
    for name in HEADLINES:
        measure = run.of(name)
        if measure is not None:
            found.append((_named(name), _value(measure), _sure(measure)))
    return found


def limit_table(run: Run, limits: Limits) -> Table:
    """Each limit, the figure, and whether it holds."""
    rows = []
    for name, bound in limits.bounds.items():
        measure = run.of(name)
        broken = breaches([measure] if measure else [], Limits.model_validate({name: bound}))
        known = measure is not None and measure.value is not None
        holds = "broken" if broken else "holds" if known else "not measured"
        figure = _value(measure) if measure else "none"
        rows.append((_named(name), bound.words, figure, holds))
    return Table("Limits of this index", ("Measure", "Must be", "Is", "Limit"), rows)


def _named(name: str) -> str:
    return {**SHARES, **COUNTS}.get(name, name.replace("_", " "))


def _value(measure: Measure) -> str:
    if measure.value is None:
        return "hidden"
    return percent(measure.value) if measure.name in SHARES else f"{measure.value:,.0f}"


def _sure(measure: Measure) -> str:
    if measure.lower is not None and measure.upper is not None:
        return f"{percent(measure.lower)} to {percent(measure.upper)}, of {measure.of:,} pairs"
    kinds = {"unlinkable": "records", "id_churn": "persons"}
    return f"of {measure.of:,} {kinds.get(measure.name, '')}" if measure.of is not None else ""


def feeds_of(group: str) -> str:
    """`a b` -> `a + b`; `a a` -> `a, within`."""
    one, _, other = group.partition(" ")
    return f"{one}, within" if one == other else f"{one} + {other}"


def _cells(run: Run, group: str, names: Sequence[str]) -> tuple[str, ...]:
    """Of each measure the figure, its interval and how many pairs it is of, as one text each."""
    found = []
    for name in names:
        measure = run.of(name, group)
        found.append("" if measure is None else _value(measure))
        if name in JUDGED[:2]:
            known = measure is not None and measure.value is not None
            found.append(_sure(measure) if known and measure else "")
    return tuple(found)


HEAD = ("Right", "Interval", "Found, if it could be", "Interval", "Found, of all")


def _feeds(run: Run) -> Table:
    names = sorted({m.group for name in JUDGED for m in run.groups(name) if "=" not in m.group})
    rows = [(feeds_of(group), *_cells(run, group, JUDGED)) for group in names]
    return Table("Links by pair of feeds, without the SSN", ("Feeds", *HEAD), rows)


def _feed_charts(run: Run) -> list[Chart]:
    told = {
        "holdout_precision": ("Links that are right", "share of links whose SSNs agree"),
        "holdout_recall_in_reach": (
            "Links that are found, of those that could be",
            "share of pairs with one SSN that are linked without it",
        ),
    }
    found = []
    for name, (title, unit) in told.items():
        whole = [m for m in [run.of(name)] if m]
        rows = [
            Row("all" if m.group == ALL else feeds_of(m.group), m.value, m.lower, m.upper)
            for m in (*whole, *run.groups(name))
            if "=" not in m.group and m.value is not None
        ]
        if rows:
            found.append(charts.intervals(title, rows, f"{unit}, with 95 % interval"))
    return found


def _attributes(run: Run) -> list[str]:
    names = [m.group.partition("=")[0] for m in run.groups("holdout_recall") if "=" in m.group]
    return list(dict.fromkeys(names))


def _attribute(run: Run, attribute: str) -> Table:
    groups = {
        m.group
        for name in JUDGED
        for m in run.groups(name)
        if m.group.partition("=")[0] == attribute
    }
    rows = []
    # What is not known comes last.
    for group in sorted(groups, key=lambda g: (g.partition("=")[2] in VALUES, g)):
        value = group.partition("=")[2]
        rows.append((VALUES.get(value, value), *_cells(run, group, JUDGED)))
    title = ATTRIBUTES.get(attribute, attribute.replace("_", " "))
    return Table(f"Links by {title}, without the SSN", (title, *HEAD), rows)


def _calibration(run: Run) -> Table:
    rows = []
    for measure in run.groups("calibration"):
        expected = run.of("calibration_expected", measure.group)
        mean = percent(expected.value if expected else None)
        rows.append((measure.group, mean, percent(measure.value), _sure(measure)))
    head = ("Probability", "Mean, by the model", "With one SSN", "Interval")
    return Table("Probability without the SSN, and what came of it", head, rows)


def _calibration_chart(run: Run) -> list[Chart]:
    rows = []
    for measure in run.groups("calibration"):
        expected = run.of("calibration_expected", measure.group)
        mean = expected.value if expected else None
        rows.append(Row(measure.group, measure.value, measure.lower, measure.upper, mean))
    if not rows:
        return []
    title, unit = "Does the model's probability hold?", "share of pairs with one SSN"
    return [charts.intervals(title, rows, unit, low=0.0, key="mean probability by the model")]


def _size_chart(run: Run) -> list[Chart]:
    rows = [(m.group, m.value or 0.0) for m in run.groups("persons_by_records")]
    return [charts.counts("Persons by number of records", rows, "persons")] if rows else []


def _blocking_chart(run: Run) -> list[Chart]:
    rows = [(m.group, m.value or 0.0) for m in run.groups("pairs_compared")]
    title = "Pairs compared, by the first rule that makes them"
    return [charts.counts(title, rows, "pairs of variants of records")] if rows else []


def _runs(runs: Sequence[Run]) -> Table:
    rows = []
    for run in reversed(runs):
        shown = [run.of(name) for name in ("records", "persons", "id_churn", "holdout_precision")]
        told = [_value(measure) if measure else "" for measure in shown]
        kinds = {m.group: f"{m.value:,.0f}" for m in run.groups("events") if m.value is not None}
        rows.append((run.as_of, run.run_id[:8], *told, *(kinds.get(kind, "0") for kind in EVENTS)))
    head = ("As of", "Run", "Records", "Persons", "Ids that changed", "Links that are right")
    return Table("Runs, the newest first", (*head, *(k.replace("_", " ") for k in EVENTS)), rows)


def _churn_chart(runs: Sequence[Run]) -> list[Chart]:
    rows = []
    for run in runs:
        kinds = {m.group: m.value or 0.0 for m in run.groups("events")}
        moved = sum(kinds.get(kind, 0.0) for kind in ("merged_into", "split_from", "retired"))
        rows.append((f"{run.as_of}, {run.run_id[:8]}", moved))
    title = "Events by which records lost an id, run by run"
    return [charts.counts(title, rows, "merged into another, split from another or retired")]


def _unlinkable(run: Run) -> Table:
    rows = [
        (m.group, percent(m.value), f"{m.of:,}")
        for m in run.groups("unlinkable")
        if m.value is not None and m.of is not None
    ]
    head = ("Feed", "Cannot be linked", "Records")
    return Table("Records that say too little to be linked to any other", head, rows)


def _figures(made: Iterable[Chart]) -> list[tuple[str, Markup]]:
    """Title and SVG, whose texts are escaped where it is made."""
    return [(chart.title, Markup(chart.svg)) for chart in made]  # noqa: S704  # escaped
