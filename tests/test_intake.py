"""Taking a run on: whoever is told its id finds it in the queue, whatever went wrong before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.errors import Problem
from service.runs.ask import Ask
from service.runs.placement import Placement
from service.runs.queue import Intake
from service.runs.versions import Versions
from service.store.conversations import Conversations
from service.store.external import External
from service.store.fullness import Fullness
from service.store.inflight import Inflight
from service.store.queue import Queue
from service.store.shares import Shares
from service.store.stats import Stats
from service.store.streams import Streams
from tests.executions import LIMITS, NO_CACHE
from tests.store import on_streams

KEYED = Ask("notes", "ann", "", [{"role": "user", "content": "?"}], {}, idempotency_key="k")
UNKEYED = KEYED._replace(idempotency_key="")


class ForgetfulStreams(Streams):
    """Its first answer gets lost, so the client library asks again."""

    async def create(self, run_id: str, **values: Any) -> str:
        await super().create(run_id, **values)
        return await super().create(run_id, **values)


def on_intake(
    url: str, scenario: Callable[[Intake, Queue, Any], Awaitable[None]], kind: type[Streams]
) -> None:
    async def opened(_: Streams, redis: Any) -> None:
        queue = Queue(redis)
        await queue.open()
        await queue.publish_agents({"notes": "1"})
        fullness = Fullness(redis, 64 * 1024**2)
        stats = Stats(redis)
        placement = Placement(
            kind(redis, alive_s=120, record_s=600),
            Shares(redis),
            queue,
            External(redis, idle_s=60),
            fullness,
            None,
            stats,
            limit=10,
        )
        intake = Intake(
            placement,
            Versions(queue),
            NO_CACHE,
            Inflight(redis, life_s=300),
            Conversations(redis, LIMITS, fullness.bound),
            stats,
            window_s=600,
        )
        await scenario(intake, queue, redis)

    on_streams(url, opened)


async def queued_runs(queue: Queue) -> list[str]:
    return [ticket.run_id for ticket in await queue.take("r1", 10, 1)]


@pytest.mark.parametrize("ask", [KEYED, UNKEYED], ids=["keyed", "unkeyed"])
def test_a_record_whose_answer_was_lost_is_handed_over(streams_url: str, ask: Ask) -> None:
    async def scenario(intake: Intake, queue: Queue, redis: Any) -> None:
        await queue.take_over("r1", 0)
        taken = await intake.take(ask)
        assert await queued_runs(queue) == [taken.run_id]

    on_intake(streams_url, scenario, ForgetfulStreams)


def test_what_a_key_stands_for_is_left_to_who_comes_next(streams_url: str) -> None:
    """Another may have come with the same key meanwhile, and have been told the run's id."""

    async def scenario(intake: Intake, queue: Queue, redis: Any) -> None:
        with pytest.raises(Problem) as refused:
            await intake.take(KEYED)
        assert refused.value.code == "no_runner"
        await queue.take_over("r1", 0)
        taken = await intake.take(KEYED)
        assert taken.status == "queued"
        assert await queued_runs(queue) == [taken.run_id]

    on_intake(streams_url, scenario, Streams)


def test_without_a_key_a_refused_run_leaves_nothing_behind(streams_url: str) -> None:
    async def scenario(intake: Intake, queue: Queue, redis: Any) -> None:
        with pytest.raises(Problem):
            await intake.take(UNKEYED)
        assert [key async for key in redis.scan_iter("run:*")] == []

    on_intake(streams_url, scenario, Streams)
