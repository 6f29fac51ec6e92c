"""Behind nginx, with the configuration of deploy/: over TLS and HTTP/2, through restarts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.deployment import AGENTS
from tests.http2 import Http2Reader, http2_client
from tests.nginx import NGINX, Proxy, nginx
from tests.processes import Serving, free_ports, serving
from tests.store import until

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

READERS, RUNS = 100, 10
# How many of them at least must notice a restart.
AGAIN = 10
OURS = "tests.integration.proxy_agents"
ENV = {"AGENTS": f"{AGENTS},steps={OURS}:steps,until={OURS}:until"}


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("plateau"), env=ENV) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(plateau: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with nginx(tmp_path_factory.mktemp("nginx"), plateau.port) as running:
        yield running


async def start(proxy: Proxy, agent: str, **options: Any) -> dict[str, Any]:
    """What a new run is answered; over HTTP/1.1, which is served, too."""
    body = {"agent": agent, "input": "x", "options": options, "cache": {"mode": "off"}}
    async with httpx.AsyncClient(verify=proxy.tls, base_url=proxy.url) as client:
        answer = await client.post("/v1/runs", json=body)
    assert (answer.status_code, answer.http_version) == (202, "HTTP/1.1"), answer.text
    run: dict[str, Any] = answer.json()
    return run


async def output_of(proxy: Proxy, run: dict[str, Any]) -> str:
    async with httpx.AsyncClient(verify=proxy.tls, base_url=proxy.url) as client:
        token = run["events_url"].partition("?")[2]
        record = (await client.get(f"/v1/runs/{run['id']}?{token}")).json()
    assert record["status"] == "completed", record
    return str(record["output"])


def test_each_event_arrives_before_the_next_is_made(proxy: Proxy, tmp_path: Path) -> None:
    async def scenario() -> None:
        run = await start(proxy, "steps", folder=str(tmp_path), count=50)
        heard = 0

        def answer() -> bool:
            nonlocal heard
            while heard < len(reader.text.split()):
                (tmp_path / str(heard)).touch()
                heard += 1
            return False

        async with http2_client(proxy) as client:
            reader = Http2Reader([""], run["events_url"], drop=answer, client=client)
            await reader.follow(timeout_s=30)
        reader.check_whole("".join(f"{number} " for number in range(50)))
        assert reader.connections == 1

    asyncio.run(scenario())


def kill_the_busiest_worker(plateau: Serving) -> None:
    """The kernel spreads connections unevenly: another may have none of the readers."""

    def connections(pid: int) -> int:
        return len(psutil.Process(pid).net_connections("tcp"))

    os.kill(max(plateau.pids("gunicorn: worker"), key=connections), signal.SIGKILL)


def replace_all(plateau: Serving) -> None:
    plateau.send(signal.SIGHUP)


@pytest.mark.parametrize("restart", [kill_the_busiest_worker, replace_all])
def test_readers_on_one_connection_lose_nothing_to_a_restart(
    plateau: Serving, proxy: Proxy, tmp_path: Path, restart: Callable[[Serving], None]
) -> None:
    gate = tmp_path / "gate"

    async def scenario() -> None:
        runs = [await start(proxy, "until", gate=str(gate), run=n) for n in range(RUNS)]
        async with http2_client(proxy) as client:
            readers = [
                Http2Reader([""], runs[i % RUNS]["events_url"], client=client)
                for i in range(READERS)
            ]
            following = [asyncio.create_task(reader.follow()) for reader in readers]
            for reader in readers:
                await reader.started.wait()
            assert proxy.connections() == 1
            restart(plateau)

            async def noticed() -> bool:
                return sum(reader.connections > 1 for reader in readers) >= AGAIN

            await until(noticed, "readers come back", timeout_s=30)
            gate.touch()
            await asyncio.gather(*following)
            assert proxy.connections() == 1
        outputs = [await output_of(proxy, run) for run in runs]
        for i, reader in enumerate(readers):
            reader.check_whole(outputs[i % RUNS])

    asyncio.run(scenario())


def test_while_plateau_is_away_readers_are_told_to_come_back(tmp_path: Path) -> None:
    port = free_ports()
    env = ENV | {"PORT": str(port)}

    async def away(proxy: Proxy, path: str) -> None:
        async with http2_client(proxy) as client:
            events = await client.get(path)
            assert events.status_code == 200
            assert events.headers["content-type"] == "text/event-stream"
            assert events.headers["access-control-allow-origin"] == "*"
            assert events.text in [f"retry: {ms}\n" for ms in (1000, 2000, 3000)]
            # Whoever is no EventSource is told the truth.
            assert (await client.post(path, json=[])).status_code in (502, 503)
            assert (await client.get("/v1/runs/x")).status_code == 502

    async def scenario(proxy: Proxy) -> None:
        with serving(tmp_path / "plateau", env=env) as plateau:
            run = await start(proxy, "words", count=60, pause_ms=30)
            async with http2_client(proxy) as client:
                reader = Http2Reader(
                    [""], run["events_url"], wait_s=lambda: 0.05, client=client
                )
                following = asyncio.create_task(reader.follow())
                await reader.started.wait()
                await asyncio.to_thread(plateau.stop)
                await away(proxy, run["events_url"])
                with serving(tmp_path / "plateau", env=env):
                    await following
                    reader.check_whole(await output_of(proxy, run))

    with nginx(tmp_path / "nginx", port) as proxy:
        asyncio.run(scenario(proxy))
        # Neither what was asked nor what went wrong is written down with its token.
        assert "/v1/runs" in proxy.logs
        assert "token" not in proxy.logs


def test_it_sends_to_tls_and_keeps_the_metrics_to_itself(
    plateau: Serving, proxy: Proxy
) -> None:
    plain = httpx.get(f"http://localhost:{proxy.plain_port}/ops?x=1")
    assert (plain.status_code, plain.headers["location"]) == (301, "https://localhost/ops?x=1")
    with httpx.Client(verify=proxy.tls, base_url=proxy.url) as client:
        assert client.get("/").status_code == 200
        assert client.get("/metrics").status_code == 404
        assert httpx.get(f"{plateau.url}/metrics").status_code == 200
        largest = client.post("/v1/runs", content=b" " * 1024**2)
        assert (largest.status_code, largest.json()["code"]) == (400, "bad_json")
        assert client.post("/v1/runs", content=b" " * (1024**2 + 1)).status_code == 413
