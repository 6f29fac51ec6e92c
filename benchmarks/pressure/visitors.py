"""Readers who may find no room, and come back as a browser does.

Invariant: a browser closes no connection of its own accord: it keeps it for the next request.
So whatever ends one was done to it, and is counted: in order, or as a reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from benchmarks.scale.herd import AT_ONCE, Herd, Reader


class Visitor(Reader):
    """Is told its run, or that it is to come back."""

    __slots__ = ("has_closed", "is_put_off")

    def __init__(self, herd: Visitors, run: int) -> None:
        super().__init__(herd, run)
        self.has_closed = self.is_put_off = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.has_closed = self.is_put_off = False
        kept = _Kept(self, cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, kept))

    def _ended(self, how: str) -> None:
        cast(Visitors, self.herd).live -= self.is_live and not self.end
        super()._ended(how)

    def connection_lost(self, exc: Exception | None) -> None:
        visitors = cast(Visitors, self.herd)
        visitors.live -= self.is_live and not self.end
        if not (self.has_closed or self.is_put_off or visitors.is_over):
            visitors.resets += 1
            visitors.fault(f"cut off: {exc!r}")
        super().connection_lost(exc)


class _Kept:
    """A transport whose reader does not close it where a response has ended before its run:
    the next request goes over another one, as long as this is not taken for it."""

    def __init__(self, visitor: Visitor, transport: asyncio.Transport) -> None:
        self._visitor, self._transport = visitor, transport
        self.write, self.abort = transport.write, transport.abort

    def close(self) -> None:
        visitor = self._visitor
        if visitor.end:
            visitor.has_closed = True
            self._transport.close()
        elif not visitor.is_put_off:
            visitor.is_put_off = True
            cast(Visitors, visitor.herd).one_put_off(visitor)


class Visitors(Herd):
    """`put_off` is how often one was told to come back, `retries_s` after how long, `waits_s`
    until each was first served, `most` how many were so at once; `resets` counts connections
    that ended before a response did."""

    def __init__(self, port: int, targets: Sequence[str]) -> None:
        super().__init__(port, targets)
        self.put_off = self.resets = self.live = self.most = 0
        self.retries_s: list[float] = []
        self.waits_s: list[float] = []
        self._came_at = 0.0

    @property
    def is_over(self) -> bool:
        return self._is_over

    async def come(self, count: int) -> None:
        """All of them, a few at a time; nobody waits for who finds no room."""
        self._came_at = self._loop.time()
        for start in range(0, count, AT_ONCE):
            some = [
                Visitor(self, number % len(self.targets))
                for number in range(start, min(start + AT_ONCE, count))
            ]
            self.readers += some
            self._away.update(some)
            await asyncio.gather(*(self._come(reader, 0.0) for reader in some))

    def arrived(self, reader: Reader) -> None:
        if reader in self._away:
            self.waits_s.append(self._loop.time() - self._came_at)
        super().arrived(reader)
        # Who is told all at once takes nobody's room.
        self.live += not reader.end
        self.most = max(self.most, self.live)

    def one_put_off(self, visitor: Visitor) -> None:
        self.put_off += 1
        self.retries_s.append(visitor.retry_s)

    def left(self, reader: Reader) -> None:
        if isinstance(reader, Visitor) and reader.is_put_off:
            # It has been counted as away ever since.
            self._away.add(reader)
        super().left(reader)
