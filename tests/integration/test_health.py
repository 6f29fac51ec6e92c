"""Who is told what by the health routes, and what it costs to ask them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.examined import examine
from tests.faults import own_redis
from tests.processes import Serving, serving, wait_until

KEY, TOKEN = "a-key-of-mine", "the-operators-own-token"
ENV = {"API_KEYS": KEY, "ADMIN_TOKEN": TOKEN, "WEB_CONCURRENCY": "1"}
COMPONENTS = {"streams", "cache", "delivery", "runner", "queue", "memory", "web"}
NOT_OPERATORS = [{}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer wrong"}]
ASKED = 200


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("keyed"), env=ENV) as started:
        yield started


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("alone"), env={"WEB_CONCURRENCY": "1"}) as started:
        yield started


@pytest.mark.parametrize("headers", NOT_OPERATORS)
def test_others_are_told_the_states_alone(keyed: Serving, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{keyed.url}/health", headers=headers)
    assert answer.status_code == 200
    components = {name: {"status": "up"} for name in COMPONENTS}
    assert answer.json() == {"status": "up", "components": components}


def test_operators_are_told_everything(keyed: Serving) -> None:
    for headers, query in ((bearer(TOKEN), {}), ({}, {"admin_token": TOKEN})):
        answer = httpx.get(f"{keyed.url}/health", headers=headers, params=query)
        components = answer.json()["components"]
        assert set(components) == COMPONENTS
        assert components["streams"]["used_bytes"] and components["memory"]["total_mb"]
        assert components["web"]["pid"] in keyed.pids("gunicorn: worker")


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_who_comes_through_a_proxy_of_this_machine_is_not_alone(
    alone: Serving, name: str
) -> None:
    assert "used_bytes" in httpx.get(f"{alone.url}/health").json()["components"]["streams"]
    through = httpx.get(f"{alone.url}/health", headers={name: "for=203.0.113.7"})
    assert through.json()["components"]["streams"] == {"status": "up"}


def infos(url: str) -> int:
    with Redis.from_url(url, protocol=2) as redis:
        return int(redis.info("commandstats")["cmdstat_info"]["calls"])


def test_however_often_others_ask_the_servers_are_asked_once_a_second(keyed: Serving) -> None:
    with httpx.Client(base_url=keyed.url) as client:
        before, began = infos(keyed.streams_url), time.monotonic()
        for _ in range(ASKED):
            assert client.get("/health").status_code == 200
        # Besides, it looks every 5 s and adds up; and so does this test.
        passed_s = time.monotonic() - began
        assert infos(keyed.streams_url) - before <= 3 + 1.5 * passed_s < ASKED / 4


@pytest.mark.parametrize("env", [{}, {"API_KEYS": KEY, "ADMIN_TOKEN": TOKEN}])
def test_nobody_else_learns_where_redis_is(tmp_path: Path, env: dict[str, str]) -> None:
    """Not by what goes wrong either."""
    with own_redis(tmp_path / "redis") as streams:
        settings = {**env, "REDIS_URL": streams.url, "WEB_CONCURRENCY": "1"}
        with serving(
            tmp_path / "web", arguments=["-m", "plateau_sse", "web"], env=settings
        ) as web:
            said: dict[str, Any] = {}

            def is_down() -> bool:
                for path in ("/health", "/health/ready"):
                    said[path] = httpx.get(web.url + path, timeout=10)
                return {answer.status_code for answer in said.values()} == {503}

            streams.stop()
            wait_until(is_down, "it is down")
            ready = said["/health/ready"].json()
            assert ready["cause"] and str(streams.port) not in str(ready)
            short = {"status"} if env else {"status", "cause"}
            assert said["/health"].json()["components"]["streams"].keys() == short
            whole = httpx.get(f"{web.url}/health", headers=bearer(TOKEN), timeout=10).json()
            assert str(streams.port) in whole["components"]["streams"]["cause"]
            streams.start()
            wait_until(lambda: not is_down(), "it is up again")


def test_doctor_is_told_why_where_it_has_the_token(tmp_path: Path, streams_url: str) -> None:
    env = {**ENV, "REDIS_URL": streams_url}
    with serving(tmp_path / "data", arguments=["-m", "plateau_sse", "web"], env=env) as web:
        here = {**env, "PORT": str(web.port), "DATA_DIR": "nowhere"}
        found = examine(here, tmp_path)
        assert "runner: no runner is alive" in found.said("address")
        assert found.mend("address").startswith(
            'curl -s -H "Authorization: Bearer $ADMIN_TOKEN" '
        )
        found = examine({**here, "ADMIN_TOKEN": ""}, tmp_path)
        assert "runner: down" in found.said("address")
        assert "ADMIN_TOKEN" in found.mend("address")
