"""What a law demands of an agreement: checked wherever an authority names the law's regime.

Each preset cites the provision that makes the demand, so that a mistake names the law and not
Concord; where Concord asks for more than the provision does, the message says that it is Concord
that asks. `fills` are the values that `concord agreement new` starts a draft with. A preset checks
what can be read off the terms; that the parties do what they signed is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from concord.agreements.dula import Dula
from concord.agreements.mou import Regime
from concord.contracts.model import Contract
from concord.yaml12 import Location

Mistakes = Iterator[tuple[Location, str]]

# Concord's reading of 7 CFR 272.1(c)(1)(i): federal and federally assisted programmes for people of
# low income by their means, and general assistance, whose administrators may receive SNAP records.
MEANS_TESTED = frozenset(
    {"snap", "tafdc", "eaedc", "medicaid", "wic", "liheap", "ssi", "school-meals", "child-care"}
)
YEAR_DAYS = 366


@dataclass(frozen=True)
class Facts:
    """What the terms are checked against: contracts by feed, None where they are not at hand, and
    the smallest count that each disclosure profile shows."""

    contracts: Mapping[str, Contract] | None = None
    minimums: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """One regime: its law, what it demands, and what a new draft gets from it."""

    regime: Regime
    title: str
    citation: str
    demands: Callable[[Dula, Facts], Mistakes]
    fills: Mapping[str, Any] = field(default_factory=dict)


def demanded(dula: Dula, facts: Facts) -> Mistakes:
    """Every demand, of the laws that the agreement's authorities name, that the terms fail."""
    for index, authority in enumerate(dula.legal_basis.authorities):
        if authority.owner not in dula.owners.agencies:
            place: Location = ("legal_basis", "authorities", index, "owner")
            yield place, f"{authority.owner!r} is not among the owners; name the law of one that is"
    named = dict.fromkeys(authority.regime for authority in dula.legal_basis.authorities)
    for preset in (PRESETS[regime] for regime in named if regime in PRESETS):
        for where, message in preset.demands(dula, facts):
            yield where, f"{message} ({preset.citation})"


# --- demands that several laws share -------------------------------------------------------------


def _cells(dula: Dula, facts: Facts, least: int, asking: str) -> Mistakes:
    minimum = facts.minimums.get(dula.disclosure.profile)
    if "publish" in dula.uses.allowed and minimum is not None and minimum < least:
        yield (
            ("disclosure", "profile"),
            f"{dula.disclosure.profile!r} shows counts from {minimum}; {asking} asks for {least}",
        )


def _prohibits(dula: Dula, *acts: str) -> Mistakes:
    have = dula.prohibitions.acts if dula.prohibitions else ()
    for act in acts:
        if act not in have:
            yield ("prohibitions",), f"must forbid {act}; add it to acts"


# --- the laws ------------------------------------------------------------------------------------


def _ferpa_studies(dula: Dula, facts: Facts) -> Mistakes:
    """34 CFR 99.31(a)(6)(iii): purpose, scope and duration in writing; personal identification
    only by representatives of the study; destruction within a stated period. The rule names no
    least count: that of ten is Concord's."""
    if dula.purpose.code not in {"research", "program-evaluation"}:
        yield ("purpose", "code"), "a study for schools is research or program-evaluation"
    if dula.uses.individual_action:
        yield ("uses", "individual_action"), "a study takes no decisions about individual people"
    yield from _prohibits(dula, "re-identification", "onward-sharing")
    yield from _cells(dula, facts, 10, "Concord")


def _ferpa_evaluation(dula: Dula, facts: Facts) -> Mistakes:
    """34 CFR 99.31(a)(3) and 99.35: an audit or evaluation of an education programme, by an
    authorised representative, with destruction and its time limit in writing. The least count of
    ten is Concord's."""
    allowed = {"program-evaluation", "statutory-report", "performance-reporting"}
    if dula.purpose.code not in allowed:
        yield ("purpose", "code"), f"an evaluation's purpose is one of {', '.join(sorted(allowed))}"
    if dula.recipients.responsible_officer is None:
        yield ("recipients", "responsible_officer"), "name the authorised representative"
    yield from _prohibits(dula, "onward-sharing")
    yield from _cells(dula, facts, 10, "Concord")


