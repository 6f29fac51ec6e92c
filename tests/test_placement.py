"""A run's place in the queue: one of those who share it sees to that, the others wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plateau_sse.errors import Problem, StoreError, StoreUnavailable
from plateau_sse.intake.ask import Ask, Taken
from plateau_sse.intake.reaper import Reaper
from plateau_sse.store.queue.owners import Owners
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import BRIEF_LIVES_S
from plateau_sse.store.runs.external import LOOK_AGAIN_S, External
from plateau_sse.store.runs.shares import TOKENS_MOST, Shares
from plateau_sse.store.runs.streams import Streams
from tests.intakes import JOB_BYTES, KEYED, LINE, QUESTION, RUN_LIFE_S, RUNNER, Desk, at_desk
from tests.store import counters, exchange_server, own_bound, queued, until

OUTSIDE = Ask("external", "ann", "", [], {})


@pytest.fixture
def nobody_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees to a run's place is never taken for dead, however slow the machine."""
    monkeypatch.setattr("plateau_sse.store.runs.shares.PLACING_S", 3600.0)


class Died(Exception):
    """A web worker is gone in the middle of a request."""


class Gate(Queue):
    """Nobody gets past its door until that is open."""

    def __init__(self, redis: Any) -> None:
        super().__init__(redis)
        self.door = asyncio.Event()

    async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
        await self.door.wait()
        return await super().enqueue(run_id, line, owner, limit)


class CountingShares(Shares):
    """Notes who asked how often."""

    def __init__(self, redis: Any) -> None:
        super().__init__(redis)
        self.asked: dict[str, int] = {}

    async def share(self, run_id: str, token: str) -> Any:
        status = await super().share(run_id, token)
        self.asked[token] = self.asked.get(token, 0) + 1
        return status


@pytest.mark.usefixtures("nobody_is_late")
@pytest.mark.parametrize("ask", [QUESTION, KEYED], ids=["joined", "keyed"])
def test_while_its_leader_is_about_to_enqueue_it_nobody_else_does(
    streams_url: str, cache_url: str, ask: Ask
) -> None:
    async def scenario(desk: Desk) -> None:
        gate, shares = Gate(desk.redis), CountingShares(desk.redis)
        workers = [desk.intake(queue=gate, shares=shares) for _ in range(2)]
        asking = [asyncio.create_task(workers[n % 2].take(ask)) for n in range(20)]

        async def all_wait() -> bool:
            # Its leader asks once where its own call had to be sent again.
            return sum(times >= 3 for times in shares.asked.values()) == 19

        await until(all_wait, "19 have asked again and again")
        gate.door.set()
        taken = await asyncio.gather(*asking)
        (run_id,) = {one.run_id for one in taken}
        assert {one.status for one in taken} == {"queued"}
        assert await desk.queued() == [run_id]

    at_desk(streams_url, cache_url, scenario)


def test_when_its_leader_has_died_one_of_many_enqueues_it(
    streams_url: str, cache_url: str
) -> None:
    class Dying(Queue):
        async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
            raise Died

    async def scenario(desk: Desk) -> None:
        with pytest.raises(Died):
            await desk.intake(queue=Dying(desk.redis)).take(QUESTION)
        workers = [desk.intake(), desk.intake()]
        taken = await asyncio.gather(*(workers[n % 2].take(QUESTION) for n in range(50)))
        (run_id,) = {one.run_id for one in taken}
        assert {one.how for one in taken} == {"joined"}
        assert await desk.queued() == [run_id]

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.usefixtures("nobody_is_late")
@pytest.mark.parametrize("ask", [QUESTION, KEYED], ids=["joined", "keyed"])
def test_when_its_leader_is_refused_the_next_tries_at_once(
    streams_url: str, cache_url: str, ask: Ask
) -> None:
    """Nobody waits for one who has given up to be taken for dead."""

    async def scenario(desk: Desk) -> None:
        class RefusingTwice(Queue):
            tries = 0

            async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
                self.tries += 1
                if self.tries == 1:
                    await until(others_wait, "the others wait")
                if self.tries <= 2:
                    return "full"
                return await super().enqueue(run_id, line, owner, limit)

        async def others_wait() -> bool:
            return sum(times >= 2 for times in shares.asked.values()) == 9

        queue, shares = RefusingTwice(desk.redis), CountingShares(desk.redis)
        worker = desk.intake(queue=queue, shares=shares)
        outcomes = await asyncio.gather(
            *(worker.take(ask) for _ in range(10)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, Problem)]
        taken = [one for one in outcomes if isinstance(one, Taken)]
        # Where the next was faster, who was refused joins that one.
        assert {one.code for one in refused} <= {"queue_full"} and len(refused) <= 2
        (run_id,) = {one.run_id for one in taken}
        assert len(taken) == 10 - len(refused) and queue.tries == 3
        assert await desk.queued() == [run_id]

    at_desk(streams_url, cache_url, scenario)


