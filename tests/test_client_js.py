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
from tests.handmade import Event, Tape, event

WEB = Path(plateau_sse.web.__file__).parent
RECORD, EVENTS = "runs/7", "runs/7/events"


class Asked(NamedTuple):
    """What a connection said it had seen, and its token."""

    header: str | None
    query: str | None
    token: str | None


@dataclass
class Stage:
    """Serves client.js, at EVENTS the next of `answers` to each connection, then 204, and at
    RECORD the `record`. A connection whose status is 0 stays open and silent until `go`, one of
    -1 has no answer at all."""

    url: str
    answers: list[tuple[int, str]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    record: tuple[int, Any] = (404, {"title": "There is no such run.", "code": "run_not_found"})
    looks: int = 0
    go: threading.Event = field(default_factory=threading.Event)


class Server(ThreadingHTTPServer):
    stage: Stage


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        if path == f"/{RECORD}":
            self.server.stage.looks += 1
            status, record = self.server.stage.record
            self._answer(status, json.dumps(record), "application/json")
        elif path == f"/{EVENTS}":
            seen = self.headers["Last-Event-ID"], query.get("last_event_id")
            self.server.stage.asked.append(Asked(*seen, query.get("token")))
            answers = self.server.stage.answers
            self._answer(*(answers.pop(0) if answers else (204, "")), "text/event-stream")
        elif path == "/client.js":
            self._answer(200, (WEB / "client.js").read_text(), "text/javascript")
        else:
            self._answer(200, "<!doctype html><title>stage</title>", "text/html")

    def _answer(self, status: int, body: str, content_type: str) -> None:
        if status < 0:
            self.server.stage.go.wait(60)
            return
        self.send_response(status or 200)
        self.send_header("Content-Type", content_type)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body.encode())
        if not status:
            self.wfile.flush()
            self.server.stage.go.wait(60)

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
            server.stage.go.set()
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


def told(tape: Tape, type_: str, **fields: Any) -> tuple[str, Event]:
    """A state: EventSource hands it over with the id of the event before it."""
    return tape.here, event(type_, **fields)


Events = list[tuple[str, Event]]
ERROR = {"code": "timeout", "message": "too long", "retryable": True}
CALL = {"id": "t1", "name": "search", "arguments": '{"q": 1}'}
TOOL = {"type": "tool.call", **CALL}
STEP = {"step": 2, "total_steps": 3, "current_agent": "a", "message": "m", "percentage": 50}
SOURCE = {"id": "s", "url": "https://a.example/", "title": "A"}


def text_part(part: int, text: str, type_: str = "text", **more: Any) -> Event:
    return {"type": type_, "part": part, "text": text, **more}


def begun() -> tuple[Tape, Events]:
    tape = Tape()
    return tape, [tape.started(), tape.say("Once "), tape.say("upon ")]


