"""Lists of what was asked for: an owner's and each of its users', within a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from plateau_sse.owners import of_user
from plateau_sse.store.conversations.conversations import LIFE_S, Conversations, place_of
from plateau_sse.store.conversations.listed import MOST, Listed
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids
from tests.store import full
from tests.test_conversations import on_conversations, said

RECORDS_S = 600


def on_listed(
    url: str, scenario: Callable[[Listed, Conversations, Any], Awaitable[None]], **given: Any
) -> None:
    async def opened(conversations: Conversations, redis: Any) -> None:
        await scenario(Listed(redis, conversations, life_s=RECORDS_S), conversations, redis)

    on_conversations(url, opened, **given)


def test_a_users_runs_are_its_owners_as_well(streams_url: str) -> None:
    async def scenario(listed: Listed, _: Conversations, redis: Any) -> None:
        una, ute = of_user("acme", "una"), of_user("acme", "ute")
        runs = [ids.new_run_id() for _ in range(4)]
        owners = (una, ute, "acme", una)
        for run_id, owner in zip(runs, owners, strict=True):
            await listed.add_run(owner, run_id, "an agent", "", "")
        assert [run.run_id for run in await listed.runs(ute)] == [runs[1]]
        assert {run.run_id for run in await listed.runs(una)} == {runs[0], runs[3]}
        assert {run.run_id for run in await listed.runs("acme")} == set(runs)
        assert {run.agent for run in await listed.runs("acme")} == {"an agent"}
        assert await listed.runs("acm") == []
        async for name in redis.scan_iter("listed:*"):
            assert 0 < await redis.ttl(name) <= RECORDS_S

    on_listed(streams_url, scenario)


def test_a_list_has_the_latest(streams_url: str) -> None:
    async def scenario(listed: Listed, _: Conversations, redis: Any) -> None:
        for number in range(MOST + 20):
            await listed.add_conversation("acme", "", f"c{number}")
        found = await listed.conversations("acme", "")
        assert len(found) == MOST
        assert {"c0", "c1"}.isdisjoint(one.id for one in found)
        key = keys.conversation(place_of("acme", "", "")).listed
        assert LIFE_S - 60 < await redis.ttl(key) <= LIFE_S

    on_listed(streams_url, scenario)


def test_lists_make_room_for_what_others_say(streams_url: str) -> None:
    """One owner of many users: what it has is its own loss."""
    bound = 256 * 1024

    async def scenario(listed: Listed, conversations: Conversations, redis: Any) -> None:
        bobs = place_of("bob", "", "c1")
        await conversations.add(bobs, [said(1)], owner="bob")
        await listed.add_conversation("bob", "", "c1")
        for number in range(200):
            await listed.add_conversation("acme", f"user {number}", "c1")
        left = [name async for name in redis.scan_iter("conversation:*:listed")]
        assert 10 < len(left) < 100
        assert int(await redis.hget(keys.CONVERSATIONS.sizes, "total")) <= bound // 4
        assert [one.id for one in await listed.conversations("bob", "")] == ["c1"]
        assert len(await conversations.read(bobs)) == 1

    on_listed(streams_url, scenario, bound=bound)


def test_a_full_store_lists_nothing_more_and_harms_nobody(streams_url: str) -> None:
    async def scenario(listed: Listed, _: Conversations, redis: Any) -> None:
        await listed.add_conversation("acme", "", "c1")
        with full(streams_url):
            await listed.add_conversation("acme", "", "c2")
            await listed.add_run("acme", ids.new_run_id(), "a", "", "")
            await listed.forget_conversation("acme", "", "c1")
        assert await listed.conversations("acme", "") == []
        assert await listed.runs("acme") == []

    on_listed(streams_url, scenario)
