"""Connections that keep a server waiting, in a process of their own: what opening them costs is
none of the time in which others are told something.

    python -m benchmarks.pressure.peers PORT HEADS BODIES SILENT

Each slow one says a byte a second. It is told on stdout how many are `open` once all are, and
then how many are left, each second until none is.

Invariant: a connection that is gone is not opened again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import cast

import uvloop

from benchmarks.measuring import open_files_most

AT_ONCE = 100
SAY_S = 1.0
LONGEST_S = 120.0
HEAD = b"GET /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
BODY = (
    b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 10000\r\n\r\n{"agent": "load", "input": "'
)


class Peer(asyncio.Protocol):
    def __init__(self, begins: bytes, there: set[Peer]) -> None:
        self._begins, self._there = begins, there
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._there.add(self)
        if self._begins:
            self._transport.write(self._begins)

    def say(self) -> None:
        if self._begins and self._transport is not None:
            self._transport.write(b"x")

    def connection_lost(self, exc: Exception | None) -> None:
        self._there.discard(self)


async def besiege(port: int, kinds: Sequence[bytes]) -> None:
    loop = asyncio.get_running_loop()
    there: set[Peer] = set()
    failed = 0
    for start in range(0, len(kinds), AT_ONCE):
        found = await asyncio.gather(
            *(
                loop.create_connection(lambda kind=kind: Peer(kind, there), "127.0.0.1", port)  # type: ignore[misc]
                for kind in kinds[start : start + AT_ONCE]
            ),
            return_exceptions=True,
        )
        failed += sum(isinstance(one, BaseException) for one in found)
    say(f"open {len(kinds) - failed}")
    began = loop.time()
    while there and loop.time() - began < LONGEST_S:
        await asyncio.sleep(SAY_S)
        for peer in list(there):
            peer.say()
        say(f"left {len(there)}")
    say("left 0" if not there else "over")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(port: int, heads: int, bodies: int, silent: int) -> None:
    open_files_most()
    uvloop.run(besiege(port, [HEAD] * heads + [BODY] * bodies + [b""] * silent))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
