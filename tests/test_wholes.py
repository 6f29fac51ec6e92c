"""Messages as people see them: what is kept of one that is large."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from plateau_sse.agents import File, Reasoning, ToolCall, ToolResult
from plateau_sse.runner.yields import Call, Piece, Yields
from plateau_sse.store.conversations.conversations import Conversations, Limits, answered, asked
from plateau_sse.store.conversations.wholes import (
    HALF_BYTES,
    TIGHT_BYTES,
    WHOLE_BYTES,
    Whole,
    most_at,
    pack,
    unpack,
)
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.fullness import CLOSED, TIGHT
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import MARKS_BYTES, TAPE_BYTES
from plateau_sse.store.runs.streams import Streams
from plateau_sse.store.runs.tape import Tape
from tests.executions import LIMITS
from tests.store import on_streams

PLACE = "0" * 32
LETTERS = "abcdefghijklmnopqrstuvwxyz é雪🏔"
LOOK = {"type": "tool.call", "id": "c1", "name": "look", "arguments": {"at": 1}}


def noise(chars: int) -> str:
    return "".join(random.Random(1).choices(LETTERS, k=chars))


def base64_of(size: int, seed: int = 2) -> str:
    return base64.b64encode(random.Random(seed).randbytes(size)).decode()


def at_the_bounds() -> Tape:
    """Whatever an agent may yield, as far as it may."""
    tape, yields = Tape(), Yields("notes")

    def take(item: Any) -> None:
        match yields.take(item):
            case Piece(kind, text):
                for piece in events.pieces(text):
                    tape.add(events.delta(piece, kind))
            case Call(event=event) | (events.Event() as event):
                tape.add(event)

    take(ToolCall("c1", "look", {"at": 1}))
    for seed in range(7):
        take(File("image/png", f"data:image/png;base64,{base64_of(24_000, seed)}"))
    take(ToolResult("c1", base64_of(20_000, 7)))
    text = noise(213_000)
    take(Reasoning(text[:70_000]))
    take(text[70_000:])
    assert tape.marks_bytes > 0.95 * MARKS_BYTES and len(tape.text) > 0.95 * TAPE_BYTES
    return tape


def test_an_answer_at_its_bounds_is_shown_whole() -> None:
    tape = at_the_bounds()
    message = answered("a" * 32, tape.said(), tape.shown())
    assert message.whole is not None
    packed = pack(message.whole, message.content or "")
    assert len(packed) <= WHOLE_BYTES and unpack(packed) == message.whole


def test_a_picture_that_is_too_large_costs_nothing_else() -> None:
    small = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    large = {"type": "image_url", "image_url": {"url": base64_of(750_000)}}
    parts = [{"type": "text", "text": "a"}, large, small, {"type": "text", "text": "b"}]
    message = asked("a" * 32, [{"role": "user", "content": parts}], "token")
    assert message.whole is not None
    found = unpack(pack(message.whole, message.content or ""))
    assert found is not None and found.truncated and found.content == "ab"
    assert [part for part in found.parts if part != found.parts[1]] == [
        *(parts[0], small, parts[3])
    ]
    assert found.parts[1] == {
        "type": "image_url",
        "image_url": "[cut: it had 1,000,010 bytes]",
    }


def test_the_largest_gives_way_and_the_text_does_so_last() -> None:
    results = [
        {"type": "tool.result", "id": f"c{at}", "output": base64_of(size, at)}
        for at, size in enumerate((60, 90_000, 20_000, 3_000))
    ]
    text = noise(60_000)
    whole = Whole([LOOK, *results, {"type": "text", "part": 0, "text": text}])
    cut = [it | {"output": f"[cut: it had {len(it['output']) + 2:,} bytes]"} for it in results]
    found = unpack(pack(whole, text, 80_000))
    assert found is not None and found.truncated and found.content == text
    assert found.parts == [LOOK, results[0], cut[1], *results[2:], whole.parts[-1]]
    found = unpack(pack(whole, text, 44_000))
    assert found is not None
    assert found.parts == [LOOK, results[0], cut[1], cut[2], cut[3], whole.parts[-1]]
    found = unpack(pack(whole, text, 20_000))
    assert found is not None and found.truncated and text.startswith(found.content)
    assert len(found.parts) == 1 and len(found.content) > 20_000


@pytest.mark.parametrize("share", [0.0, TIGHT, CLOSED])
@pytest.mark.parametrize("limits", [LIMITS, Limits(1000, 5, 200)])
def test_one_conversation_is_no_more_than_the_share_of_all(
    streams_url: str, share: float, limits: Limits
) -> None:
    bound = 64 * 1024**2 // (1 if limits == LIMITS else 4)

    async def store_bound() -> int:
        return bound

    async def store_share() -> float:
        return share

    async def scenario(_: Streams, redis: Any) -> None:
        conversations = Conversations(redis, limits, store_bound, share=store_share)
        tape = at_the_bounds()
        await conversations.add(PLACE, [answered("a" * 32, tape.said(), tape.shown())])
        (packed,) = await redis.hvals(keys.conversation(PLACE).wholes)
        most = min(most_at(share), max(bound // 4 // limits.messages, TIGHT_BYTES))
        assert len(packed) <= most
        (message,) = await conversations.read_whole(PLACE)
        assert message.whole is not None and message.whole.truncated == (most < WHOLE_BYTES)

    assert (most_at(0.0), most_at(TIGHT), most_at(CLOSED)) == (
        *(WHOLE_BYTES, HALF_BYTES, TIGHT_BYTES),
    )
    on_streams(streams_url, scenario)
