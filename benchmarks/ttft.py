"""From asking to the first token: cold, cached, and of the upstream itself.

One question at a time, each over a connection of its own, the ways in turn, so that whatever
else the machine does is done to all of them alike. Cold goes through the queue, the runner and
the model, once as one request that is answered with the stream, once as a browser does it
(post, then `EventSource`); cached is a hit. The model is a real HTTP server that answers at
once, in a process of its own: what is left is what is between it and the client. All of it is
asked of the service as it was at an earlier commit, too. Before that the steps of cold runs are
shown one by one, and their round trips counted, also of those that come after a pause.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from tests.conftest import end_server, start_server
from tests.fake_model import fake_model
from tests.far_redis import far
from tests.processes import wait_until

from benchmarks import corpus, plots
from benchmarks.cached import env_of
from benchmarks.measuring import cpu_s
from benchmarks.peers import Absent
from benchmarks.peers.litellm import MODELS, litellm
from benchmarks.rows import Row, report
from benchmarks.stages import PlateauStage, plateau
from benchmarks.trips import AWAY_S, Trips, Way, monitored, row_of, table, trips_of

ROUNDS, WARM_UP = 100, 20
# Of those whose steps are looked at, and whose round trips are counted.
STAGED, FEW = 20, 5
AT_ONCE = 20
# What a worker knows is not fresh any more when nobody has asked for so long.
IDLE_S = 2.5
# The last one with nine round trips; the bound is a share of what it takes.
BEFORE, SHARE_MOST = "e3b37d4", 0.6
SIDE = "before: "
ANSWERS_WITHIN_S = 30
# In every answer's first token, and nowhere before it.
FIRST = b"Plateaus"
TEXT = "Plateaus " + next(corpus.answers(1))
CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"
SSE = {"Accept": "text/event-stream"}

Asking = Callable[[], float]


def _serve_model(ready: Connection) -> None:
    with fake_model(TEXT) as model:
        ready.send(model.base_url)
        ready.recv()


@contextmanager
def model_process() -> Iterator[str]:
    """The base URL of a fake model whose work is not done in this process."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve_model, args=(there,))
    process.start()
    try:
        assert here.poll(ANSWERS_WITHIN_S), "the fake model did not start"
        yield here.recv()
    finally:
        with suppress(OSError):
            here.send(None)
        process.join(ANSWERS_WITHIN_S)
        process.kill()
        process.join()


def first_token_s(port: int, path: str, body: dict[str, Any]) -> float:
    """From before the connection to the first token of the stream that is the answer."""
    began = time.perf_counter()
    return _request(port, "POST", path, body, until=FIRST)[0] - began


def browser_s(port: int, body: dict[str, Any]) -> float:
    """The same for who posts first and then follows."""
    began = time.perf_counter()
    _, answer = _request(port, "POST", "/v1/runs", body, until=b"}", accept="application/json")
    run = json.loads(answer.partition(b"\r\n\r\n")[2])
    return _request(port, "GET", run["events_url"], None, until=FIRST)[0] - began


def _request(
    port: int,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    *,
    until: bytes,
    accept: str = "text/event-stream",
) -> tuple[float, bytes]:
    """When `until` had come, and what; RuntimeError where the end comes first. A stream is read
    to its end: who asks next is not to wait for the rest of what this one has asked."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWERS_WITHIN_S) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.sendall(head.encode() + b"\r\n" + content)
        answer = b""
        while until not in answer.partition(b"\r\n\r\n")[2]:
            more = opened.recv(65536)
            if not more:
                raise RuntimeError(f"{method} {path} ended with {answer[-300:]!r}")
            answer += more
        at = time.perf_counter()
        if CHUNKED in answer.lower():
            while not answer.endswith(LAST_CHUNK) and (more := opened.recv(65536)):
                answer += more
        return at, answer


def questions(port: int, numbers: Iterator[int], side: str = "") -> dict[str, Asking]:
    """Each asks what has never been asked before, but the cached one."""

    def run(question: str) -> dict[str, Any]:
        return {"agent": "openai", "input": question, "options": {"model": "normal"}}

    def new() -> dict[str, Any]:
        return run(f"question {next(numbers)}")

    return {
        f"{side}cold": lambda: first_token_s(port, "/v1/runs", new()),
        f"{side}cold, post and follow": lambda: browser_s(port, new()),
        f"{side}cached": lambda: first_token_s(port, "/v1/runs", run("the same again")),
    }


def measure(rounds: int, before: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of each way; and of CPU of all processes a round of the three questions, by
    side."""
    numbers = itertools.count()

    def chat() -> dict[str, Any]:
        messages = [{"role": "user", "content": f"question {next(numbers)}"}]
        return {"model": MODELS[True], "messages": messages, "stream": True}

    with ExitStack() as stack:
        base_url = stack.enter_context(model_process())
        ours = stack.enter_context(plateau(env_of(base_url)))
        earlier = stack.enter_context(plateau(env_of(base_url), commit=before))
        asked = questions(ours.port, numbers) | questions(earlier.port, numbers, SIDE)
        upstream = urlsplit(base_url).port
        assert upstream is not None
        path = "/v1/chat/completions"
        asked["upstream"] = lambda: first_token_s(upstream, path, chat())
        try:
            proxy = stack.enter_context(litellm(base_url)).port
            asked["LiteLLM, cold"] = lambda: first_token_s(proxy, path, chat())
        except Absent as error:
            sys.stderr.write(f"skipped: {error}\n")
        for name in ("cached", SIDE + "cached"):
            wait_until(partial(_is_there, asked[name]), "there is an answer")
        found: dict[str, list[float]] = {name: [] for name in asked}
        sides = {"": ours.everything(), SIDE: earlier.everything()}
        began: dict[str, float] = {}
        for number in range(WARM_UP + rounds):
            if number == WARM_UP:
                began = {side: cpu_s(pids) for side, pids in sides.items()}
            for name, way in asked.items():
                took_ms = way() * 1000
                if number >= WARM_UP:
                    found[name].append(took_ms)
        spent = {
            side: (cpu_s(pids) - began[side]) * 1000 / rounds for side, pids in sides.items()
        }
        return found, spent


