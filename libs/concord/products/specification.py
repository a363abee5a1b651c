"""A product's definition, from its file in `conf/products`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field as Setting
from pydantic import model_validator

from concord.agreements.dula import Dula
from concord.disclosure.profiles import Profile
from concord.settings import Typed, load_folder
from concord.yaml12 import Location

REGIONS = 8  # more would leave most counts of a quarter below any profile's minimum


class Product(Typed):
    """What is counted, by what, under which agreement.

    `measures` names the population's measures that are released, each in words. The disclosure
    profile is the agreement's.
    """

    id: str = Setting(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    agreement: str
    population: Literal["snap_checkins"]
    classification: Literal["public", "internal"]
    measures: dict[Literal["checkins", "closed", "churned"], str]
    certification_types: dict[str, tuple[str, ...]] = Setting(
        min_length=1, description="group to the agency's codes; a rare type alone would be hidden"
    )
    regions: dict[str, tuple[str, ...]] = Setting(
        min_length=2, max_length=REGIONS, description="region to local offices"
    )

    @model_validator(mode="after")
    def _codes_once(self) -> Product:
        for name in ("certification_types", "regions"):
            codes = [code for group in getattr(self, name).values() for code in group]
            twice = sorted({code for code in codes if codes.count(code) > 1})
            if twice:
                raise ValueError(
                    f"{name}: {', '.join(twice)} stands in two groups; leave it in one"
                )
        return self

    @property
    def table(self) -> str:
        return f"products/{self.id}"


def load_products(
    conf: Path,
    dulas: Mapping[str, Dula] | None = None,
    profiles: Mapping[str, Profile] | None = None,
) -> dict[str, Product]:
    """All products by id, checked against agreements and profiles when given.

    Raises one ConfigError with all mistakes of all files.
    """
    return load_folder(
        conf / "products", Product, lambda stem, product: _mistakes(stem, product, dulas, profiles)
    )


def _mistakes(
    stem: str,
    product: Product,
    dulas: Mapping[str, Dula] | None,
    profiles: Mapping[str, Profile] | None,
) -> list[tuple[Location, str]]:
    found: list[tuple[Location, str]] = []
    if product.id != stem:
        found.append((("id",), f"must equal the file's name, {stem!r}; rename one of them"))
    if dulas is None:
        return found
    dula = dulas.get(product.agreement)
    if dula is None:
        known = ", ".join(sorted(dulas)) or "none"
        found.append(
            (("agreement",), f"there is no {product.agreement!r} in conf/agreements, only {known}")
        )
    elif profiles is not None and dula.disclosure.profile not in profiles:
        message = (
            f"{dula.id} wants the disclosure profile {dula.disclosure.profile!r}, which "
            f"conf/disclosure.yaml lacks; it has {', '.join(sorted(profiles))}"
        )
        found.append((("agreement",), message))
    return found
