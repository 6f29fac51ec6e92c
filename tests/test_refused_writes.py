"""A server that answers and takes no writes: demoted, without replicas, full disk, busy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ReadOnlyError

from plateau_sse.errors import StoreError, StoreUnavailable, WritesRefused
from plateau_sse.runner.writer import insist
from plateau_sse.store.queue.queue import ABANDONED_S, LEASE_S, Queue
from plateau_sse.store.redis import pulse
from plateau_sse.store.redis.connections import connect, connect_blocking, store_errors
from plateau_sse.store.runs.streams import Streams
from tests.conftest import Server, start_server
from tests.flaky_redis import FlakyRedis
from tests.processes import wait_until
from tests.queues import LIMIT, age, sign_of_life, take
from tests.store import on_streams, queued, running, text_of, texts


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def start() -> Server:
        servers.append(start_server("streams", tmp_path / str(len(servers))))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait(10)


def replicate(replica: Redis, of: Server) -> None:
    replica.replicaof("127.0.0.1", str(of.port))
    wait_until(
        lambda: replica.info("replication")["master_link_status"] == "up", "it is a replica"
    )


def test_nobody_stays_with_a_server_that_was_demoted(start: Callable[[], Server]) -> None:
    first, second = start(), start()

    async def scenario() -> None:
        with first.client() as old, second.client() as new:
            replicate(new, first)
            async with FlakyRedis(first.url) as address:
                # Two connections, and a thread's.
                redis: Any = connect(address.url, "test", connections=2)
                blocking = connect_blocking(address.url, "test")
                streams = Streams(redis, alive_s=60, record_s=600)
                run_id = await running(streams)
                await asyncio.to_thread(blocking.delete, "none")
                await asyncio.gather(*(redis.delete("none") for _ in range(2)))
                wait_until(lambda: new.exists(f"run:{{{run_id}}}") == 1, "it is copied")
                new.replicaof("NO", "ONE")
                replicate(old, second)
                # What is connected stays so, as behind a name or a virtual address.
                address.lead_to(second.url)
                appended = await streams.append(run_id, 1, texts("there"), first_seq=2)
                assert appended.code == "ok"
                async with redis.pipeline(transaction=False) as pipe:
                    pipe.hset("a", "b", "c")
                    pipe.expire("a", 60)
                    await pipe.execute()
                with suppress(ReadOnlyError):
                    # It is told, and its connection is closed.
                    await asyncio.to_thread(blocking.set, "d", "e", ex=60)
                await asyncio.to_thread(blocking.set, "d", "e", ex=60)
                assert new.exists("a", "d") == 2
                blocking.close()
                await redis.aclose()

    asyncio.run(scenario())


def test_what_passes_is_told_as_such(start: Callable[[], Server], tmp_path: Path) -> None:
    server = start()

    async def scenario() -> None:
        redis: Any = connect(server.url, "test", connections=2)
        client = server.client()

        async def refusal() -> StoreUnavailable:
            with pytest.raises(WritesRefused) as one, store_errors():
                await redis.set("a", "b", ex=60)
            with pytest.raises(WritesRefused), store_errors():
                async with redis.pipeline(transaction=False) as pipe:
                    pipe.exists("a")
                    pipe.set("a", "b", ex=60)
                    await pipe.execute()
            return one.value

        client.config_set("min-replicas-to-write", 1)
        assert "NOREPLICAS" in str(await refusal())
        client.config_set("min-replicas-to-write", 0)
        client.replicaof("127.0.0.1", "1")
        assert "READONLY" in str(await refusal())
        client.replicaof("NO", "ONE")
        # A script that does not end.
        client.config_set("busy-reply-threshold", 1)
        stuck: Any = server.client().connection_pool.get_connection()
        stuck.send_command("EVAL", "while true do end", 0)
        assert "BUSY" in str(await refusal())
        client.script_kill()
        stuck.disconnect()
        with store_errors():
            await redis.set("a", "b", ex=60)
        # It is to save, and cannot.
        client.config_set("save", "3600 1")
        shutil.rmtree(tmp_path / "0")
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it fails"
        )
        assert "MISCONF" in str(await refusal())
        client.config_set("save", "")
        # What is wrong for good is no such thing.
        with pytest.raises(StoreError) as wrong, store_errors():
            await redis.execute_command("HGET", "a", "b")
        assert type(wrong.value) is StoreError
        client.close()
        await redis.aclose()

    asyncio.run(scenario())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_leases_are_not_believed_after_writes_were_refused(
    start: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could renew one: their runs would end though their runner lives."""
    server, clock = start(), Clock()
    monkeypatch.setattr(pulse, "time", clock)
    monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 0.0)

    async def scenario(streams: Streams, redis: Any) -> None:
        queue = Queue(redis)
        await sign_of_life(queue, "living")
        # Nobody counts as alive from now on.
        monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 60.0)
        run_id = await queued(streams)
        assert await queue.enqueue(run_id, "notes", "ann", LIMIT) == "ok"
        monkeypatch.setattr("plateau_sse.store.queue.queue.RUNNER_DEAD_S", 0.0)
        (ticket,) = await take(queue, "living", 1)

        async def looked(seconds: float) -> list[str]:
            found: list[str] = []
            for _ in range(int(seconds)):
                clock.now += 1
                try:
                    look = await queue.look(30.0)
                    found += [one.run_id for one in (*look.overdue, *look.lost)]
                except WritesRefused:
                    continue
            return found

        assert await looked(2 * LEASE_S) == []
        await redis.config_set("min-replicas-to-write", 1)
        assert await looked(2 * ABANDONED_S) == []
        await redis.config_set("min-replicas-to-write", 0)
        await age(redis, ticket.run_id, int(ABANDONED_S * 1000) + 1)
        assert await looked(LEASE_S - 1) == []
        assert run_id in await looked(3)

    on_streams(server.url, scenario)


def test_an_append_is_made_again_once_writes_are_taken(start: Callable[[], Server]) -> None:
    server = start()

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await redis.config_set("min-replicas-to-write", 1)
        append = asyncio.create_task(
            insist(lambda: streams.append(run_id, 1, texts("a"), first_seq=2))
        )
        await asyncio.wait({append}, timeout=0.3)
        assert not append.done()
        await redis.config_set("min-replicas-to-write", 0)
        assert (await append).code == "ok"
        assert await text_of(redis, run_id) == "a"

    on_streams(server.url, scenario)
