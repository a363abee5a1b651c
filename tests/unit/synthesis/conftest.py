"""One generated Commonwealth of 20,000 people for all tests of this folder."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from concord.synthesis import Summary, synthesize
from concord.synthesis.blocks import Block, make_block
from concord.synthesis.people import BLOCK_PEOPLE
from concord.synthesis.periods import Timeline

CONTRACTS = Path(__file__).parents[3] / "conf" / "feeds"
PEOPLE = 20_000


def one_after_the_other(function: Any, items: Any) -> list[Any]:
    return [function(item) for item in items]


@dataclass(frozen=True)
class Commonwealth:
    """A written Commonwealth and ways to read it."""

    out: Path
    summary: Summary

    def truth(self, name: str) -> pa.Table:
        return pq.read_table(self.out / "truth" / name)

    def deliveries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted((self.out / "landing").glob("*/*/manifest.json")):
            yield path.parent, json.loads(path.read_text())

    def files(self, feed: str, table: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        for folder, manifest in self.deliveries():
            for entry in manifest["files"]:
                if manifest["feed"] == feed and entry["table"] == table:
                    yield folder / entry["name"], entry


@pytest.fixture(scope="session")
def commonwealth(tmp_path_factory: pytest.TempPathFactory) -> Commonwealth:
    out = tmp_path_factory.mktemp("commonwealth")
    summary = synthesize(
        out, people=PEOPLE, contracts=CONTRACTS, partitions=1, executor=one_after_the_other
    )
    return Commonwealth(out, summary)


@pytest.fixture(scope="session")
def timeline() -> Timeline:
    return Timeline(dt.date(2024, 1, 1), 18)


@pytest.fixture(scope="session")
def blocks(timeline: Timeline) -> list[Block]:
    """160,000 people in memory, without files: enough for rates of rare things."""
    return [make_block(7, number, BLOCK_PEOPLE, timeline) for number in range(16)]
