"""What fault tests do to Redis and to connections, and what they measure of a process.

Invariant: only processes that were started here are stopped or paused, each by its id, and a
paused one goes on when its block ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from redis import Redis
from redis.exceptions import RedisError

from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.redis import keys
from tests.processes import free_ports, wait_until

# The least that Linux takes; it doubles it.
STUCK_BUFFER = 2048


@dataclass
class OwnRedis:
    """A Redis server, configured as `serve` does it, that a test may ill-treat: stopped and
    started it keeps its port and its data."""

    role: Role
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        return Redis.from_url(self.url, protocol=2)

    def start(self, **overrides: str) -> None:
        settings = Settings(redis_server_bin=os.environ.get("REDIS_SERVER_BIN", ""))
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = [server_binary(settings)]
        configuration = options(self.role, settings, self.folder, self.port) | overrides
        for name, value in configuration.items():
            arguments += [f"--{name}", value]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(arguments, stdin=null, stdout=null, stderr=null)
        wait_until(self.answers, f"the {self.role} server answers")

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        """With SIGTERM: it writes out what it has acknowledged."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def own_redis(folder: Path, role: Role = "streams") -> Iterator[OwnRedis]:
    server = OwnRedis(role, folder, free_ports(1))
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        yield server


# External runs: what a producer in any language sends


def start_run(url: str, agent: str, text: str = "", **options: Any) -> dict[str, str]:
    """Post a run that must be taken on."""
    body: dict[str, Any] = {"agent": agent, "options": options, "cache": {"mode": "off"}}
    if agent != "external":
        body["input"] = text or "anything"
    answer = httpx.post(f"{url}/v1/runs", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 202, answer.text
    run: dict[str, str] = answer.json()
    return run


def append(client: httpx.Client, run: dict[str, str], events: list[dict[str, Any]]) -> None:
    answer = client.post(f"/v1/runs/{run['id']}/events", json=events)
    assert answer.status_code == 200, answer.text


def append_characters(client: httpx.Client, run: dict[str, str], text: str) -> None:
    """A delta for each character, in as few requests as may be."""
    deltas = [{"type": "message.delta", "text": character} for character in text]
    for start in range(0, len(deltas), 1000):
        append(client, run, deltas[start : start + 1000])


def complete(client: httpx.Client, run: dict[str, str]) -> None:
    append(client, run, [{"type": "run.completed"}])


def record_of(url: str, run: dict[str, str]) -> dict[str, Any]:
    query = run["events_url"].partition("?")[2]
    answer = httpx.get(f"{url}/v1/runs/{run['id']}?{query}", timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = answer.json()
    return record


def output_of(url: str, run: dict[str, str]) -> str:
    record = record_of(url, run)
    assert record["status"] == "completed", record
    return str(record["output"])


# Readers that never read


def open_stuck(url: str, path: str) -> socket.socket:
    """Ask for a stream and never read a byte; the kernel takes next to nothing of it."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER)
    connection.connect((parts.hostname, parts.port))
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n"
    )
    connection.sendall(request.encode())
    return connection


@contextmanager
def stuck_readers(url: str, path: str, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(open_stuck(url, path)) for _ in range(count)]


# Measures


def worker_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The one web worker of a `plateau web`."""
    (worker,) = psutil.Process(process.pid).children()
    return worker


def pss_bytes(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss)


def open_connections(process: psutil.Process, url: str) -> int:
    """Clients that this worker of the service at `url` has."""
    port = urlsplit(url).port
    return sum(
        1
        for connection in process.net_connections("tcp")
        if connection.laddr.port == port and connection.status != psutil.CONN_LISTEN
    )


def send_queues(url: str) -> list[int]:
    """Bytes that wait in the kernel for each client of the service at `url`, from
    /proc/net/tcp: address, peer, state, send queue:receive queue, …"""
    port = urlsplit(url).port
    waiting = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        # Neither the listening one nor those that only the kernel remembers (TIME_WAIT).
        if int(local.partition(":")[2], 16) == port and state not in ("0A", "06"):
            waiting.append(int(queues.partition(":")[0], 16))
    return waiting


def kernel_tcp_bytes() -> int:
    """What the kernel holds for all TCP sockets of this machine."""
    (line,) = (
        line
        for line in Path("/proc/net/sockstat").read_text().splitlines()
        if line.startswith("TCP:")
    )
    return int(line.split()[line.split().index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def subscriptions(redis: Redis, run: dict[str, str]) -> int:
    """Workers that follow the run."""
    ((_, count),) = redis.pubsub_shardnumsub(keys.channel(run["id"]))
    return int(count)


def client_ids(redis: Redis, name: str) -> set[int]:
    """The connections of that name."""
    return {int(client["id"]) for client in redis.client_list() if client["name"] == name}


ALARMS = ("Traceback", "WORKER TIMEOUT", "SIGABRT", "ERROR")


def check_log(log: str) -> None:
    """Nothing in it that a fault which is planned for may cause."""
    said = [line for line in log.splitlines() if any(alarm in line for alarm in ALARMS)]
    assert not said, "\n".join(said)
