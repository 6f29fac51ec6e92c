"""Conversations in Redis: an index, a few cut bodies, and a bound on all of them together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from plateau_sse.store.conversations import conversations as module
from plateau_sse.store.conversations.conversations import (
    LIFE_S,
    Conversations,
    Limits,
    Message,
    place_of,
)
from plateau_sse.store.conversations.wholes import (
    SHOWN_BYTES,
    TIGHT_BYTES,
    WHOLE_BYTES,
    Status,
    Whole,
)
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.streams import Streams
from tests.executions import LIMITS
from tests.store import counters, full, on_streams

PLACE = place_of("ann", "", "c1")
STORE_BYTES = 64 * 1024**2
# As converse.lua has it.
BESIDES = 780


def on_conversations(
    url: str,
    scenario: Callable[[Conversations, Any], Awaitable[None]],
    *,
    limits: Limits = LIMITS,
    bound: int = STORE_BYTES,
    stats: list[Stats] | None = None,
    share: Callable[[], Awaitable[float]] | None = None,
) -> None:
    async def opened(_: Streams, redis: Any) -> None:
        counting = Stats(redis)
        if stats is not None:
            stats.append(counting)
        fullness = Fullness(redis, bound)
        await scenario(
            Conversations(redis, limits, fullness.bound, counting.count, share), redis
        )

    on_streams(url, opened)


def asked(run_id: str, text: str, token: str) -> Message:
    return module.asked(run_id, [{"role": "user", "content": text}], token)


def answered(run_id: str, text: str, attempt: int = 0, status: Status = "completed") -> Message:
    parts = [{"type": "text", "part": 0, "text": text}]
    return module.answered(run_id, text, parts, attempt=attempt, status=status)


def read_back(*messages: Message) -> list[Message]:
    """Short ones as they are read for a model."""
    return [message._replace(whole=None) for message in messages]


def said(number: int, text: str = "") -> Message:
    """The user's `number`-th message."""
    return asked(f"{number:032x}", text or f"message {number}", f"token{number}")


async def texts(conversations: Conversations, place: str = PLACE) -> list[str | None]:
    return [message.content for message in await conversations.read(place)]


def test_what_is_said_is_read_again(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        assert await conversations.read(PLACE) == []
        question = asked("a" * 32, "Why? né雪🏔 \x00\n", "token")
        reply = answered("a" * 32, "")
        await conversations.add(PLACE, [question])
        await conversations.add(PLACE, [reply])
        assert await conversations.read(PLACE) == read_back(question, reply)
        assert (reply.id, reply.reply_to) == ("a" * 32, question.id)
        assert question.run_id == reply.run_id == "a" * 32

    on_conversations(streams_url, scenario)


def test_ten_messages_five_bodies_200_characters(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for number in range(23):
            await conversations.add(PLACE, [said(number, f"{number} " + "雪" * 500)])
        found = await conversations.read(PLACE)
        assert [message.run_id for message in found] == [f"{n:032x}" for n in range(13, 23)]
        assert [message.content is None for message in found] == [True] * 5 + [False] * 5
        for message in found[5:]:
            assert message.content is not None and len(message.content) == 200
            assert message.content.endswith("雪 …") and message.length == 503
        key = keys.conversation(PLACE)
        # Nothing is kept that is never read.
        assert await redis.hlen(key.bodies) == 5 and await redis.llen(key.messages) == 10

    on_conversations(streams_url, scenario)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(3, 5, 4), ["9", "10", "11"]),
        (Limits(1, 1, 4), ["11"]),
        (Limits(4, 1, 4), [None, None, None, "11"]),
        (Limits(2, 0, 4), [None, None]),
    ],
)
def test_each_bound_is_a_setting(streams_url: str, limits: Limits, expected: Any) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for number in range(12):
            await conversations.add(PLACE, [said(number, f"{number}")])
        assert await texts(conversations) == expected

    on_conversations(streams_url, scenario, limits=limits)


def test_an_emoji_is_never_torn(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1, "x" * 195 + "👩‍👩‍👧‍👦 and more")])
        assert await texts(conversations) == ["x" * 195 + " …"]

    on_conversations(streams_url, scenario)


