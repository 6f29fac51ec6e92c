"""Ids of runs and of events.

Invariant: a run's id begins with its creation time, so that an absent run can be told from an
expired one; event ids order as integers: `number(a, n) < number(a, n + 1) < number(a + 1, 1)`.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from hashlib import blake2b

RUN_ID = re.compile(r"[0-9a-f]{32}")
HIT_ID = re.compile(r"hit-([0-9A-Za-z_-]{24})")
_EVENT_ID = re.compile(r"([1-9][0-9]{0,8})-([1-9][0-9]{0,8})")
# Begins as ours do. Those of other servers are words, or longer numbers, or have more dashes.
_OURS = re.compile(r"(?!0*-)[0-9]{1,9}-(?!0+\Z)[0-9]*[^-]{0,2}")
_SEQ_BITS = 32
_SEQ_MASK = (1 << _SEQ_BITS) - 1


def new_run_id() -> str:
    """48 bits of milliseconds, then 80 random ones, in hexadecimal."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def derived_run_ids(owner: str, key: str, window_s: int) -> tuple[str, str]:
    """The ids that an idempotency key may stand for: in this window of time and in the one
    before. They begin with a window's start, so that they age as other ids do; a repeat within
    `window_s` finds the first run under one of the two."""
    window = int(time.time() // window_s)

    def derived(number: int) -> str:
        text = f"{owner}\n{key}\n{number}".encode()
        digest = blake2b(text, digest_size=10).hexdigest()
        return f"{number * window_s * 1000:012x}{digest}"

    return derived(window), derived(window - 1)


def age_s(run_id: str) -> float:
    """Seconds since the run was created, by the clock of whoever made its id."""
    return time.time() - int(run_id[:12], 16) / 1000


def new_token() -> str:
    """128 random bits, safe in a URL."""
    return secrets.token_urlsafe(16)


def number(attempt: int, seq: int) -> int:
    """An event id as one integer; 0 stands for a position before the first event."""
    return attempt << _SEQ_BITS | seq


def split(event_number: int) -> tuple[int, int]:
    return event_number >> _SEQ_BITS, event_number & _SEQ_MASK


def parse(event_id: str) -> int:
    """`3-14` as a number; ValueError for anything else."""
    match = _EVENT_ID.fullmatch(event_id)
    if match is None:
        raise ValueError(f"not an event id: {event_id[:40]!r}")
    return number(int(match[1]), int(match[2]))


def position(text: str) -> int:
    """What a client says it has seen last, as a number. 0 where that is nothing of ours: stock
    clients send `0`, `null` or `undefined` before the first event, and what another server
    called its events. ValueError for an id of ours that is damaged."""
    text = text.strip()
    if not _OURS.fullmatch(text):
        return 0
    return parse(text)


def show_of(attempt: int, seq: int) -> str:
    return f"{attempt}-{seq}"


def show(event_number: int) -> str:
    return f"{event_number >> _SEQ_BITS}-{event_number & _SEQ_MASK}"


def follows(event_number: int, last: int) -> bool:
    """Whether nothing can be missing between `last` and this event."""
    return event_number == last + 1 or (
        event_number & _SEQ_MASK == 1 and event_number >> _SEQ_BITS > last >> _SEQ_BITS
    )
