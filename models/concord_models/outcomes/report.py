"""An outcome study's report: one page that needs nothing else, the same as JSON, two figures.

Every one of them says what the figures assume and what wage records do not know. None has a row
of data or a figure of few people: all comes from `Findings`.
"""

from __future__ import annotations

import base64
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import Any

from concord_models.outcomes.estimation import Estimate
from concord_models.outcomes.findings import (
    ALL,
    EARNINGS,
    EMPLOYED,
    PER_COVARIATE,
    Findings,
    Line,
)
from concord_models.outcomes.panel import RETURNED, RETURNED_TAFDC
from concord_models.outcomes.specification import OutcomeStudy

# Below this a covariate counts as balanced (Austin 2009, Stat Med 28:3083).
BALANCED = 0.1

ASSUMPTIONS = (
    "No unmeasured confounding: people with equal covariates would have had equal outcomes on "
    "average, had neither entered. What is not among the covariates, such as motivation or plans, "
    "is not adjusted for. Nothing here can test this.",
    "The propensity is a logistic regression on the covariates listed. Where its form is wrong, "
    "weighted means of the covariates are equal all the same, other functions of them may not be.",
    "Overlap: the figures speak of people who might as well have entered as not (overlap weights), "
    "not of all entrants.",
    "One person's entry does not change another's outcome.",
    "A comparison person's later outcomes end where that person enters a programme; those who stay "
    "out are taken to be like those who left the comparison, given the covariates.",
)
COVERAGE = (
    "Wage records know work that an employer in the state reports for unemployment insurance. Work "
    "in another state, self-employment and federal jobs look like no work and no earnings.",
    "If training makes people move away or work for themselves, employment and earnings are "
    "understated for them.",
    "A quarter that is not reported yet is left out, never counted as 0; so later quarters speak "
    "of people who entered earlier.",
    "Earnings are gross wages of a quarter in dollars of that quarter, 0 for who has none.",
)
IN_SHORT = (
    "Adjusted for what is measured before entry; causal only if nothing else sets apart those who "
    "enter. Wages: only work reported in the state; out-of-state, self-employed and federal work "
    "look like none. Quarters not reported yet are left out."
)
TRAINED, OTHERS, PLAIN = "#0b5c8c", "#b3541e", "#7a7a7a"


@dataclass(frozen=True)
class Context:
    """What a report says of itself. `coverage` is panel.coverage."""

    study: OutcomeStudy
    as_of: date
    expires: date
    coverage: Mapping[str, str]
    versions: Mapping[str, int]


def as_json(found: Findings, context: Context) -> dict[str, Any]:
    study = context.study
    return {
        "study": study.name,
        "version": study.version,
        "title": study.title,
        "agreement": study.agreement,
        "as_of": context.as_of.isoformat(),
        "expires": context.expires.isoformat(),
        "assumptions": list(ASSUMPTIONS),
        "wage_record_coverage": list(COVERAGE),
        "reported": dict(context.coverage),
        "data_versions": dict(context.versions),
        "least_people": study.least_people,
        "estimand": "average effect of entry in the overlap population (ATO)",
        **found.as_json(),
    }


def balance_json(found: Findings, context: Context) -> dict[str, Any]:
    whole = as_json(found, context)
    kept = ("study", "as_of", "agreement", "assumptions", "wage_record_coverage", "balance",
            "not_shown", "effective_treated", "effective_comparison")  # fmt: skip
    return {name: whole[name] for name in kept}


# --- figures -------------------------------------------------------------------------------------


def balance_plot(found: Findings) -> Any:
    """A figure: absolute standardised mean difference of each covariate, before and after."""
    rows = sorted(found.balance, key=lambda row: abs(row.before))
    figure = _figure(8, 1.9 + 0.27 * len(rows))
    axes = figure.subplots()
    places = range(len(rows))
    before, after = [abs(r.before) for r in rows], [abs(r.after) for r in rows]
    axes.hlines(places, after, before, color="#d5d5d5", linewidth=1.5, zorder=1)
    axes.scatter(before, places, color=OTHERS, marker="o", label="before weighting", zorder=2)
    axes.scatter(after, places, color=TRAINED, marker="D", s=26, label="after", zorder=3)
    axes.axvline(BALANCED, color=PLAIN, linestyle=":", linewidth=1)
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_xlim(-0.02, max([0.2, *before]) * 1.05)
    axes.set_xlabel("absolute standardised mean difference (dotted: 0.1)")
    axes.set_title("Balance of those who entered and those who did not", loc="left")
    axes.legend(loc="lower right", frameon=False)
    _plain(axes)
    return figure


