"""Increments: what changed is compared with all there is, and all is as if it were made anew."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from concord.lake.session import interpret
from concord.linkage import index as index_of_few
from concord.linkage import pairs, spread, tables
from concord.linkage.model import Comparison
from concord.linkage.person_index import load_person_index
from concord.linkage.placeholders import Search
from tests.archive import FEEDS, Archive
from tests.conftest import ROOT, test_settings

pytestmark = pytest.mark.spark

GIVEN = ("Olivia", "Margaret", "Thomas", "Winston", "Beatrice", "Hector", "Liv", "Maggie")
FAMILY = ("Nakamura", "Oyelaran", "Fitzgerald", "Kowalczyk", "Abernathy", "Nakamora")
# What the two ways must agree on; of quality all but the run's name.
SAME = (
    tables.RECORDS, tables.KEYS, tables.PATTERNS, tables.PAIRS, tables.LINKS, tables.QUALITY,
    tables.REVIEW_QUEUE, tables.LINK_WEIGHTS,
)  # fmt: skip
START = date(2025, 1, 1)


@pytest.fixture(scope="module", autouse=True)
def _interpreted(spark: SparkSession) -> Iterator[None]:
    """A handful of rows: to compile the queries would cost more than to run them. But they are
    compared and written as many are, by several workers."""
    interpret(spark, True)
    with patch.object(index_of_few, "FEW", 0), patch.object(index_of_few, "ONE_FILE", 0):
        yield
    interpret(spark, False)


def exactly(comparison: Comparison, update: Mapping[str, Any]) -> Comparison:
    """Other numbers for those who agree."""
    exact = comparison.levels["exact"].model_copy(update=update)
    return comparison.model_copy(update={"levels": {**comparison.levels, "exact": exact}})


class World:
    """People of a few names, birth dates and homes: many share keys, and the large ones break."""

    def __init__(self, spark: SparkSession, folder: Path, seed: int, *, frequent: bool) -> None:
        model = load_person_index(ROOT / "conf/person_index.yaml")
        counted = {"frequencies": (0.01, 0.3), "m": (0.3, 0.3, 0.209), "u": (0.001, 0.0008, 0.0008)}
        plain = {"frequencies": (), "m": 0.809, "u": 0.0026}
        model = model.model_copy(
            update={
                "comparisons": {
                    **model.comparisons,
                    "given": exactly(model.comparisons["given"], counted if frequent else plain),
                    "family": exactly(model.comparisons["family"], plain),
                },
                "placeholders": model.placeholders.model_copy(update={"search": Search()}),
                "pair_budget": 6,
                "increment_limit": 0.9,
                "churn_limit": 1.0,
                "component_limit": 5,
            }
        )
        self.archive = Archive(spark, test_settings(folder), model)
        self.random = random.Random(seed)
        self.people: dict[str, dict[str, dict[str, Any]]] = {feed: {} for feed in FEEDS}
        self.day = START

    def person(self, name: str) -> dict[str, Any]:
        draw = self.random
        return {
            "id": name,
            "given_name": draw.choice((*GIVEN, *GIVEN[:1] * 8)),
            "family_name": draw.choice(FAMILY),
            "birth_date": date(1980, 3, draw.choice((4, 4, 5, 17))),
            "ssn": draw.choice((None, f"21{draw.randrange(12):02d}56789")),
            "zip": draw.choice(("02139", "02140", None)),
        }

    def change(self, share: float) -> None:
        """Records come, change and go in both feeds; without a share, some go."""
        for people in self.people.values():
            if not share:
                for name in self.random.sample(sorted(people), 6):
                    del people[name]
                continue
            for name in [n for n in people if self.random.random() < share]:
                if self.random.random() < 0.4:
                    del people[name]
                else:
                    people[name] = self.person(name)
            for _ in range(int(len(people) * share)):
                name = f"p{self.random.randrange(10**6)}"
                people[name] = self.person(name)

    def deliver(self, *feeds: str) -> None:
        for feed in feeds:
            self.archive.load(feed, list(self.people[feed].values()))

    def run(self, **how: Any) -> dict[str, int]:
        self.day += timedelta(1)
        return dict(self.archive.index(self.day, run_id=f"r{self.day}", **how).events)

    def common(self) -> set[tuple[str, int, int]]:
        """Common values: part, key, class."""
        rows = self.archive.lake.read(tables.KEYS).where("class IS NOT NULL")
        return {(row["of"], row["key"], row["class"]) for row in rows.collect()}

    def state(self) -> dict[str, list[str]]:
        """All that the last run says, but for what it changed."""
        lake = self.archive.lake
        frames = {table.name: lake.read(table) for table in SAME}
        mine = f"as_of = DATE '{self.day}' AND measure NOT IN ('events', 'id_churn')"
        frames["index/quality"] = frames["index/quality"].where(mine)
        return {
            name: sorted(str(tuple(row)) for row in frame.drop("run_id", "as_of").collect())
            for name, frame in frames.items()
        }


@pytest.mark.parametrize(
    ("by", "frequent"),
    [
        ("workers", True),
        ("driver", False),
        pytest.param("driver", True, marks=pytest.mark.chaos),
    ],
)
def test_an_increment_leaves_what_a_whole_run_does(
    by: str, frequent: bool, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever compares what changed, and whether there are values that count as frequent."""
    if by == "workers":
        monkeypatch.setattr(spread, "HELD", 0)
    world = World(spark, tmp_path, seed=3, frequent=frequent)
    for people in world.people.values():
        for number in range(40):
            people[f"p{number}"] = world.person(f"p{number}")
    world.deliver(*FEEDS)
    assert world.run()["minted"]
    for share, feeds in ((0.15, FEEDS), (0.0, FEEDS[:1])):
        world.change(share)
        world.deliver(*feeds)
        with patch.object(pairs, "compared", side_effect=AssertionError("all were made anew")):
            world.run()
        grown = world.state()
        assert world.run(whole=True) == {}, "a whole run finds other persons"
        whole = world.state()
        for name, rows in whole.items():
            assert grown[name] == rows, name
    if frequent:
        common = world.common()
        assert {number for _, _, number in common} == {1, 2}
        world.people[FEEDS[0]] |= {
            f"n{n}": {**world.person(f"n{n}"), "given_name": "Liv"} for n in range(60)
        }
        world.deliver(FEEDS[0])
        with patch.object(pairs, "compared", side_effect=AssertionError("all were made anew")):
            world.run()
        assert world.common() == common, "as the last whole run found them"
        world.run(whole=True)
        assert world.common() != common
    # A file that is read by row groups and written by them would have more after each run.
    places = Path(world.archive.lake.path(tables.CROSSWALK)).glob("*.parquet")
    assert {pq.ParquetFile(place).num_row_groups for place in places} == {1}
