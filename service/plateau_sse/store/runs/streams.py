"""Runs: their records, texts and streams.

Invariant: after creation a run's status, text and stream change only through append.lua: they
always agree, and at most one terminal event is ever written.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import NamedTuple

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.fullness import TIGHT
from plateau_sse.store.redis.replicas import replicated
from plateau_sse.store.redis.together import Call, together
from plateau_sse.store.runs import appending, events, ids
from plateau_sse.store.runs.appending import NOW, Appended, Claimant
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.looks import Conflict, Looks, OtherRelease
from plateau_sse.store.runs.shares import TOKENS_MOST
from plateau_sse.store.runs.writing import Writing

# The agent that is a producer outside, which claims its runs itself.
EXTERNAL = "external"
# Beyond the bounds that end a run: time for whoever ends it to do so.
ALIVE_SLACK_S = 60

_CREATE = files("plateau_sse.store.runs").joinpath("create.lua").read_text("utf-8")

_FORGET = """#!lua flags=allow-oom
-- KEYS  record, text, events, tokens, marks      Gives 0 where the run is on, and stays.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'queued' or state == 'running' then
  return 0
end
redis.call('DEL', unpack(KEYS))
return 1
"""


class Claimed(NamedTuple):
    """A run that is the caller's to execute, with what it was asked. `tries` counts the
    attempts that were begun, but for those that were handed back; `age_s` is the time since
    the first of all, where the caller has looked for it."""

    attempt: int
    seq: int
    agent: str
    owner: str
    request: bytes
    cancel: str | None
    tries: int
    age_s: float = 0.0


class Crowded(Exception):
    """As many callers share the run as may."""


class Streams(Looks):
    """The streams instance, as far as runs go. Lives: `alive_s` without an event while a run
    is on, `record_s` after its end; `share` tells how full it is, and a full one keeps ended
    runs for a minute only. New runs and ends are there once `replicas` have them."""

    def __init__(
        self,
        redis: Redis,
        *,
        alive_s: int,
        record_s: int,
        share: Callable[[], Awaitable[float]] | None = None,
        replicas: int = 0,
    ) -> None:
        super().__init__(redis)
        self._replicas = replicas
        self._create = redis.register_script(_CREATE)
        self._writing = Writing(redis, replicas)
        self._forget = redis.register_script(_FORGET)
        # Of a live run, of its record once it has ended, and of its entries then.
        self._lives = (alive_s + ALIVE_SLACK_S, record_s, appending.ENDED_EVENTS_LIFE_S)
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
        behind: Sequence[Call] = (),
    ) -> str:
        """Write the record of a queued run: `created`, or the status of the run that has this
        id already and has been joined. Conflict where it was asked something else (another
        `fingerprint`), Crowded where nobody else may join it, StoreFull where there is no
        room. What is `behind` is sent with it, in one round trip."""
        fields: list[str | int | bytes] = [
            *("state", "queued", "agent", agent, "owner", owner, "attempt", 0, "seq", 0),
            *("request", request),
        ]
        return await self._create_or_join(run_id, token, fingerprint, fields, behind)

    async def mark_enqueued(self, run_id: str) -> None:
        """So that who repeats the request does not enqueue it again."""
        await self._write(run_id, "mark", 0, 0, [], ("enqueued", 1))

    async def join(self, run_id: str, *, token: str, fingerprint: str) -> str:
        """As `create` for a run that may be there: its status, or `absent`."""
        return await self._create_or_join(run_id, token, fingerprint, [])

    async def _create_or_join(
        self,
        run_id: str,
        token: str,
        fingerprint: str,
        fields: Sequence[str | int | bytes],
        behind: Sequence[Call] = (),
    ) -> str:
        args = [token, self._lives[0], fingerprint, TOKENS_MOST, *fields]
        creating = Call(self._create, list(keys.run(run_id)), args)
        with store_errors():
            if fields and self._replicas:
                await self._lasting(creating)
                # What follows is not to be there without it.
                for call in behind:
                    await call.alone()
            else:
                await together(self._redis, creating, *behind)
                if self._replicas and creating.reply != b"absent":
                    # Whoever made it may have waited in vain; a token is given out here, too.
                    await self._lasting(creating)
        reply: bytes = creating.reply
        if reply == b"conflict":
            raise Conflict
        if reply == b"version":
            raise OtherRelease(run_id)
        if reply == b"crowded":
            raise Crowded
        return reply.decode()

    async def _lasting(self, call: Call) -> None:
        call.reply = await replicated(
            self._redis, call.script, call.keys, call.args, self._replicas
        )

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
        self,
        run_id: str,
        attempt: int,
        runner: str,
        first: Event,
        *,
        in_doubt: bool = False,
        spared_at: int | None = None,
        is_blamed: bool = False,
    ) -> Claimed | Appended:
        """Start `attempt`, later than the record's; else why not, as `append` says it. `skip`:
        an attempt of that number may have been lost, as it may where it is `in_doubt`; claim
        the one that stands for `seq`. With `spared_at` that many have been begun, this one
        with them: it stands for one that does not count. `is_blamed` is remembered: the one
        before has held up its runner."""
        fields: list[str | int | bytes] = ["runner", runner, "started_ms", NOW]
        if runner == EXTERNAL:
            fields += ["lease_ms", NOW]
        if spared_at is not None:
            fields += ["tries", spared_at, "spared", 1]
        if is_blamed:
            fields += ["blamed", 1]
        args = appending.append_args(
            "claim", attempt, int(in_doubt), self._lives, [first], fields
        )
        reply = await self._writing.call(run_id, args)
        appended = appending.appended_of(reply)
        if appended.code not in ("ok", "dup"):
            return appended
        agent, owner, request, cancel, tries = reply[4]
        if request is None:
            return Appended("gone", attempt, 0)
        return Claimed(
            appended.attempt,
            appended.seq,
            agent.decode(),
            owner.decode(),
            request,
            cancel.decode() if cancel is not None else None,
            int(tries or 0),
        )

    async def begin(
        self,
        run_id: str,
        attempt: int,
        runner: str,
        agent: str,
        *,
        in_doubt: bool = False,
        spared_at: int | None = None,
        is_blamed: bool = False,
    ) -> Claimed | Appended:
        """Claim `attempt`, or, where that number may have been lost, the one that was not."""
        claim = partial(
            self.claim, run_id, runner=runner, spared_at=spared_at, is_blamed=is_blamed
        )
        first = events.started(run_id, agent, attempt)
        claimed = await claim(attempt, first=first, in_doubt=in_doubt)
        if isinstance(claimed, Appended) and claimed.code == "skip":
            first = events.started(run_id, agent, claimed.seq)
            claimed = await claim(claimed.seq, first=first)
        return claimed

    async def hand_back(self, run_id: str, claimed: Claimed | Claimant) -> None:
        """That its attempt ends here is no death: it does not count among the tries. Harmless
        where the attempt is over. An end that is held is left to whoever takes the run: others
        that are handed back do not wait for replicas."""
        fields = appending.not_a_try(claimed.tries)
        args = appending.append_args("append", claimed.attempt, 0, self._lives, [], fields)
        appending.appended_of(await self._writing.call_once(run_id, args))

    async def end(
        self, run_id: str, attempt: int, last: Event, *, briefly: bool = False
    ) -> Appended:
        """End a run on behalf of a producer that is gone; `attempt` is the one seen. `briefly`:
        nothing was said in it, and its record lives no longer than its readers need."""
        fields = appending.ENDED
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
        fields: list[str | int | bytes] = []
        if batch and not first_seq:
            # It names this call: what a producer sent once is not written twice, though the
            # connection may send it twice.
            fields += ["batch", secrets.token_urlsafe(8)]
        fields += ["lease_ms", NOW]
        if batch and batch[-1].op == "e":
            fields += appending.end_fields(output)
        return await self.append(
            run_id, attempt, batch, first_seq=first_seq, fields=fields, briefly=briefly
        )

    async def ask_to_cancel(
        self,
        run_id: str,
        reason: str,
        *,
        external: bool = False,
        waits: Callable[[str], Awaitable[bool]] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> str:
        """The status that follows: `cancelled`, `running` (its runner will see to it), another
        one where the run had ended already, or `gone`. An `external` run ends at once: its
        producer learns of it with its next append; and so does one that `waits` for another
        runner. `on_end` is called where this call has ended it."""
        fields = ("cancel", reason)
        while True:
            (number,) = await self.last_numbers([run_id])
            if number is None:
                return "gone"
            attempt, at = ids.split(number)
            if attempt == 0 or external:
                briefly = external and at <= 1
                code = await self._cancel(run_id, attempt, reason, briefly=briefly)
                status = "cancelled"
            else:
                code = (await self.append(run_id, attempt, [], fields=fields)).code
                status = "running"
                # Only now: who lets go of it from here on finds the wish.
                if code == "ok" and waits is not None and await waits(run_id):
                    # Whoever takes it meanwhile begins another attempt, or finds its end.
                    code = await self._cancel(run_id, attempt, reason)
                    status = "cancelled"
            if code == "ok":
                if status == "cancelled":
                    on_end()
                return status
            if code == "ended":
                record = await self.record(run_id)
                return "gone" if record is None else record.status
            # Claimed or taken over between the two steps: look again.

    async def forget(self, run_id: str) -> bool:
        """All of a run that has ended; False where it has not."""
        with store_errors():
            return bool(await self._forget(keys=list(keys.run(run_id)), args=[]))

    async def _cancel(
        self, run_id: str, attempt: int, reason: str, *, briefly: bool = False
    ) -> str:
        last = events.cancelled(reason)
        return (await self.end(run_id, attempt, last, briefly=briefly)).code

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
        alive_s, record_s, events_s = self._lives
        if briefly:
            record_s, events_s = appending.BRIEF_LIVES_S
        elif batch and batch[-1].op == "e" and self._share is not None:
            record_s = events_s if await self._share() > TIGHT else record_s
        lives = (alive_s, record_s, events_s)
        args = appending.append_args(verb, attempt, first_seq, lives, batch, fields)
        ends = bool(batch) and batch[-1].op == "e"
        return appending.appended_of(await self._writing.call(run_id, args, ends=ends))
