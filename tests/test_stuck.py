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
from tests.faults import send_queues
from tests.test_protocol import GET, Host, answer, run
from tests.watched import until

# The least that the kernel gives.
BUFFER = 2048
SLOW = 40
PACE_S = 0.6
PATIENCE_S = 3


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "TURNS", 1)
    monkeypatch.setattr(stuck, "LOOKS", PATIENCE_S)


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


def test_what_is_never_acknowledged_is_not_taken_for_what_is_not_counted() -> None:
    """What is left grows with each ping: that is no sign of a peer."""

    class Socket(socket.socket):
        def getsockopt(self, *_: Any) -> bytes:  # type: ignore[override]
            return stuck._ACKED.pack(0, 80)

    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            with Socket(fileno=accepted.detach()) as ours:
                found = []
                for _ in range(2):
                    ours.sendall(b"x" * 200_000)
                    found.append(stuck.taken_of(ours))
                assert found == [0, 0]


def test_who_has_gone_is_reset_in_vain() -> None:
    """uvloop raises another error than the kernel does."""

    async def scenario(host: Host) -> None:
        with connect(host):
            await until(lambda: host.state.tasks, "it is asked")
            connection: Any = next(iter(host.state.connections))
        await until(lambda: not host.state.connections, "it has gone")
        connection.reset()
        assert connection.taken() is None

    run(begun, scenario)


def test_a_look_that_fails_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are still waited for only so long, in this look and in the next."""
    monkeypatch.setattr(guard, "HEAD_S", 0.5)
    monkeypatch.setattr(stuck.Stuck, "look", lambda *_: 1 / 0)

    async def scenario(host: Host) -> None:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", host.port)):
                await until(lambda: host.state.connections, "it has come")
                await until(lambda: not host.state.connections, "it is closed on")

    run(begun, scenario)


def test_what_is_closed_with_something_unread_is_kept_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the kernel, which asks a closed window for minutes."""
    monkeypatch.setattr(stuck, "TAIL_S", 2)

    async def closing(_: Any, __: Any, send: Any) -> None:
        await answer(send, b"x" * 30_000)

    async def scenario(host: Host) -> None:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        peer.connect(("127.0.0.1", host.port))
        with peer:
            peer.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await until(lambda: host.state.total_requests, "it is asked")
            await until(lambda: not host.state.connections, "it is closed")
            assert send_queues(f"http://127.0.0.1:{host.port}")
            await until(
                lambda: not send_queues(f"http://127.0.0.1:{host.port}"), "the kernel ends it"
            )

    run(closing, scenario)


def test_who_has_taken_all_starts_anew() -> None:
    looking = stuck.Stuck()

    class Peer:
        says: int | None = 5

        def taken(self) -> int | None:
            return self.says

    peer = Peer()

    def cuts(*says: int | None) -> list[bool]:
        found = []
        for peer.says in says:
            found.append(bool(looking.look([peer])))
        return found

    assert not any(cuts(0, 0, 0, 6, 6, 6, None, 6, 6, 6))
    assert cuts(6) == [True]
    looking.forget(peer)
    assert not any(cuts(6, 6, 6)) and cuts(6) == [True]
