"""The connection to Redis whose replies are heard as they come, at its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from plateau_sse.errors import StoreUnavailable
from plateau_sse.live.hub import Hub
from plateau_sse.live.subscription import Subscription
from plateau_sse.store.redis.connections import connect, single_connection
from plateau_sse.store.redis.wire import Wire
from plateau_sse.store.runs.streams import Streams
from tests.store import queued
from tests.watched import until

# What a worker runs on; asyncio's own transports bear being written to when they are closed.
LOOP = uvloop.new_event_loop


@pytest.mark.parametrize("end", ["the server", "ourselves"])
def test_a_connection_that_has_ended_sends_nothing(streams_url: str, end: str) -> None:
    async def scenario() -> None:
        connection = single_connection(streams_url, "test-wire")
        await connection.connect()  # type: ignore[no-untyped-call]
        replies: list[object] = []
        wire = Wire(connection, replies.append)
        wire.send("CLIENT", "ID")
        await until(lambda: replies, "it answers")
        wire.send_soon("PING")
        if end == "ourselves":
            wire.close()
        else:
            redis: Any = connect(streams_url, "test", connections=1)
            await redis.execute_command("CLIENT", "KILL", "ID", replies[0])
            await redis.aclose()
        await asyncio.wait({wire.closed}, timeout=5)
        assert wire.closed.done() and not wire.is_open
        heard = len(replies)
        wire.send("PING")
        wire.send_soon("PING")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(replies) == heard

    with asyncio.Runner(loop_factory=LOOP) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("end", ["the server", "ourselves"])
def test_who_joins_in_the_turn_in_which_the_connection_ends_is_served(
    streams_url: str, end: str
) -> None:
    """The hub learns of it some turns of the loop later."""

    async def scenario() -> None:
        redis: Any = connect(streams_url, "test")
        streams = Streams(redis, alive_s=60, record_s=600)
        hub = Hub(streams_url, streams, "test-hub")
        hub.open()
        try:
            await until(lambda: hub.connected, "it is connected")
            first = await hub.join(await queued(streams))
            joining: list[asyncio.Task[object]] = []
            runs = [await queued(streams) for _ in range(6)]
            seen: list[bool] = []

            def ended(_: object) -> None:
                seen.append(hub.connected)
                hub.part(first)
                if not joining:
                    join_in_turn()

            def join_in_turn() -> None:
                joining.append(asyncio.ensure_future(hub.join(runs[len(joining)])))
                if len(joining) < len(runs):
                    asyncio.get_running_loop().call_soon(join_in_turn)

            assert isinstance(hub._subscription, Subscription)
            wire = hub._subscription._wire
            assert wire is not None
            wire.closed.add_done_callback(ended)
            if end == "ourselves":
                hub.reconnect()
                join_in_turn()
            else:
                await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: len(joining) == len(runs), "the connection has ended")
            results = await asyncio.gather(*joining, return_exceptions=True)
            wrong = [it for it in results if isinstance(it, Exception)]
            # Served, or told to come back: nothing else.
            assert all(isinstance(error, StoreUnavailable) for error in wrong), wrong
            assert seen == [False]
            await until(lambda: hub.connected, "it is connected again")
            await hub.join(runs[0])
        finally:
            await hub.close()
            await redis.aclose()

    with asyncio.Runner(loop_factory=LOOP) as runner:
        runner.run(scenario())
