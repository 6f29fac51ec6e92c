"""`plateau ask`: agents run right here, and runs followed over connections that drop."""

from __future__ import annotations

import argparse
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.cli import ask, main
from plateau_sse.cli.follow import Client, Unreachable
from plateau_sse.cli.screen import Screen

WAIT_S = 10.0
Event = dict[str, Any]
Step = tuple[str, Event]
Out = pytest.CaptureFixture[str]


def started(at: str = "1-1") -> Step:
    return at, {"type": "run.started", "run": "r1", "agent": "study", "attempt": 1}


def delta(at: str, text: str) -> Step:
    return at, {"type": "message.delta", "text": text}


def completed(at: str, **fields: Any) -> Step:
    return at, {"type": "run.completed", "usage": None, "cached": False, **fields}


def snapshot(at: str, text: str, status: str = "running") -> Step:
    return at, {"type": "run.snapshot", "status": status, "text": text, "missed": 2}


@dataclass
class FakePlateau:
    """Answers each GET of the events with the next of `connections`: a list of events (the
    connection then drops), a status, or None (open and silent until the test is over)."""

    url: str = ""
    connections: list[list[Step] | int | None] = field(default_factory=list)
    created: tuple[int, Event] = (
        202,
        {
            "id": "r1",
            "events_url": "/v1/runs/r1/events?token=t",
            "cancel_url": "/v1/cancel?t=1",
        },
    )
    record: Event = field(default_factory=dict)
    posted: list[tuple[str, Event, dict[str, str]]] = field(default_factory=list)
    last_ids: list[str | None] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


