"""What `plateau doctor` says of Redis servers, and that doing what it says mends them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from plateau_sse.cli.checks.bounds import bounds
from plateau_sse.cli.checks.seen import Seen
from plateau_sse.cli.checks.stores import _judge
from plateau_sse.cli.servers import Server
from plateau_sse.serve.redis_server import Role, server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.redis.rights import NOTHING
from tests.conftest import Server as RunningServer
from tests.conftest import end_server, start_server
from tests.examined import examine, mended, needs_redis_cli
from tests.far_redis import far
from tests.processes import free_ports, wait_until

MIB = 1024**2
Start = Callable[..., str]


@pytest.fixture
def both(streams_url: str, cache_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings with which nothing is wrong; a port that is free."""
    return {
        "REDIS_URL": streams_url,
        "CACHE_REDIS_URL": cache_url,
        "DATA_DIR": str(tmp_path / "data"),
        "PORT": str(free_ports()),
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A server of the test's own: as serve starts it, or with `bare` as it comes."""
    processes: list[subprocess.Popen[bytes]] = []
    servers: list[RunningServer] = []

    def start(role: Role, **configuration: str) -> str:
        server = start_server(role, tmp_path / role)
        servers.append(server)
        with server.client() as client:
            for name, value in configuration.items():
                client.config_set(name.replace("_", "-"), value)
        return server.url

    def start_bare(*arguments: str) -> str:
        port = free_ports(1)
        folder = tmp_path / str(port)
        folder.mkdir()
        binary = server_binary(
            Settings(redis_server_bin=os.environ.get("REDIS_SERVER_BIN", ""))
        )
        processes.append(
            subprocess.Popen(
                [binary, "--port", str(port), "--dir", str(folder), *arguments],
                stdout=subprocess.DEVNULL,
            )
        )
        url = f"redis://127.0.0.1:{port}/0"
        wait_until(lambda: answers(url), "the bare server answers")
        return url

    start.bare = start_bare  # type: ignore[attr-defined]
    yield start
    for server in servers:
        end_server(server)
    for process in processes:
        process.kill()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False


def variable(role: Role) -> str:
    return "REDIS_URL" if role == "streams" else "CACHE_REDIS_URL"


def test_servers_as_serve_starts_them_are_well(both: dict[str, str], tmp_path: Path) -> None:
    found = examine(both, tmp_path)
    assert found.ill() == []
    assert found.code == 0
    for role in ("streams", "cache"):
        for detail in ("policy", "bound", "persistence", "clients", "buffers", "connections"):
            assert found.level(f"{role}.{detail}") == "ok"


WRONG: list[tuple[Role, str, str, str, str]] = [
    ("streams", "maxmemory_policy", "allkeys-lru", "policy", "error"),
    ("cache", "maxmemory_policy", "noeviction", "policy", "error"),
    ("cache", "maxmemory_policy", "volatile-ttl", "policy", "error"),
    ("streams", "maxmemory", "0", "bound", "error"),
    ("cache", "maxmemory", "0", "bound", "error"),
    ("cache", "maxmemory", str(20 * MIB), "bound", "warning"),
    ("streams", "maxmemory", str(32 * MIB), "bound", "warning"),
    ("streams", "maxmemory", str(256 * MIB), "bound", "warning"),
    ("streams", "appendonly", "no", "persistence", "warning"),
    ("streams", "appendfsync", "no", "persistence", "warning"),
    ("cache", "save", "60 1", "persistence", "warning"),
    ("cache", "appendonly", "yes", "persistence", "warning"),
    ("streams", "maxmemory_clients", "0", "clients", "warning"),
    ("cache", "maxmemory_clients", "0", "clients", "warning"),
    ("streams", "client_output_buffer_limit", "pubsub 0 0 0", "buffers", "warning"),
    ("cache", "client_output_buffer_limit", "normal 0 0 0", "buffers", "warning"),
    ("streams", "maxclients", "60", "connections", "error"),
]


@needs_redis_cli
@pytest.mark.parametrize(("role", "name", "value", "detail", "level"), WRONG)
def test_what_is_wrong_is_named_and_mended(
    both: dict[str, str],
    tmp_path: Path,
    start: Start,
    role: Role,
    name: str,
    value: str,
    detail: str,
    level: str,
) -> None:
    env = both | {variable(role): start(role, **{name: value})}
    found = examine(env, tmp_path)
    assert found.level(f"{role}.{detail}") == level
    assert found.ill() == [f"{role}.{detail}"]
    assert found.code == int(level == "error")
    env = mended(env, found.mend(f"{role}.{detail}"))
    assert examine(env, tmp_path, "--strict").ill() == []


@needs_redis_cli
def test_a_server_as_it_comes_is_mended_step_by_step(
    both: dict[str, str], tmp_path: Path, start: Any
) -> None:
    for role in ("streams", "cache"):
        env = both | {variable(role): start.bare()}
        found = examine(env, tmp_path)
        assert found.code == 1
        assert f"{role}.bound" in found.ill()
        for check in found.ill():
            env = mended(env, found.mend(check))
        assert examine(env, tmp_path, "--strict").ill() == []


@needs_redis_cli
def test_a_password_is_used_and_not_shown(
    both: dict[str, str], tmp_path: Path, start: Start
) -> None:
    url = start("cache", maxmemory_policy="noeviction", requirepass="very-secret")
    env = both | {"CACHE_REDIS_URL": url.replace("//", "//:very-secret@")}
    found = examine(env, tmp_path)
    assert "very-secret" not in found.text
    assert found.mend("cache.policy") == (
        'redis-cli -u "${CACHE_REDIS_URL%%:*}://default:${CACHE_REDIS_URL#*://:}" '
        "CONFIG SET maxmemory-policy allkeys-lru"
    )
    assert examine(mended(env, found.mend("cache.policy")), tmp_path).ill() == []


def test_a_wrong_password_is_an_error(
    both: dict[str, str], tmp_path: Path, start: Start
) -> None:
    url = start("streams", requirepass="very-secret").replace("//", "//:other-secret@")
    found = examine(both | {"REDIS_URL": url}, tmp_path)
    assert (found.code, found.ill()) == (1, ["streams"])
    assert "refuses this password" in found.said("streams")
    assert "secret" not in found.text
    place = url.rpartition("@")[2]
    assert found.mend("streams") == f"REDIS_URL=redis://:PASSWORD@{place}"


def test_a_server_that_is_away_is_an_error(both: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
    found = examine(both | {"CACHE_REDIS_URL": url}, tmp_path)
    assert (found.code, found.ill()) == (1, ["cache"])
    assert "does not answer" in found.said("cache")
    assert found.mend("cache") == "start it, or correct CACHE_REDIS_URL"


def test_one_server_for_both_is_a_warning_under_any_name(
    both: dict[str, str], tmp_path: Path
) -> None:
    same = both["REDIS_URL"].replace("127.0.0.1", "localhost")
    env = both | {"CACHE_REDIS_URL": same}
    found = examine(env, tmp_path)
    assert (found.code, found.ill()) == (0, ["cache.one_server"])
    assert examine(env, tmp_path, "--strict").code == 1
    undone, _, serve = found.mend("cache.one_server").partition("; ")
    assert serve == "plateau serve"
    after = examine(mended(env, undone), tmp_path)
    assert after.level("cache.one_server") == ""
    assert "nothing runs in" in after.said("cache")


@needs_redis_cli
@pytest.mark.parametrize(
    ("rights", "command"),
    [
        ("~* &* +@all -spublish", "SPUBLISH"),
        # What a user made by hand is like.
        ("~* resetchannels +@all", "our channels"),
        ("~cache:* &* +@all", "our keys"),
        ("~* &* +@all -@scripting", "EVAL"),
    ],
)
def test_a_user_with_too_few_rights_is_named(
    both: dict[str, str], tmp_path: Path, start: Start, rights: str, command: str
) -> None:
    url = start("streams")
    with Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">very-secret", *rights.split())
    env = both | {"REDIS_URL": url.replace("//", "//me:very-secret@")}
    found = examine(env, tmp_path)
    assert (found.code, found.ill()) == (1, ["streams.rights"])
    assert command in found.said("streams.rights")
    assert "very-secret" not in found.text
    assert examine(mended(env, found.mend("streams.rights")), tmp_path).ill() == []


@needs_redis_cli
def test_a_closed_config_is_told_and_opened(
    both: dict[str, str], tmp_path: Path, start: Start
) -> None:
    url = start("cache", maxmemory_policy="noeviction")
    with Redis.from_url(url) as client:
        rights = "~* &* +@all -config".split()
        client.execute_command("ACL", "SETUSER", "me", "on", ">very-secret", *rights)
    env = both | {"CACHE_REDIS_URL": url.replace("//", "//me:very-secret@")}
    found = examine(env, tmp_path)
    assert sorted(found.ill()) == ["cache.config", "cache.policy"]
    assert found.mend("cache.policy").startswith("maxmemory-policy allkeys-lru  # in the")
    env = mended(env, found.mend("cache.config"))
    assert examine(env, tmp_path).ill() == ["cache.policy"]


def test_a_config_that_was_renamed_is_told(
    both: dict[str, str], tmp_path: Path, start: Any
) -> None:
    url = start.bare("--rename-command", "CONFIG", "")
    found = examine(both | {"CACHE_REDIS_URL": url}, tmp_path)
    assert found.level("cache.config") == "warning"
    assert "maxmemory-clients" in found.mend("cache.config")
    assert "redis-cli" not in found.mend("cache.bound")


def test_a_replica_is_an_error_and_its_master_named(
    both: dict[str, str], tmp_path: Path, start: Start
) -> None:
    url = start("streams")
    master = both["REDIS_URL"]
    with Redis.from_url(url) as client:
        client.replicaof("127.0.0.1", master.removesuffix("/0").rpartition(":")[2])
        found = examine(both | {"REDIS_URL": url}, tmp_path)
        client.replicaof("NO", "ONE")
    assert (found.code, found.ill()) == (1, ["streams.replica"])
    assert found.mend("streams.replica") == f"REDIS_URL={master}"
    assert examine(mended(both, found.mend("streams.replica")), tmp_path).ill() == []


def test_a_part_of_a_cluster_is_an_error(
    both: dict[str, str], tmp_path: Path, start: Any
) -> None:
    # By default 10,000 above the other, where it may be taken.
    bus = ("--cluster-port", str(free_ports(1)))
    url = start.bare("--cluster-enabled", "yes", *bus)
    found = examine(both | {"REDIS_URL": url}, tmp_path)
    assert (found.code, found.ill()) == (1, ["streams.mode"])


@needs_redis_cli
def test_a_disk_that_takes_no_more_is_an_error(
    both: dict[str, str], tmp_path: Path, start: Any
) -> None:
    url = start.bare("--maxmemory", str(10 * MIB), "--maxmemory-policy", "allkeys-lru")
    with Redis.from_url(url) as client:
        folder = Path(client.config_get("dir")["dir"])
        shutil.rmtree(folder)
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it fails"
        )
        with pytest.raises(ResponseError):
            client.set("a", "b")
        for role in ("streams", "cache"):
            found = examine(both | {variable(role): url}, tmp_path)
            assert found.level(f"{role}.persistence") == "error"
        mended(both, found.mend("cache.persistence"))
        assert client.set("a", "b", ex=60)


