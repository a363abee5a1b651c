"""A model card: what a model is for, from what and how well, in Markdown and as a page.

Its sections are those of Mitchell et al. (2019), Model Cards for Model Reporting: details, intended
use, factors, metrics, evaluation and training data, quantitative analyses, caveats. Everything in
it is computed from the run; no row of data stands in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape

from concord.agreements.dula import Dula
from concord_models.backtest import Backtest
from concord_models.churn.blocks import feature
from concord_models.specification import ModelSpec

SHOWN = (
    "auc", "average_precision", "brier", "log_loss", "ece", "precision_at_k", "recall_at_k",
    "base_rate",
)  # fmt: skip
CAVEATS = (
    "Scores order outreach. They are no ground for a decision against anybody: not for closing, "
    "denying or reviewing a case.",
    "A score is of a check-in that is known and open. Who has none on file has no score.",
    "Once calls are made by the list, whether a household closes depends on the calls too: a model "
    "trained on those months learns from both.",
    "Race, ethnicity and gender are no features; they are looked at in the table by group.",
)


@dataclass(frozen=True)
class Card:
    """All that the two forms show."""

    title: str
    facts: Mapping[str, str]
    use: Mapping[str, str]
    slices: Sequence[Mapping[str, Any]]
    left_out: str
    lists: str
    measures: Sequence[Mapping[str, str]]
    figures: Mapping[str, str]
    groups: Sequence[Mapping[str, Any]]
    rules: Sequence[Mapping[str, str]]
    features: Sequence[str]
    caveats: Sequence[str] = CAVEATS

    def summary(self) -> str:
        """What it is, what for and how good, in a few lines of Markdown."""
        told = {
            **{name: self.facts[name] for name in ("model", "predicts")},
            "agreement": self.use["agreement"],
            **self.figures,
            "more": "model_card.html among the run's artifacts",
        }
        return "\n".join([f"**{self.title}**", "", *(f"- {n}: {v}" for n, v in told.items())])

    def markdown(self) -> str:
        return _rendered(MARKDOWN, self, escape=False)

    def page(self) -> str:
        """One self-contained HTML page."""
        return _rendered(PAGE, self, escape=True)


def card(
    spec: ModelSpec,
    dula: Dula,
    *,
    winner: str,
    tags: Mapping[str, str],
    rows: Mapping[str, int],
    left_out: int,
    days: Mapping[str, str],
    measures: Mapping[str, Mapping[str, float]],
    groups: Sequence[Mapping[str, Any]],
    past: Backtest | None,
    shown: Mapping[str, Any],
) -> Card:
    """The card of a training.

    `left_out`: rows of no slice, because of outreach. `measures`: the test slice's by model
    and baseline. `days`: first due day by slice. `tags`: the run's, names without a prefix.
    `groups`: evaluation.recall_by_group's rows. `shown`: evidence.promotion_evidence.
    """
    ratios = {(each["kind"], each["group"]): each for each in shown["parity"]}
    predicts = " by ".join(filter(None, (spec.label.name, spec.label.definition)))
    rules = []
    if past is not None:
        for each in past.regrets:
            mean = f"{each.mean:.4f}" if each.regrets else "not tested yet"
            rules.append({"rule": each.rule, "pick": each.pick, "mean": mean})
    return Card(
        title=f"{spec.title} ({spec.registered_name})",
        facts={
            "model": f"{winner}, of {len(spec.features)} features; identity {spec.identity}",
            "predicts": f"{predicts}: {', '.join(spec.label.closure_reasons)}",
            **tags,
        },
        use={
            "agreement": f"{dula.reference}: {dula.title}",
            "purpose": f"{dula.purpose.code}: {dula.purpose.text}",
            "not for": ", ".join(dula.purpose.prohibited) or "any other purpose",
            "usable under": ", ".join(dula.uses.models_usable_under) or "this agreement alone",
        },
        slices=[
            {"slice": name, "from": days.get(name, ""), "rows": f"{count:,}"}
            for name, count in rows.items()
        ],
        left_out=f"In no slice: {left_out:,} rows of check-ins that the agency called about after "
        "the row's as-of day; how they ended is no longer what would have come without the call."
        if left_out
        else "",
        measures=[
            {"model": name, **{each: _figure(values.get(each)) for each in SHOWN}}
            for name, values in measures.items()
        ],
        lists=f"Lists are ordered so as to reach {', '.join(spec.equal_recall_of)} equally."
        if spec.equal_recall_of
        else "Lists go by the probability alone.",
        figures={
            "AUC": _interval(shown["auc"]),
            "calibration slope": f"{_interval(shown['slope'])}, before calibration "
            f"{_interval(shown['slope_before'])}; 1 is right",
            "calibration intercept": f"{_interval(shown['intercept'])}; 0 is right",
        },
        groups=[
            {**each, "ratio": _interval(ratios.get((each["kind"], each["group"])), "ratio")}
            for each in groups
        ],
        rules=rules,
        features=[f"{name}: {feature(name).words}" for name in spec.features],
    )


def _interval(figure: Mapping[str, float] | None, name: str = "value") -> str:
    """A figure with its 95 % interval."""
    if figure is None or math.isnan(figure[name]):
        return ""
    return f"{figure[name]:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _rendered(template: str, shown: Card, *, escape: bool) -> str:
    environment = Environment(
        autoescape=select_autoescape(default_for_string=escape),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(template).render(c=shown, shown=SHOWN)


MARKDOWN = """\
# {{ c.title }}

