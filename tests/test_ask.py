"""`plateau ask`: runs followed over connections that drop, and what is shown of them."""

from __future__ import annotations

import argparse
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.cli import ask, main
from plateau_sse.cli.screen import Screen
from plateau_sse.client import Unreachable, follow, ways
from tests.handmade import Event, Tape

WAIT_S = 10.0
# An event's place, and what it is: what is no object stands there as it is.
Step = tuple[str, Any]
Out = pytest.CaptureFixture[str]


def tape_of(*texts: str, **end: Any) -> list[Step]:
    tape = Tape()
    return [tape.started(), *map(tape.say, texts), tape.completed(**end)]


def state(kind: str, **fields: Any) -> Step:
    return "", {"type": kind, **fields}


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
                place = f"id: {at}\n" if at else ""
                data = event if isinstance(event, str) else json.dumps(event)
                self.wfile.write(f"{place}data: {data}\n\n".encode())
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
    tape = Tape()
    first = [tape.started(), tape.say("one "), tape.say("two ")]
    seen = tape.here
    # An event that was read already comes again: it must not be printed twice.
    second = [first[-1], tape.say("three ")]
    later = tape.here
    third = [tape.say("four"), tape.completed()]
    with fake_plateau(first, [], second, 503, third) as plateau:
        assert ask_it(plateau) == 0
        assert plateau.last_ids == [None, seen, seen, later, later]
    shown = capsys.readouterr()
    assert shown.out == "one two three four\n"
    assert "reconnecting" in shown.err


def test_a_hole_is_not_read_over(capsys: Out) -> None:
    tape = Tape()
    first = [tape.started(), tape.say("one ")]
    seen = tape.here
    lost, after, end = tape.say("twö "), tape.say("three"), tape.completed()
    with fake_plateau([*first, after], [lost, end], [after, end]) as plateau:
        assert ask_it(plateau) == 0
        assert plateau.last_ids == [None, seen, lost[0]]
    shown = capsys.readouterr()
    assert shown.out == "one twö three\n"
    assert shown.err.count("Hole: something is missing before") == 2


def test_a_hole_that_stays_is_given_up(capsys: Out) -> None:
    tape = Tape()
    first = [tape.started(), tape.say("one ")]
    tape.say("lost")
    after = [tape.say("three")]
    with fake_plateau([*first, *after], *[after] * 100) as plateau:
        assert ask_it(plateau, "--retry-for", "0.2") == 3
    shown = capsys.readouterr()
    assert shown.out.startswith("one ") and "three" not in shown.out
    assert "Gave up on" in shown.err


def test_states_take_no_place(capsys: Out) -> None:
    tape = Tape()
    progress = state("run.progress", step=1, total_steps=2, message="reading")
    begun = [state("run.queued"), tape.started(), tape.say("é"), progress]
    with fake_plateau([*begun, tape.say("\U0001f600"), progress, tape.completed()]) as plateau:
        assert ask_it(plateau) == 0
        assert len(plateau.last_ids) == 1
    shown = capsys.readouterr()
    assert shown.out == "é\U0001f600\n"
    assert "[1/2] reading\n" in shown.err


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
    tape, again = Tape(), Tape(2)
    begun = [tape.started(), tape.say("one "), again.restarted(), again.started()]
    deltas = [again.say(text) for text in texts]
    with fake_plateau([*begun, *deltas, again.completed()]) as plateau:
        assert ask_it(plateau) == 0
        assert len(plateau.last_ids) == 1
    shown = capsys.readouterr()
    assert shown.out == out
    assert "attempt 2: attempt" in shown.err


def test_a_store_that_has_gone_back_is_read_anew(capsys: Out) -> None:
    tape, again = Tape(), Tape()
    begun = [tape.started(), tape.say("one "), tape.say("two ")]
    back = [again.restarted("rewound"), again.started(), again.say("uno "), again.completed()]
    with fake_plateau(begun, back) as plateau:
        assert ask_it(plateau) == 0
    shown = capsys.readouterr()
    assert shown.out == "one two \nuno \n"
    assert "rewound" in shown.err


