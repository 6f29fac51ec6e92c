"""What opens a conversation's events: a part of the conversation, and good until its time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from plateau_sse.store.conversations.conversations import LIFE_S, Conversations, place_of
from plateau_sse.store.conversations.openers import Opened, Openers
from plateau_sse.store.redis import keys
from tests.store import full
from tests.test_conversations import BESIDES, on_conversations, said

PLACE = place_of("ann", "", "c1")
OPENER = keys.conversation(PLACE).opener


def on_openers(
    url: str,
    scenario: Callable[[Openers, Conversations, Any], Awaitable[None]],
    **given: Any,
) -> None:
    async def opened(conversations: Conversations, redis: Any) -> None:
        await scenario(Openers(redis, conversations), conversations, redis)

    on_conversations(url, opened, **given)


def test_it_opens_one_conversation_until_its_time(streams_url: str) -> None:
    async def scenario(openers: Openers, _: Conversations, redis: Any) -> None:
        token = await openers.token(PLACE, "c1", "ann", None)
        assert await openers.opened(token, "c1") == Opened(PLACE, "ann", None)
        assert await openers.token(PLACE, "c1", "ann", None) == token
        until_s = int(time.time()) + 60
        brief = await openers.token(PLACE, "c1", "ann", until_s + 0.5)
        assert await openers.opened(brief, "c1") == Opened(PLACE, "ann", until_s)
        other = await openers.token(place_of("ann", "eve", "c1"), "c1", "ann", None)
        named, _until, proof = token.split("-")
        for wrong in (
            "",
            "x",
            f"{named}--{proof}",
            f"{named}-{until_s}-{proof}",
            f"{other.split('-')[0]}-0-{proof}",
            f"{named}-0-{'0' * 32}",
            f"{'0' * 32}-0-{proof}",
            f"{token}\n",
        ):
            assert await openers.opened(wrong, "c1") is None, wrong
        assert await openers.opened(token, "c2") is None
        assert 0 < await redis.ttl(OPENER) <= LIFE_S

    on_openers(streams_url, scenario)


def test_it_goes_with_its_conversation_and_lives_as_long(streams_url: str) -> None:
    async def scenario(openers: Openers, conversations: Conversations, redis: Any) -> None:
        token = await openers.token(PLACE, "c1", "ann", None)
        # It counts as one that has not begun, and as a part of one that has.
        assert await redis.hget(keys.CONVERSATIONS.whose, PLACE) == b"ann"
        taken = BESIDES + await redis.memory_usage(OPENER)
        assert int(await redis.hget(keys.CONVERSATIONS.sizes, PLACE)) == taken
        await redis.expire(OPENER, 60)
        await conversations.add(PLACE, [said(1)], owner="ann")
        assert await redis.ttl(OPENER) > LIFE_S - 60
        taken += await redis.memory_usage(keys.conversation(PLACE).messages)
        assert int(await redis.hget(keys.CONVERSATIONS.sizes, PLACE)) > taken
        await conversations.delete(PLACE, remember_s=60)
        assert await openers.opened(token, "c1") is None
        assert await redis.hget(keys.CONVERSATIONS.sizes, PLACE) is None
        assert await openers.token(PLACE, "c1", "ann", None) != token

    on_openers(streams_url, scenario)


def test_those_that_nobody_spoke_in_make_room(streams_url: str) -> None:
    """However many an owner reads: of what others have nothing goes for them."""
    bound = 256 * 1024

    async def scenario(openers: Openers, conversations: Conversations, redis: Any) -> None:
        bobs = place_of("bob", "", "c1")
        await conversations.add(bobs, [said(1)], owner="bob")
        for number in range(200):
            place = place_of("ann", "", f"c{number}")
            await openers.token(place, f"c{number}", "ann", None)
        left = [name async for name in redis.scan_iter("conversation:*:opener")]
        assert 10 < len(left) < 100
        assert int(await redis.hget(keys.CONVERSATIONS.sizes, "total")) <= bound // 4
        assert len(await conversations.read(bobs)) == 1

    on_openers(streams_url, scenario, bound=bound)


def test_one_that_is_there_opens_in_a_full_store(streams_url: str) -> None:
    async def scenario(openers: Openers, _: Conversations, redis: Any) -> None:
        token = await openers.token(PLACE, "c1", "ann", None)
        with full(streams_url):
            assert await openers.opened(token, "c1") is not None

    on_openers(streams_url, scenario)