{% for name, value in c.facts.items() %}
- {{ name }}: {{ value }}
{% endfor %}

## Intended use

{% for name, value in c.use.items() %}
- {{ name }}: {{ value }}
{% endfor %}

## Data

| slice | check-ins due from | rows |
| --- | --- | --- |
{% for each in c.slices %}
| {{ each["slice"] }} | {{ each["from"] }} | {{ each["rows"] }} |
{% endfor %}
{% if c.left_out %}

{{ c.left_out }}
{% endif %}

## How well, on the test slice

| model | {{ shown | join(" | ") }} |
| --- |{% for _ in shown %} --- |{% endfor %}

{% for each in c.measures %}
| {{ each["model"] }} |{% for name in shown %} {{ each[name] }} |{% endfor %}

{% endfor %}

{% for name, value in c.figures.items() %}
- {{ name }}: {{ value }}
{% endfor %}

With 95 % intervals: DeLong's of the AUC, Wald's of the calibration (Cox 1958).

## By group

Of each group's closures the share that the first calls of each office reach, with Wilson's 95 %
interval, and its ratio to that of all others of the kind. Groups with fewer than 11 closures are
told together. {{ c.lists }}

| kind | group | closures | recall | low | high | ratio to the others |
| --- | --- | --- | --- | --- | --- | --- |
{% for each in c.groups %}
| {{ each["kind"] }} | {{ each["group"] }} | {{ each.get("closures", "") }} |\
{% for name in ("recall", "low", "high") %} \
{{ "%.3f" | format(each[name]) if name in each else "" }} |{% endfor %} {{ each["ratio"] }} |

{% endfor %}
{% if c.rules %}

## Over time

| rule | would use | mean regret |
| --- | --- | --- |
{% for each in c.rules %}
| {{ each["rule"] }} | {{ each["pick"] }} | {{ each["mean"] }} |
{% endfor %}
{% endif %}

## Features

{% for each in c.features %}
- {{ each }}
{% endfor %}

## Caveats

{% for each in c.caveats %}
- {{ each }}
{% endfor %}
"""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ c.title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }
  body { padding: 0 1rem; }
  h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 1.75rem; }
  dl { display: grid; grid-template-columns: 11rem 1fr; gap: .25rem 1rem; }
  dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; } th, td { padding: .25rem .6rem; text-align: right; }
  th { border-bottom: 1px solid #999; font-weight: 600; }
  th:first-child, td:first-child, td.text, th.text { text-align: left; }
</style>
</head>
<body>
<h1>{{ c.title }}</h1>
<dl>{% for name, value in c.facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<h2>Intended use</h2>
<dl>{% for name, value in c.use.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<h2>Data</h2>
<table><tr><th>slice</th><th>check-ins due from</th><th>rows</th></tr>
{% for each in c.slices %}
<tr><td>{{ each["slice"] }}</td><td>{{ each["from"] }}</td><td>{{ each["rows"] }}</td></tr>
{% endfor %}
</table>
{% if c.left_out %}<p>{{ c.left_out }}</p>{% endif %}

<h2>How well, on the test slice</h2>
<div class="wide"><table><tr><th>model</th>
{% for name in shown %}<th>{{ name.replace("_", " ") }}</th>{% endfor %}</tr>
{% for each in c.measures %}
<tr><td>{{ each["model"] }}</td>{% for name in shown %}<td>{{ each[name] }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
<dl>{% for name, value in c.figures.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}
</dl>
<p>With 95 % intervals: DeLong's of the AUC, Wald's of the calibration (Cox 1958).</p>
<h2>By group</h2>
<p>Of each group's closures the share that the first calls of each office reach, with Wilson's 95 %
interval, and its ratio to that of all others of the kind. Groups with fewer than 11 closures are
told together. {{ c.lists }}</p>
<table>
<tr><th>kind</th><th class="text">group</th><th>closures</th><th>recall</th><th>interval</th>
<th>ratio to the others</th></tr>
{% for each in c.groups %}
<tr><td>{{ each["kind"] }}</td><td class="text">{{ each["group"] }}</td>
<td>{{ each.get("closures", "") }}</td>
<td>{{ "%.3f" | format(each["recall"]) if "recall" in each else "" }}</td>
<td>{{ "%.3f to %.3f" | format(each["low"], each["high"]) if "low" in each else "" }}</td>
<td>{{ each["ratio"] }}</td></tr>
{% endfor %}
</table>
{% if c.rules %}
<h2>Over time</h2>
<table><tr><th>rule</th><th class="text">would use</th><th>mean regret</th></tr>
{% for each in c.rules %}
<tr><td>{{ each["rule"] }}</td><td class="text">{{ each["pick"] }}</td>
<td>{{ each["mean"] }}</td></tr>
{% endfor %}
</table>
{% endif %}
<h2>Features</h2>
<ul>{% for each in c.features %}<li>{{ each }}</li>{% endfor %}</ul>
<h2>Caveats</h2>
<ul>{% for each in c.caveats %}<li>{{ each }}</li>{% endfor %}</ul>
</body>
</html>
"""
