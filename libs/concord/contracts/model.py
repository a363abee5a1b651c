"""The typed contract of a feed, made from an Open Data Contract Standard (ODCS) v3 file.

One file in `conf/feeds/` is the one source of the Spark schema, the quality rules, the split
between curated tables and the vault, the load policy, retention, owner and data dictionary of a
feed. Standard ODCS keys are used wherever ODCS has one; what it lacks stands in its
`customProperties` under the names below.

This module only holds the types; `concord.contracts.odcs` reads files into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Setting
from pydantic import model_validator

from concord.settings import Typed

Calendar = Literal["day", "week", "month", "quarter", "year"]
LoadPolicy = Literal["full_refresh", "upsert", "append_only", "snapshot"]
IdentifierRole = Literal["direct", "quasi", "sensitive", "none"]
Classification = Literal["public", "internal", "confidential", "restricted"]
Severity = Literal["error", "warning"]
Encoding = Literal["utf-8", "windows-1252", "iso-8859-1", "us-ascii"]

CodeLists = Mapping[str, Mapping[str, str]]  # standard list to code to meaning

# The standard identifiers of a person in the vault, in the order of the table's columns. A
# contract maps its own columns to these names.
IDENTIFIERS: tuple[str, ...] = (
    "full_name",
    "given_name",
    "middle_name",
    "family_name",
    "name_suffix",
    "former_family_name",
    "birth_date",
    "sex",
    "race",
    "ethnicity",
    "language",
    "ssn",
    "ssn_last4",
    "phones",
    "emails",
    "address_line1",
    "address_line2",
    "city",
    "state",
    "zip",
    "state_student_id",
    "twin",
)
# Multi-valued identifiers: a contract may map several of its columns to one of these.
MULTI_VALUED = frozenset({"phones", "emails"})


# --- formats -------------------------------------------------------------------------------------


class Csv(Typed):
    """Delimited text with one header line. Fields are found by name, never by position."""

    kind: Literal["csv"]
    encoding: Encoding = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    escape: str = '"'
    quoted_newlines: bool = False
    null_values: tuple[str, ...] = ("",)


class RecordLayout(Typed):
    """A header or trailer record of a fixed-width file: how to know it, what it declares.

    `rows` and `totals` are [start, length] positions, counting from 1; totals are in cents
    (`implied_decimals` 2) unless said otherwise.
    """

    prefix: str
    rows: tuple[int, int] | None = None
    totals: dict[str, tuple[int, int]] = {}
    implied_decimals: int = 2


class FixedWidth(Typed):
    """Fixed positions; each property gives its own by the customProperty `position`."""

    kind: Literal["fixed_width"]
    encoding: Encoding = "us-ascii"
    record_length: int
    detail_prefix: str = ""
    header: RecordLayout | None = None
    trailer: RecordLayout | None = None
    null_values: tuple[str, ...] = ("",)


class JsonLines(Typed):
    kind: Literal["json_lines"]
    encoding: Literal["utf-8"] = "utf-8"
    null_values: tuple[str, ...] = ()


class Xml(Typed):
    """One element per row, named `row_tag`; a property's physicalName may be a dotted path."""

    kind: Literal["xml"]
    encoding: Literal["utf-8"] = "utf-8"
    row_tag: str
    null_values: tuple[str, ...] = ("",)


class Excel(Typed):
    """One sheet of a workbook; the header stands in row `header_row` (from 1)."""

    kind: Literal["excel"]
    sheet: str
    header_row: int = 1
    null_values: tuple[str, ...] = ("",)


class Parquet(Typed):
    kind: Literal["parquet"]
    null_values: tuple[str, ...] = ()


Format = Annotated[
    Csv | FixedWidth | JsonLines | Xml | Excel | Parquet, Setting(discriminator="kind")
]


# --- columns, subjects, rules ---------------------------------------------------------------------


class Harmonise(Typed):
    """Adds the curated column `column` holding the code of the standard list `to`.

    `map` takes source codes to standard codes; a source code it does not name becomes
    `otherwise`, or a violation of rule `invalidValues` when that is not given.
    """

    to: str
    column: str
    map: dict[str, str]
    otherwise: str | None = None


