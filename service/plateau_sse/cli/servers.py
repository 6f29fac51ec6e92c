"""Where the Redis servers of both roles are, for the commands that look at them.

Invariant: a URL that is set is used; else the server that a serve in DATA_DIR has started; else
it is said what to do. Nothing that is shown of a URL is a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ResponseError,
)

from plateau_sse.cli import INTERRUPTED
from plateau_sse.errors import StoreError
from plateau_sse.serve.child import leave
from plateau_sse.serve.data_dir import running
from plateau_sse.serve.redis_cli import has_secret, redis_cli
from plateau_sse.serve.redis_server import Role
from plateau_sse.settings import Settings
from plateau_sse.store.redis.connections import connect, masked, store_errors

VARIABLES: dict[Role, str] = {"streams": "REDIS_URL", "cache": "CACHE_REDIS_URL"}
# For all that is asked of one server.
ANSWER_WITHIN_S = 3.0

Result = TypeVar("Result")


class Trouble(NamedTuple):
    """What is wrong with a server, and what mends it."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Server:
    """One role's. `url` is empty where nobody knows it; `unknown` then says why."""

    role: Role
    url: str = field(repr=False)
    is_ours: bool = False
    unknown: Trouble = Trouble("", "")

    @property
    def variable(self) -> str:
        """The setting that names it."""
        return VARIABLES[self.role]

    @property
    def shown(self) -> str:
        """The URL for people."""
        return masked(self.url)

    def cli(self, *words: str) -> str:
        """`redis-cli … WORDS` for a shell; a password comes from the variable that has it."""
        return redis_cli(self.url, self.variable, *words, ours=self.is_ours)


def find(settings: Settings) -> tuple[Server, Server]:
    """That of the streams and that of the cache."""
    return (
        _find("streams", settings.redis_url, settings),
        _find("cache", settings.cache_redis_url, settings),
    )


def _find(role: Role, url: str, settings: Settings) -> Server:
    variable, place = VARIABLES[role], f"DATA_DIR={settings.data_dir}"
    if url:
        return Server(role, url)
    try:
        serve = running(settings.data_dir)
    except OSError as error:
        what = f"{place} may not be looked at: {error.strerror}"
        return Server(
            role, "", unknown=Trouble(what, f"run this as its owner, or set {variable}")
        )
    if serve is None:
        unknown = Trouble(f"nothing runs in {place}", f"start plateau serve, or set {variable}")
    elif serve.urls is None:
        unknown = Trouble(f"plateau serve (pid {serve.pid}) in {place} starts", "try again")
    elif role not in serve.urls:
        what = f"plateau serve (pid {serve.pid}) in {place} was given a {variable}"
        unknown = Trouble(what, f"set the same {variable} here")
    else:
        return Server(role, serve.urls[role], is_ours=True)
    return Server(role, "", unknown=unknown)


@asynccontextmanager
async def opened(server: Server, name: str) -> AsyncIterator[Redis]:
    """A client for at most ANSWER_WITHIN_S; StoreError, which `trouble` explains."""
    redis = connect(server.url, name, connections=1, timeout_s=ANSWER_WITHIN_S, retries=0)
    try:
        with store_errors():
            async with asyncio.timeout(ANSWER_WITHIN_S):
                yield redis
    finally:
        await redis.aclose()


def trouble(server: Server, error: StoreError) -> Trouble:
    """What an error of this server means."""
    variable, parts = server.variable, urlsplit(server.url)
    match error.__cause__:
        case AuthenticationError():
            return _refusal(server, parts, str(error))
        case NoPermissionError():
            user = parts.username or "default"
            rights = server.cli("ACL", "SETUSER", user, "~*", "&*", "+@all")
            return Trouble(f"{server.shown} gives its user {user} too few rights", rights)
        case BusyLoadingError():
            return Trouble(f"{server.shown} is loading its data", "try again")
        case ResponseError():
            said = str(error).rstrip(".")
            return Trouble(f"{server.shown} refuses: {said}", f"correct {variable}")
        case TimeoutError():
            said = f"nothing within {ANSWER_WITHIN_S:g} s"
        case _:
            said = str(error).rstrip(".")
    remedy = (
        "plateau serve starts it again; its log is in DATA_DIR"
        if server.is_ours
        else f"start it, or correct {variable}"
    )
    return Trouble(f"{server.shown} does not answer ({said})", remedy)


def _refusal(server: Server, parts: SplitResult, said: str) -> Trouble:
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    form = f"{server.variable}={parts.scheme}://"
    if "without any password configured" in said:
        return Trouble(f"{server.shown} has no password", f"{form}{place}")
    wrong = "refuses this password" if has_secret(parts) else "asks for a password"
    return Trouble(f"{server.shown} {wrong}", f"{form}{parts.username or ''}:PASSWORD@{place}")


def result_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end, or until Ctrl+C. A thread that still looks up a name would hold up the
    usual ways of closing a loop and of leaving a process: its caller ends with `leave`."""
    try:
        return asyncio.new_event_loop().run_until_complete(coroutine)
    except KeyboardInterrupt:
        leave(INTERRUPTED)


def size(number: float) -> str:
    """Bytes, for people."""
    if number < 1024:
        return f"{number:.0f} B"
    power = min(3, (int(number).bit_length() - 1) // 10)
    return f"{number / 1024**power:.1f} {' KMG'[power]}iB"
