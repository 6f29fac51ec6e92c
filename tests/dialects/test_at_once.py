"""One run, followed in all dialects at once while workers are killed each second: whoever comes
back as its dialect has it ends with what the record says."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plateau_sse.cli.dialects import SPOKEN, Event, Question
from plateau_sse.cli.via import Via
from plateau_sse.client import ask, ask_async, follow
from plateau_sse.client.patience import Patience
from plateau_sse.eventsource import EventReader, ServerSentMessage
from tests.dialects.paced_agents import TEXT, THOUGHTS
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.dialects.test_openai_client import Read, asked, client_of
from tests.far import skip_unless_asked
from tests.processes import wait_until

# Of each kind.
CLIENTS = 2
KILLS = 9
GIVES_UP_S = 80.0
TOKEN = KEY["Authorization"].split()[1]


@dataclass
class Had:
    """What one client has of the answer in the end."""

    text: str = ""
    thoughts: str = ""
    calls: list[str] = field(default_factory=list)
    end: str = ""
    # Responses that it took.
    asked: int = 0

    def take(self, event: Event) -> None:
        kind = event["type"]
        if kind == "run.restarted":
            self.text, self.thoughts, self.calls = "", "", []
        elif kind == "message.delta":
            self.text += event["text"]
        elif kind == "reasoning.delta":
            self.thoughts += event["text"]
        elif kind == "tool.call":
            self.calls.append(event["id"])
        elif kind in ("run.completed", "run.failed", "run.cancelled"):
            self.end = kind


def patiently(ask: Callable[[], bool]) -> int:
    """Until it has the whole; how often it was asked."""
    until, times = time.monotonic() + GIVES_UP_S, 0
    while time.monotonic() < until:
        times += 1
        if ask():
            return times
        time.sleep(random.uniform(0.1, 0.4))
    raise AssertionError(f"no end within {GIVES_UP_S} s, of {times}")


def natively(stage: Stage, text: str) -> Had:
    had = Had()
    run = ask(stage.url, key=TOKEN, retry_for_s=GIVES_UP_S, agent="paced", input=text)
    stream = follow(run, retry_for_s=GIVES_UP_S)
    for event in stream:
        had.take(event)
    assert stream.answer.text == had.text
    return had


def natively_awaited(stage: Stage, text: str) -> Had:
    had = Had()

    async def followed() -> None:
        run = await ask_async(
            stage.url, key=TOKEN, retry_for_s=GIVES_UP_S, agent="paced", input=text
        )
        stream = follow(run, retry_for_s=GIVES_UP_S)
        async for event in stream:
            had.take(event)
        assert stream.answer.text == had.text

    asyncio.run(followed())
    return had


def via(dialect: str) -> Callable[[Stage, str], Had]:
    """The same question again under its key, which stands for a run of its own, until the
    answer is whole."""

    def ask(stage: Stage, text: str) -> Had:
        had = Had()
        question = Question("paced", text, {}, anew())
        patience = Patience(stage.url, GIVES_UP_S)
        with httpx.Client() as http:
            spoken = SPOKEN[dialect]
            asking = Via(stage.url, spoken, question, http, patience, TOKEN, {})
            for heard in asking.follow():
                had.asked += not heard.data
                for event in heard.events:
                    had.take(event)
        return had

    return ask


def with_openais_package(stage: Stage, text: str) -> Had:
    had = Had()

    def ask() -> bool:
        read = Read()
        try:
            with client_of(stage) as client:
                read.all_of(asked(client, "paced", text, stream=True).parse())
        except (openai.APIError, httpx.TransportError):
            return False
        had.text, had.thoughts = read.text, read.thoughts
        had.end = "run.completed" if read.finish == "stop" else ""
        return bool(had.end)

    had.asked = patiently(ask)
    return had


def for_a_document(stage: Stage, text: str) -> Had:
    """The package's own retries, and ours behind them."""
    had = Had()

    def ask() -> bool:
        try:
            with client_of(stage, max_retries=5) as client:
                found = asked(client, "paced", text).parse()
        except (openai.APIError, httpx.TransportError):
            return False
        (choice,) = found.choices
        had.text, had.thoughts = choice.message.content, choice.message.reasoning_content
        had.end = "run.completed" if choice.finish_reason == "stop" else ""
        return bool(had.end)

    had.asked = patiently(ask)
    return had


def as_a_page(stage: Stage, text: str) -> Had:
    """As `useChat` does that resumes: it asks once, and then for what its chat has."""
    had, chat = Had(), anew()
    spoken = SPOKEN["ui"]
    stream = f"{stage.url}{spoken.path}/{chat}/stream"
    body = spoken.body(Question("paced", text, {}, chat))
    is_asked = False

    def ask() -> bool:
        nonlocal is_asked
        taken, ear = Had(), spoken.ear()
        request = ("GET", stream) if is_asked else ("POST", stage.url + spoken.path)
        more: dict[str, Any] = {} if is_asked else {"json": body}
        try:
            with httpx.stream(*request, headers=KEY, timeout=30, **more) as response:
                if response.status_code != 200:
                    return False
                is_asked = True
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        for event in ear(line[6:]):
                            taken.take(event)
        except httpx.TransportError:
            return False
        had.text, had.thoughts, had.end = taken.text, taken.thoughts, taken.end
        had.calls = taken.calls
        return bool(had.end)

    had.asked = patiently(ask)
    return had


