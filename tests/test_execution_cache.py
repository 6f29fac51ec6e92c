"""What is remembered of an attempt: a whole answer, under the version that was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from redis import Redis

from plateau_sse.agents import (
    AgentError,
    Data,
    File,
    Finish,
    Output,
    Reasoning,
    Run,
    Source,
    ToolCall,
    ToolError,
    ToolResult,
    Usage,
    Yielded,
    hosted,
)
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.errors import StoreFull
from plateau_sse.runner.writer import Refused
from plateau_sse.store.answers.cache import Cache, Question, digest_of, key_of
from plateau_sse.store.conversations.conversations import Conversations, answered, asked
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.streams import Streams
from tests.executions import (
    LIMITS,
    VERSION,
    execute,
    execute_with_cache,
    execution_of,
    told_of,
)
from tests.store import claim, on_streams, until

KEY = "0" * 24


async def good(run: Run) -> AsyncIterator[Yielded]:
    yield "né"
    yield ToolResult("1", "found")
    for _ in range(20):
        yield ToolResult("2", "x" * 10_000)
    yield "e"
    yield Usage(1, 2)


async def with_output(run: Run) -> AsyncIterator[Yielded]:
    yield "draft"
    yield Output("final")


async def failing(run: Run) -> AsyncIterator[Yielded]:
    yield "half"
    raise AgentError("upstream_error", "no")


def test_an_answer_is_in_the_cache_before_its_end_is_told(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        client: Any = connect(cache_url, "test-answers", timeout_s=20)
        looking: Any = connect(cache_url, "test-looking")
        answers = Cache(client, ttl_s=60, max_bytes=10 * 1024**2)

        async def storing() -> bool:
            clients = await looking.client_list()
            return any(c["name"] == "test-answers" and c["cmd"] == "set" for c in clients)

        try:
            await looking.client_pause(15_000, all=False)
            async with execution_of(
                streams, good, answers=answers, version=VERSION, cache_key=KEY, ttl_s=30
            ) as execution:
                running = asyncio.create_task(execution.run())
                await until(storing, "the answer is on its way into the cache")
                record = await streams.record(execution.run_id)
                assert record is not None and record.status == "running"
                await looking.client_unpause()
                await running
                told = await told_of(streams, redis, execution.run_id)
            answer = await answers.get(KEY)
            assert answer is not None and answer.final == "née" == told.record.output
            assert (answer.agent, answer.owner) == ("notes", "ann")
            assert answer.usage == {"input_tokens": 1, "output_tokens": 2}
            # All of it, in its order, and position by position.
            assert answer.parts == told.record.parts and len(answer.parts) == 23
            hit, run = answer.tape(execution.run_id), told.record.tape
            assert hit.entries()[:-1] == run.entries()[:-1] and hit.at == run.at
            assert 25 <= await looking.ttl(keys.cache(KEY)) <= 30
        finally:
            await looking.client_unpause()
            await looking.aclose()
            await client.aclose()

    on_streams(streams_url, scenario)


def test_the_final_output_is_what_is_remembered(streams_url: str, cache_url: str) -> None:
    asked = {"version": VERSION, "cache_key": KEY}
    execute_with_cache(streams_url, cache_url, with_output, **asked)

    async def look() -> None:
        client: Any = connect(cache_url, "test")
        answer = await Cache(client, ttl_s=60, max_bytes=1024**2).get(KEY)
        await client.aclose()
        assert answer is not None and (answer.text, answer.final) == (b"draft", "final")

    asyncio.run(look())


@pytest.mark.parametrize(
    ("agent", "job"),
    [
        # Asked of another version, by who does not say what else; not to be stored; failed.
        (good, {"version": "v0", "cache_key": KEY}),
        (good, {"version": VERSION}),
        # By a web worker of another release, whose entries look different.
        (good, {"version": VERSION, "cache_key": KEY, "format": "other"}),
        (failing, {"version": VERSION, "cache_key": KEY}),
        (None, {"version": VERSION, "cache_key": KEY}),
    ],
)
def test_what_may_not_be_remembered_is_not(
    streams_url: str, cache_url: str, agent: Any, job: dict[str, Any]
) -> None:
    told = execute_with_cache(streams_url, cache_url, agent, **job)
    assert told.record.status == ("completed" if agent is good else "failed")
    with Redis.from_url(cache_url, protocol=2) as client:
        assert client.keys("*") == []


def test_an_answer_is_cached_under_the_version_that_gave_it(
    streams_url: str, cache_url: str
) -> None:
    """Where nobody lives any more with the one that was asked."""
    question = Question("notes", "v0", "ann", "", "", [], {})
    job: dict[str, Any] = {
        "version": "v0",
        "cache_key": key_of(question),
        "question": digest_of(question),
    }
    kept = key_of(question._replace(version=VERSION))

    async def scenario(streams: Streams, redis: Any) -> None:
        client: Any = connect(cache_url, "test")
        cache = Cache(client, ttl_s=60, max_bytes=10 * 1024**2)
        try:
            async with execution_of(
                streams, good, answers=cache, redis=redis, **job
            ) as execution:
                await execution.run()
            assert await cache.get(key_of(question)) is None
            answer = await cache.get(kept)
            assert answer is not None and answer.final == "née"
            # Who had a share of the run is led there.
            found = await cache.of_run(execution.run_id, token="", owner="ann")
            assert found == (kept, answer)
        finally:
            await client.aclose()

    on_streams(streams_url, scenario)


def test_no_answer_is_kept_by_a_version_that_keeps_none(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the version that was asked does."""
    monkeypatch.setattr(
        "tests.executions.RegisteredAgent", partial(RegisteredAgent, hosted=hosted(good))
    )
    told = execute_with_cache(streams_url, cache_url, good, version=VERSION, cache_key=KEY)
    assert told.record.status == "completed"
    with Redis.from_url(cache_url, protocol=2) as client:
        assert client.keys("*") == []