def test_who_waits_while_the_run_ends_is_told_of_it(streams_url: str, cache_url: str) -> None:
    """It may be enqueued, executed and over between two looks: it was joined all the same."""

    async def scenario(desk: Desk) -> None:
        joining: list[asyncio.Task[Taken]] = []
        over = asyncio.Event()

        class Looking(CountingShares):
            """Once joined, it looks again when the run is over."""

            async def share(self, run_id: str, token: str) -> Any:
                if token in self.asked:
                    await over.wait()
                return await super().share(run_id, token)

        class Fast(Queue):
            async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
                looking = desk.intake(shares=Looking(desk.redis))
                joining.append(asyncio.create_task(looking.take(QUESTION)))
                tokens = keys.run(run_id).tokens

                async def joined() -> bool:
                    return await desk.redis.scard(tokens) == 2  # type: ignore[no-any-return]

                await until(joined, "another has joined")
                code = await super().enqueue(run_id, line, owner, limit)
                await desk.start(run_id)
                await desk.complete(run_id)
                over.set()
                return code

        led = await desk.intake(queue=Fast(desk.redis)).take(QUESTION)
        joined = await joining[0]
        assert (joined.run_id, joined.how) == (led.run_id, "joined")
        assert joined.status == "completed"
        record = await desk.streams.record(joined.run_id, joined.token)
        assert record is not None and record.output == "Because."

    at_desk(streams_url, cache_url, scenario)


def test_a_refused_run_that_its_joiners_have_given_up_ends(
    streams_url: str, cache_url: str
) -> None:
    """They still read it, and it has no place from which anyone would end it."""

    async def scenario(desk: Desk) -> None:
        runs: list[str] = []

        class GivenUp(Queue):
            async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
                runs.append(run_id)
                await desk.shares.share(run_id, "token2")
                assert await desk.shares.give_up(run_id, "token2", "requested") == 1
                return "full"

        with pytest.raises(Problem):
            await desk.intake(queue=GivenUp(desk.redis)).take(QUESTION)
        record = await desk.streams.record(runs[0], "token2")
        assert record is not None and record.status == "cancelled"
        # And meanwhile nobody could have joined it.
        assert await desk.shares.share(runs[0], "token3") == "over"

    at_desk(streams_url, cache_url, scenario)


@pytest.mark.parametrize("has_place", [False, True])
def test_a_run_that_is_taken_back_counts_as_cancelled_where_it_counted_as_created(
    streams_url: str, cache_url: str, has_place: bool
) -> None:
    """Or more runs end than were begun."""

    async def scenario(desk: Desk) -> None:
        class GivenUp(Queue):
            async def enqueue(self, run_id: str, line: str, owner: str, limit: int) -> Any:
                if has_place:
                    # Another who shares it was faster.
                    await super().enqueue(run_id, line, owner, limit)
                    desk.stats.count("runs_created")
                await desk.shares.share(run_id, "token2")
                assert await desk.shares.give_up(run_id, "token2", "requested") == 1
                return "full"

        with pytest.raises(Problem):
            await desk.intake(queue=GivenUp(desk.redis)).take(QUESTION)
        (run_id,) = await desk.runs()
        assert await desk.status(run_id) == "cancelled"
        found = await counters(desk.stats)
        names = ("runs_created", "runs_cancelled")
        assert [found.get(name, 0) for name in names] == [has_place] * 2

    at_desk(streams_url, cache_url, scenario)


