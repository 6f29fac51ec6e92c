"""What a feed keeps of its run, so that who comes back to it asks the store nothing.

Invariant: the entries lead from `start` to `end` without a hole, and take so many bytes; a
position stands for one text for ever, so they are right for whoever has seen one of theirs.
Whoever is given them has a token that the store has known, or is the run's owner.
"""

from __future__ import annotations

from collections import deque

from plateau_sse.live.sse import Frame
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.shares import TOKENS_MOST
from plateau_sse.store.runs.tape import Entry

# Of a feed; less where it has few followers, so that what a reader costs hardly grows.
KEPT_BYTES = 32 * 1024
FOLLOWER_BYTES = 512
ENTRIES_MOST = 128


class Kept:
    """Of a feed with two followers at least. `states` is the count of the latest state, -1
    while nobody knows it; `progress` the latest, which stands behind the tape."""

    __slots__ = (
        "_bytes",
        "_entries",
        "_tokens",
        "end",
        "owner",
        "progress",
        "start",
        "states",
    )

    def __init__(self, token: str) -> None:
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        # `token` is one that the store has known, '' for none.
        self._tokens = {token} if token else set()
        self.owner = ""
        self.start = self.end = -1
        self.states = -1
        self.progress = b""

    def prove(self, token: str, owner: str) -> None:
        """The store has known them."""
        self.owner = owner
        if token and len(self._tokens) < TOKENS_MOST:
            self._tokens.add(token)

    def opens_to(self, token: str, owner: str) -> bool:
        return token in self._tokens if token else bool(owner) and owner == self.owner

    def add(self, before: int, frame: Frame, followers: int) -> None:
        """The next event, which leads from `before`."""
        if ids.split(frame.number)[1] == 0:
            # A new attempt begins, and whoever has seen nothing of it is told so.
            self._begin(frame.number)
            self.states, self.progress = 0, b""
            return
        if before != self.end:
            self._begin(before)
        self._keep(Entry(frame.number, frame.data), min(KEPT_BYTES, FOLLOWER_BYTES * followers))

    def state(self, count: int, progress: bytes) -> None:
        """The latest state has this count; `progress` is empty where it is none."""
        if 0 <= self.states < count:
            self.states = count
            self.progress = progress or self.progress

    def learn(self, position: int, reading: Reading, *, at: int | None, followers: int) -> None:
        """From a reading behind `position` that is whole. Those who are live are `at` a head,
        None where nobody is: what was read up to there from further back is kept, too."""
        if at is not None:
            if reading.states < self.states:
                return
            if reading.head != at or self.start <= position <= self.end:
                if ids.split(reading.head)[0] == ids.split(self.end)[0]:
                    self.states, self.progress = reading.states, reading.progress
                return
        self.states, self.progress = reading.states, reading.progress
        attempt, _ = ids.split(reading.head)
        self._begin(ids.number(attempt, 0) if reading.restarts else position)
        most = KEPT_BYTES if at is None else min(KEPT_BYTES, FOLLOWER_BYTES * followers)
        for entry in reading.entries:
            self._keep(entry, most)
        self.end = reading.reached

    def behind(self, position: int) -> list[Entry] | None:
        """What follows; None where that does not begin at one of its positions."""
        if position == self.end:
            return []
        if position == self.start:
            return list(self._entries)
        found: list[Entry] = []
        for entry in reversed(self._entries):
            if entry.number == position:
                return found[::-1]
            found.append(entry)
        return None

    def _begin(self, position: int) -> None:
        self._entries.clear()
        self._bytes = 0
        self.start = self.end = position

    def _keep(self, entry: Entry, most: int) -> None:
        self._entries.append(entry)
        self._bytes += len(entry.data)
        self.end = entry.number
        while self._bytes > most or len(self._entries) > ENTRIES_MOST:
            first = self._entries.popleft()
            self._bytes -= len(first.data)
            self.start = first.number
