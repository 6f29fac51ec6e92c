"""What becomes of an answer that a model's endpoint gives in these very bytes: executed as a
runner does, with a cache.

    told, kept = become(streams_url, cache_url, said(delta(content="Hi"), end()))
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.redis.connections import connect
from tests.executions import VERSION, Told, execute_with_cache
from tests.raw_model import raw_model
from tests.upstreams import agent_of

KEY = "0" * 32
DONE = b"data: [DONE]\n\n"


def become(
    streams_url: str, cache_url: str, body: bytes, kind: str = "text/event-stream", **job: Any
) -> tuple[Told, Answer | None]:
    """What readers are told of it, and what is in the cache afterwards."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with raw_model([head.encode() + body]) as model:
        agent = agent_of(model.base_url)
        asked = {"version": VERSION, "cache_key": KEY, **job}
        told = execute_with_cache(streams_url, cache_url, agent, **asked)

    async def look() -> Answer | None:
        client: Any = connect(cache_url, "test")
        try:
            return await Cache(client, ttl_s=60, max_bytes=1024**2).get(KEY)
        finally:
            await client.aclose()

    return told, asyncio.run(look())


def event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def said(*chunks: Any, done: bool = True) -> bytes:
    """A stream of these, each an object or the bytes of events."""
    parts = [chunk if isinstance(chunk, bytes) else event(chunk) for chunk in chunks]
    return b"".join(parts) + (DONE if done else b"")


def choice(**fields: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, **fields}]}


def delta(**fields: Any) -> dict[str, Any]:
    return choice(delta=fields, finish_reason=None)


def end(reason: Any = "stop", **fields: Any) -> dict[str, Any]:
    return choice(delta={}, finish_reason=reason, **fields)


def calls(*fragments: dict[str, Any]) -> dict[str, Any]:
    return delta(tool_calls=list(fragments))


def message(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def document(reason: str | None = "stop", **fields: Any) -> bytes:
    """The whole answer as one document, in place of a stream."""
    return json.dumps(choice(finish_reason=reason, **fields)).encode()


def call(name: str = "", arguments: Any = "", /, **fields: Any) -> dict[str, Any]:
    """A fragment of a tool call."""
    function = {**({"name": name} if name else {}), "arguments": arguments}
    return {"type": "function", "function": function, **fields}
