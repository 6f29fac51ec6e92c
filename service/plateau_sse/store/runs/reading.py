"""What a reader has not seen yet, as read.lua tells it.

Invariant: whatever the position, what a reading holds leads from there to the run's last event,
and every event in between is in it or counted in its snapshot's `missed`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from plateau_sse.store.runs import events, ids


class Entry(NamedTuple):
    """One event as it stands in the stream."""

    number: int
    data: bytes


class Reading(NamedTuple):
    """What a reader has not seen: either `entries`, or a `snapshot` and what follows it.

    `number` is the id of the run's last event, 0 before the first. `snapshot` is an entry whose
    number is that of the last event in it, 0 where there is none (yet).
    """

    owner: str
    status: str
    number: int
    entries: list[Entry]
    snapshot: Entry | None = None

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")


def reading_of(reply: list[Any], last: int) -> Reading:
    """read.lua's answer to a reader at position `last`, other than `gone` and `denied`."""
    kind, owner, status = reply[0], reply[1].decode(), reply[2].decode()
    number = ids.number(reply[3], reply[4])
    if kind == b"snapshot":
        return _from_snapshot(owner, status, number, last, reply[5:])
    parts = iter(reply[5:])
    entries = [
        Entry(ids.parse(event_id.decode()), data)
        for event_id, data in zip(parts, parts, strict=True)
    ]
    if status == "queued" and not entries:
        return Reading(owner, status, number, [], _queued())
    return Reading(owner, status, number, entries)


def _queued() -> Entry:
    return Entry(0, events.snapshot("queued", "", b"", b"", missed=0))


def _from_snapshot(
    owner: str, status: str, number: int, last: int, folded: list[bytes]
) -> Reading:
    """The state up to the last event, or up to the one before the end: the terminal event
    itself is always delivered as what it is."""
    if status == "queued":
        return Reading(owner, status, number, [], _queued())
    text, progress, tools, end = folded
    attempt, seq = ids.split(number)
    covered = number - 1 if end else number
    entries = [Entry(number, end)] if end else []
    # It ended in the queue. Whoever comes from ahead still holds what has been lost since.
    only_the_end = ids.split(covered)[1] == 0
    if last == covered or (only_the_end and last < number):
        return Reading(owner, status, number, entries)
    seen_attempt, seen = ids.split(last)
    missed = ids.split(covered)[1] - (seen if seen_attempt == attempt and seen < seq else 0)
    data = events.snapshot(status, text.decode(), progress, tools, missed=missed)
    snapshot = Entry(0 if only_the_end else covered, data)
    return Reading(owner, status, number, entries, snapshot)
