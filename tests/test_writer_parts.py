"""The writer and parts that take turns, states between them, and calls that are being written:
in order, within the openings that a tape has, and nothing lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from plateau_sse.runner import holding
from plateau_sse.runner.holding import DRAFTS, Drafts
from plateau_sse.runner.writer import Writer
from plateau_sse.runner.yields import Draft, TooLarge
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import (
    MARK_BYTES,
    POINTS_MOST,
    TAPE_BYTES,
    TEXT_BYTES,
    Event,
)
from plateau_sse.store.runs.streams import Streams
from tests.store import decoded, done, on_streams, running, until
from tests.writers import Recorder, assert_same_tape, say, tape_of, think, writer_of


def recorded(scenario: Callable[[Writer, Recorder], Awaitable[None]]) -> None:
    """`scenario` with a writer that is sent to a stand-in of the store."""

    async def opened() -> None:
        recorder = Recorder()
        writer = Writer(recorder, "r", 1, tape_of("r"))  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            await scenario(writer, recorder)

    asyncio.run(opened())


def shown(batch: list[Event]) -> list[str]:
    """Of each what it says: text, a thought in brackets, or its type."""
    found = []
    for event in batch:
        if event.op in ("t", "r"):
            found.append(event.arg if event.op == "t" else f"({event.arg})")
        else:
            found.append(msgspec.json.decode(event.data)["type"])
    return found


def test_parts_take_turns_and_marks_stand_between_them(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await think(writer, "Hm")
        await think(writer, "m.")
        await say(writer, "Well")
        await writer.event(events.step("two"))
        await say(writer, ", 雪")
        await think(writer, "Or?")
        await writer.finish(done())
        await assert_same_tape(streams, run_id, writer)
        record = await streams.record(run_id)
        assert record is not None
        parts = [(it["type"], it.get("part"), it.get("text")) for it in record.parts]
        assert parts == [
            ("reasoning", 0, "Hmm."),
            ("text", 1, "Well"),
            ("step", None, None),
            ("text", 2, ", 雪"),
            ("reasoning", 3, "Or?"),
        ]

    on_streams(streams_url, scenario)


def test_10000_tokens_that_alternate_are_fewer_than_1000_openings(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        for i in range(10_000):
            await (say if i % 2 else think)(writer, f"{i}雪 ")
        await writer.finish(done())
        await assert_same_tape(streams, run_id, writer)
        assert writer.tape.parts < 500
        for kind, odd in (("t", 1), ("r", 0)):
            assert writer.tape.said(kind) == "".join(f"{i}雪 " for i in range(odd, 10_000, 2))

    on_streams(streams_url, scenario)


def test_256_kib_that_alternate_at_a_models_pace_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With each wait a hundredth of what it is, and a token each millisecond."""
    monkeypatch.setattr(holding, "COALESCE_S", 0.0003)
    monkeypatch.setattr("plateau_sse.runner.writer.COALESCE_S", 0.0003)
    holds = tuple((most, hold / 100) for most, hold in holding.HOLDS)
    monkeypatch.setattr(holding, "HOLDS", holds)
    token = "x" * 256
    count = TAPE_BYTES // len(token)

    async def scenario(writer: Writer, recorder: Recorder) -> None:
        for i in range(count):
            await (say if i % 2 else think)(writer, token)
            await asyncio.sleep(0.001)
        await writer.finish(done())
        assert holding.IN_ORDER < len(writer.tape.points) < POINTS_MOST
        assert writer.tape.said("t") == writer.tape.said("r") == token * (count // 2)
        tape = tape_of("r")
        for event in recorder.events:
            tape.add(event)
        assert tape.entries() == writer.tape.entries()

    recorded(scenario)


async def take_turns(writer: Writer, points: int) -> None:
    """Until the tape has so many, the last one an opening of text."""
    while len(writer.tape.points) < points - 1:
        await writer.event(events.step(""))
    await say(writer, "a")
    await writer._settle()
    assert len(writer.tape.points) == points


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (2, ["b", "(1)", "c", "(2)", "d", "(3)"]),
        (holding.IN_ORDER, ["bcd", "(123)"]),
        (600, ["bcd", "(123)"]),
        (holding.LAST_POINTS, ["bcd", "(123)"]),
    ],
)
def test_where_parts_take_turns_too_often_they_are_gathered(
    points: int, expected: list[str]
) -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await take_turns(writer, points)
        before = len(recorder.events)
        for text, thought in ("b1", "c2", "d3"):
            await say(writer, text)
            await think(writer, thought)
        await writer.finish(done())
        told = "".join(shown(recorder.events[before:])[:-1])
        assert told == "".join(expected)

    recorded(scenario)


