"""Traces, as a collector gets them from a real service: of a run that is executed, one that is
joined, a hit, and of a reader who comes back. Without them nothing of it is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.collector import Collector, Span, collecting
from tests.dialects.apart import programs_of
from tests.fake_model import FakeModel, fake_model
from tests.processes import (
    REPOSITORY,
    Serving,
    environment,
    free_ports,
    path_of,
    plateau,
    serving,
    wait_until,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
SERVER, CLIENT, CONSUMER = 2, 3, 5

AGENTS = """
import asyncio
from pathlib import Path

async def held(run):
    yield "first, "
    while not Path(run.input).exists():
        await asyncio.sleep(0.02)
    yield "last"

async def broken(run):
    with run.trace.call("tool") as headers:
        assert headers["traceparent"]
    raise ValueError("a secret")
    yield ""
"""


def with_otel() -> str:
    """The path of a Python of ours that finds OpenTelemetry, too."""
    packages = next((programs_of("otel").parent / "lib").glob("python3*/site-packages"))
    return f"{path_of(REPOSITORY)}:{packages}"


class Traced:
    """A service that sends its traces to a collector."""

    def __init__(self, running: Serving, collector: Collector, model: FakeModel) -> None:
        self.running = running
        self.collector = collector
        self.model = model

    def ask(
        self, agent: str, text: str, headers: Mapping[str, str] | None = None, wait: int = 20
    ) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.running.url}/v1/runs",
            json={"agent": agent, "input": text},
            headers={**(headers or {}), "Prefer": f"wait={wait}"},
            timeout=30,
        )
        found: dict[str, Any] = answer.json()
        return found

    def spans(self, name: str, run_id: str) -> list[Span]:
        """Those of a run, once there are any: they are sent every second."""

        def found() -> list[Span]:
            spans = self.collector.spans(name)
            return [span for span in spans if span.attributes.get("plateau.run.id") == run_id]

        wait_until(found, f"a span {name} of run {run_id}")
        return found()

    def inside(self, name: str, parent: Span) -> Span:
        def found() -> list[Span]:
            return [one for one in self.collector.spans(name) if one.parent == parent.id]

        wait_until(found, f"a span {name} within {parent.name}")
        (span,) = found()
        assert span.trace == parent.trace
        return span


@contextmanager
def traced(tmp_path: Path, **env: str) -> Iterator[Traced]:
    (tmp_path / "traced_agents.py").write_text(AGENTS)
    python = programs_of("otel") / "python"
    with collecting(tmp_path, python) as collector, fake_model() as model:
        env = {
            "AGENTS": "held=traced_agents:held,broken=traced_agents:broken",
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_MODEL": "normal",
            "PYTHONPATH": with_otel(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "300",
            **env,
        }
        with serving(tmp_path / "data", env=env, cwd=tmp_path) as running:
            yield Traced(running, collector, model)


def test_a_run_is_one_trace_from_the_client_to_the_model(tmp_path: Path) -> None:
    with traced(tmp_path) as service:
        said = service.ask("openai", "Why?", CLIENTS)
        assert said["status"] == "completed"
        (ask,) = service.spans("ask", said["id"])
        assert (ask.trace, ask.parent) == (TRACE, SPAN)
        assert (ask.kind, ask.part, ask.service) == (SERVER, "web", "plateau")
        assert ask.attributes["plateau.cache"] == "miss"
        assert ask.attributes["plateau.agent"] == "openai"

        waited, run = service.inside("queue", ask), service.inside("run", ask)
        assert run.kind == CONSUMER and run.part == waited.part == "runner"
        assert run.events == ["first text"]
        assert run.attributes["plateau.end"] == "completed"
        assert run.attributes["gen_ai.usage.input_tokens"] == 7
        assert run.attributes["plateau.attempt"] == 1
        model = service.inside("model", run)
        assert model.kind == CLIENT
        assert waited.began_ns <= waited.ended_ns <= model.began_ns
        assert run.began_ns <= model.began_ns <= model.ended_ns <= run.ended_ns

        (request,) = service.model.requests
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["traceparent"] == f"00-{TRACE}-{model.id}-01"
        # What is asked and answered is in no span.
        assert "Why?" not in (tmp_path / "spans").read_text()


def test_who_joins_who_comes_back_and_a_hit_are_linked(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with traced(tmp_path) as service:
        first = service.ask("held", str(go), CLIENTS, wait=0)
        second = service.ask("held", str(go), wait=0)

        def leading() -> list[Span]:
            return [it for it in service.spans("ask", first["id"]) if it.trace == TRACE]

        # The other worker may have told of its own before.
        wait_until(leading, "the span of who asked first")
        (asked,) = leading()

        def joined() -> list[Span]:
            spans = service.spans("ask", first["id"])
            return [it for it in spans if it.attributes["plateau.cache"] == "joined"]

        wait_until(joined, "the span of who joined")
        (span,) = joined()
        # A trace of its own, which names the one that it waits for.
        assert second["id"] == first["id"] and span.trace != TRACE
        assert span.links == [[asked.trace, asked.id]]

        seen = f"{service.running.url}{_path(first['events_url'])}"
        headers = {"Last-Event-ID": "1-3", "Accept": "text/event-stream"}
        with httpx.stream("GET", seen, headers=headers, timeout=10) as response:
            assert response.status_code == 200
            (back,) = service.spans("resume", first["id"])
            go.touch()
            response.read()
        assert back.links == [[asked.trace, asked.id]]
        assert back.attributes["plateau.dialect"] == "native"

        hit = service.ask("held", str(go))
        assert hit["cached"]
        (found,) = service.spans("ask", hit["id"])
        assert found.attributes["plateau.cache"] == "hit" and found.links == []


def _path(url: str) -> str:
    """URLs of a run are relative to where it was asked, or whole."""
    return url if url.startswith("/") else httpx.URL(url).raw_path.decode()


def test_what_fails_is_an_error_without_its_text(tmp_path: Path) -> None:
    with traced(tmp_path) as service:
        said = service.ask("broken", "x")
        assert said["status"] == "failed"
        (run,) = service.spans("run", said["id"])
        assert run.is_error and run.attributes["plateau.end"] == "agent_error"
        assert not service.inside("tool", run).is_error
        answer = service.ask("nobody", "x")
        assert answer["code"] == "unknown_agent"
        wait_until(
            lambda: any(span.is_error for span in service.collector.spans("ask")),
            "the span of what was refused",
        )
        assert "a secret" not in (tmp_path / "spans").read_text()


@pytest.mark.parametrize("header", ["", "00-zz-zz-01", f"00-{'0' * 32}-{'0' * 16}-01"])
def test_a_header_that_is_none_begins_a_trace(tmp_path: Path, header: str) -> None:
    with traced(tmp_path) as service:
        said = service.ask("study", "Water is wet. It flows.", {"traceparent": header})
        (ask,) = service.spans("ask", said["id"])
        assert ask.parent == "" and int(ask.trace, 16)


def test_who_is_not_sampled_is_not_told_of(tmp_path: Path) -> None:
    """The model's endpoint still is, with the flag that says so."""
    with traced(tmp_path) as service:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        said = service.ask("openai", "Why?", headers)
        assert said["status"] == "completed"
        other = service.ask("study", "Water is wet. It flows.")
        service.spans("run", other["id"])
        assert not [span for span in service.collector.spans() if span.trace == TRACE]
        sent = {name.lower(): it for name, it in service.model.requests[0].headers.items()}
        assert sent["traceparent"].startswith(f"00-{TRACE}-")
        assert sent["traceparent"].endswith("-00")


def test_a_collector_that_is_away_costs_nobody_anything(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_ports(1)}"
    with traced(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=away) as service:
        for number in range(5):
            said = service.ask("study", f"Water {number} is wet. It flows.")
            assert said["status"] == "completed"


def test_nothing_is_imported_without_it(tmp_path: Path) -> None:
    """Also where it is installed redis-py alone does so, and no part of an exporter."""
    code = (
        "import sys, plateau_sse.app, plateau_sse.runner.process, plateau_sse.agents.openai\n"
        "from plateau_sse.settings import Settings\n"
        "from plateau_sse.tracing import tracing_of\n"
        "assert tracing_of(Settings(), 'web') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment({}), capture_output=True, text=True
    )
    assert shown.stdout == "[]\n", shown.stderr


def test_who_has_not_installed_it_is_told(tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    shown = plateau("serve", env=env, cwd=tmp_path)
    assert shown.returncode == 2
    assert "pip install 'plateau-sse[otel]'" in shown.stderr
