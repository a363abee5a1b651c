"""A synthetic Commonwealth: people whose identity is known, and the files agencies make of them."""

from concord.synthesis.commonwealth import Summary, synthesize
from concord.synthesis.faults import FAULTS, plant

__all__ = ["FAULTS", "Summary", "plant", "synthesize"]
