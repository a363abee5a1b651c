"""Children without a name: what is read of what hospitals call them, and whom they link to."""

from __future__ import annotations

from datetime import date
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from concord.linkage.clusters import clusters
from concord.linkage.compare import patterns
from concord.linkage.patterns import Floats, Integers
from concord.linkage.person_index import load_person_index
from concord.linkage.standardise import ORIGIN, SOURCES, standardise
from concord.linkage.values import PairedRows, Records
from tests.conftest import ROOT

MODEL = load_person_index(ROOT / "conf" / "person_index.yaml")
LIST = pa.list_(pa.string())
KINDS = {"birth_date": pa.date32(), "phones": LIST, "emails": LIST}


def standard(*rows: dict[str, Any]) -> pa.Table:
    names = [*ORIGIN, *SOURCES]
    base = {"feed": "f", "role": "child"}
    whole = [{**base, "record_id": f"r{n}", **row} for n, row in enumerate(rows)]
    return standardise(
        pa.table(
            {n: pa.array([r.get(n) for r in whole], KINDS.get(n, pa.string())) for n in names}
        ),
        MODEL.standards,
    )


@pytest.mark.parametrize(
    ("written", "sex", "order"),
    [
        ({"given_name": "BABY BOY"}, "M", None),
        ({"given_name": "Baby Girl", "sex": "M"}, "M", None),
        ({"given_name": "BabyBoy"}, "M", None),
        ({"given_name": "BABY BOY SMITH"}, "M", None),
        ({"given_name": "BABY GIRL OF ANN"}, "F", None),
        ({"given_name": "NEWBORN"}, None, None),
        ({"given_name": "Infant Female"}, "F", None),
        ({"given_name": "NEWBORN M"}, "M", None),
        ({"given_name": "Baby Boy A"}, "M", "A"),
        ({"given_name": "BABYGIRL 2"}, "F", "B"),
        ({"given_name": "TWIN B"}, None, "B"),
        ({"given_name": "Baby Smith"}, None, None),
        ({"given_name": "BB SMITH"}, "M", None),
        ({"given_name": "BG"}, "F", None),
        ({"given_name": "Wendysgirl"}, "F", None),
        ({"given_name": "2Judy'sgirl"}, "F", "B"),
        ({"given_name": "BABY", "middle_name": "BOY A"}, "M", "A"),
        ({"family_name": None, "full_name": "BABY BOY SMITH"}, "M", None),
        ({"family_name": None, "full_name": "BB Smith"}, "M", None),
        ({"family_name": None, "full_name": "Smith, Baby Girl B"}, "F", "B"),
    ],
)
def test_a_newborns_name_says_sex_and_order_and_no_name(
    written: dict[str, Any], sex: str | None, order: str | None
) -> None:
    (row,) = standard({"family_name": "Smith", **written}).to_pylist()
    assert (row["given"], row["given_root"], row["middle"]) == (None, None, None)
    assert (row["sex"], row["birth_order"], row["family"]) == (sex, order, "SMITH")


@pytest.mark.parametrize(
    "written",
    [
        {"given_name": "BABY JANE"},
        {"given_name": "BOY GEORGE"},
        {"given_name": "A BOY"},
        {"given_name": "JAMES"},
        {"given_name": "B"},
        {"full_name": "Ann Boy", "family_name": None},
    ],
)
def test_what_may_be_a_name_stays_one(written: dict[str, Any]) -> None:
    (row,) = standard({"family_name": "Smith", **written}).to_pylist()
    assert row["given"] is not None
    assert (row["sex"], row["birth_order"]) == (None, None)


def persons(*rows: dict[str, Any]) -> list[int]:
    """Clusters of children of one family and day, all pairs compared."""
    base = {"family_name": "Smith", "birth_date": date(2025, 3, 4), "zip": "02139"}
    base |= {"phones": ["6175550123"], "sex": "M"}
    table = standard(*({**base, **row} for row in rows))
    records = Records(pa.table({n: table[n].cast(pa.string()) for n in MODEL.columns}))
    left, right = np.triu_indices(len(rows), 1)
    weight = MODEL.weights.of(patterns(MODEL.compiled, PairedRows(records, left, right)))
    return clustered(len(rows), left, right, weight + MODEL.prior_bits)


def clustered(records: int, left: Integers, right: Integers, bits: Floats) -> list[int]:
    """By the committed thresholds; `bits`: log2 of the odds of each pair."""
    threshold, absent = (
        weight + MODEL.prior_bits for weight in (MODEL.cluster_weight, MODEL.absent_weight)
    )
    found = clusters(records, left, right, bits, threshold=threshold, absent=absent, limit=100)
    return found.of.tolist()


def test_a_missing_pair_parts_nobody_and_a_false_link_joins_no_families() -> None:
    """Of three and three whose own links have 5 bits one may change sides."""
    assert clustered(3, np.array([0, 1]), np.array([1, 2]), np.array([9.0, 9.0])) == [0, 0, 0]
    own = [(*pair, 5.0) for family in ((0, 1, 2), (3, 4, 5)) for pair in combinations(family, 2)]
    left, right, bits = map(np.array, zip(*own, (2, 3, 20.0), strict=True))
    assert len({*clustered(6, left, right, bits)}) == 2


BOY, JAMES, JOHN = ({"given_name": name} for name in ("Baby Boy", "James", "John"))
A, B = ({"given_name": f"Baby Boy {letter}"} for letter in "AB")


def test_a_child_without_a_name_is_found_by_family_day_and_household() -> None:
    assert persons(BOY, JAMES) == [0, 0]
    assert persons(BOY, BOY, JAMES) == [0, 0, 0]
    assert persons(A, A) == [0, 0]
    moved = {"phones": [], "zip": "01002"}
    assert persons(BOY, {**JAMES, **moved}) == [0, 1]
    assert persons(BOY, {**JAMES, "phones": [], "zip": None}) == [0, 1]
    assert persons({**BOY, "ssn": "212345678"}, {**JAMES, **moved, "ssn": "212345678"}) == [0, 0]
    assert persons(BOY, {**JAMES, "sex": None}) == [0, 0]
    assert persons(BOY, {**JAMES, "family_name": "Lee", "birth_date": date(2025, 3, 9)}) == [0, 1]


def test_twins_stay_two() -> None:
    assert persons(A, B) == [0, 1]
    assert persons(JAMES, JOHN) == [0, 1]
    assert len({*persons(JAMES, JOHN, BOY)[:2]}) == 2
    assert persons(A, B, A, B) == [0, 1, 0, 1]
    # Which of the two became James nobody says.
    assert persons(A, JAMES, B, JOHN) == [0, 1, 2, 3]
