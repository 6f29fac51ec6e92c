"""What an operator asks a running service: where its servers are is found by itself."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis

from plateau_sse.store.redis.connections import masked
from tests.examined import examine, mended, needs_redis_cli
from tests.processes import free_ports, plateau, serving, wait_until


def test_info_finds_the_servers_of_a_serve_wherever_they_are(tmp_path: Path) -> None:
    port = free_ports()
    with socket.create_server(("127.0.0.1", port + 1)):
        with serving(tmp_path / "data", env={"PORT": str(port)}) as running:
            env = {"DATA_DIR": "data"}
            shown = plateau("info", env=env, cwd=tmp_path)
            assert urlsplit(running.streams_url).port != port + 1
            for url in (running.streams_url, running.cache_url):
                parts = urlsplit(url)
                assert f" redis-cli -p {parts.port} INFO memory\n" in shown.stdout
                assert parts.password and parts.password not in shown.stdout
            assert (shown.returncode, shown.stderr) == (0, "")
        ended = plateau("info", env=env, cwd=tmp_path)
    assert ended.returncode == 1
    assert "nothing runs in DATA_DIR=data" in ended.stderr


def test_a_killed_serve_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        running.tree()
        os.kill(running.pid, signal.SIGKILL)
        running.process.wait(10)
        wait_until(lambda: not running.leftovers(), "its servers follow it")
        shown = plateau("info", env={"DATA_DIR": str(tmp_path)}, cwd=tmp_path)
    assert (tmp_path / "servers.json").exists()
    assert shown.returncode == 1
    assert shown.stderr.count("nothing runs in") == 2


def test_a_server_that_serve_was_given_is_not_written_down(
    tmp_path: Path, streams_url: str
) -> None:
    env = {"REDIS_URL": streams_url}
    with serving(tmp_path, env=env) as running:
        assert streams_url not in (tmp_path / "servers.json").read_text()
        here = {"DATA_DIR": str(tmp_path)}
        shown = plateau("info", env=here, cwd=tmp_path)
        assert shown.returncode == 1
        assert "was given a REDIS_URL" in shown.stderr
        assert f"pid {running.pid}" in shown.stderr
        assert plateau("info", env=here | env, cwd=tmp_path).returncode == 0


def test_doctor_finds_nothing_wrong_with_a_serve_as_it_comes(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        env = {"DATA_DIR": "data", "PORT": str(running.port)}
        found = examine(env, tmp_path)
        assert (found.code, found.ill()) == (0, [])
        assert found.said("address") == f"Plateau is up at {running.url}/"
        assert masked(running.streams_url) in found.said("streams")
        assert f"plateau serve (pid {running.pid}) has it" in found.said("data_dir")


@needs_redis_cli
def test_doctor_mends_a_server_of_serve_that_somebody_changed(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        env = {"DATA_DIR": "data", "PORT": str(running.port)}
        with Redis.from_url(running.cache_url) as client:
            client.config_set("maxmemory-policy", "noeviction")
        found = examine(env, tmp_path)
        # The service itself may have seen it, too.
        assert (found.code, found.ill()[0]) == (1, "cache.policy")
        mend = found.mend("cache.policy")
        assert f" redis-cli -p {urlsplit(running.cache_url).port} " in mend
        env = mended(env, mend)
        wait_until(lambda: examine(env, tmp_path).ill() == [], "it is well, and knows it")


def test_doctor_sees_that_the_runner_is_missing(tmp_path: Path, streams_url: str) -> None:
    env = {"REDIS_URL": streams_url}
    with serving(tmp_path / "data", arguments=["-m", "plateau_sse", "web"], env=env) as web:
        found = examine(env | {"PORT": str(web.port), "DATA_DIR": "nowhere"}, tmp_path)
        assert found.level("address") == "warning"
        assert "runner: no runner is alive" in found.said("address")
        assert found.code == 0
