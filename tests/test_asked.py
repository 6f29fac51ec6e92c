"""What one owner's large questions take of the store, which is not all that others live on."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.store.queue import asked as asked_module
from plateau_sse.store.queue.asked import LARGE_BYTES, SHARE, Asked
from plateau_sse.store.redis import keys
from tests.intakes import QUESTION, Desk, at_desk

MIB = 1024**2
# Of the desk's store.
MOST = int(64 * MIB * SHARE)
SIZE = 512 * 1024
FIT = MOST // (SIZE + 1024)


def large(number: int, owner: str = "ann", size: int = SIZE) -> Ask:
    text = f"{number} ".ljust(size, "x")
    return QUESTION._replace(owner=owner, messages=[{"role": "user", "content": text}])


async def take_all(intake: Any, number: int, owner: str = "ann") -> list[Taken]:
    return [await intake.take(large(at, owner)) for at in range(number)]


async def refused(intake: Any, ask: Ask) -> Problem:
    with pytest.raises(Problem) as caught:
        await intake.take(ask)
    return caught.value


@pytest.fixture(autouse=True)
def known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_module, "BEGINS_S", -1)


def intake_of(desk: Desk) -> Any:
    return desk.intake(asked=Asked(desk.redis), job_bytes=2 * MIB)


def test_an_owner_has_a_quarter_and_others_theirs(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        intake = intake_of(desk)
        taken = await take_all(intake, FIT)
        problem = await refused(intake, large(FIT))
        assert problem.code == "owner_limit" and "quarter" in problem.detail
        assert problem.headers is not None and problem.headers["Retry-After"]
        # It has left no record, and is none of what waits.
        assert len(await desk.queued()) == FIT
        # A small question is none of these, and another owner has nothing to do with it.
        await intake.take(large(0, size=LARGE_BYTES // 2))
        await intake.take(large(0, owner="bob"))
        # Nor is any of another worker's.
        assert (await refused(intake_of(desk), large(FIT))).code == "owner_limit"
        assert len({one.run_id for one in taken}) == FIT

    at_desk(streams_url, "", scenario)


def test_what_has_ended_takes_nothing(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        intake = intake_of(desk)
        taken = await take_all(intake, FIT)
        await refused(intake, large(FIT))
        cancel = intake._placement.cancel(taken[0].run_id, "notes", "ann", "requested")
        assert await cancel == "cancelled"
        # For a moment nobody looks again.
        assert (await refused(intake, large(FIT))).code == "owner_limit"
        # Another worker has refused nobody yet, and looks.
        again = await intake_of(desk).take(large(FIT))
        assert again.run_id in await desk.queued()

    at_desk(streams_url, "", scenario)


def test_who_is_refused_is_not_counted(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_module, "BEGINS_S", 60)

    async def scenario(desk: Desk) -> None:
        asked = Asked(desk.redis)
        bound, size = 16 * MIB, 900 * 1024
        admitted = [await asked.admit("ann", f"{at:032x}", size, bound) for at in range(9)]
        assert admitted == [True] * 4 + [False] * 5
        assert await desk.redis.zcard(keys.large("ann")) == 4
        assert 0 < await desk.redis.ttl(keys.large("ann")) <= asked_module.KNOWN_S

    at_desk(streams_url, "", scenario)


def test_who_asks_again_is_counted_once(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        asked = Asked(desk.redis)
        for _ in range(3):
            assert await asked.admit("ann", "1" * 32, MIB, 4 * MIB)
        assert await desk.redis.zcard(keys.large("ann")) == 1
        # One that is larger than the share of a small store may be asked alone.
        assert await asked.admit("bob", "2" * 32, MIB, MIB)

    at_desk(streams_url, "", scenario)


def test_who_was_counted_a_moment_ago_is_not_forgotten(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may be on its way."""
    monkeypatch.setattr(asked_module, "BEGINS_S", 60)

    async def scenario(desk: Desk) -> None:
        asked = Asked(desk.redis)
        assert await asked.admit("ann", "1" * 32, MIB, 4 * MIB)
        assert not await asked.admit("ann", "2" * 32, MIB, 4 * MIB)
        assert await desk.redis.zcard(keys.large("ann")) == 1

    at_desk(streams_url, "", scenario)
