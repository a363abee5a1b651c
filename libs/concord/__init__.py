"""Concord: an integrated data system for a state government on Apache Spark and Delta Lake."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `concord.read` for notebooks, without Spark for everybody who imports a part of the package.
    if name == "read":
        from concord.reading import read

        return read
    raise AttributeError(f"module 'concord' has no attribute {name!r}")
