"""A real `plateau serve` for tests: its own processes, ports and data directory.

    with serving(tmp_path) as plateau:
        httpx.get(plateau.url + "/health/live")
        redis.Redis.from_url(plateau.streams_url)

Invariant: when a `with` block ends, however it ends, every process that was ever part of the
tree is gone: each is ended by its own id, and a leftover fails the test that left it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import httpx
import psutil
from redis import Redis

from plateau_sse.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
BANNER = re.compile(r"^Plateau is up: (\S+?)/?$", re.MULTILINE)
BANNER_END = "Ctrl+C stops it."
REDIS_LINE = re.compile(
    r"^Memory of the (streams|cache):\n.* redis-cli -p \d+ INFO memory$", re.MULTILINE
)


def wait_until(condition: Callable[[], object], what: str, *, timeout_s: float = 15) -> None:
    """Return as soon as `condition()` is true; fail, naming `what`, when it never is."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


def is_on_disk(client: Redis) -> bool:
    """Whether the append-only file has all that was acknowledged; while a sync is under way
    Redis puts off writing, for two seconds at most."""
    state = client.info("persistence")
    return not (state["aof_pending_bio_fsync"] or state["aof_buffer_length"])


def free_ports(count: int = 3) -> int:
    """A port that is free with its `count - 1` successors, below the range that the kernel
    hands out to outgoing connections."""
    while True:
        # Not `random`: it is seeded alike in every test, and the ports would collide.
        port = 10_000 + secrets.randbelow(20_000)
        if all(_is_free(port + i) for i in range(count)):
            return port


def is_listening(port: int) -> bool:
    """Whether someone takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def package_of(code: Path) -> str:
    """What the package is called in this checkout: up to 0.1.0 it was `service` itself."""
    return "plateau_sse" if (code / "service" / "plateau_sse").is_dir() else "service"


def path_of(code: Path) -> str:
    """The PYTHONPATH with which this checkout's package and `tests` are the ones imported."""
    package = code / "service" if package_of(code) == "plateau_sse" else code
    return os.pathsep.join(map(str, dict.fromkeys((package, code))))


def environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """This process' environment without Plateau's settings, but for REDIS_SERVER_BIN, which
    says what the whole suite is to run against."""
    ours = {setting.name.upper() for setting in fields(Settings)} - {"REDIS_SERVER_BIN"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONPATH": path_of(REPOSITORY), **overrides}


def plateau(
    *arguments: str, env: Mapping[str, str], cwd: Path, timeout_s: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run `plateau …` to its end, which is expected to come by itself."""
    return subprocess.run(
        [sys.executable, "-m", "plateau_sse", *arguments],
        env=environment(env),
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=timeout_s,
    )


def scripts_load(*arguments: str, **env: str) -> tuple[int, str]:
    """Run `scripts/load`; its exit code, and what it has said."""
    load = subprocess.Popen(
        [sys.executable, "-m", "locustfiles", *arguments],
        cwd=REPOSITORY,
        env=environment({"LOCUST_HOST": "", **env}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = load.communicate(timeout=110)
    finally:
        # Killed, it would leave the service that it has started.
        if load.poll() is None:
            load.terminate()
            load.communicate()
    return load.returncode, said


@dataclass
class Serving:
    """A running `plateau serve`. `streams_url` and `cache_url` are those of the servers that
    it started; empty where the test gave it a URL."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    port: int
    url: str = ""
    streams_url: str = ""
    cache_url: str = ""
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return (self.data_dir / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.data_dir / "stderr").read_text()

    def is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def tree(self) -> dict[int, str]:
        """Every living process of the tree, its title by its pid; the master's comes first."""
        try:
            master = psutil.Process(self.pid)
            processes = [master, *master.children(recursive=True)]
        except psutil.NoSuchProcess:
            return {}
        titles = {}
        for process in processes:
            title = _title(process)
            if title is not None:
                titles[process.pid] = title
                self.seen.setdefault(process.pid, process)
        return titles

    def pids(self, title: str) -> list[int]:
        """Those of the tree's processes whose title contains `title`, oldest first."""
        return sorted(pid for pid, shown in self.tree().items() if title in shown)

    def leftovers(self) -> dict[int, str]:
        """Processes that were once part of the tree and live."""
        self.tree()
        return {
            pid: title
            for pid, process in self.seen.items()
            if (title := _title(process)) is not None
        }

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 30) -> int:
        """Send the signal, wait until all of the tree is gone, return the exit code."""
        self.tree()
        self.send(number)
        code = self.process.wait(timeout_s)
        wait_until(lambda: not self.leftovers(), "every process of the tree ends")
        return code

    def kill(self) -> None:
        """End whatever is left, each by its id, and wait until it is gone."""
        self.leftovers()
        for process in self.seen.values():
            if _title(process) is not None:
                process.kill()
        self.process.wait(10)
        wait_until(lambda: not self.leftovers(), "everything is gone")


def _title(process: psutil.Process) -> str | None:
    """None once it is dead, or a zombie; psutil tells a reused pid apart."""
    try:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return None
        # setproctitle pads with blanks up to the length of the first command line.
        return " ".join(process.cmdline()).strip() or str(process.name())
    except psutil.NoSuchProcess:
        return None


def launch(
    data_dir: Path,
    *,
    arguments: Sequence[str] = ("-m", "plateau_sse", "serve"),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_group: bool = False,
    stdin: int = subprocess.DEVNULL,
    python: Path | str = sys.executable,
) -> Serving:
    """Start it and return at once; `serving` is what tests usually want."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    overrides = dict(env or {})
    port = int(overrides.setdefault("PORT", str(free_ports())))
    overrides.setdefault("DATA_DIR", str(data_dir))
    with (data_dir / "stdout").open("wb") as out, (data_dir / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [python, *arguments],
            env=environment(overrides),
            cwd=cwd or data_dir,
            stdin=stdin,
            stdout=out,
            stderr=err,
            process_group=0 if new_group else None,
        )
    return Serving(process, data_dir, port)


def await_banner(started: Serving, *, timeout_s: float = 30) -> None:
    """Fill in the addresses as soon as it has printed them."""
    looked_at = 0.0

    def printed() -> bool:
        nonlocal looked_at
        # Looking for children asks the kernel of every process of the machine.
        if time.monotonic() > looked_at + 0.2:
            started.tree()
            looked_at = time.monotonic()
        if started.process.poll() is not None:
            raise AssertionError(f"plateau ended at once:\n{started.stdout}{started.stderr}")
        return BANNER_END in started.stdout

    try:
        wait_until(printed, "the banner", timeout_s=timeout_s)
    except AssertionError as error:
        error.add_note(f"stdout:\n{started.stdout}\nstderr:\n{started.stderr}")
        raise
    started.tree()
    banner = BANNER.search(started.stdout)
    assert banner, started.stdout
    started.url = banner[1]
    if REDIS_LINE.search(started.stdout):
        urls = json.loads((started.data_dir / "servers.json").read_text())
        started.streams_url, started.cache_url = urls.get("streams", ""), urls.get("cache", "")


@contextmanager
def serving(
    data_dir: Path,
    *,
    arguments: Sequence[str] = ("-m", "plateau_sse", "serve"),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_group: bool = False,
    stdin: int = subprocess.DEVNULL,
    timeout_s: float = 30,
    python: Path | str = sys.executable,
) -> Iterator[Serving]:
    """A real `plateau serve`, up when the block begins and gone when it ends.

    `arguments` go to `python`, by default this one, `env` overrides single settings (a free
    PORT and `data_dir` as DATA_DIR are given), `cwd` is where it runs (`data_dir`): agents are
    imported from there.
    The end is graceful; a process that outlives it is killed and fails the test.
    """
    started = launch(
        data_dir,
        arguments=arguments,
        env=env,
        cwd=cwd,
        new_group=new_group,
        stdin=stdin,
        python=python,
    )
    try:
        await_banner(started, timeout_s=timeout_s)
        yield started
        if started.process.poll() is None:
            started.stop()
        assert not (left := started.leftovers()), left
    finally:
        started.kill()
