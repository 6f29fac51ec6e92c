"""Runs wait for the version that they were asked of, while a runner with it lives."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.owners import FOR_ALL_USERS
from plateau_sse.store.queue.line import line_of, parts_of
from plateau_sse.store.queue.queue import RUNNER_DEAD_S, Queue
from plateau_sse.store.redis import keys
from tests.queues import LIMIT, names, now_ms, on_queue, sign_of_life, take, waiting

ONE, TWO, OTHER = line_of("notes", "1"), line_of("notes", "2"), line_of("words", "2")


async def asked(queue: Queue, line: str, *runs: str, owner: str = "ann") -> None:
    for run in runs:
        assert await queue.enqueue(run, line, owner, LIMIT) == "ok"


async def fall_silent(redis: Any, runner: str) -> None:
    """As long as it takes to count as dead."""
    at = await now_ms(redis) - RUNNER_DEAD_S * 1000 - 1
    assert await redis.zadd(keys.QUEUE.runners, {runner: at}, xx=True, ch=True) == 1


@pytest.mark.parametrize("version", ["1", "", "a b", "a@b", "é", "x" * 65, "a\nb", "f00@"])
def test_a_line_says_whose_it_is_whatever_the_version_is(version: str) -> None:
    for agent in ("notes", "my notes", "a@b", "@"):
        line = line_of(agent, version)
        assert parts_of(line)[0] == agent and len(line) <= len(agent) + 65
        assert not {" ", "\n"} & set(line.removeprefix(agent))
        assert line != line_of(agent, version + "x")
    assert parts_of("notes") == ("notes", "")


def test_versions_of_ours_are_called_as_they_are() -> None:
    version = "0123456789ab" + FOR_ALL_USERS
    assert parts_of(line_of("notes", version)) == ("notes", version)


def test_a_run_is_taken_by_its_version_alone_while_that_lives(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        other = Queue(redis)
        assert await take(queue, "one", 9, [ONE]) == await take(other, "two", 9, [TWO]) == []
        await asked(queue, ONE, "a", "b")
        await asked(queue, TWO, "c")
        assert names(await take(other, "two", 9, [TWO])) == ["c"]
        assert names(await take(queue, "one", 9, [ONE])) == ["a", "b"]
        # Also what it loses, and what it has no place for.
        await queue.hand_back("one", [ONE], lost=True)
        assert await take(other, "two", 9, [TWO]) == []
        assert (await other.take("two", [TWO], 0, without_after_s=0)).tickets == []
        assert len(await take(queue, "one", 9, [ONE])) == 2

    on_queue(streams_url, scenario)


@pytest.mark.parametrize("how", ["hands back", "finishes", "dies"])
def test_what_a_version_leaves_behind_is_anybody_s_who_has_the_agent(
    streams_url: str, how: str
) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        other, third = Queue(redis), Queue(redis)
        await take(queue, "one", 9, [ONE])
        await take(other, "two", 9, [TWO])
        await take(third, "three", 9, [OTHER])
        await asked(queue, ONE, "a", "b")
        assert len(await take(queue, "one", 1, [ONE])) == 1
        if how == "dies":
            await fall_silent(redis, "one")
        elif how == "finishes":
            await sign_of_life(queue, "one")
        else:
            await queue.hand_back("one", [ONE])
        # Not by one that has another agent.
        assert await take(third, "three", 9, [OTHER]) == []
        taken = await take(other, "two", 9, [TWO])
        assert names(taken) == (["a", "b"] if how == "hands back" else ["b"])
        assert {ticket.line for ticket in taken} == {ONE}
        for ticket in taken:
            await other.done(ticket, "two")
        # Nothing is left of the version but what is held.
        assert await redis.smembers(keys.QUEUE.asked) == set()
        assert await take(other, "two", 9, [TWO]) == [] and other.left == ()

    on_queue(streams_url, scenario)


def test_a_version_that_is_back_has_its_runs_to_itself(streams_url: str) -> None:
    """Though the other has been told that they are left."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await asked_without_a_runner(queue, redis)
        other = Queue(redis)
        assert len(await take(other, "two", 1, [TWO])) == 1
        assert other.left == (ONE,)
        await sign_of_life(queue, "one")
        assert names(await take(queue, "one", 1, [ONE])) == ["b"]
        assert await take(other, "two", 9, [TWO]) == []
        assert names(await take(queue, "one", 9, [ONE])) == ["c"]

    on_queue(streams_url, scenario)


