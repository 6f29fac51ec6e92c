"""What is said in a conversation, from its asking to its answer, while others delete it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from service.store.conversations import Conversations, Message
from tests.executions import LIMITS
from tests.intakes import PLACE, QUESTION, SAID, Desk, at_desk

REMEMBER_S = 60


async def delete(conversations: Conversations) -> None:
    """In a millisecond after everything that was asked before."""
    now_ms = int(time.time() * 1000)
    while int(time.time() * 1000) == now_ms:  # noqa: ASYNC110
        await asyncio.sleep(0.0001)
    await conversations.delete(PLACE, remember_s=REMEMBER_S)


async def said_in(desk: Desk) -> list[tuple[str, str | None]]:
    return [(it.role, it.content) for it in await desk.conversations.read(PLACE)]


class Deleted(Conversations):
    """Is deleted while a worker is about to add what was asked."""

    async def add(self, place: str, messages: Sequence[Message], **how: Any) -> None:
        await delete(self)
        await super().add(place, messages, **how)


def deleted(desk: Desk) -> Conversations:
    return Deleted(desk.redis, LIMITS, desk.fullness.bound)


def test_what_is_asked_again_after_a_deletion_is_answered_in_it(
    streams_url: str, cache_url: str
) -> None:
    """It shares the run from before the deletion, whose answer belongs to both."""

    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(SAID)
        await desk.start(first.run_id)
        await delete(desk.conversations)
        again = await desk.intake().take(SAID)
        assert (again.how, again.run_id) == ("joined", first.run_id)
        await desk.complete(first.run_id)
        assert await said_in(desk) == [("user", "Why?"), ("assistant", "Because.")]

    at_desk(streams_url, cache_url, scenario)


def test_what_is_deleted_again_is_gone(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(SAID)
        await desk.start(first.run_id)
        await delete(desk.conversations)
        await desk.intake().take(SAID)
        await delete(desk.conversations)
        await desk.complete(first.run_id)
        assert await said_in(desk) == []

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize("cached", [False, True])
def test_what_was_asked_before_a_deletion_is_not_added_after_it(
    streams_url: str, cache_url: str, cached: bool
) -> None:
    async def scenario(desk: Desk) -> None:
        if cached:
            # Elsewhere, and nothing has been said in either: the same question.
            first = await desk.intake().take(QUESTION)
            await desk.start(first.run_id)
            await desk.complete(first.run_id)
        taken = await desk.intake(conversations=deleted(desk)).take(SAID)
        assert taken.how == ("hit" if cached else "miss")
        assert await said_in(desk) == []

    at_desk(streams_url, cache_url, scenario)
