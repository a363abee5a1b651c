"""Random numbers that depend on seed, purpose and household block only, never on partitioning."""

from __future__ import annotations

import zlib

import numpy as np

Rng = np.random.Generator


def stream(seed: int, purpose: str, block: int) -> Rng:
    """A counter-based generator (Philox) for one purpose in one household block.

    Every purpose has its own stream, so a feed that is added or dropped changes no other feed.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), block])
    return np.random.Generator(np.random.Philox(key))


def chance(rng: Rng, probability: float | np.ndarray, size: int) -> np.ndarray:
    """Booleans of length `size`, each true with its probability."""
    return rng.random(size) < probability


def choose(rng: Rng, weights: np.ndarray, size: int) -> np.ndarray:
    """Indices drawn with `weights` (shape (k,)), as int64 of length `size`."""
    edges = np.cumsum(weights, dtype=np.float64)
    return np.minimum(np.searchsorted(edges, rng.random(size) * edges[-1], "right"), len(edges) - 1)