def test_streams_that_are_full_are_told(
    both: dict[str, str], tmp_path: Path, start: Start
) -> None:
    env = both | {"REDIS_URL": start("streams")}
    for most, level in ((45, "warning"), (58, "error")):
        with Redis.from_url(env["REDIS_URL"]) as client:
            for number in range(most):
                client.set(f"filler:{number}", bytes(MIB - 1024), ex=600)
        found = examine(env, tmp_path)
        assert found.level("streams.fullness") == level
        assert found.ill() == ["streams.fullness"]
    assert "CONFIG SET maxmemory" in found.mend("streams.fullness")
    smaller = env | {"STREAM_MAX_MEMORY": "60mb"}
    assert examine(smaller, tmp_path).mend("streams.fullness").startswith("STREAM_MAX_MEMORY=")


def seen(role: Role, **info: Any) -> Seen:
    known = {
        "redis_version": "7.0.15",
        "redis_mode": "standalone",
        "cluster_enabled": 0,
        "role": "master",
        "run_id": "a",
        "maxmemory": 10 * MIB,
        "maxmemory_policy": "allkeys-lru",
        "aof_enabled": 0,
        "rdb_last_bgsave_status": "ok",
        "aof_last_write_status": "ok",
        "maxclients": 10_000,
        "connected_clients": 1,
        "used_memory": MIB,
    }
    configuration = {
        "maxmemory-clients": "25%",
        "client-output-buffer-limit": "normal 1000 0 0 slave 0 0 0 pubsub 1000 0 0",
        "save": "",
        "appendfsync": "everysec",
    }
    server = Server(role, "redis://box/0")
    return Seen(server, known | info, 0.2, configuration, False, NOTHING)


