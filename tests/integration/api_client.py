"""A `plateau serve` with the agents of api_agents.py, and what tests ask of it.

Invariant: nothing here knows the service from within; what it reads came over a socket.
"""

from __future__ import annotations

import itertools
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from locustfiles.kit.ledger import Ledger
from redis import Redis

from tests.integration import api_agents
from tests.processes import Serving, serving, wait_until

NAMES = "echo slow failing refusing sync tools output big large rich".split()
TERMINAL = ("run.completed", "run.failed", "run.cancelled")
SSE = {"Accept": "text/event-stream"}


class Event(NamedTuple):
    """One dispatched message; `id` is '' where it had none, `event` where it had no name."""

    id: str
    event: str
    data: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.data["type"])

    @property
    def seq(self) -> int:
        return int(self.id.partition("-")[2])


@contextmanager
def api_serving(
    folder: Path,
    env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = ("-m", "plateau_sse", "serve"),
) -> Iterator[Serving]:
    """The service with its own Redis servers, run from `folder`, where the agents are."""
    shutil.copy(Path(api_agents.__file__), folder / "api_agents.py")
    agents = ",".join(f"{name}=api_agents:{name}" for name in NAMES)
    env = {"AGENTS": agents, **(env or {})}
    with serving(folder / "data", arguments=arguments, env=env, cwd=folder) as plateau:
        yield plateau


_HOSTS = itertools.count(1)


def elsewhere() -> dict[str, str]:
    """A header by which the next request comes from another host: who sends many wrong keys
    from one waits for each answer."""
    number = next(_HOSTS)
    return {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


def unique() -> str:
    """An input that no cache has seen."""
    return uuid.uuid4().hex


def ask(client: httpx.Client, agent: str, text: str = "", **more: Any) -> dict[str, Any]:
    """Post a run; the body of its 202 (or of a hit's 200)."""
    response = client.post("/v1/runs", json={"agent": agent, "input": text or unique(), **more})
    assert response.status_code in (200, 202), response.text
    body: dict[str, Any] = response.json()
    return body


def finish(client: httpx.Client, agent: str, text: str = "", **more: Any) -> dict[str, Any]:
    """Post a run and wait for its end: the record."""
    response = client.post(
        "/v1/runs",
        json={"agent": agent, "input": text or unique(), **more},
        headers={"Prefer": "wait=30"},
    )
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def record_of(client: httpx.Client, run: Mapping[str, Any]) -> dict[str, Any]:
    response = client.get(f"/v1/runs/{run['id']}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def wait_for_status(client: httpx.Client, run: Mapping[str, Any], status: str) -> None:
    wait_until(lambda: record_of(client, run)["status"] == status, f"the run is {status}")


def messages(lines: Iterable[str]) -> Iterator[Event]:
    """Server-sent events from lines, as a browser would dispatch them."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield Event(
                fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])
            )
        fields = {}


def follow(client: httpx.Client, url: str, **headers: str) -> list[Event]:
    """All events from there to the end of the response, which must be a stream."""
    with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(messages(response.iter_lines()))


def told(events: Iterable[Event]) -> Ledger:
    """Someone who has been told these, over whatever responses: nothing was left out between
    two of them, and nothing came twice."""
    ledger = Ledger()
    for event in events:
        assert ledger.take(event.id, event.data), (ledger.faults, ledger.last_id, event)
    assert not (faults := ledger.close()), faults
    return ledger


def text_of(events: Iterable[Event]) -> str:
    """The answer, as someone who folds the events sees it at the end."""
    text = ""
    for event in events:
        if event.type == "run.restarted":
            text = ""
        elif event.type == "message.delta":
            text += event.data["text"]
    return text


def keys_in(*urls: str) -> set[bytes]:
    """What these Redis servers hold: every key, all those of one run as one, and without what
    the service notes of itself as time goes by."""
    found: set[bytes] = set()
    for url in urls:
        with Redis.from_url(url, protocol=2) as redis:
            found |= {key.partition(b"}")[0] for key in redis.scan_iter(count=1000)}
    return {key for key in found if not key.startswith((b"stats:", b"worker:"))}


@contextmanager
def nothing_stays(plateau: Serving) -> Iterator[None]:
    """What is done in the block leaves no key behind, and no error in the log."""
    urls = plateau.streams_url, plateau.cache_url
    before, said = keys_in(*urls), len(plateau.stderr)
    yield
    assert not (left := keys_in(*urls) - before), left
    log = plateau.stderr[said:]
    assert "Traceback" not in log and " ERROR " not in log, log


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """It is that problem document, whole; its members."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] and body["title"] and body["detail"]
    return body
