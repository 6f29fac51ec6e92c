"""Peers that take little of what they are sent, and those that take nothing."""

from __future__ import annotations

import asyncio
import random
import select
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.live import guard, stuck
from tests.test_protocol import GET, Host, answer, run
from tests.watched import until

# The least that the kernel gives.
BUFFER = 2048
SLOW = 40
PACE_S = 0.6
PATIENCE_S = 3.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "STUCK_S", PATIENCE_S)
    monkeypatch.setattr(stuck, "TURNS", 2)


async def never_ending(_: Any, __: Any, send: Any) -> None:
    """Some of it at a time, as answers come."""
    chances = random.Random(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not send.__self__.disconnected:
        frame = b"x" * 700 * chances.choice((1, 1, 1, 1, 8))
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        await asyncio.sleep(chances.uniform(0, 0.1))


def connect(host: Host) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    peer.connect(("127.0.0.1", host.port))
    peer.sendall(GET)
    peer.setblocking(False)
    return peer


async def read_slowly(peer: socket.socket, for_s: float) -> int:
    """How many bytes came; raises what the connection ends with."""
    loop, got = asyncio.get_running_loop(), 0
    until_s = loop.time() + for_s
    while loop.time() < until_s:
        read = await asyncio.wait_for(loop.sock_recv(peer, 1024), 5 * PATIENCE_S)
        if not read:
            raise EOFError
        got += len(read)
        await asyncio.sleep(random.uniform(0, PACE_S))
    return got


def test_who_reads_slowly_is_not_cut() -> None:
    """The kernel's own clock cut nearly all of these: where a window is smaller than what is to
    be sent next, nothing that is taken sets it back. Some it did not tell."""

    async def scenario(host: Host) -> None:
        counts: Counter[str] = Counter()
        host.guard = guard.Guard(lambda name, by=1: counts.update({name: by}))
        peers = [connect(host) for _ in range(SLOW)]
        ends = await asyncio.gather(
            *(read_slowly(peer, 4 * PATIENCE_S) for peer in peers), return_exceptions=True
        )
        for peer in peers:
            peer.close()
        assert all(isinstance(end, int) and end > 2 * BUFFER for end in ends), Counter(
            repr(end) for end in ends if not isinstance(end, int)
        )
        assert not counts

    run(never_ending, scenario)


async def endless(_: Any, __: Any, send: Any) -> None:
    """As fast as it is taken."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not send.__self__.disconnected:
        await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})


async def complete(_: Any, __: Any, send: Any) -> None:
    """All of it at once: its end waits with it."""
    await answer(send, b"x" * 200_000)


async def begun(_: Any, __: Any, send: Any) -> None:
    """No more than the kernel holds: nobody here waits for it."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 8192, "more_body": True})
    await until(lambda: send.__self__.disconnected, "it is cut")


def is_reset(peer: socket.socket) -> bool:
    poll = select.poll()
    poll.register(peer, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


@pytest.mark.parametrize("app", [endless, complete, begun])
def test_who_takes_nothing_is_cut_and_knows_it(app: Callable[..., Awaitable[None]]) -> None:
    """Without reading, or saying, anything."""

    async def scenario(host: Host) -> None:
        counts: Counter[str] = Counter()
        host.guard = guard.Guard(lambda name, by=1: counts.update({name: by}))
        with connect(host) as peer:
            await until(lambda: is_reset(peer), "it is reset", timeout_s=25)
            await until(lambda: not host.state.connections, "it is forgotten")
        assert counts == {"connections_cut_stuck": 1}

    run(app, scenario, timeout_keep_alive=1)


def test_a_unix_socket_is_looked_at_as_well(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    with server, socket.socket(socket.AF_UNIX) as peer:
        server.bind(str(tmp_path / "s"))
        server.listen()
        peer.connect(str(tmp_path / "s"))
        ours, _ = server.accept()
        with ours:
            assert stuck.taken_of(ours) is None
            ours.sendall(b"x" * 1000)
            before = stuck.taken_of(ours)
            assert before and stuck.taken_of(ours) == before
            peer.recv(1000)
            assert stuck.taken_of(ours) is None


def test_who_has_taken_all_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "TURNS", 1)
    looking = stuck.Stuck()

    class Peer:
        says: int | None = 5

        def taken(self) -> int | None:
            return self.says

    peer = Peer()

    def is_cut(says: int | None, now: float) -> bool:
        peer.says = says
        return bool(looking.look([peer], now))

    assert not is_cut(5, 0) and not is_cut(5, PATIENCE_S - 1)
    assert not is_cut(6, PATIENCE_S + 1) and not is_cut(6, 2 * PATIENCE_S)
    assert not is_cut(None, 2 * PATIENCE_S + 2) and not is_cut(6, 2 * PATIENCE_S + 3)
    assert is_cut(6, 3 * PATIENCE_S + 3)
    looking.forget(peer)
    assert not is_cut(6, 3 * PATIENCE_S + 4)