def test_a_share_that_is_taken_back_leaves_the_run_to_those_who_hold_theirs(
    streams_url: str,
) -> None:
    async def scenario(desk: Desk) -> None:
        shares = desk.shares
        run_id = await queued(desk.streams)
        record, tokens = keys.run(run_id).record, keys.run(run_id).tokens
        leader = next(iter(await desk.redis.smembers(tokens))).decode()
        for token in ("a", "b"):
            assert await shares.share(run_id, token) == "queued"
        assert await shares.give_up(run_id, "a", "requested") == 2
        assert await shares.withdraw(run_id, leader, "requested") == "left"
        assert await desk.redis.hget(record, "cancel") is None
        # The leader saw to its place: now another does.
        assert await shares.share(run_id, "b") == "unplaced"
        assert await shares.share(run_id, "c") == "queued"
        # Who does not see to it takes nobody's turn away.
        assert await shares.withdraw(run_id, "c", "requested") == "left"
        assert await shares.share(run_id, "d") == "queued"
        assert await shares.withdraw(run_id, "d", "requested") == "left"
        assert await shares.withdraw(run_id, "b", "requested") == "given_up"
        assert await desk.redis.hget(record, "cancel") == b"requested"
        assert await shares.share(run_id, "e") == "over"
        # What has been given up still reads.
        assert await desk.streams.record(run_id, "a") is not None

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "joined"])
def test_who_is_refused_since_replicas_lack_it_holds_no_share(
    streams_url: str, keyed: bool
) -> None:
    """The run ends early once all who were told of it have given it up."""

    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(KEYED if keyed else QUESTION)
        # There are not as many that could have it.
        streams = Streams(desk.redis, alive_s=120, record_s=600, replicas=9)
        placement = desk.placement(streams=streams, shares=Shares(desk.redis, replicas=9))
        with pytest.raises(StoreUnavailable, match="of 9 replicas"):
            if keyed:
                await placement.join_keyed(KEYED, [taken.run_id])
            else:
                await placement.join(taken.run_id)
        assert len(await desk.shares.tokens(taken.run_id)) == 2
        assert await desk.shares.give_up(taken.run_id, taken.token, "requested") == 0

    at_desk(streams_url, "", scenario)


