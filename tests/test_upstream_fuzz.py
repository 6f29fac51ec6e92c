"""A model's endpoint that answers with hostile bytes, ten thousand events of them, from a seed:
each run ends with an answer or a code that says so, and the runner is as it was."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import httpx
from benchmarks.measuring import private_kib

from plateau_sse.errors import RUN_FAILURES
from tests.hostile import damaged, hostile_json, in_a_header
from tests.integration.api_client import finish, unique
from tests.model_answers import DONE, choice, delta
from tests.processes import serving, wait_until
from tests.raw_model import CLOSE, GO, LAST, Step, chunk, head_of, raw_model, sized

SEED = 20
EVENTS, A_STREAM = 10_000, 80
GROWTH_KIB = 32 * 1024
ENV = {"OPENAI_MODEL": "m", "OPENAI_SILENCE_S": "2", "WEB_CONCURRENCY": "1"}
# What says that something of ours went wrong.
OURS = {"agent_error", "agent_invalid_output", "runner_lost", "timeout", "queue_timeout"}

CHUNKS: list[Any] = [
    delta(role="assistant", content=""),
    delta(content="Some text, "),
    delta(content="é雪🏔 and more of it. "),
    delta(reasoning_content="Hm. ", content=None),
    delta(reasoning="Hm hm. "),
    delta(refusal="No."),
    delta(
        tool_calls=[
            {"index": 0, "id": "call_1", "type": "function"}
            | {"function": {"name": "look", "arguments": '{"at": '}}
        ]
    ),
    delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
    delta(
        annotations=[{"type": "url_citation", "url_citation": {"url": "https://a.example/"}}]
    ),
    choice(delta={}, finish_reason="stop", logprobs=None),
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
    {"error": {"message": "It broke.", "type": "server_error", "code": 500}},
]
DOCUMENT = {
    "id": "c1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi", "tool_calls": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
ENDINGS = [
    DONE,
    b"",
    b"data: [DONE]",
    b"data:[DONE]\r\r",
    b"data: [DONE]\n\n" * 3,
    b"\x00" * 99,
]
HEADS = [
    "Retry-After: -1",
    "Retry-After: 1e9",
    "Content-Type: text/plain; charset=utf-7",
    "Content-Encoding: br",
    "Set-Cookie: a=b",
    "X-Should-Retry: maybe",
    "Content-Length: 1",
    "Transfer-Encoding: gzip, chunked",
    "Location: http://169.254.169.254/",
]


def hostile_event(draw: Random) -> bytes:
    """One that is nearly right: most of a stream has to be read."""
    # Ends and errors are rare, or nothing would come behind them.
    found = draw.choice(CHUNKS) if draw.random() < 0.1 else draw.choice(CHUNKS[:9])
    text = json.dumps(found).encode()
    if draw.random() < 0.7:
        text = hostile_json(draw, text)
    before = draw.choice([b"data: "] * 9 + [b"data:", b"data", b": ", b"event: x\ndata: ", b""])
    return before + text + draw.choice([b"\n\n"] * 9 + [b"\r\n\r\n", b"\r\r", b"\n", b"\n\n\n"])


def hostile_stream(draw: Random) -> bytes:
    events = [hostile_event(draw) for _ in range(A_STREAM)]
    return b"".join(events) + draw.choice(ENDINGS)


def hostile_chunks(draw: Random, body: bytes) -> bytes:
    """Pieces that are not as long as they say, or have no end."""
    said, at = [head_of("Transfer-Encoding: chunked")], 0
    while at < len(body):
        size = draw.randint(1, 4000)
        said.append(chunk(body[at : at + size]))
        at += size
    end = draw.choice(
        [b"", LAST, b"0\r\n", b"-1\r\n", b"zz\r\n", b"f" * 16 + b"\r\nxy", b"5;a=b\r\nx"]
    )
    return b"".join(said) + end


def hostile_heads(draw: Random) -> bytes:
    some = draw.sample(HEADS, draw.randint(1, 3))
    status = draw.choice(["HTTP/1.1 200 OK", "HTTP/1.1 429 x", "HTTP/1.1 500", "HTTP/1.0 200"])
    head = head_of(*some, status=status)
    name, _, rest = head.partition(b"\r\n")
    return in_a_header(draw, name) + b"\r\n" + rest + hostile_stream(draw)


def scripts_of(draw: Random) -> Iterator[Sequence[Step]]:
    """One answer after the other, without an end."""
    wide, deep = b"data: " + b"x" * 2_000_000, b"[" * 100_000
    odd: list[Sequence[Step]] = [
        [sized(wide), CLOSE],
        [sized(wide + b"\n\n" + DONE), CLOSE],
        [sized(b"data: " + deep + b"\n\n"), CLOSE],
        [sized(b'data: {"a":' + b'{"a":' * 50_000 + b"\n\n"), CLOSE],
        [sized(b": \n" * 500_000 + DONE), CLOSE],
        [sized(b"\n" * 1_000_000), CLOSE],
        [sized(gzip.compress(b"\x00" * 20_000_000), "Content-Encoding: gzip"), CLOSE],
        [sized(draw.randbytes(5000), "Content-Encoding: gzip"), CLOSE],
        [head_of(*(f"X-{n}: {'y' * 100}" for n in range(2000))), CLOSE],
        [b"HTTP/1.1 102 Processing\r\n\r\n" * 1000 + sized(DONE), CLOSE],
        [draw.randbytes(3000), CLOSE],
        [b"\x16\x03\x01\x02\x00" + draw.randbytes(200), CLOSE],
        [b"", CLOSE],
        [head_of("Transfer-Encoding: chunked") + chunk(hostile_event(draw)), GO],
        [
            sized(hostile_json(draw, json.dumps(DOCUMENT).encode()), status="HTTP/1.1 404 No"),
            CLOSE,
        ],
        [sized(b"<html>password=hunter2 " * 5000, status="HTTP/1.1 503 Busy"), CLOSE],
    ]
    yield from odd
    while True:
        body = hostile_stream(draw)
        yield [sized(body), CLOSE]
        yield [hostile_chunks(draw, hostile_stream(draw)), CLOSE]
        yield [head_of() + damaged(draw, hostile_stream(draw)), CLOSE]
        yield [hostile_heads(draw), CLOSE]
        said = hostile_json(draw, json.dumps(DOCUMENT).encode())
        yield [sized(said).replace(b"text/event-stream", b"application/json", 1), CLOSE]


def test_ten_thousand_hostile_events(tmp_path: Path) -> None:
    draw = Random(SEED)
    # Four of five answers behind the odd ones have as many events as a stream.
    scripts = list(islice(scripts_of(draw), 16 + EVENTS // A_STREAM * 5 // 4))
    found: list[dict[str, Any]] = []
    with raw_model(scripts[0], then=scripts[1:]) as model:
        env = ENV | {"OPENAI_BASE_URL": model.base_url}
        with (
            serving(tmp_path / "data", env=env) as running,
            httpx.Client(base_url=running.url, timeout=90, trust_env=False) as client,
        ):
            (pid,) = running.pids("plateau: runner")
            finish(client, "study", "Some text.")

            def ask(_: int) -> dict[str, Any]:
                return finish(client, "openai", unique(), cache={"mode": "off"})

            before = private_kib([pid])
            # Each is asked again where that may help: until all of it was said.
            while len(model.requests) < len(scripts):
                with ThreadPoolExecutor(12) as pool:
                    found += pool.map(ask, range(24))
            said = running.stderr
            wait_until(
                lambda: private_kib([pid]) - before < GROWTH_KIB, "what it took is given back"
            )
            assert running.pids("plateau: runner") == [pid]
            # Behind all of it is an answer as any other.
            last = finish(client, "openai", unique(), cache={"mode": "off"})
    assert (last["status"], last["output"]) == ("completed", "second")
    assert "Traceback" not in said and " ERROR " not in said, said[-4000:]
    outcomes: Counter[str] = Counter()
    for record in found:
        outcomes[(record["error"] or {"code": record["status"]})["code"]] += 1
        if record["error"] is not None:
            told = record["error"]["message"]
            assert record["error"]["code"] in RUN_FAILURES.keys() - OURS, record
            assert told and len(told) < 2000 and "Traceback" not in told, told
            assert not re.search(r'File "|\.py\b', told), told
    # It is not all refused, and not all the same.
    assert outcomes["completed"] and len(outcomes) >= 3, outcomes
