"""What an agent remembers of a conversation between its runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from plateau_sse.store.conversations.conversations import Conversations, answered, place_of
from plateau_sse.store.conversations.lines import Lines
from plateau_sse.store.conversations.memories import Changed, Memories
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.streams import Streams
from tests import executions
from tests.executions import LIMITS
from tests.store import full, on_streams

PLACE = place_of("ann", "", "c1")
FIRST, SECOND = ids.new_run_id(), ids.new_run_id()


def memories_of(redis: Any, bound: int = 64 * 1024**2) -> tuple[Memories, Conversations]:
    conversations = Conversations(redis, LIMITS, Fullness(redis, bound).bound)
    return executions.memories_of(redis, conversations), conversations


def test_the_next_run_begins_with_what_the_one_before_has_kept(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        memories, _ = memories_of(redis)
        assert await memories.read(PLACE, "a", FIRST) == (b"", 0)
        await memories.keep(PLACE, "a", FIRST, b"\x00one", revision=0, asked_ms=1)
        await memories.settle(PLACE, "a", FIRST, stays=True)
        assert await memories.read(PLACE, "a", SECOND) == (b"\x00one", 1)
        # Another agent's is another.
        assert await memories.read(PLACE, "b", SECOND) == (b"", 0)
        with pytest.raises(Changed):
            await memories.keep(PLACE, "a", SECOND, b"two", revision=0, asked_ms=1)
        await memories.keep(PLACE, "a", SECOND, b"two", revision=1, asked_ms=1)
        assert 0 < await redis.ttl(keys.conversation(PLACE).memory) <= 7 * 86_400

    on_streams(streams_url, scenario)


def test_what_a_run_has_written_that_does_not_complete_is_taken_back(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        memories, _ = memories_of(redis)
        await memories.keep(PLACE, "a", FIRST, b"one", revision=0, asked_ms=1)
        await memories.settle(PLACE, "a", FIRST, stays=True)
        await memories.keep(PLACE, "a", SECOND, b"two", revision=1, asked_ms=1)
        # Its runner died there: the next attempt begins as this one did, and may write again.
        assert await memories.read(PLACE, "a", SECOND) == (b"one", 1)
        await memories.keep(PLACE, "a", SECOND, b"again", revision=1, asked_ms=1)
        assert await memories.read(PLACE, "a", FIRST) == (b"again", 2)
        await memories.settle(PLACE, "a", SECOND, stays=False)
        assert (await memories.read(PLACE, "a", FIRST))[0] == b"one"
        # Twice is once.
        await memories.settle(PLACE, "a", SECOND, stays=False)
        assert (await memories.read(PLACE, "a", SECOND))[0] == b"one"

    on_streams(streams_url, scenario)


def test_what_was_forgotten_leaves_nothing(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        memories, _ = memories_of(redis)
        await memories.keep(PLACE, "a", FIRST, b"one", revision=0, asked_ms=1)
        await memories.settle(PLACE, "a", FIRST, stays=True)
        await memories.keep(PLACE, "a", SECOND, b"", revision=1, asked_ms=1)
        await memories.settle(PLACE, "a", SECOND, stays=True)
        assert not await redis.exists(keys.conversation(PLACE).memory)

    on_streams(streams_url, scenario)


def test_it_counts_among_what_its_conversation_takes_and_goes_with_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        memories, conversations = memories_of(redis)
        sizes = keys.CONVERSATIONS.sizes
        await conversations.add(PLACE, [answered(FIRST, "Yes.", [])])
        before = int(await redis.hget(sizes, "total"))
        await memories.keep(PLACE, "a", FIRST, b"x" * 100_000, revision=0, asked_ms=1)
        assert int(await redis.hget(sizes, "total")) - before >= 100_000
        # What is said later does not take it for less.
        await conversations.add(PLACE, [answered(SECOND, "No.", [])])
        assert int(await redis.hget(sizes, "total")) - before >= 100_000
        await conversations.delete(PLACE, remember_s=60)
        assert not await redis.exists(keys.conversation(PLACE).memory)
        # Asked before it was deleted, so not kept.
        await memories.keep(PLACE, "a", SECOND, b"late", revision=0, asked_ms=1)
        assert await memories.read(PLACE, "a", SECOND) == (b"", 0)

    on_streams(streams_url, scenario)


def test_those_that_are_idle_longest_go_for_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        # A quarter of the store for all of them.
        memories, _ = memories_of(redis, bound=4 * 250_000)
        for name in ("old", "new"):
            place = place_of("ann", "", name)
            await memories.keep(place, "a", FIRST, b"x" * 120_000, revision=0, asked_ms=1)
            await memories.settle(place, "a", FIRST, stays=True)
        place = place_of("ann", "", "latest")
        await memories.keep(place, "a", FIRST, b"x" * 120_000, revision=0, asked_ms=1)
        left = [
            bool((await memories.read(place_of("ann", "", name), "a", SECOND))[0])
            for name in ("old", "new", "latest")
        ]
        assert left == [False, True, True]

    on_streams(streams_url, scenario)


def test_what_is_remembered_is_a_part_of_what_its_owner_has(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        memories, _ = memories_of(redis, bound=4 * 250_000)
        for owner, name, size in (("ann", "1", 60), ("bob", "1", 90), ("bob", "2", 90)):
            place, value = place_of(owner, "", name), b"x" * size * 1000
            keep = partial(memories.keep, place, "a", FIRST, value, owner=owner)
            await keep(revision=0, asked_ms=1)
            await memories.settle(place, "a", FIRST, stays=True)
        place = place_of("bob", "", "3")
        await memories.keep(place, "a", FIRST, value, owner="bob", revision=0, asked_ms=1)
        # Who has most makes room, however idle another's is.
        left = [
            bool((await memories.read(place_of(owner, "", name), "a", SECOND))[0])
            for owner, name in (("ann", "1"), ("bob", "1"), ("bob", "2"), ("bob", "3"))
        ]
        assert left == [True, False, True, True]

    on_streams(streams_url, scenario)


def test_a_line_lets_one_after_the_other(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        known: dict[str, str | None] = {"1": "running", "2": "queued", "3": "queued"}

        async def statuses(run_ids: Any) -> list[str | None]:
            return [known.get(it) for it in run_ids]

        lines = Lines(redis, statuses, life_s=60)
        assert [await lines.ahead(PLACE, it, 3) for it in "1231"] == [0, 1, 2, 0]
        assert await lines.ahead(PLACE, "4", 3) is None
        # One whose runner died, and one that has left.
        known["1"] = "failed"
        assert await lines.ahead(PLACE, "4", 3) == 2
        await lines.leave(PLACE, "2")
        assert await lines.ahead(PLACE, "3") == 0
        # A full store has room for who is in line, and for a line.
        with full(streams_url):
            assert await lines.ahead(PLACE, "3") == 0
            assert await lines.ahead(PLACE, "4") == 1
        known.clear()
        assert await lines.ahead(PLACE, "5", 1) == 0
        assert 0 < await redis.ttl(keys.conversation(PLACE).line) <= 60

    on_streams(streams_url, scenario)
