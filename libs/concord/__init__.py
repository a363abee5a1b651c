"""Concord: an integrated data system for a state government on Apache Spark and Delta Lake."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `concord.read` for notebooks. By its name: every part of the package imports this module, and
    # none of them the one that reads.
    if name == "read":
        return import_module("concord.reading").read
    raise AttributeError(f"module 'concord' has no attribute {name!r}")
