"""What is told of a check-in before it falls due: features in blocks, in words, and what each block
reads. Pure; asks Spark for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from concord_models.churn import cohort
from concord_models.imputation import MISSING

PERSON = "study_person_id"
OFFICE = "office"
CASES, PERSONS, CHECKINS = "dta_snap.cases", "dta_snap.persons", "dta_snap.checkins"
CONTACTS, CARD = "dta_snap.contacts", "dta_snap.ebt_events"
WAGES, CLAIMS = "dua_wages.wages", "dua_claims.claims"
# A month's row tells of a household until its file is seven months old: six more have come.
SIX_MONTHS = 214
# Wages come one to two quarters late: the last four quarters known, sometimes five, began in these.
TWENTY_MONTHS = 600


@dataclass(frozen=True)
class Feature:
    """A feature in words that a caseworker reads as a reason. `kind` says how to show a value."""

    words: str
    kind: str = "number"


@dataclass(frozen=True)
class Block:
    """Features of one source. A name with `{days}` is one feature for each of the `windows`; the
    model's file may name other windows. `columns`: what is read, by table."""

    features: Mapping[str, Feature]
    columns: Mapping[str, frozenset[str]]
    windows: tuple[int, ...] = ()


_MEMBERS = {PERSONS: frozenset({"month"})}

BLOCKS: Mapping[str, Block] = {
    "checkin": Block(
        {
            "is_recertification": Feature("the check-in is a recertification", "flag"),
            "days_since_mailed": Feature("days since the form was mailed"),
            "form_received": Feature("the form has come", "flag"),
            "proofs_received": Feature("the proofs have come", "flag"),
            "interview_held": Feature("the interview was held", "flag"),
            "days_until_due": Feature("days until the check-in falls due"),
        },
        {},
    ),
    "office": Block(
        {
            "due_at_office": Feature("check-ins due at the office that day"),
            "office_checkins_{days}": Feature(
                "check-ins of the office that fell due and are told of within {days} days"
            ),
            "office_procedural_{days}": Feature(
                "share of the office's check-ins within {days} days that were closed for want of "
                "paperwork",
                "share",
            ),
        },
        {},
        windows=(120,),
    ),
    "history": Block(
        {
            "earlier_checkins": Feature("earlier check-ins on file"),
            "earlier_procedural": Feature("earlier closures for want of paperwork"),
            "share_procedural": Feature(
                "share of earlier check-ins closed for want of paperwork", "share"
            ),
            "last_procedural": Feature("closed for want of paperwork the last time", "flag"),
            "last_days_to_respond": Feature("days from mailing to the form the last time"),
            "mean_days_to_respond": Feature("days from mailing to the form, on average"),
            "earlier_agency_delays": Feature("earlier delays by the agency"),
            "earlier_returns": Feature("earlier closures after which benefits came back"),
            "days_since_procedural": Feature("days since the last closure for want of paperwork"),
            "procedural_{days}": Feature("closures for want of paperwork within {days} days"),
        },
        {CHECKINS: frozenset({"reinstated_on"})},
        windows=(365,),
    ),
    "case": Block(
        {
            "tenure_days": Feature("days on SNAP without a break"),
            "certified_days": Feature("days since the certification began"),
            "is_elder_disabled_certification": Feature("certified for 36 months", "flag"),
            "is_interim_certification": Feature(
                "certified for 12 months with an interim report", "flag"
            ),
            "household_size": Feature("people in the household"),
            "children_under_18": Feature("children under 18"),
            "children_under_6": Feature("children under 6"),
            "elder_or_disabled": Feature("an elder or disabled household", "flag"),
            "language_not_english": Feature("the household's language is not English", "flag"),
            "by_paper": Feature("reaches the agency on paper", "flag"),
            "by_phone": Feature("reaches the agency by phone", "flag"),
            "by_office": Feature("reaches the agency at the office", "flag"),
            "text_consent": Feature("can be reminded by text", "flag"),
            "earned_income": Feature("monthly earnings in dollars"),
            "unearned_income": Feature("monthly income beside work in dollars"),
            "shelter_cost": Feature("monthly cost of shelter in dollars"),
            "benefit_amount": Feature("monthly benefit in dollars"),
            "earnings_volatility": Feature(
                "spread of earnings over six months, by their mean", "share"
            ),
            "earnings_change": Feature("earnings against their mean over six months", "share"),
            "earnings_trend": Feature("dollars that monthly earnings rise in a month"),
            "benefit_change": Feature("benefit against its mean over six months", "share"),
            "shelter_share": Feature("cost of shelter as a share of income", "share"),
            "household_size_change": Feature("change of the household's size over six months"),
            "moved": Feature("moved within six months", "flag"),
        },
        {
            CASES: frozenset(
                {
                    "zip", "household_size", "children_under_18", "children_under_6",
                    "elder_or_disabled", "language_standard", "certification_type",
                    "certification_start", "channel", "text_consent", "earned_income",
                    "unearned_income", "shelter_cost", "benefit_amount", "opened_on",
                }
            )
        },
    ),
    "household": Block(
        {
            "head_age": Feature("age of the head of household"),
            "head_language_differs": Feature("the head's language is not the case's", "flag"),
            "adults": Feature("adults in the household"),
            "members_left_{days}": Feature("people who left the household within {days} days"),
            "members_new_{days}": Feature(
                "people who were first told of in the household within {days} days"
            ),
        },
        {
            PERSONS: frozenset({"month", "relationship", "birth_year", "language_standard"}),
            CASES: frozenset({"language_standard"}),
        },
        windows=(180,),
    ),
    "contacts": Block(
        {
            "contacts_{days}": Feature("contacts within {days} days"),
            "asked_{days}": Feature(
                "times the household called, came or logged in within {days} days"
            ),
            "calls_{days}": Feature("calls to the agency within {days} days"),
            "logins_{days}": Feature("logins to the portal within {days} days"),
            "visits_{days}": Feature("visits to the office within {days} days"),
            "reminders_{days}": Feature("texts sent within {days} days"),
            "returned_mail_{days}": Feature("letters that came back within {days} days"),
            "checkin_contacts_{days}": Feature("contacts about a check-in within {days} days"),
            "contacts_change_{days}": Feature(
                "contacts within {days} days, less those of as many days before"
            ),
            "days_since_asked": Feature("days since the household called, came or logged in"),
            "days_since_returned_mail": Feature("days since a letter came back"),
        },
        {CONTACTS: frozenset({"contact_on", "contact_kind", "topic"})},
        windows=(30, 90, 180),
    ),
    "card": Block(
        {
            "purchases_{days}": Feature("card purchases within {days} days"),
            "spent_{days}": Feature("dollars spent by card within {days} days"),
            "declined_{days}": Feature("declined cards within {days} days"),
            "inquiries_{days}": Feature("looks at the card's balance within {days} days"),
            "purchases_change_{days}": Feature(
                "card purchases within {days} days, less those of as many days before"
            ),
            "spent_change_{days}": Feature(
                "dollars spent by card within {days} days, less those of as many days before"
            ),
            "days_since_card_use": Feature("days since the card was last used"),
        },
        {CARD: frozenset({"event_on", "event_kind", "amount"})},
        windows=(30, 60, 90),
    ),
    "claims": Block(
        {
            "ui_claims_{days}": Feature("weeks of unemployment claimed within {days} days"),
            "ui_benefits_{days}": Feature(
                "dollars of unemployment benefit for weeks within {days} days"
            ),
            "days_since_claim": Feature("days since the last week of unemployment claimed"),
        },
        {CLAIMS: frozenset({"filed_on", "week_ending", "benefit_amount"}), **_MEMBERS},
        windows=(120, 365),
    ),
    "wages": Block(
        {
            "wages_last_quarter": Feature("wages of the last known quarter in dollars"),
            "wages_change": Feature(
                "wages of the last known quarter against their mean over twenty months", "share"
            ),
            "wages_volatility": Feature(
                "spread of quarterly wages over twenty months, by their mean", "share"
            ),
            "quarters_worked": Feature("quarters with wages within twenty months"),
        },
        {WAGES: frozenset({"quarter", "wages"}), **_MEMBERS},
    ),
}  # fmt: skip

