"""What stands in for values that are not known, and flags that say so. Learnt once, on rows of a
training slice; what was learnt is a value that a scorer carries along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from concord.settings import Typed

Floats = NDArray[np.float64]
How = Literal["missing", "mean", "median", "zero", "constant"]
MISSING = "_missing"


class Fill(Typed):
    """`missing`: left as it is; trees then choose a side, a logistic regression takes the mean.
    `flag`: a column `<feature>_missing` besides, 1 where the value is not known."""

    how: How
    value: float | None = None
    flag: bool = False

    @model_validator(mode="after")
    def _constant_has_its_value(self) -> Self:
        if (self.how == "constant") != (self.value is not None):
            raise ValueError("a constant needs `value: <number>`, and nothing else has one")
        return self


@dataclass(frozen=True)
class Imputation:
    """Values by feature that take the place of unknown ones, and the features that have a flag."""

    fills: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def inputs(self, features: Sequence[str]) -> tuple[str, ...]:
        """A model's columns: the features, then the flags."""
        return (*features, *(f"{name}{MISSING}" for name in features if name in self.flags))

    def __call__(self, rows: Floats, features: Sequence[str]) -> Floats:
        """Rows of features (NaN where unknown) as rows of `inputs`."""
        unknown = np.isnan(rows)
        values = np.array([self.fills.get(name, np.nan) for name in features])
        flagged = [place for place, name in enumerate(features) if name in self.flags]
        return np.column_stack(
            [np.where(unknown, values, rows), unknown[:, flagged].astype(np.float64)]
        )

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Imputation:
        """From what a scorer's file holds."""
        return cls(dict(told["fills"]), tuple(told["flags"]))


def learnt(rows: Floats, features: Sequence[str], fills: Mapping[str, Fill]) -> Imputation:
    """From rows of a training slice. A feature that none of them knows has no mean: 0."""
    found = {}
    for place, name in enumerate(features):
        fill = fills.get(name)
        if fill is None or fill.how == "missing":
            continue
        known = rows[:, place][~np.isnan(rows[:, place])]
        if fill.how in ("mean", "median"):
            middle = np.mean if fill.how == "mean" else np.median
            found[name] = float(middle(known)) if len(known) else 0.0
        else:
            found[name] = fill.value or 0.0
    return Imputation(found, tuple(n for n in features if n in fills and fills[n].flag))
