"""New drafts and new versions of agreements: files for people to finish, never signed terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from concord.agreements.labels import CLASSIFICATION, IDENTIFIER_ROLE, column_labels
from concord.agreements.loading import TO_BE_SAID, row_numbers
from concord.agreements.mou import Contribution, Mou
from concord.agreements.presets import Preset, applying
from concord.contracts.model import Contract
from concord.errors import UsageError

HEAD = """\
# yaml-language-server: $schema=../schemas/dula.schema.json
# A draft. Every "{mark}" is for people to say; `concord agreement check {id}` tells what is left.
# The signed document governs; this file mirrors it.
"""


@dataclass(frozen=True)
class Wish:
    """What somebody wants to hold: by table (`<feed>.<table>`) the columns, for one purpose."""

    id: str
    title: str
    purpose: str
    recipient: str
    kind: str
    columns: Mapping[str, Sequence[str]]
    effective: date
    expires: date


@dataclass(frozen=True)
class Draft:
    """A draft's text, and the laws whose presets it was filled from."""

    text: str
    presets: tuple[Preset, ...]


def draft(
    wish: Wish, contracts: Mapping[str, Contract], mous: Mapping[str, Mou], profile: str
) -> Draft:
    """An agreement's file for what is wanted. Raises UsageError for a table that nobody
    contributes."""
    terms = {table: _contribution(table, mous) for table in wish.columns}
    owners = list(dict.fromkeys(term.agency for _, term in terms.values()))
    presets = applying({term.feed: term.regimes for _, term in terms.values()})
    (mou, *_) = dict.fromkeys(mou.id for mou, _ in terms.values())
    content: dict[str, Any] = {
        "id": wish.id,
        "version": 1,
        "title": wish.title,
        "mou": mou,
        "owners": {"clause": "1", "agencies": owners},
        "recipients": {
            "clause": "2",
            "parties": [{"key": wish.recipient, "kind": wish.kind, "custodian": TO_BE_SAID}],
            "responsible_officer": TO_BE_SAID,
        },
        "purpose": {"clause": "3", "code": wish.purpose, "text": TO_BE_SAID},
        "legal_basis": {"clause": "4", "authorities": list(_authorities(terms))},
        "uses": {"clause": "5", "allowed": ["study"]},
        "people": {"clause": "6", "roles": [TO_BE_SAID]},
        "prohibitions": {"clause": "7", "acts": ["onward-sharing"]},
        "datasets": [
            _dataset(f"8.{number}", table, columns, terms[table][1], contracts, wish)
            for number, (table, columns) in enumerate(wish.columns.items(), 1)
        ],
        "linkages": [
            {"clause": "9", "tables": list(wish.columns), "why": TO_BE_SAID}
        ] if len(wish.columns) > 1 else [],
        "disclosure": {"clause": "10", "profile": profile},
        "term": {"clause": "11", "effective": wish.effective, "expires": wish.expires},
        "end": {
            "clause": "12",
            "destroy_within_days": 30,
            "method": "cryptographic erase and deletion (NIST SP 800-88 rev. 1)",
            "certifier": TO_BE_SAID,
        },
        "safeguards": {"clause": "13", "breach_notice_hours": 24, "contact": TO_BE_SAID},
    }  # fmt: skip
    for preset in presets:
        _fill(content, preset.fills)
    if "cost" in content:
        content["cost"] = {"clause": "14", **content["cost"]}
    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    yaml.dump(content, stream)
    return Draft(HEAD.format(mark=TO_BE_SAID, id=wish.id) + stream.getvalue(), presets)


def new_version(path: Path, *, expires: date | None = None) -> int:
    """Raises the version in an agreement's file, comments kept; with `expires`, its last day too.

    Returns the new version. The version before governs until the new one is signed.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(path)
    content["version"] += 1
    if expires is not None:
        content.get("term", content)["expires"] = expires
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    return int(content["version"])


def _contribution(table: str, mous: Mapping[str, Mou]) -> tuple[Mou, Contribution]:
    feed, _, source = table.partition(".")
    for mou in mous.values():
        for term in mou.contributions:
            if term.feed == feed and term.covers(source):
                return mou, term
    raise UsageError(f"no MOU has a contribution clause for {table}: nobody could share it")


def _authorities(terms: Mapping[str, tuple[Mou, Contribution]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, term in terms.values():
        for regime in term.regimes or ("other",):
            citation = "; ".join(term.citations) or TO_BE_SAID
            found[term.agency, regime] = {
                "regime": regime, "owner": term.agency, "citation": citation, "basis": TO_BE_SAID,
            }  # fmt: skip
    return list(found.values())


def _dataset(
    clause: str,
    table: str,
    columns: Sequence[str],
    term: Contribution,
    contracts: Mapping[str, Contract],
    wish: Wish,
) -> dict[str, Any]:
    feed, _, name = table.partition(".")
    if feed not in contracts:
        raise UsageError(f"there is no feed {feed!r}; conf/feeds has {', '.join(contracts)}")
    source = contracts[feed].table(name)
    known, numbers = column_labels(source), row_numbers(source)
    return {
        "clause": clause,
        "table": table,
        "owner": term.agency,
        "period_from": wish.effective,
        "period_until": wish.expires,
        "columns": [
            {
                "name": column,
                "why": TO_BE_SAID,
                **({"pseudonym": True} if column in numbers else {}),
                **(
                    {
                        "classification": known[column][CLASSIFICATION],
                        "identifier_role": known[column][IDENTIFIER_ROLE],
                    }
                    if column in known
                    else {}
                ),
            }
            for column in columns
        ],
    }


def _fill(content: dict[str, Any], fills: Mapping[str, Any]) -> None:
    """Adds what a law's preset brings; what is said already stays."""
    for name, value in fills.items():
        if isinstance(value, Mapping):
            _fill(content.setdefault(name, {}), value)
        elif isinstance(value, list):
            have = content.setdefault(name, [])
            have += [each for each in value if each not in have]
        else:
            content[name] = value
