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
from tests.groups import Cluster, Trio
from tests.processes import REPOSITORY, environment, free_ports, path_of, wait_until

from benchmarks.chaos.story import HOLDER, OTHER, STORY
from benchmarks.measuring import private_kib
from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings

STORE, CACHE = "streams", "cache"
AGENTS = {
    "AGENTS": f"{STORY}=benchmarks.chaos.story:story,{HOLDER}=benchmarks.chaos.story:holder"
}
OTHERS = {"AGENTS": f"{OTHER}=benchmarks.chaos.story:story"}
# Of those that nothing is done to. What is killed again and again has another age each time
# that it is measured, and is larger for that alone; and what it leaks goes with it. These live
# through all that is done to the stores and to others: no agent holds their runner's
# interpreter, no worker recycles itself, and most runs are still those of runners that die.
KEPT = "kept"
# The only one that has the agent of `OTHERS`.
ALONE = "runner-other"
KEPT_WEB = {"MAX_REQUESTS": "0"}
KEPT_RUNNER = {"AGENTS": f"{STORY}=benchmarks.chaos.story:story", "RUNNER_CONCURRENCY": "10"}
# Of one web process: a host whose clock nobody has set.
AHEAD_S = 30
AHEAD = f"""
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {AHEAD_S}
time.time_ns = lambda: now_ns() + {AHEAD_S} * 10**9
"""
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

    @property
    def code(self) -> int | None:
        """That it has ended with; None while it lives."""
        return None if self._process is None else self._process.poll()

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

    def pids(self) -> list[int]:
        """It and all below it; none where it is down."""
        if self._process is None or not self.alive:
            return []
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [one.pid for one in (process, *process.children(recursive=True))]
        return []

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
    """`members` by name; to those whose names begin with `KEPT` nothing is done. `urls` are
    those of the web processes, one each; `group` are the streams' servers where those are
    several, and no members."""

    def __init__(
        self,
        members: Sequence[Member],
        urls: list[str],
        streams_url: str,
        cache_url: str,
        group: Trio | Cluster | None = None,
    ) -> None:
        self.members = {member.name: member for member in members}
        self.urls = urls
        self.streams_url = streams_url
        self.cache_url = cache_url
        self.group = group

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

    def kept_pids(self) -> list[int]:
        """Of the processes that nothing is done to: a runner, a web master and its worker."""
        members = [one for name, one in self.members.items() if name.startswith(KEPT)]
        return [pid for member in members for pid in member.pids()]

    def kept_mib(self) -> dict[int, float]:
        """What each of them shares with nobody: others come and go."""
        return {pid: private_kib([pid]) / 1024 for pid in self.kept_pids()}

    def logs(self) -> dict[str, str]:
        return {
            name: member.log.read_text(errors="replace")
            for name, member in self.members.items()
        }


@contextmanager
def running(
    folder: Path,
    *,
    webs: int = 2,
    runners: int = 2,
    env: Mapping[str, str] | None = None,
    group: Trio | Cluster | None = None,
) -> Iterator[Fleet]:
    """A fleet that is up when the block begins; over the servers of `group`, or one of its
    own."""
    cache, cache_url = _server(CACHE, "cache", folder)
    servers = {cache: cache_url}
    if group is None:
        store, store_url = _server(STORE, "streams", folder)
        servers = {store: store_url, cache: cache_url}
    else:
        store_url = group.url
    common = {"REDIS_URL": store_url, "CACHE_REDIS_URL": cache_url, **AGENTS}
    common |= env or {}
    members = [*servers]
    for index in range(runners):
        members.append(_service(f"runner{index}", "runner", common, folder))
    members.append(_service(ALONE, "runner", common | OTHERS, folder))
    members.append(_service(f"{KEPT}-runner", "runner", common | KEPT_RUNNER, folder))
    urls = []
    for name in (*(f"web{index}" for index in range(webs)), f"{KEPT}-web"):
        port = free_ports(1)
        own = common | {"PORT": str(port), "WEB_CONCURRENCY": "1"}
        if name == "web0":
            own["PYTHONPATH"] = _ahead(folder)
        if name.startswith(KEPT):
            own |= KEPT_WEB
        members.append(_service(name, "web", own, folder))
        urls.append(f"http://127.0.0.1:{port}")
    with ExitStack() as stack:
        for member in members:
            # In the opposite order, those that use the store before the store.
            stack.callback(member.end)
            member.start()
            if url := servers.get(member, ""):
                wait_until(partial(_answers, url), f"the {member.name} server answers")
        for url in urls:
            wait_until(partial(_is_up, url), f"{url} is up", timeout_s=60)
        yield Fleet(members, urls, store_url, cache_url, group)


def _ahead(folder: Path) -> str:
    """A PYTHONPATH under which every Python begins with `AHEAD`."""
    place = folder / "ahead"
    place.mkdir()
    (place / "sitecustomize.py").write_text(AHEAD)
    return os.pathsep.join([str(place), path_of(REPOSITORY)])


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