AUDIT = ("race", "ethnicity", "gender", "language", "age_band", "disabled")
# Read to audit a model that is trained, and to order lists that reach groups equally.
AUDIT_COLUMNS: Mapping[str, frozenset[str]] = {
    PERSONS: frozenset(
        {
            "month", "relationship", "birth_year", "language_standard", "gender", "race",
            "ethnicity", "disabled",
        }
    )
}  # fmt: skip
# Whatever the features: who is a row, and the office whose list it is on.
BASE_COLUMNS: Mapping[str, frozenset[str]] = {
    CHECKINS: cohort.COLUMNS,
    CASES: frozenset({"month", OFFICE}),
}


def parted(name: str) -> tuple[str, int]:
    """A feature's name as it stands in its block, and its days (0: it has no window)."""
    stem, _, days = name.rpartition("_")
    windowed = f"{stem}_{{days}}"
    if days.isdigit() and int(days) > 0 and any(windowed in b.features for b in BLOCKS.values()):
        return windowed, int(days)
    return name, 0


def block_of(name: str) -> str | None:
    """The block of a feature, None if there is no such feature."""
    own = parted(name)[0]
    if "{days}" in name:
        return None
    return next((block for block, held in BLOCKS.items() if own in held.features), None)


def feature(name: str) -> Feature:
    """What a feature says, or the flag that it is missing. Raises KeyError for an unknown name."""
    own, days = parted(name)
    for block in BLOCKS.values():
        if own in block.features:
            found = block.features[own]
            return Feature(found.words.format(days=days), found.kind)
    if name.endswith(MISSING):
        return Feature(f"not known: {feature(name.removesuffix(MISSING)).words}", "flag")
    raise KeyError(name)


def names_of(block: str, windows: Sequence[int] = ()) -> tuple[str, ...]:
    """All features of a block, with the block's own windows unless others are given."""
    return tuple(
        name.format(days=days)
        for name in BLOCKS[block].features
        for days in ((windows or BLOCKS[block].windows) if "{days}" in name else (0,))
    )


def columns(names: Iterable[str], *, audit: bool = False) -> dict[str, frozenset[str]]:
    """Columns by table that the features read: what an agreement is asked for."""
    blocks = {block_of(name) for name in names}
    asked = [BASE_COLUMNS, *(b.columns for name, b in BLOCKS.items() if name in blocks)]
    asked += [AUDIT_COLUMNS] if audit else []
    tables = dict.fromkeys(table for each in asked for table in each)
    return {t: frozenset().union(*(each.get(t, ()) for each in asked)) for t in tables}


def audited(name: str) -> str:
    """The column of a group to audit by."""
    return f"_audit_{name}"