def _hipaa(dula: Dula, facts: Facts) -> Mistakes:
    """45 CFR 164.514(e): sixteen kinds of identifiers absent; who may use it; no
    re-identification and no contact."""
    if dula.identifiability not in {"limited", "aggregate"}:
        yield ("identifiability",), "must be limited: the sixteen identifiers are absent"
    if not (dula.people.users or dula.people.roles):
        yield ("people",), "say who may use the data"
    yield from _prohibits(dula, "re-identification", "contact")
    for place, _, role, name in _columns(dula, facts):
        if role == "direct":
            yield place, f"{name!r} is one of the identifiers that a limited data set leaves out"


def _cms_chia(dula: Dula, facts: Facts) -> Mistakes:
    """CMS cell size suppression policy and CHIA's data use agreement: no cell below 11, nor by a
    percentage. That the use is looked at again every year is Concord's."""
    yield from _cells(dula, facts, 11, "the policy")
    review = dula.term.next_review
    if review is None or (review - dula.term.effective).days > YEAR_DAYS:
        yield ("term", "next_review"), "Concord asks that the use is looked at again within a year"
    yield from _prohibits(dula, "re-identification")


def _ui_wages(dula: Dula, facts: Facts) -> Mistakes:
    """20 CFR 603.10: the agency may end the agreement where safeguards fail (a); the purpose, the
    methods, safeguards, on-site inspection and payment of costs stand in it (b). 603.9: safeguards,
    against redisclosure too."""
    if dula.term.terminable_days is None:
        yield ("term", "terminable_days"), "the agency may end it; say with how many days' notice"
    if not dula.safeguards.inspection:
        yield ("safeguards", "inspection"), "the agency may inspect on site; say true"
    if dula.cost is None:
        yield ("cost",), "say who bears the cost of the disclosure"
    yield from _prohibits(dula, "onward-sharing")


def _snap(dula: Dula, facts: Facts) -> Mistakes:
    """7 CFR 272.1(c)(1): what households told goes only to persons directly connected with the
    administration of SNAP or another means-tested programme, and some others. Of aggregates the
    rule does not speak; Concord leaves them to others."""
    if dula.identifiability == "aggregate":
        return
    for index, party in enumerate(dula.recipients.parties):
        if not MEANS_TESTED & set(party.administers):
            yield (
                ("recipients", "parties", index, "administers"),
                f"{party.key!r} administers no programme on the list "
                f"({', '.join(sorted(MEANS_TESTED))}): agree on aggregates only",
            )
    yield from _prohibits(dula, "onward-sharing")


def _part_2(dula: Dula, facts: Facts) -> Mistakes:
    """42 CFR 2.32: a notice that prohibits redisclosure accompanies each disclosure made with the
    patient's consent; Concord asks for it with any. 2.12(d): not for criminal charges against a
    patient or the investigation of one."""
    if not any("42 CFR part 2" in notice for notice in dula.legal_basis.notices):
        yield ("legal_basis", "notices"), "the notice on redisclosure must travel with the data"
    if "fraud-detection" not in dula.purpose.prohibited:
        yield ("purpose", "prohibited"), "fraud-detection must be among the prohibited purposes"
    yield from _prohibits(dula, "re-identification", "onward-sharing", "criminal-use")


def _fipa(dula: Dula, facts: Facts) -> Mistakes:
    """M.G.L. c. 66A s. 2(a): an officer answers for the holding. The access log (2(f)) and the
    public notice (c. 30 s. 63) are made by Concord."""
    if dula.recipients.responsible_officer is None:
        yield ("recipients", "responsible_officer"), "name the office that answers for the data"


