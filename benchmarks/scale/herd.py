"""Readers by the ten thousand in one process, who come back as a browser does and check all
that they are told.

Invariant: nobody keeps more than a place, a checksum and a few numbers: an event that does not
begin where the last one ended is counted as lost or repeated, and in the end the checksum is
that of the run's record. What is shared by readers of one run is parsed once.
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple, cast
from zlib import crc32

import msgspec
from locustfiles.agent import STAMP

AT_ONCE = 50
# Until all are there.
OPEN_S = 600.0
# Of lags, which are those of one reader in so many.
LAGS_MOST, LAGS_OF = 200_000, 8
ERRORS_KEPT = 20
# Where the service has said nothing yet, or nobody took the connection.
RETRY_S = 1.0
DELTAS = ("message.delta", "reasoning.delta")
ENDS = ("run.completed", "run.failed", "run.cancelled")

_EVENT = re.compile(rb"id: ([^\n]+)\ndata: ([^\n]+)\n\n")
_RETRY = re.compile(rb"retry: (\d+)\n")
_BLOCK_END, _RESPONSE_END = b"\n\n\r\n", b"0\r\n\r\n"
_HEAD = (
    "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n{last}\r\n"
)


class Said(NamedTuple):
    """An event as a reader needs it: `id` as it came, where it ends, and how much of the tape
    it takes; `opens` is the number of its part, -1 for what has none. `at_us` is when the agent
    said what stands last in it, 0 where that is not to be seen."""

    id: bytes
    kind: str
    attempt: int
    at: int
    size: int
    opens: int
    text: bytes
    at_us: int


class _Event(msgspec.Struct):
    type: str
    text: str = ""
    part: int = -1


_decode = msgspec.json.Decoder(_Event).decode


@lru_cache(maxsize=4096)
def heard(blocks: bytes) -> tuple[Said, ...]:
    """The events with a place, of whole blocks; the frames of HTTP are passed over."""
    return tuple(_said(found[1], found[2]) for found in _EVENT.finditer(blocks))


def _said(place: bytes, data: bytes) -> Said:
    event = _decode(data)
    attempt, at = map(int, place.split(b"-")[-2:])
    if event.type not in DELTAS:
        return Said(place, event.type, attempt, at, 1, -1, b"", 0)
    stamps = STAMP.findall(event.text)
    at_us = int(stamps[-1][1]) if stamps else 0
    text = event.text.encode()
    return Said(place, event.type, attempt, at, len(text), event.part, text, at_us)


class Reader(asyncio.Protocol):
    """Follows one run until its end."""

    __slots__ = (
        "at",
        "attempt",
        "away_since",
        "connections",
        "end",
        "herd",
        "is_live",
        "is_measured",
        "last",
        "part",
        "rest",
        "retry_s",
        "run",
        "sum",
        "transport",
    )

    def __init__(self, herd: Herd, run: int) -> None:
        self.herd = herd
        self.run = run
        self.is_measured = run % LAGS_OF == 0
        self.attempt, self.at, self.part, self.sum = 1, 0, -1, 0
        self.last = self.rest = b""
        self.end = ""
        self.retry_s = RETRY_S
        self.connections = 0
        # Until its first event over this connection: whatever comes then may be old.
        self.is_live = False
        self.away_since = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none by inheritance.
        self.transport = transport = cast(asyncio.Transport, transport)
        self.connections += 1
        last = f"Last-Event-ID: {self.last.decode()}\r\n" if self.last else ""
        target = self.herd.targets[self.run]
        transport.write(_HEAD.format(target=target, last=last).encode())

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data, self.rest = self.rest + data, b""
        if not data.endswith(_BLOCK_END):
            whole, block_end, more = data.rpartition(b"\n\n")
            data, self.rest = whole + block_end, more
        if not self.is_live:
            self._begin(data or self.rest)
        events = heard(data) if data else ()
        for event in events:
            self._take(event)
        if events and not self.is_live:
            self.is_live = True
            self.herd.arrived(self)
        elif len(events) == 1 and self.is_measured and events[0].at_us:
            self.herd.lagged(events[0].at_us)
        if self.transport is not None and (self.end or self.rest.endswith(_RESPONSE_END)):
            self.transport.close()

    def _begin(self, data: bytes) -> None:
        """What stands before the first event: the head, and when to come back."""
        if data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 200 "):
            self.herd.fault(data[:120].split(b"\r\n")[0].decode("latin-1"))
            self._ended("refused")
        if found := _RETRY.search(data):
            self.retry_s = int(found[1]) / 1000

    def _take(self, event: Said) -> None:
        if self.end:
            self.herd.fault(f"{event.kind} after {self.end}")
        if event.kind == "run.restarted":
            self.herd.fault("run.restarted")
            self.attempt, self.at, self.part, self.sum = event.attempt, 0, -1, 0
            return
        opening = event.opens > self.part
        begins = event.at - event.size - opening
        if event.attempt != self.attempt or begins > self.at:
            self.herd.lost += 1
        elif begins < self.at:
            self.herd.repeated += 1
        self.attempt, self.at, self.last = event.attempt, event.at, event.id
        self.part = max(self.part, event.opens)
        self.sum = crc32(event.text, self.sum)
        if event.kind in ENDS:
            self._ended(event.kind)

    def _ended(self, how: str) -> None:
        """One that is told a second end is none more that has ended."""
        if not self.end:
            self.herd.one_ended()
        self.end = how

    def connection_lost(self, exc: Exception | None) -> None:
        self.rest, self.is_live, self.transport = b"", False, None
        self.herd.left(self)


class Herd:
    """All readers of one measurement, of the runs at `targets`: paths on this machine's `port`.
    `back_s` is how long each who was cut off was away: until its next event."""

    def __init__(self, port: int, targets: Sequence[str]) -> None:
        self.targets = targets
        self.readers: list[Reader] = []
        self.lost = self.repeated = self.cut = self._ended = 0
        self.all_ended, self._all_there = asyncio.Event(), asyncio.Event()
        self._all_there.set()
        self.errors: Counter[str] = Counter()
        self.back_s: list[float] = []
        self.lags_ms = array("d")
        self._port = port
        self._away: set[Reader] = set()
        self._coming: set[asyncio.Task[None]] = set()
        self._is_over = False
        self._loop = asyncio.get_running_loop()

    @property
    def away(self) -> int:
        return len(self._away)

    async def open(self, count: int, within_s: float = OPEN_S) -> None:
        """So many more, each until its first event, spread over the runs; RuntimeError where
        they are not all there within that time."""
        first = len(self.readers)
        deadline = self._loop.time() + within_s
        for start in range(first, first + count, AT_ONCE):
            some = [
                Reader(self, number % len(self.targets))
                for number in range(start, min(start + AT_ONCE, first + count))
            ]
            self.readers += some
            for reader in some:
                self._goes(reader)
                reader.away_since = 0.0
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.gather(*(self._come(reader, 0.0) for reader in some))
                    await self._all_there.wait()
            except TimeoutError:
                raise self._missing(within_s) from None

    async def until_there(self, within_s: float) -> None:
        """Until nobody is away; RuntimeError says how many are, and what they ran into."""
        try:
            async with asyncio.timeout(within_s):
                await self._all_there.wait()
        except TimeoutError:
            raise self._missing(within_s) from None

    def _missing(self, within_s: float) -> RuntimeError:
        return RuntimeError(
            f"{self.away} of {len(self.readers)} readers are not there within "
            f"{within_s:g} s: {dict(self.errors)}"
        )

    async def until_ended(self, within_s: float) -> None:
        """Each of them, or as many as do within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.all_ended.wait()

    def whole(self, outputs: Sequence[str]) -> int:
        """How many have had an end, and the text of their run's record."""
        sums = [crc32(output.encode()) for output in outputs]
        return sum(
            bool(reader.end) and reader.sum == sums[reader.run] for reader in self.readers
        )

    # ---- what readers tell

    def one_ended(self) -> None:
        self._ended += 1
        if self._ended == len(self.readers):
            self.all_ended.set()

    def arrived(self, reader: Reader) -> None:
        self._comes(reader)
        if reader.away_since:
            self.back_s.append(self._loop.time() - reader.away_since)

    def lagged(self, at_us: int) -> None:
        if len(self.lags_ms) < LAGS_MOST:
            self.lags_ms.append(time.time() * 1000 - at_us / 1000)

    def fault(self, what: str) -> None:
        self.errors[what if len(self.errors) < ERRORS_KEPT else "others"] += 1

    def left(self, reader: Reader) -> None:
        if reader.end or self._is_over:
            self._comes(reader)
            return
        if reader not in self._away:
            self._goes(reader)
            self.cut += 1
            reader.away_since = self._loop.time()
        self._again(reader)

    def _goes(self, reader: Reader) -> None:
        self._away.add(reader)
        self._all_there.clear()

    def _comes(self, reader: Reader) -> None:
        self._away.discard(reader)
        if not self._away:
            self._all_there.set()

    def _again(self, reader: Reader) -> None:
        task = self._loop.create_task(self._come(reader, reader.retry_s))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _come(self, reader: Reader, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while not self._is_over:
            try:
                await self._loop.create_connection(lambda: reader, "127.0.0.1", self._port)
                return
            except OSError as error:
                self.fault(f"not taken: {type(error).__name__}")
                await asyncio.sleep(reader.retry_s)

    def leave(self) -> None:
        """All at once."""
        self._is_over = True
        for task in self._coming:
            task.cancel()
        for reader in self.readers:
            if reader.transport is not None:
                reader.transport.abort()
