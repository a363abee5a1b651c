"""An agreement in words: what a lawyer compares with the signed document, and what changed.

One list of statements serves both: the page shows them, a comparison matches them by their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from concord.agreements.dula import AgreedColumn, Dataset, Dula, RowFilter
from concord.agreements.labels import CLASSIFICATION, IDENTIFIER_ROLE, column_labels
from concord.agreements.mou import Mou
from concord.contracts.model import Contract

Contracts = Mapping[str, Contract]


@dataclass(frozen=True)
class Section:
    """One clause: its statements by name, in order."""

    clause: str
    heading: str
    statements: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return f"Clause {self.clause}: {self.heading}" if self.clause else self.heading


def sections(terms: Dula | Mou, contracts: Contracts) -> list[Section]:
    """The terms, clause by clause. Statements that say nothing are left out."""
    made = _mou(terms) if isinstance(terms, Mou) else _dula(terms, contracts)
    whole = []
    for section in made:
        said = tuple((name, text) for name, text in section.statements if text)
        whole.append(Section(section.clause, section.heading, said))
    return whole


def changes(old: Dula | Mou, new: Dula | Mou, contracts: Contracts) -> list[str]:
    """What the new terms say otherwise, a sentence each; empty when they say the same."""
    before, after = _named(old, contracts), _named(new, contracts)
    found = []
    for place, (title, text) in after.items():
        name = f"{title}, {place[1]}"
        if place not in before:
            found.append(f"{name}: added: {text}")
        elif before[place][1] != text:
            found.append(f"{name}: was {before[place][1]}; is {text}")
    for place, (title, text) in before.items():
        if place not in after:
            found.append(f"{title}, {place[1]}: removed: {text}")
    return found


def _named(terms: Dula | Mou, contracts: Contracts) -> dict[tuple[str, str], tuple[str, str]]:
    """Statements by section heading and name; the version is no change of the terms."""
    return {
        (section.heading, name): (section.title, text)
        for section in sections(terms, contracts)
        for name, text in section.statements
        if name != "version"
    }


# --- a DULA --------------------------------------------------------------------------------------


def _dula(dula: Dula, contracts: Contracts) -> Iterator[Section]:
    yield Section(
        "",
        "Agreement",
        (
            ("title", dula.title),
            ("version", str(dula.version)),
            ("under", dula.mou),
            ("supersedes", dula.supersedes or ""),
            ("signed document (SHA-256)", dula.document_sha256 or ""),
            ("form of the data", dula.identifiability),
            ("citations", "; ".join(dula.citations)),
        ),
    )
    owners = tuple((key, "owner; signs") for key in dula.owners.agencies)
    yield Section(dula.owners.clause, "Owners of the data", owners)
    recipients = dula.recipients
    parties = tuple(
        (
            party.key,
            f"{party.kind}; custodian: {party.custodian}"
            + (f"; administers {', '.join(party.administers)}" if party.administers else ""),
        )
        for party in recipients.parties
    )
    agents = tuple((a.name, f"works for {a.works_for}: {a.what}") for a in recipients.agents)
    officer = ("responsible officer", recipients.responsible_officer or "")
    yield Section(recipients.clause, "Recipients", (*parties, *agents, officer))
    purpose = dula.purpose
    yield Section(
        purpose.clause,
        "Purpose",
        (
            ("purpose", purpose.code),
            ("in words", " ".join(purpose.text.split())),
            ("never for", ", ".join(purpose.prohibited)),
        ),
    )
    basis = dula.legal_basis
    yield Section(
        basis.clause,
        "Legal basis",
        (
            *(
                (
                    f"{each.owner}, {each.regime}",
                    f"{each.citation}: {each.basis}"
                    + (f" (evidence: {each.evidence})" if each.evidence else ""),
                )
                for each in basis.authorities
            ),
            *((f"notice {n}", text) for n, text in enumerate(basis.notices, 1)),
        ),
    )
    uses = dula.uses
    yield Section(
        uses.clause,
        "Permitted uses",
        (
            ("uses", ", ".join(uses.allowed)),
            ("decisions about individual people", _yes(uses.individual_action)),
            ("returned under the agency's own ids", _yes(uses.returned_under_own_ids)),
            ("models may be applied under", ", ".join(uses.models_usable_under)),
            ("models after the end", "may be kept" if uses.retraining_after_expiry else "end too"),
        ),
    )
    people = dula.people
    yield Section(
        people.clause,
        "People",
        (
            ("users", ", ".join(people.users)),
            ("roles", ", ".join(people.roles)),
            ("training", "; ".join(people.training)),
            ("acknowledgment of the terms", _yes(people.acknowledgment)),
        ),
    )
    if dula.prohibitions:
        acts = tuple((act, "forbidden") for act in dula.prohibitions.acts)
        yield Section(dula.prohibitions.clause, "Prohibitions", acts)
    for dataset in dula.datasets:
        yield _dataset(dataset, contracts)
    for linkage in dula.linkages:
        tables = ", ".join(linkage.tables)
        yield Section(linkage.clause, f"Linkage of {tables}", (("why", linkage.why),))
    for only in dula.matching_only:
        elements = ", ".join(only.elements)
        said = (("used by the person index, never released", elements),)
        yield Section(only.clause, f"Elements of {only.table} for matching only", said)
    yield from _ending(dula)


def _ending(dula: Dula) -> Iterator[Section]:
    disclosure, term, end, safe = dula.disclosure, dula.term, dula.end, dula.safeguards
    yield Section(
        disclosure.clause,
        "Publication",
        (
            ("disclosure profile", disclosure.profile),
            ("reviewers of a release", str(disclosure.reviewers or "none")),
            ("approval by the owners", _yes(disclosure.publication_approval)),
        ),
    )
    yield Section(
        term.clause,
        "Term",
        (
            ("first day", str(term.effective)),
            ("last day", str(term.expires)),
            ("next review", str(term.next_review or "")),
            (
                "an owner may end it",
                "" if term.terminable_days is None else f"with {term.terminable_days} days' notice",
            ),
            ("renewal", term.renewal or ""),
        ),
    )
    yield Section(
        end.clause,
        "End",
        (
            ("destruction", f"within {end.destroy_within_days} days of the end"),
            ("method", end.method),
            ("covers", ", ".join(end.scope)),
            ("certificate", f"within {end.certificate_within_days} days, by {end.certifier}"),
        ),
    )
    yield Section(
        safe.clause,
        "Safeguards",
        (
            ("inspection by the owners", _yes(safe.inspection)),
            ("a breach is told within", f"{safe.breach_notice_hours} hours by {safe.contact}"),
        ),
    )
    if dula.cost:
        yield Section(dula.cost.clause, "Cost", (("cost", dula.cost.text),))


def _dataset(dataset: Dataset, contracts: Contracts) -> Section:
    contract = contracts.get(dataset.feed)
    tables = {table.name: table for table in contract.tables} if contract else {}
    known = column_labels(tables[dataset.source]) if dataset.source in tables else {}
    return Section(
        dataset.clause,
        f"Data of {dataset.table}",
        (
            ("owner", dataset.owner),
            ("periods", f"{dataset.period_from} to {dataset.period_until}"),
            ("refreshed", dataset.refresh),
            ("only people of", dataset.people_of or ""),
            *((f"rows, {each.column}", _condition(each)) for each in dataset.rows),
            *((f"column {c.name}", _column(c, known.get(c.name, {}))) for c in dataset.columns),
        ),
    )


def _column(column: AgreedColumn, known: Mapping[str, str]) -> str:
    said = [
        column.classification or known.get(CLASSIFICATION, ""),
        column.identifier_role or known.get(IDENTIFIER_ROLE, ""),
        "pseudonym" if column.pseudonym else "",
    ]
    told = ", ".join(each for each in said if each and each != "none")
    return f"{column.why} ({told})" if told else column.why


def _condition(each: RowFilter) -> str:
    values = ", ".join(v.isoformat() if isinstance(v, date) else str(v) for v in each.values)
    return f"{each.operator} {values}".rstrip() + f" ({each.why})"


# --- an MOU --------------------------------------------------------------------------------------


def _mou(mou: Mou) -> Iterator[Section]:
    yield Section(
        "",
        "Agreement",
        (
            ("title", mou.title),
            ("version", str(mou.version)),
            ("hub", mou.hub),
            ("first day", str(mou.effective)),
            ("last day", str(mou.expires)),
            ("citations", "; ".join(mou.citations)),
        ),
    )
    signatories = tuple((key, "signs") for key in mou.signatories)
    yield Section("", "Signatories", signatories)
    for term in mou.contributions:
        tables = term.tables if term.tables == "all" else ", ".join(term.tables)
        yield Section(
            term.clause,
            f"Contribution of {term.feed}",
            (
                ("agency", term.agency),
                ("tables", str(tables)),
                ("the hub may hold identifiers", _yes(term.identifiers)),
                ("its people may be matched", _yes(term.may_be_matched)),
                ("purposes", ", ".join(term.purposes)),
                ("laws", ", ".join(term.regimes)),
                ("held for", f"{term.retention_years} years"),
                ("days", f"{mou.begins(term)} to {mou.ends(term)}"),
                ("citations", "; ".join(term.citations)),
            ),
        )


def _yes(value: bool) -> str:
    return "yes" if value else "no"
