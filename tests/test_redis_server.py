"""The Redis servers that serve starts: bounds, durability, who they die with."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from plateau_sse.errors import SettingsError, StoreUnavailable
from plateau_sse.serve.child import Backoff
from plateau_sse.serve.data_dir import DataDir
from plateau_sse.serve.redis_server import LOG_BYTES, RedisServer, Role, server_binary
from plateau_sse.settings import Settings
from tests.processes import environment, free_ports, is_on_disk, wait_until

Start = Callable[[Role], RedisServer]


def settings_for(**values: Any) -> Settings:
    return Settings(
        port=free_ports(), redis_server_bin=os.environ.get("REDIS_SERVER_BIN", ""), **values
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[DataDir]:
    data_dir = DataDir(tmp_path / "data")
    yield data_dir
    data_dir.close()


@pytest.fixture
def make(data_dir: DataDir) -> Iterator[Callable[..., RedisServer]]:
    made: list[RedisServer] = []

    def make(role: Role, settings: Settings | None = None) -> RedisServer:
        server = RedisServer(role, settings or settings_for(), data_dir)
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(5)


@pytest.fixture
def start(make: Callable[..., RedisServer]) -> Start:
    def start(role: Role) -> RedisServer:
        server = make(role)
        server.start()
        server.wait_until_ready()
        return server

    return start


def configuration(client: Redis, name: str) -> str:
    return str(client.config_get(name)[name])


def test_the_cache_is_bounded_and_evicts_the_least_recently_used(start: Start) -> None:
    with Redis.from_url(start("cache").url, decode_responses=True) as client:
        assert configuration(client, "maxmemory") == str(10 * 1024**2)
        assert configuration(client, "maxmemory-policy") == "allkeys-lru"
        assert configuration(client, "maxmemory-clients") == str(10 * 1024**2 // 4)
        assert configuration(client, "appendonly") == "no"
        assert configuration(client, "save") == ""
        limits = configuration(client, "client-output-buffer-limit")
        assert "normal 2097152 1048576 10" in limits
        assert "pubsub 262144 131072 10" in limits


def test_the_streams_instance_refuses_rather_than_evicts(start: Start) -> None:
    with Redis.from_url(start("streams").url, decode_responses=True) as client:
        assert configuration(client, "maxmemory") == str(64 * 1024**2)
        assert configuration(client, "maxmemory-policy") == "noeviction"
        assert configuration(client, "maxmemory-clients") == str(64 * 1024**2 // 4)
        assert configuration(client, "appendonly") == "yes"
        assert configuration(client, "appendfsync") == "everysec"
        assert configuration(client, "stream-node-max-bytes") == "1024"
        assert configuration(client, "auto-aof-rewrite-percentage") == "100"
        limits = configuration(client, "client-output-buffer-limit")
        assert "pubsub 4194304 1048576 10" in limits


@pytest.mark.parametrize("role", ["cache", "streams"])
def test_only_this_machine_reaches_it(start: Start, role: Role) -> None:
    server = start(role)
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    with Redis.from_url(server.url, decode_responses=True) as client:
        assert configuration(client, "protected-mode") == "yes"


@pytest.mark.parametrize("role", ["cache", "streams"])
def test_nobody_is_answered_without_the_password(start: Start, role: Role) -> None:
    server = start(role)
    password = urlsplit(server.url).password
    assert password and len(password) >= 32
    with Redis(port=server.port) as client, pytest.raises(AuthenticationError):
        client.info("memory")
    with Redis(port=server.port, password=password[:-1]) as client:
        with pytest.raises(AuthenticationError):
            client.ping()
    # What everybody can see of it.
    process = psutil.Process(server.pid)
    assert password not in " ".join(process.cmdline())
    assert password not in server.log_file.read_text()


def test_bounds_come_from_the_settings(make: Callable[..., RedisServer]) -> None:
    settings = settings_for(cache_max_memory=3 * 1024**2, stream_max_memory=5 * 1024**2)
    for role, bound in (("cache", 3 * 1024**2), ("streams", 5 * 1024**2)):
        server = make(role, settings)
        server.start()
        server.wait_until_ready()
        with Redis.from_url(server.url, decode_responses=True) as client:
            assert configuration(client, "maxmemory") == str(bound)


def test_the_cache_stays_within_its_bound_while_it_is_flooded(start: Start) -> None:
    item = 2048
    with Redis.from_url(start("cache").url) as client:
        most = 0
        for first in range(0, 20_000, 500):
            with client.pipeline(transaction=False) as pipe:
                for number in range(first, first + 500):
                    pipe.set(f"cache:{number}", os.urandom(item), ex=3600)
                pipe.execute()
            most = max(most, int(client.info("memory")["used_memory"]))
        # The bound, an item, and what the buffers of this one client take.
        assert most <= 10 * 1024**2 + item + 3 * 1024**2
        assert client.info("stats")["evicted_keys"] > 10_000


def test_ports_follow_the_services_own(make: Callable[..., RedisServer]) -> None:
    settings = settings_for()
    assert make("streams", settings).port == settings.port + 1
    assert make("cache", settings).port == settings.port + 2


def test_a_port_that_is_taken_is_passed_over(make: Callable[..., RedisServer]) -> None:
    settings = settings_for()
    with socket.create_server(("127.0.0.1", settings.port + 1)):
        server = make("streams", settings)
        server.start()
        server.wait_until_ready()
        assert server.port != settings.port + 1
        with Redis.from_url(server.url) as client:
            assert client.ping()


def test_a_port_taken_between_choice_and_start_is_passed_over(
    make: Callable[..., RedisServer],
) -> None:
    server = make("streams")
    with socket.create_server(("127.0.0.1", server.port)):
        server.start()
        server.wait_until_ready()
        with Redis.from_url(server.url) as client:
            assert client.ping()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_streams_outlive_their_server(start: Start, number: signal.Signals) -> None:
    server = start("streams")
    with Redis.from_url(server.url) as client:
        client.xadd("run:{a}:events", {"e": "kept"}, id="1-1")
        wait_until(lambda: is_on_disk(client), "it is on disk")
    server.send(number)
    wait_until(lambda: server.reap() is not None, "it ends")
    server.start()
    server.wait_until_ready()
    with Redis.from_url(server.url) as client:
        assert client.xlen("run:{a}:events") == 1


def test_a_server_that_cannot_start_says_why(start: Start, data_dir: DataDir) -> None:
    server = start("streams")
    with Redis.from_url(server.url) as client:
        client.set("a", "b")
    server.stop(5)
    manifest = next((data_dir.path / "streams").rglob("*.manifest"))
    manifest.write_text("nonsense")
    server.start()
    with pytest.raises(StoreUnavailable) as caught:
        server.wait_until_ready(within_s=5)
    assert "exit code 1" in str(caught.value)
    assert "manifest" in str(caught.value)
    assert not server.pid


def test_a_damaged_tail_is_told_with_the_command_that_mends_it(
    start: Start, data_dir: DataDir
) -> None:
    """The tool that Redis names is not shipped; the server is that tool under its name."""
    server = start("streams")
    with Redis.from_url(server.url) as client:
        client.set("a", "b")
        wait_until(lambda: is_on_disk(client), "it is on disk")
    server.stop(5)
    file = next((data_dir.path / "streams").rglob("*.incr.aof"))
    with file.open("ab") as tail:
        # Not cut short, which is mended without a word, but other bytes.
        tail.write(b"*3\r\n$3\r\nSET\r\nnonsense\r\n" * 3)
    server.start()
    with pytest.raises(StoreUnavailable) as caught:
        server.wait_until_ready(within_s=5)
    command = str(caught.value).splitlines()[-1].strip()
    assert "exec -a" in command and "check-aof" in command
    mended = subprocess.run(
        command, shell=True, input="y\n", text=True, capture_output=True, timeout=20
    )
    assert mended.returncode == 0, mended.stdout + mended.stderr
    server.start()
    server.wait_until_ready()
    with Redis.from_url(server.url) as client:
        assert client.get("a") == b"b"


def test_files_are_private(start: Start, data_dir: DataDir) -> None:
    start("streams")
    start("cache")
    assert stat.S_IMODE(data_dir.path.stat().st_mode) == 0o700
    for path in data_dir.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    DataDir(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_the_log_is_bounded(start: Start) -> None:
    server = start("cache")
    with server.log_file.open("ab") as log:
        log.write(b"x" * (LOG_BYTES + 1))
    server.look_after()
    assert server.log_file.stat().st_size == 0


def test_a_data_dir_has_one_user(data_dir: DataDir) -> None:
    with pytest.raises(SettingsError, match=f"pid {os.getpid()}"):
        DataDir(data_dir.path)


def test_a_data_dir_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="DATA_DIR"):
        DataDir(tmp_path / "file" / "data")


def test_a_server_that_does_not_exist_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="REDIS_SERVER_BIN=no-such-server"):
        server_binary(Settings(redis_server_bin="no-such-server"))


STARTER = """
import os, signal, sys
from pathlib import Path
from plateau_sse.serve.data_dir import DataDir
from plateau_sse.serve.redis_server import RedisServer
from plateau_sse.settings import Settings

server = RedisServer("streams", Settings.from_env(), DataDir(Path(os.environ["DATA_DIR"])))
server.start()
server.wait_until_ready()
print(server.pid, flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_dies_with_a_killed_parent_and_only_then_lets_go(tmp_path: Path) -> None:
    env = environment({"DATA_DIR": str(tmp_path), "PORT": str(free_ports())})
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], env=env, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait(10)
        # Waits for the orphan to let go of the directory.
        DataDir(tmp_path).close()
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_back_off_doubles_up_to_a_bound_and_starts_again_after_a_long_life() -> None:
    backoff = Backoff()
    assert [backoff.died(0.1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert 9 < backoff.left_s() <= 10
    assert backoff.died(60) == 0.5