def cases() -> Iterator[tuple[str, Events, dict[str, Any]]]:
    """What a case shows, its events, and what the state then has."""
    tape = Tape()
    nothing = {"status": "connecting", "id": "", "text": "", "parts": [], "attempt": 0}
    yield "nothing", [], nothing
    yield "started", [tape.started()], {"status": "running", "attempt": 1, "id": "3fa29c-1-1"}
    tape, events = begun()
    parts = [text_part(0, "Once upon ")]
    yield "deltas append", events, {"text": "Once upon ", "parts": parts, "events": 3}
    yield "a repeat is ignored", [*events, *events], {"text": "Once upon ", "events": 3}
    tape.say("lost")
    late = [tape.say("x"), tape.mark("step", name="s"), tape.say("y", 3)]
    wanted = {"text": "xy", "status": "running", "attempt": 1, "id": tape.here}
    yield "joined late", late, wanted

    tape, events = begun()
    events += [
        tape.say("ü𝒜\u200d"),
        tape.say("", 1, "reasoning"),
        tape.say("hm", 1, "reasoning"),
    ]
    events += [tape.say("end", 2)]
    parts = [
        text_part(0, "Once upon ü𝒜\u200d"),
        text_part(1, "hm", "reasoning"),
        text_part(2, "end"),
    ]
    wanted = {"parts": parts, "text": "Once upon ü𝒜\u200dend", "hole": False, "id": tape.here}
    yield "thoughts are parts, and no text", events, wanted
    tape = Tape()
    events = [tape.say("a1"), tape.say("b1", 1), tape.say("a2", 2, continues=0)]
    parts = [text_part(0, "a1"), text_part(1, "b1"), text_part(2, "a2", continues=0)]
    yield "two speak at once", events, {"parts": parts, "text": "a1b1a2"}
    tape = Tape()
    events = [tape.say("a"), tape.mark("run.hummed"), tape.say("b", 1)]
    wanted = {"parts": [text_part(0, "a"), text_part(1, "b")], "hole": False, "events": 3}
    yield "an unknown mark ends a part", events, wanted

    tape = Tape()
    events = [
        tape.mark("tool.call", **CALL),
        tape.say("meanwhile"),
        tape.mark("tool.result", id="t1", output=[1, 2]),
        tape.say("then", 1),
    ]
    tool = {**TOOL, "output": [1, 2]}
    parts = [tool, text_part(0, "meanwhile"), text_part(1, "then")]
    wanted = {"tools": [tool], "parts": parts, "hole": False}
    yield "a result stands at its call", events, wanted
    tape = Tape()
    both = [tape.mark("tool.call", **CALL), tape.mark("tool.result", id="t1", error="no")]
    again = [tape.mark("tool.call", **CALL), tape.mark("tool.result", id="t1", output=0)]
    tools = [{**TOOL, "error": "no"}, {**TOOL, "output": 0}]
    yield "a call of an id that was there", [*both, *again], {"tools": tools, "parts": tools}
    tape = Tape()
    alone = [tape.mark("tool.result", id="t9", output=1)]
    parts = [{"type": "tool.result", "id": "t9", "output": 1}]
    yield "a result without its call", alone, {"tools": [], "parts": parts}
    tape = Tape()
    writing = {"id": "t1", "name": "search", "arguments": '{"q'}
    events = [tape.started(), told(tape, "tool.delta", **writing)]
    yield "a call being written", events, {"underway": [writing], "parts": [], "events": 2}
    later = {**writing, "arguments": '{"q": '}
    events = [*events, told(tape, "tool.delta", **later)]
    yield "all of it so far", events, {"underway": [later]}
    events = [*events, tape.mark("tool.call", **CALL), told(tape, "tool.delta", **writing)]
    yield "it ends with its call", events, {"underway": [], "tools": [TOOL]}
    early = told(tape, "tool.result", id="t1", output="soon", preliminary=True)
    wanted = {"underway": [{"id": "t1", "output": "soon"}], "tools": [TOOL]}
    yield "a first result", [*events, early], wanted
    events = [*events, early, tape.mark("tool.result", id="t1", output="now")]
    late_result = told(tape, "tool.result", id="t1", output="soon", preliminary=True)
    wanted = {"underway": [], "tools": [{**TOOL, "output": "now"}]}
    yield "it ends with the result", [*events, late_result], wanted
    tape = Tape()
    before = [tape.mark("tool.call", **CALL), tape.mark("tool.result", id="t1", output=1)]
    before += [tape.mark("step", name="two"), told(tape, "tool.delta", **writing)]
    yield "a step counts its calls anew", before, {"underway": [writing]}
    early = told(tape, "tool.result", id="t1", output="soon", preliminary=True)
    events = [*before, tape.mark("tool.call", **CALL), told(tape, "tool.delta", **writing)]
    wanted = {"underway": [{"id": "t1", "output": "soon"}]}
    yield "and has results of its own", [*events, early], wanted
    tape = Tape()
    events = [tape.started(), told(tape, "tool.delta", **writing), tape.completed()]
    yield "nothing is underway behind the end", events, {"underway": []}

    tape = Tape()
    events = [
        tape.mark("data", name="n", id="a", value=1),
        tape.mark("data", name="n", value=2),
        tape.mark("data", name="n", id="a", value=3),
        tape.mark("data", name="n", value=4),
        told(tape, "data", name="n", id="a", value=5, transient=True),
    ]
    values = [(3, "a"), (2, None), (4, None)]
    parts = [
        {"type": "data", "name": "n", "value": value, **({"id": id_} if id_ else {})}
        for value, id_ in values
    ]
    yield "data of an id is replaced", events, {"parts": parts, "events": 5}
    tape = Tape()
    asked = {"id": "i", "kind": "approval", "message": "Go on?"}
    events = [
        tape.mark("source", **SOURCE),
        tape.mark("file", media_type="text/plain", url="data:,x"),
        tape.mark("step", name="two"),
        tape.mark("input.request", **asked),
    ]
    source = {"type": "source", **SOURCE}
    parts = [source, {"type": "file", "media_type": "text/plain", "url": "data:,x"}]
    parts += [{"type": "step", "name": "two"}, {"type": "input.request", **asked}]
    yield "what else stays", events, {"parts": parts, "sources": [source]}

    tape = Tape()
    first = {**STEP, "step": 1}
    events = [tape.started(), told(tape, "run.progress", **first)]
    events += [told(tape, "run.progress", **STEP), tape.say("a")]
    wanted = {"progress": STEP, "text": "a", "events": 4, "hole": False}
    yield "progress is the latest", events, wanted
    queued = [("", event("run.queued"))]
    yield "queued", queued, {"status": "queued", "id": "", "attempt": 0, "events": 1}
    tape, events = begun()
    wanted = {"status": "queued", "text": "Once upon "}
    yield "queued again", [*events, told(tape, "run.queued")], wanted

    tape, events = begun()
    two = Tape(2)
    events += [tape.mark("tool.call", **CALL), tape.mark("source", **SOURCE), two.restarted()]
    wanted = {"text": "", "parts": [], "tools": [], "sources": [], "attempt": 2}
    yield "a restart clears", events, wanted | {"id": "3fa29c-2-0", "progress": None}
    events = [*events, two.started(), two.say("New"), tape.say("old", 5)]
    wanted = {"text": "New", "id": two.here, "attempt": 2}
    yield "then it begins anew", events, wanted | {"parts": [text_part(0, "New")]}
    tape, events = begun()
    two = Tape(2)
    events += [two.started(), two.say("New")]
    yield "a later attempt is enough", events, {"text": "New", "attempt": 2, "hole": False}
    tape, events = begun()
    back = Tape()
    events += [back.restarted("rewound"), back.started(), back.say("Anew")]
    yield "the store went back", events, {"text": "Anew", "id": back.here, "attempt": 1}
    tape, events = begun()
    other = Tape(1, "abcdef")
    events += [other.restarted("other"), other.started(), other.say("X")]
    yield "another answer", events, {"text": "X", "id": other.here, "hole": False}

    for what, skip in (("a character", "x"), ("nothing that is seen", ""), ("a mark", None)):
        tape, events = begun()
        if skip is None:
            tape.mark("step", name="s")
        else:
            tape.say(skip, 7)
        wanted = {"hole": True, "text": "Once upon ", "events": 3, "id": events[-1][0]}
        yield f"{what} is missing", [*events, tape.say("late", 8)], wanted
        yield f"{what} is missing, at the end", [*events, tape.completed()], wanted
    tape, events = begun()
    two = Tape(2)
    two.started()
    missing = [*events, two.say("x")]
    yield "an attempt's beginning is missing", missing, {"hole": True, "text": "Once upon "}
    tape, events = begun()
    skipped, after = tape.say("a "), tape.say("time")
    wanted = {"hole": False, "text": "Once upon a time"}
    yield "a hole is filled", [*events, after, skipped, after], wanted

    tape, events = begun()
    end = tape.completed(
        usage={"input_tokens": 1}, duration_ms=7, model="m", finish_reason="stop", cached=True
    )
    wanted = {"status": "completed", "finish_reason": "stop", "output": "Once upon "}
    wanted |= {"usage": {"input_tokens": 1}, "cached": True, "duration_ms": 7, "model": "m"}
    yield "completed", [*events, end], wanted
    yield "nothing comes after it", [*events, end, tape.say("more")], {"output": "Once upon "}
    late_state = told(tape, "run.progress", **STEP)
    yield "no state either", [*events, end, late_state], {"progress": None, "events": 4}
    tape, events = begun()
    end = tape.completed(output="Other")
    wanted = {"output": "Other", "text": "Once upon ", "cached": False, "usage": None}
    yield "completed with another output", [*events, end], wanted | {"finish_reason": None}
    tape, events = begun()
    wanted = {"status": "failed", "error": ERROR, "text": "Once upon ", "output": None}
    yield "failed", [*events, tape.mark("run.failed", **ERROR)], wanted
    lost = told(tape, "run.failed", **ERROR)
    yield "an end without a place", [*events[:3], lost, lost], wanted | {"events": 4}
    tape, events = begun()
    wanted = {"status": "cancelled", "reason": "requested", "output": None}
    yield "cancelled", [*events, tape.mark("run.cancelled", reason="requested")], wanted
    tape, events = begun()
    events += [tape.mark("constructor", text="no"), tape.mark("__proto__"), tape.say("a", 1)]
    yield "an unknown type only counts", events, {"text": "Once upon a", "events": 6}
    tape, events = begun()
    events += [tape.mark("hum", data="hello"), tape.mark("hum", data='{"type": "step"}')]
    events += [tape.mark("message", data="hello"), tape.say("a", 1)]
    wanted = {"text": "Once upon a", "events": 7, "hole": False}
    yield "nor is data of its own an event", events, wanted


