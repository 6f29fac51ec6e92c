"""The queue of runs: lines in which they wait, one for each version of an agent, and leases on
those that are held.

Invariant: a run has one place at most, and either waits or is held by one runner, whose lease
ends at a time that it puts off; what it loses or hands back waits in front of everyone.
It stays in the line of the version that it was asked of: a runner with another version of the
agent takes from there only while no living runner has that one.
Owners take turns: each run has one, later than the one before it of the same owner, and the
lowest comes first. Where owners share the service none of them has all places of a runner: who
has none there finds one, or the next that is free. All of it is one slot, and every step one
script, by the store's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from plateau_sse.store.queue.line import parts_of
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.pulse import Pulse
from plateau_sse.store.redis.replicas import replicated

LEASE_S = 6.0
RENEW_S = 1.0
# Twice a lease: a living runner would have taken the run over by then.
ABANDONED_S = 12.0
# A silence that leaves a renewal its time: half a lease.
PAUSE_S = 3.0
# A runner looks for runs, and so gives a sign of life, at least once a second.
RUNNER_DEAD_S = 6.0
RUNNER_FORGOTTEN_S = 600.0
# Of what others have lost a full runner takes so many, to keep them alive until it has a place
# for them; but only after a while, in which whoever has a place can have them at once.
TAKE_WITHOUT_A_PLACE = 100
WITHOUT_AFTER_S = 10.0
LOOKS_AT_ONCE = 100
# From the last run of an owner who shares the service: longer than a run waits.
SHARED_S = 86_400

# When memory is full: what lets new runs in is refused, what works them off is not.
_NEW, _ALWAYS, _READING = "", " flags=allow-oom", " flags=no-writes"

# Before any ring of the bell.
_EVER = b"0-0"

Enqueued = Literal["ok", "full", "no_runner"]


def _script(name: str, flags: str) -> str:
    folder = files("plateau_sse.store.queue")
    head, body = (folder.joinpath(f"{it}.lua").read_text("utf-8") for it in ("head", name))
    return f"#!lua{flags}\n{head}{body}"


class Ticket(NamedTuple):
    """A run that its taker holds now, and the line that it came from; `retaken`: others have
    had it, and may have begun it. Its place is its owner's."""

    run_id: str
    line: str
    retaken: bool
    owner: str = ""

    @property
    def agent(self) -> str:
        return parts_of(self.line)[0]


class Taken(NamedTuple):
    """What a runner was given, and the last ring of the bell that this takes account of."""

    tickets: list[Ticket]
    rung: bytes


class Waiting(NamedTuple):
    """A run that nobody has, and since when (ms by the store's clock): `is_new` where nobody
    ever had it, `is_lost` where its runner has not handed it back."""

    run_id: str
    line: str
    is_new: bool
    is_lost: bool
    since_ms: int

    @property
    def agent(self) -> str:
        return parts_of(self.line)[0]


class Look(NamedTuple):
    """The runners that are alive, and runs: those that have waited for too long, those that
    a living runner would have taken over by now, and those that somebody had, however short
    they wait."""

    runners: list[str]
    overdue: list[Waiting]
    lost: list[Waiting]
    back: list[Waiting]


class Depth(NamedTuple):
    """Runs that wait, runs that execute, and the living runners; and how long, by the server's
    clock, the first in line has waited. `again` of those that wait somebody had before."""

    waiting: int
    running: int
    runners: int
    oldest_s: float = 0.0
    again: int = 0

    @property
    def new(self) -> int:
        """Runs that wait for the first time: QUEUE_LIMIT bounds them."""
        return self.waiting - self.again


