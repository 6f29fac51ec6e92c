"""The two ways to a service: one blocks, the other is awaited.

Invariant: what is done on the way is written once, as coroutines. On the blocking way none of
them ever waits, so that one step of it is the whole of it (`at_once`).
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import httpx

from plateau_sse.client.faults import Refused, Unreachable, check_port, shown

# The service says something each 15 s: whoever hears nothing has lost it.
SILENCE_S = 25.0
CONNECT_S = 10.0

# What no header takes.
_IS_ILL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search

T = TypeVar("T")


class Way(Protocol):
    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        within_s: float = math.inf,
    ) -> httpx.Response:
        """A response whose body has been read. Raises httpx.RequestError; Unreachable, Refused
        where nothing can be sent."""

    def opened(
        self, url: str, headers: Mapping[str, str], within_s: float
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """A response whose body comes in pieces; raises the same. `within_s`: until there is
        one."""

    def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]: ...

    async def read(self, response: httpx.Response) -> None: ...

    async def sleep(self, pause_s: float) -> None: ...


class Blocking:
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        within_s: float = math.inf,
    ) -> httpx.Response:
        request = prepared(self._http, method, url, headers, body, within_s)
        with addressed(url):
            return self._http.send(request)

    @asynccontextmanager
    async def opened(
        self, url: str, headers: Mapping[str, str], within_s: float
    ) -> AsyncIterator[httpx.Response]:
        request = prepared(self._http, "GET", url, headers, None, within_s)
        with addressed(url):
            response = self._http.send(request, stream=True)
        try:
            unbound(request)
            yield response
        finally:
            response.close()

    async def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        for piece in response.iter_bytes():
            yield piece

    async def read(self, response: httpx.Response) -> None:
        response.read()

    async def sleep(self, pause_s: float) -> None:
        time.sleep(pause_s)  # noqa: ASYNC251 - it is what blocking means


class Awaited:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        within_s: float = math.inf,
    ) -> httpx.Response:
        request = prepared(self._http, method, url, headers, body, within_s)
        with addressed(url):
            return await self._http.send(request)

    @asynccontextmanager
    async def opened(
        self, url: str, headers: Mapping[str, str], within_s: float
    ) -> AsyncIterator[httpx.Response]:
        request = prepared(self._http, "GET", url, headers, None, within_s)
        with addressed(url):
            response = await self._http.send(request, stream=True)
        try:
            unbound(request)
            yield response
        finally:
            await response.aclose()

    def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        return response.aiter_bytes()

    async def read(self, response: httpx.Response) -> None:
        await response.aread()

    async def sleep(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)


def prepared(
    http: httpx.Client | httpx.AsyncClient,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Any,
    within_s: float,
) -> httpx.Request:
    """A request, with limits of its own, whatever a client has: by default they are shorter
    than the silence between two pings. Raises Unreachable, Refused: on its way what cannot be
    sent would be taken for an outage, and told with the key in it."""
    limits = httpx.Timeout(min(SILENCE_S, within_s), connect=min(CONNECT_S, within_s))
    sent, content = dict(headers), None
    try:
        if body is not None:
            sent["Content-Type"] = "application/json"
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused("client", f"The question cannot be sent as JSON: {error}", 0) from None
    if not all(value.isascii() for value in sent.values()):
        raise _ill_header()
    with addressed(url):
        request = http.build_request(method, url, headers=sent, content=content, timeout=limits)
        check_port(request.url)
    if any(_IS_ILL(value) or value != value.strip() for _, value in request.headers.raw):
        raise _ill_header()
    return request


def _ill_header() -> Refused:
    what = "A header cannot be sent as it is: the key, or the id of a request or an event."
    return Refused("client", what, 0)


@contextmanager
def addressed(url: str) -> Iterator[None]:
    """Raises Unreachable where that is no address. A name that none can have is found when it
    is looked up."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
        raise Unreachable(f"{shown(url)} is no address: {error}") from None


def unbound(request: httpx.Request) -> None:
    """There is a response: from here on only its silence counts."""
    request.extensions["timeout"]["read"] = SILENCE_S


@contextmanager
def blocking(http: httpx.Client | httpx.AsyncClient | None) -> Iterator[Way]:
    """Over the caller's client, which stays open, or over one that is closed behind it."""
    if http is None:
        with httpx.Client() as own:
            yield Blocking(own)
    elif isinstance(http, httpx.Client):
        yield Blocking(http)
    else:
        raise TypeError("`http` is an AsyncClient, which is awaited: pass an httpx.Client.")


@asynccontextmanager
async def awaited(http: httpx.Client | httpx.AsyncClient | None) -> AsyncIterator[Way]:
    """The same for whoever awaits."""
    if http is None:
        async with httpx.AsyncClient() as own:
            yield Awaited(own)
    elif isinstance(http, httpx.AsyncClient):
        yield Awaited(http)
    else:
        raise TypeError("`http` is a Client, which blocks: pass an httpx.AsyncClient.")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine on the blocking way gives, or raises."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("On the blocking way something has waited.")
