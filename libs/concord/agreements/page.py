"""An agreement as one readable page, Markdown or HTML, to lay beside the signed document."""

from __future__ import annotations

from jinja2 import Environment, StrictUndefined

from concord.agreements.canonical import digest
from concord.agreements.dula import Dula
from concord.agreements.mou import Mou
from concord.agreements.words import Contracts, sections

HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ id }}: {{ title }}</title>
<style>
  body { font: 16px/1.5 Georgia, serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem;
         color: #1a1a1a; }
  h1 { font-size: 1.6rem; line-height: 1.25; }
  h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
           border-top: 1px solid #ccc; overflow-wrap: anywhere; }
  th { width: 16rem; font-weight: normal; color: #444; }
  .digest { font: 12px/1.4 monospace; overflow-wrap: anywhere; color: #444; }
  @media print { body { margin: 0; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ id }}, version {{ version }}: {{ title }}</h1>
<p>{{ note }}</p>
<p class="digest">SHA-256 of the terms: {{ digest }}</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
<table>
{% for name, text in section.statements %}
<tr><th scope="row">{{ name }}</th><td>{{ text }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</body>
</html>
"""
NOTE = (
    "This page shows the terms as the data office's system enforces them. The signed document "
    "governs where the two differ."
)


def html(terms: Dula | Mou, contracts: Contracts) -> str:
    """One self-contained page: no script, nothing fetched."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(HTML).render(
        id=terms.id,
        version=terms.version,
        title=terms.title,
        note=NOTE,
        digest=digest(terms),
        sections=sections(terms, contracts),
    )


def markdown(terms: Dula | Mou, contracts: Contracts) -> str:
    lines = [f"# {terms.id}, version {terms.version}: {terms.title}", "", NOTE, ""]
    lines += [f"SHA-256 of the terms: `{digest(terms)}`", ""]
    for section in sections(terms, contracts):
        lines += [f"## {_plain(section.title)}", "", "| | |", "| --- | --- |"]
        lines += [f"| {_plain(name)} | {_plain(text)} |" for name, text in section.statements]
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that means nothing else in a Markdown table."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return escaped.replace("*", "\\*").replace("_", "\\_").replace("\n", " ")
