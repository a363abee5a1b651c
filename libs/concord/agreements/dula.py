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

from concord.agreements.mou import Purpose
from concord.settings import Location, Typed

Use = Literal["study", "train", "score", "publish"]
USES: tuple[Use, ...] = get_args(Use)
Operator = Literal["one_of", "not_one_of", "at_least", "at_most", "is_given"]
Value = bool | int | date | str


class Owners(Typed):
    """Agencies whose data it is; each has to sign."""

    clause: str
    agencies: tuple[str, ...] = Setting(min_length=1)


class Recipient(Typed):
    """Who receives a study. One of kind `state` is an agency of agencies.yaml and has signed the
    MOU."""

    key: str
    kind: Literal["state", "local", "researcher", "vendor"]
    custodian: str = Setting(description="the office that answers for the data, not a person")


class Recipients(Typed):
    clause: str
    parties: tuple[Recipient, ...] = Setting(min_length=1)


class Purposes(Typed):
    """The one purpose the agreement is for."""

    clause: str
    code: Purpose
    text: str


class Uses(Typed):
    """What may be made of the study.

    `score` is a decision about individual people: it needs `individual_action`. With
    `returned_under_own_ids` the scores go back to the owner under its own case ids.
    `models_usable_under` names agreements under which a model trained here may be applied.
    """

    clause: str
    allowed: tuple[Use, ...] = Setting(min_length=1)
    individual_action: bool = False
    returned_under_own_ids: bool = False
    models_usable_under: tuple[str, ...] = ()


class AgreedColumn(Typed):
    """A column of the curated table and why the purpose needs it.

    `pseudonym` replaces the values (an agency's number of a row) under the agreement's key.
    """

    name: str
    why: str = Setting(min_length=1)
    pseudonym: bool = False


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


class Disclosure(Typed):
    """The rules a release must meet, by the profile's name."""

    clause: str
    profile: str


class Term(Typed):
    """Days are inclusive."""

    clause: str
    effective: date
    expires: date


class Dula(Typed):
    """One version of a DULA. The version rises with every amendment."""

    id: str = Setting(pattern=r"^DULA-\d{4}-\d{4}$")
    version: int = Setting(gt=0)
    title: str
    mou: str = Setting(pattern=r"^MOU-\d{4}-\d{4}$")
    owners: Owners
    recipients: Recipients
    purpose: Purposes
    uses: Uses
    datasets: tuple[Dataset, ...] = Setting(min_length=1)
    linkages: tuple[Linkage, ...] = Setting(
        default=(), description="disjoint; a table in none is linked with nothing"
    )
    disclosure: Disclosure
    term: Term
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
        for name in ("owners", "recipients", "purpose", "uses", "disclosure", "term"):
            yield (name,), getattr(self, name).clause
        for index, dataset in enumerate(self.datasets):
            yield ("datasets", index), dataset.clause
        for index, linkage in enumerate(self.linkages):
            yield ("linkages", index), linkage.clause
