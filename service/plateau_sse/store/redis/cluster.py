"""Clients of a cluster: each command to the primary that serves its slot.

Invariant: there is a bounded pool for each primary; a redirection is followed, a primary that
is none any more is left at once, and a script is sent again to a server that has not got it.

A command without a key goes where the one before it in its pipeline goes, so that the time is
that of the run beside it; alone it goes where the queue is.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import (
    AskError,
    ConnectionError,
    MovedError,
    NoScriptError,
    RedisError,
)

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.passing import code_of, passes
from plateau_sse.store.redis.pools import pooled, pooled_blocking
from plateau_sse.store.redis.sentinel import Place
from plateau_sse.store.redis.topology import NAMELESS, Topology, slot_of

# Between attempts where a slot is on its way; a failover takes longer, and is for who asked.
WAITS_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
# While a slot moves, or the cluster makes up its mind, the same server is asked again.
_SOON = ("TRYAGAIN", "CLUSTERDOWN")
_WITHOUT_KEY = frozenset(
    "PING ECHO TIME INFO DBSIZE SCAN SCRIPT CLUSTER CONFIG CLIENT ACL HELLO WAIT".split()
)
_SCRIPTED = frozenset("EVAL EVALSHA FCALL".split())


def key_of(args: Sequence[Any]) -> str | bytes | None:
    """The first key of a command that we give; None for one without."""
    name = str(args[0]).partition(" ")[0].upper()
    if name in _WITHOUT_KEY or len(args) == 1:
        return None
    if name in _SCRIPTED:
        return args[3] if int(args[2]) else None
    if name == "XREAD":
        words = [it.decode() if isinstance(it, bytes) else it for it in args]
        return words[words.index("STREAMS") + 1]
    return args[1]  # type: ignore[no-any-return]


def _slot(args: Sequence[Any], beside: int | None = None) -> int:
    key = key_of(args)
    if key is not None:
        return slot_of(key)
    return slot_of(keys.QUEUE.since) if beside is None else beside


def _other(error: AskError, place: Place, topology: Topology) -> Place:
    """Where a redirection leads."""
    if isinstance(error, MovedError):
        return topology.moved(error, place)
    return error.host or place[0], int(error.port)


def _nameless(error: AskError) -> ConnectionError:
    """It is there, and passes: whoever is told so tries again."""
    wrong = ConnectionError(f"the node that slot {error.slot_id} leads to has no name yet")
    wrong.__cause__ = error
    return wrong


class Cluster(Redis):
    """As a client of one server, for what is asked of it here."""

    def __init__(self, topology: Topology, name: str, **how: Any) -> None:
        # Of the pool of the first address only the encoder is used.
        self._seed = pooled(topology.address.url, name, **how)
        super().__init__(connection_pool=self._seed.connection_pool)
        self.topology = topology
        self._name = name
        # A retry is for here: where the primary is gone, another is asked.
        self._retries = how["retries"]
        self._how = how | {"retries": 0}
        self._clients: dict[Place, Redis] = {}
        self._version = topology.version
        self._texts: dict[str, str] = {}

    def register_script(self, script: Any) -> Any:
        registered = super().register_script(script)
        self._texts[registered.sha] = registered.script  # type: ignore[assignment]
        return registered

    async def primaries(self) -> list[Redis]:
        """A client of each."""
        await self.topology.known()
        return [await self.at(place) for place in self.topology.primaries]

    async def at(self, place: Place) -> Redis:
        if self._version != self.topology.version:
            await self._leave_others()
        client = self._clients.get(place)
        if client is None:
            url = self.topology.address.at(*place)
            client = self._clients[place] = pooled(url, self._name, **self._how)
        return client

    async def _leave_others(self) -> None:
        """Who waits there for a reply asks those who serve by now."""
        self._version = self.topology.version
        gone = [it for it in self._clients if it not in self.topology.primaries]
        for client in [self._clients.pop(place) for place in gone]:
            await client.aclose()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self.sent(_slot(args), args, options)

    async def sent(self, slot: int, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """What the primary of the slot answers. Raises as a client of one server."""
        topology = self.topology
        await topology.known()
        place, asking, retries = topology.owner(slot), False, self._retries
        wrong: Exception = ConnectionError("the slot moves on and on")
        for wait_s in WAITS_S:
            if wait_s:
                await asyncio.sleep(wait_s)
            client: Any = await self.at(place)
            try:
                return await self._given(client, args, options, asking=asking)
            except (RedisError, OSError) as error:
                wrong, left = error, place
                if isinstance(error, AskError) and error.host != NAMELESS:
                    place = _other(error, place, topology)
                    asking = not isinstance(error, MovedError)
                    continue
                if isinstance(error, AskError):
                    wrong = _nameless(error)
                elif not passes(error):
                    raise
                await topology.learn()
                place, asking = topology.owner(slot), False
                if place == left and wrong is error and code_of(error) not in _SOON:
                    if not retries:
                        raise
                    retries -= 1
        raise wrong

    async def _given(
        self, client: Any, args: Sequence[Any], options: dict[str, Any], *, asking: bool
    ) -> Any:
        try:
            if asking:
                return await _asked(client, args, options)
            return await client.execute_command(*args, **options)
        except NoScriptError:
            if args[1] not in self._texts:
                raise
        await client.script_load(self._texts[args[1]])
        return await self._given(client, args, options, asking=asking)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Without a transaction, which no command of ours needs."""
        return ClusterPipeline(self)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        clients, self._clients = self._clients, {}
        for client in (*clients.values(), self._seed):
            await client.aclose()