def _handler(plateau: FakePlateau) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            plateau.posted.append((self.path, json.loads(body or b"{}"), dict(self.headers)))
            if self.path.startswith("/v1/cancel"):
                plateau.cancelled.set()
                return self._answer(200, {})
            status, document = plateau.created
            self._answer(status, document)

        def do_GET(self) -> None:
            if "/events" not in self.path:
                return self._answer(200, plateau.record)
            plateau.last_ids.append(self.headers.get("Last-Event-ID"))
            step = plateau.connections.pop(0) if plateau.connections else 404
            if isinstance(step, int):
                return self._answer(step, {"code": "run_expired", "detail": "It is gone."})
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"retry: 10\n: ping\n")
            for at, event in step or []:
                self.wfile.write(f"id: {at}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
            if step is None:
                plateau.over.wait(WAIT_S)

        def _answer(self, status: int, document: Event) -> None:
            body = b"" if status == 204 else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/problem+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Standard error is what the tests look at."""

    return Handler


@contextmanager
def fake_plateau(*connections: list[Step] | int | None) -> Iterator[FakePlateau]:
    plateau = FakePlateau(connections=list(connections))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(plateau))
    plateau.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield plateau
    finally:
        plateau.over.set()
        server.shutdown()
        server.server_close()
        thread.join(WAIT_S)


def ask_it(plateau: FakePlateau, *args: str) -> int:
    return main(["ask", "a text", "--url", plateau.url, "--retry-for", "5", *args])


def test_the_answer_survives_connections_that_drop(capsys: Out) -> None:
    first = [started(), delta("1-2", "one "), delta("1-3", "two ")]
    # An event that was read already comes again: it must not be printed twice.
    second = [delta("1-3", "two "), delta("1-4", "three ")]
    third = [delta("1-5", "four"), completed("1-6")]
    with fake_plateau(first, [], second, 503, third) as plateau:
        assert ask_it(plateau) == 0
        assert plateau.last_ids == [None, "1-3", "1-3", "1-4", "1-4"]
    shown = capsys.readouterr()
    assert shown.out == "one two three four\n"
    assert "reconnecting" in shown.err


def test_a_snapshot_prints_only_what_is_missing(capsys: Out) -> None:
    with fake_plateau(
        [delta("1-2", "one ")],
        [snapshot("1-9", "one two "), delta("1-10", "three"), completed("1-11")],
    ) as plateau:
        assert ask_it(plateau) == 0
    assert capsys.readouterr().out == "one two three\n"


def test_a_snapshot_that_says_something_else_is_announced(capsys: Out) -> None:
    # The store failed over to an older copy: the id lies behind what was read.
    with fake_plateau(
        [delta("1-5", "one ")], [snapshot("1-2", "uno "), delta("1-3", "dos"), completed("1-4")]
    ) as plateau:
        assert ask_it(plateau) == 0
    shown = capsys.readouterr()
    assert shown.out == "one \nuno dos\n"
    assert "restarted" in shown.err


@pytest.mark.parametrize(
    ("texts", "out"),
    [
        (("one ", "two"), "one two\n"),
        (("uno ", "dos"), "one \nuno dos\n"),
        (("o",), "one \no\n"),
    ],
)
def test_a_second_attempt_repeats_only_what_differs(
    capsys: Out, texts: tuple[str, ...], out: str
) -> None:
    again = ("2-1", {"type": "run.restarted", "attempt": 2, "reason": "runner_lost"})
    deltas = [delta(f"2-{number}", text) for number, text in enumerate(texts, start=2)]
    with fake_plateau([delta("1-2", "one "), again, *deltas, completed("2-9")]) as plateau:
        assert ask_it(plateau) == 0
    shown = capsys.readouterr()
    assert shown.out == out
    assert "attempt 2: runner_lost" in shown.err


def test_an_output_of_its_own_comes_under_a_blank_line(capsys: Out) -> None:
    with fake_plateau([delta("1-1", "draft"), completed("1-2", output="final")]) as plateau:
        assert ask_it(plateau) == 0
    assert capsys.readouterr().out == "draft\n\nfinal\n"


@pytest.mark.parametrize(
    ("record", "code", "said"),
    [
        ({"status": "completed", "output": "one two"}, 0, ""),
        ({"status": "failed", "error": {"code": "timeout", "message": "slow"}}, 1, "(timeout)"),
    ],
)
def test_an_end_that_was_missed_is_read_from_the_record(
    capsys: Out, record: Event, code: int, said: str
) -> None:
    with fake_plateau([delta("1-2", "one "), delta("1-3", "two")], 204) as plateau:
        plateau.record = record
        assert ask_it(plateau) == code
    shown = capsys.readouterr()
    assert shown.out == "one two\n"
    assert said in shown.err


def test_what_is_asked_for_reaches_the_server(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-secret-key\n")
    with fake_plateau([completed("1-1")]) as plateau:
        options = ("--task", "quiz", "--option", "length=3", "--option", "tone=dry")
        how = ("--refresh", "--conversation", "c1", "--key-file", str(key))
        assert ask_it(plateau, *options, *how) == 0
        path, body, headers = plateau.posted[0]
    assert path == "/v1/runs"
    assert headers["Authorization"] == "Bearer a-secret-key"
    assert body == {
        "agent": "study",
        "input": "a text",
        "options": {"task": "quiz", "length": 3, "tone": "dry"},
        "cache": {"mode": "refresh"},
        "conversation_id": "c1",
    }


def test_a_cached_answer_is_printed_at_once(capsys: Out) -> None:
    with fake_plateau() as plateau:
        plateau.created = (200, {"id": "c1", "events_url": "/e", "output": "known"})
        assert ask_it(plateau) == 0
    assert capsys.readouterr().out == "known\n"


def test_json_prints_the_events(capsys: Out) -> None:
    events = [started(), delta("1-2", "é"), completed("1-3")]
    with fake_plateau(events) as plateau:
        assert ask_it(plateau, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [event for _, event in events]


@pytest.mark.parametrize(
    ("created", "said"),
    [
        (
            (422, {"code": "unknown_agent", "detail": "There is no agent x."}),
            "no agent x. (unk",
        ),
        ((502, {}), "(status 502)"),
        ((200, {"hello": 1}), "does not answer as Plateau does"),
    ],
)
def test_a_problem_is_told(capsys: Out, created: tuple[int, Event], said: str) -> None:
    with fake_plateau() as plateau:
        plateau.created = created
        assert ask_it(plateau) == 1
    assert said in capsys.readouterr().err


def test_a_failed_run_and_a_cancelled_one_end_with_1(capsys: Out) -> None:
    failed = {"type": "run.failed", "code": "timeout", "message": "too slow", "retryable": True}
    with fake_plateau([delta("1-1", "on"), ("1-2", failed)]) as plateau:
        assert ask_it(plateau) == 1
    assert "failed: too slow (timeout)" in capsys.readouterr().err
    with fake_plateau([("1-1", {"type": "run.cancelled", "reason": "requested"})]) as plateau:
        assert ask_it(plateau) == 1
    assert "cancelled: requested" in capsys.readouterr().err


def test_a_run_that_is_gone_is_not_waited_for(capsys: Out) -> None:
    with fake_plateau(410) as plateau:
        assert ask_it(plateau) == 1
    assert "It is gone. (run_expired)" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_3(capsys: Out) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["ask", "text", "--url", url]) == 3
    assert "Could not reach" in capsys.readouterr().err


def test_a_server_that_stays_away_is_given_up(capsys: Out) -> None:
    with fake_plateau([delta("1-1", "on")], *[503] * 100) as plateau:
        assert ask_it(plateau, "--retry-for", "0.2") == 3
    assert "Gave up on" in capsys.readouterr().err


def test_silence_is_a_lost_connection() -> None:
    with (
        fake_plateau(None, [completed("1-1")]) as plateau,
        httpx.Client(timeout=0.1, trust_env=False) as http,
    ):
        notices: list[str] = []
        client = Client(plateau.url, http, notice=notices.append)
        assert [json.loads(event)["type"] for event in client.follow("/events")] == [
            "run.completed"
        ]
    assert "ReadTimeout" in notices[0]


def test_a_connection_that_only_opens_is_no_progress() -> None:
    with fake_plateau(*[500] * 100) as plateau, httpx.Client(trust_env=False) as http:
        with pytest.raises(Unreachable):
            list(Client(plateau.url, http, retry_for_s=0.1).follow("/events"))


COMMAND = (
    sys.executable,
    "-c",
    "import sys; from plateau_sse.cli import main; sys.exit(main())",
)


def test_ctrl_c_cancels_the_run() -> None:
    with fake_plateau([delta("1-1", "begun ")], None) as plateau:
        command = [*COMMAND, "ask", "text", "--url", plateau.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            assert asked.stdout is not None
            assert asked.stdout.read(6) == b"begun "
            asked.send_signal(signal.SIGINT)
            _, err = asked.communicate(timeout=WAIT_S)
        assert asked.returncode == 130, err
        assert plateau.cancelled.is_set()


def test_text_comes_through_a_pipe_too() -> None:
    command = [*COMMAND, "ask", "--local", "study", "--option", "pace_ms=0", "--quiet"]
    done = subprocess.run(
        command, input="Größe zählt.".encode(), capture_output=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "**Größe zählt.**" in done.stdout.decode()


def test_a_reader_that_has_had_enough_is_no_fault() -> None:
    command = [*COMMAND, "ask", "--local", "study", "--quiet", "A text. " * 50]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        assert asked.stdout.read(2) == b"##"
        asked.stdout.close()
        assert asked.stderr.read() == b""
        assert asked.wait(WAIT_S) == 1


AGENTS = """
from plateau_sse.agents import AgentError, Finish, Output, Progress, ToolCall, ToolResult, Usage

async def notes(run):
    yield Progress(1, 2, "reading\\x1b[2J", "reader")
    yield run.input.upper()
    yield ToolCall("t", "look", {"a": 1})
    yield ToolResult("t", [1])
    yield Usage(1, 2)
    yield Output(run.options["tone"])
    yield Finish(run.options.get("end", "stop"))

def plain(run):
    yield "a"
    yield "b\\n"

def refuses(run):
    yield "a"
    raise AgentError("invalid_options", "not like this")

def breaks(run):
    yield "a"
    raise ValueError("oh")

def nonsense(run):
    yield 3

def nothing(run):
    return None
"""


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    (tmp_path / "agents_for_ask.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield lambda name, *args: main(["ask", "text", "--local", f"agents_for_ask:{name}", *args])
    sys.modules.pop("agents_for_ask", None)


def test_an_agent_runs_right_here(local: Callable[..., int], capsys: Out) -> None:
    assert local("notes", "--option", "tone=dry") == 0
    shown = capsys.readouterr()
    assert shown.out == "TEXT\n\ndry\n"
    assert shown.err == "[1/2] reader: reading [2J\n"
    assert local("plain") == 0
    assert capsys.readouterr().out == "ab\n"


def test_its_events_are_those_of_a_run(local: Callable[..., int], capsys: Out) -> None:
    assert local("notes", "--option", "tone=dry", "--option", "end=soon", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["type"] for event in events] == [
        "run.started",
        "run.progress",
        "message.delta",
        "tool.call",
        "tool.result",
        "run.completed",
    ]
    assert events[1]["percentage"] == 50
    assert events[-1]["usage"] == {"input_tokens": 1, "output_tokens": 2}
    assert (events[-1]["output"], events[-1]["finish_reason"]) == ("dry", "other")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("refuses", "failed: not like this (invalid_options)"),
        ("breaks", "failed: ValueError: oh (agent_error)"),
        ("nonsense", "yielded a int"),
        ("nothing", "gave a NoneType"),
    ],
)
def test_how_it_failed_is_told(
    local: Callable[..., int], capsys: Out, name: str, said: str
) -> None:
    assert local(name) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["ask", "text", "--local", "no_such_module:x"],
        ["ask", " "],
        ["ask", "--file", "/no/such/file"],
        ["ask", "text", "--file", "x"],
        ["ask", "text", "--option", "x"],
        ["ask", "text", "--key-file", "/no/such/file"],
    ],
)
def test_wrong_usage_is_2(capsys: Out, args: list[str]) -> None:
    assert main(args) == 2
    assert capsys.readouterr().err.startswith("plateau ask: ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_one_line_and_leaves_the_answer_alone() -> None:
    terminal = Terminal()
    screen = Screen(terminal, terminal, events=False, quiet=False)
    progress = {"type": "run.progress", "step": 1, "total_steps": 2, "message": "reading"}
    for event in (progress, {"type": "message.delta", "text": "one"}, progress):
        screen.show(json.dumps(event))
    screen.notice("away")
    screen.show(json.dumps({"type": "message.delta", "text": " two"}))
    screen.show(json.dumps({"type": "run.completed"}))
    clear = "\r\x1b[K"
    assert terminal.getvalue() == f"{clear}[1/2] reading{clear}one\naway\n two\n"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("stop", ""),
        (None, ""),
        ("length", "cut off: the limit of its length was reached (length)\n"),
        ("content_filter", "cut off by a filter of content (content_filter)\n"),
        ("one of another release", ""),
    ],
)
def test_an_answer_that_is_cut_off_is_said_to_be(reason: str | None, said: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err, events=False, quiet=True)
    screen.show(json.dumps({"type": "message.delta", "text": "half"}))
    screen.show(json.dumps({"type": "run.completed", "finish_reason": reason}))
    assert (out.getvalue(), err.getvalue()) == ("half\n", said)


def test_the_parser_is_a_part_of_another() -> None:
    parser = argparse.ArgumentParser()
    ask.add_parser(parser.add_subparsers())
    args = parser.parse_args(["ask", "some", "words"])
    assert args.run is ask.run
    assert args.text == ["some", "words"]