def test_at_the_end_of_the_openings_text_goes_on_and_thoughts_wait() -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await take_turns(writer, holding.LAST_POINTS)
        points = len(writer.tape.points)
        for i in range(50):
            await think(writer, f"{i} ")
            await say(writer, f"{i} ")
            await asyncio.sleep(0.002)

        async def there() -> bool:
            return writer.tape.said().endswith("49 ")

        await until(there, "the text is on its way")
        assert len(writer.tape.points) == points and not writer.tape.said("r")
        # Nothing is left to be done meanwhile.
        await writer._settle()
        await writer.event(events.step("next"))
        assert writer.tape.said("r") == "".join(f"{i} " for i in range(50))
        assert len(writer.tape.points) == points + 2

    recorded(scenario)


def test_thoughts_that_wait_for_the_end_hold_up_nobody() -> None:
    """Not the agent either, though they are more than what may wait for Redis."""

    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await take_turns(writer, holding.LAST_POINTS)
        for _ in range(200):
            await think(writer, "x" * 1000)
        await writer.finish(done())
        assert writer.tape.said("r") == "x" * 200_000
        assert max(len(event.data) for event in recorder.events) <= TEXT_BYTES + 256

    recorded(scenario)


@pytest.mark.parametrize("how", ["marks", "text between marks", "both between marks"])
def test_marks_and_openings_have_a_bound(streams_url: str, how: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        with pytest.raises(TooLarge) as caught:
            for _ in range(POINTS_MOST):
                await writer.event(events.step(""))
                if how != "marks":
                    await say(writer, "x")
                if how == "both between marks":
                    await think(writer, "x")
        assert "1,000" in caught.value.message and caught.value.code == "output_too_large"
        assert len(writer.tape.points) >= POINTS_MOST - 2
        if how == "marks":
            assert len(writer.tape.points) == POINTS_MOST
        # There is always room for the end.
        last = events.failed("output_too_large", caught.value.message, retryable=False)
        await writer.finish(last)
        await assert_same_tape(streams, run_id, writer)

    on_streams(streams_url, scenario)


def test_a_part_too_many_is_refused_and_the_others_stay() -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await take_turns(writer, POINTS_MOST)
        await say(writer, "b")
        with pytest.raises(TooLarge):
            await think(writer, "x")
        await say(writer, "c")
        await writer.finish(done())
        assert writer.tape.said() == "abc" and not writer.tape.said("r")

    recorded(scenario)


def test_a_piece_of_any_size_becomes_deltas_of_8_kib(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        text = "雪\n\x01🏔" * 20_000
        await say(writer, text)
        await writer.finish(done())
        await assert_same_tape(streams, run_id, writer)
        assert writer.tape.said() == text and writer.tape.parts == 1
        for _, data in await redis.xrange(f"run:{{{run_id}}}:events"):
            assert len(data[b"e"]) <= 8 * 1024

    on_streams(streams_url, scenario)


def test_a_state_is_told_in_its_place_and_ends_no_part(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        run_id = await running(streams)
        writer = writer_of(streams, run_id)
        await say(writer, "a")
        await writer.event(events.data("n", 1, transient=True))
        await say(writer, "b")
        await writer.event(events.progress(1, 2, "", "", 50.0))
        await say(writer, "c")
        await writer.finish(done())
        await assert_same_tape(streams, run_id, writer)
        assert writer.tape.parts == 1 and writer.tape.said() == "abc"

    on_streams(streams_url, scenario)

    async def order(writer: Writer, recorder: Recorder) -> None:
        await say(writer, "a")
        for piece in "bc":
            await think(writer, piece)
            await say(writer, piece)
            await writer.event(events.progress(1, 2, "", "", 50.0))
        await writer.finish(done())
        progress = "run.progress"
        told = ["a", "(b)", "b", progress, "(c)", "c", progress, "run.completed"]
        assert shown(recorder.events) == told

    recorded(order)


@pytest.mark.parametrize("points", [holding.IN_ORDER, holding.LAST_POINTS])
def test_states_between_parts_that_take_turns_cost_no_opening(points: int) -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await take_turns(writer, points)
        before = len(writer.tape.points)
        for _ in range(100):
            await think(writer, "x")
            await say(writer, "y")
            await writer.event(events.progress(1, 2, "", "", 50.0))
        await writer.finish(done())
        assert len(writer.tape.points) - before <= 3 + 1
        assert writer.tape.said("r") == "x" * 100
        assert writer.tape.said() == "a" + "y" * 100

    recorded(scenario)


def deltas(recorder: Recorder) -> list[dict[str, Any]]:
    found = [decoded(event.data) for event in recorder.events]
    return [it for it in found if it["type"] == "tool.delta"]


def test_a_call_being_written_is_told_at_most_ten_times_a_second() -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        loop = asyncio.get_running_loop()
        began, said = loop.time(), ""

        def told_of(call_id: str) -> list[dict[str, Any]]:
            return [it for it in deltas(recorder) if it["id"] == call_id]

        while len(told_of("a")) < 4:
            said += "x"
            for call_id in ("a", "b"):
                await writer.draft(Draft(call_id, "find", said))
            await asyncio.sleep(0.002)
        told = told_of("a")
        assert len(told) <= 1 + (loop.time() - began) / holding.DRAFT_S
        assert abs(len(told_of("b")) - len(told)) <= 1
        lengths = [len(it["arguments"]) for it in told]
        assert lengths == sorted(lengths) and lengths[0] == 1
        # The latest one is told, though nothing follows it.
        await writer._settle()
        assert deltas(recorder)[-1]["arguments"] == said
        await writer.finish(done())
        assert len(writer.tape.points) == 2

    recorded(scenario)


def test_nothing_is_told_of_how_a_call_was_written_once_it_is_there() -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await writer.draft(Draft("a", "find", "1"))
        await writer.draft(Draft("a", "find", "12"))
        await writer.draft(Draft("b", "find", "1"))
        await writer.draft(Draft("b", "find", "12"))
        await writer.call("a", events.tool_call("a", "find", "12"))
        await writer.draft(Draft("a", "find", "123"))
        await writer._settle()
        told = [it for it in map(decoded, (event.data for event in recorder.events))]
        of_a = [it["type"] for it in told if it["id"] == "a"]
        assert of_a[-1] == "tool.call" and of_a.count("tool.delta") <= 1
        assert [it["arguments"] for it in deltas(recorder) if it["id"] == "b"][-1] == "12"
        await writer.draft(Draft("c", "find", "1"))
        await writer.draft(Draft("c", "find", "12"))
        # What waits at the end is nobody's business any more.
        await writer.finish(done())
        assert "12" not in [it["arguments"] for it in deltas(recorder) if it["id"] == "c"]

    recorded(scenario)


def test_calls_that_are_numbered_anew_in_each_step_are_others() -> None:
    async def scenario(writer: Writer, recorder: Recorder) -> None:
        await writer.call("0", events.tool_call("0", "find", "1"))
        await writer.draft(Draft("1", "find", "of the first step"))
        await writer.draft(Draft("1", "find", "of the first step, too"))
        await writer.step(events.step("second"))
        await writer.draft(Draft("0", "find", "2"))
        await writer._settle()
        assert deltas(recorder)[-1]["arguments"] == "2"
        assert "step, too" not in str(deltas(recorder))

    recorded(scenario)


def test_drafts_are_bounded() -> None:
    drafts = Drafts()
    for number in range(2 * DRAFTS):
        drafts.add(Draft(f"{number}", "find", "x"))
    assert len(drafts.take(0.0)) == DRAFTS
    assert drafts.due is None


def test_long_drafts_are_told_less_often_and_too_long_ones_not_at_all() -> None:
    drafts, long = Drafts(), Draft("a", "find", "x" * 20_000)
    drafts.add(long)
    assert len(drafts.take(0.0)) == 1
    drafts.add(long)
    assert drafts.take(0.4) == []
    drafts.add(Draft("b", "find", "x" * MARK_BYTES))
    assert drafts.take(0.4) == []
    (event,) = drafts.take(0.6)
    assert decoded(event.data)["id"] == "a"


async def put_anything(writer: Writer, chance: random.Random, count: int) -> dict[str, str]:
    """A mixture of all that there is; what was said of each kind."""
    said = {"t": "", "r": ""}
    rest: list[Callable[[int], Awaitable[None]]] = [
        lambda _: writer.event(events.tool_result("a", 1, preliminary=True)),
        lambda _: writer.event(events.progress(1, 2, "", "", 50.0)),
        lambda number: writer.draft(Draft(f"{number % 3}", "find", "x")),
        lambda number: writer.event(events.source(f"{number}", url="http://x.test/")),
    ]
    for number in range(count):
        if chance.random() < 0.8:
            kind = chance.choice("tr")
            piece = chance.choice(["a", "é", "雪 ", "🏔", "x" * (60_000 // count)])
            said[kind] += piece
            await (say if kind == "t" else think)(writer, piece)
        else:
            # Marks only while there are openings left beside them.
            there = rest if len(writer.tape.points) < 900 else rest[:3]
            await chance.choice(there)(number)
        if chance.random() < 0.05:
            await asyncio.sleep(chance.choice([0, 0.01]))
    return said


def test_any_mixture_is_the_same_tape_in_both_places(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        for seed in range(6):
            chance, run_id = random.Random(seed), await running(streams)
            writer = writer_of(streams, run_id)
            said = await put_anything(writer, chance, chance.choice([30, 300, 1500]))
            await writer.finish(done())
            await assert_same_tape(streams, run_id, writer)
            assert {kind: writer.tape.said(kind) for kind in said} == said

    on_streams(streams_url, scenario)