class Field(Typed):
    """One source column and, unless it is direct or a subject's key, the curated column."""

    name: str
    source: str
    type: str
    description: str = ""
    required: bool = False
    key_position: int | None = None
    identifier_role: IdentifierRole
    classification: Classification
    date_formats: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: Any = None
    maximum: Any = None
    min_length: int | None = None
    max_length: int | None = None
    allowed: tuple[str, ...] = ()
    booleans: dict[str, bool] = {}
    implied_decimals: int = 0
    position: tuple[int, int] | None = None
    harmonise: Harmonise | None = None


class Subject(Typed):
    """Someone or something a row speaks about, with the columns that identify it at the source.

    Curated rows carry `<role>_record_id` in place of the `key` columns. `kind` is `person` for
    people, who are matched across agencies, and `entity` for what only groups them (a case, a
    household). `identifiers` maps names of IDENTIFIERS to columns; a table that gives it (even
    empty) writes the subject to the vault, one without it only refers to the subject.
    `one_record_per_person`: the agency sees to it that a person has one key only in this role; the
    person index then keeps two of its records apart.
    """

    role: str
    kind: Literal["person", "entity"] = "person"
    key: tuple[str, ...]
    identifiers: dict[str, str | tuple[str, ...]] | None = None
    one_record_per_person: bool = False

    @model_validator(mode="after")
    def _a_person_has_records(self) -> Subject:
        if self.one_record_per_person and self.kind != "person":
            raise ValueError("one_record_per_person is said of persons; remove it")
        return self

    @model_validator(mode="after")
    def _known_identifiers(self) -> Subject:
        for name, columns in (self.identifiers or {}).items():
            if name not in IDENTIFIERS:
                raise ValueError(
                    f"unknown identifier {name!r}; use one of {', '.join(IDENTIFIERS)}"
                )
            if not isinstance(columns, str) and name not in MULTI_VALUED:
                raise ValueError(f"{name!r} takes one column, not a list")
        return self

    @property
    def record_id(self) -> str:
        return f"{self.role}_record_id"


class RowRule(Typed):
    """A SQL condition over one row's typed columns that must not be false. NULL passes."""

    name: str
    condition: str
    columns: tuple[str, ...]
    message: str
    severity: Severity = "error"


class TableRule(Typed):
    """A measure of the whole table in one delivery with the bounds it must keep."""

    name: str
    metric: Literal["rowCount", "nullValues", "sql"]
    column: str | None = None
    query: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    percent: bool = False
    severity: Severity = "error"


class Reference(Typed):
    """Each value of `columns` must stand in `to_columns` of table `to_table`, same delivery."""

    columns: tuple[str, ...]
    to_table: str
    to_columns: tuple[str, ...]
    severity: Severity = "error"


class Derived(Typed):
    """An extra curated column: a Spark SQL expression over the row's typed columns."""

    name: str
    type: str
    expression: str
    description: str
    identifier_role: IdentifierRole
    classification: Classification


class Table(Typed):
    """One table of a feed: how its files look and where its rows go."""

    name: str
    description: str
    format: Format
    policy: LoadPolicy
    fields: tuple[Field, ...]
    subjects: tuple[Subject, ...] = ()
    row_rules: tuple[RowRule, ...] = ()
    table_rules: tuple[TableRule, ...] = ()
    references: tuple[Reference, ...] = ()
    derived: tuple[Derived, ...] = ()
    control_totals: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Primary key columns at the source, in order."""
        keyed = [field for field in self.fields if field.key_position is not None]
        return tuple(f.name for f in sorted(keyed, key=lambda f: f.key_position or 0))

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)


class Contract(Typed):
    """The contract of one feed.

    `latency_days` is how long after a period's last day its file comes, None where the contract
    does not say.
    """

    feed: str
    version: str
    title: str
    description: str
    agency: str
    owner: str
    calendar: Calendar
    quarantine_limit: float = Setting(ge=0, le=1)
    retention_years: int = Setting(gt=0)
    latency_days: int | None = None
    tables: tuple[Table, ...]
    file: str

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    @property
    def classification(self) -> Classification:
        order: list[Classification] = ["public", "internal", "confidential", "restricted"]
        return max((f.classification for t in self.tables for f in t.fields), key=order.index)
