"""What AI SDK's client sends, before anything runs; and the notes of its chats."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from plateau_sse.api import ui_chat
from plateau_sse.api.ui_request import calls_of, messages_of
from plateau_sse.errors import Problem, StoreUnavailable
from plateau_sse.store.conversations import chats as module
from plateau_sse.store.conversations.chats import LATE_S, Chat, Chats
from plateau_sse.store.redis import keys
from tests.store import on_streams

LIFE_S = 1000
ONE, OTHER = Chat("r1", "t1", "", 1), Chat("r2", "t2", "m", 2)


def test_an_id_that_nobody_keeps_is_none() -> None:
    for length, role, expected in [
        (ui_chat.CHAT_ID_CHARS, "assistant", "x" * ui_chat.CHAT_ID_CHARS),
        (ui_chat.CHAT_ID_CHARS + 1, "assistant", ""),
        (1, "user", ""),
    ]:
        assert ui_chat._message_id({"role": role, "id": "x" * length}) == expected


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("role", "part"),
    [
        ("user", {"type": "file", "url": "data:,", "mediaType": nested(990)}),
        ("assistant", {"state": "output-available", "input": nested(990), "output": 1}),
        ("assistant", {"state": "output-available", "output": nested(990)}),
        ("assistant", {"state": "output-error", "errorText": nested(990)}),
        ("assistant", {"state": "approval-responded", "approval": {"approved": nested(990)}}),
    ],
)
def test_what_nests_too_deep_is_refused(role: str, part: dict[str, Any]) -> None:
    part = {"type": "tool-f", "toolCallId": "c", **part}
    with pytest.raises(Problem) as raised:
        messages_of([{"role": role, "parts": [{"type": "text", "text": "x"}, part]}])
    assert raised.value.code == "invalid_request"
    assert raised.value.extra["field"] == "messages[0].parts[1]"


def test_the_calls_of_a_message_are_bounded() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "x"}, {"type": "tool-f"}]
    parts += [{"type": "tool-f", "toolCallId": f"c{n}"} for n in range(150)]
    parts += [{"type": "dynamic-tool", "toolName": "g", "toolCallId": "d"}]
    parts += [{"type": "tool-f", "toolCallId": "x" * 201}, {"type": "tool-f", "toolCallId": 1}]
    assert calls_of({"parts": parts}) == [*(f"c{n}" for n in range(51, 150)), "d"]
    assert calls_of({"content": "x"}) == []


@pytest.mark.parametrize(
    ("state", "is_over"),
    [
        ({"state": "input-available"}, False),
        ({"state": "approval-responded", "approval": {"approved": True}}, False),
        ({"state": "output-available", "output": 1, "preliminary": True}, False),
        ({"state": "output-available", "output": 1}, True),
        ({"state": "output-error", "errorText": "x"}, True),
        ({"state": "output-denied"}, True),
    ],
)
def test_a_call_that_has_its_result_is_over(state: dict[str, Any], is_over: bool) -> None:
    part = {"type": "tool-f", "toolCallId": "c", **state}
    assert calls_of({"parts": [part]}) == ([] if is_over else ["c"])


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_the_note_of_an_answer_that_is_there_is_short_lived(
    streams_url: str, share: float
) -> None:
    async def taken() -> float:
        return share

    async def scenario(_: Any, redis: Any) -> None:
        chats = Chats(redis, life_s=LIFE_S, share=taken)
        await chats.put("p", ONE)
        assert await redis.ttl(keys.chat("p")) > LIFE_S
        await chats.put_whole("p", OTHER)
        assert await chats.find("p") == (OTHER if share < 0.5 else None)
        assert await redis.ttl(keys.chat("p")) <= LATE_S

    on_streams(streams_url, scenario)


def test_only_the_chat_that_was_found_is_dropped(streams_url: str) -> None:
    async def none() -> float:
        return 0.0

    async def scenario(_: Any, redis: Any) -> None:
        chats = Chats(redis, life_s=LIFE_S, share=none)
        await chats.put("p", OTHER)
        await chats.drop("p", ONE)
        assert await chats.find("p") == OTHER
        await chats.drop("p", OTHER)
        assert await chats.find("p") is None

    on_streams(streams_url, scenario)


def test_nobody_waits_for_a_note_that_can_be_done_without(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)

    async def hangs() -> float:
        await asyncio.sleep(30)
        return 0.0

    async def scenario(_: Any, redis: Any) -> None:
        chats = Chats(redis, life_s=LIFE_S, share=hangs)
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await chats.put_whole("p", ONE)
        # All of them together have one patience.
        assert time.monotonic() - began < 0.9

    on_streams(streams_url, scenario)
