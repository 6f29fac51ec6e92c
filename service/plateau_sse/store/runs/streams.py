"""Runs: their records, texts and streams.

Invariant: after creation a run's status, text and stream change only through append.lua: they
always agree, and at most one terminal event is ever written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from redis.asyncio import Redis

from plateau_sse.errors import StoreFull
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.fullness import TIGHT
from plateau_sse.store.runs import appending, events, ids, records
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.reading import Reading, reading_of
from plateau_sse.store.runs.records import Record
from plateau_sse.store.runs.shares import TOKENS_MOST, Denied, check_form

# What one reading holds: a piece for a socket, or a little more.
READ_BYTES = 16 * 1024
# Beyond the bounds that end a run: time for whoever ends it to do so.
ALIVE_SLACK_S = 60

_CREATE = files("plateau_sse.store.runs").joinpath("create.lua").read_text()
_READ = files("plateau_sse.store.runs").joinpath("read.lua").read_text()


class Claimed(NamedTuple):
    """A run that is the caller's to execute, with what it was asked."""

    attempt: int
    seq: int
    agent: str
    owner: str
    request: bytes
    cancel: str | None


class Conflict(Exception):
    """The id belongs to a run that was asked something else."""


class Crowded(Exception):
    """As many callers share the run as may."""


class OtherRelease(Conflict):
    """The run is one of another release, whose records mean something else."""


