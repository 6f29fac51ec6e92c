"""Connections to a model: what comes over one run's is never part of the next run's answer."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import pytest

from plateau_sse.agents import Message, Run, Yielded
from tests.raw_model import (
    CLOSE,
    ENDLESS,
    GO,
    LAST,
    Step,
    chunk,
    chunked,
    event,
    head_of,
    raw_model,
    sized,
    stream_of,
)
from tests.upstreams import FIRST, LOOPS, POISON, WITHIN_S, agent_of, ask, in_turn

KEPT: dict[str, list[Step]] = {
    "a length": [sized(FIRST)],
    "chunks": [chunked(FIRST) + LAST],
    "chunks, the last one by itself": [chunked(FIRST), LAST],
    "a trailer behind the last chunk": [chunked(FIRST) + b"0\r\nX-Cost: 1\r\n\r\n"],
    "100 before the answer": [b"HTTP/1.1 100 Continue\r\n\r\n" + sized(FIRST)],
    "103 and 102 before it": [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
        sized(FIRST),
    ],
    "blank lines and comments behind [DONE]": [sized(FIRST + b"\n: bye\n\n")],
    "compressed": [sized(gzip.compress(FIRST), "Content-Encoding: gzip")],
    "deflated": [sized(zlib.compress(FIRST), "Content-Encoding: deflate")],
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("script", KEPT.values(), ids=KEPT)
def test_a_connection_that_said_its_answer_is_used_again(
    script: list[Step], loop: Callable[[], Any]
) -> None:
    with raw_model(script) as model:
        assert in_turn(model, loop) == ["first", "second"]
        assert model.over == [1, 1]


# What is as long as one reading of client libraries, so that what follows stays behind in them.
PADDED = b": " + b"x" * (65536 - len(sized(b"x" * 65000)) + 65000 - len(FIRST) - 4) + b"\n\n"
LONG = sized(PADDED + FIRST)

CLOSED: dict[str, list[Step]] = {
    # Behind the answer, in the same bytes.
    "a second answer behind a length": [sized(FIRST) + POISON],
    "a second answer behind the last chunk": [chunked(FIRST) + LAST + POISON],
    "a second answer behind 64 KiB": [LONG + POISON],
    "half a head behind it": [sized(FIRST) + POISON[:30]],
    "a line end behind it": [sized(FIRST) + b"\r\n"],
    "100 behind it": [sized(FIRST) + b"HTTP/1.1 100 Continue\r\n\r\n"],
    "100 and an answer behind it": [sized(FIRST) + b"HTTP/1.1 100 Continue\r\n\r\n" + POISON],
    "no HTTP behind it": [sized(FIRST) + b"\x00\x01\x02"],
    "more of the body than its length": [sized(FIRST) + stream_of("poison")],
    # A moment later, while nobody asks anything.
    "an answer that nobody asked for": [sized(FIRST), GO, POISON],
    "half an answer that nobody asked for": [chunked(FIRST) + LAST, GO, POISON[:30]],
    "a late 100": [sized(FIRST), GO, b"HTTP/1.1 100 Continue\r\n\r\n"],
    "a time-out": [sized(FIRST), GO, sized(b"", status="HTTP/1.1 408 Timeout"), CLOSE],
    "its end": [sized(FIRST), GO, CLOSE],
    # Within the answer, behind its last word.
    "a word behind [DONE]": [sized(FIRST + stream_of("poison"))],
    "a word behind [DONE], later": [chunked(FIRST), chunk(stream_of("poison")) + LAST],
    "an error behind [DONE]": [sized(FIRST + event({"error": "too late"}))],
    "much of nothing behind [DONE]": [sized(FIRST + b"\n" * 2_000_000)],
    "nothing, without an end, behind [DONE]": [head_of() + FIRST, ENDLESS],
    "silence behind [DONE]": [chunked(FIRST), GO, LAST],
    # What says itself that it is the last.
    "Connection: close": [sized(FIRST, "Connection: close")],
    "HTTP/1.0": [sized(FIRST, status="HTTP/1.0 200 OK")],
    "HTTP/1.0 up to its end": [head_of(status="HTTP/1.0 200 OK") + FIRST, CLOSE],
    "no length": [head_of() + FIRST, CLOSE],
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("script", CLOSED.values(), ids=CLOSED)
def test_a_connection_that_said_anything_else_is_not_used_again(
    script: list[Step], loop: Callable[[], Any]
) -> None:
    with raw_model(script) as model:
        assert in_turn(model, loop) == ["first", "second"]
        assert model.over == [1, 2]


ENDED = event({"choices": [{"delta": {"content": "first"}, "finish_reason": "stop"}]})
LONG_BODY = b"x" * 300_000
FAILED: dict[str, tuple[str, list[Step]]] = {
    "an error of 300 KB": (
        "upstream_rate_limited",
        [sized(LONG_BODY, status="HTTP/1.1 429 Slow") + POISON],
    ),
    "an error and an answer": (
        "upstream_error",
        [sized(b"no", status="HTTP/1.1 500 No") + POISON],
    ),
    "an error in the stream": (
        "upstream_broken_stream",
        [sized(event({"error": "no"}) + FIRST) + POISON],
    ),
    "a body that is cut": ("upstream_broken_stream", [head_of("Content-Length: 999"), CLOSE]),
    "chunks that are none": ("upstream_broken_stream", [chunked() + b"zz\r\n" + POISON]),
    "no HTTP": ("upstream_broken_stream", [b"hello\r\n\r\n" + POISON]),
    "a switch of protocols": (
        "upstream_broken_stream",
        [b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + POISON],
    ),
    "100 without an end": (
        "upstream_broken_stream",
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + POISON],
    ),
    "a head without an end": (
        "upstream_broken_stream",
        [b"HTTP/1.1 200 OK\r\n" + b"X-More: yes\r\n" * 20_000],
    ),
    "a compressed body that is cut": (
        "upstream_broken_stream",
        [sized(gzip.compress(event({}))[:-9], "Content-Encoding: gzip") + POISON],
    ),
    "more behind what was compressed": (
        "upstream_broken_stream",
        [sized(gzip.compress(b"\n") + b"more", "Content-Encoding: gzip") + POISON],
    ),
    "a coding that nobody asked for": (
        "upstream_broken_stream",
        [sized(FIRST, "Content-Encoding: br") + POISON],
    ),
    "blank, and more behind it": ("upstream_broken_stream", [sized(b"\n\n") + POISON, CLOSE]),
    # An ending that is in each chunk is none.
    "an ending, more, and a cut": (
        "upstream_broken_stream",
        [head_of("Content-Length: 9999") + ENDED + ENDED, CLOSE],
    ),
    "an ending, more, and silence": ("upstream_timeout", [chunked(ENDED, ENDED), GO]),
    "a document of 17 MB": (
        "upstream_broken_stream",
        [sized(b'{"x": "' + b"x" * 17_000_000 + b'"}') + POISON],
    ),
}


# Blank lines, as some send while a request waits its turn, and then nothing more.
BLANK: dict[str, list[Step]] = {
    "with a length": [sized(b"\n\n")],
    "in chunks": [chunked(b"\n", b"\n") + chunk(b"\n") + LAST],
    "compressed": [sized(gzip.compress(b"\n"), "Content-Encoding: gzip")],
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("script", BLANK.values(), ids=BLANK)
def test_an_answer_of_blank_lines_is_none_and_nobody_waits_for_more(
    script: list[Step], loop: Callable[[], Any]
) -> None:
    with raw_model(script) as model:
        assert in_turn(model, loop) == ["upstream_broken_stream", "second"]
        assert model.over == [1, 1]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("code", "script"), FAILED.values(), ids=FAILED)
def test_what_fails_leaves_nothing_to_the_next(
    code: str, script: list[Step], loop: Callable[[], Any]
) -> None:
    with raw_model(script) as model:
        assert in_turn(model, loop) == [code, "second"]
        assert model.over == [1, 2]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "script",
    [
        [chunked(ENDED), GO],
        [head_of() + ENDED, ENDLESS],
        [head_of("Content-Length: 999") + ENDED, CLOSE],
    ],
    ids=["silence", "nothing, without an end", "a cut"],
)
def test_after_the_last_word_nobody_waits_for_long(
    script: list[Step], loop: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plateau_sse.agents.framing.USAGE_S", 0.2)
    with raw_model(script) as model:
        assert in_turn(model, loop) == ["first", "second"]
        assert model.over == [1, 2]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_is_given_up_leaves_nothing_to_the_next(loop: Callable[[], Any]) -> None:
    delta = event({"choices": [{"delta": {"content": "first"}}]})
    with raw_model([chunked(delta), GO, chunk(FIRST) + LAST]) as model:
        agent = agent_of(model.base_url)

        async def main() -> str:
            run = Run("r1", "openai", "Hi", [Message("user", "Hi")], {})
            parts = cast("AsyncGenerator[Yielded, None]", agent(run))
            assert await anext(parts) == "first"
            await parts.aclose()
            model.go.set()
            await asyncio.to_thread(model.said.wait, WITHIN_S)
            return await ask(agent)

        with asyncio.Runner(loop_factory=loop) as runner:
            assert runner.run(main()) == "second"
        assert model.over == [1, 2]


def test_what_is_packed_in_little_leaves_others_their_turn() -> None:
    """4 MB of blank lines in 4 KB: deadlines and other runs go on meanwhile."""
    bomb = gzip.compress(b"data: \n\n" + b"\n" * 4_000_000)
    with raw_model([sized(bomb, "Content-Encoding: gzip")]) as model:
        agent = agent_of(model.base_url)

        async def scenario() -> int:
            asking = asyncio.ensure_future(ask(agent))
            turns = 0
            while not asking.done():
                turns += 1
                await asyncio.sleep(0)
            assert await asking == "upstream_broken_stream"
            return turns

        # One for each piece that is unpacked, at least.
        assert asyncio.run(scenario()) > 4_000_000 // (64 * 1024)
