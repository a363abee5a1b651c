"""Does a feature know what could not be known? Three tests, and what they found by name.

- `changed`: everything that became known after a day is changed, taken away or added to, and no
  feature of any row as of that day or before may be another.
- `alone`: one feature that tells the label nearly by itself is taken for the label in disguise.
- `shuffled`: labels are permuted among the rows of one as-of day; a model that still finds them in
  the next slice has seen them.

`changed` sees what comes by a table's later rows. It can not see a day in `_known_on` that is
wrong, nor a row that was overwritten in place: that is what `alone` is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DataType, DateType, NumericType
from sklearn.metrics import roc_auc_score

from concord.errors import UsageError
from concord.studies.tables import KNOWN_ON
from concord_models.churn.cohort import AS_OF, KEY
from concord_models.evaluation import Floats, Ints

How = Literal["changes with what is known later", "tells the label alone", "shuffled labels"]
# A model that no label was given finds them no better than by chance: within four standard errors.
STANDARD_ERRORS = 4.0
ROWS = "(rows)"
MODEL = "(model)"
_OTHER = "|later"


@dataclass(frozen=True)
class Leak:
    """`value`: the share of rows that changed, or the AUC. `feature` is `(rows)` where rows came or
    went, `(model)` where all features together are meant."""

    feature: str
    how: How
    value: float


def told(leaks: Sequence[Leak]) -> list[dict[str, Any]]:
    """As JSON values."""
    return [asdict(leak) for leak in leaks]


def refuse(name: str, leaks: Sequence[Leak]) -> None:
    """Raises UsageError that names the features, if there is a leak."""
    if leaks:
        found = "; ".join(f"{leak.feature} {leak.how} ({leak.value:.3f})" for leak in leaks)
        raise UsageError(
            f"{name}: features leak: {found}; leave them out of the model's file, or correct what "
            "they read, before a model learns from them"
        )


# --- what became known later ---------------------------------------------------------------------


def changed(
    features_of: Callable[[Mapping[str, DataFrame]], DataFrame],
    tables: Mapping[str, DataFrame],
    day: date,
    names: Sequence[str],
    *,
    apart: Sequence[str] = ("office",),
) -> list[Leak]:
    """Features, of rows as of `day` or before, that differ when what is known later is another.

    `features_of` makes rows (study_case_id, due_on, as_of, features) of tables with KNOWN_ON. The
    tables as they are and as they could have gone on stand in them side by side, with other ids,
    so that all is one query; values of `apart` tell the two from each other too, for features that
    look over many cases. Rows without a counterpart are told of as ROWS.
    """
    both = {name: _side_by_side(table, day, apart).cache() for name, table in tables.items()}
    try:
        made = features_of(both).where(F.col(AS_OF) <= F.lit(day))
        rows = made.select(*KEY, AS_OF, *names).toPandas()
    finally:
        for table in both.values():
            table.unpersist()
    later = rows[KEY[0]].str.endswith(_OTHER).to_numpy(dtype=bool)
    rows[KEY[0]] = rows[KEY[0]].str.removesuffix(_OTHER)
    first, second = (rows[side].set_index([*KEY, AS_OF]) for side in (~later, later))
    shared = first.index.intersection(second.index)
    count = max(len(first), 1)
    lonely = len(first) + len(second) - 2 * len(shared)
    found = [Leak(ROWS, "changes with what is known later", lonely / count)] if lonely else []
    for name in names:
        before, after = (side.loc[shared, name].to_numpy(dtype=float) for side in (first, second))
        differ = ~((before == after) | (np.isnan(before) & np.isnan(after)))
        if differ.any():
            share = float(differ.sum() / count)
            found.append(Leak(name, "changes with what is known later", share))
    return found


def _side_by_side(table: DataFrame, day: date, apart: Sequence[str]) -> DataFrame:
    other = altered(table, day)
    named = [n for n in table.columns if n.startswith("study_") or n in apart]
    other = other.withColumns({name: F.concat(name, F.lit(_OTHER)) for name in named})
    return table.unionByName(other).coalesce(1)


def altered(table: DataFrame, day: date) -> DataFrame:
    """The table as it could also have gone on after `day`: of the rows known later every third is
    gone, all have other values, and each is there once more as news of long before.

    What was known by `day` stays, and so do the keys (`study_...`), so that the changed rows are of
    the same cases and people.
    """
    later = F.col(KNOWN_ON) > F.lit(day)
    own = [field for field in table.schema if not field.name.startswith(("study_", "_"))]
    draw = F.xxhash64(*table.columns)
    # Values of another of the later rows: they are of the kinds that such values have.
    order = Window.partitionBy(F.lit(0)).orderBy("_draw")
    drawn = table.where(later).withColumn("_draw", draw)
    others = {field.name: _other(F.lead(field.name).over(order), field.name, field.dataType)
              for field in own}  # fmt: skip
    mixed = drawn.withColumns(others)
    news = mixed.withColumns(
        {f.name: F.date_sub(f.name, 200) for f in own if isinstance(f.dataType, DateType)}
    )
    kept = mixed.where(F.pmod("_draw", F.lit(3)) != 0)
    whole = table.where(~later | F.col(KNOWN_ON).isNull())
    for rows in (kept, news):
        whole = whole.unionByName(rows.drop("_draw"))
    return whole


def _other(value: Column, name: str, kind: DataType) -> Column:
    """Another value than the column's own, never one that its type does not hold."""
    if isinstance(kind, BooleanType):
        return ~F.coalesce(F.col(name), F.lit(False))
    if isinstance(kind, NumericType):
        return (F.coalesce(value, F.col(name), F.lit(0)) + 1).cast(kind)
    return F.coalesce(value, F.col(name))