class Queue:
    """What web workers and runners do with the queue. A new run has its place once `replicas`
    have it; `is_shared` says whether there may be others than its owner."""

    def __init__(
        self,
        redis: Redis,
        *,
        replicas: int = 0,
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self._redis: Any = redis
        self._replicas = replicas
        self._is_shared = is_shared
        self._enqueue = redis.register_script(_script("enqueue", _NEW))
        self._take = redis.register_script(_script("take", _ALWAYS))
        self._put_back = redis.register_script(_script("put_back", _ALWAYS))
        self._inherit = redis.register_script(_script("inherit", _ALWAYS))
        self._remove = redis.register_script(_script("remove", _ALWAYS))
        self._look = redis.register_script(_script("look", _ALWAYS))
        self._depth = redis.register_script(_script("depth", _READING))
        self._late = Pulse(pause_s=PAUSE_S, grace_s=LEASE_S)
        self._looked = 0
        # Lines of versions that no living runner has, from which the next taking may take.
        self.left: tuple[str, ...] = ()
        # Whether the last taking has left places free for other owners than those who wait.
        self.has_passed_over = False
        # Who has just begun to look does not know how long the store was away.
        self._abandoned = Pulse(pause_s=2 * PAUSE_S, grace_s=LEASE_S, wary=True)

    async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Enqueued:
        """Put a run into the queue, unless `limit` wait there for the first time already or no
        runner is alive; one that has its place keeps it."""
        args: list[str | int] = [run_id, line, owner, limit, _ms(RUNNER_DEAD_S)]
        args.append(SHARED_S if self._is_shared() else 0)
        if self._replicas:
            with store_errors():
                found = await replicated(
                    self._redis, self._enqueue, _keys([line]), args, self._replicas
                )
        else:
            found = await _call(self._enqueue, [line], args)
        return found.decode()  # type: ignore[no-any-return]

    async def take(
        self,
        runner: str,
        lines: Sequence[str],
        free: int,
        without_after_s: float = WITHOUT_AFTER_S,
        places: Mapping[str, int] | None = None,
    ) -> Taken:
        """Runs of these lines for so many free places, first what others have lost or handed
        back; and those of lines that are `left` of the same agents. A sign of life of a runner
        whose own lines these are, whatever there is. What has waited in vain for
        `without_after_s` since somebody had it is taken also where no place is free. `places`
        are those that owners have there, who may be passed over for that."""
        has = "\n".join(f"{owner} {count}" for owner, count in (places or {}).items())
        while True:
            args: list[str | int] = [runner, _ms(LEASE_S), free]
            args += [TAKE_WITHOUT_A_PLACE, _ms(without_after_s), _ms(RUNNER_FORGOTTEN_S)]
            args += [_ms(RUNNER_DEAD_S), has, len(lines), *lines, *self.left]
            found = await _call(self._take, [*lines, *self.left], args)
            rung, now_ms, late, rows, names, passed = found
            self.has_passed_over = bool(passed)
            is_steady = self._late.heard()
            if is_steady:
                await self._lose(late, now_ms)
            # After a pause of the store whoever lives had no chance to say so.
            left = tuple(name.decode() for name in names) if is_steady else ()
            is_news = not {*left} <= {*self.left}
            self.left = left
            if rows or not free or not is_news:
                # Who has room still is to ask for those as well before it waits.
                return Taken(_tickets(rows), _EVER if is_news else rung)

    async def wait(self, rung: bytes, block_ms: int) -> None:
        """Until there may be more than there was when the bell had last `rung`; at most
        `block_ms`."""
        with store_errors():
            await self._redis.xread({keys.QUEUE.bell: rung}, count=1, block=block_ms)

    async def inherit(self, runner: str, dead: str) -> list[Ticket]:
        """What `dead`, which has ended for certain, had taken and not finished."""
        return _tickets(await _call(self._inherit, [], [runner, _ms(LEASE_S), dead]))

    async def hand_back(self, runner: str, lines: Iterable[str], *, lost: bool = False) -> None:
        """Let go of all that `runner` holds of these lines, what it has not heard of with it:
        whoever has them takes it at once. Nothing may renew it any more. `lost`: somebody has
        died of it. Else the runner leaves: its versions are no living one's on its account."""
        how = "l" if lost else "h"
        await _call(self._put_back, *_handing_back(runner, lines, how, leaves=not lost))

    async def _lose(self, late: Sequence[bytes], seen_ms: int) -> None:
        """Whose leases had run out when that was seen: who has renewed one since keeps it."""
        if late:
            lines = [line.decode() for line in late]
            await _call(self._put_back, lines, ["l", "", seen_ms, 0, *lines])

    async def look(self, wait_s: float) -> Look:
        """Put back what has been lost, and see what has waited for `wait_s`, or has been lost
        for `ABANDONED_S`. After a pause of the store no lease is believed, and what was taken
        once is neither overdue nor lost."""
        args = [_ms(RUNNER_DEAD_S), _ms(wait_s), LOOKS_AT_ONCE, self._looked]
        self._looked += 1
        now_ms, alive, late, *rows = await _call(self._look, [], args)
        overdue, back = map(_waiting, rows)
        steady = self._abandoned.heard()
        if steady:
            await self._lose(late, now_ms)
        else:
            overdue = [one for one in overdue if one.is_new]
        until_ms = now_ms - _ms(ABANDONED_S - LEASE_S)
        lost = [one for one in back if steady and one.is_lost and one.since_ms <= until_ms]
        return Look([name.decode() for name in alive], overdue, lost, back)

    async def waits(self, run_id: str) -> bool:
        """Whether nobody has it now, and somebody may take it."""
        with store_errors():
            return await self._redis.zscore(keys.QUEUE.since, run_id) is not None

    async def still(self, waiting: Sequence[Waiting]) -> list[bool]:
        """Whether each has been waiting ever since."""
        if not waiting:
            return []
        with store_errors():
            names = [one.run_id for one in waiting]
            scores = await self._redis.zmscore(keys.QUEUE.since, names)
        return [
            score is not None and int(score) == one.since_ms
            for one, score in zip(waiting, scores, strict=True)
        ]

    async def done(self, ticket: Ticket, runner: str) -> None:
        """Forget the place of a run that has ended, unless another runner has it by now."""
        await _call(self._remove, [ticket.line], [ticket.run_id, runner, ticket.line])

    async def drop(self, run_id: str) -> None:
        """Forget the place of a run that has ended, while it waits."""
        with store_errors():
            place = await self._redis.hget(keys.QUEUE.places, run_id)
        if place is not None:
            # It keeps its line for as long as it has its place.
            line = place.decode().split(" ", 3)[3]
            await _call(self._remove, [line], [run_id, "", line])

    async def serving(self) -> dict[str, list[str]]:
        """The living runners, each with its own lines: none for one that is about to leave."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.zrange(keys.QUEUE.runners, 0, -1, withscores=True)
                pipe.hgetall(keys.QUEUE.serving)
                (seconds, micros), looked, lines = await pipe.execute()
        least_ms = seconds * 1000 + micros // 1000 - _ms(RUNNER_DEAD_S)
        return {
            name.decode(): [it for it in lines.get(name, b"").decode().split("\n") if it]
            for name, at in looked
            if at >= least_ms
        }

    async def live(self, most: int) -> list[str]:
        """Runs that somebody has, and behind them those that wait, the longest first: `most` of
        each at most. One that has ended just now may be among them."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zrange(keys.QUEUE.held, 0, most - 1)
                pipe.zrange(keys.QUEUE.since, 0, most - 1)
                rows: list[list[bytes]] = await pipe.execute()
        return list(dict.fromkeys(run.decode() for row in rows for run in row))

    async def depth(self) -> Depth:
        args = [_ms(RUNNER_DEAD_S)]
        waiting, held, runners, ms, again = await _call(self._depth, [], args)
        return Depth(waiting, held, runners, ms / 1000, again)


class Leases:
    """Renews leases over a blocking client, from a thread of its own."""

    def __init__(self, redis: BlockingRedis) -> None:
        self._renew = redis.register_script(_script("renew", _ALWAYS))
        self._put_back = redis.register_script(_script("put_back", _ALWAYS))

    def renew(self, runner: str, held: Mapping[str, str]) -> set[str]:
        """Renew what is held, runs with their lines; those that another runner has now."""
        with store_errors():
            lost: list[bytes] = self._renew(
                keys=_keys(held.values()), args=[runner, _ms(LEASE_S), *held]
            )
        return {run.decode() for run in lost}

    def hand_back(self, runner: str, lines: Iterable[str]) -> None:
        """As the queue's own, by a runner whose successor is about to come."""
        names, args = _handing_back(runner, lines, "h", leaves=False)
        with store_errors():
            self._put_back(keys=_keys(names), args=args)


async def _call(script: Any, lines: Iterable[str], args: Sequence[str | int]) -> Any:
    with store_errors():
        return await script(keys=_keys(lines), args=args)


def _keys(lines: Iterable[str]) -> list[str]:
    """What every script of the queue takes, with these lines."""
    return [*keys.QUEUE, *map(keys.line, lines)]


def _handing_back(
    runner: str, lines: Iterable[str], how: str, *, leaves: bool
) -> tuple[list[str], list[str | int]]:
    names = sorted(set(lines))
    return names, [how, runner, "", int(leaves), *names]


def _tickets(rows: list[list[bytes]]) -> list[Ticket]:
    return [
        Ticket(run.decode(), line.decode(), how != b"n", owner.decode())
        for run, line, how, owner in rows
    ]


def _waiting(rows: list[list[bytes]]) -> list[Waiting]:
    return [
        Waiting(run.decode(), line.decode(), how == b"n", how == b"l", int(since))
        for run, line, how, since in rows
    ]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
