"""Fixtures that several modules share: Redis servers of the suite's own.

Invariant: every test finds both servers empty; a test that leaves a key without a life fails,
whatever it asserts itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis
from redis.exceptions import RedisError

from plateau_sse.serve.redis_server import Role, options, server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.redis import keys
from tests.processes import free_ports, wait_until

# The queue lives as long as the service does; its entries are deleted one by one.
LIVES_FOREVER = {keys.QUEUE.encode()}


def pytest_configure() -> None:
    # A shell (or nohup) starts what is to run in the background with these ignored, and a child
    # inherits that: no service of a test would end on Ctrl+C, or when its terminal is closed.
    # What has a handler here has none in a child.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


class Server(NamedTuple):
    """One Redis server, configured as `plateau serve` configures it."""

    url: str
    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> Redis:
        return Redis.from_url(self.url, protocol=2)


def start_server(role: Role, folder: Path, binary: str | None = None) -> Server:
    """A server of the kind that REDIS_SERVER_BIN names, or of `binary`; the caller ends its
    process."""
    port = free_ports(1)
    if binary is None:
        binary = os.environ.get("REDIS_SERVER_BIN", "")
    settings = Settings(redis_server_bin=binary)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [server_binary(settings)]
    for name, value in options(role, settings, folder, port).items():
        arguments += [f"--{name}", value]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Server(f"redis://127.0.0.1:{port}/0", port, process)
    client = server.client()

    def answers() -> bool:
        try:
            return bool(client.ping())
        except RedisError:
            return False

    wait_until(answers, f"the {role} server answers")
    client.close()
    return server


def end_server(server: Server) -> None:
    server.process.terminate()
    server.process.wait(10)


@pytest.fixture(scope="session")
def streams_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server("streams", tmp_path_factory.mktemp("streams"))
    yield server
    end_server(server)


@pytest.fixture(scope="session")
def cache_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server("cache", tmp_path_factory.mktemp("cache"))
    yield server
    end_server(server)


@pytest.fixture
def streams_url(streams_server: Server) -> Iterator[str]:
    """The URL of an empty streams instance."""
    with streams_server.client() as client:
        client.flushall()
        yield streams_server.url
        assert_all_have_a_life(client)


@pytest.fixture
def cache_url(cache_server: Server) -> Iterator[str]:
    """The URL of an empty cache."""
    with cache_server.client() as client:
        client.flushall()
        yield cache_server.url
        assert_all_have_a_life(client)


def assert_all_have_a_life(client: Redis) -> None:
    """Fail where a key would stay for ever."""
    immortal = [key for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
    left = sorted(set(immortal) - LIVES_FOREVER)
    assert not left, f"keys without a life: {left[:5]}"


# A shallow clone, a sandbox without namespaces, a machine without a package index.
UNAVOIDABLE = ("this clone has no", "no process namespace", "no package index")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """On a newcomer's machine what needs a browser or another server is skipped, with the
    reason in words; in CI it must have run, but for what CI itself cannot change."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = [
        report
        for report in reporter.stats.get("skipped", [])
        if not any(words in str(report.longrepr) for words in UNAVOIDABLE)
    ]
    if os.environ.get("CI") == "true" and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{len(skipped)} tests were skipped, which CI does not accept")
