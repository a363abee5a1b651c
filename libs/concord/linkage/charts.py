"""Charts of a model and of what it found, each one SVG without script, style sheet or network.

    from concord.linkage.charts import match_weights
    match_weights(model).save("weights.svg")        # or .html

In a notebook a chart shows itself. Drawn by hand: half a dozen kinds of marks need no library, and
presentation attributes alone pass any content security policy. Colours are told apart by people who
do not see red and green alike (Okabe and Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pyarrow as pa

from concord.errors import UsageError
from concord.linkage.engine import Planned
from concord.linkage.explain import explain
from concord.linkage.model import Model
from concord.linkage.patterns import Floats, Integers, probability

INK, SOFT, LINE, WASH = "#1c2126", "#51585f", "#c4cad0", "#eef1f4"
BLUE, ORANGE, GREEN = "#0b5cad", "#b4500a", "#00795c"
FONT = 'font-family="system-ui, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"'
WIDTH = 760
ROW = 22
BEYOND = 5.0  # bits
LETTER = 7.6  # px: no letter or digit of a common face at 13 px is much wider on average


@dataclass(frozen=True)
class Chart:
    """`description`: what it shows, for those who do not see it. `body`: SVG elements."""

    title: str
    description: str
    body: str
    height: float
    width: float = WIDTH

    @property
    def svg(self) -> str:
        size = f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} height="{self.height:g}" role="img" '
            f'{FONT} font-size="13" fill="{INK}"><title>{escape(self.title)}</title>'
            f"<desc>{escape(self.description)}</desc>"
            f'<rect width="{self.width:g}" height="{self.height:g}" fill="#fff"/>{self.body}</svg>'
        )

    def save(self, path: Path | str) -> None:
        """Raises UsageError (exit 2) for an ending other than .svg and .html."""
        path = Path(path)
        if path.suffix not in {".svg", ".html"}:
            raise UsageError(f"{path}: charts are saved as .svg or .html")
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(self.title)}'
            f"</title><body>{self.svg}</body></html>"
        )
        path.write_text(self.svg if path.suffix == ".svg" else page, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass(frozen=True)
class Row:
    """A line of a chart of intervals; None where there is nothing to show."""

    name: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    # What was expected of it, drawn as a hollow mark.
    expected: float | None = None


# --- of a model -----------------------------------------------------------------------------------


def match_weights(model: Model) -> Chart:
    """What each level adds to a pair's weight, in bits: a bar to the right speaks for one person,
    to the left for two."""
    rows = [(f"{c}: {level}", bits) for c, level, bits, _, _ in _levels(model)]
    return _diverging(
        "Match weights",
        rows,
        "match weight, bits (each bit doubles the odds that it is one person)",
    )


def m_and_u(model: Model) -> Chart:
    """How often each level is seen among pairs of one person (m) and of two (u), on a scale of
    powers of ten; the further apart, the more the level tells."""
    rows = [(f"{c}: {level}", m, u) for c, level, _, m, u in _levels(model)]
    lowest = min((min(m, u) for _, m, u in rows), default=0.1)
    first = math.floor(math.log10(lowest))
    left, right, top = _gutter(name for name, _, _ in rows), WIDTH - 24, 58
    step = (right - left) / -first
    bottom = top + ROW * len(rows)
    body = [_title("How often levels are seen: m and u")]
    body += [_dot(left + 7, 42, BLUE), _text(left + 18, 46, "m: among pairs of one person")]
    body += [_dot(left + 247, 42, ORANGE, hollow=True)]
    body += [_text(left + 258, 46, "u: among pairs of two persons")]
    for power in range(first, 1):
        x = left + (power - first) * step
        body += [_line(x, top, x, bottom, LINE), _text(x, bottom + 18, _power(power), "middle")]
    for number, (name, m, u) in enumerate(rows):
        y = top + ROW * (number + 0.5)
        one, other = (left + (math.log10(share) - first) * step for share in (m, u))
        body += [_text(left - 8, y + 4, name, "end"), _line(one, y, other, y, SOFT, 2)]
        body += [_dot(other, y, ORANGE, hollow=True), _dot(one, y, BLUE)]
    body.append(_text((left + right) / 2, bottom + 40, "share of pairs", "middle", SOFT))
    told = "; ".join(f"{name}: m {m:.3g}, u {u:.3g}" for name, m, u in rows)
    return Chart("How often levels are seen: m and u", told, "".join(body), bottom + 52)


def waterfall(model: Model, pattern: int, *, threshold: float | None = None) -> Chart:
    """How a pair of a pattern comes to the log2 of its odds: the prior, and what each comparison
    adds. `threshold` in bits of match weight."""
    told = explain(model, pattern)
    steps = [("prior odds", told.prior)]
    steps += [(step.says, step.bits) for step in told.steps if not step.silent]
    total = told.total
    ends = np.concatenate([[0.0], np.cumsum([bits for _, bits in steps])])
    edge = None if threshold is None else threshold + model.prior_bits
    known = [*ends.tolist(), *([edge] if edge is not None else [])]
    names = [*(name for name, _ in steps), "sum"]
    left, top = _gutter(names), 52
    right = max(WIDTH - 70, left + 360)
    at, ticks = _scale(min(known), max(known), left, right)
    bottom = top + ROW * len(names)
    body = [_title("Why this pair weighs what it weighs"), *_grid(at, ticks, top, bottom)]
    for number, (name, bits) in enumerate(steps):
        y, begin, end = top + ROW * number, at(ends[number]), at(ends[number + 1])
        colour = SOFT if number == 0 else BLUE if bits >= 0 else ORANGE
        body += [_text(left - 8, y + 15, name, "end"), _bar(begin, y + 3, end, ROW - 6, colour)]
        body.append(_text(max(begin, end) + 5, y + 15, f"{bits:+.1f}"))
    y = top + ROW * len(steps)
    body += [_text(left - 8, y + 15, "sum", "end"), _bar(at(0), y + 3, at(total), ROW - 6, INK)]
    body.append(_text(max(at(0), at(total)) + 5, y + 15, f"{total:+.1f}"))
    if edge is not None:
        body += _mark(at(edge), top, bottom, "threshold")
    verdict = f"probability {told.probability:.4g}"
    if told.why:
        verdict = f"{'; '.join(told.why)}: never linked"
    label = "log2 of the odds that it is one person"
    body += [_text((left + right) / 2, bottom + 40, label, "middle", SOFT)]
    body.append(_text(8, bottom + 66, f"Together: {verdict}."))
    words = f"Prior {told.prior:+.1f}. {told.words} Sum {total:+.1f} bits, {verdict}."
    title = "Why this pair weighs what it weighs"
    return Chart(title, words, "".join(body), bottom + 78, right + 70)


def compared(one: Model, other: Model, *, counts: pa.Table | None = None) -> Chart:
    """The match weights of two models side by side, and how many pairs change sides.

    `counts`: rule, pattern, pairs; told at even odds by each model. Raises UsageError (exit 2) for
    models whose comparisons or levels differ: their patterns mean different things.
    """
    first, second = _levels(one), _levels(other)
    if [row[:2] for row in first] != [row[:2] for row in second]:
        raise UsageError(
            "the two models differ in comparisons or levels; their patterns differ too"
        )
    rows = [(f"{a[0]}: {a[1]}", a[2], b[2]) for a, b in zip(first, second, strict=True)]
    left, right, top, high = _gutter(name for name, _, _ in rows), WIDTH - 60, 58, 30
    values = [bits for _, a, b in rows for bits in (a, b)]
    at, ticks = _scale(min([0.0, *values]), max([0.0, *values]), left, right)
    bottom = top + high * len(rows)
    body = [_title("Two models: match weights")]
    body += [_bar(left, 36, left + 14, 12, BLUE), _text(left + 20, 46, one.model_version)]
    body += [_bar(left + 200, 36, left + 214, 12, ORANGE)]
    body += [_text(left + 220, 46, other.model_version), *_grid(at, ticks, top, bottom)]
    for number, (name, a, b) in enumerate(rows):
        y = top + high * number
        body.append(_text(left - 8, y + 19, name, "end"))
        for place, (bits, colour) in enumerate(((a, BLUE), (b, ORANGE))):
            body.append(_bar(at(0), y + 4 + 11 * place, at(bits), 10, colour))
        x = max(at(0), at(a), at(b)) + 5
        body.append(
            _text(x, y + 19, f"{b - a:+.1f}" if abs(b - a) >= 0.05 else "same", colour=SOFT)
        )
    body += _line_of(at(0), top, bottom)
    body.append(_text((left + right) / 2, bottom + 40, "match weight, bits", "middle", SOFT))
    told = "; ".join(f"{name}: {a:.1f} and {b:.1f}" for name, a, b in rows)
    if counts is None:
        return Chart("Two models: match weights", told, "".join(body), bottom + 52)
    both, only_one, only_other = _sides(one, other, counts)
    words = (
        f"Pairs rather one person than two by both models: {both:,}; only by the first: "
        f"{only_one:,}; only by the second: {only_other:,}."
    )
    body.append(_text(8, bottom + 66, words))
    return Chart("Two models: match weights", f"{told}. {words}", "".join(body), bottom + 78)


# --- of what a model found ------------------------------------------------------------------------


def threshold_curve(model: Model, counts: pa.Table, *, threshold: float | None = None) -> Chart:
    """Precision and recall that the model expects of itself if links began at a weight.

    `counts`: rule, pattern, pairs. Recall is of pairs that were compared: what blocking misses is
    not in it. `threshold` in bits, to be marked.
    """
    patterns, pairs = counts["pattern"].to_numpy(), counts["pairs"].to_numpy()
    weight = model.weights.of(patterns)
    some = np.isfinite(weight)
    order = np.argsort(-weight[some])
    weight, pairs = weight[some][order], pairs[some][order].astype(float)
    right_pairs = np.cumsum(pairs * probability(weight, model.prior_bits))
    precision, recall = right_pairs / np.cumsum(pairs), right_pairs / right_pairs[-1:]
    series = [
        ("expected precision", BLUE, weight, precision),
        ("expected recall", ORANGE, weight, recall),
    ]
    return _curves(
        "Precision and recall by threshold, as the model expects them",
        series,
        "links from this weight on, bits",
        threshold,
    )


def unlinkables(weights: Floats, *, threshold: float | None = None) -> Chart:
    """The share of records that cannot reach a weight, whatever other record there were.

    `weights`: each record's against one just like it (`report.reach`), bits.
    """
    distinct, counts = np.unique(weights, return_counts=True)
    below = (np.cumsum(counts) - counts) / max(len(weights), 1)
    some = np.isfinite(distinct)
    xs, ys = distinct[some][::-1], below[some][::-1]
    # Beyond the heaviest nobody gets; below the lightest nobody is short of it.
    xs = np.concatenate([xs[:1] + BEYOND, xs, np.minimum(xs[-1:], threshold or 0.0) - BEYOND])
    ys = np.concatenate([np.ones(len(ys[:1])), ys, ys[-1:]])
    series = [("records that cannot reach it", BLUE, xs, ys)]
    title = "Records that say too little to be linked"
    return _curves(title, series, "if links began at this weight, bits", threshold)


def blocking_counts(plan: Sequence[Planned]) -> Chart:
    """Pairs by blocking rule (`engine.planned`): those it makes, and those no earlier rule made."""
    rows = [(each.rule, each.pairs, each.new) for each in plan]
    left, right, top, high = _gutter(name for name, _, _ in rows), WIDTH - 150, 58, 32
    most = max((pairs for _, pairs, _ in rows), default=1) or 1
    at, ticks = _scale(0, most, left, right)
    bottom = top + high * len(rows)
    body = [_title("Pairs by blocking rule")]
    body += [_bar(left, 36, left + 14, 12, LINE), _text(left + 20, 46, "pairs that it makes")]
    body += [_bar(left + 200, 36, left + 214, 12, BLUE)]
    body += [_text(left + 220, 46, "new: made by no earlier rule"), *_grid(at, ticks, top, bottom)]
    for number, (name, pairs, new) in enumerate(rows):
        y = top + high * number
        body += [_text(left - 8, y + 20, name, "end"), _bar(at(0), y + 4, at(pairs), 11, LINE)]
        body += [_bar(at(0), y + 16, at(new), 11, BLUE)]
        body.append(_text(at(max(pairs, new)) + 6, y + 20, f"{pairs:,}, {new:,} new"))
    body.append(_text((left + right) / 2, bottom + 40, "pairs of records", "middle", SOFT))
    told = "; ".join(f"{name}: {pairs:,} pairs, {new:,} new" for name, pairs, new in rows)
    return Chart("Pairs by blocking rule", told, "".join(body), bottom + 52)


def counts(title: str, rows: Sequence[tuple[str, float]], unit: str) -> Chart:
    """Bars of counts by name."""
    left, right, top = _gutter(name for name, _ in rows), WIDTH - 90, 34
    at, ticks = _scale(0, max([1.0, *(value for _, value in rows)]), left, right)
    bottom = top + ROW * len(rows)
    body = [_title(title), *_grid(at, ticks, top, bottom)]
    for number, (name, value) in enumerate(rows):
        y = top + ROW * number
        body += [_text(left - 8, y + 15, name, "end")]
        body += [_bar(at(0), y + 3, at(value), ROW - 6, BLUE)]
        body.append(_text(at(value) + 5, y + 15, f"{value:,.0f}"))
    body.append(_text((left + right) / 2, bottom + 40, unit, "middle", SOFT))
    told = "; ".join(f"{name}: {value:,.0f}" for name, value in rows)
    return Chart(title, f"{unit}. {told}", "".join(body), bottom + 52)


def intervals(
    title: str, rows: Sequence[Row], unit: str, *, low: float | None = None, key: str = ""
) -> Chart:
    """Shares with their intervals, a line each; `low`: where the scale begins, else below the
    least. `key`: what the hollow marks are, if there are any."""
    known = [x for row in rows for x in (row.value, row.lower, row.expected) if x is not None]
    least = min([*known, 0.99]) if low is None else low
    begin = math.floor(least * 10) / 10 if least < 0.9 else math.floor(least * 100) / 100
    left, right, top = _gutter(row.name for row in rows), WIDTH - 90, 58 if key else 34
    at, ticks = _scale(begin, 1.0, left, right)
    bottom = top + ROW * len(rows)
    body = [_title(title), *_grid(at, ticks, top, bottom, share=True)]
    if key:
        body += [_dot(left + 7, 42, BLUE), _text(left + 18, 46, "measured, with its interval")]
        body += [_dot(left + 227, 42, ORANGE, hollow=True), _text(left + 238, 46, key)]
    for number, row in enumerate(rows):
        y = top + ROW * (number + 0.5)
        body.append(_text(left - 8, y + 4, row.name, "end"))
        if row.lower is not None and row.upper is not None:
            body.append(_line(at(max(row.lower, begin)), y, at(row.upper), y, BLUE, 3))
        if row.expected is not None:
            body.append(_dot(at(row.expected), y, ORANGE, hollow=True))
        if row.value is not None:
            body.append(_dot(at(row.value), y, BLUE))
        body.append(_text(right + 12, y + 4, percent(row.value)))
    body.append(_text((left + right) / 2, bottom + 40, unit, "middle", SOFT))
    told = "; ".join(_said(row) for row in rows)
    return Chart(title, f"{unit}. {told}", "".join(body), bottom + 52)


# --- marks ----------------------------------------------------------------------------------------


def _levels(model: Model) -> list[tuple[str, str, float, float, float]]:
    """comparison, level (and class, of several), bits, m, u; of levels whose m and u are known."""
    found = []
    for name, comparison in model.comparisons.items():
        for level, of in comparison.levels.items():
            m, u, bits = of.each("m"), of.each("u"), of.bits
            for number in range(of.classes) if of.known else ():
                several = f" {number + 1} of {of.classes}" if of.classes > 1 else ""
                found.append((name, level + several, bits[number], m[number], u[number]))
    return found


def _sides(one: Model, other: Model, counts: pa.Table) -> tuple[int, int, int]:
    """Pairs with a probability of one half or more by both, by the first alone, by the second."""
    patterns: Integers = counts["pattern"].to_numpy()
    pairs = counts["pairs"].to_numpy()
    first, second = (m.weights.of(patterns) + m.prior_bits >= 0 for m in (one, other))
    both, left, right = first & second, first & ~second, second & ~first
    return int(pairs[both].sum()), int(pairs[left].sum()), int(pairs[right].sum())


def _diverging(title: str, rows: Sequence[tuple[str, float]], unit: str) -> Chart:
    left, right, top = _gutter(name for name, _ in rows), WIDTH - 60, 34
    values = [0.0, *(value for _, value in rows)]
    # Room for the figures beside bars to the left.
    at, ticks = _scale(min(values) - 4, max(values), left, right)
    bottom = top + ROW * len(rows)
    body = [_title(title), *_grid(at, ticks, top, bottom)]
    for number, (name, value) in enumerate(rows):
        y, end = top + ROW * number, at(value)
        body.append(_text(left - 8, y + 15, name, "end"))
        body.append(_bar(at(0), y + 3, end, ROW - 6, BLUE if value >= 0 else ORANGE))
        place = (end + 5, "start") if value >= 0 else (end - 5, "end")
        body.append(_text(place[0], y + 15, f"{value:+.1f}", place[1]))
    body += _line_of(at(0), top, bottom)
    body.append(_text((left + right) / 2, bottom + 40, unit, "middle", SOFT))
    told = "; ".join(f"{name}: {value:+.1f}" for name, value in rows)
    return Chart(title, f"{unit}. {told}", "".join(body), bottom + 52)


def _curves(
    title: str,
    series: Sequence[tuple[str, str, Floats, Floats]],
    unit: str,
    threshold: float | None,
) -> Chart:
    """Shares by weight as steps; weights descend."""
    left, right, top, bottom = 60.0, WIDTH - 30.0, 84.0, 364.0
    all_x = [x for _, _, xs, _ in series for x in (xs.min(initial=0.0), xs.max(initial=1.0))]
    all_x += [threshold] if threshold is not None else []
    at, ticks = _scale(min(all_x), max(all_x), left, right)
    body = [_title(title), *_grid(at, ticks, top, bottom)]
    for tenth in range(0, 11, 2):
        y = bottom - (bottom - top) * tenth / 10
        body += [_line(left, y, right, y, LINE), _text(left - 8, y + 4, f"{tenth * 10} %", "end")]
    for number, (name, colour, xs, ys) in enumerate(series):
        dash = "7 4" if number else ""
        x = left + 240 * number
        body += [_line(x, 42, x + 26, 42, colour, 2.5, dash), _text(x + 34, 46, name)]
        points = _steps([at(one) for one in xs], [bottom - (bottom - top) * one for one in ys])
        body.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" '
            f'stroke-dasharray="{dash or "none"}" points="{points}"/>'
        )
    if threshold is not None:
        body += _mark(at(threshold), top, bottom, "threshold")
    body.append(_text((left + right) / 2, bottom + 40, unit, "middle", SOFT))
    told = "; ".join(
        f"{name} {percent(float(ys[xs >= threshold][-1]))}"
        for name, _, xs, ys in series
        if threshold is not None and (xs >= threshold).any()
    )
    at_threshold = f"{title}. At the threshold: {told}" if told else title
    return Chart(title, at_threshold, "".join(body), bottom + 52)


def _steps(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Corners of steps; of more than one at nearly the same place the last."""
    corners: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        if corners and abs(corners[-1][0] - x) < 0.25:
            corners[-1] = (corners[-1][0], y)
            continue
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _scale(
    low: float, high: float, left: float, right: float
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value is between `left` and `right`, and round values for ticks."""
    span = (high - low) or 1.0
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return lambda value: left + (value - low) / span * (right - left), ticks


def _grid(
    at: Callable[[float], float],
    ticks: Iterable[float],
    top: float,
    bottom: float,
    *,
    share: bool = False,
) -> list[str]:
    found = []
    for tick in ticks:
        said = (
            f"{tick * 100:g} %" if share else f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}"
        )
        found.append(_line(at(tick), top, at(tick), bottom, LINE))
        found.append(_text(at(tick), bottom + 18, said, "middle"))
    return found


def _gutter(names: Iterable[str]) -> float:
    """Room for names at the left."""
    return max([60.0, *(len(name) * LETTER + 16 for name in names)])


def _title(text: str) -> str:
    return f'<text x="8" y="20" font-size="15" font-weight="600">{escape(text)}</text>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{escape(text)}</text>'


def _line(
    x: float, y: float, to_x: float, to_y: float, colour: str, width: float = 1, dash: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def _line_of(x: float, top: float, bottom: float) -> list[str]:
    return [_line(x, top, x, bottom, SOFT, 1.5)]


def _mark(x: float, top: float, bottom: float, name: str) -> list[str]:
    """A dashed line with its name above."""
    return [_line(x, top - 4, x, bottom, INK, 1.5, "4 3"), _text(x, top - 8, name, "middle")]


def _bar(x: float, y: float, to_x: float, high: float, colour: str) -> str:
    begin, wide = min(x, to_x), max(abs(to_x - x), 0.5)
    return (
        f'<rect x="{begin:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:g}" fill="{colour}"/>'
    )


def _dot(x: float, y: float, colour: str, *, hollow: bool = False) -> str:
    if hollow:
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#fff" stroke="{colour}" '
            'stroke-width="2"/>'
        )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'


def _power(of_ten: int) -> str:
    return f"{10.0**of_ten:g}" if of_ten > -5 else f"1e{of_ten}"


def percent(share: float | None) -> str:
    """A digit more near 0 and 1, and never rounded to either; `hidden` for none."""
    if share is None:
        return "hidden"
    if share in (0.0, 1.0) or 0.01 <= share <= 0.99:
        return f"{share * 100:.1f} %"
    if share < 0.0001 or share > 0.9999:
        return "< 0.01 %" if share < 0.5 else "> 99.99 %"
    return f"{share * 100:.2f} %"


def _said(row: Row) -> str:
    within = ""
    if row.lower is not None and row.upper is not None:
        within = f" ({percent(row.lower)} to {percent(row.upper)})"
    expected = f", expected {percent(row.expected)}" if row.expected is not None else ""
    return f"{row.name}: {percent(row.value)}{within}{expected}"
