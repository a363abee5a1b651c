"""Agreements as a DCAT-US 3.0 catalog in JSON-LD, for whoever lists the state's data.

Every study table and product of the agreements in force is a dataset whose one distribution has
the access restrictions (who may read) and the use restrictions (for what, what never, which counts,
until when), each with the clause that sets it. Of the rows nothing is told: no values, none of the
values that filter them, and of people who work with them only how many are named.

The profile is https://resources.data.gov/resources/dcat-us3/ with the JSON Schemas of
https://github.com/GSA/dcat-us (jsonschema/definitions); `SCHEMA` is Concord's own, of the classes
that are exported and no more, and says what is mandatory there. The words for a restriction's
status are those of the National Archives' authority lists, which the profile names.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

from jsonschema import Draft202012Validator, FormatChecker

from concord.agreements import words
from concord.agreements.agencies import Agencies
from concord.agreements.canonical import digest
from concord.agreements.decision import expires, mou_reasons
from concord.agreements.dula import Dataset, Dula, Linkage
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.errors import ConcordError, UsageError

Kind = Literal["AccessRestriction", "UseRestriction"]
STATUSES = (
    "Restricted - Fully", "Restricted - Partly", "Restricted - Possibly", "Undetermined",
    "Unrestricted",
)  # fmt: skip
_ARCHIVES = "https://www.archives.gov/research/catalog/lcdrg/authority-lists"
SCHEMES: Mapping[Kind, tuple[str, str]] = {
    "AccessRestriction": (f"{_ARCHIVES}/access-restriction-status", "Access Restriction Status"),
    "UseRestriction": (f"{_ARCHIVES}/use-restriction-status", "Use Restriction Status"),
}
# How often, in the Dublin Core Collection Frequency Vocabulary; it has no word for once.
FREQUENCIES = {
    "yearly": "annual", "quarterly": "quarterly", "monthly": "monthly",
    "with each delivery": "irregular",
}  # fmt: skip
_ADDRESS = r"[\w~!$&'()*+,;=:.-]+@[\w.-]+\.[\w-]+"  # after `mailto:`, as the profile has it
TERMS_OF_SERVICE = "http://www.iana.org/assignments/relation/terms-of-service"  # RFC 6903

_ID = {"@type": "@id"}
_DAY = {"@type": "xsd:date"}
# In the document itself: the profile publishes no context any more, and nothing has to be fetched
# to read it. Names that GSA's JSON Schemas use, for the RDF terms that these give for them.
CONTEXT: dict[str, Any] = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dcat-us": "http://data.resources.gov/ontology/dcat-us#",
    "dcterms": "http://purl.org/dc/terms/",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "org": "http://www.w3.org/ns/org#",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "vcard": "http://www.w3.org/2006/vcard/ns#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    **{name: f"dcat:{name}" for name in ("Catalog", "Dataset", "Distribution", "Relationship")},
    **{name: f"dcat-us:{name}" for name in ("AccessRestriction", "UseRestriction")},
    **{name: f"skos:{name}" for name in ("Concept", "ConceptScheme")},
    **{name: f"dcterms:{name}" for name in ("PeriodOfTime", "Standard")},
    "Agent": "foaf:Agent",
    "Kind": "vcard:Kind",
    "Organization": "org:Organization",
    **{name: f"dcat:{name}" for name in ("contactPoint", "dataset", "distribution")},
    **{name: {"@id": f"dcat:{name}", **_DAY} for name in ("startDate", "endDate")},
    "qualifiedRelation": "dcat:qualifiedRelation",
    "hadRole": {"@id": "dcat:hadRole", **_ID},
    **{
        name: f"dcat-us:{name}"
        for name in (
            "accessRestriction", "useRestriction", "purpose", "restrictionNote",
            "restrictionStatus", "specificRestriction",
        )
    },
    **{
        name: f"dcterms:{name}"
        for name in (
            "accessRights", "conformsTo", "description", "identifier", "publisher", "rights",
            "rightsHolder", "temporal", "title",
        )
    },
    "issued": {"@id": "dcterms:issued", **_DAY},
    "relation": {"@id": "dcterms:relation", **_ID},
    "language": {"@id": "dcterms:language", "@type": "@vocab"},
    "en": "http://id.loc.gov/vocabulary/iso639-1/en",
    "accrualPeriodicity": {"@id": "dcterms:accrualPeriodicity", "@type": "@vocab"},
    **{code: f"http://purl.org/cld/freq/{code}" for code in FREQUENCIES.values()},
    "fn": "vcard:fn",
    "hasEmail": {"@id": "vcard:hasEmail", **_ID},
    "organization-name": "vcard:organization-name",
    "name": "foaf:name",
    "notation": "skos:notation",
    "subOrganizationOf": "org:subOrganizationOf",
    "prefLabel": "skos:prefLabel",
    "inScheme": "skos:inScheme",
}  # fmt: skip


class Release(Protocol):
    """What a catalog tells of a product; `concord.products.specification.Product` has it."""

    @property
    def table(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def agreement(self) -> str: ...
    @property
    def classification(self) -> str: ...
    @property
    def measures(self) -> Mapping[Any, str]: ...


@dataclass(frozen=True)
class Known:
    """What the catalog tells beside the terms. `minimums` has the smallest count that each
    disclosure profile shows, `contact` the e-mail address that answers for the whole catalog: the
    profile demands one of each dataset, and a dataset's own office is named with it."""

    agencies: Agencies
    contracts: Mapping[str, Contract]
    products: Iterable[Release]
    minimums: Mapping[str, int]
    contact: str


