"""Who may: API keys, each an owner, and the token of a single run.

Invariant: a key is compared by its digest, so the time taken says nothing about it; an owner's
name is such a digest, so no key is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from starlette.datastructures import Headers

from plateau_sse.errors import Problem

ANONYMOUS = "anonymous"


class Access:
    """Without keys everyone is one owner, `anonymous`; `is_allowed_origin` then says which
    pages may speak for a person at this machine, None that all may."""

    def __init__(
        self, api_keys: Sequence[str], is_allowed_origin: Callable[[str], bool] | None
    ) -> None:
        self._owners = {_digest(key) for key in api_keys}
        self._is_allowed_origin = is_allowed_origin

    def owner(self, headers: Headers) -> str:
        """Who asks; a Problem `unauthorized` for no key or a wrong one."""
        if not self._owners:
            self._check_origin(headers.get("origin"))
            return ANONYMOUS
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        if scheme.lower() == "bearer" and digest in self._owners:
            return digest
        raise Problem(
            "unauthorized", "Send one of the service's keys as 'Authorization: Bearer <key>'."
        )

    def _check_origin(self, origin: str | None) -> None:
        # Any page can make a browser send a simple request to a service on its machine.
        if origin is None or self._is_allowed_origin is None or self._is_allowed_origin(origin):
            return
        raise Problem(
            "origin_not_allowed",
            "Without API_KEYS only pages of this machine may ask; see ALLOWED_ORIGINS.",
        )

    def reader(self, headers: Headers, token: str) -> str:
        """Who asks for one run: the owner of the key that came, '' where the token decides."""
        if token and (not self._owners or "authorization" not in headers):
            return ""
        return self.owner(headers)


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=12).hexdigest()
