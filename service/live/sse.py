"""Frames: events as they go over the wire.

Invariant: LF line ends, `id:`, one `data:` line of JSON; a frame is encoded once and shared by
all readers of its run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

from sse_starlette import ServerSentEvent

from service.store import ids
from service.store.events import is_terminal

# One timer serves all: each second a fifteenth of the readers is pinged and of the runs swept,
# so every reader hears something, and every silent loss is found, within 15 s.
TURNS = 15
next_turn = itertools.cycle(range(TURNS)).__next__

Message = dict[str, Any]


def encode(number: int, data: bytes, *, named: bool = False) -> bytes:
    """One event; `named` adds the `event:` line. A number of 0 goes out without an id."""
    return ServerSentEvent(
        data.decode(),
        id=ids.show(number) if number else None,
        event=type_of(data) if named else None,
        sep="\n",
    ).encode()


def type_of(data: bytes) -> str:
    """The event's type; it stands first in every event."""
    return data[9 : data.index(b'"', 9)].decode()


def retry() -> bytes:
    """1 to 3 s, so that the readers of a worker that goes do not come back in one instant."""
    return ServerSentEvent(retry=random.randint(1000, 3000), sep="\n").encode()


def body(content: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": not last}


PING = body(ServerSentEvent(comment="ping", sep="\n").encode())


class Frame:
    """One event, ready for any number of sockets."""

    __slots__ = ("_named", "data", "message", "number", "terminal")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.terminal = is_terminal(data)
        self.message = body(encode(number, data), last=self.terminal)
        self._named: Message | None = None

    def named(self) -> Message:
        """The same with its `event:` line; most runs have no reader that wants it."""
        if self._named is None:
            self._named = body(encode(self.number, self.data, named=True), last=self.terminal)
        return self._named


def encode_all(entries: Iterable[tuple[int, bytes]], *, named: bool = False) -> bytes:
    return b"".join(encode(number, data, named=named) for number, data in entries)
