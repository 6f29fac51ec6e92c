"""What is kept of an exchange: within its bound, in whole turns, and only what can be read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.agents import MEMORY_BYTES, AgentError, Memory, Run
from plateau_sse.agents.memory import Session
from plateau_sse.agents.memory.kept import packed, unpacked

HEAD = {"format": "f/1", "waiting": {}}


def message(role: str, size: int) -> bytes:
    return json.dumps({"role": role, "content": "x" * size}).encode()


@given(st.lists(st.lists(st.integers(0, 90_000), min_size=1, max_size=5), max_size=12))
def test_the_oldest_exchanges_give_way_whole(turns: list[list[int]]) -> None:
    told: list[bytes] = []
    begins: list[int] = []
    for number, sizes in enumerate(turns):
        begins.append(len(told))
        told += [
            message("user" if at == 0 else f"m{number}", size) for at, size in enumerate(sizes)
        ]
    value = packed(HEAD, told, begins)
    kept = unpacked(value, "f/1")["messages"]
    assert kept == [json.loads(it) for it in told[len(told) - len(kept) :]]
    if kept:
        assert kept[0]["role"] == "user"
    lost = len(told) - len(kept)
    if len(value) > MEMORY_BYTES:
        # One exchange alone: that is for the agent to be told.
        assert not begins or lost == begins[-1]
    elif lost:
        following = max(it for it in begins if it < lost)
        more = sum(len(it) + 1 for it in told[following:lost])
        assert len(value) + more > MEMORY_BYTES - 2


@pytest.mark.parametrize("value", [b"", b"\x80", b"[]", b'{"format": "g/1"}', b"null"])
def test_what_cannot_be_read_is_nothing(value: bytes) -> None:
    assert unpacked(value, "f/1") == {}


def run_of(memory: Memory | None) -> Run:
    return Run("r", "a", "", (), conversation="c", memory=memory)


def test_a_session_keeps_items_from_one_run_to_the_next() -> None:
    async def use() -> list[Any]:
        memory = Memory()
        session = Session(run_of(memory))
        items = [{"role": "user", "content": str(number)} for number in range(4)]
        await session.add_items(items)
        assert await session.pop_item() == items[3]
        assert await session.get_items(2) == items[1:3]
        assert await session.get_items(9) == items[:3] and not await session.get_items(0)
        again = Session(run_of(Memory(memory.value)))
        found = await again.get_items()
        await again.clear_session()
        assert not await again.get_items() and await again.pop_item() is None
        # Without a conversation it is a session of one run.
        await Session(run_of(None)).add_items(items)
        return found

    assert [it["content"] for it in asyncio.run(use())] == ["0", "1", "2"]


def test_a_session_goes_back_to_where_it_was() -> None:
    async def use() -> None:
        memory = Memory()
        for number in range(3):
            session = Session(run_of(memory := Memory(memory.value)))
            session.notes = True
            session.said.begin([f"d{number}"], session.size)
            for role in ("user", "assistant"):
                await session.add_items([{"role": role, "content": str(number)}])
        session = Session(run_of(Memory(memory.value)))
        session.back_to(3)
        assert session.size == 6
        session.back_to(1)
        assert [it["content"] for it in await session.get_items()] == ["0", "0"]
        # Used by hand it says nothing of who has said what.
        session = Session(run_of(memory := Memory(memory.value)))
        await session.add_items([{"role": "user", "content": "3"}])
        assert Session(run_of(Memory(memory.value))).said.turns == []
        # As releases before kept it.
        kept = json.loads(memory.value)
        del kept["said"]
        session = Session(run_of(Memory(json.dumps(kept).encode())))
        assert (session.size, session.said.turns) == (7, [])

    asyncio.run(use())


def test_one_exchange_that_does_not_fit_is_told() -> None:
    async def use() -> None:
        session = Session(run_of(Memory()))
        await session.add_items([{"role": "user", "content": "x" * MEMORY_BYTES}])

    with pytest.raises(AgentError, match="What is to be remembered has"):
        asyncio.run(use())