def _is_there(cached: Asking) -> bool:
    return cached() < 1


def stages() -> list[Way]:
    """Of cold runs, with nothing else going on: when each step of its way was taken."""
    with (
        fake_model(TEXT) as model,
        plateau(env_of(model.base_url)) as stage,
        monitored(stage.service) as since,
    ):
        found = []
        for number in range(WARM_UP + STAGED):
            posted, told = _cold(stage, number)
            found.append(Way(posted, model.requests[-1].at, told, since()))
        return found[WARM_UP:]


def trips(folder: Path, commit: str = "") -> Trips:
    """Round trips one after the other of cold runs."""
    servers = [start_server(role, folder / role) for role in ("streams", "cache")]
    numbers = itertools.count()
    try:
        with (
            fake_model(TEXT) as model,
            far(AWAY_S, *(server.url for server in servers)) as (streams, cache),
            plateau(
                env_of(model.base_url) | {"REDIS_URL": streams, "CACHE_REDIS_URL": cache},
                commit=commit,
            ) as stage,
        ):

            def counted(pause_s: float) -> int:
                time.sleep(pause_s)
                posted, _ = _cold(stage, next(numbers))
                return trips_of(posted, model.requests[-1].at)

            with ThreadPoolExecutor(AT_ONCE) as pool:
                # They open the connections that there are to be.
                list(pool.map(lambda _: _cold(stage, next(numbers)), range(AT_ONCE)))
            steady = min(counted(0) for _ in range(FEW))
            return Trips(steady, min(counted(IDLE_S) for _ in range(FEW)))
    finally:
        for server in servers:
            end_server(server)


def _cold(stage: PlateauStage, number: int) -> tuple[float, float]:
    """By the wall clock: when it was asked, and when the first token was there."""
    body = {"agent": "openai", "input": f"question {number}"}
    posted, began = time.time(), time.perf_counter()
    at, _ = _request(stage.port, "POST", "/v1/runs", body, until=FIRST)
    return posted, posted + at - began


def rows(found: dict[str, list[float]]) -> list[Row]:
    made = []
    bare = median(found["upstream"])
    for name, times in found.items():
        p95 = quantiles(times, n=20)[18]
        beside = f"p95 {p95:.1f} ms"
        if name != "upstream":
            beside += f"; {median(times) - bare:+.1f} ms over the upstream's {bare:.1f}"
        made.append(
            Row(
                f"first token, {name}: median",
                median(times),
                "ms",
                peers=beside,
                figures={"median": median(times), "p95": p95},
                figures_in="ms",
            )
        )
    return made


def rows_beside(found: dict[str, list[float]], spent: dict[str, float]) -> list[Row]:
    """What it takes of what it took before, both over what the upstream does."""
    made = []
    bare = median(found["upstream"])
    for name in ("cold", "cold, post and follow"):
        now, before = median(found[name]) - bare, median(found[SIDE + name]) - bare
        beside = f"{now:.1f} and {before:.1f} ms over the upstream's {bare:.1f}"
        what = f"first token, {name}: of what it took before"
        # What is promised is one request; who posts first is told its place in between.
        most = SHARE_MOST if name == "cold" else None
        made.append(Row(what, now / before, "x", bound=most, peers=beside))
    beside = f"{spent['']:.1f} and {spent[SIDE]:.1f} ms"
    what = "CPU of three questions, one of each kind: of what it was before"
    return [*made, Row(what, spent[""] / spent[SIDE], "x", peers=beside)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench ttft", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"[{ROUNDS}]")
    parser.add_argument("--before", default=BEFORE, help=f"an earlier commit [{BEFORE}]")
    options = parser.parse_args(arguments)
    sys.stdout.write(table(stages()) + "\n\n")
    found, spent = measure(options.rounds, options.before)
    with tempfile.TemporaryDirectory() as folder:
        now = trips(Path(folder) / "now")
        counted = row_of(now, trips(Path(folder) / "before", options.before))
    made = [*rows(found), *rows_beside(found, spent), counted]
    return report("ttft", made, lambda path: plots.waits(found, path))


if __name__ == "__main__":
    sys.exit(main())
