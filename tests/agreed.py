"""Two agencies, an MOU and two DULAs in miniature, for tests of agreements and studies."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deltalake import write_deltalake

from concord.agreements import chain
from concord.agreements.canonical import canonical, digest
from concord.agreements.dula import Dula
from concord.agreements.events import AGREEMENT_EVENTS
from concord.agreements.lifecycle import Event
from concord.agreements.mou import Contribution, Mou
from concord.agreements.register import Register, dula_owed, mou_owed
from concord.agreements.signing import Signer, public_text, sign
from concord.contracts.model import Contract, Csv, Field, Subject, Table
from tests.feeds import DIRECT, PUBLIC, contract

NUMBER: dict[str, Any] = {"identifier_role": "none", "classification": "restricted"}


def key(name: str, position: int, **labels: Any) -> Field:
    return Field(
        name=name, source=name, type="string", required=True, key_position=position, **labels
    )


def of(name: str, kind: str = "string", **labels: Any) -> Field:
    return Field(name=name, source=name, type=kind, **(labels or PUBLIC))


CASE = Subject(role="case", kind="entity", key=("case_id",))


def help_contract() -> Contract:
    """Feed `help` of agency dta: forms of cases, and the cases' members."""
    forms = Table(
        name="forms",
        description="One row per form.",
        format=Csv(kind="csv"),
        policy="full_refresh",
        fields=(
            key("form_id", 1, **NUMBER),
            of("case_id", **DIRECT),
            of("due_on", "date"),
            of("office"),
            of("amount", "decimal(10,2)"),
        ),
        subjects=(CASE.model_copy(update={"identifiers": {}}),),
        control_totals=("amount",),
    )
    members = Table(
        name="members",
        description="One row per member.",
        format=Csv(kind="csv"),
        policy="full_refresh",
        fields=(
            key("client_id", 1, **DIRECT),
            of("case_id", **DIRECT),
            of("name", **DIRECT),
            of("race", identifier_role="quasi", classification="restricted"),
            of("amount", "decimal(10,2)"),
        ),
        subjects=(
            CASE,
            Subject(role="client", key=("client_id",), identifiers={"full_name": "name"}),
        ),
        control_totals=("amount",),
    )
    return contract(forms, members, feed="help", agency="dta", latency_days=3)


def work_contract() -> Contract:
    """Feed `work` of agency dua: wages of workers."""
    wages = Table(
        name="wages",
        description="One row per worker.",
        format=Csv(kind="csv"),
        policy="full_refresh",
        fields=(
            key("worker_id", 1, **DIRECT),
            of("name", **DIRECT),
            of("town"),
            of("amount", "decimal(10,2)"),
        ),
        subjects=(Subject(role="worker", key=("worker_id",), identifiers={"full_name": "name"}),),
        control_totals=("amount",),
    )
    return contract(wages, feed="work", agency="dua", latency_days=60)


def contracts() -> dict[str, Contract]:
    return {each.feed: each for each in (help_contract(), work_contract())}


def mou(**changes: Any) -> Mou:
    terms = [
        Contribution(
            clause=f"4.{number}",
            agency=agency,
            feed=feed,
            tables="all",
            identifiers=True,
            may_be_matched=True,
            purposes=("program-evaluation", "service-coordination"),
            retention_years=7,
        )
        for number, (agency, feed) in enumerate((("dta", "help"), ("dua", "work")), 1)
    ]
    values: dict[str, Any] = {
        "id": "MOU-2018-0001",
        "version": 1,
        "title": "For tests",
        "hub": "office",
        "effective": "2018-01-01",
        "expires": "2032-12-31",
        "signatories": ("dta", "dua", "lab", "office"),
        "contributions": tuple(terms),
    }
    return Mou.model_validate({**values, **changes})


def document(**changes: Any) -> dict[str, Any]:
    """The evaluation's agreement as its YAML file has it."""
    days = {"period_from": "2024-01-01", "period_until": "2030-12-31"}
    values: dict[str, Any] = {
        "id": "DULA-2026-0001",
        "version": 1,
        "title": "Evaluation of forms",
        "mou": "MOU-2018-0001",
        "owners": {"clause": "1", "agencies": ["dta", "dua"]},
        "recipients": {
            "clause": "2",
            "parties": [{"key": "lab", "kind": "state", "custodian": "Director"}],
        },
        "purpose": {"clause": "3", "code": "program-evaluation", "text": "Why forms fail."},
        "uses": {"clause": "4", "allowed": ["study", "train", "publish"]},
        "legal_basis": {
            "clause": "9",
            "authorities": [
                {"regime": "other", "owner": owner, "citation": "an act", "basis": "it says so"}
                for owner in ("dta", "dua")
            ],
        },
        "people": {"clause": "10", "roles": ["office"]},
        "end": {
            "clause": "11",
            "destroy_within_days": 30,
            "method": "cryptographic erase",
            "certifier": "Director",
        },
        "safeguards": {"clause": "12", "breach_notice_hours": 24, "contact": "Council"},
        "datasets": [
            {
                "clause": "5.1",
                "table": "help.forms",
                "owner": "dta",
                "columns": [
                    {"name": "form_id", "why": "one form, several reports", "pseudonym": True},
                    {"name": "due_on", "why": "the day it is due"},
                    {"name": "office", "why": "load"},
                ],
                "rows": [
                    {
                        "column": "office",
                        "operator": "not_one_of",
                        "values": ["closed"],
                        "why": "closed offices are out of scope",
                    }
                ],
                **days,
            },
            {
                "clause": "5.2",
                "table": "help.members",
                "owner": "dta",
                "columns": [{"name": "race", "why": "audit"}],
                **days,
            },
            {
                "clause": "5.3",
                "table": "work.wages",
                "owner": "dua",
                "people_of": "help.members",
                "columns": [
                    {"name": "amount", "why": "earnings"},
                    {"name": "town", "why": "place"},
                ],
                **days,
            },
        ],
        "linkages": [
            {
                "clause": "6",
                "tables": ["help.forms", "help.members", "work.wages"],
                "why": "a household's history",
            }
        ],
        "disclosure": {"clause": "7", "profile": "cells-11"},
        "term": {"clause": "8", "effective": "2026-01-01", "expires": "2030-12-31"},
    }
    return {**values, **changes}