def test_what_an_agent_does_on_the_way_goes_to_standard_error(capsys: Out) -> None:
    tape = Tape()
    events = [
        tape.started(),
        tape.say("Look it up.\nTwice. \x1b[2J", 0, "reasoning"),
        state("tool.delta", id="c1", name="find", arguments='{"q"'),
        tape.mark("tool.call", id="c1", name="find", arguments={"q": "harbour"}),
        state("tool.result", id="c1", output="soon", preliminary=True),
        tape.mark("tool.result", id="c1", output=["page 7"]),
        tape.mark("tool.call", id="c2", name="weather", arguments="{}", client=True),
        tape.mark("tool.result", id="c2", error="the station\nis silent"),
        tape.mark("source", id="s1", url="https://harbour.example/7", title="Page 7"),
        tape.mark("step", name="answer"),
        tape.mark("input.request", id="i", kind="approval", message="Go on?"),
        tape.say("The harbour.", 1),
        tape.completed(),
    ]
    with fake_plateau(events) as plateau:
        assert ask_it(plateau) == 0
    shown = capsys.readouterr()
    assert shown.out == "The harbour.\n"
    assert shown.err.splitlines() == [
        "Look it up.",
        "Twice.  [2J",
        'find({"q": "harbour"})',
        'find: ["page 7"]',
        "weather({}), for you to run",
        "weather failed: the station is silent",
        "step: answer",
        "asks (approval): Go on?",
        "source: Page 7: https://harbour.example/7",
    ]
    with fake_plateau(events) as plateau:
        assert ask_it(plateau, "--quiet") == 0
    assert capsys.readouterr().err == "asks (approval): Go on?\n"
    with fake_plateau(events) as plateau:
        assert ask_it(plateau, "--json") == 0
    shown = capsys.readouterr()
    assert [json.loads(line) for line in shown.out.splitlines()] == [it for _, it in events]
    assert shown.err == ""


def test_an_output_of_its_own_comes_under_a_blank_line(capsys: Out) -> None:
    with fake_plateau(tape_of("draft", output="final")) as plateau:
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
    with fake_plateau(tape_of("one ", "two")[:-1], 204) as plateau:
        plateau.record = record
        assert ask_it(plateau) == code
    shown = capsys.readouterr()
    assert shown.out == "one two\n"
    assert said in shown.err


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"status": "completed", "output": "one", "cached": False, "duration_ms": 7}
            | {"finish_reason": "stop", "usage": None, "model": "m", "error": None},
            {"type": "run.completed", "finish_reason": "stop", "usage": None, "model": "m"}
            | {"cached": False, "duration_ms": 7, "output": "one"},
        ),
        (
            {"status": "cancelled"}
            | {"error": {"code": "cancelled", "message": "asked", "retryable": False}},
            {"type": "run.cancelled", "reason": "asked"},
        ),
        (
            {"status": "failed"}
            | {"error": {"code": "timeout", "message": "slow", "retryable": True}},
            {"type": "run.failed", "code": "timeout", "message": "slow", "retryable": True},
        ),
    ],
)
def test_an_end_from_the_record_is_as_the_stream_told_it(
    capsys: Out, record: Event, expected: Event
) -> None:
    with fake_plateau(204) as plateau:
        plateau.record = record
        ask_it(plateau, "--json")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == expected


@pytest.mark.parametrize("junk", ["junk", "", "[1]", "5", "null", "[" * 10_000, '{"type": []}'])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_is_no_event_is_passed_over(capsys: Out, junk: str, options: list[str]) -> None:
    first, *rest = tape_of("one ", "two")
    with fake_plateau([first, ("", junk), *rest]) as plateau:
        assert ask_it(plateau, *options) == 0
    shown = capsys.readouterr()
    told = [json.loads(line).get("text", "") for line in shown.out.splitlines() if options]
    assert shown.out == "one two\n" or "".join(map(str, told)) == "one two"


