"""Readers who come back all at once: to a run that others follow here, and to one that nobody
does yet. Counted is what the store is asked; its canary and its counters ask a little, too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from plateau_sse.app import ASKING
from plateau_sse.live import kept
from plateau_sse.live.kept import Kept
from plateau_sse.live.sse import Frame
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids
from tests.test_growth import PIECE, TOKEN, Reader, Worker

HERD = 150
# What is asked meanwhile by others than readers.
OTHERS = 15


@pytest.fixture
def worker(streams_url: str) -> Iterator[Worker]:
    with Worker(streams_url) as running:
        yield running


def scripts(worker: Worker) -> int:
    """That were called so far."""
    return int(worker.redis.info("commandstats")["cmdstat_evalsha"]["calls"])


def nobody() -> None:
    """Nobody is waited for."""


def position(events: int) -> str:
    """Behind so many pieces, which are one part, and the start of the run."""
    return f"1-{2 + events * len(PIECE)}"


def arrivals(worker: Worker, run_id: str, at: str, token: str = TOKEN) -> list[socket.socket]:
    """A herd that has asked, and read nothing yet."""
    head = f"GET /v1/runs/{run_id}/events?token={token} HTTP/1.1\r\nHost: plateau\r\n"
    peers = []
    for _ in range(HERD):
        peers.append(socket.create_connection(("127.0.0.1", worker.port), timeout=20))
        peers[-1].sendall(f"{head}Last-Event-ID: {at}\r\n\r\n".encode())
    return peers


def read_to(peer: socket.socket, end: str) -> str:
    read = ""
    while f"-{end}\n" not in read or not read.endswith("\n\n\r\n"):
        more = peer.recv(65_536)
        assert more, read
        read += more.decode()
    return read


def test_who_comes_back_to_a_run_that_is_live_here_asks_the_store_nothing(
    worker: Worker,
) -> None:
    run_id = worker.start()
    with ExitStack() as stack:
        live = [Reader(worker, run_id) for _ in range(3)]
        for reader in live:
            stack.callback(reader.close)
        worker.publish(run_id, 10, after=live[0].next)
        before = scripts(worker)
        peers = arrivals(worker, run_id, position(6))
        for peer in peers:
            stack.callback(peer.close)
        texts = [read_to(peer, position(10)) for peer in peers]
        assert scripts(worker) - before < OTHERS
        assert all(text.count(PIECE) == 4 for text in texts)
        # And is live like everybody else.
        worker.publish(run_id, 1, after=live[1].next)
        for peer in peers:
            assert read_to(peer, position(11)).count(PIECE) == 1


def test_who_comes_back_together_to_where_nobody_is_asks_once(worker: Worker) -> None:
    """The worker that they followed the run at has gone."""
    run_id = worker.start()
    worker.publish(run_id, 10, after=nobody)
    before = scripts(worker)
    with ExitStack() as stack:
        peers = arrivals(worker, run_id, position(6))
        for peer in peers:
            stack.callback(peer.close)
        for peer in peers:
            assert read_to(peer, position(10)).count("data: ") >= 1
        # Who comes before the second has, or while the first reads, may ask as well.
        assert scripts(worker) - before < OTHERS + HERD // 10


def test_who_comes_back_together_to_where_one_is_alone_asks_once(worker: Worker) -> None:
    """The first of them was quicker than the others: nothing was kept for one."""
    run_id = worker.start()
    with ExitStack() as stack:
        first = Reader(worker, run_id)
        stack.callback(first.close)
        worker.publish(run_id, 10, after=first.next)
        before = scripts(worker)
        peers = arrivals(worker, run_id, position(6))
        for peer in peers:
            stack.callback(peer.close)
        texts = [read_to(peer, position(10)) for peer in peers]
        assert scripts(worker) - before < OTHERS + HERD // 10
        assert all(text.count(PIECE) == 4 for text in texts)
        worker.publish(run_id, 1, after=first.next)
        for peer in peers:
            assert read_to(peer, position(11)).count(PIECE) == 1


def test_what_is_kept_opens_to_nobody_whose_token_the_store_has_not_known(
    worker: Worker,
) -> None:
    run_id = worker.start()
    worker.redis.sadd(keys.run(run_id).tokens, "another")
    url = f"http://127.0.0.1:{worker.port}/v1/runs/{run_id}/events"
    with ExitStack() as stack:
        live = [Reader(worker, run_id) for _ in range(3)]
        for reader in live:
            stack.callback(reader.close)
        worker.publish(run_id, 3, after=live[0].next)
        headers = {"Last-Event-ID": position(2)}
        # Without a token it is for the owner, who is another.
        expected = {"wrong": 401, "another": 200, "!another": 401, "": 404}
        for token in ("wrong", *expected):
            with httpx.stream("GET", f"{url}?token={token}", headers=headers) as response:
                assert response.status_code == expected[token], token


def test_health_does_not_wait_behind_readers(worker: Worker) -> None:
    """All connections that readers ask over are taken."""
    pool: Any = worker._server.lifespan.state["streams"]._redis.connection_pool
    loop = worker._loop

    async def take() -> list[Any]:
        return [await pool.get_connection() for _ in range(ASKING)]

    async def give_back(taken: list[Any]) -> None:
        for connection in taken:
            await pool.release(connection)

    url = f"http://127.0.0.1:{worker.port}"
    taken = asyncio.run_coroutine_threadsafe(take(), loop).result(10)
    try:
        for _ in range(3):
            ready = httpx.get(f"{url}/health/ready", timeout=10)
            assert ready.status_code == 200 and ready.elapsed.total_seconds() < 1
            whole = httpx.get(f"{url}/health", timeout=10).json()
            assert whole["components"]["delivery"]["status"] == "up"
            assert whole["components"]["streams"]["status"] == "up"
    finally:
        asyncio.run_coroutine_threadsafe(give_back(taken), loop).result(10)


# What is kept


def test_what_is_kept_is_bounded_and_has_no_hole() -> None:
    kept_now = Kept("")
    at = 1
    for size in [10, 3000, 100, 16_000, 5, 7] * 40:
        before, at = at, at + size
        frame = Frame(ids.number(1, at), b"x" * size, b"")
        kept_now.add(ids.number(1, before), frame, followers=50)
        entries = kept_now.behind(kept_now.start)
        assert entries is not None
        assert sum(len(entry.data) for entry in entries) <= 50 * kept.FOLLOWER_BYTES
        assert len(entries) <= kept.ENTRIES_MOST
        reached = kept_now.start
        for entry in entries:
            assert entry.number == reached + len(entry.data)
            reached = entry.number
        assert reached == kept_now.end == ids.number(1, at)
    assert kept_now.behind(ids.number(1, at - 1)) is None


def test_a_hole_and_another_attempt_begin_anew() -> None:
    kept_now = Kept("")
    first, second = ids.number(1, 5), ids.number(1, 9)
    kept_now.add(ids.number(1, 4), Frame(first, b"a", b""), 2)
    kept_now.add(ids.number(1, 8), Frame(second, b"b", b""), 2)
    assert kept_now.behind(first) is None
    assert [entry.data for entry in kept_now.behind(ids.number(1, 8)) or []] == [b"b"]
    begun = ids.number(2, 0)
    kept_now.add(second, Frame(begun, b"again", b""), 2)
    kept_now.add(begun, Frame(ids.number(2, 1), b"c", b""), 2)
    assert kept_now.behind(second) is None
    assert [entry.data for entry in kept_now.behind(begun) or []] == [b"c"]


def test_a_run_is_opened_by_a_token_that_was_known_or_by_its_owner() -> None:
    kept_now = Kept("first")
    assert kept_now.opens_to("first", "")
    assert not any(kept_now.opens_to(*who) for who in (("", ""), ("x", ""), ("", "ann")))
    kept_now.prove("second", "ann")
    assert kept_now.opens_to("second", "") and kept_now.opens_to("", "ann")
    assert not kept_now.opens_to("", "bob") and not kept_now.opens_to("third", "ann")