def catalog(register: Register, day: date, known: Known) -> dict[str, Any]:
    """The catalog of what may be read on a day.

    Raises UsageError where the profile lets there be none: without a dataset, or an address.
    """
    if not re.fullmatch(_ADDRESS, known.contact):
        raise UsageError(f"DCAT-US demands an e-mail address of somebody, not {known.contact!r}")
    datasets = []
    for dula in register.in_force(day).values():
        held = [d for d in dula.datasets if not any(mou_reasons(dula, d, register, day))]
        datasets += [_study(dula, each, register, day, known) for each in held]
        if len(held) == len(dula.datasets):  # of which of them a product is made is not told
            datasets += [
                _product(dula, product, register, day, known)
                for product in known.products
                if product.agreement == dula.id
            ]
    if not datasets:
        raise UsageError(f"nothing may be read on {day}; a DCAT-US catalog needs a dataset")
    hub = known.agencies.agencies[known.agencies.hub].name
    made = {
        "@context": CONTEXT,
        "@type": "Catalog",
        "title": f"{hub}: data shared under agreements",
        "description": f"Study tables and products of the agreements in force on {day}.",
        "publisher": {"@type": "Agent", "name": hub},
        "conformsTo": {"@type": "Standard", "title": "DCAT-US 3.0"},
        "language": "en",
        "issued": day.isoformat(),
        "dataset": datasets,
    }
    if found := problems(made):
        raise ConcordError(f"the DCAT-US catalog of {day} is none: {'; '.join(found)}")
    return made


def problems(made: Any) -> list[str]:
    """Where a document is no catalog as Concord exports it, and why."""
    checked = Draft202012Validator(SCHEMA, format_checker=FormatChecker())
    return [f"{error.json_path}: {error.message[:200]}" for error in checked.iter_errors(made)]


# --- datasets ------------------------------------------------------------------------------------


def _study(
    dula: Dula, dataset: Dataset, register: Register, day: date, known: Known
) -> dict[str, Any]:
    what = known.contracts[dataset.feed].table(dataset.source).description
    told = [what, f"Columns: {', '.join(dataset.column_names)}."]
    told += [f"Only people of {dataset.people_of}."] if dataset.people_of else []
    period = {
        "@type": "PeriodOfTime",
        "startDate": dataset.period_from.isoformat(),
        "endDate": dataset.period_until.isoformat(),
    }
    often = FREQUENCIES.get(dataset.refresh)
    linkage = dula.linkage(dataset.table)
    return {
        **_dataset(dula, (dataset.table,), register, day, known, (linkage,) if linkage else ()),
        "title": f"{dula.title}: {dataset.table}",
        "description": " ".join(" ".join(told).split()),
        "identifier": f"studies/{dula.id}/{dataset.feed}_{dataset.source}",
        "publisher": _organization(dataset.owner, known.agencies),
        "contactPoint": _contact(dataset.owner, known),
        "temporal": [period],
        **({"accrualPeriodicity": often} if often else {}),
    }