def test_what_is_asked_for_reaches_the_server(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a-secret-key\n")
    with fake_plateau(tape_of()) as plateau:
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


def test_a_file_is_the_same_text_however_its_lines_end(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_bytes(b"one\r\ntwo\rthree\n")
    with fake_plateau(tape_of()) as plateau:
        assert main(["ask", "--file", str(file), "--url", plateau.url]) == 0
        _, body, _ = plateau.posted[0]
    assert body["input"] == "one\ntwo\nthree\n"


def test_a_cached_answer_is_printed_at_once(capsys: Out) -> None:
    with fake_plateau() as plateau:
        plateau.created = (200, {"id": "c1", "events_url": "/e", "output": "known"})
        assert ask_it(plateau) == 0
        assert capsys.readouterr() == ("known\n", "from the cache\n")
        parts = [{"type": "source", "id": "s", "media_type": "text/plain", "filename": "a.txt"}]
        plateau.created[1]["parts"] = parts
        assert ask_it(plateau) == 0
    assert capsys.readouterr() == ("known\n", "from the cache\nsource: a.txt\n")


def test_json_prints_the_events(capsys: Out) -> None:
    events = tape_of("é")
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
    with fake_plateau([*tape_of("on")[:-1], ("", failed)]) as plateau:
        assert ask_it(plateau) == 1
    assert "failed: too slow (timeout)" in capsys.readouterr().err
    with fake_plateau([Tape().mark("run.cancelled", reason="requested")]) as plateau:
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


def test_a_port_that_is_none_is_told(capsys: Out) -> None:
    for way in ((), ("--via", "chat")):
        assert main(["ask", "text", "--url", "http://127.0.0.1:99999", *way]) == 3
        assert "is no address: a port is at most 65535" in capsys.readouterr().err


def test_a_server_that_stays_away_is_given_up(capsys: Out) -> None:
    with fake_plateau(tape_of("on")[:-1], *[503] * 100) as plateau:
        assert ask_it(plateau, "--retry-for", "0.2") == 3
    assert "Gave up on" in capsys.readouterr().err


def test_silence_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "SILENCE_S", 0.1)
    notices: list[str] = []
    with fake_plateau(None, [Tape().completed()]) as plateau:
        stream = follow(f"{plateau.url}/events", notice=notices.append)
        assert [event["type"] for event in stream] == ["run.completed"]
    assert "ReadTimeout" in notices[0]


def test_a_connection_that_only_opens_is_no_progress() -> None:
    with fake_plateau(*[500] * 100) as plateau:
        with pytest.raises(Unreachable):
            list(follow(f"{plateau.url}/events", retry_for_s=0.1))


COMMAND = (
    sys.executable,
    "-c",
    "import sys; from plateau_sse.cli import main; sys.exit(main())",
)


def test_ctrl_c_cancels_the_run() -> None:
    with fake_plateau(tape_of("begun ")[:-1], None) as plateau:
        command = [*COMMAND, "ask", "text", "--url", plateau.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            assert asked.stdout is not None
            assert asked.stdout.read(6) == b"begun "
            asked.send_signal(signal.SIGINT)
            _, err = asked.communicate(timeout=WAIT_S)
        assert asked.returncode == 130, err
        assert plateau.cancelled.is_set()


def test_ctrl_c_does_not_wait_for_a_service_that_is_frozen() -> None:
    with fake_plateau(tape_of("begun ")[:-1], None) as plateau, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        cancel_url = f"http://127.0.0.1:{deaf.getsockname()[1]}/cancel?token=secret"
        status, created = plateau.created
        plateau.created = (status, created | {"cancel_url": cancel_url})
        command = [*COMMAND, "ask", "text", "--url", plateau.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            assert asked.stdout is not None
            assert asked.stdout.read(6) == b"begun "
            asked.send_signal(signal.SIGINT)
            _, err = asked.communicate(timeout=WAIT_S)
    assert asked.returncode == 130, err
    assert b"could not cancel" in err and b"secret" not in err


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


@pytest.mark.parametrize(
    "args",
    [
        ["ask", "text", "--local", "no_such_module:x"],
        ["ask", "text", "--local", "study", "--url", "http://127.0.0.1:8000"],
        ["ask", "text", "--local", "study", "--key", "k"],
        ["ask", " "],
        ["ask", "--file", "/no/such/file"],
        ["ask", "text", "--file", "x"],
        ["ask", "text", "--option", "x"],
        ["ask", "text", "--key-file", "/no/such/file"],
        ["ask", "text", "--key-file", "-"],
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


def test_on_a_terminal_thoughts_are_dim_and_stand_on_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    screen = Screen(terminal, terminal, events=False, quiet=False)
    for kind, text in (("reasoning", "hm"), ("reasoning", "."), ("message", "one")):
        screen.show(json.dumps({"type": f"{kind}.delta", "text": text}))
    screen.show(json.dumps({"type": "reasoning.delta", "text": "so\n"}))
    screen.show(json.dumps({"type": "message.delta", "text": " two"}))
    screen.show(json.dumps({"type": "run.completed"}))
    dim, plain = "\x1b[2m", "\x1b[0m"
    hm, so = f"{dim}hm{plain}{dim}.{plain}\n", f"\n{dim}so\n{plain}"
    assert terminal.getvalue() == f"{hm}one{so} two\n"


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


@pytest.mark.parametrize(
    "args",
    [
        ["ask", "--file"],
        ["ask", "hello", "--key-file"],
        ["warm"],
        ["warm", "FILE", "--key-file"],
    ],
)
def test_a_file_without_an_end_is_not_read_for_ever(
    args: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ask, "FILE_MOST", 1024**2)
    file = tmp_path / "questions"
    file.write_text("one\n")
    assert main([*(str(file) if it == "FILE" else it for it in args), "/dev/zero"]) == 2
    assert "/dev/zero has more than 1 MiB" in capsys.readouterr().err
