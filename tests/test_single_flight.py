"""One run for equal questions, through every interleaving of leaders, joiners and ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plateau_sse.errors import Problem
from plateau_sse.intake.ask import Taken
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.together import Call
from plateau_sse.store.runs import events
from plateau_sse.store.runs.inflight import Inflight
from plateau_sse.store.runs.shares import TOKENS_MOST, Shares
from plateau_sse.store.runs.streams import Streams
from tests.intakes import KEYED, QUESTION, Desk, at_desk
from tests.store import counters, forget, until

OTHER = QUESTION._replace(messages=[{"role": "user", "content": "How?"}])


class Died(BaseException):
    """A web worker is gone in the middle of a request: nothing after this line runs."""


def test_equal_questions_share_a_run_and_others_do_not(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        # At another worker.
        second = await desk.intake().take(QUESTION)
        other = await desk.intake().take(OTHER)
        assert (first.how, second.how, other.how) == ("miss", "joined", "miss")
        assert first.run_id == second.run_id != other.run_id
        assert first.token != second.token
        assert sorted(await desk.queued()) == sorted([first.run_id, other.run_id])
        for taken in (first, second):
            assert await desk.streams.record(taken.run_id, taken.token) is not None
        # Under way it is joined as well.
        await desk.start(first.run_id)
        third = await desk.intake().take(QUESTION)
        assert (third.how, third.status, third.run_id) == ("joined", "running", first.run_id)

    at_desk(streams_url, cache_url, scenario)


def test_it_needs_no_cache(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        first, second = [await desk.intake().take(QUESTION) for _ in range(2)]
        assert first.run_id == second.run_id
        assert await desk.queued() == [first.run_id]

    at_desk(streams_url, "", scenario)


def test_100_at_once_over_two_workers_are_one_run(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No leader is taken for dead, however slow the machine.
    monkeypatch.setattr("plateau_sse.store.runs.shares.PLACING_S", 3600.0)

    async def scenario(desk: Desk) -> None:
        workers = [desk.intake(), desk.intake()]
        taken = await asyncio.gather(*(workers[n % 2].take(QUESTION) for n in range(100)))
        (run_id,) = {one.run_id for one in taken}
        assert sorted(one.how for one in taken) == ["joined"] * 99 + ["miss"]
        assert len({one.token for one in taken}) == 100
        assert await desk.queued() == [run_id]
        assert await desk.runs() == {run_id}, "who lost the race leaves nothing behind"
        assert (await counters(desk.stats))["runs_joined"] == 99

    at_desk(streams_url, cache_url, scenario)


# The leader dies


def test_a_leader_who_dies_before_its_hint_is_nobodys_concern(
    streams_url: str, cache_url: str
) -> None:
    class Dying(Streams):
        async def create(self, run_id: str, **values: Any) -> str:
            await super().create(run_id, **{**values, "behind": ()})
            raise Died

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            dying = Dying(desk.redis, alive_s=120, record_s=600)
            await desk.intake(streams=dying).take(QUESTION)
        (orphan,) = await desk.runs()
        taken = await desk.intake().take(QUESTION)
        assert taken.how == "miss" and taken.run_id != orphan
        assert await desk.queued() == [taken.run_id]

    # The record that it leaves has a life: the fixture looks.
    at_desk(streams_url, cache_url, scenario)


def test_a_leader_who_dies_before_it_enqueues_is_joined_and_enqueued(
    streams_url: str, cache_url: str
) -> None:
    class Dying(Queue):
        async def enqueue(self, run_id: str, agent: str, owner: str, limit: int) -> Any:
            raise Died

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(queue=Dying(desk.redis)).take(QUESTION)
        assert await desk.queued() == []
        (orphan,) = await desk.runs()
        joined = [await desk.intake().take(QUESTION) for _ in range(3)]
        assert {(one.run_id, one.how) for one in joined} == {(orphan, "joined")}
        # By the first; the others know that it has a place.
        assert await desk.queued() == [orphan]

    at_desk(streams_url, cache_url, scenario)


def test_a_dead_leaders_hint_expires(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        short = Inflight(desk.redis, life_s=1)
        taken = await desk.intake(inflight=short).take(QUESTION)
        key, holder = await desk.flight()
        assert holder == taken.run_id
        async with asyncio.timeout(10):
            while await desk.inflight.holder(key):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    at_desk(streams_url, cache_url, scenario)


def test_who_is_put_into_the_queue_twice_has_one_place(streams_url: str) -> None:
    """A leader that was slow may have been taken for dead."""

    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(QUESTION)
        assert await desk.queue.enqueue(taken.run_id, "notes", "ann", 10) == "ok"
        assert await desk.queued() == [taken.run_id]
        await desk.start(taken.run_id)
        # Nor can it be claimed twice.
        second = await desk.streams.claim(
            taken.run_id, 1, "r2", events.started(taken.run_id, "notes", 1)
        )
        assert getattr(second, "code", "") == "fenced"

    at_desk(streams_url, "", scenario)


# The leader is refused


def test_a_run_that_only_a_joiner_could_enqueue_is_its_leaders_too(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        joined: list[Taken] = []

        class Refusing(Queue):
            async def enqueue(self, run_id: str, agent: str, owner: str, limit: int) -> Any:
                # Another joins between the leader's hint and its place.
                joined.append(await desk.intake().take(QUESTION))
                return "full"

        # It has a place, so its leader is not refused either.
        led = await desk.intake(queue=Refusing(desk.redis)).take(QUESTION)
        (one,) = joined
        assert (led.how, one.how) == ("miss", "joined")
        assert led.run_id == one.run_id and led.status == "queued"
        assert await desk.queued() == [one.run_id]
        assert await desk.runs() == {one.run_id}
        await desk.start(one.run_id)
        await desk.complete(one.run_id)
        record = await desk.streams.record(one.run_id, one.token)
        assert record is not None and record.output == "Because."

    at_desk(streams_url, cache_url, scenario)


def test_a_run_that_is_left_to_a_joiner_is_joined_by_the_next(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leader is refused, and takes back what is its own only: not the hint of a run that
    another has found a place since."""
    # The joiner waits until the leader has stepped back.
    monkeypatch.setattr("plateau_sse.store.runs.shares.PLACING_S", 3600.0)

    async def scenario(desk: Desk) -> None:
        joining: list[asyncio.Task[Taken]] = []

        class Refusing(Queue):
            async def enqueue(self, run_id: str, agent: str, owner: str, limit: int) -> Any:
                joining.append(asyncio.create_task(desk.intake().take(QUESTION)))

                async def has_joined() -> bool:
                    return len(await desk.shares.tokens(run_id)) == 2

                await until(has_joined, "another has joined")
                return "full"

        with pytest.raises(Problem) as refused:
            await desk.intake(queue=Refusing(desk.redis)).take(QUESTION)
        assert refused.value.code == "queue_full"
        joined = await joining[0]
        late = await desk.intake().take(QUESTION)
        assert (late.how, late.run_id) == ("joined", joined.run_id)
        assert await desk.queued() == [joined.run_id]

    at_desk(streams_url, cache_url, scenario)