def test_added_twice_is_there_once_in_its_place(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        first, second = said(1), said(2)
        await conversations.add(PLACE, [first])
        await conversations.add(PLACE, [second])
        # The runner adds the question again, with its answer.
        reply = answered(first.run_id, "because")
        await conversations.add(PLACE, [first._replace(token="", at_ms=1), reply])
        assert await conversations.read(PLACE) == read_back(first, second, reply)

    on_conversations(streams_url, scenario)


def test_who_has_asked_brings_the_token_also_behind_a_runner_that_was_faster(
    streams_url: str,
) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        heard = redis.pubsub()
        await heard.ssubscribe(f"run:{{{PLACE}}}")
        assert (await heard.get_message(timeout=5))["type"] == "ssubscribe"
        await conversations.add(PLACE, [asked("1" * 32, "Hi", "")])
        for token in ("open", "", "other"):
            await conversations.add(PLACE, [asked("1" * 32, "Hi", token)])
        (entry,) = await conversations.index(PLACE)
        assert entry.token == "open"
        # The second is a reason to look; what changes nothing is none.
        told = [await heard.get_message(timeout=0.5) for _ in range(3)]
        assert [one and one["type"] for one in told] == ["smessage", "smessage", None]
        await heard.aclose()

    on_conversations(streams_url, scenario)


def test_an_answer_gives_way_to_that_of_a_later_attempt(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        first, second = said(1), said(2)
        await conversations.add(PLACE, [first, answered(first.run_id, "half", 1)])
        await conversations.add(PLACE, [second])
        # Its runner died before it could announce the end: another has run it again.
        whole = answered(first.run_id, "the whole " * 50, 2)
        await conversations.add(PLACE, [first, whole])
        kept = whole._replace(content=(whole.content or "")[:198] + " …")
        assert await conversations.read(PLACE) == read_back(first, kept, second)
        # The first comes to life again; and a release that knows of no attempts.
        for late in (answered(first.run_id, "half", 1), answered(first.run_id, "half")):
            await conversations.add(PLACE, [late])
        assert await conversations.read(PLACE) == read_back(first, kept, second)
        key = keys.conversation(PLACE)
        taken = BESIDES + await redis.memory_usage(key.messages)
        taken += await redis.memory_usage(key.bodies)
        taken += await redis.memory_usage(key.wholes, samples=0)
        assert int(await redis.hget("{conversations}:bytes", PLACE)) == taken
        assert int(await redis.hget("{conversations}:bytes", "total")) == taken

    on_conversations(streams_url, scenario)


def test_a_late_answer_without_a_body_gets_none(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        first = said(1)
        await conversations.add(
            PLACE, [answered(first.run_id, "half", 1), *map(said, (3, 4, 5))]
        )
        await conversations.add(PLACE, [answered(first.run_id, "the whole", 2)])
        found = await conversations.read(PLACE)
        assert (found[0].length, found[0].content) == (9, None)
        assert await redis.hlen(keys.conversation(PLACE).bodies) == 3

    on_conversations(streams_url, scenario, limits=Limits(10, 3, 200))


def test_a_question_that_was_trimmed_away_is_known_by_its_answer(streams_url: str) -> None:
    """Its web worker comes late: the runner has added both, and others have spoken since."""

    async def scenario(conversations: Conversations, redis: Any) -> None:
        first = said(1)
        both = [first, answered(first.run_id, "so", 1)]
        await conversations.add(PLACE, both)
        await conversations.add(PLACE, [said(2)])
        there = [*read_back(both[1]), said(2).id]
        await conversations.add(PLACE, [first])
        found = await conversations.read(PLACE)
        assert [found[0], found[1].id] == there

    on_conversations(streams_url, scenario, limits=Limits(2, 2, 200))


def test_many_at_once_lose_nothing(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        everyone = [said(number) for number in range(20)]

        async def talk(message: Message) -> None:
            await conversations.add(PLACE, [message])
            await conversations.add(PLACE, [answered(message.run_id, "so")])

        await asyncio.gather(*(talk(message) for message in everyone))
        found = await conversations.read(PLACE)
        assert sorted(m.id for m in found) == sorted(
            i for m in everyone for i in (m.id, m.run_id)
        )
        at = {message.id: index for index, message in enumerate(found)}
        assert all(at[message.id] < at[message.run_id] for message in everyone)

    on_conversations(streams_url, scenario, limits=Limits(1000, 1000, 200))


def test_the_same_id_of_another_owner_or_user_is_another_conversation() -> None:
    places = {
        place_of(*names)
        for names in [
            ("ann", "", "c1"),
            ("bob", "", "c1"),
            ("ann", "u", "c1"),
            ("ann", "", "c2"),
            ("ann", "c1", ""),
            ("annu", "", "c1"),
        ]
    }
    assert len(places) == 6


def test_ten_long_messages_are_read_with_less_than_4_kb(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for _ in range(5):
            run_id = ids.new_run_id()
            question = asked(run_id, "word " * 20_000, ids.new_token())
            await conversations.add(PLACE, [question, answered(run_id, "answer " * 20_000)])
        # INFO is larger than what it is to measure: the same twice, with the reading between.
        first = (await redis.info("stats"))["total_net_output_bytes"]
        second = (await redis.info("stats"))["total_net_output_bytes"]
        found = await conversations.read(PLACE)
        third = (await redis.info("stats"))["total_net_output_bytes"]
        read = third - second - (second - first)
        assert len(found) == 10 and sum(m.content is not None for m in found) == 5
        assert 1000 < read < 4096, read

    on_conversations(streams_url, scenario)


# Lives and deletion


def test_a_conversation_lives_for_a_week_after_its_last_message(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1)])
        key = keys.conversation(PLACE)
        for name in (key.messages, key.bodies, key.wholes, *keys.CONVERSATIONS):
            assert LIFE_S - 5 <= await redis.ttl(name) <= LIFE_S
        await redis.expire(key.messages, 10)
        await conversations.add(PLACE, [said(2)])
        assert await redis.ttl(key.messages) > 10

    on_conversations(streams_url, scenario)


def test_deleting_removes_it_all_and_for_good(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        before = said(1)
        await conversations.add(PLACE, [before])
        await asyncio.sleep(0.002)  # Another millisecond.
        await conversations.delete(PLACE, remember_s=60)
        assert await conversations.read(PLACE) == []
        left = {key async for key in redis.scan_iter()} - {b"{conversations}:bytes"}
        assert left == {keys.conversation(PLACE).deletion.encode()}
        assert await redis.hgetall("{conversations}:bytes") == {b"total": b"0"}
        # What was asked before comes too late, what is asked now does not.
        late = [before, answered(before.run_id, "late")]
        await conversations.add(PLACE, late, asked_ms=before.at_ms)
        assert await conversations.read(PLACE) == []
        after = said(2)
        await conversations.add(PLACE, [after])
        both = [after, answered(after.run_id, "new")]
        await conversations.add(PLACE, both, asked_ms=after.at_ms)
        assert await conversations.read(PLACE) == read_back(*both)
        # Again.
        await conversations.delete(PLACE, remember_s=60)
        assert await conversations.read(PLACE) == []

    on_conversations(streams_url, scenario)


def test_deleting_what_never_was_leaves_nothing(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        places = [place_of("ann", "", f"c{n}") for n in range(50)]
        for place in places:
            await conversations.delete(place, remember_s=60)
        assert await redis.keys("*") == []
        # Nor what was about to come, and did not.
        for place in places:
            await conversations.announce(place, "token", life_s=60)
            await conversations.retract(place, "token")
            await conversations.delete(place, remember_s=60)
        assert await redis.keys("*") == []

    on_conversations(streams_url, scenario)


def test_deleting_holds_for_what_is_coming(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        coming = said(1)
        for token in ("a", "b"):
            await conversations.announce(PLACE, token, life_s=60)
        assert 55 <= await redis.ttl(keys.conversation(PLACE).coming) <= 60
        # One of the two was refused.
        await conversations.retract(PLACE, "a")
        await asyncio.sleep(0.002)  # Another millisecond.
        await conversations.delete(PLACE, remember_s=60)
        await conversations.add(PLACE, [coming], asked_ms=coming.at_ms)
        assert await conversations.read(PLACE) == []

    on_conversations(streams_url, scenario)


@pytest.mark.parametrize("said_already", [True, False])
def test_a_full_store_forgets_as_well(streams_url: str, said_already: bool) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.announce(PLACE, "token", life_s=60)
        if said_already:
            await conversations.add(PLACE, [said(1)])
        late = said(2)
        await asyncio.sleep(0.002)  # Another millisecond.
        with full(streams_url):
            await conversations.delete(PLACE, remember_s=60)
            await conversations.add(PLACE, [late], asked_ms=late.at_ms)
        assert await conversations.read(PLACE) == []
        # The books, too.
        assert await redis.zcard("{conversations}:idle") == 0
        assert set(await redis.hgetall("{conversations}:bytes")) <= {b"total"}
        assert await redis.hget("{conversations}:bytes", "total") in (b"0", None)

    on_conversations(streams_url, scenario)


# A quarter of the store


def test_all_of_them_take_a_quarter_and_the_longest_idle_go_first(streams_url: str) -> None:
    stats: list[Stats] = []

    async def scenario(conversations: Conversations, redis: Any) -> None:
        places = [place_of("ann", "", f"c{n}") for n in range(100)]
        start_ms = 1_700_000_000_000
        for number, place in enumerate(places):
            message = said(number, "x" * 180)._replace(at_ms=start_ms + 2 * number)
            await conversations.add(place, [message])
            # The first is heard of again and again: it is never the longest idle.
            again = said(1000 + number)._replace(at_ms=start_ms + 2 * number + 1)
            await conversations.add(places[0], [again])
        here = [place for place in places if await conversations.read(place)]
        gone = len(places) - len(here)
        assert 0 < gone < 95
        assert here == [places[0], *places[gone + 1 :]]
        totals = await counters(stats[0])
        assert totals["conversations_evicted"] == gone
        taken = 0
        for place in here:
            # Its places in the books and in the server's tables.
            taken += BESIDES
            key = keys.conversation(place)
            taken += await redis.memory_usage(key.messages)
            taken += await redis.memory_usage(key.bodies)
            taken += await redis.memory_usage(key.wholes, samples=0)
        assert taken <= bound // 4
        # The books agree with the store.
        assert int(await redis.hget("{conversations}:bytes", "total")) == taken
        assert await redis.zcard("{conversations}:idle") == len(here)
        assert await redis.hlen("{conversations}:bytes") == len(here) + 1

    bound = 240 * 1024
    on_conversations(streams_url, scenario, bound=bound, stats=stats)


def test_one_that_is_spoken_in_meanwhile_stays(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        old = said(1)._replace(at_ms=1_700_000_000_000)
        await conversations.add(PLACE, [old])
        key = keys.conversation(PLACE)
        forget = conversations._forget
        await conversations.add(PLACE, [said(2)])
        assert await forget(keys=list(key), args=[old.at_ms]) == 0
        assert len(await conversations.read(PLACE)) == 2
        assert await forget(keys=list(key), args=[2**52]) == 1
        assert await conversations.read(PLACE) == []

    on_conversations(streams_url, scenario)


def test_expired_ones_leave_the_books(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        old = said(1)._replace(at_ms=1_000_000_000_000)
        await conversations.add(PLACE, [old])
        await redis.delete(*keys.conversation(PLACE))
        other = place_of("ann", "", "c2")
        await conversations.add(other, [said(2)])
        assert await redis.zrange("{conversations}:idle", 0, -1) == [other.encode()]
        sizes = await redis.hgetall("{conversations}:bytes")
        assert sizes[b"total"] == sizes[other.encode()] and len(sizes) == 2

    on_conversations(streams_url, scenario)


def test_a_full_store_takes_the_answers_of_runs_that_are_on(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1)])
        with full(streams_url):
            await conversations.add(PLACE, [answered(said(1).run_id, "so")])
        assert len(await conversations.read(PLACE)) == 2

    on_conversations(streams_url, scenario)


# What people see


async def shown(conversations: Conversations) -> list[Whole]:
    found = await conversations.read_whole(PLACE)
    assert all(message.whole is not None for message in found)
    return [message.whole for message in found if message.whole is not None]


def test_people_see_all_of_the_ten(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        for number in range(12):
            await conversations.add(PLACE, [said(number, f"{number} " + "雪 and more " * 5000)])
        found = await conversations.read_whole(PLACE)
        assert [message.content is None for message in found] == [True] * 5 + [False] * 5
        for number, message in enumerate(found, 2):
            assert message.whole == Whole(
                [{"type": "text", "text": f"{number} " + "雪 and more " * 5000}]
            )
            assert message.length == len(message.whole.content)
        assert await redis.hlen(keys.conversation(PLACE).wholes) == 10

    on_conversations(streams_url, scenario)


def test_parts_come_back_and_a_model_gets_words(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        parts: list[dict[str, Any]] = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "file", "file": {"file_id": "f1"}},
            {"type": "of tomorrow", "x": None},
        ]
        call = {"type": "tool.call", "id": "c1", "name": "weather", "arguments": {"at": "Ulm"}}
        thought = {"type": "reasoning", "part": 0, "text": "Hm."}
        text = {"type": "text", "part": 1, "text": "Rain."}
        question = module.asked("a" * 32, [{"role": "user", "content": parts}], "token")
        answer = module.answered("a" * 32, "Rain.", [thought, call, text])
        final = module.answered("b" * 32, "Sun.", [text])
        await conversations.add(PLACE, [question, answer, final])
        assert await texts(conversations) == [
            "What is this? [image] [audio] [file] [of tomorrow]",
            "Rain.",
            "Sun.",
        ]
        assert await shown(conversations) == [
            Whole(parts),
            Whole([thought, call, text]),
            Whole([text], "Sun."),
        ]
        contents = [whole.content for whole in await shown(conversations)]
        assert contents == ["What is this?", "Rain.", "Sun."]

    on_conversations(streams_url, scenario)


def test_results_of_tools_are_what_was_asked(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        messages: list[dict[str, Any]] = [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}, {"id": "c2"}]},
            {"role": "tool", "content": "Rain.", "tool_call_id": "c1"},
            {"role": "tool", "content": "12 °C", "tool_call_id": "c2"},
        ]
        await conversations.add(PLACE, [module.asked("a" * 32, messages, "token")])
        (found,) = await conversations.read_whole(PLACE)
        assert (found.role, found.token, found.content) == ("tool", "token", "Rain.\n12 °C")
        assert found.length == len("Rain.\n12 °C")
        assert found.whole is not None and found.whole.parts == [
            {"type": "tool.result", "id": "c1", "output": "Rain."},
            {"type": "tool.result", "id": "c2", "output": "12 °C"},
        ]

    on_conversations(streams_url, scenario)


@pytest.mark.parametrize("most", range(1, 8))
def test_what_tools_gave_goes_with_the_message_that_called_them(
    streams_url: str, most: int
) -> None:
    """But for one that is being answered, in a conversation that keeps no more than it."""
    results = [{"role": "tool", "content": "Rain.", "tool_call_id": "c1"}]

    def spoken(number: int) -> list[Message]:
        """A question, a call for it, what that gave and the answer."""
        call = {"type": "tool.call", "id": "c1", "name": "weather", "arguments": "{}"}
        asking, going_on = f"{2 * number:032x}", f"{2 * number + 1:032x}"
        return [
            asked(asking, "Rain?", "token"),
            module.answered(asking, "", [call]),
            module.asked(going_on, results, "token"),
            answered(going_on, "Yes."),
        ]

    async def scenario(conversations: Conversations, redis: Any) -> None:
        said = [message for number in range(3) for message in spoken(number)]
        for count, message in enumerate(said, 1):
            await conversations.add(PLACE, [message])
            found = await conversations.read_whole(PLACE)
            length = len(found)
            assert [it.id for it in found] == [it.id for it in said[count - length : count]]
            # One less where it would begin with what a tool gave.
            is_short = length < min(most, count)
            assert length >= min(most, count) - is_short
            assert not is_short or said[count - length - 1].role == "tool"
            assert found[0].role != "tool" or length == 1
            key = keys.conversation(PLACE)
            assert await redis.hlen(key.wholes) == len(found)
            assert await redis.hlen(key.bodies) == min(len(found), LIMITS.bodies)

    on_conversations(streams_url, scenario, limits=Limits(most, LIMITS.bodies, LIMITS.length))


@pytest.mark.parametrize("status", ["cancelled", "failed"])
@pytest.mark.parametrize("text", ["half an ans", "half an answer " * 100, "雪" * 190])
def test_what_was_broken_off_is_marked(streams_url: str, status: Any, text: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [answered("a" * 32, text, 1, status)])
        (found,) = await conversations.read_whole(PLACE)
        assert found.whole is not None
        assert (found.whole.status, found.whole.content) == (status, text)
        end = f" … [{status}]"
        given = found.content or ""
        assert given.endswith(end) and len(given) <= 200
        assert text.startswith(given.removesuffix(end)) and given != end

    on_conversations(streams_url, scenario)


def test_what_has_said_nothing_says_nothing_to_a_model(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        call = {"type": "tool.call", "id": "c1", "name": "weather", "arguments": "{}"}
        broken = module.answered("a" * 32, "", [call], status="cancelled")
        await conversations.add(PLACE, [broken])
        assert await texts(conversations) == [""]
        assert await shown(conversations) == [Whole([call], None, "cancelled")]

    on_conversations(streams_url, scenario)


@pytest.mark.parametrize("chars", [1, 2, 12, 13])
def test_a_remark_never_makes_it_longer(streams_url: str, chars: int) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(
            PLACE, [said(1, "x" * 50), answered("a" * 32, "yyy", 1, "failed")]
        )
        assert all(len(text or "") <= chars for text in await texts(conversations))

    on_conversations(streams_url, scenario, limits=Limits(10, 5, chars))


def test_one_message_has_a_bound(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        noise = random.Random(1)
        text = "".join(noise.choices("abcdefghijklmnopqrstuvwxyz é雪🏔", k=800_000))
        image = {"type": "image_url", "image_url": {"url": noise.randbytes(300_000).hex()}}
        small: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}, image]
        await conversations.add(PLACE, [said(1, text), said(2, "x" * 3 * SHOWN_BYTES)])
        asking = module.asked("3" * 32, [{"role": "user", "content": small}], "token")
        large = [small[0], image, image | {"more": noise.randbytes(300_000).hex()}]
        await conversations.add(
            PLACE, [asking, module.asked("4" * 32, [{"role": "user", "content": large}], "")]
        )
        sizes = [len(it) for it in await redis.hvals(keys.conversation(PLACE).wholes)]
        assert all(size <= WHOLE_BYTES for size in sizes)
        first, second, third, fourth = await shown(conversations)
        assert first.truncated and text.startswith(first.content)
        # Most of what fits is there.
        assert max(sizes) > 0.8 * WHOLE_BYTES
        assert second.truncated and 0.8 * SHOWN_BYTES < len(second.content) < SHOWN_BYTES
        assert third == Whole(small)
        assert fourth.truncated and fourth.content == "What is this?"
        assert fourth.parts[:2] == small and "cut: it had" in fourth.parts[2]["more"]
        found = await conversations.read(PLACE)
        assert [message.length for message in found[:2]] == [800_000, 3 * SHOWN_BYTES]

    on_conversations(streams_url, scenario)


def test_where_the_store_is_nearly_full_little_is_added(streams_url: str) -> None:
    async def share() -> float:
        return 0.86

    async def scenario(conversations: Conversations, redis: Any) -> None:
        noise = random.Random(1).randbytes(50_000).hex()
        await conversations.add(PLACE, [answered("a" * 32, noise, 1)])
        (packed,) = await redis.hvals(keys.conversation(PLACE).wholes)
        assert len(packed) <= TIGHT_BYTES
        (whole,) = await shown(conversations)
        assert whole.truncated and noise.startswith(whole.content) and whole.content

    on_conversations(streams_url, scenario, share=share)


def test_what_releases_before_have_left_is_read(streams_url: str) -> None:
    """They kept an index and bodies, as these are but for what was cut."""

    async def scenario(conversations: Conversations, redis: Any) -> None:
        key, run_id = keys.conversation(PLACE), "a" * 32
        await redis.rpush(
            key.messages,
            f"{run_id}-user user 1700000000000 500 - token",
            f"{run_id} assistant 1700000000001 3 {run_id}-user 1",
        )
        await redis.hset(key.bodies, mapping={f"{run_id}-user": "x" * 200, run_id: "so."})
        for name in (key.messages, key.bodies):
            await redis.expire(name, 60)
        found = await conversations.read_whole(PLACE)
        assert [message.content for message in found] == ["x" * 200, "so."]
        assert [message.whole for message in found] == [None, None]
        await conversations.add(PLACE, [said(1)])
        assert [m.whole is None for m in await conversations.read_whole(PLACE)] == [
            True,
            True,
            False,
        ]
        assert int(await redis.hget("{conversations}:bytes", PLACE)) > BESIDES

    on_conversations(streams_url, scenario)


def test_a_damaged_whole_is_none(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1), said(2), said(3)])
        key = keys.conversation(PLACE)
        for number, damaged in enumerate((b"", b"z\x00\x01", b"j{"), 1):
            await redis.hset(key.wholes, said(number).id, damaged)
        assert [m.whole for m in await conversations.read_whole(PLACE)] == [None] * 3

    on_conversations(streams_url, scenario)


def test_what_is_asked_again_takes_the_place_of_what_was(streams_url: str) -> None:
    """And of all that was said since; the run of before may end later."""

    async def scenario(conversations: Conversations, redis: Any) -> None:
        old, since = "a" * 32, "b" * 32
        await conversations.add(PLACE, [said(1), answered(f"{1:032x}", "one")])
        await conversations.add(PLACE, [asked(old, "Why?", "t"), answered(old, "So.")])
        await conversations.add(PLACE, [asked(since, "And?", "t")])
        context = await conversations.read(PLACE)
        question = [{"role": "user", "content": "Why?"}]
        before, ids_ = conversations.before(context, question)
        assert [it.content for it in before] == ["message 1", "one"]
        assert ids_ == [f"{old}-user", old, f"{since}-user", since]
        assert conversations.before(before, question) == (before, [])
        new = "c" * 32
        await conversations.add(PLACE, [asked(new, "Why?", "t")], instead_of=ids_)
        # Both of those end now, and the new one twice.
        for run_id, text in ((old, "Why?"), (since, "And?"), (new, "Why?"), (new, "Why?")):
            ended = [asked(run_id, text, ""), answered(run_id, f"{text} Because.")]
            gone = ids_ if run_id == new else []
            await conversations.add(PLACE, ended, instead_of=gone)
        assert await texts(conversations) == ["message 1", "one", "Why?", "Why? Because."]
        await conversations.delete(PLACE, remember_s=1)
        # All of it was of messages that had gone: none is left.
        await conversations.add("other", [asked(old, "Why?", "t")], instead_of=[f"{old}-user"])
        assert await texts(conversations, "other") == []

    on_conversations(streams_url, scenario)


def test_a_question_that_was_cut_is_known_again(streams_url: str) -> None:
    async def scenario(conversations: Conversations, redis: Any) -> None:
        text = "雪 and " * 100
        await conversations.add(PLACE, [asked("a" * 32, text, "t")])
        context = await conversations.read(PLACE)
        _, gone = conversations.before(context, [{"role": "user", "content": text}])
        assert gone == ["a" * 32 + "-user", "a" * 32]

    on_conversations(streams_url, scenario)


def test_who_has_most_gives_way_first(streams_url: str) -> None:
    """Another's conversation stays, however idle it is, while one owner fills the store."""

    async def scenario(conversations: Conversations, redis: Any) -> None:
        await conversations.add(PLACE, [said(1)], owner="ann")
        old = place_of("old", "", "c")
        # Of a release that noted no owners.
        await conversations.add(old, [said(2)])
        places = [place_of("bob", "", f"c{n}") for n in range(300)]
        for place in places:
            await conversations.add(place, [said(1)], owner="bob")
        assert await conversations.read(PLACE)
        assert not await conversations.read(places[0]), "bob's were to go"
        assert await conversations.read(places[-1])
        sizes = await redis.hgetall(keys.CONVERSATIONS.sizes)
        total = int(sizes.pop(b"total"))
        assert total == sum(map(int, sizes.values())) <= bound // 4
        owners = dict(await redis.zrange(keys.CONVERSATIONS.owners, 0, -1, withscores=True))
        assert sum(owners.values()) == total
        assert await redis.hlen(keys.CONVERSATIONS.whose) == len(sizes)
        assert await redis.zcard(keys.CONVERSATIONS.by) == len(sizes)
        # What is deleted is nobody's.
        for place in (PLACE, old, *places):
            await conversations.delete(place, remember_s=60)
        for key in (keys.CONVERSATIONS.owners, keys.CONVERSATIONS.by, keys.CONVERSATIONS.whose):
            assert not await redis.exists(key)

    bound = 240 * 1024
    on_conversations(streams_url, scenario, bound=bound)
