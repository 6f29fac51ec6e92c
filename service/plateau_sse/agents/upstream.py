"""Requests to the model's endpoint, over connections that are kept between runs: another
handshake, over TLS two round trips, would come before each first token.

Invariant: a request that has been given up leaves no connection open. One whose kept connection
turns out to be dead before anything has come back is sent once more, over a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

CONNECT_S = 10.0
# Endpoints keep an idle connection for a minute or so; whoever closes first does no harm.
KEPT_S, KEPT_MOST = 60.0, 20


class Upstream:
    """The endpoint at `url`, which may be silent for `silence_s`. It is closed with the loop in
    which it was first used."""

    def __init__(self, url: str, silence_s: float) -> None:
        self._url = url
        self._silence_s = silence_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._holding: AsyncGenerator[httpx.AsyncClient, None] | None = None
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def post(self, body: bytes, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The response, with its body to be read in the block. What is read to its end leaves
        its connection to the next. Raises httpx.HTTPError and httpx.InvalidURL."""
        client = await self._opened()
        response = await self._send(client, body, headers)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(
        self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]
    ) -> httpx.Response:
        is_new = False

        async def trace(event: str, _: Any) -> None:
            nonlocal is_new
            is_new = is_new or event.startswith("connection.connect_")

        while True:
            request = client.build_request(
                "POST", self._url, content=body, headers=headers, extensions={"trace": trace}
            )
            try:
                return await client.send(request, stream=True)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # A kept connection that the endpoint had closed, or was about to.
                if is_new:
                    raise

    async def _opened(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # Whoever ends a loop in good order closes the asynchronous generators that are left
            # in it: so an agent needs no end of its own.
            self._holding = self._held()
            self._client = await anext(self._holding)
            self._loop = loop
        return self._client

    async def _held(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        # Reading the certificates takes 20 ms and a megabyte: only for https.
        secure = self._url.lower().startswith("https:")
        client = httpx.AsyncClient(
            timeout=httpx.Timeout(self._silence_s, connect=min(CONNECT_S, self._silence_s)),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=KEPT_MOST,
                keepalive_expiry=KEPT_S,
            ),
            verify=httpx.create_ssl_context(trust_env=False) if secure else False,
            follow_redirects=False,
            trust_env=False,
        )
        try:
            yield client
        finally:
            await client.aclose()
