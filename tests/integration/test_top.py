"""`plateau top` against a real `plateau serve`, through pipes and on a terminal.

Invariant: however it ends, the terminal is as it was; the token is in no log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.processes import Serving, environment, plateau, serving, wait_until
from tests.terminals import COLOUR, Terminal, terminal

TOKEN = f"top-{uuid4().hex}"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("top"), env={"ADMIN_TOKEN": TOKEN}) as started:
        yield started


def top(
    served: Serving, cwd: Path, *arguments: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    env = {"ADMIN_TOKEN": token} if token else {}
    return plateau("top", "--url", served.url, *arguments, env=env, cwd=cwd)


@contextmanager
def watching(served: Serving, cwd: Path, **env: str) -> Iterator[Terminal]:
    arguments = ["-m", "plateau_sse", "top", "--url", served.url]
    with terminal(arguments, env={"ADMIN_TOKEN": TOKEN, **env}, cwd=cwd) as shown:
        wait_until(lambda: "PROCESS" in shown.text, "it is drawn")
        yield shown


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# Once


def test_once(served: Serving, tmp_path: Path) -> None:
    def there_is_a_runner() -> bool:
        health = httpx.get(f"{served.url}/health").json()
        return bool(health["components"]["runner"]["alive"] == 1)

    # A test before this one may have ended it.
    wait_until(there_is_a_runner, "the one runner is back", timeout_s=30)
    for arguments in (["--once"], []):
        done = top(served, tmp_path, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        for words in ("of 400 MiB", "of 64.0 MiB", "of 10.0 MiB", "events/s", "1 runner"):
            assert words in done.stdout, words
        assert done.stdout.startswith(f"Plateau  {served.url}\n")
        assert done.stdout.count("\nweb ") == 2 and "redis cache" in done.stdout
        assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


def test_json(served: Serving, tmp_path: Path) -> None:
    done = top(served, tmp_path, "--json", "--token", TOKEN, token="")
    assert (done.returncode, done.stderr) == (0, "")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    there = httpx.get(f"{served.url}/api/admin/metrics", headers=headers).json()
    here = json.loads(done.stdout)
    assert here.keys() == there.keys()
    assert here["memory"]["host"] == there["memory"]["host"]
    assert TOKEN not in served.stdout + served.stderr


def test_whoever_reads_may_stop(served: Serving, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "plateau_sse", "top", "--url", served.url, "--json"]
    with subprocess.Popen(
        arguments,
        env=environment({"ADMIN_TOKEN": TOKEN}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == b""


# Errors


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        ("wrong, and long enough", 1, "That is not the ADMIN_TOKEN of"),
        ("wrong", 2, "at least 8 characters"),
        ("falsch ☃, und lang genug", 2, "all of them ASCII"),
        ("", 2, "in the environment, or --token"),
    ],
)
def test_a_token_that_does_not_open_it(
    served: Serving, tmp_path: Path, token: str, status: int, words: str
) -> None:
    done = top(served, tmp_path, token=token)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("plateau: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_service_says_what_to_set(tmp_path: Path) -> None:
    with serving(tmp_path) as closed:
        for token in ("", TOKEN):
            done = top(closed, tmp_path, token=token)
            assert (done.returncode, done.stdout) == (1, "")
            assert "has no ADMIN_TOKEN" in done.stderr


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The URL of something that is no Plateau."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "does not answer as Plateau does"),
        (200, b"[]", "does not answer as Plateau does"),
        (200, b'{"runs": {}}', "does not answer as Plateau does"),
        (404, b'{"title": "There is no such thing"}', "does not answer as Plateau does"),
        (302, b"", "does not answer as Plateau does"),
        (503, b"away", "does not answer just now: away"),
    ],
)
def test_something_else_answers(tmp_path: Path, status: int, body: bytes, words: str) -> None:
    with answering(status, body) as url:
        done = plateau("top", "--url", url, env={"ADMIN_TOKEN": "x-of-nobody"}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_nothing_answers(tmp_path: Path) -> None:
    env = {"ADMIN_TOKEN": "x-of-nobody"}
    done = plateau("top", "--url", "http://127.0.0.1:9", env=env, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr and "--url names another" in done.stderr
    for url in ("nowhere", "ftp://x", "", "http://127.0.0.1:99999"):
        done = plateau("top", "--url", url, env=env, cwd=tmp_path)
        assert done.returncode == 2 and "is no address" in done.stderr


# On a terminal


def test_it_is_drawn_anew_and_gone_when_left(served: Serving, tmp_path: Path) -> None:
    with watching(served, tmp_path) as shown:
        wait_until(lambda: "All is well." in shown.text, "it is well")
        assert len(shown.lines) <= 24 and max(map(len, shown.lines)) <= 80
        assert COLOUR.search(shown.raw)
        assert not shown.echoes
        body = {"agent": "study", "input": f"Words of {uuid4()}."}
        httpx.post(f"{served.url}/v1/runs", json=body)
        wait_until(lambda: " 1 completed" in shown.text, "the run is counted")
        assert shown.raw.count(ENTER) == 1
        shown.type(b"x")
        shown.type(b"q")
        assert shown.process.wait(10) == 0
        wait_until(lambda: shown.raw.endswith(LEAVE), "the screen is as it was")
        assert shown.echoes


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_the_terminal_as_it_was(
    served: Serving, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with watching(served, tmp_path) as shown:
        shown.process.send_signal(number)
        assert shown.process.wait(10) == status
        wait_until(lambda: shown.raw.endswith(LEAVE), "the screen is as it was")
        assert shown.echoes and "Traceback" not in shown.raw


def test_it_follows_the_size_of_the_terminal(served: Serving, tmp_path: Path) -> None:
    with watching(served, tmp_path) as shown:
        shown.resize(50, 10)
        wait_until(lambda: len(shown.lines) == 10, "it is made smaller")
        assert max(map(len, shown.lines)) <= 50 and "more lines" in shown.lines[-1]
        shown.resize(120, 40)
        wait_until(lambda: len(shown.lines) > 15, "it is made larger")
        assert 110 <= max(map(len, shown.lines)) <= 120


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(
    served: Serving, tmp_path: Path, env: dict[str, str]
) -> None:
    with watching(served, tmp_path, **env) as shown:
        shown.type(b"q")
        assert shown.process.wait(10) == 0
        assert not COLOUR.search(shown.raw)


def test_figures_that_stop_coming_say_how_old_they_are(served: Serving, tmp_path: Path) -> None:
    with watching(served, tmp_path) as shown:
        with frozen(served.pids("gunicorn: worker")):
            wait_until(lambda: "How it is now is not known." in shown.text, "it says so")
            assert "s old: " in shown.text and "All is well." not in shown.text
        wait_until(lambda: "old: " not in shown.text, "it goes on")


def test_a_service_that_is_closed_meanwhile_ends_it(tmp_path: Path) -> None:
    with serving(tmp_path / "one", env={"ADMIN_TOKEN": TOKEN}) as before:
        with watching(before, tmp_path) as shown:
            before.stop()
            wait_until(lambda: "trying again" in shown.text, "it is away")
            env = {"ADMIN_TOKEN": "another-one", "PORT": str(before.port)}
            with serving(tmp_path / "two", env=env):
                assert shown.process.wait(20) == 1
            wait_until(lambda: "That is not the ADMIN_TOKEN" in shown.raw, "it says why")
            left, _, after = shown.raw.rpartition(LEAVE)
            assert left and "That is not the ADMIN_TOKEN" in after and shown.echoes
