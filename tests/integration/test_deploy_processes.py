"""What the deploying files start, started: process 1, Redis servers, health checks."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from plateau_sse.serve.redis_server import server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.redis.connections import COMMAND_CONNECTIONS
from tests.deploy_files import DeployFiles, options_of, resolved
from tests.deployment import AGENTS
from tests.processes import (
    REPOSITORY,
    Serving,
    environment,
    free_ports,
    launch,
    serving,
    wait_until,
)

# What render.yaml and docs/deploy.md say of two web workers and a runner of 8 runs. A hosted
# store allows so many, and a deploy has them twice for a moment; the cache is this service's.
STREAMS_CONNECTIONS_MOST = 2 * 9 + (8 // 4 + 4)
CACHE_CONNECTIONS_MOST = 2 * 3 + 2
UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child=SIGTERM"]
if os.geteuid():
    UNSHARE.append("--map-root-user")


def check_health(part: str, env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and what it says."""
    shown = subprocess.run(
        [sys.executable, "-m", "plateau_sse.serve.healthcheck", part],
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert shown.stderr == ""
    return shown.returncode, shown.stdout


# Process 1

LEAVES_ONE_BEHIND = """
import subprocess

def leaves(run):
    # Its parent, a shell, is gone at once.
    subprocess.run(["sh", "-c", "sleep 2 &"], check=True)
    yield "left"
"""


def may_unshare() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="no process namespace may be made here")
def test_it_is_a_good_process_1(tmp_path: Path) -> None:
    """A container has no other that would reap what its parent has left, or ends on SIGTERM."""
    (tmp_path / "leaving.py").write_text(LEAVES_ONE_BEHIND)
    command = [*UNSHARE, sys.executable, "-m", "plateau_sse", "serve"]
    start = f"import os; os.execvp('unshare', {command!r})"
    env = {"AGENTS": "leaves=leaving:leaves", "WEB_CONCURRENCY": "1"}
    with serving(tmp_path, arguments=["-c", start], env=env) as running:
        (master,) = psutil.Process(running.pid).children()
        namespaced = Path(f"/proc/{master.pid}/status").read_text()
        assert f"NSpid:\t{master.pid}\t1\n" in namespaced
        body = {"agent": "leaves", "input": "x"}
        run = httpx.post(f"{running.url}/v1/runs", json=body, headers={"Prefer": "wait=10"})
        assert run.json()["output"] == "left"

        def orphans() -> list[psutil.Process]:
            return [child for child in master.children() if child.name() == "sleep"]

        wait_until(orphans, "the orphan is process 1's")
        wait_until(lambda: not orphans(), "it has ended and was reaped")
        master.send_signal(signal.SIGTERM)
        # unshare's exit code is that of its child.
        assert running.process.wait(20) == 0
        assert "Traceback" not in running.stderr


# Redis servers as docker-compose.yml starts them


@pytest.mark.parametrize("name", ["redis-cache", "redis-streams"])
@pytest.mark.parametrize("binary", ["", "redis-server"])
def test_servers_take_what_compose_tells_them(tmp_path: Path, name: str, binary: str) -> None:
    if binary and shutil.which(binary) is None:
        pytest.skip(f"{binary} is not installed")
    # Compose puts the variables' values in; the server never sees a `${…}`.
    command = [resolved(word) for word in DeployFiles.shipped().services()[name]["command"]]
    port = free_ports(1)
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = subprocess.Popen(
        [server_binary(Settings(redis_server_bin=binary)), *command[1:], *place],
        stdout=subprocess.DEVNULL,
    )
    try:
        with Redis(port=port, protocol=2, decode_responses=True) as client:
            wait_until(lambda: answers(client), "it answers")
            wanted = options_of(command)
            found: Any = client.config_get(*wanted)
            assert found["maxmemory-policy"] == wanted["maxmemory-policy"]
            assert found["appendonly"] == wanted["appendonly"]
            assert found["save"] == ""
            assert int(found["maxmemory-clients"]) * 4 == int(found["maxmemory"])
            limits = found["client-output-buffer-limit"]
            assert "pubsub " in limits
            assert "pubsub 33554432" not in limits, "the server's own default"
    finally:
        process.terminate()
        process.wait(10)


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except OSError:
        return False
    except Exception as error:
        assert "onnect" in str(error), error
        return False


