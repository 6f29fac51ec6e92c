"""Ends that wait for replicas: decided and seen by nobody, until they are settled, by whoever.

Invariant of these tests: `careful` waits for more replicas than there are, so what it writes as
an end stays held; a second client, which waits for none, is whoever comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from redis import Redis

from plateau_sse.errors import StoreUnavailable
from plateau_sse.runner.handing_back import hand_back
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.redis import replicas as replicas_module
from plateau_sse.store.runs import appending, events, ids
from plateau_sse.store.runs.appending import Appended, BlockingStreams
from plateau_sse.store.runs.streams import EXTERNAL, Claimed, Streams
from tests.store import (
    ALIVE_S,
    RECORD_S,
    TOKEN,
    claim,
    decoded,
    done,
    exchange_server,
    full,
    ids_of,
    kept,
    on_streams,
    put_back,
    queued,
    running,
    text_of,
    texts,
    until,
)

# More than any server of a test has.
TOO_MANY = 9
FAILED = events.failed("runner_lost", "Its runner died, 3 times.", retryable=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes, however long it is waited for."""
    monkeypatch.setattr(replicas_module, "WAIT_MS", 20)


Scenario = Callable[[Streams, Streams, Any], Awaitable[None]]


def on_both(url: str, scenario: Scenario) -> None:
    async def run(streams: Streams, redis: Any) -> None:
        careful = Streams(streams._redis, alive_s=ALIVE_S, record_s=RECORD_S, replicas=TOO_MANY)
        await scenario(streams, careful, redis)

    on_streams(url, run)


async def held(call: Awaitable[Appended]) -> None:
    with pytest.raises(StoreUnavailable, match=f"of {TOO_MANY} replicas"):
        await call


async def seen(streams: Streams, run_id: str) -> tuple[str, list[str]]:
    """What readers are told from the start on: the status, and what is on the tape."""
    reading = await streams.read(run_id, 0)
    assert reading is not None
    return reading.status, [
        f"{ids.show(entry.number)} {decoded(entry.data)['type']}" for entry in reading.entries
    ]


async def said(streams: Streams) -> str:
    run_id = await running(streams)
    await streams.append(run_id, 1, texts("ab"), first_seq=2)
    return run_id


def finishing(streams: Streams, run_id: str, text: str = "c") -> Awaitable[Appended]:
    batch = [*texts(text), done()]
    return streams.finish(run_id, 1, batch, first_seq=3, output="another")


BEGUN = ["1-1 run.started", "1-4 message.delta"]
ENDED = ["1-1 run.started", "1-5 message.delta", "1-6 run.completed"]


def test_what_replicas_lack_is_no_end_to_anybody(streams_url: str) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        # Asked again it is no more certain, and is the same.
        await held(finishing(careful, run_id))
        assert await seen(streams, run_id) == ("running", BEGUN)
        record = await streams.record(run_id)
        assert record is not None and record.status == "running" and record.output is None
        assert await text_of(redis, run_id) == "ab"

    on_both(streams_url, scenario)


async def claims(streams: Streams, run_id: str) -> str:
    """As a runner does once the lease of the one before has run out."""
    claimed = await streams.begin(run_id, 2, "r2", "notes")
    assert isinstance(claimed, Appended)
    return claimed.code


async def ends(streams: Streams, run_id: str) -> str:
    return (await streams.end(run_id, 1, FAILED)).code


async def cancels(streams: Streams, run_id: str) -> str:
    return "ended" if await streams.ask_to_cancel(run_id, "asked") == "completed" else "?"


async def appends(streams: Streams, run_id: str) -> str:
    return (await streams.append(run_id, 1, texts("z"))).code