async def _asked(client: Any, args: Sequence[Any], options: dict[str, Any]) -> Any:
    """Of a server that takes the slot over, and answers who says so."""
    async with client.pipeline(transaction=False) as pipe:
        pipe.execute_command("ASKING")
        pipe.execute_command(*args, **options)
        _, reply = await pipe.execute(raise_on_error=False)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _asked_blocking(client: Any, args: Sequence[Any], options: Any) -> Any:
    """The same for a thread."""
    with client.pipeline(transaction=False) as pipe:
        pipe.execute_command("ASKING")
        pipe.execute_command(*args, **options)
        _, reply = pipe.execute(raise_on_error=False)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _raise_first(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


class ClusterPipeline(Pipeline):
    """Commands by primary, in one round trip for each."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, False, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = list(self.command_stack), []
        if not commands:
            return []
        await self._cluster.topology.known()
        by_place: defaultdict[Place, list[int]] = defaultdict(list)
        slots: list[int] = []
        for n, (args, _) in enumerate(commands):
            slots.append(_slot(args, slots[-1] if slots else None))
            by_place[self._cluster.topology.owner(slots[n])].append(n)
        replies: list[Any] = [None] * len(commands)
        parts = [
            self._execute_at(place, numbers, slots, commands, replies)
            for place, numbers in by_place.items()
        ]
        await asyncio.gather(*parts)
        if raise_on_error:
            _raise_first(replies)
        return replies

    async def _execute_at(
        self,
        place: Place,
        numbers: list[int],
        slots: list[int],
        commands: list[Any],
        replies: list[Any],
    ) -> None:
        client = await self._cluster.at(place)
        async with client.pipeline(transaction=False) as pipe:
            pipe.command_stack = [commands[n] for n in numbers]
            try:
                found = await pipe.execute(raise_on_error=False)
            except (RedisError, OSError) as error:
                if not passes(error):
                    raise
                found = [error] * len(numbers)
        for n, reply in zip(numbers, found, strict=True):
            replies[n] = reply
            if isinstance(reply, NoScriptError | AskError) or (
                isinstance(reply, Exception) and passes(reply)
            ):
                try:
                    replies[n] = await self._cluster.sent(slots[n], *commands[n])
                except RedisError as error:
                    replies[n] = error


class BlockingCluster(BlockingRedis):
    """The same for a thread; it has a topology of its own."""

    def __init__(self, topology: Topology, name: str, *, timeout_s: float) -> None:
        url = topology.address.url
        super().__init__(
            connection_pool=pooled_blocking(url, name, timeout_s=timeout_s).connection_pool
        )
        self._topology = topology
        self._name = name
        self._timeout_s = timeout_s
        self._clients: dict[Place, BlockingRedis] = {}

    def execute_command(self, *args: Any, **options: Any) -> Any:
        topology, slot = self._topology, _slot(args)
        if not topology.primaries:
            topology.learn_blocking()
        place, asking = topology.owner(slot), False
        wrong: Exception = ConnectionError("the slot moves on and on")
        # Without more patience: a lease has no time for that, and who renews it tries again.
        for _ in range(3):
            try:
                client: Any = self._at(place)
                if asking:
                    return _asked_blocking(client, args, options)
                return client.execute_command(*args, **options)
            except (RedisError, OSError) as error:
                wrong, left = error, place
                if isinstance(error, AskError) and error.host != NAMELESS:
                    place = _other(error, place, topology)
                    asking = not isinstance(error, MovedError)
                    continue
                if isinstance(error, AskError):
                    wrong = _nameless(error)
                elif not passes(error):
                    raise
                topology.learn_blocking()
                place, asking = topology.owner(slot), False
                if place == left and wrong is error:
                    raise
        raise wrong

    def script_load(self, script: Any) -> Any:
        """Everywhere: who asks does not say where it was missing."""
        loaded = None
        for place in self._topology.primaries:
            loaded = self._at(place).script_load(script)
        return loaded

    def _at(self, place: Place) -> BlockingRedis:
        for left in [it for it in self._clients if it not in self._topology.primaries]:
            self._clients.pop(left).close()
        client = self._clients.get(place)
        if client is None:
            url = self._topology.address.at(*place)
            client = pooled_blocking(url, self._name, timeout_s=self._timeout_s)
            self._clients[place] = client
        return client

    def close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()
        super().close()