def _columns(dula: Dula, facts: Facts) -> Iterator[tuple[Location, str, str, str]]:
    """Place, classification, identifier role and name of each agreed column that a contract
    knows."""
    for index, dataset in enumerate(dula.datasets):
        contract = (facts.contracts or {}).get(dataset.feed)
        tables = [t for t in contract.tables if t.name == dataset.source] if contract else []
        fields = {f.name: f for table in tables for f in table.fields}
        for number, column in enumerate(dataset.columns):
            if column.name in fields:
                found = fields[column.name]
                place: Location = ("datasets", index, "columns", number, "name")
                yield place, found.classification, found.identifier_role, column.name


_CAREFUL = {"prohibitions": {"acts": ["re-identification", "onward-sharing"]}}
REDISCLOSURE = (
    "42 CFR part 2 prohibits unauthorized use or disclosure of these records"  # 2.32(a)(2)
)

PRESETS: Mapping[Regime, Preset] = {
    preset.regime: preset
    for preset in (
        Preset(
            "ferpa-studies", "FERPA, studies exception", "34 CFR 99.31(a)(6)",
            _ferpa_studies, _CAREFUL,
        ),
        Preset(
            "ferpa-evaluation", "FERPA, audit and evaluation exception",
            "34 CFR 99.31(a)(3), 99.35",
            _ferpa_evaluation, {"prohibitions": {"acts": ["onward-sharing"]}},
        ),
        Preset(
            "hipaa-limited-data-set", "HIPAA limited data set", "45 CFR 164.514(e)", _hipaa,
            {"identifiability": "limited",
             "prohibitions": {"acts": ["re-identification", "contact"]}},
        ),
        Preset(
            "cms-chia", "CMS and CHIA data", "CMS cell size suppression policy; CHIA data use "
            "agreement", _cms_chia, {"prohibitions": {"acts": ["re-identification"]}},
        ),
        Preset(
            "ui-wages", "Unemployment insurance wage records", "20 CFR 603.10", _ui_wages,
            {"term": {"terminable_days": 30}, "safeguards": {"inspection": True},
             "cost": {"text": "each party bears its own"},
             "prohibitions": {"acts": ["onward-sharing"]}},
        ),
        Preset(
            "snap", "SNAP records", "7 CFR 272.1(c)", _snap,
            {"prohibitions": {"acts": ["onward-sharing"]}},
        ),
        Preset(
            "part-2", "Substance use disorder records", "42 CFR part 2", _part_2,
            {"legal_basis": {"notices": [REDISCLOSURE]},
             "purpose": {"prohibited": ["fraud-detection"]},
             "prohibitions": {"acts": ["re-identification", "onward-sharing", "criminal-use"]}},
        ),
        Preset(
            "fipa", "Fair Information Practices Act", "M.G.L. c. 66A s. 2", _fipa,
            {"recipients": {"responsible_officer": "TO BE SAID"}},
        ),
    )
}  # fmt: skip


def applying(contracts_terms: Mapping[str, tuple[Regime, ...]]) -> tuple[Preset, ...]:
    """The presets of the regimes under which feeds are contributed, each once."""
    regimes = dict.fromkeys(r for found in contracts_terms.values() for r in found)
    return tuple(PRESETS[regime] for regime in regimes if regime in PRESETS)


def missing_regimes(dula: Dula, owed: Mapping[str, tuple[Regime, ...]]) -> Mistakes:
    """Regimes that the MOU names for a feed's data, and the agreement's authorities do not.

    `owed` gives them by feed.
    """
    have = {authority.regime for authority in dula.legal_basis.authorities}
    for index, dataset in enumerate(dula.datasets):
        for regime in owed.get(dataset.feed, ()):
            if regime not in have:
                yield (
                    ("datasets", index, "table"),
                    f"{dataset.feed} stands under {regime}: add an authority of that regime to "
                    "legal_basis, with its citation",
                )