# --- labels --------------------------------------------------------------------------------------


def alone(rows: Floats, label: Ints, names: Sequence[str], limit: float) -> list[Leak]:
    """Features whose AUC by themselves, either way round, is above `limit`. What is unknown counts
    as less than all values, then as more: that a value is there at all can be the leak."""
    if not 0 < label.sum() < len(label):
        return []
    found = []
    for place, name in enumerate(names):
        values = rows[:, place]
        known = values[~np.isnan(values)]
        ends = (known.min() - 1, known.max() + 1) if len(known) else (0.0,)
        aucs = [roc_auc_score(label, np.where(np.isnan(values), end, values)) for end in ends]
        best = float(max(max(auc, 1 - auc) for auc in aucs))
        if best > limit:
            found.append(Leak(name, "tells the label alone", best))
    return found


def shuffled(
    train: tuple[Floats, Ints, Sequence[object]],
    held: tuple[Floats, Ints, Sequence[object]],
    seed: int,
) -> list[Leak]:
    """A leak when trees that learnt from permuted labels find those of the rows held out.

    Each of the two: rows of features, labels, and each row's as-of day, within which labels are
    permuted. Chance is an AUC of 0.5 give or take four standard errors of the Mann-Whitney
    statistic.
    """
    draw = np.random.default_rng(seed)
    (rows, label, days), (other_rows, other_label, other_days) = train, held
    label, other_label = permuted(label, days, draw), permuted(other_label, other_days, draw)
    return _found_by_chance(rows, label, other_rows, other_label, seed)


def permuted(label: Ints, days: Sequence[Any], draw: np.random.Generator) -> Ints:
    """Labels in another order within each day: as many of each kind as before."""
    found = label.copy()
    codes = pd.factorize(pd.Series(list(map(str, days))))[0]
    for code in np.unique(codes):
        own = np.flatnonzero(codes == code)
        found[own] = draw.permutation(label[own])
    return found


def _found_by_chance(
    rows: Floats, label: Ints, other: Floats, other_label: Ints, seed: int
) -> list[Leak]:
    ones = int(other_label.sum())
    zeros = len(other_label) - ones
    if not ones or not zeros or not 0 < label.sum() < len(label):
        return []
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 4, "eta": 0.2, "seed": seed, "nthread": 1,
         "verbosity": 0},
        xgboost.DMatrix(rows.astype(np.float32), label),
        num_boost_round=40,
    )  # fmt: skip
    score: NDArray[Any] = booster.predict(xgboost.DMatrix(other.astype(np.float32)))
    auc = float(roc_auc_score(other_label, score))
    error = math.sqrt((ones + zeros + 1) / (12 * ones * zeros))
    if abs(auc - 0.5) <= STANDARD_ERRORS * error:
        return []
    return [Leak(MODEL, "shuffled labels", auc)]
