"""What web workers know of agents, while the streams instance says nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from plateau_sse import tasks
from plateau_sse.errors import StoreUnavailable
from plateau_sse.intake import versions as module
from plateau_sse.intake.versions import Versions
from plateau_sse.store.queue.announcements import Announced
from plateau_sse.store.redis.patience import PATIENCE_S


class Hanging:
    """Announcements that come when the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.version = "1"
        self.going = asyncio.Event()
        self.going.set()
        self.is_away = False

    async def agents(self) -> dict[str, Announced]:
        self.asked += 1
        await self.going.wait()
        if self.is_away:
            raise StoreUnavailable("as it was asked to be")
        return {"notes": Announced(self.version)}


@pytest.fixture(autouse=True)
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", -1.0)


def test_silence_costs_one_patience_and_a_new_version_is_noticed_after_it() -> None:
    async def scenario() -> None:
        announcements: Any = Hanging()
        versions = Versions(announcements)
        assert await versions.of("notes") == "1"
        announcements.going.clear()
        announcements.version = "2"
        began = time.monotonic()
        assert await asyncio.gather(*(versions.of("notes") for _ in range(50))) == ["1"] * 50
        for _ in range(50):
            assert await versions.of("notes") == "1"
        assert time.monotonic() - began < 2 * PATIENCE_S
        # One question for all of them.
        assert announcements.asked == 2
        announcements.going.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await versions.of("notes") == "2"
        await versions.close()

    asyncio.run(scenario())


def test_who_knows_nothing_is_told_that_the_store_is_away() -> None:
    async def scenario() -> None:
        announcements: Any = Hanging()
        announcements.is_away = True
        versions = Versions(announcements)
        with pytest.raises(StoreUnavailable):
            await versions.of("notes")
        announcements.is_away = False
        assert await versions.of("notes") == "1"
        announcements.is_away = True
        assert await versions.of("notes") == "1"

    asyncio.run(scenario())


def test_whoever_waits_when_the_process_closes_is_answered_and_not_cancelled() -> None:
    """What they all wait for is ended then; a cancellation that is not theirs would be taken
    for an error of the application."""

    async def scenario() -> None:
        announcements: Any = Hanging()
        versions = Versions(announcements)
        announcements.going.clear()
        asking = [asyncio.create_task(versions.of("notes")) for _ in range(3)]
        asking.append(asyncio.create_task(versions.known()))  # type: ignore[arg-type]
        for _ in range(3):
            await asyncio.sleep(0)
        assert announcements.asked == 1
        # One that goes takes nothing from the others.
        await tasks.end(asking.pop())
        assert not any(task.done() for task in asking)
        await versions.close()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in found] == [StoreUnavailable] * 3

    asyncio.run(scenario())


def test_they_are_fresh_before_anybody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.02)

    async def scenario() -> None:
        announcements: Any = Hanging()
        versions = Versions(announcements)
        keeping = asyncio.create_task(versions.keep_fresh())
        assert await versions.of("notes") == "1"
        for away in (True, False):
            # What it is told meanwhile ends nothing.
            announcements.is_away, announcements.version = away, "2"
            asked = announcements.asked
            async with asyncio.timeout(10):
                while announcements.asked < asked + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        announcements.going.clear()
        assert versions._agents["notes"].version == "2"
        await tasks.end(keeping)
        await versions.close()

    asyncio.run(scenario())
