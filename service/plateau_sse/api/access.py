"""Who may: API keys, each an owner; tokens of users (JWT); and the token of a single run.

Invariant: a user's token reaches what is that user's, and does what its scopes say; nothing
that it names is believed before its signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from starlette.datastructures import Headers
from starlette.requests import Request

from plateau_sse.api.attempts import Attempts
from plateau_sse.api.hops import client_of
from plateau_sse.api.jwts import Jwts
from plateau_sse.api.keys import ApiKeys
from plateau_sse.errors import Problem
from plateau_sse.owners import ANONYMOUS
from plateau_sse.settings import Settings

# What a token may allow: to ask (and to give up), to read runs, and conversations.
Scope = Literal["runs:create", "runs:read", "conversations"]


class Caller(NamedTuple):
    """`owner` is '' where a run's token decides; `user` is the only one that the caller speaks
    for, '' for any; `until_s` is when the token ends, since the epoch."""

    owner: str
    user: str = ""
    until_s: float | None = None

    def speaks_for(self, user: str) -> str:
        """The user of whom a request is that names this one, '' for none."""
        if not self.user or user in ("", self.user):
            return self.user or user
        raise Problem(
            "other_user", "The token is another user's: leave `user` out, or name that one."
        )


class Access:
    """Where nobody needs a key everyone is one owner, `anonymous`; `is_allowed_origin` then
    says which pages may speak for a person at this machine, None that all may."""

    def __init__(
        self,
        settings: Settings,
        keys: ApiKeys | None,
        jwts: Jwts | None,
        is_allowed_origin: Callable[[str], bool] | None,
    ) -> None:
        self._settings = settings
        self._attempts = Attempts()
        self._keys = keys
        self._jwts = jwts
        self._is_keyless = keys is None and jwts is None
        self._is_allowed_origin = is_allowed_origin

    def is_shared(self) -> bool:
        """Whether there may be more than one owner."""
        if self._jwts is not None:
            return self._keys is not None or bool(self._settings.jwt_owner_claim)
        return self._keys is not None and self._keys.is_of_many

    async def caller(self, request: Request, scope: Scope | None) -> Caller:
        """Who asks for something that takes this scope, None for what any key opens; a Problem
        for no key, a wrong one, or one that does not allow it."""
        if self._is_keyless:
            self._check_page(request.headers)
            return Caller(ANONYMOUS)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() == "bearer" and key:
            if self._keys is not None and (owner := self._keys.owner_of(key)) is not None:
                return Caller(owner)
            if self._jwts is not None:
                return await self._of_token(self._jwts, key, scope, request)
            await self.wrong(request)
        raise Problem("unauthorized", self._what_to_send)

    async def wrong(self, request: Request) -> None:
        """A wrong key came with it: whoever sends many waits for the answer."""
        await self._attempts.wrong(client_of(request.scope, self._settings))

    async def _of_token(
        self, jwts: Jwts, token: str, scope: Scope | None, request: Request
    ) -> Caller:
        try:
            found = await jwts.verified(token)
        except Problem as problem:
            if problem.code == "unauthorized":
                await self.wrong(request)
            raise
        if scope is not None and scope not in found.scopes:
            raise Problem(
                "insufficient_scope",
                f"The token's `scope` lacks {scope}.",
                headers={
                    "WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'
                },
            )
        return Caller(found.owner, found.user, found.until_s)

    @property
    def _what_to_send(self) -> str:
        if self._jwts is None:
            return "Send one of the service's keys as 'Authorization: Bearer <key>'."
        what = "a token" if self._keys is None else "one of the service's keys, or a token,"
        return f"Send {what} as 'Authorization: Bearer …'."

    def _check_page(self, headers: Headers) -> None:
        # Any page can make a browser send a simple request to a service on its machine.
        origin = headers.get("origin")
        if self._is_allowed_origin is None or (
            self._is_allowed_origin(origin)
            if origin is not None
            # Browsers leave `Origin` out of what asks for an image or a script. Where a person
            # has followed a link nothing is told to the page that it stood on.
            else headers.get("sec-fetch-site") != "cross-site"
            or headers.get("sec-fetch-mode") == "navigate"
        ):
            return
        raise Problem(
            "origin_not_allowed",
            "Without API_KEYS only pages of this machine may ask; see ALLOWED_ORIGINS.",
        )

    async def reader(self, request: Request, token: str, scope: Scope = "runs:read") -> Caller:
        """Who asks for one run; an owner of '' where the run's token decides."""
        if token and self._is_keyless:
            self._check_page(request.headers)
            return Caller("")
        if token and "authorization" not in request.headers:
            return Caller("")
        return await self.caller(request, scope)
