"""What the index reads: which feeds, under which agreement, at which version of their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from concord.agreements import labels
from concord.agreements.canonical import digest
from concord.agreements.decision import Holding, may_hold, refused
from concord.agreements.mou import Contribution, Mou, contribution
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.ingest import tables as ingest_tables
from concord.lake.log import commits
from concord.lake.registry import Table
from concord.lake.tables import Lake
from concord.linkage import files
from concord.linkage.arrays import distinct
from concord.linkage.patterns import Integers
from concord.linkage.values import Values

# What contracts name among identifiers, in codes that they map to standard lists of one name.
DEMOGRAPHICS = ("race", "ethnicity", "language")
NOT_SAID = "unknown"  # of these lists the code for `Not reported`


@dataclass(frozen=True)
class Codes:
    """An attribute of the people of a table and role: the agency's code -> the standard one."""

    attribute: str
    source_table: str
    role: str
    standard: Mapping[str, str]
    otherwise: str | None


@dataclass(frozen=True)
class Input:
    """One feed's identifiers: the version that its last complete delivery left. `alone`: roles in
    which a person has one record at most."""

    feed: str
    table: Table
    version: int
    codes: tuple[Codes, ...] = ()
    alone: tuple[str, ...] = ()


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


def holdings(contracts: Iterable[Contract]) -> list[Holding]:
    """What has to be asked before the people of feeds are matched."""
    return [
        Holding(
            contract.feed,
            tuple(f"{contract.feed}.{t.name}" for t in contract.tables if _describes_persons(t)),
            matched=True,
        )
        for contract in contracts
    ]


def permission(contracts: Iterable[Contract], register: Register, on: date) -> Permission:
    """The terms of feeds that may be matched. Raises RefusedError (exit 14), with the reasons of
    all that may not, before anything is read; whoever has a run asks by the access log first."""
    terms: list[tuple[Mou, Contribution]] = []
    asked = holdings(contracts)
    refused([reason for each in asked for reason in may_hold(each, register, on).reasons])
    for each in asked:
        if (held := register.holding(each.feed, on)) is None:
            continue  # refused above
        for table in each.tables:
            source = table.partition(".")[2]
            terms.append((held.mou, contribution(held.mou, each.feed, source, on)))
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
            known = codes(contract), alone(contract)
            found.append(Input(contract.feed, table, newest[table.name], *known))
    return found


def alone(contract: Contract) -> tuple[str, ...]:
    """The roles of which a table of the feed says that a person has one record."""
    subjects = [subject for source in contract.tables for subject in source.subjects]
    return tuple(sorted({each.role for each in subjects if each.one_record_per_person}))


def sources(found: Iterable[Input], origin: pa.Table) -> Integers:
    """By row of `origin` (feed, role): the number of the source, of which a person has one record
    at most; -1 for records of others."""
    asked = [(one.feed, role) for one in found for role in one.alone]
    number = {source: asked.index(source) for source in asked}
    feeds, roles = (Values.of(origin[name]) for name in ("feed", "role"))
    # Few sources, many records.
    width = len(roles.distinct) + 1
    both, place = distinct(feeds.codes.astype(np.int64) * width + roles.codes + 1)
    names = [each.distinct.to_pylist() for each in (feeds, roles)]
    said = [(names[0][code // width], [None, *names[1]][code % width]) for code in both.tolist()]
    return np.array([number.get(source, -1) for source in said], dtype=np.int64)[place]


def codes(contract: Contract) -> tuple[Codes, ...]:
    """How the feed's people say DEMOGRAPHICS, where the contract maps its codes to the list of that
    name."""
    found = []
    for source in contract.tables:
        fields = {field.name: field.harmonise for field in source.fields}
        for subject in source.subjects:
            for name in DEMOGRAPHICS if subject.kind == "person" else ():
                column = (subject.identifiers or {}).get(name)
                to = fields.get(column) if isinstance(column, str) else None
                if to and to.to == name:
                    found.append(Codes(name, source.name, subject.role, to.map, to.otherwise))
    return tuple(found)


def demographics(found: Iterable[Input], feeds: Mapping[str, DataFrame]) -> pa.Table | None:
    """One row a record: record_id and DEMOGRAPHICS in standard codes, NULL where it does not say.

    Of records of feeds that say any; None without one. Of several values the largest counts. All is
    read from the vault's identifiers (`feeds`, by name), which the terms let the hub hold for
    matching.
    """
    said = [(feeds[one.feed], one.codes) for one in found if one.codes]
    return standard(said) if said else None


def standard(said: Iterable[tuple[DataFrame, Sequence[Codes]]]) -> pa.Table:
    """Rows of feeds' identifiers, each feed's with its codes -> as `demographics`, in any order."""

    def of(codes: Sequence[Codes]) -> Callable[[pa.Table], pa.Table]:
        def work(table: pa.Table) -> pa.Table:
            persons = table.filter(pc.equal(table["kind"], "person"))
            columns = {name: _standard(persons, name, codes) for name in DEMOGRAPHICS}
            return _largest(pa.table({"record_id": persons["record_id"], **columns}))

        return work

    columns = ("record_id", "kind", "source_table", "role", *DEMOGRAPHICS)
    each = files.collected_each([(rows, of(codes)) for rows, codes in said], columns, plain=columns)
    nobody = pa.schema([(name, pa.string()) for name in ("record_id", *DEMOGRAPHICS)]).empty_table()
    return _largest(pa.concat_tables([nobody, *each]))


def _standard(rows: pa.Table, attribute: str, codes: Iterable[Codes]) -> pa.ChunkedArray:
    value, found = rows[attribute], pa.nulls(rows.num_rows, pa.string())
    for each in codes:
        if each.attribute == attribute:
            known, to = zip(*each.standard.items(), strict=True) if each.standard else ((), ())
            place = pc.index_in(value, value_set=pa.array(known, pa.string()))
            standard = pa.chunked_array([pa.array(to, pa.string())]).take(place)
            standard = pc.fill_null(standard, pa.scalar(each.otherwise, pa.string()))
            here = pc.and_(
                pc.equal(rows["source_table"], each.source_table), pc.equal(rows["role"], each.role)
            )
            here = pc.and_(here, pc.is_valid(value)).fill_null(False)
            found = pc.if_else(here, standard, found)
    return pc.if_else(pc.equal(found, NOT_SAID), pa.scalar(None, pa.string()), found)


def _largest(rows: pa.Table) -> pa.Table:
    """One row a record, of each attribute the largest value."""
    one = rows.group_by("record_id").aggregate([(name, "max") for name in DEMOGRAPHICS])
    return one.select(["record_id", *(f"{name}_max" for name in DEMOGRAPHICS)]).rename_columns(
        ["record_id", *DEMOGRAPHICS]
    )


def identifiers(lake: Lake, found: Iterable[Input]) -> dict[str, DataFrame]:
    """The rows of each feed's identifiers, those of kinds that are not persons too."""
    return {
        one.feed: lake.read(one.table, version=readable(lake, one), stored=True) for one in found
    }


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