async def asked_without_a_runner(queue: Queue, redis: Any) -> None:
    await sign_of_life(queue, "starter")
    await asked(queue, ONE, "a", "b", "c")
    await redis.zrem(keys.QUEUE.runners, "starter")


def test_owners_take_turns_over_what_is_left_as_well(streams_url: str) -> None:
    """A version that is always asked keeps nobody waiting for ever who asked another."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await sign_of_life(queue, "starter")
        await asked(queue, ONE, *(f"a{n}" for n in range(3)), owner="ann")
        await asked(queue, TWO, *(f"b{n}" for n in range(3)), owner="bob")
        taken = []
        for _ in range(6):
            taken += names(await take(queue, "two", 1, [TWO]))
        # The first was taken before it was known that anything is left.
        assert taken == ["b0", "a0", "a1", "b1", "a2", "b2"]
        assert await waiting(redis) == []

    on_queue(streams_url, scenario)


def test_after_a_pause_of_the_store_nobody_counts_as_gone(streams_url: str) -> None:
    """Who lives had no chance to say so."""

    async def scenario(queue: Queue, redis: Any) -> None:
        await take(queue, "one", 9, [ONE])
        await asked(queue, ONE, "a")
        await fall_silent(redis, "one")
        other = Queue(redis)
        other._late.heard = lambda: False  # type: ignore[method-assign]
        assert await take(other, "two", 9, [TWO]) == [] and other.left == ()
        other._late.heard = lambda: True  # type: ignore[method-assign]
        assert names(await take(other, "two", 9, [TWO])) == ["a"]

    on_queue(streams_url, scenario)


def test_a_single_version_costs_no_round_trip_more(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await take(queue, "one", 9, [ONE, OTHER])
        await asked(queue, ONE, "a", "b")
        await redis.config_resetstat()
        await asked(queue, OTHER, "c")
        assert len(await take(queue, "one", 9, [ONE, OTHER])) == 3
        stats = await redis.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2

    on_queue(streams_url, scenario)


def test_living_runners_say_what_they_have(streams_url: str) -> None:
    async def scenario(queue: Queue, redis: Any) -> None:
        await take(queue, "one", 9, [ONE, OTHER])
        await take(queue, "two", 9, [TWO])
        await take(queue, "three", 9, [TWO])
        await sign_of_life(queue, "three")
        await take(queue, "four", 9, [TWO])
        await fall_silent(redis, "four")
        found = await queue.serving()
        assert found == {"one": [ONE, OTHER], "two": [TWO], "three": []}
        # Names that are forgotten leave nothing.
        await redis.zadd(keys.QUEUE.runners, {"four": 1})
        await take(queue, "one", 9, [ONE])
        assert await redis.hkeys(keys.QUEUE.serving) == [b"one", b"two", b"three"]

    on_queue(streams_url, scenario)


def test_a_line_that_was_left_is_its_own_once_it_serves_it(streams_url: str) -> None:
    """What a runner knows of others' lines may be of a moment ago."""

    async def scenario(queue: Queue, _: Any) -> None:
        await take(queue, "one", 0, [ONE])
        await asked(queue, ONE, "a")
        assert names(await take(queue, "one", 1, [ONE])) == ["a"]
        await queue.hand_back("one", [ONE])
        assert await take(queue, "one", 0, [TWO]) == []
        assert queue.left
        # Without a place, since somebody had it.
        assert names((await queue.take("one", [ONE], 0, 0.0)).tickets) == ["a"]

    on_queue(streams_url, scenario)
