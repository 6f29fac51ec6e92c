"""Whether a series is level: the straight line through it, and how sure its slope is.

Invariant: samples that resemble their neighbours count as the little that they tell. The line
is drawn by ordinary least squares through the means of `BLOCKS` equal blocks of the series,
whose residuals are nearly independent where those of the samples are not; what neighbours still
have in common widens the interval. Over noise whose memory is a twelfth of the series (a block)
it covers the true slope nine times in ten, over noise without memory as it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

BLOCKS = 12
# Student's t, two-sided at 95 %, for BLOCKS - 2 degrees of freedom.
T_95 = 2.228


class Trend(NamedTuple):
    """The line `start + slope * x`; `margin` is half of the slope's 95 % interval, `span` how
    far the series reaches. In the units of the series."""

    start: float
    slope: float
    margin: float
    span: float

    @property
    def growth(self) -> float:
        """Over the whole series, by the line."""
        return self.slope * self.span

    @property
    def growth_most(self) -> float:
        """By the upper end of the interval."""
        return (self.slope + self.margin) * self.span

    def at(self, x: float) -> float:
        return self.start + self.slope * x


def trend_of(xs: Sequence[float], ys: Sequence[float]) -> Trend:
    """Of samples in order, about equally far apart; ValueError where a block would be empty."""
    if len(xs) < BLOCKS:
        raise ValueError(f"{len(xs)} samples tell no trend; {BLOCKS} at least do")
    bounds = [len(xs) * block // BLOCKS for block in range(BLOCKS + 1)]
    blocks = [slice(first, last) for first, last in pairwise(bounds)]
    x, y = ([mean(series[block]) for block in blocks] for series in (xs, ys))
    centre, level = mean(x), mean(y)
    spread = sum((one - centre) ** 2 for one in x)
    slope = sum((a - centre) * (b - level) for a, b in zip(x, y, strict=True)) / spread
    residuals = [b - level - slope * (a - centre) for a, b in zip(x, y, strict=True)]
    squares = sum(one**2 for one in residuals)
    error = math.sqrt(squares / (BLOCKS - 2) / spread) * _widening(residuals)
    return Trend(level - slope * centre, slope, T_95 * error, xs[-1] - xs[0])


def _widening(residuals: Sequence[float]) -> float:
    """sqrt((1 + r) / (1 - r)), by which neighbours that resemble each other with a correlation
    of r widen an interval; never below 1. A line fitted through so few takes about 3 / BLOCKS
    off r, which is put back."""
    squares = sum(one**2 for one in residuals)
    if not squares:
        return 1.0
    shared = sum(a * b for a, b in pairwise(residuals)) / squares
    shared = min(0.9, max(0.0, shared + 3 / len(residuals)))
    return math.sqrt((1 + shared) / (1 - shared))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