def by_number(run_id: str, _: str, place: str) -> tuple[str, dict[str, str]]:
    behind = f"&starting_after={place}" if place else ""
    return f"/v1/responses/resp_{run_id}?stream=true{behind}", {}


def by_id(_: str, thread: str, place: str) -> tuple[str, dict[str, str]]:
    return f"/agui/{thread}/events", {"Last-Event-ID": place} if place else {}


def coming_back(dialect: str, way_back: Callable[[str, str, str], Any]) -> Any:
    """Behind the last event that it has, and from the first where it is told that the answer
    has begun again."""

    def follow(stage: Stage, text: str) -> Had:
        had, thread, spoken = Had(), anew(), SPOKEN[dialect]
        body = spoken.body(Question("paced", text, {}, thread))
        ear, run_id, place = spoken.ear(), "", ""

        def ask() -> bool:
            nonlocal ear, run_id, place
            method, more = "POST", dict[str, Any](json=body, headers=KEY)
            path = spoken.path_to("paced")
            if run_id:
                path, headers = way_back(run_id, thread, place)
                method, more = "GET", {"headers": KEY | headers}
            try:
                with httpx.stream(method, stage.url + path, timeout=30, **more) as response:
                    if response.status_code != 200:
                        return False
                    run_id = response.headers["x-plateau-run"]
                    for message in messages_of(response):
                        for event in ear(message.data):
                            if event.get("code") == "interrupted":
                                return False
                            if event.get("code") == "restarted":
                                had.take({"type": "run.restarted"})
                                ear, place = spoken.ear(), ""
                                return False
                            had.take(event)
                        number = json.loads(message.data).get("sequence_number")
                        place = message.id or (place if number is None else str(number))
            except httpx.TransportError:
                return False
            return bool(had.end)

        had.asked = patiently(ask)
        return had

    return follow


def messages_of(response: httpx.Response) -> Iterator[ServerSentMessage]:
    reader = EventReader()
    for chunk in response.iter_bytes():
        yield from reader.feed(chunk)


# Those that tell of the tools that the agent itself executes.
TELLS_TOOLS = ("agui", "ui")
# A row each.
WAYS: dict[str, tuple[Callable[[Stage, str], Had], bool]] = {
    "native": (natively, True),
    "native, awaited": (natively_awaited, True),
    "chat, openai": (with_openais_package, False),
    "chat, a document": (for_a_document, False),
    "ui, a page": (as_a_page, True),
    "responses, by number": (coming_back("responses", by_number), False),
    "agui, by id": (coming_back("agui", by_id), True),
    **{f"{it}, asked again": (via(it), it in TELLS_TOOLS) for it in sorted(SPOKEN)},
}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    agents = "paced=tests.dialects.paced_agents:paced"
    with staged(tmp_path, AGENTS=agents) as found:
        yield found


def kill_workers(stage: Stage, is_over: threading.Event) -> int:
    """One a second, the oldest; how many."""
    killed = 0
    while killed < KILLS and not is_over.wait(1.0):
        workers = stage.plateau.pids("gunicorn: worker")
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            killed += 1
    return killed


@pytest.mark.timeout(200)
@pytest.mark.parametrize("runner_dies", [False, True])
def test_all_end_with_the_same_answer_whatever_is_killed(
    stage: Stage, runner_dies: bool
) -> None:
    if not runner_dies:
        skip_unless_asked("the same with one fault less")
    text = anew()
    found: dict[str, list[Had]] = {name: [] for name in WAYS}
    faults: list[tuple[str, BaseException]] = []

    def take(name: str) -> None:
        try:
            found[name].append(WAYS[name][0](stage, text))
        except BaseException as fault:
            faults.append((name, fault))

    threads = [
        threading.Thread(target=take, args=(name,)) for name in WAYS for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    if runner_dies:
        # Some have text by then, which is to be taken back.
        time_to_die = stage.plateau.pids("runner")
        wait_until(lambda: is_on(stage, text), "it has begun")
        shared = record(stage, text)["id"]
        os.kill(time_to_die[0], signal.SIGKILL)
    is_over = threading.Event()
    killed = kill_workers(stage, is_over)
    for thread in threads:
        thread.join(GIVES_UP_S + 10)
    assert not faults and not any(thread.is_alive() for thread in threads), faults
    assert killed >= KILLS // 2
    for name, (_, tells_tools) in WAYS.items():
        for had in found[name]:
            assert (had.text, had.thoughts, had.end) == (
                TEXT,
                "".join(THOUGHTS),
                "run.completed",
            ), name
            assert had.calls == ["c1"] * tells_tools, name
    # Otherwise nothing was tested.
    assert max(had.asked for had in chain(*found.values())) > 2
    assert record(stage, text)["output"] == TEXT
    if runner_dies:
        found_again = stage.record(shared)
        assert (found_again["output"], found_again["attempt"]) == (TEXT, 2)


def record(stage: Stage, text: str) -> dict[str, Any]:
    """Of the run that all of them share who have no key of their own, or of an answer."""
    answer = httpx.post(
        f"{stage.url}/v1/runs", json={"agent": "paced", "input": text}, headers=KEY, timeout=30
    )
    found: dict[str, Any] = answer.json()
    return found


def is_on(stage: Stage, text: str) -> bool:
    """Whether it says something; by then who asks joins it."""
    try:
        return record(stage, text).get("status") == "running"
    except httpx.TransportError:
        return False
