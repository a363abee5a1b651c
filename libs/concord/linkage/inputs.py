"""What the index reads: which feeds, under which agreement, at which version of their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from concord.agreements import labels
from concord.agreements.mou import Contribution, Mou, digest, governing, matching
from concord.contracts.model import Contract
from concord.ingest import tables as ingest_tables
from concord.lake.registry import Table
from concord.lake.tables import Lake, commits
from concord.linkage.standardise import SOURCES


@dataclass(frozen=True)
class Input:
    """One feed's identifiers: the version that its last complete delivery left."""

    feed: str
    table: Table
    version: int


@dataclass(frozen=True)
class Permission:
    """The terms under which the feeds may be matched."""

    mous: tuple[Mou, ...]
    terms: tuple[tuple[Mou, Contribution], ...]

    @property
    def agreements(self) -> tuple[str, ...]:
        return tuple(mou.id for mou in self.mous)

    def labels(self, table: Table) -> dict[str, str]:
        """What all contributing agencies allow, together: common purposes, the earliest end."""
        purposes: list[set[str]] = [{*term.purposes} for _, term in self.terms]
        level = "restricted" if table.zone == "vault" else "confidential"
        return {
            labels.AGREEMENTS: ",".join(self.agreements),
            labels.AGREEMENT_DIGEST: ",".join(digest(mou) for mou in self.mous),
            labels.PURPOSES: ",".join(sorted(set.intersection(*purposes))),
            labels.RECIPIENTS: ",".join(sorted({mou.hub for mou in self.mous})),
            labels.EXPIRES: min(mou.ends(term) for mou, term in self.terms).isoformat(),
            labels.CLASSIFICATION: level,
            labels.OWNER: ",".join(sorted({mou.hub for mou in self.mous})),
        }


def matched(contracts: Mapping[str, Contract], leave_out: Iterable[str]) -> list[Contract]:
    """The contracts of the feeds that speak of persons and are not left out, by name."""
    out = set(leave_out)
    return [
        contract
        for name, contract in sorted(contracts.items())
        if name not in out and any(_describes_persons(t) for t in contract.tables)
    ]


def permission(contracts: Iterable[Contract], mous: Mapping[str, Mou], on: date) -> Permission:
    """Raises RefusedError (exit 14), before anything is read, for the first feed without a term."""
    terms: list[tuple[Mou, Contribution]] = []
    for contract in contracts:
        mou = governing(mous, contract.feed)
        for source in contract.tables:
            if _describes_persons(source):
                terms.append((mou, matching(mou, contract.feed, source.name, on)))
    used = {mou.id: mou for mou, _ in terms}
    return Permission(tuple(used[name] for name in sorted(used)), tuple(terms))


def inputs(contracts: Iterable[Contract], deliveries: Iterable[Any]) -> list[Input]:
    """What there is to read, by the rows of `ops/deliveries`.

    A delivery that is being published, or was cut short, has no `loaded` row: what it wrote so far
    is not looked at.
    """
    newest: dict[str, int] = {}
    for row in deliveries:
        if row["status"] == "loaded":
            for written in row["versions"] or ():
                name, version = written["table"], written["version"]
                newest[name] = max(version, newest.get(name, 0))
    found = []
    for contract in contracts:
        table = ingest_tables.identifiers(contract)
        if table is not None and table.name in newest:
            found.append(Input(contract.feed, table, newest[table.name]))
    return found


def read(lake: Lake, found: Iterable[Input]) -> DataFrame:
    """Rows of record_id, feed, role and SOURCES of all feeds' persons; a row may be there more than
    once."""
    frames = [
        lake.read(one.table, version=readable(lake, one))
        .where("kind = 'person'")
        .select("record_id", F.lit(one.feed).alias("feed"), "role", *SOURCES)
        for one in found
    ]
    return reduce(DataFrame.unionByName, frames)


def readable(lake: Lake, one: Input) -> int:
    """The newest version with the same rows as the input's.

    Upkeep compacts files and removes the old ones, so that the version in the ledger can be past
    reading; the versions that upkeep and changed labels make hold the same rows.
    """
    version = one.version
    later = [c for c in commits(lake.storage, lake.path(one.table)) if c.version > one.version]
    for commit in reversed(later):
        if commit.writes:
            break
        version = commit.version
    return version


def _describes_persons(source: Any) -> bool:
    return any(s.kind == "person" and s.identifiers is not None for s in source.subjects)
