"""The data use and licence agreement (DULA) as a typed object: what one recipient may hold and do.

Terms stand in YAML under `conf/agreements`; signatures and states are no part of them, so that
the digest of the terms never covers itself. `concord.agreements.loading` reads and checks the
files, `concord.agreements.decision` answers what an agreement allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Literal, get_args

from pydantic import Field as Setting

from concord.agreements.mou import Purpose, Regime
from concord.contracts.model import Classification, IdentifierRole
from concord.settings import Typed
from concord.yaml12 import Location

Use = Literal["study", "train", "score", "publish"]
USES: tuple[Use, ...] = get_args(Use)
Prohibition = Literal["re-identification", "contact", "onward-sharing", "sale", "criminal-use"]
Identifiability = Literal["identified", "pseudonymous", "limited", "aggregate"]
Operator = Literal["one_of", "not_one_of", "at_least", "at_most", "is_given"]
Value = bool | int | date | str


class Owners(Typed):
    """Agencies whose data it is; each has to sign."""

    clause: str
    agencies: tuple[str, ...] = Setting(min_length=1)


class Recipient(Typed):
    """Who receives a study. One of kind `state` is an agency of agencies.yaml and has signed the
    MOU.

    `administers` names the assistance programmes that it administers, which some laws ask for.
    """

    key: str = Setting(pattern=r"^[a-z0-9_-]+$")
    kind: Literal["state", "local", "researcher", "vendor"]
    custodian: str = Setting(description="the office that answers for the data, not a person")
    administers: tuple[str, ...] = ()


class Agent(Typed):
    """Who works on the data for a recipient and is bound by the same terms (flow-down)."""

    name: str
    works_for: str = Setting(description="the recipient's key")
    what: str = Setting(min_length=1)


class Recipients(Typed):
    """`responsible_officer` is the office that answers for the holding (G.L. c. 66A s. 2(a))."""

    clause: str
    parties: tuple[Recipient, ...] = Setting(min_length=1)
    agents: tuple[Agent, ...] = ()
    responsible_officer: str | None = None


class Purposes(Typed):
    """The one purpose the agreement is for. `prohibited` names purposes that it must never serve,
    whatever another agreement says that the data is linked under."""

    clause: str
    code: Purpose
    text: str
    prohibited: tuple[Purpose, ...] = ()


class Prohibitions(Typed):
    """What nobody may do with the data."""

    clause: str
    acts: tuple[Prohibition, ...] = Setting(min_length=1)


class Authority(Typed):
    """A law that lets an owner share its data for this: `regime` chooses the preset that checks
    what the law demands."""

    regime: Regime
    owner: str
    citation: str = Setting(min_length=1)
    basis: str = Setting(min_length=1, description="why the law allows it")
    evidence: str | None = Setting(default=None, description="where the proof is kept")


class LegalBasis(Typed):
    """`notices` are texts that travel with the data and with what is made of it."""

    clause: str
    authorities: tuple[Authority, ...] = Setting(min_length=1)
    notices: tuple[str, ...] = ()


class People(Typed):
    """Who may work with the data: named users of the operating system or identity provider, and
    roles that the settings give to users and groups."""

    clause: str
    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    training: tuple[str, ...] = Setting(default=(), description="what each has to have completed")
    acknowledgment: bool = Setting(default=True, description="each signs that the terms are known")


class Uses(Typed):
    """What may be made of the study.

    `score` is a decision about individual people: it needs `individual_action`. With
    `returned_under_own_ids` the scores go back to the owner under its own case ids.
    `models_usable_under` names agreements under which a model trained here may be applied.
    Without `retraining_after_expiry` a model ends with the agreement.
    """

    clause: str
    allowed: tuple[Use, ...] = Setting(min_length=1)
    individual_action: bool = False
    returned_under_own_ids: bool = False
    models_usable_under: tuple[str, ...] = ()
    retraining_after_expiry: bool = False


class AgreedColumn(Typed):
    """A column of the curated table and why the purpose needs it.

    `pseudonym` replaces the values (an agency's number of a row) under the agreement's key.
    `classification` and `identifier_role`, where given, must be the contract's: then the contract
    cannot say less of the column than what was signed.
    """

    name: str
    why: str = Setting(min_length=1)
    pseudonym: bool = False
    classification: Classification | None = None
    identifier_role: IdentifierRole | None = None


class RowFilter(Typed):
    """A condition that a row must meet. A missing value meets none.

    `values`: for `one_of` and `not_one_of` one or more, for `at_least` and `at_most` exactly one,
    for `is_given` none.
    """

    column: str
    operator: Operator
    values: tuple[Value, ...] = ()
    why: str = Setting(min_length=1)


class Dataset(Typed):
    """One table: its agreed columns and rows. Days are inclusive.

    A row belongs to the agreement if its business period lies wholly within the days, every filter
    is met and, where `people_of` names another dataset, its person is one of that dataset's.
    """

    clause: str
    table: str = Setting(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$", description="<feed>.<table>")
    owner: str
    columns: tuple[AgreedColumn, ...] = Setting(min_length=1)
    rows: tuple[RowFilter, ...] = ()
    people_of: str | None = None
    period_from: date
    period_until: date
    refresh: Literal["once", "yearly", "quarterly", "monthly", "with each delivery"] = (
        "with each delivery"
    )

    @property
    def feed(self) -> str:
        return self.table.partition(".")[0]

    @property
    def source(self) -> str:
        """The table's name within its feed."""
        return self.table.partition(".")[2]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class Linkage(Typed):
    """Datasets whose people and cases may be recognised in each other, and why."""

    clause: str
    tables: tuple[str, ...] = Setting(min_length=2)
    why: str = Setting(min_length=1)


class MatchingOnly(Typed):
    """Elements that the person index may use to recognise people, and that are never released."""

    clause: str
    table: str = Setting(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")
    elements: tuple[str, ...] = Setting(min_length=1)


class Disclosure(Typed):
    """The rules a release must meet, by the profile's name, and who looks at it before."""

    clause: str
    profile: str
    reviewers: int = Setting(default=0, ge=0, description="people who must approve a release")
    publication_approval: bool = Setting(
        default=False, description="whether the owners approve a release before it is published"
    )


class Term(Typed):
    """Days are inclusive. `next_review` is the day by which the parties look at the terms again;
    `terminable_days` the notice with which an owner may end it, None where it may not."""

    clause: str
    effective: date
    expires: date
    next_review: date | None = None
    terminable_days: int | None = Setting(default=None, ge=0)
    renewal: str | None = None


class End(Typed):
    """What becomes of the data when the agreement ends, and who certifies it."""

    clause: str
    destroy_within_days: int = Setting(ge=0)
    method: str = Setting(min_length=1, description="such as NIST SP 800-88 cryptographic erase")
    scope: tuple[Literal["derivatives", "backups", "models", "extracts"], ...] = (
        "derivatives",
        "backups",
        "models",
        "extracts",
    )
    certificate_within_days: int = Setting(default=30, ge=0, description="after destruction is due")
    certifier: str = Setting(min_length=1, description="the office that signs the certificate")


class Safeguards(Typed):
    """`inspection`: the owners may look at the place where the data is held. `breach_notice_hours`
    is how soon an owner hears of a breach, and `contact` the office that tells it."""

    clause: str
    inspection: bool = False
    breach_notice_hours: int = Setting(gt=0)
    contact: str


class Cost(Typed):
    clause: str
    text: str


# The groups that are one clause each.
CLAUSES = (
    "owners", "recipients", "purpose", "legal_basis", "uses", "people", "prohibitions",
    "disclosure", "term", "end", "safeguards", "cost",
)  # fmt: skip


class Dula(Typed):
    """One version of a DULA. The version rises with every amendment."""

    id: str = Setting(pattern=r"^DULA-\d{4}-\d{4}$")
    version: int = Setting(gt=0)
    title: str
    mou: str = Setting(pattern=r"^MOU-\d{4}-\d{4}$")
    supersedes: str | None = Setting(default=None, pattern=r"^DULA-\d{4}-\d{4}$")
    document_sha256: str | None = Setting(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the signed document, which governs where this record differs",
    )
    owners: Owners
    recipients: Recipients
    purpose: Purposes
    legal_basis: LegalBasis
    uses: Uses
    people: People
    prohibitions: Prohibitions | None = None
    identifiability: Identifiability = "pseudonymous"
    datasets: tuple[Dataset, ...] = Setting(min_length=1)
    linkages: tuple[Linkage, ...] = Setting(
        default=(), description="disjoint; a table in none is linked with nothing"
    )
    matching_only: tuple[MatchingOnly, ...] = ()
    disclosure: Disclosure
    term: Term
    end: End
    safeguards: Safeguards
    cost: Cost | None = None
    citations: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.id} version {self.version}"

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(dataset.table for dataset in self.datasets)

    def dataset(self, table: str) -> Dataset | None:
        return next((dataset for dataset in self.datasets if dataset.table == table), None)

    def linkage(self, table: str) -> Linkage | None:
        """The datasets that the table may be linked with."""
        return next((linkage for linkage in self.linkages if table in linkage.tables), None)

    def linkage_domain(self, table: str) -> str:
        """Pseudonyms match within a domain only, so that what may not be linked cannot be.

        The first linkage's domain is the empty one, another's is its clause, and a table in none
        has one of its own.
        """
        linkage = self.linkage(table)
        if linkage is None:
            return table
        return "" if linkage == self.linkages[0] else linkage.clause

    def clauses(self) -> Iterator[tuple[Location, str]]:
        """Every clause's number, with its place in the file."""
        for name in CLAUSES:
            if (group := getattr(self, name)) is not None:
                yield (name,), group.clause
        for name in ("datasets", "linkages", "matching_only"):
            for index, each in enumerate(getattr(self, name)):
                yield (name, index), each.clause

    @property
    def parties(self) -> tuple[str, ...]:
        """Who has to sign: every owner and every recipient."""
        recipients = (party.key for party in self.recipients.parties)
        return tuple(dict.fromkeys((*self.owners.agencies, *recipients)))
