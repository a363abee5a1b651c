"""From the smallest groups' counts to the rows of a release, small counts protected.

A release has two cuts: months by certification type for the whole state, and quarters by region and
certification type, each with totals. They share their state-wide quarters, so they are protected
together, as one system of sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from concord.disclosure.attack import Interval, Sum
from concord.disclosure.profiles import Profile
from concord.disclosure.suppression import Suppression, suppress

ALL = "all"
STATE = "Massachusetts"
MONTHLY, QUARTERLY = "month_certification", "quarter_region_certification"
# How the outcomes of a check-in add up: a total, and the part that is released of it.
OUTCOMES = (("checkins", "closed", "kept"), ("closed", "churned", "gone"))
MEASURES = ("checkins", "closed", "churned")
SHARES = ("closed", "churned")  # of the check-ins
TOTAL_COST = 0.3


class Cell(NamedTuple):
    """One count: of a measure, in a period (its first day and kind), region, certification type."""

    kind: str
    period: date
    region: str
    certification: str
    measure: str


@dataclass(frozen=True)
class Group:
    """The smallest group's counts, as a population gives them."""

    month: date
    region: str
    certification: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Release:
    """The rows of a release and the evidence that they meet the profile."""

    rows: tuple[Mapping[str, Any], ...]
    visible: Mapping[str, float]
    cells: int
    primary: int
    secondary: int
    narrowest: float | None


def release(groups: Sequence[Group], profile: Profile, measures: Collection[str]) -> Release:
    """All cuts with totals, small counts and what would give them away hidden.

    `measures` are those shown; the others may not follow either. `visible` says, by cut, which
    share of the check-ins stands in cells (no totals) of which every measure shown is visible.
    """
    counts: dict[Cell, int] = {}
    hidden: set[Cell] = set()
    results: list[Suppression[Cell]] = []
    quarters = sorted({quarter(group.month) for group in groups})
    for start in quarters:
        own = [group for group in groups if quarter(group.month) == start]
        cells, sums = _system(start, own)
        derived = [cell for cell in cells if cell.measure not in measures]
        result = suppress(cells, sums, profile, derived=derived, cost=_cost)
        results.append(result)
        counts |= cells
        hidden |= result.hidden
    shown = [name for name in MEASURES if name in measures]
    keys = sorted({cell[:4] for cell in counts})
    rows = tuple(
        _row(kind, period, region, certification, counts, hidden, shown)
        for kind, period, region, certification in keys
    )
    inferred: dict[Cell, Interval] = {}
    for result in results:
        inferred |= result.inferred
    widths = [result.narrowest for result in results if result.narrowest is not None]
    return Release(
        rows,
        {cut: _visible(rows, cut, shown, groups) for cut in (MONTHLY, QUARTERLY)},
        sum(cell.measure in measures for cell in counts),
        sum(len(result.primary) for result in results),
        sum(len(result.secondary) for result in results),
        min(widths, default=None),
    )


def _cost(cell: Cell) -> float:
    """Totals over certification types go before the types themselves, which readers come for."""
    return TOTAL_COST if cell.certification == ALL else 1.0


def quarter(day: date) -> date:
    """The first day of the day's quarter."""
    return date(day.year, 3 * ((day.month - 1) // 3) + 1, 1)


def _system(start: date, groups: Sequence[Group]) -> tuple[dict[Cell, int], list[Sum[Cell]]]:
    """One quarter's counts with all their totals, and how they add up."""
    regions = sorted({group.region for group in groups})
    kinds = sorted({group.certification for group in groups})
    months = sorted({group.month for group in groups})
    places = [(QUARTERLY, start, region) for region in (STATE, *regions)]
    places += [(MONTHLY, month, STATE) for month in months]
    names = ("checkins", "closed", "churned", "kept", "gone")
    counts = {
        Cell(*place, certification, name): 0
        for place in places
        for certification in (ALL, *kinds)
        for name in names
    }
    for group in groups:
        given = dict(group.counts)
        given["kept"] = given["checkins"] - given["closed"]
        given["gone"] = given["closed"] - given["churned"]
        held = [(QUARTERLY, start, STATE), (QUARTERLY, start, group.region)]
        held.append((MONTHLY, group.month, STATE))
        for place in held:
            for certification in (ALL, group.certification):
                for name in names:
                    counts[Cell(*place, certification, name)] += given[name]
    sums = []
    for place in places:
        for name in names:
            parts = tuple(Cell(*place, kind, name) for kind in kinds)
            sums.append(Sum(Cell(*place, ALL, name), parts))
        for certification in (ALL, *kinds):
            for total, *parts_of in OUTCOMES:
                held_parts = tuple(Cell(*place, certification, name) for name in parts_of)
                sums.append(Sum(Cell(*place, certification, total), held_parts))
    for certification in (ALL, *kinds):
        for name in names:
            whole = Cell(QUARTERLY, start, STATE, certification, name)
            by_region = tuple(Cell(QUARTERLY, start, r, certification, name) for r in regions)
            by_month = tuple(Cell(MONTHLY, m, STATE, certification, name) for m in months)
            sums += [Sum(whole, by_region), Sum(whole, by_month)]
    return counts, sums


def _row(
    kind: str,
    period: date,
    region: str,
    certification: str,
    counts: Mapping[Cell, int],
    hidden: Collection[Cell],
    shown: Iterable[str],
) -> dict[str, Any]:
    quarterly = kind == QUARTERLY
    row: dict[str, Any] = {
        "cut": kind,
        "period": f"{period.year}-Q{(period.month + 2) // 3}" if quarterly else f"{period:%Y-%m}",
        "period_start": period,
        "region": region,
        "certification_type": certification,
    }
    for name in shown:
        cell = Cell(kind, period, region, certification, name)
        row[name] = None if cell in hidden else counts[cell]
        row[f"{name}_suppressed"] = cell in hidden
    for name in SHARES:
        part, whole = row.get(name), row.get("checkins")
        if name in row:
            row[f"{name}_share"] = round(part / whole, 4) if part is not None and whole else None
    return row


def _visible(
    rows: Iterable[Mapping[str, Any]], cut: str, shown: Sequence[str], groups: Sequence[Group]
) -> float:
    """Share of all check-ins that stand in the cut's cells of which every measure is visible."""
    seen = 0
    for row in rows:
        is_total = row["certification_type"] == ALL or (cut == QUARTERLY and row["region"] == STATE)
        if row["cut"] != cut or is_total or any(row[f"{name}_suppressed"] for name in shown):
            continue
        seen += row["checkins"]
    total = sum(group.counts["checkins"] for group in groups)
    return round(seen / total, 4) if total else 0.0
