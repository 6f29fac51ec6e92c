"""Requests to the model's endpoint, over connections that are kept between runs: another
handshake, over TLS two round trips, would come before each first token.

Invariant: a connection is kept only when it is clean, and used again only when it is clean
still; every other one is closed. A request whose kept connection turns out to be dead before
anything has come back is sent once more, over a new one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import certifi
import h11

from plateau_sse import __version__
from plateau_sse.addresses import target_of
from plateau_sse.agents.connection import Connection, Refusal, connect
from plateau_sse.agents.proxies import Proxy, proxy_for
from plateau_sse.tasks import TURN_S

CONNECT_S = 10.0
# Endpoints keep an idle connection for a minute or so; whoever closes first does no harm.
KEPT_S, KEPT_MOST = 60.0, 20
# A compressed body is inflated in pieces of this size, so that a bomb is no more than them.
INFLATED_BYTES = 64 * 1024
# Of all of a body: far more than the longest answer, a token a chunk.
INFLATED_MOST = 64 * 1024 * 1024
# From one address of the endpoint to the next; nobody sends one on more often.
MAX_REDIRECTS = 3


class Unreachable(Exception):
    """No connection could be made."""


class Misconfigured(Exception):
    """What the machine says of whom to trust cannot be read."""


class Response:
    """An answer whose body is still to be read; `headers` by their names in lower case.
    `silence_s`: for how long from now on it may send no byte. `has_end`: whether its body says
    where it ends; where it does not, an end and a cut look alike."""

    def __init__(self, connection: Connection, head: h11.Response, silence_s: float) -> None:
        self.status = head.status_code
        self.reason = bytes(head.reason).decode("latin-1")
        self.headers = {
            bytes(name).decode("latin-1"): bytes(value).decode("latin-1")
            for name, value in head.headers
        }
        self.silence_s = silence_s
        self.has_end = not {"content-length", "transfer-encoding"}.isdisjoint(self.headers)
        self._connection = connection
        self._inflating = _inflating(self.headers.get("content-encoding", ""))
        self._is_over = False
        self._inflated = 0
        self._turn_at = time.monotonic()

    async def read(self, by: float | None = None) -> bytes:
        """The next bytes of the body, none at its end. TimeoutError after the silence that is
        allowed or at `by` (of the loop's clock); OSError, h11.ProtocolError, zlib.error."""
        while not self._is_over:
            if time.monotonic() - self._turn_at > TURN_S:
                # Much may have come at once, or be packed in little: others have their turn,
                # deadlines among them.
                await asyncio.sleep(0)
                self._turn_at = time.monotonic()
            patience_s = self._patience_s(by)
            if self._inflating is not None and self._inflating.unconsumed_tail:
                piece = self._inflating.unconsumed_tail
            else:
                event = await self._connection.event(patience_s)
                if not isinstance(event, h11.Data):
                    self._is_over = True
                    break
                piece = bytes(event.data)
            if self._inflating is not None:
                piece = self._inflating.decompress(piece, INFLATED_BYTES)
                self._inflated += len(piece)
                if self._inflated > INFLATED_MOST:
                    raise zlib.error("it unpacks to more than any answer has")
                if self._inflating.unused_data:
                    raise zlib.error("more follows what was compressed")
            if piece:
                return piece
        if self._inflating is not None and not self._inflating.eof:
            raise zlib.error("what was compressed is cut off")
        return b""

    def _patience_s(self, by: float | None) -> float:
        if by is None:
            return self.silence_s
        left_s = by - asyncio.get_running_loop().time()
        if left_s <= 0:
            # Of what comes without end there is always more at hand, and nothing to wait for.
            raise TimeoutError
        return min(self.silence_s, left_s)


def _inflating(coding: str) -> zlib._Decompress | None:
    """For endpoints that compress though `identity` was asked for."""
    match coding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip" | "deflate":
            # Either, by its first bytes.
            return zlib.decompressobj(32 + zlib.MAX_WBITS)
    raise h11.RemoteProtocolError("the body has a content-encoding that was not asked for")


class Upstream:
    """The endpoint at `url`, which may be silent for `patience_s` before an answer. Its
    connections are closed with the loop in which they were made. ValueError where the URL, or a
    proxy's, is no address."""

    def __init__(self, url: str, patience_s: float) -> None:
        target = self._target = target_of(url)
        self._url = url
        self._patience_s = patience_s
        self._proxy = proxy_for(target.host, target.port, is_secure=target.is_secure)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._holding: AsyncGenerator[None, None] | None = None
        self._kept: deque[tuple[Connection, float]] = deque()
        self._secure: ssl.SSLContext | None = None
        self._moved: dict[str, Upstream] = {}

    @asynccontextmanager
    async def post(
        self, body: bytes, headers: dict[str, str], redirects: int = MAX_REDIRECTS
    ) -> AsyncIterator[Response]:
        """The response, with its body to be read in the block; only one that was read to its
        end leaves its connection to the next. Raises Unreachable, Misconfigured, TimeoutError,
        OSError and h11.ProtocolError."""
        await self._enter_loop()
        connection, head = await self._send(body, headers)
        try:
            response = Response(connection, head, self._patience_s)
            moved = self._moved_to(response) if redirects else None
            if moved is None:
                yield response
        except BaseException:
            connection.close()
            raise
        if moved is None:
            self._keep(connection)
            return
        connection.close()
        async with moved.post(body, headers, redirects - 1) as response:
            yield response

    def _moved_to(self, response: Response) -> Upstream | None:
        """Where a question is sent on to as it is: on the same host, for the key goes with it,
        and not out of TLS."""
        if response.status not in (307, 308):
            return None
        try:
            url = urljoin(self._url, response.headers.get("location", ""))
            target = target_of(url)
        except ValueError:
            return None
        own = self._target
        is_upgrade = target.is_secure and not own.is_secure
        if target.host != own.host or not (
            is_upgrade or (target.is_secure, target.port) == (own.is_secure, own.port)
        ):
            return None
        if url not in self._moved:
            # Of an endpoint that sends on to ever new addresses the last one is enough.
            self._moved = {url: Upstream(url, self._patience_s)}
        return self._moved[url]

    async def _send(
        self, body: bytes, headers: dict[str, str]
    ) -> tuple[Connection, h11.Response]:
        request = self._request(body, headers)
        connection = self._kept_one()
        if connection is not None:
            try:
                return connection, await self._ask(connection, request, body)
            except OSError as error:
                # A kept connection that the endpoint had closed, or was about to.
                if connection.has_heard or isinstance(error, TimeoutError):
                    raise
        connection = await self._connected()
        return connection, await self._ask(connection, request, body)

    async def _ask(
        self, connection: Connection, request: h11.Request, body: bytes
    ) -> h11.Response:
        try:
            connection.ask(request, body)
            return await connection.head(self._patience_s)
        except BaseException:
            connection.close()
            raise

    def _request(self, body: bytes, headers: dict[str, str]) -> h11.Request:
        target, path = self._target, self._target.path
        own = {"User-Agent": f"plateau/{__version__}", "Content-Length": str(len(body))}
        every = {**own, **headers, **target.headers}
        if self._proxy and not target.is_secure:
            path = f"http://{target.headers['Host']}{path}"
            every |= self._proxy.headers
        return h11.Request(method="POST", target=path, headers=list(every.items()))

    def _kept_one(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - KEPT_S
        while self._kept:
            connection, since = self._kept.pop()
            if since > oldest and connection.is_clean():
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        if not connection.is_clean():
            connection.close()
            return
        connection.rest()
        self._kept.append((connection, asyncio.get_running_loop().time()))
        if len(self._kept) > KEPT_MOST:
            self._kept.popleft()[0].close()

    async def _connected(self) -> Connection:
        target, proxy = self._target, self._proxy
        if target.is_secure and self._secure is None:
            self._secure = _trusting()
        try:
            async with asyncio.timeout(CONNECT_S):
                if proxy and not target.is_secure:
                    return await connect(proxy.host, proxy.port, None)
                return await connect(target.host, target.port, self._secure, proxy)
        except TimeoutError:
            raise Unreachable(f"{_by(proxy)}it did not answer in time") from None
        except Refusal as refusal:
            raise Unreachable(
                f"the proxy of {proxy.name if proxy else ''}: {refusal}"
            ) from None
        except (OSError, UnicodeError) as error:
            raise Unreachable(_by(proxy) + _why(error)) from None

    async def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Whoever ends a loop in good order closes the asynchronous generators that are left
            # in it: so an agent needs no end of its own.
            self._kept = deque()
            self._holding = _held(self._kept)
            await anext(self._holding)
            self._loop = loop


def _trusting() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms and a megabyte: only for https."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if file or folder:
            context = ssl.create_default_context(cafile=file or None, capath=folder or None)
        else:
            context = ssl.create_default_context(cafile=certifi.where())
    except OSError:
        said = "SSL_CERT_FILE must be a file of certificates in PEM"
        raise Misconfigured(said) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _by(proxy: Proxy | None) -> str:
    return f"by the proxy of {proxy.name}: " if proxy else ""


def _why(error: Exception) -> str:
    """Without the address, which may be one that only this side is to know."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason}"
        case socket.gaierror():
            return "its name has no address"
        case OSError(errno=int(number)):
            return os.strerror(number)
    return type(error).__name__


async def _held(kept: deque[tuple[Connection, float]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        for connection, _ in kept:
            connection.close()
        # Transports are closed in the loop's next turn.
        await asyncio.sleep(0)
