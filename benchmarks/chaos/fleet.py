"""The fleet: every process of a chaos run, and the supervisor that starts the dead ones again.

Invariant: what was started is ended, by its id, when the `with` block ends, and by the kernel
where this process is killed; an address, once given, stays.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
from redis import Redis
from redis.exceptions import RedisError
from tests.processes import environment, free_ports, wait_until

from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings

STORE, CACHE = "streams", "cache"
AGENTS = "story=benchmarks.chaos.story:story"
RESTART_AFTER_S = 0.3
LOOK_EVERY_S = 0.05
END_WITHIN_S = 20.0
# In the new process, which then becomes what it is to be: a death of ours is its own.
EXECUTE = """
import os, signal, sys
from plateau_sse.serve.child import die_with_parent
die_with_parent(int(sys.argv[1]), signal.SIGKILL)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Member:
    """One process, which may be started again and again; its log goes on."""

    def __init__(
        self, name: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.starts = 0
        self.died_at: float | None = None
        self._arguments = list(arguments)
        self._env = dict(env)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        self.died_at = None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", EXECUTE, str(os.getpid()), *self._arguments],
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> bool:
        """Whether it was there to get it."""
        if self._process is None or not self.alive:
            return False
        self._process.send_signal(number)
        return True

    def send_to_worker(self, number: signal.Signals) -> bool:
        """To the process below it, of which it has one at most times."""
        if self._process is None or not self.alive:
            return False
        with suppress(psutil.NoSuchProcess):
            for worker in psutil.Process(self._process.pid).children():
                worker.send_signal(number)
                return True
        return False

    def end(self) -> None:
        """Gone, with what was below it, when this returns; kindly, for a while."""
        if self._process is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self._process.wait(END_WITHIN_S)
        finally:
            self._process.kill()
            self._process.wait(5)


class Fleet:
    """`members` by name. `urls` are those of the web processes, one each."""

    def __init__(
        self, members: Sequence[Member], urls: list[str], streams_url: str, cache_url: str
    ) -> None:
        self.members = {member.name: member for member in members}
        self.urls = urls
        self.streams_url = streams_url
        self.cache_url = cache_url

    @property
    def webs(self) -> list[str]:
        return [name for name in self.members if name.startswith("web")]

    @property
    def runners(self) -> list[str]:
        return [name for name in self.members if name.startswith("runner")]

    async def supervise(self) -> None:
        """Start again whoever has died, a short moment later, for ever."""
        while True:
            for member in self.members.values():
                now = time.monotonic()
                if member.alive:
                    continue
                if member.died_at is None:
                    member.died_at = now
                elif now - member.died_at > RESTART_AFTER_S:
                    member.start()
            await asyncio.sleep(LOOK_EVERY_S)

    def logs(self) -> dict[str, str]:
        return {
            name: member.log.read_text(errors="replace")
            for name, member in self.members.items()
        }


@contextmanager
def running(
    folder: Path, *, webs: int = 2, runners: int = 2, env: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """A fleet that is up when the block begins."""
    store, store_url = _server(STORE, "streams", folder)
    cache, cache_url = _server(CACHE, "cache", folder)
    common = {"AGENTS": AGENTS, "REDIS_URL": store_url, "CACHE_REDIS_URL": cache_url}
    common |= env or {}
    members = [store, cache]
    for index in range(runners):
        members.append(_service(f"runner{index}", "runner", common, folder))
    urls = []
    for index in range(webs):
        port = free_ports(1)
        own = common | {"PORT": str(port), "WEB_CONCURRENCY": "1"}
        members.append(_service(f"web{index}", "web", own, folder))
        urls.append(f"http://127.0.0.1:{port}")
    with ExitStack() as stack:
        for member in members:
            # In the opposite order, those that use the store before the store.
            stack.callback(member.end)
            member.start()
            if member in (store, cache):
                url = store_url if member is store else cache_url
                wait_until(partial(_answers, url), f"the {member.name} server answers")
        for url in urls:
            wait_until(partial(_is_up, url), f"{url} is up", timeout_s=60)
        yield Fleet(members, urls, store_url, cache_url)


def _service(name: str, command: str, env: Mapping[str, str], folder: Path) -> Member:
    arguments = [sys.executable, "-m", "plateau_sse", command]
    settings = environment({"DATA_DIR": str(folder / name), **env})
    return Member(name, arguments, settings, folder)


def _server(name: str, role: Role, folder: Path) -> tuple[Member, str]:
    """A Redis configured as `serve` configures it, and its URL."""
    port = free_ports(1)
    data = folder / f"{name}-data"
    data.mkdir()
    settings = Settings(redis_server_bin=os.environ.get("REDIS_SERVER_BIN", ""))
    arguments = [server_binary(settings)]
    for option, value in options(role, settings, data, port).items():
        arguments += [f"--{option}", value]
    return Member(name, arguments, environment({}), folder), f"redis://127.0.0.1:{port}/0"


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url, protocol=2) as client:
            return bool(client.ping())
    except RedisError:
        return False


def _is_up(url: str) -> bool:
    try:
        health = httpx.get(f"{url}/health", timeout=5, trust_env=False).json()
    except httpx.HTTPError:
        return False
    return all(health["components"][part]["status"] == "up" for part in ("streams", "runner"))
