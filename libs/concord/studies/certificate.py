"""A certificate of destruction, as data and as a page.

Its parts are those that Connecticut's P20 WIN (certificate of data destruction) and CMS (form
CMS-10252) ask for: the agreement and its parties, what was destroyed, how, when and by whom, what
was kept and why, the statement; and what neither asks for, the proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from jinja2 import Environment, StrictUndefined

from concord.agreements.canonical import digest
from concord.agreements.dula import Dula

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Certificate of destruction: {{ c.agreement }}</title>
<style>
  body { font: 16px/1.5 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 1.75rem; }
  dl { display: grid; grid-template-columns: 14rem 1fr; gap: .3rem 1rem; }
  dt { color: #444; } dd { margin: 0; overflow-wrap: anywhere; }
  li { overflow-wrap: anywhere; }
  .sign { margin-top: 3rem; border-top: 1px solid #000; width: 22rem; padding-top: .3rem; }
</style>
</head>
<body>
<h1>Certificate of destruction</h1>
<dl>
<dt>Agreement</dt><dd>{{ c.agreement }}, version {{ c.version }}: {{ c.title }}</dd>
<dt>SHA-256 of its terms</dt><dd>{{ c.terms_digest }}</dd>
<dt>Owners</dt><dd>{{ c.owners | join(", ") }}</dd>
<dt>Recipients</dt><dd>{{ c.recipients | join(", ") }}</dd>
<dt>Purpose</dt><dd>{{ c.purpose }}</dd>
<dt>Destroyed on</dt><dd>{{ c.destroyed_on }} (due {{ c.destroyed.due }})</dd>
<dt>By</dt><dd>{{ c.actor }}</dd>
<dt>Method</dt><dd>{{ c.method }}</dd>
</dl>
<h2>What was destroyed</h2>
<ul>
{% for name, version in c.destroyed.tables.items() %}
<li>table {{ name }}, versions 0 to {{ version }}, with log and checkpoints</li>
{% endfor %}
<li>{{ c.destroyed.files }} files, {{ "{:,}".format(c.destroyed.bytes) }} bytes</li>
{% for model in c.destroyed.models %}<li>model {{ model }}: archived</li>{% endfor %}
{% for version in c.destroyed["keys"] %}<li>key version {{ version }}: erased</li>{% endfor %}
</ul>
{% if c.kept %}
<h2>What was kept, and why</h2>
<ul>{% for kept in c.kept %}<li>{{ kept }}</li>{% endfor %}</ul>
{% endif %}
<h2>Steps</h2>
<ul>{% for step, at in c.steps.items() %}<li>{{ at }}: {{ step }}</li>{% endfor %}</ul>
{% if c.attempts > 1 %}
<p>The destruction was interrupted and resumed: {{ c.attempts }} attempts.</p>
{% endif %}
<h2>Proof</h2>
<ul>
{% for name, value in c.proof.search.items() %}
<li>{{ name }}: {{ value if value is string or value is number else value | join(", ") }}</li>
{% endfor %}
<li>{{ c.proof.key }}</li>
<li>{{ c.proof.unwrap }}</li>
<li>{{ c.proof.time_travel }}</li>
<li>{{ c.proof.other_tables }}</li>
</ul>
<p>{{ c.statement }}</p>
<p class="sign">{{ c.certifier }}, signature and date</p>
</body>
</html>
"""
STATEMENT = (
    "All data received or derived under the agreement, in whatever form the agreement's clause on "
    "its end covers, has been destroyed by the method named above, save what is listed as kept."
)


def made(
    dula: Dula,
    *,
    plan: Mapping[str, Any],
    steps: Mapping[str, str],
    proof: Mapping[str, Any],
    attempts: int,
    actor: str,
    on: date,
) -> dict[str, Any]:
    """The certificate as JSON values."""
    return {
        "agreement": dula.id,
        "version": dula.version,
        "title": dula.title,
        "terms_digest": digest(dula),
        "owners": list(dula.owners.agencies),
        "recipients": [party.key for party in dula.recipients.parties],
        "purpose": dula.purpose.code,
        "destroyed_on": on.isoformat(),
        "actor": actor,
        "method": dula.end.method,
        "scope": list(dula.end.scope),
        "destroyed": {
            name: plan[name] for name in ("due", "tables", "files", "bytes", "models", "keys")
        },
        "kept": list(plan["stays"]),
        "steps": dict(steps),
        "attempts": attempts,
        "proof": dict(proof),
        "statement": STATEMENT,
        "certifier": dula.end.certifier,
    }


def page(certificate: Mapping[str, Any]) -> str:
    """One self-contained page to print and sign."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE).render(c=certificate)
