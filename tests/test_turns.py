"""Who has much to do at once lets the other runs of its runner have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from plateau_sse.agents import Run, Yielded
from plateau_sse.agents import upstream as requests
from plateau_sse.agents.upstream import Upstream
from plateau_sse.runner import driving
from plateau_sse.store.runs.streams import Streams
from tests.executions import execution_of, told_of
from tests.raw_model import GO, chunk, head_of, raw_model, stream_of
from tests.store import on_streams
from tests.upstreams import agent_of, ask


class Turns:
    """How many the loop has had in the block."""

    def __init__(self) -> None:
        self.count = 0

    async def _count(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    async def __aenter__(self) -> Turns:
        self._counting = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._counting.cancel()


def test_a_whole_answer_that_is_there_at_once(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "TURN_S", 0.0)
    seen: list[int] = []

    async def agent(run: Run) -> AsyncIterator[Yielded]:
        async with Turns() as turns:
            for _ in range(1000):
                yield "a"
            seen.append(turns.count)

    async def scenario(streams: Streams, redis: Any) -> str:
        async with execution_of(streams, agent) as execution:
            await execution.run()
            return (await told_of(streams, redis, execution.run_id)).text

    assert on_streams(streams_url, scenario) == "a" * 1000
    assert seen[0] >= 999


def test_a_body_without_an_end_has_a_deadline() -> None:
    """Also while more of it is at hand than was read."""
    pieces = b"".join(chunk(b"x") for _ in range(1000))

    async def scenario(url: str) -> None:
        upstream = Upstream(url, 10)
        loop = asyncio.get_running_loop()
        async with upstream.post(b"{}", {"Content-Type": "application/json"}) as response:
            assert await response.read() == b"x"
            assert await response.read(loop.time() + 10) == b"x"
            with pytest.raises(TimeoutError):
                await response.read(loop.time())

    with raw_model([head_of("Transfer-Encoding: chunked") + pieces, GO]) as model:
        asyncio.run(scenario(f"{model.base_url}/chat/completions"))


def test_a_body_of_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "TURN_S", 0.0)
    body = stream_of("x" * 3000)
    pieces = b"".join(chunk(body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"

    async def scenario(url: str) -> tuple[str, int]:
        async with Turns() as turns:
            return await ask(agent_of(url)), turns.count

    with raw_model([head_of("Transfer-Encoding: chunked") + pieces]) as model:
        said, turns = asyncio.run(scenario(model.base_url))
    assert said == "x" * 3000 and turns >= len(body)
