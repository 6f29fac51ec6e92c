"""`plateau serve`, `web` and `runner`: from settings to a running tree, and its exit code.

Invariant: what can be refused is refused before anything is started, in this order: settings,
the address, the data directory. What was started before a failure is ended by it.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import secrets
import socket
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import plateau_sse
from plateau_sse.errors import PlateauError, SettingsError
from plateau_sse.redis_urls import address_of
from plateau_sse.serve.application import PlateauApplication
from plateau_sse.serve.arbiter import PlateauArbiter
from plateau_sse.serve.banner import answers, print_banner
from plateau_sse.serve.child import leave
from plateau_sse.serve.data_dir import DataDir
from plateau_sse.serve.logs import configure
from plateau_sse.serve.redis_server import STOP_WITHIN_S, RedisServer, Role
from plateau_sse.serve.reload import Watcher
from plateau_sse.serve.runner import Runner
from plateau_sse.serve.titles import set_title
from plateau_sse.settings import Settings

log = logging.getLogger("plateau.serve")


class AddressError(PlateauError):
    """The address cannot be listened on."""


def serve(settings: Settings, *, reload: bool = False) -> int:
    """Everything: the Redis servers that have no URL, the runner, the web workers."""
    configure(settings.log_format)
    _warn_of_one_instance(settings)
    if not reload:
        with ExitStack() as stack:
            return _run(_arbiter(settings, stack, runner=True))
    return _serve_and_reload(settings)


def web(settings: Settings) -> int:
    """The web workers alone, on Redis servers that run elsewhere."""
    configure(settings.log_format)
    _require_redis(settings, "web")
    _warn_of_one_instance(settings)
    with ExitStack() as stack:
        return _run(_arbiter(settings, stack, roles=()))


def runner(settings: Settings) -> NoReturn:
    """One runner alone. No other has its name, whatever hosts and pids are alike."""
    configure(settings.log_format)
    _require_redis(settings, "runner")
    set_title("plateau: runner")
    from plateau_sse.runner.process import run

    # A blocking agent's thread must not keep the process from ending.
    leave(run(settings, f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"))


def _require_redis(settings: Settings, command: str) -> None:
    if not settings.redis_url:
        raise SettingsError(
            f"plateau {command} needs REDIS_URL; plateau serve starts a Redis server itself."
        )
    if not settings.cache_redis_url:
        log.warning("CACHE_REDIS_URL is not set: running without a cache.")


def _warn_of_one_instance(settings: Settings) -> None:
    if settings.redis_url and _place(settings.redis_url) == _place(settings.cache_redis_url):
        log.warning(
            "REDIS_URL and CACHE_REDIS_URL are one server: where it evicts, it evicts live "
            "streams and runs too; where it does not, the cache fills it. Give each its own."
        )


def _place(url: str) -> tuple[Any, ...]:
    """Equal for what is one server, or one group of them."""
    address, parts = address_of(url), urlsplit(url)
    if address.hosts:
        return (frozenset(address.hosts), address.service)
    if parts.scheme == "unix":
        return (parts.path,)
    return (parts.hostname, parts.port or 6379)


def missing_roles(settings: Settings) -> tuple[Role, ...]:
    """The servers that have no URL, and so are ours to start."""
    missing: list[Role] = []
    if not settings.redis_url:
        missing.append("streams")
    if not settings.cache_redis_url:
        missing.append("cache")
    return tuple(missing)


def listen(settings: Settings) -> socket.socket:
    """Bound, so that nobody else is told this address; AddressError says why not."""
    host = settings.host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, settings.port))
        # Two can be bound to one port; it is listening that fails.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressError(
                f"PORT={settings.port} is taken on {host}: stop what listens there, or set "
                "another PORT."
            ) from None
        raise AddressError(
            f"Cannot listen on HOST={host}, PORT={settings.port}: {error.strerror}."
        ) from None
    return listener


def _arbiter(
    settings: Settings,
    stack: ExitStack,
    *,
    roles: tuple[Role, ...] | None = None,
    runner: bool = False,
    watcher: Watcher | None = None,
) -> PlateauArbiter:
    roles = missing_roles(settings) if roles is None else roles
    listener = stack.enter_context(listen(settings))
    data_dir, servers = _start_servers(settings, roles, stack)
    # While the servers come up.
    import_module("plateau_sse.app")
    for server in servers:
        server.wait_until_ready()
    urls = {server.role: server.url for server in servers}
    if data_dir is not None:
        _publish(data_dir, urls)
    settings = dataclasses.replace(
        settings,
        redis_url=urls.get("streams", settings.redis_url),
        cache_redis_url=urls.get("cache", settings.cache_redis_url),
    )
    return PlateauArbiter(
        PlateauApplication(settings),
        listener.detach(),
        runner=Runner(settings) if runner else None,
        servers=servers,
        is_up=lambda: answers(settings, runner=runner),
        on_up=lambda: print_banner(settings, dict.fromkeys(roles, settings.data_dir)),
        watcher=watcher,
    )


def _start_servers(
    settings: Settings, roles: tuple[Role, ...], stack: ExitStack
) -> tuple[DataDir | None, list[RedisServer]]:
    servers: list[RedisServer] = []
    if not roles:
        return None, servers
    data_dir = DataDir(settings.data_dir)
    stack.callback(data_dir.close)
    for role in roles:
        server = RedisServer(role, settings, data_dir)
        stack.callback(server.stop, STOP_WITHIN_S)
        server.start()
        servers.append(server)
    return data_dir, servers


def _publish(data_dir: DataDir, urls: dict[Role, str]) -> None:
    try:
        data_dir.publish(urls)
    except OSError as error:
        log.warning("plateau info and doctor will not find the servers: %s.", error.strerror)


def _run(arbiter: PlateauArbiter) -> int:
    try:
        arbiter.run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _serve_and_reload(settings: Settings) -> int:
    """As `serve`; on a change of the sources this process replaces itself."""
    watcher = Watcher([Path.cwd(), Path(plateau_sse.__file__).parent])
    changed: list[str] = []
    try:
        with ExitStack() as stack:
            arbiter = _arbiter(settings, stack, runner=True, watcher=watcher)
            code = _run(arbiter)
            changed = arbiter.changed
    except PlateauError:
        raise
    except Exception:
        log.exception("It does not start. Waiting for a change.")
        changed = watcher.wait()
    if not changed:
        return code
    log.info("Changed: %s. Starting again.", ", ".join(changed))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
