"""`plateau warm`: a file of questions, asked at a real service that is well, full or away."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.cli import main, warm
from tests.processes import free_ports, plateau, serving

Out = pytest.CaptureFixture[str]
Answer = tuple[int, dict[str, Any], dict[str, str]]
DONE: Answer = (200, {"status": "completed"}, {"X-Cache": "miss"})


class Service:
    """Answers each POST with the next of `answers`, and with the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, dict[str, Any], dict[str, str]]] = []
        self.now = self.most = 0
        self.lock = threading.Lock()


@contextmanager
def answering(service: Service, takes_s: float = 0.0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with service.lock:
                service.now += 1
                service.most = max(service.most, service.now)
                asked = (time.monotonic(), json.loads(body), dict(self.headers))
                service.asked.append(asked)
                many = len(service.answers) > 1
                status, document, headers = (
                    service.answers.pop(0) if many else service.answers[0]
                )
            time.sleep(takes_s)
            content = json.dumps(document).encode()
            with service.lock:
                service.now -= 1
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.txt"
    lines = [
        "# about water",
        "What is water?",
        "",
        '{"agent": "openai", "input": "Is it wet?", "options": {"temperature": 0}}',
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_what_is_asked_is_in_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    texts = [f"Water {n} is wet. It flows downhill. It freezes." for n in range(6)]
    file.write_text("\n".join(texts))
    with serving(tmp_path / "data") as running:

        def warm(*arguments: str) -> str:
            shown = plateau(
                "warm", str(file), "--url", running.url, *arguments, env={}, cwd=tmp_path
            )
            assert shown.returncode == 0, shown.stderr
            return shown.stderr.splitlines()[-1]

        assert "6 of 6" in (said := warm()) and "6 answered" in said
        assert "6 there already" in warm()
        assert "6 answered" in warm("--refresh", "--at-once", "2")
        for text in texts:
            body = {"agent": "study", "input": text}
            answer = httpx.post(f"{running.url}/v1/runs", json=body)
            assert answer.headers["x-cache"] == "hit"


def test_lines_are_texts_or_requests(questions: Path, capsys: Out) -> None:
    service = Service(DONE)
    with answering(service) as url:
        command = ["warm", str(questions), "--url", url, "--at-once", "1"]
        assert main([*command, "--option", "n=3", "--key", "a-key-of-mine"]) == 0
    (_, first, headers), (_, second, _) = service.asked
    cache = {"mode": "use"}
    assert first == {
        "agent": "study",
        "input": "What is water?",
        "options": {"n": 3},
        "cache": cache,
    }
    options = {"temperature": 0}
    assert second == {
        "agent": "openai",
        "input": "Is it wet?",
        "options": options,
        "cache": cache,
    }
    assert headers["Authorization"] == "Bearer a-key-of-mine"
    assert "2 of 2" in capsys.readouterr().err


def test_a_mistake_in_the_file_costs_nothing(tmp_path: Path, capsys: Out) -> None:
    service = Service(DONE)
    file = tmp_path / "questions"
    with answering(service) as url:
        for text, words in (
            ("a\n{]", "line 2 is not JSON"),
            ("a\n\n{}", "line 3 has neither input nor messages"),
            ('{"input": "a", "conversation_id": "c"}', "line 1 has a conversation_id"),
            ("# nothing\n", "there is no question"),
            ('a\n{"input": "half of it: \\ud83d"}', "line 2 cannot be sent"),
            ('a\n{"input": "a", "options": {"t": NaN}}', "line 2 cannot be sent"),
            ('{"input": ' + "[" * 100_000, "line 1 is not JSON"),
        ):
            file.write_text(text)
            assert main(["warm", str(file), "--url", url]) == 2
            assert words in capsys.readouterr().err
        file.write_bytes(b"\xff\xfe")
        assert main(["warm", str(file), "--url", url]) == 2
        assert main(["warm", str(tmp_path / "none"), "--url", url]) == 2
        assert main(["warm", str(file), "--url", url, "--at-once", "0"]) == 2
    assert service.asked == []


def test_no_more_at_once_than_allowed(tmp_path: Path) -> None:
    file = tmp_path / "questions"
    file.write_text("\n".join(f"q{n}" for n in range(20)))
    service = Service(DONE)
    with answering(service, takes_s=0.05) as url:
        assert main(["warm", str(file), "--url", url, "--at-once", "3"]) == 0
    assert service.most == 3
    asked = {body["input"] for _, body, _ in service.asked}
    assert len(service.asked) == len(asked) == 20


def test_no_more_a_second_than_allowed(tmp_path: Path) -> None:
    file = tmp_path / "questions"
    file.write_text("\n".join(f"q{n}" for n in range(6)))
    service = Service(DONE)
    with answering(service) as url:
        assert main(["warm", str(file), "--url", url, "--rate", "20"]) == 0
    times = sorted(at for at, _, _ in service.asked)
    # A request may be late, and the next one not.
    assert times[-1] - times[0] >= 0.2


def test_a_service_that_is_full_is_waited_for(questions: Path, capsys: Out) -> None:
    busy: Answer = (429, {"code": "queue_full", "detail": "Wait."}, {"Retry-After": "0"})
    slow: Answer = (202, {"status": "running"}, {})
    service = Service(busy, slow, DONE)
    with answering(service) as url:
        assert main(["warm", str(questions), "--url", url, "--at-once", "1"]) == 0
    keys = [headers["Idempotency-Key"] for _, _, headers in service.asked]
    # The same run each time; the second question is another.
    assert len(keys) == 4 and len(set(keys[:3])) == 1 and keys[3] != keys[0]
    assert "Wait. (queue_full)" in capsys.readouterr().err


def test_what_fails_is_told_and_the_rest_is_asked(tmp_path: Path, capsys: Out) -> None:
    file = tmp_path / "questions"
    file.write_text("a\nb\nc\nd\ne\nf\ng")
    service = Service(
        (422, {"code": "unknown_agent", "detail": "There is none."}, {}),
        (200, {"status": "failed", "error": {"message": "the agent broke"}}, {}),
        (200, {"status": "completed", "finish_reason": "length"}, {}),
        (200, {"status": "completed", "finish_reason": "content_filter"}, {}),
        (200, {"status": "completed", "finish_reason": "input_required"}, {}),
        (200, {"status": "completed", "finish_reason": "other"}, {}),
        DONE,
    )
    with answering(service) as url:
        assert main(["warm", str(file), "--url", url, "--at-once", "1"]) == 1
    said = capsys.readouterr().err
    for words in (
        "line 1: There is none. (unknown_agent)",
        "line 2: failed: the agent broke",
        "line 3: cut off",
        "line 4: it ended with content_filter, so it is not kept",
        "line 5: it ended with input_required",
        "line 6: it ended with other",
        "6 failed",
        "1 answered",
    ):
        assert words in said


def test_a_service_that_stays_away_is_given_up(questions: Path, capsys: Out) -> None:
    url = f"http://127.0.0.1:{free_ports(1)}"
    command = ["warm", str(questions), "--url", url, "--retry-for", "0.5"]
    assert main(command) == 3
    assert "gave up after 0.5 s" in capsys.readouterr().err
    assert main(["warm", str(questions), "--url", "gopher://x"]) == 3


def test_a_port_that_is_none_is_told_at_once(questions: Path, capsys: Out) -> None:
    assert main(["warm", str(questions), "--url", "http://127.0.0.1:99999"]) == 3
    assert "is no address: a port is at most 65535" in capsys.readouterr().err


def test_a_line_ends_where_its_file_says(tmp_path: Path) -> None:
    """With the mark of other editors, and with what Python alone takes for the end of one."""
    file = tmp_path / "questions"
    lines = ['{"input": "one\u2028line"}', "# none", "page one\fpage two", "last"]
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    service = Service(DONE)
    with answering(service) as url:
        assert main(["warm", str(file), "--url", url, "--at-once", "1"]) == 0
    asked = [body["input"] for _, body, _ in service.asked]
    assert asked == ["one\u2028line", "page one\fpage two", "last"]


def test_a_service_without_room_for_who_waits_is_not_pressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so at once; the run goes on."""
    monkeypatch.setattr(warm, "PAUSE_S", 0.5)
    file = tmp_path / "questions"
    file.write_text("a")
    soon: Answer = (202, {"status": "running"}, {"Preference-Applied": "wait=0"})
    service = Service(soon, soon, soon, DONE)
    with answering(service) as url:
        began = time.monotonic()
        assert main(["warm", str(file), "--url", url]) == 0
    assert len(service.asked) == 4
    # Each pause is twice the one before.
    assert time.monotonic() - began > 7 * warm.PAUSE_S


def test_it_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Wäre es?\n".encode())))
    service = Service(DONE)
    with answering(service) as url:
        assert main(["warm", "-", "--url", url, "--quiet"]) == 0
    assert [body["input"] for _, body, _ in service.asked] == ["Wäre es?"]
    assert capsys.readouterr().err == ""
