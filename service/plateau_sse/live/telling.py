"""What is said of a reading, and how much of it at a time.

Invariant: what is said leads from a reader's position to where the reading ends, behind a
`run.restarted` where that position is void; what has no place on the tape has the number 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from plateau_sse.live.dialect import Dialect, Due, Said, Stand, State
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.tape import Entry, Point, Tape

# What a reader that must catch up is handed at a time: the socket's pace decides the rest.
PIECE_BYTES = 8 * 1024


def items(reading: Reading, states: int) -> list[Entry]:
    """Where it begins anew, its events, and behind the tape of a run that is on what it is
    about now, unless the state of that count has been told."""
    found = list(reading.entries)
    if reading.restarts:
        found.insert(0, restarted(reading, reading.restarts))
    if reading.is_whole and not reading.ended and states < max(0, reading.states):
        if reading.status == "queued":
            found.append(Entry(0, events.queued()))
        elif reading.progress:
            found.append(Entry(0, reading.progress))
    return found


def restarted(reading: Reading, reason: Literal["attempt", "other", "rewound"]) -> Entry:
    attempt, _ = ids.split(reading.head)
    # Before its first attempt a run has no position to go on from.
    number = ids.number(attempt, 0) if attempt else 0
    return Entry(number, events.restarted(max(1, attempt), reason))


class Group(NamedTuple):
    """What goes to a socket at once: what is said, where its reader stands behind it, where it
    ends among the entries, and whether it ends the response. What is `due` stands alone, and is
    not said yet."""

    content: bytes
    stand: Stand
    end: int
    last: bool
    due: Due | None = None


def group(stand: Stand, entries: Sequence[Entry], start: int, tag: bytes) -> Group:
    """Entries from `start` on, one at least, of `PIECE_BYTES` or so. One that is larger stands
    alone, so that its reader's place in it means the same whenever it is made again."""
    content, state, end, last = bytearray(), stand.state, start, False
    while end < len(entries) and not last:
        said = stand.dialect.say(state, *entries[end], tag)
        if end > start and (
            said.due is not None or len(content) + len(said.content) > PIECE_BYTES
        ):
            break
        if said.due is not None:
            return Group(b"", stand.behind(said.state), end + 1, said.last, said.due)
        content += said.content
        state, last = said.state, said.last
        end += 1
    return Group(bytes(content), stand.behind(state), end, last)


def whole(
    dialect: Dialect,
    state: State,
    entries: Sequence[Entry],
    tag: bytes,
    tape: Tape | None = None,
) -> Said:
    """All of them; what is due is said of the `tape` that they are of, and left out without."""
    # What is large is never there twice, nor in many pieces.
    content, last = bytearray(), False
    for number, data in entries:
        state, some, last, due = dialect.say(state, number, data, tag)
        if due is not None and tape is not None:
            points = tape.points if due.points else ()
            some = due.make(bytes(tape.text[due.start : due.end]), points)
        content += some
        if last:
            break
    return Said(state, bytes(content), last)


def behind(
    dialect: Dialect, state: State, attempt: int, points: Sequence[Point], tag: bytes
) -> State:
    """The state behind these points of an attempt, which follow each other and the state."""
    for point in points:
        data = point.data or events.delta_head(point.kind, point.part) + events.delta_tail(
            "", point.continues
        )
        state = dialect.say(state, ids.number(attempt, point.at), data, tag).state
    return state


def lost(stand: Stand) -> bytes:
    """It is in no stream, and a client that comes back learns 404 or 410."""
    end = events.failed("record_lost", "the store lost this run", retryable=True)
    return stand.dialect.say(stand.state, 0, end.data, b"").content


def parting(stand: Stand) -> bytes | None:
    return stand.dialect.parting(stand.state)
