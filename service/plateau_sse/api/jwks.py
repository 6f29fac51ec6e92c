"""The keys of JWT_JWKS_URL (RFC 7517): fetched, kept, and fetched again.

Invariant: only keys of two halves are taken from the set, each for the one algorithm that it
is for: a symmetric key there is no secret. A set is `OLD_S` old at most where it can be had;
where it cannot, it stays what it was for a day. A key that is not known has the set fetched
anew, at most once in `AGAIN_S`, so that whoever makes up the ids of keys cannot have it asked
for more often. There is one fetch a worker at a time, whoever waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from typing import Any

from plateau_sse import tasks
from plateau_sse.errors import Problem

log = logging.getLogger("plateau.api")

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
FRESH_S = 600
# Nobody may have asked for hours: then it is fetched before it is believed.
OLD_S = 2 * FRESH_S
AGAIN_S = 30
# Whom nobody has confirmed for so long may have been withdrawn.
STALE_S = 86_400
FETCH_S = 10
SET_BYTES = 256 * 1024
KEYS_MOST = 100


class Keys:
    """One a worker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, tuple[Any, str]] = {}
        self._content = b""
        self.generation = 0
        self._fetched_at = self._asked_at = float("-inf")
        self._failed_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._fetching is not None:
            await tasks.end(self._fetching)

    async def fresh(self) -> None:
        """Have an old set fetched anew; waits for it where there is none that may be used.
        Problem `keys_unavailable` where that fails."""
        age_s = time.monotonic() - self._fetched_at
        if age_s > FRESH_S:
            fetching = self._fetch()
            # Nobody waits for one that hung just now, while what there is may be used.
            is_awaited = time.monotonic() - self._failed_at > OLD_S or age_s > STALE_S
            if age_s > OLD_S and is_awaited and fetching is not None:
                await self._fetched(fetching)
        if time.monotonic() - self._fetched_at > STALE_S:
            raise Problem(
                "keys_unavailable",
                "The keys that tokens are signed with cannot be fetched (JWT_JWKS_URL).",
                headers={"Retry-After": "5"},
            )

    async def of(self, kid: Any) -> tuple[Any, str]:
        """The key of this id and its algorithm; without an id that of a set of one."""
        found = self._find(kid)
        if found is None and (fetching := self._fetch()) is not None:
            await self._fetched(fetching)
            found = self._find(kid)
        if found is None:
            raise Problem(
                "unauthorized",
                "The token is not valid here. Its `kid` is none of JWT_JWKS_URL.",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        return found

    async def _fetched(self, fetching: asyncio.Task[None]) -> None:
        """For no longer than it may take: one that comes in drops goes on without whoever
        waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FETCH_S):
                await tasks.shared(fetching)

    def _find(self, kid: Any) -> tuple[Any, str] | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if isinstance(kid, str) else None

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or a new one; None where it is too soon for that."""
        if self._fetching is None:
            patience_s = AGAIN_S if self._keys else 1
            if time.monotonic() - self._asked_at < patience_s:
                return None
            self._asked_at = time.monotonic()
            self._fetching = asyncio.create_task(self._refresh())
        return self._fetching

    async def _refresh(self) -> None:
        try:
            content = await asyncio.to_thread(_get, self._url)
            keys = _keys_of(content)
        except Exception as error:
            # Of a URL that we were given: whatever it says, the service goes on.
            self._failed_at = time.monotonic()
            # What is wrong with the URL itself would quote it, and a password with it.
            is_ours = isinstance(error, OSError | ValueError)
            said = f": {str(error)[:300]}" if is_ours else ""
            log.warning("JWT_JWKS_URL cannot be used: %s%s", type(error).__name__, said)
        else:
            if content != self._content:
                self._keys, self._content = keys, content
                self.generation += 1
            self._fetched_at = time.monotonic()
        finally:
            self._fetching = None


def _get(url: str) -> bytes:
    """In a thread: there is no other HTTP in a web worker."""
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    # Settings takes http and https alone.
    request = Request(url, headers={"Accept": "application/json"})  # noqa: S310
    ends_at, content = time.monotonic() + FETCH_S, b""
    with build_opener(NoRedirects).open(request, timeout=FETCH_S) as response:
        while len(content) <= SET_BYTES and (more := response.read1(SET_BYTES)):
            content += more
            if time.monotonic() > ends_at:
                raise TimeoutError(f"not all of it within {FETCH_S} s")
    if len(content) > SET_BYTES:
        raise ValueError(f"more than {SET_BYTES} bytes")
    return content


def _keys_of(content: bytes) -> dict[str, tuple[Any, str]]:
    """Those that tokens may be signed with, by their ids; ValueError for none."""
    import jwt

    found: dict[str, tuple[Any, str]] = {}
    for one in json.loads(content)["keys"][:KEYS_MOST]:
        try:
            if one.get("use", "sig") != "sig" or one.get("kty") not in ("RSA", "EC", "OKP"):
                continue
            key = jwt.PyJWK(one)
        except Exception as error:
            # One that is none costs the others nothing.
            log.info("a key of JWT_JWKS_URL is left out: %s", type(error).__name__)
            continue
        if key.algorithm_name in ALGORITHMS:
            found[str(one.get("kid", ""))] = key, key.algorithm_name
    if not found:
        raise ValueError("no key in it signs tokens")
    return found
