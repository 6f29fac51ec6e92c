"""Cutting text where a reader would.

Invariant: what is cut off begins with a character of its own: an emoji is never torn into its
parts, nor a letter from its accents. Follows the boundaries of Unicode's UAX #29 as far as
emoji, marks, flags and line ends go.
"""

from __future__ import annotations

import unicodedata

_ZWJ = "\u200d"
# A character of more parts than this is no character of any language, but an attack on rows.
PARTS_MOST = 32


def cut(text: str, most: int) -> str:
    """The beginning of `text`, `most` code points at most."""
    if len(text) <= most:
        return text
    end = most
    while end > max(0, most - PARTS_MOST) and _belongs(text, end):
        end -= 1
    return text[: most if _belongs(text, end) else end]


def _belongs(text: str, at: int) -> bool:
    """Whether the code point there is one character with the one before."""
    if at == 0:
        return False
    before, here = text[at - 1], text[at]
    if _extends(here) or before == _ZWJ or (before, here) == ("\r", "\n"):
        return True
    if not (_is_regional(before) and _is_regional(here)):
        return False
    # Two make a flag: it is torn where an odd number stands before.
    start = at
    while start > 0 and _is_regional(text[start - 1]):
        start -= 1
    return (at - start) % 2 == 1


def _extends(char: str) -> bool:
    if char < "\u0300":
        return False
    return (
        char == _ZWJ
        or unicodedata.category(char) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # tags, as in the flag of Scotland
    )


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
