"""The whole service over Sentinels and clusters, under the least rights, beside another one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import Server, emptied
from tests.groups import Cluster, Trio
from tests.integration.api_client import (
    api_serving,
    ask,
    finish,
    follow,
    messages,
    told,
    unique,
)
from tests.processes import plateau as plateau_command
from tests.processes import wait_until

OPERATOR = {"Authorization": "Bearer the-operators-own-token"}
# Every character that means something in an address.
SECRET = "p@s:s/w#o?r,d%&=é{"


def use_all(url: str, folder: Path) -> None:
    """Runs, a hit, conversations, lists, cancelling, an external run, and what an operator
    sees."""
    headers = {"Authorization": "Bearer key-of-ann"}
    with httpx.Client(base_url=url, timeout=20, trust_env=False, headers=headers) as client:
        text = unique()
        assert finish(client, "echo", text)["status"] == "completed"
        again = client.post("/v1/runs", json={"agent": "echo", "input": text})
        assert again.headers["X-Cache"] == "hit", again.text
        for _ in range(2):
            finish(client, "echo", conversation_id="c1")
        assert len(client.get("/v1/conversations/c1").json()["messages"]) == 4
        page = client.get("/v1/conversations/c1").json()["events_url"]
        # A page has no key; what is asked then is told at once.
        with httpx.stream("GET", f"{url}{page}", timeout=20, trust_env=False) as response:
            heard = messages(response.iter_lines())
            asked = finish(client, "echo", conversation_id="c1")["id"]
            assert next(it for it in heard if it.type == "run.started").data["run"] == asked
            assert next(it for it in heard if it.type == "run.completed")
        for name in ("runs", "conversations"):
            assert client.get(f"/v1/{name}").json()[name], name
        assert client.delete("/v1/conversations/c1").status_code == 204
        run = ask(client, "slow", options={"gate": str(folder / "never")})
        assert client.post(f"/v1/runs/{run['id']}/cancel").status_code in (200, 202)
        told(follow(client, run["events_url"]))
        run = ask(client, "external")
        for batch in ([{"type": "message.delta", "text": "a"}], [{"type": "run.completed"}]):
            answer = client.post(f"/v1/runs/{run['id']}/events", json=batch)
            assert answer.status_code == 200, answer.text
        assert client.get(f"/v1/runs/{run['id']}").json()["output"] == "a"
        assert client.get("/health/ready").status_code == 200
        health = client.get("/health", headers=OPERATOR).json()
        parts = health["components"]
        assert all(parts[it]["status"] == "up" for it in ("streams", "delivery", "runner")), (
            parts
        )
        assert client.get("/metrics").status_code == 200
        cleared = client.delete("/api/admin/cache", headers=OPERATOR)
        assert cleared.status_code == 200, cleared.text


def env_of(streams: str, cache: str, **more: str) -> dict[str, str]:
    given = {"REDIS_URL": streams, "CACHE_REDIS_URL": cache, "API_KEYS": "key-of-ann"}
    given |= {"ADMIN_TOKEN": "the-operators-own-token"}
    # What counts them has keys of its own.
    given |= {"RATE_LIMIT": "1000", "READERS_LIMIT": "100"}
    # Nobody is there: ends of runs wait to be posted.
    given |= {"WEBHOOK_URL": "http://127.0.0.1:1/", "WEBHOOK_SECRET": f"whsec_{'A' * 32}"}
    return given | more


def check_said(said: str) -> None:
    wrong = [line for line in said.splitlines() if "permission" in line or "Traceback" in line]
    assert not wrong, wrong


@pytest.mark.parametrize("kind", ["trio", "cluster"])
def test_all_of_it_works_over(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: Trio | Cluster = request.getfixturevalue(kind)
    for url in emptied(store):
        with api_serving(tmp_path, env_of(url, url)) as plateau:
            use_all(plateau.url, tmp_path)
        check_said(plateau.stderr)


@contextmanager
def least_user(nodes: list[Any], env: dict[str, str], folder: Path) -> Iterator[None]:
    """A user `me` on all of them, by the lines that doctor prints. Both roles are one server
    here, so its rights are those of both."""
    printed = plateau_command("doctor", "--acl", env=env, cwd=folder).stdout.splitlines()
    lines = [shlex.split(line) for line in printed if line.startswith("ACL")]
    assert len(lines) == 2, printed
    resets = ("resetkeys", "resetchannels", "nocommands")
    words = [word for line in lines for word in line[5:] if word not in resets]
    for node in nodes:
        node.execute_command("ACL", "SETUSER", "me", "reset", "on", f">{SECRET}", *words)
    try:
        yield
    finally:
        for node in nodes:
            node.execute_command("ACL", "DELUSER", "me")


@pytest.mark.parametrize("prefix", ["", "blue:"])
@pytest.mark.parametrize("kind", ["streams_server", "cluster"])
def test_the_line_of_doctor_is_all_that_is_needed(
    kind: str, prefix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: Server | Cluster = request.getfixturevalue(kind)
    nodes = [node.client() for node in store.nodes] if isinstance(store, Cluster) else []
    for url in emptied(store):
        mine = url.replace("://", f"://me:{quote(SECRET, safe='')}@")
        env = env_of(mine, mine, KEY_PREFIX=prefix)
        with least_user(nodes or store.clients(), env, tmp_path):
            with api_serving(tmp_path, env) as plateau:
                wait_until(plateau.is_ready, "its rights are enough")
                use_all(plateau.url, tmp_path)
            check_said(plateau.stderr)
            # Nor do those need more that look at the servers.
            for command in ("doctor", "info"):
                shown = plateau_command(command, env=env, cwd=tmp_path).stdout
                assert "used" in shown and "no right" not in shown, shown
                assert "too few rights" not in shown, shown


def test_two_installations_share_a_server(streams_server: Server, tmp_path: Path) -> None:
    for url in emptied(streams_server):
        folders = [tmp_path / name for name in ("blue", "green")]
        for folder in folders:
            folder.mkdir()
        blue, green = (env_of(url, url, KEY_PREFIX=f"{it.name}:") for it in folders)
        with api_serving(folders[0], blue) as one, api_serving(folders[1], green) as other:
            text = unique()
            for service, hit in ((one, "miss"), (other, "miss"), (one, "hit")):
                answer = httpx.post(
                    f"{service.url}/v1/runs",
                    json={"agent": "echo", "input": text},
                    headers={"Authorization": "Bearer key-of-ann", "Prefer": "wait=20"},
                    timeout=30,
                )
                assert answer.headers["X-Cache"] == hit, answer.text
            found = [runners(one.url), runners(other.url)]
            assert found == [1, 1]
            with streams_server.client() as client:
                names: list[Any] = list(client.scan_iter(count=1000))
            assert all(name.startswith((b"blue:", b"green:")) for name in names), names


def runners(url: str) -> int:
    seen: list[int] = []

    def is_seen() -> bool:
        health = httpx.get(f"{url}/health", headers=OPERATOR, timeout=10).json()
        seen[:] = [int(health["components"]["runner"].get("alive") or 0)]
        return bool(seen[0])

    wait_until(is_seen, "a runner is there")
    return seen[0]
