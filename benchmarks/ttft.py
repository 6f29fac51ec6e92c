"""From asking to the first token: cold, cached, and of the upstream itself.

One question at a time, each over a connection of its own, the ways in turn, so that whatever
else the machine does is done to all of them alike. Cold goes through the queue, the runner and
the model, once as one request that is answered with the stream, once as a browser does it
(post, then `EventSource`); cached is a hit. The model is a real HTTP server that answers at
once, in a process of its own: what is left is what is between it and the client.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from tests.fake_model import fake_model
from tests.processes import wait_until

from benchmarks import corpus, plots
from benchmarks.peers import Absent
from benchmarks.peers.litellm import MODELS, litellm
from benchmarks.rows import Row, report
from benchmarks.stages import plateau

ROUNDS, WARM_UP = 100, 20
ANSWERS_WITHIN_S = 30
# In every answer's first token, and nowhere before it.
FIRST = b"Plateaus"
TEXT = "Plateaus " + next(corpus.answers(1))
SSE = {"Accept": "text/event-stream"}

Way = Callable[[], float]


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
    _request(port, "POST", path, body, until=FIRST)
    return time.perf_counter() - began


def browser_s(port: int, body: dict[str, Any]) -> float:
    """The same for who posts first and then follows."""
    began = time.perf_counter()
    answer = _request(port, "POST", "/v1/runs", body, until=b"}", accept="application/json")
    run = json.loads(answer.partition(b"\r\n\r\n")[2])
    _request(port, "GET", run["events_url"], None, until=FIRST)
    return time.perf_counter() - began


def _request(
    port: int,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    *,
    until: bytes,
    accept: str = "text/event-stream",
) -> bytes:
    """What has come when `until` has; RuntimeError where the end comes first."""
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
        return answer


def ways(ours: int, upstream: int, proxy: int | None) -> dict[str, Way]:
    """Each asks what has never been asked before, but the cached one."""
    numbers = itertools.count()

    def run(question: str) -> dict[str, Any]:
        return {"agent": "openai", "input": question, "options": {"model": "normal"}}

    def chat() -> dict[str, Any]:
        messages = [{"role": "user", "content": f"question {next(numbers)}"}]
        return {"model": MODELS[True], "messages": messages, "stream": True}

    found: dict[str, Way] = {
        "upstream": lambda: first_token_s(upstream, "/v1/chat/completions", chat()),
        "cold": lambda: first_token_s(ours, "/v1/runs", run(f"question {next(numbers)}")),
        "cold, post and follow": lambda: browser_s(ours, run(f"question {next(numbers)}")),
        "cached": lambda: first_token_s(ours, "/v1/runs", run("the same again")),
    }
    if proxy is not None:
        found["LiteLLM, cold"] = lambda: first_token_s(proxy, "/v1/chat/completions", chat())
    return found


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way."""
    with ExitStack() as stack:
        base_url = stack.enter_context(model_process())
        stage = stack.enter_context(plateau({"OPENAI_BASE_URL": base_url}))
        try:
            proxy = stack.enter_context(litellm(base_url)).port
        except Absent as error:
            sys.stderr.write(f"skipped: {error}\n")
            proxy = None
        upstream = urlsplit(base_url).port
        assert upstream is not None
        asked = ways(stage.port, upstream, proxy)
        wait_until(lambda: asked["cached"]() < 1, "there is an answer")
        found: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(WARM_UP + rounds):
            for name, way in asked.items():
                took_ms = way() * 1000
                if number >= WARM_UP:
                    found[name].append(took_ms)
        return found


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench ttft", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"[{ROUNDS}]")
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    return report("ttft", rows(found), lambda path: plots.waits(found, path))


if __name__ == "__main__":
    sys.exit(main())