def test_who_sees_to_a_place_is_known_until_the_run_is_claimed(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(QUESTION)
        record = keys.run(taken.run_id).record
        placer = await desk.redis.hget(record, "placer")
        assert placer.decode().split()[0] == taken.token
        # Joined to the brim or not: who has a share is told.
        await desk.redis.sadd(keys.run(taken.run_id).tokens, *map(str, range(TOKENS_MOST)))
        assert await desk.shares.share(taken.run_id, taken.token) == "enqueued"
        assert await desk.shares.share(taken.run_id, "new") == "over"
        await desk.start(taken.run_id)
        assert not await desk.redis.hexists(record, "placer")
        assert await desk.shares.share(taken.run_id, taken.token) == "running"

    at_desk(streams_url, "", scenario)


# What is kept of a request


def test_what_grows_beyond_its_bound_is_refused(streams_url: str) -> None:
    """1e9 is kept as 1000000000.0."""

    async def scenario(desk: Desk) -> None:
        numbers = {"n": [1e15] * (JOB_BYTES // 8)}
        with pytest.raises(Problem) as caught:
            await desk.intake().take(QUESTION._replace(options=numbers))
        assert (caught.value.code, caught.value.status) == ("too_large", 413)
        assert await desk.runs() == set()

    at_desk(streams_url, "", scenario)


# The limit


def test_what_a_dead_runner_had_turns_nobody_away(streams_url: str, cache_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        asks = [
            QUESTION._replace(messages=[{"role": "user", "content": f"Why {n}?"}])
            for n in range(5)
        ]
        for ask in asks[:2]:
            await desk.intake().take(ask)
        assert len(await desk.queued()) == 2
        await desk.queue.hand_back(RUNNER, [LINE], lost=True)
        for ask in asks[2:4]:
            assert (await desk.intake().take(ask)).status == "queued"
        with pytest.raises(Problem) as caught:
            await desk.intake().take(asks[4])
        assert caught.value.code == "queue_full"

    at_desk(streams_url, cache_url, scenario, limit=2)


# Runs of producers outside


async def refused(desk: Desk, ask: Ask, **parts: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await desk.intake(**parts).take(ask)
    return caught.value


async def counted(desk: Desk) -> set[str]:
    return {member.decode() for member in await desk.redis.zrange(keys.EXTERNAL, 0, -1)}


@pytest.mark.parametrize("keyed", [False, True])
def test_two_workers_at_once_cannot_pass_the_limit(streams_url: str, keyed: bool) -> None:
    async def scenario(desk: Desk) -> None:
        before = {key async for key in desk.redis.scan_iter()}
        workers = [desk.intake(), desk.intake()]
        asks = [
            OUTSIDE._replace(idempotency_key=f"k{number}" if keyed else "")
            for number in range(40)
        ]
        took = await asyncio.gather(
            *(workers[number % 2].take(ask) for number, ask in enumerate(asks)),
            return_exceptions=True,
        )
        taken = [one for one in took if isinstance(one, Taken)]
        problems = [one for one in took if isinstance(one, Problem)]
        assert (len(taken), len(problems)) == (5, 35)
        assert {(it.code, it.status) for it in problems} == {("queue_full", 429)}
        assert all("Retry-After" in problem.headers for problem in problems)
        # One that is refused leaves nothing.
        runs = {one.run_id for one in taken}
        assert await desk.runs() == runs == await counted(desk)
        after = {key async for key in desk.redis.scan_iter()} - before
        after = {key for key in after if not key.startswith(keys.listed_runs("").encode())}
        assert all(b"run:" in key or key == keys.EXTERNAL.encode() for key in after)
        if keyed:
            # A repeat is the same run, and none more.
            ask = asks[took.index(taken[0])]
            assert (await workers[1].take(ask)).run_id == taken[0].run_id

    at_desk(streams_url, "", scenario, limit=5)


def test_neither_kind_takes_the_places_of_the_other(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        for _ in range(2):
            await desk.intake().take(OUTSIDE)
        for number in range(2):
            text = [{"role": "user", "content": str(number)}]
            await desk.intake().take(QUESTION._replace(messages=text))
        assert (await refused(desk, OUTSIDE)).code == "queue_full"
        assert (await refused(desk, QUESTION)).code == "queue_full"

    at_desk(streams_url, "", scenario, limit=2)


def test_nobody_is_refused_for_runs_that_have_ended(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        taken = [await desk.intake().take(OUTSIDE) for _ in range(2)]
        # Whoever ended it died before it could say so.
        await desk.streams.ask_to_cancel(taken[0].run_id, "requested", external=True)
        third = await desk.intake().take(OUTSIDE)
        assert await counted(desk) == {taken[1].run_id, third.run_id}
        # One whose worker died before it had a record counts until it is due.
        await desk.streams.ask_to_cancel(third.run_id, "requested", external=True)
        external = External(desk.redis, idle_s=0)
        await external.forget(third.run_id)
        assert await external.admit("f" * 32, 2)
        assert (await refused(desk, OUTSIDE)).code == "queue_full"
        assert await external.silent() == []
        assert await counted(desk) == {taken[1].run_id}

    at_desk(streams_url, "", scenario, limit=2)


def test_at_the_limit_they_are_looked_at_once_a_second(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    class Counting(External):
        async def _forget_ended(self) -> None:
            nonlocal looks
            looks += 1
            await super()._forget_ended()

    async def scenario(desk: Desk) -> None:
        external = Counting(desk.redis, idle_s=60)
        await desk.intake(external=external).take(OUTSIDE)
        for _ in range(20):
            await refused(desk, OUTSIDE, external=external)
        assert looks == 1
        external._looked_at -= LOOK_AGAIN_S
        await refused(desk, OUTSIDE, external=external)
        assert looks == 2

    at_desk(streams_url, "", scenario, limit=1)


def test_an_owner_has_half_of_both_kinds_while_they_live(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plateau_sse.store.queue.owners.LOOK_AGAIN_S", 0.0)

    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=2, life_s=RUN_LIFE_S)
        first = await desk.intake(owners=owners).take(OUTSIDE)
        await desk.intake(owners=owners).take(QUESTION)
        problem = await refused(desk, OUTSIDE, owners=owners)
        assert (problem.code, problem.status) == ("owner_limit", 429)
        assert "Retry-After" in problem.headers
        assert await counted(desk) == {first.run_id}
        assert len(await desk.runs()) == 2
        # Another's place is another's.
        await desk.intake(owners=owners).take(OUTSIDE._replace(owner="bob"))
        # Its producer may go on for longer than any run of ours.
        name = keys.owner("ann")
        assert await desk.redis.zscore(name, first.run_id) == float("inf")
        assert await desk.redis.ttl(name) > 80_000
        await desk.streams.ask_to_cancel(first.run_id, "requested", external=True)
        await desk.intake(owners=owners).take(OUTSIDE)

    at_desk(streams_url, "", scenario, limit=4)


@pytest.mark.parametrize("keyed", [False, True])
def test_one_that_cannot_be_recorded_is_not_counted(streams_url: str, keyed: bool) -> None:
    class Broken(Streams):
        async def create(self, *_: Any, **__: Any) -> str:
            raise StoreError("as it was asked to")

    async def scenario(desk: Desk) -> None:
        broken = Broken(desk.redis, alive_s=120, record_s=600)
        ask = OUTSIDE._replace(idempotency_key="k" if keyed else "")
        with pytest.raises(StoreError):
            await desk.intake(streams=broken).take(ask)
        # Under a key another may have begun it: that is found out in its time.
        assert len(await counted(desk)) == int(keyed)
        assert await desk.runs() == set()

    at_desk(streams_url, "", scenario)


def test_one_that_cannot_begin_is_not_counted(streams_url: str) -> None:
    class Broken(Streams):
        async def claim(self, *_: Any, **__: Any) -> Any:
            raise StoreError("as it was asked to")

    async def scenario(desk: Desk) -> None:
        broken = Broken(desk.redis, alive_s=120, record_s=600)
        with pytest.raises(StoreError):
            await desk.intake(streams=broken).take(OUTSIDE)
        assert await counted(desk) == set() == await desk.runs()

    at_desk(streams_url, "", scenario)


def test_one_that_was_not_begun_is_begun_at_the_server_that_is_there_then(
    streams_url: str,
) -> None:
    """Under its key it comes again, after the store went away in the middle."""

    class Broken(Streams):
        async def claim(self, *_: Any, **__: Any) -> Any:
            raise StoreError("as it was asked to")

    async def scenario(desk: Desk) -> None:
        ask = OUTSIDE._replace(idempotency_key="k")
        broken = Broken(desk.redis, alive_s=120, record_s=600)
        with pytest.raises(StoreError):
            await desk.intake(streams=broken).take(ask)
        (run_id,) = await desk.runs()
        await exchange_server(desk.redis, run_id)
        taken = await desk.intake().take(ask)
        assert (taken.run_id, taken.status) == (run_id, "running")
        record = await desk.streams.record(run_id)
        assert record is not None and (record.status, record.attempt) == ("running", 2)
        # And its lease has begun: whoever looks at once does not find it silent.
        assert await External(desk.redis, idle_s=60).silent() == []
        await desk.redis.zadd(keys.EXTERNAL, {run_id: 1})
        assert await External(desk.redis, idle_s=60).silent() == []
        # Asked once more it is the same run; once it has ended that is what is said.
        assert (await desk.intake().take(ask)).status == "running"
        await desk.streams.ask_to_cancel(run_id, "requested", external=True)
        assert (await desk.intake().take(ask)).status == "cancelled"

    at_desk(streams_url, "", scenario)


def test_one_that_somebody_appends_to_meanwhile_stays_counted(streams_url: str) -> None:
    """A new attempt of it begins between the look and the end."""

    async def scenario(desk: Desk) -> None:
        taken = await desk.intake().take(OUTSIDE)
        run_id = taken.run_id
        await desk.redis.zadd(keys.EXTERNAL, {run_id: 1})

        class Meanwhile(Streams):
            async def end(self, *args: Any, **values: Any) -> Any:
                await desk.streams.claim(
                    run_id, 2, "external", events.started(run_id, "external", 2)
                )
                return await super().end(*args, **values)

        external = External(desk.redis, idle_s=0)
        reaper = Reaper(
            Meanwhile(desk.redis, alive_s=120, record_s=600),
            desk.queue,
            desk.announcements,
            external,
            desk.stats,
            queue_timeout_s=60,
            life_s=RUN_LIFE_S,
            external_idle_s=0,
        )
        await reaper.look()
        record = await desk.streams.record(run_id)
        assert record is not None and record.status == "running"
        assert await counted(desk) == {run_id}

    at_desk(streams_url, "", scenario)


def test_it_counts_as_its_owner_s_for_as_long_as_it_is_on(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        owners = Owners(desk.redis, most=2, life_s=RUN_LIFE_S)
        taken = await desk.intake(owners=owners).take(OUTSIDE)
        name = keys.owner("ann")
        await desk.redis.expire(name, 100)
        await desk.redis.zadd(keys.EXTERNAL, {taken.run_id: 1})
        assert await External(desk.redis, idle_s=60).silent() == []
        assert await desk.redis.ttl(name) > 80_000

    at_desk(streams_url, "", scenario, limit=4)


def test_nearly_full_the_store_takes_none(streams_url: str) -> None:
    async def scenario(desk: Desk) -> None:
        with own_bound(streams_url):
            used = (await desk.redis.info("memory"))["used_memory"]
            await desk.redis.config_set("maxmemory", int(used * 1.1))
            problem = await refused(desk, OUTSIDE)
        assert (problem.code, problem.status) == ("store_full", 503)
        assert await counted(desk) == set() == await desk.runs()

    at_desk(streams_url, "", scenario)


@pytest.mark.parametrize("said", [False, True])
def test_one_in_which_nothing_was_said_lives_for_a_minute(streams_url: str, said: bool) -> None:
    async def scenario(desk: Desk) -> None:
        external = External(desk.redis, idle_s=0)
        reaper = Reaper(
            desk.streams,
            desk.queue,
            desk.announcements,
            external,
            desk.stats,
            queue_timeout_s=60,
            life_s=RUN_LIFE_S,
            external_idle_s=0,
        )
        silent, cancelled = [
            (await desk.intake(external=external).take(OUTSIDE)).run_id for _ in range(2)
        ]
        if said:
            for run_id in (silent, cancelled):
                await desk.streams.append_external(run_id, 1, [events.delta("Half")])
        await desk.streams.ask_to_cancel(cancelled, "requested", external=True)
        await reaper.look()
        assert await desk.status(silent) == "failed"
        assert await counted(desk) == set()
        record_s, events_s = (600, 60) if said else BRIEF_LIVES_S
        for run_id in (silent, cancelled):
            key = keys.run(run_id)
            for name in (key.record, key.tokens, key.marks):
                assert record_s - 5 <= await desk.redis.ttl(name) <= record_s
            assert events_s - 5 <= await desk.redis.ttl(key.events) <= events_s

    at_desk(streams_url, "", scenario)
