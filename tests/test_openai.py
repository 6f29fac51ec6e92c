"""The agent `openai` against a real HTTP server that behaves in every way it may."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

import pytest

from plateau_sse.agents import (
    AgentError,
    Finish,
    Message,
    Run,
    ToolCall,
    ToolDelta,
    Usage,
    Yielded,
)
from plateau_sse.agents.openai import make_openai
from plateau_sse.errors import RUN_FAILURES
from plateau_sse.eventsource import EventReader, ServerSentMessage, TooLong
from plateau_sse.settings import Settings
from tests.fake_model import TEXT, FakeModel, fake_model

KEY = "sk-secret-key"


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    with fake_model() as running:
        yield running


def generate(
    url: str, mode: str = "normal", *, silence_s: int = 5, **options: Any
) -> AsyncGenerator[Yielded, None]:
    settings = Settings(
        openai_base_url=url,
        openai_api_key=KEY,
        openai_model=mode,
        openai_silence_s=silence_s,
    )
    agent = make_openai(settings, retries=0)
    run = Run("r1", "openai", "Hi", [Message("user", "Hi")], options)
    return cast("AsyncGenerator[Yielded, None]", agent(run))


async def collect(parts: AsyncGenerator[Yielded, None]) -> list[Yielded]:
    return [part async for part in parts]


def answer(url: str, mode: str = "normal", **options: Any) -> list[Yielded]:
    return asyncio.run(collect(generate(url, mode, **options)))


def text_of(parts: list[Yielded]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def failure(url: str, mode: str, **options: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        answer(url, mode, **options)
    assert caught.value.code in RUN_FAILURES
    assert KEY not in caught.value.message
    assert len(caught.value.message) <= 500
    return caught.value


@pytest.mark.parametrize("mode", ["normal", "bytewise", "plain", "no-done"])
def test_the_text_arrives_whole(model: FakeModel, mode: str) -> None:
    parts = answer(model.base_url, mode)
    assert text_of(parts) == TEXT
    assert (mode == "no-done") or parts[-1] == Usage(7, 11)


def test_a_character_cut_into_two_escapes_is_one_again(model: FakeModel) -> None:
    assert text_of(answer(model.base_url, "halves")) == "🏔"


def test_the_request_says_what_was_asked_for(model: FakeModel) -> None:
    before = len(model.requests)
    answer(model.base_url + "/", "normal", temperature=0.5, seed=3)
    request = model.requests[before]
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "normal",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_tool_calls_come_out_complete(model: FakeModel) -> None:
    parts = answer(model.base_url, "tools")
    assert [it for it in parts if not isinstance(it, ToolDelta)] == [
        ToolCall("call_a", "weather", '{"city": "Köln"}', client=True),
        ToolCall("call_b", "clock", "{}", client=True),
        Usage(7, 11),
        Finish("tool_calls"),
    ]
    assert [it for it in parts if isinstance(it, ToolDelta)] == [
        ToolDelta("call_a", "weather", '{"city": '),
        ToolDelta("call_b", "clock", "{"),
        ToolDelta("call_a", "weather", '{"city": "Köln"}'),
        ToolDelta("call_b", "clock", "{}"),
    ]


@pytest.mark.parametrize(
    ("mode", "code", "retryable", "said"),
    [
        ("307", "upstream_rejected", False, "is not followed there"),
        ("400", "upstream_rejected", False, "no such parameter"),
        ("401", "upstream_rejected", False, "bad key: [key]"),
        ("429", "upstream_rate_limited", True, "slow down"),
        ("500", "upstream_error", True, "500: xxx"),
        ("cut", "upstream_broken_stream", True, "broke off"),
        ("unfinished", "upstream_broken_stream", True, "without finishing"),
        ("malformed", "upstream_broken_stream", True, "not JSON"),
        ("endless", "upstream_broken_stream", True, "bytes"),
        ("error-object", "upstream_broken_stream", True, "ran out of memory"),
        ("html", "upstream_broken_stream", True, "a page"),
    ],
)
def test_each_way_to_break_has_its_code(
    model: FakeModel, mode: str, code: str, retryable: bool, said: str
) -> None:
    error = failure(model.base_url, mode)
    assert (error.code, error.retryable) == (code, retryable)
    assert said in error.message


def test_a_silent_upstream_is_given_up(model: FakeModel) -> None:
    error = failure(model.base_url, "silent", silence_s=1)
    assert (error.code, error.retryable) == ("upstream_timeout", True)


def test_nobody_there_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        error = failure(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "normal")
    assert (error.code, error.retryable) == ("upstream_unreachable", True)


@pytest.mark.parametrize(
    ("url", "mode"), [("", "normal"), ("http://x/v1", ""), ("localhost:1/v1", "normal")]
)
def test_a_missing_or_wrong_address_is_a_matter_of_settings(url: str, mode: str) -> None:
    assert failure(url, mode).code == "upstream_not_configured"


def test_unknown_options_are_passed_on(model: FakeModel) -> None:
    """What is told of it is ours to say."""
    before = len(model.requests)
    answer(model.base_url, "normal", made_up={"x": 1}, stream=False, messages=[])
    body = model.requests[before].body
    assert body["made_up"] == {"x": 1} and body["stream"] is True
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


def test_closing_the_generator_hangs_up_on_the_upstream(model: FakeModel) -> None:
    async def main() -> bool:
        before = len(model.requests)
        parts = generate(model.base_url, "slow")
        assert await anext(parts) == "0 "
        await parts.aclose()
        return await model.requests[before].wait_gone()

    assert asyncio.run(main())


def test_cancelling_the_task_hangs_up_on_the_upstream(model: FakeModel) -> None:
    async def main() -> bool:
        before = len(model.requests)
        parts = generate(model.base_url, "silent", silence_s=60)
        assert await anext(parts) == "wait"
        waiting = asyncio.ensure_future(anext(parts))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await model.requests[before].wait_gone()

    assert asyncio.run(main())


def kept(model: FakeModel, mode: str, runs: int) -> list[int]:
    """Of runs of one agent, each after the other, over which connections they went; each gets
    its answer whole."""
    before = len(model.requests)
    settings = Settings(openai_base_url=model.base_url, openai_model=mode)
    agent = make_openai(settings, retries=0)

    async def main() -> None:
        for _ in range(runs):
            run = Run("r1", "openai", "Hi", [Message("user", "Hi")], {})
            parts = cast("AsyncGenerator[Yielded, None]", agent(run))
            assert text_of(await collect(parts)) == TEXT

    asyncio.run(main())
    # A loop that is not the first: nothing of the one before is used in it.
    asyncio.run(main())
    return [request.connection for request in model.requests[before:]]


def test_runs_go_over_a_connection_that_is_kept(model: FakeModel) -> None:
    first, again, *later = kept(model, "normal", 2)
    assert again == first
    assert later == [first + 1] * 2


def test_a_kept_connection_that_was_closed_costs_no_run(model: FakeModel) -> None:
    """The one that found it closed was sent once more, over a new one."""
    numbers = kept(model, "stale", 3)
    first = numbers[0]
    assert numbers == [first + n for n in (0, 0, 1, 1, 2, 3, 3, 4, 4, 5)]


def test_a_request_that_fails_over_a_new_connection_is_not_sent_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        accepted: list[socket.socket] = []

        def hang_up() -> None:
            peer, _ = server.accept()
            accepted.append(peer)
            peer.recv(65536)
            peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = failure(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "normal")
        thread.join()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (error.code, error.retryable) == ("upstream_broken_stream", True)
    assert len(accepted) == 1


STREAM = (
    "\ufeff: hello\r\nid: 1-1\revent: x\ndata: é\ndata:  two\r\n\r\nretry: 1500\ndata\n\n\n"
)
MESSAGES = [ServerSentMessage("é\n two", "x", "1-1"), ServerSentMessage("")]


@pytest.mark.parametrize("size", range(1, 12))
def test_events_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    raw = STREAM.encode()
    reader = EventReader()
    chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert [message for chunk in chunks for message in reader.feed(chunk)] == MESSAGES
    assert (reader.retry_ms, reader.comments) == (1500, 1)


@pytest.mark.parametrize("line", [b"data: " + b"x" * 200, b"data: xxxxxxxx\n" * 20])
def test_an_event_without_an_end_is_refused(line: bytes) -> None:
    reader = EventReader(max_event=100)
    with pytest.raises(TooLong):
        list(reader.feed(line))
