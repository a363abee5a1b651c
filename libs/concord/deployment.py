"""Everything under `conf/`, read once and validated whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from concord.agreements import access_log, events
from concord.agreements.canonical import digest
from concord.agreements.dula import Dula
from concord.agreements.loading import load_dulas
from concord.agreements.mou import Mou, load_mous
from concord.agreements.register import Register
from concord.contracts.model import Contract
from concord.contracts.odcs import load_contracts
from concord.disclosure.profiles import Profile, load_profiles
from concord.errors import ConfigError
from concord.ingest import tables
from concord.lake import run as runs
from concord.lake.registry import Registry
from concord.lake.session import start, stop
from concord.lake.tables import Lake
from concord.linkage import tables as index_tables
from concord.linkage.person_index import FILE as PERSON_INDEX
from concord.linkage.person_index import PersonIndex, load_person_index
from concord.products import job as publishing
from concord.products.specification import Product, load_products
from concord.settings import Settings, gather, load_settings
from concord.studies import tables as study_tables


@dataclass(frozen=True)
class Deployment:
    """Everything under conf/, read once and validated whole."""

    settings: Settings
    contracts: dict[str, Contract]
    mous: dict[str, Mou]
    person_index: PersonIndex
    dulas: dict[str, Dula] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes with any contract, agreement, profile or product."""
        agreements = [digest(each) for each in (*self.mous.values(), *self.dulas.values())]
        releases = [
            each.model_dump(mode="json")
            for each in (*self.profiles.values(), *self.products.values())
        ]
        return runs.digest(self._contracts, agreements, releases)

    @property
    def index_digest(self) -> str:
        """Changes with whatever the person index depends on besides its inputs."""
        mous = {name: digest(mou) for name, mou in self.mous.items()}
        return runs.digest(self._contracts, mous, self.person_index.model_version)

    @property
    def _contracts(self) -> dict[str, Any]:
        return {name: each.model_dump(mode="json") for name, each in self.contracts.items()}

    def register(self, lake: Lake) -> Register:
        """Every agreement with what became of it, by the lake's events."""
        return events.register(lake, self.settings, self.mous, self.dulas)

    @property
    def registry(self) -> Registry:
        """Every table that the deployment declares, those of installed packages too (entry points
        `concord.tables`: functions of the folder conf and the DULAs)."""
        others = [entry.load() for entry in entry_points(group="concord.tables")]
        return Registry(
            [
                *tables.registry(self.contracts.values()),
                access_log.ACCESS_LOG,
                events.AGREEMENT_EVENTS,
                *index_tables.TABLES,
                index_tables.STEWARD_DECISIONS,
                *study_tables.registry(self.dulas.values(), self.contracts),
                *publishing.registry(self.products),
                *(table for declare in others for table in declare(self.settings.conf, self.dulas)),
            ]
        )


def load_deployment(path: Path, **overrides: Any) -> Deployment:
    """Raises ConfigError with every mistake of every file."""
    settings = load_settings(path, overrides)
    errors = []
    contracts: dict[str, Contract] = {}
    mous: dict[str, Mou] = {}
    try:
        contracts = load_contracts(settings.conf / "feeds")
    except ConfigError as error:
        errors.append(error)
    try:
        # Against contracts that failed to load, every clause would look wrong.
        mous = load_mous(settings.conf, contracts if not errors else None)
    except ConfigError as error:
        errors.append(error)
    try:
        known = contracts if contracts else None
        person_index = load_person_index(settings.conf / PERSON_INDEX, known)
    except ConfigError as error:
        errors.append(error)
    dulas: dict[str, Dula] = {}
    try:
        whole = not errors
        dulas = load_dulas(settings.conf, mous if whole else None, contracts if whole else None)
    except ConfigError as error:
        # agencies.yaml is read with the MOUs too: its mistakes are told once.
        told = {problem for other in errors for problem in other.problems}
        errors.append(ConfigError(p for p in error.problems if p not in told))
    profiles: dict[str, Profile] = {}
    products: dict[str, Product] = {}
    try:
        profiles = load_profiles(settings.conf)
        products = load_products(settings.conf, dulas if not errors else None, profiles)
    except ConfigError as error:
        errors.append(error)
    gather(errors)
    return Deployment(settings, contracts, mous, person_index, dulas, profiles, products)


@contextmanager
def opened(command: str, settings: Path, lake: str | None) -> Iterator[tuple[Deployment, Lake]]:
    """A deployment and its lake, for a command that only looks: as long as its session takes."""
    deployment = load_deployment(settings, lake=lake)
    spark = start(deployment.settings, application=f"concord {command}")
    try:
        yield deployment, runs.lake_of(deployment.settings, command, spark)
    finally:
        stop(spark)
