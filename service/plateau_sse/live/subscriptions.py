"""Subscribing to a cluster: one connection a primary, each channel on that of its slot.

Invariant: a feed that is followed is subscribed to at the primary that serves its slot, or is
about to be: whoever is told that the slot is elsewhere, or finds it there, asks anew until it
is confirmed. Each confirmation but the first has the feed repaired, since what was published
in between was heard by nobody here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError, MovedError

from plateau_sse import tasks
from plateau_sse.live.feed import Feed
from plateau_sse.live.subscription import Subscription
from plateau_sse.redis_urls import address_of
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import dialing
from plateau_sse.store.redis.pools import alone
from plateau_sse.store.redis.sentinel import Place
from plateau_sse.store.redis.topology import Topology, slot_of, topology_of

log = logging.getLogger("plateau.hub")

# While a feed is subscribed to nowhere; and at least, since all of a slot move at once.
AGAIN_S, SETTLE_S = 0.1, 0.01

OnMessage = Callable[[Feed, bytes], None]
OnConfirmed = Callable[[Feed], None]


def subscribing(
    url: str,
    name: str,
    feeds: dict[bytes, Feed],
    on_message: OnMessage,
    on_confirmed: OnConfirmed,
) -> Subscription | Subscriptions:
    """To the one server, the primary behind Sentinels, or all primaries of a cluster."""
    address = address_of(url)
    if address.kind == "cluster":
        return Subscriptions(topology_of(address), name, feeds, on_message, on_confirmed)
    return Subscription(dialing(url, name), feeds, on_message, on_confirmed)


class Subscriptions:
    """As a `Subscription` to one server."""

    def __init__(
        self,
        topology: Topology,
        name: str,
        feeds: dict[bytes, Feed],
        on_message: OnMessage,
        on_confirmed: OnConfirmed,
    ) -> None:
        self._topology = topology
        self._name = name
        self._feeds = feeds
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._nodes: dict[Place, _Node] = {}
        self._listening: dict[Place, asyncio.Task[None]] = {}
        self._moved = False
        # Set where something is to be subscribed to elsewhere than it was.
        self._stirred = asyncio.Event()

    @property
    def connected(self) -> bool:
        """To all of them: a run may be on any."""
        return bool(self._nodes) and all(node.connected for node in self._nodes.values())

    def subscribe(self, feed: Feed) -> None:
        node = self._node_of(keys.channel(feed.run_id))
        if node is None:
            self._stirred.set()
        else:
            node.subscribe(feed)

    def unsubscribe(self, channel: bytes) -> None:
        for node in self._nodes.values():
            if channel in node.held:
                node.unsubscribe(channel)

    def reconnect(self) -> None:
        for node in self._nodes.values():
            node.reconnect()

    async def listen(self) -> None:
        """Keep a connection to each primary, and every feed on the right one."""
        self._topology.on_change.add(self._stirred.set)
        try:
            while True:
                await asyncio.sleep(SETTLE_S)
                self._stirred.clear()
                try:
                    if self._moved or not self._topology.primaries:
                        self._moved = False
                        await self._topology.learn()
                    left = await self._settle()
                except ConnectionError as error:
                    log.warning("the subscriptions have to wait: %s", error)
                    left = True
                except Exception:
                    log.exception("the subscriptions met something unexpected")
                    left = True
                await self._rest(AGAIN_S if left else None)
        finally:
            self._topology.on_change.discard(self._stirred.set)
            await tasks.end(*self._listening.values())

    def ask_anew(self) -> None:
        """A slot has moved: where to is asked at once, however many channels say so."""
        self._moved = True
        self._stirred.set()

    async def _rest(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()
        except TimeoutError:
            return

    async def _settle(self) -> bool:
        """Whether a feed is subscribed to nowhere yet."""
        primaries = self._topology.primaries
        for place in [it for it in self._nodes if it not in primaries]:
            del self._nodes[place]
            await tasks.end(self._listening.pop(place))
        for place in primaries:
            if place not in self._nodes:
                self._nodes[place] = node = _Node(self, place)
                self._listening[place] = asyncio.create_task(node.listen())
        left = False
        for channel, feed in list(self._feeds.items()):
            node_of = self._node_of(channel)
            for node in self._nodes.values():
                if node is not node_of:
                    node.held.discard(channel)
            if node_of is None:
                left = True
            elif channel not in node_of.held:
                node_of.subscribe(feed)
        return left

    def _node_of(self, channel: str | bytes) -> _Node | None:
        try:
            return self._nodes.get(self._topology.owner(slot_of(channel)))
        except ConnectionError:
            return None


class _Node(Subscription):
    """That to one primary. `held`: the channels that it is asked for, or has confirmed."""

    def __init__(self, of: Subscriptions, place: Place) -> None:
        dial = partial(alone, of._topology.address.at(*place), of._name)
        super().__init__(dial, of._feeds, of._on_message, of._on_confirmed)
        self._of = of
        self._place = place
        self.held: set[bytes] = set()
        # What was asked for, in this order; None where that is the end of a subscription.
        self._commands: deque[tuple[bytes, Feed | None]] = deque()

    def _heard_here(self) -> Iterable[Feed]:
        # What was asked for on the connection before is void.
        self.held.clear()
        self._commands.clear()
        for channel, feed in self._feeds.items():
            if self._of._node_of(channel) is self:
                yield feed

    def subscribe(self, feed: Feed) -> None:
        if self._wire is not None and self._wire.is_open:
            channel = keys.channel(feed.run_id).encode()
            self.held.add(channel)
            self._commands.append((channel, feed))
            # One channel a command: two of them may be of different slots by now.
            self._wire.send("SSUBSCRIBE", channel)

    def _unsubscribe(self, channel: bytes) -> None:
        if self._wire is not None and channel not in self._feeds:
            self.held.discard(channel)
            if self._wire.is_open:
                self._commands.append((channel, None))
                self._wire.send("SUNSUBSCRIBE", channel)

    def _reply(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, Exception):
            self._refused(reply)
        elif reply[0] == b"smessage":
            feed = self._feeds.get(reply[1])
            if feed is not None:
                self._on_message(feed, reply[2])
        elif reply[0] == b"ssubscribe":
            _, feed = self._commands.popleft()
            if feed is not None:
                self._on_confirmed(feed)
        elif reply[0] == b"sunsubscribe":
            if self._commands and self._commands[0] == (reply[1], None):
                self._commands.popleft()
            else:
                # Nobody has asked for it: its slot has left this server.
                self._lost(reply[1])

    def _refused(self, error: Exception) -> None:
        """Most likely since the slot is elsewhere."""
        if not self._commands:
            raise error
        channel, feed = self._commands.popleft()
        if feed is None:
            return
        kind, _, said = str(error).partition(" ")
        if kind == "MOVED":
            self._of._topology.moved(MovedError(said), self._place)
        else:
            log.warning("a subscription is not taken by %s:%d: %s", *self._place, error)
        self._lost(channel)

    def _lost(self, channel: bytes) -> None:
        self.held.discard(channel)
        if channel in self._feeds:
            self._of.ask_anew()
