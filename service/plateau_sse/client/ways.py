"""The two ways to a service: one blocks, the other is awaited.

Invariant: what is done on the way is written once, as coroutines. On the blocking way none of
them ever waits, so that one step of it is the whole of it (`at_once`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import httpx

# The service says something each 15 s: whoever hears nothing has lost it.
SILENCE_S = 25.0
CONNECT_S = 10.0

T = TypeVar("T")


class Way(Protocol):
    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: Any = None
    ) -> httpx.Response:
        """A response whose body has been read. Raises what httpx raises."""

    def opened(
        self, url: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """A response whose body comes in pieces."""

    def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]: ...

    async def read(self, response: httpx.Response) -> None: ...

    async def sleep(self, pause_s: float) -> None: ...


class Blocking:
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: Any = None
    ) -> httpx.Response:
        return self._http.request(method, url, headers=headers, json=body, timeout=_limits())

    @asynccontextmanager
    async def opened(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        with self._http.stream("GET", url, headers=headers, timeout=_limits()) as response:
            yield response

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
        self, method: str, url: str, headers: Mapping[str, str], body: Any = None
    ) -> httpx.Response:
        return await self._http.request(
            method, url, headers=headers, json=body, timeout=_limits()
        )

    @asynccontextmanager
    async def opened(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        opened = self._http.stream("GET", url, headers=headers, timeout=_limits())
        async with opened as response:
            yield response

    def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        return response.aiter_bytes()

    async def read(self, response: httpx.Response) -> None:
        await response.aread()

    async def sleep(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)


def _limits() -> httpx.Timeout:
    """Whatever a client has of its own, which by default is shorter than the silence between
    two pings."""
    return httpx.Timeout(SILENCE_S, connect=CONNECT_S)


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
