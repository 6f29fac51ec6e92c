"""Lookups over one pipelined connection: each gets its own value, whatever others meet."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from plateau_sse import tasks
from plateau_sse.errors import StoreError, StoreUnavailable
from plateau_sse.store.answers.lookups import WINDOW, Lookups
from plateau_sse.store.redis.patience import REST_S
from tests.conftest import Server, end_server, start_server

TIMEOUT_S = 0.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that the test may stop, with the numbers up to 999 under `n:<number>`."""
    started = start_server("cache", tmp_path)
    with started.client() as client:
        client.mset({f"n:{number}": number for number in range(1000)})
    yield started
    started.process.send_signal(signal.SIGCONT)
    end_server(started)


def on_lookups(server: Server, scenario: Callable[[Lookups], Awaitable[None]]) -> None:
    async def opened() -> None:
        lookups = Lookups(server.url, "lookups", timeout_s=TIMEOUT_S)
        try:
            await scenario(lookups)
        finally:
            await lookups.close()

    asyncio.run(opened())


@asynccontextmanager
async def slow_to_begin(server: Server, after_s: float) -> AsyncIterator[str]:
    """The URL at which it answers nothing on a connection before that has been open so long."""
    pumping: set[asyncio.Task[None]] = set()
    ways: list[asyncio.StreamWriter] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)
        answers, asks = await asyncio.open_connection("127.0.0.1", server.port)
        ways.extend((asks, writer))
        for way in (pump(reader, asks), pump(answers, writer)):
            pumping.add(asyncio.create_task(way))

    relay = await asyncio.start_server(on_client, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{relay.sockets[0].getsockname()[1]}/0"
    finally:
        relay.close()
        await tasks.end(*pumping)
        for way in ways:
            way.transport.abort()
        # A transport is closed a turn of the loop after it was given up.
        await asyncio.sleep(0)


async def rested(lookups: Lookups) -> bytes | None:
    """What is found once it asks again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await lookups.get("n:1")
            except StoreUnavailable:
                await asyncio.sleep(0.01)


def test_each_of_many_gets_its_own_value_over_one_connection(server: Server) -> None:
    async def scenario(lookups: Lookups) -> None:
        asked = [random.randrange(1100) for _ in range(3000)]
        found = await asyncio.gather(*(lookups.get(f"n:{number}") for number in asked))
        assert found == [b"%d" % n if n < 1000 else None for n in asked]
        with server.client() as client:
            names = [one["name"] for one in client.client_list()]
        assert names.count("lookups") == 1

    on_lookups(server, scenario)


def test_who_goes_leaves_its_reply_to_nobody_and_its_place_to_all(server: Server) -> None:
    async def scenario(lookups: Lookups) -> None:
        await lookups.get("n:1")
        for _ in range(3 * WINDOW):
            going = asyncio.create_task(lookups.get("n:7"))
            await asyncio.sleep(0)
            assert lookups._sent
            going.cancel()
            assert await lookups.get("n:8") == b"8"

    on_lookups(server, scenario)


def test_no_more_than_the_window_is_under_way(server: Server) -> None:
    async def scenario(lookups: Lookups) -> None:
        await lookups.get("n:1")
        under_way: list[int] = []

        async def ask(number: int) -> None:
            asking = asyncio.create_task(lookups.get(f"n:{number}"))
            await asyncio.sleep(0)
            under_way.append(len(lookups._sent))
            await asking

        await asyncio.gather(*(ask(number) for number in range(1000)))
        assert max(under_way) == WINDOW

    on_lookups(server, scenario)


def test_a_connection_closed_while_idle_is_not_noticed(server: Server) -> None:
    async def scenario(lookups: Lookups) -> None:
        for _ in range(3):
            assert await lookups.get("n:5") == b"5"
            with server.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
            # Its end has not been heard of yet, so the command goes out on it.
            assert await lookups.get("n:6") == b"6"

    on_lookups(server, scenario)


def test_silence_ends_all_that_wait_and_is_not_asked_again_at_once(server: Server) -> None:
    async def scenario(lookups: Lookups) -> None:
        loop = asyncio.get_running_loop()
        assert await lookups.get("n:1") == b"1"
        server.process.send_signal(signal.SIGSTOP)
        began = loop.time()
        # Ten windows: one after the other they would wait for ten timeouts.
        many = (lookups.get(f"n:{n}") for n in range(10 * WINDOW))
        found = await asyncio.gather(*many, return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) for one in found)
        assert loop.time() - began < 5 * TIMEOUT_S
        server.process.send_signal(signal.SIGCONT)
        assert await rested(lookups) == b"1"
        assert loop.time() - began >= REST_S
        # The replies that came late have answered nobody.
        assert await lookups.get("n:2") == b"2"

    on_lookups(server, scenario)


@pytest.mark.parametrize("ahead", [False, True], ids=["by_the_first", "ahead"])
def test_a_connection_that_takes_long_is_there_for_who_asks_next(
    server: Server, *, ahead: bool
) -> None:
    """Over TLS, behind Sentinels, on a busy machine: each attempt anew would take as long."""

    async def scenario() -> None:
        async with slow_to_begin(server, 1.5 * TIMEOUT_S) as url:
            lookups = Lookups(url, "lookups", timeout_s=TIMEOUT_S)
            try:
                if ahead:
                    lookups.open()
                else:
                    with pytest.raises(StoreUnavailable):
                        await lookups.get("n:1")
                await asyncio.sleep(TIMEOUT_S * (2.0 if ahead else 1.0))
                # Within the rest that the first has begun.
                assert await lookups.get("n:1") == b"1"
            finally:
                await lookups.close()

    asyncio.run(scenario())


def test_a_server_that_is_gone_is_an_error(server: Server) -> None:
    async def scenario(lookups: Lookups) -> None:
        assert await lookups.get("n:1") == b"1"
        end_server(server)
        with pytest.raises(StoreUnavailable):
            await lookups.get("n:1")

    on_lookups(server, scenario)


def test_what_redis_refuses_is_an_error_of_that_lookup_alone(server: Server) -> None:
    with server.client() as client:
        client.lpush("list", "x")

    async def scenario(lookups: Lookups) -> None:
        refused, found = await asyncio.gather(
            lookups.get("list"), lookups.get("n:3"), return_exceptions=True
        )
        assert isinstance(refused, StoreError) and "WRONGTYPE" in str(refused)
        assert found == b"3"

    on_lookups(server, scenario)
