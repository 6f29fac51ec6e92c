"""`plateau serve` as a tree of real processes: how it comes up, mends itself and ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.processes import (
    REPOSITORY,
    Serving,
    environment,
    free_ports,
    is_on_disk,
    plateau,
    serving,
    wait_until,
)

MASTER, WORKER, RUNNER = (
    "gunicorn: master [plateau]",
    "gunicorn: worker [plateau]",
    "plateau: runner",
)
STREAMS, CACHE = "[plateau streams]", "[plateau cache]"

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux ends a child with its parent"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One that is only looked at; no Redis is on its PATH, unless the suite is to use that."""
    path = {} if os.environ.get("REDIS_SERVER_BIN") else {"PATH": ""}
    with serving(tmp_path_factory.mktemp("serve"), env=path) as running:
        yield running


def test_it_comes_up_with_no_redis_on_the_path(running: Serving) -> None:
    assert httpx.get(running.url + "/health/live").status_code == 200
    assert httpx.get(running.url + "/health/ready").status_code == 200
    assert httpx.get(running.url + "/").headers["content-type"].startswith("text/html")


def test_ps_shows_who_is_who(running: Serving) -> None:
    titles = list(running.tree().values())
    assert titles.count(MASTER) == 1
    assert titles.count(WORKER) == 2
    assert titles.count(RUNNER) == 1
    assert sum(STREAMS in title for title in titles) == 1
    assert sum(CACHE in title for title in titles) == 1
    assert len(titles) == 6


def test_the_banner_names_the_page_and_both_servers(running: Serving) -> None:
    assert running.url == f"http://127.0.0.1:{running.port}"
    shown = running.stdout.splitlines()[2].strip()
    assert shown.endswith(f" redis-cli -p {running.port + 1} INFO memory")
    assert str(urlsplit(running.streams_url).password) not in running.stdout
    if shutil.which("redis-cli"):
        pasted = subprocess.run(
            ["bash", "-c", shown], capture_output=True, text=True, timeout=9
        )
        assert "maxmemory:67108864" in pasted.stdout, pasted
    with Redis.from_url(running.streams_url, decode_responses=True) as streams:
        assert streams.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    with Redis.from_url(running.cache_url, decode_responses=True) as cache:
        assert cache.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
        assert cache.config_get("maxmemory")["maxmemory"] == str(10 * 1024**2)


def test_nothing_is_said_that_nobody_acts_on(running: Serving) -> None:
    assert "Traceback" not in running.stderr
    # Once each: that a worker sweeps, and what the runner has.
    said = [line for line in running.stderr.splitlines() if "sweeping every" not in line]
    assert len(said) <= 2, running.stderr


def test_the_banner_reaches_a_pipe_at_once(tmp_path: Path) -> None:
    env = environment({"PORT": str(free_ports()), "DATA_DIR": str(tmp_path)})
    command = [sys.executable, "-m", "plateau_sse", "serve"]
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        assert b"Plateau is up" in process.stdout.readline()
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as running:
        assert running.stop(number) == 0
        assert "Traceback" not in running.stderr
        assert "died" not in running.stderr
        assert not running.is_ready()


def test_ctrl_c_in_a_terminal_ends_the_tree_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, new_group=True) as running:
        running.tree()
        # A terminal sends it to the whole group.
        os.killpg(running.pid, signal.SIGINT)
        assert running.process.wait(30) == 0
        wait_until(lambda: not running.leftovers(), "every process ends")
        for word in ("Traceback", "died", "refused", "ERROR"):
            assert word not in running.stderr


IN_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "plateau_sse", "serve"])
"""


def test_closing_the_terminal_ends_the_tree(tmp_path: Path) -> None:
    ours, its = os.openpty()
    with serving(tmp_path, arguments=["-c", IN_A_TERMINAL], stdin=its) as running:
        os.close(its)
        running.tree()
        os.close(ours)
        assert running.process.wait(30) == 0
        wait_until(lambda: not running.leftovers(), "every process ends")


@linux_only
def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL


@linux_only
def test_a_killed_serve_is_replaced_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        with Redis.from_url(running.streams_url) as client:
            client.set("kept", "yes")
        running.stop(signal.SIGKILL)
    with serving(tmp_path) as again, Redis.from_url(again.streams_url) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("title", [WORKER, RUNNER, STREAMS, CACHE])
def test_what_is_killed_is_started_again(tmp_path: Path, title: str) -> None:
    with serving(tmp_path) as running:
        before = running.pids(title)
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: len(running.pids(title)) == len(before) and running.pids(title) != before,
            f"another {title}",
        )
        wait_until(running.is_ready, "it is ready again")
        assert "killed by SIGKILL" in running.stderr
        assert running.process.poll() is None


def test_a_restarted_redis_keeps_its_address_and_its_data(tmp_path: Path) -> None:
    with serving(tmp_path) as running, Redis.from_url(running.streams_url) as client:
        client.set("kept", "yes")
        wait_until(lambda: is_on_disk(client), "it is on disk")
        (before,) = running.pids(STREAMS)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: running.pids(STREAMS) not in ([], [before]), "another one")

        def kept() -> bool:
            try:
                return bool(client.get("kept") == b"yes")
            except RedisError:
                return False

        wait_until(kept, "its data")


def test_the_script_finds_agents_beside_its_caller(tmp_path: Path) -> None:
    """Wherever the checkout is; and leaves nothing there."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "beside.py").write_text("def hello(run):\n    yield f'Hello {run.input}'\n")
    port = free_ports()
    said = {"DATA_DIR": str(tmp_path / "data"), "PORT": str(port), "AGENTS": "hi=beside:hello"}
    env = {**environment(said), "PYTHONPATH": ""}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [REPOSITORY / "scripts" / "serve"], env=env, cwd=here, stdout=log, stderr=log
        )
    try:
        wait_until(
            lambda: "INFO memory" in (tmp_path / "log").read_text(), "it is up", timeout_s=60
        )
        done = plateau("ask", "--agent", "hi", "you", env={"PORT": str(port)}, cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, "Hello you"), done.stderr
        assert "beside.py" in {it.name for it in here.iterdir()}
        assert not (here / "data").exists()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_streams_outlive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as running, Redis.from_url(running.streams_url) as client:
        client.xadd("a", {"b": "c"}, id="1-1")
    with serving(tmp_path) as running, Redis.from_url(running.streams_url) as client:
        assert client.xrange("a") == [(b"1-1", {b"b": b"c"})]
