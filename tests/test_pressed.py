"""A worker with as many connections as it may have, and one more that asks."""

from __future__ import annotations

import asyncio
from collections import Counter

from plateau_sse.live import guard
from tests.test_protocol import LAST, Gate, Host, read_of, run, served
from tests.watched import until

MOST = 20
BODY = b"0123456789"
BEGUN = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:1]


def test_who_sends_a_body_slowly_makes_room_for_who_asks() -> None:
    """Or a few that never come to their ends would be all that a worker has. And of those who
    ask at once nobody is cut for another: they have asked, as soon as that is read."""
    gate = Gate()

    async def scenario(host: Host) -> None:
        counts: Counter[str] = Counter()
        host.guard = guard.Guard(lambda name, by=1: counts.update({name: by}), 64 + MOST)
        slow = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(MOST)]
        for _, writer in slow:
            writer.write(BEGUN)
        await until(lambda: len(host.state.tasks) == MOST, "all have begun")
        late_at = asyncio.get_running_loop().time() + guard.MOMENT_S
        await until(lambda: asyncio.get_running_loop().time() > late_at, "they are late")
        asking = [asyncio.create_task(read_of(host, LAST)) for _ in range(3)]
        await until(lambda: len(gate.bodies) == 3, "all are asked")
        gate.opened.set()
        assert [served(read) for read in await asyncio.gather(*asking)] == [1, 1, 1]
        # Those who have been at it for longest are told so, and nobody else is.
        for reader, _ in slow[:3]:
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        assert counts == {"connections_cut_room": 3}
        assert not any(reader.at_eof() for reader, _ in slow[3:])
        for _, writer in slow[3:]:
            writer.write(BODY[1:])
        await until(lambda: gate.bodies.count(BODY) == MOST - 3, "the others are answered")
        for _, writer in slow:
            writer.close()

    run(gate, scenario)


def test_a_body_that_is_whole_makes_no_room() -> None:
    """What was asked whole is answered."""
    gate = Gate()

    async def scenario(host: Host) -> None:
        counts: Counter[str] = Counter()
        host.guard = guard.Guard(lambda name, by=1: counts.update({name: by}), 64 + MOST)
        whole = BEGUN + BODY[1:]
        asked = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(MOST)]
        for _, writer in asked:
            writer.write(whole)
        await until(lambda: len(gate.bodies) == MOST, "all are asked")
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
        assert counts == {"connections_cut_refused": 1}
        gate.opened.set()
        for reader, _ in asked:
            assert (await reader.readuntil(BODY)).startswith(b"HTTP/1.1 200 ")
        for _, other in (*asked, (reader, writer)):
            other.close()

    run(gate, scenario)
