"""What the access log is for: who used my data, what did this person read, the notices of the law.

And its anchors: a file a day with the last hash of each chained table. A chain cannot tell that its
end was cut off; an anchor can, as long as somebody keeps a copy of it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from concord.agreements import chain
from concord.agreements.access_log import ACCESS_LOG
from concord.agreements.agencies import Agencies
from concord.agreements.dula import Dula
from concord.agreements.events import AGREEMENT_EVENTS
from concord.agreements.mou import Mou
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import AuditError
from concord.lake.storage import join
from concord.lake.tables import Lake

ANCHORS = "ops/_anchors"
CHAINED = (ACCESS_LOG, AGREEMENT_EVENTS)
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Audit:
    """A log that holds: rows of each chained table and its last hash; anchors that agree."""

    rows: Mapping[str, int]
    tips: Mapping[str, str]
    anchors: int


def verify(lake: Lake, *, expect: str | None = None) -> Audit:
    """Recomputes every hash and compares with every anchor.

    `expect` is a last hash of the access log noted elsewhere. Raises AuditError naming the first
    place that does not hold.
    """
    chains = {table.name: chain.read(lake, table) for table in CHAINED}
    chain.expected(ACCESS_LOG, chains[ACCESS_LOG.name], expect)
    anchors = list(_anchors(lake))
    for day, said in anchors:
        for name, of in said.items():
            hashes = [chain.GENESIS, *(row["hash"] for row in chains[name])]
            if of["rows"] >= len(hashes) or hashes[of["rows"]] != of["tip"]:
                raise AuditError(
                    f"{name}: the anchor of {day} names {of['rows']} rows that end with "
                    f"{of['tip']}, which the log does not have: it was cut off or replaced. Keep "
                    "the table as evidence, tell the privacy officer, restore it from its backup"
                )
    return Audit(
        {name: len(rows) for name, rows in chains.items()},
        {name: rows[-1]["hash"] if rows else chain.GENESIS for name, rows in chains.items()},
        len(anchors),
    )


def anchor(lake: Lake, day: date) -> Audit:
    """Verifies, and writes the day's anchor unless there is one: a file is never replaced."""
    found = verify(lake)
    said = {
        name: {"rows": rows, "tip": found.tips[name]} for name, rows in sorted(found.rows.items())
    }
    place = join(lake.path(ANCHORS), f"{day}.json")
    lake.storage.put_if_absent(place, json.dumps(said, sort_keys=True).encode())
    return found


def _anchors(lake: Lake) -> Iterator[tuple[str, dict[str, Any]]]:
    folder = lake.path(ANCHORS)
    if not lake.storage.exists(folder):
        return
    for entry in sorted(lake.storage.list(folder), key=lambda entry: entry.name):
        yield entry.name.removesuffix(".json"), json.loads(lake.storage.read(entry.path))


# --- views ---------------------------------------------------------------------------------------


def used(rows: Rows, contracts: Mapping[str, Contract], agency: str) -> list[dict[str, Any]]:
    """Every decision and read that spoke of an agency's data: what its owner asks for."""
    feeds = {name for name, contract in contracts.items() if contract.agency == agency}
    return [
        {**_short(row), "tables": tables}
        for row in rows
        if (tables := [t for t in row["tables"] or () if t.partition(".")[0] in feeds])
    ]


def done_by(
    rows: Rows, *, actor: str | None = None, run_id: str | None = None
) -> list[dict[str, Any]]:
    """What a person, or a run, asked for and read."""
    return [
        {**_short(row), "tables": list(row["tables"] or ())}
        for row in rows
        if (actor is None or row["actor"] == actor) and (run_id is None or row["run_id"] == run_id)
    ]


def disclosures(rows: Rows, register: Register) -> list[dict[str, Any]]:
    """The record of M.G.L. c. 66A s. 2(f): every access to personal data by somebody other than
    its holder: when, by whom, of which agency's data, for what, under which agreement.

    Recipients and holders are those of the terms of the row's day, whatever the files say today.
    """
    found = []
    for row in rows:
        if row["decision"] != "read" or not row["agreement"].startswith("DULA-"):
            continue
        dula = register.dula(row["agreement"], row["decided_at"].date())
        recipients = [party.key for party in dula.recipients.parties] if dula else ["unknown"]
        tables = {*(row["tables"] or ())}
        holders = sorted({d.owner for d in dula.datasets if d.table in tables}) if dula else []
        holders = holders or ["unknown"]
        others = [holder for holder in holders if [holder] != recipients]
        if others:
            found.append(
                {**_short(row), "holders": others, "recipients": recipients,
                 "tables": list(row["tables"])}
            )  # fmt: skip
    return found


def public_notice(
    agencies: Agencies,
    mous: Iterable[Mou],
    dulas: Iterable[Dula],
    contracts: Mapping[str, Contract],
) -> str:
    """The notice of personal data systems of M.G.L. c. 30 s. 63, in Markdown: what is held, of
    whom, from where, for which uses, and who answers for it. From contracts and agreements."""
    shared = list(dulas)
    lines = ["# Notice of personal data systems (M.G.L. c. 30, s. 63)", ""]
    for mou in mous:
        hub = agencies.agencies[mou.hub]
        lines += [f"Held by: {hub.name}. Answers for it: {hub.coordinator}.", ""]
        for term in mou.contributions:
            contract = contracts[term.feed]
            people = sorted(
                {s.role for t in contract.tables for s in t.subjects if s.kind == "person"}
            )
            if not people:
                continue
            agency = agencies.agencies[term.agency]
            lines += [
                f"## {contract.title or term.feed}",
                "",
                f"- source: {agency.name} ({agency.coordinator})",
                f"- people: {', '.join(people)}",
                f"- identifiers: {'held for matching' if term.identifiers else 'not held'}",
                f"- data: {'; '.join(_kinds(contract))}",
                f"- uses: {', '.join(term.purposes)}",
                f"- held for: {term.retention_years} years; authority: "
                f"{'; '.join(term.citations) or mou.title}",
                *(
                    f"- shared with {', '.join(p.key for p in dula.recipients.parties)}: "
                    f"{dula.title} ({dula.id}), until {dula.term.expires}"
                    for dula in shared
                    if any(dataset.feed == term.feed for dataset in dula.datasets)
                ),
                "",
            ]
    return "\n".join(lines)


def _kinds(contract: Contract) -> list[str]:
    return [
        f"{table.name} ({table.description.partition('.')[0].lower()})" for table in contract.tables
    ]


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    at = row["decided_at"]
    return {
        "at": at.isoformat(timespec="seconds") if isinstance(at, datetime) else str(at),
        "actor": row["actor"],
        "agreement": row["agreement"],
        "purpose": row["purpose"],
        "decision": row["decision"],
        "rows": row["row_count"],
        "run_id": row["run_id"],
    }
