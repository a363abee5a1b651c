"""The review queue as one HTML page, for a browser without a network. Pure.

The page holds identifiers and belongs into the vault. Its content security policy lets it load
nothing and run nothing but its own script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from concord.linkage.explain import Explanation, explain
from concord.linkage.person_index import PersonIndex
from concord.linkage.review import SHOWN, each

# What a column is called on the page, where its name does not say it.
TITLES = {
    "middle": "middle initial",
    "birth_order": "order among twins",
    "birth": "birth date",
    "birth_year": "birth year",
    "ssn": "SSN",
    "ssn_last4": "last four of SSN",
    "zip": "ZIP code",
}


def page(
    queue: pa.Table,
    records: pa.Table,
    pairs: pa.Table,
    persons: Mapping[str, str],
    *,
    model: PersonIndex,
) -> str:
    """The page, of a queue with at least one item, all of one run.

    `queue`: rows of vault/review_queue. `records`: rows of vault/linkage_records, `pairs`: of
    vault/linkage_pairs, of `concerned` records. `persons`: record -> person of those.
    """
    first = queue.slice(0, 1).to_pylist()[0]
    folder = files("concord.linkage") / "page"
    css, js, html = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("review.css", "review.js", "review.html.jinja")
    )
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(html)
    return template.render(
        run=first["run_id"],
        as_of=first["as_of"],
        model=first["model_version"],
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src {_hash(js)}; style-src {_hash(css)}",
        css=Markup(css),  # noqa: S704  # a file of the package
        js=Markup(js),  # noqa: S704  # a file of the package
        data=embedded(_data(queue, records, pairs, persons, model)),
    )


def embedded(data: Any) -> Markup:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment.

    HTML entities mean nothing there; JSON's own escapes do.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704  # no markup is left in it


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _data(
    queue: pa.Table,
    records: pa.Table,
    pairs: pa.Table,
    persons: Mapping[str, str],
    model: PersonIndex,
) -> dict[str, Any]:
    items = queue.to_pylist()
    return {
        "run": items[0]["run_id"],
        "edge": model.cluster_weight,
        "prior": model.prior_bits,
        "columns": [[name, TITLES.get(name, name)] for name in SHOWN],
        "items": [_item(row) for row in items],
        "patterns": {
            str(pattern): _pattern(explain(model, pattern))
            for pattern in dict.fromkeys(row["pattern"] for row in items)
        },
        "records": _records(records),
        "persons": dict(persons),
        "edges": _edges(pairs, model),
    }


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["item_id"],
        "kind": row["kind"],
        "left": row["left_record_id"],
        "right": row["right_record_id"],
        "feeds": " + ".join(sorted((row["left_feed"], row["right_feed"]))),
        "band": row["stratum"].rpartition(", ")[2],
        "weight": row["weight"],
        "probability": row["probability"],
        "pattern": str(row["pattern"]),
        "why": row["why"],
        "stratum": row["stratum"],
        "size": row["stratum_size"],
        "records": row["record_ids"],
    }


def _pattern(told: Explanation) -> dict[str, Any]:
    steps = [[step.comparison, step.says, step.bits, step.silent] for step in told.steps]
    return {"words": told.words, "steps": steps}


def _records(records: pa.Table) -> dict[str, dict[str, Any]]:
    """Record -> its feed, and of each column its values over all variants."""
    found: dict[str, dict[str, Any]] = {}
    for row in records.select(["record_id", "feed", *SHOWN]).to_pylist():
        record = found.setdefault(row["record_id"], {"feed": row["feed"], "values": {}})
        for name in SHOWN:
            if row[name] is not None:
                values = record["values"].setdefault(name, [])
                values += [one for one in each(str(row[name])) if one not in values]
    return found


def _edges(pairs: pa.Table, model: PersonIndex) -> list[list[Any]]:
    """left, right, bits, whether it never links."""
    patterns = pairs["pattern"].to_numpy().astype("int64")
    return [
        list(edge)
        for edge in zip(
            pairs["left_record_id"].to_pylist(),
            pairs["right_record_id"].to_pylist(),
            model.weights.summed(patterns).round(2).tolist(),
            model.weights.refuses(patterns).tolist(),
            strict=True,
        )
    ]


def concerned(queue: pa.Table) -> pa.Array:
    """The ids of all records that a page of the queue shows."""
    return pc.unique(pc.list_flatten(queue["record_ids"]))
