"""Frames: events as they go over the wire.

Invariant: LF line ends, `id:`, one `data:` line of JSON; a frame is encoded once and shared by
all readers of its run. Every block has data: some stock clients hand over a block without it as
an event whose data is empty, and their users' code fails on that. So a `retry:` and a ping are
lines with no blank line behind them: they belong to the block that follows, if one does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

from plateau_sse.store.runs import ids
from plateau_sse.store.runs.events import is_terminal

# One timer serves all: each second a fifteenth of the readers is pinged and of the runs swept,
# so every reader hears something, and every silent loss is found, within 15 s.
TURNS = 15
next_turn = itertools.cycle(range(TURNS)).__next__

Message = dict[str, Any]


def encode(number: int, data: bytes, *, tag: bytes = b"", named: bool = False) -> bytes:
    """One event; `named` adds the `event:` line. A number of 0 goes out without an id, which is
    the run's `tag` and the position. `data` is one line: then this is what ServerSentEvent
    makes of it, at a tenth of its cost."""
    event = b"data: %b\n\n" % data
    if named:
        event = b"event: %b\n%b" % (type_of(data), event)
    if number:
        event = b"id: %b-%d-%d\n%b" % (tag, *ids.split(number), event)
    return event


def type_of(data: bytes) -> bytes:
    """The event's type; it stands first in every event."""
    return data[9 : data.index(b'"', 9)]


def retry() -> bytes:
    """1 to 3 s, so that the readers of a worker that goes do not come back in one instant."""
    return b"retry: %d\n" % random.randint(1000, 3000)


def body(content: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": not last}


PING = body(b": ping\n")


class Frame:
    """One event, ready for any number of sockets; a state has the number 0. `chunk` is how it
    goes over those whose response is chunked (RFC 9112, 7.1), which is all of uvicorn's."""

    __slots__ = ("_named", "chunk", "data", "number", "tag", "terminal")

    def __init__(self, number: int, data: bytes, tag: bytes) -> None:
        self.number = number
        self.data = data
        self.tag = tag
        self.terminal = is_terminal(data)
        frame = encode(number, data, tag=tag)
        self.chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        self._named: Message | None = None

    def message(self) -> Message:
        return body(encode(self.number, self.data, tag=self.tag), last=self.terminal)

    def named(self) -> Message:
        """The same with its `event:` line; most runs have no reader that wants it."""
        if self._named is None:
            frame = encode(self.number, self.data, tag=self.tag, named=True)
            self._named = body(frame, last=self.terminal)
        return self._named


def encode_all(
    entries: Iterable[tuple[int, bytes]], *, tag: bytes = b"", named: bool = False
) -> bytes:
    # What is large is never there twice, nor in many pieces.
    content = bytearray()
    for number, data in entries:
        content += encode(number, data, tag=tag, named=named)
    return bytes(content)
