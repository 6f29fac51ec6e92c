"""Readers that share one HTTP/2 connection, as all tabs of a browser do.

Invariant: what breaks a response off is an OSError for whoever reads it, as on a socket of its
own, so the books of `Reader` are kept alike.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import httpx

from tests.nginx import Proxy
from tests.readers import Reader


def http2_client(proxy: Proxy) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=proxy.url, http1=False, http2=True, verify=proxy.tls, timeout=30
    )


@dataclass
class Http2Reader(Reader):
    """Over `client`, which others use at the same time."""

    client: httpx.AsyncClient = field(kw_only=True)

    async def answer(self, url: str) -> AsyncGenerator[tuple[int | None, bytes], None]:
        try:
            async with self.client.stream("GET", url, headers=self.headers()) as response:
                yield response.status_code, b""
                async for chunk in response.aiter_raw():
                    yield None, chunk
        except httpx.TransportError as error:
            raise ConnectionError(repr(error)) from error
