"""The keys of JWT_JWKS_URL (RFC 7517): fetched, kept, and fetched again.

Invariant: only keys of two halves are taken from the set, each for the one algorithm that it
is for: a symmetric key there is no secret. A set that cannot be fetched stays what it was for a
day; a key that is not known has the set fetched anew, at most once in `AGAIN_S`, so that
whoever makes up the ids of keys cannot have it asked for more often. There is one fetch a
worker at a time, whoever waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from plateau_sse import tasks
from plateau_sse.errors import Problem

log = logging.getLogger("plateau.api")

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
FRESH_S = 600
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
            if age_s > STALE_S and fetching is not None:
                await tasks.shared(fetching)
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
            await tasks.shared(fetching)
            found = self._find(kid)
        if found is None:
            raise Problem(
                "unauthorized",
                "The token is not valid here. Its `kid` is none of JWT_JWKS_URL.",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        return found

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
            log.warning(
                "JWT_JWKS_URL cannot be used: %s: %s", type(error).__name__, str(error)[:300]
            )
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
    with build_opener(NoRedirects).open(request, timeout=FETCH_S) as response:
        content: bytes = response.read(SET_BYTES + 1)
    if len(content) > SET_BYTES:
        raise ValueError(f"more than {SET_BYTES} bytes")
    return content


def _keys_of(content: bytes) -> dict[str, tuple[Any, str]]:
    """Those that tokens may be signed with, by their ids; ValueError for none."""
    import jwt

    found: dict[str, tuple[Any, str]] = {}
    for one in json.loads(content)["keys"][:KEYS_MOST]:
        if one.get("use", "sig") != "sig" or one.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = jwt.PyJWK(one)
        except jwt.PyJWTError as error:
            log.info("a key of JWT_JWKS_URL is left out: %s", type(error).__name__)
            continue
        if key.algorithm_name in ALGORITHMS:
            found[str(one.get("kid", ""))] = key, key.algorithm_name
    if not found:
        raise ValueError("no key in it signs tokens")
    return found
