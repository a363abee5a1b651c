"""How good the index must be to come into force: `limits` of conf/person_index.yaml.

`concord.linkage.report.breaches` judges by them.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field as Setting
from pydantic import model_validator

from concord.settings import Typed


class Bound(Typed):
    """What a measure must be, of the whole index."""

    at_least: float | None = None
    at_most: float | None = None
    required: bool = Setting(
        default=False,
        description="whether a run that cannot measure it (no SSNs, fewer than 11 pairs) breaks it",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("says no limit; add at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is more than at_most: nothing can meet it")
        return self

    @property
    def words(self) -> str:
        ends = ((self.at_least, "at least"), (self.at_most, "at most"))
        return " and ".join(f"{said} {number:g}" for number, said in ends if number is not None)


class Limits(Typed):
    """A run that breaks one leaves the index as it was (exit 12). Without a bound a measure is told
    and not judged. All are shares but the last four, which are counts."""

    holdout_precision: Bound | None = None
    holdout_recall: Bound | None = None
    holdout_recall_in_reach: Bound | None = None
    blocking_recall: Bound | None = None
    expected_precision: Bound | None = None
    unlinkable: Bound | None = None
    id_churn: Bound | None = None
    persons: Bound | None = None
    largest_person: Bound | None = None
    components_too_large: Bound | None = None
    pairs_refused: Bound | None = None

    @property
    def bounds(self) -> dict[str, Bound]:
        """Measure -> bound, of those that there are."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: bound for name, bound in named if bound is not None}
