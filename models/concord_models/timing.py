"""Seconds of a job's stages, as its summary tells them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds of a `with` block to a stage, however it ends."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(seconds.get(stage, 0) + time.perf_counter() - began, 1)
