"""Ends that are to be posted: noted and taken also where the store is full, within a bound."""

from __future__ import annotations

from typing import Any

import pytest

from plateau_sse.errors import StoreFull
from plateau_sse.store.queue import due as module
from plateau_sse.store.queue.due import Due
from plateau_sse.store.redis import keys
from plateau_sse.store.runs.streams import Streams
from tests.store import full, on_streams


def test_a_run_need_not_wait_for_room_to_have_ended(streams_url: str) -> None:
    async def scenario(_: Streams, redis: Any) -> None:
        due = Due(redis)
        assert await due.note("noted before", 30)
        with full(streams_url):
            for run_id in ("noted before", "new"):
                assert await due.note(run_id, 0)
            assert sorted(await due.take(16)) == ["new", "noted before"]
            with pytest.raises(StoreFull):
                await due.keep("new", b"{}")
            await due.done("new")
        assert await due.body("new") is None
        assert await redis.zrange(keys.WEBHOOK.due, 0, -1) == [b"noted before"]

    on_streams(streams_url, scenario)


def test_there_is_a_most_of_both(streams_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "BODIES_MOST", 2)

    async def scenario(_: Streams, redis: Any) -> None:
        due = Due(redis)
        assert [await due.note(name, 0) for name in "abcda"] == [True, True, True, False, True]
        for name in "abca":
            await due.keep(name, name.encode() * 2)
        assert [await due.body(name) for name in "abc"] == [b"aa", b"bb", None]
        # Whoever has taken them is not done by then.
        assert sorted(await due.take(16)) == ["a", "b", "c"]
        assert await due.take(16) == []
        for key in keys.WEBHOOK:
            assert 0 < await redis.ttl(key) <= module.LIFE_S

    on_streams(streams_url, scenario)
