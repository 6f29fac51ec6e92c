"""A snapshot on its way to a socket that does not take it at once.

Invariant: what is sent piece by piece is, byte for byte, the frame as it would be in one piece:
JSON escapes each character by itself, and the text of an attempt only grows.
"""

from __future__ import annotations

import msgspec

from plateau_sse.jsontext import encode
from plateau_sse.live import sse
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.reading import Entry

_TEXT = b'"text":'


class _Told(msgspec.Struct):
    text: str


class LongSnapshot:
    """`before` and `after` are the frame around the escaped text. `text` may be let go of: it
    is the first `size` bytes of what the `attempt` has said."""

    def __init__(self, entry: Entry, *, named: bool) -> None:
        text = msgspec.json.decode(entry.data, type=_Told).text
        frame = sse.encode(entry.number, entry.data, named=named)
        begin = frame.index(_TEXT) + len(_TEXT) + 1
        self.text = text.encode()
        self.before = frame[:begin]
        self.after = frame[begin + len(escaped(self.text)) :]
        self.size = len(self.text)
        self.number = entry.number
        self.attempt, _ = ids.split(entry.number)


def escaped(text: bytes) -> bytes:
    """As it stands between the quotes of a JSON string."""
    return encode(text.decode())[1:-1]


def whole_characters(text: bytes) -> bytes:
    """Without a last character of which only a part is there."""
    return text.decode(errors="ignore").encode()
