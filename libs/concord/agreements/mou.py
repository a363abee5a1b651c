"""The memorandum of understanding (MOU) as a typed object: what agencies let the hub hold.

Terms stand in YAML under `conf/agreements`; signatures and states are no part of them, so that
the digest of the terms never covers itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field as Setting

from concord.agreements.agencies import Agencies, load_agencies
from concord.contracts.model import Contract
from concord.errors import ConfigError, RefusedError
from concord.settings import Document, Typed, gather, read_document, validate
from concord.yaml12 import Location

Purpose = Literal[
    "program-evaluation",
    "program-administration",
    "service-coordination",
    "eligibility-verification",
    "performance-reporting",
    "statutory-report",
    "research",
    "public-statistics",
    "fraud-detection",
    "system-test",
]
# Laws with demands of their own on an agreement: see concord.agreements.presets.
Regime = Literal[
    "ferpa-studies",
    "ferpa-evaluation",
    "hipaa-limited-data-set",
    "cms-chia",
    "ui-wages",
    "snap",
    "part-2",
    "fipa",
    "other",
]


class Contribution(Typed):
    """What one agency lets the hub hold of one feed: the term of one clause.

    `identifiers` permits holding identifiers for matching, `may_be_matched` linking its people
    with those of other agencies. `effective` and `expires` narrow the MOU's own days, both
    inclusive.
    """

    clause: str
    agency: str
    feed: str
    tables: Literal["all"] | tuple[str, ...]
    identifiers: bool
    may_be_matched: bool
    purposes: tuple[Purpose, ...] = Setting(min_length=1)
    retention_years: int = Setting(gt=0)
    regimes: tuple[Regime, ...] = Setting(
        default=(), description="laws that an agreement on this data has to answer to"
    )
    effective: date | None = None
    expires: date | None = None
    citations: tuple[str, ...] = ()

    def covers(self, table: str) -> bool:
        return self.tables == "all" or table in self.tables


class Mou(Typed):
    """One version of an MOU. Days are inclusive; the version rises with every amendment."""

    id: str = Setting(pattern=r"^MOU-\d{4}-\d{4}$")
    version: int = Setting(gt=0)
    title: str
    hub: str
    effective: date
    expires: date
    signatories: tuple[str, ...]
    contributions: tuple[Contribution, ...]
    citations: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.id} version {self.version}"

    def part(self, agency: str) -> Mou:
        """What one agency signs: the memorandum with its own contributions alone, whatever its
        version, so that what another agency adds leaves the signature good."""
        own = tuple(term for term in self.contributions if term.agency == agency)
        changed = {"version": 1, "signatories": (agency,), "contributions": own}
        return self.model_copy(update=changed)

    def ends(self, term: Contribution) -> date:
        """The last day on which the term holds."""
        return min(self.expires, term.expires or self.expires)

    def begins(self, term: Contribution) -> date:
        return max(self.effective, term.effective or self.effective)


def contribution(mou: Mou, feed: str, table: str, on: date) -> Contribution:
    """The term under which the hub may hold `table` of `feed` on a day.

    Raises RefusedError, naming the clause and the remedy, when there is none or it has ended.
    """
    if not mou.effective <= on <= mou.expires:
        raise RefusedError(
            f"{mou.reference} is in force from {mou.effective} to {mou.expires}, not on {on}: "
            f"{feed}.{table} may not be held; have the agreement renewed and its file updated"
        )
    of_feed = [term for term in mou.contributions if term.feed == feed]
    if not of_feed:
        raise RefusedError(
            f"{mou.reference} has no contribution clause for feed {feed!r}: its agency has not "
            "contributed it; have the agency sign one and add it under contributions"
        )
    terms = [term for term in of_feed if term.covers(table)]
    if not terms:
        clauses = ", ".join(term.clause for term in of_feed)
        raise RefusedError(
            f"{mou.reference} clause {clauses} contributes other tables of {feed!r}, not "
            f"{table!r}; have {of_feed[0].agency} extend it, or leave the table out of deliveries"
        )
    for term in terms:
        if mou.begins(term) <= on <= mou.ends(term):
            return term
    last = max(terms, key=mou.ends)
    verb = "ended on" if on > mou.ends(last) else "begins on"
    day = mou.ends(last) if on > mou.ends(last) else mou.begins(last)
    raise RefusedError(
        f"{mou.reference} clause {last.clause} for {feed}.{table} {verb} {day}, it does not hold "
        f"on {on}; have {last.agency} renew it, or hold the delivery back"
    )


# --- loading -------------------------------------------------------------------------------------


def load_mou(
    path: Path,
    *,
    agencies: Agencies | None = None,
    contracts: Mapping[str, Contract] | None = None,
) -> Mou:
    """Read an MOU file and check it against the agencies and, when given, the contracts.

    Agencies default to `agencies.yaml` in the folder above the file's. Raises ConfigError with
    every mistake and its line.
    """
    document = read_document(path)
    mou = validate(document, Mou)
    if agencies is None:
        agencies = load_agencies(path.parent.parent / "agencies.yaml")
    found = [
        document.problem(location, message)
        for location, message in _mistakes(document, mou, agencies, contracts)
    ]
    if found:
        raise ConfigError(found)
    return mou


def load_mous(conf: Path, contracts: Mapping[str, Contract] | None = None) -> dict[str, Mou]:
    """All MOU files of `conf/agreements`, by id. Raises one ConfigError with all mistakes."""
    mous, errors = {}, []
    agencies = load_agencies(conf / "agencies.yaml")
    for path in sorted((conf / "agreements").glob("MOU-*.yaml")):
        try:
            mou = load_mou(path, agencies=agencies, contracts=contracts)
            mous[mou.id] = mou
        except ConfigError as error:
            errors.append(error)
    gather(errors)
    return mous


def _mistakes(
    document: Document,
    mou: Mou,
    agencies: Agencies,
    contracts: Mapping[str, Contract] | None,
) -> Iterator[tuple[Location, str]]:
    stem = Path(document.file).stem
    if mou.id != stem:
        yield ("id",), f"must equal the file's name, {stem!r}; rename one of them"
    if mou.expires < mou.effective:
        yield ("expires",), "is before effective"
    if mou.hub != agencies.hub:
        yield ("hub",), f"agencies.yaml names the hub {agencies.hub!r}; make them agree"
    for index, key in enumerate(mou.signatories):
        if key not in agencies.agencies:
            yield ("signatories", index), f"no agency {key!r} in agencies.yaml; add it there"
        elif agencies.agencies[key].mou_since is None:
            yield ("signatories", index), f"{key!r} has no mou_since in agencies.yaml; add the day"
    clauses: dict[str, int] = {}
    for index, term in enumerate(mou.contributions):
        place: Location = ("contributions", index)
        if term.clause in clauses:
            yield (*place, "clause"), f"clause {term.clause!r} is given twice; number it anew"
        clauses[term.clause] = index
        if term.agency not in mou.signatories:
            yield (*place, "agency"), f"{term.agency!r} is no signatory, so it cannot contribute"
        if mou.begins(term) > mou.ends(term):
            yield place, "the term ends before it begins"
        for other in mou.contributions[:index]:
            if _overlap(mou, term, other):
                message = f"clause {other.clause!r} already covers the feed, tables and days"
                yield (*place, "feed"), message
        if contracts is not None:
            yield from _against_contract(place, term, contracts)


def _overlap(mou: Mou, one: Contribution, other: Contribution) -> bool:
    tables = {*([] if one.tables == "all" else one.tables)}
    shared = "all" in (one.tables, other.tables) or any(other.covers(table) for table in tables)
    days = mou.begins(one) <= mou.ends(other) and mou.begins(other) <= mou.ends(one)
    return one.feed == other.feed and shared and days


def _against_contract(
    place: Location, term: Contribution, contracts: Mapping[str, Contract]
) -> Iterator[tuple[Location, str]]:
    contract = contracts.get(term.feed)
    if contract is None:
        yield (*place, "feed"), f"no contract {term.feed!r} in conf/feeds; add it or drop the term"
        return
    if contract.agency != term.agency:
        message = f"the contract of {term.feed!r} names agency {contract.agency!r}"
        yield (*place, "agency"), f"{message}; make them agree"
    names = [table.name for table in contract.tables]
    for number, name in enumerate(() if term.tables == "all" else term.tables):
        if name not in names:
            message = f"no table {name!r} in the contract; use one of {', '.join(names)}"
            yield (*place, "tables", number), message
    if contract.retention_years > term.retention_years:
        yield (
            (*place, "retention_years"),
            f"the contract keeps data {contract.retention_years} years, longer than the term "
            f"allows; shorten its retention to {term.retention_years}",
        )
    if not term.identifiers:
        for table in contract.tables:
            direct = [f.name for f in table.fields if f.identifier_role == "direct"]
            if term.covers(table.name) and direct:
                message = f"table {table.name!r} has direct identifiers ({', '.join(direct)})"
                yield (*place, "identifiers"), f"{message}, which the term forbids to hold"
