"""The 351 cities and towns of Massachusetts, their people and their ZIP codes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

# First population of each size, largest first. As the Office of Management and Budget parts areas
# into metropolitan and micropolitan ("2020 Standards for Delineating Core Based Statistical Areas",
# 86 FR 37770, 16 July 2021), here by the municipality's own people.
SIZES: Mapping[str, int] = {"50000+": 50_000, "10000-49999": 10_000, "0-9999": 0}


def municipalities() -> list[dict[str, str]]:
    """Rows of municipalities.csv; its leading comment lines name the sources."""
    text = files("concord.towns").joinpath("municipalities.csv").read_text("utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@cache
def sizes_by_zip() -> Mapping[str, str]:
    """ZIP code -> size (SIZES) of its municipality; of one that several share, of the largest.

    25 small towns have no ZIP code of their own: their people count as the neighbour's whose it is.
    """
    found: dict[str, str] = {}
    for town in sorted(municipalities(), key=lambda town: int(town["population"])):
        size = next(name for name, least in SIZES.items() if int(town["population"]) >= least)
        found |= dict.fromkeys(town["zips"].split(), size)
    return found
