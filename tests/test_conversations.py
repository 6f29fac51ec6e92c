"""Conversations in Redis: an index, a few cut bodies, and a bound on all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from plateau_sse.store.conversations.conversations import (
    LIFE_S,
    Conversations,
    Limits,
    Message,
    answered,
    asked,
    place_of,
)
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.streams import Streams
from tests.executions import LIMITS
from tests.store import full, on_streams

PLACE = place_of("ann", "", "c1")
STORE_BYTES = 64 * 1024**2


def on_conversations(
    url: str,
    scenario: Callable[[Conversations, Any], Awaitable[None]],
    *,
    limits: Limits = LIMITS,
    bound: int = STORE_BYTES,
    stats: list[Stats] | None = None,
) -> None:
    async def opened(_: Streams, redis: Any) -> None:
        counting = Stats(redis)
        if stats is not None:
            stats.append(counting)
        fullness = Fullness(redis, bound)
        await scenario(Conversations(redis, limits, fullness.bound, counting.count), redis)

    on_streams(url, opened)


def said(number: int, text: str = "") -> Message:
    """The user's `number`-th message."""
    return asked(f"{number:032x}", text or f"message {number}", f"token{number}")


async def texts(conversations: Conversations, place: str = PLACE) -> list[str | None]:
    return [message.content for message in await conversations.read(place)]


def test_what_is_said_is_read_again(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        assert await conversations.read(PLACE) == []
        question = asked("a" * 32, "Why? né雪🏔 \x00\n", "token")
        reply = answered("a" * 32, "")
        await conversations.add(PLACE, [question])
        await conversations.add(PLACE, [reply])
        assert await conversations.read(PLACE) == [question, reply]
        assert (reply.id, reply.reply_to) == ("a" * 32, question.id)
        assert question.run_id == reply.run_id == "a" * 32
        assert not question.truncated and not reply.truncated

    on_conversations(streams_url, scenario)


def test_ten_messages_five_bodies_200_characters(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for number in range(23):
            await conversations.add(PLACE, [said(number, f"{number} " + "雪" * 500)])
        found = await conversations.read(PLACE)
        assert [message.run_id for message in found] == [f"{n:032x}" for n in range(13, 23)]
        assert [message.content is None for message in found] == [True] * 5 + [False] * 5
        for message in found[5:]:
            assert message.content is not None and len(message.content) == 200
            assert message.truncated and message.length == 503
        key = keys.conversation(PLACE)
        # Nothing is kept that is never read.
        assert await redis.hlen(key.bodies) == 5 and await redis.llen(key.messages) == 10

    on_conversations(streams_url, scenario)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(3, 5, 4), ["9", "10", "11"]),
        (Limits(1, 1, 4), ["11"]),
        (Limits(4, 1, 4), [None, None, None, "11"]),
        (Limits(2, 0, 4), [None, None]),
    ],
)
def test_each_bound_is_a_setting(streams_url: str, limits: Limits, expected: Any) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for number in range(12):
            await conversations.add(PLACE, [said(number, f"{number}")])
        assert await texts(conversations) == expected

    on_conversations(streams_url, scenario, limits=limits)


def test_an_emoji_is_never_torn(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1, "x" * 197 + "👩‍👩‍👧‍👦 and more")])
        assert await texts(conversations) == ["x" * 197]

    on_conversations(streams_url, scenario)