CASES = {what: (events, wanted) for what, events, wanted in cases()}

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
  const real = raw.map((event) => new MessageEvent("message", event));
  const named = raw.map((event, at) => new MessageEvent(events[at][1].type, event));
  done([all(parsed), all(raw), all(real), all(named)]);
}).catch((error) => done(String(error)));
"""


@pytest.mark.parametrize("case", CASES)
def test_fold(driver: Chrome, home: Stage, case: str) -> None:
    events, expected = CASES[case]
    result = driver.execute_async_script(FOLD, events)
    assert isinstance(result, list), result
    parsed, raw, real, named = result
    assert parsed == raw == real == named
    assert {name: parsed[name] for name in expected} == expected


def sse(*events: tuple[str, Event]) -> str:
    frames = (
        (f"id: {id_}\n" if id_ else "") + f"data: {json.dumps(fields)}\n\n"
        for id_, fields in events
    )
    return "retry: 10\n" + "".join(frames)


FOLLOW = """
const [client, url, from, renew, done] = arguments;
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
  const again = from && {state: handle.state};
  const renewing = window.renewing ?? (() => renew);
  window.handle = follow(url, told, {...again, ...(renew && {renew: renewing})});
  done(null);
}).catch((error) => done(String(error)));
"""


def follow(
    driver: Chrome,
    url: str = f"{EVENTS}?token=T",
    client: str = "/client.js",
    again: bool = False,
    renew: str = "",
) -> None:
    """Start following; `again` goes on from the handle before, `renew` is where to go on once
    the token has ended."""
    assert driver.execute_async_script(FOLLOW, client, url, again, renew) is None


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
    tape, first = begun()
    seen = tape.here
    later = [tape.say("a "), tape.say("time"), tape.completed()]
    home.answers = [(200, sse(*first)), (200, sse(*first[1:], *later))]
    follow(driver)
    done = until(driver, status="completed")
    assert (done["text"], done["output"], done["events"]) == ("Once upon a time",) * 2 + (6,)
    assert home.asked == [(None, None, "T"), (seen, None, "T")]
    assert is_closed(driver) and not done["closed"]
    # Repeats are not told, and a lost connection is.
    assert driver.execute_script("return types.length") == 6
    assert False in driver.execute_script("return states.map((state) => state.connected)")


def test_a_response_that_ends_empty_is_asked_again(driver: Chrome, home: Stage) -> None:
    tape = Tape()
    home.answers = [(200, "retry: 10\n"), (200, sse(tape.started(), tape.completed()))]
    follow(driver)
    until(driver, status="completed")
    assert len(home.asked) == 2


def test_states_have_no_id(driver: Chrome, home: Stage) -> None:
    tape, events = begun()
    progress = ("", event("run.progress", **STEP))
    queued = ("", event("run.queued"))
    later = [tape.say("time"), tape.completed()]
    home.answers = [(200, sse(queued, *events, progress, *later))]
    follow(driver)
    done = until(driver, status="completed")
    assert (done["text"], done["progress"], done["events"]) == ("Once upon time", STEP, 7)
    assert len(home.asked) == 1


def test_behind_a_hole_it_connects_again(driver: Chrome, home: Stage) -> None:
    tape, first = begun()
    seen = tape.here
    lost, after, end = tape.say("ä "), tape.say("time"), tape.completed()
    home.answers = [
        (200, sse(*first, after, end)),
        (200, sse(after, end)),
        (200, sse(lost, after, end)),
    ]
    follow(driver)
    done = until(driver, status="completed")
    assert (done["text"], done["hole"], done["events"]) == ("Once upon ä time", False, 6)
    # Its own reconnection asks by query: each is a new EventSource.
    assert home.asked == [(None, None, "T"), (None, seen, "T"), (None, seen, "T")]
    assert is_closed(driver)


def test_a_hole_is_not_mended_once_it_is_closed(driver: Chrome, home: Stage) -> None:
    tape, first = begun()
    tape.say("lost")
    home.answers = [(200, sse(*first, tape.say("late")))]
    follow(driver)
    await_true(
        driver,
        lambda: driver.execute_script("return sources.length") and is_closed(driver),
        "it has seen the hole",
    )
    driver.execute_script("handle.close(); window.opened = sources.length")
    driver.execute_async_script("setTimeout(arguments[0], 600)")
    assert driver.execute_script("return sources.length === opened")
    assert len(home.asked) == 1


def test_an_event_with_data_of_its_own_is_passed_over(driver: Chrome, home: Stage) -> None:
    tape, events = begun()
    for type_, data in (("hum", "hello"), ("message", '{"type": "step", "name": "no"}')):
        events.append(tape.mark(type_, data=data))
    home.answers = [(200, sse(*events, tape.say("time", 1), tape.completed()))]
    follow(driver)
    done = until(driver, status="completed")
    assert (done["text"], done["events"], len(done["parts"])) == ("Once upon time", 7, 2)
    assert len(home.asked) == 1


def test_a_restart_is_followed(driver: Chrome, home: Stage) -> None:
    (_, first), two = begun(), Tape(2)
    again = two.restarted()
    home.answers = [
        (200, sse(*first, again)),
        (200, sse(two.started(), two.say("Anew"), two.mark("run.failed", **ERROR))),
    ]
    follow(driver)
    done = until(driver, status="failed")
    assert (done["text"], done["attempt"], done["error"]) == ("Anew", 2, ERROR)
    assert home.asked[1].header == "3fa29c-2-0"


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_run_that_is_gone_says_so(driver: Chrome, home: Stage, status: int) -> None:
    home.answers = [(200, sse(*begun()[1])), (status, "")]
    home.record = (status, {"title": "It is gone.", "code": "run_expired"})
    follow(driver)
    gone = until(driver, closed=True)
    assert (gone["status"], gone["text"], gone["connected"]) == ("running", "Once upon ", False)
    told = {"status": status, "title": "It is gone.", "code": "run_expired"}
    assert gone["problem"].items() >= told.items()
    assert (len(home.asked), home.looks) == (2, 1)


ENDED = {"output": "Once more.", "usage": None, "model": "m", "error": None}


@pytest.mark.parametrize("status", [204, 404, 500])
def test_a_stream_that_is_refused_ends_as_its_record(
    driver: Chrome, home: Stage, status: int
) -> None:
    home.answers = [(200, sse(*begun()[1])), (status, "")]
    parts = [text_part(0, "Once more.")]
    record = {"status": "completed", "finish_reason": "stop", "parts": parts, **ENDED}
    home.record = (200, record)
    follow(driver)
    done = until(driver, status="completed")
    assert (done["text"], done["output"], done["parts"]) == ("Once more.", "Once more.", parts)
    assert (done["closed"], done["finish_reason"], done["model"]) == (False, "stop", "m")
    assert (len(home.asked), home.looks) == (2, 1)


@pytest.mark.parametrize("record", [(503, {}), (200, {"status": "running"})])
def test_a_stream_that_is_refused_for_now_is_asked_again(
    driver: Chrome, home: Stage, record: tuple[int, Any]
) -> None:
    tape, first = begun()
    seen = tape.here
    rest = sse(tape.say("a time"), tape.completed())
    home.answers = [(200, sse(*first)), (500, ""), (200, rest)]
    home.record = record
    follow(driver)
    assert until(driver, status="completed")["text"] == "Once upon a time"
    assert home.asked[2] == (None, seen, "T")


def test_a_token_that_has_ended_is_renewed(driver: Chrome, home: Stage) -> None:
    tape, first = begun()
    home.answers = [(200, sse(*first)), (401, ""), (200, sse(tape.completed()))]
    home.record = (401, {"title": "It has ended.", "code": "unauthorized"})
    follow(driver, renew=f"{EVENTS}?token=U")
    assert until(driver, status="completed")["text"] == "Once upon "
    assert [asked.token for asked in home.asked] == ["T", "T", "U"]


def test_who_never_gives_another_token_is_asked_again(driver: Chrome, home: Stage) -> None:
    tape, first = begun()
    home.answers = [(200, sse(*first)), (401, ""), (401, ""), (200, sse(tape.completed()))]
    home.record = (401, {"title": "It has ended.", "code": "unauthorized"})
    # As if 25 s were 100 ms; and the first time nobody answers.
    driver.execute_script("window.timed ??= window.setTimeout; window.asks = 0")
    driver.execute_script(
        "window.setTimeout = (act, ms) => timed(act, ms === 25_000 ? 100 : ms);"
        "window.renewing = () => (asks++ ? arguments[0] : new Promise(() => {}))",
        f"{EVENTS}?token=U",
    )
    try:
        follow(driver, renew="window.renewing")
        assert until(driver, status="completed")["text"] == "Once upon "
    finally:
        driver.execute_script("window.setTimeout = timed")
    assert [asked.token for asked in home.asked] == ["T", "T", "T", "U"]


def test_a_connection_that_is_dead_is_noticed(driver: Chrome, home: Stage) -> None:
    """Nobody has said so: a proxy swallows what is sent. A page that is woken asks at once."""
    tape, first = begun()
    home.answers = [(0, sse(*first)), (0, ""), (200, sse(tape.say("a time"), tape.completed()))]
    follow(driver)
    until(driver, id=first[-1][0], connected=True)
    await_true(driver, lambda: len(home.asked) == 2, "it has connected again", timeout_s=30)
    assert state(driver)["text"] == "Once upon "
    # As behind a sleep: its clock has gone on, its timers have not.
    driver.execute_script("const now = Date.now; Date.now = () => now() + 60_000")
    driver.execute_script("dispatchEvent(new Event('online'))")
    assert until(driver, status="completed")["text"] == "Once upon a time"
    assert len(home.asked) == 3


def test_behind_a_silence_who_does_not_answer_is_given_less_time(
    driver: Chrome, home: Stage
) -> None:
    """What a proxy has swallowed is also what the browser kept open, and asks over next."""
    tape, first = begun()
    rest = sse(tape.say("a time"), tape.completed())
    home.answers = [(0, sse(*first)), (-1, ""), (-1, ""), (200, rest)]
    # As if 25 s were 200 ms.
    driver.execute_script("window.waits = []; window.timed ??= window.setTimeout")
    driver.execute_script(
        "window.setTimeout = (act, ms, ...more) => "
        "(waits.push(ms), timed(act, ms === 25_000 ? 200 : ms, ...more))"
    )
    try:
        follow(driver)
        assert until(driver, status="completed")["text"] == "Once upon a time"
        waits = driver.execute_script("return waits")
        assert waits[0] == waits[-1] == 25_000
        assert [ms for ms in waits if ms < 25_000] == [1000, 2000, 4000]
        still = driver.execute_script("return sources.map((source) => source.readyState)")
        assert still == [2] * 4
    finally:
        driver.execute_script("window.setTimeout = timed")


def test_where_nobody_answers_it_knocks_less_often(driver: Chrome, home: Stage) -> None:
    with stage() as other:
        url = f"{other.url}{EVENTS}"
    driver.execute_script("window.waits = []; window.timed ??= window.setTimeout")
    driver.execute_script(
        "window.setTimeout = (act, ms) => (waits.push(ms), timed(act, Math.min(ms, 50)))"
    )
    follow(driver, url)
    await_true(
        driver,
        lambda: driver.execute_script("return waits.some((ms) => ms > 10_000 && ms < 25_000)"),
        "it waits for long",
    )
    driver.execute_script("handle.close(); window.setTimeout = timed")
    assert state(driver)["closed"] is False


def test_drop_and_resume(driver: Chrome, home: Stage) -> None:
    tape, first = begun()
    seen = tape.here
    home.answers = [(200, sse(*first).replace("retry: 10", "retry: 600000"))]
    follow(driver)
    until(driver, id=seen)
    driver.execute_script(
        "handle.close(); window.old = window.states; window.seen = old.length"
    )
    second = tape.say("a ")
    home.answers = [
        (200, sse(second)),
        (200, sse(tape.say("time"), tape.mark("run.cancelled", reason="requested"))),
    ]
    follow(driver, again=True)
    done = until(driver, status="cancelled")
    assert (done["text"], done["events"]) == ("Once upon a time", 6)
    # The first connection asks by query; its own reconnection by header, which beats it.
    assert home.asked[1:] == [(None, seen, "T"), (second[0], seen, "T")]
    assert driver.execute_script("return old.length === seen")


def test_it_works_from_another_origin(driver: Chrome, home: Stage) -> None:
    with stage() as other:
        tape, events = begun()
        other.answers = [(200, sse(*events, tape.completed()))]
        follow(driver, f"{other.url}{EVENTS}", client=f"{other.url}client.js")
        assert until(driver, status="completed")["text"] == "Once upon "
    assert not home.asked


def test_a_record_is_shown_as_its_run_was(driver: Chrome, home: Stage) -> None:
    parts = [
        text_part(0, "hm", "reasoning"),
        text_part(1, "a"),
        TOOL,
        {"type": "source", **SOURCE},
        {"type": "tool.result", "id": "t1", "error": "no"},
        text_part(2, "b", continues=1),
    ]
    found = driver.execute_async_script(
        "const [parts, done] = arguments; import('/client.js')"
        ".then(({partsOf}) => done([partsOf(parts), partsOf(undefined).parts]));",
        parts,
    )
    tool = {**TOOL, "error": "no"}
    assert found == [
        {
            "text": "ab",
            "parts": [parts[0], parts[1], tool, parts[3], parts[5]],
            "tools": [tool],
            "sources": [parts[3]],
        },
        [],
    ]


MANY = """
const [done] = arguments;
import("/client.js").then(({fold, initial}) => {
  const kinds = ["message.delta", "reasoning.delta"];
  const run = (deltas, opened) => {
    let state = initial;
    const began = performance.now();
    for (let i = 0, at = 0; i < deltas; i++) {
      const part = Math.min(i, opened - 1);
      at += i < opened ? 7 : 6;
      const fields = {type: kinds[part % 2], part, text: "word, "};
      state = fold(state, {...fields, lastEventId: `3fa29c-1-${at}`});
    }
    if (state.hole || state.parts.length !== opened) throw Error(JSON.stringify(state));
    return performance.now() - began;
  };
  run(10000, 1000);
  done([run(10000, 1000), run(40000, 1000)]);
}).catch((error) => done(String(error)));
"""


def test_many_deltas_cost_no_more_each(driver: Chrome, home: Stage) -> None:
    driver.set_script_timeout(60)
    found = driver.execute_async_script(MANY)
    assert isinstance(found, list), found
    few, many = found
    # Four times as many: sixteen times as long where each costs what were before it.
    assert many < 9 * few and few < 10_000, found


WRONG = """
const [base, done] = arguments;
import("/client.js").then(async ({ask, cancel, conversation}) => {
  const circular = {agent: "study", input: "hi"};
  circular.options = circular;
  const hi = {agent: "study", input: "hi"};
  const code = (asked) => asked.then(() => "none", (error) => error.code ?? String(error));
  const began = Date.now();
  const codes = [
    await code(ask(base, hi, {key: "\\u043a\\u043b\\u044e\\u0447"})),
    await code(ask(base, circular)),
    await code(ask(base, {...hi, options: {n: 1n}})),
    await code(conversation(base.replace("//", "//user:secret@"), "c")),
    await code(cancel(base, {key: "a\\nb"})),
    await code(conversation(base, "c")),
  ];
  done([codes, Date.now() - began]);
}).catch((error) => done([[String(error)], 0]));
"""


def test_what_cannot_be_sent_is_no_outage(driver: Chrome, home: Stage) -> None:
    """Nor is another server that has a page for every address."""
    codes, took_ms = driver.execute_async_script(WRONG, home.url)
    assert codes == ["client"] * 5 + ["not_plateau"]
    assert took_ms < 1000
