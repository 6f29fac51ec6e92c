"""client.js in a real browser: `fold` case by case, `follow` against a server that misbehaves.

Invariant: whatever a connection does, the text ends as the run's, each event folded once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
from selenium.webdriver import Chrome

import plateau_sse.web
from tests.browser import await_true, browser

WEB = Path(plateau_sse.web.__file__).parent
Event = dict[str, Any]


class Asked(NamedTuple):
    """What a connection said it had seen, and its token."""

    header: str | None
    query: str | None
    token: str | None


@dataclass
class Stage:
    """Serves client.js, and at /events the next of `answers` to each connection, then 204."""

    url: str
    answers: list[tuple[int, str]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    stage: Stage


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        if path == "/events":
            seen = self.headers["Last-Event-ID"], query.get("last_event_id")
            self.server.stage.asked.append(Asked(*seen, query.get("token")))
            answers = self.server.stage.answers
            self._answer(*(answers.pop(0) if answers else (204, "")), "text/event-stream")
        elif path == "/client.js":
            self._answer(200, (WEB / "client.js").read_text(), "text/javascript")
        else:
            self._answer(200, "<!doctype html><title>stage</title>", "text/html")

    def _answer(self, status: int, body: str, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def stage() -> Iterator[Stage]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.stage = Stage(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.stage
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with browser() as started:
        yield started


@pytest.fixture
def home(driver: Chrome) -> Iterator[Stage]:
    with stage() as own:
        driver.get(own.url)
        yield own


def event(type_: str, **fields: Any) -> Event:
    return {"type": type_, **fields}


def deltas(first: int, *texts: str, attempt: int = 1) -> list[tuple[str, Event]]:
    return [
        (f"{attempt}-{first + i}", event("message.delta", text=text))
        for i, text in enumerate(texts)
    ]


STARTED = ("1-1", event("run.started", run="r", agent="study", attempt=1))
ERROR = {"code": "timeout", "message": "too long", "retryable": True}
TEXT = [STARTED, *deltas(2, "Once ", "upon ")]
CALL = event("tool.call", id="t1", name="search", arguments='{"q": 1}')
RESULT = event("tool.result", id="t1", output=[1, 2])
TOOL = {"id": "t1", "name": "search", "arguments": '{"q": 1}'}
STEP = {"step": 2, "total_steps": 3, "current_agent": "a", "message": "m", "percentage": 50}


def snapshot(text: str, *, status: str = "running", missed: int = 0, **more: Any) -> Event:
    defaults: Event = {"progress": None, "tools": []}
    return event("run.snapshot", status=status, text=text, missed=missed, **defaults | more)


CASES: dict[str, tuple[list[tuple[str, Event]], dict[str, Any]]] = {
    "nothing": ([], {"status": "connecting", "id": "", "text": "", "events": 0, "attempt": 0}),
    "started": ([STARTED], {"status": "running", "attempt": 1, "id": "1-1", "events": 1}),
    "deltas append": (TEXT, {"text": "Once upon ", "id": "1-3", "events": 3}),
    "joined late": (deltas(5, "x"), {"text": "x", "status": "running", "attempt": 1}),
    "progress is the latest": (
        [
            ("1-1", event("run.progress", **STEP | {"step": 1})),
            ("1-2", event("run.progress", **STEP)),
        ],
        {"progress": STEP},
    ),
    "a tool's call": ([("1-1", CALL)], {"tools": [TOOL], "id": "1-1"}),
    "a tool's result joins its call": (
        [("1-1", CALL), ("1-2", RESULT)],
        {"tools": [{**TOOL, "output": [1, 2]}]},
    ),
    "tools are bounded": (
        [(f"1-{i}", event("tool.call", **TOOL | {"id": f"t{i}"})) for i in range(1, 151)],
        {"tools": [{**TOOL, "id": f"t{i}"} for i in range(51, 151)]},
    ),
    "a restart clears": (
        [
            *TEXT,
            ("1-4", CALL),
            ("2-1", event("run.restarted", attempt=2, reason="runner_lost")),
        ],
        {"text": "", "tools": [], "progress": None, "attempt": 2, "id": "2-1"},
    ),
    "after a restart it begins anew": (
        [*TEXT, ("2-1", event("run.restarted", attempt=2)), *deltas(2, "New", attempt=2)],
        {"text": "New", "id": "2-2", "events": 5},
    ),
    "a snapshot replaces": (
        [
            *TEXT,
            ("1-4", CALL),
            ("1-150", snapshot("Whole", missed=146, progress=event("run.progress", **STEP))),
        ],
        {"text": "Whole", "tools": [], "progress": STEP, "missed": 146, "id": "1-150"},
    ),
    "a snapshot brings its tools": (
        [("1-9", snapshot("", tools=[CALL, RESULT], missed=9))],
        {"tools": [{**TOOL, "output": [1, 2]}], "missed": 9},
    ),
    "what was missed adds up": (
        [("1-9", snapshot("a", missed=9)), ("1-30", snapshot("b", missed=21))],
        {"missed": 30, "text": "b", "events": 2},
    ),
    "a queued run has no id": (
        [("", snapshot("", status="queued"))],
        {"status": "queued", "id": "", "attempt": 0, "events": 1},
    ),
    "queued again, under the old id": (
        [*TEXT, ("1-3", snapshot("", status="queued"))],
        {"status": "queued", "text": "", "id": "1-3"},
    ),
    "a snapshot may go back": (
        [*TEXT, *deltas(4, "lost"), ("1-2", snapshot("Once ")), *deltas(3, "more")],
        {"text": "Once more", "id": "1-3"},
    ),
    "a repeat is ignored": (
        [*TEXT, *TEXT, *deltas(4, "a")],
        {"text": "Once upon a", "events": 4},
    ),
    "ids are numbers, not text": (
        [*deltas(9, "nine "), *deltas(10, "ten"), *deltas(9, "nine ")],
        {"text": "nine ten"},
    ),
    "another run begins anew": (
        [*TEXT, ("", event("run.restarted", attempt=1, reason="other")), *deltas(1, "New")],
        {"text": "New", "id": "1-1", "events": 5},
    ),
    "an earlier attempt is ignored": (
        [("2-1", event("run.restarted", attempt=2)), *deltas(7, "old")],
        {"text": "", "id": "2-1", "events": 1},
    ),
    "completed": (
        [*TEXT, ("1-4", event("run.completed", usage={"input_tokens": 1}, duration_ms=7))],
        {
            "status": "completed",
            "finish_reason": None,
            "output": "Once upon ",
            "usage": {"input_tokens": 1},
            "cached": False,
            "duration_ms": 7,
        },
    ),
    "completed with another output": (
        [
            *TEXT,
            (
                "1-4",
                event("run.completed", cached=True, output="Other", finish_reason="length"),
            ),
        ],
        {
            "finish_reason": "length",
            "output": "Other",
            "text": "Once upon ",
            "cached": True,
            "usage": None,
        },
    ),
    "failed": (
        [*TEXT, ("1-4", event("run.failed", **ERROR))],
        {"status": "failed", "error": ERROR, "text": "Once upon ", "output": None},
    ),
    "cancelled": (
        [*TEXT, ("1-4", event("run.cancelled", reason="requested"))],
        {"status": "cancelled", "reason": "requested", "output": None},
    ),
    "an unknown type only counts": (
        [*TEXT, ("1-4", event("run.sang")), ("1-5", event("constructor", text="no"))],
        {"text": "Once upon ", "events": 5, "id": "1-5", "status": "running"},
    ),
}

FOLD = """
const [events, done] = arguments;
const freeze = (value) => {
  if (value && typeof value === "object") Object.values(Object.freeze(value)).forEach(freeze);
  return value;
};
import("/client.js").then(({fold, initial}) => {
  const parsed = events.map(([lastEventId, fields]) => freeze({...fields, lastEventId}));
  const raw = events.map(([lastEventId, fields]) =>
    ({data: JSON.stringify(fields), lastEventId}));
  const all = (list) =>
    list.reduce((state, event) => freeze(fold(state, event)), freeze(initial));
  done([all(parsed), all(raw)]);
}).catch((error) => done(String(error)));
"""


@pytest.mark.parametrize("case", CASES)
def test_fold(driver: Chrome, home: Stage, case: str) -> None:
    events, expected = CASES[case]
    result = driver.execute_async_script(FOLD, events)
    assert isinstance(result, list), result
    parsed, raw = result
    assert parsed == raw
    assert {name: parsed[name] for name in expected} == expected


def sse(*events: tuple[str, Event]) -> str:
    frames = (
        (f"id: {id_}\n" if id_ else "") + f"data: {json.dumps(fields)}\n\n"
        for id_, fields in events
    )
    return "retry: 10\n" + "".join(frames)


FOLLOW = """
const [client, url, from, done] = arguments;
window.spied ??= (() => {
  window.sources = [];
  const Native = window.EventSource;
  return window.EventSource = class extends Native {
    constructor(...all) { super(...all); window.sources.push(this); }
  };
})();
import(client).then(({follow, initial}) => {
  window.states = [];
  window.types = [];
  const told = (state, event) => { states.push(state); if (event) types.push(event.type); };
  window.handle = follow(url, told, from ? {state: handle.state} : undefined);
  done(null);
}).catch((error) => done(String(error)));
"""


def follow(
    driver: Chrome, url: str = "events?token=T", client: str = "/client.js", again: bool = False
) -> None:
    """Start following; `again` goes on from the handle before."""
    assert driver.execute_async_script(FOLLOW, client, url, again) is None


def state(driver: Chrome) -> dict[str, Any]:
    found: dict[str, Any] = driver.execute_script("return handle.state")
    return found


def until(driver: Chrome, **wanted: Any) -> dict[str, Any]:
    """Wait until the state has these values; return all of it."""
    await_true(driver, lambda: state(driver).items() >= wanted.items(), f"{wanted}")
    return state(driver)


def is_closed(driver: Chrome) -> bool:
    return bool(
        driver.execute_script("return sources.at(-1).readyState === EventSource.CLOSED")
    )


def test_a_dropped_connection_resumes_where_it_was(driver: Chrome, home: Stage) -> None:
    home.answers = [
        (200, sse(*TEXT)),
        (200, sse(*TEXT[1:], *deltas(4, "a ", "time"), ("1-6", event("run.completed")))),
    ]
    follow(driver)
    done = until(driver, status="completed")
    assert (done["text"], done["output"], done["events"]) == ("Once upon a time",) * 2 + (6,)
    assert home.asked == [(None, None, "T"), ("1-3", None, "T")]
    assert is_closed(driver) and not done["closed"]
    # Repeats are not told, and a lost connection is.
    assert driver.execute_script("return types.length") == 6
    assert False in driver.execute_script("return states.map((state) => state.connected)")


def test_a_response_that_ends_empty_is_asked_again(driver: Chrome, home: Stage) -> None:
    home.answers = [
        (200, "retry: 10\n"),
        (200, sse(STARTED, ("1-2", event("run.completed")))),
    ]
    follow(driver)
    until(driver, status="completed")
    assert len(home.asked) == 2


def test_a_trimmed_position_gets_a_snapshot(driver: Chrome, home: Stage) -> None:
    home.answers = [
        (200, sse(*TEXT)),
        (200, sse(("1-200", snapshot("All of it", missed=197)), *deltas(201, "."))),
        (200, sse(("1-202", event("run.completed")))),
    ]
    follow(driver)
    done = until(driver, status="completed")
    assert done["text"] == "All of it."
    assert done["missed"] + done["events"] - 1 == 202
    assert [asked.header for asked in home.asked] == [None, "1-3", "1-201"]


def test_a_snapshot_of_a_finished_run_waits_for_its_end(driver: Chrome, home: Stage) -> None:
    whole = snapshot("All", status="completed", missed=8)
    end = event("run.completed", usage={"output_tokens": 3}, cached=True, duration_ms=5)
    home.answers = [(200, sse(("1-8", whole), ("1-9", end)))]
    follow(driver)
    done = until(driver, id="1-9", status="completed")
    assert (done["usage"], done["output"]) == ({"output_tokens": 3}, "All")
    assert is_closed(driver)


def test_a_restart_is_followed(driver: Chrome, home: Stage) -> None:
    home.answers = [
        (200, sse(*TEXT, ("2-1", event("run.restarted", attempt=2)))),
        (200, sse(*deltas(2, "Anew", attempt=2), ("2-3", event("run.failed", **ERROR)))),
    ]
    follow(driver)
    done = until(driver, status="failed")
    assert (done["text"], done["attempt"], done["error"]) == ("Anew", 2, ERROR)
    assert home.asked[1].header == "2-1"


@pytest.mark.parametrize("status", [204, 401, 404, 410, 500])
def test_a_stream_that_is_gone_says_so(driver: Chrome, home: Stage, status: int) -> None:
    home.answers = [(200, sse(*TEXT)), (status, "")]
    follow(driver)
    gone = until(driver, closed=True)
    assert (gone["status"], gone["text"], gone["connected"]) == ("running", "Once upon ", False)
    assert len(home.asked) == 2


def test_drop_and_resume(driver: Chrome, home: Stage) -> None:
    home.answers = [(200, sse(*TEXT).replace("retry: 10", "retry: 600000"))]
    follow(driver)
    until(driver, id="1-3")
    driver.execute_script(
        "handle.close(); window.old = window.states; window.seen = old.length"
    )
    home.answers = [
        (200, sse(*deltas(4, "a "))),
        (200, sse(*deltas(5, "time"), ("1-6", event("run.cancelled", reason="requested")))),
    ]
    follow(driver, again=True)
    done = until(driver, status="cancelled")
    assert (done["text"], done["events"]) == ("Once upon a time", 6)
    # The first connection asks by query; its own reconnection by header, which beats it.
    assert home.asked[1:] == [(None, "1-3", "T"), ("1-4", "1-3", "T")]
    assert driver.execute_script("return old.length === seen")


def test_it_works_from_another_origin(driver: Chrome, home: Stage) -> None:
    with stage() as other:
        other.answers = [(200, sse(*TEXT, ("1-4", event("run.completed"))))]
        follow(driver, f"{other.url}events", client=f"{other.url}client.js")
        assert until(driver, status="completed")["text"] == "Once upon "
    assert not home.asked
