"""Which version of its agent a run is asked of, whoever finds it its place."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.intake import versions
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from tests.intakes import KEYED, LINE, QUESTION, RUNNER, Desk, at_desk
from tests.queues import take


class Died(BaseException):
    """Its process is gone, as far as one test is concerned."""


class Dying(Queue):
    async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
        raise Died


@pytest.fixture(autouse=True)
def looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "FRESH_S", -1.0)


async def deploy(desk: Desk) -> None:
    """A runner with another version, beside the one that is there."""
    await Announcements(desk.redis).say("r2", {"notes": "2"})
    await take(desk.queue, "r2", 0, ["notes@2"])


async def lines(desk: Desk) -> dict[str, list[str]]:
    """What waits in each."""
    found = await desk.redis.smembers(keys.QUEUE.asked)
    return {
        name.decode(): [
            run.decode() for run in await desk.redis.zrange(keys.line(name.decode()), 0, -1)
        ]
        for name in found
    }


def test_of_two_versions_the_latest_is_asked(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        intake = desk.intake()
        first = await intake.take(QUESTION)
        await deploy(desk)
        # The same question, of another version: neither joined nor under its key.
        second = await intake.take(QUESTION)
        assert await lines(desk) == {LINE: [first.run_id], "notes@2": [second.run_id]}
        jobs = [await desk.job(taken.run_id) for taken in (first, second)]
        assert [job.version for job in jobs] == ["1", "2"]
        assert jobs[0].question == jobs[1].question != ""
        assert jobs[0].cache_key != jobs[1].cache_key and jobs[0].flight != jobs[1].flight

    at_desk(streams_url, cache_url, scenario)


def test_who_finds_another_s_run_its_place_finds_it_that_of_its_version(
    streams_url: str, cache_url: str
) -> None:
    """Its first caller died before; a repeat under its key hears of another version."""

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(queue=Dying(desk.redis)).take(KEYED)
        await deploy(desk)
        taken = await desk.intake().take(KEYED)
        assert await lines(desk) == {LINE: [taken.run_id]}
        assert (await desk.job(taken.run_id)).version == "1"

    at_desk(streams_url, cache_url, scenario)


def test_who_joins_a_run_of_a_version_finds_it_its_place(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(queue=Dying(desk.redis)).take(QUESTION)
        taken = await desk.intake().take(QUESTION)
        assert taken.how == "joined" and await lines(desk) == {LINE: [taken.run_id]}

    at_desk(streams_url, cache_url, scenario)


def test_what_is_cancelled_while_it_waits_leaves_its_version_s_line(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        await deploy(desk)
        taken = await desk.intake().take(QUESTION)
        assert await lines(desk) == {"notes@2": [taken.run_id]}
        status = await desk.placement().cancel(taken.run_id, "notes", "ann", "requested")
        assert status == "cancelled" and await lines(desk) == {}
        assert await take(desk.queue, RUNNER, 9, [LINE]) == []

    at_desk(streams_url, cache_url, scenario)
