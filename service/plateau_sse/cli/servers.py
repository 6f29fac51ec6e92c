"""Where the Redis servers of both roles are, for the commands that look at them.

Invariant: a URL that is set is used; else the server that a serve in DATA_DIR has started; else
it is said what to do. Nothing that is shown of a URL is a secret.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from plateau_sse.cli import INTERRUPTED
from plateau_sse.errors import StoreError
from plateau_sse.redis_urls import Kind, address_of, has_password, template, user_of
from plateau_sse.serve.child import leave
from plateau_sse.serve.data_dir import running
from plateau_sse.serve.redis_cli import redis_cli, setting
from plateau_sse.serve.redis_server import Role
from plateau_sse.settings import Settings
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect, masked, store_errors
from plateau_sse.store.redis.sentinel import Place, Sentinels
from plateau_sse.store.redis.topology import topology_of

VARIABLES: dict[Role, str] = {"streams": "REDIS_URL", "cache": "CACHE_REDIS_URL"}
# For all that is asked of one server.
ANSWER_WITHIN_S = 3.0
# What a server of any release says of a command that a user may not give.
_REFUSED = re.compile(r"run the '([a-z|]+)' command")

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
    # The DATA_DIR of the serve that has started it.
    ours_in: Path | None = None
    unknown: Trouble = Trouble("", "")
    # One that Sentinels or a cluster have named: no variable has its address.
    is_one_of: Kind = "server"

    @property
    def variable(self) -> str:
        """The setting that names it."""
        return VARIABLES[self.role]

    @property
    def is_ours(self) -> bool:
        return self.ours_in is not None

    @property
    def shown(self) -> str:
        """The URL for people."""
        return masked(self.url)

    def cli(self, *words: str) -> str:
        """`redis-cli … WORDS` for a shell; a password comes from the variable that has it."""
        variable = self.variable if self.is_one_of == "server" else ""
        return redis_cli(self.url, variable, *words, ours_in=self.ours_in)


def find(settings: Settings) -> tuple[Server, Server]:
    """That of the streams and that of the cache; what is looked for there has our names."""
    keys.begin_with(settings.key_prefix)
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
        return Server(role, serve.urls[role], settings.data_dir)
    return Server(role, "", unknown=unknown)


async def each(server: Server) -> list[Server]:
    """The servers that have the keys of a role: all primaries of a cluster, or the one that
    Sentinels name. Where they are not to be had, what is asked of it says why."""
    if not server.url:
        return [server]
    address = address_of(server.url)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            if address.kind == "sentinel":
                places: tuple[Place, ...] = (await Sentinels(address).primary(),)
            elif address.kind == "cluster":
                topology = topology_of(address)
                await topology.learn()
                places = topology.primaries
            else:
                return [server]
    except (RedisError, TimeoutError):
        return [server]
    return [replace(server, url=address.at(*it), is_one_of=address.kind) for it in places]


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
    variable = server.variable
    match error.__cause__:
        case AuthenticationError():
            return _refusal(server, str(error))
        case NoPermissionError():
            user = user_of(server.url)
            # Of what is asked here, INFO is the one command that the service can do without.
            found = _REFUSED.search(str(error))
            grant = "+info" if found is None else f"+{found[1]}"
            rights = server.cli("ACL", "SETUSER", user, grant)
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


def _refusal(server: Server, said: str) -> Trouble:
    wrong = "refuses this password" if has_password(server.url) else "asks for a password"
    asks = "without any password configured" not in said
    if not asks:
        wrong = "has no password"
    if server.is_one_of == "server":
        remedy = setting(server.variable, template(server.url, asks=asks))
    else:
        # What is shown is one of several.
        remedy = f"correct the password in {server.variable}"
    return Trouble(f"{server.shown} {wrong}", remedy)


def result_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end, or until Ctrl+C. A thread that still looks up a name would hold up the
    usual ways of closing a loop and of leaving a process: its caller ends with `leave`."""
    loop = asyncio.new_event_loop()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # An exception between any two steps would leave a coroutine that nobody has awaited,
        # and Python would say so.
        loop.add_signal_handler(signal.SIGINT, leave, INTERRUPTED)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        # Nobody would hear it any more, while what was found waits for whoever reads it.
        loop.remove_signal_handler(signal.SIGINT)


def size(number: float) -> str:
    """Bytes, for people."""
    if number < 1024:
        return f"{number:.0f} B"
    power = min(3, (int(number).bit_length() - 1) // 10)
    return f"{number / 1024**power:.1f} {' KMG'[power]}iB"
