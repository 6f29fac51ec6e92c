"""Ids of runs and of events.

Invariant: a run's id begins with its creation time, so that an absent run can be told from an
expired one; positions order as integers: `number(a, n) < number(a, n + 1) < number(a + 1, 0)`.
An event's id is the tag of its run and the position behind it: `3fa29c-1-500`.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple

RUN_ID = re.compile(r"[0-9a-f]{32}")
HIT_ID = re.compile(r"hit-([0-9A-Za-z_-]{24})")
_EVENT_ID = re.compile(r"(?:([0-9a-f]{6})-)?([1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})")
# Begins as ours do. Those of other servers are words, or longer numbers, or have more dashes.
_OURS = re.compile(r"(?:[0-9a-f]{6}-)?(?!0*-)[0-9]{1,9}-[0-9]*[^-]{0,2}")
AT_BITS = 32
AT_MASK = (1 << AT_BITS) - 1
# Of a run's id, behind its time: they tell its tape from another's.
_TAG = slice(12, 18)


class Seen(NamedTuple):
    """What a client says it has seen: a position as a number, 0 for none, and the tag of the
    run that it belongs to, '' where it was not said."""

    number: int = 0
    tag: str = ""


NOTHING_SEEN = Seen()


def new_run_id() -> str:
    """48 bits of milliseconds, then 80 random ones, in hexadecimal."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def derived_run_ids(owner: str, key: str, window_s: int, now_s: float) -> tuple[str, str, str]:
    """The ids that an idempotency key may stand for: in this window of time, the one before and
    the next, where whoever made it had a clock that was ahead. They begin with a window's
    start, so that they age as other ids do; a repeat within `window_s` finds the first run
    under one of them."""
    window = int(now_s // window_s)

    def derived(number: int) -> str:
        text = f"{owner}\n{key}\n{number}".encode()
        digest = blake2b(text, digest_size=10).hexdigest()
        return f"{number * window_s * 1000:012x}{digest}"

    return derived(window), derived(window - 1), derived(window + 1)


def age_s(run_id: str) -> float:
    """Seconds since the run was created, by the clock of whoever made its id."""
    return time.time() - int(run_id[:12], 16) / 1000


def new_token() -> str:
    """128 random bits, safe in a URL."""
    return secrets.token_urlsafe(16)


def token_of(name: str) -> str:
    """One of `new_token`'s form that belongs to what has this name, also when that is another
    thing than it was."""
    return urlsafe_b64encode(_mark(name) + os.urandom(13)).decode().rstrip("=")


def is_of(token: str, name: str) -> bool:
    """Whether it is one, or was."""
    return len(token) == 22 and token[:4].encode() == urlsafe_b64encode(_mark(name))


def _mark(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=3).digest()


def tag_of(run_id: str) -> str:
    """The characters of a run's id that stand in those of its events."""
    return run_id[_TAG]


def number(attempt: int, at: int) -> int:
    """A position as one integer; 0 stands for the one before everything."""
    return attempt << AT_BITS | at


def split(position: int) -> tuple[int, int]:
    return position >> AT_BITS, position & AT_MASK


def parse(event_id: str) -> Seen:
    """`3fa29c-1-500`, or `1-500`; ValueError for anything else."""
    match = _EVENT_ID.fullmatch(event_id)
    if match is None:
        raise ValueError(f"not an event id: {event_id[:40]!r}")
    return Seen(number(int(match[2]), int(match[3])), match[1] or "")


def seen(text: str) -> Seen:
    """What a client says it has seen last. Nothing where that is none of ours: stock clients
    send `0`, `null` or `undefined` before the first event, and what another server called its
    events. ValueError for an id of ours that is damaged."""
    text = text.strip()
    if not _OURS.fullmatch(text):
        return NOTHING_SEEN
    return parse(text)


def show(position: int) -> str:
    """Without a tag: `1-500`."""
    return f"{position >> AT_BITS}-{position & AT_MASK}"


def of_one_attempt(one: int, other: int) -> bool:
    return (one ^ other) <= AT_MASK


def follows(before: int, head: int) -> bool:
    """Whether nothing can be missing between `head` and an event that begins at `before`: it
    begins there, or a later attempt begins with it."""
    return before == head or (before & AT_MASK == 0 and before >> AT_BITS > head >> AT_BITS)
