"""What is said of a reading, and how much of it at a time.

Invariant: what is said leads from a reader's position to where the reading ends, behind a
`run.restarted` where that position is void; what has no place on the tape has the number 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from plateau_sse.live import sse
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.reading import Reading
from plateau_sse.store.runs.tape import Entry

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


def group(entries: Sequence[Entry], start: int) -> tuple[Sequence[Entry], int]:
    """Entries from `start` on, one at least, of `PIECE_BYTES` or so; and where they end."""
    end, size = start, 0
    while end < len(entries) and (end == start or size + len(entries[end].data) <= PIECE_BYTES):
        size += len(entries[end].data)
        end += 1
    return entries[start:end], end


def lost() -> bytes:
    """Without an id: it is in no stream, and a client that comes back learns 404 or 410."""
    end = events.failed("record_lost", "the store lost this run", retryable=True)
    return sse.encode(0, end.data)
