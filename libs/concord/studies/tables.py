"""The tables of a study, declared from the agreement and the contracts: `studies/<dula>/<table>`.

A table holds, in this order: a pseudonym for each subject of the row, the primary one first; the
agreed columns, in the agreement's order; and what a point-in-time question needs of its origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from concord.agreements.dula import Dataset, Dula
from concord.agreements.loading import column_types
from concord.contracts.model import Contract, Subject
from concord.contracts.model import Table as Source
from concord.ingest import tables as ingested
from concord.lake import run as runs
from concord.lake.registry import Column, Table

PERIOD = "_period"
RECEIVED_ON = "_received_on"
KNOWN_ON = "_known_on"
ORIGIN = (
    Column(RECEIVED_ON, "date", "day the agency made the delivery that brought the row"),
    Column(
        KNOWN_ON,
        "date",
        "first day on which the row counts as known: the day of its delivery; of the history that "
        "a feed began with, the day it would have come by the contract's latency",
    ),
)
# A table property: the curated table that a study's table is made from. Tables without it in a
# study's folder (scores) are other jobs'.
SOURCE = "concord.source"
# A table property: digest of what is held of the source. When it changes, the table is made anew,
# because its old versions may hold what is no longer agreed.
HOLDING = "concord.holding"
# Changes when the rows made from the same inputs change.
FORMAT = 2


@dataclass(frozen=True)
class StudyTable:
    """One dataset of an agreement with the curated table it comes from and the table it goes to."""

    dula: Dula
    dataset: Dataset
    contract: Contract
    source: Source
    curated: Table
    table: Table

    @property
    def domain(self) -> str:
        return self.dula.linkage_domain(self.dataset.table)

    @property
    def subjects(self) -> list[Subject]:
        """The row's subjects, the primary one first: the first person, else the first of all."""
        return sorted(self.source.subjects, key=lambda subject: subject.kind != "person")

    @property
    def people(self) -> list[Subject]:
        return [subject for subject in self.subjects if subject.kind == "person"]

    @property
    def holding(self) -> str:
        """Digest of the columns with their types, and of the rows, that the table holds."""
        return runs.digest(
            FORMAT,
            self.dataset.model_dump(mode="json"),
            [asdict(column) for column in self.table.columns],
            self.domain,
        )


def subject_column(subject: Subject, *, primary: bool) -> str:
    """Where a subject's pseudonym stands: `study_person_id`, `study_parent_person_id`,
    `study_case_id`."""
    if subject.kind != "person":
        return f"study_{subject.role}_id"
    return "study_person_id" if primary else f"study_{subject.role}_person_id"


def subject_columns(study: StudyTable) -> list[tuple[Subject, str]]:
    """Each subject with its column, in the table's order."""
    people = study.people
    return [
        (subject, subject_column(subject, primary=bool(people) and subject == people[0]))
        for subject in study.subjects
    ]


def folder(dula: Dula) -> str:
    return f"studies/{dula.id}"


def rotated(agreement: str) -> str:
    """The vault's table of the pseudonyms that rotations replaced, by the agreement."""
    return f"vault/rotated/{agreement}/pseudonyms"


def rotated_table(dula: Dula) -> Table:
    """Which pseudonym became which when the agreement's key was rotated: the only way from an
    extract of before to the study as it is."""
    return Table(
        name=rotated(dula.id),
        description=f"{dula.title} ({dula.id}): pseudonyms before and after each rotation.",
        owner="data office",
        columns=(
            Column("to_version", "int", "version of the key that made the new one"),
            Column("stands_for", "string", "person, the role of a case or household, or a column"),
            Column("old_pseudonym", "string", "", "confidential", "quasi"),
            Column("new_pseudonym", "string", "", "confidential", "quasi"),
        ),
        key=("to_version", "old_pseudonym"),
        statistics=("to_version",),
    )


def of_agreement(dula: Dula, contracts: Mapping[str, Contract]) -> list[StudyTable]:
    """The agreement's tables. The agreement was checked against the contracts when it was read."""
    return [_study_table(dula, dataset, contracts[dataset.feed]) for dataset in dula.datasets]


def registry(dulas: Iterable[Dula], contracts: Mapping[str, Contract]) -> list[Table]:
    """Every study's tables, and what rotations of its key leave in the vault."""
    return [
        table
        for dula in dulas
        for table in (
            *(study.table for study in of_agreement(dula, contracts)),
            rotated_table(dula),
        )
    ]


def _study_table(dula: Dula, dataset: Dataset, contract: Contract) -> StudyTable:
    source = contract.table(dataset.source)
    curated = ingested.curated(contract, source)
    types = column_types(source)
    declared = {column.name: column for column in curated.columns}
    subjects = sorted(source.subjects, key=lambda subject: subject.kind != "person")
    pseudonyms = [
        Column(
            subject_column(subject, primary=index == 0),
            "string",
            f"pseudonym of the row's {subject.role}, of this study alone",
            "confidential",
            "quasi" if subject.kind == "person" else "none",
        )
        for index, subject in enumerate(subjects)
    ]
    agreed = [
        Column(
            column.name,
            "string" if column.pseudonym else types[column.name],
            f"pseudonym of {declared[column.name].comment[:1].lower()}"
            f"{declared[column.name].comment[1:]}"
            if column.pseudonym
            else declared[column.name].comment,
            declared[column.name].classification,
            declared[column.name].identifier_role,
        )
        for column in dataset.columns
    ]
    carried = [declared[name] for name in carried_columns(source)]
    columns = (*pseudonyms, *agreed, *carried, *ORIGIN)
    return StudyTable(
        dula,
        dataset,
        contract,
        source,
        curated,
        Table(
            name=f"{folder(dula)}/{contract.feed}_{source.name}",
            description=f"{dula.title} ({dula.id}): {source.description}",
            owner=dataset.owner,
            columns=columns,
            key=(),
            # A study is read whole: minima and maxima of more columns would only stand in the log.
            statistics=(KNOWN_ON,),
        ),
    )


def carried_columns(source: Source) -> list[str]:
    """Columns of a row's validity that a study carries without being asked."""
    if source.policy == "snapshot":
        return [column.name for column in ingested.VALIDITY]
    return [PERIOD]
