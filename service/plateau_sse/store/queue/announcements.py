"""Which runner has which agents, as runners say it and web workers read it.

Invariant: an agent is there as long as a runner says so that has it, and no longer than others
have been saying otherwise for `GONE_S`; of two versions it has the one that appeared
last, where a version is as old as the first of its runners that are there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

ANNOUNCE_S = 20
# Three that are missing. A restart takes less: it turns no agent into one that is not known.
GONE_S = 60
# Where no runner is left its agents' cached answers are served on.
LIFE_S = 86_400


class About(msgspec.Struct, omit_defaults=True, frozen=True):
    """What web workers have to know of an agent, beside its version: whose it is; whether its
    answers are cached and shared; whether it remembers conversations; its bounds, None for
    those of the service."""

    kind: str = "generator"
    cache: bool = True
    memory: bool = False
    max_steps: int | None = None
    attempts: int | None = None
    timeout_s: float | None = None
    input_bytes: int | None = None


class Announced(NamedTuple):
    """An agent, as the runner says that was started last of those that have this version. The
    version says, too, for whom its answers are kept (`owners.scope_of`): it outlives the
    runner."""

    version: str
    about: About = About()


class _Said(msgspec.Struct):
    """By one runner; times since the epoch in seconds, by the store's clock. `about` has those
    of its agents of which there is something to say."""

    at: float
    since: float
    agents: dict[str, str]
    about: dict[str, About] = {}


class Announcements:
    """Of all runners; a runner speaks for itself alone."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._since: float | None = None

    async def say(
        self,
        runner: str,
        versions: Mapping[str, str],
        about: Mapping[str, About] | None = None,
    ) -> None:
        """That `runner` has these, from now on. Raises StoreError."""
        now, found, _ = await self._all()
        self._since = self._since or now
        said = _Said(now, self._since, dict(versions), dict(about or {}))
        with store_errors():
            # No transaction: on a cluster these are two slots.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hset(keys.AGENTS, mapping=dict(versions))
                pipe.expire(keys.AGENTS, LIFE_S)
                pipe.hset(keys.ANNOUNCED, runner, msgspec.json.encode(said))
                pipe.expire(keys.ANNOUNCED, 2 * GONE_S)
                if gone := [name for name, other in found.items() if other.at <= now - GONE_S]:
                    pipe.hdel(keys.ANNOUNCED, *gone)
                await pipe.execute()

    async def of(self, runners: Collection[str]) -> set[str] | None:
        """The agents that these runners have, None where one of them, or none, has said so.
        Raises StoreError."""
        _, found, _ = await self._all()
        if not runners or not found.keys() >= set(runners):
            return None
        return {name for runner in runners for name in found[runner].agents}

    async def versions(self) -> dict[str, str]:
        """Name to version, as in `agents`."""
        return {name: it.version for name, it in (await self.agents()).items()}

    async def agents(self) -> dict[str, Announced]:
        """Each agent that there is, by its name; where every runner has been silent for
        `GONE_S`, each that there was. Raises StoreError."""
        now, found, ever = await self._all()
        there = [said for said in found.values() if said.at > now - GONE_S]
        if not there:
            return {name: Announced(version) for name, version in ever.items()}
        agents: dict[str, Announced] = {}
        seen: set[tuple[str, str]] = set()
        for said in sorted(there, key=lambda it: it.since):
            for name, version in said.agents.items():
                # Another runner with a version that is not the latest makes it no younger.
                if (name, version) in seen and agents[name].version != version:
                    continue
                seen.add((name, version))
                agents[name] = Announced(version, said.about.get(name, About()))
        return agents

    async def _all(self) -> tuple[float, dict[str, _Said], dict[str, str]]:
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.hgetall(keys.ANNOUNCED)
                pipe.hgetall(keys.AGENTS)
                (seconds, micros), found, ever = await pipe.execute()
        said = {
            name.decode(): msgspec.json.decode(text, type=_Said) for name, text in found.items()
        }
        versions = {name.decode(): version.decode() for name, version in ever.items()}
        return seconds + micros / 1e6, said, versions
