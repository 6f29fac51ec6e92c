"""What web workers make of what runners say of their agents: caching, sharing, memory."""

from __future__ import annotations

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask
from plateau_sse.owners import FOR_ALL_USERS, of_user
from plateau_sse.store.conversations.lines import MOST
from plateau_sse.store.queue.announcements import About
from tests.executions import memories_of
from tests.intakes import PLACE, QUESTION, RUNNER, SAID, Desk, at_desk

HOSTED = About("langgraph", cache=False, memory=True, max_steps=50, attempts=1)
CACHED = About("langgraph", cache=True, memory=True)


async def announce(desk: Desk, about: About, version: str = "1") -> None:
    await desk.announcements.say(RUNNER, {"notes": version}, {"notes": about})


def test_what_is_said_of_an_agent_is_known(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        await announce(desk, HOSTED)
        assert (await desk.intake().agents())["notes"] == ("1", HOSTED)
        # A release before says nothing of its agents.
        await desk.announcements.say(RUNNER, {"notes": "1"})
        assert (await desk.intake().agents())["notes"].about == About()

    at_desk(streams_url, cache_url, scenario)


def test_answers_of_hosted_agents_are_nobody_else_s(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        await announce(desk, HOSTED)
        first = await desk.intake().take(QUESTION)
        second = await desk.intake().take(QUESTION)
        assert second.run_id != first.run_id
        assert (await desk.job(first.run_id)).cache_key == ""
        for run_id in await desk.queued():
            await desk.start(run_id)
            await desk.complete(run_id)
        assert (await desk.intake().take(QUESTION)).how == "miss"

    at_desk(streams_url, cache_url, scenario)


def test_an_input_that_is_too_long_for_its_agent_is_refused_by_name(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        await announce(desk, About(input_bytes=1024))
        fits = QUESTION._replace(messages=[{"role": "user", "content": "ä" * 512}])
        await desk.intake().take(fits)
        long = QUESTION._replace(messages=[{"role": "user", "content": "ä" * 513}])
        with pytest.raises(Problem, match="notes reads 1 KiB at a time") as caught:
            await desk.intake().take(long)
        assert (caught.value.code, caught.value.extra["field"]) == ("too_large", "input")
        # Nothing of it is left, and what was said before it counts for nothing.
        assert len(await desk.queued()) == 1
        said = [{"role": "user", "content": "a" * 2000}, {"role": "assistant", "content": "b"}]
        last = {"role": "user", "content": "c"}
        await desk.intake().take(QUESTION._replace(messages=[*said, last]))

    at_desk(streams_url, cache_url, scenario)


def test_an_owner_s_users_share_what_is_said_to_be_all_of_theirs(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        await announce(desk, CACHED)
        keys = [await key_of(desk, QUESTION._replace(user=user)) for user in ("u1", "u2")]
        assert keys[0] != keys[1]
        await announce(desk, CACHED, "1" + FOR_ALL_USERS)
        keys = [await key_of(desk, QUESTION._replace(user=user)) for user in ("u1", "u2")]
        assert keys[0] == keys[1]
        assert keys[0] != await key_of(desk, QUESTION._replace(owner="bob"))
        # With tokens of their own, too, where the run stays its asker's.
        asks = [QUESTION._replace(owner=of_user(QUESTION.owner, it), user=it) for it in "ab"]
        jobs = [(await desk.intake()._asked_for(ask, [])).job for ask in asks]
        assert {job.cache_key for job in jobs} == {keys[0]}
        assert jobs[0].flight != jobs[1].flight

    at_desk(streams_url, cache_url, scenario)


async def key_of(desk: Desk, ask: Ask) -> str:
    return (await desk.intake()._asked_for(ask, [])).job.cache_key


def test_what_follows_from_a_memory_is_asked_anew(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        await announce(desk, CACHED)
        thread = QUESTION._replace(thread=PLACE)
        assert await key_of(desk, thread) != ""
        # What it will remember is in its owner's share.
        assert (await desk.intake()._asked_for(thread, [])).job.account == QUESTION.owner
        resumed = thread._replace(options={"resume": [{"id": "i", "status": "resolved"}]})
        assert await key_of(desk, resumed) == ""
        memories = memories_of(desk.redis, desk.conversations)
        await memories.keep(PLACE, "notes", "r", b"x", revision=0, asked_ms=1)
        assert await key_of(desk, thread) == ""
        # In two threads it is two questions, as long as it is on.
        jobs = [
            (await desk.intake()._asked_for(QUESTION._replace(thread=name), [])).job
            for name in ("a" * 32, "b" * 32)
        ]
        assert jobs[0].flight != jobs[1].flight and jobs[0].cache_key == jobs[1].cache_key

    at_desk(streams_url, cache_url, scenario)


def test_runs_in_a_conversation_that_is_remembered_stand_in_line(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        await announce(desk, HOSTED)
        refusing = SAID._replace(options={"if_busy": "refuse"})
        first = await desk.intake().take(refusing)
        with pytest.raises(Problem) as caught:
            await desk.intake().take(refusing)
        assert (caught.value.code, caught.value.status) == ("conversation_busy", 409)
        waiting = [await desk.intake().take(SAID) for _ in range(MOST - 1)]
        with pytest.raises(Problem) as caught:
            await desk.intake().take(SAID)
        assert caught.value.code == "conversation_busy"
        # Nothing of those that were refused is left.
        assert await desk.runs() == {it.run_id for it in (first, *waiting)}
        # Another conversation has a line of its own.
        await desk.intake().take(refusing._replace(conversation_id="c2"))
        for run_id in await desk.queued():
            if run_id == first.run_id:
                await desk.start(run_id)
                await desk.complete(run_id)
        assert (await desk.intake().take(SAID)).status == "queued"
        with pytest.raises(Problem) as caught:
            await desk.intake().take(SAID._replace(options={"if_busy": "perhaps"}))
        assert caught.value.extra == {"field": "options.if_busy"}

    at_desk(streams_url, cache_url, scenario)
