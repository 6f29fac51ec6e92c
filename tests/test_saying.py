"""What is said in a conversation, from its asking to its answer, while others delete it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask
from plateau_sse.store.conversations.conversations import (
    Conversations,
    Message,
    asked,
    place_of,
)
from plateau_sse.store.redis import keys
from tests.executions import LIMITS
from tests.intakes import PLACE, QUESTION, SAID, Desk, at_desk

REMEMBER_S = 60


class Died(BaseException):
    """A web worker is gone in the middle of a request."""


async def delete(conversations: Conversations) -> None:
    """In a millisecond after everything that was asked before."""
    now_ms = int(time.time() * 1000)
    while int(time.time() * 1000) == now_ms:  # noqa: ASYNC110
        await asyncio.sleep(0.0001)
    await conversations.delete(PLACE, remember_s=REMEMBER_S)


async def said_in(desk: Desk) -> list[tuple[str, str | None]]:
    return [(it.role, it.content) for it in await desk.conversations.read(PLACE)]


class Deleted(Conversations):
    """Is deleted while a worker is about to add what was asked; another has spoken before."""

    async def add(self, place: str, messages: Sequence[Message], **how: Any) -> None:
        await super().add(
            place,
            [asked("0" * 32, [{"role": "user", "content": "Another question."}], "token")],
        )
        await delete(self)
        await super().add(place, messages, **how)


class Dying(Conversations):
    """Its worker dies when it has enqueued the run, before it can add what was asked."""

    async def add(self, place: str, messages: Sequence[Message], **how: Any) -> None:
        raise Died


def conversations_of(kind: type[Conversations], desk: Desk) -> Conversations:
    return kind(desk.redis, LIMITS, desk.fullness.bound)


async def left(desk: Desk) -> set[bytes]:
    """What the store knows of conversations, but for their empty books, and for the list of
    those in which something was asked, whoever was about to say it."""
    listed = place_of("ann", "", "")
    sizes = await desk.redis.hgetall(keys.CONVERSATIONS.sizes)
    assert sizes.get(b"total", b"0") == sizes.get(listed.encode(), b"0")
    found = {key async for key in desk.redis.scan_iter("conversation:*")}
    return found - {keys.conversation(listed).listed.encode()}


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
        taken = await desk.intake(conversations=conversations_of(Deleted, desk)).take(SAID)
        assert taken.how == ("hit" if cached else "miss")
        assert await said_in(desk) == []

    at_desk(streams_url, cache_url, scenario)


def test_a_run_of_which_nothing_has_been_added_says_nothing_after_a_deletion(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(conversations=conversations_of(Dying, desk)).take(SAID)
        (run_id,) = await desk.queued()
        await desk.start(run_id)
        assert await said_in(desk) == []
        await delete(desk.conversations)
        await desk.complete(run_id)
        assert await said_in(desk) == []
        assert await left(desk) == {keys.conversation(PLACE).deletion.encode()}

    at_desk(streams_url, cache_url, scenario)


def test_without_a_deletion_its_runner_says_it_all(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(conversations=conversations_of(Dying, desk)).take(SAID)
        (run_id,) = await desk.queued()
        await desk.start(run_id)
        await desk.complete(run_id)
        assert await said_in(desk) == [("user", "Why?"), ("assistant", "Because.")]

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize("ask", [SAID, SAID._replace(idempotency_key="k")])
def test_what_is_refused_leaves_nothing_that_a_deletion_would_note(
    streams_url: str, cache_url: str, ask: Ask
) -> None:
    async def scenario(desk: Desk) -> None:
        # While one run waits no other is let in.
        assert (await desk.intake().take(QUESTION)).status == "queued"
        with pytest.raises(Problem):
            await desk.intake().take(ask)
        assert await left(desk) == set()
        await delete(desk.conversations)
        assert await left(desk) == set()

    at_desk(streams_url, cache_url, scenario, limit=1)


def test_whoever_enqueues_the_run_of_a_refused_leader_announces_it(
    streams_url: str, cache_url: str
) -> None:
    ask = SAID._replace(idempotency_key="k")

    async def scenario(desk: Desk) -> None:
        await desk.intake().take(QUESTION)
        with pytest.raises(Problem):
            await desk.intake().take(ask)
        await desk.queued()
        taken = await desk.intake().take(ask)
        assert await desk.queued() == [taken.run_id]
        await desk.start(taken.run_id)
        await delete(desk.conversations)
        await desk.complete(taken.run_id)
        assert await said_in(desk) == []

    at_desk(streams_url, cache_url, scenario, limit=1)
