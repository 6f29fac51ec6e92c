"""Figures in words: units that people read, and no decimals that mean nothing.

Invariant: what is not known is a dash, whatever it would have been counted in.
"""

from __future__ import annotations

MIB = 1024**2
UNKNOWN = "–"


def mib(size: float | None) -> float | None:
    """Of a size in bytes."""
    return None if size is None else size / MIB


def whole(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def tenths(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.1f}"


def brief(number: float | None) -> str:
    return tenths(number) if number and number < 9.95 and number % 1 else whole(number)


def percent(share: float | None) -> str:
    # Never 100 of what is not all.
    return UNKNOWN if share is None else f"{int(share * 100)} %"


def ms(number: float | None) -> str:
    if number is None:
        return UNKNOWN
    return f"{brief(number)} ms" if number < 1000 else f"{brief(number / 1000)} s"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    for most, unit, name in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < most:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds // 86_400):,} d"
