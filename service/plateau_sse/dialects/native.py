"""Our own: each event as it is, under its id.

Invariant: LF line ends, `id:`, one `data:` line of JSON. What a reader has of it is in the id
alone, so there is no state, and every frame is right for whoever it is next for.
"""

from __future__ import annotations

from collections.abc import Mapping

from plateau_sse.live.dialect import PING, Said, State
from plateau_sse.live.sse import retry
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.events import is_terminal

# No event of a run's: it has no id, and is told to whoever asked for it.
_BEAT = b'{"type":"heartbeat"}'


class Native:
    """`named`: with an `event:` line in each frame; `beats`: a page sees that the connection
    lives, which a comment is not for."""

    name = "native"
    recalls = False
    headers: Mapping[str, str] = {}
    start: State = None

    def __init__(self, *, named: bool = False, beats: bool = False) -> None:
        self._named = named
        self.ping = encode(0, _BEAT, named=named) if beats else PING

    def opening(self) -> bytes:
        return retry()

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        if number and not self._named:
            # As `encode` has it, for what most readers are told most of the time.
            at = number & ids.AT_MASK
            frame = b"id: %b-%d-%d\ndata: %b\n\n" % (tag, number >> ids.AT_BITS, at, data)
        else:
            frame = encode(number, data, tag, self._named)
        return Said(None, frame, is_terminal(data))

    def parting(self, state: State) -> bytes:
        return retry()


def encode(number: int, data: bytes, tag: bytes = b"", named: bool = False) -> bytes:
    """One event; `named` adds the `event:` line. A number of 0 goes out without an id, which is
    the run's `tag` and the position. `data` is one line: then this is what ServerSentEvent
    makes of it, at a tenth of its cost."""
    name = b"event: %b\n" % _type_of(data) if named else b""
    if not number:
        return b"%bdata: %b\n\n" % (name, data)
    return b"id: %b-%d-%d\n%bdata: %b\n\n" % (tag, *ids.split(number), name, data)


def _type_of(data: bytes) -> bytes:
    """The event's type; it stands first in every event."""
    return data[9 : data.index(b'"', 9)]


# By whether names and heartbeats were asked for.
VARIANTS = {
    (named, beats): Native(named=named, beats=beats)
    for named in (False, True)
    for beats in (False, True)
}


def wanted(query: Mapping[str, str]) -> Native:
    """What a reader asks for in its URL."""
    return VARIANTS[query.get("event_names") == "1", query.get("heartbeat") == "1"]


PLAIN, NAMED = VARIANTS[False, False], VARIANTS[True, False]
