"""Whether each table's labels are those that its agreement and its declaration give.

Anyone who may write a table's files may edit its labels; the signed agreement decides. What is
found here is named, table and label, with what it says and what it should.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from concord.agreements import labels as names
from concord.agreements.canonical import digest
from concord.agreements.labels import labels, study_labels
from concord.agreements.meet import Meet
from concord.agreements.mou import Contribution, Mou
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.deployment import Deployment
from concord.ingest import tables as ingested
from concord.lake import catalog
from concord.lake.log import State, state
from concord.lake.registry import Table
from concord.lake.tables import Lake

# The labels that follow from the terms, whatever the day on which the table was written.
CHECKED = (
    names.AGREEMENTS,
    names.AGREEMENT_DIGEST,
    names.PURPOSES,
    names.RECIPIENTS,
    names.OWNER,
    names.CLASSIFICATION,
    names.DISCLOSURE_PROFILE,
)


@dataclass(frozen=True)
class Finding:
    """A label that is not what it should be. `column` is empty for a label of the table."""

    table: str
    label: str
    says: str
    should: str
    column: str = ""

    def __str__(self) -> str:
        place = f"{self.table}, column {self.column}" if self.column else self.table
        says = f"says {self.says!r}" if self.says else "is missing"
        return f"{place}: {self.label} {says}; it should be {self.should!r}"


@dataclass(frozen=True)
class Checked:
    """How many tables were looked at, and what was found."""

    tables: int
    findings: tuple[Finding, ...]


def verify(lake: Lake, deployment: Deployment, register: Register, day: date) -> Checked:
    """Every table of the lake but those of ops, whose rows are of no person."""
    declared = {table.name: table for table in deployment.registry}
    found: list[Finding] = []
    looked = 0
    for name in catalog.names(lake.storage, lake.root):
        held = state(lake.storage, lake.path(name))
        if held is None or name.startswith("ops/"):
            continue
        looked += 1
        found += _table(name, held, declared.get(name), deployment, register, day)
    return Checked(looked, tuple(found))


def _table(
    name: str,
    held: State,
    declared: Table | None,
    deployment: Deployment,
    register: Register,
    day: date,
) -> Iterable[Finding]:
    wanted = _wanted(name, held, deployment, register, day)
    if not wanted:
        yield Finding(name, names.AGREEMENTS, held.label(names.AGREEMENTS), "a known agreement")
        return
    for label in CHECKED:
        if label in wanted and held.label(label) != wanted[label]:
            yield Finding(name, label, held.label(label), wanted[label])
    if held.label(names.EXPIRES) > wanted[names.EXPIRES] or not held.label(names.EXPIRES):
        should = f"{wanted[names.EXPIRES]} or before"
        yield Finding(name, names.EXPIRES, held.label(names.EXPIRES), should)
    for column in declared.columns if declared else ():
        says = next((c["metadata"] for c in held.columns if c["name"] == column.name), None)
        if says is None:
            continue
        for label, should in (
            (names.CLASSIFICATION, column.classification),
            (names.IDENTIFIER_ROLE, column.identifier_role),
        ):
            if says.get(label) != should:
                yield Finding(name, label, says.get(label, ""), should, column.name)


def _wanted(
    name: str, held: State, deployment: Deployment, register: Register, day: date
) -> dict[str, str]:
    """The labels that the table should have; none where nobody knows its agreement."""
    zone = name.partition("/")[0]
    if zone in {"studies", "products"} or name.startswith(("vault/returned/", "vault/rotated/")):
        return _by_dula(name, held, deployment, register, day)
    of = _contract(name, deployment.contracts)
    if of is not None:
        contract, source = of
        bound = register.holding(contract.feed, day)
        term = _term(bound.mou, contract.feed) if bound else None
        if bound is None or term is None:
            return {}
        table = contract.table(source) if source else contract.tables[0]
        made = labels(contract, table, bound.mou, term)
        restricted = {names.CLASSIFICATION: "restricted"} if zone == "vault" else {}
        return {**made, **restricted}
    return _by_mou(name, held, register, day)


def _by_dula(
    name: str, held: State, deployment: Deployment, register: Register, day: date
) -> dict[str, str]:
    """By the agreement that the folder names, or the product's file: not by what the label says."""
    folder = name.split("/")
    products = {product.table: product for product in deployment.products.values()}
    if folder[0] == "products":
        if name not in products:
            return {}
        ids = [products[name].agreement]
    else:
        ids = [folder[2] if folder[0] == "vault" else folder[1]]
    terms = [register.dula(each, day) for each in ids]
    known = frozenset(each for each in terms if each is not None)
    if len(known) != len(ids):
        return {}
    levels = [column["metadata"].get(names.CLASSIFICATION, "") for column in held.columns]
    if folder[0] == "products":
        levels = [products[name].classification]
    made = study_labels(
        Meet(known),
        owner="",
        classifications=levels or ("restricted",),
        expires=Meet(known).expires,
    )
    return {label: value for label, value in made.items() if label != names.OWNER}


def _by_mou(name: str, held: State, register: Register, day: date) -> dict[str, str]:
    """Of what the person index makes of all feeds together."""
    found = [(each.mou, term) for each, term in register.contributions(day) if not each.problem]
    used = {mou.id: mou for mou, term in found if term.may_be_matched}
    if not used:
        return {}
    return {
        names.AGREEMENTS: ",".join(sorted(used)),
        names.AGREEMENT_DIGEST: ",".join(digest(used[each]) for each in sorted(used)),
        names.RECIPIENTS: ",".join(sorted({mou.hub for mou in used.values()})),
        names.OWNER: ",".join(sorted({mou.hub for mou in used.values()})),
        names.CLASSIFICATION: "restricted" if name.startswith("vault/") else "confidential",
        names.EXPIRES: max(mou.ends(term) for mou, term in found).isoformat(),
    }


def _contract(name: str, contracts: Mapping[str, Contract]) -> tuple[Contract, str | None] | None:
    """The contract that a curated table or a feed's vault table is made by, and its source."""
    for contract in contracts.values():
        for source in contract.tables:
            if ingested.curated(contract, source).name == name:
                return contract, source.name
        if name in {table.name for table in ingested.of_contract(contract)}:
            return contract, None
    return None


def _term(mou: Mou, feed: str) -> Contribution | None:
    return next((term for term in mou.contributions if term.feed == feed), None)