def test_who_is_refused_with_its_leader_is_told_so(
    streams_url: str, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # And at once: not when the leader could be taken for dead.
    monkeypatch.setattr("plateau_sse.store.runs.shares.PLACING_S", 3600.0)

    async def scenario(desk: Desk) -> None:
        class Refusing(Queue):
            async def enqueue(self, run_id: str, agent: str, owner: str, limit: int) -> Any:
                return "full"

        workers = [desk.intake(queue=Refusing(desk.redis)) for _ in range(2)]
        outcomes = await asyncio.gather(
            *(workers[n % 2].take(QUESTION) for n in range(20)), return_exceptions=True
        )
        assert {getattr(outcome, "code", "") for outcome in outcomes} == {"queue_full"}
        assert await desk.runs() == set()
        assert await desk.redis.keys("inflight:*") == []

    at_desk(streams_url, cache_url, scenario)


# The run ends


def test_the_answer_is_there_before_the_hint_goes(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(QUESTION)
        await desk.start(taken.run_id)
        await desk.complete(taken.run_id)
        assert await desk.redis.keys("inflight:*") == []
        found = await desk.intake().take(QUESTION)
        assert found.how == "hit" and found.answer is not None
        assert found.answer.final == "Because."

    at_desk(streams_url, cache_url, scenario)


def test_who_looks_just_before_the_answer_and_leads_just_after_it_gets_it(
    streams_url: str, cache_url: str
) -> None:
    """A miss, then the run ends, then there is no hint: the question is not asked again."""

    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        await desk.start(first.run_id)

        class Late(Cache):
            async def get(self, key: str) -> Answer | None:
                found = await super().get(key)
                if found is None:
                    await desk.complete(first.run_id)
                return found

        late = Late(desk.cache._redis, ttl_s=60, max_bytes=10 * 1024**2)
        found = await desk.intake(cache=late).take(QUESTION)
        assert found.how == "hit" and found.answer is not None
        # The record and the hint with which it would have led are gone again.
        assert await desk.runs() == {first.run_id}
        assert await desk.redis.keys("inflight:*") == []

    at_desk(streams_url, cache_url, scenario)


def test_who_joins_a_leader_that_is_about_to_find_the_answer_finds_it_too(
    streams_url: str, cache_url: str
) -> None:
    """Else the joiner would see to it that a question is executed that has been answered."""

    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        await desk.start(first.run_id)
        joined: list[Taken] = []

        class LateJoiner(Cache):
            """Looked when there was nothing; looks again."""

            looks = 0

            async def get(self, key: str) -> Answer | None:
                self.looks += 1
                return None if self.looks == 1 else await super().get(key)

        class Late(Cache):
            looks = 0

            async def get(self, key: str) -> Answer | None:
                self.looks += 1
                if self.looks == 1:
                    await desk.complete(first.run_id)
                    return None
                # The hint is ours; another comes now, who had looked before it was answered.
                joined.append(await desk.intake(cache=joiner).take(QUESTION))
                return await super().get(key)

        bounds: Any = {"ttl_s": 60, "max_bytes": 10 * 1024**2}
        late = Late(desk.cache._redis, **bounds)
        joiner = LateJoiner(desk.cache._redis, **bounds)
        await desk.queued()
        led = await desk.intake(cache=late).take(QUESTION)
        assert [led.how, *(one.how for one in joined)] == ["hit", "hit"]
        assert await desk.queued() == []
        assert await desk.runs() == {first.run_id}

    at_desk(streams_url, cache_url, scenario)


def test_a_run_that_ends_between_hint_and_joining_is_replaced_or_found(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        for stored in (True, False):
            ask = QUESTION._replace(options={"stored": stored})
            first = await desk.intake().take(ask)
            await desk.start(first.run_id)

            class Slow(Shares):
                async def share(self, run_id: str, token: str) -> Any:
                    if run_id == first.run_id:  # noqa: B023
                        await desk.complete(first.run_id, store=stored)  # noqa: B023
                    return await super().share(run_id, token)

            found = await desk.intake(shares=Slow(desk.redis)).take(ask)
            # Its answer where it was kept; where it was not (too large, say) it is asked again.
            assert found.how == ("hit" if stored else "miss")
            assert found.run_id != first.run_id

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize("end", ["failed", "lost", "cancelled", "cancelling", "completed"])
def test_a_hint_of_a_run_that_is_over_is_replaced(
    streams_url: str, cache_url: str, end: str
) -> None:
    """Its runner died before it could drop the hint, or somebody else ended the run."""

    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        key, _ = await desk.flight()
        await desk.start(first.run_id)
        if end == "lost":
            await forget(desk.redis, first.run_id)
        elif end == "cancelling":
            # The last caller has given up, the runner has not noticed yet.
            assert await desk.shares.give_up(first.run_id, first.token, "requested") == 0
        elif end == "completed":
            await desk.complete(first.run_id, store=False)
        else:
            await desk.fail(first.run_id)
        await desk.inflight.take(key, first.run_id)
        # Two find it at once: one leads, the other joins.
        both = await asyncio.gather(*(desk.intake().take(QUESTION) for _ in range(2)))
        assert sorted(one.how for one in both) == ["joined", "miss"]
        (run_id,) = {one.run_id for one in both}
        assert run_id != first.run_id
        assert await desk.inflight.holder(key) == run_id

    at_desk(streams_url, cache_url, scenario)


def test_if_it_fails_each_gets_the_failure_and_the_next_runs_anew(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        shared = [await desk.intake().take(QUESTION) for _ in range(5)]
        await desk.start(shared[0].run_id)
        await desk.fail(shared[0].run_id)
        for taken in shared:
            record = await desk.streams.record(taken.run_id, taken.token)
            assert record is not None and record.error is not None
            assert record.error["code"] == "agent_error"
        after = await desk.intake().take(QUESTION)
        assert after.how == "miss" and after.run_id != shared[0].run_id

    at_desk(streams_url, cache_url, scenario)


def test_a_late_end_leaves_its_successors_hint_alone(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        await desk.start(first.run_id)
        job = await desk.job(first.run_id)
        await desk.streams.end(
            first.run_id, 1, events.failed("runner_lost", "", retryable=True)
        )
        second = await desk.intake().take(QUESTION)
        # The first one's runner wakes up.
        await desk.keeper.free(job, first.run_id)
        assert (await desk.flight())[1] == second.run_id

    at_desk(streams_url, cache_url, scenario)


# Giving up


def test_a_shared_run_is_cancelled_by_the_last_of_its_callers(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        first, second = [await desk.intake().take(QUESTION) for _ in range(2)]
        await desk.start(first.run_id)
        assert await desk.shares.give_up(first.run_id, first.token, "requested") == 1
        assert await desk.streams.cancel_reasons([first.run_id]) == {}
        # Who comes now shares it with the one who is left.
        third = await desk.intake().take(QUESTION)
        assert third.run_id == first.run_id
        assert await desk.shares.give_up(first.run_id, second.token, "requested") == 1
        assert await desk.shares.give_up(first.run_id, third.token, "requested") == 0
        reasons = await desk.streams.cancel_reasons([first.run_id])
        assert reasons == {first.run_id: "requested"}

    at_desk(streams_url, cache_url, scenario)


def test_a_run_has_a_bound_on_its_callers(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        first = await desk.intake().take(QUESTION)
        tokens = [f"token{n}" for n in range(TOKENS_MOST - 1)]
        await desk.redis.sadd(f"run:{{{first.run_id}}}:tokens", *tokens)
        # It is full: the next leads a run of its own, which those after it join.
        second, third = [await desk.intake().take(QUESTION) for _ in range(2)]
        assert (second.how, third.how) == ("miss", "joined")
        assert first.run_id != second.run_id == third.run_id

    at_desk(streams_url, cache_url, scenario)


# Who does not join


def test_a_key_stands_for_a_run_of_its_own_that_others_may_join(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        keyed = await desk.intake().take(KEYED)
        joined = await desk.intake().take(QUESTION)
        assert (keyed.how, joined.how) == ("miss", "joined")
        assert keyed.run_id == joined.run_id
        other = await desk.intake().take(KEYED._replace(idempotency_key="k2"))
        assert other.how == "miss" and other.run_id != keyed.run_id

    at_desk(streams_url, cache_url, scenario)


def test_too_many_with_one_key_are_told_so(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(KEYED)
        tokens = [f"token{n}" for n in range(TOKENS_MOST - 1)]
        await desk.redis.sadd(f"run:{{{taken.run_id}}}:tokens", *tokens)
        with pytest.raises(Problem) as refused:
            await desk.intake().take(KEYED)
        assert refused.value.code == "too_many_callers"

    at_desk(streams_url, "", scenario)


def test_modes(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        off = await desk.intake().take(QUESTION._replace(mode="off"))
        assert await desk.redis.keys("inflight:*") == []
        refreshed = [await desk.intake().take(QUESTION._replace(mode="refresh")) for _ in "ab"]
        used = await desk.intake().take(QUESTION)
        assert len({off.run_id, *(one.run_id for one in refreshed)}) == 3
        # The first of them leads those who only want an answer.
        assert (used.how, used.run_id) == ("joined", refreshed[0].run_id)
        job = await desk.job(off.run_id)
        assert (job.cache_key, job.flight) == ("", "")

    at_desk(streams_url, cache_url, scenario)


class NeverFirst(Inflight):
    """Somebody else is always faster, and over before one could join."""

    def taking(self, key: str, run_id: str, *, instead_of: str = "") -> Call:
        call = super().taking(key, run_id, instead_of=instead_of)
        return Call(call.script, [keys.inflight(f"{key}-of-others")], ["0" * 32, "", 60])


def test_a_race_that_is_never_won_ends_in_a_run_of_its_own(
    streams_url: str, cache_url: str
) -> None:
    async def scenario(desk: Desk) -> None:
        taken = await desk.intake(inflight=NeverFirst(desk.redis, life_s=300)).take(QUESTION)
        assert taken.how == "miss"
        assert await desk.queued() == [taken.run_id]
        assert await desk.runs() == {taken.run_id}

    at_desk(streams_url, cache_url, scenario)


def test_a_hit_asks_nothing_of_the_streams_instance(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        intake = desk.intake()
        taken = await intake.take(QUESTION)
        await desk.start(taken.run_id)
        await desk.complete(taken.run_id)
        await intake.take(QUESTION)
        before = await desk.redis.info("stats")
        assert (await intake.take(QUESTION)).how == "hit"
        after = await desk.redis.info("stats")
        # The INFO itself.
        assert after["total_commands_processed"] - before["total_commands_processed"] == 1

    at_desk(streams_url, cache_url, scenario)
