"""Locust's own page: who may open it, and that it does what is asked there."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.processes import REPOSITORY, free_ports, wait_until

SHAPES = {"smoke": 10, "ramp": 1000}


@pytest.fixture(params=SHAPES)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[httpx.Client, int]]:
    """The page of one shape, whose users find nobody, and how many those are as shipped."""
    port = free_ports()
    command = [sys.executable, "-m", "locust", "-f", f"locustfiles/{request.param}.py"]
    command += [
        "--host",
        "http://127.0.0.1:9",
        "--web-port",
        str(port),
        "--results",
        str(tmp_path),
    ]
    with (
        (tmp_path / "locust.log").open("w") as log,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        try:
            wait_until(lambda: _is_up(client), "locust's page is there", timeout_s=60)
            yield client, SHAPES[request.param]
        finally:
            process.kill()
            process.wait(10)


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 200
    except httpx.HTTPError:
        return False


def _others() -> list[str]:
    """This machine's addresses that others reach."""
    found = [it for each in psutil.net_if_addrs().values() for it in each]
    return [it.address for it in found if it.family == socket.AF_INET][:9]


def test_it_listens_on_this_machine_alone(page: tuple[httpx.Client, int]) -> None:
    client, _ = page
    for address in _others():
        if address.startswith("127."):
            continue
        with pytest.raises(ConnectionError):
            socket.create_connection((address, client.base_url.port or 0), timeout=5).close()


def test_it_has_as_many_users_as_are_asked_for_there(page: tuple[httpx.Client, int]) -> None:
    client, shipped = page
    assert f'"num_users": {shipped}' in client.get("/").text
    form = {"user_count": "3", "spawn_rate": "3", "host": "http://127.0.0.1:9"}
    assert client.post("/swarm", data=form).json()["success"]
    seen: list[int] = []

    def has_three() -> bool:
        stats: dict[str, Any] = client.get("/stats/requests").json()
        seen.append(stats["user_count"])
        return seen[-1] == 3

    wait_until(has_three, "three users", timeout_s=30)
    assert max(seen) == 3