def test_a_bound_far_below_what_is_used_is_raised_above_that() -> None:
    streams = seen("streams", maxmemory=MIB, used_memory=40 * MIB)
    found = {one.check: one for one in bounds(streams, Settings())}["streams.fullness"]
    assert f"maxmemory {80 * MIB}" in found.mend


def test_a_redis_that_is_too_old_is_an_error() -> None:
    (found,) = _judge(seen("cache", redis_version="6.2.14"), Settings())
    assert (found.check, found.level) == ("cache.version", "error")
    assert "6.2.14" in found.text


def test_a_redis_that_is_far_answers(both: dict[str, str], tmp_path: Path) -> None:
    """It is not there late enough to be taken for one that is away."""
    with far(0.35, both["REDIS_URL"]) as (away,):
        found = examine(both | {"REDIS_URL": away}, tmp_path)
    assert (found.code, found.level("streams"), found.level("streams.latency")) == (
        1,
        "",
        "error",
    )
    said = found.said("streams.latency")
    assert " answers in " in said and "every event waits for it" in said
    assert found.mend("streams.latency").endswith(" --latency")


def test_a_slow_redis_is_a_warning() -> None:
    slow = seen("cache")
    judged = _judge(Seen(slow.server, slow.info, 42.0, None, False, NOTHING), Settings())
    (found,) = [it for it in judged if it.check == "cache.latency"]
    assert found.level == "warning"
    assert found.mend == "redis-cli -u redis://box/0 --latency"


def test_connections_that_run_out_are_an_error() -> None:
    found = {it.check: it for it in bounds(seen("cache", connected_clients=9900), Settings())}
    assert found["cache.connections"].level == "error"
    assert found["cache.clients"].text.endswith("25% at most")


def test_a_stuck_server_costs_no_more_than_its_time(
    both: dict[str, str], tmp_path: Path
) -> None:
    stuck = start_server("cache", tmp_path / "stuck")
    os.kill(stuck.process.pid, signal.SIGSTOP)
    try:
        found = examine(both | {"CACHE_REDIS_URL": stuck.url}, tmp_path, timeout_s=20)
    finally:
        os.kill(stuck.process.pid, signal.SIGCONT)
        end_server(stuck)
    assert found.ill() == ["cache"]
    assert "does not answer" in found.said("cache")