def outreach(**changes: Any) -> dict[str, Any]:
    """The same data back to its owner, who may call its own clients."""
    return document(
        id="DULA-2026-0002",
        title="Outreach",
        recipients={
            "clause": "2",
            "parties": [{"key": "dta", "kind": "state", "custodian": "Director"}],
        },
        purpose={"clause": "3", "code": "service-coordination", "text": "Call before it is late."},
        uses={
            "clause": "4",
            "allowed": ["study", "score"],
            "individual_action": True,
            "returned_under_own_ids": True,
        },
        **changes,
    )


def dula(values: dict[str, Any] | None = None) -> Dula:
    return Dula.model_validate(values or document())


# --- signed ---------------------------------------------------------------------------------------


@lru_cache
def signing_key(party: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def signers(parties: Iterable[str]) -> dict[str, Signer]:
    """A registry with one key for each party, of the party's name."""
    return {
        party: Signer(
            party=party,
            office="tests",
            public_key=public_text(signing_key(party)),
            valid_from="2000-01-01",
        )
        for party in parties
    }


def owed(terms: Mou | Dula) -> dict[str, str]:
    return mou_owed(terms) if isinstance(terms, Mou) else dula_owed(terms)


def life(
    terms: Mou | Dula,
    at: datetime = datetime(2018, 1, 1, tzinfo=UTC),
    *,
    parties: Iterable[str] | None = None,
) -> list[Event]:
    """An agreement's events from its review to the signatures of all its parties, or of some."""
    base, whole = (terms.id, terms.version), digest(terms)
    events = [
        Event(*base, "requested", "tester", at, whole, terms=canonical(terms).decode()),
        Event(*base, "approved", "tester", at, whole),
    ]
    for party, owes in owed(terms).items():
        if parties is None or party in parties:
            made = sign(
                signing_key(party), terms.id, party=party, signer=party, digest=owes, on=at.date()
            )
            events.append(
                Event(
                    *base, "signed", "tester", at, owes,
                    party=party, signer=party, signature=made.value,
                )
            )  # fmt: skip
    return events


def register(*agreements: Mou | Dula, events: Iterable[Event] | None = None) -> Register:
    """A register in which all agreements are signed, or of these events."""
    mous = {each.id: each for each in agreements if isinstance(each, Mou)}
    dulas = {each.id: each for each in agreements if isinstance(each, Dula)}
    parties = [party for each in agreements for party in owed(each)]
    if events is None:
        events = [event for each in agreements for event in life(each)]
    return Register(mous, dulas, events, signers(parties))


def sign_lake(lake: Path, registry: Path, *agreements: Mou | Dula) -> None:
    """Writes the events of signed agreements into a lake, and the registry of their signers, as
    `concord agreement rehearse` would; without Spark."""
    held = signers(party for each in agreements for party in owed(each))
    registry.parent.mkdir(parents=True, exist_ok=True)
    registry.write_text(
        json.dumps({n: s.model_dump(mode="json", exclude_none=True) for n, s in held.items()})
    )
    previous, rows = chain.GENESIS, []
    for event in (event for each in agreements for event in life(each)):
        row = {**asdict(event), "event": event.kind, "from_state": "", "to_state": ""}
        row = {name: row[name] for name in AGREEMENT_EVENTS.column_names if name in row}
        row["previous_hash"] = previous
        previous = chain.row_hash(AGREEMENT_EVENTS, row)
        rows.append({**row, "hash": previous})
    kinds = {"int": pa.int32(), "timestamp": pa.timestamp("us", "UTC")}
    schema = pa.schema([(c.name, kinds.get(c.type, pa.string())) for c in AGREEMENT_EVENTS.columns])
    write_deltalake(str(lake / AGREEMENT_EVENTS.name), pa.Table.from_pylist(rows, schema))