@pytest.mark.parametrize("call", [claims, ends, cancels, appends])
def test_whoever_comes_next_writes_the_end_as_it_was_held(
    streams_url: str, call: Callable[[Streams, str], Awaitable[str]]
) -> None:
    """Its runner has died meanwhile, or somebody else wants something of it."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        assert await call(streams, run_id) == "ended"
        assert await seen(streams, run_id) == ("completed", ENDED)
        record = await streams.record(run_id)
        assert record is not None
        assert (record.status, record.attempt, record.output) == ("completed", 1, "another")
        # Whose end it is finds it there.
        assert (await finishing(streams, run_id)).code == "dup"
        left = await redis.hmget(keys.run(run_id).record, "ending", "request", "runner")
        assert left == [None, None, None]

    on_both(streams_url, scenario)


def test_whoever_comes_next_waits_for_replicas_too(streams_url: str) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        record = keys.run(run_id).record
        before = await redis.hget(record, "ending")
        for call in (ends, claims):
            with pytest.raises(StoreUnavailable):
                await call(careful, run_id)
        # It is held as it was.
        assert before is not None and await redis.hget(record, "ending") == before

    on_both(streams_url, scenario)


def test_an_end_is_the_same_once_more_where_a_failover_took_it_back(streams_url: str) -> None:
    """What was settled is lost, what was held is not: readers who were told see the same."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        copy = await kept(redis, run_id)
        assert await ends(streams, run_id) == "ended"
        told = await seen(streams, run_id)
        await put_back(redis, run_id, copy)
        assert (await seen(streams, run_id))[0] == "running"
        assert await claims(streams, run_id) == "ended"
        assert await seen(streams, run_id) == told == ("completed", ENDED)

    on_both(streams_url, scenario)


Between = Callable[[int], Awaitable[None]]


def replicas_are_there(monkeypatch: pytest.MonkeyPatch, between: Between) -> list[str]:
    """At once; `between` is awaited behind each call, with its number. Gives the calls."""
    calls: list[str] = []

    async def replicated(_: Any, script: Any, names: Any, args: Any, replicas: int) -> Any:
        assert replicas == TOO_MANY
        reply = await script(keys=names, args=args)
        calls.append(args[0])
        await between(len(calls))
        return reply

    monkeypatch.setattr("plateau_sse.store.runs.writing.replicated", replicated)
    return calls