CALL = ToolCall("a", "look", {"at": 1})
FOR_THE_CALLER = ToolCall("b", "show", client=True)
ENDINGS: dict[str, tuple[list[Any], str, bool]] = {
    "nothing is said of it": (["text"], "stop", True),
    "stop": (["text", Finish("stop")], "stop", True),
    "an output alone": ([Output("final")], "stop", True),
    "a tool's result alone": ([ToolResult("a", 1)], "stop", True),
    "a call and its result": ([CALL, ToolResult("a", 1), "text"], "stop", True),
    "a call for the caller": ([FOR_THE_CALLER, Finish("tool_calls")], "tool_calls", True),
    "one of two": ([CALL, FOR_THE_CALLER, Finish("tool_calls")], "tool_calls", True),
    "a call of the agent's own": ([CALL, Finish("tool_calls")], "tool_calls", False),
    "counts that are None": (["text", Usage(None, 5)], "stop", True),  # type: ignore[arg-type]
    "the last one counts": (["text", Finish("length"), Finish("stop")], "stop", True),
    "length": (["text", Finish("length")], "length", False),
    "a filter": (["text", Finish("content_filter")], "content_filter", False),
    "an answer is awaited": (["text", Finish("input_required")], "input_required", False),
    "other": (["text", Finish("other")], "other", False),
    "unknown": (["text", Finish("STOP")], "other", False),
    "none": (["text", Finish(None)], "other", False),  # type: ignore[arg-type]
    "no calls": (["text", Finish("tool_calls")], "tool_calls", False),
    "results alone": ([ToolResult("a", 1), Finish("tool_calls")], "tool_calls", False),
    "arguments that are no JSON": ([ToolCall("a", "b", object()), "text"], "stop", False),
    "a result that is cut": ([ToolResult("a", "x" * 40_000), "text"], "stop", True),
    "an error alone": ([ToolError("a", "no")], "stop", True),
    "a file alone": ([File("image/png", "https://x.test/a.png")], "stop", True),
    "data alone": ([Data("chart", [1])], "stop", True),
    "data that does not stay": ([Data("chart", [1], transient=True)], "stop", False),
    "a preliminary result": ([ToolResult("a", 1, preliminary=True)], "stop", False),
    "a thought alone": ([Reasoning("Hm.")], "stop", False),
    "a source alone": ([Source("s", "https://x.test/")], "stop", False),
    "an id that is cut": ([ToolCall("x" * 501, "b"), "text"], "stop", False),
    "nothing": ([], "stop", False),
    "white space": ([" \n", Output("")], "stop", False),
    "progress alone": ([Usage(1, 0)], "stop", False),
}


@pytest.mark.parametrize(("items", "reason", "is_kept"), ENDINGS.values(), ids=ENDINGS)
def test_only_a_whole_answer_is_kept(
    streams_url: str, cache_url: str, items: list[Any], reason: str, is_kept: bool
) -> None:
    async def agent(run: Run) -> AsyncIterator[Yielded]:
        for item in items:
            yield item

    told = execute_with_cache(streams_url, cache_url, agent, version=VERSION, cache_key=KEY)
    assert told.last["finish_reason"] == told.record.finish_reason == reason
    with Redis.from_url(cache_url, protocol=2) as client:
        assert bool(client.keys("*")) == is_kept