def test_added_twice_is_there_once_in_its_place(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        first, second = said(1), said(2)
        await conversations.add(PLACE, [first])
        await conversations.add(PLACE, [second])
        # The runner adds the question again, with its answer.
        reply = answered(first.run_id, "because")
        await conversations.add(PLACE, [first._replace(token="", at_ms=1), reply])
        assert await conversations.read(PLACE) == [first, second, reply]

    on_conversations(streams_url, scenario)


def test_an_answer_gives_way_to_that_of_a_later_attempt(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        first, second = said(1), said(2)
        await conversations.add(PLACE, [first, answered(first.run_id, "half", 1)])
        await conversations.add(PLACE, [second])
        # Its runner died before it could announce the end: another has run it again.
        whole = answered(first.run_id, "the whole " * 50, 2)
        await conversations.add(PLACE, [first, whole])
        kept = whole._replace(content=(whole.content or "")[:200])
        assert await conversations.read(PLACE) == [first, kept, second]
        # The first comes to life again; and a release that knows of no attempts.
        for late in (answered(first.run_id, "half", 1), answered(first.run_id, "half")):
            await conversations.add(PLACE, [late])
        assert await conversations.read(PLACE) == [first, kept, second]
        key = keys.conversation(PLACE)
        taken = 450 + await redis.memory_usage(key.messages)
        taken += await redis.memory_usage(key.bodies)
        assert int(await redis.hget("{conversations}:bytes", PLACE)) == taken
        assert int(await redis.hget("{conversations}:bytes", "total")) == taken

    on_conversations(streams_url, scenario)


def test_a_late_answer_without_a_body_gets_none(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        first = said(1)
        await conversations.add(
            PLACE, [answered(first.run_id, "half", 1), *map(said, (3, 4, 5))]
        )
        await conversations.add(PLACE, [answered(first.run_id, "the whole", 2)])
        found = await conversations.read(PLACE)
        assert (found[0].length, found[0].content) == (9, None)
        assert await redis.hlen(keys.conversation(PLACE).bodies) == 3

    on_conversations(streams_url, scenario, limits=Limits(10, 3, 200))


def test_a_question_that_was_trimmed_away_is_known_by_its_answer(streams_url: str) -> None:
    """Its web worker comes late: the runner has added both, and others have spoken since."""

    async def scenario(conversations: Conversations, redis: Any) -> None:
        first = said(1)
        both = [first, answered(first.run_id, "so", 1)]
        await conversations.add(PLACE, both)
        await conversations.add(PLACE, [said(2)])
        there = [both[1], said(2).id]
        await conversations.add(PLACE, [first])
        found = await conversations.read(PLACE)
        assert [found[0], found[1].id] == there

    on_conversations(streams_url, scenario, limits=Limits(2, 2, 200))


def test_many_at_once_lose_nothing(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        everyone = [said(number) for number in range(20)]

        async def talk(message: Message) -> None:
            await conversations.add(PLACE, [message])
            await conversations.add(PLACE, [answered(message.run_id, "so")])

        await asyncio.gather(*(talk(message) for message in everyone))
        found = await conversations.read(PLACE)
        assert sorted(m.id for m in found) == sorted(
            i for m in everyone for i in (m.id, m.run_id)
        )
        at = {message.id: index for index, message in enumerate(found)}
        assert all(at[message.id] < at[message.run_id] for message in everyone)

    on_conversations(streams_url, scenario, limits=Limits(1000, 1000, 200))


def test_the_same_id_of_another_owner_or_user_is_another_conversation() -> None:
    places = {
        place_of(*names)
        for names in [
            ("ann", "", "c1"),
            ("bob", "", "c1"),
            ("ann", "u", "c1"),
            ("ann", "", "c2"),
            ("ann", "c1", ""),
            ("annu", "", "c1"),
        ]
    }
    assert len(places) == 6


def test_ten_long_messages_are_read_with_less_than_4_kb(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for _ in range(5):
            run_id = ids.new_run_id()
            question = asked(run_id, "word " * 20_000, ids.new_token())
            await conversations.add(PLACE, [question, answered(run_id, "answer " * 20_000)])
        # INFO is larger than what it is to measure: the same twice, with the reading between.
        first = (await redis.info("stats"))["total_net_output_bytes"]
        second = (await redis.info("stats"))["total_net_output_bytes"]
        found = await conversations.read(PLACE)
        third = (await redis.info("stats"))["total_net_output_bytes"]
        read = third - second - (second - first)
        assert len(found) == 10 and sum(m.content is not None for m in found) == 5
        assert 1000 < read < 4096, read

    on_conversations(streams_url, scenario)


# Lives and deletion


def test_a_conversation_lives_for_a_week_after_its_last_message(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1)])
        key = keys.conversation(PLACE)
        for name in (key.messages, key.bodies, *keys.CONVERSATIONS):
            assert LIFE_S - 5 <= await redis.ttl(name) <= LIFE_S
        await redis.expire(key.messages, 10)
        await conversations.add(PLACE, [said(2)])
        assert await redis.ttl(key.messages) > 10

    on_conversations(streams_url, scenario)


def test_deleting_removes_it_all_and_for_good(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        before = said(1)
        await conversations.add(PLACE, [before])
        await asyncio.sleep(0.002)  # Another millisecond.
        await conversations.delete(PLACE, remember_s=60)
        assert await conversations.read(PLACE) == []
        left = {key async for key in redis.scan_iter()} - {b"{conversations}:bytes"}
        assert left == {keys.conversation(PLACE).deletion.encode()}
        assert await redis.hgetall("{conversations}:bytes") == {b"total": b"0"}
        # What was asked before comes too late, what is asked now does not.
        late = [before, answered(before.run_id, "late")]
        await conversations.add(PLACE, late, asked_ms=before.at_ms)
        assert await conversations.read(PLACE) == []
        after = said(2)
        await conversations.add(PLACE, [after])
        both = [after, answered(after.run_id, "new")]
        await conversations.add(PLACE, both, asked_ms=after.at_ms)
        assert await conversations.read(PLACE) == both
        # Again.
        await conversations.delete(PLACE, remember_s=60)
        assert await conversations.read(PLACE) == []

    on_conversations(streams_url, scenario)


def test_deleting_what_never_was_leaves_nothing(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        places = [place_of("ann", "", f"c{n}") for n in range(50)]
        for place in places:
            await conversations.delete(place, remember_s=60)
        assert await redis.keys("*") == []
        # Nor what was about to come, and did not.
        for place in places:
            await conversations.announce(place, "token", life_s=60)
            await conversations.retract(place, "token")
            await conversations.delete(place, remember_s=60)
        assert await redis.keys("*") == []

    on_conversations(streams_url, scenario)


def test_deleting_holds_for_what_is_coming(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        coming = said(1)
        for token in ("a", "b"):
            await conversations.announce(PLACE, token, life_s=60)
        assert 55 <= await redis.ttl(keys.conversation(PLACE).coming) <= 60
        # One of the two was refused.
        await conversations.retract(PLACE, "a")
        await asyncio.sleep(0.002)  # Another millisecond.
        await conversations.delete(PLACE, remember_s=60)
        await conversations.add(PLACE, [coming], asked_ms=coming.at_ms)
        assert await conversations.read(PLACE) == []

    on_conversations(streams_url, scenario)


@pytest.mark.parametrize("said_already", [True, False])
def test_a_full_store_forgets_as_well(streams_url: str, said_already: bool) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.announce(PLACE, "token", life_s=60)
        if said_already:
            await conversations.add(PLACE, [said(1)])
        late = said(2)
        await asyncio.sleep(0.002)  # Another millisecond.
        with full(streams_url):
            await conversations.delete(PLACE, remember_s=60)
            await conversations.add(PLACE, [late], asked_ms=late.at_ms)
        assert await conversations.read(PLACE) == []
        # The books, too.
        assert await redis.zcard("{conversations}:idle") == 0
        assert set(await redis.hgetall("{conversations}:bytes")) <= {b"total"}
        assert await redis.hget("{conversations}:bytes", "total") in (b"0", None)

    on_conversations(streams_url, scenario)


# A quarter of the store


def test_all_of_them_take_a_quarter_and_the_longest_idle_go_first(streams_url: str) -> None:
    stats: list[Stats] = []

    async def scenario(conversations: Conversations, redis: Any) -> None:
        places = [place_of("ann", "", f"c{n}") for n in range(100)]
        start_ms = 1_700_000_000_000
        for number, place in enumerate(places):
            message = said(number, "x" * 180)._replace(at_ms=start_ms + 2 * number)
            await conversations.add(place, [message])
            # The first is heard of again and again: it is never the longest idle.
            again = said(1000 + number)._replace(at_ms=start_ms + 2 * number + 1)
            await conversations.add(places[0], [again])
        here = [place for place in places if await conversations.read(place)]
        gone = len(places) - len(here)
        assert 0 < gone < 95
        assert here == [places[0], *places[gone + 1 :]]
        totals = await stats[0].totals()
        assert totals["conversations_evicted"] == gone
        taken = 0
        for place in here:
            # Its places in the books and in the server's tables.
            taken += 450
            key = keys.conversation(place)
            taken += await redis.memory_usage(key.messages)
            taken += await redis.memory_usage(key.bodies)
        assert taken <= bound // 4
        # The books agree with the store.
        assert int(await redis.hget("{conversations}:bytes", "total")) == taken
        assert await redis.zcard("{conversations}:idle") == len(here)
        assert await redis.hlen("{conversations}:bytes") == len(here) + 1

    bound = 160 * 1024
    on_conversations(streams_url, scenario, bound=bound, stats=stats)


def test_one_that_is_spoken_in_meanwhile_stays(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        old = said(1)._replace(at_ms=1_700_000_000_000)
        await conversations.add(PLACE, [old])
        key = keys.conversation(PLACE)
        forget = conversations._forget
        await conversations.add(PLACE, [said(2)])
        assert await forget(keys=list(key), args=[old.at_ms]) == 0
        assert len(await conversations.read(PLACE)) == 2
        assert await forget(keys=list(key), args=[2**52]) == 1
        assert await conversations.read(PLACE) == []

    on_conversations(streams_url, scenario)


def test_expired_ones_leave_the_books(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        old = said(1)._replace(at_ms=1_000_000_000_000)
        await conversations.add(PLACE, [old])
        await redis.delete(*keys.conversation(PLACE))
        other = place_of("ann", "", "c2")
        await conversations.add(other, [said(2)])
        assert await redis.zrange("{conversations}:idle", 0, -1) == [other.encode()]
        sizes = await redis.hgetall("{conversations}:bytes")
        assert sizes[b"total"] == sizes[other.encode()] and len(sizes) == 2

    on_conversations(streams_url, scenario)


def test_a_full_store_takes_the_answers_of_runs_that_are_on(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1)])
        with full(streams_url):
            await conversations.add(PLACE, [answered(said(1).run_id, "so")])
        assert len(await conversations.read(PLACE)) == 2

    on_conversations(streams_url, scenario)
