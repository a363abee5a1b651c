"""Labels: access metadata on tables and columns, computed from contract and agreement.

Labels describe; the signed agreement decides. They are Delta table properties and column
metadata, so that other engines can read them, and anyone with file access can edit them:
a reader verifies the digest. Nothing here writes; the lake puts them on the tables.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Literal, get_args

from concord.agreements.canonical import digest
from concord.agreements.meet import Meet
from concord.agreements.mou import Contribution, Mou
from concord.contracts.model import Classification, Contract, Field, Table

# Names of the table properties, written once here.
AGREEMENTS = "concord.agreements"
AGREEMENT_DIGEST = "concord.agreement_digest"
PURPOSES = "concord.purposes"
RECIPIENTS = "concord.recipients"
EXPIRES = "concord.expires"
CLASSIFICATION = "concord.classification"
OWNER = "concord.owner"
DISCLOSURE_PROFILE = "concord.disclosure_profile"
CERTIFICATE = "concord.certificate"
# Names in a column's metadata; CLASSIFICATION stands there too.
IDENTIFIER_ROLE = "concord.identifier_role"

CLASSIFICATIONS: tuple[Classification, ...] = get_args(Classification)


def labels(
    contract: Contract,
    table: Table,
    mou: Mou,
    term: Contribution,
    zone: Literal["curated", "vault"] = "curated",
) -> dict[str, str]:
    """Table properties of a table that `ingest` writes under a contribution term.

    Lists are joined by commas. The recipient is the hub alone: under the MOU nobody else may
    read. `concord.owner` is the agency's key; the digest that of what it signed. Pure; the caller
    got `term` from `contribution`.
    """
    return {
        AGREEMENTS: mou.id,
        AGREEMENT_DIGEST: digest(mou.part(contract.agency)),
        PURPOSES: ",".join(sorted(term.purposes)),
        RECIPIENTS: mou.hub,
        EXPIRES: mou.ends(term).isoformat(),
        CLASSIFICATION: classification(table, zone),
        OWNER: contract.agency,
    }


def study_labels(
    terms: Meet, *, owner: str, classifications: Collection[str], expires: date
) -> dict[str, str]:
    """Table properties of a table that a recipient holds, under one DULA or the meet of several.

    `classifications` are those of the table's columns, `expires` the day that was decided on.
    """
    return {
        AGREEMENTS: ",".join(terms.ids),
        AGREEMENT_DIGEST: terms.digest,
        PURPOSES: ",".join(sorted(terms.purposes)),
        RECIPIENTS: ",".join(sorted(terms.recipients)),
        EXPIRES: expires.isoformat(),
        CLASSIFICATION: max(
            (c for c in CLASSIFICATIONS if c in classifications), key=CLASSIFICATIONS.index
        ),
        OWNER: owner,
        DISCLOSURE_PROFILE: ",".join(sorted(terms.profiles)),
    }


def classification(table: Table, zone: Literal["curated", "vault"]) -> Classification:
    """The highest of the columns that the zone holds."""
    if zone == "vault":
        levels = [field.classification for field in table.fields]
    else:
        keys = subject_keys(table)
        levels = [f.classification for f in table.fields if stays(f, keys)]
        levels += [item.classification for item in table.derived]
        levels += ["confidential" for _ in table.subjects]  # record ids stand for people and cases
    return max(levels, key=CLASSIFICATIONS.index, default="confidential")


def column_labels(table: Table) -> dict[str, dict[str, str]]:
    """Metadata of each contract-made column of the curated table, by column name."""
    keys = subject_keys(table)
    result: dict[str, dict[str, str]] = {
        subject.record_id: {CLASSIFICATION: "confidential", IDENTIFIER_ROLE: "none"}
        for subject in table.subjects
    }
    for field in table.fields:
        of_field: dict[str, str] = {
            CLASSIFICATION: field.classification,
            IDENTIFIER_ROLE: field.identifier_role,
        }
        if stays(field, keys):
            result[field.name] = of_field
        if field.harmonise:
            result[field.harmonise.column] = of_field
    for item in table.derived:
        result[item.name] = {
            CLASSIFICATION: item.classification,
            IDENTIFIER_ROLE: item.identifier_role,
        }
    return result


def subject_keys(table: Table) -> frozenset[str]:
    """Columns that curated rows replace by record ids."""
    return frozenset(column for subject in table.subjects for column in subject.key)


def stays(field: Field, keys: frozenset[str]) -> bool:
    """Whether a source column is a column of the curated table."""
    return field.identifier_role != "direct" and field.name not in keys
