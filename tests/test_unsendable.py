"""What cannot be sent, and what hears it and says nothing: told in a line, soon, and without a
secret, by `plateau ask`, `warm` and `top` and by the client."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.cli import main
from plateau_sse.client import Refused, Unreachable, ask, ask_async, cancel, follow, patience

Out = pytest.CaptureFixture[str]
NOWHERE = "http://127.0.0.1:9"
DEEP = "[" * 100_000


@contextmanager
def frozen() -> Iterator[str]:
    """Takes connections, as the kernel does for a process that is stopped, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def saying(head: dict[str, str], body: bytes, pause_s: float = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(200)
            for name, value in head.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.flush()
            time.sleep(pause_s)
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--key", "ключ-ключ"], 2),
        (["--key", "secret\nX-Other: 1"], 2),
        (["--option", "n=1e999"], 2),
        (["--option", f"n={DEEP}"], 2),
        (["--option", "n=\udcff"], 2),
        (["--option", '"\\ud800"="\\ud800"'], 2),
        (["--agent", "\udcff"], 2),
        (["--conversation", "\udcff"], 2),
        (["--conversation", "\udcff", "--via", "responses"], 2),
        (["--url", "http://\udcff"], 2),
        (["--url", "http://a..b"], 3),
        (["--url", "http://a..b", "--via", "chat"], 3),
        (["--url", f"http://{'a' * 64}.example"], 3),
        (["--url", "http://[bad"], 3),
    ],
)
def test_what_cannot_be_sent_is_told(capsys: Out, arguments: list[str], code: int) -> None:
    assert main(["ask", "text", "--url", NOWHERE, *arguments]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("plateau ask: ")
    assert said.err.count("\n") == 1 and "secret" not in said.err


@pytest.mark.parametrize("value", ["nan", "-1"])
@pytest.mark.parametrize("command", ["ask", "warm"])
def test_a_time_that_is_none_is_wrong_usage(capsys: Out, command: str, value: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "x", "--retry-for", value])
    assert ended.value.code == 2 and "seconds, 0 or more" in capsys.readouterr().err


def test_the_mark_of_an_editor_is_no_part_of_a_key(tmp_path: Path, capsys: Out) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbfa-key-of-mine\r\n")
    assert main(["ask", "x", "--url", NOWHERE, "--key-file", str(file)]) == 3
    file.write_bytes(b"\xff\xfea\x00")
    for command in (["ask", "x"], ["warm", __file__]):
        assert main([*command, "--url", NOWHERE, "--key-file", str(file)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 64}.example"])
def test_a_name_that_no_machine_can_have_is_told(tmp_path: Path, capsys: Out, url: str) -> None:
    file = tmp_path / "questions"
    file.write_text("What is water?\n")
    assert main(["warm", str(file), "--url", url, "--retry-for", "0"]) == 3
    assert main(["top", "--url", url, "--token", "sesame-open", "--once"]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_token_that_no_header_takes_is_not_shown(capsys: Out) -> None:
    for token in ("secret\nX: 1", "secret\udcff"):
        assert main(["top", "--url", NOWHERE, "--token", token, "--once"]) == 2
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ask", "warm", "top"])
def test_any_port_can_be_helped(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setenv("PORT", "21200%")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and "21200%]" in capsys.readouterr().out


# The client


def wrong(url: str) -> list[Callable[[], Any]]:
    def asked(**more: Any) -> Callable[[], Any]:
        return lambda: ask(url, agent="a", input="x", **more)

    return [
        asked(key="ключ"),
        asked(key="secret\nX: 1"),
        asked(idempotency_key="ü"),
        asked(options={"n": float("nan")}),
        asked(options={"n": {1}}),
        asked(conversation_id="\udcff"),
        lambda: asyncio.run(ask_async(url, agent="a", input="x", key="secret\n")),
        lambda: list(follow(f"{url}/events", last_event_id="1-1\n")),
    ]


@pytest.mark.parametrize("number", range(8))
def test_ones_own_mistake_is_refused_and_not_sent(number: int) -> None:
    with pytest.raises(Refused) as refused:
        wrong(NOWHERE)[number]()
    assert (refused.value.code, refused.value.status) == ("client", 0)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ({"Content-Encoding": "gzip"}, b"no gzip at all"),
        ({}, b'{"id": "a", "events_url": "http://[bad/"}'),
        # Its bytes are in the test's name, which each process that collects it must find alike.
        ({"Content-Encoding": "gzip"}, gzip.compress(b"<html>", mtime=0)),
    ],
)
def test_what_is_not_plateau_is_refused(head: dict[str, str], body: bytes) -> None:
    with saying(head, body) as url, pytest.raises(Refused) as refused:
        ask(url, agent="a", input="x", retry_for_s=3)
    assert refused.value.code == "not_plateau"


def test_a_stream_in_another_encoding_is_a_lost_connection() -> None:
    with saying({"Content-Encoding": "gzip"}, b"no gzip at all") as url:
        with pytest.raises(Unreachable):
            list(follow(f"{url}/events", retry_for_s=0.1))


def test_no_token_is_in_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ATTEMPT_S", 0.1)
    told = []
    with frozen() as url:
        opened = f"{url.replace('//', '//me:secret@')}/events?a=1&token=secret&b=2"
        for it in (
            lambda: cancel(opened, within_s=0.1),
            lambda: list(follow(opened, retry_for_s=0)),
        ):
            with pytest.raises(Unreachable) as found:
                it()
            told.append(str(found.value))
    assert all("token=…&b=2" in one and "secret" not in one for one in told), told


# Who hears it, and says nothing


@pytest.mark.parametrize("more", [[], ["--via", "chat"]], ids=["native", "chat"])
def test_a_service_that_is_frozen_is_given_up_in_time(
    capsys: Out, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.setattr(patience, "ATTEMPT_S", 0.2)
    with frozen() as url:
        began = time.monotonic()
        assert main(["ask", "text", "--url", url, "--retry-for", "1", *more]) == 3
    assert time.monotonic() - began < 5
    assert "after 1 s: ReadTimeout" in capsys.readouterr().err


def test_a_file_of_questions_waits_no_longer(tmp_path: Path, capsys: Out) -> None:
    file = tmp_path / "questions"
    file.write_text("What is water?\n")
    with frozen() as url:
        began = time.monotonic()
        assert main(["warm", str(file), "--url", url, "--retry-for", "1"]) == 3
    assert time.monotonic() - began < 10
    assert "gave up after 1 s" in capsys.readouterr().err


def test_an_answer_may_be_silent_for_longer_than_its_service_may_be_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "ATTEMPT_S", 0.3)
    head = {"Content-Type": "text/event-stream"}
    end = b'id: 1-1\ndata: {"type": "run.completed"}\n\n'
    with saying(head, end, pause_s=1) as url:
        (event,) = list(follow(f"{url}/events", retry_for_s=0.1))
    assert event["type"] == "run.completed"
