"""The catalog of the demo's agreements, by Concord's schema of DCAT-US 3.0."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from concord.agreements import dcat
from concord.agreements.agencies import load_agencies
from concord.agreements.canonical import digest
from concord.agreements.dula import Dula
from concord.agreements.loading import load_dulas
from concord.agreements.mou import Mou, load_mous
from concord.agreements.register import Register
from concord.contracts.odcs import load_contracts
from concord.disclosure.profiles import load_profiles
from concord.errors import ConcordError, UsageError
from concord.products.specification import load_products
from tests.agreed import life, signers

CONF = Path(__file__).resolve().parents[3] / "conf"
CONTRACTS = load_contracts(CONF / "feeds")
MOUS = load_mous(CONF, CONTRACTS)
DULAS = load_dulas(CONF, MOUS, CONTRACTS)
PRODUCTS = load_products(CONF, DULAS)
KNOWN = dcat.Known(
    load_agencies(CONF / "agencies.yaml"),
    CONTRACTS,
    list(PRODUCTS.values()),
    {name: each.minimum for name, each in load_profiles(CONF).items()},
    "data.office@example.org",
)
DAY = date(2026, 9, 1)


def made(
    day: date = DAY,
    *,
    mous: dict[str, Mou] = MOUS,
    dulas: dict[str, Dula] = DULAS,
    known: dcat.Known = KNOWN,
) -> dict[str, Any]:
    register = Register(mous, dulas, (), {}, signed_by_all=True)
    return dcat.catalog(register, day, known)


@cache
def today() -> dict[str, Any]:
    return made()


def datasets(catalog: dict[str, Any], agreement: str) -> dict[str, dict[str, Any]]:
    """By identifier, those under an agreement."""
    return {
        each["identifier"]: each
        for each in catalog["dataset"]
        if each["rights"][0].startswith(f"{agreement} ")
    }


def restrictions(dataset: dict[str, Any], name: str) -> dict[str, str]:
    """By the clause that sets it, what a restriction says."""
    (distribution,) = dataset["distribution"]
    return {
        each["specificRestriction"]["prefLabel"]: each["restrictionNote"]
        for each in distribution[name]
    }


def table_of(identifier: str, dula: Dula) -> str:
    return {f"studies/{dula.id}/{t.replace('.', '_', 1)}": t for t in dula.tables}[identifier]


@pytest.mark.parametrize("dula", DULAS.values(), ids=[*DULAS])
def test_each_agreement_is_read_back_from_the_catalog(dula: Dula) -> None:
    day = min(dula.term.expires, max(DAY, dula.term.effective))
    again = json.loads(json.dumps(made(day)))
    assert dcat.problems(again) == []
    found = datasets(again, dula.id)
    studies = {name: each for name, each in found.items() if name.startswith("studies/")}
    assert {table_of(name, dula) for name in studies} == {*dula.tables}
    agencies = KNOWN.agencies.agencies
    for name, each in studies.items():
        dataset = next(d for d in dula.datasets if d.table == table_of(name, dula))
        assert each["publisher"]["name"] == agencies[dataset.owner].name
        assert each["contactPoint"]["fn"] == agencies[dataset.owner].coordinator
        assert each["temporal"][0]["startDate"] == dataset.period_from.isoformat()
        assert f"Columns: {', '.join(dataset.column_names)}." in each["description"]
        assert digest(dula) in each["rights"][0]
        access = restrictions(each, "accessRestriction")
        held = access[f"{dula.reference}, clause {dula.recipients.clause}: Recipients"]
        assert all(party.key in held for party in dula.recipients.parties)
        people = access[f"{dula.reference}, clause {dula.people.clause}: People"]
        assert f"roles: {', '.join(dula.people.roles)}" in people
        use = restrictions(each, "useRestriction")
        purpose = use[f"{dula.reference}, clause {dula.purpose.clause}: Purpose"]
        assert purpose.startswith(f"purpose: {dula.purpose.code};")
        assert all(never in purpose for never in dula.purpose.prohibited)
        assert dula.prohibitions is not None
        acts = use[f"{dula.reference}, clause {dula.prohibitions.clause}: Prohibitions"]
        assert all(f"{act}: forbidden" in acts for act in dula.prohibitions.acts)
        release = use[f"{dula.reference}, clause {dula.disclosure.clause}: Publication"]
        assert "no count of people or cases from 1 to 10 is shown" in release
        term = use[f"{dula.reference}, clause {dula.term.clause}: Term"]
        assert f"last day: {dula.term.expires}" in term


def test_every_agreement_of_the_demo_is_looked_at() -> None:
    assert len(DULAS) == 7


def test_the_whole_catalog_is_what_its_schema_says() -> None:
    assert dcat.problems(today()) == []
    assert len(today()["dataset"]) == 8 + 8 + 11 + 8 + 1 + 1 + 1
    assert len({each["identifier"] for each in today()["dataset"]}) == len(today()["dataset"])


def test_a_product_is_counted_on_all_tables_of_its_agreement() -> None:
    product = datasets(today(), "DULA-2026-0001")["products/snap_churn"]
    assert product["accessRights"] == "Non-public"
    assert product["publisher"]["name"] == "Commonwealth data office"
    assert [each["notation"] for each in product["rightsHolder"]] == [["dta"], ["dua"]]
    released = KNOWN.products[0].model_copy(update={"classification": "public"})  # type: ignore[index]
    known = dcat.Known(KNOWN.agencies, CONTRACTS, [released], KNOWN.minimums, KNOWN.contact)
    public = datasets(made(known=known), "DULA-2026-0001")["products/snap_churn"]
    (access,) = public["distribution"][0]["accessRestriction"]
    assert access["restrictionStatus"]["prefLabel"] == "Unrestricted"
    assert public["accessRights"] == "Public"


def test_tables_of_an_ended_agreement_are_absent() -> None:
    ended = DULAS["DULA-2023-0001"]
    assert datasets(made(ended.term.expires), ended.id)
    assert not datasets(made(ended.term.expires + timedelta(days=1)), ended.id)
    assert not datasets(made(date(2026, 6, 30)), "DULA-2026-0006")
    assert datasets(made(date(2026, 7, 1)), "DULA-2026-0006")


def test_tables_that_the_memorandum_lets_nobody_hold_are_absent() -> None:
    def without(feed: str, ends: date) -> dict[str, Mou]:
        (mou,) = MOUS.values()
        terms = tuple(
            term.model_copy(update={"expires": ends}) if term.feed == feed else term
            for term in mou.contributions
        )
        return {mou.id: mou.model_copy(update={"contributions": terms})}

    lapsed = datasets(made(mous=without("dua_claims", DAY - timedelta(days=1))), "DULA-2026-0001")
    assert "studies/DULA-2026-0001/dua_claims_claims" not in lapsed
    assert "studies/DULA-2026-0001/dua_wages_wages" in lapsed
    assert "products/snap_churn" not in lapsed
    sooner = datasets(made(mous=without("dua_claims", DAY)), "DULA-2026-0001")
    claims = sooner["studies/DULA-2026-0001/dua_claims_claims"]
    terms = restrictions(claims, "useRestriction")
    assert (
        f"by the memorandum it ends on {DAY}" in terms["DULA-2026-0001 version 1, clause 8: Term"]
    )


def test_what_is_not_signed_is_absent() -> None:
    (mou,), signed = MOUS.values(), DULAS["DULA-2026-0005"]
    events = [*life(mou), *life(signed)]
    known = Register(MOUS, DULAS, events, signers([*mou.signatories, *signed.parties]))
    found = dcat.catalog(known, DAY, KNOWN)["dataset"]
    assert [each["identifier"] for each in found] == ["studies/DULA-2026-0005/dpu_rides_flows"]
    with pytest.raises(UsageError, match="nothing may be read"):
        dcat.catalog(Register(MOUS, DULAS, (), {}), DAY, KNOWN)


def test_no_values_and_nobody_by_name() -> None:
    dula = DULAS["DULA-2026-0006"]
    people = dula.people.model_copy(update={"users": ("jane.roe", "rex.doe")})
    (dataset,) = dula.datasets
    row = {"column": "month", "operator": "one_of", "values": ("987-65-4329",), "why": "one family"}
    filtered = dataset.model_validate({**dataset.model_dump(), "rows": (row,)})
    told = dula.model_copy(update={"people": people, "datasets": (filtered,)})
    text = json.dumps(made(dulas={dula.id: told}))
    assert "jane.roe" not in text
    assert "987-65-4329" not in text
    assert "users named: 2" in text


def test_terms_are_named_by_their_digest() -> None:
    (relation,) = today()["dataset"][0]["qualifiedRelation"]
    # As RFC 6920 has it in section 8.1, for the bytes of "Hello World!".
    known = "7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069"
    assert dcat.named(known) == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"
    assert relation["relation"] == dcat.named(digest(DULAS["DULA-2026-0001"]))


def test_every_name_has_a_meaning_in_the_context() -> None:
    """A name without one would be left out, silently, by whoever reads the catalog as RDF."""
    context = today()["@context"]

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            types = {value["@type"]} if "@type" in value else set()
            return types.union(value, *(names(each) for each in value.values()))
        return set().union(*(names(each) for each in value)) if isinstance(value, list) else set()

    without = {key: each for key, each in today().items() if key != "@context"}
    assert names(without) - {"@type", "@id"} <= {*context}


def test_a_catalog_that_is_none_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcat, "STATUSES", ("Secret",))
    with pytest.raises(ConcordError, match=r"\$\.dataset\[0\]\.distribution\[0\]"):
        made()


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no title": lambda d: d.pop("title"),
    "no publisher": lambda d: d.pop("publisher"),
    "no contact": lambda d: d.pop("contactPoint"),
    "no identifier": lambda d: d.pop("identifier"),
    "no distribution": lambda d: d.pop("distribution"),
    "no address": lambda d: d["contactPoint"].update(hasEmail="data.office@example.org"),
    "no access restriction": lambda d: d["distribution"][0].update(accessRestriction=[]),
    "no use restriction": lambda d: d["distribution"][0].pop("useRestriction"),
    "no clause": lambda d: d["distribution"][0]["useRestriction"][0].pop("specificRestriction"),
    "no such status": lambda d: d["distribution"][0]["accessRestriction"][0][
        "restrictionStatus"
    ].update(prefLabel="Secret"),
    "the other's class": lambda d: d["distribution"][0]["accessRestriction"][0].update(
        {"@type": "UseRestriction"}
    ),
    "a restriction where the profile has none": lambda d: d.update(
        accessRestriction=d["distribution"][0]["accessRestriction"]
    ),
    "no day": lambda d: d["temporal"][0].update(startDate="31 January 2026"),
    "no such frequency": lambda d: d.update(accrualPeriodicity="with each delivery"),
    "no IRI": lambda d: d["qualifiedRelation"][0].update(relation="DULA-2026-0001"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_dataset_is_refused(what: str) -> None:
    broken = copy.deepcopy(today())
    BROKEN[what](broken["dataset"][3])
    found = dcat.problems(broken)
    assert found
    assert all(each.startswith("$.dataset[3]") for each in found)


@pytest.mark.parametrize("contact", ["", "data office", "a@b"])
def test_a_catalog_needs_somebody_who_answers(contact: str) -> None:
    known = dcat.Known(KNOWN.agencies, CONTRACTS, (), KNOWN.minimums, contact)
    with pytest.raises(UsageError, match="e-mail address"):
        made(known=known)
