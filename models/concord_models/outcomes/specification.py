"""One file of `conf/outcomes` as a typed value: under which agreement, of whom, which outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field as Setting

from concord.agreements.dula import Dula
from concord.errors import UsageError
from concord.settings import Typed, load_folder
from concord.yaml12 import Location
from concord_models.outcomes.estimation import LEAST_CELL
from concord_models.outcomes.panel import BEFORE, COVARIATES, Extent


class People(Typed):
    """Who is a row: ages in years, and the share of comparison people that is read."""

    least_age: int = Setting(ge=16)
    most_age: int = Setting(le=99)
    comparison_share: float = Setting(default=1.0, gt=0, le=1)


class Outcomes(Typed):
    """Quarters after the quarter of entry."""

    earnings_quarters: int = Setting(ge=1, le=20)
    employed_in: tuple[int, ...] = Setting(min_length=1)
    return_within: int = Setting(ge=1, le=20)


class OutcomeStudy(Typed):
    """One outcome study. The version rises with every change that should be noticed."""

    name: str = Setting(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Setting(gt=0)
    title: str
    agreement: str = Setting(pattern=r"^DULA-\d{4}-\d{4}$")
    people: People
    outcomes: Outcomes
    covariates: tuple[str, ...] = Setting(min_length=1)
    least_people: int = Setting(default=LEAST_CELL, ge=LEAST_CELL)

    @property
    def experiment(self) -> str:
        """The name in MLflow: one agreement, one study."""
        return f"{self.agreement}.{self.name}"

    @property
    def extent(self) -> Extent:
        return Extent(
            self.people.least_age,
            self.people.most_age,
            self.outcomes.earnings_quarters,
            self.outcomes.return_within,
            self.people.comparison_share,
        )


def load_studies(conf: Path, dulas: Mapping[str, Dula] | None = None) -> dict[str, OutcomeStudy]:
    """All files of `conf/outcomes`, by name. Raises one ConfigError with all mistakes of all."""
    return load_folder(
        conf / "outcomes", OutcomeStudy, lambda stem, spec: _mistakes(stem, spec, dulas)
    )


def named(studies: Mapping[str, OutcomeStudy], name: str) -> OutcomeStudy:
    """The study of that name. Raises UsageError with the names there are."""
    if name not in studies:
        known = ", ".join(sorted(studies)) or "none"
        raise UsageError(f"there is no outcome study {name!r}; conf/outcomes has {known}")
    return studies[name]


def _mistakes(
    stem: str, spec: OutcomeStudy, dulas: Mapping[str, Dula] | None
) -> Iterator[tuple[Location, str]]:
    if spec.name != stem:
        yield ("name",), f"the file is called {stem}.yaml; use that name"
    if dulas is not None and spec.agreement not in dulas:
        yield ("agreement",), f"no such agreement; conf/agreements has {', '.join(dulas) or 'none'}"
    if spec.people.least_age > spec.people.most_age:
        yield ("people", "least_age"), "is above most_age; swap them"
    for index, quarter in enumerate(spec.outcomes.employed_in):
        if not 1 <= quarter <= spec.outcomes.earnings_quarters:
            last = spec.outcomes.earnings_quarters
            yield ("outcomes", "employed_in", index), f"use a quarter from 1 to {last}"
    for index, name in enumerate(spec.covariates):
        if name not in COVARIATES:
            yield ("covariates", index), f"{name!r} is not known; use {', '.join(COVARIATES)}"
        elif name in spec.covariates[:index]:
            yield ("covariates", index), f"{name!r} stands twice; remove one"
    # Without them the change from the year before would not be what weighting compares.
    for k in range(1, BEFORE + 1):
        if f"earnings_{k}" not in spec.covariates:
            yield (
                ("covariates",),
                f"needs earnings_{k}: the year before entry is always adjusted for",
            )