def _product(
    dula: Dula, product: Release, register: Register, day: date, known: Known
) -> dict[str, Any]:
    public = product.classification == "public"
    measures = "; ".join(f"{name}: {text}" for name, text in product.measures.items())
    return {
        **_dataset(dula, dula.tables, register, day, known, public=public),
        "title": product.title,
        "description": f"Counts that meet the agreement's disclosure profile. {measures}.",
        "identifier": product.table,
        "publisher": _organization(known.agencies.hub, known.agencies),
        "contactPoint": _contact(known.agencies.hub, known),
        "rightsHolder": [_organization(key, known.agencies) for key in dula.owners.agencies],
    }


def _dataset(
    dula: Dula,
    tables: tuple[str, ...],
    register: Register,
    day: date,
    known: Known,
    linkages: tuple[Linkage, ...] = (),
    *,
    public: bool = False,
) -> dict[str, Any]:
    """What follows from the agreement, the same for a study's table and for a product."""
    said = {section.clause: section for section in words.sections(dula, known.contracts)}
    ends = expires(dula, register, tables, day)
    minimum = known.minimums.get(dula.disclosure.profile)
    shown = f"no count of people or cases from 1 to {minimum - 1} is shown" if minimum else ""
    sooner = "" if ends == dula.term.expires else f"by the memorandum it ends on {ends}"

    def restriction(kind: Kind, clause: str, *more: str, status: str = STATUSES[0]) -> Any:
        section = said[clause]
        # Who is named is for the agreement's page, not for a catalog that anybody may harvest.
        told = [f"{name}: {text}" for name, text in section.statements if name != "users"]
        scheme, title = SCHEMES[kind]
        return {
            "@type": kind,
            "restrictionStatus": {
                "@type": "Concept",
                "prefLabel": status,
                "inScheme": {"@type": "ConceptScheme", "@id": scheme, "title": title},
            },
            "specificRestriction": {
                "@type": "Concept",
                "prefLabel": f"{dula.reference}, clause {clause}: {section.heading}",
            },
            "restrictionNote": "; ".join([*told, *(each for each in more if each)]),
        }

    users = f"users named: {len(dula.people.users)}" if dula.people.users else ""
    if public:
        access = [restriction("AccessRestriction", dula.disclosure.clause, status="Unrestricted")]
    else:
        access = [
            restriction("AccessRestriction", dula.recipients.clause),
            restriction("AccessRestriction", dula.people.clause, users),
        ]
    use = [
        restriction("UseRestriction", dula.purpose.clause),
        restriction("UseRestriction", dula.uses.clause),
        *(restriction("UseRestriction", g.clause) for g in (dula.prohibitions,) if g),
        *(restriction("UseRestriction", each.clause) for each in linkages),
        restriction("UseRestriction", dula.disclosure.clause, shown),
        restriction("UseRestriction", dula.term.clause, sooner),
        restriction("UseRestriction", dula.end.clause),
    ]
    terms = digest(dula)
    return {
        "@type": "Dataset",
        "purpose": " ".join(dula.purpose.text.split()),
        "accessRights": "Public" if public else "Non-public",
        "rights": [
            f"{dula.reference} under {dula.mou}, until {ends}; SHA-256 of its terms {terms}",
            *dula.legal_basis.notices,
        ],
        "qualifiedRelation": [
            {"@type": "Relationship", "hadRole": TERMS_OF_SERVICE, "relation": named(terms)}
        ],
        "distribution": [
            {"@type": "Distribution", "accessRestriction": access, "useRestriction": use}
        ],
    }


