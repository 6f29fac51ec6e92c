"""append.lua, the one writer of a run: what it takes and what it answers.

Invariant: whoever writes to a run, from a loop or from a thread, does it through this script
and these arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from redis import Redis as BlockingRedis

from plateau_sse.errors import StoreFull
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.runs.events import Event

# The script puts the server's time there.
NOW = ""
ENDED = ("ended_ms", NOW)

# A late reader needs only the tape, so the entries go early.
ENDED_EVENTS_LIFE_S = 60
# Record and entries of one in which nothing was said: an empty stream takes 4 KiB.
BRIEF_LIVES_S = (60, 10)

_BODY = files("plateau_sse.store.runs").joinpath("append.lua").read_text("utf-8")
# Refused when memory is full; and the one that may write a little all the same.
SCRIPT = f"#!lua\n{_BODY}"
TIGHT_SCRIPT = f"#!lua flags=allow-oom\n{_BODY}"


class Appended(NamedTuple):
    """`code` is one of append.lua's; `attempt` and `seq` are the run's own, `parts` those that
    have been opened."""

    code: str
    attempt: int
    seq: int
    parts: int = 0


def appended_of(reply: list[Any]) -> Appended:
    """Raises StoreFull where the run has had what it may write while memory is full."""
    code, attempt, seq, parts = reply[:4]
    if code == b"tight":
        raise StoreFull("the store is full, and the run has written what it may then")
    return Appended(code.decode(), attempt, seq, parts)


def append_args(
    verb: str,
    attempt: int,
    first_seq: int,
    lives: tuple[int, int, int],
    batch: Sequence[Event],
    fields: Sequence[str | int | bytes],
) -> list[str | int | bytes]:
    """What append.lua takes; `lives` are those of a live run, of an ended record and of its
    entries, in seconds. `tightened` makes those for `TIGHT_SCRIPT` of it."""
    args: list[str | int | bytes] = [verb, attempt, first_seq, *lives, "", len(batch)]
    for event in batch:
        args += (event.op, event.data, event.arg, event.part)
    return [*args, *fields]


def tightened(args: list[str | int | bytes]) -> list[str | int | bytes]:
    return [*args[:6], f"{args[6]!s}t", *args[7:]]


def held(args: list[str | int | bytes]) -> list[str | int | bytes]:
    """Of an end: nobody sees it until what `settle_args` makes is sent."""
    return [*args[:6], "h", *args[7:]]


def settle_args(
    reply: list[Any], args: list[str | int | bytes], *, is_own: bool = False
) -> list[str | int | bytes]:
    """For the end of which `reply`, to `args`, tells that it is held. `is_own`: its own."""
    return ["settle", reply[1], reply[2], *args[3:6], "o" if is_own else "", 0]


def end_fields(output: str | None) -> list[str | int | bytes]:
    fields: list[str | int | bytes] = list(ENDED)
    if output is not None:
        fields += ["output", output]
    return fields


def not_a_try(tries: int) -> tuple[str | int, ...]:
    """Fields of a record whose attempt, the last of `tries`, is handed back. Its runner has
    lived: what it is spared for the death of another begins anew."""
    return ("tries", max(0, tries - 1), "spared", 0)


# What tells how far a run is.
CLAIMANT = ("attempt", "tries", "runner", "spared", "blamed")


class Claimant(NamedTuple):
    """How far a run is: its attempt, how often one was begun and not handed back, and `runner`,
    who began the last, '' for nobody. `was_spared`: one that another held up did not count;
    `was_blamed`: it has held up a runner itself, as far as can be told.
    `age_s` is the time since the first of all, where that was asked."""

    attempt: int
    tries: int
    runner: str
    was_spared: bool = False
    was_blamed: bool = False
    age_s: float = 0.0


def claimant_of(row: Sequence[bytes | None]) -> Claimant | None:
    """Of the fields `CLAIMANT`; None for a run that is gone."""
    attempt, tries, runner, spared, blamed = row
    if attempt is None:
        return None
    return Claimant(
        int(attempt),
        int(tries or 0),
        (runner or b"").decode(),
        was_spared=spared not in (None, b"0"),
        was_blamed=blamed is not None,
    )


class BlockingStreams:
    """What a thread without a loop has to be able to do."""

    def __init__(self, redis: BlockingRedis, *, record_s: int) -> None:
        self._redis: Any = redis
        self._append = redis.register_script(TIGHT_SCRIPT)
        self._record_s = record_s

    def end(self, run_id: str, last: Event) -> None:
        """End whatever attempt is on."""
        key = keys.run(run_id)
        lives = (self._record_s, self._record_s, ENDED_EVENTS_LIFE_S)
        with store_errors():
            attempt = self._redis.hget(key.record, "attempt")
            args = append_args("end", int(attempt or 0), 0, lives, [last], ENDED)
            reply = self._append(keys=list(key), args=tightened(args))
            if reply[0] == b"held":
                args = settle_args(reply, args)
                self._append(keys=list(key), args=tightened(args))

    def claimed_by(self, runner: str, run_id: str) -> Claimant | None:
        """As that of `Streams`."""
        with store_errors():
            row = self._redis.hmget(keys.run(run_id).record, CLAIMANT)
        found = claimant_of(row)
        return found if found is not None and found.runner == runner else None

    def hand_back(self, run_id: str, attempt: int, tries: int) -> None:
        """As `Streams.hand_back`; its life stays what the last append made it."""
        key = keys.run(run_id)
        with store_errors():
            lives = (max(1, self._redis.ttl(key.record)), self._record_s, ENDED_EVENTS_LIFE_S)
            args = append_args("append", attempt, 0, lives, [], not_a_try(tries))
            self._append(keys=list(key), args=tightened(args))