def test_an_answer_of_nothing_is_not_remembered_and_its_question_is(streams_url: str) -> None:
    """The next request would hold a message of nothing, which endpoints refuse."""
    place = "0" * 32

    async def filtered(run: Run) -> AsyncIterator[Yielded]:
        yield Finish("content_filter")

    async def scenario(streams: Streams, redis: Any) -> None:
        conversations = Conversations(redis, LIMITS, Fullness(redis, 64 * 1024**2).bound)
        how = {"redis": redis, "place": place, "asked_ms": 1}
        async with execution_of(streams, filtered, **how) as execution:
            await execution.run()
        assert [it.content for it in await conversations.read(place)] == ["Why?"]

    on_streams(streams_url, scenario)


def test_a_run_completes_without_a_cache(streams_url: str) -> None:
    told = execute(streams_url, good, version=VERSION, cache_key=KEY)
    assert told.record.output == "née"


def test_a_cache_that_is_away_costs_the_answer_nothing(streams_url: str) -> None:
    # A port that nobody listens on.
    url = "redis://127.0.0.1:1/0"
    told = execute_with_cache(streams_url, url, good, version=VERSION, cache_key=KEY)
    assert told.record.output == "née"


@pytest.mark.parametrize("fault", ["unpackable", "a bug"])
def test_a_fault_of_the_cache_costs_the_answer_nothing(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def pack(answer: Any) -> bytes:
        raise KeyError(fault)

    monkeypatch.setattr("plateau_sse.store.answers.cache.pack", pack)
    told = execute_with_cache(streams_url, cache_url, good, version=VERSION, cache_key=KEY)
    assert (told.record.status, told.record.output) == ("completed", "née")


class Ending(Streams):
    """The same store, in which something else happens to a run whose end is on its way."""

    def __init__(self, streams: Streams, kind: str) -> None:
        self.__dict__ = streams.__dict__
        self._kind = kind

    async def finish(self, run_id: str, *args: Any, **more: Any) -> Appended:
        if self._kind == "stays full":
            raise StoreFull("no room")
        if self._kind == "another attempt":
            await claim(self, run_id, 2, "r2")
        return await super().finish(run_id, *args, **more)


@pytest.mark.parametrize(
    ("kind", "is_left"), [("", True), ("stays full", False), ("another attempt", False)]
)
def test_a_run_leaves_only_the_answer_that_it_ended_with(
    streams_url: str,
    cache_url: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    is_left: bool,
) -> None:
    """What is in the cache is an answer to its question all the same."""
    monkeypatch.setattr("plateau_sse.runner.writer.FULL_S", 0.1)

    async def scenario(streams: Streams, redis: Any) -> None:
        client: Any = connect(cache_url, "test")
        answers = Cache(client, ttl_s=60, max_bytes=10 * 1024**2)
        how = {"answers": answers, "redis": redis, "version": VERSION, "cache_key": KEY}
        async with execution_of(Ending(streams, kind), good, **how) as execution:
            refused = pytest.raises(Refused) if kind == "another attempt" else nullcontext()
            with refused:
                await execution.run()
            left = await answers.of_run(execution.run_id, token="", owner="ann")
            pointer = await client.get(keys.left_by(execution.run_id))
            record = await streams.record(execution.run_id)
        answer = await answers.get(KEY)
        await client.aclose()
        assert answer is not None and answer.tag == ids.tag_of(execution.run_id)
        assert record is not None and (record.status == "completed") == is_left
        assert left == ((KEY, answer) if is_left else None)
        assert (pointer is not None) == is_left

    on_streams(streams_url, scenario)


def test_what_is_remembered_is_the_answer_that_readers_got(streams_url: str) -> None:
    """The first attempt's runner died when its answer was in the conversation, and its end
    was not in the stream."""
    place = "0" * 32

    async def scenario(streams: Streams, redis: Any) -> None:
        conversations = Conversations(redis, LIMITS, Fullness(redis, 64 * 1024**2).bound)
        how = {"attempt": 2, "redis": redis, "place": place, "asked_ms": 1}
        async with execution_of(streams, good, **how) as execution:
            why = [{"role": "user", "content": "Why?"}]
            question = asked(execution.run_id, why, "token")
            first = answered(execution.run_id, "another answer", [], attempt=1)
            await conversations.add(place, [question, first])
            await execution.run()
            told = await told_of(streams, redis, execution.run_id)
        assert told.record.output == "née"
        remembered = await conversations.read(place)
        assert [it.content for it in remembered] == ["Why?", "née"]
        assert [it.attempt for it in remembered] == [0, 2]

    on_streams(streams_url, scenario)