class Streams:
    """The streams instance, as far as runs go. Lives: `alive_s` without an event while a run
    is on, `record_s` after its end; `share` tells how full it is, and a full one keeps ended
    runs for a minute only."""

    def __init__(
        self,
        redis: Redis,
        *,
        alive_s: int,
        record_s: int,
        share: Callable[[], Awaitable[float]] | None = None,
    ) -> None:
        self._redis: Any = redis
        self._create = redis.register_script(_CREATE)
        self._append = redis.register_script(appending.SCRIPT)
        self._append_tight = redis.register_script(appending.TIGHT_SCRIPT)
        self._read = redis.register_script(_READ)
        self._alive_s = alive_s + ALIVE_SLACK_S
        self._record_s = record_s
        self._share = share

    async def create(
        self,
        run_id: str,
        *,
        agent: str,
        owner: str,
        token: str,
        request: bytes,
        fingerprint: str = "",
    ) -> str:
        """Write the record of a queued run: `created`, or the status of the run that has this
        id already and has been joined. Conflict where it was asked something else (another
        `fingerprint`), Crowded where nobody else may join it, StoreFull where there is no
        room."""
        fields: list[str | int | bytes] = [
            *("state", "queued", "agent", agent, "owner", owner, "attempt", 0, "seq", 0),
            *("created_ms", int(time.time() * 1000), "request", request),
        ]
        return await self._create_or_join(run_id, token, fingerprint, fields)

    async def mark_enqueued(self, run_id: str) -> None:
        """So that who repeats the request does not enqueue it again."""
        await self._write(run_id, "mark", 0, 0, [], ("enqueued", 1))

    async def join(self, run_id: str, *, token: str, fingerprint: str) -> str:
        """As `create` for a run that may be there: its status, or `absent`."""
        return await self._create_or_join(run_id, token, fingerprint, [])

    async def _create_or_join(
        self, run_id: str, token: str, fingerprint: str, fields: Sequence[str | int | bytes]
    ) -> str:
        args = [token, self._alive_s, fingerprint, TOKENS_MOST, *fields]
        with store_errors():
            reply: bytes = await self._create(keys=list(keys.run(run_id)), args=args)
        if reply == b"conflict":
            raise Conflict
        if reply == b"version":
            raise OtherRelease(run_id)
        if reply == b"crowded":
            raise Crowded
        return reply.decode()

    async def append(
        self,
        run_id: str,
        attempt: int,
        batch: Sequence[Event],
        *,
        first_seq: int = 0,
        fields: Sequence[str | int | bytes] = (),
        briefly: bool = False,
    ) -> Appended:
        """Append as the producer of `attempt`; a repeat with the same `first_seq` is a dup."""
        return await self._write(
            run_id, "append", attempt, first_seq, batch, fields, briefly=briefly
        )

    async def claim(
        self, run_id: str, attempt: int, runner: str, first: Event
    ) -> Claimed | Appended:
        """Start `attempt`, later than the record's; else why not, as `append` says it. `skip`:
        an attempt of that number may have been lost, claim the one after."""
        now_ms = int(time.time() * 1000)
        appended = await self._write(
            run_id, "claim", attempt, 0, [first], ("runner", runner, "started_ms", now_ms)
        )
        if appended.code not in ("ok", "dup"):
            return appended
        with store_errors():
            agent, owner, request, cancel = await self._redis.hmget(
                keys.run(run_id).record, ["agent", "owner", "request", "cancel"]
            )
        if request is None:
            return Appended("gone", attempt, 0)
        return Claimed(
            appended.attempt,
            appended.seq,
            agent.decode(),
            owner.decode(),
            request,
            cancel.decode() if cancel is not None else None,
        )

    async def claimant(self, run_id: str) -> tuple[int, str] | None:
        """The attempt that a run is at and who claimed it; None for a run that is gone."""
        with store_errors():
            attempt, runner = await self._redis.hmget(
                keys.run(run_id).record, ["attempt", "runner"]
            )
        return None if attempt is None else (int(attempt), (runner or b"").decode())

    async def end(
        self, run_id: str, attempt: int, last: Event, *, briefly: bool = False
    ) -> Appended:
        """End a run on behalf of a producer that is gone; `attempt` is the one seen. `briefly`:
        nothing was said in it, and its record lives no longer than its readers need."""
        fields = appending.ended_now()
        return await self._write(run_id, "end", attempt, 0, [last], fields, briefly=briefly)

    async def finish(
        self,
        run_id: str,
        attempt: int,
        batch: Sequence[Event],
        *,
        first_seq: int,
        output: str | None = None,
    ) -> Appended:
        """Append a batch whose last event is terminal, together with the record's end; `output`
        is the answer where it is not the text."""
        fields = appending.end_fields(output)
        return await self.append(run_id, attempt, batch, first_seq=first_seq, fields=fields)

    async def append_external(
        self,
        run_id: str,
        attempt: int,
        batch: Sequence[Event],
        *,
        first_seq: int = 0,
        output: str | None = None,
        briefly: bool = False,
    ) -> Appended:
        """As the producer of an external run: any append, an empty one too, renews its lease;
        a last event that is terminal ends the run, `briefly` as in `end`."""
        # The batch names this call: a producer without `first_seq` is not answered twice for
        # one request, though the connection may send it twice.
        fields: list[str | int | bytes] = ["batch", secrets.token_hex(8)]
        fields += ["lease_ms", int(time.time() * 1000)]
        if batch and batch[-1].op == "e":
            fields += appending.end_fields(output)
        return await self.append(
            run_id, attempt, batch, first_seq=first_seq, fields=fields, briefly=briefly
        )

    async def ask_to_cancel(self, run_id: str, reason: str, *, external: bool = False) -> str:
        """The status that follows: `cancelled`, `running` (its runner will see to it), another
        one where the run had ended already, or `gone`. An `external` run ends at once: its
        producer learns of it with its next append."""
        fields = ("cancel", reason)
        while True:
            (number,) = await self.last_numbers([run_id])
            if number is None:
                return "gone"
            attempt, at = ids.split(number)
            if attempt == 0 or external:
                last, briefly = events.cancelled(reason), external and at <= 1
                ended = await self.end(run_id, attempt, last, briefly=briefly)
                code, status = ended.code, "cancelled"
            else:
                code = (await self.append(run_id, attempt, [], fields=fields)).code
                status = "running"
            if code == "ok":
                return status
            if code == "ended":
                record = await self.record(run_id)
                return "gone" if record is None else record.status
            # Claimed or taken over between the two steps: look again.

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

    async def _write(
        self,
        run_id: str,
        verb: str,
        attempt: int,
        first_seq: int,
        batch: Sequence[Event],
        fields: Sequence[str | int | bytes],
        *,
        briefly: bool = False,
    ) -> Appended:
        record_s, events_s = self._record_s, appending.ENDED_EVENTS_LIFE_S
        if briefly:
            record_s, events_s = appending.BRIEF_LIVES_S
        elif batch and batch[-1].op == "e" and self._share is not None:
            record_s = events_s if await self._share() > TIGHT else record_s
        lives = (self._alive_s, record_s, events_s)
        args = appending.append_args(verb, attempt, first_seq, lives, batch, fields)
        names = list(keys.run(run_id))
        try:
            with store_errors():
                reply = await self._append(keys=names, args=args)
        except StoreFull:
            # It may write a little all the same, so that what is on can end.
            with store_errors():
                reply = await self._append_tight(keys=names, args=appending.tightened(args))
        return appending.appended_of(reply)

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


def _is_of(point_id: bytes, row: list[bytes]) -> bool:
    """Whether the point is of the attempt that the record is at."""
    return point_id.partition(b"-")[0] == row[records.FIELDS.index("attempt")]
