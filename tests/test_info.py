"""`plateau info`: the servers' own words, how to read them, and what is said without them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from plateau_sse.cli.info import MEANINGS, reading
from plateau_sse.cli.servers import Server, find, size
from plateau_sse.serve.data_dir import LOCK, DataDir
from plateau_sse.serve.redis_server import Role
from plateau_sse.settings import Settings
from tests.conftest import emptied, end_server, start_server
from tests.groups import Cluster
from tests.processes import environment, plateau

MIB = 1024**2
# These do not move while nobody writes.
STABLE = ("maxmemory", "maxmemory_policy", "total_system_memory", "mem_allocator")


@pytest.fixture
def both(streams_url: str, cache_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "REDIS_URL": streams_url,
        "CACHE_REDIS_URL": cache_url,
        "DATA_DIR": str(tmp_path / "data"),
    }


def said_by(url: str) -> list[str]:
    """`INFO memory` as the server gives it, its line ends included."""
    with Redis.from_url(url, protocol=2) as client:
        client.set_response_callback("INFO", lambda reply, **_: reply)
        text: bytes = client.execute_command("INFO", "memory")
        return text.decode().splitlines(keepends=True)


def names(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def stable(lines: list[str]) -> list[str]:
    return [line for line in lines if line.partition(":")[0] in STABLE]


@pytest.mark.parametrize("role", ["streams", "cache"])
def test_raw_is_what_the_server_says(both: dict[str, str], role: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "plateau_sse", "info", "--raw", "--role", role]
    shown = subprocess.run(arguments, env=environment(both), cwd=tmp_path, capture_output=True)
    lines = shown.stdout.decode().splitlines(keepends=True)
    said = said_by(both["REDIS_URL" if role == "streams" else "CACHE_REDIS_URL"])
    assert names(lines) == names(said)
    assert stable(lines) == stable(said)
    assert len(stable(lines)) == len(STABLE)
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_raw_of_both_tells_them_apart(both: dict[str, str], tmp_path: Path) -> None:
    shown = plateau("info", "--raw", env=both, cwd=tmp_path)
    assert [line for line in shown.stdout.splitlines() if line.startswith("#")] == [
        f"# streams: {both['REDIS_URL']}",
        "# Memory",
        f"# cache: {both['CACHE_REDIS_URL']}",
        "# Memory",
    ]


def test_both_are_shown_whole_and_read_below(both: dict[str, str], tmp_path: Path) -> None:
    shown = plateau("info", env=both, cwd=tmp_path)
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    streams, cache, *readings = shown.stdout.split("\n\n")
    for block, variable in ((streams, "REDIS_URL"), (cache, "CACHE_REDIS_URL")):
        command, *lines = block.splitlines()
        assert command == f"$ redis-cli -u {both[variable]} INFO memory"
        assert names(lines) == names([line.rstrip() for line in said_by(both[variable])])
    assert [text.split(":")[0] for text in readings] == ["streams", "cache"]
    assert "64.0 MiB" in readings[0] and "noeviction  right" in readings[0]
    assert "10.0 MiB" in readings[1] and "allkeys-lru  right" in readings[1]


def test_a_server_that_is_away_hides_no_other(both: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    env = both | {"REDIS_URL": f"redis://:very-secret@127.0.0.1:{port}/0"}
    shown = plateau("info", env=env, cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stdout.startswith(f"$ redis-cli -u {both['CACHE_REDIS_URL']} INFO memory\n")
    assert shown.stderr.count("\n") == 1
    assert f"streams: redis://:***@127.0.0.1:{port}/0 does not answer" in shown.stderr
    assert "correct REDIS_URL" in shown.stderr
    assert "very-secret" not in shown.stdout + shown.stderr


def test_a_server_that_is_stuck_is_waited_for_in_vain_only_so_long(
    both: dict[str, str], tmp_path: Path
) -> None:
    stuck = start_server("cache", tmp_path / "stuck")
    os.kill(stuck.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        env = both | {"CACHE_REDIS_URL": stuck.url}
        shown = plateau("info", env=env, cwd=tmp_path, timeout_s=20)
    finally:
        os.kill(stuck.process.pid, signal.SIGCONT)
        end_server(stuck)
    assert shown.returncode == 1
    assert "cache: " in shown.stderr and "does not answer" in shown.stderr
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("given", "required", "words"),
    [
        ("very-secret-guess", "right", "refuses this password: REDIS_URL=redis://:PASSWORD@"),
        ("", "right", "asks for a password: REDIS_URL=redis://:PASSWORD@"),
        ("very-secret-guess", "", "has no password: REDIS_URL=redis://127.0.0.1"),
    ],
)
def test_a_wrong_password_is_told_and_not_shown(
    both: dict[str, str], tmp_path: Path, given: str, required: str, words: str
) -> None:
    server = start_server("streams", tmp_path / "redis")
    try:
        with server.client() as client:
            client.config_set("requirepass", required)
        url = server.url.replace("//", f"//:{given}@") if given else server.url
        shown = plateau("info", env=both | {"REDIS_URL": url}, cwd=tmp_path)
    finally:
        end_server(server)
    assert shown.returncode == 1
    assert words in shown.stderr
    assert "very-secret" not in shown.stderr


def test_without_servers_it_says_what_to_do(tmp_path: Path) -> None:
    shown = plateau("info", env={"DATA_DIR": "data"}, cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr.splitlines() == [
        "plateau info: streams: nothing runs in DATA_DIR=data: start plateau serve, or set "
        "REDIS_URL.",
        "plateau info: cache: nothing runs in DATA_DIR=data: start plateau serve, or set "
        "CACHE_REDIS_URL.",
    ]
    assert not list(tmp_path.iterdir()), "looking changes nothing"


@pytest.mark.parametrize(
    "url",
    [
        "http://box/0",
        "redis://:secret/0@box/0",
        "redis://:6379/secret@box/0",
        "redis://:6379#secret@box/0",
        "redis://box/0?secret=1",
    ],
)
def test_a_url_that_is_none_is_a_wrong_setting(url: str, tmp_path: Path) -> None:
    shown = plateau("info", env={"REDIS_URL": url}, cwd=tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith("plateau: REDIS_URL must be redis://")
    assert shown.stderr.count("\n") == 1
    assert "secret" not in shown.stderr


def test_a_serve_that_starts_or_was_given_a_server_is_told_apart(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    data_dir = DataDir(tmp_path)
    try:
        assert find(settings)[0].unknown.remedy == "try again"
        data_dir.publish({"cache": "redis://127.0.0.1:8002/0"})
        streams, cache = find(settings)
    finally:
        data_dir.close()
    assert streams.unknown.remedy == "set the same REDIS_URL here"
    assert cache == Server("cache", "redis://127.0.0.1:8002/0", tmp_path)


def test_a_data_dir_that_may_not_be_looked_at_is_told(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(LOCK)
    streams, _ = find(Settings(data_dir=tmp_path))
    assert "may not be looked at" in streams.unknown.what


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("redis://box:6380/1", "redis-cli -u redis://box:6380/1 PING"),
        (
            "redis://:secret@box/0",
            'redis-cli -u "${REDIS_URL%%:*}://default:${REDIS_URL#*://:}" PING',
        ),
        ("rediss://me:secret@box", 'redis-cli -u "$REDIS_URL" PING'),
        ("unix:///run/my redis.sock", "redis-cli -s '/run/my redis.sock' PING"),
        ("unix://:secret@/run/redis", "redis-cli -s /run/redis --askpass PING"),
        ("redis://box?password=secret", "redis-cli -u redis://box --askpass PING"),
        (
            "redis://me:secret@box/0?db=1",
            "redis-cli -u redis://box/0 --user me --askpass PING",
        ),
        (
            "redis://box/0?username=me&password=secret",
            "redis-cli -u redis://box/0 --user me --askpass PING",
        ),
        (
            "rediss://m%40e:secret@box/2?ssl_ca_certs=/my%20ca&ssl_certfile=/c&ssl_keyfile=/k",
            "redis-cli -u rediss://box/2 --user m@e --askpass --cacert '/my ca' --cert /c "
            "--key /k PING",
        ),
        (
            "rediss://box?ssl_cert_reqs=none&ssl_password=secret",
            "redis-cli -u rediss://box --insecure PING",
        ),
        (
            "unix://me:secret@/run/my%20redis",
            "redis-cli -s '/run/my redis' --user me --askpass PING",
        ),
        # Before 7.2 it knows no brackets.
        ("redis://:secret@[::1]:6380/2", "redis-cli -h ::1 -p 6380 -n 2 --askpass PING"),
        ("rediss://[::1]", "redis-cli -h ::1 -p 6379 --tls PING"),
        ("redis://[fe80::1%25$(id)]", "redis-cli -h 'fe80::1%$(id)' -p 6379 PING"),
        (
            "rediss+cluster://me:secret@a,b?ssl_ca_certs=/ca",
            "redis-cli -h A_SERVER_OF_THE_CLUSTER --tls --user me --askpass --cacert /ca PING",
        ),
    ],
)
def test_a_command_for_a_server_shows_no_password(url: str, command: str) -> None:
    assert Server("streams", url).cli("PING") == command
    assert "secret" not in Server("streams", url).shown
    assert "secret" not in repr(Server("streams", url))


def figures(**changed: str) -> dict[str, str]:
    return {
        "used_memory": str(32 * MIB),
        "maxmemory": str(64 * MIB),
        "maxmemory_policy": "noeviction",
        **changed,
    }


@pytest.mark.parametrize(
    ("role", "changed", "head"),
    [
        ("streams", {}, "streams: 32.0 MiB used, 50 % of its bound"),
        (
            "streams",
            {"maxmemory": "0"},
            "streams: 32.0 MiB used, 50 % of STREAM_MAX_MEMORY, 64.0 MiB",
        ),
        (
            "streams",
            {"maxmemory": str(1024 * MIB)},
            "streams: 32.0 MiB used, 50 % of STREAM_MAX_MEMORY, 64.0 MiB",
        ),
        ("cache", {"maxmemory": "0"}, "cache: 32.0 MiB used, and there is no bound"),
    ],
)
def test_the_bound_that_counts_is_named(role: Role, changed: dict[str, str], head: str) -> None:
    assert reading(role, figures(**changed), Settings()).splitlines()[0] == head


def test_what_is_wrong_for_the_role_is_called_so() -> None:
    lines = reading("cache", figures(maxmemory="0"), Settings()).splitlines()
    wrong = [line.split()[0] for line in lines if "WRONG" in line]
    assert wrong == ["maxmemory", "maxmemory_policy"]


def test_every_meaning_leaves_a_line_within_80_columns() -> None:
    assert all(len(text) <= 41 for texts in MEANINGS.values() for text in texts.values())


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10 * MIB, "10.0 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (5 * 1024**4, "5120.0 GiB"),
    ],
)
def test_a_size_for_people(number: int, text: str) -> None:
    assert size(number) == text


def test_it_brings_only_what_it_needs() -> None:
    code = (
        "import sys\n"
        "from plateau_sse.cli import info\n"
        "unwanted = {'httpx', 'gunicorn', 'uvicorn', 'starlette', 'psutil',"
        " 'plateau_sse.cli.ask', 'plateau_sse.app', 'plateau_sse.agents'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment({}), capture_output=True, text=True
    )
    assert shown.stdout == "[]\n", shown.stderr


def test_each_primary_of_a_cluster_is_shown_by_its_place(
    cluster: Cluster, tmp_path: Path
) -> None:
    for url in emptied(cluster):
        env = {"REDIS_URL": url, "CACHE_REDIS_URL": url}
        shown = plateau("info", "--role", "cache", env=env, cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        for node in cluster.primaries():
            assert shown.stdout.count(f"\ncache at 127.0.0.1:{node.port}: ") == 1
