"""`conf/person_index.yaml`: a linkage model, and what the state's index needs besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import ClassVar

from pydantic import Field as Setting

from concord.contracts.model import Contract
from concord.lake.run import digest
from concord.linkage.clusters import CLIP
from concord.linkage.limits import Limits
from concord.linkage.model import Mistake, Model, model_mistakes, refuse
from concord.linkage.placeholders import Search
from concord.linkage.review import Review
from concord.linkage.standardise import (
    STANDARD,
    Standards,
    emails_of,
    family_name,
    given_name,
    street_of,
)
from concord.settings import Typed, read_document, validate

FILE = "person_index.yaml"


class Placeholders(Typed):
    """Values that stand for `unknown`: they are no evidence and make no blocking key."""

    given_names: tuple[str, ...] = ()
    family_names: tuple[str, ...] = ()
    birth_dates: tuple[date, ...] = ()
    birth_days: tuple[str, ...] = Setting(
        default=(), description="MM-DD: the year may be right, month and day are not"
    )
    ssns: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    zips: tuple[str, ...] = ()
    streets: tuple[str, ...] = ()
    search: Search = Setting(
        default=Search(), description="those that are on no list, found by who shares them"
    )


class PersonIndex(Model):
    """The whole file."""

    beside: ClassVar[frozenset[str]] = frozenset(
        {
            "churn_limit",
            "data_digest",
            "fitted_on",
            "increment_limit",
            "label_weight",
            "limits",
            "review",
        }
    )

    fitted_on: date | None = Setting(
        default=None, description="business date of the fit; `--estimate --write` says it"
    )
    data_digest: str | None = Setting(
        default=None, description="names the versions of the tables that it was fitted to"
    )
    people: int = Setting(
        gt=1, description="people whom a record may speak about; the prior odds are 1 to this"
    )
    leave_out: tuple[str, ...] = Setting(default=(), description="feeds that are not matched")
    nicknames: bool = True
    sex_codes: dict[str, str] = {}
    placeholders: Placeholders = Placeholders()
    link_weight: float = Setting(description="pairs from here on are in index/links")
    cluster_weight: float = Setting(
        description="groups of records are one person where their pairs weigh so much on average"
    )
    absent_weight: float = Setting(
        description="what a pair counts in such an average that was not compared or not kept"
    )
    label_weight: float = Setting(
        default=1.0,
        ge=0,
        description="as how many pairs each pair that stewards decided on teaches `--estimate`; "
        "0: decisions teach nothing",
    )
    component_limit: int = Setting(
        gt=1, description="records above which a component is parted at heavier links"
    )
    churn_limit: float = Setting(
        default=0.05,
        ge=0,
        le=1,
        description="share of the records that may change from one person to another in a run",
    )
    increment_limit: float = Setting(
        default=0.1,
        ge=0,
        le=1,
        description="share of the records above which, if so many changed, all are compared anew",
    )
    limits: Limits = Limits()
    review: Review = Review()

    @property
    def asks(self) -> str:
        """A digest of what pairs are made and which levels they can be on, whatever they weigh."""
        said = self.model_dump(
            mode="json",
            include={"blocking", "pair_budget", "nicknames", "sex_codes", "placeholders"},
        )
        levels = {
            name: comparison.model_dump(
                mode="json",
                exclude={"fixed_u": True, "levels": {"__all__": {"m", "u"}}},
            )
            for name, comparison in self.comparisons.items()
        }
        return digest(said, levels, list(self.comparisons))

    @property
    def standards(self) -> Standards:
        """The placeholders in standard form."""
        bare, of = Standards(), self.placeholders
        return Standards(
            given=frozenset(given_name(name, bare) or "" for name in of.given_names),
            family=frozenset(family_name(name, bare) or "" for name in of.family_names),
            birth_dates=frozenset(day.isoformat() for day in of.birth_dates),
            birth_days=frozenset(of.birth_days),
            ssns=frozenset(of.ssns),
            phones=frozenset(of.phones),
            emails=frozenset(emails_of(of.emails, bare)),
            zips=frozenset(of.zips),
            streets=frozenset(street_of(line, bare) or "" for line in of.streets),
            sex=tuple((code.upper(), sex) for code, sex in self.sex_codes.items()),
            nicknames=self.nicknames,
        )


def load_person_index(path: Path, contracts: Mapping[str, Contract] | None = None) -> PersonIndex:
    """Read and check the file. Raises ConfigError (exit 10) with every mistake and its line."""
    document = read_document(path)
    model = validate(document, PersonIndex)
    mistakes = [*model_mistakes(model), *_index_mistakes(model, contracts)]
    # Which columns it reads can be told once it is right.
    refuse(document, mistakes or _unknown_columns(model))
    return model


def _index_mistakes(
    model: PersonIndex, contracts: Mapping[str, Contract] | None
) -> Iterator[Mistake]:
    for place, feed in enumerate(model.leave_out):
        if contracts is not None and feed not in contracts:
            yield ("leave_out", place), f"no contract {feed!r} in conf/feeds; remove it"
    for name, comparison in model.comparisons.items():
        if not any(level.known for level in comparison.levels.values()):
            yield (
                ("comparisons", name),
                "has no m and u; fit them with `concord index --estimate`",
            )
    for place, day in enumerate(model.placeholders.birth_days):
        try:
            date.fromisoformat(f"2000-{day}")
        except ValueError:
            yield ("placeholders", "birth_days", place), f"{day!r} is no MM-DD"
    for code, sex in model.sex_codes.items():
        if sex not in {"F", "M"}:
            yield ("sex_codes", code), "must be F or M; leave out codes that mean neither"
    if not model.keep_weight <= model.link_weight:
        yield ("link_weight",), "must not be less than keep_weight"
    # clusters.py counts in bits of the odds, of which it takes no more than CLIP for a link.
    odds = model.cluster_weight + model.prior_bits
    if not -CLIP <= model.absent_weight + model.prior_bits < odds <= CLIP:
        yield (
            ("cluster_weight",),
            f"must be more than absent_weight, and both within {CLIP:g} bits of even odds, which "
            f"are at {-model.prior_bits:.1f}",
        )


def _unknown_columns(model: PersonIndex) -> Iterator[Mistake]:
    unknown = [column for column in model.columns if column not in STANDARD]
    if unknown:
        told = f"reads {', '.join(unknown)}; standardised records have {', '.join(STANDARD)}"
        yield ("blocking",), told
