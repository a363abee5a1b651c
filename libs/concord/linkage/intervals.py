"""Shares and their intervals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of the standard normal distribution: 95 % lie within so many standard deviations.
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Share:
    """`part` of `whole`, and what that says of the share behind it.

    The interval is Wilson's of 95 % (Journal of the American Statistical Association 22, 1927):
    unlike the textbook's it stays within 0 and 1, and holds for few and for nearly all. It takes
    what it counts for independent; pairs of one person are not, so it is somewhat too narrow.
    """

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """None of nothing."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper; 0 and 1 of nothing."""
        if not self.whole:
            return 0.0, 1.0
        n, p, z = self.whole, self.part / self.whole, NORMAL_95
        middle = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        below = 1 + z * z / n
        # At the ends Wilson's bounds are exact; floating point is not.
        lower = 0.0 if self.part == 0 else (middle - spread) / below
        upper = 1.0 if self.part == n else (middle + spread) / below
        return lower, upper
