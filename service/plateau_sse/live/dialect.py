"""What the live path asks of a dialect: the form in which a run is told to its reader.

Invariant: a dialect is a pure machine. What it says of an event depends on the state it is in
and on the event alone, so what was made for one reader is right for every other in that state;
and its state depends on nothing but the events before, and of those on nothing but marks and
openings. What it has to say of the text before is read when that is due, and kept by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from plateau_sse.store.runs.tape import Point

# What a dialect has to remember of the events before: never changed, and compared by value.
State = Any


# In what is said it stands for what is the reader's own: JSON never has one.
OWN = b"\0"
# A comment: proxies hear it, and no client hands it over.
PING = b": ping\n"


class Due(NamedTuple):
    """What has to be read before an event can be told: the text of its attempt, from byte
    `start` to byte `end` (None at a run's end: all there is), and where `points` all that has
    happened in it. `make` then says it, of what was read."""

    start: int
    end: int | None
    make: Callable[[bytes, Sequence[Point]], bytes]
    points: bool = False


class Said(NamedTuple):
    """What an event becomes, empty where this dialect has no word for it; the state behind it,
    and whether the response ends with it. With `due` the content is made of that."""

    state: State
    content: bytes
    last: bool
    due: Due | None = None


class Dialect(Protocol):
    """One a dialect and variant (what its reader asked to be told), shared by all who asked for
    the same. `name` is what it is counted under, one of `tally.DIALECTS`; `headers` are those
    of its responses, `start` is the state before everything. What differs from reader to reader
    is a part of the state that one begins with, until it is told, or stands where OWN is.
    `recalls`: some of what is said before a run's end is `due`. `ping` is heard where nothing
    else was for a while."""

    @property
    def name(self) -> str: ...

    @property
    def recalls(self) -> bool: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def ping(self) -> bytes: ...

    @property
    def start(self) -> State: ...

    def __hash__(self) -> int: ...

    def opening(self) -> bytes:
        """What a live response begins with."""

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        """An event of the run whose events have this tag; what has no place on its tape has
        the number 0."""

    def parting(self, state: State) -> bytes | None:
        """What ends a response whose run goes on: the worker leaves, or nothing has come for
        too long. None where its clients take a clean end for the answer's: then the connection
        is closed in the middle of the response."""


class Stand:
    """A dialect and the state in it: where a reader is. One object for all readers who are
    there as far as that is known, so that most are compared by being the same."""

    __slots__ = ("dialect", "state")

    def __init__(self, dialect: Dialect, state: State) -> None:
        self.dialect = dialect
        self.state = state

    def is_at(self, other: Stand) -> bool:
        return self.dialect is other.dialect and self.state == other.state

    def behind(self, state: State) -> Stand:
        """Where its reader is once the dialect has this state."""
        return self if state is self.state else Stand(self.dialect, state)


@lru_cache(64)
def beginning(dialect: Dialect) -> Stand:
    """Where the readers of a dialect begin."""
    return Stand(dialect, dialect.start)