# Health checks


def test_the_health_check_tells_a_living_web_worker_from_none(tmp_path: Path) -> None:
    with serving(tmp_path, env={"WEB_CONCURRENCY": "1"}) as running:
        env = {"PORT": str(running.port)}
        assert check_health("/health/live", env) == (0, "")
        assert check_health("/health/dead", env) == (1, "/health/dead: status 404\n")
    code, says = check_health("/health/live", env)
    assert code == 1
    assert "ConnectionRefusedError" in says


def test_the_health_check_tells_a_living_runner_from_none(
    tmp_path: Path, streams_url: str
) -> None:
    env = {"REDIS_URL": streams_url}
    assert check_health("runner", env)[0] == 1
    runner = launch(tmp_path, arguments=["-m", "plateau_sse", "runner"], env=env)
    try:
        wait_until(lambda: check_health("runner", env) == (0, ""), "it is well")
        # Stopped, it has a process, and is of no use to anybody.
        runner.send(signal.SIGSTOP)
        wait_until(lambda: check_health("runner", env)[0] == 1, "it is not")
    finally:
        runner.send(signal.SIGCONT)
        runner.kill()
    unreachable = {"REDIS_URL": f"redis://127.0.0.1:{free_ports(1)}"}
    code, says = check_health("runner", unreachable)
    assert (code, says.startswith("the streams instance: ")) == (1, True)


# Connections


class Count:
    """The most connections to one server that were open at once, and whose they were."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, client_name="counts")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self.most = 0
        self.names: set[str] = set()

    def _count(self) -> None:
        while not self._stop.wait(0.01):
            rows = self._client.client_list()
            names = [row["name"] for row in rows if row["name"] != "counts"]
            self.most = max(self.most, len(names))
            # One that was just opened has not said its name.
            self.names |= set(names) - {""}

    def __enter__(self) -> Count:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


def test_the_one_service_of_render_opens_no_more_connections_than_is_said(
    tmp_path: Path, streams_url: str
) -> None:
    most = STREAMS_CONNECTIONS_MOST
    files = DeployFiles.shipped()
    assert f"At most {most} connections to that store" in files.text["render.yaml"]
    guide = (REPOSITORY / "docs" / "deploy.md").read_text()
    assert f"one service has at most {most}, so a store needs room for {2 * most}" in guide
    (part,) = [it for it in files.parts() if it.where.startswith("render.yaml")]
    assert part.command == "serve"
    env = part.environment | {"REDIS_URL": streams_url, "AGENTS": AGENTS}
    del env["PORT"], env["DATA_DIR"]
    with serving(tmp_path, env=env) as running:
        with Count(streams_url) as streams, Count(running.cache_url) as cache:
            asyncio.run(busy(running, part.environment["API_KEYS"]))
    assert streams.names == {"plateau-web", "plateau-hub", "plateau-runner", "plateau-leases"}
    assert cache.names == {"plateau-web", "plateau-runner"}
    # What it needs at once shows that there was something to count.
    assert COMMAND_CONNECTIONS < streams.most <= most, streams.most
    # Each web worker looks answers up, and the runner keeps them.
    assert 3 <= cache.most <= CACHE_CONNECTIONS_MOST, cache.most


async def busy(running: Serving, key: str) -> None:
    """Runs, readers, hits, records and health, all at once."""
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=running.url, headers=headers, limits=limits, timeout=30
    ) as client:

        async def ask(number: int) -> None:
            body = {"agent": "words", "input": str(number % 30), "options": {"count": 20}}
            run = await client.post("/v1/runs", json=body)
            assert run.status_code in (200, 202), run.text
            events, _ = await asyncio.gather(
                client.get(run.json()["events_url"]), client.get("/health")
            )
            assert "run.completed" in events.text
            assert (await client.get(f"/v1/runs/{run.json()['id']}")).status_code == 200

        for _ in range(2):
            await asyncio.gather(*(ask(number) for number in range(60)))
