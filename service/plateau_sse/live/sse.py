"""Frames: events as they go over the wire, whatever the dialect.

Invariant: a frame is made once a dialect, variant and state, and shared by all readers who are
there. Every block has data: some stock clients hand over a block without it as
an event whose data is empty, and their users' code fails on that. So a `retry:` and a ping are
lines with no blank line behind them: they belong to the block that follows, if one does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

from plateau_sse.live.dialect import OWN, PING, Said, Stand, State
from plateau_sse.store.runs.events import is_terminal

# One timer serves all: each second a fifteenth of the readers is pinged and of the runs swept,
# so every reader hears something, and every silent loss is found, within 15 s.
TURNS = 15
next_turn = itertools.cycle(range(TURNS)).__next__

# A state beyond this goes to sockets that have taken all they were given.
LONG_STATE_BYTES = 8 * 1024

Message = dict[str, Any]


def retry(times: int = 1) -> bytes:
    """1 to 3 s, so that the readers of a worker that goes do not come back in one instant; or
    so many times that."""
    return b"retry: %d\n" % (times * random.randint(1000, 3000))


def body(content: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": not last}


def signed(content: bytes, own: bytes) -> bytes:
    """With what is the reader's own."""
    return content.replace(OWN, own) if own else content


class Told:
    """What a dialect says of an event to whoever stands at `before`, and `then` stands there.
    `chunk` is how it goes over sockets whose response is chunked (RFC 9112, 7.1), which is all
    of uvicorn's; nothing where nothing is said, since a chunk of no bytes ends a response, and
    where some of it is the reader's own. `is_plain`: such a socket is to be written it, and
    nothing else is to be looked at. `due`: it is not said yet. `earlier` is what the same
    frame was made into before, `taken` to how many it has been written."""

    __slots__ = (
        "before",
        "chunk",
        "content",
        "due",
        "earlier",
        "is_plain",
        "last",
        "taken",
        "then",
    )

    def __init__(self, before: Stand, said: Said, is_plain: bool, earlier: Told | None) -> None:
        state, content, last, due = said
        self.before = before
        self.earlier = earlier
        self.then = before if state is before.state else before.behind(state)
        self.last = last
        self.due = due
        self._say(content, is_plain)

    def fill(self, content: bytes) -> None:
        """What was due has been read, and this is said."""
        self.due = None
        self._say(content, True)

    def _say(self, content: bytes, is_plain: bool) -> None:
        self.content = content
        if content and OWN not in content:
            self.chunk = b"%x\r\n%b\r\n" % (len(content), content)
            self.is_plain = is_plain and not self.last
        else:
            self.chunk, self.is_plain = b"", False
        self.taken = 0


class _NoDialect:
    name = ""
    recalls = False
    headers: Mapping[str, str] = {}
    ping = PING
    start: State = None

    def opening(self) -> bytes:
        return b""

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        return Said(None, b"", False)

    def parting(self, state: State) -> None:
        return


_NOTHING = Told(Stand(_NoDialect(), None), Said(None, b"", False), False, None)


class Frame:
    """One event, made ready once a dialect, variant and state for any number of sockets; a
    state of the run has the number 0. `latest` is what was asked for last, which most readers
    are told, too; `tellings` is the last of all that were, each with those `earlier`."""

    __slots__ = ("data", "latest", "number", "tag", "tellings", "terminal")

    def __init__(self, number: int, data: bytes, tag: bytes) -> None:
        self.number = number
        self.data = data
        self.tag = tag
        self.terminal = is_terminal(data)
        self.tellings: Told | None = None
        self.latest = _NOTHING

    @property
    def is_long_state(self) -> bool:
        return not self.number and len(self.data) > LONG_STATE_BYTES

    def told(self, stand: Stand) -> Told:
        # Readers of one dialect who are live stand in one place: there are few to look through.
        told = self.tellings
        while told is not None:
            if told.before is stand or told.before.is_at(stand):
                self.latest = told
                return told
            told = told.earlier
        said = stand.dialect.say(stand.state, self.number, self.data, self.tag)
        is_plain = self.number > 0 or len(self.data) <= LONG_STATE_BYTES
        self.latest = self.tellings = told = Told(stand, said, is_plain, self.tellings)
        return told

    def owing(self) -> list[Told]:
        """What has been asked for, and is due."""
        found, told = [], self.tellings
        while told is not None:
            if told.due is not None:
                found.append(told)
            told = told.earlier
        return found