def event_study_plot(found: Findings) -> Any:
    """A figure: difference in quarterly earnings by quarter since entry, adjusted and raw."""
    figure = _figure(8, 5.4)
    axes = figure.subplots()
    for name, colour, marker, shift in (
        ("raw", OTHERS, "o", -0.1),
        ("adjusted", TRAINED, "D", 0.1),
    ):
        told = [(line.quarter, getattr(line, name)) for line in found.event_study if line.adjusted]
        places = [quarter + shift for quarter, _ in told]
        values = [e.difference for _, e in told]
        spans = [
            [e.difference - e.low for _, e in told],
            [e.high - e.difference for _, e in told],
        ]
        label = "adjusted (overlap weights)" if name == "adjusted" else "raw difference"
        axes.errorbar(
            places, values, yerr=spans, color=colour, marker=marker, markersize=5,
            linewidth=1.2, elinewidth=1.2, capsize=2.5, label=label,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvspan(-0.5, 0.5, color="#efefef", zorder=0)
    first, last = found.event_study[0].quarter, found.event_study[-1].quarter
    axes.set_xticks(
        range(first, last + 1), [f"{q:+d}" if q else "0" for q in range(first, last + 1)]
    )
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.yaxis.set_major_formatter(lambda value, _: _dollars(value))
    axes.set_xlabel("quarter since entry (0: the quarter of entry, partly in training)")
    axes.set_ylabel("difference in quarterly earnings")
    axes.set_title(
        "Earnings of those who entered less those of the others, 95 % intervals", loc="left"
    )
    axes.legend(loc="best", frameon=False)
    _plain(axes)
    return figure


def programme_plot(found: Findings, quarter: int) -> Any:
    """A figure: the adjusted difference in earnings of one quarter, by programme."""
    told = [
        line
        for line in found.lines
        if line.outcome == EARNINGS and line.quarter == quarter and line.adjusted
    ]
    figure = _figure(8, 1.9 + 0.4 * len(told))
    axes = figure.subplots()
    places = range(len(told))
    estimates = [line.adjusted for line in told if line.adjusted]
    spans = [
        [e.difference - e.low for e in estimates],
        [e.high - e.difference for e in estimates],
    ]
    middles = [e.difference for e in estimates]
    axes.errorbar(middles, places, xerr=spans, color=TRAINED, fmt="D", capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [words(line.group) for line in told])
    axes.set_ylim(len(told) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: _dollars(value))
    axes.set_xlabel("adjusted difference in earnings of the quarter, 95 % intervals")
    axes.set_title(f"Earnings in quarter +{quarter}, by programme", loc="left")
    _plain(axes)
    return figure


def _figure(width: float, height: float) -> Any:
    """With the short statement below: a figure that is cut out of its report keeps it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    words = textwrap.fill(IN_SHORT, 136)
    figure.supxlabel(words, x=0.01, ha="left", fontsize=7.5, color="#555555")
    return figure


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25)


# --- page ----------------------------------------------------------------------------------------

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
        font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
         vertical-align: top; }
th:first-child, td:first-child { text-align: left; } td.why { text-align: left; color: #666; }
figure { margin: 1rem 0; } img { max-width: 100%; }
.box { background: #f6f4ee; padding: .8rem 1.2rem; }
small { color: #555; } span { white-space: nowrap; }
"""


def page(found: Findings, context: Context) -> str:
    """The report as one HTML page; figures are inside it."""
    study = context.study
    told = context.coverage
    figures = [
        (event_study_plot(found), _event_words()),
        (balance_plot(found), _balance_words(found)),
    ]
    main = _main_quarter(found)
    if main is not None:
        figures.append((programme_plot(found, main), "Each programme's entrants are compared with "
                        "people made alike by weights of their own."))  # fmt: skip
    parts = [
        f"<h1>{escape(study.title)}</h1>",
        f"<p>As known on {context.as_of}, under {escape(study.agreement)} until {context.expires}. "
        f"About {found.treated:,} people on assistance who entered a programme for the first "
        f"time, beside about {found.comparison:,} on assistance who had not; an effective "
        f"{found.effective_treated:,} and {found.effective_comparison:,} rows after weighting.</p>",
        f"<p><strong>{escape(IN_SHORT)}</strong></p>",
        _headline(found),
        '<div class="box">',
        _list("What the adjusted figures assume", ASSUMPTIONS),
        _list("What wage records know", COVERAGE),
        "</div>",
        f"<p>Reported by then: wages {_span(told, 'quarter')}, SNAP {_span(told, 'month')}, "
        f"cash assistance {_span(told, 'tafdc_month')}, "
        f"entries until {escape(told.get('entry_on_until', '')) or 'none'}.</p>",
        *(
            f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{_png(figure)}">'
            f"<figcaption><small>{escape(title)}</small></figcaption></figure>"
            for figure, title in figures
        ),
        "<h2>All outcomes</h2>",
        f"<p><small>†: fewer than {PER_COVARIATE} people for each covariate; the interval is "
        "likely too narrow.</small></p>",
        *(_table(found, group) for group in dict.fromkeys(line.group for line in found.lines)),
        "<h2>Balance</h2>",
        _balance_table(found),
        f"<p><small>Counts of people are rounded to ten; nothing is told of fewer than "
        f"{study.least_people} people. Data: "
        + escape(", ".join(f"{n} version {v}" for n, v in sorted(context.versions.items())))
        + "</small></p>",
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{escape(study.title)}</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )


def text(found: Findings, context: Context) -> dict[str, str]:
    """The artifacts that are text, by file name."""
    return {
        "report.html": page(found, context),
        "report.json": json.dumps(as_json(found, context), indent=1) + "\n",
        "balance.json": json.dumps(balance_json(found, context), indent=1) + "\n",
    }


def words(group: str) -> str:
    """A programme's code as words, abbreviations as they are."""
    if group == ALL:
        return group
    return " ".join(w if w in {"WIOA", "ESOL"} else w.lower() for w in group.split("_"))


def _main_quarter(found: Findings) -> int | None:
    """The last quarter whose earnings are told of most groups."""
    counts: dict[int, int] = {}
    for line in found.lines:
        if line.outcome == EARNINGS and line.adjusted and line.quarter > 0:
            counts[line.quarter] = counts.get(line.quarter, 0) + 1
    return max(counts, key=lambda quarter: (counts[quarter], quarter)) if counts else None


def _headline(found: Findings) -> str:
    told = [
        line
        for line in found.lines
        if line.group == ALL and line.adjusted and line.quarter in (2, 4, 8)
    ]
    items = [
        f"<li>{_name(line)}{' †' if line.thin else ''}: "
        f"{_difference(line.outcome, line.adjusted)} after adjustment; "
        f"{_difference(line.outcome, line.raw)} without.</li>"
        for line in told
        if line.adjusted and line.raw
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _table(found: Findings, group: str) -> str:
    rows = []
    for line in (line for line in found.lines if line.group == group):
        if line.adjusted is None or line.raw is None:
            why = f'<td class="why" colspan="7">{escape(line.why)}</td>'
            rows.append(f"<tr><td>{_name(line)}</td>{why}</tr>")
            continue
        cells = [
            _value(line.outcome, line.adjusted.treated_mean),
            _value(line.outcome, line.adjusted.comparison_mean),
            _difference(line.outcome, line.adjusted),
            _difference(line.outcome, line.raw),
            _difference(line.outcome, line.raw_change),
            f"{line.treated:,}{' †' if line.thin else ''}",
            f"{line.comparison:,}",
        ]
        rows.append(
            f"<tr><td>{_name(line)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    heads = ("outcome", "entered", "others, weighted", "adjusted difference", "raw difference",
             "raw, change from the year before", "people", "others")  # fmt: skip
    head = "".join(f"<th>{name}</th>" for name in heads)
    caption = escape(words(group)[:1].upper() + words(group)[1:])
    return f"<table><caption>{caption}</caption><tr>{head}</tr>{''.join(rows)}</table>"


def _balance_table(found: Findings) -> str:
    rows = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{row.before:+.3f}</td><td>{row.after:+.3f}</td></tr>"
        for row in found.balance
    )
    hidden = (
        f"<p><small>Weighted too, but not shown, for few people have or lack it: "
        f"{escape(', '.join(found.not_shown))}.</small></p>"
        if found.not_shown
        else ""
    )
    return (
        "<table><caption>Standardised mean differences</caption><tr><th>covariate</th>"
        f"<th>before weighting</th><th>after</th></tr>{rows}</table>{hidden}"
    )


def _event_words() -> str:
    return (
        "Difference in quarterly earnings by quarter since entry. The four quarters before are "
        "weighted on, so there the adjusted difference is zero by construction: it shows that "
        "weighting worked and tests nothing. That the year before is equal also makes the "
        "adjusted difference that of the change from its mean."
    )


def _balance_words(found: Findings) -> str:
    worst = max((abs(row.after) for row in found.balance), default=0.0)
    return f"Balance. After weighting the largest absolute difference is {worst:.3f}."


def _name(line: Line) -> str:
    if line.outcome == RETURNED:
        return f"returned to SNAP within {line.quarter} quarters"
    if line.outcome == RETURNED_TAFDC:
        return f"returned to cash assistance within {line.quarter} quarters (of who received it)"
    kind = {EARNINGS: "earnings", EMPLOYED: "employed"}[line.outcome]
    quarter = f"+{line.quarter}" if line.quarter else "of entry"
    return f"{kind}, quarter {quarter}"


def _difference(outcome: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    values = (estimate.difference, estimate.low, estimate.high)
    if outcome == EARNINGS:
        middle, low, high = (_dollars(value, signed=True) for value in values)
        return f"{middle} <span>({low} to {high})</span>"
    middle, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in values)
    return f"{middle} points <span>({low} to {high})</span>"


def _value(outcome: str, value: float) -> str:
    return _dollars(value) if outcome == EARNINGS else f"{100 * value:.1f} %"


def _dollars(value: float, signed: bool = False) -> str:
    sign = "−" if round(value) < 0 else "+" if signed and round(value) > 0 else ""
    return f"{sign}${abs(round(value)):,}"


def _span(told: Mapping[str, str], name: str) -> str:
    first, last = told.get(f"{name}_from", ""), told.get(f"{name}_until", "")
    return escape(f"{first} to {last}" if first else "none")


def _list(title: str, items: Sequence[str]) -> str:
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _png(figure: Any) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=130)
    return base64.b64encode(held.getvalue()).decode()