def named(sha256: str) -> str:
    """The terms' own name, by their digest: an `ni` URI (RFC 6920)."""
    text = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{text}"


def _organization(key: str, agencies: Agencies) -> dict[str, Any]:
    agency = agencies.agencies[key]
    above = {"@type": "Organization", "name": agencies.secretariats[agency.secretariat]}
    return {
        "@type": "Organization",
        "name": agency.name,
        "notation": [key],
        "subOrganizationOf": [above],
    }


def _contact(key: str, known: Known) -> dict[str, Any]:
    agency = known.agencies.agencies[key]
    return {
        "@type": "Kind",
        "fn": agency.coordinator,
        "organization-name": agency.name,
        "hasEmail": f"mailto:{known.contact}",
    }


# --- the schema ----------------------------------------------------------------------------------


def _class(name: str, mandatory: Iterable[str], /, **properties: Any) -> dict[str, Any]:
    """A class of the profile. What it does not name is a mistake, though the profile allows it."""
    return {
        "type": "object",
        "properties": {"@type": {"const": name}, **properties},
        "required": ["@type", *mandatory],
        "additionalProperties": False,
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _some(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


_TEXT = {"type": "string", "minLength": 1}
_DATE = {"type": "string", "format": "date"}
_IRI = {"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*:\S+$"}


def _restrictions(kind: Kind) -> dict[str, Any]:
    """Concord always names the clause; the profile only recommends `specificRestriction`, which the
    Archives demand for what is restricted."""
    scheme, _ = SCHEMES[kind]
    status = _class(
        "Concept", ["prefLabel", "inScheme"],
        prefLabel={"enum": list(STATUSES)},
        inScheme=_class("ConceptScheme", ["title"], **{"@id": {"const": scheme}}, title=_TEXT),
    )  # fmt: skip
    return _class(
        kind, ["restrictionStatus", "specificRestriction"],
        restrictionStatus=status,
        specificRestriction=_class("Concept", ["prefLabel"], prefLabel=_TEXT),
        restrictionNote=_TEXT,
    )  # fmt: skip


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_class(
        "Catalog", ["@context", "dataset"],
        **{"@context": {"const": CONTEXT}},
        title=_TEXT, description=_TEXT, language={"const": "en"}, issued=_DATE,
        publisher=_class("Agent", ["name"], name=_TEXT),
        conformsTo=_class("Standard", [], title=_TEXT),
        dataset=_some(_ref("Dataset")),
    ),
    "$defs": {
        "Dataset": _class(
            "Dataset", ["title", "description", "identifier", "publisher", "contactPoint",
                        "distribution"],
            title=_TEXT, description=_TEXT, identifier=_TEXT, purpose=_TEXT,
            publisher=_ref("Organization"), rightsHolder=_some(_ref("Organization")),
            contactPoint=_class(
                "Kind", ["fn", "hasEmail"],
                **{"fn": _TEXT, "organization-name": _TEXT},
                hasEmail={"type": "string", "pattern": f"^mailto:{_ADDRESS}$"},
            ),
            accessRights={"enum": ["Public", "Restricted", "Non-public"]},
            rights=_some(_TEXT),
            accrualPeriodicity={"enum": sorted(FREQUENCIES.values())},
            temporal=_some(
                _class("PeriodOfTime", ["startDate", "endDate"], startDate=_DATE, endDate=_DATE)
            ),
            qualifiedRelation=_some(
                _class("Relationship", ["hadRole", "relation"], hadRole=_IRI, relation=_IRI)
            ),
            distribution=_some(
                _class(
                    "Distribution", ["accessRestriction", "useRestriction"],
                    accessRestriction=_some(_restrictions("AccessRestriction")),
                    useRestriction=_some(_restrictions("UseRestriction")),
                )
            ),
        ),
        "Organization": _class(
            "Organization", ["name"],
            name=_TEXT, notation=_some(_TEXT), subOrganizationOf=_some(_ref("Organization")),
        ),
    },
}  # fmt: skip
