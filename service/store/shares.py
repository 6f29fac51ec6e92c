"""Who shares a run: each caller has a token of its own.

Invariant: a run ends early only when everyone who was told of it has given it up, and who is
given a share has one in a run that is on and that nobody is about to cancel.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal

from redis.asyncio import Redis

from service.store import keys
from service.store.connections import store_errors

# Callers that may share one run.
TOKENS_MOST = 1000

Joined = Literal["running", "queued", "enqueued", "over"]


class Denied(Exception):
    """The token is not one of the run's."""


class Shares:
    def __init__(self, redis: Redis) -> None:
        scripts = files("service.store")
        self._share = redis.register_script(scripts.joinpath("share.lua").read_text())
        self._withdraw = redis.register_script(scripts.joinpath("withdraw.lua").read_text())
        self._give_up = redis.register_script(scripts.joinpath("give_up.lua").read_text())

    async def share(self, run_id: str, token: str) -> Joined:
        """Join a run that is on: `running`, `queued`, or `enqueued` where it is known to have
        a place in the queue; `over` where nobody can join it any more."""
        reply: Any = await self._call(self._share, run_id, token, TOKENS_MOST)
        return reply.decode()  # type: ignore[no-any-return]

    async def withdraw(self, run_id: str, token: str) -> bool:
        """Take a run back that found no place in the queue: whether it is gone. Where others
        have joined it meanwhile it is theirs, and each of them sees to its place."""
        return bool(await self._call(self._withdraw, run_id, token))

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
