"""A service that hosts the agents of a framework, in that framework's own environment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from locustfiles.kit.ledger import Ledger

from plateau_sse.eventsource import EventReader
from tests.dialects.apart import programs_of
from tests.dialects.stage import KEY
from tests.hosting.endpoint import Model, Script, scripted_model
from tests.hosting.scripts import SCRIPTS
from tests.processes import Serving, serving, wait_until

# What a machine that is busy with other tests takes on top of a promised second.
MARGIN_S = 2
MODULES = {
    "langgraph": "graphs",
    "pydantic-ai": "pydantic_agents",
    "openai-agents": "sdk_agents",
}
AGENTS = (
    *("chat_helper", "chat_keeper", "chat_city", "pooled", "strict"),
    *("responses_helper", "responses_keeper", "responses_city"),
)
GRAPHS = (
    *("plain", "thoughts", "cites", "tools_chat", "tools_responses", "fails", "loop"),
    *("slow_loop", "structured_by_tool", "chat_keeper", "keeper_elsewhere"),
    *("copies", "copies_calls", "structured_keeper"),
    *("structured", "slow", "silent", "length", "broken", "limited", "down", "approve"),
    *("side_by_side", "with_sub_agent", "asks_expert", "waits", "of_a_topic", "asks"),
    *("remembers", "context", "opened", "kept_in_cache", "greets"),
    *("careful", "careful_tool", "careful_elsewhere", "adds", "chat_helper"),
)
Event = dict[str, Any]


@dataclass
class Told:
    """What a reader of a run was told; `books` finds what is lost or comes twice."""

    run_id: str = ""
    events: list[Event] = field(default_factory=list)
    books: Ledger = field(default_factory=Ledger)

    def take(self, event_id: str, event: Event) -> None:
        self.events.append(event)
        assert self.books.take(event_id, event), (self.books.faults, event_id, event)

    def all(self, kind: str) -> list[Event]:
        return [it for it in self.events if it["type"] == kind]

    @property
    def kinds(self) -> list[str]:
        """Of the parts that are kept, in their order."""
        return [part["type"] for part in self.books.parts]

    @property
    def end(self) -> Event:
        assert self.books.end is not None
        return self.books.end

    @property
    def text(self) -> str:
        return self.books.text


@dataclass
class Host:
    framework: str
    plateau: Serving
    model: Model
    folder: Path

    @property
    def url(self) -> str:
        return self.plateau.url

    def ask(self, agent: str, text: str, **body: Any) -> Told:
        """To the end of its stream, and that its record says the same."""
        told = Told()
        for event_id, event in self.stream(agent, text, **body):
            if event["type"] == "run.started":
                told.run_id = event["run"]
            told.take(event_id, event)
        assert not told.books.close()
        assert told.books.parts == self.record(told.run_id)["parts"]
        return told

    def stream(self, agent: str, text: str, **body: Any) -> Iterator[tuple[str, Event]]:
        asked = {"agent": agent, **({"input": text} if text else {}), **body}
        headers = KEY | {"Accept": "text/event-stream"}
        url, events = f"{self.url}/v1/runs", EventReader()
        with httpx.stream("POST", url, json=asked, headers=headers, timeout=60) as response:
            assert response.status_code == 200, response.read()
            for chunk in response.iter_bytes():
                for message in events.feed(chunk):
                    yield message.id or "", json.loads(message.data)

    def agents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/agents").json()["agents"]
        return found

    def start(self, agent: str, text: str, **body: Any) -> str:
        """A run that nobody reads; its id."""
        found = self.post("/v1/runs", {"agent": agent, "input": text, **body})
        assert found.status_code == 202, found.text
        run_id: str = found.json()["id"]
        return run_id

    def cancel(self, run_id: str) -> None:
        found = self.post(f"/v1/runs/{run_id}/cancel", {})
        assert found.status_code in (200, 202), found.text

    def check_cancelling(self, agent: str, text: str, sign: str, asked: int = 1) -> None:
        """A run that is cancelled once it has said `sign`, and has asked its model so often: a
        second later it has ended, and nothing asks the model any more."""
        expected, told, at = len(self.model.requests) + asked, Told(), 0.0

        def is_asked() -> bool:
            return len(self.model.requests) >= expected

        for event_id, event in self.stream(agent, text):
            told.take(event_id, event)
            if event["type"] == "run.started":
                told.run_id = event["run"]
            if event["type"] == sign and not at:
                wait_until(is_asked, "the model is asked")
                self.cancel(told.run_id)
                at = time.monotonic()
        assert told.end["type"] == "run.cancelled"
        wait_until(lambda: self.model.open == 0, "nothing is open", timeout_s=1 + MARGIN_S)
        assert time.monotonic() - at < 1 + MARGIN_S

    def record(self, run_id: str) -> dict[str, Any]:
        found = self.get(f"/v1/runs/{run_id}")
        assert found.status_code == 200, found.text
        record: dict[str, Any] = found.json()
        return record

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=KEY)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=KEY)


def settings_of(framework: str, model: Model) -> dict[str, str]:
    names = GRAPHS if framework == "langgraph" else AGENTS
    module = f"tests.hosting.apart.{MODULES[framework]}"
    return {
        "AGENTS": ",".join(f"{name}={module}:{name}" for name in names),
        "WEB_CONCURRENCY": "2",
        "API_KEYS": "the-key-of-ann,the-key-of-bob",
        "RUNNER_CONCURRENCY": "64",
        "QUEUE_TIMEOUT_S": "60",
        "MODEL_URL": model.base_url,
    }


@contextmanager
def hosting(
    framework: str,
    folder: Path,
    scripts: Mapping[str, Script] = SCRIPTS,
    env: Mapping[str, str] | None = None,
) -> Iterator[Host]:
    """Up once its runner has all agents: they take their time to be imported."""
    python = programs_of(framework) / "python"
    with scripted_model(**scripts) as model:
        told = settings_of(framework, model) | dict(env or {})
        with serving(folder / "data", env=told, python=python, timeout_s=60) as plateau:
            host = Host(framework, plateau, model, folder)
            wait_until(host.agents, "the runner has its agents", timeout_s=60)
            yield host
