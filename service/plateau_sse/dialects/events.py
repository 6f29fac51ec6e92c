"""What a dialect reads of an event, where it needs no more than a look at its bytes.

Invariant: an event is one line of JSON with its `type` first, and a delta is made of
`events.delta_head` and `events.delta_tail`: what is cut out here is valid JSON as it stands.
"""

from __future__ import annotations

from typing import Any

import msgspec

_TEXT = b',"text":'
_CONTINUES = b',"continues":'


def type_of(data: bytes) -> bytes:
    """The event's type."""
    return data[9 : data.index(b'"', 9)]


def text_of(data: bytes) -> bytes:
    """A delta's text, as the JSON string that it is."""
    start = data.index(_TEXT) + len(_TEXT)
    return data[start : -1 if data.endswith(b'"}') else data.rindex(_CONTINUES)]


def decode(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(data)
    return found
