"""A stand-in for an OpenAI-compatible endpoint: a real HTTP server on a free port.

The name of the model in a request says how the server behaves (`MODES`); anything else is the
normal stream. Each request is recorded, with an event that is set once its client has gone.

    with fake_model() as model:
        settings = Settings(openai_base_url=model.base_url, openai_model="normal")
        ...
        await model.requests[0].wait_gone()
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

TEXT = "Plateaus are flat, wide and high. Ein Käse für 3 €. 高原 🏔"
SLOW_PIECES = 200
SLOW_S = 0.02
WAIT_S = 10.0


@dataclass(slots=True)
class Request:
    """One request that came in, over the connection of that number, `at` so many seconds of
    the wall clock. `gone` is set when its client closes before the answer ends."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int = 0
    at: float = field(default_factory=time.time)
    gone: threading.Event = field(default_factory=threading.Event)

    async def wait_gone(self, timeout_s: float = WAIT_S) -> bool:
        return await asyncio.to_thread(self.gone.wait, timeout_s)


@dataclass(slots=True)
class FakeModel:
    """`base_url` ends in /v1; `text` is what the answering modes say."""

    base_url: str
    text: str = TEXT
    requests: list[Request] = field(default_factory=list)
    connections: int = 0


Mode = Callable[[asyncio.StreamWriter, FakeModel], Awaitable[None]]


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finished(reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11}}


def _event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


async def _head(
    writer: asyncio.StreamWriter,
    status: str = "200 OK",
    kind: str = "text/event-stream",
    *,
    keep: bool = False,
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n"
    writer.write(f"{head}Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode())
    await writer.drain()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]


async def _normal(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    """And the connection stays open for the next request."""
    await _head(writer, keep=True)
    await _send(writer, b": a comment first\n\n" + _event(delta(role="assistant", content="")))
    for word in _words(model.text):
        await _send(writer, _event(delta(content=word)))
    await _send(writer, _event(finished()) + _event(USAGE) + b"data: [DONE]\n\n")
    await _end(writer)


async def _slow(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    for number in range(SLOW_PIECES):
        await _send(writer, _event(delta(content=f"{number} ")))
        await asyncio.sleep(SLOW_S)
    await _send(writer, _event(finished()) + b"data: [DONE]\n\n")
    await _end(writer)


async def _bytewise(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    """Every byte in a chunk of its own, with line ends CR LF and no space after the colon."""
    await _head(writer)
    stream = b"".join(_event(delta(content=word)) for word in _words(model.text))
    stream += _event(finished()) + _event(USAGE) + b"data: [DONE]\n\n"
    for byte in stream.replace(b"data: ", b"data:").replace(b"\n", b"\r\n"):
        await _send(writer, bytes([byte]))
    await _end(writer)


async def _tools(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    first: list[dict[str, Any]] = [
        {"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 1, "id": "call_b", "function": {"name": "clock", "arguments": "{"}},
        {"index": 0, "function": {"arguments": '"Köln"}'}},
        {"index": 1, "function": {"arguments": "}"}},
    ]
    await _head(writer)
    for fragment in first:
        await _send(writer, _event(delta(tool_calls=[fragment])))
    await _send(writer, _event(finished("tool_calls")) + _event(USAGE) + b"data: [DONE]\n\n")
    await _end(writer)


async def _plain(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    message = {"role": "assistant", "content": model.text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    await _head(writer, kind="application/json; charset=utf-8")
    await _send(writer, json.dumps({**USAGE, "choices": [choice]}).encode())
    await _end(writer)


async def _no_done(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, _event(delta(content=model.text)) + _event(finished()))
    await _end(writer)


async def _halves(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    """A character of two UTF-16 units, escaped, one unit in each chunk."""
    await _head(writer)
    for half in (rb"\ud83c", rb"\udfd4"):
        await _send(writer, b'data: {"choices":[{"delta":{"content":"' + half + b'"}}]}\n\n')
    await _send(writer, b"data: [DONE]\n\n")
    await _end(writer)


async def _cut(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, _event(delta(content="half an ans")))
    writer.transport.abort()


async def _unfinished(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, _event(delta(content="half an ans")))
    await _end(writer)


async def _malformed(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, _event(delta(content="ok")) + b'data: {"choices": [\n\n')
    await _end(writer)


async def _endless(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, b"data: ")
    for _ in range(257):
        await _send(writer, b"x" * 65_536)
    await _end(writer)


async def _error_object(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, _event(delta(content="ok")))
    await _send(writer, _event({"error": {"message": "the model ran out of memory"}}))
    await _end(writer)


async def _silent(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer)
    await _send(writer, _event(delta(content="wait")))
    await asyncio.Event().wait()


async def _html(writer: asyncio.StreamWriter, model: FakeModel) -> None:
    await _head(writer, kind="text/html")
    await _send(writer, b"<html>sign in</html>")
    await _end(writer)


def _status(status: str, body: str) -> Mode:
    async def answer(writer: asyncio.StreamWriter, model: FakeModel) -> None:
        await _head(writer, status, "application/json")
        await _send(writer, body.encode())
        await _end(writer)

    return answer


MODES: dict[str, Mode] = {
    "normal": _normal,
    "slow": _slow,
    # The second request over a connection finds it closed.
    "stale": _normal,
    "bytewise": _bytewise,
    "tools": _tools,
    "plain": _plain,
    "no-done": _no_done,
    "halves": _halves,
    "cut": _cut,
    "unfinished": _unfinished,
    "malformed": _malformed,
    "endless": _endless,
    "error-object": _error_object,
    "silent": _silent,
    "html": _html,
    "307": _status("307 Temporary Redirect", "{}"),
    "400": _status("400 Bad Request", '{"error": {"message": "no such parameter"}}'),
    "401": _status("401 Unauthorized", '{"error": {"message": "bad key: sk-secret-key"}}'),
    "429": _status("429 Too Many Requests", '{"error": "slow down"}'),
    "500": _status("500 Internal Server Error", "x" * 5000),
}


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split()[1], headers, json.loads(body or b"{}"))


async def _serve(
    model: FakeModel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    model.connections += 1
    number, served = model.connections, 0
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            request = await _read_request(reader)
            request.connection = number
            model.requests.append(request)
            mode = MODES.get(str(request.body.get("model")), _normal)
            if mode is not _normal:
                break
            if served and request.body["model"] == "stale":
                writer.transport.abort()
                return
            await mode(writer, model)
            served += 1
        answer = asyncio.ensure_future(mode(writer, model))
        # A client sends nothing more: the next thing to be read is its end.
        end = asyncio.ensure_future(reader.read(1))
        done, _ = await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
        if answer not in done:
            request.gone.set()
        for task in (answer, end):
            task.cancel()
        await asyncio.gather(answer, end, return_exceptions=True)
    writer.close()
    with suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()


async def _listen(model: FakeModel) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_serve(model, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    model.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield
    server.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await server.wait_closed()


@contextmanager
def fake_model(text: str = TEXT) -> Iterator[FakeModel]:
    """Runs the server in a thread with a loop of its own; stops it on leaving."""
    model = FakeModel("", text)
    listening = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        async for _ in _listen(model):
            listening.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert listening.wait(WAIT_S), "the fake model did not start"
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        loop.close()
