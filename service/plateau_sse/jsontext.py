"""JSON as it leaves this service.

Invariant: what is encoded here is one line to every reader. JSON allows U+2028, U+2029 and
U+0085 in a string, and many line readers (httpx, requests, old JavaScript) take them for line
ends: they are escaped.
"""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """UTF-8; raises what msgspec raises for a value that is no JSON."""
    encoded = _encode(value)
    # To look for three characters costs six times what encoding does.
    if encoded.isascii():
        return encoded
    # Bytes of UTF-8 never stand for a part of another character.
    return (
        encoded.replace(b"\xe2\x80\xa8", rb"\u2028")
        .replace(b"\xe2\x80\xa9", rb"\u2029")
        .replace(b"\xc2\x85", rb"\u0085")
    )


def is_deeper(value: dict[str, Any] | list[Any], levels: int) -> bool:
    """Whether objects and arrays stand within each other to more than `levels`."""
    layer: list[Any] = [value]
    for _ in range(levels):
        layer = [
            member
            for outer in layer
            for member in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(member, dict | list)
        ]
        if not layer:
            return False
    return True
