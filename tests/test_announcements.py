"""Which agents there are: what a runner has that is there, with the latest one's version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.versions import Versions
from plateau_sse.store.queue.announcements import GONE_S, LIFE_S, About, Announcements
from plateau_sse.store.redis import keys
from tests.store import on_streams


def on_two(url: str, scenario: Callable[[Announcements, Announcements, Any], Any]) -> None:
    """Each runner has its own; web workers look through either."""

    async def opened(_: object, redis: Any) -> None:
        await scenario(Announcements(redis), Announcements(redis), redis)

    on_streams(url, opened)


async def fall_silent(redis: Any, runner: str, seconds: float) -> None:
    """As if it had said that so long ago."""
    said = msgspec.json.decode(await redis.hget(keys.ANNOUNCED, runner), type=dict[str, Any])
    said["at"] -= seconds
    await redis.hset(keys.ANNOUNCED, runner, msgspec.json.encode(said))


def test_an_agent_that_nobody_there_has_is_not_known(streams_url: str) -> None:
    async def scenario(old: Announcements, new: Announcements, redis: Any) -> None:
        assert await old.versions() == {}
        await old.say("old", {"notes": "1", "r\u00e9sum\u00e9": "1"})
        await new.say("new", {"notes": "1"})
        assert await new.versions() == {"notes": "1", "r\u00e9sum\u00e9": "1"}
        # A restart turns nothing into what is not known.
        await fall_silent(redis, "old", GONE_S - 20)
        assert await Versions(new).of("r\u00e9sum\u00e9") == "1"
        await fall_silent(redis, "old", 20)
        with pytest.raises(Problem) as refused:
            await Versions(new).of("r\u00e9sum\u00e9")
        assert refused.value.code == "unknown_agent"
        # It is forgotten, and comes back.
        await new.say("new", {"notes": "1"})
        assert await redis.hkeys(keys.ANNOUNCED) == [b"new"]
        await old.say("old", {"r\u00e9sum\u00e9": "2"})
        assert await new.versions() == {"notes": "1", "r\u00e9sum\u00e9": "2"}

    on_two(streams_url, scenario)


def test_while_releases_take_turns_the_version_is_that_of_the_runner_started_last(
    streams_url: str,
) -> None:
    """Whoever speaks last: its answers could not be cached while the other's version stood."""

    async def scenario(old: Announcements, new: Announcements, redis: Any) -> None:
        await old.say("old", {"notes": "1"})
        await new.say("new", {"notes": "2"})
        await old.say("old", {"notes": "1"})
        assert await old.versions() == {"notes": "2"}

    on_two(streams_url, scenario)


def test_another_runner_with_a_version_makes_it_no_younger(streams_url: str) -> None:
    """One of many that is started anew while a deploy goes on, or beside one that is alone."""

    async def scenario(old: Announcements, new: Announcements, redis: Any) -> None:
        await old.say("old", {"notes": "1", "words": "1"})
        await new.say("new", {"notes": "2"})
        about = {"words": About(cache=False)}
        await Announcements(redis).say("again", {"notes": "1", "words": "1"}, about)
        found = await old.agents()
        assert found["notes"].version == "2"
        # What is said of the version that counts is what the latest with it says.
        assert found["words"] == ("1", about["words"])
        # Once the first of them has gone it is as old as the next.
        await fall_silent(redis, "old", GONE_S)
        assert await old.versions() == {"notes": "1", "words": "1"}

    on_two(streams_url, scenario)


def test_with_no_runner_left_agents_are_known_for_a_day(streams_url: str) -> None:
    """Their cached answers are served on."""

    async def scenario(old: Announcements, _: Announcements, redis: Any) -> None:
        await old.say("old", {"notes": "1"})
        await redis.delete(keys.ANNOUNCED)
        assert await old.versions() == {"notes": "1"}
        assert LIFE_S - 5 <= await redis.ttl(keys.AGENTS) <= LIFE_S

    on_two(streams_url, scenario)
