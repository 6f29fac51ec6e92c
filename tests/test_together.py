"""Scripts that are sent at once: in their order, and again those that the server had not."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import NoScriptError, ResponseError

from plateau_sse.store.redis.together import Call, together
from plateau_sse.store.runs.streams import Streams
from tests.store import on_streams

COUNT = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('EXPIRE', KEYS[1], 9) return ARGV[1]"
KEY = "runs:{together}"


@pytest.mark.parametrize("known", [(), (0,), (1,), (0, 2), (0, 1), (0, 1, 2)])
def test_what_the_server_has_is_done_once_and_the_order_is_kept(
    streams_url: str, known: tuple[int, ...]
) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        await redis.script_flush()
        scripts = [redis.register_script(f"{COUNT} -- {n}") for n in range(3)]
        for number in known:
            await redis.script_load(scripts[number].script)
        calls = [Call(script, [KEY], [n]) for n, script in enumerate(scripts)]
        await together(redis, *calls)
        assert [call.reply for call in calls] == [b"0", b"1", b"2"]
        done = [int(it) for it in await redis.lrange(KEY, 0, -1)]
        missing = next((n for n in range(3) if n not in known), 3)
        # What was there before the first that was missing, what was there behind it, and that
        # again with what follows it.
        again = [n for n in known if n > missing] if missing < 3 else []
        assert done == [*range(missing), *again, *range(missing, 3)]

    on_streams(streams_url, scenario)


def test_the_first_error_among_them_is_raised(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        fails = redis.register_script("return redis.error_reply('ERR no')")
        counts = redis.register_script(COUNT)
        await redis.script_load(counts.script)
        for _ in range(2):
            with pytest.raises(ResponseError, match="no") as caught:
                await together(redis, Call(counts, [KEY], [0]), Call(fails, [KEY], []))
            assert not isinstance(caught.value, NoScriptError)

    on_streams(streams_url, scenario)