def test_what_was_held_and_is_lost_is_held_anew(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promoted replica was another than the one that had it."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        copy = await kept(redis, run_id)

        async def lose(number: int) -> None:
            if number == 1:
                await put_back(redis, run_id, copy)

        calls = replicas_are_there(monkeypatch, lose)
        assert (await finishing(careful, run_id)).code == "ok"
        assert calls == ["append", "settle", "append", "settle"]
        assert (await seen(streams, run_id))[0] == "completed"

        async def lose_each(number: int) -> None:
            await put_back(redis, other, other_copy)

        other = await said(streams)
        other_copy = await kept(redis, other)
        replicas_are_there(monkeypatch, lose_each)
        with pytest.raises(StoreUnavailable, match="again and again"):
            await finishing(careful, other)
        assert await seen(streams, other) == ("running", BEGUN)

    on_both(streams_url, scenario)


@pytest.mark.parametrize("verb", ["append", "end"])
def test_who_settles_ones_own_end_leaves_it_ones_own(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id, lost = await said(streams), await said(streams)
        copy = await kept(redis, lost)

        def ending(run_id: str) -> Awaitable[Appended]:
            return (
                finishing(careful, run_id)
                if verb == "append"
                else careful.end(run_id, 1, FAILED)
            )

        async def settle(number: int) -> None:
            if number == 1:
                assert await ends(streams, run_id) == "ended"

        replicas_are_there(monkeypatch, settle)
        appended = await ending(run_id)
        (status,) = await streams.statuses([run_id])
        assert (appended.code, status) == ("ok", "completed" if verb == "append" else "failed")
        assert appended.attempt == 1

        async def lose(number: int) -> None:
            if number == 1:
                await put_back(redis, lost, copy)
                await streams.end(lost, 1, events.cancelled("asked"))

        replicas_are_there(monkeypatch, lose)
        assert (await ending(lost)).code == "ended"
        assert (await seen(streams, lost))[0] == "cancelled"

    on_both(streams_url, scenario)


def test_an_end_that_is_sent_again_is_the_same_in_a_full_store(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)

        async def break_off(number: int) -> None:
            if number == 1:
                raise StoreUnavailable("of 9 replicas")

        calls = replicas_are_there(monkeypatch, break_off)
        await held(finishing(careful, run_id))
        with full(streams_url):
            assert await finishing(careful, run_id) == ("ok", 1, 4, 1)
        assert calls == ["append", "append", "settle"]
        assert await seen(streams, run_id) == ("completed", ENDED)

    on_both(streams_url, scenario)


def test_a_queued_run_and_one_of_another_server_end_as_they_would(streams_url: str) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        nobodys = await queued(streams)
        await held(careful.end(nobodys, 0, FAILED))
        assert (await seen(streams, nobodys))[0] == "queued"
        assert (await streams.end(nobodys, 0, FAILED)).code == "ended"
        assert await seen(streams, nobodys) == ("failed", ["1-1 run.failed"])
        # Whose text may be another than what was told: it ends as a new attempt.
        lost = await said(streams)
        await exchange_server(redis, lost)
        await held(careful.end(lost, 1, FAILED))
        copy = await kept(redis, lost)
        assert (await seen(streams, lost))[0] == "running"
        assert (await streams.end(lost, 1, FAILED)).code == "ended"
        told = await seen(streams, lost)
        assert told[0] == "failed" and told[1][-1].endswith("run.failed")
        assert not told[1][-1].startswith("1-")
        # That attempt's number is decided, too, however old the run is by then.
        await put_back(redis, lost, copy)
        await redis.hset(keys.run(lost).record, "created_ms", 1)
        assert await ends(streams, lost) == "ended"
        assert await seen(streams, lost) == told
        # And that there is no other, whatever the server is by then.
        usual = await said(streams)
        await held(careful.end(usual, 1, FAILED))
        await exchange_server(redis, usual)
        assert await ends(streams, usual) == "ended"
        assert await seen(streams, usual) == ("failed", [*BEGUN, "1-5 run.failed"])
        assert await ids_of(redis, usual) == ["1-1", "1-4", "1-5"]

    on_both(streams_url, scenario)


def test_a_producers_end_waits_as_well(streams_url: str) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = ids.new_run_id()
        await streams.create(run_id, agent=EXTERNAL, owner="ann", token=TOKEN, request=b"{}")
        await streams.begin(run_id, 1, EXTERNAL, EXTERNAL)
        # With a number of its own, or with the name of its call: two calls are two.
        ending = partial(careful.append_external, run_id, 1, [*texts("a"), done()])
        await held(ending())
        assert (await seen(streams, run_id))[0] == "running"
        assert (await streams.append_external(run_id, 1, texts("b"))).code == "ended"
        assert await seen(streams, run_id) == (
            "completed",
            ["1-1 run.started", "1-3 message.delta", "1-4 run.completed"],
        )

    on_both(streams_url, scenario)


def test_a_full_store_has_room_for_an_end_that_is_held(streams_url: str) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id, late = await said(streams), await said(streams)
        # More than a run may write there otherwise.
        await held(finishing(careful, run_id, "c" * 10_000))
        with full(streams_url):
            assert await claims(streams, run_id) == "ended"
            assert (await seen(streams, run_id))[0] == "completed"
            assert await text_of(redis, run_id) == "ab" + "c" * 10_000
            await held(finishing(careful, late))
            assert await ends(streams, late) == "ended"
            assert await seen(streams, late) == ("completed", ENDED)

    on_both(streams_url, scenario)


def test_the_largest_end_is_held_and_written_whole(streams_url: str) -> None:
    """With as many events as wait for a store, and an answer beside its text, to the last
    character; one more is refused before anything is held."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        batch = [*texts(*["é" * 500] * 100), done()]
        output = "y" * (events.TAPE_BYTES - 100 * 1000 - len("ab"))

        def end(by: Streams, output: str) -> Awaitable[Appended]:
            return by.finish(run_id, 1, batch, first_seq=3, output=output)

        await held(end(careful, output + "y"))
        assert (await end(streams, output + "y")).code == "full"
        assert await redis.hget(keys.run(run_id).record, "ending") is None
        await held(end(careful, output))
        assert await claims(streams, run_id) == "ended"
        assert await text_of(redis, run_id) == "ab" + "é" * 500 * 100
        record = await streams.record(run_id)
        assert record is not None and (record.status, record.output) == ("completed", output)
        assert (await end(streams, output)).code == "dup"

    on_both(streams_url, scenario)


def test_a_watchdog_settles_what_is_held(streams_url: str) -> None:
    async def scenario(streams: Streams, careful: Streams, _: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        with Redis.from_url(streams_url, protocol=2) as client:
            blocking = BlockingStreams(client, record_s=RECORD_S)
            await asyncio.to_thread(blocking.end, run_id, FAILED)
        assert await seen(streams, run_id) == ("completed", ENDED)

    on_both(streams_url, scenario)


@pytest.mark.parametrize("call", [claims, cancels, appends])
def test_readers_are_told_by_nobody_before_replicas_have_it(
    streams_url: str, call: Callable[[Streams, str], Awaitable[str]]
) -> None:
    """Nor by one who would not wait for them otherwise."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        with pytest.raises(StoreUnavailable):
            await call(careful, run_id)
        assert await seen(streams, run_id) == ("running", BEGUN)

    on_both(streams_url, scenario)


def test_a_numbered_repeat_is_one_though_its_end_has_other_words(streams_url: str) -> None:
    """A producer's second POST takes longer than its first: the end says how long."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        await held(finishing(careful, run_id))
        later = events.completed(None, cached=False, duration_ms=2)
        batch = [*texts("c"), later]
        assert (await streams.finish(run_id, 1, batch, first_seq=3)).code == "dup"
        assert await seen(streams, run_id) == ("completed", ENDED)

    on_both(streams_url, scenario)


def test_one_of_those_who_end_it_alike_has_ended_it(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has counts it: all wait for the same replicas, and go on at the same moment."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id, cancelled = await said(streams), await queued(streams)
        numbered = await said(streams)

        async def meet(number: int) -> None:
            if number <= 3:
                await until(all_wait, "all three wait for replicas")

        async def all_wait() -> bool:
            return len(calls) >= 3

        calls = replicas_are_there(monkeypatch, meet)
        ends = await asyncio.gather(*(careful.end(run_id, 1, FAILED) for _ in range(3)))
        assert sorted(end.code for end in ends) == ["ended", "ended", "ok"]

        counted: list[str] = []
        calls = replicas_are_there(monkeypatch, meet)
        statuses = await asyncio.gather(
            *(
                careful.ask_to_cancel(cancelled, "asked", on_end=lambda: counted.append("one"))
                for _ in range(3)
            )
        )
        assert (statuses, counted) == (["cancelled"] * 3, ["one"])

        calls = replicas_are_there(monkeypatch, meet)
        ends = await asyncio.gather(*(finishing(careful, numbered) for _ in range(3)))
        assert sorted(end.code for end in ends) == ["dup", "dup", "ok"]

    on_both(streams_url, scenario)


def test_one_of_those_whose_end_another_has_settled_has_ended_it(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)

        async def meet(number: int) -> None:
            if number == 2:
                assert await ends(streams, run_id) == "ended"
            if number <= 2:
                await until(has_ended, "another has settled it")

        async def has_ended() -> bool:
            return await streams.statuses([run_id]) == ["failed"]

        replicas_are_there(monkeypatch, meet)
        both = await asyncio.gather(*(careful.end(run_id, 1, FAILED) for _ in range(2)))
        assert sorted(end.code for end in both) == ["ended", "ok"]

    on_both(streams_url, scenario)


def test_an_end_lives_for_as_long_as_it_is_asked_for(streams_url: str) -> None:
    """Replicas may be away for longer than a run may be silent."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        names = [name for name in keys.run(run_id) if await redis.exists(name)]
        for call in (
            partial(finishing, careful, run_id),
            partial(finishing, careful, run_id),
            partial(careful.end, run_id, 1, FAILED),
        ):
            for name in names:
                await redis.expire(name, 5)
            await held(call())
            assert [name for name in names if await redis.ttl(name) < ALIVE_S] == []

    on_both(streams_url, scenario)


def test_an_end_is_not_settled_in_place_of_the_one_that_was_held(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover has taken that back, and another is held meanwhile."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        run_id = await said(streams)
        copy = await kept(redis, run_id)

        async def exchange(number: int) -> None:
            if number == 1:
                await put_back(redis, run_id, copy)
                lives = (ALIVE_S, RECORD_S, RECORD_S)
                other = appending.append_args("end", 1, 0, lives, [FAILED], appending.ENDED)
                await careful._writing.call_once(run_id, appending.held(other))

        calls = replicas_are_there(monkeypatch, exchange)
        assert (await finishing(careful, run_id)).code != "ok"
        assert calls[1] == "settle" and calls.count("append") > 1
        assert (await seen(streams, run_id))[0] == "failed"

    on_both(streams_url, scenario)


def test_what_a_release_wrote_that_knows_of_no_held_ends_goes_on(streams_url: str) -> None:
    """It has begun another attempt, or said more: the end that was held is nobody's."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        for write in (claims_again, says_more):
            run_id = await said(streams)
            await held(finishing(careful, run_id))
            record = keys.run(run_id).record
            ending = await redis.hget(record, "ending")
            await redis.hdel(record, "ending")
            attempt = await write(streams, run_id)
            await redis.hset(record, "ending", ending)
            claimed = await streams.begin(run_id, attempt + 1, "r3", "notes")
            assert isinstance(claimed, Claimed)
            assert (await streams.end(run_id, attempt + 1, FAILED)).code == "ok"
            assert await redis.hget(record, "ending") is None

    async def claims_again(streams: Streams, run_id: str) -> int:
        assert isinstance(await streams.begin(run_id, 2, "r2", "notes"), Claimed)
        return 2

    async def says_more(streams: Streams, run_id: str) -> int:
        assert (await streams.append(run_id, 1, texts("z"))).code == "ok"
        return 1

    on_both(streams_url, scenario)


def test_runs_are_handed_back_though_replicas_of_one_are_away(streams_url: str) -> None:
    """A runner that stops has a second for all of them."""

    async def scenario(streams: Streams, careful: Streams, redis: Any) -> None:
        queue = Queue(careful._redis)
        await queue.take("r1", ("notes",), 0)
        run_ids = [await queued(streams) for _ in range(2)]
        for run_id in run_ids:
            assert await queue.enqueue(run_id, "notes", "ann", 10) == "ok"
        await queue.take("r1", ("notes",), 2)
        claimed = {run_id: await claim(streams, run_id, 1) for run_id in run_ids}
        await held(careful.end(run_ids[0], 1, FAILED))
        await hand_back("r1", ["notes"], claimed, queue, careful)
        assert (await queue.depth()).running == 0
        assert (await seen(streams, run_ids[0]))[0] == "running"
        assert await redis.hget(keys.run(run_ids[1]).record, "tries") == b"0"
        assert await claims(streams, run_ids[0]) == "ended"
        assert (await seen(streams, run_ids[0]))[0] == "failed"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas_module, "WAIT_MS", 1500)
        on_both(streams_url, scenario)
