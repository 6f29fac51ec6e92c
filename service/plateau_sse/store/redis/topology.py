"""Which primary of a cluster serves which slot, as far as is known here.

Invariant: what is known follows the cluster: whoever is redirected, or finds a primary gone,
has it learned anew, and as long as it is followed, so it is every `LOOK_S` whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from redis.crc import key_slot
from redis.exceptions import ConnectionError, MovedError, RedisError

from plateau_sse import tasks
from plateau_sse.errors import StoreUnavailable
from plateau_sse.redis_urls import Address
from plateau_sse.store.redis.pools import alone, pooled_blocking
from plateau_sse.store.redis.sentinel import ANSWER_S, LOOK_S, Place

log = logging.getLogger("plateau.store")

SLOTS = 16384
NAME = "plateau-topology"
# For a node where names are preferred, and it has said none yet.
NAMELESS = "?"
_ASK = ("CLUSTER", "SLOTS")


def slot_of(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)


class Topology:
    """One a process and cluster; a thread has one of its own. `version` grows with every change
    and `on_change` is told of it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.version = 0
        self.primaries: tuple[Place, ...] = ()
        self.on_change: set[Callable[[], None]] = set()
        self._owners: list[Place | None] = [None] * SLOTS
        self._learning: asyncio.Task[None] | None = None

    def owner(self, slot: int) -> Place:
        """Raises ConnectionError where nobody serves it."""
        place = self._owners[slot]
        if place is None:
            raise ConnectionError(f"no primary of the cluster serves slot {slot}")
        return place

    async def known(self) -> None:
        """Raises ConnectionError, as `learn`."""
        if not self.primaries:
            await self.learn()

    async def learn(self) -> None:
        """One asks for all who want to know just now. Raises ConnectionError where nobody
        answers."""
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())
        try:
            await tasks.shared(self._learning)
        except StoreUnavailable as error:
            raise ConnectionError(str(error)) from error

    async def _learn(self) -> None:
        try:
            wrong: Exception | None = None
            for place in self._candidates():
                connection: Any = alone(self.address.at(*place), NAME)
                try:
                    async with asyncio.timeout(ANSWER_S):
                        await connection.send_command(*_ASK)
                        reply = await connection.read_response()
                except (RedisError, OSError, TimeoutError) as error:
                    wrong = error
                    continue
                finally:
                    with suppress(Exception):
                        await connection.disconnect(nowait=True)
                if self._adopt(reply, place):
                    return
            raise _nobody(wrong)
        finally:
            self._learning = None

    def learn_blocking(self) -> None:
        """The same for a thread."""
        wrong: Exception | None = None
        for place in self._candidates():
            client: Any = pooled_blocking(self.address.at(*place), NAME, timeout_s=ANSWER_S)
            try:
                connection = client.connection_pool.get_connection()
                connection.send_command(*_ASK)
                reply = connection.read_response()
            except (RedisError, OSError) as error:
                wrong = error
                continue
            finally:
                client.close()
            if self._adopt(reply, place):
                return
        raise _nobody(wrong)

    async def keep_following(self) -> None:
        """For ever."""
        while True:
            with suppress(ConnectionError):
                await self.learn()
            await asyncio.sleep(LOOK_S * random.uniform(0.5, 1.0))

    def moved(self, error: MovedError, asked: Place) -> Place:
        """What a server has said that does not serve a slot (any more): who does."""
        if error.host == NAMELESS:
            # Whoever asked has all of it learned anew.
            return asked
        place = (error.host or asked[0], int(error.port))
        self._owners[error.slot_id] = place
        if place not in self.primaries:
            self._changed((*self.primaries, place))
        elif self._owners[error.slot_id] != asked:
            self._changed(self.primaries)
        return place

    def _candidates(self) -> list[Place]:
        """Any of them knows; a random one first: one that is cut off knows what was."""
        known = random.sample(self.primaries, len(self.primaries))
        return [*known, *(it for it in self.address.hosts if it not in known)]

    def _adopt(self, reply: Iterable[Any], asked: Place) -> bool:
        """False where there is nothing in it: a node that has not met the others."""
        owners: list[Place | None] = [None] * SLOTS
        for first, last, primary, *_ in reply:
            place = (_host(primary) or asked[0], int(primary[1]))
            owners[int(first) : int(last) + 1] = [place] * (int(last) - int(first) + 1)
        primaries = tuple(dict.fromkeys(place for place in owners if place is not None))
        if not primaries:
            return False
        if owners != self._owners:
            self._owners = owners
            self._changed(primaries)
        return True

    def _changed(self, primaries: tuple[Place, ...]) -> None:
        if self.primaries and set(primaries) != set(self.primaries):
            log.warning("the cluster's primaries are now %s", _shown(primaries))
        self.primaries = primaries
        self.version += 1
        for told in tuple(self.on_change):
            told()


def _host(node: list[Any]) -> str:
    """'' for that of whoever was asked. A node that has no name yet has its address beside it,
    where the others are known by their names."""
    host = (node[0] or b"").decode()
    if host != NAMELESS:
        return host
    more = node[3] if len(node) > 3 else []
    beside = dict(zip(more[::2], more[1::2], strict=False))
    found: bytes = beside.get(b"ip", b"")
    return found.decode()


def _shown(places: Iterable[Place]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in places)


def _nobody(error: Exception | None) -> ConnectionError:
    why = f": {error}" if error is not None else ""
    return ConnectionError(f"no node of the cluster says who serves what{why}")


# Those who use one cluster in one process follow it together, for as long as one of them does.
_known: WeakValueDictionary[Address, Topology] = WeakValueDictionary()


def topology_of(address: Address) -> Topology:
    """The one that is shared in this process, for its loop."""
    topology = _known.get(address)
    if topology is None:
        topology = _known[address] = Topology(address)
    return topology
