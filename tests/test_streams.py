"""append.lua: what it answers, and that it writes only when it answers ok."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.looks import OtherRelease
from plateau_sse.store.runs.streams import Claimed, Streams
from tests.store import (
    TOKEN,
    claim,
    decoded,
    done,
    everything,
    finished,
    ids_of,
    on_streams,
    queued,
    running,
    stream_of,
    text_of,
    texts,
)


def test_the_script_numbers_what_comes_without_a_number(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        assert await streams.append(run_id, 1, texts("a", "é")) == ("ok", 1, 3, 1)
        assert await streams.append(run_id, 1, texts("c"), first_seq=4) == ("ok", 1, 4, 1)
        # The first begins a part, which counts as one; the letter with an accent has two bytes.
        assert await ids_of(redis, run_id) == ["1-1", "1-3", "1-5", "1-6"]
        assert await text_of(redis, run_id) == "aéc"

    on_streams(streams_url, scenario)


@pytest.mark.parametrize(("first", "count"), [(2, 3), (2, 1), (3, 2), (4, 1)])
def test_what_is_there_already_is_a_dup(streams_url: str, first: int, count: int) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b", "c"), first_seq=2)
        before = await everything(redis, run_id)
        repeat = texts("a", "b", "c")[first - 2 : first - 2 + count]
        assert await streams.append(run_id, 1, repeat, first_seq=first) == ("dup", 1, 4, 1)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_of_a_batch_that_is_partly_there_only_the_rest_is_written(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a", "b"), first_seq=2)
        overlapping = texts("b", "c", "d")
        assert await streams.append(run_id, 1, overlapping, first_seq=3) == ("ok", 1, 5, 1)
        assert await text_of(redis, run_id) == "abcd"
        assert await ids_of(redis, run_id) == ["1-1", "1-3", "1-4", "1-5", "1-6"]

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("pieces", [["c"], ["c", "d"], []])
def test_a_hole_is_a_gap_and_nothing_is_written(streams_url: str, pieces: list[str]) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a"), first_seq=2)
        before = await everything(redis, run_id)
        assert await streams.append(run_id, 1, texts(*pieces), first_seq=4) == ("gap", 1, 2, 1)
        # An attempt that the record does not know yet: the store has been rewound.
        assert await streams.append(run_id, 2, texts(*pieces), first_seq=1) == ("gap", 1, 2, 1)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_an_earlier_attempt_is_fenced_in_all_that_it_tries(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("a"), first_seq=2)
        await claim(streams, run_id, 2, "r2")
        await streams.append(run_id, 2, texts("b"), first_seq=2)
        before = await everything(redis, run_id)
        for first_seq in (0, 1, 2, 3, 4):
            refused = await streams.append(run_id, 1, texts("z"), first_seq=first_seq)
            assert refused == ("fenced", 2, 2, 1)
        assert (await streams.append(run_id, 1, [])).code == "fenced"
        assert (await streams.finish(run_id, 1, [done()], first_seq=3)).code == "fenced"
        assert (await streams.end(run_id, 1, done())).code == "fenced"
        for attempt in (0, 1):
            refused_claim = await streams.claim(run_id, attempt, "r1", done())
            assert refused_claim == ("fenced", 2, 2, 1)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_a_queued_run_has_no_producer(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        before = await everything(redis, run_id)
        assert await streams.append(run_id, 0, texts("a")) == ("fenced", 0, 0, 0)
        assert await streams.append(run_id, 1, texts("a")) == ("gap", 0, 0, 0)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_after_the_end_nothing_is_written(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await finished(streams, "a")
        before = await everything(redis, run_id)
        assert await streams.append(run_id, 1, texts("z")) == ("ended", 1, 3, 1)
        assert await streams.append(run_id, 1, texts("z"), first_seq=4) == ("ended", 1, 3, 1)
        assert await streams.append(run_id, 1, []) == ("ended", 1, 3, 1)
        assert await streams.append(run_id, 1, texts("a", "y", "z"), first_seq=2) == (
            *("ended", 1, 3, 1),
        )
        assert (await streams.end(run_id, 1, done())).code == "ended"
        assert await streams.claim(run_id, 2, "r2", done()) == ("ended", 1, 3, 1)
        # The producer that did not hear the answer to its terminal event is not refused.
        assert (await streams.finish(run_id, 1, [done()], first_seq=3)).code == "dup"
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_a_run_that_is_gone_is_never_created_again(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = ids.new_run_id()
        for first_seq in (0, 1, 5):
            appended = await streams.append(run_id, 1, texts("a"), first_seq=first_seq)
            assert appended == ("gone", 0, 0, 0)
        assert (await streams.finish(run_id, 1, [done()], first_seq=1)).code == "gone"
        assert (await streams.end(run_id, 0, done())).code == "gone"
        assert await streams.claim(run_id, 1, "r1", done()) == ("gone", 0, 0, 0)
        assert await streams.ask_to_cancel(run_id, "asked") == "gone"
        assert await streams.read(run_id) is None
        assert await streams.record(run_id) is None
        assert await streams.last_numbers([run_id]) == [None]
        assert await streams.cancel_reasons([run_id]) == {}
        assert await redis.keys("*") == []

    on_streams(streams_url, scenario)


def test_an_expired_run_stays_gone_for_its_producer(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await redis.delete(*keys.run(run_id))
        assert (await streams.append(run_id, 1, texts("a"), first_seq=2)).code == "gone"
        assert await redis.keys("*") == []

    on_streams(streams_url, scenario)


def test_a_claim_starts_the_run_and_gives_what_was_asked(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams, b'{"messages":[]}')
        claimed = await claim(streams, run_id, 1)
        assert claimed == Claimed(1, 1, "notes", "ann", b'{"messages":[]}', None, 1)
        record = await streams.record(run_id, TOKEN)
        assert record is not None and record.status == "running" and record.attempt == 1
        assert record.started_ms is not None and record.started_ms >= record.created_ms
        ((entry_id, data),) = await stream_of(redis, run_id)
        assert entry_id == "1-1"
        assert decoded(data)["type"] == "run.started"

    on_streams(streams_url, scenario)


def test_a_claim_that_is_sent_again_is_the_same_claim(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams, b"asked")
        first = await claim(streams, run_id, 1, "r1")
        before = await everything(redis, run_id)
        assert await claim(streams, run_id, 1, "r1") == first
        assert await everything(redis, run_id) == before
        # Another runner that wants the same attempt has lost it.
        refused = await streams.claim(run_id, 1, "r2", done())
        assert refused == ("fenced", 1, 1, 0)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_numbers_of_attempts_may_be_left_out(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams, b"asked")
        assert (await claim(streams, run_id, 2)).attempt == 2
        assert (await claim(streams, run_id, 7, "r2")).attempt == 7
        for attempt in (3, 6, 7):
            refused = await streams.claim(run_id, attempt, "r3", done())
            assert refused == ("fenced", 7, 1, 0)
        assert await streams.append(run_id, 7, texts("a")) == ("ok", 7, 2, 1)
        assert await ids_of(redis, run_id) == ["2-1", "7-1", "7-3"]

    on_streams(streams_url, scenario)


def test_taking_over_clears_what_came_before_and_keeps_the_wish_to_cancel(
    streams_url: str,
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams, b"asked")
        await streams.append(
            run_id,
            1,
            [
                *texts("first try"),
                events.progress(1, 2, "", "half", 50.0),
                events.tool_call("t", "find", {}),
            ],
        )
        assert await streams.ask_to_cancel(run_id, "asked") == "running"
        claimed = await claim(streams, run_id, 2, "r2")
        assert claimed == Claimed(2, 1, "notes", "ann", b"asked", "asked", 2)
        record, text, stream, _, marks = await everything(redis, run_id)
        assert text is None and b"progress" not in record
        assert stream[-1][0] == b"2-1" and [at for at, _ in marks] == [b"2-1"]
        await streams.append(run_id, 2, texts("second"), first_seq=2)
        assert await text_of(redis, run_id) == "second"

    on_streams(streams_url, scenario)


def test_a_queued_run_that_is_ended_has_its_end_as_its_only_event(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        last = events.failed("queue_timeout", "nobody came", retryable=True)
        assert await streams.end(run_id, 0, last) == ("ok", 1, 0, 0)
        assert await stream_of(redis, run_id) == [("1-1", last.data)]
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed" and record.ended_ms
        assert record.error == {
            "code": "queue_timeout",
            "message": "nobody came",
            "retryable": True,
        }
        assert await streams.end(run_id, 0, last) == ("ended", 1, 0, 0)
        assert await streams.claim(run_id, 1, "r1", done()) == ("ended", 1, 0, 0)

    on_streams(streams_url, scenario)


def test_who_finds_the_producer_gone_ends_the_attempt_it_saw(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, texts("half an ans"), first_seq=2)
        last = events.failed("runner_lost", "it died", retryable=True)
        assert await streams.end(run_id, 0, last) == ("fenced", 1, 2, 1)
        assert await streams.end(run_id, 1, last) == ("ok", 1, 2, 1)
        # The producer was only slow: it is told, and the text stays as it was. The end was
        # nothing of its own, which it would be told is there.
        for batch in (texts("wer", "."), texts("wer."), [done()]):
            appended = await streams.append(run_id, 1, batch, first_seq=3)
            assert appended == ("ended", 1, 2, 1)
        assert (await streams.finish(run_id, 1, [done()], first_seq=3)).code == "ended"
        assert (await streams.append(run_id, 1, texts("ans"), first_seq=2)).code == "dup"
        assert await text_of(redis, run_id) == "half an ans"

    on_streams(streams_url, scenario)


def test_cancelling_a_queued_run_ends_it(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await queued(streams)
        assert await streams.ask_to_cancel(run_id, "asked") == "cancelled"
        before = await everything(redis, run_id)
        assert await streams.ask_to_cancel(run_id, "again") == "cancelled"
        assert await everything(redis, run_id) == before
        record = await streams.record(run_id)
        assert record is not None and record.status == "cancelled"
        assert record.error == {"code": "cancelled", "message": "asked", "retryable": False}

    on_streams(streams_url, scenario)


def test_cancelling_a_running_run_tells_its_runner(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id, other = await running(streams), await running(streams)
        assert await streams.ask_to_cancel(run_id, "asked") == "running"
        assert await streams.cancel_reasons([other, run_id]) == {run_id: "asked"}
        assert len(await stream_of(redis, run_id)) == 1
        last = events.cancelled("asked")
        await streams.finish(run_id, 1, [last], first_seq=2)
        assert await streams.ask_to_cancel(run_id, "late") == "cancelled"
        await streams.finish(other, 1, [done()], first_seq=2)
        assert await streams.ask_to_cancel(other, "late") == "completed"

    on_streams(streams_url, scenario)


said = events.delta
MARK = events.step("again")


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        # The same kind goes on, another is another part.
        ([said("a"), said("b"), said("c", "r"), said("d")], ["0 a", "0 b", "1 c", "2 d"]),
        # A mark ends the part for good.
        ([said("a"), MARK, said("b")], ["0 a", "-", "1 b"]),
        # State does not.
        ([said("a"), events.tool_delta("1", "f", "{"), said("b")], ["0 a", "0 b"]),
        # Numbers of the producer's own: two parts of the same kind, one after the other.
        (
            [said("a", "t", "0"), said("b", "t", "0"), said("c", "t", "1"), said("d")],
            ["0 a", "0 b", "1 c", "1 d"],
        ),
        # Two that speak at once.
        (
            [said("a"), said("b", "t", "1"), said("c", "t", "2 0"), said("d", "t", " 1")],
            ["0 a", "1 b", "2 c 0", "3 d 1"],
        ),
        # An opening may say nothing; in an open part that is no event.
        ([said(""), said(""), said("a"), said("", "r")], ["0 ", "0 a", "1 "]),
    ],
)
def test_parts_are_numbered_in_order_of_opening(
    streams_url: str, batch: list[events.Event], expected: list[str]
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        for at_once in (True, False):
            run_id = await running(streams)
            for some in [batch] if at_once else [[event] for event in batch]:
                appended = await streams.append(run_id, 1, some)
                assert appended.code == "ok"
            assert appended.seq == 1 + len(batch)
            found = []
            for _, data in (await stream_of(redis, run_id))[1:]:
                event = decoded(data)
                part = f"{event['part']} {event['text']}" if "part" in event else "-"
                found.append(f"{part} {event['continues']}" if "continues" in event else part)
            assert found == expected
            opened = {text.split()[0] for text in expected} - {"-"}
            assert appended.parts == len(opened)

    on_streams(streams_url, scenario)


@pytest.mark.parametrize(
    ("batch", "right"),
    [
        ([said("x", "t", "3")], 2),
        # What another kind or a mark has ended does not go on.
        ([said("x", "t", "0")], 2),
        ([said("x", "r", "1")], 2),
        ([MARK, said("x", "t", "1")], 2),
        # Only with what there is already.
        ([said("x", "t", "2 2")], 2),
        ([said("x", "t", " 7")], 2),
        # Those that the array itself opens count.
        ([said("x", "r", "2"), said("y", "t", "4")], 3),
        # Whoever goes on with another part opens one, also where that is the open one.
        ([said("x", "t", "1 0")], 2),
    ],
)
def test_a_wrong_number_of_a_part_is_refused_with_the_right_one(
    streams_url: str, batch: list[events.Event], right: int
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        await streams.append(run_id, 1, [said("a", "r"), said("b")])
        before = await everything(redis, run_id)
        appended = await streams.append(run_id, 1, batch)
        assert appended == ("part", 1, 3, right)
        assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_events_cut_into_pieces_count_as_one(streams_url: str) -> None:
    """Its producer sent one; whatever it was cut into belongs to it."""

    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        more = [said(text)._replace(op="T") for text in "bc"]
        batch = [said("a"), *more, said("d", "r"), said("e", "r")._replace(op="R")]
        assert await streams.append(run_id, 1, batch, first_seq=2) == ("ok", 1, 3, 2)
        assert await ids_of(redis, run_id) == ["1-1", "1-3", "1-4", "1-5", "1-7", "1-8"]
        before = await everything(redis, run_id)
        assert await streams.append(run_id, 1, batch, first_seq=2) == ("dup", 1, 3, 2)
        assert await streams.append(run_id, 1, batch[3:], first_seq=3) == ("dup", 1, 3, 2)
        assert await streams.append(run_id, 1, batch, first_seq=5) == ("gap", 1, 3, 2)
        assert await everything(redis, run_id) == before
        # Of what overlaps all that belongs to the first is left out.
        overlapping = [*batch[3:], said("f")]
        assert await streams.append(run_id, 1, overlapping, first_seq=3) == ("ok", 1, 4, 3)
        assert await text_of(redis, run_id) == "abcdef"

    on_streams(streams_url, scenario)


async def make_older(redis: Any, run_id: str) -> None:
    """Its record as releases before 0.2 kept it."""
    record = keys.run(run_id).record
    await redis.hdel(record, "tape", "server")
    await redis.hset(record, "status", await redis.hget(record, "state"))
    await redis.hdel(record, "state")


def test_runs_of_another_release_are_refused(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        for run_id in (await queued(streams), await running(streams)):
            await make_older(redis, run_id)
            before = await everything(redis, run_id)
            for attempt in (0, 1, 2):
                assert (await streams.append(run_id, attempt, texts("a"))).code == "version"
                assert (await streams.end(run_id, attempt, done())).code == "version"
                claimed = await streams.claim(run_id, attempt, "r2", done())
                assert not isinstance(claimed, Claimed) and claimed.code == "version"
            for refused in (
                streams.read(run_id),
                streams.read(run_id, 0, TOKEN),
                streams.read_log(run_id, 0),
                streams.record(run_id),
                # Under an idempotency key.
                streams.join(run_id, token="t", fingerprint=""),
                streams.create(run_id, agent="notes", owner="ann", token=TOKEN, request=b"{}"),
            ):
                with pytest.raises(OtherRelease):
                    await refused
            assert await streams.last_numbers([run_id]) == [None]
            assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)
