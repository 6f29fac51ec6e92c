"""The callers of one run: each has a token of its own, which is its share of the run.

Invariant: a run ends early only when everyone who was told of it has given it up, and who is
given a share has one in a run that is on and that nobody is about to cancel. One of those who
share a run is seeing to its place in the queue, until it has one: the others wait for that.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.replicas import replicated

# Callers that may share one run.
TOKENS_MOST = 1000
# Who takes longer to find a run its place, or to be refused one, is taken for dead.
PLACING_S = 1.0

Joined = Literal[
    "queued", "unplaced", "enqueued", "running", "completed", "failed", "cancelled", "over"
]
Withdrawn = Literal["gone", "left", "given_up"]

_STEP_BACK = """#!lua flags=allow-oom
-- KEYS  record      ARGV  token      Where this caller sees to the run's place, another may.
local placer = redis.call('HGET', KEYS[1], 'placer')
if placer and placer:match('^%S+') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'placer')
end
"""


class Denied(Exception):
    """The token is not one of the run's."""


class Shares:
    def __init__(self, redis: Redis, *, replicas: int = 0) -> None:
        self._redis: Any = redis
        self._replicas = replicas
        scripts = files("plateau_sse.store.runs")
        self._share = redis.register_script(scripts.joinpath("share.lua").read_text("utf-8"))
        self._withdraw = redis.register_script(
            scripts.joinpath("withdraw.lua").read_text("utf-8")
        )
        self._give_up = redis.register_script(
            scripts.joinpath("give_up.lua").read_text("utf-8")
        )
        self._step_back = redis.register_script(_STEP_BACK)

    async def share(self, run_id: str, token: str) -> Joined:
        """Join a run that is on, or ask what became of one that was joined: its status. One
        that is queued is `enqueued` where it is known to have a place in the queue, `unplaced`
        where the caller is to see to that, `queued` where another is. `over` where nobody can
        join it any more."""
        reply: Any = await self._call(self._share, run_id, *_sharing(token))
        return reply.decode()  # type: ignore[no-any-return]

    async def join(self, run_id: str, token: str) -> Joined:
        """The first share with this token, which is not given out before replicas have it."""
        if not self._replicas:
            return await self.share(run_id, token)
        names, args = list(keys.run(run_id)), _sharing(token)
        with store_errors():
            reply = await replicated(self._redis, self._share, names, args, self._replicas)
        return reply.decode()  # type: ignore[no-any-return]

    async def withdraw(self, run_id: str, token: str, reason: str) -> Withdrawn:
        """Take a run back that found no place in the queue: it is `gone`. Where others have
        joined it meanwhile it is `left` to them, and the next of them sees to its place; where
        all of those have `given_up`, the wish to cancel is noted, for that `reason`."""
        reply: Any = await self._call(self._withdraw, run_id, token, reason)
        return reply.decode()  # type: ignore[no-any-return]

    async def step_back(self, run_id: str, token: str) -> None:
        """Who was refused a place for the run keeps its share, and lets another see to it."""
        await self._call(self._step_back, run_id, token)

    async def tokens(self, run_id: str) -> list[str]:
        """Of all callers who share the run."""
        with store_errors():
            found: set[bytes] = await self._redis.smembers(keys.run(run_id).tokens)
        # The others are the marks of shares that were given up.
        return [token.decode() for token in found if not token.startswith(b"!")]

    async def give_up(self, run_id: str, token: str, reason: str) -> int:
        """One caller's share is given up: how many still hold theirs. With the last one the
        wish to cancel is noted, for that `reason`."""
        check_form(token)
        return int(await self._call(self._give_up, run_id, token, reason))

    async def _call(self, script: Any, run_id: str, *args: str | int) -> Any:
        with store_errors():
            return await script(keys=list(keys.run(run_id)), args=args)


def check_form(token: str) -> None:
    """Denied for what cannot be a token."""
    # The set also holds the marks of shares given up, which open nothing.
    if token.startswith("!"):
        raise Denied


def _sharing(token: str) -> tuple[str, int, int]:
    return token, TOKENS_MOST, int(PLACING_S * 1000)
