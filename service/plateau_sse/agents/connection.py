"""One HTTP/1.1 connection to the endpoint of a model: a question, its answer, perhaps another.

Invariant: a connection is clean, and may be used again, only where everything that ever came
over it was the answer to what had been asked, read to its end. Bytes that nobody asked for
would be taken for the beginning of the next answer: one user's words in another's run. They may
lie in the socket, behind TLS, in what was received or in what HTTP has made of it; so each of
these is looked at here, where a client library looks at the socket alone.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any, cast

import h11

from plateau_sse.agents.proxies import Proxy

# An address that does not answer at once is given company, as browsers do.
NEXT_ADDRESS_S = 0.25
# What may have been received and not been read; then the endpoint has to wait.
MOST_WAITING = 128 * 1024
# Of one head, and of the line that begins a chunk.
MAX_HEAD = 100 * 1024
# Before an answer there may be others that are none (100, 102, 103).
MAX_INFORMATIONAL = 100
# What a proxy answers before it is a tunnel.
MAX_TUNNEL_HEAD = 16 * 1024


class Refusal(Exception):
    """A proxy makes no tunnel; what it says is its status."""


class Connection(asyncio.Protocol):
    """`has_heard`: whether anything has come since `ask`."""

    def __init__(self) -> None:
        self.has_heard = False
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._news = asyncio.Event()
        self._is_over = self._is_idle = self._is_held_back = False
        self._error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self.close()
            return
        self.has_heard = True
        self._received += data
        if len(self._received) > MOST_WAITING and self._transport is not None:
            self._is_held_back = True
            self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> None:
        self._is_over = True
        self._news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over = True
        self._error = error
        self._news.set()

    def ask(self, request: h11.Request, body: bytes) -> None:
        """Send it. h11.LocalProtocolError: it is no request. OSError: it is closed."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed before anything was asked")
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        self._is_idle = self.has_heard = False
        sending = (request, h11.Data(data=body), h11.EndOfMessage())
        self._transport.write(b"".join(self._http.send(event) or b"" for event in sending))

    async def head(self, silence_s: float) -> h11.Response:
        """The answer's, without what may come before it. Raises as `event` does."""
        for _ in range(MAX_INFORMATIONAL):
            event = await self.event(silence_s)
            if isinstance(event, h11.Response):
                return event
        raise h11.RemoteProtocolError("too many informational responses")

    async def event(self, silence_s: float) -> h11.Event:
        """What comes next: of the body `h11.Data`, then `h11.EndOfMessage`. TimeoutError after
        `silence_s` without a byte, OSError or h11.RemoteProtocolError where it breaks."""
        has_ended = False
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if has_ended or event is h11.PAUSED:
                # It would be asked for ever, and nothing else in this loop would have its turn.
                raise h11.RemoteProtocolError("there is no more of this answer")
            has_ended = await self._feed(silence_s)

    async def _feed(self, silence_s: float) -> bool:
        """Hand on what has been received, or its end; whether it was that."""
        assert self._transport is not None
        while not (self._received or self._is_over):
            unsent = self._transport.get_write_buffer_size()
            self._news.clear()
            try:
                async with asyncio.timeout(silence_s):
                    await self._news.wait()
            except TimeoutError:
                # A long question over a slow line is no silence.
                if self._transport.get_write_buffer_size() >= unsent:
                    raise
        if not self._received and (self._error or not self.has_heard):
            raise self._error or ConnectionResetError("closed without an answer")
        has_ended = not self._received
        # Nothing, where the endpoint has closed: h11 knows whether that is an end.
        self._http.receive_data(bytes(self._received))
        self._received.clear()
        if self._is_held_back and not self._transport.is_closing():
            self._is_held_back = False
            self._transport.resume_reading()
        return has_ended

    def is_clean(self) -> bool:
        """Whether the next question may go over it."""
        transport, http = self._transport, self._http
        return (
            transport is not None
            and not transport.is_closing()
            and not self._is_over
            and http.our_state is h11.DONE
            and http.their_state is h11.DONE
            and not self._received
            and http.trailing_data == (b"", False)
            # An answer to a question that is still being sent answers another one.
            and not transport.get_write_buffer_size()
            and not _is_readable(transport)
        )

    def rest(self) -> None:
        """Nothing is asked for now: whatever comes closes it."""
        self._is_idle = True

    def close(self) -> None:
        """At once: what is still to be sent is not worth sending."""
        if self._transport is not None:
            self._transport.abort()


def _is_readable(transport: asyncio.Transport) -> bool:
    """Whether the socket holds what the loop has not handed over yet, the end included."""
    found = transport.get_extra_info("socket")
    if found is None or found.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(found.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def connect(
    host: str, port: int, secure: ssl.SSLContext | None, proxy: Proxy | None = None
) -> Connection:
    """To the address of `host` that answers first, or by way of `proxy`. OSError where none
    does; Refusal where the proxy does not let it through."""
    loop = asyncio.get_running_loop()
    found = await _dial(*((proxy.host, proxy.port) if proxy else (host, port)))
    try:
        if proxy and secure:
            await _tunnel(found, host, port, proxy)
        _, connection = await loop.create_connection(
            Connection, sock=found, ssl=secure, server_hostname=host if secure else None
        )
    except BaseException:
        found.close()
        raise
    return connection


async def _tunnel(found: socket.socket, host: str, port: int, proxy: Proxy) -> None:
    """Have the proxy pass on all that follows. Whoever speaks behind it is not heard before the
    first word of TLS is ours: more than the proxy's head would be somebody else's words."""
    loop = asyncio.get_running_loop()
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
    lines += [f"{field}: {value}" for field, value in proxy.headers.items()]
    await loop.sock_sendall(found, "\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(found, 4096)
        head += piece
        if not piece or len(head) > MAX_TUNNEL_HEAD:
            raise Refusal("it gave no answer")
    status = head.split(b" ", 2)[1:2]
    if not (status and status[0][:1] == b"2" and head.endswith(b"\r\n\r\n")):
        shown = status[0][:3].decode("ascii", "replace") if status else "no HTTP"
        raise Refusal(f"it answered {shown}")


async def _dial(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    addresses = _in_turn(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    error: BaseException = OSError(f"{host} has no address")
    waiting: set[asyncio.Task[socket.socket]] = set()
    try:
        while True:
            address = next(addresses, None)
            if address is not None:
                waiting.add(asyncio.create_task(_dial_one(*address)))
            elif not waiting:
                raise error
            await asyncio.wait(
                waiting,
                timeout=None if address is None else NEXT_ADDRESS_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [task for task in waiting if task.done()]:
                waiting.remove(task)
                error = task.exception() or error
                if task.exception() is None:
                    return task.result()
    finally:
        for task in waiting:
            task.add_done_callback(_close_late)
            task.cancel()


Address = tuple[socket.AddressFamily, Any]


def _in_turn(found: Sequence[tuple[Any, ...]]) -> Iterator[Address]:
    """One of each family after the other, beginning as the system prefers."""
    families: dict[socket.AddressFamily, list[Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    rows = chain.from_iterable(zip_longest(*families.values()))
    return (address for address in rows if address is not None)


async def _dial_one(family: socket.AddressFamily, address: Any) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setblocking(False)
        await asyncio.get_running_loop().sock_connect(found, address)
    except BaseException:
        found.close()
        raise
    return found


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Another address was quicker."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
