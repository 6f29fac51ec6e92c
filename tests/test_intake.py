"""Taking a run on: whoever is told its id finds it in the queue, whatever went wrong before."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Ask
from plateau_sse.store.runs.streams import Streams
from tests.intakes import KEYED, QUESTION, Desk, at_desk


class ForgetfulStreams(Streams):
    """Its first answer gets lost, so the client library asks again."""

    async def create(self, run_id: str, **values: Any) -> str:
        await super().create(run_id, **values)
        return await super().create(run_id, **values)


class NoRunner:
    """A queue that nobody is there to take anything from."""

    async def enqueue(self, run_id: str, agent: str, limit: int) -> str:
        return "no_runner"


@pytest.mark.parametrize("ask", [KEYED, QUESTION], ids=["keyed", "unkeyed"])
def test_a_record_whose_answer_was_lost_is_handed_over(streams_url: str, ask: Ask) -> None:
    async def scenario(desk: Desk) -> None:
        forgetful = ForgetfulStreams(desk.redis, alive_s=120, record_s=600)
        taken = await desk.intake(streams=forgetful).take(ask)
        assert await desk.queued() == [taken.run_id]

    at_desk(streams_url, "", scenario)


def test_what_a_key_stands_for_is_left_to_who_comes_next(streams_url: str) -> None:
    """Another may have come with the same key meanwhile, and have been told the run's id."""

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Problem) as refused:
            await desk.intake(queue=NoRunner()).take(KEYED)
        assert refused.value.code == "no_runner"
        taken = await desk.intake().take(KEYED)
        assert taken.status == "queued"
        assert await desk.queued() == [taken.run_id]

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("mode", ["use", "refresh", "off"])
def test_without_a_key_a_refused_run_leaves_nothing_behind(streams_url: str, mode: Any) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(Problem):
            await desk.intake(queue=NoRunner()).take(QUESTION._replace(mode=mode))
        assert await desk.runs() == set()
        assert await desk.redis.keys("inflight:*") == []

    at_desk(streams_url, "", scenario)


def test_a_key_is_good_across_an_upgrade() -> None:
    """What the release before conversations kept of a request is what is made of it now."""
    asked = KEYED._replace(options={"b": 1, "a": [2]}, ttl_s=60)
    assert asked.fingerprint() == "d5bf02ae79bc91d53833e074288e7278"
    assert asked._replace(idempotency_key="k2").fingerprint() == asked.fingerprint()
    within = asked._replace(conversation_id="c1")
    assert within.fingerprint() != asked.fingerprint()
    assert within._replace(conversation_id="c2").fingerprint() != within.fingerprint()
