"""Which records speak about the same person: the linkage engine, and the state's person index.

    from concord.linkage import Model, link, planned

is the engine alone, for records of any kind (docs/linkage.md). Workers import modules of this
package, so a name is fetched when it is first asked for: to compare they need no pydantic and no
Spark.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concord.linkage.engine import Linked, Planned, link, planned
    from concord.linkage.estimate import Fit, Training
    from concord.linkage.model import Model
    from concord.linkage.quality import Agreement, b_cubed, pairwise

__all__ = [
    "Agreement",
    "Fit",
    "Linked",
    "Model",
    "Planned",
    "Training",
    "b_cubed",
    "link",
    "pairwise",
    "planned",
]

# Module -> the names that are taken from it.
_HOMES = {
    "engine": ("Linked", "Planned", "link", "planned"),
    "estimate": ("Fit", "Training"),
    "model": ("Model",),
    "quality": ("Agreement", "b_cubed", "pairwise"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
