"""What is asked of runs: how far they are, and what they have said.

Invariant: nothing here writes, and what is told of a run's text is of one attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.runs import appending, ids, records
from plateau_sse.store.runs.appending import Claimant
from plateau_sse.store.runs.reading import Reading, reading_of
from plateau_sse.store.runs.records import Outline, Record, row_point
from plateau_sse.store.runs.shares import Denied, check_form
from plateau_sse.store.runs.tape import Point

# What one reading holds: a piece for a socket, or a little more.
READ_BYTES = 16 * 1024
# Of marks and openings; each may have 32 KiB.
POINTS_AT_ONCE = 24

_READ = files("plateau_sse.store.runs").joinpath("read.lua").read_text("utf-8")


class Standing(NamedTuple):
    """What is asked of a run that nobody has: its attempt, the time since the first, and why it
    is to be cancelled, None where it is not."""

    attempt: int
    age_s: float
    cancel: str | None


class Conflict(Exception):
    """The id belongs to a run that was asked something else."""


class OtherRelease(Conflict):
    """The run is one of another release, whose records mean something else."""


class Looks:
    """The streams instance, for who only looks."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._read = redis.register_script(_READ)

    async def request(self, run_id: str) -> bytes | None:
        """What was asked; None for a run that is gone, or has ended."""
        with store_errors():
            return await self._redis.hget(keys.run(run_id).record, "request")  # type: ignore[no-any-return]

    async def claimant(self, run_id: str) -> Claimant | None:
        """None for a run that is gone."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(keys.run(run_id).record, *appending.CLAIMANT, "begun_ms")
                pipe.time()
                (*row, begun_ms), now = await pipe.execute()
        found = appending.claimant_of(row)
        return found and found._replace(age_s=_age_s(begun_ms, now))

    async def claimed_by(self, runner: str, run_id: str) -> Claimant | None:
        """None where that runner has not begun the last attempt."""
        found = await self.claimant(run_id)
        return found if found is not None and found.runner == runner else None

    async def standings(self, run_ids: Sequence[str]) -> list[Standing | None]:
        """Of each run, None for one that is gone; one round trip."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hmget(keys.run(run_id).record, ["attempt", "begun_ms", "cancel"])
                pipe.time()
                *rows, now = await pipe.execute()
        return [
            None
            if attempt is None
            else Standing(
                int(attempt),
                _age_s(begun_ms, now),
                None if cancel is None else cancel.decode(),
            )
            for attempt, begun_ms, cancel in rows
        ]

    async def cancel_reasons(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Of these runs, those that somebody wants cancelled, with the reason."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hget(keys.run(run_id).record, "cancel")
                reasons = await pipe.execute()
        return {
            run_id: reason.decode()
            for run_id, reason in zip(run_ids, reasons, strict=True)
            if reason is not None
        }

    async def read(self, run_id: str, seen: int = 0, token: str = "") -> Reading | None:
        """What follows position `seen`, in one moment, as far as one piece goes; None where
        there is no such run. Raises `shares.Denied` where a token is given that is not one of
        the run's, `OtherRelease` for a run that cannot be read here."""
        return await self._follow(run_id, seen, token, log="")

    async def read_log(self, run_id: str, seen: int) -> Reading | None:
        """As `read`, but as the stream has it while it has it: to repair a hole in it."""
        return await self._follow(run_id, seen, "", log="1")

    async def _follow(self, run_id: str, seen: int, token: str, log: str) -> Reading | None:
        check_form(token)
        args: list[str | int] = [token, *ids.split(seen), READ_BYTES, log]
        with store_errors():
            reply = await self._read(keys=list(keys.run(run_id)), args=args)
        if reply[0] == b"gone":
            return None
        if reply[0] == b"denied":
            raise Denied
        if reply[0] == b"version":
            raise OtherRelease(run_id)
        return reading_of(reply, seen)

    async def recall(
        self, run_id: str, attempt: int, start: int, end: int | None, *, points: bool = False
    ) -> tuple[bytes, list[Point]] | None:
        """An attempt's text from byte `start` to byte `end`, None for all that there is, and
        all its points where those are wanted; None where it is not the run's latest any more,
        or has no such text."""
        key = keys.run(run_id)
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.getrange(key.text, start, -1 if end is None else max(0, end - 1))
                if points:
                    pipe.xrange(key.marks, attempt, attempt)
                # Last: what was read before is of no later one.
                pipe.hget(key.record, "attempt")
                text, *rows, latest = await pipe.execute()
        size = len(text) if end is None else end - start
        text = text[:size]
        if latest is None or int(latest) != attempt or len(text) < size:
            return None
        return text, [row_point(*row) for row in rows[0]] if points else []

    async def points(
        self, run_id: str, attempt: int, after: int, until: int
    ) -> list[Point] | None:
        """The first of an attempt's points behind `after` and not behind `until`, [] for none;
        None where it is not the run's latest any more."""
        key = keys.run(run_id)
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                first, last = f"({attempt}-{after}", f"{attempt}-{until}"
                pipe.xrange(key.marks, first, last, count=POINTS_AT_ONCE)
                pipe.hget(key.record, "attempt")
                rows, latest = await pipe.execute()
        if latest is None or int(latest) != attempt:
            return None
        return [row_point(*row) for row in rows]

    async def last_numbers(self, run_ids: Sequence[str]) -> list[int | None]:
        """Where each run's tape ends, None for a run that is gone; one round trip."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hmget(keys.run(run_id).record, ["attempt", "tape"])
                rows = await pipe.execute()
        return [
            None if None in row else ids.number(int(row[0]), int(row[1].split(b" ", 1)[0]))
            for row in rows
        ]

    async def statuses(self, run_ids: Sequence[str]) -> list[str | None]:
        """Of each run, None for one that is gone; one round trip."""
        if not run_ids:
            return []
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hget(keys.run(run_id).record, "state")
                found: list[bytes | None] = await pipe.execute()
        return [None if status is None else status.decode() for status in found]

    async def outline(self, run_id: str, token: str = "") -> Outline | None:
        """How far a run is, without what it has said; None, Denied and OtherRelease as in
        `record`."""
        check_form(token)
        key = keys.run(run_id)
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(key.record, list(records.OUTLINE))
                pipe.sismember(key.tokens, token)
                pipe.exists(key.record)
                pipe.time()
                row, known, there, (seconds, micros) = await pipe.execute()
        if not there:
            return None
        if token and not known:
            raise Denied
        found = dict(zip(records.OUTLINE, row, strict=True))
        if None in (found["state"], found["tape"]):
            raise OtherRelease(run_id)
        return records.outline_of(found, seconds * 1000 + micros // 1000)

    async def outlines(self, run_ids: Sequence[str]) -> list[Outline | None]:
        """Of each run, None for one that is gone or of another release; one round trip."""
        if not run_ids:
            return []
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                for run_id in run_ids:
                    pipe.hmget(keys.run(run_id).record, list(records.OUTLINE))
                (seconds, micros), *rows = await pipe.execute()
        now_ms = seconds * 1000 + micros // 1000
        found = [dict(zip(records.OUTLINE, row, strict=True)) for row in rows]
        return [
            None if None in (row["state"], row["tape"]) else records.outline_of(row, now_ms)
            for row in found
        ]

    async def record(self, run_id: str, token: str = "") -> Record | None:
        """The run's record; None where there is none, Denied and OtherRelease as in `read`."""
        check_form(token)
        key = keys.run(run_id)
        with store_errors():
            # No transaction: a full Redis refuses it, whatever is in it. Once the record says
            # that the run has ended, its tape changes no more.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(key.record, list(records.FIELDS))
                pipe.get(key.text)
                pipe.xrange(key.marks)
                pipe.sismember(key.tokens, token)
                pipe.exists(key.record)
                row, text, points, known, there = await pipe.execute()
        if row[1] is not None and points and not _is_of(points[0][0], row):
            # Another attempt began in between.
            return await self.record(run_id, token)
        if not there:
            return None
        if token and not known:
            raise Denied
        if None in (row[records.FIELDS.index("state")], row[records.FIELDS.index("tape")]):
            # Or it was made in between: who asks again finds it.
            raise OtherRelease(run_id)
        return records.record_of(dict(zip(records.FIELDS, row, strict=True)), text, points)

    async def time_s(self) -> float:
        """The server's, which is the same for all who share it. Raises StoreError."""
        with store_errors():
            seconds, micros = await self._redis.time()
        return float(seconds + micros / 1e6)


def _age_s(begun_ms: bytes | None, now: tuple[int, int]) -> float:
    """Since a run was first begun, by the store's clock; 0 for one that never was."""
    seconds, micros = now
    return 0.0 if begun_ms is None else seconds + micros / 1e6 - int(begun_ms) / 1000


def _is_of(point_id: bytes, row: list[bytes]) -> bool:
    """Whether the point is of the attempt that the record is at."""
    return point_id.partition(b"-")[0] == row[records.FIELDS.index("attempt")]
